//! Reservations between hosts on several cores, their notices, and their life after a power loss.

use std::path::PathBuf;
use std::sync::Arc;

use mdof::bdev::Device;
use mdof::bdev::delay::DelayDevice;
use mdof::initiator::Data;
use mdof::target::reservation::Reservation;
use mdof::target::subsystem::Persistence;
use mdof::wire::nvme::Status;
use uuid::Uuid;

use crate::rig::{BLOCK, Host, LIMIT, NQN, Queue, Rig, command, io, log, malloc};

const REGISTER: u8 = 0x0d;
const REPORT: u8 = 0x0e;
const ACQUIRE: u8 = 0x11;
const RELEASE: u8 = 0x15;
const CONFLICT: Status = Status::RESERVATION_CONFLICT.dnr();

fn reserve(queue: &mut Queue, opcode: u8, cdw10: u32, keys: [u64; 2]) -> Status {
    reserve_of(queue, 1, opcode, cdw10, keys)
}

fn reserve_of(queue: &mut Queue, nsid: u32, opcode: u8, cdw10: u32, keys: [u64; 2]) -> Status {
    let data = keys.map(u64::to_le_bytes).concat();
    let len = if opcode == RELEASE { 8 } else { 16 };
    queue.send(command(opcode, nsid, cdw10, 0, 0), &data[..len])
}

fn report(queue: &mut Queue) -> Vec<u8> {
    queue.get(command(REPORT, 1, 4096 / 4 - 1, 1, 0), 4096).unwrap()
}

fn open(rig: &Rig, name: &str) -> (Host, [Queue; 2]) {
    let mut host = rig.connect(rig.options(&format!("nqn.2026-01.io.mdof:{name}")));
    host.client.request_queues(2).unwrap();
    let queues = [host.queue(1), host.queue(2)];
    (host, queues)
}

#[test]
fn a_reservation_holds_for_every_command_of_every_queue() {
    let rig = Rig::plain();
    let (host_a, mut a) = open(&rig, "host---a");
    let (host_b, mut b) = open(&rig, "host---b");
    let block = [5; BLOCK];
    assert_eq!(reserve(&mut a[0], REGISTER, 0, [0, 10]), Status::SUCCESS);
    assert_eq!(reserve(&mut a[1], ACQUIRE, 1 << 8, [10, 0]), Status::SUCCESS);
    for queue in &mut a {
        assert_eq!(queue.write(0, &block), Status::SUCCESS);
    }
    for queue in &mut b {
        assert_eq!(queue.read(0, 1), block, "write exclusive");
        assert_eq!(queue.plain(io(0x0c, 0, 1)), Status::SUCCESS, "Verify");
        assert_eq!(queue.send(io(0x05, 0, 1), &block), Status::SUCCESS, "Compare");
        assert_eq!(queue.write(0, &[6; BLOCK]), CONFLICT);
        assert_eq!(queue.plain(io(0x08, 0, 1)), CONFLICT, "Write Zeroes");
        assert_eq!(queue.plain(io(0x00, 0, 1)), CONFLICT, "Flush");
        assert_eq!(queue.send(command(0x09, 1, 0, 4, 0), &[0; 16]), CONFLICT, "DSM");
        assert_eq!(queue.send(command(0x19, 1, 9, 0, 0), &[0; 32]), CONFLICT, "Copy");
        for (mut sqe, part) in [(io(0x05, 0, 1), 1), (io(0x01, 0, 1), 2)] {
            sqe.flags = part;
            let data = queue.data_from(&block);
            queue.pair.submit(sqe, data, part.into());
        }
        let ended = [(); 2].map(|()| queue.pair.wait("the fused pair", LIMIT).unwrap());
        let ended = ended.map(|done| (done.tag, done.status()));
        assert_eq!(ended, [(1, Status::FAILED_FUSED), (2, CONFLICT)]);
    }
    assert_eq!(reserve(&mut b[1], ACQUIRE, 2 << 8, [0, 0]), CONFLICT, "not registered");
    assert_eq!(reserve(&mut b[1], REGISTER, 0, [0, 11]), Status::SUCCESS);
    assert_eq!(reserve(&mut b[0], ACQUIRE, 1 | 2 << 8, [11, 10]), Status::SUCCESS, "preempt");
    for queue in &mut a {
        assert_eq!(queue.write(0, &block), CONFLICT);
        let read = queue.get(io(0x02, 0, 1), BLOCK);
        assert_eq!(read, Err(CONFLICT), "exclusive access");
    }
    assert_eq!(b[1].write(0, &[7; BLOCK]), Status::SUCCESS);
    let data = report(&mut a[0]);
    assert_eq!(data[..10], [3, 0, 0, 0, 2, 1, 0, 0, 0, 0]);
    assert_eq!((data[66], data[72], &data[80..88]), (1, 11, &b"host---b"[..]));
    assert_eq!(reserve(&mut b[0], RELEASE, 2 << 8, [11, 0]), Status::SUCCESS);
    assert_eq!(a[1].write(0, &block), Status::SUCCESS);
    let short = a[0].get(command(REPORT, 1, 3, 0, 0), 16);
    assert_eq!(short, Err(Status::HOST_ID_INCONSISTENT.dnr()));
    drop((a, b, host_a, host_b));
    rig.stop();
}

#[test]
fn a_preempted_host_has_nothing_under_way_when_the_command_is_answered() {
    let rig = Rig::new([256, 32, 16, 2], |engine| {
        let base = malloc(engine, "m0", 4096);
        let geometry = engine.geometry(base).unwrap().clone();
        let slow = DelayDevice::new("slow", Uuid::new_v4(), base, &geometry, [0, 0, 200_000, 0]);
        vec![engine.add_bdev(Device::Delay(slow)).unwrap()]
    });
    let (host_a, mut a) = open(&rig, "host---a");
    let (host_b, mut b) = open(&rig, "host---b");
    for (queue, key) in [(&mut a[0], 10), (&mut b[0], 11)] {
        assert_eq!(reserve(queue, REGISTER, 0, [0, key]), Status::SUCCESS);
    }
    for (queue, lba) in a.iter_mut().zip([0, 1]) {
        let data = queue.data_from(&[9; BLOCK]);
        queue.pair.submit(io(0x01, lba, 1), data, 0);
        while queue.pair.poll().unwrap() {}
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    let began = std::time::Instant::now();
    assert_eq!(reserve(&mut b[0], ACQUIRE, 2 | 1 << 8, [11, 10]), Status::SUCCESS);
    assert!(began.elapsed().as_millis() < 100, "only registrations went: nothing to wait for");
    assert_eq!(reserve(&mut b[0], ACQUIRE, 1 << 8, [11, 0]), Status::SUCCESS);
    assert_eq!(b[0].read(0, 2), [9; 2 * BLOCK], "what was under way has come first");
    drop((a, b, host_a, host_b));
    rig.stop();
}

/// A reservation that waits for what its bdev has under way holds up no other namespace's.
#[test]
fn a_slow_bdev_holds_up_its_own_reservation_only() {
    let rig = Rig::new([256, 32, 16, 2], |engine| {
        let base = malloc(engine, "m0", 4096);
        let geometry = engine.geometry(base).unwrap().clone();
        let delays_us = [0, 0, 2_000_000, 2_000_000];
        let slow = DelayDevice::new("slow", Uuid::new_v4(), base, &geometry, delays_us);
        let slow = engine.add_bdev(Device::Delay(slow)).unwrap();
        vec![slow, malloc(engine, "m1", 4096)]
    });
    let (host_a, mut a) = open(&rig, "host---a");
    let (host_b, mut b) = open(&rig, "host---b");
    assert_eq!(reserve(&mut b[0], REGISTER, 0, [0, 11]), Status::SUCCESS);
    let data = a[0].data_from(&[9; BLOCK]);
    a[0].pair.submit(io(0x01, 0, 1), data, 0);
    while a[0].pair.poll().unwrap() {}
    std::thread::sleep(std::time::Duration::from_millis(50));
    let began = std::time::Instant::now();
    let keys = b[0].data_from(&[11_u64, 0].map(u64::to_le_bytes).concat());
    b[0].pair.submit(command(ACQUIRE, 1, 1 << 8, 0, 0), keys, 7);
    while b[0].pair.poll().unwrap() {}
    for round in 0..10 {
        assert_eq!(reserve_of(&mut b[1], 2, REGISTER, 0, [0, 12]), Status::SUCCESS);
        assert_eq!(reserve_of(&mut b[1], 2, ACQUIRE, 1 << 8, [12, 0]), Status::SUCCESS);
        assert_eq!(reserve_of(&mut b[1], 2, RELEASE, 1 << 8, [12, 0]), Status::SUCCESS);
        assert_eq!(reserve_of(&mut b[1], 2, REGISTER, 1, [12, 0]), Status::SUCCESS, "{round}");
    }
    assert!(began.elapsed().as_millis() < 1000, "it has waited for the other's bdev");
    // Commands of the same namespace stay in their order.
    assert_eq!(reserve(&mut b[1], RELEASE, 1 << 8, [11, 0]), Status::SUCCESS);
    assert!(began.elapsed().as_millis() > 1500, "behind the change that waits");
    let acquired = b[0].pair.wait("Acquire", LIMIT).unwrap();
    assert_eq!((acquired.tag, acquired.status()), (7, Status::SUCCESS));
    assert_eq!(a[1].write(1, &[9; BLOCK]), Status::SUCCESS, "released again");
    drop((a, b, host_a, host_b));
    rig.stop();
}

#[test]
fn hosts_are_told_what_was_taken_from_them() {
    let rig = Rig::plain();
    let (mut host_a, mut a) = open(&rig, "host---a");
    let (host_b, mut b) = open(&rig, "host---b");
    let aer = command(0x0c, 0, 0, 0, 0);
    host_a.client.admin().submit(aer, Data::None, 77);
    assert_eq!(reserve(&mut a[0], REGISTER, 0, [0, 10]), Status::SUCCESS);
    assert_eq!(reserve(&mut b[0], REGISTER, 0, [0, 11]), Status::SUCCESS);
    assert_eq!(reserve(&mut a[0], ACQUIRE, 3 << 8, [10, 0]), Status::SUCCESS);
    assert_eq!(reserve(&mut b[0], ACQUIRE, 1 | 3 << 8, [11, 10]), Status::SUCCESS);
    let told = host_a.client.admin().wait("the event", LIMIT).unwrap();
    assert_eq!((told.tag, told.cqe.result.get()), (77, 0x80_0006));
    let kinds = [(); 3].map(|()| host_a.admin_read(log(0x80, 64), 64).unwrap()[8]);
    assert_eq!(kinds, [1, 3, 0], "registration and reservation preempted, no more");
    drop((a, b, host_a, host_b));
    rig.stop();
}

/// A target whose namespace keeps its reservation in this file.
fn persistent(path: &PathBuf, id: Uuid) -> Rig {
    let mut rig = Rig::plain();
    rig.table.remove_ns(NQN, 1).unwrap();
    rig.publish();
    let (bdev, geometry) = rig.only_bdev();
    let mut spec = mdof::target::subsystem::NamespaceSpec::new(bdev, &geometry);
    spec.uuid = Some(id);
    rig.table.add_ns(NQN, &spec).unwrap();
    let restored = std::fs::read_to_string(path).ok();
    let restored = restored.map(|text| Reservation::restore(&text, id).unwrap());
    let path = path.display().to_string();
    rig.table.set_persistence(NQN, 1, Persistence { path, restored }).unwrap();
    rig.engine.publish(Arc::new(rig.table.clone()));
    rig
}

#[test]
fn a_reservation_persists_through_power_loss_if_asked_to() {
    let id = Uuid::new_v4();
    let path = std::env::temp_dir().join(format!("mdof-ptpl-{id}"));
    for (persist, survives) in [(3, true), (2, false)] {
        let rig = persistent(&path, id);
        let (mut host, mut a) = open(&rig, "host---a");
        let status = reserve(&mut a[0], REGISTER, persist << 30, [0, 10]);
        assert_eq!(status, Status::SUCCESS);
        assert_eq!(reserve(&mut a[1], ACQUIRE, 1 << 8, [10, 0]), Status::SUCCESS);
        let get = host.admin(command(0x0a, 1, 0x83, 0, 0));
        assert_eq!(get, (Status::SUCCESS, u64::from(survives)));
        drop((a, host));
        rig.stop();

        let rig = persistent(&path, id);
        let (host_b, mut b) = open(&rig, "host---b");
        let expected = if survives { CONFLICT } else { Status::SUCCESS };
        assert_eq!(b[1].write(0, &[1; BLOCK]), expected, "before any reservation command");
        let (mut host_a, mut a) = open(&rig, "host---a");
        if survives {
            assert_eq!(a[0].write(0, &[1; BLOCK]), Status::SUCCESS, "still the holder");
            let off = host_a.admin(command(0x09, 1, 0x83, 0, 0));
            assert_eq!(off.0, Status::SUCCESS);
            assert_eq!(b[0].write(0, &[1; BLOCK]), CONFLICT, "that ends nothing by itself");
        }
        drop((a, b, host_a, host_b));
        rig.stop();
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn without_a_place_nothing_can_persist() {
    let rig = Rig::plain();
    let (mut host, mut a) = open(&rig, "host---a");
    let invalid = Status::INVALID_FIELD.dnr();
    assert_eq!(reserve(&mut a[0], REGISTER, 3 << 30, [0, 10]), invalid);
    assert_eq!(host.admin(command(0x09, 1, 0x83, 1, 0)).0, invalid);
    assert_eq!(host.admin(command(0x0a, 1, 0x83, 0, 0)), (Status::SUCCESS, 0));
    assert_eq!(host.admin(command(0x0a, 9, 0x83, 0, 0)).0, Status::INVALID_NAMESPACE.dnr());
    drop((a, host));
    rig.stop();
}

/// Set Features with the NSID of all namespaces.
#[test]
fn a_feature_of_all_namespaces_is_set_for_each() {
    const ALL: u32 = u32::MAX;
    let mut rig = Rig::new([256, 32, 16, 2], |engine| {
        ["m0", "m1", "m2"].map(|name| malloc(engine, name, 4096)).to_vec()
    });
    let id = Uuid::new_v4();
    let path = |nsid: u32| {
        let name = format!("mdof-all-{id}-{nsid}");
        std::env::temp_dir().join(name).display().to_string()
    };
    let (mut host, mut a) = open(&rig, "host---a");
    let invalid = Status::INVALID_FIELD.dnr();
    assert_eq!(host.admin(command(0x09, ALL, 0x83, 1, 0)).0, invalid, "none can persist");
    assert_eq!(host.admin(command(0x09, ALL, 0x83, 0, 0)).0, Status::SUCCESS, "none does");
    for nsid in [1, 3] {
        let place = Persistence { path: path(nsid), restored: None };
        rig.table.set_persistence(NQN, nsid, place).unwrap();
    }
    rig.publish();
    for (fid, on, seen) in [(0x83, 1, [1, 0, 1]), (0x82, 0b1110, [0b1110; 3])] {
        for (value, seen) in [(on, seen), (0, [0; 3]), (on, seen)] {
            let set = host.admin(command(0x09, ALL, fid, value, 0));
            assert_eq!(set.0, Status::SUCCESS, "{fid:#x}");
            let each = [1, 2, 3].map(|nsid| host.admin(command(0x0a, nsid, fid, 0, 0)));
            assert_eq!(each, seen.map(|value| (Status::SUCCESS, value)), "{fid:#x}");
        }
        assert_eq!(host.admin(command(0x0a, ALL, fid, 0, 0)).0, invalid, "no value for all");
    }
    assert_eq!(reserve_of(&mut a[0], 3, REGISTER, 0, [0, 10]), Status::SUCCESS);
    drop((a, host));
    rig.stop();
    for (nsid, registrants) in [(1, 0), (3, 1)] {
        let kept = std::fs::read_to_string(path(nsid)).unwrap();
        assert_eq!(kept.matches("registrant ").count(), registrants, "{nsid}: {kept}");
        assert_eq!(kept.matches("persists").count(), 1, "{nsid}: {kept}");
        std::fs::remove_file(path(nsid)).unwrap();
    }
}

//! Commands beside Read and Write: Compare, fused Compare and Write, Verify, Copy.

use std::sync::atomic::{AtomicBool, Ordering};

use mdof::bdev::Device;
use mdof::bdev::delay::DelayDevice;
use mdof::bdev::error::{ErrorDevice, ErrorKind, Injection};
use mdof::initiator::Data;
use mdof::wire::nvme::Status;
use uuid::Uuid;

use crate::rig::{BLOCK, LIMIT, Queue, Rig, command, io, log, malloc};

const COMPARE: u8 = 0x05;
const VERIFY: u8 = 0x0c;
const COPY: u8 = 0x19;

fn pattern(blocks: usize, seed: u8) -> Vec<u8> {
    (0..blocks * BLOCK).map(|n| u8::try_from(n / BLOCK % 251).unwrap() ^ seed).collect()
}

#[test]
fn compare_and_verify() {
    let rig = Rig::plain();
    let mut host = rig.host();
    let mut queue = host.queue(1);
    let data = pattern(256, 3);
    assert_eq!(queue.write(100, &data), Status::SUCCESS);
    assert_eq!(queue.send(io(COMPARE, 100, 256), &data), Status::SUCCESS);
    assert_eq!(queue.send(io(COMPARE, 101, 1), &data[BLOCK..2 * BLOCK]), Status::SUCCESS);
    let differs = queue.send(io(COMPARE, 101, 256), &data);
    assert_eq!(differs, Status::COMPARE_FAILURE.dnr());
    assert_eq!(queue.plain(io(VERIFY, 0, 4096)), Status::SUCCESS, "in pieces");
    assert_eq!(queue.plain(io(VERIFY, 1, 4096)), Status::LBA_OUT_OF_RANGE.dnr());
    drop((queue, host));
    rig.stop();
}

fn copy_data(ranges: &[(u64, u16)]) -> Vec<u8> {
    let mut data = vec![0; 32 * ranges.len()];
    for (entry, &(lba, blocks)) in data.chunks_exact_mut(32).zip(ranges) {
        entry[8..16].copy_from_slice(&lba.to_le_bytes());
        entry[16..18].copy_from_slice(&(blocks - 1).to_le_bytes());
    }
    data
}

fn copy(queue: &mut Queue, to: u32, ranges: &[(u64, u16)]) -> (Status, u64) {
    let count = u32::try_from(ranges.len() - 1).unwrap();
    let data = queue.data_from(&copy_data(ranges));
    let sqe = command(COPY, 1, to, 0, count);
    let done = queue.pair.execute("Copy", sqe, data, LIMIT).unwrap();
    (done.status(), done.cqe.result.get())
}

#[test]
fn copy_gathers_its_sources_and_keeps_its_limits() {
    let rig = Rig::new([256, 32, 16, 2], |engine| vec![malloc(engine, "m0", 65_536)]);
    let mut host = rig.host();
    let mut queue = host.queue(1);
    let data = pattern(300, 9);
    assert_eq!(queue.write(0, &data[..128 * 1024]), Status::SUCCESS);
    assert_eq!(queue.write(256, &data[128 * 1024..]), Status::SUCCESS);
    assert_eq!(copy(&mut queue, 5000, &[(299, 1), (0, 300)]), (Status::SUCCESS, 0));
    assert_eq!(queue.read(5000, 1), data[299 * BLOCK..]);
    assert_eq!(queue.read(5001, 256), data[..256 * BLOCK]);
    assert_eq!(queue.read(5257, 45), [&data[256 * BLOCK..], &[0; BLOCK]].concat());
    let limit = Status::COMMAND_SIZE_LIMIT_EXCEEDED.dnr();
    assert_eq!(copy(&mut queue, 5000, &[(0, 2049)]).0, limit, "MSSRL");
    assert_eq!(copy(&mut queue, 40_000, &[(0, 2048); 16]).0, Status::LBA_OUT_OF_RANGE.dnr());
    assert_eq!(copy(&mut queue, 20_000, &[(0, 2048); 17]).0, limit, "MCL");
    assert_eq!(copy(&mut queue, 20_000, &[(0, 1); 129]).0, limit, "MSRC");
    let overlap = Status::OVERLAPPING_IO_RANGE.dnr();
    assert_eq!(copy(&mut queue, 10, &[(50, 1), (9, 3)]).0, overlap);
    assert_eq!(copy(&mut queue, 10, &[(65_535, 2)]).0, Status::LBA_OUT_OF_RANGE.dnr());
    let mut format_2 = command(COPY, 1, 0, 0, 2 << 8);
    format_2.nsid.set(1);
    assert_eq!(queue.send(format_2, &copy_data(&[(5, 1)])), Status::INVALID_FIELD.dnr());
    drop((queue, host));
    rig.stop();
}

#[test]
fn media_errors_are_told_counted_and_listed() {
    let mut device = None;
    let rig = Rig::new([256, 32, 16, 2], |engine| {
        let base = malloc(engine, "m0", 4096);
        let geometry = engine.geometry(base).unwrap().clone();
        let error = ErrorDevice::new("bad", Uuid::new_v4(), base, &geometry);
        device = Some(error.clone());
        vec![engine.add_bdev(Device::Error(error)).unwrap()]
    });
    let mut host = rig.host();
    let mut queue = host.queue(1);
    let data = pattern(4, 1);
    device
        .unwrap()
        .inject(None, Injection { kind: ErrorKind::Failure, count: u32::MAX, lbas: None });
    let unread = Status::UNRECOVERED_READ_ERROR.dnr();
    assert_eq!(queue.send(io(COMPARE, 7, 4), &data), unread);
    assert_eq!(queue.plain(io(VERIFY, 8, 4)), unread);
    assert_eq!(copy(&mut queue, 100, &[(0, 4)]), (unread, 0));
    assert_eq!(queue.write(9, &data), Status::WRITE_FAULT.dnr());
    let smart = host.admin_read(log(0x02, 512), 512).unwrap();
    assert_eq!((smart[160], smart[176]), (1, 4), "media errors, error log entries");
    let errors = host.admin_read(log(0x01, 256), 256).unwrap();
    let told: Vec<_> =
        errors.chunks_exact(64).map(|entry| (entry[0], entry[8], entry[16], entry[31])).collect();
    assert_eq!(told, [(4, 1, 9, 1), (3, 1, 100, COPY), (2, 1, 8, VERIFY), (1, 1, 7, COMPARE)]);
    drop((queue, host));
    rig.stop();
}

/// What is longer than a request to a bdev may be is several: all of them must have ended well.
#[test]
fn a_command_of_a_mebibyte() {
    const BLOCKS: u32 = 2048;
    let mut device = None;
    let rig = Rig::new([256, 32, 16, 2], |engine| {
        let base = malloc(engine, "m0", 8192);
        let geometry = engine.geometry(base).unwrap().clone();
        let error = ErrorDevice::new("bad", Uuid::new_v4(), base, &geometry);
        device = Some(error.clone());
        vec![engine.add_bdev(Device::Error(error)).unwrap()]
    });
    let mut host = rig.host();
    assert_eq!(host.client.info().mdts_bytes, 1 << 20);
    let mut queue = host.queue(1);
    let data = pattern(BLOCKS as usize, 3);
    assert_eq!(queue.write(3, &data), Status::SUCCESS);
    assert_eq!(queue.read(3, BLOCKS), data);
    assert_eq!(queue.send(io(COMPARE, 3, BLOCKS), &data), Status::SUCCESS);
    assert_eq!(queue.send(io(COMPARE, 4, BLOCKS), &data), Status::COMPARE_FAILURE.dnr());
    // A piece that is not whole: 257 blocks are 256 and one.
    assert_eq!(queue.write(3000, &data[..257 * BLOCK]), Status::SUCCESS);
    assert_eq!(queue.read(3000, 258), [&data[..257 * BLOCK], &[0; BLOCK]].concat());
    // The last block of all.
    let lbas = Some((u64::from(BLOCKS) + 2, u64::from(BLOCKS) + 3));
    device.unwrap().inject(None, Injection { kind: ErrorKind::Failure, count: u32::MAX, lbas });
    let read = queue.get(io(0x02, 3, BLOCKS), data.len());
    assert_eq!(read, Err(Status::UNRECOVERED_READ_ERROR.dnr()));
    assert_eq!(queue.write(3, &data), Status::WRITE_FAULT.dnr());
    assert_eq!(queue.read(3, BLOCKS - 1), data[..data.len() - BLOCK]);
    drop((queue, host));
    rig.stop();
}

/// Submits a fused Compare and Write of one block and waits for both.
fn compare_and_write(queue: &mut Queue, lba: u32, old: &[u8], new: &[u8]) -> [Status; 2] {
    let data = [queue.data_from(old), queue.data_from(new)];
    fused(queue, [io(COMPARE, lba, 1), io(0x01, lba, 1)], data)
}

fn fused(queue: &mut Queue, sqes: [mdof::wire::nvme::Sqe; 2], data: [Data; 2]) -> [Status; 2] {
    for ((mut sqe, data), part) in sqes.into_iter().zip(data).zip(1..) {
        sqe.flags = part;
        queue.pair.submit(sqe, data, u64::from(part));
    }
    let mut statuses = [Status::SUCCESS; 2];
    for _ in 0..2 {
        let done = queue.pair.wait("a fused operation", LIMIT).unwrap();
        statuses[usize::try_from(done.tag - 1).unwrap()] = done.status();
    }
    statuses
}

#[test]
fn fused_compare_and_write() {
    let rig = Rig::plain();
    let mut host = rig.host();
    let mut queue = host.queue(1);
    let [zero, one, two] = [0, 1, 2].map(|n| [n; BLOCK]);
    let both = |status| [status, Status::SUCCESS];
    assert_eq!(compare_and_write(&mut queue, 5, &zero, &one), both(Status::SUCCESS));
    assert_eq!(queue.read(5, 1), one);
    let failed = [Status::COMPARE_FAILURE.dnr(), Status::FAILED_FUSED];
    assert_eq!(compare_and_write(&mut queue, 5, &zero, &two), failed);
    assert_eq!(queue.read(5, 1), one);
    let data = || [[0; 2 * BLOCK]; 2];
    let [a, b] = data().map(|bytes| queue.data_from(&bytes));
    let large = fused(&mut queue, [io(COMPARE, 5, 2), io(0x01, 5, 2)], [a, b]);
    assert_eq!(large, [Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr(), Status::FAILED_FUSED]);
    let [a, b] = [zero, one].map(|bytes| queue.data_from(&bytes));
    let elsewhere = fused(&mut queue, [io(COMPARE, 6, 1), io(0x01, 7, 1)], [a, b]);
    assert_eq!(elsewhere, [Status::INVALID_FIELD.dnr(), Status::FAILED_FUSED]);
    let [a, b] = [zero, one].map(|bytes| queue.data_from(&bytes));
    let outside = fused(&mut queue, [io(COMPARE, 6, 1), io(0x01, 4096, 1)], [a, b]);
    assert_eq!(outside, [Status::FAILED_FUSED, Status::LBA_OUT_OF_RANGE.dnr()]);
    assert_eq!(queue.read(6, 1), zero);
    drop((queue, host));
    rig.stop();
}

/// A target whose reads take a while, so that there is time between compare and write.
fn slow_reads() -> Rig {
    Rig::new([256, 32, 16, 2], |engine| {
        let base = malloc(engine, "m0", 4096);
        let geometry = engine.geometry(base).unwrap().clone();
        let slow = DelayDevice::new("slow", Uuid::new_v4(), base, &geometry, [300, 300, 0, 0]);
        vec![engine.add_bdev(Device::Delay(slow)).unwrap()]
    })
}

/// Several hosts on several cores count with it, while another writes around it.
#[test]
fn fused_operations_are_atomic_against_each_other() {
    const EACH: u32 = 100;
    let rig = slow_reads();
    let stop = AtomicBool::new(false);
    let total: u32 = std::thread::scope(|scope| {
        let counters: Vec<_> = (0..3)
            .map(|n| {
                let options = rig.options(&format!("nqn.2026-01.io.mdof:counter{n}"));
                scope.spawn(move || count_up(options, EACH))
            })
            .collect();
        let options = rig.options("nqn.2026-01.io.mdof:writer00");
        let stop = &stop;
        scope.spawn(move || write_beside(options, stop));
        let total = counters.into_iter().map(|one| one.join().unwrap()).sum();
        stop.store(true, Ordering::Relaxed);
        total
    });
    let mut host = rig.host();
    let mut queue = host.queue(1);
    let end = queue.read(50, 1);
    assert_eq!(u32::from_le_bytes(end[..4].try_into().unwrap()), total);
    assert_eq!(total, 3 * EACH);
    drop((queue, host));
    rig.stop();
}

/// Plain writes to the block of fused operations: each is seen by the next comparison, or comes
/// after the write.
#[test]
fn fused_operations_are_atomic_against_writes() {
    let rig = slow_reads();
    let stop = AtomicBool::new(false);
    let (replaced, lost) = std::thread::scope(|scope| {
        let options = rig.options("nqn.2026-01.io.mdof:counter1");
        let stop = &stop;
        let swapper = scope.spawn(move || swap(options, stop));
        let options = rig.options("nqn.2026-01.io.mdof:writer01");
        let lost = scope.spawn(move || write_and_look(options)).join().unwrap();
        stop.store(true, Ordering::Relaxed);
        (swapper.join().unwrap(), lost)
    });
    assert!(replaced.len() > 20 && lost.len() > 2, "{} {}", replaced.len(), lost.len());
    for number in lost {
        assert!(replaced.contains(&number), "write {number} was overwritten without being seen");
    }
    rig.stop();
}

fn numbered(number: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..4].copy_from_slice(&number.to_le_bytes());
    block
}

fn number_of(block: &[u8]) -> u32 {
    u32::from_le_bytes(block[..4].try_into().unwrap())
}

/// Replaces the number in block 60 by even ones; returns those it replaced.
fn swap(options: mdof::initiator::ClientOptions, stop: &AtomicBool) -> Vec<u32> {
    let mut host = own_host(options);
    let mut queue = host.queue(1);
    let mut replaced = Vec::new();
    let mut next = 2;
    while !stop.load(Ordering::Relaxed) {
        let old = queue.read(60, 1);
        let done = compare_and_write(&mut queue, 60, &old, &numbered(next));
        if done == [Status::SUCCESS; 2] {
            replaced.push(number_of(&old));
            next += 2;
        }
    }
    replaced
}

/// Writes odd numbers to block 60; returns those that were not there a moment later.
fn write_and_look(options: mdof::initiator::ClientOptions) -> Vec<u32> {
    let mut host = own_host(options);
    let mut queue = host.queue(1);
    let mut lost = Vec::new();
    for number in (1..401).step_by(2) {
        assert_eq!(queue.write(60, &numbered(number)), Status::SUCCESS);
        std::thread::sleep(std::time::Duration::from_micros(u64::from(number) * 37 % 4000));
        if number_of(&queue.read(60, 1)) != number {
            lost.push(number);
        }
    }
    lost
}

fn own_host(options: mdof::initiator::ClientOptions) -> crate::rig::Host {
    let pool = mdof::reactor::buf::BufPool::on_heap([32, 4, 4, 0]);
    let client = mdof::initiator::Client::connect(options, pool).unwrap();
    crate::rig::Host { client, pool }
}

/// Increments the number in block 50 until it has done so `times` times.
fn count_up(options: mdof::initiator::ClientOptions, times: u32) -> u32 {
    let mut host = own_host(options);
    let mut queue = host.queue(1);
    let mut done = 0;
    while done < times {
        let old = queue.read(50, 1);
        let mut new = old.clone();
        let number = u32::from_le_bytes(old[..4].try_into().unwrap());
        new[..4].copy_from_slice(&(number + 1).to_le_bytes());
        match compare_and_write(&mut queue, 50, &old, &new) {
            [Status::SUCCESS, Status::SUCCESS] => done += 1,
            [first, Status::FAILED_FUSED] => assert_eq!(first, Status::COMPARE_FAILURE.dnr()),
            other => panic!("{other:?}"),
        }
    }
    done
}

/// Writes the neighbours of block 50 for as long as the others count, and zeroes and copies.
fn write_beside(options: mdof::initiator::ClientOptions, stop: &AtomicBool) {
    let mut host = own_host(options);
    let mut queue = host.queue(1);
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(queue.write(48, &[7; 2 * BLOCK]), Status::SUCCESS);
        assert_eq!(queue.plain(io(0x08, 51, 3)), Status::SUCCESS);
        assert_eq!(copy(&mut queue, 51, &[(200, 2)]).0, Status::SUCCESS);
        assert_eq!(queue.plain(io(0x00, 0, 1)), Status::SUCCESS, "flush");
    }
}

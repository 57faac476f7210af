//! Two listeners with ANA states, and namespaces that come, go and are shown to some hosts, while
//! commands run.

use mdof::initiator::{Client, Data};
use mdof::target::subsystem::{AnaState, SubsystemSpec};
use mdof::wire::nvme::Status;

use crate::rig::{BLOCK, HOST, Host, LIMIT, NQN, Rig, command, free_address, io, log, malloc};

fn ana_rig() -> (Rig, std::net::SocketAddr) {
    let mut rig = Rig::plain();
    rig.table.delete_subsystem(NQN).unwrap();
    let spec =
        SubsystemSpec { allow_any_host: true, ana_reporting: true, ..SubsystemSpec::new(NQN) };
    rig.table.create_subsystem(&spec).unwrap();
    let second = free_address();
    for address in [rig.address, second] {
        rig.table.add_listener(NQN, address).unwrap();
    }
    let (bdev, _) = rig.only_bdev();
    rig.add_ns(bdev);
    rig.publish();
    rig.engine.listen(second).unwrap();
    (rig, second)
}

#[test]
fn an_inaccessible_path_refuses_io_and_the_other_goes_on() {
    let (mut rig, second) = ana_rig();
    let mut first_host = rig.host();
    let mut options = rig.options(HOST);
    options.addr = second;
    let client = Client::connect(options, rig.pool).unwrap();
    let mut second_host = Host { client, pool: rig.pool };
    let mut by_first = first_host.queue(1);
    let mut by_second = second_host.queue(1);
    assert_eq!(first_host.admin(command(0x09, 0, 0x0b, 1 << 11, 0)).0, Status::SUCCESS);
    first_host.client.admin().submit(command(0x0c, 0, 0, 0, 0), Data::None, 9);
    assert_eq!(by_first.write(0, &[1; BLOCK]), Status::SUCCESS);
    for state in [AnaState::Inaccessible, AnaState::NonOptimized] {
        rig.table.set_ana_state(NQN, rig.address, None, state).unwrap();
        rig.publish();
        let refused = state == AnaState::Inaccessible;
        let expected = if refused { Status::ANA_INACCESSIBLE } else { Status::SUCCESS };
        assert_eq!(by_first.write(0, &[2; BLOCK]), expected, "{state:?}");
        assert_eq!(by_first.plain(io(0x0c, 0, 1)), expected, "Verify, {state:?}");
        assert_eq!(by_second.write(0, &[3; BLOCK]), Status::SUCCESS);
        if refused {
            let told = first_host.client.admin().wait("the event", LIMIT).unwrap();
            assert_eq!((told.tag, told.cqe.result.get()), (9, 0x0c_0302));
        }
        let page = first_host.admin_read(log(0x0c, 52), 52).unwrap();
        assert_eq!((page[8], page[16], page[32]), (1, 1, state as u8));
    }
    let page = second_host.admin_read(log(0x0c, 52), 52).unwrap();
    assert_eq!(page[32], AnaState::Optimized as u8);
    drop((by_first, by_second, first_host, second_host));
    rig.stop();
}

#[test]
fn namespaces_come_and_go_under_io() {
    let mut other = None;
    let mut rig = Rig::new([256, 32, 16, 2], |engine| {
        other = Some(malloc(engine, "m1", 4096));
        vec![malloc(engine, "m0", 4096)]
    });
    let other = other.unwrap();
    let mut host = rig.host();
    let mut queue = host.queue(1);
    assert_eq!(host.admin(command(0x09, 0, 0x0b, 1 << 8, 0)).0, Status::SUCCESS);
    let to_second = |lba| command(0x01, 2, lba, 0, 0);
    let invalid = Status::INVALID_NAMESPACE.dnr();
    for round in 0..20 {
        host.client.admin().submit(command(0x0c, 0, 0, 0, 0), Data::None, round);
        assert_eq!(queue.send(to_second(0), &[1; BLOCK]), invalid);
        // Commands are under way while the namespace comes and goes.
        for lba in 0..16 {
            let data = queue.data_from(&[2; BLOCK]);
            queue.pair.submit(to_second(lba), data, 100);
            queue.pair.poll().unwrap();
            if lba == 4 {
                assert_eq!(rig.add_ns(other), 2);
                rig.publish();
            }
            if lba == 12 {
                rig.table.remove_ns(NQN, 2).unwrap();
                rig.publish();
            }
        }
        for _ in 0..16 {
            let status = queue.pair.wait("a write", LIMIT).unwrap().status();
            assert!(status.is_success() || status == invalid, "{status:?}");
        }
        let told = host.client.admin().wait("the event", LIMIT).unwrap();
        assert_eq!((told.tag, told.cqe.result.get()), (round, 0x04_0002));
        let changed = host.admin_read(log(0x04, 4096), 4096).unwrap();
        assert_eq!(changed[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(queue.write(0, &[3; BLOCK]), Status::SUCCESS, "the other namespace is there");
    }
    drop((queue, host));
    rig.stop();
}

#[test]
fn a_masked_namespace_takes_commands_of_its_hosts_only() {
    let mut rig = Rig::plain();
    rig.table.mask_ns(NQN, 1).unwrap();
    rig.table.show_ns(NQN, 1, "nqn.2026-01.io.mdof:guest001").unwrap();
    rig.publish();
    let mut guest = rig.connect(rig.options("nqn.2026-01.io.mdof:guest001"));
    let mut stranger = rig.connect(rig.options("nqn.2026-01.io.mdof:guest002"));
    let (mut allowed, mut refused) = (guest.queue(1), stranger.queue(1));
    assert_eq!(allowed.write(0, &[1; BLOCK]), Status::SUCCESS);
    assert_eq!(refused.write(0, &[1; BLOCK]), Status::INVALID_NAMESPACE.dnr());
    rig.table.hide_ns(NQN, 1, "nqn.2026-01.io.mdof:guest001").unwrap();
    rig.table.show_ns(NQN, 1, "nqn.2026-01.io.mdof:guest002").unwrap();
    rig.publish();
    assert_eq!(allowed.write(0, &[1; BLOCK]), Status::INVALID_NAMESPACE.dnr());
    assert_eq!(refused.write(0, &[1; BLOCK]), Status::SUCCESS);
    drop((allowed, refused, guest, stranger));
    rig.stop();
}

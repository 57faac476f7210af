use super::*;
use crate::wire::nvme::opcode::admin;

fn get(controller: &mut Controller, table: &SubsystemTable, size: u32, offset: u32) -> u64 {
    let sqe = property(fctype::PROPERTY_GET, size, offset, 0);
    run(controller, table, &sqe, 0).unwrap().1
}

#[test]
fn states_follow_cc() {
    let table = table_with(&[geometry(512)]);
    let mut controller = disabled(&table, NQN);
    assert_eq!(get(&mut controller, &table, 8, 0) & 0xffff, 127, "CAP.MQES");
    assert_eq!(get(&mut controller, &table, 4, 8), 0x2_0000, "VS");
    assert_eq!(get(&mut controller, &table, 4, 0x1c), 0);
    let identify = command(admin::IDENTIFY, 0, 1, 0);
    let early = run(&mut controller, &table, &identify, 4096);
    assert_eq!(early, Err(Status::COMMAND_SEQUENCE_ERROR));
    // Linux sets the entry sizes first, then EN.
    assert_eq!(set_cc(&mut controller, &table, 0x0046_0060), Effect::None);
    assert_eq!(controller.state(), ControllerState::Disabled);
    assert_eq!(set_cc(&mut controller, &table, 0x0046_0061), Effect::None);
    assert_eq!(get(&mut controller, &table, 4, 0x1c), 1, "CSTS.RDY");
    assert_eq!(get(&mut controller, &table, 4, 0x14), 0x0046_0061, "CC");
    controller.attach_io_queue(&request(NQN, 1, 1)).unwrap();
    assert_eq!(set_cc(&mut controller, &table, 0x0046_4061), Effect::CloseIoQueues);
    assert_eq!(get(&mut controller, &table, 4, 0x1c), 1 | 2 << 2, "CSTS.SHST complete");
    assert_eq!(controller.io_queue_count(), 0);
    let late = run(&mut controller, &table, &identify, 4096);
    assert_eq!(late, Err(Status::COMMAND_SEQUENCE_ERROR));
    set_cc(&mut controller, &table, 0x0046_0060);
    assert_eq!(controller.state(), ControllerState::Disabled);
    set_cc(&mut controller, &table, 0x0046_0061);
    assert_eq!(set_cc(&mut controller, &table, 0x0046_0060), Effect::CloseIoQueues, "reset");
}

/// What CSTS says after each write of CC (Base 2.1, section 3.1.4.5 and 3.1.4.6).
#[test]
fn shutdown_notices_are_taken_whether_the_controller_is_enabled_or_not() {
    const OFF: u64 = 0x0046_0060;
    const ON: u64 = OFF | 1;
    const NORMAL: u64 = 1 << 14;
    const ABRUPT: u64 = 2 << 14;
    const RDY: u64 = 1;
    const SHUT: u64 = 2 << 2;
    const CASES: &[(&str, &[(u64, u64)])] = &[
        ("never enabled", &[(OFF | NORMAL, SHUT), (OFF, 0), (ON, RDY)]),
        ("abrupt", &[(ON, RDY), (ON | ABRUPT, RDY | SHUT), (ON, RDY | SHUT), (OFF, 0), (ON, RDY)]),
        // EN set and SHN cleared by one write starts it again.
        ("not enabled, started at once", &[(OFF | ABRUPT, SHUT), (ON, RDY)]),
        ("with the reset", &[(ON, RDY), (OFF | NORMAL, SHUT), (ON, RDY)]),
        // RDY may not come while a shutdown is reported.
        ("enabled while it is shut down", &[(ON | NORMAL, SHUT), (ON, SHUT), (OFF, 0), (ON, RDY)]),
        ("late", &[(OFF | NORMAL, SHUT), (ON | NORMAL, SHUT), (ON, SHUT), (OFF, 0)]),
        // A reset clears what a shutdown before it has left.
        ("reset", &[(ON, RDY), (ON | NORMAL, RDY | SHUT), (OFF | NORMAL, 0), (ON, RDY)]),
        ("failed", &[(1, 2), (OFF | NORMAL, SHUT), (ON, RDY)]),
    ];
    let table = table_with(&[geometry(512)]);
    for (name, writes) in CASES {
        let mut controller = disabled(&table, NQN);
        for (cc, csts) in *writes {
            set_cc(&mut controller, &table, *cc);
            assert_eq!(get(&mut controller, &table, 4, 0x1c), *csts, "{name}: {cc:#x}");
            assert_eq!(get(&mut controller, &table, 4, 0x14), *cc, "{name}: CC");
        }
    }
}

/// A write that both resets and shuts down does both.
#[test]
fn a_shutdown_with_the_reset_forgets_what_a_reset_forgets() {
    let table = table_with(&[geometry(512)]);
    let mut controller = ready(&table, NQN);
    controller.attach_io_queue(&request(NQN, 1, 1)).unwrap();
    assert_eq!(set(&mut controller, &table, 0x0b, 1 << 8), Ok(0));
    assert_eq!(set_cc(&mut controller, &table, 0x0046_4060), Effect::CloseIoQueues);
    assert_eq!(controller.io_queue_count(), 0);
    set_cc(&mut controller, &table, 0x0046_0061);
    let get = command(admin::GET_FEATURES, 0, 0x0b, 0);
    assert_eq!(run(&mut controller, &table, &get, 0).unwrap().1, 0, "its events are off");
}

#[test]
fn a_configuration_that_cap_lacks_is_fatal_until_reset() {
    let table = table_with(&[]);
    for cc in [0x0000_0001, 0x0046_0011, 0x0046_0081, 0x0046_0801, 0x0045_0001] {
        let mut controller = disabled(&table, NQN);
        set_cc(&mut controller, &table, cc);
        assert_eq!(get(&mut controller, &table, 4, 0x1c), 2, "CSTS.CFS for {cc:#x}");
        set_cc(&mut controller, &table, 0x0046_0061);
        assert_eq!(controller.state(), ControllerState::Failed);
        set_cc(&mut controller, &table, 0);
        set_cc(&mut controller, &table, 0x0046_0001);
        assert_eq!(controller.state(), ControllerState::Ready);
    }
}

#[test]
fn unknown_properties_and_commands() {
    let table = table_with(&[]);
    let mut controller = ready(&table, NQN);
    let invalid = Err(Status::INVALID_FIELD.dnr());
    for (kind, size, offset) in [
        (fctype::PROPERTY_GET, 4, 0),
        (fctype::PROPERTY_GET, 8, 0x14),
        (fctype::PROPERTY_GET, 4, 0x20),
        (fctype::PROPERTY_GET, 4, u32::MAX),
        (fctype::PROPERTY_SET, 4, 0x1c),
        (fctype::PROPERTY_SET, 8, 0x14),
    ] {
        let sqe = property(kind, size, offset, 0);
        assert_eq!(run(&mut controller, &table, &sqe, 0), invalid, "{kind} {size} {offset:#x}");
    }
    for opcode in [0x00, 0x01, 0x05, 0x0d, 0x10, 0x80, 0xff] {
        let sqe = command(opcode, 0, 0, 0);
        let status = run(&mut controller, &table, &sqe, 0).unwrap_err();
        assert_eq!(status, Status::INVALID_OPCODE.dnr(), "{opcode:#x}");
    }
    let (again, _) = connect_bytes(NQN, 0, CNTLID_DYNAMIC);
    let status = run(&mut controller, &table, &again, 1024).unwrap_err();
    assert_eq!(status, Status::COMMAND_SEQUENCE_ERROR.dnr());
    let abort = command(admin::ABORT, 0, 5 << 16 | 1, 0);
    assert_eq!(run(&mut controller, &table, &abort, 0), Ok((vec![], 1)), "not aborted");
    let mut discovery = ready_discovery(&table);
    let status = run(&mut discovery, &table, &abort, 0).unwrap_err();
    assert_eq!(status, Status::INVALID_OPCODE.dnr());
}

#[test]
fn keep_alive_expires_and_is_restarted() {
    let table = table_with(&[]);
    let mut controller = ready(&table, NQN);
    assert_eq!(controller.kato_ms(), 5000, "4500 rounded up to KAS");
    assert!(!controller.check_keep_alive(6000));
    assert!(controller.check_keep_alive(6001));
    let sqe = command(admin::KEEP_ALIVE, 0, 0, 0);
    let _ = controller.admin(&at(&table, 6000), &sqe, &mut []);
    assert!(!controller.check_keep_alive(11_000));
    assert!(controller.check_keep_alive(11_001));
    assert!(!controller.check_keep_alive(0), "a clock that steps back ends nothing");
    let sqe = command(admin::SET_FEATURES, 0, 0x0f, u32::MAX);
    run(&mut controller, &table, &sqe, 0).unwrap();
    assert_eq!(controller.kato_ms(), 4_294_967_000);
    let sqe = command(admin::SET_FEATURES, 0, 0x0f, 0);
    run(&mut controller, &table, &sqe, 0).unwrap();
    assert!(!controller.check_keep_alive(u64::MAX), "0 is no timeout");
}

#[test]
fn io_commands_keep_the_host_alive() {
    let table = table_with(&[]);
    let mut controller = ready(&table, NQN);
    let grant = controller.attach_io_queue(&request(NQN, 1, 1)).unwrap();
    assert!(!controller.check_keep_alive(5000));
    grant.traffic.count_read(4096);
    assert!(!controller.check_keep_alive(7000), "a read since the last look");
    assert!(!controller.check_keep_alive(12_000));
    assert!(controller.check_keep_alive(12_001), "nothing since 7000");
    grant.traffic.count_other();
    controller.detach_io_queue(1);
    assert!(!controller.check_keep_alive(12_002), "the last command of a queue that has ended");
    assert!(!controller.check_keep_alive(17_002));
    assert!(controller.check_keep_alive(17_003));
}

#[test]
fn abort_finds_held_requests_and_is_limited() {
    let table = table_with(&[]);
    let c = &mut ready(&table, NQN);
    for cid in 30..33 {
        let mut sqe = command(admin::ASYNC_EVENT_REQUEST, 0, 0, 0);
        sqe.cid.set(cid);
        assert_eq!(c.admin(&at(&table, 0), &sqe, &mut []), AdminOutcome::HoldAsyncEvent);
    }
    let abort = |qid: u32, cid: u32| command(admin::ABORT, 0, cid << 16 | qid, 0);
    assert_eq!(run(c, &table, &abort(0, 31), 0), Ok((vec![], 0)), "aborted");
    assert_eq!(run(c, &table, &abort(0, 99), 0), Ok((vec![], 1)), "there is none");
    let ended = c.next_async_event().unwrap();
    assert_eq!((ended.cid, ended.status), (31, Status::ABORT_REQUESTED));
    assert_eq!(c.next_async_event(), None, "the others are still held");
    c.forget_async_events();
    c.abort_async_events();
    assert_eq!(c.next_async_event(), None, "the host has given up the others");
    assert_eq!(run(c, &table, &abort(1, 5), 0), Ok((vec![], 1)), "no such queue");
    let _grant = c.attach_io_queue(&request(NQN, 1, 1)).unwrap();
    for _ in 0..4 {
        let outcome = c.admin(&at(&table, 0), &abort(1, 5), &mut []);
        assert_eq!(outcome, AdminOutcome::Abort { qid: 1, cid: 5 });
    }
    let fifth = run(c, &table, &abort(1, 5), 0);
    assert_eq!(fifth, Err(Status::ABORT_LIMIT_EXCEEDED), "ACL is 3, 0's based");
    assert_eq!((c.abort_ended(true), c.abort_ended(false)), (0, 1));
    let outcome = c.admin(&at(&table, 0), &abort(1, 5), &mut []);
    assert_eq!(outcome, AdminOutcome::Abort { qid: 1, cid: 5 });
}

fn feature(
    controller: &mut Controller,
    table: &SubsystemTable,
    cdw10: u32,
    cdw11: u32,
) -> Result<u64, Status> {
    let sqe = command(admin::GET_FEATURES, 0, cdw10, cdw11);
    run(controller, table, &sqe, 16).map(|(_, result)| result)
}

fn set(
    controller: &mut Controller,
    table: &SubsystemTable,
    cdw10: u32,
    value: u32,
) -> Result<u64, Status> {
    let sqe = command(admin::SET_FEATURES, 0, cdw10, value);
    run(controller, table, &sqe, 0).map(|(_, result)| result)
}

#[test]
fn features() {
    let table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    assert_eq!(set(c, &table, 7, 0x0003_0007), Ok(0x0003_0003), "the smaller of SQs and CQs");
    assert_eq!(feature(c, &table, 7, 0), Ok(0x0003_0003));
    assert_eq!(set(c, &table, 7, 0xfffe_fffe), Ok(0x007f_007f));
    assert_eq!(set(c, &table, 7, 0xffff_0001), Err(Status::INVALID_FIELD.dnr()));
    assert_eq!(set(c, &table, 7, 0x0003_0003), Ok(0x0003_0003));
    let fifth = request(NQN, 5, 1);
    assert!(c.attach_io_queue(&fifth).is_err(), "only four were granted");
    c.attach_io_queue(&request(NQN, 4, 1)).unwrap();
    assert_eq!(set(c, &table, 7, 0), Err(Status::COMMAND_SEQUENCE_ERROR.dnr()));
    assert_eq!(set(c, &table, 0x8000_0001, 0), Err(Status::FEATURE_NOT_SAVEABLE.dnr()));
    assert_eq!(set(c, &table, 6, 0), Err(Status::FEATURE_NOT_CHANGEABLE.dnr()));
    assert_eq!(set(c, &table, 6, 1), Ok(0));
    assert_eq!(feature(c, &table, 6, 0), Ok(1));
    assert_eq!(set(c, &table, 2, 1), Err(Status::INVALID_FIELD.dnr()), "power state 1");
    assert_eq!(set(c, &table, 0x81, 1), Err(Status::COMMAND_SEQUENCE_ERROR.dnr()));
    assert_eq!(set(c, &table, 8, 0), Err(Status::INVALID_FIELD.dnr()), "no interrupts here");
    assert_eq!(set(c, &table, 0x0b, 0x100), Ok(0));
    assert_eq!(feature(c, &table, 0x0b, 0), Ok(0x100));
    assert_eq!(feature(c, &table, 0x10b, 0), Ok(0), "default");
    assert_eq!(feature(c, &table, 0x30b, 0), Ok(4), "changeable, not saveable");
    let nsid_0 = feature(c, &table, 0x305, 0);
    assert_eq!(nsid_0, Ok(6), "and namespace specific");
    assert_eq!(feature(c, &table, 0x70b, 0), Err(Status::INVALID_FIELD.dnr()), "reserved SEL");
    assert_eq!(set(c, &table, 4, 0x0010_0111), Ok(0), "under temperature");
    assert_eq!(feature(c, &table, 4, 0), Ok(0xffff));
    assert_eq!(feature(c, &table, 4, 0x0010_0000), Ok(0x111));
    assert_eq!(set(c, &table, 4, 0x0001_0111), Err(Status::INVALID_FIELD.dnr()), "sensor 1");
    let exhid = command(admin::GET_FEATURES, 0, 0x81, 1);
    assert_eq!(run(c, &table, &exhid, 16), Ok((vec![7; 16], 0)));
    assert_eq!(run(c, &table, &exhid, 8), Err(Status::DATA_SGL_LENGTH_INVALID.dnr()));
    let mut per_ns = command(admin::SET_FEATURES, 1, 0x0b, 0);
    let status = run(c, &table, &per_ns, 0).unwrap_err();
    assert_eq!(status, Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr());
    per_ns.nsid.set(9);
    assert_eq!(run(c, &table, &per_ns, 0), Err(Status::INVALID_NAMESPACE.dnr()));
    // Get Features takes any: `nvme get-feature` names the namespace of its device.
    for nsid in [1, 9, u32::MAX] {
        let of_all = command(admin::GET_FEATURES, nsid, 0x0b, 0);
        assert_eq!(run(c, &table, &of_all, 0), Ok((vec![], 0x100)), "NSID {nsid:#x}");
    }
    let d = &mut ready_discovery(&table);
    assert_eq!(set(d, &table, 7, 0), Err(Status::INVALID_FIELD.dnr()));
    assert_eq!(set(d, &table, 0x0b, 1 << 31), Ok(0));
}

/// Features by name, whether they belong to namespaces, and whether discovery controllers have
/// them.
const NAMED: [(u8, &str, bool, bool); 13] = [
    (0x01, "arbitration", false, false),
    (0x02, "power management", false, false),
    (0x04, "temperature threshold", false, false),
    (0x05, "error recovery", true, false),
    (0x06, "volatile write cache", false, false),
    (0x07, "number of queues", false, false),
    (0x0a, "write atomicity normal", false, false),
    (0x0b, "asynchronous event configuration", false, true),
    (0x0f, "keep alive timer", false, true),
    (0x16, "host behavior support", false, false),
    (0x81, "host identifier", false, false),
    (0x82, "reservation notification mask", true, false),
    (0x83, "reservation persistence", true, false),
];

#[test]
fn every_feature_is_there_or_said_to_be_absent() {
    let table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    let d = &mut ready_discovery(&table);
    let page = |c: &mut Controller| {
        let sqe = command(admin::GET_LOG_PAGE, 0, 0x12 | 255 << 16, 0);
        run(c, &table, &sqe, 1024).unwrap().0
    };
    let said = [page(c), page(d)];
    for fid in 0..=u8::MAX {
        let known = NAMED.iter().find(|named| named.0 == fid);
        let (name, of_namespace) = known.map_or(("none", false), |named| (named.1, named.2));
        let there = [known.is_some(), known.is_some_and(|named| named.3)];
        // EXHID for the host identifier.
        let get = command(admin::GET_FEATURES, u32::from(of_namespace), fid.into(), 1);
        for (controller, (is_there, said)) in
            [&mut *c, &mut *d].into_iter().zip(there.iter().zip(&said))
        {
            let works = match controller.admin(&at(&table, 0), &get, &mut [0; 512]) {
                AdminOutcome::Complete { status, .. } => {
                    let refused = status == Status::INVALID_FIELD.dnr();
                    assert!(refused || status.is_success(), "{fid:#x} ({name}): {status:?}");
                    !refused
                }
                AdminOutcome::Reservation { nsid: 1, .. } => fid == 0x83,
                other => panic!("{other:?}"),
            };
            assert_eq!(works, *is_there, "{fid:#x} ({name})");
            assert_eq!(said[usize::from(fid) * 4] & 1 != 0, *is_there, "{fid:#x} ({name})");
        }
    }
    // Those that keep what they are told, and are not looked at elsewhere.
    for (fid, value) in [(0x01, 0x0302_0105), (0x02, 0), (0x0a, 1)] {
        assert_eq!(
            (set(c, &table, fid, value), feature(c, &table, fid, 0)),
            (Ok(0), Ok(value.into()))
        );
    }
    assert_eq!((set(c, &table, 0x0f, 7001), feature(c, &table, 0x0f, 0)), (Ok(0), Ok(8000)));
}

#[test]
fn time_limits_belong_to_namespaces() {
    let table = table_with(&[geometry(512), geometry(512)]);
    let c = &mut ready(&table, NQN);
    let get = |c: &mut Controller, nsid| {
        let sqe = command(admin::GET_FEATURES, nsid, 5, 0);
        run(c, &table, &sqe, 0).map(|(_, result)| result)
    };
    let set = |c: &mut Controller, nsid, value| {
        let sqe = command(admin::SET_FEATURES, nsid, 5, value);
        run(c, &table, &sqe, 0).map(|_| ())
    };
    assert_eq!(set(c, 2, 7), Ok(()));
    assert_eq!((get(c, 1), get(c, 2)), (Ok(0), Ok(7)));
    assert_eq!(set(c, u32::MAX, 9), Ok(()));
    assert_eq!((get(c, 1), get(c, 2)), (Ok(9), Ok(9)));
    assert_eq!(set(c, 1, 1 << 16), Err(Status::INVALID_FIELD.dnr()), "DULBE");
    assert_eq!(set(c, 3, 1), Err(Status::INVALID_NAMESPACE.dnr()));
    assert_eq!(get(c, u32::MAX), Err(Status::INVALID_NAMESPACE.dnr()));
}

#[test]
fn host_behavior_takes_what_it_supports() {
    let table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    let mut data = vec![0; 512];
    data[0] = 1;
    let sqe = command(admin::SET_FEATURES, 0, 0x16, 0);
    let mut set = |data: &mut [u8]| match c.admin(&at(&table, 0), &sqe, data) {
        AdminOutcome::Complete { status, .. } => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(set(&mut data), Status::SUCCESS);
    data[4] = 1 << 2;
    assert_eq!(set(&mut data), Status::INVALID_FIELD.dnr(), "copy descriptor format 2");
    data[4] = 0;
    data[1] = 2;
    assert_eq!(set(&mut data), Status::INVALID_FIELD.dnr());
    assert_eq!(set(&mut data[..500]), Status::DATA_SGL_LENGTH_INVALID.dnr());
    let (data, _) = run(c, &table, &command(admin::GET_FEATURES, 0, 0x16, 0), 512).unwrap();
    assert_eq!((data.len(), data[0], data[1]), (512, 1, 0));
}

#[test]
fn a_default_that_is_data_is_sent() {
    let table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    for select in [1, 2] {
        for (fid, len) in [(0x16, 512), (0x81, 16)] {
            let sqe = command(admin::GET_FEATURES, 0, fid | select << 8, 1);
            assert_eq!(run(c, &table, &sqe, 512), Ok((vec![0; len], 0)), "{fid:#x} {select}");
        }
        let narrow = command(admin::GET_FEATURES, 0, 0x81 | select << 8, 0);
        assert_eq!(run(c, &table, &narrow, 512), Err(Status::INVALID_FIELD.dnr()));
    }
}

#[test]
fn no_cache_no_cache_feature() {
    let mut plain = geometry(512);
    plain.volatile_write_cache = false;
    let table = table_with(&[plain]);
    let c = &mut ready(&table, NQN);
    assert_eq!(feature(c, &table, 6, 0), Err(Status::INVALID_FIELD.dnr()));
    assert_eq!(set(c, &table, 6, 1), Err(Status::INVALID_FIELD.dnr()));
}

fn identify(
    c: &mut Controller,
    table: &SubsystemTable,
    nsid: u32,
    cns: u32,
) -> Result<Vec<u8>, Status> {
    let sqe = command(admin::IDENTIFY, nsid, cns, 0);
    run(c, table, &sqe, 4096).map(|(data, _)| data)
}

fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(data[at..at + 2].try_into().unwrap())
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(data[at..at + 4].try_into().unwrap())
}

#[test]
fn identify_controller_has_every_field_in_its_place() {
    let table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    let data = identify(c, &table, 0, 1).unwrap();
    assert_eq!(data.len(), 4096);
    assert_eq!(&data[4..24], b"SN1                 ");
    assert_eq!(&data[24..44], b"mdof bdev Controller");
    assert_eq!(&data[64..67], b"0.1");
    assert_eq!((data[76], data[77], u16_at(&data, 78)), (3, 8, 1), "CMIC, MDTS, CNTLID");
    assert_eq!(u32_at(&data, 80), 0x2_0000, "VER");
    assert_eq!(u32_at(&data, 92), 1 << 8, "OAES");
    assert_eq!(u32_at(&data, 96), 1 | 1 << 6 | 1 << 18, "CTRATT: 128-bit host id, TBKAS, RHII");
    assert_eq!(data[111], 1, "CNTRLTYPE");
    assert_eq!((data[258], data[259], data[261]), (3, 3, 6), "ACL, AERL, LPA");
    assert_eq!(u16_at(&data, 320), 10, "KAS");
    assert_eq!((data[512], data[513], u16_at(&data, 514)), (0x66, 0x44, 128), "MAXCMD");
    assert_eq!(u32_at(&data, 516), 32, "NN");
    let oncs = 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8;
    assert_eq!(u16_at(&data, 520), oncs, "Compare, DSM, WZ, Select, Reservations, Verify, Copy");
    assert_eq!((u16_at(&data, 522), u16_at(&data, 532), u16_at(&data, 534)), (1, 0, 1), "fused");
    assert_eq!(data[525], 5, "VWC");
    assert_eq!(u32_at(&data, 536), 0x30_0001, "SGLS");
    assert_eq!(&data[768..768 + NQN.len()], NQN.as_bytes());
    assert_eq!((u32_at(&data, 1792), u32_at(&data, 1796)), (516, 1), "IOCCSZ, IORCSZ");
    assert_eq!((u16_at(&data, 1800), data[1802], data[1803]), (0, 0, 1), "ICDOFF, FCATT, MSDBD");
    assert_eq!(data[1806], 0, "DCTYPE: not a discovery controller");
    assert!(c.attach_io_queue(&request(NQN, 1, 1)).unwrap().vwc_advertised);
    let d = &mut ready_discovery(&table);
    let data = identify(d, &table, 0, 1).unwrap();
    assert_eq!((data[111], data[261], u32_at(&data, 92)), (2, 4, 1 << 31));
    assert_eq!(data[1806], 1, "DCTYPE: a direct discovery controller");
    assert_eq!(u32_at(&data, 516), 0, "no namespaces");
    assert_eq!(identify(d, &table, 1, 0), Err(Status::INVALID_FIELD.dnr()));
}

#[test]
fn preferences_of_the_bdev_reach_the_host() {
    let mut striped = geometry(4096);
    striped.optimal_io_blocks = 64;
    striped.io_boundary_blocks = 16;
    striped.write_unit_blocks = 4;
    striped.unmap_unit_blocks = 256;
    let mut plain = geometry(512);
    plain.optimal_io_blocks = 0;
    let table = table_with(&[striped, plain]);
    let c = &mut ready(&table, NQN);
    let data = identify(c, &table, 1, 0).unwrap();
    assert_eq!((data[24], u16_at(&data, 46)), (0x10, 16), "NSFEAT, NOIOB");
    let preferred = [64, 66, 68, 70, 72].map(|at| u16_at(&data, at));
    assert_eq!(preferred, [3, 3, 255, 255, 63], "NPWG, NPWA, NPDG, NPDA, NOWS");
    let data = identify(c, &table, 2, 0).unwrap();
    assert_eq!((data[24], u16_at(&data, 46), u16_at(&data, 72)), (0, 0, 0));
}

/// Each CNS there is, as the text of `identify.rs` has it.
#[test]
fn every_cns_is_answered_or_refused() {
    let table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    let d = &mut ready_discovery(&table);
    let refused = Err(Status::INVALID_FIELD.dnr());
    let answered =
        [0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x10, 0x11, 0x1a, 0x1b, 0x1c, 0x1f];
    for cns in 0..=0xff_u32 {
        // CNTID: this controller.
        let sqe = command(admin::IDENTIFY, 1, cns | 0xffff_0000, 0);
        if matches!(cns, 0x12 | 0x13) {
            let nsid = (cns == 0x12).then_some(1);
            let list = AdminOutcome::ControllerList { nsid, from: 0xffff };
            assert_eq!(c.admin(&at(&table, 0), &sqe, &mut [0; 4096]), list);
        } else if answered.contains(&cns) {
            assert_eq!(
                run(c, &table, &sqe, 4096).map(|(data, _)| data.len()),
                Ok(4096),
                "{cns:#x}"
            );
        } else {
            assert_eq!(run(c, &table, &sqe, 4096), refused, "{cns:#x}");
        }
        if cns != 1 {
            assert_eq!(run(d, &table, &sqe, 4096), refused, "discovery, {cns:#x}");
        }
    }
    // What is refused is said not to be there.
    let own = identify(c, &table, 0, 1).unwrap();
    assert_eq!(u16_at(&own, 256), 0, "OACS");
    let absent = 1 << 2 | 1 << 4 | 1 << 7 | 1 << 9 | 1 << 11;
    assert_eq!(u32_at(&own, 96) & absent, 0, "CTRATT");
    for (nsid, status) in [
        (0, Status::INVALID_NAMESPACE),
        (33, Status::INVALID_NAMESPACE),
        (u32::MAX, Status::INVALID_FIELD),
    ] {
        assert_eq!(identify(c, &table, nsid, 0x12), Err(status.dnr()));
    }
    let short = command(admin::IDENTIFY, 1, 0x13, 0);
    assert_eq!(run(c, &table, &short, 4095), Err(Status::DATA_SGL_LENGTH_INVALID.dnr()));
}

#[test]
fn identify_namespace() {
    let mut table = table_with(&[geometry(512), geometry(4096), geometry(512)]);
    table.remove_ns(NQN, 1).unwrap();
    let c = &mut ready(&table, NQN);
    let data = identify(c, &table, 2, 0).unwrap();
    assert_eq!(&data[..8], &1000_u64.to_le_bytes());
    assert_eq!((data[24], data[30], data[33]), (0x10, 1, 9), "NSFEAT, NMIC, DLFEAT");
    assert_eq!(data[31], 0xfe, "RESCAP: all types, no place to persist");
    assert_eq!(u16_at(&data, 72), 15, "NOWS");
    assert_eq!((u16_at(&data, 74), u32_at(&data, 76), data[80]), (256, 4096, 127), "Copy");
    assert_eq!(&data[48..56], &4_096_000_u64.to_le_bytes(), "NVMCAP");
    assert_eq!(&data[128..132], &[0, 0, 12, 0], "LBAF 0");
    let inactive = identify(c, &table, 1, 0).unwrap();
    assert!(inactive.iter().all(|&byte| byte == 0));
    for nsid in [0, 33, u32::MAX] {
        assert_eq!(identify(c, &table, nsid, 0), Err(Status::INVALID_NAMESPACE.dnr()));
    }
    let list = identify(c, &table, 0, 2).unwrap();
    assert_eq!((u32_at(&list, 0), u32_at(&list, 4), u32_at(&list, 8)), (2, 3, 0));
    let list = identify(c, &table, 2, 2).unwrap();
    assert_eq!((u32_at(&list, 0), u32_at(&list, 4)), (3, 0));
    assert_eq!(identify(c, &table, u32::MAX, 2), Err(Status::INVALID_NAMESPACE.dnr()));
    let descriptors = identify(c, &table, 2, 3).unwrap();
    let uuid = *geometry(512).uuid.as_bytes();
    assert_eq!(data[104..120], uuid, "NGUID, which nobody has set");
    assert_eq!(descriptors[..20], [&[2, 16, 0, 0][..], &uuid].concat(), "NGUID");
    assert_eq!(descriptors[20..40], [&[3, 16, 0, 0][..], &uuid].concat(), "UUID");
    assert_eq!(&descriptors[40..45], &[4, 1, 0, 0, 0], "CSI");
    assert_eq!(identify(c, &table, 1, 3), Err(Status::INVALID_NAMESPACE.dnr()));
    let independent = identify(c, &table, 2, 8).unwrap();
    assert_eq!((independent[0], independent[1], independent[14]), (0, 1, 1));
    assert_eq!(independent[2], 0xfe);
    let limits = identify(c, &table, 0, 6).unwrap();
    assert_eq!((limits[0], limits[1], u32_at(&limits, 4)), (12, 12, 2_097_152), "VSL, WZSL, DMRSL");
    assert_eq!(identify(c, &table, 2, 5).unwrap(), [0; 4096]);
    assert_eq!(identify(c, &table, 0, 0xffff_001c).unwrap()[..9], [1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(identify(c, &table, 0, 0x0002_001c), Err(Status::INVALID_FIELD.dnr()));
    assert_eq!(identify(c, &table, 2, 0x11).unwrap(), data, "allocated is attached");
    for (allocated, attached) in [(0x10, 0x02), (0x1a, 0x07), (0x1b, 0x05), (0x1f, 0x08)] {
        for nsid in [0, 1, 2, 33] {
            let attached = identify(c, &table, nsid, attached);
            assert_eq!(identify(c, &table, nsid, allocated), attached, "{allocated:#x} {nsid}");
        }
    }
    let zoned = command(admin::IDENTIFY, 2, 5, 2 << 24);
    assert_eq!(run(c, &table, &zoned, 4096), Err(Status::INVALID_FIELD.dnr()));
    let short = command(admin::IDENTIFY, 2, 0, 0);
    assert_eq!(run(c, &table, &short, 4095), Err(Status::DATA_SGL_LENGTH_INVALID.dnr()));
    let place = Persistence { path: "x".to_owned(), restored: None };
    table.set_persistence(NQN, 2, place).unwrap();
    let _ = c.table_changed(&table);
    assert_eq!(identify(c, &table, 2, 0).unwrap()[31], 0xff, "RESCAP with PTPLS");
}

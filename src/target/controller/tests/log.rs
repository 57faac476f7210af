use super::*;
use crate::target::reservation::NoticeKind;
use crate::wire::nvme::opcode::admin;

/// Get Log Page of `len_bytes` at `offset`, with the event retained or not.
fn log(lid: u8, len_bytes: u32, offset: u64, retain: bool) -> Sqe {
    let dwords = len_bytes / 4 - 1;
    let cdw10 = u32::from(lid) | u32::from(retain) << 15 | (dwords & 0xffff) << 16;
    let mut sqe = command(admin::GET_LOG_PAGE, u32::MAX, cdw10, dwords >> 16);
    sqe.cdw12.set(u32::try_from(offset & 0xffff_ffff).unwrap());
    sqe.cdw13.set(u32::try_from(offset >> 32).unwrap());
    sqe
}

fn read(c: &mut Controller, table: &SubsystemTable, lid: u8, len: u32, at: u64) -> Vec<u8> {
    let (data, _) = run(c, table, &log(lid, len, at, true), usize::try_from(len).unwrap()).unwrap();
    data
}

#[test]
fn pages_of_an_io_controller() {
    let table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    let supported = read(c, &table, 0, 1024, 0);
    for lid in 0..=255_usize {
        let known = [0, 1, 2, 3, 4, 5, 0x12, 0x80].contains(&lid);
        assert_eq!(supported[lid * 4], u8::from(known), "LID {lid:#x}");
    }
    assert!(read(c, &table, 1, 4096, 0).iter().all(|&byte| byte == 0), "no errors yet");
    assert_eq!(read(c, &table, 2, 512, 0)[3], 100, "available spare");
    let slot = read(c, &table, 3, 512, 0);
    assert_eq!((slot[0], &slot[8..11]), (1, b"0.1".as_slice()));
    let effects = read(c, &table, 5, 4096, 0);
    let dword = |at: usize| u32::from_le_bytes(effects[at..at + 4].try_into().unwrap());
    assert_eq!((dword(6 * 4), dword(0x0d * 4)), (1, 0), "Identify, Namespace Management");
    assert_eq!((dword(1024 + 4), dword(1024 + 8), dword(1024 + 0x0d * 4)), (3, 1, 1));
    assert_eq!((dword(1024 + 0x19 * 4), dword(1024 + 0x79 * 4)), (3, 0), "Copy, Zone Management");
    let features = read(c, &table, 0x12, 1024, 0);
    assert_eq!(features[4 * 7..4 * 7 + 4], [1, 0, 0x20, 0], "number of queues");
    assert_eq!(read(c, &table, 5, 8, 1024 + 4), effects[1028..1036], "any offset inside");
}

/// Log pages by name: bytes to read, and which controllers have them.
const PAGES: [(u8, &str, u32, [bool; 3]); 14] = [
    // I/O, I/O with ANA, discovery.
    (0x00, "supported log pages", 1024, [true, true, true]),
    (0x01, "error information", 64, [true, true, true]),
    (0x02, "SMART / health", 512, [true, true, true]),
    (0x03, "firmware slot", 512, [true, true, false]),
    (0x04, "changed attached namespaces", 4096, [true, true, false]),
    (0x05, "commands supported and effects", 4096, [true, true, false]),
    (0x07, "telemetry, host-initiated", 512, [false, false, false]),
    (0x08, "telemetry, controller-initiated", 512, [false, false, false]),
    (0x0c, "ANA", 16, [false, true, false]),
    (0x0d, "persistent events", 512, [false, false, false]),
    (0x12, "features supported and effects", 1024, [true, true, true]),
    (0x70, "discovery", 1024, [false, false, true]),
    (0x80, "reservation notification", 64, [true, true, false]),
    (0x81, "sanitize status", 512, [false, false, false]),
];

#[test]
fn every_log_page_is_there_or_said_to_be_absent() {
    let plain = table_with(&[geometry(512)]);
    let mut with_ana = table_with(&[]);
    let spec = SubsystemSpec {
        allow_any_host: true,
        ana_reporting: true,
        ..SubsystemSpec::new("nqn.2026-11.org.example:ana")
    };
    with_ana.create_subsystem(&spec).unwrap();
    with_ana.add_listener(spec.nqn, LOCAL.parse().unwrap()).unwrap();
    let controllers = [
        (&plain, ready(&plain, NQN)),
        (&with_ana, ready(&with_ana, spec.nqn)),
        (&plain, ready_discovery(&plain)),
    ];
    for (kind, (table, mut c)) in controllers.into_iter().enumerate() {
        let supported = read(&mut c, table, 0, 1024, 0);
        for lid in 0..=u8::MAX {
            let known = PAGES.iter().find(|page| page.0 == lid);
            let (name, len, is_there) =
                known.map_or(("none", 512, false), |page| (page.1, page.2, page.3[kind]));
            let at = usize::try_from(len).unwrap();
            let answer = run(&mut c, table, &log(lid, len, 0, true), at);
            let expected = if is_there { Ok(at) } else { Err(Status::INVALID_LOG_PAGE.dnr()) };
            assert_eq!(answer.map(|(data, _)| data.len()), expected, "{lid:#x} ({name}), {kind}");
            let said = supported[usize::from(lid) * 4] & 1 != 0;
            assert_eq!(said, is_there, "{lid:#x} ({name}), {kind}");
        }
        let identify = command(admin::IDENTIFY, 0, 1, 0);
        let (data, _) = run(&mut c, table, &identify, 4096).unwrap();
        assert_eq!(data[261] & 1 << 3, 0, "LPA: no telemetry");
    }
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(data[at..at + 8].try_into().unwrap())
}

#[test]
fn failed_commands_are_listed_newest_first_and_bounded() {
    let table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    let mut bad = command(admin::IDENTIFY, 77, 0, 0);
    bad.cid.set(0x1234);
    run(c, &table, &bad, 4096).unwrap_err();
    let mut write = command(1, 1, 0x55, 2);
    write.cid.set(9);
    let error = CommandError::of(3, &write, Status::LBA_OUT_OF_RANGE.dnr()).unwrap();
    c.note_error(error, 0);
    assert_eq!(CommandError::of(3, &write, Status::ABORT_REQUESTED), None);
    assert_eq!(CommandError::of(3, &write, Status::SUCCESS), None);
    let page = read(c, &table, 1, 192, 0);
    let golden = [
        2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 9, 0, 0, 0x81, 0xff, 0xff, 0x55, 0, 0, 0, 2, 0, 0, 0, 1, 0,
        0, 0, 0, 3, 0, 1,
    ];
    assert_eq!(page[..32], golden);
    assert_eq!((page[63], u64_at(&page, 64), u64_at(&page, 128)), (1, 1, 0));
    assert_eq!(page[72..80], [0, 0, 0x34, 0x12, 0x16, 0x80, 0xff, 0xff], "invalid namespace, DNR");
    assert_eq!((page[64 + 24], page[64 + 31]), (77, 6));
    assert_eq!(u64_at(&read(c, &table, 2, 512, 0), 32 + 9 * 16), 2, "number of errors");
    c.note_error(error, 1000);
    for _ in 0..70 {
        c.note_error(error, 0);
    }
    let page = read(c, &table, 1, 4096, 0);
    assert_eq!((u64_at(&page, 0), u64_at(&page, 63 * 64)), (1073, 1010));
    assert_eq!(run(c, &table, &log(1, 4, 4100, true), 4), Err(Status::INVALID_FIELD.dnr()));
}

#[test]
fn smart_counts_what_the_queues_did() {
    let table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    let grants = [1, 2].map(|qid| c.attach_io_queue(&request(NQN, qid, 1)).unwrap());
    for grant in &grants {
        grant.traffic.count_read(512_000);
        grant.traffic.count_write(4096);
        grant.traffic.count_other();
    }
    grants[1].traffic.count_media_error();
    c.detach_io_queue(2);
    let page = read(c, &table, 2, 512, 0);
    let counters: Vec<u64> = (0..10).map(|n| u64_at(&page, 32 + 16 * n)).collect();
    // Data units read and written, reads, writes, busy, cycles, hours, unsafe, media, errors.
    assert_eq!(counters, [2, 1, 2, 2, 0, 1, 2, 0, 1, 0]);
}

#[test]
fn smart_warns_of_what_has_lost_redundancy() {
    let mut table = table_with(&[geometry(512), geometry(512)]);
    let c = &mut ready(&table, NQN);
    enable_events(c, &table, 1 << 2 | 1 << 8);
    assert_eq!(hold(c, &table, 7), AdminOutcome::HoldAsyncEvent);
    assert_eq!(read(c, &table, 2, 512, 0)[0], 0);
    assert!(table.set_degraded(BdevId(1), true));
    assert!(!table.set_degraded(BdevId(1), true) && !table.set_degraded(BdevId(9), true));
    assert_eq!(c.table_changed(&table), TableChange::Admitted);
    // SMART / Health Status, reliability, log page 02h; and no attribute has changed.
    let event = c.next_async_event().unwrap();
    assert_eq!((event.cid, event.result), (7, 0x02_0001));
    assert_eq!(c.next_async_event(), None);
    assert_eq!(read(c, &table, 2, 512, 0)[0], 1 << 2);
    assert!(table.set_degraded(BdevId(1), false));
    assert_eq!(c.table_changed(&table), TableChange::Admitted);
    assert_eq!(read(c, &table, 2, 512, 0)[0], 0);
}

#[test]
fn a_host_that_comes_to_a_degraded_array_is_told() {
    let mut table = table_with(&[geometry(512)]);
    assert!(table.set_degraded(BdevId(0), true));
    let c = &mut ready(&table, NQN);
    assert_eq!(hold(c, &table, 7), AdminOutcome::HoldAsyncEvent);
    enable_events(c, &table, 1 << 8);
    assert_eq!(c.next_async_event(), None, "not asked for");
    enable_events(c, &table, 1 << 2 | 1 << 8);
    assert_eq!(c.next_async_event().map(|event| event.result), Some(0x02_0001));
    run(c, &table, &log(2, 512, 0, false), 512).unwrap();
    let _ = hold(c, &table, 8);
    enable_events(c, &table, 1 << 2);
    assert_eq!(c.next_async_event(), None, "asked for before, and told");
}

#[test]
fn reservation_notices_are_read_one_by_one() {
    let table = table_with(&[geometry(512), geometry(512)]);
    let c = &mut ready(&table, NQN);
    let _ = hold(c, &table, 1);
    let mask = command(admin::SET_FEATURES, 2, 0x82, 1 << 2);
    run(c, &table, &mask, 0).unwrap();
    c.note_reservation(2, NoticeKind::ReservationReleased);
    assert_eq!(c.next_async_event(), None, "masked");
    assert!(read(c, &table, 0x80, 64, 0).iter().all(|&byte| byte == 0));
    c.note_reservation(2, NoticeKind::ReservationPreempted);
    c.note_reservation(1, NoticeKind::ReservationReleased);
    let told = AsyncCompletion { cid: 1, status: Status::SUCCESS, result: 0x80_0006 };
    assert_eq!(c.next_async_event(), Some(told));
    let page = read(c, &table, 0x80, 64, 0);
    assert_eq!(page[..16], [1, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 2, 0, 0, 0]);
    assert_eq!(read(c, &table, 0x80, 64, 0), page, "retained");
    run(c, &table, &log(0x80, 64, 0, false), 64).unwrap();
    let _ = hold(c, &table, 2);
    assert_eq!(c.next_async_event().map(|event| event.cid), Some(2), "there is another page");
    let (page, _) = run(c, &table, &log(0x80, 64, 0, false), 64).unwrap();
    assert_eq!(page[..16], [2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
    assert!(read(c, &table, 0x80, 64, 0).iter().all(|&byte| byte == 0));
    let get = command(admin::GET_FEATURES, 2, 0x82, 0);
    assert_eq!(run(c, &table, &get, 0), Ok((vec![], 4)));
    let none = command(admin::GET_FEATURES, 0, 0x82, 0);
    assert_eq!(run(c, &table, &none, 0), Err(Status::INVALID_NAMESPACE.dnr()));
    for fid in [0x82, 0x83] {
        let all = command(admin::GET_FEATURES, u32::MAX, fid, 0);
        assert_eq!(run(c, &table, &all, 0), Err(Status::INVALID_FIELD.dnr()));
    }
}

#[test]
fn bad_requests_for_pages() {
    let table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    let field = Err(Status::INVALID_FIELD.dnr());
    for (lid, offset) in [(2, 516), (2, 2), (5, 4100), (0, u64::MAX - 3), (4, 1 << 40)] {
        assert_eq!(run(c, &table, &log(lid, 4, offset, true), 4), field, "{lid} {offset}");
    }
    assert!(run(c, &table, &log(2, 8, 512, true), 8).unwrap().0 == [0; 8], "at the end");
    let mut largest = log(2, 4, 0, true);
    largest.cdw10.set(0xffff_0002);
    largest.cdw11.set(0x0000_ffff);
    assert_eq!(run(c, &table, &largest, 131_072), field, "NUMD of 2^34 bytes");
    let short = run(c, &table, &log(2, 512, 0, true), 508);
    assert_eq!(short, Err(Status::DATA_SGL_LENGTH_INVALID.dnr()));
    for lid in [0x06, 0x0c, 0x70, 0xff] {
        let status = run(c, &table, &log(lid, 512, 0, true), 512);
        assert_eq!(status, Err(Status::INVALID_LOG_PAGE.dnr()), "{lid:#x}");
    }
    let mut index_offset = log(2, 4, 0, true);
    index_offset.cdw14.set(1 << 23);
    assert_eq!(run(c, &table, &index_offset, 4), field);
    let mut per_namespace = log(2, 512, 0, true);
    per_namespace.nsid.set(1);
    assert_eq!(run(c, &table, &per_namespace, 512), field);
}

fn hold(c: &mut Controller, table: &SubsystemTable, cid: u16) -> AdminOutcome {
    let mut sqe = command(admin::ASYNC_EVENT_REQUEST, 0, 0, 0);
    sqe.cid.set(cid);
    c.admin(&at(table, 2000), &sqe, &mut [])
}

fn enable_events(c: &mut Controller, table: &SubsystemTable, bits: u32) {
    let sqe = command(admin::SET_FEATURES, 0, 0x0b, bits);
    run(c, table, &sqe, 0).unwrap();
}

#[test]
fn a_changed_namespace_is_told_once_until_its_log_is_read() {
    let mut table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    enable_events(c, &table, 0x1ff);
    assert_eq!(hold(c, &table, 30), AdminOutcome::HoldAsyncEvent);
    assert_eq!(c.next_async_event(), None, "no news");
    add_ns(&mut table, 1, &geometry(4096));
    assert_eq!(c.table_changed(&table), TableChange::Admitted);
    let told = AsyncCompletion { cid: 30, status: Status::SUCCESS, result: 0x4_0002 };
    assert_eq!(c.next_async_event(), Some(told));
    assert_eq!(c.next_async_event(), None);
    assert_eq!(hold(c, &table, 31), AdminOutcome::HoldAsyncEvent);
    add_ns(&mut table, 2, &geometry(512));
    let _ = c.table_changed(&table);
    assert_eq!(c.next_async_event(), None, "the log has not been read");
    let mut expected = vec![0; 4096];
    (expected[0], expected[4]) = (2, 3);
    assert_eq!(read(c, &table, 4, 4096, 0), expected);
    table.remove_ns(NQN, 1).unwrap();
    let _ = c.table_changed(&table);
    assert_eq!(c.next_async_event(), None, "read, but the event was retained");
    let (data, _) = run(c, &table, &log(4, 4096, 0, false), 4096).unwrap();
    (expected[0], expected[4], expected[8]) = (1, 2, 3);
    assert_eq!(data, expected);
    assert!(read(c, &table, 4, 4096, 0).iter().all(|&byte| byte == 0), "cleared");
    assert_eq!(c.next_async_event(), None);
    table.remove_ns(NQN, 2).unwrap();
    let _ = c.table_changed(&table);
    assert_eq!(c.next_async_event().map(|event| event.cid), Some(31));
    assert!(c.subsystem().namespace(2).is_none(), "the controller follows the table");
}

#[test]
fn events_can_wait_be_masked_and_be_too_many() {
    let mut table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    add_ns(&mut table, 1, &geometry(512));
    let _ = c.table_changed(&table);
    assert_eq!(hold(c, &table, 1), AdminOutcome::HoldAsyncEvent);
    assert_eq!(c.next_async_event(), None, "masked after reset");
    enable_events(c, &table, 0x100);
    for cid in 2..=4 {
        assert_eq!(hold(c, &table, cid), AdminOutcome::HoldAsyncEvent);
    }
    let AdminOutcome::Complete { status, .. } = hold(c, &table, 5) else { panic!("held") };
    assert_eq!(status, Status::AER_LIMIT_EXCEEDED.dnr());
    set_cc(c, &table, 0);
    let aborted: Vec<_> = std::iter::from_fn(|| c.next_async_event()).collect();
    assert_eq!(aborted.iter().map(|event| event.cid).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(aborted.iter().all(|event| event.status == Status::ABORT_REQUESTED));
    set_cc(c, &table, 0x0046_0061);
    enable_events(c, &table, 0x100);
    add_ns(&mut table, 2, &geometry(512));
    let _ = c.table_changed(&table);
    assert_eq!(c.next_async_event(), None, "no request to tell it with");
    let _ = hold(c, &table, 9);
    assert_eq!(c.next_async_event().map(|event| event.cid), Some(9), "kept until there is");
}

#[test]
fn other_changes_are_no_news_and_removal_ends_the_controller() {
    let mut table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    enable_events(c, &table, 0x100);
    let _ = hold(c, &table, 1);
    table.add_listener(NQN, "192.0.2.9:4420".parse().unwrap()).unwrap();
    assert_eq!(c.table_changed(&table), TableChange::Admitted);
    assert_eq!(c.next_async_event(), None);
    let mut closed = table.clone();
    closed.allow_any_host(NQN, false).unwrap();
    assert_eq!(c.table_changed(&closed), TableChange::Revoked);
    table.delete_subsystem(NQN).unwrap();
    assert_eq!(c.table_changed(&table), TableChange::Revoked);
}

fn discovery_table() -> SubsystemTable {
    let mut table = table_with(&[geometry(512)]);
    table.add_listener(NQN, "[2001:db8::5]:4421".parse().unwrap()).unwrap();
    let hidden = SubsystemSpec::new("nqn.2026-11.org.example:hidden");
    table.create_subsystem(&hidden).unwrap();
    table.add_listener(hidden.nqn, LOCAL.parse().unwrap()).unwrap();
    let wild =
        SubsystemSpec { allow_any_host: true, ..SubsystemSpec::new("nqn.2026-11.org.example:w") };
    table.create_subsystem(&wild).unwrap();
    table.add_listener(wild.nqn, "0.0.0.0:4420".parse().unwrap()).unwrap();
    table
}

fn text(field: &[u8]) -> String {
    String::from_utf8(field.to_vec()).unwrap().trim_end_matches([' ', '\0']).to_owned()
}

#[test]
fn discovery_log_lists_what_the_host_may_use() {
    let mut table = discovery_table();
    let c = &mut ready_discovery(&table);
    // nvme-cli reads the header first, then everything.
    let header = read(c, &table, 0x70, 1024, 0);
    assert_eq!(header[..8], table.generation().to_le_bytes());
    assert_eq!(header[8..18], [3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let all = read(c, &table, 0x70, 4096, 0);
    assert_eq!(all[..1024], header);
    let records: Vec<_> = all[1024..].chunks_exact(1024).collect();
    assert_eq!(records[0][..12], [3, 1, 2, 4, 1, 0, 0xff, 0xff, 128, 0, 0, 0]);
    assert_eq!(records[1][..12], [3, 2, 2, 4, 2, 0, 0xff, 0xff, 128, 0, 0, 0]);
    let named =
        |record: &[u8]| (text(&record[256..512]), text(&record[512..768]), text(&record[32..64]));
    let expected = |nqn: &str, at: &str, port: &str| (nqn.into(), at.into(), port.into());
    assert_eq!(named(records[0]), expected(NQN, "192.0.2.1", "4420"));
    assert_eq!(named(records[1]), expected(NQN, "2001:db8::5", "4421"));
    let wild = expected("nqn.2026-11.org.example:w", "192.0.2.1", "4420");
    assert_eq!(named(records[2]), wild, "the address the host came by, not the wildcard");
    assert_eq!(records[0][512 + 9], b' ');
    assert_eq!(records[0][768], 0, "TSAS: no security");
    for (at, len) in [(1020, 8), (1024, 1024), (3000, 1096), (4092, 4), (2048, 4096)] {
        let part = read(c, &table, 0x70, len, at);
        let from = usize::try_from(at).unwrap();
        let inside = part.len().min(all.len() - from);
        assert_eq!(part[..inside], all[from..from + inside], "{len} bytes at {at}");
        assert!(part[inside..].iter().all(|&byte| byte == 0));
    }
    let beyond = run(c, &table, &log(0x70, 4, 4100, true), 4);
    assert_eq!(beyond, Err(Status::INVALID_FIELD.dnr()));
    table.add_host("nqn.2026-11.org.example:hidden", HOST).unwrap();
    assert_eq!(read(c, &table, 0x70, 1024, 0)[8], 4, "now allowed");
    table.add_listener(DISCOVERY_NQN, "192.0.2.1:8009".parse().unwrap()).unwrap();
    let own = read(c, &table, 0x70, 1024, 1024);
    assert_eq!((own[2], own[10], text(&own[32..64]).as_str()), (3, 2, "8009"));
    let other = "192.0.2.77:8009".parse().unwrap();
    let generation = table.generation();
    table.add_referral(other, DISCOVERY_NQN).unwrap();
    assert!(table.generation() > generation);
    assert!(table.add_referral(other, DISCOVERY_NQN).is_err(), "twice");
    assert_eq!(read(c, &table, 0x70, 1024, 0)[8], 6);
    let referral = read(c, &table, 0x70, 1024, 6 * 1024);
    assert_eq!(referral[..12], [3, 1, 1, 4, 0, 0, 0xff, 0xff, 128, 0, 0, 0]);
    assert_eq!(named(&referral), expected(DISCOVERY_NQN, "192.0.2.77", "8009"));
    table.remove_referral(other, DISCOVERY_NQN).unwrap();
    assert_eq!(read(c, &table, 0x70, 1024, 0)[8], 5);
}

#[test]
fn discovery_changes_are_told() {
    let mut table = discovery_table();
    let c = &mut ready_discovery(&table);
    enable_events(c, &table, 1 << 31);
    let _ = hold(c, &table, 3);
    add_ns(&mut table, 5, &geometry(512));
    let _ = c.table_changed(&table);
    assert_eq!(c.next_async_event(), None, "namespaces are not in the log");
    table.remove_listener(NQN, "[2001:db8::5]:4421".parse().unwrap()).unwrap();
    let _ = c.table_changed(&table);
    let told = AsyncCompletion { cid: 3, status: Status::SUCCESS, result: 0x70_f002 };
    assert_eq!(c.next_async_event(), Some(told));
    run(c, &table, &log(0x70, 1024, 0, false), 1024).unwrap();
    let _ = hold(c, &table, 4);
    table.add_listener(NQN, "192.0.2.1:5000".parse().unwrap()).unwrap();
    let _ = c.table_changed(&table);
    assert_eq!(c.next_async_event().map(|event| event.cid), Some(4));
}

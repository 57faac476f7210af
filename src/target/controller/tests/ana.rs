//! ANA and namespaces that not every host sees.

use super::*;
use crate::target::subsystem::AnaState;
use crate::wire::nvme::opcode::admin;

const SECOND: &str = "192.0.2.2:4420";

/// Two listeners, namespaces 1 to 3, the third in the first one's group.
fn ana_table() -> SubsystemTable {
    let mut table = SubsystemTable::new();
    let spec = SubsystemSpec {
        allow_any_host: true,
        ana_reporting: true,
        max_namespaces: 4,
        ..SubsystemSpec::new(NQN)
    };
    table.create_subsystem(&spec).unwrap();
    for address in [LOCAL, SECOND] {
        table.add_listener(NQN, address.parse().unwrap()).unwrap();
    }
    for bdev in 0..3 {
        add_ns(&mut table, bdev, &geometry(512));
    }
    table.set_ana_group(NQN, 3, 1).unwrap();
    table
}

fn log(c: &mut Controller, table: &SubsystemTable, cdw10: u32, len: u32) -> Vec<u8> {
    let sqe = command(admin::GET_LOG_PAGE, u32::MAX, cdw10 | (len / 4 - 1) << 16, 0);
    run(c, table, &sqe, usize::try_from(len).unwrap()).unwrap().0
}

#[test]
fn golden_log_and_its_event() {
    let mut table = ana_table();
    let c = &mut ready(&table, NQN);
    let identify = command(admin::IDENTIFY, 0, 1, 0);
    let (data, _) = run(c, &table, &identify, 4096).unwrap();
    assert_eq!((data[76], data[93] & 8, data[342], data[343]), (0xb, 8, 10, 7), "CMIC, OAES");
    assert_eq!((data[344], data[348]), (4, 4), "ANAGRPMAX, NANAGRPID");
    let (data, _) = run(c, &table, &command(admin::IDENTIFY, 3, 0, 0), 4096).unwrap();
    assert_eq!(data[92], 1, "ANAGRPID");
    let set = command(admin::SET_FEATURES, 0, 0x0b, 1 << 11);
    run(c, &table, &set, 0).unwrap();
    let mut aer = command(admin::ASYNC_EVENT_REQUEST, 0, 0, 0);
    aer.cid.set(5);
    let _ = c.admin(&at(&table, 0), &aer, &mut []);
    table.set_ana_state(NQN, SECOND.parse().unwrap(), None, AnaState::Inaccessible).unwrap();
    let _ = c.table_changed(&table);
    assert_eq!(c.next_async_event(), None, "another listener's");
    let local = LOCAL.parse().unwrap();
    table.set_ana_state(NQN, local, Some(1), AnaState::NonOptimized).unwrap();
    let _ = c.table_changed(&table);
    assert_eq!(c.next_async_event().unwrap().result, 0x0c_0302);
    let page = log(c, &table, 0x0c | 1 << 15, 92);
    assert_eq!(page[..16], [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(page[16..33], [1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!(page[48..56], [1, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(page[56..73], [2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(page[88..92], [2, 0, 0, 0]);
    let groups = log(c, &table, 0x0c | 1 << 8 | 1 << 15, 80);
    assert_eq!((groups[8], groups[16], groups[20], groups[48], groups[52]), (2, 1, 0, 2, 0));
}

#[test]
fn a_namespace_that_moves_to_another_group_is_told_as_a_change_of_paths() {
    let mut table = ana_table();
    let c = &mut ready(&table, NQN);
    let set = command(admin::SET_FEATURES, 0, 0x0b, 1 << 11 | 1 << 8);
    run(c, &table, &set, 0).unwrap();
    for cid in [5, 6] {
        let mut aer = command(admin::ASYNC_EVENT_REQUEST, 0, 0, 0);
        aer.cid.set(cid);
        let _ = c.admin(&at(&table, 0), &aer, &mut []);
    }
    let count = |c: &mut Controller, table: &SubsystemTable| log(c, table, 0x0c, 16)[0];
    assert_eq!(count(c, &table), 0);
    // The same state there, and yet another line in the log.
    table.set_ana_group(NQN, 3, 2).unwrap();
    let _ = c.table_changed(&table);
    assert_eq!(c.next_async_event().map(|event| event.result), Some(0x0c_0302));
    assert_eq!(c.next_async_event(), None, "and not as a change of the namespace");
    assert_eq!(count(c, &table), 1);
    table.remove_ns(NQN, 3).unwrap();
    let _ = c.table_changed(&table);
    assert_eq!(c.next_async_event().map(|event| event.result), Some(0x04_0002));
    assert_eq!(c.next_async_event(), None, "one event for one change");
    assert_eq!(count(c, &table), 2, "but the log is another");
    set_cc(c, &table, 0);
    set_cc(c, &table, 0x0046_0061);
    assert_eq!(count(c, &table), 0, "after a reset");
}

#[test]
fn without_ana_there_is_nothing_of_it() {
    let mut table = table_with(&[geometry(512)]);
    let c = &mut ready(&table, NQN);
    let sqe = command(admin::GET_LOG_PAGE, u32::MAX, 0x0c | 3 << 16, 0);
    assert_eq!(run(c, &table, &sqe, 16), Err(Status::INVALID_LOG_PAGE.dnr()));
    let (data, _) = run(c, &table, &command(admin::IDENTIFY, 1, 0, 0), 4096).unwrap();
    assert_eq!(data[92], 0, "ANAGRPID");
    let aer = command(admin::ASYNC_EVENT_REQUEST, 0, 0, 0);
    let _ = c.admin(&at(&table, 0), &aer, &mut []);
    run(c, &table, &command(admin::SET_FEATURES, 0, 0x0b, 1 << 11 | 1 << 8), 0).unwrap();
    table.set_ana_group(NQN, 1, 2).unwrap();
    let _ = c.table_changed(&table);
    assert_eq!(c.next_async_event(), None, "nothing that the host can see");
    let refused = table.set_ana_state(NQN, LOCAL.parse().unwrap(), None, AnaState::Optimized);
    assert!(refused.unwrap_err().to_string().contains("ana_reporting"));
    let mut table = ana_table();
    assert!(table.set_ana_group(NQN, 1, 5).is_err(), "more groups than namespaces");
    let unknown = "192.0.2.3:4420".parse().unwrap();
    assert!(table.set_ana_state(NQN, unknown, None, AnaState::Optimized).is_err());
}

#[test]
fn a_masked_namespace_is_there_for_its_hosts_only() {
    let mut table = table_with(&[geometry(512), geometry(512)]);
    assert!(table.show_ns(NQN, 2, HOST).is_err(), "every host sees it");
    table.mask_ns(NQN, 2).unwrap();
    let c = &mut ready(&table, NQN);
    let list = |c: &mut Controller, table: &SubsystemTable| {
        let (data, _) = run(c, table, &command(admin::IDENTIFY, 0, 2, 0), 4096).unwrap();
        [data[0], data[4], data[8]]
    };
    assert_eq!(list(c, &table), [1, 0, 0]);
    table.show_ns(NQN, 2, HOST).unwrap();
    let _ = c.table_changed(&table);
    assert_eq!(list(c, &table), [1, 2, 0]);
    assert_eq!(log(c, &table, 4, 4096)[..8], [2, 0, 0, 0, 0, 0, 0, 0], "changed namespaces");
    assert!(table.show_ns(NQN, 2, HOST).is_err(), "twice");
    table.hide_ns(NQN, 2, HOST).unwrap();
    assert!(table.hide_ns(NQN, 2, HOST).is_err());
    let _ = c.table_changed(&table);
    assert_eq!(list(c, &table), [1, 0, 0]);
    assert!(c.attach_io_queue(&request(NQN, 1, 1)).unwrap().subsystem.namespace(2).is_none());
}

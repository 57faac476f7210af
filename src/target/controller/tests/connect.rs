use super::*;
use crate::limits::CONTROLLERS_PER_CORE_MAX;
use crate::target::controller::connect::ControllerPlace;
use crate::target::subsystem::CNTLID_MAX;

fn refused(change: fn(&mut Sqe, &mut ConnectData)) -> (Status, u32) {
    let table = table_with(&[]);
    let (mut sqe, mut data) = connect_bytes(NQN, 0, CNTLID_DYNAMIC);
    change(&mut sqe, &mut data);
    let refusal = ConnectRequest::parse(&sqe, data.as_bytes())
        .and_then(|request| Controller::connect(&request, &connect_context(&table)))
        .unwrap_err();
    (refusal.status, refusal.result)
}

const INVALID: Status = Status::CONNECT_INVALID_PARAMETERS;

#[test]
fn every_refusal_has_a_reason_of_its_own() {
    let named = [
        (Refusal::unknown_controller(), "not any more"),
        (Refusal::invalid_host(), "may not use"),
        (Refusal::controller_busy(), "no room"),
    ];
    for (refusal, text) in named {
        assert!(refusal.reason().contains(text), "{}", refusal.reason());
    }
    let table = table_with(&[]);
    let refused = |subnqn: &str, qid, cntlid, change: &dyn Fn(&mut Sqe, &mut ConnectData)| {
        let (mut sqe, mut data) = connect_bytes(subnqn, qid, cntlid);
        change(&mut sqe, &mut data);
        match ConnectRequest::parse(&sqe, data.as_bytes()) {
            Ok(request) => Controller::connect(&request, &connect_context(&table)).unwrap_err(),
            Err(refusal) => refusal,
        }
    };
    let other = "nqn.2026-11.org.example:other";
    let plain = |_: &mut Sqe, _: &mut ConnectData| ();
    let reasons = [
        refused(other, 0, CNTLID_DYNAMIC, &plain),
        refused(NQN, 0, 7, &plain),
        refused(NQN, 0, CNTLID_DYNAMIC, &|sqe, _| sqe.cdw11.set(0)),
        refused(NQN, 0, CNTLID_DYNAMIC, &|_, data| data.hostnqn.fill(b'x')),
        refused(NQN, 0, CNTLID_DYNAMIC, &|sqe, _| sqe.cdw10.set(1)),
    ]
    .map(|refusal| refusal.reason());
    for (index, text) in ["no such subsystem", "not there", "too short", "host's name", "malformed"]
        .iter()
        .enumerate()
    {
        assert!(reasons[index].contains(text), "{}", reasons[index]);
    }
}

#[test]
fn admin_connect_is_checked_field_by_field() {
    let format = refused(|sqe, _| sqe.cdw10.set(1));
    assert_eq!(format, (Status::CONNECT_INCOMPATIBLE_FORMAT.dnr(), 0));
    assert_eq!(refused(|sqe, _| sqe.cdw11.set(0)), (INVALID, 44), "SQSIZE 0");
    assert_eq!(refused(|sqe, _| sqe.cdw11.set(0xffff)), (INVALID, 44), "SQSIZE too large");
    assert_eq!(refused(|_, data| data.cntlid.set(1)), (INVALID, 0x1_0010), "static controller");
    assert_eq!(refused(|_, data| data.subnqn[20] = b'x'), (INVALID, 0x1_0100), "unknown NQN");
    assert_eq!(refused(|_, data| data.subnqn = [b'x'; 256]), (INVALID, 0x1_0100));
    assert_eq!(refused(|_, data| data.hostnqn = [b'x'; 256]), (INVALID, 0x1_0200));
    let (sqe, data) = connect_bytes(NQN, 0, CNTLID_DYNAMIC);
    let nameless = ConnectData { hostnqn: [0; 256], ..data };
    let request = ConnectRequest::parse(&sqe, nameless.as_bytes()).unwrap();
    assert_eq!(request.hostnqn.as_str(), "", "a host need not have a name");
    for len in [0, 1023] {
        let refusal = ConnectRequest::parse(&sqe, &data.as_bytes()[..len]).unwrap_err();
        assert_eq!(refusal.status, Status::DATA_SGL_LENGTH_INVALID.dnr());
    }
}

#[test]
fn only_allowed_hosts_at_the_right_address() {
    let mut table = table_with(&[]);
    let request = request(NQN, 0, CNTLID_DYNAMIC);
    let status = |table: &SubsystemTable, local: &str| {
        let context =
            ConnectContext { local_address: local.parse().unwrap(), ..connect_context(table) };
        Controller::connect(&request, &context).map(|_| ()).map_err(|refusal| refusal.status)
    };
    assert_eq!(status(&table, LOCAL), Ok(()));
    assert_eq!(status(&table, "192.0.2.1:4421"), Err(INVALID));
    table.allow_any_host(NQN, false).unwrap();
    assert_eq!(status(&table, LOCAL), Err(Status::CONNECT_INVALID_HOST));
    table.add_host(NQN, HOST).unwrap();
    assert_eq!(status(&table, LOCAL), Ok(()));
}

/// The discovery subsystem answers at every address of the target, and at no other.
#[test]
fn a_discovery_controller_ends_with_the_last_listener_of_its_address() {
    const ELSEWHERE: &str = "192.0.2.1:4421";
    let mut table = table_with(&[]);
    let request = request(DISCOVERY_NQN, 0, CNTLID_DYNAMIC);
    let elsewhere =
        ConnectContext { local_address: ELSEWHERE.parse().unwrap(), ..connect_context(&table) };
    let refusal = Controller::connect(&request, &elsewhere).unwrap_err();
    assert_eq!(refusal, Refusal::unknown_subsystem(), "nobody listens there");
    let c = &mut ready_discovery(&table);
    let (local, elsewhere) = (LOCAL.parse().unwrap(), ELSEWHERE.parse().unwrap());
    // Its own listener and another subsystem's: either is enough.
    table.add_listener(DISCOVERY_NQN, local).unwrap();
    table.remove_listener(NQN, local).unwrap();
    assert_eq!(c.table_changed(&table), TableChange::Admitted);
    table.add_listener(NQN, local).unwrap();
    table.remove_listener(DISCOVERY_NQN, local).unwrap();
    table.add_listener(NQN, elsewhere).unwrap();
    assert_eq!(c.table_changed(&table), TableChange::Admitted);
    table.remove_listener(NQN, local).unwrap();
    assert_eq!(c.table_changed(&table), TableChange::Revoked);
}

#[test]
fn cntlid_range_of_the_subsystem_is_kept() {
    let mut table = SubsystemTable::new();
    let spec = SubsystemSpec { min_cntlid: 2, allow_any_host: true, ..SubsystemSpec::new(NQN) };
    table.create_subsystem(&spec).unwrap();
    table.add_listener(NQN, LOCAL.parse().unwrap()).unwrap();
    let request = request(NQN, 0, CNTLID_DYNAMIC);
    let refusal = Controller::connect(&request, &connect_context(&table)).unwrap_err();
    assert_eq!(refusal.status, Status::CONNECT_CONTROLLER_BUSY);
}

#[test]
fn controller_ids_name_their_core() {
    assert_eq!(
        ControllerPlace { core: 0, cores: 4, index: 0 }.cntlid_in(&(1..=CNTLID_MAX)),
        Some(1)
    );
    assert_eq!(ControllerPlace::of(0, 4), None);
    assert_eq!(ControllerPlace::of(CNTLID_MAX + 1, 4), None);
    assert_eq!(ControllerPlace::of(0xffff, 4), None, "any controller");
    let all = 1..=CNTLID_MAX;
    let halves = [1..=0x7fff, 0x8000..=CNTLID_MAX];
    for cores in [1, 2, 3, 64] {
        for range in halves.iter().chain([&all, &(100..=163)]) {
            let mut ids = Vec::new();
            for core in 0..cores {
                let places = (0..CONTROLLERS_PER_CORE_MAX).map(|index| ControllerPlace {
                    core,
                    cores,
                    index,
                });
                let of_core: Vec<u16> = places
                    .filter_map(|place| {
                        let cntlid = place.cntlid_in(range)?;
                        assert_eq!(ControllerPlace::of(cntlid, cores), Some(place));
                        Some(cntlid)
                    })
                    .collect();
                assert!(!of_core.is_empty(), "{range:?}: core {core} of {cores} has its part");
                ids.extend(of_core);
            }
            assert!(ids.iter().all(|id| range.contains(id)));
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), count, "no id twice");
            assert_eq!(count, range.len().min(cores * CONTROLLERS_PER_CORE_MAX), "{range:?}");
        }
    }
}

#[test]
fn io_queues_attach_to_their_controller_only() {
    let table = table_with(&[geometry(512)]);
    let mut controller = disabled(&table, NQN);
    let good = request(NQN, 1, 1);
    let early = controller.attach_io_queue(&good).unwrap_err();
    assert_eq!(early.status, Status::COMMAND_SEQUENCE_ERROR, "not enabled");
    set_cc(&mut controller, &table, 0x0046_0061);
    for (bad, result) in [
        (ConnectRequest { cntlid: 2, ..good }, 0x1_0010),
        (ConnectRequest { hostid: [8; 16], ..good }, 0x1_0000),
        (ConnectRequest { hostnqn: good.subnqn, ..good }, 0x1_0200),
        (ConnectRequest { subnqn: good.hostnqn, ..good }, 0x1_0100),
        (ConnectRequest { qid: 129, ..good }, 42),
        (ConnectRequest { qid: 0, ..good }, 42),
    ] {
        let refusal = controller.attach_io_queue(&bad).unwrap_err();
        assert_eq!((refusal.status, refusal.result), (INVALID, result), "{bad:?}");
    }
    let grant = controller.attach_io_queue(&good).unwrap();
    assert_eq!((grant.qid, grant.queue_depth, grant.cntlid), (1, 32, 1));
    assert!(!grant.flow_control_disabled && !grant.vwc_advertised);
    let twice = controller.attach_io_queue(&good).unwrap_err();
    assert_eq!(twice.status, Status::COMMAND_SEQUENCE_ERROR);
    let last = ConnectRequest { qid: 128, ..good };
    assert!(controller.attach_io_queue(&last).is_ok());
    assert_eq!(controller.io_queue_count(), 2);
    controller.detach_io_queue(1);
    controller.detach_io_queue(1);
    controller.detach_io_queue(0);
    controller.detach_io_queue(u16::MAX);
    assert!(controller.attach_io_queue(&good).is_ok());
    let mut discovery = ready_discovery(&table);
    let refusal = discovery.attach_io_queue(&request(DISCOVERY_NQN, 1, 1)).unwrap_err();
    assert_eq!((refusal.status, refusal.result), (INVALID, 42));
}

#[test]
fn requests_cross_cores() {
    fn sendable<T: Send>() {}
    sendable::<ConnectRequest>();
    sendable::<IoQueueGrant>();
    sendable::<Refusal>();
}

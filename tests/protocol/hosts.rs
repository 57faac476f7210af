//! Hosts that connect where they have a controller already, under each policy; and what controllers
//! Identify lists.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mdof::bdev::Device;
use mdof::bdev::delay::DelayDevice;
use mdof::initiator::{Client, ClientError, ClientOptions, Data, HostAuth, HostConfig, QueuePair};
use mdof::secure::{ChapKey, Group, GroupSet};
use mdof::target::subsystem::{DupHostPolicy, HostKeys, NamedKey, NamespaceSpec, SubsystemSpec};
use mdof::wire::fabrics::{ConnectCommand, ConnectData};
use mdof::wire::nvme::Status;
use zerocopy::IntoBytes;

use crate::rig::{BLOCK, HOST, Host, LIMIT, NQN, Queue, Rig, command, free_address, io, malloc};

const OTHER: &str = "nqn.2026-01.io.mdof:other-host";

/// A target with this policy and a second listener.
fn rig(policy: DupHostPolicy) -> (Rig, SocketAddr) {
    with_second_listener(Rig::plain(), policy)
}

fn with_second_listener(mut rig: Rig, policy: DupHostPolicy) -> (Rig, SocketAddr) {
    let second = free_address();
    rig.table.add_listener(NQN, second).unwrap();
    rig.table.set_dup_host_policy(policy);
    rig.publish();
    rig.engine.listen(second).unwrap();
    (rig, second)
}

fn try_connect(rig: &Rig, options: ClientOptions) -> Result<Host, ClientError> {
    Ok(Host { client: Client::connect(options, rig.pool)?, pool: rig.pool })
}

fn is_busy(result: Result<Host, ClientError>) -> bool {
    match result {
        Err(ClientError::Status { status, .. }) => {
            assert_eq!(status, Status::CONNECT_CONTROLLER_BUSY, "and it may be tried again");
            true
        }
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    }
}

fn works(host: &mut Host) -> Queue {
    host.client.request_queues(4).unwrap();
    let mut queue = host.queue(1);
    assert_eq!(queue.write(3, &[5; BLOCK]), Status::SUCCESS);
    assert_eq!(queue.read(3, 1), [5; BLOCK]);
    queue
}

/// Tries until it is let in.
fn connect_in_time(rig: &Rig, options: &ClientOptions) -> Host {
    let end = Instant::now() + LIMIT;
    loop {
        match try_connect(rig, options.clone()) {
            Ok(host) => return host,
            Err(ClientError::Status { status, .. }) if Instant::now() < end => {
                assert_eq!(status, Status::CONNECT_CONTROLLER_BUSY);
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// The target has ended these connections.
fn ends(host: &mut Host, queue: &mut Queue) {
    let end = Instant::now() + LIMIT;
    while host.client.admin().poll().is_ok() || queue.pair.poll().is_ok() {
        assert!(Instant::now() < end, "the connections are still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn controllers(rig: &mut Rig) -> usize {
    rig.engine.reports().iter().map(|core| core.controllers.len()).sum()
}

#[test]
fn by_default_a_host_has_as_many_controllers_as_it_likes() {
    let (mut rig, second) = rig(DupHostPolicy::Allow);
    let addresses = [rig.address, rig.address, second];
    let mut hosts = addresses
        .map(|addr| try_connect(&rig, ClientOptions { addr, ..rig.options(HOST) }).unwrap());
    let queues = hosts.each_mut().map(works);
    assert_eq!(controllers(&mut rig), 3);
    drop((queues, hosts));
    rig.stop();
}

#[test]
fn a_restricted_host_has_one_controller_a_listener() {
    let (rig, second) = rig(DupHostPolicy::RestrictPerListener);
    let options = rig.options(HOST);
    let mut first = rig.host();
    let queue = works(&mut first);
    assert!(is_busy(try_connect(&rig, options.clone())));
    // Its identifier is what counts, as it does for reservations.
    let clone = ClientOptions { host_nqn: OTHER.to_owned(), ..options.clone() };
    assert!(is_busy(try_connect(&rig, clone)));
    // Another path, and another host.
    let mut path = try_connect(&rig, ClientOptions { addr: second, ..options.clone() }).unwrap();
    let other = ClientOptions { host_id: [9; 16], ..rig.options(OTHER) };
    let mut other = try_connect(&rig, other).unwrap();
    let others = (works(&mut path), works(&mut other));
    // Discovery is for all.
    let discovery = ClientOptions {
        subsystem_nqn: mdof::wire::fabrics::DISCOVERY_NQN.to_owned(),
        ..options.clone()
    };
    let discoveries = [try_connect(&rig, discovery.clone()), try_connect(&rig, discovery)];
    assert!(discoveries.iter().all(Result::is_ok));
    drop(queue);
    first.client.disconnect().unwrap();
    let mut again = connect_in_time(&rig, &options);
    let queue = works(&mut again);
    assert!(is_busy(try_connect(&rig, options)));
    drop((queue, again, others, path, other, discoveries));
    rig.stop();
}

#[test]
fn a_host_that_connects_anew_replaces_its_old_controller() {
    let (mut rig, second) = rig(DupHostPolicy::ReplacePerListener);
    let options = rig.options(HOST);
    let mut path = try_connect(&rig, ClientOptions { addr: second, ..options.clone() }).unwrap();
    let clone = ClientOptions { host_nqn: OTHER.to_owned(), ..options.clone() };
    let mut clone = try_connect(&rig, clone).unwrap();
    let mut kept = (works(&mut path), works(&mut clone));
    let mut last: Option<(Host, Queue)> = None;
    for _ in 0..5 {
        let mut host = try_connect(&rig, options.clone()).unwrap();
        let queue = works(&mut host);
        if let Some((mut old, mut queue)) = last.replace((host, queue)) {
            ends(&mut old, &mut queue);
        }
    }
    assert_eq!(controllers(&mut rig), 3);
    for queue in [&mut kept.0, &mut kept.1, &mut last.as_mut().unwrap().1] {
        assert_eq!(queue.read(3, 1), [5; BLOCK]);
    }
    drop((last, kept, path, clone));
    rig.stop();
}

/// A write of the old controller that a bdev still has does not come behind one of the new.
#[test]
fn what_the_old_controller_began_has_ended_before_the_new_one_may_write() {
    let rig = Rig::new([256, 32, 16, 2], |engine| {
        let base = malloc(engine, "m0", 4096);
        let geometry = engine.geometry(base).unwrap().clone();
        let delays_us = [0, 0, 2_000_000, 2_000_000];
        let delay = DelayDevice::new("d0", uuid::Uuid::new_v4(), base, &geometry, delays_us);
        vec![engine.add_bdev(Device::Delay(delay)).unwrap()]
    });
    let (mut rig, _) = with_second_listener(rig, DupHostPolicy::ReplacePerListener);
    let options = rig.options(HOST);
    let mut old = rig.host();
    old.client.request_queues(4).unwrap();
    let mut queues = [old.queue(1), old.queue(2)];
    for (slot, queue) in queues.iter_mut().enumerate() {
        let data = queue.data_from(&[1; BLOCK]);
        queue.pair.submit(io(0x01, u32::try_from(slot).unwrap(), 1), data, 7);
        queue.pair.poll().unwrap();
    }
    // They are at the bdev.
    let end = Instant::now() + LIMIT;
    while executing(&mut rig) < 2 {
        assert!(Instant::now() < end, "the writes do not arrive");
    }
    let mut new = try_connect(&rig, options).unwrap();
    assert_eq!(executing(&mut rig), 0, "the new controller came before the old writes ended");
    new.client.request_queues(1).unwrap();
    let mut queue = new.queue(1);
    assert_eq!([queue.read(0, 1), queue.read(1, 1)], [[1; BLOCK], [1; BLOCK]]);
    drop((queues, old, queue, new));
    rig.stop();
}

fn executing(rig: &mut Rig) -> usize {
    let reports = rig.engine.reports();
    let io = |one: &&mdof::engine::QueueReport| {
        one.state == mdof::engine::QueueState::Deactivating || matches!(one.queue, Some((_, 1..)))
    };
    reports.iter().flat_map(|core| &core.queues).filter(io).map(|one| one.executing).sum()
}

/// Whoever only says that it is a host neither ends that host's controllers nor keeps it out.
#[test]
fn who_has_not_proven_itself_replaces_and_restricts_nobody() {
    let key = ChapKey::new(None, vec![4; 32]).unwrap();
    for policy in [DupHostPolicy::ReplacePerListener, DupHostPolicy::RestrictPerListener] {
        let (mut rig, _) = rig(policy);
        rig.table.add_host(NQN, HOST).unwrap();
        let named = NamedKey { name: "k".to_owned(), key: key.clone() };
        let keys = HostKeys { dhchap: Some(named), ..HostKeys::default() };
        rig.table.set_keys(NQN, HOST, keys).unwrap();
        rig.publish();
        let mut auth = HostAuth::new(key.clone());
        auth.groups = GroupSet::NONE.with(Group::Null);
        let options = ClientOptions { auth: Some(auth), ..rig.options(HOST) };
        let stranger = crate::auth::locked(&rig);
        let mut host = try_connect(&rig, options.clone()).unwrap();
        let mut queue = works(&mut host);
        let another = crate::auth::locked(&rig);
        assert_eq!(queue.read(3, 1), [5; BLOCK]);
        let newer = try_connect(&rig, options);
        match policy {
            DupHostPolicy::ReplacePerListener => {
                let mut newer = newer.unwrap();
                let newer_queue = works(&mut newer);
                ends(&mut host, &mut queue);
                drop((newer_queue, newer));
            }
            _ => {
                assert!(newer.is_err() || newer.is_ok_and(|mut newer| is_refused(&mut newer)));
                assert_eq!(queue.read(3, 1), [5; BLOCK]);
            }
        }
        drop((stranger, another, queue, host));
        rig.stop();
    }
}

/// It ends before it has an I/O queue.
fn is_refused(host: &mut Host) -> bool {
    host.client.request_queues(1).is_err() || host.client.open_io_queue(1, 16).is_err()
}

#[test]
fn many_at_once_end_as_one() {
    let (mut rig, _) = rig(DupHostPolicy::ReplacePerListener);
    let options = rig.options(HOST);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let options = options.clone();
            scope.spawn(move || {
                let pool = mdof::reactor::buf::BufPool::on_heap([16, 4, 2, 0]);
                // It may be replaced at any step.
                for _ in 0..10 {
                    if let Ok(mut client) = Client::connect(options.clone(), pool) {
                        let _ = client.open_io_queue(1, 16);
                    }
                }
            });
        }
    });
    let mut host = try_connect(&rig, options).unwrap();
    let queue = works(&mut host);
    assert_eq!(controllers(&mut rig), 1);
    drop((queue, host));
    rig.stop();
}

/// An I/O queue comes by a listener of its subsystem, as its admin queue does, and ends with it.
#[test]
fn an_io_queue_comes_by_a_listener_of_its_subsystem() {
    let mut rig = Rig::plain();
    let second = free_address();
    let other = "nqn.2026-01.io.mdof:another";
    let spec = SubsystemSpec { allow_any_host: true, ..SubsystemSpec::new(other) };
    rig.table.create_subsystem(&spec).unwrap();
    rig.table.add_listener(other, second).unwrap();
    rig.publish();
    rig.engine.listen(second).unwrap();
    let mut host = rig.host();
    host.client.request_queues(4).unwrap();
    let mut queue = host.queue(1);
    let refused = Status::CONNECT_INVALID_PARAMETERS;
    assert_eq!(attach(&rig, &host, second, 2).err(), Some(refused), "another subsystem's");
    rig.table.add_listener(NQN, second).unwrap();
    rig.publish();
    let mut by_second = attach(&rig, &host, second, 2).unwrap();
    let read = |queue: &mut QueuePair| {
        let room = Data::ToHost(rig.pool.get(BLOCK).unwrap());
        queue.execute("Read", io(0x02, 0, 1), room, LIMIT).map(|done| done.status())
    };
    assert_eq!(read(&mut by_second).unwrap(), Status::SUCCESS);
    rig.table.remove_listener(NQN, second).unwrap();
    rig.engine.publish(std::sync::Arc::new(rig.table.clone()));
    let end = Instant::now() + LIMIT;
    while by_second.poll().is_ok() {
        assert!(Instant::now() < end, "it is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(queue.read(0, 1).len(), BLOCK, "the other queue and the controller stay");
    assert_eq!(host.admin(command(0x18, 0, 0, 0, 0)).0, Status::SUCCESS);
    drop((queue, host, by_second));
    rig.stop();
}

/// Connects I/O queue `qid` of the host's controller by this address.
fn attach(rig: &Rig, host: &Host, address: SocketAddr, qid: u16) -> Result<QueuePair, Status> {
    let config = HostConfig {
        header_digest: false,
        data_digest: false,
        hpda: 0,
        depth: 31,
        in_capsule_data_bytes: 8192,
    };
    let mut queue = QueuePair::open(address, config, LIMIT).unwrap();
    let mut buf = rig.pool.get(1024).unwrap();
    let cntlid = host.client.info().cntlid;
    let data = ConnectData::new(rig.options(HOST).host_id, cntlid, NQN, HOST);
    buf.as_mut_slice()[..1024].copy_from_slice(data.as_bytes());
    let sqe = ConnectCommand::new(qid, 32, false, 0).to_sqe();
    let done = queue.execute("Connect", sqe, Data::ToController(buf), LIMIT).unwrap();
    if done.status().is_success() { Ok(queue) } else { Err(done.status()) }
}

/// Two targets that serve one subsystem have controller ids of their own each: hosts refuse a path
/// whose controller has the id of another's.
#[test]
fn a_range_of_controller_ids_is_had_by_all_cores() {
    const SHARED: &str = "nqn.2026-01.io.mdof:shared";
    let mut rig = Rig::plain();
    rig.table.remove_ns(NQN, 1).unwrap();
    let (bdev, geometry) = rig.only_bdev();
    let spec = SubsystemSpec { allow_any_host: true, ..SubsystemSpec::new(SHARED) };
    let spec = SubsystemSpec { min_cntlid: 0x8000, max_cntlid: 0x8003, ..spec };
    rig.table.create_subsystem(&spec).unwrap();
    rig.table.add_ns(SHARED, &NamespaceSpec::new(bdev, &geometry)).unwrap();
    rig.table.add_listener(SHARED, rig.address).unwrap();
    rig.publish();
    let options = ClientOptions { subsystem_nqn: SHARED.to_owned(), ..rig.options(HOST) };
    let (mut hosts, mut busy) = (Vec::new(), 0);
    // Which core a host comes to is not its choice.
    while hosts.len() < 4 && busy < 200 {
        match try_connect(&rig, options.clone()) {
            Ok(mut host) => {
                let queue = works(&mut host);
                hosts.push((host, queue));
            }
            refused => {
                assert!(is_busy(refused));
                busy += 1;
            }
        }
    }
    let mut ids: Vec<u16> = hosts.iter().map(|(host, _)| host.client.info().cntlid).collect();
    ids.sort_unstable();
    assert_eq!(ids, [0x8000, 0x8001, 0x8002, 0x8003]);
    assert!(is_busy(try_connect(&rig, options.clone())), "all are taken");
    let (first, queue) = hosts.swap_remove(0);
    let free = first.client.info().cntlid;
    drop((first, queue));
    let end = Instant::now() + LIMIT;
    let again = loop {
        match try_connect(&rig, options.clone()) {
            Ok(host) => break host,
            refused => assert!(is_busy(refused) && Instant::now() < end),
        }
    };
    assert_eq!(again.client.info().cntlid, free, "the only one");
    for (_, queue) in &mut hosts {
        assert_eq!(queue.read(3, 1), [5; BLOCK]);
    }
    drop((again, hosts));
    rig.stop();
}

fn cntlids(host: &mut Host, cns: u32, nsid: u32, from: u16) -> Result<Vec<u16>, Status> {
    let sqe = command(0x06, nsid, cns | u32::from(from) << 16, 0, 0);
    let page = host.admin_read(sqe, 4096)?;
    let word = |at: usize| u16::from_le_bytes([page[at * 2], page[at * 2 + 1]]);
    let count = usize::from(word(0));
    assert!((count + 1..2048).all(|at| word(at) == 0));
    Ok((1..=count).map(word).collect())
}

#[test]
fn identify_lists_the_controllers_of_all_cores() {
    let mut rig = Rig::plain();
    let hidden = malloc(&mut rig.engine, "m1", 64);
    let nsid = rig.add_ns(hidden);
    rig.table.mask_ns(NQN, nsid).unwrap();
    rig.table.show_ns(NQN, nsid, OTHER).unwrap();
    rig.publish();
    let mut hosts: Vec<Host> = (0..4).map(|_| rig.host()).collect();
    hosts.push(rig.connect(rig.options(OTHER)));
    let mut all: Vec<u16> = hosts.iter().map(|host| host.client.info().cntlid).collect();
    let last = all[4];
    all.sort_unstable();
    for host in &mut hosts {
        assert_eq!(cntlids(host, 0x13, 0, 0), Ok(all.clone()));
        assert_eq!(cntlids(host, 0x12, 1, 0), Ok(all.clone()));
        assert_eq!(cntlids(host, 0x13, 0, all[2]), Ok(all[2..].to_vec()), "from there on");
        assert_eq!(cntlids(host, 0x12, 2, 0), Ok(vec![last]), "one host sees it");
        assert_eq!(cntlids(host, 0x12, 3, 0), Ok(vec![]), "there is none");
        let refused = Err(Status::INVALID_FIELD.dnr());
        assert_eq!(cntlids(host, 0x12, u32::MAX, 0), refused);
    }
    // Asked for, and gone before the answer.
    let mut leaver = rig.host();
    let room = Data::ToHost(leaver.pool.get(4096).unwrap());
    leaver.client.admin().submit(command(0x06, 0, 0x13, 0, 0), room, 1);
    leaver.client.admin().poll().unwrap();
    drop(leaver);
    assert!(cntlids(&mut hosts[0], 0x12, 1, 0).unwrap().len() >= 5);
    drop(hosts);
    rig.stop();
}

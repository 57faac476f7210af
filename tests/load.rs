//! Many hosts, many queues, and hosts that come and go in every way: all of them are served, none
//! leaves anything behind, and what they cost is bounded and told.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "load/rig.rs"]
mod rig;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mdof::initiator::{Client, ClientError, ClientOptions, QueuePair};
use mdof::limits::{
    CONNECTION_BYTES_MAX, CONNECTIONS_PER_CORE_MAX, CONNECTIONS_TO_REFUSE, IO_QUEUE_DEPTH_MAX,
};
use mdof::reactor::buf::BufPool;
use mdof::wire::nvme::Status;
use rig::{Farewell, HOST_NQN, LIMIT, NQN, Rig};

/// Writes and reads back on all queues at once, `depth` requests a queue, each queue at a place of
/// its own.
fn all_work(queues: &mut [QueuePair], depth: u16, pool: BufPool) {
    let lba_of = |number: usize, slot: u16| (number * usize::from(depth) + usize::from(slot)) * 8;
    let pattern = |number: usize, slot: u16| u8::try_from((number * 7 + usize::from(slot)) % 251);
    for (number, queue) in queues.iter_mut().enumerate() {
        for slot in 0..depth {
            let mut buf = pool.get(4096).unwrap();
            buf.as_mut_slice().fill(pattern(number, slot).unwrap());
            queue.submit_write(1, lba_of(number, slot) as u64, 8, buf, slot.into());
        }
        queue.poll().unwrap();
    }
    for queue in queues.iter_mut() {
        for _ in 0..depth {
            let done = queue.wait("a write", LIMIT).unwrap();
            assert!(done.status().is_success(), "{:?}", done.status());
        }
    }
    for (number, queue) in queues.iter_mut().enumerate() {
        for slot in 0..depth {
            let buf = pool.get(4096).unwrap();
            queue.submit_read(1, lba_of(number, slot) as u64, 8, buf, slot.into());
        }
        queue.poll().unwrap();
    }
    for (number, queue) in queues.iter_mut().enumerate() {
        for _ in 0..depth {
            let done = queue.wait("a read", LIMIT).unwrap();
            assert!(done.status().is_success(), "{:?}", done.status());
            let wanted = pattern(number, u16::try_from(done.tag).unwrap()).unwrap();
            assert!(done.buf.unwrap().as_slice().iter().all(|&byte| byte == wanted));
        }
    }
}

#[test]
fn a_thousand_idle_connections_and_256_that_work() {
    let Some(rig) = Rig::start("crowd", 64, 3000) else { return };
    let before = rig.total();
    let pool = BufPool::on_heap([256 * 4 + 64, 0, 0, 0]);
    let idle: Vec<_> = (0..8).map(|_| rig.host(124, 16, pool)).collect();
    let mut active: Vec<_> = (0..2).map(|_| rig.host(128, 16, pool)).collect();
    let total = rig.total();
    assert_eq!((total.admin, total.io), (10, 8 * 124 + 2 * 128));
    assert_eq!(total.unassociated, 0);
    for (client, queues) in &mut active {
        for _ in 0..3 {
            all_work(queues, 2, pool);
        }
        client.keep_alive().unwrap();
    }
    let mut both: Vec<QueuePair> = active.iter_mut().flat_map(|(_, q)| q.drain(..)).collect();
    for _ in 0..3 {
        all_work(&mut both, 4, pool);
    }
    let after = rig.total();
    let done = after.completed - before.completed;
    assert_eq!(done, 2 * 3 * 128 * 2 * 2 + 3 * 256 * 4 * 2, "commands are counted");
    // Memory of each connection, and of all.
    let listed = rig.queues();
    assert_eq!(listed.len(), 10 + 8 * 124 + 2 * 128);
    for queue in &listed {
        assert_eq!(queue["state"], "enabled");
        assert_eq!(queue["hostnqn"], HOST_NQN);
        let bytes = queue["memory_bytes"].as_u64().unwrap();
        assert!((16_384..=CONNECTION_BYTES_MAX as u64).contains(&bytes), "{bytes}");
    }
    let sum: u64 = listed.iter().map(|queue| queue["memory_bytes"].as_u64().unwrap()).sum();
    assert_eq!(after.memory, sum, "the sum is that of the parts");
    let controllers = rig.controllers();
    assert_eq!(controllers.len(), 10);
    let queues = |of: &serde_json::Value| of["num_io_qpairs"].as_u64().unwrap();
    assert_eq!(controllers.iter().map(queues).sum::<u64>(), 8 * 124 + 2 * 128);
    drop((idle, active, both));
    rig.wait_until_alone();
    rig.stop();
}

#[test]
fn one_host_with_128_queues_of_depth_128() {
    let Some(rig) = Rig::start("deep", 128, 500) else { return };
    // A queue of n entries takes n - 1 commands.
    let depth = u16::try_from(IO_QUEUE_DEPTH_MAX - 1).unwrap();
    let pool = BufPool::on_heap([128 * usize::from(depth) + 16, 0, 0, 0]);
    let (client, mut queues) = rig.host(128, depth + 1, pool);
    all_work(&mut queues, depth, pool);
    let total = rig.total();
    assert_eq!((total.io, total.completed), (128, 2 * 128 * u64::from(depth)));
    client.disconnect().unwrap();
    drop(queues);
    rig.wait_until_alone();
    rig.stop();
}

#[test]
fn storms_of_connections_leave_nothing_behind() {
    let Some(rig) = Rig::start("storm", 32, 1000) else { return };
    let pool = BufPool::on_heap([1024, 8, 64, 0]);
    let mut resident_kib = Vec::new();
    rig.wait_until_alone();
    let files = rig.files();
    for _ in 0..6 {
        let mut crowd = Vec::new();
        for number in 0..160 {
            crowd.push(rig.guest(Farewell::ALL[number % Farewell::ALL.len()], pool));
        }
        drop(crowd);
        rig.wait_until_alone();
        rig.wait_until("descriptors are closed", |_| rig.files() == files);
        resident_kib.push(rig.resident_kib());
    }
    let total = rig.total();
    assert!(total.accepted >= 6 * 160, "{total:?}");
    // The first storms find the heap's size; afterwards a connection's worth of growth each would
    // be 6 to 20 MiB.
    let (middle, last) = (resident_kib[2], resident_kib[5]);
    assert!(last <= middle + 2048, "memory grows with every storm: {resident_kib:?} KiB");
    let (_client, mut queues) = rig.host(1, 16, pool);
    all_work(&mut queues, 8, pool);
    drop(queues);
    rig.stop();
}

#[test]
fn a_host_that_finds_no_room_is_told_so() {
    let Some(rig) = Rig::start_on_one_core("full", CONNECTIONS_PER_CORE_MAX + 500) else { return };
    let pool = BufPool::on_heap([64, 0, 0, 0]);
    let (_client, mut queues) = rig.host(1, 16, pool);
    let room = CONNECTIONS_PER_CORE_MAX - CONNECTIONS_TO_REFUSE;
    let mut silent: Vec<TcpStream> = Vec::new();
    let since = Instant::now();
    loop {
        // Those that send no Connect are ended after a while; on a slow machine others follow.
        while rig.total().all() < room as u64 {
            silent.extend((0..64).map(|_| rig.raw()));
        }
        match Client::connect(rig.options(), pool) {
            Err(ClientError::Status { status, .. }) => {
                assert_eq!(status.sc(), Status::CONNECT_CONTROLLER_BUSY.sc(), "{status:?}");
                break;
            }
            Ok(client) => drop(client),
            // Not even that could be said.
            Err(ClientError::Closed { .. } | ClientError::Io { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
        assert!(since.elapsed() < LIMIT, "nobody is ever refused");
        silent.retain(rig::is_open);
    }
    assert!(rig.total().refused > 0);
    // Those who were there before notice nothing, and when there is room others come.
    all_work(&mut queues, 8, pool);
    drop(silent);
    rig.wait_until("there is room again", |total| total.all() < 64);
    let (_other, mut others) = rig.host(1, 16, pool);
    all_work(&mut others, 8, pool);
    drop((queues, others));
    let text = rig.stop();
    assert!(text.contains("this core has no room for more hosts"), "{text}");
    assert!(text.lines().count() < 2000, "the log is flooded");
}

#[test]
fn a_target_without_descriptors_waits_for_them() {
    let Some(mut rig) = Rig::start_on_one_core("files", 400) else { return };
    let pool = BufPool::on_heap([64, 0, 0, 0]);
    let (_client, mut queues) = rig.host(1, 16, pool);
    // The kernel looks at the limit when it is told to accept.
    rig.limit_files(rig.files() as u64 + 20);
    rig.listen_elsewhere();
    // The system takes connections up to the backlog; the target has no descriptor for most.
    let crowd: Vec<TcpStream> = (0..100).map(|_| rig.raw()).collect();
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        all_work(&mut queues, 8, pool);
    }
    rig.limit_files(1000);
    let address: SocketAddr = rig.address;
    let options = ClientOptions { limit: LIMIT, ..ClientOptions::new(address, NQN, HOST_NQN) };
    let other = Client::connect(options, pool).unwrap();
    drop((other, crowd, queues));
    let text = rig.stop();
    let complaints = text.lines().filter(|line| line.contains("Too many open files")).count();
    assert!((1..20).contains(&complaints), "{complaints} complaints: {text}");
}

#[test]
fn a_peer_that_vanishes_is_asked_for_by_tcp() {
    let Some(rig) = Rig::start("half-open", 16, 100) else { return };
    let stream = rig.raw();
    let port = stream.local_addr().unwrap().port();
    rig.wait_until("it is accepted", |total| total.unassociated == 1);
    // Linux: remote address and port in the third column, timer in the sixth; 02 is keep-alive.
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!(":{port:04X}");
    let of_target = |line: &&str| {
        line.split_ascii_whitespace().nth(2).is_some_and(|address| address.ends_with(&remote))
    };
    let line = table.lines().find(of_target).unwrap();
    let timer = line.split_ascii_whitespace().nth(5).unwrap();
    assert!(timer.starts_with("02:"), "no keep-alive timer: {line}");
    drop(stream);
    rig.stop();
}

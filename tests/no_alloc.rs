//! After warm-up no allocation happens per I/O on the way NVMe/TCP → RAID with bitmap → null.
//!
//! One test in a binary of its own, because the counting allocator counts the whole process: the
//! target's cores and the initiator that drives them.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "support/allocations.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod allocations;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mdof::bdev::Device;
use mdof::bdev::null::NullDevice;
use mdof::engine::{EngineConfig, EngineHandle};
use mdof::initiator::{Client, ClientOptions, QueuePair};
use mdof::md;
use mdof::raid::assembly::{self, ArrayOptions, CandidateBdev};
use mdof::reactor::buf::{BufPool, CLASS_COUNTS};
use mdof::target::subsystem::{NamespaceSpec, SubsystemSpec, SubsystemTable};
use uuid::Uuid;

const NQN: &str = "nqn.2026-01.io.mdof:no-alloc";
const DEPTH: u16 = 32;
const MEMBER_BLOCKS: u64 = 1 << 18;

/// A target on two cores: an array over null bdevs, exported on a port the kernel chose.
fn target(level: md::Level, slots: u8) -> (EngineHandle, SocketAddr) {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get().min(2));
    let config = EngineConfig {
        cores: (0..cores).collect(),
        poll_always: false,
        buffer_counts: CLASS_COUNTS,
    };
    let mut engine = EngineHandle::start(config).unwrap();
    let members: Vec<CandidateBdev> = (0..slots)
        .map(|slot| {
            let name = format!("member{slot}");
            let null = NullDevice::new(&name, Uuid::new_v4(), 4096, MEMBER_BLOCKS, true).unwrap();
            let bdev = engine.add_bdev(Device::Null(null)).unwrap();
            CandidateBdev::plain(bdev)
        })
        .collect();
    let mut creation = md::create(&md::NewArray {
        name: "no-alloc".to_owned(),
        set_uuid: [1; 16],
        ctime: md::Timestamp::from_unix(0, 0),
        assume_clean: true,
        members: (0..slots)
            .map(|slot| md::NewMember {
                device_sectors: MEMBER_BLOCKS * 8,
                logical_block_size: 4096,
                device_uuid: [slot + 2; 16],
            })
            .collect(),
    })
    .unwrap();
    // What mdof creates is a mirror as yet; the members' sizes are the same.
    for superblock in &mut creation.superblocks {
        superblock.level = level;
        if level != md::Level::Raid1 {
            superblock.layout = 2;
            superblock.chunk_sectors = 128;
        }
    }
    let options = ArrayOptions {
        name: "array".to_owned(),
        block_size_bytes: 4096,
        owner_core: 0,
        daemon_sleep_s: 30,
        barrier_idle_s: 5,
    };
    let config = assembly::from_creation(options, &creation, &members);
    let array = engine.start_array(config).unwrap();
    let mut table = SubsystemTable::new();
    table
        .create_subsystem(&SubsystemSpec { allow_any_host: true, ..SubsystemSpec::new(NQN) })
        .unwrap();
    let geometry = engine.geometry(array).unwrap().clone();
    let namespace = NamespaceSpec {
        nsid: None,
        bdev: array,
        geometry: &geometry,
        uuid: None,
        nguid: None,
        eui64: None,
    };
    table.add_ns(NQN, &namespace).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    table.add_listener(NQN, address).unwrap();
    engine.publish(Arc::new(table));
    engine.listen(address).unwrap();
    (engine, address)
}

/// Reads and writes 4 KiB and 128 KiB at random places until `count` commands have ended.
fn work(queue: &mut QueuePair, pool: &BufPool, blocks: u64, count: u64) {
    let (mut sent, mut ended, mut random) = (0u64, 0u64, 1u64);
    while ended < count {
        while sent < count && queue.can_submit() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let blocks_each = if random >> 60 == 0 { 32 } else { 1 };
            let Some(buf) = pool.get(usize::from(blocks_each) * 4096) else { break };
            let lba = (random >> 20) % (blocks - 32);
            if random >> 59 & 1 == 0 {
                queue.submit_read(1, lba, blocks_each, buf, sent);
            } else {
                queue.submit_write(1, lba, blocks_each, buf, sent);
            }
            sent += 1;
        }
        queue.poll().unwrap();
        while let Some(completion) = queue.next_completion() {
            assert!(completion.status().is_success(), "{:?}", completion.status());
            ended += 1;
        }
    }
}

#[test]
fn io_allocates_nothing() {
    // One after the other: the allocations of a process are counted.
    let levels =
        [(md::Level::Raid1, 2, 20_000), (md::Level::Raid5, 4, 4000), (md::Level::Raid6, 5, 4000)];
    for (level, slots, count) in levels {
        level_allocates_nothing(level, slots, count);
    }
}

fn level_allocates_nothing(level: md::Level, slots: u8, count: u64) {
    let (mut engine, address) = target(level, slots);
    let pool = BufPool::on_heap([256, 64, 64, 0]);
    let mut options = ClientOptions::new(address, NQN, "nqn.2026-01.io.mdof:host");
    options.limit = Duration::from_secs(20);
    let mut client = Client::connect(options, pool).unwrap();
    client.request_queues(2).unwrap();
    let blocks = client.identify_namespace(1).unwrap().blocks;
    let mut queues = [1, 2].map(|qid| client.open_io_queue(qid, DEPTH).unwrap());
    for queue in &mut queues {
        // Every chunk becomes Dirty, and every pool finds its size.
        work(queue, &pool, blocks, count);
    }
    let allocations = allocations::of_process(|| {
        for queue in &mut queues {
            work(queue, &pool, blocks, count);
        }
    });
    assert_eq!(allocations, 0, "allocations during {count} commands a queue, {level:?}");
    drop(queues);
    drop(client);
    engine.close_connections();
    engine.stop();
}

//! RAID4, RAID5 and RAID6 in the target itself: two hosts' queues on two cores write to the same
//! rows, read back what they wrote, and leave parity behind that fits the data.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mdof::bdev::malloc::MallocDevice;
use mdof::bdev::{BdevId, Device};
use mdof::engine::{EngineConfig, EngineHandle};
use mdof::initiator::{Client, ClientOptions, QueuePair};
use mdof::md;
use mdof::parity::{Kernels, Verdict};
use mdof::raid::assembly::{self, ArrayOptions, CandidateBdev};
use mdof::raid::assembly_log::plan_log;
use mdof::raid::geometry::{Geometry, Parity, Shape};
use mdof::reactor::buf::{BufPool, CLASS_COUNTS};
use mdof::target::subsystem::{NamespaceSpec, SubsystemSpec, SubsystemTable};
use uuid::Uuid;

const NQN: &str = "nqn.2026-01.io.mdof:parity";
const BLOCK: usize = 512;
const MEMBER_BLOCKS: u64 = 1 << 15;
const STRIP_SECTORS: u32 = 16;

struct Target {
    engine: EngineHandle,
    array: BdevId,
    address: SocketAddr,
    members: Vec<CandidateBdev>,
    data_lba: u64,
    geometry: Geometry,
}

fn target(level: md::Level, slots: u8) -> Target {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get().min(2));
    let config = EngineConfig {
        cores: (0..cores).collect(),
        poll_always: false,
        buffer_counts: CLASS_COUNTS,
    };
    let mut engine = EngineHandle::start(config).unwrap();
    let mut member = |slot: u8| {
        let name = format!("member{slot}");
        let device = MallocDevice::new(&name, Uuid::new_v4(), 512, MEMBER_BLOCKS).unwrap();
        let bdev = engine.add_bdev(Device::Malloc(device)).unwrap();
        CandidateBdev { unmap: true, ..CandidateBdev::plain(bdev) }
    };
    let members: Vec<CandidateBdev> = (0..slots).map(&mut member).collect();
    let mut creation = md::create(&md::NewArray {
        name: "parity".to_owned(),
        set_uuid: [1; 16],
        ctime: md::Timestamp::from_unix(0, 0),
        assume_clean: false,
        members: (0..slots)
            .map(|slot| md::NewMember {
                device_sectors: MEMBER_BLOCKS,
                logical_block_size: 512,
                device_uuid: [slot + 2; 16],
            })
            .collect(),
    })
    .unwrap();
    for superblock in &mut creation.superblocks {
        superblock.level = level;
        superblock.layout = 2;
        superblock.chunk_sectors = STRIP_SECTORS;
    }
    let first = &creation.superblocks[0];
    let geometry = Geometry::new(&Shape {
        level: if level == md::Level::Raid6 { 6 } else { 5 },
        layout: 2,
        raid_disks: slots.into(),
        chunk_sectors: STRIP_SECTORS,
        size_sectors: first.size_sectors,
        member_sectors: &[],
        block_size_bytes: 512,
    });
    let options = ArrayOptions {
        name: "parity".to_owned(),
        block_size_bytes: 512,
        owner_core: 0,
        daemon_sleep_s: 30,
        barrier_idle_s: 5,
    };
    let data_lba = first.data_offset_sectors;
    let mut config = assembly::from_creation(options, &creation, &members);
    // With the stripe log, as always.
    let run = [9; 16];
    plan_log(&mut config, Some(&creation.bitmap), u16::try_from(cores).unwrap(), run);
    assert!(config.log.kept.is_some(), "{}", config.log.why_off);
    let array = engine.start_array(config).unwrap();
    let address = serve(&mut engine, array);
    Target { engine, array, address, members, data_lba, geometry: geometry.unwrap() }
}

fn serve(engine: &mut EngineHandle, array: BdevId) -> SocketAddr {
    let mut table = SubsystemTable::new();
    let spec = SubsystemSpec { allow_any_host: true, ..SubsystemSpec::new(NQN) };
    table.create_subsystem(&spec).unwrap();
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
    address
}

/// What a block holds: its number and the number of its write.
fn fill(block: &mut [u8], lba: u64, version: u64) {
    for (at, byte) in block.iter_mut().enumerate() {
        let word = lba.wrapping_mul(0x9e37_79b9).wrapping_add(version.wrapping_mul(0x85eb_ca6b));
        *byte = u8::try_from((word >> (at % 24)) & 0xff).unwrap() ^ u8::from(at % 7 == 0);
    }
}

/// Blocks of one request at most: this many in a row belong to one queue, then to the other.
const TURN: u64 = 4;

/// Writes at random places of the queue's own blocks; `versions` knows what was written last.
fn write_some(
    queues: &mut [QueuePair; 2],
    pool: &BufPool,
    versions: &mut [u64],
    random: &mut u64,
    count: u64,
) {
    let turns = versions.len() as u64 / (2 * TURN);
    for _ in 0..count {
        for (index, queue) in (0u64..).zip(queues.iter_mut()) {
            assert!(queue.can_submit());
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let len = 1 + (*random >> 40) % TURN;
            // Mostly the same few rows, so that both cores want them.
            let turn = if *random >> 61 == 0 { (*random >> 20) % turns } else { *random >> 58 };
            let lba = (turn * 2 + index) * TURN;
            let mut buf = pool.get(usize::try_from(len).unwrap() * BLOCK).unwrap();
            let version = *random >> 8;
            for (at, block) in (lba..).zip(buf.as_mut_slice().chunks_mut(BLOCK)) {
                fill(block, at, version);
            }
            let range = usize::try_from(lba).unwrap()..usize::try_from(lba + len).unwrap();
            versions[range].fill(version);
            // One at a time: a host does not overlap its own writes.
            queue.submit_write(1, lba, u16::try_from(len).unwrap(), buf, 0);
        }
        for queue in queues.iter_mut() {
            drain(queue);
        }
    }
}

fn drain(queue: &mut QueuePair) {
    let mut ended = 0;
    while ended < 1 {
        queue.poll().unwrap();
        while let Some(completion) = queue.next_completion() {
            assert!(completion.status().is_success(), "{:?}", completion.status());
            ended += 1;
        }
    }
}

/// Everything reads as it was written last, and zeroes elsewhere.
fn check(engine: &mut EngineHandle, array: BdevId, versions: &[u64]) {
    let mut expected = vec![0; BLOCK];
    for (lba, versions) in (0u64..).step_by(64).zip(versions.chunks(64)) {
        let blocks = u32::try_from(versions.len()).unwrap();
        let data = engine.read(array, lba, blocks).unwrap();
        for (at, (block, &version)) in (lba..).zip(data.chunks(BLOCK).zip(versions)) {
            match version {
                0 => expected.fill(0),
                version => fill(&mut expected, at, version),
            }
            assert!(block == expected, "block {at}, version {version:x}");
        }
    }
}

/// Parity of all rows on the members.
fn check_parity(target: &mut Target) {
    let Geometry::Parity(parity) = &target.geometry else { unreachable!() };
    let parity: Parity = parity.clone();
    let kernels = Kernels::detect();
    let strip = parity.strip_blocks();
    for row in 0..parity.rows() {
        let layout = parity.row(row);
        let mut strips = Vec::new();
        for member in &target.members {
            let lba = target.data_lba + row * strip;
            strips
                .push(target.engine.read(member.bdev, lba, u32::try_from(strip).unwrap()).unwrap());
        }
        let mut data: Vec<(u8, &[u8])> = (0..parity.data_members())
            .map(|index| {
                let order = if layout.q().is_some() { layout.power(index) } else { index };
                (order, &strips[usize::from(layout.data_slot(index))][..])
            })
            .collect();
        data.sort_by_key(|(order, _)| *order);
        let data: Vec<&[u8]> = data.into_iter().map(|(_, strip)| strip).collect();
        let p = Some(&strips[usize::from(layout.p())][..]);
        let q = layout.q().map(|slot| &strips[usize::from(slot)][..]);
        assert_eq!(kernels.check(&data, p, q), Verdict::Consistent, "row {row}");
    }
}

#[test]
fn two_cores_share_rows_and_parity_fits() {
    for (level, slots) in [(md::Level::Raid5, 3), (md::Level::Raid4, 5), (md::Level::Raid6, 5)] {
        let mut target = target(level, slots);
        let pool = BufPool::on_heap([64, 16, 16, 0]);
        let mut options = ClientOptions::new(target.address, NQN, "nqn.2026-01.io.mdof:host");
        options.limit = Duration::from_secs(20);
        let mut client = Client::connect(options, pool).unwrap();
        client.request_queues(2).unwrap();
        let blocks = client.identify_namespace(1).unwrap().blocks;
        let mut queues = [1, 2].map(|qid| client.open_io_queue(qid, 32).unwrap());
        let mut versions = vec![0; usize::try_from(blocks).unwrap()];
        let mut random = 7;
        for _ in 0..3 {
            write_some(&mut queues, &pool, &mut versions, &mut random, 300);
            check(&mut target.engine, target.array, &versions);
        }
        drop(queues);
        drop(client);
        target.engine.close_connections();
        target.engine.stop_array(target.array).unwrap();
        check_parity(&mut target);
        target.engine.stop();
    }
}

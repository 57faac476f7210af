//! The target that is counted: runs under callgrind, does what is said on its standard input.

use std::io::{self, BufRead, Write};
use std::time::Duration;

use mdof::bdev::malloc::MallocDevice;
use mdof::bdev::null::NullDevice;
use mdof::bdev::{BdevId, Device};
use mdof::bitmap::ChunkState;
use mdof::engine::{EngineConfig, EngineHandle};
use mdof::md;
use mdof::raid::BitmapConfig;
use mdof::raid::assembly::{ArrayOptions, CandidateBdev, from_creation};
use mdof::reactor::buf::CLASS_COUNTS;
use mdof::target::subsystem::{NamespaceSpec, SubsystemSpec, SubsystemTable};
use rustix::thread::{CpuSet, sched_getaffinity};
use uuid::Uuid;

use super::{callgrind, loopback};

pub(crate) const NQN: &str = "nqn.2026-01.io.mdof:command-cost";
pub(crate) const BLOCK_SIZE_BYTES: u32 = 4096;

/// Bdevs in the order of their namespaces.
pub(crate) const NAMESPACES: [&str; 4] = ["null", "malloc", "RAID1 without", "RAID1 with bitmap"];

/// Every namespace has so many blocks at least.
pub(crate) const BLOCKS: u64 = 30 * 1024;
const BDEV_BLOCKS: u64 = 32 * 1024;

/// Longer than any measurement: what is Dirty stays so.
const DAEMON_SLEEP_S: u32 = 24 * 3600;

fn null(engine: &mut EngineHandle, name: &str) -> BdevId {
    let null = NullDevice::new(name, Uuid::new_v4(), BLOCK_SIZE_BYTES, BDEV_BLOCKS, false);
    engine.add_bdev(Device::Null(null.expect("a size"))).expect("a bdev")
}

fn malloc(engine: &mut EngineHandle) -> BdevId {
    let malloc = MallocDevice::new("malloc", Uuid::new_v4(), BLOCK_SIZE_BYTES, BDEV_BLOCKS);
    engine.add_bdev(Device::Malloc(malloc.expect("memory"))).expect("a bdev")
}

/// A mirror of two null bdevs.
fn mirror(engine: &mut EngineHandle, name: &str, bitmap: bool) -> BdevId {
    let bdevs = [0, 1].map(|slot| null(engine, &format!("{name}-m{slot}")));
    let member = |slot: u8| md::NewMember {
        device_sectors: BDEV_BLOCKS * u64::from(BLOCK_SIZE_BYTES) / md::SECTOR_BYTES,
        logical_block_size: BLOCK_SIZE_BYTES,
        device_uuid: [slot; 16],
    };
    let creation = md::create(&md::NewArray {
        name: name.to_owned(),
        set_uuid: [u8::from(bitmap); 16],
        ctime: md::Timestamp::from_unix(1, 0),
        assume_clean: true,
        members: vec![member(1), member(2)],
    })
    .expect("a plain array");
    let options = ArrayOptions {
        name: name.to_owned(),
        block_size_bytes: BLOCK_SIZE_BYTES,
        owner_core: 0,
        daemon_sleep_s: DAEMON_SLEEP_S,
        barrier_idle_s: 5,
    };
    let candidates: Vec<CandidateBdev> = bdevs
        .iter()
        .map(|&bdev| CandidateBdev::of(bdev, engine.geometry(bdev).expect("just made")))
        .collect();
    let mut config = from_creation(options, &creation, &candidates);
    if !bitmap {
        config.bitmap = BitmapConfig::None { resync: false };
    }
    engine.start_array(config).expect("a plain array")
}

/// Writes to every chunk, so that all are Dirty, durably.
fn dirty_all(engine: &mut EngineHandle, array: BdevId) {
    let status = engine.array_status(array).expect("it runs");
    let blocks = engine.geometry(array).expect("it runs").blocks;
    let step = status.chunk_size_bytes / u64::from(BLOCK_SIZE_BYTES);
    let block = vec![0; BLOCK_SIZE_BYTES as usize];
    for lba in (0..blocks).step_by(usize::try_from(step).expect("small")) {
        engine.write(array, lba, &block).expect("null takes all");
    }
    let histogram = engine.array_status(array).expect("it runs").histogram;
    let all: u64 = histogram.iter().sum();
    assert_eq!(histogram[ChunkState::Dirty as usize], all, "every chunk was written");
}

/// Tells the other side where it listens, then does what it is told: `zero` and `dump`, each
/// answered by the turns with work so far. Ends with its input.
pub(crate) fn serve() {
    assert!(callgrind::is_here(), "this part is for callgrind, on x86-64; run command-cost");
    // The engine's thread for authentication wants random numbers at once. It is the last that gets
    // the CPU, and OpenSSL's beginning takes long here.
    drop(mdof::secure::random(4));
    let usable = sched_getaffinity(None).expect("the own CPUs");
    let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| usable.is_set(cpu)).expect("there is one");
    let config = EngineConfig { cores: vec![last], poll_always: true, buffer_counts: CLASS_COUNTS };
    let mut engine = EngineHandle::start(config).expect("an engine");
    let bdevs = [
        null(&mut engine, "null"),
        malloc(&mut engine),
        mirror(&mut engine, "without", false),
        mirror(&mut engine, "with", true),
    ];
    dirty_all(&mut engine, bdevs[3]);
    let mut table = SubsystemTable::new();
    let spec = SubsystemSpec { allow_any_host: true, ..SubsystemSpec::new(NQN) };
    table.create_subsystem(&spec).expect("a name");
    for bdev in bdevs {
        let geometry = engine.geometry(bdev).expect("just made");
        assert!(geometry.blocks >= BLOCKS, "a member has room for so much");
        table.add_ns(NQN, &NamespaceSpec::new(bdev, geometry)).expect("room");
    }
    let address = loopback::serve(&mut engine, table, NQN);
    tell(&address.to_string());
    for line in io::stdin().lock().lines() {
        match line.expect("text").as_str() {
            "zero" => callgrind::zero(),
            "dump" => callgrind::dump(),
            other => panic!("{other} is not known"),
        }
        tell(&engine.counters()[0].busy_turns.get().to_string());
    }
    engine.close_connections();
    std::thread::sleep(Duration::from_millis(10));
    bdevs[2..].iter().for_each(|&array| engine.stop_array(array).expect("it is idle"));
    engine.stop();
}

fn tell(text: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").expect("the other side reads");
    out.flush().expect("the other side reads");
}

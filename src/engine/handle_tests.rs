//! An engine with arrays and nobody who uses them.

use std::time::{Duration, Instant};

use super::*;
use crate::bdev::null::NullDevice;
use crate::md::{self, NewArray, NewMember, Timestamp};
use crate::raid::BitmapConfig;
use crate::raid::assembly::{ArrayOptions, CandidateBdev, from_creation};
use crate::reactor::buf::CLASS_COUNTS;

const BLOCKS: u64 = 32 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

/// A mirror of two null bdevs, clean.
fn mirror(engine: &mut EngineHandle, bitmap: bool) -> BdevId {
    let add = |slot: u8| {
        let null = NullDevice::new(&format!("m{slot}"), uuid::Uuid::new_v4(), 4096, BLOCKS, false);
        engine.add_bdev(Device::Null(null.unwrap())).unwrap()
    };
    let bdevs: Vec<CandidateBdev> = [0, 1].map(add).map(CandidateBdev::plain).to_vec();
    let member = |slot: u8| NewMember {
        device_sectors: BLOCKS * 8,
        logical_block_size: 4096,
        device_uuid: [slot; 16],
    };
    let creation = md::create(&NewArray {
        name: "idle".to_owned(),
        set_uuid: [9; 16],
        ctime: Timestamp::from_unix(1, 0),
        assume_clean: true,
        members: vec![member(1), member(2)],
    });
    let options = ArrayOptions {
        name: "idle".to_owned(),
        block_size_bytes: 4096,
        owner_core: 0,
        daemon_sleep_s: 30,
        barrier_idle_s: 5,
    };
    let mut config = from_creation(options, &creation.unwrap(), &bdevs);
    if !bitmap {
        config.bitmap = BitmapConfig::None { resync: false };
    }
    engine.start_array(config).unwrap()
}

/// It looked for chunks to resync for ever where there are none.
#[test]
fn a_core_with_a_clean_array_sleeps() {
    for bitmap in [true, false] {
        let config =
            EngineConfig { cores: vec![0], poll_always: false, buffer_counts: CLASS_COUNTS };
        let mut engine = EngineHandle::start(config).unwrap();
        let array = mirror(&mut engine, bitmap);
        let sleeps = |engine: &EngineHandle| engine.counters()[0].sleeps.get();
        let (before, began) = (sleeps(&engine), Instant::now());
        while sleeps(&engine) < before + 2 {
            assert!(began.elapsed() < PATIENCE, "it has no rest, bitmap: {bitmap}");
            std::thread::sleep(Duration::from_millis(5));
        }
        engine.stop_array(array).unwrap();
        engine.stop();
    }
}

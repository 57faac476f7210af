//! Bdevs and arrays that live only as long as the measurement.

use mdof::bdev::malloc::MallocDevice;
use mdof::bdev::null::NullDevice;
use mdof::bdev::{BdevId, Device};
use mdof::engine::EngineHandle;
use mdof::md::{self, Creation, Features, NewArray, NewMember, Timestamp};
use mdof::raid::BitmapConfig;
use mdof::raid::assembly::{ArrayOptions, CandidateBdev, from_creation};
use uuid::Uuid;

use crate::job::PerfError;
use crate::place::Leaf;

/// Logical block size of everything built here: that of the demo's files.
const BLOCK_SIZE_BYTES: u32 = 512;
/// md's times for the lockless bitmap.
const DAEMON_SLEEP_S: u32 = 30;
const BARRIER_IDLE_S: u32 = 5;
/// Longer than any measurement.
const DAEMON_SLEEP_S_STEADY: u32 = 7 * 24 * 3600;

/// Adds a bdev.
pub(super) fn add_leaf(
    engine: &mut EngineHandle,
    name: &str,
    leaf: &Leaf,
) -> Result<BdevId, PerfError> {
    let uuid = Uuid::new_v4();
    let blocks = |size_bytes: u64| size_bytes / u64::from(BLOCK_SIZE_BYTES);
    let device = match *leaf {
        // A read leaves its buffer as it is: what is measured is everything else.
        Leaf::Null { size_bytes } => {
            NullDevice::new(name, uuid, BLOCK_SIZE_BYTES, blocks(size_bytes), false)
                .map(Device::Null)
        }
        Leaf::Malloc { size_bytes } => {
            MallocDevice::new(name, uuid, BLOCK_SIZE_BYTES, blocks(size_bytes)).map(Device::Malloc)
        }
    };
    let device = device.map_err(|error| PerfError(error.to_string()))?;
    Ok(engine.add_bdev(device)?)
}

/// Adds an array and its members. What a fresh array is made of is not written to them: nobody
/// will ever assemble it.
pub(super) fn add_raid1(
    engine: &mut EngineHandle,
    name: &str,
    members: &[Leaf],
    bitmap: bool,
    steady: bool,
) -> Result<BdevId, PerfError> {
    let mut bdevs = Vec::with_capacity(members.len());
    let mut new_members = Vec::with_capacity(members.len());
    for (index, member) in members.iter().enumerate() {
        let bdev = add_leaf(engine, &format!("{name}m{index}"), member)?;
        let geometry = engine.geometry(bdev).expect("it was just added");
        bdevs.push(CandidateBdev { bdev, unmap: geometry.unmap });
        new_members.push(NewMember {
            device_sectors: geometry.size_bytes() / md::SECTOR_BYTES,
            logical_block_size: BLOCK_SIZE_BYTES,
            device_uuid: Uuid::new_v4().into_bytes(),
        });
    }
    let uuid = Uuid::new_v4();
    let mut creation = md::create(&NewArray {
        name: name.to_owned(),
        set_uuid: uuid.into_bytes(),
        ctime: Timestamp::from_unix(0, 0),
        assume_clean: false,
        members: new_members,
    })
    .map_err(|error| PerfError(error.to_string()))?;
    if !bitmap {
        remove_bitmap(&mut creation);
    }
    let options = ArrayOptions {
        name: name.to_owned(),
        block_size_bytes: BLOCK_SIZE_BYTES,
        owner_core: 0,
        daemon_sleep_s: if steady { DAEMON_SLEEP_S_STEADY } else { DAEMON_SLEEP_S },
        barrier_idle_s: BARRIER_IDLE_S,
    };
    let mut config = from_creation(options, &creation, &bdevs);
    if !bitmap {
        config.bitmap = BitmapConfig::None { resync: false };
    }
    Ok(engine.start_array(config)?)
}

fn remove_bitmap(creation: &mut Creation) {
    for superblock in &mut creation.superblocks {
        superblock.features.remove(Features::BITMAP_OFFSET);
        superblock.bitmap_offset_sectors = 0;
    }
}

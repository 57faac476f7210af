//! Bdevs and arrays that live only as long as the measurement.

use std::path::Path;

use mdof::bdev::delay::{DelayDevice, LatenciesUs};
use mdof::bdev::malloc::MallocDevice;
use mdof::bdev::null::NullDevice;
use mdof::bdev::uring::{UringDevice, UringOptions};
use mdof::bdev::{BdevId, Device, DeviceError};
use mdof::bitmap::Infection;
use mdof::engine::EngineHandle;
use mdof::md::{self, NewArray, NewLevel, NewLog, NewMember, Timestamp};
use mdof::raid::assembly::{ArrayOptions, CandidateBdev, from_level};
use uuid::Uuid;

use crate::job::PerfError;
use crate::place::{Leaf, Level, STRIP_BYTES_DEFAULT};

/// Logical block size of everything built here: that of the demo's files.
const BLOCK_SIZE_BYTES: u32 = 512;
/// md's times for the lockless bitmap.
const DAEMON_SLEEP_S: u32 = 30;
const BARRIER_IDLE_S: u32 = 5;
/// Longer than any measurement.
const DAEMON_SLEEP_S_STEADY: u32 = 24 * 3600;

impl From<DeviceError> for PerfError {
    fn from(error: DeviceError) -> Self {
        Self(error.to_string())
    }
}

/// Adds a bdev.
pub(crate) fn add_leaf(
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
    Ok(engine.add_bdev(device?)?)
}

/// Adds a filter that makes requests to `base` last.
pub(crate) fn add_delay(
    engine: &mut EngineHandle,
    name: &str,
    base: BdevId,
    latencies_us: LatenciesUs,
) -> Result<BdevId, PerfError> {
    let geometry = engine.geometry(base).expect("it was built here");
    let device = DelayDevice::new(name, Uuid::new_v4(), base, geometry, latencies_us);
    Ok(engine.add_bdev(Device::Delay(device))?)
}

/// Adds a file that exists.
pub(crate) fn add_file(
    engine: &mut EngineHandle,
    name: &str,
    path: &Path,
) -> Result<BdevId, PerfError> {
    let device = UringDevice::open(UringOptions {
        name: name.to_owned(),
        path: path.to_owned(),
        block_size_bytes: None,
        uuid: Uuid::new_v4(),
    })?;
    Ok(engine.add_bdev(Device::Uring(device))?)
}

/// An array to be made of bdevs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ArrayPlan {
    pub(crate) level: Level,
    /// Bytes of a strip, where the level has strips.
    pub(crate) strip_size_bytes: u64,
    /// With the lockless bitmap.
    pub(crate) bitmap: bool,
    /// The members are taken to be alike: nothing is copied at first.
    pub(crate) assume_clean: bool,
    pub(crate) daemon_sleep_s: u32,
    pub(crate) barrier_idle_s: u32,
    pub(crate) infection: Infection,
    /// How much of each member it takes; `None`: all.
    pub(crate) member_size_bytes: Option<u64>,
}

impl ArrayPlan {
    /// A mirror as mdof makes one by default.
    pub(crate) fn new(bitmap: bool) -> Self {
        Self {
            level: Level::Raid1,
            strip_size_bytes: STRIP_BYTES_DEFAULT,
            bitmap,
            assume_clean: false,
            daemon_sleep_s: DAEMON_SLEEP_S,
            barrier_idle_s: BARRIER_IDLE_S,
            infection: Infection::default(),
            member_size_bytes: None,
        }
    }

    fn md_level(&self) -> md::Level {
        match self.level {
            Level::Raid0 => md::Level::Raid0,
            Level::Raid1 => md::Level::Raid1,
            Level::Raid4 => md::Level::Raid4,
            Level::Raid5 => md::Level::Raid5,
            Level::Raid6 => md::Level::Raid6,
            Level::Raid10 => md::Level::Raid10,
        }
    }

    /// The same with a daemon that does not wake: what is Dirty stays so.
    pub(crate) fn steady(self) -> Self {
        Self { daemon_sleep_s: DAEMON_SLEEP_S_STEADY, ..self }
    }
}

/// Adds an array and its members.
pub(super) fn add_with_members(
    engine: &mut EngineHandle,
    name: &str,
    members: &[Leaf],
    plan: &ArrayPlan,
) -> Result<BdevId, PerfError> {
    let mut bdevs = Vec::with_capacity(members.len());
    for (index, member) in members.iter().enumerate() {
        bdevs.push(add_leaf(engine, &format!("{name}m{index}"), member)?);
    }
    add_array(engine, name, &bdevs, plan)
}

/// Adds an array. What a fresh array is made of is not written to its members: nobody will ever
/// assemble it.
pub(crate) fn add_array(
    engine: &mut EngineHandle,
    name: &str,
    members: &[BdevId],
    plan: &ArrayPlan,
) -> Result<BdevId, PerfError> {
    let geometry = |bdev: &BdevId| engine.geometry(*bdev).expect("it was built here");
    let block_size_bytes = geometry(&members[0]).block_size_bytes;
    let size_bytes = |bdev: &BdevId| plan.member_size_bytes.unwrap_or(geometry(bdev).size_bytes());
    let new_member = |bdev: &BdevId| NewMember {
        device_sectors: size_bytes(bdev) / md::SECTOR_BYTES,
        logical_block_size: block_size_bytes,
        device_uuid: Uuid::new_v4().into_bytes(),
    };
    let candidate = |bdev: &BdevId| CandidateBdev::of(*bdev, geometry(bdev));
    let array = NewArray {
        name: name.to_owned(),
        set_uuid: Uuid::new_v4().into_bytes(),
        ctime: Timestamp::from_unix(0, 0),
        assume_clean: plan.assume_clean,
        members: members.iter().map(new_member).collect(),
    };
    let log = if plan.bitmap { NewLog::Bitmap { chunk_bytes: None } } else { NewLog::None };
    let level =
        NewLevel { strip_bytes: plan.strip_size_bytes, log, ..NewLevel::new(plan.md_level()) };
    let creation =
        md::create_level(&array, &level).map_err(|error| PerfError(error.to_string()))?;
    let options = ArrayOptions {
        name: name.to_owned(),
        block_size_bytes,
        owner_core: 0,
        daemon_sleep_s: plan.daemon_sleep_s,
        barrier_idle_s: plan.barrier_idle_s,
    };
    let candidates: Vec<CandidateBdev> = members.iter().map(candidate).collect();
    let mut config = from_level(options, &creation, &candidates);
    config.infection = plan.infection;
    Ok(engine.start_array(config)?)
}

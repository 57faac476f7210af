//! One request to an array becomes requests to its members.

use crate::bdev::BdevId;

/// Everything an array needs to start: decided by assembly or creation, see `crate::md`.
#[derive(Debug, Clone)]
pub struct ArrayConfig {
    /// Name of the array's bdev.
    pub name: String,
    /// Core that owns the array's metadata and resync.
    pub owner_core: u16,
    /// Seconds between two passes of the daemon that turns idle Dirty chunks Clean.
    pub daemon_sleep_s: u32,
    /// Seconds a chunk must be idle before the daemon may clear it.
    pub barrier_idle_s: u32,
    /// One entry a slot (role); `None` is a missing member.
    pub members: Vec<Option<MemberConfig>>,
    /// State bytes of all chunks, as loaded (before the Reload action).
    pub bitmap: Option<BitmapImage>,
}

/// A member that takes part from the start.
#[derive(Debug, Clone)]
pub struct MemberConfig {
    /// The member's bdev.
    pub bdev: BdevId,
    /// Its superblock as read or created; the array's common fields are the same on all members.
    pub superblock: crate::md::Superblock,
}

/// The bitmap as found on disk or created.
#[derive(Debug, Clone)]
pub struct BitmapImage {
    /// Header.
    pub superblock: crate::md::BitmapSuperblock,
    /// One state byte a chunk.
    pub states: Vec<u8>,
}

/// What an operator sees of an array.
#[derive(Debug, Clone, Default)]
pub struct ArrayStatus {
    /// Per slot: bdev and "in_sync", "faulty", "rebuilding" or "missing".
    pub members: Vec<(Option<BdevId>, &'static str)>,
    /// Chunks in each of the eight bitmap states, by state value.
    pub histogram: [u64; 8],
    /// Bytes a chunk covers.
    pub chunk_size_bytes: u64,
    /// Event count of the superblocks.
    pub events: u64,
    /// Resync in progress: chunks done and chunks in all.
    pub resync: Option<(u64, u64)>,
    /// Too few members are left to serve the array.
    pub failed: bool,
    /// Bitmap blocks written since start.
    pub bitmap_writes: u64,
}

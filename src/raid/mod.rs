//! One request to an array becomes requests to its members.
//!
//! An array has a [`Channel`] on every core and one [`Owner`] on one of them.
//!
//! - A channel serves the host requests of its core. It never waits for another core on the fast
//!   path: it looks at the shared chunk map and sends the request to the members.
//! - The owner alone changes the bitmap, the superblocks and the membership, and runs resync.
//!   Channels ask it by message when a chunk is not open or a member has failed.
//!
//! Both are plain machines: requests, completions, messages and timers go in; member requests and
//! mail come out ([`message::Out`]). The rules that make the array safe:
//!
//! 1. A data write is issued only under an open chunk byte (see [`crate::bitmap`]).
//! 2. A write that some member missed is acknowledged only when that member's absence is durable
//!    on the others and every channel has stopped using it.
//! 3. Resync holds the range it copies: each channel promises that no write to it is in flight.
//! 4. Chunks in doubt are read from one member only, the one resync copies from.
//! 5. Unwritten chunks read as zeroes; before the first write to one, all of it is zeroed durably
//!    on all members. Chunks become Unwritten again only as a whole, while the owner holds them.
//!    In an array that Linux md has run Unwritten chunks may hold data: they are read as chunks in
//!    doubt, the first write makes them NeedSync, and nothing becomes Unwritten.
//!
//! What a member has listed as bad ([`bad`]) it does not have, at any level: reads, and all that is
//! read to copy or to compute, go to the others.
//!
//! Levels with parity ([`stripe`]) keep further ones:
//!
//! 6. Who changes a row's columns, or recovers them, holds the lock of its slice, on whatever core.
//!    The slice stays locked until what a member missed in it is durably of no consequence.
//! 7. Parity that may not fit the data ([`crate::bitmap::Doubt`]) is made anew from all data or not
//!    used: nothing is recovered from it, and a read of what is lost there fails. After an unclean
//!    stop without a stripe log that is so in every chunk under a write; with a member missing such
//!    an array starts by force only. Force also means that what is lost is given up: writes and the
//!    rebuild of the member take what parity says for it, so that both come to an end. Where Linux
//!    md has not built parity yet it fits what was written: that is recovered, and every write
//!    makes the parity of its columns anew.
//! 8. What reads a row by recovery counts as a write to the owner's holds: the members' blocks are
//!    not read at one moment.
//! 9. With the stripe log (`stripe_log.rs`), which is the default, an unclean stop leaves nothing
//!    in doubt: a row is written in place only when what is to be written is durable on one member
//!    more than may still fail.

mod ahead;
pub mod assembly;
pub mod assembly_log;
mod bad;
mod channel;
mod channel_bad;
mod channel_discard;
mod channel_op;
mod channel_read;
mod channel_split;
mod channel_stripe;
mod channel_stripe_io;
mod channel_stripe_log;
mod channel_stripe_whole;
mod channel_write;
mod command;
pub mod geometry;
mod knobs;
mod latency;
mod layout;
pub mod message;
pub mod newcomer;
mod owner;
mod owner_bad;
mod owner_bitmap;
mod owner_daemon;
mod owner_discard;
mod owner_errors;
mod owner_grow;
mod owner_join;
mod owner_log;
mod owner_members;
mod owner_parity;
mod owner_pause;
mod owner_rebuild;
mod owner_replace;
mod owner_resync;
mod owner_scrub;
mod owner_start;
mod owner_yield;
mod owner_zero;
mod pace;
pub mod ppl_replay;
mod spans;
mod stripe;
mod stripe_log;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use crate::bdev::BdevId;
use crate::bitmap::{Advise, ChunkMap, Doubt, Infection};
use crate::limits::{IO_SIZE_BYTES_MAX, MEMBERS_MAX};
use crate::md::{BadRange, BitmapSuperblock, Superblock};

pub use bad::BadLists;
pub use channel::Channel;
pub use command::{Command, Outcome};
pub use geometry::Geometry;
pub use knobs::{
    BARRIER_IDLE_S_DEFAULT, BARRIER_IDLE_S_MAX, DAEMON_SLEEP_S_DEFAULT, DAEMON_SLEEP_S_MAX, Knobs,
};
pub use latency::LatencySample;
pub use message::{ArrayEvent, ArrayTimer, Mail, Out, ToChannel, ToOwner};
pub use newcomer::Newcomer;
pub use owner::Owner;
pub use owner_errors::{ErrorPolicy, READ_ERRORS_MAX_DEFAULT, WriteErrorPolicy};
pub use owner_grow::{GrowthFailure, GrowthStatus, GrowthWish};
pub use owner_join::Joined;
pub use owner_replace::ReplacementStatus;
pub use owner_scrub::{ScrubAction, ScrubStatus};
pub use owner_start::VOLATILE_CHUNK_SIZE_BYTES;
pub use pace::{PACE_LATENCY_PERCENT, PACE_MIB_S_MAX, Pace};
pub use stripe_log::{LogConfig, LogPlan, SharedLog};

/// Host requests that one channel works on at a time; further ones wait in its queue.
pub const CHANNEL_OPS_MAX: usize = 1024;

/// Smallest chunk. A read spans at most 64 of them, so that one word says which are Unwritten.
pub const CHUNK_SIZE_BYTES_MIN: u64 = 4096;

const _: () = assert!(IO_SIZE_BYTES_MAX as u64 / CHUNK_SIZE_BYTES_MIN < 64);

/// Index of a member in the array: md's role number.
pub type MemberSlot = u8;

const _: () = assert!(MEMBERS_MAX <= MemberSlot::MAX as usize);

/// Everything an array needs to start: decided by assembly or creation, see `crate::md`.
#[derive(Debug, Clone)]
pub struct ArrayConfig {
    /// Name of the array's bdev.
    pub name: String,
    /// Logical block size in bytes; all members have it.
    pub block_size_bytes: u32,
    /// Core that owns the array's metadata and resync.
    pub owner_core: u16,
    /// Seconds between two passes of the daemon that turns idle Dirty chunks Clean.
    pub daemon_sleep_s: u32,
    /// Seconds a chunk must be idle before the daemon may clear it.
    pub barrier_idle_s: u32,
    /// Which neighbours of a chunk turn Dirty with it.
    pub infection: Infection,
    /// One entry a slot (role); `None` is a missing member.
    pub members: Vec<Option<MemberConfig>>,
    /// The device that is to take the place of a member which is in sync, and that member's slot.
    pub replacement: Option<(MemberSlot, MemberConfig)>,
    /// How the array remembers which chunks may differ.
    pub bitmap: BitmapConfig,
    /// Start although what missing members held can't be recovered everywhere: levels with parity
    /// after an unclean stop, where no stripe log says what was being written.
    pub force: bool,
    /// Go on without what is lost then: where parity may not fit, writes and rebuilds take what it
    /// says for what a missing member held. See [`Command::AcceptLoss`].
    pub accepts_loss: bool,
    /// Levels with parity: the stripe log.
    pub log: LogConfig,
}

/// How an array remembers which chunks may differ.
#[derive(Debug, Clone)]
pub enum BitmapConfig {
    /// It does not. After an unclean stop everything is resynced.
    None {
        /// The members may differ now.
        resync: bool,
    },
    /// The lockless bitmap, on every member or on a device of its own.
    Lockless {
        /// Header.
        superblock: BitmapSuperblock,
        /// One state byte a chunk as found on disk: of several copies the more cautious byte.
        states: Vec<u8>,
        /// The bitmap is older than the superblocks: every chunk ever written may differ.
        stale: bool,
        /// The members' copies may differ, so each unit is to be written again.
        rewrite: bool,
        /// The device that holds the only copy, from its first block on; `None`: the members do,
        /// where their superblocks say.
        external: Option<BdevId>,
    },
}

/// A member that takes part from the start.
#[derive(Debug, Clone)]
pub struct MemberConfig {
    /// The member's bdev.
    pub bdev: BdevId,
    /// The member frees space on unmap and then reads zeroes.
    pub unmap: bool,
    /// It zeroes a range of any length in about the same time.
    pub cheap_zeroes: bool,
    /// Its superblock as read or created; the array's common fields are the same on all members.
    pub superblock: Superblock,
    /// What it lacks, if it is being rebuilt.
    pub lacks: Option<Lacks>,
    /// What its bad-block log lists.
    pub bad_blocks: Vec<BadRange>,
}

/// What a member that is being rebuilt has to be given, besides the chunks in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    /// The chunks that are neither Clean nor Unwritten: nothing else changed while it was away.
    Changed,
    /// Those, and from this chunk on all that was ever written.
    AllFrom(usize),
}

impl Lacks {
    /// First chunk from which on Clean ones are to be copied as well.
    fn all_from(self) -> usize {
        match self {
            Self::Changed => usize::MAX,
            Self::AllFrom(chunk) => chunk,
        }
    }
}

/// What an operator sees of an array.
#[derive(Debug, Clone, Default)]
pub struct ArrayStatus {
    /// Per slot: bdev and state.
    pub members: Vec<(Option<BdevId>, &'static str)>,
    /// Chunks in each of the eight bitmap states, by state value; zeroes without a bitmap.
    pub histogram: [u64; 8],
    /// Bytes a chunk covers; 0 without a bitmap.
    pub chunk_size_bytes: u64,
    /// Logical block size in bytes.
    pub block_size_bytes: u32,
    /// Event count of the superblocks.
    pub events: u64,
    /// Resync in progress: chunks done and chunks in all.
    pub resync: Option<(u64, u64)>,
    /// How fast is copied at most.
    pub pace: Pace,
    /// The check that runs, or the last one.
    pub scrub: Option<ScrubStatus>,
    /// Rebuild in progress, or the copy to a device that replaces a member.
    pub rebuild: Option<RebuildStatus>,
    /// The device that is taking a member's place.
    pub replacement: Option<ReplacementStatus>,
    /// The growth under way, or one that has failed since.
    pub growth: Option<GrowthStatus>,
    /// The array refuses writes because it has lost its metadata.
    pub failed: bool,
    /// The bitmap's settings now; `None` without a bitmap.
    pub knobs: Option<Knobs>,
    /// Writes of bitmap units to all members since start.
    pub bitmap_writes: u64,
    /// Reads that failed on a member since it joined or the array was started, by slot.
    pub read_errors: Vec<u64>,
    /// Sectors that a member could not read and that were written again, by slot; its superblock
    /// keeps the count.
    pub corrected_sectors: Vec<u32>,
    /// What the array puts up with.
    pub error_policy: ErrorPolicy,
    /// Ranges that a member has listed as bad, by slot, in blocks of its data.
    pub bad_blocks: Vec<Vec<message::BlockRange>>,
}

/// A rebuild as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildStatus {
    /// The member.
    pub slot: MemberSlot,
    /// It is in sync, and what is given its blocks is the device that replaces it.
    pub replaces: bool,
    /// Chunks copied.
    pub done: u64,
    /// Chunks to copy in all.
    pub total: u64,
    /// Wall clock in seconds since 1970 when it began.
    pub began_s: u64,
    /// Chunks from the first on after which a restart would go on.
    pub checkpoint: u64,
}

/// What owner and channels of an array share: fixed values and the chunk map.
#[derive(Debug)]
pub struct Shared {
    /// The array's own bdev.
    pub bdev: BdevId,
    /// Logical block size in bytes.
    pub block_size_bytes: u32,
    /// Where every block lies.
    pub geometry: Geometry,
    /// Size in logical blocks.
    pub blocks: u64,
    /// Size of the sync space in logical blocks; 0 without redundancy.
    pub sync_blocks: u64,
    /// log2 of the blocks of a chunk. Chunks divide the sync space, see [`geometry`].
    pub chunk_shift: u32,
    /// The chunk map; `None` for an array without a bitmap that has nothing to resync.
    pub map: Option<ChunkMap>,
    /// The map is kept on the members, so that discarded chunks can be told from written ones.
    pub discards: bool,
    /// Per slot: bdev and first data block at the start. Members come and go later: each machine
    /// keeps a list of its own, see [`ToChannel::Place`].
    pub members: Vec<Option<MemberPlace>>,
    /// The member that is being replaced at the start, and where what replaces it has its data.
    pub replacement: Option<(MemberSlot, MemberPlace)>,
    /// Chunks called Unwritten read as zeroes. Not so in an array that Linux md has run: there
    /// they may hold data, see [`Superblock::unwritten_reads_zero`].
    pub unwritten_reads_zero: bool,
    /// Levels with parity: where it may not fit the data.
    pub doubt: Doubt,
    /// Levels with parity: the stripe log, if it is kept.
    pub log: Option<SharedLog>,
    /// What the members have listed as bad. Each machine has a copy.
    pub bad: BadLists,
}

/// Where a member's data lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberPlace {
    /// The member's bdev.
    pub bdev: BdevId,
    /// Block of the member that holds block 0 of the array.
    pub data_lba: u64,
    /// `Unmap` may be sent to it.
    pub unmap: bool,
    /// It zeroes a range of any length in about the same time.
    pub cheap_zeroes: bool,
}

/// Since when each slot's member has been in sync, by membership change; 0 from the start. The
/// member that chunks in doubt are read and copied from is the one that is longest in sync: were
/// it the lowest slot, a member that has just been rebuilt could take over, and blocks that differ
/// would change under the host's eyes.
#[derive(Debug)]
struct Seniority(Box<[u32]>);

impl Seniority {
    fn new(slots: usize) -> Self {
        Self(vec![0; slots].into_boxed_slice())
    }

    /// These members are in sync from this membership change on.
    fn came(&mut self, came: message::SlotMask, epoch: u32) {
        slots(came).for_each(|slot| self.0[usize::from(slot)] = epoch);
    }

    /// The member of the set that chunks in doubt are read and copied from.
    fn source_of(&self, set: message::SlotMask) -> Option<MemberSlot> {
        slots(set).min_by_key(|&slot| self.0[usize::from(slot)])
    }
}

/// The slot of the lowest set bit.
fn lowest(set: message::SlotMask) -> Option<MemberSlot> {
    (set != 0).then(|| slot_from(set.trailing_zeros()))
}

/// The slots of a set, ascending.
pub(crate) fn slots(mask: message::SlotMask) -> impl Iterator<Item = MemberSlot> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let slot = lowest(rest)?;
        rest &= rest - 1;
        Some(slot)
    })
}

/// The set with one slot.
fn bit(slot: MemberSlot) -> message::SlotMask {
    1 << slot
}

fn slot_from(index: u32) -> MemberSlot {
    MemberSlot::try_from(index).expect("a slot is below MEMBERS_MAX")
}

/// Starts an array's machines: the state the channels share, to be given to [`Channel::new`] on
/// every core, and the owner's part.
///
/// # Errors
/// A sentence for the operator when the configuration can't be an array.
pub fn prepare(config: &ArrayConfig, bdev: BdevId) -> Result<Arc<Shared>, String> {
    prepare_in(config, bdev, &|_, _| {})
}

/// As [`prepare`]; `advise` is told of the chunk map's memory before it is used.
///
/// # Errors
/// A sentence for the operator when the configuration can't be an array.
pub fn prepare_in(
    config: &ArrayConfig,
    bdev: BdevId,
    advise: Advise<'_>,
) -> Result<Arc<Shared>, String> {
    owner_start::shared(config, bdev, advise).map(Arc::new)
}

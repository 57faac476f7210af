//! What the channels of an array (one a core) and its owner (on one core) tell each other.
//!
//! All of it is small and `Copy`; it travels in the reactor's mailboxes, or in the core's own
//! queue when sender and receiver share a core. Messages of one sender arrive in order.

use std::collections::VecDeque;
use std::fmt;

use super::latency::LatencySample;
use super::owner_grow::GrowthFailure;
use super::owner_pause::{REST_S_MAX as PAUSE_REST_S_MAX, SPELL_MS as PAUSE_MS};
use super::{MemberPlace, MemberSlot};
use crate::bdev::{IoQueue, IoStatus};

/// A set of member slots.
pub type SlotMask = u64;

/// A run of array blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRange {
    /// First logical block.
    pub lba: u64,
    /// Number of logical blocks.
    pub blocks: u64,
}

impl BlockRange {
    /// Whether the two runs share a block.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.lba < other.lba + other.blocks && other.lba < self.lba + self.blocks
    }
}

/// A write that found a chunk not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartWrite {
    /// The channel's operation, named again in the answer.
    pub op: u32,
    /// First chunk of the write.
    pub first: u32,
    /// Last chunk of the write.
    pub last: u32,
}

/// Whole chunks that the host wants to read as zeroes from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discard {
    /// The channel's operation, named again in the answer.
    pub op: u32,
    /// First chunk.
    pub first: u32,
    /// Last chunk.
    pub last: u32,
}

/// Numbers of a ring of the stripe log for records of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticket {
    /// The first number.
    pub sequence: u64,
    /// All records of the ring below this one are in place, durably.
    pub floor: u64,
    /// How many; none for who only reads, and where nothing can be logged any more.
    pub count: u8,
}

/// What a write that has ended says about a member's list of bad blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadNote {
    /// The channel's operation or stripe, named again in the answer.
    pub op: u32,
    /// The member.
    pub slot: MemberSlot,
    /// Blocks of the member's data.
    pub range: BlockRange,
    /// They were written; else they could not be.
    pub is_good: bool,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It is on record, and everybody knows.
    Kept,
    /// The member has failed.
    Refused,
    /// Nobody else has what could not be written, nor can compute it: the write has failed.
    Lost,
}

/// How the work on a slice has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowEnd {
    /// The slice.
    pub slice: u64,
    /// The numbers that came with its lock.
    pub ticket: Ticket,
    /// The records are durable on the members.
    pub logged: bool,
    /// What they say is in place durably, or nothing was written in place.
    pub done: bool,
}

/// From a channel to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToOwner {
    /// Open these chunks, then answer [`ToChannel::Granted`].
    StartWrite(StartWrite),
    /// Make these chunks Unwritten, then answer [`ToChannel::Discarded`].
    Discard(Discard),
    /// A request that changes or flushes data failed on this member and nowhere recorded is that.
    MemberFailed(MemberSlot),
    /// A read failed on this member and was served by another.
    ReadFailed(MemberSlot, BlockRange),
    /// A list of bad blocks is concerned; answer [`ToChannel::BadNoted`].
    BadNote(BadNote),
    /// A write failed on every member: its chunks may differ between them now.
    WriteLost {
        /// First chunk of the write.
        first: u32,
        /// Last chunk of the write.
        last: u32,
    },
    /// The channel uses the membership of this epoch from now on.
    Adopted(u32),
    /// Every write that was in flight when the channel got this quiesce round has ended.
    Quiesced(u32),
    /// No request to the slot that this drain round asks about is under way.
    Drained(u32),
    /// How long its requests took since it was asked last.
    Latency(LatencySample),
    /// No write to the window's range is in flight, and none will start.
    Locked(u8),
    /// The answer to [`ToChannel::Forget`] with this id: none of the channel's records of the range
    /// can be live any more, or it can't be told.
    Forgotten(u32, bool),
    /// In this round of pausing no request of the host is under way, and none will begin until
    /// [`ToChannel::Resume`].
    Paused(u32),
    /// The pause of this round is given up; these members had requests of the host that it waited
    /// for.
    PauseEnded(u32, SlotMask),
    /// The channel has the map and the size of an array that has grown.
    HasGrown,
    /// The channel takes no more requests and has none.
    Closed,
}

/// From the owner to a channel, or between the channels of a level with parity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToChannel {
    /// The chunks of this operation were open; try again.
    Granted(u32),
    /// The chunks of this operation can't be opened; end it with this status.
    Refused(u32, IoStatus),
    /// The chunks of this operation read as zeroes, durably; or could not be discarded.
    Discarded(u32, IoStatus),
    /// The slot's member has its data here. It takes part from the next `Members` on.
    Place(MemberSlot, MemberPlace),
    /// The slot's member has listed other blocks as bad than before: see [`super::BadLists`].
    BadBlocks(MemberSlot),
    /// The answer to [`ToOwner::BadNote`], for this operation and member.
    BadNoted(u32, MemberSlot, Noted),
    /// These members take part from now on; answer [`ToOwner::Adopted`].
    Members {
        /// Grows with each change.
        epoch: u32,
        /// Members that are read.
        in_sync: SlotMask,
        /// Members that are written: those in sync and those being rebuilt.
        writable: SlotMask,
        /// The member whose blocks are written to the device that replaces it, too.
        replaced: Option<MemberSlot>,
    },
    /// Begin no request of the host any more; answer [`ToOwner::Paused`] with the round's number
    /// when none is under way.
    Pause(u32),
    /// Go on.
    Resume,
    /// Go on, as the pause of this round has taken too long; answer [`ToOwner::PauseEnded`].
    EndPause(u32),
    /// The absence of these members is durable on the others.
    Recorded(SlotMask),
    /// Say when no request to the slot is under way, which takes no part: answer
    /// [`ToOwner::Drained`] with the round's number.
    Drain(u32, MemberSlot),
    /// The failure of this member can't be recorded: only it has what it holds. What it missed
    /// has failed.
    Kept(MemberSlot),
    /// Pass a quiescent point; answer [`ToOwner::Quiesced`].
    Quiesce(u32),
    /// Count how long requests take, or no longer.
    TimeRequests(bool),
    /// Say how long they took; answer [`ToOwner::Latency`].
    TellLatency,
    /// Hold back writes to the range; answer [`ToOwner::Locked`].
    Lock(u8, BlockRange),
    /// The window's range is free again.
    Unlock(u8),
    /// From the channel on this core: it wants the lock of this slice, whose home is here, and
    /// numbers for so many records; answer [`ToChannel::RowGranted`] when it is its turn.
    RowWanted(u16, u64, u8),
    /// From the slice's home: the lock is yours until you say [`ToChannel::RowFreed`].
    RowGranted(u64, Ticket),
    /// To the slice's home: its holder is done.
    RowFreed(RowEnd),
    /// Nobody writes to this range of the sync space: answer [`ToOwner::Forgotten`] with this id
    /// when no record of it can be live any more.
    Forget(u32, BlockRange),
    /// The stripe log no longer says that parity is right everywhere: rows where it is in doubt may
    /// be let go of.
    Unvouched,
    /// From the channel on this core: it has nothing under way any more. Answer
    /// [`ToChannel::LeaveTaken`]: all it ever sent has arrived then.
    Leaving(u16),
    /// The channel that answers has heard all that this one ever sent.
    LeaveTaken,
    /// The array has lost what it needs; refuse everything that changes data.
    Failed,
    /// Refuse new requests, finish the others, answer [`ToOwner::Closed`].
    Close,
}

/// A timer of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrayTimer {
    /// Time for the daemon to look for idle chunks.
    DaemonSleep,
    /// Aging chunks have been idle long enough to be cleared.
    BarrierIdle,
    /// Time to note how far a rebuild has got, or to try again what could not be read.
    Checkpoint,
    /// Time to allow more copying.
    Pace,
    /// Members have been waited for, or left alone, for a while.
    Patience,
}

/// What an operator should know. Displayed in the log with the array's name before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrayEvent {
    /// The array serves; chunks that resync will visit.
    Started {
        /// Chunks in doubt.
        chunks_need_sync: u64,
        /// Members in sync.
        in_sync: u32,
        /// Slots.
        slots: u32,
    },
    /// A member failed and is out; its absence is being recorded.
    MemberFailed {
        /// The member.
        slot: MemberSlot,
        /// Members left.
        left: u32,
        /// The operator said so; it did not fail by itself.
        as_told: bool,
    },
    /// The absence of failed members is durable; writes they missed are acknowledged.
    FailureRecorded {
        /// Event count of the superblocks that say so.
        events: u64,
    },
    /// The last member failed a request; it stays, because nothing better is left.
    LastMemberKept {
        /// The member.
        slot: MemberSlot,
    },
    /// A read failed on a member and was served by another one.
    ReadFailed {
        /// The member.
        slot: MemberSlot,
        /// First block.
        lba: u64,
    },
    /// A member has failed more reads in a short time than the array puts up with.
    TooManyReadErrors {
        /// The member.
        slot: MemberSlot,
        /// Reads that failed since it joined or the array was started.
        errors: u64,
    },
    /// The range of a failed read was written again from another member.
    ReadRepaired {
        /// The member.
        slot: MemberSlot,
        /// First block.
        lba: u64,
    },
    /// A member could not write a range, which is on its bad-block log now.
    BadBlocksListed {
        /// The member.
        slot: MemberSlot,
        /// First block of its data.
        lba: u64,
        /// Number of blocks.
        blocks: u64,
    },
    /// A member has written a range that was on its bad-block log, and is not any more.
    BadBlocksCleared {
        /// The member.
        slot: MemberSlot,
        /// First block of its data.
        lba: u64,
        /// Number of blocks.
        blocks: u64,
    },
    /// Resync begins.
    ResyncStarted {
        /// Chunks to copy.
        chunks: u64,
    },
    /// Resync has visited everything.
    ResyncDone {
        /// Chunks copied.
        chunks: u64,
        /// Chunks that no member could read.
        unreadable: u64,
    },
    /// The operator has taken a member out: its slot is empty.
    MemberRemoved {
        /// The slot.
        slot: MemberSlot,
    },
    /// A member joins; it is written from now on, and rebuilt.
    MemberJoined {
        /// The slot.
        slot: MemberSlot,
        /// It was a member before and has all but what changed since.
        guided: bool,
    },
    /// A member is being rebuilt.
    RebuildStarted {
        /// The member.
        slot: MemberSlot,
        /// Chunks to copy.
        chunks: u64,
    },
    /// A check begins.
    ScrubStarted {
        /// What differs is made alike.
        repair: bool,
    },
    /// A check has ended.
    ScrubDone {
        /// Parts of 4 KiB that differ.
        mismatches: u64,
        /// Pieces that could not be compared.
        failures: u64,
    },
    /// A rebuild goes on.
    RebuildProgress {
        /// The member.
        slot: MemberSlot,
        /// Part of the chunks that are copied.
        percent: u8,
    },
    /// A member has everything and is read from now on.
    RebuildDone {
        /// The member.
        slot: MemberSlot,
        /// Chunks copied.
        chunks: u64,
    },
    /// All but some chunks were copied to a member: those could be read from nobody.
    RebuildStalled {
        /// The member.
        slot: MemberSlot,
        /// Chunks not copied.
        unreadable: u64,
    },
    /// A device begins to take the place of a member, which serves on.
    ReplacementStarted {
        /// The member.
        slot: MemberSlot,
        /// Chunks to copy.
        chunks: u64,
    },
    /// A device has taken the place of a member, whose own is let go.
    MemberReplaced {
        /// The slot.
        slot: MemberSlot,
    },
    /// The device that was to take the place of a member has failed, or was taken away.
    ReplacementFailed {
        /// The member, which serves on.
        slot: MemberSlot,
    },
    /// A device has all that the member has whose place it is to take, and requests did not end
    /// that have to before: writes of superblocks, or those under way when the host was to rest.
    ReplacementWaits {
        /// The member, which serves on.
        slot: MemberSlot,
        /// Members that it was waited for.
        slots: SlotMask,
    },
    /// A member has failed before the device that was to take its place had everything.
    ReplacementOrphaned {
        /// The slot: the device is rebuilt in it from the other members.
        slot: MemberSlot,
    },
    /// A rebuild waits for chunks that parity may not fit, and for the operator's word.
    RebuildNeedsForce {
        /// The member.
        slot: MemberSlot,
        /// Chunks whose parity may not fit the data.
        chunks: u64,
    },
    /// A member was rebuilt, in part from parity that may not have fit the data.
    RebuildGuessed {
        /// The member.
        slot: MemberSlot,
        /// Chunks of which that is so.
        chunks: u64,
        /// Block of the array where the first of them begins.
        lba: u64,
    },
    /// The array has taken all of its larger members.
    Grown {
        /// Its blocks before.
        from_blocks: u64,
        /// Its blocks now.
        blocks: u64,
    },
    /// The array was to take all of its larger members, and has not.
    GrowthFailed {
        /// Why.
        why: GrowthFailure,
        /// Whose fault it was, if that is known.
        slots: SlotMask,
    },
    /// No member holds the bitmap any more: writes are refused.
    MetadataLost,
    /// Stopped; the superblocks say clean, or that a resync is due.
    Stopped {
        /// No chunk is in doubt.
        clean: bool,
    },
}

impl fmt::Display for ArrayEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Started { chunks_need_sync: 0, in_sync, slots } => {
                write!(f, "started with {in_sync} of {slots} members in sync")
            }
            Self::Started { chunks_need_sync, in_sync, slots } => write!(
                f,
                "started with {in_sync} of {slots} members in sync after an unclean stop; \
                 {chunks_need_sync} chunks will be resynced"
            ),
            Self::MemberFailed { slot, left, as_told: true } => write!(
                f,
                "member {slot} is taken out, as told; {left} left. That is recorded on them \
                 before any write it missed is acknowledged"
            ),
            Self::MemberFailed { slot, left, .. } => write!(
                f,
                "member {slot} failed and is no longer used; {left} left. The failure is \
                 recorded on them before any write it missed is acknowledged. Replace the member"
            ),
            Self::FailureRecorded { events } => {
                write!(f, "member failure is recorded on the others (events {events})")
            }
            Self::LastMemberKept { slot } => write!(
                f,
                "member {slot} failed a request and no other has what it has: it is kept, the \
                 request fails. Check the member and its medium"
            ),
            Self::ReadFailed { slot, lba } => write!(
                f,
                "member {slot} failed a read at block {lba}; it was served by another member \
                 and will be rewritten there"
            ),
            Self::ReadRepaired { slot, lba } => {
                write!(f, "member {slot}: block {lba} and the rest of the read were rewritten")
            }
            Self::BadBlocksListed { slot, lba, blocks } => write!(
                f,
                "member {slot} could not write {blocks} blocks from block {lba} of its data on; \
                 they are on its bad-block log now and read from the others. Replace the member"
            ),
            Self::BadBlocksCleared { slot, lba, blocks } => write!(
                f,
                "member {slot} has written {blocks} blocks from block {lba} of its data on, and \
                 they are off its bad-block log"
            ),
            Self::ResyncStarted { chunks } => write!(f, "resync of {chunks} chunks begins"),
            Self::ResyncDone { chunks, unreadable: 0 } => {
                write!(f, "resync is done, {chunks} chunks copied")
            }
            Self::ResyncDone { chunks, unreadable } => write!(
                f,
                "resync is done, {chunks} chunks copied; {unreadable} chunks could be read from \
                 no member and stay in doubt"
            ),
            Self::MetadataLost => f.write_str(
                "the bitmap could not be written to any member: writes are refused from now on. \
                 Stop the target, check the members, start again",
            ),
            Self::Stopped { clean: true } => f.write_str("stopped clean"),
            Self::Stopped { clean: false } => {
                f.write_str("stopped; the next start will resync the chunks still in doubt")
            }
            ref other => other.fmt_life(f),
        }
    }
}

impl ArrayEvent {
    /// Comings and goings, rebuilds and checks.
    fn fmt_life(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MemberRemoved { slot } => write!(f, "member {slot} was removed"),
            Self::MemberJoined { slot, guided: true } => {
                write!(f, "member {slot} is back; it will be given what changed while it was away")
            }
            Self::MemberJoined { slot, guided: false } => {
                write!(f, "member {slot} has joined; it will be given all that was ever written")
            }
            Self::Grown { from_blocks, blocks } => {
                write!(f, "grown from {from_blocks} to {blocks} blocks; what is new is empty")
            }
            Self::GrowthFailed { why, slots: 0 } => write!(f, "not grown: {why}"),
            Self::GrowthFailed { why, slots } => {
                write!(f, "not grown: {why}; it was waited for member")?;
                super::slots(slots).try_for_each(|slot| write!(f, " {slot}"))
            }
            Self::RebuildStarted { slot, chunks } => {
                write!(f, "rebuild of member {slot} begins: {chunks} chunks to copy")
            }
            Self::ScrubStarted { repair } => {
                f.write_str(if repair { "repair begins" } else { "check begins" })
            }
            Self::ScrubDone { mismatches: 0, failures: 0 } => {
                f.write_str("the check is done: the members are alike")
            }
            Self::ScrubDone { mismatches, failures } => write!(
                f,
                "the check is done: {mismatches} parts of 4 KiB differ between members, \
                 {failures} pieces could not be compared; bdev_raid_get_scrub tells where"
            ),
            Self::TooManyReadErrors { slot, errors } => write!(
                f,
                "member {slot} has failed {errors} reads, too many in too short a time: it is not \
                 used any more. bdev_raid_set_errors says how many an array puts up with"
            ),
            Self::RebuildProgress { slot, percent } => {
                write!(f, "rebuild of member {slot}: {percent} %")
            }
            Self::RebuildDone { slot, chunks } => {
                write!(f, "member {slot} is rebuilt and in sync, {chunks} chunks copied")
            }
            Self::RebuildStalled { slot, unreadable } => write!(
                f,
                "member {slot} lacks {unreadable} chunks that no member could read; it is not in \
                 sync. They are tried again every half minute, and a write of the whole chunk \
                 makes it readable"
            ),
            Self::RebuildNeedsForce { slot, chunks } => write!(
                f,
                "in {chunks} chunks parity may not fit the data, because the array went down or \
                 writes failed on too many members while they were written: what member {slot} \
                 held there can't be recovered for certain, and its rebuild waits. Bring back the \
                 member that held it; or say bdev_raid_start with force, then it is computed from \
                 that parity, and files written just before that may be damaged"
            ),
            Self::RebuildGuessed { slot, chunks, lba } => write!(
                f,
                "as force said, {chunks} chunks of member {slot} were computed from parity that \
                 may not have fit the data, the first of them at block {lba} of the array. Parity \
                 fits now; what was being written when the array went down, and what lay beside it \
                 in its rows, may be damaged: check the file systems"
            ),
            ref other => other.fmt_replacement(f),
        }
    }

    /// Members that are replaced.
    fn fmt_replacement(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ReplacementStarted { slot, chunks } => {
                write!(f, "member {slot} is being replaced and serves on: {chunks} chunks to copy")
            }
            Self::MemberReplaced { slot } => {
                write!(f, "member {slot} is replaced; the device that it was is let go")
            }
            Self::ReplacementFailed { slot } => write!(
                f,
                "what was to replace member {slot} is out; member {slot} serves on, nothing is \
                 lost. Begin anew with another device"
            ),
            Self::ReplacementWaits { slot, slots } => {
                write!(
                    f,
                    "what replaces member {slot} has everything and takes its place later: \
                     requests that have to end before did not in {PAUSE_MS} ms. Hosts go on, both \
                     devices are written, and it is tried again, after {PAUSE_REST_S_MAX} s at most"
                )?;
                if slots != 0 {
                    f.write_str("; check the device that was waited for, of member")?;
                }
                super::slots(slots).try_for_each(|slot| write!(f, " {slot}"))
            }
            Self::ReplacementOrphaned { slot } => write!(
                f,
                "member {slot} failed while it was being replaced: the newcomer is rebuilt from \
                 the other members, from its last checkpoint on"
            ),
            _ => unreachable!("the others are told above"),
        }
    }
}

/// What a machine of the array wants delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mail {
    /// To the owner.
    Owner(ToOwner),
    /// To the channel on one core.
    Channel(u16, ToChannel),
    /// To the channels on all cores.
    Channels(ToChannel),
    /// Call the owner's `timer` after so many milliseconds.
    Arm(ArrayTimer, u64),
    /// To the channels on all cores: give them [`super::Owner::shared`], by
    /// [`super::Channel::grow`].
    Grow,
    /// Tell the operator.
    Event(ArrayEvent),
    /// The array serves: the superblocks say so durably. Or it could not be started.
    Started(Result<(), IoStatus>),
    /// The array has stopped; nothing of it is in flight.
    Stopped(Result<(), IoStatus>),
}

/// Where a machine puts what it wants done. The driver empties both after each call.
#[derive(Debug)]
pub struct Out<'a> {
    /// Requests to members, and ended host requests.
    pub io: &'a mut IoQueue,
    /// Everything else.
    pub mail: &'a mut VecDeque<Mail>,
    /// Wall clock in seconds since 1970, for the superblocks' update time.
    pub wall_clock_s: u64,
}

//! What an assembly can end in: the array, or the sentence that says why not.

use thiserror::Error;

use crate::limits::MEMBERS_MAX;
use crate::md::{BitmapError, BitmapSuperblock, LayoutError, Role, Superblock};

/// Why the candidates make no array that mdof can start. Candidates are named by their index.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AssembleError {
    /// Nothing was given.
    #[error("no member was given")]
    NoCandidates,
    /// Members of two arrays.
    #[error(
        "the members belong to different arrays: member {first} to {first_uuid}, member {second} \
         to {second_uuid}; nothing was started or written"
    )]
    DifferentArrays {
        /// One candidate.
        first: usize,
        /// Its array.
        first_uuid: String,
        /// Another candidate.
        second: usize,
        /// Its array.
        second_uuid: String,
    },
    /// Spares and journals only.
    #[error("none of the members given has an active role in array {uuid}")]
    NoActiveMember {
        /// The array.
        uuid: String,
    },
    /// Numbers that the level does not have.
    #[error("array {uuid} cannot be started: {error}; nothing was started or written")]
    Layout {
        /// The array.
        uuid: String,
        /// What does not go together.
        error: LayoutError,
    },
    /// Features to come.
    #[error("array {uuid} uses {features}, which mdof cannot run yet; use Linux md for it")]
    UnsupportedFeatures {
        /// The array.
        uuid: String,
        /// Names.
        features: String,
    },
    /// Too many slots.
    #[error("array {uuid} has {slots} slots, mdof runs at most {MEMBERS_MAX}")]
    TooManySlots {
        /// The array.
        uuid: String,
        /// Slots in the superblock.
        slots: u32,
    },
    /// Both halves of a mirror were written to without the other.
    #[error(
        "member {other} says that member {freshest} failed, yet member {freshest} has {behind} \
         more events: both were used without the other. Decide which one holds the data that you \
         want and start with that one alone"
    )]
    SplitBrain {
        /// The candidate with the most events.
        freshest: usize,
        /// The candidate that believes it faulty.
        other: usize,
        /// Events between them.
        behind: u64,
    },
    /// Nobody has all the data.
    #[error("array {uuid} has no in-sync member among those given: {reasons}")]
    NoInSyncMember {
        /// The array.
        uuid: String,
        /// What became of each candidate.
        reasons: String,
    },
    /// No in-sync member has a bitmap that can be read.
    #[error(
        "the bitmap of array {uuid} cannot be used on any member (member {candidate}: {error}); \
         bitmap_lost = \"resync\" makes a new one and compares everything that the members hold; \
         nothing was started or written"
    )]
    Bitmap {
        /// The array.
        uuid: String,
        /// First in-sync candidate.
        candidate: usize,
        /// What is wrong with its bitmap.
        error: BitmapError,
    },
    /// A bitmap of the older kind.
    #[error(
        "array {uuid} has a classic bitmap, which mdof does not run; convert_bitmap = true turns \
         it into a lockless one (Linux before 6.18 cannot start the array then); nothing was \
         started or written"
    )]
    ClassicBitmap {
        /// The array.
        uuid: String,
    },
}

/// Why one candidate takes no part.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RejectionReason {
    /// Left the array some time ago.
    #[error("its superblock is {behind} events behind: it left the array and needs a re-add")]
    Stale {
        /// Events behind the freshest.
        behind: u64,
    },
    /// The others saw it fail.
    #[error("the array has recorded it as failed")]
    Faulty,
    /// No slot is assigned to it.
    #[error("it is a spare")]
    Spare,
    /// Write journal.
    #[error("it is a journal device")]
    Journal,
    /// Its number is beyond the array.
    #[error("it claims slot {slot}, the array has {slots}")]
    NoSuchSlot {
        /// Claimed.
        slot: u16,
        /// Slots of the array.
        slots: u32,
    },
    /// Two for one slot.
    #[error("slot {slot} is taken by member {by}")]
    SlotTaken {
        /// The slot.
        slot: u16,
        /// Who has it.
        by: usize,
    },
    /// A copy, or the same device by another path.
    #[error("it has the same device uuid {uuid} as member {of}: a copy, or the same device twice")]
    DuplicateDevice {
        /// The uuid.
        uuid: String,
        /// The one that is kept.
        of: usize,
    },
    /// Shrunk or truncated.
    #[error("the device has {have_sectors} sectors, its data ends at sector {need_sectors}")]
    DeviceTooSmall {
        /// Size of the device.
        have_sectors: u64,
        /// End of data or metadata.
        need_sectors: u64,
    },
    /// It describes another geometry than the freshest.
    #[error("its superblock disagrees with the freshest about the array's {field}")]
    Geometry {
        /// md's name of the field.
        field: &'static str,
    },
    /// Features of this member only.
    #[error("it uses {features}, which mdof cannot run yet")]
    UnsupportedFeatures {
        /// Names.
        features: String,
    },
}

/// A candidate that takes no part, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Index into the candidates.
    pub candidate: usize,
    /// Why.
    pub reason: RejectionReason,
}

/// Why a slot is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissingReason {
    /// No candidate was given for it, or the array knows of none.
    NotGiven,
    /// The candidate for it was rejected; its index.
    Rejected(usize),
}

/// Who fills a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// Has all data that the bitmap calls clean.
    InSync {
        /// Index into the candidates.
        candidate: usize,
    },
    /// Was being rebuilt: reads must not go to it.
    Rebuilding {
        /// Index into the candidates.
        candidate: usize,
        /// Sectors of its data that are done.
        recovery_offset_sectors: u64,
        /// The rebuild may follow the bitmap; else all that was ever written is copied.
        bitmap_guided: bool,
    },
    /// Nobody.
    Missing {
        /// Why.
        reason: MissingReason,
    },
}

/// A device that is to take the place of a member, which is there and in sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replacing {
    /// The slot of both.
    pub slot: u16,
    /// Index into the candidates.
    pub candidate: usize,
}

/// What to do about the bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BitmapPlan {
    /// The array has none.
    None,
    /// Read the states from this candidate.
    Load {
        /// Index into the candidates.
        candidate: usize,
        /// Its head.
        superblock: BitmapSuperblock,
        /// Older than the superblocks: every state but Unwritten and NeedSync is NeedSync.
        stale: bool,
    },
    /// No member has one that can be used, and the operator has asked for a new one: every chunk
    /// is NeedSync.
    Replace {
        /// Its head.
        superblock: BitmapSuperblock,
    },
    /// Created by mdadm, never started: [`BitmapSuperblock::initialise`] it.
    Initialise {
        /// Index into the candidates.
        candidate: usize,
        /// Its head.
        superblock: BitmapSuperblock,
    },
}

/// The array that the candidates make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembly {
    /// The candidate whose superblock decides.
    pub freshest: usize,
    /// Its superblock: identity, geometry, events and roles of the array. What describes a single
    /// member (offsets, device uuid, recovery) is that candidate's own.
    pub superblock: Superblock,
    /// One a slot.
    pub slots: Vec<Slot>,
    /// What is to take the place of one of the members in sync.
    pub replacement: Option<Replacing>,
    /// Slots in which there is nobody but what was to replace a member that is counted on, and is
    /// not whole.
    pub orphaned: Vec<usize>,
    /// Candidates that take no part.
    pub rejected: Vec<Rejection>,
    /// The array was in use when it was last written.
    pub dirty: bool,
    /// Where the states come from.
    pub bitmap: BitmapPlan,
    /// No bitmap tells where members may differ: all data has to be compared or copied.
    pub full_resync_needed: bool,
}

impl Assembly {
    /// Slots that are filled by an in-sync member.
    pub fn in_sync_count(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot, Slot::InSync { .. })).count()
    }

    /// A slot has nobody: redundancy is lost and nothing is under way that restores it.
    pub fn lacks_members(&self) -> bool {
        let has_missing = self.slots.iter().any(|slot| matches!(slot, Slot::Missing { .. }));
        has_missing || !self.orphaned.is_empty()
    }

    /// Slots that have nobody, though the freshest superblock counts on a member there: it has not
    /// failed as far as is known, and may hold newer data than those that are here.
    pub fn expected_slots(&self) -> Vec<usize> {
        let is_counted_on = |&slot: &usize| {
            let counts = |role: &Role| matches!(role, Role::Active(at) if usize::from(*at) == slot);
            self.superblock.roles.iter().any(counts)
        };
        let is_missing = |&slot: &usize| {
            matches!(self.slots[slot], Slot::Missing { .. }) || self.orphaned.contains(&slot)
        };
        (0..self.slots.len()).filter(is_missing).filter(is_counted_on).collect()
    }

    /// Fewer members in sync than slots.
    pub fn is_degraded(&self) -> bool {
        self.in_sync_count() < self.slots.len()
    }
}

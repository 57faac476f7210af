//! A bitmap that lies on a device or in a file of its own, for members without room for one.
//!
//! The head is at byte 0, the states from byte 1024 on, as on a member. The superblocks say what md
//! expects of an array without a bitmap, so anybody may run it without the external one, which then
//! knows nothing of what was written. Two things tell:
//!
//! - The event counts. The head's is raised, durably, before the superblocks', so that it is equal
//!   or one ahead. An array that uses an external bitmap raises them twice at a start and for a
//!   failed member: an event that a crash left to the head alone is never the last one under
//!   which writes were served, and a member that was left behind is two behind the head.
//! - mdof's mark in the superblocks ([`Superblock::unwritten_reads_zero`]), which whoever runs the
//!   array without the bitmap wipes.
//!
//! While a chunk is Unwritten the superblocks call the array dirty even after a clean stop: without
//! the bitmap nobody would know that the members differ there.
//!
//! | head found                                | outcome |
//! |-------------------------------------------|---------|
//! | events equal or one ahead, mark there     | loaded |
//! | older, or the mark is gone, or marked so  | everything is resynced |
//! | more than one ahead                       | refused: members missing here went on alone |
//! | of another array                          | refused |
//! | damaged, unreadable, gone or blank        | refused; `bitmap_lost = "resync"`: a new one |
//! | blank, array clean, whole and unmarked    | a new one, all Clean: the array gets its first |
//! | classic                                   | refused; `convert_bitmap = true`: its bits count |

use thiserror::Error;

use super::bitmap_superblock::{BitmapSuperblock, BitmapVersion, chunk_sectors_for};
use super::create::bitmap_sectors;
use super::error::BitmapError;
use super::{Assembly, Features, SECTOR_BYTES};

/// How far the head may be ahead of the superblocks: a crash between the two.
const EVENTS_AHEAD_MAX: u64 = 1;

/// What was read from the place of an external bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalHead {
    /// Zeroes, or a file that is not there.
    Blank,
    /// Something else, or it cannot be read.
    Unusable(BitmapError),
    /// A head of this array.
    Found(BitmapSuperblock),
}

/// What the operator allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExternalPermits {
    /// Turn a classic bitmap into a lockless one.
    pub convert: bool,
    /// Make a new one for one that is lost, and resync everything.
    pub lost_resync: bool,
}

/// What becomes of an external bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalPlan {
    /// Its states hold.
    Load {
        /// Its head.
        superblock: BitmapSuperblock,
    },
    /// It knows nothing of what was written last: every chunk is in doubt.
    Stale {
        /// Head of the one that takes its place.
        superblock: BitmapSuperblock,
        /// Events of the one that was found.
        events: u64,
    },
    /// It is lost: every chunk is in doubt.
    Replace {
        /// Head of the new one.
        superblock: BitmapSuperblock,
    },
    /// There was none, and the members are alike: every chunk is Clean.
    Fresh {
        /// Head of the new one.
        superblock: BitmapSuperblock,
    },
    /// A classic one, whose bits say which chunks are in doubt.
    Convert {
        /// Head of the lockless one that takes its place.
        superblock: BitmapSuperblock,
        /// Its head.
        classic: BitmapSuperblock,
        /// It is older than the superblocks: every chunk is in doubt.
        stale: bool,
    },
}

/// Why an array does not start with the external bitmap that it was given.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExternalError {
    /// The members have their own.
    #[error("its members carry a bitmap of their own; start it without naming another")]
    MembersHaveOne,
    /// The bitmap went on with other members.
    #[error(
        "it has {bitmap_events} events, the members given have {events}: members that are missing \
         here went on without these. Bring them; or, to give up what they alone hold, \
         bitmap_lost = \"resync\" starts with these and compares everything"
    )]
    Ahead {
        /// Of the bitmap.
        bitmap_events: u64,
        /// Of the freshest superblock.
        events: u64,
    },
    /// Somebody else's.
    #[error("{0}; it was not touched: name this array's own")]
    Foreign(BitmapError),
    /// It cannot be read as one.
    #[error(
        "{0}; bitmap_lost = \"resync\" makes a new one in its place and compares everything that \
         the members hold"
    )]
    Unusable(BitmapError),
    /// Nothing is there.
    #[error(
        "nothing is there, yet the array needs what it held; bring it back, or let \
         bitmap_lost = \"resync\" make a new one and compare everything that the members hold"
    )]
    Blank,
    /// A bitmap of the older kind.
    #[error(
        "it is a classic bitmap, which mdof does not run; convert_bitmap = true turns it into a \
         lockless one (Linux cannot use it then, and starts the array without)"
    )]
    Classic,
    /// No room.
    #[error("it has {have_bytes} bytes, too few for the states of the array's chunks")]
    TooSmall {
        /// Its size.
        have_bytes: u64,
    },
}

impl ExternalPlan {
    /// Decides about the bitmap in `head` on a device of `device_bytes` for the array that the
    /// members have made without it. Pure.
    ///
    /// # Errors
    /// Why it is not used; nothing may be written then.
    pub fn new(
        assembly: &Assembly,
        head: &ExternalHead,
        device_bytes: u64,
        permits: ExternalPermits,
    ) -> Result<Self, ExternalError> {
        let array = &assembly.superblock;
        if array.features.contains(Features::BITMAP_OFFSET) {
            return Err(ExternalError::MembersHaveOne);
        }
        let new = || new_head(assembly, device_bytes);
        let found = match head {
            ExternalHead::Found(found) => found,
            ExternalHead::Unusable(error @ BitmapError::Uuid { .. }) => {
                return Err(ExternalError::Foreign(error.clone()));
            }
            ExternalHead::Blank if is_alike(assembly) => {
                return Ok(Self::Fresh { superblock: new()? });
            }
            _ if permits.lost_resync => return Ok(Self::Replace { superblock: new()? }),
            ExternalHead::Blank => return Err(ExternalError::Blank),
            ExternalHead::Unusable(error) => return Err(ExternalError::Unusable(error.clone())),
        };
        let ahead = found.events.saturating_sub(array.events);
        if ahead > EVENTS_AHEAD_MAX && !mutant!(ExternalAheadTrusted) {
            if !permits.lost_resync {
                let (bitmap_events, events) = (found.events, array.events);
                return Err(ExternalError::Ahead { bitmap_events, events });
            }
            let superblock = BitmapSuperblock { events: found.events, ..new()? };
            return Ok(Self::Replace { superblock });
        }
        let is_older = found.is_stale(array.events);
        if found.version == BitmapVersion::Classic {
            if !permits.convert {
                return Err(ExternalError::Classic);
            }
            let classic = found.clone();
            return Ok(Self::Convert { superblock: new()?, classic, stale: is_older });
        }
        let is_current = !is_older && array.unwritten_reads_zero() && !found.needs_initialising();
        if is_current || mutant!(ExternalStaleTrusted) {
            return Ok(Self::Load { superblock: found.clone() });
        }
        let superblock = BitmapSuperblock {
            daemon_sleep_s: found.daemon_sleep_s,
            settings: found.settings,
            ..new()?
        };
        Ok(Self::Stale { superblock, events: found.events })
    }
}

/// Nothing is lost with a bitmap that is not there: md calls the array clean, all its members are
/// in sync, and if mdof ran it last, it ran without an external bitmap.
fn is_alike(assembly: &Assembly) -> bool {
    let is_marked = assembly.superblock.unwritten_reads_zero();
    !assembly.dirty && !assembly.is_degraded() && !is_marked
}

/// A head for chunks as large as those of an internal bitmap would be, larger where the room is
/// less.
fn new_head(assembly: &Assembly, device_bytes: u64) -> Result<BitmapSuperblock, ExternalError> {
    let array = &assembly.superblock;
    let too_small = ExternalError::TooSmall { have_bytes: device_bytes };
    let room = u32::try_from(device_bytes / SECTOR_BYTES).unwrap_or(u32::MAX);
    let reserved = bitmap_sectors(array.sync_size_sectors()).min(room);
    let chunk = chunk_sectors_for(array.sync_size_sectors(), reserved).ok_or(too_small)?;
    Ok(BitmapSuperblock::created(array, chunk, reserved))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

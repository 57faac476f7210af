//! The first superblocks of an array of any level.
//!
//! Everything lies as in [`super::create`]; what is different is how large strips are, what the
//! bitmap counts:
//!
//! ```text
//! sector 8            16                                data_offset (1 MiB multiple)
//!        │ superblock │ bitmap, or nothing │ room, headroom (stripe log) │ data …
//! ```

use thiserror::Error;

use super::create::{
    BITMAP_SECTORS_MIN, CreateError, Creation, NewArray, SIZE_SECTORS_MIN, SIZE_UNIT_SECTORS,
    bitmap_sectors, bitmap_sectors_for, check_array, chunk_sectors, data_offset, plan_bitmap,
    superblock,
};
use super::layout::{LayoutError, Raid10Word, members_min};
use super::types::{Features, Level};
use super::{SECTOR_BYTES, Superblock, default_layout};
use crate::limits::MEMBERS_MAX;

/// mdadm's chunk of a new striped array: 512 KiB.
pub const STRIP_BYTES_DEFAULT: u64 = 512 << 10;

/// Smallest strip: md asks for a page.
const STRIP_BYTES_MIN: u64 = 4096;

/// Largest strip.
const STRIP_BYTES_MAX: u64 = 1 << 30;

/// Sectors of an array at most: 2^63 bytes.
const ARRAY_SECTORS_MAX: u64 = 1 << 54;

/// Members of 1 GiB or more have more room for a stripe log.
const LARGE_SECTORS: u64 = 1 << 21;

/// How a new array remembers what may differ after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewLog {
    /// By the lockless bitmap; its chunks are of mdof's choice where no size is given.
    Bitmap {
        /// A power of two of KiB.
        chunk_bytes: Option<u64>,
    },
    /// It does not: after a crash all is resynced. The only choice for raid0 and linear.
    None,
}

/// Level and layout of an array to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewLevel {
    /// The level.
    pub level: Level,
    /// Its layout word, see [`super::layout_by_name`].
    pub layout: u32,
    /// Bytes of a strip, md's chunk; raid1 and linear have none.
    pub strip_bytes: u64,
    /// What it remembers by.
    pub log: NewLog,
}

impl NewLevel {
    /// As mdadm makes it when nothing else is said, with the lockless bitmap where one can be.
    #[must_use]
    pub fn new(level: Level) -> NewLevel {
        let log = match level {
            Level::Linear | Level::Raid0 => NewLog::None,
            _ => NewLog::Bitmap { chunk_bytes: None },
        };
        NewLevel { level, layout: default_layout(level), strip_bytes: STRIP_BYTES_DEFAULT, log }
    }

    fn has_strips(&self) -> bool {
        !matches!(self.level, Level::Raid1 | Level::Linear)
    }

    /// Sectors of a strip, 0 without.
    fn strip_sectors(&self) -> Result<u32, CreateLevelError> {
        if !self.has_strips() {
            return Ok(0);
        }
        let bytes = self.strip_bytes;
        if !bytes.is_power_of_two() || !(STRIP_BYTES_MIN..=STRIP_BYTES_MAX).contains(&bytes) {
            return Err(CreateLevelError::Strip { bytes });
        }
        Ok(u32::try_from(bytes / SECTOR_BYTES).expect("STRIP_BYTES_MAX fits"))
    }

    /// What can be assembled is not all that should be made anew.
    fn check(&self, members: usize) -> Result<(), CreateLevelError> {
        let (level, layout) = (self.level, self.layout);
        let min = usize::try_from(members_min(level, layout).max(2)).expect("a small number");
        if !(min..=MEMBERS_MAX).contains(&members) {
            return Err(CreateLevelError::MemberCount { level, min, given: members });
        }
        let is_made = match level {
            Level::Linear | Level::Raid1 | Level::Raid4 => layout == 0,
            Level::Raid0 => layout == 1 || layout == 2,
            Level::Raid5 | Level::Raid6 => layout <= 5,
            Level::Raid10 => Raid10Word::new(layout).is_some_and(|word| {
                word.set == 0 && word.copies() > 1 && (word.near == 1 || word.far == 1)
            }),
        };
        if !is_made {
            return Err(CreateLevelError::Layout { level, layout });
        }
        let fits = match self.log {
            NewLog::None => true,
            NewLog::Bitmap { .. } => !matches!(level, Level::Linear | Level::Raid0),
        };
        if fits { Ok(()) } else { Err(CreateLevelError::Log { level }) }
    }

    /// The most that a bitmap may have to cover on members of this size.
    fn sync_sectors_max(&self, smallest: u64, members: usize) -> u64 {
        match (self.level, Raid10Word::new(self.layout)) {
            (Level::Raid10, Some(word)) => {
                smallest.saturating_mul(members as u64) / u64::from(word.copies().max(1))
            }
            _ => smallest,
        }
    }

    /// Sectors to keep free behind the superblock.
    fn reserved_sectors(&self, smallest: u64, members: usize) -> Result<u32, CreateLevelError> {
        let sync = self.sync_sectors_max(smallest, members);
        Ok(match self.log {
            NewLog::Bitmap { chunk_bytes: None } => bitmap_sectors(sync),
            NewLog::Bitmap { chunk_bytes: Some(bytes) } => {
                bitmap_sectors_for(sync, chunk_sectors(bytes)?)?
            }
            // So that it can be given a bitmap later.
            NewLog::None => BITMAP_SECTORS_MIN,
        })
    }

    /// Sectors to keep free for mdof's stripe log ([`super::stripe_log`]), beside the headroom that
    /// it lies in: on small members that is next to nothing.
    fn log_sectors(&self, smallest: u64) -> u32 {
        match self.level {
            Level::Raid4 | Level::Raid5 | Level::Raid6 if smallest >= LARGE_SECTORS => 4096,
            Level::Raid4 | Level::Raid5 | Level::Raid6 => 1024,
            _ => 0,
        }
    }

    /// Sectors used of each member: what all of them have, in whole rows. md leaves it 0 where
    /// every member is used as far as it goes.
    fn size_sectors(&self, room: u64, strip: u32) -> u64 {
        match self.level {
            Level::Linear | Level::Raid0 => 0,
            Level::Raid1 => room & !(SIZE_UNIT_SECTORS - 1),
            _ => room - room % u64::from(strip),
        }
    }
}

/// Why an array of this level cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CreateLevelError {
    /// For reasons that have nothing to do with the level.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The result would be refused at assembly.
    #[error(transparent)]
    Numbers(#[from] LayoutError),
    /// Too few or too many members.
    #[error(
        "a {} of this layout takes {min} to {MEMBERS_MAX} members, {given} were given",
        .level.name()
    )]
    MemberCount {
        /// The level.
        level: Level,
        /// Fewest.
        min: usize,
        /// Members given.
        given: usize,
    },
    /// A layout that mdof does not make, though it may read it.
    #[error("a new {} cannot have the layout {layout:#x}", .level.name())]
    Layout {
        /// The level.
        level: Level,
        /// The word.
        layout: u32,
    },
    /// A strip that cannot be had.
    #[error(
        "strips of {bytes} bytes cannot be had: the size is a power of two from 4 KiB to 1 GiB"
    )]
    Strip {
        /// What was asked for.
        bytes: u64,
    },
    /// The level has no bitmap.
    #[error("a {} has no use for a bitmap", .level.name())]
    Log {
        /// The level.
        level: Level,
    },
    /// More than md's arithmetic carries.
    #[error("{members} members of {sectors} sectors make more than the 2^63 bytes that fit")]
    TooLarge {
        /// Members.
        members: usize,
        /// Sectors of the largest.
        sectors: u64,
    },
}

/// All that has to be written to the members of a new array of any level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LevelCreation {
    /// With a bitmap on every member.
    Bitmap(Creation),
    /// Without.
    Plain {
        /// One a member, in slot order.
        superblocks: Vec<Superblock>,
    },
}

impl LevelCreation {
    /// One a member, in slot order.
    #[must_use]
    pub fn superblocks(&self) -> &[Superblock] {
        match self {
            LevelCreation::Bitmap(creation) => &creation.superblocks,
            LevelCreation::Plain { superblocks } => superblocks,
        }
    }
}

/// Plans a new array of any level. Pure, as [`super::create`].
///
/// # Errors
/// Says what cannot be had and what can.
pub fn create_level(array: &NewArray, new: &NewLevel) -> Result<LevelCreation, CreateLevelError> {
    let members = array.members.len();
    new.check(members)?;
    let strip = new.strip_sectors()?;
    let smallest = check_array(array)?;
    let largest = array.members.iter().map(|member| member.device_sectors).max().unwrap_or(0);
    if largest.saturating_mul(members as u64) > ARRAY_SECTORS_MAX {
        return Err(CreateLevelError::TooLarge { members, sectors: largest });
    }
    let reserved = new.reserved_sectors(smallest, members)?;
    let data_offset = data_offset(smallest, reserved + new.log_sectors(smallest), strip);
    // A row of every far copy.
    let far = Raid10Word::new(new.layout).filter(|_| new.level == Level::Raid10);
    let rows = far.map_or(1, |word| u64::from(word.far));
    let need_sectors = data_offset + SIZE_SECTORS_MIN.max(u64::from(strip) * rows);
    for (index, member) in array.members.iter().enumerate() {
        let have_sectors = member.device_sectors;
        if have_sectors < need_sectors {
            return Err(CreateError::MemberTooSmall { index, have_sectors, need_sectors }.into());
        }
    }
    let size = new.size_sectors(smallest - data_offset, strip);
    let superblocks: Vec<Superblock> = (0..members)
        .map(|slot| of_level(superblock(array, slot, size, data_offset), array, new, strip))
        .collect();
    superblocks[0].check_layout()?;
    Ok(match new.log {
        NewLog::Bitmap { chunk_bytes } => {
            let wanted = chunk_bytes.map(chunk_sectors).transpose()?;
            LevelCreation::Bitmap(plan_bitmap(array, superblocks, wanted, reserved))
        }
        NewLog::None => LevelCreation::Plain { superblocks },
    })
}

/// Turns the superblock of a mirror with a bitmap into one of this level.
fn of_level(mirror: Superblock, array: &NewArray, new: &NewLevel, strip: u32) -> Superblock {
    let mut own =
        Superblock { level: new.level, layout: new.layout, chunk_sectors: strip, ..mirror };
    if new.level == Level::Raid0 {
        own.features |= Features::RAID0_LAYOUT;
    }
    if matches!(new.log, NewLog::Bitmap { .. }) {
        return own;
    }
    own.features.remove(Features::BITMAP_OFFSET);
    own.bitmap_offset_sectors = 0;
    own.updated_at(array.ctime.seconds(), false);
    let has_redundancy = !matches!(new.level, Level::Raid0 | Level::Linear);
    if has_redundancy && !array.assume_clean {
        // Nothing tells which blocks were never written: all of them are to be resynced.
        own.resync_offset_sectors = 0;
    }
    own
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

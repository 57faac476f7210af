//! Why a partial parity log is not believed.

use thiserror::Error;

use super::PPL_ENTRIES_MAX;

/// Why a log is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PplError {
    /// The superblock is of no array that has such a log.
    #[error(
        "a partial parity log is for raid5 with whole chunks, not for level {level} with \
         {raid_disks} members, chunks of {chunk_sectors} sectors and a size of {size_sectors}"
    )]
    Array {
        /// Level of the array.
        level: i32,
        /// Its slots.
        raid_disks: u32,
        /// Its chunk.
        chunk_sectors: u32,
        /// Its size.
        size_sectors: u64,
    },
    /// The place in the superblock is too small, outside of the member or inside of its data.
    #[error(
        "a partial parity log of {sectors} sectors at offset {offset} from the superblock is \
             too small or where the superblock or data are"
    )]
    Place {
        /// Offset claimed.
        offset: i16,
        /// Size claimed.
        sectors: u16,
    },
    /// Fewer bytes than a header.
    #[error("the header of the partial parity log is cut short: {have_bytes} bytes, not 4096")]
    Truncated {
        /// Bytes given.
        have_bytes: usize,
    },
    /// Nothing is here, or it was torn.
    #[error(
        "the header of the partial parity log has checksum {found:#010x}, not {expected:#010x}"
    )]
    Checksum {
        /// What it says.
        found: u32,
        /// What it should say.
        expected: u32,
    },
    /// The log of another array.
    #[error(
        "the partial parity log has signature {found:#010x}; that of this array is {expected:#010x}"
    )]
    Signature {
        /// What it says.
        found: u32,
        /// What it should say.
        expected: u32,
    },
    /// More entries than a header has.
    #[error("the partial parity log claims {found} entries; a header holds {PPL_ENTRIES_MAX}")]
    EntryCount {
        /// Entries claimed.
        found: u32,
    },
    /// An entry that no write can have made.
    #[error("entry {index} of the partial parity log is impossible: {why}")]
    Entry {
        /// Which.
        index: usize,
        /// Why.
        why: &'static str,
    },
}

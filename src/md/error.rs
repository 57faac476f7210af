//! Why bytes on a member are not believed, in words for the operator.

use thiserror::Error;

use super::bitmap_superblock::{BITMAP_CHUNKS_MAX, MAGIC as BITMAP_MAGIC};
use super::superblock::{MAGIC, MAX_DEV_LIMIT};

/// Why bytes are not a superblock that mdof trusts.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SuperblockError {
    /// The bytes end before the superblock does.
    #[error("the superblock is cut short: {have_bytes} bytes are there, {need_bytes} are needed")]
    Truncated {
        /// Bytes given.
        have_bytes: usize,
        /// Bytes the superblock says it has.
        need_bytes: usize,
    },
    /// No superblock is here.
    #[error("no md superblock (magic {found:#010x}, expected {MAGIC:#010x})")]
    Magic {
        /// What is there instead.
        found: u32,
    },
    /// Another major version.
    #[error("md superblock of major version {found}; mdof reads version 1")]
    MajorVersion {
        /// Version found.
        found: u32,
    },
    /// The format before version 1.
    #[error(
        "md superblock of version 0.90; mdof reads 1.0, 1.1 and 1.2, and mdadm --assemble \
         --update=metadata turns it into 1.0"
    )]
    Version090,
    /// More role entries than 4 KiB hold.
    #[error("md superblock claims {found} role entries, more than the {MAX_DEV_LIMIT} that fit")]
    MaxDev {
        /// Entries claimed.
        found: u32,
    },
    /// The sum does not match: a torn write or a flipped bit.
    #[error(
        "md superblock is damaged: its checksum is {stored:#010x}, its content sums to \
         {computed:#010x}"
    )]
    Checksum {
        /// In the superblock.
        stored: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// The superblock belongs elsewhere, such as a copy in a partition table gap.
    #[error(
        "md superblock says that it lies at sector {stored} but was read from sector {read_from}"
    )]
    Position {
        /// Sector in the superblock.
        stored: u64,
        /// Sector it was read from.
        read_from: u64,
    },
    /// Feature bits that this format description does not know.
    #[error("md superblock uses features unknown to mdof ({unknown:#x}, besides {known})")]
    UnknownFeatures {
        /// The unknown bits.
        unknown: u32,
        /// Names of the known ones.
        known: String,
    },
    /// Bytes that must be zero are not: a newer format.
    #[error("md superblock has data in padding (offset {offset}): written by a newer md?")]
    Padding {
        /// Byte offset of the padding.
        offset: usize,
    },
    /// A level md does not have, or has given up.
    #[error("md superblock has unknown RAID level {found}")]
    Level {
        /// Level found.
        found: i32,
    },
    /// A number out of the range it can have.
    #[error("md superblock has a wrong {field}: {value}")]
    Field {
        /// md's name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

/// Why a bitmap cannot be used with its array.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BitmapError {
    /// Fewer bytes than a header has.
    #[error("the bitmap superblock is cut short: {have_bytes} bytes, 256 are needed")]
    Truncated {
        /// Bytes given.
        have_bytes: usize,
    },
    /// No bitmap is where the superblock points.
    #[error("no bitmap superblock (magic {found:#010x}, expected {BITMAP_MAGIC:#010x})")]
    Magic {
        /// What is there instead.
        found: u32,
    },
    /// A kind that mdof does not read.
    #[error("the bitmap is of version {found} ({name}); mdof reads 6 (lockless) and 4 (classic)")]
    Version {
        /// Version found.
        found: u32,
        /// What it is called.
        name: &'static str,
    },
    /// The bitmap of another array.
    #[error("the bitmap belongs to array {found}, the superblock to array {expected}")]
    Uuid {
        /// In the bitmap.
        found: String,
        /// In the superblock.
        expected: String,
    },
    /// A chunk size that no bitmap can have.
    #[error("the bitmap's chunk size {found} is not a power of two")]
    ChunkNotPowerOfTwo {
        /// Chunk size found, in the unit of its version.
        found: u32,
    },
    /// The chunks do not fit the space set aside.
    #[error(
        "the bitmap's chunks of {chunk_sectors} sectors are too small: {chunks} states do not fit \
         the {sectors_reserved} sectors set aside"
    )]
    ChunkTooSmall {
        /// Sectors of a chunk.
        chunk_sectors: u32,
        /// Chunks that result.
        chunks: u64,
        /// Space.
        sectors_reserved: u32,
    },
    /// More chunks than mdof tracks.
    #[error("the bitmap has {chunks} chunks, mdof tracks at most {BITMAP_CHUNKS_MAX}")]
    TooManyChunks {
        /// Chunks that result.
        chunks: u64,
    },
    /// A daemon period of zero.
    #[error("the bitmap's daemon_sleep is 0 s; md refuses that as well")]
    DaemonSleep,
    /// The bitmap describes an array of another size.
    #[error("the bitmap covers {found_sectors} sectors, the array has {expected_sectors}")]
    SyncSize {
        /// In the bitmap.
        found_sectors: u64,
        /// In the superblock.
        expected_sectors: u64,
    },
    /// The bitmap would lie over the superblock, the data or the bad-block log.
    #[error("the bitmap (sectors {start} to {end}) overlaps the {other} of the member")]
    Overlap {
        /// First sector.
        start: u64,
        /// First sector behind it.
        end: u64,
        /// With what.
        other: &'static str,
    },
    /// Two current heads of one array contradict each other.
    #[error("its chunk size is not that of member {other}")]
    Disagree {
        /// The other candidate.
        other: usize,
    },
    /// The device failed to read it.
    #[error("it cannot be read ({reason})")]
    Unreadable {
        /// What the device said.
        reason: String,
    },
    /// The superblock has no bitmap or points outside of the member.
    #[error("the superblock names no usable bitmap position")]
    NoPosition,
}

//! Linux md's on-disk format, byte for byte.
//!
//! Bytes come in, trusted values go out ([`Unverified::parse`]), and back
//! ([`Superblock::encode_into`]). Nothing here does I/O or reads a clock; positions are 512-byte
//! sectors of the member.
//!
//! ```text
//! sector 0        8            16                       16+reserved   data_offset
//!        │        │ superblock │ bitmap head + states   │ room         │ data …
//! ```

mod assemble;
mod bad_blocks;
mod bitmap_superblock;
mod classic;
mod create;
mod create_level;
mod display;
mod error;
mod external;
mod grow;
mod layout;
mod member_state;
mod ppl;
mod raw;
mod settings;
pub mod stripe_log;
mod superblock;
mod types;

pub use assemble::{
    AssembleError, Assembly, BitmapPlan, Candidate, MissingReason, Rejection, RejectionReason,
    Replacing, Slot, assemble, assemble_lost_bitmap, check_member,
};
pub use bad_blocks::{
    BAD_BLOCK_ENTRIES_WRITTEN_MAX, BAD_BLOCK_LOG_SECTORS_MAX, BadBlockError, BadRange,
    bad_block_log_sector, encode_bad_blocks, parse_bad_blocks,
};
pub use bitmap_superblock::{
    BITMAP_CHUNKS_MAX, BITMAP_HEAD_BYTES, BitmapFlags, BitmapSuperblock, BitmapVersion,
    InitialState, STATES_OFFSET_BYTES, chunk_sectors_for, state_offset_bytes,
};
pub use classic::{
    CLASSIC_BITS_OFFSET_BYTES, Conversion, ConvertError, classic_bits_bytes, mark_in_doubt,
};
pub use create::{
    BITMAP_AREA_BYTES_MAX, CHUNK_KIB_MAX, CHUNK_KIB_MIN, CreateError, Creation, NewArray,
    NewMember, create, create_with_chunk,
};
pub use create_level::{
    CreateLevelError, LevelCreation, NewLevel, NewLog, STRIP_BYTES_DEFAULT, create_level,
};
pub use display::Examine;
pub use error::{BitmapError, SuperblockError};
pub use external::{ExternalError, ExternalHead, ExternalPermits, ExternalPlan};
pub use grow::{GrowError, Growth, Unfinished, plan_growth, take_up, unfinished};
pub use layout::{LayoutError, Raid10Word, default_layout, layout_by_name, layout_name};
pub use member_state::MemberState;
pub use ppl::{
    PPL_ENTRIES_MAX, PPL_HEADER_BYTES, PPL_SPACE_BYTES, PplArray, PplEntry, PplError, PplHeader,
    PplPlace, PplSearch, PplSpan, PplWriter, ppl_checksum,
};
pub use settings::Settings;
pub use superblock::{Reshape, SUPERBLOCK_READ_BYTES, Superblock, Unverified, candidate_sectors};
pub use types::{
    BadBlockLog, DevFlags, Features, Level, MinorVersion, Role, Timestamp, format_uuid,
};

/// md counts in sectors of this size whatever the logical block size is.
pub const SECTOR_BYTES: u64 = 512;

/// md's `MaxSector`: as `resync_offset_sectors` it says that the array is clean.
pub const MAX_SECTOR: u64 = u64::MAX;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

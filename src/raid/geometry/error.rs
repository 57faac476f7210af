//! Why the numbers of a superblock are no geometry.

use thiserror::Error;

use super::{ARRAY_SECTORS_MAX, CHUNK_SECTORS_MAX};
use crate::limits::MEMBERS_MAX;

/// Why a [`super::Shape`] is refused; each names md's field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GeometryError {
    /// A level md does not have, or has given up.
    #[error("level: {found} is no RAID level that mdof knows")]
    Level {
        /// Its number.
        found: i32,
    },
    /// A layout word that the level does not have.
    #[error("layout: {level} has no layout {found:#x}: {why}")]
    Layout {
        /// Name of the level.
        level: &'static str,
        /// The word.
        found: u32,
        /// What it should be.
        why: &'static str,
    },
    /// Too few or too many slots.
    #[error("raid_disks: {level} takes {min} to {MEMBERS_MAX} members, not {found}")]
    Slots {
        /// Name of the level.
        level: &'static str,
        /// Slots given.
        found: u32,
        /// Fewest that do.
        min: u32,
    },
    /// A strip that blocks or rows cannot be counted in.
    #[error(
        "chunksize: {level} cannot have chunks of {found_sectors} sectors: {why} \
         (and at most {CHUNK_SECTORS_MAX} sectors)"
    )]
    Chunk {
        /// Name of the level.
        level: &'static str,
        /// Sectors given.
        found_sectors: u32,
        /// The rule.
        why: &'static str,
    },
    /// Less than the smallest array.
    #[error("size: {found_sectors} sectors of each member do not hold one {unit}")]
    Size {
        /// Sectors given.
        found_sectors: u64,
        /// What does not fit.
        unit: &'static str,
    },
    /// More than 2^63 bytes.
    #[error(
        "{field}: {slots} members of {found_sectors} sectors are more than the {ARRAY_SECTORS_MAX} \
         sectors (2^63 bytes) that an array can have"
    )]
    TooLarge {
        /// Where the sectors were found.
        field: &'static str,
        /// Sectors of a member.
        found_sectors: u64,
        /// Slots.
        slots: u32,
    },
    /// A logical block size of which an array cannot be made.
    #[error("logical_block_size: {found} bytes; an array has blocks of 512 or 4096")]
    BlockSize {
        /// Bytes given.
        found: u32,
    },
    /// RAID0 and linear need the size of every member.
    #[error("raid_disks: {slots} slots, but the sizes of {given} members are known")]
    MemberCount {
        /// Sizes given.
        given: usize,
        /// Slots.
        slots: u32,
    },
    /// A member of RAID0 or linear too small to take part.
    #[error("data_size: the {sectors} sectors of slot {slot} do not hold one chunk")]
    MemberSize {
        /// Which.
        slot: usize,
        /// Its size.
        sectors: u64,
    },
}

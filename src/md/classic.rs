//! Classic bitmaps (version 4): one bit a chunk, read once and turned into a lockless bitmap.
//!
//! mdof does not run them: a writer would have to clear and set bits in place and could not tell
//! the states apart. It reads the bits, writes a lockless bitmap into free room of the members,
//! and then switches the superblocks over. The order makes it safe to stop at any point:
//!
//! 1. The lockless bitmap is written to all in-sync members, into room that nothing uses. The
//!    superblocks still point to the classic one, which has not changed.
//! 2. The superblocks are written, one member after the other, with the new position and one
//!    event more. After the first of them the members disagree about where the bitmap is, by one
//!    event: the freshest decides, and its lockless bitmap is whole on every member.
//!
//! No data is written before the second step is done, so the old and the new bitmap say the same.

use thiserror::Error;

use super::bitmap_superblock::{BitmapSuperblock, BitmapVersion, chunk_sectors_for};
use super::create::BITMAP_SECTORS_MIN;
use super::superblock::SUPERBLOCK_SECTORS;
use super::types::MinorVersion;
use super::{SECTOR_BYTES, Superblock};

/// The bits follow the header of the bitmap without a gap.
pub const CLASSIC_BITS_OFFSET_BYTES: u64 = 256;

/// Positions are multiples of 4 KiB, so that they suit blocks of any size.
const ALIGN_SECTORS: i64 = 8;

/// Why a classic bitmap cannot become a lockless one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConvertError {
    /// Something else is where the lockless bitmap would go.
    #[error(
        "its members have {free_sectors} free sectors beside superblock and data, too few for a \
         lockless bitmap; remove the bitmap with Linux (mdadm --grow --bitmap=none) and start the \
         array without one, or with one in a file (bitmap_file)"
    )]
    NoRoom {
        /// Free sectors.
        free_sectors: u64,
    },
    /// Members with superblocks at different places cannot share one relative position.
    #[error("its members have superblocks of different minor versions")]
    MixedVersions,
}

/// Where the lockless bitmap goes, and its head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversion {
    /// From the superblock of each member to its new bitmap.
    pub bitmap_offset_sectors: i32,
    /// Head of the new bitmap; its events are those of the superblocks to be written with it.
    pub bitmap: BitmapSuperblock,
}

impl Conversion {
    /// Finds room on all members (each with its classic head) for a lockless bitmap of the array
    /// whose freshest superblock is `array`.
    pub fn plan(
        array: &Superblock,
        members: &[(&Superblock, &BitmapSuperblock)],
    ) -> Result<Conversion, ConvertError> {
        if members.iter().any(|(own, _)| own.minor_version() != array.minor_version()) {
            return Err(ConvertError::MixedVersions);
        }
        let gaps = members.iter().map(|(own, head)| gap(own, head));
        let (start, end) =
            gaps.fold((i64::MIN, i64::MAX), |(start, end), gap| (start.max(gap.0), end.min(gap.1)));
        let free_sectors = u64::try_from(end.saturating_sub(start)).unwrap_or(0);
        let reserved = u32::try_from(free_sectors).unwrap_or(u32::MAX).min(BITMAP_SECTORS_MIN);
        let none = ConvertError::NoRoom { free_sectors };
        let chunk = chunk_sectors_for(array.sync_size_sectors(), reserved).ok_or(none.clone())?;
        let bitmap_offset_sectors = i32::try_from(start).map_err(|_| none)?;
        let mut bitmap = BitmapSuperblock::created(array, chunk, reserved);
        bitmap.events = array.events + 1;
        Ok(Conversion { bitmap_offset_sectors, bitmap })
    }

    /// The superblock that makes the new bitmap the one of member `own`.
    pub fn superblock(&self, array: &Superblock, own: &Superblock, now_s: u64) -> Superblock {
        let mut superblock = own.clone();
        superblock.roles.clone_from(&array.roles);
        superblock.resync_offset_sectors = array.resync_offset_sectors;
        superblock.bitmap_offset_sectors = self.bitmap_offset_sectors;
        superblock.events = self.bitmap.events;
        // The new bitmap calls no chunk Unwritten.
        superblock.updated_at(now_s, true);
        superblock
    }
}

/// Free room of a member, as distances from its superblock: between the superblock and the data
/// (1.1, 1.2) or the data and the superblock (1.0), without classic bitmap and bad-block log.
fn gap(own: &Superblock, head: &BitmapSuperblock) -> (i64, i64) {
    let sector = |sector: u64| i64::try_from(sector).unwrap_or(i64::MAX);
    let position = sector(own.super_offset_sectors);
    let bitmap = i64::from(own.bitmap_offset_sectors);
    let bitmap_end = bitmap + sector(classic_sectors(head));
    let log = i64::from(own.bblog.offset_sectors);
    let log_end = log + i64::from(own.bblog.size_sectors);
    let up =
        |at: i64| at.saturating_add(ALIGN_SECTORS - 1).div_euclid(ALIGN_SECTORS) * ALIGN_SECTORS;
    if own.minor_version() == MinorVersion::V1_0 {
        let data_end = sector(own.data_offset_sectors + own.size_sectors);
        let used = [0, bitmap, if log == 0 { 0 } else { log }];
        let end = used.into_iter().min().unwrap_or(0).div_euclid(ALIGN_SECTORS) * ALIGN_SECTORS;
        return (up(data_end - position), end);
    }
    let used = [sector(SUPERBLOCK_SECTORS), bitmap_end, if log == 0 { 0 } else { log_end }];
    let end = sector(own.data_offset_sectors) - position;
    (up(used.into_iter().max().unwrap_or(0)), end.div_euclid(ALIGN_SECTORS) * ALIGN_SECTORS)
}

/// Sectors that head and bits of a classic bitmap take.
fn classic_sectors(head: &BitmapSuperblock) -> u64 {
    (CLASSIC_BITS_OFFSET_BYTES + classic_bits_bytes(head)).div_ceil(SECTOR_BYTES)
}

/// Bytes that the bits of a classic bitmap take.
pub fn classic_bits_bytes(head: &BitmapSuperblock) -> u64 {
    head.chunk_count().div_ceil(8)
}

/// Marks in `in_doubt`, one entry a chunk of `new`, what a member's classic bitmap has in doubt:
/// chunks with a set bit, or all of them when it is `stale`. Bits are counted from the lowest of
/// the first byte.
pub fn mark_in_doubt(
    in_doubt: &mut [bool],
    new: &BitmapSuperblock,
    head: &BitmapSuperblock,
    bits: &[u8],
    stale: bool,
) {
    assert_eq!(head.version, BitmapVersion::Classic);
    let size = new.sync_size_sectors;
    let width = u64::from(new.chunk_sectors().expect("it was just made"));
    let old_width = u64::from(head.chunk_sectors().expect("a classic bitmap has chunks"));
    // A bit beyond the bitmap knows nothing: in doubt.
    let is_set = |bit: u64| {
        let byte = usize::try_from(bit / 8).ok().and_then(|index| bits.get(index));
        byte.is_none_or(|byte| byte >> (bit % 8) & 1 == 1)
    };
    for (first, doubt) in (0..).step_by(usize::try_from(width).expect("u32")).zip(in_doubt) {
        let last: u64 = (first + width).min(size).max(first + 1) - 1;
        *doubt |= stale || (first / old_width..=last / old_width).any(is_set);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::md::BadBlockLog;
    use crate::md::tests::sample;

    fn classic(array: &Superblock, chunk_bytes: u32) -> BitmapSuperblock {
        let mut head = BitmapSuperblock::created(array, 128, 0);
        head.version = BitmapVersion::Classic;
        head.chunk_raw = chunk_bytes;
        head
    }

    #[test]
    fn room_is_found_beside_bitmap_and_log() {
        let mut own = sample();
        own.bblog = BadBlockLog { shift: 0, size_sectors: 8, offset_sectors: 16 };
        let head = classic(&own, 64 << 20);
        let plan = Conversion::plan(&own, &[(&own, &head)]).unwrap();
        assert_eq!(plan.bitmap_offset_sectors, 24);
        assert_eq!(plan.bitmap.sectors_reserved, 256);
        assert_eq!(plan.bitmap.events, own.events + 1);
        // A member whose data begins close by decides for all.
        let mut tight = own.clone();
        tight.data_offset_sectors = 8 + 24;
        let plan = Conversion::plan(&own, &[(&own, &head), (&tight, &head)]);
        assert_eq!(plan, Err(ConvertError::NoRoom { free_sectors: 0 }));
    }

    #[test]
    fn a_superblock_at_the_end_leaves_the_room_behind_the_data() {
        let mut own = sample();
        own.super_offset_sectors = 65_520;
        own.data_offset_sectors = 0;
        own.size_sectors = 65_408;
        own.bitmap_offset_sectors = -16;
        own.bblog = BadBlockLog { shift: 0, size_sectors: 8, offset_sectors: -8 };
        let plan = Conversion::plan(&own, &[(&own, &classic(&own, 64 << 20))]).unwrap();
        assert_eq!(plan.bitmap_offset_sectors, 65_408 - 65_520);
        assert_eq!(plan.bitmap.sectors_reserved, 96);
    }

    #[test]
    fn bits_become_chunks_of_either_size() {
        let mut own = sample();
        own.size_sectors = 128 * 20;
        let doubt = |old_bytes: u32, new_sectors: u32, bits: &[u8], stale| {
            let head = classic(&own, old_bytes);
            let new = BitmapSuperblock::created(&own, new_sectors, 256);
            let mut out = vec![false; usize::try_from(new.chunk_count()).unwrap()];
            mark_in_doubt(&mut out, &new, &head, bits, stale);
            (0..out.len()).filter(|&chunk| out[chunk]).collect::<Vec<_>>()
        };
        assert_eq!(doubt(65_536, 128, &[0b10, 0, 0b1000], false), [1, 19]);
        assert_eq!(doubt(4 * 65_536, 128, &[0b10], false), [4, 5, 6, 7]);
        assert_eq!(doubt(65_536, 512, &[0x80, 0, 0], false), [1]);
        assert_eq!(doubt(65_536, 512, &[0, 0, 0], true), [0, 1, 2, 3, 4]);
        assert_eq!(doubt(65_536, 512, &[0, 0], false), [4], "bits that are not there");
    }
}

//! The bad-block log of a member: which of its sectors hold nothing of worth.
//!
//! A list of LE64 entries, ended by an all-ones word or the end of the log. Bits 0-9 are a length,
//! bits 10-63 a start, both in units of `2^shift` sectors, counted from sector 0 of the member.

use thiserror::Error;

use super::bitmap_superblock::BitmapSuperblock;
use super::superblock::SUPERBLOCK_SECTORS;
use super::types::BadBlockLog;
use super::{MinorVersion, Superblock};

/// Sectors of a log that md reads: one page.
pub const BAD_BLOCK_LOG_SECTORS_MAX: u16 = 8;

/// Entries that mdof writes, those of one sector. A log with more is read, and left as it is.
pub const BAD_BLOCK_ENTRIES_WRITTEN_MAX: usize = 512 / 8;

const LENGTH_BITS: u32 = 10;
/// md's, of an entry.
const LENGTH_MAX: u64 = 512;
const END: u64 = u64::MAX;

/// A run of sectors that could not be written, counted from sector 0 of the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRange {
    /// First sector.
    pub start_sector: u64,
    /// Sectors, at least 1.
    pub sectors: u64,
}

/// Why a bad-block log is not believed. md refuses the member too.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadBlockError {
    /// The superblock names a log that is larger than md reads, or none at all.
    #[error("the bad-block log has {sectors} sectors at offset {offset}; md reads 1 to 8")]
    Size {
        /// Sectors claimed.
        sectors: u16,
        /// Offset claimed.
        offset: i32,
    },
    /// Fewer bytes than the log has.
    #[error("the bad-block log is cut short: {have_bytes} bytes, {need_bytes} are needed")]
    Truncated {
        /// Bytes given.
        have_bytes: usize,
        /// Bytes of the log.
        need_bytes: usize,
    },
    /// An entry that marks no sector, or sectors the member does not have.
    #[error("entry {index} of the bad-block log ({entry:#018x}) is not a range of this member")]
    Entry {
        /// Which entry.
        index: usize,
        /// Its word.
        entry: u64,
    },
}

/// Reads the log that lies [`super::BadBlockLog::offset_sectors`] from `superblock`. The result has
/// at most 512 ranges.
pub fn parse_bad_blocks(
    bytes: &[u8],
    superblock: &Superblock,
) -> Result<Vec<BadRange>, BadBlockError> {
    let log = superblock.bblog;
    if log.offset_sectors == 0 || !(1..=BAD_BLOCK_LOG_SECTORS_MAX).contains(&log.size_sectors) {
        let (sectors, offset) = (log.size_sectors, log.offset_sectors);
        return Err(BadBlockError::Size { sectors, offset });
    }
    let need_bytes = usize::from(log.size_sectors) * 512;
    let bytes = bytes
        .get(..need_bytes)
        .ok_or(BadBlockError::Truncated { have_bytes: bytes.len(), need_bytes })?;
    let end = superblock.data_offset_sectors + superblock.data_size_sectors;
    let (words, _) = bytes.as_chunks::<8>();
    let mut ranges = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let entry = u64::from_le_bytes(*word);
        if entry == END {
            break;
        }
        let range = decode(entry, log.shift).filter(|range| {
            range.sectors > 0
                && range.start_sector.checked_add(range.sectors).is_some_and(|last| last <= end)
        });
        ranges.push(range.ok_or(BadBlockError::Entry { index, entry })?);
    }
    Ok(ranges)
}

/// Where a member's log lies, if it may be written: nothing else is there. mdadm puts it inside a
/// lockless bitmap.
#[must_use]
pub fn bad_block_log_sector(own: &Superblock, bitmap: Option<&BitmapSuperblock>) -> Option<u64> {
    let log = own.bblog;
    if log.offset_sectors == 0 || !(1..=BAD_BLOCK_LOG_SECTORS_MAX).contains(&log.size_sectors) {
        return None;
    }
    let start = own.super_offset_sectors.checked_add_signed(log.offset_sectors.into())?;
    let end = start + u64::from(log.size_sectors);
    let is_free = |other: u64, sectors: u64| other.saturating_add(sectors) <= start || end <= other;
    let is_last = own.minor_version() == MinorVersion::V1_0;
    let data = if is_last { own.size_sectors } else { own.data_size_sectors };
    let reserved = bitmap.map_or(0, |bitmap| u64::from(bitmap.sectors_reserved));
    let beside_bitmap = own.bitmap_sector().is_none_or(|sector| is_free(sector, reserved));
    let is_free = beside_bitmap
        && is_free(own.super_offset_sectors, SUPERBLOCK_SECTORS)
        && is_free(own.data_offset_sectors, data);
    is_free.then_some(start)
}

/// The log that lists these ranges, for the place that `log` is. `None`: they are too many for its
/// first sector, which is the part that a power cut leaves old or new as a whole.
#[must_use]
pub fn encode_bad_blocks(ranges: &[BadRange], log: &BadBlockLog) -> Option<Vec<u8>> {
    let scale = 1u64.checked_shl(u32::from(log.shift))?;
    let mut bytes = vec![0xff; usize::from(log.size_sectors) * 512];
    let (words, _) = bytes.as_chunks_mut::<8>();
    let mut free = words.iter_mut().take(BAD_BLOCK_ENTRIES_WRITTEN_MAX);
    for range in ranges {
        let end = (range.start_sector + range.sectors).div_ceil(scale);
        let mut at = range.start_sector / scale;
        while at < end {
            let length = (end - at).min(LENGTH_MAX);
            *free.next()? = (at << LENGTH_BITS | length).to_le_bytes();
            at += length;
        }
    }
    Some(bytes)
}

fn decode(entry: u64, shift: u8) -> Option<BadRange> {
    let scale = 1u64.checked_shl(u32::from(shift))?;
    Some(BadRange {
        start_sector: (entry >> LENGTH_BITS).checked_mul(scale)?,
        sectors: (entry & ((1 << LENGTH_BITS) - 1)).checked_mul(scale)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::md::BadBlockLog;
    use crate::md::tests::sample;

    fn with_log(shift: u8) -> Superblock {
        let mut superblock = sample();
        superblock.bblog = BadBlockLog { shift, size_sectors: 8, offset_sectors: 264 };
        superblock
    }

    fn log(entries: &[u64]) -> Vec<u8> {
        let mut bytes = vec![0xff; 4096];
        for (index, entry) in entries.iter().enumerate() {
            bytes[index * 8..index * 8 + 8].copy_from_slice(&entry.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn reads_ranges_up_to_the_end_mark() {
        let superblock = with_log(3);
        let start = superblock.data_offset_sectors / 8;
        let mut bytes = log(&[start << 10 | 2]);
        bytes[16..24].copy_from_slice(&7u64.to_le_bytes());
        let range = BadRange { start_sector: superblock.data_offset_sectors, sectors: 16 };
        assert_eq!(parse_bad_blocks(&bytes, &superblock), Ok(vec![range]));
        assert_eq!(parse_bad_blocks(&log(&[]), &superblock), Ok(vec![]));
    }

    #[test]
    fn refuses_what_md_refuses() {
        let superblock = with_log(0);
        let end = superblock.data_offset_sectors + superblock.data_size_sectors;
        for entry in [5000 << 10, end << 10 | 1, (end - 1) << 10 | 2, END - 1] {
            let found = parse_bad_blocks(&log(&[5000 << 10 | 1, entry]), &superblock);
            assert_eq!(found, Err(BadBlockError::Entry { index: 1, entry }));
        }
        assert!(matches!(
            parse_bad_blocks(&log(&[])[..4095], &superblock),
            Err(BadBlockError::Truncated { have_bytes: 4095, need_bytes: 4096 })
        ));
        let mut none = superblock;
        none.bblog.size_sectors = 9;
        assert!(matches!(
            parse_bad_blocks(&log(&[]), &none),
            Err(BadBlockError::Size { sectors: 9, .. })
        ));
    }

    #[test]
    fn what_is_written_is_read() {
        let superblock = with_log(0);
        let range = |start_sector, sectors| BadRange { start_sector, sectors };
        let ranges = [range(5000, 1), range(6000, 1300), range(9000, 512)];
        let bytes = encode_bad_blocks(&ranges, &superblock.bblog).unwrap();
        assert_eq!(bytes.len(), 4096);
        let found = parse_bad_blocks(&bytes, &superblock).unwrap();
        let split = [range(6000, 512), range(6512, 512), range(7024, 276)];
        assert_eq!(found, [&ranges[..1], &split, &ranges[2..]].concat());
        // Units of 8 sectors: rounded to the outside.
        let superblock = with_log(3);
        let bytes = encode_bad_blocks(&ranges[..1], &superblock.bblog).unwrap();
        assert_eq!(parse_bad_blocks(&bytes, &superblock).unwrap(), [range(5000, 8)]);
        let many: Vec<_> = (0..65).map(|index| range(5000 + 16 * index, 1)).collect();
        assert!(encode_bad_blocks(&many[..64], &superblock.bblog).is_some());
        assert_eq!(encode_bad_blocks(&many, &superblock.bblog), None);
    }

    proptest! {
        #[test]
        fn hostile_logs_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 4096), shift: u8
        ) {
            let superblock = with_log(shift);
            let end = superblock.data_offset_sectors + superblock.data_size_sectors;
            for range in parse_bad_blocks(&bytes, &superblock).unwrap_or_default() {
                prop_assert!(range.sectors > 0 && range.start_sector + range.sectors <= end);
            }
        }
    }
}

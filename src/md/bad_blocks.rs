//! The bad-block log of a member: which of its sectors hold nothing of worth.
//!
//! A list of LE64 entries, ended by an all-ones word or the end of the log. Bits 0-9 are a length,
//! bits 10-63 a start, both in units of `2^shift` sectors, counted from sector 0 of the member.

use thiserror::Error;

use super::Superblock;

/// Sectors of a log that md reads: one page.
pub const BAD_BLOCK_LOG_SECTORS_MAX: u16 = 8;

const LENGTH_BITS: u32 = 10;
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

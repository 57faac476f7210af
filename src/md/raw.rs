//! The 256 fixed bytes of a version-1 superblock, as they lie on disk.
//!
//! All numbers are little-endian; a row is 16 bytes; `roles[]` follows, two bytes an entry.
//!
//! ```text
//!        0        2        4        6        8        10       12       14      16
//!        ├────────┴────────┼────────┴────────┼────────┴────────┼────────┴────────┤
//!    0   │ magic           │ major_version   │ feature_map     │ pad0            │
//!   16   │ set_uuid                                                              │
//!   32   │ set_name                                                              │
//!   48   │   … set_name                                                          │
//!   64   │ ctime                             │ level           │ layout          │
//!   80   │ size                              │ chunksize       │ raid_disks      │
//!   96   │ bitmap_offset   │ new_level       │ reshape_position                  │
//!  112   │ delta_disks     │ new_layout      │ new_chunk       │ new_offset      │
//!  128   │ data_offset                       │ data_size                         │
//!  144   │ super_offset                      │ recovery_offset                   │
//!  160   │ dev_number      │ cnt_corrected   │ device_uuid                       │
//!  176   │   … device_uuid                   │fl│sh│ bb_size  │ bblog_offset    │
//!  192   │ utime                             │ events                            │
//!  208   │ resync_offset                     │ sb_csum         │ max_dev         │
//!  224   │ logical_blk_sz  │ pad3                                                │
//!  240   │   … pad3                                                              │
//!  256   │ roles[0] roles[1] …                                                   │
//! ```
//!
//! (`fl` devflags, `sh` bblog_shift.)

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `mdp_superblock_1` without its role table. Field names are md's (`md_p.h`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawSuperblock {
    /// md_p.h, "constant array information": 0xa92b4efc.
    pub(crate) magic: U32,
    /// 1 for every 1.x; the minor version is the position of the superblock.
    pub(crate) major_version: U32,
    /// `MD_FEATURE_*`.
    pub(crate) feature_map: U32,
    /// Zero, or md refuses the member.
    pub(crate) pad0: U32,
    /// Identity of the array, raw bytes.
    pub(crate) set_uuid: [u8; 16],
    /// Name of the array, NUL padded, usually "host:name".
    pub(crate) set_name: [u8; 32],
    /// Creation: 40 bits seconds, 24 bits microseconds.
    pub(crate) ctime: U64,
    /// RAID level, negative for linear.
    pub(crate) level: I32,
    /// Layout word, by level.
    pub(crate) layout: U32,
    /// Sectors used of each member.
    pub(crate) size: U64,
    /// Stripe chunk in sectors, 0 for RAID1.
    pub(crate) chunksize: U32,
    /// Slots of the array.
    pub(crate) raid_disks: U32,
    /// Sectors from this superblock to the bitmap's, or {s16 offset, u16 size} of a PPL.
    pub(crate) bitmap_offset: I32,
    /// Reshape, valid with `RESHAPE_ACTIVE`: level after it.
    pub(crate) new_level: I32,
    /// Reshape: array sector reached.
    pub(crate) reshape_position: U64,
    /// Reshape: change of `raid_disks`.
    pub(crate) delta_disks: I32,
    /// Reshape: layout after it.
    pub(crate) new_layout: U32,
    /// Reshape: chunk after it, sectors.
    pub(crate) new_chunk: U32,
    /// Reshape with `NEW_OFFSET`: added to `data_offset`.
    pub(crate) new_offset: I32,
    /// md_p.h, "constant this-device information": first sector of data.
    pub(crate) data_offset: U64,
    /// Sectors usable for data.
    pub(crate) data_size: U64,
    /// Sector of this superblock itself.
    pub(crate) super_offset: U64,
    /// Valid with `RECOVERY_OFFSET`: sectors rebuilt; on a journal device its tail.
    pub(crate) recovery_offset: U64,
    /// Permanent index of this member into the role table.
    pub(crate) dev_number: U32,
    /// Read errors corrected by rewriting.
    pub(crate) cnt_corrected_read: U32,
    /// Identity of the member.
    pub(crate) device_uuid: [u8; 16],
    /// Bit 0 write-mostly, bit 1 failfast.
    pub(crate) devflags: u8,
    /// Bad-block log: log2 of its unit in sectors.
    pub(crate) bblog_shift: u8,
    /// Bad-block log: sectors set aside for it.
    pub(crate) bblog_size: U16,
    /// Bad-block log: sectors from this superblock, 0 for none.
    pub(crate) bblog_offset: I32,
    /// md_p.h, "array state information": last update, as `ctime`.
    pub(crate) utime: U64,
    /// Event count, raised with each update.
    pub(crate) events: U64,
    /// Member sectors known in sync; all ones when clean.
    pub(crate) resync_offset: U64,
    /// Checksum up to the end of the role table, with this field zero.
    pub(crate) sb_csum: U32,
    /// Entries of the role table.
    pub(crate) max_dev: U32,
    /// Logical block size of the array in bytes; 0 before its first start (since Linux 7).
    pub(crate) logical_block_size: U32,
    /// Zero, or md refuses the member.
    pub(crate) pad3: [u8; 28],
}

const _: () = {
    assert!(size_of::<RawSuperblock>() == 256);
    assert!(offset_of!(RawSuperblock, feature_map) == 8);
    assert!(offset_of!(RawSuperblock, pad0) == 12);
    assert!(offset_of!(RawSuperblock, set_uuid) == 16);
    assert!(offset_of!(RawSuperblock, set_name) == 32);
    assert!(offset_of!(RawSuperblock, ctime) == 64);
    assert!(offset_of!(RawSuperblock, level) == 72);
    assert!(offset_of!(RawSuperblock, layout) == 76);
    assert!(offset_of!(RawSuperblock, size) == 80);
    assert!(offset_of!(RawSuperblock, chunksize) == 88);
    assert!(offset_of!(RawSuperblock, raid_disks) == 92);
    assert!(offset_of!(RawSuperblock, bitmap_offset) == 96);
    assert!(offset_of!(RawSuperblock, new_level) == 100);
    assert!(offset_of!(RawSuperblock, reshape_position) == 104);
    assert!(offset_of!(RawSuperblock, new_offset) == 124);
    assert!(offset_of!(RawSuperblock, data_offset) == 128);
    assert!(offset_of!(RawSuperblock, data_size) == 136);
    assert!(offset_of!(RawSuperblock, super_offset) == 144);
    assert!(offset_of!(RawSuperblock, recovery_offset) == 152);
    assert!(offset_of!(RawSuperblock, dev_number) == 160);
    assert!(offset_of!(RawSuperblock, device_uuid) == 168);
    assert!(offset_of!(RawSuperblock, devflags) == 184);
    assert!(offset_of!(RawSuperblock, bblog_shift) == 185);
    assert!(offset_of!(RawSuperblock, bblog_size) == 186);
    assert!(offset_of!(RawSuperblock, bblog_offset) == 188);
    assert!(offset_of!(RawSuperblock, utime) == 192);
    assert!(offset_of!(RawSuperblock, events) == 200);
    assert!(offset_of!(RawSuperblock, resync_offset) == 208);
    assert!(offset_of!(RawSuperblock, sb_csum) == 216);
    assert!(offset_of!(RawSuperblock, max_dev) == 220);
    assert!(offset_of!(RawSuperblock, logical_block_size) == 224);
    assert!(offset_of!(RawSuperblock, pad3) == 228);
};

/// Bytes of the fixed part; the role table starts here.
pub(crate) const FIXED_BYTES: usize = size_of::<RawSuperblock>();

/// Byte offset of the checksum field, which counts as zero in its own sum.
pub(crate) const CHECKSUM_OFFSET: usize = offset_of!(RawSuperblock, sb_csum);

/// md's checksum of a superblock: the sum of all LE32 words (and a trailing LE16) in 64 bits, the
/// checksum field counted as zero, then the upper half added to the lower once.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    assert!(bytes.len() >= FIXED_BYTES && bytes.len().is_multiple_of(2), "whole role entries only");
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum = 0u64;
    for (index, word) in words.iter().enumerate() {
        if index * 4 != CHECKSUM_OFFSET {
            sum += u64::from(u32::from_le_bytes(*word));
        }
    }
    if let [low, high] = rest {
        sum += u64::from(u16::from_le_bytes([*low, *high]));
    }
    let low = u32::try_from(sum & u64::from(u32::MAX)).expect("masked to 32 bits");
    let high = u32::try_from(sum >> 32).expect("shifted to 32 bits");
    low.wrapping_add(high)
}

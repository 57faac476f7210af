//! Fields of the NVM command set's I/O commands (NVM, section 3.2) and the DSM range.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Sqe;

/// Dword 12 of Read, Write, Compare and Write Zeroes (NVM, section 3.2.5, figure "Command
/// Dword 12").
#[allow(missing_docs)]
pub mod rw {
    /// Number of Logical Blocks (NLB, bits 15:0), 0's based.
    pub const NLB_MASK: u32 = 0xffff;
    /// Directive Type (DTYPE, bits 23:20) of Write.
    pub const DTYPE_MASK: u32 = 0xf << 20;
    /// Deallocate (DEAC, bit 25) of Write Zeroes.
    pub const DEAC: u32 = 1 << 25;
    /// Force Unit Access (FUA, bit 30).
    pub const FUA: u32 = 1 << 30;
}

/// Attribute – Deallocate (AD), bit 2 of dword 11 of Dataset Management (NVM, section 3.2.3).
pub const DSM_DEALLOCATE: u32 = 1 << 2;

/// Ranges of one Dataset Management command at most: NR is 8 bits, 0's based.
pub const DSM_RANGES_MAX: usize = 256;

/// One range of Dataset Management, 16 bytes (NVM, figure "Dataset Management – Range
/// Definition").
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct DsmRange {
    /// Context attributes, bytes 3:0: hints.
    pub context_attributes: U32,
    /// Length in logical blocks, bytes 7:4; 1's based, so 0 is an empty range.
    pub blocks: U32,
    /// Starting LBA, bytes 15:8.
    pub lba: U64,
}

/// Dword 12 of Copy (NVM, section 3.2.2) where it differs from [`rw`].
#[allow(missing_docs)]
pub mod copy {
    /// Descriptor Format (DESFMT, bits 11:8): 0 is the only one that mdof knows.
    pub const FORMAT_MASK: u32 = 0xf << 8;
}

/// One source range of Copy, descriptor format 0h, 32 bytes (NVM, section 3.2.2).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CopyRange {
    /// Bytes 7:0.
    pub reserved0: [u8; 8],
    /// Starting LBA (SLBA), bytes 15:8.
    pub lba: U64,
    /// Number of Logical Blocks (NLB), bytes 17:16, 0's based.
    pub nlb: U16,
    /// Bytes 23:18, and expected tags of protection information, bytes 31:24.
    pub reserved18: [u8; 14],
}

const _: () = {
    assert!(size_of::<CopyRange>() == 32);
    assert!(offset_of!(CopyRange, lba) == 8);
    assert!(offset_of!(CopyRange, nlb) == 16);
    assert!(size_of::<DsmRange>() == 16);
    assert!(offset_of!(DsmRange, blocks) == 4);
    assert!(offset_of!(DsmRange, lba) == 8);
};

impl Sqe {
    /// Starting LBA (SLBA), dwords 10 and 11.
    #[must_use]
    pub fn slba(&self) -> u64 {
        u64::from(self.cdw11.get()) << 32 | u64::from(self.cdw10.get())
    }

    /// Number of logical blocks, 1 to 65536.
    #[must_use]
    pub fn block_count(&self) -> u32 {
        (self.cdw12.get() & rw::NLB_MASK) + 1
    }

    /// Number of Ranges (NR) of Copy, bits 7:0 of dword 12: 1 to 256.
    #[must_use]
    pub fn copy_range_count(&self) -> u16 {
        u16::from(self.cdw12.to_bytes()[0]) + 1
    }

    /// Number of ranges (NR) of Dataset Management, 1 to 256.
    #[must_use]
    pub fn dsm_range_count(&self) -> u16 {
        u16::from(self.cdw10.to_bytes()[0]) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn range_fields() {
        let mut sqe = Sqe::new_zeroed();
        sqe.cdw10.set(0x5566_77ff);
        sqe.cdw11.set(0x1122_3344);
        sqe.cdw12.set(rw::FUA | 0xffff);
        assert_eq!(sqe.slba(), 0x1122_3344_5566_77ff);
        assert_eq!(sqe.block_count(), 65536);
        assert_eq!(sqe.dsm_range_count(), 256);
    }
}

//! Submission and completion queue entries (NVMe Base 2.1, sections 4.1 and 4.2).

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::status::Status;

/// Submission queue entry, 64 bytes (Base 2.1, figure 92, "Common Command Format").
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Sqe {
    /// Opcode (OPC), bytes 0.
    pub opcode: u8,
    /// Fused operation (FUSE, bits 1:0) and PRP or SGL (PSDT, bits 7:6), byte 1.
    pub flags: u8,
    /// Command identifier (CID), bytes 2-3.
    pub cid: U16,
    /// Namespace identifier (NSID), bytes 4-7. Fabrics commands: byte 4 is FCTYPE.
    pub nsid: U32,
    /// Command dword 2.
    pub cdw2: U32,
    /// Command dword 3.
    pub cdw3: U32,
    /// Metadata pointer (MPTR), bytes 16-23.
    pub mptr: U64,
    /// Data pointer (DPTR) as SGL descriptor 1 (SGL1), bytes 24-39: address.
    pub sgl_address: U64,
    /// SGL1: length in bytes.
    pub sgl_length: U32,
    /// SGL1: reserved (data block descriptors), or the key of keyed descriptors.
    pub sgl_reserved: [u8; 3],
    /// SGL1: descriptor type (bits 7:4) and sub type (bits 3:0).
    pub sgl_type: u8,
    /// Command dwords 10 to 15.
    pub cdw10: U32,
    /// Command dword 11.
    pub cdw11: U32,
    /// Command dword 12.
    pub cdw12: U32,
    /// Command dword 13.
    pub cdw13: U32,
    /// Command dword 14.
    pub cdw14: U32,
    /// Command dword 15.
    pub cdw15: U32,
}

const _: () = {
    assert!(size_of::<Sqe>() == 64);
    assert!(offset_of!(Sqe, nsid) == 4);
    assert!(offset_of!(Sqe, mptr) == 16);
    assert!(offset_of!(Sqe, sgl_address) == 24);
    assert!(offset_of!(Sqe, sgl_type) == 39);
    assert!(offset_of!(Sqe, cdw10) == 40);
};

/// Completion queue entry, 16 bytes (Base 2.1, figure 97).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Cqe {
    /// Command specific result, dwords 0 and 1.
    pub result: U64,
    /// Submission queue head pointer (SQHD).
    pub sqhd: U16,
    /// Submission queue identifier; reserved in Fabrics, zero.
    pub sqid: U16,
    /// Command identifier (CID).
    pub cid: U16,
    /// Phase tag (bit 0, zero in Fabrics) and status (bits 15:1).
    pub status: U16,
}

const _: () = {
    assert!(size_of::<Cqe>() == 16);
    assert!(offset_of!(Cqe, sqhd) == 8);
    assert!(offset_of!(Cqe, cid) == 12);
    assert!(offset_of!(Cqe, status) == 14);
};

impl Sqe {
    /// Whether the FUSE field makes it part of a fused operation.
    #[must_use]
    pub fn is_fused(&self) -> bool {
        self.flags & 3 != 0
    }
}

impl Cqe {
    /// A completion of `cid`; SQHD is filled in where the queue is known.
    #[must_use]
    pub fn new(cid: u16, status: Status, result: u64) -> Self {
        Self {
            result: U64::new(result),
            sqhd: U16::new(0),
            sqid: U16::new(0),
            cid: U16::new(cid),
            status: U16::new(status.to_wire()),
        }
    }
}

//! PDU structs (NVMe/TCP Transport 1.x, section 3.6.2).
//!
//! ```text
//! byte 0     1      2     3    4..8   8..HLEN
//!      TYPE  FLAGS  HLEN  PDO  PLEN   type specific header
//! ```

use std::mem::{offset_of, size_of};

use bitflags::bitflags;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::nvme::{Cqe, Sqe};

/// Largest PDU header in bytes (ICReq, ICResp), the header digest not counted.
pub const HEADER_BYTES_MAX: usize = 128;

/// Largest H2CTermReq or C2HTermReq in bytes: its header and as much of the offending one.
pub const TERM_REQ_BYTES_MAX: usize = 24 + HEADER_BYTES_MAX;

/// PDU type (TYPE), byte 0 of the common header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PduType {
    /// Initialize Connection Request, host to controller.
    IcReq = 0x00,
    /// Initialize Connection Response, controller to host.
    IcResp = 0x01,
    /// Host terminates the connection.
    H2cTermReq = 0x02,
    /// Controller terminates the connection.
    C2hTermReq = 0x03,
    /// Command capsule, with in-capsule data or without.
    CapsuleCmd = 0x04,
    /// Response capsule.
    CapsuleResp = 0x05,
    /// Data of a command, host to controller.
    H2cData = 0x06,
    /// Data of a command, controller to host.
    C2hData = 0x07,
    /// Ready to Transfer: the controller asks for data.
    R2t = 0x09,
}

impl PduType {
    /// The type that `byte` names.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x00 => Self::IcReq,
            0x01 => Self::IcResp,
            0x02 => Self::H2cTermReq,
            0x03 => Self::C2hTermReq,
            0x04 => Self::CapsuleCmd,
            0x05 => Self::CapsuleResp,
            0x06 => Self::H2cData,
            0x07 => Self::C2hData,
            0x09 => Self::R2t,
            _ => return None,
        })
    }

    /// Header length (HLEN) of this type.
    #[must_use]
    pub const fn header_bytes(self) -> u8 {
        match self {
            Self::IcReq | Self::IcResp => 128,
            Self::CapsuleCmd => 72,
            _ => 24,
        }
    }
}

bitflags! {
    /// Flags (FLAGS), byte 1 of the common header.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Flags: u8 {
        /// HDGSTF: a header digest follows the header.
        const HEADER_DIGEST = 1 << 0;
        /// DDGSTF: a data digest follows the data.
        const DATA_DIGEST = 1 << 1;
        /// LAST_PDU: the last data PDU of this transfer.
        const LAST_PDU = 1 << 2;
        /// SUCCESS: the command succeeded and no response capsule follows (C2HData only).
        const SUCCESS = 1 << 3;
    }
}

/// Common header (CH), 8 bytes (section 3.6.1.1).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CommonHeader {
    /// PDU type (TYPE), byte 0.
    pub pdu_type: u8,
    /// Flags (FLAGS), byte 1.
    pub flags: u8,
    /// Header length (HLEN), byte 2.
    pub hlen: u8,
    /// PDU data offset (PDO), byte 3.
    pub pdo: u8,
    /// PDU length (PLEN), bytes 4-7: everything from TYPE to the data digest.
    pub plen: U32,
}

impl CommonHeader {
    /// The header of a PDU of `pdu_type`.
    #[must_use]
    pub fn new(pdu_type: PduType, flags: Flags, pdo: u8, plen: u32) -> Self {
        Self {
            pdu_type: pdu_type as u8,
            flags: flags.bits(),
            hlen: pdu_type.header_bytes(),
            pdo,
            plen: U32::new(plen),
        }
    }
}

/// ICReq (section 3.6.2.2).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct IcReq {
    /// Common header.
    pub common: CommonHeader,
    /// PDU format version (PFV), bytes 8-9: 0.
    pub pfv: U16,
    /// Host PDU data alignment (HPDA), byte 10: dwords, 0's based, at most 31.
    pub hpda: u8,
    /// Digests asked for (DGST), byte 11: bit 0 header, bit 1 data.
    pub dgst: u8,
    /// R2Ts of one command outstanding at most (MAXR2T), bytes 12-15, 0's based.
    pub maxr2t: U32,
    /// Reserved.
    pub reserved: [u8; 112],
}

/// ICResp (section 3.6.2.3).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct IcResp {
    /// Common header.
    pub common: CommonHeader,
    /// PDU format version (PFV), bytes 8-9: 0.
    pub pfv: U16,
    /// Controller PDU data alignment (CPDA), byte 10: dwords, 0's based, at most 31.
    pub cpda: u8,
    /// Digests agreed (DGST), byte 11: bit 0 header, bit 1 data.
    pub dgst: u8,
    /// Data bytes of one H2CData at most (MAXH2CDATA), bytes 12-15.
    pub maxh2cdata: U32,
    /// Reserved.
    pub reserved: [u8; 112],
}

/// DGST of ICReq and ICResp: header digest.
pub const DGST_HEADER: u8 = 1 << 0;
/// DGST of ICReq and ICResp: data digest.
pub const DGST_DATA: u8 = 1 << 1;
/// Largest HPDA or CPDA.
pub const ALIGNMENT_MAX: u8 = 31;
/// Smallest MAXH2CDATA that a controller may announce.
pub const MAXH2CDATA_MIN_BYTES: u32 = 4096;

/// H2CTermReq and C2HTermReq (sections 3.6.2.4 and 3.6.2.5); the offending header follows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct TermReq {
    /// Common header.
    pub common: CommonHeader,
    /// Fatal error status (FES), bytes 8-9.
    pub fes: U16,
    /// Fatal error information (FEI), bytes 10-13.
    pub fei: U32,
    /// Reserved.
    pub reserved: [u8; 10],
}

/// CapsuleCmd (section 3.6.2.6).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CapsuleCmd {
    /// Common header.
    pub common: CommonHeader,
    /// Submission queue entry (CCSQE), bytes 8-71.
    pub sqe: Sqe,
}

/// CapsuleResp (section 3.6.2.7).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CapsuleResp {
    /// Common header.
    pub common: CommonHeader,
    /// Completion queue entry (RCCQE), bytes 8-23.
    pub cqe: Cqe,
}

/// H2CData (section 3.6.2.8).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct H2cData {
    /// Common header.
    pub common: CommonHeader,
    /// Command capsule CID (CCCID), bytes 8-9.
    pub cccid: U16,
    /// Transfer tag (TTAG) of the R2T, bytes 10-11.
    pub ttag: U16,
    /// Data offset (DATAO) from the start of the command's data, bytes 12-15.
    pub datao: U32,
    /// Data length (DATAL) in bytes, bytes 16-19.
    pub datal: U32,
    /// Reserved.
    pub reserved: [u8; 4],
}

/// C2HData (section 3.6.2.9).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct C2hData {
    /// Common header.
    pub common: CommonHeader,
    /// Command capsule CID (CCCID), bytes 8-9.
    pub cccid: U16,
    /// Reserved.
    pub reserved_10: [u8; 2],
    /// Data offset (DATAO) from the start of the command's data, bytes 12-15.
    pub datao: U32,
    /// Data length (DATAL) in bytes, bytes 16-19.
    pub datal: U32,
    /// Reserved.
    pub reserved_20: [u8; 4],
}

/// R2T (section 3.6.2.10).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct R2t {
    /// Common header.
    pub common: CommonHeader,
    /// Command capsule CID (CCCID), bytes 8-9.
    pub cccid: U16,
    /// Transfer tag (TTAG), bytes 10-11: the host repeats it in its H2CData.
    pub ttag: U16,
    /// Requested data offset (R2TO), bytes 12-15.
    pub r2to: U32,
    /// Requested data length (R2TL) in bytes, bytes 16-19.
    pub r2tl: U32,
    /// Reserved.
    pub reserved: [u8; 4],
}

const _: () = {
    assert!(size_of::<CommonHeader>() == 8);
    assert!(offset_of!(CommonHeader, pdo) == 3 && offset_of!(CommonHeader, plen) == 4);
    assert!(size_of::<IcReq>() == 128 && size_of::<IcResp>() == 128);
    assert!(offset_of!(IcReq, hpda) == 10 && offset_of!(IcReq, maxr2t) == 12);
    assert!(offset_of!(IcResp, cpda) == 10 && offset_of!(IcResp, maxh2cdata) == 12);
    assert!(size_of::<TermReq>() == 24);
    assert!(offset_of!(TermReq, fes) == 8 && offset_of!(TermReq, fei) == 10);
    assert!(size_of::<CapsuleCmd>() == 72 && size_of::<CapsuleResp>() == 24);
    assert!(size_of::<H2cData>() == 24 && size_of::<C2hData>() == 24 && size_of::<R2t>() == 24);
    assert!(offset_of!(H2cData, ttag) == 10 && offset_of!(H2cData, datal) == 16);
    assert!(offset_of!(C2hData, datao) == 12 && offset_of!(C2hData, datal) == 16);
    assert!(offset_of!(R2t, r2to) == 12 && offset_of!(R2t, r2tl) == 16);
};

/// Byte offset of a field, for [`super::PduError::fei`].
macro_rules! field_offset {
    ($pdu:ty, $($field:tt).+) => {{
        // Offsets are below 128.
        #[allow(clippy::cast_possible_truncation)]
        const OFFSET: u32 = std::mem::offset_of!($pdu, $($field).+) as u32;
        OFFSET
    }};
}
pub(crate) use field_offset;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn golden_ic_req_of_the_linux_host() {
        // As nvme_tcp_init_connection() builds it with both digests: PFV 0, HPDA 0, MAXR2T 0.
        let mut bytes = [0u8; 128];
        bytes[..12].copy_from_slice(&[0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 3]);
        let request = IcReq::ref_from_bytes(&bytes).unwrap();
        assert_eq!(request.common, CommonHeader::new(PduType::IcReq, Flags::empty(), 0, 128));
        assert_eq!(request.dgst, DGST_HEADER | DGST_DATA);
        assert_eq!((request.pfv.get(), request.hpda, request.maxr2t.get()), (0, 0, 0));
    }

    #[test]
    fn golden_r2t() {
        let r2t = R2t {
            common: CommonHeader::new(PduType::R2t, Flags::HEADER_DIGEST, 0, 28),
            cccid: U16::new(0x1234),
            ttag: U16::new(0x0056),
            r2to: U32::new(0x0001_0000),
            r2tl: U32::new(0x0000_2000),
            reserved: [0; 4],
        };
        assert_eq!(
            r2t.as_bytes(),
            [9, 1, 24, 0, 28, 0, 0, 0, 0x34, 0x12, 0x56, 0, 0, 0, 1, 0, 0, 0x20, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn golden_data_pdus() {
        let data = C2hData {
            common: CommonHeader::new(
                PduType::C2hData,
                Flags::LAST_PDU | Flags::SUCCESS,
                24,
                24 + 4096,
            ),
            cccid: U16::new(7),
            reserved_10: [0; 2],
            datao: U32::new(0),
            datal: U32::new(4096),
            reserved_20: [0; 4],
        };
        let golden = [7, 0x0c, 24, 24, 0x18, 0x10, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
        assert_eq!(data.as_bytes()[..18], golden);
        assert_eq!(field_offset!(H2cData, ttag), 10);
        assert_eq!(field_offset!(H2cData, common.plen), 4);
    }
}

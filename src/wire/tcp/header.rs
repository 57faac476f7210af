//! Validates a received common header and says how the rest of the PDU is cut.

use thiserror::Error;

use super::digest::DIGEST_BYTES;
use super::pdu::{CommonHeader, Flags, PduType, TERM_REQ_BYTES_MAX, field_offset};

/// Fatal error status (FES) of a TermReq (sections 3.6.2.4 and 3.6.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum FatalError {
    /// Invalid PDU Header Field; FEI is the offset of the field.
    InvalidHeaderField = 0x01,
    /// PDU Sequence Error.
    SequenceError = 0x02,
    /// Header Digest Error; FEI is the digest received.
    HeaderDigestError = 0x03,
    /// Data Transfer Out of Range.
    DataTransferOutOfRange = 0x04,
    /// Data Transfer Limit Exceeded (sent by a controller), R2T Limit Exceeded (by a host).
    LimitExceeded = 0x05,
    /// Unsupported Parameter; FEI is the offset of the field.
    UnsupportedParameter = 0x06,
}

/// Why a connection must end: the content of the TermReq that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the peer broke the NVMe/TCP protocol: {fes:?} (information {fei:#x})")]
pub struct PduError {
    /// Fatal error status.
    pub fes: FatalError,
    /// Fatal error information: the offset of the offending byte for most.
    pub fei: u32,
}

impl PduError {
    /// The header field at byte `offset` is wrong.
    #[must_use]
    pub const fn field(offset: u32) -> Self {
        Self { fes: FatalError::InvalidHeaderField, fei: offset }
    }

    /// An error whose status carries no information.
    #[must_use]
    pub const fn plain(fes: FatalError) -> Self {
        Self { fes, fei: 0 }
    }
}

/// Which end reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    /// PDUs from a host.
    Controller,
    /// PDUs from a controller.
    Host,
}

/// What the two ends agreed on, as far as it decides whether a header is valid.
#[derive(Debug, Clone, Copy)]
pub struct LinkRules {
    /// Which end reads.
    pub receiver: Receiver,
    /// Header digests are in use.
    pub header_digest: bool,
    /// Data digests are in use.
    pub data_digest: bool,
    /// PDO of received PDUs is a multiple of this (4 to 128).
    pub alignment_bytes: u8,
    /// In-capsule data at most.
    pub capsule_data_bytes_max: u32,
    /// Data of one H2CData or C2HData at most.
    pub data_bytes_max: u32,
}

/// A validated header: how the PDU is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PduHeader {
    /// Type.
    pub pdu_type: PduType,
    /// Flags; those that the specification reserves are dropped.
    pub flags: Flags,
    /// Header without digest (HLEN).
    pub header_bytes: u8,
    /// Header with digest: what must arrive before the PDU can be acted on.
    pub prologue_bytes: u8,
    /// Padding between the prologue and the data.
    pub padding_bytes: u8,
    /// Data, the digest not counted.
    pub payload_bytes: u32,
    /// A data digest follows the data.
    pub has_data_digest: bool,
}

impl PduHeader {
    /// Checks `common` against `rules`.
    ///
    /// # Errors
    /// What the TermReq must say: FES and the offset of the field at fault.
    #[inline]
    pub fn parse(common: &CommonHeader, rules: &LinkRules) -> Result<Self, PduError> {
        let pdu_type = PduType::from_byte(common.pdu_type)
            .filter(|pdu_type| receiver_of(*pdu_type) == rules.receiver)
            .ok_or(PduError::field(field_offset!(CommonHeader, pdu_type)))?;
        let header_bytes = pdu_type.header_bytes();
        if common.hlen != header_bytes {
            return Err(PduError::field(field_offset!(CommonHeader, hlen)));
        }
        let flags = Flags::from_bits_truncate(common.flags);
        let plen = common.plen.get();
        let mut header = Self {
            pdu_type,
            flags,
            header_bytes,
            prologue_bytes: header_bytes,
            padding_bytes: 0,
            payload_bytes: 0,
            has_data_digest: false,
        };
        match pdu_type {
            PduType::IcReq | PduType::IcResp => {
                if plen != u32::from(header_bytes) {
                    return Err(PduError::field(field_offset!(CommonHeader, plen)));
                }
                return Ok(header);
            }
            PduType::H2cTermReq | PduType::C2hTermReq => {
                let limit = u32::try_from(TERM_REQ_BYTES_MAX).expect("a small constant");
                if plen < u32::from(header_bytes) || plen > limit {
                    return Err(PduError::field(field_offset!(CommonHeader, plen)));
                }
                header.payload_bytes = plen - u32::from(header_bytes);
                return Ok(header);
            }
            _ => {}
        }
        if flags.contains(Flags::HEADER_DIGEST) != rules.header_digest {
            return Err(PduError::field(field_offset!(CommonHeader, flags)));
        }
        header.prologue_bytes += digest_bytes(rules.header_digest);
        if plen == u32::from(header.prologue_bytes) && !must_have_data(pdu_type) {
            return Ok(header);
        }
        header.cut_data(common, rules)?;
        Ok(header)
    }

    /// Checks PDO and PLEN of a PDU with data.
    fn cut_data(&mut self, common: &CommonHeader, rules: &LinkRules) -> Result<(), PduError> {
        let plen_is_wrong = PduError::field(field_offset!(CommonHeader, plen));
        if matches!(self.pdu_type, PduType::CapsuleResp | PduType::R2t)
            || common.plen.get() <= u32::from(self.prologue_bytes)
        {
            return Err(plen_is_wrong);
        }
        if common.pdo < self.prologue_bytes || !common.pdo.is_multiple_of(rules.alignment_bytes) {
            return Err(PduError::field(field_offset!(CommonHeader, pdo)));
        }
        if self.flags.contains(Flags::DATA_DIGEST) != rules.data_digest {
            return Err(PduError::field(field_offset!(CommonHeader, flags)));
        }
        self.has_data_digest = rules.data_digest;
        self.padding_bytes = common.pdo - self.prologue_bytes;
        let around = u32::from(common.pdo) + u32::from(digest_bytes(rules.data_digest));
        self.payload_bytes = common.plen.get().checked_sub(around).ok_or(plen_is_wrong)?;
        if self.payload_bytes == 0 {
            return Err(plen_is_wrong);
        }
        if self.pdu_type == PduType::CapsuleCmd {
            if self.payload_bytes > rules.capsule_data_bytes_max {
                return Err(plen_is_wrong);
            }
        } else if self.payload_bytes > rules.data_bytes_max {
            return Err(PduError::plain(FatalError::LimitExceeded));
        }
        Ok(())
    }
}

const fn receiver_of(pdu_type: PduType) -> Receiver {
    match pdu_type {
        PduType::IcReq | PduType::H2cTermReq | PduType::CapsuleCmd | PduType::H2cData => {
            Receiver::Controller
        }
        PduType::IcResp
        | PduType::C2hTermReq
        | PduType::CapsuleResp
        | PduType::C2hData
        | PduType::R2t => Receiver::Host,
    }
}

const fn must_have_data(pdu_type: PduType) -> bool {
    matches!(pdu_type, PduType::H2cData | PduType::C2hData)
}

/// Bytes a digest takes when it is in use.
#[must_use]
pub const fn digest_bytes(in_use: bool) -> u8 {
    const BYTES: u8 = 4;
    const _: () = assert!(BYTES as usize == DIGEST_BYTES);
    if in_use { BYTES } else { 0 }
}

/// Bytes that HPDA or CPDA stands for: dwords, 0's based.
#[must_use]
pub const fn alignment_bytes(field: u8) -> u8 {
    (field + 1) * 4
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::{FromBytes, little_endian::U32};

    fn rules(header_digest: bool, data_digest: bool) -> LinkRules {
        LinkRules {
            receiver: Receiver::Controller,
            header_digest,
            data_digest,
            alignment_bytes: 4,
            capsule_data_bytes_max: 8192,
            data_bytes_max: 131_072,
        }
    }

    fn common(pdu_type: u8, flags: u8, hlen: u8, pdo: u8, plen: u32) -> CommonHeader {
        CommonHeader { pdu_type, flags, hlen, pdo, plen: U32::new(plen) }
    }

    #[test]
    fn capsule_with_both_digests() {
        let header =
            PduHeader::parse(&common(4, 3, 72, 76, 76 + 4096 + 4), &rules(true, true)).unwrap();
        assert_eq!((header.prologue_bytes, header.padding_bytes), (76, 0));
        assert_eq!((header.payload_bytes, header.has_data_digest), (4096, true));
        // Without data the flag for a data digest means nothing, and neither does PDO.
        let header = PduHeader::parse(&common(4, 3, 72, 200, 76), &rules(true, true)).unwrap();
        assert_eq!((header.payload_bytes, header.has_data_digest), (0, false));
    }

    #[test]
    fn the_error_names_the_field() {
        let field = |offset| Err(PduError::field(offset));
        let check = |header, digests: (bool, bool)| {
            PduHeader::parse(&header, &rules(digests.0, digests.1)).map(|_| ())
        };
        let none = (false, false);
        assert_eq!(check(common(8, 0, 24, 0, 24), none), field(0), "no such type");
        assert_eq!(check(common(5, 0, 24, 0, 24), none), field(0), "wrong direction");
        assert_eq!(check(common(4, 0, 71, 0, 72), none), field(2));
        assert_eq!(check(common(4, 1, 72, 0, 76), none), field(1), "digest not agreed");
        assert_eq!(check(common(4, 0, 72, 0, 72), (true, false)), field(1), "digest missing");
        assert_eq!(check(common(4, 0, 72, 72, 88), (false, true)), field(1));
        assert_eq!(check(common(4, 0, 72, 68, 172), none), field(3), "PDO inside the header");
        assert_eq!(check(common(4, 0, 72, 74, 174), none), field(3), "PDO not aligned");
        assert_eq!(check(common(4, 0, 72, 0, 71), none), field(4));
        assert_eq!(check(common(4, 0, 72, 80, 76), none), field(4), "PLEN below PDO");
        assert_eq!(check(common(4, 0, 72, 72, 72 + 8193), none), field(4));
        assert_eq!(check(common(6, 0, 24, 24, 24), none), field(4), "H2CData without data");
        assert_eq!(check(common(0, 0, 128, 0, 129), none), field(4));
        assert_eq!(check(common(2, 0, 24, 0, 153), none), field(4));
        assert_eq!(
            check(common(6, 0, 24, 24, 24 + 131_073), none),
            Err(PduError::plain(FatalError::LimitExceeded))
        );
        assert_eq!(check(common(6, 0, 24, 24, u32::MAX), none).unwrap_err().fei, 0);
    }

    proptest! {
        #[test]
        fn accepted_headers_add_up(
            bytes in any::<[u8; 8]>(), pdu_type in 0u8..10, header_digest: bool, data_digest: bool,
        ) {
            let mut header = CommonHeader::read_from_bytes(&bytes).unwrap();
            header.pdu_type = pdu_type;
            header.hlen = PduType::from_byte(pdu_type).map_or(0, PduType::header_bytes);
            header.plen = U32::new(header.plen.get() & 0xffff);
            if let Ok(cut) = PduHeader::parse(&header, &rules(header_digest, data_digest)) {
                let total = u32::from(cut.prologue_bytes)
                    + u32::from(cut.padding_bytes)
                    + cut.payload_bytes
                    + u32::from(digest_bytes(cut.has_data_digest));
                prop_assert_eq!(total, header.plen.get());
            }
        }
    }
}

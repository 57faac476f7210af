//! Authentication commands and the messages of DH-HMAC-CHAP (NVMe Base 2.1, sections 6.1, 6.2 and
//! 8.3.4).

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::fctype;
use crate::wire::nvme::{Sqe, opcode};

/// SECP of NVMe's own authentication protocols (Base, section 6.1).
pub const SECP_NVME: u8 = 0xe9;

/// SPSP0 and SPSP1 of NVMe's own authentication protocols.
pub const SPSP_NVME: u8 = 0x01;

/// Connect response, dword 0 bit 17 (AUTHREQ.ATR): the queue must authenticate itself.
pub const CONNECT_ATR: u32 = 1 << 17;

/// Connect response, dword 0 bit 18 (AUTHREQ.ASCR): authentication is to make a secure channel.
pub const CONNECT_ASCR: u32 = 1 << 18;

/// Bytes of a hash value at most: SHA-512.
pub const HASH_BYTES_MAX: usize = 64;

/// Bytes of a Diffie-Hellman value at most: FFDHE8192.
pub const DH_BYTES_MAX: usize = 1024;

/// Bytes of a message at most: a reply has two hash values and a Diffie-Hellman value.
pub const MESSAGE_BYTES_MAX: usize = size_of::<Reply>() + 2 * HASH_BYTES_MAX + DH_BYTES_MAX;

/// Protocols that one AUTH_Negotiate may offer; so many fit what an Authentication Send carries.
pub const PROTOCOLS_MAX: usize = 16;

/// Identifiers that each of the two lists of a protocol descriptor can hold.
pub const IDS_MAX: usize = 30;

/// AUTH_TYPE of messages common to all protocols.
pub const TYPE_COMMON: u8 = 0x00;

/// AUTH_TYPE of DH-HMAC-CHAP's own messages.
pub const TYPE_DHCHAP: u8 = 0x01;

/// AUTHID of DH-HMAC-CHAP in a protocol descriptor.
pub const PROTOCOL_DHCHAP: u8 = 0x01;

/// AUTH_ID: what a message is.
#[allow(missing_docs)]
pub mod id {
    pub const NEGOTIATE: u8 = 0x00;
    pub const CHALLENGE: u8 = 0x01;
    pub const REPLY: u8 = 0x02;
    pub const SUCCESS1: u8 = 0x03;
    pub const SUCCESS2: u8 = 0x04;
    pub const FAILURE2: u8 = 0xf0;
    pub const FAILURE1: u8 = 0xf1;
}

/// Reason code of both failure messages: the transaction failed. There is no other.
pub const REASON_FAILED: u8 = 0x01;

/// Reason code explanation (Base, section 8.3.4.3, figure "Reason Code Explanation").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Explanation {
    /// Authentication failed.
    Failed = 0x01,
    /// Authentication protocol not usable.
    ProtocolNotUsable = 0x02,
    /// Secure channel concatenation mismatch.
    ConcatMismatch = 0x03,
    /// Hash function not usable.
    HashNotUsable = 0x04,
    /// DH group not usable.
    GroupNotUsable = 0x05,
    /// Incorrect payload.
    IncorrectPayload = 0x06,
    /// Incorrect protocol message.
    IncorrectMessage = 0x07,
}

impl Explanation {
    /// The explanation with this code; `None`: the specification has none.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0x01 => Self::Failed,
            0x02 => Self::ProtocolNotUsable,
            0x03 => Self::ConcatMismatch,
            0x04 => Self::HashNotUsable,
            0x05 => Self::GroupNotUsable,
            0x06 => Self::IncorrectPayload,
            0x07 => Self::IncorrectMessage,
            _ => return None,
        })
    }

    /// For the log.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Failed => "authentication failed",
            Self::ProtocolNotUsable => "authentication protocol not usable",
            Self::ConcatMismatch => "secure channel concatenation mismatch",
            Self::HashNotUsable => "hash function not usable",
            Self::GroupNotUsable => "DH group not usable",
            Self::IncorrectPayload => "incorrect payload",
            Self::IncorrectMessage => "incorrect protocol message",
        }
    }
}

/// SC_C: which secure channel an authentication is to make (Base, section 8.3.4.2). 01h is
/// obsolete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum SecureChannel {
    /// NOSC: none.
    #[default]
    None = 0x00,
    /// NEWTLSPSK: on an admin queue without TLS, a key with which the host comes back under TLS.
    New = 0x02,
    /// REPLACETLSPSK: on an admin queue under TLS, a key in place of the one it is under.
    Replace = 0x03,
}

impl SecureChannel {
    /// What this code asks for; `None`: the specification has no such code.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0x00 => Self::None,
            0x02 => Self::New,
            0x03 => Self::Replace,
            _ => return None,
        })
    }
}

/// Authentication Send and Authentication Receive (Base, sections 6.1 and 6.2).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct AuthCommand {
    /// Opcode, 7Fh, byte 0.
    pub opcode: u8,
    /// Byte 1.
    pub flags: u8,
    /// Command Identifier (CID), bytes 3:2.
    pub cid: U16,
    /// Fabrics Command Type (FCTYPE), byte 4.
    pub fctype: u8,
    /// Bytes 23:5.
    pub reserved5: [u8; 19],
    /// SGL Descriptor 1 (SGL1), bytes 39:24.
    pub sgl1: [u8; 16],
    /// Byte 40.
    pub reserved40: u8,
    /// Security Protocol Specific 0 (SPSP0), byte 41.
    pub spsp0: u8,
    /// Security Protocol Specific 1 (SPSP1), byte 42.
    pub spsp1: u8,
    /// Security Protocol (SECP), byte 43.
    pub secp: u8,
    /// Transfer Length (TL) or Allocation Length (AL), bytes 47:44.
    pub length_bytes: U32,
    /// Bytes 63:48.
    pub reserved48: [u8; 16],
}

/// What every message begins with (Base, section 8.3.4.1).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct MessageHead {
    /// Authentication Type (AUTH_TYPE), byte 0.
    pub auth_type: u8,
    /// Authentication Identifier (AUTH_ID), byte 1.
    pub auth_id: u8,
    /// Bytes 3:2.
    pub reserved2: [u8; 2],
    /// Transaction Identifier (T_ID), bytes 5:4.
    pub t_id: U16,
}

/// AUTH_Negotiate (Base, section 8.3.4.2), in front of its protocol descriptors.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Negotiate {
    /// Bytes 5:0.
    pub head: MessageHead,
    /// Secure Channel Concatenation (SC_C), byte 6, see [`SecureChannel`].
    pub sc_c: u8,
    /// Number of Authentication Protocol Descriptors (NAPD), byte 7.
    pub napd: u8,
}

/// Protocol descriptor of DH-HMAC-CHAP (Base, section 8.3.4.5.2).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Protocol {
    /// Authentication Protocol Identifier (AUTHID), byte 0.
    pub auth_id: u8,
    /// Byte 1.
    pub reserved1: u8,
    /// Hash functions in the list (HALEN), byte 2.
    pub halen: u8,
    /// DH groups in the list (DHLEN), byte 3.
    pub dhlen: u8,
    /// Hash functions (IDLIST), bytes 33:4.
    pub hashes: [u8; IDS_MAX],
    /// DH groups (IDLIST), bytes 63:34.
    pub groups: [u8; IDS_MAX],
}

/// DH-HMAC-CHAP_Challenge (Base, section 8.3.4.5.3), in front of challenge and DH value.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Challenge {
    /// Bytes 5:0.
    pub head: MessageHead,
    /// Hash Length (HL), byte 6.
    pub hl: u8,
    /// Byte 7.
    pub reserved7: u8,
    /// Hash Identifier (HASHID), byte 8.
    pub hash_id: u8,
    /// Diffie-Hellman Group Identifier (DHGID), byte 9.
    pub group_id: u8,
    /// Diffie-Hellman Value Length (DHVLEN), bytes 11:10.
    pub dhvlen: U16,
    /// Sequence Number (SEQNUM), bytes 15:12: S1.
    pub seqnum: U32,
}

/// DH-HMAC-CHAP_Reply (Base, section 8.3.4.5.4), in front of response, challenge and DH value.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Reply {
    /// Bytes 5:0.
    pub head: MessageHead,
    /// Hash Length (HL), byte 6.
    pub hl: u8,
    /// Byte 7.
    pub reserved7: u8,
    /// Challenge Valid (CVALID), byte 8: the host wants the controller to prove itself.
    pub cvalid: u8,
    /// Byte 9.
    pub reserved9: u8,
    /// Diffie-Hellman Value Length (DHVLEN), bytes 11:10.
    pub dhvlen: U16,
    /// Sequence Number (SEQNUM), bytes 15:12: S2.
    pub seqnum: U32,
}

/// DH-HMAC-CHAP_Success1 (Base, section 8.3.4.5.5), in front of the controller's response.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Success1 {
    /// Bytes 5:0.
    pub head: MessageHead,
    /// Hash Length (HL), byte 6.
    pub hl: u8,
    /// Byte 7.
    pub reserved7: u8,
    /// Response Valid (RVALID), byte 8.
    pub rvalid: u8,
    /// Bytes 15:9.
    pub reserved9: [u8; 7],
}

/// DH-HMAC-CHAP_Success2 (Base, section 8.3.4.5.6).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Success2 {
    /// Bytes 5:0.
    pub head: MessageHead,
    /// Bytes 15:6.
    pub reserved6: [u8; 10],
}

/// AUTH_Failure1 and AUTH_Failure2 (Base, section 8.3.4.3).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Failure {
    /// Bytes 5:0.
    pub head: MessageHead,
    /// Reason Code (RC), byte 6.
    pub reason: u8,
    /// Reason Code Explanation (RCE), byte 7, see [`Explanation`].
    pub explanation: u8,
}

const _: () = {
    assert!(size_of::<AuthCommand>() == size_of::<Sqe>());
    assert!(offset_of!(AuthCommand, sgl1) == 24);
    assert!(offset_of!(AuthCommand, spsp0) == 41);
    assert!(offset_of!(AuthCommand, secp) == 43);
    assert!(offset_of!(AuthCommand, length_bytes) == 44);
    assert!(size_of::<MessageHead>() == 6);
    assert!(size_of::<Negotiate>() == 8);
    assert!(size_of::<Protocol>() == 64);
    assert!(offset_of!(Protocol, groups) == 34);
    assert!(size_of::<Challenge>() == 16);
    assert!(offset_of!(Challenge, seqnum) == 12);
    assert!(size_of::<Reply>() == 16);
    assert!(offset_of!(Reply, cvalid) == 8);
    assert!(size_of::<Success1>() == 16);
    assert!(size_of::<Success2>() == 16);
    assert!(size_of::<Failure>() == 8);
    // The longest AUTH_Negotiate is no longer than the longest reply.
    assert!(size_of::<Negotiate>() + PROTOCOLS_MAX * size_of::<Protocol>() <= MESSAGE_BYTES_MAX);
};

seen_as_entry!(AuthCommand);

impl AuthCommand {
    /// A host's Authentication Send of `len_bytes` bytes.
    #[must_use]
    pub fn send(len_bytes: u32) -> Self {
        Self::new(fctype::AUTH_SEND, len_bytes)
    }

    /// A host's Authentication Receive of at most `len_bytes` bytes.
    #[must_use]
    pub fn receive(len_bytes: u32) -> Self {
        Self::new(fctype::AUTH_RECEIVE, len_bytes)
    }

    fn new(fctype: u8, len_bytes: u32) -> Self {
        let mut command = Self::new_zeroed();
        command.opcode = opcode::FABRICS;
        command.fctype = fctype;
        command.spsp0 = SPSP_NVME;
        command.spsp1 = SPSP_NVME;
        command.secp = SECP_NVME;
        command.length_bytes = U32::new(len_bytes);
        command
    }

    /// Whether it is of NVMe's own protocols.
    #[must_use]
    pub fn names_nvme(&self) -> bool {
        self.secp == SECP_NVME && self.spsp0 == SPSP_NVME && self.spsp1 == SPSP_NVME
    }
}

impl MessageHead {
    /// The head of a message.
    #[must_use]
    pub fn new(auth_type: u8, auth_id: u8, t_id: u16) -> Self {
        Self { auth_type, auth_id, reserved2: [0; 2], t_id: U16::new(t_id) }
    }
}

impl Failure {
    /// A failure message; `auth_id` says whose.
    #[must_use]
    pub fn new(auth_id: u8, t_id: u16, explanation: Explanation) -> Self {
        let head = MessageHead::new(TYPE_COMMON, auth_id, t_id);
        Self { head, reason: REASON_FAILED, explanation: explanation as u8 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_commands_of_a_host() {
        let sqe = AuthCommand::send(72).to_sqe();
        let bytes = sqe.as_bytes();
        assert_eq!((bytes[0], bytes[4]), (0x7f, 5));
        assert_eq!(bytes[40..48], [0, 1, 1, 0xe9, 72, 0, 0, 0]);
        assert!(AuthCommand::from_sqe(&sqe).names_nvme());
        let sqe = AuthCommand::receive(0x1000).to_sqe();
        assert_eq!(sqe.as_bytes()[4], 6);
        assert_eq!(sqe.as_bytes()[40..48], [0, 1, 1, 0xe9, 0, 0x10, 0, 0]);
    }

    #[test]
    fn explanations_and_channels_have_their_codes() {
        for code in 0..=u8::MAX {
            let explanation = Explanation::from_code(code);
            assert_eq!(explanation.is_some(), (1..=7).contains(&code));
            assert!(explanation.is_none_or(|it| it as u8 == code && !it.text().is_empty()));
        }
        for code in 0..=u8::MAX {
            let channel = SecureChannel::from_code(code);
            assert_eq!(channel.map(|it| it as u8), [0, 2, 3].contains(&code).then_some(code));
        }
        let failure = Failure::new(id::FAILURE1, 0x1234, Explanation::HashNotUsable);
        assert_eq!(failure.as_bytes(), [0, 0xf1, 0, 0, 0x34, 0x12, 1, 4]);
    }
}

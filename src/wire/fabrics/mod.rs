//! NVMe over Fabrics commands (NVMe Base 2.1, section 6): views of the submission queue entry and
//! the Connect data.

/// A command of Fabrics is a submission queue entry.
macro_rules! seen_as_entry {
    ($($command:ty),+) => {$(
        impl $command {
            /// The command as a queue takes it.
            #[must_use]
            pub fn to_sqe(self) -> Sqe {
                zerocopy::transmute!(self)
            }

            /// The entry seen as this command.
            #[must_use]
            pub fn from_sqe(sqe: &Sqe) -> Self {
                zerocopy::transmute!(*sqe)
            }
        }
    )+};
}

pub mod auth;

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::nvme::{Sqe, opcode};

/// Fabrics command types (FCTYPE; Base, figure "Fabrics Command Types").
#[allow(missing_docs)]
pub mod fctype {
    pub const PROPERTY_SET: u8 = 0x00;
    pub const CONNECT: u8 = 0x01;
    pub const PROPERTY_GET: u8 = 0x04;
    pub const AUTH_SEND: u8 = 0x05;
    pub const AUTH_RECEIVE: u8 = 0x06;
}

/// NQN of every discovery subsystem (Base, section 4.7).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Bytes of an NQN at most, without its NUL (Base, section 4.7).
pub const NQN_BYTES_MAX: usize = 223;

/// Controller ID with which a host asks for any controller (dynamic controller model).
pub const CNTLID_DYNAMIC: u16 = 0xffff;

/// CATTR bit 2: the host asks for a queue without submission queue flow control.
pub const CATTR_DISABLE_SQ_FLOW_CONTROL: u8 = 1 << 2;

/// Connect command (Base, section 6.3, figure "Connect Command – Submission Queue Entry").
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ConnectCommand {
    /// Opcode, 7Fh, byte 0.
    pub opcode: u8,
    /// Byte 1; bits 7:6 PSDT.
    pub flags: u8,
    /// Command Identifier (CID), bytes 3:2.
    pub cid: U16,
    /// Fabrics Command Type (FCTYPE), byte 4.
    pub fctype: u8,
    /// Bytes 23:5.
    pub reserved5: [u8; 19],
    /// SGL Descriptor 1 (SGL1), bytes 39:24.
    pub sgl1: [u8; 16],
    /// Record Format (RECFMT), bytes 41:40, zero.
    pub recfmt: U16,
    /// Queue ID (QID), bytes 43:42; 0 is the admin queue.
    pub qid: U16,
    /// Submission Queue Size (SQSIZE), bytes 45:44, 0's based.
    pub sqsize: U16,
    /// Connect Attributes (CATTR), byte 46.
    pub cattr: u8,
    /// Byte 47.
    pub reserved47: u8,
    /// Keep Alive Timeout (KATO), bytes 51:48, in milliseconds; admin queue only.
    pub kato_ms: U32,
    /// Bytes 63:52.
    pub reserved52: [u8; 12],
}

/// Connect data (Base, section 6.3, figure "Connect Command – Data").
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectData {
    /// Host Identifier (HOSTID), bytes 15:0.
    pub hostid: [u8; 16],
    /// Controller ID (CNTLID), bytes 17:16.
    pub cntlid: U16,
    /// Bytes 255:18.
    pub reserved18: [u8; 238],
    /// NVM Subsystem NQN (SUBNQN), bytes 511:256, NUL terminated.
    pub subnqn: [u8; 256],
    /// Host NQN (HOSTNQN), bytes 767:512, NUL terminated.
    pub hostnqn: [u8; 256],
    /// Bytes 1023:768.
    pub reserved768: [u8; 256],
}

/// Property Get and Property Set (Base, sections 6.6 and 6.7).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PropertyCommand {
    /// Opcode, 7Fh, byte 0.
    pub opcode: u8,
    /// Byte 1.
    pub flags: u8,
    /// Command Identifier (CID), bytes 3:2.
    pub cid: U16,
    /// Fabrics Command Type (FCTYPE), byte 4.
    pub fctype: u8,
    /// Bytes 39:5.
    pub reserved5: [u8; 35],
    /// Attributes (ATTRIB), byte 40; bits 2:0: 0 for 4 bytes, 1 for 8 bytes.
    pub attrib: u8,
    /// Bytes 43:41.
    pub reserved41: [u8; 3],
    /// Offset (OFST), bytes 47:44.
    pub offset: U32,
    /// Value (VALUE), bytes 55:48; Property Set only.
    pub value: U64,
    /// Bytes 63:56.
    pub reserved56: [u8; 8],
}

const _: () = {
    assert!(size_of::<ConnectCommand>() == size_of::<Sqe>());
    assert!(offset_of!(ConnectCommand, sgl1) == 24);
    assert!(offset_of!(ConnectCommand, recfmt) == 40);
    assert!(offset_of!(ConnectCommand, qid) == 42);
    assert!(offset_of!(ConnectCommand, sqsize) == 44);
    assert!(offset_of!(ConnectCommand, kato_ms) == 48);
    assert!(size_of::<ConnectData>() == 1024);
    assert!(offset_of!(ConnectData, cntlid) == 16);
    assert!(offset_of!(ConnectData, subnqn) == 256);
    assert!(offset_of!(ConnectData, hostnqn) == 512);
    assert!(size_of::<PropertyCommand>() == size_of::<Sqe>());
    assert!(offset_of!(PropertyCommand, attrib) == 40);
    assert!(offset_of!(PropertyCommand, offset) == 44);
    assert!(offset_of!(PropertyCommand, value) == 48);
};

seen_as_entry!(ConnectCommand, PropertyCommand);

impl ConnectCommand {
    /// A host's Connect for a queue of `depth` entries, at least one.
    #[must_use]
    pub fn new(qid: u16, depth: u16, no_flow_control: bool, kato_ms: u32) -> Self {
        let mut command = Self::new_zeroed();
        command.opcode = opcode::FABRICS;
        command.fctype = fctype::CONNECT;
        command.qid = U16::new(qid);
        command.sqsize = U16::new(depth - 1);
        command.cattr = if no_flow_control { CATTR_DISABLE_SQ_FLOW_CONTROL } else { 0 };
        command.kato_ms = U32::new(kato_ms);
        command
    }
}

impl ConnectData {
    /// A host's data for Connect.
    ///
    /// # Panics
    /// If an NQN has more than [`NQN_BYTES_MAX`] bytes.
    #[must_use]
    pub fn new(hostid: [u8; 16], cntlid: u16, subsystem_nqn: &str, host_nqn: &str) -> Self {
        let mut data = Self::new_zeroed();
        data.hostid = hostid;
        data.cntlid = U16::new(cntlid);
        for (field, nqn) in [(&mut data.subnqn, subsystem_nqn), (&mut data.hostnqn, host_nqn)] {
            assert!(nqn.len() <= NQN_BYTES_MAX, "an NQN is too long: {nqn}");
            field[..nqn.len()].copy_from_slice(nqn.as_bytes());
        }
        data
    }
}

impl PropertyCommand {
    /// Property Get of 8 bytes if `is_wide`, else of 4.
    #[must_use]
    pub fn get(offset: u32, is_wide: bool) -> Self {
        let mut command = Self::new_zeroed();
        command.opcode = opcode::FABRICS;
        command.fctype = fctype::PROPERTY_GET;
        command.attrib = u8::from(is_wide);
        command.offset = U32::new(offset);
        command
    }

    /// Property Set of 4 bytes.
    #[must_use]
    pub fn set(offset: u32, value: u32) -> Self {
        let mut command = Self::get(offset, false);
        command.fctype = fctype::PROPERTY_SET;
        command.value = U64::new(value.into());
        command
    }

    /// Bytes the host wants to read or write: 4 or 8; `None` for reserved values.
    #[must_use]
    pub fn size_bytes(&self) -> Option<u8> {
        match self.attrib & 7 {
            0 => Some(4),
            1 => Some(8),
            _ => None,
        }
    }
}

/// Result dword of Connect Invalid Parameters: the offset of the bad field (IPO, bits 15:0) and
/// whether it lies in the data (IATTR, bit 16) or in the command.
#[must_use]
pub const fn invalid_parameter(in_data: bool, offset: u16) -> u32 {
    (in_data as u32) << 16 | offset as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqe_views() {
        let mut sqe = Sqe::new_zeroed();
        sqe.cdw10.set(0x0003_0000);
        sqe.cdw11.set(0x0004_007f);
        sqe.cdw12.set(5000);
        let connect = ConnectCommand::from_sqe(&sqe);
        assert_eq!((connect.recfmt.get(), connect.qid.get()), (0, 3));
        assert_eq!((connect.sqsize.get(), connect.cattr), (127, 4));
        assert_eq!(connect.kato_ms.get(), 5000);
        sqe.cdw10.set(1);
        sqe.cdw11.set(0x14);
        sqe.cdw12.set(0x0046_0001);
        let property = PropertyCommand::from_sqe(&sqe);
        assert_eq!((property.size_bytes(), property.offset.get()), (Some(8), 0x14));
        assert_eq!(property.value.get(), 0x0046_0001);
    }

    #[test]
    fn golden_commands_of_a_host() {
        // Fields of Connect by byte: 40 RECFMT, 42 QID, 44 SQSIZE, 46 CATTR, 48 KATO.
        let connect = ConnectCommand::new(0x0102, 0x80, true, 15_000);
        let sqe = connect.to_sqe();
        let bytes = sqe.as_bytes();
        assert_eq!((bytes[0], bytes[4]), (0x7f, 1));
        assert_eq!(bytes[40..52], [0, 0, 2, 1, 0x7f, 0, 4, 0, 0x98, 0x3a, 0, 0]);
        assert_eq!(ConnectCommand::from_sqe(&sqe), connect);
        let data = ConnectData::new([9; 16], 0xffff, "nqn.sub", "nqn.host");
        let bytes = data.as_bytes();
        assert_eq!(bytes[..18], [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 255, 255]);
        assert_eq!((&bytes[256..264], &bytes[512..521]), (&b"nqn.sub\0"[..], &b"nqn.host\0"[..]));
        let set = PropertyCommand::set(0x14, 0x0046_0001).to_sqe();
        assert_eq!((set.opcode, set.nsid.get(), set.cdw10.get()), (0x7f, 0, 0));
        assert_eq!(set.as_bytes()[44..56], [0x14, 0, 0, 0, 1, 0, 0x46, 0, 0, 0, 0, 0]);
        let get = PropertyCommand::get(0, true).to_sqe();
        assert_eq!((get.opcode, get.nsid.get()), (0x7f, 4));
        assert_eq!(get.as_bytes()[40..48], [1, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn invalid_parameter_names_the_field() {
        assert_eq!(invalid_parameter(true, 256), 0x0001_0100);
        assert_eq!(invalid_parameter(false, 42), 42);
    }
}

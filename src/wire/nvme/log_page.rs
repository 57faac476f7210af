//! Log pages and the fields of Get Log Page (Base, section 5.1.12).

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Sqe;

/// Log page identifiers (Base, figure "Get Log Page – Log Page Identifiers").
#[allow(missing_docs)]
pub mod lid {
    pub const SUPPORTED_LOG_PAGES: u8 = 0x00;
    pub const ERROR_INFORMATION: u8 = 0x01;
    pub const SMART_HEALTH: u8 = 0x02;
    pub const FIRMWARE_SLOT: u8 = 0x03;
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    pub const COMMANDS_SUPPORTED: u8 = 0x05;
    pub const ANA: u8 = 0x0c;
    pub const FEATURES_SUPPORTED: u8 = 0x12;
    pub const DISCOVERY: u8 = 0x70;
    pub const RESERVATION: u8 = 0x80;
}

/// The fields of a Get Log Page command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetLogPage {
    /// Log Page Identifier (LID), dword 10 bits 7:0.
    pub lid: u8,
    /// Log Specific Parameter (LSP), dword 10 bits 14:8.
    pub lsp: u8,
    /// Retain Asynchronous Event (RAE), dword 10 bit 15.
    pub retain_event: bool,
    /// Bytes asked for, 4 to 2^34: NUMDL (dword 10 bits 31:16) and NUMDU (dword 11 bits 15:0)
    /// together are a 0's based count of dwords.
    pub len_bytes: u64,
    /// Log Page Offset (LPOL and LPOU, dwords 12 and 13); bytes unless `offset_is_index`.
    pub offset: u64,
    /// Offset Type (OT), dword 14 bit 23.
    pub offset_is_index: bool,
    /// Command Set Identifier (CSI), dword 14 bits 31:24.
    pub csi: u8,
}

impl GetLogPage {
    /// Reads the command's dwords.
    #[must_use]
    pub fn parse(sqe: &Sqe) -> Self {
        let [lid, lsp_rae, numdl_low, numdl_high] = sqe.cdw10.to_bytes();
        let [numdu_low, numdu_high, _, _] = sqe.cdw11.to_bytes();
        let dwords = u32::from_le_bytes([numdl_low, numdl_high, numdu_low, numdu_high]);
        Self {
            lid,
            lsp: lsp_rae & 0x7f,
            retain_event: lsp_rae & 0x80 != 0,
            len_bytes: (u64::from(dwords) + 1) * 4,
            offset: u64::from(sqe.cdw13.get()) << 32 | u64::from(sqe.cdw12.get()),
            offset_is_index: sqe.cdw14.get() >> 23 & 1 != 0,
            csi: sqe.cdw14.to_bytes()[3],
        }
    }
}

/// Size of an entry of the Error Information log.
pub const ERROR_ENTRY_BYTES: usize = size_of::<ErrorEntry>();

/// Error Information log entry, 64 bytes (Base, section 5.1.12.1.2). All zero: no error.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErrorEntry {
    /// Error Count, bytes 7:0: a number of its own for each error, from 1.
    pub error_count: U64,
    /// Submission Queue ID (SQID), bytes 9:8.
    pub sqid: U16,
    /// Command ID (CID), bytes 11:10.
    pub cid: U16,
    /// Status Info (STS), bytes 13:12: the completion's status field with its phase tag.
    pub status: U16,
    /// Parameter Error Location (PELOC), bytes 15:14; FFFFh: none.
    pub parameter_location: U16,
    /// Logical Block Address (LBA), bytes 23:16.
    pub lba: U64,
    /// Namespace (NSID), bytes 27:24.
    pub nsid: U32,
    /// Vendor Specific Information Available (VSIA), byte 28.
    pub vsia: u8,
    /// Transport Type (TRTYPE), byte 29.
    pub trtype: u8,
    /// Command Set Indicator (CSI), byte 30.
    pub csi: u8,
    /// Opcode (OPC), byte 31.
    pub opcode: u8,
    /// Command Specific Information (CSINFO), bytes 39:32.
    pub command_specific: U64,
    /// Transport Type Specific Information (TTSI), bytes 41:40.
    pub transport_specific: U16,
    /// Bytes 62:42.
    pub reserved42: [u8; 21],
    /// Log Page Version (LPVER), byte 63: 1h, CSI and OPC are there.
    pub version: u8,
}

#[allow(missing_docs)]
impl ErrorEntry {
    pub const TRTYPE_TCP: u8 = 3;
}

/// SMART / Health Information, 512 bytes (Base, section 5.1.12.1.3).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SmartLog {
    /// Critical Warning, byte 0.
    pub critical_warning: u8,
    /// Composite Temperature in kelvins, bytes 2:1.
    pub composite_temperature_k: U16,
    /// Available Spare in per cent, byte 3.
    pub available_spare: u8,
    /// Available Spare Threshold in per cent, byte 4.
    pub available_spare_threshold: u8,
    /// Percentage Used, byte 5.
    pub percentage_used: u8,
    /// Endurance Group Critical Warning Summary, byte 6.
    pub endurance_group_warning: u8,
    /// Bytes 31:7.
    pub reserved7: [u8; 25],
    /// Ten 16-byte counters from Data Units Read to Number of Error Information Log Entries,
    /// bytes 191:32.
    pub counters: [[u8; 16]; 10],
    /// Temperature times, sensors and thermal management counts, bytes 231:192.
    pub thermal: [u8; 40],
    /// Bytes 511:232.
    pub reserved232: [u8; 280],
}

/// [`SmartLog::critical_warning`]: an internal error makes the subsystem less reliable.
pub const SMART_WARNING_RELIABILITY: u8 = 1 << 2;

/// Indexes of [`SmartLog::counters`].
#[allow(missing_docs)]
pub mod smart {
    pub const DATA_UNITS_READ: usize = 0;
    pub const DATA_UNITS_WRITTEN: usize = 1;
    pub const HOST_READ_COMMANDS: usize = 2;
    pub const HOST_WRITE_COMMANDS: usize = 3;
    pub const POWER_CYCLES: usize = 5;
    pub const POWER_ON_HOURS: usize = 6;
    pub const MEDIA_ERRORS: usize = 8;
    pub const ERROR_LOG_ENTRIES: usize = 9;
}

/// Firmware Slot Information, 512 bytes (Base, section 5.1.12.1.4).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FirmwareSlotLog {
    /// Active Firmware Info (AFI), byte 0.
    pub afi: u8,
    /// Bytes 7:1.
    pub reserved1: [u8; 7],
    /// Firmware Revision for Slot 1 to 7 (FRS), bytes 63:8.
    pub frs: [[u8; 8]; 7],
    /// Bytes 511:64.
    pub reserved64: [u8; 448],
}

/// Entries of the Changed Attached Namespace List (Base, section 5.1.12.1.5): NSIDs in ascending
/// order, zero filled; the first entry FFFFFFFFh when there are more.
pub const CHANGED_NAMESPACES_MAX: usize = 1024;

/// Commands Supported and Effects, 4096 bytes (Base, section 5.1.12.1.6): a dword an opcode.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EffectsLog {
    /// Admin Command Supported (ACS), bytes 1023:0.
    pub acs: [U32; 256],
    /// I/O Command Supported (IOCS), bytes 2047:1024.
    pub iocs: [U32; 256],
    /// Bytes 4095:2048.
    pub reserved2048: [u8; 2048],
}

/// Bits of an [`EffectsLog`] dword.
#[allow(missing_docs)]
pub mod effects {
    /// Command Supported (CSUPP).
    pub const CSUPP: u32 = 1 << 0;
    /// Logical Block Content Change (LBCC).
    pub const LBCC: u32 = 1 << 1;
}

/// Supported Log Pages (LID 00h) and Feature Identifiers Supported and Effects (LID 12h): a dword
/// an identifier, 1024 bytes (Base, sections 5.1.12.1.1 and 5.1.12.1.18).
pub const ID_LIST_BYTES: usize = 1024;

/// Bits of the dwords of LID 00h and 12h.
#[allow(missing_docs)]
pub mod id_list {
    /// LID 00h: LID Supported (LSUPP). LID 12h: FID Supported (FSUPP).
    pub const SUPPORTED: u32 = 1 << 0;
    /// LID 12h: FID Scope, Namespace (bit 20).
    pub const SCOPE_NAMESPACE: u32 = 1 << 20;
    /// LID 12h: FID Scope, Controller (bit 21).
    pub const SCOPE_CONTROLLER: u32 = 1 << 21;
}

/// Asymmetric Namespace Access log page header, 16 bytes (Base, section 5.1.12.1.13).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AnaHeader {
    /// Change Count (CHCNT), bytes 7:0.
    pub change_count: U64,
    /// Number of ANA Group Descriptors (NAGD), bytes 9:8.
    pub groups: U16,
    /// Bytes 15:10.
    pub reserved10: [u8; 6],
}

/// ANA Group Descriptor, 32 bytes; the NSIDs of its namespaces follow (Base, section 5.1.12.1.13).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AnaGroup {
    /// ANA Group ID (AGID), bytes 3:0.
    pub agid: U32,
    /// Number of NSID Values (NNV), bytes 7:4.
    pub namespaces: U32,
    /// Change Count (CHCNT), bytes 15:8.
    pub change_count: U64,
    /// ANA State (ANAS), byte 16 bits 3:0.
    pub state: u8,
    /// Bytes 31:17.
    pub reserved17: [u8; 15],
}

/// Discovery log page header, 1024 bytes (Base, section 5.1.12.3.1).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryHeader {
    /// Generation Counter (GENCTR), bytes 7:0: changes with the records.
    pub genctr: U64,
    /// Number of Records (NUMREC), bytes 15:8.
    pub numrec: U64,
    /// Record Format (RECFMT), bytes 17:16, zero.
    pub recfmt: U16,
    /// Bytes 1023:18.
    pub reserved18: [u8; 1006],
}

/// Discovery log page entry, 1024 bytes (Base, section 5.1.12.3.1).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryEntry {
    /// Transport Type (TRTYPE), byte 0; see [`DiscoveryEntry::TRTYPE_TCP`].
    pub trtype: u8,
    /// Address Family (ADRFAM), byte 1: 1 IPv4, 2 IPv6.
    pub adrfam: u8,
    /// Subsystem Type (SUBTYPE), byte 2.
    pub subtype: u8,
    /// Transport Requirements (TREQ), byte 3.
    pub treq: u8,
    /// Port ID (PORTID), bytes 5:4.
    pub portid: U16,
    /// Controller ID (CNTLID), bytes 7:6; FFFFh: dynamic.
    pub cntlid: U16,
    /// Admin Max SQ Size (ASQSZ), bytes 9:8.
    pub asqsz: U16,
    /// Entry Flags (EFLAGS), bytes 11:10.
    pub eflags: U16,
    /// Bytes 31:12.
    pub reserved12: [u8; 20],
    /// Transport Service Identifier (TRSVCID), bytes 63:32: ASCII, space padded.
    pub trsvcid: [u8; 32],
    /// Bytes 255:64.
    pub reserved64: [u8; 192],
    /// NVM Subsystem Qualified Name (SUBNQN), bytes 511:256: NUL terminated.
    pub subnqn: [u8; 256],
    /// Transport Address (TRADDR), bytes 767:512: ASCII, space padded.
    pub traddr: [u8; 256],
    /// Transport Specific Address Subtype (TSAS), bytes 1023:768; TCP: byte 0 is SECTYPE, 0 none.
    pub tsas: [u8; 256],
}

#[allow(missing_docs)]
impl DiscoveryEntry {
    pub const TRTYPE_TCP: u8 = 3;
    pub const ADRFAM_IPV4: u8 = 1;
    pub const ADRFAM_IPV6: u8 = 2;
    pub const SUBTYPE_REFERRAL: u8 = 1;
    pub const SUBTYPE_NVM: u8 = 2;
    pub const SUBTYPE_CURRENT_DISCOVERY: u8 = 3;
    /// TREQ: secure channel required (01b) and SQ flow control may be disabled (bit 2).
    pub const TREQ_SECURE_CHANNEL_NO_FLOW_CONTROL: u8 = 1 | 1 << 2;
    /// TREQ: secure channel not required (10b) and SQ flow control may be disabled (bit 2).
    pub const TREQ_SECURE_CHANNEL_POSSIBLE_NO_FLOW_CONTROL: u8 = 2 | 1 << 2;
    /// TSAS byte 0 of TCP, SECTYPE: TLS 1.3.
    pub const SECTYPE_TLS_1_3: u8 = 2;
    /// TREQ: secure channel not specified (00b) and SQ flow control may be disabled (bit 2).
    /// libnvme takes "not required" (10b) to mean that it must use TLS; Linux's target says the
    /// same as this.
    pub const TREQ_UNSPECIFIED_NO_FLOW_CONTROL: u8 = 1 << 2;
    /// EFLAGS: Explicit Persistent Connection Support for Discovery.
    pub const EFLAGS_EPCSD: u16 = 1 << 1;
}

const _: () = {
    assert!(size_of::<ErrorEntry>() == 64);
    assert!(offset_of!(ErrorEntry, lba) == 16);
    assert!(offset_of!(ErrorEntry, trtype) == 29);
    assert!(offset_of!(ErrorEntry, transport_specific) == 40);
    assert!(size_of::<SmartLog>() == 512);
    assert!(offset_of!(SmartLog, counters) == 32);
    assert!(offset_of!(SmartLog, thermal) == 192);
    assert!(size_of::<FirmwareSlotLog>() == 512);
    assert!(offset_of!(FirmwareSlotLog, frs) == 8);
    assert!(size_of::<EffectsLog>() == 4096);
    assert!(offset_of!(EffectsLog, iocs) == 1024);
    assert!(size_of::<AnaHeader>() == 16);
    assert!(size_of::<AnaGroup>() == 32);
    assert!(offset_of!(AnaGroup, state) == 16);
    assert!(size_of::<DiscoveryHeader>() == 1024);
    assert!(offset_of!(DiscoveryHeader, recfmt) == 16);
    assert!(size_of::<DiscoveryEntry>() == 1024);
    assert!(offset_of!(DiscoveryEntry, portid) == 4);
    assert!(offset_of!(DiscoveryEntry, eflags) == 10);
    assert!(offset_of!(DiscoveryEntry, trsvcid) == 32);
    assert!(offset_of!(DiscoveryEntry, subnqn) == 256);
    assert!(offset_of!(DiscoveryEntry, traddr) == 512);
    assert!(offset_of!(DiscoveryEntry, tsas) == 768);
};

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn get_log_page_fields() {
        let mut sqe = Sqe::new_zeroed();
        sqe.cdw10.set(0xffff_8170);
        sqe.cdw11.set(0x0003_ffff);
        sqe.cdw12.set(0x400);
        sqe.cdw13.set(1);
        sqe.cdw14.set(1 << 23 | 2 << 24);
        let log = GetLogPage::parse(&sqe);
        assert_eq!((log.lid, log.lsp, log.retain_event), (0x70, 1, true));
        assert_eq!(log.len_bytes, 1 << 34, "the largest NUMD does not wrap to zero");
        assert_eq!(log.offset, 0x1_0000_0400);
        assert!(log.offset_is_index);
        assert_eq!(log.csi, 2);
    }
}

//! Identify: fields of the command and its 4096-byte answers (Base, section 5.1.13; NVM, section
//! 4.1.5). Fields that mdof always leaves zero are grouped as `zero<offset>`.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Sqe;

/// Every Identify answer has this size.
pub const IDENTIFY_BYTES: usize = 4096;

/// NSIDs in a namespace list.
pub const NSID_LIST_MAX: usize = IDENTIFY_BYTES / 4;

/// Controller ids in a controller list (Base, section 4.6.1), behind their number.
pub const CONTROLLER_LIST_MAX: usize = IDENTIFY_BYTES / 2 - 1;

/// NSID that stands for all namespaces.
pub const NSID_BROADCAST: u32 = u32::MAX;

/// I/O command set identifier (CSI) of the NVM command set.
pub const CSI_NVM: u8 = 0;

/// Controller or Namespace Structure (CNS) values (Base, figure "CNS Values").
#[allow(missing_docs)]
pub mod cns {
    pub const NAMESPACE: u8 = 0x00;
    pub const CONTROLLER: u8 = 0x01;
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    pub const NAMESPACE_DESCRIPTORS: u8 = 0x03;
    pub const NVM_SETS: u8 = 0x04;
    pub const COMMAND_SET_NAMESPACE: u8 = 0x05;
    pub const COMMAND_SET_CONTROLLER: u8 = 0x06;
    pub const COMMAND_SET_ACTIVE_NAMESPACES: u8 = 0x07;
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    pub const NAMESPACE_FORMAT: u8 = 0x09;
    pub const COMMAND_SET_NAMESPACE_FORMAT: u8 = 0x0a;
    pub const ALLOCATED_NAMESPACES: u8 = 0x10;
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    pub const ATTACHED_CONTROLLERS: u8 = 0x12;
    pub const CONTROLLERS: u8 = 0x13;
    pub const PRIMARY_CAPABILITIES: u8 = 0x14;
    pub const SECONDARY_CONTROLLERS: u8 = 0x15;
    pub const NAMESPACE_GRANULARITY: u8 = 0x16;
    pub const UUIDS: u8 = 0x17;
    pub const DOMAINS: u8 = 0x18;
    pub const ENDURANCE_GROUPS: u8 = 0x19;
    pub const COMMAND_SET_ALLOCATED_NAMESPACES: u8 = 0x1a;
    pub const COMMAND_SET_ALLOCATED_NAMESPACE: u8 = 0x1b;
    pub const COMMAND_SETS: u8 = 0x1c;
    pub const UNDERLYING_NAMESPACES: u8 = 0x1d;
    pub const PORTS: u8 = 0x1e;
    pub const INDEPENDENT_ALLOCATED_NAMESPACE: u8 = 0x1f;
    pub const CONTROLLER_STATE_FORMATS: u8 = 0x20;
}

impl Sqe {
    /// CNS, dword 10 bits 7:0 of Identify.
    #[must_use]
    pub fn identify_cns(&self) -> u8 {
        self.cdw10.to_bytes()[0]
    }

    /// Controller Identifier (CNTID), dword 10 bits 31:16 of Identify.
    #[must_use]
    pub fn identify_cntid(&self) -> u16 {
        let [_, _, low, high] = self.cdw10.to_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Command Set Identifier (CSI), dword 11 bits 31:24 of Identify.
    #[must_use]
    pub fn identify_csi(&self) -> u8 {
        self.cdw11.to_bytes()[3]
    }
}

/// Identify Controller, CNS 01h (Base, section 5.1.13.2.1).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyController {
    /// PCI Vendor ID and Subsystem Vendor ID (VID, SSVID), bytes 3:0; no PCI function, zero.
    pub zero0: [u8; 4],
    /// Serial Number (SN), bytes 23:4: ASCII, space padded.
    pub sn: [u8; 20],
    /// Model Number (MN), bytes 63:24: ASCII, space padded.
    pub mn: [u8; 40],
    /// Firmware Revision (FR), bytes 71:64: ASCII, space padded.
    pub fr: [u8; 8],
    /// Recommended Arbitration Burst (RAB), byte 72: a power of two.
    pub rab: u8,
    /// IEEE OUI Identifier (IEEE), bytes 75:73; none assigned, zero.
    pub ieee: [u8; 3],
    /// Controller Multi-Path I/O and Namespace Sharing Capabilities (CMIC), byte 76.
    pub cmic: u8,
    /// Maximum Data Transfer Size (MDTS), byte 77: a power of two of CAP.MPSMIN pages.
    pub mdts: u8,
    /// Controller ID (CNTLID), bytes 79:78.
    pub cntlid: U16,
    /// Version (VER), bytes 83:80.
    pub ver: U32,
    /// RTD3 Resume and Entry Latency (RTD3R, RTD3E), bytes 91:84; not reported.
    pub zero84: [u8; 8],
    /// Optional Asynchronous Events Supported (OAES), bytes 95:92.
    pub oaes: U32,
    /// Controller Attributes (CTRATT), bytes 99:96.
    pub ctratt: U32,
    /// Bytes 110:100.
    pub zero100: [u8; 11],
    /// Controller Type (CNTRLTYPE), byte 111.
    pub cntrltype: u8,
    /// FGUID and command retry delay times, and reserved, bytes 255:112.
    pub zero112: [u8; 144],
    /// Optional Admin Command Support (OACS), bytes 257:256.
    pub oacs: U16,
    /// Abort Command Limit (ACL), byte 258, 0's based.
    pub acl: u8,
    /// Asynchronous Event Request Limit (AERL), byte 259, 0's based.
    pub aerl: u8,
    /// Firmware Updates (FRMW), byte 260.
    pub frmw: u8,
    /// Log Page Attributes (LPA), byte 261.
    pub lpa: u8,
    /// Error Log Page Entries (ELPE), byte 262, 0's based.
    pub elpe: u8,
    /// NPSS to FWUG, bytes 319:263.
    pub zero263: [u8; 57],
    /// Keep Alive Support (KAS), bytes 321:320, in units of 100 ms.
    pub kas: U16,
    /// HCTMA to NSETIDMAX and ENDGIDMAX, bytes 341:322.
    pub zero322: [u8; 20],
    /// ANA Transition Time (ANATT), byte 342, in seconds.
    pub anatt: u8,
    /// Asymmetric Namespace Access Capabilities (ANACAP), byte 343.
    pub anacap: u8,
    /// ANA Group Identifier Maximum (ANAGRPMAX), bytes 347:344.
    pub anagrpmax: U32,
    /// Number of ANA Group Identifiers (NANAGRPID), bytes 351:348.
    pub nanagrpid: U32,
    /// PELS to TMPTHMHA and reserved, bytes 511:352.
    pub zero352: [u8; 160],
    /// Submission Queue Entry Size (SQES), byte 512: required 3:0, maximum 7:4.
    pub sqes: u8,
    /// Completion Queue Entry Size (CQES), byte 513.
    pub cqes: u8,
    /// Maximum Outstanding Commands (MAXCMD), bytes 515:514.
    pub maxcmd: U16,
    /// Number of Namespaces (NN), bytes 519:516: the largest NSID.
    pub nn: U32,
    /// Optional NVM Command Support (ONCS), bytes 521:520.
    pub oncs: U16,
    /// Fused Operation Support (FUSES), bytes 523:522.
    pub fuses: U16,
    /// Format NVM Attributes (FNA), byte 524.
    pub fna: u8,
    /// Volatile Write Cache (VWC), byte 525.
    pub vwc: u8,
    /// Atomic Write Unit Normal, Power Fail (AWUN, AWUPF), bytes 529:526, 0's based: one block.
    pub zero526: [u8; 4],
    /// NVSCC and NWPC, bytes 531:530.
    pub zero530: [u8; 2],
    /// Atomic Compare & Write Unit (ACWU), bytes 533:532, 0's based: one block.
    pub acwu: U16,
    /// Copy Descriptor Formats Supported (CDFS), bytes 535:534.
    pub cdfs: U16,
    /// SGL Support (SGLS), bytes 539:536.
    pub sgls: U32,
    /// Maximum Number of Allowed Namespaces (MNAN), bytes 543:540.
    pub mnan: U32,
    /// MAXDNA, MAXCNA and reserved, bytes 767:544.
    pub zero544: [u8; 224],
    /// NVM Subsystem NVMe Qualified Name (SUBNQN), bytes 1023:768: NUL terminated.
    pub subnqn: [u8; 256],
    /// Bytes 1791:1024.
    pub zero1024: [u8; 768],
    /// I/O Queue Command Capsule Supported Size (IOCCSZ), bytes 1795:1792, in 16 bytes.
    pub ioccsz: U32,
    /// I/O Queue Response Capsule Supported Size (IORCSZ), bytes 1799:1796, in 16 bytes.
    pub iorcsz: U32,
    /// In Capsule Data Offset (ICDOFF), bytes 1801:1800, in 16 bytes.
    pub icdoff: U16,
    /// Fabrics Controller Attributes (FCATT), byte 1802; bit 0 zero: dynamic controller model.
    pub fcatt: u8,
    /// Maximum SGL Data Block Descriptors (MSDBD), byte 1803.
    pub msdbd: u8,
    /// Optional Fabrics Commands Support (OFCS), bytes 1805:1804.
    pub ofcs: U16,
    /// Discovery Controller Type (DCTYPE), byte 1806.
    pub dctype: u8,
    /// Bytes 2047:1807.
    pub zero1807: [u8; 241],
    /// Power State Descriptors and vendor specific, bytes 4095:2048.
    pub zero2048: [u8; 2048],
}

/// Values of [`IdentifyController`] fields.
#[allow(missing_docs)]
pub mod controller {
    /// CMIC: more than one port, more than one controller.
    pub const CMIC_MULTI_PORT_CONTROLLER: u8 = 1 << 0 | 1 << 1;
    /// CMIC: Asymmetric Namespace Access Reporting (bit 3).
    pub const CMIC_ANA_REPORTING: u8 = 1 << 3;
    /// ANACAP: optimized, non-optimized and inaccessible are reported (bits 2:0).
    pub const ANACAP_THREE_STATES: u8 = 0b111;
    pub const CTRATT_HOST_ID_128: u32 = 1 << 0;
    /// CTRATT: Traffic Based Keep Alive Support (bit 6).
    pub const CTRATT_TBKAS: u32 = 1 << 6;
    /// CTRATT: a host needs an identifier other than zero for reservations (RHII, bit 18).
    pub const CTRATT_RHII: u32 = 1 << 18;
    /// DCTYPE: a direct discovery controller, which tells of its own target.
    pub const DCTYPE_DIRECT: u8 = 1;
    pub const CNTRLTYPE_IO: u8 = 1;
    pub const CNTRLTYPE_DISCOVERY: u8 = 2;
    /// FRMW: one slot (bits 3:1), read only (bit 0).
    pub const FRMW_ONE_READ_ONLY_SLOT: u8 = 1 | 1 << 1;
    /// LPA: Commands Supported and Effects log page (bit 1).
    pub const LPA_EFFECTS: u8 = 1 << 1;
    /// LPA: extended data, that is NUMDU and the log page offset (bit 2).
    pub const LPA_EXTENDED_DATA: u8 = 1 << 2;
    pub const ONCS_COMPARE: u16 = 1 << 0;
    pub const ONCS_DATASET_MANAGEMENT: u16 = 1 << 2;
    pub const ONCS_WRITE_ZEROES: u16 = 1 << 3;
    pub const ONCS_RESERVATIONS: u16 = 1 << 5;
    pub const ONCS_VERIFY: u16 = 1 << 7;
    pub const ONCS_COPY: u16 = 1 << 8;
    /// FUSES: Compare and Write (bit 0).
    pub const FUSES_COMPARE_AND_WRITE: u16 = 1 << 0;
    /// CDFS: format 0h (bit 0).
    pub const CDFS_FORMAT_0: u16 = 1 << 0;
    /// ONCS: Get Features has the Select field (bit 4).
    pub const ONCS_FEATURE_SELECT: u16 = 1 << 4;
    /// VWC: a volatile write cache is present (bit 0).
    pub const VWC_PRESENT: u8 = 1;
    /// VWC: Flush does not take the broadcast NSID (bits 2:1 = 10b).
    pub const VWC_NO_BROADCAST_FLUSH: u8 = 2 << 1;
    /// SGLS: supported without alignment (bits 1:0 = 01b), address may be an offset (bit 20),
    /// Transport SGL Data Block (bit 21).
    pub const SGLS_FABRICS: u32 = 1 | 1 << 20 | 1 << 21;
}

/// LBA format (NVM, figure "LBA Format Data Structure").
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LbaFormat {
    /// Metadata Size (MS), bytes 1:0.
    pub ms: U16,
    /// LBA Data Size (LBADS), byte 2: a power of two.
    pub lbads: u8,
    /// Relative Performance (RP), byte 3.
    pub rp: u8,
}

/// Identify Namespace, CNS 00h (NVM, section 4.1.5.1).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// Namespace Size (NSZE), bytes 7:0, in logical blocks.
    pub nsze: U64,
    /// Namespace Capacity (NCAP), bytes 15:8.
    pub ncap: U64,
    /// Namespace Utilization (NUSE), bytes 23:16.
    pub nuse: U64,
    /// Namespace Features (NSFEAT), byte 24.
    pub nsfeat: u8,
    /// Number of LBA Formats (NLBAF), byte 25, 0's based.
    pub nlbaf: u8,
    /// Formatted LBA Size (FLBAS), byte 26.
    pub flbas: u8,
    /// Metadata Capabilities, Data Protection (MC, DPC, DPS), bytes 29:27.
    pub zero27: [u8; 3],
    /// Namespace Multi-path I/O and Sharing (NMIC), byte 30.
    pub nmic: u8,
    /// Reservation Capabilities (RESCAP), byte 31.
    pub rescap: u8,
    /// Format Progress Indicator (FPI), byte 32.
    pub fpi: u8,
    /// Deallocate Logical Block Features (DLFEAT), byte 33.
    pub dlfeat: u8,
    /// NAWUN to NABSPF, bytes 45:34.
    pub zero34: [u8; 12],
    /// Namespace Optimal I/O Boundary (NOIOB), bytes 47:46, in logical blocks; 0: none.
    pub noiob: U16,
    /// NVM Capacity (NVMCAP), bytes 63:48, in bytes.
    pub nvmcap: [u8; 16],
    /// Preferred write and deallocate granularity and alignment (NPWG, NPWA, NPDG, NPDA), bytes
    /// 71:64, 0's based.
    pub preferred: [U16; 4],
    /// Namespace Optimal Write Size (NOWS), bytes 73:72, 0's based.
    pub nows: U16,
    /// Maximum Single Source Range Length (MSSRL), bytes 75:74, in logical blocks.
    pub mssrl: U16,
    /// Maximum Copy Length (MCL), bytes 79:76, in logical blocks.
    pub mcl: U32,
    /// Maximum Source Range Count (MSRC), byte 80, 0's based.
    pub msrc: u8,
    /// KPIOS, NULBAF, KPIODAAG and reserved, bytes 91:81.
    pub zero81: [u8; 11],
    /// ANA Group Identifier (ANAGRPID), bytes 95:92; 0: ANA is not reported.
    pub anagrpid: U32,
    /// NSATTR, NVMSETID, ENDGID and reserved, bytes 103:96.
    pub zero96: [u8; 8],
    /// Namespace Globally Unique Identifier (NGUID), bytes 119:104.
    pub nguid: [u8; 16],
    /// IEEE Extended Unique Identifier (EUI64), bytes 127:120.
    pub eui64: [u8; 8],
    /// LBA Format 0 to 63 (LBAF), bytes 383:128.
    pub lbaf: [LbaFormat; 64],
    /// Vendor specific, bytes 4095:384.
    pub zero384: [u8; 3712],
}

/// I/O Command Set Independent Identify Namespace, CNS 08h (Base, section 5.1.13.2.8).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespaceIndependent {
    /// Common Namespace Features (NSFEAT), byte 0.
    pub nsfeat: u8,
    /// Namespace Multi-path I/O and Sharing (NMIC), byte 1.
    pub nmic: u8,
    /// Reservation Capabilities (RESCAP), byte 2.
    pub rescap: u8,
    /// Format Progress Indicator (FPI), byte 3.
    pub fpi: u8,
    /// ANA Group Identifier (ANAGRPID), bytes 7:4.
    pub anagrpid: U32,
    /// NSATTR, NVMSETID and ENDGID, bytes 13:8.
    pub zero8: [u8; 6],
    /// Namespace Status (NSTAT), byte 14; bit 0: ready.
    pub nstat: u8,
    /// Bytes 4095:15.
    pub zero15: [u8; 4081],
}

/// Values of namespace fields.
#[allow(missing_docs)]
pub mod namespace {
    /// NSFEAT of CNS 00h: NPWG to NOWS are valid (bit 4).
    pub const NSFEAT_OPTIMAL_PERFORMANCE: u8 = 1 << 4;
    /// NSFEAT of CNS 08h: no volatile write cache in this namespace (bit 5).
    pub const NSFEAT_NO_VOLATILE_WRITE_CACHE: u8 = 1 << 5;
    /// RESCAP: every type (bits 6:1), and IEKEY as version 1.3 defines it (bit 7).
    pub const RESCAP_ALL_TYPES: u8 = 0xfe;
    /// RESCAP: Persist Through Power Loss (bit 0).
    pub const RESCAP_PERSIST: u8 = 1;
    /// NMIC: two or more controllers may have it attached.
    pub const NMIC_SHARED: u8 = 1;
    /// DLFEAT: deallocated blocks read as zeroes (001b), Write Zeroes takes DEAC (bit 3).
    pub const DLFEAT_ZEROES_DEAC: u8 = 1 | 1 << 3;
    /// NSTAT: Namespace Ready (NRDY).
    pub const NSTAT_READY: u8 = 1;
}

/// NVM command set specific Identify Controller, CNS 06h CSI 00h (NVM, section 4.1.5.4).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyControllerNvm {
    /// Verify Size Limit (VSL), byte 0.
    pub vsl: u8,
    /// Write Zeroes Size Limit (WZSL), byte 1: a power of two of CAP.MPSMIN pages.
    pub wzsl: u8,
    /// Write Uncorrectable Size Limit (WUSL), byte 2.
    pub wusl: u8,
    /// Dataset Management Ranges Limit (DMRL), byte 3; 0: no limit but the field's.
    pub dmrl: u8,
    /// Dataset Management Range Size Limit (DMRSL), bytes 7:4, in logical blocks.
    pub dmrsl: U32,
    /// Dataset Management Size Limit (DMSL), bytes 15:8; 0: no limit.
    pub dmsl: U64,
    /// Bytes 4095:16.
    pub zero16: [u8; 4080],
}

/// Header of a Namespace Identification Descriptor, CNS 03h (Base, section 5.1.13.2.3).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NamespaceDescriptorHeader {
    /// Namespace Identifier Type (NIDT), byte 0.
    pub nidt: u8,
    /// Namespace Identifier Length (NIDL), byte 1.
    pub nidl: u8,
    /// Bytes 3:2.
    pub reserved2: [u8; 2],
}

/// NIDT values.
#[allow(missing_docs)]
pub mod nidt {
    pub const EUI64: u8 = 1;
    pub const NGUID: u8 = 2;
    pub const UUID: u8 = 3;
    pub const CSI: u8 = 4;
}

const _: () = {
    assert!(size_of::<IdentifyController>() == IDENTIFY_BYTES);
    assert!(offset_of!(IdentifyController, cntlid) == 78);
    assert!(offset_of!(IdentifyController, oaes) == 92);
    assert!(offset_of!(IdentifyController, cntrltype) == 111);
    assert!(offset_of!(IdentifyController, oacs) == 256);
    assert!(offset_of!(IdentifyController, lpa) == 261);
    assert!(offset_of!(IdentifyController, kas) == 320);
    assert!(offset_of!(IdentifyController, sqes) == 512);
    assert!(offset_of!(IdentifyController, oncs) == 520);
    assert!(offset_of!(IdentifyController, vwc) == 525);
    assert!(offset_of!(IdentifyController, sgls) == 536);
    assert!(offset_of!(IdentifyController, subnqn) == 768);
    assert!(offset_of!(IdentifyController, ioccsz) == 1792);
    assert!(offset_of!(IdentifyController, msdbd) == 1803);
    assert!(offset_of!(IdentifyController, zero2048) == 2048);
    assert!(size_of::<IdentifyNamespace>() == IDENTIFY_BYTES);
    assert!(offset_of!(IdentifyNamespace, nmic) == 30);
    assert!(offset_of!(IdentifyNamespace, dlfeat) == 33);
    assert!(offset_of!(IdentifyNamespace, noiob) == 46);
    assert!(offset_of!(IdentifyNamespace, nvmcap) == 48);
    assert!(offset_of!(IdentifyNamespace, mcl) == 76);
    assert!(offset_of!(IdentifyNamespace, anagrpid) == 92);
    assert!(offset_of!(IdentifyNamespaceIndependent, anagrpid) == 4);
    assert!(offset_of!(IdentifyController, anagrpmax) == 344);
    assert!(offset_of!(IdentifyController, fuses) == 522);
    assert!(offset_of!(IdentifyController, acwu) == 532);
    assert!(offset_of!(IdentifyNamespace, nows) == 72);
    assert!(offset_of!(IdentifyNamespace, nguid) == 104);
    assert!(offset_of!(IdentifyNamespace, lbaf) == 128);
    assert!(size_of::<IdentifyNamespaceIndependent>() == IDENTIFY_BYTES);
    assert!(offset_of!(IdentifyNamespaceIndependent, nstat) == 14);
    assert!(size_of::<IdentifyControllerNvm>() == IDENTIFY_BYTES);
    assert!(offset_of!(IdentifyControllerNvm, dmrsl) == 4);
    assert!(size_of::<NamespaceDescriptorHeader>() == 4);
};

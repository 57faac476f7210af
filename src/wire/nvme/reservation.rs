//! Reservations: fields of the commands and of their data (Base 2.1, section 7.5 to 7.8).

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Sqe;

/// Reservation Type (RTYPE; Base, figure "Reservation Type Encoding").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum ReservationType {
    WriteExclusive = 1,
    ExclusiveAccess = 2,
    WriteExclusiveRegistrantsOnly = 3,
    ExclusiveAccessRegistrantsOnly = 4,
    WriteExclusiveAllRegistrants = 5,
    ExclusiveAccessAllRegistrants = 6,
}

impl ReservationType {
    /// The type of this number; `None`: reserved.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::WriteExclusive,
            2 => Self::ExclusiveAccess,
            3 => Self::WriteExclusiveRegistrantsOnly,
            4 => Self::ExclusiveAccessRegistrantsOnly,
            5 => Self::WriteExclusiveAllRegistrants,
            6 => Self::ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }

    /// Every registrant holds it.
    #[must_use]
    pub fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }

    /// Registrants may do what its holder may.
    #[must_use]
    pub fn serves_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Others may read.
    #[must_use]
    pub fn is_write_exclusive(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive
                | Self::WriteExclusiveRegistrantsOnly
                | Self::WriteExclusiveAllRegistrants
        )
    }
}

/// Data of Register, Acquire and Release (which has the first field only).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ReservationKeys {
    /// Current Reservation Key (CRKEY), bytes 7:0.
    pub current: U64,
    /// New Reservation Key (NRKEY) or Preempt Reservation Key (PRKEY), bytes 15:8.
    pub other: U64,
}

/// Reservation Status, Extended Data Structure: its header, 64 bytes (Base, section 7.8).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReservationStatus {
    /// Generation (GEN), bytes 3:0.
    pub generation: U32,
    /// Reservation Type (RTYPE), byte 4; 0: none is held.
    pub rtype: u8,
    /// Number of Registrants (REGSTRNT), bytes 6:5.
    pub registrants: U16,
    /// Bytes 8:7.
    pub reserved7: [u8; 2],
    /// Persist Through Power Loss State (PTPLS), byte 9.
    pub ptpls: u8,
    /// Bytes 63:10.
    pub reserved10: [u8; 54],
}

/// Registrant Extended Data Structure, 64 bytes (Base, section 7.8).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegistrantStatus {
    /// Controller ID (CNTLID), bytes 1:0; FFFFh in the dynamic controller model.
    pub cntlid: U16,
    /// Reservation Status (RCSTS), byte 2; bit 0: it holds the reservation.
    pub rcsts: u8,
    /// Bytes 7:3.
    pub reserved3: [u8; 5],
    /// Reservation Key (RKEY), bytes 15:8.
    pub key: U64,
    /// Host Identifier (HOSTID), bytes 31:16.
    pub hostid: [u8; 16],
    /// Bytes 63:32.
    pub reserved32: [u8; 32],
}

/// Reservation Notification log page, 64 bytes (Base, section 5.1.12.1.32).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReservationNotification {
    /// Log Page Count, bytes 7:0.
    pub count: U64,
    /// Reservation Notification Log Page Type, byte 8; 0: there is none.
    pub kind: u8,
    /// Number of Available Log Pages, byte 9.
    pub available: u8,
    /// Bytes 11:10.
    pub reserved10: [u8; 2],
    /// Namespace ID (NSID), bytes 15:12.
    pub nsid: U32,
    /// Bytes 63:16.
    pub reserved16: [u8; 48],
}

const _: () = {
    assert!(size_of::<ReservationKeys>() == 16);
    assert!(size_of::<ReservationStatus>() == 64);
    assert!(offset_of!(ReservationStatus, registrants) == 5);
    assert!(offset_of!(ReservationStatus, ptpls) == 9);
    assert!(size_of::<RegistrantStatus>() == 64);
    assert!(offset_of!(RegistrantStatus, key) == 8);
    assert!(offset_of!(RegistrantStatus, hostid) == 16);
    assert!(size_of::<ReservationNotification>() == 64);
    assert!(offset_of!(ReservationNotification, nsid) == 12);
};

impl Sqe {
    /// RREGA, RACQA or RRELA, bits 2:0 of dword 10.
    #[must_use]
    pub fn reservation_action(&self) -> u8 {
        self.cdw10.to_bytes()[0] & 7
    }

    /// Ignore Existing Key (IEKEY), bit 3 of dword 10.
    #[must_use]
    pub fn reservation_ignores_key(&self) -> bool {
        self.cdw10.get() >> 3 & 1 != 0
    }

    /// Reservation Type (RTYPE), bits 15:8 of dword 10.
    #[must_use]
    pub fn reservation_type(&self) -> u8 {
        self.cdw10.to_bytes()[1]
    }

    /// Change Persist Through Power Loss State (CPTPL), bits 31:30 of dword 10.
    #[must_use]
    pub fn reservation_change_ptpl(&self) -> u32 {
        self.cdw10.get() >> 30
    }

    /// Extended Data Structure (EDS) of Report, bit 0 of dword 11.
    #[must_use]
    pub fn reservation_extended(&self) -> bool {
        self.cdw11.get() & 1 != 0
    }
}

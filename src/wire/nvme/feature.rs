//! Feature identifiers and the fields of Get and Set Features (Base, sections 5.1.12, 5.1.25).

use super::Sqe;

/// Feature identifiers (Base, figure "Feature Identifiers").
#[allow(missing_docs)]
pub mod fid {
    pub const ARBITRATION: u8 = 0x01;
    pub const POWER_MANAGEMENT: u8 = 0x02;
    pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
    pub const ERROR_RECOVERY: u8 = 0x05;
    pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    pub const WRITE_ATOMICITY_NORMAL: u8 = 0x0a;
    pub const ASYNC_EVENT_CONFIG: u8 = 0x0b;
    pub const KEEP_ALIVE_TIMER: u8 = 0x0f;
    pub const HOST_BEHAVIOR: u8 = 0x16;
    pub const HOST_IDENTIFIER: u8 = 0x81;
    pub const RESERVATION_MASK: u8 = 0x82;
    pub const RESERVATION_PERSISTENCE: u8 = 0x83;
}

/// Select (SEL), bits 10:8 of dword 10 of Get Features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// 000b: the value in effect.
    Current,
    /// 001b: the value after a reset.
    Default,
    /// 010b: the saved value.
    Saved,
    /// 011b: what the feature can do.
    SupportedCapabilities,
}

/// Bits of dword 0 that Get Features answers to [`Select::SupportedCapabilities`].
#[allow(missing_docs)]
pub mod capability {
    pub const SAVEABLE: u32 = 1 << 0;
    pub const NAMESPACE_SPECIFIC: u32 = 1 << 1;
    pub const CHANGEABLE: u32 = 1 << 2;
}

/// Asynchronous Event Configuration, dword 11 (Base, section 5.1.25.1.5).
#[allow(missing_docs)]
pub mod async_event {
    /// SMART / health critical warnings, bits 7:0.
    pub const SMART_MASK: u32 = 0xff;
    /// Of these: reliability is degraded.
    pub const SMART_RELIABILITY: u32 = 1 << 2;
    /// Attached Namespace Attribute Notices.
    pub const NAMESPACE_ATTRIBUTE: u32 = 1 << 8;
    /// Asymmetric Namespace Access Change Notices.
    pub const ANA_CHANGE: u32 = 1 << 11;
    /// Discovery Log Page Change Notification.
    pub const DISCOVERY_LOG: u32 = 1 << 31;
}

/// Host Behavior Support, the data of feature 16h (Base, section 5.1.25.1.14).
#[allow(missing_docs)]
pub mod host_behavior {
    pub const BYTES: usize = 512;
    /// Bytes 2:0: Advanced Command Retry Enable, Extended Telemetry Data Area 4 Supported, LBA
    /// Format Extension Enable: 0 or 1 each.
    pub const FLAG_BYTES: usize = 3;
}

impl Sqe {
    /// Feature identifier (FID), bits 7:0 of dword 10 of Get and Set Features.
    #[must_use]
    pub fn feature_id(&self) -> u8 {
        self.cdw10.to_bytes()[0]
    }

    /// Save (SV), bit 31 of dword 10 of Set Features.
    #[must_use]
    pub fn feature_save(&self) -> bool {
        self.cdw10.get() >> 31 != 0
    }

    /// Select (SEL) of Get Features; `None` for reserved values.
    #[must_use]
    pub fn feature_select(&self) -> Option<Select> {
        match self.cdw10.get() >> 8 & 7 {
            0 => Some(Select::Current),
            1 => Some(Select::Default),
            2 => Some(Select::Saved),
            3 => Some(Select::SupportedCapabilities),
            _ => None,
        }
    }
}

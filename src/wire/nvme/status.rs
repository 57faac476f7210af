//! Status field of a completion (NVMe Base 2.1, section 4.2.3).

/// Status code type and status code, as bits 10:0 of the status field: `SCT << 8 | SC`,
/// with Do Not Retry as bit 14.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(u16);

impl Status {
    /// Do Not Retry (bit 14 of the 15-bit field).
    const DNR: u16 = 1 << 14;

    /// The status with type `sct` and code `sc`.
    #[must_use]
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self(((sct as u16) & 7) << 8 | sc as u16)
    }

    /// The same status with Do Not Retry set.
    #[must_use]
    pub const fn dnr(self) -> Self {
        Self(self.0 | Self::DNR)
    }

    /// Status code type (SCT).
    #[must_use]
    pub const fn sct(self) -> u8 {
        (self.0 >> 8 & 7) as u8
    }

    /// Status code (SC).
    #[must_use]
    pub const fn sc(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// Whether the command succeeded.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Whether both have the same type and code, whatever their Do Not Retry bits say.
    #[must_use]
    pub const fn is_same_code(self, other: Self) -> bool {
        self.0 & 0x7ff == other.0 & 0x7ff
    }

    /// The 16-bit field of the completion entry, phase tag zero.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        self.0 << 1
    }

    /// The status in a 16-bit field of a completion entry; the phase tag is dropped.
    #[must_use]
    pub const fn from_wire(field: u16) -> Self {
        Self(field >> 1)
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Status(sct {:#x}, sc {:#04x}", self.sct(), self.sc())?;
        f.write_str(if self.0 & Self::DNR != 0 { ", dnr)" } else { ")" })
    }
}

/// Generic command status (SCT 0h) and the other codes that mdof answers with; each name is the
/// specification's.
#[allow(missing_docs)]
impl Status {
    pub const SUCCESS: Self = Self::new(0, 0x00);
    pub const INVALID_OPCODE: Self = Self::new(0, 0x01);
    pub const INVALID_FIELD: Self = Self::new(0, 0x02);
    pub const COMMAND_ID_CONFLICT: Self = Self::new(0, 0x03);
    pub const DATA_TRANSFER_ERROR: Self = Self::new(0, 0x04);
    pub const INTERNAL_ERROR: Self = Self::new(0, 0x06);
    pub const ABORT_REQUESTED: Self = Self::new(0, 0x07);
    pub const ABORTED_SQ_DELETION: Self = Self::new(0, 0x08);
    pub const FAILED_FUSED: Self = Self::new(0, 0x09);
    pub const MISSING_FUSED: Self = Self::new(0, 0x0a);
    pub const INVALID_NAMESPACE: Self = Self::new(0, 0x0b);
    pub const COMMAND_SEQUENCE_ERROR: Self = Self::new(0, 0x0c);
    pub const INVALID_SGL_DESCRIPTOR: Self = Self::new(0, 0x0d);
    pub const DATA_SGL_LENGTH_INVALID: Self = Self::new(0, 0x0f);
    pub const SGL_DESCRIPTOR_TYPE_INVALID: Self = Self::new(0, 0x11);
    pub const ATOMIC_WRITE_UNIT_EXCEEDED: Self = Self::new(0, 0x14);
    pub const SGL_OFFSET_INVALID: Self = Self::new(0, 0x16);
    pub const HOST_ID_INCONSISTENT: Self = Self::new(0, 0x18);
    pub const KEEP_ALIVE_TIMEOUT_INVALID: Self = Self::new(0, 0x1a);
    pub const COMMAND_INTERRUPTED: Self = Self::new(0, 0x21);
    pub const TRANSIENT_TRANSPORT_ERROR: Self = Self::new(0, 0x22);
    pub const HOST_ID_NOT_INITIALIZED: Self = Self::new(0, 0x27);
    pub const LBA_OUT_OF_RANGE: Self = Self::new(0, 0x80);
    pub const CAPACITY_EXCEEDED: Self = Self::new(0, 0x81);
    pub const NAMESPACE_NOT_READY: Self = Self::new(0, 0x82);
    pub const RESERVATION_CONFLICT: Self = Self::new(0, 0x83);
    // Command specific status (SCT 1h).
    pub const INVALID_QUEUE_IDENTIFIER: Self = Self::new(1, 0x01);
    pub const ABORT_LIMIT_EXCEEDED: Self = Self::new(1, 0x03);
    pub const AER_LIMIT_EXCEEDED: Self = Self::new(1, 0x05);
    pub const INVALID_LOG_PAGE: Self = Self::new(1, 0x09);
    pub const FEATURE_NOT_SAVEABLE: Self = Self::new(1, 0x0d);
    pub const FEATURE_NOT_CHANGEABLE: Self = Self::new(1, 0x0e);
    pub const FEATURE_NOT_NAMESPACE_SPECIFIC: Self = Self::new(1, 0x0f);
    // NVM command set specific status (SCT 1h, 80h and up; shares its codes with Fabrics).
    pub const COMMAND_SIZE_LIMIT_EXCEEDED: Self = Self::new(1, 0x83);
    pub const OVERLAPPING_IO_RANGE: Self = Self::new(1, 0x87);
    // Fabrics command specific status (SCT 1h, 80h and up).
    pub const CONNECT_INCOMPATIBLE_FORMAT: Self = Self::new(1, 0x80);
    pub const CONNECT_CONTROLLER_BUSY: Self = Self::new(1, 0x81);
    pub const CONNECT_INVALID_PARAMETERS: Self = Self::new(1, 0x82);
    pub const CONNECT_RESTART_DISCOVERY: Self = Self::new(1, 0x83);
    pub const CONNECT_INVALID_HOST: Self = Self::new(1, 0x84);
    pub const AUTHENTICATION_REQUIRED: Self = Self::new(1, 0x91);
    // Media and data integrity errors (SCT 2h).
    pub const WRITE_FAULT: Self = Self::new(2, 0x80);
    pub const UNRECOVERED_READ_ERROR: Self = Self::new(2, 0x81);
    pub const COMPARE_FAILURE: Self = Self::new(2, 0x85);
    // Path related status (SCT 3h).
    pub const INTERNAL_PATH_ERROR: Self = Self::new(3, 0x00);
    pub const ANA_PERSISTENT_LOSS: Self = Self::new(3, 0x01);
    pub const ANA_INACCESSIBLE: Self = Self::new(3, 0x02);
    pub const ANA_TRANSITION: Self = Self::new(3, 0x03);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_form_keeps_type_code_and_dnr() {
        let status = Status::COMPARE_FAILURE.dnr();
        assert_eq!(status.to_wire(), 0x4285 << 1);
        assert_eq!(Status::from_wire(status.to_wire()), status);
        assert_eq!((status.sct(), status.sc()), (2, 0x85));
        assert!(!status.is_success());
        assert!(Status::from_wire(1).is_success(), "the phase tag is no status");
    }
}

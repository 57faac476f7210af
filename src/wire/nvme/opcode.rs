//! Opcodes, and which way a command's data goes.

/// Admin command set (Base, section 5, figure "Opcodes for Admin Commands").
#[allow(missing_docs)]
pub mod admin {
    pub const GET_LOG_PAGE: u8 = 0x02;
    pub const IDENTIFY: u8 = 0x06;
    pub const ABORT: u8 = 0x08;
    pub const SET_FEATURES: u8 = 0x09;
    pub const GET_FEATURES: u8 = 0x0a;
    pub const ASYNC_EVENT_REQUEST: u8 = 0x0c;
    pub const KEEP_ALIVE: u8 = 0x18;
}

/// I/O commands of the NVM command set (NVM, section 3.2).
#[allow(missing_docs)]
pub mod nvm {
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const COMPARE: u8 = 0x05;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    pub const VERIFY: u8 = 0x0c;
    pub const RESERVATION_REGISTER: u8 = 0x0d;
    pub const RESERVATION_REPORT: u8 = 0x0e;
    pub const RESERVATION_ACQUIRE: u8 = 0x11;
    pub const RESERVATION_RELEASE: u8 = 0x15;
    pub const COPY: u8 = 0x19;
}

/// Opcode of every Fabrics command (Base, section 6); byte 4 of the entry says which.
pub const FABRICS: u8 = 0x7f;

/// Which way a command's data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataDirection {
    /// No data.
    None,
    /// The host sends data with, or after, the command.
    HostToController,
    /// The controller sends data before the completion.
    ControllerToHost,
    /// Reserved for commands that do both; NVMe/TCP has none.
    Both,
}

impl DataDirection {
    /// The direction in bits 1:0 of `code`: an opcode, or the FCTYPE of a Fabrics command
    /// (Base, figure "Opcode field").
    #[must_use]
    pub const fn of_code(code: u8) -> Self {
        match code & 3 {
            0 => Self::None,
            1 => Self::HostToController,
            2 => Self::ControllerToHost,
            _ => Self::Both,
        }
    }
}

impl super::Sqe {
    /// Which way the data goes, from the opcode (Fabrics: from FCTYPE). Set Features carries data
    /// or not, whatever bits 1:0 of its opcode say: see the length of the SGL.
    #[must_use]
    pub fn data_direction(&self) -> DataDirection {
        if self.opcode == FABRICS {
            DataDirection::of_code(self.fctype())
        } else {
            DataDirection::of_code(self.opcode)
        }
    }

    /// Fabrics command type (FCTYPE), byte 4 (Base, section 6, figure "Fabrics Command").
    #[must_use]
    pub fn fctype(&self) -> u8 {
        self.nsid.to_bytes()[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::nvme::Sqe;
    use zerocopy::FromZeros;

    #[test]
    fn directions() {
        let mut sqe = Sqe::new_zeroed();
        for (opcode, fctype, expected) in [
            (nvm::READ, 0, DataDirection::ControllerToHost),
            (nvm::WRITE, 2, DataDirection::HostToController),
            (nvm::DATASET_MANAGEMENT, 0, DataDirection::HostToController),
            (nvm::WRITE_ZEROES, 0, DataDirection::None),
            (admin::IDENTIFY, 0, DataDirection::ControllerToHost),
            (FABRICS, 1, DataDirection::HostToController),
            (FABRICS, 4, DataDirection::None),
        ] {
            sqe.opcode = opcode;
            sqe.nsid.set(fctype);
            assert_eq!(sqe.data_direction(), expected, "opcode {opcode:#x}");
        }
    }
}

//! Reservation commands, from a submission queue entry and its data.

use zerocopy::FromBytes;

use crate::wire::nvme::opcode::nvm;
use crate::wire::nvme::reservation::{ReservationKeys, ReservationType};
use crate::wire::nvme::{Sqe, Status};

/// RREGA of Reservation Register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterAction {
    /// Register a key.
    Register,
    /// Take the registration away.
    Unregister,
    /// Put another key in the place of the registered one.
    Replace,
}

/// RACQA of Reservation Acquire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcquireAction {
    /// Get the reservation if nobody has it.
    Acquire,
    /// Take it, or registrations, from others; and with it what they have under way: mdof lets
    /// their commands end before it answers, so that Preempt and Abort is the same.
    Preempt,
}

/// A reservation command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReservationCommand {
    /// Reservation Register.
    Register {
        /// What to do.
        action: RegisterAction,
        /// The current key does not matter.
        ignore_key: bool,
        /// New persist through power loss state, if it is to change.
        persist: Option<bool>,
        /// CRKEY.
        current: u64,
        /// NRKEY.
        new: u64,
    },
    /// Reservation Acquire.
    Acquire {
        /// What to do.
        action: AcquireAction,
        /// Type of the reservation.
        rtype: ReservationType,
        /// CRKEY.
        current: u64,
        /// PRKEY.
        preempt: u64,
    },
    /// Reservation Release, action Release.
    Release {
        /// Type of the reservation.
        rtype: ReservationType,
        /// CRKEY.
        current: u64,
    },
    /// Reservation Release, action Clear.
    Clear {
        /// CRKEY.
        current: u64,
    },
    /// Reservation Report.
    Report,
    /// Set Features, Reservation Persistence.
    SetPersist(bool),
    /// Get Features, Reservation Persistence.
    GetPersist,
}

const INVALID: Status = Status::INVALID_FIELD.dnr();

impl ReservationCommand {
    /// Whether it is an I/O command and not a feature.
    #[must_use]
    pub fn is_io(&self) -> bool {
        !matches!(self, Self::SetPersist(_) | Self::GetPersist)
    }

    /// Reads an I/O command with a reservation opcode.
    ///
    /// # Errors
    /// The status to complete with.
    ///
    /// # Panics
    /// If the opcode is another.
    pub fn parse(sqe: &Sqe, data: &[u8]) -> Result<Self, Status> {
        if sqe.opcode == nvm::RESERVATION_REPORT {
            // Hosts of Fabrics have identifiers of 128 bits, which only this form can hold.
            return match sqe.reservation_extended() {
                true => Ok(Self::Report),
                false => Err(Status::HOST_ID_INCONSISTENT.dnr()),
            };
        }
        let (keys, size) = keys(sqe.opcode, data);
        let keys = keys.filter(|_| data.len() >= size);
        let keys = keys.ok_or(Status::DATA_SGL_LENGTH_INVALID.dnr())?;
        let (current, other) = (keys.current.get(), keys.other.get());
        let ignore_key = sqe.reservation_ignores_key();
        if ignore_key && sqe.opcode != nvm::RESERVATION_REGISTER {
            return Err(INVALID);
        }
        let rtype = ReservationType::from_byte(sqe.reservation_type()).ok_or(INVALID);
        match (sqe.opcode, sqe.reservation_action()) {
            (nvm::RESERVATION_REGISTER, action) => {
                let action = match action {
                    0 => RegisterAction::Register,
                    1 => RegisterAction::Unregister,
                    2 => RegisterAction::Replace,
                    _ => return Err(INVALID),
                };
                let persist = match sqe.reservation_change_ptpl() {
                    0 => None,
                    2 => Some(false),
                    3 => Some(true),
                    _ => return Err(INVALID),
                };
                // A key of zero is no key.
                if other == 0 && action != RegisterAction::Unregister {
                    return Err(INVALID);
                }
                Ok(Self::Register { action, ignore_key, persist, current, new: other })
            }
            (nvm::RESERVATION_ACQUIRE, action) => {
                let action = match action {
                    0 => AcquireAction::Acquire,
                    1 | 2 => AcquireAction::Preempt,
                    _ => return Err(INVALID),
                };
                Ok(Self::Acquire { action, rtype: rtype?, current, preempt: other })
            }
            (nvm::RESERVATION_RELEASE, 0) => Ok(Self::Release { rtype: rtype?, current }),
            (nvm::RESERVATION_RELEASE, 1) => Ok(Self::Clear { current }),
            (nvm::RESERVATION_RELEASE, _) => Err(INVALID),
            (opcode, _) => panic!("opcode {opcode:#x} is no reservation command"),
        }
    }
}

/// The keys of the data, and how many bytes the command must have; Release has the first only.
fn keys(opcode: u8, data: &[u8]) -> (Option<ReservationKeys>, usize) {
    let size = if opcode == nvm::RESERVATION_RELEASE { 8 } else { 16 };
    let mut both = [0; 16];
    for (to, from) in both[..size].iter_mut().zip(data) {
        *to = *from;
    }
    (ReservationKeys::read_from_bytes(&both).ok(), size)
}

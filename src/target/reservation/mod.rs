//! Reservations (Base 2.1, section 8.1.22): which hosts may read and write a namespace.
//!
//! One core keeps the [`Reservation`] of a namespace and executes its commands; all cores hold a
//! [`View`] of it, which I/O commands are checked against.

mod command;
mod persist;
mod state;
#[cfg(test)]
mod tests;

pub use command::{AcquireAction, RegisterAction, ReservationCommand};
pub use persist::PersistError;
pub use state::{Notice, NoticeKind, Outcome, Reservation};

use crate::wire::nvme::reservation::ReservationType;

/// A host's identifier, as Connect gave it.
pub type HostId = [u8; 16];

/// Hosts that can be registered with a namespace.
pub const REGISTRANTS_MAX: usize = 256;

/// What a command wants of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read, Compare, Verify.
    Read,
    /// Whatever changes data, and Flush.
    Write,
}

/// A reservation that is held, as I/O commands see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub(super) rtype: ReservationType,
    pub(super) holder: HostId,
    pub(super) registrants: Vec<HostId>,
}

impl View {
    /// Whether the host may do this (Base 2.1, figure "Command Behavior in the Presence of a
    /// Reservation").
    #[must_use]
    pub fn allows(&self, host: &HostId, access: Access) -> bool {
        if self.rtype.is_write_exclusive() && access == Access::Read {
            return true;
        }
        let holds = !self.rtype.is_all_registrants() && self.holder == *host;
        holds || self.rtype.serves_registrants() && self.registrants.contains(host)
    }
}

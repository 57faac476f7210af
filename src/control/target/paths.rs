//! How hosts reach namespaces: ANA groups and states, who sees what, and reservations that persist.

use std::io::ErrorKind;
use std::net::SocketAddr;

use uuid::Uuid;

use super::{Target, TargetError};
use crate::target::reservation::{PersistError, Reservation};
use crate::target::subsystem::{AnaState, Persistence};

impl Target {
    /// Sets how a listener reaches an ANA group, or all of them; hosts are told.
    pub fn set_ana_state(
        &mut self,
        nqn: &str,
        address: SocketAddr,
        group: Option<u32>,
        state: AnaState,
    ) -> Result<(), TargetError> {
        self.subsystem(nqn)?;
        self.change(|table| table.set_ana_state(nqn, address, group, state))
    }

    /// Puts a namespace into another ANA group.
    pub fn set_ana_group(&mut self, nqn: &str, nsid: u32, group: u32) -> Result<(), TargetError> {
        self.subsystem(nqn)?;
        self.change(|table| table.set_ana_group(nqn, nsid, group))
    }

    /// Shows a namespace that was added hidden to a host.
    pub fn show_namespace(&mut self, nqn: &str, nsid: u32, host: &str) -> Result<(), TargetError> {
        self.subsystem(nqn)?;
        self.change(|table| table.show_ns(nqn, nsid, host))
    }

    /// Hides it again.
    pub fn hide_namespace(&mut self, nqn: &str, nsid: u32, host: &str) -> Result<(), TargetError> {
        self.subsystem(nqn)?;
        self.change(|table| table.hide_ns(nqn, nsid, host))
    }
}

/// The place of a namespace's reservation, and what was saved there.
pub(super) fn persistence(path: &str, namespace: Uuid) -> Result<Persistence, TargetError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            let text = format!(
                "the saved reservation {path} cannot be read ({error}); hosts may rely on it, so \
                 the namespace was not added"
            );
            return Err(TargetError::Io(text));
        }
    };
    let restored = match text.map(|text| Reservation::restore(&text, namespace)).transpose() {
        Ok(restored) => restored,
        Err(PersistError::OtherNamespace(other)) => {
            tracing::warn!(
                "the reservation saved in {path} belongs to namespace {other}, not to \
                 {namespace}; it is ignored and replaced by the next one"
            );
            None
        }
        Err(error) => {
            return Err(TargetError::Invalid(format!(
                "the saved reservation {path} cannot be used: {error}; hosts may rely on it, so \
                 the namespace was not added. Remove the file if no host holds a reservation"
            )));
        }
    };
    Ok(Persistence { path: path.to_owned(), restored })
}

//! One controller per host connection: Connect, properties, admin commands, and the parsing of
//! I/O commands.
//!
//! A [`Controller`] lives on the core of its admin connection. Its I/O queues may be on other
//! cores and never touch it: at Connect they get an [`IoQueueGrant`] with all that [`io::parse`]
//! needs. Everything here is events in, answers out; the engine moves the bytes.

mod admin;
mod ana;
mod async_event;
pub mod connect;
mod discovery;
mod error_log;
mod features;
mod identify;
pub mod io;
mod log_page;
mod notices;
mod properties;
pub mod steps;
mod traffic;

pub use admin::{AdminContext, AdminOutcome, AsyncCompletion, Effect, TableChange};
pub use connect::{ConnectContext, ConnectRequest, IoQueueGrant, Refusal};
pub use error_log::CommandError;
pub use io::{IoCommand, IoRequest};
pub use properties::ControllerState;
pub use traffic::Traffic;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::limits::{IO_QUEUES_PER_CONTROLLER_MAX, NAMESPACES_MAX};
use crate::target::reservation::NoticeKind;
use crate::target::subsystem::{Nqn, Subsystem, SubsystemKind};
use crate::wire::nvme::register::Cc;
use async_event::{AsyncEvents, EventKind};
use error_log::ErrorLog;
use features::FeatureValues;
use notices::NoticeLog;
use traffic::ControllerTraffic;

/// Keep Alive granularity (KAS) in milliseconds; a KATO is rounded up to a multiple of it.
pub(crate) const KEEP_ALIVE_GRANULARITY_MS: u32 = 1000;

/// One bit a namespace: attributes changed since the host read the Changed Namespace List.
type NamespaceSet = [u64; NAMESPACES_MAX / 64];

/// The I/O queues in use are one `u128`: bit `qid - 1`.
const _: () = assert!(IO_QUEUES_PER_CONTROLLER_MAX <= 128);
const _: () = assert!(NAMESPACES_MAX.is_multiple_of(64));

/// A controller: the host's view of one subsystem.
#[derive(Debug)]
pub struct Controller {
    cntlid: u16,
    subsystem: Arc<Subsystem>,
    hostnqn: Nqn,
    hostid: [u8; 16],
    /// Where the host reached us; stands in for wildcard listeners in the discovery log.
    local_address: SocketAddr,
    state: ControllerState,
    cc: Cc,
    kato_ms: u32,
    keep_alive_from_ms: u64,
    features: FeatureValues,
    io_queues_granted: u16,
    io_queues: u128,
    /// The host has been told of a volatile write cache, so that it flushes.
    vwc_advertised: bool,
    events: AsyncEvents,
    /// Abort commands that look for their command.
    aborts: u8,
    traffic: ControllerTraffic,
    errors: ErrorLog,
    notices: NoticeLog,
    /// Commands of I/O queues when the keep alive timer was last looked at.
    commands_seen: u64,
    changed_namespaces: NamespaceSet,
    /// Changes of ANA states so far.
    ana_changes: u64,
    /// Of the table that the discovery log was last compared with.
    generation: u64,
}

impl Controller {
    /// Controller id.
    #[must_use]
    pub fn cntlid(&self) -> u16 {
        self.cntlid
    }

    /// The subsystem as this controller knows it.
    #[must_use]
    pub fn subsystem(&self) -> &Arc<Subsystem> {
        &self.subsystem
    }

    /// The host's name.
    #[must_use]
    pub fn hostnqn(&self) -> &Nqn {
        &self.hostnqn
    }

    /// The host's identifier.
    #[must_use]
    pub fn hostid(&self) -> &[u8; 16] {
        &self.hostid
    }

    /// State by CC and CSTS.
    #[must_use]
    pub fn state(&self) -> ControllerState {
        self.state
    }

    /// I/O queues that are connected.
    #[must_use]
    pub fn io_queue_count(&self) -> u32 {
        self.io_queues.count_ones()
    }

    /// Keep Alive Timeout in milliseconds; 0: none.
    #[must_use]
    pub fn kato_ms(&self) -> u32 {
        self.kato_ms
    }

    fn is_discovery(&self) -> bool {
        self.subsystem.kind() == SubsystemKind::Discovery
    }

    /// The host is alive: an admin command does this by itself.
    pub fn restart_keep_alive(&mut self, now_ms: u64) {
        self.keep_alive_from_ms = now_ms;
    }

    /// A command of an I/O queue has failed; `skipped` others before it were not told, so that a
    /// host that fails all the time keeps nobody busy.
    pub fn note_error(&mut self, error: CommandError, skipped: u64) {
        self.errors.add(error, skipped);
    }

    /// The host is to be told of a reservation. What it has masked it is not told.
    pub fn note_reservation(&mut self, nsid: u32, kind: NoticeKind) {
        if !self.features.masks(nsid, kind) && self.notices.add(nsid, kind) {
            self.events.occurred(EventKind::Reservation);
        }
    }

    fn has_io_queue(&self, qid: u16) -> bool {
        (1..=connect::IO_QUEUES_MAX).contains(&qid) && self.io_queues >> (qid - 1) & 1 != 0
    }

    /// Whether the host has let its keep alive timeout pass: the engine must then end all
    /// connections of the controller. I/O commands are signs of life as well (Traffic Based Keep
    /// Alive; Base 2.1, section 3.9.4).
    #[must_use]
    pub fn check_keep_alive(&mut self, now_ms: u64) -> bool {
        let commands = self.traffic.totals().commands();
        if std::mem::replace(&mut self.commands_seen, commands) != commands {
            self.restart_keep_alive(now_ms);
        }
        let idle_ms = now_ms.saturating_sub(self.keep_alive_from_ms);
        self.kato_ms != 0 && idle_ms > u64::from(self.kato_ms)
    }

    fn set_kato(&mut self, kato_ms: u32, now_ms: u64) {
        self.kato_ms = round_kato(kato_ms);
        self.restart_keep_alive(now_ms);
    }
}

/// Rounds up to [`KEEP_ALIVE_GRANULARITY_MS`], or down where 32 bits end.
fn round_kato(kato_ms: u32) -> u32 {
    kato_ms
        .checked_next_multiple_of(KEEP_ALIVE_GRANULARITY_MS)
        .unwrap_or(u32::MAX - u32::MAX % KEEP_ALIVE_GRANULARITY_MS)
}

#[cfg(test)]
mod tests;

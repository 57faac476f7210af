//! What a core tells of its connections and controllers, and how many lines of its log they get.

use std::net::SocketAddr;

use super::auth::AUTH_BYTES_MAX;
use super::duplicates::PLACE_BYTES;
use super::queue::{Conn, OwnedController, Role};
use super::shard::Shard;
use crate::limits::{CONNECTION_BYTES_MAX, IO_QUEUE_DEPTH_MAX, SECURED_CONNECTION_BYTES_MAX};
use crate::secure::psk;
use crate::secure::{Group, Hash};
use crate::target::subsystem::{Nqn, SubsystemKind};
use crate::target::tcp::CONNECTION_MEMORY_BYTES_MAX;

/// What the engine adds to a connection's own memory.
const ENGINE_BYTES_MAX: usize = size_of::<Conn>()
    + super::socket::HEAP_BYTES_MAX
    + IO_QUEUE_DEPTH_MAX * EXECUTING_BYTES
    + AUTH_BYTES_MAX
    + PLACE_BYTES
    + size_of::<Nqn>();
const EXECUTING_BYTES: usize = size_of::<super::queue::Executing>();

const _: () = {
    let plain = CONNECTION_MEMORY_BYTES_MAX + ENGINE_BYTES_MAX;
    assert!(plain <= CONNECTION_BYTES_MAX);
    assert!(plain + super::tls::BYTES_MAX <= SECURED_CONNECTION_BYTES_MAX);
    // A connection has either.
    assert!(super::kernel_tls::BYTES_MAX <= super::tls::BYTES_MAX);
};

/// Where a queue pair is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueState {
    /// The host has not sent Connect.
    Uninitialized,
    /// An I/O queue's Connect is being answered by another core.
    Connecting,
    /// It must authenticate itself before anything else.
    Authenticating,
    /// It serves.
    Enabled,
    /// The connection has ended; commands or the kernel still use its memory.
    Deactivating,
}

/// A connection as it is now.
#[derive(Debug, Clone)]
pub struct QueueReport {
    /// Where it is in its life.
    pub state: QueueState,
    /// Controller and queue; `None` before Connect has been answered, and when it ends.
    pub queue: Option<(u16, u16)>,
    /// Subsystem, by [`crate::target::subsystem::Subsystem::uid`], and host of that queue.
    pub owner: Option<(u64, Nqn)>,
    /// The host's address.
    pub peer: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// Its authentication, if there is one: how far it is, hash and group.
    pub auth: Option<(&'static str, Hash, Group)>,
    /// Who encrypts, under TLS: `kernel` or `openssl`.
    pub tls: Option<&'static str>,
    /// Of what kind its key for TLS is: `configured` or `generated`.
    pub tls_key: Option<&'static str>,
    /// Memory of its own, which it has from its start or from Connect on.
    pub memory_bytes: usize,
    /// Buffers of the core's pool that its commands hold.
    pub held_bytes: usize,
    /// Commands that a bdev works on, or that wait for one.
    pub executing: usize,
}

/// A controller as it is now.
#[derive(Debug, Clone)]
pub struct ControllerReport {
    /// Controller.
    pub cntlid: u16,
    /// Its subsystem, by [`crate::target::subsystem::Subsystem::uid`].
    pub subsystem: u64,
    /// It is a discovery controller.
    pub is_discovery: bool,
    /// Host name.
    pub hostnqn: Nqn,
    /// Host identifier.
    pub hostid: [u8; 16],
    /// I/O queues that are connected.
    pub io_queues: u32,
}

/// What a core has done for hosts since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostCounts {
    /// Connections that became admin queues.
    pub admin_queues: u64,
    /// Connections that became I/O queues.
    pub io_queues: u64,
    /// Connections taken.
    pub accepted: u64,
    /// Connections and Connects refused because there were too many.
    pub refused: u64,
    /// I/O commands completed.
    pub io_commands: u64,
}

/// What a core tells.
#[derive(Debug, Clone)]
pub struct CoreReport {
    /// Its connections.
    pub queues: Vec<QueueReport>,
    /// Its controllers.
    pub controllers: Vec<ControllerReport>,
    /// What it has done.
    pub counts: HostCounts,
    /// Bytes of its I/O buffers that nobody holds, and of all.
    pub buffers_free_bytes: usize,
    /// See there.
    pub buffers_bytes: usize,
}

impl Conn {
    /// Memory of its own; see [`CONNECTION_BYTES_MAX`].
    fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.protocol.memory_bytes()
            + self.socket.heap_bytes()
            + self.executing.len() * EXECUTING_BYTES
            + if self.socket.tls.is_some() { super::tls::BYTES_MAX } else { 0 }
            + if self.socket.kernel_tls.is_some() { super::kernel_tls::BYTES_MAX } else { 0 }
            + if self.auth.is_some() { AUTH_BYTES_MAX } else { 0 }
            + if self.place.is_some() { PLACE_BYTES } else { 0 }
    }

    fn report(&self, owner_of_admin: impl FnOnce(usize) -> Option<(u16, u64, Nqn)>) -> QueueReport {
        let (queue, owner) = match &self.role {
            Role::Admin(slot) => match owner_of_admin(*slot) {
                Some((cntlid, uid, host)) => (Some((cntlid, 0)), Some((uid, host))),
                None => (None, None),
            },
            Role::Io(grant) => {
                (Some((grant.cntlid, grant.qid)), Some((grant.subsystem.uid(), grant.hostnqn)))
            }
            Role::Fresh | Role::Connecting(_) => (None, None),
        };
        let state = match &self.role {
            _ if self.socket.is_closing() => QueueState::Deactivating,
            Role::Admin(_) | Role::Io(_) if self.is_locked => QueueState::Authenticating,
            Role::Admin(_) | Role::Io(_) => QueueState::Enabled,
            Role::Connecting(_) => QueueState::Connecting,
            Role::Fresh => QueueState::Uninitialized,
        };
        QueueReport {
            state,
            queue,
            owner,
            peer: self.peer,
            local: self.local,
            auth: self.auth.as_ref().map(|auth| auth.describe()),
            tls: self.socket.tls_by(),
            tls_key: self.socket.tls_identity().map(|identity| {
                if psk::is_generated(&identity) { "generated" } else { "configured" }
            }),
            memory_bytes: self.memory_bytes(),
            held_bytes: self.protocol.held_bytes(),
            executing: self.protocol.executing_count(),
        }
    }
}

impl OwnedController {
    fn report(&self) -> ControllerReport {
        let controller = &self.controller;
        ControllerReport {
            cntlid: controller.cntlid(),
            subsystem: controller.subsystem().uid(),
            is_discovery: controller.subsystem().kind() == SubsystemKind::Discovery,
            hostnqn: *controller.hostnqn(),
            hostid: *controller.hostid(),
            io_queues: controller.io_queue_count(),
        }
    }
}

impl Shard {
    /// What this core tells of its connections.
    pub(super) fn report(&self, pool: &crate::reactor::buf::BufPool) -> CoreReport {
        let owned = |slot: usize| self.connections.controllers[slot].as_deref();
        let owner = |slot| {
            let controller = &owned(slot)?.controller;
            Some((controller.cntlid(), controller.subsystem().uid(), *controller.hostnqn()))
        };
        CoreReport {
            queues: self.connections.iter().map(|conn| conn.report(owner)).collect(),
            controllers: self
                .connections
                .controllers
                .iter()
                .flatten()
                .map(|owned| owned.report())
                .collect(),
            counts: self.connections.counts,
            buffers_free_bytes: pool.free_bytes(0),
            buffers_bytes: pool.region().1,
        }
    }
}

/// Lines that a core's hosts may write into the log between two housekeepings: many hosts that
/// come and go, or one that means harm, neither fill a disk nor keep the core busy.
const LINES_MAX: u32 = 50;

/// Counts lines of the log.
#[derive(Debug, Default)]
pub(super) struct LogBudget {
    written: u32,
    left_out: u64,
}

impl LogBudget {
    /// Whether there may be one more line.
    pub(super) fn allows(&mut self) -> bool {
        let is_allowed = self.written < LINES_MAX;
        if is_allowed {
            self.written += 1;
        } else {
            self.left_out += 1;
        }
        is_allowed
    }

    /// A second has passed; how many lines were left out in it.
    pub(super) fn renew(&mut self) -> u64 {
        self.written = 0;
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_instead_of_written() {
        let mut budget = LogBudget::default();
        let written = (0..LINES_MAX + 7).filter(|_| budget.allows()).count();
        assert_eq!((written, budget.renew()), (LINES_MAX as usize, 7));
        assert!(budget.allows());
        assert_eq!(budget.renew(), 0);
    }
}

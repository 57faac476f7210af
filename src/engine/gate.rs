//! Gates: what stands between the I/O commands of this core and a bdev.
//!
//! Normally nothing does, and a command costs one look at a byte. A gate is closed while a fused
//! Compare and Write has a range of the bdev to itself, and while a namespace is reserved. The
//! home core (see `gate_home`) closes gates on all cores; a core says so when no command of
//! its own is left at the bdev that the gate would not have let pass.

use std::collections::VecDeque;

use super::gate_home::{HOME, Ticket};
use super::message::Message;
use super::queue::{Conn, Role, WATCHED};
use super::shard::{Shard, ShardCore};
use crate::bdev::BdevId;
use crate::limits::BDEVS_MAX;
use crate::target::controller::io::{self, IoRequest};
use crate::target::tcp::RequestId;
use crate::wire::nvme::{Sqe, Status};

/// A range that a fused operation has to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClosedRange {
    pub(super) bdev: BdevId,
    pub(super) lba: u64,
    pub(super) blocks: u64,
}

impl ClosedRange {
    fn meets(&self, bdev: BdevId, lba: u64, blocks: u64) -> bool {
        self.bdev == bdev && lba < self.lba + self.blocks && self.lba < lba.saturating_add(blocks)
    }

    /// Whether both have a block in common.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.meets(other.bdev, other.lba, other.blocks)
    }

    /// Whether the command changes blocks of the range.
    fn is_changed_by(&self, request: &IoRequest) -> bool {
        request.written().is_some_and(|(lba, blocks)| self.meets(request.bdev, lba, blocks))
    }
}

/// The core's gates.
#[derive(Debug)]
pub(super) struct Gates {
    /// One byte a bdev: how many reasons there are to look closer.
    closed: Box<[u8]>,
    ranges: Vec<(Ticket, ClosedRange)>,
    /// Ranges and reservations whose gate is closed, but commands of before are still at the bdev.
    draining: Vec<Ticket>,
    /// Wait state: commands that would change a closed range.
    parked: VecDeque<(u16, RequestId)>,
}

impl Gates {
    pub(super) fn new() -> Self {
        Self {
            closed: vec![0; BDEVS_MAX].into_boxed_slice(),
            ranges: Vec::new(),
            draining: Vec::new(),
            parked: VecDeque::new(),
        }
    }

    /// The hot path's question.
    pub(super) fn is_closed(&self, bdev: BdevId) -> bool {
        self.closed.get(usize::from(bdev.0)).is_none_or(|&reasons| reasons != 0)
    }

    fn count(&mut self, bdev: BdevId) {
        let ranges = self.ranges.iter().filter(|(_, range)| range.bdev == bdev).count();
        self.closed[usize::from(bdev.0)] = u8::from(ranges != 0);
    }

    /// Takes a parked command out; false: it is not parked.
    pub(super) fn unpark(&mut self, index: u16, id: RequestId) -> bool {
        let before = self.parked.len();
        self.parked.retain(|&parked| parked != (index, id));
        self.parked.len() != before
    }
}

impl Shard {
    /// Looks closer at a command whose bdev has a closed gate; false: it has ended, or waits.
    #[cold]
    pub(super) fn passes_gate(
        &mut self,
        _core: &mut ShardCore,
        index: u16,
        id: RequestId,
        request: &IoRequest,
    ) -> bool {
        if self.gates.ranges.iter().any(|(_, range)| range.is_changed_by(request)) {
            self.gates.parked.push_back((index, id));
            return false;
        }
        true
    }

    /// Closes a range on this core.
    pub(super) fn close_range(&mut self, core: &mut ShardCore, ticket: Ticket, range: ClosedRange) {
        self.gates.ranges.push((ticket, range));
        self.gates.count(range.bdev);
        self.drain_gate(core, ticket);
    }

    /// Opens a range again: the commands that waited for it go on.
    pub(super) fn open_range(&mut self, core: &mut ShardCore, ticket: Ticket) {
        let found = self.gates.ranges.iter().position(|(closed, _)| *closed == ticket);
        let (_, range) = self.gates.ranges.swap_remove(found.expect("it was closed here as well"));
        self.gates.count(range.bdev);
        for _ in 0..self.gates.parked.len() {
            let Some((index, id)) = self.gates.parked.pop_front() else { return };
            self.resume(core, index, id);
        }
    }

    fn resume(&mut self, core: &mut ShardCore, index: u16, id: RequestId) {
        let conn = self.connections.get(index).expect("it stays until its commands have ended");
        if matches!(conn.role, Role::Io(_)) {
            let sqe = *conn.protocol.request_sqe(id);
            self.execute_io(core, index, id, &sqe);
        } else {
            self.complete(index, id, Status::ABORTED_SQ_DELETION, 0, 0);
            self.drop_if_drained(core, index);
        }
    }

    /// Tells the home core that the gate holds, now or when the last command has ended.
    fn drain_gate(&mut self, core: &mut ShardCore, ticket: Ticket) {
        if self.watch_commands(ticket) {
            self.gates.draining.push(ticket);
        } else {
            self.send(core, HOME, Message::GateHolds { ticket });
        }
    }

    /// A command that was watched has ended.
    #[cold]
    pub(super) fn watched_ended(&mut self, core: &mut ShardCore) {
        for ticket in std::mem::take(&mut self.gates.draining) {
            self.drain_gate(core, ticket);
        }
    }

    /// Marks the commands at the bdev that the gate would not let pass; false: there are none.
    fn watch_commands(&mut self, ticket: Ticket) -> bool {
        let found = self.gates.ranges.iter().find(|(closed, _)| *closed == ticket);
        let Some(&(_, range)) = found else { return false };
        let mut any = false;
        for index in self.connections.indexes() {
            let Some(conn) = self.connections.get(index) else { continue };
            let Conn { protocol, executing, role, .. } = conn;
            for (id, sqe) in protocol.executing_commands() {
                let executing = &mut executing[id.slot()];
                if executing.pending > 0 && may_change(role, sqe, &range) {
                    executing.special |= WATCHED;
                    any = true;
                }
            }
        }
        any
    }
}

/// Whether a command at a bdev changes blocks of the range. What can no longer be told, because its
/// connection is closing or its namespace is gone, may.
fn may_change(role: &Role, sqe: &Sqe, range: &ClosedRange) -> bool {
    let Role::Io(grant) = role else { return true };
    match io::parse(sqe, &grant.subsystem, grant.vwc_advertised) {
        Ok(request) => range.is_changed_by(&request),
        Err(_) => true,
    }
}

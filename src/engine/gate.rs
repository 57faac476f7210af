//! Gates: what stands between the I/O commands of this core and a bdev.
//!
//! Normally nothing does, and a command costs one look at a byte. A gate is closed while a fused
//! Compare and Write has a range of the bdev to itself, and while a namespace is reserved. The
//! home core (see `gate_home`) closes gates on all cores; a core says so when no command of
//! its own is left at the bdev that the gate would not have let pass.

use std::collections::VecDeque;
use std::sync::Arc;

use super::gate_home::{HOME, Ticket};
use super::message::Message;
use super::queue::{Conn, Role, WATCHED};
use super::shard::{Shard, ShardCore};
use crate::bdev::BdevId;
use crate::limits::BDEVS_MAX;
use crate::target::controller::io::{self, IoRequest};
use crate::target::reservation::{Access, HostId, View};
use crate::target::subsystem::SubsystemTable;
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

/// What a gate keeps out.
#[derive(Debug, Clone, Copy)]
enum Draining {
    /// Commands that change the range.
    Range(ClosedRange),
    /// Commands that the reservation does not allow.
    Reservation(BdevId),
}

/// The core's gates.
#[derive(Debug)]
pub(super) struct Gates {
    /// One byte a bdev: how many reasons there are to look closer.
    closed: Box<[u8]>,
    ranges: Vec<(Ticket, ClosedRange)>,
    /// The reservation of a bdev's namespace, if one is held.
    views: Box<[Option<Arc<View>>]>,
    /// Gates that are closed, while commands of before are still at the bdev.
    draining: Vec<(Ticket, Draining)>,
    /// Wait state: commands that would change a closed range.
    parked: VecDeque<(u16, RequestId)>,
}

impl Gates {
    pub(super) fn new() -> Self {
        Self {
            closed: vec![0; BDEVS_MAX].into_boxed_slice(),
            ranges: Vec::new(),
            views: (0..BDEVS_MAX).map(|_| None).collect(),
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
        let reserved = self.views[usize::from(bdev.0)].is_some();
        self.closed[usize::from(bdev.0)] = u8::from(ranges != 0 || reserved);
    }

    /// The reservation of the bdev's namespace, from now on.
    pub(super) fn set_view(&mut self, bdev: BdevId, view: Option<Arc<View>>) {
        self.views[usize::from(bdev.0)] = view;
        self.count(bdev);
    }

    /// Whether no reservation keeps the host from this.
    pub(super) fn allows(&self, bdev: BdevId, host: &HostId, access: Access) -> bool {
        let view = self.views.get(usize::from(bdev.0)).and_then(Option::as_ref);
        view.is_none_or(|view| view.allows(host, access))
    }

    /// A new table takes the place of the old one: reservations of namespaces that are gone go with
    /// them, and those that were saved come with theirs.
    pub(super) fn table_changes(&mut self, old: &SubsystemTable, new: &SubsystemTable) {
        for (bdev, _) in old.exports() {
            if new.exported_key(bdev) != old.exported_key(bdev) {
                self.set_view(bdev, None);
            }
        }
        for (bdev, key) in new.exports() {
            let subsystem = new.find_uid(key.uid).expect("it exports the bdev");
            let saved = subsystem.persistence(key.nsid).and_then(|place| place.restored.as_ref());
            if let Some(saved) = saved
                && old.exported_key(bdev) != Some(key)
            {
                self.set_view(bdev, saved.view().map(Arc::new));
            }
        }
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
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        request: &IoRequest,
    ) -> bool {
        let conn = self.connections.get(index).expect("the command came from it");
        let Role::Io(grant) = &conn.role else { unreachable!("it is an I/O command") };
        if request.ana.is_blocked() {
            self.fail(core, index, id, Status::ANA_INACCESSIBLE);
            return false;
        }
        if let Some(access) = request.access()
            && !self.gates.allows(request.bdev, &grant.hostid, access)
        {
            self.fail(core, index, id, Status::RESERVATION_CONFLICT.dnr());
            return false;
        }
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
        self.drain_gate(core, ticket, Draining::Range(range));
    }

    /// Lets commands end that a new reservation does not allow.
    pub(super) fn drain_reservation(&mut self, core: &mut ShardCore, ticket: Ticket, bdev: BdevId) {
        self.drain_gate(core, ticket, Draining::Reservation(bdev));
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
    fn drain_gate(&mut self, core: &mut ShardCore, ticket: Ticket, what: Draining) {
        if self.watch_commands(&what) {
            self.gates.draining.push((ticket, what));
        } else {
            self.send(core, HOME, Message::GateHolds { ticket });
        }
    }

    /// A command that was watched has ended.
    #[cold]
    pub(super) fn watched_ended(&mut self, core: &mut ShardCore) {
        for (ticket, what) in std::mem::take(&mut self.gates.draining) {
            self.drain_gate(core, ticket, what);
        }
    }

    /// Marks the commands at the bdev that the gate would not let pass; false: there are none.
    fn watch_commands(&mut self, what: &Draining) -> bool {
        let mut any = false;
        for index in self.connections.indexes() {
            let Some(conn) = self.connections.get(index) else { continue };
            let Conn { protocol, executing, role, .. } = conn;
            for (id, sqe) in protocol.executing_commands() {
                let executing = &mut executing[id.slot()];
                if executing.pending > 0 && keeps_out(&self.gates, what, role, sqe) {
                    executing.special |= WATCHED;
                    any = true;
                }
            }
        }
        any
    }
}

/// Whether the gate would not let a command pass that is at a bdev. Where that can no longer be
/// told, because its connection is closing or its namespace is gone, it would not.
fn keeps_out(gates: &Gates, what: &Draining, role: &Role, sqe: &Sqe) -> bool {
    let Role::Io(grant) = role else { return true };
    let plain = Sqe { flags: sqe.flags & !3, ..*sqe };
    let parsed = io::parse(&plain, &grant.subsystem, grant.vwc_advertised);
    let Ok(request) = parsed else { return true };
    match what {
        Draining::Range(range) => range.is_changed_by(&request),
        Draining::Reservation(bdev) => {
            request.bdev == *bdev
                && request
                    .access()
                    .is_some_and(|access| !gates.allows(*bdev, &grant.hostid, access))
        }
    }
}

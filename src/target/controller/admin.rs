//! Admin commands: the table of what is supported, and the small ones.

use std::sync::Arc;

use super::async_event::EventKind;
use super::{CommandError, Controller, ControllerState};
use crate::bdev::BdevId;
use crate::target::reservation::ReservationCommand;
use crate::target::subsystem::{AnaState, Namespace, Subsystem, SubsystemTable, Views};
use crate::wire::fabrics::fctype;
use crate::wire::nvme::opcode::{FABRICS, admin};
use crate::wire::nvme::{Sqe, Status};

/// What an admin command needs from the outside.
#[derive(Debug, Clone, Copy)]
pub struct AdminContext<'a> {
    /// The published table.
    pub table: &'a SubsystemTable,
    /// Milliseconds of the reactor's clock.
    pub now_ms: u64,
    /// Milliseconds since the target was started.
    pub up_ms: u64,
}

/// What the engine must do with an admin command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum AdminOutcome {
    /// Send `data_len_bytes` from the front of the data buffer, if any, then the completion, then
    /// see to the effect.
    Complete {
        /// Status field.
        status: Status,
        /// Dwords 0 and 1.
        result: u64,
        /// Data for the host; 0 unless the command was successful.
        data_len_bytes: usize,
        /// What else follows.
        effect: Effect,
    },
    /// Send nothing: [`Controller::next_async_event`] names the command when it ends.
    HoldAsyncEvent,
    /// Have the reservation's keeper execute this, and complete the command with the answer.
    Reservation {
        /// Namespace.
        nsid: u32,
        /// The bdev behind it.
        bdev: BdevId,
        /// What to do.
        command: ReservationCommand,
    },
    /// Have the reservation's keeper execute `SetPersist` for every namespace whose reservation can
    /// persist, of which there are some, and complete the command with the answer.
    PersistAll(bool),
    /// Identify's list of controllers: answer it with those of this subsystem, ascending, of all
    /// cores.
    ControllerList {
        /// Those to which this namespace is attached; `None`: all.
        nsid: Option<u32>,
        /// From this one on.
        from: u16,
    },
    /// Look for command `cid` of I/O queue `qid` and abort it if it can be recalled; then
    /// complete this command with [`Controller::abort_ended`]'s result.
    Abort {
        /// I/O queue, 1 and up.
        qid: u16,
        /// Command.
        cid: u16,
    },
}

/// What a command brings about besides its completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A reset or shutdown: end all connections of the controller's I/O queues, and ask
    /// [`Controller::next_async_event`] for the requests that end with it.
    CloseIoQueues,
}

impl AdminOutcome {
    pub(super) fn success(result: u64) -> Self {
        Self::Complete { status: Status::SUCCESS, result, data_len_bytes: 0, effect: Effect::None }
    }

    pub(super) fn data(len_bytes: usize) -> Self {
        Self::Complete {
            status: Status::SUCCESS,
            result: 0,
            data_len_bytes: len_bytes,
            effect: Effect::None,
        }
    }

    pub(super) fn with_effect(self, new: Effect) -> Self {
        match self {
            Self::Complete { status, result, data_len_bytes, .. } => {
                Self::Complete { status, result, data_len_bytes, effect: new }
            }
            other => other,
        }
    }

    fn failure(status: Status) -> Self {
        Self::Complete { status, result: 0, data_len_bytes: 0, effect: Effect::None }
    }
}

/// The completion of a held Asynchronous Event Request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsyncCompletion {
    /// Command.
    pub cid: u16,
    /// Status field.
    pub status: Status,
    /// Dword 0: type, information and log page of the event.
    pub result: u64,
}

/// What a new table means for a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum TableChange {
    /// The controller goes on; see [`Controller::next_async_event`].
    Admitted,
    /// The subsystem or the listener is gone, or the host is no longer allowed: end all
    /// connections of the controller.
    Revoked,
}

type Handler =
    fn(&mut Controller, &AdminContext<'_>, &Sqe, &mut [u8]) -> Result<AdminOutcome, Status>;

/// A supported admin command.
pub(super) struct AdminCommand {
    pub(super) opcode: u8,
    /// Discovery controllers have it too.
    pub(super) discovery: bool,
    handler: Handler,
}

/// Every supported admin command; Commands Supported and Effects is made from it.
pub(super) const COMMANDS: [AdminCommand; 7] = [
    AdminCommand {
        opcode: admin::GET_LOG_PAGE,
        discovery: true,
        handler: Controller::get_log_page,
    },
    AdminCommand { opcode: admin::IDENTIFY, discovery: true, handler: Controller::identify },
    AdminCommand { opcode: admin::ABORT, discovery: false, handler: Controller::abort },
    AdminCommand {
        opcode: admin::SET_FEATURES,
        discovery: true,
        handler: Controller::set_features,
    },
    AdminCommand {
        opcode: admin::GET_FEATURES,
        discovery: true,
        handler: Controller::get_features,
    },
    AdminCommand {
        opcode: admin::ASYNC_EVENT_REQUEST,
        discovery: true,
        handler: Controller::async_event_request,
    },
    AdminCommand { opcode: admin::KEEP_ALIVE, discovery: true, handler: Controller::keep_alive },
];

/// Identify's ACL, 0's based: one more Abort commands may be under way.
pub(super) const ACL: u8 = 3;

/// Dword 0 bit 0, Immediate Abort Not Performed (Base 2.1, section 5.1.1).
fn abort_result(was_aborted: bool) -> u64 {
    u64::from(!was_aborted)
}

/// Fused operation bits of byte 1 (FUSE, Base 2.1, figure 92): not supported.
const FUSE_MASK: u8 = 3;

impl Controller {
    /// Executes one command of the admin queue, Connect excepted.
    ///
    /// `data` is the command's data buffer: as long as its SGL says (but at most
    /// [`crate::limits::TRANSFER_SIZE_BYTES_MAX`]), holding the host's data if the command sends
    /// some.
    pub fn admin(
        &mut self,
        context: &AdminContext<'_>,
        sqe: &Sqe,
        data: &mut [u8],
    ) -> AdminOutcome {
        self.restart_keep_alive(context.now_ms);
        self.dispatch(context, sqe, data).unwrap_or_else(|status| {
            if let Some(error) = CommandError::of(0, sqe, status) {
                self.errors.add(error, 0);
            }
            AdminOutcome::failure(status)
        })
    }

    fn dispatch(
        &mut self,
        context: &AdminContext<'_>,
        sqe: &Sqe,
        data: &mut [u8],
    ) -> Result<AdminOutcome, Status> {
        if sqe.flags & FUSE_MASK != 0 {
            return Err(Status::INVALID_FIELD.dnr());
        }
        if sqe.opcode == FABRICS {
            return match sqe.fctype() {
                fctype::PROPERTY_GET => self.property_get(sqe),
                fctype::PROPERTY_SET => self.property_set(sqe),
                // This queue is connected already.
                fctype::CONNECT => Err(Status::COMMAND_SEQUENCE_ERROR.dnr()),
                _ => Err(Status::INVALID_OPCODE.dnr()),
            };
        }
        if self.state != ControllerState::Ready {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        let command = COMMANDS
            .iter()
            .find(|command| command.opcode == sqe.opcode)
            .filter(|command| command.discovery || !self.is_discovery())
            .ok_or(Status::INVALID_OPCODE.dnr())?;
        (command.handler)(self, context, sqe, data)
    }

    /// Abort (Base 2.1, section 5.1.1). Of this queue's commands only Asynchronous Event Requests
    /// live longer than their execution, so only they can be found.
    fn abort(
        &mut self,
        _context: &AdminContext<'_>,
        sqe: &Sqe,
        _data: &mut [u8],
    ) -> Result<AdminOutcome, Status> {
        let [qid_low, qid_high, cid_low, cid_high] = sqe.cdw10.to_bytes();
        let qid = u16::from_le_bytes([qid_low, qid_high]);
        let cid = u16::from_le_bytes([cid_low, cid_high]);
        if qid == 0 {
            return Ok(AdminOutcome::success(abort_result(self.events.abort(cid))));
        }
        if !self.has_io_queue(qid) {
            return Ok(AdminOutcome::success(abort_result(false)));
        }
        if self.aborts > ACL {
            return Err(Status::ABORT_LIMIT_EXCEEDED);
        }
        self.aborts += 1;
        Ok(AdminOutcome::Abort { qid, cid })
    }

    /// [`AdminOutcome::Abort`] is done: dwords 0 and 1 of the Abort command's completion.
    ///
    /// # Panics
    /// If no Abort command was under way.
    #[must_use]
    pub fn abort_ended(&mut self, was_aborted: bool) -> u64 {
        self.aborts = self.aborts.checked_sub(1).expect("an Abort command is under way");
        abort_result(was_aborted)
    }

    #[allow(clippy::unnecessary_wraps)]
    fn keep_alive(
        &mut self,
        context: &AdminContext<'_>,
        _sqe: &Sqe,
        _data: &mut [u8],
    ) -> Result<AdminOutcome, Status> {
        self.restart_keep_alive(context.now_ms);
        Ok(AdminOutcome::success(0))
    }

    fn async_event_request(
        &mut self,
        _context: &AdminContext<'_>,
        sqe: &Sqe,
        _data: &mut [u8],
    ) -> Result<AdminOutcome, Status> {
        if self.events.hold(sqe.cid.get()) {
            Ok(AdminOutcome::HoldAsyncEvent)
        } else {
            Err(Status::AER_LIMIT_EXCEEDED.dnr())
        }
    }

    /// The connection is ending: every held Asynchronous Event Request ends with it, see
    /// [`Controller::next_async_event`].
    pub fn abort_async_events(&mut self) {
        self.events.abort_held();
    }

    /// The host has given up its Asynchronous Event Requests: they are not answered.
    pub fn forget_async_events(&mut self) {
        self.events.give_up();
    }

    /// The next held Asynchronous Event Request that ends. To be asked after every
    /// [`Controller::admin`] and [`Controller::table_changed`], until `None`.
    pub fn next_async_event(&mut self) -> Option<AsyncCompletion> {
        if let Some(cid) = self.events.next_aborted() {
            return Some(AsyncCompletion { cid, status: Status::ABORT_REQUESTED, result: 0 });
        }
        if self.state != ControllerState::Ready {
            return None;
        }
        let (cid, kind) = self.events.report()?;
        Some(AsyncCompletion { cid, status: Status::SUCCESS, result: kind.result() })
    }

    /// A new table was published.
    pub fn table_changed(&mut self, table: &SubsystemTable) -> TableChange {
        self.take_table(table, &mut Views::default())
    }

    /// The same where there are many controllers, which share what hosts see of the table.
    pub fn take_table(&mut self, table: &SubsystemTable, views: &mut Views) -> TableChange {
        let Some(new) = table.find_uid(self.subsystem.uid()) else {
            return TableChange::Revoked;
        };
        // Whoever came by a listener that was removed goes with it: its paths have no ANA state.
        let came_by = table.leads_to(self.local_address, new);
        if !new.allows(&self.hostnqn) || !came_by {
            return TableChange::Revoked;
        }
        if self.is_discovery() && self.generation != table.generation() {
            self.notify(EventKind::DiscoveryLog);
        }
        let new = &views.of(new, &self.hostnqn, self.local_address);
        if self.note_changed_namespaces(new) {
            self.notify(EventKind::NamespaceAttribute);
        }
        if !self.is_degraded() && new.namespaces().any(|namespace| namespace.degraded) {
            self.notify(EventKind::Health);
        }
        if self.note_changed_paths(new) {
            self.notify(EventKind::AnaChange);
        }
        self.generation = table.generation();
        self.subsystem = Arc::clone(new);
        TableChange::Admitted
    }

    /// Something happened that the host may want to hear of.
    fn notify(&mut self, kind: EventKind) {
        if self.features.async_event_config() & kind.config_bit() != 0 {
            self.events.occurred(kind);
        }
    }

    /// Something behind a namespace of this host has lost redundancy.
    pub(super) fn is_degraded(&self) -> bool {
        self.subsystem.namespaces().any(|namespace| namespace.degraded)
    }

    /// Whether a namespace has another state or group than before. One that came or went changes
    /// the log as well, but is told as a change of namespaces and not as one of paths.
    fn note_changed_paths(&mut self, new: &Subsystem) -> bool {
        if !new.ana_reporting() {
            return false;
        }
        let is_other = |before: &Namespace, now: &Namespace| {
            (before.anagrpid, before.ana) != (now.anagrpid, now.ana)
        };
        let (mut paths, mut members) = (false, false);
        for nsid in 1..=new.max_namespaces() {
            match (self.subsystem.namespace(nsid), new.namespace(nsid)) {
                (Some(before), Some(now)) => paths |= is_other(before, now),
                (before, now) => members |= before.is_some() != now.is_some(),
            }
        }
        self.ana_changes += u64::from(paths || members);
        paths
    }

    fn note_changed_namespaces(&mut self, new: &Subsystem) -> bool {
        let mut any = false;
        for nsid in 1..=new.max_namespaces() {
            // How it is reached, and how well it is, are no attributes of the namespace: these
            // have events of their own.
            let plain = |namespace: &Namespace| Namespace {
                anagrpid: 0,
                ana: AnaState::Optimized,
                degraded: false,
                ..*namespace
            };
            let before = self.subsystem.namespace(nsid).map(plain);
            if before != new.namespace(nsid).map(plain) {
                let bit = usize::try_from(nsid - 1).expect("bounded by NAMESPACES_MAX");
                self.changed_namespaces[bit / 64] |= 1 << (bit % 64);
                any = true;
            }
        }
        any
    }
}

//! Reservation commands on their way: from the queue's core to the home core, which keeps the
//! reservations, to the gates of all cores, and back.
//!
//! The home core works on one change of a namespace at a time. It is answered when every core
//! checks its commands against the new view and those that would no longer pass have ended, and
//! when the reservation has been saved if it is to outlive a power loss. Other namespaces do not
//! wait: a bdev that ends nothing holds up nobody's reservation but its own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::gate_home::{HOME, Ticket};
use super::message::{CommandKey, ConnectionKey, Message, ReservationView};
use super::queue::Role;
use super::saver::{SaveJob, Saver};
use super::shard::{KIND_SAVER, Shard, ShardCore};
use crate::bdev::BdevId;
use crate::reactor::timer::TimerTag;
use crate::target::controller::io::IoRequest;
use crate::target::reservation::{
    HostId, Notice, NoticeKind, Outcome, Reservation, ReservationCommand,
};
use crate::target::subsystem::NamespaceKey;
use crate::target::tcp::RequestId;
use crate::wire::nvme::{Sqe, Status};

/// How often the home core looks whether a reservation has been saved.
const SAVE_POLL_MS: u64 = 1;

/// A reservation command, as it travels to the home core.
#[derive(Debug)]
pub(super) struct ReservationAsk {
    /// The command, on the sending core.
    pub(super) asker: CommandKey,
    pub(super) namespace: NamespaceKey,
    pub(super) bdev: BdevId,
    pub(super) host: HostId,
    pub(super) command: ReservationCommand,
    /// A command for several namespaces goes on with the last of these when it has been executed;
    /// a namespace that is gone is none of them any more.
    pub(super) others: Option<Vec<(u32, BdevId)>>,
}

/// The answer.
#[derive(Debug)]
pub(super) struct ReservationAnswer {
    pub(super) asker: CommandKey,
    pub(super) status: Status,
    pub(super) result: u64,
    /// Data of a report.
    pub(super) data: Vec<u8>,
}

/// A change on its way.
#[derive(Debug)]
struct Change {
    ask: ReservationAsk,
    from: usize,
    ticket: Ticket,
    outcome: Outcome,
    /// Something of it persists, or did.
    persists: bool,
    /// Cores whose gate does not hold yet.
    cores_left: usize,
}

/// What the home core knows of reservations.
#[derive(Debug, Default)]
pub(super) struct ReservationHome {
    reservations: HashMap<NamespaceKey, Reservation>,
    /// One a namespace.
    changes: Vec<Change>,
    /// Wait state: commands behind the change of their namespace, which is there.
    waiting: HashMap<NamespaceKey, VecDeque<(usize, ReservationAsk)>>,
    /// Wait state: changes that hold and are to be saved; the first is at the saver.
    saving: VecDeque<Ticket>,
    saver: Saver,
}

impl ReservationHome {
    /// Forgets namespaces that are gone.
    pub(super) fn keep(&mut self, exists: impl Fn(NamespaceKey) -> bool) {
        self.reservations.retain(|key, _| exists(*key));
    }

    fn is_changing(&self, key: NamespaceKey) -> bool {
        self.changes.iter().any(|one| one.ask.namespace == key)
    }

    fn change_of(&self, ticket: Ticket) -> Option<usize> {
        self.changes.iter().position(|one| one.ticket == ticket)
    }
}

impl Shard {
    /// An I/O queue got a reservation command.
    pub(super) fn execute_reservation(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        request: &IoRequest,
    ) {
        let conn = self.connections.get(index).expect("the command came from it");
        let Role::Io(grant) = &conn.role else { unreachable!("it is an I/O command") };
        grant.traffic.count_other();
        let sqe: Sqe = *conn.protocol.request_sqe(id);
        let data = conn.protocol.request_buf(id).map_or(&[][..], |buf| buf.as_slice());
        let (uid, host) = (grant.subsystem.uid(), grant.hostid);
        let namespace = NamespaceKey { uid, nsid: sqe.nsid.get() };
        match ReservationCommand::parse(&sqe, data) {
            Ok(command) => {
                let bdev = request.bdev;
                self.ask_reservation(core, (index, id), namespace, bdev, host, command);
            }
            Err(status) => self.fail(core, index, id, status),
        }
    }

    /// Sends a reservation command home.
    pub(super) fn ask_reservation(
        &mut self,
        core: &mut ShardCore,
        (index, id): (u16, RequestId),
        namespace: NamespaceKey,
        bdev: BdevId,
        host: HostId,
        command: ReservationCommand,
    ) {
        let asker = self.asker(index, id);
        let ask = ReservationAsk { asker, namespace, bdev, host, command, others: None };
        self.send(core, HOME, Message::Reserve(Box::new(ask)));
    }

    /// Sends the change of the persistence of several namespaces of a subsystem home.
    pub(super) fn persist_all(
        &mut self,
        core: &mut ShardCore,
        (index, id): (u16, RequestId),
        uid: u64,
        mut namespaces: Vec<(u32, BdevId)>,
        host: HostId,
        persist: bool,
    ) {
        let (nsid, bdev) = namespaces.pop().expect("the controller has looked");
        let asker = self.asker(index, id);
        let namespace = NamespaceKey { uid, nsid };
        let command = ReservationCommand::SetPersist(persist);
        let others = Some(namespaces);
        let ask = ReservationAsk { asker, namespace, bdev, host, command, others };
        self.send(core, HOME, Message::Reserve(Box::new(ask)));
    }

    fn asker(&mut self, index: u16, id: RequestId) -> CommandKey {
        let conn = self.connections.get(index).expect("the command came from it");
        CommandKey { connection: ConnectionKey { index, generation: conn.generation }, id }
    }

    /// Home: a command has come.
    pub(super) fn reservation_asked(
        &mut self,
        core: &mut ShardCore,
        from: usize,
        ask: ReservationAsk,
    ) {
        if self.reserve.is_changing(ask.namespace) {
            self.reserve.waiting.entry(ask.namespace).or_default().push_back((from, ask));
        } else {
            self.reserve(core, from, ask);
        }
    }

    /// A change of the namespace has ended.
    fn next_reservation(&mut self, core: &mut ShardCore, key: NamespaceKey) {
        while !self.reserve.is_changing(key) {
            let waiting = self.reserve.waiting.get_mut(&key).and_then(VecDeque::pop_front);
            let Some((from, ask)) = waiting else {
                self.reserve.waiting.remove(&key);
                return;
            };
            self.reserve(core, from, ask);
        }
    }

    fn reserve(&mut self, core: &mut ShardCore, from: usize, ask: ReservationAsk) {
        let subsystem = self.table.find_uid(ask.namespace.uid);
        let found = subsystem.filter(|found| found.namespace(ask.namespace.nsid).is_some());
        let Some(subsystem) = found else {
            let status = match ask.others {
                Some(_) => Status::SUCCESS,
                None => Status::INVALID_NAMESPACE.dnr(),
            };
            return self.reservation_done(core, from, ask, (status, 0), Vec::new());
        };
        let persistence = subsystem.persistence(ask.namespace.nsid);
        let restored = || persistence.and_then(|place| place.restored.clone()).unwrap_or_default();
        let reservation = self.reserve.reservations.entry(ask.namespace).or_insert_with(restored);
        let persisted = reservation.persists();
        let outcome = reservation.execute(&ask.host, &ask.command, persistence.is_some());
        if !outcome.changed {
            let data = match ask.command {
                ReservationCommand::Report => reservation.report(),
                _ => Vec::new(),
            };
            let how = (outcome.status, outcome.result);
            return self.reservation_done(core, from, ask, how, data);
        }
        let persists = persisted || reservation.persists();
        let view = reservation.view().map(Arc::new);
        let ticket = self.home.ticket();
        let cores_left = core.port.control();
        let (namespace, bdev) = (ask.namespace, ask.bdev);
        self.reserve.changes.push(Change { ask, from, ticket, outcome, persists, cores_left });
        for to in 0..cores_left {
            let view = view.clone();
            let view = ReservationView { ticket, namespace, bdev, view };
            self.send(core, to, Message::Reserved(Box::new(view)));
        }
    }

    /// Home: one more core checks against the new view; false: the ticket is no reservation's.
    pub(super) fn reservation_holds(&mut self, core: &mut ShardCore, ticket: Ticket) -> bool {
        let Some(at) = self.reserve.change_of(ticket) else { return false };
        let change = &mut self.reserve.changes[at];
        change.cores_left -= 1;
        if change.cores_left > 0 {
            return true;
        }
        let (namespace, persists) = (change.ask.namespace, change.persists);
        let notices = std::mem::take(&mut change.outcome.notices);
        for Notice { host, kind } in notices {
            for to in 0..core.port.control() {
                let notice = Box::new((namespace, host, kind));
                self.send(core, to, Message::ReservationNotice(notice));
            }
        }
        if persists {
            self.reserve.saving.push_back(ticket);
            if self.reserve.saving.len() == 1 {
                self.save_next(core);
            }
        } else {
            self.end_reservation(core, ticket, Status::SUCCESS);
        }
        true
    }

    /// Home: the saver is free.
    fn save_next(&mut self, core: &mut ShardCore) {
        while let Some(&ticket) = self.reserve.saving.front() {
            let at = self.reserve.change_of(ticket).expect("it waits to be saved");
            if let Some(job) = self.save_job(self.reserve.changes[at].ask.namespace) {
                self.reserve.saver.begin(job);
                return self.arm_saver(core);
            }
            // The namespace is gone, or has no place to save it.
            self.reserve.saving.pop_front();
            self.end_reservation(core, ticket, Status::SUCCESS);
        }
    }

    fn save_job(&self, key: NamespaceKey) -> Option<SaveJob> {
        let subsystem = self.table.find_uid(key.uid)?;
        let place = subsystem.persistence(key.nsid)?;
        let uuid = subsystem.namespace(key.nsid)?.uuid;
        let reservation = self.reserve.reservations.get(&key)?;
        Some(SaveJob { path: place.path.clone(), text: reservation.save(uuid) })
    }

    fn arm_saver(&self, core: &mut ShardCore) {
        let tag = TimerTag { kind: KIND_SAVER, object: 0, op: 0 };
        core.io.timers.arm(core.io.now_ms() + SAVE_POLL_MS, tag);
    }

    /// Home: has the reservation been saved?
    pub(super) fn look_at_saver(&mut self, core: &mut ShardCore) {
        let Some(saved) = self.reserve.saver.poll() else { return self.arm_saver(core) };
        let status = match saved {
            Ok(()) => Status::SUCCESS,
            Err(text) => {
                tracing::error!(
                    "{text}; the reservation command that changed it is answered with an error, \
                     but the change holds until mdof ends"
                );
                Status::INTERNAL_ERROR.dnr()
            }
        };
        let ticket = self.reserve.saving.pop_front().expect("it was at the saver");
        self.end_reservation(core, ticket, status);
        self.save_next(core);
    }

    fn end_reservation(&mut self, core: &mut ShardCore, ticket: Ticket, status: Status) {
        let at = self.reserve.change_of(ticket).expect("the change is on its way");
        let Change { ask, from, outcome, .. } = self.reserve.changes.swap_remove(at);
        let key = ask.namespace;
        self.reservation_done(core, from, ask, (status, outcome.result), Vec::new());
        self.next_reservation(core, key);
    }

    /// Home: a command has been executed. It is answered, or goes on with its next namespace.
    fn reservation_done(
        &mut self,
        core: &mut ShardCore,
        from: usize,
        mut ask: ReservationAsk,
        (status, result): (Status, u64),
        data: Vec<u8>,
    ) {
        let next = ask.others.as_mut().filter(|_| status.is_success()).and_then(Vec::pop);
        if let Some((nsid, bdev)) = next {
            ask.namespace.nsid = nsid;
            ask.bdev = bdev;
            return self.reservation_asked(core, from, ask);
        }
        let answer = ReservationAnswer { asker: ask.asker, status, result, data };
        self.send(core, from, Message::ReserveAnswered(Box::new(answer)));
    }

    /// The home core has answered: the command ends.
    pub(super) fn reservation_answered(
        &mut self,
        core: &mut ShardCore,
        answer: &ReservationAnswer,
    ) {
        let ReservationAnswer { asker, status, result, data } = answer;
        let index = asker.connection.index;
        let conn = self.connections.find(asker.connection);
        let conn = conn.expect("it stays until its commands have ended");
        let mut data_len_bytes = 0;
        if !data.is_empty()
            && let Some(room) = conn.protocol.request_data_mut(asker.id)
        {
            let len = room.len().min(data.len());
            room[len..].fill(0);
            room[..len].copy_from_slice(&data[..len]);
            data_len_bytes = u32::try_from(room.len()).expect("a buffer's length fits u32");
        }
        let is_io = matches!(conn.role, Role::Io(_));
        if status.is_success() {
            self.connections.counts.io_commands += u64::from(is_io);
            self.complete(index, asker.id, *status, *result, data_len_bytes);
        } else {
            self.fail(core, index, asker.id, *status);
        }
        self.drop_if_drained(core, index);
    }

    /// A host of another core's command is to be told: its controllers here tell it.
    pub(super) fn reservation_noticed(
        &mut self,
        namespace: NamespaceKey,
        host: &HostId,
        kind: NoticeKind,
    ) {
        for slot in 0..self.connections.controllers.len() {
            let Some(owned) = self.connections.controllers[slot].as_deref_mut() else { continue };
            let controller = &mut owned.controller;
            if controller.subsystem().uid() == namespace.uid && controller.hostid() == host {
                controller.note_reservation(namespace.nsid, kind);
                self.report_events(slot);
            }
        }
    }

    /// The view of a namespace has changed.
    pub(super) fn reservation_changed(&mut self, core: &mut ShardCore, changed: ReservationView) {
        let ReservationView { ticket, namespace, bdev, view } = changed;
        let exported = self.table.exported_key(bdev) == Some(namespace);
        self.gates.set_view(bdev, if exported { view } else { None });
        self.drain_reservation(core, ticket, bdev);
    }
}

//! Commands of a connection meet their controller and their bdev.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use super::auth::ConnAuth;
use super::duplicates::QueuePlace;
use super::failures::ErrorsTold;
use super::message::ConnectionKey;
use super::report::{HostCounts, LogBudget};
use super::shard::{Shard, ShardCore};
use super::socket::Socket;
use crate::bdev::{BdevIo, Completion, IoOp, IoQueue, IoStatus, Station, Tag};
use crate::limits::{
    CONNECTIONS_PER_CORE_MAX, CONNECTIONS_TO_REFUSE, CONTROLLERS_PER_CORE_MAX, CORES_MAX,
    IO_QUEUE_DEPTH_MAX, IO_QUEUES_PER_CONTROLLER_MAX, IO_SIZE_BYTES_MAX,
};
use crate::target::auth::GeneratedKey;
use crate::target::controller::connect::ControllerPlace;
use crate::target::controller::io::{self, IoCommand, IoRequest};
use crate::target::controller::{
    AdminContext, AdminOutcome, Controller, Effect, IoQueueGrant, TableChange,
};
use crate::target::subsystem::{NamespaceKey, Nqn, SubsystemTable, Views};
use crate::target::tcp::{Connection, ConnectionConfig, RequestId};
use crate::wire::fabrics::fctype;
use crate::wire::nvme::opcode::FABRICS;
use crate::wire::nvme::{Cqe, Sqe, Status};

const _: () = assert!(CONNECTIONS_PER_CORE_MAX <= u16::MAX as usize);
const _: () = assert!(CORES_MAX <= u8::MAX as usize);
const _: () = assert!(IoStatus::Ok as u8 == 0);

/// What a connection is for.
#[derive(Debug)]
pub(super) enum Role {
    /// Fabrics Connect has not come yet.
    Fresh,
    /// An I/O queue's Connect is being answered by another core.
    Connecting(RequestId),
    /// The admin queue of the controller in this slot of the core.
    Admin(usize),
    /// An I/O queue.
    Io(Box<IoQueueGrant>),
}

/// A mark of [`Executing`]: the command takes several requests, see `steps`.
pub(super) const STEPS: u8 = 1 << 0;
/// A mark of [`Executing`]: a gate is closed when the command has ended.
pub(super) const WATCHED: u8 = 1 << 1;

/// What a command that bdevs work on still waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Executing {
    /// Requests to the bdev that have not ended.
    pub(super) pending: u16,
    /// First failure of them.
    pub(super) status: IoStatus,
    pub(super) op: IoOp,
    /// [`STEPS`] and [`WATCHED`].
    pub(super) special: u8,
    /// Data for the host if all is well.
    pub(super) data_len_bytes: u32,
}

pub(super) const IDLE: Executing =
    Executing { pending: 0, status: IoStatus::Ok, op: IoOp::Flush, special: 0, data_len_bytes: 0 };

/// A connection of this core.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) generation: u32,
    pub(super) socket: Socket,
    pub(super) protocol: Connection,
    pub(super) role: Role,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) executing: Box<[Executing]>,
    /// The first command of a fused operation whose second is the next to execute.
    pub(super) fused_first: Option<RequestId>,
    /// It stands in the list of connections that have something to send.
    pub(super) listed_to_send: bool,
    /// It stands in the list of connections that have something to receive.
    pub(super) listed_to_receive: bool,
    /// It stands in the list of connections that wait for a buffer.
    pub(super) listed_for_buffer: bool,
    /// Milliseconds of the reactor's clock from which on the host owes its Connect.
    pub(super) connect_from_ms: u64,
    /// The queue's authentication, if it has to do with one.
    pub(super) auth: Option<Box<ConnAuth>>,
    /// Nothing but authentication may happen on the queue.
    pub(super) is_locked: bool,
    /// The host of an I/O queue's Connect that another core answers.
    pub(super) asks_as: Option<Box<Nqn>>,
    /// The host, once the connection is a queue.
    pub(super) place: Option<Box<QueuePlace>>,
    /// Failed commands told to the controller since the last housekeeping, and those not told.
    pub(super) errors: ErrorsTold,
    /// Transfers of its commands' data that had ended when that number last grew, or none was
    /// under way, and when that was.
    pub(super) transfers_seen: (u64, u64),
}

impl Conn {
    /// For the log: who it is.
    pub(super) fn describe(&self) -> String {
        match &self.role {
            Role::Fresh | Role::Connecting(_) => format!("{} (not connected)", self.peer),
            Role::Admin(_) => format!("{} (admin queue)", self.peer),
            Role::Io(grant) => {
                format!("{} (controller {}, queue {})", self.peer, grant.cntlid, grant.qid)
            }
        }
    }
}

/// A controller of this core and its admin connection.
#[derive(Debug)]
pub(super) struct OwnedController {
    pub(super) controller: Controller,
    pub(super) connection: u16,
    /// The generated key that it has come under TLS with.
    pub(super) key: Option<Arc<GeneratedKey>>,
    /// Core and connection of each I/O queue that has been connected; index: queue - 1.
    pub(super) queues: [Option<(u8, ConnectionKey)>; IO_QUEUES_PER_CONTROLLER_MAX],
}

impl OwnedController {
    /// A connection of core `from` that was I/O queue `qid` has ended. After a reset the queue may
    /// be another connection's by then, on a core that was faster.
    pub(super) fn detach_queue(&mut self, from: usize, connection: ConnectionKey, qid: u16) {
        let queue = &mut self.queues[usize::from(qid - 1)];
        if queue.is_some_and(|(core, its)| (usize::from(core), its) == (from, connection)) {
            *queue = None;
            self.controller.detach_io_queue(qid);
        }
    }
}

/// The core's connections and controllers.
#[derive(Debug)]
pub(super) struct Connections {
    slots: Vec<Option<Box<Conn>>>,
    free: Vec<u16>,
    next_generation: u32,
    pub(super) to_send: Vec<u16>,
    pub(super) to_receive: VecDeque<u16>,
    pub(super) for_buffer: VecDeque<u16>,
    /// Buffers that had come back when these were last looked at, and how many of them have not
    /// been tried with what was free then.
    pub(super) returns_seen: u64,
    pub(super) to_try: usize,
    pub(super) controllers: Vec<Option<Box<OwnedController>>>,
    /// Slot to be tried first.
    next_controller: usize,
    /// What was done for hosts so far.
    pub(super) counts: HostCounts,
    pub(super) log: LogBudget,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::with_capacity(CONNECTIONS_PER_CORE_MAX),
            next_generation: 0,
            to_send: Vec::with_capacity(CONNECTIONS_PER_CORE_MAX),
            to_receive: VecDeque::with_capacity(CONNECTIONS_PER_CORE_MAX),
            for_buffer: VecDeque::with_capacity(CONNECTIONS_PER_CORE_MAX),
            returns_seen: 0,
            to_try: 0,
            controllers: Vec::new(),
            next_controller: 0,
            counts: HostCounts::default(),
            log: LogBudget::default(),
        }
    }

    /// Gives a new connection its slot; `None`: the core is full.
    pub(super) fn insert(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        now_ms: u64,
    ) -> Option<u16> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < CONNECTIONS_PER_CORE_MAX => {
                self.slots.push(None);
                u16::try_from(self.slots.len() - 1).expect("bounded by the limit")
            }
            None => return None,
        };
        self.counts.accepted += 1;
        self.next_generation = self.next_generation.wrapping_add(1);
        self.slots[usize::from(index)] = Some(Box::new(Conn {
            generation: self.next_generation,
            socket: Socket::new(stream),
            protocol: Connection::new(ConnectionConfig::default()),
            role: Role::Fresh,
            peer,
            local,
            executing: vec![IDLE; IO_QUEUE_DEPTH_MAX].into_boxed_slice(),
            fused_first: None,
            listed_to_send: false,
            listed_to_receive: false,
            listed_for_buffer: false,
            connect_from_ms: now_ms,
            auth: None,
            is_locked: false,
            asks_as: None,
            place: None,
            errors: ErrorsTold::default(),
            transfers_seen: (0, now_ms),
        }));
        Some(index)
    }

    pub(super) fn remove(&mut self, index: u16) -> Box<Conn> {
        let conn = self.slots[usize::from(index)].take().expect("the connection exists");
        if conn.listed_to_send {
            self.to_send.retain(|&one| one != index);
        }
        if conn.listed_to_receive {
            self.to_receive.retain(|&one| one != index);
        }
        if conn.listed_for_buffer {
            self.for_buffer.retain(|&one| one != index);
        }
        self.free.push(index);
        conn
    }

    pub(super) fn get(&mut self, index: u16) -> Option<&mut Conn> {
        self.slots.get_mut(usize::from(index))?.as_deref_mut()
    }

    /// The connection in use `key.generation` of its slot.
    pub(super) fn find(&mut self, key: ConnectionKey) -> Option<&mut Conn> {
        self.get(key.index).filter(|conn| conn.generation == key.generation)
    }

    /// Every slot, used or not.
    pub(super) fn indexes(&self) -> std::ops::Range<u16> {
        0..u16::try_from(self.slots.len()).expect("bounded by the limit")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// The last places are taken: whoever comes now is to be told that there is no room.
    pub(super) fn is_crowded(&self) -> bool {
        let used = self.slots.len() - self.free.len();
        used > CONNECTIONS_PER_CORE_MAX - CONNECTIONS_TO_REFUSE
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.slots.iter().filter_map(Option::as_deref)
    }

    /// A free slot for a controller that has an id, and the id; `None`: the core owns as many as
    /// it can, or has no id left. The one that was free longest, so that a host which still means
    /// an old controller does not meet a new one.
    pub(super) fn free_controller_slot(
        &mut self,
        id_at: impl Fn(usize) -> Option<u16>,
    ) -> Option<(usize, u16)> {
        let (index, cntlid) = (0..CONTROLLERS_PER_CORE_MAX)
            .map(|step| (self.next_controller + step) % CONTROLLERS_PER_CORE_MAX)
            .filter(|&index| self.controllers.get(index).is_none_or(Option::is_none))
            .find_map(|index| Some((index, id_at(index)?)))?;
        self.next_controller = index + 1;
        if self.controllers.len() <= index {
            self.controllers.resize_with(index + 1, || None);
        }
        Some((index, cntlid))
    }

    /// The controller of this id, if it is this core's and still there.
    pub(super) fn find_controller(
        &mut self,
        cntlid: u16,
        cores: usize,
    ) -> Option<&mut OwnedController> {
        let ControllerPlace { index, .. } = ControllerPlace::of(cntlid, cores)?;
        let owned = self.controllers.get_mut(index)?.as_deref_mut()?;
        (owned.controller.cntlid() == cntlid).then_some(owned)
    }

    /// Notes that the connection has something to send this turn.
    pub(super) fn wants_to_send(&mut self, index: u16) {
        let conn = self.slots[usize::from(index)].as_deref_mut().expect("it exists");
        if !conn.listed_to_send {
            conn.listed_to_send = true;
            self.to_send.push(index);
        }
    }
}

impl Shard {
    /// Executes the commands that have arrived on a connection.
    pub(super) fn execute_commands(&mut self, core: &mut ShardCore, index: u16) {
        while let Some(conn) = self.connections.get(index) {
            let Some((id, sqe)) = conn.protocol.next_command() else { break };
            match &conn.role {
                _ if conn.is_locked => self.execute_locked(core, index, id, &sqe),
                Role::Io(_) => self.execute_io(core, index, id, &sqe),
                Role::Admin(_) if is_authentication(&sqe) => {
                    self.execute_authentication(core, index, id, &sqe);
                }
                Role::Admin(slot) => {
                    let slot = *slot;
                    self.execute_admin(core, index, slot, id, &sqe);
                }
                Role::Fresh if is_connect(&sqe) => self.execute_connect(core, index, id, &sqe),
                // Nothing but Connect may come first, and nothing while it is under way.
                Role::Fresh | Role::Connecting(_) => {
                    self.complete(index, id, Status::COMMAND_SEQUENCE_ERROR.dnr(), 0, 0);
                }
            }
        }
        self.connections.wants_to_send(index);
    }

    /// Ends a command.
    pub(super) fn complete(
        &mut self,
        index: u16,
        id: RequestId,
        status: Status,
        result: u64,
        data_len_bytes: u32,
    ) {
        let conn = self.connections.get(index).expect("commands belong to connections");
        conn.protocol.complete(id, Cqe::new(0, status, result), data_len_bytes);
        self.connections.wants_to_send(index);
    }

    /// Ends an I/O command.
    pub(super) fn complete_io(
        &mut self,
        index: u16,
        id: RequestId,
        status: Status,
        result: u64,
        data_len_bytes: u32,
    ) {
        self.connections.counts.io_commands += 1;
        self.complete(index, id, status, result, data_len_bytes);
    }

    fn execute_admin(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        slot: usize,
        id: RequestId,
        sqe: &Sqe,
    ) {
        let Connections { slots, controllers, .. } = &mut self.connections;
        let conn = slots[usize::from(index)].as_deref_mut().expect("the command came from it");
        let owned = controllers[slot].as_deref_mut().expect("it lives as long as its connection");
        let now_ms = core.io.now_ms();
        let up_ms = now_ms.saturating_sub(self.started_ms);
        if conn.protocol.replaces_events(id) {
            owned.controller.forget_async_events();
        }
        let context = AdminContext { table: &self.table, now_ms, up_ms };
        let data = conn.protocol.request_data_mut(id).unwrap_or(&mut []);
        let outcome = owned.controller.admin(&context, sqe, data);
        match outcome {
            AdminOutcome::Complete { status, result, data_len_bytes, effect } => {
                let data_len_bytes = u32::try_from(data_len_bytes).expect("bounded by the buffer");
                self.complete(index, id, status, result, data_len_bytes);
                if effect == Effect::CloseIoQueues {
                    self.close_io_queues(core, slot);
                }
            }
            AdminOutcome::HoldAsyncEvent => {}
            AdminOutcome::Reservation { nsid, bdev, command } => {
                let (uid, host) = (owned.controller.subsystem().uid(), *owned.controller.hostid());
                let namespace = NamespaceKey { uid, nsid };
                self.ask_reservation(core, (index, id), namespace, bdev, host, command);
            }
            AdminOutcome::PersistAll(persist) => {
                let (uid, host) = (owned.controller.subsystem().uid(), *owned.controller.hostid());
                let namespaces = owned.controller.persistable().collect();
                self.persist_all(core, (index, id), uid, namespaces, host, persist);
            }
            AdminOutcome::ControllerList { nsid, from } => {
                self.list_controllers(core, (index, slot, id), nsid, from);
            }
            AdminOutcome::Abort { qid, cid } => self.look_for(core, index, id, qid, cid),
        }
        self.report_events(slot);
    }

    /// Answers held Asynchronous Event Requests for which there is news.
    pub(super) fn report_events(&mut self, slot: usize) {
        while let Some(owned) = self.connections.controllers[slot].as_deref_mut() {
            let Some(event) = owned.controller.next_async_event() else { return };
            let index = owned.connection;
            let conn = self.connections.get(index).expect("a controller has its connection");
            if let Some(id) = conn.protocol.find_cid(event.cid) {
                self.complete(index, id, event.status, event.result, 0);
            }
        }
    }

    /// The hot path: an I/O command becomes requests to its bdev.
    pub(super) fn execute_io(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        sqe: &Sqe,
    ) {
        let conn = self.connections.slots[usize::from(index)].as_deref_mut().expect("it exists");
        let Role::Io(grant) = &conn.role else { unreachable!("the caller has looked") };
        let request = match io::parse(sqe, &grant.subsystem, grant.vwc_advertised) {
            Ok(request) => request,
            Err(_) if is_authentication(sqe) => {
                return self.execute_authentication(core, index, id, sqe);
            }
            Err(_) if sqe.is_fused() => return self.execute_fused(core, index, id, sqe),
            Err(status) => return self.fail(core, index, id, status),
        };
        if self.gates.is_closed(request.bdev) | request.ana.is_blocked() {
            return self.execute_gated(core, index, id, &request);
        }
        if !start(conn, &mut self.queue, index, id, &request) {
            self.execute_other(core, index, id, &request);
        }
    }

    /// A command whose bdev has a closed gate.
    #[cold]
    fn execute_gated(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        request: &IoRequest,
    ) {
        if !self.passes_gate(core, index, id, request) {
            return;
        }
        let conn = self.connections.get(index).expect("it exists");
        if !start(conn, &mut self.queue, index, id, request) {
            self.execute_other(core, index, id, request);
        }
    }

    /// A command that is not one request to its bdev.
    #[cold]
    fn execute_other(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        request: &IoRequest,
    ) {
        match request.command {
            IoCommand::Hint => {
                self.count_other(index);
                self.complete_io(index, id, Status::SUCCESS, 0, 0);
            }
            IoCommand::Deallocate { ranges, fua } => {
                self.deallocate(core, index, id, request, ranges, fua);
            }
            IoCommand::Compare { .. } | IoCommand::Verify { .. } | IoCommand::Copy { .. } => {
                self.start_steps(core, index, id, request);
            }
            IoCommand::Reservation => self.execute_reservation(core, index, id, request),
            IoCommand::Rw { .. } | IoCommand::WriteZeroes { .. } | IoCommand::Flush => {
                unreachable!("the caller has looked")
            }
        }
    }

    /// An I/O command that moves no data, or has failed: a sign of life all the same.
    pub(super) fn count_other(&mut self, index: u16) {
        let conn = self.connections.get(index).expect("the command came from it");
        if let Role::Io(grant) = &conn.role {
            grant.traffic.count_other();
        }
    }

    /// Dataset Management: one request a range.
    fn deallocate(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        request: &IoRequest,
        ranges: u16,
        fua: bool,
    ) {
        self.count_other(index);
        let conn = self.connections.slots[usize::from(index)].as_deref_mut().expect("it exists");
        let data = conn.protocol.request_buf(id).cloned();
        let data = data.as_ref().map_or(&[][..], |buf| buf.as_slice());
        let found = io::deallocate_ranges(data, ranges, request.namespace_blocks);
        let ranges = match found {
            Ok(ranges) => ranges,
            Err(status) => return self.fail(core, index, id, status),
        };
        let mut pending = 0;
        for (lba, blocks) in ranges {
            let tag = Tag { station: Station::Target, part: 0, object: index, op: id.to_u32() };
            let completion = Completion::new(tag);
            let op = IoOp::Unmap;
            self.queue.submit(request.bdev, BdevIo { op, fua, lba, blocks, buf: None, completion });
            pending += 1;
        }
        conn.executing[id.slot()] = Executing { pending, op: IoOp::Unmap, ..IDLE };
        if pending == 0 {
            self.complete_io(index, id, Status::SUCCESS, 0, 0);
        }
    }

    /// A bdev has ended a request of a command.
    pub(super) fn command_done(&mut self, core: &mut ShardCore, tag: Tag, status: IoStatus) {
        let index = tag.object;
        let conn = self.connections.slots[usize::from(index)]
            .as_deref_mut()
            .expect("a connection stays until its commands have ended");
        let id = RequestId::from_u32(tag.op);
        let executing = &mut conn.executing[id.slot()];
        if executing.status.is_ok() {
            executing.status = status;
        }
        executing.pending -= 1;
        if executing.pending > 0 {
            return;
        }
        let done = std::mem::replace(executing, IDLE);
        if done.status as u8 | done.special == 0 {
            self.complete_io(index, id, Status::SUCCESS, 0, done.data_len_bytes);
        } else {
            self.command_done_specially(core, index, id, done);
        }
        self.drop_if_drained(core, index);
    }

    #[cold]
    fn command_done_specially(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        done: Executing,
    ) {
        if done.special & STEPS != 0 {
            return self.step_done(core, index, id, done);
        }
        if done.status.is_ok() {
            self.complete_io(index, id, Status::SUCCESS, 0, done.data_len_bytes);
        } else {
            self.bdev_failed(core, index, id, done.op, done.status);
        }
        if done.special & WATCHED != 0 {
            self.watched_ended(core);
        }
    }

    /// Takes a new table: queues learn of their namespaces, controllers of news.
    pub(super) fn take_table(&mut self, core: &mut ShardCore, table: Arc<SubsystemTable>) {
        self.gates.table_changes(&self.table, &table);
        self.table = table;
        let table = self.table.clone();
        self.generated.table_changed(&table);
        self.reserve.keep(|key| {
            table.find_uid(key.uid).is_some_and(|found| found.namespace(key.nsid).is_some())
        });
        let mut views = Views::default();
        for index in self.connections.indexes() {
            let Some(conn) = self.connections.get(index) else { continue };
            let Role::Io(grant) = &mut conn.role else { continue };
            match self.table.find_uid(grant.subsystem.uid()) {
                Some(subsystem) if subsystem.listens_on(conn.local) => {
                    grant.subsystem = views.of(subsystem, &grant.hostnqn, conn.local);
                }
                Some(_) => self.close_connection(core, index, "its listener was removed"),
                None => self.close_connection(core, index, "its subsystem was deleted"),
            }
        }
        for slot in 0..self.connections.controllers.len() {
            let table = self.table.clone();
            let Some(owned) = self.connections.controllers[slot].as_deref_mut() else { continue };
            match owned.controller.take_table(&table, &mut views) {
                TableChange::Admitted => self.report_events(slot),
                TableChange::Revoked => {
                    let index = owned.connection;
                    self.close_connection(
                        core,
                        index,
                        "its host may no longer use the subsystem, or not at this address",
                    );
                }
            }
        }
    }
}

/// Sends a command to its bdev, if it is one request to it.
#[inline(always)]
fn start(
    conn: &mut Conn,
    queue: &mut IoQueue,
    index: u16,
    id: RequestId,
    request: &IoRequest,
) -> bool {
    let Role::Io(grant) = &conn.role else { unreachable!("it is an I/O command") };
    let mut executing = Executing { pending: 1, ..IDLE };
    let data_len_bytes = request.data_len_bytes;
    let (op, fua, lba, blocks) = match request.command {
        IoCommand::Rw { op, fua, lba, blocks } => {
            if op == IoOp::Read {
                executing.data_len_bytes = data_len_bytes;
                grant.traffic.count_read(u64::from(data_len_bytes));
            } else {
                grant.traffic.count_write(u64::from(data_len_bytes));
            }
            (op, fua, lba, blocks)
        }
        IoCommand::WriteZeroes { op, fua, lba, blocks } => {
            grant.traffic.count_other();
            (op, fua, lba, blocks)
        }
        IoCommand::Flush => {
            grant.traffic.count_other();
            (IoOp::Flush, false, 0, 0)
        }
        _ => return false,
    };
    executing.op = op;
    conn.executing[id.slot()] = executing;
    if data_len_bytes as usize > IO_SIZE_BYTES_MAX {
        start_pieces(conn, queue, (index, id), request, (op, fua, lba));
        return true;
    }
    let has_data = matches!(op, IoOp::Read | IoOp::Write);
    let buf = if has_data { conn.protocol.request_buf(id).cloned() } else { None };
    if op == IoOp::Read
        && let Some(buf) = &buf
        && !conn.protocol.digests().1
    {
        // Nobody looks at it: it may as well be sent from where it lies.
        buf.accept_loan();
    }
    let tag = Tag { station: Station::Target, part: 0, object: index, op: id.to_u32() };
    let completion = Completion::new(tag);
    queue.submit(request.bdev, BdevIo { op, fua, lba, blocks, buf, completion });
    true
}

/// Sends a command that is longer than a request may be to its bdev, piece by piece, all at once.
#[cold]
fn start_pieces(
    conn: &mut Conn,
    queue: &mut IoQueue,
    (index, id): (u16, RequestId),
    request: &IoRequest,
    (op, fua, mut lba): (IoOp, bool, u64),
) {
    let buf = conn.protocol.request_buf(id).expect("a transfer has a buffer").clone();
    let mut pending = 0;
    for at in (0..buf.len()).step_by(IO_SIZE_BYTES_MAX) {
        let piece = buf.slice(at, IO_SIZE_BYTES_MAX.min(buf.len() - at));
        let blocks = u32::try_from(piece.len() >> request.block_shift).expect("a piece is short");
        let tag = Tag { station: Station::Target, part: 0, object: index, op: id.to_u32() };
        let completion = Completion::new(tag);
        let io = BdevIo { op, fua, lba, blocks, buf: Some(piece), completion };
        queue.submit(request.bdev, io);
        lba += u64::from(blocks);
        pending += 1;
    }
    conn.executing[id.slot()].pending = pending;
}

/// Authentication Send and Receive.
pub(super) fn is_authentication(sqe: &Sqe) -> bool {
    sqe.opcode == FABRICS && matches!(sqe.fctype(), fctype::AUTH_SEND | fctype::AUTH_RECEIVE)
}

fn is_connect(sqe: &Sqe) -> bool {
    sqe.opcode == FABRICS && sqe.fctype() == fctype::CONNECT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::controller::{ConnectContext, ConnectRequest};
    use crate::target::subsystem::SubsystemSpec;
    use crate::wire::fabrics::PropertyCommand;

    #[test]
    fn an_old_connection_does_not_take_its_queue_from_a_new_one() {
        let (nqn, local) = ("nqn.2026-01.io.mdof:a", "192.0.2.1:4420".parse().unwrap());
        let mut table = SubsystemTable::new();
        let spec = SubsystemSpec { allow_any_host: true, ..SubsystemSpec::new(nqn) };
        table.create_subsystem(&spec).unwrap();
        table.add_listener(nqn, local).unwrap();
        let subnqn = Nqn::parse(nqn).unwrap();
        let admin = ConnectRequest {
            qid: 0,
            queue_depth: 32,
            flow_control_disabled: false,
            kato_ms: 0,
            cntlid: 0xffff,
            hostid: [7; 16],
            hostnqn: subnqn,
            subnqn,
            is_secured: false,
        };
        let context = ConnectContext { table: &table, cntlid: 1, local_address: local, now_ms: 0 };
        let controller = Controller::connect(&admin, &context).unwrap();
        let queues = [None; IO_QUEUES_PER_CONTROLLER_MAX];
        let mut owned = OwnedController { controller, connection: 0, key: None, queues };
        let context = AdminContext { table: &table, now_ms: 0, up_ms: 0 };
        let key = |generation| ConnectionKey { index: 3, generation };
        let attach = |owned: &mut OwnedController, core, generation| {
            for cc in [0, 0x0046_0061] {
                let _ = owned.controller.admin(
                    &context,
                    &PropertyCommand::set(0x14, cc).to_sqe(),
                    &mut [],
                );
            }
            let request = ConnectRequest { qid: 1, cntlid: 1, ..admin };
            owned.controller.attach_io_queue(&request).unwrap();
            owned.queues[0] = Some((core, key(generation)));
        };
        attach(&mut owned, 1, 8);
        // A reset has ended it on core 1, which has not said so yet.
        attach(&mut owned, 0, 8);
        owned.detach_queue(1, key(8), 1);
        assert_eq!(owned.controller.io_queue_count(), 1, "that is core 0's now");
        owned.detach_queue(0, key(7), 1);
        assert_eq!(owned.controller.io_queue_count(), 1);
        owned.detach_queue(0, key(8), 1);
        assert_eq!((owned.controller.io_queue_count(), owned.queues[0]), (0, None));
    }
}

//! Fabrics Connect across cores, and what ends with a connection.

use super::concat::{KeyNews, is_beside_channel};
use super::message::{ConnectionKey, Message, NewConnection};
use super::queue::{OwnedController, Role};
use super::shard::{Shard, ShardCore};
use crate::limits::{CONNECTIONS_PER_CORE_MAX, IO_QUEUES_PER_CONTROLLER_MAX};
use crate::target::controller::connect::ControllerPlace;
use crate::target::controller::{
    ConnectContext, ConnectRequest, Controller, IoQueueGrant, Refusal,
};
use crate::target::subsystem::Nqn;
use crate::target::tcp::RequestId;
use crate::wire::nvme::{Sqe, Status};

impl Shard {
    /// Serves a connection from now on.
    pub(super) fn open_connection(&mut self, core: &mut ShardCore, new: NewConnection) {
        let NewConnection { stream, peer, local } = new;
        if self.control.closing_connections {
            return;
        }
        match self.connections.insert(stream, peer, local, core.io.now_ms()) {
            Some(index) if self.table.is_secure(local) => self.open_secured(core, index),
            Some(index) => {
                let conn = self.connections.get(index).expect("it has just come");
                conn.socket.is_undecided = self.table.may_concatenate(local);
                self.watch(core, index);
            }
            None => {
                self.connections.counts.refused += 1;
                if self.connections.log.allows() {
                    tracing::warn!(
                        "connection of {peer} closed: core {} serves {CONNECTIONS_PER_CORE_MAX} \
                         already, and can't even tell hosts so any more",
                        core.index(),
                    );
                }
            }
        }
    }

    /// A connection's first command.
    pub(super) fn execute_connect(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        sqe: &Sqe,
    ) {
        let conn = self.connections.get(index).expect("the command came from it");
        let data = conn.protocol.request_buf(id).map_or(&[][..], |buf| buf.as_slice());
        let mut request = match ConnectRequest::parse(sqe, data) {
            Ok(request) => request,
            Err(refusal) => return self.refuse(index, id, refusal, None),
        };
        request.is_secured = conn.socket.tls_by().is_some();
        let host = Some(&request.hostnqn);
        let generation = conn.generation;
        if let Err(refusal) = self.check_channel(index, &request) {
            return self.refuse(index, id, refusal, host);
        }
        if self.connections.is_crowded() {
            self.connections.counts.refused += 1;
            return self.refuse(index, id, Refusal::controller_busy(), host);
        }
        let key = ConnectionKey { index, generation };
        if request.qid == 0 {
            if !self.claim_at_connect(core, key, id, &request) {
                self.connect_admin(core, index, id, &request);
            }
            return;
        }
        // As an admin queue, it may come by the subsystem's own listeners only.
        let conn = self.connections.get(index).expect("the command came from it");
        let found = self.table.find(&request.subnqn);
        if found.is_none_or(|found| !found.listens_on(conn.local)) {
            return self.refuse(index, id, Refusal::unknown_subsystem(), host);
        }
        conn.role = Role::Connecting(id);
        conn.asks_as = Some(Box::new(request.hostnqn));
        match ControllerPlace::of(request.cntlid, core.port.control()) {
            Some(ControllerPlace { core: owner, .. }) => {
                let request = Box::new(request);
                self.send(core, owner, Message::AttachQueue { connection: key, request });
            }
            None => self.queue_attached(core, key, Err(Refusal::unknown_controller())),
        }
    }

    /// Answers a Connect with an error, and tells the operator whose it was and why.
    pub(super) fn refuse(
        &mut self,
        index: u16,
        id: RequestId,
        refusal: Refusal,
        host: Option<&Nqn>,
    ) {
        let conn = self.connections.get(index).expect("the command came from it");
        conn.role = Role::Fresh;
        let peer = conn.peer;
        if self.connections.log.allows() {
            let (status, why) = (refusal.status, refusal.reason());
            let host = host.map_or("a host", Nqn::as_str);
            tracing::warn!("{peer}: Connect of {host} refused: {why} ({status:?})");
        }
        self.complete(index, id, refusal.status, refusal.result.into(), 0);
    }

    pub(super) fn connect_admin(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        request: &ConnectRequest,
    ) {
        let (own, cores) = (core.index(), core.port.control());
        // Without a subsystem it is refused in any case.
        let range = self.table.find(&request.subnqn).map_or(1..=u16::MAX, |one| one.cntlid_range());
        let id_at = |index| ControllerPlace { core: own, cores, index }.cntlid_in(&range);
        let Some((slot, cntlid)) = self.connections.free_controller_slot(id_at) else {
            self.connections.counts.refused += 1;
            return self.refuse(index, id, Refusal::controller_busy(), Some(&request.hostnqn));
        };
        let conn = self.connections.get(index).expect("the command came from it");
        let (peer, local_address) = (conn.peer, conn.local);
        let under = match conn.socket.tls_by() {
            Some(by) => format!(", under TLS by {by}"),
            None => String::new(),
        };
        let context =
            ConnectContext { table: &self.table, cntlid, local_address, now_ms: core.io.now_ms() };
        let controller = Controller::connect(request, &context);
        let made = controller.and_then(|made| Ok((made, self.key_at_connect(index)?)));
        let (controller, key) = match made {
            Ok(made) => made,
            Err(refusal) => return self.refuse(index, id, refusal, Some(&request.hostnqn)),
        };
        let cntlid = controller.cntlid();
        if let Some(key) = &key {
            self.tell_of_key(core, key, KeyNews::Entered);
        }
        if self.connections.log.allows() {
            tracing::info!(
                "{peer}: host {} connected to {} as controller {cntlid}{under}",
                request.hostnqn.as_str(),
                request.subnqn.as_str()
            );
        }
        self.connections.controllers[slot] = Some(Box::new(OwnedController {
            controller,
            connection: index,
            key,
            queues: [None; IO_QUEUES_PER_CONTROLLER_MAX],
        }));
        let depth = request.queue_depth;
        self.accept_queue(index, Role::Admin(slot), depth, request.flow_control_disabled);
        let required = self.require_authentication(core, index);
        self.take_place(index, cntlid, request.hostnqn, request.hostid);
        self.complete(index, id, Status::SUCCESS, u64::from(cntlid) | required, 0);
    }

    fn accept_queue(&mut self, index: u16, role: Role, depth: u32, flow_control_disabled: bool) {
        let counts = &mut self.connections.counts;
        match role {
            Role::Admin(_) => counts.admin_queues += 1,
            _ => counts.io_queues += 1,
        }
        let conn = self.connections.get(index).expect("it is being connected");
        if matches!(role, Role::Admin(_)) {
            conn.protocol.set_admin();
        }
        conn.role = role;
        let depth = u16::try_from(depth).expect("checked against the limits at parse");
        conn.protocol.set_queue_depth(depth);
        conn.protocol.set_flow_control_disabled(flow_control_disabled);
    }

    /// Another core's connection wants to be an I/O queue of a controller of this core.
    pub(super) fn attach_queue(
        &mut self,
        core: &mut ShardCore,
        from: usize,
        connection: ConnectionKey,
        request: Box<ConnectRequest>,
    ) {
        let deferred = self.defer_attach(core, from, connection, request);
        let Some(request) = deferred else { return };
        let owned = self.connections.find_controller(request.cntlid, core.port.control());
        let result = match owned {
            Some(owned) if is_beside_channel(owned, &request) => Err(Refusal::invalid_host()),
            Some(owned) => owned.controller.attach_io_queue(&request).map(|grant| {
                let core = u8::try_from(from).expect("bounded by CORES_MAX");
                owned.queues[usize::from(grant.qid - 1)] = Some((core, connection));
                Box::new(grant)
            }),
            None => Err(Refusal::unknown_controller()),
        };
        self.send(core, from, Message::QueueAttached { connection, result });
    }

    /// The controller's core has answered.
    pub(super) fn queue_attached(
        &mut self,
        core: &mut ShardCore,
        key: ConnectionKey,
        result: Result<Box<IoQueueGrant>, Refusal>,
    ) {
        let connecting = self.connections.find(key).and_then(|conn| match conn.role {
            Role::Connecting(id) if !conn.protocol.is_closing() => Some(id),
            _ => None,
        });
        let host = self.connections.find(key).and_then(|conn| conn.asks_as.take());
        match (connecting, result) {
            (Some(id), Ok(mut grant)) => {
                // The table may be newer here than it was there.
                let local = self.connections.find(key).expect("just found").local;
                let found = self.table.find_uid(grant.subsystem.uid());
                let Some(subsystem) = found.filter(|found| found.listens_on(local)) else {
                    self.report_queue_closed(core, key, &grant);
                    let refusal = Refusal::unknown_subsystem();
                    return self.refuse(key.index, id, refusal, Some(&grant.hostnqn));
                };
                grant.subsystem = subsystem.seen_by(&grant.hostnqn, local);
                let (cntlid, depth) = (grant.cntlid, grant.queue_depth);
                let (hostnqn, hostid) = (grant.hostnqn, grant.hostid);
                let flow_control_disabled = grant.flow_control_disabled;
                self.accept_queue(key.index, Role::Io(grant), depth, flow_control_disabled);
                let required = self.require_authentication(core, key.index);
                self.take_place(key.index, cntlid, hostnqn, hostid);
                let result = u64::from(cntlid) | required;
                self.complete(key.index, id, Status::SUCCESS, result, 0);
            }
            (Some(id), Err(refusal)) => self.refuse(key.index, id, refusal, host.as_deref()),
            // The connection ended while its Connect was under way.
            (None, Ok(grant)) => self.report_queue_closed(core, key, &grant),
            (None, Err(_)) => {}
        }
        if self.connections.find(key).is_some() {
            // Ends the command of a connection that is closing, and then the connection.
            self.finish_connecting(core, key);
        }
    }

    pub(super) fn finish_connecting(&mut self, core: &mut ShardCore, key: ConnectionKey) {
        let conn = self.connections.find(key).expect("just found");
        if let Role::Connecting(id) = conn.role {
            conn.role = Role::Fresh;
            self.complete(key.index, id, Status::ABORTED_SQ_DELETION, 0, 0);
        }
        self.drop_if_drained(core, key.index);
    }

    fn report_queue_closed(
        &mut self,
        core: &mut ShardCore,
        connection: ConnectionKey,
        grant: &IoQueueGrant,
    ) {
        let (cntlid, qid) = (grant.cntlid, grant.qid);
        let owner = ControllerPlace::of(cntlid, core.port.control());
        let owner = owner.expect("it granted the queue").core;
        self.send(core, owner, Message::QueueClosed { cntlid, qid, connection });
    }

    /// An I/O queue of a controller of this core is gone.
    pub(super) fn queue_closed(
        &mut self,
        core: &mut ShardCore,
        (from, connection): (usize, ConnectionKey),
        cntlid: u16,
        qid: u16,
    ) {
        let found = self.connections.find_controller(cntlid, core.port.control());
        if let Some(owned) = found {
            owned.detach_queue(from, connection, qid);
        }
    }

    /// A controller is reset, shut down or gone: its I/O queues end on every core.
    pub(super) fn close_io_queues(&mut self, core: &mut ShardCore, slot: usize) {
        let owned = self.connections.controllers[slot].as_deref();
        let cntlid = owned.expect("it is asked while it lives").controller.cntlid();
        for to in 0..core.port.control() {
            self.send(core, to, Message::CloseQueues { cntlid });
        }
    }

    /// Ends the connections of a controller's I/O queues that this core serves.
    pub(super) fn close_queues_of(&mut self, core: &mut ShardCore, cntlid: u16) {
        for index in self.connections.indexes() {
            let Some(conn) = self.connections.get(index) else { continue };
            if matches!(&conn.role, Role::Io(grant) if grant.cntlid == cntlid) {
                self.close_connection(core, index, "");
            }
        }
    }

    /// Ends a connection: nothing more is read or sent; its slot is freed when its commands have
    /// ended and the kernel has let go of its memory. `why` is for the log, if not empty.
    pub(super) fn close_connection(&mut self, core: &mut ShardCore, index: u16, why: &str) {
        let conn = self.connections.get(index).expect("it exists");
        if !conn.socket.begin_close() {
            return;
        }
        self.unwatch(core, index);
        let conn = self.connections.get(index).expect("it exists");
        let who = if why.is_empty() { String::new() } else { conn.describe() };
        conn.protocol.abort();
        self.end_authentication(index);
        let conn = self.connections.get(index).expect("it exists");
        let key = ConnectionKey { index, generation: conn.generation };
        let role = std::mem::replace(&mut conn.role, Role::Fresh);
        if !why.is_empty() && self.connections.log.allows() {
            tracing::warn!("connection of {who} closed: {why}");
        }
        match role {
            Role::Admin(slot) => {
                if let Some(owned) = self.connections.controllers[slot].as_deref_mut() {
                    owned.controller.abort_async_events();
                }
                self.report_events(slot);
                self.close_io_queues(core, slot);
                let owned = self.connections.controllers[slot].take();
                let owned = owned.expect("it lives as long as its connection");
                let cntlid = owned.controller.cntlid();
                if let Some(key) = owned.key {
                    self.tell_of_key(core, &key, KeyNews::Left);
                }
                self.drop_deferred(core, cntlid);
            }
            Role::Io(grant) => self.report_queue_closed(core, key, &grant),
            role @ Role::Connecting(_) => {
                self.connections.get(index).expect("it exists").role = role;
            }
            Role::Fresh => {}
        }
        self.drop_if_drained(core, index);
    }

    /// Frees the connection's slot, if nothing of it is in use any more.
    pub(super) fn drop_if_drained(&mut self, _core: &mut ShardCore, index: u16) {
        let Some(conn) = self.connections.get(index) else { return };
        if conn.socket.is_drained() && conn.protocol.is_drained() {
            drop(self.connections.remove(index));
        }
    }

    /// Ends everything.
    pub(super) fn close_all_connections(&mut self, core: &mut ShardCore) {
        for index in self.connections.indexes() {
            if self.connections.get(index).is_some() {
                self.close_connection(core, index, "");
            }
        }
    }
}

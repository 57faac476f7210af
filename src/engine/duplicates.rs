//! Hosts that connect where they have a controller already: across all cores, before the new
//! controller may do anything to a namespace.
//!
//! A host claims its place, its listener of a subsystem, at the home core, which settles the claims
//! of one place one after the other. It has every core look for queues at the place, which are
//! there as long as a bdev works on something of theirs. The host is refused because of them, or
//! they are ended, and the home looks again until there are none.
//!
//! A host that must authenticate itself claims when it has done so: before, it could be anybody,
//! and neither keeps a place from its owner nor takes it. Its I/O queues wait for the verdict.

use std::collections::VecDeque;

use super::gate_home::{HOME, Ticket};
use super::message::{ConnectionKey, Message};
use super::queue::Role;
use super::shard::{Shard, ShardCore};
use crate::target::controller::{ConnectRequest, Refusal};
use crate::target::subsystem::{DupHostPolicy, HostPlace, Nqn, Subsystem};
use crate::target::tcp::RequestId;

/// Whose queue a connection is.
#[derive(Debug)]
pub(super) struct QueuePlace {
    place: HostPlace,
    cntlid: u16,
    /// It bars others. Not before its host has proven to be who it says, and was free to come.
    is_taken: bool,
}

/// What a queue's place takes of a connection's memory.
pub(super) const PLACE_BYTES: usize = size_of::<QueuePlace>();

/// A host wants a place.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostClaim {
    /// Its admin queue, on the core that asks.
    connection: ConnectionKey,
    /// Its controller; 0: there is none yet.
    cntlid: u16,
    place: HostPlace,
    policy: DupHostPolicy,
}

/// A claim that is being looked into.
#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    from: usize,
    claim: HostClaim,
    /// Cores that have not answered.
    cores_left: usize,
    was_found: bool,
}

/// A core's part of a claim: what it has ended is not gone yet.
#[derive(Debug)]
struct Seeker {
    ticket: Ticket,
    from: usize,
    claim: HostClaim,
}

/// What a core knows of hosts that connect anew.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    /// Wait state: Connects of this core whose claim is not settled.
    connecting: Vec<(ConnectionKey, Box<ConnectRequest>)>,
    /// Wait state: I/O queues of controllers of this core whose claim is not settled, and the
    /// cores that have them.
    deferred: Vec<(usize, ConnectionKey, Box<ConnectRequest>)>,
    /// Wait state: what bars a host is ending.
    seekers: Vec<Seeker>,
    /// Home: one a place.
    pending: Vec<Pending>,
    /// Home, wait state: claims behind one of the same place.
    waiting: VecDeque<(usize, HostClaim)>,
}

impl Shard {
    /// A host wants a controller, and must claim its place first. `false`: it need not, or will be
    /// refused anyway.
    pub(super) fn claim_at_connect(
        &mut self,
        core: &mut ShardCore,
        connection: ConnectionKey,
        id: RequestId,
        request: &ConnectRequest,
    ) -> bool {
        let policy = self.table.dup_host_policy();
        if policy == DupHostPolicy::Allow {
            return false;
        }
        let is_proven = self.generated_key(connection.index).is_some();
        let conn = self.connections.get(connection.index).expect("the command came from it");
        let (host, local) = (request.hostnqn, conn.local);
        let found = self.table.find(&request.subnqn);
        let need_not_prove = |one: &Subsystem| is_proven || !one.wants_authentication(&host);
        let found = found.filter(|one| one.allows(&host) && need_not_prove(one));
        let Some(place) = found.and_then(|one| one.place_of(host, request.hostid, local)) else {
            return false;
        };
        conn.role = Role::Connecting(id);
        self.duplicates.connecting.push((connection, Box::new(*request)));
        let claim = HostClaim { connection, cntlid: 0, place, policy };
        self.send(core, HOME, Message::HostClaimed(Box::new(claim)));
        true
    }

    /// A host has proven itself on this queue. If it is an admin queue, it may have to claim now.
    pub(super) fn claim_after_authentication(&mut self, core: &mut ShardCore, index: u16) {
        let policy = self.table.dup_host_policy();
        let conn = self.connections.get(index).expect("its authentication goes on");
        let connection = ConnectionKey { index, generation: conn.generation };
        let Role::Admin(_) = conn.role else { return };
        let Some(own) = conn.place.as_deref_mut().filter(|own| !own.is_taken) else { return };
        if policy == DupHostPolicy::Allow {
            own.is_taken = true;
            return;
        }
        let claim = HostClaim { connection, cntlid: own.cntlid, place: own.place, policy };
        self.send(core, HOME, Message::HostClaimed(Box::new(claim)));
    }

    /// A connection has become a queue.
    pub(super) fn take_place(&mut self, index: u16, cntlid: u16, hostnqn: Nqn, hostid: [u8; 16]) {
        let conn = self.connections.get(index).expect("it has just been connected");
        let (local, is_admin) = (conn.local, matches!(conn.role, Role::Admin(_)));
        let uid = match conn.role {
            Role::Io(ref grant) => grant.subsystem.uid(),
            Role::Admin(slot) => {
                let owned = self.connections.controllers[slot].as_deref();
                owned.expect("it lives as long as its connection").controller.subsystem().uid()
            }
            Role::Fresh | Role::Connecting(_) => unreachable!("it is a queue"),
        };
        let found = self.table.find_uid(uid);
        let place = found.and_then(|one| one.place_of(hostnqn, hostid, local));
        let conn = self.connections.get(index).expect("it has just been connected");
        // A queue for I/O has a controller that was free to come.
        let is_taken = !(is_admin && conn.is_locked);
        conn.place = place.map(|place| Box::new(QueuePlace { place, cntlid, is_taken }));
    }

    /// An I/O queue wants to belong to a controller of this core: waits if that may have to go.
    pub(super) fn defer_attach(
        &mut self,
        core: &mut ShardCore,
        from: usize,
        connection: ConnectionKey,
        request: Box<ConnectRequest>,
    ) -> Option<Box<ConnectRequest>> {
        let owned = self.connections.find_controller(request.cntlid, core.port.control());
        let admin = owned.map(|owned| owned.connection);
        let admin = admin.and_then(|index| self.connections.get(index));
        let is_settled = admin.is_none_or(|admin| {
            admin.is_locked || admin.place.as_ref().is_none_or(|place| place.is_taken)
        });
        if is_settled {
            return Some(request);
        }
        self.duplicates.deferred.push((from, connection, request));
        None
    }

    /// A controller is gone: so are those that would have been its queues.
    pub(super) fn drop_deferred(&mut self, core: &mut ShardCore, cntlid: u16) {
        for (from, connection, _) in self.take_deferred(cntlid) {
            let result = Err(Refusal::unknown_controller());
            self.send(core, from, Message::QueueAttached { connection, result });
        }
    }

    fn take_deferred(&mut self, cntlid: u16) -> Vec<(usize, ConnectionKey, Box<ConnectRequest>)> {
        let deferred = &mut self.duplicates.deferred;
        deferred.extract_if(.., |(_, _, request)| request.cntlid == cntlid).collect()
    }

    /// Home: a host wants a place.
    pub(super) fn host_claimed(&mut self, core: &mut ShardCore, from: usize, claim: HostClaim) {
        self.duplicates.waiting.push_back((from, claim));
        self.next_claims(core);
    }

    fn next_claims(&mut self, core: &mut ShardCore) {
        let mut at = 0;
        while let Some(&(from, claim)) = self.duplicates.waiting.get(at) {
            let in_front = self.duplicates.waiting.iter().take(at).map(|(_, before)| before);
            let pending = self.duplicates.pending.iter().map(|one| &one.claim);
            if pending.chain(in_front).any(|one| one.place.overlaps(&claim.place)) {
                at += 1;
                continue;
            }
            self.duplicates.waiting.remove(at);
            let ticket = self.home.ticket();
            let pending = Pending { ticket, from, claim, cores_left: 0, was_found: false };
            self.duplicates.pending.push(pending);
            self.seek(core, self.duplicates.pending.len() - 1);
        }
    }

    fn seek(&mut self, core: &mut ShardCore, index: usize) {
        let cores = core.port.control();
        let pending = &mut self.duplicates.pending[index];
        pending.cores_left = cores;
        pending.was_found = false;
        let (ticket, from, claim) = (pending.ticket, pending.from, pending.claim);
        for to in 0..cores {
            self.send(core, to, Message::HostSought(Box::new((ticket, from, claim))));
        }
    }

    /// The connections of this core that bar a host, those that have ended but not yet gone, too.
    fn barring(&mut self, own_core: usize, from: usize, claim: &HostClaim) -> Vec<u16> {
        let bars = |one: &super::queue::Conn, index: u16| {
            let key = ConnectionKey { index, generation: one.generation };
            let Some(its) = one.place.as_deref().filter(|its| its.is_taken) else { return false };
            let is_own = (own_core, key) == (from, claim.connection)
                || its.cntlid == claim.cntlid && !one.socket.is_closing();
            !is_own && claim.place.is_barred_by(&its.place, claim.policy)
        };
        let indexes = self.connections.indexes();
        indexes
            .filter(|&index| self.connections.get(index).is_some_and(|one| bars(one, index)))
            .collect()
    }

    /// Looks for what bars a host, and ends it if that is the policy.
    pub(super) fn host_sought(
        &mut self,
        core: &mut ShardCore,
        ticket: Ticket,
        from: usize,
        claim: HostClaim,
    ) {
        let barring = self.barring(core.index(), from, &claim);
        let was_found = !barring.is_empty();
        if claim.policy != DupHostPolicy::ReplacePerListener || !was_found {
            return self.send(core, HOME, Message::HostSeen { ticket, was_found });
        }
        for index in barring {
            // The end of one may be that of others.
            if self.connections.get(index).is_some() {
                let why = "its host has connected anew, and dup_host_policy replaces the old one";
                self.close_connection(core, index, why);
            }
        }
        self.duplicates.seekers.push(Seeker { ticket, from, claim });
    }

    /// Tells of what has gone since.
    pub(super) fn answer_seekers(&mut self, core: &mut ShardCore) {
        if self.duplicates.seekers.is_empty() {
            return;
        }
        for seeker in std::mem::take(&mut self.duplicates.seekers) {
            let Seeker { ticket, from, claim } = seeker;
            if self.barring(core.index(), from, &claim).is_empty() {
                self.send(core, HOME, Message::HostSeen { ticket, was_found: true });
            } else {
                self.duplicates.seekers.push(Seeker { ticket, from, claim });
            }
        }
    }

    /// Home: a core has looked.
    pub(super) fn host_seen(&mut self, core: &mut ShardCore, ticket: Ticket, was_found: bool) {
        let found = self.duplicates.pending.iter().position(|one| one.ticket == ticket);
        let index = found.expect("a claim stays until it is settled");
        let pending = &mut self.duplicates.pending[index];
        pending.cores_left -= 1;
        pending.was_found |= was_found;
        if pending.cores_left > 0 {
            return;
        }
        let was_found = pending.was_found;
        if was_found && pending.claim.policy == DupHostPolicy::ReplacePerListener {
            // A queue of the one that was ended may have been on its way.
            return self.seek(core, index);
        }
        let (to, connection) = (pending.from, pending.claim.connection);
        let verdict = Message::HostJudged { ticket, connection, is_free: !was_found };
        self.send(core, to, verdict);
    }

    /// Home: the claimer knows, and others of its place can find it.
    pub(super) fn host_settled(&mut self, core: &mut ShardCore, ticket: Ticket) {
        self.duplicates.pending.retain(|one| one.ticket != ticket);
        self.next_claims(core);
    }

    /// The verdict on a claim of this core.
    pub(super) fn host_judged(
        &mut self,
        core: &mut ShardCore,
        connection: ConnectionKey,
        is_free: bool,
    ) {
        let connecting = &mut self.duplicates.connecting;
        match connecting.iter().position(|(key, _)| *key == connection) {
            Some(at) => {
                let (_, request) = connecting.swap_remove(at);
                self.host_may_connect(core, connection, &request, is_free);
            }
            None => self.host_may_stay(core, connection, is_free),
        }
    }

    fn host_may_connect(
        &mut self,
        core: &mut ShardCore,
        key: ConnectionKey,
        request: &ConnectRequest,
        is_free: bool,
    ) {
        let Some(conn) = self.connections.find(key) else { return };
        let (peer, is_closing) = (conn.peer, conn.protocol.is_closing());
        let Role::Connecting(id) = conn.role else { unreachable!("it waits for the verdict") };
        if is_closing {
            return self.finish_connecting(core, key);
        }
        if is_free {
            conn.role = Role::Fresh;
            self.connect_admin(core, key.index, id, request);
        } else {
            if self.connections.log.allows() {
                let (host, nqn) = (request.hostnqn.as_str(), request.subnqn.as_str());
                tracing::warn!(
                    "{peer}: host {host} is refused for {nqn}: a host of this identifier has a \
                     controller at this listener, or commands of one are not done \
                     (dup_host_policy)"
                );
            }
            self.refuse(key.index, id, Refusal::controller_busy(), Some(&request.hostnqn));
        }
        self.drop_if_drained(core, key.index);
    }

    fn host_may_stay(&mut self, core: &mut ShardCore, key: ConnectionKey, is_free: bool) {
        let Some(conn) = self.connections.find(key) else { return };
        let Some(own) = conn.place.as_deref_mut() else { return };
        let cntlid = own.cntlid;
        if conn.socket.is_closing() {
            return;
        }
        if !is_free {
            let why = "its host has a controller at this listener already (dup_host_policy)";
            return self.close_connection(core, key.index, why);
        }
        own.is_taken = true;
        for (from, connection, request) in self.take_deferred(cntlid) {
            self.attach_queue(core, from, connection, request);
        }
    }
}

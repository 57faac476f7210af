//! Authentication Send and Receive on their way between a connection, its [`Authenticator`] and
//! the worker. Until a queue that must authenticate itself has done so, no other command of it is
//! executed.

use std::sync::Arc;

use super::auth_worker::Computed;
use super::concat::KeyNews;
use super::message::ConnectionKey;
use super::queue::{Role, is_authentication};
use super::shard::{KIND_AUTH, Shard, ShardCore};
use crate::reactor::timer::TimerTag;
use crate::secure::{Group, Hash};
use crate::target::auth::{
    AuthReport, AuthState, AuthTerms, Authenticator, Channel, GeneratedKey, Receive,
};
use crate::target::subsystem::{Nqn, Subsystem};
use crate::target::tcp::RequestId;
use crate::wire::fabrics::auth::{
    AuthCommand, CONNECT_ASCR, CONNECT_ATR, MESSAGE_BYTES_MAX, SecureChannel,
};
use crate::wire::fabrics::fctype;
use crate::wire::nvme::{Sqe, Status};

/// How often a core looks for the worker's results while it waits for some.
const POLL_MS: u64 = 1;

/// A host's room for a message at most: what Linux asks with.
const ROOM_BYTES_MAX: usize = 4096;

const _: () = assert!(MESSAGE_BYTES_MAX <= ROOM_BYTES_MAX);

/// Memory that a connection's authentication takes at most, with the values of a transaction.
pub(super) const AUTH_BYTES_MAX: usize = size_of::<ConnAuth>() + 2 * MESSAGE_BYTES_MAX;

/// A connection's authentication.
#[derive(Debug)]
pub(super) struct ConnAuth {
    authenticator: Authenticator,
    /// An Authentication Receive that waits for the worker.
    waiting: Option<RequestId>,
    /// Lives as long as somebody waits for the worker.
    life: Arc<()>,
    /// The key that the transaction has made, and the cores that do not know it yet.
    made: Option<(Arc<GeneratedKey>, usize)>,
}

impl ConnAuth {
    fn new(authenticator: Authenticator) -> Box<Self> {
        Box::new(Self { authenticator, waiting: None, life: Arc::new(()), made: None })
    }

    /// For the operator: how far it is, and what was agreed on.
    pub(super) fn describe(&self) -> (&'static str, Hash, Group) {
        let state = match self.authenticator.state() {
            AuthState::AwaitNegotiate => "negotiate",
            AuthState::MakeChallenge | AuthState::SendChallenge => "challenge",
            AuthState::AwaitReply | AuthState::CheckReply | AuthState::ShareKey => "reply",
            AuthState::SendSuccess1 => "success1",
            AuthState::AwaitSuccess2 => "success2",
            AuthState::Done | AuthState::Moved => "completed",
            AuthState::SendFailure1 => "failure1",
            AuthState::Failed => "failed",
        };
        let (hash, group) = self.authenticator.agreed();
        (state, hash, group)
    }

    pub(super) fn is_overdue(&self, now_ms: u64) -> bool {
        self.authenticator.is_overdue(now_ms)
    }

    /// The host is to go on under TLS.
    pub(super) fn has_moved(&self) -> bool {
        self.authenticator.state() == AuthState::Moved
    }

    pub(super) fn restart_time(&mut self, now_ms: u64) {
        self.authenticator.restart_time(now_ms);
    }
}

impl Shard {
    /// Who is at the other end of a connected queue, and where it belongs.
    fn party(&mut self, index: u16) -> Option<(Nqn, Arc<Subsystem>)> {
        let role = &self.connections.get(index)?.role;
        let (host, subsystem) = match role {
            Role::Io(grant) => (grant.hostnqn, grant.subsystem.clone()),
            Role::Admin(slot) => {
                let slot = *slot;
                let owned = self.connections.controllers[slot].as_deref()?;
                (*owned.controller.hostnqn(), owned.controller.subsystem().clone())
            }
            Role::Fresh | Role::Connecting(_) => return None,
        };
        Some((host, self.table.find_uid(subsystem.uid())?.clone()))
    }

    /// What an authentication that begins now is about; `None`: the host has no key.
    fn auth_terms(&mut self, index: u16) -> Option<AuthTerms> {
        let (hostnqn, subsystem) = self.party(index)?;
        let keys = subsystem.keys_of(&hostnqn)?.clone();
        let policy = self.table.auth_policy();
        let subnqn = *subsystem.nqn();
        let channel = self.channel_of(index, &keys);
        let has_key = keys.dhchap.is_some();
        has_key.then_some(AuthTerms { hostnqn, subnqn, keys, policy, channel })
    }

    /// A queue was connected: locks it if it must authenticate itself. Returns what the Connect
    /// response says of it.
    pub(super) fn require_authentication(&mut self, core: &mut ShardCore, index: u16) -> u64 {
        let Some(terms) = self.auth_terms(index) else { return 0 };
        // A host that has made its key of an authentication has proven itself.
        if self.generated_key(index).is_some() {
            return 0;
        }
        let wanted = if terms.channel == Channel::Required { CONNECT_ASCR } else { CONNECT_ATR };
        let conn = self.connections.get(index).expect("it has just been connected");
        conn.auth = Some(ConnAuth::new(Authenticator::new(terms, core.io.now_ms())));
        conn.is_locked = true;
        wanted.into()
    }

    /// A command on a locked queue.
    #[cold]
    pub(super) fn execute_locked(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        sqe: &Sqe,
    ) {
        if is_authentication(sqe) {
            self.execute_authentication(core, index, id, sqe);
        } else {
            self.complete(index, id, Status::AUTHENTICATION_REQUIRED.dnr(), 0, 0);
        }
    }

    /// Authentication Send or Receive.
    #[cold]
    pub(super) fn execute_authentication(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        id: RequestId,
        sqe: &Sqe,
    ) {
        let now_ms = core.io.now_ms();
        let conn = self.connections.get(index).expect("the command came from it");
        if let Role::Admin(slot) = conn.role
            && let Some(owned) = self.connections.controllers[slot].as_deref_mut()
        {
            owned.controller.restart_keep_alive(now_ms);
        }
        let command = AuthCommand::from_sqe(sqe);
        let conn = self.connections.get(index).expect("the command came from it");
        let len = conn.protocol.request_buf(id).map_or(0, |buf| buf.as_slice().len());
        let is_whole = usize::try_from(command.length_bytes.get()) == Ok(len);
        if !command.names_nvme() || !is_whole || len == 0 || len > ROOM_BYTES_MAX {
            return self.complete(index, id, Status::INVALID_FIELD.dnr(), 0, 0);
        }
        if command.fctype == fctype::AUTH_SEND {
            self.authentication_send(core, index, id);
        } else {
            self.authentication_receive(core, index, id);
        }
    }

    fn authentication_send(&mut self, core: &mut ShardCore, index: u16, id: RequestId) {
        let now_ms = core.io.now_ms();
        let terms = self.auth_terms(index);
        let conn = self.connections.get(index).expect("the command came from it");
        let key = ConnectionKey { index, generation: conn.generation };
        if conn.auth.is_none() {
            // A host that needs no authentication may still ask for one, if it has a key.
            let Some(terms) = terms.clone() else {
                return self.complete(index, id, Status::COMMAND_SEQUENCE_ERROR.dnr(), 0, 0);
            };
            conn.auth = Some(ConnAuth::new(Authenticator::new(terms, now_ms)));
        }
        let buf = conn.protocol.request_buf(id).cloned();
        let payload = buf.as_ref().map_or(&[][..], |buf| buf.as_slice());
        let auth = conn.auth.as_deref_mut().expect("just made");
        let work = auth.authenticator.send(payload, terms, now_ms);
        if let Some(work) = work {
            let is_armed = self.auth.is_waiting();
            self.auth.ask(key, &auth.life, work);
            if !is_armed {
                self.arm_auth(core);
            }
        }
        self.complete(index, id, Status::SUCCESS, 0, 0);
        self.after_authentication_step(core, index);
    }

    fn authentication_receive(&mut self, core: &mut ShardCore, index: u16, id: RequestId) {
        let conn = self.connections.get(index).expect("the command came from it");
        match conn.auth.as_deref_mut() {
            Some(auth) if auth.waiting.is_none() => {
                auth.waiting = Some(id);
                self.after_authentication_step(core, index);
            }
            _ => self.complete(index, id, Status::COMMAND_SEQUENCE_ERROR.dnr(), 0, 0),
        }
    }

    fn arm_auth(&self, core: &mut ShardCore) {
        let tag = TimerTag { kind: KIND_AUTH, object: 0, op: 0 };
        core.io.timers.arm(core.io.now_ms() + POLL_MS, tag);
    }

    /// Takes what the worker has computed.
    pub(super) fn look_at_auth(&mut self, core: &mut ShardCore) {
        let now_ms = core.io.now_ms();
        while let Some((key, computed)) = self.auth.next() {
            let Some(conn) = self.connections.find(key) else { continue };
            let Some(auth) = conn.auth.as_deref_mut() else { continue };
            match computed {
                Computed::Nothing => continue,
                Computed::Challenge(made) => auth.authenticator.challenge_made(made),
                Computed::SharedSecret(secret) => {
                    auth.authenticator.secret_computed(secret.as_ref(), now_ms);
                }
            }
            self.after_authentication_step(core, key.index);
        }
        if self.auth.is_waiting() {
            self.arm_auth(core);
        }
    }

    /// A core knows the key that this queue's authentication has made.
    pub(super) fn key_known(&mut self, core: &mut ShardCore, maker: ConnectionKey) {
        let now_ms = core.io.now_ms();
        let Some(conn) = self.connections.find(maker) else { return };
        let Some(auth) = conn.auth.as_deref_mut() else { return };
        let Some((_, cores_left)) = &mut auth.made else { return };
        *cores_left = cores_left.saturating_sub(1);
        if *cores_left == 0 {
            auth.authenticator.key_shared(now_ms);
            self.after_authentication_step(core, maker.index);
        }
    }

    /// Tells all cores of a key that an authentication has just made.
    fn share_made_key(&mut self, core: &mut ShardCore, index: u16) {
        let Some((hostnqn, subsystem)) = self.party(index) else { return };
        let conn = self.connections.get(index).expect("its authentication goes on");
        let maker = ConnectionKey { index, generation: conn.generation };
        let Some(auth) = conn.auth.as_deref_mut() else { return };
        let Some(tls) = auth.authenticator.take_key() else { return };
        let keys = auth.authenticator.keys().clone();
        let key = Arc::new(GeneratedKey::new(tls, hostnqn, *subsystem.nqn(), keys));
        auth.made = Some((key.clone(), core.port.control()));
        self.share_key(core, maker, &key);
    }

    /// Something has happened to a connection's authentication: answers the command that waits
    /// for it, unlocks or locks the queue, tells the operator.
    fn after_authentication_step(&mut self, core: &mut ShardCore, index: u16) {
        self.share_made_key(core, index);
        let conn = self.connections.get(index).expect("its authentication goes on");
        let Some(auth) = conn.auth.as_deref_mut() else { return };
        if let Some(id) = auth.waiting {
            let buf = conn.protocol.request_data_mut(id).unwrap_or(&mut []);
            let answer = match auth.authenticator.receive(buf.len()) {
                Receive::Wait => None,
                Receive::Message(message) => {
                    // What is behind it in the buffer is somebody else's.
                    let (head, rest) = buf.split_at_mut(message.len());
                    head.copy_from_slice(&message);
                    rest.fill(0);
                    let len = u32::try_from(buf.len()).expect("bounded by ROOM_BYTES_MAX");
                    Some((Status::SUCCESS, len))
                }
                Receive::OutOfOrder => Some((Status::COMMAND_SEQUENCE_ERROR.dnr(), 0)),
                Receive::TooShort => Some((Status::INVALID_FIELD.dnr(), 0)),
            };
            if let Some((status, len)) = answer {
                auth.waiting = None;
                self.complete(index, id, status, 0, len);
            }
        }
        if let Some(is_unlocked) = self.note_verdict(index) {
            self.settle_made_key(core, index);
            if is_unlocked {
                self.claim_after_authentication(core, index);
            }
        }
    }

    /// An authentication is over. What it has made goes with it if it has failed.
    fn settle_made_key(&mut self, core: &mut ShardCore, index: u16) {
        let conn = self.connections.get(index).expect("its authentication goes on");
        let Some(auth) = conn.auth.as_deref_mut() else { return };
        let has_failed = !auth.authenticator.is_authenticated() && !auth.has_moved();
        if let Some((key, _)) = auth.made.take().filter(|_| has_failed) {
            self.tell_of_key(core, &key, KeyNews::Failed);
        }
    }

    /// Says whether the queue is authenticated, if that has just been decided.
    fn note_verdict(&mut self, index: u16) -> Option<bool> {
        let conn = self.connections.get(index).expect("its authentication goes on");
        let report = conn.auth.as_deref_mut()?.authenticator.take_report()?;
        // A host that has made a key for TLS on a queue in the clear does nothing else there.
        conn.is_locked = !conn.auth.as_deref()?.authenticator.is_authenticated();
        let verdict = Some(!conn.is_locked);
        let who = conn.describe();
        let (host, subsystem) = self.party(index)?;
        let (host, nqn) = (host.as_str(), subsystem.nqn().as_str());
        if !self.connections.log.allows() {
            return verdict;
        }
        match report {
            AuthReport::Passed { hash, group, both, channel } => tracing::info!(
                "{who}: host {host} is authenticated for {nqn} by {} and {}{}{}",
                hash.name(),
                group.name(),
                if both { ", and so are we" } else { "" },
                match channel {
                    SecureChannel::None => "",
                    SecureChannel::New => ", and comes back under TLS",
                    SecureChannel::Replace => ", and has a new key for TLS",
                }
            ),
            AuthReport::Failed(failure) => tracing::warn!(
                "{who}: host {host} is refused for {nqn}, its authentication has failed: {failure}"
            ),
        }
        verdict
    }

    /// The connection ends: nobody waits for its authentication any more.
    pub(super) fn end_authentication(&mut self, index: u16) {
        let conn = self.connections.get(index).expect("it is being closed");
        let Some(auth) = conn.auth.take() else { return };
        if let Some(id) = auth.waiting {
            self.complete(index, id, Status::ABORTED_SQ_DELETION, 0, 0);
        }
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;

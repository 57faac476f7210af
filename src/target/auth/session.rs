//! One queue's authentication: states, messages, verdict.

use std::sync::Arc;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::message::{self, AuthFailure, Choice, ReplyView};
use crate::secure::chap::{Exchange, Responder};
use crate::secure::dh::KeyPair;
use crate::secure::psk::{self, Party, TlsPsk};
use crate::secure::{Group, Hash, Secret, same};
use crate::target::subsystem::{AuthPolicy, HostKeys, Nqn};
use crate::wire::fabrics::auth::{
    Challenge, Explanation, Failure, MessageHead, SecureChannel, Success1, TYPE_COMMON,
    TYPE_DHCHAP, id,
};

/// A host that has not finished its authentication by then loses its connection. The
/// specification's default is two minutes, which is long for who may hold a connection before it
/// has proven anything.
pub const AUTH_TIMEOUT_MS: u64 = 30_000;

/// How long a host that has failed may take to fetch the reason and to close.
const FAREWELL_MS: u64 = 1000;

/// Which secure channel a queue's authentication may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Channel {
    /// None: it is no admin queue, it is under TLS with a configured key, or there is to be none.
    #[default]
    None,
    /// One in place of this queue in the clear, if the host asks for it.
    Allowed,
    /// The same, and the host must ask for it.
    Required,
    /// The queue is under TLS with a generated key, which the host may replace.
    Generated,
}

/// What an authentication is about, as it is when it begins.
#[derive(Debug, Clone)]
pub struct AuthTerms {
    /// The host.
    pub hostnqn: Nqn,
    /// The subsystem.
    pub subnqn: Nqn,
    /// The keys of the host.
    pub keys: Arc<HostKeys>,
    /// What is allowed.
    pub policy: AuthPolicy,
    /// What may be made of it.
    pub channel: Channel,
}

/// Where an authentication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthState {
    /// The host is to begin with AUTH_Negotiate.
    AwaitNegotiate,
    /// Hash and group are chosen; challenge and key pair are being made.
    MakeChallenge,
    /// The challenge is there; the host has not fetched it.
    SendChallenge,
    /// The host has its challenge and owes a reply.
    AwaitReply,
    /// The reply is here; the shared secret is being computed, without which it can't be judged.
    CheckReply,
    /// The reply was right, and a key for TLS was made, under which the host may come as soon as it
    /// knows: it must be known here before.
    ShareKey,
    /// The reply was right, which the host has not been told.
    SendSuccess1,
    /// The host has been given our proof and is to say what it thinks of it.
    AwaitSuccess2,
    /// The queue is authenticated. The host may begin anew at any time.
    Done,
    /// The host has proven itself, and comes back under TLS: nothing else happens on this queue.
    Moved,
    /// It has failed, which the host has not been told.
    SendFailure1,
    /// It has failed, and both sides know: the connection ends.
    Failed,
}

impl AuthState {
    /// Whether an authentication may go from this state to `next`.
    const fn leads_to(self, next: Self) -> bool {
        use AuthState as S;
        match self {
            S::AwaitNegotiate | S::Done => {
                matches!(next, S::MakeChallenge | S::SendFailure1 | S::Failed)
            }
            S::MakeChallenge => matches!(next, S::SendChallenge | S::SendFailure1 | S::Failed),
            S::SendChallenge => matches!(next, S::AwaitReply | S::SendFailure1 | S::Failed),
            S::AwaitReply => {
                matches!(next, S::CheckReply | S::SendSuccess1 | S::SendFailure1 | S::Failed)
            }
            S::CheckReply => {
                matches!(next, S::ShareKey | S::SendSuccess1 | S::SendFailure1 | S::Failed)
            }
            S::ShareKey => matches!(next, S::SendSuccess1 | S::SendFailure1 | S::Failed),
            S::SendSuccess1 => {
                let is_end = matches!(next, S::Done | S::Moved | S::SendFailure1 | S::Failed);
                is_end || matches!(next, S::AwaitSuccess2)
            }
            S::AwaitSuccess2 => {
                matches!(next, S::Done | S::Moved | S::SendFailure1 | S::Failed)
            }
            S::Moved => matches!(next, S::SendFailure1 | S::Failed),
            S::SendFailure1 => matches!(next, S::Failed),
            S::Failed => false,
        }
    }
}

/// What must be computed elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub enum Work {
    /// A challenge, and a key pair unless the group is null; for
    /// [`Authenticator::challenge_made`].
    Challenge {
        /// The challenge is as long as its values.
        hash: Hash,
        /// Group of the key pair.
        group: Group,
    },
    /// A shared secret; for [`Authenticator::secret_computed`].
    SharedSecret {
        /// Group.
        group: Group,
        /// Our private exponent.
        private: Secret,
        /// The host's public value.
        public: Vec<u8>,
    },
}

/// A challenge that was made.
#[derive(Debug)]
pub struct Made {
    /// Random bytes.
    pub challenge: Vec<u8>,
    /// Sequence number, not 0, and not used before.
    pub seqnum: u32,
    /// Key pair; `None` with the null group.
    pub keys: Option<KeyPair>,
}

/// What an Authentication Receive is answered with.
#[derive(Debug, PartialEq, Eq)]
pub enum Receive {
    /// Nothing yet: ask again after [`Authenticator::challenge_made`],
    /// [`Authenticator::secret_computed`] or [`Authenticator::key_shared`].
    Wait,
    /// This message.
    Message(Vec<u8>),
    /// An error: there is nothing to receive.
    OutOfOrder,
    /// An error: the message is longer than what the host has room for.
    TooShort,
}

/// News of an authentication, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthReport {
    /// The host has proven itself, and if `both`, we have, too.
    Passed {
        /// Hash.
        hash: Hash,
        /// Group.
        group: Group,
        /// Two-way authentication.
        both: bool,
        /// The secure channel that was made of it.
        channel: SecureChannel,
    },
    /// It has not.
    Failed(AuthFailure),
}

/// The host's own challenge: it asks for a proof, or with the sequence number 0 for a key only.
#[derive(Debug)]
struct Counter {
    challenge: Vec<u8>,
    seqnum: u32,
}

/// One queue's authentication. See the module's text.
#[derive(Debug)]
pub struct Authenticator {
    state: AuthState,
    /// The queue may be used.
    authenticated: bool,
    terms: AuthTerms,
    t_id: u16,
    agreed: Choice,
    made: Option<Made>,
    /// The host's response, until it can be judged.
    response: Vec<u8>,
    counter: Option<Counter>,
    /// Our response to the host's challenge.
    proof: Option<Secret>,
    /// The key for TLS that was made.
    key: Option<TlsPsk>,
    failure: Option<AuthFailure>,
    report: Option<AuthReport>,
    /// Milliseconds of the reactor's clock at the last state that had a deadline of its own.
    since_ms: u64,
}

impl Counter {
    fn wants_proof(&self) -> bool {
        self.seqnum != 0
    }
}

impl Authenticator {
    /// A queue that must authenticate itself.
    #[must_use]
    pub fn new(terms: AuthTerms, now_ms: u64) -> Self {
        Self {
            state: AuthState::AwaitNegotiate,
            authenticated: false,
            terms,
            t_id: 0,
            agreed: Choice { hash: Hash::Sha256, group: Group::Null, channel: SecureChannel::None },
            made: None,
            response: Vec::new(),
            counter: None,
            proof: None,
            key: None,
            failure: None,
            report: None,
            since_ms: now_ms,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> AuthState {
        self.state
    }

    /// Whether commands other than those of authentication are taken.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// Hash and group of the last authentication that was begun.
    #[must_use]
    pub fn agreed(&self) -> (Hash, Group) {
        (self.agreed.hash, self.agreed.group)
    }

    /// The keys of the host, as they were when the transaction began.
    #[must_use]
    pub fn keys(&self) -> &Arc<HostKeys> {
        &self.terms.keys
    }

    /// The key for TLS that was made, once; [`Authenticator::key_shared`] is to follow.
    pub fn take_key(&mut self) -> Option<TlsPsk> {
        self.key.take()
    }

    /// News, once.
    pub fn take_report(&mut self) -> Option<AuthReport> {
        self.report.take()
    }

    /// Whether the connection is to be ended.
    #[must_use]
    pub fn is_overdue(&self, now_ms: u64) -> bool {
        let limit_ms = match self.state {
            AuthState::Done => return false,
            AuthState::SendFailure1 | AuthState::Failed => FAREWELL_MS,
            _ => AUTH_TIMEOUT_MS,
        };
        now_ms.saturating_sub(self.since_ms) > limit_ms
    }

    /// What the host has to do it need not have done before now: what it sent could not be read.
    pub fn restart_time(&mut self, now_ms: u64) {
        self.since_ms = now_ms;
    }

    /// The one place where the state changes.
    fn set_state(&mut self, next: AuthState) {
        assert!(self.state.leads_to(next), "authentication goes from {:?} to {next:?}", self.state);
        self.state = next;
    }

    fn fail(&mut self, failure: AuthFailure, next: AuthState, now_ms: u64) {
        self.set_state(next);
        self.since_ms = now_ms;
        self.authenticated = false;
        self.forget();
        self.failure = Some(failure);
        self.report = Some(AuthReport::Failed(failure));
    }

    /// Drops what only the transaction needs.
    fn forget(&mut self) {
        self.made = None;
        self.response = Vec::new();
        self.counter = None;
        self.proof = None;
        self.key = None;
    }

    /// An Authentication Send has brought `payload`. `terms` are those of a new transaction;
    /// `None`: the host has no key any more.
    pub fn send(&mut self, payload: &[u8], terms: Option<AuthTerms>, now_ms: u64) -> Option<Work> {
        match self.try_send(payload, terms, now_ms) {
            Ok(work) => work,
            Err(AuthFailure::HostRefuses(text)) => {
                self.fail(AuthFailure::HostRefuses(text), AuthState::Failed, now_ms);
                None
            }
            // It was told before, or is about to be.
            Err(_) if matches!(self.state, AuthState::SendFailure1 | AuthState::Failed) => None,
            Err(failure) => {
                self.fail(failure, AuthState::SendFailure1, now_ms);
                None
            }
        }
    }

    fn try_send(
        &mut self,
        payload: &[u8],
        terms: Option<AuthTerms>,
        now_ms: u64,
    ) -> Result<Option<Work>, AuthFailure> {
        let (head, _) = MessageHead::ref_from_prefix(payload)
            .map_err(|_| AuthFailure::Malformed("authentication"))?;
        let (auth_type, auth_id) = (head.auth_type, head.auth_id);
        let begins = (auth_type, auth_id) == (TYPE_COMMON, id::NEGOTIATE);
        if !begins && head.t_id.get() != self.t_id {
            return Err(AuthFailure::Malformed("authentication (another transaction's)"));
        }
        match (auth_type, auth_id, self.state) {
            (TYPE_COMMON, id::NEGOTIATE, AuthState::AwaitNegotiate | AuthState::Done) => {
                self.t_id = head.t_id.get();
                self.terms = terms.ok_or(AuthFailure::NoKey)?;
                self.begin(payload, now_ms).map(Some)
            }
            (TYPE_DHCHAP, id::REPLY, AuthState::AwaitReply) => self.take_reply(payload, now_ms),
            (TYPE_DHCHAP, id::SUCCESS2, AuthState::AwaitSuccess2) => {
                self.pass();
                Ok(None)
            }
            (TYPE_COMMON, id::FAILURE2, AuthState::AwaitReply | AuthState::AwaitSuccess2) => {
                let code = Failure::ref_from_prefix(payload).ok();
                let known = code.and_then(|(it, _)| Explanation::from_code(it.explanation));
                Err(AuthFailure::HostRefuses(known.map_or("no reason given", Explanation::text)))
            }
            _ => Err(AuthFailure::UnexpectedMessage { auth_type, auth_id }),
        }
    }

    fn begin(&mut self, payload: &[u8], now_ms: u64) -> Result<Work, AuthFailure> {
        let agreed = message::choose(payload, self.terms.policy, self.terms.channel)?;
        self.agreed = agreed;
        self.since_ms = now_ms;
        self.set_state(AuthState::MakeChallenge);
        Ok(Work::Challenge { hash: agreed.hash, group: agreed.group })
    }

    /// The challenge is there.
    pub fn challenge_made(&mut self, made: Made) {
        if self.state != AuthState::MakeChallenge {
            return;
        }
        let Choice { hash, group, .. } = self.agreed;
        assert_eq!(made.challenge.len(), hash.len_bytes(), "the challenge has another length");
        let public = made.keys.as_ref().map_or(0, |keys| keys.public.len());
        assert_eq!(public, group.len_bytes(), "the key pair is of another group");
        assert_ne!(made.seqnum, 0, "sequence number 0 has a meaning of its own");
        self.made = Some(made);
        self.set_state(AuthState::SendChallenge);
    }

    fn take_reply(&mut self, payload: &[u8], now_ms: u64) -> Result<Option<Work>, AuthFailure> {
        let group = self.agreed.group;
        let ReplyView { response, challenge, public } = message::reply(payload, self.agreed)?;
        let made = self.made.as_mut().expect("the host has replied to it");
        if let Some((challenge, seqnum)) = challenge {
            if same(challenge, &made.challenge) {
                return Err(AuthFailure::Reflected);
            }
            let counter = Counter { challenge: challenge.to_vec(), seqnum };
            if counter.wants_proof() && self.terms.keys.dhchap_ctrlr.is_none() {
                return Err(AuthFailure::NoControllerKey);
            }
            self.counter = Some(counter);
        }
        self.response = response.to_vec();
        let Some(KeyPair { private, .. }) = made.keys.take() else {
            self.judge(None, now_ms);
            return Ok(None);
        };
        self.set_state(AuthState::CheckReply);
        Ok(Some(Work::SharedSecret { group, private, public: public.to_vec() }))
    }

    /// The shared secret is there; `None`: the host's value allows none.
    pub fn secret_computed(&mut self, secret: Option<&Secret>, now_ms: u64) {
        if self.state != AuthState::CheckReply {
            return;
        }
        match secret {
            Some(secret) => self.judge(Some(secret), now_ms),
            None => self.fail(AuthFailure::BadPublicValue, AuthState::SendFailure1, now_ms),
        }
    }

    /// Judges the host's response, and makes ours and a key for TLS if they were asked for.
    fn judge(&mut self, shared: Option<&Secret>, now_ms: u64) {
        let Choice { hash, channel, .. } = self.agreed;
        let exchange = Exchange {
            hash,
            t_id: self.t_id,
            sc_c: channel as u8,
            hostnqn: self.terms.hostnqn.as_str(),
            subnqn: self.terms.subnqn.as_str(),
            shared,
        };
        let made = self.made.as_ref().expect("the host has replied to it");
        let key = self.terms.keys.dhchap.as_ref();
        let is_right = key.is_some_and(|known| {
            let (challenge, seqnum) = (&made.challenge, made.seqnum);
            exchange.verify(Responder::Host, &known.key, challenge, seqnum, &self.response)
        });
        if !is_right {
            return self.fail(AuthFailure::WrongResponse, AuthState::SendFailure1, now_ms);
        }
        let asks = self.counter.as_ref().filter(|counter| counter.wants_proof());
        self.proof = asks.map(|counter| {
            let known = self.terms.keys.dhchap_ctrlr.as_ref().expect("looked at with the reply");
            let (challenge, seqnum) = (&counter.challenge, counter.seqnum);
            exchange.response(Responder::Controller, &known.key, challenge, seqnum)
        });
        if channel == SecureChannel::None {
            return self.set_state(AuthState::SendSuccess1);
        }
        let theirs = self.counter.as_ref().expect("a reply without it is malformed");
        let generated = exchange.generated_psk(&made.challenge, &theirs.challenge);
        let generated = generated.expect("the null group was not chosen");
        let of = Party { hostnqn: exchange.hostnqn, subnqn: exchange.subnqn };
        self.key = Some(psk::generated_tls_key(hash, &generated, of));
        self.set_state(AuthState::ShareKey);
    }

    /// The host may come under TLS with the key that was made.
    pub fn key_shared(&mut self, now_ms: u64) {
        if self.state == AuthState::ShareKey {
            self.since_ms = now_ms;
            self.set_state(AuthState::SendSuccess1);
        }
    }

    fn pass(&mut self) {
        let Choice { hash, group, channel } = self.agreed;
        let is_moved = channel == SecureChannel::New;
        self.set_state(if is_moved { AuthState::Moved } else { AuthState::Done });
        self.authenticated = !is_moved;
        let both = self.counter.as_ref().is_some_and(Counter::wants_proof);
        self.forget();
        self.report = Some(AuthReport::Passed { hash, group, both, channel });
    }

    /// An Authentication Receive that has room for `len_max` bytes.
    pub fn receive(&mut self, len_max: usize) -> Receive {
        let message = match self.state {
            AuthState::MakeChallenge | AuthState::CheckReply | AuthState::ShareKey => {
                return Receive::Wait;
            }
            AuthState::SendChallenge => self.challenge_message(),
            AuthState::SendSuccess1 => self.success_message(),
            AuthState::SendFailure1 => {
                let failure = self.failure.expect("it has failed");
                let told = Failure::new(id::FAILURE1, self.t_id, failure.explanation());
                told.as_bytes().to_vec()
            }
            AuthState::AwaitNegotiate
            | AuthState::AwaitReply
            | AuthState::AwaitSuccess2
            | AuthState::Done
            | AuthState::Moved
            | AuthState::Failed => return Receive::OutOfOrder,
        };
        if message.len() > len_max {
            return Receive::TooShort;
        }
        match self.state {
            AuthState::SendChallenge => self.set_state(AuthState::AwaitReply),
            AuthState::SendFailure1 => self.set_state(AuthState::Failed),
            _ if self.proof.is_some() => self.set_state(AuthState::AwaitSuccess2),
            _ => self.pass(),
        }
        Receive::Message(message)
    }

    fn challenge_message(&self) -> Vec<u8> {
        let made = self.made.as_ref().expect("it has just been made");
        let public = made.keys.as_ref().map_or(&[][..], |keys| &keys.public);
        let Choice { hash, group, .. } = self.agreed;
        let mut head = Challenge::new_zeroed();
        head.head = MessageHead::new(TYPE_DHCHAP, id::CHALLENGE, self.t_id);
        head.hl = hash_length(hash);
        head.hash_id = hash as u8;
        head.group_id = group as u8;
        head.dhvlen = U16::new(u16::try_from(public.len()).expect("at most 1024"));
        head.seqnum = U32::new(made.seqnum);
        [head.as_bytes(), &made.challenge, public].concat()
    }

    fn success_message(&self) -> Vec<u8> {
        let proof = self.proof.as_ref().map_or(&[][..], Secret::bytes);
        let mut head = Success1::new_zeroed();
        head.head = MessageHead::new(TYPE_DHCHAP, id::SUCCESS1, self.t_id);
        head.hl = hash_length(self.agreed.hash);
        head.rvalid = u8::from(!proof.is_empty());
        [head.as_bytes(), proof].concat()
    }
}

fn hash_length(hash: Hash) -> u8 {
    u8::try_from(hash.len_bytes()).expect("at most 64")
}

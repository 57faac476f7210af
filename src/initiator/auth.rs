//! In-band authentication of a queue by DH-HMAC-CHAP, the host's side: messages in, messages out
//! (NVMe Base 2.1, section 8.3.4).

use thiserror::Error;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::secure::chap::{Exchange, Responder};
use crate::secure::psk::{self, Party, TlsPsk};
use crate::secure::{ChapKey, Group, GroupSet, Hash, HashSet, Secret, dh, random, same};
use crate::wire::fabrics::auth::{
    Challenge, Explanation, Failure, IDS_MAX, MessageHead, Negotiate, PROTOCOL_DHCHAP, Protocol,
    Reply, SecureChannel, Success1, Success2, TYPE_COMMON, TYPE_DHCHAP, id,
};

/// What a host proves itself with.
#[derive(Debug, Clone)]
pub struct HostAuth {
    /// The host's key.
    pub key: ChapKey,
    /// The subsystem's key: it must prove itself, too.
    pub controller_key: Option<ChapKey>,
    /// Hash functions offered.
    pub hashes: HashSet,
    /// DH groups offered.
    pub groups: GroupSet,
    /// What is made of the authentication.
    pub channel: SecureChannel,
}

impl HostAuth {
    /// One-way authentication with all hash functions and groups.
    #[must_use]
    pub fn new(key: ChapKey) -> Self {
        let (hashes, groups) = (HashSet::ALL, GroupSet::ALL);
        Self { key, controller_key: None, hashes, groups, channel: SecureChannel::None }
    }
}

/// Why a host's authentication failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HostAuthError {
    /// The controller said so.
    #[error("the controller refuses: {}", .0.map_or("no reason given", Explanation::text))]
    Refused(Option<Explanation>),
    /// Not the message that was due.
    #[error("the controller sent message {0:02x}h/{1:02x}h when another was due")]
    UnexpectedMessage(u8, u8),
    /// It can't be read.
    #[error("the controller's {0} is malformed")]
    Malformed(&'static str),
    /// It chose what was not offered.
    #[error("the controller chose a hash or DH group that was not offered")]
    NotOffered,
    /// Its proof is missing or wrong.
    #[error("the controller has not proven itself: its key is another one")]
    WrongResponse,
}

/// Where the host's side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostAuthState {
    /// AUTH_Negotiate is to be sent, or was.
    Negotiate,
    /// The challenge came; the reply is to be sent, or was.
    Reply,
    /// Success1 came with a proof that holds; Success2 is to be sent.
    Confirm,
    /// The queue is authenticated.
    Done,
    /// It is not; AUTH_Failure2 is to be sent if the controller does not know.
    Failed,
}

impl HostAuthState {
    const fn leads_to(self, next: Self) -> bool {
        use HostAuthState as S;
        match self {
            S::Negotiate => matches!(next, S::Reply | S::Failed),
            S::Reply => matches!(next, S::Confirm | S::Done | S::Failed),
            S::Confirm => matches!(next, S::Done),
            S::Done | S::Failed => false,
        }
    }
}

/// One transaction of a host. [`HostAuthenticator::message`] is to be sent, what comes back is for
/// [`HostAuthenticator::received`], until [`HostAuthState::Done`].
#[derive(Debug)]
pub struct HostAuthenticator {
    state: HostAuthState,
    auth: HostAuth,
    hostnqn: String,
    subnqn: String,
    t_id: u16,
    hash: Hash,
    /// The message to be sent.
    message: Vec<u8>,
    /// Our challenge, if the controller must prove itself, or with the number 0 for a key only.
    counter: Option<(Vec<u8>, u32)>,
    shared: Option<Secret>,
    /// The key for TLS that was made.
    generated: Option<TlsPsk>,
}

impl HostAuthenticator {
    /// A transaction called `t_id`.
    #[must_use]
    pub fn new(auth: HostAuth, hostnqn: &str, subnqn: &str, t_id: u16) -> Self {
        let message = negotiate_message(&auth, t_id);
        Self {
            state: HostAuthState::Negotiate,
            auth,
            hostnqn: hostnqn.to_owned(),
            subnqn: subnqn.to_owned(),
            t_id,
            hash: Hash::Sha256,
            message,
            counter: None,
            shared: None,
            generated: None,
        }
    }

    /// The key for TLS that was made, when it is done.
    #[must_use]
    pub fn generated(&self) -> Option<&TlsPsk> {
        self.generated.as_ref().filter(|_| self.state == HostAuthState::Done)
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> HostAuthState {
        self.state
    }

    /// The message to be sent.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    fn set_state(&mut self, next: HostAuthState) {
        assert!(self.state.leads_to(next), "a host goes from {:?} to {next:?}", self.state);
        self.state = next;
    }

    /// The controller's message. Afterwards [`HostAuthState::Confirm`] means that a last message
    /// is to be sent, and then [`HostAuthenticator::confirmed`] called.
    ///
    /// # Errors
    /// If the authentication has failed. Unless the controller said so itself it is to be sent
    /// [`HostAuthenticator::message`].
    pub fn received(&mut self, payload: &[u8]) -> Result<(), HostAuthError> {
        let result = self.take(payload);
        if let Err(error) = result {
            let told = match error {
                HostAuthError::Refused(_) | HostAuthError::WrongResponse => Explanation::Failed,
                HostAuthError::UnexpectedMessage(..) => Explanation::IncorrectMessage,
                HostAuthError::Malformed(_) => Explanation::IncorrectPayload,
                HostAuthError::NotOffered => Explanation::HashNotUsable,
            };
            self.message = Failure::new(id::FAILURE2, self.t_id, told).as_bytes().to_vec();
            self.set_state(HostAuthState::Failed);
        }
        result
    }

    fn take(&mut self, payload: &[u8]) -> Result<(), HostAuthError> {
        let (head, _) = MessageHead::ref_from_prefix(payload)
            .map_err(|_| HostAuthError::Malformed("message"))?;
        let (auth_type, auth_id) = (head.auth_type, head.auth_id);
        if (auth_type, auth_id) == (TYPE_COMMON, id::FAILURE1) {
            let told = Failure::ref_from_prefix(payload).ok();
            let code = told.and_then(|(failure, _)| Explanation::from_code(failure.explanation));
            return Err(HostAuthError::Refused(code));
        }
        if head.t_id.get() != self.t_id {
            return Err(HostAuthError::Malformed("transaction identifier"));
        }
        match (auth_type, auth_id, self.state) {
            (TYPE_DHCHAP, id::CHALLENGE, HostAuthState::Negotiate) => self.take_challenge(payload),
            (TYPE_DHCHAP, id::SUCCESS1, HostAuthState::Reply) => self.take_success(payload),
            _ => Err(HostAuthError::UnexpectedMessage(auth_type, auth_id)),
        }
    }

    fn take_challenge(&mut self, payload: &[u8]) -> Result<(), HostAuthError> {
        const MALFORMED: HostAuthError = HostAuthError::Malformed("challenge");
        let (head, rest) = Challenge::ref_from_prefix(payload).map_err(|_| MALFORMED)?;
        let hash = Hash::from_id(head.hash_id).filter(|&hash| self.auth.hashes.has(hash));
        let group = Group::from_id(head.group_id).filter(|&group| self.auth.groups.has(group));
        let (Some(hash), Some(group)) = (hash, group) else {
            return Err(HostAuthError::NotOffered);
        };
        let lengths = (usize::from(head.hl), usize::from(head.dhvlen.get()));
        if lengths != (hash.len_bytes(), group.len_bytes()) {
            return Err(MALFORMED);
        }
        let (challenge, rest) = rest.split_at_checked(hash.len_bytes()).ok_or(MALFORMED)?;
        let public = rest.get(..group.len_bytes()).ok_or(MALFORMED)?;
        let seqnum = head.seqnum.get();
        let mut own_public = Vec::new();
        if group != Group::Null {
            let keys = dh::generate(group);
            let shared = dh::shared_secret(group, &keys.private, public);
            self.shared = Some(shared.ok_or(MALFORMED)?);
            own_public = keys.public;
        }
        self.hash = hash;
        let must_prove = self.auth.controller_key.is_some();
        let has_challenge = must_prove || self.auth.channel != SecureChannel::None;
        self.counter = has_challenge.then(|| {
            let bytes = random(4);
            let number = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            (random(hash.len_bytes()), if must_prove { number.max(1) } else { 0 })
        });
        self.generated = self.generate(challenge)?;
        let key = &self.auth.key;
        let response = self.exchange().response(Responder::Host, key, challenge, seqnum);
        self.message = self.reply_message(&response, &own_public);
        self.set_state(HostAuthState::Reply);
        Ok(())
    }

    /// The key for TLS, if one is to be made.
    fn generate(&self, challenge: &[u8]) -> Result<Option<TlsPsk>, HostAuthError> {
        if self.auth.channel == SecureChannel::None {
            return Ok(None);
        }
        let (own, _) = self.counter.as_ref().expect("just made");
        let generated = self.exchange().generated_psk(challenge, own);
        let of = Party { hostnqn: &self.hostnqn, subnqn: &self.subnqn };
        let key = generated.filter(|_| self.hash != Hash::Sha512);
        let key = key.map(|key| psk::generated_tls_key(self.hash, &key, of));
        key.map(Some).ok_or(HostAuthError::NotOffered)
    }

    fn exchange(&self) -> Exchange<'_> {
        Exchange {
            hash: self.hash,
            t_id: self.t_id,
            sc_c: self.auth.channel as u8,
            hostnqn: &self.hostnqn,
            subnqn: &self.subnqn,
            shared: self.shared.as_ref(),
        }
    }

    fn reply_message(&self, response: &Secret, public: &[u8]) -> Vec<u8> {
        let mut head = Reply::new_zeroed();
        head.head = MessageHead::new(TYPE_DHCHAP, id::REPLY, self.t_id);
        head.hl = u8::try_from(self.hash.len_bytes()).expect("at most 64");
        head.dhvlen = U16::new(u16::try_from(public.len()).expect("at most 1024"));
        let none = vec![0; self.hash.len_bytes()];
        let mut challenge = &none;
        if let Some((bytes, seqnum)) = &self.counter {
            head.cvalid = 1;
            head.seqnum = U32::new(*seqnum);
            challenge = bytes;
        }
        [head.as_bytes(), response.bytes(), challenge, public].concat()
    }

    fn take_success(&mut self, payload: &[u8]) -> Result<(), HostAuthError> {
        const MALFORMED: HostAuthError = HostAuthError::Malformed("success message");
        let (head, rest) = Success1::ref_from_prefix(payload).map_err(|_| MALFORMED)?;
        let Some((challenge, seqnum)) = self.counter.as_ref().filter(|(_, number)| *number != 0)
        else {
            self.set_state(HostAuthState::Done);
            return Ok(());
        };
        let response = rest.get(..self.hash.len_bytes()).ok_or(MALFORMED)?;
        let key = self.auth.controller_key.as_ref().expect("it was challenged for it");
        let right = self.exchange().response(Responder::Controller, key, challenge, *seqnum);
        if head.rvalid != 1 || !same(right.bytes(), response) {
            return Err(HostAuthError::WrongResponse);
        }
        let mut success = Success2::new_zeroed();
        success.head = MessageHead::new(TYPE_DHCHAP, id::SUCCESS2, self.t_id);
        self.message = success.as_bytes().to_vec();
        self.set_state(HostAuthState::Confirm);
        Ok(())
    }

    /// The last message was sent.
    pub fn confirmed(&mut self) {
        self.set_state(HostAuthState::Done);
    }
}

fn negotiate_message(auth: &HostAuth, t_id: u16) -> Vec<u8> {
    let mut head = Negotiate::new_zeroed();
    head.head = MessageHead::new(TYPE_COMMON, id::NEGOTIATE, t_id);
    head.sc_c = auth.channel as u8;
    head.napd = 1;
    let mut protocol = Protocol::new_zeroed();
    protocol.auth_id = PROTOCOL_DHCHAP;
    protocol.halen = fill(&mut protocol.hashes, auth.hashes.iter().map(|hash| hash as u8));
    protocol.dhlen = fill(&mut protocol.groups, auth.groups.iter().map(|group| group as u8));
    [head.as_bytes(), protocol.as_bytes()].concat()
}

/// Puts identifiers into a list and counts them.
fn fill(list: &mut [u8; IDS_MAX], ids: impl Iterator<Item = u8>) -> u8 {
    list.iter_mut().zip(ids).map(|(place, id)| *place = id).fold(0, |count, ()| count + 1)
}

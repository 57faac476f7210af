//! Both sides in one process, and hosts that do what they should not.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::initiator::auth::{HostAuth, HostAuthError, HostAuthState, HostAuthenticator};
use crate::secure::dh;
use crate::secure::psk::TlsPsk;
use crate::secure::{ChapKey, Group, GroupSet, Hash, HashSet, random};
use crate::target::subsystem::{AuthPolicy, HostKeys, NamedKey, Nqn};
use crate::wire::fabrics::auth::{Explanation, SecureChannel};

mod concat;

const HOST: &str = "nqn.2026-11.org.example:host";
const SUBSYSTEM: &str = "nqn.2026-11.org.example:subsystem";

fn key(byte: u8) -> ChapKey {
    ChapKey::new(Some(Hash::Sha256), vec![byte; 32]).unwrap()
}

fn terms(both: bool) -> AuthTerms {
    let named = |name: &str, key| Some(NamedKey { name: name.to_owned(), key });
    AuthTerms {
        hostnqn: Nqn::parse(HOST).unwrap(),
        subnqn: Nqn::parse(SUBSYSTEM).unwrap(),
        keys: Arc::new(HostKeys {
            dhchap: named("host", key(1)),
            dhchap_ctrlr: if both { named("subsystem", key(2)) } else { None },
            ..HostKeys::default()
        }),
        policy: AuthPolicy::default(),
        channel: Channel::None,
    }
}

fn host_auth(both: bool) -> HostAuth {
    let mut auth = HostAuth::new(key(1));
    auth.controller_key = both.then(|| key(2));
    auth.groups = GroupSet::NONE.with(Group::Null);
    auth
}

/// Does what the worker does.
fn compute(authenticator: &mut Authenticator, work: Work) {
    match work {
        Work::Challenge { hash, group } => {
            let keys = (group != Group::Null).then(|| dh::generate(group));
            let challenge = random(hash.len_bytes());
            authenticator.challenge_made(Made { challenge, seqnum: 7, keys });
        }
        Work::SharedSecret { group, private, public } => {
            let secret = dh::shared_secret(group, &private, &public);
            authenticator.secret_computed(secret.as_ref(), 0);
        }
    }
}

/// Does what the engine does with a key that was made, and returns it.
fn share(own: &mut Authenticator) -> Option<TlsPsk> {
    let key = own.take_key()?;
    assert_eq!((own.state(), own.receive(4096)), (AuthState::ShareKey, Receive::Wait));
    own.key_shared(0);
    Some(key)
}

/// The authentication of both to its end.
fn run(
    own: &mut Authenticator,
    host: &mut HostAuthenticator,
    terms: &AuthTerms,
) -> Result<(), HostAuthError> {
    loop {
        if let Some(work) = own.send(host.message(), Some(terms.clone()), 0) {
            assert_eq!(own.receive(4096), Receive::Wait);
            compute(own, work);
            share(own);
        }
        if host.state() == HostAuthState::Confirm {
            host.confirmed();
            return Ok(());
        }
        let Receive::Message(message) = own.receive(4096) else { panic!("nothing to receive") };
        match host.received(&message) {
            Ok(()) if host.state() == HostAuthState::Done => return Ok(()),
            Ok(()) => {}
            Err(error) => {
                own.send(host.message(), None, 0);
                return Err(error);
            }
        }
    }
}

fn pair(auth: HostAuth, terms: AuthTerms) -> (Authenticator, HostAuthenticator) {
    let host = HostAuthenticator::new(auth, HOST, SUBSYSTEM, 0x1234);
    (Authenticator::new(terms, 0), host)
}

#[test]
fn both_sides_agree_for_every_hash_and_group() {
    for hash in Hash::ALL {
        for group in [Group::Null, Group::Ffdhe2048, Group::Ffdhe3072] {
            for both in [false, true] {
                let mut auth = host_auth(both);
                auth.hashes = HashSet::NONE.with(hash);
                auth.groups = GroupSet::NONE.with(group);
                let (mut own, mut host) = pair(auth, terms(both));
                assert!(!own.is_authenticated());
                assert_eq!(run(&mut own, &mut host, &terms(both)), Ok(()));
                assert!(own.is_authenticated());
                let channel = SecureChannel::None;
                let report = AuthReport::Passed { hash, group, both, channel };
                assert_eq!(own.take_report(), Some(report));
                assert_eq!((own.state(), own.agreed()), (AuthState::Done, (hash, group)));
            }
        }
    }
}

#[test]
fn the_strongest_of_what_both_allow_is_chosen() {
    let mut allowed = terms(false);
    allowed.policy.hashes = HashSet::NONE.with(Hash::Sha256).with(Hash::Sha384);
    allowed.policy.groups = GroupSet::NONE.with(Group::Null).with(Group::Ffdhe2048);
    let (mut own, mut host) = pair(HostAuth::new(key(1)), allowed.clone());
    assert_eq!(run(&mut own, &mut host, &allowed), Ok(()));
    assert_eq!(own.agreed(), (Hash::Sha384, Group::Ffdhe2048));
}

fn refused(auth: HostAuth, terms: AuthTerms, why: AuthFailure, told: Explanation) {
    let (mut own, mut host) = pair(auth, terms.clone());
    assert_eq!(run(&mut own, &mut host, &terms), Err(HostAuthError::Refused(Some(told))));
    assert_eq!(own.take_report(), Some(AuthReport::Failed(why)));
    assert!(!own.is_authenticated());
    assert_eq!(own.state(), AuthState::Failed);
    assert!(own.is_overdue(2000) && !own.is_overdue(500));
    // There is no second attempt.
    assert_eq!(own.send(host.message(), Some(self::terms(false)), 0), None);
    assert_eq!((own.state(), own.receive(4096)), (AuthState::Failed, Receive::OutOfOrder));
}

#[test]
fn hosts_are_refused_with_the_right_reason() {
    let wrong = HostAuth { key: key(9), ..host_auth(false) };
    refused(wrong, terms(false), AuthFailure::WrongResponse, Explanation::Failed);
    let by_group =
        HostAuth { key: key(9), groups: GroupSet::NONE.with(Group::Ffdhe2048), ..host_auth(false) };
    refused(by_group, terms(false), AuthFailure::WrongResponse, Explanation::Failed);
    refused(host_auth(true), terms(false), AuthFailure::NoControllerKey, Explanation::Failed);
    let none = HostAuth { hashes: HashSet::NONE, ..host_auth(false) };
    refused(none, terms(false), AuthFailure::NoHash, Explanation::HashNotUsable);
    let mut strict = terms(false);
    strict.policy.groups = GroupSet::NONE.with(Group::Ffdhe8192);
    refused(host_auth(false), strict, AuthFailure::NoGroup, Explanation::GroupNotUsable);
}

#[test]
fn a_host_that_doubts_our_proof_ends_it() {
    let auth = HostAuth { controller_key: Some(key(3)), ..host_auth(true) };
    let (mut own, mut host) = pair(auth, terms(true));
    assert_eq!(run(&mut own, &mut host, &terms(true)), Err(HostAuthError::WrongResponse));
    let why = AuthFailure::HostRefuses(Explanation::Failed.text());
    assert_eq!(own.take_report(), Some(AuthReport::Failed(why)));
    assert!(!own.is_authenticated());
}

#[test]
fn a_host_that_does_not_ask_gets_no_proof() {
    let (mut own, mut host) = pair(host_auth(false), terms(true));
    assert_eq!(run(&mut own, &mut host, &terms(true)), Ok(()));
}

#[test]
fn authentication_can_be_done_anew_with_other_keys() {
    let (mut own, mut host) = pair(host_auth(false), terms(false));
    assert_eq!(run(&mut own, &mut host, &terms(false)), Ok(()));
    let mut again = HostAuthenticator::new(host_auth(false), HOST, SUBSYSTEM, 2);
    assert_eq!(run(&mut own, &mut again, &terms(false)), Ok(()));
    // Meanwhile the queue can be used.
    let mut third = HostAuthenticator::new(host_auth(false), HOST, SUBSYSTEM, 3);
    let work = own.send(third.message(), Some(terms(false)), 5).unwrap();
    assert!(own.is_authenticated() && own.is_overdue(AUTH_TIMEOUT_MS + 6));
    compute(&mut own, work);
    let Receive::Message(challenge) = own.receive(4096) else { panic!("no challenge") };
    third.received(&challenge).unwrap();
    let mut reply = third.message().to_vec();
    reply[16] ^= 1;
    assert_eq!(own.send(&reply, None, 9), None);
    assert!(!own.is_authenticated());
    assert_eq!(own.take_report(), Some(AuthReport::Failed(AuthFailure::WrongResponse)));
}

#[test]
fn a_host_whose_key_is_gone_does_not_begin() {
    let (mut own, host) = pair(host_auth(false), terms(false));
    assert_eq!(own.send(host.message(), None, 0), None);
    assert_eq!(own.take_report(), Some(AuthReport::Failed(AuthFailure::NoKey)));
}

/// An authentication whose host owes a reply, and the reply.
fn awaiting_reply(both: bool, group: Group) -> (Authenticator, Vec<u8>) {
    let auth = HostAuth { groups: GroupSet::NONE.with(group), ..host_auth(both) };
    let (mut own, mut host) = pair(auth, terms(both));
    let work = own.send(host.message(), Some(terms(both)), 0).unwrap();
    compute(&mut own, work);
    assert_eq!(own.receive(15), Receive::TooShort);
    let Receive::Message(challenge) = own.receive(4096) else { panic!("no challenge") };
    host.received(&challenge).unwrap();
    (own, host.message().to_vec())
}

#[test]
fn replies_that_are_not_as_agreed_are_refused() {
    let malformed = AuthFailure::Malformed("DH-HMAC-CHAP_Reply");
    let other = AuthFailure::Malformed("authentication (another transaction's)");
    let cases: [(usize, u8, AuthFailure); 7] = [
        (4, 0xff, other),
        (6, 32, malformed),
        (10, 4, malformed),
        (8, 2, malformed),
        (0, 0, AuthFailure::UnexpectedMessage { auth_type: 0, auth_id: 2 }),
        (1, 4, AuthFailure::UnexpectedMessage { auth_type: 1, auth_id: 4 }),
        (16, 0, AuthFailure::WrongResponse),
    ];
    for (at, byte, why) in cases {
        let (mut own, mut reply) = awaiting_reply(true, Group::Null);
        reply[at] = if at == 16 { !reply[at] } else { byte };
        assert_eq!(own.send(&reply, None, 0), None);
        assert_eq!(own.take_report(), Some(AuthReport::Failed(why)), "byte {at}");
        assert_eq!(own.state(), AuthState::SendFailure1);
    }
    let (mut own, reply) = awaiting_reply(true, Group::Null);
    own.send(&reply[..reply.len() - 1], None, 0);
    assert_eq!(own.take_report(), Some(AuthReport::Failed(malformed)));
    // A challenge that is for a secure channel only.
    let (mut own, mut reply) = awaiting_reply(true, Group::Null);
    reply[12..16].fill(0);
    own.send(&reply, None, 0);
    assert_eq!(own.take_report(), Some(AuthReport::Failed(AuthFailure::ConcatRefused)));
}

#[test]
fn values_and_challenges_that_an_enemy_would_send_are_refused() {
    let (mut own, mut reply) = awaiting_reply(false, Group::Ffdhe2048);
    let at = reply.len() - 256;
    reply[at..].fill(0);
    let work = own.send(&reply, None, 0).unwrap();
    assert_eq!(own.state(), AuthState::CheckReply);
    compute(&mut own, work);
    assert_eq!(own.take_report(), Some(AuthReport::Failed(AuthFailure::BadPublicValue)));

    let (mut own, host) = pair(host_auth(true), terms(true));
    own.send(host.message(), Some(terms(true)), 0).unwrap();
    own.challenge_made(Made { challenge: vec![5; 64], seqnum: 1, keys: None });
    assert!(matches!(own.receive(4096), Receive::Message(_)));
    let mut reply = vec![1, 2, 0, 0, 0x34, 0x12, 64, 0, 1, 0, 0, 0, 1, 0, 0, 0];
    reply.extend([0; 64]);
    reply.extend([5; 64]);
    own.send(&reply, None, 0);
    assert_eq!(own.take_report(), Some(AuthReport::Failed(AuthFailure::Reflected)));
}

#[test]
fn results_that_nobody_waits_for_change_nothing() {
    let (mut own, _) = pair(host_auth(false), terms(false));
    own.challenge_made(Made { challenge: vec![0; 32], seqnum: 1, keys: None });
    own.secret_computed(None, 0);
    assert_eq!(own.state(), AuthState::AwaitNegotiate);
    assert_eq!(own.receive(4096), Receive::OutOfOrder);
    assert!(own.is_overdue(AUTH_TIMEOUT_MS + 1) && !own.is_overdue(AUTH_TIMEOUT_MS));
}

#[test]
fn the_time_that_the_target_took_is_not_the_hosts() {
    let (mut own, _) = pair(host_auth(false), terms(false));
    own.restart_time(AUTH_TIMEOUT_MS);
    assert!(!own.is_overdue(2 * AUTH_TIMEOUT_MS) && own.is_overdue(2 * AUTH_TIMEOUT_MS + 1));
}

proptest! {
    /// Whatever a host sends and whenever it receives: no panic, and no way in without the key.
    #[test]
    fn no_way_in_without_the_key(
        steps in prop::collection::vec(
            (0u8..6, prop::collection::vec(any::<u8>(), 0..200), any::<u8>(), any::<u8>()), 1..12),
    ) {
        let auth = HostAuth { key: key(9), ..host_auth(true) };
        let (mut own, mut host) = pair(auth, terms(true));
        for (step, bytes, at, value) in steps {
            let mut message = host.message().to_vec();
            match step {
                0 => message = bytes,
                1 => {
                    let at = usize::from(at) % message.len();
                    message[at] = value;
                }
                2 => message.truncate(usize::from(at)),
                _ => {}
            }
            if step < 4 {
                if let Some(work) = own.send(&message, Some(terms(true)), 0) {
                    compute(&mut own, work);
                }
            } else if let Receive::Message(message) = own.receive(4096)
                && host.state() != HostAuthState::Failed
                && host.state() != HostAuthState::Done
            {
                let _ = host.received(&message);
            }
            prop_assert!(!own.is_authenticated());
        }
    }
}

//! Authentications of which a secure channel is made, and the keys that come of it.

use super::*;
use crate::secure::psk;
use crate::target::subsystem::{Concat, SubsystemSpec, SubsystemTable};

fn on(channel: Channel, both: bool) -> AuthTerms {
    AuthTerms { channel, ..terms(both) }
}

fn wants(channel: SecureChannel, both: bool) -> HostAuth {
    let groups = GroupSet::NONE.with(Group::Null).with(Group::Ffdhe2048);
    HostAuth { channel, groups, ..host_auth(both) }
}

/// The authentication to the end, and the key that the target has made.
fn run_to_key(auth: HostAuth, terms: AuthTerms) -> (Authenticator, HostAuthenticator, TlsPsk) {
    let (mut own, mut host) = pair(auth, terms.clone());
    let work = own.send(host.message(), Some(terms), 0).unwrap();
    compute(&mut own, work);
    let Receive::Message(challenge) = own.receive(4096) else { panic!("no challenge") };
    host.received(&challenge).unwrap();
    let work = own.send(host.message(), None, 0).unwrap();
    compute(&mut own, work);
    let key = share(&mut own).expect("a key was made");
    let Receive::Message(success) = own.receive(4096) else { panic!("no success") };
    host.received(&success).unwrap();
    if host.state() == HostAuthState::Confirm {
        own.send(host.message(), None, 0);
        host.confirmed();
    }
    (own, host, key)
}

#[test]
fn both_sides_make_the_same_key() {
    for hash in [Hash::Sha256, Hash::Sha384] {
        for (channel, kind) in
            [(Channel::Allowed, SecureChannel::New), (Channel::Required, SecureChannel::New)]
                .into_iter()
                .chain([(Channel::Generated, SecureChannel::Replace)])
        {
            for both in [false, true] {
                let hashes = HashSet::NONE.with(hash);
                let auth = HostAuth { hashes, ..wants(kind, both) };
                let (mut own, host, key) = run_to_key(auth, on(channel, both));
                assert_eq!(host.generated(), Some(&key));
                assert_eq!(key.hash, hash);
                let party = psk::party(&key.identity).unwrap();
                assert_eq!((party.hostnqn, party.subnqn), (HOST, SUBSYSTEM));
                assert!(psk::is_generated(&key.identity));
                let group = Group::Ffdhe2048;
                let report = AuthReport::Passed { hash, group, both, channel: kind };
                assert_eq!(own.take_report(), Some(report));
                // The queue in the clear is of no use any more.
                let is_moved = kind == SecureChannel::New;
                assert_eq!(own.is_authenticated(), !is_moved);
                assert_eq!(own.state() == AuthState::Moved, is_moved);
                assert_eq!(own.is_overdue(AUTH_TIMEOUT_MS + 1), is_moved);
            }
        }
    }
}

#[test]
fn each_key_is_another_and_made_with_sha_256_if_it_may_be() {
    let make = || run_to_key(wants(SecureChannel::New, false), on(Channel::Allowed, false)).2;
    let (one, other) = (make(), make());
    assert!(one.identity != other.identity && one.key != other.key);
    assert_eq!(one.hash, Hash::Sha256);
    let mut strict = on(Channel::Allowed, false);
    strict.policy.hashes = HashSet::NONE.with(Hash::Sha384).with(Hash::Sha512);
    let (_, _, key) = run_to_key(wants(SecureChannel::New, false), strict);
    assert_eq!(key.hash, Hash::Sha384);
}

#[test]
fn channels_that_are_not_to_be_had_are_a_mismatch() {
    let told = Explanation::ConcatMismatch;
    let channels = [Channel::None, Channel::Allowed, Channel::Required, Channel::Generated];
    for channel in channels {
        for wanted in [SecureChannel::None, SecureChannel::New, SecureChannel::Replace] {
            let why = match (channel, wanted) {
                (Channel::Required, SecureChannel::None) => AuthFailure::ConcatRequired,
                (_, SecureChannel::None)
                | (Channel::Allowed | Channel::Required, SecureChannel::New)
                | (Channel::Generated, SecureChannel::Replace) => continue,
                _ => AuthFailure::ConcatRefused,
            };
            refused(wants(wanted, false), on(channel, false), why, told);
        }
    }
    // Codes that are obsolete or reserved.
    for code in [1, 4, 0xff] {
        let terms = on(Channel::Allowed, false);
        let (mut own, host) = pair(wants(SecureChannel::New, false), terms.clone());
        let mut message = host.message().to_vec();
        message[6] = code;
        assert_eq!(own.send(&message, Some(terms), 0), None);
        assert_eq!(own.take_report(), Some(AuthReport::Failed(AuthFailure::ConcatRefused)));
    }
}

#[test]
fn a_key_needs_diffie_hellman_and_a_hash_that_tls_has() {
    let null = GroupSet::NONE.with(Group::Null);
    let told = Explanation::ConcatMismatch;
    let why = AuthFailure::ConcatWithoutGroup;
    let by_host = HostAuth { groups: null, ..wants(SecureChannel::New, false) };
    refused(by_host, on(Channel::Allowed, false), why, told);
    let mut strict = on(Channel::Allowed, false);
    strict.policy.groups = null;
    refused(wants(SecureChannel::New, false), strict, why, told);
    let hashes = HashSet::NONE.with(Hash::Sha512);
    let auth = HostAuth { hashes, ..wants(SecureChannel::New, false) };
    let (why, told) = (AuthFailure::NoHash, Explanation::HashNotUsable);
    refused(auth, on(Channel::Allowed, false), why, told);
}

/// An authentication that makes a key, and the host's reply.
fn awaiting_reply(both: bool) -> (Authenticator, Vec<u8>) {
    let terms = on(Channel::Allowed, both);
    let (mut own, mut host) = pair(wants(SecureChannel::New, both), terms.clone());
    let work = own.send(host.message(), Some(terms), 0).unwrap();
    compute(&mut own, work);
    let Receive::Message(challenge) = own.receive(4096) else { panic!("no challenge") };
    host.received(&challenge).unwrap();
    (own, host.message().to_vec())
}

#[test]
fn a_reply_without_the_hosts_challenge_makes_no_key() {
    let (mut own, mut reply) = awaiting_reply(false);
    reply[8] = 0;
    assert_eq!(own.send(&reply, None, 0), None);
    let why = AuthFailure::Malformed("DH-HMAC-CHAP_Reply");
    assert_eq!(own.take_report(), Some(AuthReport::Failed(why)));
    assert_eq!(own.take_key(), None);
}

/// Somebody in between has the host's wish for a channel taken away, or made one of it.
#[test]
fn what_was_asked_for_is_part_of_the_response() {
    let swap = |wanted, sc_c: u8| {
        let terms = on(Channel::Allowed, false);
        let hashes = HashSet::NONE.with(Hash::Sha256);
        let auth = HostAuth { hashes, ..wants(wanted, false) };
        let (mut own, mut host) = pair(auth, terms.clone());
        let mut negotiate = host.message().to_vec();
        negotiate[6] = sc_c;
        let work = own.send(&negotiate, Some(terms), 0).unwrap();
        compute(&mut own, work);
        let Receive::Message(challenge) = own.receive(4096) else { panic!("no challenge") };
        host.received(&challenge).unwrap();
        let mut reply = host.message().to_vec();
        // A challenge that fits the wish.
        reply[8] = u8::from(sc_c != 0);
        if let Some(work) = own.send(&reply, None, 0) {
            compute(&mut own, work);
        }
        assert_eq!(own.take_key(), None);
        own.take_report()
    };
    let wrong = Some(AuthReport::Failed(AuthFailure::WrongResponse));
    assert_eq!(swap(SecureChannel::New, 0), wrong);
    assert_eq!(swap(SecureChannel::None, 2), wrong);
}

#[test]
fn a_wrong_response_and_a_host_that_doubts_us_leave_nothing() {
    let (mut own, mut reply) = awaiting_reply(false);
    reply[16] ^= 1;
    let work = own.send(&reply, None, 0).unwrap();
    compute(&mut own, work);
    assert_eq!(own.take_key(), None);
    assert_eq!(own.take_report(), Some(AuthReport::Failed(AuthFailure::WrongResponse)));

    let auth = HostAuth { controller_key: Some(key(3)), ..wants(SecureChannel::New, true) };
    let terms = on(Channel::Allowed, true);
    let (mut own, mut host) = pair(auth, terms.clone());
    assert_eq!(run(&mut own, &mut host, &terms), Err(HostAuthError::WrongResponse));
    assert!(!own.is_authenticated() && own.state() == AuthState::Failed);
    assert_eq!((own.take_key(), host.generated()), (None, None));
}

#[test]
fn a_host_that_does_not_wait_for_its_key_to_be_known_fails() {
    let (mut own, reply) = awaiting_reply(false);
    let work = own.send(&reply, None, 0).unwrap();
    compute(&mut own, work);
    assert_eq!(own.state(), AuthState::ShareKey);
    own.send(&reply, None, 0);
    assert!(matches!(own.take_report(), Some(AuthReport::Failed(_))));
    own.key_shared(0);
    assert_eq!(own.state(), AuthState::SendFailure1);
    assert_eq!(own.take_key(), None);
}

#[test]
fn nothing_more_happens_on_a_queue_that_was_left() {
    let (mut own, host, _) =
        run_to_key(wants(SecureChannel::New, false), on(Channel::Allowed, false));
    assert_eq!(own.receive(4096), Receive::OutOfOrder);
    let _ = own.take_report();
    let again = HostAuthenticator::new(wants(SecureChannel::New, false), HOST, SUBSYSTEM, 9);
    assert_eq!(own.send(again.message(), Some(on(Channel::Allowed, false)), 0), None);
    assert!(matches!(own.take_report(), Some(AuthReport::Failed(_))));
    drop(host);
}

/// A table with the subsystem and the host, and these keys.
fn table(keys: &HostKeys) -> SubsystemTable {
    let mut table = SubsystemTable::new();
    table.create_subsystem(&SubsystemSpec::new(SUBSYSTEM)).unwrap();
    table.add_host(SUBSYSTEM, HOST).unwrap();
    table.set_keys(SUBSYSTEM, HOST, keys.clone()).unwrap();
    table
}

fn made() -> Arc<GeneratedKey> {
    let (own, _, tls) = run_to_key(wants(SecureChannel::New, false), on(Channel::Allowed, false));
    let terms = terms(false);
    Arc::new(GeneratedKey::new(tls, terms.hostnqn, terms.subnqn, own.keys().clone()))
}

/// Whether handshakes find it, and whoever looks after a handshake.
fn knows(keys: &GeneratedKeys, key: &Arc<GeneratedKey>) -> bool {
    let identity = key.identity();
    let is_offered = keys.finder().find_psk(identity).is_some();
    assert_eq!(keys.find(identity).is_some(), is_offered);
    is_offered
}

#[test]
fn a_key_lives_as_long_as_its_controller() {
    let mut keys = GeneratedKeys::default();
    let key = made();
    assert!(!knows(&keys, &key));
    keys.add(key.clone(), None, 1000);
    keys.expire(1000 + UNUSED_KEY_MS);
    assert!(knows(&keys, &key));
    keys.expire(1001 + UNUSED_KEY_MS);
    assert!(!knows(&keys, &key));

    keys.add(key.clone(), None, 0);
    // Two controllers, as of a host that tries again.
    keys.enter(key.clone());
    keys.enter(key.clone());
    keys.expire(u64::MAX);
    keys.leave(&key);
    assert!(knows(&keys, &key));
    keys.leave(&key);
    assert!(!knows(&keys, &key));
    // A controller began with it while it was dropped here.
    keys.enter(key.clone());
    assert!(knows(&keys, &key));
    keys.drop_key(&key);
    keys.leave(&key);
    assert!(!knows(&keys, &key));
}

#[test]
fn a_replaced_key_opens_nothing() {
    let mut keys = GeneratedKeys::default();
    let (old, new) = (made(), made());
    keys.add(old.clone(), None, 0);
    keys.enter(old.clone());
    let handshake = keys.finder();
    keys.add(new.clone(), Some(&old), 0);
    assert!(!knows(&keys, &old) && knows(&keys, &new));
    // It is a controller's.
    keys.expire(u64::MAX);
    assert!(knows(&keys, &new));
    // A handshake that had begun may end; what comes by it is looked at again.
    assert!(handshake.find_psk(old.identity()).is_some());
    keys.leave(&new);
    assert!(!knows(&keys, &new));
}

#[test]
fn keys_that_wait_are_bounded_and_those_in_use_stay() {
    let mut keys = GeneratedKeys::default();
    let used = made();
    keys.add(used.clone(), None, 0);
    keys.enter(used.clone());
    let all: Vec<_> = (0..10).map(|_| made()).collect();
    for key in &all {
        keys.add(key.clone(), None, 0);
    }
    let known: Vec<_> = all.iter().map(|key| knows(&keys, key)).collect();
    assert_eq!(known, [[false; 2].as_slice(), &[true; 8]].concat());
    assert!(knows(&keys, &used));
}

#[test]
fn a_key_holds_no_longer_than_what_it_was_made_of() {
    let key = made();
    let with = |table: &SubsystemTable| {
        let mut keys = GeneratedKeys::default();
        keys.add(key.clone(), None, 0);
        keys.enter(key.clone());
        keys.table_changed(table);
        knows(&keys, &key)
    };
    let good = HostKeys::clone(&terms(false).keys);
    assert!(with(&table(&good)));
    assert!(with(&table(&HostKeys { concat: Concat::Require, ..good.clone() })));
    assert!(!with(&table(&HostKeys { concat: Concat::Refuse, ..good.clone() })));
    assert!(!with(&table(&HostKeys::default())));
    let other = NamedKey { name: "host".to_owned(), key: super::key(9) };
    assert!(!with(&table(&HostKeys { dhchap: Some(other), ..good.clone() })));
    let mut gone = table(&good);
    gone.remove_host(SUBSYSTEM, HOST).unwrap();
    assert!(!with(&gone));
    assert!(!with(&SubsystemTable::new()));
}

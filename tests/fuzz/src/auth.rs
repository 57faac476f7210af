//! Authentication: a host without the key, and a controller without its own, send and receive what
//! the input says; and both with their keys, whose messages are changed on their way, with the null
//! group and with one whose values are computed with.

use std::sync::Arc;

use mdof::initiator::auth::{HostAuth, HostAuthState, HostAuthenticator};
use mdof::secure::{ChapKey, Group, GroupSet, Hash, dh};
use mdof::target::auth::{AuthState, AuthTerms, Authenticator, Channel, Made, Receive, Work};
use mdof::target::subsystem::{AuthPolicy, HostKeys, NamedKey, Nqn};
use mdof::wire::fabrics::auth::SecureChannel;

use super::Input;

const HOST: &str = "nqn.2026-11.org.example:host";
const SUBSYSTEM: &str = "nqn.2026-11.org.example:subsystem";

fn key(byte: u8) -> ChapKey {
    ChapKey::new(Some(Hash::Sha256), vec![byte; 32]).expect("a good length")
}

fn terms() -> AuthTerms {
    let named = |byte| Some(NamedKey { name: String::new(), key: key(byte) });
    // Without exponentiations, which would take all the time there is.
    let policy = AuthPolicy { groups: GroupSet::NONE.with(Group::Null), ..AuthPolicy::default() };
    AuthTerms {
        hostnqn: Nqn::parse(HOST).expect("a name"),
        subnqn: Nqn::parse(SUBSYSTEM).expect("a name"),
        keys: Arc::new(HostKeys {
            dhchap: named(1),
            dhchap_ctrlr: named(2),
            ..HostKeys::default()
        }),
        policy,
        channel: Channel::Allowed,
    }
}

/// A message as it is, or with bytes changed, cut off or replaced.
fn bend(message: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut message = message.to_vec();
    match input.u8() % 8 {
        0 => {
            let len = usize::from(input.u8());
            message = input.take(len).to_vec();
        }
        1 => message.truncate(usize::from(input.u8())),
        2 | 3 if !message.is_empty() => {
            let at = usize::from(input.u16()) % message.len();
            message[at] = input.u8();
        }
        4 => {
            let len = usize::from(input.u8());
            message.extend_from_slice(input.take(len));
        }
        _ => {}
    }
    message
}

/// Exponentiations of a run at most: they take most of the time there is.
const EXPONENTIATIONS_MAX: u32 = 6;

/// Both have their keys and messages are changed on their way: how far both sides came, and whether
/// all messages arrived as they were sent.
pub fn play_with_keys(input: &mut Input<'_>) -> (AuthState, HostAuthState, bool) {
    let how = input.u8();
    let group = if how & 1 == 0 { Group::Null } else { Group::Ffdhe2048 };
    let policy = AuthPolicy { groups: GroupSet::NONE.with(group), ..AuthPolicy::default() };
    let wanted = if how & 5 == 5 { SecureChannel::New } else { SecureChannel::None };
    let channel = if wanted == SecureChannel::New && how & 8 != 0 {
        Channel::Required
    } else {
        Channel::Allowed
    };
    let own_terms = || AuthTerms { policy, channel, ..terms() };
    let mut auth = HostAuth::new(key(1));
    auth.channel = wanted;
    auth.controller_key = (how & 2 != 0).then(|| key(2));
    auth.groups = policy.groups;
    let mut host = HostAuthenticator::new(auth, HOST, SUBSYSTEM, 7);
    let mut own = Authenticator::new(own_terms(), 0);
    let (mut is_whole, mut exponentiations, mut made) = (true, 0, None);
    for _ in 0..12 {
        let sent = host.message().to_vec();
        let message = bend(&sent, input);
        is_whole &= message == sent;
        let work = own.send(&message, Some(own_terms()), 0);
        exponentiations += u32::from(work.is_some());
        compute(&mut own, work);
        made = own.take_key().or(made);
        own.key_shared(0);
        if host.state() == HostAuthState::Confirm {
            host.confirmed();
        }
        if matches!(own.state(), AuthState::Done | AuthState::Moved) {
            break;
        }
        let state = own.state();
        let Receive::Message(told) = own.receive(4096) else { break };
        assert!(
            state != AuthState::SendSuccess1 || message == sent || differs_in_vain(&message, &sent)
        );
        let message = bend(&told, input);
        is_whole &= message == told;
        tell(&mut host, &message);
        let has_ended = matches!(own.state(), AuthState::Done | AuthState::Moved);
        let is_over = has_ended && host.state() == HostAuthState::Done;
        if is_over || exponentiations > EXPONENTIATIONS_MAX {
            break;
        }
    }
    let has_moved = own.state() == AuthState::Moved;
    assert!(!is_whole || own.is_authenticated() || has_moved, "right keys and nothing changed");
    assert!(!has_moved || made.is_some(), "a key is what it moves with");
    assert!(!is_whole || host.generated() == made.as_ref(), "both make the same");
    (own.state(), host.state(), is_whole)
}

/// A reply that was taken though it was changed: only where nothing is read.
fn differs_in_vain(message: &[u8], sent: &[u8]) -> bool {
    // Reserved bytes, what is appended, and the host's own challenge with its number, which the
    // host looks at when it sees the proof.
    message.len() >= sent.len() && message[16..48] == sent[16..48]
}

fn compute(own: &mut Authenticator, work: Option<Work>) {
    match work {
        Some(Work::Challenge { hash, group }) => {
            let keys = (group != Group::Null).then(|| dh::generate(group));
            own.challenge_made(Made { challenge: vec![0x5a; hash.len_bytes()], seqnum: 1, keys });
        }
        Some(Work::SharedSecret { group, private, public }) => {
            own.secret_computed(dh::shared_secret(group, &private, &public).as_ref(), 0);
        }
        None => {}
    }
}

/// How far both sides came.
pub fn play(input: &mut Input<'_>) -> (AuthState, HostAuthState) {
    let (mut own, mut host) = (Authenticator::new(terms(), 0), wrong_host());
    while !input.is_empty() {
        match input.u8() % 3 {
            0 => {
                let message = bend(host.message(), input);
                let terms = (!input.u8().is_multiple_of(16)).then(terms);
                if let Some(Work::Challenge { hash, group }) = own.send(&message, terms, 0) {
                    assert_eq!(group, Group::Null, "nothing else is allowed");
                    let mut challenge = input.take(hash.len_bytes()).to_vec();
                    challenge.resize(hash.len_bytes(), 0x5a);
                    own.challenge_made(Made { challenge, seqnum: 1, keys: None });
                }
            }
            1 => {
                let room =
                    if input.u8().is_multiple_of(8) { usize::from(input.u8()) } else { 4096 };
                let Receive::Message(message) = own.receive(room) else { continue };
                assert!(message.len() <= room);
                tell(&mut host, &bend(&message, input));
            }
            _ => tell(&mut host, &bend(&[], input)),
        }
        assert!(!own.is_authenticated(), "in without the key");
        assert_ne!(host.state(), HostAuthState::Done, "the controller has proven nothing");
    }
    (own.state(), host.state())
}

fn wrong_host() -> HostAuthenticator {
    let mut auth = HostAuth::new(key(9));
    auth.controller_key = Some(key(8));
    auth.groups = GroupSet::NONE.with(Group::Null);
    HostAuthenticator::new(auth, HOST, SUBSYSTEM, 1)
}

/// Hosts that have failed or are done take nothing more.
fn tell(host: &mut HostAuthenticator, message: &[u8]) {
    if matches!(host.state(), HostAuthState::Negotiate | HostAuthState::Reply) {
        let _ = host.received(message);
    }
}

/// Both machines, and the text of a key.
pub fn run(data: &[u8]) {
    play(&mut Input(data));
    play_with_keys(&mut Input(data));
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = ChapKey::parse(text)
    {
        assert_eq!(ChapKey::parse(&key.to_text()), Ok(key), "it is read back");
    }
}

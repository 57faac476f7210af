//! Authentication: a host without the key, and a controller without its own, send and receive what
//! the input says.

use std::sync::Arc;

use mdof::initiator::auth::{HostAuth, HostAuthState, HostAuthenticator};
use mdof::secure::{ChapKey, Group, GroupSet, Hash};
use mdof::target::auth::{AuthState, AuthTerms, Authenticator, Made, Receive, Work};
use mdof::target::subsystem::{AuthPolicy, HostKeys, NamedKey, Nqn};

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
        keys: Arc::new(HostKeys { dhchap: named(1), dhchap_ctrlr: named(2), psk: None }),
        policy,
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
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = ChapKey::parse(text)
    {
        assert_eq!(ChapKey::parse(&key.to_text()), Ok(key), "it is read back");
    }
}

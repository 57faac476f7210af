//! TLS: a client with the key, with another or with none, whose greeting and records are changed on
//! their way as the input says. Without the key there is no channel; what comes through one is what
//! was written, in order and from the beginning, or nothing more.
//!
//! OpenSSL draws its own random numbers, so a run is not repeated exactly.

use std::sync::Arc;

use mdof::secure::psk::{self, Party, TlsPsk};
use mdof::secure::tls::{FindPsk, TlsChannel, TlsState};
use mdof::secure::{Hash, Psk, Secret};

use super::Input;

/// One with SHA-256, one with SHA-384.
const KEYS: [&str; 2] = [
    "NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:",
    "NVMeTLSkey-1:02:BRAbJjE8R1JdaHN+iZSfqrXAy9bh7PcCDRgjLjlET1plcHuGkZynsr3I097p9P8KbTPm6w==:",
];
const OF: Party<'_> = Party { hostnqn: "nqn.host", subnqn: "nqn.subsystem" };

/// What may wait for the peer of a channel that has been told nothing to send.
const UNASKED_BYTES_MAX: usize = 16 * 1024;

/// Data that a client writes at a time at most.
const WRITE_BYTES_MAX: usize = 40_000;

struct Known(Vec<Psk>);

impl FindPsk for Known {
    fn find_psk(&self, identity: &str) -> Option<TlsPsk> {
        let found = self.0.iter().find_map(|key| key.find(identity))?;
        assert_eq!(found.identity, identity, "another's key");
        assert!(psk::party(identity).is_some());
        Some(found)
    }
}

fn psks() -> Vec<Psk> {
    KEYS.iter().map(|text| Psk::parse(text).expect("a good key")).collect()
}

/// Both ends.
struct Pair {
    client: TlsChannel,
    server: TlsChannel,
    has_key: bool,
    /// Nothing was changed on its way.
    is_whole: bool,
    written: Vec<u8>,
    /// How much of it has come through.
    read: usize,
}

/// What of a channel's bytes is carried, and how it is changed.
fn bend(bytes: &[u8], input: &mut Input<'_>, is_whole: &mut bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let before = bytes.clone();
    match input.u8() % 12 {
        0 if !bytes.is_empty() => {
            let at = usize::from(input.u16()) % bytes.len();
            bytes[at] = input.u8();
        }
        1 if !bytes.is_empty() => {
            // Lengths and kinds lie in front.
            let at = usize::from(input.u8()) % bytes.len();
            bytes[at] ^= 1 << (input.u8() % 8);
        }
        2 => bytes.truncate(usize::from(input.u16())),
        3 => {
            let noise = input.take(64);
            let at = usize::from(input.u16()) % (bytes.len() + 1);
            bytes.splice(at..at, noise.iter().copied());
        }
        4 => bytes.extend_from_within(..),
        5 if bytes.len() > 5 => {
            let records = records(&bytes);
            let at = usize::from(input.u8()) % records.len();
            let gone = records[at].clone();
            bytes.drain(gone);
        }
        _ => {}
    }
    *is_whole &= bytes == before;
    bytes
}

/// Where records begin and end, as their heads say.
fn records(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut all, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let len = match bytes.get(at + 3..at + 5) {
            Some(len) => 5 + (usize::from(len[0]) << 8 | usize::from(len[1])),
            None => bytes.len() - at,
        };
        let end = (at + len).min(bytes.len());
        all.push(at..end);
        at = end;
    }
    all
}

impl Pair {
    fn new(input: &mut Input<'_>) -> Self {
        let how = input.u8();
        let keys = psks();
        let key = &keys[usize::from(how & 1)];
        let mut offered = key.tls_keys(OF)[usize::from(how >> 1 & 1)].clone();
        match how >> 2 & 7 {
            0 => {
                let len = if offered.hash == Hash::Sha256 { 32 } else { 48 };
                offered.key = Secret::new(vec![how; len]);
            }
            1 => {
                let text = String::from_utf8_lossy(input.take(80)).replace('\0', "x");
                offered.identity = text;
            }
            _ => {}
        }
        let has_key = how >> 2 & 7 > 1;
        let client = TlsChannel::client(offered).expect("a client");
        // Nobody takes it over: it goes on by itself then.
        let can_leave = how >> 5 & 1 == 1;
        let make = if can_leave { TlsChannel::server_to_hand_over } else { TlsChannel::server };
        let server = make(Arc::new(Known(keys))).expect("a server");
        Self { client, server, has_key, is_whole: true, written: Vec::new(), read: 0 }
    }

    /// The bytes of one end reach the other.
    fn carry(&mut self, to_server: bool, input: &mut Input<'_>) {
        let (from, to) = if to_server {
            (&mut self.client, &mut self.server)
        } else {
            (&mut self.server, &mut self.client)
        };
        let mut bytes = Vec::new();
        from.take_outgoing(&mut bytes);
        to.feed(&bend(&bytes, input, &mut self.is_whole));
    }

    /// Both ends go on with what they have.
    fn turn(&mut self) {
        let mut room = [0; 4096];
        // It may have failed.
        let _ = self.client.read(&mut room);
        while let Ok(len) = self.server.read(&mut room) {
            if len == 0 {
                break;
            }
            let expected = &self.written[self.read..];
            assert!(expected.len() >= len && room[..len] == expected[..len], "data were changed");
            self.read += len;
        }
        let state = self.server.state();
        assert!(self.has_key || state != TlsState::Open, "a channel without the key");
        assert!(state != TlsState::Open || self.server.identity().is_some());
        assert!(!self.server.can_hand_over() || state == TlsState::Open && self.read == 0);
        assert!(self.server.wanted_bytes().is_none_or(|wanted| wanted > 0));
        if state == TlsState::Ended {
            assert!(self.server.read(&mut room).is_err() && self.server.write(&[1]).is_err());
        }
        assert!(self.server.outgoing().len() <= UNASKED_BYTES_MAX, "it says too much");
    }
}

/// How far the server came, and whether nothing was changed on the way.
pub fn play(input: &mut Input<'_>) -> (TlsState, bool) {
    let mut pair = Pair::new(input);
    pair.turn();
    for _ in 0..24 {
        if input.is_empty() {
            break;
        }
        match input.u8() % 8 {
            0..=2 => pair.carry(true, input),
            3 | 4 => pair.carry(false, input),
            5 => {
                // What no peer would have written.
                let noise = input.take(300);
                pair.is_whole &= noise.is_empty();
                pair.server.feed(noise);
            }
            _ => {
                let len = usize::from(input.u16()) % WRITE_BYTES_MAX;
                let data: Vec<u8> = (0..len).map(|at| (at / 3).to_le_bytes()[0]).collect();
                if let Ok(taken) = pair.client.write(&data) {
                    pair.written.extend_from_slice(&data[..taken]);
                }
            }
        }
        pair.turn();
    }
    (pair.server.state(), pair.is_whole)
}

/// Both ends, and what is read off texts of strangers.
pub fn run(data: &[u8]) {
    let (state, is_whole) = play(&mut Input(data));
    assert!(state != TlsState::Ended || !is_whole || !has_right_key(data), "it failed by itself");
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = psk::party(text);
        let _ = Psk::parse(text);
        for key in psks() {
            assert!(key.find(text).is_none_or(|found| found.identity == text));
        }
    }
}

fn has_right_key(data: &[u8]) -> bool {
    data.first().is_some_and(|how| how >> 2 & 7 > 1)
}

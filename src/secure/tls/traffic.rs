//! What encrypts the records of a channel after its handshake, for those who are to do that in
//! OpenSSL's place: traffic secrets, and the keys that are made of them (RFC 8446, sections 7.2 and
//! 7.3).
//!
//! OpenSSL tells its secrets in the form of a key log only, which is read here and never written.

use crate::secure::{Hash, Secret, hkdf};

/// Bytes of the initial value of a record's nonce.
pub const IV_BYTES: usize = 12;

/// The secret of one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficSecret {
    hash: Hash,
    secret: Secret,
}

/// What encrypts the records of one direction, the first of them with the sequence number 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordKeys {
    /// The key of AES-GCM: 16 bytes for AES-128, 32 for AES-256.
    pub key: Secret,
    /// [`IV_BYTES`] bytes.
    pub iv: Secret,
}

impl TrafficSecret {
    /// The hash function says which suite it is: only those of AES-GCM are agreed to.
    fn new(secret: Secret) -> Option<Self> {
        let hash = [Hash::Sha256, Hash::Sha384];
        let hash = hash.into_iter().find(|hash| hash.len_bytes() == secret.bytes().len())?;
        Some(Self { hash, secret })
    }

    fn expand(&self, label: &[u8], len_bytes: usize) -> Secret {
        hkdf::expand_label(self.hash, &self.secret, label, &[], len_bytes)
    }

    /// The keys of its records.
    #[must_use]
    pub fn keys(&self) -> RecordKeys {
        let key_bytes = if self.hash == Hash::Sha256 { 16 } else { 32 };
        RecordKeys { key: self.expand(b"key", key_bytes), iv: self.expand(b"iv", IV_BYTES) }
    }

    /// The secret that follows it when the direction's key is changed (`KeyUpdate`).
    #[must_use]
    pub fn next(&self) -> Self {
        Self { hash: self.hash, secret: self.expand(b"traffic upd", self.hash.len_bytes()) }
    }
}

/// The secrets of both directions, as the server has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// Of what the client sends.
    pub receive: TrafficSecret,
    /// Of what the server sends.
    pub send: TrafficSecret,
}

/// What a handshake has told so far.
#[derive(Debug, Default)]
pub(super) struct KeyLog {
    client: Option<TrafficSecret>,
    server: Option<TrafficSecret>,
}

impl KeyLog {
    /// Takes a line: a label, the client's random number and a secret, in hexadecimal.
    pub(super) fn note(&mut self, line: &str) {
        let mut words = line.split(' ');
        let place = match words.next() {
            Some("CLIENT_TRAFFIC_SECRET_0") => &mut self.client,
            Some("SERVER_TRAFFIC_SECRET_0") => &mut self.server,
            _ => return,
        };
        *place = words.nth(1).and_then(decode).and_then(TrafficSecret::new);
    }

    /// Both, if both are known. They are not kept here.
    pub(super) fn take(&mut self) -> Option<Traffic> {
        let (receive, send) = (self.client.take(), self.server.take());
        Some(Traffic { receive: receive?, send: send? })
    }
}

/// Bytes of hexadecimal digits. The memory is had at once: none is left behind on the way.
fn decode(text: &str) -> Option<Secret> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    for pair in text.as_bytes().chunks(2) {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        let byte =
            digit(0).zip(digit(1)).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        let Some(byte) = byte else {
            drop(Secret::new(bytes));
            return None;
        };
        bytes.push(byte);
    }
    Some(Secret::new(bytes))
}

/// Bytes of a record's head (RFC 8446, section 5.1); the last two say how many follow.
const HEAD_BYTES: usize = 5;

/// Follows a stream from record to record.
#[derive(Debug, Default)]
pub(super) struct Records {
    head: [u8; HEAD_BYTES],
    /// Bytes of the head that are there.
    head_bytes: usize,
    /// Bytes of the body that are not.
    body_left: usize,
}

impl Records {
    /// More of the stream.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let len = self.wanted_bytes().min(bytes.len());
            let (part, rest) = bytes.split_at(len);
            bytes = rest;
            if self.body_left > 0 {
                self.body_left -= len;
                continue;
            }
            self.head[self.head_bytes..self.head_bytes + len].copy_from_slice(part);
            self.head_bytes += len;
            if self.head_bytes == HEAD_BYTES {
                let [.., high, low] = self.head;
                self.body_left = usize::from(high) << 8 | usize::from(low);
                self.head_bytes = 0;
            }
        }
    }

    /// So many bytes, and no byte of the next record: the head, or what it has announced.
    pub(super) fn wanted_bytes(&self) -> usize {
        if self.body_left > 0 { self.body_left } else { HEAD_BYTES - self.head_bytes }
    }

    /// The stream is where a record begins.
    pub(super) fn is_between(&self) -> bool {
        self.body_left == 0 && self.head_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(hex: &str) -> TrafficSecret {
        TrafficSecret::new(decode(hex).unwrap()).unwrap()
    }

    fn hex(secret: &Secret) -> String {
        secret.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 8448, section 3: the application traffic of its simple handshake.
    #[test]
    fn keys_are_those_of_rfc_8448() {
        let server =
            secret("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643").keys();
        assert_eq!(hex(&server.key), "9f02283b6c9c07efc26bb9f2ac92e356");
        assert_eq!(hex(&server.iv), "cf782b88dd83549aadf1e984");
        let client =
            secret("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5").keys();
        assert_eq!(hex(&client.key), "17422dda596ed5d9acd890e3c63f5051");
        assert_eq!(hex(&client.iv), "5b78923dee08579033e523d9");
    }

    #[test]
    fn the_secret_says_which_suite_it_is() {
        let long = secret(&"5a".repeat(48));
        assert_eq!((long.keys().key.bytes().len(), long.keys().iv.bytes().len()), (32, IV_BYTES));
        assert_eq!(long.next().secret.bytes().len(), 48);
        assert_ne!(long.next().keys(), long.keys());
        for bytes in [0, 16, 33, 64] {
            assert_eq!(TrafficSecret::new(Secret::new(vec![1; bytes])), None);
        }
        assert!(!format!("{long:?}").contains("5a"), "a secret is shown");
    }

    #[test]
    fn both_directions_are_read_from_a_key_log() {
        let (random, a, b) = ("00".repeat(32), "ab".repeat(32), "Cd".repeat(32));
        let mut log = KeyLog::default();
        log.note(&format!("CLIENT_HANDSHAKE_TRAFFIC_SECRET {random} {b}"));
        log.note(&format!("SERVER_TRAFFIC_SECRET_0 {random} {b}"));
        assert_eq!(log.take(), None);
        log.note(&format!("SERVER_TRAFFIC_SECRET_0 {random} {b}"));
        log.note(&format!("CLIENT_TRAFFIC_SECRET_0 {random} {a}"));
        assert_eq!(log.take(), Some(Traffic { receive: secret(&a), send: secret(&b) }));
        assert_eq!(log.take(), None);
        for bad in ["", "CLIENT_TRAFFIC_SECRET_0", "CLIENT_TRAFFIC_SECRET_0 00 abc"] {
            log.note(&format!("SERVER_TRAFFIC_SECRET_0 {random} {b}"));
            log.note(bad);
            assert_eq!(log.take(), None, "{bad}");
        }
        assert_eq!(decode("0g"), None);
    }

    #[test]
    fn records_are_followed_however_they_come() {
        let stream = [22, 3, 1, 0, 2, 7, 7, 20, 3, 3, 0, 0, 23, 3, 3, 1, 0];
        for step in 1..=stream.len() {
            let mut records = Records::default();
            for part in stream.chunks(step) {
                records.follow(part);
            }
            assert_eq!((records.wanted_bytes(), records.is_between()), (256, false));
            records.follow(&[0; 255]);
            assert_eq!((records.wanted_bytes(), records.is_between()), (1, false));
            records.follow(&[0]);
            assert_eq!((records.wanted_bytes(), records.is_between()), (HEAD_BYTES, true));
        }
    }
}

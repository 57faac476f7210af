//! Keys of DH-HMAC-CHAP as operators have them (NVMe Base 2.1, section 8.3.4.5.7):
//! `DHHC-1:<hash>:<base64 of key and CRC>:`.

use crc_fast::{CrcAlgorithm, checksum};
use zeroize::Zeroizing;

use super::{Hash, Secret};

/// Bytes of a key that there are.
const KEY_BYTES: [usize; 3] = [32, 48, 64];

/// Characters of a key in its text form at most: what a key file is read up to.
pub const KEY_TEXT_BYTES_MAX: usize = 128;

/// Why a text is no key. It never says what the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `DHHC-1:` or the like.
    #[error("it does not have the form {0}")]
    Form(&'static str),
    /// An unknown hash.
    #[error("its hash is none of 00, 01, 02 and 03")]
    Hash,
    /// Not base64.
    #[error("it is damaged: it holds something that is not base64")]
    Base64,
    /// A key of another length.
    #[error("it holds {0} bytes; keys have 32, 48 or 64")]
    Length(usize),
    /// The checksum says something else.
    #[error("it is damaged: its checksum does not fit; copy it again")]
    Checksum,
}

/// A key, and the hash function by which it is transformed before it is used.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct MarkedKey {
    pub(super) transform: Option<Hash>,
    pub(super) key: Secret,
}

impl std::fmt::Debug for MarkedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.transform)
    }
}

impl MarkedKey {
    /// Reads a key of this form, which begins with its kind and goes on `:<hash>:<base64>:`. Its
    /// hash function is one of those, and it has one of these lengths.
    pub(super) fn parse(
        text: &str,
        form: &'static str,
        hashes: &[Hash],
        lens: &[usize],
    ) -> Result<Self, KeyError> {
        let malformed = KeyError::Form(form);
        let (kind, rest) = text.split_once(':').ok_or(malformed)?;
        if form.split_once(':').is_none_or(|(known, _)| known != kind) {
            return Err(malformed);
        }
        let (hash, rest) = rest.split_once(':').ok_or(malformed)?;
        let body = rest.strip_suffix(':').ok_or(malformed)?;
        let mut known = hashes.iter().copied();
        let transform = match hash {
            "00" => None,
            id => {
                Some(known.find(|hash| format!("{:02}", *hash as u8) == id).ok_or(KeyError::Hash)?)
            }
        };
        Ok(Self { transform, key: decode(body, lens)? })
    }
}

/// A host's or subsystem's key. It is transformed with the name of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChapKey(MarkedKey);

impl ChapKey {
    /// A key of these bytes.
    ///
    /// # Errors
    /// If there are none so long.
    pub fn new(transform: Option<Hash>, key: Vec<u8>) -> Result<Self, KeyError> {
        let key = Secret::new(key);
        let len = key.bytes().len();
        if KEY_BYTES.contains(&len) {
            Ok(Self(MarkedKey { transform, key }))
        } else {
            Err(KeyError::Length(len))
        }
    }

    /// Reads `DHHC-1:<hash>:<base64>:`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let form = "DHHC-1:<hash>:<base64>:";
        MarkedKey::parse(text, form, &Hash::ALL, &KEY_BYTES).map(Self)
    }

    /// The text form, for who makes keys.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let MarkedKey { transform, key } = &self.0;
        let mut body = Zeroizing::new(key.bytes().to_vec());
        body.extend_from_slice(&crc32(key.bytes()));
        let body = Zeroizing::new(openssl::base64::encode_block(&body));
        let hash = transform.map_or(0, |hash| hash as u8);
        Zeroizing::new(format!("DHHC-1:{hash:02}:{}:", &*body))
    }

    /// The key as `nqn`, whose it is, uses it.
    #[must_use]
    pub fn of(&self, nqn: &str) -> Secret {
        let MarkedKey { transform, key } = &self.0;
        match transform {
            None => key.clone(),
            Some(hash) => hash.hmac(key.bytes(), &[nqn.as_bytes(), b"NVMe-over-Fabrics"]),
        }
    }
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    let crc = checksum(CrcAlgorithm::Crc32IsoHdlc, bytes);
    u32::try_from(crc).expect("a CRC of 32 bits").to_le_bytes()
}

/// The key in `body`: base64 of a key of one of these lengths and its CRC.
fn decode(body: &str, lens: &[usize]) -> Result<Secret, KeyError> {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let digits = body.trim_end_matches('=');
    if body.len() > KEY_TEXT_BYTES_MAX
        || !body.len().is_multiple_of(4)
        || body.len() - digits.len() > 2
        || !digits.bytes().all(is_base64)
    {
        return Err(KeyError::Base64);
    }
    let bytes = openssl::base64::decode_block(body).map_err(|_| KeyError::Base64)?;
    let bytes = Zeroizing::new(bytes);
    let len = bytes.len().saturating_sub(4);
    if !lens.contains(&len) {
        return Err(KeyError::Length(len));
    }
    let (key, crc) = bytes.split_at(len);
    if crc32(key) != *crc {
        return Err(KeyError::Checksum);
    }
    Ok(Secret::new(key.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by nvme-cli 2.3: `gen-dhchap-key --hmac=N --key-length=L --secret=... --nqn=...`.
    const KEYS: [&str; 4] = [
        "DHHC-1:00:AAcOFRwjKjE4P0ZNVFtiaXB3foWMk5qhqK+2vcTL0tk/PUPo:",
        "DHHC-1:01:+nxlZ2f83jXjRMyVP2az6xzXX4zZwtb8/0/YRf15P5//z8K1:",
        "DHHC-1:02:9VNDYPEXF9sMhjDFfjqLnzX/ymzMtDGn/pFc0H8q79PC9MWi7rK3IYmEnpjkPzwRefTpLA==:",
        "DHHC-1:03:np72lgZi75fyDqozllF9k+4IYlZ9HfezyUt/8DnQVhZgfI7al9\
         TzYymWogxUcKiDX3Oo+coJrA5FfiPRaEPXp1CVmnA=:",
    ];

    #[test]
    fn keys_of_nvme_cli_are_read() {
        for (text, (hash, len)) in KEYS.into_iter().zip([
            (None, 32),
            (Some(Hash::Sha256), 32),
            (Some(Hash::Sha384), 48),
            (Some(Hash::Sha512), 64),
        ]) {
            let key = ChapKey::parse(text).unwrap();
            assert_eq!((key.0.transform, key.0.key.bytes().len()), (hash, len), "{text}");
            assert_eq!(*key.to_text(), text);
            assert_eq!(format!("{key:?}"), format!("ChapKey({hash:?})"));
            let used = key.of("nqn.x").bytes().len();
            assert_eq!(used, hash.map_or(32, Hash::len_bytes));
        }
    }

    #[test]
    fn damaged_keys_are_refused_without_being_shown() {
        let good = KEYS[1];
        for (bad, expected) in [
            (good.trim_end_matches(':').to_owned(), KeyError::Form("DHHC-1:<hash>:<base64>:")),
            (good.replace("DHHC-1", "DHHC-2"), KeyError::Form("DHHC-1:<hash>:<base64>:")),
            (good.replace(":01:", ":04:"), KeyError::Hash),
            (good.replace(":01:", ":1:"), KeyError::Hash),
            ("DHHC-1:00:%%%%:".to_owned(), KeyError::Base64),
            ("DHHC-1:00:AAA:".to_owned(), KeyError::Base64),
            ("DHHC-1:00:====:".to_owned(), KeyError::Base64),
            ("DHHC-1:00::".to_owned(), KeyError::Length(0)),
            (format!("DHHC-1:00:{}:", "A".repeat(132)), KeyError::Base64),
        ] {
            assert_eq!(ChapKey::parse(&bad), Err(expected));
        }
        let (head, body) = good.split_at(10);
        for at in 0..40 {
            let mut body = body.as_bytes().to_vec();
            body[at] = if body[at] == b'A' { b'B' } else { b'A' };
            let text = format!("{head}{}", String::from_utf8(body).unwrap());
            assert_eq!(ChapKey::parse(&text), Err(KeyError::Checksum));
        }
        assert_eq!(ChapKey::new(None, vec![1; 33]), Err(KeyError::Length(33)));
    }
}

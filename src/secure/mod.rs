//! What hosts and controllers prove themselves with: keys, hashes, Diffie-Hellman, DH-HMAC-CHAP.
//!
//! Values in, values out: no I/O, no clock, no state but that of the values. The mathematics is
//! OpenSSL's. Secrets are wiped when they are dropped, compared in constant time, and never shown
//! by `Debug`.
//!
//! - `hash`: the hash functions and their HMAC.
//! - `dh`: the groups, key pairs, shared secrets. An exponentiation takes up to some tens of
//!   milliseconds: not for a reactor's thread.
//! - `key`: secrets as operators have them, `DHHC-1:...`.
//! - `chap`: the responses of DH-HMAC-CHAP.
//! - `hkdf`: keys from keys, as TLS 1.3 has it.
//! - `psk`: pre-shared keys of TLS, `NVMeTLSkey-1:...`.
//! - `tls`: a secure channel between two buffers, and what it takes to let somebody else, such as
//!   the kernel, encrypt in its place (`tls::traffic`).

pub mod chap;
pub mod dh;
pub mod hash;
mod hkdf;
pub mod key;
pub mod psk;
pub mod tls;

pub use dh::{Group, GroupSet};
pub use hash::{Hash, HashSet};
pub use key::{ChapKey, KeyError};
pub use psk::Psk;

use zeroize::Zeroizing;

/// Bytes that are wiped when they are dropped.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// These bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        same(&self.0, &other.0)
    }
}

impl Eq for Secret {}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Whether two values are the same, in a time that does not tell where they differ.
#[must_use]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && openssl::memcmp::eq(a, b)
}

/// Random bytes that nobody can guess.
///
/// # Panics
/// If the system has no randomness: nothing that needs it may go on then.
#[must_use]
pub fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    openssl::rand::rand_bytes(&mut bytes).expect("the system has no randomness");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let secret = Secret::new(b"hush".to_vec());
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(secret, Secret::new(b"hush".to_vec()));
        assert_ne!(secret, Secret::new(b"hash".to_vec()));
        assert_ne!(secret, Secret::new(b"hus".to_vec()));
        assert!(same(&[], &[]));
        assert_ne!(random(16), random(16));
    }
}

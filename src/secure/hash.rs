//! Hash functions of DH-HMAC-CHAP (NVMe Base 2.1, section 8.3.4.5.2) and of keys.

use openssl::hash::{Hasher, MessageDigest};
use openssl::pkey::PKey;
use openssl::sign::Signer;

use super::Secret;

/// A hash function, with its HASHID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hash {
    /// SHA-256.
    Sha256 = 1,
    /// SHA-384.
    Sha384 = 2,
    /// SHA-512.
    Sha512 = 3,
}

impl Hash {
    /// All of them, the strongest first.
    pub const ALL: [Self; 3] = [Self::Sha512, Self::Sha384, Self::Sha256];

    /// The function with this HASHID.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| *hash as u8 == id)
    }

    /// The function that SPDK calls so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.name() == name)
    }

    /// SPDK's name of it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of a hash value.
    #[must_use]
    pub const fn len_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    fn digest(self) -> MessageDigest {
        match self {
            Self::Sha256 => MessageDigest::sha256(),
            Self::Sha384 => MessageDigest::sha384(),
            Self::Sha512 => MessageDigest::sha512(),
        }
    }

    /// The hash of all parts together.
    ///
    /// # Panics
    /// If OpenSSL was built without SHA-2.
    #[must_use]
    pub fn of(self, parts: &[&[u8]]) -> Secret {
        let compute = || {
            let mut hasher = Hasher::new(self.digest())?;
            for part in parts {
                hasher.update(part)?;
            }
            hasher.finish().map(|value| value.to_vec())
        };
        Secret::new(compute().expect("OpenSSL has SHA-2"))
    }

    /// The HMAC of all parts together.
    ///
    /// # Panics
    /// If the key is empty, or OpenSSL was built without HMAC.
    #[must_use]
    pub fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Secret {
        assert!(!key.is_empty(), "a key has bytes");
        let compute = || {
            let key = PKey::hmac(key)?;
            let mut signer = Signer::new(self.digest(), &key)?;
            for part in parts {
                signer.update(part)?;
            }
            signer.sign_to_vec()
        };
        Secret::new(compute().expect("OpenSSL has HMAC"))
    }
}

/// A set of hash functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashSet(u8);

impl HashSet {
    /// None.
    pub const NONE: Self = Self(0);
    /// All that there are.
    pub const ALL: Self = Self(1 << 1 | 1 << 2 | 1 << 3);

    /// The set with `hash`, too.
    #[must_use]
    pub const fn with(self, hash: Hash) -> Self {
        Self(self.0 | 1 << hash as u8)
    }

    /// Whether `hash` is in it.
    #[must_use]
    pub const fn has(self, hash: Hash) -> bool {
        self.0 >> hash as u8 & 1 != 0
    }

    /// Those that are in it, the strongest first.
    pub fn iter(self) -> impl Iterator<Item = Hash> {
        Hash::ALL.into_iter().filter(move |hash| self.has(*hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn rfc_4231_case_2() {
        let of =
            |hash: Hash| hex(hash.hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"]).bytes());
        assert_eq!(
            of(Hash::Sha256),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert!(of(Hash::Sha384).starts_with("af45d2e376484031617f78d2b58a6b1b"));
        assert!(of(Hash::Sha512).starts_with("164b7a7bfcf819e2e395fbe73b56e0a3"));
        assert!(hex(Hash::Sha256.of(&[b"a", b"bc"]).bytes()).starts_with("ba7816bf8f01cfea"));
    }

    #[test]
    fn names_and_ids_lead_back() {
        for hash in Hash::ALL {
            assert_eq!(Hash::from_id(hash as u8), Some(hash));
            assert_eq!(Hash::from_name(hash.name()), Some(hash));
            assert!(HashSet::ALL.has(hash) && !HashSet::NONE.has(hash));
            assert_eq!(HashSet::NONE.with(hash).iter().collect::<Vec<_>>(), [hash]);
            assert_eq!(hash.of(&[]).bytes().len(), hash.len_bytes());
        }
        assert_eq!(Hash::from_id(0), None);
    }
}

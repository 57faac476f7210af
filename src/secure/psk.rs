//! Pre-shared keys of TLS (NVMe/TCP Transport 1.1, section 3.6.1): the form in which operators have
//! them, what is made of them for a host and a subsystem, and the identities that name them.
//! Besides the keys that operators set there are those that both sides generate in an
//! authentication.

use super::key::{KeyError, MarkedKey};
use super::{Hash, Secret, hkdf, same};

/// Bytes of a key that there are: a hash value of SHA-256 or of SHA-384.
const PSK_BYTES: [usize; 2] = [32, 48];

/// A configured key: `NVMeTLSkey-1:<hash>:<base64 of key and CRC>:`. It is transformed with the
/// host's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Psk(MarkedKey);

/// A key for TLS itself, with the identity under which it is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPsk {
    /// What is sent in the clear.
    pub identity: String,
    /// The hash function of the cipher suite.
    pub hash: Hash,
    /// The key.
    pub key: Secret,
}

/// Who an identity names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party<'a> {
    /// Host.
    pub hostnqn: &'a str,
    /// Subsystem.
    pub subnqn: &'a str,
}

/// Whether an identity is that of a generated key: one that was made of an authentication.
#[must_use]
pub fn is_generated(identity: &str) -> bool {
    let kind = identity.split(' ').next();
    matches!(kind, Some("NVMe1G01" | "NVMe1G02"))
}

/// The key for TLS that two make of a key generated with this hash function, which is one that TLS
/// has cipher suites for.
///
/// # Panics
/// If it is another.
#[must_use]
pub fn generated_tls_key(hash: Hash, generated: &Secret, of: Party<'_>) -> TlsPsk {
    assert_ne!(hash, Hash::Sha512, "TLS has no cipher suite with it");
    newer_key('G', hash, generated, of)
}

/// A key for TLS under its identity of version 1, which says of what kind it is.
fn newer_key(kind: char, hash: Hash, from: &Secret, of: Party<'_>) -> TlsPsk {
    let Party { hostnqn, subnqn } = of;
    let (id, digest) = (hash as u8, digest(hash, from, of));
    TlsPsk {
        key: derive(hash, from, LABEL, format!("{id:02} {digest}").as_bytes()),
        identity: format!("NVMe1{kind}{id:02} {hostnqn} {subnqn} {digest}"),
        hash,
    }
}

/// Reads the names off an identity; `None`: it is no NVMe identity that is known here.
#[must_use]
pub fn party(identity: &str) -> Option<Party<'_>> {
    let mut words = identity.split(' ');
    let kind = words.next()?;
    if !matches!(kind, "NVMe0R01" | "NVMe0R02" | "NVMe1R01" | "NVMe1R02") && !is_generated(kind) {
        return None;
    }
    let (hostnqn, subnqn) = (words.next()?, words.next()?);
    Some(Party { hostnqn, subnqn }).filter(|_| !hostnqn.is_empty() && !subnqn.is_empty())
}

impl Psk {
    /// Reads the interchange form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let form = "NVMeTLSkey-1:<hash>:<base64>:";
        let parsed = MarkedKey::parse(text, form, &[Hash::Sha256, Hash::Sha384], &PSK_BYTES)?;
        let len = parsed.key.bytes().len();
        // A key is as long as the values of its hash function.
        if parsed.transform.is_some_and(|hash| hash.len_bytes() != len) {
            return Err(KeyError::Length(len));
        }
        Ok(Self(parsed))
    }

    /// The hash function of all that is derived from it.
    fn hash(&self) -> Hash {
        if self.0.key.bytes().len() == PSK_BYTES[0] { Hash::Sha256 } else { Hash::Sha384 }
    }

    /// The retained key of a host.
    fn retained(&self, hostnqn: &str) -> Secret {
        let MarkedKey { transform, key } = &self.0;
        match *transform {
            None => key.clone(),
            Some(hash) => derive(hash, key, b"HostNQN", hostnqn.as_bytes()),
        }
    }

    /// The keys for TLS between two, under the identity of version 1 and that of version 0.
    #[must_use]
    pub fn tls_keys(&self, of: Party<'_>) -> [TlsPsk; 2] {
        let hash = self.hash();
        let retained = self.retained(of.hostnqn);
        let Party { hostnqn, subnqn } = of;
        let older = format!("NVMe0R{:02} {hostnqn} {subnqn}", hash as u8);
        let key = derive(hash, &retained, LABEL, older.as_bytes());
        [newer_key('R', hash, &retained, of), TlsPsk { key, identity: older, hash }]
    }

    /// The key for TLS that a peer names with `identity`; `None`: it means another one.
    #[must_use]
    pub fn find(&self, identity: &str) -> Option<TlsPsk> {
        let keys = self.tls_keys(party(identity)?);
        keys.into_iter().find(|key| same(key.identity.as_bytes(), identity.as_bytes()))
    }
}

/// What every key for TLS is derived with.
const LABEL: &[u8] = b"nvme-tls-psk";

/// The digest in an identity of version 1.
fn digest(hash: Hash, retained: &Secret, of: Party<'_>) -> String {
    let parts: [&[u8]; 5] =
        [of.hostnqn.as_bytes(), b" ", of.subnqn.as_bytes(), b" ", b"NVMe-over-Fabrics"];
    openssl::base64::encode_block(hash.hmac(retained.bytes(), &parts).bytes())
}

/// HKDF-Extract without salt, then HKDF-Expand-Label to as many bytes as the hash function gives.
fn derive(hash: Hash, key: &Secret, label: &[u8], context: &[u8]) -> Secret {
    hkdf::expand_label(hash, &hkdf::extract(hash, key), label, context, hash.len_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// libnvme's own (test/psk.c).
    const KEY: &str = "NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:";

    fn hex(secret: &Secret) -> String {
        secret.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn secret(hex: &str) -> Secret {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        Secret::new((0..hex.len()).step_by(2).map(byte).collect())
    }

    #[test]
    fn the_interchange_form_is_libnvmes() {
        let psk = Psk::parse(KEY).unwrap();
        assert!(hex(&psk.0.key).starts_with("5512dbb6737d0106f65975b773dfb011"));
        assert_eq!((psk.0.transform, psk.hash()), (Some(Hash::Sha256), Hash::Sha256));
        assert_eq!(format!("{psk:?}"), "Psk(Some(Sha256))");
        for (from, to, error) in [
            ("NVMeTLSkey-1", "NVMeTLSkey-2", KeyError::Form("NVMeTLSkey-1:<hash>:<base64>:")),
            (":01:", ":03:", KeyError::Hash),
            (":01:", ":02:", KeyError::Length(32)),
            ("VRLb", "VRLc", KeyError::Checksum),
            ("VRLb", "VRL!", KeyError::Base64),
        ] {
            assert_eq!(Psk::parse(&KEY.replace(from, to)), Err(error));
        }
    }

    /// The kernel's (drivers/nvme/common/tests/auth_kunit.c): from a key to digest and TLS key.
    #[test]
    fn digests_and_tls_keys_are_the_kernels() {
        let of = Party { hostnqn: "hostnqn", subnqn: "subsysnqn" };
        for (hash, key, expected_digest, tls_key) in [
            (
                Hash::Sha256,
                "1733c59fa7f48fcf37f5f26fc4ff0268ad4f78e030f4f3b0bfd1d47e7bb1447a",
                "OldoKuTfKddMuyCznAZojkWD7P4D9/AtzDzLimtOxqI=",
                "3c17da628474a04d2247c4cab47968c915388193f7c071bd9489cc3666cd7cc8",
            ),
            (
                Hash::Sha384,
                "f14b2dd3234c459694d3bc63f8968bd6b37c2c6de849e22e118749001ce4bbe8\
                 640b9e3a748cb11ce4b1d71d359cce39",
                "cffMWk8TSS7HOQebjgYEIkrPrjWPV4JE5cdPB8WhEvY4JBW5YynKyv66XscN4A9n",
                "2774753233537b3fa50eb7d16a8e43457d85f4906c005b2236616c5d80939d08\
                 98fff15bb8b77119d2be0aac423e7590",
            ),
        ] {
            let psk = Psk(MarkedKey { transform: None, key: secret(key) });
            assert_eq!(digest(hash, &psk.0.key, of), expected_digest);
            let [newer, older] = psk.tls_keys(of);
            assert_eq!(hex(&newer.key), tls_key);
            let id = hash as u8;
            assert_eq!(
                newer.identity,
                format!("NVMe1R{id:02} hostnqn subsysnqn {expected_digest}")
            );
            assert_eq!(older.identity, format!("NVMe0R{id:02} hostnqn subsysnqn"));
            assert_eq!(psk.find(&newer.identity), Some(newer));
            assert_eq!(psk.find(&older.identity), Some(older));
        }
    }

    /// Computed by Python's hmac, from the generated keys of the tests of `chap`.
    #[test]
    fn generated_keys_have_identities_of_their_own() {
        let of = Party { hostnqn: "nqn.h", subnqn: "nqn.s" };
        for (hash, generated, identity, tls_key) in [
            (
                Hash::Sha256,
                "05bd52a9e64a93e9bfec7b66d354a4f35aab5cdff9e19d9c339e5b64896f749f",
                "NVMe1G01 nqn.h nqn.s Cn3/VpwWLLFjqlbReUIZKq/DMdcjP6jVJSM9H+h+Adc=",
                "c1411808eb087ef1745661dac6db8d10c9bdab8bbbf8b46b9ea57c50339b474a",
            ),
            (
                Hash::Sha384,
                "03d2b97e399ecf356a2bf3dec8036001525d4a50751b475c50eab7dc98586af9\
                 f6cfbad0fd5818fd341b77f41d823d37",
                "NVMe1G02 nqn.h nqn.s \
                 /Hvk8o+lkaC8HWuPNX1zDGNQVJ2GaNouJhWleFaZ7NkhH7IMBb2Osz7OslCy7tez",
                "e6319215439c045c5a2146588fb09dae2e0504237a4b5489849fa3d8079fd2a4\
                 77942782624379761c6b665a086f5ec1",
            ),
        ] {
            let made = generated_tls_key(hash, &secret(generated), of);
            assert_eq!((&made.identity[..], &hex(&made.key)[..]), (identity, tls_key));
            assert_eq!((made.hash, party(identity)), (hash, Some(of)));
            assert!(is_generated(identity));
        }
        let [newer, older] = Psk::parse(KEY).unwrap().tls_keys(of);
        for identity in [&newer.identity, &older.identity, "NVMe0G01 h s", "NVMe1G03 h s", ""] {
            assert!(!is_generated(identity), "{identity}");
        }
    }

    #[test]
    fn identities_of_others_name_nothing() {
        let psk = Psk::parse(KEY).unwrap();
        let [newer, _] = psk.tls_keys(Party { hostnqn: "h", subnqn: "s" });
        assert_eq!(party(&newer.identity), Some(Party { hostnqn: "h", subnqn: "s" }));
        for bad in
            ["", "NVMe0R01", "NVMe0R01 h", "NVMe0R01  s", "NVMe0G01 h s", "NVMe2R01 h s", "x h s"]
        {
            assert_eq!(party(bad), None, "{bad}");
        }
        for other in ["NVMe0R02 h s", "NVMe0R01 h s more", "NVMe1R01 h s", "NVMe1R01 h s AAAA"] {
            assert_eq!(psk.find(other), None, "{other}");
        }
        // The host's name is part of its keys.
        let of_other = psk.tls_keys(Party { hostnqn: "g", subnqn: "s" });
        assert_ne!(of_other[0].key, newer.key);
    }
}

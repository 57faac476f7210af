//! The responses of DH-HMAC-CHAP, and the key for TLS that both sides make of one (NVMe Base 2.1,
//! sections 8.3.4.5.4, 8.3.4.5.5 and 8.3.4.5.9).

use super::{ChapKey, Hash, Secret, same};

/// Who answers a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Responder {
    /// The host, to the controller's challenge.
    Host,
    /// The controller, to the host's.
    Controller,
}

/// All that a response is computed from.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The hash function agreed on.
    pub hash: Hash,
    /// T_ID.
    pub t_id: u16,
    /// SC_C: the secure channel that is made of this, 0 for none.
    pub sc_c: u8,
    /// Host.
    pub hostnqn: &'a str,
    /// Subsystem.
    pub subnqn: &'a str,
    /// What Diffie-Hellman gave; `None` with the null group.
    pub shared: Option<&'a Secret>,
}

impl Exchange<'_> {
    /// The session key: the hash of what Diffie-Hellman gave.
    fn session_key(&self) -> Option<Secret> {
        self.shared.map(|shared| self.hash.of(&[shared.bytes()]))
    }

    /// The generated key for TLS, of the controller's challenge and the host's; `None`: without
    /// Diffie-Hellman there is none.
    #[must_use]
    pub fn generated_psk(&self, of_controller: &[u8], of_host: &[u8]) -> Option<Secret> {
        let session = self.session_key()?;
        Some(self.hash.hmac(session.bytes(), &[of_controller, of_host]))
    }

    /// The response to `challenge` with sequence number `seqnum`.
    #[must_use]
    pub fn response(
        &self,
        responder: Responder,
        key: &ChapKey,
        challenge: &[u8],
        seqnum: u32,
    ) -> Secret {
        let session = self.session_key();
        let augmented = session.map(|key| self.hash.hmac(key.bytes(), &[challenge]));
        let challenge = augmented.as_ref().map_or(challenge, Secret::bytes);
        let (word, own, other) = match responder {
            Responder::Host => ("HostHost", self.hostnqn, self.subnqn),
            Responder::Controller => ("Controller", self.subnqn, self.hostnqn),
        };
        let key = key.of(own);
        self.hash.hmac(
            key.bytes(),
            &[
                challenge,
                &seqnum.to_le_bytes(),
                &self.t_id.to_le_bytes(),
                &[self.sc_c],
                word.as_bytes(),
                own.as_bytes(),
                &[0],
                other.as_bytes(),
            ],
        )
    }

    /// Whether `response` is the right one.
    #[must_use]
    pub fn verify(
        &self,
        responder: Responder,
        key: &ChapKey,
        challenge: &[u8],
        seqnum: u32,
        response: &[u8],
    ) -> bool {
        same(self.response(responder, key, challenge, seqnum).bytes(), response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Linux 7.2 answered to challenges of ours, with nvme-cli's secret.
    struct Golden {
        hash: Hash,
        t_id: u16,
        seqnum: u32,
        challenge: &'static str,
        response: &'static str,
        /// Empty: the null group.
        shared: &'static str,
    }

    const KEY: &str = "DHHC-1:01:+nxlZ2f83jXjRMyVP2az6xzXX4zZwtb8/0/YRf15P5//z8K1:";

    #[rustfmt::skip]
    const ANSWERS: [Golden; 2] = [
    Golden {
        hash: Hash::Sha256,
        t_id: 1,
        seqnum: 87644908,
        challenge: "e9265d23d9b5e2f836d772e0e1e6e45d905e416b80e19c2c3febedfe98874106",
        response: "3b5f3a2e0b3b27230e25a5bbcc1ee45b064d794c93480a244e9b7ea2b78b62f7",
        shared: "",
    },
    Golden {
        hash: Hash::Sha384,
        t_id: 1,
        seqnum: 422874247,
        challenge: "e16c07eb50889612253d3ed868ef78acff5f8719f8bb28329c154a270674d9e9\
                    33716df2c2eb77d0091ed16798244425",
        response: "7b55b28e93622f35f97fb3eafe7654be406339ca519fe6bde20f31c3601682c6\
                   7ef36da8b92689de773ced4ccf5aa103",
        shared: "140a7c6674f04335469254faf21ac6eaf15cd974a42f38ea7ab373430767a4a8\
                 35a9028d57ad3f91753b38d05f09b957b7225d43922a617357bee405c70afdfc\
                 9229d75ab79134d29b9487a0d5c6dd757a6be0ce3a96b30eb3ac8d3f8b590d78\
                 9b9f81af54541babac082762cff3d1ac82e84338ab5e195b8794827aa2ed6e41\
                 7f1c745ef92a4dd2d796ef52e5ede55bb4236483996ac2d515ab9f6ce42fa3e7\
                 bb120f5085d42bdf5e9cabe21e95dc7470ded76ffd1a483aee6fc30cb36bbd1b\
                 30ed82c7c8a808966447e88c788edde961eb1a4841401a77a70a33a5b179a233\
                 edd5bd48c95503f8ebe9f22ba8d8b6200698317066cad5b5d992f0634227d401",
    },
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digit).collect()
    }

    #[test]
    fn linux_answers_as_we_compute() {
        let key = ChapKey::parse(KEY).unwrap();
        for golden in ANSWERS {
            let shared = Secret::new(bytes(golden.shared));
            let exchange = Exchange {
                hash: golden.hash,
                t_id: golden.t_id,
                sc_c: 0,
                hostnqn: "nqn.2014-08.org.nvmexpress:uuid:6d646f66-0000-4000-8000-000000000002",
                subnqn: "nqn.2026-01.io.mdof:interop",
                shared: (!golden.shared.is_empty()).then_some(&shared),
            };
            let (challenge, response) = (bytes(golden.challenge), bytes(golden.response));
            let verify = |responder, seqnum, response: &[u8]| {
                exchange.verify(responder, &key, &challenge, seqnum, response)
            };
            assert!(verify(Responder::Host, golden.seqnum, &response));
            assert!(!verify(Responder::Host, golden.seqnum + 1, &response));
            assert!(!verify(Responder::Controller, golden.seqnum, &response));
            assert!(!verify(Responder::Host, golden.seqnum, &response[1..]));
            let turned: Vec<u8> = response.iter().map(|byte| !byte).collect();
            assert!(!verify(Responder::Host, golden.seqnum, &turned));
            // What is to be made of the exchange is part of it.
            let other = Exchange { sc_c: 2, ..exchange };
            let seqnum = golden.seqnum;
            assert!(!other.verify(Responder::Host, &key, &challenge, seqnum, &response));
        }
    }

    /// Computed by Python's hmac and hashlib: Diffie-Hellman's secret is 256 bytes `7i + 3`, the
    /// challenges are `i` and `255 - i`.
    #[test]
    fn the_generated_key_is_that_of_both_challenges_and_the_session() {
        let bytes_of = |len: u16, byte: fn(u16) -> u16| -> Vec<u8> {
            (0..len).map(|at| byte(at).to_le_bytes()[0]).collect()
        };
        let shared = Secret::new(bytes_of(256, |at| at * 7 + 3));
        for (hash, expected) in [
            (Hash::Sha256, "05bd52a9e64a93e9bfec7b66d354a4f35aab5cdff9e19d9c339e5b64896f749f"),
            (
                Hash::Sha384,
                "03d2b97e399ecf356a2bf3dec8036001525d4a50751b475c50eab7dc98586af9\
                 f6cfbad0fd5818fd341b77f41d823d37",
            ),
        ] {
            let len = u16::try_from(hash.len_bytes()).unwrap();
            let (c1, c2) = (bytes_of(len, |at| at), bytes_of(len, |at| 255 - at));
            let (hostnqn, subnqn) = ("h", "s");
            let mut exchange =
                Exchange { hash, t_id: 1, sc_c: 2, hostnqn, subnqn, shared: Some(&shared) };
            let key = exchange.generated_psk(&c1, &c2).unwrap();
            assert_eq!(key.bytes(), bytes(expected));
            assert_ne!(exchange.generated_psk(&c2, &c1), Some(key));
            exchange.shared = None;
            assert_eq!(exchange.generated_psk(&c1, &c2), None);
        }
    }
}

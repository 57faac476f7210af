//! The responses of DH-HMAC-CHAP (NVMe Base 2.1, sections 8.3.4.5.4 and 8.3.4.5.5).

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
    /// Host.
    pub hostnqn: &'a str,
    /// Subsystem.
    pub subnqn: &'a str,
    /// What Diffie-Hellman gave; `None` with the null group.
    pub shared: Option<&'a Secret>,
}

impl Exchange<'_> {
    /// The response to `challenge` with sequence number `seqnum`.
    #[must_use]
    pub fn response(
        &self,
        responder: Responder,
        key: &ChapKey,
        challenge: &[u8],
        seqnum: u32,
    ) -> Secret {
        let augmented = self.shared.map(|shared| {
            let session = self.hash.of(&[shared.bytes()]);
            self.hash.hmac(session.bytes(), &[challenge])
        });
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
                // SC_C: no secure channel is made of this.
                &[0],
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

//! In-band authentication of a queue by DH-HMAC-CHAP, the controller's side (NVMe Base 2.1,
//! section 8.3.4).
//!
//! ```text
//!   host                                    controller
//!    │ ── Authentication Send (Negotiate) ──▶ │ chooses hash and group, makes a challenge
//!    │ ◀─ Authentication Receive (Challenge) ─ │
//!    │ ── Authentication Send (Reply) ───────▶ │ computes the shared secret, checks the response
//!    │ ◀─ Authentication Receive (Success1) ── │ with a response of its own, if asked for one
//!    │ ── Authentication Send (Success2) ────▶ │ only if asked for one
//! ```
//!
//! A host in the clear may have a secure channel made of its authentication (secure channel
//! concatenation): both sides make a key for TLS of what Diffie-Hellman gave and of both
//! challenges, and the host comes back under TLS with it. One that is under TLS in this way may
//! replace its key. Every core must know the key before the host is told of its success.
//!
//! What costs milliseconds, the mathematics of Diffie-Hellman, and what needs randomness is asked
//! for as [`Work`] and given back when it is done; an Authentication Receive waits for it.
//!
//! - `session`: the states and the messages.
//! - `message`: reads what a host sends.
//! - `generated`: the keys for TLS that were made, as a core knows them.

mod generated;
mod message;
mod session;
#[cfg(test)]
mod tests;

pub use generated::{GeneratedKey, GeneratedKeys, UNUSED_KEY_MS};
pub use message::AuthFailure;
pub use session::{
    AUTH_TIMEOUT_MS, AuthReport, AuthState, AuthTerms, Authenticator, Channel, Made, Receive, Work,
};

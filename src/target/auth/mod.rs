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
//! What costs milliseconds, the mathematics of Diffie-Hellman, and what needs randomness is asked
//! for as [`Work`] and given back when it is done; an Authentication Receive waits for it.
//!
//! - `session`: the states and the messages.
//! - `message`: reads what a host sends.

mod message;
mod session;
#[cfg(test)]
mod tests;

pub use message::AuthFailure;
pub use session::{
    AUTH_TIMEOUT_MS, AuthReport, AuthState, AuthTerms, Authenticator, Made, Receive, Work,
};

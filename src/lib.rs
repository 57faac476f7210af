//! mdof: a polled-mode NVMe-oF storage target whose RAID keeps Linux md's on-disk format
//! and a lockless write-intent bitmap.
//!
//! The folders are the stations a request passes, in the order in which it passes them:
//!
//! ```text
//! initiator
//!    │ NVMe/TCP
//!  wire ─▶ target/tcp ─▶ target/controller ─▶ target/subsystem ─▶ bdev (the seam)
//!                                                                  │
//!                                   raid ─▶ bitmap ─▶ bdev: uring | malloc | null | error | delay
//!                                     ├──▶ md (on-disk format)
//!                                     └──▶ parity (XOR, P and Q)
//!  under everything: reactor (one thread per core)
//!  ties one core's stations together: engine
//!  used by target, initiator and engine: secure (keys, DH-HMAC-CHAP)
//!  beside it: control (TOML, JSON-RPC), observe (counters)
//! ```
//!
//! Imports run one way, from left to right and down; `tests/style.rs` holds them to it.
//! `wire`, `secure`, `target` (but for `engine/socket.rs`), `raid`, `bitmap`, `md` and `parity` do
//! no I/O, read no clock and start no thread: events go in, actions come out.

/// Whether a bug planted on purpose is switched on. It never is, and costs nothing, but in the
/// tests of the crash simulator itself (`src/raid/tests`).
#[cfg(not(test))]
macro_rules! mutant {
    ($name:ident) => {
        false
    };
}
#[cfg(test)]
macro_rules! mutant {
    ($name:ident) => {
        $crate::raid::tests::mutant::Mutant::$name.is_on()
    };
}

pub mod bdev;
pub mod bitmap;
pub mod control;
pub mod engine;
pub mod initiator;
pub mod limits;
pub mod md;
pub mod observe;
pub mod parity;
pub mod raid;
pub mod reactor;
pub mod secure;
pub mod target;
pub mod wire;

//! The NVMe protocol from end to end: the initiator's queues against a target of this process, over
//! TCP. What one controller answers without a connection is tested beside its code.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "protocol/abort.rs"]
mod abort;
#[path = "protocol/auth.rs"]
mod auth;
#[path = "protocol/hosts.rs"]
mod hosts;
#[path = "protocol/io.rs"]
mod io;
#[path = "protocol/life.rs"]
mod life;
#[path = "protocol/paths.rs"]
mod paths;
#[path = "protocol/reserve.rs"]
mod reserve;
#[path = "protocol/rig.rs"]
#[allow(dead_code, reason = "each module uses its part")]
mod rig;

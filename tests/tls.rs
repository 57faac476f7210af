//! TLS from end to end, here by OpenSSL, and by the kernel in a guest whose kernel has it.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "tls/concat.rs"]
mod concat;
#[path = "tls/guest.rs"]
mod guest;
#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof;
#[path = "tls/protocol.rs"]
mod protocol;
#[path = "protocol/rig.rs"]
#[allow(dead_code, reason = "several tests share it and use parts of it")]
mod rig;
#[path = "support/tls_guest.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod tls_guest;

//! Linux md and mdof take over each other's arrays. `images` starts the binary over members that
//! mdadm and the kernel made; `kernel` hands members that mdof made to Linux in a guest.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "interop/auth.rs"]
mod auth;
#[path = "interop/bad_blocks.rs"]
mod bad_blocks;
#[path = "interop/grow.rs"]
mod grow;
#[path = "interop/images.rs"]
mod images;
#[path = "interop/kernel.rs"]
mod kernel;
#[path = "interop/kernel_levels.rs"]
mod kernel_levels;
#[path = "interop/lazy.rs"]
mod lazy;
#[path = "interop/legacy.rs"]
mod legacy;
#[path = "interop/levels.rs"]
mod levels;
#[path = "interop/lost_bitmap.rs"]
mod lost_bitmap;
#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof;
#[path = "interop/ppl.rs"]
mod ppl;
#[path = "interop/replace.rs"]
mod replace;
#[path = "interop/rig.rs"]
mod rig;
#[path = "interop/rows.rs"]
mod rows;
#[path = "interop/tls.rs"]
mod tls;
#[path = "support/tls_guest.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod tls_guest;

//! Under everything: one pinned thread per core, its ring, mailboxes, timers and memory.
//!
//! A [`Program`] is what a core runs. The loop calls it in a fixed order: mailboxes, ring
//! completions, pollers, timers, then one submit. A core without work spins for a moment and then
//! sleeps in the kernel until a completion, a message or a timer is there.

pub mod buf;
pub mod clock;
mod core;
pub mod dma;
pub mod idle;
pub mod mesh;
pub mod pool;
pub mod ring;
mod run;
pub mod sync;
pub mod timer;
#[cfg(not(feature = "loom"))]
mod wake;

pub use self::core::{Core, CoreIo, Program};
pub use run::{Reactor, ReactorConfig, StartError, spawn};

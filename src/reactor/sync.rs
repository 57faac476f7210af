//! The only import of ordering atomics, and the switch for model checking: with the feature `loom`
//! they are the model checker's, and what the mesh takes from outside is replaced by stand-ins
//! that the checker sees through.
//!
//! Everything else of a core is plain memory: only the mesh, the chunk maps and the counters
//! cross threads.

#[cfg(feature = "loom")]
pub mod model;

pub use std::sync::Arc;
/// For counts with one writer that order nothing (Relaxed only): the checker need not see them.
pub use std::sync::atomic::AtomicU64 as UnorderedU64;
pub use std::sync::atomic::Ordering;

#[cfg(not(feature = "loom"))]
mod switch {
    pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, fence};

    pub(in crate::reactor) use crate::reactor::wake::Wake;
    pub(in crate::reactor) use rtrb::{Consumer, Producer, PushError, RingBuffer};
}

#[cfg(feature = "loom")]
mod switch {
    pub use super::model::{AtomicBool, AtomicU8, fence};
    pub use loom::sync::atomic::{AtomicU32, AtomicU64};

    pub(in crate::reactor) use super::model::{Consumer, Producer, PushError, RingBuffer, Wake};
}

pub use switch::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, fence};
pub(in crate::reactor) use switch::{Consumer, Producer, PushError, RingBuffer, Wake};

//! The only import of ordering atomics, so that a model checker can be switched in at one place.
//!
//! Everything else of a core is plain memory: only the mesh and the counters cross threads.

pub use std::sync::Arc;
pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

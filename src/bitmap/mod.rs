//! The lockless write-intent bitmap: which chunks may differ between members.
//!
//! The design is that of Linux's md-llbitmap: one byte a chunk, the same value in memory and on
//! disk, a table of states and actions. What differs is who may change a byte, and how a writer
//! learns that the change is durable.
//!
//! # States
//!
//! - Unwritten: never written, or discarded. Reads as zeroes; resync passes it by.
//! - Clean: written, and the members agree.
//! - Dirty: being written, or written lately; the members may differ after a crash.
//! - NeedSync: the members may differ; resync will visit the chunk.
//! - Syncing: resync is copying the chunk.
//! - NeedSyncUnwritten, SyncingUnwritten, CleanUnwritten: parity levels only; parity of a chunk
//!   without data is to be built, being built, or right.
//!
//! # Transitions (blank: no change)
//!
//! | state             | Startwrite | Startsync        | Endsync        | Abortsync | Reload    | Daemon | Discard   | Stale     | ProactiveSync     | ClearUnwritten |
//! |-------------------|------------|------------------|----------------|-----------|-----------|--------|-----------|-----------|-------------------|----------------|
//! | Unwritten         | Dirty      |                  |                |           |           |        |           |           | NeedSyncUnwritten |                |
//! | Clean             | Dirty      |                  |                |           |           |        | Unwritten | NeedSync  |                   |                |
//! | Dirty             |            |                  |                |           | NeedSync  | Clean  | Unwritten | NeedSync  |                   |                |
//! | NeedSync          |            | Syncing          |                |           |           |        | Unwritten |           |                   |                |
//! | Syncing           |            | Syncing          | Dirty          | NeedSync  | NeedSync  |        | Unwritten | NeedSync  |                   |                |
//! | NeedSyncUnwritten | NeedSync   | SyncingUnwritten |                | Unwritten | Unwritten |        | Unwritten | Unwritten |                   | Unwritten      |
//! | SyncingUnwritten  | Syncing    | SyncingUnwritten | CleanUnwritten | Unwritten | Unwritten |        | Unwritten | Unwritten |                   | Unwritten      |
//! | CleanUnwritten    | Dirty      |                  |                |           |           |        | Unwritten | Unwritten |                   | Unwritten      |
//!
//! While an array is degraded a write that would give Dirty gives NeedSync, so that a member that
//! comes back receives the chunk ([`state::on_write`]). Levels with parity have rules of their own
//! ([`parity`]).
//!
//! # Who changes a byte
//!
//! The array's owner core alone, with one exception. Writers on every core only read: a byte that
//! says Dirty, NeedSync or Syncing with no flag set is *open*, which means that the block holding
//! it is durable on every in-sync member with that value. A writer that finds the byte not open
//! asks the owner and waits; the owner opens it when the block is durable. So there is no
//! generation to compare on the fast path and a second writer of a chunk whose block is still in
//! flight waits for the same flush, because the byte is not open yet.
//!
//! The exception is [`map::AGING`]: the owner sets it on open Dirty chunks when it looks for idle
//! ones, and a writer that meets it takes it off by compare-and-swap. The owner clears a chunk to
//! Clean only if the flag is still there after every core has passed a quiescent point and the
//! idle time is over. Writers never wait for the daemon.

pub mod doubt;
pub mod infection;
pub mod ledger;
pub mod map;
pub mod parity;
pub mod state;

pub use doubt::{Doubt, ParityFound, Vouching};
pub use infection::Infection;
pub use ledger::Ledger;
pub use map::{Advise, ChunkMap};
pub use state::{Action, ChunkState};

//! mdof's stripe log: what closes the write hole of levels with parity.
//!
//! Before a part of a row is written in place, all that is going to be written, data and parity,
//! goes as *records* to as many members as may still fail, and one more. After a power cut the
//! records that may not be in place are written there, before anything is read: whatever members
//! are missing by then, one that has the record is there, and every block is old or new.
//!
//! md knows nothing of the log. It lies where md has nothing, right before the data:
//!
//! ```text
//! … bitmap │ free │ slot n … slot 1 │ slot 0 │ head 4096 bytes │ data_offset: data …
//!                 └─ ring by ring ──┘
//! slot: │ header 4096 bytes │ payload: the fragments' blocks, one after the other │
//! ```
//!
//! # Which records are to be written in place
//!
//! - The *head* names the run: a random number of each start of the array. Records of other runs
//!   are nothing. Every update of the superblocks writes the heads first, with the same event
//!   count, and marks the superblocks ([`super::Superblock::has_stripe_log`]); md wipes the mark
//!   and raises the count. So a log is void as soon as somebody else has run the array.
//! - A ring's records are numbered; a record lies in the slot of its number. All records of a row
//!   are in one ring, in the order in which the row was written. Each says the *floor* of its
//!   ring when it was made: all below it was in place durably. The highest floor counts, and what
//!   is at or above it is written in place, in order.
//! - A slot is used again only when a floor above its record is durable in a later record, which
//!   itself is at or above that floor. So a write that tears a slot never takes away a record or
//!   a floor that is needed.
//! - Writes larger than a slot take several records in a row, of which all count or none.
//!
//! Who writes it is in `raid::stripe`; the proof that it is enough is the crash simulator's.

mod error;
mod found;
mod head;
mod place;
mod record;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

pub use error::{LogError, LogVoid};
pub use found::{LiveRecord, LogSearch, trusted_head};
pub use head::LogHead;
pub use place::{LogLayout, LogRoom};
pub use record::{Fragment, Record, RecordIdentity, RecordWriter};

/// Bytes of the head, and of a record's header.
pub const LOG_HEAD_BYTES: usize = 4096;

/// Bytes of the largest slot: a record is written from one buffer.
pub const LOG_SLOT_BYTES_MAX: u32 = 128 << 10;

/// Bytes of the smallest slot.
pub const LOG_SLOT_BYTES_MIN: u32 = 8 << 10;

/// Fragments of a record at most.
pub const LOG_FRAGMENTS_MAX: usize = 330;

/// Version of head and records.
const VERSION: u32 = 1;

const _: () = {
    assert!(LOG_SLOT_BYTES_MAX as usize <= crate::limits::IO_SIZE_BYTES_MAX);
    assert!(LOG_SLOT_BYTES_MIN as usize > LOG_HEAD_BYTES);
};

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

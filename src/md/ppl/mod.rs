//! The partial parity log of a raid5 (raid5-ppl.c): what closes its write hole without a bitmap.
//!
//! Before parts of a row are written, the XOR of the data strips that stay as they are, the
//! *partial parity*, goes into a log on the member that has the row's P. After a crash P is that
//! XOR the data written, whichever of it made it to the members.
//!
//! ```text
//! log: │ header 4096 bytes │ partial parity of entry 0, 1 … │ header │ …
//! ```
//!
//! A log with room for two of the largest is used as a ring; the header with the highest
//! generation counts, and only that: all that came before it is on the members. A full row needs no
//! partial parity, its entry says only that P is to be computed again.

mod entry;
mod error;
mod header;
mod place;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

pub use entry::{PplArray, PplEntry, PplSpan};
pub use error::PplError;
pub use header::{PplHeader, PplWriter};
#[cfg(test)]
pub(crate) use place::PplRing;
pub use place::{PplPlace, PplSearch};

use super::SECTOR_BYTES;

/// Bytes of a header.
pub const PPL_HEADER_BYTES: usize = 4096;

/// Entries of a header.
pub const PPL_ENTRIES_MAX: usize = 148;

/// Partial parity that one header describes in a log that is used as a ring.
pub const PPL_SPACE_BYTES: u32 = 128 << 10;

const HEADER_SECTORS: u32 = 8;

/// md's STRIPE_SECTORS: what a log needs at least besides the header.
const PAGE_SECTORS: u32 = 8;

/// As the sizes of 32 bits in entries are counted.
const SECTOR_BYTES_U32: u32 = 512;

const _: () = {
    assert!(SECTOR_BYTES_U32 as u64 == SECTOR_BYTES);
    assert!(HEADER_SECTORS as u64 * SECTOR_BYTES == PPL_HEADER_BYTES as u64);
};

/// CRC-32C, as the headers and entries have it.
#[must_use]
pub fn ppl_checksum(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

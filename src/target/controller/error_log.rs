//! The Error Information log (Base 2.1, section 5.1.12.1.2): the last commands that failed.

use zerocopy::{FromZeros, IntoBytes};

use super::log_page::Window;
use crate::wire::nvme::log_page::{ERROR_ENTRY_BYTES, ErrorEntry};
use crate::wire::nvme::{Sqe, Status};

/// Identify's ELPE, 0's based.
pub(super) const ELPE: u8 = 63;
pub(super) const ENTRIES_MAX: usize = 64;
const _: () = assert!(ELPE as usize + 1 == ENTRIES_MAX);

/// PELOC for an error that belongs to no single bit of the command.
const LOCATION_NONE: u16 = 0xffff;

/// A command that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandError {
    /// Queue.
    pub qid: u16,
    /// Command.
    pub cid: u16,
    /// Opcode.
    pub opcode: u8,
    /// Namespace the command named.
    pub nsid: u32,
    /// Dwords 10 and 11: the first logical block, where the command has one.
    pub lba: u64,
    /// How it ended.
    pub status: Status,
}

impl CommandError {
    /// What is worth keeping of a failed command; `None`: it did not fail by itself.
    #[must_use]
    pub fn of(qid: u16, sqe: &Sqe, status: Status) -> Option<Self> {
        let aborted = [Status::ABORT_REQUESTED, Status::ABORTED_SQ_DELETION];
        if status.is_success() || aborted.iter().any(|one| one.is_same_code(status)) {
            return None;
        }
        let lba = if qid == 0 { 0 } else { sqe.slba() };
        let nsid = sqe.nsid.get();
        Some(Self { qid, cid: sqe.cid.get(), opcode: sqe.opcode, nsid, lba, status })
    }
}

/// The log of one controller.
#[derive(Debug, Default)]
pub(super) struct ErrorLog {
    /// Entry `n` (from 1) lies at `(n - 1) % ENTRIES_MAX`. Made when the first error comes.
    entries: Vec<CommandError>,
    count: u64,
}

impl ErrorLog {
    /// Errors since the controller was made.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Keeps an error, in front of which `skipped` others were not told.
    pub(super) fn add(&mut self, error: CommandError, skipped: u64) {
        self.count += skipped;
        if self.entries.len() < ENTRIES_MAX {
            self.entries.reserve_exact(ENTRIES_MAX - self.entries.len());
            self.entries.push(error);
        } else {
            self.entries.rotate_left(1);
            self.entries[ENTRIES_MAX - 1] = error;
        }
        self.count += 1;
    }

    /// The page: the last error first.
    pub(super) fn fill(&self, window: &mut Window<'_>) {
        let newest_first = self.entries.iter().rev();
        for ((error, count), at) in
            newest_first.zip((0..=self.count).rev()).zip((0..).step_by(ERROR_ENTRY_BYTES))
        {
            let mut entry = ErrorEntry::new_zeroed();
            entry.error_count.set(count);
            entry.sqid.set(error.qid);
            entry.cid.set(error.cid);
            entry.status.set(error.status.to_wire());
            entry.parameter_location.set(LOCATION_NONE);
            entry.lba.set(error.lba);
            entry.nsid.set(error.nsid);
            entry.trtype = ErrorEntry::TRTYPE_TCP;
            entry.opcode = error.opcode;
            entry.version = 1;
            window.put(at, entry.as_bytes());
        }
    }
}

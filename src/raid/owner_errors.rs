//! Reads that fail on a member.
//!
//! Each is served by the others and the range is written again from them ([`super::owner_resync`]);
//! then the member reads it back and compares, since a medium may take a write and not keep it. Who
//! can't is out.
//!
//! Every member has its count, and a second one that decides: as in md it is halved with each full
//! hour that went by since the error before, and a member with more than [`ErrorPolicy`] allows is
//! failed, if the array can do without it. A spare takes its place then.

use super::message::{ArrayEvent, BlockRange, Out};
use super::owner::Owner;
use super::owner_members::MemberState;
use super::{MemberSlot, bit};
use crate::md::SECTOR_BYTES;
use serde::{Deserialize, Serialize};

/// md's default.
pub const READ_ERRORS_MAX_DEFAULT: u32 = 20;

/// After this long a member's recent errors count half.
const HALVED_AFTER_S: u64 = 3600;

/// What becomes of a member that fails to write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteErrorPolicy {
    /// It is failed.
    #[default]
    Fail,
    /// What it could not write is put on its bad-block log, and it stays; if it has none, or no
    /// room in it, it is failed.
    BadBlock,
}

impl WriteErrorPolicy {
    /// As an operator writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::BadBlock => "bad_block",
        }
    }

    /// What is called so.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Fail, Self::BadBlock].into_iter().find(|policy| policy.name() == name)
    }
}

/// What an array puts up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// Recent read errors that a member may have; 0: any number.
    pub read_errors_max: u32,
    /// What becomes of a member that fails to write.
    pub write_errors: WriteErrorPolicy,
}

impl Default for ErrorPolicy {
    fn default() -> Self {
        Self { read_errors_max: READ_ERRORS_MAX_DEFAULT, write_errors: WriteErrorPolicy::default() }
    }
}

/// A member's read errors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ReadErrors {
    /// Since it joined, or the array was started.
    pub(super) total: u64,
    recent: u32,
    last_s: u64,
}

impl ReadErrors {
    /// One more, at this time of a clock that may be set back.
    fn note(&mut self, now_s: u64) {
        let halvings = now_s.saturating_sub(self.last_s) / HALVED_AFTER_S;
        let kept = u32::try_from(halvings).ok().and_then(|by| self.recent.checked_shr(by));
        self.recent = kept.unwrap_or(0).saturating_add(1);
        self.total = self.total.saturating_add(1);
        self.last_s = now_s;
    }

    fn are_too_many(&self, policy: ErrorPolicy) -> bool {
        policy.read_errors_max != 0 && self.recent > policy.read_errors_max
    }
}

impl Owner {
    /// What the array puts up with from now on.
    pub(super) fn set_error_policy(&mut self, policy: ErrorPolicy, out: &mut Out<'_>) {
        self.error_policy = policy;
        self.use_bad_blocks(policy.write_errors == WriteErrorPolicy::BadBlock, out);
    }

    /// A read failed on a member and was served by another.
    pub(super) fn read_failed(&mut self, slot: MemberSlot, range: BlockRange, out: &mut Out<'_>) {
        let member = &self.members[usize::from(slot)];
        if member.state == MemberState::InSync {
            // A bad medium must not flood the log; the count is in the array's status.
            if (member.read_errors.total + 1).is_power_of_two() {
                let event = ArrayEvent::ReadFailed { slot, lba: range.lba };
                out.mail.push_back(super::Mail::Event(event));
            }
            self.walker.want_repair(slot, range);
        }
        self.note_read_error(slot, out);
    }

    /// Counts a read that failed; the member may be out after it.
    pub(super) fn note_read_error(&mut self, slot: MemberSlot, out: &mut Out<'_>) {
        let policy = self.error_policy;
        let errors = &mut self.members[usize::from(slot)].read_errors;
        errors.note(out.wall_clock_s);
        let (total, are_too_many) = (errors.total, errors.are_too_many(policy));
        let is_spare = self.shared.geometry.may_fail(self.in_sync, slot);
        if !are_too_many || self.in_sync & bit(slot) == 0 || !is_spare {
            return;
        }
        let event = ArrayEvent::TooManyReadErrors { slot, errors: total };
        out.mail.push_back(super::Mail::Event(event));
        if !mutant!(ReadErrorsForgiven) {
            self.fail_member(slot, out);
        }
    }

    /// What a member could not read was written again, and it has it.
    pub(super) fn read_corrected(
        &mut self,
        slot: MemberSlot,
        range: BlockRange,
        out: &mut Out<'_>,
    ) {
        let sectors_per_block = u64::from(self.shared.block_size_bytes) / SECTOR_BYTES;
        let sectors = u32::try_from(range.blocks * sectors_per_block).unwrap_or(u32::MAX);
        // It reaches the medium with the next update.
        if let Some(superblock) = &mut self.members[usize::from(slot)].superblock {
            superblock.corrected_reads = superblock.corrected_reads.saturating_add(sectors);
        }
        let event = ArrayEvent::ReadRepaired { slot, lba: range.lba };
        out.mail.push_back(super::Mail::Event(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_weigh_half_after_an_hour() {
        let mut errors = ReadErrors::default();
        (0..16).for_each(|second| errors.note(1_000_000 + second));
        assert_eq!((errors.total, errors.recent), (16, 16));
        errors.note(1_000_015 + 3599);
        assert_eq!(errors.recent, 17);
        errors.note(1_000_015 + 3599 + 2 * 3600);
        assert_eq!(errors.recent, 17 / 4 + 1);
        // A clock that is set back is no reason to forget.
        errors.note(0);
        assert_eq!(errors.recent, 6);
        errors.note(u64::MAX);
        assert_eq!((errors.total, errors.recent), (20, 1));
    }

    #[test]
    fn the_policy_is_a_bound_or_none() {
        let mut errors = ReadErrors::default();
        (0..21).for_each(|_| errors.note(5));
        assert!(errors.are_too_many(ErrorPolicy::default()));
        assert!(!errors.are_too_many(ErrorPolicy { read_errors_max: 21, ..<_>::default() }));
        assert!(!errors.are_too_many(ErrorPolicy { read_errors_max: 0, ..<_>::default() }));
    }
}

//! Check and repair: do the members in sync hold the same where they should?
//!
//! The walker takes chunks that are Clean or Dirty, in windows that no host write enters; chunks in
//! doubt are resync's, and Unwritten ones are read from no member. A piece is read from the member
//! that resync would copy from, and compared on the others. One that differs is looked at again in
//! parts of 4 KiB, so that the places are known; `repair` writes the source's blocks to the others.
//! What a member can't read is rewritten in either case, as for a read of the host.

use super::message::{ArrayEvent, Mail, Out, SlotMask};
use super::owner::{Life, Owner};
use super::owner_resync::Run;
use super::{MemberSlot, slots};
use crate::bitmap::ChunkState;

/// Chunks looked at in one poll while searching.
const CHUNKS_PER_POLL: usize = 4096;

/// Size of the parts in which differences are told.
pub(super) const PART_SIZE_BYTES: u64 = 4096;

/// Places of differences that are remembered; all are counted.
const PLACES_MAX: usize = 64;

/// What an operator can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrubAction {
    /// Compare.
    Check,
    /// Compare, and make alike what differs.
    Repair,
    /// End the one that runs.
    Stop,
}

/// A check or repair as an operator sees it; the last one stays visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubStatus {
    /// It has not ended yet.
    pub running: bool,
    /// Differences are made alike.
    pub repair: bool,
    /// Chunks looked at, Unwritten ones included, and chunks in all.
    pub done: u64,
    /// See `done`.
    pub total: u64,
    /// Parts of 4 KiB (or blocks, if those are larger) that differ, by member.
    pub mismatches: u64,
    /// The first of them: member and first block.
    pub places: Vec<(MemberSlot, u64)>,
    /// Pieces that no member could read, or that a member could not be given.
    pub failures: u64,
}

/// The scrub's part of the owner.
#[derive(Debug, Default)]
pub(super) struct Scrubber {
    status: Option<ScrubStatus>,
    next: usize,
}

impl Scrubber {
    pub(super) fn status(&self) -> Option<ScrubStatus> {
        self.status.clone()
    }

    fn running(&mut self) -> Option<&mut ScrubStatus> {
        self.status.as_mut().filter(|status| status.running)
    }

    /// It has chunks to look for.
    pub(super) fn is_searching(&self) -> bool {
        self.status.as_ref().is_some_and(|it| it.running && (self.next as u64) < it.total)
    }

    pub(super) fn repairs(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.repair)
    }

    /// A part differs on these members.
    pub(super) fn note(&mut self, members: SlotMask, lba: u64) {
        let Some(status) = self.running() else { return };
        for slot in slots(members) {
            status.mismatches += 1;
            if status.places.len() < PLACES_MAX {
                status.places.push((slot, lba));
            }
        }
    }

    /// The array has so many chunks from now on.
    pub(super) fn grow(&mut self, chunks: usize) {
        if self.is_searching()
            && let Some(status) = self.running()
        {
            status.total = chunks as u64;
        }
    }

    pub(super) fn note_failure(&mut self) {
        if let Some(status) = self.running() {
            status.failures += 1;
        }
    }
}

impl Owner {
    /// Begins or ends a check.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn scrub(&mut self, action: ScrubAction, out: &mut Out<'_>) -> Result<(), String> {
        let is_running = self.scrubber.running().is_some();
        if action == ScrubAction::Stop {
            if !is_running {
                return Err("no check is running".to_owned());
            }
            self.scrubber.next = self.chunk_count();
            self.go_on(out);
            return Ok(());
        }
        if self.life() != Life::Running || self.failed {
            return Err("it is starting or stopping, or has lost its metadata".to_owned());
        }
        if is_running {
            return Err("a check is running already".to_owned());
        }
        if self.shared.geometry.sync_blocks() == 0 {
            return Err("its level has no redundancy: there is nothing to compare".to_owned());
        }
        let repair = action == ScrubAction::Repair;
        self.scrubber.next = 0;
        self.scrubber.status = Some(ScrubStatus {
            running: true,
            repair,
            done: 0,
            total: self.chunk_count() as u64,
            mismatches: 0,
            places: Vec::with_capacity(PLACES_MAX),
            failures: 0,
        });
        out.mail.push_back(Mail::Event(ArrayEvent::ScrubStarted { repair }));
        self.go_on(out);
        Ok(())
    }

    /// A chunk that members in sync should hold alike.
    pub(super) fn is_comparable(&self, chunk: usize) -> bool {
        let state = self.shared.chunk_state(chunk);
        matches!(state, None | Some(ChunkState::Clean | ChunkState::Dirty))
            && !self.discarder.holds(chunk)
    }

    /// Whether there is anything to compare with: another member, and with parity all of them.
    pub(super) fn can_compare(&self) -> bool {
        match self.parity_work {
            Some(_) => self.in_sync == self.shared.geometry.all_slots(),
            None => self.in_sync.count_ones() > 1,
        }
    }

    /// The next chunks to compare, looking at a bounded number of chunks.
    pub(super) fn find_scrub(&mut self) -> Option<Run> {
        if !self.scrubber.is_searching() || !self.can_compare() {
            return None;
        }
        let from = self.scrubber.next;
        let end = self.chunk_count().min(from + CHUNKS_PER_POLL);
        // Where a window works, chunks are being made alike: the check is as good as done.
        let is_fit = |chunk: &usize| {
            self.is_comparable(*chunk)
                && !self.walker.works_in(&self.shared.blocks_of_chunk(*chunk))
        };
        let found = (from..end).find(is_fit).map(|first| {
            let more = first + 1..end.min(first + self.run_chunks_max());
            (first, more.take_while(is_fit).last().unwrap_or(first))
        });
        let next = found.map_or(end, |(_, last)| last + 1);
        self.scrubber.next = next;
        if let Some(status) = self.scrubber.running() {
            status.done = next as u64;
        }
        found
    }

    /// Nothing is left to look for: the check is over when its last window is.
    pub(super) fn scrub_can_end(&self) -> bool {
        let status = self.scrubber.status.as_ref();
        status.is_some_and(|status| status.running)
            && !self.walker.is_scrubbing()
            && (!self.scrubber.is_searching()
                || !self.can_compare()
                || self.life() != Life::Running
                || self.failed)
    }

    /// A poll will find chunks to compare without another event.
    pub(super) fn is_searching_scrub(&self) -> bool {
        self.scrubber.is_searching()
            && self.can_compare()
            && self.walker.has_room()
            && self.life() == Life::Running
            && !self.failed
    }

    pub(super) fn poll_scrub(&mut self, out: &mut Out<'_>) {
        if !self.scrub_can_end() {
            return;
        }
        let status = self.scrubber.running().expect("it runs");
        status.running = false;
        let (mismatches, failures) = (status.mismatches, status.failures);
        let event = ArrayEvent::ScrubDone { mismatches, failures };
        out.mail.push_back(Mail::Event(event));
    }
}

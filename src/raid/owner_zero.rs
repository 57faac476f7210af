//! The owner's zeroing of chunks before their first write.
//!
//! A chunk that is Unwritten reads as zeroes whatever the members hold. Before the first write
//! opens it they are made to hold zeroes, durably, so that the rest of the chunk goes on to read
//! as zeroes, and a power cut in the middle of the write leaves zeroes or the new data.

use super::message::{Mail, Out, SlotMask, ToChannel};
use super::owner::{MemberRequest, Owner, OwnerOp};
use super::owner_bitmap::{Blocked, NONE, Waiter};
use super::{MemberSlot, bit, slots};
use crate::bdev::{IoOp, IoStatus};
use crate::bitmap::{ChunkState, state};

/// Chunks that may be zeroed at a time before their first write.
pub(super) const ZERO_JOBS: usize = 64;

/// Zeroing of a chunk on all members.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ZeroJob {
    pub(super) busy: bool,
    pub(super) chunk: usize,
    pub(super) pending: SlotMask,
    ok: SlotMask,
    failed: SlotMask,
    failure: Option<IoStatus>,
    /// All members have answered, some of them well; waits until the absence of the others is
    /// recorded. A power cut before would bring one of them back as equal, with what it held
    /// before the zeroing, and the chunk Dirty.
    zeroed: bool,
}

impl Owner {
    /// Makes sure that a chunk never written is being zeroed. `false`: no job is free.
    pub(super) fn zero_chunk(&mut self, chunk: usize, out: &mut Out<'_>) -> bool {
        let members = self.writable;
        let bitmap = self.keeper();
        if bitmap.zero_job_of(chunk).is_some() {
            return true;
        }
        let Some(index) = bitmap.zero_jobs.iter().position(|job| !job.busy) else {
            return false;
        };
        bitmap.zero_jobs[index] =
            ZeroJob { busy: true, chunk, pending: members, ..ZeroJob::default() };
        let range = self.shared.blocks_of_chunk(chunk);
        for slot in slots(members) {
            let place = self.place(slot);
            let request = MemberRequest {
                op: IoOp::WriteZeroes,
                lba: place.data_lba + range.lba,
                blocks: u32::try_from(range.blocks).expect("a chunk's blocks fit u32"),
                buf: None,
            };
            self.send(slot, OwnerOp::Zero(index), request, out);
        }
        true
    }

    /// A member has zeroed a chunk, or has not.
    pub(super) fn zero_answered(
        &mut self,
        index: usize,
        slot: MemberSlot,
        status: IoStatus,
        out: &mut Out<'_>,
    ) {
        let job = &mut self.keeper().zero_jobs[index];
        job.pending &= !bit(slot);
        if status.is_ok() {
            job.ok |= bit(slot);
        } else {
            job.failed |= bit(slot);
            job.failure = Some(status);
        }
        if job.pending != 0 {
            return;
        }
        let (ok, failed, chunk, failure) = (job.ok, job.failed, job.chunk, job.failure);
        if ok & self.in_sync == 0 {
            self.keeper().zero_jobs[index] = ZeroJob::default();
            self.refuse_chunk(chunk, failure.unwrap_or(IoStatus::MediaError), out);
            return self.advance_queue(Blocked::ZeroJobs, out);
        }
        self.keeper().zero_jobs[index].zeroed = true;
        self.keeper().zeroed += 1;
        for slot in slots(failed) {
            self.fail_member(slot, out);
        }
    }

    /// Chunks that are zeroed and whose zeroes can't be taken back by a power cut become Dirty.
    pub(super) fn poll_zeroing(&mut self, out: &mut Out<'_>) {
        let waits = self.bitmap.as_ref().is_some_and(|bitmap| bitmap.zeroed > 0);
        let is_recorded = self.absences_are_recorded() || mutant!(ZeroedBeforeAbsenceRecorded);
        if !waits || self.failed || !is_recorded {
            return;
        }
        self.keeper().zeroed = 0;
        for index in 0..ZERO_JOBS {
            if !self.keeper().zero_jobs[index].zeroed {
                continue;
            }
            let job = std::mem::take(&mut self.keeper().zero_jobs[index]);
            let next = state::on_write(ChunkState::Unwritten, self.is_degraded());
            self.turn(job.chunk, next);
        }
        self.advance_queue(Blocked::ZeroJobs, out);
        self.poll_bitmap(out);
    }

    /// The writers that wait for a chunk which no member could zero fail; the others stay.
    fn refuse_chunk(&mut self, chunk: usize, status: IoStatus, out: &mut Out<'_>) {
        let bitmap = self.keeper();
        let unit = Blocked::Unit(bitmap.ledger.unit_of(chunk));
        let mut waiter = bitmap.take_waiters(unit);
        while waiter != NONE {
            let Waiter { core, question, next } = bitmap.waiters[waiter as usize];
            if (question.first as usize..=question.last as usize).contains(&chunk) {
                bitmap.free_waiters.push(waiter);
                let refusal = ToChannel::Refused(question.op, status);
                out.mail.push_back(Mail::Channel(core, refusal));
            } else {
                bitmap.park(waiter, unit);
            }
            waiter = next;
        }
    }
}

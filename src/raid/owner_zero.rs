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

/// Requests of one job to members at a time: a chunk in small strips takes many.
const ZERO_REQUESTS_MAX: u32 = 64;

const _: () = assert!(ZERO_REQUESTS_MAX as usize >= crate::limits::MEMBERS_MAX);

/// Zeroing of a chunk on all members.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ZeroJob {
    pub(super) busy: bool,
    pub(super) chunk: usize,
    /// Members when it began.
    members: SlotMask,
    /// First block that members have not been asked to zero, and first behind the chunk.
    next: u64,
    end: u64,
    /// Requests that members have not answered, and who was sent any.
    pub(super) pending: u32,
    asked: SlotMask,
    failed: SlotMask,
    failure: Option<IoStatus>,
    /// All members have answered, some of them well; waits until the absence of the others is
    /// recorded. A power cut before would bring one of them back as equal, with what it held
    /// before the zeroing, and the chunk Dirty.
    zeroed: bool,
    /// What the rings of the stripe log are asked by, and how many have not answered. A record of
    /// what the chunk held before it was discarded must not come over what is written from now on.
    oblivion: u32,
    remembering: u16,
    /// One of them can't forget.
    remembers: bool,
}

impl ZeroJob {
    /// Requests to the slot's device are under way.
    pub(super) fn has_requests_at(&self, slot: MemberSlot) -> bool {
        self.pending > 0 && self.asked & bit(slot) != 0
    }

    /// The slot's member is asked for all of it.
    pub(super) fn includes(&self, slot: MemberSlot) -> bool {
        self.members & bit(slot) != 0
    }
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
        let range = self.shared.blocks_of_chunk(chunk);
        self.keeper().zero_jobs[index] = ZeroJob {
            busy: true,
            chunk,
            members,
            next: range.lba,
            end: range.lba + range.blocks,
            ..ZeroJob::default()
        };
        if self.shared.log.is_some() {
            let id = self.log.next_oblivion();
            let cores = self.cores;
            let job = &mut self.keeper().zero_jobs[index];
            (job.oblivion, job.remembering) = (id, cores);
            out.mail.push_back(Mail::Channels(ToChannel::Forget(id, range)));
        }
        self.zero_runs(index, out);
        true
    }

    /// A channel's ring of the stripe log has no live record of a chunk any more, or can't tell.
    pub(super) fn forgotten(&mut self, id: u32, is_forgotten: bool) {
        self.log_renewed(id, is_forgotten);
        let Some(bitmap) = &mut self.bitmap else { return };
        let mut jobs = bitmap.zero_jobs.iter_mut();
        // It is nobody's if the chunk could not be zeroed.
        if let Some(job) = jobs.find(|job| job.busy && job.remembering > 0 && job.oblivion == id) {
            job.remembering -= 1;
            job.remembers |= !is_forgotten;
        }
    }

    /// Sends as many requests of a job as may be under way.
    fn zero_runs(&mut self, index: usize, out: &mut Out<'_>) {
        loop {
            let members = self.writable;
            let job = &mut self.keeper().zero_jobs[index];
            let (lba, end, legs_max) = (job.next, job.end, members.count_ones());
            let is_full = job.pending > 0 && job.pending + legs_max > ZERO_REQUESTS_MAX;
            if lba == end || is_full {
                return;
            }
            let run = self.shared.sync_run(lba);
            let blocks = run.blocks.min(end - lba);
            let targets = run.legs & members;
            let job = &mut self.keeper().zero_jobs[index];
            job.next += blocks;
            job.pending += targets.count_ones();
            job.asked |= targets;
            for slot in slots(targets) {
                let request = MemberRequest {
                    op: IoOp::WriteZeroes,
                    lba: self.place(slot).data_lba + self.shared.sync_leg_lba(lba, slot),
                    blocks: u32::try_from(blocks).expect("a chunk's blocks fit u32"),
                    buf: None,
                };
                self.send(slot, OwnerOp::Zero(index), request, out);
            }
        }
    }

    /// A member has zeroed a part of a chunk, or has not.
    pub(super) fn zero_answered(
        &mut self,
        index: usize,
        slot: MemberSlot,
        status: IoStatus,
        out: &mut Out<'_>,
    ) {
        let job = &mut self.keeper().zero_jobs[index];
        job.pending -= 1;
        if !status.is_ok() {
            job.failed |= bit(slot);
            job.failure = Some(status);
        }
        if job.failure.is_none() {
            self.zero_runs(index, out);
        }
        let job = &self.keeper().zero_jobs[index];
        if job.pending != 0 {
            return;
        }
        let (failed, chunk, failure, is_whole) =
            (job.failed, job.chunk, job.failure, job.next == job.end);
        if !self.may_fail_all(failed) {
            self.keeper().zero_jobs[index] = ZeroJob::default();
            self.rebuilder.unblock();
            self.refuse_chunk(chunk, failure.unwrap_or(IoStatus::MediaError), out);
            return self.advance_queue(Blocked::ZeroJobs, out);
        }
        for slot in slots(failed) {
            self.fail_member(slot, out);
        }
        if !is_whole {
            // The others go on without those that failed.
            self.keeper().zero_jobs[index].failure = None;
            return self.zero_runs(index, out);
        }
        self.keeper().zero_jobs[index].zeroed = true;
        self.keeper().zeroed += 1;
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
            if self.keeper().zero_jobs[index].remembering > 0 {
                self.keeper().zeroed += 1;
                continue;
            }
            let job = std::mem::take(&mut self.keeper().zero_jobs[index]);
            self.rebuilder.unblock();
            if job.remembers {
                self.refuse_chunk(job.chunk, IoStatus::MediaError, out);
                continue;
            }
            self.shared.doubt.clear(job.chunk);
            let mut next = state::on_write(ChunkState::Unwritten, self.is_short());
            if self.writable & !job.members != 0 && !mutant!(ZeroedWithoutNewcomer) {
                // Somebody has joined while it was zeroed, and was not asked for all of it.
                next = ChunkState::NeedSync;
                self.walker.look_again();
            }
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

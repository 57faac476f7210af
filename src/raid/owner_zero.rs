//! The owner's zeroing of chunks before their first write.
//!
//! A chunk that is Unwritten reads as zeroes whatever the members hold. Before the first write
//! opens it they are made to hold zeroes, durably, so that the rest of the chunk goes on to read
//! as zeroes, and a power cut in the middle of the write leaves zeroes or the new data.
//! Where many are zeroed at once, those behind them are zeroed with them: see [`super::ahead`].

use std::ops::RangeInclusive;

use super::ahead::CHUNKS_PER_JOB;
use super::message::{Mail, Out, SlotMask, ToChannel};
use super::owner::{MemberRequest, Owner, OwnerOp};
use super::owner_bitmap::{Blocked, NONE, Waiter};
use super::spans::{Span, Spans};
use super::{MemberSlot, bit, slots};
use crate::bdev::{IoOp, IoStatus};
use crate::bitmap::{ChunkState, state};

/// Chunks that may be zeroed at a time before their first write.
pub(super) const ZERO_JOBS: usize = 64;

/// Runs of a chunk that are put together at a time: of small strips it has many.
const RUNS_PER_STEP: usize = 1024;

/// Requests of one job to members at a time, and those of the ranges that were put together last.
const ZERO_REQUESTS_MAX: u32 = 64;

/// Zeroing of chunks on all members.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ZeroJob {
    busy: bool,
    /// The first chunk, and how many.
    first: usize,
    count: usize,
    /// Bit i: chunk i of them is waited for.
    wanted: u64,
    /// How often devices had joined when it began.
    joins: u32,
    /// First block that members have not been asked to zero, and first behind the chunks.
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

const _: () = assert!(CHUNKS_PER_JOB == u64::BITS as usize);

impl ZeroJob {
    /// It is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// It zeroes this chunk.
    pub(super) fn has(&self, chunk: usize) -> bool {
        self.busy && (self.first..self.first + self.count).contains(&chunk)
    }

    /// It zeroes one of these chunks.
    pub(super) fn meets(&self, chunks: &RangeInclusive<usize>) -> bool {
        self.busy && self.first <= *chunks.end() && self.first + self.count > *chunks.start()
    }

    fn want(&mut self, chunk: usize) {
        self.wanted |= 1 << (chunk - self.first);
    }

    fn wants(&self, chunk: usize) -> bool {
        self.wanted & 1 << (chunk - self.first) != 0
    }

    pub(super) fn chunks(&self) -> RangeInclusive<usize> {
        self.first..=self.first + self.count - 1
    }

    /// Requests to the slot's device are under way.
    pub(super) fn has_requests_at(&self, slot: MemberSlot) -> bool {
        self.pending > 0 && self.asked & bit(slot) != 0
    }

    /// A device has joined since it began, of all those that have by now.
    pub(super) fn is_older_than(&self, joins: u32) -> bool {
        self.busy && self.joins != joins
    }
}

impl Owner {
    /// Makes sure that a chunk never written is being zeroed. `false`: no job is free.
    pub(super) fn zero_chunk(&mut self, chunk: usize, out: &mut Out<'_>) -> bool {
        let bitmap = self.keeper();
        if let Some(index) = bitmap.zero_job_of(chunk) {
            bitmap.zero_jobs[index].want(chunk);
            return true;
        }
        let Some(index) = bitmap.zero_jobs.iter().position(|job| !job.busy) else {
            return false;
        };
        let count = 1 + self.chunks_ahead(chunk);
        let range = self.shared.blocks_of_chunks(&(chunk..=chunk + count - 1));
        let joins = self.keeper().ahead.joins();
        self.keeper().zero_jobs[index] = ZeroJob {
            busy: true,
            first: chunk,
            count,
            wanted: 1,
            joins,
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

    /// Chunks behind this one that are to be zeroed with it.
    fn chunks_ahead(&self, chunk: usize) -> usize {
        let is_cheap = |slot: MemberSlot| self.place(slot).cheap_zeroes;
        let (Some(bitmap), Some(map)) = (&self.bitmap, &self.shared.map) else { return 0 };
        if !slots(self.writable).all(is_cheap) {
            return 0;
        }
        let jobs = || bitmap.zero_jobs.iter().filter(|job| job.busy);
        let behind = jobs().map(|job| job.first).filter(|&first| first > chunk);
        let end = behind.fold(map.len(), usize::min);
        let is_free = |&other: &usize| {
            map.is_unwritten_for_good(other)
                && !bitmap.ahead.has(other)
                && !self.discarder.holds(other)
        };
        let most = bitmap.ahead.budget(jobs().count());
        (chunk + 1..end).take(most).take_while(is_free).count()
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

    /// Sends the next requests of a job, as many as may be under way, when none is.
    fn zero_runs(&mut self, index: usize, out: &mut Out<'_>) {
        let members = self.writable;
        let job = &self.keeper().zero_jobs[index];
        let (mut lba, end) = (job.next, job.end);
        if job.pending > 0 || lba == end {
            return;
        }
        let mut spans = Spans::new();
        let mut runs = 0;
        while lba < end
            && runs < RUNS_PER_STEP
            && self.keeper().zero_jobs[index].pending < ZERO_REQUESTS_MAX
        {
            let run = self.shared.sync_run(lba);
            let blocks = run.blocks.min(end - lba);
            for slot in slots(self.with_twin(run.legs & members)) {
                let at = Span { lba: self.shared.sync_leg_lba(lba, self.origin(slot)), blocks };
                if let Some(span) = spans.add(slot, at) {
                    self.zero_span(index, slot, span, out);
                }
            }
            lba += blocks;
            runs += 1;
        }
        self.keeper().zero_jobs[index].next = lba;
        for (slot, span) in spans.into_rest() {
            self.zero_span(index, slot, span, out);
        }
    }

    fn zero_span(&mut self, index: usize, slot: MemberSlot, span: Span, out: &mut Out<'_>) {
        let job = &mut self.keeper().zero_jobs[index];
        job.pending += 1;
        job.asked |= bit(slot);
        let request = MemberRequest {
            op: IoOp::WriteZeroes,
            lba: self.place(slot).data_lba + span.lba,
            blocks: u32::try_from(span.blocks).expect("a chunk's blocks fit u32"),
            buf: None,
        };
        self.send(slot, OwnerOp::Zero(index), request, out);
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
        let (failed, failure, is_whole) = (job.failed, job.failure, job.next == job.end);
        if failure.is_some() && job.count > 1 {
            return self.zero_less(index, out);
        }
        if !self.may_fail_all(failed) {
            let job = std::mem::take(&mut self.keeper().zero_jobs[index]);
            self.rebuilder.unblock();
            self.refuse_chunks(&job, failure.unwrap_or(IoStatus::MediaError), out);
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

    /// Perhaps only what lies ahead could not be zeroed, which nobody has asked for: who waits asks
    /// again.
    #[cold]
    fn zero_less(&mut self, index: usize, out: &mut Out<'_>) {
        let bitmap = self.keeper();
        bitmap.ahead.stop();
        let job = std::mem::take(&mut bitmap.zero_jobs[index]);
        self.rebuilder.unblock();
        let bitmap = self.keeper();
        let chunks = job.chunks();
        let units = bitmap.ledger.unit_of(*chunks.start())..=bitmap.ledger.unit_of(*chunks.end());
        for unit in units {
            self.advance_queue(Blocked::Unit(unit), out);
        }
        self.advance_queue(Blocked::ZeroJobs, out);
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
            match job.remembers {
                true => self.refuse_chunks(&job, IoStatus::MediaError, out),
                false => self.chunks_zeroed(&job),
            }
        }
        self.advance_queue(Blocked::ZeroJobs, out);
        self.poll_bitmap(out);
    }

    /// All members hold zeroes in the chunks: those that are waited for turn Dirty.
    fn chunks_zeroed(&mut self, job: &ZeroJob) {
        // Who has joined while they were zeroed was not asked for all of them.
        let has_joined =
            self.keeper().ahead.joins() != job.joins && !mutant!(ZeroedWithoutNewcomer);
        for chunk in job.chunks() {
            if !job.wants(chunk) {
                if !has_joined {
                    self.keeper().ahead.put(chunk);
                }
                continue;
            }
            self.shared.doubt.clear(chunk);
            let mut next = state::on_write(ChunkState::Unwritten, self.is_short());
            if has_joined {
                next = ChunkState::NeedSync;
                self.walker.look_again();
            }
            self.turn(chunk, next);
        }
    }

    /// The writers that wait for chunks which no member could zero fail; the others stay.
    fn refuse_chunks(&mut self, job: &ZeroJob, status: IoStatus, out: &mut Out<'_>) {
        for chunk in job.chunks().filter(|&chunk| job.wants(chunk)) {
            self.refuse_chunk(chunk, status, out);
        }
    }

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

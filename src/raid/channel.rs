//! An array on one core: takes host requests, sends member requests, keeps the promises it makes
//! to the owner.

use std::collections::VecDeque;
use std::sync::Arc;

use super::bad::BadBlocks;
use super::channel_op::{Op, OpSet, OpState};
use super::channel_split::{PIECE, PIECES_MAX, SPLITS_MAX, Split};
use super::latency::LatencyLog;
use super::message::{BlockRange, Mail, Out, SlotMask, ToChannel, ToOwner};
use super::stripe::log::NOTE;
use super::stripe::{STRIPE_TAG, Stripes};
use super::{CHANNEL_OPS_MAX, MemberPlace, MemberSlot, Seniority, Shared, bit, slots};
use crate::bdev::{BdevId, BdevIo, IoOp, IoStatus};

/// Windows that resync can hold at once.
pub(super) const WINDOWS: usize = 16;

/// The window by which the owner holds chunks that it makes Unwritten.
pub(super) const DISCARD_WINDOW: u8 = 16;

/// Ranges held at once, for whatever purpose.
const LOCKS: usize = WINDOWS + 1;

const _: () = assert!(DISCARD_WINDOW as usize == WINDOWS && LOCKS <= u32::BITS as usize);

/// Requests that may wait for a slot: all pieces, and far more than the target's queues hold.
const WAITING_MAX: usize = 16 * CHANNEL_OPS_MAX;

const _: () = assert!(SPLITS_MAX * PIECES_MAX as usize <= WAITING_MAX);

/// A range that the owner holds.
#[derive(Debug, Clone, Copy)]
struct Lock {
    range: BlockRange,
    /// Writes to the range that were in flight when it was locked.
    waits_for: u32,
}

/// An array's channel on one core.
#[derive(Debug)]
pub struct Channel {
    pub(super) shared: Arc<Shared>,
    pub(super) ops: Box<[Op]>,
    free: Vec<u32>,
    /// Requests that found no free slot, oldest first.
    waiting: VecDeque<BdevIo>,
    /// Requests that are cut into pieces.
    pub(super) splits: Box<[Split]>,
    pub(super) free_splits: Vec<u32>,
    pub(super) waiting_splits: VecDeque<BdevIo>,
    /// Where each slot's data lie; `None` for an empty slot.
    pub(super) places: Box<[Option<MemberPlace>]>,
    /// Members that are read.
    pub(super) in_sync: SlotMask,
    /// Members that are written: those in sync and those being rebuilt.
    pub(super) writable: SlotMask,
    /// Since when they are in sync.
    pub(super) seniority: Seniority,
    /// Slots whose requests the owner waits for, and its name for the wait.
    draining: SlotMask,
    drain_round: u32,
    /// All slots of the array.
    pub(super) all: SlotMask,
    /// Every member has everything at the same place: what a request asks the geometry is known.
    pub(super) is_mirror: bool,
    /// The same, and nothing is listed as bad: no request is cut.
    pub(super) never_cuts: bool,
    /// Members whose absence is durable.
    pub(super) recorded: SlotMask,
    /// Members whose failure has been reported to the owner.
    reported: SlotMask,
    /// Members that have failed a request and are kept, because no other has what they have.
    pub(super) kept: SlotMask,
    locks: [Option<Lock>; LOCKS],
    lock_count: u32,
    /// Writes counted as in flight.
    in_flight_writes: OpSet,
    /// Writes that a lock keeps back.
    pub(super) lock_waiters: OpSet,
    /// Writes in flight, by the parity of the quiesce round in which they began.
    counted: [u32; 2],
    parity: u8,
    quiesce: Option<u32>,
    /// The member whose blocks go to the device that replaces it, too.
    pub(super) replaced: Option<MemberSlot>,
    /// The device that replaces a member, as a set: it has the number behind the slots.
    pub(super) twin: SlotMask,
    /// No request of the host begins; and the owner's name for the wait, until it is told that
    /// none is under way.
    paused: bool,
    pause_round: Option<u32>,
    /// Outstanding reads by slot, to balance them.
    pub(super) reads: Vec<u32>,
    /// How long requests take.
    pub(super) latency: LatencyLog,
    failed: bool,
    closing: bool,
    closed: bool,
    /// What members have listed as bad.
    pub(super) bad: BadBlocks,
    /// Rows under work; levels with parity only.
    pub(super) stripes: Option<Box<Stripes>>,
}

impl Channel {
    /// The channel of an array whose members `in_sync` are read and whose members `writable` are
    /// written; all others are known absent.
    #[must_use]
    pub fn new(shared: Arc<Shared>, in_sync: SlotMask, writable: SlotMask) -> Self {
        assert!(in_sync & !writable == 0, "who is in sync is written");
        let places = shared.places().into_boxed_slice();
        let (slots, twin) = (shared.places_len(), shared.twin_bit());
        let all = shared.geometry.all_slots() | twin;
        let replaced = shared.replacement.map(|(slot, _)| slot);
        let is_mirror = shared.is_mirror();
        let bad = BadBlocks::of(&shared);
        let ops_max = u32::try_from(CHANNEL_OPS_MAX).expect("a small constant");
        let never_cuts = is_mirror && bad.is_empty();
        let mut channel = Self {
            shared,
            ops: (0..CHANNEL_OPS_MAX).map(|_| Op::free()).collect(),
            free: (0..ops_max).rev().collect(),
            waiting: VecDeque::with_capacity(CHANNEL_OPS_MAX),
            splits: Box::default(),
            free_splits: Vec::new(),
            waiting_splits: VecDeque::new(),
            places,
            in_sync,
            writable,
            seniority: Seniority::new(slots),
            draining: 0,
            drain_round: 0,
            all,
            is_mirror,
            never_cuts,
            recorded: all & !writable,
            reported: 0,
            kept: 0,
            locks: [None; LOCKS],
            lock_count: 0,
            in_flight_writes: OpSet::default(),
            lock_waiters: OpSet::default(),
            counted: [0; 2],
            parity: 0,
            quiesce: None,
            replaced,
            twin,
            paused: false,
            pause_round: None,
            reads: vec![0; slots],
            latency: LatencyLog::default(),
            failed: false,
            closing: false,
            closed: false,
            bad,
            stripes: None,
        };
        if !never_cuts {
            channel.be_able_to_split();
        }
        channel
    }

    /// Takes a host request.
    pub fn submit(&mut self, io: BdevIo, out: &mut Out<'_>) {
        if self.closing {
            return io.complete(IoStatus::Removed, out.io);
        }
        let range = BlockRange { lba: io.lba, blocks: io.blocks.into() };
        let fits = io.lba.checked_add(range.blocks).is_some_and(|end| end <= self.shared.blocks);
        if io.op != IoOp::Flush && (!fits || io.blocks == 0) {
            return io.complete(IoStatus::OutOfRange, out.io);
        }
        if self.never_cuts || !self.must_be_cut(&io) {
            return self.take(io, out);
        }
        self.split(io, out);
    }

    #[inline(never)]
    fn split(&mut self, io: BdevIo, out: &mut Out<'_>) {
        match self.free_splits.pop() {
            Some(split) => self.begin_split(split, io, out),
            None if self.waiting_splits.len() < WAITING_MAX => self.waiting_splits.push_back(io),
            None => io.complete(IoStatus::Aborted, out.io),
        }
    }

    /// Takes a request that lies in one strip, or a piece that does.
    #[inline]
    pub(super) fn take(&mut self, io: BdevIo, out: &mut Out<'_>) {
        match self.free.pop_if(|_| !self.paused) {
            Some(op) => self.begin(op, io, out),
            None if self.waiting.len() < WAITING_MAX => self.waiting.push_back(io),
            None => io.complete(IoStatus::Aborted, out.io),
        }
    }

    /// The owner wants to change what nothing may be under way beside: no request begins, and those
    /// under way end.
    #[cold]
    fn pause(&mut self, round: u32, out: &mut Out<'_>) {
        (self.paused, self.pause_round) = (true, Some(round));
        self.report_paused(out);
    }

    #[cold]
    fn resume(&mut self, out: &mut Out<'_>) {
        (self.paused, self.pause_round) = (false, None);
        while !self.free.is_empty() {
            let Some(next) = self.waiting.pop_front() else { return };
            self.take(next, out);
        }
    }

    /// The pause has taken too long: the host goes on, and the owner hears who was waited for.
    #[cold]
    fn end_pause(&mut self, round: u32, out: &mut Out<'_>) {
        let mut waited_for = 0;
        if self.pause_round.is_some() {
            waited_for = self.ops.iter().fold(0, |mask, op| mask | op.pending);
            if let Some(stripes) = &self.stripes {
                waited_for |= slots(self.all)
                    .filter(|&slot| stripes.asks(bit(slot)))
                    .fold(0, |mask, slot| mask | bit(slot));
            }
        }
        self.resume(out);
        out.mail.push_back(Mail::Owner(ToOwner::PauseEnded(round, waited_for)));
    }

    /// The array has grown: nothing is under way, and this is what owner and channels share now.
    ///
    /// # Panics
    /// If the channel has not been told to pause.
    #[cold]
    pub fn grow(&mut self, shared: Arc<Shared>, out: &mut Out<'_>) {
        assert!(self.paused || self.closing || mutant!(GrowthUnpaused), "it grows at work");
        self.shared = shared;
        // What was to become Unwritten to the end of the array covers a part of a chunk now.
        for _ in 0..self.waiting.len() {
            match self.waiting.pop_front() {
                Some(io) if !self.is_mirror && self.crosses_strips(&io) => self.split(io, out),
                Some(io) => self.waiting.push_back(io),
                None => break,
            }
        }
        out.mail.push_back(Mail::Owner(ToOwner::HasGrown));
    }

    /// Tells the owner when nothing of the host is under way while it is to be so.
    pub(super) fn report_paused(&mut self, out: &mut Out<'_>) {
        let is_idle = self.free.len() == CHANNEL_OPS_MAX
            && self.stripes.as_ref().is_none_or(|stripes| stripes.is_idle());
        if is_idle && let Some(round) = self.pause_round.take() {
            out.mail.push_back(Mail::Owner(ToOwner::Paused(round)));
        }
    }

    /// The set, and if it has the member that is being replaced, what replaces it.
    #[inline]
    pub(super) fn with_twin(&self, members: SlotMask) -> SlotMask {
        match self.replaced {
            Some(slot) if members & bit(slot) != 0 && !mutant!(ReplacementForgotten) => {
                members | self.twin & self.writable
            }
            _ => members,
        }
    }

    fn begin(&mut self, op: u32, io: BdevIo, out: &mut Out<'_>) {
        let kind = io.op;
        self.ops[op as usize].accept(io, &self.shared);
        self.ops[op as usize].began_ns = self.latency.begin();
        self.ops[op as usize].legs = match kind {
            _ if self.is_mirror => self.all,
            IoOp::Flush => self.all,
            _ => self.legs_of(op),
        };
        match kind {
            IoOp::Read | IoOp::Compare => self.start_read(op, out),
            IoOp::Write => self.start_write(op, out),
            IoOp::WriteZeroes | IoOp::Unmap => self.start_zeroes(op, out),
            IoOp::Flush => self.start_flush(op, out),
        }
    }

    #[inline(never)]
    fn legs_of(&self, op: u32) -> SlotMask {
        let this = &self.ops[op as usize];
        self.shared.holders(this.range.lba, this.io().op.modifies())
    }

    /// A member has answered, or a piece of a request has ended.
    pub fn member_done(&mut self, op: u32, slot: MemberSlot, status: IoStatus, out: &mut Out<'_>) {
        if slot == PIECE {
            return self.piece_done(op, status, out);
        }
        if op & STRIPE_TAG != 0 {
            match op & !STRIPE_TAG {
                NOTE => self.note_answered(slot, status, out),
                index => self.stripe_answered(index, slot, status, out),
            }
            return self.after_answer(out);
        }
        let this = &mut self.ops[op as usize];
        assert_eq!(this.state(), OpState::Members, "an answer to a request not sent");
        this.answer(bit(slot), status);
        match this.io().op {
            IoOp::Read | IoOp::Compare => self.read_answered(op, slot, status, out),
            _ => self.write_answered(op, slot, status, out),
        }
        self.after_answer(out);
    }

    #[inline]
    fn after_answer(&mut self, out: &mut Out<'_>) {
        if self.draining != 0 {
            self.report_drained(out);
        }
    }

    /// The owner says something.
    pub fn handle(&mut self, message: ToChannel, out: &mut Out<'_>) {
        match message {
            ToChannel::Granted(op) => {
                self.ops[op as usize].set_state(OpState::Ready);
                self.start_write(op, out);
            }
            ToChannel::Refused(op, status) => {
                assert_eq!(self.ops[op as usize].state(), OpState::GateWait);
                self.finish(op, status, out);
            }
            ToChannel::Discarded(op, status) => {
                assert_eq!(self.ops[op as usize].state(), OpState::DiscardWait);
                self.finish(op, status, out);
            }
            ToChannel::Place(slot, place) => self.places[usize::from(slot)] = Some(place),
            ToChannel::BadNoted(op, slot, noted) => self.bad_noted(op, slot, noted, out),
            ToChannel::BadBlocks(slot) => self.take_bad(slot),
            ToChannel::Members { epoch, in_sync, writable, replaced } => {
                if !mutant!(MembershipNotAdopted) {
                    self.replaced = replaced;
                    self.adopt(epoch, in_sync, writable);
                }
                out.mail.push_back(Mail::Owner(ToOwner::Adopted(epoch)));
                self.recheck_recorded(out);
            }
            ToChannel::Recorded(absent) => {
                self.recorded |= absent;
                self.recheck_recorded(out);
            }
            ToChannel::Drain(round, slot) => {
                self.drain_round = round;
                self.draining = bit(slot);
                self.report_drained(out);
            }
            ToChannel::Kept(slot) => {
                self.kept |= bit(slot);
                self.fail_missed(slot);
                self.recheck_recorded(out);
            }
            ToChannel::TimeRequests(is_on) => self.latency.turn(is_on),
            ToChannel::TellLatency => self.tell_latency(out),
            ToChannel::Pause(round) => self.pause(round, out),
            ToChannel::Resume => self.resume(out),
            ToChannel::EndPause(round) => self.end_pause(round, out),
            ToChannel::Quiesce(round) => self.begin_quiesce(round, out),
            ToChannel::Lock(window, range) => self.lock(window, range, out),
            ToChannel::Unlock(window) => self.unlock(window, out),
            ToChannel::Failed => {
                self.failed = true;
                self.recheck_recorded(out);
            }
            ToChannel::RowWanted(core, slice, records) => {
                self.row_wanted(core, slice, records, out);
            }
            ToChannel::RowGranted(slice, ticket) => self.row_granted(slice, ticket, out),
            ToChannel::RowFreed(end) => self.row_freed(end, out),
            ToChannel::Forget(id, range) => self.forget(id, range, out),
            ToChannel::Unvouched => self.settle_stripes(out),
            ToChannel::Leaving(core) => {
                out.mail.push_back(Mail::Channel(core, ToChannel::LeaveTaken));
            }
            ToChannel::LeaveTaken => self.leave_taken(out),
            ToChannel::Close => {
                self.closing = true;
                let waiting = self.waiting.drain(..).chain(self.waiting_splits.drain(..));
                waiting.for_each(|io| io.complete(IoStatus::Removed, out.io));
                self.report_closed(out);
            }
        }
    }

    fn tell_latency(&mut self, out: &mut Out<'_>) {
        let sample = self.latency.take();
        out.mail.push_back(Mail::Owner(ToOwner::Latency(sample)));
    }

    /// Takes over a membership. A member that comes (back) is neither known absent nor reported.
    fn adopt(&mut self, epoch: u32, in_sync: SlotMask, writable: SlotMask) {
        let joined = writable & !self.writable;
        if joined != 0 {
            self.welcome(joined);
        }
        // What kept a member may have changed: its failures count again.
        self.reported &= !std::mem::take(&mut self.kept);
        self.seniority.came(in_sync & !self.in_sync, epoch);
        self.in_sync = in_sync;
        self.writable = writable;
    }

    /// Members join, or come back. What is under way was not sent to them and need not be: its
    /// chunks are copied to them when it has ended.
    #[cold]
    fn welcome(&mut self, joined: SlotMask) {
        self.recorded &= !joined;
        self.reported &= !joined;
        for op in &mut self.ops {
            if matches!(op.state(), OpState::Members | OpState::RecordWait) {
                op.excused |= if mutant!(NewcomerNotExcused) { 0 } else { joined };
                op.tried &= !joined;
            }
        }
    }

    /// A member is kept although it has failed: what it missed can't end well. That is settled now:
    /// what still waits for something else to be on record may outlive the word of who is kept.
    #[cold]
    fn fail_missed(&mut self, slot: MemberSlot) {
        for op in &mut self.ops {
            let missed = op.legs & !op.ok & !op.excused & !op.noting;
            if op.state() == OpState::RecordWait
                && missed & bit(slot) != 0
                && !mutant!(KeptIsForgotten)
            {
                op.ok = 0;
            }
        }
    }

    /// Tells the owner when no request to the slots it asks about is under way.
    #[cold]
    fn report_drained(&mut self, out: &mut Out<'_>) {
        let is_asked = self.stripes.as_ref().is_some_and(|it| it.asks(self.draining));
        let is_asked = is_asked && !mutant!(DrainForgetsRows);
        if !is_asked && self.ops.iter().all(|op| op.pending & self.draining == 0) {
            self.draining = 0;
            out.mail.push_back(Mail::Owner(ToOwner::Drained(self.drain_round)));
        }
    }

    /// Host requests that have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let splits = self.splits.len() - self.free_splits.len() + self.waiting_splits.len();
        CHANNEL_OPS_MAX - self.free.len() + self.waiting.len() + splits
    }

    /// It has told the owner that it has nothing under way, and begins nothing any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether requests that change data are refused.
    pub(super) fn is_failed(&self) -> bool {
        self.failed
    }

    /// Sends the request of `op` to one member, which has it at `member_lba` of its data.
    pub(super) fn send(&mut self, op: u32, slot: MemberSlot, member_lba: u64, out: &mut Out<'_>) {
        let place = self.places[usize::from(slot)].expect("the member takes part");
        let this = &mut self.ops[op as usize];
        this.pending |= bit(slot);
        let member_io = this.for_member((op, slot), &place, member_lba, self.shared.bdev);
        out.io.submit(place.bdev, member_io);
    }

    /// Sends it to members that all have it at the same place.
    #[inline]
    pub(super) fn send_to_all(&mut self, op: u32, members: SlotMask, out: &mut Out<'_>) {
        let (places, bdev) = (&self.places[..], self.shared.bdev);
        let this = &mut self.ops[op as usize];
        this.pending |= members;
        if let Some(buf) = &this.io().buf {
            // All of them copy it: from a buffer, where it is aligned, that is faster.
            buf.end_loan();
        }
        for slot in slots(members) {
            let place = places[usize::from(slot)].as_ref().expect("the member takes part");
            let member_io = this.for_member((op, slot), place, this.range.lba, bdev);
            out.io.submit(place.bdev, member_io);
        }
    }

    /// Ends a host request and frees its slot.
    pub(super) fn finish(&mut self, op: u32, status: IoStatus, out: &mut Out<'_>) {
        let this = &mut self.ops[op as usize];
        assert_eq!(this.pending, 0, "a request ended with members still working on it");
        this.set_state(OpState::Free);
        let io = this.io.take().expect("the slot is in use");
        self.latency.note(this.began_ns);
        io.complete(status, out.io);
        self.end_write(op, out);
        self.free.push(op);
        if self.paused {
            self.report_paused(out);
        } else if let Some(next) = self.waiting.pop_front() {
            let op = self.free.pop().expect("a slot was just freed");
            self.begin(op, next, out);
        }
        if self.closing {
            self.report_closed(out);
        }
    }

    /// What `op` has sent to members has ended: it holds up nobody any more.
    #[inline]
    pub(super) fn end_write(&mut self, op: u32, out: &mut Out<'_>) {
        let this = &mut self.ops[op as usize];
        let (parity, holds_up) = (this.parity, std::mem::take(&mut this.holds_up));
        if self.in_flight_writes.remove(op) {
            self.uncount(parity, out);
        }
        if holds_up != 0 {
            self.release_holds(holds_up, out);
        }
    }

    /// Reports a member's failure to the owner, once.
    pub(super) fn report_member(&mut self, slot: MemberSlot, out: &mut Out<'_>) {
        if self.writable & bit(slot) != 0 && self.reported & bit(slot) == 0 {
            self.reported |= bit(slot);
            out.mail.push_back(Mail::Owner(ToOwner::MemberFailed(slot)));
        }
    }

    /// Counts a write as in flight; from here to its end no quiesce round can pass it.
    pub(super) fn count(&mut self, op: u32) {
        self.ops[op as usize].parity = self.parity;
        self.in_flight_writes.insert(op);
        self.counted[usize::from(self.parity)] += 1;
    }

    #[inline]
    fn uncount(&mut self, parity: u8, out: &mut Out<'_>) {
        let count = &mut self.counted[usize::from(parity)];
        *count -= 1;
        if *count == 0 && parity != self.parity {
            self.end_quiesce(out);
        }
    }

    fn begin_quiesce(&mut self, round: u32, out: &mut Out<'_>) {
        assert!(self.quiesce.is_none(), "one quiesce round at a time");
        self.quiesce = Some(round);
        self.parity ^= 1;
        assert_eq!(self.counted[usize::from(self.parity)], 0, "the round before last has ended");
        if self.counted[usize::from(self.parity ^ 1)] == 0 {
            self.end_quiesce(out);
        }
    }

    fn end_quiesce(&mut self, out: &mut Out<'_>) {
        if let Some(round) = self.quiesce.take() {
            out.mail.push_back(Mail::Owner(ToOwner::Quiesced(round)));
        }
    }

    /// Whether the owner holds a part of the range. Nearly always it holds nothing at all.
    #[inline]
    pub(super) fn is_locked(&self, range: &BlockRange) -> bool {
        self.lock_count > 0 && self.finds_locked(range)
    }

    #[inline(never)]
    fn finds_locked(&self, range: &BlockRange) -> bool {
        !mutant!(WriteThroughLock)
            && self.locks.iter().flatten().any(|lock| lock.range.overlaps(range))
    }

    fn lock(&mut self, window: u8, range: BlockRange, out: &mut Out<'_>) {
        let mut waits_for = 0;
        for op in self.in_flight_writes.iter() {
            let op = &mut self.ops[op as usize];
            if range.overlaps(&op.sync) && !mutant!(LockIgnoresInFlight) {
                op.holds_up |= 1 << window;
                waits_for += 1;
            }
        }
        let entry = &mut self.locks[usize::from(window)];
        assert!(entry.is_none(), "the window holds a range already");
        *entry = Some(Lock { range, waits_for });
        self.lock_count += 1;
        if waits_for == 0 {
            out.mail.push_back(Mail::Owner(ToOwner::Locked(window)));
        }
    }

    fn release_holds(&mut self, holds_up: u32, out: &mut Out<'_>) {
        for (window, lock) in (0u8..).zip(&mut self.locks) {
            if holds_up & (1 << window) == 0 {
                continue;
            }
            let lock = lock.as_mut().expect("a held-up window is locked");
            lock.waits_for -= 1;
            if lock.waits_for == 0 {
                out.mail.push_back(Mail::Owner(ToOwner::Locked(window)));
            }
        }
    }

    fn unlock(&mut self, window: u8, out: &mut Out<'_>) {
        let lock = self.locks[usize::from(window)].take().expect("only held windows are freed");
        assert_eq!(lock.waits_for, 0);
        self.lock_count -= 1;
        // Those that meet another lock wait again.
        for op in std::mem::take(&mut self.lock_waiters).iter() {
            self.ops[op as usize].set_state(OpState::Ready);
            match self.ops[op as usize].io().op {
                IoOp::Read | IoOp::Compare => self.start_read(op, out),
                _ => self.start_write(op, out),
            }
        }
        if !mutant!(MendedRowForgotten) {
            // A row may have waited for its parity to be made right, which a window has done.
            self.settle_stripes(out);
        }
    }

    pub(super) fn report_closed(&mut self, out: &mut Out<'_>) {
        if self.paused {
            self.report_paused(out);
        }
        if !self.closing || self.in_flight() > 0 || !self.has_taken_leave(out) {
            return;
        }
        if !std::mem::replace(&mut self.closed, true) {
            out.mail.push_back(Mail::Owner(ToOwner::Closed));
        }
    }

    /// A simulated power cut: every request of the host is forgotten.
    #[cfg(test)]
    pub(super) fn abandon(&mut self, queue: &mut crate::bdev::IoQueue) {
        let held = self.ops.iter_mut().filter_map(|op| op.io.take());
        let split = self.splits.iter_mut().filter_map(|split| split.io.take());
        let waiting = self.waiting.drain(..).chain(self.waiting_splits.drain(..));
        self.stripes = None;
        held.chain(split).chain(waiting).for_each(|io| io.complete(IoStatus::Aborted, queue));
    }

    /// The array's bdev.
    #[must_use]
    pub fn bdev(&self) -> BdevId {
        self.shared.bdev
    }
}

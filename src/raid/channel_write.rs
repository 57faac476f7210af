//! Requests that change or flush data: gate, locks, fan-out, and the wait for a failure to be
//! recorded.

use super::channel::Channel;
use super::channel_op::OpState;
use super::message::{Mail, Out, SlotMask, StartWrite, ToOwner};
use super::{MemberSlot, bit, slots};
use crate::bdev::{IoOp, IoStatus};
use crate::bitmap::ChunkState;

impl Channel {
    /// Looks at a write that is `Ready`: it is sent, or waits for what keeps it.
    pub(super) fn start_write(&mut self, op: u32, out: &mut Out<'_>) {
        let range = self.ops[op as usize].sync;
        if self.is_failed() {
            return self.finish(op, IoStatus::MediaError, out);
        }
        if self.is_locked(&range) {
            self.lock_waiters.insert(op);
            return self.ops[op as usize].set_state(OpState::LockWait);
        }
        if let Some(map) = &self.shared.map {
            let (first, last) = self.shared.chunks(range.lba, range.blocks).into_inner();
            // Nearly all writes lie in one chunk.
            let is_open = map.enter(first) && (first == last || map.enter_all(first + 1..last + 1));
            let is_forced = mutant!(SkipWaitForBlockInFlight)
                && (first..=last).all(|chunk| map.state(chunk) == ChunkState::Dirty);
            if !is_open && !is_forced {
                return self.ask_to_open(op, first, last, out);
            }
        }
        // From the look at the map to here nothing else runs on this core, so a quiesce round
        // finds the write either counted or not begun.
        self.count(op);
        self.fan_out(op, out);
    }

    #[cold]
    fn ask_to_open(&mut self, op: u32, first: usize, last: usize, out: &mut Out<'_>) {
        if self.reads_as_zeroes_for_good(op, &(first..=last)) {
            return self.next_part(op, out);
        }
        out.mail.push_back(Mail::Owner(ToOwner::StartWrite(StartWrite {
            op,
            first: u32::try_from(first).expect("chunks fit u32"),
            last: u32::try_from(last).expect("chunks fit u32"),
        })));
        self.ops[op as usize].set_state(OpState::GateWait);
    }

    /// A flush concerns every member and no chunk.
    pub(super) fn start_flush(&mut self, op: u32, out: &mut Out<'_>) {
        if self.is_failed() {
            return self.finish(op, IoStatus::MediaError, out);
        }
        self.fan_out(op, out);
    }

    #[inline]
    fn fan_out(&mut self, op: u32, out: &mut Out<'_>) {
        if self.stripes.is_some() && self.ops[op as usize].io().op != IoOp::Flush {
            self.ops[op as usize].set_state(OpState::Members);
            return self.give_to_stripe(op, false);
        }
        let legs = self.with_twin(self.ops[op as usize].legs);
        let legs = if mutant!(ReplacementForgotten) { legs & !self.twin } else { legs };
        self.ops[op as usize].legs = legs;
        let members = legs & self.writable;
        if members & !self.twin == 0 {
            return self.finish(op, IoStatus::Removed, out);
        }
        self.ops[op as usize].set_state(OpState::Members);
        self.ops[op as usize].excused = 0;
        let this = &self.ops[op as usize];
        let lba = this.range.lba;
        if self.is_mirror || this.io().op == IoOp::Flush {
            return self.send_to_all(op, members, out);
        }
        self.fan_out_strip(op, lba, members, out);
    }

    /// Sends a request to those of the members that hold the strip it lies in.
    #[inline(never)]
    fn fan_out_strip(&mut self, op: u32, lba: u64, members: SlotMask, out: &mut Out<'_>) {
        for leg in self.shared.legs(lba) {
            if members & bit(leg.slot) != 0 {
                self.send(op, leg.slot, leg.member_lba, out);
            }
            if members & self.twin != 0 && self.replaced == Some(leg.slot) {
                let twin = self.shared.twin().expect("it is written");
                self.send(op, twin, leg.member_lba, out);
            }
        }
    }

    /// A member has answered a write or flush.
    pub(super) fn write_answered(
        &mut self,
        op: u32,
        slot: MemberSlot,
        status: IoStatus,
        out: &mut Out<'_>,
    ) {
        if !status.is_ok() {
            // When every member fails alike (no room, say) it is the request that fails, not
            // the members; that is decided when all have answered.
            self.ops[op as usize].tried |= bit(slot);
        }
        if self.ops[op as usize].pending == 0 {
            self.all_answered(op, out);
        }
    }

    pub(super) fn all_answered(&mut self, op: u32, out: &mut Out<'_>) {
        let this = &self.ops[op as usize];
        if this.ok & !self.twin == 0 {
            let failure = this.failure;
            self.report_lost(op, out);
            return self.finish(op, failure, out);
        }
        let failed_on = this.tried;
        let end = if self.bad.is_quiet() {
            slots(failed_on).for_each(|slot| self.report_member(slot, out));
            self.may_acknowledge(op)
        } else {
            self.note_all_answered(op, failed_on, out)
        };
        match end {
            Some(status) => self.acknowledge(op, status, out),
            None => self.ops[op as usize].set_state(OpState::RecordWait),
        }
    }

    /// The same where members have listed bad blocks, or may.
    #[cold]
    fn note_all_answered(
        &mut self,
        op: u32,
        failed_on: SlotMask,
        out: &mut Out<'_>,
    ) -> Option<IoStatus> {
        self.note_write(op, out);
        let reported = failed_on & !self.ops[op as usize].noting;
        slots(reported).for_each(|slot| self.report_member(slot, out));
        self.may_end(op)
    }

    /// Tells the owner of a write that the host will hear has failed, and that members may have
    /// done all the same: they may differ there now.
    #[cold]
    fn report_lost(&mut self, op: u32, out: &mut Out<'_>) {
        let this = &self.ops[op as usize];
        if this.io().op == IoOp::Flush {
            return;
        }
        let chunks = self.shared.chunks(this.sync.lba, this.sync.blocks);
        if !mutant!(LostWriteLeavesNoDoubt) {
            // At once: the row is free before the owner hears of it.
            chunks.clone().for_each(|chunk| self.shared.doubt.raise(chunk));
        }
        if self.shared.map.is_some() || self.shared.log.is_some() {
            out.mail.push_back(Mail::Owner(ToOwner::WriteLost {
                first: u32::try_from(*chunks.start()).expect("chunks fit u32"),
                last: u32::try_from(*chunks.end()).expect("chunks fit u32"),
            }));
        }
    }

    /// Whether a write that all members have answered can end, and how: every member that missed
    /// it must be durably known absent, and one that has it must still be a member.
    fn may_acknowledge(&self, op: u32) -> Option<IoStatus> {
        let this = &self.ops[op as usize];
        if this.ok & self.in_sync == 0 {
            // Those that have it were thrown out meanwhile: the members left missed it.
            return Some(IoStatus::MediaError);
        }
        let missed = this.legs & !this.ok & !this.excused;
        if missed & self.kept != 0 {
            return Some(IoStatus::MediaError);
        }
        if missed & !self.recorded == 0 || mutant!(AcknowledgeBeforeRecorded) {
            return Some(IoStatus::Ok);
        }
        // Nothing will be recorded any more once the array has failed.
        self.is_failed().then_some(IoStatus::MediaError)
    }

    /// The same where lists of bad blocks may be concerned: they must be on record, and what was
    /// written must be somewhere.
    fn may_end(&self, op: u32) -> Option<IoStatus> {
        if self.ops[op as usize].noting != 0 {
            return None;
        }
        let end = self.may_acknowledge(op)?;
        let is_lost = end.is_ok() && !self.bad.is_empty() && self.is_nowhere(op);
        Some(if is_lost { IoStatus::MediaError } else { end })
    }

    #[inline]
    fn acknowledge(&mut self, op: u32, status: IoStatus, out: &mut Out<'_>) {
        if !status.is_ok() {
            self.report_lost(op, out);
        }
        if status.is_ok() && !self.ops[op as usize].later.is_empty() {
            self.end_write(op, out);
            self.ops[op as usize].set_state(OpState::Ready);
            return self.next_part(op, out);
        }
        self.finish(op, status, out);
    }

    /// Membership has changed, or an absence has become durable: some writes may end now.
    #[cold]
    pub(super) fn recheck_recorded(&mut self, out: &mut Out<'_>) {
        for op in 0..u32::try_from(self.ops.len()).expect("a small constant") {
            if self.ops[op as usize].state() == OpState::RecordWait
                && let Some(status) = self.may_end(op)
            {
                self.acknowledge(op, status, out);
            }
        }
        self.settle_stripes(out);
    }
}

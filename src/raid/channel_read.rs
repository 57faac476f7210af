//! Reads: which member, what to do when it fails, and zeroes for what was never written.

use super::channel::Channel;
use super::channel_op::OpState;
use super::message::{BlockRange, Mail, Out, SlotMask, ToOwner};
use super::{MemberSlot, bit, slots};
use crate::bdev::{IoOp, IoStatus};
use crate::bitmap::ChunkState;

/// What the chunks of a read say about it.
struct Survey {
    /// A chunk is in doubt: only the resync source may be read.
    in_doubt: bool,
    /// Bit i: chunk i of the read is Unwritten.
    zero_chunks: u64,
    /// All chunks are Unwritten.
    all_zero: bool,
}

impl Channel {
    /// Sends a read (or compare) that is `Ready` to a member.
    pub(super) fn start_read(&mut self, op: u32, out: &mut Out<'_>) {
        let is_read = self.ops[op as usize].io().op == IoOp::Read;
        let (range, sync) = (self.ops[op as usize].range, self.ops[op as usize].sync);
        let survey = self.survey(&sync);
        if is_read && survey.all_zero {
            let buf = self.ops[op as usize].io().buf.as_ref().expect("a read has a buffer");
            buf.zero_range(0, buf.len());
            return self.finish(op, IoStatus::Ok, out);
        }
        if !is_read && survey.zero_chunks != 0 {
            // What a member holds in a chunk never written is not what the array reads there.
            return self.finish(op, IoStatus::Unsupported, out);
        }
        self.ops[op as usize].zero_chunks = if is_read { survey.zero_chunks } else { 0 };
        let tried = self.ops[op as usize].tried;
        let legs = self.ops[op as usize].legs;
        let bad = if self.bad.is_empty() { 0 } else { self.bad_legs(op) };
        let Some(slot) = self.choose(legs & !tried & !bad, survey.in_doubt) else {
            if self.stripes.is_some() {
                return self.recover_read(op);
            }
            let failure = match self.ops[op as usize].failure {
                IoStatus::Ok if bad != 0 => IoStatus::MediaError,
                IoStatus::Ok => IoStatus::Removed,
                failure => failure,
            };
            return self.finish(op, failure, out);
        };
        let this = &mut self.ops[op as usize];
        this.tried |= bit(slot);
        this.set_state(OpState::Members);
        self.reads[usize::from(slot)] += 1;
        let member_lba = self.leg_lba(range.lba, slot);
        self.send(op, slot, member_lba, out);
    }

    /// Members in sync that have listed a block of the request.
    #[cold]
    pub(super) fn bad_legs(&self, op: u32) -> SlotMask {
        let this = &self.ops[op as usize];
        match mutant!(BadBlocksRead) {
            true => 0,
            false => self.bad.at(&self.shared, &this.sync, this.legs & self.in_sync),
        }
    }

    fn leg_lba(&self, lba: u64, slot: MemberSlot) -> u64 {
        if self.is_mirror { lba } else { self.shared.leg_lba(lba, slot) }
    }

    fn survey(&self, range: &BlockRange) -> Survey {
        let mut survey = Survey { in_doubt: false, zero_chunks: 0, all_zero: false };
        let Some(map) = &self.shared.map else { return survey };
        let (first, last) = self.shared.chunks(range.lba, range.blocks).into_inner();
        // Nearly all reads lie in one chunk that has data.
        if first == last && map.has_data(first) {
            return survey;
        }
        survey.all_zero = true;
        for (index, chunk) in (first..=last).enumerate() {
            match map.state(chunk) {
                ChunkState::Unwritten
                    if self.shared.unwritten_reads_zero && !mutant!(UnwrittenReadAsFound) =>
                {
                    survey.zero_chunks |= 1 << index;
                }
                ChunkState::Clean | ChunkState::Dirty => survey.all_zero = false,
                _ => {
                    survey.all_zero = false;
                    survey.in_doubt = true;
                }
            }
        }
        survey
    }

    /// The member to read from next: for chunks in doubt the one longest in sync, else the one
    /// with the fewest reads outstanding on this core.
    fn choose(&self, legs: SlotMask, in_doubt: bool) -> Option<MemberSlot> {
        let left = self.in_sync & legs;
        if in_doubt && !mutant!(ReadDoubtFromAny) {
            return self.seniority.source_of(left);
        }
        slots(left).min_by_key(|&slot| self.reads[usize::from(slot)])
    }

    /// A member has answered a read.
    pub(super) fn read_answered(
        &mut self,
        op: u32,
        slot: MemberSlot,
        status: IoStatus,
        out: &mut Out<'_>,
    ) {
        self.reads[usize::from(slot)] -= 1;
        let settled =
            status.is_ok() || matches!(status, IoStatus::CompareMismatch | IoStatus::Unsupported);
        if !settled {
            // The state stays `Members`: the read goes on with the next one, if there is one.
            return self.start_read_elsewhere(op, out);
        }
        let this = &self.ops[op as usize];
        if this.zero_chunks != 0 {
            self.zero_unwritten(op);
        }
        let failed_on = self.ops[op as usize].tried & !bit(slot);
        if failed_on != 0 {
            self.report_reads(op, failed_on, out);
        }
        self.finish(op, status, out);
    }

    #[cold]
    fn start_read_elsewhere(&mut self, op: u32, out: &mut Out<'_>) {
        if self.stripes.is_some() {
            self.ops[op as usize].set_state(OpState::Ready);
            return self.start_read(op, out);
        }
        let range = self.ops[op as usize].range;
        let (lba, in_doubt) = (range.lba, self.survey(&range).in_doubt);
        let bad = self.bad_legs(op);
        let this = &self.ops[op as usize];
        match self.choose(this.legs & !this.tried & !bad, in_doubt) {
            Some(slot) => {
                let this = &mut self.ops[op as usize];
                this.tried |= bit(slot);
                this.set_state(OpState::Members);
                self.reads[usize::from(slot)] += 1;
                let member_lba = self.leg_lba(lba, slot);
                self.send(op, slot, member_lba, out);
            }
            None => {
                let failure = self.ops[op as usize].failure;
                self.finish(op, failure, out);
            }
        }
    }

    /// Members that failed a read another one served: the owner counts and repairs.
    #[cold]
    pub(super) fn report_reads(&mut self, op: u32, failed_on: SlotMask, out: &mut Out<'_>) {
        let range = self.ops[op as usize].sync;
        for slot in slots(failed_on & self.in_sync) {
            out.mail.push_back(Mail::Owner(ToOwner::ReadFailed(slot, range)));
        }
    }

    /// Parts of a finished read that lie in chunks never written read as zeroes, whatever the
    /// member holds there.
    #[cold]
    pub(super) fn zero_unwritten(&mut self, op: u32) {
        let this = &self.ops[op as usize];
        let io = this.io();
        let block = u64::from(self.shared.block_size_bytes);
        let buf = io.buf.as_ref().expect("a read has a buffer");
        let BlockRange { lba, blocks } = this.sync;
        for (index, chunk) in self.shared.chunks(lba, blocks).enumerate() {
            if this.zero_chunks & (1 << index) == 0 {
                continue;
            }
            let range = self.shared.blocks_of_chunk(chunk);
            let from = range.lba.max(lba);
            let to = (range.lba + range.blocks).min(lba + blocks);
            let offset = usize::try_from((from - lba) * block).expect("inside a buffer");
            let len = usize::try_from((to - from) * block).expect("inside a buffer");
            buf.zero_range(offset, len);
        }
    }
}

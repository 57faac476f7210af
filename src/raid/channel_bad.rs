//! Writes that a member's list of bad blocks is concerned with: those that succeed where something
//! is listed, and those that fail where the policy is to list it. They end when the owner has put
//! on record what they say ([`super::owner_bad`]).

use super::channel::Channel;
use super::channel_op::OpState;
use super::message::{BadNote, BlockRange, Mail, Noted, Out, SlotMask, ToOwner};
use super::stripe::{RowAt, STRIPE_TAG};
use super::{MemberSlot, bad, bit, slots};
use crate::bdev::{BdevIo, IoOp};

impl Channel {
    /// All members have answered a write, some of them well: asks the owner about those whose
    /// lists are concerned.
    #[cold]
    pub(super) fn note_write(&mut self, op: u32, out: &mut Out<'_>) {
        let this = &self.ops[op as usize];
        if self.stripes.is_some() || this.io().op == IoOp::Flush {
            // A row's have been asked about as a whole.
            return;
        }
        let (sync, ok, failed) = (this.sync, this.ok & !self.twin, this.tried & !self.twin);
        let mut noting = 0;
        for slot in slots(ok | failed) {
            let lba = self.shared.sync_leg_lba(sync.lba, slot);
            let range = BlockRange { lba, blocks: sync.blocks };
            noting |= self.note(op, slot, range, ok & bit(slot) != 0, out);
        }
        self.ops[op as usize].noting = noting;
    }

    /// Asks the owner, if the member's list is concerned: the member as a set.
    fn note(
        &mut self,
        op: u32,
        slot: MemberSlot,
        range: BlockRange,
        is_good: bool,
        out: &mut Out<'_>,
    ) -> SlotMask {
        let is_listed = bad::overlaps(self.bad.list(slot), &range);
        if !is_listed && (is_good || !self.bad.is_used()) {
            return 0;
        }
        out.mail.push_back(Mail::Owner(ToOwner::BadNote(BadNote { op, slot, range, is_good })));
        bit(slot)
    }

    /// The same of the batch of a row.
    #[cold]
    pub(super) fn note_row(
        &mut self,
        index: u32,
        ok: SlotMask,
        failed: SlotMask,
        out: &mut Out<'_>,
    ) -> SlotMask {
        let stripes = self.stripes.as_mut().expect("a level with parity");
        let stripe = &stripes.stripes[index as usize];
        let (hull, parity) = (stripe.hull, stripe.at().row.parity_mask());
        stripes.survey.look_again(index, stripe, &self.ops);
        let mut noting = 0;
        for slot in slots((ok | failed) & !self.twin) {
            let is_good = ok & bit(slot) != 0;
            let survey = &self.stripes.as_ref().expect("as above").survey;
            let is_parity = parity & bit(slot) != 0;
            let columns = if is_parity { &survey.all } else { &survey.columns[usize::from(slot)] };
            let Some((first, mut count)) = columns.run(0) else { continue };
            // What could not be written is listed from the first to the last column; what was, as
            // far as it is one run.
            while let Some((next, more)) = columns.run(first + count).filter(|_| !is_good) {
                count = next + more - first;
            }
            let range = BlockRange { lba: hull.lba + first as u64, blocks: count as u64 };
            noting |= self.note(STRIPE_TAG | index, slot, range, is_good, out);
        }
        noting
    }

    /// The owner has put a note on record, or has not.
    #[cold]
    pub(super) fn bad_noted(
        &mut self,
        tag: u32,
        slot: MemberSlot,
        noted: Noted,
        out: &mut Out<'_>,
    ) {
        if noted == Noted::Refused {
            self.report_member(slot, out);
        }
        if tag & STRIPE_TAG == 0 {
            self.op_noted(tag, slot, noted);
            return self.recheck_recorded(out);
        }
        let stripes = self.rows();
        let blocks = stripes.slice_blocks;
        let stripe = &mut stripes.stripes[(tag & !STRIPE_TAG) as usize];
        stripe.noting &= !bit(slot);
        stripe.missed &= if noted == Noted::Refused { SlotMask::MAX } else { !bit(slot) };
        let slice = stripe.slice;
        for op in 0..u32::try_from(self.ops.len()).expect("a small constant") {
            let this = &self.ops[op as usize];
            // The slice is locked until this is over: they are all of the batch.
            if this.state() == OpState::RecordWait
                && this.io().op != IoOp::Flush
                && this.sync.lba / blocks == slice
            {
                self.op_noted(op, slot, noted);
            }
        }
        self.recheck_recorded(out);
    }

    /// What was written is on no member any more, and can't be computed: some list it, and one has
    /// gone since it was sent.
    #[cold]
    pub(super) fn is_nowhere(&self, op: u32) -> bool {
        let this = &self.ops[op as usize];
        this.io().op != IoOp::Flush && self.is_lost(this.range, this.ok)
    }

    /// The same of a request in pieces, which have ended well at their time.
    #[cold]
    pub(super) fn pieces_are_nowhere(&self, io: &BdevIo) -> bool {
        if !io.op.modifies() || mutant!(LostPieceAcknowledged) {
            return false;
        }
        let (mut lba, end) = (io.lba, io.lba + u64::from(io.blocks));
        while lba < end {
            let range = BlockRange { lba, blocks: self.uncut_blocks(lba, end, true) };
            if self.is_lost(range, self.in_sync) {
                return true;
            }
            lba += range.blocks;
        }
        false
    }

    /// The same of blocks of one row or strip that these members were given.
    fn is_lost(&self, range: BlockRange, given: SlotMask) -> bool {
        let (parity, sync) = (self.shared.parity(), self.shared.sync_range(range));
        let holders = match parity {
            None => self.in_sync & self.shared.holders(range.lba, false),
            Some(_) => self.in_sync,
        };
        let bad = self.bad.at(&self.shared, &sync, holders);
        let sound = holders & !bad;
        let is_there = || match parity {
            None => given & sound != 0,
            Some(parity) => {
                let mut segments = RowAt::new(parity, sync.lba).segments(range);
                segments.all(|segment| given & sound & bit(segment.slot) != 0)
                    || self.shared.geometry.is_readable(sound)
            }
        };
        bad != 0 && !is_there()
    }

    fn op_noted(&mut self, op: u32, slot: MemberSlot, noted: Noted) {
        let this = &mut self.ops[op as usize];
        this.noting &= !bit(slot);
        match noted {
            Noted::Kept => this.excused |= bit(slot),
            // Nobody has it.
            Noted::Lost if this.tried & bit(slot) != 0 => this.ok = 0,
            Noted::Lost | Noted::Refused => {}
        }
    }
}

//! Levels with parity: what a stripe's batch reads, computes and writes.

use super::channel::Channel;
use super::channel_op::Op;
use super::message::{BlockRange, Mail, Out, SlotMask, ToOwner};
use super::stripe::compute::{Bufs, Computer};
use super::stripe::plan::Method;
use super::stripe::{Kind, OpList, STRIPE_TAG, Segment, Sole, StripeState};
use super::{MemberSlot, bit, slots};
use crate::bdev::{BdevIo, Completion, IoOp, IoStatus, Station, Tag};
use crate::reactor::buf::IoBuf;

/// A request of a stripe to a member.
struct RowRequest {
    op: IoOp,
    fua: bool,
    columns: BlockRange,
    buf: IoBuf,
}

impl Channel {
    fn send_row(&mut self, index: u32, slot: MemberSlot, row: RowRequest, out: &mut Out<'_>) {
        let place = self.places[usize::from(slot)].expect("the member takes part");
        let io = BdevIo {
            op: row.op,
            fua: row.fua,
            lba: place.data_lba + row.columns.lba,
            blocks: u32::try_from(row.columns.blocks).expect("a slice fits a buffer"),
            buf: Some(row.buf),
            completion: Completion::new(Tag {
                station: Station::RaidChannel,
                part: slot,
                object: self.shared.bdev.0,
                op: STRIPE_TAG | index,
            }),
        };
        self.rows().stripes[index as usize].pending += 1;
        out.io.submit(place.bdev, io);
    }

    /// Reads what the plan wants, if anything.
    pub(super) fn read_row(&mut self, index: u32, out: &mut Out<'_>) {
        let stripe = &mut self.rows().stripes[index as usize];
        let (reads, columns) = (stripe.plan.reads, stripe.hull);
        if reads == 0 {
            return self.write_row(index, out);
        }
        stripe.set_state(StripeState::Reading);
        for slot in slots(reads) {
            let stripe = &self.rows().stripes[index as usize];
            let buf = stripe.bufs[usize::from(slot)].clone().expect("a buffer to read into");
            let request = RowRequest { op: IoOp::Read, fua: false, columns, buf };
            self.send_row(index, slot, request, out);
        }
    }

    /// A member has answered a request of a stripe.
    pub(super) fn stripe_answered(
        &mut self,
        index: u32,
        slot: MemberSlot,
        status: IoStatus,
        out: &mut Out<'_>,
    ) {
        let stripe = &mut self.rows().stripes[index as usize];
        stripe.pending -= 1;
        let is_reading = stripe.state() == StripeState::Reading;
        let is_logging = stripe.state() == StripeState::Logging;
        if !status.is_ok() {
            let set = if is_reading { &mut stripe.unread } else { &mut stripe.failed };
            *set |= bit(slot);
            if !is_logging {
                stripe.failure = status;
            }
        }
        if stripe.pending > 0 {
            return;
        }
        match (stripe.state(), stripe.kind) {
            (StripeState::Reading, _) if stripe.plan.reads & stripe.unread != 0 => {
                self.start_job(index, out);
            }
            (StripeState::Reading, Kind::Write) => self.write_row(index, out),
            (StripeState::Reading, Kind::Read) => self.answer_reads(index, out),
            (StripeState::Logging, _) => self.row_logged(index, out),
            (StripeState::Writing, _) => self.row_written(index, out),
            (state, _) => panic!("a stripe got an answer in state {state:?}"),
        }
    }

    fn computer(&mut self, index: u32) -> Computer {
        let stripes = self.rows();
        let row = stripes.stripes[index as usize].at().row;
        Computer { kernels: stripes.kernels, row }
    }

    /// Members that failed to read what was served or written all the same.
    fn report_unread(&mut self, index: u32, out: &mut Out<'_>) {
        let stripe = &self.rows().stripes[index as usize];
        let (unread, hull) = (stripe.unread, stripe.hull);
        for slot in slots(unread & self.in_sync) {
            out.mail.push_back(Mail::Owner(ToOwner::ReadFailed(slot, hull)));
        }
    }

    /// Everything that was wanted is read: the requests of the batch get their parts.
    fn answer_reads(&mut self, index: u32, out: &mut Out<'_>) {
        let computer = self.computer(index);
        let stripe = &mut self.rows().stripes[index as usize];
        if stripe.plan.method == Method::Recover {
            computer.recover(&mut stripe.bufs, stripe.plan.reads);
        }
        self.report_unread(index, out);
        let block = self.shared.block_size_bytes as usize;
        let stripe = &mut self.rows().stripes[index as usize];
        let mut batch = std::mem::replace(&mut stripe.batch, OpList::EMPTY);
        while let Some(op) = batch.pop(&self.ops) {
            let stripes = self.stripes.as_ref().expect("a level with parity");
            let stripe = &stripes.stripes[index as usize];
            let this = &self.ops[op as usize];
            let host = this.io().buf.as_ref().expect("a read has a buffer");
            let mut is_same = true;
            for segment in stripe.at().segments(this.range) {
                let buf = stripe.bufs[usize::from(segment.slot)].as_ref().expect("read");
                let bytes = part(buf, stripe.hull, &segment, block);
                let at = offset_bytes(segment.offset, block);
                match this.io().op {
                    IoOp::Compare => is_same &= host.as_slice()[at..at + bytes.len()] == *bytes,
                    _ => host.copy_into(at, bytes),
                }
            }
            if this.zero_chunks != 0 {
                self.zero_unwritten(op);
            }
            let status = if is_same { IoStatus::Ok } else { IoStatus::CompareMismatch };
            self.finish(op, status, out);
        }
        self.release_row(index, out);
    }

    /// Makes the new parity, and writes it with the data: to the stripe log first, if there is one.
    fn write_row(&mut self, index: u32, out: &mut Out<'_>) {
        // The array may have failed while the row was read: nobody records anything then.
        if self.cannot_log(index) && !mutant!(FailedRowWaits) {
            return self.refuse_row(index, out);
        }
        if self.must_wait_for_record() {
            self.rows().settling += 1;
            let stripe = &mut self.rows().stripes[index as usize];
            return stripe.set_state(StripeState::Unrecorded);
        }
        let computer = self.computer(index);
        let stripes = self.stripes.as_mut().expect("a level with parity");
        let stripe = &mut stripes.stripes[index as usize];
        let mut bufs = std::mem::take(&mut stripe.bufs);
        stripes.survey.look_again(index, stripe, &self.ops);
        self.compute_row(index, computer, &mut bufs);
        let stripes = self.rows();
        let stripe = &mut stripes.stripes[index as usize];
        stripe.bufs = bufs;
        if self.shared.log.is_some() {
            return self.log_row(index, out);
        }
        self.write_in_place(index, out);
    }

    /// Writes the new parity and the data to their places. The survey is of this batch.
    pub(super) fn write_in_place(&mut self, index: u32, out: &mut Out<'_>) {
        let has_log = self.shared.log.is_some();
        let stripes = self.rows();
        let stripe = &mut stripes.stripes[index as usize];
        stripe.set_state(StripeState::Writing);
        (stripe.sent, stripe.failed) = (0, 0);
        let (touched, parity) = (stripes.survey.touched, stripe.plan.parity);
        let forgotten = if mutant!(ParityForgotten) { parity & (parity - 1) } else { 0 };
        let batch = stripe.batch;
        // The records are let go of when this has ended.
        let fua = has_log || batch.iter(&self.ops).any(|op| self.ops[op as usize].io().fua);
        let data = touched & self.writable;
        let parity = parity & self.writable & !forgotten;
        let writable = self.writable;
        let sent = self.with_twin(data | parity);
        let stripe = &mut self.rows().stripes[index as usize];
        stripe.sent = sent;
        stripe.writable &= writable;
        for slot in slots(data | parity) {
            let mut from = 0;
            while let Some((buf, first, count)) = self.next_run(index, slot, parity, from) {
                from = first + count;
                let hull = self.rows().stripes[index as usize].hull;
                let columns = BlockRange { lba: hull.lba + first as u64, blocks: count as u64 };
                if sent & self.twin != 0 && self.replaced == Some(slot) {
                    let twin = self.shared.twin().expect("it is written");
                    let request = RowRequest { op: IoOp::Write, fua, columns, buf: buf.clone() };
                    self.send_row(index, twin, request, out);
                }
                let request = RowRequest { op: IoOp::Write, fua, columns, buf };
                self.send_row(index, slot, request, out);
            }
        }
        if self.rows().stripes[index as usize].pending == 0 {
            self.row_written(index, out);
        }
    }

    /// The next run of columns that a slot gets, with its bytes: first column and number.
    pub(super) fn next_run(
        &self,
        index: u32,
        slot: MemberSlot,
        parity: SlotMask,
        from: usize,
    ) -> Option<(IoBuf, usize, usize)> {
        let block = self.shared.block_size_bytes as usize;
        let stripes = self.stripes.as_ref().expect("a level with parity");
        let survey = &stripes.survey;
        let stripe = &stripes.stripes[index as usize];
        let is_parity = parity & bit(slot) != 0;
        let columns = if is_parity { &survey.all } else { &survey.columns[usize::from(slot)] };
        let (first, count) = columns.run(from)?;
        let sole = if is_parity { None } else { survey.sole[usize::from(slot)] };
        let host = sole.and_then(|sole| Some((self.host_buf(sole)?, sole.offset)));
        let buf = match host {
            Some((host, offset)) => host.slice(offset_bytes(offset, block), count * block),
            None => {
                let buf = stripe.bufs[usize::from(slot)].as_ref().expect("an image");
                buf.slice(first * block, count * block)
            }
        };
        Some((buf, first, count))
    }

    /// What the only operation that touches a slot brings; `None` if that is zeroes.
    fn host_buf(&self, sole: Sole) -> Option<&IoBuf> {
        self.ops[sole.op as usize].io().buf.as_ref()
    }

    /// The bytes that change all of a slot's columns, where they are in one request's buffer.
    fn host_strip(&self, index: u32, slot: MemberSlot) -> Option<&[u8]> {
        let stripes = self.stripes.as_ref().expect("a level with parity");
        let survey = &stripes.survey;
        let sole = survey.sole[usize::from(slot)].filter(|_| survey.full & bit(slot) != 0)?;
        let block = self.shared.block_size_bytes as usize;
        let host = self.host_buf(sole)?;
        let at = offset_bytes(sole.offset, block);
        let blocks = stripes.stripes[index as usize].hull.blocks;
        Some(&host.as_slice()[at..at + offset_bytes(blocks, block)])
    }

    fn compute_row(&self, index: u32, computer: Computer, bufs: &mut Bufs) {
        let stripes = self.stripes.as_ref().expect("a level with parity");
        let plan = stripes.stripes[index as usize].plan;
        let touched = stripes.survey.touched;
        if plan.method == Method::Recover {
            computer.recover(bufs, plan.reads);
        }
        for slot in slots(touched) {
            let host = self.host_strip(index, slot);
            match plan.method {
                Method::Modify if host.is_some() => {
                    computer.update(bufs, plan.parity, slot, host);
                }
                Method::Modify => {
                    computer.update(bufs, plan.parity, slot, None);
                    self.overlay(index, slot, bufs);
                    computer.update(bufs, plan.parity, slot, None);
                }
                Method::Reconstruct if host.is_some() => {}
                Method::Recover if mutant!(RecoverForgetsNew) && plan.reads & bit(slot) == 0 => {}
                _ => self.overlay(index, slot, bufs),
            }
        }
        match plan.method {
            Method::Reconstruct => {
                computer.generate(bufs, plan.parity, |slot| self.host_strip(index, slot));
            }
            Method::Recover => computer.generate(bufs, plan.parity, |_| None),
            Method::Modify | Method::Plain => {}
        }
    }

    /// Puts what the batch writes to a slot over what its buffer holds, in the order in which the
    /// requests came.
    fn overlay(&self, index: u32, slot: MemberSlot, bufs: &mut Bufs) {
        // Written from the request's own buffer, and no parity is made of it.
        let Some(image) = &mut bufs[usize::from(slot)] else { return };
        let stripes = self.stripes.as_ref().expect("a level with parity");
        let stripe = &stripes.stripes[index as usize];
        let block = self.shared.block_size_bytes as usize;
        let bytes = image.as_mut_slice();
        for op in in_order(stripe.batch, &self.ops) {
            let this = &self.ops[op as usize];
            let parts = stripe.at().segments(this.range);
            for segment in parts.filter(|segment| segment.slot == slot) {
                let at = offset_bytes(segment.column - stripe.hull.lba, block);
                let target = &mut bytes[at..at + offset_bytes(segment.blocks, block)];
                match &this.io().buf {
                    Some(host) => {
                        let from = offset_bytes(segment.offset, block);
                        target.copy_from_slice(&host.as_slice()[from..from + target.len()]);
                    }
                    None => target.fill(0),
                }
            }
        }
    }

    /// All members have answered the writes of a batch.
    fn row_written(&mut self, index: u32, out: &mut Out<'_>) {
        self.report_unread(index, out);
        let stripes = self.stripes.as_mut().expect("a level with parity");
        let stripe = &mut stripes.stripes[index as usize];
        let at = *stripe.at();
        let row = at.row;
        let (ok, failed) = (stripe.sent & !stripe.failed, stripe.failed);
        let failure = if failed == 0 { IoStatus::Removed } else { stripe.failure };
        let noting = match self.bad.is_quiet() || ok & !self.twin == 0 {
            true => 0,
            false => self.note_row(index, ok, failed, out),
        };
        let stripes = self.stripes.as_mut().expect("a level with parity");
        let stripe = &mut stripes.stripes[index as usize];
        let mut batch = std::mem::replace(&mut stripe.batch, OpList::EMPTY);
        // Who has joined since is given the row by its rebuild, which waits for what is counted.
        let concerned = !(self.writable & !stripe.writable);
        let parity_mask = row.parity_mask() | stripe.sent & self.twin;
        let mut touched = parity_mask & concerned;
        if ok != 0 {
            slots(failed & !noting).for_each(|slot| self.report_member(slot, out));
        }
        while let Some(op) = batch.pop(&self.ops) {
            let this = &mut self.ops[op as usize];
            let legs = (parity_mask | at.legs(this.range)) & concerned;
            touched |= legs;
            this.legs = legs;
            this.excused = 0;
            this.noting = legs & noting;
            this.ok = legs & ok;
            this.tried = legs & failed;
            this.failure = failure;
            self.all_answered(op, out);
        }
        let settled = self.recorded | self.kept;
        let missed = touched & !ok & !settled;
        let is_lost = ok & !self.twin == 0 || mutant!(RowFreedBeforeRecorded);
        let stripe = &mut self.rows().stripes[index as usize];
        stripe.missed = if is_lost { 0 } else { missed };
        stripe.noting = noting;
        if self.is_settled(index) {
            return self.release_row(index, out);
        }
        let stripes = self.rows();
        let stripe = &mut stripes.stripes[index as usize];
        stripe.set_state(StripeState::Settling);
        stripes.settling += 1;
        stripes.put_bufs(index);
    }
}

/// The requests of a batch as they came.
#[cfg(not(test))]
fn in_order(batch: OpList, ops: &[Op]) -> impl Iterator<Item = u32> + use<'_> {
    batch.iter(ops)
}

#[cfg(test)]
fn in_order(batch: OpList, ops: &[Op]) -> Vec<u32> {
    let mut ops: Vec<u32> = batch.iter(ops).collect();
    if mutant!(BatchReversed) {
        ops.reverse();
    }
    ops
}

pub(super) fn offset_bytes(blocks: u64, block: usize) -> usize {
    usize::try_from(blocks).expect("inside a buffer") * block
}

/// The columns of a segment in a buffer that holds those of `hull`.
fn part<'a>(buf: &'a IoBuf, hull: BlockRange, segment: &Segment, block: usize) -> &'a [u8] {
    let at = offset_bytes(segment.column - hull.lba, block);
    &buf.as_slice()[at..at + offset_bytes(segment.blocks, block)]
}

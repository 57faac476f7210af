//! Levels with parity: how a batch of a row is logged before it is written in place, and this
//! core's ring of the stripe log. The rules are in `stripe_log.rs`.

use super::channel::Channel;
use super::message::{BlockRange, Mail, Out, RowEnd, SlotMask, Ticket, ToOwner};
use super::stripe::log::{NOTE, Note, Packer, Starved};
use super::stripe::ring::Ring;
use super::stripe::{Kind, OpList, STRIPE_TAG, StripeState};
use super::stripe_log::{holders, parity_count};
use super::{MemberSlot, SharedLog, bit, slots};
use crate::bdev::{BdevIo, Completion, IoOp, IoStatus, Station, Tag};
use crate::md::stripe_log::RecordWriter;
use crate::reactor::buf::IoBuf;

/// How much a batch takes of the log, from above.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    data_blocks: u64,
    columns: u64,
    fragments: u64,
}

impl Channel {
    fn log(&self) -> &SharedLog {
        self.shared.log.as_ref().expect("the array has a stripe log")
    }

    fn data_members(&self) -> u8 {
        self.shared.parity().expect("a level with parity").data_members()
    }

    /// Members that are out and that the others may not durably know to be.
    pub(super) fn unrecorded(&self) -> SlotMask {
        self.all & !self.writable & !self.recorded
    }

    /// Rule 2: what a member that is out misses must not be wanting when it comes back as equal.
    pub(super) fn must_wait_for_record(&self) -> bool {
        self.shared.log.is_some() && self.unrecorded() != 0 && !mutant!(RowChangedWhileUnrecorded)
    }

    fn add_load(&self, load: &mut Load, op: u32) {
        let parity = self.shared.parity().expect("a level with parity");
        let this = &self.ops[op as usize];
        load.data_blocks += this.range.blocks;
        load.columns += this.sync.blocks;
        let strip_blocks = parity.strip_blocks();
        let BlockRange { lba, blocks } = this.range;
        let strips = (lba % strip_blocks + blocks).div_ceil(strip_blocks);
        load.fragments += strips + parity_count(parity);
    }

    fn records_for(&self, load: &Load) -> u64 {
        let parity = self.shared.parity().expect("a level with parity");
        let columns = load.columns.min(self.shared.slice_blocks()) * parity_count(parity);
        let bytes = (load.data_blocks + columns) * u64::from(self.shared.block_size_bytes);
        self.log().layout.records_for(bytes, load.fragments)
    }

    /// Records that what has gathered for a slice takes, as far as one batch may go.
    pub(super) fn records_wanted(&self, index: u32) -> u8 {
        let Some(log) = &self.shared.log else { return 0 };
        let mut load = Load::default();
        let stripes = self.stripes.as_ref().expect("a level with parity");
        for op in stripes.stripes[index as usize].writes.iter(&self.ops) {
            self.add_load(&mut load, op);
        }
        u8::try_from(self.records_for(&load)).unwrap_or(u8::MAX).min(log.parts_max)
    }

    /// The next batch of writes: as many as the numbers suffice for, in the order in which they
    /// came.
    pub(super) fn take_writes(&mut self, index: u32, ticket: Ticket) -> OpList {
        let writes = &mut self.rows().stripes[index as usize].writes;
        let mut left = std::mem::replace(writes, OpList::EMPTY);
        if self.shared.log.is_none() || ticket.count == 0 {
            return left;
        }
        let (mut batch, mut load) = (OpList::EMPTY, Load::default());
        loop {
            let Some(op) = left.iter(&self.ops).next() else { break };
            self.add_load(&mut load, op);
            if self.records_for(&load) > u64::from(ticket.count) {
                break;
            }
            left.pop(&self.ops);
            batch.push(op, &mut self.ops);
        }
        assert!(!batch.is_empty(), "numbers were asked for one request at least");
        self.rows().stripes[index as usize].writes = left;
        batch
    }

    /// Nothing is written any more: the array, or its log, has failed.
    pub(super) fn cannot_log(&mut self, index: u32) -> bool {
        if self.shared.log.is_none() {
            return false;
        }
        let has_failed = self.is_failed();
        let stripe = &self.rows().stripes[index as usize];
        stripe.kind == Kind::Write && (stripe.ticket.count == 0 || has_failed)
    }

    /// The records of the batch that was surveyed last, as long as nobody leaves.
    pub(super) fn records_of(&self, index: u32, parity: SlotMask) -> Packer {
        let stripes = self.stripes.as_ref().expect("a level with parity");
        let Some(log) = &self.shared.log else { return Packer::none() };
        if stripes.stripes[index as usize].kind == Kind::Read {
            return Packer::none();
        }
        let writable = stripes.stripes[index as usize].writable & self.writable;
        let mut packer = Packer::new(&log.layout, self.shared.block_size_bytes as usize);
        for slot in slots((stripes.survey.touched | parity) & writable) {
            let is_parity = parity & bit(slot) != 0;
            let survey = &stripes.survey;
            let columns = if is_parity { &survey.all } else { &survey.columns[usize::from(slot)] };
            let mut from = 0;
            while let Some((first, count)) = columns.run(from) {
                from = first + count;
                packer.put_all(count);
            }
        }
        packer
    }

    /// Writes the batch to the log: it is computed, and the survey is of it.
    pub(super) fn log_row(&mut self, index: u32, out: &mut Out<'_>) {
        let data_members = self.data_members();
        let ring = {
            let stripes = self.rows();
            stripes.home_of(stripes.stripes[index as usize].slice)
        };
        let stripe = &mut self.rows().stripes[index as usize];
        let mut records = std::mem::take(&mut stripe.records);
        let (ticket, writable) = (stripe.ticket, stripe.writable);
        let parts = self.fill_records(index, ring, &mut records);
        let members = writable & self.writable & !self.twin;
        let holders = self.with_twin(holders(members, data_members, ticket.sequence));
        let stripe = &mut self.rows().stripes[index as usize];
        stripe.set_state(StripeState::Logging);
        stripe.holders = holders;
        stripe.failed = 0;
        stripe.pending = u32::try_from(parts).expect("few") * holders.count_ones();
        let tag = STRIPE_TAG | index;
        for slot in slots(holders) {
            for (sequence, buf) in (ticket.sequence..).zip(&records[..parts]) {
                self.send_record(slot, (ring, sequence), buf.clone(), tag, out);
            }
        }
        let nothing_to_wait_for = parts == 0 || holders == 0;
        self.rows().stripes[index as usize].records = records;
        if nothing_to_wait_for {
            self.row_logged(index, out);
        } else if mutant!(LogWaitSkipped) {
            let stripe = &mut self.rows().stripes[index as usize];
            stripe.logged = true;
            self.write_in_place(index, out);
        }
    }

    /// Makes the records of a batch: how many. Each buffer then is as long as its record.
    fn fill_records(&self, index: u32, ring: u16, records: &mut [IoBuf]) -> usize {
        let stripes = self.stripes.as_ref().expect("a level with parity");
        let stripe = &stripes.stripes[index as usize];
        let (log, block) = (self.log(), self.shared.block_size_bytes as usize);
        let writable = stripe.writable & self.writable;
        let parity = stripe.plan.parity & writable;
        let parts = self.records_of(index, stripe.plan.parity).parts();
        let mut packer = Packer::new(&log.layout, block);
        let mut writer: Option<(usize, RecordWriter<'_>)> = None;
        let mut lens = [0; u8::MAX as usize];
        let count = u8::try_from(parts).expect("as many as the ticket has");
        assert!(count <= stripe.ticket.count, "more records than numbers");
        let finish = |(part, writer): (usize, RecordWriter<'_>)| {
            let number = u8::try_from(part).expect("below the count");
            let sequence = stripe.ticket.sequence + u64::from(number);
            writer.finish(ring, sequence, stripe.ticket.floor, (number, count))
        };
        let mut rest = records.iter_mut();
        for slot in slots(stripes.survey.touched & writable | parity) {
            let mut from = 0;
            while let Some((buf, first, blocks)) = self.next_run(index, slot, parity, from) {
                from = first + blocks;
                let mut done = 0;
                while done < blocks {
                    let (part, taken) = packer.put(blocks - done);
                    if writer.as_ref().is_none_or(|(other, _)| *other != part) {
                        let next = rest.next().expect("a buffer for each record").as_mut_slice();
                        let next = RecordWriter::new(next, &log.identity, stripe.hull.lba);
                        if let Some(old) = writer.replace((part, next)) {
                            let part = old.0;
                            lens[part] = finish(old);
                        }
                    }
                    let (_, writer) = writer.as_mut().expect("just made");
                    let column = u32::try_from(first + done).expect("inside a slice");
                    let bytes = &buf.as_slice()[done * block..(done + taken) * block];
                    let pushed = writer.push(slot, column, bytes);
                    assert_eq!(pushed, bytes.len(), "a record has room for what was packed");
                    done += taken;
                }
            }
        }
        if let Some(last) = writer {
            let part = last.0;
            lens[part] = finish(last);
        }
        for (buf, &len) in records.iter_mut().zip(&lens[..parts]) {
            *buf = buf.slice(0, len);
        }
        parts
    }

    fn send_record(
        &self,
        slot: MemberSlot,
        (ring, sequence): (u16, u64),
        buf: IoBuf,
        op: u32,
        out: &mut Out<'_>,
    ) {
        let place = self.places[usize::from(slot)].expect("the member takes part");
        let blocks = buf.len() / self.shared.block_size_bytes as usize;
        let io = BdevIo {
            op: IoOp::Write,
            fua: true,
            lba: self.log().lba(&place, ring, sequence),
            blocks: u32::try_from(blocks).expect("inside a slot"),
            buf: Some(buf),
            completion: Completion::new(Tag {
                station: Station::RaidChannel,
                part: slot,
                object: self.shared.bdev.0,
                op,
            }),
        };
        out.io.submit(place.bdev, io);
    }

    /// All members have answered the records of a batch.
    pub(super) fn row_logged(&mut self, index: u32, out: &mut Out<'_>) {
        let stripe = &mut self.rows().stripes[index as usize];
        let failed = stripe.failed;
        if failed == 0 {
            stripe.logged = true;
            return self.write_logged(index, out);
        }
        slots(failed).for_each(|slot| self.report_member(slot, out));
        self.rows().settling += 1;
        self.rows().stripes[index as usize].set_state(StripeState::Unlogged);
        self.poll_unlogged(index, out);
    }

    /// Whether what some members failed to log is durable enough by now: the others suffice when
    /// it is durable that those are out. `None`: not yet.
    fn is_logged_without(&self, failed: SlotMask) -> Option<bool> {
        if self.is_failed() || failed & self.kept != 0 {
            return Some(false);
        }
        (failed & !self.recorded == 0).then_some(true)
    }

    /// A stripe whose records some members failed to write goes on, if it can.
    #[cold]
    pub(super) fn poll_unlogged(&mut self, index: u32, out: &mut Out<'_>) {
        let stripe = &self.rows().stripes[index as usize];
        let (failed, holders, twin) = (stripe.failed, stripe.holders, self.twin);
        let Some(is_logged) = self.is_logged_without(failed) else { return };
        self.rows().settling -= 1;
        let stripe = &mut self.rows().stripes[index as usize];
        stripe.logged = is_logged && holders & !failed & !twin != 0;
        if stripe.logged {
            return self.write_logged(index, out);
        }
        self.refuse_row(index, out);
    }

    fn write_logged(&mut self, index: u32, out: &mut Out<'_>) {
        let stripes = self.stripes.as_mut().expect("a level with parity");
        let stripe = &stripes.stripes[index as usize];
        stripes.survey.look_again(index, stripe, &self.ops);
        self.write_in_place(index, out);
    }

    /// Whether a row that was written can be let go of: nobody who missed it can be taken for one
    /// that has it, and if its parity is in doubt now, the log does not deny it.
    pub(super) fn is_settled(&self, index: u32) -> bool {
        let stripes = self.stripes.as_ref().expect("a level with parity");
        let stripe = &stripes.stripes[index as usize];
        let is_denied = self.shared.log.as_ref().is_some_and(|log| log.vouching.is_on())
            && self.shared.is_torn(&stripe.hull);
        stripe.noting == 0 && (stripe.missed == 0 && !is_denied || self.is_failed())
    }
}

/// The ring whose home is here.
impl Channel {
    /// A channel that has the lock of a slice gets numbers too, or waits for them.
    pub(super) fn give_row(&mut self, core: u16, slice: u64, count: u8, out: &mut Out<'_>) {
        let has_failed = self.is_failed();
        let Some(log) = self.rows().log.as_mut().filter(|_| count > 0 && !has_failed) else {
            return self.grant_row(core, slice, Ticket::default(), out);
        };
        let ring = log.ring.as_mut().expect("a home has a ring");
        if log.starved.is_empty()
            && let Some(ticket) = ring.take(slice, count)
        {
            return self.grant_row(core, slice, ticket, out);
        }
        log.starved.push_back(Starved { core, slice, count });
        self.poll_ring(out);
    }

    /// The work on a row is over.
    pub(super) fn end_records(&mut self, end: &RowEnd) {
        if let Some(log) = self.rows().log.as_mut().filter(|_| end.ticket.count > 0) {
            log.ring.as_mut().expect("a home has a ring").end(end.ticket, end.logged, end.done);
        }
    }

    /// Gives numbers to those that wait, says what is forgotten, and writes a record with the
    /// floor where that helps. While that is under way nobody is served: who waits for it keeps
    /// the array from stopping.
    pub(super) fn poll_ring(&mut self, out: &mut Out<'_>) {
        let has_failed = self.is_failed();
        loop {
            let Some(log) = &mut self.rows().log else { return };
            let Some(ring) = log.ring.as_mut().filter(|_| !log.note.is_busy()) else { return };
            if let Some(id) = ring.forgotten() {
                out.mail.push_back(Mail::Owner(ToOwner::Forgotten(id, true)));
                continue;
            }
            let Some(&Starved { core, slice, count }) = log.starved.front() else { break };
            let ticket = match has_failed {
                true => Some(Ticket::default()),
                false => ring.take(slice, count),
            };
            let Some(ticket) = ticket else { break };
            log.starved.pop_front();
            self.grant_row(core, slice, ticket, out);
        }
        self.write_note(out);
    }

    fn write_note(&mut self, out: &mut Out<'_>) {
        let is_over = self.is_failed() || self.is_closed() && !mutant!(NoteAfterClosed);
        if is_over || self.must_wait_for_record() {
            return;
        }
        let (data_members, writable) = (self.data_members(), self.writable & !self.twin);
        let identity = self.log().identity;
        let Some(log) = &mut self.rows().log else { return };
        let ring = log.ring.as_mut().expect("asked before");
        let Some(ticket) = ring.take_note(!log.starved.is_empty()) else { return };
        let writer = RecordWriter::new(log.note_buf.as_mut_slice(), &identity, 0);
        writer.finish(log.index, ticket.sequence, ticket.floor, (0, 1));
        let targets = self.with_twin(holders(writable, data_members, ticket.sequence));
        let log = self.rows().log.as_mut().expect("as above");
        log.note = Note::Writing { ticket, pending: targets, failed: 0 };
        let (index, buf) = (log.index, log.note_buf.clone());
        for slot in slots(targets) {
            let tag = STRIPE_TAG | NOTE;
            self.send_record(slot, (index, ticket.sequence), buf.clone(), tag, out);
        }
    }

    /// A member has written the record with the floor, or has not.
    pub(super) fn note_answered(&mut self, slot: MemberSlot, status: IoStatus, out: &mut Out<'_>) {
        let log = self.rows().log.as_mut().expect("a note was sent");
        let Note::Writing { ticket, pending, failed } = log.note else {
            panic!("a member wrote a note that nobody sent");
        };
        let failed = if status.is_ok() { failed } else { failed | bit(slot) };
        let pending = pending & !bit(slot);
        log.note = match pending {
            0 => Note::Unlogged { ticket, failed },
            _ => Note::Writing { ticket, pending, failed },
        };
        if pending == 0 {
            slots(failed).for_each(|slot| self.report_member(slot, out));
            self.settle_note(out);
            self.report_closed(out);
        }
    }

    /// The record with the floor is on enough members, or can't be.
    pub(super) fn settle_note(&mut self, out: &mut Out<'_>) {
        let note = self.rows().log.as_ref().map_or(Note::Idle, |log| log.note);
        if let Note::Unlogged { ticket, failed } = note {
            let Some(is_logged) = self.is_logged_without(failed) else { return };
            let log = self.rows().log.as_mut().expect("it has a note");
            log.note = Note::Idle;
            log.ring.as_mut().expect("it had a number").end_note(ticket, is_logged);
            if !is_logged {
                return self.give_up(out);
            }
        }
        self.poll_ring(out);
    }

    /// No floor can be made durable: who waits for one is told so.
    #[cold]
    fn give_up(&mut self, out: &mut Out<'_>) {
        let log = self.rows().log.as_mut().expect("it had a note");
        let ring = log.ring.as_mut().expect("it had a number");
        while let Some(id) = ring.refused() {
            out.mail.push_back(Mail::Owner(ToOwner::Forgotten(id, false)));
        }
        let starved = self.rows().log.as_ref().map_or(0, |log| log.starved.len());
        for _ in 0..starved {
            let log = self.rows().log.as_mut().expect("as above");
            let Some(Starved { core, slice, .. }) = log.starved.pop_front() else { break };
            self.grant_row(core, slice, Ticket::default(), out);
        }
    }

    /// The owner wants to know when no record of a range can be live any more. Nobody writes there.
    pub(super) fn forget(&mut self, id: u32, range: BlockRange, out: &mut Out<'_>) {
        let sync_blocks = self.shared.sync_blocks;
        let stripes = self.rows();
        let slice = stripes.slice_blocks;
        let slices = range.lba / slice..(range.lba + range.blocks).div_ceil(slice);
        let log = stripes.log.as_mut().expect("the array has a stripe log");
        let ring = log.ring.as_mut();
        let is_all = range.blocks == sync_blocks;
        let forget = |ring: &mut Ring| match is_all {
            true => ring.forget_all(id),
            false => ring.forget(id, slices),
        };
        if ring.is_none_or(forget) {
            return out.mail.push_back(Mail::Owner(ToOwner::Forgotten(id, true)));
        }
        self.poll_ring(out);
    }
}

//! The pieces of a window, one after the other: read from a member, then written to others or
//! compared with what they hold; what can't be read or written is listed, or the piece is lost.

use super::{Job, WindowState};
use crate::bdev::{IoOp, IoStatus};
use crate::limits::IO_SIZE_BYTES_MAX;
use crate::raid::message::{BlockRange, Mail, Noted, Out, SlotMask, ToChannel};
use crate::raid::owner::{Life, MemberRequest, Owner, OwnerOp};
use crate::raid::owner_bad::Asker;
use crate::raid::owner_scrub::PART_SIZE_BYTES;
use crate::raid::{MemberSlot, bad, bit, slots};

impl Owner {
    /// Blocks of the parts in which differences are told.
    fn part_blocks(&self) -> u64 {
        (PART_SIZE_BYTES / u64::from(self.shared.block_size_bytes)).max(1)
    }

    /// Blocks of the piece that the window copies next.
    fn piece_blocks(&mut self, index: usize) -> u32 {
        if self.parity_work.is_some() {
            return self.columns_blocks(index);
        }
        let window = &self.walker.windows[index];
        let blocks_max = IO_SIZE_BYTES_MAX as u64 / u64::from(self.shared.block_size_bytes);
        let left = window.locked.lba + window.locked.blocks - window.next;
        let chunk_blocks = 1 << self.shared.chunk_shift;
        let in_chunk = match window.narrow {
            true => chunk_blocks - window.next % chunk_blocks,
            false => left,
        };
        let part = match window.next < window.close_until {
            true => self.part_blocks(),
            false => left,
        };
        let run = self.shared.run_blocks(window.next, false).min(window.edge - window.next);
        let blocks = left.min(blocks_max).min(in_chunk).min(part).min(run);
        u32::try_from(blocks).expect("a piece fits a buffer")
    }

    pub(in crate::raid) fn read_piece(&mut self, index: usize, out: &mut Out<'_>) {
        let rebuilt = self.rebuild_targets();
        let window = &self.walker.windows[index];
        let is_checked = matches!(window.job, Job::Scrub { .. });
        if matches!(window.job, Job::Rebuild { .. }) && rebuilt == 0
            || is_checked && !self.can_compare()
        {
            return self.end_window(index, false, out);
        }
        if self.parity_work.is_some() {
            return self.read_columns(index, out);
        }
        self.set_edge(index);
        let window = &self.walker.windows[index];
        let legs = self.with_twin(self.shared.holders(window.next, false));
        if matches!(window.job, Job::Rebuild { .. }) && rebuilt & legs == 0 {
            // The member has no part in this run.
            self.walker.windows[index].set_state(WindowState::Writing { pending: 0, failed: 0 });
            return self.piece_written(index, 0, out);
        }
        let excluded = match window.job {
            Job::Resync { .. } | Job::Rebuild { .. } | Job::Scrub { .. } => window.tried,
            Job::Repair { slot } => window.tried | bit(slot),
        };
        let job = window.job;
        let blocks = self.piece_blocks(index);
        // What replaces a member is given what that has, as long as it can be read.
        let own = match job {
            Job::Rebuild { .. } => self.replaced_by(rebuilt),
            _ => 0,
        };
        let sources = self.in_sync & legs & !excluded & !self.bad_in_piece(index);
        let sources = if sources & own != 0 { sources & own } else { sources };
        let Some(source) = self.seniority.source_of(sources) else {
            return self.piece_unreadable(index, blocks, out);
        };
        let len = blocks as usize * self.shared.block_size_bytes as usize;
        let window = &mut self.walker.windows[index];
        // Where a read is tried again the piece may have got longer: lists of bad blocks change.
        if window.buf.as_ref().is_none_or(|buf| buf.len() != len) {
            window.buf = self.pool.get(len);
        }
        let Some(buf) = window.buf.clone() else { return };
        window.set_state(WindowState::Reading { source });
        let lba = self.shared.leg_lba(window.next, source);
        let lba = self.place(source).data_lba + lba;
        let request = MemberRequest { op: IoOp::Read, lba, blocks, buf: Some(buf) };
        self.send(source, OwnerOp::Window(index), request, out);
    }

    /// The piece ends where a member's list of bad blocks begins or ends.
    fn set_edge(&mut self, index: usize) {
        let window = &mut self.walker.windows[index];
        window.edge = u64::MAX;
        if !self.bad.is_empty() {
            let left = window.locked.lba + window.locked.blocks - window.next;
            let blocks = left.min(self.shared.run_blocks(window.next, false));
            let run = BlockRange { lba: window.next, blocks };
            let legs = self.shared.holders(window.next, false);
            window.edge = window.next + self.bad.even(&self.shared, &run, legs);
        }
    }

    /// Members in sync that have listed the piece as bad.
    fn bad_in_piece(&mut self, index: usize) -> SlotMask {
        if self.bad.is_empty() {
            return 0;
        }
        let (lba, blocks) = (self.walker.windows[index].next, self.piece_blocks(index).into());
        let legs = self.shared.holders(lba, false);
        self.bad.at(&self.shared, &BlockRange { lba, blocks }, legs & self.in_sync)
    }

    /// No member can read the piece.
    #[cold]
    pub(in crate::raid) fn piece_unreadable(
        &mut self,
        index: usize,
        blocks: u32,
        out: &mut Out<'_>,
    ) {
        let bad = self.bad_in_piece(index);
        let legs = self.shared.holders(self.walker.windows[index].next, false);
        let is_listed = self.parity_work.is_none() && bad != 0 && bad == legs & self.in_sync;
        if !is_listed || !self.list_lack(index, blocks.into(), out) {
            self.piece_is_lost(index, blocks, out);
        }
    }

    /// No member can read the piece: the rest of its run is copied all the same.
    #[cold]
    pub(in crate::raid) fn piece_is_lost(&mut self, index: usize, blocks: u32, out: &mut Out<'_>) {
        let window = &self.walker.windows[index];
        let (Job::Resync { chunks, .. } | Job::Rebuild { chunks } | Job::Scrub { chunks }) =
            window.job
        else {
            return self.end_window(index, false, out);
        };
        let piece = self.shared.chunks(window.next, blocks.into());
        let (first, last) = (*piece.start(), *piece.end());
        let range = self.shared.blocks_of_chunk(first);
        let window = &mut self.walker.windows[index];
        window.tried = 0;
        window.buf = None;
        if last > first {
            window.narrow = true;
            return self.read_piece(index, out);
        }
        window.bad |= 1 << (first - chunks.0);
        if first == chunks.1 {
            return self.end_window(index, false, out);
        }
        window.next = range.lba + range.blocks;
        self.read_piece(index, out);
    }

    /// A member has answered a request of a window.
    pub(in crate::raid) fn window_answered(
        &mut self,
        index: usize,
        slot: MemberSlot,
        status: IoStatus,
        out: &mut Out<'_>,
    ) {
        if self.parity_work.is_some() {
            return self.columns_answered(index, slot, status, out);
        }
        match self.walker.windows[index].state {
            WindowState::Reading { source } => {
                assert_eq!(source, slot);
                self.piece_read(index, source, status, out);
            }
            WindowState::Writing { pending, failed } => {
                assert!(pending & bit(slot) != 0);
                let pending = pending & !bit(slot);
                if status == IoStatus::CompareMismatch {
                    self.walker.windows[index].differ |= bit(slot);
                }
                let is_fine = status.is_ok() || status == IoStatus::CompareMismatch;
                let failed = if is_fine { failed } else { failed | bit(slot) };
                self.walker.windows[index].set_state(WindowState::Writing { pending, failed });
                if pending == 0 {
                    self.piece_answered(index, failed, out);
                }
            }
            state => panic!("window {index} got an answer in state {state:?}"),
        }
    }

    fn piece_read(
        &mut self,
        index: usize,
        source: MemberSlot,
        status: IoStatus,
        out: &mut Out<'_>,
    ) {
        let rebuilt = self.rebuild_targets();
        let window = &mut self.walker.windows[index];
        if !status.is_ok() {
            window.tried |= bit(source);
            window.set_state(WindowState::NeedBuffer);
            self.note_read_error(source, out);
            return self.read_piece(index, out);
        }
        if self.in_sync & bit(source) == 0 {
            // Thrown out while it was reading: what it said does not count.
            window.set_state(WindowState::NeedBuffer);
            return self.read_piece(index, out);
        }
        let next = window.next;
        let job = window.job;
        let legs = self.with_twin(self.shared.holders(next, false));
        let targets = match job {
            Job::Resync { .. }
                if mutant!(ResyncForgetsMember) && self.writable.count_ones() > 2 =>
            {
                let others = self.writable & !bit(source);
                others & (others - 1)
            }
            Job::Resync { .. } => self.writable & !bit(source),
            Job::Rebuild { .. } => rebuilt,
            Job::Scrub { .. } => return self.compare_piece(index, source, out),
            Job::Repair { slot } => self.with_twin(self.in_sync & bit(slot)),
        };
        if targets == 0 {
            return self.end_window(index, false, out);
        }
        self.send_piece(index, IoOp::Write, targets & legs, out);
    }

    /// All members have answered what was made of the piece.
    fn piece_answered(&mut self, index: usize, failed: SlotMask, out: &mut Out<'_>) {
        if let Some(slot) = self.walker.rereads(index, failed) {
            return self.send_piece(index, IoOp::Compare, self.in_sync & bit(slot), out);
        }
        let failed = failed | self.walker.not_kept(index);
        let window = &mut self.walker.windows[index];
        let is_compared = matches!(window.job, Job::Scrub { .. }) && !window.repairing;
        window.repairing = false;
        match is_compared {
            true => self.piece_compared(index, failed, out),
            false => self.piece_written(index, failed, out),
        }
    }

    /// Asks the other members whether they hold the piece that was read.
    fn compare_piece(&mut self, index: usize, source: MemberSlot, out: &mut Out<'_>) {
        let (blocks, next) = (self.piece_blocks(index), self.walker.windows[index].next);
        let others = self.in_sync & self.shared.holders(next, false) & !bit(source);
        let bad = self.bad_in_piece(index);
        // What has come to be in doubt may differ.
        let mut chunks = self.shared.chunks(next, blocks.into());
        if others == 0 || !chunks.all(|chunk| self.is_comparable(chunk)) {
            self.walker.windows[index].set_state(WindowState::Writing { pending: 0, failed: 0 });
            return self.piece_written(index, 0, out);
        }
        if others & !bad == 0 {
            self.walker.windows[index].set_state(WindowState::Writing { pending: 0, failed: 0 });
            return self.piece_compared(index, 0, out);
        }
        self.send_piece(index, IoOp::Compare, others & !bad, out);
    }

    /// The other members have compared: what differs is looked at closely, then told; what can't
    /// be read, and in a repair what differs, is written.
    fn piece_compared(&mut self, index: usize, unreadable: SlotMask, out: &mut Out<'_>) {
        let blocks = u64::from(self.piece_blocks(index));
        let part_blocks = self.part_blocks();
        let bad = self.bad_in_piece(index);
        let window = &mut self.walker.windows[index];
        let differ = std::mem::take(&mut window.differ);
        let lba = window.next;
        if differ != 0 && blocks > part_blocks {
            window.close_until = lba + blocks;
            window.buf = None;
            window.tried = 0;
            window.set_state(WindowState::NeedBuffer);
            return self.read_piece(index, out);
        }
        for slot in slots(unreadable) {
            self.note_read_error(slot, out);
        }
        self.scrubber.note(differ, lba);
        let differ = if self.scrubber.repairs() { differ } else { 0 };
        let targets = self.with_twin((differ | unreadable | bad) & self.in_sync);
        if targets == 0 {
            return self.piece_written(index, 0, out);
        }
        self.walker.windows[index].repairing = true;
        self.send_piece(index, IoOp::Write, targets, out);
    }

    /// Sends the piece that was read to members.
    fn send_piece(&mut self, index: usize, op: IoOp, targets: SlotMask, out: &mut Out<'_>) {
        let blocks = self.piece_blocks(index);
        let window = &mut self.walker.windows[index];
        let next = window.next;
        if op == IoOp::Write {
            window.written = targets;
        }
        window.set_state(WindowState::Writing { pending: targets, failed: 0 });
        if targets == 0 {
            // Nobody else has this run, or is there to get it.
            return self.piece_written(index, 0, out);
        }
        let buf = window.buf.clone();
        for slot in slots(targets) {
            let lba = self.shared.leg_lba(next, self.origin(slot));
            let lba = self.place(slot).data_lba + lba;
            let request = MemberRequest { op, lba, blocks, buf: buf.clone() };
            self.send(slot, OwnerOp::Window(index), request, out);
        }
    }

    /// These members were sent a piece to write.
    pub(in crate::raid) fn wrote(&mut self, index: usize, members: SlotMask) {
        self.walker.windows[index].written = members;
    }

    /// What could be done with the piece is done, but some have failed to write it.
    pub(in crate::raid) fn piece_written(
        &mut self,
        index: usize,
        failed: SlotMask,
        out: &mut Out<'_>,
    ) {
        let written = std::mem::take(&mut self.walker.windows[index].written);
        if !self.bad.is_quiet() && written | failed != 0 {
            let (lba, blocks) =
                (self.walker.windows[index].next, u64::from(self.piece_blocks(index)));
            let sync = BlockRange { lba, blocks };
            let asked = self.ask_for_piece(index, sync, written, failed);
            let window = &mut self.walker.windows[index];
            (window.noting, window.refused) = (asked, failed & !asked);
            if asked != 0 {
                return;
            }
        }
        self.piece_is_over(index, failed, out);
    }

    /// A change of a list that a window has asked for is made, or is not.
    pub(in crate::raid) fn window_noted(
        &mut self,
        index: usize,
        slot: MemberSlot,
        noted: Noted,
        out: &mut Out<'_>,
    ) {
        let window = &mut self.walker.windows[index];
        window.noting &= !bit(slot);
        window.refused |= if noted == Noted::Kept { 0 } else { bit(slot) };
        if window.noting != 0 {
            return;
        }
        let refused = std::mem::take(&mut window.refused);
        match std::mem::take(&mut window.is_listing) {
            true if refused != 0 => {
                let blocks = self.piece_blocks(index);
                self.walker.windows[index].set_state(WindowState::NeedBuffer);
                self.piece_is_lost(index, blocks, out);
            }
            true => self.piece_is_over(index, 0, out),
            false => self.piece_is_over(index, refused, out),
        }
    }

    /// Nobody has the piece, since those who should have listed it: so do those that it is for.
    /// Whether they have been asked to.
    pub(in crate::raid) fn list_lack(
        &mut self,
        index: usize,
        blocks: u64,
        out: &mut Out<'_>,
    ) -> bool {
        let window = &self.walker.windows[index];
        let lba = window.next;
        let legs = self.shared.sync_run(lba).legs;
        let targets = match window.job {
            Job::Rebuild { .. } => self.rebuild_targets(),
            Job::Resync { .. } => self.writable & !self.shared.twin_bit(),
            Job::Scrub { .. } | Job::Repair { .. } => 0,
        };
        let (mut asked, mut concerned) = (0, false);
        for slot in slots(targets) {
            if legs & bit(self.origin(slot)) == 0 {
                continue;
            }
            let lba = self.shared.sync_leg_lba(lba, self.origin(slot));
            let range = BlockRange { lba, blocks };
            concerned = true;
            if !bad::covers(self.bad.list(slot), &range) {
                self.want_change(slot, range, false, Asker::Lack(index));
                asked |= bit(slot);
            }
        }
        if concerned {
            let window = &mut self.walker.windows[index];
            window.set_state(WindowState::Writing { pending: 0, failed: 0 });
            (window.noting, window.refused, window.is_listing) = (asked, 0, asked != 0);
        }
        if concerned && asked == 0 {
            // They have listed it before.
            self.piece_is_over(index, 0, out);
        }
        concerned
    }

    fn piece_is_over(&mut self, index: usize, failed: SlotMask, out: &mut Out<'_>) {
        let piece_blocks = self.piece_blocks(index);
        let blocks = u64::from(piece_blocks);
        for slot in slots(failed) {
            self.fail_member(slot, out);
        }
        if failed & self.in_sync != 0 && !mutant!(KeptMemberCountsAsCopied) {
            // The array can't do without it: it was kept, and has not got the piece.
            self.walker.windows[index].set_state(WindowState::NeedBuffer);
            return self.piece_is_lost(index, piece_blocks, out);
        }
        let goes_on = self.life() == Life::Running && self.can_walk();
        let window = &mut self.walker.windows[index];
        window.next += blocks;
        window.tried = 0;
        if window.next < window.locked.lba + window.locked.blocks {
            // The next piece may be shorter than the buffer, and a handle knows its length.
            window.buf = None;
            window.set_state(WindowState::NeedBuffer);
            return self.read_piece(index, out);
        }
        if window.next == window.end {
            return self.end_window(index, true, out);
        }
        if !goes_on {
            return self.end_window(index, false, out);
        }
        window.buf = None;
        let window_number = u8::try_from(index).expect("few windows");
        out.mail.push_back(Mail::Channels(ToChannel::Unlock(window_number)));
        self.lock_next(index, out);
    }
}

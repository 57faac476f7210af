//! The walker's work on levels with parity: makes parity anew from the data, recovers what a member
//! lacks from the others, compares parity with the data, and rewrites what a member failed to read.
//!
//! A window holds its range as on mirrors ([`super::owner_resync`]), so no write is under way in
//! its rows. A piece of it is read from every member that can be read, in one row.

use super::channel::WINDOWS;
use super::geometry::Parity;
use super::message::{BlockRange, Out, SlotMask};
use super::owner::{MemberRequest, Owner, OwnerOp};
use super::owner_resync::{Job, WindowState};
use super::stripe::compute::{Bufs, Computer};
use super::{MemberSlot, bit, slots};
use crate::bdev::{IoOp, IoStatus};
use crate::parity::Kernels;
use crate::reactor::buf::IoBuf;

/// Columns that are worked on at once, and at least, in bytes: every member takes a buffer.
const PIECE_SIZE_BYTES: [u64; 2] = [32 * 1024, 4096];

/// The columns a window works on.
#[derive(Debug)]
struct Piece {
    columns: BlockRange,
    bufs: Bufs,
    /// Old parity while the new one is compared with it.
    old: [Option<IoBuf>; 2],
    reads: SlotMask,
    /// What replaces a member is given what that has.
    is_copy: bool,
    pending: SlotMask,
    failed: SlotMask,
}

/// What the owner needs to work on rows.
#[derive(Debug)]
pub(super) struct ParityWork {
    kernels: Kernels,
    pieces: [Piece; WINDOWS],
}

impl ParityWork {
    pub(super) fn new(parity: &Parity) -> Self {
        let piece = || Piece {
            columns: BlockRange { lba: 0, blocks: 0 },
            bufs: (0..parity.slots()).map(|_| None).collect(),
            old: [None, None],
            reads: 0,
            is_copy: false,
            pending: 0,
            failed: 0,
        };
        Self { kernels: Kernels::detect(), pieces: std::array::from_fn(|_| piece()) }
    }

    /// Requests to the slot's device are under way.
    pub(super) fn has_requests_at(&self, slot: MemberSlot) -> bool {
        self.pieces.iter().any(|piece| piece.pending & bit(slot) != 0)
    }
}

impl Piece {
    /// Slots whose parity, made anew, is not what was read of them.
    fn wrong_parity(&self, parity: SlotMask) -> SlotMask {
        let is_wrong = |slot: MemberSlot, old: &Option<IoBuf>| {
            let is_same = match (&self.bufs[usize::from(slot)], old) {
                (Some(new), Some(old)) => new.as_slice() == old.as_slice(),
                _ => false,
            };
            !is_same || self.reads & bit(slot) == 0
        };
        let wrong = slots(parity).zip(&self.old).filter(|(slot, old)| is_wrong(*slot, old));
        wrong.fold(0, |mask, (slot, _)| mask | bit(slot))
    }
}

impl Owner {
    fn piece(&mut self, index: usize) -> &mut Piece {
        &mut self.parity_work.as_mut().expect("a level with parity").pieces[index]
    }

    fn computer(&self, columns: BlockRange) -> Computer {
        let kernels = self.parity_work.as_ref().expect("a level with parity").kernels;
        let parity = self.shared.parity().expect("a level with parity");
        let row = parity.row(columns.lba / parity.strip_blocks());
        Computer { kernels, row }
    }

    /// Whether resync has anything to do it with. With parity: while a member is away and not
    /// being rebuilt there is nothing to be made from the others.
    pub(super) fn can_walk(&self) -> bool {
        if self.parity_work.is_none() {
            return self.writable.count_ones() > 1;
        }
        let is_whole = self.in_sync == self.shared.geometry.all_slots();
        self.may_fail_all(0) && (is_whole || self.writable & !self.in_sync != 0)
    }

    /// Whether chunks in doubt can be resynced: what replaces a member needs nobody else for it, so
    /// the walker may walk without.
    pub(super) fn can_resync(&self) -> bool {
        let all = self.shared.geometry.all_slots();
        self.parity_work.is_none()
            || self.in_sync == all
            || self.writable & !self.in_sync & all != 0
    }

    /// Blocks of the piece that a window works on now.
    pub(super) fn columns_blocks(&mut self, index: usize) -> u32 {
        u32::try_from(self.piece(index).columns.blocks).expect("a piece fits a buffer")
    }

    /// Reads the next piece of a window.
    pub(super) fn read_columns(&mut self, index: usize, out: &mut Out<'_>) {
        let parity = self.shared.parity().expect("a level with parity");
        let (job, next, left, tried) = self.walker.piece_of(index, self.shared.chunk_shift);
        let to_strip_end = parity.strip_blocks() - next % parity.strip_blocks();
        let columns = BlockRange { lba: next, blocks: left.min(to_strip_end) };
        let blocks = self.bad.even(&self.shared, &columns, self.shared.geometry.all_slots());
        let columns = BlockRange { blocks, ..columns };
        let bad = self.bad.at(&self.shared, &columns, self.in_sync);
        self.walker.lack(index, bad);
        let computer = self.computer(columns);
        let excluded = if let Job::Repair { slot } = job { tried | bit(slot) } else { tried };
        let excluded = excluded | bad;
        // What replaces a member is given what that has, as long as it can be read.
        let own = match job {
            Job::Rebuild { .. } => self.replaced_by(self.rebuild_targets()),
            _ => 0,
        };
        let all = self.in_sync & !excluded;
        let reads = if all & own != 0 { all & own } else { all };
        let is_copy = reads == own && own != 0;
        let lost = (computer.row.data_mask() & !reads).count_ones();
        let parity_read = (reads & computer.row.parity_mask()).count_ones();
        // What parity says of a torn row is taken only when the operator has been told.
        let is_guess = lost > 0 && self.shared.is_torn(&columns);
        let is_refused = is_guess && !self.shared.doubt.is_accepted();
        let is_unknown = lost > parity_read || is_refused && !mutant!(RebuildFromDoubt);
        if is_unknown && !is_copy {
            self.piece(index).columns = columns;
            let is_listed = bad != 0 && tried & !bad == 0 && !is_refused;
            if is_listed && self.list_lack(index, columns.blocks, out) {
                return;
            }
            let blocks = u32::try_from(columns.blocks).expect("a held range fits u32");
            return self.piece_unreadable(index, blocks, out);
        }
        if !self.get_columns(index, columns) {
            return;
        }
        let piece = self.piece(index);
        (piece.reads, piece.pending, piece.failed) = (reads, reads, 0);
        piece.is_copy = is_copy;
        let columns = piece.columns;
        self.walker.window_begins(index, WindowState::Reading { source: 0 });
        for slot in slots(reads) {
            let buf = self.piece(index).bufs[usize::from(slot)].clone();
            self.send_columns(index, slot, IoOp::Read, columns, buf, out);
        }
    }

    /// Buffers for all slots and the parity to compare with; fewer columns where buffers are few.
    fn get_columns(&mut self, index: usize, columns: BlockRange) -> bool {
        let (pool, block) = (self.pool, u64::from(self.shared.block_size_bytes));
        PIECE_SIZE_BYTES.iter().any(|size_bytes| {
            let blocks = columns.blocks.min(size_bytes / block);
            let len = usize::try_from(blocks * block).expect("a piece fits a buffer");
            let piece = self.piece(index);
            piece.columns = BlockRange { lba: columns.lba, blocks };
            let mut all = true;
            for buf in piece.bufs.iter_mut().chain(&mut piece.old) {
                *buf = None;
                *buf = pool.get(len);
                all &= buf.is_some();
            }
            if !all {
                piece.bufs.iter_mut().chain(&mut piece.old).for_each(|buf| *buf = None);
            }
            all
        })
    }

    fn send_columns(
        &self,
        index: usize,
        slot: MemberSlot,
        op: IoOp,
        columns: BlockRange,
        buf: Option<IoBuf>,
        out: &mut Out<'_>,
    ) {
        let request = MemberRequest {
            op,
            lba: self.place(slot).data_lba + columns.lba,
            blocks: u32::try_from(columns.blocks).expect("a piece fits a buffer"),
            buf,
        };
        self.send(slot, OwnerOp::Window(index), request, out);
    }

    /// A member has answered a request of a window.
    pub(super) fn columns_answered(
        &mut self,
        index: usize,
        slot: MemberSlot,
        status: IoStatus,
        out: &mut Out<'_>,
    ) {
        let piece = self.piece(index);
        assert!(piece.pending & bit(slot) != 0, "a member answered twice");
        piece.pending &= !bit(slot);
        if !status.is_ok() {
            piece.failed |= bit(slot);
        }
        if piece.pending != 0 {
            return;
        }
        let (reads, failed) = (piece.reads, piece.failed);
        if !self.walker.is_reading(index) {
            if let Some(slot) = self.walker.rereads(index, failed)
                && self.in_sync & bit(slot) != 0
            {
                let columns = self.piece(index).columns;
                let buf = self.piece(index).bufs[usize::from(slot)].clone();
                self.piece(index).pending = bit(slot);
                return self.send_columns(index, slot, IoOp::Compare, columns, buf, out);
            }
            self.walker.not_kept(index);
            self.drop_columns(index);
            return self.piece_written(index, failed, out);
        }
        if failed != 0 || reads & !self.in_sync != 0 {
            // Again, without those that failed; what one said that was thrown out does not count.
            for slot in slots(failed) {
                self.note_read_error(slot, out);
            }
            self.drop_columns(index);
            self.walker.exclude(index, failed);
            return self.read_piece(index, out);
        }
        self.write_columns(index, out);
    }

    /// A check has found parity that does not fit: it is told, unless what was compared has come to
    /// be in doubt. Returns what is to be written.
    fn note_wrong(&mut self, index: usize, wrong: SlotMask) -> SlotMask {
        let piece = &self.parity_work.as_ref().expect("a level with parity").pieces[index];
        let (columns, wrong) = (piece.columns, wrong & piece.reads);
        let mut chunks = self.shared.chunks(columns.lba, columns.blocks);
        if !chunks.all(|chunk| self.is_comparable(chunk)) {
            return 0;
        }
        self.scrubber.note(wrong, columns.lba);
        if self.scrubber.repairs() { wrong } else { 0 }
    }

    fn drop_columns(&mut self, index: usize) {
        let piece = self.piece(index);
        piece.bufs.iter_mut().chain(&mut piece.old).for_each(|buf| *buf = None);
    }

    /// Everything is read: what differs from what it should be is written.
    fn write_columns(&mut self, index: usize, out: &mut Out<'_>) {
        let columns = self.piece(index).columns;
        let computer = self.computer(columns);
        let parity = computer.row.parity_mask();
        let (job, _, _, tried) = self.walker.piece_of(index, self.shared.chunk_shift);
        if self.piece(index).is_copy {
            let targets = self.rebuild_targets();
            return self.send_made(index, targets, out);
        }
        let piece = &mut self.parity_work.as_mut().expect("a level with parity").pieces[index];
        computer.recover(&mut piece.bufs, piece.reads);
        // The parity read changes places with the buffers that were got for the new one.
        for (slot, old) in slots(parity).zip(&mut piece.old) {
            std::mem::swap(&mut piece.bufs[usize::from(slot)], old);
        }
        computer.generate(&mut piece.bufs, parity, |_| None);
        let wrong = piece.wrong_parity(parity);
        let targets = match job {
            Job::Resync { .. } => self.writable & (tried | wrong | !self.in_sync),
            Job::Rebuild { .. } => self.rebuild_targets(),
            Job::Scrub { .. } => {
                let wrong = self.note_wrong(index, wrong);
                self.with_twin(self.in_sync & (tried | wrong))
            }
            Job::Repair { slot } => self.with_twin(self.in_sync & bit(slot)),
        };
        self.send_made(index, targets, out);
    }

    /// Writes what a piece was made to be.
    fn send_made(&mut self, index: usize, targets: SlotMask, out: &mut Out<'_>) {
        let columns = self.piece(index).columns;
        self.wrote(index, targets);
        let piece = self.piece(index);
        piece.pending = targets;
        self.walker.window_begins(index, WindowState::Writing { pending: targets, failed: 0 });
        if targets == 0 {
            self.drop_columns(index);
            return self.piece_written(index, 0, out);
        }
        for slot in slots(targets) {
            let origin = usize::from(self.origin(slot));
            let buf = self.piece(index).bufs[origin].clone();
            self.send_columns(index, slot, IoOp::Write, columns, buf, out);
        }
    }
}

//! Host requests that cross strips: each is cut into pieces that lie in one strip.
//!
//! A piece is a request like any other, handed to this channel itself; its completion comes back
//! here. The host is answered when all pieces have ended: with the first failure, if there was
//! one. What is not cut by then is not sent any more.

use super::channel::Channel;
use super::message::{BlockRange, Out};
use crate::bdev::{BdevIo, Completion, IoOp, IoStatus, Station, Tag};

/// Host requests in pieces at a time; further ones wait.
pub(super) const SPLITS_MAX: usize = 256;

/// Pieces of one request under way: more than a read or write of the largest size has. A discard
/// of any length is sent in turns.
pub(super) const PIECES_MAX: u32 = 64;

/// [`Tag::part`] of a piece, where a member's request has the slot.
pub(super) const PIECE: u8 = u8::MAX;

const _: () = assert!(crate::limits::MEMBERS_MAX <= PIECE as usize);

/// A host request in pieces.
#[derive(Debug)]
pub(super) struct Split {
    /// The request as the host gave it; `None`: the slot is free.
    pub(super) io: Option<BdevIo>,
    /// First block that is not in a piece yet.
    next: u64,
    in_flight: u32,
    failure: IoStatus,
}

impl Split {
    pub(super) fn free() -> Self {
        Self { io: None, next: 0, in_flight: 0, failure: IoStatus::Ok }
    }
}

impl Channel {
    /// Makes room for requests in pieces: a mirror needs none as long as nothing is listed as bad.
    pub(super) fn be_able_to_split(&mut self) {
        if self.splits.is_empty() {
            self.splits = (0..SPLITS_MAX).map(|_| Split::free()).collect();
            let numbers = 0..u32::try_from(SPLITS_MAX).expect("a small constant");
            self.free_splits = numbers.rev().collect();
            self.waiting_splits.reserve(SPLITS_MAX);
        }
    }

    /// Whether the request must be cut. What becomes Unwritten chunk by chunk is not: its ends
    /// are cut later.
    #[inline(never)]
    pub(super) fn crosses_strips(&self, io: &BdevIo) -> bool {
        match io.op {
            IoOp::Flush => false,
            IoOp::WriteZeroes | IoOp::Unmap if self.discards_chunks(io) => false,
            _ => self.shared.run_blocks(io.lba, io.op.modifies()) < u64::from(io.blocks),
        }
    }

    /// The same where members may have listed bad blocks: it is also cut where one has.
    #[inline(never)]
    pub(super) fn must_be_cut(&self, io: &BdevIo) -> bool {
        let crosses_strips = self.crosses_strips(io);
        if crosses_strips || self.bad.is_empty() || io.op == IoOp::Flush {
            return crosses_strips;
        }
        if matches!(io.op, IoOp::WriteZeroes | IoOp::Unmap) && self.discards_chunks(io) {
            return false;
        }
        let range = BlockRange { lba: io.lba, blocks: io.blocks.into() };
        self.bad.uncut(&self.shared, range, io.op.modifies()) < range.blocks
    }

    /// Takes a request that crosses strips.
    #[inline(never)]
    pub(super) fn begin_split(&mut self, split: u32, io: BdevIo, out: &mut Out<'_>) {
        let this = &mut self.splits[split as usize];
        assert!(this.io.is_none() && this.in_flight == 0, "the slot is in use");
        *this = Split { next: io.lba, io: Some(io), in_flight: 0, failure: IoStatus::Ok };
        self.cut(split, out);
    }

    /// Cuts off as many pieces as may be under way.
    fn cut(&mut self, split: u32, out: &mut Out<'_>) {
        loop {
            let this = &self.splits[split as usize];
            let io = this.io.as_ref().expect("the slot is in use");
            let end = io.lba + u64::from(io.blocks);
            if this.next == end || this.in_flight == PIECES_MAX || !this.failure.is_ok() {
                return;
            }
            let lba = this.next;
            let blocks = self.uncut_blocks(lba, end, io.op.modifies());
            let block = u64::from(self.shared.block_size_bytes);
            let part = |blocks: u64| usize::try_from(blocks * block).expect("inside a buffer");
            let piece = BdevIo {
                op: io.op,
                fua: io.fua,
                lba,
                blocks: u32::try_from(blocks).expect("a part of a u32"),
                buf: io.buf.as_ref().map(|buf| buf.slice(part(lba - io.lba), part(blocks))),
                completion: Completion::new(Tag {
                    station: Station::RaidChannel,
                    part: PIECE,
                    object: self.shared.bdev.0,
                    op: split,
                }),
            };
            let this = &mut self.splits[split as usize];
            this.next += blocks;
            this.in_flight += 1;
            self.take(piece, out);
        }
    }

    /// Blocks of a piece that begins at `lba`.
    pub(super) fn uncut_blocks(&self, lba: u64, end: u64, modifies: bool) -> u64 {
        let blocks = self.shared.run_blocks(lba, modifies).min(end - lba);
        if self.bad.is_empty() {
            return blocks;
        }
        self.bad.uncut(&self.shared, BlockRange { lba, blocks }, modifies)
    }

    /// A piece has ended.
    #[inline(never)]
    pub(super) fn piece_done(&mut self, split: u32, status: IoStatus, out: &mut Out<'_>) {
        let this = &mut self.splits[split as usize];
        this.in_flight -= 1;
        if this.failure.is_ok() {
            this.failure = status;
        }
        self.cut(split, out);
        let this = &mut self.splits[split as usize];
        if this.in_flight > 0 {
            return;
        }
        let (io, status) = (this.io.take().expect("the slot is in use"), this.failure);
        let is_lost = status.is_ok() && !self.bad.is_empty() && self.pieces_are_nowhere(&io);
        io.complete(if is_lost { IoStatus::MediaError } else { status }, out.io);
        self.free_splits.push(split);
        if let Some(next) = self.waiting_splits.pop_front() {
            let split = self.free_splits.pop().expect("a slot was just freed");
            self.begin_split(split, next, out);
        }
        self.report_closed(out);
    }
}

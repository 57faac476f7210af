//! A plain copy from one bdev to another, so many pieces at a time.
//!
//! A program keeps no buffer between requests; but the pool gives the one first that came back
//! last, so that what a piece is written from is what it was read into, or another one as good:
//! the bytes do not matter here, what they cost does.

use std::any::Any;

use mdof::bdev::{BdevId, IoOp, IoStatus};
use mdof::engine::workload::{Workload, WorkloadIo, WorkloadRequest};

/// What a [`CopyAll`] gives back.
#[derive(Debug)]
pub(super) struct CopyResult(pub(super) Result<(), IoStatus>);

/// A piece under way: it is read, then written.
#[derive(Debug, Clone, Copy, Default)]
struct Lane {
    lba: u64,
    is_written: bool,
}

/// The program.
#[derive(Debug)]
pub(super) struct CopyAll {
    bdevs: [BdevId; 2],
    piece_bytes: usize,
    piece_blocks: u32,
    next_lba: u64,
    pieces_left: u64,
    lanes: Vec<Lane>,
    in_flight: u32,
    failure: Option<IoStatus>,
}

impl CopyAll {
    pub(super) fn new(
        bdevs: [BdevId; 2],
        piece_bytes: usize,
        piece_blocks: usize,
        next_lba: u64,
        pieces: u64,
        depth: u32,
    ) -> Self {
        let piece_blocks = u32::try_from(piece_blocks).expect("a piece fits a request");
        let lanes = (0..depth).map(|_| Lane::default()).collect();
        let (pieces_left, in_flight, failure) = (pieces, 0, None);
        Self { bdevs, piece_bytes, piece_blocks, next_lba, pieces_left, lanes, in_flight, failure }
    }

    fn read(&mut self, op: u32, io: &mut WorkloadIo<'_>) {
        if self.pieces_left == 0 || self.failure.is_some() {
            return;
        }
        let lba = self.next_lba;
        self.pieces_left -= 1;
        self.next_lba += u64::from(self.piece_blocks);
        self.lanes[op as usize] = Lane { lba, is_written: false };
        self.send(op, io);
    }

    fn send(&mut self, op: u32, io: &mut WorkloadIo<'_>) {
        let Lane { lba, is_written } = self.lanes[op as usize];
        let Some(buf) = io.pool().get(self.piece_bytes) else {
            self.failure = Some(IoStatus::Aborted);
            return;
        };
        let (kind, bdev) = match is_written {
            false => (IoOp::Read, self.bdevs[0]),
            true => (IoOp::Write, self.bdevs[1]),
        };
        let blocks = self.piece_blocks;
        let request = WorkloadRequest { kind, fua: false, lba, blocks, buf: Some(buf) };
        io.submit(bdev, op, request);
        self.in_flight += 1;
    }
}

impl Workload for CopyAll {
    fn start(&mut self, io: &mut WorkloadIo<'_>) {
        let lanes = u32::try_from(self.lanes.len()).expect("few lanes");
        (0..lanes).for_each(|op| self.read(op, io));
    }

    fn done(&mut self, op: u32, status: IoStatus, io: &mut WorkloadIo<'_>) {
        self.in_flight -= 1;
        if !status.is_ok() {
            self.failure = Some(status);
            return;
        }
        let lane = &mut self.lanes[op as usize];
        if lane.is_written {
            return self.read(op, io);
        }
        lane.is_written = true;
        self.send(op, io);
    }

    fn is_finished(&self) -> bool {
        self.in_flight == 0 && (self.pieces_left == 0 || self.failure.is_some())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        Box::new(CopyResult(self.failure.map_or(Ok(()), Err)))
    }
}

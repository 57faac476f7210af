//! A mirror of two with a bitmap as md had it before the lockless one, for comparison only: one
//! bit a chunk on disk, a counter of 16 bits a chunk in memory that each write takes up and down,
//! and a synchronous write of the bitmap's page before the first write to a clean chunk.
//!
//! It runs on the same member bdevs with the same load as the arrays it is compared with. Where md
//! is slower than it must be, this is not: the counters have one owner instead of a lock that all
//! writers share, writers that wait for one page share its write, and those of chunks marked
//! before do not wait at all.

use std::any::Any;

use mdof::bdev::{BdevId, IoOp, IoStatus};
use mdof::engine::workload::{Workload, WorkloadIo, WorkloadRequest};
use mdof::reactor::clock;

use super::counters::{Counters, PAGE_BYTES};
use crate::job::PerfError;
use crate::load::Load;
use crate::stats::Tally;

/// Pieces that the initial resync copies at a time, and their size: as mdof does.
const WINDOWS: usize = 4;
const PIECE_BYTES: usize = 128 * 1024;

/// Kinds of requests, in the upper bits of their number.
const KIND_SHIFT: u32 = 24;
const DATA: u32 = 0;
const PAGE: u32 = 1;
const COPY: u32 = 2;

/// Where everything lies, in logical blocks of the members.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) members: [BdevId; 2],
    pub(super) block_size_bytes: u32,
    pub(super) bitmap_lba: u64,
    pub(super) data_lba: u64,
    pub(super) blocks: u64,
}

/// A host write.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    lba: u64,
    blocks: u32,
    /// Members that have not answered; 0: it waits, or the slot is free.
    pending: u8,
}

/// A piece that is being copied.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    lba: u64,
    /// 0: not in use.
    blocks: u32,
    is_written: bool,
}

/// The mirror with its load.
#[derive(Debug)]
pub(super) struct Classic {
    layout: Layout,
    load: Load,
    io_bytes: usize,
    counters: Counters,
    slots: Box<[Slot]>,
    /// Writes that wait for a page, and writes that a copy keeps back.
    waiting: Vec<u32>,
    page_pending: u8,
    windows: [Window; WINDOWS],
    /// Next block to copy; `None`: the members are alike.
    cursor: Option<u64>,
    in_flight: u32,
    failure: Option<IoStatus>,
}

/// What it gives back.
#[derive(Debug)]
pub(super) struct ClassicResult(pub(super) Result<Tally, PerfError>);

fn overlap(a: (u64, u32), b: (u64, u32)) -> bool {
    a.0 < b.0 + u64::from(b.1) && b.0 < a.0 + u64::from(a.1)
}

impl Classic {
    /// With `resync` the members must be made alike first: all bits are set, as md does.
    pub(super) fn new(
        layout: Layout,
        load: Load,
        (io_bytes, depth): (u32, u16),
        chunk_size_bytes: u64,
        resync: bool,
    ) -> Self {
        let chunk_blocks = chunk_size_bytes / u64::from(layout.block_size_bytes);
        Self {
            layout,
            load,
            io_bytes: io_bytes as usize,
            counters: Counters::new(layout.blocks, chunk_blocks, resync, clock::now_ns()),
            slots: vec![Slot::default(); depth.into()].into_boxed_slice(),
            waiting: Vec::with_capacity(depth.into()),
            page_pending: 0,
            windows: [Window::default(); WINDOWS],
            cursor: resync.then_some(0),
            in_flight: 0,
            failure: None,
        }
    }

    fn send(
        &mut self,
        member: usize,
        number: u32,
        request: WorkloadRequest,
        io: &mut WorkloadIo<'_>,
    ) {
        self.in_flight += 1;
        io.submit(self.layout.members[member], number, request);
    }

    fn fail(&mut self, status: IoStatus) {
        self.failure.get_or_insert(status);
    }

    /// Takes what the load gives.
    fn submit(&mut self, io: &mut WorkloadIo<'_>) {
        while let Some(request) = self.load.next(clock::now_ns) {
            self.slots[request.slot as usize] =
                Slot { lba: request.lba, blocks: request.blocks, pending: 0 };
            self.counters.start_write(request.lba);
            self.go_on(request.slot, io);
        }
        self.write_page(io);
        self.copy(io);
    }

    /// Sends a write if its bit is durable and no copy works there; else it waits.
    fn go_on(&mut self, slot: u32, io: &mut WorkloadIo<'_>) {
        let Slot { lba, blocks, .. } = self.slots[slot as usize];
        let copying =
            self.windows.iter().any(|window| overlap((lba, blocks), (window.lba, window.blocks)));
        if copying || !self.counters.is_durable(lba) {
            return self.waiting.push(slot);
        }
        let Some(buf) = io.pool().get(self.io_bytes) else {
            self.fail(IoStatus::Aborted);
            return self.load.failed(slot);
        };
        self.slots[slot as usize].pending = 2;
        for member in 0..2 {
            let request = WorkloadRequest {
                kind: IoOp::Write,
                fua: false,
                lba: self.layout.data_lba + lba,
                blocks,
                buf: Some(buf.clone()),
            };
            self.send(member, DATA << KIND_SHIFT | slot, request, io);
        }
    }

    fn wake(&mut self, io: &mut WorkloadIo<'_>) {
        for _ in 0..self.waiting.len() {
            let slot = self.waiting.remove(0);
            self.go_on(slot, io);
        }
    }

    /// Writes one changed page to both members.
    fn write_page(&mut self, io: &mut WorkloadIo<'_>) {
        if self.page_pending > 0 || self.failure.is_some() {
            return;
        }
        let Some(mut buf) = io.pool().get(PAGE_BYTES) else { return };
        let Some(page) = self.counters.begin_page(buf.as_mut_slice()) else { return };
        self.page_pending = 2;
        let blocks = u32::try_from(PAGE_BYTES).expect("small") / self.layout.block_size_bytes;
        let lba = self.layout.bitmap_lba + u64::from(page) * u64::from(blocks);
        for member in 0..2 {
            let buf = Some(buf.clone());
            let request = WorkloadRequest { kind: IoOp::Write, fua: true, lba, blocks, buf };
            self.send(member, PAGE << KIND_SHIFT, request, io);
        }
    }

    /// Copies on, where no host write is under way.
    fn copy(&mut self, io: &mut WorkloadIo<'_>) {
        while let Some(lba) = self.cursor
            && let Some(index) = self.windows.iter().position(|window| window.blocks == 0)
        {
            if self.load.is_finished() || self.failure.is_some() {
                return;
            }
            let piece = PIECE_BYTES as u64 / u64::from(self.layout.block_size_bytes);
            let piece = piece.min(self.layout.blocks - lba);
            let blocks = u32::try_from(piece).expect("a piece is short");
            let busy =
                |slot: &Slot| slot.pending > 0 && overlap((slot.lba, slot.blocks), (lba, blocks));
            if self.slots.iter().any(busy) {
                return;
            }
            let Some(buf) = io.pool().get(blocks as usize * self.layout.block_size_bytes as usize)
            else {
                return;
            };
            self.windows[index] = Window { lba, blocks, is_written: false };
            let next = lba + piece;
            self.cursor = (next < self.layout.blocks).then_some(next);
            let lba = self.layout.data_lba + lba;
            // The buffer lives as long as the request: the write takes a new one of the same
            // class, as what is copied does not matter here.
            let request =
                WorkloadRequest { kind: IoOp::Read, fua: false, lba, blocks, buf: Some(buf) };
            let number = u32::try_from(index).expect("few windows");
            self.send(0, COPY << KIND_SHIFT | number, request, io);
        }
    }

    fn copied(&mut self, index: usize, io: &mut WorkloadIo<'_>) {
        let Window { lba, blocks, is_written } = self.windows[index];
        if is_written {
            self.windows[index] = Window::default();
            if self.cursor.is_none() && self.windows.iter().all(|window| window.blocks == 0) {
                self.counters.resync_done();
            }
            return self.wake(io);
        }
        let Some(buf) = io.pool().get(blocks as usize * self.layout.block_size_bytes as usize)
        else {
            return self.fail(IoStatus::Aborted);
        };
        self.windows[index].is_written = true;
        let lba = self.layout.data_lba + lba;
        let request = WorkloadRequest { kind: IoOp::Write, fua: true, lba, blocks, buf: Some(buf) };
        let number = u32::try_from(index).expect("few windows");
        self.send(1, COPY << KIND_SHIFT | number, request, io);
    }

    fn data_done(&mut self, slot: u32) {
        let this = &mut self.slots[slot as usize];
        this.pending -= 1;
        if this.pending == 0 {
            self.counters.end_write(this.lba);
            self.load.ended(slot, clock::now_ns);
        }
    }
}

impl Workload for Classic {
    fn start(&mut self, io: &mut WorkloadIo<'_>) {
        self.submit(io);
    }

    fn done(&mut self, number: u32, status: IoStatus, io: &mut WorkloadIo<'_>) {
        self.in_flight -= 1;
        if !status.is_ok() {
            self.fail(status);
        }
        let index = number & ((1 << KIND_SHIFT) - 1);
        match number >> KIND_SHIFT {
            DATA => self.data_done(index),
            PAGE => {
                self.page_pending -= 1;
                if self.page_pending == 0 {
                    self.counters.end_page();
                    self.wake(io);
                }
            }
            _ => self.copied(index as usize, io),
        }
        self.counters.daemon(io.now_ns());
        if self.failure.is_none() {
            self.submit(io);
        }
    }

    fn is_finished(&self) -> bool {
        self.in_flight == 0 && (self.load.is_finished() || self.failure.is_some())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        let failed = |status| PerfError(format!("a member failed a request with {status:?}"));
        Box::new(ClassicResult(match self.failure {
            None => Ok(self.load.into_tally()),
            Some(status) => Err(failed(status)),
        }))
    }
}

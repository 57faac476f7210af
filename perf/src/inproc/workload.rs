//! Programs that the engine runs on its cores.

use std::any::Any;

use mdof::bdev::{BdevId, IoOp, IoStatus};
use mdof::engine::workload::{Workload, WorkloadIo, WorkloadRequest};
use mdof::reactor::clock;

use crate::job::PerfError;
use crate::load::Load;
use crate::pattern::Direction;
use crate::stats::Tally;

/// What a [`LoadWorkload`] gives back.
#[derive(Debug)]
pub(super) struct LoadResult(pub(super) Result<Tally, PerfError>);

/// A load on a bdev. It reads the clock itself: one turn of the core may carry many requests.
#[derive(Debug)]
pub(super) struct LoadWorkload {
    bdev: BdevId,
    load: Load,
    io_bytes: usize,
    failure: Option<Failure>,
}

#[derive(Debug, Clone, Copy)]
enum Failure {
    Io(IoStatus),
    NoBuffer,
}

impl LoadWorkload {
    pub(super) fn new(bdev: BdevId, load: Load, io_bytes: u32) -> Self {
        Self { bdev, load, io_bytes: io_bytes as usize, failure: None }
    }

    fn submit(&mut self, io: &mut WorkloadIo<'_>) {
        while let Some(request) = self.load.next(clock::now_ns) {
            let Some(buf) = io.pool().get(self.io_bytes) else {
                self.failure = Some(Failure::NoBuffer);
                return self.load.failed(request.slot);
            };
            let kind = match request.direction {
                Direction::Read => IoOp::Read,
                Direction::Write => IoOp::Write,
            };
            io.submit(
                self.bdev,
                request.slot,
                WorkloadRequest {
                    kind,
                    fua: false,
                    lba: request.lba,
                    blocks: request.blocks,
                    buf: Some(buf),
                },
            );
        }
    }
}

impl Workload for LoadWorkload {
    fn start(&mut self, io: &mut WorkloadIo<'_>) {
        self.submit(io);
    }

    fn done(&mut self, op: u32, status: IoStatus, io: &mut WorkloadIo<'_>) {
        if status.is_ok() {
            self.load.ended(op, clock::now_ns);
            self.submit(io);
        } else {
            self.failure = Some(Failure::Io(status));
            self.load.failed(op);
        }
    }

    fn is_finished(&self) -> bool {
        self.load.is_finished()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        let result = match self.failure {
            None => Ok(self.load.into_tally()),
            Some(Failure::Io(status)) => Err(PerfError(format!(
                "a request failed with {status:?}; the measurement was stopped"
            ))),
            Some(Failure::NoBuffer) => {
                Err(PerfError("the core has no buffer left; use a smaller queue depth".to_owned()))
            }
        };
        Box::new(LoadResult(result))
    }
}

/// What a [`Fill`] gives back.
#[derive(Debug)]
pub(super) struct FillResult(pub(super) Result<(), PerfError>);

/// Writes one block at every multiple of a stride.
#[derive(Debug)]
pub(super) struct Fill {
    bdev: BdevId,
    block_size_bytes: usize,
    blocks: u64,
    stride: u64,
    next_lba: u64,
    depth: u32,
    in_flight: u32,
    failure: Option<IoStatus>,
}

impl Fill {
    pub(super) fn new(
        bdev: BdevId,
        block_size_bytes: u32,
        blocks: u64,
        stride: u64,
        depth: u32,
    ) -> Self {
        assert!(stride > 0 && depth > 0, "a fill goes on");
        let block_size_bytes = block_size_bytes as usize;
        let (next_lba, in_flight, failure) = (0, 0, None);
        Self { bdev, block_size_bytes, blocks, stride, next_lba, depth, in_flight, failure }
    }

    fn submit(&mut self, io: &mut WorkloadIo<'_>) {
        while self.in_flight < self.depth && self.next_lba < self.blocks && self.failure.is_none() {
            let Some(mut buf) = io.pool().get(self.block_size_bytes) else {
                self.failure = Some(IoStatus::Aborted);
                return;
            };
            buf.as_mut_slice().fill(0xa5);
            let (kind, fua, lba) = (IoOp::Write, false, self.next_lba);
            let request = WorkloadRequest { kind, fua, lba, blocks: 1, buf: Some(buf) };
            io.submit(self.bdev, 0, request);
            self.in_flight += 1;
            self.next_lba += self.stride;
        }
    }
}

impl Workload for Fill {
    fn start(&mut self, io: &mut WorkloadIo<'_>) {
        self.submit(io);
    }

    fn done(&mut self, _op: u32, status: IoStatus, io: &mut WorkloadIo<'_>) {
        self.in_flight -= 1;
        if !status.is_ok() {
            self.failure = Some(status);
        }
        self.submit(io);
    }

    fn is_finished(&self) -> bool {
        self.in_flight == 0 && (self.next_lba >= self.blocks || self.failure.is_some())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        let failed = |status| {
            PerfError(format!("a first write failed with {status:?} before the measurement"))
        };
        Box::new(FillResult(self.failure.map_or(Ok(()), |status| Err(failed(status)))))
    }
}

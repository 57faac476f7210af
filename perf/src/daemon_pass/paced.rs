//! Host writes that come just when the core has begun a turn: the worst moment, as they are looked
//! at in the next one only. So every turn is looked at whole, and each step of the daemon that
//! there is meets a write.
//!
//! A bdev that takes a microsecond is what they come from: its timer runs out in the turn behind
//! the one that armed it. The time is the CPU time of the core's thread, which leaves out what
//! other programs took of the processor in between.

use std::any::Any;

use hdrhistogram::Histogram;
use mdof::bdev::{BdevId, IoOp, IoStatus};
use mdof::engine::workload::{Workload, WorkloadIo, WorkloadRequest};
use mdof::reactor::clock;

use crate::cpu;
use crate::random::Random;
use crate::stats::latencies;

/// What is written, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) array: BdevId,
    /// Takes a microsecond.
    pub(super) clock: BdevId,
    /// Writes that come at a time.
    pub(super) lanes: u32,
    pub(super) io_bytes: usize,
    pub(super) io_blocks: u32,
    /// Places to write to: so many, so far apart.
    pub(super) places: u64,
    pub(super) stride_blocks: u64,
    /// Clock at which it begins and ends to count.
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
}

/// The program.
#[derive(Debug)]
pub(super) struct Paced {
    plan: Plan,
    random: Random,
    came_ns: Box<[u64]>,
    in_flight: u32,
    latency: Histogram<u64>,
    failure: Option<IoStatus>,
}

/// What it gives back.
#[derive(Debug)]
pub(super) struct PacedResult(pub(super) Result<Histogram<u64>, IoStatus>);

impl Paced {
    pub(super) fn new(plan: Plan, seed: u64) -> Self {
        let came_ns = vec![0; plan.lanes as usize].into_boxed_slice();
        let (random, latency) = (Random::new(seed), latencies());
        Self { plan, random, came_ns, in_flight: 0, latency, failure: None }
    }

    fn wait(&mut self, lane: u32, io: &mut WorkloadIo<'_>) {
        self.came_ns[lane as usize] = cpu::thread_time_ns();
        let request =
            WorkloadRequest { kind: IoOp::Flush, fua: false, lba: 0, blocks: 0, buf: None };
        io.submit(self.plan.clock, 2 * lane, request);
        self.in_flight += 1;
    }

    fn write(&mut self, lane: u32, io: &mut WorkloadIo<'_>) {
        let Some(buf) = io.pool().get(self.plan.io_bytes) else {
            self.failure = Some(IoStatus::Aborted);
            return;
        };
        let place = self.random.below(self.plan.places) * self.plan.stride_blocks;
        let request = WorkloadRequest {
            kind: IoOp::Write,
            fua: false,
            lba: place,
            blocks: self.plan.io_blocks,
            buf: Some(buf),
        };
        io.submit(self.plan.array, 2 * lane + 1, request);
        self.in_flight += 1;
    }
}

impl Workload for Paced {
    fn start(&mut self, io: &mut WorkloadIo<'_>) {
        (0..self.plan.lanes).for_each(|lane| self.wait(lane, io));
    }

    fn done(&mut self, op: u32, status: IoStatus, io: &mut WorkloadIo<'_>) {
        self.in_flight -= 1;
        let lane = op / 2;
        if !status.is_ok() {
            self.failure = Some(status);
            return;
        }
        if op.is_multiple_of(2) {
            return self.write(lane, io);
        }
        let cpu_ns = cpu::thread_time_ns() - self.came_ns[lane as usize];
        let now_ns = clock::now_ns();
        if now_ns >= self.plan.from_ns {
            self.latency.saturating_record(cpu_ns.max(1));
        }
        if now_ns < self.plan.until_ns && self.failure.is_none() {
            self.wait(lane, io);
        }
    }

    fn is_finished(&self) -> bool {
        self.in_flight == 0
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        Box::new(PacedResult(self.failure.map_or(Ok(self.latency), Err)))
    }
}

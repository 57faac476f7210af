//! Programs that run on a core beside the target's stations, such as a benchmark: they submit
//! requests to bdevs and are told when these end.

use crate::bdev::{BdevId, BdevIo, Completion, IoOp, IoQueue, IoStatus, Station, Tag};
use crate::reactor::buf::{BufPool, IoBuf};

/// A program on one core. It is moved to the core and called there only.
pub trait Workload: Send {
    /// Once, when it arrives on its core.
    fn start(&mut self, io: &mut WorkloadIo<'_>);

    /// The request that was submitted with `op` has ended.
    fn done(&mut self, op: u32, status: IoStatus, io: &mut WorkloadIo<'_>);

    /// Whether it has nothing in flight and will submit nothing more: it is then given back.
    fn is_finished(&self) -> bool;

    /// Gives back what it found, when it is finished.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send>;
}

/// What a program may use on its core.
#[derive(Debug)]
pub struct WorkloadIo<'a> {
    pub(super) queue: &'a mut IoQueue,
    pub(super) pool: BufPool,
    pub(super) now_ns: u64,
}

impl WorkloadIo<'_> {
    /// The core's buffers.
    #[must_use]
    pub fn pool(&self) -> BufPool {
        self.pool
    }

    /// The monotonic clock at the start of the core's turn, in nanoseconds.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Submits a request; [`Workload::done`] gets `op` back.
    pub fn submit(&mut self, bdev: BdevId, op: u32, request: WorkloadRequest) {
        let tag = Tag { station: Station::App, part: 0, object: 0, op };
        let WorkloadRequest { kind, fua, lba, blocks, buf } = request;
        let completion = Completion::new(tag);
        self.queue.submit(bdev, BdevIo { op: kind, fua, lba, blocks, buf, completion });
    }
}

/// A request of a program.
#[derive(Debug)]
pub struct WorkloadRequest {
    /// The operation.
    pub kind: IoOp,
    /// Durable before completion.
    pub fua: bool,
    /// First logical block.
    pub lba: u64,
    /// Number of logical blocks.
    pub blocks: u32,
    /// Data, for Read, Write and Compare.
    pub buf: Option<IoBuf>,
}

//! A filter that delays requests to its base: slow disks and slow fabrics for tests.

use std::collections::VecDeque;
use std::sync::Arc;

use uuid::Uuid;

use super::channel::OPS_PER_CHANNEL;
use super::{BdevId, BdevIo, Completion, Geometry, IoOp, IoQueue, IoStatus, Station, Tag};
use crate::reactor::CoreIo;
use crate::reactor::pool::{Handle, Pool};
use crate::reactor::ring::KIND_BDEV;
use crate::reactor::sync::{AtomicU64, Ordering};
use crate::reactor::timer::TimerTag;

/// One request in this many takes the 99th percentile's latency.
const P99_EVERY: u32 = 100;

/// Which latency an update means; RPC names in comments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LatencyKind {
    /// `avg_read`
    AverageRead,
    /// `p99_read`
    P99Read,
    /// `avg_write`: everything that is not a read.
    AverageWrite,
    /// `p99_write`
    P99Write,
}

/// Microseconds a request takes at least, by [`LatencyKind`] in its order.
pub type LatenciesUs = [u64; 4];

/// The shared part.
#[derive(Debug)]
pub struct DelayDevice {
    geometry: Geometry,
    base: BdevId,
    /// Written by the control plane, read by all channels; each value stands alone (Relaxed).
    latencies_us: [AtomicU64; 4],
}

impl DelayDevice {
    /// A filter over `base`.
    #[must_use]
    pub fn new(
        name: &str,
        uuid: Uuid,
        base: BdevId,
        base_geometry: &Geometry,
        latencies_us: LatenciesUs,
    ) -> Arc<Self> {
        let geometry = Geometry {
            name: name.to_owned(),
            product_name: "delay",
            uuid,
            ..base_geometry.clone()
        };
        Arc::new(Self { geometry, base, latencies_us: latencies_us.map(AtomicU64::new) })
    }

    /// Changes one latency, for requests to come.
    pub fn update_latency(&self, kind: LatencyKind, latency_us: u64) {
        self.latencies_us[kind as usize].store(latency_us, Ordering::Relaxed);
    }

    /// The latencies now.
    #[must_use]
    pub fn latencies_us(&self) -> LatenciesUs {
        std::array::from_fn(|n| self.latencies_us[n].load(Ordering::Relaxed))
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(super) fn base(&self) -> BdevId {
        self.base
    }
}

/// A delayed request: first at the base, then waiting for its time.
#[derive(Debug)]
struct DelayOp {
    completion: Completion,
    due_us: u64,
    /// `None`: the base has not answered. `Some`: the timer will end it with this.
    status: Option<IoStatus>,
}

/// One core's channel.
#[derive(Debug)]
pub struct DelayChannel {
    device: Arc<DelayDevice>,
    id: BdevId,
    ops: Pool<DelayOp>,
    /// Wait state: all ops are in use.
    waiting_for_op: VecDeque<BdevIo>,
    /// Requests seen, reads and others, for the 99th percentile.
    seen: [u32; 2],
}

impl DelayChannel {
    pub(super) fn new(device: Arc<DelayDevice>, id: BdevId) -> Self {
        Self {
            device,
            id,
            ops: Pool::new(OPS_PER_CHANNEL),
            waiting_for_op: VecDeque::with_capacity(OPS_PER_CHANNEL),
            seen: [0; 2],
        }
    }

    pub(super) fn submit(&mut self, io: BdevIo, core: &mut CoreIo, out: &mut IoQueue) {
        if self.ops.is_full() {
            self.waiting_for_op.push_back(io);
        } else {
            self.begin(io, core, out);
        }
    }

    fn latency_us(&mut self, op: IoOp) -> u64 {
        let write = usize::from(op != IoOp::Read);
        self.seen[write] += 1;
        let kind = if self.seen[write] == P99_EVERY {
            self.seen[write] = 0;
            2 * write + 1
        } else {
            2 * write
        };
        self.device.latencies_us[kind].load(Ordering::Relaxed)
    }

    fn begin(&mut self, io: BdevIo, core: &mut CoreIo, out: &mut IoQueue) {
        let due_us = core.now_us().saturating_add(self.latency_us(io.op));
        let BdevIo { op, fua, lba, blocks, buf, completion } = io;
        let Ok(handle) = self.ops.acquire(DelayOp { completion, due_us, status: None }) else {
            panic!("an op was free");
        };
        let tag = Tag { station: Station::Filter, part: 0, object: self.id.0, op: handle.0 };
        let below = BdevIo { op, fua, lba, blocks, buf, completion: Completion::new(tag) };
        out.submit(self.device.base, below);
    }

    pub(super) fn io_done(
        &mut self,
        op: u32,
        status: IoStatus,
        core: &mut CoreIo,
        out: &mut IoQueue,
    ) {
        let delayed = self.ops.get_mut(Handle(op)).expect("the base answers each op once");
        assert!(delayed.status.is_none(), "the base answers each op once");
        delayed.status = Some(status);
        if delayed.due_us <= core.now_us() {
            self.end(Handle(op), core, out);
        } else {
            let tag = TimerTag { kind: KIND_BDEV, object: self.id.0, op };
            core.timers.arm_us(delayed.due_us, tag);
        }
    }

    pub(super) fn timer(&mut self, op: u32, core: &mut CoreIo, out: &mut IoQueue) {
        if self.ops.get(Handle(op)).is_some_and(|delayed| delayed.status.is_some()) {
            self.end(Handle(op), core, out);
        }
    }

    fn end(&mut self, handle: Handle, core: &mut CoreIo, out: &mut IoQueue) {
        let delayed = self.ops.release(handle).expect("the caller has looked");
        delayed.completion.complete(delayed.status.expect("the base has answered"), out);
        if let Some(io) = self.waiting_for_op.pop_front() {
            self.begin(io, core, out);
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.ops.in_use() + self.waiting_for_op.len()
    }
}

//! A filter that fails or holds back requests to its base on demand: sick disks for tests.

use std::collections::VecDeque;
use std::sync::Arc;

use uuid::Uuid;

use super::channel::OPS_PER_CHANNEL;
use super::{BdevId, BdevIo, Completion, Geometry, IoOp, IoQueue, IoStatus, Station, Tag};
use crate::reactor::CoreIo;
use crate::reactor::pool::{Handle, Pool};
use crate::reactor::ring::KIND_BDEV;
use crate::reactor::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::reactor::timer::TimerTag;

/// How often a channel that holds requests back looks whether it shall let them go.
const RESUME_CHECK_MS: u64 = 10;
/// Timer op of that look; pool handles never take this value for pools of this size.
const RESUME_CHECK_OP: u32 = u32::MAX;
const _: () = assert!(OPS_PER_CHANNEL < 0xffff);

/// Product name of a filter that passes everything on.
const PASSTHRU: &str = "passthru";

/// Kinds of operations that injections tell apart.
const OPS: [IoOp; 6] =
    [IoOp::Read, IoOp::Write, IoOp::Flush, IoOp::WriteZeroes, IoOp::Unmap, IoOp::Compare];

/// What happens to a request that an injection hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ErrorKind {
    /// It ends with [`IoStatus::MediaError`] and does not reach the base.
    Failure = 1,
    /// It is held back until [`ErrorDevice::resume_pending`].
    Pending = 2,
}

/// One injection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injection {
    /// What happens.
    pub kind: ErrorKind,
    /// To how many requests, over all cores.
    pub count: u32,
    /// First and one past the last logical block; requests that touch the range are hit. `None`
    /// is everywhere. Flushes have no range and are always hit.
    pub lbas: Option<(u64, u64)>,
}

/// The injection for one operation, as channels see it.
#[derive(Debug, Default)]
struct Rule {
    /// 0 or an [`ErrorKind`]. Stored last with Release, loaded first with Acquire: whoever sees
    /// the kind sees the range of the same injection.
    kind: AtomicU8,
    /// Relaxed: guarded by `kind`.
    lba_start: AtomicU64,
    /// Relaxed: guarded by `kind`.
    lba_end: AtomicU64,
    /// Requests still to be hit. Read-modify-writes by all channels; no other data hang on it.
    left: AtomicU32,
}

impl Rule {
    fn set(&self, injection: Injection) {
        self.clear();
        let (start, end) = injection.lbas.unwrap_or((0, u64::MAX));
        self.lba_start.store(start, Ordering::Relaxed);
        self.lba_end.store(end, Ordering::Relaxed);
        self.left.store(injection.count, Ordering::Relaxed);
        self.kind.store(injection.kind as u8, Ordering::Release);
    }

    fn clear(&self) {
        self.left.store(0, Ordering::Relaxed);
        self.kind.store(0, Ordering::Release);
    }

    /// Whether `io` is hit; uses up one of the count.
    fn hit(&self, io: &BdevIo) -> Option<ErrorKind> {
        let kind = match self.kind.load(Ordering::Acquire) {
            1 => ErrorKind::Failure,
            2 => ErrorKind::Pending,
            _ => return None,
        };
        let outside = io.lba >= self.lba_end.load(Ordering::Relaxed)
            || io.lba.saturating_add(u64::from(io.blocks))
                <= self.lba_start.load(Ordering::Relaxed);
        if outside && io.op != IoOp::Flush {
            return None;
        }
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.ok().map(|_| kind)
    }
}

/// The shared part.
#[derive(Debug)]
pub struct ErrorDevice {
    geometry: Geometry,
    base: BdevId,
    rules: [Rule; OPS.len()],
    /// Counts calls of `resume_pending`. Relaxed: no other data hang on it.
    resumed: AtomicU32,
}

impl ErrorDevice {
    /// A filter over `base`, without injections.
    #[must_use]
    pub fn new(name: &str, uuid: Uuid, base: BdevId, base_geometry: &Geometry) -> Arc<Self> {
        let geometry = Geometry {
            name: name.to_owned(),
            product_name: "Error Injection Disk",
            uuid,
            ..base_geometry.clone()
        };
        Arc::new(Self { geometry, base, rules: Default::default(), resumed: AtomicU32::new(0) })
    }

    /// The same filter under SPDK's name for one that passes everything on.
    #[must_use]
    pub fn passthru(name: &str, uuid: Uuid, base: BdevId, base_geometry: &Geometry) -> Arc<Self> {
        let mut device = Self::new(name, uuid, base, base_geometry);
        let own = Arc::get_mut(&mut device).expect("just made");
        own.geometry.product_name = PASSTHRU;
        device
    }

    /// It was made as one that passes everything on.
    #[must_use]
    pub fn is_passthru(&self) -> bool {
        self.geometry.product_name == PASSTHRU
    }

    /// Sets the injection for `op`, in place of an earlier one; `None` is every operation. Called
    /// by one thread (control) at a time; requests already under way are not hit.
    pub fn inject(&self, op: Option<IoOp>, injection: Injection) {
        for (rule, kind) in self.rules.iter().zip(OPS) {
            if op.is_none_or(|op| op == kind) {
                rule.set(injection);
            }
        }
    }

    /// Removes all injections. Requests held back stay so until [`Self::resume_pending`].
    pub fn clear(&self) {
        self.rules.iter().for_each(Rule::clear);
    }

    /// Lets all requests that are held back go on to the base.
    pub fn resume_pending(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(super) fn base(&self) -> BdevId {
        self.base
    }
}

/// One core's channel.
#[derive(Debug)]
pub struct ErrorChannel {
    device: Arc<ErrorDevice>,
    id: BdevId,
    /// Requests at the base: whom to tell.
    ops: Pool<Completion>,
    /// Wait state: all ops are in use.
    waiting_for_op: VecDeque<BdevIo>,
    /// Wait state: held back by an injection.
    held_back: VecDeque<BdevIo>,
    /// Value of `resumed` that `held_back` has seen.
    resumed: u32,
    /// The look for `resumed` is armed.
    checking: bool,
    closing: bool,
}

impl ErrorChannel {
    pub(super) fn new(device: Arc<ErrorDevice>, id: BdevId) -> Self {
        Self {
            id,
            ops: Pool::new(OPS_PER_CHANNEL),
            waiting_for_op: VecDeque::with_capacity(OPS_PER_CHANNEL),
            held_back: VecDeque::with_capacity(OPS_PER_CHANNEL),
            resumed: device.resumed.load(Ordering::Relaxed),
            device,
            checking: false,
            closing: false,
        }
    }

    pub(super) fn submit(&mut self, io: BdevIo, core: &mut CoreIo, out: &mut IoQueue) {
        let place = OPS.iter().position(|&op| op == io.op).expect("the table names every op");
        match self.device.rules[place].hit(&io) {
            None => self.forward(io, out),
            Some(ErrorKind::Failure) => io.complete(IoStatus::MediaError, out),
            Some(ErrorKind::Pending) if self.closing => io.complete(IoStatus::Aborted, out),
            Some(ErrorKind::Pending) => {
                if self.held_back.is_empty() {
                    self.resumed = self.device.resumed.load(Ordering::Relaxed);
                }
                self.held_back.push_back(io);
                self.arm_check(core);
            }
        }
    }

    fn forward(&mut self, io: BdevIo, out: &mut IoQueue) {
        if self.ops.is_full() {
            self.waiting_for_op.push_back(io);
            return;
        }
        let BdevIo { op, fua, lba, blocks, buf, completion } = io;
        let Ok(handle) = self.ops.acquire(completion) else { panic!("an op was free") };
        let tag = Tag { station: Station::Filter, part: 0, object: self.id.0, op: handle.0 };
        let below = BdevIo { op, fua, lba, blocks, buf, completion: Completion::new(tag) };
        out.submit(self.device.base, below);
    }

    fn arm_check(&mut self, core: &mut CoreIo) {
        if !self.checking {
            self.checking = true;
            let tag = TimerTag { kind: KIND_BDEV, object: self.id.0, op: RESUME_CHECK_OP };
            core.timers.arm(core.now_ms() + RESUME_CHECK_MS, tag);
        }
    }

    pub(super) fn timer(&mut self, op: u32, core: &mut CoreIo, out: &mut IoQueue) {
        if op != RESUME_CHECK_OP {
            return;
        }
        self.checking = false;
        if self.device.resumed.load(Ordering::Relaxed) != self.resumed {
            while let Some(io) = self.held_back.pop_front() {
                self.forward(io, out);
            }
        }
        if !self.held_back.is_empty() {
            self.arm_check(core);
        }
    }

    pub(super) fn io_done(
        &mut self,
        op: u32,
        status: IoStatus,
        _core: &mut CoreIo,
        out: &mut IoQueue,
    ) {
        let completion = self.ops.release(Handle(op)).expect("the base answers each op once");
        completion.complete(status, out);
        if let Some(io) = self.waiting_for_op.pop_front() {
            self.forward(io, out);
        }
    }

    pub(super) fn close(&mut self, out: &mut IoQueue) {
        self.closing = true;
        while let Some(io) = self.held_back.pop_front() {
            io.complete(IoStatus::Aborted, out);
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.ops.in_use() + self.waiting_for_op.len() + self.held_back.len()
    }
}

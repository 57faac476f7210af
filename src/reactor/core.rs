//! What a program sees of its core, and the core of its program.

use super::buf::BufPool;
use super::clock;
use super::mesh::Port;
use super::ring::{Ring, RingError, SQ_ENTRIES, UserData};
use super::sync::Arc;
use super::timer::{TimerTag, Timers};
use crate::observe::counter::CoreCounters;

/// Timers a core has room for before its heap grows.
const TIMERS_CAPACITY: usize = 8192;

/// What a core runs. All calls come from the core's own thread.
pub trait Program {
    /// What cores and the control plane say to each other.
    type Message: Send + 'static;

    /// Once, before the first turn.
    fn on_start(&mut self, _core: &mut Core<Self::Message>) {}

    /// A message from endpoint `from` (a core, or [`Port::control`]).
    fn on_message(&mut self, core: &mut Core<Self::Message>, from: usize, message: Self::Message);

    /// A completion of an entry this program pushed.
    fn on_completion(
        &mut self,
        core: &mut Core<Self::Message>,
        data: UserData,
        res: i32,
        flags: u32,
    );

    /// A timer has reached its deadline.
    fn on_timer(&mut self, core: &mut Core<Self::Message>, tag: TimerTag);

    /// Once a turn, after messages and completions (and again after timers, if any fired). Says
    /// whether there was work: a core that works does not sleep.
    fn on_turn(&mut self, core: &mut Core<Self::Message>) -> bool;

    /// The core is about to sleep.
    fn on_idle(&mut self, _core: &mut Core<Self::Message>) {}
}

/// What stations need for I/O on their core.
#[derive(Debug)]
pub struct CoreIo {
    /// The core's ring.
    pub ring: Ring,
    /// The core's timers.
    pub timers: Timers,
    /// The core's I/O buffers.
    pub pool: BufPool,
    /// The monotonic clock at the start of this turn, in nanoseconds.
    pub now_ns: u64,
}

impl CoreIo {
    /// Ring, timers and buffers of their own, for tests and tools that run no reactor.
    pub fn new(pool: BufPool) -> Result<Self, RingError> {
        let timers = Timers::with_capacity(TIMERS_CAPACITY);
        Ok(Self { ring: Ring::new(SQ_ENTRIES)?, timers, pool, now_ns: clock::now_ns() })
    }

    /// The monotonic clock at the start of this turn, in milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ns / 1_000_000
    }

    /// The monotonic clock at the start of this turn, in microseconds.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.now_ns / 1000
    }
}

/// One core as its program sees it.
#[derive(Debug)]
pub struct Core<M> {
    /// Ring, timers, buffers, time.
    pub io: CoreIo,
    /// Mailboxes.
    pub port: Port<M>,
    /// What this core has done.
    pub counters: Arc<CoreCounters>,
    pub(super) stopping: bool,
}

impl<M: Send> Core<M> {
    /// A core without a loop, for tests that carry its messages.
    #[cfg(test)]
    pub(crate) fn at_rest(io: CoreIo, port: Port<M>) -> Self {
        Self { io, port, counters: Arc::default(), stopping: false }
    }

    /// This core's number in the mesh.
    #[must_use]
    pub fn index(&self) -> usize {
        self.port.own()
    }

    /// Ends the loop after this turn.
    pub fn stop(&mut self) {
        self.stopping = true;
    }
}

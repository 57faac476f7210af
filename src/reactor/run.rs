//! The loop of one core.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use io_uring::{opcode, types};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::buf::{CLASS_SIZES_BYTES, arena_size_bytes};
use super::core::{Core, CoreIo, Program};
use super::idle::{BACKLOG_RETRY_US, Idle, IdlePolicy};
use super::mesh::Port;
use super::ring::{KIND_REACTOR, RingDone, RingError, UserData};
use super::sync::Arc;
use super::{clock, dma};
use crate::observe::counter::CoreCounters;

/// Messages handled in one turn at most, so that no source starves the others.
const MESSAGES_PER_TURN: usize = 256;
/// Ring completions handled in one turn at most.
const COMPLETIONS_PER_TURN: usize = 1024;
/// Timers fired in one turn at most.
const TIMERS_PER_TURN: usize = 256;

/// How one core runs.
#[derive(Debug, Clone)]
pub struct ReactorConfig {
    /// CPU to pin the thread to; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// When to sleep.
    pub idle: IdlePolicy,
    /// I/O buffers of each class.
    pub buffer_counts: [usize; CLASS_SIZES_BYTES.len()],
}

/// Why a core could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The CPU does not exist or is not permitted to this process.
    #[error(
        "a reactor could not be pinned to CPU {cpu}: {source}; give CPU numbers that exist and \
         that this process may use (taskset, cpuset)"
    )]
    Pin {
        /// The CPU asked for.
        cpu: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No memory for I/O buffers.
    #[error("{size_bytes} bytes of I/O buffers could not be mapped: {source}")]
    Arena {
        /// Size asked for.
        size_bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The thread could not be created, or ended while starting.
    #[error("a reactor thread could not be started: {0}")]
    Thread(io::Error),
}

/// One core's loop. Made and run on the core's own thread: see [`spawn`].
#[derive(Debug)]
pub struct Reactor<P: Program> {
    core: Core<P::Message>,
    program: P,
    idle: Idle,
    completions: Vec<RingDone>,
    /// Target of the eventfd read that is always armed on the ring. Never freed: the kernel ends
    /// the read some time after the ring was closed.
    wake_count: *mut u64,
    /// Clock at the end of the last turn or sleep.
    turn_end_ns: u64,
}

fn pin(cpu: usize) -> Result<(), StartError> {
    let refused = |source| StartError::Pin { cpu, source };
    if cpu >= CpuSet::MAX_CPU {
        return Err(refused(io::ErrorKind::InvalidInput.into()));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|errno| refused(errno.into()))
}

fn prepare<M: Send>(
    config: &ReactorConfig,
    port: Port<M>,
    counters: Arc<CoreCounters>,
) -> Result<Core<M>, StartError> {
    if let Some(cpu) = config.cpu {
        pin(cpu)?;
    }
    let size_bytes = arena_size_bytes(config.buffer_counts);
    let (pool, backing) = dma::arena(config.buffer_counts)
        .map_err(|source| StartError::Arena { size_bytes, source })?;
    let mut io = CoreIo::new(pool)?;
    let registered = io.ring.register_arena(&pool);
    if port.own() == 0 {
        dma::log_backing(port.control(), size_bytes, backing);
        if let Err(error) = registered {
            tracing::info!(
                "I/O buffers are not registered with io_uring ({error}), which costs some speed \
                 only; raise the locked-memory limit (ulimit -l, LimitMEMLOCK=) above {} MiB per \
                 core",
                pool.region().1.div_ceil(1024 * 1024)
            );
        }
    }
    Ok(Core { io, port, counters, stopping: false })
}

/// Starts a core's thread and waits until it runs (or has failed to start). The program is made
/// on the thread, as it may hold what belongs to one core.
pub fn spawn<P, F>(
    config: ReactorConfig,
    port: Port<P::Message>,
    counters: Arc<CoreCounters>,
    make_program: F,
) -> Result<JoinHandle<()>, StartError>
where
    P: Program,
    F: FnOnce(&mut Core<P::Message>) -> P + Send + 'static,
{
    let (started, wait) = mpsc::sync_channel(1);
    let thread =
        std::thread::Builder::new().name(format!("reactor-{}", port.own())).spawn(move || {
            let mut core = match prepare(&config, port, counters) {
                Ok(core) => core,
                Err(error) => return drop(started.send(Err(error))),
            };
            let program = make_program(&mut core);
            // The receiver waits for exactly this; if it is gone, so is the process's interest.
            drop(started.send(Ok(())));
            Reactor::new(core, program, config.idle).run();
        });
    let thread = thread.map_err(StartError::Thread)?;
    match wait.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StartError::Thread(io::Error::other("the thread panicked while starting"))),
    }
}

impl<P: Program> Reactor<P> {
    /// A loop for `program` on the calling thread.
    #[must_use]
    pub fn new(core: Core<P::Message>, program: P, policy: IdlePolicy) -> Self {
        let now_ns = clock::now_ns();
        Self {
            core,
            program,
            idle: Idle::new(policy, now_ns / 1000),
            completions: Vec::with_capacity(COMPLETIONS_PER_TURN),
            wake_count: Box::leak(Box::new(0)),
            turn_end_ns: now_ns,
        }
    }

    /// Runs until the program stops it.
    pub fn run(mut self) {
        self.arm_wake_read();
        self.turn_end_ns = clock::now_ns();
        self.core.io.now_ns = self.turn_end_ns;
        self.program.on_start(&mut self.core);
        while !self.core.stopping {
            let worked = self.turn();
            if self.idle.should_sleep(worked, self.core.io.now_us()) && !self.core.stopping {
                self.sleep();
            }
        }
        // Answers given in the last turn still reach their readers.
        self.core.io.ring.submit();
        while self.core.port.flush_backlog() {}
        if self.core.port.backlogged() > 0 {
            tracing::warn!(
                "core {} stopped with {} messages unsent, as their receivers had stopped reading",
                self.core.index(),
                self.core.port.backlogged()
            );
        }
    }

    /// One turn; says whether it had work.
    fn turn(&mut self) -> bool {
        // One look at the clock a turn: it begins when the last one, or the sleep, has ended.
        self.core.io.now_ns = self.turn_end_ns;
        let mut worked = self.mailboxes();
        worked |= self.ring_completions();
        worked |= self.program.on_turn(&mut self.core);
        if self.timers() {
            worked = true;
            self.program.on_turn(&mut self.core);
        }
        // What the kernel does for the core in here is work as well, even where the core learns of
        // it in the next turn only.
        let entered = self.core.io.ring.submit();
        let end_ns = clock::now_ns();
        let counters = &self.core.counters;
        let busy = worked || entered;
        counters.turns.add(1);
        counters.busy_turns.add(u64::from(busy));
        let spent = if busy { &counters.busy_ns } else { &counters.idle_ns };
        spent.add(end_ns.saturating_sub(self.turn_end_ns));
        self.turn_end_ns = end_ns;
        worked
    }

    fn mailboxes(&mut self) -> bool {
        let mut worked = self.core.port.flush_backlog();
        let mut count = 0;
        while count < MESSAGES_PER_TURN {
            let Some((from, message)) = self.core.port.receive() else { break };
            self.program.on_message(&mut self.core, from, message);
            count += 1;
        }
        if count > 0 {
            self.core.counters.messages.add(count as u64);
            worked = true;
        }
        let counters = &self.core.counters;
        let backlogged = self.core.port.backlogged_ever() - counters.backlogged.get();
        if backlogged > 0 {
            counters.backlogged.add(backlogged);
        }
        worked
    }

    fn ring_completions(&mut self) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        self.core.io.ring.reap_into(&mut completions, COMPLETIONS_PER_TURN);
        let mut count = 0;
        for done in completions.drain(..) {
            if done.data.kind == KIND_REACTOR {
                self.woken(done.res);
                continue;
            }
            count += 1;
            self.program.on_completion(&mut self.core, done.data, done.res, done.flags);
        }
        self.completions = completions;
        if count > 0 {
            self.core.counters.completions.add(count);
        }
        count > 0
    }

    fn timers(&mut self) -> bool {
        let now_us = self.core.io.now_us();
        let mut count = 0;
        while count < TIMERS_PER_TURN {
            let Some(tag) = self.core.io.timers.expire(now_us) else { break };
            self.program.on_timer(&mut self.core, tag);
            count += 1;
        }
        if count > 0 {
            self.core.counters.timers.add(count as u64);
        }
        count > 0
    }

    /// Sleeps until a completion, a message or a timer is there. A message sent before the
    /// announcement is seen by `prepare_sleep`; one sent after it completes the armed read.
    fn sleep(&mut self) {
        self.program.on_idle(&mut self.core);
        if !self.core.port.prepare_sleep() {
            return;
        }
        let mut deadline_us = self.core.io.timers.next_deadline_us();
        if self.core.port.backlogged() > 0 {
            let retry_us = self.core.io.now_us() + BACKLOG_RETRY_US;
            deadline_us = Some(deadline_us.map_or(retry_us, |timer_us| timer_us.min(retry_us)));
        }
        let now_ns = self.turn_end_ns;
        let timeout = deadline_us
            .map(|us| Duration::from_nanos(us.saturating_mul(1000).saturating_sub(now_ns)));
        if timeout != Some(Duration::ZERO) {
            self.core.counters.sleeps.add(1);
            self.core.io.ring.submit_and_wait(timeout);
        }
        self.core.port.end_sleep();
        let end_ns = clock::now_ns();
        self.core.counters.idle_ns.add(end_ns.saturating_sub(self.turn_end_ns));
        self.turn_end_ns = end_ns;
    }

    fn arm_wake_read(&mut self) {
        let fd = types::Fd(self.core.port.wake_fd());
        let read = opcode::Read::new(fd, self.wake_count.cast(), 8);
        let data = UserData { kind: KIND_REACTOR, extra: 0, object: 0, op: 0 };
        // SAFETY: the count is never freed, and the kernel holds the eventfd open by itself.
        unsafe { self.core.io.ring.push(read.build(), data) };
    }

    fn woken(&mut self, res: i32) {
        assert!(
            res == 8 || res == -libc::EINTR || res == -libc::EAGAIN,
            "the wake-up read of core {} failed with errno {}",
            self.core.index(),
            -res
        );
        self.arm_wake_read();
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;

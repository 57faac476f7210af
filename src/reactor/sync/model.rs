//! What model checking (feature `loom`) puts in the place of atomics, ring and eventfd, and the
//! defects that a model can seed to show that it would catch them.
//!
//! A seed belongs to the thread that runs the model: the checker runs all threads of a model on
//! one thread of the system.

use std::cell::Cell;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{fmt, io};

use loom::sync::atomic::AtomicUsize;

/// A defect to seed into everything that imports its atomics from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed {
    /// Fences do nothing.
    NoFence,
    /// Stores of bytes publish nothing.
    RelaxedStores,
    /// Loads of bytes see nothing that was published.
    RelaxedLoads,
    /// Compare-and-swap of a byte is a load and, a moment later, a store.
    SplitExchange,
}

thread_local! {
    static SEED: Cell<Option<Seed>> = const { Cell::new(None) };
}

/// Seeds a defect into the models that this thread runs from now on.
pub fn plant(seed: Option<Seed>) {
    SEED.set(seed);
}

fn is_planted(seed: Seed) -> bool {
    SEED.get() == Some(seed)
}

/// As [`std::sync::atomic::fence`].
pub fn fence(order: Ordering) {
    if !is_planted(Seed::NoFence) {
        loom::sync::atomic::fence(order);
    }
}

/// As [`std::sync::atomic::AtomicU8`], as far as it is used.
#[derive(Debug, Default)]
pub struct AtomicU8(loom::sync::atomic::AtomicU8);

impl AtomicU8 {
    /// With this value.
    #[must_use]
    pub fn new(value: u8) -> Self {
        Self(loom::sync::atomic::AtomicU8::new(value))
    }

    /// As of [`std::sync::atomic::AtomicU8`].
    pub fn load(&self, order: Ordering) -> u8 {
        let seeded = is_planted(Seed::RelaxedLoads);
        self.0.load(if seeded { Ordering::Relaxed } else { order })
    }

    /// As of [`std::sync::atomic::AtomicU8`].
    pub fn store(&self, value: u8, order: Ordering) {
        let seeded = is_planted(Seed::RelaxedStores);
        self.0.store(value, if seeded { Ordering::Relaxed } else { order });
    }

    /// As of [`std::sync::atomic::AtomicU8`].
    pub fn compare_exchange(
        &self,
        current: u8,
        new: u8,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u8, u8> {
        if !is_planted(Seed::SplitExchange) {
            return self.0.compare_exchange(current, new, success, failure);
        }
        let found = self.0.load(Ordering::Acquire);
        if found != current {
            return Err(found);
        }
        self.0.store(new, Ordering::Release);
        Ok(found)
    }
}

/// As [`std::sync::atomic::AtomicBool`], as far as it is used.
#[derive(Debug)]
pub struct AtomicBool(loom::sync::atomic::AtomicBool);

impl AtomicBool {
    /// With this value.
    #[must_use]
    pub fn new(value: bool) -> Self {
        Self(loom::sync::atomic::AtomicBool::new(value))
    }

    /// As of [`std::sync::atomic::AtomicBool`].
    pub fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }

    /// As of [`std::sync::atomic::AtomicBool`], but as a swap. The language has one order of all
    /// changes of a variable, and a swap comes next after what it replaced. loom knows that of
    /// swaps only: it would let another thread's older swap count as younger than a plain store.
    pub fn store(&self, value: bool, order: Ordering) {
        self.0.swap(value, order);
    }

    /// As of [`std::sync::atomic::AtomicBool`].
    pub fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(value, order)
    }
}

/// The ring of a pair, as `rtrb` has it: each end publishes its own position and remembers the
/// other's. The messages themselves are not modelled.
struct Ring<M> {
    capacity: usize,
    head: AtomicUsize,
    tail: AtomicUsize,
    messages: std::sync::Mutex<VecDeque<M>>,
}

impl<M> fmt::Debug for Ring<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring of {}", self.capacity)
    }
}

/// Makes the two ends of a ring.
#[derive(Debug)]
pub struct RingBuffer;

impl RingBuffer {
    /// A ring for `capacity` messages.
    #[allow(clippy::new_ret_no_self, reason = "as in rtrb")]
    #[must_use]
    pub fn new<M>(capacity: usize) -> (Producer<M>, Consumer<M>) {
        let ring = std::sync::Arc::new(Ring {
            capacity,
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            messages: std::sync::Mutex::new(VecDeque::new()),
        });
        let producer = Producer { ring: ring.clone(), tail: 0, head_seen: 0 };
        (producer, Consumer { ring, head: 0, tail_seen: Cell::new(0) })
    }
}

/// Why a message was not taken.
#[derive(Debug)]
pub enum PushError<M> {
    /// The ring is full.
    Full(M),
}

/// The sending end.
#[derive(Debug)]
pub struct Producer<M> {
    ring: std::sync::Arc<Ring<M>>,
    tail: usize,
    head_seen: usize,
}

impl<M> Producer<M> {
    /// Puts a message into the ring.
    pub fn push(&mut self, message: M) -> Result<(), PushError<M>> {
        if self.tail - self.head_seen == self.ring.capacity {
            self.head_seen = self.ring.head.load(Ordering::Acquire);
            if self.tail - self.head_seen == self.ring.capacity {
                return Err(PushError::Full(message));
            }
        }
        self.ring.messages.lock().expect("no panic inside").push_back(message);
        self.tail += 1;
        self.ring.tail.store(self.tail, Ordering::Release);
        Ok(())
    }
}

/// The receiving end.
#[derive(Debug)]
pub struct Consumer<M> {
    ring: std::sync::Arc<Ring<M>>,
    head: usize,
    tail_seen: Cell<usize>,
}

impl<M> Consumer<M> {
    /// Nothing to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        if self.tail_seen.get() == self.head {
            self.tail_seen.set(self.ring.tail.load(Ordering::Acquire));
        }
        self.tail_seen.get() == self.head
    }

    /// Takes the oldest message.
    #[allow(clippy::result_unit_err, reason = "as in rtrb, whose error says no more")]
    pub fn pop(&mut self) -> Result<M, ()> {
        if self.is_empty() {
            return Err(());
        }
        let message = self.ring.messages.lock().expect("no panic inside").pop_front();
        self.head += 1;
        self.ring.head.store(self.head, Ordering::Release);
        message.ok_or(())
    }
}

/// The eventfd: a flag and someone who waits for it. There is no time in a model, so a lost
/// wake-up is a deadlock, which the checker reports.
#[derive(Debug)]
pub struct Wake {
    is_set: loom::sync::Mutex<bool>,
    changed: loom::sync::Condvar,
}

#[allow(clippy::unwrap_used, reason = "a panic inside ends the model anyway")]
impl Wake {
    pub(in crate::reactor) fn new() -> io::Result<Self> {
        let (is_set, changed) = (loom::sync::Mutex::new(false), loom::sync::Condvar::new());
        Ok(Self { is_set, changed })
    }

    pub(in crate::reactor) fn wake(&self) {
        *self.is_set.lock().unwrap() = true;
        self.changed.notify_one();
    }

    pub(in crate::reactor) fn wait(&self, _timeout: Duration) {
        let mut is_set = self.is_set.lock().unwrap();
        while !*is_set {
            is_set = self.changed.wait(is_set).unwrap();
        }
        *is_set = false;
    }

    /// No descriptor: nothing but the models runs.
    pub(in crate::reactor) fn raw_fd(&self) -> RawFd {
        -1
    }
}

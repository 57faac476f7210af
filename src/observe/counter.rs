//! Counters that one thread writes and any thread may read.

use crate::reactor::sync::{AtomicU64, Ordering};

/// A counter with one writer: an increment is a plain load and store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the counter's one writer may call it.
    pub fn add(&self, n: u64) {
        // Relaxed on both sides, here and in `get`: a counter orders nothing.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The value some moment ago.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one core has done since start. Written by its reactor only.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CoreCounters {
    /// Turns of the loop.
    pub turns: Counter,
    /// Those that had work, or in which the kernel had some for the core.
    pub busy_turns: Counter,
    /// Nanoseconds of these.
    pub busy_ns: Counter,
    /// Nanoseconds of the others, and asleep; a sleep counts when it has ended.
    pub idle_ns: Counter,
    /// Times the core slept in the kernel.
    pub sleeps: Counter,
    /// Messages received.
    pub messages: Counter,
    /// Ring completions handled.
    pub completions: Counter,
    /// Timers fired.
    pub timers: Counter,
    /// Messages that met a full mesh ring and waited in the sender's backlog.
    pub backlogged: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up() {
        let counter = Counter::default();
        counter.add(2);
        counter.add(3);
        assert_eq!(counter.get(), 5);
    }
}

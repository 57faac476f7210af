//! A core's timers: a heap of deadlines, with no cancellation.
//!
//! Whoever arms a timer puts a generation into its tag and ignores a tag that has become stale.
//! A periodic user re-arms when its timer fires, so that the number of armed timers is bounded by
//! the number of its users.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What a timer means to whoever armed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerTag {
    /// The station it belongs to: one of the `KIND_` values, as for ring completions.
    pub kind: u8,
    /// Object of the station (connection, bdev).
    pub object: u16,
    /// Operation within the object: index and generation, the station's own business.
    pub op: u32,
}

/// Deadlines of one core.
#[derive(Debug)]
pub struct Timers {
    /// Deadline in microseconds, order of arming, tag.
    heap: BinaryHeap<Reverse<(u64, u64, TimerTag)>>,
    sequence: u64,
}

impl Timers {
    /// No timers, room for `capacity`.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { heap: BinaryHeap::with_capacity(capacity), sequence: 0 }
    }

    /// Fires `tag` once the clock has reached `deadline_ms`.
    pub fn arm(&mut self, deadline_ms: u64, tag: TimerTag) {
        self.arm_us(deadline_ms.saturating_mul(1000), tag);
    }

    /// Fires `tag` once the clock has reached `deadline_us`.
    pub fn arm_us(&mut self, deadline_us: u64, tag: TimerTag) {
        self.heap.push(Reverse((deadline_us, self.sequence, tag)));
        self.sequence += 1;
    }

    /// The earliest deadline, if there is one.
    #[must_use]
    pub fn next_deadline_us(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((deadline_us, _, _))| *deadline_us)
    }

    /// Takes out one timer that is due at `now_us`: earliest first, equal deadlines in the order
    /// in which they were armed.
    pub fn expire(&mut self, now_us: u64) -> Option<TimerTag> {
        if self.next_deadline_us()? > now_us {
            return None;
        }
        self.heap.pop().map(|Reverse((_, _, tag))| tag)
    }

    /// Armed timers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no timer is armed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(op: u32) -> TimerTag {
        TimerTag { kind: 9, object: 1, op }
    }

    #[test]
    fn earliest_first_and_ties_in_order_of_arming() {
        let mut timers = Timers::with_capacity(8);
        timers.arm(20, tag(3));
        timers.arm(10, tag(2));
        timers.arm(10, tag(1));
        timers.arm_us(9_999, tag(0));
        assert_eq!(timers.next_deadline_us(), Some(9_999));
        assert_eq!(timers.expire(9_998), None);
        let order: Vec<u32> =
            std::iter::from_fn(|| timers.expire(10_000)).map(|tag| tag.op).collect();
        assert_eq!(order, [0, 2, 1]);
        assert_eq!(timers.len(), 1);
        assert_eq!(timers.expire(20_000), Some(tag(3)));
        assert!(timers.is_empty());
    }

    #[test]
    fn no_growth_within_capacity() {
        let mut timers = Timers::with_capacity(64);
        let capacity = timers.heap.capacity();
        for round in 0..1000u64 {
            timers.arm(round, tag(0));
            if timers.len() > 60 {
                assert!(timers.expire(u64::MAX).is_some());
            }
        }
        assert_eq!(timers.heap.capacity(), capacity);
    }
}

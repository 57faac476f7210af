//! How long host requests take, as a channel sees it: a count by time, without a clock of its own.

use super::channel::Channel;

/// Parts of an octave: a step is at most an eighth.
const PARTS_BITS: u32 = 3;
const PARTS: usize = 1 << PARTS_BITS;

/// Up to some 17 s; what is longer counts as that.
const BUCKETS: usize = 32 * PARTS;

/// What a channel has seen since it was asked last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LatencySample {
    /// Requests that ended.
    pub count: u32,
    /// All but one in a hundred took at most so long.
    pub p99_ns: u64,
}

impl LatencySample {
    /// Of two cores: all their requests, and the longer time.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            p99_ns: self.p99_ns.max(other.p99_ns),
        }
    }
}

/// A channel's log.
#[derive(Debug)]
pub(super) struct LatencyLog {
    is_on: bool,
    /// The time as the driver told it last.
    now_ns: u64,
    count: u32,
    buckets: [u32; BUCKETS],
}

impl Default for LatencyLog {
    fn default() -> Self {
        Self { is_on: false, now_ns: 0, count: 0, buckets: [0; BUCKETS] }
    }
}

fn bucket_of(ns: u64) -> usize {
    let Some(octave) = ns.checked_ilog2().filter(|&octave| octave >= PARTS_BITS) else {
        return usize::try_from(ns).expect("below eight");
    };
    let part = usize::try_from(ns >> (octave - PARTS_BITS)).expect("below sixteen") % PARTS;
    ((octave - PARTS_BITS + 1) as usize * PARTS + part).min(BUCKETS - 1)
}

/// The first time that is too long for the bucket.
fn end_of(bucket: usize) -> u64 {
    let (octave, part) = (bucket / PARTS, bucket as u64 % PARTS as u64);
    match octave.checked_sub(1) {
        None => part + 1,
        Some(shift) => (PARTS as u64 + part + 1) << shift,
    }
}

impl LatencyLog {
    /// Whether requests are timed; what was counted is forgotten.
    pub(super) fn turn(&mut self, is_on: bool) {
        *self = Self { is_on, now_ns: self.now_ns, ..Self::default() };
    }

    #[inline]
    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// A request has ended that began then.
    #[inline]
    pub(super) fn note(&mut self, began_ns: u64) {
        if self.is_on {
            let bucket = &mut self.buckets[bucket_of(self.now_ns.saturating_sub(began_ns))];
            *bucket = bucket.saturating_add(1);
            self.count = self.count.saturating_add(1);
        }
    }

    /// What was counted since the last call.
    pub(super) fn take(&mut self) -> LatencySample {
        let mut beyond = self.count / 100;
        let mut p99_ns = 0;
        for (bucket, &count) in self.buckets.iter().enumerate().rev() {
            if count > beyond {
                p99_ns = end_of(bucket);
                break;
            }
            beyond -= count;
        }
        let count = self.count;
        self.turn(self.is_on);
        LatencySample { count, p99_ns }
    }
}

impl Channel {
    /// How long requests take is wanted: the driver's time should be exact.
    #[must_use]
    #[inline]
    pub fn times_requests(&self) -> bool {
        self.latency.is_on
    }

    /// The driver's time: any clock that does not go back. Requests that begin or end from here on
    /// do so now.
    pub fn tell_time(&mut self, now_ns: u64) {
        self.latency.now_ns = now_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_bucket_that_is_hardly_longer() {
        let mut last = 0;
        for ns in (0..5000).chain((5000..16_000_000_000).step_by(977_777)) {
            let (bucket, end) = (bucket_of(ns), end_of(bucket_of(ns)));
            assert!(bucket >= last && end > ns, "{ns} is in {bucket}, which ends at {end}");
            assert!(ns < 8 || end <= ns + ns / 8 + 1, "{ns} is in {bucket}, which ends at {end}");
            last = bucket;
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn one_in_a_hundred_does_not_count() {
        let mut log = LatencyLog::default();
        log.note(0);
        assert_eq!(log.take(), LatencySample::default(), "it is off");
        log.turn(true);
        log.now_ns = 1000;
        (0..198).for_each(|_| log.note(900));
        (0..2).for_each(|_| log.note(0));
        assert_eq!(log.take(), LatencySample { count: 200, p99_ns: 104 });
        (0..198).for_each(|_| log.note(900));
        (0..3).for_each(|_| log.note(0));
        assert_eq!(log.take(), LatencySample { count: 201, p99_ns: 1024 });
        assert_eq!(log.take(), LatencySample::default());
    }
}

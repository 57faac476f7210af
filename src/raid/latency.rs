//! How long host requests take, as a channel sees it: a count by time, without a clock of its own.
//!
//! To look at a clock takes a tenth of what a request to fast members does, and a host is to be
//! kept from being slowed down, not to be slowed down by that. So of many requests only some are
//! timed, and the driver tells the time only to those.

use super::MemberSlot;
use super::channel::Channel;
use super::channel_split::PIECE;
use super::stripe::STRIPE_TAG;

/// In the place of the time when it began: a request that is not timed.
pub(super) const UNTIMED: u64 = u64::MAX;

/// Requests that are all timed after the channel was asked: a host that sends few is not taken for
/// one that sends none. Behind each of the others at least so many are not timed, and twice as many
/// and a half at most. How many is left to chance, as hosts send in step: who times every sixteenth
/// request of a host that sends eight at a time always times the first of the eight, or the last.
const TIMED_FIRST: u32 = 256;
const UNTIMED_MIN: u32 = 10;

/// How many behind the timed request with this number.
fn untimed_behind(number: u32) -> u32 {
    let chance = number.wrapping_mul(0x9e37_79b1) >> 28;
    if number < TIMED_FIRST { 0 } else { UNTIMED_MIN + chance }
}

/// Parts of an octave: a step is at most an eighth.
const PARTS_BITS: u32 = 3;
const PARTS: usize = 1 << PARTS_BITS;

/// Up to some 17 s; what is longer counts as that.
const BUCKETS: usize = 32 * PARTS;

/// What a channel has seen since it was asked last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LatencySample {
    /// Requests that ended and were timed.
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
    /// The time, if the driver has told it for what it does now.
    now_ns: Option<u64>,
    /// Requests that have begun and are timed, and those that are not to be before the next one.
    timed: u32,
    untimed: u32,
    count: u32,
    buckets: [u32; BUCKETS],
}

impl Default for LatencyLog {
    fn default() -> Self {
        Self { is_on: false, now_ns: None, timed: 0, untimed: 0, count: 0, buckets: [0; BUCKETS] }
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

    /// Whether the next request is to be timed.
    #[inline]
    fn times_next(&self) -> bool {
        self.is_on && self.untimed == 0
    }

    /// A request begins: when, if it is to be timed.
    #[inline]
    pub(super) fn begin(&mut self) -> u64 {
        if !self.is_on {
            return UNTIMED;
        }
        if self.untimed > 0 {
            self.untimed -= 1;
            return UNTIMED;
        }
        let Some(now_ns) = self.now_ns else { return UNTIMED };
        self.timed = self.timed.wrapping_add(1);
        self.untimed = untimed_behind(self.timed);
        now_ns
    }

    /// A request has ended that began then.
    #[inline]
    pub(super) fn note(&mut self, began_ns: u64) {
        if began_ns == UNTIMED || !self.is_on {
            return;
        }
        if let Some(now_ns) = self.now_ns {
            let bucket = &mut self.buckets[bucket_of(now_ns.saturating_sub(began_ns))];
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
    /// How long requests take is wanted: the driver should tell the time before it tells the
    /// channel of anything by which requests may end.
    #[must_use]
    #[inline]
    pub fn times_requests(&self) -> bool {
        self.latency.is_on
    }

    /// The same before it submits a request.
    #[must_use]
    #[inline]
    pub fn times_next(&self) -> bool {
        self.latency.times_next()
    }

    /// The same before it passes on a member's answer.
    #[must_use]
    #[inline]
    pub fn times_answer(&self, op: u32, slot: MemberSlot) -> bool {
        let is_own = slot != PIECE && op & STRIPE_TAG == 0;
        self.latency.is_on && (!is_own || self.ops[op as usize].began_ns != UNTIMED)
    }

    /// The driver's time: any clock that does not go back. Requests that begin or end until it is
    /// told again do so now; without one they are not timed.
    #[inline]
    pub fn tell_time(&mut self, now_ns: Option<u64>) {
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
        log.now_ns = Some(1000);
        (0..198).for_each(|_| log.note(900));
        (0..2).for_each(|_| log.note(0));
        assert_eq!(log.take(), LatencySample { count: 200, p99_ns: 104 });
        (0..198).for_each(|_| log.note(900));
        (0..3).for_each(|_| log.note(0));
        assert_eq!(log.take(), LatencySample { count: 201, p99_ns: 1024 });
        assert_eq!(log.take(), LatencySample::default());
    }

    #[test]
    fn of_many_requests_some_are_timed() {
        let mut log = LatencyLog::default();
        assert_eq!(log.begin(), UNTIMED, "it is off");
        log.turn(true);
        assert_eq!(log.begin(), UNTIMED, "nobody told the time");
        for (sent, most) in [(100, 100), (TIMED_FIRST + 1600, TIMED_FIRST + 1600 / 10)] {
            log.take();
            for _ in 0..sent {
                log.now_ns = log.times_next().then_some(5000);
                let began_ns = log.begin();
                // The answer comes at a time of its own.
                log.now_ns = (began_ns != UNTIMED).then_some(5900);
                log.note(began_ns);
            }
            let LatencySample { count, p99_ns } = log.take();
            assert_eq!(p99_ns, 960);
            assert!(count <= most && count >= sent.min(TIMED_FIRST + 1600 / 26), "{count}");
        }
    }
}

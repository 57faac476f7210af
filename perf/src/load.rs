//! One stream of requests with its depth, its clock and its figures. It does no I/O: whoever owns
//! it sends what [`Load::next`] gives and reports what has ended.

use crate::pattern::{Direction, Pattern};
use crate::stats::Tally;

/// When a load measures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// Runs this long before it measures.
    pub(crate) warm_up_ns: u64,
    /// Measures this long.
    pub(crate) time_ns: u64,
    /// Takes the time of one request in so many; the others are only counted.
    pub(crate) sample_every: u32,
}

/// Where a load is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Requests flow, nothing counts.
    WarmUp { ends_ns: u64 },
    /// Requests that end count.
    Measuring { since_ns: u64, ends_ns: u64 },
    /// No new requests; those in flight end.
    Draining,
}

impl Phase {
    fn allows(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::WarmUp { .. }, Self::Measuring { .. } | Self::Draining)
                | (Self::Measuring { .. }, Self::Draining)
        )
    }
}

/// A request that may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// Names it in [`Load::ended`]; below the depth.
    pub(crate) slot: u32,
    /// Read or write.
    pub(crate) direction: Direction,
    /// First logical block.
    pub(crate) lba: u64,
    /// Logical blocks.
    pub(crate) blocks: u32,
}

/// A request in flight.
#[derive(Debug, Clone, Copy)]
struct Slot {
    direction: Direction,
    /// `None`: its time is not taken.
    started_ns: Option<u64>,
}

/// The stream. Nothing is allocated after [`Load::new`].
#[derive(Debug)]
pub(crate) struct Load {
    pattern: Pattern,
    schedule: Schedule,
    phase: Phase,
    slots: Box<[Slot]>,
    free: Vec<u32>,
    until_sample: u32,
    /// CPU time of the thread that does the work to be measured, where it is this one.
    cpu_clock_ns: Option<fn() -> u64>,
    cpu_since_ns: u64,
    tally: Tally,
}

impl Load {
    /// A load of `depth` requests at a time that begins at `now_ns`.
    pub(crate) fn new(pattern: Pattern, depth: u32, schedule: Schedule, now_ns: u64) -> Self {
        assert!(depth > 0 && schedule.sample_every > 0, "checked where the options are read");
        let idle = Slot { direction: Direction::Read, started_ns: None };
        Self {
            pattern,
            schedule,
            phase: Phase::WarmUp { ends_ns: now_ns + schedule.warm_up_ns },
            slots: (0..depth).map(|_| idle).collect(),
            free: (0..depth).rev().collect(),
            until_sample: 0,
            cpu_clock_ns: None,
            cpu_since_ns: 0,
            tally: Tally::new(),
        }
    }

    /// Also takes the CPU time that `clock` shows while it measures: what the requests cost when
    /// the CPU is not theirs alone.
    pub(crate) fn with_cpu_clock(self, clock_ns: fn() -> u64) -> Self {
        Self { cpu_clock_ns: Some(clock_ns), ..self }
    }

    /// The next request, if one may be sent now. `now_ns` is asked only when it is needed.
    pub(crate) fn next(&mut self, now_ns: impl FnOnce() -> u64) -> Option<Request> {
        if self.phase == Phase::Draining {
            return None;
        }
        let slot = self.free.pop()?;
        let (direction, lba) = self.pattern.next();
        let is_sample = self.until_sample == 0;
        self.until_sample =
            if is_sample { self.schedule.sample_every - 1 } else { self.until_sample - 1 };
        let started_ns = is_sample.then(now_ns);
        self.slots[slot as usize] = Slot { direction, started_ns };
        Some(Request { slot, direction, lba, blocks: self.pattern.blocks() })
    }

    /// A request has ended well.
    pub(crate) fn ended(&mut self, slot: u32, now_ns: impl FnOnce() -> u64) {
        self.free.push(slot);
        let Slot { direction, started_ns } = self.slots[slot as usize];
        let latency_ns = started_ns.map(|started_ns| {
            let now_ns = now_ns();
            self.look_at_clock(now_ns);
            now_ns.saturating_sub(started_ns)
        });
        if matches!(self.phase, Phase::Measuring { .. }) {
            self.tally.count(direction, latency_ns);
        }
    }

    /// A request has failed: there is nothing to measure any more.
    pub(crate) fn failed(&mut self, slot: u32) {
        self.free.push(slot);
        if self.phase != Phase::Draining {
            self.set_phase(Phase::Draining);
        }
    }

    /// Time goes on also when no timed request ends.
    pub(crate) fn look_at_clock(&mut self, now_ns: u64) {
        match self.phase {
            Phase::WarmUp { ends_ns } if now_ns >= ends_ns => {
                let ends_ns = now_ns + self.schedule.time_ns;
                self.cpu_since_ns = self.cpu_clock_ns.map_or(0, |clock_ns| clock_ns());
                self.set_phase(Phase::Measuring { since_ns: now_ns, ends_ns });
            }
            Phase::Measuring { since_ns, ends_ns } if now_ns >= ends_ns => {
                let cpu_ns = self.cpu_clock_ns.map(|clock_ns| clock_ns() - self.cpu_since_ns);
                self.tally.set_measured(now_ns - since_ns, cpu_ns);
                self.set_phase(Phase::Draining);
            }
            _ => {}
        }
    }

    fn set_phase(&mut self, next: Phase) {
        assert!(self.phase.allows(next), "a load went from {:?} to {next:?}", self.phase);
        self.phase = next;
    }

    /// No request in flight, none to come.
    pub(crate) fn is_finished(&self) -> bool {
        self.phase == Phase::Draining && self.free.len() == self.slots.len()
    }

    /// The figures.
    pub(crate) fn into_tally(self) -> Tally {
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::{Access, Extent};

    fn load(depth: u32, sample_every: u32) -> Load {
        let extent = Extent { first_lba: 0, blocks: 1, units: 100 };
        let pattern = Pattern::new(Access::Read, 0, None, extent, 1, (0, 1));
        let schedule = Schedule { warm_up_ns: 100, time_ns: 1000, sample_every };
        Load::new(pattern, depth, schedule, 0)
    }

    #[test]
    fn counts_only_what_ends_while_it_measures() {
        let mut load = load(1, 1);
        // One request every 10 ns, each taking 10 ns.
        let mut now = 0;
        while let Some(request) = load.next(|| now) {
            assert!(load.next(|| now).is_none(), "the depth is 1");
            now += 10;
            load.ended(request.slot, || now);
        }
        assert!(load.is_finished());
        // It measures from 100 to 1100; the request that ends at 100 shows that it does and is
        // the first to count, the one at 1100 ends it and is not.
        let tally = load.into_tally();
        assert_eq!((tally.ios(Direction::Read), tally.ios(Direction::Write)), (100, 0));
        assert_eq!(tally.measured_ns(), 1000);
        assert_eq!(tally.iops(), 100.0 * 1e9 / 1000.0);
        assert_eq!(tally.latency(Direction::Read).max(), 10);
    }

    #[test]
    fn untimed_requests_count_but_leave_the_clock_alone() {
        let mut load = load(4, 3);
        let mut asked = 0;
        for _ in 0..300 {
            let request = load
                .next(|| {
                    asked += 1;
                    200
                })
                .unwrap();
            load.ended(request.slot, || 300);
        }
        assert_eq!(asked, 100);
        // The first one ended the warm-up.
        assert_eq!(load.tally.ios(Direction::Read), 300);
        assert_eq!(load.tally.latency(Direction::Read).len(), 100);
    }

    #[test]
    fn drains_before_it_is_finished() {
        let mut load = load(2, 1);
        let (first, second) = (load.next(|| 0).unwrap(), load.next(|| 0).unwrap());
        load.look_at_clock(100);
        load.ended(first.slot, || 2000);
        assert!(load.next(|| 2000).is_none());
        assert!(!load.is_finished());
        load.ended(second.slot, || 2000);
        assert!(load.is_finished());
    }

    #[test]
    fn cpu_time_is_that_of_the_measured_time() {
        static CPU_NS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(7);
        let cpu_clock_ns = || CPU_NS.load(std::sync::atomic::Ordering::Relaxed);
        let mut load = load(1, 1).with_cpu_clock(cpu_clock_ns);
        for now in [50, 100, 600, 1100] {
            let request = load.next(|| now).unwrap();
            CPU_NS.fetch_add(10, std::sync::atomic::Ordering::Relaxed);
            load.ended(request.slot, || now);
        }
        // From the end of the second request to that of the fourth.
        assert_eq!(load.into_tally().cpu_ns(), Some(20));
    }

    #[test]
    fn a_failure_ends_it() {
        let mut load = load(1, 1);
        let request = load.next(|| 0).unwrap();
        load.failed(request.slot);
        assert!(load.is_finished() && load.next(|| 0).is_none());
    }

    #[test]
    fn a_request_allocates_nothing() {
        for (access, zipf) in [(Access::RandRw, Some(1.2)), (Access::Rw, None)] {
            let extent = Extent { first_lba: 0, blocks: 8, units: 1000 };
            let pattern = Pattern::new(access, 50, zipf, extent, 1, (0, 1));
            let schedule = Schedule { warm_up_ns: 1000, time_ns: 1_000_000, sample_every: 2 };
            let mut load = Load::new(pattern, 16, schedule, 0);
            let mut now = 0;
            let allocations = crate::allocations::of_thread(|| {
                while !load.is_finished() {
                    now += 70;
                    while load.next(|| now).is_some() {}
                    (0..16).for_each(|slot| load.ended(slot, || now + 50));
                }
            });
            assert_eq!(allocations, 0);
            assert!(load.tally.ios(Direction::Read) > 1000);
        }
    }
}

//! Counts and latencies, and what they come to.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::pattern::Direction;

/// Latencies are kept up to a minute with three digits; longer ones count as a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
const DIGITS: u8 = 3;

/// An empty histogram of latencies in nanoseconds.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("the bounds are constants")
}

/// What one load has counted. Nothing is allocated after [`Tally::new`].
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    reads: u64,
    writes: u64,
    read_latency: Histogram<u64>,
    write_latency: Histogram<u64>,
    measured_ns: u64,
    /// CPU time that the measured thread had of it, if it is known.
    cpu_ns: Option<u64>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            reads: 0,
            writes: 0,
            read_latency: latencies(),
            write_latency: latencies(),
            measured_ns: 0,
            cpu_ns: None,
        }
    }

    /// A request has ended.
    pub(crate) fn count(&mut self, direction: Direction, latency_ns: Option<u64>) {
        let (count, histogram) = match direction {
            Direction::Read => (&mut self.reads, &mut self.read_latency),
            Direction::Write => (&mut self.writes, &mut self.write_latency),
        };
        *count += 1;
        if let Some(latency_ns) = latency_ns {
            histogram.saturating_record(latency_ns.max(1));
        }
    }

    pub(crate) fn set_measured(&mut self, measured_ns: u64, cpu_ns: Option<u64>) {
        self.measured_ns = measured_ns;
        self.cpu_ns = cpu_ns;
    }

    #[cfg(test)]
    pub(crate) fn cpu_ns(&self) -> Option<u64> {
        self.cpu_ns
    }

    pub(crate) fn measured_ns(&self) -> u64 {
        self.measured_ns
    }

    pub(crate) fn ios(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Read => self.reads,
            Direction::Write => self.writes,
        }
    }

    pub(crate) fn latency(&self, direction: Direction) -> &Histogram<u64> {
        match direction {
            Direction::Read => &self.read_latency,
            Direction::Write => &self.write_latency,
        }
    }

    /// Adds what the same load counted at another time.
    pub(crate) fn append(&mut self, later: &Self) {
        self.reads += later.reads;
        self.writes += later.writes;
        self.read_latency.add(&later.read_latency).expect("all have the same bounds");
        self.write_latency.add(&later.write_latency).expect("all have the same bounds");
        self.measured_ns += later.measured_ns;
        self.cpu_ns = self.cpu_ns.zip(later.cpu_ns).map(|(sooner, later)| sooner + later);
    }

    /// Requests a second in both directions.
    #[cfg(test)]
    pub(crate) fn iops(&self) -> f64 {
        self.rate(self.reads + self.writes)
    }

    fn cpu_rate(&self) -> Option<f64> {
        let cpu_ns = self.cpu_ns.filter(|cpu_ns| *cpu_ns > 0)?;
        Some((self.reads + self.writes) as f64 * 1e9 / cpu_ns as f64)
    }

    fn rate(&self, ios: u64) -> f64 {
        if self.measured_ns == 0 { 0.0 } else { ios as f64 * 1e9 / self.measured_ns as f64 }
    }
}

/// Latencies in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Latency {
    /// Requests whose time was taken.
    pub(crate) samples: u64,
    pub(crate) min: u64,
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    #[serde(rename = "p99.9")]
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
}

impl Latency {
    fn new(histogram: &Histogram<u64>) -> Self {
        // The histogram answers with the top of a bucket; no request took longer than the longest.
        let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max());
        Self {
            samples: histogram.len(),
            min: if histogram.is_empty() { 0 } else { histogram.min() },
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max(),
        }
    }
}

/// One direction of a result, or both together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Side {
    /// Requests counted.
    pub(crate) ios: u64,
    /// Requests a second.
    pub(crate) iops: f64,
    /// Mebibytes a second.
    pub(crate) mib_per_s: f64,
    /// Latencies.
    pub(crate) latency_ns: Latency,
}

/// What a job has measured, over all its loads.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Outcome {
    /// Time measured by the load that measured longest.
    pub(crate) measured_s: f64,
    /// Requests by the CPU time they took, in requests a second, where that is known: what their
    /// rate would be on CPUs that do nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ios_per_cpu_s: Option<f64>,
    /// Reads, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) read: Option<Side>,
    /// Writes, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) write: Option<Side>,
    /// Both.
    pub(crate) total: Side,
}

impl Outcome {
    /// Adds up loads that ran side by side. Each has its own window of time, so it is rates that
    /// are added.
    pub(crate) fn new(tallies: &[Tally], io_bytes: u32) -> Self {
        let side = |directions: &[Direction]| {
            let mut sum = latencies();
            let (mut ios, mut iops) = (0, 0.0);
            for tally in tallies {
                for &direction in directions {
                    ios += tally.ios(direction);
                    iops += tally.rate(tally.ios(direction));
                    sum.add(tally.latency(direction)).expect("all have the same bounds");
                }
            }
            let mib_per_s = iops * f64::from(io_bytes) / (1u32 << 20) as f64;
            Side { ios, iops, mib_per_s, latency_ns: Latency::new(&sum) }
        };
        let if_any = |side: Side| (side.ios > 0).then_some(side);
        let measured_ns = tallies.iter().map(Tally::measured_ns).max().unwrap_or(0);
        Self {
            measured_s: measured_ns as f64 / 1e9,
            ios_per_cpu_s: tallies.iter().map(Tally::cpu_rate).sum(),
            read: if_any(side(&[Direction::Read])),
            write: if_any(side(&[Direction::Write])),
            total: side(&[Direction::Read, Direction::Write]),
        }
    }
}

/// Median, least and greatest of some figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one figure.
    pub(crate) fn new(figures: &[f64]) -> Self {
        assert!(!figures.is_empty(), "a comparison has one round at least");
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Self { median, min: sorted[0], max: sorted[sorted.len() - 1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(ios: std::ops::RangeInclusive<u64>, direction: Direction, measured_ns: u64) -> Tally {
        let mut tally = Tally::new();
        ios.for_each(|us| tally.count(direction, Some(us * 1000)));
        tally.set_measured(measured_ns, Some(measured_ns / 2));
        tally
    }

    /// Equal but for the third digit, which is what the histogram keeps.
    fn close(found: u64, expected: u64) -> bool {
        found.abs_diff(expected) * 1000 <= expected
    }

    #[test]
    fn percentiles() {
        let outcome = Outcome::new(&[tally(1..=1000, Direction::Read, 1_000_000_000)], 4096);
        let latency = outcome.read.unwrap().latency_ns;
        assert!(close(latency.p50, 500_000), "{latency:?}");
        assert!(close(latency.p90, 900_000), "{latency:?}");
        assert!(close(latency.p99, 990_000), "{latency:?}");
        assert!(close(latency.p99_9, 999_000), "{latency:?}");
        assert!(close(latency.max, 1_000_000) && close(latency.min, 1000), "{latency:?}");
        assert!((latency.mean - 500_500.0).abs() < 500.0, "{latency:?}");
        assert!(latency.p50 <= latency.p90 && latency.p99_9 <= latency.max);
        assert_eq!(outcome.write, None);
    }

    #[test]
    fn rates_of_loads_side_by_side_add_up() {
        let loads = [
            tally(1..=1000, Direction::Read, 1_000_000_000),
            tally(1..=500, Direction::Write, 500_000_000),
        ];
        let outcome = Outcome::new(&loads, 1 << 20);
        assert_eq!(outcome.total.ios, 1500);
        assert!((outcome.total.iops - 2000.0).abs() < 1e-6);
        assert!((outcome.total.mib_per_s - 2000.0).abs() < 1e-6);
        assert!((outcome.write.unwrap().iops - 1000.0).abs() < 1e-6);
        assert!((outcome.measured_s - 1.0).abs() < 1e-9);
        assert_eq!(outcome.total.latency_ns.samples, 1500);
    }

    #[test]
    fn slices_of_one_load_are_one_longer_load() {
        let mut load = tally(1..=1000, Direction::Read, 1_000_000_000);
        load.append(&tally(1..=500, Direction::Write, 500_000_000));
        let outcome = Outcome::new(&[load], 1 << 20);
        assert!((outcome.total.iops - 1000.0).abs() < 1e-6);
        assert!((outcome.measured_s - 1.5).abs() < 1e-9);
        assert_eq!(outcome.write.unwrap().latency_ns.samples, 500);
        assert!((outcome.ios_per_cpu_s.unwrap() - 2000.0).abs() < 1e-6);
        assert_eq!(Outcome::new(&[Tally::new()], 4096).ios_per_cpu_s, None);
    }

    #[test]
    fn nothing_counted_is_zero_and_too_long_is_a_minute() {
        let outcome = Outcome::new(&[Tally::new()], 4096);
        assert_eq!((outcome.total.ios, outcome.total.latency_ns.max), (0, 0));
        assert_eq!(outcome.total.iops, 0.0);
        let mut tally = Tally::new();
        tally.count(Direction::Write, Some(u64::MAX));
        assert!(tally.latency(Direction::Write).max() >= LATENCY_NS_MAX);
        tally.count(Direction::Write, None);
        assert_eq!((tally.ios(Direction::Write), tally.latency(Direction::Write).len()), (2, 1));
    }

    #[test]
    fn spreads() {
        let odd = Spread::new(&[3.0, 1.0, 2.0]);
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::new(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }
}

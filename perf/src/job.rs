//! What is to be measured, whatever it is measured on.

use std::time::Duration;

use mdof::limits::TRANSFER_SIZE_BYTES_MAX;
use serde::Serialize;

use crate::load::{Load, Schedule};
use crate::pattern::{Access, Extent, Pattern};
use crate::units::{as_ns, show_size};

/// Why a measurement could not be made: one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PerfError(pub(crate) String);

impl From<String> for PerfError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// A job: the same on every place it runs on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Job {
    /// What it does.
    pub(crate) rw: Access,
    /// Reads in a hundred requests, for mixed jobs.
    pub(crate) rwmixread: u8,
    /// Bytes of a request.
    pub(crate) block_size_bytes: u32,
    /// Requests in flight on each connection, in-process on each core.
    pub(crate) queue_depth: u16,
    /// Seed of all random numbers.
    pub(crate) seed: u64,
    /// Skew of a Zipf distribution of the places; `None`: all places are equal.
    pub(crate) zipf_theta: Option<f64>,
    /// First byte it may touch.
    pub(crate) offset_bytes: u64,
    /// Bytes from there it may touch; `None`: all.
    pub(crate) size_bytes: Option<u64>,
    /// Runs this long before it measures.
    #[serde(serialize_with = "seconds")]
    pub(crate) warm_up: Duration,
    /// Measures this long.
    #[serde(serialize_with = "seconds")]
    pub(crate) time: Duration,
    /// The latency of one request in so many is taken.
    pub(crate) sample_every: u32,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl Default for Job {
    fn default() -> Self {
        Self {
            rw: Access::RandRead,
            rwmixread: 70,
            block_size_bytes: 4096,
            queue_depth: 32,
            seed: 1,
            zipf_theta: None,
            offset_bytes: 0,
            size_bytes: None,
            warm_up: Duration::from_secs(1),
            time: Duration::from_secs(10),
            sample_every: 1,
        }
    }
}

impl Job {
    /// Refuses what no place can do.
    pub(crate) fn check(&self) -> Result<(), PerfError> {
        let io_bytes = self.block_size_bytes as usize;
        let most = TRANSFER_SIZE_BYTES_MAX;
        let refusal = if io_bytes == 0 || io_bytes > most {
            format!("a block size of {io_bytes} is not possible; use 512 to {most}")
        } else if self.queue_depth == 0 {
            "the queue depth must be 1 at least".to_owned()
        } else if self.rwmixread > 100 {
            format!("{} is no percentage of reads", self.rwmixread)
        } else if self.time.is_zero() {
            "the time to measure must be longer than zero".to_owned()
        } else if self.sample_every == 0 {
            "the latency of one request in 0 cannot be taken; use 1 for all".to_owned()
        } else if self.zipf_theta.is_some_and(|theta| !(0.0..=5.0).contains(&theta)) {
            "the skew of the Zipf distribution lies between 0 and 5".to_owned()
        } else {
            return Ok(());
        };
        Err(PerfError(refusal))
    }

    /// Where the job's requests go on a device of this shape.
    pub(crate) fn extent(&self, blocks: u64, block_size_bytes: u32) -> Result<Extent, PerfError> {
        let Self { block_size_bytes: io_bytes, offset_bytes, size_bytes, .. } = *self;
        Ok(Extent::new(blocks, block_size_bytes, io_bytes, offset_bytes, size_bytes)?)
    }

    /// Load `lane.0` of `lane.1`, which begins at `now_ns`.
    pub(crate) fn load(&self, extent: Extent, lane: (u32, u32), now_ns: u64) -> Load {
        let pattern =
            Pattern::new(self.rw, self.rwmixread, self.zipf_theta, extent, self.seed, lane);
        let schedule = Schedule {
            warm_up_ns: as_ns(self.warm_up),
            time_ns: as_ns(self.time),
            sample_every: self.sample_every,
        };
        Load::new(pattern, self.queue_depth.into(), schedule, now_ns)
    }

    /// In a few words.
    pub(crate) fn describe(&self) -> String {
        let mix = if matches!(self.rw, Access::Rw | Access::RandRw) {
            format!(" ({} % reads)", self.rwmixread)
        } else {
            String::new()
        };
        let zipf = self.zipf_theta.map_or(String::new(), |theta| format!(" zipf {theta}"));
        format!(
            "{}{mix}{zipf} {}, queue depth {}",
            self.rw.name(),
            show_size(self.block_size_bytes.into()),
            self.queue_depth
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_jobs_are_refused() {
        assert!(Job::default().check().is_ok());
        for job in [
            Job { block_size_bytes: 0, ..Job::default() },
            Job { block_size_bytes: 2 * 1024 * 1024, ..Job::default() },
            Job { queue_depth: 0, ..Job::default() },
            Job { rwmixread: 101, ..Job::default() },
            Job { time: Duration::ZERO, ..Job::default() },
            Job { sample_every: 0, ..Job::default() },
            Job { zipf_theta: Some(f64::NAN), ..Job::default() },
        ] {
            assert!(job.check().is_err(), "{job:?}");
        }
    }

    #[test]
    fn description() {
        let job = Job { rw: Access::RandRw, ..Job::default() };
        assert_eq!(job.describe(), "randrw (70 % reads) 4 KiB, queue depth 32");
    }
}

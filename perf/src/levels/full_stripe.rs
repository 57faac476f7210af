//! Full-stripe writes of a RAID5 beside the XOR that they need.
//!
//! Both run on the same core and in the same buffers of its pool, as many of them, and take turns
//! in short slices: the speed of a machine drifts by more than is measured.

use std::any::Any;
use std::time::Duration;

use mdof::bdev::{BdevId, IoStatus};
use mdof::engine::workload::{Workload, WorkloadIo};
use mdof::parity::Kernels;
use mdof::reactor::buf::IoBuf;
use serde::Serialize;

use super::{LARGE_BYTES, Options, QUEUE_DEPTH, array, job, speed};
use crate::cpu;
use crate::inproc::Host;
use crate::job::PerfError;
use crate::pattern::Access;
use crate::place::{Leaf, Level};
use crate::stats::Spread;
use crate::units::show_size;

/// Four data strips are a request.
const STRIP_BYTES: usize = 32 << 10;
const DATA_MEMBERS: usize = 4;

const _: () = assert!(STRIP_BYTES * DATA_MEMBERS == LARGE_BYTES as usize);

/// Slices of each of both in a round, and how long one is.
const SLICES: u32 = 20;
const SLICE: Duration = Duration::from_millis(15);

/// Least speed of the writes by that of the XOR alone.
const PROMISE: f64 = 0.8;

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct FullStripe {
    /// Of data, by CPU second.
    write_gib_per_s: Spread,
    xor_gib_per_s: Spread,
    ratio: Spread,
    kept: bool,
}

/// The array.
#[derive(Debug)]
pub(super) struct FullStripes(BdevId);

impl FullStripes {
    /// Builds it, all chunks Dirty.
    pub(super) fn build(host: &mut Host, member_size_bytes: u64) -> Result<Self, PerfError> {
        let null = Leaf::Null { size_bytes: member_size_bytes };
        let full = array(Level::Raid5, STRIP_BYTES as u64, null, DATA_MEMBERS + 1);
        let full = host.build(&full, true)?;
        host.dirty_all(full)?;
        Ok(Self(full))
    }

    /// Stripes by CPU second: written, and given their parity.
    pub(super) fn round(&self, host: &mut Host, time: Duration) -> Result<(f64, f64), PerfError> {
        let slice = SLICE.min(time);
        let options = Options { member_size_bytes: 0, rounds: 1, time: slice };
        let write = job(&options, Access::Write, LARGE_BYTES);
        let slices = u32::try_from(time.as_nanos() / slice.as_nanos().max(1)).unwrap_or(u32::MAX);
        let slices = slices.clamp(1, SLICES);
        let (mut written, mut xored) = (0.0, 0.0);
        for turn in 0..slices {
            // Each as often before the other as behind it.
            if turn % 2 == 0 {
                xored += xor_speed(host, slice)?;
            }
            written += speed(host, self.0, &write)?;
            if turn % 2 == 1 {
                xored += xor_speed(host, slice)?;
            }
        }
        Ok((written / f64::from(slices), xored / f64::from(slices)))
    }
}

fn xor_speed(host: &mut Host, time: Duration) -> Result<f64, PerfError> {
    let xor = Xor { time, speed: None };
    let speed: Option<f64> = host.run_program(0, Box::new(xor));
    speed.ok_or_else(|| PerfError("the core has too few buffers for the XOR alone".to_owned()))
}

/// The parity of as many full stripes as the job has in flight, over and over: the caches hold no
/// more of them than of the job's buffers.
struct Xor {
    time: Duration,
    speed: Option<f64>,
}

impl Xor {
    fn run(&self, stripes: &mut [(IoBuf, IoBuf)]) -> f64 {
        let kernels = Kernels::detect();
        let limit_ns = u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let (mut began, mut done) = (cpu::thread_time_ns(), 0u64);
        let mut is_warm = false;
        loop {
            for (data, parity) in &mut *stripes {
                let mut strips = data.as_slice().chunks_exact(STRIP_BYTES);
                let strips: [&[u8]; DATA_MEMBERS] =
                    std::array::from_fn(|_| strips.next().expect("as many as it was made of"));
                kernels.xor(parity.as_mut_slice(), &strips);
                done += 1;
            }
            let spent = cpu::thread_time_ns() - began;
            if !is_warm && spent * 10 >= limit_ns {
                (began, done, is_warm) = (cpu::thread_time_ns(), 0, true);
            } else if is_warm && spent >= limit_ns {
                return done as f64 * 1e9 / spent as f64;
            }
        }
    }
}

impl Workload for Xor {
    fn start(&mut self, io: &mut WorkloadIo<'_>) {
        let pool = io.pool();
        let stripe = |_| Some((pool.get(LARGE_BYTES as usize)?, pool.get(STRIP_BYTES)?));
        let stripes: Option<Vec<_>> = (0..QUEUE_DEPTH).map(stripe).collect();
        self.speed = stripes.map(|mut stripes| self.run(&mut stripes));
    }

    fn done(&mut self, _op: u32, _status: IoStatus, _io: &mut WorkloadIo<'_>) {}

    fn is_finished(&self) -> bool {
        true
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        Box::new(self.speed)
    }
}

impl FullStripe {
    pub(super) fn new(rounds: &[(f64, f64)]) -> Self {
        let gib = |per_s: f64| per_s * f64::from(LARGE_BYTES) / f64::from(1 << 30);
        let spread = |of: fn(&(f64, f64)) -> f64| {
            Spread::new(&rounds.iter().map(of).map(gib).collect::<Vec<f64>>())
        };
        let ratios: Vec<f64> = rounds.iter().map(|(write, xor)| write / xor).collect();
        let ratio = Spread::new(&ratios);
        Self {
            write_gib_per_s: spread(|round| round.0),
            xor_gib_per_s: spread(|round| round.1),
            ratio,
            kept: ratio.median >= PROMISE,
        }
    }

    /// As a line.
    pub(crate) fn as_text(&self) -> String {
        let Spread { median, min, max } = self.ratio;
        let kept = if self.kept { "kept" } else { "NOT KEPT" };
        format!(
            "RAID5 full stripes of {DATA_MEMBERS} x {}: written {:.1} GiB/s, XOR alone {:.1} \
             GiB/s, ratio {median:.3} ({min:.3} to {max:.3}), promised {PROMISE}: {kept}\n",
            show_size(STRIP_BYTES as u64),
            self.write_gib_per_s.median,
            self.xor_gib_per_s.median
        )
    }
}

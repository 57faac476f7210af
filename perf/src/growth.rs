//! Growths: how long the host has no answer while an array becomes larger under its requests.
//!
//! A RAID1 with the bitmap on two memory bdevs, of which it takes a part and, growth by growth,
//! more. On every core a program has random 4 KiB reads and writes in flight all the time and looks
//! how far apart they end. The longest such gap of a core in a growth is what the host's pause cost
//! there at most; the longest one in as long a time after it, in which the array is only asked how
//! it is, is what the core has of them anyway. Both by the clock, and by the CPU time of the core's
//! thread, which leaves out what other programs took of the processor.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mdof::bdev::{BdevId, IoOp, IoStatus};
use mdof::engine::workload::{Workload, WorkloadIo, WorkloadRequest};
use mdof::md::SECTOR_BYTES;
use mdof::reactor::clock;
use serde::Serialize;

use crate::cpu;
use crate::inproc::Host;
use crate::inproc::setup::{self, ArrayPlan};
use crate::job::{Job, PerfError};
use crate::place::Leaf;
use crate::random::Random;
use crate::stats::Spread;
use crate::units::show_size;

/// Size of a request.
const IO_BYTES: usize = 4096;
/// Reads in a hundred requests.
const READ_PERCENT: u64 = 70;
/// Cores that carry the load, and the array.
pub(crate) const CORES_MAX: usize = 2;
/// Before the first growth, and between two.
const SETTLING: Duration = Duration::from_millis(200);
/// How often the array is asked whether it has grown.
const LOOK: Duration = Duration::from_micros(200);
/// A growth that takes longer is an error.
const PATIENCE_NS: u64 = 30_000_000_000;
/// What is promised of the median. The cores wait for each other in a pause, and a busy machine may
/// have taken one of them its processor for a while.
const PAUSE_NS_MAX: f64 = 10_000_000.0;

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) size_bytes: u64,
    pub(crate) growths: u32,
    pub(crate) queue_depth: u32,
    pub(crate) cores_max: usize,
}

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    size_bytes: u64,
    growths: u32,
    cores: usize,
    queue_depth: u32,
    /// From the operator's word to the end, superblocks included.
    growth_ns: Spread,
    /// Longest time without an answer: in growths, and when there is none.
    gap_ns: Spread,
    gap_without_ns: Spread,
    gap_cpu_ns: Spread,
    gap_cpu_without_ns: Spread,
    /// Requests that ended meanwhile, in all.
    requests: u64,
    kept: bool,
}

/// What a program and the one who grows the array share.
#[derive(Debug, Default)]
struct Gaps {
    /// Longest ones since somebody took them. Relaxed: nothing else hangs on them.
    clock_ns: AtomicU64,
    cpu_ns: AtomicU64,
    /// The program is to end.
    is_over: AtomicBool,
}

impl Gaps {
    fn take(&self) -> [u64; 2] {
        [&self.clock_ns, &self.cpu_ns].map(|gap| gap.swap(0, Ordering::Relaxed))
    }
}

/// The load of one core.
#[derive(Debug)]
struct Steady {
    bdev: BdevId,
    gaps: Arc<Gaps>,
    random: Random,
    /// Places of requests, and the blocks of each.
    places: u64,
    io_blocks: u32,
    depth: u32,
    in_flight: u32,
    last_ns: u64,
    last_cpu_ns: u64,
    ended: u64,
    failure: Option<IoStatus>,
}

/// What it gives back.
#[derive(Debug)]
struct SteadyResult(Result<u64, IoStatus>);

impl Steady {
    fn submit(&mut self, op: u32, io: &mut WorkloadIo<'_>) {
        let Some(buf) = io.pool().get(IO_BYTES) else {
            self.failure = Some(IoStatus::Aborted);
            return;
        };
        let is_read = self.random.below(100) < READ_PERCENT;
        let request = WorkloadRequest {
            kind: if is_read { IoOp::Read } else { IoOp::Write },
            fua: false,
            lba: self.random.below(self.places) * u64::from(self.io_blocks),
            blocks: self.io_blocks,
            buf: Some(buf),
        };
        io.submit(self.bdev, op, request);
        self.in_flight += 1;
    }
}

impl Workload for Steady {
    fn start(&mut self, io: &mut WorkloadIo<'_>) {
        (self.last_ns, self.last_cpu_ns) = (clock::now_ns(), cpu::thread_time_ns());
        (0..self.depth).for_each(|op| self.submit(op, io));
    }

    fn done(&mut self, op: u32, status: IoStatus, io: &mut WorkloadIo<'_>) {
        let (now_ns, cpu_ns) = (clock::now_ns(), cpu::thread_time_ns());
        self.gaps.clock_ns.fetch_max(now_ns - self.last_ns, Ordering::Relaxed);
        self.gaps.cpu_ns.fetch_max(cpu_ns - self.last_cpu_ns, Ordering::Relaxed);
        (self.last_ns, self.last_cpu_ns) = (now_ns, cpu_ns);
        self.in_flight -= 1;
        self.ended += 1;
        if !status.is_ok() {
            self.failure = Some(status);
        }
        if self.failure.is_none() && !self.gaps.is_over.load(Ordering::Relaxed) {
            self.submit(op, io);
        }
    }

    fn is_finished(&self) -> bool {
        self.in_flight == 0
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        Box::new(SteadyResult(self.failure.map_or(Ok(self.ended), Err)))
    }
}

/// What one growth cost.
#[derive(Debug, Clone, Copy)]
struct Growth {
    took_ns: u64,
    /// By the clock, and by CPU time; of the core that had the longest.
    gaps: [u64; 2],
    without: [u64; 2],
}

/// Measures.
pub(crate) fn run(options: &Options) -> Result<Report, PerfError> {
    let growths = options.growths.max(1);
    let usable = cpu::usable();
    let cores = &usable[usable.len().saturating_sub(options.cores_max)..];
    let mut host = Host::start(cores, &Job::default())?;
    let engine = host.engine();
    let size_bytes = options.size_bytes * u64::from(growths + 1);
    let leaf = Leaf::Malloc { size_bytes };
    let members = [setup::add_leaf(engine, "m0", &leaf)?, setup::add_leaf(engine, "m1", &leaf)?];
    let plan = ArrayPlan {
        assume_clean: true,
        member_size_bytes: Some(options.size_bytes),
        ..ArrayPlan::new(true)
    };
    let array = setup::add_array(engine, "array", &members, &plan)?;
    host.touch_all(array)?;
    let gaps: Vec<Arc<Gaps>> = cores.iter().map(|_| Arc::default()).collect();
    let load = begin_load(&mut host, array, options.queue_depth, &gaps);
    std::thread::sleep(SETTLING);
    let measured: Result<Vec<Growth>, PerfError> = (1..=growths)
        .map(|growth| grow(&mut host, array, options.size_bytes * u64::from(growth + 1), &gaps))
        .collect();
    gaps.iter().for_each(|gaps| gaps.is_over.store(true, Ordering::Relaxed));
    let requests = end_load(&mut host, load)?;
    let measured = measured?;
    host.remove(array, &members)?;
    host.stop()?;
    let spread = |figure: &dyn Fn(&Growth) -> u64| {
        Spread::new(&measured.iter().map(|it| figure(it) as f64).collect::<Vec<_>>())
    };
    let gap_cpu_ns = spread(&|it| it.gaps[1]);
    Ok(Report {
        size_bytes: options.size_bytes,
        growths,
        cores: cores.len(),
        queue_depth: options.queue_depth,
        growth_ns: spread(&|it| it.took_ns),
        gap_ns: spread(&|it| it.gaps[0]),
        gap_without_ns: spread(&|it| it.without[0]),
        gap_cpu_ns,
        gap_cpu_without_ns: spread(&|it| it.without[1]),
        requests,
        kept: gap_cpu_ns.median <= PAUSE_NS_MAX,
    })
}

/// Has every core begin its requests. How many cores have.
fn begin_load(host: &mut Host, array: BdevId, depth: u32, gaps: &[Arc<Gaps>]) -> usize {
    let geometry = host.engine().geometry(array).expect("it was built here");
    let block_bytes = geometry.block_size_bytes;
    let io_blocks = u32::try_from(IO_BYTES).expect("a small constant") / block_bytes;
    let places = geometry.blocks / u64::from(io_blocks);
    let workloads = gaps.iter().enumerate().map(|(core, gaps)| {
        let steady: Box<dyn Workload> = Box::new(Steady {
            bdev: array,
            gaps: gaps.clone(),
            random: Random::new(core as u64 + 1),
            places,
            io_blocks,
            depth: depth.max(1),
            in_flight: 0,
            last_ns: 0,
            last_cpu_ns: 0,
            ended: 0,
            failure: None,
        });
        (core, steady)
    });
    host.engine().begin_workloads(workloads.collect());
    gaps.len()
}

/// Requests that have ended.
fn end_load(host: &mut Host, cores: usize) -> Result<u64, PerfError> {
    let results = host.engine().end_workloads();
    assert_eq!(results.len(), cores, "each gives something back");
    results.into_iter().try_fold(0, |sum, result| {
        let SteadyResult(result) = *result.downcast().expect("what Steady gives back");
        let failed = |status| PerfError(format!("a request failed with {status:?}"));
        Ok(sum + result.map_err(failed)?)
    })
}

fn longest(gaps: &[Arc<Gaps>]) -> [u64; 2] {
    let taken = gaps.iter().map(|gaps| gaps.take());
    taken.fold([0; 2], |longest, gap| [longest[0].max(gap[0]), longest[1].max(gap[1])])
}

/// Has the array take so much of its members.
fn grow(
    host: &mut Host,
    array: BdevId,
    size_bytes: u64,
    gaps: &[Arc<Gaps>],
) -> Result<Growth, PerfError> {
    std::thread::sleep(SETTLING);
    longest(gaps);
    let since = clock::now_ns();
    let sectors = size_bytes / SECTOR_BYTES;
    let blocks = host.engine().grow_array(array, vec![sectors; 2])?;
    loop {
        let growth = host.status(array)?.growth;
        let Some(growth) = growth else { break };
        if let Some(why) = growth.failure {
            return Err(PerfError(format!("the array has not grown: {why}")));
        }
        if clock::now_ns() - since > PATIENCE_NS {
            return Err(PerfError("a growth does not come to its end".to_owned()));
        }
        std::thread::sleep(LOOK);
    }
    let took_ns = clock::now_ns() - since;
    let of_growth = longest(gaps);
    host.engine().set_blocks(array, blocks);
    // As long a time in which the array does nothing but answer.
    std::thread::sleep(SETTLING);
    longest(gaps);
    let since = clock::now_ns();
    while clock::now_ns() - since < took_ns {
        host.status(array)?;
        std::thread::sleep(LOOK);
    }
    Ok(Growth { took_ns, gaps: of_growth, without: longest(gaps) })
}

impl Report {
    /// As a table.
    pub(crate) fn as_text(&self) -> String {
        let us = |ns: f64| format!("{:.1} us", ns / 1000.0);
        let time = |spread: &Spread| {
            format!("{:>12} ({} to {})", us(spread.median), us(spread.min), us(spread.max))
        };
        format!(
            "RAID1 of two memory bdevs, {} growths by {}, 4 KiB 70/30 random at queue depth {} on \
             each of {} cores, {} requests\n  \
             a growth                   {}\n\
             longest time without an answer on a core\n  \
             in a growth, CPU time      {} (at most {} promised)\n  \
             without one, CPU time      {}\n  \
             in a growth, by the clock  {}\n  \
             without one, by the clock  {}\n{}\n",
            self.growths,
            show_size(self.size_bytes),
            self.queue_depth,
            self.cores,
            self.requests,
            time(&self.growth_ns),
            time(&self.gap_cpu_ns),
            us(PAUSE_NS_MAX),
            time(&self.gap_cpu_without_ns),
            time(&self.gap_ns),
            time(&self.gap_without_ns),
            if self.kept { "kept" } else { "NOT KEPT" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growths_are_measured_under_load() {
        let options = Options { size_bytes: 16 << 20, growths: 1, queue_depth: 4, cores_max: 1 };
        let report = run(&options).unwrap();
        assert!(report.requests > 100 && report.growth_ns.min > 0.0, "{report:?}");
        assert!(report.gap_ns.max < report.growth_ns.max + 1e9, "{report:?}");
    }
}

//! Whether the daemon's pass over the bitmap of a large array holds up host writes.
//!
//! An array with a daemon that wakes and one with a daemon that does not take turns, each made
//! anew with every chunk Dirty; host writes come at every turn of the core of the array's owner,
//! which does the daemon's work as well, or of the other core. And, without an engine around it,
//! the longest that one step of the pass keeps the core.

mod paced;
mod steps;

use std::time::Duration;

use hdrhistogram::Histogram;
use mdof::bdev::BdevId;
use mdof::bitmap::{ChunkState, Infection};
use mdof::reactor::clock;
use serde::Serialize;

use crate::cpu;
use crate::inproc::Host;
use crate::inproc::setup::{self, ArrayPlan};
use crate::job::{Job, PerfError};
use crate::place::Leaf;
use crate::stats::latencies;
use crate::units::{as_ns, show_ns, show_size};
use paced::{Paced, PacedResult, Plan};
use steps::Longest;

/// Writes that come at a time.
const LANES: u32 = 4;
/// The least that makes a timer run out in a later turn than the one that armed it.
const CLOCK_US: u64 = 1;
/// Chunks that are written all the time, so that the daemon leaves them as they are: those that it
/// clears must be marked again, which is the price of a write to an idle chunk and not the pass's.
const PLACES: u64 = 256;
const IO_BYTES: u32 = 4096;
/// From the start of the array to its daemon's first pass, at least; longer where it takes longer
/// to make every chunk Dirty.
const DAEMON_SLEEP_S_MIN: u32 = 1;
/// Writes count from so long before the pass begins.
const COUNT_BEFORE: Duration = Duration::from_millis(50);
/// Passes of the measurement without an engine.
const STEP_PASSES: u32 = 5;

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) member_size_bytes: u64,
    pub(crate) rounds: u32,
    /// Writes count for so long.
    pub(crate) time: Duration,
}

/// Latencies of a slice, or of all slices alike.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Figures {
    writes: u64,
    p50_ns: u64,
    p99_ns: u64,
    #[serde(rename = "p99.9_ns")]
    p99_9_ns: u64,
    #[serde(rename = "p99.99_ns")]
    p99_99_ns: u64,
    max_ns: u64,
}

impl Figures {
    fn new(latency: &Histogram<u64>) -> Self {
        let at = |quantile| latency.value_at_quantile(quantile).min(latency.max());
        Self {
            writes: latency.len(),
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            p99_99_ns: at(0.9999),
            max_ns: latency.max(),
        }
    }

    fn as_row(&self, title: &str) -> String {
        let times = [self.p50_ns, self.p99_ns, self.p99_9_ns, self.p99_99_ns, self.max_ns];
        let cells: String = times.iter().map(|ns| format!("{:>11}", show_ns(*ns))).collect();
        format!("  {title:<18}{:>9}{cells}\n", self.writes)
    }
}

/// Writers on one core.
#[derive(Debug, Serialize)]
pub(crate) struct Placement {
    core: &'static str,
    without: Figures,
    with: Figures,
    /// Least and greatest maximum of a round.
    max_without_ns: (u64, u64),
    max_with_ns: (u64, u64),
    /// Twice the p99.9 without the daemon.
    limit_ns: u64,
    /// Writes above the limit, in a million.
    above_without: f64,
    above_with: f64,
}

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    member_size_bytes: u64,
    chunks: u64,
    rounds: u32,
    placements: Vec<Placement>,
    /// By block size of the members.
    longest_step: Vec<(u32, Longest)>,
    kept: bool,
}

/// Measures.
pub(crate) fn run(options: &Options) -> Result<Report, PerfError> {
    let mut cores = cpu::usable();
    cores.truncate(2);
    let job = Job { queue_depth: 64, ..Job::default() };
    let mut host = Host::start(&cores, &job)?;
    let mut sums: Vec<[Slices; 2]> = cores.iter().map(|_| Default::default()).collect();
    let mut chunks = 0;
    let daemon_sleep_s = preparation_s(&mut host, options)?;
    for round in 0..options.rounds.max(1) {
        for (core, slices) in sums.iter_mut().enumerate() {
            // Without and with, then the other way round.
            let order = if round % 2 == 0 { [false, true] } else { [true, false] };
            for with_daemon in order {
                let seed = u64::from(round) + 1;
                let timing = Timing { options, daemon_sleep_s, with_daemon };
                let latency = slice(&mut host, &timing, core, seed, &mut chunks)?;
                slices[usize::from(with_daemon)].add(&latency);
            }
        }
    }
    host.stop()?;
    let mut longest_step = Vec::new();
    for block_size_bytes in [512, 4096] {
        let longest = steps::longest(options.member_size_bytes, block_size_bytes, STEP_PASSES)?;
        longest_step.push((block_size_bytes, longest));
    }
    let names = ["the owner's core", "the other core"];
    let placements: Vec<Placement> =
        names.into_iter().zip(&sums).map(|(core, slices)| Placement::new(core, slices)).collect();
    let kept = placements.iter().all(|placement| placement.is_kept(&longest_step));
    let Options { member_size_bytes, rounds, .. } = *options;
    Ok(Report { member_size_bytes, chunks, rounds, placements, longest_step, kept })
}

/// The slices of one kind.
#[derive(Debug)]
struct Slices {
    sum: Histogram<u64>,
    max_ns: Vec<u64>,
}

impl Default for Slices {
    fn default() -> Self {
        Self { sum: latencies(), max_ns: Vec::new() }
    }
}

impl Slices {
    fn add(&mut self, latency: &Histogram<u64>) {
        self.sum.add(latency).expect("all have the same bounds");
        self.max_ns.push(latency.max());
    }

    fn maxima(&self) -> (u64, u64) {
        let least = self.max_ns.iter().min().copied().unwrap_or(0);
        (least, self.max_ns.iter().max().copied().unwrap_or(0))
    }

    /// Writes in a million that took longer.
    fn above(&self, limit_ns: u64) -> f64 {
        let longer = self.sum.len() - self.sum.count_between(0, limit_ns);
        longer as f64 * 1e6 / self.sum.len().max(1) as f64
    }
}

/// When a slice does what.
#[derive(Debug, Clone, Copy)]
struct Timing<'a> {
    options: &'a Options,
    daemon_sleep_s: u32,
    with_daemon: bool,
}

/// An array with its members and what paces the writes.
#[derive(Debug)]
struct Rig {
    array: BdevId,
    clock: BdevId,
    below: [BdevId; 4],
    begun_ns: u64,
}

/// Four times the seconds that it takes here to make an array and all its chunks Dirty.
fn preparation_s(host: &mut Host, options: &Options) -> Result<u32, PerfError> {
    let timing = Timing { options, daemon_sleep_s: DAEMON_SLEEP_S_MIN, with_daemon: false };
    let rig = prepare(host, &timing)?;
    let took_s = (clock::now_ns() - rig.begun_ns).div_ceil(250_000_000);
    host.remove(rig.array, &rig.below)?;
    Ok(u32::try_from(took_s).unwrap_or(u32::MAX).max(DAEMON_SLEEP_S_MIN))
}

/// A new array with every chunk Dirty.
fn prepare(host: &mut Host, timing: &Timing<'_>) -> Result<Rig, PerfError> {
    let engine = host.engine();
    let leaf = Leaf::Null { size_bytes: timing.options.member_size_bytes };
    let clock_base = setup::add_leaf(engine, "clock-base", &Leaf::Null { size_bytes: 1 << 20 })?;
    let clock = setup::add_delay(engine, "clock", clock_base, [CLOCK_US; 4])?;
    let members = [setup::add_leaf(engine, "m0", &leaf)?, setup::add_leaf(engine, "m1", &leaf)?];
    let plan = ArrayPlan {
        assume_clean: true,
        daemon_sleep_s: timing.daemon_sleep_s,
        barrier_idle_s: 0,
        infection: Infection::Md,
        ..ArrayPlan::new(true)
    };
    let plan = if timing.with_daemon { plan } else { plan.steady() };
    let begun_ns = clock::now_ns();
    let array = setup::add_array(engine, "array", &members, &plan)?;
    let chunk_size_bytes = host.status(array)?.chunk_size_bytes;
    // md's infection makes a whole unit Dirty with its second chunk.
    host.dirty_every(array, chunk_size_bytes * 256)?;
    Ok(Rig { array, clock, below: [members[0], members[1], clock, clock_base], begun_ns })
}

/// Writes to a new array while its daemon makes its first pass, or would.
fn slice(
    host: &mut Host,
    timing: &Timing<'_>,
    core: usize,
    seed: u64,
    chunks: &mut u64,
) -> Result<Histogram<u64>, PerfError> {
    let rig = prepare(host, timing)?;
    let latency = load(host, timing, core, &rig, seed)?;
    let status = host.status(rig.array)?;
    *chunks = status.histogram.iter().sum();
    let clean = status.histogram[ChunkState::Clean as usize];
    let expected = if timing.with_daemon { *chunks - PLACES..*chunks } else { 0..1 };
    if !expected.contains(&clean) {
        return Err(PerfError(format!(
            "{clean} of {chunks} chunks are Clean {} the daemon's pass; the measurement would \
             mean nothing (is the machine busy? use a longer --time)",
            if timing.with_daemon { "after" } else { "without" }
        )));
    }
    host.remove(rig.array, &rig.below)?;
    Ok(latency)
}

fn load(
    host: &mut Host,
    timing: &Timing<'_>,
    core: usize,
    rig: &Rig,
    seed: u64,
) -> Result<Histogram<u64>, PerfError> {
    let &Rig { array, clock, begun_ns, .. } = rig;
    let sleep_ns = u64::from(timing.daemon_sleep_s) * 1_000_000_000;
    let from_ns = begun_ns + sleep_ns - as_ns(COUNT_BEFORE);
    if clock::now_ns() > from_ns {
        return Err(PerfError("every chunk was Dirty only after the pass had begun".to_owned()));
    }
    let geometry = host.engine().geometry(array).expect("it was built here");
    let plan = Plan {
        array,
        clock,
        lanes: LANES,
        io_bytes: IO_BYTES as usize,
        io_blocks: IO_BYTES / geometry.block_size_bytes,
        places: PLACES,
        stride_blocks: geometry.blocks / PLACES,
        from_ns,
        until_ns: from_ns + as_ns(timing.options.time),
    };
    let PacedResult(result) = host.run_program(core, Box::new(Paced::new(plan, seed)));
    result.map_err(|status| PerfError(format!("a write failed with {status:?}")))
}

impl Placement {
    fn new(core: &'static str, [without, with]: &[Slices; 2]) -> Self {
        let figures = Figures::new(&without.sum);
        let limit_ns = 2 * figures.p99_9_ns;
        Self {
            core,
            without: figures,
            with: Figures::new(&with.sum),
            max_without_ns: without.maxima(),
            max_with_ns: with.maxima(),
            limit_ns,
            above_without: without.above(limit_ns),
            above_with: with.above(limit_ns),
        }
    }

    /// A write waits for one step of the pass at most, so that no step may be longer than what
    /// the promise leaves; and what was measured must not contradict that.
    fn is_kept(&self, longest: &[(u32, Longest)]) -> bool {
        let step_ns = longest.iter().map(|(_, longest)| longest.of_all_ns()).max().unwrap_or(0);
        step_ns <= self.limit_ns / 2 && self.with.p99_9_ns <= self.limit_ns
    }
}

impl Report {
    /// As a table.
    pub(crate) fn as_text(&self) -> String {
        let mut text = format!(
            "RAID1 of two null members of {}, {} chunks, all Dirty; {} writes of 4 KiB come at \
             each turn of a core and are timed to their end by its CPU time; {} rounds in turns\n",
            show_size(self.member_size_bytes),
            self.chunks,
            LANES,
            self.rounds
        );
        for placement in &self.placements {
            text += &placement.as_text();
        }
        text += "longest step of the pass (of each step the least of 5 passes)\n";
        for (block_size_bytes, longest) in &self.longest_step {
            let Longest { marking_ns, clearing_ns, writing_ns, steps } = *longest;
            let [marking, clearing, writing] = [marking_ns, clearing_ns, writing_ns].map(show_ns);
            text += &format!(
                "  blocks of {block_size_bytes:>4}: marking {marking}, clearing {clearing}, \
                 bitmap writes {writing}; {steps} steps\n"
            );
        }
        let kept = if self.kept { "kept" } else { "NOT KEPT" };
        text + &format!(
            "promised: no write takes more than twice the p99.9 without the daemon: {kept}\n"
        )
    }
}

impl Placement {
    fn as_text(&self) -> String {
        let mut text = format!("writes from {}\n", self.core);
        let titles = ["writes", "p50", "p99", "p99.9", "p99.99", "max"];
        text += &format!("  {:<18}{:>9}", "", titles[0]);
        text += &titles[1..].iter().map(|title| format!("{title:>11}")).collect::<String>();
        text += "\n";
        text += &self.without.as_row("without the daemon");
        text += &self.with.as_row("during its pass");
        let range = |(least, most): (u64, u64)| format!("{} to {}", show_ns(least), show_ns(most));
        text += &format!(
            "  longest write of a round: without {}, during the pass {}\n  writes above {} \
             (twice the p99.9 without), in a million: without {:.1}, during the pass {:.1}\n",
            range(self.max_without_ns),
            range(self.max_with_ns),
            show_ns(self.limit_ns),
            self.above_without,
            self.above_with
        );
        text
    }
}

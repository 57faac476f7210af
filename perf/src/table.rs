//! The table of the md-llbitmap cover letter, remade: what a bitmap costs 4 KiB random writes.
//!
//! Every cell of it takes its turn in every round, on members made for it. Cells that are to be
//! equal have it together, in short slices by turns: the machine's speed changes by more than they
//! differ from one second to the next. A level of RAID is an entry in [`LEVELS`]; how members are
//! made is an entry in [`Backing`].

mod classic;
mod counters;

use std::path::{Path, PathBuf};
use std::time::Duration;

use mdof::bdev::BdevId;
use mdof::reactor::clock;
use serde::Serialize;

use crate::cpu;
use crate::inproc::Host;
use crate::inproc::setup::{self, ArrayPlan};
use crate::job::{Job, PerfError};
use crate::pattern::Access;
use crate::place::{Leaf, Level};
use crate::stats::{Outcome, Spread, Tally};
use crate::units::show_size;
use classic::{Classic, ClassicResult, Layout};

/// A power-protected drive (Micron 9200, data sheet, queue depth 1): a write of 4 KiB takes 21 us,
/// and as its cache is no volatile one, FUA takes no longer; a read takes 92 us.
const WRITE_US: u64 = 21;
const READ_US: u64 = 92;
/// mdadm's chunk of an internal bitmap where its space allows no smaller one to be asked for.
const CLASSIC_CHUNK_BYTES: u64 = 64 << 20;
/// Where the classic bitmap and the data lie on a member.
const CLASSIC_BITMAP_BYTES: u64 = 8192;
const CLASSIC_DATA_BYTES: u64 = 2 << 20;
/// The first writes to an array, which open its chunks, are shown apart: the rates of a table are
/// those of long runs.
const FIRST: Duration = Duration::from_secs(1);
/// Pieces into which the time of two cells is cut that have their turn together.
const SLICES: u32 = 20;
/// Two arrays that do the same differ by so much from one run to the next.
const EQUAL: f64 = 0.97;

/// Levels with their members. A classic bitmap is remade for the mirror only.
const LEVELS: [(Level, usize); 3] = [(Level::Raid1, 2), (Level::Raid10, 4), (Level::Raid5, 4)];

/// How an array remembers what may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Bitmap {
    None,
    Classic,
    Lockless,
}

/// What members are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backing {
    /// Memory as slow as a drive.
    Memory,
    /// Sparse files.
    Files,
}

/// One array to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Cell {
    level: Level,
    bitmap: Bitmap,
    /// The members count as alike; else the array is fresh, and copies or keeps track.
    assume_clean: bool,
}

const CELLS: [(Bitmap, bool); 6] = [
    (Bitmap::None, true),
    (Bitmap::Lockless, true),
    (Bitmap::Classic, true),
    (Bitmap::None, false),
    (Bitmap::Lockless, false),
    (Bitmap::Classic, false),
];

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Options {
    /// Where the files are to lie.
    pub(crate) dir: PathBuf,
    pub(crate) memory_size_bytes: u64,
    pub(crate) file_size_bytes: u64,
    pub(crate) rounds: u32,
    /// Of each cell in each round.
    pub(crate) time: Duration,
    pub(crate) queue_depth: u16,
    /// Only this kind of members.
    pub(crate) members: Option<Backing>,
    /// Only this level.
    pub(crate) level: Option<Level>,
    /// With the classic bitmap, too.
    pub(crate) classic: bool,
}

/// A cell's figures.
#[derive(Debug, Serialize)]
struct Row {
    cell: Cell,
    first_iops: Option<Spread>,
    iops: Spread,
    /// Requests by CPU time.
    cpu_iops: Option<Spread>,
    p99_us: Spread,
    /// Rounds in which a copy of the members ran to the end of the measurement.
    resyncing: usize,
    rounds: Vec<f64>,
}

/// A comparison of two cells, round by round.
#[derive(Debug, Serialize)]
struct Ratio {
    level: Level,
    what: &'static str,
    ratio: Spread,
    promise: Option<f64>,
}

/// The table of one backing.
#[derive(Debug, Serialize)]
struct Part {
    backing: Backing,
    title: String,
    rows: Vec<Row>,
    ratios: Vec<Ratio>,
}

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    job: Job,
    rounds: u32,
    parts: Vec<Part>,
    kept: bool,
}

/// Measures everything.
pub(crate) fn run(options: &Options) -> Result<Table, PerfError> {
    let job = Job {
        rw: Access::RandWrite,
        queue_depth: options.queue_depth,
        time: options.time,
        warm_up: FIRST,
        sample_every: 16,
        ..Job::default()
    };
    job.check()?;
    let mut parts = Vec::new();
    let backings = [Backing::Memory, Backing::Files];
    for backing in
        backings.into_iter().filter(|one| options.members.is_none_or(|only| only == *one))
    {
        parts.push(part(options, &job, backing)?);
    }
    let promised = parts.iter().flat_map(|part| &part.ratios);
    let kept = promised.filter_map(Ratio::is_kept).all(|kept| kept);
    Ok(Table { job, rounds: options.rounds.max(1), parts, kept })
}

fn part(options: &Options, job: &Job, backing: Backing) -> Result<Part, PerfError> {
    let mut host = Host::start(&[], job)?;
    let levels = LEVELS.iter().map(|(level, _)| *level);
    let levels = levels.filter(|level| options.level.is_none_or(|only| only == *level));
    let is_made = |cell: &Cell| {
        cell.bitmap != Bitmap::Classic || options.classic && cell.level == Level::Raid1
    };
    let cells: Vec<Cell> = levels
        .clone()
        .flat_map(|level| CELLS.map(|(bitmap, assume_clean)| Cell { level, bitmap, assume_clean }))
        .filter(is_made)
        .collect();
    if cells.is_empty() {
        let names = LEVELS.map(|(level, _)| level.name()).join(", ");
        return Err(PerfError(format!("the table has no such level; it has {names}")));
    }
    let mut found: Vec<Vec<Measured>> = cells.iter().map(|_| Vec::new()).collect();
    let turns = turns(&cells);
    for round in 0..options.rounds.max(1) as usize {
        // Another turn is the first in each round, and every other round goes the other way: what
        // drifts, and what a cell leaves behind, meets all alike.
        for step in 0..turns.len() {
            let index = (round + step) % turns.len();
            let index = if round % 2 == 0 { index } else { turns.len() - 1 - index };
            let turn = &turns[index];
            let subjects: Vec<Cell> = turn.iter().map(|&at| cells[at]).collect();
            let measured = measure(&mut host, options, job, backing, &subjects)?;
            turn.iter().zip(measured).for_each(|(&at, one)| found[at].push(one));
        }
    }
    host.stop()?;
    let title = match backing {
        Backing::Memory => format!(
            "memory of {} as slow as a drive with a power-protected cache (write {WRITE_US} us, \
             read {READ_US} us)",
            show_size(options.memory_size_bytes)
        ),
        Backing::Files => format!(
            "sparse files of {} in {}",
            show_size(options.file_size_bytes),
            options.dir.display()
        ),
    };
    let ratios = levels.flat_map(|level| ratios(level, &cells, &found)).collect();
    let rows = cells.iter().zip(&found).map(|(cell, found)| Row::new(*cell, found)).collect();
    Ok(Part { backing, title, rows, ratios })
}

/// One cell in one round.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// In the first second, where an array opens its chunks.
    first_iops: Option<f64>,
    iops: f64,
    /// By the CPU time of whoever does the work, which leaves out what other programs took: of the
    /// core's thread, and for files in memory of the kernel's threads, which are behindhand while
    /// the core waits for them. Not for files on a disk: there both wait.
    cpu_iops: Option<f64>,
    p99_us: f64,
    resyncing: bool,
}

impl Measured {
    /// How fast it is by the speed of another: by CPU time, if that is known of both.
    fn against(&self, other: &Self) -> f64 {
        match (self.cpu_iops, other.cpu_iops) {
            (Some(own), Some(other)) => own / other,
            _ => self.iops / other.iops,
        }
    }
}

/// Which cells have their turn together: those without background work that are compared.
fn turns(cells: &[Cell]) -> Vec<Vec<usize>> {
    let mut turns: Vec<Vec<usize>> = Vec::new();
    for (at, cell) in cells.iter().enumerate() {
        let partner = Cell { bitmap: Bitmap::None, ..*cell };
        let is_pair = cell.bitmap == Bitmap::Lockless && cell.assume_clean;
        let turn = turns.iter_mut().find(|turn| is_pair && cells[turn[0]] == partner);
        match turn {
            Some(turn) => turn.push(at),
            None => turns.push(vec![at]),
        }
    }
    turns
}

/// A cell while it is measured.
struct Subject {
    array: BdevId,
    members: Vec<BdevId>,
    first_iops: f64,
    tallies: Option<Vec<Tally>>,
    /// CPU time of the whole program.
    spent_ns: u64,
}

/// Cells in one round.
fn measure(
    host: &mut Host,
    options: &Options,
    job: &Job,
    backing: Backing,
    cells: &[Cell],
) -> Result<Vec<Measured>, PerfError> {
    if let [cell] = cells
        && cell.bitmap == Bitmap::Classic
    {
        let (members, all) = members(host, options, backing, cell)?;
        let members = members[..].try_into().expect("a mirror of two");
        let tally = run_classic(host, members, job, !cell.assume_clean)?;
        all.iter().for_each(|bdev| host.engine().remove_bdev(*bdev));
        let outcome = Outcome::new(&[tally], job.block_size_bytes);
        // Its first second can't be left out, nor is known what the kernel's threads spent.
        let cpu_iops = outcome.ios_per_cpu_s.filter(|_| backing == Backing::Memory);
        return Ok(vec![Measured::new(&outcome, None, cpu_iops, !cell.assume_clean)?]);
    }
    let mut subjects = Vec::new();
    for cell in cells {
        subjects.push(Subject::new(host, options, job, backing, cell)?);
    }
    let slices = if subjects.len() > 1 { SLICES } else { 1 };
    let slice = Job { warm_up: Duration::ZERO, time: job.time / slices, ..job.clone() };
    for number in 0..slices {
        // a b, b a, …
        let mut order: Vec<&mut Subject> = subjects.iter_mut().collect();
        if number % 2 == 1 {
            order.reverse();
        }
        for subject in order {
            subject.run(host, &slice)?;
        }
    }
    subjects.into_iter().map(|it| it.end(host, options, job, backing)).collect()
}

impl Subject {
    /// An array that has had its first second.
    fn new(
        host: &mut Host,
        options: &Options,
        job: &Job,
        backing: Backing,
        cell: &Cell,
    ) -> Result<Self, PerfError> {
        let (tops, members) = members(host, options, backing, cell)?;
        let plan = ArrayPlan {
            level: cell.level,
            assume_clean: cell.assume_clean,
            ..ArrayPlan::new(cell.bitmap == Bitmap::Lockless)
        };
        let array = setup::add_array(host.engine(), cell.bitmap.name(), &tops, &plan)?;
        let first = Job { warm_up: Duration::ZERO, time: FIRST.min(job.time), ..job.clone() };
        let first = Outcome::new(&host.run(array, &first)?, job.block_size_bytes);
        Ok(Self { array, members, first_iops: first.total.iops, tallies: None, spent_ns: 0 })
    }

    fn run(&mut self, host: &mut Host, slice: &Job) -> Result<(), PerfError> {
        let before_ns = cpu::process_time_ns();
        let tallies = host.run(self.array, slice)?;
        self.spent_ns += cpu::process_time_ns() - before_ns;
        match &mut self.tallies {
            Some(sum) => sum.iter_mut().zip(&tallies).for_each(|(sum, one)| sum.append(one)),
            empty => *empty = Some(tallies),
        }
        Ok(())
    }

    fn end(
        self,
        host: &mut Host,
        options: &Options,
        job: &Job,
        backing: Backing,
    ) -> Result<Measured, PerfError> {
        let resyncing = host.status(self.array)?.resync.is_some();
        host.remove(self.array, &self.members)?;
        let tallies = self.tallies.expect("one slice at least");
        let outcome = Outcome::new(&tallies, job.block_size_bytes);
        let cpu_iops = match backing {
            Backing::Memory => outcome.ios_per_cpu_s,
            Backing::Files if is_memory(&options.dir) => kernel_iops(&outcome, self.spent_ns),
            Backing::Files => None,
        };
        Measured::new(&outcome, Some(self.first_iops), cpu_iops, resyncing)
    }
}

impl Measured {
    fn new(
        outcome: &Outcome,
        first_iops: Option<f64>,
        cpu_iops: Option<f64>,
        resyncing: bool,
    ) -> Result<Self, PerfError> {
        if outcome.total.ios == 0 {
            let text = "a cell ended without a request; use a longer --time";
            return Err(PerfError(text.to_owned()));
        }
        let p99_us = outcome.total.latency_ns.p99 as f64 / 1e3;
        Ok(Self { first_iops, iops: outcome.total.iops, cpu_iops, p99_us, resyncing })
    }
}

impl Bitmap {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Classic => "classic",
            Self::Lockless => "lockless",
        }
    }
}

/// Requests by the CPU time that the kernel's threads spent, of what the whole program did.
fn kernel_iops(outcome: &Outcome, spent_ns: u64) -> Option<f64> {
    let ios = outcome.total.ios as f64;
    let kernel_s = spent_ns as f64 / 1e9 - ios / outcome.ios_per_cpu_s?;
    (kernel_s > 0.0).then(|| ios / kernel_s)
}

/// Whether files in a folder are in memory (tmpfs).
fn is_memory(dir: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let stat = rustix::fs::statfs(dir);
    stat.is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == TMPFS_MAGIC))
}

/// New members, and every bdev of them, those above before those below.
fn members(
    host: &mut Host,
    options: &Options,
    backing: Backing,
    cell: &Cell,
) -> Result<(Vec<BdevId>, Vec<BdevId>), PerfError> {
    let (_, count) =
        LEVELS.into_iter().find(|it| it.0 == cell.level).expect("a level of the table");
    let engine = host.engine();
    let (mut tops, mut all) = (Vec::new(), Vec::new());
    for index in 0..count {
        let name = &format!("{}-m{index}", cell.bitmap.name());
        match backing {
            Backing::Memory => {
                let leaf = Leaf::Null { size_bytes: options.memory_size_bytes };
                let base = setup::add_leaf(engine, &format!("{name}-base"), &leaf)?;
                let latencies_us = [READ_US, READ_US, WRITE_US, WRITE_US];
                let top = setup::add_delay(engine, name, base, latencies_us)?;
                tops.push(top);
                all.extend([top, base]);
            }
            Backing::Files => {
                let path = new_file(&options.dir, name, options.file_size_bytes)?;
                let added = setup::add_file(engine, name, &path);
                // The descriptor keeps it; nothing is left behind, whatever happens.
                let removed = std::fs::remove_file(&path);
                let top = added?;
                removed.map_err(|error| PerfError(format!("{}: {error}", path.display())))?;
                tops.push(top);
                all.push(top);
            }
        }
    }
    Ok((tops, all))
}

fn new_file(dir: &Path, name: &str, size_bytes: u64) -> Result<PathBuf, PerfError> {
    let path = dir.join(format!("mdof-perf-table-{}-{name}", std::process::id()));
    let made = std::fs::File::create_new(&path).and_then(|file| file.set_len(size_bytes));
    made.map_err(|error| PerfError(format!("{}: {error}", path.display())))?;
    Ok(path)
}

fn run_classic(
    host: &mut Host,
    members: [BdevId; 2],
    job: &Job,
    resync: bool,
) -> Result<Tally, PerfError> {
    let geometry = host.engine().geometry(members[0]).expect("it was built here");
    let block_size_bytes = geometry.block_size_bytes;
    let block = u64::from(block_size_bytes);
    let data_lba = CLASSIC_DATA_BYTES / block;
    let layout = Layout {
        members,
        block_size_bytes,
        bitmap_lba: CLASSIC_BITMAP_BYTES / block,
        data_lba,
        blocks: geometry.blocks - data_lba,
    };
    let extent = job.extent(layout.blocks, block_size_bytes)?;
    let load = job.load(extent, (0, 1), clock::now_ns()).with_cpu_clock(cpu::thread_time_ns);
    let shape = (job.block_size_bytes, job.queue_depth);
    let program = Classic::new(layout, load, shape, CLASSIC_CHUNK_BYTES, resync);
    let ClassicResult(result) = host.run_program(0, Box::new(program));
    result
}

fn ratios(level: Level, cells: &[Cell], found: &[Vec<Measured>]) -> Vec<Ratio> {
    let of = |bitmap, assume_clean| {
        let cell = Cell { level, bitmap, assume_clean };
        cells.iter().position(|one| *one == cell).map(|index| &found[index])
    };
    let ratio = |what, (b, b_clean), (a, a_clean), promise| {
        let pairs = of(b, b_clean)?.iter().zip(of(a, a_clean)?);
        let figures: Vec<f64> = pairs.map(|(b, a)| b.against(a)).collect();
        Some(Ratio { level, what, ratio: Spread::new(&figures), promise })
    };
    use Bitmap::{Classic, Lockless, None};
    let ratios = [
        ratio(
            "lockless against none, both assume-clean",
            (Lockless, true),
            (None, true),
            Some(EQUAL),
        ),
        ratio(
            "lockless against none, both fresh: none resyncs",
            (Lockless, false),
            (None, false),
            Some(1.0),
        ),
        ratio(
            "lockless against classic, assume-clean",
            (Lockless, true),
            (Classic, true),
            Option::None,
        ),
        ratio("lockless against classic, fresh", (Lockless, false), (Classic, false), Option::None),
    ];
    // Those of bitmaps that are left out are left out, too.
    ratios.into_iter().flatten().collect()
}

impl Ratio {
    /// Whether the median keeps what was promised, if that is anything. More than 1 is ahead.
    fn is_kept(&self) -> Option<bool> {
        self.promise.map(|promise| match promise {
            1.0 => self.ratio.median > 1.0,
            promise => self.ratio.median >= promise,
        })
    }
}

impl Row {
    fn new(cell: Cell, found: &[Measured]) -> Self {
        let rounds: Vec<f64> = found.iter().map(|one| one.iops).collect();
        let cpu: Option<Vec<f64>> = found.iter().map(|one| one.cpu_iops).collect();
        let first: Option<Vec<f64>> = found.iter().map(|one| one.first_iops).collect();
        let p99_us: Vec<f64> = found.iter().map(|one| one.p99_us).collect();
        Self {
            cell,
            first_iops: first.map(|first| Spread::new(&first)),
            iops: Spread::new(&rounds),
            cpu_iops: cpu.map(|cpu| Spread::new(&cpu)),
            p99_us: Spread::new(&p99_us),
            resyncing: found.iter().filter(|one| one.resyncing).count(),
            rounds,
        }
    }

    fn as_text(&self) -> String {
        let Cell { level, bitmap, assume_clean } = self.cell;
        let names = (format!("{level:?}"), bitmap.name());
        let start = if assume_clean { "assume-clean" } else { "fresh" };
        let Spread { median, min, max } = self.iops;
        let note = match self.resyncing {
            0 => String::new(),
            rounds => format!("  resync in the background in {rounds} of {}", self.rounds.len()),
        };
        format!(
            "  {:<7}{:<10}{start:<14}{:>10}{median:>10.0}{:>20}{:>12}{:>8.0} us{note}\n",
            names.0,
            names.1,
            self.first_iops.map_or(String::new(), |first| format!("{:.0}", first.median)),
            format!("{min:.0} to {max:.0}"),
            self.cpu_iops.map_or(String::new(), |cpu| format!("{:.0}", cpu.median)),
            self.p99_us.median
        )
    }
}

impl Table {
    /// As a table.
    pub(crate) fn as_text(&self) -> String {
        let mut text = format!(
            "{}; {:.1} s a cell and round, {} rounds, one core\n",
            self.job.describe(),
            self.job.time.as_secs_f64(),
            self.rounds
        );
        for part in &self.parts {
            text += &format!("members: {}\n", part.title);
            text += &format!(
                "  {:<7}{:<10}{:<14}{:>10}{:>10}{:>20}{:>12}{:>11}\n",
                "level", "bitmap", "members", "at first", "IOPS", "rounds", "by CPU time", "p99"
            );
            part.rows.iter().for_each(|row| text += &row.as_text());
            for ratio in &part.ratios {
                let Spread { median, min, max } = ratio.ratio;
                let promise = match (ratio.promise, ratio.is_kept()) {
                    (Some(1.0), Some(kept)) => format!(", promised: more than 1: {}", word(kept)),
                    (Some(promise), Some(kept)) => {
                        format!(", promised: equal (at least {promise:.2}): {}", word(kept))
                    }
                    _ => String::new(),
                };
                let (level, what) = (ratio.level.name(), ratio.what);
                text +=
                    &format!("  {level}, {what}: {median:.3} ({min:.3} to {max:.3}){promise}\n");
            }
        }
        text + &format!("all promises: {}\n", word(self.kept))
    }
}

fn word(kept: bool) -> &'static str {
    if kept { "kept" } else { "NOT KEPT" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_measured() {
        let options = Options {
            dir: std::env::temp_dir(),
            memory_size_bytes: 1 << 30,
            file_size_bytes: 64 << 20,
            rounds: 1,
            time: Duration::from_millis(30),
            queue_depth: 8,
            members: None,
            level: None,
            classic: true,
        };
        let table = run(&options).unwrap();
        assert_eq!(table.parts.len(), 2);
        for part in &table.parts {
            // Two of each other level are classic.
            assert_eq!(part.rows.len(), CELLS.len() * LEVELS.len() - 4);
            assert!(part.rows.iter().all(|row| row.iops.min > 0.0), "{part:?}");
        }
        let text = table.as_text();
        assert!(text.contains("lockless") && text.contains("promised"), "{text}");
    }
}

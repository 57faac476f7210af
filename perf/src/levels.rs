//! Every level of RAID on the same members: what a core does of small random and of large
//! sequential requests, and how near a full stripe's write comes to the XOR it needs.
//!
//! All arrays stand at once, and every cell takes its turn in every round. Figures are by the CPU
//! time of the core's thread, which leaves out what other programs on the machine took.

mod full_stripe;

use std::fmt::Write as _;
use std::time::Duration;

use mdof::bdev::BdevId;
use serde::Serialize;

use crate::inproc::Host;
use crate::job::{Job, PerfError};
use crate::pattern::Access;
use crate::place::{Leaf, Level, STRIP_BYTES_DEFAULT, Stack};
use crate::stats::{Outcome, Spread};
use crate::units::show_size;
use full_stripe::{FullStripe, FullStripes};

const SMALL_BYTES: u32 = 4096;
const LARGE_BYTES: u32 = 128 << 10;
const QUEUE_DEPTH: u16 = 32;

/// Levels with their members.
const ARRAYS: [(Level, usize); 7] = [
    (Level::Raid0, 4),
    (Level::Raid1, 2),
    (Level::Raid1, 3),
    (Level::Raid10, 4),
    (Level::Raid4, 5),
    (Level::Raid5, 5),
    (Level::Raid6, 6),
];

const JOBS: [(Access, u32); 4] = [
    (Access::RandRead, SMALL_BYTES),
    (Access::RandWrite, SMALL_BYTES),
    (Access::Read, LARGE_BYTES),
    (Access::Write, LARGE_BYTES),
];

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Options {
    /// Of a member in memory.
    pub(crate) member_size_bytes: u64,
    pub(crate) rounds: u32,
    /// Of each cell in each round.
    pub(crate) time: Duration,
}

/// One array and one job.
#[derive(Debug, Serialize)]
struct Row {
    level: Level,
    members: usize,
    backing: &'static str,
    rw: Access,
    io_size_bytes: u32,
    /// Requests by CPU second.
    iops: Spread,
    mib_per_s: f64,
}

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    rounds: u32,
    rows: Vec<Row>,
    full_stripe: FullStripe,
}

fn job(options: &Options, rw: Access, io_size_bytes: u32) -> Job {
    Job {
        rw,
        block_size_bytes: io_size_bytes,
        queue_depth: QUEUE_DEPTH,
        warm_up: options.time / 10,
        time: options.time,
        sample_every: 64,
        ..Job::default()
    }
}

fn array(level: Level, strip_size_bytes: u64, member: Leaf, members: usize) -> Stack {
    let bitmap = level.is_redundant();
    Stack::Raid { level, strip_size_bytes, members: vec![member; members], bitmap }
}

/// Requests by CPU second.
fn speed(host: &mut Host, bdev: BdevId, job: &Job) -> Result<f64, PerfError> {
    let outcome = Outcome::new(&host.run(bdev, job)?, job.block_size_bytes);
    let by_cpu = outcome.ios_per_cpu_s.filter(|_| outcome.total.ios > 0);
    by_cpu.ok_or_else(|| PerfError("a cell ended without a request; use a longer --time".into()))
}

/// Measures full stripes only.
pub(crate) fn run_full_stripes(options: &Options) -> Result<FullStripe, PerfError> {
    let mut host = Host::start(&[], &job(options, Access::Write, LARGE_BYTES))?;
    let full = FullStripes::build(&mut host, options.member_size_bytes)?;
    let rounds: Result<Vec<_>, _> =
        (0..options.rounds.max(1)).map(|_| full.round(&mut host, options.time)).collect();
    host.stop()?;
    Ok(FullStripe::new(&rounds?))
}

/// Measures everything.
pub(crate) fn run(options: &Options) -> Result<Table, PerfError> {
    let mut host = Host::start(&[], &job(options, Access::Write, LARGE_BYTES))?;
    let size_bytes = options.member_size_bytes;
    let mut cells = Vec::new();
    for (backing, leaf) in
        [("null", Leaf::Null { size_bytes }), ("memory", Leaf::Malloc { size_bytes })]
    {
        for (level, members) in ARRAYS {
            let bdev = host.build(&array(level, STRIP_BYTES_DEFAULT, leaf, members), true)?;
            // Memory is touched before it is measured.
            host.dirty_all(bdev)?;
            host.touch_all(bdev)?;
            cells.extend(JOBS.map(|job| (backing, level, members, bdev, job)));
        }
    }
    let full = FullStripes::build(&mut host, size_bytes)?;
    let mut found: Vec<Vec<f64>> = cells.iter().map(|_| Vec::new()).collect();
    let mut rounds = Vec::new();
    for round in 0..options.rounds.max(1) as usize {
        for step in 0..cells.len() {
            let at = (round + step) % cells.len();
            let (_, _, _, bdev, (rw, io_size_bytes)) = cells[at];
            found[at].push(speed(&mut host, bdev, &job(options, rw, io_size_bytes))?);
        }
        rounds.push(full.round(&mut host, options.time)?);
    }
    host.stop()?;
    let row = |((backing, level, members, _, (rw, io_size_bytes)), found): (_, &Vec<f64>)| {
        let iops = Spread::new(found);
        let mib_per_s = iops.median * f64::from(io_size_bytes) / f64::from(1 << 20);
        Row { level, members, backing, rw, io_size_bytes, iops, mib_per_s }
    };
    let rows = cells.into_iter().zip(&found).map(row).collect();
    Ok(Table { rounds: options.rounds.max(1), rows, full_stripe: FullStripe::new(&rounds) })
}

impl Table {
    /// As a table.
    pub(crate) fn as_text(&self) -> String {
        let mut text = format!(
            "{QUEUE_DEPTH} in flight from one core, {} rounds; by CPU second of that core\n  \
             {:<8}{:>8}  {:<8}{:<11}{:>8}{:>12}{:>26}{:>10}\n",
            self.rounds, "level", "members", "of", "job", "size", "IOPS", "rounds", "MiB/s"
        );
        for row in &self.rows {
            let Spread { median, min, max } = row.iops;
            let _ = writeln!(
                text,
                "  {:<8}{:>8}  {:<8}{:<11}{:>8}{median:>12.0}{:>26}{:>10.0}",
                row.level.name(),
                row.members,
                row.backing,
                row.rw.name(),
                show_size(row.io_size_bytes.into()),
                format!("{min:.0} to {max:.0}"),
                row.mib_per_s
            );
        }
        text.push_str(&self.full_stripe.as_text());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_measured() {
        let options =
            Options { member_size_bytes: 32 << 20, rounds: 1, time: Duration::from_millis(15) };
        let table = run(&options).unwrap();
        assert_eq!(table.rows.len(), 2 * ARRAYS.len() * JOBS.len());
        assert!(table.rows.iter().all(|row| row.iops.min > 0.0), "{table:?}");
        let text = table.as_text();
        assert!(text.contains("raid10") && text.contains("full stripes"), "{text}");
    }
}

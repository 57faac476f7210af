//! Rebuilds: how fast one is beside a plain copy between the same two bdevs, and how long host
//! requests take while one runs.
//!
//! - Speed: two memory bdevs. A copy of one to the other, by a program on the same core that has
//!   as many pieces in flight as a rebuild has windows, and the rebuild of an idle RAID1 on the two
//!   take turns.
//! - Latency: a RAID1 on null bdevs so large that its rebuild does not end. Random 4 KiB requests
//!   without a rebuild, with one that knows no bound, and with one that yields, take turns.

mod copy;

use std::time::Duration;

use mdof::bdev::BdevId;
use mdof::raid::{Command, Newcomer, Pace};
use mdof::reactor::clock;
use serde::Serialize;
use uuid::Uuid;

use crate::cpu;
use crate::inproc::Host;
use crate::inproc::setup::{self, ArrayPlan};
use crate::job::{Job, PerfError};
use crate::pattern::Access;
use crate::place::Leaf;
use crate::stats::{Outcome, Spread};
use crate::units::show_size;
use copy::{CopyAll, CopyResult};

/// Pieces in flight and their size: as the walker's windows.
const COPY_DEPTH: u32 = 16;
const COPY_PIECE_BYTES: usize = 128 * 1024;
/// Members of the array whose rebuild does not end.
const ENDLESS_BYTES: u64 = 4 << 40;
/// How often the rebuild is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// A rebuild that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(120);
/// Until copying has found its level.
const SETTLING: Duration = Duration::from_secs(4);
/// What is promised.
const SPEED_RATIO_MIN: f64 = 0.8;
const P99_RATIO_MAX: f64 = 1.5;

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) member_size_bytes: u64,
    pub(crate) rounds: u32,
    /// Host requests count for so long in each round.
    pub(crate) time: Duration,
    pub(crate) queue_depth: u16,
}

/// One kind of round of the second part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Without,
    Unbound,
    Yielding,
}

const KINDS: [Kind; 3] = [Kind::Without, Kind::Unbound, Kind::Yielding];

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    member_size_bytes: u64,
    queue_depth: u16,
    copy_mib_s: Spread,
    rebuild_mib_s: Spread,
    /// Of the medians.
    speed_ratio: f64,
    p99_without_ns: Spread,
    p99_unbound_ns: Spread,
    p99_yielding_ns: Spread,
    p99_ratio: f64,
    /// What the rebuilds that yield copy in a second.
    yielding_mib_s: Spread,
    kept: bool,
}

/// Measures.
pub(crate) fn run(options: &Options) -> Result<Report, PerfError> {
    let [mut copies, mut rebuilds, mut yielding] = [const { Vec::new() }; 3];
    let mut p99 = [const { Vec::new() }; 3];
    for round in 0..options.rounds.max(1) {
        let (copied, rebuilt) = speeds(options, round % 2 == 1)?;
        copies.push(copied);
        rebuilds.push(rebuilt);
        for turn in 0..KINDS.len() {
            let at = (turn + round as usize) % KINDS.len();
            let (p99_ns, mib_s) = host_p99(options, KINDS[at], u64::from(round) + 1)?;
            p99[at].push(p99_ns);
            if KINDS[at] == Kind::Yielding {
                yielding.push(mib_s);
            }
        }
    }
    let [copy_mib_s, rebuild_mib_s, yielding_mib_s] =
        [copies, rebuilds, yielding].map(|figures| Spread::new(&figures));
    let [without, unbound, with] = p99.map(|figures| Spread::new(&figures));
    let speed_ratio = rebuild_mib_s.median / copy_mib_s.median;
    let p99_ratio = with.median / without.median;
    Ok(Report {
        member_size_bytes: options.member_size_bytes,
        queue_depth: options.queue_depth,
        copy_mib_s,
        rebuild_mib_s,
        speed_ratio,
        p99_without_ns: without,
        p99_unbound_ns: unbound,
        p99_yielding_ns: with,
        p99_ratio,
        yielding_mib_s,
        kept: speed_ratio >= SPEED_RATIO_MIN && p99_ratio <= P99_RATIO_MAX,
    })
}

fn host() -> Result<Host, PerfError> {
    let cores = cpu::usable();
    Host::start(&cores[cores.len().saturating_sub(1)..], &Job::default())
}

/// A RAID1 that is in sync and all Clean, and its members.
fn mirror(host: &mut Host, leaf: &Leaf) -> Result<(BdevId, [BdevId; 2]), PerfError> {
    let engine = host.engine();
    let members = [setup::add_leaf(engine, "m0", leaf)?, setup::add_leaf(engine, "m1", leaf)?];
    let plan = ArrayPlan { assume_clean: true, ..ArrayPlan::new(true) }.steady();
    Ok((setup::add_array(engine, "array", &members, &plan)?, members))
}

fn refused(what: &str) -> impl Fn(mdof::engine::EngineError) -> PerfError + use<'_> {
    move |error| PerfError(format!("{what}: {error}"))
}

/// The second member goes and comes back as a new one.
fn begin_rebuild(host: &mut Host, array: BdevId, member: BdevId) -> Result<(), PerfError> {
    host.engine().command(array, Command::Remove(1)).map_err(refused("a member does not go"))?;
    let since = clock::now_ns();
    while host.status(array)?.members[1].1 != "missing" {
        wait(since, "the slot of a member that was removed does not become empty")?;
    }
    let geometry = host.engine().geometry(member).expect("it was built here");
    let newcomer = Newcomer {
        bdev: member,
        unmap: geometry.unmap,
        cheap_zeroes: geometry.cheap_zeroes,
        device_sectors: geometry.size_bytes() / mdof::md::SECTOR_BYTES,
        superblock: None,
        device_uuid: Uuid::new_v4().into_bytes(),
        slot: Some(1),
        as_new: true,
        bad_blocks: Vec::new(),
    };
    let command = Command::Join(Box::new(newcomer));
    host.engine().command(array, command).map_err(refused("a member does not join"))?;
    Ok(())
}

fn wait(since_ns: u64, what: &str) -> Result<(), PerfError> {
    std::thread::sleep(LOOK);
    let patience_ns = u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
    match clock::now_ns() - since_ns > patience_ns {
        true => Err(PerfError(what.to_owned())),
        false => Ok(()),
    }
}

fn mib_s(bytes: u64, since_ns: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20) / ((clock::now_ns() - since_ns) as f64 / 1e9)
}

/// MiB/s of a plain copy and of a rebuild.
fn speeds(options: &Options, rebuild_first: bool) -> Result<(f64, f64), PerfError> {
    let leaf = Leaf::Malloc { size_bytes: options.member_size_bytes };
    let mut host = host()?;
    let (array, members) = mirror(&mut host, &leaf)?;
    let geometry = host.engine().geometry(array).expect("it was built here");
    let bytes = geometry.size_bytes();
    let block = geometry.block_size_bytes;
    let data = (bytes / u64::from(block), block);
    // Every page of both is touched before, so that no turn is the first one.
    copy_once(&mut host, [members[1], members[0]], data)?;
    let mut copied = copy_once(&mut host, members, data)?;
    let mut rebuilt = 0.0;
    for turn in 0..2 {
        if (turn == 0) == rebuild_first {
            let since = clock::now_ns();
            begin_rebuild(&mut host, array, members[1])?;
            while host.status(array)?.members[1].1 != "in_sync" {
                wait(since, "the rebuild does not come to its end")?;
            }
            rebuilt = mib_s(bytes, since);
        } else {
            copied = copy_once(&mut host, members, data)?;
        }
    }
    host.remove(array, &members)?;
    host.stop()?;
    Ok((copied, rebuilt))
}

/// Copies what the array uses of one member's bdev to the other: so many blocks of this size.
fn copy_once(
    host: &mut Host,
    members: [BdevId; 2],
    (blocks, block): (u64, u32),
) -> Result<f64, PerfError> {
    let geometry = host.engine().geometry(members[0]).expect("it was built here");
    // Before it are the superblock and the bitmap, which the array still needs.
    let first = geometry.blocks - blocks;
    let piece = COPY_PIECE_BYTES / block as usize;
    let pieces = blocks / piece as u64;
    let copy = CopyAll::new(members, COPY_PIECE_BYTES, piece, first, pieces, COPY_DEPTH);
    let since = clock::now_ns();
    let CopyResult(result) = host.run_program(0, Box::new(copy));
    result.map_err(|status| PerfError(format!("the copy failed with {status:?}")))?;
    Ok(mib_s(pieces * COPY_PIECE_BYTES as u64, since))
}

/// The host's p99 in nanoseconds, and what was copied in a second meanwhile.
fn host_p99(options: &Options, kind: Kind, seed: u64) -> Result<(f64, f64), PerfError> {
    let mut host = host()?;
    let (array, members) = mirror(&mut host, &Leaf::Null { size_bytes: ENDLESS_BYTES })?;
    let latency_percent = if kind == Kind::Yielding { 150 } else { 0 };
    let pace = Pace { latency_percent, ..Pace::default() };
    host.engine().command(array, Command::SetPace(pace)).map_err(refused("no pace was set"))?;
    if kind != Kind::Without {
        begin_rebuild(&mut host, array, members[1])?;
    }
    let job = |time| Job {
        rw: Access::RandRw,
        rwmixread: 70,
        queue_depth: options.queue_depth,
        seed,
        // Fewer places than chunks, so that the bitmap has its part in it once.
        size_bytes: Some(1 << 30),
        time,
        ..Job::default()
    };
    host.run(array, &job(SETTLING))?;
    let done = |host: &mut Host| -> Result<u64, PerfError> {
        Ok(host.status(array)?.rebuild.map_or(0, |rebuild| rebuild.done))
    };
    let chunk_bytes = host.status(array)?.chunk_size_bytes;
    let (before, since) = (done(&mut host)?, clock::now_ns());
    let job = job(options.time);
    let tallies = host.run(array, &job)?;
    let after = done(&mut host)?;
    let copied = mib_s((after - before) * chunk_bytes, since);
    let status = host.status(array)?;
    if status.rebuild.is_some() != (kind != Kind::Without) {
        return Err(PerfError("the rebuild ended before the measurement did".to_owned()));
    }
    host.remove(array, &members)?;
    host.stop()?;
    let outcome = Outcome::new(&tallies, job.block_size_bytes);
    Ok((outcome.total.latency_ns.p99 as f64, copied))
}

impl Report {
    /// As a table.
    pub(crate) fn as_text(&self) -> String {
        let speed = |spread: &Spread| {
            format!("{:>8.0} MiB/s ({:.0} to {:.0})", spread.median, spread.min, spread.max)
        };
        let us = |ns: f64| format!("{:.1} us", ns / 1000.0);
        let time = |spread: &Spread| {
            format!("{:>9} ({} to {})", us(spread.median), us(spread.min), us(spread.max))
        };
        format!(
            "RAID1 of two memory bdevs of {}, idle\n  plain copy      {}\n  rebuild         {}\n  \
             ratio           {:>8.2} (at least {SPEED_RATIO_MIN})\n\
             RAID1 of two null bdevs, 4 KiB 70/30 random, queue depth {}: p99\n  \
             no rebuild      {}\n  rebuild         {}\n  one that yields {}, {}\n  \
             ratio           {:>8.2} (at most {P99_RATIO_MAX})\n{}\n",
            show_size(self.member_size_bytes),
            speed(&self.copy_mib_s),
            speed(&self.rebuild_mib_s),
            self.speed_ratio,
            self.queue_depth,
            time(&self.p99_without_ns),
            time(&self.p99_unbound_ns),
            time(&self.p99_yielding_ns),
            speed(&self.yielding_mib_s).trim(),
            self.p99_ratio,
            if self.kept { "kept" } else { "NOT KEPT" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_measurement_gives_figures() {
        let member_size_bytes = 64 << 20;
        let options = Options {
            member_size_bytes,
            rounds: 1,
            time: Duration::from_millis(200),
            queue_depth: 4,
        };
        let (copied, rebuilt) = speeds(&options, true).unwrap();
        assert!(copied > 1.0 && rebuilt > 1.0, "{copied} and {rebuilt} MiB/s");
        let (p99_ns, copied) = host_p99(&options, Kind::Yielding, 1).unwrap();
        assert!(p99_ns > 0.0 && copied > 0.1, "{p99_ns} ns, {copied} MiB/s");
    }
}

//! Two targets against each other: the same jobs on subsystems of the same names, in turns, so that
//! what changes on the machine meanwhile meets both. The initiator is this program for both.
//!
//! A target that polls takes a whole CPU also while nobody uses it. Where both processes are on
//! this machine and their ids are given, each is stopped while the other is measured, so that both
//! may have the same CPU; and their CPU time is looked at.
//!
//! Where this program is what limits a job, requests a second say nothing of the target. Targets
//! that tell over JSON-RPC how long their cores were busy are therefore compared by requests a
//! second of a busy core as well.

mod busy;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::job::{Job, PerfError};
use crate::keys::Keys;
use crate::nvme::{self, Namespace};
use crate::pattern::Access;
use crate::stats::{Outcome, Spread};
use crate::units::show_ns;

/// IOPS of ours by the peer's at least, from this queue depth on.
const RATIO_MIN: f64 = 1.2;
const RATIO_FROM_QUEUE_DEPTH: u16 = 32;
/// The same for an array of ours with bitmap against one of the peer's without.
const ARRAY_RATIO_MIN: f64 = 1.0;

/// A target.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    /// Its process, if that is on this machine.
    pub(crate) pid: Option<i32>,
    /// Its JSON-RPC socket, if its cores are to be asked how busy they were.
    pub(crate) rpc: Option<PathBuf>,
}

/// What to measure.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) ours: Target,
    pub(crate) peer: Target,
    /// Name of each kind of device, and the subsystem that has one, at both targets.
    pub(crate) devices: Vec<(String, String)>,
    pub(crate) host_nqn: String,
    pub(crate) cores: Vec<usize>,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    pub(crate) rw: Vec<Access>,
    pub(crate) queue_depths: Vec<u16>,
    pub(crate) connections: Vec<u16>,
    /// Leave out the large sequential requests.
    pub(crate) no_sequential: bool,
    pub(crate) rounds: u32,
    /// Its time and warm-up count.
    pub(crate) job: Job,
}

/// One target in one round.
#[derive(Debug, Clone, Copy, Serialize)]
struct Turn {
    iops: f64,
    p50_ns: u64,
    p99_ns: u64,
    /// CPU time of its busiest thread by request.
    cpu_ns: Option<f64>,
    /// Requests a second of a core that is always busy.
    busy_iops: Option<f64>,
}

/// One target in all rounds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Side {
    iops: Spread,
    p50_ns: Spread,
    p99_ns: Spread,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ns: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    busy_iops: Option<Spread>,
}

/// One job on one device.
#[derive(Debug, Serialize)]
struct Cell {
    device: String,
    job: Job,
    connections: u16,
    ours: Side,
    peer: Side,
    /// IOPS of ours by the peer's, round by round.
    ratio: Spread,
    /// The same of a busy core.
    #[serde(skip_serializing_if = "Option::is_none")]
    busy_ratio: Option<Spread>,
    /// 99th percentile of ours by the peer's.
    p99_ratio: Spread,
    /// Whether what was aimed at was reached; `None`: nothing was, for this cell.
    reached: Option<bool>,
}

/// All of them.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    ours: Target,
    peer: Target,
    rounds: u32,
    cells: Vec<Cell>,
}

/// Lets a stopped process go on, whatever happens.
#[derive(Debug)]
struct Turns {
    pids: Option<[Pid; 2]>,
}

impl Turns {
    fn new(options: &Options) -> Self {
        let pid = |target: &Target| target.pid.and_then(Pid::from_raw);
        Self { pids: pid(&options.ours).zip(pid(&options.peer)).map(|(a, b)| [a, b]) }
    }

    /// Stops all but target `which`.
    fn give(&self, which: usize) -> Result<(), PerfError> {
        let Some(pids) = self.pids else { return Ok(()) };
        for (pid, signal) in [(pids[1 - which], Signal::STOP), (pids[which], Signal::CONT)] {
            kill_process(pid, signal).map_err(|error| {
                let pid = pid.as_raw_nonzero();
                PerfError(format!("process {pid} could not be stopped or continued: {error}"))
            })?;
        }
        Ok(())
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        for pid in self.pids.into_iter().flatten() {
            // It may be gone, which was reported where it mattered.
            let _ = kill_process(pid, Signal::CONT);
        }
    }
}

/// CPU time of each thread of a process so far.
fn cpu_times_ns(pid: i32) -> Vec<(std::ffi::OsString, u64)> {
    let Ok(tasks) = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")) else {
        return Vec::new();
    };
    let time = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        Some((task.file_name(), text.split_whitespace().next()?.parse().ok()?))
    };
    tasks.filter_map(Result::ok).filter_map(time).collect()
}

/// What the busiest thread has used since `before`.
fn busiest_ns(before: &[(std::ffi::OsString, u64)], after: &[(std::ffi::OsString, u64)]) -> u64 {
    let spent = |(thread, ns): &(std::ffi::OsString, u64)| {
        let earlier = before.iter().find(|(other, _)| other == thread).map_or(0, |(_, ns)| *ns);
        ns.saturating_sub(earlier)
    };
    after.iter().map(spent).max().unwrap_or(0)
}

/// One turn of one target.
fn turn(target: &Target, namespace: &Namespace, job: &Job) -> Result<Turn, PerfError> {
    let busy_before = target.rpc.as_deref().map(busy::ask).transpose()?;
    let begun = Instant::now();
    let before = target.pid.map(cpu_times_ns);
    let tallies = nvme::run(namespace, job)?;
    let after = target.pid.map(cpu_times_ns);
    let elapsed_s = begun.elapsed().as_secs_f64();
    let total = Outcome::new(&tallies, job.block_size_bytes).total;
    if total.ios == 0 {
        return Err(PerfError("a round ended without a request; use a longer --time".to_owned()));
    }
    // The thread's share of a CPU over the whole run, by the rate of requests while it measured.
    let cpu_ns = before
        .zip(after)
        .map(|(before, after)| busiest_ns(&before, &after) as f64 / elapsed_s / total.iops);
    let busy_after = target.rpc.as_deref().map(busy::ask).transpose()?;
    let busy_iops = busy_before.zip(busy_after).and_then(|(before, after)| after.since(&before));
    let latency = total.latency_ns;
    Ok(Turn { iops: total.iops, p50_ns: latency.p50, p99_ns: latency.p99, cpu_ns, busy_iops })
}

impl Side {
    fn new(turns: &[Turn]) -> Self {
        let spread =
            |figure: fn(&Turn) -> f64| Spread::new(&turns.iter().map(figure).collect::<Vec<_>>());
        let known = |figure: fn(&Turn) -> Option<f64>| {
            let figures: Option<Vec<f64>> = turns.iter().map(figure).collect();
            figures.map(|figures| Spread::new(&figures))
        };
        Self {
            iops: spread(|turn| turn.iops),
            p50_ns: spread(|turn| turn.p50_ns as f64),
            p99_ns: spread(|turn| turn.p99_ns as f64),
            cpu_ns: known(|turn| turn.cpu_ns),
            busy_iops: known(|turn| turn.busy_iops),
        }
    }
}

impl Options {
    fn namespace(&self, target: &Target, nqn: &str, connections: u16) -> Namespace {
        Namespace {
            addr: target.addr,
            nqn: nqn.to_owned(),
            host_nqn: self.host_nqn.clone(),
            nsid: 1,
            header_digest: self.header_digest,
            data_digest: self.data_digest,
            connections,
            cores: self.cores.clone(),
            tls: false,
            keys: Keys::default(),
        }
    }

    /// Every job with the connections that do it.
    fn jobs(&self) -> Vec<(Job, u16)> {
        let mut jobs = Vec::new();
        for &rw in &self.rw {
            for &queue_depth in &self.queue_depths {
                for &connections in &self.connections {
                    jobs.push((Job { rw, queue_depth, ..self.job.clone() }, connections));
                }
            }
        }
        if !self.no_sequential {
            for rw in [Access::Read, Access::Write] {
                let block_size_bytes = 128 << 10;
                jobs.push((Job { rw, block_size_bytes, queue_depth: 32, ..self.job.clone() }, 1));
            }
        }
        jobs
    }

    fn cell(
        &self,
        turns: &Turns,
        (device, nqn): &(String, String),
        job: Job,
        connections: u16,
    ) -> Result<Cell, PerfError> {
        let targets = [&self.ours, &self.peer];
        let mut results = [Vec::new(), Vec::new()];
        for round in 0..self.rounds.max(1) {
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for which in order {
                turns.give(which)?;
                let namespace = self.namespace(targets[which], nqn, connections);
                results[which].push(turn(targets[which], &namespace, &job)?);
            }
        }
        let [ours, peer] = results;
        let by_round = |figure: fn(&Turn) -> f64| {
            let ratios = ours.iter().zip(&peer).map(|(ours, peer)| figure(ours) / figure(peer));
            Spread::new(&ratios.collect::<Vec<_>>())
        };
        let ratio = by_round(|turn| turn.iops);
        let busy_ratios = ours.iter().zip(&peer).map(|(a, b)| Some(a.busy_iops? / b.busy_iops?));
        let busy_ratio = busy_ratios.collect::<Option<Vec<_>>>().map(|ratios| Spread::new(&ratios));
        let p99_ratio = by_round(|turn| turn.p99_ns as f64);
        let ratio_min = if device.starts_with("raid") { ARRAY_RATIO_MIN } else { RATIO_MIN };
        let reached = match job.queue_depth {
            1 => Some(p99_ratio.median <= 1.0),
            RATIO_FROM_QUEUE_DEPTH.. => Some(ratio.median >= ratio_min),
            _ => None,
        };
        let (ours, peer) = (Side::new(&ours), Side::new(&peer));
        let device = device.clone();
        Ok(Cell { device, job, connections, ours, peer, ratio, busy_ratio, p99_ratio, reached })
    }
}

/// Measures every job on every device; `progress` sees each line of the table when it is there.
pub(crate) fn run(options: &Options, mut progress: impl FnMut(&str)) -> Result<Report, PerfError> {
    let turns = Turns::new(options);
    let mut cells = Vec::new();
    progress(&title());
    for device in &options.devices {
        for (job, connections) in options.jobs() {
            let cell = options.cell(&turns, device, job, connections)?;
            progress(&cell.as_text());
            cells.push(cell);
        }
    }
    let (ours, peer) = (options.ours.clone(), options.peer.clone());
    Ok(Report { ours, peer, rounds: options.rounds, cells })
}

fn title() -> String {
    format!(
        "{:<42}{:>22}{:>26}{:>20}{:>20}{:>14}{:>46}\n",
        "IOPS, times and CPU time a request: ours, peer",
        "IOPS",
        "ours by peer",
        "p50",
        "p99",
        "CPU",
        "IOPS of a busy core"
    )
}

impl Cell {
    fn as_text(&self) -> String {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "times of requests"
        )]
        let time = |spread: Spread| show_ns(spread.median.round() as u64);
        let cpu = |side: &Side| side.cpu_ns.map_or_else(String::new, time);
        let connections = self.connections;
        let what = format!("{} {}, {connections} conn.", self.device, self.job.describe());
        let both = |ours: String, peer: String| format!("{ours} {peer}");
        let (ours, peer, ratio) = (&self.ours, &self.peer, self.ratio);
        let iops = both(format!("{:.0}", ours.iops.median), format!("{:.0}", peer.iops.median));
        let ratio = format!("{:.3} ({:.3} to {:.3})", ratio.median, ratio.min, ratio.max);
        let p50 = both(time(ours.p50_ns), time(peer.p50_ns));
        let p99 = both(time(ours.p99_ns), time(peer.p99_ns));
        let cpu = both(cpu(ours), cpu(peer));
        let busy = |side: &Side| side.busy_iops.map(|iops| format!("{:.0}", iops.median));
        let busy = match (busy(ours), busy(peer), self.busy_ratio) {
            (Some(ours), Some(peer), Some(Spread { median, min, max })) => {
                format!("{ours} {peer} {median:.3} ({min:.3} to {max:.3})")
            }
            _ => String::new(),
        };
        let reached = match self.reached {
            Some(false) => "  NOT REACHED",
            _ => "",
        };
        format!("{what:<46}{iops:>18}{ratio:>26}{p50:>20}{p99:>20}{cpu:>18}{busy:>46}{reached}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        let target = Target { addr: "127.0.0.1:1".parse().unwrap(), pid: None, rpc: None };
        Options {
            ours: target.clone(),
            peer: target,
            devices: vec![("null".into(), "nqn.2026-01.io.mdof:null".into())],
            host_nqn: "nqn.2026-01.io.mdof:perf".into(),
            cores: Vec::new(),
            header_digest: false,
            data_digest: false,
            rw: vec![Access::RandRead, Access::RandWrite],
            queue_depths: vec![1, 32, 127],
            connections: vec![1, 4],
            no_sequential: false,
            rounds: 1,
            job: Job::default(),
        }
    }

    #[test]
    fn every_combination_is_a_job_and_all_are_possible() {
        let jobs = options().jobs();
        assert_eq!(jobs.len(), 2 * 3 * 2 + 2);
        assert!(jobs.iter().all(|(job, _)| job.check().is_ok()));
    }

    #[test]
    fn cpu_time_is_that_of_the_busiest_thread() {
        let before = [("1".into(), 100), ("2".into(), 1000)];
        let after = [("1".into(), 900), ("2".into(), 1100), ("3".into(), 50)];
        assert_eq!(busiest_ns(&before, &after), 800);
        let own = i32::try_from(std::process::id()).unwrap();
        let earlier = cpu_times_ns(own);
        assert!(!earlier.is_empty(), "this process has a thread at least");
        assert!(cpu_times_ns(-1).is_empty());
    }

    #[test]
    fn a_target_that_does_not_answer_is_an_error() {
        let error = run(&options(), |_| ()).unwrap_err();
        assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    }
}

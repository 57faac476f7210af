//! Two variants measured in turns in one run, so that what changes on the machine meanwhile
//! meets both.

use mdof::bdev::BdevId;
use serde::Serialize;

use crate::inproc::Host;
use crate::job::{Job, PerfError};
use crate::keys::Keys;
use crate::nvme::{self, Namespace};
use crate::pattern::Access;
use crate::place::{Address, Place};
use crate::stats::{Outcome, Spread, Tally};

/// A comparison that has a name: a promise, or one in the making.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// The measure: what b is compared with.
    pub(crate) a: &'static str,
    /// What is judged.
    pub(crate) b: &'static str,
    pub(crate) rw: Access,
    /// Least ratio of b to a that was promised.
    pub(crate) promise: Option<f64>,
}

/// Every named comparison. A new level, bdev or peer is a line here.
pub(crate) const NAMED: &[Named] = &[
    Named {
        name: "raid1-bitmap",
        title: "RAID1 over null, every chunk Dirty: with the lockless bitmap against without",
        a: "raid1-nobitmap:null,null",
        b: "raid1:null,null",
        rw: Access::RandWrite,
        promise: Some(0.99),
    },
    Named {
        name: "raid1-bitmap-read",
        title: "RAID1 over null, every chunk Dirty: reads with the lockless bitmap against without",
        a: "raid1-nobitmap:null,null",
        b: "raid1:null,null",
        rw: Access::RandRead,
        promise: None,
    },
    Named {
        name: "raid1-null",
        title: "RAID1 with the lockless bitmap against one null bdev: what the array costs",
        a: "null",
        b: "raid1:null,null",
        rw: Access::RandWrite,
        promise: None,
    },
];

/// A comparison to be run.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) title: String,
    pub(crate) a: Place,
    pub(crate) b: Place,
    pub(crate) promise: Option<f64>,
    pub(crate) rounds: u32,
    /// Pieces into which a variant's time in a round is cut; a's and b's take turns.
    pub(crate) slices: u32,
}

/// How to reach places that are named without it.
#[derive(Debug)]
pub(crate) struct Reach {
    /// CPUs of the engine, or of the polling threads of the initiator.
    pub(crate) cores: Vec<usize>,
    pub(crate) host_nqn: String,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    pub(crate) connections: u16,
    pub(crate) keys: Keys,
}

impl Reach {
    /// The namespace at `address`, reached so.
    pub(crate) fn namespace(&self, address: &Address) -> Namespace {
        Namespace {
            addr: address.addr,
            nqn: address.nqn.clone(),
            host_nqn: self.host_nqn.clone(),
            nsid: address.nsid,
            header_digest: self.header_digest,
            data_digest: self.data_digest,
            connections: self.connections,
            cores: self.cores.clone(),
            tls: address.tls,
            keys: self.keys.clone(),
        }
    }
}

/// A place that is ready to be measured.
#[derive(Debug)]
enum Subject {
    Bdev(BdevId),
    Namespace(Box<Namespace>),
}

/// One round.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Round {
    pub(crate) a: Outcome,
    pub(crate) b: Outcome,
    /// IOPS of b by those of a.
    pub(crate) ratio: f64,
    /// The same for requests by CPU time: what other programs on the machine took is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_ratio: Option<f64>,
}

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) title: String,
    pub(crate) a: Place,
    pub(crate) b: Place,
    pub(crate) job: Job,
    pub(crate) a_iops: Spread,
    pub(crate) b_iops: Spread,
    pub(crate) ratio: Spread,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_ratio: Option<Spread>,
    pub(crate) promise: Option<f64>,
    /// Whether the median ratio keeps the promise.
    pub(crate) kept: Option<bool>,
    pub(crate) slices: u32,
    pub(crate) rounds: Vec<Round>,
}

/// Runs a comparison.
pub(crate) fn run(comparison: Comparison, job: Job, reach: &Reach) -> Result<Verdict, PerfError> {
    let Comparison { title, a, b, promise, rounds, slices } = comparison;
    let slice_time = job.time.checked_div(slices).filter(|time| !time.is_zero());
    let slice_time = slice_time
        .ok_or_else(|| PerfError("a slice of a round must be longer than zero".to_owned()))?;
    let slice = Job { time: slice_time, ..job.clone() };
    let mut results = Vec::new();
    for number in 0..rounds.max(1) {
        let mut host = None;
        let mut subject = |place| prepare(place, &job, reach, &mut host);
        // Where a thing lies in memory is worth a hundredth, too: each round builds both anew, and
        // the other one first.
        let subjects = if number % 2 == 0 {
            let a = subject(&a)?;
            [a, subject(&b)?]
        } else {
            let b = subject(&b)?;
            [subject(&a)?, b]
        };
        results.push(round(&subjects, &slice, slices, &mut host)?);
        if let Some(host) = host {
            host.stop()?;
        }
    }
    let spread =
        |figure: fn(&Round) -> f64| Spread::new(&results.iter().map(figure).collect::<Vec<f64>>());
    let ratio = spread(|round| round.ratio);
    let cpu_ratios: Option<Vec<f64>> = results.iter().map(|round| round.cpu_ratio).collect();
    Ok(Verdict {
        title,
        a,
        b,
        job,
        a_iops: spread(|round| round.a.total.iops),
        b_iops: spread(|round| round.b.total.iops),
        ratio,
        cpu_ratio: cpu_ratios.map(|ratios| Spread::new(&ratios)),
        promise,
        kept: promise.map(|promise| ratio.median >= promise),
        slices,
        rounds: results,
    })
}

/// One round. a b, b a, a b …: what drifts in one direction hits both alike.
fn round(
    subjects: &[Subject; 2],
    slice: &Job,
    slices: u32,
    host: &mut Option<Host>,
) -> Result<Round, PerfError> {
    let mut sums: [Option<Vec<Tally>>; 2] = [None, None];
    for turn in 0..slices {
        let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            let tallies = match &subjects[which] {
                Subject::Bdev(bdev) => {
                    host.as_mut().expect("a bdev has its host").run(*bdev, slice)?
                }
                Subject::Namespace(namespace) => nvme::run(namespace, slice)?,
            };
            match &mut sums[which] {
                Some(sum) => sum.iter_mut().zip(&tallies).for_each(|(sum, one)| sum.append(one)),
                empty => *empty = Some(tallies),
            }
        }
    }
    let outcome = |sum: Option<Vec<Tally>>| {
        Outcome::new(&sum.expect("one slice at least"), slice.block_size_bytes)
    };
    let [a, b] = sums.map(outcome);
    if a.total.ios == 0 || b.total.ios == 0 {
        return Err(PerfError("a round ended without a request; use a longer --time".to_owned()));
    }
    let cpu_ratio = b.ios_per_cpu_s.zip(a.ios_per_cpu_s).map(|(b, a)| b / a);
    Ok(Round { a, b, ratio: b.total.iops / a.total.iops, cpu_ratio })
}

fn prepare(
    place: &Place,
    job: &Job,
    reach: &Reach,
    host: &mut Option<Host>,
) -> Result<Subject, PerfError> {
    match place {
        Place::NvmeTcp(address) => Ok(Subject::Namespace(Box::new(reach.namespace(address)))),
        Place::InProcess(stack) => {
            let host = match host {
                Some(host) => host,
                None => host.insert(Host::start(&reach.cores, job)?),
            };
            let bdev = host.build(stack, true)?;
            host.dirty_all(bdev)?;
            Ok(Subject::Bdev(bdev))
        }
    }
}

impl Verdict {
    /// As a table.
    pub(crate) fn as_text(&self) -> String {
        let mut text = format!("{}\n  a: {}\n  b: {}\n", self.title, self.a, self.b);
        text += &format!(
            "{}, {} rounds, in each {:.1} s a variant, in {} slices taking turns\n",
            self.job.describe(),
            self.rounds.len(),
            self.job.time.as_secs_f64(),
            self.slices,
        );
        text += &row(["round", "a IOPS", "b IOPS", "b/a", "b/a by CPU time"].map(str::to_owned));
        let ratio = |ratio: f64| format!("{ratio:.3}");
        let cpu = |by_cpu: Option<f64>| by_cpu.map_or_else(String::new, ratio);
        for (round, number) in self.rounds.iter().zip(1..) {
            let (a, b) = (round.a.total.iops, round.b.total.iops);
            let number = format!("{number}");
            let iops = [a, b].map(|iops| format!("{iops:.0}"));
            let [a, b] = iops;
            text += &row([number, a, b, ratio(round.ratio), cpu(round.cpu_ratio)]);
        }
        let [a, b] = [self.a_iops, self.b_iops].map(|iops| format!("{:.0}", iops.median));
        let by_cpu = cpu(self.cpu_ratio.map(|spread| spread.median));
        text += &row(["median".to_owned(), a, b, ratio(self.ratio.median), by_cpu]);
        for (title, spread) in [("b/a", Some(self.ratio)), ("b/a by CPU time", self.cpu_ratio)] {
            if let Some(Spread { median, min, max }) = spread {
                text += &format!("{title}: {median:.3} ({min:.3} to {max:.3})\n");
            }
        }
        if let (Some(promise), Some(kept)) = (self.promise, self.kept) {
            let kept = if kept { "kept" } else { "NOT KEPT" };
            text += &format!("promised: at least {promise:.2}: {kept}\n");
        }
        text
    }
}

fn row(cells: [String; 5]) -> String {
    let [round, a, b, ratio, cpu_ratio] = cells;
    format!("{round:>6}{a:>14}{b:>14}{ratio:>9}{cpu_ratio:>18}").trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn reach() -> Reach {
        Reach {
            cores: Vec::new(),
            host_nqn: "nqn.2026-01.io.mdof:perf".into(),
            header_digest: false,
            data_digest: false,
            connections: 1,
            keys: Keys::default(),
        }
    }

    #[test]
    fn named_places_can_be_read() {
        for named in NAMED {
            for place in [named.a, named.b] {
                assert!(matches!(Place::parse(place), Ok(Place::InProcess(_))), "{place}");
            }
            assert_eq!(NAMED.iter().filter(|other| other.name == named.name).count(), 1);
        }
    }

    #[test]
    fn rounds_and_ratio_belong_together() {
        let job = Job {
            rw: Access::RandWrite,
            warm_up: Duration::from_millis(2),
            time: Duration::from_millis(20),
            ..Job::default()
        };
        let comparison = Comparison {
            title: "test".into(),
            a: Place::parse("raid1-nobitmap:null:64m,null:64m").unwrap(),
            b: Place::parse("raid1:null:64m,null:64m").unwrap(),
            promise: Some(1000.0),
            rounds: 3,
            slices: 2,
        };
        let verdict = run(comparison, job, &reach()).unwrap();
        assert_eq!(verdict.rounds.len(), 3);
        for round in &verdict.rounds {
            assert!((round.ratio - round.b.total.iops / round.a.total.iops).abs() < 1e-9);
        }
        assert!(verdict.ratio.min <= verdict.ratio.median);
        assert_eq!(verdict.kept, Some(false), "nothing is a thousand times faster");
        assert!(verdict.as_text().contains("NOT KEPT"));
        let json = serde_json::to_value(&verdict).unwrap();
        assert_eq!(json["rounds"].as_array().unwrap().len(), 3);
    }
}

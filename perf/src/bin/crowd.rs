//! Many connections to one core of a target in this process, over the loopback:
//!
//! - `crowd cost`: what a read costs the target's core when 4 connections, or 256, send as many
//!   each, and when 1000 more do nothing;
//! - `crowd misery`: a host's p99 alone, and beside hosts that take nothing of what they asked
//!   for, send nothing of what they were asked for, or come and go.
//!
//! Variants take turns; the median of the rounds counts. The target polls all the time on a CPU of
//! its own, so that its CPU time and the share of it that had work say what a read costs, whatever
//! else the machine does. Two CPUs are needed.

#[path = "crowd/load.rs"]
mod load;
#[path = "../loopback.rs"]
mod loopback;
#[path = "crowd/misery.rs"]
mod misery;
#[path = "crowd/served.rs"]
mod served;

use std::time::Duration;

use load::Lanes;
use mdof::initiator::QueuePair;
use served::Served;

/// Rounds unless the command line says otherwise, and the time of a variant in each.
const ROUNDS: usize = 15;
const TIME: Duration = Duration::from_millis(400);
const WARM_UP: Duration = Duration::from_millis(200);

/// What was promised.
const COST_RATIO_MAX: f64 = 1.2;
const P99_RATIO_MAX: f64 = 1.2;

const USAGE: &str = "usage: crowd cost|misery [ROUNDS [MILLISECONDS]]";

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Median, and the least and the greatest.
fn spread(figures: &[f64], digits: usize) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = figures.iter().copied().fold(0.0, f64::max);
    let median = median(figures.to_vec());
    format!("{median:.digits$} ({least:.digits$} to {greatest:.digits$})")
}

fn kept(ratio: f64, most: f64) -> &'static str {
    if ratio <= most { "kept" } else { "NOT KEPT" }
}

/// Nanoseconds of the core a read.
fn cost_ns(served: &Served, queues: &mut [QueuePair], depth: u16, time: Duration) -> f64 {
    let mut lanes = Lanes::new(queues, depth);
    lanes.run(WARM_UP);
    let before = served.clock();
    let ios = lanes.run(time);
    let cost = served.clock().since(&before) / ios as f64;
    lanes.drain();
    cost
}

fn cost(rounds: usize, time: Duration) {
    let served = Served::start();
    for depth in [1u16, 4, 32] {
        let (_few, mut few) = served.hosts(1, 4, depth + 1);
        let (_many, mut many) = served.hosts(2, 128, depth + 1);
        let mut figures: [Vec<f64>; 3] = Default::default();
        for round in 0..rounds {
            let mut measure_few = |at: &mut Vec<f64>| {
                at.push(cost_ns(&served, &mut few, depth, time));
            };
            if round % 2 == 0 {
                measure_few(&mut figures[0]);
                figures[1].push(cost_ns(&served, &mut many, depth, time));
            } else {
                figures[1].push(cost_ns(&served, &mut many, depth, time));
                measure_few(&mut figures[0]);
            }
            let idle = served.hosts(8, 125, 17);
            measure_few(&mut figures[2]);
            drop(idle);
        }
        let ratios = |with: &[f64]| -> Vec<f64> {
            with.iter().zip(&figures[0]).map(|(with, alone)| with / alone).collect()
        };
        let [few, many, crowd] = &figures;
        println!("4 KiB random reads of null, depth {depth} each, CPU time of the core a read:");
        println!("  4 connections: {} ns", spread(few, 0));
        println!("  256 connections: {} ns", spread(many, 0));
        println!("  4 connections, 1000 idle ones: {} ns", spread(crowd, 0));
        for (what, with) in [("256 against 4", many), ("with 1000 idle", crowd)] {
            let ratio = ratios(with);
            let kept = kept(median(ratio.clone()), COST_RATIO_MAX);
            println!("  {what}: {}; promised: at most {COST_RATIO_MAX}: {kept}", spread(&ratio, 3));
        }
    }
}

fn p99(rounds: usize, time: Duration) {
    let served = Served::start();
    let (_client, mut queues) = served.hosts(1, 1, 17);
    let mut p99_us = |depth: u16, every: Duration, act: &mut dyn FnMut()| {
        let mut lanes = Lanes::new(&mut queues, depth);
        lanes.run(WARM_UP);
        lanes.time_each();
        lanes.run_beside(time, every, act);
        lanes.drain();
        lanes.p99_us()
    };
    for depth in [1u16, 8] {
        for kind in misery::Kind::ALL {
            let every = kind.every();
            let (mut alone, mut beside) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                for is_beside in [round % 2 == 1, round % 2 == 0] {
                    if is_beside {
                        let mut misery = misery::Misery::begin(kind, &served);
                        beside.push(p99_us(depth, every, &mut || misery.act()));
                    } else {
                        alone.push(p99_us(depth, every, &mut || ()));
                    }
                }
            }
            let ratio: Vec<f64> = beside.iter().zip(&alone).map(|(b, a)| b / a).collect();
            let verdict = kept(median(ratio.clone()), P99_RATIO_MAX);
            println!("4 KiB random reads, depth {depth}: p99 beside {}:", kind.describe());
            println!("  alone {} us, beside them {} us", spread(&alone, 1), spread(&beside, 1));
            println!("  {}; promised: at most {P99_RATIO_MAX}: {verdict}", spread(&ratio, 3));
        }
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mode = args.next().expect(USAGE);
    let rounds = args.next().map_or(ROUNDS, |text| text.parse().expect(USAGE));
    let time = args.next().map_or(TIME, |text| Duration::from_millis(text.parse().expect(USAGE)));
    match mode.as_str() {
        "cost" => cost(rounds.max(1), time),
        "misery" => p99(rounds.max(1), time),
        _ => panic!("{USAGE}"),
    }
}

//! `mdof-perf`: measures bdevs in its own process and NVMe/TCP namespaces, compares variants in
//! turns, and looks at an idle or starting target. What mdof promises is in `PROMISES.md`.
//!
//! - `cli`: the command line; `place`: what a job runs on, as text; `job`: what it does.
//! - `pattern` and `random`: which request comes next. `load`: one stream of them, its depth, its
//!   times. `stats`: what they come to. `report`: how it is shown.
//! - `nvme` and `inproc` carry loads to a namespace and to a bdev. `ab` lets two places take turns.
//! - `versus` compares two targets on the network. `target_process` runs the target's program.
//! - `table` compares bitmaps, `levels` the levels of RAID; `daemon_pass` looks at one part of the
//!   lockless bitmap, `rebuild` at rebuilds, `growth` at arrays that become larger.

mod ab;
#[cfg(test)]
#[path = "../../tests/support/allocations.rs"]
#[allow(dead_code, unreachable_pub, reason = "tests of other crates share it")]
mod allocations;
mod cli;
mod cpu;
mod daemon_pass;
mod growth;
mod inproc;
mod job;
mod keys;
mod levels;
mod load;
mod nvme;
mod pattern;
mod place;
mod random;
mod rebuild;
mod report;
mod stats;
mod table;
mod target_process;
mod units;
mod versus;

use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use cli::{AbArgs, Cli, Command, RunArgs, Subject};
use inproc::Host;
use job::PerfError;
use place::Place;
use serde_json::json;
use stats::Outcome;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => run(&cli.run),
        Some(Command::Ab(args)) => compare(&args),
        Some(Command::Versus(args)) => args.options().and_then(|options| {
            let report = versus::run(&options, |line| {
                if !args.json {
                    print!("{line}");
                }
            })?;
            show(&report, args.json, String::new)
        }),
        Some(Command::LlbitmapTable(args)) => table::run(&args.options())
            .and_then(|table| show(&table, args.json, || table.as_text())),
        Some(Command::Levels { member_size, rounds, time, full_stripes, json }) => {
            let options = levels::Options { member_size_bytes: member_size, rounds, time };
            if full_stripes {
                levels::run_full_stripes(&options)
                    .and_then(|found| show(&found, json, || found.as_text()))
            } else {
                levels::run(&options).and_then(|table| show(&table, json, || table.as_text()))
            }
        }
        Some(Command::DaemonPass { size: member_size_bytes, rounds, time, json }) => {
            daemon_pass::run(&daemon_pass::Options { member_size_bytes, rounds, time })
                .and_then(|report| show(&report, json, || report.as_text()))
        }
        Some(Command::Rebuild { size: member_size_bytes, rounds, time, queue_depth, json }) => {
            rebuild::run(&rebuild::Options { member_size_bytes, rounds, time, queue_depth })
                .and_then(|report| show(&report, json, || report.as_text()))
        }
        Some(Command::Growth { size: size_bytes, growths, queue_depth, json }) => {
            growth::run(&growth::Options {
                size_bytes,
                growths,
                queue_depth,
                cores_max: growth::CORES_MAX,
            })
            .and_then(|report| show(&report, json, || report.as_text()))
        }
        Some(Command::Idle { mdof, time, json }) => target_process::measure_idle(&mdof, time)
            .and_then(|idleness| show(&idleness, json, || idleness.as_text())),
        Some(Command::Ready { mdof, rounds, json }) => target_process::measure_ready(&mdof, rounds)
            .and_then(|readiness| show(&readiness, json, || readiness.as_text())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mdof-perf: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a result one way or the other.
fn show(
    result: &impl Serialize,
    json: bool,
    as_text: impl FnOnce() -> String,
) -> Result<(), PerfError> {
    if json {
        let text = serde_json::to_string_pretty(result);
        println!("{}", text.map_err(|error| PerfError(error.to_string()))?);
    } else {
        print!("{}", as_text());
    }
    Ok(())
}

/// One job on one place.
fn run(args: &RunArgs) -> Result<(), PerfError> {
    let (subject, reach, job) = args.resolve()?;
    let (shown, place, tallies) = match subject {
        Subject::Place(Place::NvmeTcp(address)) => {
            let namespace = reach.namespace(&address);
            let tallies = nvme::run(&namespace, &job)?;
            let place = json!({ "nvme-tcp": namespace });
            (Place::NvmeTcp(address).to_string(), place, tallies)
        }
        Subject::Place(Place::InProcess(stack)) => {
            let mut host = Host::start(&reach.cores, &job)?;
            let bdev = host.build(&stack, false)?;
            if !args.no_prefill {
                host.dirty_all(bdev)?;
            }
            let tallies = host.run(bdev, &job)?;
            host.stop()?;
            let place = Place::InProcess(stack);
            (place.to_string(), json!(place), tallies)
        }
        Subject::Configured { config, bdev } => {
            let (mut host, id) = Host::configured(&config, &bdev, &reach.cores, &job)?;
            let tallies = host.run(id, &job)?;
            host.stop()?;
            let place = json!({ "config": config, "bdev": bdev });
            (format!("bdev {bdev} of {}", config.display()), place, tallies)
        }
    };
    let outcome = Outcome::new(&tallies, job.block_size_bytes);
    let json = report::as_json(&place, &job, &outcome);
    show(&json, args.json, || report::as_text(&shown, &job, &outcome))
}

/// Two variants in turns.
fn compare(args: &AbArgs) -> Result<(), PerfError> {
    let Some((comparison, job, reach)) = args.resolve()? else {
        for named in ab::NAMED {
            println!("{:<20} {}", named.name, named.title);
        }
        return Ok(());
    };
    let verdict = ab::run(comparison, job, &reach)?;
    show(&verdict, args.json, || verdict.as_text())
}

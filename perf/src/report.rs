//! Results for people and for programs.

use serde::Serialize;
use serde_json::{Value, json};

use crate::job::Job;
use crate::stats::{Outcome, Side};
use crate::units::show_ns;

/// A result as JSON: what was measured, on what, and the figures.
pub(crate) fn as_json(place: &impl Serialize, job: &Job, outcome: &Outcome) -> Value {
    json!({
        "tool": "mdof-perf",
        "version": env!("CARGO_PKG_VERSION"),
        "place": place,
        "job": job,
        "result": outcome,
    })
}

/// A result as a table.
pub(crate) fn as_text(place: &str, job: &Job, outcome: &Outcome) -> String {
    let mut text = format!(
        "{place}\n{}; {:.1} s measured after {:.1} s of warm-up\n",
        job.describe(),
        outcome.measured_s,
        job.warm_up.as_secs_f64()
    );
    let titles = ["", "IOPS", "MiB/s", "mean", "p50", "p90", "p99", "p99.9", "max"];
    text += &line(&titles.map(str::to_owned));
    for (title, side) in [("read", outcome.read), ("write", outcome.write)] {
        if let Some(side) = side {
            text += &line(&cells(title, &side));
        }
    }
    if outcome.read.is_some() && outcome.write.is_some() {
        text += &line(&cells("total", &outcome.total));
    }
    if outcome.read.is_none() && outcome.write.is_none() {
        text += "no request has ended while it measured; use a longer --time\n";
    }
    text
}

fn cells(title: &str, side: &Side) -> [String; 9] {
    let latency = &side.latency_ns;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a mean of latencies lies among them"
    )]
    let mean = latency.mean.round() as u64;
    let times = [mean, latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max];
    let [mean, p50, p90, p99, p99_9, max] = times.map(show_ns);
    let (iops, mib_per_s) = (format!("{:.0}", side.iops), format!("{:.1}", side.mib_per_s));
    [title.to_owned(), iops, mib_per_s, mean, p50, p90, p99, p99_9, max]
}

fn line(cells: &[String; 9]) -> String {
    let mut text = format!("{:<6}", cells[0]);
    cells[1..].iter().for_each(|cell| text += &format!("{cell:>11}"));
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Direction;
    use crate::stats::Tally;

    fn outcome() -> Outcome {
        let mut tally = Tally::new();
        (0..1000).for_each(|_| tally.count(Direction::Write, Some(12_000)));
        tally.set_measured(1_000_000_000, None);
        Outcome::new(&[tally], 4096)
    }

    #[test]
    fn json_has_what_programs_look_for() {
        let json = as_json(&json!({"kind": "test"}), &Job::default(), &outcome());
        assert_eq!(json["place"]["kind"], "test");
        assert_eq!(json["job"]["rw"], "randread");
        assert_eq!(json["job"]["time"], 10.0);
        assert_eq!(json["result"]["write"]["iops"], 1000.0);
        assert!(json["result"]["write"]["latency_ns"]["p99.9"].as_u64().unwrap() >= 12_000);
        assert!(json["result"].get("read").is_none());
    }

    #[test]
    fn text_has_a_line_a_direction() {
        let text = as_text("null:1g", &Job::default(), &outcome());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[3].starts_with("write") && lines[3].contains("12.0 us"), "{text}");
    }
}

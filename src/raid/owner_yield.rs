//! The walker yields to the host: as many windows are in flight as the host's latency allows.
//!
//! The channels count how long their requests take ([`super::latency`]). Each fifth of a second of
//! copying the owner asks them, and has more or less in flight: less by half when the host's p99
//! is beyond its bound, more by one when it is well within. Below one window it pauses between
//! windows, for a second at most, so that copying always goes on.
//!
//! The bound is a time, or a part more than the host sees without copying. To know that, copying
//! rests for a moment every second. A host that sends next to nothing has nothing to suffer: then
//! all windows may be in flight.

use super::channel::WINDOWS;
use super::latency::LatencySample;
use super::message::{Mail, Out, ToChannel};
use super::owner::Owner;
use super::pace::Pace;

/// Ticks of copying before the host's latency is judged.
const JUDGED_TICKS: u32 = 10;

/// Ticks without copying in which the latency without it is taken.
const REST_TICKS: u32 = 3;

/// Judgements after which copying rests.
const JUDGEMENTS_PER_REST: u32 = 5;

/// Requests in a judgement below which the host is idle.
const COUNT_MIN: u32 = 4;

/// Levels: from one on the windows in flight, below that ever longer pauses after each.
const LEVEL_MAX: i32 = 16;
const LEVEL_MIN: i32 = -4;
const LEVEL_AT_FIRST: i32 = 2;

const _: () = assert!(LEVEL_MAX as usize == WINDOWS);

/// What copying does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No bound is set.
    Off,
    /// It goes on; judged after so many ticks.
    Copying { ticks_left: u32 },
    /// It begins nothing until its windows have ended, so that the latency without can be taken.
    Draining,
    /// It rests.
    Resting { ticks_left: u32 },
    /// The channels were asked.
    Asking { answers_left: u16, told: LatencySample, then: Then },
}

/// What their answers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The latency under copying.
    Judge,
    /// Nothing: what was counted up to here belongs to nobody.
    Rest,
    /// The latency without.
    Baseline,
    /// Nothing: another bound was set meanwhile.
    Anew,
}

/// The part of the owner that holds copying back.
#[derive(Debug)]
pub(super) struct Yielder {
    phase: Phase,
    level: i32,
    /// Ticks until the next window may begin, below one window.
    pause: u32,
    judgements: u32,
    /// The host's p99 without copying.
    baseline_ns: Option<u64>,
}

impl Default for Yielder {
    fn default() -> Self {
        let (phase, level) = (Phase::Off, LEVEL_AT_FIRST);
        Self { phase, level, pause: 0, judgements: 0, baseline_ns: None }
    }
}

impl Yielder {
    pub(super) fn is_on(&self) -> bool {
        self.phase != Phase::Off
    }

    /// Another window may begin beside so many.
    pub(super) fn allows(&self, busy: usize) -> bool {
        match self.phase {
            Phase::Off => true,
            Phase::Draining | Phase::Resting { .. } => false,
            Phase::Asking { then: Then::Rest | Then::Baseline, .. } => false,
            Phase::Copying { .. } | Phase::Asking { .. } => match usize::try_from(self.level) {
                Ok(windows @ 1..) => busy < windows,
                _ => busy == 0 && self.pause == 0,
            },
        }
    }

    /// A window begins.
    pub(super) fn begins(&mut self) {
        self.pause = match u32::try_from(1 - self.level) {
            Ok(shift @ 1..) => 1 << (shift + 1),
            _ => 0,
        };
    }

    /// The p99 at which there is less in flight, or `None` where it is not known yet.
    fn bound_ns(&self, pace: Pace) -> Option<u64> {
        let relative = match (pace.latency_percent, self.baseline_ns) {
            (0, _) => u64::MAX,
            (_, None) => return None,
            // A part of what is allowed: what goes beyond in a judgement counts for the host too.
            (percent, Some(ns)) => {
                let more = u64::from(percent.saturating_sub(100)) * 6 / 10;
                ns * (100 + more) / 100
            }
        };
        let absolute = match pace.latency_us {
            0 => u64::MAX,
            us => u64::from(us) * 1000 * 9 / 10,
        };
        Some(relative.min(absolute))
    }

    /// The latency under copying is known.
    fn judge(&mut self, told: LatencySample, pace: Pace) {
        let is_relative = pace.latency_percent != 0;
        self.judgements += 1;
        let wants_rest = is_relative
            && told.count >= COUNT_MIN
            && (self.baseline_ns.is_none() || self.judgements >= JUDGEMENTS_PER_REST);
        if told.count < COUNT_MIN {
            self.level = LEVEL_MAX;
        } else if let Some(bound) = self.bound_ns(pace) {
            let p99 = told.p99_ns;
            if p99 > bound && !mutant!(CopyingNeverYields) {
                self.level = if self.level > 1 { self.level / 2 } else { self.level - 1 };
            } else if p99 * 20 < bound * 19 {
                self.level += 1;
            }
            self.level = self.level.clamp(LEVEL_MIN, LEVEL_MAX);
        } else {
            self.level = self.level.min(LEVEL_AT_FIRST);
        }
        self.phase = if wants_rest { Phase::Draining } else { Self::COPYING };
    }

    /// The latency without copying is known, if there was any.
    fn rested(&mut self, told: LatencySample) {
        self.judgements = 0;
        self.phase = Self::COPYING;
        if told.count < COUNT_MIN {
            return;
        }
        // A moment is short: several of them count.
        self.baseline_ns = Some(match self.baseline_ns {
            None => told.p99_ns,
            Some(before) => before - before / 4 + told.p99_ns / 4,
        });
    }

    const COPYING: Phase = Phase::Copying { ticks_left: JUDGED_TICKS };
}

impl Owner {
    /// Another window may begin.
    pub(super) fn may_copy(&self) -> bool {
        self.pacer.allows() && self.yielder.allows(self.walker.busy())
    }

    /// Another bound for the host's latency, or none.
    pub(super) fn set_latency(&mut self, pace: Pace, out: &mut Out<'_>) {
        let is_on = pace.latency_us != 0 || pace.latency_percent != 0;
        let phase = match self.yielder.phase {
            // Their answers are on the way.
            Phase::Asking { answers_left, told, .. } => {
                Phase::Asking { answers_left, told, then: Then::Anew }
            }
            _ if is_on => Yielder::COPYING,
            _ => Phase::Off,
        };
        self.yielder = Yielder { phase, ..Yielder::default() };
        out.mail.push_back(Mail::Channels(ToChannel::TimeRequests(is_on)));
    }

    fn ask_latency(&mut self, then: Then, out: &mut Out<'_>) {
        let told = LatencySample::default();
        self.yielder.phase = Phase::Asking { answers_left: self.cores, told, then };
        out.mail.push_back(Mail::Channels(ToChannel::TellLatency));
    }

    /// A tick of the pace's clock.
    pub(super) fn yield_ticks(&mut self, out: &mut Out<'_>) {
        self.yielder.pause = self.yielder.pause.saturating_sub(1);
        match self.yielder.phase {
            Phase::Off | Phase::Asking { .. } => {}
            Phase::Copying { ticks_left: 0 } => self.ask_latency(Then::Judge, out),
            Phase::Copying { ticks_left } => {
                self.yielder.phase = Phase::Copying { ticks_left: ticks_left - 1 };
            }
            Phase::Draining if self.walker.is_idle() => self.ask_latency(Then::Rest, out),
            Phase::Draining => {}
            Phase::Resting { ticks_left: 0 } => self.ask_latency(Then::Baseline, out),
            Phase::Resting { ticks_left } => {
                self.yielder.phase = Phase::Resting { ticks_left: ticks_left - 1 };
            }
        }
    }

    /// A channel tells how long its requests took.
    pub(super) fn latency_told(&mut self, sample: LatencySample) {
        let Phase::Asking { answers_left, told, then } = self.yielder.phase else {
            panic!("a channel told a latency that nobody asked for");
        };
        let told = told.and(sample);
        if answers_left > 1 {
            let answers_left = answers_left - 1;
            self.yielder.phase = Phase::Asking { answers_left, told, then };
            return;
        }
        let pace = self.pacer.pace();
        match then {
            Then::Judge => self.yielder.judge(told, pace),
            Then::Rest => self.yielder.phase = Phase::Resting { ticks_left: REST_TICKS },
            Then::Baseline => self.yielder.rested(told),
            Then::Anew if pace.latency_us == 0 && pace.latency_percent == 0 => {
                self.yielder.phase = Phase::Off;
            }
            Then::Anew => self.yielder.phase = Yielder::COPYING,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const HALF_MORE: Pace = Pace { max_mib_s: 0, latency_us: 0, latency_percent: 150 };

    fn sample(p99_ns: u64) -> LatencySample {
        LatencySample { count: 1000, p99_ns }
    }

    /// A host whose latency grows with the windows in flight: what it sees on average, in percent
    /// of what it sees without copying, and the windows in flight on average in tenths.
    fn run(pace: Pace, percent_per_window: u32) -> (u64, u64) {
        let mut yielder = Yielder { phase: Yielder::COPYING, ..Yielder::default() };
        let (mut beyond, mut windows) = (0, 0);
        for round in 0..400 {
            let busy = u32::try_from(yielder.level.max(0)).unwrap();
            let p99 = u64::from(1_000_000 + 10_000 * percent_per_window * busy);
            yielder.judge(sample(p99), pace);
            if yielder.phase == Phase::Draining {
                yielder.rested(sample(1_000_000));
            }
            if round >= 100 {
                beyond += u64::from(p99 > 1_500_000);
                windows += u64::from(busy) * 10;
            }
        }
        (beyond, windows / 300)
    }

    /// Also the story of a planted bug.
    pub(in crate::raid) fn copying_goes_as_far_as_the_host_allows() {
        for percent_per_window in [1, 5, 10, 25, 40] {
            let (beyond, windows) = run(HALF_MORE, percent_per_window);
            assert!(beyond <= 3, "{percent_per_window} %: {beyond} of 300 judgements beyond");
            let most = u64::from(50 / percent_per_window).min(16);
            assert!(windows * 2 >= most * 10, "{percent_per_window} %: {windows}/10 of {most}");
        }
    }

    #[test]
    fn the_host_gets_what_it_is_promised() {
        copying_goes_as_far_as_the_host_allows();
        let absolute = Pace { latency_us: 1300, latency_percent: 0, ..HALF_MORE };
        let (beyond, windows) = run(absolute, 5);
        assert!(beyond == 0 && windows >= 15, "{beyond}, {windows}");
    }

    #[test]
    fn copying_always_goes_on() {
        let mut yielder = Yielder { phase: Yielder::COPYING, ..Yielder::default() };
        yielder.baseline_ns = Some(10);
        for _ in 0..50 {
            yielder.judge(sample(1_000_000), HALF_MORE);
            yielder.phase = Yielder::COPYING;
        }
        assert_eq!(yielder.level, LEVEL_MIN);
        assert!(yielder.allows(0) && !yielder.allows(1));
        yielder.begins();
        assert!(!yielder.allows(0));
        assert!((32..=64).contains(&yielder.pause), "{} ticks of 20 ms", yielder.pause);
        // The host is gone.
        yielder.judge(LatencySample::default(), HALF_MORE);
        assert!(yielder.allows(WINDOWS - 1));
    }
}

//! How fast the walker copies: as fast as the members allow, or as the operator does.
//!
//! The clock is a timer that runs while there is something to copy and a bound: each tick allows
//! as many bytes as the bound gives for its time. What was not used is lost after a few ticks, so
//! that a pause is followed by no burst. The same ticks steer how far it yields to the host, see
//! [`super::owner_yield`].

use super::message::{ArrayTimer, Mail, Out};
use super::owner::Owner;

/// Time between two ticks.
pub(super) const TICK_MS: u64 = 20;

/// Ticks whose allowance may be saved up.
const SAVED_TICKS_MAX: u64 = 4;

/// Largest bound: more is no bound at all.
pub const PACE_MIB_S_MAX: u32 = 1 << 20;

/// Bounds of the host's latency under copying that can be kept, in percent of what it is without.
pub const PACE_LATENCY_PERCENT: std::ops::RangeInclusive<u32> = 105..=10_000;

/// Bounds of copying: resync, rebuild, check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// MiB read in a second at most; 0 for no bound.
    pub max_mib_s: u32,
    /// The host's p99 under copying in microseconds at most, as far as copying can help it; 0 for
    /// no bound.
    pub latency_us: u32,
    /// The same, in percent of what it is without copying: 150 is half as long again; 0 for no
    /// bound.
    pub latency_percent: u32,
}

/// The pace's part of the owner.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    pace: Pace,
    /// Bytes that may be copied now; copies under way may have taken more.
    allowed_bytes: i64,
    is_armed: bool,
}

impl Pacer {
    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// Another window may begin.
    pub(super) fn allows(&self) -> bool {
        self.pace.max_mib_s == 0 || self.allowed_bytes > 0
    }

    /// So much is copied.
    pub(super) fn spend(&mut self, bytes: u64) {
        if self.pace.max_mib_s != 0 {
            self.allowed_bytes -= i64::try_from(bytes).unwrap_or(i64::MAX);
        }
    }

    fn tick_bytes(&self) -> i64 {
        let bytes = u64::from(self.pace.max_mib_s) * (1 << 20) * TICK_MS / 1000;
        i64::try_from(bytes).unwrap_or(i64::MAX)
    }
}

impl Owner {
    /// Copies at this pace from now on.
    pub(super) fn set_pace(&mut self, pace: Pace, out: &mut Out<'_>) {
        let bounded = Pace { max_mib_s: pace.max_mib_s.min(PACE_MIB_S_MAX), ..pace };
        self.pacer.pace = bounded;
        self.set_latency(bounded, out);
        self.pacer.allowed_bytes = self.pacer.tick_bytes();
        self.go_on(out);
    }

    /// Work waits for the next tick.
    pub(super) fn await_tick(&mut self, out: &mut Out<'_>) {
        if !std::mem::replace(&mut self.pacer.is_armed, true) {
            out.mail.push_back(Mail::Arm(ArrayTimer::Pace, TICK_MS));
        }
    }

    /// A tick.
    pub(super) fn pace_ticks(&mut self, out: &mut Out<'_>) {
        self.yield_ticks(out);
        self.pacer.is_armed = false;
        let tick = self.pacer.tick_bytes();
        let saved_max = tick.saturating_mul(i64::try_from(SAVED_TICKS_MAX).unwrap_or(1));
        self.pacer.allowed_bytes = self.pacer.allowed_bytes.saturating_add(tick).min(saved_max);
    }
}

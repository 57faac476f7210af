//! The monotonic clock. Reactors read it once a turn and pass the value on.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the monotonic clock.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Milliseconds of the monotonic clock.
#[must_use]
pub fn now_ms() -> u64 {
    now_ns() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back() {
        let first = now_ns();
        assert!(first > 0);
        assert!(now_ns() >= first);
        assert!(now_ms() >= first / 1_000_000);
    }
}

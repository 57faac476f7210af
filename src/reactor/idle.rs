//! When a core without work stops spinning and sleeps in the kernel.

/// Microseconds a core spins without work before it sleeps. Longer than the gap between the
/// requests of a busy host, short enough that an idle core costs nothing to speak of.
pub const SPIN_US_DEFAULT: u64 = 80;

/// How long a core sleeps at most while messages of its own wait for room in a mesh ring.
pub const BACKLOG_RETRY_US: u64 = 200;

/// How a core idles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdlePolicy {
    /// Microseconds to spin without work before sleeping.
    pub spin_us: u64,
    /// Never sleep.
    pub poll_always: bool,
}

impl Default for IdlePolicy {
    fn default() -> Self {
        Self { spin_us: SPIN_US_DEFAULT, poll_always: false }
    }
}

/// Watches how long a core has had nothing to do.
#[derive(Debug)]
pub(super) struct Idle {
    policy: IdlePolicy,
    last_work_us: u64,
}

impl Idle {
    pub(super) fn new(policy: IdlePolicy, now_us: u64) -> Self {
        Self { policy, last_work_us: now_us }
    }

    /// A turn has ended: whether to sleep now.
    pub(super) fn should_sleep(&mut self, worked: bool, now_us: u64) -> bool {
        if worked {
            self.last_work_us = now_us;
        }
        !worked
            && !self.policy.poll_always
            && now_us.saturating_sub(self.last_work_us) >= self.policy.spin_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_after_the_spin_and_never_when_told_to_poll() {
        let mut idle = Idle::new(IdlePolicy { spin_us: 80, poll_always: false }, 1000);
        assert!(!idle.should_sleep(false, 1079));
        assert!(idle.should_sleep(false, 1080));
        assert!(!idle.should_sleep(true, 1090));
        assert!(!idle.should_sleep(false, 1169));
        assert!(idle.should_sleep(false, 1170));
        let mut polling = Idle::new(IdlePolicy { spin_us: 0, poll_always: true }, 0);
        assert!(!polling.should_sleep(false, u64::MAX));
    }
}

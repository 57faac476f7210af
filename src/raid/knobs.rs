//! What an operator can set of a running array's bitmap.

use super::message::Out;
use super::owner::{Life, Owner};
use crate::bitmap::Infection;

/// Longest sleep of the daemon: a day. What is Dirty meanwhile is resynced after a crash.
pub const DAEMON_SLEEP_S_MAX: u32 = 86_400;

/// Longest idle time before a chunk may be cleared: an hour.
pub const BARRIER_IDLE_S_MAX: u32 = 3600;

/// New values of what can be set; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Knobs {
    /// Seconds between two passes of the daemon. Kept in the bitmap's header, as md does.
    pub daemon_sleep_s: Option<u32>,
    /// Seconds a chunk must be idle before the daemon may clear it. Not kept, as in md.
    pub barrier_idle_s: Option<u32>,
    /// Which neighbours of a chunk turn Dirty with it. Not kept.
    pub infection: Option<Infection>,
}

impl Knobs {
    /// Whether the values are within their bounds.
    ///
    /// # Errors
    /// A sentence that names the first that is not.
    pub fn check(&self) -> Result<(), String> {
        if let Some(sleep) = self.daemon_sleep_s
            && !(1..=DAEMON_SLEEP_S_MAX).contains(&sleep)
        {
            return Err(format!("daemon_sleep_s is 1 to {DAEMON_SLEEP_S_MAX}, not {sleep}"));
        }
        match self.barrier_idle_s {
            Some(idle) if idle > BARRIER_IDLE_S_MAX => {
                Err(format!("barrier_idle_s is at most {BARRIER_IDLE_S_MAX}, not {idle}"))
            }
            _ => Ok(()),
        }
    }
}

impl Owner {
    /// Takes new values from now on: a sleep that is under way ends within a minute of what a new
    /// one would, an idle time that is under way runs as it was.
    ///
    /// # Errors
    /// A sentence for the operator; nothing is changed then.
    pub fn set_knobs(&mut self, knobs: &Knobs, out: &mut Out<'_>) -> Result<(), String> {
        knobs.check()?;
        let runs = matches!(self.life(), Life::Starting | Life::Running);
        if !runs && !mutant!(SettingsAtStop) {
            return Err("the array is stopping".to_owned());
        }
        let Some(bitmap) = &mut self.bitmap else {
            return Err("the array has no bitmap".to_owned());
        };
        if let Some(sleep) = knobs.daemon_sleep_s {
            bitmap.set_daemon_sleep_s(sleep);
            self.daemon.set_sleep_s(sleep);
        }
        if let Some(idle) = knobs.barrier_idle_s {
            self.daemon.set_idle_s(idle);
        }
        if let Some(policy) = knobs.infection {
            bitmap.set_infection(policy);
        }
        self.poll(out);
        Ok(())
    }
}

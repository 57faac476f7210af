//! What an operator can set of a running array's bitmap.

use super::message::Out;
use super::owner::{Life, Owner};
use crate::bitmap::Infection;
use crate::md::{BitmapSuperblock, Settings};

/// Longest sleep of the daemon: a day. What is Dirty meanwhile is resynced after a crash.
pub const DAEMON_SLEEP_S_MAX: u32 = 86_400;

/// Seconds between two passes of the daemon unless told otherwise: md's value.
pub const DAEMON_SLEEP_S_DEFAULT: u32 = 30;

/// Idle seconds before a chunk may be cleared unless told otherwise: md's value.
pub const BARRIER_IDLE_S_DEFAULT: u32 = 5;

/// Longest idle time before a chunk may be cleared: an hour.
pub const BARRIER_IDLE_S_MAX: u32 = 3600;

/// New values of what can be set; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Knobs {
    /// Seconds between two passes of the daemon. Kept in the bitmap's header, as md does.
    pub daemon_sleep_s: Option<u32>,
    /// Seconds a chunk must be idle before the daemon may clear it. Kept in mdof's part of the
    /// header.
    pub barrier_idle_s: Option<u32>,
    /// Which neighbours of a chunk turn Dirty with it. Kept in mdof's part of the header.
    pub infection: Option<Infection>,
}

impl Knobs {
    /// What a bitmap's header holds of them. A foreign value may be beyond bounds.
    #[must_use]
    pub fn kept(header: &BitmapSuperblock) -> Self {
        let settings = header.settings;
        Self {
            daemon_sleep_s: Some(header.daemon_sleep_s.clamp(1, DAEMON_SLEEP_S_MAX)),
            barrier_idle_s: settings.map(|it| it.barrier_idle_s.min(BARRIER_IDLE_S_MAX)),
            infection: settings.and_then(|it| Infection::from_number(it.infection)),
        }
    }

    /// These where they say something, else `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            daemon_sleep_s: self.daemon_sleep_s.or(others.daemon_sleep_s),
            barrier_idle_s: self.barrier_idle_s.or(others.barrier_idle_s),
            infection: self.infection.or(others.infection),
        }
    }

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

/// What the header is to hold of settings that md does not keep: nothing where they are the
/// defaults, so that a header of md stays as it is.
pub(super) fn settings(barrier_idle_s: u32, infection: Infection) -> Option<Settings> {
    let is_default = barrier_idle_s == BARRIER_IDLE_S_DEFAULT && infection == Infection::default();
    (!is_default).then(|| Settings { barrier_idle_s, infection: infection.number() })
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
        bitmap.keep_settings(settings(self.daemon.idle_s(), bitmap.infection()));
        self.poll(out);
        Ok(())
    }
}

//! Checks of arrays.

use std::time::{Duration, Instant};

use super::{Target, TargetError};
use crate::raid::{Command, ScrubAction};

/// An array that is checked now and then.
#[derive(Debug)]
pub(super) struct Schedule {
    array: String,
    every: Duration,
    next: Instant,
}

impl Target {
    /// Begins or ends a check of an array.
    ///
    /// # Errors
    /// Why not.
    pub fn scrub(&mut self, array: &str, action: ScrubAction) -> Result<(), TargetError> {
        self.member_command(array, Command::Scrub(action)).map(drop)
    }

    /// Checks an array every so many hours from now on; 0 for never.
    ///
    /// # Errors
    /// If there is no such array.
    pub fn set_scrub_schedule(&mut self, array: &str, hours: u32) -> Result<(), TargetError> {
        self.array(array)?;
        let array = self.resolve(array)?;
        self.forget_schedule_of(&array);
        if hours > 0 {
            let every = Duration::from_secs(u64::from(hours) * 3600);
            self.schedules.push(Schedule { array, every, next: Instant::now() + every });
        }
        Ok(())
    }

    /// An array is no more, or is to be checked at other times.
    pub(super) fn forget_schedule_of(&mut self, array: &str) {
        self.schedules.retain(|schedule| schedule.array != array);
    }

    pub(super) fn has_schedules(&self) -> bool {
        !self.schedules.is_empty()
    }

    /// Begins the checks that are due.
    pub(super) fn begin_due_checks(&mut self, now: Instant) {
        let mut due = Vec::new();
        for schedule in self.schedules.iter_mut().filter(|schedule| schedule.next <= now) {
            schedule.next = now + schedule.every;
            due.push(schedule.array.clone());
        }
        for array in due {
            if let Err(error) = self.scrub(&array, ScrubAction::Check) {
                tracing::warn!("a scheduled check was not begun: {error}");
            }
        }
    }
}

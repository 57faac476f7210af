//! What is set of arrays at run time and outlives them: by name, so that it waits for an array
//! whose members are not there yet.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Target, TargetError};
use crate::control::policy::DegradedStart;
use crate::raid::{
    Command, ErrorPolicy, PACE_MIB_S_MAX, Pace, READ_ERRORS_MAX_DEFAULT, ScrubAction,
    WriteErrorPolicy,
};

/// Longest time between two checks: a year.
pub const SCRUB_EVERY_HOURS_MAX: u32 = 24 * 366;

/// Settings of one array; `None`: the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// When it starts with members missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_degraded: Option<DegradedStart>,
    /// How fast it copies at most, in MiB/s; 0 for no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_mib_s: Option<u32>,
    /// How long the host's p99 may be while it copies, in microseconds; 0 for no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u32>,
    /// The same, in percent of what it is without copying; 0 for no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_percent: Option<u32>,
    /// Recent read errors that a member may have; 0 for any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_errors_max: Option<u32>,
    /// What becomes of a member that fails to write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_error_policy: Option<WriteErrorPolicy>,
    /// Hours between two checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub_every_hours: Option<u32>,
    /// When the next one is due, in seconds since 1970: a target that is restarted every day
    /// checks every week all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub_next_s: Option<u64>,
}

/// What SPDK's `bdev_raid_set_options` sets, for all arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessOptions {
    /// SPDK's unit of a rebuild. mdof's windows are chunks of the bitmap, so it is only kept.
    pub process_window_size_kb: u32,
    /// Bound of copying in MiB/s of every array that has none of its own; 0 for none.
    pub process_max_bandwidth_mb_sec: u32,
}

impl Default for ProcessOptions {
    fn default() -> Self {
        Self { process_window_size_kb: 1024, process_max_bandwidth_mb_sec: 0 }
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Target {
    /// What is set of an array, whether it runs or not.
    #[must_use]
    pub fn settings_of(&self, array: &str) -> Settings {
        self.settings.get(array).cloned().unwrap_or_default()
    }

    /// All settings, by array.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &Settings)> {
        self.settings.iter().map(|(name, settings)| (name.as_str(), settings))
    }

    /// Takes settings over that were kept, for an array that may not be there yet.
    pub fn restore_settings(&mut self, array: &str, settings: Settings) {
        self.settings.insert(array.to_owned(), settings);
    }

    /// Name of an array that runs or waits.
    fn known_array(&self, name: &str) -> Result<String, TargetError> {
        if self.waiting.contains_key(name) {
            return Ok(name.to_owned());
        }
        self.array(name)?;
        self.resolve(name)
    }

    fn change_settings(&mut self, array: &str, change: impl FnOnce(&mut Settings)) {
        let settings = self.settings.entry(array.to_owned()).or_default();
        change(settings);
        if *settings == Settings::default() {
            self.settings.remove(array);
        }
    }

    /// When an array starts with members missing, from its next start on, or the one that it
    /// waits for.
    ///
    /// # Errors
    /// If there is no such array.
    pub fn set_start_policy(
        &mut self,
        array: &str,
        policy: DegradedStart,
    ) -> Result<(), TargetError> {
        let array = self.known_array(array)?;
        if let Some(waiting) = self.waiting.get_mut(&array) {
            waiting.wish.policy = policy;
        }
        self.change_settings(&array, |settings| settings.start_degraded = Some(policy));
        Ok(())
    }

    /// Sets how fast an array copies.
    ///
    /// # Errors
    /// If there is no such array.
    pub fn set_pace(&mut self, array: &str, pace: Pace) -> Result<(), TargetError> {
        let array = self.known_array(array)?;
        if !self.waiting.contains_key(&array) {
            self.member_command(&array, Command::SetPace(pace))?;
        }
        self.change_settings(&array, |settings| {
            settings.max_mib_s = Some(pace.max_mib_s);
            settings.latency_us = Some(pace.latency_us);
            settings.latency_percent = Some(pace.latency_percent);
        });
        Ok(())
    }

    /// Sets what an array puts up with; what is not given stays.
    ///
    /// # Errors
    /// If there is no such array.
    pub fn set_error_policy(
        &mut self,
        array: &str,
        read_errors_max: Option<u32>,
        write_errors: Option<WriteErrorPolicy>,
    ) -> Result<(), TargetError> {
        let array = self.known_array(array)?;
        self.change_settings(&array, |settings| {
            settings.read_errors_max = read_errors_max.or(settings.read_errors_max);
            settings.write_error_policy = write_errors.or(settings.write_error_policy);
        });
        if !self.waiting.contains_key(&array) {
            self.apply_error_policy(&array)?;
        }
        Ok(())
    }

    fn apply_error_policy(&mut self, array: &str) -> Result<(), TargetError> {
        let settings = self.settings_of(array);
        let policy = ErrorPolicy {
            read_errors_max: settings.read_errors_max.unwrap_or(READ_ERRORS_MAX_DEFAULT),
            write_errors: settings.write_error_policy.unwrap_or_default(),
        };
        self.member_command(array, Command::SetErrorPolicy(policy)).map(drop)
    }

    /// Checks an array every so many hours from now on; 0 for never.
    ///
    /// # Errors
    /// If there is no such array.
    pub fn set_scrub_schedule(&mut self, array: &str, hours: u32) -> Result<(), TargetError> {
        let array = self.known_array(array)?;
        let every = (hours > 0).then_some(hours);
        let next = every.map(|hours| now_s() + u64::from(hours) * 3600);
        self.change_settings(&array, |settings| {
            settings.scrub_every_hours = every;
            settings.scrub_next_s = next;
        });
        Ok(())
    }

    /// What the configuration file says goes before what was kept.
    pub fn configure_settings(&mut self, array: &str, set: &Settings) {
        self.change_settings(array, |kept| {
            kept.start_degraded = set.start_degraded.or(kept.start_degraded);
            kept.max_mib_s = set.max_mib_s.or(kept.max_mib_s);
            kept.latency_us = set.latency_us.or(kept.latency_us);
            kept.latency_percent = set.latency_percent.or(kept.latency_percent);
            kept.read_errors_max = set.read_errors_max.or(kept.read_errors_max);
            kept.write_error_policy = set.write_error_policy.or(kept.write_error_policy);
            match set.scrub_every_hours {
                None => {}
                Some(0) => (kept.scrub_every_hours, kept.scrub_next_s) = (None, None),
                Some(hours) if kept.scrub_every_hours == Some(hours) => {}
                Some(hours) => {
                    kept.scrub_every_hours = Some(hours);
                    kept.scrub_next_s = Some(now_s() + u64::from(hours) * 3600);
                }
            }
        });
    }

    /// What holds for arrays without settings of their own.
    #[must_use]
    pub fn process_options(&self) -> ProcessOptions {
        self.process_options
    }

    /// Sets what holds for arrays without settings of their own, also those that run.
    ///
    /// # Errors
    /// If a value is out of bounds.
    pub fn set_process_options(&mut self, options: ProcessOptions) -> Result<(), TargetError> {
        if options.process_window_size_kb == 0 {
            return Err(TargetError::Invalid("process_window_size_kb is 1 at least".to_owned()));
        }
        if options.process_max_bandwidth_mb_sec > PACE_MIB_S_MAX {
            let text = format!("process_max_bandwidth_mb_sec is at most {PACE_MIB_S_MAX}");
            return Err(TargetError::Invalid(text));
        }
        self.process_options = options;
        for array in self.array_names() {
            self.apply_pace(&array)?;
        }
        Ok(())
    }

    /// Gives an array that has just started what is set of it.
    pub(super) fn apply_settings(&mut self, array: &str) {
        if let Err(error) = self.apply_pace(array) {
            tracing::error!("array {array} copies without a bound: {error}");
        }
        let settings = self.settings_of(array);
        if settings.read_errors_max.is_none() && settings.write_error_policy.is_none() {
            return;
        }
        if let Err(error) = self.apply_error_policy(array) {
            tracing::error!("array {array} puts up with as many errors as usual: {error}");
        }
    }

    fn apply_pace(&mut self, array: &str) -> Result<(), TargetError> {
        let own = self.settings_of(array);
        let usual = self.process_options.process_max_bandwidth_mb_sec;
        let pace = Pace {
            max_mib_s: own.max_mib_s.unwrap_or(usual),
            latency_us: own.latency_us.unwrap_or(0),
            latency_percent: own.latency_percent.unwrap_or(0),
        };
        self.member_command(array, Command::SetPace(pace)).map(drop)
    }

    pub(super) fn has_schedules(&self) -> bool {
        self.settings.values().any(|settings| settings.scrub_every_hours.is_some())
    }

    /// Begins the checks that are due.
    pub(super) fn begin_due_checks(&mut self) {
        let now_s = now_s();
        let mut due = Vec::new();
        for (array, settings) in &mut self.settings {
            let (Some(hours), next) = (settings.scrub_every_hours, settings.scrub_next_s) else {
                continue;
            };
            if next.unwrap_or(0) <= now_s && self.bdevs.contains_key(array) {
                settings.scrub_next_s = Some(now_s + u64::from(hours) * 3600);
                due.push(array.clone());
            }
        }
        for array in due {
            if let Err(error) = self.scrub(&array, ScrubAction::Check) {
                tracing::warn!("a scheduled check was not begun: {error}");
            }
        }
    }

    /// Begins or ends a check of an array.
    ///
    /// # Errors
    /// Why not.
    pub fn scrub(&mut self, array: &str, action: ScrubAction) -> Result<(), TargetError> {
        self.member_command(array, Command::Scrub(action)).map(drop)
    }
}

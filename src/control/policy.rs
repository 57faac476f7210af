//! What becomes of an array whose members are not all there when it is to start.

use std::fmt;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest time that a start may wait for members: a day.
pub const START_WAIT_S_MAX: u32 = 86_400;

/// May an array start while a member that its superblocks count on is missing?
///
/// A member that is known to have failed is not missed: the others have it on record, so the array
/// starts without asking. The question is about a member that was in sync when the others were
/// last written. It may be late; or it may have gone on alone, while those that are here were away:
/// then it holds the newer data, and a start without it would serve old ones and split the array.
/// Nothing on the members that are here tells the two apart, so the default is to wait for the
/// missing member or for the operator's word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DegradedStart {
    /// Not before all are there, or the operator says so.
    #[default]
    Refuse,
    /// When it has waited for so many seconds.
    WaitS(u32),
    /// At once.
    Start,
}

impl DegradedStart {
    /// Reads `refuse`, `start` or `wait:SECONDS`.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "start_degraded is \"refuse\", \"start\" or \"wait:SECONDS\" (1 to \
                 {START_WAIT_S_MAX}), not \"{text}\""
            )
        };
        match text {
            "refuse" => Ok(Self::Refuse),
            "start" => Ok(Self::Start),
            _ => {
                let seconds = text.strip_prefix("wait:").and_then(|s| s.parse().ok());
                let fits = |s: &u32| (1..=START_WAIT_S_MAX).contains(s);
                seconds.filter(fits).map(Self::WaitS).ok_or_else(bad)
            }
        }
    }

    /// An array that has waited so long may start with those it has.
    #[must_use]
    pub fn allows_after(self, waited: Duration) -> bool {
        match self {
            Self::Refuse => false,
            Self::WaitS(seconds) => waited >= Duration::from_secs(seconds.into()),
            Self::Start => true,
        }
    }
}

impl Serialize for DegradedStart {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DegradedStart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl fmt::Display for DegradedStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse => f.write_str("refuse"),
            Self::WaitS(seconds) => write!(f, "wait:{seconds}"),
            Self::Start => f.write_str("start"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back() {
        for text in ["refuse", "start", "wait:1", "wait:86400"] {
            assert_eq!(DegradedStart::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "wait", "wait:0", "wait:86401", "wait:-1", "Start", "true"] {
            assert!(DegradedStart::parse(bad).unwrap_err().contains("wait:SECONDS"), "{bad}");
        }
    }

    #[test]
    fn patience_ends_when_it_should() {
        let second = Duration::from_secs(1);
        assert!(!DegradedStart::Refuse.allows_after(second * 1_000_000));
        assert!(!DegradedStart::WaitS(2).allows_after(second));
        assert!(DegradedStart::WaitS(2).allows_after(second * 2));
        assert!(DegradedStart::Start.allows_after(Duration::ZERO));
        assert_eq!(DegradedStart::default(), DegradedStart::Refuse);
    }
}

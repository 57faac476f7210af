//! The RAID level as operators write it, in the configuration, on the command line and in calls.

use crate::control::target::ArrayShape;
use crate::md::{
    Level, NewLevel, NewLog, STRIP_BYTES_DEFAULT, default_layout, layout_by_name, layout_name,
};

/// Level, layout and strip of an array to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelChoice {
    /// The level.
    pub level: Level,
    /// Its layout word.
    pub layout: u32,
    /// Bytes of a strip; md's default, where the level has any.
    pub strip_bytes: u64,
    /// The operator has named layout and strip: members that carry others are refused.
    named: (bool, bool),
}

impl Default for LevelChoice {
    fn default() -> Self {
        Self::new(Level::Raid1)
    }
}

impl LevelChoice {
    fn new(level: Level) -> Self {
        let layout = default_layout(level);
        Self { level, layout, strip_bytes: STRIP_BYTES_DEFAULT, named: (false, false) }
    }

    /// Reads a level, mdadm's name of a layout, and the KiB of a strip.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(
        level: &str,
        layout: Option<&str>,
        strip_kib: Option<u64>,
    ) -> Result<Self, String> {
        let mut choice = Self::new(parse_level(level)?);
        let name = choice.level.name();
        if let Some(layout) = layout {
            choice.named.0 = true;
            choice.layout = layout_by_name(choice.level, layout).ok_or_else(|| {
                format!("{name} has no layout \"{layout}\"{}", layouts_of(choice.level))
            })?;
        }
        // SPDK's clients say 0 for a level without strips.
        if let Some(kib) = strip_kib.filter(|&kib| kib != 0) {
            // SPDK's concat must be given one; md's linear knows none, so it changes nothing.
            if choice.level == Level::Raid1 {
                return Err(format!("{name} has no strip size"));
            }
            let fits = kib.is_power_of_two() && (4..=1 << 20).contains(&kib);
            if !fits {
                return Err(format!("a strip is a power of two from 4 to 1048576 KiB, not {kib}"));
            }
            choice.named.1 = true;
            choice.strip_bytes = kib << 10;
        }
        Ok(choice)
    }

    /// How the array's data are to lie.
    #[must_use]
    pub fn shape(self) -> ArrayShape {
        let has_strips = !matches!(self.level, Level::Raid1 | Level::Linear);
        let strip_bytes = if has_strips { self.strip_bytes } else { 0 };
        ArrayShape { level: self.level, layout: self.layout, strip_bytes }
    }

    /// Refuses members that carry another level, layout or strip than was said. There may be more
    /// of them than slots: journals, replacements and spares are named with the rest.
    ///
    /// # Errors
    /// What they carry.
    pub fn check_carried(self, carried: &ArrayShape) -> Result<(), String> {
        let wanted = self.shape();
        let (name, found) = (wanted.level.name(), carried.level.name());
        if wanted.level != carried.level {
            return Err(format!("it is said to be a {name}, but its members carry a {found}"));
        }
        if self.named.0 && wanted.layout != carried.layout {
            let name =
                |word| layout_name(self.level, word).unwrap_or_else(|| format!("number {word:#x}"));
            let [wanted, found] = [wanted.layout, carried.layout].map(name);
            return Err(format!(
                "it is said to have the layout {wanted}, but its members carry {found}"
            ));
        }
        if self.named.1 && wanted.strip_bytes != carried.strip_bytes {
            let [wanted, found] = [wanted.strip_bytes, carried.strip_bytes].map(|it| it >> 10);
            return Err(format!(
                "it is said to have strips of {wanted} KiB, but its members carry {found} KiB"
            ));
        }
        Ok(())
    }

    /// What md is to make.
    #[must_use]
    pub fn with_bitmap(self, wanted: bool, chunk_bytes: Option<u64>) -> NewLevel {
        let has_redundancy = !matches!(self.level, Level::Raid0 | Level::Linear);
        let log =
            if wanted && has_redundancy { NewLog::Bitmap { chunk_bytes } } else { NewLog::None };
        let Self { level, layout, strip_bytes, .. } = self;
        NewLevel { level, layout, strip_bytes, log }
    }
}

/// SPDK's and mdadm's names.
fn parse_level(word: &str) -> Result<Level, String> {
    let lower = word.to_ascii_lowercase();
    match lower.strip_prefix("raid").unwrap_or(&lower) {
        "0" => Ok(Level::Raid0),
        "1" => Ok(Level::Raid1),
        "4" => Ok(Level::Raid4),
        "5" | "5f" => Ok(Level::Raid5),
        "6" => Ok(Level::Raid6),
        "10" => Ok(Level::Raid10),
        "concat" | "linear" if !lower.starts_with("raid") => Ok(Level::Linear),
        _ => Err(format!(
            "\"{word}\" is no level: it is raid0, raid1, raid4, raid5, raid6, raid10 or concat"
        )),
    }
}

fn layouts_of(level: Level) -> &'static str {
    match level {
        Level::Linear | Level::Raid1 | Level::Raid4 => "; it has none",
        Level::Raid0 => "; it is original or alternate",
        Level::Raid5 | Level::Raid6 => {
            "; it is left-symmetric, right-symmetric, left-asymmetric, right-asymmetric, \
             parity-first or parity-last"
        }
        Level::Raid10 => "; it is n, f or o and the number of copies, such as n2",
    }
}

/// The level as SPDK's `bdev_raid_get_bdevs` calls it.
#[must_use]
pub fn spdk_name(level: Level) -> &'static str {
    match level {
        Level::Linear => "concat",
        Level::Raid5 => "raid5f",
        other => other.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_by_their_names() {
        for (word, level) in [
            ("raid0", Level::Raid0),
            ("0", Level::Raid0),
            ("concat", Level::Linear),
            ("linear", Level::Linear),
            ("1", Level::Raid1),
            ("RAID10", Level::Raid10),
            ("raid5f", Level::Raid5),
            ("5f", Level::Raid5),
            ("5", Level::Raid5),
            ("raid6", Level::Raid6),
            ("raid4", Level::Raid4),
        ] {
            assert_eq!(LevelChoice::parse(word, None, None).unwrap().level, level, "{word}");
        }
        for bad in ["", "raid", "raid2", "raidconcat", "7", "raid5g"] {
            assert!(LevelChoice::parse(bad, None, None).unwrap_err().contains("no level"), "{bad}");
        }
    }

    #[test]
    fn members_that_carry_something_else_are_refused() {
        let carried = LevelChoice::parse("raid5", Some("ra"), Some(64)).unwrap().shape();
        let check = |level, layout, strip| {
            LevelChoice::parse(level, layout, strip).unwrap().check_carried(&carried)
        };
        // What was not said is as it is found.
        assert_eq!(check("raid5", None, None), Ok(()));
        assert_eq!(check("5", Some("right-asymmetric"), Some(64)), Ok(()));
        let refused = |level, layout, strip, words: &str| {
            let text = check(level, layout, strip).unwrap_err();
            assert!(text.contains(words), "{text}");
        };
        refused("raid1", None, None, "said to be a raid1, but its members carry a raid5");
        refused("raid5", Some("ls"), None, "left-symmetric, but its members carry right-asymm");
        refused("raid5", None, Some(128), "128 KiB, but its members carry 64 KiB");
    }

    #[test]
    fn layouts_and_strips() {
        let parse = |level, layout, strip| LevelChoice::parse(level, layout, strip);
        let far = parse("raid10", Some("f2"), Some(64)).unwrap();
        assert_eq!((far.layout, far.strip_bytes), (0x201, 65_536));
        assert_eq!(parse("raid5", Some("ra"), None).unwrap().layout, 1);
        assert_eq!(parse("raid6", None, None).unwrap().strip_bytes, 512 << 10);
        assert_eq!(parse("raid1", None, Some(0)).unwrap(), LevelChoice::default());
        assert_eq!(parse("concat", None, Some(64)).unwrap().shape().strip_bytes, 0);
        assert!(parse("raid1", None, Some(64)).unwrap_err().contains("no strip size"));
        assert!(parse("raid1", Some("n2"), None).unwrap_err().contains("it has none"));
        assert!(parse("raid5", Some("n2"), None).unwrap_err().contains("left-symmetric"));
        assert!(parse("raid5", None, Some(48)).unwrap_err().contains("power of two"));
    }
}

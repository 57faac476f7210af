//! The layout word of a superblock: which ones there are, what mdadm calls them, and how many
//! sectors the bitmap of a level covers.
//!
//! Where blocks lie is [`crate::raid`]'s business; what is known here is what a superblock or an
//! operator can say.

use thiserror::Error;

use super::Superblock;
use super::types::{Features, Level};

/// raid4/5/6 (raid5.h, `ALGORITHM_*`): number, mdadm's name, mdadm's short name.
const PARITY: [(u32, &str, &str); 6] = [
    (0, "left-asymmetric", "la"),
    (1, "right-asymmetric", "ra"),
    (2, "left-symmetric", "ls"),
    (3, "right-symmetric", "rs"),
    (4, "parity-first", ""),
    (5, "parity-last", ""),
];

/// raid6 only, on arrays that came from elsewhere or were another level.
const RAID6_FOREIGN: [(u32, &str); 8] = [
    (8, "ddf-zero-restart"),
    (9, "ddf-N-restart"),
    (10, "ddf-N-continue"),
    (16, "left-asymmetric-6"),
    (17, "right-asymmetric-6"),
    (18, "left-symmetric-6"),
    (19, "right-symmetric-6"),
    (20, "parity-first-6"),
];

/// raid0 of unequal members (md_p.h, `RAID0_ORIG_LAYOUT`, `RAID0_ALT_MULTIZONE_LAYOUT`).
const RAID0: [(u32, &str); 2] = [(1, "original"), (2, "alternate")];

/// Bit 16 of a raid10 word: far copies lie in the rows below.
const RAID10_OFFSET: u32 = 1 << 16;

/// Why the numbers of a superblock are none of its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// A word that the level does not have.
    #[error("{} has no layout {found:#x}; mdof knows {}", .level.name(), known(*.level))]
    Unknown {
        /// The level.
        level: Level,
        /// The word.
        found: u32,
    },
    /// A strip that the level cannot have.
    #[error(
        "{} cannot have chunks of {found_sectors} sectors: md wants a power of two of at least \
         4096 bytes",
        .level.name()
    )]
    Chunk {
        /// The level.
        level: Level,
        /// Sectors found.
        found_sectors: u32,
    },
    /// Fewer members than the level or the layout takes.
    #[error("{} with layout {layout:#x} takes at least {min} members, not {found}", .level.name())]
    Members {
        /// The level.
        level: Level,
        /// The word.
        layout: u32,
        /// Fewest.
        min: u32,
        /// Slots found.
        found: u32,
    },
}

fn known(level: Level) -> &'static str {
    match level {
        Level::Linear | Level::Raid1 | Level::Raid4 => "any, it means nothing there",
        Level::Raid0 => "1 (original) and 2 (alternate)",
        Level::Raid5 => "0 to 5 (left-symmetric is 2)",
        Level::Raid6 => "0 to 5 (left-symmetric is 2), 8 to 10 and 16 to 20",
        Level::Raid10 => {
            "near + 256 * far, + 0x10000 for offset, + 0x20000 or 0x40000 for far sets"
        }
    }
}

/// A raid10 word taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raid10Word {
    /// Copies in a row.
    pub near: u8,
    /// Copies further down, or with `offset` in the rows below.
    pub far: u8,
    /// See `far`.
    pub offset: bool,
    /// 0: far copies go around all members. 1 and 2: around sets of them, in two ways.
    pub set: u8,
}

impl Raid10Word {
    /// `None` for a word that stands for no copies, or that has bits which mean nothing.
    #[must_use]
    pub fn new(word: u32) -> Option<Raid10Word> {
        let [near, far, flags, unknown] = word.to_le_bytes();
        let set = flags >> 1;
        let is_known = unknown == 0 && set <= 2 && near > 0 && far > 0;
        is_known.then_some(Raid10Word { near, far, offset: flags & 1 != 0, set })
    }

    /// Copies of every block.
    #[must_use]
    pub fn copies(self) -> u32 {
        u32::from(self.near) * u32::from(self.far)
    }
}

/// The layout that mdadm gives a new array of this level.
#[must_use]
pub fn default_layout(level: Level) -> u32 {
    match level {
        Level::Linear | Level::Raid1 | Level::Raid4 => 0,
        Level::Raid0 => 1,
        Level::Raid5 | Level::Raid6 => 2,
        Level::Raid10 => 0x102,
    }
}

/// The word for a layout by mdadm's name: `left-symmetric` or `ls`, `n2`, `f2`, `o3`, `original`.
/// `None` if the level has none of that name.
#[must_use]
pub fn layout_by_name(level: Level, name: &str) -> Option<u32> {
    match level {
        Level::Linear | Level::Raid1 | Level::Raid4 => None,
        Level::Raid0 => RAID0.iter().find(|entry| entry.1 == name).map(|entry| entry.0),
        Level::Raid5 | Level::Raid6 => {
            let plain = PARITY
                .iter()
                .find(|entry| entry.1 == name || (!entry.2.is_empty() && entry.2 == name));
            let foreign = RAID6_FOREIGN.iter().filter(|_| level == Level::Raid6);
            let foreign = foreign.clone().find(|entry| entry.1 == name).map(|entry| entry.0);
            plain.map(|entry| entry.0).or(foreign)
        }
        Level::Raid10 => {
            let copies: u8 = name.get(1..)?.parse().ok().filter(|&copies| copies > 1)?;
            match name.as_bytes()[0] {
                b'n' => Some(1 << 8 | u32::from(copies)),
                b'f' => Some(u32::from(copies) << 8 | 1),
                b'o' => Some(RAID10_OFFSET | u32::from(copies) << 8 | 1),
                _ => None,
            }
        }
    }
}

/// The layout as `mdadm --examine` names it; `None` for a level without, or a word unknown to it.
#[must_use]
pub fn layout_name(level: Level, word: u32) -> Option<String> {
    let named = |name: &str| Some(name.to_owned());
    match level {
        Level::Linear | Level::Raid1 | Level::Raid4 => None,
        Level::Raid0 => RAID0.iter().find(|entry| entry.0 == word).and_then(|e| named(e.1)),
        Level::Raid5 | Level::Raid6 => {
            let plain = PARITY.iter().find(|entry| entry.0 == word).map(|entry| entry.1);
            let foreign = RAID6_FOREIGN.iter().filter(|_| level == Level::Raid6);
            let foreign = foreign.clone().find(|entry| entry.0 == word).map(|entry| entry.1);
            plain.or(foreign).and_then(named)
        }
        Level::Raid10 => {
            let Raid10Word { near, far, offset, set } = Raid10Word::new(word)?;
            let further = if offset { "offset" } else { "far" };
            let mut parts = Vec::new();
            if near > 1 || far == 1 {
                parts.push(format!("near={near}"));
            }
            if far > 1 {
                parts.push(format!("{further}={far}"));
            }
            if set > 0 {
                parts.push(format!("far-set variant {set}"));
            }
            Some(parts.join(", "))
        }
    }
}

impl Superblock {
    /// Whether level, layout, chunk and number of members go together.
    ///
    /// # Errors
    /// Names what does not.
    pub fn check_layout(&self) -> Result<(), LayoutError> {
        let (level, found) = (self.level, self.layout_word());
        let is_known = match level {
            Level::Linear | Level::Raid1 | Level::Raid4 => true,
            // 0: nobody said, and with equal members it does not matter.
            Level::Raid0 => found <= 2,
            Level::Raid5 | Level::Raid6 => layout_name(level, found).is_some(),
            Level::Raid10 => Raid10Word::new(found).is_some_and(|word| word.copies() > 1),
        };
        if !is_known {
            return Err(LayoutError::Unknown { level, found });
        }
        let min = members_min(level, found);
        if self.raid_disks < min {
            let (layout, found) = (found, self.raid_disks);
            return Err(LayoutError::Members { level, layout, min, found });
        }
        let chunk = self.chunk_sectors;
        let is_chunk = match level {
            Level::Linear | Level::Raid1 => true,
            Level::Raid0 => chunk > 0,
            _ => chunk.is_power_of_two() && chunk >= 8,
        };
        if is_chunk { Ok(()) } else { Err(LayoutError::Chunk { level, found_sectors: chunk }) }
    }

    /// The layout word, which a raid0 has only with [`Features::RAID0_LAYOUT`]; 0 without.
    #[must_use]
    pub fn layout_word(&self) -> u32 {
        let is_missing =
            self.level == Level::Raid0 && !self.features.contains(Features::RAID0_LAYOUT);
        if is_missing { 0 } else { self.layout }
    }

    /// Sectors that a bitmap and a resync count: those of the array for raid10, those of a member
    /// for the other levels with redundancy, none for raid0 and linear.
    #[must_use]
    pub fn sync_size_sectors(&self) -> u64 {
        match self.level {
            Level::Linear | Level::Raid0 => 0,
            Level::Raid1 | Level::Raid4 | Level::Raid5 | Level::Raid6 => self.size_sectors,
            Level::Raid10 => self.raid10_sectors(),
        }
    }

    /// Size of a raid10 array; 0 where the numbers make none, see [`Superblock::check_layout`].
    fn raid10_sectors(&self) -> u64 {
        let (Some(word), chunk) = (Raid10Word::new(self.layout), u64::from(self.chunk_sectors))
        else {
            return 0;
        };
        let rows = self.size_sectors.checked_div(chunk).unwrap_or(0) / u64::from(word.far);
        let strips = rows.saturating_mul(self.raid_disks.into()) / u64::from(word.near);
        strips.saturating_mul(chunk)
    }
}

/// Members that an array of this level and layout has at least.
pub(super) fn members_min(level: Level, layout: u32) -> u32 {
    match level {
        Level::Linear | Level::Raid0 | Level::Raid1 => 1,
        Level::Raid4 | Level::Raid5 => 2,
        Level::Raid6 => 4,
        Level::Raid10 => Raid10Word::new(layout).map_or(2, Raid10Word::copies).max(2),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::md::tests::sample;

    fn of(level: Level, layout: u32, raid_disks: u32) -> Superblock {
        Superblock { level, layout, raid_disks, chunk_sectors: 128, ..sample() }
    }

    #[test]
    fn names_lead_to_the_word_and_back() {
        for (level, name, word, shown) in [
            (Level::Raid5, "ls", 2, "left-symmetric"),
            (Level::Raid5, "left-asymmetric", 0, "left-asymmetric"),
            (Level::Raid6, "parity-last", 5, "parity-last"),
            (Level::Raid6, "ddf-N-restart", 9, "ddf-N-restart"),
            (Level::Raid6, "right-symmetric-6", 19, "right-symmetric-6"),
            (Level::Raid10, "n2", 0x102, "near=2"),
            (Level::Raid10, "f3", 0x301, "far=3"),
            (Level::Raid10, "o2", 0x10201, "offset=2"),
            (Level::Raid0, "alternate", 2, "alternate"),
        ] {
            assert_eq!(layout_by_name(level, name), Some(word), "{name}");
            assert_eq!(layout_name(level, word).as_deref(), Some(shown));
        }
        for (level, name) in [
            (Level::Raid5, "ddf-N-restart"),
            (Level::Raid5, ""),
            (Level::Raid10, "n1"),
            (Level::Raid10, "n"),
            (Level::Raid10, ""),
            (Level::Raid10, "é2"),
            (Level::Raid10, "n999"),
            (Level::Raid1, "ls"),
        ] {
            assert_eq!(layout_by_name(level, name), None, "{name}");
        }
        assert_eq!(layout_name(Level::Raid10, 0x202).as_deref(), Some("near=2, far=2"));
        assert_eq!(layout_name(Level::Raid10, 0x40201).unwrap(), "far=2, far-set variant 2");
    }

    #[test]
    fn what_a_level_does_not_have_is_named() {
        let text = |superblock: Superblock| superblock.check_layout().unwrap_err().to_string();
        assert!(text(of(Level::Raid5, 6, 4)).starts_with("raid5 has no layout 0x6; mdof knows 0"));
        assert!(text(of(Level::Raid6, 11, 4)).starts_with("raid6 has no layout 0xb"));
        assert!(text(of(Level::Raid10, 0x80102, 4)).starts_with("raid10 has no layout 0x80102"));
        assert!(text(of(Level::Raid10, 0x101, 4)).starts_with("raid10 has no layout 0x101"));
        assert!(text(of(Level::Raid10, 0x103, 2)).contains("takes at least 3 members, not 2"));
        assert!(text(of(Level::Raid6, 2, 3)).contains("takes at least 4 members, not 3"));
        let odd = Superblock { chunk_sectors: 24, ..of(Level::Raid5, 2, 3) };
        assert!(text(odd).starts_with("raid5 cannot have chunks of 24 sectors"));
        let mut raid0 = of(Level::Raid0, 7, 2);
        assert_eq!((raid0.check_layout(), raid0.layout_word()), (Ok(()), 0), "no feature, no word");
        raid0.features |= Features::RAID0_LAYOUT;
        assert!(text(raid0).starts_with("raid0 has no layout 0x7"));
    }

    #[test]
    fn bitmaps_of_raid10_cover_the_array() {
        let sized = |layout, disks, size_sectors| {
            Superblock { size_sectors, ..of(Level::Raid10, layout, disks) }.sync_size_sectors()
        };
        assert_eq!(sized(0x102, 4, 63_488), 2 * 63_488);
        assert_eq!(sized(0x102, 3, 63_488), 95_232);
        assert_eq!(sized(0x201, 3, 128 * 7 + 5), 128 * 9);
        assert_eq!(sized(0x102, 4, u64::MAX), u64::MAX, "saturates, never wraps");
        let none = Superblock { chunk_sectors: 0, ..of(Level::Raid10, 0x102, 4) };
        assert_eq!(none.sync_size_sectors(), 0);
        assert_eq!(of(Level::Raid0, 1, 3).sync_size_sectors(), 0);
        assert_eq!(of(Level::Raid6, 2, 4).sync_size_sectors(), sample().size_sectors);
    }
}

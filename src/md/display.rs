//! A superblock as an operator wants to see it: what `mdof examine` prints.

use core::fmt;

use super::types::{Features, Role};
use super::{BitmapSuperblock, BitmapVersion, SECTOR_BYTES, Superblock, format_uuid, layout_name};

/// Prints a member's superblock and, if it has one, its bitmap head.
#[derive(Debug, Clone, Copy)]
pub struct Examine<'a> {
    /// The superblock.
    pub superblock: &'a Superblock,
    /// The bitmap head.
    pub bitmap: Option<&'a BitmapSuperblock>,
}

impl Examine<'_> {
    /// One letter a slot as mdadm's "Array State": `A` active, `.` missing.
    pub fn array_state(&self) -> String {
        let slots = self.superblock.raid_disks;
        let filled = |slot: u32| {
            let roles = &self.superblock.roles;
            roles.iter().any(|role| matches!(role, Role::Active(s) if u32::from(*s) == slot))
        };
        (0..slots).map(|slot| if filled(slot) { 'A' } else { '.' }).collect()
    }

    /// "clean", or why not.
    pub fn state(&self) -> String {
        let superblock = self.superblock;
        let mut state = match superblock.resync_offset_sectors {
            _ if superblock.is_clean() => "clean".to_owned(),
            0 => "active (in use, or not stopped cleanly)".to_owned(),
            sectors => format!("resync reached sector {sectors}"),
        };
        if superblock.features.contains(Features::RECOVERY_OFFSET) {
            let done = superblock.recovery_offset_sectors;
            state.push_str(&format!(", rebuilding: {done} sectors done"));
        }
        state
    }

    fn role(&self) -> String {
        match self.superblock.own_role() {
            Role::Active(slot) => format!("active device {slot}"),
            Role::Spare => "spare".to_owned(),
            Role::Faulty => "faulty".to_owned(),
            Role::Journal => "journal".to_owned(),
        }
    }

    fn bitmap_line(&self, bitmap: &BitmapSuperblock) -> String {
        let kind = match bitmap.version {
            BitmapVersion::Classic => "classic",
            BitmapVersion::Lockless => "lockless",
        };
        let chunks = match bitmap.chunk_sectors() {
            None => "not initialised".to_owned(),
            Some(chunk) => {
                let size = size_text(u64::from(chunk));
                format!("{} chunks of {size}", bitmap.chunk_count())
            }
        };
        let stale = if bitmap.is_stale(self.superblock.events) { ", STALE" } else { "" };
        format!("{kind}, {chunks}, events {}{stale}", bitmap.events)
    }
}

impl fmt::Display for Examine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let superblock = self.superblock;
        let mut line = |name: &str, value: String| writeln!(f, "{name:>15} : {value}");
        line("Version", superblock.minor_version().name().to_owned())?;
        line("Array UUID", superblock.set_uuid_text())?;
        // The name comes from the disk: no control character may reach the terminal.
        line("Name", superblock.name().escape_debug().to_string())?;
        line("Raid Level", superblock.level.name().to_owned())?;
        if let Some(layout) = layout_name(superblock.level, superblock.layout_word()) {
            line("Layout", layout)?;
        }
        if superblock.chunk_sectors > 0 {
            line("Chunk Size", size_text(superblock.chunk_sectors.into()))?;
        }
        line("Raid Devices", superblock.raid_disks.to_string())?;
        line("Used Dev Size", size_text(superblock.size_sectors))?;
        line("Data Offset", format!("{} sectors", superblock.data_offset_sectors))?;
        line("Features", superblock.features.names())?;
        line("State", self.state())?;
        line("Device UUID", format_uuid(&superblock.device_uuid))?;
        line("Events", superblock.events.to_string())?;
        line("Device Role", self.role())?;
        line("Array State", self.array_state())?;
        line("Bitmap", self.bitmap.map_or("none".to_owned(), |bitmap| self.bitmap_line(bitmap)))
    }
}

/// Sectors, and the same in the largest unit of 1024 that leaves a number of 1 or more.
fn size_text(sectors: u64) -> String {
    let bytes = u128::from(sectors) * u128::from(SECTOR_BYTES);
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB"];
    let mut index = 0;
    while index + 1 < units.len() && bytes >> (10 * (index + 1)) > 0 {
        index += 1;
    }
    let hundredths = (bytes * 100) >> (10 * index);
    let (whole, part) = (hundredths / 100, hundredths % 100);
    format!("{sectors} sectors ({whole}.{part:02} {})", units[index])
}

//! Small values of the format: features, roles, levels, times, uuids.

use bitflags::bitflags;

bitflags! {
    /// `feature_map` of a superblock (md_p.h, `MD_FEATURE_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Features: u32 {
        /// An internal bitmap exists at `bitmap_offset`.
        const BITMAP_OFFSET = 1;
        /// This member is being rebuilt; `recovery_offset` sectors are done.
        const RECOVERY_OFFSET = 1 << 1;
        /// A reshape is under way.
        const RESHAPE_ACTIVE = 1 << 2;
        /// The bad-block log of this member is not empty.
        const BAD_BLOCKS = 1 << 3;
        /// This member is the hot replacement of the member with the same role.
        const REPLACEMENT = 1 << 4;
        /// The reshape runs from the end to the start.
        const RESHAPE_BACKWARDS = 1 << 5;
        /// The reshape moves `data_offset`.
        const NEW_OFFSET = 1 << 6;
        /// The rebuild of this member is guided by the bitmap.
        const RECOVERY_BITMAP = 1 << 7;
        /// The array is shared by a cluster of hosts.
        const CLUSTERED = 1 << 8;
        /// The array has a write journal.
        const JOURNAL = 1 << 9;
        /// The array has a partial parity log.
        const PPL = 1 << 10;
        /// The partial parity log holds several logs.
        const MULTIPLE_PPLS = 1 << 11;
        /// The layout word of a RAID0 array is meaningful.
        const RAID0_LAYOUT = 1 << 12;
    }
}

impl Features {
    /// The names of the bits that are set, joined by `|`, as errors and reports print them.
    pub fn names(self) -> String {
        let names: Vec<_> = self.iter_names().map(|(name, _)| name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join("|") }
    }
}

bitflags! {
    /// `devflags` of a member. Unknown bits are kept as they are: md ignores them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct DevFlags: u8 {
        /// Read from this member only when no other can serve.
        const WRITE_MOSTLY = 1;
        /// Fail requests to this member early.
        const FAILFAST = 1 << 1;
        // md keeps whatever else is there.
        const _ = !0;
    }
}

/// Part that a member plays in its array, one entry of the role table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Fills this slot.
    Active(u16),
    /// Waits to fill a slot; also marks an unused entry of the table.
    Spare,
    /// Failed and still attached when the superblock was written.
    Faulty,
    /// Holds the write journal.
    Journal,
}

impl Role {
    /// Largest slot number md allows (md_p.h, `MD_DISK_ROLE_MAX`).
    pub const SLOT_MAX: u16 = 0xfeff;

    pub(super) fn from_raw(raw: u16) -> Option<Role> {
        match raw {
            0xffff => Some(Role::Spare),
            0xfffe => Some(Role::Faulty),
            0xfffd => Some(Role::Journal),
            slot if slot <= Role::SLOT_MAX => Some(Role::Active(slot)),
            _ => None,
        }
    }

    pub(super) fn to_raw(self) -> u16 {
        match self {
            Role::Spare => 0xffff,
            Role::Faulty => 0xfffe,
            Role::Journal => 0xfffd,
            Role::Active(slot) => {
                assert!(slot <= Role::SLOT_MAX, "slot {slot} is not a role md can store");
                slot
            }
        }
    }
}

/// RAID level (md_p.h, `level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Members one after another.
    Linear,
    /// Stripes without redundancy.
    Raid0,
    /// Mirrors.
    Raid1,
    /// Stripes, parity on one member.
    Raid4,
    /// Stripes, parity rotating.
    Raid5,
    /// Stripes, two parities.
    Raid6,
    /// Stripes of mirrors.
    Raid10,
}

impl Level {
    /// The level of md's number.
    #[must_use]
    pub fn from_raw(raw: i32) -> Option<Level> {
        Some(match raw {
            -1 => Level::Linear,
            0 => Level::Raid0,
            1 => Level::Raid1,
            4 => Level::Raid4,
            5 => Level::Raid5,
            6 => Level::Raid6,
            10 => Level::Raid10,
            _ => return None,
        })
    }

    /// The number md stores.
    pub fn number(self) -> i32 {
        match self {
            Level::Linear => -1,
            Level::Raid0 => 0,
            Level::Raid1 => 1,
            Level::Raid4 => 4,
            Level::Raid5 => 5,
            Level::Raid6 => 6,
            Level::Raid10 => 10,
        }
    }

    /// The name mdadm prints, such as "raid1".
    pub fn name(self) -> &'static str {
        match self {
            Level::Linear => "linear",
            Level::Raid0 => "raid0",
            Level::Raid1 => "raid1",
            Level::Raid4 => "raid4",
            Level::Raid5 => "raid5",
            Level::Raid6 => "raid6",
            Level::Raid10 => "raid10",
        }
    }
}

/// Where a 1.x superblock lies; nothing else tells the minor versions apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinorVersion {
    /// 1.0: 8 to 12 KiB before the end of the member.
    V1_0,
    /// 1.1: sector 0.
    V1_1,
    /// 1.2: sector 8.
    V1_2,
}

impl MinorVersion {
    /// The version that a superblock at `sector` has.
    pub fn at_sector(sector: u64) -> MinorVersion {
        match sector {
            0 => MinorVersion::V1_1,
            8 => MinorVersion::V1_2,
            _ => MinorVersion::V1_0,
        }
    }

    /// The version as mdadm prints it.
    pub fn name(self) -> &'static str {
        match self {
            MinorVersion::V1_0 => "1.0",
            MinorVersion::V1_1 => "1.1",
            MinorVersion::V1_2 => "1.2",
        }
    }
}

/// A time as superblocks hold it: seconds in the low 40 bits, microseconds in the upper 24.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp(u64);

impl Timestamp {
    const SECONDS_MASK: u64 = (1 << 40) - 1;

    /// Wall time in seconds since 1970 and microseconds (below 1,000,000) of it.
    pub fn from_unix(seconds: u64, microseconds: u32) -> Timestamp {
        assert!(microseconds < 1_000_000, "{microseconds} microseconds are more than a second");
        Timestamp(seconds & Self::SECONDS_MASK | u64::from(microseconds) << 40)
    }

    pub(super) fn from_raw(raw: u64) -> Timestamp {
        Timestamp(raw)
    }

    pub(super) fn to_raw(self) -> u64 {
        self.0
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0 & Self::SECONDS_MASK
    }

    /// Microseconds of the second; not below a million in a damaged or hostile superblock.
    pub fn microseconds(self) -> u64 {
        self.0 >> 40
    }
}

/// Where the bad-block log of a member lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BadBlockLog {
    /// Entries count in units of 2 to this power sectors.
    pub shift: u8,
    /// Sectors set aside for the log.
    pub size_sectors: u16,
    /// Sectors from the superblock to the log; 0 when the member has none.
    pub offset_sectors: i32,
}

/// A uuid as mdadm prints it: `e055969a:1c2d3e4f:…`.
pub fn format_uuid(uuid: &[u8; 16]) -> String {
    let mut out = String::with_capacity(35);
    for (index, byte) in uuid.iter().enumerate() {
        if index != 0 && index % 4 == 0 {
            out.push(':');
        }
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

//! Where the log lies on a member, and how its room is divided.

use super::{LOG_FRAGMENTS_MAX, LOG_HEAD_BYTES, LOG_SLOT_BYTES_MAX, LOG_SLOT_BYTES_MIN, LogError};
use crate::md::{BitmapSuperblock, MinorVersion, PplPlace, SECTOR_BYTES, Superblock};

/// The log takes no more than this of a member.
const AREA_BYTES_MAX: u64 = 32 << 20;

/// Slots that a ring should have at least before slots are made larger, or rings more.
const SLOTS_WANTED: u64 = 32;

/// Slots of a ring beside those that one write takes: for a record with nothing but the floor, and
/// for the one that has it.
const SLOTS_SPARE: u32 = 2;

/// Rings at most: one a core.
const RINGS_MAX: u16 = 256;

/// Room on a member that neither md nor mdof use for anything else: what lies before the data,
/// behind superblock, bitmap, bad-block log and partial parity log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRoom {
    /// Bytes before `data_offset`.
    pub bytes: u64,
}

impl LogRoom {
    /// Of a member with this superblock and, if it has one on itself, this bitmap.
    #[must_use]
    pub fn of(superblock: &Superblock, bitmap: Option<&BitmapSuperblock>) -> LogRoom {
        let own = superblock;
        let data = own.data_offset_sectors;
        if own.minor_version() == MinorVersion::V1_0 {
            return LogRoom { bytes: 0 };
        }
        // The superblock's own 4 KiB.
        let mut used = own.super_offset_sectors + 8;
        if let Some(sector) = own.bitmap_sector().filter(|&sector| sector < data) {
            // Of a bitmap that can't be told, all.
            let sectors = bitmap.map_or(data, |it| u64::from(it.sectors_reserved));
            // And the room for a bad-block log behind it.
            used = used.max(sector.saturating_add(sectors).saturating_add(8));
        }
        let bad = own.super_offset_sectors.checked_add_signed(own.bblog.offset_sectors.into());
        if let Some(sector) = bad.filter(|_| own.bblog.offset_sectors != 0 && bad < Some(data)) {
            used = used.max(sector.saturating_add(own.bblog.size_sectors.into()));
        }
        match PplPlace::of(own) {
            Ok(Some(place)) if place.sector < data => {
                used = used.max(place.sector + u64::from(place.sectors));
            }
            Ok(_) => {}
            Err(_) => used = data,
        }
        let pages = data.saturating_sub(used) * SECTOR_BYTES / LOG_HEAD_BYTES as u64;
        // The head must begin at a page of the member, as everything else then does.
        let is_aligned = data.is_multiple_of(LOG_HEAD_BYTES as u64 / SECTOR_BYTES);
        LogRoom { bytes: if is_aligned { pages * LOG_HEAD_BYTES as u64 } else { 0 } }
    }
}

/// How the room is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLayout {
    /// Rings: each row has one.
    pub rings: u16,
    /// Slots of a ring.
    pub slots: u32,
    /// Bytes of a slot.
    pub slot_bytes: u32,
}

impl LogLayout {
    /// The best division of the room for so many cores. `write_bytes` is the most that one write
    /// of a host makes of data and parity. `None`: there is too little.
    #[must_use]
    pub fn choose(room: LogRoom, cores: u16, write_bytes: u64) -> Option<LogLayout> {
        let room = room.bytes.min(AREA_BYTES_MAX).checked_sub(LOG_HEAD_BYTES as u64)?;
        let sizes = || {
            let mut next = LOG_SLOT_BYTES_MAX;
            std::iter::from_fn(move || {
                let size = (next >= LOG_SLOT_BYTES_MIN).then_some(next)?;
                next /= 2;
                Some(size)
            })
        };
        let of_size = |slot_bytes: u32| {
            let slots = room / u64::from(slot_bytes);
            let least = Self::slots_for(write_bytes, slot_bytes) + SLOTS_SPARE;
            let rings = (slots / u64::from(least)).min(u64::from(cores.min(RINGS_MAX)));
            let rings = u16::try_from(rings).expect("at most RINGS_MAX");
            let per_ring = slots.checked_div(u64::from(rings))?;
            let slots = u32::try_from(per_ring).expect("a slot has some KiB of 32 MiB");
            Some(LogLayout { rings, slots, slot_bytes })
        };
        let is_ample = |it: &LogLayout| it.rings == cores && u64::from(it.slots) >= SLOTS_WANTED;
        let best = sizes().filter_map(of_size).find(is_ample);
        best.or_else(|| sizes().filter_map(of_size).max_by_key(|it| (it.rings, it.slots)))
    }

    /// Slots that so many bytes take at most, in few pieces.
    fn slots_for(bytes: u64, slot_bytes: u32) -> u32 {
        let payload = u64::from(slot_bytes) - LOG_HEAD_BYTES as u64;
        u32::try_from(bytes / payload + 1).unwrap_or(u32::MAX - SLOTS_SPARE)
    }

    /// Bytes of payload that a slot has.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.slot_bytes as usize - LOG_HEAD_BYTES
    }

    /// Records that so much payload in so many fragments takes at most, however it is cut.
    #[must_use]
    pub fn records_for(&self, bytes: u64, fragments: u64) -> u64 {
        let full = bytes / self.payload_bytes() as u64;
        // A fragment that is cut counts once more.
        1 + full + (fragments + full) / LOG_FRAGMENTS_MAX as u64
    }

    /// Records that may be taken at a time.
    #[must_use]
    pub fn records_max(&self) -> u32 {
        self.slots - SLOTS_SPARE
    }

    /// Bytes of the whole log.
    #[must_use]
    pub fn area_bytes(&self) -> u64 {
        let slots = u64::from(self.rings) * u64::from(self.slots);
        LOG_HEAD_BYTES as u64 + slots * u64::from(self.slot_bytes)
    }

    /// How far before the data a slot begins.
    #[must_use]
    pub fn slot_before_data_bytes(&self, ring: u16, slot: u32) -> u64 {
        assert!(ring < self.rings && slot < self.slots, "there is no such slot");
        let index = u64::from(ring) * u64::from(self.slots) + u64::from(slot);
        LOG_HEAD_BYTES as u64 + (index + 1) * u64::from(self.slot_bytes)
    }

    /// Checks what was read.
    pub(super) fn check(&self) -> Result<(), LogError> {
        let bad = |field, value| Err(LogError::Field { field, value });
        let size = self.slot_bytes;
        if !(LOG_SLOT_BYTES_MIN..=LOG_SLOT_BYTES_MAX).contains(&size) || !size.is_power_of_two() {
            return bad("slot size", size.into());
        }
        if !(1..=RINGS_MAX).contains(&self.rings) {
            return bad("number of rings", self.rings.into());
        }
        if self.slots <= SLOTS_SPARE || self.area_bytes() > AREA_BYTES_MAX {
            return bad("number of slots", self.slots.into());
        }
        Ok(())
    }
}

//! raid0 with md's zones, and linear.
//!
//! Members of unequal size are striped over as long as they last: the first zone is as high as the
//! smallest member and as wide as all of them, the next reaches up to the second smallest, and so
//! on. What was striped first differed between kernels, hence two layouts: the original one finds
//! the member by the number of the strip in the array, the alternate one by its number in the zone.

use super::copies::Legs;
use super::{Content, GeometryError, Place, Shape, slot_from};
use crate::limits::MEMBERS_MAX;

/// Layout words of raid0 (md_p.h, `RAID0_ORIG_LAYOUT`, `RAID0_ALT_MULTIZONE_LAYOUT`).
const ORIGINAL: u32 = 1;
const ALTERNATE: u32 = 2;

/// raid0.
#[derive(Debug, Clone)]
pub(super) struct Striped {
    strip_blocks: u64,
    alternate: bool,
    zones: Box<[Zone]>,
    member_blocks: Box<[u64]>,
}

/// Rows that are striped over the same members.
#[derive(Debug, Clone)]
struct Zone {
    /// First block of the array in it, and the first behind it.
    lba: u64,
    end: u64,
    /// Where its rows start on each of its members.
    member_lba: u64,
    /// Its members.
    width: u8,
    slots: [u8; MEMBERS_MAX],
}

impl Striped {
    pub(super) fn new(shape: &Shape<'_>) -> Result<Striped, GeometryError> {
        shape.slots("raid0", 1)?;
        let strip_blocks = shape.strip_of_blocks("raid0")?;
        let member_blocks = shape.member_blocks(strip_blocks)?;
        let member_blocks = &member_blocks[..shape.member_sectors.len()];
        let zones = zones(member_blocks);
        let refused = |why| Err(GeometryError::Layout { level: "raid0", found: shape.layout, why });
        if shape.layout > ALTERNATE {
            return refused("it is 1 (original) or 2 (alternate)");
        }
        // One member wide, both layouts are the same; a third zone is narrower than the second.
        if shape.layout == 0 && zones.get(1).is_some_and(|zone| zone.width > 1) {
            return refused(
                "members of unequal size need 1 (original) or 2 (alternate), and only \
                            who made the array knows which; mdadm --update=layout-original sets it",
            );
        }
        let alternate = shape.layout == ALTERNATE;
        debug_assert!(alternate || shape.layout <= ORIGINAL);
        Ok(Striped { strip_blocks, alternate, zones, member_blocks: member_blocks.into() })
    }

    pub(super) fn blocks(&self) -> u64 {
        self.zones.last().map_or(0, |zone| zone.end)
    }

    pub(super) fn strip_blocks(&self) -> u64 {
        self.strip_blocks
    }

    pub(super) fn member_blocks(&self, slot: u8) -> u64 {
        self.member_blocks[usize::from(slot)]
    }

    pub(super) fn legs(&self, lba: u64) -> Legs {
        let zone = &self.zones[self.zones.partition_point(|zone| zone.end <= lba)];
        let (strip, offset) = (lba / self.strip_blocks, lba % self.strip_blocks);
        let (width, in_zone) = (u64::from(zone.width), strip - zone.lba / self.strip_blocks);
        let position = if self.alternate { in_zone } else { strip } % width;
        let slot = zone.slots[usize::from(slot_from(position))];
        let member_lba = zone.member_lba + in_zone / width * self.strip_blocks + offset;
        Legs::one(slot, member_lba, self.strip_blocks - offset)
    }

    pub(super) fn run_blocks(&self, lba: u64) -> u64 {
        self.strip_blocks - lba % self.strip_blocks
    }

    pub(super) fn place(&self, slot: u8, member_lba: u64) -> Place {
        if member_lba >= self.member_blocks(slot) {
            return Place::UNUSED;
        }
        let above = self.zones.partition_point(|zone| zone.member_lba <= member_lba);
        let zone = &self.zones[above - 1];
        let (in_zone, width) = (member_lba - zone.member_lba, u64::from(zone.width));
        let (row, offset) = (in_zone / self.strip_blocks, in_zone % self.strip_blocks);
        let slots = &zone.slots[..usize::from(zone.width)];
        let position = slots.iter().position(|&other| other == slot);
        let position = position.expect("a member reaches as high as its size") as u64;
        let first = zone.lba / self.strip_blocks + row * width;
        let turn = if self.alternate { 0 } else { first % width };
        let strip = first + (position + width - turn) % width;
        let lba = strip * self.strip_blocks + offset;
        Place { content: Content::Data { lba, copy: 0 }, blocks: self.strip_blocks - offset }
    }
}

/// The zones of members of these sizes, all at least a strip.
fn zones(member_blocks: &[u64]) -> Box<[Zone]> {
    let mut zones = Vec::new();
    let (mut lba, mut member_lba) = (0, 0);
    while let Some(&top) = member_blocks.iter().filter(|&&blocks| blocks > member_lba).min() {
        let mut zone = Zone { lba, end: lba, member_lba, width: 0, slots: [0; MEMBERS_MAX] };
        for (slot, _) in member_blocks.iter().enumerate().filter(|&(_, &blocks)| blocks >= top) {
            zone.slots[usize::from(zone.width)] = slot_from(slot as u64);
            zone.width += 1;
        }
        zone.end += (top - member_lba) * u64::from(zone.width);
        (lba, member_lba) = (zone.end, top);
        zones.push(zone);
    }
    zones.into_boxed_slice()
}

/// linear: one member after another.
#[derive(Debug, Clone)]
pub(super) struct Concat {
    /// Of each slot the first block of the array behind its member.
    ends: Box<[u64]>,
}

impl Concat {
    pub(super) fn new(shape: &Shape<'_>) -> Result<Concat, GeometryError> {
        shape.slots("linear", 1)?;
        // A chunk is not needed; where one is given, members are rounded down to it.
        let unit = if shape.chunk_sectors == 0 { 1 } else { shape.strip_of_blocks("linear")? };
        let member_blocks = shape.member_blocks(unit)?;
        let sizes = &member_blocks[..shape.member_sectors.len()];
        let mut end = 0;
        let ends = sizes.iter().map(|blocks| {
            end += blocks;
            end
        });
        Ok(Concat { ends: ends.collect() })
    }

    pub(super) fn blocks(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn start(&self, slot: usize) -> u64 {
        slot.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    pub(super) fn member_blocks(&self, slot: u8) -> u64 {
        let slot = usize::from(slot);
        self.ends[slot] - self.start(slot)
    }

    pub(super) fn legs(&self, lba: u64) -> Legs {
        let slot = self.ends.partition_point(|&end| end <= lba);
        Legs::one(slot_from(slot as u64), lba - self.start(slot), self.ends[slot] - lba)
    }

    pub(super) fn place(&self, slot: u8, member_lba: u64) -> Place {
        let blocks = self.member_blocks(slot);
        if member_lba >= blocks {
            return Place::UNUSED;
        }
        let lba = self.start(usize::from(slot)) + member_lba;
        Place { content: Content::Data { lba, copy: 0 }, blocks: blocks - member_lba }
    }
}

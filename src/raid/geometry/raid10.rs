//! raid10: near, far and offset copies in any number.
//!
//! The strips of the array, each `near` times in a row, fill the members row by row. With far
//! copies all that is repeated further down (far), or every row right below itself (offset), each
//! time on other members: by `near` members further on within a set of members.
//!
//! ```text
//! near 2, 3 members     far 2, 3 members      offset 2, 3 members
//!   A A B                 A B C                 A B C
//!   B C C                 D E F                 C A B
//!   D D E                 . . .                 D E F
//!   E F F                 C A B                 F D E
//!                         F D E
//! ```

use super::copies::Legs;
use super::{Content, GeometryError, Place, Shape, SlotMask, slot_from};
use crate::limits::MEMBERS_MAX;

/// Geometry of raid10.
#[derive(Debug, Clone)]
pub(super) struct Raid10 {
    strip_blocks: u64,
    slots: u64,
    near: u64,
    far: u64,
    /// Far copies lie in the rows below instead of further down.
    offset: bool,
    /// Rows of one of the far parts of a member.
    part_rows: u64,
    /// Strips of the array.
    strips: u64,
    /// The member that has the next far copy of what a member has, and the way back.
    next: [u8; MEMBERS_MAX],
    back: [u8; MEMBERS_MAX],
    /// Members of strip 0, 1, 2 … until they repeat or the array ends.
    groups: [SlotMask; MEMBERS_MAX],
    group_count: usize,
}

/// The parts of md's layout word (raid10.c, `setup_geo`).
struct Word {
    near: u8,
    far: u8,
    offset: bool,
    /// Members of a far set.
    set: u8,
}

impl Word {
    fn new(layout: u32, slots: u8) -> Result<Word, GeometryError> {
        let refused = |why| Err(GeometryError::Layout { level: "raid10", found: layout, why });
        let [near, far, flags, unknown] = layout.to_le_bytes();
        if unknown != 0 || flags >> 3 != 0 {
            return refused("bits 19 and up mean nothing");
        }
        let copies = u16::from(near) * u16::from(far);
        if copies < 2 {
            return refused("it stands for fewer than 2 copies");
        }
        if copies > u16::from(slots) {
            return refused("it stands for more copies than there are members");
        }
        let set = match flags >> 1 {
            0 => slots,
            1 => slots / far,
            2 => near * far,
            _ => return refused("far sets are numbered 0 to 2"),
        };
        let offset = flags & 1 != 0;
        if offset && near > 1 && !slots.is_multiple_of(near) {
            return refused("near and offset copies together would overwrite each other");
        }
        Ok(Word { near, far, offset, set })
    }

    /// The member with the next far copy of what member `slot` of `slots` has.
    fn next(&self, slot: u8, slots: u8) -> u8 {
        let target = slot + self.near;
        // What does not make a full set joins the last one.
        let last = (slots / self.set - 1) * self.set;
        if !slots.is_multiple_of(self.set) && target > last {
            let size = self.set + slots % self.set;
            last + (target - last) % size
        } else {
            slot / self.set * self.set + target % self.set
        }
    }
}

impl Raid10 {
    pub(super) fn new(shape: &Shape<'_>) -> Result<Raid10, GeometryError> {
        let slots = shape.slots("raid10", 2)?;
        let word = Word::new(shape.layout, slots)?;
        let strip_blocks = shape.strip_blocks("raid10")?;
        let (near, far) = (u64::from(word.near), u64::from(word.far));
        let part_rows = shape.size_blocks()? / strip_blocks / far;
        let strips = part_rows * u64::from(slots) / near;
        if strips == 0 {
            let found_sectors = shape.size_sectors;
            return Err(GeometryError::Size { found_sectors, unit: "chunk of each copy" });
        }
        let mut raid10 = Raid10 {
            strip_blocks,
            slots: slots.into(),
            near,
            far,
            offset: word.offset,
            part_rows,
            strips,
            next: [0; MEMBERS_MAX],
            back: [0; MEMBERS_MAX],
            groups: [0; MEMBERS_MAX],
            group_count: 0,
        };
        let clash = GeometryError::Layout {
            level: "raid10",
            found: shape.layout,
            why: "with this number of members it puts two blocks at one place",
        };
        raid10.link(&word, slots).ok_or(clash)?;
        raid10.collect_groups().ok_or(clash)?;
        Ok(raid10)
    }

    /// Fills `next` and `back`; `None` if two members have the same next one.
    fn link(&mut self, word: &Word, slots: u8) -> Option<()> {
        let mut seen: SlotMask = 0;
        for slot in 0..slots {
            let next = word.next(slot, slots);
            if next >= slots || seen & (1 << next) != 0 {
                return None;
            }
            seen |= 1 << next;
            self.next[usize::from(slot)] = next;
            self.back[usize::from(next)] = slot;
        }
        Some(())
    }

    /// Fills `groups`; `None` if two copies of a strip are on one member.
    fn collect_groups(&mut self) -> Option<()> {
        for strip in 0..self.strips {
            if strip > 0 && (strip * self.near).is_multiple_of(self.slots) {
                break;
            }
            let group = self.legs(strip * self.strip_blocks).mask();
            if u64::from(group.count_ones()) != self.near * self.far {
                return None;
            }
            self.groups[self.group_count] = group;
            self.group_count += 1;
        }
        Some(())
    }

    pub(super) fn blocks(&self) -> u64 {
        self.strips * self.strip_blocks
    }

    pub(super) fn strip_blocks(&self) -> u64 {
        self.strip_blocks
    }

    /// As md tells it: what is written before a member is used twice, where that is a whole number.
    pub(super) fn full_stripe_blocks(&self) -> u64 {
        let whole = self.slots.is_multiple_of(self.near);
        self.strip_blocks * if whole { self.slots / self.near } else { self.slots }
    }

    pub(super) fn member_blocks(&self) -> u64 {
        self.part_rows * self.far * self.strip_blocks
    }

    pub(super) fn copies(&self) -> u8 {
        slot_from(self.near * self.far)
    }

    /// The sets of members that hold the same strips.
    pub(super) fn groups(&self) -> &[SlotMask] {
        &self.groups[..self.group_count]
    }

    pub(super) fn legs(&self, lba: u64) -> Legs {
        let (strip, offset) = (lba / self.strip_blocks, lba % self.strip_blocks);
        let first = strip * self.near;
        let mut legs = Legs::new(self.strip_blocks - offset);
        for position in first..first + self.near {
            let (row, mut slot) = (position / self.slots, slot_from(position % self.slots));
            for part in 0..self.far {
                let row =
                    if self.offset { row * self.far + part } else { part * self.part_rows + row };
                legs.push(slot, row * self.strip_blocks + offset);
                slot = self.next[usize::from(slot)];
            }
        }
        legs
    }

    pub(super) fn place(&self, slot: u8, member_lba: u64) -> Place {
        let (row, offset) = (member_lba / self.strip_blocks, member_lba % self.strip_blocks);
        if row >= self.part_rows * self.far {
            return Place::UNUSED;
        }
        let (part, row) = if self.offset {
            (row % self.far, row / self.far)
        } else {
            (row / self.part_rows, row % self.part_rows)
        };
        let origin = (0..part).fold(slot, |slot, _| self.back[usize::from(slot)]);
        let position = row * self.slots + u64::from(origin);
        let strip = position / self.near;
        let blocks = self.strip_blocks - offset;
        if strip >= self.strips {
            // The end of the last row; below it the next far part begins.
            return Place { content: Content::Unused, blocks };
        }
        let copy = slot_from(position % self.near * self.far + part);
        let lba = strip * self.strip_blocks + offset;
        Place { content: Content::Data { lba, copy }, blocks }
    }
}

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

use super::copies::{Leg, Legs};
use super::{Content, GeometryError, Place, Shape, SlotMask, slot_from};
use crate::limits::MEMBERS_MAX;

/// Geometry of raid10.
#[derive(Debug, Clone)]
pub(super) struct Raid10 {
    /// A strip has 2 to the power of this many blocks.
    strip_shift: u32,
    /// Far copies lie in the rows below instead of further down.
    offset: bool,
    /// Rows of one of the far parts of a member.
    part_rows: u64,
    /// Strips of the array.
    strips: u64,
    steps: Steps,
    /// By slot, members of the strips that have their first copy there; empty where no strip has.
    groups: Box<[SlotMask]>,
}

/// From one copy of a strip to the next.
#[derive(Debug, Clone, Copy)]
struct Steps {
    slots: u8,
    near: u8,
    far: u8,
    /// Members of a far set. What does not make a full set joins the last one.
    set: u8,
    /// On a member from one row of first copies to the next.
    row_step_blocks: u64,
    /// From a strip to its next far copy.
    far_step_blocks: u64,
}

impl Steps {
    fn copies(&self) -> u8 {
        self.near * self.far
    }

    /// The far set of a member: its first member, and how many it has.
    fn set_of(&self, slot: u8) -> (u8, u8) {
        let last = (self.slots / self.set - 1) * self.set;
        let start = slot / self.set * self.set;
        if start >= last { (last, self.slots - last) } else { (start, self.set) }
    }

    /// The member with the next far copy of what this one has.
    #[inline]
    fn next(&self, slot: u8) -> u8 {
        let target = slot + self.near;
        if self.set == self.slots {
            return if target < self.slots { target } else { target - self.slots };
        }
        let (start, size) = self.set_of(slot);
        start + (target - start) % size
    }

    /// The member with the near copy of which this one has the far copy of that number.
    fn origin(&self, slot: u8, part: u8) -> u8 {
        let (start, size) = self.set_of(slot);
        let back = part * self.near % size;
        start + (slot - start + size - back) % size
    }
}

/// How the legs of a run go on: far copies of one near copy, then the next near copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    steps: Steps,
    /// The near copy whose far copies are being told.
    home: Leg,
    part: u8,
}

impl Turn {
    pub(super) fn legs(&self) -> u8 {
        self.steps.copies()
    }

    #[inline]
    pub(super) fn after(&mut self, leg: Leg) -> Leg {
        let steps = &self.steps;
        self.part += 1;
        if self.part < steps.far {
            let member_lba = leg.member_lba + steps.far_step_blocks;
            return Leg { slot: steps.next(leg.slot), member_lba };
        }
        self.part = 0;
        self.home.slot += 1;
        if self.home.slot == steps.slots {
            self.home.slot = 0;
            self.home.member_lba += steps.row_step_blocks;
        }
        self.home
    }
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
        if offset && far > 1 && !slots.is_multiple_of(near) {
            return refused("near and offset copies together would overwrite each other");
        }
        Ok(Word { near, far, offset, set })
    }

    /// The member with the next far copy of what member `slot` has, as md computes it: from a set
    /// before the last one it can lead into that, where somebody else's copy is.
    fn next(&self, slot: u8, slots: u8) -> u8 {
        let target = slot + self.near;
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
        let far_step = if word.offset { 1 } else { part_rows };
        let steps = Steps {
            slots,
            near: word.near,
            far: word.far,
            set: word.set,
            row_step_blocks: strip_blocks * if word.offset { far } else { 1 },
            far_step_blocks: strip_blocks * far_step,
        };
        let clash = GeometryError::Layout {
            level: "raid10",
            found: shape.layout,
            why: "with this number of members it puts two blocks at one place",
        };
        let leaves_its_set = |slot| word.next(slot, slots) != steps.next(slot);
        if word.far > 1 && (0..slots).any(leaves_its_set) {
            return Err(clash);
        }
        let strip_shift = strip_blocks.trailing_zeros();
        let groups = [0; MEMBERS_MAX][..usize::from(slots)].into();
        let offset = word.offset;
        let mut raid10 = Raid10 { strip_shift, offset, part_rows, strips, steps, groups };
        raid10.collect_groups().ok_or(clash)?;
        Ok(raid10)
    }

    /// Fills `groups`; `None` if two copies of a strip are on one member.
    fn collect_groups(&mut self) -> Option<()> {
        // After as many strips as slots, if not sooner, they begin on the same members again.
        for strip in 0..self.strips.min(self.steps.slots.into()) {
            let (first, turn) = self.first_leg(strip << self.strip_shift);
            let legs = Legs::turning(first, turn, 0, 1);
            let group = legs.fold(0, |group: SlotMask, leg| group | 1 << leg.slot);
            if group.count_ones() != u32::from(self.copies()) {
                return None;
            }
            self.groups[usize::from(first.slot)] = group;
        }
        Some(())
    }

    pub(super) fn blocks(&self) -> u64 {
        self.strips << self.strip_shift
    }

    pub(super) fn strip_blocks(&self) -> u64 {
        1 << self.strip_shift
    }

    fn offset_in_strip(&self, lba: u64) -> u64 {
        lba & (self.strip_blocks() - 1)
    }

    /// As md tells it: what is written before a member is used twice, where that is a whole number.
    pub(super) fn full_stripe_blocks(&self) -> u64 {
        let Steps { slots, near, .. } = self.steps;
        let strips = if slots.is_multiple_of(near) { slots / near } else { slots };
        u64::from(strips) << self.strip_shift
    }

    pub(super) fn member_blocks(&self) -> u64 {
        (self.part_rows * u64::from(self.steps.far)) << self.strip_shift
    }

    pub(super) fn copies(&self) -> u8 {
        self.steps.copies()
    }

    /// The sets of members that hold the same strips.
    pub(super) fn groups(&self) -> impl Iterator<Item = SlotMask> {
        self.groups.iter().copied().filter(|&group| group != 0)
    }

    #[inline]
    pub(super) fn run_blocks(&self, lba: u64) -> u64 {
        self.strip_blocks() - self.offset_in_strip(lba)
    }

    /// Row and member of the first copy.
    #[inline]
    fn first_place(&self, lba: u64) -> (u64, u8) {
        let slots = u64::from(self.steps.slots);
        let position = (lba >> self.strip_shift) * u64::from(self.steps.near);
        (position / slots, slot_from(position % slots))
    }

    #[inline]
    pub(super) fn holders(&self, lba: u64) -> SlotMask {
        self.groups[usize::from(self.first_place(lba).1)]
    }

    #[inline]
    fn first_leg(&self, lba: u64) -> (Leg, Turn) {
        let (row, slot) = self.first_place(lba);
        let member_lba = row * self.steps.row_step_blocks + self.offset_in_strip(lba);
        let first = Leg { slot, member_lba };
        (first, Turn { steps: self.steps, home: first, part: 0 })
    }

    #[inline]
    pub(super) fn legs(&self, lba: u64) -> Legs {
        let (first, turn) = self.first_leg(lba);
        let mask = self.groups[usize::from(first.slot)];
        Legs::turning(first, turn, mask, self.run_blocks(lba))
    }

    pub(super) fn place(&self, slot: u8, member_lba: u64) -> Place {
        let (row, offset) = (member_lba >> self.strip_shift, self.offset_in_strip(member_lba));
        let (near, far) = (u64::from(self.steps.near), u64::from(self.steps.far));
        if row >= self.part_rows * far {
            return Place::UNUSED;
        }
        let (part, row) = if self.offset {
            (row % far, row / far)
        } else {
            (row / self.part_rows, row % self.part_rows)
        };
        let origin = self.steps.origin(slot, slot_from(part));
        let position = row * u64::from(self.steps.slots) + u64::from(origin);
        let strip = position / near;
        let blocks = self.strip_blocks() - offset;
        if strip >= self.strips {
            // The end of the last row; below it the next far part begins.
            return Place { content: Content::Unused, blocks };
        }
        let copy = slot_from(position % near * far + part);
        let lba = (strip << self.strip_shift) + offset;
        Place { content: Content::Data { lba, copy }, blocks }
    }
}

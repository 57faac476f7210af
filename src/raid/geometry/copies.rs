//! Levels that keep one or more whole copies of a run: raid0, linear, raid1, raid10.

use super::raid10::{Raid10, Turn};
use super::stripe::{Concat, Striped};
use super::{Content, GeometryError, Place, Shape, SlotMask, mask_below};

/// One of the places of a run: where its first block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leg {
    /// On which member.
    pub slot: u8,
    /// From where on.
    pub member_lba: u64,
}

/// Where a run of array blocks lies: the same number of blocks on each leg, each on another member.
/// As an iterator it gives the legs, at least one, in md's order: near copies one after another,
/// each followed by its far copies. They are computed one by one; a list of up to
/// [`crate::limits::MEMBERS_MAX`] of them would cost more than most requests need.
#[derive(Debug, Clone)]
pub struct Legs {
    /// Blocks from the array lba that was asked for to the end of its strip.
    pub blocks: u64,
    mask: SlotMask,
    /// Legs still to be given.
    left: u8,
    next: Leg,
    /// How the legs of a raid10 go on; with others it is by one slot.
    turn: Option<Turn>,
}

impl Legs {
    #[inline]
    fn all(slots: u8, lba: u64, blocks: u64) -> Legs {
        let next = Leg { slot: 0, member_lba: lba };
        Legs { blocks, mask: mask_below(slots), left: slots, next, turn: None }
    }

    #[inline]
    pub(super) fn one(slot: u8, member_lba: u64, blocks: u64) -> Legs {
        let next = Leg { slot, member_lba };
        Legs { blocks, mask: 1 << slot, left: 1, next, turn: None }
    }

    #[inline]
    pub(super) fn turning(first: Leg, turn: Turn, mask: SlotMask, blocks: u64) -> Legs {
        Legs { blocks, mask, left: turn.legs(), next: first, turn: Some(turn) }
    }

    /// The members that hold the run.
    #[must_use]
    pub fn mask(&self) -> SlotMask {
        self.mask
    }

    /// Where the run starts on the member in this slot, if that holds it and its leg has not been
    /// given yet.
    #[must_use]
    #[inline]
    pub fn on(mut self, slot: u8) -> Option<u64> {
        self.find(|leg| leg.slot == slot).map(|leg| leg.member_lba)
    }
}

impl Iterator for Legs {
    type Item = Leg;

    #[inline]
    fn next(&mut self) -> Option<Leg> {
        self.left = self.left.checked_sub(1)?;
        let leg = self.next;
        self.next = match &mut self.turn {
            Some(turn) => turn.after(leg),
            None => Leg { slot: leg.slot + 1, ..leg },
        };
        Some(leg)
    }
}

/// Geometry of raid0, linear, raid1 or raid10.
#[derive(Debug, Clone)]
pub struct Copies {
    slots: u8,
    blocks: u64,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// raid1: every member has everything at the same place.
    Mirror,
    /// raid0.
    Striped(Striped),
    /// linear.
    Concat(Concat),
    /// raid10.
    Raid10(Raid10),
}

impl Copies {
    pub(super) fn new(shape: &Shape<'_>) -> Result<Copies, GeometryError> {
        let (slots, kind) = match shape.level {
            -1 => (shape.slots("linear", 1)?, Kind::Concat(Concat::new(shape)?)),
            0 => (shape.slots("raid0", 1)?, Kind::Striped(Striped::new(shape)?)),
            10 => (shape.slots("raid10", 2)?, Kind::Raid10(Raid10::new(shape)?)),
            _ => (shape.slots("raid1", 1)?, Kind::Mirror),
        };
        let blocks = match &kind {
            Kind::Mirror => shape.size_blocks()?,
            Kind::Striped(striped) => striped.blocks(),
            Kind::Concat(concat) => concat.blocks(),
            Kind::Raid10(raid10) => raid10.blocks(),
        };
        if blocks == 0 {
            let found_sectors = shape.size_sectors;
            return Err(GeometryError::Size { found_sectors, unit: "logical block" });
        }
        Ok(Copies { slots, blocks, kind })
    }

    /// Size of the array in blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Slots of the array.
    #[must_use]
    pub fn slots(&self) -> u8 {
        self.slots
    }

    /// Every member holds everything at the same place (raid1).
    #[must_use]
    pub fn is_mirror(&self) -> bool {
        matches!(self.kind, Kind::Mirror)
    }

    /// More than one copy of everything.
    #[must_use]
    pub fn has_redundancy(&self) -> bool {
        match self.kind {
            Kind::Mirror | Kind::Raid10(_) => true,
            Kind::Striped(_) | Kind::Concat(_) => false,
        }
    }

    /// Legs that every run has.
    #[must_use]
    pub fn copies(&self) -> u8 {
        match &self.kind {
            Kind::Mirror => self.slots,
            Kind::Striped(_) | Kind::Concat(_) => 1,
            Kind::Raid10(raid10) => raid10.copies(),
        }
    }

    /// Where the run lies that starts at `lba` and goes to the end of its strip; with raid1 to the
    /// end of the array, with linear to the end of the member.
    #[must_use]
    #[inline]
    pub fn legs(&self, lba: u64) -> Legs {
        assert!(lba < self.blocks, "block {lba} is none of the array's {}", self.blocks);
        match &self.kind {
            Kind::Mirror => Legs::all(self.slots, lba, self.blocks - lba),
            Kind::Striped(striped) => striped.legs(lba),
            Kind::Concat(concat) => concat.legs(lba),
            Kind::Raid10(raid10) => raid10.legs(lba),
        }
    }

    /// The blocks of the run alone, see [`Copies::legs`].
    #[must_use]
    #[inline]
    pub fn run_blocks(&self, lba: u64) -> u64 {
        assert!(lba < self.blocks, "block {lba} is none of the array's {}", self.blocks);
        match &self.kind {
            Kind::Mirror => self.blocks - lba,
            Kind::Striped(striped) => striped.run_blocks(lba),
            Kind::Concat(concat) => concat.legs(lba).blocks,
            Kind::Raid10(raid10) => raid10.run_blocks(lba),
        }
    }

    /// The members that hold the run, see [`Copies::legs`].
    #[must_use]
    #[inline]
    pub fn holders(&self, lba: u64) -> SlotMask {
        assert!(lba < self.blocks, "block {lba} is none of the array's {}", self.blocks);
        match &self.kind {
            Kind::Mirror => mask_below(self.slots),
            Kind::Striped(striped) => striped.legs(lba).mask(),
            Kind::Concat(concat) => concat.legs(lba).mask(),
            Kind::Raid10(raid10) => raid10.holders(lba),
        }
    }

    pub(super) fn place(&self, slot: u8, member_lba: u64) -> Place {
        match &self.kind {
            Kind::Mirror if member_lba >= self.blocks => Place::UNUSED,
            Kind::Mirror => Place {
                content: Content::Data { lba: member_lba, copy: slot },
                blocks: self.blocks - member_lba,
            },
            Kind::Striped(striped) => striped.place(slot, member_lba),
            Kind::Concat(concat) => concat.place(slot, member_lba),
            Kind::Raid10(raid10) => raid10.place(slot, member_lba),
        }
    }

    pub(super) fn member_blocks(&self, slot: u8) -> u64 {
        match &self.kind {
            Kind::Mirror => self.blocks,
            Kind::Striped(striped) => striped.member_blocks(slot),
            Kind::Concat(concat) => concat.member_blocks(slot),
            Kind::Raid10(raid10) => raid10.member_blocks(),
        }
    }

    pub(super) fn strip_blocks(&self) -> Option<u64> {
        match &self.kind {
            Kind::Mirror | Kind::Concat(_) => None,
            Kind::Striped(striped) => Some(striped.strip_blocks()),
            Kind::Raid10(raid10) => Some(raid10.strip_blocks()),
        }
    }

    pub(super) fn full_stripe_blocks(&self) -> Option<u64> {
        match &self.kind {
            Kind::Mirror | Kind::Concat(_) => None,
            Kind::Striped(striped) => Some(striped.strip_blocks() * u64::from(self.slots)),
            Kind::Raid10(raid10) => Some(raid10.full_stripe_blocks()),
        }
    }

    pub(super) fn is_readable(&self, in_sync: SlotMask) -> bool {
        let all = mask_below(self.slots);
        match &self.kind {
            Kind::Mirror => in_sync & all != 0,
            Kind::Striped(_) | Kind::Concat(_) => in_sync & all == all,
            Kind::Raid10(raid10) => raid10.groups().all(|group| group & in_sync != 0),
        }
    }

    pub(super) fn partners(&self, slot: u8) -> SlotMask {
        let own = 1 << slot;
        let others = match &self.kind {
            Kind::Mirror => mask_below(self.slots),
            Kind::Striped(_) | Kind::Concat(_) => 0,
            Kind::Raid10(raid10) => {
                let with_own = raid10.groups().filter(|&group| group & own != 0);
                with_own.fold(0, |mask, group| mask | group)
            }
        };
        others & !own
    }
}

//! raid4, raid5, raid6: rows of data strips with P and perhaps Q.
//!
//! A layout says where P is in a row, where Q is, and how the data strips fill the rest. Two orders
//! must not be confused: the *data index* of a strip is its place in the array, the *power* of a
//! strip is the exponent of the generator that it has in Q. md counts powers from the member behind
//! Q on, DDF layouts by slot.

use super::{
    ArrayRuns, Content, GeometryError, Place, Run, Shape, SlotMask, mask_below, slot_from,
};

/// Where P is in row r of a ring of m members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// m-1 - r mod m.
    Left,
    /// As `Left`, one row further.
    LeftNext,
    /// r mod m.
    Right,
    /// Always the first.
    First,
    /// Always behind the data.
    Last,
}

/// Where Q is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QPlace {
    /// There is none.
    None,
    /// On the member behind P, the first being behind the last.
    AfterP,
    /// On the member before P.
    BeforeP,
    /// Always on the last, and all else on those before it.
    Last,
}

/// How data strips fill a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// By slot ("asymmetric").
    BySlot,
    /// From behind the parity on, around ("symmetric").
    AfterParity,
}

/// A layout (raid5.h, `ALGORITHM_*`).
#[derive(Debug, Clone, Copy)]
struct Layout {
    turn: Turn,
    q: QPlace,
    fill: Fill,
    /// Powers go by slot.
    ddf: bool,
}

/// The layouts of raid5, by number; raid6 has the same and more.
const RAID5: [(Turn, Fill); 6] = [
    (Turn::Left, Fill::BySlot),
    (Turn::Right, Fill::BySlot),
    (Turn::Left, Fill::AfterParity),
    (Turn::Right, Fill::AfterParity),
    (Turn::First, Fill::BySlot),
    (Turn::Last, Fill::BySlot),
];

impl Layout {
    fn new(level: i32, number: u32) -> Result<Layout, GeometryError> {
        let plain = |number: u32| {
            let (turn, fill) = *RAID5.get(usize::try_from(number).ok()?)?;
            Some(Layout { turn, q: QPlace::None, fill, ddf: false })
        };
        let ddf = |turn, q, fill| Some(Layout { turn, q, fill, ddf: true });
        let (layout, level, why) = match (level, number) {
            // md does not look at the word.
            (4, _) => (plain(5), "raid4", ""),
            (5, _) => (plain(number), "raid5", "they are 0 to 5"),
            (_, 8) => (ddf(Turn::Right, QPlace::AfterP, Fill::BySlot), "raid6", ""),
            (_, 9) => (ddf(Turn::LeftNext, QPlace::AfterP, Fill::BySlot), "raid6", ""),
            (_, 10) => (ddf(Turn::Left, QPlace::BeforeP, Fill::AfterParity), "raid6", ""),
            (_, 16..=20) => {
                let layout = plain(number - 16);
                (layout.map(|layout| Layout { q: QPlace::Last, ..layout }), "raid6", "")
            }
            _ => {
                let layout = plain(number);
                let layout = layout.map(|layout| Layout { q: QPlace::AfterP, ..layout });
                (layout, "raid6", "they are 0 to 5, 8 to 10 and 16 to 20")
            }
        };
        layout.ok_or(GeometryError::Layout { level, found: number, why })
    }
}

/// Geometry of raid4, raid5 or raid6.
#[derive(Debug, Clone)]
pub struct Parity {
    slots: u8,
    data: u8,
    strip_blocks: u64,
    rows: u64,
    layout: Layout,
}

/// Where an array block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strip {
    /// Its row.
    pub row: u64,
    /// Data index of its strip in the row.
    pub index: u8,
    /// Its place in the strip.
    pub offset: u64,
    /// Member that holds it.
    pub slot: u8,
    /// Where on the member: `row * strip_blocks + offset`, the same for all strips of the row.
    pub member_lba: u64,
    /// Blocks from here to the end of the strip.
    pub blocks: u64,
}

/// What a member has in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The data strip with this index.
    Data {
        /// Data index.
        index: u8,
    },
    /// XOR of the data strips.
    P,
    /// Sum of the data strips times powers of the generator.
    Q,
}

/// Who has what in one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    slots: u8,
    data: u8,
    p: u8,
    q: Option<u8>,
    /// `AfterParity`: slot of data index 0, and the members around which data goes; 0 for `BySlot`.
    first: u8,
    ring: u8,
    ddf: bool,
}

impl Parity {
    pub(super) fn new(shape: &Shape<'_>) -> Result<Parity, GeometryError> {
        let (name, parity, min) = match shape.level {
            4 => ("raid4", 1, 2),
            5 => ("raid5", 1, 2),
            _ => ("raid6", 2, 4),
        };
        let slots = shape.slots(name, min)?;
        let layout = Layout::new(shape.level, shape.layout)?;
        let strip_blocks = shape.strip_blocks(name)?;
        let rows = shape.size_blocks()? / strip_blocks;
        if rows == 0 {
            let found_sectors = shape.size_sectors;
            return Err(GeometryError::Size { found_sectors, unit: "chunk" });
        }
        Ok(Parity { slots, data: slots - parity, strip_blocks, rows, layout })
    }

    /// Slots of the array.
    #[must_use]
    pub fn slots(&self) -> u8 {
        self.slots
    }

    /// Data strips of a row.
    #[must_use]
    pub fn data_members(&self) -> u8 {
        self.data
    }

    /// Parity strips of a row: 1, or 2 with Q. As many members may be missing.
    #[must_use]
    pub fn parity_members(&self) -> u8 {
        self.slots - self.data
    }

    /// Rows of the array.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Blocks of a strip.
    #[must_use]
    pub fn strip_blocks(&self) -> u64 {
        self.strip_blocks
    }

    /// Data blocks of a row.
    #[must_use]
    pub fn full_stripe_blocks(&self) -> u64 {
        self.strip_blocks * u64::from(self.data)
    }

    /// Size of the array in blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.rows * self.full_stripe_blocks()
    }

    /// Blocks used of each member.
    #[must_use]
    pub fn member_blocks(&self) -> u64 {
        self.rows * self.strip_blocks
    }

    /// Strips before a block, of a member or of the array's data, and its place in its own. They
    /// have a power of two of blocks, and a division takes as long as ten other instructions.
    fn split(&self, lba: u64) -> (u64, u64) {
        (lba >> self.strip_blocks.trailing_zeros(), lba & (self.strip_blocks - 1))
    }

    /// Where an array block lies on its member. Costs less than [`Parity::strip`], which also says
    /// which member that is.
    #[must_use]
    pub fn member_lba(&self, lba: u64) -> u64 {
        assert!(lba < self.blocks(), "block {lba} is none of the array's {}", self.blocks());
        let (strip, offset) = self.split(lba);
        strip / u64::from(self.data) * self.strip_blocks + offset
    }

    /// Where an array block lies.
    #[must_use]
    pub fn strip(&self, lba: u64) -> Strip {
        assert!(lba < self.blocks(), "block {lba} is none of the array's {}", self.blocks());
        let (strip, offset) = self.split(lba);
        let (row, index) = (strip / u64::from(self.data), slot_from(strip % u64::from(self.data)));
        Strip {
            row,
            index,
            offset,
            slot: self.row(row).data_slot(index),
            member_lba: row * self.strip_blocks + offset,
            blocks: self.strip_blocks - offset,
        }
    }

    /// The array lba of a block of a data strip: the inverse of [`Parity::strip`].
    #[must_use]
    pub fn array_lba(&self, row: u64, index: u8, offset: u64) -> u64 {
        assert!(row < self.rows && index < self.data && offset < self.strip_blocks);
        (row * u64::from(self.data) + u64::from(index)) * self.strip_blocks + offset
    }

    /// Who has what in this row.
    #[must_use]
    pub fn row(&self, row: u64) -> Row {
        let (slots, data, Layout { turn, q, fill, ddf }) = (self.slots, self.data, self.layout);
        let ring = if q == QPlace::Last { slots - 1 } else { slots };
        let turned = |row: u64| slot_from(row % u64::from(ring));
        let p = match turn {
            Turn::Left => ring - 1 - turned(row),
            Turn::LeftNext => ring - 1 - turned(row + 1),
            Turn::Right => turned(row),
            Turn::First => 0,
            Turn::Last => data,
        };
        let q = match q {
            QPlace::None => None,
            QPlace::AfterP => Some((p + 1) % slots),
            QPlace::BeforeP => Some((p + slots - 1) % slots),
            QPlace::Last => Some(slots - 1),
        };
        let behind = if self.layout.q == QPlace::AfterP { p + 2 } else { p + 1 };
        let (first, ring) = match fill {
            Fill::BySlot => (0, 0),
            Fill::AfterParity => (behind % ring, ring),
        };
        Row { slots, data, p, q, first, ring, ddf }
    }

    pub(super) fn place(&self, slot: u8, member_lba: u64) -> Place {
        let (row, offset) = self.split(member_lba);
        if row >= self.rows {
            return Place::UNUSED;
        }
        let content = match self.row(row).part(slot) {
            Part::Data { index } => {
                Content::Data { lba: self.array_lba(row, index, offset), copy: 0 }
            }
            Part::P => Content::P { row },
            Part::Q => Content::Q { row },
        };
        Place { content, blocks: self.strip_blocks - offset }
    }

    /// The member blocks of all rows that a run of array blocks touches.
    pub(super) fn rows_of(&self, run: Run) -> Run {
        let stripe = self.full_stripe_blocks();
        let (first, behind) = (run.lba / stripe, run.end().div_ceil(stripe));
        Run { lba: first * self.strip_blocks, blocks: (behind - first) * self.strip_blocks }
    }

    pub(super) fn array_runs(&self, sync: Run) -> ArrayRuns {
        let (strip_blocks, data) = (self.strip_blocks, u64::from(self.data));
        ArrayRuns { rest: sync, strip_blocks, data, index: 0 }
    }

    pub(super) fn is_readable(&self, in_sync: SlotMask) -> bool {
        (in_sync & mask_below(self.slots)).count_ones() >= u32::from(self.data)
    }
}

impl Row {
    /// Slot of P.
    #[must_use]
    pub fn p(&self) -> u8 {
        self.p
    }

    /// Slot of Q, if the level has one.
    #[must_use]
    pub fn q(&self) -> Option<u8> {
        self.q
    }

    /// Slots of P and Q.
    #[must_use]
    pub fn parity_mask(&self) -> SlotMask {
        1 << self.p | self.q.map_or(0, |q| 1 << q)
    }

    /// Slots of the data strips.
    #[must_use]
    pub fn data_mask(&self) -> SlotMask {
        mask_below(self.slots) & !self.parity_mask()
    }

    /// Slot of the data strip with this index.
    #[must_use]
    pub fn data_slot(&self, index: u8) -> u8 {
        assert!(index < self.data, "data strip {index} of {}", self.data);
        if self.ring != 0 {
            // Neither is a whole round.
            let slot = self.first + index;
            return if slot < self.ring { slot } else { slot - self.ring };
        }
        // Step over the parities, the one with the lower slot first.
        let (low, high) = match self.q {
            Some(q) => (self.p.min(q), self.p.max(q)),
            None => (self.p, u8::MAX),
        };
        let slot = index + u8::from(index >= low);
        slot + u8::from(slot >= high)
    }

    /// What the member in this slot has.
    #[must_use]
    pub fn part(&self, slot: u8) -> Part {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        if slot == self.p {
            Part::P
        } else if Some(slot) == self.q {
            Part::Q
        } else if self.ring != 0 {
            Part::Data { index: (slot + self.ring - self.first) % self.ring }
        } else {
            let below = (self.parity_mask() & mask_below(slot)).count_ones();
            Part::Data { index: slot - slot_from(below.into()) }
        }
    }

    /// The exponent that the generator has in Q for the data strip with this index: Q is the sum of
    /// `g^power * strip` over GF(2^8), polynomial 0x11d, g = 2. Only where there is a Q.
    #[must_use]
    pub fn power(&self, index: u8) -> u8 {
        let q = self.q.expect("powers are asked for where there is a Q");
        let slot = self.data_slot(index);
        if self.ddf {
            return slot;
        }
        // Members are counted from the one behind Q on, P left out.
        let behind_q = |slot: u8| (slot + self.slots - q - 1) % self.slots;
        let distance = behind_q(slot);
        distance - u8::from(behind_q(self.p) < distance)
    }
}

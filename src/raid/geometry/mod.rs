//! Where every block of an array lies on its members, for every RAID level, as Linux md places it.
//!
//! Pure arithmetic: a [`Geometry`] is made once from the numbers of a superblock ([`Shape`]), which
//! it doubts, and then answers by computing. Its queries allocate nothing and never overflow.
//!
//! # Units
//!
//! Everything but [`Shape`] counts in logical blocks of the array. An *array lba* is a block of the
//! array; a *member lba* is a block of a member counted from the start of its data area. A *slot*
//! is md's role number, a [`SlotMask`] a set of them. md's "chunk" is called *strip* here, since a
//! chunk is what one byte of the bitmap covers; a *row* is the strips at one height of all members.
//!
//! # Two families
//!
//! ```text
//! Geometry ─┬─ Copies   raid0, linear, raid1, raid10: a run of blocks lies whole on each leg
//!           └─ Parity   raid4, raid5, raid6: a row is data strips, P and perhaps Q
//! ```
//!
//! The *sync space* is what bitmap and resync count in: blocks of the array for raid1 and raid10,
//! blocks of a member (row by row through all members) for parity levels. raid0 and linear have
//! none.

mod copies;
mod error;
mod parity;
mod raid10;
mod stripe;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

pub use copies::{Copies, Leg, Legs};
pub use error::GeometryError;
pub use parity::{Parity, Part, Row, Strip};

use crate::limits::MEMBERS_MAX;

/// A set of slots: bit n is slot n.
pub type SlotMask = u64;

/// An array has at most 2^63 bytes, so that sums and products of its numbers fit 64 bits.
pub const ARRAY_SECTORS_MAX: u64 = 1 << 54;

/// Largest strip: 1 GiB. md stores it in 32 bits.
pub const CHUNK_SECTORS_MAX: u32 = 1 << 21;

/// Smallest strip of the levels for which md asks for a page.
const CHUNK_SECTORS_PAGE: u32 = 8;

const SECTOR_BYTES: u32 = 512;

const _: () = {
    assert!(MEMBERS_MAX <= SlotMask::BITS as usize);
    // A slot is a u8.
    assert!(MEMBERS_MAX <= u8::MAX as usize);
    // RAID10 multiplies the strips of an array by the copies, resync adds a row to an lba.
    assert!(ARRAY_SECTORS_MAX.leading_zeros() > (MEMBERS_MAX as u64).ilog2() + 1);
};

/// The numbers of a superblock that make a geometry. None of them is believed.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// md's number: -1 linear, 0, 1, 4, 5, 6, 10.
    pub level: i32,
    /// md's layout word, by level. For RAID0 pass 0 where the feature RAID0_LAYOUT is not set.
    pub layout: u32,
    /// Slots of the array.
    pub raid_disks: u32,
    /// md's chunk; ignored for RAID1.
    pub chunk_sectors: u32,
    /// Sectors used of each member; ignored for RAID0 and linear.
    pub size_sectors: u64,
    /// Usable sectors (`data_size`) of each slot's member; read for RAID0 and linear only.
    pub member_sectors: &'a [u64],
    /// Logical block size of the array.
    pub block_size_bytes: u32,
}

impl Shape<'_> {
    /// Sectors of a logical block.
    fn block_sectors(&self) -> Result<u32, GeometryError> {
        match self.block_size_bytes {
            512 | 4096 => Ok(self.block_size_bytes / SECTOR_BYTES),
            found => Err(GeometryError::BlockSize { found }),
        }
    }

    fn slots(&self, level: &'static str, min: u32) -> Result<u8, GeometryError> {
        let found = self.raid_disks;
        let slots = u8::try_from(found).ok();
        slots
            .filter(|&slots| found >= min && usize::from(slots) <= MEMBERS_MAX)
            .ok_or(GeometryError::Slots { level, found, min })
    }

    /// The strip in blocks, with md's rules for levels that stripe by a power of two.
    fn strip_blocks(&self, level: &'static str) -> Result<u64, GeometryError> {
        let (found_sectors, page) = (self.chunk_sectors, CHUNK_SECTORS_PAGE);
        let why = "it is a power of two of at least 4096 bytes";
        if !(found_sectors.is_power_of_two() && (page..=CHUNK_SECTORS_MAX).contains(&found_sectors))
        {
            return Err(GeometryError::Chunk { level, found_sectors, why });
        }
        Ok(u64::from(found_sectors / self.block_sectors()?))
    }

    /// The strip in blocks for RAID0, where any number of blocks will do.
    fn strip_of_blocks(&self, level: &'static str) -> Result<u64, GeometryError> {
        let (found_sectors, block) = (self.chunk_sectors, self.block_sectors()?);
        let why = "it is a multiple of the logical block size, and not 0";
        if found_sectors == 0
            || found_sectors > CHUNK_SECTORS_MAX
            || !found_sectors.is_multiple_of(block)
        {
            return Err(GeometryError::Chunk { level, found_sectors, why });
        }
        Ok(u64::from(found_sectors / block))
    }

    /// Blocks used of each member, with proof that all of them together are not too many.
    fn size_blocks(&self) -> Result<u64, GeometryError> {
        self.bounded("size", self.size_sectors)
    }

    fn bounded(&self, field: &'static str, found_sectors: u64) -> Result<u64, GeometryError> {
        let all = found_sectors.checked_mul(u64::from(self.raid_disks).max(1));
        if all.is_none_or(|all| all > ARRAY_SECTORS_MAX) {
            return Err(GeometryError::TooLarge { field, found_sectors, slots: self.raid_disks });
        }
        Ok(found_sectors / u64::from(self.block_sectors()?))
    }

    /// Blocks of each slot's member, for levels that use all of each.
    fn member_blocks(&self, strip_blocks: u64) -> Result<[u64; MEMBERS_MAX], GeometryError> {
        let given = self.member_sectors.len();
        if u32::try_from(given).ok() != Some(self.raid_disks) || given > MEMBERS_MAX {
            return Err(GeometryError::MemberCount { given, slots: self.raid_disks });
        }
        let mut blocks = [0; MEMBERS_MAX];
        for (slot, &sectors) in self.member_sectors.iter().enumerate() {
            let strips = self.bounded("data_size", sectors)? / strip_blocks;
            if strips == 0 {
                return Err(GeometryError::MemberSize { slot, sectors });
            }
            blocks[slot] = strips * strip_blocks;
        }
        Ok(blocks)
    }
}

/// A run of blocks, of the array, of a member or of the sync space as the context says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First block.
    pub lba: u64,
    /// Number of blocks.
    pub blocks: u64,
}

impl Run {
    /// First block behind the run.
    #[must_use]
    pub fn end(self) -> u64 {
        self.lba + self.blocks
    }
}

/// What a member holds at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Data of the array, from this array lba on. `copy` is the number of the leg in
    /// [`Copies::legs`]; 0 where there is one only.
    Data {
        /// Array lba.
        lba: u64,
        /// Which of the copies.
        copy: u8,
    },
    /// P of this row.
    P {
        /// The row.
        row: u64,
    },
    /// Q of this row.
    Q {
        /// The row.
        row: u64,
    },
    /// Nothing of the array: the rest of a member that the level does not use.
    Unused,
}

/// What a member holds from a member lba on, and for how many blocks the answer goes on alike
/// (data continuing, or the same parity). An unused rest has no end here: `u64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What.
    pub content: Content,
    /// For how many blocks.
    pub blocks: u64,
}

impl Place {
    const UNUSED: Place = Place { content: Content::Unused, blocks: u64::MAX };
}

/// The geometry of an array: see the module.
#[derive(Debug, Clone)]
pub enum Geometry {
    /// raid0, linear, raid1, raid10.
    Copies(Copies),
    /// raid4, raid5, raid6.
    Parity(Parity),
}

impl Geometry {
    /// Makes a geometry of numbers that came from a disk.
    ///
    /// # Errors
    /// Says which field of the superblock cannot be and why.
    pub fn new(shape: &Shape<'_>) -> Result<Geometry, GeometryError> {
        match shape.level {
            -1 | 0 | 1 | 10 => Copies::new(shape).map(Geometry::Copies),
            4..=6 => Parity::new(shape).map(Geometry::Parity),
            found => Err(GeometryError::Level { found }),
        }
    }

    /// Size of the array in blocks, at least 1.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        match self {
            Geometry::Copies(copies) => copies.blocks(),
            Geometry::Parity(parity) => parity.blocks(),
        }
    }

    /// Slots of the array.
    #[must_use]
    pub fn slots(&self) -> u8 {
        match self {
            Geometry::Copies(copies) => copies.slots(),
            Geometry::Parity(parity) => parity.slots(),
        }
    }

    /// The set of all slots.
    #[must_use]
    pub fn all_slots(&self) -> SlotMask {
        mask_below(self.slots())
    }

    /// Blocks that the array uses of the member in this slot, from the start of its data area.
    #[must_use]
    pub fn member_blocks(&self, slot: u8) -> u64 {
        assert!(slot < self.slots(), "slot {slot} of {}", self.slots());
        match self {
            Geometry::Copies(copies) => copies.member_blocks(slot),
            Geometry::Parity(parity) => parity.member_blocks(),
        }
    }

    /// Blocks of a strip: a request should not cross a multiple of it (NVMe's NOIOB). `None` for
    /// raid1 and linear, which have none.
    #[must_use]
    pub fn strip_blocks(&self) -> Option<u64> {
        match self {
            Geometry::Copies(copies) => copies.strip_blocks(),
            Geometry::Parity(parity) => Some(parity.strip_blocks()),
        }
    }

    /// Data blocks of a row, the best size of a request; `None` as for [`Geometry::strip_blocks`].
    #[must_use]
    pub fn full_stripe_blocks(&self) -> Option<u64> {
        match self {
            Geometry::Copies(copies) => copies.full_stripe_blocks(),
            Geometry::Parity(parity) => Some(parity.full_stripe_blocks()),
        }
    }

    /// What the member in this slot holds at this member lba: the inverse of the mappings.
    #[must_use]
    pub fn place(&self, slot: u8, member_lba: u64) -> Place {
        assert!(slot < self.slots(), "slot {slot} of {}", self.slots());
        match self {
            Geometry::Copies(copies) => copies.place(slot, member_lba),
            Geometry::Parity(parity) => parity.place(slot, member_lba),
        }
    }

    /// Size of the sync space in blocks; 0 for a level that has nothing to sync.
    #[must_use]
    pub fn sync_blocks(&self) -> u64 {
        match self {
            Geometry::Copies(copies) if copies.has_redundancy() => copies.blocks(),
            Geometry::Copies(_) => 0,
            Geometry::Parity(parity) => parity.member_blocks(),
        }
    }

    /// The part of the sync space that a write of the blocks `run` of the array touches; for parity
    /// levels widened to whole rows, as md does. `None` for a level that has nothing to sync.
    #[must_use]
    pub fn sync_range(&self, run: Run) -> Option<Run> {
        assert!(run.blocks > 0 && run.end() <= self.blocks(), "{run:?} is not of the array");
        match self {
            Geometry::Copies(copies) => copies.has_redundancy().then_some(run),
            Geometry::Parity(parity) => Some(parity.rows_of(run)),
        }
    }

    /// The runs of array blocks whose data a run of the sync space covers, in ascending order of
    /// rows. Of a level without a sync space none.
    #[must_use]
    pub fn array_runs(&self, sync: Run) -> ArrayRuns {
        assert!(sync.end() <= self.sync_blocks(), "{sync:?} is not of the sync space");
        match self {
            Geometry::Copies(_) => ArrayRuns { rest: sync, strip_blocks: 0, data: 1, index: 0 },
            Geometry::Parity(parity) => parity.array_runs(sync),
        }
    }

    /// Whether every block of the array can be read, perhaps computed, with only these members.
    #[must_use]
    pub fn is_readable(&self, in_sync: SlotMask) -> bool {
        match self {
            Geometry::Copies(copies) => copies.is_readable(in_sync),
            Geometry::Parity(parity) => parity.is_readable(in_sync),
        }
    }

    /// Whether this member may be failed while these are in sync: no block is lost by it. True for
    /// a member that is not in sync and has nothing to lose, if the others hold everything.
    #[must_use]
    pub fn may_fail(&self, in_sync: SlotMask, slot: u8) -> bool {
        self.is_readable(in_sync & !(1 << slot))
    }

    /// The slots that hold redundancy for what this slot holds: copies of it, or the rest of its
    /// rows. Empty where nothing replaces a member.
    #[must_use]
    pub fn partners(&self, slot: u8) -> SlotMask {
        assert!(slot < self.slots(), "slot {slot} of {}", self.slots());
        match self {
            Geometry::Copies(copies) => copies.partners(slot),
            Geometry::Parity(_) => self.all_slots() & !(1 << slot),
        }
    }
}

/// See [`Geometry::array_runs`].
#[derive(Debug, Clone, Copy)]
pub struct ArrayRuns {
    /// Of the sync space, still to be told.
    rest: Run,
    /// 0 where sync space and array are the same.
    strip_blocks: u64,
    data: u64,
    /// Data strip of a row of which a part is told strip by strip.
    index: u64,
}

impl Iterator for ArrayRuns {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let (Run { lba, blocks }, strip) = (self.rest, self.strip_blocks);
        if blocks == 0 {
            return None;
        }
        if strip == 0 {
            self.rest.blocks = 0;
            return Some(Run { lba, blocks });
        }
        let (row, offset) = (lba / strip, lba % strip);
        if offset == 0 && blocks >= strip {
            let whole = blocks - blocks % strip;
            self.rest = Run { lba: lba + whole, blocks: blocks - whole };
            return Some(Run { lba: row * strip * self.data, blocks: whole * self.data });
        }
        let part = (strip - offset).min(blocks);
        let run = Run { lba: (row * self.data + self.index) * strip + offset, blocks: part };
        self.index += 1;
        if self.index == self.data {
            self.index = 0;
            self.rest = Run { lba: lba + part, blocks: blocks - part };
        }
        Some(run)
    }
}

/// The slots below this one.
const fn mask_below(slots: u8) -> SlotMask {
    if slots as u32 == SlotMask::BITS { SlotMask::MAX } else { (1 << slots) - 1 }
}

/// A slot that was computed modulo the number of slots.
fn slot_from(value: u64) -> u8 {
    u8::try_from(value).expect("a slot is below MEMBERS_MAX")
}

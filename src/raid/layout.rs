//! Where an array's blocks lie: chunks of the bitmap, and runs on the members.

use super::geometry::{Geometry, Legs, Parity};
use super::message::{BlockRange, SlotMask};
use super::{MemberPlace, MemberSlot, Shared, bit};
use crate::bitmap::ChunkState;
use crate::limits::{IO_SIZE_BYTES_MAX, MEMBERS_MAX};

/// What holds a block and those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Blocks to the end of the strip.
    pub(super) blocks: u64,
    /// Members that have it.
    pub(super) legs: SlotMask,
}

impl Shared {
    /// First and last chunk of a run of blocks.
    pub(super) fn chunks(&self, lba: u64, blocks: u64) -> std::ops::RangeInclusive<usize> {
        let chunk = |lba: u64| usize::try_from(lba >> self.chunk_shift).expect("chunks fit usize");
        chunk(lba)..=chunk(lba + blocks - 1)
    }

    /// The blocks of a chunk; the last one may be short.
    pub(super) fn blocks_of_chunk(&self, chunk: usize) -> BlockRange {
        let lba = (chunk as u64) << self.chunk_shift;
        BlockRange { lba, blocks: (1u64 << self.chunk_shift).min(self.sync_blocks - lba) }
    }

    /// The blocks of a run of chunks.
    pub(super) fn blocks_of_chunks(&self, chunks: &std::ops::RangeInclusive<usize>) -> BlockRange {
        let first = self.blocks_of_chunk(*chunks.start());
        let last = self.blocks_of_chunk(*chunks.end());
        BlockRange { lba: first.lba, blocks: last.lba + last.blocks - first.lba }
    }

    /// The state of the chunk, if the array has a map.
    pub(super) fn chunk_state(&self, chunk: usize) -> Option<ChunkState> {
        self.map.as_ref().map(|map| map.state(chunk))
    }

    /// Blocks of the run that a block begins, to be read or to be changed as a whole.
    pub(super) fn run_blocks(&self, lba: u64, modifies: bool) -> u64 {
        match &self.geometry {
            Geometry::Copies(_) if self.is_mirror() => self.blocks - lba,
            Geometry::Copies(copies) => copies.run_blocks(lba),
            Geometry::Parity(parity) => {
                let (slice, strip) = (self.slice_blocks(), parity.strip_blocks());
                match modifies {
                    true if slice == strip => {
                        parity.full_stripe_blocks() - lba % parity.full_stripe_blocks()
                    }
                    false if mutant!(ReadCrossesSlices) => strip - lba % strip,
                    // A read, too: if its member fails, it is recovered in one slice.
                    _ => slice - (lba & (slice - 1)),
                }
            }
        }
    }

    /// Members that hold the run that a block begins. Where there is parity a change concerns
    /// others as well, which the row knows when it is written: none are named.
    pub(super) fn holders(&self, lba: u64, modifies: bool) -> SlotMask {
        match &self.geometry {
            Geometry::Copies(_) if self.is_mirror() => self.geometry.all_slots(),
            Geometry::Copies(copies) => copies.holders(lba),
            Geometry::Parity(_) if modifies => 0,
            Geometry::Parity(parity) => bit(parity.strip(lba).slot),
        }
    }

    /// The part of the sync space that a run of array blocks in one row or strip concerns.
    pub(super) fn sync_range(&self, range: BlockRange) -> BlockRange {
        match &self.geometry {
            Geometry::Copies(_) => range,
            Geometry::Parity(parity) => {
                let member_lba = parity.member_lba(range.lba);
                let strip = parity.strip_blocks();
                let offset = range.lba & (strip - 1);
                if range.blocks <= strip - offset {
                    return BlockRange { lba: member_lba, blocks: range.blocks };
                }
                BlockRange { lba: member_lba - offset, blocks: strip }
            }
        }
    }

    /// Levels with parity.
    pub(super) fn parity(&self) -> Option<&Parity> {
        match &self.geometry {
            Geometry::Copies(_) => None,
            Geometry::Parity(parity) => Some(parity),
        }
    }

    /// What a discard can make Unwritten: log2 of its blocks in the sync space, and its blocks of
    /// the array. With parity that is whole rows.
    pub(super) fn discard_unit(&self) -> (u32, u64) {
        let Some(parity) = self.parity() else {
            return (self.chunk_shift, 1 << self.chunk_shift);
        };
        let shift = self.chunk_shift.max(parity.strip_blocks().trailing_zeros());
        (shift, u64::from(parity.data_members()) << shift)
    }

    /// Whether parity may not fit the data somewhere in a run of the sync space.
    pub(super) fn is_in_doubt(&self, sync: &BlockRange) -> bool {
        self.chunks(sync.lba, sync.blocks).any(|chunk| self.doubt.is_in_doubt(chunk))
    }

    /// Whether it may not even fit what was written there.
    pub(super) fn is_torn(&self, sync: &BlockRange) -> bool {
        self.chunks(sync.lba, sync.blocks).any(|chunk| self.doubt.is_torn(chunk))
    }

    /// See [`slice_blocks`].
    pub(super) fn slice_blocks(&self) -> u64 {
        self.parity().map_or(1, |parity| slice_blocks(parity, self.block_size_bytes))
    }

    /// Where the run that a block begins lies.
    pub(super) fn legs(&self, lba: u64) -> Legs {
        match &self.geometry {
            Geometry::Copies(copies) => copies.legs(lba),
            Geometry::Parity(_) => unreachable!("rows are not runs"),
        }
    }

    /// Where the run that `lba` begins lies on a member that holds it.
    pub(super) fn leg_lba(&self, lba: u64, slot: MemberSlot) -> u64 {
        if self.is_mirror() {
            return lba;
        }
        match &self.geometry {
            Geometry::Copies(copies) => {
                copies.legs(lba).on(slot).expect("the member holds the run")
            }
            Geometry::Parity(parity) => parity.member_lba(lba),
        }
    }

    /// The run of the sync space that a block of it begins: what is done to a chunk as a whole is
    /// done run by run.
    pub(super) fn sync_run(&self, lba: u64) -> Run {
        match &self.geometry {
            Geometry::Copies(_) => {
                Run { blocks: self.run_blocks(lba, true), legs: self.holders(lba, true) }
            }
            Geometry::Parity(_) => {
                Run { blocks: self.sync_blocks - lba, legs: self.geometry.all_slots() }
            }
        }
    }

    /// Where a run of the sync space lies on a member that has a part in it.
    pub(super) fn sync_leg_lba(&self, lba: u64, slot: MemberSlot) -> u64 {
        match &self.geometry {
            Geometry::Copies(_) => self.leg_lba(lba, slot),
            Geometry::Parity(_) => lba,
        }
    }

    /// The number of a device that replaces a member, in sets and tables of slots: it follows the
    /// slots. `None`: there are as many as a set holds.
    pub(super) fn twin(&self) -> Option<MemberSlot> {
        let twin = self.geometry.slots();
        (usize::from(twin) < MEMBERS_MAX).then_some(twin)
    }

    /// The set with the device that replaces a member.
    pub(super) fn twin_bit(&self) -> SlotMask {
        self.twin().map_or(0, bit)
    }

    /// Entries of a table by slot, the device that replaces a member included.
    pub(super) fn places_len(&self) -> usize {
        usize::from(self.geometry.slots()) + usize::from(self.twin().is_some())
    }

    /// Where the members' data lie at the start, and those of the device that replaces one.
    pub(super) fn places(&self) -> Vec<Option<MemberPlace>> {
        let mut places = self.members.clone();
        places.resize(self.places_len(), None);
        if let (Some((_, place)), Some(twin)) = (self.replacement, self.twin()) {
            places[usize::from(twin)] = Some(place);
        }
        places
    }

    /// Every member holds everything at the same place.
    pub(super) fn is_mirror(&self) -> bool {
        matches!(&self.geometry, Geometry::Copies(copies) if copies.is_mirror())
    }
}

/// Strips of arrays with few members are worked on in larger slices.
const FEW_MEMBERS: u8 = 8;

/// Largest slice where members are few, and where they are many: a row takes a buffer for each.
/// The small arrays of tests have strips of several slices, too.
const SLICE_SIZE_BYTES_MAX: [u64; 2] =
    if cfg!(test) { [8192, 4096] } else { [IO_SIZE_BYTES_MAX as u64, 32 * 1024] };

/// Columns of a row that are locked and worked on together: a power of two, as the strip is.
pub(super) fn slice_blocks(parity: &Parity, block_size_bytes: u32) -> u64 {
    let max = SLICE_SIZE_BYTES_MAX[usize::from(parity.slots() > FEW_MEMBERS)];
    parity.strip_blocks().min(max >> block_size_bytes.trailing_zeros())
}

//! Where an array's blocks lie: chunks of the bitmap, and runs on the members.

use super::geometry::{Geometry, Legs};
use super::message::{BlockRange, SlotMask};
use super::{MemberSlot, Shared};
use crate::bitmap::ChunkState;

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

    /// The run that a block begins.
    pub(super) fn run(&self, lba: u64) -> Run {
        if self.is_mirror() {
            return Run { blocks: self.blocks - lba, legs: self.geometry.all_slots() };
        }
        Run { blocks: self.run_blocks(lba), legs: self.holders(lba) }
    }

    /// Members that have the run that a block begins.
    pub(super) fn holders(&self, lba: u64) -> SlotMask {
        match &self.geometry {
            Geometry::Copies(copies) => copies.holders(lba),
            Geometry::Parity(_) => unreachable!("rows are not runs"),
        }
    }

    /// Blocks to the end of the strip: of the run that a block begins.
    pub(super) fn run_blocks(&self, lba: u64) -> u64 {
        match &self.geometry {
            Geometry::Copies(copies) => copies.run_blocks(lba),
            Geometry::Parity(_) => unreachable!("rows are not runs"),
        }
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
        self.legs(lba).on(slot).expect("the member holds the run")
    }

    /// The run of the sync space that a block of it begins: what is done to a chunk as a whole is
    /// done run by run.
    pub(super) fn sync_run(&self, lba: u64) -> Run {
        match &self.geometry {
            Geometry::Copies(_) => self.run(lba),
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

    /// Every member holds everything at the same place.
    pub(super) fn is_mirror(&self) -> bool {
        matches!(&self.geometry, Geometry::Copies(copies) if copies.is_mirror())
    }
}

//! Requests that make a range read as zeroes: the chunks inside it become Unwritten, the parts of
//! chunks at its ends are zeroed as a write of zeroes would.
//!
//! A chunk that is covered in part holds data of others beside, so it must never become
//! Unwritten: whole chunks are counted from both ends inwards. The parts run one after the other;
//! the request ends when the last one has, or the first one fails.

use std::ops::RangeInclusive;

use super::Shared;
use super::channel::Channel;
use super::channel_op::{Later, OpState};
use super::message::{BlockRange, Discard, Mail, Out, ToOwner};
use crate::bdev::{BdevIo, IoOp, IoStatus};

/// Chunks that a channel itself looks at, to see whether there is anything to do at all.
const CHUNKS_PER_LOOK: usize = 4096;

impl Shared {
    /// How a discard of the range divides, `None` if it contains no whole chunk (or the array
    /// remembers no discards).
    fn divide(&self, range: &BlockRange) -> Option<Later> {
        if !self.discards {
            return None;
        }
        let end = range.lba + range.blocks;
        // Blocks of the sync space that a run of array blocks can cover, and how many that takes.
        let (unit_shift, unit) = self.discard_unit();
        let first = range.lba.div_ceil(unit);
        // The last chunk of the array may be short; it is whole if the range reaches the end.
        let behind = match end == self.blocks || mutant!(DiscardTakesPartOfChunk) {
            true => end.div_ceil(unit),
            false => end / unit,
        };
        if first >= behind {
            return None;
        }
        let part = |lba: u64, end: u64| (lba < end).then(|| BlockRange { lba, blocks: end - lba });
        let chunk = |chunk: u64| u32::try_from(chunk).expect("chunks fit u32");
        let last_block = (behind << unit_shift).min(self.sync_blocks) - 1;
        Some(Later {
            head: part(range.lba, first * unit),
            tail: part(behind * unit, end),
            chunks: Some((
                chunk(first << unit_shift >> self.chunk_shift),
                chunk(last_block >> self.chunk_shift),
            )),
        })
    }
}

impl Later {
    /// The next part of a chunk to zero, in one strip.
    fn next_run(&mut self, shared: &Shared) -> Option<BlockRange> {
        let part = if self.head.is_some() { &mut self.head } else { &mut self.tail };
        let BlockRange { lba, blocks } = (*part)?;
        let run = shared.run_blocks(lba, true).min(blocks);
        let rest = BlockRange { lba: lba + run, blocks: blocks - run };
        *part = (rest.blocks > 0).then_some(rest);
        Some(BlockRange { lba, blocks: run })
    }
}

impl Channel {
    /// Whether the request makes whole chunks Unwritten.
    pub(super) fn discards_chunks(&self, io: &BdevIo) -> bool {
        self.shared.divide(&BlockRange { lba: io.lba, blocks: io.blocks.into() }).is_some()
    }

    /// Begins a request that makes its range read as zeroes.
    pub(super) fn start_zeroes(&mut self, op: u32, out: &mut Out<'_>) {
        let range = self.ops[op as usize].range;
        match self.shared.divide(&range) {
            Some(later) => {
                self.ops[op as usize].later = later;
                self.next_part(op, out);
            }
            None => self.start_write(op, out),
        }
    }

    /// Begins the next part of a request that is `Ready`, or ends it.
    pub(super) fn next_part(&mut self, op: u32, out: &mut Out<'_>) {
        let this = &mut self.ops[op as usize];
        if let Some(part) = this.later.next_run(&self.shared) {
            this.set_range(part, &self.shared);
            this.legs = self.shared.holders(part.lba, true);
            this.forget_answers();
            return self.start_write(op, out);
        }
        let Some((first, last)) = this.later.chunks.take() else {
            return self.finish(op, IoStatus::Ok, out);
        };
        if self.is_failed() {
            return self.finish(op, IoStatus::MediaError, out);
        }
        let lba = u64::from(first) << self.shared.chunk_shift;
        let end = (u64::from(last) + 1) << self.shared.chunk_shift;
        let range = BlockRange { lba, blocks: end.min(self.shared.sync_blocks) - lba };
        // Chunks that are held may be on their way to Unwritten without being so durably.
        if (!self.is_locked(&range) || mutant!(UnwrittenBeforeDurable))
            && self.reads_as_zeroes_for_good(op, &(first as usize..=last as usize))
        {
            return self.next_part(op, out);
        }
        self.ops[op as usize].set_state(OpState::DiscardWait);
        out.mail.push_back(Mail::Owner(ToOwner::Discard(Discard { op, first, last })));
    }

    /// Whether the request writes zeroes where zeroes are read already, durably: then there is
    /// nothing to do. A writer that is about to change that has not been answered yet, so this
    /// request may count as the earlier of the two.
    pub(super) fn reads_as_zeroes_for_good(&self, op: u32, chunks: &RangeInclusive<usize>) -> bool {
        let kind = self.ops[op as usize].io().op;
        let Some(map) = self.shared.map.as_ref().filter(|_| self.shared.discards) else {
            return false;
        };
        matches!(kind, IoOp::WriteZeroes | IoOp::Unmap)
            && chunks.end() - chunks.start() < CHUNKS_PER_LOOK
            && chunks.clone().all(|chunk| map.is_unwritten_for_good(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raid::geometry::{Geometry, Shape};

    fn mirror(blocks: u64) -> Geometry {
        Geometry::new(&Shape {
            level: 1,
            layout: 0,
            raid_disks: 2,
            chunk_sectors: 0,
            size_sectors: blocks,
            member_sectors: &[],
            block_size_bytes: 512,
        })
        .unwrap()
    }

    fn shared(blocks: u64, discards: bool) -> Shared {
        Shared {
            bdev: crate::bdev::BdevId(0),
            block_size_bytes: 512,
            geometry: mirror(blocks),
            blocks,
            sync_blocks: blocks,
            chunk_shift: 3,
            map: None,
            discards,
            members: Vec::new(),
            replacement: None,
            unwritten_reads_zero: true,
            doubt: crate::bitmap::Doubt::default(),
            log: None,
            bad: crate::raid::BadLists::default(),
        }
    }

    /// Defect 2 of the kernel's bitmap: a chunk covered in part must keep its data.
    #[test]
    fn only_whole_chunks_are_discarded() {
        for blocks in [64, 61] {
            let shared = shared(blocks, true);
            for lba in 0..blocks {
                for len in 1..=blocks - lba {
                    let range = BlockRange { lba, blocks: len };
                    let whole: Vec<u64> = (0..blocks.div_ceil(8))
                        .filter(|chunk| {
                            chunk * 8 >= lba && ((chunk + 1) * 8).min(blocks) <= lba + len
                        })
                        .collect();
                    let Some(later) = shared.divide(&range) else {
                        assert!(whole.is_empty(), "{range:?}");
                        continue;
                    };
                    let (first, last) = later.chunks.unwrap();
                    assert_eq!(whole, (first.into()..=last.into()).collect::<Vec<u64>>());
                    // The parts and the chunks are the range, without gap or overlap.
                    let mut covered: Vec<u64> = [later.head, later.tail]
                        .into_iter()
                        .flatten()
                        .flat_map(|part| part.lba..part.lba + part.blocks)
                        .collect();
                    for chunk in first..=last {
                        let run = shared.blocks_of_chunk(chunk as usize);
                        covered.extend(run.lba..run.lba + run.blocks);
                    }
                    covered.sort_unstable();
                    assert_eq!(covered, (lba..lba + len).collect::<Vec<_>>());
                }
            }
        }
        assert!(shared(64, false).divide(&BlockRange { lba: 0, blocks: 64 }).is_none());
    }
}

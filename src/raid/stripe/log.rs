//! The stripe log on one core: its ring, who waits for it, and how a batch becomes records.

use std::collections::VecDeque;

use super::super::SharedLog;
use super::super::message::{SlotMask, Ticket};
use super::super::owner_zero::ZERO_JOBS;
use super::STRIPES_MAX;
use super::ring::Ring;
use crate::md::stripe_log::{LOG_FRAGMENTS_MAX, LOG_HEAD_BYTES, LogLayout};
use crate::reactor::buf::{BufPool, IoBuf};

/// In the place of a stripe's index: the record that has nothing but the floor to say.
pub(in crate::raid) const NOTE: u32 = 256;

const _: () = assert!(NOTE as usize >= STRIPES_MAX);

/// Where that record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::raid) enum Note {
    /// There is none.
    Idle,
    /// Members are writing it.
    Writing {
        /// Its number.
        ticket: Ticket,
        /// Members that have not answered.
        pending: SlotMask,
        /// Members that could not.
        failed: SlotMask,
    },
    /// It waits until the absence of those that could not write it is durable.
    Unlogged {
        /// Its number.
        ticket: Ticket,
        /// They.
        failed: SlotMask,
    },
}

impl Note {
    pub(in crate::raid) fn is_busy(self) -> bool {
        self != Self::Idle
    }

    /// A member of the set has not answered.
    pub(super) fn asks(self, members: SlotMask) -> bool {
        matches!(self, Self::Writing { pending, .. } if pending & members != 0)
    }
}

/// A channel that has the lock of a slice and waits for numbers.
#[derive(Debug, Clone, Copy)]
pub(in crate::raid) struct Starved {
    pub(in crate::raid) core: u16,
    pub(in crate::raid) slice: u64,
    pub(in crate::raid) count: u8,
}

/// This core's part of the log.
#[derive(Debug)]
pub(in crate::raid) struct HomeLog {
    /// The number of the ring, which is the core's.
    pub(in crate::raid) index: u16,
    /// `None`: there are fewer rings than cores.
    pub(in crate::raid) ring: Option<Ring>,
    pub(in crate::raid) starved: VecDeque<Starved>,
    pub(in crate::raid) note: Note,
    pub(in crate::raid) note_buf: IoBuf,
    /// Records of one batch, when the pool has no buffers.
    pub(in crate::raid) reserve: Vec<IoBuf>,
    reserve_len: usize,
    slot_bytes: usize,
}

impl HomeLog {
    /// `None` when the pool has no buffers.
    pub(super) fn new(log: &SharedLog, core: u16, cores: u16, pool: &BufPool) -> Option<Self> {
        let layout = log.layout;
        let ring = (core < layout.rings).then(|| Ring::new(layout.slots, 2 * ZERO_JOBS));
        let reserve_len = usize::from(log.parts_max);
        Some(Self {
            index: core,
            ring,
            starved: VecDeque::with_capacity(STRIPES_MAX * usize::from(cores)),
            note: Note::Idle,
            note_buf: pool.get(LOG_HEAD_BYTES)?,
            reserve: Vec::with_capacity(reserve_len),
            reserve_len,
            slot_bytes: layout.slot_bytes as usize,
        })
    }

    /// Whether the reserve is whole.
    pub(super) fn fill_reserve(&mut self, pool: &BufPool) -> bool {
        while self.reserve.len() < self.reserve_len {
            let Some(buf) = pool.get(self.slot_bytes) else { return false };
            self.reserve.push(buf);
        }
        true
    }
}

/// How runs of blocks are put into records: each is filled before the next one begins.
#[derive(Debug, Clone, Copy)]
pub(in crate::raid) struct Packer {
    slot_blocks: usize,
    block_bytes: usize,
    /// Records that have something in them, the last one up to here.
    parts: usize,
    used: usize,
    fragments: usize,
}

impl Packer {
    pub(in crate::raid) fn new(layout: &LogLayout, block_bytes: usize) -> Self {
        let slot_blocks = layout.payload_bytes() / block_bytes;
        Self { slot_blocks, block_bytes, parts: 0, used: 0, fragments: 0 }
    }

    /// Without a log.
    pub(in crate::raid) fn none() -> Self {
        Self { slot_blocks: 0, block_bytes: 1, parts: 0, used: 0, fragments: 0 }
    }

    /// Puts as many of the blocks as there is room for into a record: which, and how many.
    pub(in crate::raid) fn put(&mut self, blocks: usize) -> (usize, usize) {
        let is_full = self.used == self.slot_blocks || self.fragments == LOG_FRAGMENTS_MAX;
        if self.parts == 0 || is_full {
            self.parts += 1;
            (self.used, self.fragments) = (0, 0);
        }
        let taken = blocks.min(self.slot_blocks - self.used);
        self.used += taken;
        self.fragments += 1;
        (self.parts - 1, taken)
    }

    /// Puts all of a run in.
    pub(in crate::raid) fn put_all(&mut self, mut blocks: usize) {
        while blocks > 0 {
            blocks -= self.put(blocks).1;
        }
    }

    /// Records so far.
    pub(in crate::raid) fn parts(&self) -> usize {
        self.parts
    }

    /// Bytes of the largest record.
    pub(in crate::raid) fn slot_bytes(&self) -> usize {
        LOG_HEAD_BYTES + self.slot_blocks * self.block_bytes
    }

    /// Bytes of a record at most.
    pub(in crate::raid) fn bytes_of(&self, part: usize) -> usize {
        // Of several each may be cut otherwise when somebody leaves before they are filled.
        match (part, self.parts) {
            (0, 1) => LOG_HEAD_BYTES + self.used * self.block_bytes,
            _ => self.slot_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAYOUT: LogLayout = LogLayout { rings: 1, slots: 40, slot_bytes: 8 << 10 };

    proptest! {
        #[test]
        fn no_batch_takes_more_records_than_was_counted(
            runs in proptest::collection::vec(1usize..20, 1..800),
        ) {
            let mut packer = Packer::new(&LAYOUT, 512);
            runs.iter().for_each(|&blocks| packer.put_all(blocks));
            let bytes = runs.iter().sum::<usize>() as u64 * 512;
            prop_assert!(packer.parts() as u64 <= LAYOUT.records_for(bytes, runs.len() as u64));
            prop_assert!((0..packer.parts()).all(|part| packer.bytes_of(part) <= 8 << 10));
        }
    }
}

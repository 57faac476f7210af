//! What members have listed as bad: md's bad-block log.
//!
//! A listed range holds nothing of worth on that member. It is read from the others as if the
//! member were not there; it is written as any other, since a medium may have healed or found a
//! place elsewhere. Requests and pieces of the walker are cut where a list begins or ends
//! ([`BadBlocks::even`]), so that each is listed on a member as a whole or not at all, and an error
//! is the answer only where nobody has the block.
//!
//! The owner has the lists; each channel keeps a copy and takes a new one when the owner says so.

use std::sync::{Arc, Mutex, PoisonError};

use super::channel::Channel;
use super::message::{BlockRange, Mail, Out, SlotMask, ToChannel};
use super::owner::Owner;
use super::{MemberSlot, Shared, bit, slots};
use crate::md::{BAD_BLOCK_ENTRIES_WRITTEN_MAX, BadRange, SECTOR_BYTES};

/// The lists of an array, by slot, where channels take them from. Nothing on the way of a request
/// looks here. An array that grows keeps them: they count in blocks of the members' data, which
/// stay where they are.
#[derive(Debug, Clone, Default)]
pub struct BadLists(Arc<Mutex<Lists>>);

#[derive(Debug, Default)]
struct Lists {
    by_slot: Vec<List>,
    /// Ranges that can't be written are listed, and the member stays.
    is_used: bool,
}

/// What a member lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct List {
    pub(super) ranges: Vec<BlockRange>,
    /// Its log has more entries than mdof changes.
    pub(super) is_frozen: bool,
}

impl BadLists {
    pub(super) fn new(by_slot: Vec<List>) -> Self {
        Self(Arc::new(Mutex::new(Lists { by_slot, is_used: false })))
    }

    fn change<T>(&self, act: impl FnOnce(&mut Lists) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is listed, as one machine knows it: by slot, in blocks of the members' data.
#[derive(Debug)]
pub(super) struct BadBlocks {
    /// Slots with a list that is not empty.
    listed: SlotMask,
    /// Ascending, and neither overlapping nor adjacent.
    lists: Box<[Vec<BlockRange>]>,
    /// Slots whose logs mdof does not change.
    frozen: SlotMask,
    /// Ranges that can't be written are listed.
    is_used: bool,
    /// Nothing is listed, and nothing will be.
    is_quiet: bool,
}

impl BadBlocks {
    /// What an array of so many slots has listed.
    pub(super) fn of(shared: &Shared) -> Self {
        let count = shared.places_len();
        let lists = (0..count).map(|_| Vec::new()).collect();
        let mut bad = Self { listed: 0, lists, frozen: 0, is_used: false, is_quiet: true };
        (0..).take(count).for_each(|slot| bad.take(slot, shared));
        bad
    }

    fn set(&mut self, slot: MemberSlot, list: Vec<BlockRange>) {
        self.listed &= !bit(slot);
        self.listed |= if list.is_empty() { 0 } else { bit(slot) };
        self.lists[usize::from(slot)] = list;
        self.is_quiet = self.listed == 0 && !self.is_used;
    }

    /// The devices of two slots change places.
    pub(super) fn swap(&mut self, one: MemberSlot, other: MemberSlot) {
        let (first, second) = (self.list(one).to_vec(), self.list(other).to_vec());
        let (was_one, was_other) = (self.is_frozen(one), self.is_frozen(other));
        self.set(one, second);
        self.set(other, first);
        self.frozen &= !(bit(one) | bit(other));
        self.frozen |= if was_other { bit(one) } else { 0 } | if was_one { bit(other) } else { 0 };
    }

    /// Takes over a slot's list.
    pub(super) fn take(&mut self, slot: MemberSlot, shared: &Shared) {
        let (list, is_used) = shared.bad.change(|lists| {
            (lists.by_slot.get(usize::from(slot)).cloned().unwrap_or_default(), lists.is_used)
        });
        self.is_used = is_used;
        self.frozen &= !bit(slot);
        self.frozen |= if list.is_frozen { bit(slot) } else { 0 };
        self.set(slot, list.ranges);
    }

    /// Neither is anything listed nor will it be.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Ranges that can't be written are listed, and the member stays.
    pub(super) fn is_used(&self) -> bool {
        self.is_used
    }

    /// The slot's log has more entries than mdof changes.
    pub(super) fn is_frozen(&self, slot: MemberSlot) -> bool {
        self.frozen & bit(slot) != 0
    }

    /// Nothing is listed on any member.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.listed == 0
    }

    /// What is listed on a slot.
    pub(super) fn list(&self, slot: MemberSlot) -> &[BlockRange] {
        &self.lists[usize::from(slot)]
    }

    /// Which of the members have listed a block of a run of the sync space.
    pub(super) fn at(&self, shared: &Shared, sync: &BlockRange, members: SlotMask) -> SlotMask {
        let is_bad = |slot: &MemberSlot| {
            let lba = shared.sync_leg_lba(sync.lba, *slot);
            overlaps(self.list(*slot), &BlockRange { lba, blocks: sync.blocks })
        };
        let bad = slots(members & self.listed).filter(is_bad);
        bad.fold(0, |mask, slot| mask | bit(slot))
    }

    /// How many blocks of a run of the sync space, from its first on, each of the members has
    /// either listed or not.
    pub(super) fn even(&self, shared: &Shared, sync: &BlockRange, members: SlotMask) -> u64 {
        slots(members & self.listed).fold(sync.blocks, |blocks, slot| {
            let lba = shared.sync_leg_lba(sync.lba, slot);
            even(self.list(slot), &BlockRange { lba, blocks })
        })
    }

    /// Blocks of a request, from its first on, that need no cut. All of them lie in one run.
    pub(super) fn uncut(&self, shared: &Shared, range: BlockRange, modifies: bool) -> u64 {
        let Some(parity) = shared.parity() else {
            // Who has listed a block is written all the same.
            let members = if modifies { 0 } else { shared.holders(range.lba, false) };
            return self.even(shared, &range, members);
        };
        let all = shared.geometry.all_slots();
        let sync = shared.sync_range(range);
        if self.even(shared, &sync, all) == sync.blocks {
            return range.blocks;
        }
        let to_strip_end = parity.strip_blocks() - range.lba % parity.strip_blocks();
        let blocks = range.blocks.min(to_strip_end);
        self.even(shared, &shared.sync_range(BlockRange { blocks, ..range }), all)
    }
}

impl Owner {
    /// What a slot's member has listed from now on, for everybody.
    pub(super) fn set_bad(&mut self, slot: MemberSlot, ranges: Vec<BlockRange>, out: &mut Out<'_>) {
        let is_frozen = self.bad.is_frozen(slot);
        self.install_list(slot, List { ranges, is_frozen }, out);
    }

    /// A device comes into a slot.
    pub(super) fn install_list(&mut self, slot: MemberSlot, list: List, out: &mut Out<'_>) {
        let is_new = self.shared.bad.change(|lists| {
            let own = &mut lists.by_slot[usize::from(slot)];
            let is_new = *own != list;
            *own = list;
            is_new
        });
        self.bad.take(slot, &self.shared);
        if is_new {
            out.mail.push_back(Mail::Channels(ToChannel::BadBlocks(slot)));
        }
    }
}

impl Owner {
    /// Whether ranges that can't be written are listed from now on.
    pub(super) fn use_bad_blocks(&mut self, is_used: bool, out: &mut Out<'_>) {
        if self.bad.is_used != is_used {
            self.shared.bad.change(|lists| lists.is_used = is_used);
            // Its own lists may be ahead of those, while a member is just being replaced.
            self.bad.is_used = is_used;
            self.bad.is_quiet = self.bad.listed == 0 && !is_used;
            out.mail.push_back(Mail::Channels(ToChannel::BadBlocks(0)));
        }
    }
}

impl Channel {
    /// A slot's list has changed.
    #[cold]
    pub(super) fn take_bad(&mut self, slot: MemberSlot) {
        self.bad.take(slot, &self.shared);
        self.never_cuts = self.is_mirror && self.bad.is_empty();
        if !self.never_cuts {
            self.be_able_to_split();
        }
    }
}

/// Whether a block of the range is listed.
pub(super) fn overlaps(list: &[BlockRange], range: &BlockRange) -> bool {
    let first = list.partition_point(|bad| bad.lba + bad.blocks <= range.lba);
    list.get(first).is_some_and(|bad| bad.lba < range.lba + range.blocks)
}

fn even(list: &[BlockRange], range: &BlockRange) -> u64 {
    let first = list.partition_point(|bad| bad.lba + bad.blocks <= range.lba);
    let Some(bad) = list.get(first) else { return range.blocks };
    let edge = if bad.lba <= range.lba { bad.lba + bad.blocks } else { bad.lba };
    range.blocks.min(edge - range.lba)
}

/// Whether all of the range is listed.
pub(super) fn covers(list: &[BlockRange], range: &BlockRange) -> bool {
    overlaps(list, &BlockRange { blocks: 1, ..*range }) && even(list, range) == range.blocks
}

/// The list without this range.
pub(super) fn without(list: &[BlockRange], range: BlockRange) -> Vec<BlockRange> {
    let end = range.lba + range.blocks;
    let rest = |bad: &BlockRange| {
        let bad_end = bad.lba + bad.blocks;
        let before = (bad.lba < range.lba)
            .then(|| BlockRange { lba: bad.lba, blocks: bad_end.min(range.lba) - bad.lba });
        let behind = (bad_end > end).then(|| {
            let lba = bad.lba.max(end);
            BlockRange { lba, blocks: bad_end - lba }
        });
        [before, behind].into_iter().flatten()
    };
    list.iter().flat_map(rest).collect()
}

/// The list with this range.
pub(super) fn with(list: &[BlockRange], range: BlockRange) -> Vec<BlockRange> {
    let touches = |bad: &&BlockRange| {
        bad.lba <= range.lba + range.blocks && range.lba <= bad.lba + bad.blocks
    };
    let lba = list.iter().filter(touches).fold(range.lba, |lba, bad| lba.min(bad.lba));
    let end = list
        .iter()
        .filter(touches)
        .fold(range.lba + range.blocks, |end, bad| end.max(bad.lba + bad.blocks));
    let mut all: Vec<BlockRange> = list.iter().filter(|bad| !touches(bad)).copied().collect();
    let at = all.partition_point(|bad| bad.lba < lba);
    all.insert(at, BlockRange { lba, blocks: end - lba });
    all
}

/// What a member's log lists, in blocks of its data, which begins at the sector `data`. A block is
/// bad if one of its sectors is; what lies before the data is nobody's.
pub(super) fn from_log(ranges: &[BadRange], data: u64, block_size_bytes: u32) -> List {
    let sectors_per_block = u64::from(block_size_bytes) / SECTOR_BYTES;
    let blocks = ranges.iter().filter_map(|range| {
        let end = (range.start_sector + range.sectors).checked_sub(data).filter(|&end| end > 0)?;
        let lba = range.start_sector.saturating_sub(data) / sectors_per_block;
        Some(BlockRange { lba, blocks: end.div_ceil(sectors_per_block) - lba })
    });
    List {
        ranges: blocks.fold(Vec::new(), |list, range| with(&list, range)),
        is_frozen: ranges.len() > BAD_BLOCK_ENTRIES_WRITTEN_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCKS: usize = 64;

    fn run((lba, blocks): (u64, u64)) -> BlockRange {
        BlockRange { lba, blocks: blocks.min(BLOCKS as u64 - lba) }
    }

    fn bits(list: &[BlockRange]) -> [bool; BLOCKS] {
        let is_in =
            |block: u64| list.iter().any(|it| block >= it.lba && block < it.lba + it.blocks);
        std::array::from_fn(|block| is_in(block as u64))
    }

    fn runs() -> impl Strategy<Value = Vec<BlockRange>> {
        let one = (0..BLOCKS as u64, 1..12u64).prop_map(run);
        proptest::collection::vec(one, 0..8)
    }

    proptest! {
        #[test]
        fn a_list_is_a_set_of_blocks(parts in runs(), look in (0..BLOCKS as u64, 1..20u64)) {
            let list = parts.iter().fold(Vec::new(), |list, part| with(&list, *part));
            prop_assert_eq!(bits(&list), bits(&parts));
            for pair in list.windows(2) {
                prop_assert!(pair[0].lba + pair[0].blocks < pair[1].lba, "{:?}", list);
            }
            let look = run(look);
            let (from, len) = (usize::try_from(look.lba)?, usize::try_from(look.blocks)?);
            let model = &bits(&list)[from..from + len];
            prop_assert_eq!(overlaps(&list, &look), model.contains(&true));
            prop_assert_eq!(covers(&list, &look), !model.contains(&false));
            let mut left = bits(&list);
            left[from..from + len].fill(false);
            let without = without(&list, look);
            prop_assert_eq!(bits(&without), left);
            prop_assert!(without.iter().all(|it| it.blocks > 0));
            let alike = model.iter().take_while(|it| **it == model[0]).count() as u64;
            prop_assert_eq!(even(&list, &look), alike);
        }

        #[test]
        fn a_log_counts_sectors_and_a_list_blocks(
            ranges in proptest::collection::vec((0..300u64, 1..30u64), 0..6),
        ) {
            let ranges: Vec<BadRange> = ranges
                .iter()
                .map(|&(start_sector, sectors)| BadRange { start_sector, sectors })
                .collect();
            let list = from_log(&ranges, 64, 4096).ranges;
            for block in 0..40u64 {
                let sectors = 64 + block * 8..64 + (block + 1) * 8;
                let is_bad = ranges.iter().any(|it| {
                    it.start_sector < sectors.end && sectors.start < it.start_sector + it.sectors
                });
                prop_assert_eq!(overlaps(&list, &BlockRange { lba: block, blocks: 1 }), is_bad);
            }
        }
    }
}

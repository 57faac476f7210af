//! Runs on members put together: what is done to a chunk strip by strip touches few ranges of each
//! member, and a request for a range costs as much as one for a strip.

use super::MemberSlot;
use crate::limits::MEMBERS_MAX;

/// Ranges of one member that are being put together. With far copies a member has a part of a
/// chunk in two places, and with offset copies two rows grow by turns.
const OPEN_MAX: usize = 2;

/// A range of a member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) lba: u64,
    /// 0: none.
    pub(super) blocks: u64,
}

impl Span {
    fn end(&self) -> u64 {
        self.lba + self.blocks
    }

    /// Takes in a range that begins where it ends, or the other way round. Whether it did.
    fn join(&mut self, other: Span) -> bool {
        let touches = self.end() == other.lba || other.end() == self.lba;
        let joins = self.blocks > 0 && other.blocks > 0 && touches;
        if joins {
            *self = Span { lba: self.lba.min(other.lba), blocks: self.blocks + other.blocks };
        }
        joins
    }
}

/// Ranges of members that are being put together.
#[derive(Debug)]
pub(super) struct Spans([[Span; OPEN_MAX]; MEMBERS_MAX]);

impl Spans {
    pub(super) fn new() -> Self {
        Self([[Span::default(); OPEN_MAX]; MEMBERS_MAX])
    }

    /// Adds a run of a member. Gives back a range that has to make room for it.
    pub(super) fn add(&mut self, slot: MemberSlot, run: Span) -> Option<Span> {
        let [older, newer] = &mut self.0[usize::from(slot)];
        if older.join(run) || newer.join(run) {
            if older.join(*newer) {
                *newer = Span::default();
            }
            return None;
        }
        let place = if older.blocks == 0 { older } else { newer };
        let before = std::mem::replace(place, run);
        if before.blocks == 0 {
            return None;
        }
        Some(std::mem::replace(&mut self.0[usize::from(slot)][0], before))
    }

    /// What is left, by member.
    pub(super) fn into_rest(self) -> impl Iterator<Item = (MemberSlot, Span)> {
        let members = (0..).zip(self.0);
        let all = members.flat_map(|(slot, spans)| spans.map(|span| (slot, span)));
        all.filter(|(_, span)| span.blocks > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put_together(runs: &[(u64, u64)]) -> Vec<Span> {
        let mut spans = Spans::new();
        let runs = runs.iter().map(|&(lba, blocks)| Span { lba, blocks });
        let mut out: Vec<Span> = runs.filter_map(|run| spans.add(3, run)).collect();
        out.extend(spans.into_rest().map(|(slot, span)| {
            assert_eq!(slot, 3);
            span
        }));
        out
    }

    #[test]
    fn strips_that_touch_are_one_range() {
        let near = put_together(&[(8, 4), (12, 4), (16, 4)]);
        assert_eq!(near, [Span { lba: 8, blocks: 12 }]);
        let far = put_together(&[(8, 4), (108, 4), (12, 4), (112, 4)]);
        assert_eq!(far, [Span { lba: 8, blocks: 8 }, Span { lba: 108, blocks: 8 }]);
        // Of two rows with offset copies the lower one comes first.
        let offset = put_together(&[(12, 4), (8, 4), (20, 4), (16, 4), (28, 4), (24, 4)]);
        assert_eq!(offset, [Span { lba: 8, blocks: 24 }]);
    }

    proptest! {
        #[test]
        fn every_block_is_in_one_range(
            order in Just((0..40u64).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            // Every third run is left out.
            let runs: Vec<(u64, u64)> =
                order.iter().filter(|&run| run % 3 != 0).map(|&run| (run * 4, 4)).collect();
            let mut found: Vec<u64> = put_together(&runs)
                .iter()
                .flat_map(|span| span.lba..span.end())
                .collect();
            found.sort_unstable();
            let mut given: Vec<u64> =
                runs.iter().flat_map(|&(lba, blocks)| lba..lba + blocks).collect();
            given.sort_unstable();
            prop_assert_eq!(found, given);
        }
    }
}

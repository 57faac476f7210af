//! Every query of small arrays of every kind, held against the table.

use proptest::prelude::*;

use super::super::{Content, Geometry, Run, SlotMask};
use super::table::Table;
use super::{Case, parity_layouts, raid10_layout};

/// Members that lack anything are tried in all combinations up to this many slots.
const SLOTS_OF_ALL_SETS: u8 = 7;

fn check(case: &Case) {
    let geometry = case.geometry().unwrap();
    let table = Table::new(case);
    assert!(!table.clashes, "{case:?} is taken and clashes");
    assert_eq!(geometry.blocks(), table.blocks, "{case:?}");
    check_forward(case, &geometry, &table);
    check_places(case, &geometry, &table);
    check_sync(case, &geometry, &table);
    check_sets(case, &geometry, &table);
}

/// From the array to the members.
fn check_forward(case: &Case, geometry: &Geometry, table: &Table) {
    for lba in 0..geometry.blocks() {
        let expected = table.places(lba);
        match geometry {
            Geometry::Copies(copies) => {
                let legs: Vec<_> = (0..)
                    .zip(copies.legs(lba))
                    .map(|(copy, leg)| (copy, leg.slot, leg.member_lba))
                    .collect();
                assert_eq!(legs, expected, "{case:?} block {lba}");
                assert_eq!(legs.len(), usize::from(copies.copies()));
                let mask = legs.iter().fold(0, |mask: SlotMask, leg| mask | 1 << leg.1);
                assert_eq!((copies.legs(lba).mask(), copies.holders(lba)), (mask, mask));
                assert_eq!(mask.count_ones() as usize, legs.len(), "one member, two copies");
                for slot in 0..geometry.slots() {
                    let leg = expected.iter().find(|place| place.1 == slot);
                    assert_eq!(copies.legs(lba).on(slot), leg.map(|place| place.2));
                }
                let blocks = copies.legs(lba).blocks;
                assert_eq!(copies.run_blocks(lba), blocks);
                let run_goes_on = |by: u64| {
                    let moved = expected.iter().map(|&(copy, slot, at)| (copy, slot, at + by));
                    table.places(lba + by) == moved.collect::<Vec<_>>()
                };
                assert!((1..blocks).all(run_goes_on), "{case:?} run of block {lba}");
                if let Some(strip) = geometry.strip_blocks() {
                    assert_eq!((lba + blocks) % strip, 0);
                }
            }
            Geometry::Parity(parity) => {
                let strip = parity.strip(lba);
                assert_eq!([(0, strip.slot, strip.member_lba)][..], expected, "{case:?} {lba}");
                assert_eq!(parity.array_lba(strip.row, strip.index, strip.offset), lba);
                assert_eq!((lba + strip.blocks) % parity.strip_blocks(), 0);
                assert_eq!(parity.row(strip.row).data_slot(strip.index), strip.slot);
            }
        }
    }
}

/// From the members to the array: all that a member has, the rest of it unused.
fn check_places(case: &Case, geometry: &Geometry, table: &Table) {
    for slot in 0..geometry.slots() {
        let used = geometry.member_blocks(slot);
        assert!(used >= table.members[usize::from(slot)].len() as u64, "{case:?} slot {slot}");
        for member_lba in 0..used + 2 {
            let place = geometry.place(slot, member_lba);
            let what = || format!("{case:?} slot {slot} block {member_lba}: {place:?}");
            assert_eq!(place.content, table.at(slot.into(), member_lba), "{}", what());
            assert!(place.blocks > 0, "{}", what());
            for by in 1..place.blocks.min(used + 2 - member_lba) {
                let expected = match place.content {
                    Content::Data { lba, copy } => Content::Data { lba: lba + by, copy },
                    other => other,
                };
                let found = table.at(slot.into(), member_lba + by);
                assert_eq!(found, expected, "{} and {by} on", what());
            }
        }
        assert_eq!(geometry.place(slot, u64::MAX).content, Content::Unused);
    }
}

/// Sync space: what is written is inside of what is synced, and nothing is widened needlessly.
fn check_sync(case: &Case, geometry: &Geometry, table: &Table) {
    let sync_blocks = geometry.sync_blocks();
    let runs_of = |total: u64| {
        let at = [0, 1, 2, 3, total / 2, total.saturating_sub(3), total.saturating_sub(1)];
        let lengths = [1, 2, 3, 5, total / 3, total];
        let pairs = at.into_iter().flat_map(move |lba| lengths.map(|blocks| Run { lba, blocks }));
        pairs.filter(move |run| run.blocks > 0 && run.end() <= total)
    };
    for run in runs_of(geometry.blocks()) {
        let sync = geometry.sync_range(run);
        match geometry {
            Geometry::Copies(copies) if !copies.has_redundancy() => assert_eq!(sync, None),
            Geometry::Copies(_) => assert_eq!(sync, Some(run)),
            Geometry::Parity(parity) => {
                let touched = (run.lba..run.end()).map(|lba| parity.strip(lba).row);
                let (first, last) = (touched.clone().min().unwrap(), touched.max().unwrap());
                let strip = parity.strip_blocks();
                let blocks = (last + 1 - first) * strip;
                assert_eq!(sync, Some(Run { lba: first * strip, blocks }), "{case:?} {run:?}");
            }
        }
    }
    for sync in runs_of(sync_blocks) {
        let mut told = Vec::new();
        let mut last_row = 0;
        for run in geometry.array_runs(sync) {
            if let Geometry::Parity(parity) = geometry {
                let row = parity.strip(run.lba).row;
                assert!(row >= last_row, "{case:?} {sync:?}: rows ascend");
                last_row = row;
            }
            told.extend(run.lba..run.end());
        }
        told.sort_unstable();
        let mut expected: Vec<u64> = match geometry {
            Geometry::Copies(_) => (sync.lba..sync.end()).collect(),
            Geometry::Parity(_) => (0..table.members.len())
                .flat_map(|slot| (sync.lba..sync.end()).map(move |at| table.at(slot, at)))
                .filter_map(|content| match content {
                    Content::Data { lba, .. } => Some(lba),
                    _ => None,
                })
                .collect(),
        };
        expected.sort_unstable();
        assert_eq!(told, expected, "{case:?} {sync:?}: once each, and no other");
    }
}

/// The same by looking at every strip and row.
fn is_readable(case: &Case, geometry: &Geometry, table: &Table, in_sync: SlotMask) -> bool {
    let holds = |slot: usize| in_sync >> slot & 1 != 0;
    if let 4..=6 = case.level {
        let parity = if case.level == 6 { 2 } else { 1 };
        return (0..table.members.len()).filter(|&slot| !holds(slot)).count() <= parity;
    }
    let mut readable = vec![false; usize::try_from(geometry.blocks()).unwrap()];
    for (slot, member) in table.members.iter().enumerate().filter(|&(slot, _)| holds(slot)) {
        for content in member {
            if let Content::Data { lba, .. } = content {
                assert!(slot < table.members.len());
                readable[usize::try_from(*lba).unwrap()] = true;
            }
        }
    }
    readable.into_iter().all(|readable| readable)
}

fn check_sets(case: &Case, geometry: &Geometry, table: &Table) {
    let slots = geometry.slots();
    assert_eq!(usize::from(slots), table.members.len());
    for slot in 0..slots {
        let mut partners: SlotMask = 0;
        for other in (0..slots).filter(|&other| other != slot) {
            let shares = match geometry {
                Geometry::Parity(_) => true,
                Geometry::Copies(_) => {
                    let blocks = |slot: u8| {
                        table.members[usize::from(slot)].iter().filter_map(
                            |content| match content {
                                Content::Data { lba, .. } => Some(*lba),
                                _ => None,
                            },
                        )
                    };
                    let own: std::collections::BTreeSet<u64> = blocks(slot).collect();
                    blocks(other).any(|lba| own.contains(&lba))
                }
            };
            partners |= SlotMask::from(shares) << other;
        }
        assert_eq!(geometry.partners(slot), partners, "{case:?} slot {slot}");
    }
    if slots > SLOTS_OF_ALL_SETS {
        return;
    }
    let readable: Vec<bool> =
        (0..1 << slots).map(|mask| is_readable(case, geometry, table, mask)).collect();
    for mask in 0..1u64 << slots {
        let expected = readable[usize::try_from(mask).unwrap()];
        assert_eq!(geometry.is_readable(mask), expected, "{case:?} {mask:b}");
        // Bits of no slot do not count.
        let noise = if slots == 64 { 0 } else { !0 << slots };
        assert_eq!(geometry.is_readable(mask | noise), expected, "{case:?} {mask:b}");
        for slot in 0..slots {
            let without = readable[usize::try_from(mask & !(1 << slot)).unwrap()];
            assert_eq!(geometry.may_fail(mask, slot), without, "{case:?} {mask:b} {slot}");
        }
    }
}

#[test]
fn raid10_of_every_layout_is_the_table_or_refused_for_a_clash() {
    let (mut taken, mut refused) = (0, 0);
    for slots in 2..=7u32 {
        for (near, far) in (1..=4u32).flat_map(|near| (1..=4u32).map(move |far| (near, far))) {
            if !(2..=slots).contains(&(near * far)) {
                continue;
            }
            for (is_offset, set) in (0..6).map(|at| (at % 2 == 1, at / 2)) {
                let layout = raid10_layout(near, far, is_offset, set);
                let tall = Case::rows(10, layout, slots, u64::from(far * 4 + 1));
                let clashes = Table::new(&tall).clashes;
                assert_eq!(tall.geometry().is_err(), clashes, "{tall:?}");
                if clashes {
                    refused += 1;
                    let text = tall.geometry().unwrap_err().to_string();
                    assert!(text.starts_with("layout: "), "{text}");
                    continue;
                }
                taken += 1;
                check(&tall);
                check(&Case::rows(10, layout, slots, u64::from(far)));
            }
        }
    }
    assert!(taken > 150 && refused > 30, "{taken} taken, {refused} refused");
}

#[test]
fn parity_levels_of_every_layout_are_the_table() {
    for (level, layout, min) in parity_layouts() {
        for slots in min..=7 {
            check(&Case::rows(level, layout, slots, u64::from(2 * slots + 1)));
            check(&Case::rows(level, layout, slots, 1));
        }
    }
}

#[test]
fn q_counts_powers_as_md_does() {
    for (level, layout, min) in parity_layouts().filter(|&(level, ..)| level == 6) {
        for slots in min..=9u32 {
            let Ok(Geometry::Parity(parity)) = Case::rows(level, layout, slots, 40).geometry()
            else {
                panic!("no parity level")
            };
            for row in (0..parity.rows()).map(|row| parity.row(row)) {
                let (p, q) = (row.p(), row.q().unwrap());
                // raid6_d0, raid6_next_disk and raid6_idx_to_slot.
                let is_ddf = (8..=10).contains(&layout);
                let last = u8::try_from(slots - 1).unwrap();
                let mut slot = if is_ddf || q == last { 0 } else { q + 1 };
                let mut count = 0;
                for _ in 0..slots {
                    if slot != p && slot != q {
                        let index = (0..parity.data_members()).find(|&i| row.data_slot(i) == slot);
                        assert_eq!(row.power(index.unwrap()), count, "{layout} {slots} {row:?}");
                    }
                    count += u8::from(is_ddf || slot != p && slot != q);
                    slot = if slot == last { 0 } else { slot + 1 };
                }
            }
        }
    }
}

#[test]
fn raid1_is_the_table() {
    for slots in 1..=6 {
        check(&Case::rows(1, 0, slots, 3));
        check(&Case { block_size_bytes: 512, ..Case::rows(1, 0, slots, 1) });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn raid0_and_linear_of_unequal_members_are_the_table(
        level in prop_oneof![3 => Just(0), 1 => Just(-1)],
        layout in 1..=2u32,
        strip in 1..=3u32,
        members in prop::collection::vec((1..=9u64, 0..8u64), 1..=6),
    ) {
        let chunk_sectors = strip * 8;
        let sectors = |&(strips, rest): &(u64, u64)| strips * u64::from(chunk_sectors) + rest;
        check(&Case {
            level,
            layout,
            slots: members.len().try_into().unwrap(),
            chunk_sectors,
            size_sectors: 0,
            member_sectors: members.iter().map(sectors).collect(),
            block_size_bytes: 4096,
        });
    }
}

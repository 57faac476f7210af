//! Arrays of any size up to the largest: there and back again, where no table can be written.

use proptest::prelude::*;

use super::super::{ARRAY_SECTORS_MAX, Content, Geometry, Part, Run};
use super::{Case, parity_layouts, raid10_layout};
use crate::limits::MEMBERS_MAX;

/// Cases that are nearly always taken.
pub(super) fn case() -> impl Strategy<Value = Case> {
    let layout = (1..=4u32, 1..=4u32, any::<bool>(), 0..3u32)
        .prop_map(|(near, far, offset, set)| (10, raid10_layout(near, far, offset, set)));
    let parity: Vec<_> = parity_layouts().map(|(level, layout, _)| (level, layout)).collect();
    let level = prop_oneof![
        1 => Just((1, 0)),
        2 => prop_oneof![Just((-1, 0)), Just((0, 1)), Just((0, 2))],
        4 => layout,
        4 => prop::sample::select(parity),
    ];
    let block = prop_oneof![Just(512), Just(4096)];
    (level, 1..=MEMBERS_MAX, 3..=21u32, 0..=54u32, any::<u64>(), block).prop_flat_map(
        |((level, layout), slots, shift, size_shift, low, block_size_bytes)| {
            let limit = ARRAY_SECTORS_MAX / slots as u64;
            let size = move |low: u64| ((1 << size_shift) + low % (1 << size_shift)).min(limit);
            prop::collection::vec(any::<u64>(), slots).prop_map(move |lows| Case {
                level,
                layout,
                slots: slots.try_into().unwrap(),
                chunk_sectors: 1 << shift,
                size_sectors: size(low),
                member_sectors: lows.into_iter().map(size).collect(),
                block_size_bytes,
            })
        },
    )
}

/// What must hold around a block of any array.
pub(super) fn check_block(geometry: &Geometry, lba: u64) {
    match geometry {
        Geometry::Copies(copies) => {
            let legs = copies.legs(lba);
            let (blocks, mask) = (legs.blocks, legs.mask());
            assert!(lba + blocks <= geometry.blocks());
            assert_eq!((copies.run_blocks(lba), copies.holders(lba)), (blocks, mask));
            assert_eq!(mask.count_ones(), u32::from(copies.copies()));
            let mut given = 0;
            for (copy, leg) in (0..).zip(legs) {
                given |= 1 << leg.slot;
                assert!(leg.member_lba + blocks <= geometry.member_blocks(leg.slot));
                let place = geometry.place(leg.slot, leg.member_lba);
                assert_eq!(place.content, Content::Data { lba, copy });
                assert!(place.blocks >= blocks, "{place:?}");
                assert_eq!(copies.legs(lba).on(leg.slot), Some(leg.member_lba));
            }
            assert_eq!(given, mask);
            assert_eq!(geometry.is_readable(!mask), geometry.slots() == 0, "all copies are gone");
        }
        Geometry::Parity(parity) => {
            let strip = parity.strip(lba);
            assert!(strip.member_lba + strip.blocks <= parity.member_blocks());
            assert_eq!(parity.array_lba(strip.row, strip.index, strip.offset), lba);
            let place = geometry.place(strip.slot, strip.member_lba);
            assert_eq!(place.content, Content::Data { lba, copy: 0 });
            assert_eq!(place.blocks, strip.blocks);
            let row = parity.row(strip.row);
            assert_eq!(row.part(strip.slot), Part::Data { index: strip.index });
            assert_eq!(row.part(row.p()), Part::P);
            assert!(row.q().is_none_or(|q| row.part(q) == Part::Q));
            assert_eq!(row.parity_mask().count_ones(), u32::from(parity.parity_members()));
            let data = (0..parity.data_members()).map(|index| row.data_slot(index));
            let all = data.fold(row.parity_mask(), |mask, slot| mask | 1 << slot);
            assert_eq!(all, geometry.all_slots(), "every member has one part of the row");
        }
    }
    if geometry.sync_blocks() > 0 {
        let sync = geometry.sync_range(Run { lba, blocks: 1 }).unwrap();
        assert!(sync.end() <= geometry.sync_blocks());
        let mut runs = geometry.array_runs(sync);
        assert!(runs.any(|run| (run.lba..run.end()).contains(&lba)));
    }
}

/// What must hold of a place on a member: the mapping leads back to it.
pub(super) fn check_place(geometry: &Geometry, slot: u8, member_lba: u64) {
    let place = geometry.place(slot, member_lba);
    assert!(place.blocks > 0);
    match (place.content, geometry) {
        (Content::Data { lba, copy }, Geometry::Copies(copies)) => {
            assert!(lba + place.blocks <= geometry.blocks());
            let leg = copies.legs(lba).nth(copy.into()).unwrap();
            assert_eq!((leg.slot, leg.member_lba), (slot, member_lba));
        }
        (Content::Data { lba, .. }, Geometry::Parity(parity)) => {
            let strip = parity.strip(lba);
            assert_eq!((strip.slot, strip.member_lba), (slot, member_lba));
        }
        (Content::P { row }, Geometry::Parity(parity)) => {
            assert_eq!((parity.row(row).p(), row), (slot, member_lba / parity.strip_blocks()));
        }
        (Content::Q { row }, Geometry::Parity(parity)) => {
            let row_here = member_lba / parity.strip_blocks();
            assert_eq!((parity.row(row).q(), row), (Some(slot), row_here));
        }
        (Content::Unused, _) => {
            let used = geometry.member_blocks(slot);
            let is_end_of_raid10 = matches!(geometry, Geometry::Copies(c) if c.copies() > 1);
            assert!(member_lba >= used || is_end_of_raid10, "{slot} {member_lba} of {used}");
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn there_and_back_again(case in case(), at in any::<u64>(), slot in any::<u8>()) {
        // Too small, too few members for the copies, or copies that clash.
        let Ok(geometry) = case.geometry() else { return Ok(()) };
        let total = geometry.blocks();
        for lba in [at % total, 0, total - 1] {
            check_block(&geometry, lba);
        }
        let slot = slot % geometry.slots();
        let used = geometry.member_blocks(slot);
        for member_lba in [at % used, 0, used - 1, used, at] {
            check_place(&geometry, slot, member_lba);
        }
        let copies = match &geometry {
            Geometry::Copies(copies) => u64::from(copies.copies()),
            Geometry::Parity(_) => 1,
        };
        let room: u64 = (0..geometry.slots()).map(|slot| geometry.member_blocks(slot)).sum();
        prop_assert!(total * copies <= room);
    }
}

#[test]
fn most_cases_are_taken() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut taken = 0;
    for _ in 0..200 {
        taken += usize::from(case().new_tree(&mut runner).unwrap().current().geometry().is_ok());
    }
    assert!(taken > 80, "{taken} of 200 would test anything");
}

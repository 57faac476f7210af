//! Numbers that no array has: an error that names the field, or an array that works.

use proptest::prelude::*;

use super::super::{ARRAY_SECTORS_MAX, CHUNK_SECTORS_MAX, GeometryError};
use super::inverse::{check_block, check_place};
use super::{Case, raid10_layout};

fn number_u32() -> impl Strategy<Value = u32> {
    let edges = [0, 1, 2, 7, 8, 63, 64, 65, 255, 256, u32::MAX, u32::MAX - 1, 1 << 31, 1 << 21];
    prop_oneof![any::<u32>(), 0..100u32, prop::sample::select(edges.to_vec())]
}

fn number_u64() -> impl Strategy<Value = u64> {
    let max = ARRAY_SECTORS_MAX;
    let edges = [0, 1, 7, 8, max - 1, max, max + 1, max / 64, max / 3, u64::MAX, 1 << 63];
    let any_size = (any::<u64>(), 0..64u32).prop_map(|(number, shift)| number >> shift);
    prop_oneof![any_size, prop::sample::select(edges.to_vec())]
}

fn case() -> impl Strategy<Value = Case> {
    let level = prop_oneof![
        1 => any::<i32>(),
        9 => prop::sample::select(vec![-1, 0, 1, 4, 5, 6, 10]),
    ];
    let layout = prop_oneof![
        number_u32(),
        0..21u32,
        (0..9u32, 0..9u32, any::<bool>(), 0..5u32)
            .prop_map(|(near, far, offset, set)| raid10_layout(near, far, offset, set)),
    ];
    let chunk = prop_oneof![1 => number_u32(), 3 => (0..32u32).prop_map(|shift| 1 << shift)];
    let block = prop_oneof![1 => number_u32(), 4 => Just(512), 4 => Just(4096)];
    let members = prop::collection::vec(number_u64(), 0..70);
    (level, layout, number_u32(), chunk, number_u64(), members, block, 0..4u8).prop_map(
        |(level, layout, slots, chunk_sectors, size_sectors, member_sectors, block, fit)| Case {
            level,
            layout,
            slots: if fit > 0 { member_sectors.len().try_into().unwrap() } else { slots },
            chunk_sectors,
            size_sectors,
            member_sectors,
            block_size_bytes: block,
        },
    )
}

/// The text says the field, and changing any other field does not help.
fn check_error(case: &Case, error: &GeometryError) {
    let text = error.to_string();
    let (field, _) = text.split_once(": ").expect("a field, a colon, a reason");
    let is_wrong = match field {
        "level" => ![-1, 0, 1, 4, 5, 6, 10].contains(&case.level),
        "layout" => true,
        "raid_disks" => {
            let min = if case.level == 6 { 4 } else { 2 };
            !(min..=64).contains(&case.slots) && (case.level > 1 || case.slots != 1)
                || case.member_sectors.len() as u64 != u64::from(case.slots)
        }
        "chunksize" => {
            let chunk = case.chunk_sectors;
            let block = case.block_size_bytes / 512;
            let is_bad_power = chunk < 8 || !chunk.is_power_of_two();
            let is_bad_multiple = chunk == 0 || !chunk.is_multiple_of(block);
            chunk > CHUNK_SECTORS_MAX || if case.level > 0 { is_bad_power } else { is_bad_multiple }
        }
        "size" => {
            case.level > 0
                && (u128::from(case.size_sectors) * u128::from(case.slots)
                    > u128::from(ARRAY_SECTORS_MAX)
                    // 255 copies one below the other.
                    || case.size_sectors < u64::from(case.chunk_sectors.max(8)) * 255)
        }
        "logical_block_size" => ![512, 4096].contains(&case.block_size_bytes),
        "data_size" => {
            let least = u64::from(case.chunk_sectors.max(case.block_size_bytes / 512));
            let most = ARRAY_SECTORS_MAX / u64::from(case.slots);
            case.level < 1 && case.member_sectors.iter().any(|size| !(least..=most).contains(size))
        }
        _ => false,
    };
    assert!(is_wrong, "{text}: {case:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn any_numbers_are_refused_by_name_or_work(
        case in case(),
        at in any::<u64>(),
        slot in any::<u8>(),
    ) {
        let geometry = match case.geometry() {
            Ok(geometry) => geometry,
            Err(error) => {
                check_error(&case, &error);
                return Ok(());
            }
        };
        let total = geometry.blocks();
        prop_assert!(total > 0 && total <= ARRAY_SECTORS_MAX);
        prop_assert!(geometry.strip_blocks().is_none_or(|strip| strip > 0));
        prop_assert!(geometry.full_stripe_blocks().is_none_or(|stripe| stripe > 0));
        for lba in [0, at % total, total - 1] {
            check_block(&geometry, lba);
        }
        let slot = slot % geometry.slots();
        for member_lba in [0, at, geometry.member_blocks(slot), u64::MAX] {
            check_place(&geometry, slot, member_lba);
        }
        prop_assert!(geometry.is_readable(geometry.all_slots()));
        prop_assert!(geometry.is_readable(u64::MAX) && !geometry.is_readable(0));
        let _ = geometry.partners(slot);
    }
}

fn text(case: &Case) -> String {
    case.geometry().unwrap_err().to_string()
}

#[test]
fn each_field_is_refused_for_its_reason() {
    let good = Case::rows(5, 2, 3, 9);
    assert!(good.geometry().is_ok());
    let refused = [
        (Case { level: 7, ..good.clone() }, "level: 7 is no RAID level"),
        (Case { layout: 6, ..good.clone() }, "layout: raid5 has no layout 0x6: they are 0 to 5"),
        (Case { slots: 1, ..good.clone() }, "raid_disks: raid5 takes 2 to 64 members, not 1"),
        (Case { slots: 65, ..good.clone() }, "raid_disks: raid5 takes 2 to 64 members, not 65"),
        (Case { chunk_sectors: 24, ..good.clone() }, "chunksize: raid5 cannot have chunks of 24"),
        (Case { chunk_sectors: 4, ..good.clone() }, "chunksize: raid5 cannot have chunks of 4"),
        (Case { size_sectors: 15, ..good.clone() }, "size: 15 sectors of each member do not hold"),
        (Case { size_sectors: u64::MAX, ..good.clone() }, "size: 3 members of 18446744073709551"),
        (Case { block_size_bytes: 520, ..good.clone() }, "logical_block_size: 520 bytes"),
        (Case::rows(6, 7, 4, 9), "layout: raid6 has no layout 0x7: they are 0 to 5, 8 to 10 and"),
        (Case::rows(6, 2, 3, 9), "raid_disks: raid6 takes 4"),
        (Case::rows(10, 0x101, 4, 9), "layout: raid10 has no layout 0x101: it stands for fewer"),
        (Case::rows(10, 0x105, 4, 9), "layout: raid10 has no layout 0x105: it stands for more"),
        (Case::rows(10, 0x8_0102, 4, 9), "layout: raid10 has no layout 0x80102: bits 19"),
        (Case::rows(10, 0x6_0102, 4, 9), "layout: raid10 has no layout 0x60102: far sets"),
        (Case::rows(10, 0x201, 4, 1), "size: 31 sectors of each member do not hold one chunk of"),
    ];
    for (case, start) in refused {
        assert!(text(&case).starts_with(start), "{}", text(&case));
    }
}

#[test]
fn raid0_of_unequal_members_needs_its_layout() {
    let case = |layout, member_sectors: &[u64]| Case {
        slots: member_sectors.len().try_into().unwrap(),
        member_sectors: member_sectors.to_vec(),
        ..Case::rows(0, layout, 0, 0)
    };
    assert!(case(0, &[160, 160, 160]).geometry().is_ok());
    assert!(case(0, &[160, 160, 320]).geometry().is_ok(), "the second zone is one member wide");
    let refused = text(&case(0, &[160, 320, 320]));
    assert!(refused.contains("layout: raid0") && refused.contains("mdadm"), "{refused}");
    assert!(case(1, &[160, 320, 320]).geometry().is_ok());
    assert!(text(&case(3, &[160, 160])).starts_with("layout: raid0 has no layout 0x3"));
    assert!(text(&case(1, &[160, 15])).starts_with("data_size: the 15 sectors of slot 1"));
    assert!(text(&case(1, &[160, u64::MAX])).starts_with("data_size: 2 members of"));
    let short = Case { slots: 3, ..case(1, &[160, 160]) };
    assert!(text(&short).starts_with("raid_disks: 3 slots, but the sizes of 2 members"));
}

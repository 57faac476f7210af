//! What becomes of an external bitmap, case by case.

use super::*;
use crate::md::tests::sample;
use crate::md::{BITMAP_HEAD_BYTES, BitmapPlan, Slot, Superblock};

const ROOM: u64 = 1 << 20;

/// An array without a bitmap of its own that mdof ran last.
fn assembly() -> Assembly {
    let mut superblock = sample();
    superblock.features.remove(Features::BITMAP_OFFSET);
    superblock.events = 50;
    superblock.updated_at(7, true);
    Assembly {
        freshest: 0,
        superblock,
        slots: vec![Slot::InSync { candidate: 0 }, Slot::InSync { candidate: 1 }],
        replacement: None,
        orphaned: Vec::new(),
        rejected: Vec::new(),
        dirty: true,
        bitmap: BitmapPlan::None,
        full_resync_needed: true,
    }
}

fn head(array: &Superblock, events: u64) -> ExternalHead {
    let mut head = BitmapSuperblock::created(array, 128, 256);
    head.events = events;
    let mut bytes = [0; BITMAP_HEAD_BYTES];
    head.encode_into(&mut bytes);
    ExternalHead::Found(BitmapSuperblock::parse_external(&bytes, array, ROOM).unwrap())
}

fn plan(assembly: &Assembly, head: &ExternalHead) -> Result<ExternalPlan, ExternalError> {
    ExternalPlan::new(assembly, head, ROOM, ExternalPermits::default())
}

fn lost(assembly: &Assembly, head: &ExternalHead) -> Result<ExternalPlan, ExternalError> {
    let permits = ExternalPermits { lost_resync: true, ..ExternalPermits::default() };
    ExternalPlan::new(assembly, head, ROOM, permits)
}

#[test]
fn events_and_mark_decide() {
    let mut own = assembly();
    let at = |events| head(&assembly().superblock, events);
    assert!(matches!(plan(&own, &at(50)), Ok(ExternalPlan::Load { .. })));
    assert!(matches!(plan(&own, &at(51)), Ok(ExternalPlan::Load { .. })));
    let stale = plan(&own, &at(49)).unwrap();
    assert!(matches!(stale, ExternalPlan::Stale { events: 49, ref superblock }
        if superblock.events == 50));
    let ahead = ExternalError::Ahead { bitmap_events: 52, events: 50 };
    assert_eq!(plan(&own, &at(52)), Err(ahead));
    // What is made in its place must be newer than what other members may have seen.
    assert!(matches!(lost(&own, &at(52)), Ok(ExternalPlan::Replace { superblock })
        if superblock.events == 52));
    own.superblock.updated_at(8, false);
    assert!(matches!(plan(&own, &at(50)), Ok(ExternalPlan::Stale { .. })), "Linux ran it");
}

#[test]
fn a_bitmap_that_is_not_there_is_made_only_where_nothing_is_lost() {
    let mut own = assembly();
    assert_eq!(plan(&own, &ExternalHead::Blank), Err(ExternalError::Blank));
    assert!(matches!(lost(&own, &ExternalHead::Blank), Ok(ExternalPlan::Replace { .. })));
    own.dirty = false;
    assert_eq!(plan(&own, &ExternalHead::Blank), Err(ExternalError::Blank), "mdof ran it with one");
    own.superblock.updated_at(8, false);
    assert!(matches!(plan(&own, &ExternalHead::Blank), Ok(ExternalPlan::Fresh { .. })));
    own.slots[1] = Slot::Missing { reason: crate::md::MissingReason::NotGiven };
    assert_eq!(plan(&own, &ExternalHead::Blank), Err(ExternalError::Blank));
}

#[test]
fn foreign_and_damaged_heads() {
    let own = assembly();
    let ExternalHead::Found(head) = head(&own.superblock, 50) else { unreachable!() };
    let mut bytes = [0; BITMAP_HEAD_BYTES];
    head.encode_into(&mut bytes);
    let parse = |bytes: &[u8], room| {
        let error = BitmapSuperblock::parse_external(bytes, &own.superblock, room).unwrap_err();
        ExternalHead::Unusable(error)
    };
    let small = parse(&bytes, 1536);
    assert!(matches!(plan(&own, &small), Err(ExternalError::Unusable(_))));
    bytes[8] ^= 1;
    let foreign = parse(&bytes, ROOM);
    assert!(matches!(plan(&own, &foreign), Err(ExternalError::Foreign(_))));
    assert!(matches!(lost(&own, &foreign), Err(ExternalError::Foreign(_))), "not ours to erase");
    bytes[0] ^= 1;
    let damaged = parse(&bytes, ROOM);
    assert!(matches!(plan(&own, &damaged), Err(ExternalError::Unusable(_))));
    assert!(matches!(lost(&own, &damaged), Ok(ExternalPlan::Replace { .. })));
    let mut with = assembly();
    with.superblock.features.insert(Features::BITMAP_OFFSET);
    assert_eq!(plan(&with, &ExternalHead::Blank), Err(ExternalError::MembersHaveOne));
}

#[test]
fn a_classic_one_is_converted_on_request() {
    let own = assembly();
    let ExternalHead::Found(mut classic) = head(&own.superblock, 50) else { unreachable!() };
    classic.version = BitmapVersion::Classic;
    classic.chunk_raw = 64 << 20;
    let found = ExternalHead::Found(classic.clone());
    assert_eq!(plan(&own, &found), Err(ExternalError::Classic));
    let permits = ExternalPermits { convert: true, ..ExternalPermits::default() };
    let plan = ExternalPlan::new(&own, &found, ROOM, permits).unwrap();
    assert!(matches!(plan, ExternalPlan::Convert { stale: false, .. }), "{plan:?}");
    let found = ExternalHead::Found(BitmapSuperblock { events: 48, ..classic });
    let plan = ExternalPlan::new(&own, &found, ROOM, permits).unwrap();
    assert!(matches!(plan, ExternalPlan::Convert { stale: true, .. }), "{plan:?}");
    let too_small = ExternalPlan::new(&own, &found, 1024, permits);
    assert_eq!(too_small, Err(ExternalError::TooSmall { have_bytes: 1024 }));
}

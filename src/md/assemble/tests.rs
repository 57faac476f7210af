//! Planning of an assembly, one situation a test.

use super::*;
use crate::md::tests::creation;
use crate::md::{BitmapFlags, Creation};

fn pair() -> Vec<Candidate> {
    let Creation { superblocks, bitmap, .. } = creation();
    let candidate = |superblock| Candidate {
        device_sectors: 1 << 21,
        superblock,
        bitmap: Some(Ok(bitmap.clone())),
    };
    superblocks.into_iter().map(candidate).collect()
}

fn set_events(candidate: &mut Candidate, events: u64) {
    candidate.superblock.events = events;
    if let Some(Ok(bitmap)) = &mut candidate.bitmap {
        bitmap.events = events;
    }
}

fn only_reason(assembly: &Assembly) -> &RejectionReason {
    assert_eq!(assembly.rejected.len(), 1, "{:?}", assembly.rejected);
    &assembly.rejected[0].reason
}

#[test]
fn a_clean_pair_is_whole() {
    let mut pair = pair();
    pair.reverse();
    let assembly = assemble(&pair).unwrap();
    assert_eq!(
        assembly.slots,
        [Slot::InSync { candidate: 1 }, Slot::InSync { candidate: 0 }],
        "slots follow the roles, not the order given"
    );
    assert!(!assembly.dirty && !assembly.full_resync_needed && !assembly.is_degraded());
    assert!(matches!(assembly.bitmap, BitmapPlan::Load { candidate: 1, stale: false, .. }));
}

#[test]
fn members_of_two_arrays_are_refused_with_both_names() {
    let mut pair = pair();
    pair[1].superblock.set_uuid = [0x22; 16];
    let text = assemble(&pair).unwrap_err().to_string();
    assert!(text.contains("e055969a:30313233") && text.contains("22222222:22222222"), "{text}");
    assert_eq!(assemble(&[]), Err(AssembleError::NoCandidates));
}

#[test]
fn one_event_behind_is_tolerated_two_are_not() {
    let mut pair = pair();
    set_events(&mut pair[0], 7);
    set_events(&mut pair[1], 6);
    assert!(!assemble(&pair).unwrap().is_degraded());
    set_events(&mut pair[0], 8);
    let assembly = assemble(&pair).unwrap();
    assert_eq!(only_reason(&assembly), &RejectionReason::Stale { behind: 2 });
    assert_eq!(assembly.slots[1], Slot::Missing { reason: MissingReason::Rejected(1) });
    assert!(assembly.is_degraded());
}

/// A newcomer that went on without the last whole member has failed since: whom it was copied onto
/// counts on the whole one again. That two went on is told; it is not "nobody is in sync".
#[test]
fn who_has_failed_has_no_say_against_the_last_whole_member() {
    let mut three = pair();
    three.push(three[1].clone());
    for (number, events) in [(0, 16), (1, 18), (2, 17)] {
        set_events(&mut three[number], events);
        three[number].superblock.roles = vec![Role::Active(0), Role::Active(1), Role::Faulty];
    }
    three[1].superblock.features |= Features::RECOVERY_OFFSET;
    let failed = &mut three[2].superblock;
    (failed.dev_number, failed.device_uuid) = (2, [9; 16]);
    failed.features |= Features::RECOVERY_OFFSET;
    failed.roles = vec![Role::Faulty, Role::Active(1), Role::Active(1)];
    assert!(matches!(
        assemble(&three),
        Err(AssembleError::SplitBrain { freshest: 0, other: 2, .. })
    ));
    // Without it, as the operator decides then, the array starts from the whole one.
    let assembly = assemble(&three[..2]).unwrap();
    assert_eq!((assembly.freshest, assembly.in_sync_count()), (0, 1));
}

/// The last whole member failed two updates of its superblock that the one being rebuilt has.
#[test]
fn a_member_being_rebuilt_has_no_say_against_the_one_it_is_rebuilt_from() {
    let mut pair = pair();
    set_events(&mut pair[0], 5);
    set_events(&mut pair[1], 9);
    pair[1].superblock.features |= Features::RECOVERY_OFFSET;
    let assembly = assemble(&pair).unwrap();
    assert_eq!(assembly.slots[0], Slot::InSync { candidate: 0 });
    assert!(matches!(assembly.slots[1], Slot::Rebuilding { candidate: 1, .. }));
    // Unless it knows better.
    pair[1].superblock.set_role(0, Role::Faulty);
    assert!(matches!(assemble(&pair), Err(AssembleError::NoInSyncMember { .. })));
}

#[test]
fn the_freshest_decides_who_failed() {
    let mut pair = pair();
    // The update that records the failure of member 0 reached only member 1.
    pair[1].superblock.set_role(0, Role::Faulty);
    set_events(&mut pair[1], 2);
    let assembly = assemble(&pair).unwrap();
    assert_eq!(assembly.freshest, 1);
    assert_eq!(only_reason(&assembly), &RejectionReason::Faulty);
    assert_eq!(assembly.slots[0], Slot::Missing { reason: MissingReason::Rejected(0) });
    pair[1].superblock.set_role(0, Role::Spare);
    assert_eq!(only_reason(&assemble(&pair).unwrap()), &RejectionReason::Spare);
}

/// The end of a replacement was taken back, and the power went before all had heard of that.
#[test]
fn a_member_that_has_not_heard_who_is_taken_back_was_not_used_apart() {
    let mut pair = pair();
    pair[1].superblock.set_role(0, Role::Faulty);
    set_events(&mut pair[1], 7);
    set_events(&mut pair[0], 8);
    let assembly = assemble(&pair).unwrap();
    assert_eq!((assembly.freshest, assembly.in_sync_count()), (0, 2));
    // Who went on without the other one says so.
    pair[0].superblock.set_role(1, Role::Faulty);
    assert!(matches!(assemble(&pair), Err(AssembleError::SplitBrain { .. })));
}

#[test]
fn two_halves_that_went_on_alone_are_refused() {
    let mut pair = pair();
    pair[0].superblock.set_role(1, Role::Faulty);
    pair[1].superblock.set_role(0, Role::Faulty);
    for (events, behind) in [(2, 0), (9, 7)] {
        set_events(&mut pair[0], 2);
        set_events(&mut pair[1], events);
        let error = assemble(&pair).unwrap_err();
        assert!(matches!(error, AssembleError::SplitBrain { behind: b, .. } if b == behind));
    }
    assert_eq!(assemble(&pair[..1]).unwrap().in_sync_count(), 1, "either may start alone");
}

#[test]
fn a_device_number_not_given_out_yet_is_no_split_brain() {
    let mut pair = pair();
    // Member 1 was replaced by a new one with device number 2, then member 0 was lost and returns.
    pair[1].superblock.dev_number = 2;
    for (number, role) in [(0, Role::Faulty), (1, Role::Spare), (2, Role::Active(1))] {
        pair[1].superblock.set_role(number, role);
    }
    set_events(&mut pair[1], 30);
    let assembly = assemble(&pair).unwrap();
    assert_eq!(only_reason(&assembly), &RejectionReason::Stale { behind: 29 });
}

#[test]
fn copies_and_double_slots_are_told_apart() {
    let mut three = pair();
    three.push(three[0].clone());
    let assembly = assemble(&three).unwrap();
    assert!(matches!(only_reason(&assembly), RejectionReason::DuplicateDevice { of: 0, .. }));
    three[2].superblock.device_uuid = [9; 16];
    let assembly = assemble(&three).unwrap();
    assert_eq!(only_reason(&assembly), &RejectionReason::SlotTaken { slot: 0, by: 0 });
    // The older copy is the one that is left out, whatever the order.
    let mut copies = pair();
    copies.push(copies[0].clone());
    set_events(&mut copies[1], 2);
    set_events(&mut copies[2], 2);
    assert_eq!(assemble(&copies).unwrap().slots[0], Slot::InSync { candidate: 2 });
}

#[test]
fn a_member_under_rebuild_is_no_source() {
    let mut pair = pair();
    pair[0].superblock.features |= Features::RECOVERY_OFFSET | Features::RECOVERY_BITMAP;
    pair[0].superblock.recovery_offset_sectors = 4096;
    let assembly = assemble(&pair).unwrap();
    assert_eq!(assembly.freshest, 1);
    let rebuilding =
        Slot::Rebuilding { candidate: 0, recovery_offset_sectors: 4096, bitmap_guided: true };
    assert_eq!(assembly.slots[0], rebuilding);
    assert!(matches!(assembly.bitmap, BitmapPlan::Load { candidate: 1, .. }));
    let text = assemble(&pair[..1]).unwrap_err().to_string();
    assert!(text.contains("member 0: its rebuild is not finished"), "{text}");
}

/// Linux md notes so what it takes out of use for a moment while it builds parity lazily. Were the
/// member taken for one that lacks everything, nothing could be recovered where parity is to come.
#[test]
fn a_member_past_the_last_sector_of_its_rebuild_is_in_sync() {
    let mut pair = pair();
    pair[0].superblock.features |= Features::RECOVERY_OFFSET;
    pair[0].superblock.recovery_offset_sectors = u64::MAX;
    let assembly = assemble(&pair).unwrap();
    assert_eq!((assembly.freshest, assembly.in_sync_count()), (0, 2));
    assert_eq!(assemble(&pair[..1]).unwrap().slots[0], Slot::InSync { candidate: 0 });
}

#[test]
fn an_unclean_stop_is_dirty_and_needs_the_bitmap() {
    let mut pair = pair();
    pair[0].superblock.resync_offset_sectors = 0;
    let assembly = assemble(&pair).unwrap();
    assert!(assembly.dirty && !assembly.full_resync_needed);
    for candidate in &mut pair {
        candidate.superblock.features.remove(Features::BITMAP_OFFSET);
        candidate.bitmap = None;
    }
    assert!(assemble(&pair).unwrap().full_resync_needed);
}

#[test]
fn a_stale_or_broken_bitmap_is_passed_over_for_a_good_one() {
    let mut pair = pair();
    let bitmap = |candidate: &mut Candidate, change: fn(&mut BitmapSuperblock)| {
        change(candidate.bitmap.as_mut().unwrap().as_mut().unwrap());
    };
    bitmap(&mut pair[0], |bitmap| bitmap.events = 0);
    let plan = assemble(&pair).unwrap().bitmap;
    assert!(matches!(plan, BitmapPlan::Load { candidate: 1, stale: false, .. }), "{plan:?}");
    bitmap(&mut pair[1], |bitmap| bitmap.flags = BitmapFlags::WRITE_ERROR);
    let plan = assemble(&pair).unwrap().bitmap;
    assert!(matches!(plan, BitmapPlan::Load { candidate: 0, stale: true, .. }), "{plan:?}");
    pair[0].bitmap = Some(Err(BitmapError::DaemonSleep));
    let plan = assemble(&pair).unwrap().bitmap;
    assert!(matches!(plan, BitmapPlan::Load { candidate: 1, stale: true, .. }), "{plan:?}");
    pair[1].bitmap = Some(Err(BitmapError::DaemonSleep));
    assert!(matches!(assemble(&pair), Err(AssembleError::Bitmap { candidate: 0, .. })));
}

/// A pair, and what is to replace its second member; it is not whole.
fn replacing() -> Vec<Candidate> {
    let mut trio = pair();
    let mut third = trio[1].clone();
    third.superblock.device_uuid = [0x33; 16];
    third.superblock.dev_number = 2;
    third.superblock.features |= Features::REPLACEMENT | Features::RECOVERY_OFFSET;
    third.superblock.recovery_offset_sectors = 4096;
    trio.push(third);
    for candidate in &mut trio {
        candidate.superblock.set_role(2, Role::Active(1));
    }
    trio
}

#[test]
fn a_replacement_stands_beside_its_member() {
    let trio = replacing();
    let expected = Some(Replacing { slot: 1, candidate: 2 });
    for reversed in [false, true] {
        let mut given = trio.clone();
        if reversed {
            given.reverse();
        }
        let assembly = assemble(&given).unwrap();
        let candidate = if reversed { 0 } else { 2 };
        assert_eq!(assembly.replacement, expected.map(|it| Replacing { candidate, ..it }));
        assert_eq!((assembly.in_sync_count(), assembly.rejected.len()), (2, 0));
    }
    let mut two = trio.clone();
    let mut fourth = trio[2].clone();
    fourth.superblock.device_uuid = [0x44; 16];
    fourth.superblock.dev_number = 3;
    two.push(fourth);
    two.iter_mut().for_each(|it| it.superblock.set_role(3, Role::Active(1)));
    let assembly = assemble(&two).unwrap();
    assert_eq!(assembly.replacement, expected);
    assert_eq!(only_reason(&assembly), &RejectionReason::SlotTaken { slot: 1, by: 1 });
}

#[test]
fn a_replacement_fills_the_slot_of_a_member_that_is_not_there() {
    let mut trio = replacing();
    let without = |trio: &[Candidate]| vec![trio[0].clone(), trio[2].clone()];
    let assembly = assemble(&without(&trio)).unwrap();
    assert!(matches!(assembly.slots[1], Slot::Rebuilding { candidate: 1, .. }));
    assert_eq!((assembly.orphaned.clone(), assembly.expected_slots()), (vec![1], vec![1]));
    // The member has failed: nobody waits for it.
    trio[0].superblock.set_role(1, Role::Faulty);
    let assembly = assemble(&without(&trio)).unwrap();
    assert!(assembly.orphaned.is_empty() && assembly.expected_slots().is_empty());
    let assembly = assemble(&trio).unwrap();
    assert!(matches!(assembly.slots[1], Slot::Rebuilding { candidate: 2, .. }));
    assert_eq!(only_reason(&assembly), &RejectionReason::Faulty);
    // It has everything.
    trio[2].superblock.features.remove(Features::RECOVERY_OFFSET);
    let assembly = assemble(&without(&trio)).unwrap();
    assert_eq!(assembly.slots[1], Slot::InSync { candidate: 1 });
    assert_eq!(assembly.replacement, None);
}

#[test]
fn what_mdof_cannot_run_is_named() {
    let mut layout = pair();
    layout[0].superblock.level = Level::Raid10;
    layout[0].superblock.layout = 0x7777_7777;
    assert!(matches!(assemble(&layout), Err(AssembleError::Layout { .. })));
    let mut reshape = pair();
    reshape[0].superblock.features |= Features::RESHAPE_ACTIVE;
    assert!(assemble(&reshape).unwrap_err().to_string().contains("RESHAPE_ACTIVE"));
    let mut bad = pair();
    bad[1].superblock.features |= Features::BAD_BLOCKS;
    assert_eq!(assemble(&bad).unwrap().in_sync_count(), 2);
    bad[1].superblock.features |= Features::PPL;
    let reason = assemble(&bad).unwrap();
    assert!(only_reason(&reason).to_string().contains("BAD_BLOCKS"), "{reason:?}");
    let mut cut = pair();
    cut[1].device_sectors -= 8;
    let reason = assemble(&cut).unwrap();
    assert!(matches!(only_reason(&reason), RejectionReason::DeviceTooSmall { .. }));
}

#[test]
fn a_spare_that_the_freshest_calls_active_is_not_believed() {
    let mut pair = pair();
    // The rebuild onto member 1 went on while its own superblock was no longer written.
    pair[1].superblock.set_role(1, Role::Spare);
    for events in [1, 2, 9] {
        set_events(&mut pair[0], events);
        let assembly = assemble(&pair).unwrap();
        assert_eq!(only_reason(&assembly), &RejectionReason::Spare);
        assert_eq!(assembly.in_sync_count(), 1);
    }
    // A spare with more events neither decides nor takes part.
    set_events(&mut pair[1], 50);
    assert_eq!(assemble(&pair).unwrap().freshest, 0);
    let alone = assemble(&pair[1..]).unwrap_err();
    assert!(matches!(alone, AssembleError::NoActiveMember { .. }));
}

#[test]
fn who_went_on_is_believed_and_not_whom_a_cut_off_update_reached() {
    let mut pair = pair();
    pair[1].superblock.set_role(0, Role::Faulty);
    let assembly = assemble(&pair).unwrap();
    assert_eq!((assembly.freshest, assembly.in_sync_count()), (1, 1));
    assert_eq!(only_reason(&assembly), &RejectionReason::Faulty);
    // Both went on.
    pair[0].superblock.set_role(1, Role::Faulty);
    assert!(matches!(assemble(&pair), Err(AssembleError::SplitBrain { .. })));
    // One that has nothing yet can't say who has failed.
    pair[0].superblock.set_role(1, Role::Active(1));
    pair[1].superblock.features |= Features::RECOVERY_OFFSET;
    assert!(matches!(assemble(&pair), Err(AssembleError::SplitBrain { .. })));
}

#[test]
fn a_slot_beyond_the_array_is_refused() {
    let mut pair = pair();
    for candidate in &mut pair {
        candidate.superblock.set_role(1, Role::Active(2));
    }
    let assembly = assemble(&pair).unwrap();
    assert_eq!(only_reason(&assembly), &RejectionReason::NoSuchSlot { slot: 2, slots: 2 });
}

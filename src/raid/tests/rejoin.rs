//! Stories of members that come back, or are replaced.

use super::disk::{BITMAP_BYTE, STATES_BYTE};
use super::members::Device;
use super::scenario::started;
use super::world::{Flight, Shape, World};
use crate::bdev::{IoOp, Station};
use crate::bitmap::ChunkState;
use crate::md::Features;
use crate::raid::ScrubAction;
use crate::raid::owner_members::MemberState;

const SHAPE: Shape = Shape { members: 2, ..Shape::SMALL };

impl World {
    pub(super) fn write_chunks(&mut self, chunks: impl IntoIterator<Item = usize>) {
        for chunk in chunks {
            self.write(self.array_blocks_of(chunk).start + 1, 3);
        }
    }

    pub(super) fn wait_in_sync(&mut self, slot: usize) {
        self.run_until("the member is in sync", |world| {
            world.member_state(slot) == MemberState::InSync
        });
        self.run_until_quiet();
    }

    /// The slot's device, or another, joins; how many chunks it was given.
    pub(super) fn rebuild(&mut self, slot: usize, device: Device) -> u64 {
        if self.member_state(slot) != MemberState::Missing {
            self.remove(slot).unwrap();
        }
        self.run_until("the slot is empty", |world| {
            world.member_state(slot) == MemberState::Missing
        });
        self.put(slot, device);
        let before = self.watch.rebuilt_in_all + self.watch.copied_in_all;
        self.join(slot, false).unwrap();
        self.wait_in_sync(slot);
        self.watch.rebuilt_in_all + self.watch.copied_in_all - before
    }

    fn check_whole(&mut self) {
        self.read_all();
        self.check_members_agree();
        // And from each member alone.
        self.stop();
        for slot in 0..self.disks.len() {
            self.present.fill(false);
            self.present[slot] = true;
            self.assemble();
            self.cut_power();
        }
    }
}

/// Oracle 6: what changed while it was away, and not a chunk more.
#[test]
fn a_readded_member_is_given_exactly_what_changed() {
    for seed in 0..8 {
        let mut world = started(seed, SHAPE);
        world.write_chunks(0..30);
        world.daemon_pass();
        assert_eq!(world.in_state(ChunkState::Clean), 30);
        world.fail(1).unwrap();
        world.write_chunks([3, 4, 17, 35, 3]);
        assert_eq!(world.rebuild(1, Device::Same), 4, "seed {seed}");
        world.check_whole();
    }
}

#[test]
fn nothing_changed_means_nothing_copied() {
    let mut world = started(1, SHAPE);
    world.write_chunks(0..30);
    world.daemon_pass();
    assert_eq!(world.rebuild(1, Device::Same), 0);
    world.check_whole();
}

/// A 70 %-empty array.
#[test]
fn a_new_member_is_given_what_was_ever_written() {
    for seed in 0..8 {
        let mut world = started(seed, SHAPE);
        world.write_chunks((0..40).filter(|chunk| chunk % 10 < 3));
        world.daemon_pass();
        assert_eq!(world.rebuild(1, Device::Blank), 12, "seed {seed}");
        world.check_whole();
    }
}

/// Defect 3 of the kernel's bitmap: a member that was replaced, and chunks that became Clean
/// since. It is given everything, although it calls itself a member.
#[test]
fn defect_3_a_member_long_away_is_given_everything() {
    let mut world = started(3, SHAPE);
    world.write_chunks(0..20);
    world.daemon_pass();
    assert_eq!(world.rebuild(1, Device::Blank), 20);
    // Written while the first device lies on the shelf, and Clean again.
    world.write_chunks(0..5);
    world.daemon_pass();
    assert_eq!(world.in_state(ChunkState::Clean), 20);
    assert_eq!(world.rebuild(1, Device::Shelf), 20, "all that is not Unwritten");
    world.check_whole();
}

/// It was there when nothing else could have been cleared: what the other device was given does
/// not matter.
#[test]
fn a_member_comes_back_after_a_replacement_that_never_was_whole() {
    let mut world = started(4, SHAPE);
    world.write_chunks(0..20);
    world.daemon_pass();
    world.remove(1).unwrap();
    world.run_until_quiet();
    world.put(1, Device::Blank);
    world.write_chunks([2, 3]);
    world.join(1, false).unwrap();
    world.run_until("it is rebuilt in part", |world| world.watch.rebuilt_in_all > 5);
    assert_eq!(world.rebuild(1, Device::Shelf), 2);
    world.check_whole();
}

#[test]
fn of_three_members_two_go_and_come_back_one_after_the_other() {
    for seed in 0..8 {
        let mut world = started(seed, Shape { members: 3, ..Shape::SMALL });
        world.write_chunks(0..20);
        world.daemon_pass();
        world.fail(2).unwrap();
        world.write_chunks([1, 30]);
        world.fail(1).unwrap();
        world.write_chunks([2]);
        world.run_until_quiet();
        assert_eq!(world.rebuild(1, Device::Same), 3, "seed {seed}");
        world.daemon_pass();
        world.write_chunks([1]);
        // Nothing was cleared: a member is still away.
        assert_eq!(world.rebuild(2, Device::Same), 3, "seed {seed}");
        world.check_whole();
    }
}

/// Chunks that were discarded while it was away hold nothing that it could lack.
#[test]
fn discards_while_a_member_is_away_shrink_the_rebuild() {
    let mut world = started(5, SHAPE);
    world.write_chunks(0..20);
    world.fail(1).unwrap();
    world.submit(0, IoOp::Unmap, true, 0, 10 * 8);
    world.wait_host();
    world.write_chunks([0]);
    assert_eq!(world.rebuild(1, Device::Same), 11);
    world.check_whole();
}

/// A crash in the middle of a full rebuild: it goes on behind what is on the medium.
#[test]
fn a_full_rebuild_goes_on_at_its_checkpoint_after_a_crash() {
    for seed in 0..8 {
        let mut world = started(seed, Shape { blocks: 1200 * 8, ..SHAPE });
        world.write_chunks(0..1200);
        world.daemon_pass();
        world.remove(1).unwrap();
        world.run_until_quiet();
        world.put(1, Device::Blank);
        world.join(1, false).unwrap();
        world.run_until("half of it is copied", |world| world.watch.rebuilt_in_all > 600);
        while world.superblock_on_medium(1).is_none_or(|own| own.recovery_offset_sectors == 0) {
            world.fire_timer();
            let before = world.events;
            world.run_until("some steps", |world| world.events > before + 4);
        }
        let copied = world.watch.rebuilt_in_all;
        world.cut_power();
        world.assemble();
        assert_eq!(world.member_state(1), MemberState::Rebuilding);
        assert!(world.wait_started());
        world.wait_in_sync(1);
        let again = world.watch.rebuilt_in_all - copied;
        assert!(again < 1150, "seed {seed}: {again} of 1200 chunks were copied again");
        world.check_whole();
    }
}

#[test]
fn a_guided_rebuild_survives_a_stop() {
    let mut world = started(6, SHAPE);
    world.write_chunks(0..20);
    world.daemon_pass();
    world.fail(1).unwrap();
    world.write_chunks(5..15);
    world.run_until_quiet();
    world.join(1, false).unwrap();
    world.run_until("it joins", |world| world.member_state(1) == MemberState::Rebuilding);
    world.stop();
    world.assemble();
    assert!(world.wait_started());
    world.wait_in_sync(1);
    assert!(world.watch.rebuilt_in_all + world.watch.copied_in_all <= 20);
    world.check_whole();
}

/// The last good member can't read a chunk: nobody is called whole, until it can.
#[test]
fn what_nobody_can_read_keeps_a_member_from_being_whole() {
    let mut world = started(7, SHAPE);
    world.write_chunks(0..10);
    world.remove(1).unwrap();
    world.run_until_quiet();
    world.faults.read_error = 1;
    world.join(1, true).unwrap();
    world.run_until_quiet();
    for _ in 0..3 {
        assert_eq!(world.member_state(1), MemberState::Rebuilding);
        assert!(world.fire_timer());
        world.run_until_quiet();
    }
    world.faults.read_error = 0;
    world.wait_in_sync(1);
    world.check_whole();
}

#[test]
fn the_last_member_in_sync_does_not_go() {
    let mut world = started(8, SHAPE);
    world.write_chunks([1]);
    assert!(world.fail(2).unwrap_err().contains("no slot 2"));
    world.fail(1).unwrap();
    assert!(world.fail(0).unwrap_err().contains("last one"));
    assert!(world.remove(0).unwrap_err().contains("last one"));
    world.join(1, false).unwrap();
    assert!(world.join(1, false).unwrap_err().contains("no empty slot"));
    world.wait_in_sync(1);
    world.check_whole();
}

/// A medium that has changed under the array: a check finds where, a repair mends it.
#[test]
fn a_check_tells_what_differs_and_a_repair_makes_it_alike() {
    let mut world = started(9, Shape { chunk_blocks: 32, blocks: 1280, ..SHAPE });
    world.write_chunks(0..20);
    world.daemon_pass();
    world.write_chunks([7]);
    world.faults.lost = usize::MAX;
    for lba in [33, 7 * 32 + 2] {
        world.disks[1].spoil(lba, 77);
    }
    for (action, found) in
        [(ScrubAction::Check, 2), (ScrubAction::Repair, 2), (ScrubAction::Check, 0)]
    {
        world.on_owner(|owner, out| owner.scrub(action, out).unwrap());
        world.on_owner(|owner, out| {
            assert!(owner.scrub(ScrubAction::Check, out).is_err(), "one at a time");
        });
        world.run_until("the check ends", |world| {
            let scrub = world.running.as_ref().unwrap().owner.status().scrub;
            scrub.is_some_and(|scrub| !scrub.running)
        });
        let scrub = world.running.as_ref().unwrap().owner.status().scrub.unwrap();
        assert_eq!((scrub.mismatches, scrub.failures, scrub.done), (found, 0, 40), "{action:?}");
        // In parts of 4 KiB.
        assert!(scrub.places.iter().all(|place| [(1, 32), (1, 224)].contains(place)), "{scrub:?}");
        world.run_until_quiet();
    }
    world.check_whole();
}

/// A start was cut off when one member had it; the other went on alone, has as many events now, and
/// takes it back. The power goes when the one says so and the other does not know: it lacks what
/// was written without it, and is not taken for current.
#[test]
pub(super) fn who_joins_is_behind_before_it_is_told() {
    for seed in 0..4 {
        let mut world = started(seed, SHAPE);
        world.write_chunks([0, 3]);
        world.stop();
        world.assemble();
        world.run_until("the superblocks are written", |world| world.writes_superblock(1));
        world.cut_with_one_superblock(Some(1));
        world.present[1] = false;
        world.assemble();
        assert!(world.wait_started());
        world.write_chunks([0]);
        world.join(1, false).unwrap();
        world.run_until("its superblock is written", |world| world.writes_superblock(1));
        world.cut_with_one_superblock(None);
        world.present[1] = true;
        world.assemble();
        assert!(world.wait_started());
        world.make_whole();
        world.read_all();
        world.run_until_quiet();
    }
}

impl World {
    /// Member 1 comes back after the first write to chunk 5 has begun, which gets no further than
    /// its mark in the bitmap. Its superblock, which is to say that it is being rebuilt, is on its
    /// way; what members have got and do not answer.
    fn joins_unmarked(seed: u64) -> (Self, Vec<Flight>) {
        let mut world = started(seed, SHAPE);
        world.write_chunks([0, 3]);
        world.remove(1).unwrap();
        world.run_until("it is let go", |world| world.member_state(1) == MemberState::Missing);
        let is_data = |flight: &Flight| flight.io.completion.tag().station == Station::RaidChannel;
        world.submit(0, IoOp::Write, false, 5 * 8 + 1, 3);
        world.run_until("its data are on their way", |world| {
            world.running.as_ref().unwrap().in_flight.iter().any(is_data)
        });
        let mut withheld = world.withhold(is_data);
        world.join(1, false).unwrap();
        world.run_until("its superblock is written", |world| world.writes_superblock(1));
        let lba = world.superblock_lba();
        withheld.extend(world.withhold(|flight| flight.disk == 1 && flight.io.lba == lba));
        world.run_until_quiet();
        (world, withheld)
    }
}

/// The power goes before the superblock of a member that joins says that it is being rebuilt:
/// started alone, it is what it was. It must not have been told of a chunk that was written for the
/// first time without it, in which it holds nobody knows what.
#[test]
pub(super) fn who_joins_is_marked_before_it_has_the_bitmap() {
    for seed in 0..4 {
        let (mut world, withheld) = World::joins_unmarked(seed);
        let own = world.superblock_on_medium(1).unwrap();
        assert!(!own.features.contains(Features::RECOVERY_OFFSET), "it calls itself whole");
        assert_ne!(world.state_byte(0, 5), ChunkState::Unwritten as u8);
        world.cut_power_without(withheld);
        world.present[0] = false;
        world.assemble();
        assert_eq!(world.in_sync(), 2);
        assert!(world.wait_started());
        world.read_all();
        world.cut_power();
    }
}

/// The array stops at that moment: whoever starts it next, Linux perhaps, finds the bitmap on it.
#[test]
pub(super) fn who_is_marked_has_the_bitmap_when_the_array_stops() {
    for seed in 0..4 {
        let (mut world, withheld) = World::joins_unmarked(seed);
        world.on_owner(|owner, out| owner.stop(out));
        world.run_until_quiet();
        world.put_back(withheld);
        world.run_until("the stop", |world| world.running.as_ref().unwrap().stopped);
        world.forget_stopped();
        let own = world.superblock_on_medium(1).unwrap();
        assert!(own.features.contains(Features::RECOVERY_OFFSET), "it is being rebuilt");
        let bytes = BITMAP_BYTE..STATES_BYTE + 512;
        let bitmap = |disk: usize| &world.disks[disk].durable_meta[bytes.clone()];
        assert!(bitmap(1) == bitmap(0), "seed {seed}: the bitmaps differ");
        world.assemble();
        assert!(world.wait_started());
        world.wait_in_sync(1);
        world.check_whole();
    }
}

/// Of three members one is being rebuilt. Another fails; before that is on record a write begins
/// that the failed one does not hear of, and the power goes. With the third left out, what the
/// failed one calls Clean is not what is on the one that is being rebuilt.
#[test]
pub(super) fn what_one_that_is_rebuilt_has_in_doubt_itself() {
    for seed in 0..12 {
        let mut world = started(seed, Shape { members: 3, ..Shape::SMALL });
        world.write_chunks([0, 2, 7]);
        for _ in 0..8 {
            world.fire_timer();
            world.run_until_quiet();
        }
        assert_eq!(world.state(0), ChunkState::Clean);
        world.remove(2).unwrap();
        world.run_until("it is let go", |world| world.member_state(2) == MemberState::Missing);
        world.put(2, Device::Blank);
        world.join(2, false).unwrap();
        let mut held = world.withhold_copy_of(7);
        world.run_until_quiet();
        while world.superblock_on_medium(2).is_none_or(|own| own.recovery_offset_sectors == 0) {
            assert!(world.fire_timer());
            world.run_until_quiet();
        }
        world.fail(1).unwrap();
        for slot in [0, 2] {
            held.extend(world.withhold_superblock(slot));
        }
        world.submit(0, IoOp::Write, true, world.array_blocks_of(0).start + 1, 2);
        world.run_until_quiet();
        world.cut_power_without(held);
        world.present[0] = false;
        world.assemble();
        assert!(world.wait_started());
        world.run_until_quiet();
        world.wait_in_sync(2);
        world.read_all();
        world.run_until_quiet();
    }
}

//! Stories of members that come and go in arrays that stripe: RAID5, RAID6 and RAID10.

use super::members::Device;
use super::scenario::started;
use super::world::{Shape, World};
use crate::bdev::IoOp;
use crate::bitmap::ChunkState;
use crate::raid::owner_members::MemberState;
use crate::raid::{Command, Pace, ScrubAction, ScrubStatus};

const CHUNKS: usize = 40;

/// Strips of 8 blocks, 40 chunks of 16.
pub(super) fn shape(level: i32, members: usize) -> Shape {
    let data = match level {
        6 => members - 2,
        10 => 1,
        _ => members - 1,
    };
    let parity = (level != 10).then_some((level, 2, 8));
    let raid10 = (level == 10).then_some((0x102, 8));
    let blocks = CHUNKS * 16 * data;
    let shape =
        Shape { members, cores: 2, chunk_blocks: 16, blocks, parity, raid10, ..Shape::SMALL };
    shape.exact()
}

impl World {
    /// Everything is read and right, also without any members that the level can do without.
    pub(super) fn check_rows_whole(&mut self) {
        self.read_all();
        if self.shape.parity.is_some() {
            self.check_rows_right();
        }
        self.stop();
        let all = 0..self.disks.len();
        let pairs: Vec<(usize, usize)> =
            all.clone().flat_map(|one| (one..all.end).map(move |other| (one, other))).collect();
        let failed = self.host.failed;
        for (one, other) in pairs {
            let lost = 1 << one | 1 << other;
            if !self.geometry.is_readable(self.geometry.all_slots() & !lost) {
                continue;
            }
            self.present.fill(true);
            self.present[one] = false;
            self.present[other] = false;
            let config = self.config_of_present();
            self.start_of(config);
            // What is looked at leaves no trace: the members are as they were.
            let disks = self.disks.clone();
            assert!(self.wait_started());
            self.read_all();
            assert_eq!(self.host.failed, failed, "without {one} and {other}");
            self.cut_power();
            self.disks = disks;
        }
    }

    fn scrub_to_end(&mut self, action: ScrubAction) -> ScrubStatus {
        self.on_owner(|owner, out| owner.scrub(action, out).unwrap());
        let scrub = |world: &Self| world.running.as_ref().unwrap().owner.status().scrub;
        self.run_until("the check ends", |world| scrub(world).is_some_and(|it| !it.running));
        self.run_until_quiet();
        scrub(self).unwrap()
    }
}

#[test]
fn a_readded_raid5_member_is_given_exactly_what_changed() {
    for seed in 0..6 {
        let mut world = started(seed, shape(5, 4));
        world.write_chunks(0..30);
        world.daemon_pass();
        assert_eq!(world.in_state(ChunkState::Clean), 30);
        world.fail(1).unwrap();
        world.write_chunks([3, 4, 17, 35, 3]);
        assert_eq!(world.rebuild(1, Device::Same), 4, "seed {seed}");
        world.check_rows_whole();
    }
}

#[test]
fn two_readded_raid6_members_are_given_exactly_what_changed() {
    for seed in 0..6 {
        let mut world = started(seed, shape(6, 5));
        world.write_chunks(0..30);
        world.daemon_pass();
        world.fail(1).unwrap();
        world.write_chunks([3, 4]);
        world.fail(4).unwrap();
        world.write_chunks([4, 17, 35]);
        // The first one to come lacks all of it, the second what it missed and, since nothing was
        // cleared, no more.
        assert_eq!(world.rebuild(1, Device::Same), 4, "seed {seed}");
        world.write_chunks([5]);
        assert_eq!(world.rebuild(4, Device::Same), 5, "seed {seed}");
        world.check_rows_whole();
    }
}

/// It saw another member leave, left itself, and was run alone with those that are not here now:
/// what it was given then nobody else knows.
pub(super) fn who_was_used_apart_is_given_everything() {
    for is_used in [false, true] {
        let mut world = started(3, shape(6, 5));
        world.write_chunks(0..30);
        world.daemon_pass();
        world.fail(1).unwrap();
        world.write_chunks([3]);
        world.fail(4).unwrap();
        world.write_chunks([4]);
        world.rebuild(1, Device::Same);
        let mut own = world.superblock(4).unwrap();
        own.events += u64::from(is_used);
        world.disks[4].put_superblock(&own);
        assert_eq!(world.rebuild(4, Device::Same), if is_used { 30 } else { 2 });
        world.check_rows_whole();
    }
}

#[test]
fn a_member_that_waited_is_told_from_one_that_was_used() {
    who_was_used_apart_is_given_everything();
}

/// A 70 %-empty array.
#[test]
fn a_new_member_of_rows_is_given_what_was_ever_written() {
    for (level, members) in [(4, 3), (5, 3), (5, 5), (6, 5)] {
        for seed in 0..3 {
            let mut world = started(seed, shape(level, members));
            world.write_chunks((0..CHUNKS).filter(|chunk| chunk % 10 < 3));
            world.daemon_pass();
            for slot in [1, members - 1] {
                let given = world.rebuild(slot, Device::Blank);
                assert_eq!(given, 12, "RAID{level}, seed {seed}, member {slot}");
            }
            world.check_rows_whole();
        }
    }
}

#[test]
fn a_raid10_member_is_rebuilt() {
    for members in [2, 3, 4, 5] {
        for seed in 0..3 {
            let mut world = started(seed, shape(10, members));
            world.write_chunks((0..CHUNKS).filter(|chunk| chunk % 10 < 3));
            world.daemon_pass();
            let given = world.rebuild(1, Device::Blank);
            assert!((1..=12).contains(&given), "{given} chunks of 12 were written");
            world.fail(0).unwrap();
            world.write_chunks([1, 2, 8]);
            let given = world.rebuild(0, Device::Same);
            assert!(given <= 3, "{given} chunks of 3 were written");
            world.check_rows_whole();
        }
    }
}

/// What is left is enough for both.
#[test]
fn a_second_raid6_member_fails_during_a_rebuild() {
    for seed in 0..8 {
        let mut world = started(seed, shape(6, 5));
        world.write_chunks(0..CHUNKS);
        world.daemon_pass();
        world.remove(1).unwrap();
        world.run_until_quiet();
        world.put(1, Device::Blank);
        world.join(1, false).unwrap();
        world.run_until("a part is rebuilt", |world| world.watch.rebuilt_in_all > 10);
        world.disks[3].dead = true;
        world.write(0, 200);
        assert_eq!(world.member_state(3), MemberState::Faulty);
        if seed % 2 == 1 {
            world.stop();
            world.assemble();
            assert!(world.wait_started());
        }
        world.wait_in_sync(1);
        world.read_all();
        assert_eq!(world.host.failed, 0);
        if seed % 2 == 1 {
            world.join(3, false).unwrap();
            world.wait_in_sync(3);
        } else {
            world.rebuild(3, Device::Blank);
        }
        world.check_rows_whole();
    }
}

/// Neither by the operator nor by an error.
#[test]
fn a_member_that_the_level_needs_does_not_go() {
    for (level, members, spare) in [(5, 3, 1), (6, 5, 2), (10, 4, 1)] {
        let mut world = started(1, shape(level, members));
        world.write_chunks([1, 2]);
        for slot in 0..spare {
            world.fail(slot).unwrap();
        }
        // Of the RAID10 the other copy of what member 0 held.
        let needed = spare;
        let text = world.fail(needed).unwrap_err();
        assert!(text.contains("holds data that no other member has"), "RAID{level}: {text}");
        assert!(world.remove(needed).unwrap_err().contains("holds data that no other member has"));
        assert_eq!(world.member_state(needed), MemberState::InSync);
        world.write_chunks([2, 3]);
        for slot in 0..spare {
            world.join(slot, false).unwrap();
            world.wait_in_sync(slot);
        }
        world.check_rows_whole();
    }
}

/// Two power cuts, each while the superblocks are being written: a member that is two events behind
/// is out, and a level with parity can't do without most of its members.
pub(super) fn no_cut_off_start_leaves_a_member_behind() {
    let is_written = |world: &World, events: u64| {
        let told = |slot: &usize| world.superblock_on_medium(*slot).unwrap().events >= events;
        (0..world.disks.len()).filter(told).count()
    };
    for seed in 0..12 {
        let mut world = started(seed, shape(6, 5));
        world.write_chunks([1, 2]);
        for round in 0..6 {
            let events = world.superblock_on_medium(0).unwrap().events;
            world.cut_power();
            world.assemble();
            let in_sync = world.in_sync().count_ones();
            if in_sync != 5 {
                world.cut_power();
                panic!("seed {seed}: {in_sync} members are left after cut {round}");
            }
            // Until the first one has what is new.
            world.run_until("an update", |world| {
                (1..3).contains(&is_written(world, events + 1))
                    || world.running.as_ref().unwrap().started
            });
        }
        world.cut_power();
        world.assemble();
        assert!(world.wait_started());
        world.read_all();
        world.stop();
    }
}

#[test]
fn power_cuts_in_a_row_throw_nobody_out() {
    no_cut_off_start_leaves_a_member_behind();
}

/// Parity that has rotted: a check finds where, a repair makes it anew from the data.
#[test]
fn a_check_finds_wrong_parity_and_a_repair_mends_it() {
    for (level, members) in [(4, 4), (5, 4), (6, 5)] {
        let mut world = started(2, shape(level, members));
        world.write_chunks(0..20);
        world.daemon_pass();
        world.write_chunks([7]);
        // Oracle 6 knows of no rot.
        world.faults.lost = usize::MAX;
        let mut spoilt = 0;
        for at in [3, 7 * 16 + 9, 19 * 16] {
            let crate::raid::Geometry::Parity(parity) = &world.geometry else { unreachable!() };
            let row = parity.row(at as u64 / parity.strip_blocks());
            for slot in crate::raid::slots(row.parity_mask()) {
                world.disks[usize::from(slot)].spoil_at(at, 77);
                spoilt += 1;
            }
        }
        for (action, found) in
            [(ScrubAction::Check, spoilt), (ScrubAction::Repair, spoilt), (ScrubAction::Check, 0)]
        {
            let scrub = world.scrub_to_end(action);
            assert_eq!((scrub.mismatches, scrub.failures), (found, 0), "RAID{level} {action:?}");
            assert_eq!(scrub.places.len() as u64, found);
        }
        world.check_rows_whole();
    }
}

/// A host that suffers holds a rebuild up, not for ever; one that does not lets it run.
#[test]
fn a_rebuild_that_yields_comes_to_its_end() {
    for (level, members) in [(10, 2), (5, 4)] {
        let mut steps = Vec::new();
        for latency_us in [1, 1_000_000] {
            let shape = shape(level, members);
            let shape = Shape { blocks: shape.blocks * 5, ..shape }.exact();
            let mut world = started(6, shape);
            // A window for each, as there is nothing between them.
            world.write_chunks((0..5 * CHUNKS).step_by(2));
            world.remove(1).unwrap();
            world.run_until_quiet();
            world.put(1, Device::Blank);
            let pace = Pace { latency_us, ..Pace::default() };
            let command = Command::SetPace(pace);
            world.on_owner(|owner, out| drop(owner.execute(&command, out)));
            world.join(1, false).unwrap();
            let mut took = 0;
            for _ in 0..400_000 {
                took += 1;
                if world.member_state(1) == MemberState::InSync {
                    break;
                }
                if world.host.in_flight() < 4 {
                    let lba = world.rng.below(world.host.len());
                    world.submit(lba % 2, IoOp::Read, false, lba, 1);
                }
                if world.rng.one_in(5) {
                    world.fire_timer();
                }
                world.step();
            }
            world.wait_host();
            assert_eq!(world.member_state(1), MemberState::InSync);
            steps.push(took);
            world.check_rows_whole();
        }
        // One window at a time, and a pause after each.
        let [suffers, does_not] = steps[..] else { unreachable!() };
        println!("RAID{level}: {steps:?} steps");
        assert!(suffers > 2 * does_not, "RAID{level}: {steps:?} steps");
    }
}

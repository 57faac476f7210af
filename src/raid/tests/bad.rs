//! Stories of members that list what they can't write.

use super::members::Device;
use super::scenario::started;
use super::trace::{self, Event};
use super::world::{Faults, Flight, Shape, World};
use crate::bdev::IoOp;
use crate::raid::geometry::Content;
use crate::raid::message::BlockRange;
use crate::raid::owner_members::MemberState;
use crate::raid::{ArrayEvent, Command, ErrorPolicy, WriteErrorPolicy};

const MIRROR: Shape = Shape { members: 3, ..Shape::SMALL };

fn pair() -> Shape {
    Shape { members: 2, ..MIRROR }
}

fn rows(level: i32) -> Shape {
    let parity = Some((level, 2, 8));
    Shape { members: 5, chunk_blocks: 16, blocks: 960, parity, ..Shape::SMALL }.exact()
}

/// Near copies, an odd number of members.
fn striped() -> Shape {
    Shape { members: 3, raid10: Some((0x102, 8)), ..Shape::SMALL }.exact()
}

fn told(wanted: impl Fn(&ArrayEvent) -> bool) -> usize {
    trace::events(|event| matches!(event, Event::Says(event) if wanted(event)))
}

impl World {
    pub(super) fn list_bad_blocks(&mut self) {
        let write_errors = WriteErrorPolicy::BadBlock;
        let policy = ErrorPolicy { read_errors_max: 0, write_errors };
        let command = Command::SetErrorPolicy(policy);
        self.on_owner(|owner, out| drop(owner.execute(&command, out)));
    }

    fn uses_bad_blocks(&mut self) {
        self.list_bad_blocks();
        self.run_until_quiet();
    }

    /// Writes of four blocks to all of a range, some at a time.
    fn write_by_four(&mut self, end: usize) {
        for lba in (0..end.min(self.host.len())).step_by(4) {
            self.submit(lba / 4 % 2, IoOp::Write, false, lba, 4.min(self.host.len() - lba));
            if lba % 16 == 12 {
                self.wait_host();
            }
        }
        self.wait_host();
    }

    /// A block of a member can't be written from now on, or all can be.
    pub(super) fn some_stubborn_block(&mut self) {
        let slot = self.rng.below(self.disks.len());
        let disk = &mut self.disks[slot];
        if self.rng.one_in(4) {
            return disk.stubborn.clear();
        }
        let at = self.rng.below(disk.live.len());
        disk.stubborn.push(at);
    }

    /// Nothing fails from now on.
    pub(super) fn heal(&mut self) {
        self.faults = Faults::default();
        self.disks.iter_mut().for_each(|disk| disk.stubborn.clear());
    }

    /// A member lists something.
    pub(super) fn has_bad_blocks(&self) -> bool {
        self.disks.iter().any(|disk| !disk.bad_blocks().is_empty())
    }

    /// The array is started: what members list is given to them again.
    pub(super) fn note_listed(&mut self) {
        let lists: Vec<_> =
            self.disks.iter().filter(|disk| !disk.bad_blocks().is_empty()).collect();
        let blocks = usize::try_from(self.geometry.sync_blocks()).unwrap();
        let is_listed = |at: &usize| lists.iter().any(|disk| disk.lists_block(*at));
        self.watch.listed = match lists.is_empty() {
            true => Vec::new(),
            false => (0..blocks).filter(is_listed).collect(),
        };
    }

    fn listed(&self, slot: usize) -> Vec<BlockRange> {
        self.running.as_ref().unwrap().owner.status().bad_blocks[slot].clone()
    }

    fn crash_and_start(&mut self) {
        self.cut_power();
        self.assemble();
        assert!(self.wait_started());
        self.run_until_quiet();
    }
}

/// A block of a row that one request brings as a whole can't be written: its strip is listed,
/// whatever the batch before it changed.
pub(super) fn what_a_whole_row_has_missed_is_listed() {
    for level in [4, 5, 6] {
        let mut world = started(1, rows(level));
        world.uses_bad_blocks();
        let row = usize::try_from(world.geometry.full_stripe_blocks().unwrap()).unwrap();
        world.write(0, row);
        let has_first = |&slot: &u8| {
            matches!(world.geometry.place(slot, 0).content, Content::Data { lba: 0, .. })
        };
        let slot = usize::from((0..5).find(has_first).unwrap());
        world.disks[slot].stubborn = vec![3];
        world.write(8, 1);
        world.submit(0, IoOp::Write, false, 0, row);
        world.wait_host();
        assert_eq!((world.host.failed, world.member_state(slot)), (0, MemberState::InSync));
        assert_eq!(world.listed(slot), [BlockRange { lba: 0, blocks: 8 }], "RAID{level}");
        world.read_all();
    }
}

#[test]
fn a_whole_row_that_a_member_missed() {
    what_a_whole_row_has_missed_is_listed();
}

/// Block 11 of member 1 can't be written: it is listed, the member stays, and all is read, after a
/// crash as well. Then the block is good again: a write clears it.
pub(super) fn what_cannot_be_written_is_listed_and_cleared() {
    for shape in [MIRROR, pair(), striped(), rows(5), rows(6)] {
        for seed in 0..6 {
            let mut world = started(seed, shape);
            world.uses_bad_blocks();
            let len = world.host.len();
            world.write(0, len.min(200));
            world.disks[1].stubborn = vec![11, 12];
            world.write_by_four(80);
            assert_eq!((world.host.failed, world.member_state(1)), (0, MemberState::InSync));
            let listed = world.listed(1);
            assert!(listed.iter().any(|it| it.lba <= 11 && it.lba + it.blocks > 12), "{listed:?}");
            // At once: nothing acknowledged hangs on what the array has in memory. But what is torn
            // can't be computed, and these have no stripe log.
            if shape.parity.is_some() {
                world.run_until_quiet();
                world.daemon_pass();
                world.daemon_pass();
            }
            world.crash_and_start();
            assert_eq!(world.listed(1), listed);
            world.uses_bad_blocks();
            world.read_all();
            assert_eq!(world.host.failed, 0, "seed {seed}, {shape:?}");
            // What is there could be read now, and is old.
            world.disks[1].stubborn.clear();
            world.read_all();
            world.write_by_four(120);
            world.run_until_quiet();
            assert_eq!(world.listed(1), [], "seed {seed}");
            world.read_all();
            world.stop();
            let own = world.superblock(1).unwrap();
            assert!(!own.features.contains(crate::md::Features::BAD_BLOCKS));
            world.assemble();
            assert!(world.wait_started());
            world.read_all();
            assert_eq!(world.host.failed, 0);
            assert_eq!(told(|it| matches!(it, ArrayEvent::MemberFailed { .. })), 0);
        }
    }
}

#[test]
fn write_errors_become_bad_blocks() {
    what_cannot_be_written_is_listed_and_cleared();
}

/// Of a write of two rows or strips member 1 lists a block of the first, which has ended; member 0,
/// which has the rest of it, goes before the second ends.
pub(super) fn what_a_piece_has_lost_is_no_success() {
    for shape in [striped(), rows(5)] {
        let mut world = started(3, shape);
        world.uses_bad_blocks();
        world.write(0, world.host.len().min(200));
        world.run_until_quiet();
        world.disks[1].stubborn = vec![3];
        // Member 2 has none of the first strip of copies, and its part of the first row.
        let (blocks, second) = if shape.parity.is_some() { (64, 8) } else { (16, 0) };
        world.submit(0, IoOp::Write, false, 0, blocks);
        let second = world.disks[2].data_lba() + second;
        let is_second = |flight: &Flight| {
            flight.disk == 2 && flight.io.op == IoOp::Write && flight.io.lba >= second
        };
        world.run_until("the second piece is written", |world| world.has_in_flight(is_second));
        let withheld = world.withhold(is_second);
        world.run_until_quiet();
        assert_ne!(world.listed(1), []);
        assert_eq!((world.host.failed, world.host.in_flight()), (0, 1));
        world.fail(0).unwrap();
        world.run_until_quiet();
        world.put_back(withheld);
        world.wait_host();
        assert_eq!(world.host.failed, 1, "{shape:?}");
        world.run_until_quiet();
        world.stop();
    }
}

#[test]
fn a_write_is_acknowledged_as_a_whole() {
    what_a_piece_has_lost_is_no_success();
}

/// What is listed is written again from the others when the array starts, and by checks.
#[test]
fn what_is_listed_is_written_again_from_the_others() {
    for shape in [MIRROR, striped(), rows(5), rows(6)] {
        for by_check in [false, true] {
            let mut world = started(7, shape);
            world.uses_bad_blocks();
            let len = world.host.len();
            world.write(0, len.min(200));
            world.disks[1].stubborn = vec![11];
            world.write_by_four(80);
            assert_ne!(world.listed(1), []);
            world.disks[1].stubborn.clear();
            if by_check || shape.raid10.is_some() {
                let command = Command::Scrub(crate::raid::ScrubAction::Check);
                world.on_owner(|owner, out| drop(owner.execute(&command, out)));
            } else {
                world.stop();
                world.assemble();
                assert!(world.wait_started());
            }
            world.run_until_quiet();
            assert_eq!(world.listed(1), []);
            assert_eq!(told(|it| matches!(it, ArrayEvent::BadBlocksCleared { .. })), 1);
            world.read_all();
            assert_eq!(world.host.failed, 0);
            world.stop();
        }
    }
}

/// Nobody else has what a member lists: that is what can't be read, and nothing else; and the
/// member that is rebuilt from it lists it as well.
#[test]
fn what_nobody_has_is_an_error_there_alone() {
    for shape in [pair(), rows(5)] {
        let mut world = started(8, shape);
        world.uses_bad_blocks();
        world.write(0, world.host.len().min(200));
        world.disks[1].stubborn = vec![9];
        world.write_by_four(80);
        assert_ne!(world.listed(1), []);
        let lost = world.listed(1);
        world.fail(0).unwrap();
        world.run_until_quiet();
        world.put(0, Device::Blank);
        world.join(0, true).unwrap();
        world.run_until_quiet();
        for _ in 0..4 {
            world.fire_timer();
            world.run_until_quiet();
        }
        assert_eq!(world.member_state(0), MemberState::InSync, "it is rebuilt");
        assert_eq!(world.listed(0), lost);
        let before = world.host.failed;
        let blocks: u64 = lost.iter().map(|it| it.blocks).sum();
        for lba in 0..world.host.len() {
            world.submit(0, IoOp::Read, false, lba, 1);
            world.wait_host();
        }
        let failed = world.host.failed - before;
        // With parity a column has lost both of these members' blocks, of which one may be parity.
        let most = if shape.parity.is_some() { 2 * blocks } else { blocks };
        assert!((1..=most).contains(&failed), "{failed} of {blocks}");
        world.stop();
    }
}

/// The log has room for 64 ranges: who needs more is failed, and so is one whose log fails.
#[test]
fn a_log_that_is_full_or_fails_fails_the_member() {
    for log_fails in [false, true] {
        let mut world = started(9, MIRROR);
        world.uses_bad_blocks();
        world.write(0, 200);
        world.write(200, 120);
        world.disks[1].stubborn = (0..320).step_by(4).collect();
        for lba in (0..320).step_by(4) {
            if log_fails && lba == 40 {
                world.disks[1].dead = true;
            }
            world.submit(0, IoOp::Write, false, lba, 1);
            world.wait_host();
            let is_out = world.member_state(1) == MemberState::Faulty;
            assert_eq!(is_out, lba >= if log_fails { 40 } else { 64 * 4 }, "block {lba}");
        }
        assert_eq!(world.host.failed, 0);
        world.run_until_quiet();
        world.read_all();
        world.crash_and_start();
        world.read_all();
        assert_eq!(world.host.failed, 0);
    }
}

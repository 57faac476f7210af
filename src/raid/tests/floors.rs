//! Single stories of the stripe log: members that come back while its records count, and arrays
//! that fail or stop while something waits for it.

use super::log::shape;
use super::members::Device;
use super::scenario::started;
use super::world::{Flight, Shape, World};
use crate::bdev::{IoOp, Station};
use crate::raid::owner_members::MemberState;

fn is_by_channel(flight: &Flight) -> bool {
    flight.io.completion.tag().station == Station::RaidChannel
}

impl World {
    fn has_in_flight(&self, which: impl Fn(&Flight) -> bool) -> bool {
        self.running.as_ref().unwrap().in_flight.iter().any(which)
    }

    /// Members answer after all.
    pub(super) fn put_back(&mut self, withheld: Vec<Flight>) {
        self.running.as_mut().unwrap().in_flight.extend(withheld);
    }

    fn are_dead(&mut self, slots: [usize; 2], dead: bool) {
        slots.into_iter().for_each(|slot| self.disks[slot].dead = dead);
    }

    fn is_let_go(&mut self, slot: usize) {
        self.remove(slot).unwrap();
        self.run_until("it is let go", |world| world.member_state(slot) == MemberState::Missing);
    }

    /// Member 1 comes back to an array that was written without it, and has been given what it
    /// missed: it waits for a floor above the records. The notes that are to say it, which members
    /// have got and do not answer.
    fn waits_for_floor(seed: u64, shape: Shape) -> (Self, Vec<Flight>) {
        let mut world = started(seed, shape);
        world.write(0, 64);
        world.is_let_go(1);
        world.write(0, 12);
        world.join(1, false).unwrap();
        world.run_until("a note is written", |world| world.has_in_flight(is_by_channel));
        let notes = world.withhold(is_by_channel);
        world.run_until_quiet();
        assert_eq!(world.member_state(1), MemberState::Rebuilding);
        (world, notes)
    }
}

/// A block is written twice without a member, and each of the two that are left has one of the
/// records, as they can't do without each other. When the member is back one of them goes: if that
/// is the one with the newer record, the older one alone must not count.
#[test]
fn a_member_that_is_back_outlives_no_floor() {
    a_member_comes_back_and_another_goes();
}

pub(super) fn a_member_comes_back_and_another_goes() {
    for seed in 0..4 {
        for lost in [0, 2] {
            let mut world = started(seed, shape(5, 3));
            world.write(0, 64);
            world.is_let_go(1);
            world.write(0, 4);
            world.write(0, 4);
            world.rebuild(1, Device::Same);
            world.cut_power();
            world.present[lost] = false;
            world.assemble();
            assert_eq!(world.in_sync().count_ones(), 2);
            assert!(world.wait_started());
            world.read_all();
            assert_eq!(world.host.failed, 0);
            world.cut_power();
        }
    }
}

/// The array loses its metadata while a row is being read, and it is not on record that a member
/// is out: nobody will record it any more.
#[test]
fn a_row_ends_when_its_array_has_failed() {
    an_array_fails_while_a_row_is_read();
}

pub(super) fn an_array_fails_while_a_row_is_read() {
    for seed in 0..4 {
        let mut world = started(seed, shape(5, 3));
        world.write(0, 64);
        world.submit(0, IoOp::Write, false, 3, 2);
        let is_read = |flight: &Flight| is_by_channel(flight) && flight.io.op == IoOp::Read;
        world.run_until("the row is read", |world| world.has_in_flight(is_read));
        let reads = world.withhold(is_read);
        world.fail(1).unwrap();
        world.are_dead([0, 2], true);
        world.run_until_quiet();
        assert!(world.running.as_ref().unwrap().owner.failed, "nobody could write anything");
        world.are_dead([0, 2], false);
        world.put_back(reads);
        world.wait_host();
        assert_eq!(world.host.failed, 1);
        world.cut_power();
    }
}

/// The members that can't be done without fail the note that a member waits for: it is not tried
/// again before the next checkpoint.
#[test]
fn a_floor_that_cannot_be_written_is_tried_again_later() {
    a_floor_cannot_be_written();
}

pub(super) fn a_floor_cannot_be_written() {
    for seed in 0..4 {
        let (mut world, notes) = World::waits_for_floor(seed, shape(5, 3));
        world.are_dead([0, 2], true);
        world.put_back(notes);
        world.run_until_quiet();
        assert_eq!(world.member_state(1), MemberState::Rebuilding);
        world.are_dead([0, 2], false);
        world.wait_in_sync(1);
        world.read_all();
        world.stop();
    }
}

/// The array stops while a note waits until it is on record that a member has failed it.
#[test]
fn an_array_stops_that_has_only_a_note_to_settle() {
    a_note_is_settled_on_the_way_to_a_stop();
}

pub(super) fn a_note_is_settled_on_the_way_to_a_stop() {
    for seed in 0..4 {
        let (mut world, notes) = World::waits_for_floor(seed, shape(6, 5));
        let lost = notes.iter().map(|note| note.disk).find(|&disk| disk != 1).unwrap();
        world.disks[lost].dead = true;
        world.put_back(notes);
        world.run_until("it is to be recorded", |world| {
            world.member_state(lost) == MemberState::Faulty
                && (0..world.disks.len()).any(|disk| world.writes_superblock(disk))
        });
        let lba = world.superblock_lba();
        let superblocks = world.withhold(|flight| flight.io.lba == lba);
        world.run_until_quiet();
        world.on_owner(|owner, out| owner.stop(out));
        world.run_until_quiet();
        world.put_back(superblocks);
        world.run_until("the stop", |world| world.running.as_ref().unwrap().stopped);
        world.forget_stopped();
        world.assemble();
        assert!(world.wait_started());
        world.read_all();
        world.cut_power();
    }
}

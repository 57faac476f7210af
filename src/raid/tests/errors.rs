//! Stories of members that can't read what they hold.

use super::scenario::started;
use super::trace;
use super::trace::Event;
use super::world::{Shape, World};
use crate::bdev::IoOp;
use crate::raid::owner_members::MemberState;
use crate::raid::{ArrayEvent, Command, ErrorPolicy};

fn mirror() -> Shape {
    Shape { members: 3, cores: 1, ..Shape::SMALL }
}

fn rows(level: i32) -> Shape {
    let parity = Some((level, 2, 8));
    Shape { members: 5, cores: 1, chunk_blocks: 16, blocks: 960, parity, ..Shape::SMALL }.exact()
}

fn told(wanted: impl Fn(&ArrayEvent) -> bool) -> usize {
    trace::events(|event| matches!(event, Event::Says(event) if wanted(event)))
}

impl World {
    /// The member that the tests look at: of a mirror the one that is asked first.
    fn victim(&self) -> usize {
        usize::from(self.shape.parity.is_some())
    }

    /// The member has a block that can't be read, which the host reads and gets; what was under way
    /// after it has ended.
    fn meet_rot(&mut self, at: usize, heals: bool) {
        let slot = self.victim();
        self.disks[slot].rotten = vec![at];
        self.disks[slot].heals = heals;
        for _ in 0..40 {
            for lba in (0..self.host.len()).step_by(100) {
                self.submit(0, IoOp::Read, false, lba, 100.min(self.host.len() - lba));
            }
            self.wait_host();
            self.run_until_quiet();
            if self.disks[slot].rotten.is_empty() || self.member_state(slot) != MemberState::InSync
            {
                break;
            }
        }
        assert_eq!(self.host.failed, 0, "the others have it");
    }

    fn errors_of(&self, slot: usize) -> (u64, u32) {
        let status = self.running.as_ref().unwrap().owner.status();
        (status.read_errors[slot], status.corrected_sectors[slot])
    }
}

/// Served from the others, written again, read back and counted, in the superblock too.
#[test]
fn what_a_member_cannot_read_is_written_again() {
    for shape in [mirror(), rows(5), rows(6)] {
        let mut world = started(1, shape);
        world.write(0, world.host.len().min(200));
        world.meet_rot(11, true);
        assert!(world.disks[world.victim()].rotten.is_empty(), "it was not written again");
        let (errors, sectors) = world.errors_of(world.victim());
        assert!(errors >= 1 && sectors >= 1, "{errors} errors, {sectors} sectors");
        assert_eq!(world.errors_of(2), (0, 0));
        assert_eq!(told(|event| matches!(event, ArrayEvent::ReadRepaired { .. })), 1);
        assert_eq!(world.member_state(world.victim()), MemberState::InSync);
        world.stop();
        assert_eq!(world.superblock(world.victim()).unwrap().corrected_reads, sectors);
    }
}

/// The medium takes the write and does not keep it.
pub(super) fn who_does_not_keep_what_it_is_given_is_out() {
    for shape in [mirror(), rows(5), rows(6)] {
        let mut world = started(2, shape);
        world.write(0, world.host.len().min(200));
        world.meet_rot(11, false);
        assert_eq!(world.member_state(world.victim()), MemberState::Faulty);
        assert!(world.errors_of(world.victim()).0 < 20, "long before there are too many errors");
        world.read_all();
        assert_eq!(world.host.failed, 0);
        world.stop();
    }
}

#[test]
fn a_repair_is_read_back() {
    who_does_not_keep_what_it_is_given_is_out();
}

/// Every read fails once and is repaired: at last the member is out, and the others serve.
pub(super) fn too_many_read_errors_put_a_member_out() {
    for shape in [mirror(), rows(5), rows(6)] {
        for max in [0, 5, 20] {
            let mut world = started(3, shape);
            world.write(0, world.host.len().min(200));
            let command =
                Command::SetErrorPolicy(ErrorPolicy { read_errors_max: max, ..<_>::default() });
            world.on_owner(|owner, out| drop(owner.execute(&command, out)));
            let mut errors = 0;
            for round in 0..60 {
                world.meet_rot(round % 40, true);
                if world.member_state(world.victim()) != MemberState::InSync {
                    break;
                }
                errors = world.errors_of(world.victim()).0;
            }
            let is_out = world.member_state(world.victim()) == MemberState::Faulty;
            assert_eq!(is_out, max != 0, "at most {max}, and there were {errors}");
            assert!(max == 0 && errors > 20 || errors <= max.into(), "{errors} of {max}");
            let is_told =
                |event: &ArrayEvent| matches!(event, ArrayEvent::TooManyReadErrors { .. });
            assert_eq!(told(is_told), usize::from(max != 0));
            world.read_all();
            assert_eq!(world.host.failed, 0);
            world.stop();
        }
    }
}

#[test]
fn errors_have_a_bound() {
    too_many_read_errors_put_a_member_out();
}

/// However many errors: nobody else has what it holds.
#[test]
fn a_member_that_the_array_needs_stays_whatever_its_errors() {
    for shape in [Shape { members: 2, ..mirror() }, rows(5)] {
        let mut world = started(4, shape);
        world.write(0, 200);
        world.fail(0).unwrap();
        world.run_until_quiet();
        world.disks[1].rotten = (0..world.disks[1].live.len()).collect();
        for _ in 0..40 {
            world.submit(0, IoOp::Read, false, 0, 150);
            world.wait_host();
        }
        world.run_until_quiet();
        assert_eq!(world.member_state(1), MemberState::InSync);
        world.disks[1].rotten.clear();
        let failed = world.host.failed;
        world.read_all();
        assert_eq!(world.host.failed, failed);
        world.stop();
    }
}

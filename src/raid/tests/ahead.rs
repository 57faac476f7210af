//! Stories of chunks that are zeroed before anybody writes to them.

use super::members::Device;
use super::scenario::started;
use super::world::{Shape, World};
use crate::bdev::IoOp;
use crate::bitmap::ChunkState;
use crate::raid::owner_members::MemberState;

const SHAPE: Shape = Shape { cheap_zeroes: true, ..Shape::SMALL };

impl World {
    /// Whether every member holds nothing but zeroes in a chunk, durably.
    fn is_zeroed(&self, chunk: usize) -> bool {
        let blocks = self.array_blocks_of(chunk);
        self.disks
            .iter()
            .all(|disk| blocks.clone().all(|lba| disk.holds(lba).is_none_or(|held| held == (0, 0))))
    }
}

#[test]
fn the_chunk_behind_a_first_write_is_zeroed_with_it() {
    for cheap_zeroes in [true, false] {
        let mut world = started(1, Shape { cheap_zeroes, ..SHAPE });
        world.write_chunks([4]);
        assert_eq!(world.is_zeroed(5), cheap_zeroes);
        assert!(!world.is_zeroed(6));
        assert_eq!(world.in_state(ChunkState::Unwritten), 39, "only one is written to");
        world.write_chunks([5, 7, 6, 39]);
        world.read_all();
        world.check_members_agree();
    }
}

/// What was written and discarded is zeroed anew: members that free nothing still hold it.
#[test]
pub(super) fn a_chunk_zeroed_ahead_is_so_once() {
    for seed in 0..8 {
        let mut world = started(seed, Shape { unmap: false, ..SHAPE });
        world.write_chunks([4]);
        let blocks = world.array_blocks_of(5);
        world.write(blocks.start, blocks.len());
        world.submit(0, IoOp::Unmap, true, blocks.start, blocks.len());
        world.wait_host();
        assert_eq!(world.state(5), ChunkState::Unwritten);
        world.write_chunks([5]);
        world.read_all();
        world.check_members_agree();
    }
}

#[test]
pub(super) fn a_newcomer_has_not_zeroed_ahead() {
    for seed in 0..8 {
        let mut world = started(seed, SHAPE);
        world.write_chunks([4, 8]);
        assert!(world.is_zeroed(5) && world.is_zeroed(9));
        world.rebuild(1, Device::Blank);
        world.write_chunks([5, 9]);
        world.read_all();
        world.check_members_agree();
        world.cut_power();
    }
}

/// A member joins while a chunk is zeroed without it, and the one behind it: of neither it holds
/// zeroes.
#[test]
pub(super) fn a_newcomer_was_not_asked_to_zero() {
    for seed in 0..8 {
        let mut world = started(seed, SHAPE);
        world.remove(1).unwrap();
        world.run_until_quiet();
        world.submit(0, IoOp::Write, true, world.array_blocks_of(4).start + 1, 3);
        world.run_until("a chunk is zeroed", |world| {
            let in_flight = &world.running.as_ref().unwrap().in_flight;
            in_flight.iter().any(|flight| flight.io.op == IoOp::WriteZeroes)
        });
        let withheld = world.withhold(|flight| flight.io.op == IoOp::WriteZeroes);
        world.put(1, Device::Blank);
        world.join(1, false).unwrap();
        world.run_until("it is written", |world| world.member_state(1) == MemberState::Rebuilding);
        world.run_until_quiet();
        assert_eq!(world.member_state(1), MemberState::Rebuilding, "the rebuild waits there");
        world.running.as_mut().unwrap().in_flight.extend(withheld);
        world.wait_host();
        world.wait_in_sync(1);
        assert_eq!(world.state(5), ChunkState::Unwritten);
        world.write_chunks([5]);
        world.read_all();
        world.check_members_agree();
        world.cut_power();
    }
}

/// Whatever is known of chunks zeroed ahead, a power cut ends it.
#[test]
fn a_power_cut_forgets_what_is_zeroed() {
    for seed in 0..40 {
        let mut world = started(seed, SHAPE);
        for chunk in [4, 9, 5, 20] {
            world.submit(0, IoOp::Write, false, world.array_blocks_of(chunk).start + 1, 3);
        }
        for _ in 0..seed {
            world.step();
        }
        world.cut_power();
        world.assemble();
        assert!(world.wait_started());
        world.write_chunks([5, 10, 4, 6]);
        world.wait_synced();
        world.read_all();
        world.check_members_agree();
        world.cut_power();
    }
}

/// Nobody has asked for what lies ahead: that it can't be zeroed there is no reason to fail.
#[test]
fn a_failure_ahead_is_nobodys() {
    let mut world = started(2, SHAPE);
    world.faults.error = 3;
    for chunk in [4, 9, 5, 20, 33] {
        let lba = world.array_blocks_of(chunk).start + 1;
        world.submit(0, IoOp::Write, false, lba, 3);
    }
    world.wait_host();
    world.faults.error = 0;
    world.read_all();
    world.cut_power();
}

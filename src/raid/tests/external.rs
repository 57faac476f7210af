//! An external bitmap and members that it went on without.

use super::disk::SUPER_BYTE;
use super::scenario::started;
use super::world::{Flight, Refused, Shape, World};
use crate::bdev::IoOp;
use crate::raid::owner_members::MemberState;

/// Its header tells by more than one event who was not there, though nothing was written.
#[test]
pub(super) fn a_member_left_behind_is_not_started_alone() {
    let mut world = started(3, Shape { external: true, ..Shape::SMALL });
    world.write(0, 8);
    world.stop();
    world.present[1] = false;
    world.assemble();
    assert!(world.wait_started());
    world.cut_power();
    assert!(matches!(world.assemble_from(&[1]), Err(Refused::Ahead)));
    world.present[1] = true;
    world.assemble();
    assert!(world.wait_started());
    world.read_all();
    world.cut_power();
}

/// The power goes when a member that joins has the last update of the superblocks and the others
/// do not, and again when the next start has written its header only: that is not further ahead of
/// members that are all there than one event.
#[test]
pub(super) fn no_cut_off_start_leaves_its_header_ahead() {
    for seed in 0..4 {
        let mut world = started(seed, Shape { members: 3, external: true, ..Shape::SMALL });
        let superblock_lba = u64::try_from(SUPER_BYTE / world.shape.block).unwrap();
        let is_superblock = |flight: &Flight| {
            flight.disk < 3 && flight.io.op == IoOp::Write && flight.io.lba == superblock_lba
        };
        let writes_to = |world: &World, disk: usize| {
            let in_flight = &world.running.as_ref().unwrap().in_flight;
            in_flight.iter().any(|flight| flight.disk == disk && is_superblock(flight))
        };
        world.write_chunks([0, 3]);
        world.remove(2).unwrap();
        world.run_until("it is let go", |world| world.member_state(2) == MemberState::Missing);
        world.join(2, false).unwrap();
        world.run_until("its superblock is written", |world| writes_to(world, 2));
        let lost = world.withhold(|flight| flight.disk < 2 && is_superblock(flight));
        assert_eq!(lost.len(), 2);
        world.run_until("it has it", |world| !writes_to(world, 2));
        world.cut_power_without(lost);
        world.assemble();
        world.run_until("the header is written", |world| writes_to(world, 0));
        let lost = world.withhold(is_superblock);
        world.cut_power_without(lost);
        world.assemble();
        assert!(world.wait_started());
        world.make_whole();
        world.read_all();
        world.run_until_quiet();
    }
}

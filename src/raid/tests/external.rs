//! An external bitmap and members that it went on without.

use super::scenario::started;
use super::world::{Refused, Shape};
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
        world.write_chunks([0, 3]);
        world.remove(2).unwrap();
        world.run_until("it is let go", |world| world.member_state(2) == MemberState::Missing);
        world.join(2, false).unwrap();
        world.run_until("its superblock is written", |world| world.writes_superblock(2));
        world.cut_with_one_superblock(Some(2));
        world.assemble();
        world.run_until("the header is written", |world| world.writes_superblock(0));
        world.cut_with_one_superblock(None);
        world.assemble();
        assert!(world.wait_started());
        world.make_whole();
        world.read_all();
        world.run_until_quiet();
    }
}

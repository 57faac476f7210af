//! An external bitmap and members that it went on without.

use super::scenario::started;
use super::world::{Refused, Shape};

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

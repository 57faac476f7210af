//! Arrays that stop while a member hangs.

use super::grow::shapes;
use super::scenario::started;
use super::world::{Shape, World};
use crate::bdev::IoOp;

impl World {
    fn has_stopped(&self) -> bool {
        self.running.as_ref().unwrap().stopped
    }
}

/// An array that stops with requests of hosts under way, so many events after that began; `None`:
/// it has stopped by then.
fn stopping(seed: u64, shape: Shape, events: u64) -> Option<World> {
    let mut world = started(seed, shape);
    world.write(8, 4);
    for at in 0..3 {
        world.submit(at % usize::from(shape.cores), IoOp::Write, at % 2 == 0, at * 24, 5);
    }
    world.on_owner(|owner, out| owner.stop(out));
    let end = world.events + events;
    while !world.has_stopped() && world.events < end {
        world.step();
    }
    if world.has_stopped() {
        world.forget_stopped();
        world.cut_power();
        return None;
    }
    Some(world)
}

/// A member hangs at any event of a stop. The array stops clean when it answers, and what was
/// acknowledged is there also if mdof ends before.
#[test]
fn a_member_that_hangs_in_a_stop() {
    for (seed, shape) in (0..).zip(shapes()) {
        let (mut waited, mut cut) = (0, 0);
        for events in 0.. {
            let Some(mut world) = stopping(seed, shape, events) else { break };
            world.hung = 1 << 1;
            world.run_until_quiet();
            let is_waiting = !world.has_stopped();
            waited += u64::from(is_waiting);
            world.hung = 0;
            if is_waiting && events % 2 == 0 {
                world.cut_power();
                cut += 1;
            } else {
                world.run_until("the stop", World::has_stopped);
                assert_eq!(world.host.in_flight(), 0);
                world.forget_stopped();
            }
            let dirty = world.assemble().dirty;
            assert!(!dirty || cut > 0 && events % 2 == 0, "after {events} events");
            assert!(world.wait_started());
            world.read_all();
            world.wait_synced();
            if shape.raid10.is_none() && shape.parity.is_none() {
                world.check_members_agree();
            }
            world.cut_power();
        }
        assert!(waited > 3 && cut > 1, "it waited {waited} times");
    }
}

//! One story, cut short at each of its member-visible events, and again in what follows.

use super::life::Figures;
use super::world::{Shape, World};
use super::{pool, trace};
use crate::bdev::IoOp;

/// Requests of the story: kind, FUA, chunk, block in the chunk, blocks.
const STORY: [(IoOp, bool, usize, usize, usize); 14] = [
    (IoOp::Write, false, 0, 2, 3),
    (IoOp::Write, true, 1, 0, 8),
    (IoOp::Write, false, 0, 5, 9),
    (IoOp::Flush, false, 0, 0, 0),
    (IoOp::Write, false, 3, 1, 1),
    (IoOp::Unmap, true, 1, 0, 8),
    (IoOp::Write, false, 2, 0, 24),
    (IoOp::WriteZeroes, false, 2, 3, 8),
    (IoOp::Write, true, 1, 4, 2),
    (IoOp::Unmap, false, 2, 4, 20),
    (IoOp::Flush, false, 0, 0, 0),
    (IoOp::Write, false, 3, 0, 2),
    (IoOp::Write, true, 5, 0, 2),
    (IoOp::WriteZeroes, true, 3, 0, 8),
];

impl World {
    /// Tells the story until that many events have been. `false`: it was over before.
    fn tell_until(&mut self, events: u64) -> bool {
        let mut next = 0;
        while self.events < events {
            if self.running.as_ref().unwrap().started && next < STORY.len() && self.rng.one_in(6) {
                let (op, fua, chunk, block, blocks) = STORY[next];
                let lba = chunk * self.shape.chunk_blocks + block;
                if op == IoOp::Flush || !self.host.is_being_changed(lba, blocks) {
                    let core = next % usize::from(self.shape.cores);
                    self.submit(core, op, fua, lba, blocks);
                    next += 1;
                }
            }
            if self.is_quiet() && self.host.in_flight() == 0 && next == STORY.len() {
                // Time for the daemon to look, to rest, to clear; then the story is over.
                if self.now_ms > 120_000 {
                    return false;
                }
                self.fire_timer();
            }
            self.step();
        }
        true
    }

    /// Runs what follows a cut until that many events have been, without a host.
    fn recover_until(&mut self, events: u64) -> bool {
        while self.events < events {
            let started = self.running.as_ref().unwrap().started;
            if started && self.is_quiet() {
                return false;
            }
            self.step();
        }
        true
    }
}

/// The story with a cut after `first` events and, in what follows, after `second` more. Says
/// whether both cuts fell inside.
fn cut_twice(shape: Shape, seed: u64, first: u64, second: u64, sum: &mut Figures) -> (bool, bool) {
    trace::begin(false);
    let mut world = World::create(seed, shape, pool());
    let inside = world.tell_until(first);
    world.cut_power();
    world.assemble();
    let before = world.events;
    let again = world.recover_until(before + second);
    world.cut_power();
    world.assemble();
    assert!(world.wait_started());
    world.run_until_quiet();
    world.check_members_agree();
    world.read_all();
    world.cut_power();
    sum.cuts += world.cuts;
    (inside, again)
}

/// A power cut after each event of the story, followed by one at each event of the start and the
/// resync that come after, in steps.
#[test]
fn a_power_cut_at_every_event_and_at_every_event_of_the_recovery() {
    let mut sum = Figures::default();
    for (members, block, seed) in [(2, 512, 1), (3, 4096, 2)] {
        let shape = Shape { members, block, blocks: 64, ..Shape::SMALL };
        let mut first = 0;
        while cut_twice(shape, seed, first, 0, &mut sum).0 {
            first += 1;
        }
        assert!(first > 100, "the story has only {first} events");
        // From some points on every event of what follows.
        for start in (0..first).step_by(23) {
            let mut second = 0;
            while cut_twice(shape, seed, start, second, &mut sum).1 {
                second += 3;
            }
        }
    }
    assert!(sum.cuts > 1000, "{} cuts", sum.cuts);
}

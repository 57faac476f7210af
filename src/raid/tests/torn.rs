//! Rows whose parity may not fit the data, with a member missing: what is lost, and that the
//! operator's word brings the array back.

use super::members::Device;
use super::row_members::shape;
use super::scenario::started;
use super::trace::{self, Event};
use super::world::World;
use crate::bdev::IoOp;
use crate::raid::owner_members::MemberState;
use crate::raid::{ArrayEvent, Command, Geometry, Pace, slots};

impl World {
    /// Linux md was here, and has built no parity where nothing was written: there is noise.
    fn unbuilt(seed: u64, level: i32, members: usize) -> Self {
        let mut world = started(seed, shape(level, members));
        world.write_chunks([0, 1, 2]);
        world.stop();
        world.linux_was_here();
        let Geometry::Parity(parity) = world.geometry.clone() else { unreachable!() };
        for at in 3 * 16..40 * 16_u64 {
            for slot in slots(parity.row(at / parity.strip_blocks()).parity_mask()) {
                let (at, stamp) = (usize::try_from(at).unwrap(), 0xbad0_0000 + at);
                world.disks[usize::from(slot)].spoil_at(at, stamp << u32::from(slot));
            }
        }
        world.disks.iter_mut().for_each(|disk| disk.takes_guesses = true);
        world
    }

    /// Single blocks, here and there, in chunks never written before.
    fn write_here_and_there(&mut self, from: usize, written: &mut Vec<usize>) {
        for lba in (from..self.host.len()).step_by(37) {
            self.submit(lba % 2, IoOp::Write, lba % 3 == 0, lba, 1);
            self.wait_host();
            written.push(lba);
        }
    }

    fn read_back(&mut self, written: &[usize]) {
        for &lba in written {
            self.submit(lba % 2, IoOp::Read, false, lba, 1);
            self.wait_host();
        }
        assert_eq!(self.host.failed, 0);
    }

    /// A row was being written when the power went, and member 1 never comes back. Started by
    /// force. `None`: the cut left nothing in doubt.
    fn torn(
        seed: u64,
        level: i32,
        members: usize,
        accepts_loss: bool,
    ) -> Option<(Self, Vec<usize>)> {
        let mut world = started(seed, shape(level, members));
        world.write(0, 200);
        world.submit(0, IoOp::Write, false, 8, 60);
        for _ in 0..seed * 3 {
            world.step();
        }
        world.cut_power();
        world.present[1] = false;
        world.disks[1].takes_guesses = true;
        let mut config = world.config_of_present();
        (config.force, config.accepts_loss) = (true, accepts_loss);
        world.start_of(config);
        assert!(world.wait_started());
        world.run_until_quiet();
        let doubt = &world.running.as_ref().unwrap().shared.doubt;
        let torn: Vec<usize> = (0..40).filter(|&chunk| doubt.is_torn(chunk)).collect();
        (!torn.is_empty()).then_some((world, torn))
    }

    /// Parity fits the data in every row.
    fn check_parity_fits(&self) {
        for chunk in 0..self.watch.chunks {
            self.check_parity_of(chunk);
        }
        assert_eq!(self.running.as_ref().unwrap().shared.doubt.count(), 0);
    }

    /// What was torn is written anew, so that the host knows again what it holds.
    fn write_anew(&mut self, torn: &[usize]) {
        for &chunk in torn {
            let blocks = self.array_blocks_of(chunk);
            for lba in blocks.clone().step_by(16) {
                self.write(lba, 16.min(blocks.end - lba));
            }
        }
    }
}

fn stalled() -> usize {
    trace::events(|event| match *event {
        Event::Says(ArrayEvent::RebuildNeedsForce { chunks, .. }) => chunks > 0,
        _ => false,
    })
}

fn guessed() -> usize {
    trace::events(|event| match *event {
        Event::Says(ArrayEvent::RebuildGuessed { chunks, .. }) => chunks > 0,
        _ => false,
    })
}

/// As it was started by force: writes go on, what is lost is not read, and the rebuild ends.
#[test]
fn a_forced_array_is_rebuilt() {
    let mut seen = 0;
    for (level, members) in [(5, 4), (6, 5), (4, 3)] {
        for seed in 1..8 {
            let Some((mut world, torn)) = World::torn(seed, level, members, true) else {
                continue;
            };
            seen += 1;
            world.read_all();
            assert!(world.host.failed > 0, "what is lost is not read");
            let failed = world.host.failed;
            // Part of a row, beside what is lost.
            let first = world.array_blocks_of(torn[0]).start;
            for lba in first..first + 24 {
                world.submit(lba % 2, IoOp::Write, true, lba, 1);
                world.wait_host();
            }
            assert_eq!(world.host.failed, failed, "a write was refused");
            world.rebuild(1, Device::Blank);
            assert_eq!(world.host.failed, failed);
            world.check_parity_fits();
            world.write_anew(&torn);
            world.check_rows_whole();
        }
    }
    assert!(seen > 10, "{seen} arrays had torn rows");
}

/// Without the operator's word the rebuild waits and says so; the word may come while it runs.
#[test]
fn a_rebuild_waits_for_the_operators_word() {
    let mut seen = 0;
    for seed in 1..8 {
        let Some((mut world, torn)) = World::torn(seed, 5, 4, false) else { continue };
        seen += 1;
        world.put(1, Device::Blank);
        world.join(1, false).unwrap();
        world.run_until("the rebuild waits", |_| stalled() > 0);
        assert_eq!(world.member_state(1), MemberState::Rebuilding);
        let mut said = Err(String::new());
        world.on_owner(|owner, out| said = owner.execute(&Command::AcceptLoss, out));
        said.unwrap();
        world.wait_in_sync(1);
        assert_eq!(guessed(), 1, "seed {seed}");
        world.check_parity_fits();
        let mut said = Ok(crate::raid::Outcome::Done);
        world.on_owner(|owner, out| said = owner.execute(&Command::AcceptLoss, out));
        assert!(said.unwrap_err().contains("none of its chunks"));
        world.write_anew(&torn);
        world.check_rows_whole();
    }
    assert!(seen > 3, "{seen} arrays had torn rows");
}

/// The power went amid writes and all members are back: until the resync has been there none is let
/// go, unless the operator gives up what it alone can tell. One that fails is out all the same.
#[test]
fn no_member_is_let_go_while_parity_may_not_fit() {
    let mut seen = 0;
    for (level, members) in [(5, 4), (6, 5)] {
        for seed in 1..8 {
            let mut world = started(seed, shape(level, members));
            world.write(0, 200);
            world.submit(0, IoOp::Write, false, 8, 60);
            for _ in 0..seed * 3 {
                world.step();
            }
            world.cut_power();
            world.assemble();
            let doubt = |world: &World| world.running.as_ref().unwrap().shared.doubt.torn_count();
            if doubt(&world) == 0 {
                continue;
            }
            seen += 1;
            // Nobody can be read, so nothing is resynced.
            world.faults.read_error = 1;
            assert!(world.wait_started());
            for told in [world.fail(1), world.remove(1)] {
                assert!(told.unwrap_err().contains("parity may not fit"));
            }
            assert_eq!(world.member_state(1), MemberState::InSync);
            world.faults.read_error = 0;
            match seed % 3 {
                0 => {
                    world.on_owner(|owner, out| {
                        owner.execute(&Command::AcceptLoss, out).unwrap();
                    });
                }
                1 => {
                    world.disks[1].dead = true;
                    world.write(0, 200);
                    world.run_until_quiet();
                    assert_eq!(world.member_state(1), MemberState::Faulty);
                    continue;
                }
                _ => {
                    world.cut_power();
                    world.assemble();
                    assert!(world.wait_started());
                    world.run_until("parity fits", |world| doubt(world) == 0);
                }
            }
            world.fail(1).unwrap();
            world.run_until_quiet();
            assert_eq!(world.member_state(1), MemberState::Faulty);
        }
    }
    assert!(seen > 8, "{seen} arrays had torn rows");
}

/// Where Linux md has built no parity yet and a member is lost: what was written is read, all is
/// written on, also when a second one of a RAID6 goes, and their rebuilds end.
#[test]
fn an_array_of_linux_loses_members_before_its_parity_is_built() {
    for (level, members) in [(5, 4), (6, 5), (4, 3)] {
        for seed in 0..4 {
            let mut world = World::unbuilt(seed, level, members);
            world.assemble();
            assert!(world.wait_started());
            let slow = Pace { max_mib_s: 1, ..Pace::default() };
            world.on_owner(|owner, out| owner.set_pace(slow, out));
            let mut written = Vec::new();
            world.write_here_and_there(150, &mut written);
            let lost = if level == 6 { 2 } else { 1 };
            for slot in 0..lost {
                world.fail(slot + 1).unwrap();
                world.run_until_quiet();
                world.read_back(&written);
                world.write_here_and_there(155 + slot, &mut written);
                world.read_back(&written);
            }
            assert!(world.running.as_ref().unwrap().shared.doubt.count() > 5, "nothing to test");
            world.on_owner(|owner, out| owner.set_pace(Pace::default(), out));
            for slot in 0..lost {
                world.rebuild(slot + 1, Device::Blank);
                world.read_back(&written);
            }
            world.run_until_quiet();
            world.check_parity_fits();
        }
    }
}

/// The same with a stop in between: no force is needed, and writes spoil nothing.
#[test]
fn an_array_of_linux_is_started_without_a_member_before_its_parity_is_built() {
    for (level, members) in [(5, 4), (6, 5)] {
        for seed in 0..4 {
            let mut world = World::unbuilt(seed, level, members);
            world.present[2] = false;
            let mut written = Vec::new();
            for from in [150, 156] {
                let mut config = world.config_of_present();
                config.force = false;
                world.start_of(config);
                assert!(world.wait_started());
                world.read_back(&written);
                world.write_here_and_there(from, &mut written);
                world.read_back(&written);
                world.stop();
            }
            let config = world.config_of_present();
            world.start_of(config);
            assert!(world.wait_started());
            if level == 6 {
                world.fail(0).unwrap();
                world.run_until_quiet();
                world.read_back(&written);
                world.rebuild(0, Device::Blank);
            }
            world.rebuild(2, Device::Blank);
            world.read_back(&written);
            world.check_parity_fits();
        }
    }
}

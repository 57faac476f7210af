//! Infected neighbours, and the settings of a running bitmap.

use super::disk::BITMAP_BYTE;
use super::scenario;
use super::trace::{self, Event};
use super::world::{Shape, World};
use crate::bdev::IoOp;
use crate::bitmap::{ChunkState, Infection};
use crate::raid::Knobs;

const CLEAN_CHUNKS: usize = 16;

/// An array whose first chunks are Clean and all others Unwritten.
fn clean(seed: u64, policy: Infection) -> World {
    let shape = Shape { members: 2, cores: 2, chunk_blocks: 128, blocks: 48 * 128, ..Shape::SMALL };
    let mut world = scenario::started(seed, shape);
    let chunk = world.chunk_blocks();
    for index in 0..CLEAN_CHUNKS {
        world.write(index * chunk, 1);
    }
    world.stop();
    world.assemble();
    world.wait_started();
    world.set(Knobs { infection: Some(policy), ..Knobs::default() }).unwrap();
    assert_eq!(world.chunks_in(ChunkState::Clean), CLEAN_CHUNKS);
    world
}

impl World {
    pub(super) fn set(&mut self, knobs: Knobs) -> Result<(), String> {
        trace::note(Event::Set(knobs));
        let mut result = Ok(());
        self.on_owner(|owner, out| result = owner.set_knobs(&knobs, out));
        result
    }

    fn chunks_in(&self, state: ChunkState) -> usize {
        usize::try_from(self.in_state(state)).unwrap()
    }

    fn bitmap_writes(&self) -> u64 {
        self.running.as_ref().unwrap().owner.status().bitmap_writes
    }
}

#[test]
fn infected_neighbours_need_no_write_of_their_own() {
    // Chunks that are Dirty after writes to chunks 0 to 2, and unit writes for one to chunk 3.
    for (policy, dirty, writes) in
        [(Infection::Off, 3, 1), (Infection::Md, CLEAN_CHUNKS, 0), (Infection::Adaptive, 4, 0)]
    {
        let mut world = clean(30, policy);
        let chunk = world.chunk_blocks();
        for index in 0..3 {
            world.write(index * chunk, 1);
        }
        assert_eq!(world.chunks_in(ChunkState::Dirty), dirty, "{policy:?}");
        assert_eq!(world.chunks_in(ChunkState::Clean), CLEAN_CHUNKS - dirty);
        let before = world.bitmap_writes();
        world.write(3 * chunk, 1);
        assert_eq!(world.bitmap_writes() - before, writes, "{policy:?}");
        world.cut_power();
        world.assemble();
        world.wait_started();
        world.wait_synced();
        world.read_all();
        world.check_members_agree();
        world.cut_power();
    }
}

/// Defect 11 of the kernel's bitmap: infected Unwritten chunks became Clean without ever having
/// been made equal.
#[test]
fn unwritten_chunks_are_never_infected() {
    for policy in Infection::ALL {
        let mut world = clean(31, policy);
        let (chunk, unwritten) = (world.chunk_blocks(), world.chunks_in(ChunkState::Unwritten));
        assert!(unwritten > 2);
        for index in 0..CLEAN_CHUNKS {
            world.write(index * chunk, 1);
        }
        assert_eq!(world.chunks_in(ChunkState::Unwritten), unwritten, "{policy:?}");
        world.write(CLEAN_CHUNKS * chunk, 1);
        assert_eq!(world.chunks_in(ChunkState::Unwritten), unwritten - 1);
        world.stop();
        world.assemble();
        world.check_members_agree();
        world.cut_power();
    }
}

/// An absent member is given what was written, not what was infected.
#[test]
pub(super) fn nothing_is_infected_while_the_array_is_degraded() {
    let mut world = clean(32, Infection::Md);
    let chunk = world.chunk_blocks();
    world.disks[1].dead = true;
    world.submit(0, IoOp::Write, true, 0, 1);
    world.wait_host();
    for index in 1..4 {
        world.write(index * chunk, 1);
    }
    assert_eq!(world.chunks_in(ChunkState::Clean), CLEAN_CHUNKS - 4);
}

#[test]
pub(super) fn settings_have_bounds_and_the_sleep_survives_a_restart() {
    let mut world = clean(33, Infection::Off);
    let sleep = |s| Knobs { daemon_sleep_s: Some(s), ..Knobs::default() };
    assert!(world.set(sleep(0)).unwrap_err().contains("1 to 86400"));
    let idle = Knobs { barrier_idle_s: Some(4000), ..Knobs::default() };
    assert!(world.set(idle).unwrap_err().contains("at most 3600"));
    world.set(sleep(17)).unwrap();
    world.run_until_quiet();
    let status = world.running.as_ref().unwrap().owner.status();
    assert_eq!(status.knobs.unwrap().daemon_sleep_s, Some(17));
    world.cut_power();
    // mdadm's offset of daemon_sleep in a bitmap header.
    let at = BITMAP_BYTE + 56;
    for disk in &world.disks {
        assert_eq!(disk.durable_meta[at..at + 4], 17u32.to_le_bytes());
    }
}

/// A sleep of a day that is set to a second ends soon: the timer is armed in slices.
#[test]
pub(super) fn a_shorter_sleep_counts_soon() {
    let mut world = clean(34, Infection::Off);
    let chunk = world.chunk_blocks();
    world.write(0, 1);
    world.set(Knobs { daemon_sleep_s: Some(86_400), ..Knobs::default() }).unwrap();
    // The pass of the old sleep, idle time included; then the long sleep begins.
    for _ in 0..2 {
        assert!(world.fire_timer());
        world.run_until_quiet();
    }
    assert_eq!(world.chunks_in(ChunkState::Dirty), 0);
    world.write(chunk, 1);
    for _ in 0..5 {
        assert!(world.fire_timer());
        world.run_until_quiet();
        assert_eq!(world.chunks_in(ChunkState::Dirty), 1, "it sleeps");
    }
    world.set(Knobs { daemon_sleep_s: Some(1), ..Knobs::default() }).unwrap();
    for _ in 0..3 {
        assert!(world.fire_timer());
        world.run_until_quiet();
    }
    assert_eq!(world.chunks_in(ChunkState::Dirty), 0);
}

/// What the header would carry can't be written any more, and nobody waits for it.
#[test]
pub(super) fn an_array_that_stops_takes_no_settings() {
    let mut world = clean(35, Infection::Off);
    let sleep = Knobs { daemon_sleep_s: Some(17), ..Knobs::default() };
    world.on_owner(|owner, out| owner.stop(out));
    while !world.running.as_ref().unwrap().stopped {
        assert!(world.set(sleep).is_err());
        world.step();
    }
    assert!(world.set(sleep).unwrap_err().contains("stopping"));
    world.forget_stopped();
    assert!(!world.assemble().dirty);
    world.cut_power();
}

//! The array's machines under simulated members, cores and hosts.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod host;
mod stale;
mod world;

use world::{BLOCK, World};

use crate::bdev::IoOp;
use crate::bitmap::ChunkState;
use crate::md::{RejectionReason, Slot};
use crate::reactor::buf::BufPool;

fn pool() -> BufPool {
    BufPool::on_heap([256, 16, 16])
}

impl World {
    fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..200_000 {
            if done(self) {
                return;
            }
            assert!(self.step(), "stuck before: {what}");
        }
        panic!("no end before: {what}");
    }

    fn wait_started(&mut self) {
        self.run_until("the start", |world| world.running.as_ref().unwrap().started);
    }

    fn submit(&mut self, core: usize, op: IoOp, fua: bool, lba: usize, blocks: usize) {
        let pool = self.pool;
        let io = self.host.make(op, fua, lba, blocks, &pool);
        self.on_channel(core, |channel, out| channel.submit(io, out));
    }

    fn wait_host(&mut self) {
        self.run_until("the host's requests end", |world| world.host.in_flight() == 0);
    }

    fn write(&mut self, lba: usize, blocks: usize) {
        self.submit(0, IoOp::Write, true, lba, blocks);
        self.wait_host();
    }

    fn stop(&mut self) {
        self.on_owner(|owner, out| owner.stop(out));
        self.run_until("the stop", |world| world.running.as_ref().unwrap().stopped);
        self.running = None;
    }

    fn states(&self) -> [u64; 8] {
        self.running.as_ref().unwrap().owner.status().histogram
    }

    fn wait_synced(&mut self) {
        let open = [ChunkState::NeedSync as usize, ChunkState::Syncing as usize];
        self.run_until("resync", |world| open.iter().all(|&state| world.states()[state] == 0));
    }

    fn read_all(&mut self) {
        let len = self.host.len();
        for lba in (0..len).step_by(128) {
            self.submit(0, IoOp::Read, false, lba, 128.min(len - lba));
            self.wait_host();
        }
    }

    /// Every chunk that was ever written is the same on all members in sync.
    fn check_members_agree(&self) {
        let running = self.running.as_ref().unwrap();
        let status = running.owner.status();
        for chunk in 0..running.shared.map.as_ref().unwrap().len() {
            if running.shared.chunk_state(chunk) == Some(ChunkState::Unwritten) {
                continue;
            }
            let range = running.shared.blocks_of_chunk(chunk);
            let mut copies = Vec::new();
            for (slot, disk) in self.disks.iter().enumerate() {
                if status.members[slot].1 == "in_sync" {
                    let lba = running.shared.members[slot].unwrap().data_lba + range.lba;
                    let start = usize::try_from(lba).unwrap() * BLOCK;
                    let len = usize::try_from(range.blocks).unwrap() * BLOCK;
                    copies.push(&disk.live[start..start + len]);
                }
            }
            let state = running.shared.chunk_state(chunk);
            for pair in copies.windows(2) {
                let same = |block: usize| {
                    pair[0][block * BLOCK..][..BLOCK] == pair[1][block * BLOCK..][..BLOCK]
                };
                let differing = (0..pair[0].len() / BLOCK).find(|&block| !same(block));
                assert_eq!(differing, None, "chunk {chunk} ({state:?}) differs at this block");
            }
        }
    }
}

#[test]
fn never_written_blocks_read_as_zeroes_whatever_the_members_hold() {
    let mut world = World::create(1, 2, 2, pool());
    world.wait_started();
    world.read_all();
    world.write(5, 1);
    world.read_all();
    world.check_members_agree();
    assert_eq!(world.states()[..4], [world.states()[0], 0, 1, 0]);
}

#[test]
fn a_clean_stop_leaves_nothing_in_doubt() {
    let mut world = World::create(2, 2, 2, pool());
    world.wait_started();
    world.write(0, 128);
    world.write(1000, 8);
    world.stop();
    let assembly = world.assemble();
    assert!(!assembly.dirty);
    world.wait_started();
    let states = world.states();
    assert_eq!(states[ChunkState::NeedSync as usize] + states[ChunkState::Dirty as usize], 0);
    assert!(states[ChunkState::Clean as usize] >= 2);
    world.read_all();
}

#[test]
fn a_crash_resyncs_what_was_dirty_and_no_more() {
    let mut world = World::create(3, 2, 1, pool());
    world.wait_started();
    world.write(0, 8);
    world.cut_power();
    assert!(world.assemble().dirty);
    assert_eq!(world.states()[ChunkState::NeedSync as usize], 1);
    world.wait_started();
    world.wait_synced();
    world.read_all();
    world.check_members_agree();
}

#[test]
fn the_daemon_clears_idle_chunks_and_spares_busy_ones() {
    let mut world = World::create(4, 2, 2, pool());
    world.wait_started();
    world.write(0, 8);
    world.write(1000, 8);
    assert_eq!(world.states()[ChunkState::Dirty as usize], 2);
    // The sleep timer starts a pass; the second timer would be the idle time's.
    assert!(world.fire_timer());
    world.run_until("aging", |world| {
        !world.running.as_ref().unwrap().owner.is_busy() && world.quiet()
    });
    world.submit(1, IoOp::Write, true, 0, 8);
    world.wait_host();
    assert!(world.fire_timer());
    world.run_until("clearing", |world| world.states()[ChunkState::Clean as usize] == 1);
    assert_eq!(world.states()[ChunkState::Dirty as usize], 1);
    world.run_until("the lazy write", World::quiet);
    // Cleared chunks are written back: a crash now resyncs the busy chunk only.
    world.cut_power();
    world.assemble();
    assert_eq!(world.states()[ChunkState::NeedSync as usize], 1);
    world.cut_power();
}

#[test]
fn a_failed_member_is_recorded_before_the_write_is_acknowledged() {
    let mut world = World::create(5, 2, 2, pool());
    world.wait_started();
    world.write(0, 8);
    world.disks[1].dead = true;
    world.write(0, 8);
    assert_eq!(world.host.failed, 0, "the host sees no error");
    world.cut_power();
    let assembly = world.assemble();
    assert!(matches!(assembly.slots[1], Slot::Missing { .. }), "{:?}", assembly.slots);
    assert!(matches!(
        assembly.rejected[0].reason,
        RejectionReason::Stale { .. } | RejectionReason::Faulty
    ));
    world.wait_started();
    world.read_all();
}

#[test]
fn the_last_member_is_kept_and_its_errors_reach_the_host() {
    let mut world = World::create(6, 2, 1, pool());
    world.wait_started();
    world.write(0, 8);
    world.disks[0].dead = true;
    world.write(0, 8);
    world.disks[1].dead = true;
    world.write(0, 8);
    assert_eq!(world.host.failed, 1);
    world.disks[1].dead = false;
    world.read_all();
}

impl World {
    /// Nothing happens without a timer or the host.
    fn quiet(&self) -> bool {
        self.is_quiet() && !self.running.as_ref().unwrap().owner.is_busy()
    }

    /// Random work of a host, with the faults that `faults` allows, for `steps` steps.
    fn random_work(&mut self, steps: usize, faults: bool) {
        let cores = usize::from(self.cores);
        for _ in 0..steps {
            if self.rng.one_in(4) && self.host.in_flight() < 24 {
                let lba = self.rng.below(self.host.len() - 64);
                // Mostly a few hot chunks, so that states meet.
                let lba = if self.rng.one_in(8) { lba } else { lba % 700 };
                let blocks_max = if self.rng.one_in(8) { 60 } else { 4 };
                let blocks = 1 + self.rng.below(blocks_max);
                let core = self.rng.below(cores);
                let fua = self.rng.one_in(2);
                match self.rng.below(16) {
                    0 => self.submit(core, IoOp::Flush, false, 0, 0),
                    1..6 => self.submit(core, IoOp::Read, false, lba, blocks),
                    _ if self.host.is_being_written(lba, blocks) => {}
                    6 => self.submit(core, IoOp::WriteZeroes, fua, lba, blocks),
                    _ => self.submit(core, IoOp::Write, fua, lba, blocks),
                }
            }
            if self.rng.one_in(40) {
                self.fire_timer();
            }
            if faults && self.rng.one_in(3000) {
                let disk = self.rng.below(self.disks.len());
                self.disks[disk].dead = true;
            }
            self.step();
        }
    }
}

/// One seed: an array lives through work, faults and power cuts. Returns its figures.
fn life(seed: u64, pool: BufPool) -> (u64, u64, u64, u64) {
    let members = 2 + usize::try_from(seed % 2).unwrap();
    let cores = 1 + u16::try_from(seed % 3).unwrap();
    let mut world = World::create(seed, members, cores, pool);
    for round in 0..6 {
        if !world.rng.one_in(4) {
            world.wait_started();
            let steps = world.rng.below(3000);
            let faults = seed % 4 == 3;
            world.random_work(steps, faults);
            if world.rng.one_in(4) {
                world.wait_host();
                world.read_all();
            }
        }
        if round % 3 == 2 && world.running.as_ref().unwrap().started {
            let dead = world.disks.iter().any(|disk| disk.dead);
            world.wait_host();
            if !dead {
                world.wait_synced_or_degraded();
                world.check_members_agree();
                world.stop();
                world.assemble();
                continue;
            }
        }
        world.cut_power();
        world.assemble();
    }
    world.wait_started();
    world.wait_synced_or_degraded();
    world.read_all();
    world.check_members_agree();
    world.cut_power();
    (world.host.acknowledged, world.host.failed, world.host.reads_checked, world.executed)
}

impl World {
    fn wait_synced_or_degraded(&mut self) {
        let members = self.running.as_ref().unwrap().owner.status().members;
        if members.iter().all(|member| member.1 == "in_sync") {
            self.wait_synced();
        } else {
            // Chunks that the absent member needs stay in doubt; the others are copied.
            self.run_until("resync of those left", Self::quiet);
        }
    }
}

/// Seeds that `scripts/test` runs; `MDOF_SIM_SEEDS=from..to` runs others.
#[test]
fn random_lives_break_no_promise() {
    let seeds = std::env::var("MDOF_SIM_SEEDS").unwrap_or_else(|_| "0..60".to_owned());
    let (from, to) = seeds.split_once("..").expect("from..to");
    let pool = pool();
    let (mut writes, mut reads) = (0, 0);
    for seed in from.parse::<u64>().unwrap()..to.parse().unwrap() {
        println!("seed {seed}");
        let (acknowledged, _, checked, _) = life(seed, pool);
        writes += acknowledged;
        reads += checked;
    }
    println!("{writes} writes acknowledged, {reads} blocks read and checked");
    assert!(writes > 0 && reads > 0);
}

#[test]
fn the_same_seed_lives_the_same_life() {
    let pool = pool();
    assert_eq!(life(11, pool), life(11, pool));
}

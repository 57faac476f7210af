//! Single stories with a name.

use super::disk::SUPER_BYTE;
use super::pool;
use super::world::{Flight, Shape, World};
use crate::bdev::{IoOp, IoStatus, Station};
use crate::bitmap::ChunkState;
use crate::md::{RejectionReason, Slot};
use crate::raid::message::{ArrayTimer, Out};

impl World {
    pub(super) fn write(&mut self, lba: usize, blocks: usize) {
        self.submit(0, IoOp::Write, true, lba, blocks);
        self.wait_host();
    }

    pub(super) fn states(&self) -> [u64; 8] {
        self.running.as_ref().unwrap().owner.status().histogram
    }

    pub(super) fn in_state(&self, state: ChunkState) -> u64 {
        self.states()[state as usize]
    }

    pub(super) fn state(&self, chunk: usize) -> ChunkState {
        self.running.as_ref().unwrap().shared.chunk_state(chunk).unwrap()
    }

    pub(super) fn wait_synced(&mut self) {
        self.run_until("resync", |world| {
            world.in_state(ChunkState::NeedSync) + world.in_state(ChunkState::Syncing) == 0
        });
        self.run_until_quiet();
    }

    /// One pass of the daemon, its rest included.
    pub(super) fn daemon_pass(&mut self) {
        let rests = |world: &Self| {
            let timers = &world.running.as_ref().unwrap().timers;
            timers.iter().any(|&(_, timer)| timer == ArrayTimer::BarrierIdle)
        };
        let mut has_rested = false;
        for _ in 0..6 {
            if has_rested && !rests(self) {
                return;
            }
            assert!(self.fire_timer());
            self.run_until_quiet();
            has_rested |= rests(self);
        }
    }

    /// Requests that members have got and do not answer until they are given back or lost.
    pub(super) fn withhold(&mut self, which: impl Fn(&Flight) -> bool) -> Vec<Flight> {
        let in_flight = &mut self.running.as_mut().unwrap().in_flight;
        in_flight.extract_if(.., |flight| which(flight)).collect()
    }

    /// Lets the owner copy until it reads this chunk of a mirror, and keeps that from it.
    pub(super) fn withhold_copy_of(&mut self, chunk: usize) -> Vec<Flight> {
        let lba = self.array_blocks_of(chunk).start as u64 + self.disks[0].data_lba();
        let is_its = move |flight: &Flight| {
            let by_owner = flight.io.completion.tag().station == Station::RaidOwner;
            by_owner && flight.io.op == IoOp::Read && flight.io.lba == lba
        };
        self.run_until("the copy comes to the chunk", |world| {
            world.running.as_ref().unwrap().in_flight.iter().any(is_its)
        });
        self.withhold(is_its)
    }

    /// Waits for the write of a member's superblock, and keeps it from the medium.
    pub(super) fn withhold_superblock(&mut self, slot: usize) -> Vec<Flight> {
        self.run_until("that is put on record", |world| world.writes_superblock(slot));
        let lba = self.superblock_lba();
        self.withhold(|flight| flight.disk == slot && flight.io.lba == lba)
    }

    /// Where members have their superblocks.
    pub(super) fn superblock_lba(&self) -> u64 {
        u64::try_from(SUPER_BYTE / self.shape.block).unwrap()
    }

    /// Whether this is the write of a member's superblock.
    pub(super) fn is_superblock(&self, flight: &Flight) -> bool {
        let is_member = flight.disk < self.disks.len();
        is_member && flight.io.op == IoOp::Write && flight.io.lba == self.superblock_lba()
    }

    /// A member's superblock is being written.
    pub(super) fn writes_superblock(&self, disk: usize) -> bool {
        let in_flight = &self.running.as_ref().unwrap().in_flight;
        in_flight.iter().any(|flight| flight.disk == disk && self.is_superblock(flight))
    }

    /// Of the superblocks that are being written only this member's is; then the power goes.
    pub(super) fn cut_with_one_superblock(&mut self, disk: Option<usize>) {
        let mut running = self.running.take().unwrap();
        let is_lost = |flight: &mut Flight| Some(flight.disk) != disk && self.is_superblock(flight);
        let lost = running.in_flight.extract_if(.., is_lost).collect();
        self.running = Some(running);
        if let Some(disk) = disk {
            self.run_until("it has it", |world| !world.writes_superblock(disk));
        }
        self.cut_power_without(lost);
    }

    /// Cuts the power, and these requests have not been done.
    pub(super) fn cut_power_without(&mut self, lost: Vec<Flight>) {
        for Flight { core, io, .. } in lost {
            io.complete(IoStatus::Aborted, &mut self.io[core]);
        }
        self.cut_power();
    }

    /// Every chunk that was ever written is the same on all members in sync.
    pub(super) fn check_members_agree(&self) {
        let in_sync: Vec<usize> = crate::raid::slots(self.in_sync()).map(usize::from).collect();
        for chunk in (0..self.watch.chunks).filter(|&it| self.state(it) != ChunkState::Unwritten) {
            for lba in self.blocks_of(chunk) {
                for &slot in &in_sync {
                    let (one, first) =
                        (self.disks[slot].live_at(lba), self.disks[in_sync[0]].live_at(lba));
                    assert_eq!(one, first, "block {lba} of chunk {chunk} on member {slot}");
                }
            }
        }
    }
}

pub(super) fn started(seed: u64, shape: Shape) -> World {
    super::trace::begin(false);
    let mut world = World::create(seed, shape, pool());
    assert!(world.wait_started());
    world
}

#[test]
fn never_written_blocks_read_as_zeroes_whatever_the_members_hold() {
    let mut world = started(1, Shape::SMALL);
    world.read_all();
    world.write(5, 1);
    world.read_all();
    world.check_members_agree();
    assert_eq!(world.states()[..4], [39, 0, 1, 0]);
}

#[test]
fn a_clean_stop_leaves_nothing_in_doubt() {
    let mut world = started(2, Shape::SMALL);
    world.write(0, 20);
    world.write(100, 8);
    world.stop();
    let assembly = world.assemble();
    assert!(!assembly.dirty);
    assert!(world.wait_started());
    assert_eq!(world.in_state(ChunkState::NeedSync) + world.in_state(ChunkState::Dirty), 0);
    assert!(world.in_state(ChunkState::Clean) >= 4);
    world.read_all();
}

/// Oracle 6, to the chunk: what was dirty is copied, once, and nothing else.
#[test]
fn a_crash_resyncs_what_was_dirty_and_no_more() {
    for seed in 0..8 {
        let mut world = started(seed, Shape { members: 3, ..Shape::SMALL });
        for chunk in [0, 3, 4, 17] {
            world.write(chunk * 8 + 2, 2);
        }
        world.daemon_pass();
        assert_eq!(world.in_state(ChunkState::Clean), 4);
        world.write(17 * 8, 1);
        world.write(39 * 8, 8);
        world.cut_power();
        assert!(world.assemble().dirty);
        assert_eq!(world.in_state(ChunkState::NeedSync), 2);
        assert!(world.wait_started());
        world.wait_synced();
        assert_eq!(world.watch.copied_in_all, 2);
        world.read_all();
        world.check_members_agree();
    }
}

#[test]
fn the_daemon_clears_idle_chunks_and_spares_busy_ones() {
    let mut world = started(4, Shape::SMALL);
    world.write(0, 8);
    world.write(100, 4);
    assert_eq!(world.in_state(ChunkState::Dirty), 2);
    assert!(world.fire_timer());
    world.run_until_quiet();
    world.submit(1, IoOp::Write, true, 0, 8);
    world.wait_host();
    assert!(world.fire_timer());
    world.run_until_quiet();
    assert_eq!(world.in_state(ChunkState::Clean), 1);
    assert_eq!(world.in_state(ChunkState::Dirty), 1);
}

#[test]
fn a_failed_member_is_recorded_before_the_write_is_acknowledged() {
    let mut world = started(5, Shape::SMALL);
    world.write(0, 8);
    world.disks[1].dead = true;
    world.write(0, 8);
    assert_eq!(world.host.failed, 0, "the host sees no error");
    assert_eq!(world.watch.missed, [false, true]);
    world.cut_power();
    let assembly = world.assemble();
    assert!(matches!(assembly.slots[1], Slot::Missing { .. }), "{:?}", assembly.slots);
    let reason = &assembly.rejected[0].reason;
    assert!(matches!(reason, RejectionReason::Stale { .. } | RejectionReason::Faulty));
    assert!(world.wait_started());
    world.read_all();
}

#[test]
fn the_last_member_is_kept_and_its_errors_reach_the_host() {
    let mut world = started(6, Shape::SMALL);
    world.write(0, 8);
    world.disks[0].dead = true;
    world.write(0, 8);
    world.disks[1].dead = true;
    world.write(0, 8);
    assert_eq!(world.host.failed, 1);
    world.disks[1].dead = false;
    world.read_all();
}

#[test]
pub(super) fn a_chunk_that_cannot_be_read_stays_in_doubt() {
    let mut world = started(13, Shape::SMALL);
    world.write(16, 8);
    world.cut_power();
    world.assemble();
    world.faults.read_error = 1;
    assert!(world.wait_started());
    world.run_until_quiet();
    assert_eq!(world.state(2), ChunkState::NeedSync);
    world.faults.read_error = 0;
    world.stop();
    world.assemble();
    assert!(world.wait_started());
    world.wait_synced();
    assert_eq!(world.state(2), ChunkState::Dirty);
    world.read_all();
    world.check_members_agree();
}

/// A write meets the end of resync's hold while the array closes: it ends all the same.
#[test]
fn a_stop_ends_every_request() {
    for seed in 0..40 {
        let mut world = started(seed, Shape { cores: 3, ..Shape::SMALL });
        for at in 0..12 {
            world.submit(at % 3, IoOp::Write, at % 2 == 0, at * 17, 5);
        }
        for _ in 0..seed * 2 {
            world.step();
        }
        world.on_owner(|owner, out: &mut Out<'_>| owner.stop(out));
        world.run_until("the stop", |world| world.running.as_ref().unwrap().stopped);
        assert_eq!(world.host.in_flight(), 0);
        world.forget_stopped();
        assert!(!world.assemble().dirty);
        world.cut_power();
    }
}

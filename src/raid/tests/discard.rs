//! Discards of whole chunks: what reads see, what survives, who is kept apart.

use super::members::Device;
use super::scenario;
use super::world::{Flight, Shape, World};
use crate::bdev::{IoOp, Station};
use crate::bitmap::ChunkState;
use crate::raid::channel::WINDOWS;
use crate::raid::owner_members::MemberState;

impl World {
    /// Blocks of a chunk.
    pub(super) fn chunk_blocks(&self) -> usize {
        self.shape.chunk_blocks
    }

    fn discard(&mut self, op: IoOp, lba: usize, blocks: usize) {
        self.submit(0, op, false, lba, blocks);
        self.wait_host();
    }

    /// Writes every block of the first `chunks` chunks.
    fn fill(&mut self, chunks: usize) {
        for lba in (0..chunks * self.chunk_blocks()).step_by(64) {
            self.submit(0, IoOp::Write, false, lba, 64);
            self.wait_host();
        }
    }
}

/// 48 chunks of 128 blocks; members that free what is discarded.
fn started(seed: u64, members: usize, cores: u16) -> World {
    let shape = Shape { members, cores, chunk_blocks: 128, blocks: 48 * 128, ..Shape::SMALL };
    scenario::started(seed, shape)
}

#[test]
fn whole_chunks_become_unwritten_and_parts_of_chunks_are_zeroed() {
    for op in [IoOp::Unmap, IoOp::WriteZeroes] {
        let mut world = started(20, 2, 2);
        let chunk = world.chunk_blocks();
        world.fill(5);
        // The second half of chunk 0, chunks 1 and 2, and one block of chunk 3.
        world.discard(op, chunk / 2, chunk / 2 + 2 * chunk + 1);
        let states: Vec<ChunkState> = (0..5).map(|chunk| world.state(chunk)).collect();
        use ChunkState::{Dirty, Unwritten};
        assert_eq!(states, [Dirty, Unwritten, Unwritten, Dirty, Dirty]);
        world.read_all();
        world.check_members_agree();
        world.write(chunk + 3, 1);
        world.read_all();
        world.check_members_agree();
    }
}

/// Defect 2 of the kernel's bitmap: a 4 KiB discard at a chunk's start made all of it Unwritten.
#[test]
fn a_small_discard_at_a_chunk_start_keeps_the_chunk() {
    let mut world = started(21, 2, 1);
    world.fill(2);
    world.discard(IoOp::Unmap, 0, 8);
    assert_eq!(world.state(0), ChunkState::Dirty);
    world.read_all();
    world.check_members_agree();
}

#[test]
fn an_acknowledged_discard_survives_a_power_cut_and_needs_no_resync() {
    for seed in 0..20 {
        let mut world = started(seed, 2, 2);
        let chunk = world.chunk_blocks();
        world.fill(4);
        world.submit(0, IoOp::Unmap, true, 0, 2 * chunk);
        world.wait_host();
        world.cut_power();
        world.assemble();
        assert_eq!(world.states()[ChunkState::NeedSync as usize], 2);
        assert!(world.wait_started());
        world.read_all();
        world.cut_power();
    }
}

#[test]
fn a_power_cut_during_a_discard_leaves_old_data_or_zeroes() {
    for seed in 0..120 {
        let mut world = started(seed, 2 + usize::try_from(seed % 2).unwrap(), 2);
        let chunk = world.chunk_blocks();
        world.fill(4);
        world.submit(0, IoOp::Flush, false, 0, 0);
        world.wait_host();
        world.submit(1, IoOp::Unmap, seed % 2 == 0, 5, 4 * chunk - 9);
        for _ in 0..seed / 3 {
            world.step();
        }
        world.cut_power();
        world.assemble();
        assert!(world.wait_started());
        world.wait_synced();
        world.read_all();
        world.check_members_agree();
        world.cut_power();
    }
}

/// A member that misses the record of a discard must not come back with the old state.
#[test]
fn a_discard_waits_until_a_failure_it_met_is_recorded() {
    for seed in 0..60 {
        let mut world = started(seed, 2, 1);
        let chunk = world.chunk_blocks();
        world.fill(3);
        world.submit(0, IoOp::Flush, false, 0, 0);
        world.wait_host();
        world.disks[usize::try_from(seed % 2).unwrap()].dead = true;
        world.submit(0, IoOp::Unmap, true, 0, 3 * chunk);
        for _ in 0..seed {
            world.step();
        }
        if seed % 3 == 0 {
            world.wait_host();
        }
        world.cut_power();
        world.assemble();
        assert!(world.wait_started());
        world.read_all();
        world.cut_power();
    }
}

#[test]
fn writers_and_discards_of_the_same_chunks_take_turns() {
    for seed in 0..40 {
        let mut world = started(seed, 2, 3);
        let chunk = world.chunk_blocks();
        world.fill(3);
        for round in 0..20 {
            world.submit(round % 3, IoOp::Unmap, false, 0, 3 * chunk);
            for _ in 0..round {
                world.step();
            }
            // In the chunks that are being discarded.
            world.wait_host_or(|world| world.rng.one_in(30));
            let lba = world.rng.below(3 * chunk - 4);
            if world.host.may_send(IoOp::Write, lba, 4) {
                world.submit((round + 1) % 3, IoOp::Write, true, lba, 4);
            }
            world.wait_host();
            world.submit(0, IoOp::Read, false, lba / 4 * 4, 64);
        }
        world.wait_host();
        world.read_all();
        world.check_members_agree();
        world.cut_power();
    }
}

impl World {
    fn wait_host_or(&mut self, stop: impl Fn(&mut Self) -> bool) {
        while self.host.in_flight() > 0 && !stop(self) {
            self.step();
        }
    }

    /// Blocks of the owner's requests to free space that are in flight.
    fn freeing(&self) -> usize {
        let running = self.running.as_ref().unwrap();
        let frees =
            running.in_flight.iter().map(|flight| &flight.io).filter(|io| {
                io.op == IoOp::Unmap && io.completion.tag().station == Station::RaidOwner
            });
        frees.map(|io| io.blocks as usize).sum()
    }
}

#[test]
fn space_is_freed_only_when_the_discard_is_durable() {
    let mut world = started(22, 2, 1);
    let chunk = world.chunk_blocks();
    world.fill(2);
    world.submit(0, IoOp::Unmap, false, 0, 2 * chunk);
    let mut freed = 0;
    while world.host.in_flight() > 0 {
        if world.freeing() > 0 {
            freed = freed.max(world.freeing());
            for disk in &world.disks {
                assert_eq!([disk.state_byte(0), disk.state_byte(1)], [0, 0]);
            }
        }
        world.step();
    }
    assert_eq!(freed, 4 * chunk, "both members free space");
    // What the members hold there does not matter any more.
    for disk in &mut world.disks {
        disk.live[..2 * chunk].fill([0xee; 3]);
        disk.durable[..2 * chunk].fill([0xee; 3]);
    }
    world.read_all();
    world.write(7, 3);
    world.read_all();
    world.check_members_agree();
}

#[test]
fn discards_of_what_is_unwritten_cost_nothing() {
    let mut world = started(23, 2, 2);
    let before = (world.events, world.running.as_ref().unwrap().owner.status().bitmap_writes);
    let len = world.host.len();
    world.discard(IoOp::Unmap, 1, len - 3);
    world.discard(IoOp::WriteZeroes, 5, 9);
    let after = (world.events, world.running.as_ref().unwrap().owner.status().bitmap_writes);
    assert_eq!(before, after);
    world.read_all();
}

#[test]
fn a_degraded_array_discards_and_writes_again() {
    let mut world = started(24, 2, 1);
    let chunk = world.chunk_blocks();
    world.fill(3);
    world.disks[1].dead = true;
    world.write(0, 4);
    world.discard(IoOp::Unmap, 0, 2 * chunk);
    assert_eq!((world.state(0), world.state(1)), (ChunkState::Unwritten, ChunkState::Unwritten));
    world.write(chunk, 4);
    // The absent member is to be given this chunk.
    assert_eq!(world.state(1), ChunkState::NeedSync);
    world.read_all();
}

/// A chunk is zeroed before a write of all of it too: half a write must not uncover old data.
#[test]
fn a_power_cut_in_the_first_write_of_a_whole_chunk_uncovers_nothing() {
    for seed in 0..60 {
        let mut world = started(seed, 2, 1);
        let chunk = world.chunk_blocks();
        world.submit(0, IoOp::Write, false, 0, chunk);
        for _ in 0..seed / 2 {
            world.step();
        }
        world.cut_power();
        world.assemble();
        assert!(world.wait_started());
        world.read_all();
        world.cut_power();
    }
}

/// The member that failed would come back with what it held before, beside zeroes on the others,
/// if the power went with the chunk marked and the failure not on record.
#[test]
pub(super) fn a_first_write_waits_until_a_failed_zeroing_is_recorded() {
    for seed in 0..20 {
        let failing = usize::try_from(seed % 2).unwrap();
        let other = 1 - failing;
        let mut world = started(seed, 2, 1);
        let lba = 3 * world.chunk_blocks() + 5;
        world.disks[failing].dead = true;
        world.submit(0, IoOp::Write, true, lba, 2);
        while world.disks[other].state_byte(3) == ChunkState::Unwritten as u8 {
            world.step();
        }
        assert!(world.knows_absence(other, failing), "the mark came before the record");
        world.cut_power();
        assert!(world.assemble().is_degraded());
        assert!(world.wait_started());
        world.read_all();
        world.cut_power();
    }
}

/// A member is rebuilt while a discard is on its way to the media: it is not whole before that is
/// durable, or a power cut would leave the chunk as it was, which the member never got.
#[test]
pub(super) fn a_rebuild_waits_for_a_discard_on_its_way() {
    for seed in 0..4 {
        let mut world = scenario::started(seed, Shape { members: 2, ..Shape::SMALL });
        // More runs of chunks than are copied at a time.
        world.write_chunks((0..39).step_by(2).chain([39]));
        world.remove(1).unwrap();
        world.run_until("it is let go", |world| world.member_state(1) == MemberState::Missing);
        world.put(1, Device::Blank);
        world.join(1, false).unwrap();
        let mut reads = Vec::new();
        while reads.len() < WINDOWS {
            world.step();
            let by_owner = |flight: &Flight| {
                flight.io.op == IoOp::Read
                    && flight.io.completion.tag().station == Station::RaidOwner
            };
            reads.extend(world.withhold(by_owner));
        }
        let last = world.array_blocks_of(39);
        world.submit(0, IoOp::Unmap, true, last.start, last.len());
        let is_discarded = |world: &World| {
            let is_unwritten = world.state(39) == ChunkState::Unwritten;
            is_unwritten && world.running.as_ref().unwrap().in_flight.len() == 2
        };
        world.run_until("the chunk's unit is written", is_discarded);
        let units = world.withhold(|_| true);
        world.running.as_mut().unwrap().in_flight.extend(reads);
        world.run_until_quiet();
        assert_eq!(world.member_state(1), MemberState::Rebuilding);
        world.cut_power_without(units);
        world.assemble();
        assert!(world.wait_started());
        world.make_whole();
        world.read_all();
        world.run_until_quiet();
    }
}

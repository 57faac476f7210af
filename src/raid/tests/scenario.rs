//! Single stories with a name, among them the kernel's known defects that concern a running
//! array.

use super::disk::{BITMAP_BYTE, STATES_BYTE};
use super::pool;
use super::world::{Shape, World};
use crate::bdev::IoOp;
use crate::bitmap::ChunkState;
use crate::md::{RejectionReason, Slot};
use crate::raid::message::Out;

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
    fn daemon_pass(&mut self) {
        for _ in 0..2 {
            assert!(self.fire_timer());
            self.run_until_quiet();
        }
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

/// Defect 2 of the kernel: a discard of 4 KiB at the start of a chunk forgot all of it, so that a
/// rebuild left out its data.
#[test]
fn defect_2_a_partial_discard_keeps_the_rest_of_the_chunk_in_the_bitmap() {
    let mut world = started(7, Shape { chunk_blocks: 32, ..Shape::SMALL });
    world.write(0, 64);
    for (lba, blocks) in [(0, 8), (24, 16), (56, 8)] {
        world.submit(0, IoOp::Unmap, true, lba, blocks);
        world.wait_host();
    }
    for chunk in 0..2 {
        assert_ne!(world.state(chunk), ChunkState::Unwritten);
    }
    world.read_all();
    world.cut_power();
    world.assemble();
    assert!(world.wait_started());
    world.wait_synced();
    assert_eq!(world.watch.copied_in_all, 2, "both chunks are carried over");
    world.read_all();
}

/// Defect 3: a member that was away while chunks became Clean again must not be taken back as it
/// is. As long as there is no re-add, it is not taken back at all.
#[test]
fn defect_3_a_member_long_away_is_never_taken_for_current() {
    let mut world = started(8, Shape { members: 3, ..Shape::SMALL });
    world.write(0, 16);
    world.stop();
    world.present[2] = false;
    for round in 0..4 {
        world.assemble();
        assert!(world.wait_started());
        world.write(round * 8, 4);
        for _ in 0..3 {
            assert!(world.fire_timer());
            world.run_until_quiet();
        }
        assert!(world.in_state(ChunkState::NeedSync) + world.in_state(ChunkState::Dirty) > 0);
        world.stop();
    }
    world.present[2] = true;
    let assembly = world.assemble();
    assert!(matches!(assembly.slots[2], Slot::Missing { .. }), "{:?}", assembly.slots);
    assert!(world.wait_started());
    // What it lacks is still marked, and will be until it has it.
    assert!(world.in_state(ChunkState::Clean) == 0);
    world.read_all();
}

/// Defect 6: with 4096-byte blocks the first states share a block with the header, whose bytes
/// are no states.
#[test]
fn defect_6_the_header_survives_states_in_its_own_block() {
    let mut world = started(9, Shape { block: 4096, ..Shape::SMALL });
    let header = |world: &World| {
        let head = &world.disks[0].durable_meta[BITMAP_BYTE..STATES_BYTE];
        // All but the event count.
        (head[..24].to_vec(), head[32..].to_vec())
    };
    let before = header(&world);
    for chunk in 0..40 {
        world.write(chunk * 8 + chunk % 8, 1);
    }
    world.daemon_pass();
    world.submit(0, IoOp::Unmap, true, 0, 40 * 8 / 2);
    world.wait_host();
    assert_eq!(header(&world), before);
    world.cut_power();
    world.assemble();
    assert!(world.wait_started());
    world.read_all();
    world.stop();
    world.assemble();
    assert!(world.wait_started());
    assert_eq!(header(&world), before);
}

/// Defect 10: what the daemon cleared was only clean in memory, so that a power cut resynced
/// everything written since the last stop.
#[test]
fn defect_10_cleared_chunks_are_clean_on_the_media() {
    let mut world = started(10, Shape::SMALL);
    for chunk in 0..40 {
        world.write(chunk * 8, 8);
    }
    world.daemon_pass();
    assert_eq!(world.in_state(ChunkState::Clean), 40);
    for disk in &world.disks {
        assert!((0..40).all(|chunk| disk.state_byte(chunk) == ChunkState::Clean as u8));
    }
    world.write(11 * 8, 1);
    world.cut_power();
    world.assemble();
    assert_eq!(world.in_state(ChunkState::NeedSync), 1);
    world.cut_power();
}

/// Defect 11: chunks that were never written became Clean without having been copied.
#[test]
fn defect_11_no_chunk_is_clean_that_was_never_made_alike() {
    let mut world = started(11, Shape { members: 3, ..Shape::SMALL });
    for chunk in (0..40).step_by(3) {
        world.write(chunk * 8 + 1, 2);
    }
    world.daemon_pass();
    world.daemon_pass();
    assert!(world.in_state(ChunkState::Clean) >= 14);
    // Whatever is not Unwritten is alike on all members, now and after a stop.
    world.check_members_agree();
    world.stop();
    world.assemble();
    assert!(world.wait_started());
    world.check_members_agree();
    world.read_all();
}

/// Defect 12: chunks in doubt of an array that was stopped clean were not resynced at the next
/// start until somebody wrote to them.
#[test]
fn defect_12_chunks_in_doubt_of_a_clean_array_are_resynced_at_the_start() {
    let mut world = started(12, Shape::SMALL);
    world.write(0, 32);
    world.stop();
    // As a kernel leaves it that was stopped before its resync: clean, with a mark.
    for disk in &mut world.disks {
        disk.live_meta[STATES_BYTE + 2] = ChunkState::NeedSync as u8;
        disk.durable_meta[STATES_BYTE + 2] = ChunkState::NeedSync as u8;
    }
    let assembly = world.assemble();
    assert!(!assembly.dirty, "the superblocks say clean");
    assert!(world.wait_started());
    world.wait_synced();
    assert_eq!(world.watch.copied_in_all, 1);
    world.read_all();
}

/// Defect 14: the space for states was counted without the header before them.
#[test]
fn defect_14_the_last_state_lies_inside_the_space_set_aside() {
    for device_sectors in [8192, 1 << 20, 16_650_240, 16_777_216, 33_554_432, 1 << 33] {
        let creation = crate::md::create(&crate::md::NewArray {
            name: "d14".to_owned(),
            set_uuid: [1; 16],
            ctime: crate::md::Timestamp::from_unix(1, 0),
            assume_clean: false,
            members: (1..3)
                .map(|slot| crate::md::NewMember {
                    device_sectors,
                    logical_block_size: 512,
                    device_uuid: [slot; 16],
                })
                .collect(),
        })
        .unwrap();
        let used = crate::md::STATES_OFFSET_BYTES + creation.chunk_count;
        assert!(used <= creation.bitmap_area_sectors * 512, "{device_sectors}");
    }
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

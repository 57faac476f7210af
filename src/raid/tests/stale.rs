//! A bitmap that can't be believed, and power cuts while it is being rewritten.

use super::disk::BITMAP_BYTE;
use super::scenario;
use super::world::{Shape, World};
use crate::bdev::IoOp;
use crate::bitmap::ChunkState;

/// Where `World` has the event count of the bitmap's header.
const EVENTS_BYTE: usize = BITMAP_BYTE + 24;

/// Chunks of 64 KiB that the test writes to.
const WRITTEN: [usize; 2] = [0, 7];

impl World {
    /// The headers of all members' bitmaps fall behind their superblocks.
    fn make_stale(&mut self) {
        for disk in &mut self.disks {
            disk.live_meta[EVENTS_BYTE..EVENTS_BYTE + 8].fill(0);
            disk.durable_meta[EVENTS_BYTE..EVENTS_BYTE + 8].fill(0);
        }
        self.watch.may_be_stale = true;
    }

    /// A header that is not stale any more stands before states that are all rewritten.
    fn check_header_is_last(&self) {
        let fresh = |bytes: &[u8]| bytes[EVENTS_BYTE..EVENTS_BYTE + 8] != [0; 8];
        if self.running.as_ref().unwrap().started || !self.disks.iter().any(|d| fresh(&d.live_meta))
        {
            return;
        }
        for (slot, disk) in self.disks.iter().enumerate() {
            for chunk in WRITTEN {
                let state = disk.state_byte(chunk);
                assert_eq!(state, ChunkState::NeedSync as u8, "chunk {chunk} on member {slot}");
            }
        }
    }
}

/// The header vouches for the states: while they are not all rewritten it must not be newer.
#[test]
fn a_stale_bitmap_stays_in_doubt_until_it_is_rewritten() {
    let mut whole = 0;
    for seed in 0..40 {
        let shape = Shape { chunk_blocks: 128, blocks: 48 * 128, ..Shape::SMALL };
        let mut world = scenario::started(seed, shape);
        world.write(0, 8);
        world.write(1000, 8);
        world.stop();
        world.make_stale();
        for cut_after in 0..seed {
            world.assemble();
            let doubtful = world.states()[ChunkState::NeedSync as usize];
            assert_eq!(doubtful, 2, "seed {seed}, after {cut_after} steps");
            for _ in 0..cut_after {
                world.step();
                world.check_header_is_last();
            }
            let started = world.running.as_ref().unwrap().started;
            world.cut_power();
            if started {
                break;
            }
        }
        // Two starts in a row that reached the superblock of the same member only: the other one
        // is out, as in md.
        let degraded = world.assemble().is_degraded();
        assert!(world.wait_started());
        if !degraded {
            whole += 1;
            world.wait_synced();
        }
        // Not the rest: what an old bitmap calls Unwritten is not taken for zeroes any more.
        for lba in [0, 1000] {
            world.submit(0, IoOp::Read, false, lba, 8);
            world.wait_host();
        }
        world.check_members_agree();
        world.cut_power();
    }
    assert!(whole > 5, "hardly any array stayed whole");
}

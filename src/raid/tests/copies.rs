//! The members' copies of the bitmap, where a crash has left them different.

use super::disk::SUPER_BYTE;
use super::scenario;
use super::world::{Shape, World};
use crate::bdev::IoOp;
use crate::bitmap::ChunkState;
use crate::md;

impl World {
    /// Whether the superblock of `member` calls `other` absent.
    pub(super) fn knows_absence(&self, member: usize, other: usize) -> bool {
        let meta = &self.disks[member].durable_meta[SUPER_BYTE..];
        let superblock = md::Unverified::parse(meta, 8).unwrap();
        let number = u32::try_from(other).unwrap();
        !matches!(superblock.role_of(number), md::Role::Active(_))
    }
}

/// A member fails the unit that marks a chunk, the other one gets mark and data, and the power
/// goes before the failure is on record: both come back as equals, and only the second one's copy
/// of the bitmap knows that they differ.
#[test]
pub(super) fn what_any_copy_has_in_doubt_is_in_doubt() {
    const CHUNK: usize = 9;
    let mut cuts = 0;
    for seed in 0..120 {
        let failing = usize::try_from(seed % 2).unwrap();
        let other = 1 - failing;
        let mut world = scenario::started(seed, Shape::SMALL);
        let lba = CHUNK * world.shape.chunk_blocks;
        world.write(lba, 8);
        world.stop();
        world.assemble();
        assert!(world.wait_started());
        assert_eq!(world.state(CHUNK), ChunkState::Clean);
        let before = world.disks[other].durable[lba];
        world.disks[failing].dead = true;
        world.submit(0, IoOp::Write, true, lba, 1);
        while world.disks[other].durable[lba] == before && !world.knows_absence(other, failing) {
            world.step();
        }
        world.cut_power();
        if world.knows_absence(other, failing) {
            continue;
        }
        assert_eq!(world.disks[failing].state_byte(CHUNK), ChunkState::Clean as u8);
        assert_ne!(world.disks[other].state_byte(CHUNK), ChunkState::Clean as u8);
        cuts += 1;
        assert!(!world.assemble().is_degraded());
        assert_eq!(world.state(CHUNK), ChunkState::NeedSync);
        assert!(world.wait_started());
        world.wait_synced();
        world.read_all();
        world.check_members_agree();
        world.cut_power();
    }
    assert!(cuts > 10, "{cuts} cuts fell between the data and the record");
}

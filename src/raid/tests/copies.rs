//! The members' copies of the bitmap, where a crash has left them different.

use super::disk::SUPER_BYTE;
use super::scenario;
use super::world::{Flight, Shape, World};
use crate::bdev::{IoOp, Station};
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

impl World {
    /// The copies of each block of a chunk are alike on the members but 0.
    fn are_copies_alike(&self, chunk: usize) -> bool {
        let members = 1..self.disks.len();
        self.blocks_of(chunk).all(|lba| {
            let mut copies = members.clone().filter_map(|slot| self.disks[slot].live_at(lba));
            let first = copies.next();
            copies.all(|copy| Some(copy) == first)
        })
    }
}

/// A raid10 of three members lacks one, so that each of the others holds something that nobody else
/// has: who fails to take a copy in a resync stays. The chunk must stay in doubt.
#[test]
pub(super) fn who_stays_without_its_copy_leaves_the_chunk_in_doubt() {
    // Its third strip lies on members 1 and 2.
    const CHUNK: usize = 1;
    let raid10 = Some((0x102, 8));
    let shape = Shape { members: 3, raid10, chunk_blocks: 16, ..Shape::SMALL }.exact();
    let is_data = |flight: &Flight| flight.io.completion.tag().station == Station::RaidChannel;
    let mut differed = 0;
    for seed in 0..24 {
        let mut world = scenario::started(seed, shape);
        world.write(0, 64);
        world.submit(0, IoOp::Write, true, CHUNK * 16, 16);
        world.run_until("it is written", |world| world.has_in_flight(is_data));
        let missed = world.withhold(|flight| is_data(flight) && flight.disk == 1);
        world.run_until_quiet();
        world.cut_power_without(missed);
        differed += usize::from(!world.are_copies_alike(CHUNK));
        world.present[0] = false;
        world.assemble();
        assert_eq!(world.state(CHUNK), ChunkState::NeedSync);
        let disks = world.disks.clone();
        let is_copy = |flight: &Flight| {
            flight.io.op == IoOp::Write && disks[flight.disk].data_block(&flight.io).is_some()
        };
        world.run_until("a copy is on its way", |world| world.has_in_flight(is_copy));
        let copy = world.running.as_ref().unwrap().in_flight.iter().find(|it| is_copy(it));
        let target = copy.expect("just seen").disk;
        world.disks[target].dead = true;
        world.run_until("it has failed", |world| !world.has_in_flight(is_copy));
        world.disks[target].dead = false;
        world.run_until_quiet();
        assert_eq!(world.in_sync().count_ones(), 2, "nobody can be let go of");
        let in_doubt = matches!(world.state(CHUNK), ChunkState::NeedSync | ChunkState::Syncing);
        assert!(in_doubt || world.are_copies_alike(CHUNK), "seed {seed}: {:?}", world.state(CHUNK));
        world.cut_power();
    }
    assert!(differed > 2, "only {differed} differed");
}

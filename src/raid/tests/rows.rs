//! Single stories of levels with parity.

use super::disk::SUPER_BYTE;
use super::life::PARITY;
use super::scenario::started;
use super::trace::Event;
use super::world::{Faults, Shape, World};
use super::{life, trace};
use crate::bdev::{BdevId, IoOp};
use crate::md;
use crate::raid::{self, ArrayEvent};

/// Strips of 8 blocks, chunks of 16.
fn shape(level: i32, members: usize) -> Shape {
    let parity = Some((level, 2, 8));
    Shape { members, cores: 2, chunk_blocks: 16, blocks: 512, parity, ..Shape::SMALL }.exact()
}

/// Blocks of a row.
fn row_blocks(world: &World) -> usize {
    usize::try_from(world.geometry.full_stripe_blocks().unwrap()).unwrap()
}

impl World {
    /// Requests that members were sent while `act` ran to its end: reads, writes of data.
    fn requests_of(&mut self, act: impl FnOnce(&mut Self)) -> (usize, usize) {
        trace::count_requests(true);
        act(self);
        self.wait_host();
        trace::count_requests(false)
    }
}

#[test]
fn a_small_write_costs_two_reads_and_two_writes() {
    for (level, members, most) in [(5, 5, (2, 2)), (5, 3, (1, 2)), (4, 4, (2, 2)), (6, 6, (3, 3))] {
        let mut world = started(1, shape(level, members));
        // Of the first write of a chunk the zeroing is a part.
        world.write(0, row_blocks(&world));
        for lba in 0..row_blocks(&world) {
            let (reads, writes) = world.requests_of(|world| {
                world.submit(lba % 2, IoOp::Write, lba % 3 == 0, lba, 1);
            });
            assert!(reads <= most.0 && writes == most.1, "RAID{level}: {reads} and {writes}");
        }
        world.check_rows_right();
    }
}

#[test]
fn a_full_row_is_written_without_reads() {
    for (level, members) in [(4, 3), (5, 4), (6, 5)] {
        let mut world = started(2, shape(level, members));
        world.write(0, row_blocks(&world));
        let blocks = row_blocks(&world);
        let whole = world.requests_of(|world| world.submit(0, IoOp::Write, false, 0, blocks));
        assert_eq!(whole, (0, members), "RAID{level}");
        world.check_rows_right();
    }
}

/// A sequential stream of small writes is done row by row.
#[test]
fn small_writes_that_come_together_are_done_as_one() {
    let mut world = started(3, shape(5, 4));
    world.write(0, row_blocks(&world));
    let blocks = row_blocks(&world);
    let together = world.requests_of(|world| {
        for lba in (0..blocks).step_by(2) {
            world.submit(0, IoOp::Write, false, lba, 2);
        }
    });
    assert_eq!(together, (0, 4));
    // Neighbours in one strip become one request to each member.
    let together = world.requests_of(|world| {
        for lba in 0..4 {
            world.submit(1, IoOp::Write, true, lba, 1);
        }
    });
    assert_eq!(together, (2, 2));
    world.check_rows_right();
    world.read_all();
}

/// Of two writes of a block that one core sends one after the other the later one stays.
pub(super) fn overlapping_writes_of_a_batch_apply_in_order() {
    for seed in 0..10 {
        let mut world = started(seed, shape(5, 4));
        world.write(0, 8);
        // Also of two of which the first one is a whole row.
        for (lba, blocks) in [(2, 4), (0, row_blocks(&world))] {
            world.submit(0, IoOp::Write, false, lba, blocks);
            world.submit(0, IoOp::Write, false, 4, 1);
            let last = world.host.last_version();
            world.wait_host();
            let strip = world.geometry.place(0, 0);
            let holder = world.disks.iter().find_map(|disk| disk.live_at(4));
            assert_eq!(holder, Some(last), "{strip:?}");
            world.check_rows_right();
        }
    }
}

#[test]
fn batches_keep_their_order() {
    overlapping_writes_of_a_batch_apply_in_order();
}

/// With as many members gone as the level allows everything is read and written on.
#[test]
fn any_members_may_go() {
    for (level, members) in [(4, 3), (5, 2), (5, 4), (6, 4), (6, 5)] {
        let lost = if level == 6 { 2 } else { 1 };
        for first in 0..members {
            for second in (0..members).filter(|&slot| lost == 2 && slot > first || slot == first) {
                let mut world = started(4, shape(level, members));
                world.write(3, 100);
                for slot in [first, second] {
                    world.disks[slot].dead = true;
                }
                for lba in (0..120).step_by(7) {
                    world.submit(lba % 2, IoOp::Write, true, lba, 5);
                }
                world.wait_host();
                world.read_all();
                world.write(40, 61);
                world.read_all();
                assert_eq!(world.host.failed, 0, "RAID{level} without {first} and {second}");
                world.stop();
                world.assemble();
                assert!(world.wait_started());
                world.read_all();
                assert_eq!(world.host.failed, 0, "after a stop");
            }
        }
    }
}

/// A member fails a write and is read by others before everybody knows: what they find there must
/// not come into the parity.
pub(super) fn a_row_that_a_member_missed_is_not_taken_for_whole() {
    for seed in 0..150 {
        let mut world = started(seed, shape(5, 3));
        world.write(0, row_blocks(&world) * 4);
        world.faults = Faults { error: 12, ..Faults::default() };
        for round in 0..12 {
            let lba = (round * 3) % 8;
            for (core, strip) in [(0, 0), (1, 8)] {
                if world.host.may_send(IoOp::Write, lba + strip, 2) && world.host.has_room() {
                    world.submit(core, IoOp::Write, true, lba + strip, 2);
                }
            }
            for _ in 0..30 {
                world.step();
            }
        }
        world.wait_host();
        world.faults = Faults::default();
        world.read_all();
    }
}

#[test]
fn a_failed_write_spoils_no_parity() {
    a_row_that_a_member_missed_is_not_taken_for_whole();
}

/// A member is missing and the power went: what it held can't be told where writes were under way.
#[test]
fn a_dirty_degraded_array_is_started_by_force_only() {
    let mut refused = 0;
    for seed in 0..20 {
        let mut world = started(seed, shape(5, 4));
        world.write(0, 100);
        world.submit(0, IoOp::Write, false, 8, 40);
        for _ in 0..seed {
            world.step();
        }
        world.cut_power();
        world.present[1] = false;
        let config = world.config_of_present();
        let error = raid::prepare(&config, BdevId(100)).unwrap_err();
        assert!(error.contains("was not stopped cleanly"), "{error}");
        refused += 1;
        world.assemble();
        assert!(world.wait_started());
        world.read_all();
        assert!(world.host.failed > 0, "what is lost is not read");
        // With the member nothing is lost.
        world.cut_power();
        world.present[1] = true;
        let failed = world.host.failed;
        world.assemble();
        assert!(world.wait_started());
        if world.in_sync().count_ones() == 4 {
            world.read_all();
            assert_eq!(world.host.failed, failed);
        }
    }
    assert_eq!(refused, 20);
}

impl World {
    /// Stopped: as if Linux md had written the superblocks last.
    pub(super) fn linux_was_here(&mut self) {
        for disk in &mut self.disks {
            // The oracle knows of zeroes only where nothing was written.
            for cell in disk.live.iter_mut().chain(&mut disk.durable) {
                if cell[0] >> 62 != 0 {
                    *cell = [0; 3];
                }
            }
            for meta in [&mut disk.live_meta, &mut disk.durable_meta] {
                let mut own = md::Unverified::parse(&meta[SUPER_BYTE..], 8).unwrap();
                own.utime = md::Timestamp::from_unix(own.utime.seconds(), 1);
                assert!(!own.is_ours());
                own.encode_into(&mut meta[SUPER_BYTE..SUPER_BYTE + md::SUPERBLOCK_READ_BYTES]);
            }
        }
    }
}

/// What Linux md calls Unwritten has parity that may not fit. While a member is away that is all
/// there is of its data: the first write to such a chunk builds on it, in rows of any kind, and
/// leaves an array that starts again.
#[test]
fn a_degraded_array_of_linux_is_written_where_nothing_was() {
    for (level, members) in [(5, 4), (6, 5)] {
        let mut world = started(7, shape(level, members));
        world.write(0, row_blocks(&world));
        world.stop();
        world.linux_was_here();
        world.present[1] = false;
        world.assemble();
        assert!(world.wait_started());
        for lba in (row_blocks(&world)..300).step_by(5) {
            world.submit(lba % 2, IoOp::Write, false, lba, 1);
            world.wait_host();
        }
        assert_eq!(world.host.failed, 0, "a write was refused");
        assert_eq!(world.running.as_ref().unwrap().shared.doubt.torn_count(), 0);
        world.stop();
        raid::prepare(&world.config_of_present(), BdevId(100)).unwrap();
    }
}

/// Host requests hold all buffers while they wait: each channel has enough for one row at a time.
#[test]
fn rows_get_on_without_a_free_buffer() {
    for (level, members) in [(5, 4), (6, 6)] {
        let mut world = started(5, shape(level, members));
        world.write(0, 200);
        world.disks[1].dead = true;
        for lba in (0..160).step_by(8) {
            world.submit(lba / 8 % 2, IoOp::Write, true, lba, 5);
        }
        world.submit(1, IoOp::Read, false, 0, 200);
        let pool = world.pool;
        let mut held = Vec::new();
        while let Some(buf) = pool.get(1) {
            held.push(buf);
        }
        world.run_until("the host's requests end", |world| world.host.in_flight() == 0);
        assert_eq!(world.host.failed, 0);
        drop(held);
        world.read_all();
        world.stop();
    }
}

/// A life is told twice alike, as every other.
#[test]
fn the_same_seed_of_parity_gives_the_same_log() {
    for seed in PARITY..PARITY + 12 {
        let pool = super::pool();
        let once = life::life(seed, pool, true).digest;
        assert_eq!(once, life::life(seed, pool, true).digest, "seed {seed}");
    }
}

/// The first read that fails on a member is served by the others and repaired.
#[test]
fn a_failed_read_is_recovered_and_rewritten() {
    let mut repaired = 0;
    for seed in 0..20 {
        let mut world = started(seed, shape(6, 5));
        world.write(0, 64);
        world.faults = Faults { read_error: 30, ..Faults::default() };
        world.read_all();
        world.faults = Faults::default();
        world.run_until_quiet();
        assert_eq!(world.host.failed, 0);
        repaired +=
            trace::events(|event| matches!(event, Event::Says(ArrayEvent::ReadRepaired { .. })));
        world.check_rows_right();
    }
    assert!(repaired > 3, "{repaired} repairs");
}

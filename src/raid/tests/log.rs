//! The stripe log in the simulator, and single stories of it.

use super::oracle::violated;
use super::rng::Rng;
use super::scenario::started;
use super::trace;
use super::world::{Shape, World};
use crate::bdev::IoOp;
use crate::md;
use crate::md::stripe_log::{LogLayout, LogVoid};
use crate::raid::assembly_log;
use crate::raid::message::SlotMask;
use crate::raid::{LogConfig, LogPlan};

/// The log that a run of an array of this shape keeps.
pub(super) fn kept(shape: &Shape, rng: &mut Rng) -> LogConfig {
    let plan = |layout| {
        let mut run = [0; 16];
        run[..8].copy_from_slice(&rng.next().to_le_bytes());
        LogPlan { run, layout }
    };
    LogConfig { kept: shape.log.map(plan), ..LogConfig::default() }
}

/// A log with little room: rows meet full rings and records are used again soon.
pub(super) fn some_layout(rng: &mut Rng, cores: u16, write_bytes: u64) -> LogLayout {
    let slot_bytes = [8, 16, 32, 128][rng.below(4)] << 10;
    let payload = u64::from(slot_bytes) - md::stripe_log::LOG_HEAD_BYTES as u64;
    let least = u32::try_from(write_bytes / payload + 1).unwrap() + 2;
    let more = [0, 1, 3, 12][rng.below(4)];
    let rings = if slot_bytes > 16 << 10 { 1 } else { u16::try_from(rng.between(1, 2)).unwrap() };
    LogLayout { rings: rings.min(cores), slots: least + more, slot_bytes }
}

impl World {
    /// Whether the owner is writing in place what the last run has logged.
    pub(super) fn is_replaying(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.owner.log.is_replaying())
    }

    /// As control does.
    pub(super) fn find_log(
        &mut self,
        assembly: &md::Assembly,
        candidates: &[md::Candidate],
        present: &[usize],
    ) -> LogConfig {
        let mut config = kept(&self.shape, &mut self.rng);
        if self.shape.parity.is_none() {
            return config;
        }
        let block = u32::try_from(self.shape.block).unwrap();
        let world = &*self;
        let read = |candidate: usize, sector: u64, sectors: u64| {
            let at = usize::try_from(sector).unwrap() * 512;
            let meta = &world.disk(present[candidate]).live_meta;
            let bytes = meta.get(at..at + usize::try_from(sectors).unwrap() * 512);
            bytes.map(<[u8]>::to_vec).ok_or_else(|| "there is nothing".to_owned())
        };
        match assembly_log::find_log(assembly, candidates, block, read) {
            Ok(found) => {
                let replay = found.replay.as_ref().map_or(0, |(_, records)| records.len());
                trace::note(trace::Event::LogFound { replay });
                (config.trusted, config.replay) = (found.trusted, found.replay);
            }
            Err(void) => {
                trace::note(trace::Event::LogVoid);
                let may_doubt = self.faults.any() && void == LogVoid::Doubtful;
                // Then nothing can be started anyway.
                let is_short = matches!(void, LogVoid::TooFew { .. });
                // One that failed before it knew of a log may be started alone.
                let in_sync = assembly.slots.iter().enumerate().fold(0, |mask, (slot, state)| {
                    mask | SlotMask::from(matches!(state, md::Slot::InSync { .. })) << slot
                });
                let has_served = in_sync & self.log_served != 0;
                if self.shape.log.is_some() && has_served && !may_doubt && !is_short {
                    violated(8, &format!("the stripe log is of no use: {void}"));
                }
            }
        }
        config
    }

    /// The array serves.
    pub(super) fn check_served(&mut self) {
        if self.shape.log.is_some() {
            self.log_served |= self.in_sync();
        }
        if std::mem::take(&mut self.looks_later) {
            self.check_assembled(self.in_sync());
        }
    }
}

/// Strips of 8 blocks, chunks of 16, a log with little room.
pub(super) fn shape(level: i32, members: usize) -> Shape {
    let parity = Some((level, 2, 8));
    let log = Some(LogLayout { rings: 1, slots: 12, slot_bytes: 16 << 10 });
    Shape { members, cores: 2, chunk_blocks: 16, blocks: 256, parity, log, ..Shape::SMALL }.exact()
}

impl World {
    fn cut_and_assemble(&mut self, without: &[usize]) {
        self.cut_power();
        self.present.fill(true);
        without.iter().for_each(|&slot| self.present[slot] = false);
        self.assemble();
    }

    /// Records that were found to be written in place.
    fn replayed(&self) -> usize {
        trace::events(|event| matches!(event, trace::Event::LogFound { replay: 1.. }))
    }
}

/// The power goes at each event of a row's writes, and with it as many members as may: every block
/// is old or new, those that were not written as they were.
#[test]
fn a_cut_at_any_event_with_any_members_lost_leaves_every_block_old_or_new() {
    let mut replayed = 0;
    for (level, members) in [(5, 3), (6, 4), (4, 3)] {
        for steps in (0u64..60).step_by(2) {
            for lost in 0..members {
                let mut world = started(steps, shape(level, members));
                world.write(0, 64);
                world.submit(0, IoOp::Write, false, 3, 12);
                world.submit(1, IoOp::Write, false, 20, 1);
                for _ in 0..steps {
                    world.step();
                }
                let also = (level == 6).then_some((lost + 1) % members);
                let lost: Vec<usize> = std::iter::once(lost).chain(also).collect();
                world.cut_and_assemble(&lost);
                assert!(!world.is_doubtful, "nothing is in doubt");
                assert!(world.wait_started());
                replayed += world.replayed();
                world.read_all();
                assert_eq!(world.host.failed, 0);
                world.cut_power();
            }
        }
    }
    assert!(replayed > 20, "{replayed} logs had something to say");
}

/// An array that is degraded already is written on, loses power, and has lost nothing.
#[test]
fn a_degraded_array_survives_cuts_without_force() {
    for (level, members) in [(5, 4), (6, 5)] {
        for steps in (0..80).step_by(4) {
            let mut world = started(steps, shape(level, members));
            world.write(0, 100);
            world.cut_and_assemble(&[1]);
            assert!(world.wait_started());
            world.submit(0, IoOp::Write, false, 3, 30);
            world.submit(1, IoOp::Write, true, 64, 2);
            for _ in 0..steps {
                world.step();
            }
            world.cut_power();
            let mut config = world.config_of_present();
            config.force = false;
            assert!(crate::raid::prepare(&config, crate::bdev::BdevId(100)).is_ok());
            world.assemble();
            assert!(world.wait_started());
            world.read_all();
            assert_eq!(world.host.failed, 0);
            world.cut_power();
        }
    }
}

/// Cuts in the midst of writing the log in place, each with another member lost at the end.
#[test]
fn a_replay_that_is_cut_begins_anew() {
    replays_that_are_cut();
}

pub(super) fn replays_that_are_cut() {
    let mut replayed = 0;
    for seed in 0..160 {
        let mut world = started(seed, shape(5, 4));
        world.write(0, 96);
        world.submit(0, IoOp::Write, false, 0, 24);
        // Of the records of both members that are to have them some are whole.
        for _ in 0..3 {
            world.step();
        }
        for round in 0..1 + seed % 2 {
            world.cut_and_assemble(&[]);
            for _ in 0..(seed + round) % 9 {
                world.step();
            }
        }
        world.cut_and_assemble(&[usize::try_from(1 + seed / 9 % 2).unwrap()]);
        assert!(world.wait_started());
        replayed += world.replayed();
        world.read_all();
        assert_eq!(world.host.failed, 0);
        world.cut_power();
    }
    assert!(replayed > 20, "{replayed} logs had something to say");
}

/// A member is away while the log is written in place, the power goes in the midst of that, and it
/// comes back as equal, without the one that has the record.
#[test]
fn a_replay_without_a_member_leaves_a_record_with_those_that_return() {
    replays_without_a_member();
}

pub(super) fn replays_without_a_member() {
    let mut replayed = 0;
    for seed in 0u64..600 {
        let at = |n: u64| usize::try_from(n % 3).unwrap();
        let (away, lost) = (at(seed), at(seed + 1 + seed / 3 % 2));
        let mut world = started(seed, shape(5, 3));
        world.write(0, 64);
        world.submit(0, IoOp::Write, false, 0, 12);
        // Of the records of both members that are to have them some are whole.
        for _ in 0..seed / 6 % 10 {
            world.step();
        }
        world.cut_and_assemble(&[away]);
        for _ in 0..1 + seed / 60 % 10 {
            world.step();
        }
        if world.is_replaying() {
            world.cut_and_assemble(&[lost]);
        }
        assert!(world.wait_started());
        replayed += world.replayed();
        world.read_all();
        assert_eq!(world.host.failed, 0);
        world.cut_power();
    }
    assert!(replayed > 20, "{replayed} logs had something to say");
}

/// A member is away while the log is written in place, the power goes before that is on record, and
/// it comes back as equal: it has not got what the log had for it.
#[test]
fn a_member_that_missed_a_replay_gets_it_when_it_comes_back() {
    members_that_miss_a_replay();
}

pub(super) fn members_that_miss_a_replay() {
    let mut replayed = 0;
    for seed in 0..240 {
        let mut world = started(seed, shape(5, 4));
        world.write(0, 96);
        world.submit(0, IoOp::Write, false, 0, 24);
        // Its records are whole, and some of it is in place.
        for _ in 0..5 + seed % 5 {
            world.step();
        }
        // Two of the members with data of the row.
        let away = usize::try_from(seed / 5 % 3).unwrap();
        let lost = (away + 1) % 3;
        world.cut_and_assemble(&[away]);
        for _ in 0..6 + seed / 15 % 16 {
            if !world.running.as_ref().unwrap().started {
                world.step();
            }
        }
        if world.running.as_ref().unwrap().started {
            world.cut_power();
            continue;
        }
        world.cut_and_assemble(&[lost]);
        if world.in_sync().count_ones() == 3 {
            assert!(world.wait_started());
            replayed += world.replayed();
            world.read_all();
            assert_eq!(world.host.failed, 0);
        }
        world.cut_power();
    }
    assert!(replayed > 20, "{replayed} logs had something to say");
}

/// Somebody runs the array without the log between two runs with it, and writes to the same rows:
/// what the log has of them is nothing any more.
#[test]
fn a_log_that_another_system_has_overtaken_is_void() {
    what_another_system_wrote_stays();
}

pub(super) fn what_another_system_wrote_stays() {
    let with_log = shape(5, 3);
    let mut world = started(1, with_log);
    world.write(0, 64);
    // The record of the last write is live: nothing later says that it is in place.
    world.write(2, 3);
    world.shape.log = None;
    world.cut_and_assemble(&[]);
    assert!(world.wait_started());
    assert!(world.replayed() > 0);
    world.read_all();
    world.write(2, 3);
    world.shape = with_log;
    world.log_served = 0;
    world.cut_and_assemble(&[]);
    assert!(world.wait_started());
    world.read_all();
    assert_eq!(trace::events(|event| matches!(event, trace::Event::LogVoid)), 1);
    world.cut_power();
}

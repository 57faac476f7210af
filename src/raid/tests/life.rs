//! Random lives of arrays: work, faults, clean stops, power cuts, starts with members missing.

use std::fmt;

use super::host::QUEUE_DEPTH;
use super::oracle::violated;
use super::rng::Rng;
use super::trace::{self, Event};
use super::world::{Faults, Shape, World};
use crate::bdev::IoOp;
use crate::bitmap::Infection;
use crate::limits::IO_SIZE_BYTES_MAX;
use crate::raid::{Command, Knobs, Pace};
use crate::reactor::buf::BufPool;

/// What a life, or many of them, amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) lives: u64,
    pub(super) writes: u64,
    pub(super) failed: u64,
    pub(super) blocks_read: u64,
    pub(super) cuts: u64,
    pub(super) events: u64,
    pub(super) copied: u64,
    pub(super) split_brains: u64,
    pub(super) replaced: u64,
    pub(super) grown: u64,
    /// Of the log, if wanted.
    pub(super) digest: (u64, u64),
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lives, {} host writes, {} power cuts, {} blocks read and checked, {} chunks \
             resynced, {} member requests, {} requests failed by faults, {} split brains, {} \
             members replaced, {} growths",
            self.lives,
            self.writes,
            self.cuts,
            self.blocks_read,
            self.copied,
            self.events,
            self.failed,
            self.split_brains,
            self.replaced,
            self.grown
        )
    }
}

impl Figures {
    pub(super) fn add(&mut self, other: &Self) {
        self.lives += other.lives;
        self.writes += other.writes;
        self.failed += other.failed;
        self.blocks_read += other.blocks_read;
        self.cuts += other.cuts;
        self.events += other.events;
        self.copied += other.copied;
        self.split_brains += other.split_brains;
        self.replaced += other.replaced;
        self.grown += other.grown;
    }
}

/// What is likely in one life.
#[derive(Clone, Copy)]
struct Habits {
    faults: Faults,
    /// The operator sets something once in so many steps.
    settings: usize,
    /// One start in so many leaves out a member.
    leave_out: usize,
    /// Steps of work in a round, at most.
    steps: usize,
    /// One step of work in so many, the operator changes something about the members.
    operator: usize,
    /// One step of work in so many, the operator has a member replaced, or ends that.
    replace: usize,
    /// One step of work in so many, the members become larger and the array is to take it.
    grow: usize,
    /// The chunks that most requests go to.
    hot: usize,
    hot_chunks: usize,
    /// One start in so many finds an old copy of the external bitmap.
    old_copy: usize,
    /// Copying yields to the host.
    yields: bool,
}

fn shape(rng: &mut Rng) -> Shape {
    // (block, blocks of a chunk, chunks)
    let (block, chunk_blocks, chunks) = match rng.below(16) {
        0..6 => (512, 8, rng.between(4, 40)),
        6..8 => (512, 32, rng.between(2, 12)),
        8..12 => (4096, 1, rng.between(8, 60)),
        12..14 => (4096, 8, rng.between(2, 20)),
        // The states take two units.
        14 => (512, 8, rng.between(513, 530)),
        // Resync holds a chunk in parts.
        _ => (4096, 512, 2),
    };
    // The last chunk may be short.
    let unit = 4096 / block;
    let short = rng.below(chunk_blocks.min(64)) / unit * unit;
    let members = rng.between(2, 4);
    let cores = u16::try_from(rng.between(1, 4)).unwrap();
    Shape {
        members,
        cores,
        block,
        chunk_blocks,
        blocks: chunk_blocks * chunks - short,
        assume_clean: rng.one_in(4),
        unmap: rng.one_in(2),
        cheap_zeroes: cores % 2 == 0,
        raid10: None,
        parity: None,
        external: false,
        infection: Infection::ALL[rng.below(Infection::ALL.len())],
        log: None,
    }
}

/// Every fifth life is one of a RAID10.
fn striped(seed: u64, shape: Shape) -> Shape {
    if seed % 5 != 4 {
        return shape;
    }
    // A generator of its own: the lives of mirrors stay what they are.
    let rng = &mut Rng(seed);
    let layout = [0x102, 0x102, 0x103, 0x201, 0x202, 0x1_0201, 0x1_0301][rng.below(7)];
    let copies = usize::try_from((layout & 0xff) * (layout >> 8 & 0xff)).unwrap();
    let members = rng.between(copies, copies + 3);
    let strip = (4096 / shape.block) << rng.below(3);
    Shape { members, raid10: Some((layout, strip)), ..shape }
}

/// Lives of seeds with this bit are those of levels with parity.
pub(super) const PARITY: u64 = 1 << 34;

/// Below these bits a seed counts; the fixed ones are not above that number.
const PARITY_FIXED: u64 = 1 << 32;
const FIXED_MAX: u64 = 1000;

fn parity(seed: u64, shape: Shape) -> Shape {
    if seed & PARITY == 0 {
        return shape;
    }
    let rng = &mut Rng(seed);
    let (level, layout) = match rng.below(8) {
        0 => (4, 0),
        1..5 => (5, [2, 2, 2, 0, 1, 3, 4, 5][rng.below(8)]),
        _ => (6, [2, 2, 2, 0, 1, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20][rng.below(16)]),
    };
    let least = if level == 6 { 4 } else { 2 };
    let members = rng.between(least, least + 3);
    let strip = (4096 / shape.block) << rng.below(3);
    let shape = Shape { members, raid10: None, parity: Some((level, layout, strip)), ..shape };
    // Most have a stripe log.
    let log = (!rng.one_in(4)).then(|| {
        let crate::raid::Geometry::Parity(parity) = shape.geometry() else { unreachable!() };
        let block = u32::try_from(shape.block).unwrap();
        let write_bytes = crate::raid::stripe_log::write_bytes_max(&parity, block);
        super::log::some_layout(rng, shape.cores, write_bytes)
    });
    // The lives in which bugs of the log are found stay what they are.
    let cheap_zeroes = shape.cheap_zeroes && (log.is_none() || seed % PARITY_FIXED > FIXED_MAX);
    Shape { log, cheap_zeroes, ..shape }
}

fn habits(rng: &mut Rng, shape: &Shape) -> Habits {
    let mut faults = Faults::default();
    match rng.below(8) {
        0..3 => {}
        3 => faults.death = 2000,
        4 => {
            faults.error = 800;
            faults.lost = 150;
        }
        5 => faults.metadata_error = 60,
        6 => faults.read_error = 40,
        _ => {
            faults = Faults {
                error: 1000,
                read_error: 100,
                metadata_error: 200,
                death: 3000,
                lost: 400,
                stubborn: 0,
            };
        }
    }
    let blocks = usize::try_from(shape.geometry().sync_blocks()).unwrap();
    let chunks = blocks.div_ceil(shape.chunk_blocks);
    let hot_chunks = rng.between(1, 6).min(chunks);
    let hot = match rng.one_in(2) && chunks > 512 {
        true => (chunks - hot_chunks).min(510),
        false => rng.below(chunks - hot_chunks + 1),
    };
    Habits {
        faults,
        settings: if rng.one_in(2) { 150 } else { 0 },
        leave_out: if rng.one_in(3) { 3 } else { 0 },
        operator: [0, 0, 30, 100][rng.below(4)],
        replace: 0,
        grow: 0,
        steps: [60, 300, 1500, 3000][rng.below(4)],
        hot,
        hot_chunks,
        old_copy: 0,
        yields: false,
    }
}

impl World {
    /// Steps until `done`. A world in which nothing can happen before that has lost something.
    pub(super) fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..300_000 {
            if done(self) {
                return;
            }
            if !self.step() {
                violated(0, &format!("nothing happens any more before: {what}"));
            }
        }
        violated(0, &format!("no end before: {what}"));
    }

    /// Whether the array did start.
    pub(super) fn wait_started(&mut self) -> bool {
        self.run_until("the start", |world| {
            let running = world.running.as_ref().unwrap();
            running.started || running.start_failed
        });
        self.running.as_ref().unwrap().started
    }

    pub(super) fn submit(&mut self, core: usize, op: IoOp, fua: bool, lba: usize, blocks: usize) {
        let pool = self.pool;
        let (io, id, version) = self.host.make(op, fua, lba, blocks, &pool);
        trace::note(Event::Host { id, core, op, fua, lba, blocks, version });
        self.on_channel(core, |channel, out| channel.submit(io, out));
    }

    pub(super) fn wait_host(&mut self) {
        self.run_until("the host's requests end", |world| world.host.in_flight() == 0);
    }

    pub(super) fn read_all(&mut self) {
        let len = self.host.len();
        let cores = usize::from(self.shape.cores);
        let blocks_max = IO_SIZE_BYTES_MAX / self.shape.block;
        for (turn, lba) in (0..len).step_by(blocks_max).enumerate() {
            self.submit(turn % cores, IoOp::Read, false, lba, blocks_max.min(len - lba));
            self.wait_host();
        }
    }

    /// Stops in order and forgets the machines.
    pub(super) fn stop(&mut self) {
        self.on_owner(|owner, out| owner.stop(out));
        self.run_until("the stop", |world| world.running.as_ref().unwrap().stopped);
        self.forget_stopped();
    }

    /// Nothing is under way but timers.
    pub(super) fn run_until_quiet(&mut self) {
        self.run_until("quiet", Self::is_quiet);
    }

    /// A range that the host may like: aligned to chunks or not, short or long.
    fn some_range(&mut self, habits: &Habits) -> (usize, usize) {
        let chunk = match self.rng.one_in(5) {
            true => self.rng.below(self.watch.chunks),
            false => habits.hot + self.rng.below(habits.hot_chunks),
        };
        let range = self.array_blocks_of(chunk);
        let blocks_max = IO_SIZE_BYTES_MAX / self.shape.block;
        let (lba, blocks) = match self.rng.below(8) {
            0 => (range.start, range.len()),
            1 => (range.start, range.len() * self.rng.between(1, 3)),
            2 => (range.start + self.rng.below(range.len()), self.rng.between(1, blocks_max)),
            _ => (range.start + self.rng.below(range.len()), self.rng.between(1, 4)),
        };
        (lba, blocks.min(blocks_max).min(self.host.len() - lba))
    }

    fn some_request(&mut self, habits: &Habits) {
        let (lba, blocks) = self.some_range(habits);
        let core = self.rng.below(usize::from(self.shape.cores));
        let fua = self.rng.one_in(2);
        match self.rng.below(24) {
            0 => self.submit(core, IoOp::Flush, false, 0, 0),
            1..6 => self.submit(core, IoOp::Read, false, lba, blocks),
            6 => self.submit(core, IoOp::Compare, false, lba, blocks),
            // What an old bitmap does not know to be discarded is what the members hold.
            7..10 if habits.old_copy > 0 => {}
            7 => self.submit_if_may(core, IoOp::WriteZeroes, fua, lba, blocks),
            8 => self.submit_if_may(core, IoOp::Unmap, fua, lba, blocks),
            9 => {
                let chunk = self.discardable(lba);
                let blocks_max = IO_SIZE_BYTES_MAX / self.shape.block;
                if chunk.len() <= blocks_max {
                    self.submit_if_may(core, IoOp::Unmap, fua, chunk.start, chunk.len());
                }
            }
            _ => self.submit_if_may(core, IoOp::Write, fua, lba, blocks),
        }
    }

    fn submit_if_may(&mut self, core: usize, op: IoOp, fua: bool, lba: usize, blocks: usize) {
        if self.host.may_send(op, lba, blocks) {
            self.submit(core, op, fua, lba, blocks);
        }
    }

    /// The operator turns a knob, or all.
    fn some_setting(&mut self) {
        let rng = &mut self.rng;
        let knobs = Knobs {
            daemon_sleep_s: rng.one_in(2).then(|| [1, 30, 70][rng.below(3)]),
            barrier_idle_s: rng.one_in(2).then(|| [0, 5][rng.below(2)]),
            infection: rng.one_in(2).then(|| Infection::ALL[rng.below(Infection::ALL.len())]),
        };
        self.set(knobs).expect("the array runs");
    }

    /// `true`: the power goes now, soon after a fault.
    fn random_work(&mut self, habits: &Habits, steps: usize) -> bool {
        let depth = self.rng.between(1, QUEUE_DEPTH);
        let mut left = steps;
        let mut cut_soon = false;
        self.fault_seen = false;
        while left > 0 {
            left -= 1;
            if std::mem::take(&mut self.fault_seen) && self.rng.one_in(2) {
                left = left.min(self.rng.below(60));
                cut_soon = true;
            }
            if self.host.in_flight() < depth && self.host.has_room() && self.rng.one_in(3) {
                self.some_request(habits);
            }
            if self.rng.one_in(habits.operator) {
                self.some_operator_act();
            }
            if self.rng.one_in(habits.replace) {
                self.some_replacement_act();
            }
            if self.rng.one_in(habits.grow) {
                self.some_growth();
            }
            if self.rng.one_in(40) {
                self.fire_timer();
            }
            if self.rng.one_in(habits.settings) {
                self.some_setting();
            }
            if self.rng.one_in(self.faults.stubborn) {
                self.some_stubborn_block();
            }
            self.step();
        }
        cut_soon
    }

    /// From a start to its end.
    fn round(&mut self, habits: &Habits) {
        match self.rng.below(8) {
            // Nested crashes: while the array starts, and while it resyncs.
            0 => {
                for _ in 0..self.rng.below(80) {
                    self.step();
                }
                return self.cut_power();
            }
            1 => {
                for _ in 0..self.rng.below(400) {
                    self.step();
                }
                return self.cut_power();
            }
            _ if !self.wait_started() => return self.cut_power(),
            _ => {
                if habits.yields {
                    let pace = Pace { max_mib_s: 0, latency_us: 900, latency_percent: 110 };
                    let command = Command::SetPace(pace);
                    self.on_owner(|owner, out| drop(owner.execute(&command, out)));
                }
                if habits.faults.stubborn > 0 && !self.rng.one_in(8) {
                    self.list_bad_blocks();
                }
                let steps = self.rng.below(habits.steps);
                if self.random_work(habits, steps) {
                    return self.cut_power();
                }
            }
        }
        match self.rng.below(8) {
            0 | 1 => {
                self.wait_host();
                self.stop();
                // What a clean stop leaves must not depend on a cache.
                if self.rng.one_in(2) {
                    self.cut_power();
                }
            }
            2 => {
                self.wait_host();
                for _ in 0..self.rng.below(12) {
                    self.fire_timer();
                    self.run_until_quiet();
                }
                self.read_all();
                self.cut_power();
            }
            _ => self.cut_power(),
        }
    }

    /// Who is given to the next assembly: never without anyone who has everything, nor without
    /// those who know who is out: one that is out may not know it of others.
    fn choose_present(&mut self, leave_out: usize) {
        self.present.fill(true);
        let most = if self.shape.parity.is_some_and(|it| it.0 == 6) { 2 } else { 1 };
        for _ in 0..most {
            if !self.rng.one_in(leave_out) {
                return;
            }
            let slot = self.rng.below(self.disks.len());
            self.present[slot] = false;
            let useful =
                (0..self.disks.len()).filter(|&slot| self.present[slot] && self.has_all(slot));
            let mask = useful.fold(0, |mask, slot| mask | 1 << slot) & !self.known_out;
            self.present[slot] |= !self.geometry.is_readable(mask);
        }
    }

    /// Somebody keeps a copy of the external bitmap, or puts an old one in its place: one that the
    /// array was run without since, as its events must tell.
    fn change_copy(&mut self, old_copy: usize, copy: &mut Option<Vec<u8>>) {
        let (Some(disk), Some(copy)) = (&mut self.external, copy) else { return };
        if self.rng.one_in(old_copy) {
            disk.live_meta.clone_from(copy);
            disk.durable_meta.clone_from(copy);
            trace::note(Event::OldCopy);
        } else if self.rng.one_in(2) {
            copy.clone_from(&disk.live_meta);
        }
    }

    fn figures(&self) -> Figures {
        Figures {
            lives: 1,
            writes: self.host.writes,
            failed: self.host.failed,
            blocks_read: self.host.blocks_read,
            cuts: self.cuts,
            events: self.events,
            copied: self.watch.copied_in_all,
            split_brains: self.split_brains,
            replaced: self.twins.replaced,
            grown: self.growths.done,
            digest: trace::digest(),
        }
    }
}

/// Seeds with this bit live with an external bitmap.
pub(super) const EXTERNAL_SEEDS: u64 = 1 << 32;

/// Seeds with this bit live with members that come and go all the time.
pub(super) const MEMBER_SEEDS: u64 = 1 << 33;

/// Seeds with this bit live with members that are replaced all the time.
pub(super) const REPLACE_SEEDS: u64 = 1 << 35;

/// Seeds with this bit live with members that become larger.
pub(super) const GROW_SEEDS: u64 = 1 << 36;

/// Seeds with this bit live with blocks that can't be written, which members list.
pub(super) const BAD_SEEDS: u64 = 1 << 37;

/// Blocks come to be that can't be written.
fn be_stubborn(seed: u64, rng: &mut Rng, habits: &mut Habits) {
    if seed & BAD_SEEDS != 0 {
        habits.faults.stubborn = rng.between(8, 200);
        habits.faults.lost = 0;
    }
}

/// One seed: an array lives through work, faults, stops and power cuts. Panics when a promise is
/// broken; the story is in [`trace`] then.
pub(super) fn life(seed: u64, pool: BufPool, with_digest: bool) -> Figures {
    trace::begin(with_digest);
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6d64_6f66);
    let is_external = seed & EXTERNAL_SEEDS != 0;
    let mut shape = shape(&mut rng);
    if !is_external {
        shape = parity(seed, striped(seed, shape)).exact();
    }
    let mut habits = habits(&mut rng, &shape);
    if shape.parity.is_some() {
        // A write of a row has more than one request for a member.
        habits.faults.lost = 0;
    }
    if shape.log.is_some() {
        // What the log is for.
        habits.leave_out = rng.between(1, 3);
    }
    if is_external {
        shape.external = true;
        habits.old_copy = if shape.assume_clean { rng.between(0, 4) } else { 0 };
    }
    if seed & MEMBER_SEEDS != 0 {
        habits.operator = 12;
        habits.faults = Faults::default();
        habits.yields = seed % 8 == 3;
    }
    be_stubborn(seed, &mut rng, &mut habits);
    if seed & REPLACE_SEEDS != 0 {
        habits.replace = rng.between(10, 60);
        habits.operator = [0, 40, 120][rng.below(3)];
    }
    if seed & GROW_SEEDS != 0 {
        habits.grow = [15, 60, 200][rng.below(3)];
    }
    let mut world = World::create(rng.next(), shape, pool);
    world.host.grows = habits.grow > 0;
    world.faults = habits.faults;
    world.watch.may_be_stale = habits.old_copy > 0;
    let mut copy = world.external.as_ref().map(|disk| disk.live_meta.clone());
    for _ in 0..rng.between(3, 14) {
        world.round(&habits);
        world.choose_present(habits.leave_out);
        world.change_copy(habits.old_copy, &mut copy);
        world.assemble();
        if world.running.is_none() {
            return world.figures();
        }
    }
    // At last everything comes to rest and is looked at.
    let had_faults = world.faults.any() || world.is_doubtful;
    world.heal();
    if !world.wait_started() {
        violated(0, "no start although nothing fails");
    }
    world.read_all();
    // What is lost with a member in doubtful rows is given to nobody, nor what nobody has.
    if habits.operator + habits.replace > 0 && !world.is_doubtful && !world.has_bad_blocks() {
        world.make_whole();
        world.read_all();
    }
    world.stop();
    world.cut_power();
    if !had_faults && world.host.failed > 0 {
        violated(0, "a request failed although nothing did");
    }
    world.figures()
}

//! The bitmap under the model checker: writers' fast path, daemon and flush. The chunk map and
//! the channels (with their count of writes in flight) are the shipped ones; the owner is played
//! here step by step, with the defects that can be seeded into it. Messages travel by loom's
//! channels, which order what the mesh orders: what came before the sending comes before the
//! receiving.

#![allow(clippy::tests_outside_test_module, reason = "an integration test is all test")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use loom::cell::UnsafeCell;
use loom::sync::mpsc::{Receiver, Sender, channel};
use loom::thread;
use mdof::bdev::{BdevId, BdevIo, Completion, IoOp, IoQueue, IoStatus, Station, Tag};
use mdof::bitmap::{ChunkMap, ChunkState, Doubt};
use mdof::raid::geometry::{Geometry, Shape};
use mdof::raid::message::StartWrite;
use mdof::raid::{BadLists, Channel, Mail, MemberPlace, Out, Shared, ToChannel, ToOwner};
use mdof::reactor::sync::model::{Seed, plant};

const CHUNKS: usize = 2;
const MEMBER: BdevId = BdevId(1);

/// A defect to seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// Of the memory model.
    Memory(Seed),
    /// The daemon clears without asking the cores to pass a quiescent point.
    NoQuiesce,
    /// The daemon clears when the first of two cores has passed the quiescent point.
    OneQuiesceIsEnough,
    /// The owner opens chunks when it has submitted the bitmap write, not when it has ended.
    OpenBeforeDurable,
    /// The daemon clears chunks whether or not someone has taken the mark off.
    ClearUnlooked,
    /// A core answers the quiesce message although a write of before is in flight.
    QuiescedTooSoon,
}

/// What really happens, in the order in which it happens: no part of the model, so it orders
/// nothing.
#[derive(Debug, Default)]
struct Truth {
    in_flight: [u32; CHUNKS],
    /// The owner's view of the chunk is Clean.
    is_clean: [bool; CHUNKS],
}

/// What the cores and the owner of one array share.
struct World {
    shared: Arc<Shared>,
    truth: Mutex<Truth>,
    /// The chunks' bytes on the members. Plain memory to the checker: a writer that may read it
    /// in a race with the owner's write has not seen that write end.
    disk: [UnsafeCell<u8>; CHUNKS],
}

/// A mirror of one member.
fn mirror(blocks: u64) -> Geometry {
    Geometry::new(&Shape {
        level: 1,
        layout: 0,
        raid_disks: 1,
        chunk_sectors: 0,
        size_sectors: blocks,
        member_sectors: &[],
        block_size_bytes: 512,
    })
    .expect("a plain mirror")
}

impl World {
    #[allow(clippy::arc_with_non_send_sync, reason = "loom's threads share one of the system")]
    fn new(states: [ChunkState; CHUNKS]) -> Arc<Self> {
        let place = MemberPlace { bdev: MEMBER, data_lba: 0, unmap: false, cheap_zeroes: false };
        let shared = Shared {
            replacement: None,
            bdev: BdevId(0),
            block_size_bytes: 512,
            geometry: mirror(8 * CHUNKS as u64),
            blocks: 8 * CHUNKS as u64,
            sync_blocks: 8 * CHUNKS as u64,
            chunk_shift: 3,
            map: Some(ChunkMap::new(states.into_iter())),
            members: vec![Some(place)],
            discards: false,
            unwritten_reads_zero: true,
            doubt: Doubt::default(),
            log: None,
            bad: BadLists::default(),
        };
        let is_clean = states.map(|state| state == ChunkState::Clean);
        Arc::new(Self {
            shared: Arc::new(shared),
            truth: Mutex::new(Truth { in_flight: [0; CHUNKS], is_clean }),
            disk: states.map(|state| UnsafeCell::new(state as u8)),
        })
    }

    fn map(&self) -> &ChunkMap {
        self.shared.map.as_ref().expect("made with one")
    }

    fn truth(&self) -> std::sync::MutexGuard<'_, Truth> {
        self.truth.lock().expect("no panic inside")
    }

    /// A data write to the chunk is issued.
    fn write_begins(&self, chunk: usize) {
        let mut truth = self.truth();
        assert!(!truth.is_clean[chunk], "a write entered a chunk that is Clean");
        truth.in_flight[chunk] += 1;
        drop(truth);
        self.check_mark(chunk);
    }

    /// The write has ended; until now its mark had to stay.
    fn write_ends(&self, chunk: usize) {
        self.check_mark(chunk);
        self.truth().in_flight[chunk] -= 1;
    }

    fn check_mark(&self, chunk: usize) {
        // SAFETY: loom checks that no one writes meanwhile.
        let on_disk = self.disk[chunk].with(|byte| unsafe { *byte });
        assert!(
            (ChunkState::Dirty as u8..=ChunkState::Syncing as u8).contains(&on_disk),
            "a write is in flight without a durable mark"
        );
    }
}

/// One core: the channel, and its ways to the owner and back.
struct CoreEnd {
    index: usize,
    world: Arc<World>,
    channel: Channel,
    io: IoQueue,
    mail: VecDeque<Mail>,
    to_owner: Sender<(usize, ToOwner)>,
    from_owner: Receiver<ToChannel>,
    /// Data writes that the member works on: the operation and the chunk.
    at_member: VecDeque<(u32, usize)>,
    bug: Bug,
    closed: bool,
}

/// What a core does next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The host writes to this chunk.
    Write(usize),
    /// The next message of the owner is handled.
    Mail,
    /// The member ends the oldest write, if one is there.
    Done,
}

impl CoreEnd {
    fn call(&mut self, f: impl FnOnce(&mut Channel, &mut Out<'_>)) {
        let mut out = Out { io: &mut self.io, mail: &mut self.mail, wall_clock_s: 0 };
        f(&mut self.channel, &mut out);
        while let Some((_, io)) = self.io.next_submit() {
            let chunk = usize::try_from(io.lba >> self.world.shared.chunk_shift).expect("small");
            self.world.write_begins(chunk);
            self.at_member.push_back((io.completion.tag().op, chunk));
            // The array's own queue of ended requests is of no interest here.
            io.complete(IoStatus::Ok, &mut IoQueue::default());
        }
        while self.io.next_done().is_some() {}
        while let Some(mail) = self.mail.pop_front() {
            let Mail::Owner(message) = mail else { panic!("a channel writes to the owner") };
            self.closed |= message == ToOwner::Closed;
            self.to_owner.send((self.index, message)).expect("the owner listens");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write(chunk) => {
                let tag = Tag { station: Station::App, part: 0, object: 0, op: 0 };
                let io = BdevIo {
                    op: IoOp::WriteZeroes,
                    fua: false,
                    lba: (chunk as u64) << self.world.shared.chunk_shift,
                    blocks: 8,
                    buf: None,
                    completion: Completion::new(tag),
                };
                self.call(|channel, out| channel.submit(io, out));
            }
            Step::Mail => {
                let message = self.from_owner.recv().expect("the owner speaks until Close");
                if let (Bug::QuiescedTooSoon, ToChannel::Quiesce(round)) = (self.bug, message) {
                    let answer = (self.index, ToOwner::Quiesced(round));
                    return self.to_owner.send(answer).expect("the owner listens");
                }
                self.call(|channel, out| channel.handle(message, out));
            }
            Step::Done => {
                let Some((op, chunk)) = self.at_member.pop_front() else { return };
                self.world.write_ends(chunk);
                self.call(|channel, out| channel.member_done(op, 0, IoStatus::Ok, out));
            }
        }
    }

    /// The script, then whatever is left until the owner has closed the array.
    fn run(mut self, script: &[Step]) {
        script.iter().for_each(|step| self.step(*step));
        while !self.closed {
            match self.at_member.is_empty() {
                true => self.step(Step::Mail),
                false => self.step(Step::Done),
            }
        }
    }
}

/// The array's owner, reduced to what it does to the map and what it waits for.
struct OwnerEnd {
    world: Arc<World>,
    from_cores: Receiver<(usize, ToOwner)>,
    to_cores: Vec<Sender<ToChannel>>,
    /// Writers whose chunk is not open yet.
    waiting: Vec<(usize, StartWrite)>,
    quiesced: usize,
    closed: usize,
    bug: Bug,
}

impl OwnerEnd {
    fn tell_all(&self, message: ToChannel) {
        self.to_cores.iter().for_each(|core| core.send(message).expect("cores listen"));
    }

    fn receive(&mut self) {
        match self.from_cores.recv().expect("cores speak until closed") {
            (core, ToOwner::StartWrite(question)) => self.asked(core, question),
            (_, ToOwner::Quiesced(_)) => self.quiesced += 1,
            (_, ToOwner::Closed) => self.closed += 1,
            (core, other) => panic!("core {core} says {other:?}"),
        }
    }

    /// As `Owner::request_chunks`: the chunk becomes Dirty unless it is; the writer waits until
    /// it is open.
    fn asked(&mut self, core: usize, question: StartWrite) {
        let chunk = question.first as usize;
        let map = self.world.map();
        if map.state(chunk) == ChunkState::Clean {
            self.world.truth().is_clean[chunk] = false;
            map.change(chunk, ChunkState::Dirty);
        }
        self.waiting.push((core, question));
    }

    /// One write of the unit that holds all chunks, then the answers: group commit.
    fn flush(&mut self) {
        let map = self.world.map();
        let mut bytes = [0; CHUNKS];
        map.snapshot(0..CHUNKS, &mut bytes);
        if self.bug == Bug::OpenBeforeDurable {
            map.open(0..CHUNKS);
        }
        for (byte, on_disk) in bytes.iter().zip(&self.world.disk) {
            // Only what changes is written, so that a writer may look at what does not.
            // SAFETY: loom checks that no one reads or writes meanwhile.
            if on_disk.with(|old| unsafe { *old }) != *byte {
                // SAFETY: as above.
                on_disk.with_mut(|old| unsafe { *old = *byte });
            }
        }
        self.world.map().open(0..CHUNKS);
        self.answer();
    }

    fn answer(&mut self) {
        let map = self.world.map();
        let waiting = std::mem::take(&mut self.waiting);
        for (core, question) in waiting {
            if map.is_open(question.first as usize) {
                self.to_cores[core].send(ToChannel::Granted(question.op)).expect("cores listen");
            } else {
                self.waiting.push((core, question));
            }
        }
    }

    fn serve(&mut self) {
        self.receive();
        if !self.waiting.is_empty() {
            self.flush();
        }
    }

    /// One pass of the daemon, as in `raid/owner_daemon.rs`.
    fn daemon(&mut self, round: u32) {
        let marked = (0..CHUNKS).filter(|&chunk| self.world.map().age(chunk)).count();
        if marked == 0 {
            return;
        }
        self.quiesced = 0;
        if self.bug != Bug::NoQuiesce {
            self.tell_all(ToChannel::Quiesce(round));
        }
        let wanted = match self.bug {
            Bug::NoQuiesce => 0,
            Bug::OneQuiesceIsEnough => 1,
            _ => self.to_cores.len(),
        };
        while self.quiesced < wanted {
            self.serve();
        }
        for chunk in 0..CHUNKS {
            self.clear(chunk);
        }
        // The lazy write of what was cleared.
        self.flush();
    }

    fn clear(&self, chunk: usize) {
        let map = self.world.map();
        let cleared = map.clear_if_aging(chunk);
        if !cleared && self.bug == Bug::ClearUnlooked && map.state(chunk) == ChunkState::Dirty {
            map.change_quietly(chunk, ChunkState::Clean);
        } else if !cleared {
            return;
        }
        let mut truth = self.world.truth();
        assert_eq!(truth.in_flight[chunk], 0, "a chunk became Clean with a write in flight");
        truth.is_clean[chunk] = true;
    }

    fn close(&mut self) {
        self.tell_all(ToChannel::Close);
        while self.closed < self.to_cores.len() {
            self.serve();
        }
    }
}

/// What one model does.
#[derive(Debug, Clone, Copy)]
struct Model {
    states: [ChunkState; CHUNKS],
    /// Messages the owner takes before the daemon's first pass.
    served_first: u32,
    /// Passes of the daemon.
    passes: u32,
    scripts: &'static [&'static [Step]],
    bug: Bug,
}

impl Model {
    /// Runs it in every interleaving with at most three preemptions.
    fn check(self) {
        self.check_with(3);
    }

    fn check_with(self, preemptions: usize) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(preemptions));
        builder.check(move || {
            plant(if let Bug::Memory(seed) = self.bug { Some(seed) } else { None });
            self.once();
            plant(None);
        });
    }

    fn once(self) {
        let world = World::new(self.states);
        let (to_owner, from_cores) = channel();
        let mut to_cores = Vec::new();
        let mut cores = Vec::new();
        for (index, script) in self.scripts.iter().enumerate() {
            let (to_core, from_owner) = channel();
            to_cores.push(to_core);
            let core = CoreEnd {
                index,
                world: world.clone(),
                channel: Channel::new(world.shared.clone(), 1, 1),
                io: IoQueue::default(),
                mail: VecDeque::new(),
                to_owner: to_owner.clone(),
                from_owner,
                at_member: VecDeque::new(),
                bug: self.bug,
                closed: false,
            };
            cores.push(thread::spawn(move || core.run(script)));
        }
        let (waiting, bug) = (Vec::new(), self.bug);
        let mut owner =
            OwnerEnd { world, from_cores, to_cores, waiting, quiesced: 0, closed: 0, bug };
        (0..self.served_first).for_each(|_| owner.serve());
        for round in 0..self.passes {
            owner.daemon(round);
        }
        owner.close();
        cores.into_iter().for_each(|core| core.join().expect("no panic"));
    }
}

const DIRTY: [ChunkState; CHUNKS] = [ChunkState::Dirty, ChunkState::NeedSync];
const CLEAN: [ChunkState; CHUNKS] = [ChunkState::Clean, ChunkState::Clean];

/// The host writes, and the owner's message comes while the write is in flight.
const WRITE_FIRST: &[Step] = &[Step::Write(0), Step::Mail, Step::Done];
/// The message comes first: the write may meet the mark, or the cleared chunk.
const MAIL_FIRST: &[Step] = &[Step::Mail, Step::Write(0), Step::Done];
/// Both, on one core.
const BOTH: &[Step] = &[Step::Write(0), Step::Done, Step::Mail, Step::Write(0), Step::Done];
/// No message before the write has ended.
const WRITE: &[Step] = &[Step::Write(0), Step::Done];
/// As before, to the other chunk.
const WRITE_OTHER: &[Step] = &[Step::Write(1), Step::Done];

fn daemon(scripts: &'static [&'static [Step]], bug: Bug) {
    Model { states: DIRTY, served_first: 0, passes: 1, scripts, bug }.check();
}

fn flush(scripts: &'static [&'static [Step]], bug: Bug) {
    Model { states: CLEAN, served_first: 0, passes: 0, scripts, bug }.check();
}

#[test]
fn daemon_meets_a_write_in_flight() {
    daemon(&[WRITE_FIRST], Bug::None);
    daemon(&[WRITE_FIRST, WRITE_FIRST], Bug::None);
}

#[test]
fn daemon_meets_writes_behind_the_quiescent_point() {
    daemon(&[MAIL_FIRST], Bug::None);
    daemon(&[MAIL_FIRST, MAIL_FIRST], Bug::None);
}

#[test]
fn daemon_meets_one_of_each() {
    daemon(&[WRITE_FIRST, MAIL_FIRST], Bug::None);
    daemon(&[BOTH, WRITE], Bug::None);
}

#[test]
fn two_passes_of_the_daemon() {
    Model { states: DIRTY, served_first: 0, passes: 2, scripts: &[BOTH], bug: Bug::None }.check();
}

#[test]
fn two_writers_share_a_flush() {
    flush(&[WRITE, WRITE], Bug::None);
}

#[test]
fn a_change_during_a_flush_waits_for_the_next() {
    flush(&[WRITE, WRITE_OTHER], Bug::None);
}

/// The chunk is opened and at once marked: a writer that saw neither message must still have seen
/// the flush end.
#[test]
fn a_mark_right_behind_the_opening() {
    opened_and_marked(Bug::None);
}

fn opened_and_marked(bug: Bug) {
    // Two preemptions: three take minutes.
    Model { states: CLEAN, served_first: 1, passes: 1, scripts: &[WRITE, WRITE], bug }
        .check_with(2);
}

// --- Seeded defects: each must be caught, or the models above would prove nothing. A "causality
// violation" is the owner writing a chunk's byte on the members in a race with a data write that
// relies on it.

#[test]
#[should_panic(expected = "Clean")]
fn seed_no_quiesce_is_caught() {
    daemon(&[WRITE_FIRST], Bug::NoQuiesce);
}

#[test]
#[should_panic(expected = "Clean")]
fn seed_quiesce_of_one_core_only_is_caught() {
    daemon(&[WRITE_FIRST, WRITE_FIRST], Bug::OneQuiesceIsEnough);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn seed_quiesced_with_a_write_in_flight_is_caught() {
    daemon(&[WRITE_FIRST], Bug::QuiescedTooSoon);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn seed_clearing_without_looking_is_caught() {
    daemon(&[MAIL_FIRST], Bug::ClearUnlooked);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn seed_split_compare_and_swap_is_caught() {
    daemon(&[MAIL_FIRST], Bug::Memory(Seed::SplitExchange));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn seed_opening_before_the_flush_is_caught() {
    flush(&[WRITE, WRITE], Bug::OpenBeforeDurable);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn seed_relaxed_opening_is_caught() {
    flush(&[WRITE, WRITE], Bug::Memory(Seed::RelaxedStores));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn seed_relaxed_entering_is_caught() {
    flush(&[WRITE, WRITE], Bug::Memory(Seed::RelaxedLoads));
}

/// This one was in `ChunkMap::age`: the model found it.
#[test]
#[should_panic(expected = "Causality violation")]
fn seed_relaxed_mark_is_caught() {
    opened_and_marked(Bug::Memory(Seed::RelaxedStores));
}

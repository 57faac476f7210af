//! The longest that one step of a pass keeps the owner's core, without an engine around it.
//!
//! The same pass is made several times, step by step the same, and of each step the shortest time
//! counts: what other programs took of the processor is left out. The longest of these times is
//! what a host write waits for at worst.

use std::collections::VecDeque;
use std::sync::Arc;

use mdof::bdev::{BdevId, IoQueue, IoStatus, Station};
use mdof::bitmap::ChunkState;
use mdof::md;
use mdof::raid::assembly::{ArrayOptions, CandidateBdev, from_creation};
use mdof::raid::message::ArrayTimer;
use mdof::raid::{Channel, Mail, Out, Owner, Shared, prepare};
use mdof::reactor::buf::BufPool;
use mdof::reactor::clock;
use serde::Serialize;

use crate::job::PerfError;

const MEMBERS: u8 = 2;
/// Chunks made Dirty at a time while a pass is prepared.
const PREPARED_CHUNKS: usize = 4096;

/// Longest steps in nanoseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Longest {
    /// While chunks are marked.
    pub(crate) marking_ns: u64,
    /// While chunks are cleared.
    pub(crate) clearing_ns: u64,
    /// Beginning or end of a write of bitmap.
    pub(crate) writing_ns: u64,
    /// Steps of a pass.
    pub(crate) steps: usize,
}

impl Longest {
    /// Of all.
    pub(crate) fn of_all_ns(&self) -> u64 {
        self.marking_ns.max(self.clearing_ns).max(self.writing_ns)
    }
}

/// What a step was part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Marking,
    Clearing,
    Writing,
}

struct World {
    shared: Arc<Shared>,
    owner: Owner,
    channel: Channel,
    io: IoQueue,
    mail: VecDeque<Mail>,
    armed: Option<ArrayTimer>,
    part: Part,
    /// Part and duration of each step of this pass.
    steps: Vec<(Part, u64)>,
}

/// Measures an array of two members of this size, all chunks Dirty.
pub(crate) fn longest(
    member_size_bytes: u64,
    block_size_bytes: u32,
    passes: u32,
) -> Result<Longest, PerfError> {
    let mut world = World::new(member_size_bytes, block_size_bytes)?;
    let mut best: Vec<(Part, u64)> = Vec::new();
    for _ in 0..passes.max(1) {
        world.dirty_all();
        world.pass();
        let steps = std::mem::take(&mut world.steps);
        if best.is_empty() {
            best = steps;
            continue;
        }
        let alike = best.len() == steps.len();
        if !alike || best.iter().zip(&steps).any(|((one, _), (other, _))| one != other) {
            return Err(PerfError("two passes over the same bitmap differ".to_owned()));
        }
        best.iter_mut().zip(steps).for_each(|(best, step)| best.1 = best.1.min(step.1));
    }
    let of = |part| {
        let times = best.iter().filter(|step| step.0 == part).map(|step| step.1);
        times.max().unwrap_or(0)
    };
    Ok(Longest {
        marking_ns: of(Part::Marking),
        clearing_ns: of(Part::Clearing),
        writing_ns: of(Part::Writing),
        steps: best.len(),
    })
}

impl World {
    fn new(member_size_bytes: u64, block_size_bytes: u32) -> Result<Self, PerfError> {
        let member = |slot: u8| md::NewMember {
            device_sectors: member_size_bytes / md::SECTOR_BYTES,
            logical_block_size: block_size_bytes,
            device_uuid: [slot; 16],
        };
        let creation = md::create(&md::NewArray {
            name: "pass".to_owned(),
            set_uuid: [1; 16],
            ctime: md::Timestamp::from_unix(1, 0),
            assume_clean: true,
            members: (0..MEMBERS).map(member).collect(),
        })
        .map_err(|error| PerfError(error.to_string()))?;
        let options = ArrayOptions {
            name: "pass".to_owned(),
            block_size_bytes,
            owner_core: 0,
            daemon_sleep_s: 1,
            barrier_idle_s: 0,
        };
        let candidate = |slot: u8| CandidateBdev::plain(BdevId(slot.into()));
        let candidates: Vec<CandidateBdev> = (0..MEMBERS).map(candidate).collect();
        let config = from_creation(options, &creation, &candidates);
        let shared = prepare(&config, BdevId(100))?;
        let pool = BufPool::on_heap([64, 16, 16, 0]);
        let owner = Owner::from_config(&config, shared.clone(), 1, pool)?;
        let mut world = Self {
            owner,
            channel: Channel::new(shared.clone(), config.in_sync(), config.writable()),
            shared,
            io: IoQueue::with_capacity(64),
            mail: VecDeque::new(),
            armed: None,
            part: Part::Marking,
            steps: Vec::new(),
        };
        let mut out = Out { io: &mut world.io, mail: &mut world.mail, wall_clock_s: 0 };
        world.owner.start(&mut out);
        world.deliver();
        Ok(world)
    }

    /// Every chunk is Dirty, durably.
    fn dirty_all(&mut self) {
        let map = self.shared.map.as_ref().expect("it has a bitmap");
        let mut disk = [0; PREPARED_CHUNKS];
        for first in (0..map.len()).step_by(PREPARED_CHUNKS) {
            let chunks = first..map.len().min(first + PREPARED_CHUNKS);
            chunks.clone().for_each(|chunk| map.change(chunk, ChunkState::Dirty));
            map.snapshot(chunks.clone(), &mut disk[..chunks.len()]);
            map.open(chunks);
        }
    }

    /// One pass, from the end of the sleep to the next sleep.
    fn pass(&mut self) {
        self.part = Part::Marking;
        self.steps.clear();
        assert_eq!(self.armed.take(), Some(ArrayTimer::DaemonSleep), "it sleeps between passes");
        self.step(|owner, out| owner.timer(ArrayTimer::DaemonSleep, out));
        self.deliver();
        self.part = Part::Clearing;
        assert_eq!(self.armed.take(), Some(ArrayTimer::BarrierIdle), "it waits for idle chunks");
        self.step(|owner, out| owner.timer(ArrayTimer::BarrierIdle, out));
        self.deliver();
        let histogram = self.owner.status().histogram;
        assert_eq!(histogram[ChunkState::Dirty as usize], 0, "nobody wrote: all is Clean");
    }

    /// Lets the owner act, and takes the time.
    fn step(&mut self, act: impl FnOnce(&mut Owner, &mut Out<'_>)) {
        let mut out = Out { io: &mut self.io, mail: &mut self.mail, wall_clock_s: 0 };
        let before_ns = clock::now_ns();
        act(&mut self.owner, &mut out);
        self.steps.push((self.part, clock::now_ns() - before_ns));
    }

    /// Carries out what the machines want done, and lets the owner work on, until it waits for a
    /// timer.
    fn deliver(&mut self) {
        loop {
            if let Some(mail) = self.mail.pop_front() {
                let mut out = Out { io: &mut self.io, mail: &mut self.mail, wall_clock_s: 0 };
                match mail {
                    Mail::Owner(message) => self.step(|owner, out| owner.handle(0, message, out)),
                    Mail::Channel(_, message) | Mail::Channels(message) => {
                        self.channel.handle(message, &mut out);
                    }
                    Mail::Arm(timer, _) => self.armed = Some(timer),
                    Mail::Started(result) => result.expect("the members answer"),
                    Mail::Event(_) | Mail::Stopped(_) | Mail::Grow => {}
                }
            } else if let Some((_, request)) = self.io.next_submit() {
                request.complete(IoStatus::Ok, &mut self.io);
            } else if let Some((tag, status)) = self.io.next_done() {
                assert_eq!(tag.station, Station::RaidOwner, "no host request is there");
                let part = std::mem::replace(&mut self.part, Part::Writing);
                self.step(|owner, out| owner.io_done(tag, status, out));
                self.part = part;
            } else if self.owner.is_busy() {
                self.step(Owner::poll);
            } else {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_has_its_parts() {
        let found = longest(64 << 30, 512, 2).unwrap();
        assert!(found.marking_ns > 0 && found.clearing_ns > 0 && found.writing_ns > 0);
        // 65 thousand chunks in 128 units, each written to two members.
        assert!(found.steps > 256, "{found:?}");
    }
}

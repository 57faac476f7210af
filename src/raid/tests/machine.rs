//! What moves the world: one random event at a time, and delivery of what the machines say.

use std::collections::VecDeque;

use super::disk::{BAD_LOG_BYTE, Disk, META_BYTES, SUPER_BYTE};
use super::oracle::violated;
use super::rng::Rng;
use super::trace::{self, Event, Place, Sent};
use super::world::{Flight, Running, World};
use crate::bdev::{BdevIo, IoOp, IoStatus, Station, Tag};
use crate::bitmap::ChunkState;
use crate::raid::message::Out;
use crate::raid::{ArrayEvent, Channel, Mail, Owner, ToOwner, slots};

/// Wall clock of the superblocks.
const WALL_CLOCK_S: u64 = 5;

fn non_empty<T>(queues: &[std::collections::VecDeque<T>]) -> usize {
    queues.iter().filter(|queue| !queue.is_empty()).count()
}

fn nth_non_empty<T>(queues: &[std::collections::VecDeque<T>], n: usize) -> usize {
    (0..queues.len()).filter(|&at| !queues[at].is_empty()).nth(n).expect("counted before")
}

impl World {
    /// One random event. `false`: nothing at all can happen.
    pub(super) fn step(&mut self) -> bool {
        let running = self.running.as_ref().expect("nothing runs");
        let members = (0..running.in_flight.len()).filter(|&at| !self.hangs(at)).count().min(8);
        let to_owner = non_empty(&running.to_owner);
        let to_channel = non_empty(&running.to_channel);
        let to_peer = non_empty(&running.to_peer);
        let turns = running.channels.iter().filter(|channel| channel.wants_turn_end()).count();
        let poll = usize::from(running.owner.is_busy());
        let all = members + 2 * to_owner + 2 * to_channel + poll + 2 * to_peer + turns;
        if all == 0 {
            self.check_nothing_is_left();
            return self.fire_timer();
        }
        let choice = self.rng.below(all);
        if choice < members {
            self.execute_one();
        } else if choice < members + 2 * to_owner {
            let running = self.running.as_mut().unwrap();
            let core = nth_non_empty(&running.to_owner, (choice - members) / 2);
            let message = running.to_owner[core].pop_front().unwrap();
            trace::note(Event::ToOwner(core, message));
            self.watch.heard(&message);
            let core = u16::try_from(core).unwrap();
            self.on_owner(|owner, out| owner.handle(core, message, out));
        } else if choice < members + 2 * to_owner + 2 * to_channel {
            let running = self.running.as_mut().unwrap();
            let n = (choice - members - 2 * to_owner) / 2;
            let core = nth_non_empty(&running.to_channel, n);
            let message = running.to_channel[core].pop_front().unwrap();
            trace::note(Event::ToChannel(core, message));
            self.on_channel(core, |channel, out| channel.handle(message, out));
        } else if choice < all - 2 * to_peer - turns {
            self.on_owner(|owner, out| owner.poll(out));
        } else if choice < all - turns {
            self.deliver_to_peer((all - turns - choice - 1) / 2);
        } else {
            self.end_turn(all - choice - 1);
        }
        true
    }

    /// Oracle 0: who is not busy has nothing to do until something happens.
    fn check_nothing_is_left(&mut self) {
        let under_way = |world: &Self| {
            let running = world.running.as_ref().unwrap();
            let messages: usize = running.to_channel.iter().map(VecDeque::len).sum();
            (running.in_flight.len(), running.timers.len(), messages)
        };
        let before = under_way(self);
        self.on_owner(|owner, out| owner.poll(out));
        if under_way(self) != before || self.running.as_ref().unwrap().owner.is_busy() {
            violated(0, "a poll finds work, and the owner was not busy");
        }
    }

    /// One of the channels that another one has sent something gets it.
    fn deliver_to_peer(&mut self, n: usize) {
        let running = self.running.as_mut().unwrap();
        let at = nth_non_empty(&running.to_peer, n);
        let message = running.to_peer[at].pop_front().unwrap();
        let core = at % running.channels.len();
        trace::note(Event::ToChannel(core, message));
        self.on_channel(core, |channel, out| channel.handle(message, out));
    }

    /// The turn of a core ends whose channel gathers requests.
    fn end_turn(&mut self, n: usize) {
        let channels = &self.running.as_ref().unwrap().channels;
        let mut gathering = (0..channels.len()).filter(|&core| channels[core].wants_turn_end());
        let core = gathering.nth(n).expect("counted before");
        self.on_channel(core, |channel, out| channel.turn_ended(out));
    }

    /// Time passes until the next timer.
    pub(super) fn fire_timer(&mut self) -> bool {
        let timers = &mut self.running.as_mut().unwrap().timers;
        let Some(at) = (0..timers.len()).min_by_key(|&at| timers[at].0) else { return false };
        let (due, timer) = timers.remove(at);
        self.now_ms = self.now_ms.max(due);
        trace::note(Event::Timer(timer));
        self.on_owner(|owner, out| owner.timer(timer, out));
        true
    }

    /// No message is under way, and no member request but at members that hang.
    pub(super) fn is_quiet(&self) -> bool {
        let running = self.running.as_ref().unwrap();
        (0..running.in_flight.len()).all(|at| self.hangs(at))
            && non_empty(&running.to_owner) + non_empty(&running.to_channel) == 0
            && non_empty(&running.to_peer) == 0
            && !running.channels.iter().any(Channel::wants_turn_end)
            && !running.owner.is_busy()
    }

    /// A member does a request, any of those it has, and says how it went.
    fn execute_one(&mut self) {
        let in_flight = 0..self.running.as_ref().unwrap().in_flight.len();
        let able: Vec<usize> = in_flight.filter(|&at| !self.hangs(at)).collect();
        let at = able[self.rng.below(able.len())];
        let flight = self.running.as_mut().unwrap().in_flight.swap_remove(at);
        self.execute(flight);
    }

    /// The member that has this request does not answer.
    fn hangs(&self, flight: usize) -> bool {
        self.hung & 1 << self.running.as_ref().unwrap().in_flight[flight].disk != 0
    }

    /// Some host writes fail on every member.
    fn choose_doomed(&mut self, core: usize, disk: usize, io: &BdevIo) {
        let tag = io.completion.tag();
        let is_host_write = io.op.modifies() && tag.station == Station::RaidChannel;
        if is_host_write && self.doomed.is_none() && self.rng.one_in(self.faults.lost) {
            let lba = self.disk(disk).data_block(io).expect("a host writes data");
            let owner = &self.running.as_ref().unwrap().owner;
            let holders = slots(self.written())
                .filter(|&slot| self.disks[usize::from(owner.origin(slot))].holds(lba).is_some());
            self.doomed = Some((core, tag.op, u32::try_from(holders.count()).unwrap()));
        }
    }

    fn is_doomed(&mut self, flight: &Flight) -> bool {
        let tag = flight.io.completion.tag();
        let Some((core, op, left)) = self.doomed else { return false };
        if (core, op, Station::RaidChannel) != (flight.core, tag.op, tag.station) {
            return false;
        }
        self.doomed = (left > 1).then_some((core, op, left - 1));
        true
    }

    /// The chance of a single error, by the kind of request.
    fn error_chance(&self, flight: &Flight) -> usize {
        let is_metadata =
            flight.io.op.modifies() && self.disk(flight.disk).data_block(&flight.io).is_none();
        match flight.io.op {
            IoOp::Read | IoOp::Compare => self.faults.read_error,
            _ if is_metadata => self.faults.metadata_error,
            _ => self.faults.error,
        }
    }

    fn execute(&mut self, flight: Flight) {
        self.events += 1;
        if self.rng.one_in(self.faults.death) {
            self.disk_mut(flight.disk).dead = true;
            trace::note(Event::Died(flight.disk));
        }
        let chance = self.error_chance(&flight);
        let fails = self.rng.one_in(chance) || self.is_doomed(&flight);
        let Flight { core, disk, io, sent_at } = flight;
        let sent = self.describe(core, disk, &io);
        let before = self.unit_bytes(disk, &sent);
        let status = match fails {
            true => IoStatus::MediaError,
            false => self.on_disk(disk, |disk, now, rng| disk.execute(&io, sent_at, now, rng)),
        };
        if !status.is_ok() && status != IoStatus::CompareMismatch {
            self.on_disk(disk, |disk, now, rng| disk.execute_torn(&io, now, rng));
            self.unsettle_doubtful();
            self.fault_seen = true;
        }
        trace::note(Event::Executed(sent, status));
        self.note_bytes(disk, &sent, &before);
        self.check_executed(&io, &sent);
        io.complete(status, &mut self.io[core]);
        self.deliver(core);
    }

    fn on_disk<T>(&mut self, at: usize, act: impl FnOnce(&mut Disk, u64, &mut Rng) -> T) -> T {
        let (now, mut rng) = (self.events, Rng(self.rng.0));
        let result = act(self.disk_mut(at), now, &mut rng);
        self.rng = rng;
        result
    }

    /// A member has failed a request: another one may be asked from now on about chunks in
    /// which members differ.
    pub(super) fn unsettle_doubtful(&mut self) {
        let running = self.running.as_ref().unwrap();
        let shared = running.shared.clone();
        for chunk in 0..shared.map.as_ref().unwrap().len() {
            let state = shared.chunk_state(chunk);
            if matches!(state, Some(ChunkState::NeedSync | ChunkState::Syncing)) {
                let blocks = self.array_blocks_of(chunk);
                self.host.unsettle(blocks.start, blocks.len());
            }
        }
    }

    fn unit_bytes(&self, disk: usize, sent: &Sent) -> Vec<u8> {
        let Place::Unit(unit) = sent.place else { return Vec::new() };
        let range = self.watch.chunks_of_unit(unit, self.shape.block);
        range.map(|chunk| self.disk(disk).state_byte(chunk)).collect()
    }

    fn note_bytes(&self, member: usize, sent: &Sent, before: &[u8]) {
        let Place::Unit(unit) = sent.place else { return };
        let range = self.watch.chunks_of_unit(unit, self.shape.block);
        for (chunk, &before) in range.zip(before) {
            let now = self.disk(member).state_byte(chunk);
            if now != before {
                trace::note(Event::Byte { member, chunk, before, now });
            }
        }
    }

    fn describe(&self, core: usize, member: usize, io: &BdevIo) -> Sent {
        let at = usize::try_from(io.lba).unwrap() * self.shape.block;
        let disk = self.disk(member);
        let place = match disk.data_hull(io) {
            _ if io.op == IoOp::Flush => Place::Member,
            Some((lba, blocks)) => {
                let (first, last) = (self.chunk_of(lba), self.chunk_of(lba + blocks - 1));
                Place::Data { lba, blocks, first, last }
            }
            None if at == SUPER_BYTE && disk.bitmap_byte() > 0 => Place::Superblock,
            None if (BAD_LOG_BYTE..META_BYTES).contains(&at) && disk.bitmap_byte() > 0 => {
                Place::BadLog
            }
            None if at >= META_BYTES => Place::Log(disk.before_data(at)),
            None => Place::Unit((at - disk.bitmap_byte()) / self.shape.block),
        };
        let by_owner = io.completion.tag().station == Station::RaidOwner;
        Sent { core, member, op: io.op, fua: io.fua, by_owner, place }
    }

    pub(super) fn on_owner(&mut self, act: impl FnOnce(&mut Owner, &mut Out<'_>)) {
        let mut out = Out { io: &mut self.io[0], mail: &mut self.mail, wall_clock_s: WALL_CLOCK_S };
        act(&mut self.running.as_mut().unwrap().owner, &mut out);
        self.deliver(0);
    }

    pub(super) fn on_channel(&mut self, core: usize, act: impl FnOnce(&mut Channel, &mut Out<'_>)) {
        let now_ns = self.now_ms * 1_000_000 + self.events * 1000;
        let mut out =
            Out { io: &mut self.io[core], mail: &mut self.mail, wall_clock_s: WALL_CLOCK_S };
        let channel = &mut self.running.as_mut().unwrap().channels[core];
        channel.tell_time(Some(now_ns));
        act(channel, &mut out);
        self.mail_from(core);
        self.deliver(core);
    }

    /// Mail of a channel goes to the owner in the name of its core.
    fn mail_from(&mut self, core: usize) {
        let running = self.running.as_mut().unwrap();
        while let Some(mail) = self.mail.pop_front() {
            match mail {
                Mail::Owner(message) => running.to_owner[core].push_back(message),
                Mail::Channel(to, message) => {
                    let at = core * running.channels.len() + usize::from(to);
                    running.to_peer[at].push_back(message);
                }
                mail => panic!("a channel sent {mail:?}"),
            }
        }
    }

    /// Carries out what the machines want done.
    fn deliver(&mut self, core: usize) {
        loop {
            if let Some(mail) = self.mail.pop_front() {
                self.carry(mail);
            } else if let Some((bdev, io)) = self.io[core].next_submit() {
                let disk = self.disk_of_bdev(bdev);
                self.events += 1;
                let sent = self.describe(core, disk, &io);
                trace::note(Event::Issued(sent));
                self.check_issued(disk, &io, &sent);
                self.choose_doomed(core, disk, &io);
                let sent_at = self.events;
                let flight = Flight { core, disk, io, sent_at };
                self.running.as_mut().unwrap().in_flight.push(flight);
            } else if let Some((tag, status)) = self.io[core].next_done() {
                self.route(core, tag, status);
            } else {
                return;
            }
        }
    }

    fn carry(&mut self, mail: Mail) {
        let now_ms = self.now_ms;
        let running: &mut Running = self.running.as_mut().unwrap();
        match mail {
            Mail::Owner(message) => panic!("the owner sent {message:?} to itself"),
            Mail::Channel(core, message) => {
                running.to_channel[usize::from(core)].push_back(message);
            }
            Mail::Channels(message) => {
                running.to_channel.iter_mut().for_each(|queue| queue.push_back(message));
            }
            Mail::Arm(timer, after_ms) => running.timers.push((now_ms + after_ms, timer)),
            Mail::Event(event) => {
                trace::note(Event::Says(event));
                self.check_event(event);
            }
            Mail::Grow => self.grow_channels(),
            Mail::Started(result) => {
                running.started = result.is_ok();
                running.start_failed = result.is_err();
                if result.is_ok() {
                    self.check_served();
                }
            }
            Mail::Stopped(result) => {
                running.stopped = true;
                running.stopped_ok = result.is_ok();
            }
        }
    }

    fn check_event(&mut self, event: ArrayEvent) {
        match event {
            ArrayEvent::MemberJoined { .. } => self.watch.joined = true,
            ArrayEvent::Grown { blocks, .. } => self.has_grown(blocks),
            ArrayEvent::GrowthFailed { why, slots } => self.growth_failed(why, slots),
            ArrayEvent::ScrubDone { mismatches, .. } if mismatches > 0 && !self.faults.any() => {
                violated(6, "members in sync differ");
            }
            ArrayEvent::RebuildDone { slot, .. } => self.check_rebuilt(slot),
            ArrayEvent::ReplacementStarted { .. } => self.watch.joined = true,
            ArrayEvent::MemberReplaced { slot } => self.check_replaced(usize::from(slot)),
            ArrayEvent::ReplacementOrphaned { slot } => self.twin_is_orphaned(usize::from(slot)),
            ArrayEvent::ResyncStarted { chunks } => self.watch.resync_started(chunks),
            ArrayEvent::ResyncDone { chunks, unreadable } => {
                self.check_resync_done(chunks, unreadable);
            }
            _ => {}
        }
    }

    fn route(&mut self, core: usize, tag: Tag, status: IoStatus) {
        let running = self.running.as_mut().unwrap();
        let mut out =
            Out { io: &mut self.io[core], mail: &mut self.mail, wall_clock_s: WALL_CLOCK_S };
        match tag.station {
            Station::RaidOwner => running.owner.io_done(tag, status, &mut out),
            Station::RaidChannel => {
                running.channels[core].member_done(tag.op, tag.part, status, &mut out);
                self.mail_from(core);
            }
            Station::App => {
                trace::note(Event::HostDone { id: tag.op, status });
                let request = self.host.done(tag.op, status);
                if status.is_ok() && request.op == IoOp::Flush {
                    self.watch.promised_without(self.in_sync());
                }
                if status.is_ok() && request.op.modifies() {
                    self.check_acknowledged(&request);
                }
            }
            station => panic!("a completion for {station:?}"),
        }
    }
}

impl super::oracle::Watch {
    /// The owner hears something that the oracles have to know.
    fn heard(&mut self, message: &ToOwner) {
        if let ToOwner::ReadFailed(slot, range) = *message {
            self.repairs.push((slot, range));
        }
    }
}

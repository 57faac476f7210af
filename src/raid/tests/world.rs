//! A deterministic world for one array: members with a volatile cache, messages and completions
//! in random (but per sender ordered) order, power cuts at any step.

use std::collections::VecDeque;
use std::sync::Arc;

use super::host::Host;
use crate::bdev::{BdevId, BdevIo, IoOp, IoQueue, IoStatus, Station, Tag};
use crate::md;
use crate::raid::assembly::{self, ArrayOptions, CandidateBdev};
use crate::raid::message::ArrayTimer;
use crate::raid::{ArrayConfig, Channel, Mail, Out, Owner, Shared, ToChannel, ToOwner};
use crate::reactor::buf::BufPool;

pub(super) const BLOCK: usize = 512;

/// splitmix64: small, seeded, the same everywhere.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A member: what reads see, and what survives a power cut.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) live: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// Every request fails.
    pub(super) dead: bool,
}

impl Disk {
    /// Executes a request; what it does to the medium, and its status.
    fn execute(&mut self, io: &BdevIo) -> IoStatus {
        if self.dead {
            return IoStatus::MediaError;
        }
        let start = usize::try_from(io.lba).unwrap() * BLOCK;
        let range = start..start + io.blocks as usize * BLOCK;
        match io.op {
            IoOp::Read => {
                let target = io.buf.as_ref().unwrap().as_ptr();
                let source = &self.live[range];
                // SAFETY: the buffer is as long as the range; nobody else touches it meanwhile.
                unsafe { target.copy_from_nonoverlapping(source.as_ptr(), source.len()) };
            }
            IoOp::Flush => self.durable.copy_from_slice(&self.live),
            IoOp::Write => {
                let data = io.buf.as_ref().unwrap().as_slice();
                self.live[range.clone()].copy_from_slice(data);
                if io.fua {
                    self.durable[range].copy_from_slice(data);
                }
            }
            IoOp::WriteZeroes | IoOp::Unmap => {
                self.live[range.clone()].fill(0);
                if io.fua {
                    self.durable[range].fill(0);
                }
            }
            IoOp::Compare => return IoStatus::Unsupported,
        }
        IoStatus::Ok
    }

    /// Power is cut: of each block that is not durable either version may be there.
    fn cut(&mut self, rng: &mut Rng) {
        for at in (0..self.live.len()).step_by(BLOCK) {
            let block = at..at + BLOCK;
            if self.live[block.clone()] != self.durable[block.clone()] {
                if rng.one_in(2) {
                    self.durable[block.clone()].copy_from_slice(&self.live[block]);
                } else {
                    self.live[block.clone()].copy_from_slice(&self.durable[block]);
                }
            }
        }
    }
}

/// The machines of the array while it runs.
pub(super) struct Running {
    pub(super) owner: Owner,
    pub(super) channels: Vec<Channel>,
    pub(super) shared: Arc<Shared>,
    to_owner: Vec<VecDeque<ToOwner>>,
    to_channel: Vec<VecDeque<ToChannel>>,
    timers: Vec<ArrayTimer>,
    /// Core that sent it, member, request.
    in_flight: Vec<(usize, usize, BdevIo)>,
    pub(super) started: bool,
    pub(super) stopped: bool,
}

impl Running {
    /// Member requests under way.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = &BdevIo> {
        self.in_flight.iter().map(|(_, _, io)| io)
    }
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) disks: Vec<Disk>,
    pub(super) host: Host,
    pub(super) running: Option<Running>,
    pub(super) pool: BufPool,
    pub(super) cores: u16,
    /// One a core; the owner runs on core 0.
    io: Vec<IoQueue>,
    mail: VecDeque<Mail>,
    /// Member requests executed, for the log that shows determinism.
    pub(super) executed: u64,
}

const OPTIONS_DAEMON_S: u32 = 1;

fn options() -> ArrayOptions {
    ArrayOptions {
        name: "sim".to_owned(),
        block_size_bytes: u32::try_from(BLOCK).unwrap(),
        owner_core: 0,
        daemon_sleep_s: OPTIONS_DAEMON_S,
        barrier_idle_s: OPTIONS_DAEMON_S,
    }
}

fn bdevs(count: usize) -> Vec<CandidateBdev> {
    (0..count)
        // Some members free what is discarded.
        .map(|slot| CandidateBdev {
            bdev: BdevId(u16::try_from(slot).unwrap()),
            unmap: slot % 2 == 1,
        })
        .collect()
}

impl World {
    /// A created array on members full of noise, not started.
    pub(super) fn create(seed: u64, members: usize, cores: u16, pool: BufPool) -> Self {
        let mut rng = Rng(seed);
        let size = 4 << 20;
        let creation = md::create(&md::NewArray {
            name: "sim".to_owned(),
            set_uuid: [7; 16],
            ctime: md::Timestamp::from_unix(1, 0),
            assume_clean: false,
            members: (0..members)
                .map(|slot| md::NewMember {
                    device_sectors: size as u64 / 512,
                    logical_block_size: 512,
                    device_uuid: [u8::try_from(slot).unwrap(); 16],
                })
                .collect(),
        })
        .unwrap();
        let disks = creation.superblocks.iter().map(|superblock| {
            let noise = u8::try_from(rng.below(255)).unwrap();
            let mut live = vec![noise; size];
            superblock.encode_into(&mut live[8 * 512..9 * 512]);
            let at = usize::try_from(creation.bitmap_sector).unwrap() * 512;
            let mut head = [0; md::BITMAP_HEAD_BYTES];
            creation.bitmap.encode_into(&mut head);
            live[at..at + head.len()].copy_from_slice(&head);
            let states = at + head.len();
            let chunks = usize::try_from(creation.chunk_count).unwrap();
            live[states..states + chunks].fill(creation.initial_state.byte());
            Disk { durable: live.clone(), live, dead: false }
        });
        let disks: Vec<Disk> = disks.collect();
        let config = assembly::from_creation(options(), &creation, &bdevs(members));
        let blocks = usize::try_from(creation.superblocks[0].size_sectors).unwrap();
        let mut world = Self {
            rng,
            disks,
            host: Host::new(blocks),
            running: None,
            pool,
            cores,
            io: (0..cores).map(|_| IoQueue::with_capacity(64)).collect(),
            mail: VecDeque::new(),
            executed: 0,
        };
        world.start(&config);
        world
    }

    fn start(&mut self, config: &ArrayConfig) {
        let shared = crate::raid::prepare(config, BdevId(100)).unwrap();
        let owner = Owner::from_config(config, shared.clone(), self.cores, self.pool).unwrap();
        let channels = (0..self.cores).map(|_| Channel::new(shared.clone(), config.in_sync()));
        let cores = usize::from(self.cores);
        self.running = Some(Running {
            owner,
            channels: channels.collect(),
            shared,
            to_owner: vec![VecDeque::new(); cores],
            to_channel: vec![VecDeque::new(); cores],
            timers: Vec::new(),
            in_flight: Vec::new(),
            started: false,
            stopped: false,
        });
        self.on_owner(|owner, out| owner.start(out));
    }

    /// Reads the members' metadata as control does, and starts what it finds.
    pub(super) fn assemble(&mut self) -> md::Assembly {
        let mut states = Vec::new();
        let candidates: Vec<md::Candidate> = self
            .disks
            .iter()
            .map(|disk| {
                let superblock =
                    md::Unverified::parse(&disk.live[8 * 512..8 * 512 + 4096], 8).unwrap();
                let at = usize::try_from(superblock.bitmap_sector().unwrap()).unwrap() * 512;
                let bitmap = md::BitmapSuperblock::parse(&disk.live[at..], &superblock);
                let first = at + md::BITMAP_HEAD_BYTES;
                states.push(bitmap.as_ref().ok().map(|head| {
                    disk.live[first..first + usize::try_from(head.chunk_count()).unwrap()].to_vec()
                }));
                let device_sectors = disk.live.len() as u64 / 512;
                md::Candidate { device_sectors, superblock, bitmap: Some(bitmap) }
            })
            .collect();
        let assembly = md::assemble(&candidates).unwrap();
        let bdevs = bdevs(self.disks.len());
        let config =
            assembly::from_assembly(options(), &assembly, &candidates, &bdevs, &states).unwrap();
        self.start(&config);
        assembly
    }

    /// Cuts the power: caches lose what they like, requests in flight did or did not happen.
    pub(super) fn cut_power(&mut self) {
        let mut running = self.running.take().expect("nothing runs");
        for (core, disk, io) in running.in_flight.drain(..) {
            if io.op.modifies() && !self.disks[disk].dead && self.rng.one_in(2) {
                self.execute_torn(disk, &io);
            }
            io.complete(IoStatus::Aborted, &mut self.io[core]);
        }
        for disk in &mut self.disks {
            disk.cut(&mut self.rng);
            disk.dead = false;
        }
        for channel in &mut running.channels {
            channel.abandon(&mut self.io[0]);
        }
        for io in &mut self.io {
            while io.next_done().is_some() {}
            assert!(io.is_empty());
        }
        self.mail.clear();
        self.host.power_cut();
    }

    /// Some of the blocks of a write reach the medium.
    fn execute_torn(&mut self, disk: usize, io: &BdevIo) {
        for block in 0..io.blocks as usize {
            if self.rng.one_in(2) {
                continue;
            }
            let at = (usize::try_from(io.lba).unwrap() + block) * BLOCK;
            let target = &mut self.disks[disk].live[at..at + BLOCK];
            match &io.buf {
                Some(buf) => {
                    target.copy_from_slice(&buf.as_slice()[block * BLOCK..(block + 1) * BLOCK]);
                }
                None => target.fill(0),
            }
        }
    }

    /// One random step. `false`: nothing at all can happen.
    pub(super) fn step(&mut self) -> bool {
        let running = self.running.as_ref().expect("nothing runs");
        let to_owner: Vec<usize> = non_empty(&running.to_owner);
        let to_channel: Vec<usize> = non_empty(&running.to_channel);
        let mut choices = Vec::new();
        choices.extend(std::iter::repeat_n(0, running.in_flight.len().min(8)));
        choices.extend(std::iter::repeat_n(1, to_owner.len() * 2));
        choices.extend(std::iter::repeat_n(2, to_channel.len() * 2));
        if running.owner.is_busy() {
            choices.push(3);
        }
        if choices.is_empty() {
            return self.fire_timer();
        }
        match choices[self.rng.below(choices.len())] {
            0 => self.execute_one(),
            1 => {
                let core = to_owner[self.rng.below(to_owner.len())];
                let running = self.running.as_mut().unwrap();
                let message = running.to_owner[core].pop_front().unwrap();
                let core = u16::try_from(core).unwrap();
                self.on_owner(|owner, out| owner.handle(core, message, out));
            }
            2 => {
                let core = to_channel[self.rng.below(to_channel.len())];
                let message = self.running.as_mut().unwrap().to_channel[core].pop_front().unwrap();
                self.on_channel(core, |channel, out| channel.handle(message, out));
            }
            _ => self.on_owner(|owner, out| owner.poll(out)),
        }
        true
    }

    pub(super) fn fire_timer(&mut self) -> bool {
        let timers = &mut self.running.as_mut().unwrap().timers;
        if timers.is_empty() {
            return false;
        }
        let timer = timers.swap_remove(self.rng.below(timers.len()));
        self.on_owner(|owner, out| owner.timer(timer, out));
        true
    }

    fn execute_one(&mut self) {
        let running = self.running.as_mut().unwrap();
        let index = self.rng.below(running.in_flight.len());
        let (core, disk, io) = running.in_flight.swap_remove(index);
        self.executed += 1;
        let status = self.disks[disk].execute(&io);
        io.complete(status, &mut self.io[core]);
        self.deliver(core);
    }

    pub(super) fn on_owner(&mut self, act: impl FnOnce(&mut Owner, &mut Out<'_>)) {
        let mut out = Out { io: &mut self.io[0], mail: &mut self.mail, wall_clock_s: 5 };
        act(&mut self.running.as_mut().unwrap().owner, &mut out);
        self.deliver(0);
    }

    pub(super) fn on_channel(&mut self, core: usize, act: impl FnOnce(&mut Channel, &mut Out<'_>)) {
        let mut out = Out { io: &mut self.io[core], mail: &mut self.mail, wall_clock_s: 5 };
        act(&mut self.running.as_mut().unwrap().channels[core], &mut out);
        self.mail_from(core);
        self.deliver(core);
    }

    /// Mail of a channel goes to the owner in the name of its core.
    fn mail_from(&mut self, core: usize) {
        let running = self.running.as_mut().unwrap();
        while let Some(mail) = self.mail.pop_front() {
            let Mail::Owner(message) = mail else { panic!("a channel sent {mail:?}") };
            running.to_owner[core].push_back(message);
        }
    }

    /// Carries out what the machines want done.
    fn deliver(&mut self, core: usize) {
        loop {
            let running = self.running.as_mut().unwrap();
            if let Some(mail) = self.mail.pop_front() {
                match mail {
                    Mail::Owner(message) => panic!("the owner sent {message:?} to itself"),
                    Mail::Channel(core, message) => {
                        running.to_channel[usize::from(core)].push_back(message);
                    }
                    Mail::Channels(message) => {
                        running.to_channel.iter_mut().for_each(|queue| queue.push_back(message));
                    }
                    Mail::Arm(timer, _) => running.timers.push(timer),
                    Mail::Event(_) => {}
                    Mail::Started(result) => running.started = result.is_ok(),
                    Mail::Stopped(_) => running.stopped = true,
                }
            } else if let Some((bdev, io)) = self.io[core].next_submit() {
                let disk = usize::from(bdev.0);
                self.check_order(disk, &io);
                self.running.as_mut().unwrap().in_flight.push((core, disk, io));
            } else if let Some((tag, status)) = self.io[core].next_done() {
                self.route(core, tag, status);
            } else {
                return;
            }
        }
    }

    fn route(&mut self, core: usize, tag: Tag, status: IoStatus) {
        let running = self.running.as_mut().unwrap();
        let mut out = Out { io: &mut self.io[core], mail: &mut self.mail, wall_clock_s: 5 };
        match tag.station {
            Station::RaidOwner => running.owner.io_done(tag, status, &mut out),
            Station::RaidChannel => {
                running.channels[core].member_done(tag.op, tag.part, status, &mut out);
                self.mail_from(core);
            }
            Station::App => self.host.done(tag.op, status),
            station => panic!("a completion for {station:?}"),
        }
    }

    /// Oracle: no data reaches a member before the byte of its chunk is durable, with a state
    /// that resync visits, on every member in sync.
    fn check_order(&self, disk: usize, io: &BdevIo) {
        let running = self.running.as_ref().unwrap();
        let shared = &running.shared;
        let data_lba = shared.members[disk].unwrap().data_lba;
        let is_host_write = io.op.modifies()
            && io.lba >= data_lba
            && io.completion.tag().station == Station::RaidChannel;
        if !is_host_write {
            return;
        }
        let in_sync = running.owner.status();
        for chunk in shared.chunks(io.lba - data_lba, io.blocks.into()) {
            for (slot, disk) in self.disks.iter().enumerate() {
                if in_sync.members[slot].1 != "in_sync" || disk.dead {
                    continue;
                }
                let byte = disk.durable[16 * 512 + md::BITMAP_HEAD_BYTES + chunk];
                assert!((2..=4).contains(&byte), "chunk {chunk} is {byte} on member {slot}");
            }
        }
    }
}

fn non_empty<T>(queues: &[VecDeque<T>]) -> Vec<usize> {
    (0..queues.len()).filter(|&index| !queues[index].is_empty()).collect()
}

impl World {
    /// No message and no member request is under way.
    pub(super) fn is_quiet(&self) -> bool {
        let running = self.running.as_ref().unwrap();
        running.in_flight.is_empty()
            && non_empty(&running.to_owner).is_empty()
            && non_empty(&running.to_channel).is_empty()
    }
}

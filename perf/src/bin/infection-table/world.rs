//! One array on two members that only remember their bitmap, in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use mdof::bdev::{BdevId, BdevIo, Completion, IoOp, IoQueue, IoStatus, Station, Tag};
use mdof::bitmap::{ChunkState, Infection};
use mdof::md;
use mdof::raid::assembly::{ArrayOptions, CandidateBdev, from_creation};
use mdof::raid::message::ArrayTimer;
use mdof::raid::{ArrayConfig, Channel, Mail, Out, Owner, prepare};
use mdof::reactor::buf::BufPool;

const MEMBERS: u16 = 2;
const BLOCK_SIZE_BYTES: u32 = 4096;
const MEMBER_SIZE_BYTES: u64 = (64 << 30) + (256 << 20);

/// How long a member takes for a request: a write to its cache, and one to its medium.
const WRITE_US: u64 = 20;
const DURABLE_WRITE_US: u64 = 60;

/// What happens at some time.
enum Event {
    Member(BdevId, BdevIo),
    Timer(ArrayTimer),
}

pub(crate) struct World {
    owner: Owner,
    channel: Channel,
    io: IoQueue,
    mail: VecDeque<Mail>,
    now_us: u64,
    /// By time, then in order of creation; the event lies in the slab.
    due: BinaryHeap<Reverse<(u64, u64, usize)>>,
    slab: Vec<Option<Event>>,
    free: Vec<usize>,
    sequence: u64,
    blocks: u64,
    chunk_size_bytes: u64,
    /// First block of the bitmap on a member, and its bytes on the first member.
    bitmap_lba: u64,
    bitmap: Vec<u8>,
    chunks: usize,
}

fn config(policy: Infection) -> (ArrayConfig, u64) {
    let member = |slot: u16| md::NewMember {
        device_sectors: MEMBER_SIZE_BYTES / md::SECTOR_BYTES,
        logical_block_size: BLOCK_SIZE_BYTES,
        device_uuid: [u8::try_from(slot).expect("few members"); 16],
    };
    let creation = md::create(&md::NewArray {
        name: "table".to_owned(),
        set_uuid: [1; 16],
        ctime: md::Timestamp::from_unix(1, 0),
        assume_clean: true,
        members: (0..MEMBERS).map(member).collect(),
    })
    .expect("a plain array");
    let options = ArrayOptions {
        name: "table".to_owned(),
        block_size_bytes: BLOCK_SIZE_BYTES,
        owner_core: 0,
        daemon_sleep_s: 30,
        barrier_idle_s: 5,
    };
    let bdevs: Vec<CandidateBdev> =
        (0..MEMBERS).map(|slot| CandidateBdev::plain(BdevId(slot))).collect();
    let mut config = from_creation(options, &creation, &bdevs);
    config.infection = policy;
    (config, creation.bitmap_sector)
}

impl World {
    pub(crate) fn new(policy: Infection) -> Self {
        let (config, bitmap_sector) = config(policy);
        let shared = prepare(&config, BdevId(100)).expect("a plain array");
        let pool = BufPool::on_heap([64, 16, 16, 0]);
        let owner = Owner::from_config(&config, shared.clone(), 1, pool).expect("buffers");
        let chunks = shared.map.as_ref().expect("it has a bitmap").len();
        let mut world = Self {
            owner,
            channel: Channel::new(shared.clone(), config.in_sync(), config.writable()),
            io: IoQueue::with_capacity(64),
            mail: VecDeque::new(),
            now_us: 0,
            due: BinaryHeap::new(),
            slab: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            blocks: shared.blocks,
            chunk_size_bytes: u64::from(BLOCK_SIZE_BYTES) << shared.chunk_shift,
            bitmap_lba: bitmap_sector * md::SECTOR_BYTES / u64::from(BLOCK_SIZE_BYTES),
            bitmap: vec![ChunkState::Clean as u8; md::BITMAP_HEAD_BYTES + chunks + 4096],
            chunks,
        };
        let (owner, mut out) = world.parts();
        owner.start(&mut out);
        world.deliver();
        world.run_to(1000);
        world
    }

    fn parts(&mut self) -> (&mut Owner, Out<'_>) {
        (&mut self.owner, Out { io: &mut self.io, mail: &mut self.mail, wall_clock_s: 0 })
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(crate) fn chunk_size_bytes(&self) -> u64 {
        self.chunk_size_bytes
    }

    pub(crate) fn bitmap_writes(&self) -> u64 {
        self.owner.status().bitmap_writes
    }

    /// Chunks that a crash now would leave to resync.
    pub(crate) fn chunks_in_doubt_on_disk(&self) -> u64 {
        let first = md::BITMAP_HEAD_BYTES;
        let doubt = ChunkState::Dirty as u8..=ChunkState::Syncing as u8;
        let states = &self.bitmap[first..first + self.chunks];
        states.iter().map(|byte| u64::from(doubt.contains(byte))).sum()
    }

    pub(crate) fn write(&mut self, lba: u64) {
        let tag = Tag { station: Station::App, part: 0, object: 0, op: 0 };
        let completion = Completion::new(tag);
        let request = BdevIo { op: IoOp::Write, fua: false, lba, blocks: 1, buf: None, completion };
        let mut out = Out { io: &mut self.io, mail: &mut self.mail, wall_clock_s: 0 };
        self.channel.submit(request, &mut out);
        self.deliver();
    }

    /// Lets everything happen that is due by then.
    pub(crate) fn run_to(&mut self, time_us: u64) {
        while let Some(Reverse((due, _, index))) = self.due.peek().copied() {
            if due > time_us {
                break;
            }
            self.due.pop();
            self.now_us = due;
            self.free.push(index);
            match self.slab[index].take().expect("it is due once") {
                Event::Member(member, request) => self.execute(member, request),
                Event::Timer(timer) => {
                    let (owner, mut out) = self.parts();
                    owner.timer(timer, &mut out);
                }
            }
            self.deliver();
        }
        self.now_us = time_us;
    }

    fn execute(&mut self, member: BdevId, request: BdevIo) {
        if let Some(buf) = request.buf.as_ref().filter(|_| member == BdevId(0))
            && let Some(unit) = request.lba.checked_sub(self.bitmap_lba)
        {
            let at = usize::try_from(unit).expect("small") * BLOCK_SIZE_BYTES as usize;
            self.bitmap[at..at + buf.len()].copy_from_slice(buf.as_slice());
        }
        request.complete(IoStatus::Ok, &mut self.io);
    }

    fn at(&mut self, delay_us: u64, event: Event) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slab.push(None);
            self.slab.len() - 1
        });
        self.slab[index] = Some(event);
        self.sequence += 1;
        self.due.push(Reverse((self.now_us + delay_us, self.sequence, index)));
    }

    /// Carries out what the machines want done, and lets the owner work on.
    fn deliver(&mut self) {
        loop {
            if let Some(mail) = self.mail.pop_front() {
                let mut out = Out { io: &mut self.io, mail: &mut self.mail, wall_clock_s: 0 };
                match mail {
                    Mail::Owner(message) => self.owner.handle(0, message, &mut out),
                    Mail::Channel(_, message) | Mail::Channels(message) => {
                        self.channel.handle(message, &mut out);
                    }
                    Mail::Arm(timer, ms) => self.at(ms * 1000, Event::Timer(timer)),
                    Mail::Started(result) => result.expect("members answer"),
                    Mail::Event(_) | Mail::Stopped(_) | Mail::Grow => {}
                }
            } else if let Some((member, request)) = self.io.next_submit() {
                let delay_us = if request.fua { DURABLE_WRITE_US } else { WRITE_US };
                self.at(delay_us, Event::Member(member, request));
            } else if let Some((tag, status)) = self.io.next_done() {
                let mut out = Out { io: &mut self.io, mail: &mut self.mail, wall_clock_s: 0 };
                match tag.station {
                    Station::RaidOwner => self.owner.io_done(tag, status, &mut out),
                    Station::RaidChannel => {
                        self.channel.member_done(tag.op, tag.part, status, &mut out);
                    }
                    _ => assert!(status.is_ok(), "no write fails"),
                }
            } else if self.owner.is_busy() {
                let (owner, mut out) = self.parts();
                owner.poll(&mut out);
            } else {
                return;
            }
        }
    }
}

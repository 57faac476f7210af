//! What the stripe log costs: RAID5 and RAID6, random writes of 4 KiB and whole rows, with the log
//! and without, by turns in one run.
//!
//! One channel on one core; members that answer at once, in memory or (`stripe-log null`) not even
//! that. So the ratio is that of the array's own instructions and memory traffic: on drives it is
//! what they make of the requests that are counted.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mdof::bdev::{BdevId, BdevIo, Completion, IoOp, IoQueue, IoStatus, Station, Tag};
use mdof::md;
use mdof::raid::assembly::{ArrayOptions, CandidateBdev, from_creation};
use mdof::raid::assembly_log::plan_log;
use mdof::raid::{ArrayConfig, BitmapConfig, Channel, Mail, Out, prepare};
use mdof::reactor::buf::{BufPool, CLASS_COUNTS};

const BLOCK_SIZE_BYTES: usize = 4096;
const MEMBER_SIZE_BYTES: usize = 64 << 20;
/// Strips, and those of which four are a row of as much as a request has.
const STRIP_SECTORS: u32 = 128;
const QUARTER_SECTORS: u32 = 64;
const ROOM_SECTORS: u64 = 32_768;
const DEPTH: u64 = 32;
const TURNS: usize = 7;
const TURN: Duration = Duration::from_millis(400);

fn config(level: md::Level, members: u8, strip_sectors: u32, with_log: bool) -> ArrayConfig {
    let creation = md::create(&md::NewArray {
        name: "cost".to_owned(),
        set_uuid: [1; 16],
        ctime: md::Timestamp::from_unix(1, 0),
        assume_clean: true,
        members: (0..members)
            .map(|slot| md::NewMember {
                device_sectors: MEMBER_SIZE_BYTES as u64 / md::SECTOR_BYTES,
                logical_block_size: u32::try_from(BLOCK_SIZE_BYTES).expect("small"),
                device_uuid: [slot; 16],
            })
            .collect(),
    });
    let mut creation = creation.expect("a plain array");
    for superblock in &mut creation.superblocks {
        superblock.level = level;
        superblock.layout = 2;
        superblock.chunk_sectors = strip_sectors;
        // As much room as members of some 16 GiB have, so that slots are of the usual size.
        superblock.data_offset_sectors += ROOM_SECTORS;
        superblock.data_size_sectors -= ROOM_SECTORS;
        superblock.size_sectors -= ROOM_SECTORS;
        superblock.size_sectors -= superblock.size_sectors % u64::from(strip_sectors);
    }
    let options = ArrayOptions {
        name: "cost".to_owned(),
        block_size_bytes: u32::try_from(BLOCK_SIZE_BYTES).expect("small"),
        owner_core: 0,
        daemon_sleep_s: 30,
        barrier_idle_s: 5,
    };
    let bdev = |slot: u8| CandidateBdev::plain(BdevId(slot.into()));
    let bdevs: Vec<CandidateBdev> = (0..members).map(bdev).collect();
    let mut config = from_creation(options, &creation, &bdevs);
    config.bitmap = BitmapConfig::None { resync: false };
    if with_log {
        plan_log(&mut config, Some(&creation.bitmap), 1, [3; 16]);
        assert!(config.log.kept.is_some(), "{}", config.log.why_off);
    }
    config
}

/// Requests that members got.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    reads: u64,
    writes: u64,
    log_writes: u64,
    bytes_written: u64,
}

struct Bench {
    channel: Channel,
    io: IoQueue,
    mail: VecDeque<Mail>,
    members: Vec<Vec<u8>>,
    data_lba: u64,
    blocks: u64,
    row_blocks: u64,
    count: Count,
    pool: BufPool,
    random: u64,
}

impl Bench {
    fn new(config: &ArrayConfig, in_memory: bool) -> Self {
        let shared = prepare(config, BdevId(100)).expect("a plain array");
        let pool = BufPool::on_heap(CLASS_COUNTS);
        let (blocks, row) = (shared.blocks, shared.geometry.full_stripe_blocks());
        let data_lba = shared.members[0].expect("it is there").data_lba;
        let members = config.members.len();
        let size = if in_memory { MEMBER_SIZE_BYTES } else { 0 };
        let in_sync = config.in_sync();
        let channel = Channel::new(shared, in_sync, config.writable());
        let channel = channel.on_core(0, 1, pool).expect("buffers");
        Self {
            channel,
            io: IoQueue::with_capacity(1024),
            mail: VecDeque::new(),
            members: vec![vec![0; size]; members],
            data_lba,
            blocks,
            row_blocks: row.expect("rows"),
            count: Count::default(),
            pool,
            random: 0x1234_5678_9abc_def1,
        }
    }

    fn submit(&mut self, whole_rows: bool) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let blocks = if whole_rows { self.row_blocks.min(32) } else { 1 };
        let lba = self.random % (self.blocks / blocks) * blocks;
        let bytes = usize::try_from(blocks).expect("small") * BLOCK_SIZE_BYTES;
        let tag = Tag { station: Station::App, part: 0, object: 0, op: 0 };
        let request = BdevIo {
            op: IoOp::Write,
            fua: false,
            lba,
            blocks: u32::try_from(blocks).expect("small"),
            buf: Some(self.pool.get(bytes).expect("a buffer")),
            completion: Completion::new(tag),
        };
        let mut out = Out { io: &mut self.io, mail: &mut self.mail, wall_clock_s: 0 };
        self.channel.submit(request, &mut out);
    }

    /// A member does a request.
    fn execute(&mut self, bdev: BdevId, request: &BdevIo) {
        let Some(buf) = &request.buf else { return };
        let is_log = request.lba < self.data_lba;
        match request.op {
            IoOp::Read => self.count.reads += 1,
            _ if is_log => self.count.log_writes += 1,
            _ => self.count.writes += 1,
        }
        if request.op == IoOp::Write {
            self.count.bytes_written += buf.len() as u64;
        }
        let member = &mut self.members[usize::from(bdev.0)];
        let at = usize::try_from(request.lba).expect("small") * BLOCK_SIZE_BYTES;
        let Some(bytes) = member.get_mut(at..at + buf.len()) else { return };
        match request.op {
            IoOp::Read => buf.copy_into(0, bytes),
            _ => bytes.copy_from_slice(buf.as_slice()),
        }
    }

    /// Everything that is under way goes on until it ends: how many host requests did.
    fn settle(&mut self) -> u64 {
        let mut ended = 0;
        loop {
            while let Some((bdev, request)) = self.io.next_submit() {
                self.execute(bdev, &request);
                request.complete(IoStatus::Ok, &mut self.io);
            }
            let Some((tag, status)) = self.io.next_done() else {
                if !self.channel.wants_turn_end() {
                    return ended;
                }
                let mut out = Out { io: &mut self.io, mail: &mut self.mail, wall_clock_s: 0 };
                self.channel.turn_ended(&mut out);
                continue;
            };
            if tag.station == Station::App {
                assert_eq!(status, IoStatus::Ok);
                ended += 1;
                continue;
            }
            let mut out = Out { io: &mut self.io, mail: &mut self.mail, wall_clock_s: 0 };
            self.channel.member_done(tag.op, tag.part, status, &mut out);
        }
    }

    /// Host requests a second over one turn.
    fn turn(&mut self, whole_rows: bool) -> (f64, u64) {
        let (began, mut ended) = (Instant::now(), 0);
        while began.elapsed() < TURN {
            let depth = if whole_rows { DEPTH / 4 } else { DEPTH };
            (0..depth).for_each(|_| self.submit(whole_rows));
            ended += self.settle();
        }
        (ended as f64 / began.elapsed().as_secs_f64(), ended)
    }
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn compare(name: &str, level: md::Level, members: u8, whole_rows: bool, in_memory: bool) {
    let config = |log| config(level, members, STRIP_SECTORS, log);
    let mut benches = [false, true].map(|log| Bench::new(&config(log), in_memory));
    let mut rates = [Vec::new(), Vec::new()];
    let mut ended = [0, 0];
    for _ in 0..TURNS {
        for ((bench, rates), ended) in benches.iter_mut().zip(&mut rates).zip(&mut ended) {
            let (rate, count) = bench.turn(whole_rows);
            rates.push(rate);
            *ended += count;
        }
    }
    let [off, on] = rates.each_mut().map(|rates| median(rates));
    let per = |bench: &Bench, ended: u64| {
        let each = |count: u64| count as f64 / ended as f64;
        let Count { reads, writes, log_writes, bytes_written } = bench.count;
        format!(
            "{:.2} reads, {:.2} writes in place, {:.2} to the log, {:.1} KiB written",
            each(reads),
            each(writes),
            each(log_writes),
            each(bytes_written) / 1024.0
        )
    };
    println!("{name}");
    println!("  off {:9.0}/s   {}", off, per(&benches[0], ended[0]));
    println!("  on  {:9.0}/s   {}", on, per(&benches[1], ended[1]));
    println!("  on / off {:.2}", on / off);
}

/// Whole rows of four data strips without a clock, for who counts instructions.
fn write_rows(count: u64, with_log: bool) {
    let config = config(md::Level::Raid5, 5, QUARTER_SECTORS, with_log);
    let mut bench = Bench::new(&config, false);
    let mut ended = 0;
    while ended < count {
        (0..DEPTH / 4).for_each(|_| bench.submit(true));
        ended += bench.settle();
    }
    println!("{ended} rows");
}

fn main() {
    let mut args = std::env::args().skip(1);
    if let Some(mode @ ("rows" | "rows-log")) = args.next().as_deref() {
        let count = args.next().and_then(|text| text.parse().ok());
        return write_rows(count.expect("usage: stripe-log rows COUNT"), mode == "rows-log");
    }
    let in_memory = std::env::args().nth(1).as_deref() != Some("null");
    let members = if in_memory { "memory" } else { "null" };
    println!("{members} members, one core, queue depth {DEPTH}, {TURNS} turns each, medians");
    compare("RAID5 of 4, random 4 KiB", md::Level::Raid5, 4, false, in_memory);
    compare("RAID6 of 6, random 4 KiB", md::Level::Raid6, 6, false, in_memory);
    compare("RAID5 of 3, whole rows of 128 KiB", md::Level::Raid5, 3, true, in_memory);
}

//! What the bitmap adds to a host write whose chunk is open: run it under callgrind with and
//! without a bitmap and compare (`perf/gate-cost.sh` does).
//!
//! One channel, two members that answer at once; a request costs nothing but the array's own
//! instructions and the two queues. And what a channel does when resync takes and frees a window,
//! with host writes in flight elsewhere: `gate-cost windows`.

use std::collections::VecDeque;

use mdof::bdev::{BdevId, BdevIo, Completion, IoOp, IoQueue, IoStatus, Station, Tag};
use mdof::bitmap::ChunkState;
use mdof::md;
use mdof::raid::assembly::{ArrayOptions, CandidateBdev, from_creation};
use mdof::raid::message::BlockRange;
use mdof::raid::{ArrayConfig, BitmapConfig, Channel, Mail, Out, ToChannel, ToOwner, prepare};

const MEMBERS: u16 = 2;
const BLOCK_SIZE_BYTES: u32 = 4096;
const MEMBER_SIZE_BYTES: u64 = 8 << 30;

/// An array without bitmap, or with one in which all chunks are in a state.
fn config(all: Option<ChunkState>) -> ArrayConfig {
    let member = |slot: u16| md::NewMember {
        device_sectors: MEMBER_SIZE_BYTES / md::SECTOR_BYTES,
        logical_block_size: BLOCK_SIZE_BYTES,
        device_uuid: [u8::try_from(slot).expect("few members"); 16],
    };
    let creation = md::create(&md::NewArray {
        name: "cost".to_owned(),
        set_uuid: [1; 16],
        ctime: md::Timestamp::from_unix(1, 0),
        assume_clean: true,
        members: (0..MEMBERS).map(member).collect(),
    })
    .expect("a plain array");
    let options = ArrayOptions {
        name: "cost".to_owned(),
        block_size_bytes: BLOCK_SIZE_BYTES,
        owner_core: 0,
        daemon_sleep_s: 30,
        barrier_idle_s: 5,
    };
    let bdevs: Vec<CandidateBdev> =
        (0..MEMBERS).map(|slot| CandidateBdev::plain(BdevId(slot))).collect();
    let mut config = from_creation(options, &creation, &bdevs);
    match (&mut config.bitmap, all) {
        (BitmapConfig::Lockless { states, .. }, Some(state)) => states.fill(state as u8),
        (bitmap, _) => *bitmap = BitmapConfig::None { resync: false },
    }
    config
}

/// Host writes in flight while windows are taken and freed.
const DEPTH: u64 = 32;

/// A host request of one block.
fn request(op: IoOp, lba: u64) -> BdevIo {
    let tag = Tag { station: Station::App, part: 0, object: 0, op: 0 };
    let completion = Completion::new(tag);
    BdevIo { op, fua: false, lba, blocks: 1, buf: None, completion }
}

/// Host requests to open chunks, one after the other.
fn serve_all(channel: &mut Channel, op: IoOp, count: u64, blocks: u64) {
    let mut io = IoQueue::with_capacity(64);
    let mut mail = VecDeque::new();
    let mut ended = 0;
    for number in 0..count {
        let request = request(op, number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % blocks);
        channel.submit(request, &mut Out { io: &mut io, mail: &mut mail, wall_clock_s: 0 });
        while let Some((_, request)) = io.next_submit() {
            request.complete(IoStatus::Ok, &mut io);
        }
        while let Some((tag, status)) = io.next_done() {
            match tag.station {
                Station::App => ended += 1,
                _ => {
                    let mut out = Out { io: &mut io, mail: &mut mail, wall_clock_s: 0 };
                    channel.member_done(tag.op, tag.part, status, &mut out);
                }
            }
        }
    }
    assert!(ended == count && mail.is_empty(), "every chunk is open and every request ends");
}

/// Windows taken and freed beside `DEPTH` writes in flight elsewhere.
fn hold_windows(channel: &mut Channel, windows: u64) {
    let mut io = IoQueue::with_capacity(128);
    let mut mail = VecDeque::new();
    for lba in 0..DEPTH {
        let mut out = Out { io: &mut io, mail: &mut mail, wall_clock_s: 0 };
        channel.submit(request(IoOp::Write, lba), &mut out);
    }
    let range = BlockRange { lba: 4 * DEPTH, blocks: 256 };
    for _ in 0..windows {
        let mut out = Out { io: &mut io, mail: &mut mail, wall_clock_s: 0 };
        channel.handle(ToChannel::Lock(0, range), &mut out);
        let answer = out.mail.pop_front();
        assert_eq!(answer, Some(Mail::Owner(ToOwner::Locked(0))), "no write is in its way");
        channel.handle(ToChannel::Unlock(0), &mut out);
    }
    while let Some((_, request)) = io.next_submit() {
        request.complete(IoStatus::Ok, &mut io);
    }
    // An array never goes while members work on it.
    while let Some((tag, status)) = io.next_done() {
        if tag.station != Station::App {
            let mut out = Out { io: &mut io, mail: &mut mail, wall_clock_s: 0 };
            channel.member_done(tag.op, tag.part, status, &mut out);
        }
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let usage = "usage: gate-cost lockless|none|read|windows COUNT";
    let mode = args.next().expect(usage);
    let count: u64 = args.next().and_then(|text| text.parse().ok()).expect(usage);
    assert!(matches!(mode.as_str(), "lockless" | "none" | "read" | "windows"), "{usage}");
    let config = config(match mode.as_str() {
        "none" => None,
        "read" => Some(ChunkState::Clean),
        // In a bitmap that is loaded it means NeedSync, which is as open as Dirty.
        _ => Some(ChunkState::Dirty),
    });
    let shared = prepare(&config, BdevId(100)).expect("a plain array");
    let blocks = shared.blocks;
    let mut channel = Channel::new(shared, config.in_sync(), config.writable());
    match mode.as_str() {
        "windows" => hold_windows(&mut channel, count),
        "read" => serve_all(&mut channel, IoOp::Read, count, blocks),
        _ => serve_all(&mut channel, IoOp::Write, count, blocks),
    }
    println!("{mode}: {count}");
}

//! What happened last: a ring of events that cost nothing until somebody reads them, and a digest
//! over all of them that shows whether two lives were the same.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;

use crate::bdev::{IoOp, IoStatus};
use crate::bitmap::Infection;
use crate::raid::message::{ArrayEvent, ArrayTimer, SlotMask};
use crate::raid::{Knobs, ToChannel, ToOwner};

/// Events that are kept for the story of a failure, unless `MDOF_SIM_STORY` says otherwise.
const RING: usize = 400;

/// What a request is for, as far as its target shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Superblock.
    Superblock,
    /// Unit of the bitmap, with the state of the first chunk in it.
    Unit(usize),
    /// The stripe log: the byte before the data.
    Log(usize),
    /// The bad-block log.
    BadLog,
    /// Blocks of the array: first block, count, first chunk, last chunk.
    Data { lba: usize, blocks: usize, first: usize, last: usize },
    /// The member as a whole.
    Member,
}

/// A request to a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) core: usize,
    pub(super) member: usize,
    pub(super) op: IoOp,
    pub(super) fua: bool,
    pub(super) by_owner: bool,
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Created {
        members: usize,
        cores: u16,
        block: usize,
        chunk_blocks: usize,
        blocks: usize,
        infection: Infection,
    },
    Host {
        id: u32,
        core: usize,
        op: IoOp,
        fua: bool,
        lba: usize,
        blocks: usize,
        version: u64,
    },
    HostDone {
        id: u32,
        status: IoStatus,
    },
    Issued(Sent),
    /// With what became of it.
    Executed(Sent, IoStatus),
    /// States in a unit that changed on the medium of a member: chunk, byte before, byte now.
    Byte {
        member: usize,
        chunk: usize,
        before: u8,
        now: u8,
    },
    ToOwner(usize, ToOwner),
    ToChannel(usize, ToChannel),
    Timer(ArrayTimer),
    /// The operator sets something.
    Set(Knobs),
    Says(ArrayEvent),
    /// What the operator does to a slot.
    Operator(&'static str, usize),
    Died(usize),
    Cut,
    /// The external bitmap is one of old.
    OldCopy,
    /// The stripe log counts, with so many records to be written in place; or it does not.
    LogFound {
        replay: usize,
    },
    LogVoid,
    Stopped,
    Assembled {
        present: SlotMask,
        in_sync: SlotMask,
        dirty: bool,
        need_sync: usize,
    },
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.by_owner { "owner" } else { "channel" };
        let fua = if self.fua { " fua" } else { "" };
        write!(f, "{who} on core {}: member {} {:?}{fua} ", self.core, self.member, self.op)?;
        match self.place {
            Place::Superblock => f.write_str("superblock"),
            Place::Unit(unit) => write!(f, "bitmap unit {unit}"),
            Place::Log(back) => write!(f, "stripe log, {back} bytes before the data"),
            Place::Data { lba, blocks, first, last } => {
                write!(f, "blocks {lba}+{blocks}, chunks {first}..={last}")
            }
            Place::BadLog => f.write_str("bad-block log"),
            Place::Member => Ok(()),
        }
    }
}

fn state_name(byte: u8) -> &'static str {
    crate::bitmap::ChunkState::from_byte(byte).map_or("?", crate::bitmap::ChunkState::name)
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Created { members, cores, block, chunk_blocks, blocks, infection } => write!(
                f,
                "created: {members} members, {cores} cores, {blocks} blocks of {block} bytes, \
                 {chunk_blocks} a chunk, infection {}",
                infection.name()
            ),
            Self::Host { id, core, op, fua, lba, blocks, version } => {
                let fua = if fua { " fua" } else { "" };
                write!(f, "host #{id} on core {core}: {op:?}{fua} {lba}+{blocks} v{version}")
            }
            Self::HostDone { id, status } => write!(f, "host #{id} ends: {status:?}"),
            Self::Issued(sent) => write!(f, "  issued by {sent}"),
            Self::Executed(sent, status) => write!(f, "  done    by {sent}: {status:?}"),
            Self::Byte { member, chunk, before, now } => write!(
                f,
                "    on member {member}: chunk {chunk} {} -> {}",
                state_name(before),
                state_name(now)
            ),
            Self::ToOwner(core, message) => write!(f, "core {core} -> owner: {message:?}"),
            Self::ToChannel(core, message) => write!(f, "owner -> core {core}: {message:?}"),
            Self::Timer(timer) => write!(f, "timer {timer:?}"),
            Self::Set(knobs) => write!(f, "set {knobs:?}"),
            Self::Says(event) => write!(f, "array: {event}"),
            Self::Operator(what, slot) => write!(f, "operator: {what} {slot}"),
            Self::Died(member) => write!(f, "*** member {member} dies"),
            Self::Cut => f.write_str("*** power cut"),
            Self::LogFound { replay } => write!(f, "the stripe log has {replay} records"),
            Self::LogVoid => f.write_str("the stripe log does not count"),
            Self::OldCopy => f.write_str("*** an old copy of the external bitmap"),
            Self::Stopped => f.write_str("*** stopped"),
            Self::Assembled { present, in_sync, dirty, need_sync } => write!(
                f,
                "*** assembled from members {present:b}: in sync {in_sync:b}, dirty {dirty}, \
                 {need_sync} chunks in doubt"
            ),
        }
    }
}

#[derive(Default)]
struct Trace {
    ring: VecDeque<(u64, Event)>,
    count: u64,
    ring_len: usize,
    /// FNV-1a over the text of every event; only while somebody wants it.
    digest: Option<u64>,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::new(Trace::default());
}

/// Begins a new life.
pub(super) fn begin(with_digest: bool) {
    TRACE.with_borrow_mut(|trace| {
        trace.ring.clear();
        trace.count = 0;
        if trace.ring_len == 0 {
            let wanted = std::env::var("MDOF_SIM_STORY").ok();
            trace.ring_len = wanted.map_or(RING, |lines| lines.parse().expect("a number"));
        }
        trace.digest = with_digest.then_some(0xcbf2_9ce4_8422_2325);
    });
}

pub(super) fn note(event: Event) {
    count_request(&event);
    TRACE.with_borrow_mut(|trace| {
        if trace.ring.len() >= trace.ring_len {
            trace.ring.pop_front();
        }
        trace.ring.push_back((trace.count, event));
        trace.count += 1;
        if let Some(digest) = &mut trace.digest {
            for byte in event.to_string().bytes() {
                *digest = (*digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
    });
}

thread_local! {
    /// Reads of members and writes of their data, while somebody counts them.
    static REQUESTS: std::cell::Cell<Option<(usize, usize)>> = const { std::cell::Cell::new(None) };
}

/// Begins to count the requests for data, or ends: reads and writes.
pub(super) fn count_requests(begin: bool) -> (usize, usize) {
    REQUESTS.replace(begin.then_some((0, 0))).unwrap_or_default()
}

fn count_request(event: &Event) {
    let Event::Issued(Sent { op, place: Place::Data { .. }, .. }) = event else { return };
    if let Some((reads, writes)) = REQUESTS.get() {
        let is_read = *op == IoOp::Read;
        REQUESTS.set(Some((reads + usize::from(is_read), writes + usize::from(!is_read))));
    }
}

/// Events of the last ones that are such.
pub(super) fn events(is_such: impl Fn(&Event) -> bool) -> usize {
    TRACE.with_borrow(|trace| trace.ring.iter().filter(|(_, event)| is_such(event)).count())
}

/// Events of this life, and their digest.
pub(super) fn digest() -> (u64, u64) {
    TRACE.with_borrow(|trace| (trace.count, trace.digest.unwrap_or(0)))
}

/// The last events as text, one a line.
pub(super) fn story() -> String {
    TRACE.with_borrow(|trace| {
        trace.ring.iter().map(|(number, event)| format!("{number:>8} {event}\n")).collect()
    })
}

//! Levels with parity: rows under work on one core.
//!
//! A row's columns are locked and worked on in *slices* ([`super::layout::slice_blocks`]): the
//! whole row where strips are small. A write changes data and parity of its columns, so writers
//! of one slice take turns, on all cores, by the slice's lock; writers of different slices never
//! meet. Requests for a slice gather until the core's turn ends, and while others work on it, and
//! are then done as one batch: adjacent small writes become one, and a sequential stream full
//! stripes.
//!
//! ```text
//! Free ─▶ Gathering ─▶ Locking ─▶ Reading ─▶ (compute) ─▶ Writing ─▶ Settling ─▶ Free | Gathering
//!                         └──▶ Hungry ──┘ (no buffers now)
//! with a stripe log:                         (compute) ─▶ Logging ─▶ Writing
//! ```
//!
//! [`plan`] decides what is read, [`compute`] makes parity, [`locks`] are the home core's part and
//! so is the [`ring`] of the stripe log ([`super::stripe_log`], [`log`]); the [`super::Channel`]
//! drives all of it (`channel_stripe.rs`, `channel_stripe_io.rs`, `channel_stripe_log.rs`). A row
//! that one request brings as a whole takes a shorter way, `channel_stripe_whole.rs`.
//!
//! A slice stays locked until what it missed on a member is of no consequence any more: that
//! member's absence is durable and no channel reads it. Else another writer might take what the
//! member still has for the old data, and spoil the parity by it.

pub(super) mod compute;
pub(super) mod index;
pub(super) mod locks;
pub(super) mod log;
pub(super) mod plan;
pub(super) mod ring;

use std::collections::VecDeque;

use super::CHANNEL_OPS_MAX;
use super::MemberSlot;
use super::channel_op::Op;
use super::geometry::{Parity, Row};
use super::message::{BlockRange, RowEnd, SlotMask, Ticket};
use crate::bdev::IoStatus;
use crate::limits::{IO_SIZE_BYTES_MAX, MEMBERS_MAX};
use crate::parity::Kernels;
use crate::reactor::buf::{BufPool, IoBuf};
use compute::Bufs;
use index::Index;
use locks::Locks;
use log::{HomeLog, Packer};
use plan::{Method, Plan};

/// Slices under work in one channel; requests for further ones wait.
pub(super) const STRIPES_MAX: usize = 256;

/// In [`crate::bdev::Tag::op`]: the request of a stripe, not of an operation.
pub(super) const STRIPE_TAG: u32 = 1 << 31;

const _: () = assert!(CHANNEL_OPS_MAX < STRIPE_TAG as usize);

/// Columns of a slice at most: the largest buffer in the smallest blocks.
const COLUMNS_MAX: usize = IO_SIZE_BYTES_MAX / 512;

/// End of a list.
const NONE: u32 = u32::MAX;

/// Where a slice under work stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StripeState {
    /// Not in use.
    Free,
    /// Requests gather until the core's turn ends.
    Gathering,
    /// The slice's home core has been asked for its lock.
    Locking,
    /// It is locked; no buffers are free.
    Hungry,
    /// Members are reading.
    Reading,
    /// A member is out and the others may not know it yet: what is written waits.
    Unrecorded,
    /// Records of what is to be written go to the stripe log.
    Logging,
    /// A member has failed to write a record: that it is out is to be durable first.
    Unlogged,
    /// Members are writing.
    Writing,
    /// A member has missed the write and may still be taken for one that has it.
    Settling,
}

impl StripeState {
    fn allows(self, next: Self) -> bool {
        use StripeState::{
            Free, Gathering, Hungry, Locking, Logging, Reading, Settling, Unlogged, Unrecorded,
            Writing,
        };
        matches!(
            (self, next),
            (Free, Gathering)
                | (Gathering, Locking)
                | (
                    Locking | Hungry | Reading | Unrecorded,
                    Hungry | Reading | Unrecorded | Logging | Writing | Gathering | Free
                )
                | (Logging, Writing | Unlogged | Gathering | Free)
                | (Unlogged, Writing | Gathering | Free)
                | (Writing, Settling | Gathering | Free)
                | (Settling, Gathering | Free)
        )
    }
}

/// Operations of a channel in a row, linked by [`Op::next`].
#[derive(Debug, Clone, Copy)]
pub(super) struct OpList {
    first: u32,
    last: u32,
}

impl OpList {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE };

    pub(super) fn is_empty(self) -> bool {
        self.first == NONE
    }

    pub(super) fn push(&mut self, op: u32, ops: &mut [Op]) {
        ops[op as usize].next = NONE;
        match std::mem::replace(&mut self.last, op) {
            NONE => self.first = op,
            last => ops[last as usize].next = op,
        }
    }

    pub(super) fn pop(&mut self, ops: &[Op]) -> Option<u32> {
        let first = (self.first != NONE).then_some(self.first)?;
        self.first = ops[first as usize].next;
        if self.first == NONE {
            self.last = NONE;
        }
        Some(first)
    }

    /// The operation, if it is the only one.
    pub(super) fn sole(self) -> Option<u32> {
        let is_sole = self.first == self.last || mutant!(WholeRowHidesOthers);
        (self.first != NONE && is_sole).then_some(self.first)
    }

    pub(super) fn iter(self, ops: &[Op]) -> impl Iterator<Item = u32> + use<'_> {
        let mut next = self.first;
        std::iter::from_fn(move || {
            let op = (next != NONE).then_some(next)?;
            next = ops[op as usize].next;
            Some(op)
        })
    }
}

/// A part of a request that lies in one strip.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    /// Who has it.
    pub(super) slot: MemberSlot,
    /// Where on the member.
    pub(super) column: u64,
    pub(super) blocks: u64,
    /// First block in the request's buffer.
    pub(super) offset: u64,
}

/// The row of a slice, and where it lies. The geometry is asked once a batch: what it computes
/// would else cost a full stripe a tenth of its time.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowAt {
    /// Who has what in it.
    pub(super) row: Row,
    /// Its first block in the array, and on the members.
    array_lba: u64,
    member_lba: u64,
    strip_blocks: u64,
    data_blocks: u64,
}

impl RowAt {
    /// The row with a block of the sync space.
    pub(super) fn new(parity: &Parity, lba: u64) -> Self {
        Self::of_row(parity, lba >> parity.strip_blocks().trailing_zeros())
    }

    /// The row with this number.
    pub(super) fn of_row(parity: &Parity, number: u64) -> Self {
        let (strip_blocks, data_blocks) = (parity.strip_blocks(), parity.full_stripe_blocks());
        Self {
            row: parity.row(number),
            array_lba: number * data_blocks,
            member_lba: number * strip_blocks,
            strip_blocks,
            data_blocks,
        }
    }

    /// Members that have a part in a run of array blocks in the row.
    pub(super) fn legs(&self, range: BlockRange) -> SlotMask {
        if range.blocks > self.data_blocks - self.strip_blocks {
            return self.row.data_mask();
        }
        self.segments(range).fold(0, |mask, segment| mask | super::bit(segment.slot))
    }

    /// All its columns, in the sync space.
    pub(super) fn columns(&self) -> BlockRange {
        BlockRange { lba: self.member_lba, blocks: self.strip_blocks }
    }

    /// The strips of a run of array blocks in the row.
    pub(super) fn segments(&self, range: BlockRange) -> impl Iterator<Item = Segment> + use<> {
        let Self { row, array_lba, member_lba, strip_blocks, .. } = *self;
        let from = range.lba - array_lba;
        let strip = from >> strip_blocks.trailing_zeros();
        let mut index = MemberSlot::try_from(strip).expect("a strip of the row");
        let (mut offset, mut done) = (from & (strip_blocks - 1), 0);
        std::iter::from_fn(move || {
            let left = range.blocks - done;
            let blocks = left.min(strip_blocks - offset);
            if left == 0 {
                return None;
            }
            let slot = row.data_slot(index);
            let segment = Segment { slot, column: member_lba + offset, blocks, offset: done };
            (index, offset, done) = (index + 1, 0, done + blocks);
            Some(segment)
        })
    }
}

/// A set of columns of a slice.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Columns {
    bits: [u64; COLUMNS_MAX / 64],
    /// Behind the last one: most slices have far fewer than there is room for, and a full stripe
    /// should not pay for the rest.
    end: usize,
}

impl Columns {
    pub(super) fn add(&mut self, first: usize, count: usize) {
        let end = first + count;
        for word in first / 64..end.div_ceil(64) {
            let from = first.saturating_sub(word * 64);
            let to = (end - word * 64).min(64);
            self.bits[word] |= u64::MAX >> (64 - (to - from)) << from;
        }
        self.end = self.end.max(end);
    }

    fn clear(&mut self) {
        self.bits[..self.end.div_ceil(64)].fill(0);
        self.end = 0;
    }

    fn count(&self) -> u32 {
        self.bits[..self.end.div_ceil(64)].iter().map(|word| word.count_ones()).sum()
    }

    /// The first column at or behind `from` that is in the set, or is not.
    fn find(&self, from: usize, is_in: bool) -> usize {
        let (mut word, mut mask) = (from / 64, u64::MAX << (from % 64));
        while let Some(&bits) = self.bits.get(word) {
            let found = if is_in { bits } else { !bits } & mask;
            if found != 0 {
                return word * 64 + found.trailing_zeros() as usize;
            }
            (word, mask) = (word + 1, u64::MAX);
        }
        COLUMNS_MAX
    }

    /// The next run of columns at or behind `from`: first and number.
    pub(super) fn run(&self, from: usize) -> Option<(usize, usize)> {
        if from >= self.end {
            return None;
        }
        let first = self.find(from, true);
        Some((first, self.find(first, false) - first))
    }
}

/// The only operation of a batch that touches a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sole {
    pub(super) op: u32,
    /// First block of the slot's part in the operation's buffer.
    pub(super) offset: u64,
}

/// What a batch does to each slot.
#[derive(Debug)]
pub(super) struct Survey {
    /// The stripe whose batch it is of.
    of: u32,
    /// By slot: the columns that change.
    pub(super) columns: [Columns; MEMBERS_MAX],
    /// By slot: the only operation that touches it, if there is one only.
    pub(super) sole: [Option<Sole>; MEMBERS_MAX],
    /// All columns that change in any slot.
    pub(super) all: Columns,
    pub(super) touched: SlotMask,
    /// Of these those that change in all columns of the hull.
    pub(super) full: SlotMask,
}

impl Survey {
    pub(super) fn new() -> Self {
        Self {
            of: NONE,
            columns: [Columns::default(); MEMBERS_MAX],
            sole: [None; MEMBERS_MAX],
            all: Columns::default(),
            touched: 0,
            full: 0,
        }
    }

    /// Looks at the batch of a stripe again, if that of another one was looked at meanwhile.
    pub(super) fn look_again(&mut self, index: u32, stripe: &Stripe, ops: &[Op]) {
        if self.of != index {
            self.look(index, stripe, ops);
        }
    }

    /// A stripe has a batch that is not looked at: what it says of an earlier one counts no more.
    pub(super) fn forget(&mut self, index: u32) {
        if self.of == index && !mutant!(OldSurveyKept) {
            self.of = NONE;
        }
    }

    /// Looks at the batch of a stripe, whose hull its columns lie in.
    pub(super) fn look(&mut self, index: u32, stripe: &Stripe, ops: &[Op]) {
        let (batch, hull, at) = (stripe.batch, stripe.hull, stripe.at());
        self.of = index;
        for slot in super::slots(self.touched) {
            self.columns[usize::from(slot)].clear();
            self.sole[usize::from(slot)] = None;
        }
        (self.touched, self.full) = (0, 0);
        self.all.clear();
        let to_usize = |blocks: u64| usize::try_from(blocks).expect("inside a slice");
        for op in batch.iter(ops) {
            for segment in at.segments(ops[op as usize].range) {
                let (slot, mask) = (usize::from(segment.slot), super::bit(segment.slot));
                let (first, count) =
                    (to_usize(segment.column - hull.lba), to_usize(segment.blocks));
                self.columns[slot].add(first, count);
                self.all.add(first, count);
                if segment.blocks == hull.blocks {
                    self.full |= mask;
                }
                let sole = Sole { op, offset: segment.offset };
                self.sole[slot] = (self.touched & mask == 0).then_some(sole);
                self.touched |= mask;
            }
        }
        for slot in super::slots(self.touched & !self.full) {
            if u64::from(self.columns[usize::from(slot)].count()) == hull.blocks {
                self.full |= super::bit(slot);
            }
        }
    }
}

/// What a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Changes.
    Write,
    /// Reads and compares of what is lost.
    Read,
}

/// A slice under work.
#[derive(Debug)]
pub(super) struct Stripe {
    state: StripeState,
    pub(super) slice: u64,
    pub(super) kind: Kind,
    pub(super) batch: OpList,
    /// What has come since.
    pub(super) writes: OpList,
    pub(super) reads: OpList,
    /// The columns that the batch lies in, in the sync space.
    pub(super) hull: BlockRange,
    /// The row of the slice; `None` before its first batch.
    pub(super) at: Option<RowAt>,
    pub(super) plan: Plan,
    pub(super) bufs: Bufs,
    pub(super) pending: u32,
    /// Members that failed to read for this batch.
    pub(super) unread: SlotMask,
    /// Members that were written when the plan was made.
    pub(super) writable: SlotMask,
    /// Members that were sent a write, and those of them that failed one.
    pub(super) sent: SlotMask,
    pub(super) failed: SlotMask,
    pub(super) failure: IoStatus,
    /// Members that have missed the write: what `Settling` waits for.
    pub(super) missed: SlotMask,
    /// Members about whose lists of bad blocks the owner has been asked: it waits for that, too.
    pub(super) noting: SlotMask,
    /// There may be something in `bufs` or `records`.
    has_bufs: bool,
    pub(super) on_reserve: bool,
    /// The numbers of its records; none without a stripe log, or of a batch of reads.
    pub(super) ticket: Ticket,
    /// Buffers of its records.
    pub(super) records: Vec<IoBuf>,
    /// Members that its records went to.
    pub(super) holders: SlotMask,
    /// The records are durable.
    pub(super) logged: bool,
}

impl Stripe {
    fn free(slots: usize, records_max: usize) -> Self {
        Self {
            state: StripeState::Free,
            slice: 0,
            kind: Kind::Write,
            batch: OpList::EMPTY,
            writes: OpList::EMPTY,
            reads: OpList::EMPTY,
            hull: BlockRange { lba: 0, blocks: 0 },
            at: None,
            plan: Plan { method: Method::Plain, reads: 0, parity: 0 },
            bufs: (0..slots).map(|_| None).collect(),
            pending: 0,
            unread: 0,
            writable: 0,
            sent: 0,
            failed: 0,
            failure: IoStatus::Ok,
            missed: 0,
            noting: 0,
            has_bufs: false,
            on_reserve: false,
            ticket: Ticket::default(),
            records: Vec::with_capacity(records_max),
            holders: 0,
            logged: false,
        }
    }

    /// How the work on it ends, `done` as it is.
    pub(super) fn end(&self, done: bool) -> RowEnd {
        RowEnd { slice: self.slice, ticket: self.ticket, logged: self.logged, done }
    }

    /// The row of its slice.
    pub(super) fn at(&self) -> &RowAt {
        self.at.as_ref().expect("known with the first batch")
    }

    pub(super) fn state(&self) -> StripeState {
        self.state
    }

    /// The only place that changes the state.
    pub(super) fn set_state(&mut self, next: StripeState) {
        assert!(self.state.allows(next), "a stripe went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

/// A whole row that is to be written when it has its parity.
#[derive(Debug)]
pub(super) struct WholeRow {
    pub(super) stripe: u32,
    pub(super) row: Row,
    /// Its first column.
    pub(super) lba: u64,
    pub(super) fua: bool,
    /// All its data, as one request brings them.
    pub(super) host: IoBuf,
    pub(super) p: IoBuf,
    pub(super) q: Option<IoBuf>,
}

/// Those of a turn.
#[derive(Debug)]
pub(super) struct WholeRows {
    pub(super) rows: Vec<WholeRow>,
    /// Others may follow at once: all are written together.
    pub(super) are_kept: bool,
}

/// A channel's rows under work.
#[derive(Debug)]
pub(super) struct Stripes {
    pub(super) core: u16,
    pub(super) cores: u16,
    pub(super) pool: BufPool,
    pub(super) kernels: Kernels,
    pub(super) slice_blocks: u64,
    pub(super) stripes: Box<[Stripe]>,
    pub(super) free: Vec<u32>,
    pub(super) by_slice: Index,
    /// Requests that found no free stripe.
    pub(super) overflow: OpList,
    /// Stripes that go on when the turn ends.
    pub(super) gathering: VecDeque<u32>,
    /// Whole rows that wait for their parity.
    pub(super) whole: WholeRows,
    /// Stripes that wait for buffers.
    pub(super) hungry: VecDeque<u32>,
    /// Stripes that wait for a member's absence to be durable, and alike.
    pub(super) settling: u32,
    /// This core's part of the stripe log.
    pub(super) log: Option<Box<HomeLog>>,
    /// Cores that keep locks.
    homes: u16,
    /// The locks of slices whose home this core is.
    pub(super) locks: Locks,
    /// Buffers for one stripe when the pool has none: host requests hold buffers while they wait.
    reserve: Vec<IoBuf>,
    slots: usize,
    slice_size_bytes: usize,
    pub(super) survey: Box<Survey>,
    /// Peers that have not yet said that nothing of theirs is under way to this core.
    pub(super) farewells: Option<u16>,
}

impl Stripes {
    /// `None` when the pool has no buffers for a reserve.
    pub(super) fn new(
        parity: &Parity,
        block_size_bytes: u32,
        (core, cores): (u16, u16),
        pool: BufPool,
        log: Option<&super::SharedLog>,
    ) -> Option<Self> {
        let slots = usize::from(parity.slots());
        let slice_blocks = super::layout::slice_blocks(parity, block_size_bytes);
        let slice = slice_blocks * u64::from(block_size_bytes);
        let slice_size_bytes = usize::try_from(slice).expect("a slice fits a buffer");
        let stripes_max = u32::try_from(STRIPES_MAX).expect("a small constant");
        let records_max = log.map_or(0, |log| usize::from(log.parts_max));
        let log = match log {
            Some(log) => Some((log, HomeLog::new(log, core, cores, &pool)?)),
            None => None,
        };
        let homes = log.as_ref().map_or(cores, |(log, _)| cores.min(log.layout.rings));
        let mut stripes = Self {
            core,
            cores,
            pool,
            kernels: Kernels::detect(),
            slice_blocks,
            stripes: (0..STRIPES_MAX).map(|_| Stripe::free(slots, records_max)).collect(),
            free: (0..stripes_max).rev().collect(),
            by_slice: Index::new(STRIPES_MAX),
            overflow: OpList::EMPTY,
            gathering: VecDeque::with_capacity(STRIPES_MAX),
            whole: WholeRows { rows: Vec::with_capacity(STRIPES_MAX), are_kept: false },
            hungry: VecDeque::with_capacity(STRIPES_MAX),
            settling: 0,
            log: log.map(|(_, home)| Box::new(home)),
            homes,
            locks: Locks::new(STRIPES_MAX * usize::from(cores)),
            reserve: Vec::with_capacity(slots),
            slots,
            slice_size_bytes,
            survey: Box::new(Survey::new()),
            farewells: None,
        };
        stripes.fill_reserve().then_some(stripes)
    }

    /// Whether the reserve is whole.
    fn fill_reserve(&mut self) -> bool {
        while self.reserve.len() < self.slots {
            let Some(buf) = self.pool.get(self.slice_size_bytes) else { return false };
            self.reserve.push(buf);
        }
        self.log.as_mut().is_none_or(|log| log.fill_reserve(&self.pool))
    }

    /// The core that keeps the lock of a slice.
    pub(super) fn home_of(&self, slice: u64) -> u16 {
        let mixed = slice.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mixed = u32::try_from(mixed).expect("32 bits");
        u16::try_from(mixed % u32::from(self.homes)).expect("below the number of cores")
    }

    /// Takes a request into the stripe of its slice, whose state matters not.
    pub(super) fn take(&mut self, op: u32, is_read: bool, ops: &mut [Op]) {
        let slice = ops[op as usize].sync.lba >> self.slice_blocks.trailing_zeros();
        let index = match self.by_slice.get(slice) {
            Some(index) => index,
            None => {
                let Some(index) = self.free.pop() else {
                    return self.overflow.push(op, ops);
                };
                self.by_slice.insert(slice, index);
                self.stripes[index as usize].slice = slice;
                self.gather(index);
                index
            }
        };
        let stripe = &mut self.stripes[index as usize];
        let list = if is_read { &mut stripe.reads } else { &mut stripe.writes };
        list.push(op, ops);
    }

    /// What comes for the slice gathers to the end of the turn.
    pub(super) fn gather(&mut self, index: u32) {
        self.stripes[index as usize].set_state(StripeState::Gathering);
        self.gathering.push_back(index);
    }

    /// Buffers of `len` bytes for the slots of a set, and for records with so much payload, all or
    /// none.
    pub(super) fn get_bufs(
        &mut self,
        index: u32,
        wanted: SlotMask,
        len: usize,
        records: Packer,
    ) -> bool {
        let pool = self.pool;
        self.put_bufs(index);
        let stripe = &mut self.stripes[index as usize];
        stripe.has_bufs = true;
        let mut missing = false;
        for slot in super::slots(wanted) {
            let buf = pool.get(len);
            missing |= buf.is_none();
            stripe.bufs[usize::from(slot)] = buf;
        }
        for part in 0..records.parts() {
            match pool.get(records.bytes_of(part)) {
                Some(buf) => stripe.records.push(buf),
                None => missing = true,
            }
        }
        if !missing {
            return true;
        }
        self.put_bufs(index);
        if !self.fill_reserve() {
            return false;
        }
        // What the reserve has held can be had at once: nobody else runs on this core meanwhile.
        self.reserve.clear();
        if let Some(log) = &mut self.log {
            log.reserve.clear();
        }
        let stripe = &mut self.stripes[index as usize];
        stripe.has_bufs = true;
        for slot in super::slots(wanted) {
            let buf = pool.get(self.slice_size_bytes).expect("the reserve had as many");
            stripe.bufs[usize::from(slot)] = Some(buf.slice(0, len));
        }
        for part in 0..records.parts() {
            let buf = pool.get(records.slot_bytes()).expect("the reserve had as many");
            stripe.records.push(buf.slice(0, records.bytes_of(part)));
        }
        stripe.on_reserve = true;
        true
    }

    /// The stripe needs its buffers no more.
    pub(super) fn put_bufs(&mut self, index: u32) {
        let stripe = &mut self.stripes[index as usize];
        if !std::mem::take(&mut stripe.has_bufs) {
            return;
        }
        stripe.bufs.iter_mut().for_each(|buf| *buf = None);
        stripe.records.clear();
        if std::mem::take(&mut stripe.on_reserve) {
            self.fill_reserve();
        }
    }

    /// Requests to members of the set are under way.
    pub(super) fn asks(&self, members: SlotMask) -> bool {
        let by_note = self.log.as_ref().is_some_and(|log| log.note.asks(members));
        by_note
            || self.stripes.iter().any(|stripe| {
                let asked = match stripe.state {
                    StripeState::Reading => stripe.plan.reads,
                    StripeState::Logging => stripe.holders,
                    _ => stripe.sent,
                };
                stripe.pending > 0 && asked & members != 0
            })
    }

    /// Nothing is under work here.
    pub(super) fn is_idle(&self) -> bool {
        let is_writing = self.log.as_ref().is_some_and(|log| log.note.is_busy());
        self.free.len() == STRIPES_MAX && self.overflow.is_empty() && !is_writing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn columns_are_sets_of_runs(
            parts in proptest::collection::vec((0..COLUMNS_MAX, 1..COLUMNS_MAX), 0..5),
        ) {
            let (mut columns, mut model) = (Columns::default(), [false; COLUMNS_MAX]);
            for (first, count) in parts {
                let count = count.min(COLUMNS_MAX - first);
                columns.add(first, count);
                model[first..first + count].fill(true);
            }
            prop_assert_eq!(columns.count() as usize, model.iter().filter(|&&it| it).count());
            let (mut told, mut from) = ([false; COLUMNS_MAX], 0);
            while let Some((first, count)) = columns.run(from) {
                prop_assert!(first >= from && count > 0);
                prop_assert!(first + count == COLUMNS_MAX || !model[first + count]);
                told[first..first + count].fill(true);
                from = first + count;
            }
            prop_assert_eq!(told, model);
            columns.clear();
            prop_assert_eq!((columns.bits, columns.run(0)), ([0; COLUMNS_MAX / 64], None));
        }
    }
}

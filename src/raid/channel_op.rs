//! A host request inside a channel: its states, and what it has to remember.

use super::message::{BlockRange, SlotMask};
use super::{CHANNEL_OPS_MAX, MemberPlace, MemberSlot, Shared};
use crate::bdev::{BdevId, BdevIo, Completion, IoOp, IoStatus, Station, Tag};

/// Where a host request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpState {
    /// The slot is not in use.
    Free,
    /// The request is about to be looked at (again).
    Ready,
    /// The owner has been asked to open the request's chunks.
    GateWait,
    /// Resync holds a range that the request would change.
    LockWait,
    /// Requests to members are in flight.
    Members,
    /// All members have answered; some missed the write and that is not yet durable.
    RecordWait,
    /// The owner has been asked to make the request's whole chunks Unwritten.
    DiscardWait,
}

/// What is still to do of a request that discards whole chunks, in this order. The chunks that it
/// covers in part are zeroed by ordinary writes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Later {
    /// The part before the whole chunks.
    pub(super) head: Option<BlockRange>,
    /// The part behind them.
    pub(super) tail: Option<BlockRange>,
    /// First and last whole chunk.
    pub(super) chunks: Option<(u32, u32)>,
}

impl Later {
    /// Nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none() && self.tail.is_none() && self.chunks.is_none()
    }
}

impl OpState {
    /// Whether the machine may go from here to `next`.
    fn allows(self, next: Self) -> bool {
        use OpState::{DiscardWait, Free, GateWait, LockWait, Members, Ready, RecordWait};
        matches!(
            (self, next),
            (Free | GateWait | LockWait, Ready)
                | (Ready, GateWait | LockWait | DiscardWait | Members | Free)
                | (GateWait | DiscardWait, Free)
                // A part of a discard is done, the next one follows.
                | (Members | RecordWait, Ready)
                // A read that failed on one member goes to the next.
                | (Members, Members | RecordWait | Free)
                | (RecordWait, Free)
        )
    }
}

/// One host request.
#[derive(Debug)]
pub(super) struct Op {
    state: OpState,
    /// The request as the host gave it; `None` when free.
    pub(super) io: Option<BdevIo>,
    /// The blocks that members are asked for now: all of the request, or a part of a discard.
    pub(super) range: BlockRange,
    /// The part of the sync space that they concern.
    pub(super) sync: BlockRange,
    /// Members that hold the range.
    pub(super) legs: SlotMask,
    /// What is to follow.
    pub(super) later: Later,
    /// Members whose answer is outstanding.
    pub(super) pending: SlotMask,
    /// Members that have done it.
    pub(super) ok: SlotMask,
    /// Members a read has been tried on.
    pub(super) tried: SlotMask,
    /// Members that joined while it was under way: it was not sent to them.
    pub(super) excused: SlotMask,
    /// Members about whose lists of bad blocks the owner has been asked.
    pub(super) noting: SlotMask,
    /// First failure, for the host if nothing better comes.
    pub(super) failure: IoStatus,
    /// Bit i: chunk i of a read was Unwritten when it was sent, so its part reads as zeroes.
    pub(super) zero_chunks: u64,
    /// Bit i: window i waits for this write to end.
    pub(super) holds_up: u32,
    /// Which quiesce round's count holds this write; meaningful while it is counted.
    pub(super) parity: u8,
    /// The next operation in a list of a stripe.
    pub(super) next: u32,
    /// The driver's time when it began, or [`super::latency::UNTIMED`].
    pub(super) began_ns: u64,
}

impl Op {
    /// A slot not in use.
    pub(super) fn free() -> Self {
        Self {
            state: OpState::Free,
            io: None,
            began_ns: 0,
            range: BlockRange { lba: 0, blocks: 0 },
            sync: BlockRange { lba: 0, blocks: 0 },
            legs: 0,
            later: Later::default(),
            pending: 0,
            ok: 0,
            tried: 0,
            excused: 0,
            noting: 0,
            failure: IoStatus::Ok,
            zero_chunks: 0,
            holds_up: 0,
            parity: 0,
            next: 0,
        }
    }

    /// Takes a request into a free slot.
    pub(super) fn accept(&mut self, io: BdevIo, shared: &Shared) {
        assert!(self.io.is_none(), "the slot is in use");
        self.set_state(OpState::Ready);
        self.set_range(BlockRange { lba: io.lba, blocks: io.blocks.into() }, shared);
        self.later = Later::default();
        self.io = Some(io);
        self.forget_answers();
        self.zero_chunks = 0;
        assert_eq!((self.pending, self.holds_up), (0, 0));
    }

    /// Members are asked for these blocks now.
    pub(super) fn set_range(&mut self, range: BlockRange, shared: &Shared) {
        self.range = range;
        self.sync = shared.sync_range(range);
    }

    /// No member has answered yet.
    pub(super) fn forget_answers(&mut self) {
        self.ok = 0;
        self.tried = 0;
        self.noting = 0;
        self.failure = IoStatus::Ok;
    }

    /// Where the request stands.
    pub(super) fn state(&self) -> OpState {
        self.state
    }

    /// The only place that changes the state.
    pub(super) fn set_state(&mut self, next: OpState) {
        assert!(self.state.allows(next), "a request went from {:?} to {next:?}", self.state);
        self.state = next;
    }

    /// The request.
    pub(super) fn io(&self) -> &BdevIo {
        self.io.as_ref().expect("the slot is in use")
    }

    /// The request to one member, which has it at `member_lba` of its data. `who`: the operation,
    /// and the member's slot.
    #[inline]
    pub(super) fn for_member(
        &self,
        who: (u32, MemberSlot),
        place: &MemberPlace,
        member_lba: u64,
        array: BdevId,
    ) -> BdevIo {
        let io = self.io();
        let (op, lba) = match io.op {
            IoOp::Flush => (IoOp::Flush, 0),
            IoOp::Unmap if !place.unmap => (IoOp::WriteZeroes, place.data_lba + member_lba),
            op => (op, place.data_lba + member_lba),
        };
        let (station, object) = (Station::RaidChannel, array.0);
        BdevIo {
            op,
            fua: io.fua,
            lba,
            blocks: u32::try_from(self.range.blocks).expect("a part of a u32"),
            buf: io.buf.clone(),
            completion: Completion::new(Tag { station, part: who.1, object, op: who.0 }),
        }
    }

    /// Notes a member's answer.
    pub(super) fn answer(&mut self, bit: SlotMask, status: IoStatus) {
        assert!(self.pending & bit != 0, "a member answered twice");
        self.pending &= !bit;
        if status.is_ok() {
            self.ok |= bit;
        } else if self.failure.is_ok() {
            self.failure = status;
        }
    }
}

const WORD_BITS: usize = u64::BITS as usize;
const WORDS: usize = CHANNEL_OPS_MAX / WORD_BITS;

const _: () = assert!(WORDS * WORD_BITS == CHANNEL_OPS_MAX);

/// Some of a channel's operations, a bit each: a few instructions to come and to go, and who looks
/// for its members meets no others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OpSet([u64; WORDS]);

impl OpSet {
    /// Takes up `op`, which is not in it.
    #[inline]
    pub(super) fn insert(&mut self, op: u32) {
        let (word, bit) = Self::place(op);
        debug_assert!(self.0[word] & bit == 0, "an operation is in a set once");
        self.0[word] |= bit;
    }

    /// Lets go of `op`; whether it was there.
    #[inline]
    pub(super) fn remove(&mut self, op: u32) -> bool {
        let (word, bit) = Self::place(op);
        let was_there = self.0[word] & bit != 0;
        self.0[word] &= !bit;
        was_there
    }

    fn place(op: u32) -> (usize, u64) {
        let op = op as usize;
        (op / WORD_BITS % WORDS, 1 << (op % WORD_BITS))
    }

    /// Its members, ascending.
    pub(super) fn iter(self) -> impl Iterator<Item = u32> {
        (0u32..).step_by(WORD_BITS).zip(self.0).flat_map(|(first, word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(first + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_came_and_did_not_go() {
        let mut set = OpSet::default();
        let last = u32::try_from(CHANNEL_OPS_MAX - 1).unwrap();
        for op in [last, 64, 0, 63, 7] {
            set.insert(op);
        }
        assert!(set.remove(7) && !set.remove(7) && !set.remove(8));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, last]);
    }
}

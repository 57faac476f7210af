//! The owner's discards: whole chunks become Unwritten, some at a time.
//!
//! One discard is worked on at a time, in pieces of bounded length. For each piece:
//!
//! 1. *Hold.* Every channel holds back writes to the piece and says when those in flight have
//!    ended; the owner itself holds back writers' questions about these chunks, starts no resync
//!    or repair there, and waits until zero jobs and windows that work there have ended. So no
//!    request of anybody changes these chunks while they turn Unwritten: a write in flight in a
//!    chunk that becomes Unwritten would be lost to reads and rebuilds.
//! 2. *Record.* The chunks turn Unwritten in memory, from where on they read as zeroes on every
//!    core, and their units are written. When all units are durable, and no member's absence is
//!    still unrecorded, no crash can bring the old states back: a member that missed a unit would
//!    otherwise return after a power cut and its Clean byte would outvote the Unwritten one.
//! 3. *Free.* Only now members are asked to free the space, as well as they can. Before, a crash
//!    could find the old state over data half freed, on one member and not the other. What they
//!    hold afterwards does not matter: reads of Unwritten ask no member, and the first write
//!    zeroes the chunk durably.
//! 4. *Release.* Held writers go on and find the chunks Unwritten. They waited for the freeing
//!    too, because it would destroy what they write.
//!
//! A discard is answered after its last release, so every discard that was acknowledged is
//! durable, with FUA or not. A power cut before leaves each chunk as it was or Unwritten. An
//! absent member learns nothing now: when it comes back it is given all that is not Unwritten.

use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};

use super::channel::DISCARD_WINDOW;
use super::message::{BlockRange, Discard, Mail, Out, ToChannel};
use super::owner::{MemberRequest, Owner, OwnerOp};
use super::{CHANNEL_OPS_MAX, MemberSlot, bit, slots};
use crate::bdev::{IoOp, IoStatus};
use crate::bitmap::Action;

/// Chunks looked at in one poll, and chunks of a piece at most.
const CHUNKS_PER_POLL: usize = 4096;

/// Bytes of a piece at most, but at least one chunk: writers wait while members free it.
const PIECE_SIZE_BYTES_MAX: u64 = 256 << 20;

/// Requests to free space under way at a time: a piece in small strips takes many.
const FREE_REQUESTS_MAX: u32 = 64;

const _: () = assert!(FREE_REQUESTS_MAX as usize >= crate::limits::MEMBERS_MAX);

/// Where the work on a piece stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DiscardState {
    /// Nothing is held. If there are discards, the next piece is searched.
    Idle,
    /// Channels are asked to hold back writes.
    Locking { cores_left: u16 },
    /// Waits for zero jobs and resync windows in the piece.
    Draining,
    /// Chunks are Unwritten in memory; those before this one durably.
    Recording { next: usize },
    /// Members free the space: all before this block has been asked for.
    Freeing { next: u64, pending: u32 },
}

impl DiscardState {
    fn allows(self, next: Self) -> bool {
        use DiscardState::{Draining, Freeing, Idle, Locking, Recording};
        matches!(
            (self, next),
            (Idle, Locking { .. })
                | (Locking { .. }, Locking { .. } | Draining)
                | (Draining, Recording { .. } | Idle)
                | (Recording { .. }, Recording { .. } | Freeing { .. } | Idle)
                | (Freeing { .. }, Freeing { .. } | Idle)
        )
    }
}

/// The discards' part of the owner.
#[derive(Debug)]
pub(super) struct Discarder {
    state: DiscardState,
    jobs: VecDeque<(u16, Discard)>,
    /// Next chunk of the first job to look at.
    next: usize,
    /// The chunks that are held.
    piece: Option<RangeInclusive<usize>>,
}

impl Discarder {
    pub(super) fn new(cores: u16) -> Self {
        Self {
            state: DiscardState::Idle,
            jobs: VecDeque::with_capacity(usize::from(cores) * CHANNEL_OPS_MAX),
            next: 0,
            piece: None,
        }
    }

    /// Nothing is to do and nothing is held.
    pub(super) fn is_idle(&self) -> bool {
        self.state == DiscardState::Idle && self.jobs.is_empty()
    }

    /// A poll will find work without another event.
    pub(super) fn is_searching(&self) -> bool {
        self.state == DiscardState::Idle && !self.jobs.is_empty()
    }

    /// Members are freeing space for it.
    pub(super) fn is_freeing(&self) -> bool {
        matches!(self.state, DiscardState::Freeing { .. })
    }

    /// Whether the chunk is held: nobody else may change it or its bytes.
    pub(super) fn holds(&self, chunk: usize) -> bool {
        self.piece.as_ref().is_some_and(|piece| piece.contains(&chunk))
    }

    /// The first of the chunks that is held.
    pub(super) fn first_held(&self, chunks: &Range<usize>) -> Option<usize> {
        let piece = self.piece.as_ref()?;
        let first = chunks.start.max(*piece.start());
        (first < chunks.end && piece.contains(&first)).then_some(first)
    }

    fn held(&self) -> RangeInclusive<usize> {
        self.piece.clone().expect("a piece is held")
    }

    fn set_state(&mut self, next: DiscardState) {
        assert!(self.state.allows(next), "discards went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

impl Owner {
    /// A channel asks for whole chunks to become Unwritten.
    pub(super) fn discard(&mut self, core: u16, discard: Discard) {
        assert!(self.bitmap.is_some(), "without a bitmap a discard is a write of zeroes");
        if self.discarder.jobs.is_empty() {
            self.discarder.next = discard.first as usize;
        }
        self.discarder.jobs.push_back((core, discard));
    }

    /// Moves the piece at hand as far as it can go, or looks for the next. Bounded work.
    pub(super) fn poll_discard(&mut self, out: &mut Out<'_>) {
        match self.discarder.state {
            DiscardState::Idle if self.failed => self.refuse_discards(out),
            DiscardState::Idle => self.search_piece(out),
            DiscardState::Draining => self.empty_chunks(out),
            DiscardState::Recording { next } => self.record_piece(next, out),
            DiscardState::Locking { .. } | DiscardState::Freeing { .. } => {}
        }
    }

    fn refuse_discards(&mut self, out: &mut Out<'_>) {
        while let Some((core, discard)) = self.discarder.jobs.pop_front() {
            let refusal = ToChannel::Discarded(discard.op, IoStatus::MediaError);
            out.mail.push_back(Mail::Channel(core, refusal));
        }
    }

    /// Finds the next chunk of the first discard that is not Unwritten already, and holds it and
    /// those behind it. A chunk that is Unwritten may be in the hands of a zero job: its writer
    /// has not been answered, so the discard counts as the earlier of the two.
    fn search_piece(&mut self, out: &mut Out<'_>) {
        let Some(&(core, discard)) = self.discarder.jobs.front() else { return };
        let map = self.shared.map.as_ref().expect("a bitmap has a map");
        let from = self.discarder.next;
        let end = (discard.last as usize + 1).min(from + CHUNKS_PER_POLL);
        if let Some(first) = (from..end).find(|&chunk| !map.is_unwritten_for_good(chunk)) {
            let chunk_size_bytes =
                u64::from(self.shared.block_size_bytes) << self.shared.chunk_shift;
            let chunks = usize::try_from(PIECE_SIZE_BYTES_MAX / chunk_size_bytes)
                .expect("few chunks")
                .clamp(1, CHUNKS_PER_POLL);
            return self.hold_piece(first..=(discard.last as usize).min(first + chunks - 1), out);
        }
        self.discarder.next = end;
        if end <= discard.last as usize {
            return;
        }
        self.discarder.jobs.pop_front();
        if let Some((_, next)) = self.discarder.jobs.front() {
            self.discarder.next = next.first as usize;
        }
        let done = ToChannel::Discarded(discard.op, IoStatus::Ok);
        out.mail.push_back(Mail::Channel(core, done));
    }

    fn hold_piece(&mut self, piece: RangeInclusive<usize>, out: &mut Out<'_>) {
        let range = self.shared.blocks_of_chunks(&piece);
        self.discarder.piece = Some(piece);
        self.discarder.set_state(DiscardState::Locking { cores_left: self.cores });
        let nothing = BlockRange { lba: self.shared.sync_blocks, blocks: 0 };
        let range = if mutant!(DiscardIgnoresWriters) { nothing } else { range };
        out.mail.push_back(Mail::Channels(ToChannel::Lock(DISCARD_WINDOW, range)));
    }

    /// A channel holds back writes to the piece.
    pub(super) fn piece_locked(&mut self) {
        let DiscardState::Locking { cores_left } = self.discarder.state else {
            panic!("a channel locked a piece that nobody asked for");
        };
        self.discarder.set_state(match cores_left {
            1 => DiscardState::Draining,
            more => DiscardState::Locking { cores_left: more - 1 },
        });
    }

    /// Turns the piece Unwritten in memory when nobody else works in it any more.
    fn empty_chunks(&mut self, out: &mut Out<'_>) {
        let piece = self.discarder.held();
        let range = self.shared.blocks_of_chunks(&piece);
        if self.failed {
            return self.release_piece(out);
        }
        let bitmap = self.bitmap.as_mut().expect("discards need a bitmap");
        let is_zeroing = bitmap.is_zeroing(&piece) && !mutant!(DiscardIgnoresZeroing);
        let is_copying = self.walker.works_in(&range) && !mutant!(DiscardIgnoresResync);
        if is_zeroing || is_copying {
            return;
        }
        let map = self.shared.map.as_ref().expect("a bitmap has a map");
        for chunk in piece.clone() {
            let state = map.state(chunk);
            let next = state.after(Action::Discard);
            if next != state {
                map.change(chunk, next);
                bitmap.mark_now(chunk);
            }
        }
        self.discarder.set_state(DiscardState::Recording { next: *piece.start() });
        self.poll_bitmap(out);
    }

    /// Goes on to free the space once the chunks are Unwritten whatever happens.
    fn record_piece(&mut self, next: usize, out: &mut Out<'_>) {
        let piece = self.discarder.held();
        if self.failed {
            return self.release_piece(out);
        }
        let map = self.shared.map.as_ref().expect("a bitmap has a map");
        let open = (next..=*piece.end()).find(|&chunk| !map.is_durable(chunk));
        let next = open.unwrap_or(*piece.end() + 1);
        self.discarder.set_state(DiscardState::Recording { next });
        let is_durable = next > *piece.end() || mutant!(FreeBeforeDurable);
        if is_durable && (self.absences_are_recorded() || mutant!(FreeBeforeAbsenceRecorded)) {
            let first = self.shared.blocks_of_chunk(*piece.start()).lba;
            self.free_piece(first, 0, out);
        }
    }

    /// Asks members to free as much of the piece as may be under way. What a member can't free
    /// stays allocated, and nothing depends on it.
    fn free_piece(&mut self, mut next: u64, mut pending: u32, out: &mut Out<'_>) {
        let range = self.shared.blocks_of_chunks(&self.discarder.held());
        let end = range.lba + range.blocks;
        let frees = |slot: &MemberSlot| self.place(*slot).unmap;
        let members = slots(self.writable).filter(frees).fold(0, |mask, slot| mask | bit(slot));
        while next < end && pending + members.count_ones() <= FREE_REQUESTS_MAX {
            let run = self.shared.sync_run(next);
            let blocks = run.blocks.min(end - next);
            for slot in slots(self.with_twin(run.legs) & members) {
                let request = MemberRequest {
                    op: IoOp::Unmap,
                    lba: self.place(slot).data_lba
                        + self.shared.sync_leg_lba(next, self.origin(slot)),
                    blocks: u32::try_from(blocks).expect("a piece's blocks fit u32"),
                    buf: None,
                };
                self.send(slot, OwnerOp::Free, request, out);
                pending += 1;
            }
            next += blocks;
        }
        self.discarder.set_state(DiscardState::Freeing { next, pending });
        if pending == 0 {
            self.release_piece(out);
        }
    }

    /// A member has freed a part of the piece, or could not.
    pub(super) fn free_answered(&mut self, out: &mut Out<'_>) {
        let DiscardState::Freeing { next, pending } = self.discarder.state else {
            panic!("a member freed what nobody asked for");
        };
        self.free_piece(next, pending - 1, out);
    }

    fn release_piece(&mut self, out: &mut Out<'_>) {
        let piece = self.discarder.piece.take().expect("a piece is held");
        self.discarder.next = *piece.end() + 1;
        self.discarder.set_state(DiscardState::Idle);
        self.rebuilder.unblock();
        out.mail.push_back(Mail::Channels(ToChannel::Unlock(DISCARD_WINDOW)));
        self.advance_held(out);
    }
}

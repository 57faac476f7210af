//! Resync: copies chunks in doubt from one member to the others, and rewrites what a member
//! failed to read.
//!
//! Each window holds a range: every channel has promised that no write to it is in flight and
//! none will start. So the copy can't mix with a host write, and writes elsewhere go on.

mod piece;

use std::ops::RangeInclusive;

use std::collections::VecDeque;

use super::channel::WINDOWS;
use super::message::{ArrayEvent, BlockRange, Mail, Out, SlotMask, ToChannel};
use super::owner::{Life, Owner};
use super::owner_rebuild::Wanted;
use super::{MemberSlot, bit};
use crate::bitmap::{Action, ChunkState};
use crate::reactor::buf::IoBuf;

/// Longest range held at a time, so that a write waits for some copies and not for a chunk of
/// any size.
const LOCK_SIZE_BYTES_MAX: u64 = 1 << 20;

/// Chunks looked at in one poll while searching.
const CHUNKS_PER_POLL: usize = 4096;

/// Failed reads that may wait for repair; further ones are only counted.
const REPAIRS_MAX: usize = 64;

/// Chunks of a run at most: as many as a word has bits.
const RUN_CHUNKS_MAX: usize = 64;

/// Adjacent chunks that are copied in one go: first and last. More than one only if they are held
/// in one lock.
pub(super) type Run = (usize, usize);

/// What a window is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// Copy chunks to all members; `by_rebuild`: because a rebuild came by.
    Resync { chunks: Run, by_rebuild: bool },
    /// Copy chunks on which the members in sync agree to the one that is being rebuilt.
    Rebuild { chunks: Run },
    /// Compare chunks on all members in sync.
    Scrub { chunks: Run },
    /// Rewrite a range on the member that failed to read it.
    Repair { slot: MemberSlot },
}

/// Where a window stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowState {
    /// Not in use.
    Free,
    /// Channels are asked to hold back writes to the range.
    Locking { cores_left: u16 },
    /// The range is held; no buffer is free.
    NeedBuffer,
    /// The source member is reading a piece.
    Reading { source: MemberSlot },
    /// The piece is being written.
    Writing { pending: SlotMask, failed: SlotMask },
}

impl WindowState {
    fn allows(self, next: Self) -> bool {
        use WindowState::{Free, Locking, NeedBuffer, Reading, Writing};
        matches!(
            (self, next),
            (Free | Locking { .. }, Locking { .. })
                | (Locking { .. } | Reading { .. } | Writing { .. }, NeedBuffer)
                | (NeedBuffer, Reading { .. } | Writing { .. } | Free | Locking { .. })
                | (Reading { .. }, Writing { .. } | Reading { .. } | Free)
                | (Writing { .. }, Writing { .. } | Free | Locking { .. })
        )
    }
}

#[derive(Debug)]
struct Window {
    state: WindowState,
    job: Job,
    /// The part held now.
    locked: BlockRange,
    /// Next block to copy.
    next: u64,
    /// First block behind the job's range.
    end: u64,
    /// Members that failed to read the current piece.
    tried: SlotMask,
    /// A piece in several chunks could be read from nobody: the pieces end with their chunk now.
    narrow: bool,
    /// Bit i: chunk i of the run could be read from nobody.
    bad: u64,
    /// A check has found a difference before this block: it looks closer.
    close_until: u64,
    /// Members that differ from the piece that was read.
    differ: SlotMask,
    /// Block behind the piece at most: there a list of bad blocks begins or ends.
    edge: u64,
    /// Members that were written last.
    written: SlotMask,
    /// Members whose lists of bad blocks are to change before it goes on, and those that could not
    /// be written, or which can't be given what nobody has.
    noting: SlotMask,
    refused: SlotMask,
    /// Nobody has the piece: it is being listed.
    is_listing: bool,
    /// They are being given it.
    repairing: bool,
    /// A member compares what it was given for a read that failed.
    rereading: bool,
    buf: Option<IoBuf>,
}

impl Window {
    fn set_state(&mut self, next: WindowState) {
        assert!(self.state.allows(next), "a window went from {:?} to {next:?}", self.state);
        self.state = next;
    }

    fn is_free(&self) -> bool {
        self.state == WindowState::Free
    }
}

/// The resync's part of the owner.
#[derive(Debug)]
pub(super) struct Walker {
    windows: [Window; WINDOWS],
    repairs: VecDeque<(MemberSlot, BlockRange)>,
    /// Next chunk to look at; `None` when there is nothing to look for.
    cursor: Option<usize>,
    /// Look from the start again when this search is over.
    again: bool,
    /// A resync has been announced.
    active: bool,
    total: u64,
    done: u64,
    unreadable: u64,
}

impl Default for Walker {
    fn default() -> Self {
        let window = || Window {
            state: WindowState::Free,
            job: Job::Resync { chunks: (0, 0), by_rebuild: false },
            locked: BlockRange { lba: 0, blocks: 0 },
            next: 0,
            end: 0,
            tried: 0,
            narrow: false,
            bad: 0,
            close_until: 0,
            differ: 0,
            edge: u64::MAX,
            written: 0,
            noting: 0,
            refused: 0,
            is_listing: false,
            repairing: false,
            rereading: false,
            buf: None,
        };
        Self {
            windows: std::array::from_fn(|_| window()),
            repairs: VecDeque::with_capacity(REPAIRS_MAX),
            cursor: None,
            again: false,
            active: false,
            total: 0,
            done: 0,
            unreadable: 0,
        }
    }
}

impl Walker {
    /// Chunks may have become NeedSync: search the whole map (again).
    pub(super) fn look_again(&mut self) {
        match self.cursor {
            None => self.cursor = Some(0),
            Some(_) => self.again = true,
        }
    }

    /// A member failed a read of this range and another one served it.
    pub(super) fn want_repair(&mut self, slot: MemberSlot, range: BlockRange) {
        if self.repairs.len() < REPAIRS_MAX && !self.repairs.contains(&(slot, range)) {
            self.repairs.push_back((slot, range));
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.windows.iter().all(Window::is_free)
    }

    /// Windows that are not free.
    pub(super) fn busy(&self) -> usize {
        self.windows.iter().filter(|window| !window.is_free()).count()
    }

    /// A window is free.
    pub(super) fn has_room(&self) -> bool {
        self.windows.iter().any(Window::is_free)
    }

    /// The chunks that a window copies.
    pub(super) fn chunks_of(&self, index: usize) -> Option<RangeInclusive<usize>> {
        match self.windows[index].job {
            Job::Resync { chunks, .. } | Job::Rebuild { chunks } => Some(chunks.0..=chunks.1),
            Job::Repair { .. } | Job::Scrub { .. } => None,
        }
    }

    /// First chunk that a window is copying.
    pub(super) fn first_chunk(&self) -> Option<usize> {
        let busy = self.windows.iter().filter(|window| !window.is_free());
        let chunks = busy.filter_map(|window| match window.job {
            Job::Resync { chunks, .. } | Job::Rebuild { chunks } => Some(chunks.0),
            Job::Repair { .. } | Job::Scrub { .. } => None,
        });
        chunks.min()
    }

    /// A window compares.
    pub(super) fn is_scrubbing(&self) -> bool {
        let mut busy = self.windows.iter().filter(|window| !window.is_free());
        busy.any(|window| matches!(window.job, Job::Scrub { .. }))
    }

    pub(super) fn has_requests_at(&self, slot: MemberSlot) -> bool {
        self.windows.iter().any(|window| match window.state {
            WindowState::Reading { source } => source == slot,
            WindowState::Writing { pending, .. } => pending & bit(slot) != 0,
            _ => false,
        })
    }

    /// A window works in the range.
    pub(super) fn works_in(&self, range: &BlockRange) -> bool {
        self.windows.iter().filter(|window| !window.is_free()).any(|window| {
            let first = window.locked.lba;
            range.overlaps(&BlockRange { lba: first, blocks: window.end - first })
        })
    }

    /// Of a window: its job, the next block, how many are held from there on, who can't read them.
    pub(super) fn piece_of(&self, index: usize, chunk_shift: u32) -> (Job, u64, u64, SlotMask) {
        let window = &self.windows[index];
        let left = window.locked.lba + window.locked.blocks - window.next;
        let in_chunk = (1 << chunk_shift) - window.next % (1 << chunk_shift);
        let left = if window.narrow { left.min(in_chunk) } else { left };
        (window.job, window.next, left, window.tried)
    }

    /// The window's piece is being read or written.
    pub(super) fn window_begins(&mut self, index: usize, state: WindowState) {
        self.windows[index].set_state(state);
    }

    pub(super) fn is_reading(&self, index: usize) -> bool {
        matches!(self.windows[index].state, WindowState::Reading { .. })
    }

    /// These can't be read, and are to be given the piece.
    pub(super) fn lack(&mut self, index: usize, members: SlotMask) {
        self.windows[index].tried |= members;
    }

    /// Another device may come into the slot: what was written to this one says nothing of it.
    pub(super) fn forget(&mut self, slot: MemberSlot) {
        self.windows.iter_mut().for_each(|window| window.written &= !bit(slot));
    }

    /// The window's piece is to be read again, without these.
    pub(super) fn exclude(&mut self, index: usize, failed: SlotMask) {
        self.windows[index].tried |= failed;
        self.windows[index].set_state(WindowState::NeedBuffer);
    }

    /// A piece was written to the member that had failed to read it: it is to compare.
    pub(super) fn rereads(&mut self, index: usize, failed: SlotMask) -> Option<MemberSlot> {
        let window = &mut self.windows[index];
        let Job::Repair { slot } = window.job else { return None };
        if failed != 0 || mutant!(RepairNotReread) {
            return None;
        }
        window.rereading = !window.rereading;
        window.rereading.then_some(slot)
    }

    /// Who has compared a repaired piece, and holds something else.
    pub(super) fn not_kept(&mut self, index: usize) -> SlotMask {
        let window = &mut self.windows[index];
        match window.job {
            Job::Repair { .. } => {
                window.rereading = false;
                std::mem::take(&mut window.differ)
            }
            _ => 0,
        }
    }

    /// The next repair that crosses no window: a repair from one member and a resync from
    /// another that work on the same blocks would exchange what the two hold.
    fn next_repair(&mut self) -> Option<(MemberSlot, BlockRange)> {
        let crosses_none = |(_, range): &(MemberSlot, BlockRange)| !self.works_in(range);
        let at = self.repairs.iter().position(crosses_none)?;
        self.repairs.remove(at)
    }

    /// A poll will find work without another event.
    pub(super) fn is_searching(&self) -> bool {
        self.cursor.is_some() && self.has_room()
    }

    pub(super) fn wants_buffer(&self) -> bool {
        self.windows.iter().any(|window| window.state == WindowState::NeedBuffer)
    }

    /// Chunks done and chunks in all, while a resync runs.
    pub(super) fn progress(&self) -> Option<(u64, u64)> {
        self.active.then_some((self.done, self.total.max(self.done)))
    }
}

impl Owner {
    /// Starts windows and moves those that wait for a buffer.
    pub(super) fn poll_resync(&mut self, out: &mut Out<'_>) {
        for index in 0..WINDOWS {
            if self.walker.windows[index].state == WindowState::NeedBuffer {
                self.read_piece(index, out);
            }
        }
        if self.life() != Life::Running || self.failed || !self.can_walk() {
            return self.end_resync(out);
        }
        if self.is_pausing() {
            return;
        }
        while let Some(index) = self.walker.windows.iter().position(Window::is_free) {
            if let Some((slot, range)) = self.walker.next_repair() {
                if let Some(range) = self.repairable(&range) {
                    self.begin_window(index, Job::Repair { slot }, range, out);
                }
            } else if !self.may_copy() {
                if self.walker.cursor.is_some()
                    || self.is_searching_rebuild()
                    || self.is_searching_scrub()
                {
                    self.await_tick(out);
                }
                break;
            } else if let Some(chunks) = self.find_chunks() {
                self.begin_chunks(index, chunks, false, out);
            } else if let Some((chunks, wanted)) = self.find_rebuild() {
                match wanted {
                    Wanted::Resync => self.begin_chunks(index, chunks, true, out),
                    _ => {
                        let range = self.shared.blocks_of_chunks(&(chunks.0..=chunks.1));
                        self.begin_window(index, Job::Rebuild { chunks }, range, out);
                    }
                }
            } else if let Some(chunks) = self.find_scrub() {
                let range = self.shared.blocks_of_chunks(&(chunks.0..=chunks.1));
                self.begin_window(index, Job::Scrub { chunks }, range, out);
            } else {
                break;
            }
        }
        if self.yielder.is_on() && !self.walker.is_idle() {
            self.await_tick(out);
        }
        if self.walker.cursor.is_none() && self.walker.is_idle() {
            self.end_resync(out);
        }
    }

    /// Chunks of a run at most.
    pub(super) fn run_chunks_max(&self) -> usize {
        let block = u64::from(self.shared.block_size_bytes);
        let chunks = LOCK_SIZE_BYTES_MAX / (block << self.shared.chunk_shift);
        usize::try_from(chunks).expect("few chunks").clamp(1, RUN_CHUNKS_MAX)
    }

    /// The next chunks to copy, looking at a bounded number of chunks.
    fn find_chunks(&mut self) -> Option<Run> {
        let from = self.walker.cursor?;
        if !self.can_resync() {
            self.walker.cursor = None;
            return None;
        }
        let Some(map) = self.shared.map.as_ref() else {
            // No chunk is ever in doubt, and an array that searched on would keep its core awake.
            self.walker.cursor = None;
            return None;
        };
        // The rest is the rebuild's, which comes by there.
        let last = self.rebuild_covers_from().map_or(map.len(), |from| from.min(map.len()));
        let end = last.min(from + CHUNKS_PER_POLL).max(from);
        // What is held for a discard will be Unwritten before anybody looks again.
        // A window that works there may copy the other way: its end comes first.
        let mut again = false;
        let mut is_fit = |chunk: &usize| {
            if map.state(*chunk) != ChunkState::NeedSync || self.discarder.holds(*chunk) {
                return false;
            }
            let busy = self.walker.works_in(&self.shared.blocks_of_chunk(*chunk));
            again |= busy;
            !busy
        };
        let found = (from..end).find(&mut is_fit).map(|first| {
            let more = first + 1..end.min(first + self.run_chunks_max());
            (first, more.take_while(&mut is_fit).last().unwrap_or(first))
        });
        self.walker.again |= again;
        let next = found.map_or(end, |(_, last)| last + 1);
        self.walker.cursor = (next < last).then_some(next);
        if self.walker.cursor.is_none() && std::mem::take(&mut self.walker.again) {
            self.walker.cursor = Some(0);
        }
        found
    }

    /// The first run of blocks in `range` that is worth a repair: what is Unwritten is read from
    /// no member, and a repair there would cross the zeroing before its first write.
    fn repairable(&self, range: &BlockRange) -> Option<BlockRange> {
        let Some(map) = &self.shared.map else { return Some(*range) };
        let is_fit = |chunk: &usize| {
            map.state(*chunk) != ChunkState::Unwritten && !self.discarder.holds(*chunk)
        };
        let mut chunks = self.shared.chunks(range.lba, range.blocks);
        let first = chunks.find(is_fit)?;
        let last = chunks.take_while(is_fit).last().unwrap_or(first);
        let run = self.shared.blocks_of_chunks(&(first..=last));
        let lba = run.lba.max(range.lba);
        let end = (run.lba + run.blocks).min(range.lba + range.blocks);
        Some(BlockRange { lba, blocks: end - lba })
    }

    fn begin_chunks(&mut self, index: usize, chunks: Run, by_rebuild: bool, out: &mut Out<'_>) {
        let map = self.shared.map.as_ref().expect("a chunk of the map");
        if !by_rebuild && !std::mem::replace(&mut self.walker.active, true) {
            let chunks = map.histogram()[ChunkState::NeedSync as usize];
            (self.walker.total, self.walker.done, self.walker.unreadable) = (chunks, 0, 0);
            out.mail.push_back(Mail::Event(ArrayEvent::ResyncStarted { chunks }));
        }
        for chunk in chunks.0..=chunks.1 {
            map.change_quietly(chunk, ChunkState::NeedSync.after(Action::Startsync));
            self.shared.doubt.begin(chunk);
        }
        let range = self.shared.blocks_of_chunks(&(chunks.0..=chunks.1));
        self.begin_window(index, Job::Resync { chunks, by_rebuild }, range, out);
    }

    fn begin_window(&mut self, index: usize, job: Job, range: BlockRange, out: &mut Out<'_>) {
        let window = &mut self.walker.windows[index];
        window.job = job;
        window.next = range.lba;
        window.end = range.lba + range.blocks;
        window.narrow = false;
        window.bad = 0;
        window.close_until = 0;
        self.lock_next(index, out);
    }

    /// Asks the channels for the next part of the job's range.
    fn lock_next(&mut self, index: usize, out: &mut Out<'_>) {
        let blocks_max = LOCK_SIZE_BYTES_MAX / u64::from(self.shared.block_size_bytes);
        let window = &mut self.walker.windows[index];
        let blocks = (window.end - window.next).min(blocks_max);
        window.locked = BlockRange { lba: window.next, blocks };
        window.set_state(WindowState::Locking { cores_left: self.cores });
        // Paid for when it is taken, not while host writes wait for its end.
        self.pacer.spend(blocks * u64::from(self.shared.block_size_bytes));
        self.yielder.begins();
        let window_number = u8::try_from(index).expect("few windows");
        out.mail.push_back(Mail::Channels(ToChannel::Lock(window_number, window.locked)));
    }

    /// A channel holds back writes to the window's range.
    pub(super) fn window_locked(&mut self, index: u8) {
        let window = &mut self.walker.windows[usize::from(index)];
        let WindowState::Locking { cores_left } = window.state else {
            panic!("a channel locked a window that nobody asked for");
        };
        window.tried = 0;
        window.set_state(match cores_left {
            1 => WindowState::NeedBuffer,
            more => WindowState::Locking { cores_left: more - 1 },
        });
    }

    /// The window's job is over, completed or not; the range is free again.
    pub(super) fn end_window(&mut self, index: usize, completed: bool, out: &mut Out<'_>) {
        self.rebuilder.unblock();
        let window = &mut self.walker.windows[index];
        window.set_state(WindowState::Free);
        window.buf = None;
        let (job, range) = (window.job, window.locked);
        match job {
            Job::Resync { chunks, .. } | Job::Rebuild { chunks } => self.end_run(index, chunks),
            // It is not mended where the member could not write it, and lists it.
            Job::Repair { slot }
                if completed && self.bad.at(&self.shared, &range, bit(slot)) == 0 =>
            {
                self.read_corrected(slot, range, out);
            }
            Job::Scrub { .. } if completed && self.walker.windows[index].bad == 0 => {}
            Job::Scrub { .. } => self.scrubber.note_failure(),
            Job::Repair { .. } => {}
        }
        let window_number = u8::try_from(index).expect("few windows");
        out.mail.push_back(Mail::Channels(ToChannel::Unlock(window_number)));
    }

    /// A window has copied chunks, or some of them.
    fn end_run(&mut self, index: usize, chunks: Run) {
        let Window { job, next, bad, .. } = self.walker.windows[index];
        for chunk in chunks.0..=chunks.1 {
            let range = self.shared.blocks_of_chunk(chunk);
            let is_copied = range.lba + range.blocks <= next && bad & 1 << (chunk - chunks.0) == 0
                || mutant!(UnreadableCountsAsCopied);
            let Job::Resync { by_rebuild, .. } = job else {
                self.rebuilder.count(chunk, is_copied);
                continue;
            };
            let map = self.shared.map.as_ref().expect("a chunk of the map");
            let action = if is_copied { Action::Endsync } else { Action::Abortsync };
            // A host write may have left it Syncing or, by a lost write, NeedSync.
            map.change_quietly(chunk, map.state(chunk).after(action));
            if is_copied {
                if by_rebuild && self.shared.doubt.is_torn(chunk) {
                    self.rebuilder.note_guess(chunk);
                }
                self.shared.doubt.end(chunk);
            }
            if by_rebuild {
                self.rebuilder.count(chunk, is_copied);
            } else {
                self.walker.done += u64::from(is_copied);
                self.walker.unreadable += u64::from(!is_copied);
            }
        }
    }

    /// Nothing is left to copy (or nothing can be copied now).
    fn end_resync(&mut self, out: &mut Out<'_>) {
        if !self.walker.is_idle() {
            return;
        }
        // Nothing will be found any more: the driver need not ask again.
        if self.life() == Life::Running && (self.failed || !self.can_walk()) {
            self.walker.cursor = None;
        }
        if std::mem::take(&mut self.walker.active) {
            let (chunks, unreadable) = (self.walker.done, self.walker.unreadable);
            out.mail.push_back(Mail::Event(ArrayEvent::ResyncDone { chunks, unreadable }));
            self.vouch_again();
            self.poll_recorder(out);
        }
    }
}

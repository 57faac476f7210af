//! Rebuild: a member that is written by all channels is given what it lacks, then it is in sync.
//!
//! One member at a time, in one pass over the chunks. What is copied of a chunk depends on its
//! state when the pass comes to it:
//!
//! | state     | the member lacks what changed | it lacks everything from a chunk on, as this one |
//! |-----------|-------------------------------|--------------------------------------------------|
//! | Unwritten | nothing                       | nothing; all of it if Unwritten chunks may hold data |
//! | Clean     | nothing                       | to the members being rebuilt                     |
//! | Dirty     | to the members being rebuilt  | to the members being rebuilt                     |
//! | NeedSync  | to all: it is resynced        | to all: it is resynced                           |
//!
//! The walker ([`super::owner_resync`]) copies, in windows that no host write enters. Behind the
//! pass the member is like the others: it is written with them, and what comes to be in doubt is
//! resynced to all. A chunk that has been copied is Dirty even if another member is still away: as
//! long as any is, nothing becomes Clean, and who comes back is given all that is not Clean.
//!
//! Copies may lie in the member's volatile cache. At the checkpoints, every half minute, it is
//! flushed; then its superblock says how far it is. After the last chunk it is flushed, then its
//! superblock says that it is whole; when that is durable, it is read.

use std::ops::Range;

use super::message::{ArrayEvent, ArrayTimer, Mail, Out};
use super::owner::{Life, MemberRequest, Owner, OwnerOp};
use super::owner_members::MemberState;
use super::owner_resync::Run;
use super::{Lacks, MemberSlot, RebuildStatus, bit};
use crate::bdev::{IoOp, IoStatus};
use crate::bitmap::ChunkState;

/// Time between two checkpoints, and before chunks that nobody could read are tried again.
pub(super) const CHECKPOINT_MS: u64 = 30_000;

/// Chunks looked at in one poll while searching.
const CHUNKS_PER_POLL: usize = 4096;

/// Where a pass stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PassState {
    /// Chunks are copied.
    Copying,
    /// All chunks are copied; the member is flushing.
    Flushing,
    /// Waits for this update of the superblocks, which says that the member is whole.
    Recording { update: u64 },
    /// Some chunks could be read from nobody; waits to try again.
    Stalled,
}

impl PassState {
    fn allows(self, next: Self) -> bool {
        use PassState::{Copying, Flushing, Recording, Stalled};
        matches!(
            (self, next),
            (Copying, Flushing | Stalled) | (Flushing, Recording { .. }) | (Stalled, Copying)
        )
    }
}

/// The rebuild of one member.
#[derive(Debug)]
struct Pass {
    slot: MemberSlot,
    state: PassState,
    lacks: Lacks,
    /// Next chunk to look at.
    next: usize,
    /// A window works where the pass goes on: it waits for its end.
    is_blocked: bool,
    /// First chunk that could not be read, and how many.
    unreadable_from: Option<usize>,
    unreadable: u64,
    /// Chunks with torn parity that was taken for right, and the first of them.
    guessed: u64,
    guessed_first: usize,
    done: u64,
    total: u64,
    /// Wall clock when it began, and the tenths of the work that the operator knows of.
    began_s: u64,
    tenths_told: u64,
}

/// The rebuild's part of the owner.
#[derive(Debug, Default)]
pub(super) struct Rebuilder {
    pass: Option<Pass>,
    /// A member is flushing, for a checkpoint at this chunk or for the end of the pass.
    flushing: Option<(MemberSlot, Option<usize>)>,
    is_armed: bool,
}

impl Rebuilder {
    /// A member is flushing for it.
    pub(super) fn is_flushing(&self) -> bool {
        self.flushing.is_some()
    }

    pub(super) fn progress(&self) -> Option<RebuildStatus> {
        let pass = self.pass.as_ref()?;
        let total = pass.total.max(pass.done);
        let (slot, done, began_s) = (pass.slot, pass.done, pass.began_s);
        Some(RebuildStatus { slot, replaces: false, done, total, began_s, checkpoint: 0 })
    }

    /// A window has ended, a discard's hold, or the zeroing of a chunk.
    pub(super) fn unblock(&mut self) {
        if let Some(pass) = &mut self.pass {
            pass.is_blocked = false;
        }
    }

    /// What a chunk held was computed from torn parity.
    pub(super) fn note_guess(&mut self, chunk: usize) {
        let Some(pass) = &mut self.pass else { return };
        pass.guessed += 1;
        pass.guessed_first = pass.guessed_first.min(chunk);
    }

    /// A chunk that the pass has asked for was copied, or could be read from nobody.
    pub(super) fn count(&mut self, chunk: usize, completed: bool) {
        let Some(pass) = &mut self.pass else { return };
        if completed {
            pass.done += 1;
        } else {
            pass.unreadable += 1;
            let from = pass.unreadable_from.map_or(chunk, |from| from.min(chunk));
            pass.unreadable_from = Some(from);
        }
    }
}

impl Pass {
    /// From the first chunk on that could not be read.
    fn try_again(&mut self) {
        self.next = self.unreadable_from.take().expect("something was not read");
        self.unreadable = 0;
        self.set_state(PassState::Copying);
    }

    fn set_state(&mut self, next: PassState) {
        assert!(self.state.allows(next), "a rebuild went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

/// What the pass wants of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing.
    Nothing,
    /// A copy to the members that are being rebuilt.
    Copy,
    /// A resync: a copy to all.
    Resync,
}

impl Owner {
    /// Chunks of the array.
    pub(super) fn chunk_count(&self) -> usize {
        let chunks = self.shared.sync_blocks.div_ceil(1 << self.shared.chunk_shift);
        usize::try_from(chunks).expect("chunks fit usize")
    }

    /// A pass takes care of chunks in doubt from this one on.
    pub(super) fn rebuild_covers_from(&self) -> Option<usize> {
        let own = self.shared.geometry.all_slots();
        match &self.rebuilder.pass {
            // What replaces a member is given what that has; resync is another matter.
            Some(pass) if own & bit(pass.slot) == 0 => None,
            Some(pass) => (pass.state == PassState::Copying).then_some(pass.next),
            // The next pass begins at once, or when the member has joined.
            None => (self.writable & own != self.in_sync).then_some(0),
        }
    }

    /// Begins the next pass, ends one that has come to its end.
    pub(super) fn poll_rebuild(&mut self, out: &mut Out<'_>) {
        if self.life() != Life::Running || self.failed {
            return;
        }
        let Some(pass) = &self.rebuilder.pass else { return self.begin_pass(out) };
        let (slot, state) = (pass.slot, pass.state);
        if self.members[usize::from(slot)].state != MemberState::Rebuilding
            || self.gives_way(slot, state)
        {
            self.rebuilder.pass = None;
            return;
        }
        self.tell_progress(out);
        match state {
            PassState::Copying => self.end_copying(out),
            PassState::Recording { update } if self.recorder.has_recorded(update) => {
                self.end_pass(slot, out);
            }
            PassState::Flushing | PassState::Recording { .. } | PassState::Stalled => {}
        }
    }

    /// The pass is a replacement's and a slot lacks its member: that goes first.
    fn gives_way(&mut self, slot: MemberSlot, state: PassState) -> bool {
        let is_twins = self.shared.twin() == Some(slot);
        let may_wait = matches!(state, PassState::Copying | PassState::Stalled);
        if !is_twins || !may_wait || self.rebuildable().all(|other| other == slot) {
            return false;
        }
        // What it has counts from here on: all below, but what has been written since.
        let rebuild = &mut self.members[usize::from(slot)].rebuild;
        let rebuild = rebuild.as_mut().expect("it is being copied to");
        rebuild.lacks = Lacks::AllFrom(rebuild.done);
        true
    }

    /// What the rebuild waits for has come about.
    pub(super) fn rebuild_can_go_on(&self) -> bool {
        if self.life() != Life::Running || self.failed {
            return false;
        }
        let Some(pass) = &self.rebuilder.pass else {
            return self.rebuildable().next().is_some() && self.walker.first_chunk().is_none();
        };
        let gives_way = self.shared.twin() == Some(pass.slot)
            && matches!(pass.state, PassState::Copying | PassState::Stalled)
            && self.rebuildable().any(|other| other != pass.slot);
        if self.members[usize::from(pass.slot)].state != MemberState::Rebuilding || gives_way {
            return true;
        }
        match pass.state {
            PassState::Copying => {
                pass.next == self.chunk_count()
                    && self.walker.is_idle()
                    && (pass.unreadable > 0
                        || self.rebuilder.flushing.is_none() && self.log_is_renewed())
            }
            PassState::Recording { update } => self.recorder.has_recorded(update),
            PassState::Flushing | PassState::Stalled => false,
        }
    }

    /// Tells the operator of every tenth.
    fn tell_progress(&mut self, out: &mut Out<'_>) {
        let pass = self.rebuilder.pass.as_mut().expect("there is a pass");
        let tenths = (pass.done * 10).checked_div(pass.total).unwrap_or(0);
        if tenths > pass.tenths_told && tenths < 10 {
            pass.tenths_told = tenths;
            let percent = u8::try_from(tenths * 10).expect("below 100");
            let slot = pass.slot;
            let slot = self.origin(slot);
            let event = ArrayEvent::RebuildProgress { slot, percent };
            out.mail.push_back(Mail::Event(event));
        }
    }

    fn begin_pass(&mut self, out: &mut Out<'_>) {
        // Windows of an earlier pass, and those that began without the member, end first.
        if self.walker.first_chunk().is_some() {
            return;
        }
        let Some(slot) = self.rebuildable().next() else { return };
        let rebuild = self.members[usize::from(slot)].rebuild.expect("it is being rebuilt");
        let total = self.chunks_lacking(slot, rebuild.lacks);
        self.rebuilder.pass = Some(Pass {
            slot,
            state: PassState::Copying,
            lacks: rebuild.lacks,
            next: 0,
            is_blocked: false,
            unreadable_from: None,
            unreadable: 0,
            guessed: 0,
            guessed_first: usize::MAX,
            done: 0,
            total,
            began_s: out.wall_clock_s,
            tenths_told: 0,
        });
        if !std::mem::replace(&mut self.rebuilder.is_armed, true) {
            out.mail.push_back(Mail::Arm(ArrayTimer::Checkpoint, CHECKPOINT_MS));
        }
        out.mail.push_back(Mail::Event(match self.origin(slot) {
            own if own == slot => ArrayEvent::RebuildStarted { slot, chunks: total },
            slot => ArrayEvent::ReplacementStarted { slot, chunks: total },
        }));
        self.renew_log(out);
    }

    /// Chunks that a member will be given, as of now.
    fn chunks_lacking(&self, slot: MemberSlot, lacks: Lacks) -> u64 {
        let wanted = |chunk: &usize| self.wanted(slot, *chunk, lacks) != Wanted::Nothing;
        (0..self.chunk_count()).filter(wanted).count() as u64
    }

    fn wanted(&self, slot: MemberSlot, chunk: usize, lacks: Lacks) -> Wanted {
        let is_twins = self.shared.twin() == Some(slot);
        let in_full = chunk >= lacks.all_from();
        match self.shared.chunk_state(chunk) {
            Some(ChunkState::Unwritten) if self.shared.unwritten_reads_zero => Wanted::Nothing,
            Some(ChunkState::Unwritten | ChunkState::Clean) if !in_full => Wanted::Nothing,
            Some(ChunkState::NeedSync | ChunkState::Syncing) if !is_twins => Wanted::Resync,
            Some(ChunkState::Dirty) if mutant!(RebuildForgetsDirty) => Wanted::Nothing,
            _ => Wanted::Copy,
        }
    }

    /// The next chunks to copy, looking at a bounded number of chunks.
    pub(super) fn find_rebuild(&mut self) -> Option<(Run, Wanted)> {
        let pass = self.rebuilder.pass.as_ref()?;
        if pass.state != PassState::Copying || pass.is_blocked {
            return None;
        }
        let (slot, from, lacks) = (pass.slot, pass.next, pass.lacks);
        let end = self.chunk_count().min(from + CHUNKS_PER_POLL);
        let wanted = |chunk: usize| self.wanted(slot, chunk, lacks);
        // A window that works there may have begun without the member.
        let is_worked = |chunk: usize| self.walker.works_in(&self.shared.blocks_of_chunk(chunk));
        let barrier = self.first_on_its_way(from..end);
        let end = barrier.unwrap_or(end);
        let first = (from..end).find(|&chunk| wanted(chunk) != Wanted::Nothing);
        let is_blocked = first.map_or(barrier.is_some(), is_worked);
        let found = first.filter(|_| !is_blocked).map(|first| {
            let alike = |chunk: &usize| wanted(*chunk) == wanted(first) && !is_worked(*chunk);
            let more = first + 1..end.min(first + self.run_chunks_max());
            ((first, more.take_while(alike).last().unwrap_or(first)), wanted(first))
        });
        let pass = self.rebuilder.pass.as_mut().expect("there is a pass");
        pass.is_blocked = is_blocked;
        pass.next = found.map_or(first.unwrap_or(end), |((_, last), _)| last + 1);
        found
    }

    /// The first chunk that is Unwritten, or about to be, and may yet be in doubt with what the
    /// member held there before: were it passed over, the member would be called whole.
    fn first_on_its_way(&self, chunks: Range<usize>) -> Option<usize> {
        // What is held for a discard is as it was after a power cut, until that is durable.
        let held = self.discarder.first_held(&chunks).filter(|_| !mutant!(RebuildPassesDiscard));
        let bitmap = self.bitmap.as_ref().filter(|_| !mutant!(RebuildPassesZeroing));
        // What is zeroed for its first write, not on the member, is in doubt when it opens.
        let zeroing = bitmap.and_then(|bitmap| {
            bitmap.zeroing_without_last().filter(|chunk| chunks.contains(chunk)).min()
        });
        held.into_iter().chain(zeroing).min()
    }

    /// A poll will find chunks to rebuild without another event.
    pub(super) fn is_searching_rebuild(&self) -> bool {
        let Some(pass) = &self.rebuilder.pass else { return false };
        pass.state == PassState::Copying
            && !pass.is_blocked
            && pass.next < self.chunk_count()
            && self.walker.has_room()
            && self.life() == Life::Running
            && !self.failed
    }

    fn end_copying(&mut self, out: &mut Out<'_>) {
        let pass = self.rebuilder.pass.as_mut().expect("there is a pass");
        let slot = pass.slot;
        if pass.next < self.chunk_count() || !self.walker.is_idle() && !mutant!(WholeBeforeCopied) {
            return;
        }
        let pass = self.rebuilder.pass.as_mut().expect("there is a pass");
        if pass.unreadable > 0 {
            let unreadable = pass.unreadable;
            pass.set_state(PassState::Stalled);
            let slot = self.origin(slot);
            let event = ArrayEvent::RebuildStalled { slot, unreadable };
            out.mail.push_back(Mail::Event(event));
            let chunks = self.shared.doubt.torn_count() as u64;
            if chunks > 0 && !self.shared.doubt.is_accepted() {
                let event = ArrayEvent::RebuildNeedsForce { slot, chunks };
                out.mail.push_back(Mail::Event(event));
            }
            return;
        }
        if !self.log_is_renewed() {
            // One that could not be made is tried again at the next checkpoint: a member that can't
            // be done without may fail every write.
            if mutant!(RenewedWithoutPause) {
                self.renew_log_again(out);
            }
            return;
        }
        if self.rebuilder.flushing.is_none() {
            let pass = self.rebuilder.pass.as_mut().expect("there is a pass");
            pass.set_state(PassState::Flushing);
            if mutant!(WholeBeforeFlushed) {
                return self.is_whole(slot);
            }
            self.flush_rebuilt(slot, None, out);
        }
    }

    fn flush_rebuilt(&mut self, slot: MemberSlot, upto: Option<usize>, out: &mut Out<'_>) {
        self.rebuilder.flushing = Some((slot, upto));
        let request = MemberRequest { op: IoOp::Flush, lba: 0, blocks: 0, buf: None };
        self.send(slot, OwnerOp::RebuildFlush, request, out);
    }

    /// The member has flushed, or has not: then its cache can't be trusted, and it is out.
    pub(super) fn rebuild_flushed(
        &mut self,
        slot: MemberSlot,
        status: IoStatus,
        out: &mut Out<'_>,
    ) {
        let flushing = self.rebuilder.flushing.take();
        let (asked, upto) = flushing.expect("a member flushed although nobody asked");
        assert_eq!(asked, slot);
        if !status.is_ok() {
            return self.fail_member(slot, out);
        }
        if self.members[usize::from(slot)].state != MemberState::Rebuilding {
            return;
        }
        match upto {
            None if self.life() == Life::Running => {
                self.is_whole(slot);
                if self.shared.twin() == Some(slot) {
                    // The end of a replacement: the operator is to hear if that takes long.
                    self.wait_a_spell(out);
                }
            }
            None => {}
            Some(chunk) => {
                let rebuild = &mut self.members[usize::from(slot)].rebuild;
                let rebuild = rebuild.as_mut().expect("it is being rebuilt");
                rebuild.done = rebuild.done.max(chunk);
                self.want_superblock();
            }
        }
    }

    /// The member has everything, durably: its superblock may say so.
    fn is_whole(&mut self, slot: MemberSlot) {
        self.want_superblock();
        let update = self.recorder.wanted();
        let chunks = self.chunk_count();
        let rebuild = &mut self.members[usize::from(slot)].rebuild;
        let rebuild = rebuild.as_mut().expect("it is being rebuilt");
        (rebuild.whole_from, rebuild.done) = (Some(update), chunks);
        let pass = self.rebuilder.pass.as_mut().expect("its pass is at its end");
        pass.set_state(PassState::Recording { update });
    }

    /// The operator goes on without what is lost in torn rows.
    ///
    /// # Errors
    /// A sentence for the operator; nothing is changed then.
    pub(super) fn accept_loss(&mut self, out: &mut Out<'_>) -> Result<(), String> {
        if self.shared.doubt.torn_count() == 0 {
            return Err("it runs already, and none of its chunks waits for force".to_owned());
        }
        self.shared.doubt.accept();
        if let Some(pass) = &mut self.rebuilder.pass
            && pass.state == PassState::Stalled
        {
            pass.try_again();
        }
        self.go_on(out);
        Ok(())
    }

    fn end_pass(&mut self, slot: MemberSlot, out: &mut Out<'_>) {
        let pass = self.rebuilder.pass.take().expect("there is a pass");
        if self.shared.twin() == Some(slot) {
            return;
        }
        self.is_rebuilt(slot, out);
        if pass.guessed > 0 {
            let range = self.shared.blocks_of_chunk(pass.guessed_first);
            let parity = self.shared.parity().expect("others have no torn rows");
            let lba = parity.array_lba(range.lba / parity.strip_blocks(), 0, 0);
            let event = ArrayEvent::RebuildGuessed { slot, chunks: pass.guessed, lba };
            out.mail.push_back(Mail::Event(event));
        }
        out.mail.push_back(Mail::Event(ArrayEvent::RebuildDone { slot, chunks: pass.done }));
        self.walker.look_again();
    }

    /// The array stops, and the members' caches are on their media: a last checkpoint.
    pub(super) fn note_progress_at_stop(&mut self) {
        let Some(pass) = &self.rebuilder.pass else { return };
        let upto = pass.unreadable_from.unwrap_or(pass.next).min(pass.next);
        if let Some(rebuild) = &mut self.members[usize::from(pass.slot)].rebuild {
            rebuild.done = rebuild.done.max(upto);
        }
    }

    /// Half a minute is over: the superblock is to say how far the member is.
    pub(super) fn checkpoint_due(&mut self, out: &mut Out<'_>) {
        self.rebuilder.is_armed = false;
        if self.life() != Life::Running || self.failed {
            return;
        }
        if self.rebuilder.pass.is_none() {
            return;
        }
        self.rebuilder.is_armed = true;
        out.mail.push_back(Mail::Arm(ArrayTimer::Checkpoint, CHECKPOINT_MS));
        self.renew_log_again(out);
        let pass = self.rebuilder.pass.as_mut().expect("just seen");
        let slot = pass.slot;
        match pass.state {
            PassState::Stalled => pass.try_again(),
            PassState::Copying if self.rebuilder.flushing.is_none() => {
                let next = pass.unreadable_from.unwrap_or(pass.next).min(pass.next);
                let upto = self.walker.first_chunk().map_or(next, |first| first.min(next));
                if self.members[usize::from(slot)].state != MemberState::Rebuilding {
                    return;
                }
                if mutant!(CheckpointBeforeFlush) {
                    let rebuild = &mut self.members[usize::from(slot)].rebuild;
                    rebuild.as_mut().expect("it is being rebuilt").done = upto;
                    return self.want_superblock();
                }
                self.flush_rebuilt(slot, Some(upto), out);
            }
            _ => {}
        }
    }

    /// Copies that are flushed at the checkpoints and before the daemon clears anything. Not what
    /// mends a torn row under the stripe log: when the last one is mended, the log's heads say that
    /// parity is right wherever no record is.
    pub(super) fn is_flushed_later(&self, owner_op: OwnerOp) -> bool {
        let OwnerOp::Window(index) = owner_op else { return false };
        let Some(mut chunks) = self.walker.chunks_of(index) else { return false };
        let is_vouched_for = self.shared.log.is_some() && !mutant!(MendedWithoutFlush);
        !(is_vouched_for && chunks.any(|chunk| self.shared.doubt.is_torn(chunk)))
    }

    /// The member that a copy of the pass goes to, as a set.
    pub(super) fn rebuild_targets(&self) -> super::message::SlotMask {
        self.rebuilder.pass.as_ref().map_or(0, |pass| self.writable & bit(pass.slot))
    }
}

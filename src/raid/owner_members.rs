//! The owner's keeping of the members: who takes part, and what the superblocks say about it.
//!
//! An update of the superblocks raises the event count, writes the bitmap's header with the new
//! count, waits, then writes the superblocks of all members in sync, as md does; at the end of a
//! replacement one of them before the others ([`super::owner_replace`]). A failure counts
//! as recorded when such an update that names it is durable and every channel has stopped using
//! the member.

use super::message::{ArrayEvent, Mail, Out, SlotMask, ToChannel};
use super::owner::{Life, MemberRequest, Owner, OwnerOp};
use super::owner_bitmap::BitmapKeeper;
use super::owner_errors::ReadErrors;
use super::{Lacks, MemberSlot, bit, newcomer, slots};
use crate::bdev::{IoOp, IoStatus};
use crate::md::{Features, Role, SECTOR_BYTES, SUPERBLOCK_READ_BYTES, Superblock};
use crate::reactor::buf::{BufPool, IoBuf};

/// `resync_offset` of an array with nothing in doubt: md's MaxSector.
const RESYNC_DONE: u64 = u64::MAX;

/// Whether a member takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberState {
    /// It is read and written.
    InSync,
    /// It is written; what it lacks is being copied to it.
    Rebuilding,
    /// It is about to join.
    Joining,
    /// It failed while the array was running.
    Faulty,
    /// The slot is empty.
    Missing,
}

impl MemberState {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::InSync => "in_sync",
            Self::Rebuilding => "rebuilding",
            Self::Joining => "joining",
            Self::Faulty => "faulty",
            Self::Missing => "missing",
        }
    }
}

/// One slot.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) state: MemberState,
    /// The member's superblock as it was last written; `None` if the slot is empty.
    pub(super) superblock: Option<Superblock>,
    /// What it lacks, while it is being rebuilt.
    pub(super) rebuild: Option<Rebuild>,
    /// Reads that failed.
    pub(super) read_errors: ReadErrors,
    /// Event count of the last superblock that it has; 0 before the first one since the start.
    pub(super) events: u64,
}

impl Member {
    pub(super) fn new(state: MemberState, superblock: Option<Superblock>) -> Self {
        Self { state, superblock, rebuild: None, read_errors: ReadErrors::default(), events: 0 }
    }
}

/// A member that is being rebuilt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rebuild {
    pub(super) lacks: Lacks,
    /// Chunks from the first on that it has durably: its superblock says so from the next update
    /// on.
    pub(super) done: usize,
    /// It has everything durably: this update of the superblocks, and later ones, say so.
    pub(super) whole_from: Option<u64>,
}

impl Rebuild {
    pub(super) fn new(lacks: Lacks) -> Self {
        Self { lacks, done: 0, whole_from: None }
    }

    /// It was being rebuilt when the array stopped: what it lacks below where it was is in doubt.
    /// One that comes back lacks more there, so its first checkpoint says how far it is.
    pub(super) fn resumed(lacks: Lacks) -> Self {
        let done = match lacks {
            Lacks::Changed => 0,
            Lacks::AllFrom(chunk) => chunk,
        };
        Self { done, ..Self::new(lacks) }
    }
}

/// What an update of the superblocks waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecordState {
    /// No update is under way.
    Idle,
    /// The bitmap's header with the new event count is being written, and the stripe log's heads.
    Header,
    /// The superblocks are being written.
    Superblocks,
}

impl RecordState {
    fn allows(self, next: Self) -> bool {
        use RecordState::{Header, Idle, Superblocks};
        matches!((self, next), (Idle, Header) | (Header, Superblocks) | (Superblocks, Idle))
    }
}

/// The owner's writer of superblocks.
#[derive(Debug)]
pub(super) struct Recorder {
    state: RecordState,
    events: u64,
    /// Updates asked for, under way and durable, by number.
    wanted: u64,
    writing: u64,
    durable: u64,
    pending: SlotMask,
    ok: SlotMask,
    failed: SlotMask,
    /// Some are told first, the others then.
    is_first_told: bool,
    /// The next update lets a device go that was whole, and no slot misses it.
    lets_go: bool,
    bufs: Vec<IoBuf>,
    /// Membership changes so far, and the last one each channel has adopted.
    epoch: u32,
    adopted: Vec<u32>,
    /// Members whose absence is not recorded yet, and the update that will do it.
    unrecorded: SlotMask,
    unrecorded_update: u64,
    /// The first update repeats the last one before the array stopped, see
    /// [`Recorder::finish_earlier`].
    finishes_earlier: bool,
}

impl Recorder {
    /// `None` when the pool has no buffers: one for each member is reserved here for good.
    pub(super) fn new(events: u64, slots: usize, cores: u16, pool: &BufPool) -> Option<Self> {
        Some(Self {
            state: RecordState::Idle,
            events,
            wanted: 0,
            writing: 0,
            durable: 0,
            pending: 0,
            ok: 0,
            failed: 0,
            is_first_told: false,
            lets_go: false,
            bufs: (0..slots).map(|_| pool.get(SUPERBLOCK_READ_BYTES)).collect::<Option<_>>()?,
            epoch: 0,
            adopted: vec![0; usize::from(cores)],
            unrecorded: 0,
            unrecorded_update: 0,
            finishes_earlier: false,
        })
    }

    /// The last update before the array stopped has not reached every member: it is given to all,
    /// under the count it had, before another one begins. Were the next one cut off as well, who
    /// had neither would be two events behind, which is to be out; and a level with parity can't
    /// do without most of its members. Nothing new is in it: of two superblocks with one count
    /// neither may know more than the other.
    pub(super) fn finish_earlier(&mut self) {
        self.finishes_earlier = true;
        self.wanted += 1;
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// All that was asked for is durable, with a higher count than this one (0: whatever it is).
    pub(super) fn is_ahead_of(&self, events: u64) -> bool {
        events == 0 || self.is_durable() && self.events > events
    }

    /// The last update asked for is durable.
    pub(super) fn is_durable(&self) -> bool {
        self.durable == self.wanted
    }

    /// The number of the last update asked for.
    pub(super) fn wanted(&self) -> u64 {
        self.wanted
    }

    /// One of two devices for a slot goes: what becomes Clean from the next update on it lacks.
    pub(super) fn lets_go(&mut self) {
        self.lets_go = true;
    }

    /// The update of this number is durable.
    pub(super) fn has_recorded(&self, update: u64) -> bool {
        self.durable >= update
    }

    /// The slot's absence is durable, if it is absent.
    pub(super) fn is_recorded(&self, slot: MemberSlot) -> bool {
        self.unrecorded & bit(slot) == 0
    }

    /// Every channel uses the membership of this epoch, or a later one.
    pub(super) fn is_adopted(&self, epoch: u32) -> bool {
        self.adopted.iter().all(|&adopted| adopted >= epoch)
    }

    pub(super) fn has_requests_at(&self, slot: MemberSlot) -> bool {
        self.pending & bit(slot) != 0
    }

    /// Superblocks are on their way.
    pub(super) fn is_writing(&self) -> bool {
        self.pending != 0
    }

    /// A channel uses the membership of `epoch`.
    pub(super) fn adopted(&mut self, core: u16, epoch: u32) {
        let adopted = &mut self.adopted[usize::from(core)];
        assert!(*adopted < epoch, "epochs are adopted in order");
        *adopted = epoch;
    }

    fn set_state(&mut self, next: RecordState) {
        assert!(self.state.allows(next), "recorder went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

impl Owner {
    /// Asks for an update of the superblocks.
    pub(super) fn want_superblock(&mut self) {
        self.recorder.wanted += 1;
    }

    /// Asks for what starts and failures need on record. An external bitmap takes two updates, so
    /// that its header, which is written before the superblocks, tells by more than one event who
    /// was not there: see `md::external`.
    pub(super) fn want_recorded(&mut self) {
        self.want_superblock();
        if self.is_external() && !mutant!(ExternalRecordedOnce) {
            self.want_superblock();
        }
    }

    fn is_external(&self) -> bool {
        self.bitmap.as_ref().is_some_and(BitmapKeeper::is_external)
    }

    /// A member failed a request that changes data or metadata: it is out, unless it is the last.
    pub(super) fn fail_member(&mut self, slot: MemberSlot, out: &mut Out<'_>) {
        self.put_out(slot, false, out);
    }

    /// A member is out, unless it is the last: it failed, or the operator said so.
    pub(super) fn put_out(&mut self, slot: MemberSlot, as_told: bool, out: &mut Out<'_>) {
        if self.writable & bit(slot) == 0 {
            return;
        }
        let is_twin = self.shared.twin() == Some(slot);
        let member = &mut self.members[usize::from(slot)];
        if !is_twin && !self.shared.geometry.may_fail(self.in_sync, slot) {
            out.mail.push_back(Mail::Channels(ToChannel::Kept(slot)));
            return out.mail.push_back(Mail::Event(ArrayEvent::LastMemberKept { slot }));
        }
        if member.state == MemberState::Rebuilding {
            // Its pass will visit no more chunks in doubt.
            self.walker.look_again();
        }
        member.state = MemberState::Faulty;
        member.rebuild = None;
        self.begin_anew();
        let member = &mut self.members[usize::from(slot)];
        let superblock = member.superblock.as_ref().expect("it took part");
        let (dev_number, events) = (superblock.dev_number, member.events);
        self.joiner.departs(superblock.device_uuid, events);
        self.in_sync &= !bit(slot);
        self.writable &= !bit(slot);
        for superblock in self.members.iter_mut().filter_map(|m| m.superblock.as_mut()) {
            superblock.set_role(dev_number, Role::Faulty);
        }
        self.want_recorded();
        self.unrecord(slot);
        self.announce_members(out);
        if is_twin {
            self.recorder.lets_go();
            return self.replacement_is_out(out);
        }
        let left = self.in_sync.count_ones();
        out.mail.push_back(Mail::Event(ArrayEvent::MemberFailed { slot, left, as_told }));
        if self.replacer.replaced() == Some(slot) {
            self.orphan_replacement(out);
        }
    }

    /// The last update asked for is to say that the slot's device is out.
    pub(super) fn unrecord(&mut self, slot: MemberSlot) {
        self.recorder.unrecorded |= bit(slot);
        self.recorder.unrecorded_update = self.recorder.wanted;
    }

    /// A member has failed before the update that repeats an earlier one was written: that one says
    /// it, so it gets a count of its own.
    fn begin_anew(&mut self) {
        let recorder = &mut self.recorder;
        if !recorder.finishes_earlier || recorder.state == RecordState::Superblocks {
            return;
        }
        recorder.finishes_earlier = false;
        if recorder.state == RecordState::Header {
            recorder.events += 1;
            if let Some(bitmap) = &mut self.bitmap {
                bitmap.set_events(recorder.events, false);
            }
        }
        self.note_absent();
    }

    /// Whether no block is lost when all of these members fail.
    pub(super) fn may_fail_all(&self, failed: SlotMask) -> bool {
        self.shared.geometry.is_readable(self.in_sync & !failed)
    }

    /// Tells every channel who is read and written from now on.
    pub(super) fn announce_members(&mut self, out: &mut Out<'_>) -> u32 {
        self.recorder.epoch += 1;
        out.mail.push_back(Mail::Channels(ToChannel::Members {
            epoch: self.recorder.epoch,
            in_sync: self.in_sync,
            writable: self.writable & !self.joiner.hidden(),
            replaced: self.replacer.replaced(),
        }));
        self.recorder.epoch
    }

    /// A member has everything: it is read from now on.
    pub(super) fn is_rebuilt(&mut self, slot: MemberSlot, out: &mut Out<'_>) {
        let member = &mut self.members[usize::from(slot)];
        member.state = MemberState::InSync;
        member.rebuild = None;
        self.in_sync |= bit(slot);
        let epoch = self.announce_members(out);
        self.seniority.came(bit(slot), epoch);
    }

    /// The update that is under way, or begins now, calls the member whole. One that was under way
    /// when it became whole does not: its header was written without a new `events_cleared`.
    fn is_called_whole(&self, rebuild: &Rebuild) -> bool {
        rebuild
            .whole_from
            .is_some_and(|update| self.recorder.writing >= update || mutant!(WholeInEarlierUpdate))
    }

    /// Notes in a member's superblock whether and how far it is rebuilt.
    fn note_rebuild(&mut self, slot: MemberSlot) {
        let sectors_per_block = u64::from(self.shared.block_size_bytes) / SECTOR_BYTES;
        let chunk_sectors = sectors_per_block << self.shared.chunk_shift;
        let rebuild = self.members[usize::from(slot)].rebuild;
        let rebuild = rebuild.filter(|rebuild| !self.is_called_whole(rebuild));
        let is_twin = self.shared.twin() == Some(slot) && self.handed_over() == 0;
        let member = &mut self.members[usize::from(slot)];
        let superblock = member.superblock.as_mut().expect("it takes part");
        superblock.features.remove(Features::RECOVERY_OFFSET | Features::RECOVERY_BITMAP);
        superblock.features.set(Features::REPLACEMENT, is_twin);
        superblock.recovery_offset_sectors = 0;
        let Some(rebuild) = rebuild else { return };
        superblock.features |= Features::RECOVERY_OFFSET;
        if rebuild.lacks == Lacks::Changed {
            superblock.features |= Features::RECOVERY_BITMAP;
        }
        let done = if newcomer::counts_chunks(superblock) { rebuild.done } else { 0 };
        superblock.recovery_offset_sectors =
            (done as u64).saturating_mul(chunk_sectors).min(superblock.size_sectors);
    }

    /// The update that begins now completes the array: a member that has not seen it may lack
    /// chunks that are called Clean afterwards.
    fn completes_array(&self) -> bool {
        let is_there = |member: &Member| match member.state {
            MemberState::InSync => true,
            MemberState::Rebuilding => {
                member.rebuild.is_some_and(|rebuild| self.is_called_whole(&rebuild))
            }
            _ => false,
        };
        let mut own = self.members.iter().take(usize::from(self.shared.geometry.slots()));
        self.is_degraded() && own.all(is_there) && !mutant!(EventsClearedForgotten)
    }

    /// Takes the update of the superblocks as far as it can go now.
    pub(super) fn poll_recorder(&mut self, out: &mut Out<'_>) {
        if self.failed {
            return;
        }
        // An array that starts with a bitmap to rewrite vouches for it only when it is rewritten.
        let rewriting = self.life() == Life::Starting
            && self.recorder.state == RecordState::Idle
            && self.bitmap.as_ref().is_some_and(|bitmap| !bitmap.is_settled());
        let wanted = self.recorder.state == RecordState::Idle && !self.recorder.is_durable();
        // What the stripe log has is written in place before anything says that the array is used.
        if wanted && !rewriting && !self.log.is_replaying() {
            self.update_begins(out);
            self.recorder.set_state(RecordState::Header);
            let each = self.is_external() || self.recorder.finishes_earlier;
            let recorder = &mut self.recorder;
            recorder.writing = if each { recorder.durable + 1 } else { recorder.wanted };
            if recorder.finishes_earlier {
                let events = recorder.events;
                if let Some(bitmap) = &mut self.bitmap {
                    bitmap.repeat_events(events);
                }
            } else {
                self.recorder.events += 1;
                let lets_go = std::mem::take(&mut self.recorder.lets_go);
                let lets_go = lets_go && !self.is_degraded() && !mutant!(ReplacedTakenForRecent);
                let completes = self.completes_array() || lets_go;
                if let Some(bitmap) = &mut self.bitmap {
                    bitmap.set_events(self.recorder.events, completes);
                }
            }
            self.write_heads(out);
            self.poll_bitmap(out);
        }
        let is_header = self.recorder.state == RecordState::Header;
        if is_header && self.log.heads_are_written() && !self.log.is_of(self.recorder.events) {
            // The update has got another count meanwhile.
            self.write_heads(out);
        }
        let header_is_durable = self.bitmap.as_ref().is_none_or(BitmapKeeper::events_are_durable);
        if is_header && self.log.heads_are_written() && (header_is_durable || self.ignores_header())
        {
            self.write_superblocks(out);
        }
        self.announce_recorded(out);
    }

    /// For planted bugs.
    fn ignores_header(&self) -> bool {
        if mutant!(GrowthBeforeBitmap) {
            return !self.grower.is_idle();
        }
        mutant!(SuperblockBeforeHeader)
    }

    fn write_superblocks(&mut self, out: &mut Out<'_>) {
        self.recorder.set_state(RecordState::Superblocks);
        self.recorder.ok = 0;
        self.recorder.failed = 0;
        self.tell_next(out);
    }

    /// Those that are to be told before all others, or the others.
    fn tell_next(&mut self, out: &mut Out<'_>) {
        let told = self.recorder.ok | self.recorder.failed;
        let first = self.told_first() & !told;
        self.recorder.is_first_told = first != 0;
        match self.writable & !self.handed_over() & !told {
            _ if first != 0 => self.tell(first, out),
            0 => self.update_ends(out),
            others => self.tell(others, out),
        }
    }

    /// Those that were to be told first have answered. If one has not written it, the others hear
    /// of that at once, under the same count.
    fn first_answered(&mut self, out: &mut Out<'_>) {
        if self.failed {
            return;
        }
        let failed = self.recorder.failed;
        if !self.may_fail_all(failed) {
            return self.fail_array(out);
        }
        slots(failed).for_each(|slot| self.fail_member(slot, out));
        self.tell_next(out);
    }

    /// Writes the superblocks of these members.
    fn tell(&mut self, targets: SlotMask, out: &mut Out<'_>) {
        self.recorder.pending = targets;
        // What has no redundancy has nothing to resync.
        let is_clean =
            self.is_clean() && !self.hides_unwritten() || self.shared.geometry.sync_blocks() == 0;
        let resync_offset = if is_clean { RESYNC_DONE } else { 0 };
        let block = self.shared.block_size_bytes as usize;
        let sectors_per_block = u64::from(self.shared.block_size_bytes / 512);
        for slot in slots(targets) {
            self.note_rebuild(slot);
            let superblock =
                self.members[usize::from(slot)].superblock.as_mut().expect("it takes part");
            superblock.events = self.recorder.events;
            superblock.resync_offset_sectors = resync_offset;
            superblock.updated_at(out.wall_clock_s, self.shared.unwritten_reads_zero);
            if self.shared.log.is_some() {
                superblock.mark_stripe_log();
            }
            let buf = &mut self.recorder.bufs[usize::from(slot)];
            // One block for md's usual 128 roles: it can't be torn. A longer table needs more.
            let blocks = superblock.encode_into(buf.as_mut_slice()).div_ceil(block);
            let request = MemberRequest {
                op: IoOp::Write,
                lba: superblock.super_offset_sectors / sectors_per_block,
                blocks: u32::try_from(blocks).expect("a superblock has at most 4096 bytes"),
                buf: Some(buf.slice(0, blocks * block)),
            };
            self.send(slot, OwnerOp::Superblock, request, out);
        }
    }

    /// Members differ where chunks are Unwritten, and who starts the array without its external
    /// bitmap does not know which these are.
    fn hides_unwritten(&self) -> bool {
        let unwritten = crate::bitmap::ChunkState::Unwritten as usize;
        let map = self.shared.map.as_ref();
        self.is_external() && map.is_some_and(|map| map.histogram()[unwritten] > 0)
    }

    /// A member has written its superblock, or has not.
    pub(super) fn superblock_answered(
        &mut self,
        slot: MemberSlot,
        status: IoStatus,
        out: &mut Out<'_>,
    ) {
        assert_eq!(self.recorder.state, RecordState::Superblocks);
        self.recorder.pending &= !bit(slot);
        if status.is_ok() {
            self.recorder.ok |= bit(slot);
            self.members[usize::from(slot)].events = self.recorder.events;
        } else {
            self.recorder.failed |= bit(slot);
        }
        if self.recorder.pending != 0 {
            if mutant!(RecordedOnFirstSurvivor) {
                self.recorder.durable = self.recorder.writing;
            }
            return;
        }
        match self.recorder.is_first_told {
            true => self.first_answered(out),
            false => self.update_ends(out),
        }
    }

    /// Everybody has written its superblock, or has not.
    fn update_ends(&mut self, out: &mut Out<'_>) {
        let (ok, failed) = (self.recorder.ok, self.recorder.failed);
        if ok == 0 || !self.may_fail_all(failed) {
            return self.fail_array(out);
        }
        self.recorder.durable = self.recorder.writing;
        self.recorder.set_state(RecordState::Idle);
        let was_earlier = std::mem::take(&mut self.recorder.finishes_earlier);
        if was_earlier {
            self.note_absent();
        }
        for slot in slots(failed) {
            self.fail_member(slot, out);
        }
        if !was_earlier && self.recorder.is_durable() && self.log.forget_old() {
            self.want_superblock();
        }
    }

    /// Every member that is not in sync is durably known to be absent, and used by no channel.
    pub(super) fn absences_are_recorded(&self) -> bool {
        self.recorder.unrecorded == 0
    }

    /// Tells the channels of absences that are durable by now.
    fn announce_recorded(&mut self, out: &mut Out<'_>) {
        let recorder = &mut self.recorder;
        let adopted_by_all = recorder.adopted.iter().all(|&epoch| epoch == recorder.epoch);
        if recorder.unrecorded == 0
            || recorder.durable < recorder.unrecorded_update
            || !adopted_by_all && !mutant!(AcknowledgeBeforeAdopted)
        {
            return;
        }
        let absent = std::mem::take(&mut recorder.unrecorded);
        out.mail.push_back(Mail::Channels(ToChannel::Recorded(absent)));
        let event = ArrayEvent::FailureRecorded { events: recorder.events };
        out.mail.push_back(Mail::Event(event));
    }

    /// Tells the operator how the array has started.
    pub(super) fn announce_start(&self, out: &mut Out<'_>) {
        assert_eq!(self.life(), Life::Running);
        let need_sync = crate::bitmap::ChunkState::NeedSync as usize;
        out.mail.push_back(Mail::Event(ArrayEvent::Started {
            chunks_need_sync: self.shared.map.as_ref().map_or(0, |map| map.histogram()[need_sync]),
            in_sync: self.in_sync.count_ones(),
            slots: u32::from(self.shared.geometry.slots()),
        }));
    }
}

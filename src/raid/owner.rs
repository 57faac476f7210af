//! The owner of an array: membership, superblocks, bitmap and resync, on one core.
//!
//! The parts are in files of their own: [`super::owner_bitmap`] opens chunks and writes units,
//! [`super::owner_members`] records failures, [`super::owner_daemon`] makes idle chunks Clean,
//! [`super::owner_resync`] copies chunks in doubt, [`super::owner_discard`] makes chunks Unwritten.
//! After every event each part goes as far as it can; the driver also calls [`Owner::poll`] once a
//! turn while [`Owner::is_busy`], and only then the daemon goes a step.

use std::sync::Arc;

use super::bad::BadBlocks;
use super::channel::DISCARD_WINDOW;
use super::message::{ArrayTimer, Mail, Out, SlotMask, ToChannel, ToOwner};
use super::owner_bad::BadKeeper;
use super::owner_bitmap::BitmapKeeper;
use super::owner_daemon::Daemon;
use super::owner_discard::Discarder;
use super::owner_errors::ErrorPolicy;
use super::owner_grow::Grower;
use super::owner_join::Joiner;
use super::owner_log::LogKeeper;
use super::owner_members::{Member, MemberState, Recorder};
use super::owner_parity::ParityWork;
use super::owner_pause::Pauser;
use super::owner_rebuild::Rebuilder;
use super::owner_replace::Replacer;
use super::owner_resync::Walker;
use super::owner_scrub::Scrubber;
use super::owner_yield::Yielder;
use super::pace::Pacer;
use super::{ArrayStatus, MemberPlace, MemberSlot, RebuildStatus, Seniority, Shared};
use crate::bdev::{BdevId, BdevIo, Completion, IoOp, IoStatus, Station, Tag};
use crate::reactor::buf::{BufPool, IoBuf};

/// Where the array is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Assembled; the first superblock update, which says "in use", is not durable yet.
    Starting,
    /// Serves.
    Running,
    /// Channels finish their requests.
    Closing,
    /// Resync windows and the daemon end.
    Winding,
    /// The members' volatile caches go to their media.
    Flushing,
    /// The bitmap is brought to rest.
    Settling,
    /// The last superblock update is on its way.
    Sealing,
    /// Nothing is in flight any more.
    Stopped,
}

impl Life {
    fn allows(self, next: Self) -> bool {
        use Life::{Closing, Flushing, Running, Sealing, Settling, Starting, Stopped, Winding};
        matches!(
            (self, next),
            (Starting, Running | Stopped)
                | (Running, Closing)
                | (Closing, Winding)
                | (Winding, Flushing)
                | (Flushing, Settling)
                | (Settling, Sealing)
                | (Sealing, Stopped)
        )
    }
}

/// What a request of the owner is part of; packed into [`Tag::op`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerOp {
    /// Write of a bitmap unit, by flush slot.
    Unit(usize),
    /// Write of a superblock.
    Superblock,
    /// Zeroing of a chunk before its first write, by job.
    Zero(usize),
    /// Read or write of a resync window.
    Window(usize),
    /// Flush of a member's volatile cache.
    Flush,
    /// Freeing of chunks that are Unwritten.
    Free,
    /// Write of a head of the stripe log.
    LogHead,
    /// Writing in place what the stripe log has, at the start.
    Replay,
    /// Flush of a member that is being rebuilt.
    RebuildFlush,
    /// Zeroing behind the old end of an array that grows, by what is zeroed.
    Grow(usize),
    /// Flush of a member before its bad-block log is written.
    BadFlush,
    /// Write of a bad-block log.
    BadLog,
}

impl OwnerOp {
    fn pack(self) -> u32 {
        let (kind, index) = match self {
            Self::Unit(index) => (0, index),
            Self::Superblock => (1, 0),
            Self::Zero(index) => (2, index),
            Self::Window(index) => (3, index),
            Self::Flush => (4, 0),
            Self::Free => (5, 0),
            Self::RebuildFlush => (6, 0),
            Self::LogHead => (7, 0),
            Self::Replay => (8, 0),
            Self::Grow(index) => (9, index),
            Self::BadFlush => (10, 0),
            Self::BadLog => (11, 0),
        };
        kind << 24 | u32::try_from(index).expect("indexes are small")
    }

    fn unpack(op: u32) -> Self {
        let index = (op & 0xff_ffff) as usize;
        match op >> 24 {
            0 => Self::Unit(index),
            1 => Self::Superblock,
            2 => Self::Zero(index),
            3 => Self::Window(index),
            4 => Self::Flush,
            5 => Self::Free,
            6 => Self::RebuildFlush,
            7 => Self::LogHead,
            8 => Self::Replay,
            9 => Self::Grow(index),
            10 => Self::BadFlush,
            11 => Self::BadLog,
            kind => panic!("no owner request is of kind {kind}"),
        }
    }
}

/// The owner of an array.
#[derive(Debug)]
pub struct Owner {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: BufPool,
    /// Number of channels.
    pub(super) cores: u16,
    life: Life,
    pub(super) members: Vec<Member>,
    /// Where each slot's data lie; `None` for an empty slot.
    pub(super) places: Vec<Option<MemberPlace>>,
    /// Members that are read.
    pub(super) in_sync: SlotMask,
    /// Members that are written, data and metadata: those in sync and those being rebuilt.
    pub(super) writable: SlotMask,
    pub(super) recorder: Recorder,
    pub(super) bitmap: Option<BitmapKeeper>,
    pub(super) daemon: Daemon,
    pub(super) walker: Walker,
    /// Levels with parity only.
    pub(super) parity_work: Option<Box<ParityWork>>,
    /// Levels with parity only.
    pub(super) log: LogKeeper,
    pub(super) discarder: Discarder,
    pub(super) joiner: Joiner,
    pub(super) rebuilder: Rebuilder,
    pub(super) replacer: Replacer,
    pub(super) pauser: Pauser,
    pub(super) grower: Grower,
    pub(super) pacer: Pacer,
    pub(super) yielder: Yielder,
    pub(super) scrubber: Scrubber,
    pub(super) error_policy: ErrorPolicy,
    /// What members have listed as bad.
    pub(super) bad: BadBlocks,
    pub(super) bad_keeper: BadKeeper,
    /// Since when members have been in sync.
    pub(super) seniority: Seniority,
    /// No member holds the metadata any more.
    pub(super) failed: bool,
    closed_count: u16,
    stop_flush_pending: SlotMask,
    /// The last flush failed on the last member: nothing may be called clean.
    stop_flush_failed: bool,
}

impl Owner {
    pub(super) fn new(
        shared: Arc<Shared>,
        pool: BufPool,
        cores: u16,
        members: Vec<Member>,
        (bitmap, log, bad_keeper): (Option<BitmapKeeper>, LogKeeper, BadKeeper),
        daemon: Daemon,
        recorder: Recorder,
    ) -> Self {
        let in_state = |state| {
            let members = members.iter().zip(0u32..);
            members
                .filter(|(member, _)| member.state == state)
                .fold(0, |mask: SlotMask, (_, slot)| mask | 1 << slot)
        };
        let in_sync = in_state(MemberState::InSync);
        let writable = in_sync | in_state(MemberState::Rebuilding);
        let parity_work = shared.parity().map(|parity| Box::new(ParityWork::new(parity)));
        Self {
            joiner: Joiner::new(),
            rebuilder: Rebuilder::default(),
            replacer: Replacer::new(shared.replacement.map(|(slot, _)| slot)),
            pauser: Pauser::default(),
            grower: Grower::default(),
            pacer: Pacer::default(),
            yielder: Yielder::default(),
            scrubber: Scrubber::default(),
            error_policy: ErrorPolicy::default(),
            seniority: Seniority::new(members.len()),
            places: shared.places(),
            bad: BadBlocks::of(&shared),
            bad_keeper,
            shared,
            pool,
            cores,
            life: Life::Starting,
            members,
            in_sync,
            writable,
            recorder,
            bitmap,
            daemon,
            walker: Walker::default(),
            parity_work,
            log,
            discarder: Discarder::new(cores),
            failed: false,
            closed_count: 0,
            stop_flush_pending: 0,
            stop_flush_failed: false,
        }
    }

    /// Begins: [`Mail::Started`] follows when the superblocks durably say that the array is in
    /// use. No host request may reach a channel before.
    pub fn start(&mut self, out: &mut Out<'_>) {
        assert_eq!(self.life, Life::Starting);
        self.want_recorded();
        self.go_on(out);
    }

    /// Begins to stop: [`Mail::Stopped`] follows when nothing of the array is in flight.
    pub fn stop(&mut self, out: &mut Out<'_>) {
        if self.life != Life::Running {
            return;
        }
        self.set_life(Life::Closing);
        out.mail.push_back(Mail::Channels(ToChannel::Close));
    }

    /// A channel says something.
    pub fn handle(&mut self, core: u16, message: ToOwner, out: &mut Out<'_>) {
        match message {
            ToOwner::StartWrite(question) => self.start_write(core, question, out),
            ToOwner::Discard(discard) => self.discard(core, discard),
            ToOwner::MemberFailed(slot) => self.fail_member(slot, out),
            ToOwner::ReadFailed(slot, range) => self.read_failed(slot, range, out),
            ToOwner::BadNote(note) => self.bad_note(core, note),
            ToOwner::WriteLost { first, last } => self.write_lost(first, last),
            ToOwner::Adopted(epoch) => self.recorder.adopted(core, epoch),
            ToOwner::Drained(round) => self.drained(round),
            ToOwner::Latency(sample) => self.latency_told(sample),
            ToOwner::Quiesced(round) => self.quiesced(round, out),
            ToOwner::Locked(DISCARD_WINDOW) => self.piece_locked(),
            ToOwner::Locked(window) => self.window_locked(window),
            ToOwner::Forgotten(id, is_forgotten) => self.forgotten(id, is_forgotten),
            ToOwner::Paused(round) => self.paused(round, out),
            ToOwner::PauseEnded(round, slots) => self.pause_ended(round, slots, out),
            ToOwner::HasGrown => self.has_grown(),
            ToOwner::Closed => self.closed_count += 1,
        }
        self.go_on(out);
    }

    /// A member has answered a request of the owner.
    pub fn io_done(&mut self, tag: Tag, status: IoStatus, out: &mut Out<'_>) {
        match OwnerOp::unpack(tag.op) {
            OwnerOp::Unit(index) => self.unit_answered(index, tag.part, status, out),
            OwnerOp::Superblock => self.superblock_answered(tag.part, status, out),
            OwnerOp::Zero(index) => self.zero_answered(index, tag.part, status, out),
            OwnerOp::Window(index) => self.window_answered(index, tag.part, status, out),
            OwnerOp::Flush => self.flush_answered(tag.part, status, out),
            OwnerOp::Free => self.free_answered(out),
            OwnerOp::LogHead => self.head_answered(tag.part, status, out),
            OwnerOp::Replay => self.replay_answered(tag.part, status, out),
            OwnerOp::RebuildFlush => self.rebuild_flushed(tag.part, status, out),
            OwnerOp::Grow(index) => self.grow_answered(index, tag.part, status),
            OwnerOp::BadFlush => self.bad_flushed(status, out),
            OwnerOp::BadLog => self.bad_log_written(status, out),
        }
        self.go_on(out);
    }

    /// A timer armed by [`Mail::Arm`] has run out.
    pub fn timer(&mut self, timer: ArrayTimer, out: &mut Out<'_>) {
        match timer {
            ArrayTimer::DaemonSleep => self.daemon_wakes(out),
            ArrayTimer::BarrierIdle => self.daemon_rested(out),
            ArrayTimer::Checkpoint => self.checkpoint_due(out),
            ArrayTimer::Pace => self.pace_ticks(out),
            ArrayTimer::Patience => self.patience_ticks(out),
        }
        self.go_on(out);
    }

    /// A turn of the core: the next step of what nobody waits for, and only one, so that a host
    /// request of this core is not held up by it for longer than a microsecond or two.
    pub fn poll(&mut self, out: &mut Out<'_>) {
        if self.is_pausing() {
        } else if self.daemon.is_walking() {
            self.poll_daemon(out);
        } else {
            self.write_back(out);
        }
        self.go_on(out);
    }

    /// Moves every part that somebody waits for as far as it can go without another event.
    /// Bounded work.
    pub(super) fn go_on(&mut self, out: &mut Out<'_>) {
        self.poll_replay(out);
        self.poll_join(out);
        self.poll_bitmap(out);
        self.poll_recorder(out);
        self.poll_bad(out);
        self.poll_vouching(out);
        self.poll_zeroing(out);
        self.poll_rebuild(out);
        self.poll_replace(out);
        self.poll_grow(out);
        self.poll_scrub(out);
        self.poll_resync(out);
        self.poll_discard(out);
        self.poll_life(out);
    }

    /// Whether [`Self::poll`] has more to do without another event.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.daemon.is_walking() && !self.is_pausing()
            || self.may_write_back()
            || self.is_settling()
            || self.log.wants_buffer()
            || self.join_can_go_on()
            || self.rebuild_can_go_on()
            || self.replace_can_go_on()
            || self.grow_can_go_on()
            || self.bad_can_go_on()
            || self.scrub_can_end()
            || self.may_copy()
                && !self.is_pausing()
                && (self.walker.is_searching()
                    || self.is_searching_rebuild()
                    || self.is_searching_scrub())
            || self.walker.wants_buffer()
            || self.discarder.is_searching()
    }

    fn poll_life(&mut self, out: &mut Out<'_>) {
        match self.life {
            Life::Starting if self.failed && !self.awaits_members() => {
                self.set_life(Life::Stopped);
                out.mail.push_back(Mail::Started(Err(IoStatus::MediaError)));
            }
            // Chunks count as open whose bytes may differ between the members until all units
            // have been written anew.
            Life::Starting
                if self.recorder.is_durable()
                    && self.bitmap.as_ref().is_none_or(BitmapKeeper::is_quiet)
                    || mutant!(ServeBeforeRecorded) =>
            {
                self.set_life(Life::Running);
                self.arm_daemon(out);
                self.announce_start(out);
                self.repair_listed();
                out.mail.push_back(Mail::Started(Ok(())));
                if !mutant!(DoubtWaitsForWrite) {
                    self.walker.look_again();
                }
            }
            Life::Closing if self.closed_count == self.cores => {
                assert!(self.discarder.is_idle(), "a channel closed with a discard under way");
                self.set_life(Life::Winding);
                self.daemon.stop();
                self.poll_life(out);
            }
            Life::Winding
                if self.walker.is_idle()
                    && self.bad_keeper.is_idle()
                    && self.daemon.is_idle()
                    && !self.rebuilder.is_flushing() =>
            {
                self.set_life(Life::Flushing);
                if mutant!(StopWithoutFlush) {
                    return self.poll_life(out);
                }
                self.stop_flush_pending = self.writable;
                self.flush_members(out);
            }
            Life::Flushing if self.stop_flush_pending == 0 => {
                self.note_progress_at_stop();
                self.set_life(Life::Settling);
                self.poll_life(out);
            }
            Life::Settling => {
                self.settle_bitmap(out);
                let is_settled = self.bitmap.as_ref().is_none_or(BitmapKeeper::is_settled);
                let is_over = is_settled && !self.is_settling() && !self.joiner.is_marking();
                if is_over || self.failed {
                    self.set_life(Life::Sealing);
                    self.want_superblock();
                    self.go_on(out);
                }
            }
            Life::Sealing
                if (self.recorder.is_durable() || self.failed) && !self.awaits_members() =>
            {
                let clean = self.is_clean() && !self.failed;
                let is_kept = !self.failed && !self.stop_flush_failed;
                self.set_life(Life::Stopped);
                out.mail.push_back(Mail::Event(super::ArrayEvent::Stopped { clean }));
                let result = if is_kept { Ok(()) } else { Err(IoStatus::MediaError) };
                out.mail.push_back(Mail::Stopped(result));
            }
            _ => {}
        }
    }

    /// Requests for metadata or zeroing are in flight: an array that has failed no longer waits
    /// for their success, but for their end it must.
    fn awaits_members(&self) -> bool {
        self.recorder.is_writing()
            || self.bad_keeper.awaits_member()
            || self.log.awaits_members()
            || self.grower.awaits_members()
            || self.bitmap.as_ref().is_some_and(BitmapKeeper::awaits_members)
    }

    /// A member has flushed on the way to a stop, or has not.
    pub(super) fn stop_flush_answered(&mut self, slot: MemberSlot, status: IoStatus) {
        self.stop_flush_pending &= !super::bit(slot);
        let is_kept = !self.shared.geometry.may_fail(self.in_sync, slot);
        self.stop_flush_failed |= !status.is_ok() && is_kept;
    }

    /// What the last member has in its cache may be lost.
    pub(super) fn stop_flush_has_failed(&self) -> bool {
        self.stop_flush_failed
    }

    /// What was Dirty may be called Clean: everybody is there and everything is on the media.
    pub(super) fn may_settle_clean(&self) -> bool {
        !self.is_degraded() && !self.stop_flush_failed && self.absences_are_recorded()
    }

    fn set_life(&mut self, next: Life) {
        assert!(self.life.allows(next), "an array went from {:?} to {next:?}", self.life);
        self.life = next;
    }

    /// Where the array is in its life.
    pub(super) fn life(&self) -> Life {
        self.life
    }

    /// A slot has no member in sync: chunks that are written now must be copied to it later.
    pub(super) fn is_degraded(&self) -> bool {
        self.in_sync != self.shared.geometry.all_slots()
    }

    /// A slot has no member that is written: it misses what is written now.
    pub(super) fn is_short(&self) -> bool {
        self.writable & self.shared.geometry.all_slots() != self.shared.geometry.all_slots()
    }

    /// The array can no longer keep its promises: everything that changes data is refused.
    pub(super) fn fail_array(&mut self, out: &mut Out<'_>) {
        if !std::mem::replace(&mut self.failed, true) {
            out.mail.push_back(Mail::Event(super::ArrayEvent::MetadataLost));
            out.mail.push_back(Mail::Channels(ToChannel::Failed));
            self.refuse_waiters(out);
        }
    }

    /// Where the data of a member that takes part lie.
    pub(super) fn place(&self, slot: MemberSlot) -> MemberPlace {
        self.places[usize::from(slot)].expect("the member takes part")
    }

    /// Sends a request to a member.
    pub(super) fn send(
        &self,
        slot: MemberSlot,
        owner_op: OwnerOp,
        request: MemberRequest,
        out: &mut Out<'_>,
    ) {
        self.send_to(self.place(slot).bdev, slot, owner_op, request, out);
    }

    /// Sends a request to a bdev; `part` comes back with its answer.
    pub(super) fn send_to(
        &self,
        bdev: BdevId,
        part: MemberSlot,
        owner_op: OwnerOp,
        request: MemberRequest,
        out: &mut Out<'_>,
    ) {
        let io = BdevIo {
            op: request.op,
            fua: request.op.modifies() && !self.is_flushed_later(owner_op),
            lba: request.lba,
            blocks: request.blocks,
            buf: request.buf,
            completion: Completion::new(Tag {
                station: Station::RaidOwner,
                part,
                object: self.shared.bdev.0,
                op: owner_op.pack(),
            }),
        };
        out.io.submit(bdev, io);
    }

    /// What an operator sees.
    #[must_use]
    pub fn status(&self) -> ArrayStatus {
        let slots = usize::from(self.shared.geometry.slots());
        let members = self.members.iter().enumerate().take(slots);
        let own = || self.members.iter().take(slots);
        ArrayStatus {
            members: members
                .map(|(slot, member)| {
                    (self.places[slot].map(|place| place.bdev), member.state.name())
                })
                .collect(),
            histogram: self.shared.map.as_ref().map_or([0; 8], |map| map.histogram()),
            chunk_size_bytes: match self.shared.map {
                Some(_) => u64::from(self.shared.block_size_bytes) << self.shared.chunk_shift,
                None => 0,
            },
            block_size_bytes: self.shared.block_size_bytes,
            events: self.recorder.events(),
            resync: self.walker.progress(),
            rebuild: self.rebuilder.progress().map(|rebuild| RebuildStatus {
                checkpoint: self.members[usize::from(rebuild.slot)]
                    .rebuild
                    .map_or(0, |rebuild| rebuild.done as u64),
                slot: self.origin(rebuild.slot),
                replaces: self.origin(rebuild.slot) != rebuild.slot,
                ..rebuild
            }),
            pace: self.pacer.pace(),
            scrub: self.scrubber.status(),
            failed: self.failed,
            knobs: self.bitmap.as_ref().map(|bitmap| super::Knobs {
                daemon_sleep_s: Some(bitmap.daemon_sleep_s()),
                barrier_idle_s: Some(self.daemon.idle_s()),
                infection: Some(bitmap.infection()),
            }),
            bitmap_writes: self.bitmap.as_ref().map_or(0, BitmapKeeper::writes),
            replacement: self.replacement_status(),
            growth: self.growth_status(),
            read_errors: own().map(|member| member.read_errors.total).collect(),
            corrected_sectors: own()
                .map(|it| it.superblock.as_ref().map_or(0, |own| own.corrected_reads))
                .collect(),
            error_policy: self.error_policy,
            bad_blocks: (0..).take(slots).map(|slot| self.bad.list(slot).to_vec()).collect(),
        }
    }
}

/// A request of the owner to one member; everything but a read is durable when it ends.
#[derive(Debug)]
pub(super) struct MemberRequest {
    pub(super) op: IoOp,
    /// First block on the member.
    pub(super) lba: u64,
    pub(super) blocks: u32,
    pub(super) buf: Option<IoBuf>,
}

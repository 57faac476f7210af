//! The owner's part of the stripe log: its heads, and what is written in place at the start.

use super::message::{BlockRange, Mail, Out, SlotMask, ToChannel};
use super::owner::{Life, MemberRequest, Owner, OwnerOp};
use super::owner_bitmap::BitmapKeeper;
use super::stripe_log::{holders, record_lba};
use super::{ArrayConfig, MemberSlot, Shared, bit, slots};
use crate::bdev::{IoOp, IoStatus};
use crate::bitmap::ChunkState;
use crate::md::stripe_log::{Fragment, LOG_HEAD_BYTES, LiveRecord, LogHead, LogLayout, LogRoom};
use crate::md::{Role, Superblock};
use crate::reactor::buf::{BufPool, IoBuf};

/// How far the records of the last run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplayState {
    /// The record is being copied to members, so that one of those left will have it.
    Copying {
        /// Its index.
        record: usize,
    },
    /// Records are being written in place, from this fragment of this one on.
    Placing {
        /// Its index.
        record: usize,
        /// The next fragment.
        fragment: usize,
    },
    /// All are in place, durably.
    Done,
}

impl ReplayState {
    fn allows(self, next: Self) -> bool {
        use ReplayState::{Copying, Done, Placing};
        matches!(
            (self, next),
            (Copying { .. }, Copying { .. } | Placing { record: 0, fragment: 0 })
                | (Placing { .. }, Placing { .. } | Done)
        )
    }
}

/// Writing in place what the log of the last run has.
#[derive(Debug)]
struct Replay {
    state: ReplayState,
    /// Members that may be here after a crash: those that are now, and those whose absence the
    /// superblocks do not tell of yet.
    returning: SlotMask,
    layout: LogLayout,
    records: Vec<LiveRecord>,
    pending: u32,
    /// Members that have been asked in this step, and those of them that failed.
    asked: SlotMask,
    failed: SlotMask,
    wants_buffer: bool,
}

impl Replay {
    /// The fragments of a record may be written at once; two records may be of one row.
    fn may_go_on(&self) -> bool {
        let is_in_record = |record: usize, fragment: usize| {
            self.records.get(record).is_some_and(|it| fragment < it.fragments.len())
        };
        match self.state {
            _ if self.pending == 0 => true,
            ReplayState::Placing { record, fragment } => is_in_record(record, fragment),
            _ => false,
        }
    }

    fn set_state(&mut self, next: ReplayState) {
        assert!(self.state.allows(next), "a replay went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

/// The owner's part of the log.
#[derive(Debug)]
pub(super) struct LogKeeper {
    replay: Replay,
    /// As it was last written, or is being written; `None`: no log is kept.
    head: Option<LogHead>,
    /// That of the last run, which counts until it is durable that who is not here is out: its
    /// records have not been written in place there.
    old: Option<LogHead>,
    /// One a member.
    bufs: Vec<IoBuf>,
    pending: SlotMask,
    failed: SlotMask,
    ok: SlotMask,
    next_oblivion: u32,
    /// What the rings were asked by when a member's rebuild began, how many have not answered, and
    /// whether one could not do it.
    renewal: Option<(u32, u16)>,
    renewal_failed: bool,
}

impl LogKeeper {
    /// `None` when the pool has no buffers.
    pub(super) fn new(config: &ArrayConfig, shared: &Shared, pool: &BufPool) -> Option<Self> {
        let head = shared.log.as_ref().map(|log| LogHead {
            set_uuid: log.identity.set_uuid,
            run: log.identity.run,
            events: 0,
            vouches: false,
            idle: false,
            layout: log.layout,
        });
        let bufs = if head.is_some() { shared.places_len() } else { 0 };
        let none = LogLayout { rings: 1, slots: 1, slot_bytes: 1 };
        let found = config.log.replay.clone().filter(|_| config.log.trusted);
        let (old, records) = found.map_or((None, Vec::new()), |(old, all)| (Some(old), all));
        let layout = old.map_or(none, |old| old.layout);
        let state = match records.is_empty() {
            true => ReplayState::Done,
            false => ReplayState::Copying { record: 0 },
        };
        let returning = config.writable() | not_on_record(config);
        let replay = Replay {
            state,
            returning,
            layout,
            records,
            pending: 0,
            asked: 0,
            failed: 0,
            wants_buffer: false,
        };
        Some(Self {
            replay,
            head,
            old: old.filter(|_| head.is_some()),
            bufs: (0..bufs).map(|_| pool.get(LOG_HEAD_BYTES)).collect::<Option<_>>()?,
            pending: 0,
            failed: 0,
            ok: 0,
            next_oblivion: 0,
            renewal: None,
            renewal_failed: false,
        })
    }

    /// What the last run was writing is not in place yet.
    pub(super) fn is_replaying(&self) -> bool {
        self.replay.state != ReplayState::Done
    }

    pub(super) fn wants_buffer(&self) -> bool {
        self.replay.wants_buffer
    }

    pub(super) fn awaits_members(&self) -> bool {
        self.pending != 0 || self.replay.pending != 0
    }

    pub(super) fn has_requests_at(&self, slot: MemberSlot) -> bool {
        self.pending & bit(slot) != 0
    }

    /// The heads that go with the update of the superblocks that is under way are durable.
    pub(super) fn heads_are_written(&self) -> bool {
        self.pending == 0
    }

    /// The heads that were written last go with this event count.
    pub(super) fn is_of(&self, events: u64) -> bool {
        self.head.is_none_or(|head| head.events == events)
    }

    /// It is durable who is out: from the next update on the last run's log is nothing. Whether
    /// there was one.
    pub(super) fn forget_old(&mut self) -> bool {
        self.old.take().is_some()
    }

    /// Channels are asked for a floor above all records.
    pub(super) fn is_renewing(&self) -> bool {
        self.renewal.is_some()
    }

    /// A number for a question of oblivion.
    pub(super) fn next_oblivion(&mut self) -> u32 {
        self.next_oblivion = self.next_oblivion.wrapping_add(1);
        self.next_oblivion
    }
}

/// Slots whose members are not here although a superblock calls them active: who has it may be here
/// alone after a crash.
fn not_on_record(config: &ArrayConfig) -> SlotMask {
    let superblocks = config.members.iter().flatten().map(|member| &member.superblock);
    let active =
        superblocks.flat_map(|superblock| &superblock.roles).filter_map(|role| match role {
            Role::Active(slot) => u8::try_from(*slot).ok(),
            Role::Spare | Role::Faulty | Role::Journal => None,
        });
    let absent = active.filter(|slot| matches!(config.members.get(usize::from(*slot)), Some(None)));
    absent.fold(0, |mask, slot| mask | bit(slot))
}

/// Heads.
impl Owner {
    /// Parity fits what was written in every row but those that live records are about.
    fn may_vouch(&self) -> bool {
        // Where Linux md has not built any, the next start knows it by the states.
        self.shared.doubt.torn_count() == 0
    }

    /// Writes the heads that go with the superblocks' next event count.
    pub(super) fn write_heads(&mut self, out: &mut Out<'_>) {
        let (vouches, idle) = (self.may_vouch(), self.life() == Life::Sealing);
        let events = self.recorder.events();
        let block = u64::from(self.shared.block_size_bytes);
        let (Some(head), Some(log)) = (&mut self.log.head, &self.shared.log) else { return };
        (head.events, head.vouches, head.idle) = (events, vouches, idle);
        let head = match self.log.old {
            Some(old) if !mutant!(LogForgottenEarly) => LogHead { events, ..old },
            _ => *head,
        };
        if vouches {
            // Before any member may say so.
            log.vouching.set(true);
        }
        let targets = self.writable;
        (self.log.pending, self.log.ok, self.log.failed) = (targets, 0, 0);
        for slot in slots(targets) {
            let buf = &mut self.log.bufs[usize::from(slot)];
            head.encode_into(buf.as_mut_slice());
            // What says something is in the first block.
            let bytes = usize::try_from(block).expect("a block fits");
            let request = MemberRequest {
                op: IoOp::Write,
                lba: self.place(slot).data_lba - LOG_HEAD_BYTES as u64 / block,
                blocks: 1,
                buf: Some(self.log.bufs[usize::from(slot)].slice(0, bytes)),
            };
            self.send(slot, OwnerOp::LogHead, request, out);
        }
    }

    /// A member has written its head, or has not.
    pub(super) fn head_answered(&mut self, slot: MemberSlot, status: IoStatus, out: &mut Out<'_>) {
        let log = &mut self.log;
        log.pending &= !bit(slot);
        *if status.is_ok() { &mut log.ok } else { &mut log.failed } |= bit(slot);
        if log.pending != 0 {
            return;
        }
        let (ok, failed) = (log.ok, log.failed);
        if ok == 0 || !self.may_fail_all(failed) {
            return self.fail_array(out);
        }
        slots(failed).for_each(|slot| self.fail_member(slot, out));
    }

    /// Whether a device with this superblock has room for the log.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn check_log_room(&self, own: &Superblock) -> Result<(), String> {
        let Some(head) = &self.log.head else { return Ok(()) };
        let header = self.bitmap.as_ref().map(BitmapKeeper::header);
        let (have, need) = (LogRoom::of(own, header).bytes, head.layout.area_bytes());
        if have >= need {
            return Ok(());
        }
        Err(format!(
            "it has {} KiB free before its data, and the array's stripe log takes {} KiB",
            have / 1024,
            need / 1024
        ))
    }

    /// Tells the channels when every head says that parity is in doubt somewhere.
    pub(super) fn poll_vouching(&mut self, out: &mut Out<'_>) {
        let (Some(head), Some(log)) = (&self.log.head, &self.shared.log) else { return };
        let is_on_record = self.recorder.is_durable() && self.absences_are_recorded();
        if log.vouching.is_on() && !head.vouches && is_on_record && self.life() != Life::Starting {
            log.vouching.set(false);
            out.mail.push_back(Mail::Channels(ToChannel::Unvouched));
        }
    }

    /// Parity has come in doubt: the heads are to say so.
    pub(super) fn doubt_raised(&mut self) {
        if self.log.head.is_some_and(|head| head.vouches) {
            self.want_superblock();
        }
    }

    /// Resync has made parity: if all is right now, the heads may say so.
    pub(super) fn vouch_again(&mut self) {
        let doubts = self.log.head.is_some_and(|head| !head.vouches);
        if doubts && self.life() == Life::Running && self.may_vouch() {
            self.want_superblock();
        }
    }
}

/// Members that join.
impl Owner {
    /// Every channel writes to a member that joins: asks the rings for a floor above all records
    /// so far.
    pub(super) fn renew_log(&mut self, out: &mut Out<'_>) {
        if self.shared.log.is_none() || mutant!(JoinedUnderOldLog) {
            return;
        }
        let id = self.log.next_oblivion();
        (self.log.renewal, self.log.renewal_failed) = (Some((id, self.cores)), false);
        let all = BlockRange { lba: 0, blocks: self.shared.sync_blocks };
        out.mail.push_back(Mail::Channels(ToChannel::Forget(id, all)));
    }

    /// Whether they all have one.
    pub(super) fn log_is_renewed(&self) -> bool {
        self.log.renewal.is_none() && !self.log.renewal_failed
    }

    /// They are asked again if one could not. Not at once: see `end_copying`.
    pub(super) fn renew_log_again(&mut self, out: &mut Out<'_>) {
        if self.log.renewal.is_none() && self.log.renewal_failed {
            self.renew_log(out);
        }
    }

    /// The answer of a channel.
    pub(super) fn log_renewed(&mut self, id: u32, is_renewed: bool) {
        if let Some((asked, left)) = self.log.renewal.filter(|(asked, _)| *asked == id) {
            self.log.renewal = (left > 1).then_some((asked, left - 1));
            self.log.renewal_failed |= !is_renewed;
        }
    }
}

/// Replay.
impl Owner {
    /// Goes on with what is to be written in place before the array starts.
    pub(super) fn poll_replay(&mut self, out: &mut Out<'_>) {
        let replay = &mut self.log.replay;
        replay.wants_buffer = false;
        while self.log.replay.may_go_on() && !self.failed && self.life() == Life::Starting {
            let goes_on = match self.log.replay.state {
                ReplayState::Copying { record } => self.copy_record(record, out),
                ReplayState::Placing { record, fragment } => {
                    self.place_fragment(record, fragment, out)
                }
                ReplayState::Done => return,
            };
            if !goes_on {
                self.log.replay.wants_buffer = self.log.replay.pending == 0;
                return;
            }
        }
    }

    /// Makes the copies of a record as many as a crash in the midst of its placing may need.
    /// `false`: not now.
    fn copy_record(&mut self, index: usize, out: &mut Out<'_>) -> bool {
        let parity = self.shared.parity().expect("a level with parity");
        // What replaces a member is given these chunks by its copy.
        let writable = self.writable & !self.shared.twin_bit();
        let data_members = parity.data_members();
        let replay = &mut self.log.replay;
        let record = &mut replay.records[index];
        record.holders |= std::mem::take(&mut replay.asked) & !std::mem::take(&mut replay.failed);
        let returning = if mutant!(ReplayForgetsAbsent) { writable } else { replay.returning };
        let wanted = holders(returning, data_members, 0).count_ones().min(writable.count_ones());
        let have = (record.holders & writable).count_ones();
        if have >= wanted || mutant!(ReplayWithoutCopies) {
            let is_last = index + 1 == replay.records.len();
            replay.set_state(match is_last {
                true => ReplayState::Placing { record: 0, fragment: 0 },
                false => ReplayState::Copying { record: index + 1 },
            });
            return true;
        }
        let lacking = slots(writable & !record.holders).take((wanted - have) as usize);
        let targets = lacking.fold(0, |mask, slot| mask | bit(slot));
        let (ring, sequence, len) = (record.ring, record.sequence, record.bytes.len());
        let Some(mut buf) = self.pool.get(len) else { return false };
        buf.as_mut_slice().copy_from_slice(&record.bytes);
        let block = self.shared.block_size_bytes;
        let layout = replay.layout;
        replay.asked = targets;
        replay.pending = targets.count_ones();
        for slot in slots(targets) {
            let request = MemberRequest {
                op: IoOp::Write,
                lba: record_lba(&layout, block, &self.place(slot), ring, sequence),
                blocks: u32::try_from(len / block as usize).expect("inside a slot"),
                buf: Some(buf.clone()),
            };
            self.send(slot, OwnerOp::Replay, request, out);
        }
        true
    }

    /// Writes a fragment in place, or goes to the next record. `false`: not now.
    fn place_fragment(&mut self, index: usize, at: usize, out: &mut Out<'_>) -> bool {
        let replay = &mut self.log.replay;
        if index == replay.records.len() {
            replay.records = Vec::new();
            replay.set_state(ReplayState::Done);
            return true;
        }
        let record = &replay.records[index];
        let Some(&Fragment { slot, lba, blocks, offset }) = record.fragments.get(at) else {
            replay.set_state(ReplayState::Placing { record: index + 1, fragment: 0 });
            return true;
        };
        let next = ReplayState::Placing { record: index, fragment: at + 1 };
        let is_here = usize::from(slot) < self.members.len() && self.writable & bit(slot) != 0;
        if !is_here || self.is_all_unwritten(lba, blocks) {
            self.log.replay.set_state(next);
            return true;
        }
        let len = blocks as usize * self.shared.block_size_bytes as usize;
        let Some(mut buf) = self.pool.get(len) else { return false };
        let replay = &mut self.log.replay;
        let bytes = &replay.records[index].bytes[offset..offset + len];
        buf.as_mut_slice().copy_from_slice(bytes);
        replay.set_state(next);
        replay.pending += 1;
        let lba = self.place(slot).data_lba + lba;
        let request = MemberRequest { op: IoOp::Write, lba, blocks, buf: Some(buf) };
        self.send(slot, OwnerOp::Replay, request, out);
        true
    }

    /// Chunks that have been discarded since read as zeroes, whatever is there.
    fn is_all_unwritten(&self, lba: u64, blocks: u32) -> bool {
        let Some(map) = self.shared.map.as_ref().filter(|_| self.shared.unwritten_reads_zero)
        else {
            return false;
        };
        let mut chunks = self.shared.chunks(lba, blocks.into());
        chunks.all(|chunk| map.state(chunk) == ChunkState::Unwritten)
    }

    /// A member has written something of the last run, or has not: then the others go on without
    /// it, and it is on record that it is out before the array serves.
    pub(super) fn replay_answered(
        &mut self,
        slot: MemberSlot,
        status: IoStatus,
        out: &mut Out<'_>,
    ) {
        let replay = &mut self.log.replay;
        replay.pending -= 1;
        if status.is_ok() || self.failed {
            return;
        }
        replay.failed |= bit(slot);
        match self.may_fail_all(bit(slot)) {
            true => self.fail_member(slot, out),
            false => self.fail_array(out),
        }
    }
}

//! The owner's keeping of the members' bad-block logs.
//!
//! A list changes when a write to a listed range succeeds ("good"), and when one fails that the
//! array's policy, or the lack of anything to copy, makes no reason to fail the member ("bad").
//! Who has written asks the owner for the change, and takes the write for done only when the owner
//! has answered. By then
//!
//! 1. a good range's data are on the medium: the member is flushed first, else a power cut might
//!    leave what was there before, and no list to say so;
//! 2. the log on the member says it, and if it was empty before, the superblock says that there is
//!    one;
//! 3. every channel reads by the new list.
//!
//! A log is written whole and only its first sector is used, so that a power cut leaves the old
//! list or the new one. One with more entries, which Linux may have made, is left as it is: what it
//! lists stays listed, and the member fails if there is to be more. So it does when its log can't
//! be written.
//!
//! Zeroes that a chunk gets before its first write are no reason to take it off the list: where
//! nobody else has the block it goes on to be an error until it is written.
//!
//! The list is about data that somebody has written. Whatever the policy is, a member fails that
//! can't write metadata, that is superblock, bitmap or stripe log, which lie before the data and
//! without which it is of no use; or that can't zero a chunk before its first write: the zeroing
//! fails as a whole, so all of the chunk would be listed, and a chunk of a large array is more than
//! a log has room for.

use std::collections::VecDeque;

use super::bad;
use super::message::{ArrayEvent, BadNote, BlockRange, Mail, Noted, Out, SlotMask, ToChannel};
use super::owner::{MemberRequest, Owner, OwnerOp};
use super::owner_bitmap::BitmapKeeper;
use super::{MemberSlot, bit};
use crate::bdev::{IoOp, IoStatus};
use crate::md::{self, BAD_BLOCK_LOG_SECTORS_MAX, Features, SECTOR_BYTES};
use crate::reactor::buf::{BufPool, IoBuf};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// The channel of this core, for this operation.
    Channel(u16, u32),
    /// A window of the walker.
    Window(usize),
    /// The same, which has found nothing to copy to the member: whatever the policy is.
    Lack(usize),
}

/// A change that is asked for.
#[derive(Debug, Clone, Copy)]
struct Change {
    slot: MemberSlot,
    /// Blocks of the member's data.
    range: BlockRange,
    is_good: bool,
    asker: Asker,
    answer: Noted,
}

/// How far the changes at hand, all of one member, are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeepState {
    /// There are none.
    Idle,
    /// The member is flushing.
    Flushing,
    /// The log is being written.
    Writing,
    /// Waits for this update of the superblocks, the first that says that there is a log.
    Recording { update: u64 },
    /// Waits until every channel has the list.
    Adopting { epoch: u32 },
}

impl KeepState {
    fn allows(self, next: Self) -> bool {
        use KeepState::{Adopting, Flushing, Idle, Recording, Writing};
        matches!(
            (self, next),
            (Idle, Flushing | Writing)
                | (Flushing, Writing)
                | (Writing, Recording { .. } | Adopting { .. })
                | (Recording { .. }, Adopting { .. })
                | (_, Idle)
        )
    }
}

/// The part of the owner that keeps the logs.
#[derive(Debug)]
pub(super) struct BadKeeper {
    state: KeepState,
    waiting: VecDeque<Change>,
    /// Those at hand, their member, and what it lists then.
    at_hand: Vec<Change>,
    slot: MemberSlot,
    list: Vec<BlockRange>,
    buf: IoBuf,
}

impl BadKeeper {
    /// `None` when the pool has no buffer, which is reserved here for good.
    pub(super) fn new(pool: &BufPool) -> Option<Self> {
        Some(Self {
            state: KeepState::Idle,
            waiting: VecDeque::new(),
            at_hand: Vec::new(),
            slot: 0,
            list: Vec::new(),
            buf: pool.get(usize::from(BAD_BLOCK_LOG_SECTORS_MAX) * 512)?,
        })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state == KeepState::Idle && self.waiting.is_empty()
    }

    /// Changes of the slot's list, or requests to its device, are under way.
    pub(super) fn has_requests_at(&self, slot: MemberSlot) -> bool {
        self.waiting.iter().chain(&self.at_hand).any(|change| change.slot == slot)
            || self.slot == slot && self.awaits_member()
    }

    /// Requests to a device are under way.
    pub(super) fn awaits_member(&self) -> bool {
        matches!(self.state, KeepState::Flushing | KeepState::Writing)
    }

    fn set_state(&mut self, next: KeepState) {
        assert!(self.state.allows(next), "a log went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

impl Owner {
    /// A channel has written to a range that is listed, or could not write to one.
    pub(super) fn bad_note(&mut self, core: u16, note: BadNote) {
        let BadNote { op, slot, range, is_good } = note;
        self.want_change(slot, range, is_good, Asker::Channel(core, op));
    }

    /// A list is to change.
    pub(super) fn want_change(
        &mut self,
        slot: MemberSlot,
        range: BlockRange,
        is_good: bool,
        asker: Asker,
    ) {
        let answer = Noted::Kept;
        self.bad_keeper.waiting.push_back(Change { slot, range, is_good, asker, answer });
    }

    /// What the changes wait for has come about.
    pub(super) fn bad_can_go_on(&self) -> bool {
        let is_out = self.failed || self.writable & bit(self.bad_keeper.slot) == 0;
        match self.bad_keeper.state {
            KeepState::Idle => !self.bad_keeper.waiting.is_empty(),
            KeepState::Flushing | KeepState::Writing => false,
            KeepState::Recording { update } => is_out || self.recorder.has_recorded(update),
            KeepState::Adopting { epoch } => self.recorder.is_adopted(epoch),
        }
    }

    /// Takes the changes as far as they can go now.
    pub(super) fn poll_bad(&mut self, out: &mut Out<'_>) {
        while self.bad_can_go_on() {
            let is_out = self.failed || self.writable & bit(self.bad_keeper.slot) == 0;
            match self.bad_keeper.state {
                KeepState::Idle => self.begin_changes(out),
                KeepState::Flushing | KeepState::Writing => unreachable!("members are to answer"),
                KeepState::Recording { .. } if is_out => self.refuse_changes(out),
                KeepState::Recording { .. } => self.publish_list(out),
                KeepState::Adopting { .. } => self.end_changes(out),
            }
        }
    }

    /// Takes up all changes of the member that one has waited longest for.
    fn begin_changes(&mut self, out: &mut Out<'_>) {
        let keeper = &mut self.bad_keeper;
        let slot = keeper.waiting.front().expect("a change waits").slot;
        keeper.slot = slot;
        keeper.at_hand.extend(keeper.waiting.iter().filter(|change| change.slot == slot));
        keeper.waiting.retain(|change| change.slot != slot);
        if self.failed || self.writable & bit(slot) == 0 {
            return self.refuse_changes(out);
        }
        let mut list = self.bad.list(slot).to_vec();
        let mut changes = std::mem::take(&mut self.bad_keeper.at_hand);
        for change in &mut changes {
            if change.is_good {
                list = match mutant!(BadBlocksForever) {
                    true => list,
                    false => bad::without(&list, change.range),
                };
                continue;
            }
            change.answer = self.may_list(change, &list);
            if change.answer == Noted::Kept {
                list = bad::with(&list, change.range);
            }
        }
        self.bad_keeper.at_hand = changes;
        if list == self.bad.list(slot) {
            return self.answer_changes(out);
        }
        if self.log_page(slot, &list).is_none() {
            return self.refuse_changes(out);
        }
        self.bad_keeper.list = list;
        if mutant!(BadBlocksAcknowledgedEarly) {
            let list = self.bad_keeper.list.clone();
            self.set_bad(slot, list, out);
            self.answer_changes(out);
        }
        if !self.bad_keeper.at_hand.iter().any(|change| change.is_good) {
            return self.write_list(out);
        }
        self.bad_keeper.set_state(KeepState::Flushing);
        let request = MemberRequest { op: IoOp::Flush, lba: 0, blocks: 0, buf: None };
        self.send(slot, OwnerOp::BadFlush, request, out);
    }

    /// Whether a range that could not be written may be listed.
    fn may_list(&self, change: &Change, list: &[BlockRange]) -> Noted {
        let is_covered = bad::covers(list, &change.range);
        // With parity it must still be possible to compute what the member lacks now.
        let others = self.in_sync & !bit(change.slot);
        let is_read = self.in_sync & bit(change.slot) != 0;
        let is_lost = self.parity_work.is_some() && is_read && {
            let lost = self.bad.at(&self.shared, &change.range, others);
            !self.shared.geometry.is_readable(others & !lost)
        };
        match change.asker {
            // Also of what is listed: there it may have been told with others that are gone now.
            Asker::Channel(..) if is_lost => Noted::Lost,
            _ if is_covered => Noted::Kept,
            Asker::Window(_) if is_lost => Noted::Lost,
            Asker::Channel(..) | Asker::Window(_) if !self.bad.is_used() => Noted::Refused,
            _ => Noted::Kept,
        }
    }

    /// The member's log with this list, and the block where it lies.
    fn log_page(&self, slot: MemberSlot, list: &[BlockRange]) -> Option<(u64, Vec<u8>)> {
        let own = self.members[usize::from(slot)].superblock.as_ref()?;
        let header = self.bitmap.as_ref().and_then(BitmapKeeper::header_on_members);
        let sector = md::bad_block_log_sector(own, header)?;
        let sectors_per_block = u64::from(self.shared.block_size_bytes) / SECTOR_BYTES;
        let sectors = u64::from(own.bblog.size_sectors);
        if self.bad.is_frozen(slot)
            || !sector.is_multiple_of(sectors_per_block)
            || !sectors.is_multiple_of(sectors_per_block)
        {
            return None;
        }
        let ranges: Vec<_> = list
            .iter()
            .map(|range| md::BadRange {
                start_sector: own.data_offset_sectors + range.lba * sectors_per_block,
                sectors: range.blocks * sectors_per_block,
            })
            .collect();
        Some((sector / sectors_per_block, md::encode_bad_blocks(&ranges, &own.bblog)?))
    }

    fn write_list(&mut self, out: &mut Out<'_>) {
        let (slot, list) = (self.bad_keeper.slot, self.bad_keeper.list.clone());
        let (lba, page) = self.log_page(slot, &list).expect("looked at before");
        self.bad_keeper.buf.as_mut_slice()[..page.len()].copy_from_slice(&page);
        self.bad_keeper.set_state(KeepState::Writing);
        let blocks = page.len() / self.shared.block_size_bytes as usize;
        let request = MemberRequest {
            op: IoOp::Write,
            lba,
            blocks: u32::try_from(blocks).expect("a log has at most 8 sectors"),
            buf: Some(self.bad_keeper.buf.slice(0, page.len())),
        };
        self.send(slot, OwnerOp::BadLog, request, out);
    }

    /// The member has flushed, or has not.
    pub(super) fn bad_flushed(&mut self, status: IoStatus, out: &mut Out<'_>) {
        let slot = self.bad_keeper.slot;
        if !status.is_ok() {
            self.fail_member(slot, out);
        }
        if !status.is_ok() || self.failed || self.writable & bit(slot) == 0 {
            return self.refuse_changes(out);
        }
        self.write_list(out);
    }

    /// The member has its new log, or has not.
    pub(super) fn bad_log_written(&mut self, status: IoStatus, out: &mut Out<'_>) {
        let slot = self.bad_keeper.slot;
        if !status.is_ok() {
            self.fail_member(slot, out);
        }
        if !status.is_ok() || self.failed || self.writable & bit(slot) == 0 {
            return self.refuse_changes(out);
        }
        let is_empty = self.bad_keeper.list.is_empty();
        let superblock = self.members[usize::from(slot)].superblock.as_mut();
        let superblock = superblock.expect("it takes part");
        let had_log = superblock.features.contains(Features::BAD_BLOCKS);
        superblock.features.set(Features::BAD_BLOCKS, !is_empty);
        if is_empty || had_log {
            return self.publish_list(out);
        }
        self.want_superblock();
        let update = self.recorder.wanted();
        self.bad_keeper.set_state(KeepState::Recording { update });
    }

    fn publish_list(&mut self, out: &mut Out<'_>) {
        let (slot, list) = (self.bad_keeper.slot, std::mem::take(&mut self.bad_keeper.list));
        for change in &self.bad_keeper.at_hand {
            let BlockRange { lba, blocks } = change.range;
            let slot = self.origin(slot);
            let event = match change.is_good {
                true => ArrayEvent::BadBlocksCleared { slot, lba, blocks },
                false => ArrayEvent::BadBlocksListed { slot, lba, blocks },
            };
            if change.answer == Noted::Kept {
                out.mail.push_back(Mail::Event(event));
            }
        }
        self.set_bad(slot, list, out);
        let epoch = self.announce_members(out);
        self.bad_keeper.set_state(KeepState::Adopting { epoch });
    }

    /// Nothing changes: what was written where it is listed stays listed, and who could not write
    /// has failed.
    fn refuse_changes(&mut self, out: &mut Out<'_>) {
        let list = self.bad.list(self.bad_keeper.slot);
        for change in &mut self.bad_keeper.at_hand {
            if !change.is_good && change.answer == Noted::Kept && !bad::covers(list, &change.range)
            {
                change.answer = Noted::Refused;
            }
        }
        self.answer_changes(out);
        self.bad_keeper.set_state(KeepState::Idle);
    }

    fn end_changes(&mut self, out: &mut Out<'_>) {
        self.answer_changes(out);
        self.bad_keeper.set_state(KeepState::Idle);
    }

    fn answer_changes(&mut self, out: &mut Out<'_>) {
        for change in std::mem::take(&mut self.bad_keeper.at_hand) {
            let Change { slot, asker, answer, .. } = change;
            match asker {
                Asker::Channel(core, op) => {
                    let answer = ToChannel::BadNoted(op, slot, answer);
                    out.mail.push_back(Mail::Channel(core, answer));
                }
                Asker::Window(index) | Asker::Lack(index) => {
                    self.window_noted(index, slot, answer, out);
                }
            }
        }
    }

    /// What members in sync list is written again from the others, once after the start.
    pub(super) fn repair_listed(&mut self) {
        // A RAID10's members have their own order, which its checks go by.
        let is_strips = self.parity_work.is_some() || self.shared.is_mirror();
        if self.bad.is_empty() || !is_strips {
            return;
        }
        let end = self.shared.sync_blocks;
        for slot in super::slots(self.in_sync) {
            for range in self.bad.list(slot).iter().filter(|range| range.lba < end) {
                let blocks = range.blocks.min(end - range.lba);
                self.walker.want_repair(slot, BlockRange { lba: range.lba, blocks });
            }
        }
    }

    /// A window has written to members: those whose lists are concerned, and has asked for the
    /// changes. `written` have done it, `failed` have not.
    pub(super) fn ask_for_piece(
        &mut self,
        index: usize,
        sync: BlockRange,
        written: SlotMask,
        failed: SlotMask,
    ) -> SlotMask {
        let mut asked = 0;
        // Who has gone since has no list here any more.
        for slot in super::slots((written | failed) & self.writable) {
            let lba = self.shared.sync_leg_lba(sync.lba, self.origin(slot));
            let range = BlockRange { lba, blocks: sync.blocks };
            let is_good = failed & bit(slot) == 0;
            let is_listed = bad::overlaps(self.bad.list(slot), &range);
            if is_listed || !is_good && self.bad.is_used() {
                self.want_change(slot, range, is_good, Asker::Window(index));
                asked |= bit(slot);
            }
        }
        asked
    }
}

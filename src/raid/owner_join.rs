//! How a member comes and goes while the array runs. One at a time.
//!
//! To join:
//!
//! 1. *Drain.* No request of any core, nor of the owner, to an earlier device in the slot is under
//!    way, and the absence of that one is durable. So an answer from the slot is the newcomer's.
//!    And the superblocks are ahead of what the newcomer carries: after the next step it is two
//!    events behind, so nobody takes it for current as it is.
//! 2. *Announce.* The superblocks of the others give its number the slot. Only then is its own
//!    written: were it first, and the power cut, it would speak of an array whose other members
//!    say that it has failed, as if both had been used apart.
//! 3. *Mark.* It is written from here on, but for the bitmap: its superblock says that it is being
//!    rebuilt from offset 0. Were units of the bitmap written while it still calls itself whole,
//!    and the power cut, it could be started alone with them: they tell of chunks written since it
//!    was away, in which it holds nobody knows what.
//! 4. *Furnish.* All units of the bitmap are written, those under way once more. A stop waits until
//!    who is marked is furnished, too.
//! 5. *Adopt.* Every channel writes to it. Only from here on does a copy stay true, so the rebuild
//!    ([`super::owner_rebuild`]) begins here.
//!
//! A crash at any point leaves it out, or being rebuilt. A member that fails on the way is out as
//! at any other time.

use std::collections::VecDeque;

use super::bad::{self, List};
use super::message::{ArrayEvent, Mail, Out, SlotMask, ToChannel};
use super::newcomer::{self, ArrayNow, Newcomer, Plan};
use super::owner::{Life, Owner};
use super::owner_bitmap::BitmapKeeper;
use super::owner_members::{Member, MemberState, Rebuild};
use super::{Lacks, MemberPlace, MemberSlot, bit, slots};
use crate::limits::MEMBERS_MAX;
use crate::md::{Features, Role, SECTOR_BYTES, Superblock};

/// Comings and goings that may wait; an operator's script that is ahead of the array is told so.
const TASKS_MAX: usize = 64;

/// Members that left and are remembered: as many as an array has, so that all may come back.
const DEPARTED_MAX: usize = MEMBERS_MAX;

/// What is to be done about a slot.
#[derive(Debug)]
enum Task {
    /// This member joins.
    Join { plan: Box<Plan>, place: MemberPlace, bitmap_lba: u64, bad: List },
    /// The slot's member, which has failed, is let go.
    Remove(MemberSlot),
}

impl Task {
    fn slot(&self) -> MemberSlot {
        match self {
            Self::Join { plan, .. } => plan.slot,
            Self::Remove(slot) => *slot,
        }
    }
}

/// How far the first task has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JoinState {
    /// Not begun.
    Idle,
    /// Waits until nothing sent to the slot before is under way.
    Draining { cores_left: u16 },
    /// Waits for this update of the others' superblocks.
    Announcing { update: u64 },
    /// Waits for this update of all superblocks, the newcomer's among them.
    Marking { update: u64 },
    /// Waits for the newcomer's bitmap.
    Furnishing,
    /// Waits until every channel uses this membership.
    Adopting { epoch: u32 },
}

impl JoinState {
    fn allows(self, next: Self) -> bool {
        use JoinState::{Adopting, Announcing, Draining, Furnishing, Idle, Marking};
        matches!(
            (self, next),
            (Idle, Draining { .. })
                | (Draining { .. }, Draining { .. } | Announcing { .. })
                | (Announcing { .. }, Marking { .. })
                | (Marking { .. }, Furnishing)
                | (Furnishing, Adopting { .. })
                | (_, Idle)
        )
    }
}

/// The comings' and goings' part of the owner.
#[derive(Debug)]
pub(super) struct Joiner {
    state: JoinState,
    tasks: VecDeque<Task>,
    round: u32,
    /// The member that is marked or furnished: channels know nothing of it yet.
    hidden: SlotMask,
    /// The last members that left since the start: device uuid and the event count they have.
    departed: VecDeque<([u8; 16], u64)>,
}

impl Joiner {
    pub(super) fn new() -> Self {
        let departed = VecDeque::with_capacity(DEPARTED_MAX);
        Self { state: JoinState::Idle, tasks: VecDeque::new(), round: 0, hidden: 0, departed }
    }

    /// A member has left that was given this event count last.
    pub(super) fn departs(&mut self, device_uuid: [u8; 16], events: u64) {
        self.departed.retain(|(uuid, _)| *uuid != device_uuid);
        if self.departed.len() == DEPARTED_MAX {
            self.departed.pop_front();
        }
        self.departed.push_back((device_uuid, events));
    }

    /// Members that the owner writes and channels do not.
    pub(super) fn hidden(&self) -> SlotMask {
        self.hidden
    }

    /// A member is joining, and not yet written by every channel.
    pub(super) fn is_busy(&self) -> bool {
        self.state != JoinState::Idle
    }

    /// A member's superblock is to say that it is rebuilt, and it has none of the bitmap. A stop
    /// ends that: somebody else may go on with the array, and take the bitmap for what it is.
    pub(super) fn is_marking(&self) -> bool {
        matches!(self.state, JoinState::Marking { .. }) && !mutant!(MarkedAndStopped)
    }

    /// Members come or go, or are about to.
    pub(super) fn has_tasks(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// The slot that is being worked on.
    fn slot(&self) -> Option<MemberSlot> {
        self.tasks.front().filter(|_| self.is_busy()).map(Task::slot)
    }

    /// The member in the slot is not yet written by every channel.
    pub(super) fn is_joining(&self, slot: MemberSlot) -> bool {
        self.slot() == Some(slot)
    }

    /// The event count of what the first task's newcomer carries, or 0.
    fn carried_events(&self) -> u64 {
        match self.tasks.front() {
            Some(Task::Join { plan, .. }) if !mutant!(NewcomerNearlyCurrent) => plan.carries_events,
            _ => 0,
        }
    }

    /// Something is still to be done about the slot.
    pub(super) fn concerns(&self, slot: MemberSlot) -> bool {
        self.tasks.iter().any(|task| task.slot() == slot)
    }

    fn set_state(&mut self, next: JoinState) {
        assert!(self.state.allows(next), "a join went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

impl Owner {
    /// Offers a device to the array. It joins when what was under way in its slot has ended; how
    /// that goes on, events and the status tell.
    ///
    /// # Errors
    /// A sentence for the operator; nothing is changed then.
    pub fn join(&mut self, newcomer: &Newcomer, out: &mut Out<'_>) -> Result<Joined, String> {
        self.may_change_members()?;
        let sectors_per_block = u64::from(self.shared.block_size_bytes) / SECTOR_BYTES;
        let (present, reserved) = (self.present(), self.reserved());
        let departed = Vec::from(self.joiner.departed.clone());
        let now = ArrayNow {
            departed: &departed,
            ..self.array_now(&present, &reserved, sectors_per_block)
        };
        let plan = newcomer::plan(&now, newcomer)?;
        self.queue_join(plan, newcomer, out)
    }

    /// Has a device join as it is planned.
    fn queue_join(
        &mut self,
        plan: Plan,
        newcomer: &Newcomer,
        out: &mut Out<'_>,
    ) -> Result<Joined, String> {
        let sectors_per_block = u64::from(self.shared.block_size_bytes) / SECTOR_BYTES;
        let own = &plan.superblock;
        let at_block = |sector: u64| sector.is_multiple_of(sectors_per_block);
        let bitmap_sector = own.bitmap_sector().unwrap_or(0);
        if !at_block(own.data_offset_sectors)
            || !at_block(own.super_offset_sectors)
            || !at_block(bitmap_sector)
        {
            return Err("its superblock, bitmap or data are not aligned to its blocks".to_owned());
        }
        self.check_log_room(own)?;
        let guided = plan.lacks == Lacks::Changed;
        let joined = Joined { slot: plan.slot, guided, device_uuid: own.device_uuid };
        let place = MemberPlace {
            bdev: newcomer.bdev,
            data_lba: own.data_offset_sectors / sectors_per_block,
            unmap: newcomer.unmap,
            cheap_zeroes: newcomer.cheap_zeroes,
        };
        let listed = own.features.contains(Features::BAD_BLOCKS);
        let listed = if listed { &newcomer.bad_blocks[..] } else { &[] };
        let bad = bad::from_log(listed, own.data_offset_sectors, self.shared.block_size_bytes);
        self.push_join(plan, place, bitmap_sector / sectors_per_block, bad);
        self.go_on(out);
        Ok(joined)
    }

    pub(super) fn push_join(&mut self, plan: Plan, place: MemberPlace, bitmap_lba: u64, bad: List) {
        self.joiner.tasks.push_back(Task::Join { plan: Box::new(plan), place, bitmap_lba, bad });
    }

    /// Block of a member where its bitmap begins.
    pub(super) fn bitmap_lba(&self, own: &Superblock) -> u64 {
        let sectors_per_block = u64::from(self.shared.block_size_bytes) / SECTOR_BYTES;
        own.bitmap_sector().unwrap_or(0) / sectors_per_block
    }

    /// What was to replace a member is let go when nothing of it is under way.
    pub(super) fn let_twin_go(&mut self) {
        let twin = self.shared.twin().expect("something replaces a member");
        self.joiner.tasks.push_back(Task::Remove(twin));
    }

    /// The task at hand is to replace a member that has failed meanwhile: then it is to fill its
    /// slot. Whether it was so.
    fn retarget_orphan(&mut self, is_announced: bool, out: &mut Out<'_>) -> bool {
        let (Some(slot), Some(twin)) = (self.replacer.replaced(), self.shared.twin()) else {
            return false;
        };
        let is_twins = self
            .joiner
            .tasks
            .front()
            .is_some_and(|it| matches!(it, Task::Join { plan, .. } if plan.slot == twin));
        if !is_twins || self.in_sync & bit(slot) != 0 {
            return false;
        }
        let Some(Task::Join { mut plan, place, bitmap_lba, bad }) = self.joiner.tasks.pop_front()
        else {
            unreachable!("just seen")
        };
        self.joiner.set_state(JoinState::Idle);
        out.mail.push_back(Mail::Event(ArrayEvent::ReplacementOrphaned { slot }));
        if is_announced {
            let number = plan.superblock.dev_number;
            for superblock in self.members.iter_mut().filter_map(|it| it.superblock.as_mut()) {
                superblock.set_role(number, Role::Faulty);
            }
            self.want_superblock();
            self.let_twin_go();
        } else {
            self.end_replacing();
        }
        plan.slot = slot;
        self.joiner.tasks.push_back(Task::Join { plan, place, bitmap_lba, bad });
        true
    }

    /// Takes a member out because the operator says so.
    ///
    /// # Errors
    /// A sentence for the operator; nothing is changed then.
    pub fn fail(&mut self, slot: MemberSlot, out: &mut Out<'_>) -> Result<(), String> {
        self.may_change_members()?;
        match self.members.get(usize::from(slot)).map(|member| member.state) {
            _ if !self.is_slot(slot) => Err(format!("it has no slot {slot}")),
            Some(MemberState::InSync) if self.in_sync == bit(slot) => {
                Err(format!("member {slot} is the last one in sync"))
            }
            Some(MemberState::InSync) if !self.shared.geometry.may_fail(self.in_sync, slot) => {
                Err(format!(
                    "member {slot} holds data that no other member has or can compute: bring one \
                     that is missing back first"
                ))
            }
            Some(MemberState::InSync) if self.torn_without_it() > 0 => Err(format!(
                "in {} chunks parity may not fit the data before they are resynced, and what \
                 member {slot} holds there could not be computed without it: try again when the \
                 resync is done, or have bdev_raid_start with force give that up first",
                self.torn_without_it()
            )),
            Some(MemberState::InSync | MemberState::Rebuilding) => {
                if !self.ends_later(slot, out) {
                    self.put_out(slot, true, out);
                }
                self.go_on(out);
                Ok(())
            }
            Some(_) if self.joiner.concerns(slot) => {
                Err(format!("member {slot} is just joining; try again in a moment"))
            }
            _ => Err(format!("slot {slot} has no member that takes part")),
        }
    }

    /// Chunks of which a part is lost with the next member that goes: no other can be computed from
    /// torn parity. 0 if the operator has said that it may be.
    fn torn_without_it(&self) -> usize {
        let doubt = &self.shared.doubt;
        if doubt.is_accepted() || mutant!(RemovedInDoubt) { 0 } else { doubt.torn_count() }
    }

    /// There is such a slot, or it is what replaces a member.
    fn is_slot(&self, slot: MemberSlot) -> bool {
        let is_replacing = self.replacer.replaced().is_some();
        slot < self.shared.geometry.slots() || is_replacing && self.shared.twin() == Some(slot)
    }

    /// Has a device take the place of a member that is in sync and serves on meanwhile.
    ///
    /// # Errors
    /// A sentence for the operator; nothing is changed then.
    pub fn replace(
        &mut self,
        slot: MemberSlot,
        newcomer: &Newcomer,
        out: &mut Out<'_>,
    ) -> Result<Joined, String> {
        self.may_change_members()?;
        let twin = self.may_replace(slot)?;
        let sectors_per_block = u64::from(self.shared.block_size_bytes) / SECTOR_BYTES;
        let (present, reserved) = (self.present(), self.reserved());
        let now = self.array_now(&present, &reserved, sectors_per_block);
        let plan = newcomer::plan_replacement(&now, newcomer, twin)?;
        self.begin_replacing(slot);
        let joined = self.queue_join(plan, newcomer, out);
        if joined.is_err() {
            self.end_replacing();
        }
        joined.map(|joined| Joined { slot, ..joined })
    }

    /// Lets a slot's member go. One that takes part fails first. When the slot's state is
    /// "missing", nothing of the array is under way on the device.
    ///
    /// # Errors
    /// A sentence for the operator; nothing is changed then.
    pub fn remove(&mut self, slot: MemberSlot, out: &mut Out<'_>) -> Result<(), String> {
        self.may_change_members()?;
        if self.replacer.replaced() == Some(slot) {
            return Err(format!(
                "member {slot} is being replaced and is let go when that is done; to end that, \
                 remove what replaces it"
            ));
        }
        match self.members.get(usize::from(slot)).map(|member| member.state) {
            _ if !self.is_slot(slot) => return Err(format!("it has no slot {slot}")),
            Some(MemberState::InSync | MemberState::Rebuilding) => {
                self.fail(slot, out)?;
                if self.writable & bit(slot) != 0 {
                    // It goes when the member that it was to replace has its place back.
                    return Ok(());
                }
            }
            Some(MemberState::Faulty) => {}
            Some(MemberState::Joining) => return Err(format!("member {slot} is just joining")),
            Some(MemberState::Missing) => return Err(format!("slot {slot} is empty")),
            None => return Err(format!("it has no slot {slot}")),
        }
        if !self.joiner.concerns(slot) {
            self.joiner.tasks.push_back(Task::Remove(slot));
            self.go_on(out);
        }
        Ok(())
    }

    pub(super) fn may_change_members(&self) -> Result<(), String> {
        if self.failed {
            return Err("it has lost its metadata: stop it and start it again".to_owned());
        }
        if self.life() != Life::Running {
            return Err("it is starting or stopping".to_owned());
        }
        if !self.grower.is_idle() {
            return Err("it is growing: try again in a moment".to_owned());
        }
        if self.joiner.tasks.len() >= TASKS_MAX {
            return Err("too many members are waiting to join or go".to_owned());
        }
        Ok(())
    }

    fn present(&self) -> Vec<(&Superblock, bool)> {
        let members = self.members.iter().filter_map(|member| {
            let in_sync = member.state == MemberState::InSync;
            let there = in_sync || member.state == MemberState::Rebuilding;
            member.superblock.as_ref().filter(|_| there).map(|it| (it, in_sync))
        });
        members.collect()
    }

    /// Device numbers of those on their way, and of one that may have to be taken back.
    fn reserved(&self) -> Vec<u32> {
        let numbers = self.joiner.tasks.iter().filter_map(|task| match task {
            Task::Join { plan, .. } => Some(plan.superblock.dev_number),
            Task::Remove(_) => None,
        });
        numbers.chain(self.handed_over_number()).collect()
    }

    fn array_now<'a>(
        &self,
        present: &'a [(&'a Superblock, bool)],
        reserved: &'a [u32],
        sectors_per_block: u64,
    ) -> ArrayNow<'a> {
        let all = self.shared.geometry.all_slots();
        let pending = self.joiner.tasks.iter().fold(0, |mask, task| {
            mask | match task {
                Task::Join { plan, .. } => bit(self.origin(plan.slot)),
                Task::Remove(_) => 0,
            }
        });
        let first = present.iter().find(|(_, in_sync)| *in_sync);
        ArrayNow {
            superblock: first.expect("an array keeps its last member").0,
            events: self.recorder.events(),
            events_cleared: self.bitmap.as_ref().map(|bitmap| bitmap.events_cleared()),
            chunk_sectors: sectors_per_block << self.shared.chunk_shift,
            present,
            empty: all & !self.writable & !pending,
            reserved,
            departed: &[],
        }
    }

    /// A channel has no more requests to the slot that it was asked about.
    pub(super) fn drained(&mut self, round: u32) {
        if let JoinState::Draining { cores_left } = self.joiner.state
            && round == self.joiner.round
        {
            self.joiner.set_state(JoinState::Draining { cores_left: cores_left - 1 });
        }
    }

    /// What the first task waits for has come about.
    pub(super) fn join_can_go_on(&self) -> bool {
        let may_go_on = match self.life() {
            Life::Running => true,
            Life::Closing | Life::Winding | Life::Flushing | Life::Settling => {
                self.joiner.is_marking()
            }
            Life::Starting | Life::Sealing | Life::Stopped => false,
        };
        if !may_go_on || self.failed {
            return false;
        }
        let Some(slot) = self.joiner.tasks.front().map(Task::slot) else { return false };
        // It has failed meanwhile: that takes its usual course.
        let has_failed = self.members[usize::from(slot)].state != MemberState::Rebuilding;
        match self.joiner.state {
            JoinState::Idle => !self.is_pausing() && self.swap_is_idle(),
            JoinState::Draining { cores_left } => {
                let is_quiet = !self.has_requests_at(slot) || mutant!(JoinWithoutDrain);
                let is_ahead = self.recorder.is_ahead_of(self.joiner.carried_events());
                cores_left == 0 && is_quiet && self.recorder.is_recorded(slot) && is_ahead
            }
            JoinState::Announcing { update } => self.recorder.has_recorded(update),
            JoinState::Marking { update } => has_failed || self.recorder.has_recorded(update),
            JoinState::Furnishing => {
                has_failed || self.bitmap.as_ref().is_none_or(BitmapKeeper::is_furnished)
            }
            JoinState::Adopting { epoch } => has_failed || self.recorder.is_adopted(epoch),
        }
    }

    /// Moves the first task on, if it can go on.
    pub(super) fn poll_join(&mut self, out: &mut Out<'_>) {
        if !self.join_can_go_on() {
            return;
        }
        let slot = self.joiner.tasks.front().map(Task::slot).expect("it can go on");
        let has_failed = self.members[usize::from(slot)].state != MemberState::Rebuilding;
        match self.joiner.state {
            JoinState::Idle => self.drain_slot(slot, out),
            JoinState::Draining { .. } => self.slot_is_empty(slot, out),
            JoinState::Announcing { .. } => {
                if !self.retarget_orphan(true, out) {
                    self.mark_newcomer(slot);
                }
            }
            _ if has_failed => self.end_task(),
            JoinState::Marking { .. } => {
                self.joiner.set_state(JoinState::Furnishing);
                if let Some(bitmap) = &mut self.bitmap {
                    bitmap.furnish();
                }
            }
            JoinState::Furnishing => {
                let place = self.place(slot);
                out.mail.push_back(Mail::Channels(ToChannel::Place(slot, place)));
                self.joiner.hidden = 0;
                let epoch = self.announce_members(out);
                self.joiner.set_state(JoinState::Adopting { epoch });
            }
            JoinState::Adopting { .. } if self.shared.twin() == Some(slot) => self.end_task(),
            JoinState::Adopting { .. } => {
                let lacks = self.members[usize::from(slot)].rebuild.map(|it| it.lacks);
                let guided = lacks == Some(Lacks::Changed);
                out.mail.push_back(Mail::Event(ArrayEvent::MemberJoined { slot, guided }));
                self.end_task();
            }
        }
    }

    fn end_task(&mut self) {
        self.joiner.tasks.pop_front();
        self.joiner.hidden = 0;
        self.joiner.set_state(JoinState::Idle);
        if let Some(bitmap) = &mut self.bitmap {
            bitmap.expect_nobody();
        }
    }

    fn drain_slot(&mut self, slot: MemberSlot, out: &mut Out<'_>) {
        if self.retarget_orphan(false, out) {
            return;
        }
        if self.writable & bit(slot) != 0 {
            // Two devices were meant for the slot, and the first one is there.
            return drop(self.joiner.tasks.pop_front());
        }
        if self.recorder.events() <= self.joiner.carried_events() {
            self.want_superblock();
        }
        self.joiner.round += 1;
        self.joiner.set_state(JoinState::Draining { cores_left: self.cores });
        out.mail.push_back(Mail::Channels(ToChannel::Drain(self.joiner.round, slot)));
    }

    /// Nothing of an earlier member is under way in the slot.
    fn slot_is_empty(&mut self, slot: MemberSlot, out: &mut Out<'_>) {
        let index = usize::from(slot);
        self.walker.forget(slot);
        let task = self.joiner.tasks.front().expect("the task is under way");
        let Task::Join { plan, place, bitmap_lba, bad } = task else {
            self.members[index] = Member::new(MemberState::Missing, None);
            self.places[index] = None;
            self.install_list(slot, List::default(), out);
            if self.shared.twin() == Some(slot) {
                self.end_replacing();
                return self.end_task();
            }
            out.mail.push_back(Mail::Event(ArrayEvent::MemberRemoved { slot }));
            return self.end_task();
        };
        self.places[index] = Some(*place);
        if let Some(bitmap) = &mut self.bitmap {
            bitmap.set_lba(slot, *bitmap_lba);
        }
        let (superblock, bad) = (plan.superblock.clone(), bad.clone());
        self.install_list(slot, bad, out);
        let number = superblock.dev_number;
        self.members[index] = Member::new(MemberState::Joining, Some(superblock));
        let role = self.origin(slot);
        for superblock in self.members.iter_mut().filter_map(|it| it.superblock.as_mut()) {
            superblock.set_role(number, Role::Active(role.into()));
        }
        self.want_superblock();
        self.joiner.set_state(JoinState::Announcing { update: self.recorder.wanted() });
    }

    /// The newcomer is written from now on: superblock, and what the owner itself writes. The
    /// bitmap follows.
    fn mark_newcomer(&mut self, slot: MemberSlot) {
        let Some(Task::Join { plan, .. }) = self.joiner.tasks.front() else {
            panic!("who is announced joins");
        };
        let lacks = plan.lacks;
        let index = usize::from(slot);
        // Members may have failed since the plan was made.
        let (first, roles) = (super::lowest(self.in_sync), |member: &Member| {
            member.superblock.as_ref().expect("it is in sync").roles.clone()
        });
        let first = usize::from(first.expect("an array keeps its last member"));
        let roles = roles(&self.members[first]);
        let member = &mut self.members[index];
        member.state = MemberState::Rebuilding;
        member.rebuild = Some(Rebuild::new(lacks));
        member.superblock.as_mut().expect("it was installed").roles = roles;
        self.writable |= bit(slot);
        self.joiner.hidden = bit(slot);
        if let Some(bitmap) = &mut self.bitmap {
            bitmap.expect(slot);
        }
        self.want_superblock();
        self.joiner.set_state(JoinState::Marking { update: self.recorder.wanted() });
    }

    /// Requests of the owner to the slot's device are under way.
    pub(super) fn has_requests_at(&self, slot: MemberSlot) -> bool {
        self.has_own_requests_at(slot)
            || self.daemon.is_flushing()
            || self.discarder.is_freeing()
            || self.rebuilder.is_flushing()
    }

    /// As above, but for those of which it is not known who has them.
    pub(super) fn has_own_requests_at(&self, slot: MemberSlot) -> bool {
        self.recorder.has_requests_at(slot)
            || self.bitmap.as_ref().is_some_and(|bitmap| bitmap.has_requests_at(slot))
            || self.walker.has_requests_at(slot)
            || self.parity_work.as_ref().is_some_and(|work| work.has_requests_at(slot))
            || self.log.has_requests_at(slot)
            || self.bad_keeper.has_requests_at(slot)
            || self.grower.has_requests_at(slot)
    }

    /// Slots whose members are being rebuilt and are written by every channel.
    pub(super) fn rebuildable(&self) -> impl Iterator<Item = MemberSlot> + use<'_> {
        let is_whole = |slot: MemberSlot| {
            self.members[usize::from(slot)].rebuild.is_some_and(|it| it.whole_from.is_some())
        };
        slots(self.writable & !self.in_sync)
            .filter(move |&slot| !self.joiner.is_joining(slot) && !is_whole(slot))
    }
}

/// How a device has joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// The slot it fills.
    pub slot: MemberSlot,
    /// It is given only what changed while it was away.
    pub guided: bool,
    /// Its identity in the array.
    pub device_uuid: [u8; 16],
}

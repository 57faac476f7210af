//! Replacement: a device takes the place of a member that is in sync and serves on until then.
//!
//! The newcomer has a number of its own, the one behind the slots ([`super::Shared::twin`]): it is
//! written and never read. What is written to the member is written to it as well, by the channels
//! and by the owner, records of the stripe log included; and a pass of the rebuild copies the
//! member's blocks to it, from the other members where it can't read them. So it is the member's
//! twin, whatever the level makes of the blocks.
//!
//! When it has everything:
//!
//! 1. Its superblock says so, durably. A crash from here on leaves two that are alike; the newcomer
//!    counts if the other one is not there.
//! 2. *Pause.* No channel begins a request of the host and those under way end, so that no answer
//!    of the old device can be taken for one of the new one. All channels are asked twice: what one
//!    is asked by another in the first round has ended in the second.
//! 3. *Swap.* The newcomer has the slot, in memory and in the superblocks, which call the old
//!    number failed. The update is also the one from which on chunks may become Clean that the old
//!    device never got.
//! 4. *Record.* When that is durable the channels go on. If the newcomer fails just then, the two
//!    change places again: nothing was written meanwhile.
//!
//! If the newcomer fails before, it is out and the array is as it was. If the member fails, the
//! newcomer joins as one that left in the middle of its rebuild: it has what its last checkpoint
//! says, but for chunks that were written since, and those are not Clean.

use super::bad::List;
use super::message::{ArrayEvent, Mail, Out, SlotMask, ToChannel};
use super::newcomer::Plan;
use super::owner::{Life, Owner};
use super::owner_members::{Member, MemberState};
use super::{Lacks, MemberPlace, MemberSlot, bit};
use crate::bdev::BdevId;
use crate::md::Role;

/// What an operator sees of a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplacementStatus {
    /// The member that is replaced.
    pub slot: MemberSlot,
    /// The number by which what replaces it can be failed and removed.
    pub number: MemberSlot,
    /// The device that replaces it, once it has begun to.
    pub bdev: Option<BdevId>,
    /// Its state.
    pub state: &'static str,
}

/// Where the end of a replacement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SwapState {
    /// Not begun.
    Idle,
    /// Host and owner end what they have begun.
    Pausing,
    /// Waits for this update of the superblocks.
    Recording { update: u64 },
}

impl SwapState {
    fn allows(self, next: Self) -> bool {
        use SwapState::{Idle, Pausing, Recording};
        matches!(
            (self, next),
            (Idle, Pausing)
                | (Pausing, Recording { .. } | Idle)
                | (Recording { .. }, Recording { .. } | Idle)
        )
    }
}

/// The replacement's part of the owner.
#[derive(Debug)]
pub(super) struct Replacer {
    /// The member that is being replaced, from the operator's word to the end.
    replaced: Option<MemberSlot>,
    /// It has failed: what was to replace it goes on as a member.
    is_orphaned: bool,
    state: SwapState,
    /// The member that was let go, until that is durable.
    former: Option<(MemberSlot, Member, MemberPlace)>,
}

impl Replacer {
    pub(super) fn new(replaced: Option<MemberSlot>) -> Self {
        Self { replaced, is_orphaned: false, state: SwapState::Idle, former: None }
    }

    /// The member that is being replaced.
    pub(super) fn replaced(&self) -> Option<MemberSlot> {
        self.replaced
    }

    /// The next update of the superblocks lets a member go that was in sync.
    pub(super) fn lets_go(&self) -> bool {
        self.former.is_some() && !mutant!(ReplacedTakenForRecent)
    }

    /// The device number of a member that was let go and may have to be taken back.
    pub(super) fn former_number(&self) -> Option<u32> {
        self.former
            .as_ref()
            .and_then(|(_, former, _)| former.superblock.as_ref())
            .map(|it| it.dev_number)
    }

    fn set_state(&mut self, next: SwapState) {
        assert!(self.state.allows(next), "a swap went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

impl Owner {
    /// The slot whose blocks are the member's of this number.
    pub(super) fn origin(&self, slot: MemberSlot) -> MemberSlot {
        match self.replacer.replaced {
            Some(replaced) if self.shared.twin() == Some(slot) => replaced,
            _ => slot,
        }
    }

    /// The set, and if it has the member that is being replaced, what replaces it.
    pub(super) fn with_twin(&self, members: SlotMask) -> SlotMask {
        match self.replacer.replaced {
            Some(slot) if members & bit(slot) != 0 => {
                members | self.writable & self.shared.twin_bit()
            }
            _ => members,
        }
    }

    /// The member that is replaced by one of these, as a set.
    pub(super) fn replaced_by(&self, targets: SlotMask) -> SlotMask {
        let is_twin = targets & self.shared.twin_bit() != 0;
        self.replacer.replaced.filter(|_| is_twin).map_or(0, bit)
    }

    /// A slot in which a failure is undone by taking the former member back.
    pub(super) fn replaceable_back(&self) -> SlotMask {
        self.replacer.former.as_ref().map_or(0, |(slot, ..)| bit(*slot))
    }

    pub(super) fn replacement_status(&self) -> Option<ReplacementStatus> {
        let (slot, number) = (self.replacer.replaced?, self.shared.twin()?);
        let index = usize::from(number);
        let state = match self.members[index].state {
            MemberState::Rebuilding => "replacing",
            state => state.name(),
        };
        let bdev = self.places[index].map(|place| place.bdev);
        Some(ReplacementStatus { slot, number, bdev, state })
    }

    /// Whether a member can be replaced now: the number of what replaces it.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn may_replace(&self, slot: MemberSlot) -> Result<MemberSlot, String> {
        let geometry = &self.shared.geometry;
        if geometry.sync_blocks() == 0 {
            return Err("its level has no redundancy, and mdof replaces members only where there \
                        is some: stop it and copy the member"
                .to_owned());
        }
        if slot >= geometry.slots() {
            return Err(format!("it has no slot {slot}"));
        }
        if self.in_sync & bit(slot) == 0 {
            return Err(format!("slot {slot} has no member in sync: add a member to it"));
        }
        if let Some(other) = self.replacer.replaced {
            return Err(format!("member {other} is being replaced, and one goes at a time"));
        }
        let full = || format!("it has {} members and no number left", geometry.slots());
        self.shared.twin().ok_or_else(full)
    }

    /// A device is to replace this member.
    pub(super) fn begin_replacing(&mut self, slot: MemberSlot) {
        self.replacer.replaced = Some(slot);
        self.replacer.is_orphaned = false;
    }

    /// Nothing is to replace a member any more.
    pub(super) fn end_replacing(&mut self) {
        self.replacer.replaced = None;
    }

    /// What replaces a member has all it had, and that is on record.
    fn may_swap(&self) -> Option<MemberSlot> {
        let (slot, twin) = (self.replacer.replaced?, self.shared.twin()?);
        let rebuild = self.members[usize::from(twin)].rebuild?;
        let update = rebuild.whole_from?;
        let is_there = self.in_sync & bit(slot) != 0 && self.writable & bit(twin) != 0;
        (is_there && self.recorder.has_recorded(update) && !self.joiner.is_busy()).then_some(slot)
    }

    /// Nothing of the owner's is under way at either device.
    fn is_swap_quiet(&self) -> bool {
        let at = |slot: Option<MemberSlot>| slot.is_some_and(|slot| self.has_requests_at(slot));
        self.pauser.is_on()
            && self.is_quiet_inside()
            && self.log_is_renewed()
            && !at(self.replacer.replaced)
            && !at(self.shared.twin())
    }

    /// What the replacement waits for has come about.
    pub(super) fn replace_can_go_on(&self) -> bool {
        let runs = self.life() == Life::Running;
        match self.replacer.state {
            SwapState::Idle => {
                runs && !self.failed && self.pauser.is_off() && self.may_swap().is_some()
            }
            SwapState::Pausing => runs && (self.failed || self.is_swap_quiet()),
            SwapState::Recording { update } => {
                (runs || self.life() == Life::Winding)
                    && (self.failed || self.recorder.has_recorded(update))
            }
        }
    }

    /// It is not on record yet who has the slot. A stop waits for that: the old device may be the
    /// one that counts, and is not given what the members flush before chunks become Clean.
    pub(super) fn is_swapping(&self) -> bool {
        matches!(self.replacer.state, SwapState::Recording { .. })
            && !mutant!(StoppedBetweenDevices)
    }

    /// Moves the end of a replacement on, if it can go on.
    pub(super) fn poll_replace(&mut self, out: &mut Out<'_>) {
        if !self.replace_can_go_on() {
            return;
        }
        match self.replacer.state {
            _ if self.failed => self.abort_swap(out),
            SwapState::Idle => {
                self.replacer.set_state(SwapState::Pausing);
                self.pause(out);
            }
            SwapState::Pausing => {
                self.swap(out);
                self.poll_recorder(out);
            }
            SwapState::Recording { .. } => self.end_swap(out),
        }
    }

    /// Channels go on as if nothing had been.
    fn abort_swap(&mut self, out: &mut Out<'_>) {
        if self.replacer.state != SwapState::Idle {
            self.replacer.set_state(SwapState::Idle);
            self.replacer.former = None;
            self.resume(out);
        }
    }

    /// The newcomer takes the slot; the former member is kept in mind until that is durable.
    fn swap(&mut self, out: &mut Out<'_>) {
        let slot = self.replacer.replaced.expect("a member is being replaced");
        let twin = self.shared.twin().expect("as above");
        let (own, other) = (usize::from(slot), usize::from(twin));
        let newcomer =
            std::mem::replace(&mut self.members[other], Member::new(MemberState::Missing, None));
        let newcomer = Member { state: MemberState::InSync, rebuild: None, ..newcomer };
        let former = std::mem::replace(&mut self.members[own], newcomer);
        let place = self.place(slot);
        self.places[own] = self.places[other].take();
        if let Some(bitmap) = &mut self.bitmap {
            bitmap.swap_lbas(slot, twin);
        }
        self.bad.swap(slot, twin);
        self.writable &= !bit(twin);
        let superblock = former.superblock.as_ref().expect("it was in sync");
        let (number, uuid) = (superblock.dev_number, superblock.device_uuid);
        self.joiner.departs(uuid, former.events);
        for superblock in self.members.iter_mut().filter_map(|it| it.superblock.as_mut()) {
            superblock.set_role(number, Role::Faulty);
        }
        self.replacer.former = Some((slot, former, place));
        self.want_recorded();
        self.replacer.set_state(SwapState::Recording { update: self.recorder.wanted() });
        if mutant!(ReplacedBeforeRecorded) {
            self.end_swap(out);
        }
    }

    /// A member has failed; if it is one that has just taken the place of another, that is undone.
    pub(super) fn swap_back(&mut self, slot: MemberSlot, out: &mut Out<'_>) -> bool {
        if self.replaceable_back() & bit(slot) == 0 {
            return false;
        }
        let (_, mut former, place) = self.replacer.former.take().expect("just seen");
        let twin = self.shared.twin().expect("there was one");
        let (own, other) = (usize::from(slot), usize::from(twin));
        let newcomer = &self.members[own];
        let superblock = newcomer.superblock.as_ref().expect("it took part");
        let (number, uuid, events) =
            (superblock.dev_number, superblock.device_uuid, newcomer.events);
        let table = former.superblock.as_mut().expect("it was in sync");
        table.roles.clone_from(&superblock.roles);
        let former_number = table.dev_number;
        let newcomer = std::mem::replace(&mut self.members[own], former);
        self.members[other] = Member { state: MemberState::Faulty, ..newcomer };
        self.places[other] = self.places[own].replace(place);
        if let Some(bitmap) = &mut self.bitmap {
            bitmap.swap_lbas(slot, twin);
        }
        self.bad.swap(slot, twin);
        for superblock in self.members.iter_mut().filter_map(|it| it.superblock.as_mut()) {
            superblock.set_role(number, Role::Faulty);
            superblock.set_role(former_number, Role::Active(slot.into()));
        }
        self.joiner.departs(uuid, events);
        self.want_recorded();
        self.unrecord(twin);
        self.replacer.set_state(SwapState::Recording { update: self.recorder.wanted() });
        self.let_twin_go();
        out.mail.push_back(Mail::Event(ArrayEvent::ReplacementFailed { slot }));
        true
    }

    /// It is durable who has the slot: the channels go on.
    fn end_swap(&mut self, out: &mut Out<'_>) {
        let slot = self.replacer.replaced.expect("a member is being replaced");
        self.replacer.set_state(SwapState::Idle);
        let is_replaced = self.replacer.former.take().is_some();
        if is_replaced {
            self.end_replacing();
        }
        out.mail.push_back(Mail::Channels(ToChannel::Place(slot, self.place(slot))));
        for slot in [Some(slot), self.shared.twin()].into_iter().flatten() {
            self.set_bad(slot, self.bad.list(slot).to_vec(), out);
        }
        self.announce_members(out);
        if is_replaced {
            out.mail.push_back(Mail::Channels(ToChannel::Recorded(self.shared.twin_bit())));
            out.mail.push_back(Mail::Event(ArrayEvent::MemberReplaced { slot }));
        }
        self.resume(out);
        self.walker.look_again();
    }

    /// What was to replace a member is out.
    pub(super) fn replacement_is_out(&mut self, out: &mut Out<'_>) {
        let slot = self.replacer.replaced.expect("a member is being replaced");
        self.abort_swap(out);
        self.let_twin_go();
        out.mail.push_back(Mail::Event(match self.replacer.is_orphaned {
            true => ArrayEvent::ReplacementOrphaned { slot },
            false => ArrayEvent::ReplacementFailed { slot },
        }));
    }

    /// The member that is being replaced has failed. What was to replace it is no twin of anything
    /// any more: it leaves, and joins the slot with what it has, if it has begun to join.
    pub(super) fn orphan_replacement(&mut self, out: &mut Out<'_>) {
        let (Some(slot), Some(twin)) = (self.replacer.replaced, self.shared.twin()) else { return };
        if self.writable & bit(twin) == 0 {
            // It is on its way, and comes to the slot.
            return;
        }
        let index = usize::from(twin);
        let member = &self.members[index];
        let superblock = member.superblock.clone().expect("it takes part");
        let done = member.rebuild.map_or(0, |rebuild| rebuild.done);
        let carries_events = member.events.max(superblock.events);
        let place = self.place(twin);
        let bitmap_lba = self.bitmap_lba(&superblock);
        self.replacer.is_orphaned = true;
        self.fail_member(twin, out);
        let plan = Plan { slot, superblock, lacks: Lacks::AllFrom(done), carries_events };
        let bad =
            List { ranges: self.bad.list(twin).to_vec(), is_frozen: self.bad.is_frozen(twin) };
        self.push_join(plan, place, bitmap_lba, bad);
    }
}

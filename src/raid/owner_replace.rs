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
//! 1. *Whole.* Its superblock says so, durably.
//! 2. *Hand over.* One update of the superblocks gives the slot to the newcomer and calls the old
//!    number failed. The newcomer is told first, the others when it has that; the member is not
//!    told. The host goes on, and both are written. It is also the update from which on chunks may
//!    become Clean that the old device never gets.
//! 3. *Pause.* When that is durable, no channel begins a request of the host and those under way
//!    end, so that no answer of the old device can be taken for one of the new one. All channels
//!    are asked twice: what one is asked by another in the first round has ended in the second. A
//!    member that hangs must not hold up the host: the pause is given up after a second, and tried
//!    again after a rest ([`super::owner_pause`]).
//! 4. *Swap.* The newcomer has the slot, in memory too, and the channels go on. Nothing is written
//!    for that, so the pause waits for no member but those that have requests.
//!
//! Only the one update goes without the member. Before any other begins (something else is to be on
//! record, the newcomer has failed, the operator ends it, the array stops), the place is *taken
//! back* by it: the member is told first, the others and the newcomer when it has that. Then comes
//! step 2 again.
//!
//! # What a power cut leaves
//!
//! Both devices are written from the first step to the swap, and the daemon makes no chunk Clean
//! before both have flushed, or it is on record that one is out. So it does not matter which of
//! them an assembly believes in, but it has to be one of those that are there. Let the member's
//! superblock be at count e when the place is handed over.
//!
//! | cut                     | on disk                                       | believed in             |
//! |-------------------------|-----------------------------------------------|-------------------------|
//! | whole                   | all at e, both numbers have the slot          | the member; the newcomer if the member is not there |
//! | newcomer is told        | newcomer e or e+1, all others e               | the newcomer if it has e+1, else as above |
//! | others are told         | newcomer e+1, others e or e+1, member e       | the newcomer            |
//! | pause                   | newcomer and others e+1, member e             | the newcomer            |
//! | after the swap          | newcomer and others e+1 or later, member e    | the newcomer            |
//! | member has its place back | member e+1 or e+2, all others e+1           | the member if it has e+2, else the newcomer |
//! | others hear of that     | member e+2, others e+1 or e+2                 | the member              |
//!
//! Nobody is ever more than one event behind who is needed: were all told at once, one of the
//! others could have e+2 and the member still e, which is to be out.
//!
//! # Who fails
//!
//! - *The newcomer, before it is told or as it is told*: nobody has been told anything. The same
//!   update, with the same count, goes on to the member and the others and says that the newcomer
//!   is out. What it may have of its own superblock is outvoted by one of the others with that
//!   count; before any of them has it, no write is acknowledged that the newcomer missed.
//! - *The newcomer, later*: it has the slot on record until the member has its place back. If the
//!   power goes before, the array starts without that slot, as if the newcomer had failed a moment
//!   after the swap. No write that it missed is acknowledged before.
//! - *The member*: before the place is handed over, or as it is taken back, the newcomer joins as
//!   one that left in the middle of its rebuild: it has what its last checkpoint says, but for
//!   chunks that were written since, and those are not Clean. If no other has what they have, the
//!   member is kept, as every last one.
//! - *Another*: that is an update of its own. It is written when the one under way has ended, and
//!   takes the place back; as always, no write is acknowledged that it missed before that.
//!
//! The operator's word to end it waits until the place is taken back: the newcomer hears that, and
//! does not come back one day to say that the member has failed.

use super::bad::List;
use super::message::{ArrayEvent, Mail, Out, SlotMask, ToChannel};
use super::newcomer::Plan;
use super::owner::{Life, Owner};
use super::owner_members::{Member, MemberState};
use super::{Lacks, MemberSlot, bit};
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
    /// Members whose requests did not end when the host was to rest for its end.
    pub waits_for: SlotMask,
}

/// Where the end of a replacement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SwapState {
    /// Not begun: the superblocks count on the member.
    Idle,
    /// Waits for this update of the superblocks, which counts on the newcomer.
    HandingOver { update: u64 },
    /// It is durable. Host and owner end what they have begun, or have not, and go on for a while.
    Pausing { update: u64 },
    /// Waits for this update, the first that counts on the member again.
    TakingBack { update: u64 },
}

impl SwapState {
    fn allows(self, next: Self) -> bool {
        use SwapState::{HandingOver, Idle, Pausing, TakingBack};
        matches!(
            (self, next),
            (Idle, HandingOver { .. })
                | (HandingOver { .. }, Pausing { .. } | TakingBack { .. } | Idle)
                | (Pausing { .. }, TakingBack { .. } | Idle)
                | (TakingBack { .. }, Idle)
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
    /// The operator wants it to end: when the superblocks count on the member.
    is_unwanted: bool,
}

impl Replacer {
    pub(super) fn new(replaced: Option<MemberSlot>) -> Self {
        Self { replaced, is_orphaned: false, state: SwapState::Idle, is_unwanted: false }
    }

    /// The member that is being replaced.
    pub(super) fn replaced(&self) -> Option<MemberSlot> {
        self.replaced
    }

    /// The update of the superblocks that is written without the member.
    fn update(&self) -> Option<u64> {
        match self.state {
            SwapState::Idle | SwapState::TakingBack { .. } => None,
            SwapState::HandingOver { update } | SwapState::Pausing { update } => Some(update),
        }
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

    /// The member that superblocks do not count on any more, although it is written, as a set.
    pub(super) fn handed_over(&self) -> SlotMask {
        let slot = self.replacer.replaced.filter(|_| self.replacer.update().is_some());
        slot.map_or(0, bit) & self.in_sync
    }

    /// Who is to have the next update of the superblocks before all others: who it is that has the
    /// slot from then on.
    pub(super) fn told_first(&self) -> SlotMask {
        let first = match self.replacer.state {
            SwapState::HandingOver { .. } if !mutant!(HandedOverAtOnce) => self.shared.twin_bit(),
            SwapState::TakingBack { .. } if !mutant!(TakenBackAtOnce) => {
                self.replacer.replaced.map_or(0, bit)
            }
            _ => 0,
        };
        first & self.writable
    }

    /// Its device number, which it may get back.
    pub(super) fn handed_over_number(&self) -> Option<u32> {
        let slot = super::lowest(self.handed_over())?;
        self.members[usize::from(slot)].superblock.as_ref().map(|own| own.dev_number)
    }

    pub(super) fn replacement_status(&self) -> Option<ReplacementStatus> {
        let (slot, number) = (self.replacer.replaced?, self.shared.twin()?);
        let index = usize::from(number);
        let state = match self.members[index].state {
            MemberState::Rebuilding => "replacing",
            state => state.name(),
        };
        let bdev = self.places[index].map(|place| place.bdev);
        let waits_for = match self.replacer.state {
            SwapState::Pausing { .. } => self.pauser.waited_for(),
            _ if self.end_awaits_record() => self.asked_inside(),
            _ => 0,
        };
        Some(ReplacementStatus { slot, number, bdev, state, waits_for })
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
        self.replacer.is_unwanted = false;
    }

    /// Nothing is to replace a member any more.
    pub(super) fn end_replacing(&mut self) {
        self.replacer.replaced = None;
    }

    /// What replaces a member has all it had, that is on record, and nothing else is to be.
    fn may_hand_over(&self) -> bool {
        let (Some(slot), Some(twin)) = (self.replacer.replaced, self.shared.twin()) else {
            return false;
        };
        let is_whole = self.members[usize::from(twin)].rebuild.is_some_and(|rebuild| {
            rebuild.whole_from.is_some_and(|update| self.recorder.has_recorded(update))
        });
        let is_there = self.in_sync & bit(slot) != 0 && self.writable & bit(twin) != 0;
        let is_on_record = self.recorder.is_durable() && self.absences_are_recorded();
        is_whole && is_there && is_on_record && !self.joiner.has_tasks()
    }

    /// Members may begin to come and go: the superblocks count on the member that is replaced, if
    /// it is there.
    pub(super) fn swap_is_idle(&self) -> bool {
        self.replacer.state == SwapState::Idle
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

    /// The end of a replacement waits for the host to rest.
    pub(super) fn swap_awaits_pause(&self) -> bool {
        matches!(self.replacer.state, SwapState::Pausing { .. })
    }

    /// What the replacement waits for has come about.
    pub(super) fn replace_can_go_on(&self) -> bool {
        if self.life() != Life::Running {
            return false;
        }
        match self.replacer.state {
            SwapState::Idle => !self.failed && self.may_hand_over(),
            _ if self.failed => true,
            SwapState::HandingOver { update } => self.recorder.has_recorded(update),
            SwapState::Pausing { .. } => self.is_swap_quiet() || self.pauser.is_off(),
            SwapState::TakingBack { update } => self.recorder.has_recorded(update),
        }
    }

    /// Moves the end of a replacement on, if it can go on.
    pub(super) fn poll_replace(&mut self, out: &mut Out<'_>) {
        if !self.replace_can_go_on() {
            return;
        }
        match self.replacer.state {
            _ if self.failed => self.end_swap(out),
            SwapState::Idle => {
                self.hand_over();
                self.poll_recorder(out);
            }
            SwapState::Pausing { .. } if self.is_swap_quiet() => self.swap(out),
            SwapState::HandingOver { .. } | SwapState::Pausing { .. }
                if self.joiner.has_tasks() =>
            {
                // Members that come and go do not wait for those that hang.
                self.want_recorded();
                self.take_back(out);
                self.poll_recorder(out);
            }
            SwapState::HandingOver { update } => {
                self.replacer.set_state(SwapState::Pausing { update });
                self.pause_to_swap(out);
            }
            SwapState::Pausing { .. } => self.pause_to_swap(out),
            SwapState::TakingBack { .. } => {
                self.replacer.set_state(SwapState::Idle);
                if self.replacer.is_unwanted {
                    let twin = self.shared.twin().expect("something replaces a member");
                    // If it is not out by itself.
                    self.put_out(twin, true, out);
                    self.poll_recorder(out);
                }
            }
        }
    }

    fn pause_to_swap(&mut self, out: &mut Out<'_>) {
        self.pause(out);
        self.wait_a_spell(out);
    }

    /// The superblocks are to count on the newcomer.
    fn hand_over(&mut self) {
        let slot = self.replacer.replaced.expect("a member is being replaced");
        self.set_role_of(slot, Role::Faulty);
        self.recorder.lets_go();
        if !mutant!(ReplacedBeforeRecorded) {
            self.want_recorded();
        }
        let update = self.recorder.wanted();
        self.replacer.set_state(SwapState::HandingOver { update });
    }

    /// All superblocks give the number of the slot's device this role.
    fn set_role_of(&mut self, slot: MemberSlot, role: Role) {
        let own = self.members[usize::from(slot)].superblock.as_ref().expect("it takes part");
        let number = own.dev_number;
        for superblock in self.members.iter_mut().filter_map(|it| it.superblock.as_mut()) {
            superblock.set_role(number, role);
        }
    }

    /// An update of the superblocks begins. What is not the hand-over the member is to know, too.
    pub(super) fn update_begins(&mut self, out: &mut Out<'_>) {
        let is_other = |update| self.recorder.wanted() > update && !mutant!(ToldWithoutMember);
        if self.replacer.update().is_some_and(is_other) {
            self.take_back(out);
        }
    }

    /// The superblocks count on the member again, from the last update asked for on, and the host
    /// goes on.
    fn take_back(&mut self, out: &mut Out<'_>) {
        self.count_on_member();
        let update = self.recorder.wanted();
        self.replacer.set_state(SwapState::TakingBack { update });
        self.resume(out);
    }

    /// The operator wants a replacement to end whose end is at hand: the superblocks are to count
    /// on the member first. Whether it is so.
    pub(super) fn ends_later(&mut self, slot: MemberSlot, out: &mut Out<'_>) -> bool {
        let is_at_hand = self.shared.twin() == Some(slot) && self.replacer.state != SwapState::Idle;
        if !is_at_hand || mutant!(EndedAtOnce) {
            return false;
        }
        self.replacer.is_unwanted = true;
        if self.replacer.update().is_some() {
            self.want_recorded();
            self.take_back(out);
        }
        true
    }

    /// Nothing is given the member's place any more. The host goes on as if nothing had been.
    fn end_swap(&mut self, out: &mut Out<'_>) {
        self.count_on_member();
        if self.replacer.state != SwapState::Idle {
            self.replacer.set_state(SwapState::Idle);
            self.resume(out);
        }
    }

    /// If it is there.
    fn count_on_member(&mut self) {
        if let Some(slot) = super::lowest(self.handed_over())
            && !mutant!(MemberNotTakenBack)
        {
            self.set_role_of(slot, Role::Active(slot.into()));
        }
    }

    /// The newcomer has the slot, and the channels go on with it.
    fn swap(&mut self, out: &mut Out<'_>) {
        let slot = self.replacer.replaced.expect("a member is being replaced");
        let twin = self.shared.twin().expect("as above");
        let (own, other) = (usize::from(slot), usize::from(twin));
        let newcomer =
            std::mem::replace(&mut self.members[other], Member::new(MemberState::Missing, None));
        let newcomer = Member { state: MemberState::InSync, rebuild: None, ..newcomer };
        let former = std::mem::replace(&mut self.members[own], newcomer);
        self.places[own] = self.places[other].take();
        if let Some(bitmap) = &mut self.bitmap {
            bitmap.swap_lbas(slot, twin);
        }
        self.bad.swap(slot, twin);
        self.writable &= !bit(twin);
        let superblock = former.superblock.as_ref().expect("it was in sync");
        self.joiner.departs(superblock.device_uuid, former.events);
        self.replacer.set_state(SwapState::Idle);
        self.end_replacing();
        if mutant!(ReplacedBeforeRecorded) {
            self.want_recorded();
        }
        out.mail.push_back(Mail::Channels(ToChannel::Place(slot, self.place(slot))));
        for slot in [slot, twin] {
            self.set_bad(slot, self.bad.list(slot).to_vec(), out);
        }
        self.announce_members(out);
        out.mail.push_back(Mail::Channels(ToChannel::Recorded(bit(twin))));
        out.mail.push_back(Mail::Event(ArrayEvent::MemberReplaced { slot }));
        self.resume(out);
        self.walker.look_again();
    }

    /// The end of a replacement waits for superblocks.
    fn end_awaits_record(&self) -> bool {
        let twin = self.shared.twin().map(|twin| &self.members[usize::from(twin)]);
        let is_whole = twin.is_some_and(|it| it.rebuild.is_some_and(|it| it.whole_from.is_some()));
        self.replacer.replaced.is_some() && is_whole && !self.recorder.is_durable()
    }

    /// Superblocks have been waited for for a while; the host has not.
    pub(super) fn record_has_waited(&self, out: &mut Out<'_>) {
        if let Some(slot) = self.replacer.replaced.filter(|_| self.end_awaits_record()) {
            let slots = self.asked_inside();
            out.mail.push_back(Mail::Event(ArrayEvent::ReplacementWaits { slot, slots }));
        }
    }

    /// A pause was given up. The operator hears of the first one.
    pub(super) fn swap_has_waited(&mut self, out: &mut Out<'_>) {
        if let Some(slot) = self.replacer.replaced.filter(|_| self.swap_awaits_pause())
            && self.pauser.has_given_up_once()
        {
            let slots = self.pauser.waited_for();
            out.mail.push_back(Mail::Event(ArrayEvent::ReplacementWaits { slot, slots }));
        }
    }

    /// What was to replace a member is out.
    pub(super) fn replacement_is_out(&mut self, out: &mut Out<'_>) {
        let slot = self.replacer.replaced.expect("a member is being replaced");
        if self.replacer.update().is_some() {
            // Nobody joins before that is on record: who is announced counts, and the member may
            // be the last one that is whole.
            self.take_back(out);
        }
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

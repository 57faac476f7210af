//! Growth: the array takes all of its members, which have become larger, and serves meanwhile.
//!
//! 1. *Prepare.* Behind the end of what they hold, all members are given what the larger array
//!    needs there, durably: zeroes in the rest of the last chunk, which may have been written and
//!    covers them from then on, and zeroes for the states of the new chunks, which are Unwritten
//!    then. By the old size none of that means anything, so the host goes on.
//! 2. *Pause.* Nothing of the host is under way ([`super::owner_pause`]), nor of the owner's.
//! 3. *Tell.* Owner and channels take over the larger map, with the bytes of the old one; then the
//!    host goes on. Nobody knows yet that the array is larger: nothing is written behind its old
//!    end, so a power cut that leaves the old size loses nothing.
//! 4. *Record.* Heads of the bitmap and then the superblocks say the new size. Heads go first: a
//!    power cut on the way leaves a bitmap of more chunks than the array has, never of less, or
//!    members of two sizes, and the next start goes on from there ([`crate::md::take_up`]). When
//!    that is durable the array's namespaces become larger.
//!
//! A member that hangs must not hold up the host, nor the operator: it is waited for [`PREPARE_S`]
//! seconds in the first step and [`PAUSES_MAX`] pauses in the second, then the growth is given up
//! and the member named. What it has been asked to zero it may still do later: the array does not
//! grow again before it has, nor lets another device in its slot.
//!
//! New chunks are Unwritten, so there is nothing to resync; a resync or check that was under way
//! goes on. While members are missing, rebuilt, replaced, coming or going the array does not grow.
//! Who leaves it on the way and comes back is given everything, as its superblock is another's.

use std::fmt;
use std::sync::Arc;

use super::message::{ArrayEvent, Mail, Out, SlotMask};
use super::owner::{MemberRequest, Owner, OwnerOp};
use super::owner_bitmap::BitmapKeeper;
use super::owner_pause::SPELL_MS;
use super::{MemberSlot, Shared, bit, slots};
use crate::bdev::{IoOp, IoStatus};
use crate::md::{self, Growth, SECTOR_BYTES, Superblock};

/// What the operator has to tell an array that is to grow.
#[derive(Debug, Clone)]
pub struct GrowthWish {
    /// How large each member is now, by slot, in sectors.
    pub device_sectors: Vec<u64>,
    /// Told of the larger map's memory before it is used.
    pub advise: fn(*const u8, usize),
}

/// How long members may take to be prepared.
const PREPARE_S: u32 = 10;

/// How often the host is asked to rest before the growth is given up.
const PAUSES_MAX: u32 = 4;

const _: () = assert!(SPELL_MS == 1000, "a spell is a second");

/// Why an array has not grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrowthFailure {
    /// A member failed what it was to be given behind its old end.
    NotPrepared,
    /// A member does not answer.
    NoAnswer,
    /// Requests of the host or the owner did not end.
    NoPause,
    /// A member has failed.
    MemberFailed,
    /// The array has lost its metadata.
    MetadataLost,
}

impl fmt::Display for GrowthFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPrepared => f.write_str("a member can't be written behind its old end"),
            Self::NoAnswer => write!(
                f,
                "a member has not answered for {PREPARE_S} s what it was asked to zero behind its \
                 old end"
            ),
            Self::NoPause => write!(
                f,
                "requests did not end in {PAUSES_MAX} pauses of the host, which were given up \
                 after {SPELL_MS} ms each"
            ),
            Self::MemberFailed => f.write_str("a member has failed meanwhile"),
            Self::MetadataLost => f.write_str("the array has lost its metadata"),
        }
    }
}

/// What an operator sees of a growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrowthStatus {
    /// How far it is.
    pub state: &'static str,
    /// Blocks of the array before.
    pub from_blocks: u64,
    /// Blocks that it will have.
    pub blocks: u64,
    /// Members that have not answered yet what the growth has asked them; of one that has failed,
    /// those that it was waited for.
    pub waits_for: SlotMask,
    /// Why it has failed.
    pub failure: Option<GrowthFailure>,
}

/// How far a growth is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GrowState {
    /// The array does not grow.
    Idle,
    /// Members are given what is to lie behind the old end.
    Preparing { seconds_left: u32 },
    /// Host and owner end what they have begun.
    Pausing,
    /// Channels take over the larger map. This update of the superblocks is on its way.
    Telling { cores_left: u16, update: u64 },
    /// The host goes on. Waits for the update.
    Recording { update: u64 },
}

impl GrowState {
    fn allows(self, next: Self) -> bool {
        use GrowState::{Idle, Pausing, Preparing, Recording, Telling};
        matches!(
            (self, next),
            (Idle, Preparing { .. })
                | (Preparing { .. }, Preparing { .. } | Pausing | Idle)
                | (Pausing, Telling { .. } | Idle)
                | (Telling { .. }, Telling { .. } | Recording { .. })
                | (Recording { .. }, Idle)
        )
    }

    fn name(self) -> &'static str {
        match self {
            Self::Idle => "failed",
            Self::Preparing { .. } => "preparing",
            Self::Pausing => "pausing",
            Self::Telling { .. } => "telling",
            Self::Recording { .. } => "recording",
        }
    }
}

/// What members are zeroed behind their old end: the rest of the last chunk's data, and states of
/// new chunks.
const DATA: usize = 0;
const STATES: usize = 1;

/// The growth's part of the owner.
#[derive(Debug)]
pub(super) struct Grower {
    state: GrowState,
    /// What is to be written, and what owner and channels are to share then.
    next: Option<(Box<Growth>, Arc<Shared>)>,
    /// Members that have not answered, by what they are to zero. A growth that was given up leaves
    /// those that hang.
    pending: [SlotMask; 2],
    /// Members that could not be prepared.
    failed: SlotMask,
    /// Blocks of the array before, and after.
    from_blocks: u64,
    blocks: u64,
    /// Why the last growth was given up, and for whom it waited.
    failure: Option<(GrowthFailure, SlotMask)>,
}

impl Default for Grower {
    fn default() -> Self {
        Self {
            state: GrowState::Idle,
            next: None,
            pending: [0; 2],
            failed: 0,
            from_blocks: 0,
            blocks: 0,
            failure: None,
        }
    }
}

impl Grower {
    /// The array does not grow.
    pub(super) fn is_idle(&self) -> bool {
        self.state == GrowState::Idle
    }

    /// Members have not answered what a growth, this one or one before, has asked them.
    pub(super) fn awaits_members(&self) -> bool {
        self.unanswered() != 0
    }

    pub(super) fn has_requests_at(&self, slot: MemberSlot) -> bool {
        self.unanswered() & bit(slot) != 0
    }

    fn unanswered(&self) -> SlotMask {
        self.pending[DATA] | self.pending[STATES]
    }

    fn set_state(&mut self, next: GrowState) {
        assert!(self.state.allows(next), "a growth went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

impl Owner {
    /// Has the array take all of its members. An event follows when it has, or could not. Returns
    /// the blocks that it will have.
    ///
    /// # Errors
    /// A sentence for the operator; nothing is changed then.
    pub fn grow(&mut self, wish: &GrowthWish, out: &mut Out<'_>) -> Result<u64, String> {
        self.may_change_members()?;
        self.check_may_grow()?;
        let members: Vec<(Superblock, u64)> = self
            .members
            .iter()
            .filter_map(|member| member.superblock.clone())
            .zip(wish.device_sectors.iter().copied())
            .collect();
        if members.len() != usize::from(self.shared.geometry.slots()) {
            return Err("the size of one of its members is not known".to_owned());
        }
        let header = self.bitmap.as_ref().map(BitmapKeeper::header);
        let growth = md::plan_growth(&members, header).map_err(|error| error.to_string())?;
        let shared = self.shared.grown(&growth.superblocks[0], &wish.advise)?;
        if shared.blocks <= self.shared.blocks {
            return Err("there is nothing to grow into".to_owned());
        }
        let blocks = shared.blocks;
        let next = Some((Box::new(growth), Arc::new(shared)));
        let from_blocks = self.shared.blocks;
        self.grower = Grower { next, from_blocks, blocks, ..Grower::default() };
        self.pauser.begin_anew();
        self.prepare(out);
        self.go_on(out);
        Ok(blocks)
    }

    fn check_may_grow(&self) -> Result<(), String> {
        let refused = |text: &str| Err(text.to_owned());
        if self.replacer.replaced().is_some() {
            return refused("a member is being replaced: it grows when that is done");
        }
        if self.joiner.has_tasks() {
            return refused("members are joining or leaving: it grows when that is done");
        }
        if self.is_degraded() {
            return refused("it grows when all its members are in sync");
        }
        if self.grower.awaits_members() && !mutant!(StraysForgotten) {
            let mut text = "it grows when what an earlier growth asked of them is answered by \
                            member"
                .to_owned();
            slots(self.grower.unanswered()).for_each(|slot| text += &format!(" {slot}"));
            return Err(text);
        }
        match &self.bitmap {
            None => refused("it has no bitmap, and grows only while it is stopped"),
            Some(bitmap) if bitmap.is_external() => {
                refused("its bitmap lies elsewhere; only those with the bitmap on the members grow")
            }
            Some(_) => Ok(()),
        }
    }

    /// Sends the members what they need behind the old end.
    fn prepare(&mut self, out: &mut Out<'_>) {
        let (growth, shared) = self.grower.next.as_ref().expect("it has just been planned");
        let sectors_per_block = u64::from(self.shared.block_size_bytes) / SECTOR_BYTES;
        let zeroes = growth.zeroes();
        let data = zeroes.start / sectors_per_block..zeroes.end / sectors_per_block;
        let chunks = shared.map.as_ref().expect("the array has a bitmap").len();
        let bitmap = self.bitmap.as_mut().expect("as above");
        let old_units = bitmap.ledger.units() as u64;
        let states = old_units..bitmap.ledger.units_for(chunks) as u64;
        // The last unit there is may never have been written, and holds new states as well. It is
        // durable when the host rests.
        bitmap.mark_unit(bitmap.ledger.units() - 1);
        for slot in slots(self.in_sync) {
            let data_lba = self.place(slot).data_lba;
            let own = self.members[usize::from(slot)].superblock.as_ref().expect("it is in sync");
            let bitmap_lba = self.bitmap_lba(own);
            let mut ranges = [0..0, 0..0];
            if !mutant!(GrowthNotZeroed) {
                ranges[DATA] = data_lba + data.start..data_lba + data.end;
            }
            if !mutant!(GrowthStatesForgotten) {
                ranges[STATES] = bitmap_lba + states.start..bitmap_lba + states.end;
            }
            for (index, range) in ranges.into_iter().enumerate().filter(|(_, it)| !it.is_empty()) {
                let blocks = range.end - range.start;
                let request = MemberRequest {
                    op: IoOp::WriteZeroes,
                    lba: range.start,
                    blocks: u32::try_from(blocks).expect("a chunk's blocks and units fit u32"),
                    buf: None,
                };
                self.grower.pending[index] |= bit(slot);
                self.send(slot, OwnerOp::Grow(index), request, out);
            }
        }
        self.grower.set_state(GrowState::Preparing { seconds_left: PREPARE_S });
        self.wait_a_spell(out);
    }

    /// A member has been given a part of what it needs, or has not.
    pub(super) fn grow_answered(&mut self, index: usize, slot: MemberSlot, status: IoStatus) {
        self.grower.pending[index] &= !bit(slot);
        if !status.is_ok() {
            self.grower.failed |= bit(slot);
        }
    }

    /// A second is over in which members were waited for.
    pub(super) fn growth_has_waited(&mut self, out: &mut Out<'_>) {
        let GrowState::Preparing { seconds_left } = self.grower.state else { return };
        if seconds_left > 1 {
            self.grower.set_state(GrowState::Preparing { seconds_left: seconds_left - 1 });
            return self.wait_a_spell(out);
        }
        let waits_for = self.grower.unanswered();
        self.give_up_growth(GrowthFailure::NoAnswer, waits_for, out);
    }

    /// The growth waits for the host to rest.
    pub(super) fn growth_awaits_pause(&self) -> bool {
        self.grower.state == GrowState::Pausing
    }

    /// What an operator sees of it; of one that has failed until there is another one.
    pub(super) fn growth_status(&self) -> Option<GrowthStatus> {
        let grower = &self.grower;
        if grower.is_idle() && grower.failure.is_none() {
            return None;
        }
        let (failure, waited_for) = grower.failure.unzip();
        Some(GrowthStatus {
            state: grower.state.name(),
            from_blocks: grower.from_blocks,
            blocks: grower.blocks,
            waits_for: waited_for.unwrap_or(match grower.state {
                GrowState::Pausing => self.pauser.waited_for(),
                _ => grower.unanswered(),
            }),
            failure,
        })
    }

    /// What the growth waits for has come about.
    pub(super) fn grow_can_go_on(&self) -> bool {
        if self.life() != super::owner::Life::Running {
            return false;
        }
        let is_hurt = self.failed || self.is_degraded();
        match self.grower.state {
            GrowState::Idle => false,
            GrowState::Preparing { .. } => is_hurt || !self.grower.awaits_members(),
            GrowState::Pausing => {
                let may_pause = self.pauser.is_off() || self.pauser.has_given_up(PAUSES_MAX);
                is_hurt || self.may_take_size() || may_pause
            }
            GrowState::Telling { cores_left, .. } => cores_left == 0,
            GrowState::Recording { update } => {
                self.failed || self.recorder.has_recorded(update) || mutant!(GrowthUnrecorded)
            }
        }
    }

    fn may_take_size(&self) -> bool {
        let is_zeroing = self.bitmap.as_ref().is_some_and(BitmapKeeper::has_zero_jobs);
        self.pauser.is_on() && self.is_quiet_inside() && !self.log.is_renewing() && !is_zeroing
            || mutant!(GrowthUnpaused)
    }

    /// Moves the growth on, if it can go on.
    pub(super) fn poll_grow(&mut self, out: &mut Out<'_>) {
        if !self.grow_can_go_on() {
            return;
        }
        let is_hurt = self.failed || self.is_degraded();
        match self.grower.state {
            GrowState::Idle => {}
            GrowState::Preparing { .. } | GrowState::Pausing if is_hurt => {
                self.give_up_growth(GrowthFailure::MemberFailed, 0, out);
            }
            GrowState::Preparing { .. } if self.grower.failed != 0 => {
                self.give_up_growth(GrowthFailure::NotPrepared, self.grower.failed, out);
            }
            GrowState::Preparing { .. } => {
                self.grower.set_state(GrowState::Pausing);
                self.pause_to_grow(out);
            }
            GrowState::Pausing if self.may_take_size() => {
                self.take_size();
                out.mail.push_back(Mail::Grow);
                // Nothing else may write a head between this and the update.
                self.poll_recorder(out);
            }
            GrowState::Pausing if self.pauser.has_given_up(PAUSES_MAX) => {
                let waited_for = self.pauser.waited_for();
                self.give_up_growth(GrowthFailure::NoPause, waited_for, out);
            }
            GrowState::Pausing => self.pause_to_grow(out),
            GrowState::Telling { update, .. } => {
                self.grower.set_state(GrowState::Recording { update });
                self.resume(out);
                self.walker.look_again();
            }
            GrowState::Recording { .. } if self.failed => {
                self.give_up_growth(GrowthFailure::MetadataLost, 0, out);
            }
            GrowState::Recording { .. } => {
                let (from_blocks, blocks) = (self.grower.from_blocks, self.shared.blocks);
                self.grower.set_state(GrowState::Idle);
                out.mail.push_back(Mail::Event(ArrayEvent::Grown { from_blocks, blocks }));
            }
        }
    }

    fn pause_to_grow(&mut self, out: &mut Out<'_>) {
        if self.pauser.is_off() && !mutant!(GrowthUnpaused) {
            self.pause(out);
            self.wait_a_spell(out);
        }
    }

    /// The array has its new size from here on, for all that the owner does and writes.
    fn take_size(&mut self) {
        let (growth, shared) = self.grower.next.take().expect("it is planned");
        shared.take_over(&self.shared);
        let chunks = shared.map.as_ref().expect("the array has a bitmap").len();
        let head = growth.bitmap.as_ref().expect("as above");
        self.keeper().grow(chunks, head.sync_size_sectors);
        self.scrubber.grow(chunks);
        self.shared = shared;
        for (member, planned) in self.members.iter_mut().zip(&growth.superblocks) {
            let own = member.superblock.as_mut().expect("all members are in sync");
            own.size_sectors = planned.size_sectors;
            own.data_size_sectors = planned.data_size_sectors;
        }
        self.want_superblock();
        let update = self.recorder.wanted();
        self.grower.set_state(GrowState::Telling { cores_left: self.cores, update });
    }

    /// A channel has the larger map.
    pub(super) fn has_grown(&mut self) {
        if let GrowState::Telling { cores_left, update } = self.grower.state {
            self.grower.set_state(GrowState::Telling { cores_left: cores_left - 1, update });
        }
    }

    fn give_up_growth(&mut self, why: GrowthFailure, slots: SlotMask, out: &mut Out<'_>) {
        self.grower.set_state(GrowState::Idle);
        self.grower.next = None;
        self.grower.failure = Some((why, slots));
        out.mail.push_back(Mail::Event(ArrayEvent::GrowthFailed { why, slots }));
        self.resume(out);
    }

    /// What owner and channels share: a channel that is told to grow is given it.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }
}

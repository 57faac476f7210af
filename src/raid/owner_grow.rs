//! Growth: the array takes all of its members, which have become larger, and serves meanwhile.
//!
//! 1. *Prepare.* Behind the end of what they hold, all members are given what the larger array
//!    needs there, durably: zeroes in the rest of the last chunk, which may have been written and
//!    covers them from then on, and zeroes for the states of the new chunks, which are Unwritten
//!    then. By the old size none of that means anything, so the host goes on.
//! 2. *Pause.* Nothing of the host is under way ([`super::owner_pause`]), nor of the owner's.
//! 3. *Record.* The owner has the larger map, with the bytes of the old one; heads of the bitmap
//!    and then the superblocks say the new size. Heads go first: a power cut on the way leaves a
//!    bitmap of more chunks than the array has, never of less, or members of two sizes, and the
//!    next start goes on from there ([`crate::md::take_up`]).
//! 4. *Tell.* When that is durable, every channel takes over the larger map. Only when all have it
//!    the host goes on, and its namespaces become larger.
//!
//! New chunks are Unwritten, so there is nothing to resync; a resync or check that was under way
//! goes on. While members are missing, rebuilt, replaced, coming or going the array does not grow.
//! Who leaves it on the way and comes back is given everything, as its superblock is another's.

use std::sync::Arc;

use super::message::{ArrayEvent, Mail, Out, SlotMask};
use super::owner::{MemberRequest, Owner, OwnerOp};
use super::owner_bitmap::BitmapKeeper;
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

/// How far a growth is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GrowState {
    /// The array does not grow.
    Idle,
    /// Members are given what is to lie behind the old end.
    Preparing { pending: u32 },
    /// Host and owner end what they have begun.
    Pausing,
    /// Waits for this update of the superblocks.
    Recording { update: u64 },
    /// Channels take over the larger map.
    Telling { cores_left: u16 },
}

impl GrowState {
    fn allows(self, next: Self) -> bool {
        use GrowState::{Idle, Pausing, Preparing, Recording, Telling};
        matches!(
            (self, next),
            (Idle, Preparing { .. })
                | (Preparing { .. }, Preparing { .. } | Pausing | Idle)
                | (Pausing, Recording { .. } | Idle)
                | (Recording { .. }, Telling { .. } | Idle)
                | (Telling { .. }, Telling { .. } | Idle)
        )
    }
}

/// The growth's part of the owner.
#[derive(Debug)]
pub(super) struct Grower {
    state: GrowState,
    /// What is to be written, and what owner and channels are to share then.
    next: Option<(Box<Growth>, Arc<Shared>)>,
    /// Members that could not be prepared.
    failed: SlotMask,
    /// Blocks of the array before.
    from_blocks: u64,
}

impl Default for Grower {
    fn default() -> Self {
        Self { state: GrowState::Idle, next: None, failed: 0, from_blocks: 0 }
    }
}

impl Grower {
    /// The array does not grow.
    pub(super) fn is_idle(&self) -> bool {
        self.state == GrowState::Idle
    }

    /// Members are being prepared.
    pub(super) fn awaits_members(&self) -> bool {
        matches!(self.state, GrowState::Preparing { pending } if pending > 0)
    }

    fn set_state(&mut self, next: GrowState) {
        assert!(self.state.allows(next), "a growth went from {:?} to {next:?}", self.state);
        self.state = next;
    }
}

impl Owner {
    /// Has the array take all of its members. [`Mail::Grown`] follows when it has, or could not.
    ///
    /// # Errors
    /// A sentence for the operator; nothing is changed then.
    pub fn grow(&mut self, wish: &GrowthWish, out: &mut Out<'_>) -> Result<(), String> {
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
        self.grower.failed = 0;
        self.grower.from_blocks = self.shared.blocks;
        self.grower.next = Some((Box::new(growth), Arc::new(shared)));
        self.prepare(out);
        self.go_on(out);
        Ok(())
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
        let mut pending = 0;
        for slot in slots(self.in_sync) {
            let data_lba = self.place(slot).data_lba;
            let own = self.members[usize::from(slot)].superblock.as_ref().expect("it is in sync");
            let bitmap_lba = self.bitmap_lba(own);
            let mut ranges = Vec::with_capacity(2);
            if !mutant!(GrowthNotZeroed) {
                ranges.push(data_lba + data.start..data_lba + data.end);
            }
            if !mutant!(GrowthStatesForgotten) {
                ranges.push(bitmap_lba + states.start..bitmap_lba + states.end);
            }
            for range in ranges.into_iter().filter(|range| !range.is_empty()) {
                let blocks = range.end - range.start;
                let request = MemberRequest {
                    op: IoOp::WriteZeroes,
                    lba: range.start,
                    blocks: u32::try_from(blocks).expect("a chunk's blocks and units fit u32"),
                    buf: None,
                };
                self.send(slot, OwnerOp::Grow, request, out);
                pending += 1;
            }
        }
        self.grower.set_state(GrowState::Preparing { pending });
    }

    /// A member has been given a part of what it needs, or has not.
    pub(super) fn grow_answered(&mut self, slot: MemberSlot, status: IoStatus) {
        let GrowState::Preparing { pending } = self.grower.state else {
            panic!("an answer to a growth that is not being prepared")
        };
        if !status.is_ok() {
            self.grower.failed |= bit(slot);
        }
        self.grower.set_state(GrowState::Preparing { pending: pending - 1 });
    }

    /// What the growth waits for has come about.
    pub(super) fn grow_can_go_on(&self) -> bool {
        if self.life() != super::owner::Life::Running {
            return false;
        }
        let is_hurt = self.failed || self.is_degraded();
        match self.grower.state {
            GrowState::Idle => false,
            GrowState::Preparing { pending } => pending == 0,
            GrowState::Pausing => is_hurt || self.may_take_size(),
            GrowState::Recording { update } => self.failed || self.recorder.has_recorded(update),
            GrowState::Telling { cores_left } => cores_left == 0,
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
            GrowState::Preparing { .. } if self.grower.failed != 0 => {
                self.end_growth(Err("a member can't be written behind its old end"), out);
            }
            GrowState::Preparing { .. } | GrowState::Pausing if is_hurt => {
                self.end_growth(Err("a member has failed meanwhile"), out);
            }
            GrowState::Preparing { .. } => {
                self.grower.set_state(GrowState::Pausing);
                if !mutant!(GrowthUnpaused) {
                    self.pause(out);
                }
            }
            GrowState::Pausing => {
                self.take_size();
                // Nothing else may write a head between this and the update.
                self.poll_recorder(out);
            }
            GrowState::Recording { .. } if self.failed => {
                self.end_growth(Err("the array has lost its metadata"), out);
            }
            GrowState::Recording { .. } => {
                self.grower.set_state(GrowState::Telling { cores_left: self.cores });
                out.mail.push_back(Mail::Grow);
            }
            GrowState::Telling { .. } => {
                let (from_blocks, blocks) = (self.grower.from_blocks, self.shared.blocks);
                out.mail.push_back(Mail::Event(ArrayEvent::Grown { from_blocks, blocks }));
                self.end_growth(Ok(blocks), out);
            }
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
        self.grower.set_state(GrowState::Recording { update: self.recorder.wanted() });
    }

    /// A channel has the larger map.
    pub(super) fn has_grown(&mut self) {
        if let GrowState::Telling { cores_left } = self.grower.state {
            self.grower.set_state(GrowState::Telling { cores_left: cores_left - 1 });
        }
    }

    fn end_growth(&mut self, result: Result<u64, &'static str>, out: &mut Out<'_>) {
        self.grower.set_state(GrowState::Idle);
        self.grower.next = None;
        out.mail.push_back(Mail::Grown(result));
        self.resume(out);
        self.walker.look_again();
    }

    /// What owner and channels share: a channel that is told to grow is given it.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }
}

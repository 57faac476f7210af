//! Members that come and go: what the operator does, and what must hold.

use std::ops::RangeInclusive;

use super::disk::{BITMAP_BYTE, Disk, SUPER_BYTE};
use super::oracle::violated;
use super::trace::{self, Event};
use super::world::{World, noise};
use crate::bdev::{BdevIo, IoOp};
use crate::bitmap::ChunkState;
use crate::md;
use crate::raid::owner_members::MemberState;
use crate::raid::{MemberSlot, Newcomer, ScrubAction, slots};

/// What the operator may put into an empty slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// The one that was there last.
    Same,
    /// One that was there before, from the shelf.
    Shelf,
    /// One that was never a member, full of noise.
    Blank,
}

pub(super) fn parse(meta: &[u8]) -> Option<md::Superblock> {
    md::Unverified::parse(&meta[SUPER_BYTE..BITMAP_BYTE], 8).ok()
}

impl World {
    /// What the slot's device says of itself now.
    pub(super) fn superblock(&self, slot: usize) -> Option<md::Superblock> {
        parse(&self.disks[slot].live_meta)
    }

    pub(super) fn superblock_on_medium(&self, slot: usize) -> Option<md::Superblock> {
        parse(&self.disks[slot].durable_meta)
    }

    pub(super) fn member_state(&self, slot: usize) -> MemberState {
        self.running.as_ref().unwrap().owner.members[slot].state
    }

    /// Whether an assembly of the two would take the second for current.
    pub(super) fn would_be_in_sync(&self, one: md::Superblock, other: md::Superblock) -> bool {
        let candidates = [one, other].map(|mut superblock| {
            superblock.features.remove(md::Features::BITMAP_OFFSET);
            md::Candidate { device_sectors: 1 << 16, superblock, bitmap: None }
        });
        md::assemble(&candidates)
            .is_ok_and(|assembly| assembly.slots.contains(&md::Slot::InSync { candidate: 1 }))
    }

    pub(super) fn fail(&mut self, slot: usize) -> Result<(), String> {
        trace::note(Event::Operator("fail", slot));
        let mut result = Ok(());
        let slot = MemberSlot::try_from(slot).unwrap();
        self.unsettle_doubtful();
        self.on_owner(|owner, out| result = owner.fail(slot, out));
        result
    }

    pub(super) fn remove(&mut self, slot: usize) -> Result<(), String> {
        trace::note(Event::Operator("remove", slot));
        let mut result = Ok(());
        let slot = MemberSlot::try_from(slot).unwrap();
        self.unsettle_doubtful();
        self.on_owner(|owner, out| result = owner.remove(slot, out));
        result
    }

    pub(super) fn blank(&mut self, slot: usize) -> Disk {
        let meta = vec![0xdd; self.disks[slot].live_meta.len()];
        let Self { disks, rng, .. } = self;
        let data = disks[slot].live.iter().map(|_| noise(rng)).collect();
        disks[slot].another(meta, data)
    }

    /// Puts a device into an empty slot.
    pub(super) fn put(&mut self, slot: usize, device: Device) {
        let in_flight = &self.running.as_ref().unwrap().in_flight;
        assert!(in_flight.iter().all(|flight| flight.disk != slot), "the device is in use");
        let (new, missed) = match device {
            Device::Same => return,
            Device::Blank => (self.blank(slot), true),
            Device::Shelf => match self.shelf[slot].take() {
                Some(shelved) => shelved,
                None => return,
            },
        };
        let old = std::mem::replace(&mut self.disks[slot], new);
        let missed = self.watch.is_replaced(slot, missed);
        self.shelf[slot] = Some((old, missed));
    }

    /// Offers the slot's device to the array.
    pub(super) fn join(&mut self, slot: usize, as_new: bool) -> Result<bool, String> {
        trace::note(Event::Operator("join", slot));
        let ours = |superblock: &md::Superblock| superblock.set_uuid == [7; 16];
        self.disks[slot].dead = false;
        self.devices = self.devices.wrapping_add(1);
        let newcomer = Newcomer {
            bdev: self.bdev_of(slot),
            unmap: self.shape.unmap,
            cheap_zeroes: self.shape.cheap_zeroes,
            device_sectors: 1 << 16,
            superblock: self.superblock(slot).filter(ours),
            device_uuid: [self.devices | 0x80; 16],
            slot: Some(MemberSlot::try_from(slot).unwrap()),
            as_new,
            bad_blocks: match self.superblock(slot) {
                Some(_) => self.disks[slot].bad_blocks(),
                None => Vec::new(),
            },
        };
        let mut result = Err(String::new());
        self.on_owner(|owner, out| result = owner.join(&newcomer, out));
        result.map(|joined| joined.guided)
    }

    /// The operator does something to a slot, if there is anything to do.
    pub(super) fn some_operator_act(&mut self) {
        let running = self.running.as_ref().unwrap();
        if !running.started || running.stopped {
            return;
        }
        if self.rng.one_in(10) {
            let action = [ScrubAction::Check, ScrubAction::Repair][self.rng.below(2)];
            trace::note(Event::Operator("scrub", 0));
            return self.on_owner(|owner, out| drop(owner.scrub(action, out)));
        }
        let slot = self.rng.below(self.disks.len());
        let spare_one = self.in_sync().count_ones() > 1;
        if running.owner.joiner.concerns(MemberSlot::try_from(slot).unwrap()) {
            return;
        }
        match self.member_state(slot) {
            MemberState::InSync if !spare_one || self.rng.one_in(2) => {}
            MemberState::InSync | MemberState::Rebuilding => {
                let _ = match self.rng.one_in(2) {
                    true => self.fail(slot),
                    false => self.remove(slot),
                };
            }
            // The device was pulled and put in again: its cache is gone, what it did is done.
            MemberState::Faulty if self.rng.one_in(2) => {
                let _ = self.join(slot, false);
            }
            MemberState::Faulty => {
                let _ = self.remove(slot);
            }
            MemberState::Joining => {}
            MemberState::Missing => {
                let device = [Device::Same, Device::Same, Device::Shelf, Device::Blank];
                let device = device[self.rng.below(4)];
                self.put(slot, device);
                if self.rng.one_in(2) {
                    let Self { disks, rng, .. } = self;
                    disks[slot].cut(rng);
                }
                let as_new = self.rng.one_in(8);
                let _ = self.join(slot, as_new);
            }
        }
    }

    /// Whether the owner's request belongs to a rebuild.
    pub(super) fn is_rebuild_copy(
        &self,
        disk: usize,
        op: IoOp,
        mut chunks: RangeInclusive<usize>,
    ) -> bool {
        // What replaces a member has the number behind the slots.
        let disk = if disk == self.twin_at() { self.disks.len() } else { disk };
        let rebuilding = self.written() & !self.in_sync();
        let shared = &self.running.as_ref().unwrap().shared;
        let agree = |chunk| match shared.chunk_state(chunk) {
            // A write lost on every member may have put it in doubt under the copy.
            Some(ChunkState::NeedSync | ChunkState::Syncing) => true,
            Some(ChunkState::Clean | ChunkState::Dirty) => true,
            Some(ChunkState::Unwritten) => !shared.unwritten_reads_zero,
            _ => false,
        };
        let scrub = self.running.as_ref().unwrap().owner.scrubber.status();
        if scrub.is_some_and(|scrub| scrub.running) && self.in_sync() & 1 << disk != 0 {
            // What was lost on every member after the look at its chunk is resynced.
            return true;
        }
        let place = if op == IoOp::Write { rebuilding } else { self.in_sync() };
        rebuilding != 0 && place & 1 << disk != 0 && chunks.all(agree)
    }

    /// Oracle 6: what a superblock says of a member that is being rebuilt is so when it is written.
    pub(super) fn check_says(&mut self, slot: usize, io: &BdevIo) {
        let bytes = io.buf.as_ref().unwrap().as_slice();
        let own = md::Unverified::parse(bytes, 8).expect("our own");
        self.check_number(&own);
        if slot == self.twin_at() {
            return self.check_twin_says(&own);
        }
        if !self.watch.missed[slot] || self.in_sync() & 1 << slot != 0 {
            return;
        }
        if own.features.contains(md::Features::RECOVERY_OFFSET) {
            let sectors = u64::try_from(self.shape.chunk_blocks * self.shape.block / 512).unwrap();
            let chunks = usize::try_from(own.recovery_offset_sectors / sectors).unwrap();
            // Of these it may have missed acknowledged writes, but not for good.
            return self.check_given(slot, 0..chunks.min(self.watch.chunks), "rebuilt up to there");
        }
        self.check_given(slot, 0..self.watch.chunks, "whole");
        self.check_bitmap_given(slot, own.events);
        self.watch.is_given_all(slot);
        self.growths.small[slot] = false;
    }

    /// Oracle 6: who is written takes part, and nobody else has its number.
    fn check_number(&self, own: &md::Superblock) {
        let owner = &self.running.as_ref().unwrap().owner;
        let others = owner.members.iter().filter(|member| member.state != MemberState::Faulty);
        let is_same = |other: &md::Superblock| {
            other.dev_number == own.dev_number && other.device_uuid != own.device_uuid
        };
        if others.filter_map(|member| member.superblock.as_ref()).any(is_same) {
            violated(6, &format!("two members have the number {}", own.dev_number));
        }
        if !matches!(own.own_role(), md::Role::Active(_)) {
            violated(6, &format!("a member is told that it is {:?}", own.own_role()));
        }
    }

    fn check_given(&self, slot: usize, chunks: std::ops::Range<usize>, called: &str) {
        let shared = self.running.as_ref().unwrap().shared.clone();
        for chunk in chunks {
            let state = shared.chunk_state(chunk).unwrap();
            if state == ChunkState::Unwritten && shared.unwritten_reads_zero {
                continue;
            }
            for lba in self.blocks_of(chunk) {
                let lacks = match self.shape.parity {
                    Some(_) => self.column_lacks(slot, lba, state),
                    None => self.block_lacks(slot, lba, state),
                };
                if lacks {
                    violated(6, &format!("member {slot} is called {called} and lacks block {lba}"));
                }
            }
        }
    }

    /// Whether a member lacks a block of the array that it should hold.
    fn block_lacks(&self, slot: usize, lba: usize, state: ChunkState) -> bool {
        let own = &self.disks[slot];
        let Some((live, durable)) = own.holds(lba).filter(|_| !own.lists(lba)) else {
            return false;
        };
        match state {
            ChunkState::Clean => {
                let in_sync = slots(self.in_sync()).map(usize::from);
                let in_sync = in_sync.filter(|&other| !self.disks[other].lists(lba));
                let mut others = in_sync.filter_map(|other| self.disks[other].holds(lba));
                others.next().is_some_and(|(_, other)| other != durable)
            }
            ChunkState::Dirty => self.host.acknowledged(lba).is_some_and(|it| it != live),
            _ => false,
        }
    }

    /// Oracle 6: it has the bitmap, and from now on older members are known to lack something.
    fn check_bitmap_given(&self, slot: usize, events: u64) {
        let shared = self.running.as_ref().unwrap().shared.clone();
        let map = shared.map.as_ref().unwrap();
        for chunk in 0..self.watch.chunks {
            let byte = self.state_byte(slot, chunk);
            let is_written = map.state(chunk) != ChunkState::Unwritten && map.is_durable(chunk);
            if ChunkState::from_byte(byte).is_none() || byte == 0 && is_written {
                violated(6, &format!("member {slot} is called whole, and chunk {chunk} {byte}"));
            }
        }
        let completes = (self.in_sync() | 1 << slot).count_ones() as usize == self.disks.len();
        let source = self.in_sync().trailing_zeros() as usize;
        let disk = self.disk(if self.shape.external { self.disks.len() } else { source });
        let at = disk.bitmap_byte() + 32;
        let cleared = u64::from_le_bytes(disk.durable_meta[at..at + 8].try_into().unwrap());
        if completes && cleared != events {
            let what = format!("the array is complete from {events} on, events_cleared {cleared}");
            violated(6, &what);
        }
    }

    /// A member is in sync again.
    pub(super) fn check_rebuilt(&mut self, slot: MemberSlot) {
        assert!(!self.watch.missed[usize::from(slot)], "no superblock has called it whole");
        self.watch.is_given_all(usize::from(slot));
        self.growths.small[usize::from(slot)] = false;
        if self.in_sync().count_ones() as usize == self.disks.len() {
            self.watch.owed.fill(false);
        }
    }

    /// Every slot gets its device back, and has everything at last.
    pub(super) fn make_whole(&mut self) {
        for _ in 0..8 {
            for slot in 0..self.disks.len() {
                if matches!(self.member_state(slot), MemberState::Faulty | MemberState::Missing)
                    && let Err(text) = self.join(slot, false)
                {
                    // Used without the others: its data are given up.
                    let taken_back = self.join(slot, true);
                    assert!(taken_back.is_ok(), "slot {slot}: {text}, {taken_back:?}");
                }
            }
            let done = |world: &Self| {
                slots(world.writable() & !world.in_sync()).next().is_none()
                    && world.replacement_is_over()
                    && world.is_quiet()
                    && (0..world.disks.len())
                        .all(|slot| world.member_state(slot) != MemberState::Joining)
            };
            self.run_until("all members are whole", done);
            if self.in_sync().count_ones() as usize == self.disks.len() {
                return;
            }
        }
        violated(0, "members do not come back");
    }
}

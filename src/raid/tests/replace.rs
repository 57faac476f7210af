//! Members that are replaced while they serve: what the operator does, what must hold, and stories.

use std::collections::BTreeMap;

use super::disk::Disk;
use super::members::parse;
use super::oracle::violated;
use super::scenario::started;
use super::trace::{self, Event};
use super::world::{Shape, World};
use crate::bdev::{BdevId, IoOp};
use crate::bitmap::ChunkState;
use crate::md;
use crate::raid::owner_members::MemberState;
use crate::raid::{MemberSlot, Newcomer};

/// Bdevs from this number on are those that have replaced a member, or are to.
const FIRST_TWIN_BDEV: u16 = 200;

/// Devices beside those in the slots.
#[derive(Default)]
pub(super) struct Twins {
    /// What is to replace a member.
    pub(super) disk: Option<Disk>,
    /// Its bdev.
    bdev: u16,
    /// Devices that are out and may still have requests.
    graves: Vec<Disk>,
    /// By slot: the bdev of the device in it, if it is not that of the slot's number.
    bdev_of: BTreeMap<usize, u16>,
    /// Where the devices of bdevs are now that are not where their number says.
    at: BTreeMap<u16, usize>,
    made: u16,
    /// Replacements that have come to their end.
    pub(super) replaced: u64,
}

impl World {
    /// Where the device is that replaces a member, among the disks.
    pub(super) fn twin_at(&self) -> usize {
        self.disks.len() + 1
    }

    /// The device that is `at` among the disks: in a slot, the external bitmap's, what replaces a
    /// member, and those that are out.
    pub(super) fn some_disk(&self, at: usize) -> Option<&Disk> {
        let behind = at.checked_sub(self.twin_at() + 1);
        match behind {
            Some(grave) => self.twins.graves.get(grave),
            None if at == self.twin_at() => self.twins.disk.as_ref(),
            None => self.disks.get(at).or(self.external.as_ref()),
        }
    }

    pub(super) fn some_disk_mut(&mut self, at: usize) -> Option<&mut Disk> {
        let twin_at = self.twin_at();
        match at.checked_sub(twin_at + 1) {
            Some(grave) => self.twins.graves.get_mut(grave),
            None if at == twin_at => self.twins.disk.as_mut(),
            None => self.disks.get_mut(at).or(self.external.as_mut()),
        }
    }

    /// Where the bdev's device is.
    pub(super) fn disk_of_bdev(&self, bdev: BdevId) -> usize {
        self.twins.at.get(&bdev.0).copied().unwrap_or(usize::from(bdev.0))
    }

    /// The bdev of the device in a slot.
    pub(super) fn bdev_of(&self, slot: usize) -> BdevId {
        let own = u16::try_from(slot).unwrap();
        BdevId(self.twins.bdev_of.get(&slot).copied().unwrap_or(own))
    }

    fn new_twin_bdev(&mut self) -> BdevId {
        self.twins.made += 1;
        self.twins.bdev = FIRST_TWIN_BDEV + self.twins.made;
        let at = self.twin_at();
        self.twins.at.insert(self.twins.bdev, at);
        BdevId(self.twins.bdev)
    }

    /// The power goes: bdevs have the numbers of their slots again.
    pub(super) fn renumber(&mut self) {
        self.twins.at.clear();
        self.twins.bdev_of.clear();
        self.twins.graves.clear();
    }

    /// What replaces a member, as a candidate of an assembly.
    pub(super) fn twin_candidate(&mut self) -> Option<(BdevId, usize)> {
        let own = parse(&self.twins.disk.as_ref()?.live_meta)?;
        if own.set_uuid != [7; 16] || !matches!(own.own_role(), md::Role::Active(_)) {
            return None;
        }
        let bdev = self.new_twin_bdev();
        Some((bdev, self.twin_at()))
    }

    /// What an assembly has made of the device that was to replace a member.
    pub(super) fn twin_assembled(&mut self, assembly: &md::Assembly, candidate: Option<usize>) {
        let Some(candidate) = candidate else {
            self.twins.disk = None;
            return;
        };
        if assembly.replacement.is_some_and(|it| it.candidate == candidate) {
            return;
        }
        let has_it = |slot: &md::Slot| match *slot {
            md::Slot::InSync { candidate: by } | md::Slot::Rebuilding { candidate: by, .. } => {
                by == candidate
            }
            md::Slot::Missing { .. } => false,
        };
        match assembly.slots.iter().position(has_it) {
            Some(slot) => {
                let is_whole = matches!(assembly.slots[slot], md::Slot::InSync { .. });
                self.move_twin(slot, is_whole);
            }
            None => self.twins.disk = None,
        }
    }

    /// What was to replace the slot's device is in the slot; the one before is out.
    fn move_twin(&mut self, slot: usize, is_whole: bool) {
        let (twin, grave) = (self.twin_at(), self.twin_at() + 1 + self.twins.graves.len());
        let new = self.twins.disk.take().expect("there is one");
        let old = std::mem::replace(&mut self.disks[slot], new);
        let (old_bdev, bdev) = (self.bdev_of(slot), self.twins.bdev);
        if let Some(running) = &mut self.running {
            for flight in &mut running.in_flight {
                flight.disk = match flight.disk {
                    at if at == slot => grave,
                    at if at == twin => slot,
                    at => at,
                };
            }
        }
        self.twins.at.insert(old_bdev.0, grave);
        self.twins.at.insert(bdev, slot);
        self.twins.bdev_of.insert(slot, bdev);
        let before = self.watch.is_replaced(slot, !is_whole);
        if is_whole {
            self.watch.is_given_all(slot);
            self.growths.small[slot] = false;
            self.shelf[slot] = Some((old.clone(), before));
        }
        self.twins.graves.push(old);
    }

    /// The operator has a blank device take the place of a member.
    pub(super) fn replace(&mut self, slot: usize) -> Result<(), String> {
        trace::note(Event::Operator("replace", slot));
        if self.running.as_ref().unwrap().owner.replacer.replaced().is_some() {
            return Err("one at a time".to_owned());
        }
        self.twins.disk = Some(self.blank(slot));
        self.watch.joined = true;
        self.devices = self.devices.wrapping_add(1);
        let newcomer = Newcomer {
            bdev: self.new_twin_bdev(),
            unmap: self.shape.unmap,
            cheap_zeroes: self.shape.cheap_zeroes,
            device_sectors: 1 << 16,
            superblock: None,
            device_uuid: [self.devices | 0x80; 16],
            slot: None,
            as_new: false,
            bad_blocks: Vec::new(),
        };
        let mut result = Err(String::new());
        let slot = MemberSlot::try_from(slot).unwrap();
        self.on_owner(|owner, out| result = owner.replace(slot, &newcomer, out));
        result.map(drop)
    }

    /// A device has taken a member's place: it holds what that did.
    pub(super) fn check_replaced(&mut self, slot: usize) {
        self.twins.replaced += 1;
        let running = self.running.as_ref().unwrap();
        let flights = &running.in_flight;
        if flights.iter().any(|it| it.disk == slot) {
            violated(0, &format!("member {slot} is let go with requests under way"));
        }
        let shared = running.shared.clone();
        let (old, new) = (&self.disks[slot], self.twins.disk.as_ref().expect("there is one"));
        for at in 0..old.live.len() {
            let Some(lba) = old.sync_block(at) else { continue };
            let state = shared.chunk_state(self.chunk_of(lba));
            let is_alike = old.live[at] == new.live[at] || old.lists_at(at) || new.lists_at(at);
            if matches!(state, Some(ChunkState::Clean | ChunkState::Dirty)) && !is_alike {
                let (old, new) = (old.live[at][0], new.live[at][0]);
                let what = format!("member {slot} is replaced: block {at} was v{old}, is v{new}");
                violated(3, &what);
            }
        }
        self.move_twin(slot, true);
    }

    /// The member has failed: what was to replace it is to be rebuilt in its slot.
    pub(super) fn twin_is_orphaned(&mut self, slot: usize) {
        // It may have called itself whole already, or be about to, and then counts if the power
        // goes now.
        let is_whole =
            |own: md::Superblock| own.set_uuid == [7; 16] && !own.is_rebuilding() && own.is_ours();
        let says = self.twins.disk.as_ref().and_then(|disk| parse(&disk.live_meta));
        let flights = &self.running.as_ref().unwrap().in_flight;
        let mut told = flights.iter().filter(|it| it.disk == self.twin_at()).filter_map(|it| {
            let buf = it.io.buf.as_ref().filter(|_| it.io.op == IoOp::Write)?;
            md::Unverified::parse(buf.as_slice(), 8).ok()
        });
        let is_whole = says.is_some_and(is_whole) || told.any(is_whole);
        self.move_twin(slot, false);
        self.watch.missed[slot] = !is_whole;
        self.watch.incomplete[slot] = !is_whole;
    }

    /// What replaces a member says that it has it all, or a part.
    pub(super) fn check_twin_says(&self, own: &md::Superblock) {
        let md::Role::Active(slot) = own.own_role() else { return };
        let running = self.running.as_ref().unwrap();
        let chunks = match own.features.contains(md::Features::RECOVERY_OFFSET) {
            true => {
                let sectors = self.shape.chunk_blocks * self.shape.block / 512;
                usize::try_from(own.recovery_offset_sectors / sectors as u64).unwrap()
            }
            false => usize::MAX,
        };
        let (old, new) = (&self.disks[usize::from(slot)], self.twins.disk.as_ref().unwrap());
        for at in 0..old.live.len() {
            let Some(lba) = old.sync_block(at) else { continue };
            let chunk = self.chunk_of(lba);
            // What is written just now may be under way on either of them.
            let is_settled = running.shared.chunk_state(chunk) == Some(ChunkState::Clean)
                && self.state_byte(usize::from(slot), chunk) == ChunkState::Clean as u8;
            let is_alike = old.durable[at] == new.durable[at];
            let is_listed = || old.lists_at(at) || new.lists_at(at);
            if chunk < chunks && is_settled && !is_alike && !old.dead && !is_listed() {
                let what = format!("what replaces member {slot} says that it has chunk {chunk}");
                violated(6, &what);
            }
        }
    }

    /// The operator does something about the replacement of a member.
    pub(super) fn some_replacement_act(&mut self) {
        let running = self.running.as_ref().unwrap();
        if !running.started || running.stopped {
            return;
        }
        let twin = self.disks.len();
        if running.owner.replacer.replaced().is_some() {
            if self.rng.one_in(8) {
                let _ = match self.rng.one_in(2) {
                    true => self.fail(twin),
                    false => self.remove(twin),
                };
            }
            return;
        }
        let slot = self.rng.below(self.disks.len());
        if self.member_state(slot) == MemberState::InSync {
            let _ = self.replace(slot);
        }
    }

    /// Nothing is being replaced any more.
    pub(super) fn replacement_is_over(&self) -> bool {
        self.running.as_ref().unwrap().owner.replacer.replaced().is_none()
    }
}

const SHAPES: [Shape; 4] = [
    Shape { members: 2, ..Shape::SMALL },
    Shape { members: 3, raid10: Some((0x102, 16)), ..Shape::SMALL },
    Shape { members: 3, parity: Some((5, 2, 16)), ..Shape::SMALL },
    Shape { members: 4, parity: Some((6, 2, 16)), ..Shape::SMALL },
];

/// Under writes; then each member is read alone, where that can be.
#[test]
pub(super) fn a_member_is_replaced_while_it_serves() {
    for (seed, shape) in (0..).zip(SHAPES) {
        for slot in 0..shape.members {
            let mut world = started(seed, shape);
            world.write_chunks([0, 2, 3, 7]);
            world.replace(slot).unwrap();
            world.write_chunks([1, 2, 4, 7]);
            world.run_until("it is replaced", World::replacement_is_over);
            assert_eq!(world.twins.replaced, 1, "{shape:?}");
            world.write_chunks([2, 5]);
            world.run_until_quiet();
            world.read_all();
            world.stop();
            world.assemble();
            assert!(world.wait_started());
            world.read_all();
            world.run_until_quiet();
            assert_eq!(world.in_sync().count_ones() as usize, shape.members);
        }
    }
}

/// One that was let go is given everything if it comes back: what it missed may be Clean by then.
#[test]
pub(super) fn who_was_replaced_is_given_everything() {
    let mut world = started(1, SHAPES[0]);
    world.write_chunks([0, 2, 3]);
    world.replace(0).unwrap();
    world.run_until("it is replaced", World::replacement_is_over);
    world.write_chunks([0, 6]);
    for _ in 0..6 {
        world.fire_timer();
        world.run_until_quiet();
    }
    let given = world.rebuild(0, super::members::Device::Shelf);
    assert!(given >= 4, "it was given {given} chunks");
    world.read_all();
    world.check_members_agree();
}

/// The power goes when writes have ended that only the newcomer has; at the next start both devices
/// are there.
#[test]
pub(super) fn who_was_replaced_never_serves_again() {
    for seed in 0..24 {
        let mut world = started(seed, SHAPES[0]);
        world.write_chunks([0, 2, 3]);
        world.replace(0).unwrap();
        world.run_until("it is replaced", World::replacement_is_over);
        world.write_chunks([2]);
        world.cut_power();
        let (old, _) = world.shelf[0].take().unwrap();
        world.twins.disk = Some(std::mem::replace(&mut world.disks[0], old));
        world.assemble();
        assert!(world.wait_started());
        world.read_all();
        world.run_until_quiet();
        assert_eq!(world.in_sync(), 0b11);
    }
}

/// What was to replace a member fails: nothing else happens.
#[test]
fn a_replacement_that_fails_harms_nobody() {
    for (seed, shape) in (0..).zip(SHAPES) {
        let mut world = started(seed, shape);
        world.write_chunks([0, 2, 3, 7]);
        world.replace(0).unwrap();
        for _ in 0..40 {
            world.step();
        }
        if let Some(disk) = &mut world.twins.disk {
            disk.dead = true;
        }
        world.write_chunks([1, 2, 4, 7]);
        world.run_until("it is over", World::replacement_is_over);
        assert_eq!(world.in_sync().count_ones() as usize, shape.members, "{shape:?}");
        world.read_all();
        world.run_until_quiet();
    }
}

/// The member fails while it is replaced: the newcomer is rebuilt from the others.
#[test]
fn a_member_that_fails_is_rebuilt_on_what_was_to_replace_it() {
    for (seed, shape) in (0..).zip(SHAPES) {
        for steps in [0, 10, 30, 60, 100, 140] {
            let mut world = started(seed, shape);
            world.write_chunks([0, 2, 3, 7]);
            world.replace(0).unwrap();
            for _ in 0..steps {
                world.step();
            }
            if world.replacement_is_over() {
                world.run_until_quiet();
                continue;
            }
            world.fail(0).unwrap();
            world.write_chunks([1, 2, 4, 7]);
            world.wait_in_sync(0);
            assert_eq!(world.twins.replaced, 0);
            assert_eq!(world.in_sync().count_ones() as usize, shape.members, "{shape:?}");
            world.read_all();
            world.run_until_quiet();
        }
    }
}

/// A clean stop in the middle, and power cuts at every step: the newcomer goes on, or the member
/// is what it was.
#[test]
pub(super) fn a_replacement_survives_every_stop() {
    for (seed, shape) in (0..).zip(SHAPES) {
        for steps in (0..260).step_by(7) {
            let mut world = started(seed, shape);
            world.write_chunks([0, 2, 3, 7]);
            world.replace(0).unwrap();
            for _ in 0..steps {
                world.step();
            }
            match steps % 2 {
                0 => world.stop(),
                _ => world.cut_power(),
            }
            world.assemble();
            assert!(world.wait_started());
            world.write_chunks([1, 2, 4]);
            world.run_until("the replacement is over", World::replacement_is_over);
            world.make_whole();
            world.read_all();
            world.run_until_quiet();
        }
    }
}

/// What has just replaced the only member can't write the head of the bitmap: the member takes its
/// place back, and has the head before its superblock counts on it.
#[test]
pub(super) fn who_takes_its_place_back_is_given_the_head() {
    for seed in 0..8 {
        let mut world = started(seed, Shape { members: 2, ..Shape::SMALL });
        world.write_chunks([0, 2, 3]);
        world.remove(1).unwrap();
        world.run_until("it is let go", |world| world.member_state(1) == MemberState::Missing);
        world.replace(0).unwrap();
        world.run_until("the member is let go", |world| {
            world.running.as_ref().unwrap().owner.replaceable_back() != 0
        });
        world.twins.disk.as_mut().unwrap().dead = true;
        world.run_until("its superblock is written", |world| world.writes_superblock(0));
        world.cut_with_one_superblock(Some(0));
        world.assemble();
        assert!(world.wait_started());
        world.read_all();
        world.run_until_quiet();
    }
}

//! Members that are replaced while they serve: what the operator does, what must hold, and stories.

use std::collections::BTreeMap;

use super::disk::Disk;
use super::members::parse;
use super::oracle::violated;
use super::scenario::started;
use super::trace::{self, Event};
use super::world::{Flight, Shape, World, creation};
use crate::bdev::{BdevId, IoOp};
use crate::bitmap::ChunkState;
use crate::md;
use crate::raid::message::ArrayTimer;
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

impl World {
    fn is_handed_over(&self) -> bool {
        self.running.as_ref().unwrap().owner.handed_over() != 0
    }

    fn is_on_record(&self) -> bool {
        self.running.as_ref().unwrap().owner.swap_awaits_pause()
    }
}

/// What is just being given the only member's place fails: the superblock of the member counts on
/// it again, if that is the last thing before the power goes, too.
#[test]
pub(super) fn who_takes_its_place_back_counts_again() {
    for seed in 0..8 {
        let mut world = started(seed, Shape { members: 2, ..Shape::SMALL });
        world.write_chunks([0, 2, 3]);
        world.remove(1).unwrap();
        world.run_until("it is let go", |world| world.member_state(1) == MemberState::Missing);
        world.replace(0).unwrap();
        world.run_until("its place is handed over", World::is_handed_over);
        world.twins.disk.as_mut().unwrap().dead = true;
        world.run_until("its superblock is written", |world| world.writes_superblock(0));
        world.cut_with_one_superblock(Some(0));
        world.assemble();
        assert!(world.wait_started());
        world.read_all();
        world.run_until_quiet();
    }
}

/// Another member fails when the superblocks count on the newcomer: the member, which is written
/// still, hears of that before a write ends that the other one missed.
#[test]
pub(super) fn who_hands_its_place_over_hears_what_happens() {
    for seed in 0..8 {
        let mut world = started(seed, Shape { members: 3, ..Shape::SMALL });
        world.write_chunks([0, 2, 3]);
        world.replace(0).unwrap();
        world.run_until("its place is handed over", World::is_on_record);
        // The pause can't come about, and is given up.
        world.submit(0, IoOp::Read, false, 25, 1);
        let held = world.withhold(|flight| flight.io.op == IoOp::Read);
        assert_eq!(held.len(), 1);
        world.run_until_quiet();
        assert!(world.fire_timer());
        world.run_until_quiet();
        assert_eq!(world.twins.replaced, 0);
        world.fail(1).unwrap();
        world.run_until_quiet();
        world.submit(0, IoOp::Write, true, 2, 3);
        world.run_until("the write ends", |world| world.host.in_flight() == 1);
        world.running.as_mut().unwrap().in_flight.extend(held);
        world.run_until("it is replaced", World::replacement_is_over);
        world.wait_host();
        assert_eq!((world.twins.replaced, world.in_sync()), (1, 0b101));
        world.cut_power();
        world.assemble();
        assert!(world.wait_started());
        world.read_all();
        world.run_until_quiet();
    }
}

/// The operator ends a replacement when the superblocks count on the newcomer, and the power goes
/// at any event of that, while nobody else has what the member has.
#[test]
pub(super) fn what_the_operator_ends_at_its_end() {
    let pairs = Shape { members: 4, raid10: Some((0x102, 16)), ..Shape::SMALL };
    for seed in 0..8 {
        let shape = if seed < 4 { pairs } else { Shape { members: 2, ..Shape::SMALL } };
        for events in 0.. {
            let mut world = started(seed, shape);
            world.write_chunks([0, 2, 3, 7]);
            world.fail(1).unwrap();
            world.run_until_quiet();
            world.replace(0).unwrap();
            world.run_until(
                "its place is handed over",
                match seed % 2 {
                    0 => World::is_handed_over,
                    _ => World::is_on_record,
                },
            );
            world.remove(world.disks.len()).unwrap();
            let end = world.events + events;
            while !world.replacement_is_over() && world.events < end {
                world.step();
            }
            let is_over = world.replacement_is_over();
            world.cut_power();
            world.assemble();
            assert_eq!(world.split_brains, 0, "nobody was used apart");
            assert!(world.wait_started());
            world.read_all();
            world.run_until_quiet();
            if is_over {
                break;
            }
        }
    }
}

/// A device that was away for long was announced to the others, and the power went before its own
/// superblock said that it is being rebuilt. It is nobody beside one that is being rebuilt itself.
#[test]
pub(super) fn who_was_only_announced_does_not_count() {
    let creation = creation(&Shape { members: 3, ..Shape::SMALL });
    let candidate = |mut superblock: md::Superblock| {
        superblock.features.remove(md::Features::BITMAP_OFFSET);
        md::Candidate { device_sectors: 1 << 16, superblock, bitmap: None }
    };
    let mut two: Vec<_> = creation.superblocks.into_iter().take(2).map(candidate).collect();
    (two[0].superblock.events, two[1].superblock.events) = (5, 9);
    two[1].superblock.features |= md::Features::RECOVERY_OFFSET;
    let assembly = md::assemble(&two);
    assert!(matches!(assembly, Err(md::AssembleError::NoInSyncMember { .. })), "{assembly:?}");
}

/// Redundancy enough for one to fail.
const FEW: [Shape; 4] = [
    Shape { members: 3, ..Shape::SMALL },
    Shape { members: 3, raid10: Some((0x102, 16)), ..Shape::SMALL },
    Shape { members: 3, parity: Some((5, 2, 16)), ..Shape::SMALL },
    Shape { members: 4, parity: Some((6, 2, 16)), ..Shape::SMALL },
];

impl World {
    /// Member 0 is being replaced, and what replaces it has everything, as it will say now.
    fn at_the_end(seed: u64, shape: Shape) -> Self {
        let mut world = started(seed, shape);
        world.write_chunks([0, 2, 3, 7]);
        world.replace(0).unwrap();
        world.run_until("it has everything", |world| {
            let running = world.running.as_ref().unwrap();
            let twin = running.owner.members.last().unwrap();
            twin.rebuild.is_some_and(|rebuild| rebuild.whole_from.is_some())
        });
        world
    }

    /// So much happens, or it is replaced.
    fn go_on(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.replacement_is_over() || !self.step() {
                return;
            }
        }
    }

    fn go_on_anyway(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
    }

    /// The device dies, as the host's next write to it tells.
    fn kill(&mut self, at: usize) {
        self.disk_mut(at).dead = true;
        for chunk in [0, 4] {
            let lba = self.array_blocks_of(chunk).start;
            if self.host.may_send(IoOp::Write, lba, 1) {
                self.submit(0, IoOp::Write, true, lba, 1);
            }
        }
    }

    /// The power goes, and with it those that had died: the others have everything.
    fn goes_on_without_the_dead(&mut self) {
        let dead: Vec<usize> = (0..self.disks.len()).filter(|&at| self.disks[at].dead).collect();
        let is_twin_dead = self.twins.disk.as_ref().is_some_and(|disk| disk.dead);
        self.cut_power();
        dead.iter().for_each(|&slot| self.present[slot] = false);
        if is_twin_dead {
            self.twins.disk = None;
        }
        self.assemble();
        // The first one has been replaced then.
        let is_taken = |slot: usize| slot > 0 && self.in_sync() & 1 << slot != 0;
        let is_out = |&slot: &usize| !self.present[slot] && !is_taken(slot);
        assert!(dead.iter().all(is_out), "the dead are needed");
        assert!(self.wait_started());
        self.present.fill(true);
        self.read_all();
        self.run_until_quiet();
    }
}

/// One of them dies at any event of the end, and some events later the power goes.
#[test]
pub(super) fn whoever_dies_at_the_end_of_a_replacement() {
    for (seed, shape) in (0..).zip(FEW) {
        for victim in 0..3 {
            let mut is_over = false;
            for steps in (0..).step_by(2) {
                for later in [0, 2, 7, 20, 70] {
                    let mut world = World::at_the_end(seed + 4 * later, shape);
                    world.go_on(steps);
                    is_over = world.replacement_is_over();
                    if is_over {
                        world.cut_power();
                        break;
                    }
                    // What is to replace it dies, it itself, or another.
                    world.kill([world.twin_at(), 0, 1][victim]);
                    world.go_on_anyway(later);
                    world.goes_on_without_the_dead();
                    world.cut_power();
                }
                if is_over {
                    break;
                }
            }
        }
    }
}

/// What is just being given a member's place dies of that, and then another member, before the
/// power goes: the member has everything still.
#[test]
pub(super) fn who_dies_as_it_is_told_was_told_alone() {
    for (seed, shape) in (0..).zip(FEW) {
        for steps in (0..200).step_by(4) {
            for later in [0, 5, 20] {
                let mut world = World::at_the_end(seed + 4 * later, shape);
                world.run_until("it is told", |world| {
                    let is_told = |it: &Flight| {
                        it.disk == world.twin_at() && it.io.lba == world.superblock_lba()
                    };
                    let flights = &world.running.as_ref().unwrap().in_flight;
                    world.is_handed_over() && flights.iter().any(is_told)
                });
                world.disk_mut(world.twin_at()).dead = true;
                world.go_on(steps);
                world.kill(1);
                world.go_on_anyway(later);
                world.goes_on_without_the_dead();
                world.cut_power();
            }
        }
    }
}

/// A member is to have its place back, as what was given it has died; the power goes. If any of
/// the others counts on it, it is there.
#[test]
pub(super) fn who_is_counted_on_again_knows_it() {
    for (seed, shape) in (0..).zip(FEW) {
        let mut counted_on = 0;
        for steps in 0..80 {
            let mut world = World::at_the_end(seed + 4 * (steps as u64 % 7), shape);
            world.run_until("it is on record", World::is_on_record);
            world.kill(world.twin_at());
            world.go_on(steps);
            world.cut_power();
            world.twins.disk = None;
            let number = world.superblock(0).unwrap().dev_number;
            let other = world.superblock(1).unwrap();
            let is_counted_on = matches!(other.role_of(number), md::Role::Active(_));
            counted_on += usize::from(is_counted_on);
            // Two would do without it.
            world.present[2] = !is_counted_on;
            world.assemble();
            assert_eq!(world.in_sync() & 1 != 0 && !world.present[2], is_counted_on);
            assert!(world.wait_started());
            world.present.fill(true);
            world.read_all();
            world.run_until_quiet();
            world.cut_power();
        }
        assert!((5..80).contains(&counted_on), "{counted_on} of {shape:?}");
    }
}

/// What is to replace a member fails while chunks wait to become Clean, and the power goes before
/// that is on record: it is there again, and what was in its cache is not.
#[test]
pub(super) fn nothing_is_clean_that_was_in_the_cache_of_one_that_failed() {
    for seed in 0..12 {
        let mut world = started(seed, Shape { members: 2, ..Shape::SMALL });
        world.write_chunks([0, 2, 3, 7]);
        world.replace(0).unwrap();
        let mut held = world.withhold_copy_of(7);
        // A checkpoint says that it has the others.
        let has_checkpoint = |world: &World| {
            let own = world.twins.disk.as_ref().and_then(|disk| parse(&disk.durable_meta));
            own.is_some_and(|own| own.recovery_offset_sectors > 0)
        };
        world.submit(0, IoOp::Write, false, world.array_blocks_of(0).start + 1, 2);
        world.run_until_quiet();
        while !has_checkpoint(&world) {
            assert!(world.fire_timer());
            world.run_until_quiet();
        }
        let rests = |world: &World| {
            let timers = &world.running.as_ref().unwrap().timers;
            timers.iter().any(|&(_, timer)| timer == ArrayTimer::BarrierIdle)
        };
        for is_marked in [false, true] {
            world.submit(0, IoOp::Write, false, world.array_blocks_of(0).start + 1, 2);
            world.run_until_quiet();
            while rests(&world) != is_marked {
                assert!(world.fire_timer());
                world.run_until_quiet();
            }
        }
        world.disk_mut(world.twin_at()).dead = true;
        world.submit(0, IoOp::Write, true, world.array_blocks_of(2).start, 1);
        for slot in 0..2 {
            held.extend(world.withhold_superblock(slot));
        }
        for _ in 0..8 {
            world.run_until_quiet();
            world.fire_timer();
        }
        world.run_until_quiet();
        assert_ne!(world.state(0), ChunkState::Clean, "its cache may be lost yet");
        world.cut_power_without(held);
        world.assemble();
        assert!(world.wait_started());
        world.run_until("the replacement is over", World::replacement_is_over);
        world.read_all();
        world.run_until_quiet();
    }
}

/// The array is started without the member that is being replaced, as what replaces it is whole.
/// What is written then the member lacks, though it is Clean on the others: it is given that.
#[test]
pub(super) fn who_was_left_out_is_given_everything() {
    for (seed, shape) in (0..).zip(FEW) {
        let mut world = World::at_the_end(seed, shape);
        world.run_until("its place is handed over", World::is_handed_over);
        world.stop();
        world.present[0] = false;
        world.assemble();
        assert!(world.wait_started());
        world.present.fill(true);
        assert_eq!(world.in_sync(), world.geometry.all_slots());
        world.write_chunks([0, 6]);
        for _ in 0..6 {
            world.fire_timer();
            world.run_until_quiet();
        }
        let given = world.rebuild(0, super::members::Device::Shelf);
        assert!(given >= 3, "it was given {given} chunks");
        world.read_all();
        world.run_until_quiet();
    }
}

impl World {
    /// A member hangs for a while. What the host wants of the others it is given all the time.
    fn outlast_at_swap(&mut self, hung: usize) {
        self.hung = 1 << hung;
        // It has this when the host is to rest, if it is not resting yet.
        self.submit(0, IoOp::Write, false, self.array_blocks_of(7).start + 1, 1);
        let (mut served_at, mut served) = (self.now_ms, self.host.blocks_read);
        for _ in 0..16 {
            self.run_until_quiet();
            if self.host.blocks_read > served {
                (served, served_at) = (self.host.blocks_read, self.now_ms);
            }
            let unserved_ms = self.now_ms - served_at;
            assert!(unserved_ms <= 2500, "nobody was served for {unserved_ms} ms");
            for chunk in [0, 2] {
                if self.host.has_room() {
                    self.submit(1, IoOp::Read, false, self.array_blocks_of(chunk).start + 1, 1);
                }
            }
            self.run_until_quiet();
            if !self.fire_timer() {
                assert!(self.host.blocks_read > served, "nobody will look after the host again");
                break;
            }
        }
        self.hung = 0;
    }
}

/// What replaces a member, or another one, hangs at any event of the end of a replacement: the host
/// is given what it wants of the others, and when that answers the replacement comes to its end.
#[test]
pub(super) fn a_member_that_hangs_holds_up_no_host() {
    for (seed, shape) in (0..).zip(FEW) {
        for is_newcomer in [false, true] {
            let mut hung_in = [0; 3];
            for steps in 0.. {
                let mut world = World::at_the_end(seed, shape);
                world.go_on(steps);
                if world.replacement_is_over() {
                    world.cut_power();
                    break;
                }
                let is_told = usize::from(world.is_handed_over());
                hung_in[is_told + usize::from(world.is_on_record())] += 1;
                world.outlast_at_swap(if is_newcomer { world.twin_at() } else { 1 });
                world.run_until("it is replaced", World::replacement_is_over);
                assert_eq!(world.twins.replaced, 1, "{shape:?}");
                world.wait_host();
                world.write_chunks([1, 2, 4]);
                world.cut_power();
                world.assemble();
                assert!(world.wait_started());
                world.read_all();
                world.run_until_quiet();
                assert_eq!(world.in_sync().count_ones() as usize, shape.members);
            }
            assert!(hung_in.iter().all(|&times| times > 0), "{hung_in:?} of {shape:?}");
        }
    }
}

/// The member that is replaced hangs with a read when the host is to rest: the operator hears that,
/// the pause is given up, and comes about later.
#[test]
fn the_operator_hears_who_is_waited_for() {
    for (seed, shape) in (0..).zip(FEW).skip(1) {
        let mut world = World::at_the_end(seed, shape);
        for chunk in [0, 2, 3, 7] {
            let blocks = world.array_blocks_of(chunk);
            world.submit(0, IoOp::Read, false, blocks.start, blocks.len());
        }
        let held = world.withhold(|flight| flight.disk == 0 && flight.io.op == IoOp::Read);
        assert!(!held.is_empty(), "it has something to read in {shape:?}");
        world.run_until_quiet();
        assert!(world.is_on_record());
        for _ in 0..3 {
            world.fire_timer();
            world.run_until_quiet();
        }
        let status = world.running.as_ref().unwrap().owner.replacement_status().unwrap();
        assert_eq!((status.slot, status.waits_for), (0, 0b1), "{shape:?}");
        world.running.as_mut().unwrap().in_flight.extend(held);
        world.run_until("it is replaced", World::replacement_is_over);
        world.wait_host();
        world.read_all();
        world.run_until_quiet();
    }
}

//! Arrays that take all of their larger members while hosts use them: what the operator does, what
//! must hold, and stories.
//!
//! The members of the world become larger when the operator wants to grow the array. From when the
//! array says that it has grown it is never smaller again; before that a power cut leaves one size
//! or the other.

use super::oracle::violated;
use super::scenario::started;
use super::trace::{self, Event};
use super::world::{Shape, World, noise};
use crate::bdev::IoOp;
use crate::md;
use crate::raid::message::SlotMask;
use crate::raid::{GrowthFailure, GrowthWish, Mail};

/// Growths of one life at most: the world is small.
const GROWTHS_MAX: u64 = 4;

/// What is known of growth.
#[derive(Default)]
pub(super) struct Growths {
    /// What the members have room for, if the array has not taken it yet.
    pub(super) enlarged: Option<Shape>,
    /// The array has been told to grow and has not answered.
    pub(super) is_growing: bool,
    /// By slot: the member does not know that the array has grown.
    pub(super) small: Vec<bool>,
    /// How often the array has grown.
    pub(super) done: u64,
    /// Why it did not grow the last time, and who is said to be at fault.
    pub(super) failure: Option<(GrowthFailure, SlotMask)>,
}

impl Growths {
    /// Of an array with so many members.
    pub(super) fn of(members: usize) -> Self {
        Self { small: vec![false; members], ..Self::default() }
    }
}

impl World {
    fn member_sectors(&self, shape: &Shape) -> u64 {
        shape.geometry().member_blocks(0) * (shape.block / 512) as u64
    }

    /// Blocks of a far layout move when the members become larger, and those of an external bitmap
    /// are elsewhere: such arrays do not grow.
    fn can_grow(&self) -> bool {
        let is_far = self
            .shape
            .raid10
            .is_some_and(|(layout, _)| layout >> 8 & 0xff > 1 && layout & 0x1_0000 == 0);
        !is_far && !self.shape.external && self.twins.disk.is_none()
    }

    /// All devices become so much larger, if they are not larger than the array already.
    pub(super) fn enlarge(&mut self, blocks: usize) {
        let shape = Shape { blocks: self.shape.blocks + blocks, ..self.shape }.exact();
        if self.growths.enlarged.is_some()
            || shape.geometry().sync_blocks() == self.geometry.sync_blocks()
        {
            return;
        }
        let geometry = shape.geometry();
        let Self { disks, shelf, rng, .. } = self;
        for (slot, disk) in disks.iter_mut().enumerate() {
            disk.enlarge(&geometry, slot, || noise(rng));
        }
        for (slot, disk) in shelf.iter_mut().enumerate() {
            if let Some((disk, _)) = disk {
                disk.enlarge(&geometry, slot, || noise(rng));
            }
        }
        self.growths.enlarged = Some(shape);
        self.host.grows = true;
    }

    /// The operator tells the array to take what its members have.
    pub(super) fn grow(&mut self) -> Result<(), String> {
        trace::note(Event::Operator("grow", 0));
        let shape = self.growths.enlarged.unwrap_or(self.shape);
        let sectors = self.member_sectors(&shape);
        let device_sectors = (0..self.disks.len())
            .map(|slot| self.superblock(slot).map_or(0, |own| own.data_offset_sectors + sectors))
            .collect();
        let wish = GrowthWish { device_sectors, advise: |_, _| {} };
        let mut result = Err(String::new());
        self.on_owner(|owner, out| result = owner.grow(&wish, out));
        self.growths.is_growing |= result.is_ok();
        result.map(drop)
    }

    /// In a random life.
    pub(super) fn some_growth(&mut self) {
        let running = self.running.as_ref().unwrap();
        let is_late = self.growths.done >= GROWTHS_MAX;
        if !running.started || running.stopped || is_late || !self.can_grow() {
            return;
        }
        let unit = 4096 / self.shape.block;
        let most = self.shape.chunk_blocks.min(64) * 24 / unit;
        let blocks = self.rng.between(1, most) * unit;
        self.enlarge(blocks);
        let _ = self.grow();
    }

    /// The array asks that its channels be given what they share from now on.
    pub(super) fn grow_channels(&mut self) {
        let running = self.running.as_mut().unwrap();
        running.shared = running.owner.shared();
        for core in 0..running.channels.len() {
            let mut mail = std::collections::VecDeque::new();
            let mut out =
                crate::raid::Out { io: &mut self.io[core], mail: &mut mail, wall_clock_s: 0 };
            running.channels[core].grow(running.shared.clone(), &mut out);
            for mail in mail {
                let Mail::Owner(message) = mail else { panic!("a channel sent {mail:?}") };
                running.to_owner[core].push_back(message);
            }
        }
    }

    /// The array says that it has not grown.
    pub(super) fn growth_failed(&mut self, why: GrowthFailure, slots: SlotMask) {
        self.growths.is_growing = false;
        self.growths.failure = Some((why, slots));
    }

    /// The array says that it has grown.
    pub(super) fn has_grown(&mut self, blocks: u64) {
        self.growths.is_growing = false;
        self.take_size();
        self.growths.done += 1;
        if blocks != self.shape.blocks as u64 {
            violated(3, &format!("the array has grown to {blocks} blocks"));
        }
        let sectors = self.member_sectors(&self.shape);
        for slot in 0..self.disks.len() {
            let own = self.superblock_on_medium(slot);
            self.growths.small[slot] = own.is_none_or(|own| own.size_sectors < sectors);
        }
    }

    /// The array is as large as its members are now.
    fn take_size(&mut self) {
        let shape = self.growths.enlarged.take().expect("the members are larger");
        self.shape = shape;
        self.geometry = shape.geometry();
        self.host.extend(shape.blocks);
        let blocks = usize::try_from(self.geometry.sync_blocks()).unwrap();
        self.watch.extend(blocks.div_ceil(shape.chunk_blocks));
    }

    /// Members have been assembled: the array has the size that it had, or that of a growth that
    /// was under way.
    pub(super) fn check_size(&mut self, assembly: &md::Assembly) {
        self.growths.is_growing = false;
        let sectors = self.member_sectors(&self.shape);
        match assembly.superblock.size_sectors {
            found if found > sectors => {
                self.take_size();
                assert_eq!(found, self.member_sectors(&self.shape), "a size that nobody wanted");
            }
            found if found < sectors => {
                violated(3, &format!("the array has shrunk from {sectors} sectors to {found}"));
            }
            _ => {}
        }
    }

    /// Behind the end of the array nothing is anybody's: an array that grows zeroes it.
    pub(super) fn is_behind_end(&self, lba: usize) -> bool {
        lba as u64 >= self.geometry.sync_blocks()
    }
}

const LOGLESS: [Shape; 4] = [
    Shape { members: 3, ..Shape::SMALL },
    Shape { members: 3, raid10: Some((0x102, 16)), ..Shape::SMALL },
    Shape { members: 3, parity: Some((5, 2, 16)), ..Shape::SMALL },
    Shape { members: 4, parity: Some((6, 2, 16)), block: 4096, chunk_blocks: 4, ..Shape::SMALL },
];

/// Shapes whose last chunk is short.
pub(super) fn shapes() -> impl Iterator<Item = Shape> {
    LOGLESS.into_iter().map(|shape| Shape { blocks: 312, ..shape }.exact())
}

impl World {
    fn wait_grown(&mut self) {
        self.run_until("the growth", |world| !world.growths.is_growing);
    }

    /// Writes at the old end and at the new one.
    fn use_what_is_new(&mut self, old: usize) {
        let new = self.shape.blocks;
        for (lba, blocks) in [(old - 1, 2), (new - 1, 1), ((old + new) / 2, 1)] {
            self.write(lba, blocks);
        }
    }
}

/// Its bitmap takes another unit when it grows.
const LONG: Shape = Shape { blocks: 508 * 8, ..Shape::SMALL };

/// Writes are under way when the operator says so, and go on; what is new reads as zeroes, is
/// written, and is there after a power cut.
#[test]
pub(super) fn an_array_grows_while_it_serves() {
    for (seed, shape) in (0..).zip(shapes().chain([LONG])) {
        let mut world = started(seed, shape);
        let old = shape.blocks;
        world.write(old - 1, 1);
        for (core, lba) in [(0, 3), (1, 100), (0, old - 9), (1, 200)] {
            world.submit(core, IoOp::Write, false, lba, 5);
        }
        world.enlarge(160);
        world.grow().unwrap();
        let text = world.grow().unwrap_err();
        assert!(text.contains("it is growing"), "{text}");
        for lba in [40, 60, 80] {
            world.submit(0, IoOp::Write, true, lba, 4);
            world.step();
        }
        world.wait_grown();
        assert_eq!(world.growths.done, 1, "{:?}", world.growths.failure);
        assert!(world.shape.blocks > old + 100);
        world.wait_host();
        world.read_all();
        world.cut_power();
        world.assemble();
        assert!(world.wait_started());
        world.read_all();
        world.use_what_is_new(old);
        world.cut_power();
        world.assemble();
        assert!(world.wait_started());
        world.read_all();
        world.wait_synced();
        world.stop();
        world.assemble();
        assert!(world.wait_started());
        world.read_all();
    }
}

/// An array that grows, so many events after that began; `None`: it has grown by then.
fn growing(seed: u64, shape: Shape, events: u64) -> Option<World> {
    let mut world = started(seed, shape);
    world.write(shape.blocks - 1, 1);
    world.enlarge(160);
    world.grow().unwrap();
    let end = world.events + events;
    while world.growths.is_growing && world.events < end {
        world.step();
    }
    if !world.growths.is_growing {
        world.cut_power();
        return None;
    }
    Some(world)
}

/// The power goes at every event of a growth: the array has the old size or the new one, and can be
/// used and, if it has not grown, be grown.
#[test]
pub(super) fn a_power_cut_at_every_event_of_a_growth() {
    for (seed, shape) in (0..).zip(shapes()) {
        let (mut small, mut large, old) = (0, 0, shape.blocks);
        for events in 0.. {
            let Some(mut world) = growing(seed, shape, events) else { break };
            world.cut_power();
            world.assemble();
            assert!(world.wait_started());
            match world.shape.blocks > old {
                true => large += 1,
                false => small += 1,
            }
            world.read_all();
            if world.shape.blocks == old {
                world.run_until_quiet();
                world.grow().unwrap();
                world.wait_grown();
            }
            assert!(world.shape.blocks > old, "{:?}", world.growths.failure);
            world.use_what_is_new(old);
            world.cut_power();
            world.assemble();
            assert!(world.wait_started());
            world.read_all();
            world.run_until_quiet();
            assert_eq!(world.in_sync().count_ones() as usize, shape.members);
        }
        assert!(small > 5 && large > 1, "{small} cuts before and {large} after");
    }
}

/// A member fails at any event of a growth: the array has one size or the other, goes on, and takes
/// the member back.
#[test]
fn a_member_that_fails_in_a_growth() {
    for (seed, shape) in (0..).zip(shapes()) {
        for events in (0..).step_by(2) {
            let Some(mut world) = growing(seed, shape, events) else { break };
            world.disks[1].dead = true;
            world.wait_grown();
            // It is found out at the next write at the latest.
            world.write(1, 1);
            world.write(world.shape.blocks - 1, 1);
            world.write(20, 1);
            world.write(40, 1);
            world.run_until_quiet();
            // Without a log a crash would leave parity in doubt.
            match shape.parity {
                Some(_) => world.stop(),
                None => world.cut_power(),
            }
            world.assemble();
            assert!(world.wait_started());
            world.read_all();
            world.make_whole();
            world.read_all();
            assert_eq!(world.in_sync().count_ones() as usize, shape.members);
        }
    }
}

impl World {
    /// A member hangs, and time passes until the growth has ended or taken its size. How long that
    /// takes. What the host wants of the other members it is given all the time.
    fn outlast(&mut self, hung: usize) -> u64 {
        self.hung = 1 << hung;
        let (began, mut served_at, mut served) = (self.now_ms, self.now_ms, 0);
        for turn in 0..60 {
            self.run_until_quiet();
            let status = self.running.as_ref().unwrap().owner.status();
            if !self.growths.is_growing || status.growth.unwrap().state == "recording" {
                return self.now_ms - began;
            }
            if self.host.blocks_read > served {
                (served, served_at) = (self.host.blocks_read, self.now_ms);
            }
            let unserved_ms = self.now_ms - served_at;
            assert!(unserved_ms <= 2500, "nobody was served for {unserved_ms} ms");
            // Those that the member gets hang.
            for lba in [turn * 16 % 96, turn * 16 % 96 + 40] {
                if self.host.has_room() {
                    self.submit(1, IoOp::Read, false, lba, 1);
                }
            }
            self.run_until_quiet();
            assert!(self.fire_timer(), "nobody will look after the growth again");
        }
        panic!("no end of it");
    }
}

/// A member hangs at any event of a growth. Before the array has taken its size that is given up,
/// soon and by the member's name; the host is served meanwhile, and when the member answers the
/// array can grow.
#[test]
pub(super) fn a_member_that_hangs_in_a_growth() {
    for (seed, shape) in (0..).zip(shapes()) {
        let (mut given_up, mut grown) = (0, 0);
        for events in 0.. {
            let Some(mut world) = growing(seed, shape, events) else { break };
            let old = shape.blocks;
            let ms = world.outlast(1);
            if world.growths.is_growing {
                grown += 1;
            } else if world.shape.blocks == old {
                let (why, slots) = world.growths.failure.unwrap();
                let text = format!("{why:?} {slots:b} after {ms} ms");
                let is_known = matches!(why, GrowthFailure::NoAnswer | GrowthFailure::NoPause);
                assert!(is_known && slots == 2 && ms <= 20_000, "{text}");
                given_up += 1;
                let refused = world.grow();
                let is_unanswered = why == GrowthFailure::NoAnswer;
                assert!(!is_unanswered || refused.unwrap_err().contains("is answered by member 1"));
            }
            world.hung = 0;
            world.run_until_quiet();
            if world.shape.blocks == old && !world.growths.is_growing {
                world.grow().unwrap();
            }
            world.run_until("the growth", |world| !world.growths.is_growing);
            assert!(world.shape.blocks > old, "{:?}", world.growths.failure);
            world.wait_host();
            world.use_what_is_new(old);
            world.read_all();
            world.cut_power();
            world.assemble();
            assert!(world.wait_started());
            world.read_all();
            world.run_until_quiet();
        }
        assert!(given_up > 3 && grown > 1, "{given_up} given up, {grown} recorded late");
    }
}

/// What a member was asked to zero by a growth that was given up it may do at any time, so nothing
/// is put there before.
#[test]
pub(super) fn what_hung_in_a_growth_does_no_harm_later() {
    let shape = Shape { blocks: 312, ..LOGLESS[0] }.exact();
    let mut world = started(3, shape);
    world.enlarge(160);
    world.grow().unwrap();
    let held = world.withhold(|flight| flight.disk == 1);
    assert!(!held.is_empty(), "nothing was asked of it");
    for _ in 0..30 {
        world.run_until_quiet();
        if !world.growths.is_growing {
            break;
        }
        assert!(world.fire_timer());
    }
    assert_eq!(world.growths.failure, Some((GrowthFailure::NoAnswer, 2)));
    if world.grow().is_ok() {
        world.run_until("the growth", |world| !world.growths.is_growing);
        world.use_what_is_new(shape.blocks);
    }
    world.running.as_mut().unwrap().in_flight.extend(held);
    world.run_until_quiet();
    if world.shape.blocks == shape.blocks {
        world.grow().unwrap();
        world.run_until("the growth", |world| !world.growths.is_growing);
    }
    world.read_all();
    world.check_members_agree();
}

/// Who can't grow says why, and nothing is changed.
#[test]
fn what_can_not_grow_says_why() {
    let mut world = started(1, LOGLESS[0]);
    let text = world.grow().unwrap_err();
    assert!(text.contains("nothing to grow into"), "{text}");
    world.enlarge(80);
    world.fail(1).unwrap();
    world.run_until_quiet();
    let text = world.grow().unwrap_err();
    assert!(text.contains("all its members are in sync"), "{text}");
    let far = Shape { members: 3, raid10: Some((0x201, 16)), ..Shape::SMALL };
    let mut world = started(1, far);
    let text = world.grow().unwrap_err();
    assert!(text.contains("does not grow"), "{text}");
    let mut world = started(1, Shape { members: 3, ..Shape::SMALL });
    world.replace(0).unwrap();
    let text = world.grow().unwrap_err();
    assert!(text.contains("being replaced"), "{text}");
}

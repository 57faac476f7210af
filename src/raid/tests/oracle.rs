//! What must hold, whatever happens. The numbers are those of the design:
//!
//! 1. The data of a write never reach a member before the block that marks their chunk is durable
//!    on every member in sync ([`World::check_issued`]).
//! 2. After any crash every written chunk on which members differ is in a state that resync
//!    visits ([`World::check_assembled`]).
//! 3. Every acknowledged durable write is read back, from any member in sync
//!    ([`World::check_assembled`] and the host's reads); what was read once stays.
//! 4. No chunk becomes Clean on a medium while a write to it is in flight, in a cache, or missing
//!    on a member in sync ([`World::check_unit`]).
//! 5. A member that missed an acknowledged write is known stale after any crash
//!    ([`World::check_acknowledged`], [`World::check_assembled`]).
//! 6. Resync copies what is in doubt and nothing else, and a chunk that a member missed stays in
//!    doubt until that member has it ([`World::check_copy`], [`World::check_resync_done`]).
//! 7. The same seed gives the same log, twice (a test of its own, over [`super::trace`]).
//!
//! Number 0 is anything else that a machine promises: an end to every request, above all.

use super::disk::{BITMAP_BYTE, STATES_BYTE, SUPER_BYTE};
use super::host::Request;
use super::trace::{Place, Sent};
use super::world::World;
use crate::bdev::{BdevIo, IoOp, Station};
use crate::bitmap::ChunkState;
use crate::md;
use crate::raid::message::{BlockRange, SlotMask};
use crate::raid::{MemberSlot, slots};

const CLEAN: u8 = ChunkState::Clean as u8;
const UNWRITTEN: u8 = ChunkState::Unwritten as u8;

/// Ends the life.
pub(super) fn violated(oracle: u32, what: &str) -> ! {
    panic!("oracle {oracle}: {what}");
}

/// What the oracles remember.
pub(super) struct Watch {
    pub(super) chunks: usize,
    /// By slot: it has missed an acknowledged write.
    pub(super) missed: Vec<bool>,
    /// By slot: it came for the member that was there, and has not got everything: what it lacks it
    /// is given although it is Clean.
    pub(super) incomplete: Vec<bool>,
    /// By slot: it was out when a write ended of which nobody can tell whether it has it.
    pub(super) may_lack: Vec<bool>,
    /// By chunk: somebody has missed an acknowledged write to it.
    pub(super) owed: Vec<bool>,
    /// By chunk: writes of data, and writes of any kind, that members have not answered.
    writing_data: Vec<u16>,
    writing: Vec<u16>,
    /// Reads that failed on a member, which the owner may repair.
    pub(super) repairs: Vec<(MemberSlot, BlockRange)>,
    resync_expected: u64,
    /// A member has joined since the array was started.
    pub(super) joined: bool,
    /// Chunks copied to members that were rebuilt, in all lives of the world.
    pub(super) rebuilt_in_all: u64,
    /// A test has spoilt the bitmap.
    pub(super) may_be_stale: bool,
    copied: u64,
    /// Blocks of the sync space that a member listed as bad when the array was started.
    pub(super) listed: Vec<usize>,
    /// Listed blocks were given again beside the resync, in this life.
    mended: bool,
    /// Chunks copied in all lives of the world.
    pub(super) copied_in_all: u64,
}

impl Watch {
    pub(super) fn new(members: usize, chunks: usize) -> Self {
        Self {
            chunks,
            missed: vec![false; members],
            incomplete: vec![false; members],
            may_lack: vec![false; members],
            owed: vec![false; chunks],
            writing_data: vec![0; chunks],
            writing: vec![0; chunks],
            repairs: Vec::new(),
            resync_expected: 0,
            joined: false,
            rebuilt_in_all: 0,
            may_be_stale: false,
            copied: 0,
            mended: false,
            listed: Vec::new(),
            copied_in_all: 0,
        }
    }

    /// The array has so many chunks.
    pub(super) fn extend(&mut self, chunks: usize) {
        self.chunks = chunks;
        self.owed.resize(chunks, false);
        self.writing_data.resize(chunks, 0);
        self.writing.resize(chunks, 0);
    }

    /// Something became so for the host on these members alone: data durable, or what a crash had
    /// left open. Others may not have it.
    pub(super) fn promised_without(&mut self, in_sync: SlotMask) {
        for (slot, may_lack) in self.may_lack.iter_mut().enumerate() {
            *may_lack |= in_sync & 1 << slot == 0;
        }
    }

    /// Whether the member can be left alone.
    pub(super) fn has_all(&self, slot: usize) -> bool {
        !self.missed[slot] && !self.may_lack[slot]
    }

    /// The slot's device has been given everything.
    pub(super) fn is_given_all(&mut self, slot: usize) {
        self.missed[slot] = false;
        self.incomplete[slot] = false;
        self.may_lack[slot] = false;
    }

    /// Another device is in the slot. Says what the one before may lack.
    pub(super) fn is_replaced(&mut self, slot: usize, lacks: bool) -> bool {
        let before = self.missed[slot] || self.may_lack[slot];
        self.missed[slot] = lacks;
        self.incomplete[slot] = lacks;
        // Whatever was written while it lay on the shelf.
        self.may_lack[slot] = true;
        before
    }

    pub(super) fn power_cut(&mut self) {
        self.writing_data.fill(0);
        self.writing.fill(0);
        self.repairs.clear();
    }

    pub(super) fn resync_started(&mut self, chunks: u64) {
        self.resync_expected = chunks;
        self.copied = 0;
        self.mended = false;
    }

    /// The chunks whose states a unit holds.
    pub(super) fn chunks_of_unit(&self, unit: usize, block: usize) -> std::ops::Range<usize> {
        let head = STATES_BYTE - BITMAP_BYTE;
        let chunk = |unit: usize| (unit * block).saturating_sub(head).min(self.chunks);
        chunk(unit)..chunk(unit + 1)
    }
}

impl World {
    fn in_sync_slots(&self) -> impl Iterator<Item = usize> + use<> {
        slots(self.in_sync()).map(usize::from)
    }

    /// A request is on its way to a member.
    pub(super) fn check_issued(&mut self, disk: usize, io: &BdevIo, sent: &Sent) {
        match sent.place {
            Place::Unit(unit) => self.check_unit(disk, unit, io),
            Place::Data { lba, blocks, first, last } => {
                if io.op.modifies() {
                    self.check_overlap(disk, io);
                }
                if sent.by_owner {
                    self.check_copy(disk, io, lba, blocks);
                } else if io.op.modifies() {
                    self.check_marked(io.op, first, last);
                    self.count(io.op, first, last, true);
                }
            }
            Place::Superblock => self.check_says(disk, io),
            Place::Member | Place::Log(_) | Place::BadLog => {}
        }
    }

    /// A member has done, or failed, a request.
    pub(super) fn check_executed(&mut self, io: &BdevIo, sent: &Sent) {
        match sent.place {
            Place::Unit(unit) => self.check_unit(sent.member, unit, io),
            Place::Data { first, last, .. } if io.op.modifies() && !sent.by_owner => {
                self.count(io.op, first, last, false);
            }
            _ => {}
        }
    }

    fn count(&mut self, op: IoOp, first: usize, last: usize, up: bool) {
        for chunk in first..=last {
            let change = |count: &mut u16| *count = if up { *count + 1 } else { *count - 1 };
            change(&mut self.watch.writing[chunk]);
            if op == IoOp::Write {
                change(&mut self.watch.writing_data[chunk]);
            }
        }
    }

    /// Oracle 1.
    fn check_marked(&self, op: IoOp, first: usize, last: usize) {
        for chunk in first..=last {
            for slot in self.in_sync_slots() {
                let byte = self.state_byte(slot, chunk);
                // Zeroes may go to a chunk that reads as zeroes whatever is there.
                if !((2..=4).contains(&byte) || (byte == UNWRITTEN && op != IoOp::Write)) {
                    violated(1, &format!("{op:?} to chunk {chunk}, {byte} on member {slot}"));
                }
            }
        }
    }

    /// Two changes of one block under way on a member may end in either order: members that
    /// choose differently differ for good.
    fn check_overlap(&self, disk: usize, io: &BdevIo) {
        let end = |io: &BdevIo| io.lba + u64::from(io.blocks);
        for other in &self.running.as_ref().unwrap().in_flight {
            let overlaps = other.io.lba < end(io) && io.lba < end(&other.io);
            if other.disk == disk && other.io.op.modifies() && overlaps {
                let at = other.io.lba.max(io.lba);
                violated(6, &format!("two writes at once to block {at} of {disk}"));
            }
        }
    }

    /// Oracle 6: what the owner itself reads and writes of the data, and whether a host write
    /// could mix with it.
    fn check_copy(&mut self, disk: usize, io: &BdevIo, lba: usize, blocks: usize) {
        let is_growth = io.op == IoOp::WriteZeroes && self.is_behind_end(lba);
        if self.is_replaying() || is_growth {
            return;
        }
        let shared = self.running.as_ref().unwrap().shared.clone();
        let (first, last) = (self.chunk_of(lba), self.chunk_of(lba + blocks - 1));
        if io.op == IoOp::WriteZeroes {
            for chunk in first..=last {
                if shared.chunk_state(chunk) != Some(ChunkState::Unwritten) {
                    violated(6, &format!("zeroing of chunk {chunk}, which has been written"));
                }
            }
            return;
        }
        if io.op == IoOp::Unmap {
            let is_recorded = |chunk| {
                shared.chunk_state(chunk) == Some(ChunkState::Unwritten)
                    && self.in_sync_slots().all(|slot| self.state_byte(slot, chunk) == 0)
            };
            if !(first..=last).all(is_recorded) {
                violated(6, &format!("chunk {first} is freed and not durably Unwritten"));
            }
            // Who lacks that record must not come back as equal.
            let lacks = |slot: &usize| {
                let may_hold = |chunk| self.disks[*slot].state_byte(chunk) != UNWRITTEN;
                self.writable() & 1 << slot == 0 && (first..=last).any(may_hold)
            };
            (0..self.disks.len()).filter(lacks).for_each(|slot| self.check_recorded(slot));
            return;
        }
        for other in &self.running.as_ref().unwrap().in_flight {
            let Some(at) = self.disk(other.disk).data_block(&other.io) else { continue };
            let overlaps = at < lba + blocks && lba < at + other.io.blocks as usize;
            let by_host = other.io.completion.tag().station == Station::RaidChannel;
            if overlaps && other.io.op.modifies() && by_host {
                violated(6, &format!("a copy of block {} meets a write", at.max(lba)));
            }
        }
        // A write lost on every member puts a chunk back in doubt under the copy.
        let is_resync = (first..=last).all(|chunk| {
            matches!(shared.chunk_state(chunk), Some(ChunkState::Syncing | ChunkState::NeedSync))
        });
        let range = BlockRange { lba: lba as u64, blocks: blocks as u64 };
        let is_repair = self.watch.repairs.iter().any(|(_, repair)| repair.overlaps(&range));
        let is_listed = |at| self.disks.iter().any(|disk| disk.lists_block(at));
        let was_listed = |at: usize| self.watch.listed.contains(&at);
        let is_listed = (lba..lba + blocks).any(|at| is_listed(at) || was_listed(at));
        let is_repair = is_repair || is_listed;
        self.watch.mended |= is_listed;
        let is_rebuild = self.is_rebuild_copy(disk, io.op, first..=last);
        let begun = (first..=last).filter(|&chunk| self.blocks_of(chunk).start >= lba).count();
        if is_rebuild && !is_resync && io.op == IoOp::Write {
            self.watch.rebuilt_in_all += begun as u64;
        }
        if !is_resync && !is_repair && !is_rebuild {
            violated(6, &format!("{:?} of chunk {first}, which is not in doubt", io.op));
        }
        let is_first = Some(disk) == self.in_sync_slots().next() || self.shape.parity.is_none();
        if is_resync && is_first && io.op == IoOp::Read {
            self.watch.copied += begun as u64;
            self.watch.copied_in_all += begun as u64;
        }
    }

    /// Oracle 6: resync has copied each chunk that was in doubt, once.
    pub(super) fn check_resync_done(&mut self, chunks: u64, unreadable: u64) {
        let running = self.running.as_ref().unwrap();
        let whole = self.in_sync().count_ones() as usize == self.disks.len();
        let serves = running.owner.life() == crate::raid::owner::Life::Running;
        let is_listed = self.disks.iter().any(|disk| !disk.bad_blocks().is_empty());
        if self.faults.any()
            || !whole
            || !serves
            || self.watch.joined
            || is_listed
            || self.watch.mended
        {
            return;
        }
        let (expected, copied) = (self.watch.resync_expected, self.watch.copied);
        // What was discarded meanwhile needs no copy.
        if (chunks, unreadable) != (copied, 0) || copied > expected {
            violated(6, &format!("{expected} chunks in doubt, {chunks} done, {copied} copied"));
        }
    }

    /// Oracles 4 and 6: the states that go to a medium.
    fn check_unit(&self, disk: usize, unit: usize, io: &BdevIo) {
        let chunks = self.watch.chunks_of_unit(unit, self.shape.block);
        if chunks.is_empty() {
            return;
        }
        let start = self.disk(disk).bitmap_byte() + md::BITMAP_HEAD_BYTES + chunks.start
            - usize::try_from(io.lba).unwrap() * self.shape.block;
        let bytes = &io.buf.as_ref().unwrap().as_slice()[start..start + chunks.len()];
        for (chunk, &byte) in chunks.zip(bytes) {
            if byte == UNWRITTEN && self.watch.writing_data[chunk] > 0 {
                violated(4, &format!("chunk {chunk} becomes Unwritten under a write"));
            }
            if byte != CLEAN {
                continue;
            }
            if self.watch.writing[chunk] > 0 {
                violated(4, &format!("chunk {chunk} becomes Clean under a write"));
            }
            if self.watch.owed[chunk] {
                violated(6, &format!("chunk {chunk} becomes Clean, an absent member lacks it"));
            }
            let becomes = |slot: usize| self.state_byte(slot, chunk) != CLEAN;
            if self.in_sync_slots().any(becomes) {
                self.check_alike(4, chunk, self.in_sync());
            }
        }
    }

    /// The members hold the same, on their media.
    fn check_alike(&self, oracle: u32, chunk: usize, in_sync: SlotMask) {
        if self.shape.parity.is_some() {
            return self.check_rows_clean(oracle, chunk, in_sync);
        }
        for lba in self.blocks_of(chunk) {
            let mut first = None;
            for slot in slots(in_sync).map(usize::from) {
                let disk = &self.disks[slot];
                let Some((live, durable)) = disk.holds(lba).filter(|_| !disk.lists(lba)) else {
                    continue;
                };
                let &mut (first, want) = first.get_or_insert((slot, durable));
                if durable != want || (live != durable && !disk.dead) {
                    let what = format!(
                        "chunk {chunk} is Clean, block {lba} is v{live} (v{durable} on the \
                         medium) on member {slot}, v{want} on member {first}"
                    );
                    violated(oracle, &what);
                }
            }
        }
    }

    /// Oracle 5: whoever lacks an acknowledged write is out; remember who that is.
    pub(super) fn check_acknowledged(&mut self, request: &Request) {
        if self.shape.parity.is_some() {
            return self.check_rows_acknowledged(request);
        }
        let in_sync = self.in_sync();
        let shared = self.running.as_ref().unwrap().shared.clone();
        for lba in request.lba..request.lba + request.blocks {
            let chunk = self.chunk_of(lba);
            let is_unwritten = shared.chunk_state(chunk) == Some(ChunkState::Unwritten);
            if self.host.is_contested(lba) {
                // Nobody can tell what a member is to hold; who is out may lack it.
                for slot in (0..self.disks.len()).filter(|slot| in_sync & 1 << slot == 0) {
                    self.watch.may_lack[slot] = true;
                }
                continue;
            }
            if is_unwritten {
                // Discarded as a whole: what members hold does not matter, what they know does;
                // unless this is a write of zeroes, and another discard is under way.
                for slot in 0..self.disks.len() {
                    let knows = self.state_byte(slot, chunk) == UNWRITTEN
                        || self.disks[slot]
                            .holds(lba)
                            .is_none_or(|(live, _)| live == request.version);
                    if !knows && in_sync & 1 << slot != 0 {
                        let what = format!("chunk {chunk} discarded, member {slot} lacks that");
                        violated(5, &what);
                    }
                    self.watch.missed[slot] |= !knows;
                }
                continue;
            }
            for slot in 0..self.disks.len() {
                let disk = &self.disks[slot];
                if disk.holds(lba).is_none_or(|(live, _)| live == request.version) {
                    continue;
                }
                // What it could not write it must list durably by now.
                if disk.lists(lba) {
                    continue;
                }
                if in_sync & 1 << slot != 0 {
                    let what = format!("block {lba} acknowledged, member {slot} lacks it");
                    violated(5, &what);
                }
                // One that is being rebuilt, and has not come to this chunk yet, will be given it.
                if !self.watch.missed[slot] && self.writable() & 1 << slot == 0 {
                    self.check_recorded(slot);
                }
                self.check_nobody_reads(slot);
                self.watch.missed[slot] = true;
                self.watch.owed[chunk] |= !self.watch.incomplete[slot];
            }
        }
    }

    /// Oracle 5: the superblocks of all members in sync know that this one is out.
    pub(super) fn check_recorded(&self, slot: usize) {
        let Some(own) = self.superblock_on_medium(slot) else { return };
        for survivor in self.in_sync_slots() {
            let meta = &self.disks[survivor].durable_meta[SUPER_BYTE..BITMAP_BYTE];
            let superblock = md::Unverified::parse(meta, 8).unwrap();
            if self.would_be_in_sync(superblock, own.clone()) {
                let what = format!("member {survivor} does not know that {slot} missed a write");
                violated(5, &what);
            }
        }
    }

    /// Oracle 5 while the power is on: no channel goes on using a member that lacks something.
    pub(super) fn check_nobody_reads(&self, slot: usize) {
        let channels = &self.running.as_ref().unwrap().channels;
        // Until it knows better a core may use the device that was there before.
        let own = self.bdev_of(slot);
        let uses = |it: &crate::raid::Channel| {
            it.in_sync & 1 << slot != 0 && it.places[slot].is_some_and(|place| place.bdev == own)
        };
        if let Some(core) = channels.iter().position(uses) {
            let what = format!("core {core} uses member {slot}, which lacks what was acknowledged");
            violated(5, &what);
        }
    }

    /// Oracle 6: a crash of our own never makes the bitmap untrustworthy as a whole.
    pub(super) fn check_plan(&self, assembly: &md::Assembly) {
        match &assembly.bitmap {
            md::BitmapPlan::Load { stale: false, .. } => {}
            _ if self.watch.may_be_stale => {}
            plan => violated(6, &format!("the bitmap is of no use: {plan:?}")),
        }
    }

    /// Oracles 2, 3 and 5, on an array about to start.
    pub(super) fn check_assembled(&mut self, in_sync: SlotMask) {
        for slot in slots(in_sync).map(usize::from) {
            if self.watch.missed[slot] {
                violated(5, &format!("member {slot} missed an acknowledged write and is in sync"));
            }
            self.watch.may_lack[slot] = false;
            self.growths.small[slot] = false;
        }
        if in_sync.count_ones() as usize == self.disks.len() {
            // Whoever lacked something has been given it, and the superblocks say so.
            self.watch.owed.fill(false);
        }
        if self.shape.parity.is_some() {
            return self.check_rows_assembled(in_sync);
        }
        let shared = self.running.as_ref().unwrap().shared.clone();
        for chunk in 0..self.watch.chunks {
            let state = shared.chunk_state(chunk).expect("the array has a map");
            if state == ChunkState::Clean {
                self.check_alike(2, chunk, in_sync);
            }
            for lba in self.blocks_of(chunk) {
                for slot in slots(in_sync).map(usize::from) {
                    let disk = &self.disks[slot];
                    let Some((live, _)) = disk.holds(lba).filter(|_| !disk.lists(lba)) else {
                        continue;
                    };
                    let version = if state == ChunkState::Unwritten { 0 } else { live };
                    if !self.host.may_hold(lba, version) {
                        let possible = self.host.possible(lba);
                        let what = format!(
                            "block {lba} of chunk {chunk} ({state:?}) is v{version} on member \
                             {slot}, possible are {possible:?}"
                        );
                        violated(3, &what);
                    }
                }
            }
        }
    }
}

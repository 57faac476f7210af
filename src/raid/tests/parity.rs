//! Levels with parity: what must hold of their rows, in arithmetic of its own.
//!
//! Oracles 2 to 5 of [`super::oracle`] on rows: parity of every chunk that is not in doubt fits
//! the data; what is on a member that is away can be computed of the others, and is what the host
//! was promised.

use super::disk::{Cell, version_of};
use super::host::Request;
use super::oracle::violated;
use super::world::World;
use crate::bitmap::ChunkState;
use crate::raid::geometry::{Parity, Row};
use crate::raid::message::SlotMask;
use crate::raid::stripe::StripeState;
use crate::raid::{bit, slots};

/// The product of two bytes in the field of Q.
fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0);
    for place in 0..8 {
        if b >> place & 1 == 1 {
            product ^= a;
        }
        a = a << 1 ^ if a & 0x80 == 0 { 0 } else { 0x1d };
    }
    product
}

fn power(exponent: u8) -> u8 {
    (0..exponent).fold(1, |value, _| multiply(value, 2))
}

fn inverse(a: u8) -> u8 {
    (1..=255).find(|&b| multiply(a, b) == 1).expect("not zero")
}

fn add(a: Cell, b: Cell) -> Cell {
    std::array::from_fn(|at| a[at] ^ b[at])
}

fn scale(a: Cell, factor: u8) -> Cell {
    if a == [0; 3] || factor == 1 {
        return a;
    }
    a.map(|word| u64::from_le_bytes(word.to_le_bytes().map(|byte| multiply(byte, factor))))
}

/// The blocks of one column of a row.
struct Column {
    row: Row,
    data: u8,
    /// By slot; of members that are away too.
    cells: Vec<Cell>,
}

impl Column {
    fn q_factor(&self, index: u8) -> u8 {
        power(self.row.power(index))
    }

    fn p_of(&self, data: &[Cell]) -> Cell {
        data.iter().fold([0; 3], |sum, &cell| add(sum, cell))
    }

    fn q_of(&self, data: &[Cell]) -> Cell {
        let terms = (0..self.data).zip(data);
        terms.fold([0; 3], |sum, (index, &cell)| add(sum, scale(cell, self.q_factor(index))))
    }

    fn cell(&self, slot: u8) -> Cell {
        self.cells[usize::from(slot)]
    }

    /// The data by index, computed where their members are not among `from`.
    fn data(&self, from: SlotMask) -> Option<Vec<Cell>> {
        let lost: Vec<u8> =
            (0..self.data).filter(|&i| from & bit(self.row.data_slot(i)) == 0).collect();
        let known = |index: u8| if lost.contains(&index) { [0; 3] } else { self.data_cell(index) };
        let mut data: Vec<Cell> = (0..self.data).map(known).collect();
        let p = (from & bit(self.row.p()) != 0).then(|| self.cell(self.row.p()));
        let q = self.row.q().filter(|&q| from & bit(q) != 0).map(|q| self.cell(q));
        // What the lost ones add up to.
        let p = p.map(|p| add(p, self.p_of(&data)));
        let q = q.map(|q| add(q, self.q_of(&data)));
        match (&lost[..], p, q) {
            ([], _, _) => {}
            (&[x], Some(p), _) => data[usize::from(x)] = p,
            (&[x], None, Some(q)) => data[usize::from(x)] = scale(q, inverse(self.q_factor(x))),
            (&[x, y], Some(p), Some(q)) => {
                let (fx, fy) = (self.q_factor(x), self.q_factor(y));
                // q + fx p = (fx + fy) y
                data[usize::from(y)] = scale(add(q, scale(p, fx)), inverse(fx ^ fy));
                data[usize::from(x)] = add(p, data[usize::from(y)]);
            }
            _ => return None,
        }
        Some(data)
    }

    fn data_cell(&self, index: u8) -> Cell {
        self.cell(self.row.data_slot(index))
    }

    /// The members of parity among `from` whose parity does not fit these data.
    fn wrong_parity(&self, data: &[Cell], from: SlotMask) -> Option<u8> {
        let p = self.row.p();
        if from & bit(p) != 0 && self.cell(p) != self.p_of(data) {
            return Some(p);
        }
        self.row.q().filter(|&q| from & bit(q) != 0 && self.cell(q) != self.q_of(data))
    }
}

impl World {
    fn parity(&self) -> &Parity {
        match &self.geometry {
            crate::raid::Geometry::Parity(parity) => parity,
            crate::raid::Geometry::Copies(_) => panic!("a level without parity"),
        }
    }

    fn column(&self, at: usize, durable: bool) -> Column {
        let parity = self.parity();
        let cell = |disk: &super::disk::Disk| match durable {
            true => disk.durable[at],
            false => disk.live[at],
        };
        Column {
            row: parity.row(at as u64 / parity.strip_blocks()),
            data: parity.data_members(),
            cells: self.disks.iter().map(cell).collect(),
        }
    }

    /// The blocks of the array in a column, by data index.
    fn array_lbas(&self, at: usize) -> Vec<usize> {
        let parity = self.parity();
        let (row, offset) = (at as u64 / parity.strip_blocks(), at as u64 % parity.strip_blocks());
        let lba = |index| usize::try_from(parity.array_lba(row, index, offset)).unwrap();
        (0..parity.data_members()).map(lba).collect()
    }

    /// Oracles 2, 3 and 5, on an array about to start.
    pub(super) fn check_rows_assembled(&mut self, in_sync: SlotMask) {
        for slot in slots(in_sync).map(usize::from) {
            if self.watch.missed[slot] {
                violated(5, &format!("member {slot} missed an acknowledged write and is in sync"));
            }
            self.watch.may_lack[slot] = false;
        }
        let shared = self.running.as_ref().unwrap().shared.clone();
        for chunk in 0..self.watch.chunks {
            let state = shared.chunk_state(chunk).expect("the array has a map");
            let in_doubt = shared.doubt.is_in_doubt(chunk);
            if state == ChunkState::Clean && in_doubt {
                violated(2, &format!("chunk {chunk} is Clean and in doubt"));
            }
            for at in self.blocks_of(chunk) {
                if state == ChunkState::Unwritten {
                    for lba in self.array_lbas(at) {
                        self.check_version(lba, Ok(0), "Unwritten");
                    }
                } else {
                    self.check_column(at, in_sync, in_doubt);
                }
            }
        }
    }

    /// Those of the members that have not listed a block of their data as bad.
    fn sound(&self, at: usize, members: SlotMask) -> SlotMask {
        let sound = slots(members).filter(|&slot| !self.disks[usize::from(slot)].lists_at(at));
        sound.fold(0, |mask, slot| mask | bit(slot))
    }

    fn check_column(&self, at: usize, in_sync: SlotMask, in_doubt: bool) {
        let (all_in_sync, in_sync) = (in_sync, self.sound(at, in_sync));
        let column = self.column(at, false);
        let lbas = self.array_lbas(at);
        for (index, &lba) in (0..column.data).zip(&lbas) {
            let slot = column.row.data_slot(index);
            if in_sync & bit(slot) != 0 {
                self.check_version(lba, version_of(column.cell(slot), lba), "there");
            }
        }
        if in_doubt {
            return;
        }
        let Some(data) = column.data(in_sync) else {
            return assert_ne!(in_sync, all_in_sync, "enough members");
        };
        for (&cell, &lba) in data.iter().zip(&lbas) {
            self.check_version(lba, version_of(cell, lba), "recovered");
        }
        if let Some(slot) = column.wrong_parity(&data, in_sync) {
            violated(2, &format!("parity of block {at} on member {slot} does not fit the data"));
        }
    }

    fn check_version(&self, lba: usize, version: Result<u64, String>, how: &str) {
        let version = version.unwrap_or_else(|what| violated(3, &format!("{how}: {what}")));
        if !self.host.may_hold(lba, version) {
            let possible = self.host.possible(lba);
            violated(3, &format!("block {lba} is v{version} ({how}), possible are {possible:?}"));
        }
    }

    /// Oracles 2 and 4: a chunk that is called Clean is so on the media.
    pub(super) fn check_rows_clean(&self, oracle: u32, chunk: usize, in_sync: SlotMask) {
        for at in self.blocks_of(chunk) {
            for slot in slots(in_sync).map(usize::from) {
                let disk = &self.disks[slot];
                if disk.live[at] != disk.durable[at] && !disk.dead && !disk.lists_at(at) {
                    let what = format!("chunk {chunk} is Clean, block {at} of {slot} is cached");
                    violated(oracle, &what);
                }
            }
            let column = self.column(at, true);
            let (all_in_sync, in_sync) = (in_sync, self.sound(at, in_sync));
            let Some(data) = column.data(in_sync) else {
                assert_ne!(in_sync, all_in_sync, "enough members");
                continue;
            };
            if let Some(slot) = column.wrong_parity(&data, in_sync) {
                let what = format!("chunk {chunk} is Clean, parity of block {at} on {slot} is not");
                violated(oracle, &what);
            }
        }
    }

    /// Whether a member lacks its part of a column that it should hold.
    pub(super) fn column_lacks(&self, slot: usize, at: usize, state: ChunkState) -> bool {
        let is_clean = state == ChunkState::Clean;
        if !is_clean && (state != ChunkState::Dirty || self.is_moving(at)) {
            return false;
        }
        // A write that has failed has spoilt the row, which the owner is just being told.
        let doubt = &self.running.as_ref().unwrap().shared.doubt;
        if !is_clean && self.faults.any() && doubt.is_in_doubt(self.chunk_of(at)) {
            return false;
        }
        let column = self.column(at, is_clean);
        let member = bit(u8::try_from(slot).unwrap());
        if self.sound(at, member) == 0 {
            return false;
        }
        let Some(data) = column.data(self.sound(at, self.in_sync()) & !member) else {
            return false;
        };
        let is_data = |index| bit(column.row.data_slot(index)) == member;
        match (0..column.data).find(|&index| is_data(index)) {
            Some(index) => column.data_cell(index) != data[usize::from(index)],
            None => column.wrong_parity(&data, member).is_some(),
        }
    }

    /// Parity of a chunk fits the data, whatever they are.
    pub(super) fn check_parity_of(&self, chunk: usize) {
        let shared = &self.running.as_ref().unwrap().shared;
        if shared.chunk_state(chunk) == Some(ChunkState::Unwritten) {
            return;
        }
        for at in self.blocks_of(chunk) {
            let column = self.column(at, false);
            let all = shared.geometry.all_slots();
            let data = column.data(all).expect("all are there");
            assert_eq!(column.wrong_parity(&data, all), None, "block {at}");
        }
    }

    /// Parity of every chunk ever written fits the data.
    pub(super) fn check_rows_right(&self) {
        let shared = &self.running.as_ref().unwrap().shared;
        for chunk in 0..self.watch.chunks {
            if shared.chunk_state(chunk) == Some(ChunkState::Unwritten) {
                continue;
            }
            assert!(!shared.doubt.is_in_doubt(chunk), "chunk {chunk} is in doubt");
            for at in self.blocks_of(chunk) {
                self.check_column(at, self.in_sync(), false);
            }
        }
    }

    /// Oracle 5: whoever lacks an acknowledged write is out; what is written can be had.
    pub(super) fn check_rows_acknowledged(&mut self, request: &Request) {
        let in_sync = self.in_sync();
        let shared = self.running.as_ref().unwrap().shared.clone();
        for lba in request.lba..request.lba + request.blocks {
            let strip = self.parity().strip(lba as u64);
            let at = usize::try_from(strip.member_lba).unwrap();
            let chunk = self.chunk_of(at);
            if self.host.is_contested(lba) {
                for slot in (0..self.disks.len()).filter(|slot| in_sync & 1 << slot == 0) {
                    self.watch.may_lack[slot] = true;
                }
                continue;
            }
            if shared.chunk_state(chunk) == Some(ChunkState::Unwritten) {
                self.check_discard_known(chunk, lba, request.version, in_sync);
                continue;
            }
            let row = self.parity().row(strip.row);
            for slot in slots(row.parity_mask() | bit(strip.slot)).map(usize::from) {
                // What it could not write it must list durably by now.
                if in_sync & 1 << slot != 0 || self.disks[slot].lists_at(at) {
                    continue;
                }
                match self.lacks(slot, lba, at, request.version) {
                    Some(false) => {
                        self.may_be_replayed(slot, request.version);
                        continue;
                    }
                    // Nobody can tell now: it is not to be left alone with others.
                    None => {
                        self.watch.may_lack[slot] = true;
                        continue;
                    }
                    Some(true) => {}
                }
                if !self.watch.missed[slot] {
                    self.check_recorded(slot);
                }
                self.check_nobody_reads(slot);
                self.watch.missed[slot] = true;
                self.watch.owed[chunk] |= !self.watch.incomplete[slot];
            }
            self.check_written(lba, at, request.version);
        }
    }

    /// Whether a member that is out lacks what was written to a block, its parity perhaps.
    fn lacks(&self, slot: usize, lba: usize, at: usize, version: u64) -> Option<bool> {
        let column = self.column(at, false);
        let slot = u8::try_from(slot).unwrap();
        if self.parity().strip(lba as u64).slot == slot {
            return Some(version_of(column.cell(slot), lba) != Ok(version));
        }
        if self.is_moving(at) {
            return None;
        }
        let data = column.data(self.sound(at, self.in_sync()))?;
        Some(column.wrong_parity(&data, bit(slot)).is_some())
    }

    /// Whether something is being written to the column.
    fn is_moving(&self, at: usize) -> bool {
        self.running.as_ref().unwrap().in_flight.iter().any(|flight| {
            let first = self.disk(flight.disk).data_block(&flight.io);
            let blocks = flight.io.blocks as usize;
            flight.io.op.modifies() && first.is_some_and(|it| (it..it + blocks).contains(&at))
        }) || self.is_in_work(at)
    }

    /// Whether a batch of writes to the column has not come to its end, good or bad: what a member
    /// that is out lacks of it is on record before it ends.
    fn is_in_work(&self, at: usize) -> bool {
        let channels = self.running.as_ref().unwrap().channels.iter();
        let mut stripes =
            channels.filter_map(|it| it.stripes.as_ref()).flat_map(|it| it.stripes.iter());
        stripes.any(|stripe| {
            let hull = stripe.hull.lba..stripe.hull.lba + stripe.hull.blocks;
            let is_at_work = matches!(stripe.state(), StripeState::Writing | StripeState::Settling);
            is_at_work && hull.contains(&(at as u64))
        })
    }

    /// As on mirrors: what members hold does not matter, what they know does; unless this is a
    /// write of zeroes, and another discard is under way.
    fn check_discard_known(&mut self, chunk: usize, lba: usize, version: u64, in_sync: SlotMask) {
        for slot in 0..self.disks.len() {
            let disk = &self.disks[slot];
            let knows = disk.state_byte(chunk) == 0
                || disk.holds(lba).is_none_or(|(live, _)| live == version);
            if !knows && in_sync & 1 << slot != 0 {
                violated(5, &format!("chunk {chunk} discarded, member {slot} lacks that"));
            }
            self.watch.missed[slot] |= !knows;
            if in_sync & 1 << slot == 0 && self.disks[slot].state_byte(chunk) != 0 {
                self.may_be_replayed(slot, version);
            }
        }
    }

    /// A member that is out holds what was written, because it held zeroes and zeroes were written.
    /// But it may have a record of what others wrote there before: alone it would write that in
    /// place, so it is not to be left alone.
    fn may_be_replayed(&mut self, slot: usize, version: u64) {
        self.watch.may_lack[slot] |= self.shape.log.is_some() && version == 0;
    }

    /// A block that was acknowledged is on its member or can be computed.
    fn check_written(&self, lba: usize, at: usize, version: u64) {
        let all_in_sync = self.in_sync();
        let in_sync = self.sound(at, all_in_sync);
        let running = self.running.as_ref().unwrap();
        let strip = self.parity().strip(lba as u64);
        let column = self.column(at, false);
        let held = (in_sync & bit(strip.slot) != 0).then(|| column.cell(strip.slot));
        if held.is_some_and(|cell| version_of(cell, lba) != Ok(version)) {
            violated(5, &format!("block {lba} acknowledged, member {} lacks it", strip.slot));
        }
        let is_settling = running.channels.iter().any(|channel| {
            channel.in_sync != all_in_sync
                || channel.stripes.as_ref().is_some_and(|it| it.settling > 0)
        });
        // A write makes its own columns right; one that failed since may have spoilt them.
        let in_doubt = running.shared.doubt.is_in_doubt(self.chunk_of(at)) && self.faults.any();
        if self.is_moving(at) || is_settling || in_doubt {
            return;
        }
        let Some(data) = column.data(in_sync) else {
            // What was written is there; others of the column are lost. Zeroes stay listed.
            let is_there = in_sync & bit(strip.slot) != 0 || version == 0;
            assert!(in_sync != all_in_sync && is_there, "enough members");
            return;
        };
        if version_of(data[usize::from(strip.index)], lba) != Ok(version) {
            violated(5, &format!("block {lba} acknowledged and not recovered"));
        }
        if let Some(slot) = column.wrong_parity(&data, in_sync) {
            violated(5, &format!("block {lba} acknowledged, parity on member {slot} is wrong"));
        }
    }
}

//! A member: a medium, a volatile cache over it, and what can go wrong with both.
//!
//! Of a data block only its stamp is kept (version 0: zeroes); requests carry it at both ends of
//! the block together with the block's place. Parity is computed of stamps as of any bytes.
//! Metadata are kept byte for byte. The device of an external bitmap is one without
//! data.
//!
//! What is assumed of a device, as md does: a logical block of data is written whole or not at
//! all. Of metadata only 512-byte sectors are: a 4096-byte block with a superblock or bitmap
//! states may tear between them. State bytes may tear anywhere: each is old or new.

use super::rng::Rng;
use crate::bdev::{BdevIo, IoOp, IoStatus};
use crate::md;
use crate::raid::geometry::{Content, Geometry};
use crate::reactor::buf::IoBuf;

/// Bytes of a member before its data that are simulated.
pub(super) const META_BYTES: usize = 16 * 1024;
/// Where the superblock and the bitmap are.
pub(super) const SUPER_BYTE: usize = 8 * 512;
pub(super) const BITMAP_BYTE: usize = 16 * 512;
pub(super) const BAD_LOG_BYTE: usize = META_BYTES - 4096;
pub(super) const STATES_BYTE: usize = BITMAP_BYTE + md::BITMAP_HEAD_BYTES;

/// What a read is filled with before, to see what nobody fills.
pub(super) const NOT_READ: u64 = u64::MAX;

/// What is kept of a block: its version, its place, and a sum of both that no other blocks add up
/// to, as versions and places may when parity is torn.
pub(super) type Cell = [u64; 3];

/// The stamp of a block of the array.
pub(super) fn cell(version: u64, lba: usize) -> Cell {
    if version == 0 {
        return [0; 3];
    }
    [version, lba as u64, sum(version, lba)]
}

fn sum(version: u64, lba: usize) -> u64 {
    let mixed = (version ^ (lba as u64).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// The version that a stamp says; `Err` says what is wrong with it.
pub(super) fn version_of(cell: Cell, lba: usize) -> Result<u64, String> {
    let [head, place, tail] = cell;
    if place != if head == 0 { 0 } else { lba as u64 } {
        return Err(format!("block {lba} holds block {place}"));
    }
    if tail != if head == 0 { 0 } else { sum(head, lba) } {
        return Err(format!("block {lba} is torn: {head:x} and {tail:x}"));
    }
    Ok(head)
}

/// Writes a block's stamp into a buffer.
pub(super) fn stamp(buf: &IoBuf, block: usize, index: usize, lba: usize, version: u64) {
    put_cell(buf, block, index, cell(version, lba));
}

fn put_cell(buf: &IoBuf, block: usize, index: usize, cell: Cell) {
    let at = index * block;
    for (offset, word) in [0, 8, block - 8].into_iter().zip(cell) {
        assert!(at + block <= buf.len());
        // SAFETY: inside the buffer by the assert; the simulator is single-threaded and looks at
        // a buffer only between requests.
        let target = unsafe { buf.as_ptr().add(at + offset) };
        // SAFETY: as above, eight bytes fit before the end of the block.
        unsafe { target.copy_from_nonoverlapping(word.to_le_bytes().as_ptr(), 8) };
    }
}

/// The stamp of a block in a buffer; `Err` says what is wrong with it.
pub(super) fn stamp_of(buf: &IoBuf, block: usize, index: usize, lba: usize) -> Result<u64, String> {
    version_of(get_cell(buf, block, index), lba)
}

/// A block that a request writes.
fn block_of(io: &BdevIo, index: usize, block: usize) -> &[u8] {
    const ZEROES: [u8; 4096] = [0; 4096];
    match &io.buf {
        Some(buf) => &buf.as_slice()[index * block..][..block],
        None => &ZEROES[..block],
    }
}

fn get_cell(buf: &IoBuf, block: usize, index: usize) -> Cell {
    let bytes = &buf.as_slice()[index * block..(index + 1) * block];
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    [word(0), word(8), word(block - 8)]
}

/// What a member's block of data holds of the array, and the other way round.
#[derive(Clone, Default)]
pub(super) struct Places {
    /// By member block.
    array: Vec<Option<usize>>,
    /// By array block.
    member: Vec<Option<usize>>,
    /// Other members hold parity of it, and it parity of others.
    has_parity: bool,
}

impl Places {
    /// Of one member, as the shipped geometry says.
    pub(super) fn new(geometry: &Geometry, slot: usize) -> Self {
        let slot = u8::try_from(slot).unwrap();
        let has_parity = matches!(geometry, Geometry::Parity(_));
        let mut places = Self { has_parity, ..Self::default() };
        places.member.resize(usize::try_from(geometry.blocks()).unwrap(), None);
        for at in 0..geometry.member_blocks(slot) {
            let held = match geometry.place(slot, at).content {
                Content::Data { lba, .. } => Some(usize::try_from(lba).unwrap()),
                _ => None,
            };
            if let Some(lba) = held {
                places.member[lba] = Some(places.array.len());
            }
            places.array.push(held);
        }
        places
    }
}

#[derive(Clone)]
pub(super) struct Disk {
    block: usize,
    data_lba: usize,
    /// Bytes before the data that are simulated; with a stripe log, all.
    meta_bytes: usize,
    places: Places,
    /// Where the bitmap begins.
    bitmap_byte: usize,
    pub(super) live_meta: Vec<u8>,
    pub(super) durable_meta: Vec<u8>,
    pub(super) live: Vec<Cell>,
    pub(super) durable: Vec<Cell>,
    /// Cells whose two versions may differ, with when they first did.
    cached: Vec<(u32, u64)>,
    is_cached: Vec<bool>,
    /// Every request fails.
    pub(super) dead: bool,
    /// Blocks of the member's data that can't be read, and whether a write makes them good.
    pub(super) rotten: Vec<usize>,
    pub(super) heals: bool,
    /// Blocks that can neither be read nor written.
    pub(super) stubborn: Vec<usize>,
    /// May be given what nobody ever wrote, from parity that fits nothing.
    pub(super) takes_guesses: bool,
}

impl Disk {
    /// A member that holds `meta` before its data, and in each block of data what `fill` says.
    pub(super) fn new(
        block: usize,
        data_lba: usize,
        meta: Vec<u8>,
        places: Places,
        mut fill: impl FnMut() -> u64,
    ) -> Self {
        let meta_bytes = meta.len();
        assert!(data_lba * block >= meta_bytes);
        let held = places.array.iter();
        let data: Vec<Cell> = held.map(|held| cell(fill(), held.unwrap_or(7))).collect();
        Self {
            places,
            block,
            data_lba,
            meta_bytes,
            bitmap_byte: BITMAP_BYTE,
            durable_meta: meta.clone(),
            live_meta: meta,
            durable: data.clone(),
            is_cached: vec![false; meta_bytes / block + data.len()],
            live: data,
            cached: Vec::new(),
            dead: false,
            takes_guesses: false,
            rotten: Vec::new(),
            stubborn: Vec::new(),
            heals: true,
        }
    }

    /// The device becomes larger, for members of this geometry; what is new is what `fill` says.
    pub(super) fn enlarge(
        &mut self,
        geometry: &Geometry,
        slot: usize,
        mut fill: impl FnMut() -> u64,
    ) {
        self.places = Places::new(geometry, slot);
        for held in &self.places.array[self.live.len()..] {
            let cell = cell(fill(), held.unwrap_or(7));
            self.live.push(cell);
            self.durable.push(cell);
        }
        self.is_cached.resize(self.meta_bytes / self.block + self.live.len(), false);
    }

    /// A device of the same kind.
    pub(super) fn another(&self, meta: Vec<u8>, data: Vec<u64>) -> Self {
        assert_eq!(data.len(), self.live.len());
        let mut data = data.into_iter();
        let fill = || data.next().expect("as many as there are blocks");
        let new = Self::new(self.block, self.data_lba, meta, self.places.clone(), fill);
        Self { takes_guesses: self.takes_guesses, ..new }
    }

    /// A block of the array is not on the medium what it was.
    pub(super) fn spoil(&mut self, lba: usize, stamp: u64) {
        let at = self.places.member[lba].expect("the member holds it");
        (self.live[at], self.durable[at]) = (cell(stamp, lba), cell(stamp, lba));
    }

    /// A block of the member, parity perhaps, is not on the medium what it was.
    pub(super) fn spoil_at(&mut self, at: usize, stamp: u64) {
        (self.live[at], self.durable[at]) = (cell(stamp, at), cell(stamp, at));
    }

    /// Somebody else has written its superblock.
    pub(super) fn put_superblock(&mut self, superblock: &md::Superblock) {
        superblock.encode_into(&mut self.live_meta[SUPER_BYTE..BITMAP_BYTE]);
        superblock.encode_into(&mut self.durable_meta[SUPER_BYTE..BITMAP_BYTE]);
    }

    /// What its bad-block log lists, as the medium has it.
    pub(super) fn bad_blocks(&self) -> Vec<md::BadRange> {
        // The superblock's feature bit, before all of it is decoded.
        if self.bitmap_byte == 0 || self.durable_meta[SUPER_BYTE + 8] & 8 == 0 {
            return Vec::new();
        }
        let own = md::Unverified::parse(&self.durable_meta[SUPER_BYTE..BITMAP_BYTE], 8);
        // A blank device is full of noise.
        let Ok(own) = own else { return Vec::new() };
        md::parse_bad_blocks(&self.durable_meta[BAD_LOG_BYTE..META_BYTES], &own).unwrap()
    }

    /// Where its data begin.
    pub(super) fn data_lba(&self) -> u64 {
        u64::try_from(self.data_lba).unwrap()
    }

    /// Whether a block of its data is listed as bad.
    pub(super) fn lists_at(&self, at: usize) -> bool {
        let sectors = (self.block / 512) as u64;
        let first = (self.data_lba + at) as u64 * sectors;
        self.bad_blocks()
            .iter()
            .any(|bad| bad.start_sector < first + sectors && first < bad.start_sector + bad.sectors)
    }

    /// Whether the member's part of a block of the array is.
    pub(super) fn lists(&self, lba: usize) -> bool {
        self.places.member[lba].is_some_and(|at| self.lists_at(at))
    }

    /// Whether the member's part of a block of the sync space is.
    pub(super) fn lists_block(&self, at: usize) -> bool {
        if self.places.has_parity { self.lists_at(at) } else { self.lists(at) }
    }

    /// A device that holds a bitmap from its first byte on, and no data.
    pub(super) fn external(block: usize, meta: Vec<u8>) -> Self {
        let data_lba = META_BYTES / block;
        Self { bitmap_byte: 0, ..Self::new(block, data_lba, meta, Places::default(), || 0) }
    }

    /// How far before the data a byte is.
    pub(super) fn before_data(&self, at: usize) -> usize {
        self.data_lba * self.block - at
    }

    pub(super) fn bitmap_byte(&self) -> usize {
        self.bitmap_byte
    }

    fn meta_cells(&self) -> usize {
        self.meta_bytes / self.block
    }

    /// First block of the sync space that a request means, that is of the array or, with parity, of
    /// the member; `None` for metadata.
    pub(super) fn data_block(&self, io: &BdevIo) -> Option<usize> {
        self.data_hull(io).map(|(lba, _)| lba)
    }

    /// The first block that a request means, and the number of blocks to the last one. What is
    /// zeroed may lie apart in the array; else there are no others between them.
    pub(super) fn data_hull(&self, io: &BdevIo) -> Option<(usize, usize)> {
        let at = self.member_block(io)?;
        let blocks = io.blocks as usize;
        if self.places.has_parity {
            return Some((at, blocks));
        }
        let place = |at: usize| self.places.array[at].expect("nobody asks for a block of no use");
        let (first, last) = (at..at + blocks)
            .map(place)
            .fold((usize::MAX, 0), |(first, last), lba| (lba.min(first), lba.max(last)));
        if blocks == 0 {
            return Some((place(at), 0));
        }
        let hull = last + 1 - first;
        let is_run = (0..blocks).all(|index| self.places.array[at + index] == Some(first + index));
        assert!(
            is_run || io.op == IoOp::WriteZeroes,
            "a request for member block {at} crosses what lies apart in the array"
        );
        Some((first, hull))
    }

    /// What the member holds of a block of the array now, if it does.
    pub(super) fn live_at(&self, lba: usize) -> Option<u64> {
        self.holds(lba).map(|(live, _)| live)
    }

    /// The block of the sync space that a block of the member's data is, if it is of use.
    pub(super) fn sync_block(&self, at: usize) -> Option<usize> {
        if self.places.has_parity { Some(at) } else { self.places.array[at] }
    }

    /// First block of the member's data that a request means; `None` for metadata.
    fn member_block(&self, io: &BdevIo) -> Option<usize> {
        usize::try_from(io.lba).unwrap().checked_sub(self.data_lba)
    }

    /// What the member holds of a block of the array, if it does: now, and on the medium.
    pub(super) fn holds(&self, lba: usize) -> Option<(u64, u64)> {
        self.places.member[lba].map(|at| (self.live[at][0], self.durable[at][0]))
    }

    /// Executes a request. `sent_at` and `now` number events: a flush need not cover what was
    /// written after it was sent.
    pub(super) fn execute(
        &mut self,
        io: &BdevIo,
        sent_at: u64,
        now: u64,
        rng: &mut Rng,
    ) -> IoStatus {
        if self.dead {
            return IoStatus::MediaError;
        }
        if !self.stubborn.is_empty()
            && let Some(first) = self.member_block(io)
        {
            let range = first..first + io.blocks as usize;
            if self.stubborn.iter().any(|block| range.contains(block)) {
                return IoStatus::MediaError;
            }
        }
        if !self.rotten.is_empty()
            && let Some(first) = self.member_block(io)
        {
            let range = first..first + io.blocks as usize;
            if io.op.modifies() && self.heals {
                self.rotten.retain(|block| !range.contains(block));
            } else if !io.op.modifies() && self.rotten.iter().any(|block| range.contains(block)) {
                return IoStatus::MediaError;
            }
        }
        match io.op {
            IoOp::Flush => {
                let all = rng.one_in(2);
                self.flush(|since| all || since < sent_at);
                IoStatus::Ok
            }
            IoOp::Read => self.read(io),
            IoOp::Compare => self.compare(io),
            IoOp::Write | IoOp::WriteZeroes | IoOp::Unmap => {
                for index in 0..io.blocks as usize {
                    self.write_block(io, index, io.fua, now);
                    // The cache writes back when it likes.
                    if !io.fua && rng.one_in(8) {
                        let cell = self.cell(io, index);
                        self.persist(cell);
                    }
                }
                IoStatus::Ok
            }
        }
    }

    /// A request that failed, or was under way when the power went: any of its blocks are there.
    pub(super) fn execute_torn(&mut self, io: &BdevIo, now: u64, rng: &mut Rng) {
        if !io.op.modifies() || self.dead {
            return;
        }
        for index in 0..io.blocks as usize {
            if self.member_block(io).is_none() {
                self.tear_meta(io, index, rng);
            } else if rng.one_in(2) {
                self.write_block(io, index, false, now);
            }
        }
    }

    /// A metadata block tears between sectors, its states between bytes.
    fn tear_meta(&mut self, io: &BdevIo, index: usize, rng: &mut Rng) {
        let at = (usize::try_from(io.lba).unwrap() + index) * self.block;
        let data = block_of(io, index, self.block);
        let whole = rng.one_in(2);
        for sector in 0..self.block / 512 {
            let all = rng.one_in(2);
            let first = sector * 512;
            for (offset, &byte) in (first..first + 512).zip(&data[first..]) {
                // What has a checksum of its own sector is written by sectors.
                let is_head = self.before_data(at) <= md::stripe_log::LOG_HEAD_BYTES;
                let is_states = at + offset >= self.bitmap_byte + md::BITMAP_HEAD_BYTES;
                let is_bad_log = (BAD_LOG_BYTE..META_BYTES).contains(&at) && self.bitmap_byte > 0;
                let may_tear = is_states && !is_head && !is_bad_log && !whole;
                if if may_tear { rng.one_in(2) } else { all } {
                    self.live_meta[at + offset] = byte;
                    self.durable_meta[at + offset] = byte;
                }
            }
        }
    }

    fn cell(&self, io: &BdevIo, index: usize) -> usize {
        match self.member_block(io) {
            Some(block) => self.meta_cells() + block + index,
            None => usize::try_from(io.lba).unwrap() + index,
        }
    }

    fn read(&mut self, io: &BdevIo) -> IoStatus {
        let first = self.member_block(io).expect("the array reads no metadata");
        let buf = io.buf.as_ref().unwrap();
        if self.places.has_parity {
            // What lies between is compared when it is recovered.
            buf.zero_range(0, buf.len());
        }
        for (index, &cell) in self.live[first..first + io.blocks as usize].iter().enumerate() {
            put_cell(buf, self.block, index, cell);
        }
        IoStatus::Ok
    }

    fn compare(&mut self, io: &BdevIo) -> IoStatus {
        let first = self.member_block(io).expect("the array compares no metadata");
        let buf = io.buf.as_ref().unwrap();
        let same = (0..io.blocks as usize)
            .all(|index| get_cell(buf, self.block, index) == self.live[first + index]);
        if same { IoStatus::Ok } else { IoStatus::CompareMismatch }
    }

    fn write_block(&mut self, io: &BdevIo, index: usize, fua: bool, now: u64) {
        let cell = self.cell(io, index);
        if cell < self.meta_cells() {
            let data = block_of(io, index, self.block);
            self.live_meta[cell * self.block..][..self.block].copy_from_slice(data);
        } else {
            let at = cell - self.meta_cells();
            self.live[at] = io.buf.as_ref().map_or([0; 3], |buf| get_cell(buf, self.block, index));
            if let Some(lba) = self.places.array[at].filter(|_| !self.takes_guesses) {
                version_of(self.live[at], lba).expect("a sound block");
            }
        }
        if fua {
            self.persist(cell);
        } else if !std::mem::replace(&mut self.is_cached[cell], true) {
            self.cached.push((u32::try_from(cell).unwrap(), now));
        }
    }

    fn persist(&mut self, cell: usize) {
        if let Some(lba) = cell.checked_sub(self.meta_cells()) {
            self.durable[lba] = self.live[lba];
        } else {
            let bytes = cell * self.block..(cell + 1) * self.block;
            self.durable_meta[bytes.clone()].copy_from_slice(&self.live_meta[bytes]);
        }
    }

    fn revert(&mut self, cell: usize) {
        if let Some(lba) = cell.checked_sub(self.meta_cells()) {
            self.live[lba] = self.durable[lba];
        } else {
            let bytes = cell * self.block..(cell + 1) * self.block;
            self.live_meta[bytes.clone()].copy_from_slice(&self.durable_meta[bytes]);
        }
    }

    fn flush(&mut self, covers: impl Fn(u64) -> bool) {
        let mut cached = std::mem::take(&mut self.cached);
        cached.retain(|&(cell, since)| {
            if covers(since) {
                self.persist(cell as usize);
                self.is_cached[cell as usize] = false;
            }
            !covers(since)
        });
        self.cached = cached;
    }

    /// Power is cut: of each block that is only in the cache either version may be there.
    pub(super) fn cut(&mut self, rng: &mut Rng) {
        let mut cached = std::mem::take(&mut self.cached);
        // Often all or nothing of a cache is lost; any mixture may be.
        let bias = [0, 1, 2, 3][rng.below(4)];
        for (cell, _) in cached.drain(..) {
            let cell = cell as usize;
            self.is_cached[cell] = false;
            if bias == 0 || (bias > 1 && rng.one_in(bias)) {
                self.persist(cell);
            } else {
                self.revert(cell);
            }
        }
        self.cached = cached;
        self.dead = false;
    }

    /// The byte of a chunk on the medium.
    pub(super) fn state_byte(&self, chunk: usize) -> u8 {
        self.durable_meta[self.bitmap_byte + md::BITMAP_HEAD_BYTES + chunk]
    }
}

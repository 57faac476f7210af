//! A slow second opinion: the whole array written down block by block, in the words of md's code
//! (raid0.c, md-linear.c, raid10.c, raid5.c) and not in those of the mappings.

use super::super::{Content, SlotMask};
use super::Case;

/// What each block of each member holds.
pub(super) struct Table {
    pub(super) members: Vec<Vec<Content>>,
    /// Blocks of the array.
    pub(super) blocks: u64,
    /// Two things were put at one place, or two copies of a block on one member.
    pub(super) clashes: bool,
    strip_blocks: u64,
}

impl Table {
    pub(super) fn new(case: &Case) -> Table {
        let block_sectors = u64::from(case.block_size_bytes / 512);
        let mut table = Table {
            members: vec![Vec::new(); case.slots.try_into().unwrap()],
            blocks: 0,
            clashes: false,
            strip_blocks: u64::from(case.chunk_sectors) / block_sectors,
        };
        match case.level {
            -1 => table.fill_linear(case, block_sectors),
            0 => table.fill_raid0(case, block_sectors),
            1 => table.fill_raid1(case.size_sectors / block_sectors),
            10 => table.fill_raid10(case),
            _ => table.fill_parity(case),
        }
        table
    }

    fn put(&mut self, slot: u64, member_lba: u64, content: Content) {
        let member = &mut self.members[usize::try_from(slot).unwrap()];
        let at = usize::try_from(member_lba).unwrap();
        if member.len() <= at {
            member.resize(at + 1, Content::Unused);
        }
        self.clashes |= member[at] != Content::Unused;
        member[at] = content;
    }

    fn put_data(&mut self, slot: u64, row: u64, strip: u64, copy: u8) {
        for offset in 0..self.strip_blocks {
            let lba = strip * self.strip_blocks + offset;
            self.put(slot, row * self.strip_blocks + offset, Content::Data { lba, copy });
            self.blocks = self.blocks.max(lba + 1);
        }
    }

    fn fill_raid1(&mut self, blocks: u64) {
        for slot in 0..self.members.len() {
            for lba in 0..blocks {
                let copy = u8::try_from(slot).unwrap();
                self.put(slot as u64, lba, Content::Data { lba, copy });
            }
        }
        self.blocks = blocks;
    }

    fn fill_linear(&mut self, case: &Case, block_sectors: u64) {
        let unit = self.strip_blocks.max(1);
        let mut lba = 0;
        for (slot, sectors) in case.member_sectors.iter().enumerate() {
            for member_lba in 0..sectors / block_sectors / unit * unit {
                self.put(slot as u64, member_lba, Content::Data { lba, copy: 0 });
                lba += 1;
            }
        }
        self.blocks = lba;
    }

    fn fill_raid0(&mut self, case: &Case, block_sectors: u64) {
        let heights: Vec<u64> =
            case.member_sectors.iter().map(|s| s / block_sectors / self.strip_blocks).collect();
        let (mut zone_strip, mut zone_row, mut zone_members) = (0, 0, Vec::new());
        let mut strip = 0;
        for row in 0..*heights.iter().max().unwrap() {
            let tall = (0..).zip(&heights).filter(|&(_, &height)| height > row);
            let members: Vec<u64> = tall.map(|(slot, _)| slot).collect();
            if members != zone_members {
                (zone_strip, zone_row, zone_members) = (strip, row, members);
            }
            for _ in &zone_members {
                let width = zone_members.len() as u64;
                let in_zone = strip - zone_strip;
                assert_eq!(zone_row + in_zone / width, row);
                let turn = if case.layout == 2 { in_zone } else { strip } % width;
                self.put_data(zone_members[usize::try_from(turn).unwrap()], row, strip, 0);
                strip += 1;
            }
        }
    }

    /// As `setup_geo`, `raid10_size` and `__raid10_find_phys` do it.
    fn fill_raid10(&mut self, case: &Case) {
        let disks = u64::from(case.slots);
        let (near, far) = (u64::from(case.layout & 255), u64::from(case.layout >> 8 & 255));
        let is_offset = case.layout & 1 << 16 != 0;
        let set = [disks, disks / far, near * far]
            [usize::try_from(case.layout >> 17).expect("a far-set variant")];
        let size = case.size_sectors / u64::from(case.chunk_sectors);
        let strips = size / far * disks / near;
        let used = (strips * near * far).div_ceil(disks);
        let stride = if is_offset { 1 } else { used / far };
        let last_set = (disks / set - 1) * set;
        let last_set_size = set + disks % set;
        for strip in 0..strips {
            let mut stripe = strip * near / disks;
            let mut dev = strip * near % disks;
            if is_offset {
                stripe *= far;
            }
            let mut holders: SlotMask = 0;
            let mut copy = 0;
            for _ in 0..near {
                let mut d = dev;
                for part in 0..far {
                    if part > 0 {
                        let own_set = d / set;
                        d += near;
                        if disks % set != 0 && d > last_set {
                            d = (d - last_set) % last_set_size + last_set;
                        } else {
                            d = d % set + set * own_set;
                        }
                    }
                    self.clashes |= holders & 1 << d != 0;
                    holders |= 1 << d;
                    self.put_data(d, stripe + part * stride, strip, copy);
                    copy += 1;
                }
                dev += 1;
                if dev == disks {
                    dev = 0;
                    stripe += 1;
                }
            }
        }
    }

    /// As `raid5_compute_sector` does it.
    fn fill_parity(&mut self, case: &Case) {
        let rows = case.size_sectors / u64::from(case.chunk_sectors);
        let data = u64::from(case.slots) - if case.level == 6 { 2 } else { 1 };
        for row in 0..rows {
            let (p, q, data_on) = parity_row(case, row);
            for index in 0..data {
                self.put_data(data_on(index), row, row * data + index, 0);
            }
            for offset in 0..self.strip_blocks {
                self.put(p, row * self.strip_blocks + offset, Content::P { row });
                if let Some(q) = q {
                    self.put(q, row * self.strip_blocks + offset, Content::Q { row });
                }
            }
        }
    }

    pub(super) fn at(&self, slot: usize, member_lba: u64) -> Content {
        let at = usize::try_from(member_lba).unwrap();
        self.members[slot].get(at).copied().unwrap_or(Content::Unused)
    }

    /// Every place of a block of the array.
    pub(super) fn places(&self, lba: u64) -> Vec<(u8, u8, u64)> {
        let mut places = Vec::new();
        for (slot, member) in (0..).zip(&self.members) {
            for (member_lba, &content) in (0..).zip(member) {
                if let Content::Data { lba: found, copy } = content
                    && found == lba
                {
                    places.push((copy, slot, member_lba));
                }
            }
        }
        places.sort_unstable();
        places
    }
}

/// Slots of P, of Q, and of the data strips by index.
fn parity_row(case: &Case, row: u64) -> (u64, Option<u64>, impl Fn(u64) -> u64) {
    let n = u64::from(case.slots);
    let last_data = if case.level == 6 { n - 2 } else { n - 1 };
    let left = n - 1 - row % n;
    let right = row % n;
    let behind = |p: u64| (p + 1) % n;
    // Data fill the slots in order (None) or from a slot on around a ring.
    let (p, q, ring) = match (case.level, case.layout) {
        (4, _) => (last_data, None, None),
        (5, 0) => (left, None, None),
        (5, 1) => (right, None, None),
        (5, 2) => (left, None, Some((left + 1, n))),
        (5, 3) => (right, None, Some((right + 1, n))),
        (5, 4) => (0, None, None),
        (5, 5) => (last_data, None, None),
        (6, 0) => (left, Some(behind(left)), None),
        (6, 1 | 8) => (right, Some(behind(right)), None),
        (6, 2) => (left, Some(behind(left)), Some((left + 2, n))),
        (6, 3) => (right, Some(behind(right)), Some((right + 2, n))),
        (6, 4) => (0, Some(1), None),
        (6, 5) => (last_data, Some(last_data + 1), None),
        (6, 9) => {
            let p = n - 1 - (row + 1) % n;
            (p, Some(behind(p)), None)
        }
        (6, 10) => (left, Some((left + n - 1) % n), Some((left + 1, n))),
        (6, 16) => (last_data - row % (n - 1), Some(n - 1), None),
        (6, 17) => (row % (n - 1), Some(n - 1), None),
        (6, 18) => {
            let p = last_data - row % (n - 1);
            (p, Some(n - 1), Some((p + 1, n - 1)))
        }
        (6, 19) => (row % (n - 1), Some(n - 1), Some((row % (n - 1) + 1, n - 1))),
        (6, 20) => (0, Some(n - 1), None),
        other => panic!("{other:?} is no parity layout"),
    };
    let free: Vec<u64> = (0..n).filter(|&slot| slot != p && Some(slot) != q).collect();
    let data_on = move |index: u64| match ring {
        Some((first, size)) => (first + index) % size,
        None => free[usize::try_from(index).unwrap()],
    };
    (p, q, data_on)
}

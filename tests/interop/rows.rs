//! What the members of an array of any level must hold, worked out without mdof's own geometry:
//! copies are alike, and parity fits the data.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use ::mdof::md::{BITMAP_HEAD_BYTES, BitmapSuperblock, Level, Role, Superblock};

use crate::rig::{Pattern, Rig, superblock};

/// Smallest run that is compared at once. Divides strips and bitmap chunks of all test arrays.
const UNIT_SECTORS: u64 = 128;
const UNIT_BYTES: usize = 128 * 512;

/// An array's member files by slot.
#[derive(Debug)]
pub(crate) struct Rows {
    array: Superblock,
    members: Vec<(u64, File)>,
    /// Sectors of a bitmap chunk and the state of each, if there is a bitmap.
    states: Option<(u64, Vec<u8>)>,
    only: Option<Vec<Pattern>>,
}

impl Rows {
    /// All slots must have their member.
    pub(crate) fn open(rig: &Rig) -> Self {
        let mut slots: Vec<Option<(u64, File)>> = Vec::new();
        let mut states = None;
        let mut array = None;
        for path in rig.members() {
            let own = superblock(&path);
            let Role::Active(slot) = own.own_role() else {
                panic!("{} is no member", path.display())
            };
            let file = File::open(&path).unwrap();
            if let Some(sector) = own.bitmap_sector() {
                let mut head = [0; BITMAP_HEAD_BYTES];
                file.read_exact_at(&mut head, sector * 512).unwrap();
                let head = BitmapSuperblock::parse(&head, &own).unwrap();
                let mut bytes = vec![0; usize::try_from(head.chunk_count()).unwrap()];
                file.read_exact_at(&mut bytes, sector * 512 + BITMAP_HEAD_BYTES as u64).unwrap();
                let chunk = u64::from(head.chunk_sectors().unwrap());
                let (_, found) = states.get_or_insert((chunk, bytes.clone()));
                assert!(*found == bytes, "the members' bitmaps differ");
            }
            let slot = usize::from(slot);
            slots.resize_with(slots.len().max(slot + 1), || None);
            slots[slot] = Some((own.data_offset_sectors, file));
            array = Some(own);
        }
        let array = array.unwrap();
        let members: Vec<_> = slots.into_iter().flatten().collect();
        assert_eq!(members.len(), array.raid_disks as usize, "a slot has no member");
        Self { array, members, states, only: None }
    }

    /// Linux calls chunks Clean that it has never copied (defect 11): only what was written counts.
    pub(crate) fn where_written(self, patterns: &[Pattern]) -> Self {
        Self { only: Some(patterns.to_vec()), ..self }
    }

    fn unit(&self, slot: usize, sector: u64) -> Vec<u8> {
        let (data, file) = &self.members[slot];
        let mut bytes = vec![0; UNIT_BYTES];
        file.read_exact_at(&mut bytes, (data + sector) * 512).unwrap();
        bytes
    }

    /// Whether the place of the sync space has been written, and whether it is claimed that copies
    /// or parity are right there.
    fn is_claimed(&self, sync_sector: u64) -> bool {
        let Some((chunk, states)) = &self.states else { return true };
        let is_believed = |(at, length, _): &Pattern| (*at..at + length).contains(&sync_sector);
        self.only.as_ref().is_none_or(|only| only.iter().any(is_believed))
            && matches!(states[usize::try_from(sync_sector / chunk).unwrap()], 1 | 7)
    }

    /// Wherever the bitmap says that all is well, it is. Returns the units that hold something.
    pub(crate) fn check(&self) -> u64 {
        let strip = u64::from(self.array.chunk_sectors);
        match self.array.level {
            Level::Raid4 | Level::Raid5 | Level::Raid6 => self.check_parity(strip),
            Level::Raid10 => self.check_copies(strip),
            Level::Raid1 => {
                let units =
                    (0..self.array.size_sectors / UNIT_SECTORS).map(|unit| unit * UNIT_SECTORS);
                units
                    .filter(|&at| self.is_claimed(at))
                    .map(|at| self.compare(&[(0, at), (1, at)]))
                    .sum()
            }
            Level::Raid0 | Level::Linear => 0,
        }
    }

    fn compare(&self, places: &[(usize, u64)]) -> u64 {
        let (first, at) = places[0];
        let own = self.unit(first, at);
        for &(slot, at) in &places[1..] {
            assert!(self.unit(slot, at) == own, "copies differ at sector {at} of slot {slot}");
        }
        u64::from(own != vec![0; UNIT_BYTES])
    }

    /// The copies of every run of a raid10.
    fn check_copies(&self, strip: u64) -> u64 {
        let disks = self.members.len() as u64;
        let word = self.array.layout;
        assert!(word >> 17 == 0, "a variant of layouts with far sets");
        let (near, far) = (u64::from(word & 0xff), u64::from(word >> 8 & 0xff));
        let is_offset = word >> 16 & 1 == 1;
        let rows = self.array.size_sectors / strip / far;
        let stride = if is_offset { strip } else { rows * strip };
        let mut holding = 0;
        for at in (0..rows * disks / near * strip).step_by(128) {
            if !self.is_claimed(at) {
                continue;
            }
            let first = at / strip * near;
            let mut places = Vec::new();
            for copy in 0..near {
                let (row, slot) = ((first + copy) / disks, (first + copy) % disks);
                let row = if is_offset { row * far } else { row };
                for turn in 0..far {
                    let slot = usize::try_from((slot + turn * near) % disks).unwrap();
                    places.push((slot, row * strip + at % strip + turn * stride));
                }
            }
            holding += self.compare(&places);
        }
        holding
    }

    /// Slots of P and Q in a row, and those of the data in the order in which Q counts them.
    fn row(&self, row: u64) -> (Vec<usize>, Vec<usize>) {
        let slots = self.members.len();
        let turn = usize::try_from(row % slots as u64).unwrap();
        let layout = if self.array.level == Level::Raid4 { 5 } else { self.array.layout };
        let parities = if self.array.level == Level::Raid6 { 2 } else { 1 };
        let p = match layout {
            0 | 2 => slots - 1 - turn,
            1 | 3 => turn,
            4 => 0,
            5 => slots - parities,
            other => panic!("no test array has layout {other}"),
        };
        let parity: Vec<usize> = (0..parities).map(|index| (p + index) % slots).collect();
        // Q counts from the member behind it, whatever the order of the data, except where parity
        // stays in its place.
        let from = (p + parities) % slots;
        let data = (from..from + slots - parities).map(|slot| slot % slots);
        (parity, data.filter(|slot| layout < 4 || !(p..p + parities).contains(slot)).collect())
    }

    fn check_parity(&self, strip: u64) -> u64 {
        let (mut holding, zeroes) = (0, vec![0; UNIT_BYTES]);
        for at in (0..self.array.size_sectors).step_by(128).filter(|&at| self.is_claimed(at)) {
            let (parity, data) = self.row(at / strip);
            let all: Vec<Vec<u8>> = data.iter().map(|&slot| self.unit(slot, at)).collect();
            let has_data = all.iter().any(|unit| *unit != zeroes);
            holding += u64::from(has_data);
            if !has_data {
                let is_empty = parity.iter().all(|&slot| self.unit(slot, at) == zeroes);
                assert!(is_empty, "parity of zeroes at sector {at}");
                continue;
            }
            let mut p = vec![0u64; UNIT_BYTES / 8];
            let mut q = p.clone();
            for unit in all.iter().rev() {
                for ((p, q), bytes) in p.iter_mut().zip(&mut q).zip(unit.chunks_exact(8)) {
                    let word = u64::from_le_bytes(bytes.try_into().unwrap());
                    *p ^= word;
                    *q = twice(*q) ^ word;
                }
            }
            for (slot, wanted) in parity.iter().zip([&p, &q]) {
                let wanted: Vec<u8> = wanted.iter().flat_map(|word| word.to_le_bytes()).collect();
                assert!(self.unit(*slot, at) == wanted, "parity at sector {at} of slot {slot}");
            }
        }
        holding
    }
}

/// Eight bytes of GF(2^8) times 2, by the polynomial 0x11d.
fn twice(word: u64) -> u64 {
    let high = word >> 7 & 0x0101_0101_0101_0101;
    ((word & 0x7f7f_7f7f_7f7f_7f7f) << 1) ^ (high * 0x1d)
}

/// Copies the member files, but for those of the slots left out.
pub(crate) fn copy_without(rig: &Rig, left_out: &[u16]) -> Rig {
    let copy = Rig::new("copy", rig.members().len(), rig.block_size_bytes());
    for (index, path) in rig.members().iter().enumerate() {
        match superblock(path).own_role() {
            Role::Active(slot) if left_out.contains(&slot) => {}
            _ => {
                let to = copy.member(index);
                let mut command = std::process::Command::new("cp");
                let status = command.arg("--sparse=always").arg(path).arg(&to).status().unwrap();
                assert!(status.success());
            }
        }
    }
    assert!(fs::read_dir(&copy.dir.0).unwrap().count() > 0);
    copy
}

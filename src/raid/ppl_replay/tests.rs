//! Against arrays whose every sector is known: writes are cut off at any point.

use super::*;
use crate::md::{
    Level, LevelCreation, NewArray, NewLevel, NewLog, NewMember, PplWriter, Superblock, Timestamp,
    assemble, create_level,
};
use crate::raid::tests::rng::Rng;

const CHUNK: u64 = 8;
const ROWS: u64 = 16;
const LOG_SECTORS: u16 = 128;

/// Members in memory, some of them missing, and what is on record of their writes.
struct Disks {
    bytes: Vec<Vec<u8>>,
    written: u64,
    fails: bool,
}

impl PplMembers for Disks {
    fn read(&mut self, at: usize, sector: u64, sectors: u64) -> Result<Vec<u8>, String> {
        let (from, to) = (index(sector) * 512, index(sector + sectors) * 512);
        self.bytes[at].get(from..to).map(<[u8]>::to_vec).ok_or_else(|| "beyond the end".to_owned())
    }

    fn write(&mut self, at: usize, sector: u64, bytes: &[u8]) -> Result<(), String> {
        if self.fails {
            return Err("no space for it".to_owned());
        }
        self.written += 1;
        self.bytes[at][index(sector) * 512..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

struct Scene {
    rng: Rng,
    members: usize,
    own: Vec<Superblock>,
    disks: Disks,
    parity: Parity,
    /// What the host may find: by sector of the array, old and new.
    may_hold: Vec<Vec<u8>>,
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

fn xor(into: &mut [u8], from: &[u8]) {
    into.iter_mut().zip(from).for_each(|(into, from)| *into ^= from);
}

impl Scene {
    fn new(seed: u64, members: usize) -> Self {
        let mut rng = Rng(seed);
        let member = |tag| NewMember {
            device_sectors: 8192,
            logical_block_size: 512,
            device_uuid: [tag; 16],
        };
        let array = NewArray {
            name: "r".to_owned(),
            set_uuid: [9; 16],
            ctime: Timestamp::from_unix(1, 0),
            assume_clean: true,
            members: (1..).take(members).map(member).collect(),
        };
        let new = NewLevel {
            strip_bytes: CHUNK * 512,
            log: NewLog::None,
            layout: [0, 1, 2, 3, 4, 5][rng.below(6)],
            ..NewLevel::new(Level::Raid5)
        };
        let LevelCreation::Plain { mut superblocks } = create_level(&array, &new).unwrap() else {
            unreachable!()
        };
        for own in &mut superblocks {
            own.features |= Features::MULTIPLE_PPLS;
            own.bitmap_offset_sectors = 8 | i32::from(LOG_SECTORS) << 16;
            own.size_sectors = ROWS * CHUNK;
            own.resync_offset_sectors = 0;
        }
        let shape = Shape {
            level: 5,
            layout: superblocks[0].layout,
            raid_disks: u32::try_from(members).unwrap(),
            chunk_sectors: u32::try_from(CHUNK).unwrap(),
            size_sectors: ROWS * CHUNK,
            member_sectors: &[],
            block_size_bytes: 512,
        };
        let Geometry::Parity(parity) = Geometry::new(&shape).unwrap() else { unreachable!() };
        let bytes = vec![vec![0; 8192 * 512]; members];
        let disks = Disks { bytes, written: 0, fails: false };
        let mut scene =
            Self { rng, members, own: superblocks, disks, parity, may_hold: Vec::new() };
        scene.fill();
        (0..members).for_each(|slot| scene.put_log(slot, &[], 1));
        scene
    }

    fn sector(&mut self) -> Vec<u8> {
        let word = self.rng.next();
        word.to_le_bytes().repeat(64)
    }

    fn at(&self, slot: u8, member_lba: u64) -> std::ops::Range<usize> {
        let data = self.own[usize::from(slot)].data_offset_sectors;
        let from = index(data + member_lba) * 512;
        from..from + 512
    }

    fn fill(&mut self) {
        for lba in 0..self.parity.blocks() {
            let bytes = self.sector();
            let strip = self.parity.strip(lba);
            let at = self.at(strip.slot, strip.member_lba);
            self.disks.bytes[usize::from(strip.slot)][at].copy_from_slice(&bytes);
            self.may_hold.push(bytes);
        }
        for row in 0..ROWS {
            for column in row * CHUNK..(row + 1) * CHUNK {
                let p = self.parity.row(row).p();
                let sum = self.sum(row, column, None);
                let at = self.at(p, column);
                self.disks.bytes[usize::from(p)][at].copy_from_slice(&sum);
            }
        }
    }

    /// XOR of all members' sectors of a column but P's, or but one's.
    fn sum(&self, row: u64, column: u64, without: Option<u8>) -> Vec<u8> {
        let without = without.unwrap_or_else(|| self.parity.row(row).p());
        let mut sum = vec![0; 512];
        for slot in (0..self.parity.slots()).filter(|&slot| slot != without) {
            xor(&mut sum, &self.disks.bytes[usize::from(slot)][self.at(slot, column)]);
        }
        sum
    }

    fn put_log(&mut self, slot: usize, entries: &[(PplEntry, Vec<u8>)], generation: u64) {
        let array = PplArray::new(&self.own[slot]).unwrap();
        let mut page = vec![0; PPL_HEADER_BYTES];
        let mut writer = PplWriter::new(&mut page, &array, generation).unwrap();
        assert!(entries.iter().all(|(entry, _)| writer.push(entry)));
        writer.finish();
        entries.iter().for_each(|(_, partial)| page.extend_from_slice(partial));
        self.disks.bytes[slot][16 * 512..][..page.len()].copy_from_slice(&page);
    }

    /// A write to some strips of a row as Linux does it, cut off at some point. Returns its entry.
    /// What the host may find then is noted; sectors that share a column are returned too.
    fn cut_write(&mut self, row: u64) -> (PplEntry, Vec<u8>, Vec<u64>) {
        let data = u64::from(self.parity.data_members());
        let first_strip = self.rng.next() % data;
        let strips = 1 + self.rng.next() % (data - first_strip);
        let offset = self.rng.next() % CHUNK;
        let count = 1 + self.rng.next() % (CHUNK - offset);
        let p = self.parity.row(row).p();
        let is_full = strips == data;
        let mut partial = Vec::new();
        let mut together = Vec::new();
        for column in offset..offset + count {
            let lba = |index: u64| (row * data + index) * CHUNK + column;
            let written = first_strip..first_strip + strips;
            let mut sum = vec![0; 512];
            for index in (0..data).filter(|index| !written.contains(index)) {
                xor(&mut sum, &self.may_hold[self::index(lba(index))]);
            }
            let mut parity = sum.clone();
            for index in written {
                let strip = self.parity.strip(lba(index));
                let new = self.sector();
                xor(&mut parity, &new);
                if strips > 1 {
                    together.push(lba(index));
                }
                if self.rng.one_in(2) {
                    let at = self.at(strip.slot, strip.member_lba);
                    self.disks.bytes[usize::from(strip.slot)][at].copy_from_slice(&new);
                }
                self.may_hold[self::index(lba(index))].extend_from_slice(&new);
            }
            if self.rng.one_in(2) {
                let at = self.at(p, row * CHUNK + column);
                self.disks.bytes[usize::from(p)][at].copy_from_slice(&parity);
            }
            if !is_full {
                partial.extend_from_slice(&sum);
            }
        }
        let entry = PplEntry {
            data_sector: (row * data + first_strip) * CHUNK + offset,
            parity_bytes: u32::try_from(partial.len()).unwrap(),
            data_bytes: u32::try_from(strips * count * 512).unwrap(),
            parity_slot: p.into(),
            checksum: ppl_checksum(&partial),
        };
        (entry, partial, together)
    }

    /// Writes to several rows are cut off. Sectors that were being written beside others.
    fn cut(&mut self) -> Vec<u64> {
        let mut together = Vec::new();
        let mut logs: Vec<Vec<(PplEntry, Vec<u8>)>> = vec![Vec::new(); self.members];
        for row in 0..ROWS {
            if self.rng.one_in(3) {
                continue;
            }
            let (entry, partial, beside) = self.cut_write(row);
            logs[index(entry.parity_slot.into())].push((entry, partial));
            together.extend(beside);
        }
        for (slot, entries) in logs.iter().enumerate() {
            self.put_log(slot, entries, 7);
        }
        together
    }

    fn replay(&mut self, missing: Option<usize>) -> Result<PplReplay, String> {
        let here: Vec<usize> = (0..self.members).filter(|&slot| Some(slot) != missing).collect();
        let candidate = |&slot: &usize| Candidate {
            device_sectors: 8192,
            superblock: self.own[slot].clone(),
            bitmap: None,
        };
        let candidates: Vec<Candidate> = here.iter().map(candidate).collect();
        let assembly = assemble(&candidates).unwrap();
        assert!(has_ppl(&assembly, &candidates));
        let mut bytes = std::mem::take(&mut self.disks.bytes);
        let lost = missing.map(|slot| bytes.remove(slot));
        let mut disks = Disks { bytes, ..self.disks };
        let done = replay_ppl(&assembly, &candidates, &mut disks);
        self.disks = disks;
        if let (Some(slot), Some(lost)) = (missing, lost) {
            self.disks.bytes.insert(slot, lost);
        }
        done
    }

    /// Every sector is old or new, computed from the others where its member is missing; but those.
    fn check(&self, missing: Option<usize>, but: &[u64]) {
        for lba in 0..self.parity.blocks() {
            let strip = self.parity.strip(lba);
            let found = if Some(usize::from(strip.slot)) == missing {
                if but.contains(&lba) {
                    continue;
                }
                self.sum(strip.row, strip.member_lba, Some(strip.slot))
            } else {
                self.disks.bytes[usize::from(strip.slot)][self.at(strip.slot, strip.member_lba)]
                    .to_vec()
            };
            let mut may_hold = self.may_hold[index(lba)].chunks(512);
            assert!(may_hold.any(|bytes| bytes == found), "sector {lba} without {missing:?}");
        }
    }

    fn check_parity(&self) {
        for row in 0..ROWS {
            for column in row * CHUNK..(row + 1) * CHUNK {
                let p = self.parity.row(row).p();
                let found = &self.disks.bytes[usize::from(p)][self.at(p, column)];
                assert!(found == self.sum(row, column, None), "P of sector {column}");
            }
        }
    }
}

#[test]
fn what_a_missing_member_held_is_recovered() {
    let (mut entries, mut lost) = (0, 0);
    for seed in 0..100 {
        let mut scene = Scene::new(seed, 3 + index(seed % 3));
        let together = scene.cut();
        let missing = scene.rng.below(scene.members);
        let done = scene.replay(Some(missing)).unwrap();
        assert!(done.void.is_empty() && done.torn == 0);
        let told: Vec<u64> = done.lost.iter().cloned().flatten().collect();
        assert!(told.iter().all(|sector| together.contains(sector)), "seed {seed}: {done:?}");
        scene.check(Some(missing), &told);
        entries += done.entries;
        lost += told.len();
        // Twice changes nothing.
        let before = scene.disks.bytes.clone();
        assert_eq!(scene.replay(Some(missing)).unwrap(), done);
        assert!(scene.disks.bytes == before);
    }
    assert!(entries > 300 && lost > 60, "{entries} entries, {lost} sectors lost");
}

#[test]
fn parity_of_a_whole_array_fits() {
    for seed in 0..100 {
        let mut scene = Scene::new(seed, 3 + index(seed % 3));
        scene.cut();
        let done = scene.replay(None).unwrap();
        assert!(done.lost.is_empty() && done.entries > 0);
        scene.check(None, &[]);
        scene.check_parity();
    }
}

/// Cut off in the midst of a replay, which then begins anew.
#[test]
fn a_replay_that_was_cut_off_begins_anew() {
    for seed in 0..16 {
        let mut scene = Scene::new(seed, 4);
        scene.cut();
        let before = scene.disks.bytes.clone();
        scene.replay(None).unwrap();
        let after = std::mem::replace(&mut scene.disks.bytes, before);
        for slot in (0..4).filter(|slot| seed >> slot & 1 == 1) {
            scene.disks.bytes[slot].clone_from(&after[slot]);
        }
        scene.replay(None).unwrap();
        scene.check_parity();
        assert!(scene.disks.bytes == after);
    }
}

#[test]
fn torn_and_damaged_logs_are_told() {
    let mut scene = Scene::new(3, 4);
    // Nothing of the row had been written: its partial parity never was durable.
    let p = scene.parity.row(0).p();
    let entry = PplEntry {
        data_sector: 0,
        parity_bytes: 512,
        data_bytes: 512,
        parity_slot: p.into(),
        checksum: 1,
    };
    scene.put_log(usize::from(p), &[(entry, vec![7; 512])], 2);
    let done = scene.replay(None).unwrap();
    assert_eq!((done.torn, done.entries, done.parity_sectors), (1, 0, 0));
    scene.check_parity();
    // An entry about another member's rows, and a log that is none.
    let other = usize::from(p) ^ 1;
    scene.put_log(other, &[(entry, vec![7; 512])], 2);
    scene.disks.bytes[other ^ 2][16 * 512..17 * 512].fill(0);
    let done = scene.replay(None).unwrap();
    let void: Vec<usize> = done.void.iter().map(|(slot, _)| usize::from(*slot)).collect();
    assert!(void.contains(&other) && void.contains(&(other ^ 2)) && void.len() == 2, "{done:?}");
    assert!(done.void.iter().any(|(_, why)| why.contains("another member")), "{done:?}");
    scene.check_parity();
    // What can't be written is an error, and nothing is said to be done.
    scene.cut();
    scene.disks.fails = true;
    assert_eq!(scene.replay(None).unwrap_err(), "no space for it");
}

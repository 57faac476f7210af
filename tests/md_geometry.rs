//! Arrays that Linux 7.2 and mdadm 4.6 made, read through mdof's geometry: whatever the level, the
//! known pattern is where the mapping says, P and Q of its rows are what `parity` computes, and
//! what is lost comes back from them.
//!
//! The images are in `../shared/ondisk/images` (or `$MDOF_SHARED`); where the folder does not exist
//! this says so and does nothing. What cannot be read from an image is listed as LEFT OUT.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "all of this is a test")]

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;

use mdof::md::{
    Features, Level, MAX_SECTOR, PPL_HEADER_BYTES, PplArray, PplPlace, PplSearch, Role, Superblock,
    ppl_checksum,
};
use mdof::parity::Kernels;
use mdof::raid::geometry::{Geometry, Parity, Part, Shape};
use serde_json::Value;

#[path = "support/md_images.rs"]
#[allow(dead_code, reason = "several tests share it and use parts of it")]
mod support;

use support::{Member, images, with_members};

/// Rows of an image whose parity is computed, spread over those that were written.
const ROWS_MAX: usize = 24;

/// `[first sector, sectors, tag]`: sector s of the array is 32 times LE64(s) and the tag.
struct Written {
    sectors: Range<u64>,
    tag: [u8; 8],
}

impl Written {
    fn all(expect: &Value) -> Vec<Written> {
        let written = expect["expect"].as_array().unwrap().iter().map(|entry| {
            let first = entry[0].as_u64().unwrap();
            Written {
                sectors: first..first + entry[1].as_u64().unwrap(),
                tag: entry[2].as_str().unwrap().as_bytes().try_into().unwrap(),
            }
        });
        written.collect()
    }
}

/// What these sectors of the array must be; `None` where nothing is known.
fn pattern(written: &[Written], sector: u64) -> Option<Vec<u8>> {
    let of = written.iter().find(|written| written.sectors.contains(&sector))?;
    Some([&sector.to_le_bytes()[..], &of.tag].concat().repeat(32))
}

fn check_pattern(written: &[Written], first_sector: u64, bytes: &[u8], what: &str) -> u64 {
    let mut known = 0;
    for (sector, bytes) in (first_sector..).zip(bytes.chunks(512)) {
        if let Some(pattern) = pattern(written, sector) {
            assert!(
                bytes == pattern,
                "{what}: sector {sector} of the array is {:x?}",
                &bytes[..16]
            );
            known += 1;
        }
    }
    known
}

/// An array of the members that are in sync.
struct Array<'a> {
    name: &'a str,
    geometry: Geometry,
    block_bytes: u64,
    /// By slot: the member, and the first byte of its data.
    members: Vec<Option<(&'a Member, u64)>>,
}

impl<'a> Array<'a> {
    /// As the freshest superblock describes it, or why not.
    fn new(name: &'a str, images: &'a [Member]) -> Result<Array<'a>, String> {
        let all: Vec<(&Member, Superblock)> =
            images.iter().filter_map(|image| Some((image, image.superblock()?.0))).collect();
        let freshest = all.iter().map(|(_, superblock)| superblock).max_by_key(|s| s.events);
        let freshest = freshest.ok_or("no superblock of version 1")?;
        let unread = Features::RESHAPE_ACTIVE | Features::JOURNAL;
        if freshest.features.intersects(unread) {
            return Err(format!("features {}", freshest.features.names()));
        }
        let slots = usize::try_from(freshest.raid_disks).unwrap();
        let mut members = vec![None; slots];
        let mut member_sectors = vec![0; slots];
        for (image, superblock) in &all {
            let is_partial = superblock.features.contains(Features::RECOVERY_OFFSET)
                && superblock.recovery_offset_sectors != MAX_SECTOR;
            let Role::Active(slot) = freshest.role_of(superblock.dev_number) else { continue };
            if is_partial || superblock.features.contains(Features::REPLACEMENT) {
                continue;
            }
            let slot = usize::from(slot);
            members[slot] = Some((*image, superblock.data_offset_sectors * 512));
            member_sectors[slot] = superblock.data_size_sectors;
        }
        let has_layout =
            freshest.level != Level::Raid0 || freshest.features.contains(Features::RAID0_LAYOUT);
        let block_size_bytes = freshest.logical_block_size.max(512);
        let shape = Shape {
            level: freshest.level.number(),
            layout: if has_layout { freshest.layout } else { 0 },
            raid_disks: freshest.raid_disks,
            chunk_sectors: freshest.chunk_sectors,
            size_sectors: freshest.size_sectors,
            member_sectors: &member_sectors,
            block_size_bytes,
        };
        let geometry = Geometry::new(&shape).map_err(|error| error.to_string())?;
        let in_sync = (0..slots).filter(|&slot| members[slot].is_some());
        let in_sync = in_sync.fold(0, |mask, slot| mask | 1 << slot);
        if !geometry.is_readable(in_sync) {
            return Err(format!("only the slots {in_sync:#b} are there and in sync"));
        }
        Ok(Array { name, geometry, block_bytes: block_size_bytes.into(), members })
    }

    fn read(&self, slot: u8, member_lba: u64, blocks: u64) -> Option<Vec<u8>> {
        let (member, data) = self.members[usize::from(slot)]?;
        let length = usize::try_from(blocks * self.block_bytes).unwrap();
        Some(member.read(data + member_lba * self.block_bytes, length))
    }

    fn blocks(&self, written: &Written) -> Range<u64> {
        let sectors = self.block_bytes / 512;
        let Range { start, end } = written.sectors.clone();
        assert!(start.is_multiple_of(sectors) && end.is_multiple_of(sectors));
        start / sectors..end / sectors
    }

    /// Reads what was written from every copy that is there. Sectors that were compared.
    fn check_data(&self, written: &[Written]) -> u64 {
        let mut known = 0;
        for range in written.iter().map(|written| self.blocks(written)) {
            let mut lba = range.start;
            while lba < range.end {
                let (blocks, places): (u64, Vec<(u8, u64)>) = match &self.geometry {
                    Geometry::Copies(copies) => {
                        let legs = copies.legs(lba);
                        (legs.blocks, legs.map(|leg| (leg.slot, leg.member_lba)).collect())
                    }
                    Geometry::Parity(parity) => {
                        let strip = parity.strip(lba);
                        (strip.blocks, vec![(strip.slot, strip.member_lba)])
                    }
                };
                let blocks = blocks.min(range.end - lba).min(256);
                for (slot, member_lba) in places {
                    let Some(bytes) = self.read(slot, member_lba, blocks) else { continue };
                    let what = format!("{} slot {slot} block {member_lba}", self.name);
                    known += check_pattern(written, lba * self.block_bytes / 512, &bytes, &what);
                }
                lba += blocks;
            }
        }
        known
    }

    /// Computes the parity of rows that were written, and what is lost from what is left: of all
    /// members that are there each alone, with Q also every two. Rows, and losses made good.
    fn check_parity(&self, parity: &Parity, written: &[Written]) -> (usize, usize) {
        let strips = written.iter().map(|written| self.blocks(written));
        let rows: BTreeSet<u64> = strips
            .flat_map(|range| parity.strip(range.start).row..=parity.strip(range.end - 1).row)
            .collect();
        let step = rows.len().div_ceil(ROWS_MAX).max(1);
        let mut recovered = 0;
        for &row in rows.iter().step_by(step) {
            recovered += self.check_row(parity, row, written);
        }
        (rows.iter().step_by(step).count(), recovered)
    }

    fn check_row(&self, parity: &Parity, row: u64, written: &[Written]) -> usize {
        let kernels = Kernels::detect();
        let who = parity.row(row);
        let what = format!("{} row {row}", self.name);
        let strip = parity.strip_blocks();
        let member = |slot| self.read(slot, row * strip, strip);
        // In the order that Q counts in, then P and Q.
        let data = usize::from(parity.data_members());
        let all = data + usize::from(parity.parity_members());
        let (mut strips, mut lbas) = (vec![None; all], vec![None; all]);
        for index in 0..parity.data_members() {
            let at = usize::from(if all == data + 2 { who.power(index) } else { index });
            assert_eq!(who.part(who.data_slot(index)), Part::Data { index });
            strips[at] = member(who.data_slot(index));
            lbas[at] = Some(parity.array_lba(row, index, 0));
        }
        strips[data] = member(who.p());
        if let Some(q) = who.q() {
            strips[data + 1] = member(q);
        }
        let lost: Vec<usize> = (0..all).filter(|&at| strips[at].is_none()).collect();
        let mut recovered = 0;
        for (one, other) in (0..all).flat_map(|one| (one..all).map(move |other| (one, other))) {
            let mut gone: BTreeSet<usize> = lost.iter().copied().collect();
            gone.extend([one, other]);
            if gone.len() > all - data {
                continue;
            }
            let left = |at: usize| strips[at].as_deref().filter(|_| !gone.contains(&at));
            let survivors: Vec<Option<&[u8]>> = (0..data).map(left).collect();
            let length = strips.iter().flatten().next().unwrap().len();
            let mut out = vec![vec![0; length]; gone.len()];
            let mut slices: Vec<&mut [u8]> = out.iter_mut().map(Vec::as_mut_slice).collect();
            let q = if all == data + 2 { left(data + 1) } else { None };
            // A level without Q asks for none.
            if all == data + 1 {
                let list: Vec<&[u8]> = (0..all).filter_map(left).collect();
                kernels.xor(slices[0], &list);
            } else {
                kernels.recover(&survivors, left(data), q, &mut slices).unwrap();
            }
            for (&at, bytes) in gone.iter().zip(&out) {
                if let Some(there) = &strips[at] {
                    assert!(there == bytes, "{what}: strip {at} of {all} without {gone:?}");
                }
                if let Some(lba) = lbas[at] {
                    check_pattern(written, lba * self.block_bytes / 512, bytes, &what);
                }
                recovered += 1;
            }
        }
        recovered
    }
}

/// What a log says of the rows that were being written last: their P is the XOR of its partial
/// parity and of the data, here because the image's power was cut after all had been written.
fn check_log(array: &Array<'_>, slot: u8, written: &[Written]) -> u64 {
    let Geometry::Parity(parity) = &array.geometry else { panic!("no parity level") };
    let (member, data) = array.members[usize::from(slot)].unwrap();
    let superblock = member.superblock().unwrap().0;
    let place = PplPlace::of(&superblock).unwrap().expect("a log");
    let of = PplArray::new(&superblock).unwrap();
    let mut search = PplSearch::new(place, of);
    while let Some(sector) = search.next_sector() {
        search.take(&member.read(sector * 512, PPL_HEADER_BYTES));
    }
    let (at, header) = search.finish().unwrap();
    let mut checked = 0;
    for (entry, offset) in header.entries.iter().zip(header.parity_offsets()) {
        assert_eq!(entry.parity_slot, u32::from(slot), "a log is on the member with P");
        let length = usize::try_from(entry.parity_bytes).unwrap();
        let partial = member.read((at + offset) * 512, length);
        assert_eq!(ppl_checksum(&partial), entry.checksum);
        let span = entry.span(&of).unwrap();
        for index in 0..span.parity_sectors {
            let from = usize::try_from(index).unwrap() * 512;
            let mut sum = match partial.get(from..from + 512) {
                Some(partial) => partial.to_vec(),
                None => vec![0; 512],
            };
            for sector in span.written_at(index) {
                let strip = parity.strip(sector);
                let bytes = array.read(strip.slot, strip.member_lba, 1).unwrap();
                check_pattern(written, sector, &bytes, array.name);
                sum.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum ^= byte);
                assert_eq!(parity.row(strip.row).p(), slot);
            }
            let in_strip = parity.strip(span.first_sector + u64::from(index));
            let p = member.read(data + in_strip.member_lba * 512, 512);
            assert!(p == sum, "slot {slot}: P at {in_strip:?} is not what the log says");
            checked += 1;
        }
    }
    eprintln!("{}: log of slot {slot}: generation {}, {checked} sectors of P", array.name, {
        header.generation
    });
    checked
}

#[test]
fn the_partial_parity_log_of_linux_gives_the_parity_on_disk() {
    let Some(images) = images() else { return };
    let name = "feat-raid5-ppl-cut";
    let expect = fs::read_to_string(images.join("expect.json")).unwrap();
    let expect: Value = serde_json::from_str(&expect).unwrap();
    let written = Written::all(&expect[name]);
    let checked = with_members(&images, name, |members| {
        let array = Array::new(name, members).unwrap();
        (0..3).map(|slot| check_log(&array, slot, &written)).sum::<u64>()
    });
    assert!(checked > 8, "{checked} sectors");
}

#[test]
fn every_image_holds_its_pattern_where_the_geometry_says() {
    let Some(images) = images() else { return };
    let expect = fs::read_to_string(images.join("expect.json")).unwrap();
    let expect: Value = serde_json::from_str(&expect).unwrap();
    let mut levels = BTreeSet::new();
    let (mut read, mut left_out, mut rows_checked) = (0, 0, 0);
    for (name, expect) in expect.as_object().unwrap() {
        let written = Written::all(expect);
        if written.is_empty() {
            continue;
        }
        with_members(&images, name, |members| match Array::new(name, members) {
            Err(why) => {
                eprintln!("LEFT OUT: {name}: {why}");
                left_out += 1;
            }
            Ok(array) => {
                let sectors = array.check_data(&written);
                let (rows, recovered) = match &array.geometry {
                    Geometry::Parity(parity) => array.check_parity(parity, &written),
                    Geometry::Copies(_) => (0, 0),
                };
                eprintln!("{name}: {sectors} sectors, {rows} rows, {recovered} strips recovered");
                read += 1;
                rows_checked += rows;
                levels.insert(members[0].superblock().unwrap().0.level.number());
            }
        });
    }
    assert_eq!(Vec::from_iter(levels), [0, 1, 4, 5, 6, 10], "a level has no image");
    assert!(read > 50 && rows_checked > 400, "{read} images, {rows_checked} rows");
    assert!(left_out < 5, "{left_out} images left out");
}

//! The rows of the table in `raid::assembly`, one by one: what becomes of a bitmap that is stale,
//! missing, torn or another array's.

use std::path::{Path, PathBuf};

use ::mdof::md::{BITMAP_HEAD_BYTES, BitmapSuperblock};

use crate::images::{agree_everywhere, expect, images};
use crate::rig::{Rig, superblock};

/// 4080 chunks, all Clean, stopped cleanly; see `expect.json`.
const CLEAN: &str = "raid1-assume";
/// 1026 chunks Clean, the others Unwritten, over noise.
const MIXED: &str = "raid1-daemonstop";
const BITMAP_BYTE: u64 = 16 * 512;
const STATES_BYTE: u64 = BITMAP_BYTE + BITMAP_HEAD_BYTES as u64;

fn states(rig: &Rig, member: usize) -> Vec<u8> {
    let bytes = std::fs::read(rig.member(member)).unwrap();
    let own = superblock(&rig.member(member));
    let at = usize::try_from(BITMAP_BYTE).unwrap();
    let head = BitmapSuperblock::parse(&bytes[at..at + BITMAP_HEAD_BYTES], &own).unwrap();
    assert_eq!(head.events, own.events, "the head is of the last update");
    bytes[at + BITMAP_HEAD_BYTES..][..usize::try_from(head.chunk_count()).unwrap()].to_vec()
}

/// Starts what was prepared: counts at the start, the data, the log; afterwards both members
/// have one bitmap, and the next start finds nothing in doubt.
fn outcome(images: &Path, name: &str, rig: &Rig, counts: [u64; 3], log: &str) {
    let array = rig.start();
    assert_eq!(array.counts(), counts, "{log}");
    let mut host = array.host();
    host.verify(&expect(images, name));
    array.wait_for_resync();
    host.verify(&expect(images, name));
    drop(host);
    let text = array.stop();
    assert!(text.contains(log), "{log} is not in\n{text}");
    assert!(states(rig, 0) == states(rig, 1), "the members' bitmaps differ after: {log}");
    let array = rig.start();
    assert_eq!(array.in_doubt(), 0);
    array.host().verify(&expect(images, name));
    array.stop();
}

fn prepared(images: &Option<PathBuf>, name: &str) -> Option<(PathBuf, Rig)> {
    let images = images.clone()?;
    let rig = Rig::unpack(&images, name, 512);
    Some((images, rig))
}

#[test]
fn copies_that_differ_are_believed_where_they_doubt() {
    let Some((images, rig)) = prepared(&images(), CLEAN) else { return };
    rig.poke(1, STATES_BYTE + 5, &[3]);
    rig.poke(0, STATES_BYTE + 700, &[2]);
    outcome(&images, CLEAN, &rig, [0, 4078, 2], "2 chunks");
    agree_everywhere(&rig, 520_000);
}

#[test]
fn a_torn_unit_is_in_doubt() {
    let Some((images, rig)) = prepared(&images(), CLEAN) else { return };
    for member in 0..2 {
        rig.poke(member, STATES_BYTE + 512, &[0xa5; 512]);
    }
    outcome(&images, CLEAN, &rig, [0, 4080 - 512, 512], "512 chunks");
}

#[test]
fn one_stale_copy_is_passed_over() {
    let Some((images, rig)) = prepared(&images(), CLEAN) else { return };
    let events = superblock(&rig.member(0)).events;
    rig.poke(0, BITMAP_BYTE + 24, &(events - 1).to_le_bytes());
    outcome(&images, CLEAN, &rig, [0, 4080, 0], "bdev m0 is older");
}

#[test]
fn without_a_current_copy_all_that_was_written_is_resynced() {
    for (name, counts) in [(CLEAN, [0, 0, 4080]), (MIXED, [3054, 0, 1026])] {
        let Some((images, rig)) = prepared(&images(), name) else { return };
        for member in 0..2 {
            let events = superblock(&rig.member(member)).events;
            rig.poke(member, BITMAP_BYTE + 24, &(events - 1).to_le_bytes());
        }
        outcome(&images, name, &rig, counts, "no member has a bitmap as new as its superblocks");
    }
}

/// What is wrong with a head, and what is said of it.
const BROKEN: [(u64, &[u8], &str); 5] = [
    (0, &[0; 1024], "no bitmap superblock (magic 0x00000000"),
    (4, &[9], "version 9 (unknown)"),
    (8, &[0x11; 16], "belongs to array 11111111:11111111"),
    (40, &[1], "covers"),
    (52, &[3], "not a power of two"),
];

#[test]
fn one_broken_or_foreign_copy_is_replaced_by_the_other() {
    for (member, (offset, bytes, text)) in BROKEN.into_iter().enumerate() {
        let Some((images, rig)) = prepared(&images(), MIXED) else { return };
        rig.poke(member % 2, BITMAP_BYTE + offset, bytes);
        // Its states are nothing to go by either.
        rig.poke(member % 2, STATES_BYTE, &[0; 2048]);
        outcome(&images, MIXED, &rig, [3054, 1026, 0], text);
    }
}

#[test]
fn a_copy_of_another_chunk_size_is_replaced() {
    let Some((images, rig)) = prepared(&images(), MIXED) else { return };
    rig.poke(1, BITMAP_BYTE + 52, &512u32.to_le_bytes());
    rig.poke(1, STATES_BYTE, &[0; 2048]);
    // Which of two current ones is right cannot be told.
    let refusal = rig.refused();
    assert!(refusal.contains("its chunk size is not that of member 0"), "{refusal}");
    rig.poke(1, BITMAP_BYTE + 24, &1u64.to_le_bytes());
    outcome(&images, MIXED, &rig, [3054, 1026, 0], "counts in other chunks");
}

#[test]
fn without_any_usable_copy_the_operator_decides() {
    for (offset, bytes, text) in BROKEN {
        let Some((images, mut rig)) = prepared(&images(), MIXED) else { return };
        for member in 0..2 {
            rig.poke(member, BITMAP_BYTE + offset, bytes);
        }
        let refusal = rig.refused();
        assert!(refusal.contains(text) && refusal.contains("bitmap_lost"), "{refusal}");
        rig.keys = "bitmap_lost = \"resync\"".to_owned();
        outcome(&images, MIXED, &rig, [0, 0, 4080], "its bitmap is lost and a new one is made");
        agree_everywhere(&rig, 522_240);
    }
}

//! Arrays made by mdadm and the kernel, taken over by mdof.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::rig::{Pattern, Rig, records, shared, superblock};

pub(crate) fn images() -> Option<std::path::PathBuf> {
    shared("ondisk/images", "arrays of the kernel were not taken over")
}

/// What the assembled array must read.
pub(crate) fn expect(images: &Path, name: &str) -> Vec<Pattern> {
    let text = fs::read_to_string(images.join("expect.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let ranges = all[name]["expect"].as_array().unwrap();
    let pattern = |range: &Value| {
        let tag = range[2].as_str().unwrap().to_owned();
        (range[0].as_u64().unwrap(), range[1].as_u64().unwrap(), tag)
    };
    ranges.iter().map(pattern).collect()
}

/// Chunks Unwritten, Clean and in doubt as the kernel loaded them.
fn loaded(images: &Path, name: &str) -> [u64; 3] {
    let text = fs::read_to_string(images.join(format!("{name}.txt"))).unwrap();
    let (_, view) = text.split_once("-- as loaded").unwrap();
    let bits = view.lines().find_map(|line| line.strip_prefix("bits: ")).unwrap();
    let count = |name: &str| -> u64 {
        let found = bits.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix(' '));
        found.and_then(|number| number.parse().ok()).unwrap()
    };
    [count("unwritten"), count("clean"), count("need sync")]
}

/// The members agree on every pattern.
pub(crate) fn assert_members_agree(rig: &Rig, members: &[usize], patterns: &[Pattern]) {
    for (first, sectors, tag) in patterns {
        for &member in members {
            let wanted = records(*first, *sectors, tag);
            assert!(rig.data(member, *first, *sectors) == wanted, "member {member} at {first}");
        }
    }
}

pub(crate) fn agree_everywhere(rig: &Rig, sectors: u64) {
    assert!(rig.data(0, 0, sectors) == rig.data(1, 0, sectors), "the members differ");
}

#[test]
fn lockless_arrays_keep_data_and_doubts() {
    let Some(images) = images() else { return };
    for name in ["raid1-assume", "raid1-dirtycut", "raid1-daemonstop", "raid1-discard"]
        .into_iter()
        .chain(["feat-raid1-writemostly", "raid1-fresh"])
    {
        println!("{name}");
        let rig = Rig::unpack(&images, name, 512);
        let patterns = expect(&images, name);
        let array = rig.start();
        assert_eq!(array.counts(), loaded(&images, name), "{name}");
        let mut host = array.host();
        host.verify(&patterns);
        array.wait_for_resync();
        host.verify(&patterns);
        drop(host);
        array.stop();
        assert_members_agree(&rig, &[0, 1], &patterns);
        rig.examine(0..2);
        // And again, as mdof left it.
        let array = rig.start();
        assert_eq!(array.in_doubt(), 0, "{name} was stopped cleanly");
        array.host().verify(&patterns);
        array.stop();
    }
}

/// Defect 2 of the kernel's list: chunk 24 was discarded in part and is called Unwritten. A write
/// to another part of it must neither lose the data nor leave the members different.
#[test]
fn a_chunk_wrongly_called_unwritten_keeps_its_data() {
    let Some(images) = images() else { return };
    let rig = Rig::unpack(&images, "raid1-discard", 512);
    let array = rig.start();
    let mut host = array.host();
    host.write(3072, 8, "VMHGEN03");
    let patterns: Vec<Pattern> = vec![
        (0, 1024, "VMHGEN01".to_owned()),
        (3072, 8, "VMHGEN03".to_owned()),
        (3080, 1016, "VMHGEN01".to_owned()),
    ];
    host.verify(&patterns);
    array.wait_for_resync();
    drop(host);
    array.stop();
    let array = rig.start();
    array.host().verify(&patterns);
    array.stop();
    assert_members_agree(&rig, &[0, 1], &patterns);
}

/// A chunk that holds noise which differs between the members: its first write by mdof makes them
/// alike, and every read until then and after gives the same bytes.
#[test]
fn the_first_write_to_a_noisy_chunk_makes_the_members_alike() {
    let Some(images) = images() else { return };
    let rig = Rig::unpack(&images, "raid1-fresh", 512);
    assert!(rig.data(0, 0, 128) != rig.data(1, 0, 128), "the fixture holds noise");
    let array = rig.start();
    let mut host = array.host();
    let noise = host.read(0, 128);
    assert!((0..8).all(|_| host.read(0, 128) == noise), "reads differ");
    host.write(16, 8, "VMHGEN03");
    array.wait_for_resync();
    assert_eq!(array.counts(), [4079, 0, 1]);
    assert!(host.read(0, 16) == noise[..16 * 512], "the rest of the chunk changed");
    drop(host);
    array.stop();
    agree_everywhere(&rig, 128);
}

#[test]
fn without_bitmap_all_of_it_is_resynced_after_a_power_cut() {
    let Some(images) = images() else { return };
    for name in ["raid1-none-cut", "layout-raid1-meta10"] {
        println!("{name}");
        let rig = Rig::unpack(&images, name, 512);
        let patterns = expect(&images, name);
        // A difference that only a full resync finds.
        let far = superblock(&rig.member(1)).data_offset_sectors + 60_000;
        let cut = name == "raid1-none-cut";
        if cut {
            rig.poke(1, far * 512, &[7; 512]);
        }
        let array = rig.start();
        array.host().verify(&patterns);
        array.wait_for_resync();
        array.stop();
        assert_members_agree(&rig, &[0, 1], &patterns);
        agree_everywhere(&rig, 65_408);
        rig.examine(0..2);
    }
}

#[test]
fn a_stale_member_is_left_out() {
    let Some(images) = images() else { return };
    let rig = Rig::unpack(&images, "raid1-degraded", 512);
    let patterns = expect(&images, "raid1-degraded");
    let array = rig.start();
    let banner = &array.mdof.banner;
    assert!(banner.contains("WARNING: degraded, 1 of 2 members are in sync"), "{banner}");
    assert_eq!(array.counts(), [3054, 1020, 6], "what member 1 lacks is remembered");
    array.host().verify(&patterns);
    array.stop();
    let array = rig.start();
    assert_eq!(array.counts(), [3054, 1020, 6], "and still is after a stop");
    array.stop();
    assert_members_agree(&rig, &[0], &patterns);
    rig.examine(0..1);
}

#[test]
fn four_kib_blocks() {
    let Some(images) = images() else { return };
    let wrong = Rig::unpack(&images, "raid1-4kn-fresh", 512);
    let text = wrong.refused();
    assert!(text.contains("block_size_bytes = 4096"), "{text}");
    drop(wrong);
    let rig = Rig::unpack(&images, "raid1-4kn-fresh", 4096);
    let array = rig.start();
    assert_eq!(array.counts(), [4080, 0, 0]);
    let mut host = array.host();
    host.write(3072 * 128 + 8, 8, "VMHGEN03");
    host.write(64, 8, "VMHGEN03");
    drop(host);
    array.kill();
    let array = rig.start();
    let patterns = [(64, 8, "VMHGEN03".to_owned()), (3072 * 128 + 8, 8, "VMHGEN03".to_owned())];
    assert_eq!(array.counts(), [4078, 0, 2]);
    array.wait_for_resync();
    array.host().verify(&patterns);
    array.stop();
    assert_members_agree(&rig, &[0, 1], &patterns);
    rig.examine(0..2);
}

/// The kernel has written over the bitmap's head (defect 6): refused with what helps, and rescued
/// when the operator says so.
#[test]
fn a_destroyed_bitmap_is_refused_and_rescued_on_request() {
    let Some(images) = images() else { return };
    let mut rig = Rig::unpack(&images, "raid1-4kn-dirtycut", 4096);
    let text = rig.refused();
    assert!(text.contains("cannot be used on any member"), "{text}");
    assert!(text.contains("bitmap_lost = \"resync\""), "{text}");
    rig.keys = "bitmap_lost = \"resync\"".to_owned();
    let patterns = expect(&images, "raid1-4kn-dirtycut");
    let array = rig.start();
    assert_eq!(array.counts(), [0, 0, 4080]);
    array.host().verify(&patterns);
    array.wait_for_resync();
    array.stop();
    agree_everywhere(&rig, 520_192);
    rig.examine(0..2);
    // The key does no harm to a bitmap that is there.
    let array = rig.start();
    assert_eq!(array.counts(), [0, 4080, 0]);
    array.host().verify(&patterns);
    array.stop();
}

#[test]
fn what_mdof_does_not_run_is_refused_by_name() {
    let Some(images) = images() else { return };
    let rig = Rig::unpack(&images, "raid1-assume", 512);
    for member in 0..2 {
        // A feature bit that is not given out yet, in a superblock that is right otherwise.
        let bytes = fs::read(rig.member(member)).unwrap();
        let mut block = bytes[4096..4096 + 512].to_vec();
        block[10] |= 1;
        let word = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
        let sum: u64 =
            (0..512).step_by(4).filter(|&at| at != 216).map(|at| u64::from(word(at))).sum();
        let sum = u32::try_from((sum & 0xffff_ffff) + (sum >> 32)).unwrap();
        block[216..220].copy_from_slice(&sum.to_le_bytes());
        rig.poke(member, 4096, &block);
    }
    let text = rig.refused();
    assert!(text.contains("unknown to mdof (0x10000, besides BITMAP_OFFSET)"), "{text}");
}

//! Arrays of older kinds: superblocks 1.0 and 1.1, classic bitmaps, bad-block logs.

use std::fs::File;
use std::os::unix::fs::FileExt;

use ::mdof::md::{Features, Role};

use crate::images::{agree_everywhere, assert_members_agree, expect, images};
use crate::rig::{Pattern, Rig, Running, superblock};

const CONVERT: &str = "convert_bitmap = true";

/// Sets and clears bits of a member's classic bitmap.
fn put_classic_bits(rig: &Rig, member: usize, bits: &[u8]) {
    let sector = superblock(&rig.member(member)).bitmap_sector().unwrap();
    rig.poke(member, sector * 512 + 256, bits);
}

#[test]
fn a_classic_bitmap_is_named_and_converted_on_request() {
    let Some(images) = images() else { return };
    let mut rig = Rig::unpack(&images, "raid1-internal-dirtycut", 512);
    let patterns = expect(&images, "raid1-internal-dirtycut");
    let before = [superblock(&rig.member(0)), superblock(&rig.member(1))];
    let text = rig.refused();
    assert!(text.contains("classic bitmap") && text.contains("convert_bitmap = true"), "{text}");
    assert_eq!(before, [superblock(&rig.member(0)), superblock(&rig.member(1))]);
    rig.keys = CONVERT.to_owned();
    // All four bits of the fixture are set.
    let array = rig.start();
    assert_eq!(array.counts(), [0, 0, 4080]);
    array.host().verify(&patterns);
    array.wait_for_resync();
    array.stop();
    assert_members_agree(&rig, &[0, 1], &patterns);
    agree_everywhere(&rig, 522_240);
    rig.examine(0..2);
    rig.keys.clear();
    let array = rig.start();
    assert_eq!(array.counts(), [0, 4080, 0], "it is a lockless array now");
    array.host().verify(&patterns);
    array.stop();
}

/// 64 MiB a bit: the set one of either member is 1024 chunks in doubt, the others are believed.
#[test]
fn classic_bits_that_are_not_set_are_believed() {
    let Some(images) = images() else { return };
    let mut rig = Rig::unpack(&images, "raid1-internal-dirtycut", 512);
    rig.keys = CONVERT.to_owned();
    put_classic_bits(&rig, 0, &[0b0001]);
    put_classic_bits(&rig, 1, &[0b0100]);
    // Differences where a bit is set on one of them, and where none is.
    let data = superblock(&rig.member(1)).data_offset_sectors;
    let sector_of = |bit: u64| bit * 131_072 + 5000;
    for bit in 0..3 {
        rig.poke(1, (data + sector_of(bit)) * 512, &[0x5a; 512]);
    }
    let array = rig.start();
    assert_eq!(array.counts(), [0, 4080 - 2048, 2048]);
    array.host().verify(&expect(&images, "raid1-internal-dirtycut"));
    array.wait_for_resync();
    array.stop();
    for (bit, synced) in [(0, true), (1, false), (2, true)] {
        let same = rig.data(0, sector_of(bit), 1) == rig.data(1, sector_of(bit), 1);
        assert_eq!(same, synced, "chunk of bit {bit}");
    }
}

/// The conversion is stopped after the superblock of one member, and between bitmap and
/// superblocks: either way the next start finds an array with the same doubts.
#[test]
fn a_conversion_that_was_cut_short_is_finished() {
    let Some(images) = images() else { return };
    for switched in [0, 1] {
        let mut rig = Rig::unpack(&images, "raid1-internal-dirtycut", 512);
        let old = [superblock(&rig.member(0)), superblock(&rig.member(1))];
        for member in 0..2 {
            put_classic_bits(&rig, member, &[0b0001]);
        }
        rig.keys = CONVERT.to_owned();
        let mut done = Rig::unpack(&images, "raid1-internal-dirtycut", 512);
        done.keys.clone_from(&rig.keys);
        for member in 0..2 {
            put_classic_bits(&done, member, &[0b0001]);
        }
        // What the conversion writes, from an array that went all the way and was killed: 1 MiB
        // up to the data. Then the superblocks that were not reached are the old ones.
        done.start().kill();
        for member in 0..2 {
            let mut head = vec![0; 1 << 20];
            File::open(done.member(member)).unwrap().read_exact_at(&mut head, 0).unwrap();
            let lockless = 16 * 512 + 24 * 512 - 8 * 512;
            rig.poke(member, lockless, &head[usize::try_from(lockless).unwrap()..]);
        }
        if switched == 1 {
            let mut new = old[0].clone();
            new.bitmap_offset_sectors = superblock(&done.member(0)).bitmap_offset_sectors;
            new.events += 1;
            new.updated_at(new.utime.seconds(), true);
            rig.put_superblock(0, &new);
            // Its head carries the events of that superblock.
            rig.poke(0, new.bitmap_sector().unwrap() * 512 + 24, &new.events.to_le_bytes());
        }
        let array = rig.start();
        assert_eq!(array.counts(), [0, 4080 - 1024, 1024], "{switched} superblocks were new");
        array.host().verify(&expect(&images, "raid1-internal-dirtycut"));
        array.wait_for_resync();
        array.stop();
        let same = |member: usize| superblock(&rig.member(member)).bitmap_offset_sectors;
        assert_eq!([same(0), same(1)], [24, 24]);
    }
}

#[test]
fn a_classic_bitmap_before_a_superblock_at_the_end() {
    let Some(images) = images() else { return };
    let mut rig = Rig::unpack(&images, "layout-raid1-meta10-bitmap", 512);
    let patterns = expect(&images, "layout-raid1-meta10-bitmap");
    assert!(rig.refused().contains("classic bitmap"));
    rig.keys = CONVERT.to_owned();
    let array = rig.start();
    assert_eq!(array.counts(), [0, 511, 0], "no bit was set");
    let mut host = array.host();
    host.verify(&patterns);
    host.write(20_000, 64, "VMHGEN03");
    drop(host);
    array.kill();
    let array = rig.start();
    assert_eq!(array.counts()[2], 1);
    array.wait_for_resync();
    let mut host = array.host();
    host.verify(&patterns);
    host.verify(&[(20_000, 64, "VMHGEN03".to_owned())]);
    drop(host);
    array.stop();
    assert_members_agree(&rig, &[0, 1], &patterns);
    rig.examine(0..2);
}

/// Linux was replacing member 0 by member 2.
#[test]
fn a_replacement_under_way_goes_on() {
    let Some(images) = images() else { return };
    let mut rig = Rig::unpack(&images, "feat-raid1-replace-half", 512);
    rig.keys = CONVERT.to_owned();
    rig.named = Some(2);
    let patterns = expect(&images, "feat-raid1-replace-half");
    let own = superblock(&rig.member(2));
    assert!(own.features.contains(Features::REPLACEMENT | Features::RECOVERY_OFFSET));
    let Role::Active(slot) = own.own_role() else { panic!("it has a role: {own:?}") };
    let (old, other) = (usize::from(slot), usize::from(1 - slot));
    let array = rig.start();
    array.host().verify(&patterns);
    array.wait_for_replacement();
    let names = array.describe()["base_bdevs_list"].clone();
    assert_eq!(names[old]["name"], "m2", "{names}");
    array.stop();
    assert_members_agree(&rig, &[other, 2], &patterns);
    let own = superblock(&rig.member(2));
    assert!(!own.features.intersects(Features::REPLACEMENT | Features::RECOVERY_OFFSET));
    assert_eq!(own.own_role(), Role::Active(slot));
    let former = superblock(&rig.member(old)).dev_number;
    assert_eq!(superblock(&rig.member(other)).role_of(former), Role::Faulty);
    rig.examine(2..3);
    // The one that was let go is not taken back.
    let array = rig.start();
    array.host().verify(&patterns);
    let names = array.describe()["base_bdevs_list"].clone();
    assert_eq!(names[old]["name"], "m2", "{names}");
    array.stop();
}

/// No fixture has a 1.1 superblock: a 1.2 array whose superblocks are moved to sector 0.
#[test]
fn a_superblock_at_the_start() {
    let Some(images) = images() else { return };
    for (name, block) in [("raid1-dirtycut", 512), ("raid1-4kn-fresh", 4096)] {
        let rig = Rig::unpack(&images, name, block);
        for member in 0..2 {
            let mut own = superblock(&rig.member(member));
            own.super_offset_sectors = 0;
            own.bitmap_offset_sectors += 8;
            own.bblog.offset_sectors += 8;
            rig.poke(member, 4096, &[0; 4096]);
            rig.put_superblock(member, &own);
        }
        let patterns = expect(&images, name);
        let array = rig.start();
        array.wait_for_resync();
        let mut host = array.host();
        host.verify(&patterns);
        host.write(50_000, 64, "VMHGEN03");
        drop(host);
        array.kill();
        let array = rig.start();
        array.wait_for_resync();
        let mut host = array.host();
        host.verify(&patterns);
        host.verify(&[(50_000, 64, "VMHGEN03".to_owned())]);
        drop(host);
        array.stop();
        assert_eq!(superblock(&rig.member(1)).super_offset_sectors, 0);
        assert_members_agree(&rig, &[0, 1], &patterns);
        rig.examine(0..2);
    }
}

/// Ranges of the fixture's log, in data sectors.
const LISTED: [(u64, u64); 3] = [(1000, 16), (3000, 512), (3512, 188)];

#[test]
fn listed_bad_sectors_are_rewritten_from_the_other_member() {
    let Some(images) = images() else { return };
    let rig = Rig::unpack(&images, "feat-raid1-badblocks", 512);
    let patterns: Vec<Pattern> = expect(&images, "feat-raid1-badblocks");
    let data = superblock(&rig.member(0)).data_offset_sectors;
    for (first, sectors) in LISTED {
        let wrong = vec![0xbb; usize::try_from(sectors * 512).unwrap()];
        rig.poke(0, (data + first) * 512, &wrong);
    }
    let array = rig.start();
    let mut host = array.host();
    // Often enough that both members are asked.
    (0..4).for_each(|_| host.verify(&patterns));
    drop(host);
    wait_for_bad(&array, 0, |ranges| ranges == 0);
    array.stop();
    assert_members_agree(&rig, &[0, 1], &patterns);
    agree_everywhere(&rig, 63_488);
    assert!(!superblock(&rig.member(0)).features.contains(Features::BAD_BLOCKS));
    rig.examine(0..2);
}

/// Waits until a member has as many ranges on its bad-block log as is wanted.
pub(crate) fn wait_for_bad(array: &Running, member: usize, wanted: impl Fn(u64) -> bool) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        let listed = array.describe()["base_bdevs_list"][member]["bad_blocks"].clone();
        if wanted(listed["ranges"].as_u64().unwrap()) {
            return;
        }
        assert!(std::time::Instant::now() < until, "member {member} has listed {listed}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn bad_sectors_that_nobody_else_holds_are_all_that_is_lost() {
    let Some(images) = images() else { return };
    let rig = Rig::unpack(&images, "feat-raid1-badblocks", 512);
    let mut other = superblock(&rig.member(1));
    other.features |= Features::BAD_BLOCKS;
    let log = other.super_offset_sectors + 16;
    let entry = (other.data_offset_sectors + 1008) << 10 | 1;
    let mut bytes = [0xff; 4096];
    bytes[..8].copy_from_slice(&entry.to_le_bytes());
    rig.poke(1, log * 512, &bytes);
    rig.put_superblock(1, &other);
    // Sector 1008 is bad on both: it can't be read, and everything else can.
    let array = rig.start();
    let mut host = array.host();
    for sector in 990..1030 {
        assert_eq!(host.can_read(sector), sector != 1008, "sector {sector}");
    }
    // A write makes it good, on both.
    host.write(1008, 1, "VMHGEN09");
    assert!(host.can_read(1008));
    drop(host);
    wait_for_bad(&array, 1, |ranges| ranges == 0);
    array.stop();
    assert!(!superblock(&rig.member(1)).features.contains(Features::BAD_BLOCKS));
}

//! Arrays that take all of their larger members: what was there stays, what is new is empty, a
//! power cut at any point does no harm, and Linux takes the grown array over.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use ::mdof::md::{
    BITMAP_HEAD_BYTES, BitmapSuperblock, Growth, Level, LevelCreation, NewArray, NewLevel, NewLog,
    NewMember, Superblock, Timestamp, create_level, plan_growth,
};
use serde_json::json;

use crate::kernel::{Guest, pattern, said, states, vmrun};
use crate::levels::read_degraded;
use crate::rig::{Host, Pattern, Rig, Running, superblock};
use crate::rows::{Rows, copy_without};

const MIB: u64 = 1 << 20;
const NQN: &str = "nqn.2026-01.io.mdof:interop";

/// Longest growth.
const PATIENCE: Duration = Duration::from_secs(60);

/// An array of mdof without data. Its strips are of 64 KiB, its chunks of `chunk_kib`.
fn blank(name: &str, level: Level, layout: u32, chunk_kib: Option<u64>) -> Rig {
    let log = match chunk_kib {
        Some(kib) => NewLog::Bitmap { chunk_bytes: Some(kib << 10) },
        None => NewLog::None,
    };
    let new = NewLevel { level, layout, strip_bytes: 64 << 10, log };
    let member = |tag| NewMember {
        device_sectors: 64 * MIB / 512,
        logical_block_size: 512,
        device_uuid: [tag; 16],
    };
    let array = NewArray {
        name: name.to_owned(),
        set_uuid: [name.as_bytes()[0]; 16],
        ctime: Timestamp::from_unix(1_790_000_000, 0),
        assume_clean: false,
        members: (1..=4).map(member).collect(),
    };
    let creation = create_level(&array, &new).unwrap();
    let rig = Rig::new(name, 4, 512);
    for (index, own) in creation.superblocks().iter().enumerate() {
        let file = File::create(rig.member(index)).unwrap();
        file.set_len(64 * MIB).unwrap();
        if let LevelCreation::Bitmap(creation) = &creation {
            let area = creation.bitmap_area();
            file.write_all_at(&area, creation.bitmap_sector * 512).unwrap();
        }
        rig.put_superblock(index, own);
    }
    rig
}

/// Makes the member files larger; what is new on them is noise.
fn enlarge(rig: &Rig, sizes_mib: [u64; 4]) {
    for (path, mib) in rig.members().iter().zip(sizes_mib) {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        let old = file.metadata().unwrap().len();
        file.set_len(mib * MIB).unwrap();
        file.write_all_at(&vec![0xa5; 3 << 20], old).unwrap();
    }
}

/// The last pattern lies in the very end of the array.
fn patterns(rig: &Rig) -> Vec<Pattern> {
    let array = rig.start();
    let last = blocks(&array) / 8 * 8 - 16;
    let all = vec![
        pattern(0, 64, "VMHGEN01"),
        pattern(1000, 2000, "VMHGEN01"),
        pattern(50_000, 40, "VMHGEN01"),
        pattern(last, 16, "VMHGEN01"),
    ];
    let mut host = array.host();
    for (first, sectors, tag) in &all {
        host.write(*first, *sectors, tag);
    }
    drop(host);
    array.wait_for_resync();
    array.stop();
    all
}

fn blocks(array: &Running) -> u64 {
    let bdevs = array.mdof.rpc("bdev_get_bdevs", &json!({ "name": "r" })).unwrap();
    bdevs[0]["num_blocks"].as_u64().unwrap()
}

fn numbers(grown: &serde_json::Value) -> (u64, u64) {
    let number = |key: &str| grown[key].as_u64().unwrap();
    (number("old_num_blocks"), number("num_blocks"))
}

/// While hosts use it.
fn grow(array: &Running) -> Result<(u64, u64), String> {
    let grown = array.mdof.rpc("bdev_raid_grow", &json!({ "name": "r" }))?;
    if grown["state"] == "growing" {
        wait_grown(array)?;
    }
    Ok(numbers(&grown))
}

/// The call does not wait long.
fn wait_grown(array: &Running) -> Result<(), String> {
    let since = Instant::now();
    loop {
        let all = json!({ "category": "all" });
        let growth = array.mdof.rpc("bdev_raid_get_bdevs", &all).unwrap()[0]["growth"].clone();
        match growth["reason"].as_str() {
            _ if growth.is_null() => return Ok(()),
            Some(reason) => return Err(reason.to_owned()),
            None => assert!(since.elapsed() < PATIENCE, "no end of {growth}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// With its namespace taken away meanwhile.
fn grow_at_rest(array: &Running) -> Result<(u64, u64), String> {
    let off = json!({ "nqn": NQN, "nsid": 1 });
    array.mdof.rpc("nvmf_subsystem_remove_ns", &off).unwrap();
    let grown = grow(array);
    let on = json!({ "nqn": NQN, "namespace": { "bdev_name": "r", "nsid": 1 } });
    array.mdof.rpc("nvmf_subsystem_add_ns", &on).unwrap();
    grown
}

/// What is new reads as zeroes, and is written at its very end and across the old one.
fn use_what_is_new(host: &mut Host, old: u64, new: u64, patterns: &mut Vec<Pattern>) {
    host.verify(patterns);
    for first in [old, old + 128, (old + new) / 2 / 8 * 8, new - 8] {
        assert!(host.read(first, 8).iter().all(|&byte| byte == 0), "sector {first} of {new}");
    }
    patterns.pop();
    patterns.push(pattern(old - 8, 16, "VMHGEN02"));
    patterns.push(pattern(old + 1000, 300, "VMHGEN02"));
    patterns.push(pattern(new - 8, 8, "VMHGEN02"));
    for (first, sectors, tag) in patterns.iter().filter(|(_, _, tag)| tag == "VMHGEN02") {
        host.write(*first, *sectors, tag);
    }
    host.verify(patterns);
    assert!(!host.can_read(new), "the array ends there");
}

const LEVELS: [(&str, Level, u32); 5] = [
    ("mirror", Level::Raid1, 0),
    ("near", Level::Raid10, 0x102),
    ("offset", Level::Raid10, 0x1_0201),
    ("five", Level::Raid5, 2),
    ("six", Level::Raid6, 2),
];

/// Grown under a host's writes, used, stopped and started again: and then Linux, whose check finds
/// nothing.
#[test]
fn arrays_grow_and_linux_takes_them_over() {
    let vmrun = vmrun();
    for (name, level, layout) in LEVELS {
        println!("{name}");
        // Chunks that the old end cuts.
        let rig = blank(name, level, layout, Some(1024));
        let mut patterns = patterns(&rig);
        let array = rig.start();
        let text = grow(&array).unwrap_err();
        assert!(text.contains("nothing to grow into"), "{text}");
        array.host().verify(&patterns);
        enlarge(&rig, [256, 128, 200, 129]);
        let mut host = array.host();
        host.ask_for_changes();
        for number in 0..16 {
            host.begin_write(20_000 + number * 64, 64, "VMHGEN02");
        }
        host.push(1);
        let (old, new) = grow(&array).unwrap();
        host.push(15);
        assert_eq!(host.wait_for_change(1), new);
        assert_eq!(blocks(&array), new);
        assert!(new > old + old / 2, "{old} and {new}");
        patterns.insert(1, pattern(20_000, 1024, "VMHGEN02"));
        use_what_is_new(&mut host, old, new, &mut patterns);
        drop(host);
        array.stop();
        let array = rig.start();
        assert_eq!(blocks(&array), new);
        array.host().verify(&patterns);
        array.wait_for_resync();
        array.stop();
        rig.examine(0..4);
        println!("  {} units in order", Rows::open(&rig).where_written(&patterns).check());
        read_degraded(&rig, &patterns, 1);
        let Some(vmrun) = vmrun.as_ref().filter(|_| matches!(name, "mirror" | "five")) else {
            continue;
        };
        let mut guest = Guest::new(vmrun, &rig.dir, include_str!("ppl.sh"), 's');
        guest.add((name, "check"), None, &rig.members(), 512, &patterns);
        let text = guest.run();
        assert_eq!(said(&text, name, "missing"), ["0"]);
        assert!(said(&text, name, "verify").iter().all(|line| line.starts_with("0 ")));
        assert_eq!(said(&text, name, "mismatch"), ["0"]);
        let array = rig.start();
        array.host().verify(&patterns[1..]);
        array.stop();
    }
}

/// What is written for it, and to how many members before power fails; and how many have the
/// bitmap already.
fn cut_off(rig: &Rig, done: usize, ahead: usize) -> Growth {
    let own = |path: &std::path::PathBuf| -> (Superblock, u64) {
        (superblock(path), fs::metadata(path).unwrap().len() / 512)
    };
    let members: Vec<(Superblock, u64)> = rig.members().iter().map(own).collect();
    let (head, old): (BitmapSuperblock, Vec<u8>) = states(&rig.member(0));
    let growth = plan_growth(&members, Some(&head)).unwrap();
    let zeroes = growth.zeroes();
    let mut bitmap = [0; BITMAP_HEAD_BYTES];
    growth.bitmap.as_ref().unwrap().encode_into(&mut bitmap);
    for (index, own) in growth.superblocks.iter().enumerate() {
        let nothing = vec![0; usize::try_from((zeroes.end - zeroes.start) * 512).unwrap()];
        rig.poke(index, (own.data_offset_sectors + zeroes.start) * 512, &nothing);
        if index < ahead {
            let area = usize::try_from(head.sectors_reserved).unwrap() * 512;
            let mut all = bitmap.to_vec();
            all.extend_from_slice(&old);
            all.resize(area, 0);
            rig.poke(index, own.bitmap_sector().unwrap() * 512, &all);
        }
        if index < done {
            rig.put_superblock(index, own);
        }
    }
    growth
}

/// Members of two sizes: the array starts, with all that was there, and is as large as the larger
/// say, if one is there that says so. It once grew member by member, while it was stopped; now all
/// have the bitmap first.
#[test]
fn a_growth_that_is_cut_off_is_finished() {
    for (name, level, layout) in [LEVELS[0], LEVELS[3]] {
        let rig = blank(name, level, layout, Some(1024));
        let patterns = patterns(&rig);
        enlarge(&rig, [128; 4]);
        let old_way = [(0, 1), (1, 1), (2, 3), (3, 4), (4, 4)];
        for (done, ahead) in old_way.into_iter().chain([(0, 4), (1, 4), (2, 4)]) {
            println!("{name}: {done} members, {ahead} bitmaps");
            let copy = copy_without(&rig, &[]);
            let growth = cut_off(&copy, done, ahead);
            let array = copy.start();
            let mut patterns = patterns.clone();
            let mut host = array.host();
            host.verify(&patterns);
            let size = superblock(&copy.member(0)).size_sectors;
            if done == 0 {
                assert_eq!(size, growth.from_sectors);
                let (old, new) = grow(&array).unwrap();
                use_what_is_new(&mut host, old, new, &mut patterns);
            } else {
                assert_eq!(size, growth.to_sectors);
                let new = blocks(&array);
                let old = new / size * growth.from_sectors;
                use_what_is_new(&mut host, old, new, &mut patterns);
            }
            drop(host);
            array.wait_for_resync();
            let text = array.stop();
            let is_finished = text.contains("it was growing when it was cut off");
            assert_eq!(is_finished, (1..4).contains(&done), "{text}");
            Rows::open(&copy).where_written(&patterns).check();
            read_degraded(&copy, &patterns, 1);
        }
    }
}

/// Power fails between the superblocks, and Linux is to start the array first: mdadm refuses
/// members that say two sizes, and touches none. mdof goes on from there, and then Linux takes the
/// array.
#[test]
fn linux_takes_a_growth_that_was_cut_off_when_mdof_has_finished_it() {
    let Some(vmrun) = vmrun() else { return };
    let (name, level, layout) = LEVELS[0];
    let rig = blank(name, level, layout, Some(1024));
    let patterns = patterns(&rig);
    enlarge(&rig, [128; 4]);
    let growth = cut_off(&rig, 2, 4);
    let all = || -> Vec<Superblock> { rig.members().iter().map(|path| superblock(path)).collect() };
    let before = all();
    let mut guest = Guest::new(&vmrun, &rig.dir, include_str!("grow.sh"), 's');
    guest.add((name, "refuse"), None, &rig.members(), 512, &patterns);
    let text = guest.run();
    assert_eq!(said(&text, name, "started"), ["no"]);
    assert!(text.contains("doesn't match others"));
    assert_eq!(all(), before);
    let array = rig.start();
    array.host().verify(&patterns);
    array.wait_for_resync();
    array.stop();
    assert!(all().iter().all(|own| own.size_sectors == growth.to_sectors));
    let mut guest = Guest::new(&vmrun, &rig.dir, include_str!("ppl.sh"), 's');
    guest.add((name, "check"), None, &rig.members(), 512, &patterns);
    let text = guest.run();
    assert!(said(&text, name, "verify").iter().all(|line| line.starts_with("0 ")));
    assert_eq!(said(&text, name, "mismatch"), ["0"]);
}

/// A file and a null bdev become larger under namespaces, and not smaller.
#[test]
fn a_namespace_on_a_plain_bdev_becomes_larger() {
    let rig = blank("spare", Level::Raid1, 0, None);
    let array = rig.start();
    let call = |method: &str, params: serde_json::Value| array.mdof.rpc(method, &params);
    let size_of = |name: &str| {
        let bdevs = call("bdev_get_bdevs", json!({ "name": name })).unwrap();
        bdevs[0]["num_blocks"].as_u64().unwrap()
    };
    let path = rig.dir.file("u0.img");
    let file = File::create(&path).unwrap();
    file.set_len(8 * MIB).unwrap();
    call("bdev_uring_create", json!({ "name": "u0", "filename": path, "block_size": 512 }))
        .unwrap();
    let above = json!({ "base_bdev_name": "u0", "name": "p0" });
    call("bdev_passthru_create", above).unwrap();
    let null = json!({ "name": "n0", "block_size": 512, "num_blocks": 16384 });
    call("bdev_null_create", null).unwrap();
    for (nsid, name) in [(2, "p0"), (3, "n0")] {
        let on = json!({ "nqn": NQN, "namespace": { "bdev_name": name, "nsid": nsid } });
        call("nvmf_subsystem_add_ns", on).unwrap();
    }
    let mut host = array.host();
    host.ask_for_changes();
    file.set_len(16 * MIB).unwrap();
    call("bdev_uring_rescan", json!({ "name": "u0" })).unwrap();
    assert_eq!((host.wait_for_change(2), size_of("p0")), (32768, 32768));
    assert!(host.can_read_of(2, 32767) && !host.can_read_of(2, 32768));
    host.ask_for_changes();
    call("bdev_null_resize", json!({ "name": "n0", "new_size": 32 })).unwrap();
    assert_eq!((host.wait_for_change(3), size_of("n0")), (65536, 65536));
    assert!(host.can_read_of(3, 65535));
    file.set_len(8 * MIB).unwrap();
    let text = call("bdev_uring_rescan", json!({ "name": "u0" })).unwrap_err();
    assert!(text.contains("does not become smaller"), "{text}");
    let text = call("bdev_null_resize", json!({ "name": "n0", "new_size": 1 })).unwrap_err();
    assert!(text.contains("does not become smaller"), "{text}");
    assert_eq!((size_of("u0"), size_of("n0")), (32768, 65536));
    drop(host);
    array.stop();
}

/// An array that Linux grows is that large here. (Not one with a lockless bitmap: that bitmap does
/// not grow there, and the kernel trips over it.)
#[test]
fn what_linux_has_grown_is_taken_over() {
    let Some(vmrun) = vmrun() else { return };
    for (name, level, layout) in [LEVELS[0], LEVELS[3]] {
        let rig = blank(name, level, layout, None);
        let mut patterns = patterns(&rig);
        let old = superblock(&rig.member(0)).size_sectors;
        enlarge(&rig, [128; 4]);
        let mut guest = Guest::new(&vmrun, &rig.dir, include_str!("grow.sh"), 's');
        guest.add((name, "grow"), None, &rig.members(), 512, &patterns);
        let text = guest.run();
        assert!(said(&text, name, "verify").iter().all(|line| line.starts_with("0 ")));
        assert_eq!(said(&text, name, "mismatch"), ["0"]);
        let size: u64 = said(&text, name, "size")[0].parse().unwrap();
        patterns.push(pattern(size - 64, 64, "VMHGEN03"));
        assert!(superblock(&rig.member(0)).size_sectors > old + old / 2);
        let array = rig.start();
        assert_eq!(blocks(&array), size);
        array.host().verify(&patterns);
        array.wait_for_resync();
        array.stop();
    }
}

/// Without a bitmap what is new is resynced; other arrays say why they do not grow.
#[test]
fn what_grows_otherwise_or_not_at_all() {
    let rig = blank("plain", Level::Raid1, 0, None);
    let mut all = patterns(&rig);
    enlarge(&rig, [128; 4]);
    let array = rig.start();
    let busy = grow(&array).unwrap_err();
    assert!(busy.contains("nvmf_subsystem_remove_ns"), "{busy}");
    let (old, new) = grow_at_rest(&array).unwrap();
    array.host().verify(&all);
    array.wait_for_resync();
    all.pop();
    all.push(pattern(old - 8, 16, "VMHGEN02"));
    all.push(pattern(new - 8, 8, "VMHGEN02"));
    let mut host = array.host();
    for (first, sectors, tag) in &all[3..] {
        host.write(*first, *sectors, tag);
    }
    host.verify(&all);
    drop(host);
    array.stop();
    read_degraded(&rig, &all, 4);
    for (name, level, layout, chunk_kib, words) in [
        ("far", Level::Raid10, 0x201, Some(1024), "a raid10 with this layout does not grow"),
        ("zero", Level::Raid0, 1, None, "a raid0 with this layout does not grow"),
        ("linear", Level::Linear, 0, None, "a linear with this layout does not grow"),
    ] {
        let rig = blank(name, level, layout, chunk_kib);
        let patterns = patterns(&rig);
        enlarge(&rig, [128; 4]);
        let array = rig.start();
        let text = grow(&array).unwrap_err();
        assert!(text.contains(words), "{text}");
        array.host().verify(&patterns);
        array.stop();
    }
}

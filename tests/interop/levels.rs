//! Arrays of mdadm and the kernel that stripe, taken over by mdof: their data, their doubts, what
//! they read with members missing, and what lies on the members after mdof has written.

use std::fs;
use std::path::Path;

use crate::images::{expect, images};
use crate::rig::{Pattern, Rig, superblock};
use crate::rows::{Rows, copy_without};

/// The kernel's histogram as it loaded the array: Unwritten, Clean, in doubt, and those whose
/// parity was made before there were data.
fn loaded(images: &Path, name: &str) -> [u64; 4] {
    let text = fs::read_to_string(images.join(format!("{name}.txt"))).unwrap();
    let (_, view) = text.split_once("-- as loaded").unwrap();
    let bits = view.lines().find_map(|line| line.strip_prefix("bits: ")).unwrap();
    let count = |name: &str| -> u64 {
        let found = bits.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix(' '));
        found.and_then(|number| number.parse().ok()).unwrap()
    };
    [count("unwritten"), count("clean"), count("need sync"), count("clean unwritten")]
}

fn slots(rig: &Rig) -> u16 {
    u16::try_from(superblock(&rig.member(0)).raid_disks).unwrap()
}

/// Slots that the level can do without, in turn.
pub(crate) fn losses(rig: &Rig) -> Vec<Vec<u16>> {
    let slots = slots(rig);
    let one = (0..slots).map(|slot| vec![slot]);
    if superblock(&rig.member(0)).level != ::mdof::md::Level::Raid6 {
        return one.collect();
    }
    (0..slots).flat_map(|a| (a + 1..slots).map(move |b| vec![a, b])).chain(one.take(1)).collect()
}

/// Reads the patterns with every member left out that the level can lose. The members are copies.
pub(crate) fn read_degraded(rig: &Rig, patterns: &[Pattern], most: usize) {
    for lost in losses(rig).into_iter().take(most) {
        println!("  without {lost:?}");
        let mut copy = copy_without(rig, &lost);
        copy.arguments = vec!["--start-degraded"];
        let array = copy.start();
        array.host().verify(patterns);
        array.stop();
    }
}

/// Where to write beside the patterns: some blocks, parts of strips, and several rows.
fn writes(rig: &Rig, last: u64) -> Vec<Pattern> {
    let own = superblock(&rig.member(0));
    let strip = u64::from(own.chunk_sectors).max(128);
    let row = strip * u64::from(own.raid_disks);
    let far = last.next_multiple_of(row * 4) + row;
    [(8, 8), (strip - 8, 16), (200, 8), (far, row), (far + 2 * row + 16, 40), (far + 4 * row, 8)]
        .map(|(first, sectors)| (first, sectors, "VMHGEN03".to_owned()))
        .into()
}

/// `patterns` with `new` written over them.
pub(crate) fn over(patterns: &[Pattern], new: &[Pattern]) -> Vec<Pattern> {
    let mut all: Vec<Pattern> = patterns.to_vec();
    for (first, sectors, tag) in new {
        let end = first + sectors;
        let parts = all.into_iter().flat_map(|(at, length, tag)| {
            let left = (at, (*first).min(at + length).saturating_sub(at), tag.clone());
            let right = (at.max(end), (at + length).saturating_sub(at.max(end)), tag);
            [left, right]
        });
        all = parts.filter(|part| part.1 > 0).collect();
        all.push((*first, *sectors, tag.clone()));
    }
    all
}

/// Units on the members that hold something, all of them in order.
fn checked(rig: &Rig, name: &str, patterns: &[Pattern]) -> u64 {
    let rows = Rows::open(rig);
    let is_infected = ["raid10-daemonstop", "raid10-degradedcut"].contains(&name);
    if is_infected { rows.where_written(patterns).check() } else { rows.check() }
}

/// The whole way of one array that starts with all its members.
fn takes_over(rig: &Rig, name: &str, patterns: &[Pattern], counts: Option<[u64; 4]>) {
    println!("{name}");
    let array = rig.start();
    let level = superblock(&rig.member(0)).level.name();
    assert!(array.mdof.banner.contains(&level.to_uppercase()), "{}", array.mdof.banner);
    if let Some(counts) = counts {
        assert_eq!(array.all_counts(), counts, "{name}");
    }
    array.host().verify(patterns);
    array.wait_for_resync();
    array.host().verify(patterns);
    let text = array.stop();
    println!("  {} units in order", checked(rig, name, patterns));
    rig.examine(0..usize::from(slots(rig)));
    read_degraded(rig, patterns, usize::MAX);
    // What mdof left is taken up again, and written to.
    let array = rig.start();
    assert_eq!(array.in_doubt(), 0, "{name} was stopped cleanly: {text}");
    let mut host = array.host();
    let last = patterns.iter().map(|(first, sectors, _)| first + sectors).max().unwrap_or(0);
    let new = writes(rig, last);
    for (first, sectors, tag) in &new {
        host.write(*first, *sectors, tag);
    }
    let patterns = over(patterns, &new);
    host.verify(&patterns);
    array.wait_for_resync();
    drop(host);
    array.stop();
    println!("  {} units in order", checked(rig, name, &patterns));
    read_degraded(rig, &patterns, 1);
}

fn as_it_is(names: &[&str], block_size_bytes: u64) {
    let Some(images) = images() else { return };
    for name in names {
        let rig = Rig::unpack(&images, name, block_size_bytes);
        let has_bitmap = superblock(&rig.member(0)).bitmap_sector().is_some();
        let counts = has_bitmap.then(|| loaded(&images, name));
        takes_over(&rig, name, &expect(&images, name), counts);
    }
}

#[test]
fn layouts_of_raid4_and_raid5() {
    as_it_is(
        &[
            "layout-raid4-3",
            "layout-raid5-3-parity-first",
            "layout-raid5-4-left-asymmetric",
            "layout-raid5-4-left-symmetric",
            "layout-raid5-4-right-asymmetric",
        ],
        512,
    );
}

#[test]
fn layouts_of_raid6() {
    as_it_is(&["layout-raid6-5-left-symmetric", "layout-raid6-5-right-asymmetric"], 512);
}

#[test]
fn layouts_of_raid10() {
    as_it_is(
        &[
            "layout-raid10-3-n2",
            "layout-raid10-3-o2",
            "layout-raid10-4-n2",
            "layout-raid10-4-f2",
            "layout-raid10-4-o2",
        ],
        512,
    );
}

#[test]
fn lockless_raid10() {
    as_it_is(&["raid10-assume", "raid10-daemonstop", "raid10-daemoncut", "raid10-fresh"], 512);
}

#[test]
fn lockless_raid5() {
    as_it_is(
        &[
            "raid5-daemonstop",
            "raid5-daemoncut",
            "raid5-dirtycut",
            "raid5-fresh",
            "raid5-lazystop",
            "raid5-zeroed",
        ],
        512,
    );
    as_it_is(&["raid5-4kn-high"], 4096);
}

/// Defect 4 of the kernel's list: one member was neither zeroed nor rebuilt, and parity is called
/// right everywhere. Where parity was built ahead on such an array, that can't be told from it.
#[test]
fn parity_of_zeroes_that_nobody_made_is_made() {
    let Some(images) = images() else { return };
    for (name, counts) in
        [("raid5-zeroed-default", [3567, 0, 513, 0]), ("raid5-proactive-half", [4079, 0, 1, 0])]
    {
        let rig = Rig::unpack(&images, name, 512);
        takes_over(&rig, name, &expect(&images, name), Some(counts));
    }
}

/// Levels without redundancy: all of it is there or nothing is served, and a member that fails
/// fails requests.
#[test]
fn raid0_is_served() {
    let Some(images) = images() else { return };
    let name = "layout-raid0-3";
    let mut rig = Rig::unpack(&images, name, 512);
    let patterns = expect(&images, name);
    let before = rig.data(0, 0, 1024);
    let array = rig.start();
    array.host().verify(&patterns);
    let own = &array.describe();
    assert_eq!((&own["raid_level"], &own["state"]), (&"raid0".into(), &"online".into()));
    assert!(own["strip_size_kb"].as_u64().unwrap() >= 64);
    let mut host = array.host();
    let new = writes(&rig, 16_384);
    for (first, sectors, tag) in &new {
        host.write(*first, *sectors, tag);
    }
    let patterns = over(&patterns, &new);
    host.verify(&patterns);
    drop(host);
    array.kill();
    assert!(rig.data(0, 0, 1024) != before);
    let array = rig.start();
    assert_eq!(array.in_doubt(), 0, "there is nothing to resync");
    array.host().verify(&patterns);
    array.stop();
    rig.examine(0..3);
    a_member_fails_its_requests_only(&mut rig, &patterns);
    fs::remove_file(rig.member(1)).unwrap();
    rig.arguments = vec!["--start-degraded"];
    let text = rig.waits();
    assert!(text.contains("nothing that is there has what the members of slots 1 hold"), "{text}");
    rig.arguments.clear();
    assert!(rig.waits().contains("count on the member of slot 1 as well"));
}

/// What one member of a raid0 holds can't be had while it fails; the rest goes on, and it is back
/// with its data when it answers again. Only metadata that can't be written take the array away.
fn a_member_fails_its_requests_only(rig: &mut Rig, patterns: &[Pattern]) {
    rig.fragile = Some(1);
    let array = rig.start();
    let strip = array.describe()["strip_size_kb"].as_u64().unwrap() * 2;
    let mut host = array.host();
    let inject = |io_type: &str| {
        let params = serde_json::json!({
            "name": "m1", "io_type": io_type, "error_type": "failure", "num": 100_000,
        });
        array.mdof.rpc("bdev_error_inject_error", &params).unwrap();
    };
    inject("read");
    inject("write");
    let served: Vec<bool> = (0..6).map(|number| host.can_read(number * strip)).collect();
    assert_eq!(served, [true, false, true, true, false, true]);
    assert!(!host.can_write(601 * strip) && host.can_write(600 * strip));
    assert_eq!(array.describe()["state"], "online");
    inject("clear");
    host.verify(patterns);
    for method in ["bdev_raid_scrub", "bdev_raid_get_bitmap"] {
        let params = serde_json::json!({ "name": "r", "action": "check" });
        assert!(array.mdof.rpc(method, &params).is_err(), "{method}");
    }
    drop(host);
    array.stop();
    rig.fragile = None;
}

#[test]
fn lockless_raid6() {
    as_it_is(
        &[
            "raid6-assume",
            "raid6-daemonstop",
            "raid6-daemoncut",
            "raid6-fresh",
            "raid6-lazyhalf",
            "raid6-proactive-done",
            "raid6-none-cut",
        ],
        512,
    );
}

/// Started without a member that was away already; the chunks that it missed are remembered.
#[test]
fn degraded_arrays() {
    let Some(images) = images() else { return };
    for (name, counts) in [
        ("raid10-degradedcut", Some([7102, 1020, 6, 0])),
        ("raid6-degraded", Some([3566, 510, 4, 0])),
        ("raid10-internal-degraded", None),
        ("raid5-internal-degraded", None),
        ("raid6-internal-degraded", None),
    ] {
        println!("{name}");
        let mut rig = Rig::unpack(&images, name, 512);
        rig.keys = "convert_bitmap = true".to_owned();
        rig.arguments = vec!["--start-degraded"];
        let patterns = expect(&images, name);
        let array = rig.start();
        if let Some(counts) = counts {
            assert_eq!(array.all_counts(), counts, "{name}");
        }
        let doubtful = array.counts()[2];
        assert!(doubtful > 0, "what the absent member lacks is remembered");
        let mut host = array.host();
        host.verify(&patterns);
        // In rows of all kinds: the absent member holds data in some and parity in others.
        let new = (0..12).map(|number| (500_000 + number * 200, 8, "VMHGEN03".to_owned()));
        let new: Vec<Pattern> = new.collect();
        for (first, sectors, tag) in &new {
            host.write(*first, *sectors, tag);
        }
        let patterns = over(&patterns, &new);
        drop(host);
        array.stop();
        let array = rig.start();
        array.host().verify(&patterns);
        assert!(array.counts()[2] > doubtful, "and what it missed now as well");
        bring_back(&array, &rig);
        array.host().verify(&patterns);
        array.stop();
        checked(&rig, name, &patterns);
        rig.arguments = Vec::new();
        read_degraded(&rig, &patterns, usize::MAX);
    }
}

/// Gives the array the member that it was started without.
fn bring_back(array: &crate::rig::Running, rig: &Rig) {
    let own = array.describe();
    let names: Vec<_> = own["base_bdevs_list"].as_array().unwrap().iter().collect();
    let has = |name: &str| names.iter().any(|member| member["name"] == name);
    let lost: Vec<String> = (0..rig.members().len())
        .map(|index| format!("m{index}"))
        .filter(|name| !has(name))
        .collect();
    for name in lost {
        let params = serde_json::json!({ "raid_bdev": "r", "base_bdev": name });
        array.mdof.rpc("bdev_raid_add_base_bdev", &params).unwrap();
    }
    array.wait_for_rebuild();
}

/// The kernel was rebuilding a member when power failed.
#[test]
fn a_rebuild_of_the_kernel_is_finished() {
    let Some(images) = images() else { return };
    let name = "raid5-readdhalf";
    let rig = Rig::unpack(&images, name, 512);
    let patterns = expect(&images, name);
    let array = rig.start();
    array.host().verify(&patterns);
    array.wait_for_rebuild();
    array.wait_for_resync();
    array.host().verify(&patterns);
    array.stop();
    checked(&rig, name, &patterns);
    read_degraded(&rig, &patterns, usize::MAX);
}

#[test]
fn classic_bitmaps() {
    let Some(images) = images() else { return };
    for name in ["raid10-internal-dirtycut", "raid6-internal-dirtycut"] {
        let mut rig = Rig::unpack(&images, name, 512);
        assert!(rig.refused().contains("convert_bitmap = true"));
        rig.keys = "convert_bitmap = true".to_owned();
        takes_over(&rig, name, &expect(&images, name), None);
    }
}

/// The kernel has written over the bitmap's head (defect 6).
#[test]
fn destroyed_bitmaps_are_replaced_on_request() {
    let Some(images) = images() else { return };
    for name in ["raid10-4kn-dirtycut", "raid5-4kn-dirtycut", "raid6-4kn-dirtycut"] {
        let mut rig = Rig::unpack(&images, name, 4096);
        assert!(rig.refused().contains("bitmap_lost = \"resync\""));
        rig.keys = "bitmap_lost = \"resync\"".to_owned();
        takes_over(&rig, name, &expect(&images, name), None);
    }
}

/// Dirty and degraded: what the absent member held can't be told from what was being written.
#[test]
fn dirty_and_degraded_starts_by_force_only() {
    let Some(images) = images() else { return };
    let mut rig = Rig::unpack(&images, "raid5-degradedcut", 512);
    rig.arguments = vec!["--start-degraded"];
    let text = rig.waits();
    assert!(text.contains("was not stopped cleanly"), "{text}");
    let array = rig.start();
    let params = serde_json::json!({ "name": "r", "force": true });
    array.mdof.rpc("bdev_raid_start", &params).unwrap();
    assert_eq!(array.describe()["state"], "online");
    // What was not being written when power went is there.
    array.host().verify(&[(300_000, 8, "VMHGEN01".to_owned())]);
    array.stop();
}

/// What the configuration says and what the members carry must be the same array.
#[test]
fn another_level_layout_or_strip_is_refused() {
    let Some(images) = images() else { return };
    let mut rig = Rig::unpack(&images, "layout-raid5-4-left-asymmetric", 512);
    for (keys, words) in [
        ("layout = \"left-symmetric\"", "its members carry left-asymmetric"),
        ("strip_size_kib = 4", "strips of 4 KiB, but its members carry"),
    ] {
        rig.keys = keys.to_owned();
        let text = rig.refused();
        assert!(text.contains(words) && text.contains("nothing was started"), "{text}");
    }
    rig.keys = "layout = \"left-asymmetric\"".to_owned();
    let array = rig.start();
    let again = serde_json::json!({
        "name": "r", "raid_level": "raid1", "base_bdevs": ["m0", "m1", "m2", "m3"],
    });
    array.mdof.rpc("bdev_raid_delete", &serde_json::json!({ "name": "r" })).unwrap_err();
    let nqn = serde_json::json!({ "nqn": "nqn.2026-01.io.mdof:interop" });
    array.mdof.rpc("nvmf_delete_subsystem", &nqn).unwrap();
    array.mdof.rpc("bdev_raid_delete", &serde_json::json!({ "name": "r" })).unwrap();
    let mut named = again.clone();
    named["uuid"] = uuid_of(&rig).into();
    let error = array.mdof.rpc("bdev_raid_create", &named).unwrap_err();
    assert!(error.contains("said to be a raid1, but its members carry a raid5"), "{error}");
    array.stop();
}

fn uuid_of(rig: &Rig) -> String {
    uuid::Uuid::from_bytes(superblock(&rig.member(0)).set_uuid).to_string()
}

#[test]
fn what_is_not_run_is_refused_by_name() {
    let Some(images) = images() else { return };
    for (name, words) in [
        ("feat-raid5-journal-cut", "JOURNAL"),
        ("feat-raid5-reshape-half", "RESHAPE_ACTIVE|NEW_OFFSET"),
        ("layout-raid1-meta09", "0.90"),
    ] {
        let rig = Rig::unpack(&images, name, 512);
        let before = fs::read(rig.member(0)).unwrap();
        let text = rig.refused();
        println!("{name}: {text}");
        assert!(text.contains(words), "{text}");
        assert!(fs::read(rig.member(0)).unwrap() == before, "{name} was touched");
    }
}

//! Arrays of mdof that stripe, taken over by Linux 7.2 and mdadm 4.6 in a guest, and taken back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ::mdof::md::{
    Level, LevelCreation, NewArray, NewLevel, NewLog, NewMember, Timestamp, create_level,
};
use serde_json::json;

use crate::kernel::{Guest, Printed, count, pattern, said, states};
use crate::levels::{losses, over, read_degraded};
use crate::rig::{Pattern, Rig, superblock};
use crate::rows::Rows;

const GUEST_SCRIPT: &str = include_str!("takeover_levels.sh");

/// An array for the guest.
struct Handover {
    rig: Rig,
    name: &'static str,
    how: &'static str,
    /// The member that the guest lists last: the one that was away, or that it replaces.
    last: usize,
    /// Sector where the kernel writes 64 sectors of "VMHGEN03".
    write: Option<u64>,
    patterns: Vec<Pattern>,
    /// State of each chunk as mdof left it on member 0.
    left: Vec<u8>,
}

/// An array without data: what mdof writes to its members when it makes one.
fn blank(name: &'static str, level: Level, layout: u32, members: usize) -> Rig {
    const SIZE_BYTES: u64 = 64 << 20;
    let log = match level {
        Level::Raid0 | Level::Linear => NewLog::None,
        _ => NewLog::Bitmap { chunk_bytes: Some(64 << 10) },
    };
    let new = NewLevel { level, layout, strip_bytes: 64 << 10, log };
    let tag = |index: usize| u8::try_from(index).unwrap() + 1;
    let member = |index: usize| NewMember {
        device_sectors: SIZE_BYTES / 512,
        logical_block_size: 512,
        device_uuid: [tag(index) | 0x40; 16],
    };
    let array = NewArray {
        name: name.to_owned(),
        set_uuid: [tag(name.len()) ^ name.as_bytes()[name.len() - 1]; 16],
        ctime: Timestamp::from_unix(1_790_000_000, 0),
        assume_clean: false,
        members: (0..members).map(member).collect(),
    };
    let creation = create_level(&array, &new).unwrap();
    let rig = Rig::new(name, members, 512);
    for (index, own) in creation.superblocks().iter().enumerate() {
        let file = File::create(rig.member(index)).unwrap();
        file.set_len(SIZE_BYTES).unwrap();
        // What lay there before is not zero, nor alike on the members. But on copies the kernel
        // calls such chunks Clean without looking when it infects them (defect 11).
        let noise = [0, 20 << 10, 300 << 10, 8 << 20, 20 << 20];
        for at in noise.into_iter().filter(|_| level != Level::Raid10) {
            let data = own.data_offset_sectors * 512;
            file.write_all_at(&[0x90 | tag(index); 100 << 10], data + at).unwrap();
        }
        if let LevelCreation::Bitmap(creation) = &creation {
            let area = creation.bitmap_area();
            file.write_all_at(&area, creation.bitmap_sector * 512).unwrap();
        }
        rig.put_superblock(index, own);
    }
    rig
}

/// An array without data, and its name.
type New = (&'static str, Rig);

fn write_all(rig: &Rig, patterns: &[Pattern]) {
    let array = rig.start();
    let mut host = array.host();
    for (first, sectors, tag) in patterns {
        host.write(*first, *sectors, tag);
    }
    drop(host);
    array.stop();
}

fn first_patterns() -> Vec<Pattern> {
    // Parts of strips, whole rows, and a place far behind.
    vec![
        pattern(0, 64, "VMHGEN01"),
        pattern(1000, 2000, "VMHGEN01"),
        pattern(50_000, 40, "VMHGEN01"),
    ]
}

fn left(rig: &Rig) -> Vec<u8> {
    match superblock(&rig.member(0)).bitmap_sector() {
        Some(_) => states(&rig.member(0)).1,
        None => Vec::new(),
    }
}

/// Written and stopped cleanly. The kernel writes to it, or rebuilds its last member before.
fn clean(how: &'static str, (name, rig): New) -> Handover {
    let patterns = first_patterns();
    write_all(&rig, &patterns);
    let left = left(&rig);
    assert_eq!(count(&left, 2) + count(&left, 3), 0, "{name} was stopped cleanly");
    if how != "plain" {
        Rows::open(&rig).check();
    }
    let last = rig.members().len() - 1;
    Handover { rig, name, how, last, write: Some(20_000), patterns, left }
}

/// Killed while writes were on their way. What a crash can leave behind is left behind for sure:
/// in a chunk in doubt the members do not fit, beside what was acknowledged.
fn crashed((name, rig): New) -> Handover {
    let patterns = first_patterns();
    let array = rig.start();
    let mut host = array.host();
    for (first, sectors, tag) in &patterns {
        host.write(*first, *sectors, tag);
    }
    for number in 0..8 {
        host.begin_write(60_000 + number * 1040, 64, "VMHGEN02");
    }
    host.push(2);
    array.kill();
    drop(host);
    let data_sector = superblock(&rig.member(0)).data_offset_sectors;
    rig.poke(0, (data_sector + 64) * 512, &[0xd1; 4096]);
    let left = left(&rig);
    assert!(count(&left, 2) > patterns.len(), "hardly anything was in doubt");
    let last = rig.members().len() - 1;
    Handover { rig, name, how: "crashed", last, write: Some(70_000), patterns, left }
}

/// Written to while a member was away, which then comes back to the kernel.
fn away((name, mut rig): New, last: usize) -> Handover {
    let patterns = first_patterns();
    write_all(&rig, &patterns);
    let hidden = rig.dir.file("away.img");
    std::fs::rename(rig.member(last), &hidden).unwrap();
    rig.arguments = vec!["--start-degraded"];
    let new = missed();
    write_all(&rig, &new);
    std::fs::rename(hidden, rig.member(last)).unwrap();
    rig.arguments.clear();
    let left = left(&rig);
    assert!(count(&left, 3) > 0, "what the member missed is remembered");
    let patterns = over(&patterns, &new);
    Handover { rig, name, how: "away", last, write: None, patterns, left }
}

/// Written in rows where any member holds data or parity.
fn missed() -> Vec<Pattern> {
    (0..8).map(|number| pattern(1100 + number * 150, 20, "VMHGEN02")).collect()
}

/// mdof loses a member, writes, and rebuilds it on a device that holds nothing of use.
fn rebuilt((name, rig): New, lost: usize) -> Handover {
    let patterns = first_patterns();
    write_all(&rig, &patterns);
    let array = rig.start();
    let member = format!("m{lost}");
    array.mdof.rpc("bdev_raid_remove_base_bdev", &json!({ "name": member })).unwrap();
    let mut host = array.host();
    let new = missed();
    for (first, sectors, tag) in &new {
        host.write(*first, *sectors, tag);
    }
    let patterns = over(&patterns, &new);
    host.verify(&patterns);
    let own = superblock(&rig.member(lost));
    rig.poke(lost, 4096, &[0; 4096]);
    rig.poke(lost, own.data_offset_sectors * 512, &[0xee; 2 << 20]);
    let params = json!({ "raid_bdev": "r", "base_bdev": member });
    array.mdof.rpc("bdev_raid_add_base_bdev", &params).unwrap();
    array.wait_for_rebuild();
    host.verify(&patterns);
    drop(host);
    array.stop();
    Rows::open(&rig).check();
    let left = left(&rig);
    let last = rig.members().len() - 1;
    Handover { rig, name, how: "whole", last, write: Some(70_000), patterns, left }
}

fn judge(text: &str, array: &Handover) {
    let name = array.name;
    let one = |key: &str| -> String {
        let found = said(text, name, key);
        assert_eq!(found.len(), 1, "{name}: one line of {key}");
        found[0].to_owned()
    };
    let verified = said(text, name, "verify");
    // Also without the member, where it was away first.
    let times = if matches!(array.how, "away" | "replaced") { 2 } else { 1 };
    assert_eq!(verified.len(), times * array.patterns.len(), "{name}");
    assert!(verified.iter().all(|line| line.starts_with("0 ")), "{name}: {verified:?}");
    if array.how == "plain" {
        return;
    }
    if array.how == "crashed" {
        let loaded = one("loaded");
        let bits = |state: &str| -> usize {
            let found =
                loaded.split(';').find_map(|part| part.strip_prefix(state)?.strip_prefix(' '));
            found.and_then(|number| number.parse().ok()).unwrap()
        };
        // The kernel's rule of infection adds to it.
        assert!(bits("need sync") >= count(&array.left, 2) + count(&array.left, 3), "{name}");
    }
    let missing = if matches!(array.how, "away" | "replaced") { "1" } else { "0" };
    assert_eq!(one("missing"), missing, "{name}");
    assert_eq!(one("degraded"), "0", "{name}");
    assert_eq!(one("mismatch"), "0", "{name}: check found differences");
}

/// mdof starts the array again, reads what it and the kernel wrote, with every member that the
/// level can lose left out as well, and finds no difference.
fn take_back(array: &Handover) {
    println!("{} is taken back", array.name);
    let rig = &array.rig;
    let running = rig.start();
    running.wait_for_resync();
    let mut patterns = array.patterns.clone();
    if let Some(write) = array.write {
        patterns = over(&patterns, &[pattern(write, 64, "VMHGEN03")]);
    }
    running.host().verify(&patterns);
    running.stop();
    rig.examine(0..rig.members().len());
    if array.how == "plain" {
        return;
    }
    Rows::open(rig).where_written(&patterns).check();
    read_degraded(rig, &patterns, losses(rig).len().min(4));
}

#[test]
fn linux_takes_over_arrays_of_mdof_that_stripe() {
    use Level::{Linear, Raid0, Raid4, Raid5, Raid6, Raid10};
    let Some(vmrun) = crate::kernel::vmrun() else { return };
    let new = |name, level, layout, members| (name, blank(name, level, layout, members));
    let arrays = [
        clean("plain", new("zero", Raid0, 1, 3)),
        clean("plain", new("linear", Linear, 0, 2)),
        crashed(new("near", Raid10, 0x102, 3)),
        crashed(new("far", Raid10, 0x201, 4)),
        clean("whole", new("far-odd", Raid10, 0x201, 3)),
        rebuilt(new("offset", Raid10, 0x1_0201, 3), 1),
        clean("whole", new("four", Raid4, 0, 3)),
        crashed(new("five-crashed", Raid5, 2, 3)),
        away(new("five-away", Raid5, 0, 4), 1),
        clean("replaced", new("five-replaced", Raid5, 1, 3)),
        rebuilt(new("five-rebuilt", Raid5, 2, 3), 0),
        crashed(new("six-crashed", Raid6, 2, 4)),
        away(new("six-away", Raid6, 1, 5), 3),
        rebuilt(new("six-rebuilt", Raid6, 2, 4), 2),
    ];
    let text = hand_over(&vmrun, &arrays);
    for array in &arrays {
        judge(&text, array);
    }
    for array in &arrays {
        take_back(array);
    }
}

fn hand_over(vmrun: &Path, arrays: &[Handover]) -> Printed {
    let mut guest = Guest::new(vmrun, &arrays[0].rig.dir, GUEST_SCRIPT, 's');
    for array in arrays {
        let mut members = array.rig.members();
        let last = members.remove(array.last);
        members.push(last);
        guest.add((array.name, array.how), array.write, &members, 512, &array.patterns);
    }
    guest.run()
}

//! Bad blocks that mdof has listed: Linux 7.2 and mdadm 4.6 read the same list, read those blocks
//! from the other member, and clear what they write; mdof goes on from there.

use std::fs::File;
use std::os::unix::fs::FileExt;

use ::mdof::md::{BadRange, Features, parse_bad_blocks};
use serde_json::json;

use crate::images::assert_members_agree;
use crate::kernel::{Guest, pattern, said, vmrun};
use crate::legacy::wait_for_bad;
use crate::rig::{Pattern, Rig, superblock};

const GUEST_SCRIPT: &str = include_str!("bad_blocks.sh");

/// What member 1 can't write: first sector of its data, and sectors. Linux writes the first one.
const STUBBORN: [(u64, u64); 2] = [(8192, 64), (100_000, 24)];

/// Runs of records as they are in the end: what is listed, and what lies around it.
fn patterns() -> Vec<Pattern> {
    let around = |(first, sectors): (u64, u64)| {
        [
            pattern(first - 128, 128, "VMHGEN01"),
            pattern(first, sectors, "VMHGEN02"),
            pattern(first + sectors, 256, "VMHGEN01"),
        ]
    };
    STUBBORN.into_iter().flat_map(around).collect()
}

/// An array whose member 1 lists what it could not write, and has something else there.
fn stubborn() -> Rig {
    let mut rig = Rig::new("badblocks", 2, 512);
    for member in rig.members() {
        File::create(member).unwrap().set_len(256 << 20).unwrap();
    }
    rig.fragile = Some(1);
    rig.keys = "write_error_policy = \"bad_block\"".to_owned();
    let array = rig.start();
    let mut host = array.host();
    let data = superblock(&rig.member(0)).data_offset_sectors;
    for (first, sectors) in STUBBORN {
        host.write(first - 128, 128 + sectors + 256, "VMHGEN01");
        let sick = json!({
            "name": "m1", "io_type": "write", "error_type": "failure", "num": 100_000,
            "lba": data + first, "blocks": sectors,
        });
        array.mdof.rpc("bdev_error_inject_error", &sick).unwrap();
        host.write(first, sectors, "VMHGEN02");
    }
    wait_for_bad(&array, 1, |ranges| ranges == 2);
    assert_eq!(array.describe()["base_bdevs_list"][1]["state"], "in_sync");
    // Often enough that both members are asked.
    (0..4).for_each(|_| host.verify(&patterns()));
    drop(host);
    array.stop();
    rig.fragile = None;
    rig.keys.clear();
    for (first, sectors) in STUBBORN {
        let bytes = vec![0xd1; usize::try_from(sectors * 512).unwrap()];
        rig.poke(1, (data + first) * 512, &bytes);
    }
    rig
}

/// What a member's bad-block log lists, counted from its first sector on.
fn listed(rig: &Rig, member: usize) -> Vec<BadRange> {
    let own = superblock(&rig.member(member));
    if !own.features.contains(Features::BAD_BLOCKS) {
        return Vec::new();
    }
    let sector = own.super_offset_sectors.strict_add_signed(own.bblog.offset_sectors.into());
    let mut bytes = vec![0; usize::from(own.bblog.size_sectors) * 512];
    File::open(rig.member(member)).unwrap().read_exact_at(&mut bytes, sector * 512).unwrap();
    parse_bad_blocks(&bytes, &own).unwrap()
}

#[test]
fn linux_reads_the_bad_blocks_that_mdof_has_listed() {
    let rig = stubborn();
    let data = superblock(&rig.member(1)).data_offset_sectors;
    let range = |(first, sectors): (u64, u64)| BadRange { start_sector: data + first, sectors };
    assert_eq!(listed(&rig, 1), STUBBORN.map(range));
    assert_eq!(listed(&rig, 0), []);
    let mut patterns = patterns();
    if let Some(vmrun) = vmrun() {
        linux_goes_on(&vmrun, &rig, &patterns, data);
        assert_eq!(listed(&rig, 1), [range(STUBBORN[1])], "Linux has written the first one");
        patterns[1].2 = "VMHGEN03".to_owned();
    }
    // The next start writes again what is left on the list.
    let array = rig.start();
    array.wait_for_resync();
    wait_for_bad(&array, 1, |ranges| ranges == 0);
    array.host().verify(&patterns);
    array.stop();
    assert_eq!(listed(&rig, 1), []);
    assert_members_agree(&rig, &[0, 1], &patterns);
    rig.examine(0..2);
}

fn linux_goes_on(vmrun: &std::path::Path, rig: &Rig, patterns: &[Pattern], data: u64) {
    let mut guest = Guest::new(vmrun, &rig.dir, GUEST_SCRIPT, 'd');
    let write = Some(STUBBORN[0].0);
    guest.add(("badblocks", "whole"), write, &rig.members(), 512, patterns);
    let text = guest.run();
    let said = |key: &str| said(&text, "badblocks", key);
    let lines = |who: &str, ranges: &[(u64, u64)]| -> Vec<String> {
        ranges.iter().map(|(first, sectors)| format!("{who} {} {sectors}", data + first)).collect()
    };
    assert_eq!(said("examined"), lines("d1", &STUBBORN), "mdadm");
    assert_eq!(said("loaded"), lines("1", &STUBBORN), "the kernel");
    assert_eq!(said("degraded"), ["0"]);
    assert_eq!(said("verify").len(), patterns.len());
    assert!(said("verify").iter().all(|line| line.starts_with("0 ")), "{:?}", said("verify"));
    // Member 1 was asked for all but what it lists.
    assert_eq!(said("read").len(), patterns.len());
    for ((first, sectors, _), line) in patterns.iter().zip(said("read")) {
        let counts: Vec<u64> = line.split(' ').map(|count| count.parse().unwrap()).collect();
        let is_listed = STUBBORN.iter().any(|it| it.0 == *first);
        let asked = if is_listed { counts[1] } else { counts[2] };
        assert!(asked >= *sectors, "read of {first}: {line}");
    }
    assert_eq!(said("mismatch"), ["0"], "check found differences");
    assert_eq!(said("checked"), lines("1", &STUBBORN));
    assert_eq!(said("written"), lines("1", &STUBBORN[1..]));
}

//! Arrays of Linux md with a partial parity log: replayed, taken away, and taken back by Linux.

use std::fs::File;
use std::os::unix::fs::FileExt;

use ::mdof::md::{
    Features, MAX_SECTOR, PPL_HEADER_BYTES, PplArray, PplHeader, PplPlace, PplSearch, Superblock,
};

use crate::images::{expect, images};
use crate::kernel::{Guest, pattern, said, vmrun};
use crate::levels::read_degraded;
use crate::rig::{Pattern, Rig, superblock};
use crate::rows::{Rows, copy_without};

const GUEST_SCRIPT: &str = include_str!("ppl.sh");

/// The entries that a member's log has, as a sector of the array and the sectors of P.
fn logged(rig: &Rig, index: usize) -> Vec<(u64, u32)> {
    let own = superblock(&rig.member(index));
    let array = PplArray::new(&own).unwrap();
    let mut search = PplSearch::new(PplPlace::of(&own).unwrap().unwrap(), array);
    let file = File::open(rig.member(index)).unwrap();
    while let Some(sector) = search.next_sector() {
        let mut bytes = vec![0; PPL_HEADER_BYTES];
        file.read_exact_at(&mut bytes, sector * 512).unwrap();
        search.take(&bytes);
    }
    let (_, PplHeader { entries, .. }) = search.finish().unwrap();
    let span = |entry: &::mdof::md::PplEntry| entry.span(&array).unwrap();
    entries.iter().map(|it| (it.data_sector, span(it).parity_sectors)).collect()
}

/// As if power had failed in the midst of what the logs tell of: its parity is not written yet.
fn spoil_parity(rig: &Rig) -> usize {
    let mut spoilt = 0;
    for index in 0..rig.members().len() {
        let own = superblock(&rig.member(index));
        let (chunk, data) = (u64::from(own.chunk_sectors), u64::from(own.raid_disks - 1));
        for (first, sectors) in logged(rig, index) {
            let column = first / (chunk * data) * chunk + first % chunk;
            let noise = vec![0x5a; usize::try_from(sectors).unwrap() * 512];
            rig.poke(index, (own.data_offset_sectors + column) * 512, &noise);
            spoilt += 1;
        }
    }
    spoilt
}

fn edit(rig: &Rig, change: impl Fn(usize, &mut Superblock)) {
    for (index, path) in rig.members().iter().enumerate().filter(|(_, path)| path.exists()) {
        let mut own = superblock(path);
        change(index, &mut own);
        rig.put_superblock(index, &own);
    }
}

fn is_logged(rig: &Rig, index: usize) -> bool {
    superblock(&rig.member(index)).features.intersects(Features::PPL | Features::MULTIPLE_PPLS)
}

/// Every one of these may be the one that is missing; nobody forces anything.
fn starts_without(rig: &Rig, missing: impl IntoIterator<Item = u16>, patterns: &[Pattern]) {
    for lost in missing {
        println!("  without {lost}");
        let mut copy = copy_without(rig, &[lost]);
        copy.arguments = vec!["--start-degraded"];
        let array = copy.start();
        array.host().verify(patterns);
        let text = array.stop();
        assert!(text.contains("was replayed and taken away"), "{text}");
        let array = copy.start();
        array.host().verify(patterns);
        array.stop();
    }
}

/// The parts of the patterns that are not in the range.
fn without(patterns: Vec<Pattern>, first: u64, end: u64) -> Vec<Pattern> {
    let parts = patterns.into_iter().flat_map(|(at, sectors, tag)| {
        let before = (at, first.clamp(at, at + sectors) - at, tag.clone());
        let from = end.clamp(at, at + sectors);
        [before, (from, at + sectors - from, tag)]
    });
    parts.filter(|(_, sectors, _)| *sectors > 0).collect()
}

/// The image, made dirty, with parity that was not written yet.
fn dirty(images: &std::path::Path) -> Rig {
    let rig = Rig::unpack(images, "feat-raid5-ppl-cut", 512);
    edit(&rig, |_, own| own.resync_offset_sectors = 0);
    assert!(spoil_parity(&rig) > 0, "the logs are empty");
    rig
}

#[test]
fn a_partial_parity_log_is_replayed() {
    let Some(images) = images() else { return };
    let patterns = expect(&images, "feat-raid5-ppl-cut");
    let rig = dirty(&images);
    // What was being written is old or new on a real disk, but here its parity is noise.
    let mut kept = patterns.clone();
    kept.retain(|(_, _, tag)| tag == "VMHGEN01");
    assert!(!kept.is_empty() && kept.len() < patterns.len(), "{patterns:?}");
    let logged = (0..3).flat_map(|index| logged(&rig, index));
    for (first, sectors) in logged {
        kept = without(kept, first, first + u64::from(sectors));
    }
    starts_without(&rig, 0..3, &kept);
    let array = rig.start();
    assert_eq!(array.in_doubt(), 0, "parity fits: there is nothing to resync");
    array.host().verify(&patterns);
    array.stop();
    assert!((0..3).all(|index| !is_logged(&rig, index)));
    println!("  {} units in order", Rows::open(&rig).check());
    rig.examine(0..3);
    read_degraded(&rig, &patterns, 3);
}

/// Power failed when some members had no log any more: nothing had been served, and it begins anew.
#[test]
fn a_takeover_that_was_cut_off_goes_on() {
    let Some(images) = images() else { return };
    let patterns = expect(&images, "feat-raid5-ppl-cut");
    for done in [1, 6] {
        let rig = dirty(&images);
        let whole = copy_without(&rig, &[]);
        whole.start().stop();
        for index in 0..3 {
            let own = superblock(&rig.member(index));
            let parity = whole.data(index, 0, 8192);
            rig.poke(index, own.data_offset_sectors * 512, &parity);
        }
        edit(&rig, |index, own| {
            if done >> index & 1 == 1 {
                own.features.remove(Features::MULTIPLE_PPLS);
                own.bitmap_offset_sectors = 0;
                own.resync_offset_sectors = MAX_SECTOR;
            }
        });
        let array = rig.start();
        assert_eq!(array.in_doubt(), 0);
        array.host().verify(&patterns);
        array.stop();
        assert!((0..3).all(|index| !is_logged(&rig, index)), "{done}");
        Rows::open(&rig).check();
    }
}

/// With a log that says nothing all parity is made anew; with a member missing as well the array
/// waits for it, or for the operator's word, and nothing is written until then.
#[test]
fn a_damaged_partial_parity_log_costs_a_resync_or_takes_force() {
    let Some(images) = images() else { return };
    let patterns = expect(&images, "feat-raid5-ppl-cut");
    let rig = dirty(&images);
    let place = PplPlace::of(&superblock(&rig.member(1))).unwrap().unwrap();
    rig.poke(1, place.sector * 512, &[0; 4096]);
    let mut copy = copy_without(&rig, &[2]);
    copy.arguments = vec!["--start-degraded"];
    let array = copy.start();
    let own = array.describe();
    assert_eq!(own["state"], "configuring");
    let why = own["why"].as_str().unwrap();
    assert!(why.contains("m1") && why.contains("start with force"), "{why}");
    assert!(is_logged(&copy, 0) && is_logged(&copy, 1));
    let force = serde_json::json!({ "name": "r", "force": true });
    array.mdof.rpc("bdev_raid_start", &force).unwrap();
    assert_eq!(array.describe()["state"], "online");
    array.stop();
    let array = rig.start();
    array.wait_for_resync();
    array.host().verify(&patterns);
    let text = array.stop();
    assert!(text.contains("all parity is made anew"), "{text}");
    Rows::open(&rig).check();
}

/// The real kernel, writing when its power fails; then mdof without each of the members and with
/// all; then the kernel again, whose check finds nothing.
#[test]
fn linux_loses_power_and_mdof_goes_on() {
    let Some(vmrun) = vmrun() else { return };
    let rig = Rig::new("ppl", 4, 512);
    for path in rig.members() {
        File::create(path).unwrap().set_len(128 << 20).unwrap();
    }
    // What fills the rows; their first strips are written again and again.
    let all = pattern(0, 24 * 1024, "VMHGEN01");
    let mut guest = Guest::new(&vmrun, &rig.dir, GUEST_SCRIPT, 's');
    guest.add(("ppl", "cut"), None, &rig.members(), 512, std::slice::from_ref(&all));
    let text = guest.run_until_cut();
    assert_eq!(said(&text, "ppl", "policy"), ["ppl"]);
    assert_eq!(said(&text, "ppl", "state"), ["active"]);
    let kept = |row: u64| pattern(row * 384 + 128, 256, "VMHGEN01");
    let patterns: Vec<Pattern> = (0..64).map(kept).collect();
    let entries: usize = (0..4).map(|index| logged(&rig, index).len()).sum();
    println!("  {entries} entries in the logs");
    assert!(entries > 0 && is_logged(&rig, 0));
    starts_without(&rig, [1], &patterns);
    spoil_parity(&rig);
    starts_without(&rig, 0..4, &patterns);
    let array = rig.start();
    array.host().verify(&patterns);
    array.wait_for_resync();
    array.stop();
    println!("  {} units in order", Rows::open(&rig).check());
    let mut guest = Guest::new(&vmrun, &rig.dir, GUEST_SCRIPT, 's');
    guest.add(("ppl", "check"), None, &rig.members(), 512, &patterns);
    let text = guest.run();
    assert_eq!(said(&text, "ppl", "policy"), ["resync"]);
    assert_eq!(said(&text, "ppl", "missing"), ["0"]);
    assert!(said(&text, "ppl", "verify").iter().all(|line| line.starts_with("0 ")));
    assert_eq!(said(&text, "ppl", "mismatch"), ["0"]);
    let array = rig.start();
    array.host().verify(&patterns);
    array.stop();
}

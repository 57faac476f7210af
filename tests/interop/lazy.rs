//! Arrays of Linux md with a member missing while parity does not fit all of the data: where the
//! kernel had not built it yet, and where it was writing when power failed.

use std::fs::{self, File};

use serde_json::json;

use crate::images::{expect, images};
use crate::levels::{over, read_degraded};
use crate::rig::{Pattern, Rig, Running};
use crate::rows::{Rows, copy_without};

/// A new member file joins for the one that is missing; it takes its name when all has stopped.
fn give_new_member(array: &Running, rig: &Rig) {
    let path = rig.dir.file("new.img");
    let sample = rig.members().into_iter().find(|path| path.exists()).unwrap();
    File::create(&path).unwrap().set_len(fs::metadata(sample).unwrap().len()).unwrap();
    let filename = path.to_str().unwrap();
    let bdev = json!({ "name": "new", "filename": filename, "block_size": rig.block_size_bytes() });
    array.mdof.rpc("bdev_uring_create", &bdev).unwrap();
    let join = json!({ "raid_bdev": "r", "base_bdev": "new" });
    array.mdof.rpc("bdev_raid_add_base_bdev", &join).unwrap();
    array.wait_for_rebuild();
}

/// All stopped: every member is there under its name again, and parity fits.
fn check_whole(rig: &Rig, patterns: &[Pattern]) {
    let missing = rig.members().into_iter().find(|path| !path.exists()).unwrap();
    fs::rename(rig.dir.file("new.img"), missing).unwrap();
    println!("  {} units in order", Rows::open(rig).check());
    read_degraded(rig, patterns, 2);
}

/// Chunks that were in need of parity when Linux stopped the array: nobody needs to force it, what
/// was written is read, and written on.
#[test]
fn parity_that_linux_has_not_built_keeps_no_array_from_its_start() {
    let Some(images) = images() else { return };
    for (name, lost) in [("raid5-lazystop", 0), ("raid5-lazystop", 1), ("raid6-daemonstop", 2)] {
        println!("{name} without {lost}");
        let mut rig = copy_without(&Rig::unpack(&images, name, 512), &[lost]);
        rig.arguments = vec!["--start-degraded"];
        let mut patterns = expect(&images, name);
        for round in 0..2 {
            let array = rig.start();
            let mut host = array.host();
            host.verify(&patterns);
            // Beside what was written, and where nothing was.
            let new = (0..24).map(|at| (4096 * round + 24 + at * 1_000, 8, "VMHGEN03".to_owned()));
            let new: Vec<Pattern> = new.map(|(at, n, tag)| (at / 8 * 8, n, tag)).collect();
            for (first, sectors, tag) in &new {
                host.write(*first, *sectors, tag);
            }
            patterns = over(&patterns, &new);
            host.verify(&patterns);
            drop(host);
            array.stop();
        }
        let array = rig.start();
        array.host().verify(&patterns);
        give_new_member(&array, &rig);
        array.host().verify(&patterns);
        array.stop();
        check_whole(&rig, &patterns);
    }
}

/// The operator has forced an array that Linux was writing to when power failed: its rebuild comes
/// to an end, and the array is whole again.
#[test]
fn a_forced_array_of_linux_is_rebuilt() {
    let Some(images) = images() else { return };
    let mut rig = copy_without(&Rig::unpack(&images, "raid5-degradedcut", 512), &[1]);
    rig.arguments = vec!["--start-degraded"];
    let array = rig.start();
    assert_eq!(array.describe()["state"], "configuring");
    let force = json!({ "name": "r", "force": true });
    array.mdof.rpc("bdev_raid_start", &force).unwrap();
    let mut host = array.host();
    // Nothing that was in doubt refuses a write.
    let patterns = [(1024, 8, "VMHGEN03".to_owned()), (300_000, 8, "VMHGEN01".to_owned())];
    host.write(1024, 8, "VMHGEN03");
    host.write(100_130, 8, "VMHGEN03");
    drop(host);
    give_new_member(&array, &rig);
    array.host().verify(&patterns);
    let text = array.stop();
    assert!(text.contains("were computed from parity that may not have fit the data"), "{text}");
    check_whole(&rig, &patterns);
}

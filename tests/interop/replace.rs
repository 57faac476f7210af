//! A member that mdof is replacing when it stops: Linux 7.2 goes on with it, and mdof after that.

use std::fs::File;

use ::mdof::md::{Features, Role};
use serde_json::json;

use crate::kernel::{Guest, pattern, said, vmrun};
use crate::rig::{Rig, superblock};

const GUEST_SCRIPT: &str = include_str!("replace.sh");

/// Where the kernel writes.
const WRITTEN: u64 = 8192;

#[test]
fn linux_goes_on_with_a_replacement_of_mdof() {
    let Some(vmrun) = vmrun() else { return };
    let mut rig = Rig::new("replacing", 2, 512);
    for index in 0..3 {
        File::create(rig.member(index)).unwrap().set_len(256 << 20).unwrap();
    }
    let near = (0..8).map(|at| pattern(at * 16_384, 1024, "VMHGEN01"));
    let patterns: Vec<_> = near.chain([pattern(300_000, 256, "VMHGEN02")]).collect();
    let array = rig.start();
    let mut host = array.host();
    for (first, sectors, tag) in &patterns {
        host.write(*first, *sectors, tag);
    }
    drop(host);
    let newcomer = json!({
        "name": "m2", "filename": rig.member(2).to_str().unwrap(), "block_size": 512
    });
    let rpc = |method: &str, params| array.mdof.rpc(method, &params).unwrap();
    rpc("bdev_uring_create", newcomer);
    rpc("bdev_raid_set_sync", json!({ "name": "r", "max_mib_s": 1 }));
    rpc("bdev_raid_replace_base_bdev", json!({ "name": "m1", "base_bdev": "m2" }));
    let since = std::time::Instant::now();
    while array.describe()["replacement"]["state"] != "replacing" {
        assert!(since.elapsed().as_secs() < 60, "{}", array.describe());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    array.stop();
    let own = superblock(&rig.member(2));
    if !own.features.contains(Features::REPLACEMENT) {
        // So little is copied at once where the machine is slow to stop.
        println!("the copy was over before the stop");
        return;
    }
    assert_eq!(own.own_role(), Role::Active(1));
    (rig.members, rig.named) = (3, Some(2));
    let mut guest = Guest::new(&vmrun, &rig.dir, GUEST_SCRIPT, 'd');
    guest.add(("replacing", "whole"), Some(WRITTEN), &rig.members(), 512, &patterns);
    let text = guest.run();
    let said = |key: &str| said(&text, "replacing", key);
    assert!(said("before").iter().any(|line| line.contains("replacement")), "not found as one");
    assert_eq!(said("degraded"), ["0"]);
    assert_eq!(said("verify").len(), patterns.len());
    assert!(said("verify").iter().all(|line| line.starts_with("0 ")), "{:?}", said("verify"));
    assert_eq!(said("mismatch"), ["0"], "check found differences");
    // Linux has let the old member go, and so has mdof.
    let own = superblock(&rig.member(2));
    assert!(!own.features.contains(Features::RECOVERY_OFFSET), "{:?}", own.features);
    let array = rig.start();
    array.wait_for_resync();
    let mut host = array.host();
    host.verify(&patterns);
    host.verify(&[pattern(WRITTEN, 64, "VMHGEN03")]);
    drop(host);
    assert_eq!(array.describe()["base_bdevs_list"][1]["name"], "m2", "{}", array.describe());
    array.stop();
}

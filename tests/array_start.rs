//! Starts of arrays whose members are not all there: by policy, by the operator's word, and by
//! members that come late.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mdof::{Mdof, TestDir, free_port};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

const NQN: &str = "nqn.2026-01.io.mdof:start";

fn bdevs(names: &[&str]) -> String {
    let bdev = |name: &&str| {
        format!(
            "[[bdev]]\nname = \"{name}\"\nkind = \"uring\"\npath = \"{name}.img\"\n\
             create = true\nsize_mib = 24\nblock_size_bytes = 512\n"
        )
    };
    names.iter().map(bdev).collect()
}

/// An array of a and b, served, with these keys.
fn config(dir: &TestDir, keys: &str) -> PathBuf {
    dir.config(&format!(
        "{}[[array]]\nname = \"r\"\nlevel = 1\nmembers = [\"a\", \"b\"]\n{keys}\
         [[subsystem]]\nnqn = \"{NQN}\"\nallow_any_host = true\n\
         namespaces = [{{ bdev = \"r\", nsid = 1 }}]\nlisten = [\"127.0.0.1:{}\"]\n",
        bdevs(&["a", "b"]),
        free_port()
    ))
}

fn arrays(mdof: &Mdof, category: &str) -> Value {
    mdof.rpc("bdev_raid_get_bdevs", &json!({ "category": category })).unwrap()
}

fn states(mdof: &Mdof) -> Vec<String> {
    let array = arrays(mdof, "online")[0].clone();
    let list = array["base_bdevs_list"].as_array().cloned().unwrap_or_default();
    list.iter().map(|member| member["state"].as_str().unwrap().to_owned()).collect()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn namespaces(mdof: &Mdof) -> usize {
    let found = mdof.rpc("nvmf_get_subsystems", &json!({ "nqn": NQN })).unwrap();
    found[0]["namespaces"].as_array().unwrap().len()
}

fn stop(mdof: Mdof) -> String {
    mdof.signal("TERM");
    let (text, code) = mdof.wait();
    assert_eq!(code, Some(0), "{text}");
    text
}

/// Makes the array and takes its second member away.
fn made_and_bereft(dir: &TestDir, keys: &str) -> PathBuf {
    let config = config(dir, keys);
    stop(Mdof::start(dir, &config, &[]));
    fs::rename(dir.file("b.img"), dir.file("b.away")).unwrap();
    config
}

#[test]
fn refused_until_the_member_comes() {
    let dir = TestDir::new("start-refuse");
    let config = made_and_bereft(&dir, "");
    let before = fs::read(dir.file("a.img")).unwrap();
    let mdof = Mdof::start(&dir, &config, &[]);
    assert!(mdof.banner.contains("array r NOT STARTED"), "{}", mdof.banner);
    assert!(mdof.banner.contains("not there: b"), "{}", mdof.banner);
    let waiting = arrays(&mdof, "configuring")[0].clone();
    assert_eq!((&waiting["name"], &waiting["start_degraded"]), (&json!("r"), &json!("refuse")));
    assert_eq!(waiting["num_base_bdevs_discovered"], 1);
    assert_eq!(waiting["base_bdevs_list"][1]["is_configured"], false);
    let why = waiting["why"].as_str().unwrap();
    assert!(why.contains("slot 1") && why.contains("\"force\": true"), "{why}");
    assert_eq!(arrays(&mdof, "online"), json!([]));
    assert_eq!(namespaces(&mdof), 0);
    let refused = mdof.rpc("bdev_raid_start", &json!({ "name": "r" })).unwrap_err();
    assert!(refused.contains("slot 1"), "{refused}");
    assert_eq!(fs::read(dir.file("a.img")).unwrap(), before, "nothing was written");
    assert!(!dir.file("b.img").exists(), "no new member is made");
    // The missing one comes: the array starts whole, and hosts get their namespace.
    fs::rename(dir.file("b.away"), dir.file("b.img")).unwrap();
    wait_until("the start", || arrays(&mdof, "online") != json!([]));
    assert_eq!(states(&mdof), ["in_sync", "in_sync"]);
    assert_eq!(namespaces(&mdof), 1);
    let text = stop(mdof);
    assert!(text.contains("bdev b was the last that it waited for"), "{text}");
}

#[test]
fn forced_and_the_member_comes_back_by_itself() {
    let dir = TestDir::new("start-force");
    let config = made_and_bereft(&dir, "");
    let mdof = Mdof::start(&dir, &config, &[]);
    mdof.rpc("bdev_raid_start", &json!({ "name": "r", "force": true })).unwrap();
    assert_eq!(states(&mdof), ["in_sync", "missing"]);
    assert_eq!(namespaces(&mdof), 1);
    assert!(mdof.rpc("bdev_raid_start", &json!({ "name": "r" })).unwrap_err().contains("already"));
    fs::rename(dir.file("b.away"), dir.file("b.img")).unwrap();
    wait_until("the re-add", || states(&mdof) == ["in_sync", "in_sync"]);
    let text = stop(mdof);
    assert!(text.contains("the member of slot 1, is back"), "{text}");
}

#[test]
fn waits_as_long_as_it_is_told() {
    let dir = TestDir::new("start-wait");
    let config = made_and_bereft(&dir, "start_degraded = \"wait:3\"\n");
    let since = Instant::now();
    let mdof = Mdof::start(&dir, &config, &[]);
    assert!(mdof.banner.contains("it starts without after 3 s"), "{}", mdof.banner);
    assert_eq!(arrays(&mdof, "configuring").as_array().unwrap().len(), 1);
    wait_until("the start", || arrays(&mdof, "online") != json!([]));
    assert!(since.elapsed() >= Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(states(&mdof), ["in_sync", "missing"]);
    let text = stop(mdof);
    assert!(text.contains("started with 1 of 2 members in sync, without those"), "{text}");
}

#[test]
fn known_failures_need_no_word() {
    let dir = TestDir::new("start-known");
    let config = made_and_bereft(&dir, "start_degraded = \"start\"\n");
    stop(Mdof::start(&dir, &config, &[]));
    // That b is missing is on record at a by now, so that a has what there is.
    let text = fs::read_to_string(&config).unwrap().replace("\"start\"", "\"refuse\"");
    fs::write(&config, text).unwrap();
    let mdof = Mdof::start(&dir, &config, &[]);
    assert_eq!(states(&mdof), ["in_sync", "missing"]);
    stop(mdof);
    // But the one that was away does not know, and holds what is old.
    fs::rename(dir.file("a.img"), dir.file("a.away")).unwrap();
    fs::rename(dir.file("b.away"), dir.file("b.img")).unwrap();
    let mdof = Mdof::start(&dir, &config, &[]);
    assert!(mdof.banner.contains("array r NOT STARTED"), "{}", mdof.banner);
    fs::rename(dir.file("a.away"), dir.file("a.img")).unwrap();
    wait_until("the start", || arrays(&mdof, "online") != json!([]));
    assert_eq!(states(&mdof), ["in_sync", "missing"], "the old one takes no part");
    stop(mdof);
}

#[test]
fn a_member_that_will_never_come_is_named_by_its_slot() {
    let dir = TestDir::new("start-slot");
    let config = made_and_bereft(&dir, "");
    let mdof = Mdof::start(&dir, &config, &[]);
    let remove = |slot: u8| {
        let member = json!({ "raid_bdev": "r", "slot": slot });
        mdof.rpc("bdev_raid_remove_base_bdev", &member).unwrap();
    };
    remove(0);
    assert_eq!(arrays(&mdof, "online"), json!([]), "slot 0 is here; 1 is the one that is missing");
    remove(1);
    assert_eq!(states(&mdof), ["in_sync", "missing"]);
    stop(mdof);
}

#[test]
fn arrays_are_found_on_bdevs_that_nobody_named_them_for() {
    let dir = TestDir::new("start-scan");
    stop(Mdof::start(&dir, &config(&dir, ""), &[]));
    let mdof = Mdof::start(&dir, &dir.config(&bdevs(&["a", "b"])), &[]);
    assert_eq!(states(&mdof), ["in_sync", "in_sync"]);
    stop(mdof);
    let off = format!("[target]\nauto_assemble = false\n{}", bdevs(&["a", "b"]));
    let mdof = Mdof::start(&dir, &dir.config(&off), &[]);
    assert_eq!(arrays(&mdof, "all"), json!([]));
    stop(mdof);
    // At run time: the first waits for the second; a bdev that is held may go again.
    let mdof = Mdof::start(&dir, &dir.config(""), &[]);
    let create = |name: &str| {
        let path = dir.file(&format!("{name}.img"));
        let params = json!({ "name": name, "filename": path, "block_size": 512 });
        mdof.rpc("bdev_uring_create", &params).unwrap();
    };
    create("a");
    assert_eq!(arrays(&mdof, "configuring")[0]["name"], "r");
    mdof.rpc("bdev_uring_delete", &json!({ "name": "a" })).unwrap();
    assert_eq!(arrays(&mdof, "all"), json!([]));
    create("b");
    create("a");
    assert_eq!(states(&mdof), ["in_sync", "in_sync"]);
    mdof.rpc("bdev_raid_delete", &json!({ "name": "r", "clear_sb": true })).unwrap();
    mdof.rpc("bdev_uring_delete", &json!({ "name": "a" })).unwrap();
    create("a");
    assert_eq!(arrays(&mdof, "all"), json!([]), "its superblock is gone");
    stop(mdof);
}

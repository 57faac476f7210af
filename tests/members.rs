//! Members that fail, go, come back or are replaced, over RPC and on real files.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mdof::{Mdof, TestDir};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;
const SIZE_MIB: usize = 24;

/// Longest rebuild of this little.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(dir: &TestDir, arrays: &str) -> PathBuf {
    let bdev = |name: &str| {
        format!(
            "[[bdev]]\nname = \"{name}\"\nkind = \"uring\"\npath = \"{name}.img\"\n\
             create = true\nsize_mib = {SIZE_MIB}\nblock_size_bytes = 512\n"
        )
    };
    dir.config(&format!("{}{}{}{arrays}", bdev("a"), bdev("b"), bdev("c")))
}

/// Two equal members full of a pattern, and a third device full of something else.
fn fill(dir: &TestDir) {
    for (name, salt) in [("a", 1u8), ("b", 1), ("c", 77)] {
        let path = dir.file(&format!("{name}.img"));
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
        for mib in 0..SIZE_MIB {
            let byte = u8::try_from(mib).unwrap().wrapping_mul(7).wrapping_add(salt);
            let bytes = vec![byte; MIB];
            // The ends stay blank: superblocks live there.
            let skip = if mib == 0 { MIB } else { 0 };
            file.write_all_at(&bytes[skip..], (mib * MIB + skip) as u64).unwrap();
        }
    }
}

fn create(mdof: &Mdof) {
    let params = json!({
        "name": "r", "raid_level": "raid1", "superblock": true, "base_bdevs": ["a", "b"],
        "assume_clean": true, "chunk_size_kib": 256
    });
    mdof.rpc("bdev_raid_create", &params).unwrap();
}

fn array(mdof: &Mdof) -> Value {
    mdof.rpc("bdev_raid_get_bdevs", &json!({ "category": "all" })).unwrap()[0].clone()
}

fn state(mdof: &Mdof, slot: usize) -> String {
    array(mdof)["base_bdevs_list"][slot]["state"].as_str().unwrap().to_owned()
}

fn wait_for(mdof: &Mdof, slot: usize, wanted: &str) {
    let since = Instant::now();
    while state(mdof, slot) != wanted {
        assert!(since.elapsed() < PATIENCE, "slot {slot} is {} for long", state(mdof, slot));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn stop(mdof: Mdof) -> String {
    mdof.signal("TERM");
    let (text, code) = mdof.wait();
    assert_eq!(code, Some(0), "{text}");
    text
}

/// The data of two members are the same.
fn assert_alike(dir: &TestDir, one: &str, other: &str) {
    let read = |name: &str| std::fs::read(dir.file(&format!("{name}.img"))).unwrap();
    let (one, other) = (read(one), read(other));
    // Behind superblock and bitmap.
    let differs = (2 * MIB..one.len()).find(|&at| one[at] != other[at]);
    assert_eq!(differs, None, "first byte that differs");
    assert!(one[2 * MIB..].iter().any(|&byte| byte != 0));
}

#[test]
fn a_new_device_takes_the_place_of_one_that_is_gone() {
    let dir = TestDir::new("members-new");
    fill(&dir);
    let mdof = Mdof::start(&dir, &config(&dir, ""), &[]);
    create(&mdof);
    let add = |bdev: &str| {
        mdof.rpc("bdev_raid_add_base_bdev", &json!({ "raid_bdev": "r", "base_bdev": bdev }))
    };
    assert!(add("c").unwrap_err().contains("no empty slot"));
    assert!(add("b").unwrap_err().contains("in use by array r"));
    mdof.rpc("bdev_raid_remove_base_bdev", &json!({ "name": "b" })).unwrap();
    assert_eq!(state(&mdof, 1), "missing");
    let text = mdof.rpc("bdev_raid_remove_base_bdev", &json!({ "name": "a" })).unwrap_err();
    assert!(text.contains("member 0 is the last one in sync"), "{text}");
    add("c").unwrap();
    wait_for(&mdof, 1, "in_sync");
    assert_eq!(array(&mdof)["base_bdevs_list"][1]["name"], "c");
    assert_eq!(array(&mdof)["num_base_bdevs_operational"], 2);
    let text = stop(mdof);
    assert!(text.contains("it will be given all that was ever written"), "{text}");
    assert_alike(&dir, "a", "c");
    // And it is a member from now on.
    let arrays = "[[array]]\nname = \"r\"\nlevel = 1\nmembers = [\"a\", \"c\"]\n";
    let mdof = Mdof::start(&dir, &config(&dir, arrays), &[]);
    assert_eq!([state(&mdof, 0), state(&mdof, 1)], ["in_sync", "in_sync"]);
    // The one that left is older than what the array has cleared since.
    mdof.rpc("bdev_raid_remove_base_bdev", &json!({ "raid_bdev": "r", "slot": 1 })).unwrap();
    mdof.rpc("bdev_raid_add_base_bdev", &json!({ "raid_bdev": "r", "base_bdev": "b" })).unwrap();
    wait_for(&mdof, 1, "in_sync");
    let text = stop(mdof);
    assert!(text.contains("it will be given all that was ever written"), "{text}");
    assert_alike(&dir, "a", "b");
}

#[test]
fn a_member_comes_back_and_is_given_what_changed() {
    let dir = TestDir::new("members-back");
    fill(&dir);
    let mdof = Mdof::start(&dir, &config(&dir, ""), &[]);
    create(&mdof);
    let uuid = array(&mdof)["base_bdevs_list"][1]["uuid"].clone();
    mdof.rpc("bdev_raid_fail_base_bdev", &json!({ "name": "b" })).unwrap();
    assert_eq!(state(&mdof, 1), "faulty");
    mdof.rpc("bdev_raid_add_base_bdev", &json!({ "raid_bdev": "r", "base_bdev": "b" })).unwrap();
    wait_for(&mdof, 1, "in_sync");
    assert_eq!(array(&mdof)["base_bdevs_list"][1]["uuid"], uuid, "it is who it was");
    mdof.rpc("bdev_raid_remove_base_bdev", &json!({ "raid_bdev": "r", "uuid": uuid })).unwrap();
    assert_eq!(state(&mdof, 1), "missing");
    let text = stop(mdof);
    assert!(text.contains("it will be given what changed"), "{text}");
    assert!(text.contains("0 chunks copied"), "{text}");
    assert_alike(&dir, "a", "b");
}

#[test]
fn a_spare_takes_the_place_of_a_member_that_fails() {
    let dir = TestDir::new("members-spare");
    fill(&dir);
    let mdof = Mdof::start(&dir, &config(&dir, ""), &[]);
    create(&mdof);
    mdof.rpc("bdev_raid_add_spare", &json!({ "base_bdev": "c" })).unwrap();
    let spares = mdof.rpc("bdev_raid_get_spares", &json!({})).unwrap();
    assert_eq!(spares[0]["base_bdev"], "c");
    let bounds = json!({ "name": "r", "latency_percent": 150, "latency_us": 5000 });
    mdof.rpc("bdev_raid_set_sync", &bounds).unwrap();
    mdof.rpc("bdev_raid_set_errors", &json!({ "name": "r", "read_errors_max": 5 })).unwrap();
    let shown = array(&mdof);
    let keys = ["sync_max_mib_s", "sync_latency_us", "sync_latency_percent", "read_errors_max"];
    assert_eq!(keys.map(|key| shown[key].as_u64()), [0, 5000, 150, 5].map(Some));
    assert_eq!(shown["base_bdevs_list"][0]["corrected_sectors"], 0);
    mdof.rpc("bdev_raid_fail_base_bdev", &json!({ "name": "b" })).unwrap();
    wait_for(&mdof, 1, "in_sync");
    assert_eq!(array(&mdof)["base_bdevs_list"][1]["name"], "c");
    assert_eq!(mdof.rpc("bdev_raid_get_spares", &json!({})).unwrap(), json!([]));
    // The one that failed has no user any more.
    mdof.rpc("bdev_uring_delete", &json!({ "name": "b" })).unwrap();
    stop(mdof);
    assert_alike(&dir, "a", "c");
}

fn replace(mdof: &Mdof, which: &Value, bdev: &str) -> Result<Value, String> {
    let mut params = which.clone();
    params["base_bdev"] = json!(bdev);
    mdof.rpc("bdev_raid_replace_base_bdev", &params)
}

fn wait_for_place(mdof: &Mdof, slot: usize, bdev: &str) {
    let since = Instant::now();
    while array(mdof)["base_bdevs_list"][slot]["name"] != bdev
        || array(mdof)["replacement"] != Value::Null
    {
        assert!(since.elapsed() < PATIENCE, "{bdev} is not in slot {slot}: {}", array(mdof));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The member serves until the newcomer has everything, also if the target is killed meanwhile.
#[test]
fn a_member_is_replaced_while_it_serves() {
    let dir = TestDir::new("members-replaced");
    fill(&dir);
    let mdof = Mdof::start(&dir, &config(&dir, ""), &[]);
    create(&mdof);
    let slow = json!({ "name": "r", "max_mib_s": 1 });
    mdof.rpc("bdev_raid_set_sync", &slow).unwrap();
    replace(&mdof, &json!({ "name": "b" }), "c").unwrap();
    let shown = array(&mdof);
    assert_eq!(shown["replacement"]["slot"], 1, "{shown}");
    assert_eq!([state(&mdof, 0), state(&mdof, 1)], ["in_sync", "in_sync"]);
    let text = replace(&mdof, &json!({ "name": "a" }), "b").unwrap_err();
    assert!(text.contains("in use by array r"), "{text}");
    let since = Instant::now();
    while array(&mdof)["process"]["type"] != "replace" {
        assert!(since.elapsed() < PATIENCE, "{}", array(&mdof));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(array(&mdof)["process"]["target"], "c");
    // A power cut, as good as: the copy goes on.
    mdof.signal("KILL");
    drop(mdof.wait());
    let arrays = "[[array]]\nname = \"r\"\nlevel = 1\nmembers = [\"a\", \"b\"]\n";
    let mdof = Mdof::start(&dir, &config(&dir, arrays), &[]);
    mdof.rpc("bdev_raid_set_sync", &json!({ "name": "r" })).unwrap();
    wait_for_place(&mdof, 1, "c");
    assert_eq!([state(&mdof, 0), state(&mdof, 1)], ["in_sync", "in_sync"]);
    // The bdev that was let go is free, and may take another member's place.
    replace(&mdof, &json!({ "raid_bdev": "r", "slot": 0 }), "b").unwrap();
    wait_for_place(&mdof, 0, "b");
    let told = mdof.rpc("notify_get_notifications", &json!({ "id": 0, "max": 100 })).unwrap();
    let replaced = told.as_array().unwrap().iter();
    let replaced = replaced.filter(|it| it["type"] == "raid_member_replaced").count();
    assert_eq!(replaced, 2, "{told}");
    stop(mdof);
    assert_alike(&dir, "b", "c");
    let mdof = Mdof::start(&dir, &config(&dir, arrays), &[]);
    assert_eq!([state(&mdof, 0), state(&mdof, 1)], ["in_sync", "in_sync"]);
    assert_eq!(array(&mdof)["base_bdevs_list"][1]["name"], "c");
    stop(mdof);
}

/// The newcomer is taken away, and later a spare is chosen by name.
#[test]
fn a_replacement_is_ended_and_a_spare_replaces() {
    let dir = TestDir::new("members-replacement-ended");
    fill(&dir);
    let mdof = Mdof::start(&dir, &config(&dir, ""), &[]);
    create(&mdof);
    mdof.rpc("bdev_raid_set_sync", &json!({ "name": "r", "max_mib_s": 1 })).unwrap();
    replace(&mdof, &json!({ "name": "b" }), "c").unwrap();
    let text = mdof.rpc("bdev_raid_remove_base_bdev", &json!({ "name": "b" })).unwrap_err();
    assert!(text.contains("being replaced"), "{text}");
    let since = Instant::now();
    while let Err(text) = mdof.rpc("bdev_raid_remove_base_bdev", &json!({ "name": "c" })) {
        assert!(text.contains("just joining") && since.elapsed() < PATIENCE, "{text}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(array(&mdof)["replacement"], Value::Null);
    assert_eq!([state(&mdof, 0), state(&mdof, 1)], ["in_sync", "in_sync"]);
    // Its superblock says that it has failed: it is no spare, and is erased.
    mdof.rpc("bdev_raid_set_sync", &json!({ "name": "r" })).unwrap();
    replace(&mdof, &json!({ "name": "b" }), "c").unwrap();
    wait_for_place(&mdof, 1, "c");
    let text = replace(&mdof, &json!({ "raid_bdev": "r", "slot": 7 }), "b").unwrap_err();
    assert!(text.contains("it has no slot 7"), "{text}");
    let spare = json!({ "base_bdev": "b", "raid_bdev": "r" });
    let text = mdof.rpc("bdev_raid_add_spare", &spare).unwrap_err();
    assert!(text.contains("carries a superblock"), "{text}");
    stop(mdof);
    let blank = OpenOptions::new().write(true).open(dir.file("b.img")).unwrap();
    blank.write_all_at(&vec![0; 2 * MIB], 0).unwrap();
    let arrays = "[[array]]\nname = \"r\"\nlevel = 1\nmembers = [\"a\", \"c\"]\n";
    let mdof = Mdof::start(&dir, &config(&dir, arrays), &[]);
    mdof.rpc("bdev_raid_add_spare", &spare).unwrap();
    replace(&mdof, &json!({ "name": "a" }), "b").unwrap();
    assert_eq!(mdof.rpc("bdev_raid_get_spares", &json!({})).unwrap(), json!([]));
    wait_for_place(&mdof, 0, "b");
    stop(mdof);
    assert_alike(&dir, "b", "c");
}

#[test]
fn a_rebuild_goes_on_after_the_target_was_killed() {
    let dir = TestDir::new("members-kill");
    fill(&dir);
    let mdof = Mdof::start(&dir, &config(&dir, ""), &[]);
    create(&mdof);
    mdof.rpc("bdev_raid_set_sync", &json!({ "name": "r", "max_mib_s": 2 })).unwrap();
    mdof.rpc("bdev_raid_remove_base_bdev", &json!({ "name": "b" })).unwrap();
    mdof.rpc("bdev_raid_add_base_bdev", &json!({ "raid_bdev": "r", "base_bdev": "c" })).unwrap();
    wait_for(&mdof, 1, "rebuilding");
    let since = Instant::now();
    // There is no process yet while the member is joining.
    while array(&mdof)["process"]["progress"]["percent"].as_u64().unwrap_or(0) < 10 {
        assert!(since.elapsed() < PATIENCE, "{}", array(&mdof));
        std::thread::sleep(Duration::from_millis(50));
    }
    let process = array(&mdof)["process"].clone();
    assert_eq!((&process["type"], &process["target"]), (&json!("rebuild"), &json!("c")));
    assert!(process["mib_s"].as_u64().unwrap() <= 4, "{process}");
    mdof.signal("KILL");
    mdof.wait();
    let arrays = "[[array]]\nname = \"r\"\nlevel = 1\nmembers = [\"a\", \"c\"]\n";
    let mdof = Mdof::start(&dir, &config(&dir, arrays), &[]);
    wait_for(&mdof, 1, "in_sync");
    stop(mdof);
    assert_alike(&dir, "a", "c");
}

#[test]
fn a_check_tells_what_differs_and_a_repair_mends_it() {
    let dir = TestDir::new("members-check");
    fill(&dir);
    let mdof = Mdof::start(&dir, &config(&dir, ""), &[]);
    create(&mdof);
    mdof.rpc("bdev_raid_delete", &json!({ "name": "r" })).unwrap();
    // Somebody writes to a member behind the array's back.
    let file = OpenOptions::new().write(true).open(dir.file("b.img")).unwrap();
    file.write_all_at(&[0xaa; 512], 10 * MIB as u64).unwrap();
    drop(file);
    let params = json!({ "name": "r", "raid_level": "raid1", "superblock": true,
                         "base_bdevs": ["a", "b"] });
    mdof.rpc("bdev_raid_create", &params).unwrap();
    let scrubbed = |action: &str| {
        mdof.rpc("bdev_raid_scrub", &json!({ "name": "r", "action": action })).unwrap();
        let since = Instant::now();
        loop {
            let scrub = mdof.rpc("bdev_raid_get_scrub", &json!({ "name": "r" })).unwrap();
            if scrub["running"] == false {
                return scrub;
            }
            assert!(since.elapsed() < PATIENCE, "{scrub}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let first = scrubbed("check");
    assert_eq!((&first["mismatches"], &first["percent"]), (&json!(1), &json!(100)), "{first}");
    assert_eq!(first["first_mismatches"][0]["slot"], 1);
    assert_eq!(scrubbed("repair")["mismatches"], 1);
    assert_eq!(scrubbed("check")["mismatches"], 0);
    mdof.rpc("bdev_raid_set_scrub_schedule", &json!({ "name": "r", "every_hours": 168 })).unwrap();
    stop(mdof);
    assert_alike(&dir, "a", "b");
}

/// What the array says of its growth, until it has ended.
fn wait_growth(mdof: &Mdof) -> Value {
    let since = Instant::now();
    loop {
        let growth = array(mdof)["growth"].clone();
        if growth.is_null() || growth["state"] == "failed" {
            return growth;
        }
        assert!(since.elapsed() < 2 * PATIENCE, "no end of {growth}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn enlarge(dir: &TestDir) {
    for name in ["a", "b"] {
        let path = dir.file(&format!("{name}.img"));
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len((2 * SIZE_MIB * MIB) as u64).unwrap();
    }
}

/// A target with an array on bdev `a` and one above `b`, `EE_b`, which can be made to hang.
fn start_with_one_that_may_hang(dir: &TestDir, bitmap: Value) -> Mdof {
    fill(dir);
    let mdof = Mdof::start(dir, &config(dir, ""), &[]);
    mdof.rpc("bdev_error_create", &json!({ "base_name": "b" })).unwrap();
    let mut new = json!({
        "name": "r", "raid_level": "raid1", "superblock": true, "base_bdevs": ["a", "EE_b"],
        "assume_clean": true
    });
    new.as_object_mut().unwrap().extend(bitmap.as_object().unwrap().clone());
    mdof.rpc("bdev_raid_create", &new).unwrap();
    mdof
}

/// Requests of this type are kept by `EE_b`.
fn hang(mdof: &Mdof, io_type: &str) {
    let hang =
        json!({ "name": "EE_b", "io_type": io_type, "error_type": "pending", "num": 100_000 });
    mdof.rpc("bdev_error_inject_error", &hang).unwrap();
}

/// It answers again, and what it has kept.
fn answer(mdof: &Mdof) {
    let clear = json!({ "name": "EE_b", "io_type": "clear", "error_type": "pending" });
    mdof.rpc("bdev_error_inject_error", &clear).unwrap();
    mdof.rpc("bdev_error_resume_pending", &json!({ "name": "EE_b" })).unwrap();
}

/// An array without a bitmap stops to grow, and does not while a member hangs: everything else can
/// be said to the target then.
#[test]
fn an_array_without_a_bitmap_does_not_stop_to_grow_when_a_member_hangs() {
    let dir = TestDir::new("members-rest");
    let mdof = start_with_one_that_may_hang(&dir, json!({ "bitmap": "none" }));
    let call = |method: &str, params: Value| mdof.rpc(method, &params);
    enlarge(&dir);
    for io_type in ["read", "flush"] {
        hang(&mdof, io_type);
        let text = call("bdev_raid_grow", json!({ "name": "r" })).unwrap_err();
        assert!(text.contains("bdev EE_b has not answered for 5 s"), "{text}");
        assert!(text.contains("Nothing was changed"), "{text}");
        assert_eq!(array(&mdof)["state"], "online");
        answer(&mdof);
    }
    let grown = call("bdev_raid_grow", json!({ "name": "r" })).unwrap();
    let blocks = |key: &str| grown[key].as_u64().unwrap();
    assert!(blocks("num_blocks") > blocks("old_num_blocks") * 3 / 2, "{grown}");
    stop(mdof);
}

/// The call is answered soon, the growth given up, the member named; and it may still do later what
/// it was asked.
#[test]
fn a_growth_waits_for_no_member_that_hangs() {
    let dir = TestDir::new("members-grow");
    let mdof = start_with_one_that_may_hang(&dir, json!({ "chunk_size_kib": 256 }));
    let call = |method: &str, params: Value| mdof.rpc(method, &params);
    let blocks = || {
        let bdevs = call("bdev_get_bdevs", json!({ "name": "r" })).unwrap();
        bdevs[0]["num_blocks"].as_u64().unwrap()
    };
    let old = blocks();
    enlarge(&dir);
    hang(&mdof, "all");
    // On a slow machine it may be given up before the call is answered.
    match call("bdev_raid_grow", json!({ "name": "r" })) {
        Ok(answer) => {
            assert_eq!(
                (&answer["state"], &answer["old_num_blocks"]),
                (&json!("growing"), &json!(old))
            );
            assert!(answer["num_blocks"].as_u64().unwrap() > old, "{answer}");
        }
        Err(text) => assert!(text.contains("has not grown") && text.contains("EE_b"), "{text}"),
    }
    assert_eq!(array(&mdof)["growth"]["waits_for"], json!(["EE_b"]));
    let growth = wait_growth(&mdof);
    let reason = growth["reason"].as_str().unwrap();
    assert!(reason.contains("has not answered for 10 s"), "{growth}");
    assert_eq!((&growth["waits_for"], blocks()), (&json!(["EE_b"]), old));
    let notices = call("notify_get_notifications", json!({})).unwrap();
    let failed = |notice: &&Value| notice["type"] == "raid_growth_failed";
    let notice = notices.as_array().unwrap().iter().find(failed).unwrap();
    assert!(notice["text"].as_str().unwrap().ends_with("waited for member 1"), "{notice}");
    let text = call("bdev_raid_grow", json!({ "name": "r" })).unwrap_err();
    assert!(text.contains("is answered by member 1"), "{text}");
    answer(&mdof);
    let since = Instant::now();
    while call("bdev_raid_grow", json!({ "name": "r" })).is_err() {
        assert!(since.elapsed() < PATIENCE, "it does not grow: {}", array(&mdof));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(wait_growth(&mdof), Value::Null);
    assert!(blocks() > old + old / 2, "{} and {old}", blocks());
    stop(mdof);
}

/// Another member hangs at the end of a replacement: the operator hears which, everything else can
/// be said to the target, and when it answers the replacement comes to its end.
#[test]
fn the_end_of_a_replacement_names_who_hangs() {
    let dir = TestDir::new("members-swap");
    let mdof = start_with_one_that_may_hang(&dir, json!({ "chunk_size_kib": 256 }));
    let call = |method: &str, params: Value| mdof.rpc(method, &params);
    call("bdev_raid_set_sync", json!({ "name": "r", "max_mib_s": 8 })).unwrap();
    call("bdev_raid_replace_base_bdev", json!({ "name": "a", "base_bdev": "c" })).unwrap();
    let wait = |what: &str, is_so: &dyn Fn() -> bool| {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < PATIENCE, "not {what}: {}", array(&mdof));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait("copying", &|| array(&mdof)["replacement"]["state"] == "replacing");
    hang(&mdof, "all");
    call("bdev_raid_set_sync", json!({ "name": "r", "max_mib_s": 0 })).unwrap();
    let told = || {
        let notices = call("notify_get_notifications", json!({})).unwrap();
        let waits = |notice: &&Value| notice["type"] == "raid_replacement_waits";
        let text = notices.as_array().unwrap().iter().find(waits).map(|it| it["text"].to_string());
        text.is_some_and(|text| text.contains("of member 1"))
    };
    wait("said who is waited for", &told);
    let replacement = array(&mdof)["replacement"].clone();
    assert_eq!((&replacement["slot"], &replacement["waits_for"]), (&json!(0), &json!(["EE_b"])));
    answer(&mdof);
    wait("replaced", &|| array(&mdof)["base_bdevs_list"][0]["name"] == "c");
    assert_eq!(array(&mdof)["replacement"], Value::Null);
    stop(mdof);
    assert_alike(&dir, "b", "c");
}

/// Longest answer of a call while a member hangs: a look at it and a stop, each bounded by 5 s, on
/// a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A call that is answered soon, however.
fn soon(mdof: &Mdof, method: &str, params: Value) -> Result<Value, String> {
    let since = Instant::now();
    let answer = mdof.rpc(method, &params);
    assert!(since.elapsed() < SOON, "{method} took {:?}: {answer:?}", since.elapsed());
    answer
}

fn is_gone(mdof: &Mdof) -> bool {
    mdof.rpc("bdev_raid_get_bdevs", &json!({ "category": "all" })).unwrap() == json!([])
}

fn assemble(mdof: &Mdof, members: [&str; 2]) {
    let params = json!({ "name": "r", "raid_level": "raid1", "superblock": true,
                         "base_bdevs": members });
    mdof.rpc("bdev_raid_create", &params).unwrap();
}

/// A member that answers nothing is found before anything is stopped: the array goes on, and stops
/// without it when it has been thrown out.
#[test]
fn an_array_is_not_stopped_while_a_member_answers_nothing() {
    let dir = TestDir::new("members-stop-refused");
    let mdof = start_with_one_that_may_hang(&dir, json!({ "chunk_size_kib": 256 }));
    for io_type in ["read", "flush", "all"] {
        hang(&mdof, io_type);
        let text = soon(&mdof, "bdev_raid_delete", json!({ "name": "r" })).unwrap_err();
        assert!(text.contains("bdev EE_b has not answered for 5 s"), "{text}");
        assert!(text.contains("Nothing was changed"), "{text}");
        assert!(text.contains("bdev_raid_remove_base_bdev"), "{text}");
        let shown = array(&mdof);
        assert_eq!((&shown["state"], &shown["stopping"]), (&json!("online"), &Value::Null));
        assert_eq!([state(&mdof, 0), state(&mdof, 1)], ["in_sync", "in_sync"]);
        if io_type != "all" {
            answer(&mdof);
        }
    }
    soon(&mdof, "bdev_raid_remove_base_bdev", json!({ "name": "EE_b" })).unwrap();
    soon(&mdof, "bdev_raid_delete", json!({ "name": "r" })).unwrap();
    assert!(is_gone(&mdof));
    answer(&mdof);
    let create = json!({ "name": "r", "raid_level": "raid1", "superblock": true,
                         "base_bdevs": ["a"], "existing": true, "start_degraded": true });
    mdof.rpc("bdev_raid_create", &create).unwrap();
    let add = json!({ "raid_bdev": "r", "base_bdev": "EE_b" });
    mdof.rpc("bdev_raid_add_base_bdev", &add).unwrap();
    wait_for(&mdof, 1, "in_sync");
    stop(mdof);
    assert_alike(&dir, "a", "b");
}

/// A member that hangs when the stop has begun: the call is answered, everything else too, and the
/// array is gone when the member answers.
#[test]
fn a_stop_goes_on_without_its_call_when_a_member_hangs() {
    let dir = TestDir::new("members-stop-hangs");
    let mdof = start_with_one_that_may_hang(&dir, json!({ "chunk_size_kib": 256 }));
    for erase in [false, true] {
        hang(&mdof, "write");
        let text = soon(&mdof, "bdev_raid_delete", json!({ "name": "r" })).unwrap_err();
        for part in ["array r is being stopped", "EE_b", "5 s", "bdev_raid_get_bdevs", "-16"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let shown = array(&mdof);
        assert_eq!(shown["state"], "offline", "{shown}");
        assert_eq!(shown["stopping"]["waits_for"], json!(["EE_b"]), "{shown}");
        for (method, params) in [
            ("bdev_get_bdevs", json!({})),
            ("nvmf_get_stats", json!({})),
            ("framework_get_config", json!({ "name": "bdev" })),
            ("bdev_raid_get_bitmap", json!({ "name": "r" })),
            ("bdev_raid_set_options", json!({})),
            ("bdev_malloc_create", json!({ "name": "m", "num_blocks": 64, "block_size": 512 })),
            ("bdev_malloc_delete", json!({ "name": "m" })),
        ] {
            soon(&mdof, method, params).unwrap();
        }
        for (method, params) in [
            ("bdev_raid_remove_base_bdev", json!({ "name": "EE_b" })),
            ("bdev_raid_replace_base_bdev", json!({ "name": "EE_b", "base_bdev": "c" })),
            ("bdev_raid_grow", json!({ "name": "r" })),
            ("bdev_error_create", json!({ "base_name": "r" })),
            ("bdev_error_delete", json!({ "name": "EE_b" })),
        ] {
            let text = soon(&mdof, method, params).unwrap_err();
            assert!(text.contains("stop") || text.contains("in use by array r"), "{text}");
        }
        // Again, and what becomes of the superblocks can still be said.
        let again = json!({ "name": "r", "clear_sb": erase });
        let text = soon(&mdof, "bdev_raid_delete", again).unwrap_err();
        assert!(text.contains("array r is being stopped"), "{text}");
        assert_eq!(array(&mdof)["stopping"]["clear_sb"], erase);
        answer(&mdof);
        let since = Instant::now();
        while !is_gone(&mdof) {
            assert!(since.elapsed() < PATIENCE, "it does not stop: {}", array(&mdof));
            std::thread::sleep(Duration::from_millis(20));
        }
        let told = mdof.rpc("notify_get_notifications", &json!({})).unwrap();
        assert!(told.to_string().contains("raid_stopped"), "{told}");
        if !erase {
            assemble(&mdof, ["a", "EE_b"]);
            assert_eq!([state(&mdof, 0), state(&mdof, 1)], ["in_sync", "in_sync"]);
        }
    }
    // The members are blank and free: they take another array.
    let new = json!({ "name": "s", "raid_level": "raid1", "superblock": true,
                      "base_bdevs": ["a", "EE_b"], "assume_clean": true });
    mdof.rpc("bdev_raid_create", &new).unwrap();
    stop(mdof);
}

/// The target ends though a member hangs, and says for whom it waited; nothing is lost.
#[test]
fn the_target_ends_though_a_member_hangs() {
    let dir = TestDir::new("members-end-hangs");
    let mdof = start_with_one_that_may_hang(&dir, json!({ "chunk_size_kib": 256 }));
    hang(&mdof, "write");
    let since = Instant::now();
    mdof.signal("TERM");
    let (text, code) = mdof.wait();
    assert!(since.elapsed() < Duration::from_secs(45), "{:?}: {text}", since.elapsed());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("array r") && text.contains("EE_b"), "{text}");
    assert!(!text.contains("stopped cleanly after"), "{text}");
    let mdof = Mdof::start(&dir, &config(&dir, ""), &[]);
    assert_eq!([state(&mdof, 0), state(&mdof, 1)], ["in_sync", "in_sync"]);
    stop(mdof);
    assert_alike(&dir, "a", "b");
}

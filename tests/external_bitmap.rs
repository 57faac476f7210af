//! A bitmap in a file or on a bdev of its own, as an operator uses it.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use mdof::{Mdof, TestDir, free_port, refused};
use serde_json::{Value, json};

const BDEVS: &str = "[[bdev]]\nname = \"a\"\nkind = \"uring\"\npath = \"a.img\"\ncreate = true\n\
                     size_mib = 64\n\
                     [[bdev]]\nname = \"b\"\nkind = \"uring\"\npath = \"b.img\"\ncreate = true\n\
                     size_mib = 64\n";

fn config(dir: &TestDir, bdevs: &str, keys: &str) -> PathBuf {
    dir.config(&format!(
        "{BDEVS}{bdevs}[[array]]\nname = \"r\"\nlevel = 1\nmembers = [\"a\", \"b\"]\n{keys}"
    ))
}

fn array(mdof: &Mdof) -> Value {
    mdof.rpc("bdev_raid_get_bdevs", &json!({ "category": "all" })).unwrap()[0].clone()
}

fn states(mdof: &Mdof) -> Value {
    mdof.rpc("bdev_raid_get_bitmap", &json!({ "name": "r" })).unwrap()["states"].clone()
}

fn stop(mdof: Mdof) {
    mdof.signal("TERM");
    let (text, code) = mdof.wait();
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn in_a_file_made_once_and_found_again() {
    let dir = TestDir::new("ext-file");
    let config_file = config(&dir, "", "bitmap_file = \"r.bitmap\"\n");
    let first = Mdof::start(&dir, &config_file, &[]);
    assert_eq!(array(&first)["bitmap_bdev"], "r-bitmap");
    assert!(states(&first)["unwritten"].as_u64().unwrap() > 100);
    stop(first);
    assert_eq!(&fs::read(dir.file("r.bitmap")).unwrap()[..8], b"bitm\x06\0\0\0");
    let second = Mdof::start(&dir, &config_file, &[]);
    assert!(second.banner.contains("re-assembled"), "{}", second.banner);
    assert!(!second.banner.contains("not stopped cleanly"), "{}", second.banner);
    assert_eq!(states(&second)["need_sync"], 0);
    second.signal("KILL");
    second.wait();
    let third = Mdof::start(&dir, &config_file, &[]);
    assert_eq!(states(&third)["need_sync"], 0, "nothing was ever written");
    stop(third);
    // Gone: refused, unless the operator wants another.
    let kept = fs::read(dir.file("r.bitmap")).unwrap();
    fs::remove_file(dir.file("r.bitmap")).unwrap();
    let text = refused(&dir, &config_file, &[]);
    assert!(text.contains("nothing is there") && text.contains("bitmap_lost"), "{text}");
    assert!(!dir.file("r.bitmap").exists());
    let lost = config(&dir, "", "bitmap_file = \"r.bitmap\"\nbitmap_lost = \"resync\"\n");
    let fourth = Mdof::start(&dir, &lost, &[]);
    assert!(fourth.banner.contains("what was in doubt is resynced"), "{}", fourth.banner);
    stop(fourth);
    // The one that had gone comes back: it is older than the superblocks.
    fs::write(dir.file("r.bitmap"), kept).unwrap();
    let config_file = config(&dir, "", "bitmap_file = \"r.bitmap\"\n");
    let fifth = Mdof::start(&dir, &config_file, &[]);
    assert_eq!(states(&fifth)["unwritten"], 0, "everything is resynced");
    fifth.signal("TERM");
    let (text, _) = fifth.wait();
    assert!(text.contains("out of date"), "{text}");
}

#[test]
fn on_a_bdev_by_toml_and_rpc() {
    let dir = TestDir::new("ext-bdev");
    let bdev = "[[bdev]]\nname = \"map\"\nkind = \"uring\"\npath = \"map.img\"\ncreate = true\n\
                size_mib = 1\n";
    let config_file = config(&dir, bdev, "bitmap_bdev = \"map\"\n");
    stop(Mdof::start(&dir, &config_file, &[]));
    // Started without: the bitmap is not named, so everything is resynced.
    let unnamed = config(&dir, bdev, "");
    let without = Mdof::start(&dir, &unnamed, &[]);
    assert!(without.banner.contains("not stopped cleanly"), "{}", without.banner);
    assert_eq!(array(&without)["bitmap"], "none");
    without.rpc("bdev_raid_delete", &json!({ "name": "r" })).unwrap();
    let create = |extra: &Value| {
        let mut params = json!({
            "name": "r", "raid_level": "raid1", "superblock": true, "base_bdevs": ["a", "b"]
        });
        params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        without.rpc("bdev_raid_create", &params)
    };
    for (extra, part) in [
        (json!({ "bitmap_bdev": "nobody" }), "there is no bdev nobody"),
        (json!({ "bitmap_bdev": "a" }), "bdev a is a member"),
        (json!({ "bitmap_bdev": "map", "bitmap": "none" }), "bitmap is"),
        (json!({ "bitmap_bdev": "map", "bitmap_file": "/x" }), "give one of them"),
        (json!({ "bitmap_file": "x" }), "absolute path"),
    ] {
        let text = create(&extra).unwrap_err();
        assert!(text.contains(part), "{extra}: {text}");
    }
    create(&json!({ "bitmap_bdev": "map", "infection": "off" })).unwrap();
    assert_eq!(states(&without)["unwritten"], 0, "it was out of date");
    let bitmap = without.rpc("bdev_raid_get_bitmap", &json!({ "name": "r" })).unwrap();
    assert_eq!(bitmap["infection"], "off");
    let text = without.rpc("bdev_uring_delete", &json!({ "name": "map" })).unwrap_err();
    assert!(text.contains("in use by array r"), "{text}");
    without.rpc("bdev_raid_delete", &json!({ "name": "r", "clear_sb": true })).unwrap();
    assert!(fs::read(dir.file("map.img")).unwrap()[..4096].iter().all(|&byte| byte == 0));
    let file = dir.file("rpc.bitmap");
    create(&json!({ "bitmap_file": file })).unwrap();
    assert!(file.exists());
    stop(without);
}

#[test]
fn keys_that_do_not_go_together() {
    let dir = TestDir::new("ext-keys");
    for (keys, part) in [
        ("bitmap_file = \"x\"\nbitmap_bdev = \"a\"\n", "give one of them"),
        ("bitmap_file = \"x\"\nbitmap = \"none\"\n", "bitmap_file is of the bitmap"),
        ("bitmap_file = \"\"\n", "bitmap_file is empty"),
        ("bitmap_bdev = \"c\"\n", "uses \"c\", which no bdev above has"),
        ("bitmap_bdev = \"a\"\n", "uses \"a\", but array \"r\" does already"),
    ] {
        let text = refused(&dir, &config(&dir, "", keys), &[]);
        assert!(text.contains(part), "{keys}: {text}");
    }
}

#[test]
fn by_the_commands() {
    let dir = TestDir::new("ext-cli");
    let path = |name: &str| dir.file(name).display().to_string();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_mdof")).args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (text + &String::from_utf8(output.stderr).unwrap(), output.status.success())
    };
    let (a, b, map) = (path("a.img"), path("b.img"), path("map"));
    let create = ["create", "--name", "r", "--size", "64M", "--bitmap-file", &map, &a, &b];
    let (text, ok) = run(&[&create[..], &["--dry-run"]].concat());
    assert!(ok && text.contains(&format!("bitmap in {map}")), "{text}");
    assert!(!dir.file("map").exists());
    let (text, ok) = run(&create);
    assert!(ok && text.contains(&format!("mdof assemble --bitmap-file {map} {a} {b}")), "{text}");
    fs::remove_file(dir.file("a.img")).unwrap();
    fs::remove_file(dir.file("b.img")).unwrap();
    let (text, ok) = run(&create);
    assert!(!ok && text.contains("holds data") && text.contains("--force"), "{text}");
    let (text, ok) = run(&[&create[..], &["--force"]].concat());
    assert!(ok, "{text}");
    let (text, ok) = run(&["assemble", "--dry-run", "--bitmap-file", &map, &a, &b]);
    assert!(ok && text.contains(&format!("bitmap_file = \"{map}\"")), "{text}");
    let listen = format!("127.0.0.1:{}", free_port());
    let served = Mdof::assemble(&dir, &["--listen", &listen, "--bitmap-file", &map, &a, &b]);
    assert_eq!(array(&served)["bitmap_bdev"], "r-bitmap");
    assert_eq!(states(&served)["need_sync"], 0);
    stop(served);
}

//! `mdof create`, `examine` and `assemble` as an operator runs them: on files, beside a running
//! target, held against mdadm and against the members that Linux md made.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mdof::{Mdof, TestDir, free_port};
use serde_json::{Value, json};

/// Runs `mdof` in a directory.
fn run(dir: &TestDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mdof"));
    command.current_dir(&dir.0).env("MDOF_STATE_DIR", dir.file("state")).args(arguments);
    command.output().unwrap()
}

/// Its standard output; it must succeed.
fn ok(dir: &TestDir, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Its one sentence; it must fail with exit code 1.
fn refused(dir: &TestDir, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap().to_owned();
    assert!(last.starts_with("mdof: "), "{text}");
    last
}

fn json_of(dir: &TestDir, files: &[&str]) -> Value {
    let text = ok(dir, &[&["examine", "--json"], files].concat());
    serde_json::from_str(&text).unwrap()
}

const CREATE: [&str; 5] = ["create", "--name", "r1", "--size", "64M"];

fn create(dir: &TestDir, more: &[&str]) -> String {
    ok(dir, &[&CREATE, more, &["a.img", "b.img"]].concat())
}

/// Configuration of a target on the two members.
fn config(dir: &TestDir, block_size_bytes: u32) -> PathBuf {
    let bdev = |name: &str| {
        let path = dir.file(name);
        format!(
            "[[bdev]]\nname = \"{name}\"\nkind = \"uring\"\npath = \"{}\"\n\
             block_size_bytes = {block_size_bytes}\n",
            path.display()
        )
    };
    dir.config(&format!(
        "{}{}[[array]]\nname = \"r1\"\nlevel = 1\nmembers = [\"a.img\", \"b.img\"]\n",
        bdev("a.img"),
        bdev("b.img")
    ))
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = TestDir::new("create-dry");
    let text = create(&dir, &["--dry-run"]);
    for wanted in ["array r1: RAID1 of 2 members, 63 MiB", "1008 of 64 KiB", "(--dry-run)"] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    File::create(dir.file("a.img")).unwrap().set_len(64 << 20).unwrap();
    create(&dir, &["--dry-run"]);
    let head = &fs::read(dir.file("a.img")).unwrap()[..1 << 20];
    assert!(head.iter().all(|&byte| byte == 0), "a blank member was written to");
    assert!(!dir.file("b.img").exists());
}

#[test]
fn what_is_created_is_examined_and_started_by_a_configuration() {
    for (more, block_size_bytes, chunk_bytes, state) in [
        (&[][..], 512, 65_536, "unwritten"),
        (&["--block-size", "4096", "--chunk-size", "16k", "--assume-clean"], 4096, 16_384, "clean"),
    ] {
        let dir = TestDir::new(&format!("create-{block_size_bytes}"));
        let text = create(&dir, more);
        assert!(text.contains("serve it with:  mdof assemble a.img b.img"), "{text}");
        let found = json_of(&dir, &["a.img", "b.img"]);
        let array = &found["arrays"][0];
        assert_eq!((&array["name"], &array["slots"]), (&json!("r1"), &json!(2)));
        assert_eq!((&array["clean"], &array["missing_slots"]), (&json!(true), &json!([])));
        assert_eq!(array["logical_block_size_bytes"], block_size_bytes);
        assert_eq!(array["bitmap"]["chunk_size_bytes"], chunk_bytes);
        assert_eq!(array["bitmap"]["states"][state]["bytes"], 63 << 20);
        let plan = json!({"error": null, "in_sync": 2, "degraded": false, "bitmap": "load",
            "resync_chunks": 0, "resync_bytes": 0});
        assert_eq!(array["plan"], plan);
        let running = Mdof::start(&dir, &config(&dir, block_size_bytes), &[]);
        assert!(running.banner.contains("array r1 re-assembled"), "{}", running.banner);
        let bitmap = running.rpc("bdev_raid_get_bitmap", &json!({ "name": "r1" })).unwrap();
        assert_eq!(bitmap["chunk_size_bytes"], chunk_bytes);
        assert_eq!(bitmap["states"][state], (63 << 20) / chunk_bytes);
        // Beside the running target: in use, and still readable; but not to be overwritten.
        let text = ok(&dir, &["examine", "a.img", "b.img"]);
        assert!(text.contains("in use by a running target"), "{text}");
        let text = refused(&dir, &[&CREATE[..], &["--force", "a.img", "b.img"]].concat());
        assert!(text.contains("is in use"), "{text}");
        running.signal("TERM");
        assert_eq!(running.wait().1, Some(0));
        let text = ok(&dir, &["examine", "a.img", "b.img"]);
        assert!(text.contains("  state      clean\n"), "{text}");
    }
}

#[test]
fn chunk_size_and_assume_clean_by_configuration_and_by_rpc() {
    let dir = TestDir::new("create-keys");
    let bdev = |name: &str| {
        format!(
            "[[bdev]]\nname = \"{name}\"\nkind = \"uring\"\npath = \"{name}\"\ncreate = true\n\
             size_mib = 64\n"
        )
    };
    let path = dir.config(&format!(
        "{}{}[[array]]\nname = \"r1\"\nlevel = 1\nmembers = [\"a\", \"b\"]\n\
         chunk_size_kib = 256\nassume_clean = true\n",
        bdev("a"),
        bdev("b")
    ));
    let running = Mdof::start(&dir, &path, &[]);
    for name in ["m0", "m1"] {
        let params = json!({ "name": name, "num_blocks": 131_072, "block_size": 512 });
        running.rpc("bdev_malloc_create", &params).unwrap();
    }
    let params = |chunk_size_kib: u64| {
        json!({ "name": "r2", "raid_level": "raid1", "base_bdevs": ["m0", "m1"],
            "superblock": true, "chunk_size_kib": chunk_size_kib, "assume_clean": true })
    };
    let text = running.rpc("bdev_raid_create", &params(48)).unwrap_err();
    assert!(text.contains("chunk_size_kib is a power of two from 4 to 1048576"), "{text}");
    running.rpc("bdev_raid_create", &params(8)).unwrap();
    for (name, kib) in [("r1", 256), ("r2", 8)] {
        let bitmap = running.rpc("bdev_raid_get_bitmap", &json!({ "name": name })).unwrap();
        assert_eq!(bitmap["chunk_size_bytes"], kib * 1024, "{name}");
        assert_eq!(bitmap["states"]["clean"], 63 * 1024 / kib, "{name}");
    }
    running.signal("TERM");
    assert_eq!(running.wait().1, Some(0));
    let found = json_of(&dir, &["a", "b"]);
    assert_eq!(found["arrays"][0]["bitmap"]["chunk_size_bytes"], 256 * 1024);
}

#[test]
fn data_and_members_are_kept_without_force() {
    let dir = TestDir::new("create-keep");
    create(&dir, &[]);
    let uuid = json_of(&dir, &["a.img"])["arrays"][0]["uuid"].clone();
    let text = refused(&dir, &[&CREATE[..], &["a.img", "c.img"]].concat());
    assert!(text.contains("a.img is a member of array r1") && text.contains("--force"), "{text}");
    assert!(!dir.file("c.img").exists(), "no file is made before all is decided");
    let file = File::create(dir.file("d.img")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(b"a letter", 50 << 20).unwrap();
    let text = refused(&dir, &[&CREATE[..], &["c.img", "d.img"]].concat());
    assert!(text.contains("d.img holds data; nothing was written"), "{text}");
    assert_eq!(json_of(&dir, &["a.img", "b.img"])["arrays"][0]["uuid"], uuid);
    let text = create(&dir, &["--force"]);
    assert!(text.contains("WHICH IS LOST"), "{text}");
    let again = json_of(&dir, &["a.img", "b.img"]);
    assert_ne!(again["arrays"][0]["uuid"], uuid);
    assert_eq!(again["arrays"][0]["plan"]["in_sync"], 2);
}

#[test]
fn what_cannot_be_made_is_told_and_leaves_nothing() {
    let dir = TestDir::new("create-bad");
    let cases: [(&[&str], &str); 6] = [
        (&["create", "--name", "r1", "a", "b"], "a does not exist; --size SIZE lets mdof make it"),
        (&["create", "--name", "r1", "--size", "64M", "a", "./a"], "is given twice"),
        (&["create", "--name", "r1", "--size", "64M", "a"], "takes 2 to 64 members, 1 were given"),
        (&["create", "--name", "r 1", "--size", "64M", "a", "b"], "contains a blank"),
        (&["create", "--name", "r1", "--size", "1M", "a", "b"], "member 0 is too small"),
        (
            &["create", "--name", "r1", "--size", "64M", "--chunk-size", "3k", "a", "b"],
            "chunks of 3072 bytes cannot be had",
        ),
    ];
    for (arguments, wanted) in cases {
        let text = refused(&dir, arguments);
        assert!(text.contains(wanted), "{wanted} is not in {text}");
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0, "{arguments:?}");
    }
}

#[test]
fn mdadm_agrees_with_what_is_created() {
    let mdadm =
        ["/usr/sbin/mdadm", "/sbin/mdadm"].into_iter().find(|path| Path::new(path).exists());
    let Some(mdadm) = mdadm else {
        let required = std::env::var_os("MDOF_TEST_REQUIRE").is_some_and(|value| value == "1");
        assert!(!required, "mdadm is not installed");
        eprintln!("LEFT OUT: mdadm is not installed; nothing was compared with it");
        return;
    };
    let dir = TestDir::new("create-mdadm");
    create(&dir, &["--chunk-size", "4k"]);
    let found = json_of(&dir, &["a.img", "b.img"]);
    for (slot, name) in ["a.img", "b.img"].into_iter().enumerate() {
        let output = Command::new(mdadm).arg("--examine").arg(dir.file(name)).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let shown = |field: &str| {
            let line = text.lines().filter_map(|line| line.split_once(" : "));
            let mut values = line.filter(|(key, _)| key.trim() == field).map(|(_, value)| value);
            values.next().unwrap_or_else(|| panic!("no {field} in {text}")).to_owned()
        };
        let member = &found["arrays"][0]["members"][slot];
        let superblock = &member["superblock"];
        assert_eq!(found["arrays"][0]["uuid"], shown("Array UUID"));
        assert_eq!(superblock["device_uuid"], shown("Device UUID"));
        let offset = superblock["data_offset_sectors"].as_u64().unwrap();
        assert_eq!(shown("Data Offset"), format!("{offset} sectors"));
        assert_eq!(superblock["events"].to_string(), shown("Events"));
        assert_eq!(shown("Device Role"), format!("Active device {slot}"));
        assert!(shown("Name").starts_with("r1") && shown("State") == "clean", "{text}");
        assert!(shown("Checksum").ends_with("- correct"), "{text}");
    }
}

#[test]
fn unreadable_ones_are_told_and_the_exit_code_says_so() {
    let dir = TestDir::new("examine-bad");
    create(&dir, &[]);
    fs::write(dir.file("noise"), [0x5a; 100_000]).unwrap();
    let file = File::options().write(true).open(dir.file("b.img")).unwrap();
    file.write_all_at(&[0x5a], 4096 + 80).unwrap();
    let output = run(&dir, &["examine", "a.img", "b.img", "noise", "gone"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    for wanted in [
        "DEGRADED: 1 of 2 members are here and in sync",
        "b.img: DAMAGED: md superblock is damaged",
        "noise: no member: no md superblock",
        "gone: UNREADABLE: it does not exist",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    assert!(!text.contains('\x1b'), "colours are for terminals");
    let output = run(&dir, &["examine", "--json", "a.img", "b.img", "noise", "gone"]);
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let status: Vec<&str> =
        value["others"].as_array().unwrap().iter().map(|o| o["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["damaged", "no_superblock", "unreadable"]);
}

#[test]
fn members_are_served_without_a_configuration() {
    let dir = TestDir::new("assemble");
    create(&dir, &[]);
    let listen = format!("127.0.0.1:{}", free_port());
    let text = ok(&dir, &["assemble", "b.img", "a.img", "--listen", &listen, "--dry-run"]);
    let wanted = format!("would be served as namespace 1 of nqn.2026-01.io.mdof:r1 on {listen}");
    assert!(text.contains(&wanted), "{text}");
    assert!(!dir.file("state").exists(), "a dry run leaves nothing");
    // What it prints is a configuration that works.
    let (_, config) = text.split_once("mdof target:\n\n").unwrap();
    let running = Mdof::start(&dir, &dir.config(config), &[]);
    assert!(running.banner.contains("array r1 re-assembled: RAID1 of 2"), "{}", running.banner);
    running.signal("TERM");
    assert_eq!(running.wait().1, Some(0));
    let running = Mdof::assemble(&dir, &["b.img", "a.img", "--listen", &listen]);
    assert!(running.banner.contains("array r1 re-assembled: RAID1 of 2"), "{}", running.banner);
    let state = running.rpc("bdev_raid_get_bdevs", &json!({ "category": "all" })).unwrap();
    let uuid = json_of(&dir, &["a.img"])["arrays"][0]["uuid"].as_str().unwrap().replace(':', "");
    assert_eq!(state[0]["uuid"].as_str().unwrap().replace('-', ""), uuid);
    // In slot order, whatever the order on the command line.
    assert_eq!(state[0]["base_bdevs_list"][0]["name"], "member1");
    std::net::TcpStream::connect(&listen).unwrap();
    running.signal("TERM");
    assert_eq!(running.wait().1, Some(0));
}

#[test]
fn members_that_cannot_be_served_are_told() {
    let dir = TestDir::new("assemble-bad");
    create(&dir, &[]);
    ok(&dir, &["create", "--name", "r2", "--size", "64M", "x \"y\".img", "y.img"]);
    File::create(dir.file("blank")).unwrap().set_len(64 << 20).unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["assemble", "a.img"], "no member given is of slot 1; it was not started, add"),
        (&["assemble", "a.img", "y.img"], "the members belong to 2 arrays: r1 ("),
        (&["assemble", "a.img", "blank"], "blank: no md superblock of version 1.0, 1.1 or 1.2"),
        (&["assemble", "blank", "blank"], "nothing was started or written"),
        (&["assemble", "a.img", "gone"], "gone: it does not exist"),
    ];
    for (arguments, wanted) in cases {
        let text = refused(&dir, arguments);
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    let blank = fs::read(dir.file("blank")).unwrap();
    assert!(blank.iter().all(|&byte| byte == 0), "a blank file was made a member");
    let listen = format!("127.0.0.1:{}", free_port());
    let odd = ["x \"y\".img", "--start-degraded", "--listen", &listen];
    let running = Mdof::assemble(&dir, &odd);
    assert!(running.banner.contains("degraded, 1 of 2"), "{}", running.banner);
    running.signal("TERM");
    assert_eq!(running.wait().1, Some(0));
}

/// Unpacks one of the fixtures that md made.
fn fixture(dir: &TestDir, name: &str) -> Option<Vec<String>> {
    let shared = std::env::var_os("MDOF_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")),
        PathBuf::from,
    );
    let archive = shared.join(format!("ondisk/images/{name}.tar.xz"));
    if !archive.exists() {
        eprintln!("LEFT OUT: {} does not exist, md images were not read", archive.display());
        return None;
    }
    let folder = dir.file(name);
    fs::create_dir(&folder).unwrap();
    let status = Command::new("tar").arg("xJf").arg(archive).arg("-C").arg(&folder).status();
    assert!(status.unwrap().success(), "tar could not unpack {name}");
    let mut paths: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .collect();
    paths.sort();
    Some(paths)
}

/// Fixture, health of its members, chunks by state, and what a start says.
type Case = (&'static str, &'static [&'static str], &'static [(&'static str, u64)], &'static str);

#[test]
fn members_that_md_made_are_examined() {
    let cases: [Case; 8] = [
        ("raid1-fresh", &["in_sync"; 2], &[("unwritten", 4080)], "0 chunks"),
        ("raid1-dirtycut", &["in_sync"; 2], &[("unwritten", 3054), ("dirty", 1026)], "1026 chunks"),
        (
            "raid1-degraded",
            &["in_sync", "stale"],
            &[("unwritten", 3054), ("clean", 1020), ("need_sync", 6)],
            "6 chunks",
        ),
        ("raid1-none-cut", &["in_sync"; 2], &[], "0 chunks"),
        // Its lazy recovery had the last member out of use for a moment: it lacks nothing.
        // And its parity is believed nowhere, as the kernel may not have made it for that member.
        ("raid5-proactive-half", &["in_sync"; 3], &[("need_sync_unwritten", 2846)], "1 chunks"),
        ("raid1-4kn-dirtycut", &["in_sync"; 2], &[], ""),
        ("raid1-internal-dirtycut", &["in_sync"; 2], &[], ""),
        ("feat-raid5-journal-cut", &["in_sync", "in_sync", "in_sync", "journal"], &[], "JOURNAL"),
    ];
    for (name, health, states, plan) in cases {
        let dir = TestDir::new(&format!("examine-{name}"));
        let Some(paths) = fixture(&dir, name) else { return };
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let found = json_of(&dir, &paths);
        let array = &found["arrays"][0];
        let told: Vec<&str> = array["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| member["health"].as_str().unwrap())
            .collect();
        assert_eq!(told, health, "{name}");
        for &(state, chunks) in states {
            assert_eq!(array["bitmap"]["states"][state]["chunks"], chunks, "{name} {state}");
        }
        let start = match array["plan"]["error"].as_str() {
            Some(error) => error.to_owned(),
            None => format!("{} chunks", array["plan"]["resync_chunks"]),
        };
        assert!(start.contains(plan), "{name}: {start}");
        let text = ok(&dir, &[&["examine"], &paths[..]].concat());
        assert!(text.contains(array["uuid"].as_str().unwrap()), "{text}");
    }
    let dir = TestDir::new("examine-meta09");
    let Some(paths) = fixture(&dir, "layout-raid1-meta09") else { return };
    let output = run(&dir, &["examine", &paths[0]]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("md superblock of version 0.90; mdof reads 1.0, 1.1 and 1.2"), "{text}");
}

//! First start, later starts, and each way in which a start must refuse without damage.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use mdof::{Mdof, TestDir, free_port, refused};
use serde_json::{Value, json};

/// The demo's shape on a port of its own.
fn config(dir: &TestDir, port: u16, names: [&str; 2]) -> PathBuf {
    let [a, b] = names;
    let bdev = |name: &str, path: &str| {
        format!(
            "[[bdev]]\nname = \"{name}\"\nkind = \"uring\"\npath = \"{path}\"\ncreate = true\n\
             size_mib = 256\n"
        )
    };
    dir.config(&format!(
        "{}{}[[array]]\nname = \"raid1\"\nlevel = 1\nmembers = [\"disk0\", \"disk1\"]\n\
         [[subsystem]]\nnqn = \"nqn.2026-01.io.mdof:test\"\nallow_any_host = true\n\
         namespaces = [{{ bdev = \"raid1\", nsid = 1 }}]\nlisten = [\"127.0.0.1:{port}\"]\n",
        bdev("disk0", a),
        bdev("disk1", b)
    ))
}

fn array(mdof: &Mdof) -> Value {
    mdof.rpc("bdev_raid_get_bdevs", &json!({ "category": "all" })).unwrap()[0].clone()
}

fn stop(mdof: Mdof) {
    mdof.signal("TERM");
    let (text, code) = mdof.wait();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("stopped cleanly"), "{text}");
}

#[test]
fn made_once_and_found_again() {
    let dir = TestDir::new("twice");
    let config = config(&dir, free_port(), ["a.img", "b.img"]);
    let first = Mdof::start(&dir, &config, &[]);
    for wanted in ["array raid1 created", "nvme connect -t tcp -a 127.0.0.1 -s ", "mdof.sock"] {
        assert!(first.banner.contains(wanted), "{wanted} is not in {}", first.banner);
    }
    let uuid = array(&first)["uuid"].clone();
    stop(first);
    assert!(!dir.file("mdof.sock").exists());
    for name in ["a.img", "b.img"] {
        let found = fs::metadata(dir.file(name)).unwrap();
        assert_eq!(found.len(), 256 << 20);
        assert!(found.blocks() * 512 < 16 << 20, "{name} is not sparse");
    }
    let second = Mdof::start(&dir, &config, &[]);
    assert!(second.banner.contains("array raid1 re-assembled"), "{}", second.banner);
    assert_eq!(array(&second)["uuid"], uuid);
    assert_eq!(array(&second)["num_base_bdevs_operational"], 2);
    stop(second);
}

#[test]
fn killed_and_found_again() {
    let dir = TestDir::new("killed");
    let config = config(&dir, free_port(), ["a.img", "b.img"]);
    let first = Mdof::start(&dir, &config, &[]);
    let uuid = array(&first)["uuid"].clone();
    first.signal("KILL");
    assert_eq!(first.wait().1, None);
    // The socket and its lock file are left behind; they must not be in the way.
    assert!(dir.file("mdof.sock").exists());
    let second = Mdof::start(&dir, &config, &[]);
    assert_eq!(array(&second)["uuid"], uuid);
    stop(second);
}

#[test]
fn a_missing_member_is_not_made_again() {
    let dir = TestDir::new("missing");
    let config = config(&dir, free_port(), ["a.img", "b.img"]);
    stop(Mdof::start(&dir, &config, &[]));
    fs::remove_file(dir.file("b.img")).unwrap();
    let waiting = Mdof::start(&dir, &config, &[]);
    let text = &waiting.banner;
    assert!(text.contains("NOT STARTED") && text.contains("not there: disk1"), "{text}");
    stop(waiting);
    assert!(!dir.file("b.img").exists());
    let degraded = Mdof::start(&dir, &config, &["--start-degraded"]);
    assert!(degraded.banner.contains("1 of 2 members"), "{}", degraded.banner);
    let state = array(&degraded);
    assert_eq!(state["num_base_bdevs_operational"], 1);
    assert_eq!(state["base_bdevs_list"][1]["name"], Value::Null);
    stop(degraded);
    fs::remove_file(dir.file("a.img")).unwrap();
    let text = refused(&dir, &config, &["--start-degraded"]);
    assert!(text.contains("was made earlier"), "{text}");
    assert!(!dir.file("a.img").exists());
}

#[test]
fn foreign_files_are_left_alone() {
    let dir = TestDir::new("foreign");
    let config = config(&dir, free_port(), ["a.img", "b.img"]);
    for name in ["a.img", "b.img"] {
        let file = fs::File::create(dir.file(name)).unwrap();
        file.set_len(256 << 20).unwrap();
        file.write_all_at(b"a letter to my aunt", 100 << 20).unwrap();
    }
    let text = refused(&dir, &config, &[]);
    assert!(text.contains("no md superblock") && text.contains("not touched"), "{text}");
    for name in ["a.img", "b.img"] {
        let file = fs::File::open(dir.file(name)).unwrap();
        let mut letter = [0; 19];
        file.read_exact_at(&mut letter, 100 << 20).unwrap();
        assert_eq!(&letter, b"a letter to my aunt");
        let mut head = [1; 8192];
        file.read_exact_at(&mut head, 0).unwrap();
        assert_eq!(head, [0; 8192], "{name} was written to");
    }
}

#[test]
fn members_of_two_arrays_are_named() {
    let (dir, other) = (TestDir::new("two-a"), TestDir::new("two-b"));
    let mine = config(&dir, free_port(), ["a.img", "b.img"]);
    let theirs = config(&other, free_port(), ["a.img", "b.img"]);
    let first = Mdof::start(&dir, &mine, &[]);
    let my_uuid = array(&first)["uuid"].as_str().unwrap().to_owned();
    stop(first);
    let second = Mdof::start(&other, &theirs, &[]);
    let their_uuid = array(&second)["uuid"].as_str().unwrap().to_owned();
    stop(second);
    fs::copy(other.file("b.img"), dir.file("b.img")).unwrap();
    let text = refused(&dir, &mine, &["--start-degraded"]);
    assert!(text.contains(&my_uuid) && text.contains(&their_uuid), "{text}");
    fs::copy(other.file("a.img"), dir.file("a.img")).unwrap();
    let text = refused(&dir, &mine, &[]);
    assert!(text.contains(&my_uuid) && text.contains(&their_uuid), "{text}");
}

#[test]
fn a_flipped_bit_in_a_superblock_is_told() {
    let dir = TestDir::new("flipped");
    let config = config(&dir, free_port(), ["a.img", "b.img"]);
    stop(Mdof::start(&dir, &config, &[]));
    let file = fs::File::options().read(true).write(true).open(dir.file("b.img")).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4096 + 80).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 4096 + 80).unwrap();
    let text = refused(&dir, &config, &[]);
    assert!(text.contains("disk1") && text.contains("checksum"), "{text}");
}

#[test]
fn port_and_socket_in_use() {
    let dir = TestDir::new("in-use");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = config(&dir, taken.local_addr().unwrap().port(), ["a.img", "b.img"]);
    let text = refused(&dir, &path, &[]);
    assert!(text.contains("the port is in use"), "{text}");
    assert!(!dir.file("a.img").exists(), "nothing is made before the port is had");
    drop(taken);
    let running = Mdof::start(&dir, &path, &[]);
    let text = refused(&dir, &path, &[]);
    assert!(text.contains("mdof.sock belongs to a running mdof"), "{text}");
    // Another socket and another port, but the same members.
    let second = config(&dir, free_port(), ["a.img", "b.img"]);
    let socket = dir.file("second.sock");
    let text = refused(&dir, &second, &["--rpc-socket", socket.to_str().unwrap()]);
    assert!(text.contains("a.img is in use"), "{text}");
    running.rpc("rpc_get_methods", &json!({})).unwrap();
    stop(running);
}

#[test]
fn a_full_file_system_is_told() {
    let dir = TestDir::new("full");
    let mount = dir.file("small");
    fs::create_dir(&mount).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "mdof-test"])
        .arg(&mount)
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("LEFT OUT: a small file system cannot be mounted here (needs root)");
        return;
    }
    let config = config(&dir, free_port(), ["small/a.img", "small/b.img"]);
    let text = refused(&dir, &config, &[]);
    let left = fs::read_dir(&mount).unwrap().count();
    std::process::Command::new("umount").arg(&mount).status().unwrap();
    assert!(text.contains("is full"), "{text}");
    assert_eq!(left, 0, "nothing is left behind");
}

/// Settings made at run time are in the bitmap's header; what the file says goes before them.
#[test]
fn settings_of_the_bitmap_survive_a_restart() {
    let dir = TestDir::new("settings");
    let config = config(&dir, free_port(), ["a.img", "b.img"]);
    let settings = |mdof: &Mdof| {
        let bitmap = mdof.rpc("bdev_raid_get_bitmap", &json!({ "name": "raid1" })).unwrap();
        ["daemon_sleep_s", "barrier_idle_s", "infection"].map(|key| bitmap[key].clone())
    };
    let first = Mdof::start(&dir, &config, &[]);
    assert_eq!(settings(&first), [json!(30), json!(5), json!("adaptive")]);
    let set = json!({
        "name": "raid1", "daemon_sleep_s": 11, "barrier_idle_s": 7, "infection": "off"
    });
    first.rpc("bdev_raid_set_bitmap", &set).unwrap();
    stop(first);
    let second = Mdof::start(&dir, &config, &[]);
    assert_eq!(settings(&second), [json!(11), json!(7), json!("off")]);
    let set = json!({ "name": "raid1", "infection": "md" });
    second.rpc("bdev_raid_set_bitmap", &set).unwrap();
    // A clean stop is not needed for it: the header is written at once.
    std::thread::sleep(std::time::Duration::from_millis(300));
    second.signal("KILL");
    second.wait();
    let third = Mdof::start(&dir, &config, &[]);
    assert_eq!(settings(&third), [json!(11), json!(7), json!("md")]);
    stop(third);
    let text = fs::read_to_string(&config).unwrap();
    let keys = "level = 1\nbarrier_idle_s = 3\ninfection = \"adaptive\"\n";
    fs::write(&config, text.replace("level = 1\n", keys)).unwrap();
    let fourth = Mdof::start(&dir, &config, &[]);
    assert_eq!(settings(&fourth), [json!(11), json!(3), json!("adaptive")]);
    stop(fourth);
    let text = fs::read_to_string(&config).unwrap().replace("\"adaptive\"", "\"on\"");
    fs::write(&config, text).unwrap();
    let text = refused(&dir, &config, &[]);
    assert!(text.contains("infection is one of off, md, adaptive, not \"on\""), "{text}");
}

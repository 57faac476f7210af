//! Every level as a user has it: made, written by a host over NVMe/TCP, found again at the next
//! start, read without a member, rebuilt and compared.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "support/host_io.rs"]
#[allow(unreachable_pub, reason = "several tests share it")]
mod host_io;
#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use host_io::Host;
use mdof::{Mdof, TestDir, free_port};
use serde_json::{Value, json};

const NQN: &str = "nqn.2026-01.io.mdof:level";
const PATIENCE: Duration = Duration::from_secs(60);

/// A level and what is to come of it.
struct Case {
    level: &'static str,
    keys: &'static str,
    members: usize,
    /// Members' worth of data, times two.
    halves: u64,
    /// SPDK's name.
    spdk: &'static str,
    layout: Option<&'static str>,
    /// Members that it can do without.
    may_lack: usize,
}

const STRIP: &str = "strip_size_kib = 64\n";
const RAID10_F2: &str = "strip_size_kib = 64\nlayout = \"f2\"\n";
const RAID5_RA: &str = "strip_size_kib = 16\nlayout = \"right-asymmetric\"\n";

impl Case {
    const fn new(level: &'static str, members: usize, halves: u64, may_lack: usize) -> Self {
        Self { level, keys: STRIP, members, halves, spdk: "", layout: None, may_lack }
    }

    const fn keys(self, keys: &'static str) -> Self {
        Self { keys, ..self }
    }

    const fn shown(self, spdk: &'static str, layout: Option<&'static str>) -> Self {
        Self { spdk, layout, ..self }
    }

    fn names(&self) -> Vec<String> {
        (0..self.members).map(|index| format!("m{index}")).collect()
    }

    fn config(&self, dir: &TestDir, port: u16) -> PathBuf {
        let names = self.names();
        let bdevs: String = names
            .iter()
            .map(|name| {
                format!(
                    "[[bdev]]\nname = \"{name}\"\nkind = \"uring\"\npath = \"{name}.img\"\n\
                     create = true\nsize_mib = 8\nblock_size_bytes = 512\n"
                )
            })
            .collect();
        let members: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        dir.config(&format!(
            "{bdevs}[[array]]\nname = \"r\"\nlevel = {}\nmembers = [{}]\n{}\
             [[subsystem]]\nnqn = \"{NQN}\"\nallow_any_host = true\n\
             namespaces = [{{ bdev = \"r\", nsid = 1 }}]\nlisten = [\"127.0.0.1:{port}\"]\n",
            self.level,
            members.join(", "),
            self.keys
        ))
    }
}

fn array(mdof: &Mdof) -> Value {
    mdof.rpc("bdev_raid_get_bdevs", &json!({ "category": "all" })).unwrap()[0].clone()
}

fn in_sync(mdof: &Mdof) -> usize {
    let list = array(mdof)["base_bdevs_list"].as_array().cloned().unwrap_or_default();
    list.iter().filter(|member| member["state"] == "in_sync").count()
}

fn stop(mdof: Mdof) {
    mdof.signal("TERM");
    let (text, code) = mdof.wait();
    assert_eq!(code, Some(0), "{text}");
}

/// A check finds no difference.
fn assert_alike(mdof: &Mdof) {
    mdof.rpc("bdev_raid_scrub", &json!({ "name": "r", "action": "check" })).unwrap();
    let since = Instant::now();
    loop {
        let scrub = mdof.rpc("bdev_raid_get_scrub", &json!({ "name": "r" })).unwrap();
        if scrub["running"] == false {
            assert_eq!((&scrub["mismatches"], &scrub["failures"]), (&json!(0), &json!(0)));
            return;
        }
        assert!(since.elapsed() < PATIENCE, "{scrub}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn lives(case: &Case) {
    let dir = TestDir::new(&format!("level-{}-{}", case.spdk, case.members));
    let port = free_port();
    let config = case.config(&dir, port);
    let mdof = Mdof::start(&dir, &config, &[]);
    let made = array(&mdof);
    assert_eq!(made["raid_level"], case.spdk);
    assert_eq!(made["layout"], json!(case.layout));
    let mut host = Host::connect(port, NQN);
    // 8 MiB a member but for the metadata, which take 1 MiB at the most.
    let (least, most) = ((case.halves * 7) << 10, (case.halves * 8) << 10);
    assert!((least..=most).contains(&host.blocks), "{} blocks", host.blocks);
    let half = host.blocks / 2;
    host.write(0, half, 1);
    host.check(0, half, 1);
    // Pieces that are no whole strips, across the ends of rows and at the end of the array.
    host.write(77, 333, 2);
    host.write(host.blocks - 5, 5, 3);
    let end = host.blocks - 5;
    let check = |host: &mut Host| {
        host.check(0, 77, 1);
        host.check(77, 333, 2);
        host.check(410, half - 410, 1);
        host.check(end, 5, 3);
    };
    check(&mut host);
    drop(host);
    stop(mdof);

    let mdof = Mdof::start(&dir, &config, &[]);
    assert!(mdof.banner.contains("array r re-assembled"), "{}", mdof.banner);
    assert_eq!(
        (array(&mdof)["uuid"].clone(), in_sync(&mdof)),
        (made["uuid"].clone(), case.members)
    );
    check(&mut Host::connect(port, NQN));
    stop(mdof);
    for gone in 0..=case.may_lack.min(case.members - 2) {
        let away = |index: usize| dir.file(&format!("m{index}.away"));
        let own = |index: usize| dir.file(&format!("m{index}.img"));
        for index in 0..=gone {
            fs::rename(own(index), away(index)).unwrap();
        }
        let mdof = Mdof::start(&dir, &config, &["--start-degraded"]);
        if gone < case.may_lack {
            let mut host = Host::connect(port, NQN);
            check(&mut host);
            host.write(77, 333, 7);
            host.check(77, 333, 7);
            host.write(77, 333, 2);
            check(&mut host);
        } else {
            assert_eq!(array(&mdof)["state"], "configuring", "{}", mdof.banner);
        }
        for index in 0..=gone {
            fs::rename(away(index), own(index)).unwrap();
        }
        let since = Instant::now();
        while in_sync(&mdof) != case.members {
            assert!(since.elapsed() < PATIENCE, "{}", array(&mdof));
            std::thread::sleep(Duration::from_millis(50));
        }
        check(&mut Host::connect(port, NQN));
        if case.may_lack > 0 {
            assert_alike(&mdof);
        }
        stop(mdof);
    }
}

#[test]
fn raid0_and_concat() {
    lives(&Case::new("0", 3, 6, 0).shown("raid0", Some("original")));
    lives(&Case::new("\"concat\"", 2, 4, 0).keys("").shown("concat", None));
}

#[test]
fn raid1_of_three() {
    lives(&Case::new("1", 3, 2, 2).keys("").shown("raid1", None));
}

#[test]
fn raid10() {
    lives(&Case::new("10", 4, 4, 1).shown("raid10", Some("near=2")));
    lives(&Case::new("10", 3, 3, 1).keys(RAID10_F2).shown("raid10", Some("far=2")));
}

#[test]
fn raid5_and_raid4() {
    lives(&Case::new("5", 3, 4, 1).shown("raid5f", Some("left-symmetric")));
    lives(
        &Case::new("\"raid5f\"", 4, 6, 1).keys(RAID5_RA).shown("raid5f", Some("right-asymmetric")),
    );
    lives(&Case::new("4", 3, 4, 1).shown("raid4", None));
}

#[test]
fn raid6() {
    lives(&Case::new("6", 5, 6, 2).shown("raid6", Some("left-symmetric")));
}

#[test]
fn made_by_calls() {
    let dir = TestDir::new("level-calls");
    let mdof = Mdof::start(&dir, &dir.config(""), &[]);
    let names = ["a", "b", "c", "d"];
    for name in names {
        let params = json!({ "name": name, "num_blocks": 1 << 14, "block_size": 512 });
        mdof.rpc("bdev_malloc_create", &params).unwrap();
    }
    let create = |level: &str, more: &Value| {
        let mut params = json!({
            "name": "r", "raid_level": level, "base_bdevs": names, "superblock": true
        });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        mdof.rpc("bdev_raid_create", &params)
    };
    for (level, more, shown) in [
        ("raid0", json!({ "strip_size_kb": 16 }), "raid0"),
        ("concat", json!({ "strip_size_kb": 0 }), "concat"),
        ("1", json!({}), "raid1"),
        ("10", json!({ "strip_size_kb": 16, "layout": "o2" }), "raid10"),
        ("5f", json!({ "strip_size_kb": 32 }), "raid5f"),
        ("raid4", json!({ "strip_size_kb": 32, "bitmap": "none" }), "raid4"),
        ("6", json!({ "strip_size_kb": 32, "layout": "parity-last" }), "raid6"),
    ] {
        create(level, &more).unwrap();
        let made = array(&mdof);
        assert_eq!((&made["raid_level"], &made["state"]), (&json!(shown), &json!("online")));
        assert_eq!(made["strip_size_kb"], *more.get("strip_size_kb").unwrap_or(&json!(0)));
        mdof.rpc("bdev_raid_delete", &json!({ "name": "r", "clear_sb": true })).unwrap();
    }
    for (level, more, part) in [
        ("raid7", json!({}), "no level"),
        ("raid1", json!({ "strip_size_kb": 64 }), "no strip size"),
        ("raid5", json!({ "strip_size_kb": 48 }), "power of two"),
        ("raid6", json!({ "layout": "n2" }), "no layout"),
    ] {
        let text = create(level, &more).unwrap_err();
        assert!(text.contains(part), "{level} {more}: {text}");
    }
    stop(mdof);
}

#[test]
fn made_on_the_command_line() {
    let dir = TestDir::new("level-cli");
    let mdof = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mdof"));
        let output = command.current_dir(&dir.0).args(arguments).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text.into_owned())
    };
    let (ok, text) = mdof(&[
        "create",
        "--name",
        "r",
        "--level",
        "6",
        "--strip-size",
        "64k",
        "--size",
        "8M",
        "w.img",
        "x.img",
        "y.img",
        "z.img",
    ]);
    assert!(ok && text.contains("RAID6 (left-symmetric) in strips of 64 KiB"), "{text}");
    let address = format!("127.0.0.1:{}", free_port());
    let members = ["--listen", &address, "--nqn", NQN, "w.img", "x.img", "y.img", "z.img"];
    let served = Mdof::assemble(&dir, &members);
    assert_eq!((array(&served)["raid_level"].clone(), in_sync(&served)), (json!("raid6"), 4));
    let mut host = Host::connect(address[10..].parse().unwrap(), NQN);
    host.write(100, 1000, 9);
    host.check(0, 100, 0);
    host.check(100, 1000, 9);
    drop(host);
    stop(served);
    let (ok, text) = mdof(&["create", "--name", "s", "--level", "5", "--layout", "n2", "q.img"]);
    assert!(!ok && text.contains("no layout"), "{text}");
}

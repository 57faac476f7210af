//! What was set or made at run time is there again after a stop and after a kill.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof;
#[path = "support/spdk.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod spdk;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use mdof::{Mdof, TestDir, free_port};
use serde_json::{Value, json};

const NQN: &str = "nqn.2026-01.io.mdof:kept";

fn bdevs(names: &[&str]) -> String {
    let bdev = |name: &&str| {
        format!(
            "[[bdev]]\nname = \"{name}\"\nkind = \"uring\"\npath = \"{name}.img\"\n\
             create = true\nsize_mib = 24\nblock_size_bytes = 512\n"
        )
    };
    names.iter().map(bdev).collect()
}

fn config(dir: &TestDir) -> PathBuf {
    let array = "[[array]]\nname = \"r\"\nlevel = 1\nmembers = [\"a\", \"b\"]\n";
    dir.config(&format!("{}{array}", bdevs(&["a", "b", "c", "d"])))
}

fn array(mdof: &Mdof) -> Value {
    mdof.rpc("bdev_raid_get_bdevs", &json!({ "category": "all" })).unwrap()[0].clone()
}

fn member(mdof: &Mdof, slot: usize) -> (String, Value) {
    let member = array(mdof)["base_bdevs_list"][slot].clone();
    (member["state"].as_str().unwrap_or_default().to_owned(), member["name"].clone())
}

fn kill(mdof: Mdof) {
    mdof.signal("KILL");
    mdof.wait();
}

fn stop(mdof: Mdof) {
    mdof.signal("TERM");
    let (text, code) = mdof.wait();
    assert_eq!(code, Some(0), "{text}");
}

fn set(mdof: &Mdof, method: &str, more: &Value) {
    let mut params = json!({ "name": "r" });
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    mdof.rpc(method, &params).unwrap();
}

#[test]
fn settings_of_arrays() {
    let dir = TestDir::new("kept-settings");
    let config = config(&dir);
    let mdof = Mdof::start(&dir, &config, &[]);
    set(&mdof, "bdev_raid_set_sync", &json!({ "max_mib_s": 17 }));
    set(&mdof, "bdev_raid_set_scrub_schedule", &json!({ "every_hours": 168 }));
    set(&mdof, "bdev_raid_set_start_policy", &json!({ "start_degraded": "wait:77" }));
    let of = |mdof: &Mdof| {
        let array = array(mdof);
        ["sync_max_mib_s", "scrub_every_hours", "scrub_next_s", "start_degraded"]
            .map(|key| array[key].clone())
    };
    let wanted = of(&mdof);
    assert_eq!([&wanted[0], &wanted[1], &wanted[3]], [&json!(17), &json!(168), &json!("wait:77")]);
    assert!(wanted[2].as_u64().unwrap() > 1_700_000_000);
    kill(mdof);
    let mdof = Mdof::start(&dir, &config, &[]);
    assert_eq!(of(&mdof), wanted);
    // For all arrays: the array's own goes before it.
    mdof.rpc("bdev_raid_set_options", &json!({ "process_max_bandwidth_mb_sec": 5 })).unwrap();
    assert_eq!(of(&mdof), wanted);
    stop(mdof);
    // So does what the configuration file says.
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}sync_max_mib_s = 3\nstart_degraded = \"refuse\"\n")).unwrap();
    let mdof = Mdof::start(&dir, &config, &[]);
    let now = of(&mdof);
    assert_eq!([&now[0], &now[1], &now[3]], [&json!(3), &json!(168), &json!("refuse")]);
    stop(mdof);
    let state = fs::read_to_string(dir.file("state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["process"]["process_max_bandwidth_mb_sec"], 5);
    assert_eq!(state["made"], json!([]), "what the configuration makes is not kept twice");
}

#[test]
fn spares_of_one_array_and_of_all() {
    let dir = TestDir::new("kept-spares");
    let config = config(&dir);
    let mdof = Mdof::start(&dir, &config, &[]);
    let own = json!({ "base_bdev": "c", "raid_bdev": "r" });
    mdof.rpc("bdev_raid_add_spare", &own).unwrap();
    mdof.rpc("bdev_raid_add_spare", &json!({ "base_bdev": "d" })).unwrap();
    let spares = |mdof: &Mdof| {
        let mut all = mdof.rpc("bdev_raid_get_spares", &json!({})).unwrap();
        all.as_array_mut().unwrap().sort_by_key(|spare| spare["base_bdev"].to_string());
        all
    };
    let both = spares(&mdof);
    assert_eq!((&both[0]["raid_bdev"], &both[1]["raid_bdev"]), (&json!("r"), &Value::Null));
    kill(mdof);
    let mdof = Mdof::start(&dir, &config, &[]);
    assert_eq!(spares(&mdof), both);
    kill(mdof);
    // The superblock alone says whose spare c is.
    fs::remove_file(dir.file("state.json")).unwrap();
    let mdof = Mdof::start(&dir, &config, &[]);
    let found = spares(&mdof);
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    assert_eq!((&found[0]["base_bdev"], &found[0]["raid_bdev"]), (&json!("c"), &json!("r")));
    // It takes the place of b, and keeps it though the file still names b.
    mdof.rpc("bdev_raid_fail_base_bdev", &json!({ "name": "b" })).unwrap();
    let since = Instant::now();
    while member(&mdof, 1) != ("in_sync".to_owned(), json!("c")) {
        assert!(since.elapsed() < Duration::from_secs(30), "{}", array(&mdof));
        std::thread::sleep(Duration::from_millis(50));
    }
    kill(mdof);
    let mdof = Mdof::start(&dir, &config, &[]);
    assert_eq!(member(&mdof, 0), ("in_sync".to_owned(), json!("a")));
    assert_eq!(member(&mdof, 1), ("in_sync".to_owned(), json!("c")));
    assert_eq!(spares(&mdof), json!([]));
    // One that is no spare any more is not found again.
    mdof.rpc("bdev_raid_add_spare", &json!({ "base_bdev": "d", "raid_bdev": "r" })).unwrap();
    mdof.rpc("bdev_raid_remove_spare", &json!({ "base_bdev": "d" })).unwrap();
    stop(mdof);
    let mdof = Mdof::start(&dir, &config, &[]);
    assert_eq!(spares(&mdof), json!([]));
    stop(mdof);
}

/// Makes a target by calls alone: two files below a filter each, an array, and what serves it.
fn build(mdof: &Mdof, dir: &TestDir, port: u16) {
    let call = |method: &str, params: Value| mdof.rpc(method, &params).unwrap();
    for name in ["a", "b"] {
        let path = dir.file(&format!("{name}.img"));
        fs::File::create(&path).unwrap().set_len(24 << 20).unwrap();
        call("bdev_uring_create", json!({ "name": name, "filename": path, "block_size": 512 }));
        let filter = format!("z{name}");
        call("bdev_passthru_create", json!({ "base_bdev_name": name, "name": filter }));
    }
    let array = json!({
        "name": "r", "raid_level": "raid1", "superblock": true, "base_bdevs": ["za", "zb"]
    });
    call("bdev_raid_create", array);
    call("bdev_raid_set_sync", json!({ "name": "r", "max_mib_s": 9 }));
    call("nvmf_create_transport", json!({ "trtype": "TCP" }));
    call("nvmf_create_subsystem", json!({ "nqn": NQN, "serial_number": "S1" }));
    call("nvmf_subsystem_add_host", json!({ "nqn": NQN, "host": "nqn.2014-08.org.x:host" }));
    call("nvmf_subsystem_add_ns", json!({ "nqn": NQN, "namespace": { "bdev_name": "r" } }));
    let address = json!({ "trtype": "TCP", "traddr": "127.0.0.1", "trsvcid": port.to_string() });
    call("nvmf_subsystem_add_listener", json!({ "nqn": NQN, "listen_address": address }));
}

/// What is to come back.
fn picture(mdof: &Mdof) -> Vec<Value> {
    let array = array(mdof);
    let subsystem = mdof.rpc("nvmf_get_subsystems", &json!({ "nqn": NQN })).unwrap();
    let members = array["base_bdevs_list"].as_array().unwrap();
    let names: Vec<&Value> = members.iter().map(|member| &member["name"]).collect();
    let keys = ["name", "uuid", "state", "sync_max_mib_s"].map(|key| array[key].clone());
    let mut picture = keys.to_vec();
    picture.extend([json!(names), subsystem]);
    picture
}

#[test]
fn a_target_that_was_made_by_calls() {
    let dir = TestDir::new("kept-calls");
    let (config, port) = (dir.config(""), free_port());
    let file = dir.file("elsewhere.json");
    let arguments = ["--state", file.to_str().unwrap()];
    let mdof = Mdof::start(&dir, &config, &arguments);
    build(&mdof, &dir, port);
    let before = picture(&mdof);
    assert_eq!(before[2], "online");
    kill(mdof);
    let mdof = Mdof::start(&dir, &config, &arguments);
    assert_eq!(picture(&mdof), before);
    drop(std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens"));
    stop(mdof);
    // A file that is gone for a while takes its filter and its array with it, until it is back.
    fs::rename(dir.file("b.img"), dir.file("b.away")).unwrap();
    let mdof = Mdof::start(&dir, &config, &arguments);
    assert_eq!(array(&mdof)["state"], "configuring");
    kill(mdof);
    let mdof = Mdof::start(&dir, &config, &arguments);
    fs::rename(dir.file("b.away"), dir.file("b.img")).unwrap();
    let since = Instant::now();
    while array(&mdof)["state"] != "online" {
        assert!(since.elapsed() < Duration::from_secs(30), "{}", array(&mdof));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(picture(&mdof), before);
    // What is unmade stays so.
    mdof.rpc("nvmf_delete_subsystem", &json!({ "nqn": NQN })).unwrap();
    mdof.rpc("bdev_raid_delete", &json!({ "name": "r", "clear_sb": true })).unwrap();
    kill(mdof);
    let mdof = Mdof::start(&dir, &config, &arguments);
    assert_eq!(array(&mdof), Value::Null);
    assert_eq!(mdof.rpc("bdev_get_bdevs", &json!({})).unwrap().as_array().unwrap().len(), 4);
    stop(mdof);
}

#[test]
fn spdks_save_config_and_load_config() {
    let Some(program) = spdk::client() else { return };
    let dir = TestDir::new("kept-spdk");
    let port = free_port();
    let mdof = Mdof::start(&dir, &dir.config(""), &[]);
    build(&mdof, &dir, port);
    let before = picture(&mdof);
    let client = |mdof: &Mdof, method: &str, input: Option<&PathBuf>| {
        let mut command = Command::new(&program);
        command.arg("-s").arg(&mdof.socket).arg(method);
        if let Some(path) = input {
            command.stdin(fs::File::open(path).unwrap());
        }
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{method}: {error}");
        output.stdout
    };
    let saved = dir.file("saved.json");
    fs::write(&saved, client(&mdof, "save_config", None)).unwrap();
    stop(mdof);
    // Started with it, in a place that knows nothing.
    let elsewhere = dir.file("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let mut mdof = Mdof::start_in(&elsewhere, &saved, &[]);
    assert_eq!(picture(&mdof), before);
    // The same again, from what is there now.
    assert_eq!(
        serde_json::from_slice::<Value>(&client(&mdof, "save_config", None)).unwrap(),
        serde_json::from_slice::<Value>(&fs::read(&saved).unwrap()).unwrap()
    );
    stop(mdof);
    // Loaded into a target that runs.
    fs::remove_file(dir.file("state.json")).unwrap();
    mdof = Mdof::start(&dir, &dir.config(""), &[]);
    client(&mdof, "load_config", Some(&saved));
    assert_eq!(picture(&mdof), before);
    stop(mdof);
}

#[test]
fn a_state_file_that_is_none_is_left_alone() {
    let dir = TestDir::new("kept-none");
    fs::write(dir.file("state.json"), "a letter to my aunt").unwrap();
    let text = mdof::refused(&dir, &config(&dir), &[]);
    assert!(text.contains("cannot use the state file") && text.contains("state.json"), "{text}");
    assert_eq!(fs::read_to_string(dir.file("state.json")).unwrap(), "a letter to my aunt");
    assert!(!dir.file("a.img").exists(), "nothing was made");
}

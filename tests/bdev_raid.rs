//! The scenarios that SPDK's users know from its `bdev_raid.sh`, through SPDK's own client. Where
//! mdof means something else by a call, the comment says what and why.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "support/host_io.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it")]
mod host_io;
#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof;
#[path = "support/spdk.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod spdk;

use std::time::{Duration, Instant};

use host_io::Host;
use mdof::{Mdof, TestDir, free_port};
use serde_json::{Value, json};
use spdk::Client;

const NQN: &str = "nqn.2016-06.io.spdk:raid";
const PATIENCE: Duration = Duration::from_secs(180);

/// Members that a rebuild at 1 MiB/s is busy with for far longer than the calls of its test take
/// on a slow machine.
const REBUILD_MIB: u32 = 128;

/// A running target and SPDK's client.
struct Bench {
    mdof: Mdof,
    client: Client,
    _dir: TestDir,
}

impl Bench {
    fn new(name: &str) -> Option<Self> {
        let program = spdk::client()?;
        let dir = TestDir::new(&format!("bdev-raid-{name}"));
        let mdof = Mdof::start(&dir, &dir.config(""), &[]);
        let client = Client { program, socket: mdof.socket.clone() };
        Some(Self { mdof, client, _dir: dir })
    }

    fn ok(&self, arguments: &[&str]) -> Value {
        self.client.ok(arguments)
    }

    fn malloc(&self, name: &str) {
        self.malloc_of(32, name);
    }

    fn malloc_of(&self, size_mib: u32, name: &str) {
        self.ok(&["bdev_malloc_create", &size_mib.to_string(), "512", "-b", name]);
    }

    fn create(&self, level: &str, members: &[String]) {
        let members = members.join(" ");
        let mut arguments = vec!["bdev_raid_create", "-s", "-r", level, "-b", &members, "-n", "r"];
        if level != "raid1" {
            arguments.extend(["-z", "64"]);
        }
        self.ok(&arguments);
    }

    fn delete(&self) {
        self.ok(&["bdev_raid_delete", "r"]);
        assert_eq!(self.array(), Value::Null);
    }

    fn array(&self) -> Value {
        let params = json!({ "category": "all" });
        self.mdof.rpc("bdev_raid_get_bdevs", &params).unwrap()[0].clone()
    }

    /// State, and how many members take part of how many.
    fn assert_state(&self, state: &str, level: &str, operational: usize, members: usize) {
        let listed = self.ok(&["bdev_raid_get_bdevs", state]);
        let array = &listed[0];
        assert_eq!((&array["name"], &array["state"]), (&json!("r"), &json!(state)));
        assert_eq!(array["raid_level"], level);
        let strip = if level == "raid1" || level == "concat" { 0 } else { 64 };
        assert_eq!(array["strip_size_kb"], strip, "{array}");
        let list = array["base_bdevs_list"].as_array().unwrap();
        assert_eq!((list.len(), &array["num_base_bdevs"]), (members, &json!(members)), "{array}");
        let configured = list.iter().filter(|member| member["is_configured"] == true).count();
        assert_eq!(array["num_base_bdevs_discovered"], configured, "{array}");
        assert_eq!(array["num_base_bdevs_operational"], operational, "{array}");
    }

    fn is_configured(&self, slot: usize) -> bool {
        self.array()["base_bdevs_list"][slot]["is_configured"] == true
    }

    fn process(&self) -> (Value, Value) {
        let process = self.array()["process"].clone();
        (process["type"].clone(), process["target"].clone())
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let since = Instant::now();
        while !is_so(self) {
            assert!(since.elapsed() < PATIENCE, "{what} does not come about: {}", self.array());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Gives the array to a host.
    fn serve(&self) -> Host {
        let port = free_port().to_string();
        self.ok(&["nvmf_create_transport", "-t", "TCP"]);
        self.ok(&["nvmf_create_subsystem", NQN, "-a"]);
        self.ok(&["nvmf_subsystem_add_ns", NQN, "r"]);
        let listener = ["-t", "TCP", "-a", "127.0.0.1", "-s", &port];
        self.ok(&[&["nvmf_subsystem_add_listener", NQN][..], &listener].concat());
        Host::connect(port.parse().unwrap(), NQN)
    }

    fn assert_alike(&self) {
        self.mdof.rpc("bdev_raid_scrub", &json!({ "name": "r", "action": "check" })).unwrap();
        let scrub = || self.mdof.rpc("bdev_raid_get_scrub", &json!({ "name": "r" })).unwrap();
        self.wait_until("the end of the check", |_| scrub()["running"] == false);
        assert_eq!((&scrub()["mismatches"], &scrub()["failures"]), (&json!(0), &json!(0)));
    }

    fn stop(self) {
        self.ok(&["spdk_kill_instance", "SIGTERM"]);
        let (text, code) = self.mdof.wait();
        assert_eq!(code, Some(0), "{text}");
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("{prefix}{number}")).collect()
}

fn has_redundancy(level: &str) -> bool {
    matches!(level, "raid1" | "raid5f")
}

/// `raid_state_function_test`: an array is named before its members are there.
fn state_function(level: &str, count: usize) {
    let Some(bench) = Bench::new(&format!("state-{level}-{count}")) else { return };
    let members = names("BaseBdev", count);
    bench.create(level, &members);
    bench.assert_state("configuring", level, count, count);
    bench.delete();
    bench.create(level, &members);
    bench.malloc(&members[0]);
    bench.assert_state("configuring", level, count, count);
    assert!(bench.is_configured(0) && !bench.is_configured(1));
    bench.delete();
    bench.create(level, &members);
    for member in &members[1..] {
        bench.assert_state("configuring", level, count, count);
        bench.malloc(member);
    }
    bench.assert_state("online", level, count, count);
    let array = &bench.ok(&["bdev_get_bdevs", "-b", "r"])[0];
    assert_eq!(array["block_size"], 512);
    // SPDK takes the deletion of a member's bdev for its failure, and takes a raid0 offline. mdof
    // deletes no bdev that is in use: a typing error must not cost redundancy or data.
    bench.client.refused(&["bdev_malloc_delete", &members[0]], -16);
    let remove = ["bdev_raid_remove_base_bdev", &members[0]];
    if has_redundancy(level) {
        bench.ok(&remove);
        bench.ok(&["bdev_malloc_delete", &members[0]]);
        bench.assert_state("online", level, count - 1, count);
    } else {
        bench.client.refused(&remove, -22);
        bench.assert_state("online", level, count, count);
    }
    bench.delete();
    bench.stop();
}

#[test]
fn raid_state_function_test() {
    for (level, count) in [("raid1", 2), ("raid0", 3), ("concat", 2), ("raid5f", 3)] {
        state_function(level, count);
    }
}

/// Its last part: members come and go while the array is configured.
#[test]
fn raid_state_function_test_configuring() {
    let Some(bench) = Bench::new("configuring") else { return };
    let members = names("BaseBdev", 3);
    bench.malloc(&members[1]);
    bench.malloc(&members[2]);
    bench.create("raid1", &members);
    bench.assert_state("configuring", "raid1", 3, 3);
    bench.ok(&["bdev_raid_remove_base_bdev", &members[1]]);
    assert!(!bench.is_configured(1));
    bench.malloc(&members[0]);
    assert!(bench.is_configured(0));
    bench.ok(&["bdev_raid_remove_base_bdev", &members[2]]);
    assert!(!bench.is_configured(2));
    bench.ok(&["bdev_raid_add_base_bdev", "r", &members[2]]);
    assert!(bench.is_configured(2));
    bench.ok(&["bdev_malloc_delete", &members[0]]);
    assert!(!bench.is_configured(0));
    bench.ok(&["bdev_raid_add_base_bdev", "r", &members[1]]);
    assert!(bench.is_configured(1));
    bench.assert_state("configuring", "raid1", 3, 3);
    // SPDK fills the slot by the UUID of the bdev; mdof is told.
    bench.malloc("NewBaseBdev");
    bench.ok(&["bdev_raid_add_base_bdev", "r", "NewBaseBdev"]);
    bench.assert_state("online", "raid1", 3, 3);
    assert_eq!(bench.array()["base_bdevs_list"][0]["name"], "NewBaseBdev");
    bench.delete();
    bench.stop();
}

/// `raid_superblock_test`: members that are unplugged and plugged in again make their array.
fn superblock(level: &str) {
    let Some(bench) = Bench::new(&format!("sb-{level}")) else { return };
    let (malloc, passthru) = (names("malloc", 3), names("pt", 3));
    let plug = |index: usize| {
        bench.ok(&["bdev_passthru_create", "-b", &malloc[index], "-p", &passthru[index]]);
    };
    let unplug = |index: usize| {
        bench.ok(&["bdev_passthru_delete", &passthru[index]]);
    };
    for (index, name) in malloc.iter().enumerate() {
        bench.malloc(name);
        plug(index);
    }
    bench.create(level, &passthru);
    bench.assert_state("online", level, 3, 3);
    let uuid = bench.array()["uuid"].clone();
    bench.delete();
    (0..3).for_each(unplug);
    // With another array's superblock on them they make no new one.
    let members = malloc.join(" ");
    let other = ["bdev_raid_create", "-s", "-r", "raid1", "-b", &members, "-n", "other"];
    bench.client.refused(&other, -17);
    assert_eq!(bench.array(), Value::Null);
    plug(0);
    bench.assert_state("configuring", level, 3, 3);
    plug(1);
    unplug(1);
    bench.assert_state("configuring", level, 3, 3);
    plug(1);
    plug(2);
    bench.assert_state("online", level, 3, 3);
    assert_eq!(bench.array()["uuid"], uuid);
    // A member leaves; without it the array starts, as it is on record that it left.
    bench.ok(&["bdev_raid_remove_base_bdev", &passthru[0]]);
    unplug(0);
    bench.assert_state("online", level, 2, 3);
    bench.delete();
    unplug(1);
    unplug(2);
    plug(1);
    bench.assert_state("configuring", level, 3, 3);
    plug(2);
    bench.assert_state("online", level, 2, 3);
    bench.delete();
    unplug(2);
    // The one that left knows nothing of it. It takes no part when the newer ones are there.
    plug(0);
    bench.assert_state("configuring", level, 3, 3);
    plug(2);
    unplug(1);
    plug(1);
    bench.wait_until("the start", |bench| bench.array()["state"] == "online");
    bench.assert_state("online", level, 2, 3);
    assert!(!bench.is_configured(0));
    assert_eq!(bench.array()["uuid"], uuid);
    bench.stop();
}

#[test]
fn raid_superblock_test() {
    superblock("raid1");
    superblock("raid5f");
}

/// All that there is to know of a rebuild.
fn assert_process_is_whole(process: &Value) {
    for key in ["mib_s", "chunks", "chunks_done", "checkpoint_chunk", "slot"] {
        assert!(process[key].is_u64(), "{key}: {process}");
    }
}

/// `raid_rebuild_test`, with notifications of what goes on.
fn rebuild(level: &str, count: usize) {
    let Some(bench) = Bench::new(&format!("rebuild-{level}-{count}")) else { return };
    let members = names("BaseBdev", count);
    for member in &members {
        let below = format!("{member}_malloc");
        bench.malloc_of(REBUILD_MIB, &below);
        bench.ok(&["bdev_passthru_create", "-b", &below, "-p", member]);
    }
    bench.malloc_of(REBUILD_MIB, "spare_malloc");
    let delay = ["-r", "0", "-t", "0", "-w", "1000", "-n", "1000"];
    bench.ok(&[&["bdev_delay_create", "-b", "spare_malloc", "-d", "spare"][..], &delay].concat());
    bench.create(level, &members);
    let mut host = bench.serve();
    let blocks = host.blocks / 2;
    host.write(0, blocks, 1);
    bench.ok(&["bdev_raid_remove_base_bdev", &members[0]]);
    bench.assert_state("online", level, count - 1, count);
    let pace = |max_mib_s: u32| {
        let params = json!({ "name": "r", "max_mib_s": max_mib_s });
        bench.mdof.rpc("bdev_raid_set_sync", &params).unwrap();
    };
    // So that a rebuild is still there when it is looked at.
    pace(1);
    let rebuilds = |bench: &Bench| bench.process() == (json!("rebuild"), json!("spare"));
    bench.ok(&["bdev_raid_add_base_bdev", "r", "spare"]);
    bench.wait_until("the rebuild", rebuilds);
    assert_process_is_whole(&bench.array()["process"]);
    // The target of the rebuild goes, and comes again.
    bench.ok(&["bdev_raid_remove_base_bdev", "spare"]);
    bench.assert_state("online", level, count - 1, count);
    assert_eq!(bench.process(), (Value::Null, Value::Null));
    bench.ok(&["bdev_raid_add_base_bdev", "r", "spare"]);
    bench.wait_until("the rebuild", rebuilds);
    host.write(100, 200, 2);
    // The array stops in the middle. SPDK forgets the rebuild; here it goes on.
    bench.ok(&["nvmf_subsystem_remove_ns", NQN, "1"]);
    bench.delete();
    for member in &members {
        bench.ok(&["bdev_passthru_delete", member]);
    }
    for member in &members[1..] {
        let below = format!("{member}_malloc");
        bench.ok(&["bdev_passthru_create", "-b", &below, "-p", member]);
    }
    bench.assert_state("configuring", level, count, count);
    // That the rebuild goes on from here is seen in the notifications, below.
    bench.ok(&["bdev_examine", "-b", "spare"]);
    pace(0);
    bench.wait_until("the end of the rebuild", |bench| {
        bench.array()["num_base_bdevs_operational"] == count && bench.process().0 == Value::Null
    });
    bench.assert_state("online", level, count, count);
    bench.assert_alike();
    bench.ok(&["nvmf_subsystem_add_ns", NQN, "r"]);
    drop(host);
    let listener = &bench.ok(&["nvmf_get_subsystems", NQN])[0]["listen_addresses"][0];
    let mut host = Host::connect(listener["trsvcid"].as_str().unwrap().parse().unwrap(), NQN);
    host.check(0, 100, 1);
    host.check(100, 200, 2);
    host.check(300, blocks - 300, 1);
    // The first member was replaced: what it carries is another's place by now.
    let below = format!("{}_malloc", members[0]);
    bench.ok(&["bdev_passthru_create", "-b", &below, "-p", &members[0]]);
    bench.client.refused(&["bdev_raid_add_base_bdev", "r", &members[0]], -22);
    bench.assert_state("online", level, count, count);
    notifications(&bench);
    bench.stop();
}

/// What has happened was told, in its order.
fn notifications(bench: &Bench) {
    let types = bench.ok(&["notify_get_types"]);
    let all = bench.ok(&["notify_get_notifications"]);
    let all = all.as_array().unwrap();
    let mut wanted = [
        "raid_started",
        "raid_member_failed",
        "raid_degraded",
        "raid_member_removed",
        "raid_member_joined",
        "raid_rebuild_started",
        "raid_stopped",
        "raid_rebuild_done",
        "raid_whole",
        "raid_scrub_done",
    ]
    .into_iter()
    .peekable();
    for (number, event) in all.iter().enumerate() {
        assert_eq!(event["id"], number);
        assert!(types.as_array().unwrap().contains(&event["type"]), "{event}");
        if wanted.peek().is_some_and(|wanted| event["type"] == *wanted) {
            assert_eq!(event["ctx"], "r", "{event}");
            // Who took the member out was the operator.
            let is_told = event["text"].as_str().unwrap().contains("as told");
            assert_eq!(is_told, event["type"] == "raid_member_failed", "{event}");
            wanted.next();
        }
    }
    assert_eq!(wanted.next(), None, "{all:?}");
    let some = bench.ok(&["notify_get_notifications", "-i", "3", "-n", "2"]);
    assert_eq!(some, json!(all[3..5]));
}

#[test]
fn raid_rebuild_test() {
    rebuild("raid1", 2);
    rebuild("raid5f", 3);
}

/// `raid_io_error_test`: a host sees no error where there is redundancy.
fn io_error(level: &str, kind: &str) {
    let Some(bench) = Bench::new(&format!("error-{level}-{kind}")) else { return };
    let members = names("BaseBdev", 3);
    for member in &members {
        let below = format!("{member}_malloc");
        bench.malloc(&below);
        bench.ok(&["bdev_error_create", &below]);
        bench.ok(&["bdev_passthru_create", "-b", &format!("EE_{below}"), "-p", member]);
    }
    bench.create(level, &members);
    let mut host = bench.serve();
    host.write(0, 2048, 1);
    let sick = format!("EE_{}_malloc", members[0]);
    bench.ok(&["bdev_error_inject_error", &sick, kind, "failure", "-n", "1"]);
    host.write(0, 2048, 2);
    host.check(0, 2048, 2);
    let left = if kind == "write" { 2 } else { 3 };
    bench.wait_until("the count", |it| it.array()["num_base_bdevs_operational"] == left);
    bench.assert_state("online", level, left, 3);
    bench.ok(&["nvmf_delete_subsystem", NQN]);
    bench.delete();
    bench.stop();
}

#[test]
fn raid_io_error_test() {
    for level in ["raid1", "raid5f"] {
        io_error(level, "read");
        io_error(level, "write");
    }
}

#[test]
fn raid_delete_clear_sb_test() {
    for (level, count) in [("raid1", 2), ("raid5f", 3)] {
        let Some(bench) = Bench::new(&format!("clear-{level}")) else { return };
        let members = names("BaseBdev", count);
        let plug = |member: &String| {
            let below = format!("{member}_malloc");
            bench.ok(&["bdev_passthru_create", "-b", &below, "-p", member]);
        };
        for member in &members {
            bench.malloc(&format!("{member}_malloc"));
            plug(member);
        }
        bench.create(level, &members);
        bench.assert_state("online", level, count, count);
        bench.ok(&["bdev_raid_delete", "r", "--clear-sb"]);
        for member in &members {
            bench.ok(&["bdev_passthru_delete", member]);
            plug(member);
        }
        bench.ok(&["bdev_wait_for_examine"]);
        assert_eq!(bench.array(), Value::Null);
        // A name that a member has.
        let list = members.join(" ");
        let bad = ["bdev_raid_create", "-s", "-r", level, "-z", "64", "-b", &list];
        bench.client.call(&[&bad[..], &["-n", &members[0]]].concat()).unwrap_err();
        assert_eq!(bench.array(), Value::Null);
        bench.create(level, &members);
        bench.assert_state("online", level, count, count);
        bench.stop();
    }
}

#[test]
fn raid_set_options() {
    let Some(bench) = Bench::new("options") else { return };
    let members = names("m", 2);
    members.iter().for_each(|name| bench.malloc(name));
    bench.create("raid1", &members);
    bench.ok(&["bdev_raid_set_options", "-w", "2048", "-b", "7"]);
    assert_eq!(bench.array()["sync_max_mib_s"], 7);
    bench.client.refused(&["bdev_raid_set_options", "-w", "0"], -22);
    // A reshape, by SPDK's name and by md's nature.
    bench.malloc("more");
    let grow = json!({ "raid_name": "r", "base_name": "more" });
    let text = bench.mdof.rpc("bdev_raid_grow_base_bdev", &grow).unwrap_err();
    assert!(text.contains("does not reshape") && text.contains("Nothing was changed"), "{text}");
    bench.client.refused(&["bdev_raid_add_base_bdev", "r", "more"], -22);
    let config = bench.ok(&["framework_get_config", "bdev"]);
    let first = json!({ "process_window_size_kb": 2048, "process_max_bandwidth_mb_sec": 7 });
    assert_eq!(config[0]["params"], first);
    bench.stop();
}

//! Bdevs that hang, requests to which do not end: what is asked of the target is answered all the
//! same, and nothing is lost. `members.rs` has what is about arrays alone.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ::mdof::initiator::{Client, ClientOptions, QueuePair};
use ::mdof::reactor::buf::BufPool;
use mdof::{Mdof, TestDir, free_port};
use serde_json::{Value, json};

const NQN: &str = "nqn.2026-01.io.mdof:hanging";
const BLOCK: usize = 512;
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest answer of a call: what it waits for a bdev is bounded by 10 s, on a busy machine.
const SOON: Duration = Duration::from_secs(25);

/// Bdevs `a`, `b` and `c`, and `EE_b` and `EE_c` above two of them, which can be made to hang.
struct Bench {
    mdof: Mdof,
    dir: TestDir,
    port: u16,
}

/// A host with one I/O queue.
struct Host {
    _client: Client,
    queue: QueuePair,
    pool: BufPool,
}

impl Host {
    fn connect(port: u16) -> Self {
        let pool = BufPool::on_heap([16, 4, 4, 0]);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let options = ClientOptions::new(address, NQN, "nqn.2026-01.io.mdof:host");
        let mut client = Client::connect(options, pool).unwrap();
        client.request_queues(1).unwrap();
        let queue = client.open_io_queue(1, 32).unwrap();
        Self { _client: client, queue, pool }
    }

    /// Sends a write of one block, and does not wait for its end.
    fn begin_write(&mut self, lba: u64, byte: u8) {
        let mut buf = self.pool.get(BLOCK).unwrap();
        buf.as_mut_slice().fill(byte);
        self.queue.submit_write(1, lba, 1, buf, 0);
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(300) {
            self.queue.poll().unwrap();
        }
    }

    fn end(&mut self) -> Option<::mdof::reactor::buf::IoBuf> {
        loop {
            self.queue.poll().unwrap();
            if let Some(completion) = self.queue.next_completion() {
                assert!(completion.status().is_success(), "{:?}", completion.status());
                return completion.buf;
            }
        }
    }

    fn write(&mut self, lba: u64, byte: u8) {
        self.begin_write(lba, byte);
        self.end();
    }

    fn check(&mut self, lba: u64, byte: u8) {
        let buf = self.pool.get(BLOCK).unwrap();
        self.queue.submit_read(1, lba, 1, buf, 0);
        assert_eq!(self.end().unwrap().as_slice(), [byte; BLOCK]);
    }
}

impl Bench {
    fn new(name: &str) -> Self {
        let dir = TestDir::new(name);
        let bench = Self { mdof: start(&dir), dir, port: free_port() };
        bench.ok("nvmf_create_transport", json!({ "trtype": "TCP" }));
        bench.ok("nvmf_create_subsystem", json!({ "nqn": NQN, "allow_any_host": true }));
        let address = json!({ "trtype": "TCP", "traddr": "127.0.0.1", "adrfam": "IPv4",
                              "trsvcid": bench.port.to_string() });
        let listener = json!({ "nqn": NQN, "listen_address": address });
        bench.ok("nvmf_subsystem_add_listener", listener);
        bench
    }

    /// A call that is answered soon, however.
    fn call(&self, method: &str, params: &Value) -> Result<Value, String> {
        let since = Instant::now();
        let answer = self.mdof.rpc(method, params);
        assert!(since.elapsed() < SOON, "{method} took {:?}: {answer:?}", since.elapsed());
        answer
    }

    fn ok(&self, method: &str, params: Value) -> Value {
        self.call(method, &params).unwrap()
    }

    fn refused(&self, method: &str, params: Value) -> String {
        self.call(method, &params).unwrap_err()
    }

    /// Calls until it is not refused any more.
    fn at_last(&self, method: &str, params: Value) {
        let since = Instant::now();
        while let Err(text) = self.call(method, &params) {
            assert!(since.elapsed() < PATIENCE, "{method}: {text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn create_array(&self, more: Value) {
        let mut params = json!({ "name": "r", "raid_level": "raid1", "superblock": true,
                                 "base_bdevs": ["a", "EE_b"] });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.ok("bdev_raid_create", params);
    }

    fn add_namespace(&self, bdev: &str) {
        let namespace = json!({ "bdev_name": bdev, "nsid": 1 });
        self.ok("nvmf_subsystem_add_ns", json!({ "nqn": NQN, "namespace": namespace }));
    }

    fn remove_namespace(&self) {
        self.ok("nvmf_subsystem_remove_ns", json!({ "nqn": NQN, "nsid": 1 }));
    }

    fn hang(&self, bdev: &str, io_type: &str) {
        let hang =
            json!({ "name": bdev, "io_type": io_type, "error_type": "pending", "num": 100_000 });
        self.ok("bdev_error_inject_error", hang);
    }

    fn answer(&self, bdev: &str) {
        let clear = json!({ "name": bdev, "io_type": "clear", "error_type": "pending" });
        self.ok("bdev_error_inject_error", clear);
        self.ok("bdev_error_resume_pending", json!({ "name": bdev }));
    }

    fn array(&self) -> Value {
        self.ok("bdev_raid_get_bdevs", json!({ "category": "all" }))[0].clone()
    }

    fn wait_in_sync(&self) {
        let since = Instant::now();
        let is_so = |shown: &Value| {
            let list = shown["base_bdevs_list"].as_array().unwrap();
            list.iter().all(|member| member["state"] == "in_sync") && shown["process"].is_null()
        };
        while !is_so(&self.array()) {
            assert!(since.elapsed() < PATIENCE, "{}", self.array());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(self) {
        self.mdof.signal("TERM");
        let (text, code) = self.mdof.wait();
        assert_eq!(code, Some(0), "{text}");
        drop(self.dir);
    }
}

fn start(dir: &TestDir) -> Mdof {
    let file = |name: &str| {
        format!(
            "[[bdev]]\nname = \"{name}\"\nkind = \"uring\"\npath = \"{name}.img\"\n\
             create = true\nsize_mib = 8\nblock_size_bytes = {BLOCK}\n"
        )
    };
    let above = |base: &str| {
        format!("[[bdev]]\nname = \"EE_{base}\"\nkind = \"error\"\nbase = \"{base}\"\n")
    };
    let parts = [file("a"), file("b"), file("c"), above("b"), above("c")];
    Mdof::start(dir, &dir.config(&parts.concat()), &[])
}

/// A host's write hangs, and the target is to end: it does, and what it has acknowledged before is
/// there at the next start.
#[test]
fn the_target_ends_though_a_command_of_a_host_hangs() {
    let mut bench = Bench::new("hanging-end");
    bench.create_array(json!({}));
    bench.add_namespace("r");
    let mut host = Host::connect(bench.port);
    host.write(7, 0xa1);
    bench.hang("EE_b", "write");
    host.begin_write(1000, 0xb2);
    let since = Instant::now();
    bench.mdof.signal("TERM");
    let (text, code) = bench.mdof.wait();
    assert!(since.elapsed() < Duration::from_secs(45), "{:?}: {text}", since.elapsed());
    assert_eq!(code, Some(1), "{text}");
    for part in ["hosts have commands", "mdof: array r was not stopped cleanly", "EE_b"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    drop(host);
    bench.mdof = start(&bench.dir);
    bench.wait_in_sync();
    Host::connect(bench.port).check(7, 0xa1);
    bench.stop();
}

/// A host's write hangs, its namespace is taken away and the array stopped: it goes on stopping
/// until the member answers.
#[test]
fn a_stop_waits_for_a_command_of_a_host_without_its_call() {
    let bench = Bench::new("hanging-stop");
    bench.create_array(json!({}));
    bench.add_namespace("r");
    let mut host = Host::connect(bench.port);
    host.write(7, 0xa1);
    bench.hang("EE_b", "write");
    host.begin_write(1000, 0xb2);
    bench.remove_namespace();
    let text = bench.refused("bdev_raid_delete", json!({ "name": "r" }));
    assert!(text.contains("array r is being stopped") && text.contains("EE_b"), "{text}");
    assert_eq!(bench.array()["stopping"]["waits_for"], json!(["EE_b"]));
    let namespace = json!({ "bdev_name": "r", "nsid": 1 });
    let text =
        bench.refused("nvmf_subsystem_add_ns", json!({ "nqn": NQN, "namespace": namespace }));
    assert!(text.contains("in use by its own stop"), "{text}");
    bench.answer("EE_b");
    let since = Instant::now();
    while !bench.array().is_null() {
        assert!(since.elapsed() < PATIENCE, "{}", bench.array());
        std::thread::sleep(Duration::from_millis(20));
    }
    bench.create_array(json!({ "existing": true }));
    bench.wait_in_sync();
    bench.add_namespace("r");
    let mut host = Host::connect(bench.port);
    host.check(7, 0xa1);
    host.check(1000, 0xb2);
    bench.stop();
}

/// A bdev with a request that does not end is deleted: it goes when that has.
#[test]
fn a_bdev_is_deleted_when_its_requests_have_ended() {
    let bench = Bench::new("hanging-delete");
    bench.ok("bdev_passthru_create", json!({ "base_bdev_name": "EE_c", "name": "p" }));
    bench.add_namespace("p");
    let mut host = Host::connect(bench.port);
    bench.hang("EE_c", "write");
    host.begin_write(1000, 0xb2);
    bench.remove_namespace();
    let delete = json!({ "name": "p" });
    let text = bench.refused("bdev_passthru_delete", delete.clone());
    assert!(text.contains("bdev p is being deleted"), "{text}");
    bench.ok("bdev_get_bdevs", json!({}));
    let text = bench.refused("bdev_passthru_delete", delete);
    assert!(text.contains("in use by its own deletion"), "{text}");
    let text = bench.refused("bdev_error_delete", json!({ "name": "EE_c" }));
    assert!(text.contains("in use by bdev p"), "{text}");
    bench.answer("EE_c");
    bench.at_last("bdev_error_delete", json!({ "name": "EE_c" }));
    bench.refused("bdev_get_bdevs", json!({ "name": "p" }));
    bench.stop();
}

/// Whoever wants to know what is on a bdev that hangs is told, and the bdev is nobody's until it
/// has answered.
#[test]
fn calls_that_look_at_a_bdev_that_hangs_are_answered() {
    let bench = Bench::new("hanging-look");
    bench.create_array(json!({}));
    bench.ok("bdev_raid_remove_base_bdev", json!({ "name": "EE_b" }));
    bench.hang("EE_b", "read");
    let add = json!({ "raid_bdev": "r", "base_bdev": "EE_b" });
    let other = json!({ "name": "s", "raid_level": "raid1", "superblock": true,
                        "base_bdevs": ["EE_b", "c"] });
    for (method, params) in [
        ("bdev_raid_add_base_bdev", add.clone()),
        ("bdev_raid_add_spare", add.clone()),
        ("bdev_raid_create", other),
        ("bdev_passthru_create", json!({ "base_bdev_name": "EE_b", "name": "p" })),
    ] {
        let text = bench.refused(method, params);
        assert!(text.contains("bdev EE_b") && text.contains("answer"), "{method}: {text}");
        bench.ok("nvmf_get_stats", json!({}));
    }
    bench.answer("EE_b");
    bench.at_last("bdev_raid_add_base_bdev", add);
    bench.wait_in_sync();
    // One that takes no writes is found before an array is started on it.
    bench.ok("bdev_raid_delete", json!({ "name": "r" }));
    bench.hang("EE_b", "write");
    let again = json!({ "name": "r", "raid_level": "raid1", "superblock": true,
                        "base_bdevs": ["a", "EE_b"], "existing": true });
    let text = bench.refused("bdev_raid_create", again.clone());
    assert!(text.contains("bdev EE_b") && text.contains("answer"), "{text}");
    bench.ok("bdev_get_bdevs", json!({}));
    bench.answer("EE_b");
    bench.at_last("bdev_raid_create", again);
    bench.wait_in_sync();
    bench.stop();
}

//! The target under test: the `mdof` binary with a configuration, a port and a state directory of
//! its own, and its JSON-RPC socket.

use super::{Directory, tail, wait_until};
use serde_json::{Value, json};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

pub(crate) const NQN: &str = "nqn.2026-01.io.mdof:vm";
pub(crate) const ARRAY: &str = "vmraid";

/// Room for the 192 MiB that the guest scripts use and for md's metadata.
const MEMBER_SIZE_MIB: u32 = 256;

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const RESYNC_LIMIT: Duration = Duration::from_secs(180);

/// How the array's members are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Members {
    /// Two files.
    Files,
    /// Two files, the second behind an error bdev named [`FAULTY`].
    SecondMayFail,
    /// Five files as RAID6, and two more, `disk5` and `disk6`, that nobody uses yet.
    Raid6,
}

impl Members {
    /// Files, and those of them that are members at first.
    fn files(self) -> (u32, u32) {
        match self {
            Self::Files | Self::SecondMayFail => (2, 2),
            Self::Raid6 => (7, 5),
        }
    }
}

/// The error bdev of [`Members::SecondMayFail`].
pub(crate) const FAULTY: &str = "faulty";

/// The whole configuration; the one place that knows mdof's TOML keys.
fn config_text(directory: &Directory, port: u16, members: Members) -> String {
    let disk = |index: u32| {
        format!(
            "[[bdev]]\nname = \"disk{index}\"\nkind = \"uring\"\npath = \"member{index}.img\"\n\
             create = true\nsize_mib = {MEMBER_SIZE_MIB}\n\n"
        )
    };
    let (files, slots) = members.files();
    let disks: String = (0..files).map(disk).collect();
    let mut names: Vec<String> = (0..slots).map(|index| format!("disk{index}")).collect();
    let mut wrapper = String::new();
    if members == Members::SecondMayFail {
        FAULTY.clone_into(&mut names[1]);
        wrapper = format!("[[bdev]]\nname = \"{FAULTY}\"\nkind = \"error\"\nbase = \"disk1\"\n\n");
    }
    let level = if members == Members::Raid6 { 6 } else { 1 };
    format!(
        "[target]\ncores = {cores:?}\nstate_dir = \"{state}\"\nrpc_socket = \"{socket}\"\n\n\
         {disks}{wrapper}\
         [[array]]\nname = \"{ARRAY}\"\nlevel = {level}\nmembers = {names:?}\n\
         daemon_sleep_s = 1\nbarrier_idle_s = 1\n\n\
         [[subsystem]]\nnqn = \"{NQN}\"\nserial = \"MDOFVM\"\nallow_any_host = true\n\
         namespaces = [{{ bdev = \"{ARRAY}\", nsid = 1 }}]\nlisten = [\"127.0.0.1:{port}\"]\n",
        // Two where there are two, so that queues and their controller are on different cores.
        cores = (0..std::thread::available_parallelism().map_or(1, |n| n.get().min(2)))
            .collect::<Vec<_>>(),
        state = directory.file("state").display(),
        socket = directory.file("rpc").display(),
    )
}

/// A target that can be killed and started again over the same members.
#[derive(Debug)]
pub(crate) struct Mdof {
    process: Option<Child>,
    port: u16,
    options: Vec<&'static str>,
    directory: Directory,
}

impl Mdof {
    /// Starts a target over new members and waits until it listens.
    pub(crate) fn start(members: Members) -> Self {
        let directory = Directory::new("mdof");
        std::fs::create_dir_all(directory.file("state")).expect("a state directory");
        let port = free_port();
        let text = config_text(&directory, port, members);
        std::fs::write(directory.file("config.toml"), text).expect("a configuration file");
        let mut target = Self { process: None, port, options: Vec::new(), directory };
        target.restart();
        target
    }

    /// Starts the target again after [`Self::kill9`] or [`Self::stop`].
    pub(crate) fn restart(&mut self) {
        self.spawn();
        wait_until("mdof listens", START_LIMIT, || {
            self.assert_alive();
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
        });
    }

    /// Starts the target with its array allowed to run without a missing member.
    pub(crate) fn restart_degraded(&mut self) {
        self.options.push("--start-degraded");
        self.restart();
    }

    fn spawn(&mut self) {
        assert!(self.process.is_none(), "mdof already runs");
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.log_path())
            .expect("a file for mdof's log");
        let process = Command::new(env!("CARGO_BIN_EXE_mdof"))
            .arg("target")
            .arg("--config")
            .arg(self.directory.file("config.toml"))
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .expect("mdof starts");
        self.process = Some(process);
    }

    /// Ends the target as a crash would.
    pub(crate) fn kill9(&mut self) {
        self.assert_alive();
        let mut process = self.process.take().expect("mdof runs");
        process.kill().expect("SIGKILL");
        process.wait().expect("mdof's end");
        println!("mdof killed");
    }

    /// Ends the target as its operator would; it has to take that well.
    pub(crate) fn stop(&mut self) {
        self.assert_alive();
        let process = self.process.as_ref().expect("mdof runs");
        let pid = i32::try_from(process.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a process id"), rustix::process::Signal::TERM)
            .expect("SIGTERM");
        let status = self.wait_for_end();
        assert!(status.success(), "mdof ended with {status} on SIGTERM\n{}", self.log_tail());
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("mdof was started");
        let mut status = None;
        wait_until("mdof ends", STOP_LIMIT, || {
            status = process.try_wait().expect("mdof's state");
            status.is_some()
        });
        status.expect("waited for it")
    }

    /// Fails, with the log's end, if the target has ended by itself.
    pub(crate) fn assert_alive(&mut self) {
        let process = self.process.as_mut().expect("mdof runs");
        if let Some(status) = process.try_wait().expect("mdof's state") {
            self.process = None;
            panic!("mdof ended by itself with {status}\n{}", self.log_tail());
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn member(&self, index: u32) -> PathBuf {
        self.directory.file("state").join(format!("member{index}.img"))
    }

    pub(crate) fn log_tail(&self) -> String {
        tail(self.log_path().as_path(), 40)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.file("log")
    }

    /// One JSON-RPC call, which has to succeed.
    pub(crate) fn rpc(&self, method: &str, params: Value) -> Value {
        let answer = rpc_call(&self.directory.file("rpc"), method, params);
        assert!(answer.get("error").is_none(), "{method}: {answer}\n{}", self.log_tail());
        answer.get("result").cloned().unwrap_or_else(|| panic!("{method}: {answer}"))
    }

    /// Chunks of the array's bitmap that a resync still has to visit.
    pub(crate) fn chunks_to_sync(&self) -> u64 {
        let bitmap = self.rpc("bdev_raid_get_bitmap", json!({ "name": ARRAY }));
        ["need_sync", "syncing", "need_sync_unwritten", "syncing_unwritten"]
            .map(|state| {
                let count = bitmap["states"][state].as_u64();
                count.unwrap_or_else(|| panic!("no count of {state} chunks in {bitmap}"))
            })
            .iter()
            .sum()
    }

    /// What the target says of the array.
    pub(crate) fn array(&self) -> Value {
        self.rpc("bdev_raid_get_bdevs", json!({ "category": "all" }))[0].take()
    }

    /// Waits until every slot's member is in sync and nothing runs in the background.
    pub(crate) fn wait_until_whole(&self) {
        wait_until("every member is in sync", RESYNC_LIMIT, || {
            let array = self.array();
            let members = array["base_bdevs_list"].as_array().expect("a list of members");
            members.iter().all(|member| member["state"] == "in_sync")
                && array.get("process").is_none()
        });
    }

    /// Waits until no chunk of the array is in need of a resync.
    pub(crate) fn wait_for_resync(&self) {
        println!("{} chunks to sync", self.chunks_to_sync());
        wait_until("the resync is done", RESYNC_LIMIT, || self.chunks_to_sync() == 0);
    }
}

impl Drop for Mdof {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("mdof's log:\n{}", self.log_tail());
        }
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself, about which the test has complained already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn rpc_call(socket: &Path, method: &str, params: Value) -> Value {
    let stream = UnixStream::connect(socket)
        .unwrap_or_else(|error| panic!("RPC socket {}: {error}", socket.display()));
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid timeout");
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    serde_json::to_writer(&stream, &request).expect("a request is sent");
    // Answers follow each other without a frame; this one is whole when it parses.
    let mut answers = serde_json::Deserializer::from_reader(&stream).into_iter::<Value>();
    match answers.next() {
        Some(Ok(answer)) => answer,
        other => panic!("{method}: no answer but {other:?}"),
    }
}

/// A port that nobody listens on at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

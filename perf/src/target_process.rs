//! The target as its operator has it: how soon it is ready, and what it takes when nobody uses it.
//! Runs the release binary with the demo's configuration in a temporary directory, on a free port.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::job::PerfError;
use crate::stats::Spread;

/// The configuration that mdof runs without arguments.
const DEMO: &str = include_str!("../../conf/demo.toml");
/// Where that one listens.
const DEMO_ADDRESS: &str = "127.0.0.1:4420";
/// The line that mdof prints when it serves.
const READY: &str = "ready";
/// A target that is not ready, or has not stopped, after this is broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// After a start, before it counts as idle.
const SETTLE: Duration = Duration::from_secs(2);

/// What was promised.
const READY_MS_MAX: f64 = 1000.0;
const IDLE_CPU_PERCENT_MAX: f64 = 1.0;
const RESIDENT_MIB_MAX: f64 = 64.0;

fn failed(what: &str) -> impl Fn(std::io::Error) -> PerfError + '_ {
    move |error| PerfError(format!("{what}: {error}"))
}

/// A temporary directory, removed when it goes.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Result<Self, PerfError> {
        let path = std::env::temp_dir().join(format!("mdof-perf-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(failed("cannot make a temporary directory"))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("mdof-perf: {} was left behind: {error}", self.path.display());
        }
    }
}

/// The demo on a port of its own.
#[derive(Debug)]
struct Demo {
    binary: PathBuf,
    scratch: Scratch,
    address: SocketAddr,
}

impl Demo {
    fn new(binary: &Path) -> Result<Self, PerfError> {
        let scratch = Scratch::new()?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let address = free
            .and_then(|listener| listener.local_addr())
            .map_err(failed("no free port on the loopback"))?;
        let config = moved(DEMO, address)?;
        std::fs::write(scratch.path.join("demo.toml"), config)
            .map_err(failed("cannot write the configuration"))?;
        Ok(Self { binary: binary.to_owned(), scratch, address })
    }

    /// Starts the target and waits until it serves.
    fn start(&self) -> Result<Running, PerfError> {
        let dir = &self.scratch.path;
        let begun = Instant::now();
        let mut child = Command::new(&self.binary)
            .arg("target")
            .arg("--config")
            .arg(dir.join("demo.toml"))
            .arg("--state-dir")
            .arg(dir.join("state"))
            .env("MDOF_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                let binary = self.binary.display();
                PerfError(format!(
                    "cannot start {binary}: {error}; build it first (cargo build --release) or \
                     name it with --mdof"
                ))
            })?;
        let output = child.stdout.take().expect("it was asked for");
        let mut running = Running { child, ready: Duration::ZERO };
        wait_for_ready(output)?;
        // The word alone is cheap: a host must get in.
        TcpStream::connect(self.address)
            .map_err(failed("mdof says it is ready, but connecting"))?;
        running.ready = begun.elapsed();
        Ok(running)
    }
}

/// Reads the target's output until it says that it is ready, and what follows on a thread.
fn wait_for_ready(output: impl std::io::Read + Send + 'static) -> Result<(), PerfError> {
    let (sender, ready) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if line.starts_with(READY) {
                // Whoever waited may have given up.
                let _ = sender.send(());
            }
        }
    });
    ready.recv_timeout(PATIENCE).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => {
            PerfError(format!("mdof was not ready after {} s", PATIENCE.as_secs()))
        }
        mpsc::RecvTimeoutError::Disconnected => {
            PerfError("mdof ended before it was ready; its message stands above".to_owned())
        }
    })
}

/// The demo's configuration listening on another address.
fn moved(demo: &str, address: SocketAddr) -> Result<String, PerfError> {
    let config = demo.replace(DEMO_ADDRESS, &address.to_string());
    if config == demo {
        return Err(PerfError(format!("conf/demo.toml does not listen on {DEMO_ADDRESS}")));
    }
    Ok(config)
}

/// A running target; killed if it is dropped.
#[derive(Debug)]
struct Running {
    child: Child,
    ready: Duration,
}

impl Running {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it as an operator does.
    fn stop(mut self) -> Result<(), PerfError> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).map_err(|error| PerfError(error.to_string()))?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match self.child.try_wait().map_err(failed("waiting for mdof"))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(PerfError(format!("mdof ended with {status}"))),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Err(PerfError(format!("mdof has not stopped {} s after SIGTERM", PATIENCE.as_secs())))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `stop` it is gone, and both calls say so: nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From exec to serving.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    /// The first start, which makes the array, in milliseconds.
    pub(crate) first_ms: f64,
    /// The later starts, which re-assemble it.
    pub(crate) later_ms: Spread,
    pub(crate) promise_ms: f64,
    pub(crate) kept: bool,
}

/// Starts the demo once to make its array, then `rounds` times.
pub(crate) fn measure_ready(binary: &Path, rounds: u32) -> Result<Readiness, PerfError> {
    let demo = Demo::new(binary)?;
    let mut ms = Vec::new();
    for _ in 0..=rounds.max(1) {
        let running = demo.start()?;
        ms.push(running.ready.as_secs_f64() * 1e3);
        running.stop()?;
    }
    let later_ms = Spread::new(&ms[1..]);
    let kept = later_ms.max <= READY_MS_MAX;
    Ok(Readiness { first_ms: ms[0], later_ms, promise_ms: READY_MS_MAX, kept })
}

impl Readiness {
    /// For people.
    pub(crate) fn as_text(&self) -> String {
        let Spread { median, min, max } = self.later_ms;
        format!(
            "ready after {median:.0} ms ({min:.0} to {max:.0}); the first start, which makes the \
             array, took {:.0} ms\npromised: within {:.0} ms: {}\n",
            self.first_ms,
            self.promise_ms,
            word(self.kept)
        )
    }
}

/// What an idle target takes.
#[derive(Debug, Serialize)]
pub(crate) struct Idleness {
    pub(crate) seconds: f64,
    /// Of one core.
    pub(crate) cpu_percent: f64,
    /// `VmRSS` and `HugetlbPages`.
    pub(crate) resident_mib: f64,
    pub(crate) promise_cpu_percent: f64,
    pub(crate) promise_resident_mib: f64,
    pub(crate) kept: bool,
}

/// Starts the demo, lets it settle, and looks at what it takes for `time`.
pub(crate) fn measure_idle(binary: &Path, time: Duration) -> Result<Idleness, PerfError> {
    let demo = Demo::new(binary)?;
    let running = demo.start()?;
    std::thread::sleep(SETTLE);
    let (begun, before) = (Instant::now(), cpu_ticks(running.pid())?);
    std::thread::sleep(time);
    let ticks = cpu_ticks(running.pid())? - before;
    let seconds = begun.elapsed().as_secs_f64();
    let status = read_proc(running.pid(), "status")?;
    let resident_kib = resident_kib(&status)
        .ok_or_else(|| PerfError("/proc has no VmRSS for the target".to_owned()))?;
    running.stop()?;
    let ticks_per_s = rustix::param::clock_ticks_per_second();
    let cpu_percent = ticks as f64 / ticks_per_s as f64 / seconds * 100.0;
    let resident_mib = resident_kib as f64 / 1024.0;
    Ok(Idleness {
        seconds,
        cpu_percent,
        resident_mib,
        promise_cpu_percent: IDLE_CPU_PERCENT_MAX,
        promise_resident_mib: RESIDENT_MIB_MAX,
        kept: cpu_percent < IDLE_CPU_PERCENT_MAX && resident_mib < RESIDENT_MIB_MAX,
    })
}

impl Idleness {
    /// For people.
    pub(crate) fn as_text(&self) -> String {
        format!(
            "idle for {:.1} s: {:.2} % of one core, {:.1} MiB resident\n\
             promised: under {:.0} % and {:.0} MiB: {}\n",
            self.seconds,
            self.cpu_percent,
            self.resident_mib,
            self.promise_cpu_percent,
            self.promise_resident_mib,
            word(self.kept)
        )
    }
}

fn word(kept: bool) -> &'static str {
    if kept { "kept" } else { "NOT KEPT" }
}

fn read_proc(pid: u32, file: &str) -> Result<String, PerfError> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).map_err(failed(&path))
}

/// CPU time of a process in clock ticks, user and system.
fn cpu_ticks(pid: u32) -> Result<u64, PerfError> {
    let stat = read_proc(pid, "stat")?;
    parse_cpu_ticks(&stat).ok_or_else(|| PerfError(format!("/proc/{pid}/stat makes no sense")))
}

/// utime and stime, fields 14 and 15 (proc(5)). The name, field 2, may hold spaces and brackets.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Resident memory; hugepages are not part of `VmRSS`.
fn resident_kib(status: &str) -> Option<u64> {
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some(field("VmRSS:")? + field("HugetlbPages:").unwrap_or(0))
}

#[cfg(test)]
mod tests;

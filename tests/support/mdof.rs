//! Starts the mdof binary in a directory and on a port of its own, and stops it again.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a start or a stop may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that goes with the test.
#[derive(Debug)]
pub struct TestDir(pub PathBuf);

impl TestDir {
    /// A new, empty directory.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mdof-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a configuration file there.
    pub fn config(&self, text: &str) -> PathBuf {
        let path = self.file("mdof.toml");
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port that nobody uses just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `mdof target` on a configuration file, with its state in `dir`.
fn command(dir: &Path, config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mdof"));
    command.args(["target", "--config"]).arg(config);
    command.arg("--state-dir").arg(dir).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A start that is expected to fail: its exit and its one sentence.
pub fn refused(dir: &TestDir, config: &Path, arguments: &[&str]) -> String {
    let mut child = command(&dir.0, config, arguments).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("mdof did not end by itself");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("mdof: "), "{text}");
    last.to_owned()
}

/// A running mdof.
#[derive(Debug)]
pub struct Mdof {
    child: Child,
    /// What it printed until it was ready.
    pub banner: String,
    /// Its RPC socket.
    pub socket: PathBuf,
    rest: mpsc::Receiver<String>,
    /// Its log: read all the time, as a target that can't write it would wait.
    log: Option<std::thread::JoinHandle<String>>,
}

impl Mdof {
    /// Starts it and waits until it is ready.
    pub fn start(dir: &TestDir, config: &Path, arguments: &[&str]) -> Self {
        Self::spawn(&dir.0, &mut command(&dir.0, config, arguments))
    }

    /// The same with its log going elsewhere.
    pub fn start_logging_to(dir: &TestDir, config: &Path, log: Stdio) -> Self {
        Self::spawn(&dir.0, command(&dir.0, config, &[]).stderr(log))
    }

    /// The same with its state in a folder.
    pub fn start_in(dir: &Path, config: &Path, arguments: &[&str]) -> Self {
        Self::spawn(dir, &mut command(dir, config, arguments))
    }

    /// `mdof assemble` in `dir`, with its state there.
    pub fn assemble(dir: &TestDir, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mdof"));
        command.current_dir(&dir.0).arg("assemble").args(arguments).arg("--state-dir").arg(&dir.0);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn(&dir.0, &mut command)
    }

    fn spawn(dir: &Path, command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, rest) = mpsc::channel();
        std::thread::spawn(move || {
            while let Some(Ok(line)) = lines.next() {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let stderr = child.stderr.take();
        let log = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What came before an error is what there is.
            let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let mut banner = String::new();
        loop {
            match rest.recv_timeout(PATIENCE) {
                Ok(line) => {
                    banner += &line;
                    banner.push('\n');
                    if line.starts_with("ready") {
                        break;
                    }
                }
                Err(error) => {
                    let _ = child.kill();
                    let text = log.join().unwrap();
                    panic!("mdof did not become ready ({error}): {banner}{text}");
                }
            }
        }
        Self { child, banner, socket: dir.join("mdof.sock"), rest, log: Some(log) }
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for its end; returns what it printed since, and its exit code.
    pub fn wait(mut self) -> (String, Option<i32>) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "mdof does not stop");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut text = String::new();
        while let Ok(line) = self.rest.recv_timeout(Duration::from_secs(5)) {
            text += &line;
            text.push('\n');
        }
        // And its log.
        text += &self.log.take().unwrap().join().unwrap();
        (text, status.code())
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Files that it has open, of every kind.
    pub fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Memory that it has touched and not given back.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap()
    }

    /// Sockets that it has open.
    pub fn sockets(&self) -> usize {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let targets = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }

    /// Calls a method with mdof's own client.
    pub fn rpc(&self, method: &str, params: &Value) -> Result<Value, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mdof"));
        command.args(["rpc", method, &params.to_string(), "--socket"]).arg(&self.socket);
        answer(&command.output().unwrap())
    }
}

/// The JSON that a client printed, or what it complained about.
pub fn answer(output: &Output) -> Result<Value, String> {
    let out = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("{out}{}", String::from_utf8_lossy(&output.stderr)));
    }
    // SPDK's client prints nothing for a mere true, and a lone name without quotes.
    if out.trim().is_empty() {
        return Ok(Value::Bool(true));
    }
    Ok(serde_json::from_str(&out).unwrap_or_else(|_| Value::String(out.trim().to_owned())))
}

impl Drop for Mdof {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

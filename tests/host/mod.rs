//! What the VM tests stand on: the guest ([`vm`]), the target under test ([`target`]), the member
//! files as `mdadm` sees them ([`members`]).

pub(crate) mod members;
pub(crate) mod target;
pub(crate) mod vm;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Set to 1 by `scripts/test`: a missing tool is then a failure and not a reason to leave out.
const REQUIRE_VARIABLE: &str = "MDOF_TEST_REQUIRE";

/// Set to 1 by `scripts/test --quick`: the tests that boot a guest are left out.
const QUICK_VARIABLE: &str = "MDOF_TEST_QUICK";

/// Programs and the Debian packages that hold them.
const VM_TOOLS: [(&str, &str); 8] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("nvme", "nvme-cli"),
    ("fio", "fio"),
    ("e2fsck", "e2fsprogs"),
    ("busybox", "busybox-static"),
    ("mdadm", "mdadm"),
    ("xz", "xz-utils"),
    ("apt-get", "apt"),
];

/// Emulation is heavy: whoever holds this is the only test that runs.
static TURN: Mutex<()> = Mutex::new(());

/// A test's right to run alone.
pub(crate) type Turn = MutexGuard<'static, ()>;

/// Waits for this test's turn to boot a guest. `None`: the test is left out, which was said.
pub(crate) fn turn_with_guest() -> Option<Turn> {
    if std::env::var(QUICK_VARIABLE).is_ok_and(|value| value == "1") {
        say_left_out(&format!("{QUICK_VARIABLE}=1 asks for no guest"));
        return None;
    }
    turn(&VM_TOOLS)
}

/// Waits for the turn of a test that needs no guest but `mdadm`.
pub(crate) fn turn_with_mdadm() -> Option<Turn> {
    turn(&[("mdadm", "mdadm")])
}

fn turn(tools: &[(&str, &str)]) -> Option<Turn> {
    let missing: Vec<&str> = tools
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        // A test that failed has poisoned the lock; what it protects is only the machine's time.
        return Some(TURN.lock().unwrap_or_else(PoisonError::into_inner));
    }
    let missing = missing.join(" ");
    assert!(
        !std::env::var(REQUIRE_VARIABLE).is_ok_and(|value| value == "1"),
        "missing on this machine: apt-get install {missing}"
    );
    say_left_out(&format!("missing on this machine, apt-get install {missing}"));
    None
}

/// Past the capture of a passing test's output: who runs the tests has to see it.
fn say_left_out(why: &str) {
    let thread = std::thread::current();
    // Without a stderr there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "left out: {}: {why}", thread.name().unwrap_or("a test"));
}

/// A program of the search path, and of the directories that Debian keeps from ordinary users.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// A file of this folder.
pub(crate) fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host").join(name)
}

/// Asks again and again, at most for `limit`.
pub(crate) fn wait_until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A directory of its own for each test, removed at the end unless the test failed.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short, because the path of a Unix socket has at most 107 bytes; not on /tmp's tmpfs,
        // which has no O_DIRECT on older kernels.
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.0.display());
        } else {
            // Nothing depends on it; the next `cargo clean` would take it as well.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// The last lines of a log, for the message of a failing test.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

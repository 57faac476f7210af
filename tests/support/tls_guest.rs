//! Linux's own TLS in a guest: its kernel, tlshd, and what the guests' scripts have in common.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Sourced by the scripts, as `/vmh/tls_host.sh`.
pub const TLS_HOST: &str = include_str!("tls_host.sh");

/// Past the capture of a passing test's output: who runs the tests has to see it.
pub fn say_left_out(why: &str) {
    // Without a stderr there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "left out: {why}");
}

/// What runs the guest of Linux 7.2, if there is one, which is part of the shared material.
pub fn vmrun(what: &str) -> Option<PathBuf> {
    if std::env::var("MDOF_TEST_QUICK").is_ok_and(|value| value == "1") {
        say_left_out(&format!("{what}: MDOF_TEST_QUICK=1 asks for no guest"));
        return None;
    }
    let shared = std::env::var_os("MDOF_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")),
        PathBuf::from,
    );
    let path = shared.join("vm/vmrun");
    if !path.exists() {
        say_left_out(&format!("{what}: {} does not exist", path.display()));
        return None;
    }
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        let why = format!("{what}: no qemu-system-x86_64 here");
        let is_required = std::env::var("MDOF_TEST_REQUIRE").is_ok_and(|value| value == "1");
        assert!(!is_required, "{why}: apt-get install qemu-system-x86");
        say_left_out(&why);
        return None;
    }
    Some(path)
}

/// Whether the guest's kernel does TLS, for itself and for NVMe/TCP.
pub fn kernel_has_tls(vmrun: &Path, what: &str) -> bool {
    let config = fs::read_to_string(vmrun.with_file_name("kernel.config")).unwrap_or_default();
    let has_all = ["CONFIG_TLS=y", "CONFIG_NVME_TCP_TLS=y"]
        .iter()
        .all(|wanted| config.lines().any(|line| line == *wanted));
    if !has_all {
        say_left_out(&format!("{what}: the guest's kernel has no TLS"));
    }
    has_all
}

/// The archive of tlshd, made where there is none.
pub fn tlshd(what: &str) -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("vm-cache");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/tlshd.sh");
    let mut make = Command::new("bash");
    let output = make.arg(script).arg(cache).stdin(Stdio::null()).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    if output.status.success() {
        return Some(PathBuf::from(path.trim_end()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    say_left_out(&format!("{what}: tlshd can't be had here: {said}"));
    None
}

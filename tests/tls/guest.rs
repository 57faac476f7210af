//! In a guest whose kernel has TLS: the tests of this program once more, where all that they make
//! flow is encrypted by the kernel on the target's side; then mdof itself, with Linux's own host.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mdof::TestDir;
use crate::tls_guest::{TLS_HOST, kernel_has_tls, tlshd, vmrun};

const WHAT: &str = "TLS by the kernel";
const SCRIPT: &str = include_str!("guest.sh");
const NQN: &str = "nqn.2026-01.io.mdof:kernel-tls";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:6d646f66-0000-4000-8000-000000000003";
const KEY: &str = "NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:";
const PORT: u16 = 4420;
/// Where the same host has a secure channel made of its authentication.
const CONCAT_NQN: &str = "nqn.2026-01.io.mdof:concat";
const CHAP_KEY: &str = "DHHC-1:01:+nxlZ2f83jXjRMyVP2az6xzXX4zZwtb8/0/YRf15P5//z8K1:";
const CONCAT_PORT: u16 = 4421;

/// Puts a program and the libraries that its loader gives it into a root.
fn install(program: &Path, name: &str, root: &Path) {
    let to = root.join(name);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let stripped = Command::new("strip").arg("-o").arg(&to).arg(program).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(program, &to).unwrap();
    }
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(&library[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(library, to).unwrap();
    }
}

/// A root with this program, mdof and its configuration, in an archive.
fn own(dir: &TestDir) -> PathBuf {
    let root = dir.file("root");
    install(&std::env::current_exe().unwrap(), "tests", &root);
    install(Path::new(env!("CARGO_BIN_EXE_mdof")), "mdof", &root);
    let openssl = Path::new("/usr/bin/openssl");
    if openssl.exists() {
        install(openssl, "usr/bin/openssl", &root);
    }
    for (name, key) in [("psk", KEY), ("chap", CHAP_KEY)] {
        fs::write(root.join(name), key).unwrap();
        fs::set_permissions(root.join(name), Permissions::from_mode(0o600)).unwrap();
    }
    let config = format!(
        "[[bdev]]\nname = \"m\"\nkind = \"malloc\"\nsize_mib = 8\n\
         [[key]]\nname = \"k\"\npath = \"/psk\"\n\
         [[subsystem]]\nnqn = \"{NQN}\"\nhosts = [{{ nqn = \"{HOST}\", psk = \"k\" }}]\n\
         listen = [{{ address = \"127.0.0.1:{PORT}\", secure_channel = true }}]\n\
         namespaces = [{{ bdev = \"m\", nsid = 1 }}]\n\
         [[bdev]]\nname = \"n\"\nkind = \"malloc\"\nsize_mib = 8\n\
         [[key]]\nname = \"c\"\npath = \"/chap\"\n\
         [[subsystem]]\nnqn = \"{CONCAT_NQN}\"\n\
         hosts = [{{ nqn = \"{HOST}\", dhchap_key = \"c\", concat = \"require\" }}]\n\
         listen = [\"127.0.0.1:{CONCAT_PORT}\"]\n\
         namespaces = [{{ bdev = \"n\", nsid = 1 }}]\n"
    );
    fs::write(root.join("mdof.toml"), config).unwrap();
    let archive = dir.file("own.tar");
    let mut tar = Command::new("tar");
    // Everything belongs to root there, whoever runs this.
    tar.args(["--owner=0", "--group=0", "-cf"]).arg(&archive).arg("-C").arg(&root).arg(".");
    assert!(tar.status().unwrap().success());
    archive
}

/// The numbers behind a word that the guest printed once.
fn numbers(text: &str, word: &str) -> Vec<u32> {
    let mut found = text.lines().filter_map(|line| line.strip_prefix(word));
    let numbers = found.next().unwrap_or_else(|| panic!("no line of '{word}'"));
    assert_eq!(found.next(), None, "one line of '{word}'");
    numbers.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

#[test]
fn the_kernel_encrypts_where_it_can() {
    let Some(vmrun) = vmrun(WHAT) else { return };
    if !kernel_has_tls(&vmrun, WHAT) {
        return;
    }
    let tlshd = tlshd("TLS by the kernel with a Linux host");
    let dir = TestDir::new("kernel-tls");
    let mut guest = Command::new(vmrun);
    guest.args(["-t", "600", "-m", "1536", "-f"]).arg(own(&dir));
    if let Some(tlshd) = &tlshd {
        // It is known there as `tlshd.tar`.
        std::os::unix::fs::symlink(tlshd, dir.file("tlshd.tar")).unwrap();
        guest.arg("-f").arg(dir.file("tlshd.tar"));
    }
    let keys = format!(
        "PORT={PORT}\nNQN={NQN}\nKEY={KEY}\nCONCAT_PORT={CONCAT_PORT}\n\
         CONCAT_NQN={CONCAT_NQN}\nCHAP_KEY={CHAP_KEY}\n"
    );
    for (name, text) in [("keys", &keys[..]), ("tls_host.sh", TLS_HOST), ("guest.sh", SCRIPT)] {
        fs::write(dir.file(name), text).unwrap();
    }
    guest.arg("-f").arg(dir.file("keys")).arg("-f").arg(dir.file("tls_host.sh"));
    let output = guest.arg(dir.file("guest.sh")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("all done"), "the guest did not finish");
    // This program's hosts are OpenSSL's: all that the kernel has begun are the target's.
    let begun = numbers(&text, "tests: begun ");
    assert!(begun[0] == begun[1] && begun[0] >= 12, "{begun:?}");
    // Of each suite the host has changed its key twice, and wanted the target's to be changed once.
    assert_eq!(numbers(&text, "tests: rekeyed "), [2, 4]);
    // One record was changed on its way.
    assert_eq!(numbers(&text, "tests: bad "), [1]);
    if tlshd.is_some() {
        judge_the_linux_host(&text);
    }
}

/// An admin queue and two I/O queues, of which Linux always does its own end.
fn judge_the_linux_host(text: &str) {
    for prefix in ["", "concat "] {
        let found = |word: &str| numbers(text, &format!("{prefix}{word} "));
        assert_eq!(found("with: open"), [6, 6]);
        assert_eq!(found("with: kernel"), [3]);
        assert_eq!(found("with: openssl"), [0]);
        assert_eq!(found("without: open"), [3, 3]);
        assert_eq!(found("without: kernel"), [0]);
        assert_eq!(found("without: openssl"), [3]);
        let generated = if prefix.is_empty() { 0 } else { 3 };
        assert_eq!(found("with: generated"), [generated]);
        assert_eq!(found("without: generated"), [generated]);
    }
    // Still that one.
    assert_eq!(numbers(text, "both: bad "), [1]);
    assert_eq!(numbers(text, "mdof ended: "), [0]);
    let moved = format!("host {HOST} is authenticated for {CONCAT_NQN} by sha256");
    for said in [
        "TLS: the kernel encrypts",
        "under TLS by kernel",
        "under TLS by openssl",
        &moved,
        "and comes back under TLS",
        "and has a new key for TLS",
        "is refused for nqn.2026-01.io.mdof:concat, its authentication has failed: its key is not",
    ] {
        assert!(text.contains(said), "mdof's log does not say '{said}'");
    }
    for said in ["TLS has failed", "under the kernel's TLS failed", "takes no keys"] {
        assert!(!text.contains(said), "mdof complains: {said}");
    }
    for key in [KEY, CHAP_KEY] {
        assert!(!text.contains(&key[16..48]), "a key is in the log");
    }
}

//! Linux 7.2 comes under TLS: records by its kernel, handshake by tlshd and GnuTLS, keys by
//! nvme-cli.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::kernel::vmrun;
use crate::mdof::{Mdof, TestDir, free_port};
use crate::tls_guest::{TLS_HOST, kernel_has_tls, tlshd};

const WHAT: &str = "a Linux host under TLS";
const SCRIPT: &str = include_str!("tls.sh");
const NQN: &str = "nqn.2026-01.io.mdof:tls";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:6d646f66-0000-4000-8000-000000000003";

/// With SHA-256, and with SHA-384.
const KEYS: [&str; 2] = [
    "NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:",
    "NVMeTLSkey-1:02:BRAbJjE8R1JdaHN+iZSfqrXAy9bh7PcCDRgjLjlET1plcHuGkZynsr3I097p9P8KbTPm6w==:",
];
const WRONG_KEY: &str = "NVMeTLSkey-1:01:AAcOFRwjKjE4P0ZNVFtiaXB3foWMk5qhqK+2vcTL0tk/PUPo:";

/// The key of each subsystem.
const OF_SUBSYSTEMS: [&str; 5] = [KEYS[0], KEYS[0], KEYS[1], KEYS[1], KEYS[0]];

fn start(dir: &TestDir, port: u16, plain: u16) -> Mdof {
    let (mut bdevs, mut keys, mut text) = (String::new(), String::new(), String::new());
    for (number, key) in OF_SUBSYSTEMS.iter().enumerate() {
        let path = dir.file(&format!("psk{number}"));
        fs::write(&path, key).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        bdevs += &format!("[[bdev]]\nname = \"m{number}\"\nkind = \"malloc\"\nsize_mib = 4\n");
        keys += &format!("[[key]]\nname = \"k{number}\"\npath = \"psk{number}\"\n");
        text += &format!(
            "[[subsystem]]\nnqn = \"{NQN}{number}\"\n\
             hosts = [{{ nqn = \"{HOST}\", psk = \"k{number}\" }}]\n\
             listen = [{{ address = \"127.0.0.1:{port}\", secure_channel = true }}, \
                       \"127.0.0.1:{plain}\"]\n\
             namespaces = [{{ bdev = \"m{number}\", nsid = 1 }}]\n"
        );
    }
    Mdof::start(dir, &dir.config(&(bdevs + &keys + &text)), &[])
}

#[test]
fn a_linux_host_comes_under_tls() {
    let Some(vmrun) = vmrun() else { return };
    if !kernel_has_tls(&vmrun, WHAT) {
        return;
    }
    let Some(tlshd) = tlshd(WHAT) else { return };
    let dir = TestDir::new("interop-tls");
    let (port, plain) = (free_port(), free_port());
    let mdof = start(&dir, port, plain);
    let keys = format!(
        "PORT={port}\nPLAIN_PORT={plain}\nKEYS='{} {}'\nWRONG_KEY='{WRONG_KEY}'\n",
        KEYS[0], KEYS[1]
    );
    fs::write(dir.file("keys"), keys).unwrap();
    fs::write(dir.file("tls.sh"), SCRIPT).unwrap();
    fs::write(dir.file("tls_host.sh"), TLS_HOST).unwrap();
    // tlshd is in the archive as `tlshd.tar`.
    let named = dir.file("tlshd.tar");
    std::os::unix::fs::symlink(&tlshd, &named).unwrap();
    let mut guest = Command::new(vmrun);
    guest.args(["-t", "400"]).arg("-f").arg(&named).arg("-f").arg(dir.file("keys"));
    guest.arg("-f").arg(dir.file("tls_host.sh"));
    let output = guest.arg(dir.file("tls.sh")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}");
    assert!(output.status.success() && text.contains("all done"), "the guest did not finish");
    for number in 0..OF_SUBSYSTEMS.len() {
        let nqn = json!({ "nqn": format!("{NQN}{number}") });
        let controllers = mdof.rpc("nvmf_subsystem_get_controllers", &nqn);
        assert_eq!(controllers, Ok(json!([])), "every host has left");
    }
    mdof.rpc("spdk_kill_instance", &json!({ "sig_name": "SIGTERM" })).unwrap();
    let (logs, code) = mdof.wait();
    assert_eq!(code, Some(0), "{logs}");
    // Who, for what, and why; and nothing of any key.
    assert!(logs.contains("TLS has failed"), "{logs}");
    assert!(logs.contains("it has a TLS key (psk) and came without TLS"), "{logs}");
    for key in KEYS.iter().chain([&WRONG_KEY]) {
        assert!(!logs.contains(&key[16..48]), "a key is in the log");
    }
}

//! Linux 7.2 proves itself to mdof by DH-HMAC-CHAP, and mdof to it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::kernel::vmrun;
use crate::mdof::{Mdof, TestDir, free_port};

const SCRIPT: &str = include_str!("auth.sh");
const NQN: &str = "nqn.2026-01.io.mdof:interop";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:6d646f66-0000-4000-8000-000000000002";

/// Keys in each of the forms that nvme-cli makes.
const KEY: &str = "DHHC-1:01:+nxlZ2f83jXjRMyVP2az6xzXX4zZwtb8/0/YRf15P5//z8K1:";
const CTRL_KEY: &str = "DHHC-1:03:np72lgZi75fyDqozllF9k+4IYlZ9HfezyUt/8DnQVhZgfI7al9TzYymWogxUc\
                        KiDX3Oo+coJrA5FfiPRaEPXp1CVmnA=:";
const WRONG_KEY: &str = "DHHC-1:00:AAcOFRwjKjE4P0ZNVFtiaXB3foWMk5qhqK+2vcTL0tk/PUPo:";

const CHOICES: [(&str, &str); 3] =
    [("sha256", "null"), ("sha384", "ffdhe2048"), ("sha512", "ffdhe3072")];

/// A target that allows one hash and one group.
fn start(dir: &TestDir, index: usize, port: u16) -> Mdof {
    let (hash, group) = CHOICES[index];
    let own = dir.file(&format!("t{index}"));
    fs::create_dir(&own).unwrap();
    for (name, key) in [("host.key", KEY), ("ctrl.key", CTRL_KEY)] {
        fs::write(own.join(name), key).unwrap();
        fs::set_permissions(own.join(name), Permissions::from_mode(0o600)).unwrap();
    }
    let config = own.join("mdof.toml");
    let text = format!(
        "[target]\ndhchap_digests = [\"{hash}\"]\ndhchap_dhgroups = [\"{group}\"]\n\
         [[bdev]]\nname = \"m0\"\nkind = \"malloc\"\nsize_mib = 4\n\
         [[key]]\nname = \"host\"\npath = \"host.key\"\n\
         [[key]]\nname = \"ctrl\"\npath = \"ctrl.key\"\n\
         [[subsystem]]\nnqn = \"{NQN}\"\nlisten = [\"127.0.0.1:{port}\"]\n\
         hosts = [{{ nqn = \"{HOST}\", dhchap_key = \"host\", dhchap_ctrlr_key = \"ctrl\" }}]\n\
         namespaces = [{{ bdev = \"m0\", nsid = 1 }}]\n"
    );
    fs::write(&config, text).unwrap();
    Mdof::start_in(&own, &config, &[])
}

#[test]
fn a_linux_host_authenticates_itself_and_us() {
    let Some(vmrun) = vmrun() else { return };
    let dir = TestDir::new("interop-auth");
    let ports: Vec<u16> = CHOICES.iter().map(|_| free_port()).collect();
    let targets: Vec<Mdof> =
        ports.iter().enumerate().map(|(index, &port)| start(&dir, index, port)).collect();
    let line = |(port, (hash, group)): (&u16, (&str, &str))| format!("{port} {hash} {group}\n");
    let list: String = ports.iter().zip(CHOICES).map(line).collect();
    fs::write(dir.file("targets"), list).unwrap();
    let keys = format!("KEY={KEY}\nCTRL_KEY={CTRL_KEY}\nWRONG_KEY={WRONG_KEY}\n");
    fs::write(dir.file("keys"), keys).unwrap();
    fs::write(dir.file("auth.sh"), SCRIPT).unwrap();
    let mut guest = Command::new(vmrun);
    guest.args(["-t", "300"]).arg("-f").arg(dir.file("targets")).arg("-f").arg(dir.file("keys"));
    let output = guest.arg(dir.file("auth.sh")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}");
    assert!(output.status.success() && text.contains("all done"), "the guest did not finish");
    let mut logs = String::new();
    for mdof in targets {
        let controllers = mdof.rpc("nvmf_subsystem_get_controllers", &json!({ "nqn": NQN }));
        assert_eq!(controllers, Ok(json!([])), "every host has left");
        logs += &stop(mdof);
    }
    // Who, for what, and why; and nothing of any key.
    let wrong = format!("host {HOST} is refused for {NQN}, its authentication has failed: its key");
    assert!(logs.contains(&wrong), "{logs}");
    assert!(logs.contains("it does not accept our proof (authentication failed)"), "{logs}");
    assert!(logs.contains(&format!("host {HOST} is authenticated for {NQN} by sha512")), "{logs}");
    for key in [KEY, CTRL_KEY, WRONG_KEY] {
        assert!(!logs.contains(&key[10..40]), "a key is in the log");
    }
}

fn stop(mdof: Mdof) -> String {
    mdof.rpc("spdk_kill_instance", &json!({ "sig_name": "SIGTERM" })).unwrap();
    let (text, code) = mdof.wait();
    assert_eq!(code, Some(0), "{text}");
    text
}

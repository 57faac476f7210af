//! Keys and what hosts must prove, by JSON-RPC: as SPDK's client asks, over a restart, and without
//! a secret ever coming out.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::mdof::{Mdof, TestDir};
use crate::spdk::{self, Client};

const NQN: &str = "nqn.2016-06.io.spdk:cnode1";
const HOST: &str = "nqn.2014-08.org.nvmexpress:a";
const KEY: &str = "DHHC-1:01:+nxlZ2f83jXjRMyVP2az6xzXX4zZwtb8/0/YRf15P5//z8K1:";

fn key_file(dir: &TestDir, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = dir.file(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

fn ok(mdof: &Mdof, method: &str, params: Value) -> Value {
    mdof.rpc(method, &params).unwrap_or_else(|error| panic!("{method}: {error}"))
}

fn refused(mdof: &Mdof, method: &str, params: Value, text: &str) {
    let error = mdof.rpc(method, &params).expect_err("was accepted");
    assert!(error.contains(text), "{method}: {error}");
    assert!(!error.contains("+nxlZ2f83j"), "the key is in {error}");
}

fn host(keys: Value) -> Value {
    let mut params = json!({ "nqn": NQN, "host": HOST });
    params.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    params
}

fn hosts(mdof: &Mdof) -> Value {
    ok(mdof, "nvmf_get_subsystems", json!({ "nqn": NQN }))[0]["hosts"].clone()
}

#[test]
fn keys_are_named_and_never_shown() {
    let dir = TestDir::new("rpc-keys");
    let mdof = Mdof::start(&dir, &dir.config(""), &[]);
    let add = "keyring_file_add_key";
    let open = key_file(&dir, "open", KEY, 0o644);
    refused(&mdof, add, json!({ "name": "k", "path": open }), "mode 0644");
    refused(&mdof, add, json!({ "name": "k", "path": "relative" }), "not absolute");
    let bad = key_file(&dir, "bad", &KEY.replace("z8K1", "z8K2"), 0o600);
    ok(&mdof, add, json!({ "name": "bad", "path": bad }));
    let good = key_file(&dir, "good", KEY, 0o600);
    for name in ["k1", "k2"] {
        ok(&mdof, add, json!({ "name": name, "path": good }));
    }
    refused(&mdof, add, json!({ "name": "k1", "path": good }), "already");
    ok(&mdof, "nvmf_create_transport", json!({ "trtype": "TCP" }));
    ok(&mdof, "nvmf_create_subsystem", json!({ "nqn": NQN }));
    let add_host = "nvmf_subsystem_add_host";
    refused(&mdof, add_host, host(json!({ "dhchap_key": "none" })), "no key named none");
    refused(&mdof, add_host, host(json!({ "dhchap_key": "bad" })), "checksum");
    refused(&mdof, add_host, host(json!({ "dhchap_ctrlr_key": "k1" })), "needs a dhchap_key");
    assert_eq!(hosts(&mdof), json!([]), "a host whose keys are refused is not let in without");
    ok(&mdof, add_host, host(json!({ "dhchap_key": "k1", "dhchap_ctrlr_key": "k2" })));
    let both = json!([{ "nqn": HOST, "dhchap_key": "k1", "dhchap_ctrlr_key": "k2" }]);
    assert_eq!(hosts(&mdof), both);
    let keys = ok(&mdof, "keyring_get_keys", json!({}));
    assert_eq!((&keys[1]["name"], &keys[1]["refcnt"]), (&json!("k1"), &json!(1)));
    ok(&mdof, "nvmf_subsystem_set_keys", host(json!({ "dhchap_key": "k2" })));
    assert_eq!(hosts(&mdof), json!([{ "nqn": HOST, "dhchap_key": "k2" }]));
    ok(&mdof, "keyring_file_remove_key", json!({ "name": "bad" }));
    refused(&mdof, "keyring_file_remove_key", json!({ "name": "bad" }), "no key named bad");
    policy(&mdof);
    restarted(&dir, mdof);
}

fn policy(mdof: &Mdof) {
    let set = "nvmf_set_config";
    refused(mdof, set, json!({ "dhchap_digests": ["md5"] }), "not md5");
    refused(mdof, set, json!({ "dhchap_dhgroups": [] }), "without any");
    refused(mdof, set, json!({ "dup_host_policy": "deny" }), "restrict_per_listener");
    refused(mdof, set, json!({ "kernel_tls": "maybe" }), "a boolean");
    ok(mdof, set, json!({ "dup_host_policy": "replace_per_listener", "kernel_tls": false }));
    ok(
        mdof,
        set,
        json!({ "dhchap_digests": ["sha384"], "dhchap_dhgroups": ["ffdhe4096", "null"] }),
    );
}

/// What was set is there again; the state file and what `save_config` writes name keys only.
fn restarted(dir: &TestDir, mdof: Mdof) {
    mdof.signal("KILL");
    drop(mdof);
    let kept = fs::read_to_string(dir.file("state.json")).unwrap();
    let mdof = Mdof::start(dir, &dir.file("mdof.toml"), &[]);
    assert_eq!(hosts(&mdof), json!([{ "nqn": HOST, "dhchap_key": "k2" }]));
    let config = |name: &str| ok(&mdof, "framework_get_config", json!({ "name": name }));
    let set = &config("nvmf")[0];
    let policy = json!({
        "dhchap_digests": ["sha384"],
        "dhchap_dhgroups": ["ffdhe4096", "null"],
        "dup_host_policy": "replace_per_listener",
        "kernel_tls": false,
    });
    assert_eq!((&set["method"], &set["params"]), (&json!("nvmf_set_config"), &policy));
    assert_eq!(config("keyring").as_array().unwrap().len(), 2);
    for text in [kept, config("nvmf").to_string(), config("keyring").to_string()] {
        assert!(!text.contains("DHHC-1"), "{text}");
    }
    // A key whose file others can read by now is not used again, and its host stays out.
    fs::set_permissions(dir.file("good"), Permissions::from_mode(0o644)).unwrap();
    mdof.signal("KILL");
    drop(mdof);
    let mdof = Mdof::start(dir, &dir.file("mdof.toml"), &[]);
    assert_eq!(hosts(&mdof), json!([]));
}

const PSK: &str = "NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:";

#[test]
fn listeners_under_tls_and_their_hosts() {
    let dir = TestDir::new("rpc-psk");
    let mdof = Mdof::start(&dir, &dir.config(""), &[]);
    for (name, text) in [("psk", PSK), ("chap", KEY)] {
        let path = key_file(&dir, name, text, 0o600);
        ok(&mdof, "keyring_file_add_key", json!({ "name": name, "path": path }));
    }
    ok(&mdof, "nvmf_create_transport", json!({ "trtype": "TCP" }));
    ok(&mdof, "nvmf_create_subsystem", json!({ "nqn": NQN, "allow_any_host": true }));
    let port = crate::mdof::free_port().to_string();
    let address = json!({ "trtype": "TCP", "traddr": "127.0.0.1", "trsvcid": port });
    let listener = json!({ "nqn": NQN, "listen_address": address, "secure_channel": true });
    let allow = |any: bool| json!({ "nqn": NQN, "allow_any_host": any });
    refused(&mdof, "nvmf_subsystem_add_listener", listener.clone(), "allow_any_host");
    ok(&mdof, "nvmf_subsystem_allow_any_host", allow(false));
    ok(&mdof, "nvmf_subsystem_add_listener", listener);
    refused(&mdof, "nvmf_subsystem_allow_any_host", allow(true), "secure_channel");
    let listeners = ok(&mdof, "nvmf_subsystem_get_listeners", json!({ "nqn": NQN }));
    assert_eq!(listeners[0]["secure_channel"], true);
    let plain = json!({ "nqn": "discovery", "listen_address": address });
    refused(&mdof, "nvmf_subsystem_add_listener", plain, "with and one without");
    let add_host = "nvmf_subsystem_add_host";
    refused(&mdof, add_host, host(json!({ "psk": "chap" })), "NVMeTLSkey-1");
    ok(&mdof, add_host, host(json!({ "psk": "psk" })));
    // What is set of DH-HMAC-CHAP leaves the key for TLS as it is.
    ok(&mdof, "nvmf_subsystem_set_keys", host(json!({ "dhchap_key": "chap" })));
    let both = json!([{ "nqn": HOST, "dhchap_key": "chap", "psk": "psk" }]);
    assert_eq!(hosts(&mdof), both);
    mdof.signal("KILL");
    drop(mdof);
    let mdof = Mdof::start(&dir, &dir.file("mdof.toml"), &[]);
    assert_eq!(hosts(&mdof), both);
    let config = ok(&mdof, "framework_get_config", json!({ "name": "nvmf" }));
    let entries = config.as_array().unwrap();
    let found = entries.iter().find(|one| one["method"] == "nvmf_subsystem_add_listener").unwrap();
    assert_eq!(found["params"]["secure_channel"], true);
    assert!(!config.to_string().contains("NVMeTLSkey"), "{config}");
}

#[test]
fn what_is_made_of_an_authentication_is_set_with_the_keys() {
    let dir = TestDir::new("rpc-concat");
    let mdof = Mdof::start(&dir, &dir.config(""), &[]);
    for (name, text) in [("psk", PSK), ("chap", KEY), ("other", KEY)] {
        let path = key_file(&dir, name, text, 0o600);
        ok(&mdof, "keyring_file_add_key", json!({ "name": name, "path": path }));
    }
    ok(&mdof, "nvmf_create_transport", json!({ "trtype": "TCP" }));
    ok(&mdof, "nvmf_create_subsystem", json!({ "nqn": NQN }));
    let (add, set) = ("nvmf_subsystem_add_host", "nvmf_subsystem_set_keys");
    let require = |more: Value| {
        let mut params = host(json!({ "concat": "require" }));
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    refused(&mdof, add, host(json!({ "concat": "maybe" })), "\"refuse\", \"allow\", \"require\"");
    refused(&mdof, add, require(json!({})), "with a dhchap_key");
    refused(&mdof, add, require(json!({ "dhchap_key": "chap", "psk": "psk" })), "without a psk");
    assert_eq!(hosts(&mdof), json!([]));
    ok(&mdof, add, host(json!({ "dhchap_key": "chap", "concat": "allow" })));
    assert_eq!(hosts(&mdof), json!([{ "nqn": HOST, "dhchap_key": "chap" }]));
    ok(&mdof, set, require(json!({ "dhchap_key": "chap" })));
    // Another key leaves it as it is, and without a key it makes no sense.
    ok(&mdof, set, host(json!({ "dhchap_key": "other" })));
    let required = json!([{ "nqn": HOST, "dhchap_key": "other", "concat": "require" }]);
    assert_eq!(hosts(&mdof), required);
    refused(&mdof, set, host(json!({})), "with a dhchap_key");
    assert_eq!(hosts(&mdof), required);
    mdof.signal("KILL");
    drop(mdof);
    let mdof = Mdof::start(&dir, &dir.file("mdof.toml"), &[]);
    assert_eq!(hosts(&mdof), required);
    let config = ok(&mdof, "framework_get_config", json!({ "name": "nvmf" }));
    let entries = config.as_array().unwrap();
    let found = entries.iter().find(|one| one["method"] == add).unwrap();
    assert_eq!(found["params"]["concat"], "require");
    ok(&mdof, set, host(json!({ "concat": "refuse" })));
    assert_eq!(hosts(&mdof), json!([{ "nqn": HOST, "concat": "refuse" }]));
}

#[test]
fn the_configuration_file_names_keys() {
    let dir = TestDir::new("config-keys");
    key_file(&dir, "host.key", KEY, 0o600);
    let text = format!(
        "[target]\ndhchap_digests = [\"sha512\"]\n\
         [[key]]\nname = \"k\"\npath = \"host.key\"\n\
         [[subsystem]]\nnqn = \"{NQN}\"\nhosts = [{{ nqn = \"{HOST}\", dhchap_key = \"k\" }}]\n"
    );
    let mdof = Mdof::start(&dir, &dir.config(&text), &[]);
    assert_eq!(hosts(&mdof), json!([{ "nqn": HOST, "dhchap_key": "k" }]));
    drop(mdof);
    fs::set_permissions(dir.file("host.key"), Permissions::from_mode(0o640)).unwrap();
    let said = crate::mdof::refused(&dir, &dir.config(&text), &[]);
    assert!(said.contains("others may read") && !said.contains("DHHC"), "{said}");
    let secure = "listen = [{ address = \"127.0.0.1:1\", secure_channel = true }]\nallow_any_host";
    for (from, to, expected) in [
        ("hosts = ", &format!("{secure} = true\nhosts = ")[..], "secure_channel needs hosts"),
        ("dhchap_key = \"k\"", "dhchap_key = \"l\"", "which no [[key]] names"),
        ("dhchap_key = ", "dhchap_ctrlr_key = ", "needs a dhchap_key"),
        ("dhchap_key = \"k\"", "concat = \"require\"", "needs a dhchap_key"),
        ("\"k\" }", "\"k\", concat = \"must\" }", "concat is one of"),
        ("dhchap_key = ", "dhchap = ", "a host is its NQN, or"),
        ("sha512", "sha1", "not sha1"),
        ("path = \"host.key\"", "path = \"\"", "path is empty"),
    ] {
        let said = crate::mdof::refused(&dir, &dir.config(&text.replace(from, to)), &[]);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn spdks_client_sets_keys() {
    let Some(program) = spdk::client() else { return };
    let dir = TestDir::new("spdk-keys");
    let mdof = Mdof::start(&dir, &dir.config(""), &[]);
    let client = Client { program, socket: mdof.socket.clone() };
    let path = key_file(&dir, "key", KEY, 0o600);
    client.ok(&["keyring_file_add_key", "k", path.to_str().unwrap()]);
    client.ok(&["nvmf_create_transport", "-t", "TCP"]);
    client.ok(&["nvmf_set_config", "--dup-host-policy", "restrict_per_listener"]);
    let config = client.ok(&["framework_get_config", "nvmf"]);
    let set = json!({ "dup_host_policy": "restrict_per_listener" });
    assert_eq!((&config[0]["method"], &config[0]["params"]), (&json!("nvmf_set_config"), &set));
    let options = || client.ok(&["sock_impl_get_options", "-i", "ssl"]);
    assert_eq!(options(), json!({ "enable_ktls": true }));
    client.ok(&["sock_impl_set_options", "-i", "ssl", "--no-ktls", "--tls-version", "13"]);
    client.ok(&["sock_impl_set_options", "-i", "posix", "--ktls"]);
    assert_eq!(options(), json!({ "enable_ktls": false }));
    client.refused(&["sock_impl_set_options", "-i", "rdma", "--ktls"], -32602);
    client.ok(&["nvmf_create_subsystem", NQN]);
    client.ok(&["nvmf_subsystem_add_host", NQN, HOST, "--dhchap-key", "k"]);
    assert_eq!(hosts(&mdof), json!([{ "nqn": HOST, "dhchap_key": "k" }]));
    let keys = ["--dhchap-key", "k", "--dhchap-ctrlr-key", "k"];
    client.ok(&[&["nvmf_subsystem_set_keys", NQN, HOST][..], &keys].concat());
    assert_eq!(client.ok(&["nvmf_subsystem_get_qpairs", NQN]), json!([]));
    assert_eq!(client.ok(&["nvmf_subsystem_get_controllers", NQN]), json!([]));
    client.ok(&["keyring_file_remove_key", "k"]);
    let keys = client.ok(&["keyring_get_keys"]);
    assert_eq!((&keys[0]["removed"], &keys[0]["refcnt"]), (&json!(true), &json!(2)));
}

//! The running binary, asked by SPDK's own client (PyPI package `spdk`) and by raw sockets.
//!
//! scripts/test puts the client into target/venv; MDOF_SPDK_RPC names another one. Without it the
//! tests that need it say so and are left out.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "rpc_client/keys.rs"]
mod keys;
#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof;
#[path = "support/spdk.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod spdk;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use mdof::{Mdof, TestDir, free_port};
use serde_json::{Value, json};
use spdk::Client;

const NQN: &str = "nqn.2016-06.io.spdk:cnode1";

#[test]
fn spdks_client_builds_and_takes_down_a_target() {
    let Some(program) = spdk::client() else { return };
    let dir = TestDir::new("spdk-client");
    let mdof = Mdof::start(&dir, &dir.config(""), &[]);
    let client = Client { program, socket: mdof.socket.clone() };
    framework(&client);
    bdevs(&client, &dir);
    raid(&client, &mdof);
    nvmf(&client, &mdof);
    filters(&client);
    client.ok(&["spdk_kill_instance", "SIGTERM"]);
    let (text, code) = mdof.wait();
    assert_eq!(code, Some(0));
    assert!(text.contains("stopped cleanly"), "{text}");
}

#[test]
fn paths_masks_and_saved_reservations_by_rpc() {
    let dir = TestDir::new("paths");
    let mdof = Mdof::start(&dir, &dir.config(""), &[]);
    let ok = |method: &str, params: Value| {
        mdof.rpc(method, &params).unwrap_or_else(|error| panic!("{method}: {error}"))
    };
    let refused = |method: &str, params: Value, text: &str| {
        let error = mdof.rpc(method, &params).expect_err("was accepted");
        assert!(error.contains(text), "{method}: {error}");
    };
    ok("bdev_malloc_create", json!({ "name": "m0", "num_blocks": 2048, "block_size": 512 }));
    ok("nvmf_create_transport", json!({ "trtype": "TCP" }));
    ok("nvmf_create_subsystem", json!({ "nqn": NQN, "ana_reporting": true, "max_namespaces": 2 }));
    let file = dir.file("m0.reservation");
    std::fs::write(&file, "no reservation").unwrap();
    let namespace = json!({
        "bdev_name": "m0", "anagrpid": 2, "no_auto_visible": true, "ptpl_file": file
    });
    let add = json!({ "nqn": NQN, "namespace": namespace });
    refused("nvmf_subsystem_add_ns", add.clone(), "damaged");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(ok("nvmf_subsystem_add_ns", add), json!(1));
    let host = json!({ "nqn": NQN, "nsid": 1, "host": "nqn.2014-08.org.nvmexpress:a" });
    ok("nvmf_ns_add_host", host.clone());
    refused("nvmf_ns_add_host", host.clone(), "already");
    ok("nvmf_ns_remove_host", host);
    let port = free_port().to_string();
    let address = json!({ "trtype": "TCP", "traddr": "127.0.0.1", "trsvcid": port });
    let listener = |more: Value| {
        let mut params = json!({ "nqn": NQN, "listen_address": address });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    refused("nvmf_subsystem_add_listener", listener(json!({ "ana_state": "no" })), "`no`");
    ok("nvmf_subsystem_add_listener", listener(json!({ "ana_state": "non_optimized" })));
    let state = |word: &str, group: u32| json!({ "ana_state": word, "anagrpid": group });
    let set = "nvmf_subsystem_listener_set_ana_state";
    ok(set, listener(state("inaccessible", 2)));
    refused(set, listener(state("inaccessible", 3)), "ANA group 3");
    refused(set, listener(state("perfect", 1)), "Invalid parameters");
    let listeners = ok("nvmf_subsystem_get_listeners", json!({ "nqn": NQN }));
    let expected = json!([
        { "ana_group": 1, "ana_state": "non_optimized" },
        { "ana_group": 2, "ana_state": "inaccessible" },
    ]);
    assert_eq!(listeners[0]["ana_states"], expected);
    assert_eq!(listeners[0]["address"]["trsvcid"], json!(port));
    let referral = json!({ "address": { "trtype": "tcp", "traddr": "::1", "trsvcid": "8009" } });
    ok("nvmf_discovery_add_referral", referral.clone());
    refused("nvmf_discovery_add_referral", referral.clone(), "already");
    let listed = ok("nvmf_discovery_get_referrals", json!({}));
    assert_eq!(
        (&listed[0]["address"]["traddr"], &listed[0]["secure_channel"]),
        (&json!("::1"), &json!(false))
    );
    ok("nvmf_discovery_remove_referral", referral);
    let group = json!({ "nqn": NQN, "nsid": 1, "anagrpid": 1 });
    ok("nvmf_subsystem_set_ns_ana_group", group);
    let subsystems = ok("nvmf_get_subsystems", json!({ "nqn": NQN }));
    let namespace = &subsystems[0]["namespaces"][0];
    assert_eq!(namespace["anagrpid"], 1);
    let uuid = namespace["uuid"].as_str().unwrap().replace('-', "").to_uppercase();
    assert_eq!(namespace["nguid"], json!(uuid), "for hosts that know of no UUIDs");
    let limits = ["passthrough", "dmrsl", "wzsl"].map(|word| &subsystems[0][word]);
    assert_eq!(limits, [&json!(false), &json!(2_097_152), &json!(12)]);
    mdof.signal("TERM");
    assert_eq!(mdof.wait().1, Some(0));
}

fn framework(client: &Client) {
    let methods = client.ok(&["rpc_get_methods"]);
    assert!(methods.as_array().unwrap().contains(&json!("bdev_raid_get_bitmap")));
    let version = client.ok(&["spdk_get_version"]);
    assert_eq!(version["version"], concat!("mdof v", env!("CARGO_PKG_VERSION")));
    assert_eq!(version["fields"]["suffix"], "");
    assert_eq!(client.ok(&["framework_wait_init"]), json!(true));
    let cores = client.ok(&["framework_get_reactors"]);
    assert_eq!(cores["tick_rate"], 1_000_000_000);
    assert_eq!(cores["reactors"][0]["lw_threads"][0]["name"], "reactor-0");
    assert!(cores["reactors"][0]["busy"].as_u64().unwrap() > 0, "it has started at least");
    client.refused(&["vhost_get_controllers"], -32601);
}

fn bdevs(client: &Client, dir: &TestDir) {
    assert_eq!(client.ok(&["bdev_malloc_create", "-b", "m0", "64", "512"]), "m0");
    assert_eq!(client.ok(&["bdev_malloc_create", "-b", "m1", "64", "512"]), "m1");
    assert_eq!(client.ok(&["bdev_null_create", "n0", "1024", "4096"]), "n0");
    let auto = client.ok(&["bdev_malloc_create", "1", "512"]);
    assert!(auto.as_str().unwrap().starts_with("Malloc"));
    client.ok(&["bdev_malloc_delete", auto.as_str().unwrap()]);

    let file = dir.file("u0.img");
    std::fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
    let path = file.to_str().unwrap();
    assert_eq!(client.ok(&["bdev_uring_create", path, "u0", "512"]), "u0");
    client.refused(&["bdev_malloc_create", "-b", "m0", "64", "512"], -17);
    client.refused(&["bdev_malloc_create", "-b", "x", "64", "520"], -22);
    client.refused(&["bdev_uring_create", "/nonexistent", "x", "512"], -19);
    client.refused(&["bdev_uring_create", path, "twice", "512"], -16);
    client.refused(&["bdev_malloc_delete", "n0"], -22);
    client.refused(&["bdev_malloc_delete", "nobody"], -19);

    let all = client.ok(&["bdev_get_bdevs"]);
    assert_eq!(all.as_array().unwrap().len(), 4);
    let uring = &client.ok(&["bdev_get_bdevs", "-b", "u0"])[0];
    assert_eq!(uring["num_blocks"], (8 << 20) / 512);
    assert_eq!(uring["driver_specific"]["uring"]["filename"], path);
    assert_eq!(uring["aliases"][0], uring["uuid"]);
    assert_eq!(uring["claimed"], false);
    assert_eq!(uring["supported_io_types"]["write_zeroes"], true);
    assert_eq!(uring["supported_io_types"]["nvme_admin"], false);
    let by_uuid = client.ok(&["bdev_get_bdevs", "-b", uring["uuid"].as_str().unwrap()]);
    assert_eq!(by_uuid[0]["name"], "u0");
    client.refused(&["bdev_get_bdevs", "-b", "nobody"], -19);
    std::fs::File::options().write(true).open(&file).unwrap().set_len(16 << 20).unwrap();
    client.ok(&["bdev_uring_rescan", "u0"]);
    assert_eq!(client.ok(&["bdev_get_bdevs", "-b", "u0"])[0]["num_blocks"], (16 << 20) / 512);
    client.refused(&["bdev_uring_rescan", "n0"], -22);
    client.ok(&["bdev_null_resize", "n0", "2048"]);
    assert_eq!(client.ok(&["bdev_get_bdevs", "-b", "n0"])[0]["num_blocks"], 524_288);
    client.refused(&["bdev_null_resize", "m0", "2048"], -22);
    client.ok(&["bdev_uring_delete", "u0"]);
    client.ok(&["bdev_null_delete", "n0"]);
}

fn raid(client: &Client, mdof: &Mdof) {
    let create = ["bdev_raid_create", "-n", "r0", "-r", "raid1", "-b", "m0 m1"];
    // SPDK's default is no superblock, which mdof refuses to promise anything about.
    client.refused(&create, -32602);
    assert_eq!(client.ok(&[&create[..], &["-s"]].concat()), json!(true));
    client.refused(&["bdev_malloc_delete", "m0"], -16);
    let arrays = client.ok(&["bdev_raid_get_bdevs", "all"]);
    let array = &arrays[0];
    assert_eq!(array["name"], "r0");
    assert_eq!(array["state"], "online");
    assert_eq!(array["raid_level"], "raid1");
    assert_eq!(array["num_base_bdevs_operational"], 2);
    assert_eq!(array["base_bdevs_list"][1]["name"], "m1");
    assert_eq!(array["base_bdevs_list"][1]["is_configured"], true);
    assert_eq!(client.ok(&["bdev_raid_get_bdevs", "offline"]), json!([]));
    let described = client.ok(&["bdev_get_bdevs", "-b", "r0"]);
    assert_eq!(described[0]["driver_specific"]["raid"]["uuid"], array["uuid"]);

    let bitmap = mdof.rpc("bdev_raid_get_bitmap", &json!({ "name": "r0" })).unwrap();
    assert_eq!(bitmap["states"]["unwritten"], bitmap["chunks"]);
    let covered = bitmap["chunks"].as_u64().unwrap() * bitmap["chunk_size_bytes"].as_u64().unwrap();
    let size = described[0]["num_blocks"].as_u64().unwrap() * 512;
    assert!(covered >= size, "{covered} of {size} bytes");
    let error = mdof.rpc("bdev_raid_get_bitmap", &json!({ "name": "m0" })).unwrap_err();
    assert!(error.contains("no array"), "{error}");

    // Deleted, it can be assembled again from its members; under another name it is refused.
    client.ok(&["bdev_raid_delete", "r0"]);
    assert_eq!(client.ok(&["bdev_raid_get_bdevs", "all"]), json!([]));
    let other = ["bdev_raid_create", "-n", "r1", "-r", "raid1", "-b", "m0 m1", "-s"];
    client.refused(&other, -17);
    client.ok(&[&create[..], &["-s"]].concat());
    let again = client.ok(&["bdev_raid_get_bdevs", "all"]);
    assert_eq!(again[0]["uuid"], array["uuid"]);
}

fn nvmf(client: &Client, mdof: &Mdof) {
    let port = free_port().to_string();
    let listener = ["-t", "tcp", "-a", "127.0.0.1", "-s", &port];
    let add_listener = [&["nvmf_subsystem_add_listener", NQN][..], &listener].concat();
    assert_eq!(client.ok(&["nvmf_get_transports"]), json!([]));
    client.ok(&["nvmf_create_transport", "-t", "TCP"]);
    client.refused(&["nvmf_create_transport", "-t", "TCP"], -17);
    client.refused(&["nvmf_create_transport", "-t", "RDMA"], -32602);
    assert_eq!(client.ok(&["nvmf_get_transports"])[0]["trtype"], "TCP");
    client.ok(&["nvmf_create_subsystem", NQN, "-s", "SN1", "-d", "Model 1"]);
    client.refused(&["nvmf_create_subsystem", NQN], -17);
    client.refused(&["nvmf_create_subsystem", "no-nqn-at-all"], -22);
    client.ok(&["nvmf_subsystem_add_ns", NQN, "r0"]);
    client.refused(&["nvmf_subsystem_add_ns", NQN, "r0"], -16);
    client.refused(&["nvmf_subsystem_add_ns", NQN, "nobody"], -19);
    client.refused(&["bdev_raid_delete", "r0"], -16);
    client.ok(&add_listener);
    client.refused(&add_listener, -17);
    client.ok(&["nvmf_subsystem_add_host", NQN, "nqn.2014-08.org.nvmexpress:host"]);
    client.ok(&["nvmf_subsystem_allow_any_host", "--allow-any-host", NQN]);

    let all = client.ok(&["nvmf_get_subsystems"]);
    assert_eq!(all[0]["subtype"], "Discovery");
    let subsystem = &all[1];
    assert_eq!(subsystem["nqn"], NQN);
    assert_eq!(
        (&subsystem["serial_number"], &subsystem["model_number"]),
        (&json!("SN1"), &json!("Model 1"))
    );
    assert_eq!(subsystem["allow_any_host"], true);
    assert_eq!(subsystem["hosts"], json!([{ "nqn": "nqn.2014-08.org.nvmexpress:host" }]));
    assert_eq!(
        subsystem["listen_addresses"],
        json!([{ "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port }])
    );
    assert_eq!(subsystem["namespaces"][0]["nsid"], 1);
    assert_eq!(subsystem["namespaces"][0]["bdev_name"], "r0");
    let address = format!("127.0.0.1:{port}");
    drop(std::net::TcpStream::connect(&address).expect("it listens"));

    client.ok(&["nvmf_subsystem_remove_host", NQN, "nqn.2014-08.org.nvmexpress:host"]);
    client.ok(&[&["nvmf_subsystem_remove_listener", NQN][..], &listener].concat());
    assert!(std::net::TcpStream::connect(&address).is_err(), "it listens no more");
    client.ok(&["nvmf_subsystem_remove_ns", NQN, "1"]);
    client.ok(&add_listener);
    // The answer, the namespace's id, is something that SPDK's client does not print.
    let namespace = json!({ "nqn": NQN, "namespace": { "bdev_name": "r0", "nsid": 7 } });
    assert_eq!(mdof.rpc("nvmf_subsystem_add_ns", &namespace), Ok(json!(7)));
    client.ok(&["nvmf_delete_subsystem", NQN]);
    assert!(std::net::TcpStream::connect(&address).is_err(), "it listens no more");
    assert_eq!(client.ok(&["nvmf_get_subsystems"]).as_array().unwrap().len(), 1);
    client.refused(&["nvmf_delete_subsystem", NQN], -19);
    client.ok(&["bdev_raid_delete", "r0", "--clear-sb"]);
}

fn filters(client: &Client) {
    assert_eq!(client.ok(&["bdev_error_create", "m0"]), json!(true));
    client.ok(&["bdev_error_inject_error", "EE_m0", "read", "failure", "-n", "1"]);
    // The injected failure meets the search for a superblock.
    let raid = ["bdev_raid_create", "-n", "r", "-r", "1", "-b", "EE_m0 m1", "-s"];
    client.refused(&raid, -5);
    client.refused(&["bdev_error_inject_error", "m1", "read", "failure"], -32602);
    client.ok(&["bdev_error_inject_error", "EE_m0", "clear", "failure"]);
    client.ok(&raid);
    client.ok(&["bdev_raid_delete", "r"]);
    client.ok(&["bdev_error_delete", "EE_m0"]);
    let latencies = ["-r", "1000", "-t", "1000", "-w", "1000", "-n", "1000"];
    let delay = [&["bdev_delay_create", "-b", "m0", "-d", "d0"][..], &latencies].concat();
    assert_eq!(client.ok(&delay), "d0");
    client.refused(&["bdev_malloc_delete", "m0"], -16);
    client.ok(&["bdev_delay_delete", "d0"]);
    client.ok(&["bdev_malloc_delete", "m0"]);
}

#[test]
fn json_that_never_ends_and_garbage_disturb_nobody() {
    let dir = TestDir::new("bad-json");
    let mdof = Mdof::start(&dir, &dir.config(""), &[]);
    let mut endless = UnixStream::connect(&mdof.socket).unwrap();
    let mut stuck = UnixStream::connect(&mdof.socket).unwrap();
    stuck.write_all(b"{\"id\": 1, \"method\": \"rpc_get").unwrap();
    let piece = [b'['; 4096];
    // The target closes in the middle of it.
    while endless.write_all(&piece).is_ok() {}
    let mut reply = String::new();
    let _ = endless.read_to_string(&mut reply);
    assert!(reply.contains("-32700") || reply.is_empty(), "{reply}");

    let mut garbage = UnixStream::connect(&mdof.socket).unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut reply = String::new();
    garbage.read_to_string(&mut reply).unwrap();
    assert!(reply.contains("-32700"), "{reply}");

    let batch = b"[{\"id\":1,\"method\":\"spdk_get_version\"},{\"id\":2,\"method\":\"nope\"}]";
    let mut client = UnixStream::connect(&mdof.socket).unwrap();
    client.write_all(batch).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!((&reply[0]["id"], &reply[1]["error"]["code"]), (&json!(1), &json!(-32601)));
    mdof.rpc("rpc_get_methods", &json!({})).unwrap();
    mdof.signal("INT");
    assert_eq!(mdof.wait().1, Some(0));
}

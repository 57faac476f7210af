//! Several paths, several namespaces and several kernels: what a host does while the ways to its
//! data change under its writes. See `vm.rs`.

#![allow(clippy::tests_outside_test_module, reason = "an integration test is all test")]
#![allow(clippy::unwrap_used, reason = "a test's panic is its verdict")]

#[allow(dead_code, reason = "several tests share it and use parts of it")]
mod host;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use host::target::{Mdof, Members, NQN};
use host::turn_with_guest;
use host::vm::{HOST_ADDRESS, SCRIPT_LIMIT, Script, Vm};
use serde_json::{Value, json};

/// A round of fio in a guest that has little time.
const PROGRESS_LIMIT: Duration = Duration::from_secs(240);

const OTHER_NQN: &str = "nqn.2026-01.io.mdof:paths";

fn listener(address: &str, port: u16) -> Value {
    json!({ "trtype": "TCP", "adrfam": "IPv4", "traddr": address, "trsvcid": port.to_string() })
}

fn free_port() -> u16 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    free.local_addr().unwrap().port()
}

/// A second subsystem, with a memory bdev and ANA, at these ports.
fn add_subsystem(mdof: &Mdof, address: &str, ports: &[u16]) {
    mdof.rpc("bdev_malloc_create", json!({ "name": "m", "num_blocks": 65536, "block_size": 512 }));
    let subsystem = json!({ "nqn": OTHER_NQN, "allow_any_host": true, "ana_reporting": true });
    mdof.rpc("nvmf_create_subsystem", subsystem);
    let namespace = json!({ "nqn": OTHER_NQN, "namespace": { "bdev_name": "m", "nsid": 1 } });
    mdof.rpc("nvmf_subsystem_add_ns", namespace);
    for &port in ports {
        let params = json!({ "nqn": OTHER_NQN, "listen_address": listener(address, port) });
        mdof.rpc("nvmf_subsystem_add_listener", params);
    }
}

fn set_state(mdof: &Mdof, port: u16, state: &str) {
    let address = listener("127.0.0.1", port);
    let params = json!({ "nqn": OTHER_NQN, "listen_address": address, "ana_state": state });
    mdof.rpc("nvmf_subsystem_listener_set_ana_state", params);
}

/// How many queues of the second subsystem serve at this port.
fn queues_at(mdof: &Mdof, port: u16) -> usize {
    let queues = mdof.rpc("nvmf_subsystem_get_qpairs", json!({ "nqn": OTHER_NQN }));
    let port = port.to_string();
    let is_there = |queue: &&Value| queue["listen_address"]["trsvcid"] == port.as_str();
    queues.as_array().unwrap().iter().filter(is_there).count()
}

fn fail_over(vm: &mut Vm) {
    let mut mdof = Mdof::start(Members::Files);
    let ports = [free_port(), free_port()];
    add_subsystem(&mdof, "127.0.0.1", &ports);
    let second = ports[1].to_string();
    vm.start(&Script {
        name: "ana",
        address: HOST_ADDRESS,
        port: ports[0],
        nqn: OTHER_NQN,
        connect: &second,
    });
    let round = |vm: &mut Vm, number: u32| {
        vm.wait_for_line(&format!("round {number}"), PROGRESS_LIMIT);
    };
    round(vm, 1);
    assert!(queues_at(&mdof, ports[0]) > 1 && queues_at(&mdof, ports[1]) > 1);
    set_state(&mdof, ports[0], "inaccessible");
    round(vm, 2);
    set_state(&mdof, ports[1], "non_optimized");
    set_state(&mdof, ports[0], "optimized");
    round(vm, 3);
    set_state(&mdof, ports[1], "inaccessible");
    round(vm, 4);
    // No way at all for a moment: the host waits.
    set_state(&mdof, ports[0], "inaccessible");
    std::thread::sleep(Duration::from_secs(1));
    set_state(&mdof, ports[1], "optimized");
    round(vm, 5);
    // One goes for good, its connections with it; the other way is all there is.
    let first = listener("127.0.0.1", ports[0]);
    let gone = json!({ "nqn": OTHER_NQN, "listen_address": first });
    mdof.rpc("nvmf_subsystem_remove_listener", gone);
    host::wait_until("connections end", PROGRESS_LIMIT, || queues_at(&mdof, ports[0]) == 0);
    vm.finish(SCRIPT_LIMIT);
    mdof.stop();
}

#[test]
fn a_host_with_two_paths_follows_their_ana_states() {
    let Some(_turn) = turn_with_guest() else { return };
    fail_over(&mut Vm::boot());
}

fn add_and_remove(vm: &mut Vm) {
    let mut mdof = Mdof::start(Members::Files);
    mdof.rpc("bdev_malloc_create", json!({ "name": "m", "num_blocks": 65536, "block_size": 512 }));
    let port = mdof.port();
    vm.start(&Script { name: "hotplug", address: HOST_ADDRESS, port, nqn: NQN, connect: "" });
    for round in 1..=2 {
        vm.wait_for_line(&format!("add {round}"), PROGRESS_LIMIT);
        let namespace = json!({ "bdev_name": "m", "nsid": 2 });
        mdof.rpc("nvmf_subsystem_add_ns", json!({ "nqn": NQN, "namespace": namespace }));
        vm.wait_for_line(&format!("remove {round}"), PROGRESS_LIMIT);
        mdof.rpc("nvmf_subsystem_remove_ns", json!({ "nqn": NQN, "nsid": 2 }));
    }
    vm.finish(SCRIPT_LIMIT);
    mdof.stop();
}

#[test]
fn namespaces_come_and_go_beside_a_busy_one() {
    let Some(_turn) = turn_with_guest() else { return };
    add_and_remove(&mut Vm::boot());
}

/// An address of this machine that a guest reaches and discovery may name: a loopback address would
/// be the guest's own. Nothing is sent.
fn outside_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) if !address.ip().is_loopback() => Some(*address.ip()),
        _ => None,
    }
}

fn connect_all(vm: &mut Vm) {
    let Some(address) = outside_address() else {
        eprintln!("left out: this machine has no address but the loopback's");
        return;
    };
    let address = address.to_string();
    let mut mdof = Mdof::start(Members::Files);
    let port = free_port();
    add_subsystem(&mdof, &address, &[port]);
    // Both subsystems there, and what discovery names elsewhere is not for this host.
    let here = json!({ "nqn": NQN, "listen_address": listener(&address, port) });
    mdof.rpc("nvmf_subsystem_add_listener", here);
    let loopback = listener("127.0.0.1", mdof.port());
    let there = json!({ "nqn": NQN, "listen_address": loopback });
    mdof.rpc("nvmf_subsystem_remove_listener", there);
    let script =
        Script { name: "connect-all", address: &address, port, nqn: NQN, connect: OTHER_NQN };
    vm.run(&script);
    mdof.stop();
}

#[test]
fn a_host_connects_to_all_that_discovery_names() {
    let Some(_turn) = turn_with_guest() else { return };
    connect_all(&mut Vm::boot());
}

/// A second kernel, the newest there is.
#[test]
fn the_newest_kernel_finds_the_same() {
    let Some(_turn) = turn_with_guest() else { return };
    let Some(mut vm) = Vm::boot_newest() else { return };
    let mut mdof = Mdof::start(Members::Files);
    let port = mdof.port();
    for (name, connect) in
        [("identify", ""), ("commands", ""), ("fio", "--hdr-digest --data-digest")]
    {
        vm.run(&Script { name, address: HOST_ADDRESS, port, nqn: NQN, connect });
        mdof.assert_alive();
    }
    mdof.stop();
    fail_over(&mut vm);
    add_and_remove(&mut vm);
    connect_all(&mut vm);
}

//! mdof against a real host: a Debian kernel under emulation connects, writes, and finds again
//! what it wrote, while mdof is stopped, killed, or loses a member.
//!
//! Each test boots a guest of its own (about 6 s) and runs alone. Without the tools a test is left
//! out and says so; with `MDOF_TEST_REQUIRE=1`, as `scripts/test` sets it, that is a failure.

#![allow(clippy::tests_outside_test_module, reason = "an integration test is all test")]
#![allow(clippy::unwrap_used, reason = "a test's panic is its verdict")]

#[allow(dead_code, reason = "several tests share it and use parts of it")]
mod host;

use host::members::{assert_same_data, examine};
use host::target::{ARRAY, FAULTY, Mdof, Members, NQN};
use host::vm::{HOST_ADDRESS, SCRIPT_LIMIT, Script, Vm};
use host::{turn_with_guest, turn_with_mdadm, wait_until};
use serde_json::{Value, json};
use std::fs::File;
use std::time::Duration;

/// What a writer may take to its next sign of life, a restart of mdof included.
const PROGRESS_LIMIT: Duration = Duration::from_secs(120);

fn script<'a>(name: &'a str, mdof: &Mdof) -> Script<'a> {
    Script { name, address: HOST_ADDRESS, port: mdof.port(), nqn: NQN, connect: "" }
}

/// Runs scripts one after the other against a fresh array, then stops the target cleanly and holds
/// its members to the same bytes.
fn run_all(scripts: &[(&str, &str)]) {
    let Some(_turn) = turn_with_guest() else { return };
    let mut mdof = Mdof::start(Members::Files);
    let mut vm = Vm::boot();
    for (name, connect) in scripts {
        vm.run(&Script { connect, ..script(name, &mdof) });
        mdof.assert_alive();
    }
    mdof.wait_for_resync();
    mdof.stop();
    assert_same_data(&mdof.member(0), &mdof.member(1));
}

/// The test of the tests: a script that fails here as well tells nothing about mdof.
#[test]
fn the_guest_scripts_hold_for_linux_own_target() {
    let Some(_turn) = turn_with_guest() else { return };
    let mut vm = Vm::boot();
    let at = |name, connect| Script { name, address: "127.0.0.1", port: 4420, nqn: NQN, connect };
    for name in ["nvmet", "identify", "ext4", "discard", "degrade", "degrade-after"] {
        vm.run(&at(name, ""));
    }
    vm.run(&at("fio", "--hdr-digest --data-digest"));
}

#[test]
fn a_host_discovers_connects_and_identifies() {
    run_all(&[("identify", ""), ("bad-input", ""), ("ext4", "")]);
}

#[test]
fn a_host_asks_what_nvme_cli_can_ask() {
    run_all(&[("commands", "")]);
}

#[test]
fn ext4_keeps_its_files_over_a_reconnect_and_a_clean_restart() {
    let Some(_turn) = turn_with_guest() else { return };
    let mut mdof = Mdof::start(Members::Files);
    let mut vm = Vm::boot();
    vm.run(&script("ext4", &mdof));
    mdof.stop();
    let before = examine(&mdof.member(0));
    assert_eq!(before.state, "clean", "a clean stop leaves a clean superblock");
    mdof.restart();
    vm.run(&script("ext4-again", &mdof));
    mdof.stop();
    assert_eq!(examine(&mdof.member(0)).array_uuid, before.array_uuid);
    assert_same_data(&mdof.member(0), &mdof.member(1));
}

#[test]
fn fio_verifies_at_queue_depth_32() {
    run_all(&[("fio", ""), ("fio", "--nr-io-queues=4"), ("fio", "--nr-io-queues=1")]);
}

#[test]
fn fio_verifies_with_header_and_data_digests() {
    run_all(&[
        ("fio", "--hdr-digest --data-digest"),
        ("fio", "--hdr-digest"),
        ("fio", "--data-digest"),
    ]);
}

/// And then the array, which has chunks in all states by that, becomes larger under the host.
#[test]
fn discarded_and_zeroed_ranges_read_as_zeroes_and_so_does_what_an_array_grows_by() {
    let Some(_turn) = turn_with_guest() else { return };
    let mut mdof = Mdof::start(Members::Files);
    let mut vm = Vm::boot();
    vm.run(&script("discard", &mdof));
    vm.start(&script("grow", &mdof));
    vm.wait_for_line("under way", PROGRESS_LIMIT);
    for index in 0..2 {
        let file = File::options().write(true).open(mdof.member(index)).unwrap();
        file.set_len(file.metadata().unwrap().len() + (96 << 20)).unwrap();
    }
    println!("{}", mdof.rpc("bdev_raid_grow", json!({ "name": ARRAY })));
    vm.finish(SCRIPT_LIMIT);
    let growth = mdof.array()["growth"].clone();
    assert!(growth.is_null(), "{growth}");
    mdof.wait_for_resync();
    mdof.stop();
    assert_same_data(&mdof.member(0), &mdof.member(1));
}

#[test]
fn a_host_rides_through_two_kills_without_an_error() {
    let Some(_turn) = turn_with_guest() else { return };
    let mut mdof = Mdof::start(Members::Files);
    let mut vm = Vm::boot();
    vm.start(&script("crash-ride", &mdof));
    for acked in ["acked 60", "acked 140"] {
        vm.wait_for_line(acked, PROGRESS_LIMIT);
        mdof.kill9();
        mdof.restart();
    }
    vm.finish(SCRIPT_LIMIT);
    mdof.wait_for_resync();
    mdof.stop();
    assert_same_data(&mdof.member(0), &mdof.member(1));
}

#[test]
fn nothing_acknowledged_is_lost_when_target_and_connection_die() {
    let Some(_turn) = turn_with_guest() else { return };
    let mut mdof = Mdof::start(Members::Files);
    let mut vm = Vm::boot();
    vm.start(&script("crash-lose", &mdof));
    vm.wait_for_line("acked 80", PROGRESS_LIMIT);
    mdof.kill9();
    vm.finish(SCRIPT_LIMIT);

    // Nothing was closed: md's superblock has to say so to whoever looks.
    assert_ne!(examine(&mdof.member(0)).state, "clean", "the array was in use when mdof died");
    mdof.restart();
    vm.run(&script("crash-after", &mdof));
    mdof.wait_for_resync();
    mdof.stop();
    assert_same_data(&mdof.member(0), &mdof.member(1));
}

#[test]
fn a_failing_member_costs_the_host_nothing_and_is_recorded() {
    let Some(_turn) = turn_with_guest() else { return };
    let mut mdof = Mdof::start(Members::SecondMayFail);
    let mut vm = Vm::boot();
    vm.start(&script("degrade", &mdof));
    vm.wait_for_line("under way", PROGRESS_LIMIT);
    mdof.rpc(
        "bdev_error_inject_error",
        json!({ "name": FAULTY, "io_type": "all", "error_type": "failure", "num": 1_000_000 }),
    );
    vm.finish(SCRIPT_LIMIT);
    mdof.stop();

    let survivor = examine(&mdof.member(0));
    let failed = examine(&mdof.member(1));
    assert_eq!(survivor.array_state, "A.", "the survivor knows of the failure");
    assert!(survivor.events > failed.events, "{} > {}", survivor.events, failed.events);
    assert!(survivor.checksum.ends_with("- correct"));

    // The failed member is back, but stale: it may be left out, but not served.
    mdof.restart_degraded();
    vm.run(&script("degrade-after", &mdof));
    mdof.stop();
}

#[test]
fn with_a_member_file_removed_the_array_waits_and_is_degraded_on_request() {
    let Some(_turn) = turn_with_guest() else { return };
    let mut mdof = Mdof::start(Members::Files);
    let mut vm = Vm::boot();
    vm.run(&script("degrade", &mdof));
    mdof.stop();
    std::fs::remove_file(mdof.member(1)).unwrap();
    let before = std::fs::read(mdof.member(0)).unwrap();

    mdof.restart();
    let said = mdof.log_tail();
    assert!(said.contains("NOT STARTED"), "it says that it waits:\n{said}");
    mdof.stop();
    assert!(!mdof.member(1).exists(), "an array that waits makes no new member");
    assert!(std::fs::read(mdof.member(0)).unwrap() == before, "and changes nothing");

    mdof.restart_degraded();
    vm.run(&script("degrade-after", &mdof));
    vm.run(&script("ext4", &mdof));
    mdof.stop();
    assert_eq!(examine(&mdof.member(0)).array_state, "A.");
}

/// Everything that an operator does to an array in a year, in a minute, under a host's writes.
#[test]
fn a_host_notices_nothing_of_an_arrays_life() {
    let Some(_turn) = turn_with_guest() else { return };
    let mut mdof = Mdof::start(Members::Raid6);
    let mut vm = Vm::boot();
    vm.start(&script("life", &mdof));
    let mut rounds = 0;
    let mut next_round = |vm: &mut Vm| {
        rounds += 1;
        vm.wait_for_line(&format!("round {rounds}"), PROGRESS_LIMIT);
    };
    let at =
        |method: &str, slot: u32| mdof.rpc(method, json!({ "raid_bdev": ARRAY, "slot": slot }));
    let add = |bdev: &str| {
        mdof.rpc("bdev_raid_add_base_bdev", json!({ "raid_bdev": ARRAY, "base_bdev": bdev }))
    };
    next_round(&mut vm);
    // One goes, misses a round and comes back.
    at("bdev_raid_fail_base_bdev", 1);
    at("bdev_raid_remove_base_bdev", 1);
    next_round(&mut vm);
    add("disk1");
    mdof.wait_until_whole();
    next_round(&mut vm);
    // One is replaced while it serves.
    let whom = json!({ "raid_bdev": ARRAY, "slot": 0, "base_bdev": "disk5" });
    mdof.rpc("bdev_raid_replace_base_bdev", whom);
    wait_until("the member is replaced", SCRIPT_LIMIT, || mdof.array()["replacement"].is_null());
    assert_eq!(mdof.array()["base_bdevs_list"][0]["name"], "disk5", "{}", mdof.array());
    next_round(&mut vm);
    // Two go at once, and other devices take their places one after the other.
    at("bdev_raid_fail_base_bdev", 2);
    next_round(&mut vm);
    at("bdev_raid_remove_base_bdev", 3);
    next_round(&mut vm);
    at("bdev_raid_remove_base_bdev", 2);
    add("disk6");
    add("disk0");
    mdof.wait_until_whole();
    next_round(&mut vm);
    mdof.rpc("bdev_raid_scrub", json!({ "name": ARRAY, "action": "check" }));
    wait_until("the check ends", SCRIPT_LIMIT, || scrub(&mdof)["running"] == false);
    assert_eq!(scrub(&mdof)["mismatches"], 0, "{}", scrub(&mdof));
    let said = vm.finish(SCRIPT_LIMIT);
    println!("{said}");
    // How long is measured elsewhere: here it is only that nothing hangs.
    let longest = said.lines().find_map(|line| line.strip_prefix("longest request: "));
    let longest = longest.and_then(|text| text.strip_suffix(" ms")).map(str::parse::<u64>);
    assert!(longest.is_some_and(|ms| ms.is_ok_and(|ms| ms < 30_000)), "a request hung: {said}");
    let operational = mdof.array()["num_base_bdevs_operational"].clone();
    assert_eq!(operational, 5, "{}", mdof.array());
    mdof.stop();
}

fn scrub(mdof: &Mdof) -> Value {
    mdof.rpc("bdev_raid_get_scrub", json!({ "name": ARRAY }))
}

#[test]
fn mdadm_describes_both_members() {
    let Some(_turn) = turn_with_mdadm() else { return };
    let mut mdof = Mdof::start(Members::Files);
    mdof.stop();
    let first = examine(&mdof.member(0));
    let second = examine(&mdof.member(1));
    for (member, role) in [(&first, "Active device 0"), (&second, "Active device 1")] {
        assert_eq!(member.version, "1.2");
        assert_eq!(member.level, "raid1");
        assert_eq!(member.raid_devices, 2);
        assert_eq!(member.role, role);
        assert_eq!(member.array_state, "AA");
        assert_eq!(member.state, "clean");
        assert!(member.checksum.ends_with("- correct"), "{}", member.checksum);
        assert!(member.events > 0);
    }
    assert_eq!(first.array_uuid, second.array_uuid);
    assert_ne!(first.device_uuid, second.device_uuid);
    assert_eq!(first.events, second.events);
    assert_eq!(first.data_offset_sectors, second.data_offset_sectors);

    mdof.restart();
    mdof.stop();
    let again = examine(&mdof.member(0));
    assert_eq!(again.array_uuid, first.array_uuid, "the second start assembles");
    assert!(again.events >= first.events, "events never go back");
}

//! The mesh under the model checker: no wake-up is lost, whatever the interleaving and however
//! late a store becomes visible. The ports are the shipped ones; ring and eventfd are stand-ins
//! (`reactor::sync::model`). A lost wake-up is a deadlock of the model, which loom reports.

#![allow(clippy::tests_outside_test_module, reason = "an integration test is all test")]

use std::time::Duration;

use loom::thread;
use mdof::reactor::mesh::{Port, mesh};
use mdof::reactor::sync::model::{Seed, plant};

/// There is no time in a model: a wait ends when someone wakes the waiter, or never.
const FOREVER: Duration = Duration::from_secs(3600);

/// Runs `model` in every interleaving with at most three preemptions.
fn check(seed: Option<Seed>, model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(3));
    builder.check(move || {
        plant(seed);
        model();
        plant(None);
    });
}

fn ports(cores: usize) -> Vec<Port<u32>> {
    mesh(cores, 2).expect("stand-ins cannot fail")
}

fn receive(port: &mut Port<u32>) -> (usize, u32) {
    port.receive_blocking(FOREVER).expect("nothing ends a wait but a message")
}

/// One sender, two messages, a receiver that sleeps whenever it has nothing to do.
fn one_sender() {
    let mut ports = ports(1);
    let (mut control, mut core) = (ports.remove(1), ports.remove(0));
    let sender = thread::spawn(move || {
        control.post(0, 1);
        control.post(0, 2);
    });
    assert_eq!(receive(&mut core), (1, 1));
    assert_eq!(receive(&mut core), (1, 2));
    sender.join().expect("no panic");
}

/// Two senders race for the one wake-up that a sleeper needs.
fn two_senders() {
    let mut ports = ports(2);
    let (mut b, mut a, mut sleeper) = (ports.remove(2), ports.remove(1), ports.remove(0));
    let a = thread::spawn(move || a.post(0, 10));
    let b = thread::spawn(move || b.post(0, 20));
    let mut sum = receive(&mut sleeper).1;
    sum += receive(&mut sleeper).1;
    assert_eq!(sum, 30);
    a.join().expect("no panic");
    b.join().expect("no panic");
}

/// Both ends sleep: a question and its answer.
fn two_sleepers() {
    let mut ports = ports(1);
    let (mut control, mut core) = (ports.remove(1), ports.remove(0));
    let far = thread::spawn(move || {
        let (from, question) = receive(&mut core);
        core.post(from, question + 1);
    });
    control.post(0, 1);
    assert_eq!(receive(&mut control), (0, 2));
    far.join().expect("no panic");
}

/// A wake-up of before is not spent on the sleep of after: the receiver finds the first message
/// by itself while the sender's wake-up for it is still on its way.
fn a_late_wake_up_does_no_harm() {
    let mut ports = ports(1);
    let (mut control, mut core) = (ports.remove(1), ports.remove(0));
    let sender = thread::spawn(move || {
        control.post(0, 1);
        control.post(0, 2);
    });
    // Announces sleep and withdraws at once, as a core does whose timer is due.
    if core.prepare_sleep() {
        core.end_sleep();
    }
    assert_eq!(receive(&mut core), (1, 1));
    assert_eq!(receive(&mut core), (1, 2));
    sender.join().expect("no panic");
}

/// A receiver that does not look into its mailboxes again after announcing sleep: what
/// `prepare_sleep` answers is thrown away.
fn no_second_look() {
    let mut ports = ports(1);
    let (mut control, mut core) = (ports.remove(1), ports.remove(0));
    let sender = thread::spawn(move || control.post(0, 1));
    if core.receive().is_none() {
        let _ = core.prepare_sleep();
        core.wait_woken(FOREVER);
        assert_eq!(core.receive(), Some((1, 1)));
    }
    sender.join().expect("no panic");
}

#[test]
fn one_sender_wakes_a_sleeper() {
    check(None, one_sender);
}

#[test]
fn two_senders_wake_a_sleeper() {
    check(None, two_senders);
}

#[test]
fn two_sleepers_wake_each_other() {
    check(None, two_sleepers);
}

#[test]
fn withdrawn_announcement() {
    check(None, a_late_wake_up_does_no_harm);
}

// --- Seeded defects: each must be caught, or the models above would prove nothing.

#[test]
#[should_panic(expected = "deadlock")]
fn seed_no_fence_is_caught() {
    check(Some(Seed::NoFence), one_sender);
}

#[test]
#[should_panic(expected = "deadlock")]
fn seed_no_fence_is_caught_between_two_sleepers() {
    check(Some(Seed::NoFence), two_sleepers);
}

#[test]
#[should_panic(expected = "deadlock")]
fn seed_no_second_look_is_caught() {
    check(None, no_second_look);
}

//! Loads over NVMe/TCP, also against a real target in this process.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use mdof::control::config::Config;
use mdof::control::startup;
use mdof::control::state_dir::StateDir;
use mdof::control::target::Target;
use mdof::engine::{EngineConfig, EngineHandle};
use mdof::reactor::buf::CLASS_COUNTS;
use mdof::secure::{ChapKey, Psk};

use super::lane::command;
use super::*;
use crate::load::Request;
use crate::pattern::Access;
use crate::pattern::Direction;

fn namespace(connections: u16, cores: &[usize]) -> Namespace {
    Namespace {
        addr: "127.0.0.1:1".parse().unwrap(),
        nqn: "nqn.2026-01.io.mdof:test".into(),
        host_nqn: "nqn.2026-01.io.mdof:perf".into(),
        nsid: 1,
        header_digest: false,
        data_digest: false,
        connections,
        cores: cores.to_vec(),
        tls: false,
        keys: Keys::default(),
    }
}

#[test]
fn connections_are_dealt_out_evenly() {
    let dealt = |connections, cores: &[usize]| -> Vec<(Option<usize>, u16, u16)> {
        let shares = shares(&namespace(connections, cores));
        shares.iter().map(|share| (share.cpu, share.first_lane, share.lanes)).collect()
    };
    assert_eq!(dealt(3, &[]), [(None, 0, 3)]);
    assert_eq!(dealt(5, &[4, 6]), [(Some(4), 0, 3), (Some(6), 3, 2)]);
    assert_eq!(dealt(1, &[4, 6]), [(Some(4), 0, 1)]);
    assert_eq!(dealt(0, &[]), [(None, 0, 1)]);
}

#[test]
fn commands_carry_the_request() {
    let request =
        Request { slot: 3, direction: Direction::Write, lba: 0x1_2345_6789_abcd, blocks: 8 };
    let sqe = command(7, &request);
    assert_eq!((sqe.opcode, sqe.nsid.get()), (1, 7));
    assert_eq!((sqe.slba(), sqe.block_count()), (0x1_2345_6789_abcd, 8));
    let read = command(7, &Request { direction: Direction::Read, ..request });
    assert_eq!(read.opcode, 2);
}

const PSK: &str = "NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:";
const CHAP: &str = "DHHC-1:00:AAcOFRwjKjE4P0ZNVFtiaXB3foWMk5qhqK+2vcTL0tk/PUPo:";

/// A target with an array of 64 MiB on null bdevs, and its address; and where a subsystem is that
/// wants a host with keys.
fn target(name: &str) -> (Target, SocketAddr, SocketAddr) {
    let dir = std::env::temp_dir().join(format!("mdof-perf-{name}-{}", std::process::id()));
    let state = StateDir::open(&dir).unwrap();
    let free = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [addr, secure] = free.each_ref().map(|free| free.local_addr().unwrap());
    drop(free);
    for (name, key) in [("psk", PSK), ("chap", CHAP)] {
        let path = dir.join(name);
        std::fs::write(&path, key).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    let bdev = |name| format!("[[bdev]]\nname = \"{name}\"\nkind = \"null\"\nsize_mib = 64\n");
    let text = format!(
        "{}{}{}[[array]]\nname = \"r\"\nlevel = 1\nmembers = [\"a\", \"b\"]\n\
         [[subsystem]]\nnqn = \"nqn.2026-01.io.mdof:test\"\nallow_any_host = true\n\
         listen = [\"{addr}\"]\nnamespaces = [{{ bdev = \"r\", nsid = 1 }}]\n\
         [[key]]\nname = \"psk\"\npath = \"psk\"\n[[key]]\nname = \"chap\"\npath = \"chap\"\n\
         [[subsystem]]\nnqn = \"nqn.2026-01.io.mdof:secured\"\n\
         hosts = [{{ nqn = \"nqn.2026-01.io.mdof:perf\", psk = \"psk\", dhchap_key = \"chap\" }}]\n\
         listen = [{{ address = \"{secure}\", secure_channel = true }}]\n\
         namespaces = [{{ bdev = \"c\", nsid = 1 }}]\n",
        bdev("a"),
        bdev("b"),
        bdev("c")
    );
    let config = Config::parse(&text, name).unwrap();
    let cores = vec![cpu::usable()[0]];
    let engine = EngineHandle::start(EngineConfig {
        cores: cores.clone(),
        poll_always: false,
        buffer_counts: CLASS_COUNTS,
    });
    let mut target = Target::new(engine.unwrap(), cores);
    startup::apply(&mut target, &config, &state, None).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    (target, addr, secure)
}

/// Measures for longer and longer, until every connection has had its turn: on a busy machine one
/// may get none in the time that the job names.
fn run_until(
    namespace: &Namespace,
    job: &Job,
    is_enough: impl Fn(&Tally) -> bool,
) -> (Vec<Tally>, Duration) {
    let mut job = job.clone();
    while job.time < Duration::from_secs(30) {
        let tallies = run(namespace, &job).unwrap();
        if tallies.iter().all(&is_enough) {
            return (tallies, job.time);
        }
        job.time *= 4;
    }
    panic!("connections did not get enough in any time");
}

#[test]
fn a_real_target_is_measured() {
    let (target, addr, secure) = target("measured");
    let job = Job {
        warm_up: Duration::from_millis(10),
        time: Duration::from_millis(100),
        rw: Access::RandRw,
        ..Job::default()
    };
    let cpu = cpu::usable()[0];
    for (io_bytes, connections, cores, digests) in [
        (4096, 1, vec![], false),
        (32 * 1024, 3, vec![cpu, cpu], true),
        (1024 * 1024, 2, vec![], false),
    ] {
        let job = Job { block_size_bytes: io_bytes, ..job.clone() };
        let mut namespace = Namespace { addr, ..namespace(connections, &cores) };
        (namespace.header_digest, namespace.data_digest) = (digests, digests);
        let has_both =
            |tally: &Tally| tally.ios(Direction::Read) > 0 && tally.ios(Direction::Write) > 0;
        let (tallies, time) = run_until(&namespace, &job, has_both);
        assert_eq!(tallies.len(), usize::from(connections));
        for tally in &tallies {
            assert!(u128::from(tally.measured_ns()) >= time.as_nanos());
            assert!(tally.latency(Direction::Read).max() < 60_000_000_000);
        }
    }
    let with_keys = Namespace {
        addr: secure,
        nqn: "nqn.2026-01.io.mdof:secured".into(),
        tls: true,
        keys: Keys {
            psk: Some(Psk::parse(PSK).unwrap()),
            dhchap: Some(ChapKey::parse(CHAP).unwrap()),
            dhchap_ctrlr: None,
        },
        ..namespace(2, &[])
    };
    run_until(&with_keys, &job, |tally| tally.ios(Direction::Write) > 0);
    let without = Keys { dhchap: None, ..with_keys.keys.clone() };
    assert!(run(&Namespace { keys: without, ..with_keys }, &job).is_err());
    for (wrong, text) in [
        (Namespace { nsid: 2, ..namespace(1, &[]) }, "has no namespace 2"),
        (
            Namespace { nqn: "nqn.2026-01.io.mdof:x".into(), ..namespace(1, &[]) },
            "is the NQN right",
        ),
    ] {
        let error = run(&Namespace { addr, ..wrong }, &job).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let deep = Job { queue_depth: 128, ..job };
    let error = run(&Namespace { addr, ..namespace(1, &[]) }, &deep).unwrap_err().to_string();
    assert!(error.contains("127 commands a queue"), "{error}");
    target.stop().unwrap();
}

#[test]
fn nobody_at_the_address_is_one_sentence() {
    let cpu = cpu::usable()[0];
    for cores in [vec![], vec![cpu, cpu]] {
        let error = run(&namespace(2, &cores), &Job::default()).unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:1"), "{error}");
    }
}

#[test]
fn a_thread_that_fails_keeps_no_other_waiting() {
    let namespace = namespace(2, &[cpu::usable()[0], usize::MAX]);
    // Neither gets as far as the start; which of the two is named depends on who came first.
    assert!(run(&namespace, &Job::default()).is_err());
}

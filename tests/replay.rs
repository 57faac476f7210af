//! What real hosts said, said again: conversations of Linux with this target, recorded in the
//! guests of the VM tests, must get the answers that they got. `tests/data/host` has them;
//! `MDOF_TEST_RECORD=1 cargo test --test replay -- record` makes them anew.

#![allow(clippy::tests_outside_test_module, reason = "an integration test is all test")]
#![allow(clippy::unwrap_used, reason = "a test's panic is its verdict")]

#[allow(dead_code, reason = "several tests share it and use parts of it")]
mod host;
#[path = "replay/record.rs"]
mod record;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use host::turn_with_guest;
use host::vm::{HOST_ADDRESS, Script, Vm};
use mdof::bdev::Device;
use mdof::bdev::malloc::MallocDevice;
use mdof::engine::{EngineConfig, EngineHandle};
use mdof::target::subsystem::{NamespaceSpec, SubsystemSpec, SubsystemTable};
use mdof::wire::tcp::crc32c;
use record::{From, Record, proxy, read_file, read_pdu, write_file};

const NQN: &str = "nqn.2026-01.io.mdof:talk";
const LIMIT: Duration = Duration::from_secs(30);

/// Captures and how the host connected.
const TALKS: [(&str, &str); 2] = [("debian", ""), ("debian-digests", "--hdr-digest --data-digest")];
const NEWEST: (&str, &str) = ("newest-data-digest", "--data-digest");

fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/host"))
        .join(name.to_owned() + ".cap")
}

/// A target on one core, whose controller ids are the same each time.
fn target() -> (EngineHandle, SocketAddr) {
    let config = EngineConfig { cores: vec![0], poll_always: false, buffer_counts: [64, 16, 8, 0] };
    let mut engine = EngineHandle::start(config).unwrap();
    let malloc = MallocDevice::new("m", uuid::Uuid::from_u128(1), 512, 32768).unwrap();
    let bdev = engine.add_bdev(Device::Malloc(malloc)).unwrap();
    let geometry = engine.geometry(bdev).unwrap().clone();
    let mut table = SubsystemTable::new();
    let spec = SubsystemSpec { allow_any_host: true, ..SubsystemSpec::new(NQN) };
    table.create_subsystem(&spec).unwrap();
    table.add_ns(NQN, &NamespaceSpec::new(bdev, &geometry)).unwrap();
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    table.add_listener(NQN, free).unwrap();
    engine.publish(Arc::new(table));
    engine.listen(free).unwrap();
    (engine, free)
}

/// What of a target's PDU must be as it was: type, and by type identifier, lengths and completion.
/// Transfer tags and queue heads are the target's own.
fn essence(pdu: &[u8]) -> Vec<u8> {
    match pdu[0] {
        // ICResp: version, alignment, digests, MAXH2CDATA.
        1 => [&pdu[..1], &pdu[8..16]].concat(),
        // A completion: dwords 0 and 1, command identifier, status.
        5 => [&pdu[..1], &pdu[8..16], &pdu[20..24]].concat(),
        // C2HData: flags, PLEN, command identifier, offset, length.
        7 => [&pdu[..2], &pdu[4..10], &pdu[12..20]].concat(),
        // R2T: command identifier, offset, length.
        9 => [&pdu[..1], &pdu[8..10], &pdu[12..20]].concat(),
        _ => pdu.to_vec(),
    }
}

struct Replay {
    address: SocketAddr,
    streams: BTreeMap<u8, TcpStream>,
    /// Transfer tag of each command that was asked for its data.
    tags: BTreeMap<(u8, [u8; 2]), [u8; 2]>,
    answers: BTreeMap<u8, Vec<Vec<u8>>>,
    wanted: BTreeMap<u8, Vec<Vec<u8>>>,
}

impl Replay {
    fn stream(&mut self, connection: u8) -> &mut TcpStream {
        let address = self.address;
        self.streams.entry(connection).or_insert_with(|| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        })
    }

    fn step(&mut self, record: &Record) {
        let connection = record.connection;
        match record.from {
            From::Host if record.bytes.is_empty() => {
                // The target may have closed it already.
                let _ = self.stream(connection).shutdown(Shutdown::Write);
            }
            From::Host => {
                let mut pdu = record.bytes.clone();
                if pdu[0] == 6 {
                    let tag = self.tags[&(connection, [pdu[8], pdu[9]])];
                    pdu[10..12].copy_from_slice(&tag);
                    if pdu[1] & 1 != 0 {
                        let digest = crc32c(&pdu[..24]).to_le_bytes();
                        pdu[24..28].copy_from_slice(&digest);
                    }
                }
                self.stream(connection).write_all(&pdu).unwrap();
            }
            From::Target => {
                self.wanted.entry(connection).or_default().push(essence(&record.bytes));
                let pdu = read_pdu(self.stream(connection)).expect("an answer");
                if pdu[0] == 9 {
                    self.tags.insert((connection, [pdu[8], pdu[9]]), [pdu[10], pdu[11]]);
                }
                self.answers.entry(connection).or_default().push(essence(&pdu));
            }
        }
    }
}

fn replay(name: &str) {
    let records = read_file(&file(name));
    let (engine, address) = target();
    let mut replay = Replay {
        address,
        streams: BTreeMap::new(),
        tags: BTreeMap::new(),
        answers: BTreeMap::new(),
        wanted: BTreeMap::new(),
    };
    records.iter().for_each(|record| replay.step(record));
    // Commands of one queue may end in another order.
    let sorted = |mut answers: BTreeMap<u8, Vec<Vec<u8>>>| {
        answers.values_mut().for_each(|list| list.sort());
        answers
    };
    let count: usize = replay.answers.values().map(Vec::len).sum();
    assert!(count > 50, "{count} answers are no conversation");
    let (answers, wanted) = (sorted(replay.answers), sorted(replay.wanted));
    for (connection, wanted) in &wanted {
        for (answer, wanted) in answers[connection].iter().zip(wanted) {
            assert_eq!(answer, wanted, "connection {connection} of {name}");
        }
    }
    drop(replay.streams);
    engine.stop();
}

#[test]
fn debian_gets_the_answers_that_it_got() {
    for (name, _) in TALKS {
        replay(name);
    }
}

#[test]
fn the_newest_kernel_gets_the_answers_that_it_got() {
    replay(NEWEST.0);
}

fn talk(vm: &mut Vm, (name, connect): (&str, &str)) {
    let (engine, address) = target();
    let (port, records) = proxy(address);
    vm.run(&Script { name: "talk", address: HOST_ADDRESS, port, nqn: NQN, connect });
    engine.stop();
    let records = std::mem::take(&mut *records.lock().unwrap());
    let has = |kind: u8| records.iter().any(|record| record.bytes.first() == Some(&kind));
    // Every kind of PDU that a good conversation has.
    for kind in [0, 1, 4, 5, 6, 7, 9] {
        assert!(has(kind), "no PDU of type {kind}");
    }
    if std::env::var_os("MDOF_TEST_RECORD").is_some() {
        write_file(&file(name), &records);
    }
}

/// Records what the others replay, if it is asked to; and that a proxy is in between disturbs no
/// host.
#[test]
fn record_conversations() {
    let Some(_turn) = turn_with_guest() else { return };
    if std::env::var_os("MDOF_TEST_RECORD").is_none() {
        eprintln!("left out: MDOF_TEST_RECORD=1 asks for new records");
        return;
    }
    let mut vm = Vm::boot();
    TALKS.into_iter().for_each(|one| talk(&mut vm, one));
    drop(vm);
    if let Some(mut vm) = Vm::boot_newest() {
        talk(&mut vm, NEWEST);
    }
}

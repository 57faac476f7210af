//! A target that has far fewer buffers than its hosts have commands in flight: whoever waits for
//! one gets it in turn, whatever its commands are, and however large.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mdof::bdev::Device;
use mdof::bdev::malloc::MallocDevice;
use mdof::engine::{EngineConfig, EngineHandle};
use mdof::initiator::{Client, ClientOptions, Data, QueuePair};
use mdof::reactor::buf::{BufPool, IoBuf};
use mdof::target::subsystem::{NamespaceSpec, SubsystemSpec, SubsystemTable};
use mdof::wire::nvme::{Sqe, Status};
use uuid::Uuid;
use zerocopy::FromZeros;

const NQN: &str = "nqn.2026-01.io.mdof:scarce";
const HOST_NQN: &str = "nqn.2026-01.io.mdof:host";
const LIMIT: Duration = Duration::from_secs(100);

/// The target's buffers. Two of the larger ones are left to data that come in capsules.
const BUFFERS: [usize; 4] = [16, 3, 3, 0];

const COMPARE_TAG: u64 = 1;

const BLOCK_BYTES: u32 = 4096;
const BLOCKS: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Read,
    Write,
    /// Fused Compare and Write, of which each half needs a buffer; one command of `depth`.
    Pair,
}

/// Connections of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    what: What,
    blocks: u16,
    connections: usize,
    /// Commands in flight on each.
    depth: u64,
}

const KINDS: [Kind; 7] = [
    Kind { what: What::Write, blocks: 1, connections: 16, depth: 32 },
    Kind { what: What::Read, blocks: 1, connections: 16, depth: 32 },
    Kind { what: What::Write, blocks: 2, connections: 4, depth: 32 },
    Kind { what: What::Pair, blocks: 1, connections: 4, depth: 16 },
    // These are asked for their data.
    Kind { what: What::Write, blocks: 4, connections: 4, depth: 16 },
    Kind { what: What::Write, blocks: 32, connections: 4, depth: 8 },
    Kind { what: What::Read, blocks: 32, connections: 4, depth: 8 },
];

/// So many commands end at least on each connection, for each of its depth.
const ROUNDS: u64 = 4;

/// Of two connections of a kind one may do so many times what the other does.
const UNLIKE_MAX: u64 = 8;

fn target() -> (EngineHandle, SocketAddr) {
    let config = EngineConfig { cores: vec![0], poll_always: false, buffer_counts: BUFFERS };
    let mut engine = EngineHandle::start(config).unwrap();
    let malloc = MallocDevice::new("m0", Uuid::new_v4(), BLOCK_BYTES, BLOCKS).unwrap();
    let bdev = engine.add_bdev(Device::Malloc(malloc)).unwrap();
    let mut table = SubsystemTable::new();
    let spec = SubsystemSpec { allow_any_host: true, ..SubsystemSpec::new(NQN) };
    table.create_subsystem(&spec).unwrap();
    table.add_ns(NQN, &NamespaceSpec::new(bdev, engine.geometry(bdev).unwrap())).unwrap();
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    table.add_listener(NQN, address).unwrap();
    engine.publish(Arc::new(table));
    engine.listen(address).unwrap();
    (engine, address)
}

fn zeroes(pool: BufPool, bytes: u32) -> IoBuf {
    let mut buf = pool.get(bytes as usize).unwrap();
    buf.as_mut_slice().fill(0);
    buf
}

/// A connection that is kept full.
struct Lane {
    queue: QueuePair,
    kind: Kind,
    sent: u64,
    ended: u64,
}

impl Lane {
    fn work(&mut self, pool: BufPool) {
        let Kind { what, blocks, depth, .. } = self.kind;
        while self.sent - self.ended < depth {
            let buf = || zeroes(pool, u32::from(blocks) * BLOCK_BYTES);
            let lba = self.sent % (BLOCKS / 32) * 32;
            match what {
                What::Write => self.queue.submit_write(1, lba, blocks, buf(), 0),
                What::Read => self.queue.submit_read(1, lba, blocks, buf(), 0),
                What::Pair => {
                    let lba = u32::try_from(lba).unwrap();
                    for half in [0, 1] {
                        self.submit_half(half, lba, pool);
                    }
                }
            }
            self.sent += 1;
        }
        self.queue.poll().unwrap();
        while let Some(done) = self.queue.next_completion() {
            match done.status() {
                // Counted by its second.
                status if what == What::Pair && done.tag == COMPARE_TAG => {
                    assert!(status.is_success() || status == Status::FAILED_FUSED, "{status:?}");
                }
                status if status.is_success() => {
                    let read = done.buf.filter(|_| what == What::Read);
                    assert!(read.is_none_or(|buf| buf.as_slice().iter().all(|byte| *byte == 0)));
                    self.ended += 1;
                }
                // To be tried again.
                Status::COMMAND_INTERRUPTED if what == What::Pair => self.sent -= 1,
                status => panic!("{status:?}"),
            }
        }
    }

    /// What is there is zeroes, as is all that anybody writes.
    fn submit_half(&mut self, half: usize, lba: u32, pool: BufPool) {
        let (opcode, flags, tag) = [(0x05, 1, COMPARE_TAG), (0x01, 2, 0)][half];
        let mut sqe = Sqe::new_zeroed();
        (sqe.opcode, sqe.flags) = (opcode, flags);
        sqe.nsid.set(1);
        sqe.cdw10.set(lba);
        self.queue.submit(sqe, Data::ToController(zeroes(pool, BLOCK_BYTES)), tag);
    }
}

fn kinds_and_counts(lanes: &[Lane]) -> Vec<(Kind, Vec<u64>)> {
    let alike = lanes.chunk_by(|one, other| one.kind == other.kind);
    alike.map(|alike| (alike[0].kind, alike.iter().map(|lane| lane.ended).collect())).collect()
}

/// A connection each, of all kinds.
fn connect(kinds: &[Kind], address: SocketAddr, pool: BufPool) -> (Client, Vec<Lane>) {
    let mut options = ClientOptions::new(address, NQN, HOST_NQN);
    options.limit = LIMIT;
    let mut client = Client::connect(options, pool).unwrap();
    let mut lanes = Vec::new();
    let connections: usize = kinds.iter().map(|kind| kind.connections).sum();
    client.request_queues(u16::try_from(connections).unwrap()).unwrap();
    for kind in kinds {
        for _ in 0..kind.connections {
            let id = u16::try_from(lanes.len() + 1).unwrap();
            let queue = client.open_io_queue(id, 64).unwrap();
            lanes.push(Lane { queue, kind: *kind, sent: 0, ended: 0 });
        }
    }
    (client, lanes)
}

#[test]
fn whoever_waits_for_a_buffer_gets_one() {
    let (engine, address) = target();
    let pool = BufPool::on_heap([1300, 400, 80, 0]);
    let (client, mut lanes) = connect(&KINDS, address, pool);
    let since = Instant::now();
    while lanes.iter().any(|lane| lane.ended < ROUNDS * lane.kind.depth) {
        lanes.iter_mut().for_each(|lane| lane.work(pool));
        assert!(since.elapsed() < LIMIT, "who waits? {:#?}", kinds_and_counts(&lanes));
    }
    for (kind, ended) in kinds_and_counts(&lanes) {
        let (least, most) = (*ended.iter().min().unwrap(), *ended.iter().max().unwrap());
        println!("{kind:?}: {least} to {most}");
        assert!(most <= UNLIKE_MAX * least, "{kind:?}: {ended:?}");
    }
    drop((client, lanes));
    engine.stop();
}

/// All buffers are with first halves of fused operations when the second ones come, and nobody else
/// would give one back.
#[test]
fn halves_of_pairs_do_not_wait_for_each_other() {
    let (mut engine, address) = target();
    let pool = BufPool::on_heap([100, 8, 8, 0]);
    let pairs = Kind { what: What::Pair, blocks: 1, connections: 48, depth: 1 };
    let (client, mut lanes) = connect(&[pairs], address, pool);
    let since = Instant::now();
    for half in 0..2 {
        for lane in &mut lanes {
            lane.submit_half(half, 0, pool);
            lane.queue.poll().unwrap();
        }
        while half == 0 && engine.reports()[0].buffers_free_bytes > 0 {
            assert!(since.elapsed() < LIMIT, "{:?}", engine.reports());
        }
    }
    let mut ended = [0; 2];
    while ended != [lanes.len(); 2] {
        for lane in &mut lanes {
            lane.queue.poll().unwrap();
            while let Some(done) = lane.queue.next_completion() {
                let given_up = [Status::FAILED_FUSED, Status::COMMAND_INTERRUPTED];
                let half = usize::from(done.tag != COMPARE_TAG);
                let status = done.status();
                assert!(status.is_success() || status == given_up[half], "{half}: {status:?}");
                ended[half] += 1;
            }
        }
        assert!(since.elapsed() < LIMIT, "only {ended:?} ended");
    }
    // And now there is room.
    for lane in &mut lanes {
        while lane.ended == 0 {
            lane.work(pool);
        }
    }
    drop((client, lanes));
    engine.stop();
}

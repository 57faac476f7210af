//! A target that has far fewer buffers than its hosts have commands in flight: whoever waits for
//! one gets it in turn, whatever its commands are, and however large.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mdof::bdev::Device;
use mdof::bdev::malloc::MallocDevice;
use mdof::engine::{EngineConfig, EngineHandle};
use mdof::initiator::{Client, ClientOptions, QueuePair};
use mdof::reactor::buf::BufPool;
use mdof::target::subsystem::{NamespaceSpec, SubsystemSpec, SubsystemTable};
use uuid::Uuid;

const NQN: &str = "nqn.2026-01.io.mdof:scarce";
const HOST_NQN: &str = "nqn.2026-01.io.mdof:host";
const LIMIT: Duration = Duration::from_secs(100);

/// The target's buffers. Two of the larger ones are left to data that come in capsules.
const BUFFERS: [usize; 4] = [16, 3, 3, 0];

const BLOCK_BYTES: u32 = 4096;
const BLOCKS: u64 = 4096;

/// Connections of one kind.
#[derive(Debug, Clone, Copy)]
struct Kind {
    is_write: bool,
    blocks: u16,
    connections: usize,
    /// Commands in flight on each.
    depth: u64,
}

const KINDS: [Kind; 6] = [
    Kind { is_write: true, blocks: 1, connections: 16, depth: 32 },
    Kind { is_write: false, blocks: 1, connections: 16, depth: 32 },
    Kind { is_write: true, blocks: 2, connections: 4, depth: 32 },
    // These are asked for their data.
    Kind { is_write: true, blocks: 4, connections: 4, depth: 16 },
    Kind { is_write: true, blocks: 32, connections: 4, depth: 8 },
    Kind { is_write: false, blocks: 32, connections: 4, depth: 8 },
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

/// A connection that is kept full.
struct Lane {
    queue: QueuePair,
    kind: Kind,
    sent: u64,
    ended: u64,
}

impl Lane {
    fn work(&mut self, pool: BufPool) {
        let Kind { is_write, blocks, depth, .. } = self.kind;
        while self.sent - self.ended < depth {
            let buf = pool.get(usize::from(blocks) * BLOCK_BYTES as usize).unwrap();
            let lba = self.sent % (BLOCKS / 32) * 32;
            if is_write {
                self.queue.submit_write(1, lba, blocks, buf, 0);
            } else {
                self.queue.submit_read(1, lba, blocks, buf, 0);
            }
            self.sent += 1;
        }
        self.queue.poll().unwrap();
        while let Some(done) = self.queue.next_completion() {
            assert!(done.status().is_success(), "{:?}", done.status());
            self.ended += 1;
        }
    }
}

fn kinds_and_counts(lanes: &[Lane]) -> Vec<(Kind, Vec<u64>)> {
    let mut rest = lanes;
    let cut = |kind: Kind| {
        let (alike, others) = rest.split_at(kind.connections);
        rest = others;
        (kind, alike.iter().map(|lane| lane.ended).collect())
    };
    KINDS.map(cut).to_vec()
}

#[test]
fn whoever_waits_for_a_buffer_gets_one() {
    let (engine, address) = target();
    let pool = BufPool::on_heap([1100, 400, 80, 0]);
    let mut options = ClientOptions::new(address, NQN, HOST_NQN);
    options.limit = LIMIT;
    let mut client = Client::connect(options, pool).unwrap();
    let mut lanes = Vec::new();
    client.request_queues(48).unwrap();
    for kind in KINDS {
        for _ in 0..kind.connections {
            let id = u16::try_from(lanes.len() + 1).unwrap();
            let queue = client.open_io_queue(id, 64).unwrap();
            lanes.push(Lane { queue, kind, sent: 0, ended: 0 });
        }
    }
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

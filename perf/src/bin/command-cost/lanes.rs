//! The hosts, outside callgrind: commands on many queues from one polling thread.

use std::net::SocketAddr;
use std::time::Duration;

use mdof::initiator::{Client, ClientOptions, QueuePair};
use mdof::reactor::buf::BufPool;

use super::served::{BLOCK_SIZE_BYTES, BLOCKS, NQN};

const HOST_NQN: &str = "nqn.2026-01.io.mdof:perf";

/// A target under callgrind takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) nsid: u32,
    pub(crate) is_write: bool,
    /// Commands in flight on each connection.
    pub(crate) depth: u16,
}

/// Hosts with their I/O queues.
pub(crate) struct Lanes {
    // Queues before their controllers.
    queues: Vec<QueuePair>,
    _clients: Vec<Client>,
    pool: BufPool,
    random: u64,
}

impl Lanes {
    /// So many hosts with so many I/O queues each.
    pub(crate) fn connect(
        address: SocketAddr,
        (hosts, queues_each): (usize, u16),
        depth: u16,
        pool: BufPool,
    ) -> Self {
        let (mut clients, mut queues) = (Vec::new(), Vec::new());
        for _ in 0..hosts {
            let mut options = ClientOptions::new(address, NQN, HOST_NQN);
            options.limit = PATIENCE;
            let mut client = Client::connect(options, pool).expect("a controller");
            assert_eq!(client.request_queues(queues_each).expect("an answer"), queues_each);
            // A queue of n entries is full with n - 1 commands.
            let open = |id| client.open_io_queue(id, depth + 1).expect("a queue");
            queues.extend((1..=queues_each).map(open));
            clients.push(client);
        }
        Self { queues, _clients: clients, pool, random: 1 }
    }

    pub(crate) fn connections(&self) -> usize {
        self.queues.len()
    }

    fn submit(&mut self, lane: usize, work: &Work) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let lba = (self.random >> 20) % BLOCKS;
        let buf = self.pool.get(BLOCK_SIZE_BYTES as usize).expect("one for each in flight");
        let queue = &mut self.queues[lane];
        if work.is_write {
            queue.submit_write(work.nsid, lba, 1, buf, 0);
        } else {
            queue.submit_read(work.nsid, lba, 1, buf, 0);
        }
    }

    /// Sends so many commands, each connection as many at a time, and waits for their end.
    pub(crate) fn run(&mut self, work: &Work, count: u64) {
        let (mut sent, mut ended) = (0, 0);
        for lane in 0..self.queues.len() {
            for _ in 0..work.depth {
                if sent < count {
                    self.submit(lane, work);
                    sent += 1;
                }
            }
        }
        while ended < count {
            for lane in 0..self.queues.len() {
                self.queues[lane].poll().expect("the target serves");
                while let Some(done) = self.queues[lane].next_completion() {
                    assert!(done.status().is_success(), "a command failed: {:?}", done.status());
                    ended += 1;
                    drop(done);
                    if sent < count {
                        self.submit(lane, work);
                        sent += 1;
                    }
                }
            }
        }
    }
}

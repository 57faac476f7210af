//! A host's view of a namespace over NVMe/TCP: whole pieces written, read and compared.

use std::net::SocketAddr;
use std::time::Duration;

use mdof::initiator::{Client, ClientOptions, QueuePair};
use mdof::reactor::buf::{BufPool, IoBuf};

const BLOCK: usize = 512;

/// Blocks of one request.
const PIECE_BLOCKS: u64 = 64;

/// A connected host with one I/O queue, on namespace 1.
pub struct Host {
    _client: Client,
    queue: QueuePair,
    pool: BufPool,
    /// Size of the namespace.
    pub blocks: u64,
}

impl Host {
    /// Connects.
    pub fn connect(port: u16, nqn: &str) -> Self {
        let pool = BufPool::on_heap([64, 16, 16, 0]);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut options = ClientOptions::new(address, nqn, "nqn.2026-01.io.mdof:host");
        options.limit = Duration::from_secs(20);
        let mut client = Client::connect(options, pool).unwrap();
        client.request_queues(1).unwrap();
        let blocks = client.identify_namespace(1).unwrap().blocks;
        let queue = client.open_io_queue(1, 32).unwrap();
        Self { _client: client, queue, pool, blocks }
    }

    fn end(&mut self) -> Option<IoBuf> {
        loop {
            self.queue.poll().unwrap();
            if let Some(completion) = self.queue.next_completion() {
                assert!(completion.status().is_success(), "{:?}", completion.status());
                return completion.buf;
            }
        }
    }

    /// Writes blocks, each with content of its own for this version.
    pub fn write(&mut self, lba: u64, blocks: u64, version: u8) {
        let mut at = lba;
        while at < lba + blocks {
            let piece = PIECE_BLOCKS.min(lba + blocks - at);
            let mut buf = self.pool.get(usize::try_from(piece).unwrap() * BLOCK).unwrap();
            for (own, block) in (at..).zip(buf.as_mut_slice().chunks_mut(BLOCK)) {
                fill(block, own, version);
            }
            self.queue.submit_write(1, at, u16::try_from(piece).unwrap(), buf, 0);
            self.end();
            at += piece;
        }
    }

    /// Reads blocks and compares them; version 0 is never written, and zero.
    pub fn check(&mut self, lba: u64, blocks: u64, version: u8) {
        let mut wanted = vec![0; BLOCK];
        let mut at = lba;
        while at < lba + blocks {
            let piece = PIECE_BLOCKS.min(lba + blocks - at);
            let buf = self.pool.get(usize::try_from(piece).unwrap() * BLOCK).unwrap();
            self.queue.submit_read(1, at, u16::try_from(piece).unwrap(), buf, 0);
            let buf = self.end().unwrap();
            for (own, block) in (at..).zip(buf.as_slice().chunks(BLOCK)) {
                fill(&mut wanted, own, version);
                assert!(block == wanted, "block {own} is not of version {version}");
            }
            at += piece;
        }
    }
}

fn fill(block: &mut [u8], lba: u64, version: u8) {
    block.fill(if version == 0 { 0 } else { version ^ 0x5a });
    if version != 0 {
        block[..8].copy_from_slice(&lba.to_le_bytes());
        block[8] = version;
    }
}

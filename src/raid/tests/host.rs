//! The host's view: what it wrote, what it was promised, and what it may therefore read.

use std::collections::HashMap;

use super::world::BLOCK;
use crate::bdev::{BdevIo, Completion, IoOp, IoStatus, Station, Tag};
use crate::reactor::buf::{BufPool, IoBuf};

/// What a block may hold, oldest first: the last version promised durable, then every later one
/// that was sent. The versions of failed or interrupted writes stay possible.
#[derive(Clone, Debug)]
struct Block {
    possible: Vec<u64>,
    /// The version that a read must return while the power stays on and no write is in flight;
    /// `None` when a write failed, so that any possible one may be there.
    latest: Option<u64>,
    writes_in_flight: usize,
    /// Versions taken off the front of `possible` so far: gives each a number for good.
    dropped: usize,
}

struct Sent {
    op: IoOp,
    fua: bool,
    lba: usize,
    blocks: usize,
    version: u64,
    buf: Option<IoBuf>,
    /// Flush: the number of the version of each block that was acknowledged when it was sent.
    covered: HashMap<usize, usize>,
    /// Read: for each block, the versions that were possible while it was under way.
    allowed: Vec<Vec<u64>>,
}

pub(super) struct Host {
    blocks: Vec<Block>,
    sent: HashMap<u32, Sent>,
    next_op: u32,
    next_version: u64,
    pub(super) acknowledged: u64,
    pub(super) failed: u64,
    pub(super) reads_checked: u64,
}

impl Host {
    pub(super) fn new(blocks: usize) -> Self {
        let block = Block { possible: vec![0], latest: Some(0), writes_in_flight: 0, dropped: 0 };
        Self {
            blocks: vec![block; blocks],
            sent: HashMap::new(),
            next_op: 0,
            next_version: 1,
            acknowledged: 0,
            failed: 0,
            reads_checked: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// Whether a write to the range is in flight: a host does not overlap its own writes.
    pub(super) fn is_being_written(&self, lba: usize, blocks: usize) -> bool {
        self.blocks[lba..lba + blocks].iter().any(|block| block.writes_in_flight > 0)
    }

    pub(super) fn make(
        &mut self,
        op: IoOp,
        fua: bool,
        lba: usize,
        blocks: usize,
        pool: &BufPool,
    ) -> BdevIo {
        let id = self.next_op;
        self.next_op += 1;
        let version = if op == IoOp::Write { self.next_version } else { 0 };
        self.next_version += 1;
        let mut buf = None;
        if matches!(op, IoOp::Read | IoOp::Write) {
            let mut data = pool.get(blocks * BLOCK).expect("the pool is large enough");
            for (index, block) in data.as_mut_slice().chunks_mut(BLOCK).enumerate() {
                let stamp = if op == IoOp::Write { version } else { u64::MAX };
                block.fill(0);
                if stamp != 0 {
                    block[..8].copy_from_slice(&stamp.to_le_bytes());
                    block[8..16].copy_from_slice(&((lba + index) as u64).to_le_bytes());
                }
            }
            buf = Some(data);
        }
        let mut sent = Sent {
            op,
            fua,
            lba,
            blocks,
            version,
            buf: buf.clone(),
            covered: HashMap::new(),
            allowed: Vec::new(),
        };
        self.note_sent(&mut sent);
        self.sent.insert(id, sent);
        BdevIo {
            op,
            fua,
            lba: lba as u64,
            blocks: u32::try_from(blocks).unwrap(),
            buf,
            completion: Completion::new(Tag { station: Station::App, part: 0, object: 0, op: id }),
        }
    }

    fn note_sent(&mut self, sent: &mut Sent) {
        match sent.op {
            IoOp::Read => {
                for block in &self.blocks[sent.lba..sent.lba + sent.blocks] {
                    sent.allowed.push(match block.latest {
                        Some(latest) if block.writes_in_flight == 0 => vec![latest],
                        _ => block.possible.clone(),
                    });
                }
            }
            IoOp::Flush => {
                for (lba, block) in self.blocks.iter().enumerate() {
                    // Zeroes may be there several times; those in flight are at the end.
                    let ended = &block.possible[..block.possible.len() - block.writes_in_flight];
                    let latest = block.latest.filter(|_| block.possible.len() > 1);
                    let at = ended.iter().rposition(|&one| Some(one) == latest);
                    sent.covered.extend(at.map(|at| (lba, block.dropped + at)));
                }
            }
            _ => {
                for lba in sent.lba..sent.lba + sent.blocks {
                    self.blocks[lba].possible.push(sent.version);
                    self.blocks[lba].writes_in_flight += 1;
                    // Reads that are under way may see it.
                    for read in self.sent.values_mut().filter(|read| read.op == IoOp::Read) {
                        if (read.lba..read.lba + read.blocks).contains(&lba) {
                            read.allowed[lba - read.lba].push(sent.version);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn done(&mut self, op: u32, status: IoStatus) {
        let sent = self.sent.remove(&op).expect("a request ends once");
        match sent.op {
            IoOp::Read => self.read_done(&sent, status),
            IoOp::Flush if status.is_ok() => {
                for (&lba, &number) in &sent.covered {
                    self.promise(lba, number);
                }
            }
            IoOp::Flush => {}
            _ => self.write_done(&sent, status),
        }
    }

    fn write_done(&mut self, sent: &Sent, status: IoStatus) {
        if status.is_ok() {
            self.acknowledged += 1;
        } else {
            self.failed += 1;
        }
        for lba in sent.lba..sent.lba + sent.blocks {
            let block = &mut self.blocks[lba];
            block.writes_in_flight -= 1;
            block.latest = status.is_ok().then_some(sent.version);
            if status.is_ok() && sent.fua {
                // A host does not overlap its writes, so this one is the last.
                let number = block.dropped + block.possible.len() - 1;
                self.promise(lba, number);
            }
        }
    }

    /// The version of that number survives a power cut: older ones can't come back.
    fn promise(&mut self, lba: usize, number: usize) {
        let block = &mut self.blocks[lba];
        let count = number.saturating_sub(block.dropped);
        block.possible.drain(..count);
        block.dropped += count;
    }

    fn read_done(&mut self, sent: &Sent, status: IoStatus) {
        if !status.is_ok() {
            self.failed += 1;
            return;
        }
        let data = sent.buf.as_ref().unwrap().as_slice();
        for (index, bytes) in data.chunks(BLOCK).enumerate() {
            let lba = sent.lba + index;
            let version = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let place = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
            assert!(version == 0 || place == lba as u64, "block {lba} holds block {place}");
            assert!(version != 0 || bytes.iter().all(|&byte| byte == 0), "{lba}: no zeroes");
            let allowed = &sent.allowed[index];
            assert!(allowed.contains(&version), "block {lba}: {version}, not one of {allowed:?}");
            self.reads_checked += 1;
            let block = &mut self.blocks[lba];
            if block.writes_in_flight == 0 && block.latest.is_none() {
                // What was read once is read again.
                block.latest = Some(version);
            }
        }
    }

    /// The array has lost power: every possible version may be there, and stays there once read.
    pub(super) fn power_cut(&mut self) {
        self.sent.clear();
        for block in &mut self.blocks {
            block.writes_in_flight = 0;
            block.latest = (block.possible.len() == 1).then(|| block.possible[0]);
        }
    }
}

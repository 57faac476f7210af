//! The host's view: what it wrote, what it was promised, and what it may therefore read.

use super::disk::{NOT_READ, stamp, stamp_of};
use super::oracle::violated;
use crate::bdev::{BdevIo, Completion, IoOp, IoStatus, Station, Tag};
use crate::reactor::buf::{BufPool, IoBuf};

/// One block. Versions are numbers of writes; 0 is zeroes.
#[derive(Clone, Debug)]
struct Block {
    /// What it may hold after a power cut, oldest first: the last version promised durable and
    /// every later one that was sent. Those of failed or interrupted writes stay possible.
    possible: Vec<u64>,
    /// What may be read now, apart from the write in flight: one version, unless a write failed
    /// or the power was cut since the last one that ended well.
    readable: Vec<u64>,
    /// The last write that ended, if its group ended well while the power has been on.
    acknowledged: Option<u64>,
    /// Changes in flight, and whether one of them is no discard of whole chunks.
    in_flight: u16,
    being_written: bool,
    /// Changes that were in flight at once, in any order to the array, are a group: the number
    /// of the first version of the last group and of the one before, and whether one failed.
    group: usize,
    group_before: usize,
    group_failed: bool,
    /// Versions taken off the front of `possible` so far: gives each a number for good.
    dropped: usize,
    /// Several versions stay readable although one was read: a fault since has changed which
    /// member is asked.
    unsettled: bool,
}

impl Block {
    /// Never written.
    fn untouched() -> Self {
        Self {
            possible: vec![0],
            readable: vec![0],
            acknowledged: None,
            in_flight: 0,
            being_written: false,
            group: 0,
            group_before: 0,
            group_failed: false,
            dropped: 0,
            unsettled: false,
        }
    }

    /// The versions of the last group.
    fn of_group(&self) -> &[u64] {
        &self.possible[self.group - self.dropped..]
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) op: IoOp,
    pub(super) fua: bool,
    pub(super) lba: usize,
    pub(super) blocks: usize,
    pub(super) version: u64,
    buf: Option<IoBuf>,
    /// Flush: the number of the version of each block that was acknowledged when it was sent.
    covered: Vec<(usize, usize)>,
    /// Read and compare: for each block, the versions that may be seen.
    allowed: Vec<Vec<u64>>,
    /// And the last group of changes, if it had ended when this was sent.
    after: Vec<Option<usize>>,
}

pub(super) struct Host {
    block_size: usize,
    chunk_blocks: usize,
    blocks: Vec<Block>,
    /// By id modulo the length.
    sent: Vec<Option<(u32, Request)>>,
    in_flight: usize,
    next_id: u32,
    next_version: u64,
    /// The array may grow: nobody knows of a chunk at its end that it is a whole one.
    pub(super) grows: bool,
    pub(super) writes: u64,
    pub(super) failed: u64,
    pub(super) blocks_read: u64,
}

/// Requests a host has in flight at most.
pub(super) const QUEUE_DEPTH: usize = 24;

impl Host {
    pub(super) fn new(blocks: usize, block_size: usize, chunk_blocks: usize) -> Self {
        Self {
            block_size,
            chunk_blocks,
            blocks: vec![Block::untouched(); blocks],
            sent: (0..QUEUE_DEPTH).map(|_| None).collect(),
            in_flight: 0,
            next_id: 0,
            next_version: 1,
            grows: false,
            writes: 0,
            failed: 0,
            blocks_read: 0,
        }
    }

    /// The array has become larger.
    pub(super) fn extend(&mut self, blocks: usize) {
        self.blocks.resize(blocks, Block::untouched());
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn last_version(&self) -> u64 {
        self.next_version - 1
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight < QUEUE_DEPTH
    }

    /// Whether a change of the range is in flight.
    pub(super) fn is_being_changed(&self, lba: usize, blocks: usize) -> bool {
        self.blocks[lba..lba + blocks].iter().any(|block| block.in_flight > 0)
    }

    /// Discards of whole chunks may overlap anything; a host does not overlap its other writes,
    /// because then members may end up with different ones of them, as with any RAID1.
    pub(super) fn may_send(&self, op: IoOp, lba: usize, blocks: usize) -> bool {
        self.is_of_whole_chunks(op, lba, blocks)
            || !self.blocks[lba..lba + blocks].iter().any(|block| block.being_written)
    }

    fn is_of_whole_chunks(&self, op: IoOp, lba: usize, blocks: usize) -> bool {
        let end = lba + blocks;
        matches!(op, IoOp::WriteZeroes | IoOp::Unmap)
            && lba.is_multiple_of(self.chunk_blocks)
            && (end.is_multiple_of(self.chunk_blocks) || end == self.len() && !self.grows)
    }

    /// Whether a write of data met another change of the block: either may have come first.
    pub(super) fn is_contested(&self, lba: usize) -> bool {
        let group = self.blocks[lba].of_group();
        group.len() > 1 && group.iter().any(|&version| version != 0)
    }

    /// Whether the block may hold this after a power cut.
    pub(super) fn may_hold(&self, lba: usize, version: u64) -> bool {
        self.blocks[lba].possible.contains(&version)
    }

    /// What the block holds, if nothing is under way that changes it.
    pub(super) fn acknowledged(&self, lba: usize) -> Option<u64> {
        let block = &self.blocks[lba];
        block.acknowledged.filter(|&it| block.in_flight == 0 && block.readable == [it])
    }

    pub(super) fn possible(&self, lba: usize) -> &[u64] {
        &self.blocks[lba].possible
    }

    /// A request, its id and its version.
    pub(super) fn make(
        &mut self,
        op: IoOp,
        fua: bool,
        lba: usize,
        blocks: usize,
        pool: &BufPool,
    ) -> (BdevIo, u32, u64) {
        let slot = self.sent.iter().position(Option::is_none).expect("room was asked for");
        let id = self.next_id * u32::try_from(QUEUE_DEPTH).unwrap() + u32::try_from(slot).unwrap();
        self.next_id += 1;
        let version = if op == IoOp::Write { self.next_version } else { 0 };
        self.next_version += 1;
        let mut buf = None;
        if matches!(op, IoOp::Read | IoOp::Write | IoOp::Compare) {
            let data = pool.get(blocks * self.block_size).expect("the pool is large enough");
            data.zero_range(0, data.len());
            for index in 0..blocks {
                let value = match op {
                    IoOp::Write => version,
                    IoOp::Compare => self.blocks[lba + index].readable[0],
                    _ => NOT_READ,
                };
                stamp(&data, self.block_size, index, lba + index, value);
            }
            buf = Some(data);
        }
        let mut request = Request {
            op,
            fua,
            lba,
            blocks,
            version,
            buf: buf.clone(),
            covered: Vec::new(),
            allowed: Vec::new(),
            after: Vec::new(),
        };
        self.note_sent(&mut request);
        self.sent[slot] = Some((id, request));
        self.in_flight += 1;
        let io = BdevIo {
            op,
            fua,
            lba: lba as u64,
            blocks: u32::try_from(blocks).unwrap(),
            buf,
            completion: Completion::new(Tag { station: Station::App, part: 0, object: 0, op: id }),
        };
        (io, id, version)
    }

    fn note_sent(&mut self, request: &mut Request) {
        let range = request.lba..request.lba + request.blocks;
        match request.op {
            IoOp::Read | IoOp::Compare => {
                for block in &self.blocks[range] {
                    let mut allowed = block.readable.clone();
                    if block.in_flight > 0 {
                        allowed.extend(block.of_group());
                    }
                    request.allowed.push(allowed);
                    request.after.push((block.in_flight == 0).then_some(block.group));
                }
            }
            IoOp::Flush => {
                for (lba, block) in self.blocks.iter().enumerate() {
                    if block.acknowledged.is_some() && block.possible.len() > 1 {
                        let is_going_on = block.in_flight > 0;
                        let group = if is_going_on { block.group_before } else { block.group };
                        request.covered.push((lba, group));
                    }
                }
            }
            IoOp::Write | IoOp::WriteZeroes | IoOp::Unmap => {
                let is_discard = self.is_of_whole_chunks(request.op, request.lba, request.blocks);
                for lba in range {
                    let block = &mut self.blocks[lba];
                    if block.in_flight == 0 {
                        let group = block.dropped + block.possible.len();
                        block.group_before = std::mem::replace(&mut block.group, group);
                        block.group_failed = false;
                    }
                    block.possible.push(request.version);
                    block.in_flight += 1;
                    block.being_written |= !is_discard;
                    self.allow_more(lba, request.version);
                }
            }
        }
    }

    /// Reads that are under way may see this version too.
    fn allow_more(&mut self, lba: usize, version: u64) {
        for (_, read) in self.sent.iter_mut().flatten() {
            if !read.allowed.is_empty() && (read.lba..read.lba + read.blocks).contains(&lba) {
                read.allowed[lba - read.lba].push(version);
            }
        }
    }

    /// Members may hold different versions of the blocks and a fault changes which one is asked:
    /// what was not acknowledged may change once more.
    pub(super) fn unsettle(&mut self, lba: usize, blocks: usize) {
        for lba in lba..lba + blocks {
            let block = &mut self.blocks[lba];
            if block.acknowledged.is_some() || block.possible.len() == 1 {
                continue;
            }
            block.unsettled = true;
            block.readable.clone_from(&block.possible);
            for at in 0..self.blocks[lba].possible.len() {
                let version = self.blocks[lba].possible[at];
                self.allow_more(lba, version);
            }
        }
    }

    /// A request has ended; the caller looks at what it was.
    pub(super) fn done(&mut self, id: u32, status: IoStatus) -> Request {
        let slot = id as usize % QUEUE_DEPTH;
        let (sent_id, request) = self.sent[slot].take().expect("a request ends once");
        assert_eq!(sent_id, id);
        self.in_flight -= 1;
        self.failed += u64::from(!matches!(
            status,
            IoStatus::Ok | IoStatus::CompareMismatch | IoStatus::Unsupported
        ));
        match request.op {
            IoOp::Read if status.is_ok() => self.read_done(&request),
            IoOp::Compare => compare_done(&request, self.block_size, status),
            IoOp::Flush if status.is_ok() => {
                for &(lba, number) in &request.covered {
                    self.promise(lba, number);
                }
            }
            IoOp::Read | IoOp::Flush => {}
            IoOp::Write | IoOp::WriteZeroes | IoOp::Unmap => {
                self.write_done(&request, status.is_ok());
            }
        }
        request
    }

    fn write_done(&mut self, request: &Request, ok: bool) {
        self.writes += 1;
        let is_discard = self.is_of_whole_chunks(request.op, request.lba, request.blocks);
        for lba in request.lba..request.lba + request.blocks {
            let block = &mut self.blocks[lba];
            block.in_flight -= 1;
            block.being_written &= is_discard;
            block.group_failed |= !ok;
            block.acknowledged = (!block.group_failed).then_some(request.version);
            block.unsettled = block.group_failed;
            if ok {
                block.readable = block.of_group().to_vec();
            } else {
                block.readable.push(request.version);
            }
            if ok && request.fua {
                let number = block.group;
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

    fn read_done(&mut self, request: &Request) {
        let buf = request.buf.as_ref().unwrap();
        for (index, allowed) in request.allowed.iter().enumerate() {
            let lba = request.lba + index;
            let version = stamp_of(buf, self.block_size, index, lba)
                .unwrap_or_else(|what| violated(3, &what));
            if !allowed.contains(&version) {
                violated(3, &format!("block {lba} reads v{version}, allowed are {allowed:?}"));
            }
            self.blocks_read += 1;
            let block = &mut self.blocks[lba];
            // What was read once is read again.
            let is_last = block.in_flight == 0 && request.after[index] == Some(block.group);
            if !block.unsettled && is_last && block.readable.contains(&version) {
                block.readable.clear();
                block.readable.push(version);
            }
        }
    }

    /// The array has lost power: every possible version may be there, and stays there once read.
    pub(super) fn power_cut(&mut self) {
        self.sent.iter_mut().for_each(|sent| *sent = None);
        self.in_flight = 0;
        for block in &mut self.blocks {
            block.in_flight = 0;
            block.being_written = false;
            block.acknowledged = None;
            block.unsettled = false;
            block.readable.clone_from(&block.possible);
        }
    }

    /// The array has stopped in order: what was acknowledged is durable.
    pub(super) fn stopped(&mut self) {
        assert_eq!(self.in_flight, 0);
        for lba in 0..self.blocks.len() {
            let block = &self.blocks[lba];
            if block.acknowledged.is_some() {
                self.promise(lba, block.group);
            }
        }
    }
}

fn compare_done(request: &Request, block_size: usize, status: IoStatus) {
    let buf = request.buf.as_ref().unwrap();
    let given = |index| stamp_of(buf, block_size, index, request.lba + index).expect("our own");
    let mut allowed = request.allowed.iter().enumerate();
    match status {
        IoStatus::Ok if !allowed.all(|(index, allowed)| allowed.contains(&given(index))) => {
            violated(3, &format!("a compare at block {} found what can't be there", request.lba));
        }
        IoStatus::CompareMismatch
            if allowed.all(|(index, allowed)| allowed.iter().all(|&one| one == given(index))) =>
        {
            violated(3, &format!("a compare at block {} missed what is there", request.lba));
        }
        _ => {}
    }
}

//! One connection under load, and the loop that polls several.

use std::time::Duration;

use mdof::initiator::{Data, QueuePair};
use mdof::reactor::buf::{BufPool, IoBuf};
use mdof::reactor::clock;
use mdof::wire::nvme::{Sqe, Status, opcode};
use zerocopy::FromZeros;

use super::Namespace;
use crate::job::{Job, PerfError};
use crate::load::{Load, Request};
use crate::pattern::{Direction, Extent};
use crate::random::Random;
use crate::stats::Tally;

/// A target that says nothing for this long is given up.
const PATIENCE_NS: u64 = 30_000_000_000;
/// Turns without anything between two looks at the clock.
const IDLE_TURNS: u32 = 1024;

/// One connection and its load.
#[derive(Debug)]
pub(super) struct Lane {
    queue: QueuePair,
    load: Load,
    /// Buffers of requests that are not in flight, by slot.
    bufs: Vec<Option<IoBuf>>,
}

/// Runs the lanes of a thread to their end. Nothing is allocated here.
pub(super) fn measure(lanes: &mut [Lane], nsid: u32) -> Result<(), PerfError> {
    let mut idle_turns = 0;
    let mut last_work_ns = clock::now_ns();
    lanes.iter_mut().for_each(|lane| lane.submit(nsid, last_work_ns));
    while !lanes.iter().all(|lane| lane.load.is_finished()) {
        let mut worked = false;
        for lane in lanes.iter_mut() {
            worked |= lane.turn(nsid)?;
        }
        idle_turns = if worked { 0 } else { idle_turns + 1 };
        if idle_turns == 0 {
            last_work_ns = 0;
        } else if idle_turns % IDLE_TURNS == 0 {
            let now_ns = clock::now_ns();
            if last_work_ns == 0 {
                last_work_ns = now_ns;
            } else if now_ns - last_work_ns > PATIENCE_NS {
                let seconds = Duration::from_nanos(PATIENCE_NS).as_secs();
                return Err(PerfError(format!(
                    "no command has ended for {seconds} s; the target hangs or the network is gone"
                )));
            }
        }
    }
    Ok(())
}

impl Lane {
    /// Connection `number` with buffers for its queue depth, full of noise.
    pub(super) fn new(
        namespace: &Namespace,
        job: &Job,
        extent: Extent,
        queue: QueuePair,
        number: u16,
        pool: BufPool,
    ) -> Self {
        let io_bytes = job.block_size_bytes as usize;
        let mut random = Random::new(job.seed ^ u64::from(number));
        let buf = |_| {
            let mut buf = pool.get(io_bytes).expect("the pool was made for these");
            buf.as_mut_slice().chunks_mut(8).for_each(|chunk| {
                let bytes = random.next().to_le_bytes();
                chunk.copy_from_slice(&bytes[..chunk.len()]);
            });
            Some(buf)
        };
        let bufs = (0..job.queue_depth).map(buf).collect();
        let lane = (u32::from(number), u32::from(namespace.connections.max(1)));
        Self { queue, load: job.load(extent, lane, clock::now_ns()), bufs }
    }

    /// The figures.
    pub(super) fn into_tally(self) -> Tally {
        self.load.into_tally()
    }

    /// Sends, receives, and replaces what has ended. Whether anything has.
    fn turn(&mut self, nsid: u32) -> Result<bool, PerfError> {
        self.queue.poll()?;
        let Some(mut done) = self.queue.next_completion() else { return Ok(false) };
        let now_ns = clock::now_ns();
        loop {
            let slot = u32::try_from(done.tag).expect("tags are slots");
            self.bufs[slot as usize] = done.buf.take();
            if !done.status().is_success() {
                self.load.failed(slot);
                return Err(refused(done.status()));
            }
            self.load.ended(slot, || now_ns);
            match self.queue.next_completion() {
                Some(next) => done = next,
                None => break,
            }
        }
        self.submit(nsid, now_ns);
        Ok(true)
    }

    fn submit(&mut self, nsid: u32, now_ns: u64) {
        while self.queue.can_submit() {
            let Some(request) = self.load.next(|| now_ns) else { return };
            let buf = self.bufs[request.slot as usize].take().expect("the slot is free");
            let data = match request.direction {
                Direction::Read => Data::ToHost(buf),
                Direction::Write => Data::ToController(buf),
            };
            self.queue.submit(command(nsid, &request), data, request.slot.into());
        }
    }
}

pub(super) fn command(nsid: u32, request: &Request) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = match request.direction {
        Direction::Read => opcode::nvm::READ,
        Direction::Write => opcode::nvm::WRITE,
    };
    sqe.nsid.set(nsid);
    let (low, high) = (request.lba & u64::from(u32::MAX), request.lba >> 32);
    sqe.cdw10.set(u32::try_from(low).expect("masked"));
    sqe.cdw11.set(u32::try_from(high).expect("shifted"));
    sqe.cdw12.set(request.blocks - 1);
    sqe
}

fn refused(status: Status) -> PerfError {
    PerfError(format!("a command failed with {status:?}; the measurement was stopped"))
}

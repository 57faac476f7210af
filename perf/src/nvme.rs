//! A job on an NVMe/TCP namespace: one polling thread a core, each with a controller and
//! connections of its own.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use mdof::initiator::{Client, ClientError, ClientOptions, Data, HOST_QUEUE_DEPTH_MAX, QueuePair};
use mdof::reactor::buf::{BufPool, CLASS_SIZES_BYTES, IoBuf};
use mdof::reactor::clock;
use mdof::wire::nvme::{Sqe, Status, opcode};
use serde::Serialize;
use zerocopy::FromZeros;

use crate::cpu;
use crate::job::{Job, PerfError};
use crate::load::{Load, Request};
use crate::pattern::{Direction, Extent};
use crate::random::Random;
use crate::stats::Tally;

/// A namespace and how to reach it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Namespace {
    /// Address of the listener.
    pub(crate) addr: SocketAddr,
    /// Subsystem.
    pub(crate) nqn: String,
    /// Name of this host.
    pub(crate) host_nqn: String,
    /// Namespace.
    pub(crate) nsid: u32,
    /// Ask for header digests.
    pub(crate) header_digest: bool,
    /// Ask for data digests.
    pub(crate) data_digest: bool,
    /// I/O queues, each a connection.
    pub(crate) connections: u16,
    /// CPUs of the polling threads; empty: one thread, not pinned.
    pub(crate) cores: Vec<usize>,
}

/// A target that says nothing for this long is given up.
const PATIENCE_NS: u64 = 30_000_000_000;
/// Turns without anything between two looks at the clock.
const IDLE_TURNS: u32 = 1024;

impl From<ClientError> for PerfError {
    fn from(error: ClientError) -> Self {
        Self(error.to_string())
    }
}

/// Measures `job` on `namespace`: a tally for each connection.
pub(crate) fn run(namespace: &Namespace, job: &Job) -> Result<Vec<Tally>, PerfError> {
    let shares = shares(namespace);
    std::thread::scope(|scope| {
        let (ready, all_ready) = mpsc::channel();
        let mut threads = Vec::new();
        for share in &shares {
            // A thread that gets no signal, because another has failed, ends.
            let (go, wait) = mpsc::sync_channel(1);
            let ready = ready.clone();
            let work = move || work(namespace, job, share, &ready, &wait);
            threads.push((scope.spawn(work), go));
        }
        if all_ready.iter().take(shares.len()).all(|is_ready| is_ready) {
            for (_, go) in &threads {
                go.send(()).expect("a thread that is ready waits for this");
            }
        }
        let mut tallies = Vec::new();
        let mut first_error = None;
        for (thread, go) in threads {
            drop(go);
            match thread.join().expect("a worker does not panic") {
                Ok(mut own) => tallies.append(&mut own),
                Err(Ended::Error(error)) => first_error = first_error.or(Some(error)),
                Err(Ended::NotStarted) => {}
            }
        }
        first_error.map_or(Ok(tallies), Err)
    })
}

/// What one thread does.
#[derive(Debug, PartialEq, Eq)]
struct Share {
    cpu: Option<usize>,
    /// Number of its first connection, among all.
    first_lane: u16,
    /// Its connections.
    lanes: u16,
}

/// Deals the connections out to the threads.
fn shares(namespace: &Namespace) -> Vec<Share> {
    let connections = namespace.connections.max(1);
    let cores: Vec<Option<usize>> = if namespace.cores.is_empty() {
        vec![None]
    } else {
        namespace.cores.iter().copied().map(Some).collect()
    };
    let threads = u16::try_from(cores.len()).unwrap_or(u16::MAX).min(connections);
    let mut first_lane = 0;
    let share = |(index, cpu): (u16, Option<usize>)| {
        let lanes = connections / threads + u16::from(index < connections % threads);
        let share = Share { cpu, first_lane, lanes };
        first_lane += lanes;
        share
    };
    (0..threads).zip(cores).map(share).collect()
}

/// Why a thread has no figures.
#[derive(Debug)]
enum Ended {
    /// It failed.
    Error(PerfError),
    /// Another failed before the start.
    NotStarted,
}

impl<E: Into<PerfError>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// One connection and its load.
#[derive(Debug)]
struct Lane {
    queue: QueuePair,
    load: Load,
    /// Buffers of requests that are not in flight, by slot.
    bufs: Vec<Option<IoBuf>>,
}

fn work(
    namespace: &Namespace,
    job: &Job,
    share: &Share,
    ready: &mpsc::Sender<bool>,
    go: &mpsc::Receiver<()>,
) -> Result<Vec<Tally>, Ended> {
    let prepared = prepare(namespace, job, share);
    ready.send(prepared.is_ok()).expect("the one who started this waits for it");
    let Prepared { client, queues, extent, pool } = prepared?;
    go.recv().map_err(|_| Ended::NotStarted)?;
    let mut lanes: Vec<Lane> = queues
        .into_iter()
        .zip(share.first_lane..)
        .map(|(queue, number)| lane(namespace, job, extent, queue, number, pool))
        .collect();
    measure(&mut lanes, namespace.nsid)?;
    let tallies = lanes.into_iter().map(|lane| lane.load.into_tally()).collect();
    client.disconnect()?;
    Ok(tallies)
}

/// What a thread has before it starts.
#[derive(Debug)]
struct Prepared {
    client: Client,
    queues: Vec<QueuePair>,
    extent: Extent,
    pool: BufPool,
}

fn prepare(namespace: &Namespace, job: &Job, share: &Share) -> Result<Prepared, PerfError> {
    if let Some(cpu) = share.cpu {
        cpu::pin(cpu)?;
    }
    let pool = pool(job, share.lanes);
    let mut options = ClientOptions::new(namespace.addr, &namespace.nqn, &namespace.host_nqn);
    options.header_digest = namespace.header_digest;
    options.data_digest = namespace.data_digest;
    let mut client = Client::connect(options, pool)?;
    let extent = check(namespace, job, share, &mut client)?;
    let mut queues = Vec::new();
    for queue_id in 1..=share.lanes {
        // A queue of n entries takes n - 1 commands.
        queues.push(client.open_io_queue(queue_id, job.queue_depth + 1)?);
    }
    Ok(Prepared { client, queues, extent, pool })
}

/// Whether the controller can do the job; the blocks to work on.
fn check(
    namespace: &Namespace,
    job: &Job,
    share: &Share,
    client: &mut Client,
) -> Result<Extent, PerfError> {
    let info = client.info();
    let addr = namespace.addr;
    if job.block_size_bytes > info.mdts_bytes {
        return Err(PerfError(format!(
            "the controller at {addr} transfers at most {} bytes a command (MDTS); use a smaller \
             --bs",
            info.mdts_bytes
        )));
    }
    // CAP.MQES, bits 15:0, 0's based: entries of a queue, one of which stays empty.
    let depth_max = info.cap & 0xffff;
    let depth_max = depth_max.min(HOST_QUEUE_DEPTH_MAX as u64);
    if u64::from(job.queue_depth) > depth_max {
        return Err(PerfError(format!(
            "the controller at {addr} takes {depth_max} commands a queue; use a smaller --qd and \
             more --connections"
        )));
    }
    let granted = client.request_queues(share.lanes)?;
    if granted < share.lanes {
        return Err(PerfError(format!(
            "the controller at {addr} grants {granted} I/O queues, {} are needed",
            share.lanes
        )));
    }
    let found = client.identify_namespace(namespace.nsid)?;
    if found.blocks == 0 {
        let Namespace { nqn, nsid, .. } = namespace;
        return Err(PerfError(format!("{nqn} at {addr} has no namespace {nsid}")));
    }
    job.extent(found.blocks, found.block_size_bytes)
}

/// One buffer for each request, and some for the admin queue.
fn pool(job: &Job, lanes: u16) -> BufPool {
    let io_bytes = job.block_size_bytes as usize;
    let class = CLASS_SIZES_BYTES.iter().position(|size| *size >= io_bytes);
    let mut counts = [8, 0, 0];
    counts[class.expect("Job::check")] += usize::from(job.queue_depth) * usize::from(lanes);
    BufPool::on_heap(counts)
}

fn lane(
    namespace: &Namespace,
    job: &Job,
    extent: Extent,
    queue: QueuePair,
    number: u16,
    pool: BufPool,
) -> Lane {
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
    Lane { queue, load: job.load(extent, lane, clock::now_ns()), bufs }
}

/// Runs the lanes of a thread to their end. Nothing is allocated here.
fn measure(lanes: &mut [Lane], nsid: u32) -> Result<(), PerfError> {
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

fn command(nsid: u32, request: &Request) -> Sqe {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}

//! A job on an NVMe/TCP namespace: one polling thread a core, each with a controller and
//! connections of its own.

mod lane;

use std::net::SocketAddr;
use std::sync::mpsc;

use mdof::initiator::{Client, ClientError, ClientOptions, HOST_QUEUE_DEPTH_MAX, QueuePair};
use mdof::reactor::buf::{BufPool, CLASS_SIZES_BYTES};
use serde::Serialize;

use crate::cpu;
use crate::job::{Job, PerfError};
use crate::keys::Keys;
use crate::pattern::Extent;
use crate::stats::Tally;
use lane::Lane;

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
    /// Under TLS.
    pub(crate) tls: bool,
    /// Keys of this host.
    #[serde(skip)]
    pub(crate) keys: Keys,
}

impl From<ClientError> for PerfError {
    fn from(error: ClientError) -> Self {
        let hint = match &error {
            ClientError::Status { what: "Fabrics Connect", .. } => {
                "; is the NQN right, and may this host connect?"
            }
            _ => "",
        };
        Self(format!("{error}{hint}"))
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
        .map(|(queue, number)| Lane::new(namespace, job, extent, queue, number, pool))
        .collect();
    lane::measure(&mut lanes, namespace.nsid)?;
    let tallies = lanes.into_iter().map(|lane| lane.into_tally()).collect();
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
    options.auth = namespace.keys.auth();
    if namespace.tls {
        options.tls = namespace.keys.tls(&namespace.host_nqn, &namespace.nqn);
    }
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
    let mut counts = [8, 0, 0, 0];
    counts[class.expect("Job::check")] += usize::from(job.queue_depth) * usize::from(lanes);
    BufPool::on_heap(counts)
}

#[cfg(test)]
mod tests;

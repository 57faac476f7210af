//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::ab::{Comparison, NAMED, Reach};
use crate::job::{Job, PerfError};
use crate::keys::KeyArgs;
use crate::pattern::Access;
use crate::place::{Address, Level, Place, parse_raid1};
use crate::table;
use crate::units::{parse_duration, parse_size};
use crate::versus;

const ABOUT: &str = "Measures mdof: bdevs in this process, or any NVMe/TCP namespace";

const EXAMPLES: &str = "\
Examples:
  mdof-perf --bdev null:1g --rw randread          a bdev, no network
  mdof-perf --raid1 null,null --rw randwrite      an array with the lockless bitmap
  mdof-perf --raid1 null,null --bitmap none --rw randwrite
  mdof-perf --addr 127.0.0.1:4420 --nqn nqn.2026-01.io.mdof:demo --rw randrw --core 1 --json
  mdof-perf ab raid1-bitmap                       with the bitmap against without, in turns
  mdof-perf ab --a nvme:HOST:4420/NQN --b nvme:HOST:4421/NQN
  mdof-perf ab --a nvme:HOST:4420/NQN --b nvme+tls:HOST:4421/NQN2 --tls-psk KEYFILE
  mdof-perf versus --ours 127.0.0.1:4420 --ours-pid 100 --peer 127.0.0.1:4430 --peer-pid 101
  mdof-perf idle; mdof-perf ready                 target/release/mdof with the demo's array

Writing over NVMe/TCP destroys what the namespace holds.";

/// The command line of `mdof-perf`.
#[derive(Debug, Parser)]
#[command(name = "mdof-perf", version, about = ABOUT, after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compare two variants in turns
    Ab(Box<AbArgs>),
    /// A target against another, job by job, in turns: a table
    Versus(Box<VersusArgs>),
    /// 4 KiB random writes without, with a classic and with the lockless bitmap: a table
    LlbitmapTable(Box<TableArgs>),
    /// Small random and large sequential requests on every level of RAID: a table
    Levels {
        /// Size of the members
        #[arg(long, value_name = "SIZE", default_value = "256m", value_parser = parse_size)]
        member_size: u64,
        /// Rounds, in each of which every cell has its turn
        #[arg(long, value_name = "N", default_value_t = 5)]
        rounds: u32,
        /// How long to measure a cell in a round
        #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = parse_duration)]
        time: Duration,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Whether the daemon's pass over a large bitmap holds up host writes
    DaemonPass {
        /// Size of the members
        #[arg(long, value_name = "SIZE", default_value = "16t", value_parser = parse_size)]
        size: u64,
        /// Rounds, each with and without the daemon, from each of two cores
        #[arg(long, value_name = "N", default_value_t = 5)]
        rounds: u32,
        /// How long writes count in each
        #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
        time: Duration,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// A rebuild beside a plain copy, and host latency without one, with one and with one that
    /// yields
    Rebuild {
        /// Size of the memory bdevs
        #[arg(long, value_name = "SIZE", default_value = "1g", value_parser = parse_size)]
        size: u64,
        /// Rounds
        #[arg(long, value_name = "N", default_value_t = 5)]
        rounds: u32,
        /// How long host requests count in each
        #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
        time: Duration,
        /// Host requests in flight
        #[arg(long, value_name = "N", default_value_t = 8)]
        queue_depth: u16,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// How long the host has no answer while an array grows under its requests
    Growth {
        /// What the array takes of its members at first, and how much more in each growth
        #[arg(long, value_name = "SIZE", default_value = "64m", value_parser = parse_size)]
        size: u64,
        /// Growths
        #[arg(long, value_name = "N", default_value_t = 9)]
        growths: u32,
        /// Host requests in flight, on each core
        #[arg(long, value_name = "N", default_value_t = 32)]
        queue_depth: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// CPU time and memory of a target that nobody uses
    Idle {
        /// The target's program
        #[arg(long, value_name = "FILE", default_value = "target/release/mdof")]
        mdof: PathBuf,
        /// How long to look
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
        time: Duration,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Time from exec until the demo's array is served
    Ready {
        /// The target's program
        #[arg(long, value_name = "FILE", default_value = "target/release/mdof")]
        mdof: PathBuf,
        /// Starts to measure
        #[arg(long, value_name = "N", default_value_t = 5)]
        rounds: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// A job on one place.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// NVMe/TCP listener to connect to
    #[arg(long, value_name = "ADDRESS:PORT", requires = "nqn", group = "place")]
    addr: Option<SocketAddr>,
    /// Subsystem at that address
    #[arg(long, requires = "addr")]
    nqn: Option<String>,
    /// Namespace in that subsystem
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    nsid: u32,
    /// Bdev in this process: null:SIZE, malloc:SIZE, raid1:MEMBERS, raid1-nobitmap:MEMBERS; with
    /// --config the name of one
    #[arg(long, value_name = "BDEV", group = "place")]
    bdev: Option<String>,
    /// Array in this process, of members such as null,null or null:4g,malloc:4g
    #[arg(long, value_name = "MEMBERS", group = "place")]
    raid1: Option<String>,
    /// The array's bitmap
    #[arg(long, value_enum, default_value_t = Bitmap::Lockless)]
    #[arg(conflicts_with_all = ["bdev", "addr"])]
    bitmap: Bitmap,
    /// Configuration file of the target with the bdev's [[bdev]] and [[array]] sections
    #[arg(long, value_name = "FILE", requires = "bdev")]
    pub(crate) config: Option<PathBuf>,
    /// Measure first writes to chunks, too, instead of writing to all before
    #[arg(long)]
    pub(crate) no_prefill: bool,
    #[command(flatten)]
    reach: ReachArgs,
    #[command(flatten)]
    job: JobArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bitmap {
    /// md's lockless bitmap
    Lockless,
    /// No bitmap
    None,
}

/// How to reach what is measured.
#[derive(Debug, Args)]
struct ReachArgs {
    /// CPUs: of the polling threads over NVMe/TCP [default: one thread, not pinned], of the
    /// engine in-process [default: the last usable one]
    #[arg(long, value_name = "CPU,...", value_delimiter = ',')]
    core: Vec<usize>,
    /// Connections over NVMe/TCP, each an I/O queue of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// NQN of this host
    #[arg(long, value_name = "NQN", default_value = "nqn.2026-01.io.mdof:perf")]
    hostnqn: String,
    /// Header digests
    #[arg(long)]
    hdgst: bool,
    /// Data digests
    #[arg(long)]
    ddgst: bool,
    #[command(flatten)]
    keys: KeyArgs,
}

/// The job, where it differs from the default.
#[derive(Debug, Args)]
struct JobArgs {
    /// What to do [default: randread]
    #[arg(long, value_enum)]
    rw: Option<Access>,
    /// Reads in a hundred requests of rw and randrw [default: 70]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    rwmixread: Option<u8>,
    /// Size of a request [default: 4k]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    bs: Option<u64>,
    /// Requests in flight, on each connection or in-process core [default: 32]
    #[arg(long, visible_alias = "iodepth", value_name = "N")]
    qd: Option<u16>,
    /// How long to measure [default: 10s; ab: 2s a round and variant]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    time: Option<Duration>,
    /// How long to run before [default: 1s; ab: 20ms a slice]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    warm_up: Option<Duration>,
    /// Seed of the random numbers [default: 1]
    #[arg(long)]
    seed: Option<u64>,
    /// Choose places by a Zipf distribution with this skew instead of evenly
    #[arg(long, value_name = "THETA")]
    zipf: Option<f64>,
    /// First byte to touch [default: 0]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    offset: Option<u64>,
    /// Bytes to touch from there [default: all]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
    /// Take the latency of one request in N only, as looking at the clock costs time, too
    /// [default: 1; ab: 16]
    #[arg(long, value_name = "N")]
    sample: Option<u32>,
}

impl JobArgs {
    fn job(&self, default: Job) -> Result<Job, PerfError> {
        let too_large = |_| PerfError("the block size is too large".to_owned());
        let io_bytes = self.bs.map(u32::try_from).transpose().map_err(too_large)?;
        let job = Job {
            rw: self.rw.unwrap_or(default.rw),
            rwmixread: self.rwmixread.unwrap_or(default.rwmixread),
            block_size_bytes: io_bytes.unwrap_or(default.block_size_bytes),
            queue_depth: self.qd.unwrap_or(default.queue_depth),
            seed: self.seed.unwrap_or(default.seed),
            zipf_theta: self.zipf.or(default.zipf_theta),
            offset_bytes: self.offset.unwrap_or(default.offset_bytes),
            size_bytes: self.size.or(default.size_bytes),
            warm_up: self.warm_up.unwrap_or(default.warm_up),
            time: self.time.unwrap_or(default.time),
            sample_every: self.sample.unwrap_or(default.sample_every),
        };
        job.check()?;
        Ok(job)
    }
}

impl ReachArgs {
    fn reach(&self) -> Result<Reach, PerfError> {
        Ok(Reach {
            cores: self.core.clone(),
            host_nqn: self.hostnqn.clone(),
            header_digest: self.hdgst,
            data_digest: self.ddgst,
            connections: self.connections,
            keys: self.keys.read()?,
        })
    }
}

/// What a run is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A place as text names it.
    Place(Place),
    /// A bdev of a configuration file.
    Configured {
        /// The file.
        config: PathBuf,
        /// The bdev's name.
        bdev: String,
    },
}

impl RunArgs {
    /// What, how reached, and which job.
    pub(crate) fn resolve(&self) -> Result<(Subject, Reach, Job), PerfError> {
        let reach = self.reach.reach()?;
        let subject = self.subject(reach.keys.psk.is_some())?;
        Ok((subject, reach, self.job.job(Job::default())?))
    }

    fn subject(&self, tls: bool) -> Result<Subject, PerfError> {
        if let (Some(addr), Some(nqn)) = (self.addr, &self.nqn) {
            let address = Address { addr, nqn: nqn.clone(), nsid: self.nsid, tls };
            return Ok(Subject::Place(Place::NvmeTcp(address)));
        }
        if let Some(members) = &self.raid1 {
            let stack = parse_raid1(members, self.bitmap == Bitmap::Lockless)?;
            return Ok(Subject::Place(Place::InProcess(stack)));
        }
        match (&self.bdev, &self.config) {
            (Some(bdev), Some(config)) => {
                Ok(Subject::Configured { config: config.clone(), bdev: bdev.clone() })
            }
            (Some(bdev), None) => Ok(Subject::Place(Place::parse(bdev)?)),
            (None, _) => Err(PerfError(
                "say what to measure: --addr and --nqn, --bdev or --raid1 (mdof-perf --help has \
                 examples)"
                    .to_owned(),
            )),
        }
    }
}

/// The table of bitmaps.
#[derive(Debug, Args)]
pub(crate) struct TableArgs {
    /// Folder for the files that are members; they are sparse and go with the measurement. On a
    /// disk that others use, too, or that is slow to forget files, this takes long
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    dir: PathBuf,
    /// Size of the members in memory, which take none
    #[arg(long, value_name = "SIZE", default_value = "32g", value_parser = parse_size)]
    memory_size: u64,
    /// Size of the files
    #[arg(long, value_name = "SIZE", default_value = "2g", value_parser = parse_size)]
    file_size: u64,
    /// Rounds, in each of which every cell has its turn [default: 5; with --quick: 3]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// How long to measure a cell in a round [default: 3s; with --quick: 500ms]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    time: Option<Duration>,
    /// Requests in flight; at 32 the members of memory are what keeps a core waiting
    #[arg(long, visible_alias = "iodepth", value_name = "N", default_value_t = 128)]
    qd: u16,
    /// Members of this kind only
    #[arg(long, value_enum, value_name = "KIND")]
    members: Option<table::Backing>,
    /// Only this level: raid1, raid10 or raid5
    #[arg(long, value_enum, value_name = "LEVEL")]
    level: Option<Level>,
    /// Leave out the classic bitmap
    #[arg(long)]
    no_classic: bool,
    /// A first impression in a minute
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl TableArgs {
    /// What to measure.
    pub(crate) fn options(&self) -> table::Options {
        let (rounds, time_ms) = if self.quick { (3, 500) } else { (5, 3000) };
        table::Options {
            dir: self.dir.clone(),
            memory_size_bytes: self.memory_size,
            file_size_bytes: self.file_size,
            rounds: self.rounds.unwrap_or(rounds),
            time: self.time.unwrap_or(Duration::from_millis(time_ms)),
            queue_depth: self.qd,
            members: self.members,
            level: self.level,
            classic: !self.no_classic,
        }
    }
}

/// Two targets.
#[derive(Debug, Args)]
pub(crate) struct VersusArgs {
    /// Listener of the target that is judged
    #[arg(long, value_name = "ADDRESS:PORT")]
    ours: SocketAddr,
    /// Its process, if on this machine. With both processes each is stopped (SIGSTOP) while the
    /// other is measured, so that both may poll on the same CPU
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(2..))]
    ours_pid: Option<i32>,
    /// Its JSON-RPC socket. With both, requests by the time that the targets' cores were busy are
    /// shown, too (framework_get_reactors, nvmf_get_stats)
    #[arg(long, value_name = "SOCKET")]
    ours_rpc: Option<PathBuf>,
    /// Listener of the target that it is compared with
    #[arg(long, value_name = "ADDRESS:PORT")]
    peer: SocketAddr,
    /// Its process, if on this machine
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(2..))]
    peer_pid: Option<i32>,
    /// Its JSON-RPC socket
    #[arg(long, value_name = "SOCKET")]
    peer_rpc: Option<PathBuf>,
    /// Devices to measure, each with the subsystem that has it as namespace 1 at both targets.
    /// What begins with raid is expected to be an array with bitmap at the first and without at
    /// the second
    #[arg(long, value_name = "NAME=NQN,...", value_delimiter = ',', value_parser = parse_device)]
    #[arg(default_value = "null=nqn.2026-01.io.mdof:null,malloc=nqn.2026-01.io.mdof:malloc,\
                           raid1=nqn.2026-01.io.mdof:raid1")]
    device: Vec<(String, String)>,
    /// What to do
    #[arg(long, value_enum, value_name = "RW,...", value_delimiter = ',')]
    #[arg(default_value = "randread,randwrite,randrw")]
    rw: Vec<Access>,
    /// Requests in flight on each connection. A queue of 128 entries takes 127
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,32,127")]
    qd: Vec<u16>,
    /// Connections
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,4")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    connections: Vec<u16>,
    /// Leave out sequential requests of 128 KiB
    #[arg(long)]
    no_sequential: bool,
    /// CPUs of the polling threads [default: one thread, not pinned]
    #[arg(long, value_name = "CPU,...", value_delimiter = ',')]
    core: Vec<usize>,
    /// NQN of this host
    #[arg(long, value_name = "NQN", default_value = "nqn.2026-01.io.mdof:perf")]
    hostnqn: String,
    /// Header digests
    #[arg(long)]
    hdgst: bool,
    /// Data digests
    #[arg(long)]
    ddgst: bool,
    /// Rounds, in each of which both have their turn
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u32,
    /// How long to measure one in a round
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_duration)]
    time: Duration,
    /// How long to run before
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_duration)]
    warm_up: Duration,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_device(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, nqn)) if !name.is_empty() && !nqn.is_empty() => {
            Ok((name.to_owned(), nqn.to_owned()))
        }
        _ => Err(format!("{text:?} is no device: write NAME=NQN")),
    }
}

impl VersusArgs {
    /// What to measure.
    pub(crate) fn options(&self) -> Result<versus::Options, PerfError> {
        let job = Job { time: self.time, warm_up: self.warm_up, ..Job::default() };
        for &queue_depth in &self.qd {
            Job { queue_depth, ..job.clone() }.check()?;
        }
        Ok(versus::Options {
            ours: versus::Target {
                addr: self.ours,
                pid: self.ours_pid,
                rpc: self.ours_rpc.clone(),
            },
            peer: versus::Target {
                addr: self.peer,
                pid: self.peer_pid,
                rpc: self.peer_rpc.clone(),
            },
            devices: self.device.clone(),
            host_nqn: self.hostnqn.clone(),
            cores: self.core.clone(),
            header_digest: self.hdgst,
            data_digest: self.ddgst,
            rw: self.rw.clone(),
            queue_depths: self.qd.clone(),
            connections: self.connections.clone(),
            no_sequential: self.no_sequential,
            rounds: self.rounds,
            job,
        })
    }
}

/// A comparison.
#[derive(Debug, Args)]
pub(crate) struct AbArgs {
    /// Name of a comparison; without one (and without --a and --b) all are listed
    #[arg(value_name = "COMPARISON", conflicts_with_all = ["a", "b"])]
    name: Option<String>,
    /// The measure, written as for --bdev, or nvme:ADDRESS:PORT/NQN/NSID
    #[arg(long, value_name = "PLACE", requires = "b")]
    a: Option<String>,
    /// What is compared with it
    #[arg(long, value_name = "PLACE", requires = "a")]
    b: Option<String>,
    /// Rounds, each of both variants, which are built anew, the other one first
    #[arg(long, value_name = "N", default_value_t = 6)]
    rounds: u32,
    /// Pieces into which a variant's time in a round is cut, which take turns with the other's
    #[arg(long, value_name = "N", default_value_t = 100)]
    slices: u32,
    #[command(flatten)]
    reach: ReachArgs,
    #[command(flatten)]
    job: JobArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl AbArgs {
    /// The comparison, its job, and how to reach its places; `None`: list them all.
    pub(crate) fn resolve(&self) -> Result<Option<(Comparison, Job, Reach)>, PerfError> {
        let (rounds, slices) = (self.rounds, self.slices);
        let mut default = Job {
            time: Duration::from_secs(2),
            warm_up: Duration::from_millis(20),
            sample_every: 16,
            ..Job::default()
        };
        let comparison = match (&self.name, &self.a, &self.b) {
            (Some(name), ..) => {
                let named = NAMED.iter().find(|named| named.name == name).ok_or_else(|| {
                    PerfError(format!("there is no comparison {name}; mdof-perf ab lists them"))
                })?;
                default.rw = named.rw;
                let (a, b) = (Place::parse(named.a)?, Place::parse(named.b)?);
                let title = named.title.to_owned();
                Comparison { title, a, b, promise: named.promise, rounds, slices }
            }
            (None, Some(a), Some(b)) => {
                let title = format!("{b} against {a}");
                let (a, b) = (Place::parse(a)?, Place::parse(b)?);
                Comparison { title, a, b, promise: None, rounds, slices }
            }
            (None, ..) => return Ok(None),
        };
        let reach = self.reach.reach()?;
        for place in [&comparison.a, &comparison.b] {
            if matches!(place, Place::NvmeTcp(Address { tls: true, .. }))
                && reach.keys.psk.is_none()
            {
                return Err(PerfError(format!("{place} needs the host's key: --tls-psk FILE")));
            }
        }
        Ok(Some((comparison, self.job.job(default)?, reach)))
    }
}

#[cfg(test)]
mod tests;

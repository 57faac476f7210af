//! A target in this process: one core, a null bdev, a listener on the loopback.

use std::net::SocketAddr;
use std::time::Duration;

use mdof::bdev::Device;
use mdof::bdev::null::NullDevice;
use mdof::engine::{EngineConfig, EngineHandle};
use mdof::initiator::{Client, ClientOptions, QueuePair};
use mdof::reactor::buf::{BufPool, CLASS_COUNTS};
use mdof::target::subsystem::{NamespaceSpec, SubsystemSpec, SubsystemTable};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use uuid::Uuid;

use super::loopback;

const NQN: &str = "nqn.2026-01.io.mdof:crowd";
const HOST_NQN: &str = "nqn.2026-01.io.mdof:perf";
const BLOCK_BYTES: u32 = 4096;

/// Blocks of the namespace.
pub(crate) const BLOCKS: u64 = 1 << 18;

/// CPU time of the target's core, and how it was spent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    cpu_ns: u64,
    busy_ns: u64,
    idle_ns: u64,
}

impl Clock {
    /// CPU nanoseconds with work since `before`: of the CPU time the share that turns with work
    /// had of all turns.
    pub(crate) fn since(&self, before: &Self) -> f64 {
        let busy = (self.busy_ns - before.busy_ns) as f64;
        let idle = (self.idle_ns - before.idle_ns) as f64;
        (self.cpu_ns - before.cpu_ns) as f64 * busy / (busy + idle)
    }
}

pub(crate) struct Served {
    engine: EngineHandle,
    pub(crate) address: SocketAddr,
    /// The reactor's thread.
    thread: String,
    pub(crate) pool: BufPool,
}

impl Served {
    pub(crate) fn start() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, all).expect("up to the hard limit");
        let usable = sched_getaffinity(None).expect("the own CPUs");
        let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| usable.is_set(cpu));
        let (Some(load), Some(target)) = (cpus.next(), cpus.next()) else {
            panic!("two CPUs are needed")
        };
        let config =
            EngineConfig { cores: vec![target], poll_always: true, buffer_counts: CLASS_COUNTS };
        let mut engine = EngineHandle::start(config).expect("an engine");
        let mut set = CpuSet::new();
        set.set(load);
        sched_setaffinity(None, &set).expect("a CPU for the load");
        let null = NullDevice::new("null", Uuid::new_v4(), BLOCK_BYTES, BLOCKS, false);
        let bdev = engine.add_bdev(Device::Null(null.expect("a size"))).expect("a bdev");
        let geometry = engine.geometry(bdev).expect("just made").clone();
        let mut table = SubsystemTable::new();
        let spec = SubsystemSpec { allow_any_host: true, ..SubsystemSpec::new(NQN) };
        table.create_subsystem(&spec).expect("a name");
        table.add_ns(NQN, &NamespaceSpec::new(bdev, &geometry)).expect("room");
        let address = loopback::serve(&mut engine, table, NQN);
        let pool = BufPool::on_heap([256 * 32 + 4096, 0, 0, 0]);
        Self { engine, address, thread: reactor_thread(), pool }
    }

    /// Hosts with so many I/O queues each.
    pub(crate) fn hosts(
        &self,
        hosts: usize,
        queues: u16,
        depth: u16,
    ) -> (Vec<Client>, Vec<QueuePair>) {
        let mut clients = Vec::new();
        let mut all = Vec::new();
        for _ in 0..hosts {
            let mut options = ClientOptions::new(self.address, NQN, HOST_NQN);
            options.limit = Duration::from_secs(60);
            let mut client = Client::connect(options, self.pool).expect("a controller");
            assert_eq!(client.request_queues(queues).expect("an answer"), queues);
            all.extend((1..=queues).map(|id| client.open_io_queue(id, depth).expect("a queue")));
            clients.push(client);
        }
        (clients, all)
    }

    pub(crate) fn clock(&self) -> Clock {
        let text = std::fs::read_to_string(&self.thread).expect("the reactor runs");
        let cpu_ns = text.split_ascii_whitespace().next().and_then(|ns| ns.parse().ok());
        let counters = &self.engine.counters()[0];
        Clock {
            cpu_ns: cpu_ns.expect("schedstat has the CPU time first"),
            busy_ns: counters.busy_ns.get(),
            idle_ns: counters.idle_ns.get(),
        }
    }
}

/// Where the kernel says what CPU time the reactor had.
fn reactor_thread() -> String {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    let paths = tasks.filter_map(|task| task.ok()).map(|task| task.path());
    let is_reactor = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("reactor-"))
    };
    let path = paths.into_iter().find(is_reactor).expect("the engine has a reactor");
    path.join("schedstat").display().to_string()
}

//! A target under load, what it says of itself, and guests that leave in every way.

#[path = "../support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof_process;

use std::io::{PipeWriter, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mdof::initiator::{Client, ClientOptions, QueuePair};
use mdof::reactor::buf::BufPool;
use mdof_process::{Mdof, TestDir, free_port};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::{Value, json};

pub(crate) const NQN: &str = "nqn.2026-01.io.mdof:load";
pub(crate) const HOST_NQN: &str = "nqn.2026-01.io.mdof:host";
const ONE_CORE: &str = "[target]\ncores = [0]\n";
pub(crate) const LIMIT: Duration = Duration::from_secs(50);

/// What `nvmf_get_stats` says of all cores together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) admin: u64,
    pub(crate) io: u64,
    pub(crate) unassociated: u64,
    pub(crate) completed: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    /// Bytes of all connections, and of the buffers that they hold.
    pub(crate) memory: u64,
    held: u64,
    buffers_free: u64,
}

impl Total {
    /// Connections.
    pub(crate) fn all(&self) -> u64 {
        self.admin + self.io + self.unassociated
    }

    /// Bytes of buffers that commands hold.
    #[allow(dead_code, reason = "several tests share it")]
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Bytes of buffers, held or free.
    #[allow(dead_code, reason = "several tests share it")]
    pub(crate) fn buffers(&self) -> u64 {
        self.held + self.buffers_free
    }
}

/// How a guest leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// It has said nothing, and resets the connection.
    SilentReset,
    /// In the middle of ICReq.
    HalfWord,
    /// After ICReq, in order.
    AfterHello,
    /// After Connect, with a reset.
    AdminReset,
    /// In order: shutdown and close.
    InOrder,
    /// With commands under way, whose data nobody takes.
    InTheMiddle,
    /// It closes its sending side only, and waits for the target to close.
    HalfClosed,
}

impl Farewell {
    pub(crate) const ALL: [Self; 7] = [
        Self::SilentReset,
        Self::HalfWord,
        Self::AfterHello,
        Self::AdminReset,
        Self::InOrder,
        Self::InTheMiddle,
        Self::HalfClosed,
    ];
}

/// Where guests come in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
}

impl Door {
    pub(crate) fn options(&self) -> ClientOptions {
        ClientOptions { limit: LIMIT, ..ClientOptions::new(self.address, NQN, HOST_NQN) }
    }

    /// A host with I/O queues.
    pub(crate) fn host(&self, queues: u16, depth: u16, pool: BufPool) -> (Client, Vec<QueuePair>) {
        let mut client = Client::connect(self.options(), pool).unwrap();
        assert_eq!(client.request_queues(queues).unwrap(), queues);
        let queues = (1..=queues).map(|id| client.open_io_queue(id, depth).unwrap()).collect();
        (client, queues)
    }

    /// A connection that has said nothing.
    pub(crate) fn raw(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Comes, and leaves so.
    pub(crate) fn guest(&self, farewell: Farewell, pool: BufPool) -> Option<TcpStream> {
        let mut icreq = [0; 128];
        (icreq[2], icreq[4]) = (128, 128);
        let mut stream = self.raw();
        match farewell {
            Farewell::SilentReset => reset(&stream),
            Farewell::HalfWord => stream.write_all(&icreq[..60]).unwrap(),
            Farewell::AfterHello | Farewell::HalfClosed => {
                stream.write_all(&icreq).unwrap();
                stream.read_exact(&mut [0; 128]).unwrap();
                if farewell == Farewell::HalfClosed {
                    stream.shutdown(Shutdown::Write).unwrap();
                    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "the target closes as well");
                }
            }
            Farewell::AdminReset => {
                let mut client = Client::connect(self.options(), pool).unwrap();
                reset(client.admin().stream());
            }
            Farewell::InOrder => self.host(2, 8, pool).0.disconnect().unwrap(),
            Farewell::InTheMiddle => {
                let (_client, mut queues) = self.host(1, 32, pool);
                for tag in 0..8 {
                    queues[0].submit_read(1, tag * 256, 256, pool.get(1 << 17).unwrap(), tag);
                    queues[0].submit_write(1, tag * 8, 8, pool.get(4096).unwrap(), tag + 8);
                }
                queues[0].poll().unwrap();
                reset(queues[0].stream());
            }
        }
        Some(stream)
    }
}

/// A running target.
#[derive(Debug)]
pub(crate) struct Rig {
    mdof: Mdof,
    door: Door,
    /// Buffers of all cores.
    buffers: u64,
    _dir: TestDir,
}

impl std::ops::Deref for Rig {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.door
    }
}

impl Rig {
    /// A target with a memory bdev; `None`: this process may not open as many files as the test
    /// needs, which was said.
    pub(crate) fn start(name: &str, size_mib: u32, files: usize) -> Option<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let head = if cores < 2 { "" } else { "[target]\ncores = [0, 1]\n" };
        Self::start_with(name, size_mib, files, head, None)
    }

    /// The same on one core.
    pub(crate) fn start_on_one_core(name: &str, files: usize) -> Option<Self> {
        Self::start_with(name, 16, files, ONE_CORE, None)
    }

    /// The same with its log going there.
    #[allow(dead_code, reason = "several tests share it")]
    pub(crate) fn start_logging_to(name: &str, files: usize, log: PipeWriter) -> Option<Self> {
        Self::start_with(name, 16, files, ONE_CORE, Some(log))
    }

    fn start_with(
        name: &str,
        size_mib: u32,
        files: usize,
        head: &str,
        log: Option<PipeWriter>,
    ) -> Option<Self> {
        let limit = getrlimit(Resource::Nofile);
        let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, all).unwrap();
        if limit.maximum.is_some_and(|most| most < files as u64) {
            // Past the capture of a passing test's output.
            let _ = writeln!(std::io::stderr(), "left out: {name}: it needs {files} open files");
            return None;
        }
        let dir = TestDir::new(&format!("load-{name}"));
        let port = free_port();
        let config = dir.config(&format!(
            "{head}[[bdev]]\nname = \"m0\"\nkind = \"malloc\"\nsize_mib = {size_mib}\n\
             [[subsystem]]\nnqn = \"{NQN}\"\nallow_any_host = true\n\
             namespaces = [{{ bdev = \"m0\", nsid = 1 }}]\nlisten = [\"127.0.0.1:{port}\"]\n"
        ));
        let mdof = match log {
            None => Mdof::start(&dir, &config, &[]),
            Some(log) => Mdof::start_logging_to(&dir, &config, log.into()),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut rig = Self { mdof, door: Door { address }, buffers: 0, _dir: dir };
        rig.buffers = rig.total().buffers_free;
        Some(rig)
    }

    /// Ends it well; what it has logged.
    pub(crate) fn stop(self) -> String {
        self.mdof.signal("TERM");
        let (text, code) = self.mdof.wait();
        assert_eq!(code, Some(0), "{text}");
        text
    }

    fn rpc(&self, method: &str, params: &Value) -> Value {
        self.mdof.rpc(method, params).unwrap()
    }

    /// All connections by role.
    pub(crate) fn total(&self) -> Total {
        let stats = self.rpc("nvmf_get_stats", &json!({}));
        assert_eq!(stats["tick_rate"], 1_000_000_000u64);
        let groups = stats["poll_groups"].as_array().unwrap();
        let sum = |of: &dyn Fn(&Value) -> &Value| -> u64 {
            groups.iter().map(|group| of(group).as_u64().unwrap()).sum()
        };
        let tcp = |key: &'static str| move |group: &'_ Value| group["transports"][0][key].clone();
        let of_tcp =
            |key| -> u64 { groups.iter().map(|group| tcp(key)(group).as_u64().unwrap()).sum() };
        Total {
            admin: sum(&|group| &group["current_admin_qpairs"]),
            io: sum(&|group| &group["current_io_qpairs"]),
            unassociated: sum(&|group| &group["current_unassociated_qpairs"]),
            completed: sum(&|group| &group["completed_nvme_io"]),
            accepted: of_tcp("connections_accepted"),
            refused: of_tcp("connections_refused"),
            memory: of_tcp("connection_bytes"),
            held: of_tcp("buffer_bytes"),
            buffers_free: of_tcp("buffers_free_bytes"),
        }
    }

    pub(crate) fn queues(&self) -> Vec<Value> {
        self.rpc("nvmf_subsystem_get_qpairs", &json!({ "nqn": NQN })).as_array().unwrap().clone()
    }

    pub(crate) fn controllers(&self) -> Vec<Value> {
        let answer = self.rpc("nvmf_subsystem_get_controllers", &json!({ "nqn": NQN }));
        answer.as_array().unwrap().clone()
    }

    /// Waits until the figures are so.
    pub(crate) fn wait_until(&self, what: &str, is_so: impl Fn(&Total) -> bool) {
        let since = Instant::now();
        loop {
            let total = self.total();
            if is_so(&total) {
                return;
            }
            assert!(since.elapsed() < LIMIT, "not in time: {what}: {total:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until nobody is connected; then nothing of anybody may be left.
    pub(crate) fn wait_until_alone(&self) {
        self.wait_until("everybody is gone", |total| total.all() == 0);
        let total = self.total();
        assert_eq!((total.memory, total.held), (0, 0));
        self.wait_until("all buffers are back", |total| total.buffers_free == self.buffers);
        assert!(self.queues().is_empty() && self.controllers().is_empty());
    }

    pub(crate) fn files(&self) -> usize {
        self.mdof.files()
    }

    pub(crate) fn resident_kib(&self) -> u64 {
        self.mdof.resident_kib()
    }

    /// Has the target listen at another address, which is used from now on.
    pub(crate) fn listen_elsewhere(&mut self) {
        let port = free_port();
        let address = json!({ "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1",
            "trsvcid": port.to_string() });
        let params = json!({ "nqn": NQN, "listen_address": address });
        assert_eq!(self.rpc("nvmf_subsystem_add_listener", &params), json!(true));
        self.door.address.set_port(port);
    }

    /// Lets the target have so many open files.
    pub(crate) fn limit_files(&self, files: u64) {
        let pid = Pid::from_raw(i32::try_from(self.mdof.id()).unwrap());
        let maximum = getrlimit(Resource::Nofile).maximum;
        prlimit(pid, Resource::Nofile, Rlimit { current: Some(files), maximum }).unwrap();
    }
}

/// Closing it from now on resets the connection.
fn reset(stream: &TcpStream) {
    let seconds = Some(Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(stream, seconds).unwrap();
}

/// The target has not closed it.
pub(crate) fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let answer = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    matches!(answer, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

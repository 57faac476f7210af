//! Queue pairs over `std::net::TcpStream`, polled; a client that brings a controller up.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::conn::{Data, HostCompletion, HostConfig, HostConnection, HostPhase};
use super::fabrics;
use crate::reactor::buf::{BufPool, IoBuf};
use crate::wire::nvme::{Cqe, Sqe, Status};
use crate::wire::tcp::transmit::SEGMENTS_MAX;
use crate::wire::tcp::{PduError, TransmitVec};

/// Bytes read from the socket at once where they do not go straight to a buffer.
const STAGING_BYTES: usize = 64 * 1024;
/// A payload remainder from this size on is received straight into its buffer.
const DIRECT_BYTES_MIN: usize = 4096;
/// In-capsule data that every admin queue takes (NVMe/TCP Transport, section 3.3.1).
const ADMIN_IN_CAPSULE_BYTES: u32 = 8192;
/// NQNs at most, the terminating zero not counted.
const NQN_BYTES_MAX: usize = 223;
/// Between two looks at a socket that had nothing.
const WAIT_STEP: Duration = Duration::from_micros(50);

/// Why the client gave up.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The socket failed.
    #[error("NVMe/TCP connection to {addr} failed: {source}")]
    Io {
        /// The target.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The controller closed the connection.
    #[error("the controller at {addr} closed the connection{}", terminated(.fes))]
    Closed {
        /// The target.
        addr: SocketAddr,
        /// FES and FEI of its C2HTermReq, if it sent one.
        fes: Option<(u16, u32)>,
    },
    /// The controller broke the protocol.
    #[error("the controller at {addr} sent what NVMe/TCP does not allow: {error}")]
    Protocol {
        /// The target.
        addr: SocketAddr,
        /// What was wrong.
        error: PduError,
    },
    /// A command failed.
    #[error("{what} failed: {status:?}")]
    Status {
        /// The command.
        what: &'static str,
        /// How it completed.
        status: Status,
    },
    /// Nothing came in time.
    #[error("no answer to {what} within {} s", .limit.as_secs())]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The pool has no buffer.
    #[error("no buffer of {0} bytes is free")]
    NoBuffer(usize),
    /// An NQN is too long or empty.
    #[error("{0:?} is no NQN: 1 to 223 bytes are needed")]
    BadNqn(String),
}

fn terminated(fes: &Option<(u16, u32)>) -> String {
    fes.map_or(String::new(), |(fes, fei)| {
        format!(" (fatal error status {fes:#x}, information {fei:#x})")
    })
}

/// One queue: a connection and its socket.
#[derive(Debug)]
pub struct QueuePair {
    addr: SocketAddr,
    stream: TcpStream,
    conn: HostConnection,
    staging: Box<[u8]>,
    out: Box<TransmitVec>,
}

impl QueuePair {
    /// Connects the socket and exchanges ICReq and ICResp.
    ///
    /// # Errors
    /// If no connection comes about within `limit`.
    pub fn open(
        addr: SocketAddr,
        config: HostConfig,
        limit: Duration,
    ) -> Result<Self, ClientError> {
        let io = |source| ClientError::Io { addr, source };
        let stream = TcpStream::connect_timeout(&addr, limit).map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        stream.set_nonblocking(true).map_err(io)?;
        let mut queue = Self {
            addr,
            stream,
            conn: HostConnection::new(config),
            staging: vec![0; STAGING_BYTES].into_boxed_slice(),
            out: Box::default(),
        };
        let end = Instant::now() + limit;
        while queue.conn.phase() == HostPhase::AwaitIcResp {
            queue.poll_or_wait(end, "ICReq", limit)?;
        }
        Ok(queue)
    }

    /// The protocol side, to look at.
    #[must_use]
    pub fn connection(&self) -> &HostConnection {
        &self.conn
    }

    /// The socket, for tests that send what no host should.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether [`QueuePair::submit`] may be called now.
    #[must_use]
    pub fn can_submit(&self) -> bool {
        self.conn.can_submit()
    }

    /// Queues a command; it leaves with the next [`QueuePair::poll`]. See
    /// [`HostConnection::submit`].
    ///
    /// # Panics
    /// If [`QueuePair::can_submit`] says no.
    pub fn submit(&mut self, sqe: Sqe, data: Data, tag: u64) {
        self.conn.submit(sqe, data, tag);
    }

    /// Queues a read of `blocks` blocks from `lba` into `buf`.
    ///
    /// # Panics
    /// As [`QueuePair::submit`], and if `blocks` is 0.
    pub fn submit_read(&mut self, nsid: u32, lba: u64, blocks: u16, buf: IoBuf, tag: u64) {
        self.submit(fabrics::transfer(0x02, nsid, lba, blocks), Data::ToHost(buf), tag);
    }

    /// Queues a write of `blocks` blocks from `buf` to `lba`.
    ///
    /// # Panics
    /// As [`QueuePair::submit`], and if `blocks` is 0.
    pub fn submit_write(&mut self, nsid: u32, lba: u64, blocks: u16, buf: IoBuf, tag: u64) {
        self.submit(fabrics::transfer(0x01, nsid, lba, blocks), Data::ToController(buf), tag);
    }

    /// The next completion that has arrived.
    pub fn next_completion(&mut self) -> Option<HostCompletion> {
        self.conn.next_completion()
    }

    /// Sends what waits and takes what came, without blocking. `true`: bytes moved.
    ///
    /// # Errors
    /// If the connection is over.
    pub fn poll(&mut self) -> Result<bool, ClientError> {
        let sent = self.send()?;
        let received = self.receive()?;
        if let Some(error) = self.conn.error() {
            // What H2CTermReq says leaves if the socket takes it.
            self.send()?;
            return Err(ClientError::Protocol { addr: self.addr, error });
        }
        if self.conn.phase() == HostPhase::Closed {
            return Err(self.closed());
        }
        Ok(sent || received)
    }

    fn closed(&self) -> ClientError {
        ClientError::Closed { addr: self.addr, fes: self.conn.peer_error() }
    }

    fn send(&mut self) -> Result<bool, ClientError> {
        let mut moved = false;
        while self.conn.poll_transmit(&mut self.out) > 0 {
            let mut slices = [IoSlice::new(&[]); SEGMENTS_MAX];
            let count = self.out.segments().len();
            for (slice, segment) in slices.iter_mut().zip(self.out.segments()) {
                // SAFETY: the connection keeps the memory of its segments in place and unchanged
                // until `transmitted`, which comes after the last use of `slices`.
                *slice =
                    IoSlice::new(unsafe { std::slice::from_raw_parts(segment.ptr, segment.len) });
            }
            let result = self.stream.write_vectored(&slices[..count]);
            self.conn.transmitted(result.as_ref().map_or(0, |n| *n));
            match result {
                Ok(n) => moved |= n > 0,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(source) => return Err(ClientError::Io { addr: self.addr, source }),
            }
        }
        Ok(moved)
    }

    /// Reads once: straight into a command's buffer when a large payload is on its way.
    fn receive(&mut self) -> Result<bool, ClientError> {
        let direct = self.conn.direct_target().filter(|target| target.len() >= DIRECT_BYTES_MIN);
        let is_direct = direct.is_some();
        let result = match direct {
            Some(target) => self.stream.read(target),
            None => self.stream.read(&mut self.staging),
        };
        match result {
            Ok(0) => Err(self.closed()),
            Ok(n) if is_direct => {
                self.conn.handle_direct(n);
                Ok(true)
            }
            Ok(n) => {
                self.conn.handle_bytes(&self.staging[..n]);
                Ok(true)
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(false)
            }
            Err(source) => Err(ClientError::Io { addr: self.addr, source }),
        }
    }

    fn poll_or_wait(
        &mut self,
        end: Instant,
        what: &'static str,
        limit: Duration,
    ) -> Result<(), ClientError> {
        if !self.poll()? {
            if Instant::now() >= end {
                return Err(ClientError::TimedOut { what, limit });
            }
            std::thread::sleep(WAIT_STEP);
        }
        Ok(())
    }

    /// Waits for the next completion.
    ///
    /// # Errors
    /// If none comes within `limit`, or the connection is over.
    pub fn wait(
        &mut self,
        what: &'static str,
        limit: Duration,
    ) -> Result<HostCompletion, ClientError> {
        let end = Instant::now() + limit;
        loop {
            if let Some(completion) = self.next_completion() {
                return Ok(completion);
            }
            self.poll_or_wait(end, what, limit)?;
        }
    }

    /// Submits a command on an otherwise idle queue and waits for it, whatever its status.
    ///
    /// # Errors
    /// As [`QueuePair::wait`].
    pub fn execute(
        &mut self,
        what: &'static str,
        sqe: Sqe,
        data: Data,
        limit: Duration,
    ) -> Result<HostCompletion, ClientError> {
        let end = Instant::now() + limit;
        while !self.can_submit() {
            self.poll_or_wait(end, what, limit)?;
        }
        self.submit(sqe, data, 0);
        self.wait(what, limit)
    }
}

/// Whom to connect to, and how.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Address of the listener.
    pub addr: SocketAddr,
    /// NQN of the subsystem (or of the discovery service).
    pub subsystem_nqn: String,
    /// NQN of this host.
    pub host_nqn: String,
    /// Host identifier.
    pub host_id: [u8; 16],
    /// Ask for header digests.
    pub header_digest: bool,
    /// Ask for data digests.
    pub data_digest: bool,
    /// Ask for queues without SQ flow control.
    pub no_flow_control: bool,
    /// Keep-alive timeout in milliseconds; 0 for none.
    pub kato_ms: u32,
    /// Entries of the admin queue.
    pub admin_depth: u16,
    /// Patience with every step.
    pub limit: Duration,
}

impl ClientOptions {
    /// Options for `subsystem_nqn` at `addr`: no digests, flow control, no keep-alive.
    #[must_use]
    pub fn new(addr: SocketAddr, subsystem_nqn: &str, host_nqn: &str) -> Self {
        Self {
            addr,
            subsystem_nqn: subsystem_nqn.into(),
            host_nqn: host_nqn.into(),
            host_id: *b"mdof host id 001",
            header_digest: false,
            data_digest: false,
            no_flow_control: false,
            kato_ms: 0,
            admin_depth: 32,
            limit: Duration::from_secs(5),
        }
    }

    fn host_config(&self, depth: u16, in_capsule_data_bytes: u32) -> HostConfig {
        HostConfig {
            header_digest: self.header_digest,
            data_digest: self.data_digest,
            hpda: 0,
            // A queue of n entries is full with n - 1 commands.
            depth: (depth - 1).max(1),
            in_capsule_data_bytes,
        }
    }
}

/// What Identify Controller said, as far as a client needs it.
#[derive(Debug, Clone)]
pub struct ControllerInfo {
    /// Controller identifier.
    pub cntlid: u16,
    /// CAP.
    pub cap: u64,
    /// Largest transfer of a command in bytes.
    pub mdts_bytes: u32,
    /// In-capsule data of I/O queues at most.
    pub in_capsule_data_bytes: u32,
    /// Namespaces (NN).
    pub namespaces: u32,
    /// The whole structure.
    pub identify: Vec<u8>,
}

/// What Identify Namespace said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Size in logical blocks (NSZE).
    pub blocks: u64,
    /// Logical block size in bytes.
    pub block_size_bytes: u32,
}

/// A connected controller: its admin queue, and what makes I/O queues.
#[derive(Debug)]
pub struct Client {
    options: ClientOptions,
    pool: BufPool,
    admin: QueuePair,
    info: ControllerInfo,
}

impl Client {
    /// Connects the admin queue, enables the controller and identifies it. Buffers for admin data
    /// come from `pool`.
    ///
    /// # Errors
    /// If any step fails; the text says which.
    pub fn connect(options: ClientOptions, pool: BufPool) -> Result<Self, ClientError> {
        for nqn in [&options.subsystem_nqn, &options.host_nqn] {
            if nqn.is_empty() || nqn.len() > NQN_BYTES_MAX {
                return Err(ClientError::BadNqn(nqn.clone()));
            }
        }
        let config = options.host_config(options.admin_depth, ADMIN_IN_CAPSULE_BYTES);
        let mut admin = QueuePair::open(options.addr, config, options.limit)?;
        let cqe = fabrics_connect(&mut admin, &options, pool, 0, fabrics::CNTLID_DYNAMIC)?;
        let [a, b, ..] = cqe.result.to_bytes();
        let info = ControllerInfo {
            cntlid: u16::from_le_bytes([a, b]),
            cap: 0,
            mdts_bytes: u32::MAX,
            in_capsule_data_bytes: 0,
            namespaces: 0,
            identify: Vec::new(),
        };
        let mut client = Self { options, pool, admin, info };
        client.enable()?;
        client.identify_controller()?;
        Ok(client)
    }

    /// What is known of the controller.
    #[must_use]
    pub fn info(&self) -> &ControllerInfo {
        &self.info
    }

    /// The admin queue.
    pub fn admin(&mut self) -> &mut QueuePair {
        &mut self.admin
    }

    fn enable(&mut self) -> Result<(), ClientError> {
        let limit = self.options.limit;
        self.info.cap = self.property("Property Get CAP", fabrics::CAP, true)?;
        self.set_property("Property Set CC", fabrics::CC, fabrics::CC_ENABLE)?;
        let end = Instant::now() + limit;
        while self.property("Property Get CSTS", fabrics::CSTS, false)? & 1 == 0 {
            if Instant::now() >= end {
                return Err(ClientError::TimedOut { what: "CSTS.RDY", limit });
            }
            std::thread::sleep(WAIT_STEP);
        }
        Ok(())
    }

    fn property(
        &mut self,
        what: &'static str,
        offset: u32,
        wide: bool,
    ) -> Result<u64, ClientError> {
        let done = self.admin_command(what, fabrics::property_get(offset, wide), Data::None)?;
        Ok(done.cqe.result.get())
    }

    fn set_property(
        &mut self,
        what: &'static str,
        offset: u32,
        value: u64,
    ) -> Result<(), ClientError> {
        self.admin_command(what, fabrics::property_set(offset, value), Data::None).map(|_| ())
    }

    /// Executes an admin command; any status but success is an error.
    ///
    /// # Errors
    /// If it fails or does not complete in time.
    pub fn admin_command(
        &mut self,
        what: &'static str,
        sqe: Sqe,
        data: Data,
    ) -> Result<HostCompletion, ClientError> {
        successful(what, self.admin.execute(what, sqe, data, self.options.limit)?)
    }

    /// Executes an admin command that fills `len` bytes, e.g. Identify or Get Log Page.
    ///
    /// # Errors
    /// As [`Client::admin_command`].
    pub fn admin_read(
        &mut self,
        what: &'static str,
        sqe: Sqe,
        len: usize,
    ) -> Result<Vec<u8>, ClientError> {
        let buf = self.pool.get(len).ok_or(ClientError::NoBuffer(len))?;
        let done = self.admin_command(what, sqe, Data::ToHost(buf))?;
        Ok(done.buf.map_or_else(Vec::new, |buf| buf.as_slice().to_vec()))
    }

    fn identify_controller(&mut self) -> Result<(), ClientError> {
        let sqe = fabrics::identify(fabrics::CNS_CONTROLLER, 0);
        let data = self.admin_read("Identify Controller", sqe, fabrics::IDENTIFY_BYTES)?;
        // CAP.MPSMIN (bits 51:48) is the unit of MDTS (byte 77): 2^(12 + MPSMIN).
        let page_shift = 12 + u32::try_from(self.info.cap >> 48 & 0xf).expect("four bits");
        if data[77] != 0 {
            let shift = page_shift + u32::from(data[77]);
            self.info.mdts_bytes = 1u32.checked_shl(shift).unwrap_or(u32::MAX);
        }
        // IOCCSZ (bytes 1792-1795): capsule with its 64-byte command, in units of 16 bytes.
        let capsule = fabrics::field_u32(&data, 1792).saturating_mul(16);
        self.info.in_capsule_data_bytes = capsule.saturating_sub(64);
        self.info.namespaces = fabrics::field_u32(&data, 516);
        self.info.identify = data;
        Ok(())
    }

    /// Size and block size of a namespace.
    ///
    /// # Errors
    /// As [`Client::admin_command`].
    pub fn identify_namespace(&mut self, nsid: u32) -> Result<NamespaceInfo, ClientError> {
        let sqe = fabrics::identify(fabrics::CNS_NAMESPACE, nsid);
        let data = self.admin_read("Identify Namespace", sqe, fabrics::IDENTIFY_BYTES)?;
        // FLBAS (byte 26) chooses among the LBA formats from byte 128; LBADS is bits 23:16.
        let format = usize::from(data[26] & 0xf);
        let shift = u32::from(data[128 + 4 * format + 2]);
        Ok(NamespaceInfo {
            blocks: fabrics::field_u64(&data, 0),
            block_size_bytes: 1u32.checked_shl(shift).unwrap_or(0),
        })
    }

    /// Asks for `queues` I/O queues and returns how many may be opened.
    ///
    /// # Errors
    /// As [`Client::admin_command`].
    pub fn request_queues(&mut self, queues: u16) -> Result<u16, ClientError> {
        let sqe = fabrics::set_queue_count(queues.max(1));
        let done = self.admin_command("Set Features Number of Queues", sqe, Data::None)?;
        let [a, b, ..] = done.cqe.result.to_bytes();
        Ok(u16::from_le_bytes([a, b]).saturating_add(1).min(queues))
    }

    /// Opens I/O queue `queue_id` (from 1) with `depth` entries.
    ///
    /// # Errors
    /// If the controller refuses.
    ///
    /// # Panics
    /// If `depth` is below 2, the smallest queue there is.
    pub fn open_io_queue(&mut self, queue_id: u16, depth: u16) -> Result<QueuePair, ClientError> {
        assert!(depth >= 2, "an I/O queue has two entries at least");
        let config = self.options.host_config(depth, self.info.in_capsule_data_bytes);
        let mut queue = QueuePair::open(self.options.addr, config, self.options.limit)?;
        let options = ClientOptions { admin_depth: depth, ..self.options.clone() };
        fabrics_connect(&mut queue, &options, self.pool, queue_id, self.info.cntlid)?;
        Ok(queue)
    }

    /// Tells the controller that the host lives; due every half of the keep-alive timeout.
    ///
    /// # Errors
    /// As [`Client::admin_command`].
    pub fn keep_alive(&mut self) -> Result<(), ClientError> {
        self.admin_command("Keep Alive", fabrics::keep_alive(), Data::None).map(|_| ())
    }

    /// Shuts the controller down and closes the admin queue. I/O queues are closed by dropping
    /// them.
    ///
    /// # Errors
    /// If the controller does not answer.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        let value = fabrics::CC_ENABLE | fabrics::CC_SHUTDOWN;
        self.set_property("shutdown (Property Set CC)", fabrics::CC, value)
    }
}

fn successful(what: &'static str, done: HostCompletion) -> Result<HostCompletion, ClientError> {
    let status = done.status();
    if status.is_success() { Ok(done) } else { Err(ClientError::Status { what, status }) }
}

/// Fabrics Connect on a new queue; its depth is `options.admin_depth`.
fn fabrics_connect(
    queue: &mut QueuePair,
    options: &ClientOptions,
    pool: BufPool,
    queue_id: u16,
    cntlid: u16,
) -> Result<Cqe, ClientError> {
    let len = fabrics::CONNECT_DATA_BYTES;
    let mut buf = pool.get(len).ok_or(ClientError::NoBuffer(len))?;
    fabrics::put_connect_data(
        buf.as_mut_slice(),
        options.host_id,
        cntlid,
        &options.subsystem_nqn,
        &options.host_nqn,
    );
    let kato_ms = if queue_id == 0 { options.kato_ms } else { 0 };
    let sqe = fabrics::connect(queue_id, options.admin_depth, options.no_flow_control, kato_ms);
    let what = "Fabrics Connect";
    let done = queue.execute(what, sqe, Data::ToController(buf), options.limit)?;
    Ok(successful(what, done)?.cqe)
}

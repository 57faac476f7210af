//! A client that brings a controller up and opens its I/O queues.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use zerocopy::IntoBytes;

use super::auth::{HostAuth, HostAuthError, HostAuthState, HostAuthenticator};
use super::command;
use super::conn::{Data, HostCompletion, HostConfig};
use super::queue_pair::{ClientError, QueuePair, WAIT_STEP};
use crate::reactor::buf::BufPool;
use crate::secure::psk::TlsPsk;
use crate::wire::fabrics::auth::{AuthCommand, CONNECT_ASCR, CONNECT_ATR, SecureChannel};
use crate::wire::fabrics::{
    CNTLID_DYNAMIC, ConnectCommand, ConnectData, NQN_BYTES_MAX, PropertyCommand,
};
use crate::wire::nvme::identify::{IDENTIFY_BYTES, cns};
use crate::wire::nvme::register::{csts, offset};
use crate::wire::nvme::{Cqe, Sqe};

/// In-capsule data that every admin queue takes (NVMe/TCP Transport, section 3.3.1).
const ADMIN_IN_CAPSULE_BYTES: u32 = 8192;

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
    /// What the host proves itself with, if the controller wants it.
    pub auth: Option<HostAuth>,
    /// Come under TLS with this key.
    pub tls: Option<TlsPsk>,
    /// Come in the clear, and again under TLS with a key that is made of the authentication.
    pub concat: bool,
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
            auth: None,
            tls: None,
            concat: false,
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
    pub fn connect(mut options: ClientOptions, pool: BufPool) -> Result<Self, ClientError> {
        for nqn in [&options.subsystem_nqn, &options.host_nqn] {
            if nqn.is_empty() || nqn.len() > NQN_BYTES_MAX {
                return Err(ClientError::BadNqn(nqn.clone()));
            }
        }
        let config = options.host_config(options.admin_depth, ADMIN_IN_CAPSULE_BYTES);
        if options.concat {
            options.tls = Some(make_key(&options, config, pool)?);
        }
        let mut admin =
            QueuePair::open_secured(options.addr, config, options.tls.clone(), options.limit)?;
        let cqe = fabrics_connect(&mut admin, &options, pool, 0, CNTLID_DYNAMIC)?;
        prove(&mut admin, &options, pool, &cqe)?;
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
        self.info.cap = self.property("Property Get CAP", offset::CAP, true)?;
        self.set_property("Property Set CC", offset::CC, command::CC_ENABLE)?;
        let end = Instant::now() + limit;
        while self.property("Property Get CSTS", offset::CSTS, false)? & u64::from(csts::RDY) == 0 {
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
        let done =
            self.admin_command(what, PropertyCommand::get(offset, wide).to_sqe(), Data::None)?;
        Ok(done.cqe.result.get())
    }

    fn set_property(
        &mut self,
        what: &'static str,
        offset: u32,
        value: u32,
    ) -> Result<(), ClientError> {
        self.admin_command(what, PropertyCommand::set(offset, value).to_sqe(), Data::None)
            .map(|_| ())
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
        let sqe = command::identify(cns::CONTROLLER, 0);
        let data = self.admin_read("Identify Controller", sqe, IDENTIFY_BYTES)?;
        // CAP.MPSMIN (bits 51:48) is the unit of MDTS (byte 77): 2^(12 + MPSMIN).
        let page_shift = 12 + u32::try_from(self.info.cap >> 48 & 0xf).expect("four bits");
        if data[77] != 0 {
            let shift = page_shift + u32::from(data[77]);
            self.info.mdts_bytes = 1u32.checked_shl(shift).unwrap_or(u32::MAX);
        }
        // IOCCSZ (bytes 1792-1795): capsule with its 64-byte command, in units of 16 bytes.
        let capsule = command::field_u32(&data, 1792).saturating_mul(16);
        self.info.in_capsule_data_bytes = capsule.saturating_sub(64);
        self.info.namespaces = command::field_u32(&data, 516);
        self.info.identify = data;
        Ok(())
    }

    /// Size and block size of a namespace.
    ///
    /// # Errors
    /// As [`Client::admin_command`].
    pub fn identify_namespace(&mut self, nsid: u32) -> Result<NamespaceInfo, ClientError> {
        let sqe = command::identify(cns::NAMESPACE, nsid);
        let data = self.admin_read("Identify Namespace", sqe, IDENTIFY_BYTES)?;
        // FLBAS (byte 26) chooses among the LBA formats from byte 128; LBADS is bits 23:16.
        let format = usize::from(data[26] & 0xf);
        let shift = u32::from(data[128 + 4 * format + 2]);
        Ok(NamespaceInfo {
            blocks: command::field_u64(&data, 0),
            block_size_bytes: 1u32.checked_shl(shift).unwrap_or(0),
        })
    }

    /// Asks for `queues` I/O queues and returns how many may be opened.
    ///
    /// # Errors
    /// As [`Client::admin_command`].
    pub fn request_queues(&mut self, queues: u16) -> Result<u16, ClientError> {
        let sqe = command::set_queue_count(queues.max(1));
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
        let mut queue = QueuePair::open_secured(
            self.options.addr,
            config,
            self.options.tls.clone(),
            self.options.limit,
        )?;
        let options = ClientOptions { admin_depth: depth, ..self.options.clone() };
        let cntlid = self.info.cntlid;
        let cqe = fabrics_connect(&mut queue, &options, self.pool, queue_id, cntlid)?;
        prove(&mut queue, &options, self.pool, &cqe)?;
        Ok(queue)
    }

    /// Authenticates a connected queue anew.
    ///
    /// # Errors
    /// If there is no key, or the controller refuses.
    pub fn authenticate(&self, queue: &mut QueuePair) -> Result<(), ClientError> {
        authenticate(queue, &self.options, self.pool, SecureChannel::None).map(|_| ())
    }

    /// Authenticates a queue that is no client's, and returns the key for TLS that was made, if one
    /// was to be.
    ///
    /// # Errors
    /// As [`Client::authenticate`].
    pub fn authenticate_queue(
        queue: &mut QueuePair,
        options: &ClientOptions,
        pool: BufPool,
        channel: SecureChannel,
    ) -> Result<Option<TlsPsk>, ClientError> {
        authenticate(queue, options, pool, channel)
    }

    /// Makes another key for TLS on the admin queue, which is under one already: queues that are
    /// opened from now on use it.
    ///
    /// # Errors
    /// As [`Client::authenticate`].
    pub fn replace_key(&mut self) -> Result<(), ClientError> {
        let channel = SecureChannel::Replace;
        self.options.tls = authenticate(&mut self.admin, &self.options, self.pool, channel)?;
        Ok(())
    }

    /// The key for TLS that queues are opened with.
    #[must_use]
    pub fn tls_key(&self) -> Option<&TlsPsk> {
        self.options.tls.as_ref()
    }

    /// Authenticates the admin queue anew.
    ///
    /// # Errors
    /// As [`Client::authenticate`].
    pub fn authenticate_admin(&mut self) -> Result<(), ClientError> {
        let (options, channel) = (&self.options, SecureChannel::None);
        authenticate(&mut self.admin, options, self.pool, channel).map(|_| ())
    }

    /// Tells the controller that the host lives; due every half of the keep-alive timeout.
    ///
    /// # Errors
    /// As [`Client::admin_command`].
    pub fn keep_alive(&mut self) -> Result<(), ClientError> {
        self.admin_command("Keep Alive", command::keep_alive(), Data::None).map(|_| ())
    }

    /// Shuts the controller down and closes the admin queue. I/O queues are closed by dropping
    /// them.
    ///
    /// # Errors
    /// If the controller does not answer.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        let value = command::CC_ENABLE | command::CC_SHUTDOWN;
        self.set_property("shutdown (Property Set CC)", offset::CC, value)
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
    let len = size_of::<ConnectData>();
    let mut buf = pool.get(len).ok_or(ClientError::NoBuffer(len))?;
    let data = ConnectData::new(options.host_id, cntlid, &options.subsystem_nqn, &options.host_nqn);
    buf.as_mut_slice()[..len].copy_from_slice(data.as_bytes());
    let kato_ms = if queue_id == 0 { options.kato_ms } else { 0 };
    let depth = options.admin_depth;
    let sqe = ConnectCommand::new(queue_id, depth, options.no_flow_control, kato_ms).to_sqe();
    let what = "Fabrics Connect";
    let done = queue.execute(what, sqe, Data::ToController(buf), options.limit)?;
    let cqe = successful(what, done)?.cqe;
    Ok(cqe)
}

/// Does what the Connect response asks for.
fn prove(
    queue: &mut QueuePair,
    options: &ClientOptions,
    pool: BufPool,
    cqe: &Cqe,
) -> Result<(), ClientError> {
    let asks = |bit: u32| cqe.result.get() & u64::from(bit) != 0;
    let must_prove = options.auth.as_ref().is_some_and(|auth| auth.controller_key.is_some());
    if asks(CONNECT_ASCR) {
        Err(ClientError::NeedsChannel(options.addr))
    } else if asks(CONNECT_ATR) {
        authenticate(queue, options, pool, SecureChannel::None).map(|_| ())
    } else if must_prove && !options.concat {
        Err(ClientError::NotAsked(options.addr))
    } else {
        Ok(())
    }
}

/// Proves this host on an admin queue in the clear, and makes a key for TLS of it.
fn make_key(
    options: &ClientOptions,
    config: HostConfig,
    pool: BufPool,
) -> Result<TlsPsk, ClientError> {
    let mut admin = QueuePair::open(options.addr, config, options.limit)?;
    fabrics_connect(&mut admin, options, pool, 0, CNTLID_DYNAMIC)?;
    let key = authenticate(&mut admin, options, pool, SecureChannel::New)?;
    Ok(key.expect("it was asked for"))
}

/// Room for the controller's messages.
const AUTH_ROOM_BYTES: usize = 4096;

/// Proves this host on a connected queue, and has the controller prove itself. Returns the key for
/// TLS, if one was to be made.
fn authenticate(
    queue: &mut QueuePair,
    options: &ClientOptions,
    pool: BufPool,
    channel: SecureChannel,
) -> Result<Option<TlsPsk>, ClientError> {
    let addr = options.addr;
    let mut auth = options.auth.clone().ok_or(ClientError::NoKey(addr))?;
    auth.channel = channel;
    let (host, subsystem) = (&options.host_nqn, &options.subsystem_nqn);
    let mut own = HostAuthenticator::new(auth, host, subsystem, 1);
    while own.state() != HostAuthState::Done {
        auth_send(queue, options, pool, own.message())?;
        if own.state() == HostAuthState::Confirm {
            own.confirmed();
            break;
        }
        let sqe = AuthCommand::receive(room_u32()).to_sqe();
        let room = pool.get(AUTH_ROOM_BYTES).ok_or(ClientError::NoBuffer(AUTH_ROOM_BYTES))?;
        let what = "Authentication Receive";
        let done = queue.execute(what, sqe, Data::ToHost(room), options.limit)?;
        let buf = successful(what, done)?.buf;
        let message = buf.as_ref().map_or(&[][..], |buf| buf.as_slice());
        if let Err(error) = own.received(message) {
            if !matches!(error, HostAuthError::Refused(_)) {
                auth_send(queue, options, pool, own.message())?;
            }
            return Err(ClientError::Authentication { addr, error });
        }
    }
    Ok(own.generated().cloned())
}

fn room_u32() -> u32 {
    u32::try_from(AUTH_ROOM_BYTES).expect("a small constant")
}

fn auth_send(
    queue: &mut QueuePair,
    options: &ClientOptions,
    pool: BufPool,
    message: &[u8],
) -> Result<(), ClientError> {
    let mut buf = pool.get(message.len()).ok_or(ClientError::NoBuffer(message.len()))?;
    buf.as_mut_slice()[..message.len()].copy_from_slice(message);
    let len = u32::try_from(message.len()).expect("messages are short");
    let what = "Authentication Send";
    let sqe = AuthCommand::send(len).to_sqe();
    successful(what, queue.execute(what, sqe, Data::ToController(buf), options.limit)?).map(|_| ())
}

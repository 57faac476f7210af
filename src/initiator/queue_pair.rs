//! One queue pair over `std::net::TcpStream`, polled.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::auth::HostAuthError;
use super::command;
use super::conn::{Data, HostCompletion, HostConfig, HostConnection, HostPhase};
use crate::reactor::buf::IoBuf;
use crate::secure::psk::TlsPsk;
use crate::secure::tls::{TlsChannel, TlsError, TlsState};
use crate::wire::nvme::{Sqe, Status, opcode};
use crate::wire::tcp::{PduError, TransmitVec};

/// Bytes read from the socket at once where they do not go straight to a buffer.
const STAGING_BYTES: usize = 64 * 1024;
/// A payload remainder from this size on is received straight into its buffer.
const DIRECT_BYTES_MIN: usize = 4096;
/// Segments that one write takes.
const SLICES_MAX: usize = 64;
/// Between two looks at a socket that had nothing.
pub(super) const WAIT_STEP: Duration = Duration::from_micros(50);

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
    /// Authentication failed.
    #[error("authentication with {addr} failed: {error}")]
    Authentication {
        /// The target.
        addr: SocketAddr,
        /// Why.
        error: HostAuthError,
    },
    /// TLS failed.
    #[error("TLS with {addr} failed: {error}")]
    Tls {
        /// The target.
        addr: SocketAddr,
        /// Why.
        error: TlsError,
    },
    /// The controller wants to be convinced, and there is no key for it.
    #[error("the controller at {0} wants authentication, for which there is no key")]
    NoKey(SocketAddr),
    /// The controller wants a secure channel made of the authentication.
    #[error("the controller at {0} wants a secure channel made of the authentication (concat)")]
    NeedsChannel(SocketAddr),
    /// A key is given, and the controller wants none.
    #[error("the controller at {0} wants no authentication, so that it can't prove itself")]
    NotAsked(SocketAddr),
    /// An NQN is too long or empty.
    #[error("{0:?} is no NQN: 1 to 223 bytes are needed")]
    BadNqn(String),
}

fn terminated(fes: &Option<(u16, u32)>) -> String {
    fes.map_or(String::new(), |(fes, fei)| {
        format!(" (fatal error status {fes:#x}, information {fei:#x})")
    })
}

fn tls_failed(addr: SocketAddr, error: TlsError) -> ClientError {
    ClientError::Tls { addr, error }
}

/// One queue: a connection and its socket.
#[derive(Debug)]
pub struct QueuePair {
    addr: SocketAddr,
    stream: TcpStream,
    conn: HostConnection,
    staging: Box<[u8]>,
    out: Box<TransmitVec>,
    tls: Option<TlsChannel>,
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
        Self::open_secured(addr, config, None, limit)
    }

    /// The same under TLS, if there is a key for it.
    ///
    /// # Errors
    /// Besides: if the controller has another key.
    pub fn open_secured(
        addr: SocketAddr,
        config: HostConfig,
        tls: Option<TlsPsk>,
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
            tls: tls
                .map(TlsChannel::client)
                .transpose()
                .map_err(|error| tls_failed(addr, error))?,
        };
        let end = Instant::now() + limit;
        while queue.conn.phase() == HostPhase::AwaitIcResp {
            queue.poll_or_wait(end, "ICReq", limit)?;
        }
        Ok(queue)
    }

    fn tls_failed(&self, error: TlsError) -> ClientError {
        match error {
            TlsError::Closed => self.closed(),
            error => tls_failed(self.addr, error),
        }
    }

    /// Under TLS: encrypts what waits, and sends what was encrypted.
    fn send_secured(&mut self) -> Result<bool, ClientError> {
        let mut tls = self.tls.take().expect("the caller has looked");
        let result = self.send_through(&mut tls);
        self.tls = Some(tls);
        result
    }

    fn send_through(&mut self, tls: &mut TlsChannel) -> Result<bool, ClientError> {
        let mut moved = false;
        let mut is_open = tls.state() == TlsState::Open;
        if tls.state() == TlsState::Handshake {
            tls.read(&mut []).map_err(|error| self.tls_failed(error))?;
        }
        loop {
            while is_open && tls.outgoing().len() < STAGING_BYTES {
                if self.conn.poll_transmit(&mut self.out) == 0 {
                    is_open = false;
                    break;
                }
                let mut taken = 0;
                for segment in self.out.segments() {
                    // SAFETY: the connection keeps the memory of its segments in place and
                    // unchanged until `transmitted`, which comes after this.
                    let data = unsafe { std::slice::from_raw_parts(segment.ptr, segment.len) };
                    let mut done = 0;
                    while done < data.len() {
                        let more = tls.write(&data[done..]);
                        done += more.map_err(|error| tls_failed(self.addr, error))?;
                    }
                    taken += done;
                }
                self.conn.transmitted(taken);
            }
            if tls.outgoing().is_empty() {
                return Ok(moved);
            }
            match self.stream.write(tls.outgoing()) {
                Ok(n) => {
                    tls.sent(n);
                    moved |= n > 0;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
                Err(source) => return Err(ClientError::Io { addr: self.addr, source }),
            }
        }
    }

    /// Under TLS: reads once, and takes what that makes readable.
    fn receive_secured(&mut self) -> Result<bool, ClientError> {
        let mut tls = self.tls.take().expect("the caller has looked");
        let result = self.receive_through(&mut tls);
        self.tls = Some(tls);
        result
    }

    fn receive_through(&mut self, tls: &mut TlsChannel) -> Result<bool, ClientError> {
        let moved = match self.stream.read(&mut self.staging) {
            Ok(0) => return Err(self.closed()),
            Ok(n) => {
                tls.feed(&self.staging[..n]);
                true
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                false
            }
            Err(source) => return Err(ClientError::Io { addr: self.addr, source }),
        };
        loop {
            let n = tls.read(&mut self.staging).map_err(|error| self.tls_failed(error))?;
            if n == 0 {
                return Ok(moved);
            }
            self.conn.handle_bytes(&self.staging[..n]);
        }
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
    /// [`HostConnection::submit`]; returns the CID.
    ///
    /// # Panics
    /// If [`QueuePair::can_submit`] says no.
    pub fn submit(&mut self, sqe: Sqe, data: Data, tag: u64) -> u16 {
        self.conn.submit(sqe, data, tag)
    }

    /// Queues a read of `blocks` blocks from `lba` into `buf`.
    ///
    /// # Panics
    /// As [`QueuePair::submit`], and if `blocks` is 0.
    pub fn submit_read(&mut self, nsid: u32, lba: u64, blocks: u16, buf: IoBuf, tag: u64) {
        self.submit(
            command::transfer(opcode::nvm::READ, nsid, lba, blocks),
            Data::ToHost(buf),
            tag,
        );
    }

    /// Queues a write of `blocks` blocks from `buf` to `lba`.
    ///
    /// # Panics
    /// As [`QueuePair::submit`], and if `blocks` is 0.
    pub fn submit_write(&mut self, nsid: u32, lba: u64, blocks: u16, buf: IoBuf, tag: u64) {
        self.submit(
            command::transfer(opcode::nvm::WRITE, nsid, lba, blocks),
            Data::ToController(buf),
            tag,
        );
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
        let received = if self.tls.is_some() { self.receive_secured()? } else { self.receive()? };
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
        if self.tls.is_some() {
            return self.send_secured();
        }
        let mut moved = false;
        while self.conn.poll_transmit(&mut self.out) > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.out.segments().len().min(SLICES_MAX);
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

//! TLS 1.3 with a pre-shared key between the bytes of a socket and those of NVMe/TCP: bytes in,
//! bytes out, no socket. OpenSSL does it over two buffers in memory.
//!
//! After the handshake somebody else may take the records over ([`TlsChannel::hand_over`]): the
//! kernel, which does it on the socket itself.

mod external;
pub mod traffic;

use std::io::{self, Read, Write};
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{
    ClientHelloResponse, ErrorCode, Ssl, SslContext, SslMethod, SslMode, SslStream, SslVersion,
};

use super::Hash;
use super::psk::TlsPsk;
use traffic::{Records, Traffic};

/// The cipher suite that NVMe/TCP names for a key of this hash function (Transport 1.1, section
/// 3.6.1.1).
fn suite(hash: Hash) -> &'static str {
    if hash == Hash::Sha256 { "TLS_AES_128_GCM_SHA256" } else { "TLS_AES_256_GCM_SHA384" }
}

/// Memory of one channel at most, with OpenSSL's own: what was received and not read, what was
/// written and not sent, and OpenSSL's buffers of one record each way.
pub const TLS_BYTES_MAX: usize = 160 * 1024;

/// Where a server finds the key that a client names.
pub trait FindPsk: Send + Sync {
    /// The key of this identity.
    fn find_psk(&self, identity: &str) -> Option<TlsPsk>;
}

/// Why a channel ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The client has offered no key that is known here.
    #[error("it offered no pre-shared key that is set here for it, or that was made with it")]
    NoKey,
    /// The peer has said goodbye.
    #[error("the peer has closed the secure channel")]
    Closed,
    /// OpenSSL does not go on.
    #[error("{0}")]
    Failed(String),
}

/// What OpenSSL reads from and writes to.
#[derive(Debug, Default)]
struct Pipe {
    incoming: Vec<u8>,
    /// Bytes of it that were read.
    read: usize,
    outgoing: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let waiting = &self.incoming[self.read..];
        if waiting.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = waiting.len().min(out.len());
        out[..len].copy_from_slice(&waiting[..len]);
        self.read += len;
        if self.read == self.incoming.len() {
            self.incoming.clear();
            self.read = 0;
        }
        Ok(len)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a channel is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsState {
    /// Keys are being agreed on; no data.
    Handshake,
    /// Data flow.
    Open,
    /// It has failed, or the peer has closed it. What is still to be sent may be.
    Ended,
}

/// One side of a secure channel.
#[derive(Debug)]
pub struct TlsChannel {
    stream: SslStream<Pipe>,
    state: TlsState,
    /// Where in the peer's stream of records it is, while somebody else may take over.
    records: Option<Records>,
    /// What they need, from the end of the handshake until the channel is used.
    traffic: Option<Traffic>,
}

/// The settings of all channels.
fn context(
    method: SslMethod,
    is_server: bool,
    tells_secrets: bool,
) -> Result<SslContext, ErrorStack> {
    let mut builder = SslContext::builder(method)?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_ciphersuites("TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256")?;
    builder.set_mode(SslMode::RELEASE_BUFFERS | SslMode::ENABLE_PARTIAL_WRITE);
    // A key is for this handshake: nothing is resumed.
    builder.set_num_tickets(0)?;
    if tells_secrets {
        builder.set_keylog_callback(external::note_secret);
    }
    if is_server {
        // A suite is chosen before a key is looked for: only that of the key will do.
        builder.set_client_hello_callback(|ssl, _| {
            if let Some(hash) = external::hash_of_offered(ssl) {
                ssl.set_ciphersuites(suite(hash))?;
            }
            Ok(ClientHelloResponse::SUCCESS)
        });
    }
    Ok(builder.build())
}

impl TlsChannel {
    /// The server's side of a new channel.
    ///
    /// # Errors
    /// If OpenSSL can't.
    pub fn server(keys: Arc<dyn FindPsk>) -> Result<Self, TlsError> {
        Self::make_server(keys, false)
    }

    /// The server's side of a new channel that can be handed over after its handshake.
    ///
    /// # Errors
    /// If OpenSSL can't.
    pub fn server_to_hand_over(keys: Arc<dyn FindPsk>) -> Result<Self, TlsError> {
        let mut channel = Self::make_server(keys, true)?;
        channel.records = Some(Records::default());
        Ok(channel)
    }

    fn make_server(keys: Arc<dyn FindPsk>, tells_secrets: bool) -> Result<Self, TlsError> {
        let make = || {
            let settings = context(SslMethod::tls_server(), true, tells_secrets)?;
            let mut ssl = Ssl::new(&settings)?;
            ssl.set_accept_state();
            external::serve(&mut ssl, keys)?;
            SslStream::new(ssl, Pipe::default())
        };
        make().map(Self::over).map_err(|error| TlsError::Failed(error.to_string()))
    }

    /// The client's side of a new channel.
    ///
    /// # Errors
    /// If OpenSSL can't.
    pub fn client(key: TlsPsk) -> Result<Self, TlsError> {
        let make = || {
            let settings = context(SslMethod::tls_client(), false, false)?;
            let mut ssl = Ssl::new(&settings)?;
            ssl.set_connect_state();
            ssl.set_ciphersuites(suite(key.hash))?;
            external::offer(&mut ssl, key)?;
            SslStream::new(ssl, Pipe::default())
        };
        make().map(Self::over).map_err(|error| TlsError::Failed(error.to_string()))
    }

    fn over(stream: SslStream<Pipe>) -> Self {
        Self { stream, state: TlsState::Handshake, records: None, traffic: None }
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> TlsState {
        self.state
    }

    /// The one place where the state changes.
    fn set_state(&mut self, next: TlsState) {
        let may = matches!(
            (self.state, next),
            (TlsState::Handshake, TlsState::Open | TlsState::Ended)
                | (TlsState::Open, TlsState::Ended)
        );
        assert!(may, "a secure channel goes from {:?} to {next:?}", self.state);
        self.state = next;
    }

    /// The identity that a server has found the key for.
    #[must_use]
    pub fn identity(&self) -> Option<String> {
        external::identity(self.stream.ssl())
    }

    /// How many bytes of the peer may be fed at a time at most, so that the handshake ends with
    /// nothing behind it; `None`: as many as there are.
    #[must_use]
    pub fn wanted_bytes(&self) -> Option<usize> {
        self.records.as_ref().map(Records::wanted_bytes)
    }

    /// The handshake is over, and nothing else was sent or received: whoever has the secrets may
    /// go on in place of this channel, with the sequence number 0 in both directions.
    #[must_use]
    pub fn can_hand_over(&self) -> bool {
        self.traffic.is_some()
    }

    /// Gives the secrets away, if it can: nothing may be done with the channel then. What it has
    /// to send ([`TlsChannel::outgoing`]) belongs to the handshake and is to leave before.
    pub fn hand_over(&mut self) -> Option<Traffic> {
        self.traffic.take()
    }

    /// The handshake is over. Where more has come than that, it stays with OpenSSL.
    fn opened(&mut self) {
        self.set_state(TlsState::Open);
        let traffic = external::take_traffic(self.stream.ssl());
        external::forget_keys(self.stream.ssl());
        let is_clean = self.records.take().is_some_and(|records| records.is_between())
            && self.stream.get_ref().incoming.is_empty();
        self.traffic = traffic.filter(|_| is_clean);
    }

    /// Changes the key of what is sent from now on (`KeyUpdate`); `asks`: the peer is to change
    /// its own, too. Whether it may be changed now.
    pub fn update_key(&mut self, asks: bool) -> bool {
        external::update_key(self.stream.ssl(), asks)
    }

    /// Bytes from the peer.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.traffic = None;
        if let Some(records) = &mut self.records {
            records.follow(bytes);
        }
        self.stream.get_mut().incoming.extend_from_slice(bytes);
    }

    /// Bytes for the peer; [`TlsChannel::sent`] takes them away.
    #[must_use]
    pub fn outgoing(&self) -> &[u8] {
        &self.stream.get_ref().outgoing
    }

    /// Takes away all that is to be sent.
    pub fn take_outgoing(&mut self, into: &mut Vec<u8>) {
        let outgoing = &mut self.stream.get_mut().outgoing;
        if into.is_empty() {
            // Nothing is copied.
            std::mem::swap(into, outgoing);
        } else {
            into.append(outgoing);
        }
    }

    /// The peer has taken so many bytes.
    pub fn sent(&mut self, bytes: usize) {
        self.stream.get_mut().outgoing.drain(..bytes);
    }

    /// Whether data flow; goes on with the handshake if they don't yet.
    fn is_open(&mut self) -> Result<bool, TlsError> {
        match self.state {
            TlsState::Open => return Ok(true),
            TlsState::Ended => return Err(TlsError::Closed),
            TlsState::Handshake => {}
        }
        match self.stream.do_handshake() {
            Ok(()) => {
                self.opened();
                Ok(true)
            }
            Err(error) if is_patience(&error) => Ok(false),
            Err(error) => Err(self.fail(&error)),
        }
    }

    fn fail(&mut self, error: &openssl::ssl::Error) -> TlsError {
        let in_handshake = self.state == TlsState::Handshake;
        if self.state != TlsState::Ended {
            self.set_state(TlsState::Ended);
        }
        self.traffic = None;
        if error.code() == ErrorCode::ZERO_RETURN {
            return TlsError::Closed;
        }
        if in_handshake && external::was_asked_in_vain(self.stream.ssl()) {
            return TlsError::NoKey;
        }
        let first = error.ssl_error().and_then(|stack| stack.errors().first().cloned());
        let reason = first.and_then(|error| error.reason().map(str::to_owned));
        TlsError::Failed(reason.unwrap_or_else(|| error.to_string()))
    }

    /// Reads what the peer has sent; 0: nothing for now. Also what brings the handshake forward.
    ///
    /// # Errors
    /// If the channel has ended.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, TlsError> {
        if !self.is_open()? {
            return Ok(0);
        }
        if out.is_empty() {
            return Ok(0);
        }
        match self.stream.ssl_read(out) {
            Ok(len) => Ok(len),
            Err(error) if is_patience(&error) => Ok(0),
            Err(error) => Err(self.fail(&error)),
        }
    }

    /// Encrypts data for the peer and returns how much of them; 0 before the handshake is over.
    ///
    /// # Errors
    /// If the channel has ended.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, TlsError> {
        if !self.is_open()? {
            return Ok(0);
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        self.traffic = None;
        match self.stream.ssl_write(bytes) {
            Ok(len) => Ok(len),
            Err(error) if is_patience(&error) => Ok(0),
            Err(error) => Err(self.fail(&error)),
        }
    }
}

/// Whether more bytes of the peer are all that is missing.
fn is_patience(error: &openssl::ssl::Error) -> bool {
    matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE)
}

#[cfg(test)]
mod tests;

//! Connections under TLS, as long as it is OpenSSL's (`kernel_tls` is what comes after): what was
//! received is decrypted before the protocol sees it, what the protocol has to send is encrypted
//! and leaves from a buffer of its own.

use std::sync::Arc;

use io_uring::opcode;

use super::queue::Conn;
use super::shard::{KIND_SEND, Shard, ShardCore};
use crate::reactor::ring::UserData;
use crate::secure::psk;
use crate::secure::tls::{FindPsk, TLS_BYTES_MAX, TlsChannel, TlsError, TlsState};
use crate::target::controller::{ConnectRequest, Refusal};
use crate::target::subsystem::Nqn;
use crate::wire::tcp::transmit::Segment;

/// Data that are encrypted at a time: one record of TLS.
const RECORD_BYTES: usize = 16 * 1024;

/// Data that are encrypted before they are sent at most.
const SEND_BYTES: usize = 2 * RECORD_BYTES;

/// What the kernel sends at a time at most: that, heads and tags of the records, what is left of a
/// handshake; and as much again, for memory that grows is doubled.
const LEAVING_BYTES: usize = 2 * (SEND_BYTES + 4096);

/// What TLS takes of a connection's memory at most.
pub(super) const BYTES_MAX: usize =
    TLS_BYTES_MAX + RECORD_BYTES + LEAVING_BYTES + size_of::<TlsSocket>();

/// TLS of a connection.
#[derive(Debug)]
pub(super) struct TlsSocket {
    pub(super) channel: TlsChannel,
    /// Data that become the next record.
    gathered: Vec<u8>,
    /// What the kernel sends, and how much of it has left.
    leaving: Vec<u8>,
    left: usize,
    /// The channel has ended: what is still to be sent is, then the connection ends.
    pub(super) has_ended: bool,
}

impl TlsSocket {
    /// For a new connection; keys are found here. After the handshake the kernel may have it, if
    /// it is `for_kernel`.
    pub(super) fn new(keys: Arc<dyn FindPsk>, for_kernel: bool) -> Result<Box<Self>, TlsError> {
        let make = if for_kernel { TlsChannel::server_to_hand_over } else { TlsChannel::server };
        Ok(Box::new(Self {
            channel: make(keys)?,
            gathered: Vec::with_capacity(RECORD_BYTES),
            leaving: Vec::new(),
            left: 0,
            has_ended: false,
        }))
    }

    /// How many bytes of the peer may be received at a time at most.
    pub(super) fn room_bytes(&self) -> usize {
        self.channel.wanted_bytes().map_or(RECORD_BYTES, |wanted| wanted.min(RECORD_BYTES))
    }

    /// Bytes of the peer.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.channel.feed(bytes);
    }

    /// Data of the peer; 0: none for now.
    pub(super) fn decrypt(&mut self, out: &mut [u8]) -> Result<usize, TlsError> {
        self.channel.read(out)
    }

    /// Who the peer has proven to be.
    pub(super) fn identity(&self) -> Option<String> {
        self.channel.identity()
    }

    /// Something of it has not left.
    pub(super) fn has_unsent(&self) -> bool {
        !self.leaving.is_empty() || !self.channel.outgoing().is_empty()
    }

    /// The kernel has taken so many bytes.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.left += bytes;
        if self.left >= self.leaving.len() {
            self.leaving.clear();
            self.left = 0;
        }
    }

    /// Encrypts what these segments hold, and returns how much of it.
    fn encrypt(&mut self, segments: &[Segment]) -> Result<usize, TlsError> {
        let mut taken = 0;
        for segment in segments {
            // SAFETY: the protocol keeps the memory of its segments in place and unchanged until
            // it is told that they have left, which comes after this.
            let mut bytes = unsafe { std::slice::from_raw_parts(segment.ptr, segment.len) };
            while !bytes.is_empty() && taken < SEND_BYTES {
                let len = bytes.len().min(RECORD_BYTES - self.gathered.len());
                self.gathered.extend_from_slice(&bytes[..len]);
                bytes = &bytes[len..];
                taken += len;
                if self.gathered.len() == RECORD_BYTES {
                    self.write_record()?;
                }
            }
        }
        self.write_record()?;
        Ok(taken)
    }

    fn write_record(&mut self) -> Result<(), TlsError> {
        let mut done = 0;
        while done < self.gathered.len() {
            let more = self.channel.write(&self.gathered[done..])?;
            assert!(more > 0, "an open channel takes data, for they go into memory");
            done += more;
        }
        self.gathered.clear();
        Ok(())
    }
}

impl Shard {
    /// A connection has come to an address where TLS is due.
    pub(super) fn open_secured(&mut self, core: &mut ShardCore, index: u16) {
        if self.begin_tls(core, index, self.table.clone()) {
            self.watch(core, index);
        }
    }

    /// What comes on this connection is under TLS. Says whether it can be.
    pub(super) fn begin_tls(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        keys: Arc<dyn FindPsk>,
    ) -> bool {
        let for_kernel = self.kernel_tls && self.table.kernel_tls();
        match TlsSocket::new(keys, for_kernel) {
            Ok(tls) => {
                let conn = self.connections.get(index).expect("it has just come");
                conn.socket.tls = Some(tls);
                true
            }
            Err(error) => {
                self.close_connection(core, index, &format!("no TLS: {error}"));
                false
            }
        }
    }

    /// Sends what a connection under TLS has gathered.
    pub(super) fn send_secured(&mut self, core: &mut ShardCore, index: u16) {
        let conn = self.connections.get(index).expect("it has something to send");
        let Conn { socket, protocol, .. } = conn;
        let (fd, transmit) = (socket.fd(), &mut socket.transmit);
        let tls = socket.tls.as_deref_mut().expect("it is under TLS");
        if tls.leaving.is_empty() {
            let is_open = tls.channel.state() == TlsState::Open;
            if is_open && protocol.poll_transmit(transmit) > 0 {
                let encrypted = tls.encrypt(transmit.segments());
                protocol.transmitted(encrypted.as_ref().map_or(0, |len| *len));
                if let Err(error) = encrypted {
                    return self.tls_ended(core, index, &error);
                }
            }
            tls.channel.take_outgoing(&mut tls.leaving);
        }
        let rest = &tls.leaving[tls.left..];
        if rest.is_empty() {
            return;
        }
        let len = u32::try_from(rest.len()).expect("bounded by SEND_BYTES");
        let entry = opcode::Send::new(fd, rest.as_ptr(), len).flags(libc::MSG_NOSIGNAL).build();
        socket.sending = true;
        socket.send_began_ms = core.io.now_ms();
        let data = UserData { kind: KIND_SEND, extra: 0, object: index, op: 0 };
        // SAFETY: the buffer is not touched until `sent`, and the connection is not dropped before
        // this send has ended.
        unsafe { core.io.ring.push(entry, data) };
    }

    /// The secure channel has ended: the peer is told why, if there is something to tell.
    pub(super) fn tls_ended(&mut self, core: &mut ShardCore, index: u16, error: &TlsError) {
        let now_ms = core.io.now_ms();
        let conn = self.connections.get(index).expect("it has just failed");
        let who = conn.describe();
        let tls = conn.socket.tls.as_deref_mut().expect("it is under TLS");
        tls.has_ended = true;
        if tls.has_unsent() {
            conn.socket.linger_from_ms.get_or_insert(now_ms);
            self.connections.wants_to_send(index);
        }
        let has_unsent = self.connections.get(index).is_some_and(|conn| conn.socket.has_unsent());
        if *error != TlsError::Closed && self.connections.log.allows() {
            tracing::warn!("connection of {who} ends, TLS has failed: {error}");
        }
        if !has_unsent {
            self.close_connection(core, index, "");
        }
    }

    /// Whether this Connect may come by this connection: a host with a key for TLS comes under TLS
    /// only, and under TLS nobody but who has proven to have the key. One that must make a secure
    /// channel of its authentication does that on an admin queue, and nothing else in the clear.
    pub(super) fn check_channel(
        &mut self,
        index: u16,
        request: &ConnectRequest,
    ) -> Result<(), Refusal> {
        let is_known = self.generated_key(index).is_some();
        let conn = self.connections.get(index).expect("the command came from it");
        let (peer, identity) = (conn.peer, conn.socket.tls_identity());
        let (host, nqn) = (request.hostnqn.as_str(), request.subnqn.as_str());
        let why = match &identity {
            Some(identity) => {
                let is_generated = psk::is_generated(identity);
                let is_meant = psk::party(identity).is_some_and(|party| {
                    let is_discovery = request.subnqn == Nqn::discovery() && !is_generated;
                    party.hostnqn == host && (party.subnqn == nqn || is_discovery)
                });
                match (is_meant, is_generated) {
                    (false, _) => "its TLS key is that of another host or subsystem",
                    (true, true) if !is_known => {
                        "its TLS key, which an authentication has made, does not hold any more"
                    }
                    (true, _) => return Ok(()),
                }
            }
            None => {
                let subsystem = self.table.find(&request.subnqn);
                let keys = subsystem.and_then(|known| known.keys_of(&request.hostnqn));
                match keys {
                    Some(keys) if keys.psk.is_some() => {
                        "it has a TLS key (psk) and came without TLS"
                    }
                    Some(keys) if keys.must_concatenate() && request.qid != 0 => {
                        "its I/O queue came without TLS (concat)"
                    }
                    _ => return Ok(()),
                }
            }
        };
        if self.connections.log.allows() {
            tracing::warn!("{peer}: host {host} is refused for {nqn}: {why}");
        }
        Err(Refusal::invalid_host())
    }
}

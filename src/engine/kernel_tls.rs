//! The kernel's TLS: OpenSSL shakes hands, then the kernel gets the keys and the connection goes
//! the way of those without TLS, its records encrypted and decrypted in the socket.
//!
//! The handshake is received record by record, so that nothing behind it has come when it ends:
//! both directions begin with the sequence number 0, and OpenSSL has seen none of their records.
//! Where the kernel does not take the keys the connection stays with OpenSSL.
//!
//! Records without data (alerts, `KeyUpdate`) fail a receive with EIO and are then received with
//! their type.

use std::ffi::{c_int, c_void};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketType};
use zerocopy::native_endian::{I32, U16};

use super::shard::{Shard, ShardCore};
use crate::secure::Secret;
use crate::secure::tls::traffic::{RecordKeys, Traffic};

/// The name of the protocol over TCP (`TCP_ULP`).
const ULP: &[u8] = b"tls";

// linux/tls.h.
const TLS_TX: c_int = 1;
const TLS_RX: c_int = 2;
const TLS_RX_EXPECT_NO_PAD: c_int = 4;
const TLS_SET_RECORD_TYPE: c_int = 1;
const TLS_GET_RECORD_TYPE: c_int = 2;
const TLS_1_3: u16 = 0x0304;
const AES_GCM_128: u16 = 51;
const AES_GCM_256: u16 = 52;

/// Types of records (RFC 8446, section 5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// The alert with which a side says that it sends no more: a warning, 0.
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// A `KeyUpdate` that asks for none (RFC 8446, section 4.6.3): kind, length, 0.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// A record without data has no more bytes than that, or it is refused.
const CONTROL_BYTES_MAX: usize = 64;

/// A connection whose records are the kernel's.
#[derive(Debug)]
pub(super) struct KernelTls {
    /// Who the peer has proven to be.
    pub(super) identity: Option<String>,
    traffic: Traffic,
    /// The peer has asked for a change of our key: it comes before the next data.
    owes_update: bool,
}

/// What it takes of a connection's memory: two secrets of 48 bytes, and two names.
pub(super) const BYTES_MAX: usize = size_of::<KernelTls>() + 1024;

/// A record of the peer that has no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Control {
    /// It sends no more.
    Goodbye,
    /// It has failed, for this reason (RFC 8446, section 6).
    Alert(u8),
    /// It has changed its key; `asks`: we are to change ours.
    KeyUpdate { asks: bool },
    /// Of this type, and nothing that may come here.
    Misplaced(u8),
}

impl Control {
    fn parse(kind: u8, bytes: &[u8]) -> Self {
        match (kind, bytes) {
            (ALERT, [_, 0]) => Self::Goodbye,
            (ALERT, [_, reason]) => Self::Alert(*reason),
            (HANDSHAKE, [24, 0, 0, 1, asks @ (0 | 1)]) => Self::KeyUpdate { asks: *asks == 1 },
            _ => Self::Misplaced(kind),
        }
    }
}

impl KernelTls {
    /// Gives the kernel the keys of both directions. Nothing has happened to the connection where
    /// the first of these fails.
    fn begin(
        stream: &TcpStream,
        traffic: Traffic,
        identity: Option<String>,
    ) -> Result<Self, BeginError> {
        let fd = stream.as_raw_fd();
        let begin = set_option(fd, libc::IPPROTO_TCP, libc::TCP_ULP, ULP)
            .and_then(|()| set_keys(fd, TLS_TX, &traffic.send.keys()));
        begin.map_err(BeginError::Untouched)?;
        set_keys(fd, TLS_RX, &traffic.receive.keys()).map_err(BeginError::Half)?;
        // Records without padding are decrypted where they are received to. Others are decrypted
        // twice then; kernels before 6.0 do not know it.
        let _ = set_option(fd, libc::SOL_TLS, TLS_RX_EXPECT_NO_PAD, &I32::new(1).to_bytes());
        Ok(Self { identity, traffic, owes_update: false })
    }

    /// The peer has changed its key.
    fn follow(&mut self, stream: &TcpStream) -> io::Result<()> {
        self.traffic.receive = self.traffic.receive.next();
        set_keys(stream.as_raw_fd(), TLS_RX, &self.traffic.receive.keys())
    }

    /// Changes our key, if the peer has asked for it.
    pub(super) fn answer(&mut self, stream: &TcpStream) -> io::Result<()> {
        if !std::mem::take(&mut self.owes_update) {
            return Ok(());
        }
        send_record(stream.as_raw_fd(), HANDSHAKE, &KEY_UPDATE)?;
        self.traffic.send = self.traffic.send.next();
        set_keys(stream.as_raw_fd(), TLS_TX, &self.traffic.send.keys())
    }
}

/// The peer is told that nothing more will come, if there is room to tell it.
pub(super) fn say_goodbye(stream: &TcpStream) {
    // The connection ends either way.
    let _ = send_record(stream.as_raw_fd(), ALERT, &CLOSE_NOTIFY);
}

/// Why the kernel has not got the keys.
#[derive(Debug)]
enum BeginError {
    /// OpenSSL may go on.
    Untouched(io::Error),
    /// The kernel encrypts already, and would not decrypt.
    Half(io::Error),
}

/// Whether the kernel has TLS, which the operator is told.
pub(super) fn look() -> bool {
    let is_there = is_available();
    if is_there {
        tracing::info!("TLS: the kernel encrypts, unless kernel_tls = false leaves it to OpenSSL");
    } else {
        tracing::info!("TLS: OpenSSL encrypts, for this kernel has no TLS (module tls)");
    }
    is_there
}

/// Whether the kernel has TLS: it says of a socket without peer that it has none, else that it
/// knows no such protocol. Where TLS is a module that is not loaded, this loads it, if mdof may.
fn is_available() -> bool {
    let probe = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
    let Ok(probe) = probe else { return false };
    let answer = set_option(probe.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_ULP, ULP);
    answer.is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

impl Shard {
    /// A handshake is over: gives the kernel the keys if it is to have them, as soon as nothing of
    /// the handshake is on its way any more. Says whether the connection may receive on.
    pub(super) fn hand_over(&mut self, index: u16) -> bool {
        let conn = self.connections.get(index).expect("it has just shaken hands");
        let socket = &mut conn.socket;
        let Some(tls) = socket.tls.as_deref_mut() else { return true };
        if !tls.channel.can_hand_over() {
            return true;
        }
        if socket.sending || tls.has_unsent() {
            return false;
        }
        let traffic = tls.channel.hand_over().expect("just looked");
        let identity = tls.identity();
        // What has come meanwhile is told of by nobody.
        socket.readable = true;
        match KernelTls::begin(&socket.stream, traffic, identity) {
            Ok(kernel) => {
                socket.tls = None;
                socket.kernel_tls = Some(Box::new(kernel));
            }
            Err(error) => self.not_handed_over(index, &error),
        }
        true
    }

    /// The kernel does not take the keys; it is not asked again by this core.
    fn not_handed_over(&mut self, index: u16, error: &BeginError) {
        let conn = self.connections.get(index).expect("it has just shaken hands");
        let peer = conn.peer;
        match error {
            // The peer is gone.
            BeginError::Untouched(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {}
            BeginError::Untouched(error) => {
                self.kernel_tls = false;
                tracing::warn!(
                    "connection of {peer}: the kernel takes no keys for TLS ({error}); OpenSSL \
                     encrypts in its place, for all new connections of this core"
                );
            }
            BeginError::Half(error) => {
                self.kernel_tls = false;
                conn.socket.hung_up = true;
                // Nothing more can come or leave.
                let _ = rustix::net::shutdown(&conn.socket.stream, Shutdown::Both);
                tracing::warn!(
                    "connection of {peer} ends: the kernel took the key to send with under TLS, \
                     but none to receive ({error}); OpenSSL encrypts in its place, for all new \
                     connections of this core"
                );
            }
        }
    }

    /// Receiving has failed. Under the kernel's TLS a record without data may have come.
    pub(super) fn receive_failed(&mut self, core: &mut ShardCore, index: u16, errno: Errno) {
        let conn = self.connections.get(index).expect("it has just received");
        let error = io::Error::from(errno);
        let why = match (&conn.socket.kernel_tls, errno) {
            (None, _) => format!("receiving failed: {error}"),
            (Some(_), Errno::IO) => return self.receive_control(core, index),
            // The end of the stream, behind which the host has reset the connection.
            (Some(_), Errno::PIPE) => String::new(),
            (Some(_), Errno::BADMSG | Errno::INVAL | Errno::MSGSIZE) => {
                format!("TLS has failed: a record of the host does not decrypt ({error})")
            }
            (Some(_), _) => format!("receiving under the kernel's TLS failed: {error}"),
        };
        self.close_connection(core, index, &why);
    }

    /// Receives a record that has no data, and does what it says.
    fn receive_control(&mut self, core: &mut ShardCore, index: u16) {
        let conn = self.connections.get(index).expect("it has just received");
        let socket = &mut conn.socket;
        let kernel = socket.kernel_tls.as_deref_mut().expect("the caller has looked");
        let mut bytes = [0; CONTROL_BYTES_MAX];
        let control = match receive_record(socket.stream.as_raw_fd(), &mut bytes) {
            Ok((Some(kind), len)) => Control::parse(kind, &bytes[..len]),
            Ok((None, _)) => Control::Misplaced(0),
            Err(error) => {
                let why = format!("receiving under the kernel's TLS failed: {error}");
                return self.close_connection(core, index, &why);
            }
        };
        let why = match control {
            Control::Goodbye => String::new(),
            Control::Alert(reason) => format!("the host has ended TLS with the alert {reason}"),
            Control::Misplaced(kind) => {
                format!("TLS has failed: a record of type {kind} has no place here")
            }
            Control::KeyUpdate { asks } => match kernel.follow(&socket.stream) {
                Ok(()) => {
                    kernel.owes_update |= asks;
                    if asks {
                        self.connections.wants_to_send(index);
                    }
                    return;
                }
                Err(error) => format!(
                    "the host has changed its TLS key, and the kernel does not take another \
                     ({error}; Linux 6.14 and newer do): kernel_tls = false lets OpenSSL do it"
                ),
            },
        };
        self.close_connection(core, index, &why);
    }
}

/// Gives the kernel the keys of one direction, whose next record has the sequence number 0.
fn set_keys(fd: RawFd, direction: c_int, keys: &RecordKeys) -> io::Result<()> {
    set_option(fd, libc::SOL_TLS, direction, crypto_info(keys).bytes())
}

/// The form in which it takes them: `struct tls12_crypto_info_aes_gcm_128` and `_256`.
fn crypto_info(keys: &RecordKeys) -> Secret {
    let key = keys.key.bytes();
    let cipher = if key.len() == 16 { AES_GCM_128 } else { AES_GCM_256 };
    let (salt, iv) = keys.iv.bytes().split_at(4);
    let (version, cipher) = (U16::new(TLS_1_3).to_bytes(), U16::new(cipher).to_bytes());
    let parts: [&[u8]; 6] = [&version, &cipher, iv, key, salt, &[0; 8]];
    // The memory is had at once: no part of a key is left behind on the way.
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    Secret::new(bytes)
}

fn set_option(fd: RawFd, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).expect("options are short");
    let value = value.as_ptr().cast::<c_void>();
    // SAFETY: the descriptor is open, and the kernel reads so many bytes of the value.
    let result = unsafe { libc::setsockopt(fd, level, name, value, len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A control message with the type of a record.
#[repr(C)]
struct RecordType {
    head: libc::cmsghdr,
    kind: u8,
}

/// What its head says of its length.
const RECORD_TYPE_BYTES: usize = size_of::<libc::cmsghdr>() + 1;

/// A message of one part, with a control message.
fn message(part: &mut libc::iovec, control: &mut RecordType) -> libc::msghdr {
    // SAFETY: a message header is plain data, for which zeroes are valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header.msg_control = std::ptr::from_mut(control).cast();
    header.msg_controllen = size_of::<RecordType>();
    header
}

fn no_record_type() -> RecordType {
    // SAFETY: plain data, for which zeroes are valid.
    unsafe { std::mem::zeroed() }
}

/// Sends a record that has no data, if there is room for it now.
fn send_record(fd: RawFd, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = no_record_type();
    control.head.cmsg_len = RECORD_TYPE_BYTES;
    control.head.cmsg_level = libc::SOL_TLS;
    control.head.cmsg_type = TLS_SET_RECORD_TYPE;
    control.kind = kind;
    let header = message(&mut part, &mut control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the descriptor is open; what the header points to outlives the call, which reads it.
    let sent = unsafe { libc::sendmsg(fd, &raw const header, flags) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives a record, with its type.
fn receive_record(fd: RawFd, bytes: &mut [u8]) -> io::Result<(Option<u8>, usize)> {
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = no_record_type();
    let mut header = message(&mut part, &mut control);
    // SAFETY: the descriptor is open; what the header points to outlives the call, which fills it.
    let received = unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_DONTWAIT) };
    let len = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let is_typed = header.msg_controllen >= RECORD_TYPE_BYTES
        && control.head.cmsg_level == libc::SOL_TLS
        && control.head.cmsg_type == TLS_GET_RECORD_TYPE;
    Ok((is_typed.then_some(control.kind), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_kernels_form() {
        let iv = Secret::new((1..=12).collect());
        for (len, cipher) in [(16u8, 51u16), (32, 52)] {
            let key = Secret::new((100..100 + len).collect());
            let info = crypto_info(&RecordKeys { key: key.clone(), iv: iv.clone() });
            let bytes = info.bytes();
            assert_eq!(bytes.len(), usize::from(len) + 24);
            let head = [U16::new(0x0304).to_bytes(), U16::new(cipher).to_bytes()].concat();
            assert_eq!(bytes[..4], head);
            // The record's nonce is salt and IV, in this order; in the struct IV comes first.
            assert_eq!(bytes[4..12], [5, 6, 7, 8, 9, 10, 11, 12]);
            let (in_key, rest) = bytes[12..].split_at(usize::from(len));
            assert_eq!(in_key, key.bytes());
            assert_eq!(rest, [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn records_without_data_are_told_apart() {
        for (kind, bytes, control) in [
            (21, &[1, 0][..], Control::Goodbye),
            (21, &[2, 0], Control::Goodbye),
            (21, &[2, 20], Control::Alert(20)),
            (21, &[2], Control::Misplaced(21)),
            (22, &[24, 0, 0, 1, 0], Control::KeyUpdate { asks: false }),
            (22, &[24, 0, 0, 1, 1], Control::KeyUpdate { asks: true }),
            (22, &[24, 0, 0, 1, 2], Control::Misplaced(22)),
            (22, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], Control::Misplaced(22)),
            (22, &[], Control::Misplaced(22)),
            (20, &[1], Control::Misplaced(20)),
        ] {
            assert_eq!(Control::parse(kind, bytes), control, "{kind} {bytes:?}");
        }
    }

    /// Whatever the kernel has, a connection without keys is left as it was.
    #[test]
    fn a_socket_without_peer_gets_no_keys() {
        let probe = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        assert!(set_option(probe.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_ULP, ULP).is_err());
        let available = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp");
        if let Ok(available) = available {
            assert_eq!(is_available(), available.split_whitespace().any(|name| name == "tls"));
        }
    }
}

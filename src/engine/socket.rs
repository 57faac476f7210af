//! Receives and sends through the ring. Of a connection's descriptor nobody else knows but
//! `kernel_tls`, which gives the kernel its keys.
//!
//! The ring tells what has something to receive. It is received to a staging buffer of the core,
//! from which the protocol cuts its PDUs; a payload of which much is still to come is received
//! straight into its request's buffer. Where the protocol lacks a buffer for what comes next, the
//! connection keeps the staging buffer and gives the core its own. What a connection has to send
//! goes out in one send a turn.
//!
//! Where hosts come with and without TLS, `concat` looks at the first byte that has come.
//!
//! Under TLS that the kernel does, this is the same; under OpenSSL's, what is received and sent
//! takes the way through `tls`.

use std::io::IoSliceMut;
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::AsRawFd;

use io_uring::{cqueue, opcode, types};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, Shutdown, recv, recvmsg};

use super::kernel_tls::{self, KernelTls};
use super::queue::Conn;
use super::shard::{KIND_CANCEL, KIND_RECEIVE, KIND_SEND, Shard, ShardCore};
use super::tls::TlsSocket;
use crate::reactor::buf::Lender;
use crate::reactor::ring::UserData;
use crate::target::tcp::RxState;
use crate::wire::tcp::TransmitVec;

/// Bytes received at a time, beside the payload of a request.
pub(super) const STAGING_SIZE_BYTES: usize = 64 * 1024;

/// The same where headers of large payload are expected: the payload itself goes to its buffer.
const HEADERS_SIZE_BYTES: usize = 4096;

/// The same under TLS: one record.
const SECURED_SIZE_BYTES: usize = 16 * 1024;

/// Receives that a connection may do in a turn, as long as each gets all that it has room for. One
/// send then answers what came with all of them.
const RECEIVES_PER_TURN: usize = 4;

/// Receives in which data is copied to its buffer at once, after a loan in vain. Nothing is lost
/// where bdevs take data at once, and next to nothing where they do not.
const FEEDS_WITHOUT_LOANS: u16 = 256;

const _: () = assert!(HEADERS_SIZE_BYTES <= STAGING_SIZE_BYTES);
const _: () = assert!(SECURED_SIZE_BYTES <= STAGING_SIZE_BYTES);

/// What a connection's socket takes beside itself, without what it has to keep.
const HEAP_BYTES: usize = size_of::<TransmitVec>() + size_of::<libc::msghdr>();

/// The same at most.
pub(super) const HEAP_BYTES_MAX: usize = HEAP_BYTES + STAGING_SIZE_BYTES;

/// Connections in a row that get no buffer before the others are left for the next turn.
const VAIN_TRIES_MAX: u32 = 8;

/// Payload still to come from which on it is received straight into its buffer. Below, a copy is
/// cheaper than a receive of its own.
const DIRECT_SIZE_BYTES_MIN: usize = 4096;

/// The driver's part of a connection.
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    /// Bytes that were received and that the protocol could not take yet. Made when it is first
    /// needed.
    spill: Box<[u8]>,
    /// Where in it they lie.
    spilled: Range<usize>,
    /// The ring tells of each arrival.
    watched: bool,
    /// There may be something to receive.
    pub(super) readable: bool,
    /// The peer will send no more, or the connection has failed: receiving says which.
    pub(super) hung_up: bool,
    pub(super) sending: bool,
    /// Milliseconds of the reactor's clock when the send in flight began.
    pub(super) send_began_ms: u64,
    pub(super) transmit: Box<TransmitVec>,
    header: Box<libc::msghdr>,
    closing: bool,
    /// Receives to go before data stays in the staging buffer again until its bdev takes it.
    feeds_without_loans: u16,
    /// When the protocol ended the connection and the peer was left to close it.
    pub(super) linger_from_ms: Option<u64>,
    error_is_logged: bool,
    /// It may be under TLS or not, which its first byte says.
    pub(super) is_undecided: bool,
    /// TLS by OpenSSL, if it is due here and the kernel does not do it.
    pub(super) tls: Option<Box<TlsSocket>>,
    /// TLS by the kernel.
    pub(super) kernel_tls: Option<Box<KernelTls>>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Socket(readable {}, sending {}, closing {})",
            self.readable, self.sending, self.closing
        )
    }
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        // SAFETY: a message header is plain data, for which zeroes are valid.
        let header = unsafe { std::mem::zeroed() };
        Self {
            stream,
            spill: Box::default(),
            spilled: 0..0,
            watched: false,
            readable: false,
            hung_up: false,
            sending: false,
            send_began_ms: 0,
            transmit: Box::new(TransmitVec::new()),
            header: Box::new(header),
            closing: false,
            feeds_without_loans: 0,
            linger_from_ms: None,
            error_is_logged: false,
            is_undecided: false,
            tls: None,
            kernel_tls: None,
        }
    }

    /// Ends both directions; `false` if that was done before.
    pub(super) fn begin_close(&mut self) -> bool {
        if std::mem::replace(&mut self.closing, true) {
            return false;
        }
        if !self.sending {
            self.say_goodbye();
        }
        // Receives and sends in flight end now. An error says that the peer was first.
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Both);
        true
    }

    /// It is closed, or about to be.
    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    /// It is closed, and the kernel uses no memory of the connection any more.
    pub(super) fn is_drained(&self) -> bool {
        self.closing && !self.watched && !self.sending
    }

    /// What it takes beside itself.
    pub(super) fn heap_bytes(&self) -> usize {
        HEAP_BYTES + self.spill.len()
    }

    /// How long the send in flight has taken.
    pub(super) fn sending_for_ms(&self, now_ms: u64) -> u64 {
        if self.sending { now_ms.saturating_sub(self.send_began_ms) } else { 0 }
    }

    /// How long the peer has been left to close the connection.
    pub(super) fn lingering_for_ms(&self, now_ms: u64) -> u64 {
        self.linger_from_ms.map_or(0, |from_ms| now_ms.saturating_sub(from_ms))
    }

    /// Who the peer has proven to be, under TLS.
    pub(super) fn tls_identity(&self) -> Option<String> {
        match &self.kernel_tls {
            Some(kernel) => kernel.identity.clone(),
            None => self.tls.as_ref().and_then(|tls| tls.identity()),
        }
    }

    /// Who encrypts, under TLS.
    pub(super) fn tls_by(&self) -> Option<&'static str> {
        if self.kernel_tls.is_some() {
            return Some("kernel");
        }
        self.tls.as_ref().map(|_| "openssl")
    }

    /// The kernel's TLS says that nothing more is sent.
    fn say_goodbye(&self) {
        if self.kernel_tls.is_some() {
            kernel_tls::say_goodbye(&self.stream);
        }
    }

    /// Something that was encrypted has not left.
    pub(super) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_unsent())
    }

    /// Keeps what the protocol cannot take now, where it lies: the connection's memory becomes the
    /// core's in exchange. A core that lacks buffers may receive all that it is sent in this way,
    /// and would do little else than copy.
    fn keep(&mut self, staging: &mut Box<[u8]>, spilled: Range<usize>) {
        assert!(self.spilled.is_empty(), "nothing is received before the rest has been taken");
        if self.spill.is_empty() {
            self.spill = vec![0; STAGING_SIZE_BYTES].into_boxed_slice();
        }
        std::mem::swap(&mut self.spill, staging);
        self.spilled = spilled;
    }

    pub(super) fn fd(&self) -> types::Fd {
        types::Fd(self.stream.as_raw_fd())
    }
}

impl Shard {
    /// Lets the ring tell of every arrival from now on.
    pub(super) fn watch(&mut self, core: &mut ShardCore, index: u16) {
        let conn = self.connections.get(index).expect("it exists");
        let events = u32::from((libc::POLLIN | libc::POLLRDHUP).cast_unsigned());
        let entry = opcode::PollAdd::new(conn.socket.fd(), events).multi(true).build();
        conn.socket.watched = true;
        // SAFETY: the entry points to no memory; the descriptor stays open until the connection is
        // dropped, which waits for the last completion.
        unsafe { core.io.ring.push(entry, receive_data(index)) };
    }

    /// Lets the ring tell no more of arrivals.
    pub(super) fn unwatch(&mut self, core: &mut ShardCore, index: u16) {
        let conn = self.connections.get(index).expect("it exists");
        if conn.socket.watched {
            // Not PollRemove: that finds nothing while an arrival is just being told of.
            let entry = opcode::AsyncCancel::new(receive_data(index).pack()).build();
            let data = UserData { kind: KIND_CANCEL, extra: 0, object: 0, op: 0 };
            // SAFETY: the entry points to no memory.
            unsafe { core.io.ring.push(entry, data) };
        }
    }

    /// Something has arrived, or the ring tells no more of it.
    pub(super) fn arrived(&mut self, core: &mut ShardCore, index: u16, res: i32, flags: u32) {
        let conn = self.connections.get(index).expect("it waits for the last of these");
        let socket = &mut conn.socket;
        socket.watched = cqueue::more(flags);
        if socket.closing {
            return self.drop_if_drained(core, index);
        }
        if res < 0 && !matches!(-res, libc::EAGAIN | libc::EINTR | libc::ECANCELED) {
            let error = std::io::Error::from_raw_os_error(-res);
            let why = format!("waiting for data failed: {error}");
            return self.close_connection(core, index, &why);
        }
        let ends = i32::from(libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR);
        socket.hung_up |= res > 0 && res & ends != 0;
        socket.readable = true;
        let watched = socket.watched;
        self.receive_later(index);
        if !watched {
            self.watch(core, index);
        }
    }

    /// The connection has its turn to receive, if there may be something and there is use for it.
    pub(super) fn receive_later(&mut self, index: u16) {
        let Some(conn) = self.connections.get(index) else { return };
        let Socket { readable, closing, ref spilled, .. } = conn.socket;
        if !readable || closing || !spilled.is_empty() || !conn.protocol.wants_bytes() {
            return;
        }
        if !std::mem::replace(&mut conn.listed_to_receive, true) {
            self.connections.to_receive.push_back(index);
        }
    }

    /// Receives on connections for which something has arrived. Says whether there was one.
    pub(super) fn receive_arrivals(&mut self, core: &mut ShardCore) -> bool {
        let count = self.connections.to_receive.len();
        let mut staging = std::mem::take(&mut self.staging);
        for _ in 0..count {
            let Some(index) = self.connections.to_receive.pop_front() else { break };
            let conn = self.connections.get(index).expect("it is removed from the list first");
            conn.listed_to_receive = false;
            for _ in 0..RECEIVES_PER_TURN {
                if !self.receive(core, index, &mut staging) {
                    break;
                }
            }
            self.receive_later(index);
        }
        self.staging = staging;
        count > 0
    }

    /// Receives once. Says whether there may be more.
    fn receive(&mut self, core: &mut ShardCore, index: u16, staging: &mut Box<[u8]>) -> bool {
        let Some(conn) = self.connections.get(index) else { return false };
        if conn.socket.is_undecided {
            return self.look_at_first_byte(core, index);
        }
        let socket = &mut conn.socket;
        if socket.tls.is_some() {
            return self.receive_secured(core, index, staging);
        }
        let is_ready = socket.readable && !socket.closing && socket.spilled.is_empty();
        if !is_ready || !conn.protocol.wants_bytes() {
            return false;
        }
        let awaits_data = conn.protocol.awaits_data();
        let staged_bytes_max = if awaits_data { HEADERS_SIZE_BYTES } else { STAGING_SIZE_BYTES };
        let is_direct = conn.protocol.payload_left_bytes() >= DIRECT_SIZE_BYTES_MIN;
        let region = if is_direct { conn.protocol.direct_target() } else { None };
        let is_direct = region.is_some();
        let region = region.unwrap_or(&mut []);
        let direct_bytes = region.len();
        let result = receive_into(&socket.stream, region, &mut staging[..staged_bytes_max]);
        let received = *result.as_ref().unwrap_or(&0);
        if is_direct {
            conn.protocol.handle_direct(received.min(direct_bytes));
        }
        match result {
            Ok(1..) => {
                // Where less came than there was room for, there was no more. The end of the
                // stream, though, may have been told of before.
                socket.readable = received == direct_bytes + staged_bytes_max || socket.hung_up;
                self.feed(core, index, staging, received.saturating_sub(direct_bytes));
                return true;
            }
            Ok(0) => self.close_connection(core, index, ""),
            Err(Errno::AGAIN) => socket.readable = false,
            Err(Errno::INTR) => {}
            Err(errno) => self.receive_failed(core, index, errno),
        }
        false
    }

    /// Receives once under OpenSSL's TLS. Says whether there may be more.
    fn receive_secured(
        &mut self,
        core: &mut ShardCore,
        index: u16,
        staging: &mut Box<[u8]>,
    ) -> bool {
        if !self.decrypt_all(core, index, staging) {
            return false;
        }
        let conn = self.connections.get(index).expect("it takes more");
        let socket = &mut conn.socket;
        // The kernel may have it since.
        let Some(tls) = socket.tls.as_deref_mut() else { return true };
        if !socket.readable {
            return false;
        }
        let room_bytes = tls.room_bytes();
        match receive_into(&socket.stream, &mut [], &mut staging[..room_bytes]) {
            Ok(0) => self.close_connection(core, index, ""),
            Ok(received) => {
                socket.readable = received == room_bytes || socket.hung_up;
                let more = socket.readable;
                tls.feed(&staging[..received]);
                return self.decrypt_all(core, index, staging) && more;
            }
            Err(Errno::AGAIN) => socket.readable = false,
            Err(Errno::INTR) => {}
            Err(errno) => self.receive_failed(core, index, errno),
        }
        false
    }

    /// Decrypts what was received and gives it to the protocol. Says whether that takes more.
    fn decrypt_all(&mut self, core: &mut ShardCore, index: u16, staging: &mut Box<[u8]>) -> bool {
        loop {
            let Some(conn) = self.connections.get(index) else { return false };
            let socket = &mut conn.socket;
            let tls = socket.tls.as_deref_mut().expect("the caller has looked");
            let takes = socket.spilled.is_empty() && conn.protocol.wants_bytes();
            if socket.closing || tls.has_ended || !takes {
                return false;
            }
            match tls.decrypt(&mut staging[..SECURED_SIZE_BYTES]) {
                Ok(0) => {
                    // The handshake may have something to say.
                    if tls.has_unsent() {
                        self.connections.wants_to_send(index);
                    }
                    return self.hand_over(index);
                }
                Ok(len) => self.feed(core, index, staging, len),
                Err(error) => {
                    self.tls_ended(core, index, &error);
                    return false;
                }
            }
        }
    }

    /// Gives the protocol the `len` bytes that were received and executes what it makes of them.
    /// What it cannot take now is kept.
    fn feed(&mut self, core: &mut ShardCore, index: u16, staging: &mut Box<[u8]>, len: usize) {
        let Some(conn) = self.connections.get(index) else { return };
        let lends = conn.socket.feeds_without_loans == 0;
        conn.socket.feeds_without_loans -= u16::from(!lends);
        let taken = self.digest(core, index, &staging[..len], lends);
        if core.io.pool.has_lent(Lender::Receiver) {
            self.end_loans_of(core, index);
        }
        let Some(conn) = self.connections.get(index) else { return };
        if taken < len && !conn.socket.closing {
            conn.socket.keep(staging, taken..len);
        }
        self.after_feeding(core, index);
    }

    /// Bdevs that take data at once take it from the staging buffer now; for others it is copied,
    /// and what comes next is copied at once.
    fn end_loans_of(&mut self, core: &mut ShardCore, index: u16) {
        let pool = core.io.pool;
        let in_vain = pool.loans_in_vain();
        self.drain(core);
        pool.end_loans(Lender::Receiver);
        if pool.loans_in_vain() != in_vain
            && let Some(conn) = self.connections.get(index)
        {
            conn.socket.feeds_without_loans = FEEDS_WITHOUT_LOANS;
        }
    }

    /// Something that the protocol waited for is there: it goes on with what was kept for it.
    pub(super) fn feed_on(&mut self, core: &mut ShardCore, index: u16) {
        let Some(conn) = self.connections.get(index) else { return };
        let spill = std::mem::take(&mut conn.socket.spill);
        let spilled = conn.socket.spilled.clone();
        let taken = self.digest(core, index, &spill[spilled.clone()], false);
        if let Some(conn) = self.connections.get(index) {
            conn.socket.spill = spill;
            conn.socket.spilled = spilled.start + taken..spilled.end;
            // What TLS still holds is told of by nobody.
            conn.socket.readable |= conn.socket.tls.is_some();
        }
        self.after_feeding(core, index);
        self.receive_later(index);
    }

    /// Returns how many of the bytes the protocol took. If it may lend them, the caller ends the
    /// receiver's loans before it changes them.
    fn digest(&mut self, core: &mut ShardCore, index: u16, bytes: &[u8], lends: bool) -> usize {
        let mut at = 0;
        loop {
            let Some(conn) = self.connections.get(index) else { return at };
            if conn.socket.closing {
                return at;
            }
            let (rest, pool) = (&bytes[at..], &core.io.pool);
            let taken = if lends {
                // SAFETY: the caller ends the receiver's loans while the bytes are still there.
                unsafe { conn.protocol.handle_lent_bytes(rest, pool) }
            } else {
                conn.protocol.handle_bytes(rest, pool)
            };
            at += taken;
            self.execute_commands(core, index);
            if taken == 0 || at == bytes.len() {
                return at;
            }
        }
    }

    fn after_feeding(&mut self, core: &mut ShardCore, index: u16) {
        let Some(conn) = self.connections.get(index) else { return };
        if let Some(error) = conn.protocol.error()
            && !std::mem::replace(&mut conn.socket.error_is_logged, true)
        {
            let who = conn.describe();
            if self.connections.log.allows() {
                tracing::warn!(
                    "connection of {who} ends: the host broke the NVMe/TCP protocol ({error})"
                );
            }
        }
        let Some(conn) = self.connections.get(index) else { return };
        let waits = conn.protocol.needs_buffers();
        if waits && !std::mem::replace(&mut conn.listed_for_buffer, true) {
            self.connections.for_buffer.push_back(index);
        }
        self.end_if_protocol_ended(core, index);
    }

    /// The protocol is over (C2HTermReq is sent, or the host sent its own): the peer is left some
    /// time to take what was sent and to close.
    fn end_if_protocol_ended(&mut self, core: &mut ShardCore, index: u16) {
        let Some(conn) = self.connections.get(index) else { return };
        let ended = conn.protocol.is_closing() && !conn.socket.has_unsent();
        if ended && conn.socket.linger_from_ms.is_none() {
            conn.socket.linger_from_ms = Some(core.io.now_ms());
            if !conn.socket.sending {
                conn.socket.say_goodbye();
            }
            // An error says that the peer was first.
            let _ = rustix::net::shutdown(&conn.socket.stream, Shutdown::Write);
        }
    }

    /// If buffers came back, commands that wait for one go on. Says whether there was work, or
    /// is more.
    pub(super) fn serve_buffer_waiters(&mut self, core: &mut ShardCore) -> bool {
        let waiting = self.connections.for_buffer.len();
        if waiting == 0 {
            return false;
        }
        let returns = core.io.pool.returns();
        if self.connections.returns_seen != returns {
            self.connections.returns_seen = returns;
            self.connections.to_try = waiting;
        }
        let (mut worked, mut in_vain) = (false, 0);
        for _ in 0..waiting.min(self.connections.to_try) {
            if in_vain == VAIN_TRIES_MAX {
                return true;
            }
            self.connections.to_try -= 1;
            let Some(index) = self.connections.for_buffer.pop_front() else { break };
            let conn = self.connections.get(index).expect("it is removed from the list first");
            conn.listed_for_buffer = false;
            if conn.protocol.retry_buffers(&core.io.pool) {
                (worked, in_vain) = (true, 0);
                self.execute_commands(core, index);
                self.feed_on(core, index);
                continue;
            }
            in_vain += 1;
            conn.listed_for_buffer = conn.protocol.needs_buffers();
            if conn.listed_for_buffer {
                self.connections.for_buffer.push_back(index);
            }
        }
        worked
    }

    /// Sends what connections have gathered in this turn, one send each. The ring makes one system
    /// call of them, which also lets it see what has arrived.
    pub(super) fn send_responses(&mut self, core: &mut ShardCore) {
        while let Some(index) = self.connections.to_send.pop() {
            let conn = self.connections.get(index).expect("it is removed from the list first");
            conn.listed_to_send = false;
            let socket = &mut conn.socket;
            if socket.sending || socket.closing {
                continue;
            }
            if socket.tls.is_some() {
                self.send_secured(core, index);
                continue;
            }
            if let Some(kernel) = &mut socket.kernel_tls
                && let Err(error) = kernel.answer(&socket.stream)
            {
                let why = format!("its TLS key could not be changed as the host asked: {error}");
                self.close_connection(core, index, &why);
                continue;
            }
            let has_loans = conn.protocol.has_loans();
            let total = conn.protocol.poll_transmit(&mut socket.transmit);
            if total == 0 {
                continue;
            }
            socket.sending = true;
            socket.send_began_ms = core.io.now_ms();
            if has_loans {
                self.send_at_once(core, index, total);
                continue;
            }
            let segments = socket.transmit.segments();
            let entry = if let [one] = segments {
                let len = u32::try_from(one.len).expect("a PDU's length fits u32");
                opcode::Send::new(socket.fd(), one.ptr, len).flags(libc::MSG_NOSIGNAL).build()
            } else {
                // A segment has the layout of an iovec, and sending does not write to it.
                socket.header.msg_iov = segments.as_ptr().cast::<libc::iovec>().cast_mut();
                socket.header.msg_iovlen = segments.len();
                let flags = libc::MSG_NOSIGNAL.cast_unsigned();
                opcode::SendMsg::new(socket.fd(), &raw const *socket.header).flags(flags).build()
            };
            let data = UserData { kind: KIND_SEND, extra: 0, object: index, op: 0 };
            // SAFETY: header, segments and what they point to stay in place until `transmitted`;
            // the connection is not dropped before this send has ended.
            unsafe { core.io.ring.push(entry, data) };
        }
    }

    /// Sends `total` bytes, of which some are on loan, as far as the socket takes them now. The
    /// rest is sent by the ring, which may take its time.
    fn send_at_once(&mut self, core: &mut ShardCore, index: u16, total: usize) {
        let conn = self.connections.get(index).expect("it has something to send");
        let Conn { socket, protocol, .. } = conn;
        let segments = socket.transmit.segments();
        // A segment has the layout of an iovec, and sending does not write to it.
        socket.header.msg_iov = segments.as_ptr().cast::<libc::iovec>().cast_mut();
        socket.header.msg_iovlen = segments.len();
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: header, segments and what they point to stay in place until it returns; what is
        // on loan stays until the turn ends.
        let result =
            unsafe { libc::sendmsg(socket.stream.as_raw_fd(), &raw const *socket.header, flags) };
        let sent = usize::try_from(result).ok();
        // Before anything else may set another.
        let errno = || -std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        let res = sent.map_or_else(errno, |sent| i32::try_from(sent).expect("bounded by a queue"));
        if sent != Some(total) {
            protocol.end_loans();
        }
        self.sent(core, index, res);
    }

    /// A send has ended.
    pub(super) fn sent(&mut self, core: &mut ShardCore, index: u16, res: i32) {
        let conn = self.connections.get(index).expect("it waits for its send");
        conn.socket.sending = false;
        let sent = usize::try_from(res).unwrap_or(0);
        match conn.socket.tls.as_deref_mut() {
            Some(tls) => tls.sent(sent),
            None => conn.protocol.transmitted(sent),
        }
        if conn.socket.closing {
            return self.drop_if_drained(core, index);
        }
        if res < 0 && !matches!(-res, libc::EAGAIN | libc::EINTR) {
            let error = std::io::Error::from_raw_os_error(-res);
            return self.close_connection(core, index, &format!("sending failed: {error}"));
        }
        let has_unsent = conn.socket.has_unsent();
        if conn.socket.tls.as_ref().is_some_and(|tls| tls.has_ended) && !has_unsent {
            return self.close_connection(core, index, "");
        }
        let wants_transmit = conn.protocol.wants_transmit() || has_unsent;
        let waits = conn.socket.tls.as_ref().is_some_and(|tls| tls.channel.can_hand_over());
        if wants_transmit {
            self.connections.wants_to_send(index);
        }
        // What the handshake had to say has left.
        if waits && self.hand_over(index) {
            self.receive_later(index);
        }
        self.end_if_protocol_ended(core, index);
        // Slots came free, for which a capsule may have waited.
        let conn = self.connections.get(index).expect("it exists");
        if conn.protocol.rx_state() == RxState::AwaitSlot {
            self.feed_on(core, index);
        }
    }
}

/// Receives what is there, first to `region`, then to `staging`.
fn receive_into(stream: &TcpStream, region: &mut [u8], staging: &mut [u8]) -> Result<usize, Errno> {
    if region.is_empty() {
        return recv(stream, staging, RecvFlags::DONTWAIT).map(|(n, _)| n);
    }
    let mut parts = [IoSliceMut::new(region), IoSliceMut::new(staging)];
    let mut control = RecvAncillaryBuffer::default();
    recvmsg(stream, &mut parts, &mut control, RecvFlags::DONTWAIT).map(|message| message.bytes)
}

fn receive_data(index: u16) -> UserData {
    UserData { kind: KIND_RECEIVE, extra: 0, object: index, op: 0 }
}

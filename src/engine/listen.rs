//! Listening sockets: accepts connections through the ring and hands them out to the cores in turn.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use io_uring::{cqueue, opcode, types};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::message::{Answer, Message, NewConnection};
use super::shard::{KIND_ACCEPT, KIND_CANCEL, Shard, ShardCore};
use crate::reactor::ring::UserData;

/// Connections that may wait to be accepted.
const LISTEN_BACKLOG: i32 = 1024;

/// A peer that is not heard of for so long is asked by TCP whether it is there, so often, at such
/// intervals: a host without Keep Alive Timeout that vanished would hold its connections for ever.
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// What a peer does not acknowledge for so long will not arrive (TCP_USER_TIMEOUT).
const UNACKNOWLEDGED_MS_MAX: u32 = 30_000;

/// A listening socket that a restarted target can bind again at once.
pub(super) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket: OwnedFd =
        rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, LISTEN_BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// A listening socket.
#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    closing: bool,
    /// The system had nothing left for another connection: to be tried again in a while.
    paused: bool,
}

/// The core's listening sockets.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    slots: Vec<Option<Listener>>,
    /// Core that gets the next connection.
    next_core: usize,
}

impl Shard {
    /// Accepts connections on a socket from now on.
    pub(super) fn listen(
        &mut self,
        core: &mut ShardCore,
        socket: TcpListener,
        address: SocketAddr,
    ) {
        let slots = &mut self.listeners.slots;
        let index = slots.iter().position(Option::is_none).unwrap_or_else(|| {
            slots.push(None);
            slots.len() - 1
        });
        slots[index] = Some(Listener { socket, address, closing: false, paused: false });
        self.arm_accept(core, index);
    }

    fn arm_accept(&self, core: &mut ShardCore, index: usize) {
        let listener = self.listeners.slots[index].as_ref().expect("it listens");
        let entry = opcode::AcceptMulti::new(types::Fd(listener.socket.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build();
        // SAFETY: the entry points to no memory; the socket is dropped after its last completion.
        unsafe { core.io.ring.push(entry, accept_data(index)) };
    }

    /// Accepts no more connections at this address; answered when the socket is closed.
    pub(super) fn unlisten(&mut self, core: &mut ShardCore, address: SocketAddr) {
        let found = self.listeners.slots.iter_mut().enumerate().find_map(|(index, slot)| {
            slot.as_mut()
                .filter(|one| one.address == address && !one.closing)
                .map(|one| (index, one))
        });
        let Some((index, listener)) = found else {
            return self.answer(core, Answer::Done);
        };
        if listener.paused {
            self.listeners.slots[index] = None;
            return self.answer(core, Answer::Done);
        }
        listener.closing = true;
        let entry = opcode::AsyncCancel::new(accept_data(index).pack()).build();
        let data = UserData { kind: KIND_CANCEL, extra: 0, object: 0, op: 0 };
        // SAFETY: the entry points to no memory.
        unsafe { core.io.ring.push(entry, data) };
    }

    /// An accept has ended, or has brought a connection.
    pub(super) fn accepted(&mut self, core: &mut ShardCore, data: UserData, res: i32, flags: u32) {
        let index = usize::from(data.object);
        if res >= 0 {
            // SAFETY: the kernel has just given us this descriptor, and to nobody else.
            let fd = unsafe { OwnedFd::from_raw_fd(res) };
            self.hand_out(core, TcpStream::from(fd));
        }
        if cqueue::more(flags) {
            return;
        }
        let listener = self.listeners.slots[index].as_mut().expect("it accepts");
        if listener.closing {
            self.listeners.slots[index] = None;
            return self.answer(core, Answer::Done);
        }
        // These would come again at once.
        let lacks = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        listener.paused = lacks.contains(&-res);
        let (address, paused) = (listener.address, listener.paused);
        if res < 0 && self.connections.log.allows() {
            let error = std::io::Error::from_raw_os_error(-res);
            let so = if paused {
                "hosts wait; raise the limit of open files (LimitNOFILE=, ulimit -n) if it is that"
            } else {
                "going on"
            };
            tracing::warn!("accepting a connection on {address} failed: {error}; {so}");
        }
        if !paused {
            self.arm_accept(core, index);
        }
    }

    /// Tries again to accept where something was lacking.
    pub(super) fn accept_again(&mut self, core: &mut ShardCore) {
        for index in 0..self.listeners.slots.len() {
            let paused = |listener: &mut Listener| std::mem::take(&mut listener.paused);
            if self.listeners.slots[index].as_mut().is_some_and(paused) {
                self.arm_accept(core, index);
            }
        }
    }

    /// Gives a new connection to the next core in turn.
    fn hand_out(&mut self, core: &mut ShardCore, stream: TcpStream) {
        let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
            // The peer is gone already.
            return;
        };
        if let Err(error) = prepare(&stream) {
            tracing::warn!("connection of {peer}: its socket's options could not be set: {error}");
        }
        let to = self.listeners.next_core % core.port.control();
        self.listeners.next_core = to + 1;
        let new = Box::new(NewConnection { stream, peer, local });
        self.send(core, to, Message::NewConnection(new));
    }
}

/// Answers leave at once, and a peer that vanished is noticed.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS_MAX)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

fn accept_data(index: usize) -> UserData {
    let object = u16::try_from(index).expect("few listeners");
    UserData { kind: KIND_ACCEPT, extra: 0, object, op: 0 }
}

//! Serves the socket: many clients, one thread, nobody waits for anybody.
//!
//! A client that does not read its answers is not read from either; what it may make us keep is
//! one request and one reply.

#[cfg(test)]
mod tests;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::framing::{Frame, Framer};
use super::message::{self, Dispatch};
use super::socket::BoundSocket;
use super::{INTERNAL_ERROR, PARSE_ERROR};

/// Clients at once (SPDK's limit).
pub const CONNECTIONS_MAX: usize = 64;
/// Bytes read from a client in one turn.
const READ_BYTES: usize = 16 * 1024;

/// The listening socket and its clients.
#[derive(Debug)]
pub struct Server {
    socket: BoundSocket,
    connections: Vec<Connection>,
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Requests are read while no reply is waiting to be sent.
    Open,
    /// The client will send no more: what has arrived is answered, then the connection ends.
    Draining,
    /// The stream is broken: the last reply is sent, then the connection ends.
    Closing,
    /// To be dropped.
    Closed,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    framer: Framer,
    /// The reply being sent, and how much of it is.
    reply: Vec<u8>,
    sent: usize,
    /// More may have been received than has been executed.
    pending: bool,
    state: State,
}

impl Server {
    /// Serves on `socket`.
    #[must_use]
    pub fn new(socket: BoundSocket) -> Self {
        Self { socket, connections: Vec::new() }
    }

    /// Waits until a client or `wake` has something, at most `timeout`, and serves the clients.
    /// True when `wake` is readable.
    pub fn turn(
        &mut self,
        wake: BorrowedFd<'_>,
        timeout: Option<Timespec>,
        methods: &mut dyn Dispatch,
    ) -> std::io::Result<bool> {
        let mut fds = Vec::with_capacity(2 + self.connections.len());
        fds.push(PollFd::from_borrowed_fd(wake, PollFlags::IN));
        fds.push(PollFd::new(&self.socket.listener, PollFlags::IN));
        for connection in &self.connections {
            fds.push(PollFd::from_borrowed_fd(connection.stream.as_fd(), connection.interest()));
        }
        // A client with a complete request already received must not wait for more bytes.
        let timeout = if self.connections.iter().any(Connection::has_work) {
            Some(Timespec::default())
        } else {
            timeout
        };
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        for (connection, ready) in self.connections.iter_mut().zip(&ready[2..]) {
            connection.serve(*ready, methods);
        }
        self.connections.retain(|connection| connection.state != State::Closed);
        if !ready[1].is_empty() {
            self.accept();
        }
        Ok(!ready[0].is_empty())
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.socket.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let mut connection = Connection::new(stream);
            if self.connections.len() == CONNECTIONS_MAX {
                connection.refuse(INTERNAL_ERROR, "64 clients are connected already");
                connection.flush();
                continue;
            }
            self.connections.push(connection);
        }
    }

    /// How many clients are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            framer: Framer::default(),
            reply: Vec::new(),
            sent: 0,
            pending: false,
            state: State::Open,
        }
    }

    fn set_state(&mut self, state: State) {
        use State::{Closed, Closing, Draining, Open};
        let allowed = matches!(
            (self.state, state),
            (Open, Draining | Closing) | (Draining, Closing) | (_, Closed)
        );
        assert!(allowed, "RPC connection: {:?} cannot become {state:?}", self.state);
        self.state = state;
    }

    fn interest(&self) -> PollFlags {
        if self.is_sending() {
            PollFlags::OUT
        } else if self.state == State::Open {
            PollFlags::IN
        } else {
            PollFlags::empty()
        }
    }

    fn is_sending(&self) -> bool {
        self.sent < self.reply.len()
    }

    /// Something may be done without any event on the socket.
    fn has_work(&self) -> bool {
        !self.is_sending() && (self.state != State::Open || self.pending)
    }

    /// One turn: send, else receive and execute at most one request, so that all get their turn.
    fn serve(&mut self, ready: PollFlags, methods: &mut dyn Dispatch) {
        if self.is_sending() {
            if ready.intersects(PollFlags::ERR | PollFlags::HUP) {
                return self.set_state(State::Closed);
            }
            self.flush();
            return;
        }
        if self.state == State::Open && !ready.is_empty() {
            self.receive();
        }
        match self.state {
            State::Open | State::Draining => self.execute(methods),
            State::Closing => self.set_state(State::Closed),
            State::Closed => {}
        }
    }

    fn receive(&mut self) {
        let mut piece = [0; READ_BYTES];
        let room = self.framer.room().min(READ_BYTES);
        if room == 0 {
            return;
        }
        match self.stream.read(&mut piece[..room]) {
            Ok(0) => self.set_state(State::Draining),
            Ok(count) => self.framer.push(&piece[..count]),
            Err(error) if would_wait(&error) => {}
            Err(_) => self.set_state(State::Closed),
        }
    }

    fn execute(&mut self, methods: &mut dyn Dispatch) {
        self.pending = false;
        match self.framer.next_frame() {
            Frame::Complete(text) => {
                self.pending = !self.framer.is_empty();
                let reply = message::handle(&text, methods);
                self.reply = reply.text.unwrap_or_default();
                self.sent = 0;
                if reply.close {
                    self.set_state(State::Closing);
                }
                self.flush();
            }
            Frame::Incomplete if self.state == State::Draining => self.set_state(State::Closed),
            Frame::Incomplete => {}
            Frame::Broken(reason) => {
                self.refuse(PARSE_ERROR, reason);
                self.flush();
            }
        }
    }

    fn refuse(&mut self, code: i32, message: &str) {
        self.reply = message::refusal(code, message);
        self.sent = 0;
        self.set_state(State::Closing);
    }

    fn flush(&mut self) {
        while self.is_sending() {
            match self.stream.write(&self.reply[self.sent..]) {
                Ok(0) => return self.set_state(State::Closed),
                Ok(count) => self.sent += count,
                Err(error) if would_wait(&error) => return,
                Err(_) => return self.set_state(State::Closed),
            }
        }
        self.reply = Vec::new();
        self.sent = 0;
        if self.state == State::Closing {
            self.set_state(State::Closed);
        }
    }
}

fn would_wait(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

const _: () = assert!(CONNECTIONS_MAX == 64, "the message above names the number");

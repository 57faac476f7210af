//! How long hosts may take, and the end of those that take longer.
//!
//! A host is ended for what it owes only. While the target lacks a buffer for what comes next on a
//! connection, it reads nothing there, and all that the host owes may lie behind: its time begins
//! when there is a buffer. Buffers come back, as those are timed that are waited for: a command
//! executes, its data leave, or a host that was given a buffer sends what belongs there.

use super::queue::{Conn, Role};
use super::shard::{KIND_HOUSEKEEPING, Shard, ShardCore};
use crate::reactor::timer::TimerTag;
use crate::target::tcp::RxState;

/// How often connections are looked after.
const HOUSEKEEPING_MS: u64 = 1000;

/// A connection that has not sent Connect by then is ended.
const CONNECT_TIMEOUT_MS: u64 = 10_000;

/// A peer that takes nothing of what is sent to it for so long is ended: it holds buffers that
/// others need.
const SEND_TIMEOUT_MS: u64 = 10_000;

/// A peer that has begun to send a command's data, or was asked for them, and for so long ends no
/// command's, is ended for the same reason; so is one that does not send the second command of a
/// fused operation.
const TRANSFER_TIMEOUT_MS: u64 = 10_000;

/// How long a peer may take to close after it was told of its protocol error.
const LINGER_MS: u64 = 2000;

/// What a connection is ended for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    /// The peer was left to close it, and does not.
    Close,
    Connect,
    Authentication,
    /// It is to come back under TLS.
    Leaving,
    /// Taking what was sent.
    Taking,
    Transfer,
}

impl Overdue {
    /// For the log, if it is worth a line.
    const fn why(self) -> &'static str {
        match self {
            Self::Close => "",
            Self::Connect => "the host sent no Connect in time",
            Self::Authentication => "it has not authenticated itself",
            Self::Leaving => {
                "its authentication has made a secure channel, under which it has not come instead"
            }
            Self::Taking => "the host takes no data any more",
            Self::Transfer => {
                "the host does not send the data it was asked for, or a fused command's second half"
            }
        }
    }
}

impl Conn {
    /// Nothing is read from the host because the target lacks a buffer.
    fn lacks_buffer(&self) -> bool {
        self.protocol.rx_state() == RxState::AwaitBuffer
    }

    /// What the host owes, it owes from now on.
    fn restart_time(&mut self, now_ms: u64) {
        self.connect_from_ms = now_ms;
        self.transfers_seen.1 = now_ms;
        if let Some(auth) = &mut self.auth {
            auth.restart_time(now_ms);
        }
    }

    /// What the host has owed for too long, if anything.
    fn overdue(&mut self, now_ms: u64) -> Option<Overdue> {
        if self.lacks_buffer() {
            self.restart_time(now_ms);
        }
        let connect_for_ms = now_ms.saturating_sub(self.connect_from_ms);
        if self.socket.lingering_for_ms(now_ms) > LINGER_MS {
            Some(Overdue::Close)
        } else if matches!(self.role, Role::Fresh) && connect_for_ms > CONNECT_TIMEOUT_MS {
            Some(Overdue::Connect)
        } else if let Some(auth) = self.auth.as_ref().filter(|auth| auth.is_overdue(now_ms)) {
            Some(if auth.has_moved() { Overdue::Leaving } else { Overdue::Authentication })
        } else if self.socket.sending_for_ms(now_ms) > SEND_TIMEOUT_MS {
            Some(Overdue::Taking)
        } else {
            self.transfer_stands_still(now_ms).then_some(Overdue::Transfer)
        }
    }

    /// The host owes data, and none of its commands' has become complete for too long.
    fn transfer_stands_still(&mut self, now_ms: u64) -> bool {
        let (awaited, ended) = self.protocol.inbound_transfers();
        if awaited == 0 || self.transfers_seen.0 != ended {
            self.transfers_seen = (ended, now_ms);
        }
        now_ms.saturating_sub(self.transfers_seen.1) > TRANSFER_TIMEOUT_MS
    }
}

impl Shard {
    pub(super) fn arm_housekeeping(&self, core: &mut ShardCore) {
        let tag = TimerTag { kind: KIND_HOUSEKEEPING, object: 0, op: 0 };
        core.io.timers.arm(core.io.now_ms() + HOUSEKEEPING_MS, tag);
    }

    /// Ends connections whose time is over.
    pub(super) fn housekeeping(&mut self, core: &mut ShardCore) {
        self.arm_housekeeping(core);
        let left_out = self.connections.log.renew();
        if left_out > 0 {
            tracing::warn!("core {}: {left_out} more such lines left out", core.index());
        }
        self.accept_again(core);
        let now_ms = core.io.now_ms();
        self.generated.expire(now_ms);
        for index in self.connections.indexes() {
            let Some(conn) = self.connections.get(index) else { continue };
            conn.errors.told = 0;
            if let Some(overdue) = conn.overdue(now_ms) {
                self.close_connection(core, index, overdue.why());
            } else if conn.socket.kernel_tls.is_some() {
                // A goodbye behind data ends the receive of these, and nobody tells of it again.
                conn.socket.readable = true;
                self.receive_later(index);
            }
        }
        for slot in 0..self.connections.controllers.len() {
            let Some(owned) = self.connections.controllers[slot].as_deref() else { continue };
            let admin = owned.connection;
            let lacks_buffer = self.connections.get(admin).is_some_and(|conn| conn.lacks_buffer());
            let Some(owned) = self.connections.controllers[slot].as_deref_mut() else { continue };
            if lacks_buffer {
                owned.controller.restart_keep_alive(now_ms);
            }
            if owned.controller.check_keep_alive(now_ms) {
                let kato_ms = owned.controller.kato_ms();
                let host = owned.controller.hostnqn().as_str().to_owned();
                let why = format!("host {host} was silent for more than its {kato_ms} ms");
                self.close_connection(core, admin, &why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use zerocopy::{FromZeros, IntoBytes};

    use super::super::queue::Connections;
    use super::*;
    use crate::reactor::buf::{BufPool, IoBuf};
    use crate::target::tcp::{RequestState, RxState};
    use crate::wire::nvme::{Sqe, opcode};

    const IN_CAPSULE: u8 = 0x01;
    const BY_R2T: u8 = 0x5a;

    /// A connection accepted at 0 that has said hello, and its peer.
    fn connection(connections: &mut Connections, pool: &BufPool) -> (u16, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, from) = listener.accept().unwrap();
        let index = connections.insert(stream, from, from, 0).unwrap();
        let mut icreq = [0; 128];
        (icreq[2], icreq[4]) = (128, 128);
        let conn = connections.get(index).unwrap();
        assert_eq!(conn.protocol.handle_bytes(&icreq, pool), 128);
        (index, peer)
    }

    /// The capsule of a write of 4 KiB, without its data.
    fn write(cid: u16, sgl_type: u8) -> Vec<u8> {
        let mut sqe = Sqe::new_zeroed();
        (sqe.opcode, sqe.flags, sqe.sgl_type) = (opcode::nvm::WRITE, 0x40, sgl_type);
        sqe.cid.set(cid);
        sqe.sgl_length.set(4096);
        let (pdo, plen) = if sgl_type == IN_CAPSULE { (72, 72 + 4096) } else { (0, 72) };
        let mut pdu = vec![4, 0, 72, pdo];
        pdu.extend(u32::to_le_bytes(plen));
        pdu.extend(sqe.as_bytes());
        pdu
    }

    fn all_of(pool: &BufPool) -> Vec<IoBuf> {
        std::iter::from_fn(|| pool.get(4096)).collect()
    }

    /// What the host sends next has no buffer for a minute, and then one.
    fn lacks_buffer_until_60_000(conn: &mut Conn, held: Vec<IoBuf>, pool: &BufPool) {
        assert_eq!(conn.protocol.rx_state(), RxState::AwaitBuffer);
        for now_ms in (1000..=60_000).step_by(1000) {
            assert_eq!(conn.overdue(now_ms), None, "{now_ms}");
        }
        drop(held);
        assert!(conn.protocol.retry_buffers(pool));
    }

    #[test]
    fn a_host_is_not_blamed_for_buffers_that_the_target_lacks() {
        let pool = BufPool::on_heap([0, 4, 0, 0]);
        let mut connections = Connections::new();
        let (index, _peer) = connection(&mut connections, &pool);
        let conn = connections.get(index).unwrap();
        conn.role = Role::Admin(0);
        assert_eq!(conn.overdue(500), None);
        // It is asked for data; in front of them lies a capsule whose own data have no buffer.
        conn.protocol.handle_bytes(&write(1, BY_R2T), &pool);
        assert_eq!(conn.protocol.population(RequestState::AwaitH2cData), 1);
        let held = all_of(&pool);
        conn.protocol.handle_bytes(&write(2, IN_CAPSULE), &pool);
        lacks_buffer_until_60_000(conn, held, &pool);
        // From now on it is the host that is waited for.
        assert_eq!(conn.overdue(60_000 + TRANSFER_TIMEOUT_MS), None);
        assert_eq!(conn.overdue(60_001 + TRANSFER_TIMEOUT_MS), Some(Overdue::Transfer));
    }

    #[test]
    fn a_host_whose_connect_finds_no_buffer_has_sent_it() {
        let pool = BufPool::on_heap([1, 0, 0, 0]);
        let mut connections = Connections::new();
        let (index, _peer) = connection(&mut connections, &pool);
        let conn = connections.get(index).unwrap();
        let held = all_of(&pool);
        conn.protocol.handle_bytes(&write(1, IN_CAPSULE), &pool);
        lacks_buffer_until_60_000(conn, held, &pool);
        assert_eq!(conn.overdue(60_000 + CONNECT_TIMEOUT_MS), None);
        assert_eq!(conn.overdue(60_001 + CONNECT_TIMEOUT_MS), Some(Overdue::Connect));
    }
}

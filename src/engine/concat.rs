//! Secure channel concatenation: a host comes in the clear and authenticates itself, both sides
//! make a key for TLS of that, and the host comes back under TLS, on any core.
//!
//! Every core has its own list of such keys ([`GeneratedKeys`]). The core on which one was made
//! tells all of them, and the host only when all have answered: then it may come. A core whose
//! controller begins or ends with a key tells the others, too.
//!
//! Where hosts come in the clear and under TLS, a connection's first byte says which it is.

use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::message::{ConnectionKey, Message};
use super::queue::{OwnedController, Role};
use super::shard::{Shard, ShardCore};
use crate::secure::psk;
use crate::target::auth::{Channel, GeneratedKey};
use crate::target::controller::{ConnectRequest, Refusal};
use crate::target::subsystem::HostKeys;

/// The first byte of a connection under TLS: a record of type handshake (RFC 8446, section 5.1).
/// That of one in the clear is 0, an ICReq.
const HANDSHAKE: u8 = 22;

/// What a core tells of a generated key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyNews {
    /// A controller has come with it.
    Entered,
    /// A controller that had come with it is gone.
    Left,
    /// The authentication that has made it has failed after all.
    Failed,
}

/// A key that was made.
#[derive(Debug)]
pub(super) struct MadeKey {
    /// The queue whose host has made it, on the sending core.
    pub(super) maker: ConnectionKey,
    pub(super) key: Arc<GeneratedKey>,
    /// What it is in place of.
    pub(super) replaced: Option<Arc<GeneratedKey>>,
}

impl Shard {
    /// A connection has come to where hosts come in the clear and under TLS: looks which this is.
    /// Says whether it may receive in this turn.
    pub(super) fn look_at_first_byte(&mut self, core: &mut ShardCore, index: u16) -> bool {
        let conn = self.connections.get(index).expect("something has arrived on it");
        let socket = &mut conn.socket;
        if !socket.readable || socket.is_closing() {
            return false;
        }
        let mut first = [0];
        match recv(&socket.stream, &mut first, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.close_connection(core, index, ""),
            Ok(_) => {
                socket.is_undecided = false;
                let is_secured = first == [HANDSHAKE];
                return !is_secured || self.begin_tls(core, index, self.generated.finder());
            }
            Err(Errno::AGAIN) => socket.readable = false,
            Err(Errno::INTR) => {}
            Err(errno) => self.receive_failed(core, index, errno),
        }
        false
    }

    /// The generated key that a connection comes with, which must still hold; `None`: it comes in
    /// another way.
    pub(super) fn key_at_connect(
        &mut self,
        index: u16,
    ) -> Result<Option<Arc<GeneratedKey>>, Refusal> {
        let conn = self.connections.get(index).expect("it is being connected");
        let identity = conn.socket.tls_identity().filter(|identity| psk::is_generated(identity));
        let Some(identity) = identity else { return Ok(None) };
        self.generated.find(&identity).cloned().map(Some).ok_or(Refusal::invalid_host())
    }

    /// The generated key that a connection is under TLS with, if it still holds.
    pub(super) fn generated_key(&mut self, index: u16) -> Option<Arc<GeneratedKey>> {
        let identity = self.connections.get(index)?.socket.tls_identity()?;
        self.generated.find(&identity).cloned()
    }

    /// Which secure channel may be made of this queue's authentication.
    pub(super) fn channel_of(&mut self, index: u16, keys: &HostKeys) -> Channel {
        let Some(conn) = self.connections.get(index) else { return Channel::None };
        let is_admin = matches!(conn.role, Role::Admin(_));
        let identity = conn.socket.tls_identity();
        match identity {
            _ if !is_admin || !keys.may_concatenate() => Channel::None,
            Some(identity) if psk::is_generated(&identity) => Channel::Generated,
            Some(_) => Channel::None,
            None if keys.must_concatenate() => Channel::Required,
            None => Channel::Allowed,
        }
    }

    /// An authentication has made a key: all cores are to know it.
    pub(super) fn share_key(
        &mut self,
        core: &mut ShardCore,
        maker: ConnectionKey,
        key: &Arc<GeneratedKey>,
    ) {
        let conn = self.connections.find(maker).expect("its authentication goes on");
        let mut replaced = None;
        if let Role::Admin(slot) = conn.role
            && let Some(owned) = self.connections.controllers[slot].as_deref_mut()
            && let Some(own) = &mut owned.key
        {
            replaced = Some(std::mem::replace(own, key.clone()));
        }
        for to in 0..core.port.control() {
            let (key, replaced) = (key.clone(), replaced.clone());
            let made = Box::new(MadeKey { maker, key, replaced });
            self.send(core, to, Message::KeyMade(made));
        }
    }

    /// A core has made a key.
    pub(super) fn key_made(&mut self, core: &mut ShardCore, from: usize, made: MadeKey) {
        let MadeKey { maker, key, replaced } = made;
        self.generated.add(key, replaced.as_ref(), core.io.now_ms());
        self.send(core, from, Message::KeyKnown { maker });
    }

    /// A core tells of a key.
    pub(super) fn key_news(&mut self, key: Arc<GeneratedKey>, news: KeyNews) {
        match news {
            KeyNews::Entered if key.holds(&self.table) => self.generated.enter(key),
            KeyNews::Entered => {}
            KeyNews::Left => self.generated.leave(&key),
            KeyNews::Failed => self.generated.drop_key(&key),
        }
    }

    /// Tells all cores of a key.
    pub(super) fn tell_of_key(
        &mut self,
        core: &mut ShardCore,
        key: &Arc<GeneratedKey>,
        news: KeyNews,
    ) {
        for to in 0..core.port.control() {
            self.send(core, to, Message::KeyNews(key.clone(), news));
        }
    }
}

/// Whether a queue for I/O may not belong to the controller that its Connect names: what has a
/// secure channel has no queue beside it.
pub(super) fn is_beside_channel(owned: &OwnedController, request: &ConnectRequest) -> bool {
    owned.key.is_some() && !request.is_secured
}

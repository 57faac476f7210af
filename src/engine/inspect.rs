//! What the control plane can see of connected queues.

use std::net::SocketAddr;

use super::queue::Role;
use super::shard::{Shard, ShardCore};
use crate::secure::{Group, Hash};
use crate::target::subsystem::{Nqn, SubsystemKind};

/// A connected queue.
#[derive(Debug, Clone)]
pub struct QueueInfo {
    /// Core that serves it.
    pub core: usize,
    /// Controller.
    pub cntlid: u16,
    /// Queue; 0 is the admin queue.
    pub qid: u16,
    /// [`crate::target::subsystem::Subsystem::uid`].
    pub subsystem_uid: u64,
    /// It belongs to a discovery controller.
    pub is_discovery: bool,
    /// Host.
    pub hostnqn: Nqn,
    /// Host identifier.
    pub hostid: [u8; 16],
    /// The address it came to.
    pub local: SocketAddr,
    /// The address it came from.
    pub peer: SocketAddr,
    /// It must authenticate itself before anything else.
    pub is_locked: bool,
    /// Its authentication, if there is one: state, hash and group.
    pub auth: Option<(&'static str, Hash, Group)>,
}

impl Shard {
    /// The queues that this core serves.
    pub(super) fn queue_infos(&mut self, core: &ShardCore) -> Vec<QueueInfo> {
        let mut infos = Vec::new();
        for index in self.connections.indexes() {
            let Some(conn) = self.connections.get(index) else { continue };
            let (local, peer, is_locked) = (conn.local, conn.peer, conn.is_locked);
            let auth = conn.auth.as_ref().map(|auth| auth.describe());
            let (cntlid, qid, subsystem, hostnqn, hostid) = match &conn.role {
                Role::Fresh | Role::Connecting(_) => continue,
                Role::Io(grant) => {
                    (grant.cntlid, grant.qid, grant.subsystem.clone(), grant.hostnqn, grant.hostid)
                }
                Role::Admin(slot) => {
                    let slot = *slot;
                    let Some(owned) = self.connections.controllers[slot].as_deref() else {
                        continue;
                    };
                    let own = &owned.controller;
                    (own.cntlid(), 0, own.subsystem().clone(), *own.hostnqn(), *own.hostid())
                }
            };
            infos.push(QueueInfo {
                core: core.index(),
                cntlid,
                qid,
                subsystem_uid: subsystem.uid(),
                is_discovery: subsystem.kind() == SubsystemKind::Discovery,
                hostnqn,
                hostid,
                local,
                peer,
                is_locked,
                auth,
            });
        }
        infos
    }
}

//! Hosts that may connect, and what they must prove.

use std::net::SocketAddr;
use std::sync::Arc;

use super::entry::listener_covers;
use super::nqn::Nqn;
use super::table::SubsystemTable;
use crate::secure::psk::{self, TlsPsk};
use crate::secure::tls::FindPsk;
use crate::secure::{ChapKey, GroupSet, HashSet, Psk};
use crate::wire::fabrics::DISCOVERY_NQN;

/// A key, and what the operator calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedKey<K> {
    /// Its name in the keyring.
    pub name: String,
    /// The key.
    pub key: K,
}

/// Whether a host makes a secure channel of its authentication (secure channel concatenation): it
/// comes in the clear, and again under TLS with the key that both sides have generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Concat {
    /// It must not.
    Refuse,
    /// If it asks for it.
    #[default]
    Allow,
    /// It must: in the clear it can do nothing but authenticate itself.
    Require,
}

impl Concat {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Refuse, Self::Allow, Self::Require];

    /// As configuration and JSON-RPC call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Allow => "allow",
            Self::Require => "require",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// The keys of a host for one subsystem.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostKeys {
    /// With this one the host proves itself on every queue before anything else.
    pub dhchap: Option<NamedKey<ChapKey>>,
    /// With this one the subsystem proves itself if the host asks for it.
    pub dhchap_ctrlr: Option<NamedKey<ChapKey>>,
    /// The host comes under TLS with this one, and not otherwise.
    pub psk: Option<NamedKey<Psk>>,
    /// What becomes of its authentication.
    pub concat: Concat,
}

impl HostKeys {
    /// Whether a secure channel may be made of the host's authentication. One that has a key for
    /// TLS comes under TLS in the first place.
    #[must_use]
    pub fn may_concatenate(&self) -> bool {
        self.dhchap.is_some() && self.psk.is_none() && self.concat != Concat::Refuse
    }

    /// Whether it must be made.
    #[must_use]
    pub fn must_concatenate(&self) -> bool {
        self.may_concatenate() && self.concat == Concat::Require
    }
}

/// A host that may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    /// Its name.
    pub nqn: Nqn,
    /// Its keys.
    pub keys: Arc<HostKeys>,
}

/// What the target agrees to in authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthPolicy {
    /// Hash functions.
    pub hashes: HashSet,
    /// Groups of Diffie-Hellman.
    pub groups: GroupSet,
}

impl Default for AuthPolicy {
    fn default() -> Self {
        Self { hashes: HashSet::ALL, groups: GroupSet::ALL }
    }
}

impl SubsystemTable {
    /// Whether some host may come under TLS with a generated key to where `local` is, though TLS is
    /// not due there.
    #[must_use]
    pub fn may_concatenate(&self, local: SocketAddr) -> bool {
        let is_there = |address: &SocketAddr| listener_covers(*address, local);
        self.subsystems().iter().any(|one| {
            one.listeners().iter().any(is_there)
                && one.hosts().iter().any(|host| host.keys.may_concatenate())
        })
    }
}

/// Any of a host's keys opens the discovery subsystem.
impl FindPsk for SubsystemTable {
    fn find_psk(&self, identity: &str) -> Option<TlsPsk> {
        let party = psk::party(identity).filter(|_| !psk::is_generated(identity))?;
        let is_meant = |nqn: &Nqn| party.subnqn == nqn.as_str() || party.subnqn == DISCOVERY_NQN;
        let subsystems = self.subsystems().iter().filter(|known| is_meant(known.nqn()));
        let hosts = subsystems.flat_map(|known| known.hosts());
        hosts
            .filter(|host| host.nqn.as_str() == party.hostnqn)
            .find_map(|host| host.keys.psk.as_ref()?.key.find(identity))
    }
}

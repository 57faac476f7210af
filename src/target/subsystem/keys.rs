//! Hosts that may connect, and what they must prove.

use std::sync::Arc;

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

/// The keys of a host for one subsystem.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostKeys {
    /// With this one the host proves itself on every queue before anything else.
    pub dhchap: Option<NamedKey<ChapKey>>,
    /// With this one the subsystem proves itself if the host asks for it.
    pub dhchap_ctrlr: Option<NamedKey<ChapKey>>,
    /// The host comes under TLS with this one, and not otherwise.
    pub psk: Option<NamedKey<Psk>>,
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

/// Any of a host's keys opens the discovery subsystem.
impl FindPsk for SubsystemTable {
    fn find_psk(&self, identity: &str) -> Option<TlsPsk> {
        let party = psk::party(identity)?;
        let is_meant = |nqn: &Nqn| party.subnqn == nqn.as_str() || party.subnqn == DISCOVERY_NQN;
        let subsystems = self.subsystems().iter().filter(|known| is_meant(known.nqn()));
        let hosts = subsystems.flat_map(|known| known.hosts());
        hosts
            .filter(|host| host.nqn.as_str() == party.hostnqn)
            .find_map(|host| host.keys.psk.as_ref()?.key.find(identity))
    }
}

//! Hosts that may connect, and what they must prove.

use std::sync::Arc;

use super::nqn::Nqn;
use crate::secure::{ChapKey, GroupSet, HashSet};

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

//! Keys, who has which, and what is agreed to in authentication.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Target, TargetError};
use crate::control::keyring::{Keyring, KeyringError};
use crate::secure::{ChapKey, Psk};
use crate::target::subsystem::{AuthPolicy, Concat, DupHostPolicy, HostKeys, NamedKey};

impl From<KeyringError> for TargetError {
    fn from(error: KeyringError) -> Self {
        let text = error.to_string();
        match error {
            KeyringError::Exists(_) => Self::Exists(text),
            KeyringError::Unknown(_) => Self::NoKey(text),
            KeyringError::TooMany => Self::NoSpace(text),
            KeyringError::Unreadable { .. } => Self::NotFound(text),
            KeyringError::Open { .. } | KeyringError::Foreign { .. } => Self::Forbidden(text),
            KeyringError::BadName { .. }
            | KeyringError::Relative { .. }
            | KeyringError::NoFile { .. }
            | KeyringError::BadKey { .. } => Self::Invalid(text),
        }
    }
}

/// Names of the keys that a host is to have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyNames {
    /// The host's own, for DH-HMAC-CHAP.
    pub dhchap: Option<String>,
    /// The subsystem's, for DH-HMAC-CHAP.
    pub dhchap_ctrlr: Option<String>,
    /// The host's and subsystem's common one, for TLS.
    pub psk: Option<String>,
    /// Whether a secure channel is made of its authentication; `None`: nothing is said of it.
    pub concat: Option<Concat>,
}

impl Target {
    /// The keys that there are.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Makes a key known.
    pub fn add_key_file(&mut self, name: &str, path: &Path) -> Result<(), TargetError> {
        Ok(self.keyring.add_file(name, path)?)
    }

    /// Makes a key unknown. Hosts that have it keep it until they are given another.
    pub fn remove_key(&mut self, name: &str) -> Result<(), TargetError> {
        Ok(self.keyring.remove(name)?)
    }

    /// How many hosts have each key.
    #[must_use]
    pub fn key_uses(&self) -> BTreeMap<String, usize> {
        let mut uses = BTreeMap::new();
        for subsystem in self.table.subsystems() {
            for host in subsystem.hosts() {
                let HostKeys { dhchap, dhchap_ctrlr, psk, concat: _ } = &*host.keys;
                let chap = [dhchap, dhchap_ctrlr].map(|key| key.as_ref().map(|key| &key.name));
                let psk = psk.as_ref().map(|key| &key.name);
                for name in chap.into_iter().chain([psk]).flatten() {
                    *uses.entry(name.clone()).or_default() += 1;
                }
            }
        }
        uses
    }

    /// Reads the keys of a host.
    fn read_keys(&self, names: &KeyNames) -> Result<HostKeys, TargetError> {
        let chap = |name: &Option<String>| {
            let Some(name) = name else { return Ok(None) };
            let key = self.keyring.read(name, ChapKey::parse)?;
            Ok::<_, TargetError>(Some(NamedKey { name: name.clone(), key }))
        };
        let (dhchap, dhchap_ctrlr) = (chap(&names.dhchap)?, chap(&names.dhchap_ctrlr)?);
        let mut psk = None;
        if let Some(name) = &names.psk {
            let key = self.keyring.read(name, Psk::parse)?;
            psk = Some(NamedKey { name: name.clone(), key });
        }
        let concat = names.concat.unwrap_or_default();
        Ok(HostKeys { dhchap, dhchap_ctrlr, psk, concat })
    }

    /// Allows a host that has these keys.
    pub fn add_host_with(
        &mut self,
        nqn: &str,
        host: &str,
        names: &KeyNames,
    ) -> Result<(), TargetError> {
        self.subsystem(nqn)?;
        let keys = self.read_keys(names)?;
        self.change(|table| {
            table.add_host(nqn, host)?;
            table.set_keys(nqn, host, keys)
        })
    }

    /// Gives a host other keys for DH-HMAC-CHAP, or none; and another one for TLS, if it is named.
    /// Whether a secure channel is made of its authentication stays if nothing is said of it.
    pub fn set_host_keys(
        &mut self,
        nqn: &str,
        host: &str,
        names: &KeyNames,
    ) -> Result<(), TargetError> {
        let subsystem = self.subsystem(nqn)?;
        let mut keys = self.read_keys(names)?;
        if let Some(known) = subsystem.hosts().iter().find(|known| known.nqn.as_str() == host) {
            if keys.psk.is_none() {
                // The call is about DH-HMAC-CHAP.
                keys.psk = known.keys.psk.clone();
            }
            keys.concat = names.concat.unwrap_or(known.keys.concat);
        }
        self.change(|table| table.set_keys(nqn, host, keys))
    }

    /// What is agreed to in authentication.
    #[must_use]
    pub fn auth_policy(&self) -> AuthPolicy {
        self.table.auth_policy()
    }

    /// Sets what is agreed to in authentication.
    pub fn set_auth_policy(&mut self, policy: AuthPolicy) -> Result<(), TargetError> {
        self.change(|table| {
            table.set_auth_policy(policy);
            Ok(())
        })
    }

    /// Whether the kernel encrypts connections under TLS, where it can.
    #[must_use]
    pub fn kernel_tls(&self) -> bool {
        self.table.kernel_tls()
    }

    /// Sets whether the kernel encrypts connections under TLS that come from now on.
    pub fn set_kernel_tls(&mut self, is_wanted: bool) -> Result<(), TargetError> {
        self.change(|table| {
            table.set_kernel_tls(is_wanted);
            Ok(())
        })
    }

    /// What becomes of a host that connects anew.
    #[must_use]
    pub fn dup_host_policy(&self) -> DupHostPolicy {
        self.table.dup_host_policy()
    }

    /// Sets what becomes of a host that connects anew.
    pub fn set_dup_host_policy(&mut self, policy: DupHostPolicy) -> Result<(), TargetError> {
        self.change(|table| {
            table.set_dup_host_policy(policy);
            Ok(())
        })
    }
}

//! What this host proves itself with: keys in files, as `nvme gen-tls-key` and `nvme
//! gen-dhchap-key` write them. They are in no report.

use std::path::{Path, PathBuf};

use clap::Args;
use mdof::initiator::HostAuth;
use mdof::secure::key::KeyError;
use mdof::secure::psk::{Party, TlsPsk};
use mdof::secure::{ChapKey, Psk};

use crate::job::PerfError;

/// Files of keys.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct KeyArgs {
    /// File with the host's key for TLS (NVMeTLSkey-1:...): --addr is reached under TLS, and so is
    /// what ab names nvme+tls:ADDRESS:PORT/NQN
    #[arg(long, value_name = "FILE")]
    tls_psk: Option<PathBuf>,
    /// File with the host's key for DH-HMAC-CHAP (DHHC-1:...)
    #[arg(long, value_name = "FILE")]
    dhchap_key: Option<PathBuf>,
    /// File with the subsystem's: it must prove itself, too
    #[arg(long, value_name = "FILE", requires = "dhchap_key")]
    dhchap_ctrlr_key: Option<PathBuf>,
}

/// Keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) psk: Option<Psk>,
    pub(crate) dhchap: Option<ChapKey>,
    pub(crate) dhchap_ctrlr: Option<ChapKey>,
}

fn read<K>(
    file: Option<&Path>,
    parse: fn(&str) -> Result<K, KeyError>,
) -> Result<Option<K>, PerfError> {
    let Some(file) = file else { return Ok(None) };
    let failed = |reason: String| PerfError(format!("key in {}: {reason}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    parse(text.trim()).map(Some).map_err(|error| failed(error.to_string()))
}

impl KeyArgs {
    /// Reads the files.
    pub(crate) fn read(&self) -> Result<Keys, PerfError> {
        Ok(Keys {
            psk: read(self.tls_psk.as_deref(), Psk::parse)?,
            dhchap: read(self.dhchap_key.as_deref(), ChapKey::parse)?,
            dhchap_ctrlr: read(self.dhchap_ctrlr_key.as_deref(), ChapKey::parse)?,
        })
    }
}

impl Keys {
    /// The key for TLS between a host and a subsystem.
    pub(crate) fn tls(&self, hostnqn: &str, subnqn: &str) -> Option<TlsPsk> {
        let [newer, _] = self.psk.as_ref()?.tls_keys(Party { hostnqn, subnqn });
        Some(newer)
    }

    /// What the host proves itself with in authentication.
    pub(crate) fn auth(&self) -> Option<HostAuth> {
        let mut auth = HostAuth::new(self.dhchap.clone()?);
        auth.controller_key.clone_from(&self.dhchap_ctrlr);
        Some(auth)
    }
}

//! Why control's changes are refused, and the limits behind some of them.

use std::net::SocketAddr;

use super::nqn::NqnError;
use crate::limits::{NAMESPACES_MAX, SUBSYSTEMS_MAX};

/// Hosts that one subsystem can name.
pub const HOSTS_MAX: usize = 1024;

/// Addresses that one subsystem can listen on.
pub const LISTENERS_MAX: usize = 64;

/// Referrals that the discovery log can hold.
pub(super) const REFERRALS_MAX: usize = 256;

/// Controller ids that a subsystem may hand out (Base 2.1, section 3.1.1; 0 and FFF0h up are
/// reserved).
pub const CNTLID_MAX: u16 = 0xffef;

/// Why a change was refused. The table is then as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum TableError {
    #[error("\"{name}\" is not a valid NQN: {reason}")]
    BadNqn { name: String, reason: NqnError },
    #[error("subsystem {0} exists already")]
    SubsystemExists(String),
    #[error("there is no subsystem {0}")]
    NoSubsystem(String),
    #[error("the target is full: it holds {SUBSYSTEMS_MAX} subsystems")]
    TooManySubsystems,
    #[error("the discovery subsystem is built in: it cannot be deleted and has no namespaces")]
    Discovery,
    #[error("serial number \"{0}\" must be 1 to 20 printable ASCII characters")]
    BadSerial(String),
    #[error("model number \"{0}\" must be 1 to 40 printable ASCII characters")]
    BadModel(String),
    #[error("max_namespaces must be 1 to {NAMESPACES_MAX}, not {0}")]
    BadMaxNamespaces(u32),
    #[error("controller ids {min} to {max} are no range within 1 to {CNTLID_MAX}")]
    BadCntlidRange { min: u16, max: u16 },
    #[error("namespace id {nsid} is not in 1 to {max} (the subsystem's max_namespaces)")]
    BadNsid { nsid: u32, max: u32 },
    #[error("namespace {nsid} of {nqn} exists already")]
    NamespaceExists { nqn: String, nsid: u32 },
    #[error("subsystem {nqn} has no namespace {nsid}")]
    NoNamespace { nqn: String, nsid: u32 },
    #[error("all {max} namespace ids of subsystem {nqn} are in use")]
    NamespacesFull { nqn: String, max: u32 },
    #[error("bdev {bdev} is exported already, as namespace {nsid} of {nqn}")]
    BdevInUse { bdev: String, nqn: String, nsid: u32 },
    #[error("bdev {bdev} has blocks of {bytes} bytes; a namespace can have 512 or 4096")]
    BadBlockSize { bdev: String, bytes: u32 },
    #[error("bdev {0} has no blocks")]
    EmptyBdev(String),
    #[error("subsystem {nqn} listens on {address} already")]
    ListenerExists { nqn: String, address: SocketAddr },
    #[error("subsystem {nqn} does not listen on {address}")]
    NoListener { nqn: String, address: SocketAddr },
    #[error("subsystem {0} has {LISTENERS_MAX} listeners, the maximum")]
    TooManyListeners(String),
    #[error("subsystem {0} was created without ana_reporting: its listeners have no ANA states")]
    NoAna(String),
    #[error("ANA group {group} is not in 1 to {max} (the subsystem's max_namespaces)")]
    BadAnaGroup { group: u32, max: u32 },
    #[error("namespace {nsid} of {nqn} is shown to every host; add it with no_auto_visible")]
    NotMasked { nqn: String, nsid: u32 },
    #[error("there is a referral to {subnqn} at {address} already")]
    ReferralExists { address: SocketAddr, subnqn: String },
    #[error("there is no referral to {subnqn} at {address}")]
    NoReferral { address: SocketAddr, subnqn: String },
    #[error("there are {REFERRALS_MAX} referrals, the maximum")]
    TooManyReferrals,
    #[error("host {host} is allowed in {nqn} already")]
    HostExists { nqn: String, host: String },
    #[error("subsystem {nqn} does not know host {host}")]
    NoHost { nqn: String, host: String },
    #[error(
        "subsystem {0} can't have both allow_any_host and a listener with secure_channel: hosts \
         without a psk could not connect there"
    )]
    SecureForAnyHost(String),
    #[error("{0} is a listener of another subsystem, one with and one without secure_channel")]
    ListenerMixed(SocketAddr),
    #[error(
        "dhchap_ctrlr_key needs a dhchap_key: a host that has no key of its own can't ask for it"
    )]
    ControllerKeyAlone,
    #[error(
        "concat \"require\" is for a host with a dhchap_key, of whose authentication the secure \
         channel is made, and without a psk, with which it comes under TLS anyway"
    )]
    ConcatWithoutChap,
    #[error("subsystem {0} has {HOSTS_MAX} hosts, the maximum")]
    TooManyHosts(String),
}

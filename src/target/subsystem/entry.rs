//! A subsystem and its namespaces, as controllers and the data path see them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use uuid::Uuid;

use super::keys::{AllowedHost, HostKeys};
use super::nqn::Nqn;
use super::view::{AnaState, ListenerAna};
use crate::bdev::BdevId;
use crate::target::reservation::Reservation;

/// What a subsystem is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubsystemKind {
    /// It has namespaces.
    Nvm,
    /// It tells hosts which subsystems there are.
    Discovery,
}

/// A namespace: everything that the data path and Identify need, copied from the bdev.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// Namespace id.
    pub nsid: u32,
    /// The bdev behind it.
    pub bdev: BdevId,
    /// Logical block size as a power of two: 9 or 12.
    pub block_shift: u8,
    /// Size in logical blocks.
    pub blocks: u64,
    /// UUID.
    pub uuid: Uuid,
    /// NGUID; zero: none.
    pub nguid: [u8; 16],
    /// EUI-64; zero: none.
    pub eui64: [u8; 8],
    /// Completed writes may be lost at power loss until a flush.
    pub volatile_write_cache: bool,
    /// Deallocation frees space and makes the range read as zeroes.
    pub unmap: bool,
    /// ANA group.
    pub anagrpid: u32,
    /// How the path reaches it, in a view of [`Subsystem::seen_by`].
    pub ana: AnaState,
    /// A reservation can persist through power loss.
    pub persistent_reservations: bool,
    /// What is behind it has less redundancy than it should have.
    pub degraded: bool,
    /// Preferred I/O size in logical blocks; 0: none.
    pub optimal_io_blocks: u32,
    /// See [`crate::bdev::Geometry::io_boundary_blocks`].
    pub io_boundary_blocks: u32,
    /// See [`crate::bdev::Geometry::write_unit_blocks`].
    pub write_unit_blocks: u32,
    /// See [`crate::bdev::Geometry::unmap_unit_blocks`].
    pub unmap_unit_blocks: u32,
}

impl Namespace {
    /// Logical block size in bytes.
    #[must_use]
    pub fn block_size_bytes(&self) -> u32 {
        1 << self.block_shift
    }

    /// Whether `lba..lba + blocks` lies inside the namespace.
    #[must_use]
    pub fn contains(&self, lba: u64, blocks: u32) -> bool {
        lba.checked_add(u64::from(blocks)).is_some_and(|end| end <= self.blocks)
    }
}

/// Names a namespace for as long as the target runs: a subsystem that is created again has another
/// uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NamespaceKey {
    /// [`Subsystem::uid`].
    pub uid: u64,
    /// Namespace id.
    pub nsid: u32,
}

/// Where a namespace's reservation outlives a power loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persistence {
    /// The file.
    pub path: String,
    /// What was saved there when the namespace was added.
    pub restored: Option<Reservation>,
}

/// One subsystem as hosts see it. Immutable once published. What may be long and is the same for
/// all hosts is shared by their views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subsystem {
    pub(super) uid: u64,
    pub(super) kind: SubsystemKind,
    pub(super) nqn: Nqn,
    pub(super) serial: String,
    pub(super) model: String,
    pub(super) allow_any_host: bool,
    pub(super) hosts: Arc<Vec<AllowedHost>>,
    /// Index: NSID - 1. As long as `max_namespaces`.
    pub(super) namespaces: Vec<Option<Namespace>>,
    /// By the same index: the only hosts that see the namespace, if it is not for all.
    pub(super) masks: Arc<Vec<Option<Vec<Nqn>>>>,
    /// By the same index.
    pub(super) persistences: Arc<Vec<Option<Arc<Persistence>>>>,
    pub(super) listeners: Vec<SocketAddr>,
    /// Those of them that take connections under TLS only.
    pub(super) secure_listeners: Vec<SocketAddr>,
    /// By the same index.
    pub(super) ana: Arc<Vec<ListenerAna>>,
    pub(super) ana_reporting: bool,
    pub(super) min_cntlid: u16,
    pub(super) max_cntlid: u16,
}

impl Subsystem {
    /// Names this subsystem for ever: one that is deleted and created again has another.
    #[must_use]
    pub fn uid(&self) -> u64 {
        self.uid
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> SubsystemKind {
        self.kind
    }

    /// Name.
    #[must_use]
    pub fn nqn(&self) -> &Nqn {
        &self.nqn
    }

    /// Serial number.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Model number.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether every host may connect.
    #[must_use]
    pub fn allow_any_host(&self) -> bool {
        self.allow_any_host
    }

    /// Hosts that may connect, besides.
    #[must_use]
    pub fn hosts(&self) -> &[AllowedHost] {
        &self.hosts
    }

    /// The keys of a host; `None`: it has none, and needs none.
    #[must_use]
    pub fn keys_of(&self, host: &Nqn) -> Option<&Arc<HostKeys>> {
        self.hosts.iter().find(|known| known.nqn == *host).map(|known| &known.keys)
    }

    /// Whether a host must authenticate itself on every queue.
    #[must_use]
    pub fn wants_authentication(&self, host: &Nqn) -> bool {
        self.keys_of(host).is_some_and(|keys| keys.dhchap.is_some())
    }

    /// Addresses to listen on.
    #[must_use]
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// The largest namespace id.
    #[must_use]
    pub fn max_namespaces(&self) -> u32 {
        u32::try_from(self.namespaces.len()).expect("bounded by NAMESPACES_MAX")
    }

    /// Smallest and largest controller id.
    #[must_use]
    pub fn cntlid_range(&self) -> std::ops::RangeInclusive<u16> {
        self.min_cntlid..=self.max_cntlid
    }

    /// The namespace `nsid`. The hot path's lookup: one bounds check and one load.
    #[must_use]
    pub fn namespace(&self, nsid: u32) -> Option<&Namespace> {
        let index = usize::try_from(nsid.wrapping_sub(1)).ok()?;
        self.namespaces.get(index)?.as_ref()
    }

    /// Where the reservation of namespace `nsid` is saved.
    #[must_use]
    pub fn persistence(&self, nsid: u32) -> Option<&Persistence> {
        let index = usize::try_from(nsid.wrapping_sub(1)).ok()?;
        self.persistences.get(index)?.as_deref()
    }

    /// All namespaces by ascending id.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.iter().flatten()
    }

    /// Whether a host of this name may connect.
    #[must_use]
    pub fn allows(&self, host: &Nqn) -> bool {
        self.allow_any_host || self.hosts.iter().any(|known| known.nqn == *host)
    }

    /// Whether the listener at this address takes connections under TLS only.
    #[must_use]
    pub fn is_secure(&self, listener: SocketAddr) -> bool {
        self.secure_listeners.contains(&listener)
    }

    /// Whether `local` is one of the subsystem's own addresses.
    #[must_use]
    pub fn listens_on(&self, local: SocketAddr) -> bool {
        self.listeners.iter().any(|listener| listener_covers(*listener, local))
    }
}

/// Whether a connection that arrived at `local` came by this listener.
pub(super) fn listener_covers(listener: SocketAddr, local: SocketAddr) -> bool {
    let local_ip = local.ip().to_canonical();
    listener.port() == local.port()
        && (listener.ip().to_canonical() == local_ip || wildcard_covers(listener.ip(), local_ip))
}

/// A socket on `[::]` takes IPv4 connections too.
fn wildcard_covers(listener: IpAddr, local: IpAddr) -> bool {
    listener.is_unspecified() && (listener.is_ipv6() || local.is_ipv4())
}

//! The table of subsystems, and the changes control makes to it.

use std::net::SocketAddr;
use std::sync::Arc;

use uuid::Uuid;

use super::duplicates::DupHostPolicy;
use super::entry::{
    Namespace, NamespaceKey, Persistence, Subsystem, SubsystemKind, listener_covers,
};
use super::error::{CNTLID_MAX, HOSTS_MAX, LISTENERS_MAX, TableError};
use super::keys::{AllowedHost, AuthPolicy, Concat, HostKeys};
use super::nqn::Nqn;
use super::paths::Referral;
use super::view::{AnaState, ListenerAna};
use crate::bdev::{BdevId, Geometry};
use crate::limits::{NAMESPACES_MAX, SUBSYSTEMS_MAX};

/// Namespaces of a subsystem when the operator does not say.
const MAX_NAMESPACES_DEFAULT: u32 = 32;

/// A subsystem to be created.
#[derive(Debug, Clone)]
pub struct SubsystemSpec<'a> {
    /// Its name.
    pub nqn: &'a str,
    /// Serial number that hosts see, up to 20 ASCII characters.
    pub serial: &'a str,
    /// Model number that hosts see, up to 40 ASCII characters.
    pub model: &'a str,
    /// Every host may connect.
    pub allow_any_host: bool,
    /// Tell hosts of ANA groups and their states.
    pub ana_reporting: bool,
    /// Largest namespace id.
    pub max_namespaces: u32,
    /// Smallest controller id.
    pub min_cntlid: u16,
    /// Largest controller id.
    pub max_cntlid: u16,
}

impl<'a> SubsystemSpec<'a> {
    /// A subsystem called `nqn` with the defaults of SPDK's `nvmf_create_subsystem`.
    #[must_use]
    pub fn new(nqn: &'a str) -> Self {
        Self {
            nqn,
            serial: "00000000000000000000",
            model: "mdof bdev Controller",
            allow_any_host: false,
            ana_reporting: false,
            max_namespaces: MAX_NAMESPACES_DEFAULT,
            min_cntlid: 1,
            max_cntlid: CNTLID_MAX,
        }
    }
}

/// A namespace to be added.
#[derive(Debug, Clone, Copy)]
pub struct NamespaceSpec<'a> {
    /// Its id; `None`: the lowest free one.
    pub nsid: Option<u32>,
    /// The bdev behind it.
    pub bdev: BdevId,
    /// The bdev's geometry.
    pub geometry: &'a Geometry,
    /// UUID that hosts see; `None`: the bdev's.
    pub uuid: Option<Uuid>,
    /// NGUID that hosts see; `None`: the UUID's bytes.
    pub nguid: Option<[u8; 16]>,
    /// EUI-64 that hosts see.
    pub eui64: Option<[u8; 8]>,
}

impl<'a> NamespaceSpec<'a> {
    /// `bdev` as the next namespace, with the bdev's own identity.
    #[must_use]
    pub fn new(bdev: BdevId, geometry: &'a Geometry) -> Self {
        Self { nsid: None, bdev, geometry, uuid: None, nguid: None, eui64: None }
    }
}

/// All subsystems of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsystemTable {
    /// Sorted by name. The discovery subsystem is always there.
    subsystems: Vec<Arc<Subsystem>>,
    pub(super) referrals: Vec<Referral>,
    pub(super) auth_policy: AuthPolicy,
    pub(super) dup_host_policy: DupHostPolicy,
    /// The kernel encrypts under TLS, where it can.
    kernel_tls: bool,
    pub(super) generation: u64,
    next_uid: u64,
}

impl Default for SubsystemTable {
    fn default() -> Self {
        Self::new()
    }
}

impl SubsystemTable {
    /// A table with nothing but the discovery subsystem.
    #[must_use]
    pub fn new() -> Self {
        let discovery = Subsystem {
            uid: 0,
            kind: SubsystemKind::Discovery,
            nqn: Nqn::discovery(),
            serial: "00000000000000000000".to_owned(),
            model: "mdof Discovery Controller".to_owned(),
            allow_any_host: true,
            hosts: Arc::default(),
            namespaces: Vec::new(),
            masks: Arc::default(),
            persistences: Arc::default(),
            listeners: Vec::new(),
            secure_listeners: Vec::new(),
            ana: Arc::default(),
            ana_reporting: false,
            min_cntlid: 1,
            max_cntlid: CNTLID_MAX,
        };
        Self {
            subsystems: vec![Arc::new(discovery)],
            referrals: Vec::new(),
            auth_policy: AuthPolicy::default(),
            dup_host_policy: DupHostPolicy::default(),
            kernel_tls: true,
            generation: 1,
            next_uid: 1,
        }
    }

    /// Changes whenever the discovery log page may have changed (GENCTR).
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// All subsystems, sorted by name, the discovery subsystem among them.
    #[must_use]
    pub fn subsystems(&self) -> &[Arc<Subsystem>] {
        &self.subsystems
    }

    /// The subsystem called `nqn`.
    #[must_use]
    pub fn find(&self, nqn: &Nqn) -> Option<&Arc<Subsystem>> {
        let index = self.position(nqn).ok()?;
        Some(&self.subsystems[index])
    }

    /// The present state of the subsystem that had this [`Subsystem::uid`]; `None`: deleted, its
    /// connections must end.
    #[must_use]
    pub fn find_uid(&self, uid: u64) -> Option<&Arc<Subsystem>> {
        self.subsystems.iter().find(|subsystem| subsystem.uid == uid)
    }

    /// The subsystem and namespace that export `bdev`; a bdev is exported at most once.
    #[must_use]
    pub fn exported_as(&self, bdev: BdevId) -> Option<(&Nqn, u32)> {
        self.subsystems.iter().find_map(|subsystem| {
            let namespace = subsystem.namespaces().find(|used| used.bdev == bdev)?;
            Some((&subsystem.nqn, namespace.nsid))
        })
    }

    /// Adds a subsystem without namespaces and listeners.
    ///
    /// # Errors
    /// A bad parameter, a name that exists, or a full table.
    pub fn create_subsystem(&mut self, spec: &SubsystemSpec<'_>) -> Result<(), TableError> {
        let nqn = parse_nqn(spec.nqn)?;
        let Err(index) = self.position(&nqn) else {
            return Err(TableError::SubsystemExists(nqn.to_string()));
        };
        if !is_ascii_field(spec.serial, 20) {
            return Err(TableError::BadSerial(spec.serial.to_owned()));
        }
        if !is_ascii_field(spec.model, 40) {
            return Err(TableError::BadModel(spec.model.to_owned()));
        }
        let namespace_count = usize::try_from(spec.max_namespaces)
            .ok()
            .filter(|count| (1..=NAMESPACES_MAX).contains(count))
            .ok_or(TableError::BadMaxNamespaces(spec.max_namespaces))?;
        let (min, max) = (spec.min_cntlid, spec.max_cntlid);
        if min == 0 || min > max || max > CNTLID_MAX {
            return Err(TableError::BadCntlidRange { min, max });
        }
        if self.subsystems.len() > SUBSYSTEMS_MAX {
            return Err(TableError::TooManySubsystems);
        }
        let subsystem = Subsystem {
            uid: self.next_uid,
            kind: SubsystemKind::Nvm,
            nqn,
            serial: spec.serial.to_owned(),
            model: spec.model.to_owned(),
            allow_any_host: spec.allow_any_host,
            hosts: Arc::default(),
            namespaces: vec![None; namespace_count],
            masks: Arc::new(vec![None; namespace_count]),
            persistences: Arc::new(vec![None; namespace_count]),
            listeners: Vec::new(),
            secure_listeners: Vec::new(),
            ana: Arc::default(),
            ana_reporting: spec.ana_reporting,
            min_cntlid: min,
            max_cntlid: max,
        };
        self.next_uid += 1;
        self.subsystems.insert(index, Arc::new(subsystem));
        self.generation += 1;
        Ok(())
    }

    /// Deletes a subsystem; its controllers lose their connections when the table is published.
    ///
    /// # Errors
    /// An unknown name, or the discovery subsystem's.
    pub fn delete_subsystem(&mut self, nqn: &str) -> Result<(), TableError> {
        let index = self.index_of_nvm(nqn)?;
        self.subsystems.remove(index);
        self.generation += 1;
        Ok(())
    }

    /// Adds a namespace and returns its id.
    ///
    /// # Errors
    /// An unknown subsystem, an id that is taken or out of range, or a bdev that cannot be one.
    pub fn add_ns(&mut self, nqn: &str, spec: &NamespaceSpec<'_>) -> Result<u32, TableError> {
        let index = self.index_of_nvm(nqn)?;
        let namespace = self.plan_namespace(index, spec)?;
        let slot = usize::try_from(namespace.nsid - 1).expect("bounded by NAMESPACES_MAX");
        self.change(index).namespaces[slot] = Some(namespace);
        Ok(namespace.nsid)
    }

    fn plan_namespace(
        &self,
        index: usize,
        spec: &NamespaceSpec<'_>,
    ) -> Result<Namespace, TableError> {
        let geometry = spec.geometry;
        let name = || geometry.name.clone();
        let bytes = geometry.block_size_bytes;
        if bytes != 512 && bytes != 4096 {
            return Err(TableError::BadBlockSize { bdev: name(), bytes });
        }
        if geometry.blocks == 0 {
            return Err(TableError::EmptyBdev(name()));
        }
        if let Some((nqn, nsid)) = self.exported_as(spec.bdev) {
            return Err(TableError::BdevInUse { bdev: name(), nqn: nqn.to_string(), nsid });
        }
        let subsystem = &self.subsystems[index];
        let (nqn, max) = (subsystem.nqn.to_string(), subsystem.max_namespaces());
        let nsid = match spec.nsid {
            Some(nsid) if nsid == 0 || nsid > max => {
                return Err(TableError::BadNsid { nsid, max });
            }
            Some(nsid) if subsystem.namespace(nsid).is_some() => {
                return Err(TableError::NamespaceExists { nqn, nsid });
            }
            Some(nsid) => nsid,
            None => (1..=max)
                .find(|&nsid| subsystem.namespace(nsid).is_none())
                .ok_or(TableError::NamespacesFull { nqn, max })?,
        };
        let uuid = spec.uuid.unwrap_or(geometry.uuid);
        Ok(Namespace {
            nsid,
            bdev: spec.bdev,
            block_shift: if bytes == 512 { 9 } else { 12 },
            blocks: geometry.blocks,
            uuid,
            // Some hosts (ESXi) know of no UUIDs and would go by the serial number.
            nguid: spec.nguid.unwrap_or(uuid.into_bytes()),
            eui64: spec.eui64.unwrap_or_default(),
            volatile_write_cache: geometry.volatile_write_cache,
            unmap: geometry.unmap,
            anagrpid: nsid,
            ana: AnaState::Optimized,
            persistent_reservations: false,
            degraded: false,
            optimal_io_blocks: geometry.optimal_io_blocks,
            io_boundary_blocks: geometry.io_boundary_blocks,
            write_unit_blocks: geometry.write_unit_blocks,
            unmap_unit_blocks: geometry.unmap_unit_blocks,
        })
    }

    /// Gives the reservation of a namespace a place where it outlives a power loss.
    ///
    /// # Errors
    /// An unknown subsystem or namespace.
    pub fn set_persistence(
        &mut self,
        nqn: &str,
        nsid: u32,
        place: Persistence,
    ) -> Result<(), TableError> {
        let index = self.index_of_nvm(nqn)?;
        let subsystem = self.change(index);
        let nqn = subsystem.nqn.to_string();
        let slot = usize::try_from(nsid.wrapping_sub(1)).unwrap_or(usize::MAX);
        let namespace = subsystem.namespaces.get_mut(slot).and_then(Option::as_mut);
        let namespace = namespace.ok_or(TableError::NoNamespace { nqn, nsid })?;
        namespace.persistent_reservations = true;
        Arc::make_mut(&mut subsystem.persistences)[slot] = Some(Arc::new(place));
        Ok(())
    }

    /// Whether the bdev, if it is exported, has less redundancy than it should have. Says whether
    /// that is news.
    pub fn set_degraded(&mut self, bdev: BdevId, degraded: bool) -> bool {
        let is_it = |namespace: &Namespace| namespace.bdev == bdev;
        for subsystem in &mut self.subsystems {
            let Some(found) = subsystem.namespaces().find(|namespace| is_it(namespace)) else {
                continue;
            };
            if found.degraded == degraded {
                return false;
            }
            // The discovery log does not tell of it: the generation stays.
            let namespaces = &mut Arc::make_mut(subsystem).namespaces;
            for namespace in namespaces.iter_mut().flatten().filter(|namespace| is_it(namespace)) {
                namespace.degraded = degraded;
            }
            return true;
        }
        false
    }

    /// A bdev has another size: that of its namespace, if it is exported. Says whether it is.
    pub fn set_blocks(&mut self, bdev: BdevId, blocks: u64) -> bool {
        let has_it = |subsystem: &&mut Arc<Subsystem>| {
            subsystem.namespaces().any(|namespace| namespace.bdev == bdev)
        };
        let Some(subsystem) = self.subsystems.iter_mut().find(has_it) else { return false };
        // The discovery log does not tell of it: the generation stays.
        let namespaces = Arc::make_mut(subsystem).namespaces.iter_mut().flatten();
        let mut own = namespaces.filter(|namespace| namespace.bdev == bdev);
        own.by_ref().for_each(|namespace| namespace.blocks = blocks);
        true
    }

    /// Every exported bdev and its namespace.
    pub fn exports(&self) -> impl Iterator<Item = (BdevId, NamespaceKey)> {
        self.subsystems.iter().flat_map(|subsystem| {
            let key = |nsid| NamespaceKey { uid: subsystem.uid, nsid };
            subsystem.namespaces().map(move |namespace| (namespace.bdev, key(namespace.nsid)))
        })
    }

    /// The namespace that exports `bdev`.
    #[must_use]
    pub fn exported_key(&self, bdev: BdevId) -> Option<NamespaceKey> {
        self.exports().find_map(|(exported, key)| (exported == bdev).then_some(key))
    }

    /// Removes a namespace.
    ///
    /// # Errors
    /// An unknown subsystem or namespace.
    pub fn remove_ns(&mut self, nqn: &str, nsid: u32) -> Result<(), TableError> {
        let index = self.index_of_nvm(nqn)?;
        let nqn = self.subsystems[index].nqn.to_string();
        let slot = usize::try_from(nsid.wrapping_sub(1)).unwrap_or(usize::MAX);
        if self.subsystems[index].namespace(nsid).is_none() {
            return Err(TableError::NoNamespace { nqn, nsid });
        }
        let subsystem = self.change(index);
        subsystem.namespaces[slot] = None;
        Arc::make_mut(&mut subsystem.persistences)[slot] = None;
        Arc::make_mut(&mut subsystem.masks)[slot] = None;
        Ok(())
    }

    /// Lets a subsystem, or the discovery subsystem, be reached at `address`.
    ///
    /// # Errors
    /// An unknown subsystem, an address that it has already, or too many.
    pub fn add_listener(&mut self, nqn: &str, address: SocketAddr) -> Result<(), TableError> {
        self.add_listener_of(nqn, address, false)
    }

    /// The same for connections under TLS only.
    ///
    /// # Errors
    /// Besides: a subsystem that every host may use, of which hosts without a key could not.
    pub fn add_secure_listener(
        &mut self,
        nqn: &str,
        address: SocketAddr,
    ) -> Result<(), TableError> {
        self.add_listener_of(nqn, address, true)
    }

    /// Whether a connection that arrived at `local` may use the subsystem: it must be one of the
    /// subsystem's own addresses. The discovery subsystem answers at those of all.
    #[must_use]
    pub fn leads_to(&self, local: SocketAddr, subsystem: &Subsystem) -> bool {
        subsystem.listens_on(local)
            || subsystem.kind == SubsystemKind::Discovery
                && self.subsystems.iter().any(|one| one.listens_on(local))
    }

    /// Whether connections that arrive at `local` must be under TLS.
    #[must_use]
    pub fn is_secure(&self, local: SocketAddr) -> bool {
        let covers = |listener: &SocketAddr| listener_covers(*listener, local);
        self.subsystems.iter().any(|one| one.secure_listeners.iter().any(covers))
    }

    fn add_listener_of(
        &mut self,
        nqn: &str,
        address: SocketAddr,
        is_secure: bool,
    ) -> Result<(), TableError> {
        let index = self.index_of(nqn)?;
        let subsystem = &self.subsystems[index];
        let nqn = subsystem.nqn.to_string();
        if is_secure && subsystem.allow_any_host && subsystem.kind == SubsystemKind::Nvm {
            return Err(TableError::SecureForAnyHost(nqn));
        }
        let other = |one: &Arc<Subsystem>| {
            one.listeners.contains(&address) && one.is_secure(address) != is_secure
        };
        if self.subsystems.iter().any(other) {
            return Err(TableError::ListenerMixed(address));
        }
        if subsystem.listeners.contains(&address) {
            return Err(TableError::ListenerExists { nqn, address });
        }
        if subsystem.listeners.len() >= LISTENERS_MAX {
            return Err(TableError::TooManyListeners(nqn));
        }
        let subsystem = self.change(index);
        subsystem.listeners.push(address);
        if is_secure {
            subsystem.secure_listeners.push(address);
        }
        Arc::make_mut(&mut subsystem.ana).push(ListenerAna::default());
        self.generation += 1;
        Ok(())
    }

    /// Takes an address away.
    ///
    /// # Errors
    /// An unknown subsystem or address.
    pub fn remove_listener(&mut self, nqn: &str, address: SocketAddr) -> Result<(), TableError> {
        let index = self.index_of(nqn)?;
        let subsystem = &self.subsystems[index];
        let nqn = subsystem.nqn.to_string();
        let found = subsystem.listeners.iter().position(|listener| *listener == address);
        let found = found.ok_or(TableError::NoListener { nqn, address })?;
        let subsystem = self.change(index);
        subsystem.listeners.remove(found);
        subsystem.secure_listeners.retain(|listener| *listener != address);
        Arc::make_mut(&mut subsystem.ana).remove(found);
        self.generation += 1;
        Ok(())
    }

    /// Lets a host connect.
    ///
    /// # Errors
    /// An unknown subsystem, a bad host name, one that is known already, or too many.
    pub fn add_host(&mut self, nqn: &str, host: &str) -> Result<(), TableError> {
        let index = self.index_of_nvm(nqn)?;
        let host = parse_nqn(host)?;
        let subsystem = &self.subsystems[index];
        let nqn = subsystem.nqn.to_string();
        if subsystem.hosts.iter().any(|known| known.nqn == host) {
            return Err(TableError::HostExists { nqn, host: host.to_string() });
        }
        if subsystem.hosts.len() >= HOSTS_MAX {
            return Err(TableError::TooManyHosts(nqn));
        }
        let keys = Arc::default();
        self.change_hosts(index).push(AllowedHost { nqn: host, keys });
        self.generation += 1;
        Ok(())
    }

    /// Forbids a host again; its controllers lose their connections when the table is published.
    ///
    /// # Errors
    /// An unknown subsystem or host.
    pub fn remove_host(&mut self, nqn: &str, host: &str) -> Result<(), TableError> {
        let index = self.index_of_nvm(nqn)?;
        let host = parse_nqn(host)?;
        let nqn = self.subsystems[index].nqn.to_string();
        if self.subsystems[index].keys_of(&host).is_none() {
            return Err(TableError::NoHost { nqn, host: host.to_string() });
        }
        self.change_hosts(index).retain(|known| known.nqn != host);
        self.generation += 1;
        Ok(())
    }

    /// Sets the keys of a host. They are those of authentications that begin afterwards; queues
    /// that are connected stay.
    ///
    /// # Errors
    /// An unknown subsystem or host, or keys that make no sense together.
    pub fn set_keys(&mut self, nqn: &str, host: &str, keys: HostKeys) -> Result<(), TableError> {
        let index = self.index_of_nvm(nqn)?;
        let name = parse_nqn(host)?;
        if keys.dhchap.is_none() && keys.dhchap_ctrlr.is_some() {
            return Err(TableError::ControllerKeyAlone);
        }
        if keys.concat == Concat::Require && !keys.may_concatenate() {
            return Err(TableError::ConcatWithoutChap);
        }
        let known = self.subsystems[index].hosts.iter().position(|known| known.nqn == name);
        let (nqn, host) = (nqn.to_owned(), host.to_owned());
        let known = known.ok_or(TableError::NoHost { nqn, host })?;
        let host = &mut self.change_hosts(index)[known];
        let is_news = host.keys.must_concatenate() != keys.must_concatenate();
        host.keys = Arc::new(keys);
        // The discovery log tells of it.
        self.generation += u64::from(is_news);
        Ok(())
    }

    /// What the target agrees to in authentication.
    #[must_use]
    pub fn auth_policy(&self) -> AuthPolicy {
        self.auth_policy
    }

    /// Sets what the target agrees to in authentication.
    pub fn set_auth_policy(&mut self, policy: AuthPolicy) {
        self.auth_policy = policy;
    }

    /// Whether the kernel encrypts connections under TLS, where it can.
    #[must_use]
    pub fn kernel_tls(&self) -> bool {
        self.kernel_tls
    }

    /// Sets whether the kernel encrypts connections under TLS that come from now on, where it can.
    pub fn set_kernel_tls(&mut self, is_wanted: bool) {
        self.kernel_tls = is_wanted;
    }

    /// Lets every host connect, or only the named ones.
    ///
    /// # Errors
    /// An unknown subsystem, or one that listens for connections under TLS.
    pub fn allow_any_host(&mut self, nqn: &str, allow: bool) -> Result<(), TableError> {
        let index = self.index_of_nvm(nqn)?;
        if allow && !self.subsystems[index].secure_listeners.is_empty() {
            return Err(TableError::SecureForAnyHost(nqn.to_owned()));
        }
        self.change(index).allow_any_host = allow;
        self.generation += 1;
        Ok(())
    }

    /// A private copy of the subsystem, for whoever holds the published one keeps that.
    pub(super) fn change(&mut self, index: usize) -> &mut Subsystem {
        Arc::make_mut(&mut self.subsystems[index])
    }

    fn change_hosts(&mut self, index: usize) -> &mut Vec<AllowedHost> {
        Arc::make_mut(&mut self.change(index).hosts)
    }

    fn position(&self, nqn: &Nqn) -> Result<usize, usize> {
        self.subsystems.binary_search_by(|known| known.nqn.as_bytes().cmp(nqn.as_bytes()))
    }

    fn index_of(&self, nqn: &str) -> Result<usize, TableError> {
        let unknown = || TableError::NoSubsystem(nqn.to_owned());
        let name = Nqn::parse(nqn).map_err(|_| unknown())?;
        self.position(&name).map_err(|_| unknown())
    }

    pub(super) fn index_of_nvm(&self, nqn: &str) -> Result<usize, TableError> {
        let index = self.index_of(nqn)?;
        if self.subsystems[index].kind == SubsystemKind::Discovery {
            return Err(TableError::Discovery);
        }
        Ok(index)
    }
}

pub(super) fn parse_nqn(name: &str) -> Result<Nqn, TableError> {
    Nqn::parse(name).map_err(|reason| TableError::BadNqn { name: name.to_owned(), reason })
}

fn is_ascii_field(text: &str, len_max: usize) -> bool {
    (1..=len_max).contains(&text.len()) && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

#[cfg(test)]
mod tests;

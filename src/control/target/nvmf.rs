//! What hosts can reach: subsystems, namespaces, hosts and listen addresses.

use std::net::SocketAddr;
use std::sync::Arc;

use uuid::Uuid;

use super::{Backing, Target, TargetError};
use crate::bdev::BdevId;
use crate::engine::CoreReport;
use crate::target::subsystem::{
    AnaState, Namespace, NamespaceSpec, Subsystem, SubsystemSpec, SubsystemTable, TableError,
};

/// The NVMe/TCP transport, once it was created. Its values are what mdof does, whatever was asked:
/// limits are fixed at build time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport;

impl From<TableError> for TargetError {
    fn from(error: TableError) -> Self {
        let text = error.to_string();
        match error {
            TableError::SubsystemExists(_)
            | TableError::NamespaceExists { .. }
            | TableError::ListenerExists { .. }
            | TableError::ReferralExists { .. }
            | TableError::HostExists { .. } => Self::Exists(text),
            TableError::NoSubsystem(_)
            | TableError::NoNamespace { .. }
            | TableError::NoListener { .. }
            | TableError::NoReferral { .. }
            | TableError::NoHost { .. } => Self::NotFound(text),
            TableError::BdevInUse { .. } => Self::Busy(text),
            TableError::TooManySubsystems
            | TableError::NamespacesFull { .. }
            | TableError::TooManyListeners(_)
            | TableError::TooManyReferrals
            | TableError::TooManyHosts(_) => Self::NoSpace(text),
            _ => Self::Invalid(text),
        }
    }
}

/// A namespace to be added.
#[derive(Debug, Clone, Copy)]
pub struct NewNamespace<'a> {
    /// The bdev behind it.
    pub bdev: &'a str,
    /// Its id; `None` is the lowest free one.
    pub nsid: Option<u32>,
    /// UUID that hosts see; `None` is the bdev's.
    pub uuid: Option<Uuid>,
    /// NGUID that hosts see.
    pub nguid: Option<[u8; 16]>,
    /// EUI-64 that hosts see.
    pub eui64: Option<[u8; 8]>,
    /// ANA group; `None` is that of its id.
    pub anagrpid: Option<u32>,
    /// No host sees it but those it is shown to.
    pub hidden: bool,
    /// File in which its reservation outlives a power loss.
    pub reservation_file: Option<&'a str>,
}

/// A listen address to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewListener {
    /// Where.
    pub address: SocketAddr,
    /// It takes connections under TLS only.
    pub is_secure: bool,
    /// How it reaches all ANA groups.
    pub ana: AnaState,
}

impl<'a> NewNamespace<'a> {
    /// `bdev` as the next namespace, with the bdev's own identity.
    #[must_use]
    pub fn new(bdev: &'a str) -> Self {
        Self {
            bdev,
            nsid: None,
            uuid: None,
            nguid: None,
            eui64: None,
            anagrpid: None,
            hidden: false,
            reservation_file: None,
        }
    }
}

impl Target {
    /// The transport, if it was created.
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        self.transport
    }

    /// Creates the NVMe/TCP transport.
    pub fn create_transport(&mut self) -> Result<(), TargetError> {
        if self.transport.is_some() {
            return Err(TargetError::Exists("the TCP transport exists already".to_owned()));
        }
        self.transport = Some(Transport);
        Ok(())
    }

    /// All subsystems, sorted by NQN, discovery among them.
    #[must_use]
    pub fn subsystems(&self) -> &[Arc<Subsystem>] {
        self.table.subsystems()
    }

    /// Applies a change to a copy of the table; all cores get it when it was accepted.
    pub(super) fn change<T>(
        &mut self,
        change: impl FnOnce(&mut SubsystemTable) -> Result<T, TableError>,
    ) -> Result<T, TargetError> {
        let mut table = self.table.clone();
        let result = change(&mut table)?;
        self.engine.publish(Arc::new(table.clone()));
        self.table = table;
        Ok(result)
    }

    /// Adds a subsystem.
    pub fn create_subsystem(&mut self, spec: &SubsystemSpec<'_>) -> Result<(), TargetError> {
        self.change(|table| table.create_subsystem(spec))
    }

    /// Deletes a subsystem: its connections end, its bdevs are free, and addresses that no other
    /// subsystem uses are closed.
    pub fn delete_subsystem(&mut self, nqn: &str) -> Result<(), TargetError> {
        let subsystem = self.subsystem(nqn)?;
        self.change(|table| table.delete_subsystem(nqn))?;
        self.forget_deferred(nqn, None);
        for namespace in subsystem.namespaces() {
            self.release(namespace);
        }
        for &address in subsystem.listeners() {
            self.unlisten_if_unused(address);
        }
        Ok(())
    }

    /// The subsystem called `nqn`, the discovery subsystem also by the name "discovery".
    pub fn subsystem(&self, nqn: &str) -> Result<Arc<Subsystem>, TargetError> {
        let found = self.table.subsystems().iter().find(|known| known.nqn().as_str() == nqn);
        found
            .cloned()
            .ok_or_else(|| TargetError::NotFound(format!("Subsystem with NQN '{nqn}' not found")))
    }

    /// Adds a namespace and returns its id.
    pub fn add_namespace(&mut self, nqn: &str, new: NewNamespace<'_>) -> Result<u32, TargetError> {
        self.subsystem(nqn)?;
        if let Some(deferred) = self.defer_namespace(nqn, &new) {
            return deferred;
        }
        let bdev = self.free_bdev(new.bdev)?;
        let (id, geometry) = (bdev.id, bdev.geometry.clone());
        let spec = NamespaceSpec {
            nsid: new.nsid,
            bdev: id,
            geometry: &geometry,
            uuid: new.uuid,
            nguid: new.nguid,
            eui64: new.eui64,
        };
        let uuid = new.uuid.unwrap_or(geometry.uuid);
        let place = new.reservation_file.map(|path| super::paths::persistence(path, uuid));
        let place = place.transpose()?;
        let nsid = self.change(|table| {
            let nsid = table.add_ns(nqn, &spec)?;
            if let Some(place) = place {
                table.set_persistence(nqn, nsid, place)?;
            }
            if let Some(group) = new.anagrpid {
                table.set_ana_group(nqn, nsid, group)?;
            }
            if new.hidden {
                table.mask_ns(nqn, nsid)?;
            }
            Ok(nsid)
        })?;
        if let Some(Backing::Array(array)) = self.bdevs.get(&geometry.name).map(|it| &it.backing) {
            let degraded = array.is_degraded;
            self.show_health(&geometry.name, degraded);
        }
        self.set_user(&geometry.name, Some(format!("namespace {nsid} of subsystem {nqn}")));
        Ok(nsid)
    }

    /// Removes a namespace.
    pub fn remove_namespace(&mut self, nqn: &str, nsid: u32) -> Result<(), TargetError> {
        let namespace = self.subsystem(nqn)?.namespace(nsid).copied();
        if namespace.is_none() && self.forget_deferred(nqn, Some(nsid)) {
            return Ok(());
        }
        self.change(|table| table.remove_ns(nqn, nsid))?;
        if let Some(namespace) = namespace {
            self.release(&namespace);
        }
        Ok(())
    }

    fn release(&mut self, namespace: &Namespace) {
        let id: BdevId = namespace.bdev;
        if let Some(name) = self.name_of(id).map(str::to_owned) {
            self.set_user(&name, None);
        }
    }

    /// What each core tells of its hosts.
    pub fn host_reports(&mut self) -> Vec<CoreReport> {
        self.engine.reports()
    }

    /// Hosts of the bdev, if it is exported, see in their health log whether it is degraded.
    pub(super) fn show_health(&mut self, name: &str, degraded: bool) {
        let Some(bdev) = self.bdevs.get(name).map(|bdev| bdev.id) else { return };
        if self.table.set_degraded(bdev, degraded) {
            self.engine.publish(Arc::new(self.table.clone()));
        }
    }

    /// Gives a bdev's namespace its size; hosts are told.
    pub(super) fn show_size(&mut self, bdev: BdevId, blocks: u64) {
        if self.table.set_blocks(bdev, blocks) {
            self.engine.publish(Arc::new(self.table.clone()));
        }
    }

    /// Forbids a host again.
    pub fn remove_host(&mut self, nqn: &str, host: &str) -> Result<(), TargetError> {
        self.subsystem(nqn)?;
        self.change(|table| table.remove_host(nqn, host))
    }

    /// Allows every host, or only the named ones.
    pub fn allow_any_host(&mut self, nqn: &str, allow: bool) -> Result<(), TargetError> {
        self.subsystem(nqn)?;
        self.change(|table| table.allow_any_host(nqn, allow))
    }

    /// Lets a subsystem be reached at an address; the first to use it opens it.
    pub fn add_listener(&mut self, nqn: &str, new: NewListener) -> Result<(), TargetError> {
        let NewListener { address, is_secure, ana } = new;
        if self.transport.is_none() {
            return Err(TargetError::Invalid(
                "there is no TCP transport; call nvmf_create_transport first".to_owned(),
            ));
        }
        self.subsystem(nqn)?;
        let open = self.is_listening(address);
        // The table first: a connection that arrives at once must find its subsystem there.
        self.change(|table| {
            match is_secure {
                true => table.add_secure_listener(nqn, address)?,
                false => table.add_listener(nqn, address)?,
            }
            // No host may see it in another state first.
            match ana {
                AnaState::Optimized => Ok(()),
                other => table.set_ana_state(nqn, address, None, other),
            }
        })?;
        if open {
            return Ok(());
        }
        if let Err(error) = self.engine.listen(address) {
            self.change(|table| table.remove_listener(nqn, address))?;
            return Err(listen_error(address, &error));
        }
        Ok(())
    }

    /// Takes an address away from a subsystem; the last to use it closes it.
    pub fn remove_listener(&mut self, nqn: &str, address: SocketAddr) -> Result<(), TargetError> {
        self.subsystem(nqn)?;
        self.change(|table| table.remove_listener(nqn, address))?;
        self.unlisten_if_unused(address);
        Ok(())
    }

    fn is_listening(&self, address: SocketAddr) -> bool {
        self.table.subsystems().iter().any(|subsystem| subsystem.listeners().contains(&address))
    }

    fn unlisten_if_unused(&mut self, address: SocketAddr) {
        if !self.is_listening(address) {
            self.engine.unlisten(address);
        }
    }

    /// Part of [`Target::stop`]: closes every address.
    pub(super) fn unlisten_all(&mut self) {
        let mut addresses: Vec<SocketAddr> = self
            .table
            .subsystems()
            .iter()
            .flat_map(|subsystem| subsystem.listeners().iter().copied())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        for address in addresses {
            self.engine.unlisten(address);
        }
    }
}

/// Why an address could not be listened on, with the way out.
#[must_use]
pub fn listen_error(address: SocketAddr, error: &std::io::Error) -> TargetError {
    let port = address.port();
    match error.kind() {
        std::io::ErrorKind::AddrInUse => TargetError::Busy(format!(
            "cannot listen on {address}: the port is in use; stop who uses it (ss -ltnp 'sport = \
             :{port}' shows it) or choose another"
        )),
        _ => TargetError::Io(format!("cannot listen on {address}: {error}")),
    }
}

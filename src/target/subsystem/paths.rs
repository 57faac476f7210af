//! Changes to how hosts reach namespaces: ANA groups and their states, and who sees what.

use std::net::SocketAddr;

use super::error::{HOSTS_MAX, TableError};
use super::table::{SubsystemTable, parse_nqn};
use super::view::AnaState;

impl SubsystemTable {
    /// Sets how a listener reaches an ANA group, or all of them.
    ///
    /// # Errors
    /// An unknown subsystem, listener or group, or a subsystem without ANA.
    pub fn set_ana_state(
        &mut self,
        nqn: &str,
        address: SocketAddr,
        group: Option<u32>,
        state: AnaState,
    ) -> Result<(), TableError> {
        let index = self.index_of_nvm(nqn)?;
        let subsystem = &self.subsystems()[index];
        let nqn = subsystem.nqn().to_string();
        if !subsystem.ana_reporting() {
            return Err(TableError::NoAna(nqn));
        }
        let max = subsystem.max_namespaces();
        if let Some(group) = group.filter(|group| !(1..=max).contains(group)) {
            return Err(TableError::BadAnaGroup { group, max });
        }
        let listener = subsystem.listeners().iter().position(|known| *known == address);
        let listener = listener.ok_or(TableError::NoListener { nqn, address })?;
        self.change(index).ana[listener].set(group, state);
        Ok(())
    }

    /// Puts a namespace into another ANA group.
    ///
    /// # Errors
    /// An unknown subsystem or namespace, or a group that there cannot be.
    pub fn set_ana_group(&mut self, nqn: &str, nsid: u32, group: u32) -> Result<(), TableError> {
        let (index, slot) = self.namespace_slot(nqn, nsid)?;
        let max = self.subsystems()[index].max_namespaces();
        if !(1..=max).contains(&group) {
            return Err(TableError::BadAnaGroup { group, max });
        }
        if let Some(namespace) = &mut self.change(index).namespaces[slot] {
            namespace.anagrpid = group;
        }
        Ok(())
    }

    /// Hides a namespace from all hosts but those that are named with
    /// [`SubsystemTable::show_ns`].
    ///
    /// # Errors
    /// An unknown subsystem or namespace.
    pub fn mask_ns(&mut self, nqn: &str, nsid: u32) -> Result<(), TableError> {
        let (index, slot) = self.namespace_slot(nqn, nsid)?;
        self.change(index).masks[slot].get_or_insert_default();
        Ok(())
    }

    /// Shows a masked namespace to a host.
    ///
    /// # Errors
    /// An unknown subsystem or namespace, a namespace that every host sees, a bad host name, one
    /// that sees it already, or too many.
    pub fn show_ns(&mut self, nqn: &str, nsid: u32, host: &str) -> Result<(), TableError> {
        let (index, slot) = self.namespace_slot(nqn, nsid)?;
        let host = parse_nqn(host)?;
        let nqn = nqn.to_owned();
        let mask = self.change(index).masks[slot].as_mut();
        let mask = mask.ok_or(TableError::NotMasked { nqn: nqn.clone(), nsid })?;
        if mask.contains(&host) {
            return Err(TableError::HostExists { nqn, host: host.to_string() });
        }
        if mask.len() >= HOSTS_MAX {
            return Err(TableError::TooManyHosts(nqn));
        }
        mask.push(host);
        Ok(())
    }

    /// Hides a masked namespace from a host again.
    ///
    /// # Errors
    /// An unknown subsystem or namespace, or a host that does not see it.
    pub fn hide_ns(&mut self, nqn: &str, nsid: u32, host: &str) -> Result<(), TableError> {
        let (index, slot) = self.namespace_slot(nqn, nsid)?;
        let host = parse_nqn(host)?;
        let nqn = nqn.to_owned();
        let mask = self.change(index).masks[slot].as_mut();
        let mask = mask.ok_or(TableError::NotMasked { nqn: nqn.clone(), nsid })?;
        let before = mask.len();
        mask.retain(|known| *known != host);
        if mask.len() == before {
            return Err(TableError::NoHost { nqn, host: host.to_string() });
        }
        Ok(())
    }

    fn namespace_slot(&self, nqn: &str, nsid: u32) -> Result<(usize, usize), TableError> {
        let index = self.index_of_nvm(nqn)?;
        if self.subsystems()[index].namespace(nsid).is_none() {
            return Err(TableError::NoNamespace { nqn: nqn.to_owned(), nsid });
        }
        Ok((index, usize::try_from(nsid - 1).expect("bounded by NAMESPACES_MAX")))
    }
}

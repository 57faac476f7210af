//! Changes to how hosts reach namespaces: ANA groups and their states, and who sees what.

use std::net::SocketAddr;
use std::sync::Arc;

use super::error::{HOSTS_MAX, REFERRALS_MAX, TableError};
use super::nqn::Nqn;
use super::table::{SubsystemTable, parse_nqn};
use super::view::AnaState;

/// Another discovery service, which the discovery log names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Referral {
    /// Where it is reached.
    pub address: SocketAddr,
    /// Its name; usually the well-known one.
    pub subnqn: Nqn,
}

impl SubsystemTable {
    /// The other discovery services.
    #[must_use]
    pub fn referrals(&self) -> &[Referral] {
        &self.referrals
    }

    /// Names another discovery service in the discovery log.
    ///
    /// # Errors
    /// A bad name, one that is there already, or too many.
    pub fn add_referral(&mut self, address: SocketAddr, subnqn: &str) -> Result<(), TableError> {
        let referral = Referral { address, subnqn: parse_nqn(subnqn)? };
        if self.referrals.contains(&referral) {
            return Err(TableError::ReferralExists { address, subnqn: subnqn.to_owned() });
        }
        if self.referrals.len() >= REFERRALS_MAX {
            return Err(TableError::TooManyReferrals);
        }
        self.referrals.push(referral);
        self.generation += 1;
        Ok(())
    }

    /// Names it no more.
    ///
    /// # Errors
    /// A bad name, or one that is not there.
    pub fn remove_referral(&mut self, address: SocketAddr, subnqn: &str) -> Result<(), TableError> {
        let referral = Referral { address, subnqn: parse_nqn(subnqn)? };
        let found = self.referrals.iter().position(|known| *known == referral);
        let found = found.ok_or(TableError::NoReferral { address, subnqn: subnqn.to_owned() })?;
        self.referrals.remove(found);
        self.generation += 1;
        Ok(())
    }

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
        Arc::make_mut(&mut self.change(index).ana)[listener].set(group, state);
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
        self.change_masks(index)[slot].get_or_insert_default();
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
        let mask = self.change_masks(index)[slot].as_mut();
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
        let mask = self.change_masks(index)[slot].as_mut();
        let mask = mask.ok_or(TableError::NotMasked { nqn: nqn.clone(), nsid })?;
        let before = mask.len();
        mask.retain(|known| *known != host);
        if mask.len() == before {
            return Err(TableError::NoHost { nqn, host: host.to_string() });
        }
        Ok(())
    }

    fn change_masks(&mut self, index: usize) -> &mut Vec<Option<Vec<Nqn>>> {
        Arc::make_mut(&mut self.change(index).masks)
    }

    fn namespace_slot(&self, nqn: &str, nsid: u32) -> Result<(usize, usize), TableError> {
        let index = self.index_of_nvm(nqn)?;
        if self.subsystems()[index].namespace(nsid).is_none() {
            return Err(TableError::NoNamespace { nqn: nqn.to_owned(), nsid });
        }
        Ok((index, usize::try_from(nsid - 1).expect("bounded by NAMESPACES_MAX")))
    }
}

//! What one host sees of a subsystem by one path: the namespaces that are shown to it, and how the
//! path reaches them (Asymmetric Namespace Access; Base 2.1, section 8.1.1).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::entry::{Subsystem, listener_covers};
use super::nqn::Nqn;

/// State of an ANA group by one listener, with its number in the log page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum AnaState {
    /// The best path.
    #[default]
    Optimized = 1,
    /// A path that works.
    NonOptimized = 2,
    /// No I/O by this path for the time being.
    Inaccessible = 3,
}

impl AnaState {
    /// Whether I/O commands are refused.
    #[must_use]
    pub fn is_blocked(self) -> bool {
        self as u8 > Self::NonOptimized as u8
    }
}

/// The states of ANA groups by one listener.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ListenerAna {
    /// Of groups that are not named below.
    pub(super) others: AnaState,
    /// At most one a group.
    pub(super) groups: Vec<(u32, AnaState)>,
}

impl ListenerAna {
    pub(super) fn state(&self, group: u32) -> AnaState {
        let found = self.groups.iter().find(|(known, _)| *known == group);
        found.map_or(self.others, |(_, state)| *state)
    }

    /// Sets a group's state, or that of all.
    pub(super) fn set(&mut self, group: Option<u32>, state: AnaState) {
        match group {
            None => *self = Self { others: state, groups: Vec::new() },
            Some(group) => {
                self.groups.retain(|(known, _)| *known != group);
                self.groups.push((group, state));
            }
        }
    }
}

/// What hosts see of the subsystems of one table, made once for a host and a listener: its
/// controllers and queues, of which there may be thousands, share it.
#[derive(Debug, Default)]
pub struct Views(HashMap<(u64, Nqn, Option<usize>), Arc<Subsystem>>);

impl Views {
    /// As [`Subsystem::seen_by`].
    #[must_use]
    pub fn of(&mut self, seen: &Arc<Subsystem>, host: &Nqn, local: SocketAddr) -> Arc<Subsystem> {
        if !seen.has_views() {
            return seen.clone();
        }
        let key = (seen.uid, *host, seen.listener_at(local));
        self.0.entry(key).or_insert_with(|| seen.seen_by(host, local)).clone()
    }
}

impl Subsystem {
    /// Not all hosts see the same of it, or not by all listeners.
    fn has_views(&self) -> bool {
        self.ana_reporting || self.masks.iter().any(Option::is_some)
    }

    fn listener_at(&self, local: SocketAddr) -> Option<usize> {
        self.listeners.iter().position(|listener| listener_covers(*listener, local))
    }

    /// The subsystem as `host` sees it on a connection to `local`. Without masks and ANA that is
    /// the subsystem itself.
    #[must_use]
    pub fn seen_by(self: &Arc<Self>, host: &Nqn, local: SocketAddr) -> Arc<Self> {
        if !self.has_views() {
            return self.clone();
        }
        let mut seen = Self::clone(self);
        let ana = self.listener_at(local).map(|index| &self.ana[index]);
        let ana = ana.filter(|_| self.ana_reporting);
        for (slot, mask) in seen.namespaces.iter_mut().zip(self.masks.iter()) {
            if mask.as_ref().is_some_and(|hosts| !hosts.contains(host)) {
                *slot = None;
            }
            if let (Some(namespace), Some(ana)) = (slot, ana) {
                namespace.ana = ana.state(namespace.anagrpid);
            }
        }
        Arc::new(seen)
    }

    /// Whether hosts are told of ANA groups.
    #[must_use]
    pub fn ana_reporting(&self) -> bool {
        self.ana_reporting
    }

    /// The state of an ANA group by the listener with this number.
    #[must_use]
    pub fn ana_state(&self, listener: usize, group: u32) -> AnaState {
        self.ana.get(listener).map_or(AnaState::Optimized, |ana| ana.state(group))
    }

    /// The hosts that namespace `nsid` is shown to; `None`: all.
    #[must_use]
    pub fn mask(&self, nsid: u32) -> Option<&[Nqn]> {
        let index = usize::try_from(nsid.wrapping_sub(1)).ok()?;
        self.masks.get(index)?.as_deref()
    }
}

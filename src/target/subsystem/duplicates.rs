//! A host that connects where it has a controller already.

use std::net::SocketAddr;

use super::entry::{Subsystem, SubsystemKind, listener_covers};
use super::nqn::Nqn;
use super::table::SubsystemTable;

/// What becomes of a host that connects by a listener by which it has a controller already. The
/// same host by another listener is multipath, which is always allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DupHostPolicy {
    /// It gets one more.
    #[default]
    Allow,
    /// It is refused until its controller is gone. A host is the same by its identifier.
    RestrictPerListener,
    /// Its controller is ended, and what that had begun, before the new one gets an I/O queue. Only
    /// a host of the same name does that to another.
    ReplacePerListener,
}

impl DupHostPolicy {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Allow, Self::RestrictPerListener, Self::ReplacePerListener];

    /// As configuration and JSON-RPC call it; the first two as SPDK does.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::RestrictPerListener => "restrict_per_listener",
            Self::ReplacePerListener => "replace_per_listener",
        }
    }

    /// The policy of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

/// A host at a listener of a subsystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPlace {
    /// [`Subsystem::uid`].
    pub uid: u64,
    /// The listener it came by.
    pub listener: SocketAddr,
    /// Host identifier.
    pub hostid: [u8; 16],
    /// Host name.
    pub hostnqn: Nqn,
}

impl HostPlace {
    /// Whether two places are one for every policy. Hosts without an identifier, which is zero
    /// then, are the same by their name only.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_same = self.hostid != [0; 16] || self.hostnqn == other.hostnqn;
        (self.uid, self.listener, self.hostid) == (other.uid, other.listener, other.hostid)
            && is_same
    }

    /// Whether whoever is at `older` is in the way of this one.
    #[must_use]
    pub fn is_barred_by(&self, older: &Self, policy: DupHostPolicy) -> bool {
        match policy {
            DupHostPolicy::Allow => false,
            DupHostPolicy::RestrictPerListener => self.overlaps(older),
            DupHostPolicy::ReplacePerListener => {
                self.overlaps(older) && self.hostnqn == older.hostnqn
            }
        }
    }
}

impl Subsystem {
    /// Where a host is that came to `local`; `None`: by no listener of this subsystem, or to the
    /// discovery subsystem, which has no I/O.
    #[must_use]
    pub fn place_of(&self, hostnqn: Nqn, hostid: [u8; 16], local: SocketAddr) -> Option<HostPlace> {
        if self.kind == SubsystemKind::Discovery {
            return None;
        }
        let listener = self.listeners.iter().find(|known| listener_covers(**known, local))?;
        Some(HostPlace { uid: self.uid, listener: *listener, hostid, hostnqn })
    }
}

impl SubsystemTable {
    /// What becomes of a host that connects anew.
    #[must_use]
    pub fn dup_host_policy(&self) -> DupHostPolicy {
        self.dup_host_policy
    }

    /// Sets what becomes of a host that connects anew, from now on.
    pub fn set_dup_host_policy(&mut self, policy: DupHostPolicy) {
        self.dup_host_policy = policy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::subsystem::SubsystemSpec;

    #[test]
    fn names_are_read_back() {
        for policy in DupHostPolicy::ALL {
            assert_eq!(DupHostPolicy::from_name(policy.name()), Some(policy));
        }
        assert_eq!(DupHostPolicy::from_name("deny"), None);
    }

    #[test]
    fn who_bars_whom() {
        let mut table = SubsystemTable::new();
        table.create_subsystem(&SubsystemSpec::new("nqn.2026-01.io.mdof:a")).unwrap();
        for listener in ["192.0.2.1:4420", "0.0.0.0:4421"] {
            table.add_listener("nqn.2026-01.io.mdof:a", listener.parse().unwrap()).unwrap();
        }
        let nqn = |name: &str| Nqn::parse(name).unwrap();
        let one = table.find(&nqn("nqn.2026-01.io.mdof:a")).unwrap();
        let (host, clone) = (nqn("nqn.2026-01.io.mdof:host"), nqn("nqn.2026-01.io.mdof:clone"));
        let at = |host, id: u8, local: &str| one.place_of(host, [id; 16], local.parse().unwrap());
        let first = at(host, 1, "192.0.2.1:4420").unwrap();
        let by = |policy| {
            [
                at(host, 1, "192.0.2.1:4420"),
                at(clone, 1, "192.0.2.1:4420"),
                at(host, 2, "192.0.2.1:4420"),
                at(host, 1, "192.0.2.9:4421"),
            ]
            .map(|newer| newer.unwrap().is_barred_by(&first, policy))
        };
        assert_eq!(by(DupHostPolicy::Allow), [false; 4]);
        assert_eq!(by(DupHostPolicy::RestrictPerListener), [true, true, false, false]);
        assert_eq!(by(DupHostPolicy::ReplacePerListener), [true, false, false, false]);
        // Hosts without an identifier are told apart by their names.
        let unnamed = [at(host, 0, "192.0.2.1:4420"), at(clone, 0, "192.0.2.1:4420")];
        let unnamed = unnamed.map(Option::unwrap);
        for policy in [DupHostPolicy::RestrictPerListener, DupHostPolicy::ReplacePerListener] {
            assert!(unnamed[0].is_barred_by(&unnamed[0], policy), "{policy:?}");
            assert!(!unnamed[0].is_barred_by(&unnamed[1], policy), "{policy:?}");
        }
        // A listener for all addresses is one listener.
        let wild = ["192.0.2.1:4421", "192.0.2.9:4421"].map(|local| at(host, 1, local).unwrap());
        assert!(wild[0].overlaps(&wild[1]));
        assert_eq!(at(host, 1, "192.0.2.1:9999"), None);
        let discovery = table.find(&Nqn::discovery()).unwrap();
        assert_eq!(discovery.place_of(host, [1; 16], "192.0.2.1:4420".parse().unwrap()), None);
    }
}

//! Infection: when a chunk turns Dirty, its Clean neighbours may turn Dirty with it.
//!
//! Their bytes lie in the same unit, so it costs no write of its own, and later writes to them
//! need none at all. What it costs is resync: after a crash the infected chunks are copied too.
//!
//! Only Clean chunks are infected. The kernel infects Unwritten ones as well, and on mirrors its
//! daemon then calls them Clean although nobody ever made their members equal.

use std::ops::Range;

/// When neighbours are infected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Infection {
    /// Never.
    Off,
    /// md's rule: all of the unit, as soon as a second chunk of it turns Dirty while the first
    /// still is.
    Md,
    /// The more often the unit has changed lately, the more chunks around the new one.
    #[default]
    Adaptive,
}

/// Changes of one unit that are counted at most.
const HEAT_MAX: u16 = 1 << 12;

impl Infection {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Off, Self::Md, Self::Adaptive];

    /// The policy's name in configuration and RPC.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Md => "md",
            Self::Adaptive => "adaptive",
        }
    }

    /// The policy of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

/// What the policy remembers of each unit.
#[derive(Debug)]
pub struct Infector {
    policy: Infection,
    /// Chunks of the unit that writers have turned Dirty, halved at each pass of the daemon.
    heat: Box<[u16]>,
}

impl Infector {
    /// For a bitmap of `units` units.
    #[must_use]
    pub fn new(policy: Infection, units: usize) -> Self {
        Self { policy, heat: vec![0; units].into_boxed_slice() }
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> Infection {
        self.policy
    }

    /// Another policy from now on.
    pub fn set_policy(&mut self, policy: Infection) {
        self.policy = policy;
        self.heat.fill(0);
    }

    /// A write turns `chunk` Dirty, one of the `chunks` of `unit`; `has_other` says whether any
    /// other of them is Dirty or NeedSync. The chunks of which the Clean ones turn Dirty too.
    pub fn spread(
        &mut self,
        unit: usize,
        chunks: Range<usize>,
        chunk: usize,
        has_other: impl FnOnce() -> bool,
    ) -> Range<usize> {
        assert!(chunks.contains(&chunk));
        match self.policy {
            Infection::Off => chunk..chunk + 1,
            Infection::Md => match has_other() {
                true => chunks,
                false => chunk..chunk + 1,
            },
            Infection::Adaptive => {
                let heat = &mut self.heat[unit];
                *heat = (*heat + 1).min(HEAT_MAX);
                // An aligned run as long as the changes so far, so that the infected chunks grow
                // with the square of the changes, and the changes with the square root of the
                // chunks that are written.
                let len = usize::from(*heat).next_power_of_two();
                let start = chunk - (chunk - chunks.start) % len;
                start..(start + len).min(chunks.end)
            }
        }
    }

    /// A pass of the daemon begins.
    pub fn cool(&mut self) {
        for heat in &mut self.heat {
            *heat /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_infects_nobody_and_md_the_whole_unit_at_the_second() {
        let mut off = Infector::new(Infection::Off, 1);
        assert_eq!(off.spread(0, 10..20, 13, || true), 13..14);
        let mut md = Infector::new(Infection::Md, 1);
        assert_eq!(md.spread(0, 10..20, 13, || false), 13..14);
        assert_eq!(md.spread(0, 10..20, 13, || true), 10..20);
    }

    #[test]
    fn adaptive_infection_grows_with_the_changes_and_cools() {
        let mut adaptive = Infector::new(Infection::Adaptive, 2);
        let mut spread = |unit, chunk| adaptive.spread(unit, 100..612, chunk, || true);
        let lens: Vec<usize> = (0..6).map(|_| spread(0, 131).len()).collect();
        assert_eq!(lens, [1, 2, 4, 4, 8, 8]);
        assert_eq!(spread(1, 100), 100..101, "units are apart");
        assert_eq!(spread(0, 611), 604..612);
        for _ in 0..3 {
            adaptive.cool();
        }
        assert_eq!(adaptive.spread(0, 100..612, 131, || true), 131..132);
        for _ in 0..5000 {
            let run = adaptive.spread(0, 100..612, 400, || true);
            assert!(run.contains(&400) && run.start >= 100 && run.end <= 612);
        }
    }

    #[test]
    fn names_are_unique() {
        for policy in Infection::ALL {
            assert_eq!(Infection::from_name(policy.name()), Some(policy));
        }
        assert_eq!(Infection::from_name("on"), None);
    }
}

//! Infection: when a chunk turns Dirty, its Clean neighbours may turn Dirty with it.
//!
//! Their bytes lie in the same unit, so it costs no write of its own, and later writes to them
//! need none at all. What it costs is resync: after a crash the infected chunks are copied too.
//!
//! Only Clean chunks are infected. The kernel infects Unwritten ones as well, and on mirrors its
//! daemon then calls them Clean although nobody ever made their members equal.
//!
//! # Which policy
//!
//! Counted by `perf/src/bin/infection-table.rs` on 64 GiB in chunks of 1 MiB, 4096 chunks a unit,
//! the daemon's defaults (`perf/PROMISES.md` has all rates): bitmap writes per 1000 host writes of
//! 4 KiB, and MiB to resync after a crash.
//!
//! | writes a second   | off             | md            | adaptive       |
//! |-------------------|-----------------|---------------|----------------|
//! | sequential, 1000  | 3.9, 93 MiB     | 0.05, 3072    | 1.2, 99        |
//! | random, 100       | 967, 2308 MiB   | 8.5, 65727    | 967, 2317      |
//! | random, 1000      | 709, 19317 MiB  | 0.8, 65727    | 562, 29184     |
//! | random, 10000     | 78, 60777 MiB   | 0.1, 65727    | 9.8, 65241     |
//! | zipfian, 1000     | 467, 12869 MiB  | 0.8, 65727    | 455, 14406     |
//! | zipfian, 10000    | 104, 51804 MiB  | 0.1, 65727    | 27, 62630      |
//!
//! md's rule saves nearly every bitmap write and gives up what the bitmap is for: two random
//! writes in 4 GiB cost a resync of 4 GiB. The default is adaptive: it infects where most chunks
//! around are Dirty anyway. A busy array is spared three quarters or more of its bitmap writes for
//! a fifth more resync at most, a calm one pays and gains nothing, and the worst seen between the
//! two is half more resync for a fifth fewer writes.

use std::ops::Range;

/// When neighbours are infected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Infection {
    /// Never.
    Off,
    /// md's rule: all of the unit, as soon as a second chunk of it turns Dirty while the first
    /// still is.
    Md,
    /// The longest aligned run around the chunk of which more than five eighths are Dirty.
    #[default]
    Adaptive,
}

/// Longest run that the adaptive policy infects.
const RUN_CHUNKS_MAX: usize = 64;

/// Eighths of a run that must be Dirty for the rest of it to be infected. Just above half would
/// let infected chunks infect on: of two runs side by side one full and one chunk of the other.
const DIRTY_EIGHTHS: usize = 5;

impl Infection {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Off, Self::Md, Self::Adaptive];

    /// The policy's number on disk, which never changes.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Md => 1,
            Self::Adaptive => 2,
        }
    }

    /// The policy with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.number() == number)
    }

    /// The policy of this name.
    ///
    /// # Errors
    /// A sentence with the names there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        Self::from_name(name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("infection is one of {names}, not \"{name}\"")
        })
    }

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

impl Infection {
    /// A write turns `chunk` Dirty, one of the `chunks` of its unit: the run of chunks of which the
    /// Clean ones turn Dirty too. `is_dirty` says which chunks are Dirty or in doubt already;
    /// `chunk` itself counts as such.
    pub fn spread(
        self,
        chunks: Range<usize>,
        chunk: usize,
        is_dirty: impl Fn(usize) -> bool,
    ) -> Range<usize> {
        assert!(chunks.contains(&chunk));
        let alone = chunk..chunk + 1;
        let others =
            |run: Range<usize>| run.filter(|&other| other != chunk && is_dirty(other)).count();
        match self {
            Self::Off => alone,
            Self::Md if others(chunks.clone()) > 0 => chunks,
            Self::Md => alone,
            Self::Adaptive => {
                let (mut run, mut dirty, mut best) = (alone.clone(), 1, alone);
                let mut len = 1;
                // A run at the unit's end may be shorter than `len`.
                while len < RUN_CHUNKS_MAX && run != chunks {
                    len *= 2;
                    let start = chunk - (chunk - chunks.start) % len;
                    let longer = start..(start + len).min(chunks.end);
                    dirty += others(longer.start..run.start) + others(run.end..longer.end);
                    if dirty * 8 > longer.len() * DIRTY_EIGHTHS {
                        best = longer.clone();
                    }
                    run = longer;
                }
                best
            }
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    fn spread(
        policy: Infection,
        chunks: Range<usize>,
        chunk: usize,
        dirty: &[usize],
    ) -> Range<usize> {
        policy.spread(chunks, chunk, |other| dirty.contains(&other))
    }

    #[test]
    fn off_infects_nobody_and_md_the_whole_unit_at_the_second() {
        assert_eq!(spread(Infection::Off, 10..20, 13, &[12, 14]), 13..14);
        assert_eq!(spread(Infection::Md, 10..20, 13, &[13, 9, 20]), 13..14);
        assert_eq!(spread(Infection::Md, 10..20, 13, &[19]), 10..20);
    }

    #[test]
    fn adaptive_infection_needs_a_dirty_neighbourhood() {
        let adaptive = |chunk, dirty: &[usize]| spread(Infection::Adaptive, 100..612, chunk, dirty);
        assert_eq!(adaptive(131, &[]), 131..132);
        // Runs are aligned to the unit's first chunk: 128..132 holds 131.
        assert_eq!(adaptive(131, &[130]), 130..132);
        assert_eq!(adaptive(131, &[128, 130]), 128..132, "three of four");
        assert_eq!(adaptive(131, &[127, 132]), 131..132, "neighbours of other runs");
        assert_eq!(adaptive(104, &[100, 101, 102, 103]), 104..105, "five of eight are not enough");
        assert_eq!(adaptive(105, &[100, 101, 102, 103, 104]), 100..108, "six are");
        let all: Vec<usize> = (0..1000).collect();
        assert_eq!(adaptive(400, &all).len(), RUN_CHUNKS_MAX);
        // The last unit is short.
        assert_eq!(spread(Infection::Adaptive, 0..3, 2, &[0]), 0..3);
        assert_eq!(spread(Infection::Adaptive, 7..8, 7, &[]), 7..8);
    }

    /// A run that is infected holds at most as many Clean chunks as its rule lets it.
    #[test]
    fn adaptive_infection_is_bounded_for_any_pattern() {
        for pattern in 0u64..1 << 16 {
            let is_dirty = |chunk: usize| pattern >> chunk & 1 == 1;
            for chunk in [0, 7, 15] {
                let run = Infection::Adaptive.spread(0..16, chunk, is_dirty);
                let dirty = run.clone().filter(|&one| one == chunk || is_dirty(one)).count();
                assert!(run.contains(&chunk) && dirty * 8 > run.len() * DIRTY_EIGHTHS);
            }
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

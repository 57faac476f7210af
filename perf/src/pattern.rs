//! Which request comes next: direction and place.

use clap::ValueEnum;
use serde::Serialize;

use crate::random::{Random, Zipf};

/// What a job does, in the words of `fio`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub(crate) enum Access {
    /// Sequential reads
    Read,
    /// Sequential writes
    Write,
    /// Sequential reads and writes
    Rw,
    /// Random reads
    RandRead,
    /// Random writes
    RandWrite,
    /// Random reads and writes
    RandRw,
}

impl Access {
    /// The name as on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Rw => "rw",
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
            Self::RandRw => "randrw",
        }
    }

    fn is_random(self) -> bool {
        matches!(self, Self::RandRead | Self::RandWrite | Self::RandRw)
    }

    /// Reads in a hundred requests; `mix` counts for mixed jobs only.
    pub(crate) fn read_percent(self, mix: u8) -> u8 {
        match self {
            Self::Read | Self::RandRead => 100,
            Self::Write | Self::RandWrite => 0,
            Self::Rw | Self::RandRw => mix,
        }
    }
}

/// Which way the data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the bdev.
    Read,
    /// To the bdev.
    Write,
}

/// The blocks that a job may touch, in units of its block size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First logical block.
    pub(crate) first_lba: u64,
    /// Logical blocks of a request.
    pub(crate) blocks: u32,
    /// Requests that fit side by side; at least 1.
    pub(crate) units: u64,
}

impl Extent {
    /// The part of a bdev of `bdev_blocks` blocks from `offset_bytes` on, at most `size_bytes`.
    pub(crate) fn new(
        bdev_blocks: u64,
        block_size_bytes: u32,
        io_bytes: u32,
        offset_bytes: u64,
        size_bytes: Option<u64>,
    ) -> Result<Self, String> {
        let block = u64::from(block_size_bytes);
        if block == 0 || io_bytes == 0 || !u64::from(io_bytes).is_multiple_of(block) {
            return Err(format!(
                "the block size {io_bytes} is not a multiple of the device's {block_size_bytes}"
            ));
        }
        if !offset_bytes.is_multiple_of(block) {
            return Err(format!("the offset {offset_bytes} is not a multiple of {block} bytes"));
        }
        let bdev_bytes = bdev_blocks.saturating_mul(block);
        let rest_bytes = bdev_bytes.saturating_sub(offset_bytes);
        let units = size_bytes.unwrap_or(rest_bytes).min(rest_bytes) / u64::from(io_bytes);
        if units == 0 {
            return Err(format!(
                "no request of {io_bytes} bytes fits between byte {offset_bytes} and the end of \
                 the range (the device has {bdev_bytes} bytes)"
            ));
        }
        Ok(Self { first_lba: offset_bytes / block, blocks: io_bytes / block_size_bytes, units })
    }
}

/// A stream of requests.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    random: Random,
    extent: Extent,
    is_random: bool,
    read_percent: u8,
    zipf: Option<Zipf>,
    /// Next unit of a sequential stream.
    next: u64,
}

/// Spreads the ranks of a Zipf distribution over the extent: a prime, so that multiplying by it
/// maps ranks to units one to one, unless the extent is a multiple of it.
const SCATTER: u64 = 2_654_435_761;

impl Pattern {
    /// Stream `lane` of `lanes`: its numbers are its own, and sequential streams start at equal
    /// distances.
    pub(crate) fn new(
        access: Access,
        mix: u8,
        zipf_theta: Option<f64>,
        extent: Extent,
        seed: u64,
        (lane, lanes): (u32, u32),
    ) -> Self {
        let start = u128::from(extent.units) * u128::from(lane) / u128::from(lanes.max(1));
        Self {
            random: Random::new(seed ^ (u64::from(lane) << 32)),
            extent,
            is_random: access.is_random(),
            read_percent: access.read_percent(mix),
            zipf: zipf_theta.map(|theta| Zipf::new(extent.units, theta)),
            next: u64::try_from(start).unwrap_or(0) % extent.units,
        }
    }

    /// Logical blocks of each request.
    pub(crate) fn blocks(&self) -> u32 {
        self.extent.blocks
    }

    /// Direction and first logical block of the next request.
    pub(crate) fn next(&mut self) -> (Direction, u64) {
        let direction = match self.read_percent {
            0 => Direction::Write,
            100.. => Direction::Read,
            percent if self.random.below(100) < u64::from(percent) => Direction::Read,
            _ => Direction::Write,
        };
        let unit = self.next_unit();
        (direction, self.extent.first_lba + unit * u64::from(self.extent.blocks))
    }

    fn next_unit(&mut self) -> u64 {
        let units = self.extent.units;
        if !self.is_random {
            let unit = self.next;
            self.next = if unit + 1 == units { 0 } else { unit + 1 };
            return unit;
        }
        match &self.zipf {
            None => self.random.below(units),
            Some(zipf) => {
                let rank = zipf.rank(&mut self.random);
                let unit = u128::from(rank) * u128::from(SCATTER) % u128::from(units);
                u64::try_from(unit).expect("below a u64")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(units: u64) -> Extent {
        Extent { first_lba: 1000, blocks: 8, units }
    }

    fn pattern(access: Access, units: u64, lane: (u32, u32)) -> Pattern {
        Pattern::new(access, 70, None, extent(units), 42, lane)
    }

    #[test]
    fn random_places_stay_in_the_extent_and_are_even() {
        let mut pattern = pattern(Access::RandWrite, 64, (0, 1));
        let mut counts = [0u32; 64];
        for _ in 0..64_000 {
            let (direction, lba) = pattern.next();
            assert_eq!(direction, Direction::Write);
            assert!((1000..1000 + 64 * 8).contains(&lba) && lba % 8 == 0, "{lba}");
            counts[usize::try_from((lba - 1000) / 8).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (840..1160).contains(count)), "{counts:?}");
    }

    #[test]
    fn sequential_streams_wrap_and_start_apart() {
        let mut first = pattern(Access::Read, 4, (0, 2));
        let mut second = pattern(Access::Read, 4, (1, 2));
        let lbas: Vec<u64> = (0..6).map(|_| first.next().1).collect();
        assert_eq!(lbas, [1000, 1008, 1016, 1024, 1000, 1008]);
        let lbas: Vec<u64> = (0..3).map(|_| second.next().1).collect();
        assert_eq!(lbas, [1016, 1024, 1000]);
    }

    #[test]
    fn the_mix_is_what_was_asked_for() {
        let mut pattern = pattern(Access::RandRw, 1000, (0, 1));
        let reads = (0..100_000).filter(|_| pattern.next().0 == Direction::Read).count();
        assert!((69_200..70_800).contains(&reads), "{reads}");
        assert_eq!(Access::RandRead.read_percent(70), 100);
        assert_eq!(Access::Write.read_percent(70), 0);
    }

    #[test]
    fn lanes_and_seeds_differ_and_repeat() {
        let places = |seed, lane| -> Vec<u64> {
            let mut pattern =
                Pattern::new(Access::RandRead, 0, None, extent(1 << 30), seed, (lane, 4));
            (0..50).map(|_| pattern.next().1).collect()
        };
        assert_eq!(places(1, 0), places(1, 0));
        assert_ne!(places(1, 0), places(1, 1));
        assert_ne!(places(1, 0), places(2, 0));
    }

    #[test]
    fn zipf_hits_few_places_often_and_none_outside() {
        let mut pattern = Pattern::new(Access::RandRead, 0, Some(1.1), extent(10_000), 5, (0, 1));
        let mut counts = std::collections::HashMap::new();
        for _ in 0..50_000 {
            let (_, lba) = pattern.next();
            assert!((1000..1000 + 80_000).contains(&lba));
            *counts.entry(lba).or_insert(0u32) += 1;
        }
        assert!(*counts.values().max().unwrap() > 5000);
    }

    #[test]
    fn extents() {
        let full = Extent::new(262_144, 4096, 8192, 0, None).unwrap();
        assert_eq!(full, Extent { first_lba: 0, blocks: 2, units: 131_072 });
        let part = Extent::new(262_144, 4096, 8192, 4096, Some(20_000)).unwrap();
        assert_eq!(part, Extent { first_lba: 1, blocks: 2, units: 2 });
        assert!(Extent::new(262_144, 4096, 512, 0, None).is_err());
        assert!(Extent::new(262_144, 4096, 4096, 100, None).is_err());
        assert!(Extent::new(16, 512, 4096, 8192, None).is_err());
        assert!(Extent::new(16, 512, 16384, 0, None).is_err());
        assert!(Extent::new(16, 0, 4096, 0, None).is_err());
    }
}

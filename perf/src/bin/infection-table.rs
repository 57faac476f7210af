//! The price of infection, counted and not timed: for each policy and kind of 4 KiB write, bitmap
//! writes per host write and bytes to resync after a crash. Virtual time and a seeded generator,
//! so two runs print the same.
//!
//! A mirror of 64 GiB with chunks of 1 MiB, all Clean at first; open-loop writes of one core; the
//! daemon's defaults. What a crash would leave to resync is read off the first member's bitmap as
//! it is on disk, once a second, after two minutes.

#[path = "infection-table/world.rs"]
mod world;

use mdof::bitmap::Infection;
use world::World;

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Where the writes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    Sequential,
    Random,
    Zipfian,
}

impl Pattern {
    /// The block of the write of that number; `blocks` is a power of two.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a random rank below 2^32 needs no exactness"
    )]
    fn block(self, number: u64, blocks: u64, rng: &mut Rng) -> u64 {
        match self {
            Self::Sequential => number % blocks,
            Self::Random => rng.next() % blocks,
            Self::Zipfian => {
                // Inverse of the continuous distribution with exponent 0.99, ranks scattered over
                // the array as fio and YCSB do.
                const ONE_MINUS_THETA: f64 = 0.01;
                let uniform = (rng.next() >> 11) as f64 / (1u64 << 53) as f64;
                let top = (blocks as f64).powf(ONE_MINUS_THETA) - 1.0;
                let rank = (top * uniform + 1.0).powf(1.0 / ONE_MINUS_THETA) as u64;
                rank.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16 & (blocks - 1)
            }
        }
    }
}

/// What one run counted.
struct Figures {
    writes_per_write: f64,
    resync_mib: u64,
}

const SECOND_US: u64 = 1_000_000;
const WARM_UP_S: u64 = 120;
const MEASURED_S: u64 = 120;

fn run(policy: Infection, pattern: Pattern, per_second: u64) -> Figures {
    let mut world = World::new(policy);
    // A power of two below the array's size, which its metadata leave a little short.
    let blocks = (world.blocks() + 1).next_power_of_two() / 2;
    let mut rng = Rng(7);
    let (mut number, mut metadata_before, mut dirty_chunks) = (0, 0, 0);
    for second in 0..WARM_UP_S + MEASURED_S {
        if second == WARM_UP_S {
            metadata_before = world.bitmap_writes();
        }
        for write in 0..per_second {
            world.run_to(second * SECOND_US + write * SECOND_US / per_second);
            world.write(pattern.block(number, blocks, &mut rng));
            number += 1;
        }
        if second >= WARM_UP_S {
            dirty_chunks += world.chunks_in_doubt_on_disk();
        }
    }
    // What is in flight ends; a request may not be dropped.
    world.run_to((WARM_UP_S + MEASURED_S + 1) * SECOND_US);
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^32")]
    let writes_per_write =
        (world.bitmap_writes() - metadata_before) as f64 / (per_second * MEASURED_S) as f64;
    let chunk_mib = world.chunk_size_bytes() >> 20;
    Figures { writes_per_write, resync_mib: dirty_chunks * chunk_mib / MEASURED_S }
}

fn main() {
    println!("| 4 KiB writes | per second | policy | bitmap writes per 1000 | MiB to resync |");
    println!("|---|---|---|---|---|");
    for pattern in [Pattern::Sequential, Pattern::Random, Pattern::Zipfian] {
        for per_second in [100, 1000, 10_000] {
            for policy in Infection::ALL {
                let figures = run(policy, pattern, per_second);
                println!(
                    "| {pattern:?} | {per_second} | {} | {:.2} | {} |",
                    policy.name(),
                    figures.writes_per_write * 1000.0,
                    figures.resync_mib
                );
            }
        }
    }
}

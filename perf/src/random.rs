//! Repeatable random numbers: the same seed gives the same requests on every machine.

/// xoshiro256++ (Blackman, Vigna 2019), seeded by splitmix64 as its authors advise.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: [u64; 4],
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut x = seed;
        let state = std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Self { state }
    }

    pub(crate) fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `end`. The bias of the multiplication is below `end / 2^64`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(end);
        u64::try_from(product >> 64).expect("the high half of a product of two u64")
    }

    /// A number in 0.0..1.0, of 53 random bits.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ranks 1..=n with probability proportional to `rank^-theta`, by rejection from the area under
/// the curve (Hörmann, Derflinger 1996), so that it needs no table.
#[derive(Debug, Clone)]
pub(crate) struct Zipf {
    n: u64,
    theta: f64,
    area: f64,
}

impl Zipf {
    /// `n` is at least 1, `theta` not negative.
    pub(crate) fn new(n: u64, theta: f64) -> Self {
        assert!(n >= 1 && theta >= 0.0, "checked where the options are read");
        let area = if theta == 1.0 {
            1.0 + (n as f64).ln()
        } else {
            ((n as f64).powf(1.0 - theta) - theta) / (1.0 - theta)
        };
        Self { n, theta, area }
    }

    fn inverse(&self, p: f64) -> f64 {
        let at = p * self.area;
        if at <= 1.0 {
            at
        } else if self.theta == 1.0 {
            (at - 1.0).exp()
        } else {
            (at * (1.0 - self.theta) + self.theta).powf(1.0 / (1.0 - self.theta))
        }
    }

    /// A rank, 0 the most frequent.
    pub(crate) fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let at = self.inverse(random.unit());
            let x = (at + 1.0).floor();
            let mut ratio = x.powf(-self.theta);
            if x > 1.0 {
                ratio *= at.powf(self.theta);
            }
            if random.unit() < ratio {
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a float from 1 to n; what rounding adds is cut off"
                )]
                let rank = x as u64;
                return rank.clamp(1, self.n) - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers() {
        let (mut a, mut b, mut c) = (Random::new(7), Random::new(7), Random::new(8));
        let first: Vec<u64> = (0..100).map(|_| a.next()).collect();
        assert!(first.iter().all(|x| *x == b.next()));
        assert!(first.iter().any(|x| *x != c.next()));
    }

    #[test]
    fn below_is_even() {
        let mut random = Random::new(1);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[usize::try_from(random.below(10)).unwrap()] += 1;
        }
        // 10000 each; five standard deviations (95) either way.
        assert!(counts.iter().all(|count| (9525..10475).contains(count)), "{counts:?}");
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn zipf_has_the_shape_it_is_named_for() {
        for theta in [0.5, 1.0, 1.2] {
            let zipf = Zipf::new(1000, theta);
            let mut random = Random::new(3);
            let mut counts = vec![0u32; 1000];
            for _ in 0..200_000 {
                counts[usize::try_from(zipf.rank(&mut random)).unwrap()] += 1;
            }
            let sum: f64 = (1..=1000).map(|k| f64::from(k).powf(-theta)).sum();
            for rank in [0u32, 1, 9] {
                let expected = 200_000.0 * f64::from(rank + 1).powf(-theta) / sum;
                let found = f64::from(counts[usize::try_from(rank).unwrap()]);
                assert!(
                    (found - expected).abs() < 6.0 * expected.sqrt(),
                    "theta {theta}, rank {rank}: {found} instead of {expected}"
                );
            }
        }
    }
}

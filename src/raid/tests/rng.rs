//! Chance, seeded: splitmix64, small and the same everywhere.

#[derive(Clone, Debug)]
pub(in crate::raid) struct Rng(pub(in crate::raid) u64);

impl Rng {
    pub(in crate::raid) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(in crate::raid) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    pub(in crate::raid) fn between(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to - from + 1)
    }

    /// True once in `n` times; never for 0.
    pub(in crate::raid) fn one_in(&mut self, n: usize) -> bool {
        n != 0 && self.below(n) == 0
    }
}

//! A map from numbers to small numbers that never allocates after it is made.

/// No entry.
const EMPTY: u32 = u32::MAX;

/// Open addressing with linear probing; at most half full.
#[derive(Debug)]
pub(in crate::raid) struct Index {
    cells: Box<[(u64, u32)]>,
    mask: usize,
    len: usize,
}

impl Index {
    /// An empty map for at most `entries_max` entries.
    pub(in crate::raid) fn new(entries_max: usize) -> Self {
        let cells = (entries_max * 2).next_power_of_two().max(2);
        Self { cells: vec![(0, EMPTY); cells].into_boxed_slice(), mask: cells - 1, len: 0 }
    }

    fn home(&self, key: u64) -> usize {
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(hash).expect("32 bits") & self.mask
    }

    /// The cell of the key, or the empty one where it would go.
    fn find(&self, key: u64) -> usize {
        let mut at = self.home(key);
        while self.cells[at].1 != EMPTY && self.cells[at].0 != key {
            at = (at + 1) & self.mask;
        }
        at
    }

    pub(in crate::raid) fn get(&self, key: u64) -> Option<u32> {
        let value = self.cells[self.find(key)].1;
        (value != EMPTY).then_some(value)
    }

    /// Adds a key that is not there.
    pub(in crate::raid) fn insert(&mut self, key: u64, value: u32) {
        assert!(value != EMPTY && self.len * 2 < self.cells.len(), "the map is full");
        let at = self.find(key);
        assert_eq!(self.cells[at].1, EMPTY, "the key is there already");
        self.cells[at] = (key, value);
        self.len += 1;
    }

    /// Takes away a key that is there.
    pub(in crate::raid) fn remove(&mut self, key: u64) {
        let mut hole = self.find(key);
        assert!(self.cells[hole].1 != EMPTY, "the key is not there");
        self.len -= 1;
        // Those behind move up, unless they would come before their home.
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask;
            let (other, value) = self.cells[at];
            if value == EMPTY {
                break;
            }
            let distance = |from: usize| at.wrapping_sub(from) & self.mask;
            if distance(self.home(other)) >= distance(hole) {
                self.cells[hole] = (other, value);
                hole = at;
            }
        }
        self.cells[hole] = (0, EMPTY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn behaves_as_a_map(steps in proptest::collection::vec((0..40u64, any::<bool>()), 0..400)) {
            let mut index = Index::new(40);
            let mut model = HashMap::new();
            for (at, (key, add)) in (0u32..).zip(steps) {
                // Keys far apart that share a home with others.
                let key = key << 30;
                match (add, model.contains_key(&key)) {
                    (true, false) => {
                        index.insert(key, at);
                        model.insert(key, at);
                    }
                    (false, true) => {
                        index.remove(key);
                        model.remove(&key);
                    }
                    _ => {}
                }
                for key in (0..40u64).map(|key| key << 30) {
                    prop_assert_eq!(index.get(key), model.get(&key).copied());
                }
            }
        }
    }
}

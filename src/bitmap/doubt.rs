//! Parity levels: in which chunks parity may not fit the data.
//!
//! Not the same as NeedSync: a chunk written while a member is away is NeedSync because that
//! member lacks it, and its parity is right. Where parity is in doubt nothing can be recovered
//! from it, and no partial write may build on it. Kept in memory only: after a crash every chunk
//! that may have been under a write is in doubt, unless a log says what was written.

use crate::reactor::sync::{AtomicU8, Ordering};

const RIGHT: u8 = 0;
const IN_DOUBT: u8 = 1;
/// In doubt, and parity is being built.
const BUILDING: u8 = 2;

/// One byte a chunk; none for levels without parity.
#[derive(Debug, Default)]
pub struct Doubt {
    chunks: Box<[AtomicU8]>,
}

impl Doubt {
    /// For chunks of which it is told whether they are in doubt.
    pub fn new(in_doubt: impl ExactSizeIterator<Item = bool>) -> Self {
        let byte = |in_doubt| AtomicU8::new(if in_doubt { IN_DOUBT } else { RIGHT });
        Self { chunks: in_doubt.map(byte).collect() }
    }

    /// Whether parity of the chunk may not fit its data.
    #[must_use]
    pub fn is_in_doubt(&self, chunk: usize) -> bool {
        // Acquire: what was written before parity was called right is seen.
        self.chunks.get(chunk).is_some_and(|byte| byte.load(Ordering::Acquire) != RIGHT)
    }

    /// A write to the chunk has come to a bad end. Also takes back a building that is under way.
    pub fn raise(&self, chunk: usize) {
        if let Some(byte) = self.chunks.get(chunk) {
            byte.store(IN_DOUBT, Ordering::Release);
        }
    }

    /// Parity of the chunk is about to be built.
    pub fn begin(&self, chunk: usize) {
        if self.is_in_doubt(chunk) {
            self.chunks[chunk].store(BUILDING, Ordering::Relaxed);
        }
    }

    /// Parity of all of the chunk has been built since [`Self::begin`].
    pub fn end(&self, chunk: usize) {
        if let Some(byte) = self.chunks.get(chunk) {
            // Fails if a write has come to a bad end meanwhile: then it stays in doubt.
            let _ = byte.compare_exchange(BUILDING, RIGHT, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// All of the chunk is zeroes on all members, and parity of zeroes is zero.
    pub fn clear(&self, chunk: usize) {
        if let Some(byte) = self.chunks.get(chunk) {
            byte.store(RIGHT, Ordering::Release);
        }
    }

    /// Chunks in doubt.
    #[must_use]
    pub fn count(&self) -> usize {
        (0..self.chunks.len()).filter(|&chunk| self.is_in_doubt(chunk)).count()
    }
}

/// Whether the stripe log's heads on the members may say that parity is nowhere in doubt but where
/// live records tell what it should be.
#[derive(Debug)]
pub struct Vouching(AtomicU8);

impl Default for Vouching {
    /// Nobody has said otherwise yet.
    fn default() -> Self {
        Self(AtomicU8::new(1))
    }
}

impl Vouching {
    /// They may say so.
    #[must_use]
    pub fn is_on(&self) -> bool {
        // Acquire: who sees that they do not may let go of a row at once.
        self.0.load(Ordering::Acquire) != 0
    }

    /// Before the first of them says so, or after the last one denies it.
    pub fn set(&self, is_on: bool) {
        self.0.store(is_on.into(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_raised_while_parity_is_built_stays() {
        let doubt = Doubt::new([true, true, false].into_iter());
        assert_eq!(doubt.count(), 2);
        for chunk in 0..3 {
            doubt.begin(chunk);
            assert_eq!(doubt.is_in_doubt(chunk), chunk < 2);
        }
        doubt.raise(1);
        (0..3).for_each(|chunk| doubt.end(chunk));
        assert!(!doubt.is_in_doubt(0) && doubt.is_in_doubt(1) && !doubt.is_in_doubt(2));
        doubt.clear(1);
        assert_eq!(doubt.count(), 0);
        assert!(!Doubt::default().is_in_doubt(7), "a level without parity");
    }
}

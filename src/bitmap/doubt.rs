//! Parity levels: in which chunks parity may not fit the data.
//!
//! Not the same as NeedSync: a chunk written while a member is away is NeedSync because that
//! member lacks it, and its parity is right. Two kinds of doubt are told apart:
//!
//! | doubt   | how it comes about                       | columns that were written | others      |
//! |---------|------------------------------------------|---------------------------|-------------|
//! | unbuilt | Linux md builds parity after first write | parity fits               | it may not  |
//! | torn    | a power cut or failure amid a write      | parity may not fit        | it may not  |
//!
//! In both no partial write may build on the parity that is there (read-modify-write). From unbuilt
//! parity what a lost member was given can be recovered, and what is recovered of the rest nobody
//! ever wrote; from torn parity nothing can be recovered. Kept in memory only: after a crash every
//! chunk that may have been under a write is torn, unless a log says what was written.

use crate::reactor::sync::{AtomicU8, Ordering};

const RIGHT: u8 = 0;
const TORN: u8 = 1;
/// Torn, and parity is being built.
const TORN_BUILDING: u8 = 2;
const UNBUILT: u8 = 3;
/// Unbuilt, and parity is being built.
const UNBUILT_BUILDING: u8 = 4;

/// Whether and why parity of a chunk may not fit its data at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParityFound {
    /// It fits.
    Right,
    /// It fits what was written; where nothing was there may be none.
    Unbuilt,
    /// It may not fit what was being written.
    Torn,
}

/// One byte a chunk; none for levels without parity.
#[derive(Debug)]
pub struct Doubt {
    chunks: Box<[AtomicU8]>,
    /// The operator has been told what is lost in torn chunks, and goes on without it.
    accepted: AtomicU8,
}

impl Default for Doubt {
    /// Of a level without parity.
    fn default() -> Self {
        Self::new(std::iter::empty())
    }
}

impl Doubt {
    /// For chunks of which it is told what their parity is.
    pub fn new(chunks: impl ExactSizeIterator<Item = ParityFound>) -> Self {
        let byte = |parity| {
            AtomicU8::new(match parity {
                ParityFound::Right => RIGHT,
                ParityFound::Unbuilt => UNBUILT,
                ParityFound::Torn => TORN,
            })
        };
        Self { chunks: chunks.map(byte).collect(), accepted: AtomicU8::new(0) }
    }

    /// What an array with more chunks doubts of those that it had. Nobody uses either meanwhile.
    pub fn take_over(&self, old: &Self) {
        for (byte, old) in self.chunks.iter().zip(&old.chunks) {
            byte.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.accepted.store(old.accepted.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn byte(&self, chunk: usize) -> u8 {
        // Acquire: what was written before parity was called right is seen.
        self.chunks.get(chunk).map_or(RIGHT, |byte| byte.load(Ordering::Acquire))
    }

    /// Whether parity of the chunk may not fit its data, for any reason.
    #[must_use]
    pub fn is_in_doubt(&self, chunk: usize) -> bool {
        self.byte(chunk) != RIGHT
    }

    /// Whether parity of the chunk may not even fit what was written to it.
    #[must_use]
    pub fn is_torn(&self, chunk: usize) -> bool {
        matches!(self.byte(chunk), TORN | TORN_BUILDING)
    }

    /// A write to the chunk has come to a bad end. Also takes back a building that is under way.
    pub fn raise(&self, chunk: usize) {
        if let Some(byte) = self.chunks.get(chunk) {
            byte.store(TORN, Ordering::Release);
        }
    }

    /// The chunk is about to be written for the first time, and has no parity yet.
    pub fn is_unbuilt(&self, chunk: usize) {
        if let Some(byte) = self.chunks.get(chunk) {
            // One that is torn stays so.
            let _ = byte.compare_exchange(RIGHT, UNBUILT, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Parity of the chunk is about to be built.
    pub fn begin(&self, chunk: usize) {
        let Some(byte) = self.chunks.get(chunk) else { return };
        for (from, to) in [(TORN, TORN_BUILDING), (UNBUILT, UNBUILT_BUILDING)] {
            let _ = byte.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Parity of all of the chunk has been built since [`Self::begin`].
    pub fn end(&self, chunk: usize) {
        let Some(byte) = self.chunks.get(chunk) else { return };
        for from in [TORN_BUILDING, UNBUILT_BUILDING] {
            // Fails if a write has come to a bad end meanwhile: then it stays in doubt.
            let _ = byte.compare_exchange(from, RIGHT, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// All of the chunk is zeroes on all members, and parity of zeroes is zero.
    pub fn clear(&self, chunk: usize) {
        if let Some(byte) = self.chunks.get(chunk) {
            byte.store(RIGHT, Ordering::Release);
        }
    }

    /// Chunks in doubt, for any reason.
    #[must_use]
    pub fn count(&self) -> usize {
        (0..self.chunks.len()).filter(|&chunk| self.is_in_doubt(chunk)).count()
    }

    /// Chunks that are torn.
    #[must_use]
    pub fn torn_count(&self) -> usize {
        (0..self.chunks.len()).filter(|&chunk| self.is_torn(chunk)).count()
    }

    /// The operator goes on without what is lost in torn chunks: writes and rebuilds take what
    /// parity says for it. Reads of it fail until then.
    pub fn accept(&self) {
        self.accepted.store(1, Ordering::Release);
    }

    /// See [`Self::accept`].
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.accepted.load(Ordering::Acquire) != 0
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
    fn a_grown_array_doubts_what_it_did() {
        use ParityFound::{Right, Torn, Unbuilt};
        let old = Doubt::new([Torn, Right, Unbuilt].into_iter());
        old.accept();
        let new = Doubt::new([Right; 5].into_iter());
        new.take_over(&old);
        assert_eq!((new.count(), new.torn_count(), new.is_accepted()), (2, 1, true));
        assert!(new.is_torn(0) && new.is_in_doubt(2) && !new.is_in_doubt(4));
    }

    #[test]
    fn a_doubt_raised_while_parity_is_built_stays() {
        use ParityFound::{Right, Torn, Unbuilt};
        let doubt = Doubt::new([Torn, Torn, Right, Unbuilt, Unbuilt].into_iter());
        assert_eq!((doubt.count(), doubt.torn_count()), (4, 2));
        for chunk in 0..5 {
            doubt.begin(chunk);
            assert_eq!(doubt.is_in_doubt(chunk), chunk != 2);
            assert_eq!(doubt.is_torn(chunk), chunk < 2);
        }
        doubt.raise(1);
        doubt.raise(4);
        (0..5).for_each(|chunk| doubt.end(chunk));
        let torn = [1, 4];
        for chunk in 0..5 {
            assert_eq!(doubt.is_torn(chunk), torn.contains(&chunk), "chunk {chunk}");
            assert_eq!(doubt.is_in_doubt(chunk), torn.contains(&chunk), "chunk {chunk}");
        }
        doubt.is_unbuilt(1);
        doubt.is_unbuilt(2);
        assert!(doubt.is_torn(1), "a torn chunk stays so");
        assert!(doubt.is_in_doubt(2) && !doubt.is_torn(2));
        (1..5).for_each(|chunk| doubt.clear(chunk));
        assert_eq!(doubt.count(), 0);
        assert!(!Doubt::default().is_in_doubt(7), "a level without parity");
    }
}

//! The bytes of all chunks, shared by every core.
//!
//! Ordering argument. The owner is the only one that opens a byte, by a Release store made after
//! the metadata write is durable; a writer's Acquire load that sees the byte open therefore
//! happens after that completion. The same goes for each later store under which writers may
//! enter. Everything else the two sides must agree on travels by message. `tests/loom/bitmap.rs`
//! checks all of it.

use super::state::{ALL_STATES, ChunkState, STATES};
use crate::reactor::sync::{AtomicU8, Ordering, UnorderedU64};

/// Flag: the owner wants to know whether anyone writes to this (Dirty, durable) chunk.
pub const AGING: u8 = 0x80;
/// Flag: the byte changed and no metadata write that carries the change has been submitted yet.
pub const CHANGED: u8 = 0x40;
/// Flag: a metadata write that carries the change is in flight.
pub const IN_FLIGHT: u8 = 0x20;

const FLAGS: u8 = AGING | CHANGED | IN_FLIGHT;

/// The bits of a state.
const STATE_MASK: u8 = 7;

const _: () = assert!(STATE_MASK & FLAGS == 0 && ALL_STATES.len() == STATE_MASK as usize + 1);

/// The states in memory are turned by as much, so that those under which data writes may be issued
/// come first: a writer finds out by one comparison.
const TURN: u8 = ChunkState::Dirty as u8;

/// Values in memory below this one, without a flag, are open: the states that resync visits after
/// a crash.
const OPEN_END: u8 = in_memory(ChunkState::Syncing) + 1;

/// The byte of an open Dirty chunk.
const DIRTY: u8 = in_memory(ChunkState::Dirty);

/// How memory holds a state.
const fn in_memory(state: ChunkState) -> u8 {
    (state as u8).wrapping_sub(TURN) & STATE_MASK
}

/// The state in a byte of memory, whatever its flags, as it belongs on disk.
const fn on_disk(byte: u8) -> u8 {
    (byte + TURN) & STATE_MASK
}

/// Told the place and size in bytes of memory that a map is about to use.
pub type Advise<'a> = &'a dyn Fn(*const u8, usize);

/// One byte a chunk: a [`ChunkState`] and the flags above.
#[derive(Debug)]
pub struct ChunkMap {
    bytes: Box<[AtomicU8]>,
    /// In a place of its own: every core reads where the bytes are at each write.
    counts: Box<Counts>,
}

/// Chunks in each state. The owner alone writes it; kept with every change, because a look at all
/// chunks of a large array would hold up the owner's core for milliseconds.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counts([UnorderedU64; STATES]);

impl Counts {
    fn of(bytes: &[AtomicU8]) -> Self {
        let counts = Self::default();
        for byte in bytes {
            counts.add(byte.load(Ordering::Relaxed), 1);
        }
        counts
    }

    fn add(&self, byte: u8, n: u64) {
        let count = &self.0[usize::from(on_disk(byte))];
        count.store(count.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// A chunk has gone from one byte to another.
    fn moved(&self, from: u8, to: u8) {
        self.add(from, u64::MAX);
        self.add(to, 1);
    }
}

/// Whether a data write may be issued under this byte.
fn is_open(byte: u8) -> bool {
    byte < OPEN_END
}

impl ChunkMap {
    /// A map with the given states, all of them durable.
    pub fn new(states: impl ExactSizeIterator<Item = ChunkState>) -> Self {
        Self::new_in(&|_, _| {}, states)
    }

    /// As [`Self::new`]; `advise` is told first byte and size of the memory before anything is
    /// written to it, so that the caller can have it backed by larger pages.
    pub fn new_in(advise: Advise<'_>, states: impl ExactSizeIterator<Item = ChunkState>) -> Self {
        let mut bytes: Vec<AtomicU8> = Vec::with_capacity(states.len());
        advise(bytes.as_ptr().cast(), bytes.capacity());
        bytes.extend(states.map(|state| AtomicU8::new(in_memory(state))));
        Self { counts: Box::new(Counts::of(&bytes)), bytes: bytes.into_boxed_slice() }
    }

    /// Takes over the bytes of a map with fewer chunks, which nobody uses meanwhile: the array has
    /// grown. Those behind them stay Unwritten, which they are to be.
    ///
    /// # Panics
    /// If this map is the smaller one.
    pub fn take_over(&self, old: &Self) {
        assert!(old.len() <= self.len(), "an array never shrinks");
        for (byte, old) in self.bytes.iter().zip(&old.bytes) {
            byte.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for (count, old) in self.counts.0.iter().zip(&old.counts.0) {
            count.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let new = u64::try_from(self.len() - old.len()).expect("usize fits u64");
        self.counts.add(in_memory(ChunkState::Unwritten), new);
    }

    /// Number of chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no chunks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writer, any core: whether a data write to `chunk` may be issued now. `false`: ask the
    /// owner and wait. The fast path is one load.
    #[must_use]
    #[inline]
    pub fn enter(&self, chunk: usize) -> bool {
        // Acquire: pairs with the Release in `open`, which follows the durable metadata write.
        let byte = self.bytes.get(chunk).map(|byte| byte.load(Ordering::Acquire));
        byte.is_some_and(is_open) || self.enter_marked(chunk)
    }

    /// The same of a byte that was not open a moment ago.
    #[cold]
    fn enter_marked(&self, chunk: usize) -> bool {
        // Acquire: as in `enter`; it may have been opened since.
        let byte = self.bytes[chunk].load(Ordering::Acquire);
        is_open(byte)
            || (byte & AGING != 0 && (mutant!(WriterLeavesMark) || self.keep_dirty(chunk, byte)))
    }

    /// Writer, any core: [`Self::enter`] for each of `chunks`.
    #[must_use]
    pub fn enter_all(&self, mut chunks: std::ops::Range<usize>) -> bool {
        chunks.all(|chunk| self.enter(chunk))
    }

    /// A writer met an aging chunk: it stays Dirty. Fails if the owner has just cleared it.
    #[cold]
    fn keep_dirty(&self, chunk: usize, byte: u8) -> bool {
        assert_eq!(byte, DIRTY | AGING, "only open Dirty chunks age");
        // AcqRel: one of this and `clear_if_aging` wins. If this does, the owner sees the chunk
        // touched; if the owner does, this writer goes to the owner and waits for a new flush.
        let kept =
            self.bytes[chunk].compare_exchange(byte, DIRTY, Ordering::AcqRel, Ordering::Acquire);
        // Another writer of another core may have taken the flag off first: as good.
        kept.is_ok() || kept.is_err_and(is_open)
    }

    /// State of `chunk` as of now, on any core.
    #[must_use]
    pub fn state(&self, chunk: usize) -> ChunkState {
        let byte = on_disk(self.bytes[chunk].load(Ordering::Acquire));
        ChunkState::from_byte(byte).expect("every value is a state")
    }

    /// Any core: whether the chunk is Clean or Dirty: any member that is in sync may be read.
    #[must_use]
    #[inline]
    pub fn has_data(&self, chunk: usize) -> bool {
        const FIRST: u8 = ChunkState::Clean as u8;
        const LAST: u8 = ChunkState::Dirty as u8;
        let byte = on_disk(self.bytes[chunk].load(Ordering::Acquire));
        byte.wrapping_sub(FIRST) <= LAST - FIRST
    }

    /// Any core: whether the chunk is Unwritten and no change to it is under way.
    #[must_use]
    pub fn is_unwritten_for_good(&self, chunk: usize) -> bool {
        let byte = self.bytes[chunk].load(Ordering::Acquire);
        let byte = if mutant!(UnwrittenBeforeDurable) { byte & !FLAGS } else { byte };
        byte == in_memory(ChunkState::Unwritten)
    }

    /// Owner: whether the chunk's last change is durable.
    #[must_use]
    pub fn is_durable(&self, chunk: usize) -> bool {
        self.bytes[chunk].load(Ordering::Relaxed) & (CHANGED | IN_FLIGHT) == 0
    }

    /// Owner: whether the chunk's byte is open.
    #[must_use]
    pub fn is_open(&self, chunk: usize) -> bool {
        is_open(self.bytes[chunk].load(Ordering::Relaxed) & !AGING)
    }

    /// Owner: gives the chunk a new state that must become durable before it counts.
    pub fn change(&self, chunk: usize, state: ChunkState) {
        let byte = &self.bytes[chunk];
        let state = in_memory(state);
        self.counts.moved(byte.load(Ordering::Relaxed), state);
        byte.store(state | CHANGED, Ordering::Relaxed);
    }

    /// Owner: gives the chunk a new state where the one on disk is at least as cautious, so that
    /// nobody needs to wait (NeedSync to Syncing, Syncing to Dirty). A pending change stays
    /// pending.
    pub fn change_quietly(&self, chunk: usize, state: ChunkState) {
        let byte = self.bytes[chunk].load(Ordering::Relaxed);
        let state = in_memory(state);
        self.counts.moved(byte, state);
        self.bytes[chunk].store(state | byte & (CHANGED | IN_FLIGHT), Ordering::Release);
    }

    /// Owner: copies the states of `chunks` into `out` as they belong on disk and notes that a
    /// write which carries them is in flight. Whether it carries a change, which [`Self::open`] is
    /// to open.
    pub fn snapshot(&self, chunks: std::ops::Range<usize>, out: &mut [u8]) -> bool {
        assert_eq!(chunks.len(), out.len());
        let mut changed = false;
        for (byte, out) in self.bytes[chunks].iter().zip(out) {
            let value = byte.load(Ordering::Relaxed);
            *out = on_disk(value);
            if value & CHANGED != 0 {
                byte.store(value & !FLAGS | IN_FLIGHT, Ordering::Relaxed);
                changed = true;
            }
        }
        changed
    }

    /// Owner: the write with the snapshot of `chunks` is durable on every in-sync member. Opens
    /// what it carried, unless it has changed again since.
    pub fn open(&self, chunks: std::ops::Range<usize>) {
        for byte in &self.bytes[chunks] {
            let value = byte.load(Ordering::Relaxed);
            if value & IN_FLIGHT != 0 || mutant!(OpenLaterChanges) && value & CHANGED != 0 {
                let value = if mutant!(OpenLaterChanges) { value & !CHANGED } else { value };
                // Release: pairs with the Acquire in `enter`.
                byte.store(value & !IN_FLIGHT, Ordering::Release);
            }
        }
    }

    /// Owner: asks who writes to the chunk, if it is open and Dirty. Whether it did ask.
    pub fn age(&self, chunk: usize) -> bool {
        let byte = &self.bytes[chunk];
        let dirty = byte.load(Ordering::Relaxed) == DIRTY;
        if dirty {
            // Release: a writer may enter under this value without having seen the one that
            // `open` stored, and the flush must have ended before it does.
            byte.store(DIRTY | AGING, Ordering::Release);
        }
        dirty
    }

    /// Owner: makes the chunk Clean if nobody has written to it since [`Self::age`]. To be called
    /// only after every core has passed a quiescent point.
    pub fn clear_if_aging(&self, chunk: usize) -> bool {
        const AGED: u8 = DIRTY | AGING;
        const CLEAN: u8 = in_memory(ChunkState::Clean);
        let byte = &self.bytes[chunk];
        // AcqRel: pairs with `keep_dirty`; a byte that is open again stays Dirty.
        let cleared = byte.load(Ordering::Relaxed) == AGED
            && byte.compare_exchange(AGED, CLEAN, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if cleared {
            self.counts.moved(AGED, CLEAN);
        }
        cleared
    }

    /// Chunks in each state, in order of the state's value.
    #[must_use]
    pub fn histogram(&self) -> [u64; STATES] {
        std::array::from_fn(|state| self.counts.0[state].load(Ordering::Relaxed))
    }

    /// First chunk at or after `from` that is in `state`.
    #[must_use]
    pub fn find(&self, state: ChunkState, from: usize) -> Option<usize> {
        (from..self.len()).find(|&chunk| self.state(chunk) == state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(states: &[ChunkState]) -> ChunkMap {
        ChunkMap::new(states.iter().copied())
    }

    #[test]
    fn a_changed_chunk_opens_only_after_its_own_flush() {
        let map = map(&[ChunkState::Clean, ChunkState::Clean]);
        let mut disk = [0; 2];
        map.change(0, ChunkState::Dirty);
        assert!(!map.enter(0));
        map.snapshot(0..2, &mut disk);
        assert_eq!(disk, [2, 1]);
        map.change(1, ChunkState::Dirty);
        assert!(!map.enter(0), "in flight is not durable");
        map.open(0..2);
        assert!(map.enter(0));
        assert!(!map.enter(1), "this change was not in that write");
        map.snapshot(0..2, &mut disk);
        map.open(0..2);
        assert!(map.enter(1));
    }

    #[test]
    fn clean_and_dirty_chunks_have_data_whatever_their_flags() {
        for state in ALL_STATES {
            let expected = matches!(state, ChunkState::Clean | ChunkState::Dirty);
            let map = map(&[state, state]);
            map.change(1, state);
            assert_eq!((map.has_data(0), map.has_data(1)), (expected, expected), "{state:?}");
        }
    }

    #[test]
    fn a_touched_chunk_does_not_become_clean() {
        let map = map(&[ChunkState::Dirty, ChunkState::Dirty, ChunkState::NeedSync]);
        assert!(map.age(0) && map.age(1));
        assert!(!map.age(2), "only Dirty chunks age");
        assert!(map.enter(0));
        assert!(!map.clear_if_aging(0));
        assert!(map.clear_if_aging(1));
        assert!(!map.enter(1), "a cleared chunk needs a new flush");
        assert_eq!(map.histogram()[..4], [0, 1, 1, 1]);
    }

    #[test]
    fn the_histogram_is_what_a_look_at_every_byte_finds() {
        let map = map(&[ChunkState::Unwritten; 40]);
        let mut disk = [0; 40];
        let mut random = 1_u64;
        for _ in 0..10_000 {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let chunk = usize::try_from((random >> 33) % 40).unwrap();
            let state = ALL_STATES[usize::try_from((random >> 45) % 8).unwrap()];
            match (random >> 50) % 7 {
                0 => map.change(chunk, state),
                1 => map.change_quietly(chunk, state),
                2 => drop(map.snapshot(0..40, &mut disk)),
                3 => map.open(0..40),
                4 => drop(map.age(chunk)),
                5 => drop(map.clear_if_aging(chunk)),
                _ => drop(map.enter(chunk)),
            }
            let mut found = [0; STATES];
            (0..40).for_each(|chunk| found[map.state(chunk) as usize] += 1);
            assert_eq!(map.histogram(), found);
        }
    }

    #[test]
    fn a_larger_map_takes_over_bytes_flags_and_counts() {
        let old = map(&[ChunkState::Dirty, ChunkState::NeedSync, ChunkState::Clean]);
        assert!(old.age(0));
        old.change(2, ChunkState::Dirty);
        let new = map(&[ChunkState::Unwritten; 5]);
        new.take_over(&old);
        assert_eq!(new.histogram()[..4], [2, 0, 2, 1]);
        assert!(!new.is_durable(2) && new.is_durable(1));
        assert!(new.clear_if_aging(0), "the mark came along");
        assert_eq!(new.state(4), ChunkState::Unwritten);
        assert_eq!(new.histogram()[..4], [2, 1, 1, 1]);
    }

    #[test]
    fn a_snapshot_of_an_aging_chunk_is_dirty_on_disk() {
        let map = map(&[ChunkState::Dirty]);
        map.age(0);
        let mut disk = [0];
        map.snapshot(0..1, &mut disk);
        assert_eq!(disk, [ChunkState::Dirty as u8]);
    }
}

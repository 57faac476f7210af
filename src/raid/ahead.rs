//! Zeroing ahead: chunks never written that members have been made to hold zeroes in before anybody
//! wrote to them.
//!
//! A chunk is zeroed before its first write. Where a store zeroes a range in about the same time
//! however long it is, what costs is the request: a file system waits for all writes in flight and
//! makes each durable on its own. So when many chunks are zeroed at once, the ones behind them are
//! zeroed with them, as many as are under way: a single first write zeroes nothing else and takes
//! no space for it.
//!
//! What is known here is that a chunk is Unwritten and that *every member that is written* durably
//! holds zeroes in all of it. It is forgotten
//! - when the chunk is written to, or about to be;
//! - for all chunks when a device joins, which was not asked to zero anything;
//! - when the array stops, or the power fails: then the chunk is zeroed once more.
//!
//! A discard changes none of that: what is freed reads as zeroes, and what can't be freed stays.

/// Chunks that one job zeroes: as many as a word has bits.
pub(super) const CHUNKS_PER_JOB: usize = 64;

/// Bytes of them at most, but at least one chunk: not every store is as quick as it says.
const JOB_SIZE_BYTES_MAX: u64 = 64 << 20;

/// Chunks looked ahead when nothing is under way: none. Tests have few writers.
pub(super) const AHEAD_LEAST: usize = if cfg!(test) { 1 } else { 0 };

/// The chunks that are zeroed ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    /// A bit a chunk.
    zeroed: Box<[u64]>,
    /// How often devices have joined.
    joins: u32,
    /// Something could not be zeroed: each chunk is zeroed when it is needed from now on.
    is_off: bool,
    chunks_max: usize,
}

impl Ahead {
    /// Of an array with so many chunks of that size: nothing is zeroed yet.
    pub(super) fn new(chunks: usize, chunk_size_bytes: u64) -> Self {
        let fitting = usize::try_from(JOB_SIZE_BYTES_MAX / chunk_size_bytes.max(1));
        Self {
            zeroed: vec![0; chunks.div_ceil(64)].into_boxed_slice(),
            joins: 0,
            is_off: false,
            chunks_max: fitting.map_or(CHUNKS_PER_JOB, |chunks| chunks.min(CHUNKS_PER_JOB)),
        }
    }

    /// The array has so many chunks from now on.
    pub(super) fn grow(&mut self, chunks: usize) {
        let mut zeroed = std::mem::take(&mut self.zeroed).into_vec();
        zeroed.resize(chunks.div_ceil(64), 0);
        self.zeroed = zeroed.into_boxed_slice();
    }

    /// Chunks that a job may zero beside the one it is for, with so many under way.
    pub(super) fn budget(&self, under_way: usize) -> usize {
        let most = match (self.is_off, under_way) {
            (true, _) => 0,
            (false, 0) => AHEAD_LEAST,
            (false, more) => more,
        };
        most.min(self.chunks_max.saturating_sub(1))
    }

    /// The chunk is zeroed ahead.
    pub(super) fn has(&self, chunk: usize) -> bool {
        self.zeroed[chunk / 64] & 1 << (chunk % 64) != 0
    }

    /// All members hold zeroes in the chunk, and nobody has written to it.
    pub(super) fn put(&mut self, chunk: usize) {
        self.zeroed[chunk / 64] |= 1 << (chunk % 64);
    }

    /// The chunk is about to be written to. Whether it is zeroed.
    pub(super) fn take(&mut self, chunk: usize) -> bool {
        let has = self.has(chunk);
        if !mutant!(AheadKeptWhenWritten) {
            self.zeroed[chunk / 64] &= !(1 << (chunk % 64));
        }
        has
    }

    /// How often devices have joined.
    pub(super) fn joins(&self) -> u32 {
        self.joins
    }

    /// A device joins.
    pub(super) fn joined(&mut self) {
        self.joins += 1;
        if !mutant!(AheadKeptForNewcomer) {
            self.zeroed.fill(0);
        }
    }

    /// What nobody has asked for could not be zeroed, perhaps for want of space.
    pub(super) fn stop(&mut self) {
        self.is_off = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_as_long_as_others_are_many() {
        let mut ahead = Ahead::new(1000, 1 << 20);
        assert_eq!([0, 1, 7, 100].map(|busy| ahead.budget(busy)), [AHEAD_LEAST, 1, 7, 63]);
        assert_eq!(Ahead::new(1000, 16 << 20).budget(100), 3);
        assert_eq!(Ahead::new(1000, 1 << 30).budget(100), 0, "one chunk is more than enough");
        ahead.stop();
        assert_eq!(ahead.budget(100), 0);
    }

    #[test]
    fn a_chunk_is_taken_once_and_never_after_a_device_joined() {
        let mut ahead = Ahead::new(130, 4096);
        ahead.put(129);
        assert!(ahead.take(129) && !ahead.take(129));
        ahead.put(64);
        ahead.joined();
        assert!(!ahead.take(64));
        assert_eq!(ahead.joins(), 1);
    }
}

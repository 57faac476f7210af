//! Which blocks of the bitmap must be written, and how far each one has got.
//!
//! The unit of bitmap I/O is one logical block of the array (512 or 4096 bytes). A unit is
//! written at most once at a time; changes that arrive meanwhile share the next write (group
//! commit).

use std::collections::VecDeque;

/// Bytes before the first state byte of a bitmap area.
pub const HEADER_SIZE_BYTES: usize = 1024;

/// How urgently a unit should be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Somebody waits for it.
    Now,
    /// It only makes a later resync shorter.
    Lazy,
}

/// Where a unit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnitState {
    /// What is on disk is what is in memory, as far as anyone cares.
    Settled,
    /// Waits in the lazy queue.
    QueuedLazy,
    /// Waits in the urgent queue.
    Queued,
    /// A write is in flight.
    Writing,
    /// A write is in flight and the unit changed again.
    WritingAgain,
}

/// The owner's book of units.
#[derive(Debug)]
pub struct Ledger {
    unit_size_bytes: usize,
    chunks: usize,
    states: Box<[UnitState]>,
    urgent: VecDeque<u32>,
    lazy: VecDeque<u32>,
    /// Which units stand in `lazy`; one that has become urgent keeps its place there.
    listed_lazy: Box<[bool]>,
    writing_count: usize,
}

impl Ledger {
    /// A book for `chunks` state bytes in units of `unit_size_bytes`, all settled.
    ///
    /// # Panics
    /// If the unit is neither 512 nor 4096 bytes.
    #[must_use]
    pub fn new(chunks: usize, unit_size_bytes: usize) -> Self {
        assert!(matches!(unit_size_bytes, 512 | 4096), "a unit is one logical block");
        let units = units_for(chunks, unit_size_bytes);
        Self {
            unit_size_bytes,
            chunks,
            states: vec![UnitState::Settled; units].into_boxed_slice(),
            urgent: VecDeque::with_capacity(units),
            lazy: VecDeque::with_capacity(units),
            listed_lazy: vec![false; units].into_boxed_slice(),
            writing_count: 0,
        }
    }

    /// The array has so many chunks from now on. The new ones are on disk as they are in memory.
    ///
    /// # Panics
    /// If they are fewer.
    pub fn grow(&mut self, chunks: usize) {
        assert!(chunks >= self.chunks, "an array never shrinks");
        let units = self.units_for(chunks);
        let mut states = std::mem::take(&mut self.states).into_vec();
        states.resize(units, UnitState::Settled);
        self.states = states.into_boxed_slice();
        let mut listed = std::mem::take(&mut self.listed_lazy).into_vec();
        listed.resize(units, false);
        self.listed_lazy = listed.into_boxed_slice();
        self.urgent.reserve(units.saturating_sub(self.urgent.len()));
        self.lazy.reserve(units.saturating_sub(self.lazy.len()));
        self.chunks = chunks;
    }

    /// Number of units, header included, that so many chunks take.
    #[must_use]
    pub fn units_for(&self, chunks: usize) -> usize {
        units_for(chunks, self.unit_size_bytes)
    }

    /// Number of units, header included.
    #[must_use]
    pub fn units(&self) -> usize {
        self.states.len()
    }

    /// The unit that holds the state byte of `chunk`.
    #[must_use]
    pub fn unit_of(&self, chunk: usize) -> usize {
        (HEADER_SIZE_BYTES + chunk) / self.unit_size_bytes
    }

    /// Bytes of the header that the unit holds at its start.
    #[must_use]
    pub fn header_bytes(&self, unit: usize) -> usize {
        HEADER_SIZE_BYTES.saturating_sub(unit * self.unit_size_bytes).min(self.unit_size_bytes)
    }

    /// The chunks whose state bytes the unit holds; empty for a unit of header alone.
    #[must_use]
    pub fn chunks_of(&self, unit: usize) -> std::ops::Range<usize> {
        let start = (unit * self.unit_size_bytes).saturating_sub(HEADER_SIZE_BYTES);
        let end = ((unit + 1) * self.unit_size_bytes).saturating_sub(HEADER_SIZE_BYTES);
        start.min(self.chunks)..end.min(self.chunks)
    }

    /// The unit changed in memory and must be written.
    pub fn mark(&mut self, unit: usize, urgency: Urgency) {
        use UnitState::{Queued, QueuedLazy, Settled, Writing, WritingAgain};
        let index = u32::try_from(unit).expect("units fit u32");
        let next = match (self.states[unit], urgency) {
            (Settled | QueuedLazy, Urgency::Now) => {
                self.urgent.push_back(index);
                Queued
            }
            (Settled, Urgency::Lazy) => {
                if !self.listed_lazy[unit] {
                    self.listed_lazy[unit] = true;
                    self.lazy.push_back(index);
                }
                QueuedLazy
            }
            (Writing, _) => WritingAgain,
            (state, _) => state,
        };
        self.states[unit] = next;
    }

    /// Takes the next unit to write that somebody waits for.
    pub fn begin(&mut self) -> Option<usize> {
        let index = self.urgent.pop_front()?;
        Some(self.set_writing(index, UnitState::Queued))
    }

    /// Whether [`Self::begin_lazy`] may find a unit: lazy ones are written one at a time, and only
    /// when nothing urgent is queued or in flight.
    #[must_use]
    pub fn may_begin_lazy(&self) -> bool {
        self.is_quiet() && !self.lazy.is_empty()
    }

    /// Takes the next unit that nobody waits for.
    pub fn begin_lazy(&mut self) -> Option<usize> {
        if !self.is_quiet() {
            return None;
        }
        while let Some(index) = self.lazy.pop_front() {
            self.listed_lazy[index as usize] = false;
            // An entry whose unit has become urgent and been written meanwhile is void.
            if self.states[index as usize] == UnitState::QueuedLazy {
                return Some(self.set_writing(index, UnitState::QueuedLazy));
            }
        }
        None
    }

    fn set_writing(&mut self, index: u32, from: UnitState) -> usize {
        let unit = index as usize;
        assert_eq!(self.states[unit], from);
        self.states[unit] = UnitState::Writing;
        self.writing_count += 1;
        unit
    }

    /// The write of `unit` has ended on all members. Changes made meanwhile are queued again.
    pub fn end(&mut self, unit: usize) {
        self.writing_count -= 1;
        let again = match self.states[unit] {
            UnitState::Writing => false,
            UnitState::WritingAgain => true,
            state => panic!("unit {unit} ended a write in state {state:?}"),
        };
        self.states[unit] = UnitState::Settled;
        if again {
            self.mark(unit, Urgency::Now);
        }
    }

    /// Nothing urgent is queued, and nothing is in flight.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.urgent.is_empty() && self.writing_count == 0
    }

    /// Nothing is queued, not even lazily, and nothing is in flight.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_quiet() && !self.states.contains(&UnitState::QueuedLazy)
    }

    /// Whether `unit` is queued or in flight.
    #[must_use]
    pub fn is_pending(&self, unit: usize) -> bool {
        !matches!(self.states[unit], UnitState::Settled | UnitState::QueuedLazy)
    }
}

fn units_for(chunks: usize, unit_size_bytes: usize) -> usize {
    (HEADER_SIZE_BYTES + chunks).div_ceil(unit_size_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_cover_header_and_chunks_without_gap() {
        for size in [512, 4096] {
            let ledger = Ledger::new(10_000, size);
            let mut next = 0;
            for unit in 0..ledger.units() {
                let chunks = ledger.chunks_of(unit);
                let bytes = ledger.header_bytes(unit) + chunks.len();
                assert!(bytes == size || unit == ledger.units() - 1);
                assert_eq!(chunks.start, next.min(10_000));
                next = chunks.end;
                for chunk in chunks {
                    assert_eq!(ledger.unit_of(chunk), unit);
                }
            }
            assert_eq!(next, 10_000);
        }
    }

    #[test]
    fn a_ledger_that_grows_keeps_what_is_queued() {
        let mut ledger = Ledger::new(600, 512);
        ledger.mark(2, Urgency::Lazy);
        ledger.mark(3, Urgency::Now);
        ledger.grow(2000);
        assert_eq!((ledger.units(), ledger.chunks_of(3)), (6, 512..1024));
        assert_eq!(ledger.chunks_of(5), 1536..2000);
        ledger.mark(5, Urgency::Now);
        assert_eq!((ledger.begin(), ledger.begin(), ledger.begin()), (Some(3), Some(5), None));
        ledger.end(3);
        ledger.end(5);
        assert_eq!(ledger.begin_lazy(), Some(2));
    }

    #[test]
    fn changes_during_a_write_share_the_next_one() {
        let mut ledger = Ledger::new(4000, 512);
        ledger.mark(3, Urgency::Now);
        ledger.mark(3, Urgency::Now);
        assert_eq!(ledger.begin(), Some(3));
        assert_eq!(ledger.begin(), None);
        ledger.mark(3, Urgency::Now);
        ledger.mark(3, Urgency::Lazy);
        assert_eq!(ledger.begin(), None, "one write of a unit at a time");
        ledger.end(3);
        assert!(ledger.is_pending(3));
        assert_eq!(ledger.begin(), Some(3));
        ledger.end(3);
        assert!(ledger.is_settled());
    }

    #[test]
    fn lazy_units_wait_for_urgent_ones() {
        let mut ledger = Ledger::new(4000, 512);
        ledger.mark(2, Urgency::Lazy);
        ledger.mark(3, Urgency::Lazy);
        ledger.mark(3, Urgency::Now);
        assert_eq!(ledger.begin(), Some(3));
        assert!(!ledger.may_begin_lazy());
        assert_eq!(ledger.begin_lazy(), None, "lazy writes do not compete");
        ledger.end(3);
        assert_eq!(ledger.begin(), None, "nobody waits for it");
        assert!(ledger.may_begin_lazy());
        assert_eq!(ledger.begin_lazy(), Some(2));
        assert_eq!(ledger.begin_lazy(), None, "one at a time");
        ledger.end(2);
        assert!(ledger.is_settled());
        assert_eq!((ledger.begin(), ledger.begin_lazy()), (None, None));
    }
}

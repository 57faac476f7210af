//! Who works on which slice: the locks that one core keeps for all channels of an array.
//!
//! Every slice has a home core. A channel that wants to work on a slice asks there and waits; the
//! lock goes from one to the next in the order in which they asked.

use super::index::Index;

/// End of a list.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Lock {
    holder: u16,
    first: u32,
    last: u32,
}

#[derive(Debug, Clone, Copy)]
struct Waiter {
    core: u16,
    /// Records that it wants numbers for.
    records: u8,
    next: u32,
}

/// The locks of one home core. A channel asks for a slice once at a time.
#[derive(Debug)]
pub(in crate::raid) struct Locks {
    by_slice: Index,
    locks: Vec<Lock>,
    free_locks: Vec<u32>,
    waiters: Vec<Waiter>,
    free_waiters: Vec<u32>,
}

impl Locks {
    /// For at most so many questions at a time.
    pub(in crate::raid) fn new(questions_max: usize) -> Self {
        Self {
            by_slice: Index::new(questions_max),
            locks: Vec::with_capacity(questions_max),
            free_locks: Vec::with_capacity(questions_max),
            waiters: Vec::with_capacity(questions_max),
            free_waiters: Vec::with_capacity(questions_max),
        }
    }

    /// A core wants the slice, and numbers for so many records with it. Whether it has the slice at
    /// once; else it will be told.
    pub(in crate::raid) fn ask(&mut self, core: u16, slice: u64, records: u8) -> bool {
        let Some(at) = self.by_slice.get(slice) else {
            let lock = Lock { holder: core, first: NONE, last: NONE };
            let at = put(&mut self.locks, &mut self.free_locks, lock);
            self.by_slice.insert(slice, at);
            return true;
        };
        let waiter = Waiter { core, records, next: NONE };
        let waiter = put(&mut self.waiters, &mut self.free_waiters, waiter);
        let lock = &mut self.locks[at as usize];
        assert_ne!(lock.holder, core, "a core asks for what it has");
        match std::mem::replace(&mut lock.last, waiter) {
            NONE => lock.first = waiter,
            last => self.waiters[last as usize].next = waiter,
        }
        false
    }

    /// The holder is done with the slice: who has it now, and how many records it wants.
    pub(in crate::raid) fn free(&mut self, slice: u64) -> Option<(u16, u8)> {
        let at = self.by_slice.get(slice).expect("only held slices are freed");
        let lock = &mut self.locks[at as usize];
        if lock.first == NONE {
            self.by_slice.remove(slice);
            self.free_locks.push(at);
            return None;
        }
        let first = lock.first;
        let Waiter { core, records, next } = self.waiters[first as usize];
        self.free_waiters.push(first);
        lock.holder = core;
        lock.first = next;
        if next == NONE {
            lock.last = NONE;
        }
        Some((core, records))
    }
}

fn put<T>(entries: &mut Vec<T>, free: &mut Vec<u32>, entry: T) -> u32 {
    if let Some(at) = free.pop() {
        entries[at as usize] = entry;
        return at;
    }
    assert!(entries.len() < entries.capacity(), "more questions than channels can have");
    entries.push(entry);
    u32::try_from(entries.len() - 1).expect("a bounded number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_given_in_the_order_of_the_questions() {
        let mut locks = Locks::new(8);
        assert!(locks.ask(0, 7, 1));
        assert!(locks.ask(1, 8, 1), "another slice");
        assert!(!locks.ask(2, 7, 3));
        assert!(!locks.ask(1, 7, 0));
        assert_eq!(locks.free(7), Some((2, 3)));
        assert!(!locks.ask(0, 7, 1));
        assert_eq!(locks.free(7), Some((1, 0)));
        assert_eq!(locks.free(7), Some((0, 1)));
        assert_eq!(locks.free(8), None);
        assert_eq!(locks.free(7), None);
        assert!(locks.ask(3, 7, 1), "free again");
    }
}

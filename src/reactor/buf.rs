//! I/O buffers: a core's arena cut into size classes, handed out as counted handles.
//!
//! A handle ([`IoBuf`]) keeps its memory alive, so a buffer the kernel is still using can never
//! return to the pool, whatever happens to the connection that asked for it. Handles belong to
//! one core: counts are plain cells, and the type is not `Send`. An arena lives as long as the
//! process, as the reactors do.
//!
//! What a buffer holds may lie elsewhere for a moment (`loan`): nothing is copied if nobody but
//! the one who takes it from there wants it.

mod loan;

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use crate::limits::{IO_SIZE_BYTES_MAX, TRANSFER_SIZE_BYTES_MAX};

pub use loan::Lender;
use loan::Loans;

/// Buffer sizes in bytes, ascending. The last one holds the largest command.
pub const CLASS_SIZES_BYTES: [usize; 4] =
    [4096, 32 * 1024, IO_SIZE_BYTES_MAX, TRANSFER_SIZE_BYTES_MAX];

/// Buffers of each class in a default arena: 4 + 4 + 8 + 16 MiB, that is sixteen hugepages a core.
pub const CLASS_COUNTS: [usize; CLASS_SIZES_BYTES.len()] = [1024, 128, 64, 16];

const _: () = assert!(CLASS_SIZES_BYTES[0] < CLASS_SIZES_BYTES[1]);
const _: () = assert!(CLASS_SIZES_BYTES[1] < CLASS_SIZES_BYTES[2]);
const _: () = assert!(CLASS_SIZES_BYTES[2] < CLASS_SIZES_BYTES[3]);

struct Slot {
    refs: Cell<u32>,
    /// Bytes from the buffer's start that may be on loan as a whole; 0: none.
    loan_bytes: Cell<u32>,
    base: NonNull<u8>,
    /// Where these bytes lie now; null: in the buffer.
    loan: Cell<*const u8>,
    class: u8,
}

struct Arena {
    slots: Box<[Slot]>,
    free: [RefCell<Vec<u32>>; CLASS_SIZES_BYTES.len()],
    /// Buffers that have come back so far.
    returns: Cell<u64>,
    loans: Loans,
    /// Start and length of the memory, for registration with a ring.
    base: NonNull<u8>,
    len_bytes: usize,
}

/// One core's buffers.
#[derive(Clone, Copy)]
pub struct BufPool {
    arena: &'static Arena,
}

/// Bytes an arena with `counts` buffers of each class needs.
#[must_use]
pub fn arena_size_bytes(counts: [usize; CLASS_SIZES_BYTES.len()]) -> usize {
    counts.iter().zip(CLASS_SIZES_BYTES).map(|(count, size)| count * size).sum()
}

impl BufPool {
    /// Cuts `memory` into buffers, `counts` of each class.
    ///
    /// # Panics
    /// If `memory` is smaller than [`arena_size_bytes`] says or not aligned to 4096 bytes.
    #[must_use]
    pub fn new(memory: &'static mut [u8], counts: [usize; CLASS_SIZES_BYTES.len()]) -> Self {
        assert!(memory.len() >= arena_size_bytes(counts), "arena is too small");
        assert!(memory.as_ptr().addr().is_multiple_of(4096), "arena is not aligned");
        let len_bytes = memory.len();
        let base = NonNull::from(&mut *memory).cast::<u8>();
        let mut slots = Vec::with_capacity(counts.iter().sum());
        let mut free = CLASS_SIZES_BYTES.map(|_| Vec::new());
        let mut offset = 0;
        for (class, (&count, size)) in counts.iter().zip(CLASS_SIZES_BYTES).enumerate() {
            for _ in 0..count {
                free[class].push(u32::try_from(slots.len()).expect("slots fit u32"));
                // SAFETY: the assert above keeps `offset` inside `memory`.
                let slot_base = unsafe { base.add(offset) };
                slots.push(Slot {
                    refs: Cell::new(0),
                    loan_bytes: Cell::new(0),
                    base: slot_base,
                    loan: Cell::new(std::ptr::null()),
                    class: u8::try_from(class).expect("few classes"),
                });
                offset += size;
            }
            // Lowest address first: an idle target then touches few pages.
            free[class].reverse();
        }
        let arena = Arena {
            loans: Loans::new(slots.len()),
            slots: slots.into_boxed_slice(),
            free: free.map(RefCell::new),
            returns: Cell::new(0),
            base,
            len_bytes,
        };
        Self { arena: Box::leak(Box::new(arena)) }
    }

    /// A pool in ordinary zeroed memory, for tests and tools.
    #[must_use]
    pub fn on_heap(counts: [usize; CLASS_SIZES_BYTES.len()]) -> Self {
        let size = arena_size_bytes(counts) + 4096;
        let memory = vec![0u8; size].leak();
        let skip = memory.as_ptr().align_offset(4096);
        Self::new(&mut memory[skip..], counts)
    }

    /// A buffer of `len_bytes`, of the smallest class that has one free. Its bytes are whatever
    /// its last user left. `None`: no buffer now (or none of that size ever); wait and retry.
    #[must_use]
    pub fn get(&self, len_bytes: usize) -> Option<IoBuf> {
        for (class, size) in CLASS_SIZES_BYTES.into_iter().enumerate() {
            if size < len_bytes {
                continue;
            }
            if let Some(slot) = self.arena.free[class].borrow_mut().pop() {
                let refs = &self.arena.slots[slot as usize].refs;
                assert_eq!(refs.get(), 0, "a free buffer has users");
                refs.set(1);
                let len = u32::try_from(len_bytes).expect("class sizes fit u32");
                return Some(IoBuf { arena: self.arena, slot, offset: 0, len });
            }
        }
        None
    }

    /// Start address and length of the arena, for registration with a ring.
    #[must_use]
    pub fn region(&self) -> (NonNull<u8>, usize) {
        (self.arena.base, self.arena.len_bytes)
    }

    /// Bytes of the free buffers that could hold `len_bytes`.
    #[must_use]
    pub fn free_bytes(&self, len_bytes: usize) -> usize {
        let classes = CLASS_SIZES_BYTES.into_iter().zip(&self.arena.free);
        classes
            .filter(|(size, _)| *size >= len_bytes)
            .map(|(size, free)| size * free.borrow().len())
            .sum()
    }

    /// How many buffers have come back so far: who waits for one need not look again before this
    /// changes.
    #[must_use]
    pub fn returns(&self) -> u64 {
        self.arena.returns.get()
    }

    /// Free buffers of each class.
    #[must_use]
    pub fn free_counts(&self) -> [usize; CLASS_SIZES_BYTES.len()] {
        std::array::from_fn(|class| self.arena.free[class].borrow().len())
    }
}

impl std::fmt::Debug for BufPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BufPool(free {:?})", self.free_counts())
    }
}

/// A counted handle on (a part of) a buffer. Clones share the memory.
///
/// Whoever fills the bytes must hold the only handle, or know that nobody reads them meanwhile:
/// while a read is in flight its owner does not look at the buffer.
pub struct IoBuf {
    arena: &'static Arena,
    slot: u32,
    offset: u32,
    len: u32,
}

impl IoBuf {
    fn slot(&self) -> &'static Slot {
        &self.arena.slots[self.slot as usize]
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Bytes of the whole buffer that the handle keeps from the pool.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        CLASS_SIZES_BYTES[usize::from(self.slot().class)]
    }

    /// Whether the handle covers no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte in the arena, for the kernel and for copies. What was on loan is
    /// there now.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.end_loan();
        // SAFETY: offset and len lie inside the slot (constructor and `slice`).
        unsafe { self.slot().base.add(self.offset as usize) }.as_ptr()
    }

    /// The bytes. Nobody may be filling them: no read into this buffer is in flight.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the range is inside the arena, which is never freed and was initialised; the
        // caller keeps the rule of the type that no one writes meanwhile.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }

    /// The bytes, to be filled.
    ///
    /// # Panics
    /// If another handle on the same buffer exists.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        assert_eq!(self.slot().refs.get(), 1, "a shared buffer may not be changed");
        // SAFETY: as for `as_slice`; the assert shows that this handle is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len()) }
    }

    /// Sets `len` bytes from `offset` to zero although other handles may exist: for the station
    /// that is just ending a read into this buffer, whose owner does not look at it yet.
    ///
    /// # Panics
    /// If the range leaves this handle's range.
    pub fn zero_range(&self, offset: usize, len: usize) {
        assert!(offset + len <= self.len(), "range leaves the buffer");
        // SAFETY: the range is inside the slot (assert), which is inside the arena.
        let start = unsafe { self.as_ptr().add(offset) };
        // SAFETY: as above; by the rule of the type nobody reads or writes the bytes meanwhile.
        unsafe { start.write_bytes(0, len) };
    }

    /// Copies `bytes` to `offset` although other handles may exist: for the station that is just
    /// ending a read into this buffer, as [`Self::zero_range`] is.
    ///
    /// # Panics
    /// If the range leaves this handle's range.
    pub fn copy_into(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len(), "range leaves the buffer");
        // SAFETY: the range is inside the slot (assert), which is inside the arena.
        let start = unsafe { self.as_ptr().add(offset) };
        // SAFETY: as above; by the rule of the type nobody reads or writes the bytes meanwhile.
        // `copy` allows that `bytes` are of the same arena.
        unsafe { start.copy_from(bytes.as_ptr(), bytes.len()) };
    }

    /// A handle on `len` bytes from `offset` of this one, sharing the memory.
    ///
    /// # Panics
    /// If the range leaves this handle's range.
    #[must_use]
    pub fn slice(&self, offset: usize, len: usize) -> Self {
        assert!(offset + len <= self.len(), "slice leaves the buffer");
        let mut part = self.clone();
        part.offset += u32::try_from(offset).expect("checked against a u32");
        part.len = u32::try_from(len).expect("checked against a u32");
        part
    }
}

impl Clone for IoBuf {
    fn clone(&self) -> Self {
        let refs = &self.slot().refs;
        refs.set(refs.get() + 1);
        Self { ..*self }
    }
}

impl Drop for IoBuf {
    fn drop(&mut self) {
        let slot = self.slot();
        let refs = slot.refs.get() - 1;
        slot.refs.set(refs);
        if refs == 0 {
            slot.loan_bytes.set(0);
            slot.loan.set(std::ptr::null());
            self.arena.free[usize::from(slot.class)].borrow_mut().push(self.slot);
            let returns = &self.arena.returns;
            returns.set(returns.get().wrapping_add(1));
        }
    }
}

impl std::fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoBuf(slot {}, {} + {})", self.slot, self.offset, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_return_when_the_last_handle_goes() {
        let pool = BufPool::on_heap([2, 1, 1, 0]);
        let a = pool.get(4096).unwrap();
        let part = a.slice(512, 1024);
        drop(a);
        assert_eq!(pool.free_counts(), [1, 1, 1, 0]);
        assert_eq!((pool.returns(), part.buffer_bytes()), (0, 4096));
        assert_eq!(pool.free_bytes(4097), 32 * 1024 + IO_SIZE_BYTES_MAX);
        assert_eq!(part.len(), 1024);
        drop(part);
        assert_eq!(pool.free_counts(), [2, 1, 1, 0]);
        assert_eq!(pool.returns(), 1);
    }

    #[test]
    fn a_larger_class_stands_in_and_exhaustion_is_none() {
        let pool = BufPool::on_heap([1, 1, 0, 0]);
        let held = [pool.get(1).unwrap(), pool.get(1).unwrap()];
        assert!(pool.get(1).is_none());
        assert!(pool.get(IO_SIZE_BYTES_MAX).is_none());
        drop(held);
        assert_eq!(pool.free_counts(), [1, 1, 0, 0]);
    }

    #[test]
    #[should_panic(expected = "shared buffer")]
    fn shared_buffers_are_read_only() {
        let pool = BufPool::on_heap([1, 0, 0, 0]);
        let mut a = pool.get(8).unwrap();
        let _b = a.clone();
        a.as_mut_slice()[0] = 1;
    }
}

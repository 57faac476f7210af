//! Bytes on loan: what a buffer holds lies where it came from (a PDU just received, the memory of
//! a bdev) until somebody asks for it in the buffer, or the lender wants its memory back.
//!
//! A copy of a payload into its buffer, and from there to a bdev, is one copy too many where the
//! second is done at once; so is one from a bdev's memory to a buffer from which the kernel copies
//! it to a socket. Whoever reads a buffer's bytes where they lie asks for [`IoBuf::data_ptr`];
//! all others ask as ever and find the bytes in the buffer. A loan is short: each lender ends all
//! of its own ([`BufPool::end_loans`]) before it lets anything happen to its memory.

use std::cell::{Cell, RefCell};

use super::{BufPool, IoBuf};

/// Whose memory a buffer's bytes may lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lender {
    /// The driver of connections: what it has just received, until the commands in it have had
    /// their chance to take it from there.
    Receiver = 0,
    /// Bdevs in memory: what was read, until it has been sent or the core's turn ends. A write
    /// before that may change it, as if it had come before the read, which has not ended yet.
    Bdev = 1,
}

const LENDERS: usize = 2;

/// The loans of an arena.
pub(super) struct Loans {
    /// Buffers that have something on loan, or had.
    lent: [RefCell<Vec<u32>>; LENDERS],
    /// Loans so far after which the bytes were copied to the buffer all the same.
    in_vain: Cell<u64>,
}

impl Loans {
    pub(super) fn new(capacity: usize) -> Self {
        let lent = std::array::from_fn(|_| RefCell::new(Vec::with_capacity(capacity)));
        Self { lent, in_vain: Cell::new(0) }
    }
}

impl IoBuf {
    /// Allows that the bytes of this handle, all together, are on loan.
    ///
    /// # Panics
    /// If the handle does not begin where the buffer begins.
    pub fn accept_loan(&self) {
        assert_eq!(self.offset, 0, "a loan is of a buffer's start");
        self.slot().loan_bytes.set(self.len);
    }

    /// Instead of being copied here, the bytes of this handle stay at `from`. `false`: they must
    /// be copied, as nobody has allowed a loan of just these.
    ///
    /// # Safety
    /// From `from` on as many bytes as the handle has must be readable until the next
    /// [`BufPool::end_loans`] of this lender.
    pub unsafe fn borrow_from(&self, lender: Lender, from: *const u8) -> bool {
        let slot = self.slot();
        if slot.loan_bytes.get() != self.len || self.offset != 0 {
            return false;
        }
        let mut loans = self.arena.loans.lent[lender as usize].borrow_mut();
        if loans.len() == loans.capacity() {
            return false;
        }
        loans.push(self.slot);
        slot.loan.set(from);
        true
    }

    /// Whether its bytes are on loan.
    #[must_use]
    pub fn is_on_loan(&self) -> bool {
        !self.slot().loan.get().is_null()
    }

    /// Address of the first byte where it lies now, to be read at once.
    #[must_use]
    pub fn data_ptr(&self) -> *const u8 {
        let loan = self.slot().loan.get();
        if loan.is_null() { self.as_ptr() } else { loan.wrapping_add(self.offset as usize) }
    }

    /// The bytes are in the buffer from now on.
    #[inline]
    pub fn end_loan(&self) {
        if self.is_on_loan() {
            self.arena.take_home(self.slot);
        }
    }
}

impl BufPool {
    /// Whether `lender` has lent anything since it last ended its loans.
    #[must_use]
    pub fn has_lent(&self, lender: Lender) -> bool {
        !self.arena.loans.lent[lender as usize].borrow().is_empty()
    }

    /// How many loans have ended so far with a copy to the buffer: who lends for nothing may as
    /// well copy at once.
    #[must_use]
    pub fn loans_in_vain(&self) -> u64 {
        self.arena.loans.in_vain.get()
    }

    /// All that `lender` has lent lies in its buffers from now on.
    pub fn end_loans(&self, lender: Lender) {
        let mut loans = self.arena.loans.lent[lender as usize].borrow_mut();
        for slot in loans.drain(..) {
            self.arena.take_home(slot);
        }
    }
}

impl super::Arena {
    /// Ends the loan of a buffer, if it has one.
    #[cold]
    fn take_home(&self, slot: u32) {
        let slot = &self.slots[slot as usize];
        let from = slot.loan.replace(std::ptr::null());
        if from.is_null() {
            return;
        }
        self.loans.in_vain.set(self.loans.in_vain.get() + 1);
        let bytes = slot.loan_bytes.get() as usize;
        // Another core may write there meanwhile, as in any copy from the memory of a bdev.
        // SAFETY: the bytes are readable until the lender has ended its loans, which comes through
        // here (`borrow_from`); they fit the slot, as a handle on it had that length; lenders'
        // memory is none of the arena's.
        unsafe { std::ptr::copy_nonoverlapping(from, slot.base.as_ptr(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8; 8] = b"lent out";

    fn lent(pool: &BufPool, lender: Lender) -> IoBuf {
        let mut buf = pool.get(TEXT.len()).unwrap();
        buf.as_mut_slice().fill(0);
        buf.accept_loan();
        // SAFETY: the text is never gone.
        assert!(unsafe { buf.borrow_from(lender, TEXT.as_ptr()) });
        buf
    }

    #[test]
    fn bytes_on_loan_are_read_where_they_lie_and_found_where_they_are_asked_for() {
        let pool = BufPool::on_heap([2, 0, 0, 0]);
        let buf = lent(&pool, Lender::Bdev);
        let part = buf.slice(5, 3);
        assert_eq!(buf.data_ptr(), TEXT.as_ptr());
        assert_eq!(part.data_ptr(), TEXT[5..].as_ptr());
        assert!(part.is_on_loan());
        assert_eq!(part.as_slice(), b"out");
        assert!(!buf.is_on_loan(), "one handle brings all of it home");
        assert_eq!(pool.loans_in_vain(), 1);
        assert_eq!(buf.as_slice(), TEXT);
        assert_eq!(buf.data_ptr(), buf.as_ptr());
    }

    #[test]
    fn a_lender_ends_its_own_loans() {
        let pool = BufPool::on_heap([3, 0, 0, 0]);
        let of_bdev = lent(&pool, Lender::Bdev);
        let received = lent(&pool, Lender::Receiver);
        pool.end_loans(Lender::Receiver);
        assert!(of_bdev.is_on_loan() && !received.is_on_loan());
        assert_eq!(received.as_slice(), TEXT);
        pool.end_loans(Lender::Bdev);
        assert_eq!(of_bdev.as_slice(), TEXT);
    }

    #[test]
    fn a_buffer_that_was_returned_has_nothing_on_loan() {
        let pool = BufPool::on_heap([1, 0, 0, 0]);
        drop(lent(&pool, Lender::Bdev));
        let mut buf = pool.get(TEXT.len()).unwrap();
        assert!(!buf.is_on_loan());
        buf.as_mut_slice().fill(7);
        pool.end_loans(Lender::Bdev);
        assert_eq!(pool.loans_in_vain(), 0);
        assert_eq!(buf.as_slice(), [7; TEXT.len()]);
        // SAFETY: the text is never gone.
        assert!(!unsafe { buf.borrow_from(Lender::Bdev, TEXT.as_ptr()) }, "nobody allows it now");
    }

    #[test]
    fn parts_are_not_lent_and_no_more_than_there_is_a_list_for() {
        let pool = BufPool::on_heap([1, 0, 0, 0]);
        let buf = pool.get(TEXT.len()).unwrap();
        buf.accept_loan();
        // SAFETY: the text is never gone.
        let borrow = |buf: &IoBuf| unsafe { buf.borrow_from(Lender::Bdev, TEXT.as_ptr()) };
        assert!(!borrow(&buf.slice(0, 4)) && !borrow(&buf.slice(4, 4)));
        assert!(borrow(&buf));
        assert!(!borrow(&buf), "the list has room for as many as there are buffers");
        assert_eq!(buf.as_slice(), TEXT);
    }
}

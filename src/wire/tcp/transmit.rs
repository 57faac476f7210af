//! What leaves a connection, in order: headers from a ring of bytes, data straight from where it
//! lies. Many PDUs make one send.
//!
//! The queue never copies data and never looks at it; whoever queues a data segment keeps the
//! memory unchanged until the token of that segment comes back from
//! [`TransmitQueue::pop_sent`]. Where data may move, its owner is asked for its place whenever it
//! is to be sent. The queue's own bytes stay where they are while it exists.

/// Segments one send can carry: header and data of each command of a full queue. A send costs a
/// pass through the kernel and a message to the peer's core, so four where one would do are felt.
pub const SEGMENTS_MAX: usize = 256;

/// Token of segments whose departure interests nobody.
pub const NO_TOKEN: u16 = u16::MAX;

/// One piece of memory to send. Same layout as C's `struct iovec`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Segment {
    /// First byte.
    pub ptr: *const u8,
    /// Bytes.
    pub len: usize,
}

/// The segments of one send; the driver keeps it in place while the kernel reads it.
#[derive(Debug)]
pub struct TransmitVec {
    segments: [Segment; SEGMENTS_MAX],
    count: usize,
}

impl TransmitVec {
    /// No segments.
    #[must_use]
    pub const fn new() -> Self {
        let none = Segment { ptr: std::ptr::null(), len: 0 };
        Self { segments: [none; SEGMENTS_MAX], count: 0 }
    }

    /// The segments, in order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.count]
    }

    /// Adds a segment, or extends the last one when the memory goes on. `false`: full.
    fn push(&mut self, ptr: *const u8, len: usize) -> bool {
        if let Some(last) = self.segments[..self.count].last_mut()
            && last.ptr.wrapping_add(last.len) == ptr
        {
            last.len += len;
            return true;
        }
        if self.count == SEGMENTS_MAX {
            return false;
        }
        self.segments[self.count] = Segment { ptr, len };
        self.count += 1;
        true
    }
}

impl Default for TransmitVec {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug, Clone, Copy)]
struct Item {
    /// Null: its owner knows where it lies.
    ptr: *const u8,
    len: u32,
    /// Bytes of the ring that are free again once this item has left.
    ring_bytes: u32,
    token: u16,
    /// Whom to ask for the place, where `ptr` is null.
    owner: u16,
}

/// The queue. Memory is fixed at [`TransmitQueue::new`] and at one [`TransmitQueue::grow`].
#[derive(Debug)]
pub struct TransmitQueue {
    ring: Vec<u8>,
    /// The ring before it grew; items queued before may still point into it.
    first_ring: Vec<u8>,
    ring_next: usize,
    ring_used: usize,
    items: Box<[Item]>,
    item_first: usize,
    item_count: usize,
    /// Bytes of the first item that left, and of the items behind it until they are popped.
    sent_bytes: usize,
    in_flight: bool,
    /// Items that may move.
    movable: usize,
}

const EMPTY: Item =
    Item { ptr: std::ptr::null(), len: 0, ring_bytes: 0, token: NO_TOKEN, owner: NO_TOKEN };

impl TransmitQueue {
    /// A queue for `items` segments at most, with `ring_bytes` of headers. Because a header is
    /// never split at the ring's end, count one header of the largest size more than can wait.
    #[must_use]
    pub fn new(items: usize, ring_bytes: usize) -> Self {
        Self {
            ring: vec![0; ring_bytes],
            first_ring: Vec::new(),
            ring_next: 0,
            ring_used: 0,
            items: vec![EMPTY; items].into_boxed_slice(),
            item_first: 0,
            item_count: 0,
            sent_bytes: 0,
            in_flight: false,
            movable: 0,
        }
    }

    /// Makes the queue larger, once. What is queued, or even being sent, stays valid.
    ///
    /// # Panics
    /// On a second call.
    pub fn grow(&mut self, items: usize, ring_bytes: usize) {
        assert!(self.first_ring.is_empty(), "a transmit queue grows once");
        let mut grown = vec![EMPTY; items.max(self.item_count)].into_boxed_slice();
        for (at, slot) in grown.iter_mut().enumerate().take(self.item_count) {
            *slot = self.items[(self.item_first + at) % self.items.len()];
            slot.ring_bytes = 0;
        }
        self.items = grown;
        self.item_first = 0;
        self.first_ring = std::mem::replace(&mut self.ring, vec![0; ring_bytes]);
        self.ring_next = 0;
        self.ring_used = 0;
    }

    /// Whether `items` more segments with `ring_bytes` of headers (each at most `largest`) fit.
    #[must_use]
    pub fn has_room(&self, items: usize, ring_bytes: usize, largest: usize) -> bool {
        self.item_count + items <= self.items.len()
            && self.ring_used + ring_bytes + largest <= self.ring.len()
    }

    /// Queues `len` bytes of the ring, which `fill` writes (they start as zeroes).
    ///
    /// # Panics
    /// If the ring or the queue is full: its owner sized it wrongly.
    pub fn push_header(&mut self, len: usize, token: u16, fill: impl FnOnce(&mut [u8])) {
        let wraps = self.ring_next + len > self.ring.len();
        let skipped = if wraps { self.ring.len() - self.ring_next } else { 0 };
        let start = if wraps { 0 } else { self.ring_next };
        self.ring_used += skipped + len;
        assert!(self.ring_used <= self.ring.len(), "transmit ring overflows");
        assert!(start + len <= self.ring.len(), "header leaves the ring");
        self.ring_next = start + len;
        // The pointer is taken from the whole ring each time: headers that the kernel is reading
        // are other bytes of it.
        let ring = self.ring.as_mut_ptr();
        // SAFETY: start + len <= ring.len() by the assert above.
        let first = unsafe { ring.add(start) };
        // SAFETY: inside the ring, initialised by `vec![0; _]`, and no queued item covers these
        // bytes, because ring_used counts them.
        let bytes = unsafe { std::slice::from_raw_parts_mut(first, len) };
        bytes.fill(0);
        fill(bytes);
        self.push(Item {
            ptr: first,
            len: u32::try_from(len).expect("headers are small"),
            ring_bytes: u32::try_from(skipped + len).expect("rings are small"),
            token,
            owner: NO_TOKEN,
        });
    }

    /// Queues memory of the caller's, who keeps it unchanged until `token` is popped.
    pub fn push_data(&mut self, ptr: *const u8, len: u32, token: u16) {
        self.push(Item { ptr, len, ring_bytes: 0, token, owner: NO_TOKEN });
    }

    /// Queues memory that may move until it is sent: [`TransmitQueue::gather_from`] asks for its
    /// place with `owner`.
    pub fn push_movable(&mut self, owner: u16, len: u32, token: u16) {
        self.push(Item { ptr: std::ptr::null(), len, ring_bytes: 0, token, owner });
        self.movable += 1;
    }

    /// The owners of all data that may move, in order.
    pub fn movable(&self) -> impl Iterator<Item = u16> {
        let count = if self.movable == 0 { 0 } else { self.item_count };
        let items = (0..count).map(|at| self.items[(self.item_first + at) % self.items.len()]);
        items.filter(|item| item.ptr.is_null()).map(|item| item.owner)
    }

    fn push(&mut self, item: Item) {
        assert!(item.len > 0, "empty segment");
        assert!(self.item_count < self.items.len(), "transmit queue overflows");
        let at = self.item_first + self.item_count;
        let len = self.items.len();
        self.items[if at < len { at } else { at - len }] = item;
        self.item_count += 1;
    }

    /// Bytes that the queue takes beside itself.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        Self::heap_bytes_of(self.items.len(), self.ring.capacity() + self.first_ring.capacity())
    }

    /// Bytes that a queue of `items` segments takes beside itself whose rings have `ring_bytes`.
    #[must_use]
    pub const fn heap_bytes_of(items: usize, ring_bytes: usize) -> usize {
        items * size_of::<Item>() + ring_bytes
    }

    /// Nothing waits and nothing is being sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.item_count == 0
    }

    /// A send is in the kernel's hands.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Fills `out` with everything that waits, as far as it fits, and returns its bytes. Not 0
    /// means that a send is in flight until [`TransmitQueue::transmitted`].
    pub fn gather(&mut self, out: &mut TransmitVec) -> usize {
        self.gather_from(out, |owner| unreachable!("no data of {owner} may move"))
    }

    /// The same, where `place` says where the data of an owner lies now.
    pub fn gather_from(
        &mut self,
        out: &mut TransmitVec,
        place: impl Fn(u16) -> *const u8,
    ) -> usize {
        out.count = 0;
        if self.in_flight {
            return 0;
        }
        let mut skip = self.sent_bytes;
        let mut total = 0;
        for at in 0..self.item_count {
            let item = self.items[(self.item_first + at) % self.items.len()];
            let len = item.len as usize - skip;
            let ptr = if item.ptr.is_null() { place(item.owner) } else { item.ptr };
            if !out.push(ptr.wrapping_add(skip), len) {
                break;
            }
            skip = 0;
            total += len;
        }
        self.in_flight = total > 0;
        total
    }

    /// The send ended, and the kernel took `n` bytes of it (0: it failed or took nothing).
    pub fn transmitted(&mut self, n: usize) {
        assert!(self.in_flight, "no send was in flight");
        self.in_flight = false;
        self.sent_bytes += n;
    }

    /// The token of the next segment that left entirely. Call until `None` after each
    /// [`TransmitQueue::transmitted`].
    pub fn pop_sent(&mut self) -> Option<u16> {
        while self.item_count > 0 {
            let item = self.items[self.item_first];
            let len = item.len as usize;
            if self.sent_bytes < len {
                return None;
            }
            self.sent_bytes -= len;
            self.pop(item);
            if item.token != NO_TOKEN {
                return Some(item.token);
            }
        }
        assert_eq!(self.sent_bytes, 0, "more bytes were sent than were queued");
        None
    }

    fn pop(&mut self, item: Item) {
        self.ring_used -= item.ring_bytes as usize;
        self.movable -= usize::from(item.ptr.is_null());
        if self.ring_used == 0 {
            // Start again at the front: headers then lie side by side and few lines are touched.
            self.ring_next = 0;
        }
        self.item_first += 1;
        if self.item_first == self.items.len() {
            self.item_first = 0;
        }
        self.item_count -= 1;
    }

    /// Forgets everything queued.
    ///
    /// # Panics
    /// While a send is in flight.
    pub fn clear(&mut self) {
        assert!(!self.in_flight, "memory of a send in flight must stay");
        self.item_count = 0;
        self.item_first = 0;
        self.ring_next = 0;
        self.ring_used = 0;
        self.sent_bytes = 0;
        self.movable = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(vec: &TransmitVec) -> Vec<u8> {
        vec.segments()
            .iter()
            // SAFETY: the segments lie in live memory of the test.
            .flat_map(|s| unsafe { std::slice::from_raw_parts(s.ptr, s.len) }.to_vec())
            .collect()
    }

    #[test]
    fn neighbours_merge_and_tokens_come_back_in_order() {
        let mut queue = TransmitQueue::new(8, 64);
        let data = [9u8; 5];
        queue.push_header(4, NO_TOKEN, |h| h.fill(1));
        queue.push_header(4, 7, |h| h.fill(2));
        queue.push_data(data.as_ptr(), 5, 8);
        queue.push_header(2, 9, |h| h.fill(3));
        let mut out = TransmitVec::new();
        assert_eq!(queue.gather(&mut out), 15);
        assert_eq!(out.segments().len(), 3, "two headers side by side are one segment");
        assert_eq!(bytes_of(&out), [1, 1, 1, 1, 2, 2, 2, 2, 9, 9, 9, 9, 9, 3, 3]);
        assert_eq!(queue.gather(&mut TransmitVec::new()), 0, "one send at a time");
        queue.transmitted(10);
        assert_eq!(queue.pop_sent(), Some(7));
        assert_eq!(queue.pop_sent(), None);
        assert_eq!(queue.gather(&mut out), 5);
        assert_eq!(bytes_of(&out), [9, 9, 9, 3, 3]);
        queue.transmitted(5);
        assert_eq!(
            (queue.pop_sent(), queue.pop_sent(), queue.pop_sent()),
            (Some(8), Some(9), None)
        );
        assert!(queue.is_empty());
    }

    #[test]
    fn what_may_move_is_asked_for_at_each_send() {
        let mut queue = TransmitQueue::new(4, 64);
        let (there, here) = ([1u8, 2, 3, 4], [5u8, 6, 7, 8]);
        queue.push_header(1, NO_TOKEN, |h| h.fill(9));
        queue.push_movable(3, 4, 7);
        assert_eq!(queue.movable().collect::<Vec<_>>(), [3]);
        let mut out = TransmitVec::new();
        let place = |owner| {
            assert_eq!(owner, 3);
            there.as_ptr()
        };
        assert_eq!(queue.gather_from(&mut out, place), 5);
        assert_eq!(bytes_of(&out), [9, 1, 2, 3, 4]);
        queue.transmitted(3);
        assert_eq!(queue.pop_sent(), None);
        assert_eq!(queue.gather_from(&mut out, |_| here.as_ptr()), 2);
        assert_eq!(bytes_of(&out), [7, 8], "the rest, where it lies now");
        queue.transmitted(2);
        assert_eq!((queue.pop_sent(), queue.pop_sent()), (Some(7), None));
        assert_eq!(queue.movable().count(), 0);
    }

    #[test]
    fn the_ring_wraps_without_splitting_a_header() {
        let mut queue = TransmitQueue::new(4, 25);
        let mut out = TransmitVec::new();
        queue.push_header(10, 0, |h| h.fill(0));
        for round in 1..100u8 {
            queue.push_header(10, u16::from(round), |h| h.fill(round));
            assert_eq!(queue.gather(&mut out), if round == 1 { 20 } else { 10 });
            let sent = bytes_of(&out);
            assert!(sent[sent.len() - 10..].iter().all(|b| *b == round));
            queue.transmitted(sent.len());
            while queue.pop_sent().is_some() {}
        }
    }

    #[test]
    fn a_header_may_end_exactly_at_the_end_of_the_ring() {
        let mut queue = TransmitQueue::new(8, 20);
        let mut out = TransmitVec::new();
        queue.push_header(10, 1, |h| h.fill(1));
        queue.push_header(10, 2, |h| h.fill(2));
        assert_eq!(queue.gather(&mut out), 20);
        queue.transmitted(10);
        assert_eq!((queue.pop_sent(), queue.pop_sent()), (Some(1), None));
        // Nothing is skipped, and yet the next one starts at the front.
        queue.push_header(10, 3, |h| h.fill(3));
        let ring = queue.ring.as_ptr_range();
        assert_eq!(queue.gather(&mut out), 20);
        assert_eq!(out.segments()[1].ptr, ring.start);
        assert_eq!(bytes_of(&out), [[2; 10], [3; 10]].concat());
    }

    #[test]
    fn growing_keeps_what_is_in_flight() {
        let mut queue = TransmitQueue::new(2, 16);
        let mut out = TransmitVec::new();
        queue.push_header(8, 1, |h| h.fill(1));
        assert_eq!(queue.gather(&mut out), 8);
        queue.grow(8, 64);
        queue.push_header(60, 2, |h| h.fill(2));
        assert_eq!(bytes_of(&out), [1; 8]);
        queue.transmitted(8);
        assert_eq!((queue.pop_sent(), queue.pop_sent()), (Some(1), None));
        assert_eq!(queue.gather(&mut out), 60);
        assert_eq!(bytes_of(&out), [2; 60]);
        queue.transmitted(60);
        assert_eq!(queue.pop_sent(), Some(2));
    }
}

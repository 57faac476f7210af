//! The bookkeeping of a classic bitmap: counters in memory, bits in pages. No I/O here.

/// Bytes of a page of bits: the unit that is written.
pub(super) const PAGE_BYTES: usize = 4096;
/// Chunks that a page has the bits of.
const CHUNKS_PER_PAGE: usize = PAGE_BYTES * 8;
/// md's time between two looks of its daemon.
const DAEMON_NS: u64 = 5_000_000_000;

/// How far a chunk's bit has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bit {
    /// Not set.
    Clear,
    /// Set in memory.
    Changed,
    /// A write that carries it is in flight.
    InFlight,
    /// Set on the members.
    Durable,
}

/// All chunks.
#[derive(Debug)]
pub(super) struct Counters {
    chunk_blocks: u64,
    /// As md counts: 0 clean, 1 and 2 idle for two periods or one, above that writes in flight.
    counts: Box<[u16]>,
    bits: Box<[Bit]>,
    /// Pages to be written, oldest first; and the one in flight.
    changed_pages: Vec<u32>,
    writing: Option<u32>,
    /// Members differ: nothing is cleared.
    resyncing: bool,
    next_look_ns: u64,
}

impl Counters {
    pub(super) fn new(blocks: u64, chunk_blocks: u64, resync: bool, now_ns: u64) -> Self {
        let chunks = usize::try_from(blocks.div_ceil(chunk_blocks)).expect("fits memory");
        let (count, bit) = if resync { (2, Bit::Durable) } else { (0, Bit::Clear) };
        Self {
            chunk_blocks,
            counts: vec![count; chunks].into_boxed_slice(),
            bits: vec![bit; chunks].into_boxed_slice(),
            changed_pages: Vec::with_capacity(chunks.div_ceil(CHUNKS_PER_PAGE)),
            writing: None,
            resyncing: resync,
            next_look_ns: now_ns + DAEMON_NS,
        }
    }

    fn chunk(&self, lba: u64) -> usize {
        usize::try_from(lba / self.chunk_blocks).expect("below the number of chunks")
    }

    fn page_changed(&mut self, chunk: usize) {
        let page = u32::try_from(chunk / CHUNKS_PER_PAGE).expect("few pages");
        if !self.changed_pages.contains(&page) {
            self.changed_pages.push(page);
        }
    }

    /// A write begins; a chunk is large, so that it lies in one.
    pub(super) fn start_write(&mut self, lba: u64) {
        let chunk = self.chunk(lba);
        if self.counts[chunk] == 0 {
            self.bits[chunk] = Bit::Changed;
            self.page_changed(chunk);
        }
        self.counts[chunk] = self.counts[chunk].max(2) + 1;
    }

    /// A write has ended.
    pub(super) fn end_write(&mut self, lba: u64) {
        let chunk = self.chunk(lba);
        assert!(self.counts[chunk] > 2, "a write ended that had not begun");
        self.counts[chunk] -= 1;
    }

    /// Whether the members have the chunk's bit, so that data may be written.
    pub(super) fn is_durable(&self, lba: u64) -> bool {
        self.bits[self.chunk(lba)] == Bit::Durable
    }

    fn chunks_of(&self, page: u32) -> std::ops::Range<usize> {
        let first = page as usize * CHUNKS_PER_PAGE;
        first..self.bits.len().min(first + CHUNKS_PER_PAGE)
    }

    /// The next page to write, with its bits in `out`.
    pub(super) fn begin_page(&mut self, out: &mut [u8]) -> Option<u32> {
        if self.writing.is_some() || self.changed_pages.is_empty() {
            return None;
        }
        let page = self.changed_pages.remove(0);
        self.writing = Some(page);
        out.fill(0);
        let chunks = self.chunks_of(page);
        for (bit, index) in self.bits[chunks].iter_mut().zip(0usize..) {
            if *bit == Bit::Changed {
                *bit = Bit::InFlight;
            }
            if *bit != Bit::Clear {
                out[index / 8] |= 1 << (index % 8);
            }
        }
        Some(page)
    }

    /// The page is on all members.
    pub(super) fn end_page(&mut self) {
        let page = self.writing.take().expect("a page was in flight");
        let chunks = self.chunks_of(page);
        for bit in &mut self.bits[chunks] {
            if *bit == Bit::InFlight {
                *bit = Bit::Durable;
            }
        }
    }

    /// The members are alike.
    pub(super) fn resync_done(&mut self) {
        self.resyncing = false;
    }

    /// Looks for chunks that were idle for two periods, when it is time.
    pub(super) fn daemon(&mut self, now_ns: u64) {
        if now_ns < self.next_look_ns {
            return;
        }
        self.next_look_ns = now_ns + DAEMON_NS;
        if self.resyncing {
            return;
        }
        for chunk in 0..self.counts.len() {
            match self.counts[chunk] {
                2 => self.counts[chunk] = 1,
                1 if self.bits[chunk] == Bit::Durable => {
                    self.counts[chunk] = 0;
                    self.bits[chunk] = Bit::Clear;
                    self.page_changed(chunk);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_write_waits_and_the_next_ones_do_not() {
        let mut counters = Counters::new(1000, 100, false, 0);
        let mut page = [0; PAGE_BYTES];
        counters.start_write(250);
        assert!(!counters.is_durable(250));
        assert_eq!(counters.begin_page(&mut page), Some(0));
        assert_eq!(page[0], 0b100);
        counters.start_write(299);
        counters.start_write(300);
        counters.end_page();
        assert!(counters.is_durable(299), "the same chunk");
        assert!(!counters.is_durable(300), "its bit came too late for that write");
        assert_eq!(counters.begin_page(&mut page), Some(0));
        assert_eq!(page[0], 0b1100);
        counters.end_page();
        assert!(counters.is_durable(300));
        assert_eq!(counters.begin_page(&mut page), None);
    }

    #[test]
    fn a_chunk_is_cleared_after_two_idle_periods() {
        let mut counters = Counters::new(1000, 100, false, 0);
        let mut page = [0; PAGE_BYTES];
        counters.start_write(0);
        counters.begin_page(&mut page);
        counters.end_page();
        counters.daemon(DAEMON_NS);
        counters.daemon(2 * DAEMON_NS);
        counters.end_write(0);
        counters.daemon(3 * DAEMON_NS);
        assert!(counters.is_durable(0), "one period");
        counters.start_write(5);
        counters.end_write(5);
        counters.daemon(4 * DAEMON_NS);
        assert!(counters.is_durable(0), "it was used in between");
        counters.daemon(5 * DAEMON_NS - 1);
        assert!(counters.is_durable(0), "not yet time");
        counters.daemon(5 * DAEMON_NS);
        assert!(!counters.is_durable(0));
        assert_eq!(counters.begin_page(&mut page), Some(0));
        assert_eq!(page[0], 0);
    }

    #[test]
    fn nothing_is_cleared_before_the_members_are_alike() {
        let mut counters = Counters::new(1000, 100, true, 0);
        (1..4).for_each(|period| counters.daemon(period * DAEMON_NS));
        assert!(counters.is_durable(900));
        counters.resync_done();
        (4..6).for_each(|period| counters.daemon(period * DAEMON_NS));
        assert!(!counters.is_durable(900));
    }
}

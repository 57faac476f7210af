//! A bdev in memory.
//!
//! All cores copy in and out of the same memory. As on any disk, requests in flight at once that
//! overlap have no order between them, and a read that overlaps a write may return a mixture;
//! hosts know this. Only raw copies touch the memory, never a reference.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use uuid::Uuid;

use super::channel::OPS_PER_CHANNEL;
use super::device::{DeviceError, check_shape};
use super::{BdevId, BdevIo, Geometry, IoOp, IoQueue, IoStatus};
use crate::limits::PAGE_SIZE_BYTES;
use crate::reactor::CoreIo;
use crate::reactor::buf::{IoBuf, Lender};
use crate::reactor::dma::{Backing, Mapping};
use crate::reactor::ring::KIND_BDEV;
use crate::reactor::timer::TimerTag;

/// Ranges from this size on are zeroed by giving their pages back, smaller ones by writing, as all
/// are in hugepages: those may be gone when they are wanted again.
const DISCARD_BYTES_MIN: usize = 64 * 1024;

/// What is zeroed in one turn of the core at most: a host may deallocate gigabytes with one
/// command, for which the core's other hosts do not wait.
pub(super) const ZERO_PIECE_BYTES: u32 = 512 * 1024;

/// Bdevs from this size on are written around the caches: what is written there is seldom read
/// soon, and a cache line that is written as a whole need not be fetched first. Random writes of
/// 4 KiB, 32 in flight, p50 around the caches and through them (`mdof-perf --bdev malloc:SIZE`, a
/// machine with 32 MiB of cache): 4 MiB 10.3 and 6.9 us, 8 MiB 11.6 and 10.3, 16 MiB 13.4 and 13.3,
/// 32 MiB 13.8 and 17.5, 128 MiB 14.9 and 20.4, 1 GiB alike (its pages are not at hand).
pub(super) const AROUND_CACHES_BYTES_MIN: usize = 32 << 20;

/// The shared part.
#[derive(Debug)]
pub struct MallocDevice {
    geometry: Geometry,
    memory: Mapping,
    backing: Backing,
}

impl MallocDevice {
    /// A zeroed bdev. Its memory is in reserved hugepages, if enough of them are free, or else is
    /// taken from the system when it is first written.
    pub fn new(
        name: &str,
        uuid: Uuid,
        block_size_bytes: u32,
        blocks: u64,
    ) -> Result<Arc<Self>, DeviceError> {
        let size_bytes = check_shape(name, block_size_bytes, blocks)?;
        let no_memory = |source| DeviceError::Memory { name: name.to_owned(), size_bytes, source };
        let len =
            usize::try_from(size_bytes).map_err(|error| no_memory(io::Error::other(error)))?;
        let (memory, backing) = Mapping::in_hugepages_if_free(len).map_err(no_memory)?;
        let geometry = Geometry {
            name: name.to_owned(),
            product_name: "Malloc disk",
            uuid,
            block_size_bytes,
            blocks,
            optimal_io_blocks: 0,
            io_boundary_blocks: 0,
            write_unit_blocks: 0,
            unmap_unit_blocks: 0,
            // A power cut loses everything, flushed or not: nothing a flush could change.
            volatile_write_cache: false,
            unmap: true,
            cheap_zeroes: false,
        };
        Ok(Arc::new(Self { geometry, memory, backing }))
    }

    /// What its memory lies in.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Treats its memory as if it lay in hugepages.
    #[cfg(test)]
    pub(super) fn pretend_hugepages(&mut self) {
        self.backing = Backing::Hugepages;
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(super) fn is_around_caches(&self) -> bool {
        self.memory.len_bytes() >= AROUND_CACHES_BYTES_MIN
    }

    /// Address and length of a request's range, which must have been checked.
    fn range(&self, io: &BdevIo) -> (*mut u8, usize) {
        let block = u64::from(self.geometry.block_size_bytes);
        let start = usize::try_from(io.lba * block).expect("checked against the size");
        let len = usize::try_from(u64::from(io.blocks) * block).expect("checked against the size");
        assert!(start + len <= self.memory.len_bytes());
        (self.memory.as_ptr().wrapping_add(start), len)
    }
}

/// One core's channel. Requests end at once, but for what takes long to zero.
#[derive(Debug)]
pub struct MallocChannel {
    device: Arc<MallocDevice>,
    id: BdevId,
    /// What is left to be zeroed of long ranges, a piece of the first in each turn. While there is
    /// any, a timer is armed.
    zeroing: VecDeque<BdevIo>,
}

impl MallocChannel {
    pub(super) fn new(device: Arc<MallocDevice>, id: BdevId) -> Self {
        Self { device, id, zeroing: VecDeque::with_capacity(OPS_PER_CHANNEL) }
    }

    pub(super) fn submit(&mut self, io: BdevIo, core: &mut CoreIo, out: &mut IoQueue) {
        let status = match self.device.geometry.check(&io) {
            Ok(()) if self.takes_long(&io) => {
                self.zeroing.push_back(io);
                if self.zeroing.len() == 1 {
                    self.go_on_next_turn(core);
                }
                return;
            }
            Ok(()) => self.execute(&io),
            Err(status) => status,
        };
        io.complete(status, out);
    }

    fn takes_long(&self, io: &BdevIo) -> bool {
        matches!(io.op, IoOp::WriteZeroes | IoOp::Unmap) && io.blocks > self.blocks_a_piece()
    }

    fn blocks_a_piece(&self) -> u32 {
        ZERO_PIECE_BYTES / self.device.geometry.block_size_bytes
    }

    /// The clock stands still within a turn.
    fn go_on_next_turn(&self, core: &mut CoreIo) {
        let tag = TimerTag { kind: KIND_BDEV, object: self.id.0, op: 0 };
        core.timers.arm_us(core.now_us() + 1, tag);
    }

    /// Zeroes a piece. The timer of an earlier channel makes one come sooner, or comes in vain.
    pub(super) fn timer(&mut self, core: &mut CoreIo, out: &mut IoQueue) {
        let blocks = self.blocks_a_piece();
        let Some(mut io) = self.zeroing.pop_front() else { return };
        let left = io.blocks.saturating_sub(blocks);
        io.blocks -= left;
        let status = self.execute(&io);
        if left == 0 {
            io.complete(status, out);
        } else {
            io.lba += u64::from(io.blocks);
            io.blocks = left;
            self.zeroing.push_front(io);
        }
        if !self.zeroing.is_empty() {
            self.go_on_next_turn(core);
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.zeroing.len()
    }

    fn execute(&self, io: &BdevIo) -> IoStatus {
        if io.op == IoOp::Flush || io.blocks == 0 {
            return IoStatus::Ok;
        }
        let (start, len) = self.device.range(io);
        match (io.op, &io.buf) {
            (IoOp::Read, Some(buf)) => read(start, buf),
            (IoOp::Write, Some(buf)) if self.device.is_around_caches() => {
                store(buf.data_ptr(), start, len);
            }
            (IoOp::Write, Some(buf)) => copy(buf.data_ptr(), start, len),
            (IoOp::Compare, Some(buf)) => return compare(start, buf),
            (IoOp::WriteZeroes | IoOp::Unmap, _) => match self.device.backing {
                Backing::Pages => zero(start, len),
                Backing::Hugepages => write_zeroes(start, len),
            },
            _ => return IoStatus::Unsupported,
        }
        IoStatus::Ok
    }
}

/// Lends the bytes to those who may read them here, as they are sent, and copies them for others.
fn read(start: *const u8, buf: &IoBuf) {
    // SAFETY: the range was checked. The mapping lives as long as a core has a channel, and a core
    // ends all loans before it closes one.
    if !unsafe { buf.borrow_from(Lender::Bdev, start) } {
        copy(start, buf.as_ptr(), buf.len());
    }
}

fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: both ranges were checked, and an arena and a mapping of the device never overlap.
    // Other cores may copy the same bytes meanwhile: see the module's text.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
}

/// Copies to the memory of a device, around the caches.
#[cfg(target_arch = "x86_64")]
fn store(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    const LINE_BYTES: usize = 64;
    if to.align_offset(LINE_BYTES) != 0 || !len.is_multiple_of(LINE_BYTES) {
        return copy(from, to, len);
    }
    for at in (0..len).step_by(LINE_BYTES) {
        let from = from.wrapping_add(at).cast::<__m128i>();
        let to = to.wrapping_add(at).cast::<__m128i>();
        let line: [__m128i; 4] = std::array::from_fn(|part| {
            // SAFETY: as in `copy`: a whole line is left. Every CPU of this architecture has these
            // instructions.
            unsafe { _mm_loadu_si128(from.wrapping_add(part)) }
        });
        for (part, value) in line.into_iter().enumerate() {
            // SAFETY: as above; the place is aligned.
            unsafe { _mm_stream_si128(to.wrapping_add(part), value) };
        }
    }
    // SAFETY: orders the stores above before whatever tells another core of them.
    unsafe { _mm_sfence() };
}

#[cfg(not(target_arch = "x86_64"))]
fn store(from: *const u8, to: *mut u8, len: usize) {
    copy(from, to, len);
}

fn compare(stored: *const u8, buf: &IoBuf) -> IoStatus {
    // SAFETY: both ranges are readable and `buf.len()` long, as checked.
    let order = unsafe { libc::memcmp(stored.cast(), buf.data_ptr().cast(), buf.len()) };
    if order == 0 { IoStatus::Ok } else { IoStatus::CompareMismatch }
}

/// Zeroes a range of ordinary pages: whole pages of long ranges go back to the system, edges are
/// written.
fn zero(start: *mut u8, len: usize) {
    let head = start.align_offset(PAGE_SIZE_BYTES).min(len);
    let pages = (len - head) / PAGE_SIZE_BYTES * PAGE_SIZE_BYTES;
    if pages < DISCARD_BYTES_MIN {
        write_zeroes(start, len);
        return;
    }
    let middle = start.wrapping_add(head);
    // SAFETY: whole pages inside the mapping of the device; private anonymous pages that were
    // given back read as zeroes.
    let given =
        unsafe { rustix::mm::madvise(middle.cast(), pages, rustix::mm::Advice::LinuxDontNeed) };
    if given.is_err() {
        write_zeroes(start, len);
        return;
    }
    write_zeroes(start, head);
    write_zeroes(middle.wrapping_add(pages), len - head - pages);
}

fn write_zeroes(start: *mut u8, len: usize) {
    // SAFETY: the range lies inside the mapping of the device.
    unsafe { start.write_bytes(0, len) };
}

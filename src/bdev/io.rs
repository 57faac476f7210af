//! One block request, and the linear value that ends it.

use std::collections::VecDeque;
use std::fmt;

use crate::reactor::buf::IoBuf;

/// Index of a bdev in every core's channel table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BdevId(pub u16);

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IoOp {
    /// Fills `buf` from `lba..lba + blocks`.
    Read,
    /// Stores `buf` at `lba..lba + blocks`.
    Write,
    /// Makes every write completed before this request durable. No range, no buffer.
    Flush,
    /// Makes the range read as zeroes. Space stays allocated where the store can zero it in place;
    /// where it has holes only, as tmpfs, it is freed. No buffer.
    WriteZeroes,
    /// Frees the range, which then reads as zeroes. No buffer.
    Unmap,
    /// Succeeds if the range equals `buf`, else [`IoStatus::CompareMismatch`].
    Compare,
}

impl IoOp {
    /// Whether the operation changes what later reads return.
    #[must_use]
    pub fn modifies(self) -> bool {
        matches!(self, Self::Write | Self::WriteZeroes | Self::Unmap)
    }
}

/// How a request ended. Plain values: the data path formats no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum IoStatus {
    /// Done; with FUA, durable.
    Ok,
    /// The range could not be read or written (medium or transport of the backing store).
    MediaError,
    /// The range lies outside the bdev.
    OutOfRange,
    /// The bdev does not support this operation.
    Unsupported,
    /// The backing store has no room left.
    NoSpace,
    /// The compared data differ.
    CompareMismatch,
    /// Aborted before it had an effect that anyone was promised.
    Aborted,
    /// The bdev is gone, or the array has too few members left.
    Removed,
}

impl IoStatus {
    /// Whether the request succeeded.
    #[must_use]
    pub fn is_ok(self) -> bool {
        self == Self::Ok
    }
}

/// Which station of a core a completion belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Station {
    /// A command of an NVMe/TCP connection: `object` = connection, `op` = request.
    Target,
    /// A member request of an array's channel on this core: `object` = the array's bdev.
    RaidChannel,
    /// A metadata or resync request of an array's owner: `object` = the array's bdev.
    RaidOwner,
    /// The request below a filter bdev (error, delay): `object` = the filter's bdev.
    Filter,
    /// A request of the control plane: `op` = its ticket.
    Control,
    /// A request of a program that hosts the engine, such as a benchmark.
    App,
}

/// Address of whoever waits for a request: opaque to the bdev that executes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The station on this core.
    pub station: Station,
    /// Part of the operation, e.g. the member slot; the station's own business.
    pub part: u8,
    /// Object of the station (connection, bdev).
    pub object: u16,
    /// Operation within the object: index and generation, the station's own business.
    pub op: u32,
}

/// The obligation to end a request exactly once. Dropping it is a bug of ours and panics: a lost
/// request would hang a host for good.
#[must_use = "a request must be completed"]
pub struct Completion {
    tag: Tag,
}

impl Completion {
    /// A new obligation towards `tag`.
    pub fn new(tag: Tag) -> Self {
        Self { tag }
    }

    /// Whom this completes.
    #[must_use]
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// Ends the request: `queue` delivers `status` to the one who waits.
    pub fn complete(self, status: IoStatus, queue: &mut IoQueue) {
        let tag = self.tag;
        std::mem::forget(self);
        queue.done.push_back((tag, status));
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Completion({:?})", self.tag)
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        assert!(
            std::thread::panicking(),
            "a request was lost: its completion for {:?} was dropped",
            self.tag
        );
    }
}

/// One request to one bdev. It retains its buffer until it is completed.
#[derive(Debug)]
pub struct BdevIo {
    /// The operation.
    pub op: IoOp,
    /// The result must be durable before completion (Write, WriteZeroes, Unmap).
    pub fua: bool,
    /// First logical block.
    pub lba: u64,
    /// Number of logical blocks.
    pub blocks: u32,
    /// Data, `blocks * block_size_bytes` long, for Read, Write and Compare.
    pub buf: Option<IoBuf>,
    /// Who waits.
    pub completion: Completion,
}

impl BdevIo {
    /// Ends the request and lets go of its buffer.
    pub fn complete(self, status: IoStatus, queue: &mut IoQueue) {
        self.completion.complete(status, queue);
    }
}

/// A core's work list between stations: requests to be started and requests that have ended.
/// First in, first out; capacity is reserved at start and only grows if a limit was wrong.
#[derive(Debug, Default)]
pub struct IoQueue {
    submit: VecDeque<(BdevId, BdevIo)>,
    done: VecDeque<(Tag, IoStatus)>,
}

impl IoQueue {
    /// An empty queue with room for `capacity` requests each way.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { submit: VecDeque::with_capacity(capacity), done: VecDeque::with_capacity(capacity) }
    }

    /// Asks `bdev` to execute `io`.
    pub fn submit(&mut self, bdev: BdevId, io: BdevIo) {
        self.submit.push_back((bdev, io));
    }

    /// The next request to start.
    ///
    /// Always inlined: out of line the request goes by way of the stack, from where it is loaded
    /// before it has arrived, behind the stores around the caches by which a bdev in memory has
    /// just written. That took a mirror of two of these a sixth of its writes.
    #[inline(always)]
    pub fn next_submit(&mut self) -> Option<(BdevId, BdevIo)> {
        let next = self.submit.pop_front();
        if next.is_none() {
            // It starts at its front again: always the same few cache lines.
            self.submit.clear();
        }
        next
    }

    /// The next request that has ended. Inlined as [`Self::next_submit`] is.
    #[inline(always)]
    pub fn next_done(&mut self) -> Option<(Tag, IoStatus)> {
        let next = self.done.pop_front();
        if next.is_none() {
            self.done.clear();
        }
        next
    }

    /// Nothing is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.submit.is_empty() && self.done.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag { station: Station::App, part: 0, object: 1, op: 2 };

    #[test]
    fn completion_is_delivered_once() {
        let mut queue = IoQueue::with_capacity(1);
        Completion::new(TAG).complete(IoStatus::Ok, &mut queue);
        assert_eq!(queue.next_done(), Some((TAG, IoStatus::Ok)));
        assert!(queue.is_empty());
    }

    #[test]
    #[should_panic(expected = "a request was lost")]
    fn lost_completion_panics() {
        drop(Completion::new(TAG));
    }
}

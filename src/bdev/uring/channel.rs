//! One core's requests to the backing store.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use super::open::UringDevice;
use crate::bdev::channel::OPS_PER_CHANNEL;
use crate::bdev::{BdevId, BdevIo, IoOp, IoQueue, IoStatus};
use crate::limits::IO_SIZE_BYTES_MAX;
use crate::reactor::CoreIo;
use crate::reactor::dma::{self, Mapping, ZEROES_BYTES};
use crate::reactor::pool::{Handle, Pool};
use crate::reactor::ring::{KIND_BDEV, UserData};

/// Buffers a channel has for compares and for data at addresses that direct I/O cannot take.
const SCRATCH_BUFFERS: usize = 4;

/// Times an entry is tried again on EAGAIN or EINTR before it counts as failed.
const RETRIES_MAX: u8 = 100;

/// At most one line about failed requests a second and channel.
const LOG_EVERY_MS: u64 = 1000;

/// What the kernel is doing for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Reading or writing the data, perhaps the rest of a short transfer.
    Transfer,
    /// Zeroing the range inside the store, which keeps it allocated.
    ZeroRange,
    /// Freeing the range: it is a hole then, and holes read as zeroes.
    PunchHole,
    /// Writing zeroes piece by piece, as the store can do neither.
    ZeroFill,
    /// Making things durable: a flush, or FUA of a zeroed range.
    Sync,
}

#[derive(Debug)]
struct Op {
    io: BdevIo,
    phase: Phase,
    /// Bytes of the current phase that are done.
    done_bytes: u64,
    retries: u8,
    /// Scratch buffer in place of the request's own.
    scratch: Option<u8>,
}

impl Op {
    fn set_phase(&mut self, phase: Phase) {
        assert!(
            matches!(
                (self.phase, phase),
                (Phase::ZeroRange, Phase::PunchHole)
                    | (Phase::ZeroRange | Phase::PunchHole, Phase::ZeroFill | Phase::Sync)
                    | (Phase::ZeroFill, Phase::Sync)
            ),
            "no way from {:?} to {phase:?}",
            self.phase
        );
        self.phase = phase;
        self.done_bytes = 0;
        self.retries = 0;
    }
}

/// What follows a completion.
enum Next {
    /// The kernel has more to do.
    Push,
    /// The request has ended.
    End(IoStatus),
}

/// One core's channel.
#[derive(Debug)]
pub struct UringChannel {
    device: Arc<UringDevice>,
    id: BdevId,
    ops: Pool<Op>,
    scratch: Mapping,
    free_scratch: Vec<u8>,
    /// Wait state: all ops are in use.
    waiting_for_op: VecDeque<BdevIo>,
    /// Wait state: all scratch buffers are in use.
    waiting_for_scratch: VecDeque<BdevIo>,
    /// The store said that it cannot zero ranges and keep them allocated.
    no_zero_range: bool,
    /// The store said that it cannot free ranges.
    no_punch_hole: bool,
    log_after_ms: u64,
    unlogged: u64,
}

impl UringChannel {
    pub(in crate::bdev) fn new(device: Arc<UringDevice>, id: BdevId) -> io::Result<Box<Self>> {
        dma::zeroes()?;
        let count = u8::try_from(SCRATCH_BUFFERS).expect("few scratch buffers");
        Ok(Box::new(Self {
            device,
            id,
            ops: Pool::new(OPS_PER_CHANNEL),
            scratch: Mapping::new(SCRATCH_BUFFERS * IO_SIZE_BYTES_MAX)?,
            free_scratch: (0..count).rev().collect(),
            waiting_for_op: VecDeque::with_capacity(OPS_PER_CHANNEL),
            waiting_for_scratch: VecDeque::with_capacity(OPS_PER_CHANNEL),
            no_zero_range: false,
            no_punch_hole: false,
            log_after_ms: 0,
            unlogged: 0,
        }))
    }

    #[cfg(test)]
    pub(in crate::bdev) fn block_size_bytes(&self) -> u32 {
        self.device.geometry().block_size_bytes
    }

    /// The store has another size.
    pub(in crate::bdev) fn resize(&mut self, device: Arc<UringDevice>) {
        assert_eq!(device.raw_fd(), self.device.raw_fd(), "requests under way name the descriptor");
        self.device = device;
    }

    pub(in crate::bdev) fn in_flight(&self) -> usize {
        self.ops.in_use() + self.waiting_for_op.len() + self.waiting_for_scratch.len()
    }

    pub(in crate::bdev) fn submit(&mut self, io: BdevIo, core: &mut CoreIo, out: &mut IoQueue) {
        if let Err(status) = self.device.geometry().check(&io) {
            io.complete(status, out);
        } else if io.blocks == 0 && io.op != IoOp::Flush {
            io.complete(IoStatus::Ok, out);
        } else if self.ops.is_full() {
            self.waiting_for_op.push_back(io);
        } else {
            self.begin(io, core);
        }
    }

    /// Starts a request; an op is free.
    fn begin(&mut self, io: BdevIo, core: &mut CoreIo) {
        let mut scratch = None;
        if self.needs_scratch(&io) {
            scratch = self.free_scratch.pop();
            let Some(index) = scratch else {
                self.waiting_for_scratch.push_back(io);
                return;
            };
            if let (IoOp::Write, Some(buf)) = (io.op, &io.buf) {
                // SAFETY: a scratch buffer holds the largest request, and this one is free.
                unsafe { copy(buf.as_ptr(), self.scratch_ptr(index), buf.len()) };
            }
        }
        let phase = self.first_phase(io.op);
        let op = Op { io, phase, done_bytes: 0, retries: 0, scratch };
        let Ok(handle) = self.ops.acquire(op) else { panic!("an op was free") };
        self.push(handle, core);
    }

    /// What the kernel is asked to do first, as far as the store can do it.
    fn first_phase(&self, op: IoOp) -> Phase {
        match op {
            IoOp::Read | IoOp::Write | IoOp::Compare => Phase::Transfer,
            IoOp::Flush => Phase::Sync,
            IoOp::WriteZeroes if !self.no_zero_range => Phase::ZeroRange,
            // A store that cannot zero a range in place, such as tmpfs, may have holes all the
            // same: to write as many zeroes would cost hundreds of times as much.
            IoOp::WriteZeroes | IoOp::Unmap if !self.no_punch_hole => Phase::PunchHole,
            IoOp::WriteZeroes | IoOp::Unmap => Phase::ZeroFill,
        }
    }

    /// Compares read beside the request's data. Direct I/O wants aligned memory.
    fn needs_scratch(&self, io: &BdevIo) -> bool {
        let align = self.device.memory_align_bytes();
        io.op == IoOp::Compare
            || io.buf.as_ref().is_some_and(|buf| !buf.as_ptr().addr().is_multiple_of(align))
    }

    fn scratch_ptr(&self, index: u8) -> *mut u8 {
        assert!(usize::from(index) < SCRATCH_BUFFERS);
        self.scratch.as_ptr().wrapping_add(usize::from(index) * IO_SIZE_BYTES_MAX)
    }

    /// Offset and length in bytes of a request.
    fn range(&self, io: &BdevIo) -> (u64, u64) {
        let block = u64::from(self.device.geometry().block_size_bytes);
        (io.lba * block, u64::from(io.blocks) * block)
    }

    fn push(&self, handle: Handle, core: &mut CoreIo) {
        let op = self.ops.get(handle).expect("the caller holds the op");
        let fd = types::Fd(self.device.raw_fd());
        let (start, len) = self.range(&op.io);
        let entry = match op.phase {
            Phase::Transfer => self.transfer(op, core),
            Phase::ZeroRange | Phase::PunchHole => {
                let how = match op.phase {
                    Phase::PunchHole => libc::FALLOC_FL_PUNCH_HOLE,
                    _ => libc::FALLOC_FL_ZERO_RANGE,
                };
                let mode = how | libc::FALLOC_FL_KEEP_SIZE;
                opcode::Fallocate::new(fd, len).offset(start).mode(mode).build()
            }
            Phase::ZeroFill => {
                let piece = (len - op.done_bytes).min(ZEROES_BYTES as u64);
                let piece = u32::try_from(piece).expect("a piece is small");
                let zeroes = dma::zeroes().expect("mapped when the channel was opened");
                opcode::Write::new(fd, zeroes.as_ptr(), piece).offset(start + op.done_bytes).build()
            }
            Phase::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        };
        let data = UserData { kind: KIND_BDEV, extra: 0, object: self.id.0, op: handle.0 };
        // SAFETY: the op retains the request's buffer until the completion; scratch, zeroes and
        // descriptor live at least as long as the channel, which is not dropped with ops in use
        // (their completions would panic).
        unsafe { core.ring.push(entry, data) };
    }

    /// The entry for (the rest of) a transfer.
    fn transfer(&self, op: &Op, core: &CoreIo) -> squeue::Entry {
        let fd = types::Fd(self.device.raw_fd());
        let (start, len) = self.range(&op.io);
        let base = match (op.scratch, &op.io.buf) {
            (Some(index), _) => self.scratch_ptr(index),
            (None, Some(buf)) => buf.as_ptr(),
            (None, None) => panic!("a transfer has a buffer: checked when submitted"),
        };
        let done = usize::try_from(op.done_bytes).expect("a buffer fits memory");
        let ptr = base.wrapping_add(done);
        let rest = u32::try_from(len - op.done_bytes).expect("a buffer is small");
        let offset = start + op.done_bytes;
        let fixed = core.ring.fixed_index(ptr, rest as usize);
        if op.io.op != IoOp::Write {
            return match fixed {
                Some(index) => opcode::ReadFixed::new(fd, ptr, rest, index).offset(offset).build(),
                None => opcode::Read::new(fd, ptr, rest).offset(offset).build(),
            };
        }
        let flags = if op.io.fua { libc::RWF_DSYNC } else { 0 };
        match fixed {
            Some(index) => {
                let write = opcode::WriteFixed::new(fd, ptr, rest, index);
                write.offset(offset).rw_flags(flags).build()
            }
            None => opcode::Write::new(fd, ptr, rest).offset(offset).rw_flags(flags).build(),
        }
    }

    pub(in crate::bdev) fn ring_done(
        &mut self,
        op: u32,
        res: i32,
        core: &mut CoreIo,
        out: &mut IoQueue,
    ) {
        let handle = Handle(op);
        let next = match u32::try_from(res) {
            Ok(bytes) => self.advance(handle, bytes, core.now_ms()),
            Err(_) => self.failed(handle, -res, core.now_ms()),
        };
        match next {
            Next::Push => self.push(handle, core),
            Next::End(status) => self.end(handle, status, core, out),
        }
    }

    /// The kernel has done something, perhaps `bytes` of a transfer.
    fn advance(&mut self, handle: Handle, bytes: u32, now_ms: u64) -> Next {
        let block = u64::from(self.device.geometry().block_size_bytes);
        let op = self.ops.get(handle).expect("the kernel completes each entry once");
        let (_, len) = self.range(&op.io);
        if matches!(op.phase, Phase::Transfer | Phase::ZeroFill) {
            // A part of a block counts as nothing: direct I/O could not continue inside it.
            let whole = u64::from(bytes) / block * block;
            let done_bytes = op.done_bytes + whole;
            assert!(done_bytes <= len, "the kernel transferred more than was asked for");
            if whole == 0 {
                self.log(handle, "transferred nothing (was it truncated?)", now_ms);
                return Next::End(IoStatus::MediaError);
            }
            if done_bytes < len {
                let op = self.ops.get_mut(handle).expect("found above");
                op.done_bytes = done_bytes;
                op.retries = 0;
                return Next::Push;
            }
        }
        let op = self.ops.get_mut(handle).expect("found above");
        match op.phase {
            Phase::Transfer => Next::End(self.transferred(handle)),
            Phase::ZeroRange | Phase::PunchHole | Phase::ZeroFill if op.io.fua => {
                op.set_phase(Phase::Sync);
                Next::Push
            }
            Phase::ZeroRange | Phase::PunchHole | Phase::ZeroFill | Phase::Sync => {
                Next::End(IoStatus::Ok)
            }
        }
    }

    /// All data are where the kernel was told to put them.
    fn transferred(&self, handle: Handle) -> IoStatus {
        let op = self.ops.get(handle).expect("the caller holds the op");
        let (Some(index), Some(buf)) = (op.scratch, &op.io.buf) else { return IoStatus::Ok };
        let scratch = self.scratch_ptr(index);
        match op.io.op {
            // SAFETY: the scratch buffer is this op's and filled; the request's is to be filled.
            IoOp::Read => unsafe { copy(scratch, buf.as_ptr(), buf.len()) },
            IoOp::Compare => {
                // SAFETY: the scratch buffer is this op's and filled that far.
                let stored = unsafe { std::slice::from_raw_parts(scratch, buf.len()) };
                if stored != buf.as_slice() {
                    return IoStatus::CompareMismatch;
                }
            }
            _ => {}
        }
        IoStatus::Ok
    }

    /// The kernel refused, or failed.
    fn failed(&mut self, handle: Handle, errno: i32, now_ms: u64) -> Next {
        let op = self.ops.get_mut(handle).expect("the kernel completes each entry once");
        if matches!(errno, libc::EAGAIN | libc::EINTR) && op.retries < RETRIES_MAX {
            op.retries += 1;
            return Next::Push;
        }
        let (phase, kind) = (op.phase, op.io.op);
        if matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS)
            && matches!(phase, Phase::ZeroRange | Phase::PunchHole)
        {
            match phase {
                Phase::ZeroRange => self.no_zero_range = true,
                _ => self.no_punch_hole = true,
            }
            let next = self.first_phase(kind);
            self.ops.get_mut(handle).expect("found above").set_phase(next);
            return Next::Push;
        }
        self.log(handle, &io::Error::from_raw_os_error(errno).to_string(), now_ms);
        Next::End(status_of_errno(errno))
    }

    /// One line about a failed request, but not a flood.
    fn log(&mut self, handle: Handle, why: &str, now_ms: u64) {
        if now_ms < self.log_after_ms {
            self.unlogged += 1;
            return;
        }
        let op = self.ops.get(handle).expect("the caller holds the op");
        let (start, len) = self.range(&op.io);
        tracing::error!(
            "bdev {}: {:?} of {} at byte {start}, {len} bytes, failed: {why}; the request ends \
             with an error ({} more since the last such line)",
            self.device.geometry().name,
            op.io.op,
            self.device.path().display(),
            self.unlogged
        );
        self.unlogged = 0;
        self.log_after_ms = now_ms + LOG_EVERY_MS;
    }

    fn end(&mut self, handle: Handle, status: IoStatus, core: &mut CoreIo, out: &mut IoQueue) {
        let op = self.ops.release(handle).expect("the caller holds the op");
        let freed_scratch = op.scratch.is_some();
        self.free_scratch.extend(op.scratch);
        op.io.complete(status, out);
        // At least one op is free, and `begin` takes one at most.
        if freed_scratch && let Some(io) = self.waiting_for_scratch.pop_front() {
            self.begin(io, core);
        }
        while !self.ops.is_full() {
            let Some(io) = self.waiting_for_op.pop_front() else { break };
            self.begin(io, core);
        }
    }
}

/// # Safety
/// Both ranges of `len` bytes must be valid, must not overlap, and `to` must be free to write.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    assert!(len <= IO_SIZE_BYTES_MAX, "a request is larger than the largest buffer");
    // SAFETY: the caller's.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
}

/// What an errno of the backing store means to the one who waits.
fn status_of_errno(errno: i32) -> IoStatus {
    match errno {
        libc::ENOSPC | libc::EDQUOT => IoStatus::NoSpace,
        libc::ENODEV | libc::ENXIO => IoStatus::Removed,
        _ => IoStatus::MediaError,
    }
}

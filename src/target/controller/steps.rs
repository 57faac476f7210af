//! Commands that take several requests to a bdev: Compare, fused Compare and Write, Verify, Copy.
//!
//! Each has a scratch buffer that its bdev fills. [`Steps::next`] is told how the last request
//! ended and names the next one, or how the command ends.

use crate::bdev::{IoOp, IoStatus};
use crate::limits::IO_SIZE_BYTES_MAX;
use crate::target::controller::io::{copy_range_at, status_of};
use crate::wire::nvme::Status;

/// What the command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Compares the range with the host's data.
    Compare,
    /// Compares, then writes the second command's data if they are equal.
    CompareAndWrite {
        /// The write must be durable before completion.
        fua: bool,
    },
    /// Reads the range.
    Verify,
    /// Copies the ranges that the host's data names to the range.
    Copy {
        /// Number of source ranges.
        ranges: u16,
        /// The writes must be durable before completion.
        fua: bool,
    },
}

/// Where the command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing has been asked of the bdev.
    Begin,
    /// A read into the scratch buffer is in flight.
    Reading,
    /// A write is in flight.
    Writing,
    /// It has ended.
    Ended,
}

impl State {
    fn may_become(self, next: Self) -> bool {
        match self {
            Self::Begin => next == Self::Reading,
            Self::Reading => next != Self::Begin,
            Self::Writing => matches!(next, Self::Reading | Self::Ended),
            Self::Ended => false,
        }
    }
}

/// Whose memory a request uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepBuf {
    /// The scratch buffer.
    Scratch,
    /// The data of the second command of a fused operation.
    Second,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Send this to the bdev.
    Io {
        /// [`IoOp::Read`] or [`IoOp::Write`].
        op: IoOp,
        /// Durable before completion.
        fua: bool,
        /// First logical block.
        lba: u64,
        /// Logical blocks.
        blocks: u32,
        /// Whose memory.
        buf: StepBuf,
    },
    /// Complete the command; of a fused operation the first. The second succeeds with it, or
    /// fails with [`Status::FAILED_FUSED`] unless its own write failed.
    End {
        /// Status field.
        status: Status,
        /// Dword 0.
        result: u64,
        /// Of a fused operation: the second command's status.
        second: Status,
    },
}

/// A command on its way.
#[derive(Debug)]
pub struct Steps {
    job: Job,
    lba: u64,
    blocks: u32,
    block_shift: u8,
    state: State,
    /// Blocks of the range that are done, and source range and blocks of it that are done (Copy).
    done_blocks: u32,
    range: u16,
    range_done_blocks: u32,
    /// Blocks of the request in flight.
    piece_blocks: u32,
}

impl Steps {
    /// A command on `blocks` logical blocks from `lba`. Copy has `blocks` in all its sources.
    #[must_use]
    pub fn new(job: Job, lba: u64, blocks: u32, block_shift: u8) -> Self {
        Self {
            job,
            lba,
            blocks,
            block_shift,
            state: State::Begin,
            done_blocks: 0,
            range: 0,
            range_done_blocks: 0,
            piece_blocks: 0,
        }
    }

    /// Logical block size as a power of two.
    #[must_use]
    pub fn block_shift(&self) -> u8 {
        self.block_shift
    }

    /// Size of the scratch buffer it needs.
    #[must_use]
    pub fn scratch_bytes(&self) -> usize {
        let bytes = usize::try_from(self.blocks).unwrap_or(usize::MAX) << self.block_shift;
        bytes.min(IO_SIZE_BYTES_MAX)
    }

    fn set_state(&mut self, next: State) {
        assert!(self.state.may_become(next), "steps {:?} -> {next:?}", self.state);
        self.state = next;
    }

    fn end(&mut self, status: Status) -> Next {
        self.set_state(State::Ended);
        let result = match self.job {
            // The lowest source range that has not been copied.
            Job::Copy { .. } if !status.is_success() => u64::from(self.range),
            _ => 0,
        };
        let second = if status.is_success() { status } else { Status::FAILED_FUSED };
        Next::End { status, result, second }
    }

    /// The last request ended with `last` (at the beginning: Ok). `host` are the data the host
    /// sent with the (first) command, `scratch` what the bdev has read.
    ///
    /// # Panics
    /// If the command has ended.
    pub fn next(&mut self, last: IoStatus, host: &[u8], scratch: &[u8]) -> Next {
        match self.state {
            State::Begin => self.read(host),
            State::Reading if !last.is_ok() => self.end(status_of(IoOp::Read, last)),
            State::Reading => self.has_read(host, scratch),
            State::Writing if !last.is_ok() => self.write_failed(status_of(IoOp::Write, last)),
            State::Writing => self.has_written(host),
            State::Ended => panic!("the command has ended"),
        }
    }

    fn read(&mut self, host: &[u8]) -> Next {
        self.set_state(State::Reading);
        let most = u32::try_from(IO_SIZE_BYTES_MAX >> self.block_shift).expect("a small constant");
        let (lba, left) = match self.job {
            Job::Copy { .. } => {
                let (lba, blocks) = copy_range_at(host, self.range);
                (lba + u64::from(self.range_done_blocks), blocks - self.range_done_blocks)
            }
            _ => (self.lba + u64::from(self.done_blocks), self.blocks - self.done_blocks),
        };
        self.piece_blocks = left.min(most);
        let (blocks, buf) = (self.piece_blocks, StepBuf::Scratch);
        Next::Io { op: IoOp::Read, fua: false, lba, blocks, buf }
    }

    fn has_read(&mut self, host: &[u8], scratch: &[u8]) -> Next {
        match self.job {
            Job::Compare | Job::CompareAndWrite { .. } if !self.is_equal(host, scratch) => {
                self.end(Status::COMPARE_FAILURE.dnr())
            }
            Job::Verify | Job::Compare => {
                self.done_blocks += self.piece_blocks;
                if self.done_blocks == self.blocks {
                    return self.end(Status::SUCCESS);
                }
                // The next piece is another read.
                self.read(host)
            }
            Job::CompareAndWrite { fua } => self.write(fua, StepBuf::Second),
            Job::Copy { fua, .. } => self.write(fua, StepBuf::Scratch),
        }
    }

    /// Whether the piece that was read is what the host has sent for it.
    fn is_equal(&self, host: &[u8], scratch: &[u8]) -> bool {
        let at = (self.done_blocks as usize) << self.block_shift;
        let len = (self.piece_blocks as usize) << self.block_shift;
        host[at..at + len] == scratch[..len]
    }

    fn write(&mut self, fua: bool, buf: StepBuf) -> Next {
        self.set_state(State::Writing);
        let lba = self.lba + u64::from(self.done_blocks);
        Next::Io { op: IoOp::Write, fua, lba, blocks: self.piece_blocks, buf }
    }

    fn has_written(&mut self, host: &[u8]) -> Next {
        let Job::Copy { ranges, .. } = self.job else { return self.end(Status::SUCCESS) };
        self.done_blocks += self.piece_blocks;
        self.range_done_blocks += self.piece_blocks;
        let (_, range_blocks) = copy_range_at(host, self.range);
        if self.range_done_blocks == range_blocks {
            self.range += 1;
            self.range_done_blocks = 0;
        }
        if self.range == ranges { self.end(Status::SUCCESS) } else { self.read(host) }
    }

    /// Of a fused operation the comparison has succeeded, and only the second command fails.
    fn write_failed(&mut self, status: Status) -> Next {
        if matches!(self.job, Job::CompareAndWrite { .. }) {
            self.set_state(State::Ended);
            return Next::End { status: Status::SUCCESS, result: 0, second: status };
        }
        self.end(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::nvme::nvm::CopyRange;
    use zerocopy::{FromZeros, IntoBytes};

    fn io(op: IoOp, lba: u64, blocks: u32) -> Next {
        Next::Io { op, fua: false, lba, blocks, buf: StepBuf::Scratch }
    }

    fn end(status: Status) -> Next {
        let second = if status.is_success() { status } else { Status::FAILED_FUSED };
        Next::End { status, result: 0, second }
    }

    #[test]
    fn a_long_compare_reads_piece_by_piece() {
        let most = u32::try_from(IO_SIZE_BYTES_MAX >> 9).unwrap();
        let host = [vec![1; IO_SIZE_BYTES_MAX], vec![2; 512]].concat();
        for (found, status) in [(2, Status::SUCCESS), (1, Status::COMPARE_FAILURE.dnr())] {
            let mut steps = Steps::new(Job::Compare, 7, most + 1, 9);
            assert_eq!(steps.scratch_bytes(), IO_SIZE_BYTES_MAX);
            assert_eq!(steps.next(IoStatus::Ok, &host, &[]), io(IoOp::Read, 7, most));
            let mut scratch = vec![1; IO_SIZE_BYTES_MAX];
            let rest = io(IoOp::Read, 7 + u64::from(most), 1);
            assert_eq!(steps.next(IoStatus::Ok, &host, &scratch), rest);
            scratch[..512].fill(found);
            assert_eq!(steps.next(IoStatus::Ok, &host, &scratch), end(status));
        }
    }

    #[test]
    fn compare_reads_once() {
        let data = [3; 1024];
        for (found, status) in [(3, Status::SUCCESS), (4, Status::COMPARE_FAILURE.dnr())] {
            let mut steps = Steps::new(Job::Compare, 7, 2, 9);
            assert_eq!(steps.scratch_bytes(), 1024);
            assert_eq!(steps.next(IoStatus::Ok, &data, &[]), io(IoOp::Read, 7, 2));
            let scratch = [[3; 512], [found; 512]].concat();
            assert_eq!(steps.next(IoStatus::Ok, &data, &scratch), end(status));
        }
        let mut steps = Steps::new(Job::Compare, 7, 2, 9);
        let _ = steps.next(IoStatus::Ok, &data, &[]);
        let failed = steps.next(IoStatus::MediaError, &data, &data);
        assert_eq!(failed, end(Status::UNRECOVERED_READ_ERROR.dnr()));
    }

    #[test]
    fn compare_and_write_writes_the_second_data_only_if_equal() {
        let data = [3; 512];
        let mut steps = Steps::new(Job::CompareAndWrite { fua: true }, 7, 1, 9);
        let _ = steps.next(IoStatus::Ok, &data, &[]);
        let write =
            Next::Io { op: IoOp::Write, fua: true, lba: 7, blocks: 1, buf: StepBuf::Second };
        assert_eq!(steps.next(IoStatus::Ok, &data, &data), write);
        let status = Status::WRITE_FAULT.dnr();
        let failed = Next::End { status: Status::SUCCESS, result: 0, second: status };
        assert_eq!(steps.next(IoStatus::MediaError, &data, &data), failed);
        let mut steps = Steps::new(Job::CompareAndWrite { fua: false }, 7, 1, 9);
        let _ = steps.next(IoStatus::Ok, &data, &[]);
        let differs = steps.next(IoStatus::Ok, &data, &[4; 512]);
        assert_eq!(differs, end(Status::COMPARE_FAILURE.dnr()));
    }

    #[test]
    fn verify_reads_in_pieces() {
        let mut steps = Steps::new(Job::Verify, 100, 600, 9);
        for (lba, blocks) in [(100, 256), (356, 256), (612, 88)] {
            assert_eq!(steps.next(IoStatus::Ok, &[], &[]), io(IoOp::Read, lba, blocks));
        }
        assert_eq!(steps.next(IoStatus::Ok, &[], &[]), end(Status::SUCCESS));
    }

    #[test]
    fn copy_goes_range_by_range_and_names_the_one_that_failed() {
        let mut data = Vec::new();
        for (lba, blocks) in [(1000_u64, 300_u16), (5, 1)] {
            let mut range = CopyRange::new_zeroed();
            range.lba.set(lba);
            range.nlb.set(blocks - 1);
            data.extend_from_slice(range.as_bytes());
        }
        for fails in [false, true] {
            let mut steps = Steps::new(Job::Copy { ranges: 2, fua: false }, 50, 301, 9);
            assert_eq!(steps.scratch_bytes(), 128 * 1024);
            for (from, to, blocks) in [(1000, 50, 256), (1256, 306, 44), (5, 350, 1)] {
                let read = steps.next(IoStatus::Ok, &data, &[]);
                assert_eq!(read, io(IoOp::Read, from, blocks));
                let write = steps.next(IoStatus::Ok, &data, &[]);
                assert_eq!(write, io(IoOp::Write, to, blocks));
            }
            let last = if fails { IoStatus::NoSpace } else { IoStatus::Ok };
            let Next::End { status, result, .. } = steps.next(last, &data, &[]) else {
                panic!("it has ended")
            };
            assert_eq!((status.is_success(), result), (!fails, u64::from(fails)));
        }
    }
}

//! The seam: everything that stores blocks looks like this to everything that uses blocks.
//!
//! A bdev has one [`Geometry`], shared by all cores, and one channel per core that executes
//! [`BdevIo`]s. A channel never calls back: it puts what it finished, and what it wants other
//! bdevs to do, into the core's [`IoQueue`], so that stacks of bdevs need no recursion.

pub mod channel;
pub mod delay;
pub mod device;
pub mod error;
pub mod io;
pub mod malloc;
pub mod null;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod tests;
pub mod uring;

pub use channel::Channel;
pub use device::{Device, DeviceError};
pub use io::{BdevId, BdevIo, Completion, IoOp, IoQueue, IoStatus, Station, Tag};

use uuid::Uuid;

/// What a user of a bdev must know about it. Fixed while the bdev exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Name the operator gave it; unique in the target.
    pub name: String,
    /// Kind for `bdev_get_bdevs`, e.g. "Malloc disk".
    pub product_name: &'static str,
    /// Identity, stable over restarts where the backing store has a place to keep it.
    pub uuid: Uuid,
    /// Logical block size in bytes: 512 or 4096.
    pub block_size_bytes: u32,
    /// Size in logical blocks.
    pub blocks: u64,
    /// Preferred I/O size in logical blocks; 0 when there is no preference.
    pub optimal_io_blocks: u32,
    /// A request that crosses a multiple of so many blocks is split below; 0: none is.
    pub io_boundary_blocks: u32,
    /// Writes of less, or not aligned to it, read before they write; 0: there is no such unit.
    pub write_unit_blocks: u32,
    /// Unmap frees space in units of so many blocks, aligned to it; 0: of one.
    pub unmap_unit_blocks: u32,
    /// Completed writes may be lost at power loss until a flush (or FUA) completes.
    pub volatile_write_cache: bool,
    /// `Unmap` is worth sending: it frees space. After it the range reads as zeroes.
    pub unmap: bool,
    /// Zeroing a range takes about as long whatever its length: nothing is written for it.
    pub cheap_zeroes: bool,
}

impl Geometry {
    /// Size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.blocks * u64::from(self.block_size_bytes)
    }

    /// Whether `lba..lba + blocks` lies inside the bdev.
    #[must_use]
    pub fn contains(&self, lba: u64, blocks: u64) -> bool {
        lba.checked_add(blocks).is_some_and(|end| end <= self.blocks)
    }

    /// Whether `io` makes sense for this bdev; else how it must end.
    ///
    /// # Panics
    /// If a request with data has a buffer of another length: a bug of the station that sent it.
    pub fn check(&self, io: &BdevIo) -> Result<(), IoStatus> {
        if io.op == IoOp::Flush {
            return Ok(());
        }
        if !self.contains(io.lba, u64::from(io.blocks)) {
            return Err(IoStatus::OutOfRange);
        }
        if matches!(io.op, IoOp::Read | IoOp::Write | IoOp::Compare) {
            let buf_bytes = io.buf.as_ref().map_or(0, crate::reactor::buf::IoBuf::len);
            let want_bytes = u64::from(io.blocks) * u64::from(self.block_size_bytes);
            assert_eq!(buf_bytes as u64, want_bytes, "buffer and block count differ");
        }
        Ok(())
    }
}

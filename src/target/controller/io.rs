//! I/O commands: from a submission queue entry to what the bdev shall do, and back to a status.
//! The hot path of the target.

use zerocopy::FromBytes;

use crate::bdev::{BdevId, IoOp, IoStatus};
use crate::limits::{IO_SIZE_BYTES_MAX, PAGE_SIZE_BYTES};
use crate::target::subsystem::{Namespace, Subsystem};
use crate::wire::nvme::nvm::{DSM_DEALLOCATE, DsmRange, rw};
use crate::wire::nvme::opcode::nvm;
use crate::wire::nvme::{Sqe, Status};

/// WZSL of Identify: the largest Write Zeroes as a power of two of 4096-byte pages.
pub const WRITE_ZEROES_PAGES_SHIFT: u8 = 12;

/// The largest Write Zeroes in bytes: 16 MiB, so that one command ends in bounded time.
pub const WRITE_ZEROES_BYTES_MAX: u64 = (PAGE_SIZE_BYTES as u64) << WRITE_ZEROES_PAGES_SHIFT;

/// DMRSL of Identify: the largest range of Dataset Management in logical blocks, SPDK's value.
pub const DEALLOCATE_RANGE_BLOCKS_MAX: u32 = 2_097_152;

/// A command that is fit to be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoRequest {
    /// The bdev that executes it.
    pub bdev: BdevId,
    /// Size of the namespace in logical blocks, for [`deallocate_ranges`].
    pub namespace_blocks: u64,
    /// Data that goes over the wire, in the direction of [`Sqe::data_direction`]; equal to the
    /// SGL's length.
    pub data_len_bytes: u32,
    /// What to do.
    pub command: IoCommand,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoCommand {
    /// Read, Write or Compare with a buffer of `data_len_bytes`.
    Rw {
        /// [`IoOp::Read`], [`IoOp::Write`] or [`IoOp::Compare`].
        op: IoOp,
        /// Durable before completion.
        fua: bool,
        /// First logical block.
        lba: u64,
        /// Logical blocks.
        blocks: u32,
    },
    /// Flush.
    Flush,
    /// Write Zeroes, no buffer.
    WriteZeroes {
        /// [`IoOp::WriteZeroes`], or [`IoOp::Unmap`] where the host wants the space freed and the
        /// bdev can do that.
        op: IoOp,
        /// Durable before completion.
        fua: bool,
        /// First logical block.
        lba: u64,
        /// Logical blocks.
        blocks: u32,
    },
    /// Dataset Management that deallocates: one [`IoOp::Unmap`] for each of
    /// [`deallocate_ranges`], once the data are here.
    Deallocate {
        /// Ranges in the data, 1 to 256.
        ranges: u16,
        /// Durable before completion.
        fua: bool,
    },
    /// Dataset Management with nothing but hints, or on a bdev that frees nothing: takes its data
    /// and is complete.
    Hint,
}

/// Checks an I/O command against the namespace it names.
///
/// `vwc_advertised` is the queue's [`super::IoQueueGrant::vwc_advertised`]. A host that was not
/// told of a volatile cache does not flush; if a namespace with one was added since, its writes
/// are made durable one by one.
///
/// # Errors
/// The status to complete with. Nothing has been transferred.
pub fn parse(sqe: &Sqe, subsystem: &Subsystem, vwc_advertised: bool) -> Result<IoRequest, Status> {
    // Fused operations are not offered.
    if sqe.flags & 3 != 0 {
        return Err(Status::INVALID_FIELD.dnr());
    }
    if !is_supported(sqe.opcode) {
        return Err(Status::INVALID_OPCODE.dnr());
    }
    let namespace = subsystem.namespace(sqe.nsid.get()).ok_or(Status::INVALID_NAMESPACE.dnr())?;
    let write_through = namespace.volatile_write_cache && !vwc_advertised;
    let fua = write_through || sqe.cdw12.get() & rw::FUA != 0;
    let (command, data_len_bytes) = match sqe.opcode {
        nvm::READ => transfer(sqe, namespace, IoOp::Read, sqe.cdw12.get() & rw::FUA != 0)?,
        nvm::WRITE => transfer(sqe, namespace, IoOp::Write, fua)?,
        nvm::COMPARE => transfer(sqe, namespace, IoOp::Compare, false)?,
        nvm::WRITE_ZEROES => (write_zeroes(sqe, namespace, fua)?, 0),
        nvm::DATASET_MANAGEMENT => dataset_management(sqe, namespace, write_through)?,
        _ => (IoCommand::Flush, 0),
    };
    Ok(IoRequest {
        bdev: namespace.bdev,
        namespace_blocks: namespace.blocks,
        data_len_bytes,
        command,
    })
}

fn is_supported(opcode: u8) -> bool {
    matches!(
        opcode,
        nvm::FLUSH
            | nvm::WRITE
            | nvm::READ
            | nvm::COMPARE
            | nvm::WRITE_ZEROES
            | nvm::DATASET_MANAGEMENT
    )
}

fn transfer(
    sqe: &Sqe,
    namespace: &Namespace,
    op: IoOp,
    fua: bool,
) -> Result<(IoCommand, u32), Status> {
    check_sgl(sqe)?;
    let blocks = sqe.block_count();
    // At most 2^16 blocks of 2^12 bytes.
    let bytes = blocks << namespace.block_shift;
    if bytes as usize > IO_SIZE_BYTES_MAX {
        return Err(Status::INVALID_FIELD.dnr());
    }
    check_range(sqe, namespace, blocks)?;
    if sqe.sgl_length.get() != bytes {
        return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
    }
    Ok((IoCommand::Rw { op, fua, lba: sqe.slba(), blocks }, bytes))
}

fn write_zeroes(sqe: &Sqe, namespace: &Namespace, fua: bool) -> Result<IoCommand, Status> {
    let blocks = sqe.block_count();
    if u64::from(blocks) << namespace.block_shift > WRITE_ZEROES_BYTES_MAX {
        return Err(Status::INVALID_FIELD.dnr());
    }
    check_range(sqe, namespace, blocks)?;
    let deallocate = sqe.cdw12.get() & rw::DEAC != 0 && namespace.unmap;
    let op = if deallocate { IoOp::Unmap } else { IoOp::WriteZeroes };
    Ok(IoCommand::WriteZeroes { op, fua, lba: sqe.slba(), blocks })
}

fn dataset_management(
    sqe: &Sqe,
    namespace: &Namespace,
    fua: bool,
) -> Result<(IoCommand, u32), Status> {
    check_sgl(sqe)?;
    let ranges = sqe.dsm_range_count();
    let needed = u32::from(ranges) * 16;
    let given = sqe.sgl_length.get();
    // Linux always sends room for 256 ranges, whatever their number.
    if given < needed || given > 256 * 16 {
        return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
    }
    let deallocate = sqe.cdw11.get() & DSM_DEALLOCATE != 0 && namespace.unmap;
    let command = if deallocate { IoCommand::Deallocate { ranges, fua } } else { IoCommand::Hint };
    Ok((command, given))
}

/// Fabrics commands carry their data by SGL (PSDT 01b; Base 2.1, section 4.1.1).
fn check_sgl(sqe: &Sqe) -> Result<(), Status> {
    if sqe.flags >> 6 == 1 { Ok(()) } else { Err(Status::INVALID_FIELD.dnr()) }
}

/// No namespace has protection information or directives; every range must lie inside.
fn check_range(sqe: &Sqe, namespace: &Namespace, blocks: u32) -> Result<(), Status> {
    if sqe.cdw12.get() & (rw::PRINFO_MASK | rw::DTYPE_MASK) != 0 {
        return Err(Status::INVALID_FIELD.dnr());
    }
    if namespace.contains(sqe.slba(), blocks) {
        Ok(())
    } else {
        Err(Status::LBA_OUT_OF_RANGE.dnr())
    }
}

/// The ranges of [`IoCommand::Deallocate`] as (first logical block, logical blocks), all of them
/// checked before the first is returned; empty ranges are left out.
///
/// # Errors
/// The status to complete with; nothing must be deallocated then.
pub fn deallocate_ranges(
    data: &[u8],
    ranges: u16,
    namespace_blocks: u64,
) -> Result<impl Iterator<Item = (u64, u32)> + '_, Status> {
    let (ranges, _) = <[DsmRange]>::ref_from_prefix_with_elems(data, usize::from(ranges))
        .map_err(|_| Status::DATA_SGL_LENGTH_INVALID.dnr())?;
    for range in ranges {
        let blocks = range.blocks.get();
        if blocks > DEALLOCATE_RANGE_BLOCKS_MAX {
            return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.dnr());
        }
        let end = range.lba.get().checked_add(u64::from(blocks));
        if end.is_none_or(|end| end > namespace_blocks) {
            return Err(Status::LBA_OUT_OF_RANGE.dnr());
        }
    }
    let taken = ranges.iter().map(|range| (range.lba.get(), range.blocks.get()));
    Ok(taken.filter(|&(_, blocks)| blocks != 0))
}

/// How a bdev's answer reads to the host.
///
/// Do Not Retry is set where the same command would fail again: an array has tried all members
/// before it says so.
#[must_use]
pub fn status_of(op: IoOp, status: IoStatus) -> Status {
    match status {
        IoStatus::Ok => Status::SUCCESS,
        IoStatus::MediaError if matches!(op, IoOp::Read | IoOp::Compare) => {
            Status::UNRECOVERED_READ_ERROR.dnr()
        }
        IoStatus::MediaError => Status::WRITE_FAULT.dnr(),
        IoStatus::OutOfRange => Status::LBA_OUT_OF_RANGE.dnr(),
        IoStatus::Unsupported => Status::INVALID_OPCODE.dnr(),
        IoStatus::NoSpace => Status::CAPACITY_EXCEEDED.dnr(),
        IoStatus::CompareMismatch => Status::COMPARE_FAILURE.dnr(),
        // The host may send it again.
        IoStatus::Aborted => Status::ABORT_REQUESTED,
        // Not a path error: no other path of this subsystem leads to the data either, and a
        // multipath host with one path would queue the command for ever.
        IoStatus::Removed => Status::NAMESPACE_NOT_READY.dnr(),
    }
}

#[cfg(test)]
mod tests;

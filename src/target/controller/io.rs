//! I/O commands: from a submission queue entry to what the bdev shall do, and back to a status.
//! The hot path of the target.

mod copy;

use zerocopy::FromBytes;

pub use copy::{
    COPY_BYTES_MAX, COPY_RANGE_BYTES_MAX, COPY_RANGES_MAX, copy_blocks_max, copy_range_at,
    copy_range_blocks_max, copy_ranges,
};

use crate::bdev::{BdevId, IoOp, IoStatus};
use crate::limits::{FUSED_DATA_BYTES_MAX, PAGE_SIZE_BYTES, TRANSFER_SIZE_BYTES_MAX};
use crate::target::reservation::Access;
use crate::target::subsystem::{AnaState, Namespace, Subsystem};
use crate::wire::nvme::nvm::{DSM_DEALLOCATE, DsmRange, rw};
use crate::wire::nvme::opcode::nvm;
use crate::wire::nvme::{Sqe, Status};

/// WZSL of Identify: the largest Write Zeroes as a power of two of 4096-byte pages.
pub const WRITE_ZEROES_PAGES_SHIFT: u8 = 12;

/// The largest Write Zeroes in bytes: 16 MiB, so that one command ends in bounded time.
pub const WRITE_ZEROES_BYTES_MAX: u64 = (PAGE_SIZE_BYTES as u64) << WRITE_ZEROES_PAGES_SHIFT;

/// DMRSL of Identify: the largest range of Dataset Management in logical blocks, SPDK's value.
pub const DEALLOCATE_RANGE_BLOCKS_MAX: u32 = 2_097_152;

/// VSL of Identify: the largest Verify as a power of two of 4096-byte pages.
pub const VERIFY_PAGES_SHIFT: u8 = 12;

/// The largest Verify in bytes, as the largest Write Zeroes.
pub const VERIFY_BYTES_MAX: u64 = (PAGE_SIZE_BYTES as u64) << VERIFY_PAGES_SHIFT;

/// Logical blocks of a fused Compare and Write at most (ACWU, 0's based, is zero).
pub const COMPARE_AND_WRITE_BLOCKS_MAX: u32 = 1;

const _: () = assert!(
    COMPARE_AND_WRITE_BLOCKS_MAX as usize * PAGE_SIZE_BYTES == FUSED_DATA_BYTES_MAX,
    "no logical block is larger than a page"
);

/// A command that is fit to be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoRequest {
    /// The bdev that executes it.
    pub bdev: BdevId,
    /// Size of the namespace in logical blocks, for [`deallocate_ranges`].
    pub namespace_blocks: u64,
    /// How the path reaches the namespace.
    pub ana: AnaState,
    /// Logical block size of the namespace as a power of two.
    pub block_shift: u8,
    /// Data that goes over the wire, in the direction of [`Sqe::data_direction`]; equal to the
    /// SGL's length.
    pub data_len_bytes: u32,
    /// What to do.
    pub command: IoCommand,
}

impl IoRequest {
    /// What the command wants of the namespace; `None`: nothing that a reservation forbids.
    #[must_use]
    pub fn access(&self) -> Option<Access> {
        match self.command {
            IoCommand::Rw { op: IoOp::Read, .. }
            | IoCommand::Compare { .. }
            | IoCommand::Verify { .. } => Some(Access::Read),
            IoCommand::Reservation => None,
            _ => Some(Access::Write),
        }
    }

    /// The blocks that the command changes, as first block and number. Where only its data can
    /// tell, that is the whole namespace.
    #[must_use]
    pub fn written(&self) -> Option<(u64, u64)> {
        match self.command {
            IoCommand::Rw { op: IoOp::Write, lba, blocks, .. }
            | IoCommand::WriteZeroes { lba, blocks, .. } => Some((lba, blocks.into())),
            IoCommand::Deallocate { .. } | IoCommand::Copy { .. } => {
                Some((0, self.namespace_blocks))
            }
            _ => None,
        }
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoCommand {
    /// Read or Write with a buffer of `data_len_bytes`.
    Rw {
        /// [`IoOp::Read`] or [`IoOp::Write`].
        op: IoOp,
        /// Durable before completion.
        fua: bool,
        /// First logical block.
        lba: u64,
        /// Logical blocks.
        blocks: u32,
    },
    /// Compare the range with a buffer of `data_len_bytes`.
    Compare {
        /// First logical block.
        lba: u64,
        /// Logical blocks.
        blocks: u32,
    },
    /// Read the range and throw the data away.
    Verify {
        /// First logical block.
        lba: u64,
        /// Logical blocks.
        blocks: u32,
    },
    /// Copy the ranges of the data, see [`copy_ranges`], one behind the other to `lba`.
    Copy {
        /// Ranges in the data, 1 to 256.
        ranges: u16,
        /// Durable before completion.
        fua: bool,
        /// First logical block of the destination.
        lba: u64,
    },
    /// A reservation command: see [`crate::target::reservation::ReservationCommand::parse`].
    Reservation,
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
    // The commands of a fused operation come to `parse_fused`.
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
        nvm::COMPARE => {
            let (_, bytes) = transfer(sqe, namespace, IoOp::Compare, false)?;
            (IoCommand::Compare { lba: sqe.slba(), blocks: sqe.block_count() }, bytes)
        }
        nvm::VERIFY => (verify(sqe, namespace)?, 0),
        nvm::COPY => copy::parse(sqe, namespace, fua)?,
        opcode if is_reservation(opcode) => (IoCommand::Reservation, sqe.sgl_length.get()),
        nvm::WRITE_ZEROES => (write_zeroes(sqe, namespace, fua)?, 0),
        nvm::DATASET_MANAGEMENT => dataset_management(sqe, namespace, write_through)?,
        _ => (IoCommand::Flush, 0),
    };
    Ok(IoRequest {
        bdev: namespace.bdev,
        namespace_blocks: namespace.blocks,
        ana: namespace.ana,
        block_shift: namespace.block_shift,
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
            | nvm::VERIFY
            | nvm::COPY
    ) || is_reservation(opcode)
}

fn is_reservation(opcode: u8) -> bool {
    matches!(
        opcode,
        nvm::RESERVATION_REGISTER
            | nvm::RESERVATION_REPORT
            | nvm::RESERVATION_ACQUIRE
            | nvm::RESERVATION_RELEASE
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
    if bytes as usize > TRANSFER_SIZE_BYTES_MAX {
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

fn verify(sqe: &Sqe, namespace: &Namespace) -> Result<IoCommand, Status> {
    let blocks = sqe.block_count();
    if u64::from(blocks) << namespace.block_shift > VERIFY_BYTES_MAX {
        return Err(Status::INVALID_FIELD.dnr());
    }
    check_range(sqe, namespace, blocks)?;
    Ok(IoCommand::Verify { lba: sqe.slba(), blocks })
}

/// Checks the two commands of a fused Compare and Write (NVM, section 3.2.1.1).
///
/// # Errors
/// The statuses of both.
pub fn parse_fused(
    [first, second]: &[Sqe; 2],
    subsystem: &Subsystem,
    vwc_advertised: bool,
) -> Result<IoRequest, [Status; 2]> {
    let plain = |sqe: &Sqe| {
        let plain = Sqe { flags: sqe.flags & !3, ..*sqe };
        parse(&plain, subsystem, vwc_advertised)
    };
    let compare = plain(first).map_err(|status| [status, Status::FAILED_FUSED])?;
    let write = plain(second).map_err(|status| [Status::FAILED_FUSED, status])?;
    let invalid = [Status::INVALID_FIELD.dnr(), Status::FAILED_FUSED];
    let IoCommand::Compare { lba, blocks } = compare.command else { return Err(invalid) };
    match write.command {
        IoCommand::Rw { op: IoOp::Write, lba: to, blocks: count, .. }
            if (to, count) == (lba, blocks) && compare.bdev == write.bdev => {}
        _ => return Err(invalid),
    }
    if blocks > COMPARE_AND_WRITE_BLOCKS_MAX {
        return Err([Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr(), Status::FAILED_FUSED]);
    }
    Ok(write)
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

/// No namespace has directives; every range must lie inside. What a command says of protection
/// information (PRINFO, STC) is ignored, for no namespace is formatted for any (NVM 1.1, figure
/// "Protection Information Field Definition").
fn check_range(sqe: &Sqe, namespace: &Namespace, blocks: u32) -> Result<(), Status> {
    if sqe.cdw12.get() & rw::DTYPE_MASK != 0 {
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

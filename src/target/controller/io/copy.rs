//! Copy (NVM 1.1, section 3.2.2), source descriptors of format 0h.

use zerocopy::FromBytes;

use super::{IoCommand, check_sgl};
use crate::target::subsystem::Namespace;
use crate::wire::nvme::nvm::{CopyRange, copy, rw};
use crate::wire::nvme::{Sqe, Status};

/// MSRC of Identify + 1: source ranges of one command at most.
pub const COPY_RANGES_MAX: u16 = 128;

/// MSSRL of Identify in bytes: the longest source range.
pub const COPY_RANGE_BYTES_MAX: u64 = 1 << 20;

/// MCL of Identify in bytes: all source ranges together, so that one command ends in bounded time.
pub const COPY_BYTES_MAX: u64 = 16 << 20;

/// MCL in logical blocks.
#[must_use]
pub fn copy_blocks_max(block_shift: u8) -> u32 {
    u32::try_from(COPY_BYTES_MAX >> block_shift).expect("a small constant")
}

/// MSSRL in logical blocks.
#[must_use]
pub fn copy_range_blocks_max(block_shift: u8) -> u16 {
    u16::try_from(COPY_RANGE_BYTES_MAX >> block_shift).expect("2048 blocks of 512 bytes")
}

pub(super) fn parse(
    sqe: &Sqe,
    namespace: &Namespace,
    fua: bool,
) -> Result<(IoCommand, u32), Status> {
    check_sgl(sqe)?;
    // PRINFOR, PRINFOW and the storage tag checks are ignored as in every command.
    if sqe.cdw12.get() & (copy::FORMAT_MASK | rw::DTYPE_MASK) != 0 {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let ranges = sqe.copy_range_count();
    if ranges > COPY_RANGES_MAX {
        return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.dnr());
    }
    let given = sqe.sgl_length.get();
    let size = u32::try_from(size_of::<CopyRange>()).expect("a small constant");
    if given < u32::from(ranges) * size {
        return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
    }
    if sqe.slba() >= namespace.blocks {
        return Err(Status::LBA_OUT_OF_RANGE.dnr());
    }
    Ok((IoCommand::Copy { ranges, fua, lba: sqe.slba() }, given))
}

/// The source ranges of [`IoCommand::Copy`] as (first logical block, logical blocks), all of them
/// checked before the first is returned.
///
/// # Errors
/// The status to complete with; nothing must be copied then.
pub fn copy_ranges(
    data: &[u8],
    ranges: u16,
    destination: u64,
    (namespace_blocks, block_shift): (u64, u8),
) -> Result<impl Iterator<Item = (u64, u32)> + '_, Status> {
    let (ranges, _) = <[CopyRange]>::ref_from_prefix_with_elems(data, usize::from(ranges))
        .map_err(|_| Status::DATA_SGL_LENGTH_INVALID.dnr())?;
    let taken = ranges.iter().map(|range| (range.lba.get(), u32::from(range.nlb.get()) + 1));
    let mut total = 0;
    for (lba, blocks) in taken.clone() {
        total += u64::from(blocks);
        if blocks > u32::from(copy_range_blocks_max(block_shift))
            || total > u64::from(copy_blocks_max(block_shift))
        {
            return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.dnr());
        }
        let end = lba.checked_add(u64::from(blocks));
        if end.is_none_or(|end| end > namespace_blocks) {
            return Err(Status::LBA_OUT_OF_RANGE.dnr());
        }
    }
    if destination.checked_add(total).is_none_or(|end| end > namespace_blocks) {
        return Err(Status::LBA_OUT_OF_RANGE.dnr());
    }
    let mut sources = taken.clone();
    if sources
        .any(|(lba, blocks)| lba < destination + total && destination < lba + u64::from(blocks))
    {
        return Err(Status::OVERLAPPING_IO_RANGE.dnr());
    }
    Ok(taken)
}

/// One source range of data that [`copy_ranges`] has found good.
///
/// # Panics
/// If there is no such range.
#[must_use]
pub fn copy_range_at(data: &[u8], index: u16) -> (u64, u32) {
    let at = usize::from(index) * size_of::<CopyRange>();
    let (range, _) = CopyRange::ref_from_prefix(&data[at..]).expect("the ranges were checked");
    (range.lba.get(), u32::from(range.nlb.get()) + 1)
}

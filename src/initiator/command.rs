//! The few commands of a host, beside those of Fabrics, that it takes to bring a controller up and
//! to use it (NVMe Base 2.x, section 5; NVM 1.x, section 3.2).

use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

use crate::wire::nvme::{Sqe, feature, opcode};

/// CC: enabled, NVM command set, 4 KiB pages, entries of 64 and 16 bytes.
pub(super) const CC_ENABLE: u32 = 1 | 6 << 16 | 4 << 20;
/// CC.SHN: normal shutdown.
pub(super) const CC_SHUTDOWN: u32 = 1 << 14;

pub(super) fn identify(cns: u8, namespace_id: u32) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = opcode::admin::IDENTIFY;
    sqe.nsid = U32::new(namespace_id);
    sqe.cdw10 = U32::new(cns.into());
    sqe
}

pub(super) fn set_queue_count(queues: u16) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = opcode::admin::SET_FEATURES;
    sqe.cdw10 = U32::new(feature::fid::NUMBER_OF_QUEUES.into());
    let zero_based = u32::from(queues - 1);
    sqe.cdw11 = U32::new(zero_based << 16 | zero_based);
    sqe
}

pub(super) fn keep_alive() -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = opcode::admin::KEEP_ALIVE;
    sqe
}

/// Read or write of `blocks` (at least one) from `lba`; I/O opcodes 02h and 01h.
#[must_use]
pub(super) fn transfer(opcode: u8, namespace_id: u32, lba: u64, blocks: u16) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = opcode;
    sqe.nsid = U32::new(namespace_id);
    let [a, b, c, d, e, f, g, h] = U64::new(lba).to_bytes();
    sqe.cdw10 = U32::from_bytes([a, b, c, d]);
    sqe.cdw11 = U32::from_bytes([e, f, g, h]);
    sqe.cdw12 = U32::new(u32::from(blocks - 1));
    sqe
}

/// A little-endian field of an identify structure.
pub(super) fn field_u16(data: &[u8], at: usize) -> u16 {
    U16::from_bytes([data[at], data[at + 1]]).get()
}

pub(super) fn field_u32(data: &[u8], at: usize) -> u32 {
    u32::from(field_u16(data, at)) | u32::from(field_u16(data, at + 2)) << 16
}

pub(super) fn field_u64(data: &[u8], at: usize) -> u64 {
    u64::from(field_u32(data, at)) | u64::from(field_u32(data, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn golden_transfer() {
        let read = transfer(2, 1, 0x1_0000_0002, 8);
        assert_eq!(read.as_bytes()[40..52], [2, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(field_u64(&[1, 0, 0, 0, 2, 0, 0, 0], 0), 0x2_0000_0001);
    }
}

//! The few commands that bring a controller up (NVMe Base 2.x, section 6, and Identify).

use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

use crate::wire::nvme::Sqe;

/// Opcode of all Fabrics commands.
const OPCODE_FABRICS: u8 = 0x7f;
/// Admin opcodes.
const OPCODE_IDENTIFY: u8 = 0x06;
const OPCODE_SET_FEATURES: u8 = 0x09;
const OPCODE_KEEP_ALIVE: u8 = 0x18;
/// Feature identifier: Number of Queues.
const FEATURE_QUEUES: u32 = 0x07;

/// Fabrics command types (FCTYPE).
const FCTYPE_PROPERTY_SET: u32 = 0x00;
const FCTYPE_CONNECT: u32 = 0x01;
const FCTYPE_PROPERTY_GET: u32 = 0x04;

/// Bytes of Connect's data.
pub(super) const CONNECT_DATA_BYTES: usize = 1024;
/// Bytes of every Identify structure.
pub(super) const IDENTIFY_BYTES: usize = 4096;
/// CNTLID in the Connect data of an admin queue: the controller chooses (dynamic model).
pub(super) const CNTLID_DYNAMIC: u16 = 0xffff;
/// CATTR bit 2: no SQ flow control.
const CATTR_NO_FLOW_CONTROL: u32 = 1 << 2;

/// Property offsets.
pub(super) const CAP: u32 = 0x00;
pub(super) const CC: u32 = 0x14;
pub(super) const CSTS: u32 = 0x1c;

/// CC: enabled, NVM command set, 4 KiB pages, entries of 64 and 16 bytes.
pub(super) const CC_ENABLE: u64 = 1 | 6 << 16 | 4 << 20;
/// CC.SHN: normal shutdown.
pub(super) const CC_SHUTDOWN: u64 = 1 << 14;

/// CNS values of Identify.
pub(super) const CNS_NAMESPACE: u32 = 0x00;
pub(super) const CNS_CONTROLLER: u32 = 0x01;

fn fabrics(fctype: u32) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = OPCODE_FABRICS;
    sqe.nsid = U32::new(fctype);
    sqe
}

pub(super) fn connect(queue_id: u16, depth: u16, no_flow_control: bool, kato_ms: u32) -> Sqe {
    let mut sqe = fabrics(FCTYPE_CONNECT);
    // RECFMT 0, QID; SQSIZE 0's based, CATTR; KATO.
    sqe.cdw10 = U32::new(u32::from(queue_id) << 16);
    let cattr = if no_flow_control { CATTR_NO_FLOW_CONTROL } else { 0 };
    sqe.cdw11 = U32::new(u32::from(depth - 1) | cattr << 16);
    sqe.cdw12 = U32::new(kato_ms);
    sqe
}

pub(super) fn put_connect_data(
    data: &mut [u8],
    host_id: [u8; 16],
    cntlid: u16,
    subsystem_nqn: &str,
    host_nqn: &str,
) {
    data.fill(0);
    data[..16].copy_from_slice(&host_id);
    data[16..18].copy_from_slice(&cntlid.to_le_bytes());
    data[256..][..subsystem_nqn.len()].copy_from_slice(subsystem_nqn.as_bytes());
    data[512..][..host_nqn.len()].copy_from_slice(host_nqn.as_bytes());
}

pub(super) fn property_get(offset: u32, is_wide: bool) -> Sqe {
    let mut sqe = fabrics(FCTYPE_PROPERTY_GET);
    sqe.cdw10 = U32::new(u32::from(is_wide));
    sqe.cdw11 = U32::new(offset);
    sqe
}

pub(super) fn property_set(offset: u32, value: u64) -> Sqe {
    let mut sqe = fabrics(FCTYPE_PROPERTY_SET);
    sqe.cdw11 = U32::new(offset);
    let value = U64::new(value);
    let [a, b, c, d, e, f, g, h] = value.to_bytes();
    sqe.cdw12 = U32::from_bytes([a, b, c, d]);
    sqe.cdw13 = U32::from_bytes([e, f, g, h]);
    sqe
}

pub(super) fn identify(cns: u32, namespace_id: u32) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = OPCODE_IDENTIFY;
    sqe.nsid = U32::new(namespace_id);
    sqe.cdw10 = U32::new(cns);
    sqe
}

pub(super) fn set_queue_count(queues: u16) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = OPCODE_SET_FEATURES;
    sqe.cdw10 = U32::new(FEATURE_QUEUES);
    let zero_based = u32::from(queues - 1);
    sqe.cdw11 = U32::new(zero_based << 16 | zero_based);
    sqe
}

pub(super) fn keep_alive() -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = OPCODE_KEEP_ALIVE;
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
    fn golden_connect() {
        // Fields of Connect by byte: 40 RECFMT, 42 QID, 44 SQSIZE, 46 CATTR, 48 KATO.
        let sqe = connect(0x0102, 0x80, true, 15_000);
        let bytes = sqe.as_bytes();
        assert_eq!((bytes[0], bytes[4]), (0x7f, 1));
        assert_eq!(bytes[40..52], [0, 0, 2, 1, 0x7f, 0, 4, 0, 0x98, 0x3a, 0, 0]);
        let mut data = [1u8; CONNECT_DATA_BYTES];
        put_connect_data(&mut data, [9; 16], 0xffff, "nqn.sub", "nqn.host");
        assert_eq!(data[..18], [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 255, 255]);
        assert_eq!((&data[256..264], &data[512..521]), (&b"nqn.sub\0"[..], &b"nqn.host\0"[..]));
    }

    #[test]
    fn golden_properties_and_transfers() {
        let set = property_set(CC, CC_ENABLE);
        assert_eq!((set.opcode, set.nsid.get(), set.cdw10.get()), (0x7f, 0, 0));
        assert_eq!(set.as_bytes()[44..56], [0x14, 0, 0, 0, 1, 0, 0x46, 0, 0, 0, 0, 0]);
        let get = property_get(CAP, true);
        assert_eq!(get.as_bytes()[40..48], [1, 0, 0, 0, 0, 0, 0, 0]);
        let read = transfer(2, 1, 0x1_0000_0002, 8);
        assert_eq!(read.as_bytes()[40..52], [2, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(field_u64(&[1, 0, 0, 0, 2, 0, 0, 0], 0), 0x2_0000_0001);
    }
}

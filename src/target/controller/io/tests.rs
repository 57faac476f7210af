#![allow(clippy::unwrap_used)] // A test may panic.

use super::*;
use crate::target::controller::tests::{NQN, geometry, table_with};
use crate::target::subsystem::Nqn;
use proptest::prelude::*;
use zerocopy::{FromZeros, IntoBytes};

const BLOCKS: u64 = 1000;

/// A subsystem whose namespace 1 has 1000 blocks of `block_size_bytes`.
fn subsystem(block_size_bytes: u32, unmap: bool, cache: bool) -> Subsystem {
    let mut geometry = geometry(block_size_bytes);
    geometry.unmap = unmap;
    geometry.volatile_write_cache = cache;
    let table = table_with(&[geometry]);
    Subsystem::clone(table.find(&Nqn::parse(NQN).unwrap()).unwrap())
}

fn command(opcode: u8, lba: u64, blocks: u32, len_bytes: u32) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = opcode;
    sqe.flags = 0x40;
    sqe.nsid.set(1);
    sqe.cdw10.set(u32::try_from(lba & 0xffff_ffff).unwrap());
    sqe.cdw11.set(u32::try_from(lba >> 32).unwrap());
    sqe.cdw12.set(blocks - 1);
    sqe.sgl_length.set(len_bytes);
    sqe.sgl_type = 0x5a;
    sqe
}

#[test]
fn reads_and_writes() {
    let subsystem = subsystem(4096, true, true);
    let mut sqe = command(nvm::WRITE, 992, 8, 32768);
    sqe.cdw12.set(7 | rw::FUA);
    let request = parse(&sqe, &subsystem, true).unwrap();
    assert_eq!(request.data_len_bytes, 32768);
    assert_eq!(request.bdev, BdevId(0));
    assert_eq!(request.command, IoCommand::Rw { op: IoOp::Write, fua: true, lba: 992, blocks: 8 });
    let sqe = command(nvm::READ, 0, 1, 4096);
    let request = parse(&sqe, &subsystem, true).unwrap();
    assert_eq!(request.command, IoCommand::Rw { op: IoOp::Read, fua: false, lba: 0, blocks: 1 });
    let sqe = command(nvm::COMPARE, 5, 1, 4096);
    let request = parse(&sqe, &subsystem, true).unwrap();
    assert_eq!(request.command, IoCommand::Compare { lba: 5, blocks: 1 });
    let sqe = command(nvm::VERIFY, 5, 100, 0);
    assert_eq!(
        parse(&sqe, &subsystem, true).unwrap().command,
        IoCommand::Verify { lba: 5, blocks: 100 }
    );
    let sqe = command(nvm::FLUSH, 0, 1, 0);
    assert_eq!(parse(&sqe, &subsystem, true).unwrap().command, IoCommand::Flush);
}

#[test]
fn bad_commands_get_the_status_of_the_specification() {
    let subsystem = subsystem(512, true, true);
    let good = command(nvm::READ, 0, 1, 512);
    assert!(parse(&good, &subsystem, true).is_ok());
    let with = |change: fn(&mut Sqe)| {
        let mut sqe = good;
        change(&mut sqe);
        parse(&sqe, &subsystem, true).unwrap_err()
    };
    assert_eq!(with(|sqe| sqe.opcode = 0x7e), Status::INVALID_OPCODE.dnr());
    assert_eq!(with(|sqe| sqe.nsid.set(0)), Status::INVALID_NAMESPACE.dnr());
    assert_eq!(with(|sqe| sqe.nsid.set(2)), Status::INVALID_NAMESPACE.dnr());
    assert_eq!(with(|sqe| sqe.nsid.set(u32::MAX)), Status::INVALID_NAMESPACE.dnr());
    assert_eq!(with(|sqe| sqe.flags = 0), Status::INVALID_FIELD.dnr(), "PRP");
    assert_eq!(with(|sqe| sqe.flags = 0x41), Status::INVALID_FIELD.dnr(), "fused");
    assert_eq!(with(|sqe| sqe.cdw12.set(1 << 20)), Status::INVALID_FIELD.dnr(), "directive");
    assert_eq!(with(|sqe| sqe.sgl_length.set(511)), Status::DATA_SGL_LENGTH_INVALID.dnr());
    assert_eq!(with(|sqe| sqe.sgl_length.set(1024)), Status::DATA_SGL_LENGTH_INVALID.dnr());
}

/// No namespace is formatted for protection information, and without it a controller ignores what
/// a command says of it (NVM 1.1, figure "Protection Information Field Definition").
#[test]
fn what_is_asked_of_protection_information_is_ignored() {
    let subsystem = subsystem(512, true, true);
    for opcode in [nvm::READ, nvm::WRITE, nvm::COMPARE, nvm::WRITE_ZEROES, nvm::VERIFY] {
        let plain = command(opcode, 3, 1, 512);
        let expected = parse(&plain, &subsystem, true).unwrap();
        for bit in 26..=29 {
            let mut sqe = plain;
            sqe.cdw12.set(1 << bit);
            assert_eq!(parse(&sqe, &subsystem, true), Ok(expected), "{opcode:#x}, bit {bit}");
        }
    }
    let plain = command(nvm::COPY, 3, 1, 32);
    let expected = parse(&plain, &subsystem, true).unwrap();
    // PRINFOR, STCW and STCR, PRINFOW.
    for bit in [12, 13, 14, 15, 24, 25, 26, 27, 28, 29] {
        let mut sqe = plain;
        sqe.cdw12.set(1 << bit);
        assert_eq!(parse(&sqe, &subsystem, true), Ok(expected), "Copy, bit {bit}");
    }
    for bit in 8..=11 {
        let mut sqe = plain;
        sqe.cdw12.set(1 << bit);
        assert_eq!(parse(&sqe, &subsystem, true), Err(Status::INVALID_FIELD.dnr()), "format");
    }
}

#[test]
fn ranges_outside_the_namespace() {
    let small = subsystem(512, true, true);
    for (lba, blocks) in [
        (BLOCKS, 1),
        (BLOCKS - 1, 2),
        (u64::MAX, 1),
        (u64::MAX, 256),
        (u64::MAX - 255, 256),
        (1 << 63, 1),
    ] {
        for opcode in [nvm::READ, nvm::WRITE, nvm::COMPARE, nvm::WRITE_ZEROES] {
            let sqe = command(opcode, lba, blocks, blocks * 512);
            let status = parse(&sqe, &small, true).unwrap_err();
            assert_eq!(status, Status::LBA_OUT_OF_RANGE.dnr(), "{opcode:#x} {lba} {blocks}");
        }
    }
    let large = subsystem(4096, true, true);
    let sqe = command(nvm::READ, BLOCKS - 256, 256, 1 << 20);
    assert!(parse(&sqe, &large, true).is_ok(), "the last blocks, MDTS long");
    let sqe = command(nvm::READ, 0, 257, 257 * 4096);
    assert_eq!(parse(&sqe, &large, true), Err(Status::INVALID_FIELD.dnr()), "over MDTS");
}

#[test]
fn largest_counts_do_not_overflow() {
    let subsystem = subsystem(4096, true, true);
    let sqe = command(nvm::READ, 0, 65536, 1 << 28);
    assert_eq!(parse(&sqe, &subsystem, true), Err(Status::INVALID_FIELD.dnr()));
    let sqe = command(nvm::WRITE_ZEROES, 0, 65536, 0);
    assert_eq!(parse(&sqe, &subsystem, true), Err(Status::INVALID_FIELD.dnr()), "over WZSL");
}

#[test]
fn write_zeroes_frees_only_when_asked_and_able() {
    for (unmap, deac, expected) in [
        (true, rw::DEAC, IoOp::Unmap),
        (true, 0, IoOp::WriteZeroes),
        (false, rw::DEAC, IoOp::WriteZeroes),
    ] {
        let mut sqe = command(nvm::WRITE_ZEROES, 3, 1, 0);
        sqe.cdw12.set(996 | deac | rw::FUA);
        let request = parse(&sqe, &subsystem(512, unmap, false), true).unwrap();
        let expected = IoCommand::WriteZeroes { op: expected, fua: true, lba: 3, blocks: 997 };
        assert_eq!(request.command, expected);
        assert_eq!(request.data_len_bytes, 0);
    }
}

/// A host that has not been told of a volatile cache sends no flush: a namespace with one, added
/// while it was connected, would lose acknowledged data at power loss.
#[test]
fn untold_cache_is_written_through() {
    let write = command(nvm::WRITE, 0, 1, 512);
    let fua = |subsystem: &Subsystem, told| {
        let IoCommand::Rw { fua, .. } = parse(&write, subsystem, told).unwrap().command else {
            panic!("a write")
        };
        fua
    };
    assert!(fua(&subsystem(512, true, true), false));
    assert!(!fua(&subsystem(512, true, true), true));
    assert!(!fua(&subsystem(512, true, false), false));
}

fn ranges(ranges: &[(u64, u32)]) -> Vec<u8> {
    let range = |&(lba, blocks): &(u64, u32)| DsmRange {
        context_attributes: 0.into(),
        blocks: blocks.into(),
        lba: lba.into(),
    };
    ranges.iter().flat_map(|each| range(each).as_bytes().to_vec()).collect()
}

#[test]
fn deallocation() {
    let mut sqe = command(nvm::DATASET_MANAGEMENT, 0, 1, 4096);
    sqe.cdw10.set(1);
    sqe.cdw11.set(DSM_DEALLOCATE);
    let request = parse(&sqe, &subsystem(512, true, true), true).unwrap();
    assert_eq!(request.command, IoCommand::Deallocate { ranges: 2, fua: false });
    assert_eq!(request.data_len_bytes, 4096, "Linux sends room for 256 ranges");
    let data = ranges(&[(0, 8), (50, 0), (998, 2)]);
    let all = deallocate_ranges(&data, 3, BLOCKS).unwrap().collect::<Vec<_>>();
    assert_eq!(all, [(0, 8), (998, 2)]);
    let hint = parse(&sqe, &subsystem(512, false, true), true).unwrap();
    assert_eq!(hint.command, IoCommand::Hint, "a bdev that frees nothing");
    sqe.cdw11.set(3);
    let hint = parse(&sqe, &subsystem(512, true, true), true).unwrap();
    assert_eq!(hint.command, IoCommand::Hint);
    for len_bytes in [0, 31, 4097] {
        sqe.sgl_length.set(len_bytes);
        let status = parse(&sqe, &subsystem(512, true, true), true).unwrap_err();
        assert_eq!(status, Status::DATA_SGL_LENGTH_INVALID.dnr());
    }
}

#[test]
fn one_bad_range_spoils_all() {
    for bad in [(999, 2), (u64::MAX, 1), (1001, 0)] {
        let data = ranges(&[(0, 8), bad]);
        let status = deallocate_ranges(&data, 2, BLOCKS).map(|_| ()).unwrap_err();
        assert_eq!(status, Status::LBA_OUT_OF_RANGE.dnr(), "{bad:?}");
    }
    let data = ranges(&[(0, DEALLOCATE_RANGE_BLOCKS_MAX + 1)]);
    let status = deallocate_ranges(&data, 1, u64::MAX).map(|_| ()).unwrap_err();
    assert_eq!(status, Status::COMMAND_SIZE_LIMIT_EXCEEDED.dnr());
    let status = deallocate_ranges(&data, 2, BLOCKS).map(|_| ()).unwrap_err();
    assert_eq!(status, Status::DATA_SGL_LENGTH_INVALID.dnr(), "fewer bytes than ranges");
}

#[test]
fn bdev_answers() {
    let media = IoStatus::MediaError;
    assert_eq!(status_of(IoOp::Read, media), Status::UNRECOVERED_READ_ERROR.dnr());
    assert_eq!(status_of(IoOp::Write, media), Status::WRITE_FAULT.dnr());
    assert_eq!(status_of(IoOp::Flush, media), Status::WRITE_FAULT.dnr());
    assert_eq!(status_of(IoOp::Write, IoStatus::NoSpace), Status::CAPACITY_EXCEEDED.dnr());
    assert_eq!(status_of(IoOp::Read, IoStatus::Removed), Status::NAMESPACE_NOT_READY.dnr());
    assert_eq!(status_of(IoOp::Write, IoStatus::Aborted), Status::ABORT_REQUESTED);
    assert_eq!(status_of(IoOp::Compare, IoStatus::CompareMismatch), Status::COMPARE_FAILURE.dnr());
    assert!(status_of(IoOp::Read, IoStatus::Ok).is_success());
}

proptest! {
    /// Whatever a peer sends: no panic, and what is let through lies inside the namespace.
    #[test]
    fn nothing_outside_gets_through(
        bytes in prop::array::uniform32(any::<u8>()),
        opcode in 0_u8..26,
        nsid in 0_u32..3,
        lba in prop_oneof![0_u64..1100, any::<u64>()],
        blocks in prop_oneof![1_u32..20, 1_u32..65537],
        data in prop::collection::vec(any::<u8>(), 0..4200),
        wide in any::<bool>(),
        told in any::<bool>(),
    ) {
        let size = if wide { 4096 } else { 512 };
        let subsystem = subsystem(size, true, true);
        let mut sqe = command(opcode, lba, blocks, blocks * size);
        sqe.nsid.set(nsid);
        sqe.cdw13.set(u32::from(bytes[0]));
        if bytes[1] == 0 {
            sqe.as_mut_bytes()[..32].copy_from_slice(&bytes);
        }
        if let Ok(request) = parse(&sqe, &subsystem, told) {
            match request.command {
                IoCommand::Rw { lba, blocks, .. } => {
                    prop_assert!(lba < BLOCKS && u64::from(blocks) <= BLOCKS - lba);
                    prop_assert_eq!(request.data_len_bytes, blocks * size);
                    prop_assert!(request.data_len_bytes as usize <= TRANSFER_SIZE_BYTES_MAX);
                }
                IoCommand::WriteZeroes { lba, blocks, .. } => {
                    prop_assert!(lba < BLOCKS && u64::from(blocks) <= BLOCKS - lba);
                }
                IoCommand::Deallocate { ranges, .. } => {
                    if let Ok(all) = deallocate_ranges(&data, ranges, request.namespace_blocks) {
                        for (lba, blocks) in all {
                            prop_assert!(lba < BLOCKS && u64::from(blocks) <= BLOCKS - lba);
                        }
                    }
                }
                IoCommand::Compare { lba, blocks } | IoCommand::Verify { lba, blocks } => {
                    prop_assert!(lba < BLOCKS && u64::from(blocks) <= BLOCKS - lba);
                }
                IoCommand::Copy { ranges, lba, .. } => {
                    let of = (BLOCKS, request.block_shift);
                    if let Ok(all) = copy_ranges(&data, ranges, lba, of) {
                        let mut total = 0;
                        for (lba, blocks) in all {
                            prop_assert!(lba < BLOCKS && u64::from(blocks) <= BLOCKS - lba);
                            total += u64::from(blocks);
                        }
                        prop_assert!(lba + total <= BLOCKS);
                    }
                }
                IoCommand::Flush | IoCommand::Hint | IoCommand::Reservation => {}
            }
        }
    }
}

//! What the tests of a controller share, and the tests by concern.

#![allow(clippy::unwrap_used)] // A test may panic.

mod admin;
mod ana;
mod connect;
mod hostile;
mod log;

use uuid::Uuid;
use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::bdev::{BdevId, Geometry};
use crate::target::subsystem::{NamespaceSpec, Persistence, SubsystemSpec, SubsystemTable};
use crate::wire::fabrics::{CNTLID_DYNAMIC, ConnectData, DISCOVERY_NQN, fctype};
use crate::wire::nvme::opcode::FABRICS;
use crate::wire::nvme::{Sqe, Status};

pub(super) const NQN: &str = "nqn.2026-11.org.example:one";
pub(super) const HOST: &str =
    "nqn.2014-08.org.nvmexpress:uuid:8b3e9e0e-6a5f-4a5e-9f0d-4a2f3a6f9b11";
pub(super) const LOCAL: &str = "192.0.2.1:4420";

pub(super) fn geometry(block_size_bytes: u32) -> Geometry {
    Geometry {
        name: "m0".to_owned(),
        product_name: "Malloc disk",
        uuid: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        block_size_bytes,
        blocks: 1000,
        optimal_io_blocks: 16,
        io_boundary_blocks: 0,
        write_unit_blocks: 0,
        unmap_unit_blocks: 0,
        volatile_write_cache: true,
        unmap: true,
        cheap_zeroes: true,
    }
}

/// One subsystem for any host at [`LOCAL`], with one namespace a geometry.
pub(super) fn table_with(geometries: &[Geometry]) -> SubsystemTable {
    let mut table = SubsystemTable::new();
    let serial = "SN1";
    table
        .create_subsystem(&SubsystemSpec {
            serial,
            allow_any_host: true,
            ..SubsystemSpec::new(NQN)
        })
        .unwrap();
    table.add_listener(NQN, LOCAL.parse().unwrap()).unwrap();
    for (bdev, geometry) in (0..).zip(geometries) {
        add_ns(&mut table, bdev, geometry);
    }
    table
}

pub(super) fn add_ns(table: &mut SubsystemTable, bdev: u16, geometry: &Geometry) -> u32 {
    let spec = NamespaceSpec {
        nsid: None,
        bdev: BdevId(bdev),
        geometry,
        uuid: None,
        nguid: None,
        eui64: None,
    };
    table.add_ns(NQN, &spec).unwrap()
}

/// A Connect command and its data.
pub(super) fn connect_bytes(subnqn: &str, qid: u16, cntlid: u16) -> (Sqe, ConnectData) {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = FABRICS;
    sqe.nsid.set(u32::from(fctype::CONNECT));
    sqe.cdw10.set(u32::from(qid) << 16);
    sqe.cdw11.set(31);
    sqe.cdw12.set(if qid == 0 { 4500 } else { 0 });
    let mut data = ConnectData::new_zeroed();
    data.hostid = [7; 16];
    data.cntlid.set(cntlid);
    data.subnqn[..subnqn.len()].copy_from_slice(subnqn.as_bytes());
    data.hostnqn[..HOST.len()].copy_from_slice(HOST.as_bytes());
    (sqe, data)
}

pub(super) fn request(subnqn: &str, qid: u16, cntlid: u16) -> ConnectRequest {
    let (sqe, data) = connect_bytes(subnqn, qid, cntlid);
    ConnectRequest::parse(&sqe, data.as_bytes()).unwrap()
}

pub(super) fn connect_context(table: &SubsystemTable) -> ConnectContext<'_> {
    ConnectContext { table, cntlid: 1, local_address: LOCAL.parse().unwrap(), now_ms: 1000 }
}

/// A controller that has not been enabled.
pub(super) fn disabled(table: &SubsystemTable, subnqn: &str) -> Controller {
    let request = request(subnqn, 0, CNTLID_DYNAMIC);
    Controller::connect(&request, &connect_context(table)).unwrap()
}

/// A controller ready for commands.
pub(super) fn ready(table: &SubsystemTable, subnqn: &str) -> Controller {
    let mut controller = disabled(table, subnqn);
    set_cc(&mut controller, table, 0x0046_0061);
    assert_eq!(controller.state(), ControllerState::Ready);
    controller
}

pub(super) fn ready_discovery(table: &SubsystemTable) -> Controller {
    ready(table, DISCOVERY_NQN)
}

pub(super) fn property(kind: u8, size: u32, offset: u32, value: u64) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = FABRICS;
    sqe.nsid.set(u32::from(kind));
    sqe.cdw10.set(u32::from(size == 8));
    sqe.cdw11.set(offset);
    sqe.cdw12.set(u32::try_from(value & 0xffff_ffff).unwrap());
    sqe.cdw13.set(u32::try_from(value >> 32).unwrap());
    sqe
}

pub(super) fn set_cc(controller: &mut Controller, table: &SubsystemTable, cc: u64) -> Effect {
    let sqe = property(fctype::PROPERTY_SET, 4, 0x14, cc);
    match controller.admin(&at(table, 1000), &sqe, &mut []) {
        AdminOutcome::Complete { status: Status::SUCCESS, effect, .. } => effect,
        other => panic!("CC was refused: {other:?}"),
    }
}

pub(super) fn at(table: &SubsystemTable, now_ms: u64) -> AdminContext<'_> {
    AdminContext { table, now_ms, up_ms: 2 * 3_600_000 + 1 }
}

pub(super) fn command(opcode: u8, nsid: u32, cdw10: u32, cdw11: u32) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = opcode;
    sqe.flags = 0x40;
    sqe.nsid.set(nsid);
    sqe.cdw10.set(cdw10);
    sqe.cdw11.set(cdw11);
    sqe
}

/// Executes a command that completes: data and dword 0, or the status.
pub(super) fn run(
    controller: &mut Controller,
    table: &SubsystemTable,
    sqe: &Sqe,
    len_bytes: usize,
) -> Result<(Vec<u8>, u64), Status> {
    let mut data = vec![0xaa; len_bytes];
    match controller.admin(&at(table, 2000), sqe, &mut data) {
        AdminOutcome::Complete { status: Status::SUCCESS, result, data_len_bytes, .. } => {
            data.truncate(data_len_bytes);
            Ok((data, result))
        }
        AdminOutcome::Complete { status, .. } => Err(status),
        other => panic!("{other:?}"),
    }
}

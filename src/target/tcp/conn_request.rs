//! From a capsule to a command that can execute: data pointer, buffer, R2T.

use super::conn::Connection;
use super::conn_recv::RxState;
use super::request::{RequestState, Transfer};
use crate::reactor::buf::BufPool;
use crate::wire::nvme::{Cqe, Sqe, Status};

/// SGL descriptor: data block (type 0h), address is an offset into the capsule (sub type 1h).
pub(super) const SGL_IN_CAPSULE: u8 = 0x01;
/// SGL descriptor: transport data block (type 5h), transport specific (sub type Ah).
pub(super) const SGL_TRANSPORT: u8 = 0x5a;
/// PSDT 01b: SGLs, the only form that Fabrics allows.
const PSDT_SGL: u8 = 0b01;
/// Opcode of all Fabrics commands; FCTYPE in byte 4 says which.
const OPCODE_FABRICS: u8 = 0x7f;

/// Data transfer direction: bits 1:0 of the opcode, of FCTYPE for Fabrics commands.
fn direction(sqe: &Sqe) -> u8 {
    let [fctype, ..] = sqe.nsid.get().to_le_bytes();
    3 & if sqe.opcode == OPCODE_FABRICS { fctype } else { sqe.opcode }
}

/// How and how much data a command moves, or why it cannot. `payload_bytes` came in the capsule.
pub(super) fn plan_transfer(
    sqe: &Sqe,
    payload_bytes: u32,
    io_size_bytes_max: u32,
) -> Result<(Transfer, u32), Status> {
    let length = sqe.sgl_length.get();
    let direction = direction(sqe);
    // The data pointer of a command without data means nothing.
    if direction == 0b00 || length == 0 {
        return if payload_bytes == 0 {
            Ok((Transfer::None, 0))
        } else {
            Err(Status::DATA_SGL_LENGTH_INVALID.dnr())
        };
    }
    if direction == 0b11 {
        return Err(Status::INVALID_OPCODE.dnr());
    }
    if sqe.flags >> 6 != PSDT_SGL {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let to_host = direction == 0b10;
    let transfer = match sqe.sgl_type {
        SGL_TRANSPORT if payload_bytes != 0 => return Err(Status::DATA_SGL_LENGTH_INVALID.dnr()),
        SGL_TRANSPORT if to_host => Transfer::ToHost,
        SGL_TRANSPORT => Transfer::ByR2t,
        SGL_IN_CAPSULE if to_host => return Err(Status::SGL_DESCRIPTOR_TYPE_INVALID.dnr()),
        SGL_IN_CAPSULE if sqe.sgl_address.get() != 0 => {
            return Err(Status::SGL_OFFSET_INVALID.dnr());
        }
        SGL_IN_CAPSULE if length != payload_bytes => {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        SGL_IN_CAPSULE => Transfer::InCapsule,
        _ => return Err(Status::SGL_DESCRIPTOR_TYPE_INVALID.dnr()),
    };
    // Beyond MDTS: Invalid Field in Command (Base, section 5.1.13, MDTS).
    if length > io_size_bytes_max {
        Err(Status::INVALID_FIELD.dnr())
    } else {
        Ok((transfer, length))
    }
}

impl Connection {
    /// A capsule takes the free slot `slot`.
    pub(super) fn start_request(
        &mut self,
        slot: u16,
        sqe: &Sqe,
        payload_bytes: u32,
        pool: &BufPool,
    ) {
        let owns_cid = self.cids.insert(sqe.cid.get());
        let plan = if owns_cid {
            plan_transfer(sqe, payload_bytes, self.config.io_size_bytes_max)
        } else {
            Err(Status::COMMAND_ID_CONFLICT.dnr())
        };
        let request = self.request_at(slot);
        request.sqe = *sqe;
        request.owns_cid = owns_cid;
        request.received_bytes = 0;
        (request.transfer, request.data_bytes) = plan.unwrap_or((Transfer::None, 0));
        request.error = plan.err();
        match plan {
            Ok((Transfer::None, _)) => self.make_ready(slot),
            // Those that wait already go first.
            Ok((_, length)) if self.waiting.is_empty() => match pool.get(length as usize) {
                Some(buf) => {
                    self.request_at(slot).buf = Some(buf);
                    self.start_transfer(slot);
                }
                None => self.wait_for_buffer(slot),
            },
            Ok(_) => self.wait_for_buffer(slot),
            Err(status) if payload_bytes == 0 => self.refuse(slot, status),
            Err(_) => {
                self.set_state(slot, RequestState::Refused);
                self.expect_payload(slot, 0);
            }
        }
    }

    fn wait_for_buffer(&mut self, slot: u16) {
        self.set_state(slot, RequestState::NeedBuffer);
        self.waiting.push_back(slot);
        if self.request(slot).transfer == Transfer::InCapsule {
            self.rx.state = RxState::AwaitBuffer;
        }
    }

    /// The command's buffer is there: its data may come, or it may execute.
    fn start_transfer(&mut self, slot: u16) {
        match self.request(slot).transfer {
            Transfer::InCapsule => {
                self.set_state(slot, RequestState::AwaitCapsuleData);
                self.expect_payload(slot, 0);
            }
            Transfer::ByR2t => {
                self.set_state(slot, RequestState::AwaitH2cData);
                self.queue_r2t(slot);
            }
            Transfer::ToHost => self.make_ready(slot),
            Transfer::None => unreachable!("a command without data needs no buffer"),
        }
    }

    /// Whether commands wait for a buffer: the driver calls [`Connection::retry_buffers`] when
    /// some came back to the pool.
    #[must_use]
    pub fn needs_buffers(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Tries again to give waiting commands their buffers, oldest first. `true`: some got one, so
    /// there may be commands to execute, PDUs to send, and bytes to take.
    pub fn retry_buffers(&mut self, pool: &BufPool) -> bool {
        let mut progress = false;
        while let Some(&slot) = self.waiting.front() {
            let Some(buf) = pool.get(self.request(slot).data_bytes as usize) else { break };
            self.waiting.pop_front();
            self.request_at(slot).buf = Some(buf);
            self.start_transfer(slot);
            progress = true;
        }
        progress
    }

    fn make_ready(&mut self, slot: u16) {
        self.set_state(slot, RequestState::Ready);
        self.ready.push_back(slot);
    }

    fn refuse(&mut self, slot: u16, status: Status) {
        let cqe = Cqe::new(self.request(slot).cid(), status, 0);
        self.respond(slot, cqe, 0);
    }

    /// `payload_bytes` more of the data of the command in `slot` arrived.
    pub(super) fn payload_complete(&mut self, slot: u16, payload_bytes: u32) {
        let request = self.request_at(slot);
        request.received_bytes += payload_bytes;
        let all = match request.state {
            RequestState::Refused => true,
            RequestState::AwaitCapsuleData | RequestState::AwaitH2cData => {
                request.received_bytes == request.data_bytes
            }
            state => unreachable!("payload arrived in state {state:?}"),
        };
        let error = request.error;
        match error {
            Some(status) if all => self.refuse(slot, status),
            None if all => self.make_ready(slot),
            _ => {}
        }
    }
}

//! From a capsule to a command that can execute: data pointer, buffer, R2T.

use super::conn::Connection;
use super::conn_fused::{FUSE_MASK, Fused, FusedNext};
use super::conn_recv::RxState;
use super::request::{Request, RequestId, RequestState, Transfer};
use crate::limits::IN_CAPSULE_DATA_BYTES;
use crate::reactor::buf::{BufPool, CLASS_COUNTS, CLASS_SIZES_BYTES};
use crate::wire::nvme::opcode::admin;
use crate::wire::nvme::{Cqe, Sqe, Status};

/// SGL descriptor: data block (type 0h), address is an offset into the capsule (sub type 1h).
pub(super) const SGL_IN_CAPSULE: u8 = 0x01;
/// SGL descriptor: transport data block (type 5h), transport specific (sub type Ah).
pub(super) const SGL_TRANSPORT: u8 = 0x5a;
/// PSDT 01b: SGLs, the only form that Fabrics allows.
const PSDT_SGL: u8 = 0b01;
/// Opcode of all Fabrics commands; FCTYPE in byte 4 says which.
const OPCODE_FABRICS: u8 = 0x7f;

/// Buffers large enough for any in-capsule data that commands waiting for H2CData leave free.
///
/// Such a command keeps its buffer until the host's data comes, and that may lie in the stream
/// behind a capsule whose own data needs a buffer first. If R2Ts could take the last buffer, all
/// connections of a core could wait for one another for ever. Every other holder of a buffer ends
/// without reading more from the stream, or, the first of a fused operation, is refused when its
/// second finds no buffer. A core's pool therefore needs more than this many.
const R2T_RESERVE: usize = 2;

const _: () = assert!(R2T_RESERVE < CLASS_COUNTS[1] + CLASS_COUNTS[2]);

/// Bytes of buffers that a connection may hold whatever the others have left: below, nobody looks
/// at what is free.
const HELD_UNASKED_BYTES: usize = 32 * 1024;

fn large_buffers_free(pool: &BufPool) -> usize {
    let counts = pool.free_counts().into_iter().zip(CLASS_SIZES_BYTES);
    counts.filter(|(_, size)| *size >= IN_CAPSULE_DATA_BYTES).map(|(count, _)| count).sum()
}

/// Data transfer direction: bits 1:0 of the opcode, of FCTYPE for Fabrics commands.
fn direction(sqe: &Sqe) -> u8 {
    let [fctype, ..] = sqe.nsid.get().to_le_bytes();
    3 & if sqe.opcode == OPCODE_FABRICS { fctype } else { sqe.opcode }
}

/// How and how much data a command moves, or why it cannot. `payload_bytes` came in the capsule.
pub(super) fn plan_transfer(
    sqe: &Sqe,
    payload_bytes: u32,
    transfer_size_bytes_max: u32,
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
    if length > transfer_size_bytes_max {
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
        let is_new = self.cids.insert(sqe.cid.get());
        let replaces_events = !is_new && self.give_up_events(sqe.cid.get());
        let owns_cid = is_new || replaces_events;
        let plan = if owns_cid {
            plan_transfer(sqe, payload_bytes, self.config.transfer_size_bytes_max)
        } else {
            Err(Status::COMMAND_ID_CONFLICT.dnr())
        };
        let plan = if sqe.flags & FUSE_MASK != 0 || self.fused_next != FusedNext::Any {
            self.link_fused(slot, sqe, plan)
        } else {
            plan
        };
        let request = self.request_at(slot);
        request.sqe = *sqe;
        request.owns_cid = owns_cid;
        request.replaces_events = replaces_events;
        request.received_bytes = 0;
        (request.transfer, request.data_bytes) = plan.unwrap_or((Transfer::None, 0));
        request.error = plan.err();
        match plan {
            Ok((Transfer::None, _)) => self.make_ready(slot),
            Ok((transfer, _)) => self.find_buffer(slot, transfer, payload_bytes, pool),
            Err(status) => self.refuse_capsule(slot, status, payload_bytes),
        }
    }

    /// The command in `slot`, which has just come, gets its buffer now or later.
    fn find_buffer(&mut self, slot: u16, transfer: Transfer, payload_bytes: u32, pool: &BufPool) {
        let in_capsule = transfer == Transfer::InCapsule;
        let first = self.first_of(slot);
        let first_keeps_one = first.is_some_and(|first| first.buf.is_some());
        let first_waits = first.is_some_and(|first| first.state == RequestState::NeedBuffer);
        // Those that wait already go first; a capsule's data cannot wait behind them, because
        // everything behind it in the stream waits with it.
        let is_next = in_capsule || self.waiting.is_empty() || first_keeps_one;
        if first_waits && in_capsule {
            self.give_up_pair(slot, payload_bytes);
        } else if is_next && self.take_buffer(slot, pool) {
            self.start_transfer(slot);
        } else if first_keeps_one {
            self.give_up_pair(slot, payload_bytes);
        } else {
            self.wait_for_buffer(slot);
        }
    }

    /// Refuses the command in `slot`, which has just come, when its data in the capsule are past.
    pub(super) fn refuse_capsule(&mut self, slot: u16, status: Status, payload_bytes: u32) {
        if payload_bytes == 0 {
            self.refuse(slot, status);
        } else {
            self.set_state(slot, RequestState::Refused);
            self.expect_payload(slot, 0);
        }
    }

    /// On an admin queue a command has the CID of an Asynchronous Event Request: SPDK's host ends
    /// all of those for itself before it shuts a controller down, and uses their CIDs again. They
    /// are forgotten, and the new command has its CID. `false`: nothing of that kind.
    #[cold]
    fn give_up_events(&mut self, cid: u16) -> bool {
        let is_event = |request: &Request| {
            request.state == RequestState::Executing
                && request.owns_cid
                && request.sqe.opcode == admin::ASYNC_EVENT_REQUEST
        };
        if !self.is_admin || !self.requests.iter().any(|one| is_event(one) && one.cid() == cid) {
            return false;
        }
        while let Some(slot) = self.requests.iter().position(is_event) {
            self.release(u16::try_from(slot).expect("slots fit u16"));
        }
        self.cids.insert(cid)
    }

    /// Whether the command has shown that the host has given up all Asynchronous Event Requests
    /// before it: the controller must not answer them any more.
    #[must_use]
    pub fn replaces_events(&self, id: RequestId) -> bool {
        self.request(self.executing_slot(id)).replaces_events
    }

    /// Gets the buffer of the command in `slot`; `false`: none now.
    fn take_buffer(&mut self, slot: u16, pool: &BufPool) -> bool {
        let request = self.request(slot);
        let bytes = request.data_bytes as usize;
        // The second of a fused operation is what lets go of the first's.
        let may_hold = || matches!(request.fused, Fused::Second(_)) || self.may_hold(bytes, pool);
        let is_refused = match request.transfer {
            Transfer::ByR2t => large_buffers_free(pool) <= R2T_RESERVE || !may_hold(),
            Transfer::ToHost => !may_hold(),
            // Nothing behind it is read before it has its buffer, not even the data for which
            // this connection holds others; and it holds it only while it executes.
            Transfer::InCapsule | Transfer::None => false,
        };
        if is_refused {
            return false;
        }
        let Some(buf) = pool.get(bytes) else { return false };
        self.held_bytes += buf.buffer_bytes();
        self.request_at(slot).buf = Some(buf);
        true
    }

    /// Whether the connection may hold `bytes` more: it leaves the others at least as much as it
    /// has. A host that takes no data, or sends none that it was asked for, so never holds what
    /// all need: `n` of these leave one part in `n + 1`.
    fn may_hold(&self, bytes: usize, pool: &BufPool) -> bool {
        let held_bytes = self.held_bytes + bytes;
        held_bytes <= HELD_UNASKED_BYTES || held_bytes <= pool.free_bytes(bytes)
    }

    fn wait_for_buffer(&mut self, slot: u16) {
        self.set_state(slot, RequestState::NeedBuffer);
        if self.request(slot).transfer == Transfer::InCapsule {
            // At most one, named by rx.slot: nothing more is read until it has its buffer.
            self.rx.state = RxState::AwaitBuffer;
        } else {
            self.waiting.push_back(slot);
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
        !self.waiting.is_empty() || self.rx.state == RxState::AwaitBuffer
    }

    /// Tries again to give waiting commands their buffers, oldest first. `true`: some got one, so
    /// there may be commands to execute, PDUs to send, and bytes to take.
    pub fn retry_buffers(&mut self, pool: &BufPool) -> bool {
        let mut progress = false;
        if self.rx.state == RxState::AwaitBuffer && self.take_buffer(self.rx.slot, pool) {
            self.start_transfer(self.rx.slot);
            progress = true;
        }
        while let Some(&slot) = self.waiting.front() {
            let second = self.waiting_second(slot);
            let has_enough = second.is_none() || pool.free_counts().iter().sum::<usize>() >= 2;
            if !has_enough || !self.take_buffer(slot, pool) {
                break;
            }
            self.waiting.pop_front();
            self.start_transfer(slot);
            progress = true;
            if let Some(second) = second {
                if self.take_buffer(second, pool) {
                    let next = self.waiting.pop_front();
                    assert_eq!(next, Some(second), "it is the next command of the queue");
                    self.start_transfer(second);
                } else {
                    self.withdraw(second, Status::COMMAND_INTERRUPTED);
                }
            }
        }
        progress
    }

    fn make_ready(&mut self, slot: u16) {
        if self.request(slot).fused != Fused::No {
            return self.fused_ready(slot);
        }
        self.set_state(slot, RequestState::Ready);
        self.ready.push_back(slot);
    }

    pub(super) fn refuse(&mut self, slot: u16, status: Status) {
        let cqe = Cqe::new(self.request(slot).cid(), status, 0);
        self.respond(slot, cqe, 0);
        self.fused_refused(slot);
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
        self.transfers_ended += u64::from(all);
        match error {
            Some(status) if all => self.refuse(slot, status),
            None if all => self.make_ready(slot),
            _ => {}
        }
    }
}

//! The connection, its configuration, its life from ICReq to the end.

use std::collections::VecDeque;

use super::conn_fused::{Fused, FusedNext};
use super::conn_recv::{Receive, RxState};
use super::request::{CidSet, Request, RequestId, RequestState};
use crate::limits::{
    IN_CAPSULE_DATA_BYTES, IO_QUEUE_DEPTH_MAX, IO_SIZE_BYTES_MAX, TRANSFER_SIZE_BYTES_MAX,
};
use crate::reactor::buf::IoBuf;
use crate::wire::nvme::Sqe;
use crate::wire::tcp::header::{LinkRules, Receiver, alignment_bytes};
use crate::wire::tcp::pdu::{ALIGNMENT_MAX, HEADER_BYTES_MAX, MAXH2CDATA_MIN_BYTES};
use crate::wire::tcp::transmit::SEGMENTS_MAX;
use crate::wire::tcp::{PduError, TransmitQueue};

/// Request slots before Fabrics Connect names the queue's depth: the host may only send Connect.
const SLOTS_BEFORE_CONNECT: usize = 4;

/// Segments one command can have queued: its R2T (sent, but not yet reported so), header and data
/// of C2HData, digest and response.
const SEGMENTS_PER_SLOT: usize = 4;

/// Segments that belong to no command: ICResp and C2HTermReq.
const SEGMENTS_EXTRA: usize = 2;

/// Header bytes one command can have queued: R2T 28, C2HData's header padded to at most 128, data
/// digest 4, response 28.
const RING_BYTES_PER_SLOT: usize = 28 + HEADER_BYTES_MAX + 4 + 28;

/// ICResp, C2HTermReq, and the largest of all once more because the ring never splits one.
const RING_BYTES_EXTRA: usize = 128 + 152 + 152;

/// When C2HData with the SUCCESS flag may stand for the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum C2hSuccess {
    /// Never.
    Never,
    /// On queues without SQ flow control, where the host needs no SQHD (the specification's rule).
    WithoutFlowControl,
    /// Always, as SPDK does; SQHD then reaches the host with the next response only.
    Always,
}

/// What the target offers on a connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionConfig {
    /// Agree to header digests.
    pub header_digest: bool,
    /// Agree to data digests.
    pub data_digest: bool,
    /// CPDA: alignment of data in PDUs of the host in dwords, 0's based.
    pub cpda: u8,
    /// MAXH2CDATA: data of one H2CData at most.
    pub max_h2c_data_bytes: u32,
    /// In-capsule data at most.
    pub in_capsule_data_bytes: u32,
    /// Data of one command at most.
    pub transfer_size_bytes_max: u32,
    /// When SUCCESS may stand for the response.
    pub c2h_success: C2hSuccess,
}

#[allow(clippy::cast_possible_truncation, reason = "constants, asserted below")]
impl Default for ConnectionConfig {
    fn default() -> Self {
        const _: () = assert!(TRANSFER_SIZE_BYTES_MAX <= u32::MAX as usize);
        const _: () = assert!(IN_CAPSULE_DATA_BYTES <= u32::MAX as usize);
        Self {
            header_digest: true,
            data_digest: true,
            cpda: 0,
            max_h2c_data_bytes: IO_SIZE_BYTES_MAX as u32,
            in_capsule_data_bytes: IN_CAPSULE_DATA_BYTES as u32,
            transfer_size_bytes_max: TRANSFER_SIZE_BYTES_MAX as u32,
            c2h_success: C2hSuccess::WithoutFlowControl,
        }
    }
}

const _: () = assert!(IO_SIZE_BYTES_MAX >= MAXH2CDATA_MIN_BYTES as usize);
const _: () = assert!(IO_QUEUE_DEPTH_MAX < u16::MAX as usize);

// What a full queue of reads has to say leaves in one send.
const _: () = assert!(2 * IO_QUEUE_DEPTH_MAX <= SEGMENTS_MAX);

/// Life of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing but ICReq may come.
    AwaitIcReq,
    /// ICResp is queued or sent; capsules flow.
    Established,
    /// The host broke the protocol: C2HTermReq is on its way, nothing more is read.
    Terminating,
    /// Over: the driver ends the socket. Commands may still be executing.
    Closed,
}

/// The submission queue as far as responses tell of it.
#[derive(Debug, Default)]
pub(super) struct SubmissionQueue {
    pub(super) depth: u16,
    pub(super) head: u16,
    pub(super) flow_control_disabled: bool,
}

/// One NVMe/TCP connection of the target. See the module's text.
#[derive(Debug)]
pub struct Connection {
    pub(super) config: ConnectionConfig,
    pub(super) phase: Phase,
    /// Why the connection was terminated.
    pub(super) error: Option<PduError>,
    pub(super) rules: LinkRules,
    /// Alignment of data in our PDUs, from HPDA.
    pub(super) host_alignment_bytes: u8,
    pub(super) rx: Receive,
    pub(super) tx: TransmitQueue,
    pub(super) requests: Vec<Request>,
    pub(super) free: Vec<u16>,
    pub(super) ready: VecDeque<u16>,
    pub(super) waiting: VecDeque<u16>,
    pub(super) population: [u16; RequestState::COUNT],
    pub(super) cids: CidSet,
    pub(super) sq: SubmissionQueue,
    pub(super) fused_next: FusedNext,
    /// It is an admin queue.
    pub(super) is_admin: bool,
    /// Bytes of the buffers that its commands hold.
    pub(super) held_bytes: usize,
    /// Commands whose data have all come, so far.
    pub(super) transfers_ended: u64,
}

impl Connection {
    /// A connection whose TCP handshake is done.
    ///
    /// # Panics
    /// If the configuration is one that the specification does not allow.
    #[must_use]
    pub fn new(config: ConnectionConfig) -> Self {
        assert!(config.cpda <= ALIGNMENT_MAX, "CPDA is at most 31");
        assert!(config.max_h2c_data_bytes >= MAXH2CDATA_MIN_BYTES, "MAXH2CDATA is too small");
        let rules = LinkRules {
            receiver: Receiver::Controller,
            header_digest: false,
            data_digest: false,
            alignment_bytes: alignment_bytes(config.cpda),
            capsule_data_bytes_max: config.in_capsule_data_bytes,
            data_bytes_max: config.max_h2c_data_bytes,
        };
        let (items, ring_bytes) = transmit_size(SLOTS_BEFORE_CONNECT);
        let mut connection = Self {
            config,
            phase: Phase::AwaitIcReq,
            error: None,
            rules,
            host_alignment_bytes: 4,
            rx: Receive::new(),
            tx: TransmitQueue::new(items, ring_bytes),
            requests: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            population: [0; RequestState::COUNT],
            cids: CidSet::new(),
            sq: SubmissionQueue::default(),
            fused_next: FusedNext::Any,
            is_admin: false,
            held_bytes: 0,
            transfers_ended: 0,
        };
        connection.add_slots(SLOTS_BEFORE_CONNECT);
        connection
    }

    /// Fabrics Connect was accepted for a queue of `depth` entries (SQSIZE + 1): makes the slots
    /// for it. To be called once, before Connect is completed.
    ///
    /// # Panics
    /// If called twice, or with a depth that the limits do not allow.
    pub fn set_queue_depth(&mut self, depth: u16) {
        assert_eq!(self.sq.depth, 0, "a queue has one depth");
        assert!(depth > 0 && usize::from(depth) <= IO_QUEUE_DEPTH_MAX, "queue depth out of range");
        self.sq.depth = depth;
        let slots = usize::from(depth).max(self.requests.len());
        if slots > self.requests.len() {
            let (items, ring_bytes) = transmit_size(slots);
            self.tx.grow(items, ring_bytes);
            self.add_slots(slots);
        }
    }

    fn add_slots(&mut self, total: usize) {
        let from = self.requests.len();
        self.requests.reserve_exact(total - from);
        self.free.reserve_exact(total - self.free.len());
        self.ready.reserve_exact(total - self.ready.len());
        self.waiting.reserve_exact(total - self.waiting.len());
        for slot in from..total {
            self.requests.push(Request::new());
            self.free.push(u16::try_from(slot).expect("asserted against the limits"));
        }
        // Lowest slot on top: a queue at depth 1 uses one slot's memory.
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        self.population[RequestState::Free as usize] +=
            u16::try_from(total - from).expect("asserted against the limits");
    }

    /// Connect asked for no SQ flow control (CATTR bit 2) and the controller agreed: responses
    /// carry no SQHD from here on.
    pub fn set_flow_control_disabled(&mut self, disabled: bool) {
        self.sq.flow_control_disabled = disabled;
    }

    /// Connect has made it an admin queue.
    pub fn set_admin(&mut self) {
        self.is_admin = true;
    }

    /// Where the connection is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The protocol error that ends the connection, for the log.
    #[must_use]
    pub fn error(&self) -> Option<PduError> {
        self.error
    }

    /// Header and data digests, as negotiated.
    #[must_use]
    pub fn digests(&self) -> (bool, bool) {
        (self.rules.header_digest, self.rules.data_digest)
    }

    /// Nothing more is to be sent or read: the driver shuts down the socket's sending side (so
    /// that a C2HTermReq still arrives), discards what comes until the peer closes or its patience
    /// ends, and calls [`Connection::abort`].
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Commands in `state`.
    #[must_use]
    pub fn population(&self, state: RequestState) -> u16 {
        self.population[state as usize]
    }

    /// Commands that the controller or a bdev still owes a completion for.
    #[must_use]
    pub fn executing_count(&self) -> usize {
        usize::from(self.population(RequestState::Executing))
    }

    /// Closed, no command executes, and the kernel holds none of the connection's memory: it may
    /// be dropped.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.phase == Phase::Closed
            && usize::from(self.population(RequestState::Free)) == self.requests.len()
            && !self.tx.is_in_flight()
            && !self.rx.direct_in_flight
    }

    /// Ends the connection at once (socket error, end of stream, controller reset). What no one
    /// works on is released; executing commands keep their buffers until completed, and memory in
    /// the kernel's hands until [`Connection::transmitted`] or [`Connection::handle_direct`].
    pub fn abort(&mut self) {
        self.phase = Phase::Closed;
        self.rx.state = RxState::Stopped;
        self.release_unstarted();
        self.release_unsent();
    }

    /// Releases commands that neither execute nor have a response queued.
    pub(super) fn release_unstarted(&mut self) {
        self.ready.clear();
        self.waiting.clear();
        for slot in 0..self.requests.len() {
            let slot = u16::try_from(slot).expect("slots fit u16");
            let is_receiving = self.rx.direct_in_flight && self.rx.slot == slot;
            let unstarted = matches!(
                self.request(slot).state,
                RequestState::NeedBuffer
                    | RequestState::AwaitCapsuleData
                    | RequestState::Refused
                    | RequestState::AwaitH2cData
                    | RequestState::Ready
            );
            if unstarted && !is_receiving {
                self.release(slot);
            }
        }
    }

    /// Drops queued responses, unless the kernel still reads them.
    pub(super) fn release_unsent(&mut self) {
        if self.tx.is_in_flight() {
            return;
        }
        self.tx.clear();
        for slot in 0..self.requests.len() {
            let slot = u16::try_from(slot).expect("slots fit u16");
            let state = self.request(slot).state;
            if matches!(state, RequestState::TransferringC2h | RequestState::Responding) {
                self.release(slot);
            }
        }
    }

    pub(super) fn request(&self, slot: u16) -> &Request {
        &self.requests[usize::from(slot)]
    }

    pub(super) fn request_at(&mut self, slot: u16) -> &mut Request {
        &mut self.requests[usize::from(slot)]
    }

    /// The one place where a command changes its state.
    pub(super) fn set_state(&mut self, slot: u16, next: RequestState) {
        let state = &mut self.requests[usize::from(slot)].state;
        assert!(state.leads_to(next), "request goes from {state:?} to {next:?}");
        self.population[*state as usize] -= 1;
        self.population[next as usize] += 1;
        *state = next;
    }

    /// Frees the slot of `slot`, its buffer and its CID.
    pub(super) fn release(&mut self, slot: u16) {
        self.set_state(slot, RequestState::Free);
        self.return_buffer(slot);
        let request = self.request_at(slot);
        request.generation = request.generation.wrapping_add(1);
        let (owns_cid, cid) = (request.owns_cid, request.cid());
        request.owns_cid = false;
        request.fused = Fused::No;
        if owns_cid {
            self.cids.remove(cid);
        }
        self.free.push(slot);
    }

    /// The command in `slot` needs its buffer no more.
    pub(super) fn return_buffer(&mut self, slot: u16) {
        if let Some(buf) = self.request_at(slot).buf.take() {
            self.held_bytes -= buf.buffer_bytes();
        }
    }

    /// Bytes of the buffers that its commands keep from the pool.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Commands that wait for what the host has not sent, data or the second command of a fused
    /// operation, and how many have got all their data so far: where there are some and the second
    /// number stands still, the host owes it.
    #[must_use]
    pub fn inbound_transfers(&self) -> (u16, u64) {
        let awaited = self.population(RequestState::AwaitH2cData)
            + self.population(RequestState::AwaitCapsuleData)
            + u16::from(self.awaits_second());
        (awaited, self.transfers_ended)
    }

    /// Bytes of memory that the connection has for itself; its commands' buffers are the pool's.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.requests.capacity() * size_of::<Request>()
            + (self.free.capacity() + self.ready.capacity() + self.waiting.capacity())
                * size_of::<u16>()
            + CidSet::HEAP_BYTES
            + self.tx.heap_bytes()
    }

    /// The slot of an executing command.
    ///
    /// # Panics
    /// If `id` names no executing command: the controller has mixed something up.
    pub(super) fn executing_slot(&self, id: RequestId) -> u16 {
        let request = self.request(id.slot);
        assert_eq!(request.generation, id.generation, "request id is stale");
        assert_eq!(request.state, RequestState::Executing, "request does not execute");
        id.slot
    }

    /// The next command to execute, in the order of arrival. From here on the caller owes a
    /// [`Connection::complete`].
    pub fn next_command(&mut self) -> Option<(RequestId, Sqe)> {
        let slot = self.ready.pop_front()?;
        self.set_state(slot, RequestState::Executing);
        let request = self.request(slot);
        Some((RequestId { slot, generation: request.generation }, request.sqe))
    }

    /// The command's data buffer, of the length its SGL says; `None` when it has no data.
    #[must_use]
    pub fn request_buf(&self, id: RequestId) -> Option<&IoBuf> {
        self.request(self.executing_slot(id)).buf.as_ref()
    }

    /// The bytes of the command's buffer, to be filled with an answer.
    ///
    /// # Panics
    /// If someone else holds a handle on the buffer.
    pub fn request_data_mut(&mut self, id: RequestId) -> Option<&mut [u8]> {
        let slot = self.executing_slot(id);
        self.request_at(slot).buf.as_mut().map(IoBuf::as_mut_slice)
    }

    /// The command as the host sent it.
    #[must_use]
    pub fn request_sqe(&self, id: RequestId) -> &Sqe {
        &self.request(self.executing_slot(id)).sqe
    }

    /// The executing command with `cid`, for the Abort command.
    #[must_use]
    pub fn find_cid(&self, cid: u16) -> Option<RequestId> {
        let slot = self
            .requests
            .iter()
            .position(|r| r.state == RequestState::Executing && r.owns_cid && r.cid() == cid)?;
        let generation = self.requests[slot].generation;
        Some(RequestId { slot: u16::try_from(slot).expect("slots fit u16"), generation })
    }
}

/// Bytes that [`Connection::memory_bytes`] says at most: queue, ring and request slots for the
/// largest depth, and the ring from before Connect.
pub const CONNECTION_MEMORY_BYTES_MAX: usize = {
    let (items, ring_bytes) = transmit_size(IO_QUEUE_DEPTH_MAX);
    let (_, first_ring_bytes) = transmit_size(SLOTS_BEFORE_CONNECT);
    size_of::<Connection>()
        + IO_QUEUE_DEPTH_MAX * (size_of::<Request>() + 3 * size_of::<u16>())
        + CidSet::HEAP_BYTES
        + TransmitQueue::heap_bytes_of(items, ring_bytes + first_ring_bytes)
};

const _: () = assert!(SLOTS_BEFORE_CONNECT <= IO_QUEUE_DEPTH_MAX);

const fn transmit_size(slots: usize) -> (usize, usize) {
    (slots * SEGMENTS_PER_SLOT + SEGMENTS_EXTRA, slots * RING_BYTES_PER_SLOT + RING_BYTES_EXTRA)
}

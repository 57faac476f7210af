//! One queue's connection without I/O: state and life.

use std::collections::VecDeque;

use zerocopy::FromZeros;

use super::conn_recv::Receive;
use crate::reactor::buf::IoBuf;
use crate::wire::nvme::{Cqe, Status};
use crate::wire::tcp::header::{LinkRules, Receiver, alignment_bytes};
use crate::wire::tcp::pdu::{ALIGNMENT_MAX, HEADER_BYTES_MAX};
use crate::wire::tcp::{PduError, TransmitQueue};

/// Commands in flight on one queue at most; the CID's other bits tell uses of a slot apart.
pub const HOST_QUEUE_DEPTH_MAX: usize = 1024;
const SLOT_BITS: u32 = 10;
const _: () = assert!(1 << SLOT_BITS == HOST_QUEUE_DEPTH_MAX);

/// Segments a PDU with data can take: header, data, digest.
pub(super) const SEGMENTS_PER_PDU: usize = 3;
/// Ring bytes a PDU can take: the header padded to at most 128, and a data digest.
pub(super) const RING_BYTES_PER_PDU: usize = HEADER_BYTES_MAX + 4;
/// H2CData PDUs that may wait to be sent at once, on top of one capsule a command.
const H2C_DATA_QUEUED: usize = 16;
/// ICReq, H2CTermReq, and the largest of them again because the ring never splits one.
const RING_BYTES_EXTRA: usize = 128 + 152 + 152;

/// What the host asks for.
#[derive(Debug, Clone, Copy)]
pub struct HostConfig {
    /// Ask for header digests.
    pub header_digest: bool,
    /// Ask for data digests.
    pub data_digest: bool,
    /// HPDA: alignment of data in the controller's PDUs in dwords, 0's based.
    pub hpda: u8,
    /// Commands in flight at most.
    pub depth: u16,
    /// Write data up to this size travels in the capsule (from IOCCSZ; 8192 on admin queues).
    pub in_capsule_data_bytes: u32,
}

/// Life of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPhase {
    /// ICReq is queued or sent; commands wait.
    AwaitIcResp,
    /// Commands flow.
    Established,
    /// The controller broke the protocol: H2CTermReq is on its way.
    Terminating,
    /// Over.
    Closed,
}

/// Data of a command.
#[derive(Debug)]
pub enum Data {
    /// None.
    None,
    /// The buffer's bytes go to the controller.
    ToController(IoBuf),
    /// The controller fills the buffer.
    ToHost(IoBuf),
}

/// A command that ended.
#[derive(Debug)]
pub struct HostCompletion {
    /// What the submitter called it.
    pub tag: u64,
    /// The completion entry; built here when the SUCCESS flag or a digest error stood for it.
    pub cqe: Cqe,
    /// The command's buffer.
    pub buf: Option<IoBuf>,
}

impl HostCompletion {
    /// Status of the command.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::from_wire(self.cqe.status.get())
    }
}

/// Where a command of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostState {
    /// The slot is unused.
    Free,
    /// The capsule is queued or sent; data and the response are to come.
    InFlight,
    /// The response is here, but the last segment of its data is not yet known to have left.
    AwaitSent,
    /// Ended; the submitter has not fetched the completion yet.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostTransfer {
    None,
    InCapsule,
    ByR2t,
    ToHost,
}

#[derive(Debug)]
pub(super) struct HostRequest {
    pub(super) state: HostState,
    pub(super) cid: u16,
    pub(super) tag: u64,
    pub(super) transfer: HostTransfer,
    pub(super) buf: Option<IoBuf>,
    /// C2H data bytes received.
    pub(super) received_bytes: u32,
    /// PDUs with this command's data that are queued or being sent.
    pub(super) unsent: u32,
    pub(super) ttag: u16,
    pub(super) r2t_at: u32,
    pub(super) r2t_left_bytes: u32,
    pub(super) digest_failed: bool,
    pub(super) cqe: Cqe,
}

impl HostRequest {
    fn new(slot: usize) -> Self {
        Self {
            state: HostState::Free,
            cid: u16::try_from(slot).expect("the depth fits u16"),
            tag: 0,
            transfer: HostTransfer::None,
            buf: None,
            received_bytes: 0,
            unsent: 0,
            ttag: 0,
            r2t_at: 0,
            r2t_left_bytes: 0,
            digest_failed: false,
            cqe: Cqe::new_zeroed(),
        }
    }

    pub(super) fn data_bytes(&self) -> u32 {
        let len = self.buf.as_ref().map_or(0, IoBuf::len);
        u32::try_from(len).expect("buffers fit u32")
    }
}

/// The host's end of one NVMe/TCP connection. The same pattern as the target's: the driver moves
/// bytes, this decides what they mean. Nothing is allocated after [`HostConnection::new`].
#[derive(Debug)]
pub struct HostConnection {
    pub(super) config: HostConfig,
    pub(super) phase: HostPhase,
    pub(super) error: Option<PduError>,
    /// FES and FEI of a C2HTermReq that came.
    pub(super) peer_error: Option<(u16, u32)>,
    pub(super) rules: LinkRules,
    pub(super) controller_alignment_bytes: u8,
    pub(super) max_h2c_data_bytes: u32,
    pub(super) rx: Receive,
    pub(super) tx: TransmitQueue,
    pub(super) requests: Vec<HostRequest>,
    pub(super) free: Vec<u16>,
    pub(super) done: VecDeque<u16>,
    /// Commands whose R2T is being answered.
    pub(super) r2ts: VecDeque<u16>,
}

impl HostConnection {
    /// A connection whose TCP handshake is done; ICReq is queued.
    ///
    /// # Panics
    /// If `config` leaves what the specification or [`HOST_QUEUE_DEPTH_MAX`] allows.
    #[must_use]
    pub fn new(config: HostConfig) -> Self {
        let depth = usize::from(config.depth);
        assert!((1..=HOST_QUEUE_DEPTH_MAX).contains(&depth), "queue depth out of range");
        assert!(config.hpda <= ALIGNMENT_MAX, "HPDA is at most 31");
        let pdus = depth + H2C_DATA_QUEUED;
        let mut connection = Self {
            config,
            phase: HostPhase::AwaitIcResp,
            error: None,
            peer_error: None,
            rules: LinkRules {
                receiver: Receiver::Host,
                header_digest: false,
                data_digest: false,
                alignment_bytes: alignment_bytes(config.hpda),
                capsule_data_bytes_max: 0,
                data_bytes_max: u32::MAX,
            },
            controller_alignment_bytes: 4,
            max_h2c_data_bytes: 0,
            rx: Receive::new(),
            tx: TransmitQueue::new(
                pdus * SEGMENTS_PER_PDU + 2,
                pdus * RING_BYTES_PER_PDU + RING_BYTES_EXTRA,
            ),
            requests: (0..depth).map(HostRequest::new).collect(),
            free: (0..config.depth).rev().collect(),
            done: VecDeque::with_capacity(depth),
            r2ts: VecDeque::with_capacity(depth),
        };
        connection.queue_ic_req();
        connection
    }

    /// Where the connection is in its life.
    #[must_use]
    pub fn phase(&self) -> HostPhase {
        self.phase
    }

    /// What the controller did wrong, if that ended the connection.
    #[must_use]
    pub fn error(&self) -> Option<PduError> {
        self.error
    }

    /// FES and FEI of the controller's C2HTermReq, if that ended the connection.
    #[must_use]
    pub fn peer_error(&self) -> Option<(u16, u32)> {
        self.peer_error
    }

    /// Header and data digests, as negotiated.
    #[must_use]
    pub fn digests(&self) -> (bool, bool) {
        (self.rules.header_digest, self.rules.data_digest)
    }

    /// Commands submitted and not yet fetched as completions.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.requests.len() - self.free.len()
    }

    /// The next completion.
    pub fn next_completion(&mut self) -> Option<HostCompletion> {
        let slot = self.done.pop_front()?;
        let request = &mut self.requests[usize::from(slot)];
        assert_eq!(request.state, HostState::Done, "the queue holds ended commands");
        request.state = HostState::Free;
        // A late PDU for this use of the slot then names a CID that is not in flight.
        request.cid = request.cid.wrapping_add(1 << SLOT_BITS);
        self.free.push(slot);
        Some(HostCompletion { tag: request.tag, cqe: request.cqe, buf: request.buf.take() })
    }

    /// The command in flight that `cid` names.
    pub(super) fn slot_of(&self, cid: u16) -> Option<u16> {
        let slot = cid & ((1 << SLOT_BITS) - 1);
        let request = self.requests.get(usize::from(slot))?;
        (request.state == HostState::InFlight && request.cid == cid).then_some(slot)
    }

    pub(super) fn request_at(&mut self, slot: u16) -> &mut HostRequest {
        &mut self.requests[usize::from(slot)]
    }

    /// The response is here.
    pub(super) fn respond(&mut self, slot: u16, mut cqe: Cqe) {
        let request = self.request_at(slot);
        if request.digest_failed && Status::from_wire(cqe.status.get()).is_success() {
            cqe.status.set(Status::TRANSIENT_TRANSPORT_ERROR.to_wire());
        }
        request.cqe = cqe;
        request.state = HostState::AwaitSent;
        if request.r2t_left_bytes > 0 {
            // The controller gave up on the data: what is not queued yet is not sent.
            request.r2t_left_bytes = 0;
            self.r2ts.retain(|waiting| *waiting != slot);
        }
        self.finish_if_sent(slot);
    }

    pub(super) fn finish_if_sent(&mut self, slot: u16) {
        let request = self.request_at(slot);
        if request.state == HostState::AwaitSent && request.unsent == 0 {
            request.state = HostState::Done;
            self.done.push_back(slot);
        }
    }
}

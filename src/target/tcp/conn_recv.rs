//! Cuts the byte stream into PDUs and puts payload where it belongs.

use zerocopy::FromBytes;

use super::conn::{Connection, Phase};
use super::request::RequestState;
use crate::reactor::buf::{BufPool, IoBuf, Lender};
use crate::wire::nvme::Status;
use crate::wire::tcp::header::alignment_bytes;
use crate::wire::tcp::pdu::{
    ALIGNMENT_MAX, CapsuleCmd, CommonHeader, DGST_DATA, DGST_HEADER, Flags, H2cData, IcReq,
    PduType, field_offset,
};
use crate::wire::tcp::{Assembly, FatalError, PayloadEnd, PduError, PduHeader, check_prologue};

const COMMON_BYTES: usize = size_of::<CommonHeader>();

/// What the receiving side waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RxState {
    /// The common header of a PDU, from its first byte.
    AwaitHeader,
    /// The rest of the header, and its digest.
    AwaitSpecific,
    /// A command capsule is here but every slot still sends its response: reading pauses.
    AwaitSlot,
    /// A command's in-capsule data has no buffer to go to: reading pauses.
    AwaitBuffer,
    /// Padding in front of the data.
    AwaitPadding,
    /// Data of the request in `slot`.
    AwaitPayload,
    /// The data digest.
    AwaitDataDigest,
    /// The connection ends; whatever comes is thrown away.
    Stopped,
}

/// The receiving side.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) state: RxState,
    /// The PDU being received; its header is there from AwaitSpecific on.
    assembly: Assembly,
    /// The request that the payload belongs to.
    pub(super) slot: u16,
    /// The driver has a receive into the request's buffer in flight.
    pub(super) direct_in_flight: bool,
    /// What is taken now stays where it is for a while: [`Connection::handle_lent_bytes`].
    lends: bool,
}

/// Data that is here as a whole stays where it is for as long as the driver leaves it there.
/// `false`: it must be copied.
fn lend(buf: &IoBuf, bytes: &[u8]) -> bool {
    buf.accept_loan();
    // SAFETY: who lets bytes be lent (`handle_lent_bytes`) promises that they stay.
    unsafe { buf.borrow_from(Lender::Receiver, bytes.as_ptr()) }
}

impl Receive {
    pub(super) fn new() -> Self {
        Self {
            state: RxState::AwaitHeader,
            assembly: Assembly::new(),
            slot: 0,
            direct_in_flight: false,
            lends: false,
        }
    }
}

impl Connection {
    /// Whether bytes are of use now. `false` while a command waits for a buffer or a slot: the
    /// driver keeps what it has and stops reading.
    #[must_use]
    pub fn wants_bytes(&self) -> bool {
        match self.rx.state {
            RxState::AwaitBuffer => false,
            RxState::AwaitSlot => !self.free.is_empty(),
            _ => !self.rx.direct_in_flight,
        }
    }

    /// Whether the host was asked for data: the next PDUs may be large ones, whose payload is
    /// better not received before their header has been looked at.
    #[must_use]
    pub fn awaits_data(&self) -> bool {
        self.population(RequestState::AwaitH2cData) > 0
    }

    /// What the receiving side waits for.
    #[must_use]
    pub fn rx_state(&self) -> RxState {
        self.rx.state
    }

    /// Takes bytes from the stream and returns how many. Fewer than all only when
    /// [`Connection::wants_bytes`] turned `false`: the rest is to be offered again.
    ///
    /// # Panics
    /// While a direct receive is in flight: its bytes come first in the stream.
    pub fn handle_bytes(&mut self, bytes: &[u8], pool: &BufPool) -> usize {
        assert!(!self.rx.direct_in_flight, "bytes overtake a direct receive");
        if self.rx.state == RxState::AwaitSlot && !self.free.is_empty() {
            let header = self.rx.assembly.kept_header();
            self.rx.state = RxState::AwaitSpecific;
            self.take_capsule(&header[..size_of::<CapsuleCmd>()], pool);
        }
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.rx.state {
                RxState::AwaitHeader | RxState::AwaitSpecific => self.take_header(rest, pool),
                RxState::AwaitPadding => self.take_padding(rest),
                RxState::AwaitPayload => self.take_payload(rest),
                RxState::AwaitDataDigest => self.take_data_digest(rest),
                RxState::AwaitSlot | RxState::AwaitBuffer => break,
                RxState::Stopped => rest.len(),
            };
        }
        at
    }

    /// The same for bytes that stay where they are for a while: data that is among them as a whole
    /// is not copied to its buffer until it must be.
    ///
    /// # Safety
    /// The bytes must stay unchanged until the next [`BufPool::end_loans`] of
    /// [`Lender::Receiver`].
    pub unsafe fn handle_lent_bytes(&mut self, bytes: &[u8], pool: &BufPool) -> usize {
        self.rx.lends = true;
        let taken = self.handle_bytes(bytes, pool);
        self.rx.lends = false;
        taken
    }

    fn take_header(&mut self, bytes: &[u8], pool: &BufPool) -> usize {
        // The common case: the whole header lies in front of us.
        if self.rx.state == RxState::AwaitHeader
            && self.rx.assembly.is_empty()
            && bytes.len() >= COMMON_BYTES
        {
            let Some(pdu) = self.take_common(bytes) else { return bytes.len() };
            let prologue_bytes = usize::from(pdu.prologue_bytes);
            if bytes.len() >= prologue_bytes {
                self.take_prologue(&bytes[..prologue_bytes], pdu, pool);
                return prologue_bytes;
            }
        }
        let want = match (self.rx.state, self.rx.assembly.pdu) {
            (RxState::AwaitSpecific, Some(pdu)) => usize::from(pdu.prologue_bytes),
            _ => COMMON_BYTES,
        };
        let (n, gathered) = self.rx.assembly.gather(want, bytes);
        if let Some(header) = gathered {
            match (self.rx.state, self.rx.assembly.pdu) {
                (RxState::AwaitSpecific, Some(pdu)) => {
                    self.take_prologue(&header[..want], pdu, pool);
                }
                _ => {
                    self.take_common(&header[..want]);
                }
            }
        }
        n
    }

    /// Validates the common header at the start of `bytes`.
    fn take_common(&mut self, bytes: &[u8]) -> Option<PduHeader> {
        let (common, _) = CommonHeader::ref_from_prefix(bytes).expect("the caller has the bytes");
        let parsed = if self.is_out_of_sequence(common) {
            Err(PduError::plain(FatalError::SequenceError))
        } else {
            PduHeader::parse(common, &self.rules)
        };
        match parsed {
            Ok(pdu) => {
                self.rx.assembly.pdu = Some(pdu);
                self.rx.state = RxState::AwaitSpecific;
                Some(pdu)
            }
            Err(error) => {
                let header_bytes = usize::from(common.hlen).max(COMMON_BYTES).min(bytes.len());
                self.terminate(error, &bytes[..header_bytes]);
                None
            }
        }
    }

    /// ICReq comes first and once.
    fn is_out_of_sequence(&self, common: &CommonHeader) -> bool {
        let first = self.phase == Phase::AwaitIcReq;
        match PduType::from_byte(common.pdu_type) {
            Some(PduType::IcReq) => !first,
            Some(PduType::CapsuleCmd | PduType::H2cData) => first,
            _ => false,
        }
    }

    /// The whole header is here, with its digest.
    fn take_prologue(&mut self, bytes: &[u8], pdu: PduHeader, pool: &BufPool) {
        self.rx.assembly.forget_header();
        let header = match check_prologue(bytes, &pdu) {
            Ok(header) => header,
            Err((error, header)) => return self.terminate(error, header),
        };
        match pdu.pdu_type {
            PduType::CapsuleCmd => self.take_capsule(header, pool),
            PduType::H2cData => self.take_h2c_data(header, pdu),
            PduType::IcReq => self.take_ic_req(header),
            PduType::H2cTermReq => {
                tracing::debug!(?header, "the host terminates the connection");
                self.abort();
            }
            other => unreachable!("{other:?} is not for a controller, the parser refuses it"),
        }
    }

    fn take_ic_req(&mut self, header: &[u8]) {
        let request = IcReq::ref_from_bytes(header).expect("the parser checked HLEN");
        if request.pfv.get() != 0 {
            let fei = field_offset!(IcReq, pfv);
            let error = PduError { fes: FatalError::UnsupportedParameter, fei };
            return self.terminate(error, header);
        }
        if request.hpda > ALIGNMENT_MAX {
            return self.terminate(PduError::field(field_offset!(IcReq, hpda)), header);
        }
        self.host_alignment_bytes = alignment_bytes(request.hpda);
        self.rules.header_digest = self.config.header_digest && request.dgst & DGST_HEADER != 0;
        self.rules.data_digest = self.config.data_digest && request.dgst & DGST_DATA != 0;
        self.phase = Phase::Established;
        self.rx.state = RxState::AwaitHeader;
        self.queue_ic_resp();
    }

    fn take_capsule(&mut self, header: &[u8], pool: &BufPool) {
        let capsule = CapsuleCmd::ref_from_bytes(header).expect("the parser checked HLEN");
        let pdu = self.rx.assembly.pdu.expect("a header was parsed");
        let Some(slot) = self.free.pop() else {
            let sending = self.population(RequestState::TransferringC2h)
                + self.population(RequestState::Responding);
            if sending == 0 {
                // Every command of the queue is in flight and unanswered.
                return self.terminate(PduError::plain(FatalError::SequenceError), header);
            }
            self.rx.assembly.keep_header(header);
            self.rx.state = RxState::AwaitSlot;
            return;
        };
        self.rx.slot = slot;
        self.rx.state = RxState::AwaitHeader;
        self.start_request(slot, &capsule.sqe, pdu.payload_bytes, pool);
    }

    fn take_h2c_data(&mut self, header: &[u8], pdu: PduHeader) {
        let data = H2cData::ref_from_bytes(header).expect("the parser checked HLEN");
        let slot = data.ttag.get();
        let request = self.requests.get(usize::from(slot));
        let Some(request) = request.filter(|r| r.state == RequestState::AwaitH2cData) else {
            return self.terminate(PduError::field(field_offset!(H2cData, ttag)), header);
        };
        let left = request.data_bytes - request.received_bytes;
        let error = if data.cccid.get() != request.cid() {
            Some(PduError::field(field_offset!(H2cData, cccid)))
        } else if data.datal.get() != pdu.payload_bytes {
            Some(PduError::field(field_offset!(H2cData, datal)))
        } else if data.datao.get() != request.received_bytes || pdu.payload_bytes > left {
            Some(PduError::plain(FatalError::DataTransferOutOfRange))
        } else if pdu.flags.contains(Flags::LAST_PDU) != (pdu.payload_bytes == left) {
            Some(PduError::field(field_offset!(H2cData, common.flags)))
        } else {
            None
        };
        let payload_at = request.received_bytes as usize;
        match error {
            Some(error) => self.terminate(error, header),
            None => self.expect_payload(slot, payload_at),
        }
    }

    /// The payload of the current PDU goes to the request in `slot`.
    pub(super) fn expect_payload(&mut self, slot: u16, payload_at: usize) {
        self.rx.slot = slot;
        let padded = self.rx.assembly.expect_payload(payload_at);
        let expected = self.rx.assembly.payload_left_bytes();
        assert!(expected > 0, "a PDU without payload expects none");
        self.rx.state = if padded { RxState::AwaitPadding } else { RxState::AwaitPayload };
    }

    fn take_padding(&mut self, bytes: &[u8]) -> usize {
        let (n, ends) = self.rx.assembly.skip_padding(bytes);
        if ends {
            self.rx.state = RxState::AwaitPayload;
        }
        n
    }

    fn take_payload(&mut self, bytes: &[u8]) -> usize {
        let range = self.rx.assembly.payload_range();
        let n = range.len().min(bytes.len());
        let at = range.start;
        let slot = self.rx.slot;
        // A refused command has no buffer: its data is thrown away.
        let may_lend = self.rx.lends;
        if let Some(buf) = &mut self.request_at(slot).buf
            && !(may_lend && n == buf.len() && lend(buf, bytes))
        {
            buf.as_mut_slice()[at..at + n].copy_from_slice(&bytes[..n]);
        }
        self.payload_arrived(&bytes[..n]);
        n
    }

    fn payload_arrived(&mut self, bytes: &[u8]) {
        match self.rx.assembly.payload_arrived(bytes) {
            PayloadEnd::Open => {}
            PayloadEnd::Digest => self.rx.state = RxState::AwaitDataDigest,
            PayloadEnd::Ended => self.end_payload(),
        }
    }

    fn take_data_digest(&mut self, bytes: &[u8]) -> usize {
        let (n, is_right) = self.rx.assembly.take_data_digest(bytes);
        if let Some(is_right) = is_right {
            if !is_right {
                // Not fatal to the connection (section 3.6.1.3): the command fails, and the host
                // may send it again.
                let slot = self.rx.slot;
                let error = &mut self.request_at(slot).error;
                *error = error.or(Some(Status::TRANSIENT_TRANSPORT_ERROR));
            }
            self.end_payload();
        }
        n
    }

    fn end_payload(&mut self) {
        self.rx.state = RxState::AwaitHeader;
        let payload_bytes = self.rx.assembly.pdu.expect("a header was parsed").payload_bytes;
        self.payload_complete(self.rx.slot, payload_bytes);
    }

    /// Where the kernel may put the rest of the payload, past the driver's staging buffer. The
    /// region stays valid until [`Connection::handle_direct`], which the driver owes for it, even
    /// after [`Connection::abort`]. `None`: no payload is expected now.
    ///
    /// # Panics
    /// While another direct receive is in flight.
    pub fn direct_target(&mut self) -> Option<&mut [u8]> {
        assert!(!self.rx.direct_in_flight, "one direct receive at a time");
        if self.rx.state != RxState::AwaitPayload {
            return None;
        }
        let slot = usize::from(self.rx.slot);
        let buf = self.requests[slot].buf.as_mut()?;
        self.rx.direct_in_flight = true;
        Some(&mut buf.as_mut_slice()[self.rx.assembly.payload_range()])
    }

    /// Bytes of payload still expected: what [`Connection::direct_target`] would offer.
    #[must_use]
    pub fn payload_left_bytes(&self) -> usize {
        match self.rx.state {
            RxState::AwaitPayload => self.rx.assembly.payload_left_bytes(),
            _ => 0,
        }
    }

    /// The direct receive ended with `n` bytes in the region (0: nothing, or it failed).
    ///
    /// # Panics
    /// If none was in flight, or `n` exceeds its region.
    pub fn handle_direct(&mut self, n: usize) {
        assert!(self.rx.direct_in_flight, "no direct receive was in flight");
        self.rx.direct_in_flight = false;
        if self.rx.state == RxState::Stopped {
            return self.release_unstarted();
        }
        let range = self.rx.assembly.payload_range();
        assert!(n <= range.len(), "more bytes than the region holds");
        let (at, slot) = (range.start, self.rx.slot);
        // The handle is set aside so that its bytes can be read while the rest of `self` changes.
        let buf: Option<IoBuf> = self.request_at(slot).buf.take();
        let filled = buf.as_ref().expect("a direct receive has a buffer").slice(at, n);
        self.request_at(slot).buf = buf;
        if n > 0 {
            self.payload_arrived(filled.as_slice());
        }
    }
}

//! Cuts the byte stream into PDUs and puts payload where it belongs.

use zerocopy::FromBytes;

use super::conn::{Connection, Phase};
use super::request::RequestState;
use crate::reactor::buf::{BufPool, IoBuf};
use crate::wire::nvme::Status;
use crate::wire::tcp::digest::DIGEST_BYTES;
use crate::wire::tcp::header::alignment_bytes;
use crate::wire::tcp::pdu::{
    ALIGNMENT_MAX, CapsuleCmd, CommonHeader, DGST_DATA, DGST_HEADER, Flags, H2cData,
    HEADER_BYTES_MAX, IcReq, PduType, field_offset,
};
use crate::wire::tcp::{DataDigest, FatalError, PduError, PduHeader, crc32c};

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
    /// Header and its digest as they arrive; later the data digest.
    header: [u8; HEADER_BYTES_MAX + DIGEST_BYTES],
    header_bytes: usize,
    /// The PDU being received. Meaningful from AwaitSpecific on.
    pdu: Option<PduHeader>,
    /// The request that the payload belongs to.
    pub(super) slot: u16,
    padding_left_bytes: usize,
    payload_left_bytes: usize,
    /// Where in the request's buffer the next payload byte goes.
    payload_at: usize,
    digest: DataDigest,
    /// The driver has a receive into the request's buffer in flight.
    pub(super) direct_in_flight: bool,
}

impl Receive {
    pub(super) fn new() -> Self {
        Self {
            state: RxState::AwaitHeader,
            header: [0; HEADER_BYTES_MAX + DIGEST_BYTES],
            header_bytes: 0,
            pdu: None,
            slot: 0,
            padding_left_bytes: 0,
            payload_left_bytes: 0,
            payload_at: 0,
            digest: DataDigest::new(),
            direct_in_flight: false,
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
            let header = self.rx.header;
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

    fn take_header(&mut self, bytes: &[u8], pool: &BufPool) -> usize {
        // The common case: the whole header lies in front of us.
        if self.rx.state == RxState::AwaitHeader
            && self.rx.header_bytes == 0
            && bytes.len() >= COMMON_BYTES
        {
            let Some(pdu) = self.take_common(bytes) else { return bytes.len() };
            let prologue_bytes = usize::from(pdu.prologue_bytes);
            if bytes.len() >= prologue_bytes {
                self.take_prologue(&bytes[..prologue_bytes], pdu, pool);
                return prologue_bytes;
            }
        }
        let want = match (self.rx.state, self.rx.pdu) {
            (RxState::AwaitSpecific, Some(pdu)) => usize::from(pdu.prologue_bytes),
            _ => COMMON_BYTES,
        };
        let have = self.rx.header_bytes;
        let n = (want - have).min(bytes.len());
        self.rx.header[have..have + n].copy_from_slice(&bytes[..n]);
        self.rx.header_bytes += n;
        if self.rx.header_bytes == want {
            let header = self.rx.header;
            match (self.rx.state, self.rx.pdu) {
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
                self.rx.pdu = Some(pdu);
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
        self.rx.header_bytes = 0;
        let (header, digest) = bytes.split_at(usize::from(pdu.header_bytes));
        if let Ok(digest) = <[u8; DIGEST_BYTES]>::try_from(digest) {
            let digest = u32::from_le_bytes(digest);
            if digest != crc32c(header) {
                let error = PduError { fes: FatalError::HeaderDigestError, fei: digest };
                self.terminate(error, header);
                return;
            }
        }
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
        let pdu = self.rx.pdu.expect("a header was parsed");
        let Some(slot) = self.free.pop() else {
            let sending = self.population(RequestState::TransferringC2h)
                + self.population(RequestState::Responding);
            if sending == 0 {
                // Every command of the queue is in flight and unanswered.
                return self.terminate(PduError::plain(FatalError::SequenceError), header);
            }
            self.rx.header[..header.len()].copy_from_slice(header);
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
        let pdu = self.rx.pdu.expect("a header was parsed");
        assert!(pdu.payload_bytes > 0, "a PDU without payload expects none");
        self.rx.slot = slot;
        self.rx.payload_at = payload_at;
        self.rx.payload_left_bytes = pdu.payload_bytes as usize;
        self.rx.padding_left_bytes = usize::from(pdu.padding_bytes);
        if pdu.has_data_digest {
            self.rx.digest.reset();
        }
        let padded = pdu.padding_bytes > 0;
        self.rx.state = if padded { RxState::AwaitPadding } else { RxState::AwaitPayload };
    }

    fn take_padding(&mut self, bytes: &[u8]) -> usize {
        let n = self.rx.padding_left_bytes.min(bytes.len());
        self.rx.padding_left_bytes -= n;
        if self.rx.padding_left_bytes == 0 {
            self.rx.state = RxState::AwaitPayload;
        }
        n
    }

    fn take_payload(&mut self, bytes: &[u8]) -> usize {
        let n = self.rx.payload_left_bytes.min(bytes.len());
        let at = self.rx.payload_at;
        let slot = self.rx.slot;
        // A refused command has no buffer: its data is thrown away.
        if let Some(buf) = &mut self.request_at(slot).buf {
            buf.as_mut_slice()[at..at + n].copy_from_slice(&bytes[..n]);
        }
        self.payload_arrived(&bytes[..n]);
        n
    }

    fn payload_arrived(&mut self, bytes: &[u8]) {
        let has_digest = self.rx.pdu.expect("a header was parsed").has_data_digest;
        if has_digest {
            self.rx.digest.update(bytes);
        }
        self.rx.payload_at += bytes.len();
        self.rx.payload_left_bytes -= bytes.len();
        if self.rx.payload_left_bytes == 0 {
            if has_digest {
                self.rx.state = RxState::AwaitDataDigest;
            } else {
                self.end_payload();
            }
        }
    }

    fn take_data_digest(&mut self, bytes: &[u8]) -> usize {
        let have = self.rx.header_bytes;
        let n = (DIGEST_BYTES - have).min(bytes.len());
        self.rx.header[have..have + n].copy_from_slice(&bytes[..n]);
        self.rx.header_bytes += n;
        if self.rx.header_bytes == DIGEST_BYTES {
            self.rx.header_bytes = 0;
            let [a, b, c, d, ..] = self.rx.header;
            if u32::from_le_bytes([a, b, c, d]) != self.rx.digest.value() {
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
        let payload_bytes = self.rx.pdu.expect("a header was parsed").payload_bytes;
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
        let (at, left, slot) =
            (self.rx.payload_at, self.rx.payload_left_bytes, usize::from(self.rx.slot));
        let buf = self.requests[slot].buf.as_mut()?;
        self.rx.direct_in_flight = true;
        Some(&mut buf.as_mut_slice()[at..at + left])
    }

    /// Bytes of payload still expected: what [`Connection::direct_target`] would offer.
    #[must_use]
    pub fn payload_left_bytes(&self) -> usize {
        if self.rx.state == RxState::AwaitPayload { self.rx.payload_left_bytes } else { 0 }
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
        assert!(n <= self.rx.payload_left_bytes, "more bytes than the region holds");
        let (at, slot) = (self.rx.payload_at, self.rx.slot);
        // The handle is set aside so that its bytes can be read while the rest of `self` changes.
        let buf: Option<IoBuf> = self.request_at(slot).buf.take();
        let filled = buf.as_ref().expect("a direct receive has a buffer").slice(at, n);
        self.request_at(slot).buf = buf;
        if n > 0 {
            self.payload_arrived(filled.as_slice());
        }
    }
}

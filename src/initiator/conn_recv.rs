//! Reads the PDUs of the controller.

use zerocopy::FromBytes;

use super::conn::{HostConnection, HostPhase, HostTransfer};
use crate::wire::tcp::digest::DIGEST_BYTES;
use crate::wire::tcp::header::alignment_bytes;
use crate::wire::tcp::pdu::{
    ALIGNMENT_MAX, C2hData, CapsuleResp, CommonHeader, DGST_DATA, DGST_HEADER, Flags,
    HEADER_BYTES_MAX, IcResp, MAXH2CDATA_MIN_BYTES, PduType, R2t, TermReq, field_offset,
};
use crate::wire::tcp::{DataDigest, FatalError, PduError, PduHeader, crc32c};

const COMMON_BYTES: usize = size_of::<CommonHeader>();

/// What the receiving side waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RxState {
    /// A header: first its common part, then the rest with its digest.
    Header,
    /// Padding in front of the data.
    Padding,
    /// Data of a command.
    Payload,
    /// The data digest.
    DataDigest,
}

/// The receiving side.
#[derive(Debug)]
pub(super) struct Receive {
    state: RxState,
    header: [u8; HEADER_BYTES_MAX + DIGEST_BYTES],
    header_bytes: usize,
    pdu: Option<PduHeader>,
    slot: u16,
    padding_left_bytes: usize,
    payload_left_bytes: usize,
    payload_at: usize,
    digest: DataDigest,
}

impl Receive {
    pub(super) fn new() -> Self {
        Self {
            state: RxState::Header,
            header: [0; HEADER_BYTES_MAX + DIGEST_BYTES],
            header_bytes: 0,
            pdu: None,
            slot: 0,
            padding_left_bytes: 0,
            payload_left_bytes: 0,
            payload_at: 0,
            digest: DataDigest::new(),
        }
    }
}

impl HostConnection {
    /// Takes all of `bytes` from the stream.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            if matches!(self.phase, HostPhase::Terminating | HostPhase::Closed) {
                return;
            }
            let rest = &bytes[at..];
            at += match self.rx.state {
                RxState::Header => self.take_header(rest),
                RxState::Padding => self.take_padding(rest),
                RxState::Payload => self.take_payload(rest),
                RxState::DataDigest => self.take_data_digest(rest),
            };
        }
    }

    /// Where the next bytes of the stream may be received to directly: the rest of a payload.
    pub fn direct_target(&mut self) -> Option<&mut [u8]> {
        if self.rx.state != RxState::Payload || self.phase != HostPhase::Established {
            return None;
        }
        let (at, left) = (self.rx.payload_at, self.rx.payload_left_bytes);
        let buf = self.requests[usize::from(self.rx.slot)].buf.as_mut()?;
        Some(&mut buf.as_mut_slice()[at..at + left])
    }

    /// `n` bytes were received into [`HostConnection::direct_target`].
    ///
    /// # Panics
    /// If no payload was expected, or `n` is more than the region holds.
    pub fn handle_direct(&mut self, n: usize) {
        assert!(self.rx.state == RxState::Payload && n <= self.rx.payload_left_bytes);
        self.payload_arrived(n);
    }

    fn take_header(&mut self, bytes: &[u8]) -> usize {
        let want = self.rx.pdu.map_or(COMMON_BYTES, |pdu| usize::from(pdu.prologue_bytes));
        let have = self.rx.header_bytes;
        let n = (want - have).min(bytes.len());
        self.rx.header[have..have + n].copy_from_slice(&bytes[..n]);
        self.rx.header_bytes += n;
        if self.rx.header_bytes == want {
            let header = self.rx.header;
            match self.rx.pdu.take() {
                Some(pdu) => self.take_prologue(&header[..want], pdu),
                None => self.take_common(&header[..want]),
            }
        }
        n
    }

    fn take_common(&mut self, bytes: &[u8]) {
        let common = CommonHeader::ref_from_bytes(bytes).expect("eight bytes are here");
        let is_first = self.phase == HostPhase::AwaitIcResp;
        let is_ic_resp = common.pdu_type == PduType::IcResp as u8;
        let is_term = common.pdu_type == PduType::C2hTermReq as u8;
        if is_ic_resp != is_first && !is_term {
            return self.terminate(PduError::plain(FatalError::SequenceError), bytes);
        }
        match PduHeader::parse(common, &self.rules) {
            Ok(pdu) => self.rx.pdu = Some(pdu),
            Err(error) => self.terminate(error, bytes),
        }
    }

    fn take_prologue(&mut self, bytes: &[u8], pdu: PduHeader) {
        self.rx.header_bytes = 0;
        let (header, digest) = bytes.split_at(usize::from(pdu.header_bytes));
        if let Ok(digest) = <[u8; DIGEST_BYTES]>::try_from(digest) {
            let fei = u32::from_le_bytes(digest);
            if fei != crc32c(header) {
                let error = PduError { fes: FatalError::HeaderDigestError, fei };
                return self.terminate(error, header);
            }
        }
        let result = match pdu.pdu_type {
            PduType::CapsuleResp => self.take_response(header),
            PduType::C2hData => self.take_c2h_data(header, pdu),
            PduType::R2t => self.take_r2t(header),
            PduType::IcResp => self.take_ic_resp(header),
            PduType::C2hTermReq => {
                let term = TermReq::ref_from_bytes(header).expect("the parser checked HLEN");
                self.peer_error = Some((term.fes.get(), term.fei.get()));
                self.phase = HostPhase::Closed;
                Ok(())
            }
            other => unreachable!("{other:?} is not for a host, the parser refuses it"),
        };
        if let Err(error) = result {
            self.terminate(error, header);
        }
    }

    fn take_ic_resp(&mut self, header: &[u8]) -> Result<(), PduError> {
        let response = IcResp::ref_from_bytes(header).expect("the parser checked HLEN");
        if response.pfv.get() != 0 {
            let fei = field_offset!(IcResp, pfv);
            return Err(PduError { fes: FatalError::UnsupportedParameter, fei });
        }
        if response.cpda > ALIGNMENT_MAX {
            return Err(PduError::field(field_offset!(IcResp, cpda)));
        }
        if response.maxh2cdata.get() < MAXH2CDATA_MIN_BYTES {
            return Err(PduError::field(field_offset!(IcResp, maxh2cdata)));
        }
        let (header_digest, data_digest) =
            (response.dgst & DGST_HEADER != 0, response.dgst & DGST_DATA != 0);
        if header_digest && !self.config.header_digest || data_digest && !self.config.data_digest {
            // Digests that nobody asked for.
            return Err(PduError::field(field_offset!(IcResp, dgst)));
        }
        self.rules.header_digest = header_digest;
        self.rules.data_digest = data_digest;
        self.controller_alignment_bytes = alignment_bytes(response.cpda);
        self.max_h2c_data_bytes = response.maxh2cdata.get();
        self.phase = HostPhase::Established;
        Ok(())
    }

    fn take_response(&mut self, header: &[u8]) -> Result<(), PduError> {
        let response = CapsuleResp::ref_from_bytes(header).expect("the parser checked HLEN");
        let field = PduError::field(field_offset!(CapsuleResp, cqe.cid));
        let slot = self.slot_of(response.cqe.cid.get()).ok_or(field)?;
        self.respond(slot, response.cqe);
        Ok(())
    }

    fn take_r2t(&mut self, header: &[u8]) -> Result<(), PduError> {
        let r2t = R2t::ref_from_bytes(header).expect("the parser checked HLEN");
        let no_such = PduError::field(field_offset!(R2t, cccid));
        let slot = self.slot_of(r2t.cccid.get()).ok_or(no_such)?;
        let request = self.request_at(slot);
        if request.transfer != HostTransfer::ByR2t {
            return Err(no_such);
        }
        if request.r2t_left_bytes > 0 {
            return Err(PduError::plain(FatalError::LimitExceeded));
        }
        let (offset, len) = (r2t.r2to.get(), r2t.r2tl.get());
        let end = offset.checked_add(len).filter(|end| *end <= request.data_bytes());
        if len == 0 || end.is_none() {
            return Err(PduError::plain(FatalError::DataTransferOutOfRange));
        }
        request.ttag = r2t.ttag.get();
        request.r2t_at = offset;
        request.r2t_left_bytes = len;
        self.r2ts.push_back(slot);
        Ok(())
    }

    fn take_c2h_data(&mut self, header: &[u8], pdu: PduHeader) -> Result<(), PduError> {
        let data = C2hData::ref_from_bytes(header).expect("the parser checked HLEN");
        let no_such = PduError::field(field_offset!(C2hData, cccid));
        let slot = self.slot_of(data.cccid.get()).ok_or(no_such)?;
        let request = self.request_at(slot);
        if request.transfer != HostTransfer::ToHost {
            return Err(no_such);
        }
        if data.datal.get() != pdu.payload_bytes {
            return Err(PduError::field(field_offset!(C2hData, datal)));
        }
        let left = request.data_bytes() - request.received_bytes;
        if data.datao.get() != request.received_bytes || pdu.payload_bytes > left {
            return Err(PduError::plain(FatalError::DataTransferOutOfRange));
        }
        if pdu.flags.contains(Flags::SUCCESS) && !pdu.flags.contains(Flags::LAST_PDU) {
            return Err(PduError::field(field_offset!(C2hData, common.flags)));
        }
        self.rx.payload_at = request.received_bytes as usize;
        self.rx.slot = slot;
        self.rx.pdu = Some(pdu);
        self.rx.payload_left_bytes = pdu.payload_bytes as usize;
        self.rx.padding_left_bytes = usize::from(pdu.padding_bytes);
        self.rx.digest.reset();
        let padded = pdu.padding_bytes > 0;
        self.rx.state = if padded { RxState::Padding } else { RxState::Payload };
        Ok(())
    }

    fn take_padding(&mut self, bytes: &[u8]) -> usize {
        let n = self.rx.padding_left_bytes.min(bytes.len());
        self.rx.padding_left_bytes -= n;
        if self.rx.padding_left_bytes == 0 {
            self.rx.state = RxState::Payload;
        }
        n
    }

    fn take_payload(&mut self, bytes: &[u8]) -> usize {
        let n = self.rx.payload_left_bytes.min(bytes.len());
        let at = self.rx.payload_at;
        let buf = self.requests[usize::from(self.rx.slot)].buf.as_mut();
        let buf = buf.expect("a command with data has a buffer");
        buf.as_mut_slice()[at..at + n].copy_from_slice(&bytes[..n]);
        self.payload_arrived(n);
        n
    }

    /// `n` more bytes of payload are in the buffer.
    fn payload_arrived(&mut self, n: usize) {
        let at = self.rx.payload_at;
        let has_digest = self.rx.pdu.is_some_and(|pdu| pdu.has_data_digest);
        if has_digest {
            let buf = self.requests[usize::from(self.rx.slot)].buf.as_ref();
            let buf = buf.expect("a command with data has a buffer");
            self.rx.digest.update(&buf.as_slice()[at..at + n]);
        }
        self.rx.payload_at += n;
        self.rx.payload_left_bytes -= n;
        if self.rx.payload_left_bytes == 0 {
            if has_digest {
                self.rx.state = RxState::DataDigest;
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
                let slot = self.rx.slot;
                self.request_at(slot).digest_failed = true;
            }
            self.end_payload();
        }
        n
    }

    fn end_payload(&mut self) {
        self.rx.state = RxState::Header;
        let pdu = self.rx.pdu.take().expect("a payload belongs to a PDU");
        let slot = self.rx.slot;
        let request = self.request_at(slot);
        request.received_bytes += pdu.payload_bytes;
        let cid = request.cid;
        if pdu.flags.contains(Flags::SUCCESS) {
            self.respond(slot, Self::success_of(cid));
        }
    }
}

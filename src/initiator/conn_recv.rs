//! Reads the PDUs of the controller.

use zerocopy::FromBytes;

use super::conn::{HostConnection, HostPhase, HostTransfer};
use crate::wire::tcp::header::alignment_bytes;
use crate::wire::tcp::pdu::{
    ALIGNMENT_MAX, C2hData, CapsuleResp, CommonHeader, DGST_DATA, DGST_HEADER, Flags, IcResp,
    MAXH2CDATA_MIN_BYTES, PduType, R2t, TermReq, field_offset,
};
use crate::wire::tcp::{Assembly, FatalError, PayloadEnd, PduError, PduHeader, check_prologue};

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
    assembly: Assembly,
    /// The request that the payload belongs to.
    slot: u16,
}

impl Receive {
    pub(super) fn new() -> Self {
        Self { state: RxState::Header, assembly: Assembly::new(), slot: 0 }
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
        let buf = self.requests[usize::from(self.rx.slot)].buf.as_mut()?;
        Some(&mut buf.as_mut_slice()[self.rx.assembly.payload_range()])
    }

    /// `n` bytes were received into [`HostConnection::direct_target`].
    ///
    /// # Panics
    /// If no payload was expected, or `n` is more than the region holds.
    pub fn handle_direct(&mut self, n: usize) {
        let left_bytes = self.rx.assembly.payload_left_bytes();
        assert!(self.rx.state == RxState::Payload && n <= left_bytes);
        self.payload_arrived(n);
    }

    fn take_header(&mut self, bytes: &[u8]) -> usize {
        let assembly = &mut self.rx.assembly;
        let want = assembly.pdu.map_or(COMMON_BYTES, |pdu| usize::from(pdu.prologue_bytes));
        let (n, gathered) = assembly.gather(want, bytes);
        if let Some(header) = gathered {
            match assembly.pdu.take() {
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
            Ok(pdu) => self.rx.assembly.pdu = Some(pdu),
            Err(error) => self.terminate(error, bytes),
        }
    }

    fn take_prologue(&mut self, bytes: &[u8], pdu: PduHeader) {
        self.rx.assembly.forget_header();
        let header = match check_prologue(bytes, &pdu) {
            Ok(header) => header,
            Err((error, header)) => return self.terminate(error, header),
        };
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
        let payload_at = request.received_bytes as usize;
        self.rx.slot = slot;
        self.rx.assembly.pdu = Some(pdu);
        let padded = self.rx.assembly.expect_payload(payload_at);
        self.rx.state = if padded { RxState::Padding } else { RxState::Payload };
        Ok(())
    }

    fn take_padding(&mut self, bytes: &[u8]) -> usize {
        let (n, ends) = self.rx.assembly.skip_padding(bytes);
        if ends {
            self.rx.state = RxState::Payload;
        }
        n
    }

    fn take_payload(&mut self, bytes: &[u8]) -> usize {
        let range = self.rx.assembly.payload_range();
        let n = range.len().min(bytes.len());
        let at = range.start;
        let buf = self.requests[usize::from(self.rx.slot)].buf.as_mut();
        let buf = buf.expect("a command with data has a buffer");
        buf.as_mut_slice()[at..at + n].copy_from_slice(&bytes[..n]);
        self.payload_arrived(n);
        n
    }

    /// `n` more bytes of payload are in the buffer.
    fn payload_arrived(&mut self, n: usize) {
        let at = self.rx.assembly.payload_range().start;
        let buf = self.requests[usize::from(self.rx.slot)].buf.as_ref();
        let buf = buf.expect("a command with data has a buffer");
        match self.rx.assembly.payload_arrived(&buf.as_slice()[at..at + n]) {
            PayloadEnd::Open => {}
            PayloadEnd::Digest => self.rx.state = RxState::DataDigest,
            PayloadEnd::Ended => self.end_payload(),
        }
    }

    fn take_data_digest(&mut self, bytes: &[u8]) -> usize {
        let (n, is_right) = self.rx.assembly.take_data_digest(bytes);
        if let Some(is_right) = is_right {
            if !is_right {
                let slot = self.rx.slot;
                self.request_at(slot).digest_failed = true;
            }
            self.end_payload();
        }
        n
    }

    fn end_payload(&mut self) {
        self.rx.state = RxState::Header;
        let pdu = self.rx.assembly.pdu.take().expect("a payload belongs to a PDU");
        let slot = self.rx.slot;
        let request = self.request_at(slot);
        request.received_bytes += pdu.payload_bytes;
        let cid = request.cid;
        if pdu.flags.contains(Flags::SUCCESS) {
            self.respond(slot, Self::success_of(cid));
        }
    }
}

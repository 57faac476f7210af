//! From commands and R2Ts to PDUs.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::conn::{
    Data, HostConnection, HostPhase, HostState, HostTransfer, RING_BYTES_PER_PDU, SEGMENTS_PER_PDU,
};
use crate::wire::nvme::{Cqe, Sqe};
use crate::wire::tcp::header::digest_bytes;
use crate::wire::tcp::pdu::{DGST_DATA, DGST_HEADER, HEADER_BYTES_MAX};
use crate::wire::tcp::transmit::NO_TOKEN;
use crate::wire::tcp::{
    CapsuleCmd, CommonHeader, Flags, H2cData, IcReq, PduError, PduType, TermReq, TransmitVec,
    crc32c,
};

/// SGL descriptor type: data block at an offset in the capsule.
const SGL_IN_CAPSULE: u8 = 0x01;
/// SGL descriptor type: transport data block.
const SGL_TRANSPORT: u8 = 0x5a;
/// PSDT 01b in bits 7:6 of the flags: SGLs.
const PSDT_SGL: u8 = 0b01 << 6;

fn put_header<T: IntoBytes + Immutable>(bytes: &mut [u8], header: &T, header_digest: bool) {
    let (head, rest) = bytes.split_at_mut(size_of::<T>());
    head.copy_from_slice(header.as_bytes());
    if header_digest {
        rest[..4].copy_from_slice(&crc32c(head).to_le_bytes());
    }
}

impl HostConnection {
    pub(super) fn queue_ic_req(&mut self) {
        let dgst = if self.config.header_digest { DGST_HEADER } else { 0 }
            | if self.config.data_digest { DGST_DATA } else { 0 };
        let request = IcReq {
            common: CommonHeader::new(PduType::IcReq, Flags::empty(), 0, 128),
            pfv: U16::new(0),
            hpda: self.config.hpda,
            dgst,
            maxr2t: U32::new(0),
            reserved: [0; 112],
        };
        self.tx.push_header(HEADER_BYTES_MAX, NO_TOKEN, |bytes| put_header(bytes, &request, false));
    }

    /// Whether [`HostConnection::submit`] may be called now.
    #[must_use]
    pub fn can_submit(&self) -> bool {
        self.phase == HostPhase::Established
            && !self.free.is_empty()
            && self.tx.has_room(SEGMENTS_PER_PDU, RING_BYTES_PER_PDU, HEADER_BYTES_MAX)
    }

    /// Queues a command. CID, PSDT and the data pointer are filled in here; `tag` names the
    /// completion. The buffer must not be touched until it comes back. Returns the CID.
    ///
    /// # Panics
    /// If [`HostConnection::can_submit`] says no.
    pub fn submit(&mut self, mut sqe: Sqe, data: Data, tag: u64) -> u16 {
        assert!(self.can_submit(), "the queue cannot take a command now");
        let slot = self.free.pop().expect("can_submit saw a free slot");
        let limit = self.config.in_capsule_data_bytes as usize;
        let (transfer, buf) = match data {
            Data::None => (HostTransfer::None, None),
            Data::ToHost(buf) => (HostTransfer::ToHost, Some(buf)),
            Data::ToController(buf) if buf.len() <= limit => (HostTransfer::InCapsule, Some(buf)),
            Data::ToController(buf) => (HostTransfer::ByR2t, Some(buf)),
        };
        assert!(buf.as_ref().is_none_or(|buf| !buf.is_empty()), "a buffer without bytes");
        let request = self.request_at(slot);
        request.buf = buf;
        request.tag = tag;
        request.transfer = transfer;
        request.received_bytes = 0;
        request.digest_failed = false;
        request.state = HostState::InFlight;
        assert_eq!(request.unsent, 0, "a free slot has nothing queued");
        let cid = request.cid;
        sqe.cid = U16::new(cid);
        sqe.flags = sqe.flags & 0b11 | PSDT_SGL;
        sqe.sgl_address = U64::new(0);
        sqe.sgl_length = U32::new(request.data_bytes());
        sqe.sgl_reserved = [0; 3];
        let in_capsule = transfer == HostTransfer::InCapsule;
        sqe.sgl_type = if in_capsule { SGL_IN_CAPSULE } else { SGL_TRANSPORT };
        let payload_bytes = if in_capsule { request.data_bytes() } else { 0 };
        self.queue_pdu(PduType::CapsuleCmd, Flags::empty(), slot, 0, payload_bytes, |common| {
            CapsuleCmd { common, sqe }
        });
        cid
    }

    /// Queues a PDU with `len` bytes from `at` of the command's buffer.
    fn queue_pdu<T: IntoBytes + Immutable>(
        &mut self,
        pdu_type: PduType,
        mut flags: Flags,
        slot: u16,
        at: u32,
        len: u32,
        header: impl FnOnce(CommonHeader) -> T,
    ) {
        let (header_digest, data_digest) = self.digests();
        let data_digest = data_digest && len > 0;
        flags.set(Flags::HEADER_DIGEST, header_digest);
        flags.set(Flags::DATA_DIGEST, data_digest);
        let prologue = pdu_type.header_bytes() + digest_bytes(header_digest);
        let pdo = if len > 0 {
            prologue.next_multiple_of(self.controller_alignment_bytes)
        } else {
            prologue
        };
        let plen = u32::from(pdo) + len + u32::from(digest_bytes(data_digest));
        let common = CommonHeader::new(pdu_type, flags, if len > 0 { pdo } else { 0 }, plen);
        let header = header(common);
        self.tx.push_header(usize::from(pdo), NO_TOKEN, |bytes| {
            put_header(bytes, &header, header_digest);
        });
        if len == 0 {
            return;
        }
        let request = &mut self.requests[usize::from(slot)];
        request.unsent += 1;
        let buf = request.buf.as_ref().expect("data to send lies in a buffer");
        let data = &buf.as_slice()[at as usize..][..len as usize];
        if data_digest {
            let digest = crc32c(data).to_le_bytes();
            self.tx.push_data(data.as_ptr(), len, NO_TOKEN);
            self.tx.push_header(digest.len(), slot, |bytes| bytes.copy_from_slice(&digest));
        } else {
            self.tx.push_data(data.as_ptr(), len, slot);
        }
    }

    /// Turns R2Ts into H2CData as long as there is room for them.
    fn answer_r2ts(&mut self) {
        while let Some(&slot) = self.r2ts.front() {
            if !self.tx.has_room(SEGMENTS_PER_PDU, RING_BYTES_PER_PDU, HEADER_BYTES_MAX) {
                return;
            }
            let request = &mut self.requests[usize::from(slot)];
            let len = request.r2t_left_bytes.min(self.max_h2c_data_bytes);
            let (at, ttag, cid) = (request.r2t_at, request.ttag, request.cid);
            request.r2t_at += len;
            request.r2t_left_bytes -= len;
            let is_last = request.r2t_left_bytes == 0;
            let flags = if is_last { Flags::LAST_PDU } else { Flags::empty() };
            self.queue_pdu(PduType::H2cData, flags, slot, at, len, |common| H2cData {
                common,
                cccid: U16::new(cid),
                ttag: U16::new(ttag),
                datao: U32::new(at),
                datal: U32::new(len),
                reserved: [0; 4],
            });
            if is_last {
                self.r2ts.pop_front();
            }
        }
    }

    /// Ends the connection because of what the controller sent.
    pub(super) fn terminate(&mut self, error: PduError, header: &[u8]) {
        self.error = Some(error);
        self.phase = HostPhase::Terminating;
        self.r2ts.clear();
        let copied = &header[..header.len().min(HEADER_BYTES_MAX)];
        let pdu_bytes = size_of::<TermReq>() + copied.len();
        let plen = u32::try_from(pdu_bytes).expect("at most 152");
        let term = TermReq {
            common: CommonHeader::new(PduType::H2cTermReq, Flags::empty(), 0, plen),
            fes: U16::new(error.fes as u16),
            fei: U32::new(error.fei),
            ..TermReq::new_zeroed()
        };
        self.tx.push_header(pdu_bytes, NO_TOKEN, |bytes| {
            put_header(bytes, &term, false);
            bytes[size_of::<TermReq>()..].copy_from_slice(copied);
        });
    }

    /// Fills `out` with what waits to be sent and returns its bytes. Not 0: the caller sends it
    /// and owes a [`HostConnection::transmitted`].
    pub fn poll_transmit(&mut self, out: &mut TransmitVec) -> usize {
        self.answer_r2ts();
        self.tx.gather(out)
    }

    /// The send ended and `n` bytes of it were taken.
    pub fn transmitted(&mut self, n: usize) {
        self.tx.transmitted(n);
        while let Some(slot) = self.tx.pop_sent() {
            self.request_at(slot).unsent -= 1;
            self.finish_if_sent(slot);
        }
        if self.phase == HostPhase::Terminating && self.tx.is_empty() {
            self.phase = HostPhase::Closed;
        }
    }

    /// The response that a SUCCESS flag stands for.
    pub(super) fn success_of(cid: u16) -> Cqe {
        Cqe { cid: U16::new(cid), ..Cqe::new_zeroed() }
    }
}

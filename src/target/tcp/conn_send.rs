//! From a completion to PDUs, and what the driver needs to send them.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::conn::{C2hSuccess, Connection, Phase};
use super::conn_recv::RxState;
use super::request::{Request, RequestId, RequestState};
use crate::reactor::buf::IoBuf;
use crate::wire::nvme::{Cqe, Status};
use crate::wire::tcp::header::digest_bytes;
use crate::wire::tcp::pdu::{DGST_DATA, DGST_HEADER, HEADER_BYTES_MAX};
use crate::wire::tcp::transmit::NO_TOKEN;
use crate::wire::tcp::{
    C2hData, CapsuleResp, CommonHeader, Flags, IcResp, PduError, PduType, R2t, TermReq,
    TransmitVec, crc32c,
};

/// SQHD where it means nothing: without SQ flow control.
const SQHD_NONE: u16 = 0xffff;

/// Writes `header` and, if there is room for it, its digest.
fn put_header<T: IntoBytes + Immutable>(bytes: &mut [u8], header: &T, header_digest: bool) {
    let (head, rest) = bytes.split_at_mut(size_of::<T>());
    head.copy_from_slice(header.as_bytes());
    if header_digest {
        rest[..4].copy_from_slice(&crc32c(head).to_le_bytes());
    }
}

/// The data that the command in `slot` sends.
fn data_of(requests: &[Request], slot: u16) -> &IoBuf {
    let buf = &requests[usize::from(slot)].buf;
    buf.as_ref().expect("a buffer is kept until its data has been sent")
}

impl Connection {
    pub(super) fn queue_ic_resp(&mut self) {
        let dgst = if self.rules.header_digest { DGST_HEADER } else { 0 }
            | if self.rules.data_digest { DGST_DATA } else { 0 };
        let response = IcResp {
            common: CommonHeader::new(PduType::IcResp, Flags::empty(), 0, 128),
            pfv: U16::new(0),
            cpda: self.config.cpda,
            dgst,
            maxh2cdata: U32::new(self.config.max_h2c_data_bytes),
            reserved: [0; 112],
        };
        self.tx
            .push_header(HEADER_BYTES_MAX, NO_TOKEN, |bytes| put_header(bytes, &response, false));
    }

    /// Asks for all data of the command in `slot`; one R2T a command.
    pub(super) fn queue_r2t(&mut self, slot: u16) {
        let digest = self.rules.header_digest;
        let pdu_bytes = 24 + digest_bytes(digest);
        let request = self.request(slot);
        let r2t = R2t {
            common: CommonHeader::new(PduType::R2t, self.header_flags(), 0, u32::from(pdu_bytes)),
            cccid: request.sqe.cid,
            ttag: U16::new(slot),
            r2to: U32::new(0),
            r2tl: U32::new(request.data_bytes),
            reserved: [0; 4],
        };
        self.tx
            .push_header(usize::from(pdu_bytes), NO_TOKEN, |bytes| put_header(bytes, &r2t, digest));
    }

    fn header_flags(&self) -> Flags {
        if self.rules.header_digest { Flags::HEADER_DIGEST } else { Flags::empty() }
    }

    /// The command is done: `cqe` says how, and `data_bytes` from the start of its buffer go to
    /// the host first if it succeeded. CID and SQHD are filled in here. The buffer is released
    /// when it is no longer needed.
    ///
    /// # Panics
    /// If `id` does not execute, or has no buffer of that length to send from.
    pub fn complete(&mut self, id: RequestId, cqe: Cqe, data_bytes: u32) {
        let slot = self.executing_slot(id);
        if self.phase == Phase::Established {
            self.respond(slot, cqe, data_bytes);
        } else {
            self.release(slot);
        }
    }

    /// Queues the response, with data or without, of the command in `slot`.
    pub(super) fn respond(&mut self, slot: u16, mut cqe: Cqe, data_bytes: u32) {
        self.advance_sq_head();
        let flow_control_disabled = self.sq.flow_control_disabled;
        cqe.sqhd = U16::new(if flow_control_disabled { SQHD_NONE } else { self.sq.head });
        cqe.sqid = U16::new(0);
        cqe.cid = self.request(slot).sqe.cid;
        if data_bytes > 0 && Status::from_wire(cqe.status.get()).is_success() {
            self.queue_data(slot, &cqe, data_bytes);
        } else {
            self.return_buffer(slot);
            self.set_state(slot, RequestState::Responding);
            let (response, len, digest) = self.response(cqe);
            self.tx.push_header(len, slot, |bytes| put_header(bytes, &response, digest));
        }
    }

    fn advance_sq_head(&mut self) {
        let next = self.sq.head.wrapping_add(1);
        self.sq.head = if next >= self.sq.depth { 0 } else { next };
    }

    fn response(&self, cqe: Cqe) -> (CapsuleResp, usize, bool) {
        let digest = self.rules.header_digest;
        let pdu_bytes = 24 + digest_bytes(digest);
        let common =
            CommonHeader::new(PduType::CapsuleResp, self.header_flags(), 0, pdu_bytes.into());
        (CapsuleResp { common, cqe }, usize::from(pdu_bytes), digest)
    }

    /// Queues all data in one C2HData, and the response behind it or in its SUCCESS flag.
    fn queue_data(&mut self, slot: u16, cqe: &Cqe, data_bytes: u32) {
        self.set_state(slot, RequestState::TransferringC2h);
        let success_allowed = match self.config.c2h_success {
            C2hSuccess::Never => false,
            C2hSuccess::WithoutFlowControl => self.sq.flow_control_disabled,
            C2hSuccess::Always => true,
        };
        // SUCCESS stands for an all-zero result only.
        let success = success_allowed && cqe.result.get() == 0 && cqe.status.get() == 0;
        let (header_digest, data_digest) = self.digests();
        let mut flags = self.header_flags() | Flags::LAST_PDU;
        flags.set(Flags::DATA_DIGEST, data_digest);
        flags.set(Flags::SUCCESS, success);
        let pdo = (24 + digest_bytes(header_digest)).next_multiple_of(self.host_alignment_bytes);
        let pdu_bytes = u32::from(pdo) + data_bytes + u32::from(digest_bytes(data_digest));
        let header = C2hData {
            common: CommonHeader::new(PduType::C2hData, flags, pdo, pdu_bytes),
            cccid: cqe.cid,
            reserved_10: [0; 2],
            datao: U32::new(0),
            datal: U32::new(data_bytes),
            reserved_20: [0; 4],
        };
        self.tx.push_header(usize::from(pdo), NO_TOKEN, |bytes| {
            put_header(bytes, &header, header_digest);
        });
        let buf = self.request(slot).buf.as_ref().expect("data to send lies in a buffer");
        assert!(data_bytes as usize <= buf.len(), "more data than the buffer holds");
        let digest =
            data_digest.then(|| crc32c(&buf.as_slice()[..data_bytes as usize]).to_le_bytes());
        let token = if digest.is_none() && success { slot } else { NO_TOKEN };
        if buf.is_on_loan() {
            self.tx.push_movable(slot, data_bytes, token);
        } else {
            let data = buf.as_ptr();
            self.tx.push_data(data, data_bytes, token);
        }
        if let Some(digest) = digest {
            let token = if success { slot } else { NO_TOKEN };
            self.tx.push_header(digest.len(), token, |bytes| bytes.copy_from_slice(&digest));
        }
        if !success {
            let (response, len, digest) = self.response(*cqe);
            self.tx.push_header(len, slot, |bytes| put_header(bytes, &response, digest));
        }
    }

    /// Ends the connection with C2HTermReq because of `header`, the offending one.
    pub(super) fn terminate(&mut self, error: PduError, header: &[u8]) {
        self.error = Some(error);
        self.phase = Phase::Terminating;
        self.rx.state = RxState::Stopped;
        self.release_unstarted();
        let copied = &header[..header.len().min(HEADER_BYTES_MAX)];
        let pdu_bytes = size_of::<TermReq>() + copied.len();
        let plen = u32::try_from(pdu_bytes).expect("at most 152");
        let term = TermReq {
            common: CommonHeader::new(PduType::C2hTermReq, Flags::empty(), 0, plen),
            fes: U16::new(error.fes as u16),
            fei: U32::new(error.fei),
            reserved: [0; 10],
        };
        self.tx.push_header(pdu_bytes, NO_TOKEN, |bytes| {
            put_header(bytes, &term, false);
            bytes[size_of::<TermReq>()..].copy_from_slice(copied);
        });
    }

    /// Fills `out` with everything that waits to be sent and returns its bytes. Not 0: the caller
    /// sends it and owes a [`Connection::transmitted`]; until then 0 is returned. The memory stays
    /// in place meanwhile.
    pub fn poll_transmit(&mut self, out: &mut TransmitVec) -> usize {
        self.tx.gather_from(out, |slot| data_of(&self.requests, slot).data_ptr())
    }

    /// Whether data to be sent lies on loan: it must be sent, or brought home by
    /// [`Connection::end_loans`], before the lender ends its loans.
    #[must_use]
    pub fn has_loans(&self) -> bool {
        self.tx.movable().any(|slot| data_of(&self.requests, slot).is_on_loan())
    }

    /// All data to be sent lies in buffers from now on, which a send may take as long as it will.
    pub fn end_loans(&mut self) {
        self.tx.movable().for_each(|slot| data_of(&self.requests, slot).end_loan());
    }

    /// Whether [`Connection::poll_transmit`] has something to send now.
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        !self.tx.is_empty() && !self.tx.is_in_flight()
    }

    /// The send ended and `n` bytes of it were taken (0 when it failed).
    pub fn transmitted(&mut self, n: usize) {
        self.tx.transmitted(n);
        if self.phase == Phase::Closed {
            return self.release_unsent();
        }
        while let Some(slot) = self.tx.pop_sent() {
            self.release(slot);
        }
        if self.phase == Phase::Terminating && self.tx.is_empty() {
            self.phase = Phase::Closed;
        }
    }
}

//! What a peer can do wrong, and the edges of what it may do. Bytes are built by hand here; the
//! conversation with a well-behaved host is in `tests/tcp_pair.rs`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fused;
mod share;

use proptest::prelude::*;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::*;
use crate::reactor::buf::BufPool;
use crate::wire::nvme::{Cqe, Sqe, Status};
use crate::wire::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, FatalError, Flags, H2cData, PduType, R2t,
    TermReq, TransmitVec, crc32c,
};

const WRITE: u8 = 1;
const READ: u8 = 2;
const FLUSH: u8 = 0;

struct Peer {
    conn: Connection,
    pool: BufPool,
    header_digest: bool,
    data_digest: bool,
}

fn ic_req(dgst: u8) -> [u8; 128] {
    let mut bytes = [0; 128];
    bytes[..12].copy_from_slice(&[0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, dgst]);
    bytes
}

impl Peer {
    fn new() -> Self {
        Self {
            conn: Connection::new(ConnectionConfig::default()),
            pool: BufPool::on_heap([4, 2, 2, 0]),
            header_digest: false,
            data_digest: false,
        }
    }

    fn established(dgst: u8) -> Self {
        let mut peer = Self::new();
        peer.send(&ic_req(dgst));
        let response = peer.drain();
        assert_eq!(response[..12], [1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, dgst]);
        assert_eq!(response[12..16], [0, 0, 2, 0], "MAXH2CDATA is 128 KiB");
        assert!(response[16..].iter().all(|byte| *byte == 0) && response.len() == 128);
        (peer.header_digest, peer.data_digest) = (dgst & 1 != 0, dgst & 2 != 0);
        assert_eq!(peer.conn.digests(), (peer.header_digest, peer.data_digest));
        peer.conn.set_queue_depth(8);
        peer
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        self.conn.handle_bytes(bytes, &self.pool)
    }

    fn drain(&mut self) -> Vec<u8> {
        let mut out = TransmitVec::new();
        let mut bytes = Vec::new();
        while self.conn.poll_transmit(&mut out) > 0 {
            let from = bytes.len();
            for segment in out.segments() {
                // SAFETY: the connection keeps what it offers in place until `transmitted`.
                bytes.extend_from_slice(unsafe {
                    std::slice::from_raw_parts(segment.ptr, segment.len)
                });
            }
            self.conn.transmitted(bytes.len() - from);
        }
        bytes
    }

    /// A PDU of `header` and `data`, with the digests agreed.
    fn pdu<T: IntoBytes + zerocopy::Immutable>(&self, header: &T, data: &[u8]) -> Vec<u8> {
        let mut bytes = header.as_bytes().to_vec();
        let mut flags = bytes[1];
        let prologue = bytes.len() + if self.header_digest { 4 } else { 0 };
        let tail = if self.data_digest && !data.is_empty() { 4 } else { 0 };
        if self.header_digest {
            flags |= 1;
        }
        if tail > 0 {
            flags |= 2;
        }
        bytes[1] = flags;
        bytes[3] = if data.is_empty() { 0 } else { u8::try_from(prologue).unwrap() };
        let plen = u32::try_from(prologue + data.len() + tail).unwrap();
        bytes[4..8].copy_from_slice(&plen.to_le_bytes());
        if self.header_digest {
            bytes.extend(crc32c(&bytes).to_le_bytes());
        }
        bytes.extend_from_slice(data);
        if tail > 0 {
            bytes.extend(crc32c(data).to_le_bytes());
        }
        bytes
    }

    fn capsule(&self, opcode: u8, cid: u16, sgl_type: u8, length: u32, data: &[u8]) -> Vec<u8> {
        let common = CommonHeader::new(PduType::CapsuleCmd, Flags::empty(), 0, 0);
        let mut sqe = Sqe::new_zeroed();
        sqe.opcode = opcode;
        sqe.flags = 0x40;
        sqe.cid = U16::new(cid);
        sqe.sgl_type = sgl_type;
        sqe.sgl_length = U32::new(length);
        self.pdu(&CapsuleCmd { common, sqe }, data)
    }

    fn h2c(&self, cid: u16, ttag: u16, offset: u32, last: bool, data: &[u8]) -> Vec<u8> {
        let flags = if last { Flags::LAST_PDU } else { Flags::empty() };
        let header = H2cData {
            common: CommonHeader::new(PduType::H2cData, flags, 0, 0),
            cccid: U16::new(cid),
            ttag: U16::new(ttag),
            datao: U32::new(offset),
            datal: U32::new(u32::try_from(data.len()).unwrap()),
            reserved: [0; 4],
        };
        self.pdu(&header, data)
    }

    /// Starts a write that needs R2T and returns the transfer tag.
    fn begin_r2t(&mut self, cid: u16, length: u32) -> u16 {
        let capsule = self.capsule(WRITE, cid, 0x5a, length, &[]);
        self.send(&capsule);
        let bytes = self.drain();
        let (r2t, _) = R2t::read_from_prefix(&bytes).unwrap();
        assert_eq!((r2t.common.pdu_type, r2t.cccid.get()), (9, cid));
        assert_eq!((r2t.r2to.get(), r2t.r2tl.get()), (0, length));
        r2t.ttag.get()
    }

    #[track_caller]
    fn expect_term(&mut self, fes: FatalError, fei: u32) -> Vec<u8> {
        assert_eq!(self.conn.phase(), Phase::Terminating);
        let bytes = self.drain();
        let (term, offending) = TermReq::read_from_prefix(&bytes).unwrap();
        assert_eq!(term.common.pdu_type, 3);
        assert_eq!(term.common.plen.get() as usize, bytes.len());
        assert!((24..=152).contains(&bytes.len()));
        assert_eq!((term.fes.get(), term.fei.get()), (fes as u16, fei));
        assert!(self.conn.is_closing());
        assert_eq!(self.send(&[1; 500]), 500, "what comes after is thrown away");
        offending.to_vec()
    }

    #[track_caller]
    fn expect_status(&mut self, cid: u16, status: Status) {
        assert_eq!(self.conn.next_command(), None, "the command must not execute");
        let bytes = self.drain();
        let (response, _) = CapsuleResp::read_from_prefix(&bytes).unwrap();
        assert_eq!((response.common.pdu_type, response.cqe.cid.get()), (5, cid));
        let got = Status::from_wire(response.cqe.status.get());
        assert_eq!((got.sct(), got.sc()), (status.sct(), status.sc()));
        assert_eq!(self.conn.phase(), Phase::Established, "the connection goes on");
    }

    /// A command still works.
    #[track_caller]
    fn expect_alive(&mut self) {
        let capsule = self.capsule(FLUSH, 999, 0x5a, 0, &[]);
        self.send(&capsule);
        let (id, sqe) = self.conn.next_command().expect("flush arrives");
        assert_eq!((sqe.opcode, sqe.cid.get()), (FLUSH, 999));
        self.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), 0);
        self.expect_status(999, Status::SUCCESS);
    }
}

#[test]
fn in_capsule_write_with_digests_in_single_bytes() {
    let mut peer = Peer::established(3);
    let data: Vec<u8> = (0..4096u32).map(|i| i.to_le_bytes()[0]).collect();
    for byte in peer.capsule(WRITE, 5, 0x01, 4096, &data) {
        assert_eq!(peer.conn.next_command(), None);
        assert_eq!(peer.send(&[byte]), 1);
    }
    let (id, sqe) = peer.conn.next_command().unwrap();
    assert_eq!((sqe.opcode, sqe.cid.get()), (WRITE, 5));
    assert_eq!(peer.conn.request_buf(id).unwrap().as_slice(), data);
    assert_eq!(peer.conn.executing_count(), 1);
    peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, 7), 0);
    assert_eq!(peer.pool.free_counts(), [4, 2, 2, 0], "the buffer returns before the response");
    let bytes = peer.drain();
    // Golden: type, flags (header digest), HLEN, PDO, PLEN, result, SQHD 1, SQID, CID, status.
    let golden = [5, 1, 24, 0, 28, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0];
    assert_eq!(bytes[..24], golden);
    assert_eq!(bytes[24..], crc32c(&golden).to_le_bytes());
}

#[test]
fn read_sends_aligned_data_then_the_response() {
    let mut peer = Peer::new();
    let mut request = ic_req(2);
    request[10] = 31; // HPDA: 128 bytes
    peer.send(&request);
    peer.drain();
    peer.conn.set_queue_depth(8);
    let capsule = peer.capsule(READ, 0x102, 0x5a, 512, &[]);
    peer.send(&capsule);
    let (id, _) = peer.conn.next_command().unwrap();
    peer.conn.request_data_mut(id).unwrap().fill(0xab);
    peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), 512);
    let bytes = peer.drain();
    assert_eq!(bytes.len(), 128 + 512 + 4 + 24);
    let data = C2hData::read_from_prefix(&bytes).unwrap().0;
    assert_eq!((data.common.pdu_type, data.common.flags, data.common.pdo), (7, 0b0110, 128));
    assert_eq!((data.common.plen.get(), data.cccid.get()), (644, 0x102));
    assert_eq!((data.datao.get(), data.datal.get()), (0, 512));
    assert!(bytes[24..128].iter().all(|byte| *byte == 0), "padding is zero");
    assert_eq!(bytes[640..644], crc32c(&[0xab; 512]).to_le_bytes());
    assert_eq!(bytes[644], 5);
    assert_eq!(peer.pool.free_counts(), [4, 2, 2, 0]);
}

#[test]
fn success_flag_replaces_the_response_without_flow_control() {
    let mut peer = Peer::established(0);
    peer.conn.set_flow_control_disabled(true);
    for (result, len) in [(0, 24 + 512), (1, 24 + 512 + 24)] {
        let capsule = peer.capsule(READ, 1, 0x5a, 512, &[]);
        peer.send(&capsule);
        let (id, _) = peer.conn.next_command().unwrap();
        peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, result), 512);
        let bytes = peer.drain();
        assert_eq!(bytes.len(), len, "a result needs a response");
        assert_eq!(bytes[1], if result == 0 { 0b1100 } else { 0b0100 });
        if result != 0 {
            assert_eq!(bytes[24 + 512 + 16..][..2], [0xff, 0xff], "SQHD is reserved");
        }
    }
}

#[test]
fn what_a_full_queue_of_reads_has_to_say_leaves_in_one_send() {
    const DEPTH: u16 = 128;
    let mut peer = Peer::new();
    // It may hold as much as it leaves for others.
    peer.pool = BufPool::on_heap([2 * usize::from(DEPTH), 0, 0, 0]);
    // Data digests: the piece behind the data is that, the response and the next header.
    peer.send(&ic_req(2));
    peer.drain();
    peer.conn.set_queue_depth(DEPTH);
    for round in 0..3 {
        for cid in 0..DEPTH - 1 {
            let capsule = peer.capsule(READ, cid, 0x5a, 4096, &[]);
            peer.send(&capsule);
        }
        while let Some((id, _)) = peer.conn.next_command() {
            peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), 4096);
        }
        let mut out = TransmitVec::new();
        let bytes = usize::from(DEPTH - 1) * (24 + 4096 + 4 + 24);
        assert_eq!(peer.conn.poll_transmit(&mut out), bytes, "round {round}");
        peer.conn.transmitted(bytes);
        assert!(!peer.conn.wants_transmit());
    }
}

#[test]
fn r2t_write_in_three_pdus_one_of_them_received_directly() {
    let mut peer = Peer::established(3);
    let ttag = peer.begin_r2t(77, 30_000);
    let first = peer.h2c(77, ttag, 0, false, &[1; 10_000]);
    peer.send(&first);
    let second = peer.h2c(77, ttag, 10_000, false, &[2; 10_000]);
    peer.send(&second[..28 + 100]);
    assert_eq!(peer.conn.payload_left_bytes(), 9_900);
    for len in [5_000, 0, 4_900] {
        let target = peer.conn.direct_target().unwrap();
        target[..len].fill(2);
        assert!(!peer.conn.wants_bytes());
        peer.conn.handle_direct(len);
    }
    assert_eq!(peer.conn.direct_target(), None, "the digest does not belong to the data");
    peer.send(&second[second.len() - 4..]);
    let third = peer.h2c(77, ttag, 20_000, true, &[3; 10_000]);
    peer.send(&third);
    let (id, _) = peer.conn.next_command().unwrap();
    let data = peer.conn.request_buf(id).unwrap().as_slice();
    assert_eq!(data.len(), 30_000);
    assert!(
        (0..3u8).all(|i| data[usize::from(i) * 10_000..][..10_000].iter().all(|b| *b == i + 1))
    );
}

#[test]
fn wrong_data_digest_fails_the_command_only() {
    let mut peer = Peer::established(2);
    let mut capsule = peer.capsule(WRITE, 3, 0x01, 512, &[7; 512]);
    *capsule.last_mut().unwrap() ^= 1;
    peer.send(&capsule);
    peer.expect_status(3, Status::TRANSIENT_TRANSPORT_ERROR);
    let ttag = peer.begin_r2t(4, 20_000);
    let mut first = peer.h2c(4, ttag, 0, false, &[7; 10_000]);
    first[100] ^= 1;
    peer.send(&first);
    let second = peer.h2c(4, ttag, 10_000, true, &[7; 10_000]);
    peer.send(&second);
    peer.expect_status(4, Status::TRANSIENT_TRANSPORT_ERROR);
    peer.expect_alive();
    assert_eq!(peer.pool.free_counts(), [4, 2, 2, 0]);
}

#[test]
fn wrong_header_digest_is_fatal_and_names_the_digest() {
    let mut peer = Peer::established(1);
    let mut capsule = peer.capsule(FLUSH, 3, 0x5a, 0, &[]);
    capsule[20] ^= 1;
    let digest = u32::from_le_bytes(capsule[72..76].try_into().unwrap());
    peer.send(&capsule);
    let offending = peer.expect_term(FatalError::HeaderDigestError, digest);
    assert_eq!(offending, capsule[..72]);
}

#[test]
fn sequence_of_ic_req() {
    let mut early = Peer::new();
    let capsule = early.capsule(FLUSH, 0, 0x5a, 0, &[]);
    early.send(&capsule);
    assert_eq!(early.expect_term(FatalError::SequenceError, 0), capsule[..72]);

    let mut twice = Peer::established(0);
    twice.send(&ic_req(0));
    twice.expect_term(FatalError::SequenceError, 0);

    let mut version = Peer::new();
    let mut request = ic_req(0);
    request[8] = 1;
    version.send(&request);
    assert_eq!(version.expect_term(FatalError::UnsupportedParameter, 8), request);

    let mut alignment = Peer::new();
    let mut request = ic_req(0);
    request[10] = 32;
    alignment.send(&request);
    alignment.expect_term(FatalError::InvalidHeaderField, 10);
}

#[test]
fn malformed_headers_name_the_field() {
    for (at, value, fei) in [(0, 0xff, 0), (0, 5, 0), (1, 1, 1), (2, 71, 2), (3, 70, 3), (6, 1, 4)]
    {
        let mut peer = Peer::established(0);
        let mut capsule = peer.capsule(WRITE, 0, 0x01, 512, &[0; 512]);
        capsule[at] = value;
        peer.send(&capsule);
        peer.expect_term(FatalError::InvalidHeaderField, fei);
    }
    // Also when only the common header came: an oversized PDU is not waited for.
    let mut peer = Peer::established(0);
    peer.send(&[4, 0, 72, 72, 0xff, 0xff, 0xff, 0xff]);
    peer.expect_term(FatalError::InvalidHeaderField, 4);
}

#[test]
fn h2c_data_out_of_order_or_range() {
    const LEN: u32 = 20_000;
    type Build = fn(&Peer, u16) -> Vec<u8>;
    let cases: [(Build, FatalError, u32); 8] = [
        (|p, _| p.h2c(4, 7, 0, false, &[0; 100]), FatalError::InvalidHeaderField, 10),
        (|p, _| p.h2c(4, u16::MAX, 0, false, &[0; 100]), FatalError::InvalidHeaderField, 10),
        (|p, t| p.h2c(5, t, 0, false, &[0; 100]), FatalError::InvalidHeaderField, 8),
        (|p, t| p.h2c(4, t, 100, false, &[0; 100]), FatalError::DataTransferOutOfRange, 0),
        (|p, t| p.h2c(4, t, 0, true, &[0; 20_001]), FatalError::DataTransferOutOfRange, 0),
        (|p, t| p.h2c(4, t, 0, true, &[0; 100]), FatalError::InvalidHeaderField, 1),
        (|p, t| p.h2c(4, t, 0, false, &[0; 20_000]), FatalError::InvalidHeaderField, 1),
        (|p, t| p.h2c(4, t, 0, true, &[0; 131_073]), FatalError::LimitExceeded, 0),
    ];
    for (build, fes, fei) in cases {
        let mut peer = Peer::established(0);
        let ttag = peer.begin_r2t(4, LEN);
        let bytes = build(&peer, ttag);
        peer.send(&bytes);
        peer.expect_term(fes, fei);
        assert!(peer.conn.is_drained());
        assert_eq!(peer.pool.free_counts(), [4, 2, 2, 0]);
    }
    let mut peer = Peer::established(0);
    let ttag = peer.begin_r2t(4, LEN);
    let mut bytes = peer.h2c(4, ttag, 0, false, &[0; 100]);
    bytes[16] = 99;
    peer.send(&bytes);
    peer.expect_term(FatalError::InvalidHeaderField, 16);
}

#[test]
fn bad_data_pointers_fail_the_command_only() {
    let mut peer = Peer::established(0);
    let data = [0u8; 512];
    let cases: [(u8, u8, u32, &[u8], Status); 9] = [
        (WRITE, 0x01, 1024, &data, Status::DATA_SGL_LENGTH_INVALID),
        (WRITE, 0x01, 256, &data, Status::DATA_SGL_LENGTH_INVALID),
        (WRITE, 0x01, 512, &[], Status::DATA_SGL_LENGTH_INVALID),
        (WRITE, 0x5a, 512, &data, Status::DATA_SGL_LENGTH_INVALID),
        (FLUSH, 0x01, 512, &data, Status::DATA_SGL_LENGTH_INVALID),
        (READ, 0x01, 512, &[], Status::SGL_DESCRIPTOR_TYPE_INVALID),
        (WRITE, 0x40, 512, &[], Status::SGL_DESCRIPTOR_TYPE_INVALID),
        (WRITE, 0x5a, (1 << 20) + 1, &[], Status::INVALID_FIELD),
        (3, 0x5a, 512, &[], Status::INVALID_OPCODE),
    ];
    for (cid, (opcode, sgl_type, length, data, status)) in (0u16..).zip(cases) {
        let capsule = peer.capsule(opcode, cid, sgl_type, length, data);
        peer.send(&capsule);
        peer.expect_status(cid, status);
    }
    let mut capsule = peer.capsule(WRITE, 50, 0x01, 512, &data);
    capsule[8 + 24] = 4;
    peer.send(&capsule);
    peer.expect_status(50, Status::SGL_OFFSET_INVALID);
    let mut capsule = peer.capsule(READ, 51, 0x5a, 512, &[]);
    capsule[9] = 0;
    peer.send(&capsule);
    peer.expect_status(51, Status::INVALID_FIELD);
    peer.expect_alive();
    assert_eq!(peer.pool.free_counts(), [4, 2, 2, 0]);
}

#[test]
fn a_host_may_give_up_an_event_request_and_use_its_cid_again() {
    use crate::wire::nvme::opcode::admin::ASYNC_EVENT_REQUEST;
    let mut peer = Peer::established(0);
    let event = peer.capsule(ASYNC_EVENT_REQUEST, 9, 0x5a, 0, &[]);
    peer.send(&event);
    let (held, _) = peer.conn.next_command().unwrap();
    assert!(!peer.conn.replaces_events(held));
    let another = peer.capsule(ASYNC_EVENT_REQUEST, 10, 0x5a, 0, &[]);
    peer.send(&another);
    peer.conn.next_command().unwrap();
    // On an I/O queue that opcode is another command's, which is not forgotten.
    let other = peer.capsule(FLUSH, 9, 0x5a, 0, &[]);
    peer.send(&other);
    peer.expect_status(9, Status::COMMAND_ID_CONFLICT);
    peer.conn.set_admin();
    peer.send(&other);
    let (id, sqe) = peer.conn.next_command().unwrap();
    assert_eq!((sqe.opcode, peer.conn.find_cid(9)), (FLUSH, Some(id)));
    assert!(peer.conn.replaces_events(id));
    assert_eq!(peer.conn.executing_count(), 1, "both event requests are gone");
    peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), 0);
    peer.expect_status(9, Status::SUCCESS);
    peer.send(&event);
    let (held, _) = peer.conn.next_command().unwrap();
    assert!(!peer.conn.replaces_events(held), "the CID is free");
}

#[test]
fn duplicate_cid_conflicts_and_does_not_disturb_the_first() {
    let mut peer = Peer::established(0);
    let capsule = peer.capsule(READ, 9, 0x5a, 512, &[]);
    peer.send(&capsule);
    let (first, _) = peer.conn.next_command().unwrap();
    let second = peer.capsule(WRITE, 9, 0x01, 512, &[1; 512]);
    peer.send(&second);
    peer.expect_status(9, Status::COMMAND_ID_CONFLICT);
    assert_eq!(peer.conn.find_cid(9), Some(first));
    peer.send(&capsule);
    peer.expect_status(9, Status::COMMAND_ID_CONFLICT);
    peer.conn.complete(first, Cqe::new(0, Status::SUCCESS, 0), 512);
    assert_eq!(peer.drain().len(), 24 + 512 + 24);
    assert_eq!(peer.conn.find_cid(9), None);
    peer.send(&capsule);
    assert!(peer.conn.next_command().is_some(), "the CID is free again");
}

#[test]
fn without_a_buffer_in_capsule_data_pauses_reception() {
    let mut peer = Peer::established(0);
    let held: Vec<_> = std::iter::from_fn(|| peer.pool.get(1)).collect();
    // A read waits without pausing anything.
    let read = peer.capsule(READ, 1, 0x5a, 512, &[]);
    assert_eq!(peer.send(&read), read.len());
    assert!(peer.conn.wants_bytes() && peer.conn.needs_buffers());
    let mut bytes = peer.capsule(WRITE, 2, 0x01, 512, &[5; 512]);
    bytes.extend(peer.capsule(FLUSH, 3, 0x5a, 0, &[]));
    let taken = peer.send(&bytes);
    assert_eq!(taken, 72, "nothing past the capsule's header");
    assert!(!peer.conn.wants_bytes());
    assert!(!peer.conn.retry_buffers(&peer.pool));
    assert_eq!(peer.conn.population(RequestState::NeedBuffer), 2);
    drop(held);
    assert!(peer.conn.retry_buffers(&peer.pool));
    assert!(peer.conn.wants_bytes() && !peer.conn.needs_buffers());
    assert_eq!(peer.send(&bytes[taken..]), bytes.len() - taken);
    let cids: Vec<_> =
        std::iter::from_fn(|| peer.conn.next_command()).map(|(_, sqe)| sqe.cid.get()).collect();
    assert_eq!(cids, [1, 2, 3]);
}

#[test]
fn r2ts_leave_buffers_for_capsules_that_block_the_stream() {
    let mut peer = Peer::established(0);
    for cid in 0..4 {
        let capsule = peer.capsule(WRITE, cid, 0x5a, 20_000, &[]);
        peer.send(&capsule);
    }
    assert_eq!(peer.conn.population(RequestState::AwaitH2cData), 2);
    assert_eq!(peer.conn.population(RequestState::NeedBuffer), 2);
    assert_eq!(peer.drain().len(), 2 * 24, "two R2Ts");
    let mut bytes = peer.capsule(WRITE, 4, 0x01, 8192, &[1; 8192]);
    bytes.extend(peer.h2c(0, 0, 0, true, &[0; 20_000]));
    assert_eq!(peer.send(&bytes), bytes.len(), "the capsule does not block the data behind it");
    for cid in [4, 0] {
        let (id, sqe) = peer.conn.next_command().unwrap();
        assert_eq!(sqe.cid.get(), cid);
        peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), 0);
    }
    assert!(peer.conn.retry_buffers(&peer.pool));
    assert_eq!(peer.conn.population(RequestState::NeedBuffer), 1);
}

#[test]
fn more_commands_than_the_queue_holds() {
    // All unanswered: the host overran its queue.
    let mut peer = Peer::established(0);
    for cid in 0..8 {
        let capsule = peer.capsule(FLUSH, cid, 0x5a, 0, &[]);
        peer.send(&capsule);
    }
    let commands: Vec<_> = std::iter::from_fn(|| peer.conn.next_command()).collect();
    let ninth = peer.capsule(FLUSH, 8, 0x5a, 0, &[]);
    peer.send(&ninth);
    peer.expect_term(FatalError::SequenceError, 0);
    assert_eq!(peer.conn.executing_count(), 8);
    assert!(!peer.conn.is_drained());
    for (id, _) in commands {
        peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), 0);
    }
    assert!(peer.conn.is_drained());

    // All answered, but no report yet that the responses left: reading pauses.
    let mut peer = Peer::established(0);
    for cid in 0..8 {
        let capsule = peer.capsule(FLUSH, cid, 0x5a, 0, &[]);
        peer.send(&capsule);
        let (id, _) = peer.conn.next_command().unwrap();
        peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), 0);
    }
    assert_eq!(peer.send(&ninth), ninth.len());
    assert!(!peer.conn.wants_bytes() && peer.conn.next_command().is_none());
    assert_eq!(peer.send(&ninth), 0);
    let mut out = TransmitVec::new();
    assert_eq!(peer.conn.poll_transmit(&mut out), 8 * 24, "one send carries all");
    assert_eq!(out.segments().len(), 1, "and in one segment");
    peer.conn.transmitted(8 * 24);
    assert!(peer.conn.wants_bytes());
    peer.send(&[]);
    assert_eq!(peer.conn.next_command().unwrap().1.cid.get(), 8);
}

#[test]
fn sqhd_counts_modulo_the_depth() {
    let mut peer = Peer::established(0);
    let mut heads = Vec::new();
    for cid in 0..18 {
        let capsule = peer.capsule(FLUSH, cid, 0x5a, 0, &[]);
        peer.send(&capsule);
        let (id, _) = peer.conn.next_command().unwrap();
        peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), 0);
        heads.push(peer.drain()[16]);
    }
    let golden: Vec<u8> = (1..=18).map(|head| head % 8).collect();
    assert_eq!(heads, golden);
}

#[test]
fn host_terminates() {
    let mut peer = Peer::established(0);
    let mut term = vec![2, 0, 24, 0, 32, 0, 0, 0, 1, 0, 0, 0, 0, 0];
    term.resize(32, 0);
    peer.send(&term);
    assert!(peer.conn.is_closing() && peer.conn.is_drained());
    assert!(peer.drain().is_empty());
}

#[test]
fn abort_keeps_what_the_kernel_and_the_bdev_hold() {
    let mut peer = Peer::established(0);
    let ttag = peer.begin_r2t(1, 20_000);
    for cid in 2..5 {
        let capsule = peer.capsule(READ, cid, 0x5a, 4096, &[]);
        peer.send(&capsule);
    }
    let (executing, _) = peer.conn.next_command().unwrap();
    let (sending, _) = peer.conn.next_command().unwrap();
    peer.conn.complete(sending, Cqe::new(0, Status::SUCCESS, 0), 4096);
    let mut out = TransmitVec::new();
    assert!(peer.conn.poll_transmit(&mut out) > 0);
    let data = peer.h2c(1, ttag, 0, true, &[0; 20_000]);
    peer.send(&data[..24]);
    assert_eq!(peer.conn.direct_target().unwrap().len(), 20_000);
    peer.conn.abort();
    // Released: the read that nobody had taken. Kept: one read sent, one executing, one write.
    assert_eq!(peer.pool.free_counts(), [2, 1, 2, 0]);
    peer.conn.handle_direct(100);
    assert_eq!(peer.pool.free_counts(), [2, 2, 2, 0]);
    assert!(!peer.conn.is_drained());
    peer.conn.transmitted(10);
    assert_eq!(peer.pool.free_counts(), [3, 2, 2, 0]);
    assert_eq!((peer.conn.executing_count(), peer.conn.is_drained()), (1, false));
    peer.conn.complete(executing, Cqe::new(0, Status::SUCCESS, 0), 4096);
    assert!(peer.conn.is_drained());
    assert_eq!(peer.pool.free_counts(), [4, 2, 2, 0]);
}

#[test]
fn ids_survive_the_trip_through_a_number() {
    let id = RequestId { slot: 0x0102, generation: 0xfffe };
    assert_eq!(id.to_u32(), 0xfffe_0102);
    assert_eq!(RequestId::from_u32(id.to_u32()), id);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Valid PDUs with bytes changed, cut anywhere: no panic, no buffer lost, and either commands
    /// or a clean end.
    #[test]
    fn garbage_never_panics(
        dgst in 0u8..4,
        kinds in prop::collection::vec((0u8..4, 0u16..6), 1..12),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in 1usize..3000,
        start_with_garbage: bool,
    ) {
        let mut peer = if start_with_garbage { Peer::new() } else { Peer::established(dgst) };
        let mut bytes = Vec::new();
        for (kind, cid) in kinds {
            bytes.extend(match kind {
                0 => peer.capsule(WRITE, cid, 0x01, 512, &[1; 512]),
                1 => peer.capsule(READ, cid, 0x5a, 512, &[]),
                2 => peer.capsule(WRITE, cid, 0x5a, 4096, &[]),
                _ => peer.h2c(cid, cid, 0, true, &[2; 4096]),
            });
        }
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for piece in bytes.chunks(cut) {
            let mut at = 0;
            while at < piece.len() {
                let taken = peer.send(&piece[at..]);
                at += taken;
                while let Some((id, _)) = peer.conn.next_command() {
                    let data = peer.conn.request_buf(id).map_or(0, |buf| buf.len());
                    let data = u32::try_from(data).unwrap();
                    peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), data);
                }
                peer.drain();
                let progress = peer.conn.retry_buffers(&peer.pool);
                if taken == 0 && !progress && !peer.conn.wants_bytes() {
                    break;
                }
            }
        }
        peer.drain();
        peer.conn.abort();
        prop_assert!(peer.conn.is_drained());
        prop_assert_eq!(peer.pool.free_counts(), [4, 2, 2, 0]);
    }
}

//! Fused operations and commands that are taken back.

use super::*;

const COMPARE: u8 = 5;
const FIRST: u8 = 0x41;
const SECOND: u8 = 0x42;

/// A capsule of 512 bytes, in the capsule or by R2T.
fn capsule(peer: &Peer, opcode: u8, fuse: u8, cid: u16, in_capsule: bool) -> Vec<u8> {
    let common = CommonHeader::new(PduType::CapsuleCmd, Flags::empty(), 0, 0);
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = opcode;
    sqe.flags = fuse;
    sqe.cid = U16::new(cid);
    sqe.sgl_type = if in_capsule { 0x01 } else { 0x5a };
    sqe.sgl_length = U32::new(512);
    let data: &[u8] = if in_capsule { &[7; 512] } else { &[] };
    peer.pdu(&CapsuleCmd { common, sqe }, data)
}

fn next_cids(peer: &mut Peer) -> Vec<u16> {
    let mut cids = Vec::new();
    while let Some((id, sqe)) = peer.conn.next_command() {
        cids.push(sqe.cid.get());
        peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), 0);
    }
    cids
}

fn statuses(peer: &mut Peer) -> Vec<(u16, Status)> {
    let bytes = peer.drain();
    let responses = bytes.chunks_exact(24).filter(|pdu| pdu[0] == 5);
    responses
        .map(|pdu| {
            let cqe = CapsuleResp::read_from_prefix(pdu).unwrap().0.cqe;
            (cqe.cid.get(), Status::from_wire(cqe.status.get()))
        })
        .collect()
}

#[test]
fn a_pair_is_handed_out_together_whatever_data_comes_first() {
    for (first_in_capsule, second_in_capsule) in [(true, true), (true, false), (false, true)] {
        let mut peer = Peer::established(0);
        let first = capsule(&peer, COMPARE, FIRST, 1, first_in_capsule);
        peer.send(&first);
        assert_eq!(peer.conn.next_command(), None, "the second may still be missing");
        let second = capsule(&peer, WRITE, SECOND, 2, second_in_capsule);
        let other = capsule(&peer, WRITE, 0x40, 3, true);
        peer.send(&second);
        peer.send(&other);
        let pending = if first_in_capsule && second_in_capsule {
            assert_eq!(next_cids(&mut peer), [1, 2, 3]);
            continue;
        } else if first_in_capsule {
            2
        } else {
            1
        };
        assert_eq!(next_cids(&mut peer), [3], "only the pair waits for the data");
        let bytes = peer.drain();
        let r2t = bytes.chunks(24).find(|pdu| pdu[0] == 9).unwrap();
        let r2t = R2t::read_from_prefix(r2t).unwrap().0;
        assert_eq!(r2t.cccid.get(), pending);
        let data = peer.h2c(pending, r2t.ttag.get(), 0, true, &[8; 512]);
        peer.send(&data);
        assert_eq!(next_cids(&mut peer), [1, 2]);
    }
}

/// It holds a buffer, so the host is timed.
#[test]
fn the_second_command_is_owed() {
    let mut peer = Peer::established(0);
    let first = capsule(&peer, COMPARE, FIRST, 1, false);
    peer.send(&first);
    assert_eq!(peer.conn.inbound_transfers(), (1, 0), "its data");
    let bytes = peer.drain();
    let r2t = R2t::read_from_prefix(bytes.as_slice()).unwrap().0;
    let data = peer.h2c(1, r2t.ttag.get(), 0, true, &[8; 512]);
    peer.send(&data);
    assert_eq!(peer.conn.inbound_transfers(), (1, 1), "the second");
    let second = capsule(&peer, WRITE, SECOND, 2, true);
    peer.send(&second);
    assert_eq!(peer.conn.inbound_transfers(), (0, 2));
    assert_eq!(next_cids(&mut peer), [1, 2]);
}

#[test]
fn commands_without_their_partner_end() {
    let mut peer = Peer::established(0);
    let alone = capsule(&peer, WRITE, SECOND, 1, true);
    peer.send(&alone);
    assert_eq!(statuses(&mut peer), [(1, Status::MISSING_FUSED)]);
    for (cid, fuse) in [(2, FIRST), (3, 0x40)] {
        let bytes = capsule(&peer, COMPARE, fuse, cid, true);
        peer.send(&bytes);
    }
    assert_eq!(statuses(&mut peer), [(2, Status::MISSING_FUSED)]);
    assert_eq!(next_cids(&mut peer), [3]);
    peer.drain();
    for (cid, fuse) in [(4, FIRST), (5, FIRST), (6, SECOND)] {
        let bytes = capsule(&peer, COMPARE, fuse, cid, true);
        peer.send(&bytes);
    }
    assert_eq!(statuses(&mut peer), [(4, Status::MISSING_FUSED)]);
    assert_eq!(next_cids(&mut peer), [5, 6]);
    peer.drain();
    let reserved = capsule(&peer, WRITE, 0x43, 7, true);
    peer.send(&reserved);
    assert_eq!(statuses(&mut peer), [(7, Status::INVALID_FIELD.dnr())]);
}

#[test]
fn what_ends_one_ends_the_other() {
    let mut peer = Peer::established(0);
    // The first cannot be executed: its length is not that of its capsule.
    let mut bad = capsule(&peer, COMPARE, FIRST, 1, true);
    bad[8 + 32] = 1;
    peer.send(&bad);
    let second = capsule(&peer, WRITE, SECOND, 2, true);
    peer.send(&second);
    let expected = [(1, Status::DATA_SGL_LENGTH_INVALID.dnr()), (2, Status::FAILED_FUSED)];
    assert_eq!(statuses(&mut peer), expected);
    // The second cannot, while the first still waits for its data.
    let first = capsule(&peer, COMPARE, FIRST, 3, false);
    peer.send(&first);
    let r2t = R2t::read_from_prefix(&peer.drain()).unwrap().0;
    let mut bad = capsule(&peer, WRITE, SECOND, 4, true);
    bad[8 + 32] = 1;
    peer.send(&bad);
    assert_eq!(statuses(&mut peer), [(4, Status::DATA_SGL_LENGTH_INVALID.dnr())]);
    // Another command takes the slot of the one that has just ended.
    let other = capsule(&peer, WRITE, 0x40, 5, true);
    peer.send(&other);
    let data = peer.h2c(3, r2t.ttag.get(), 0, true, &[8; 512]);
    peer.send(&data);
    assert_eq!(statuses(&mut peer), [(3, Status::FAILED_FUSED)]);
    assert_eq!(next_cids(&mut peer), [5]);
    peer.drain();
    peer.expect_alive();
}

#[test]
fn an_aborted_command_takes_its_partner_along() {
    let mut peer = Peer::established(0);
    for (cid, fuse) in [(1, FIRST), (2, SECOND)] {
        let bytes = capsule(&peer, COMPARE, fuse, cid, true);
        peer.send(&bytes);
    }
    assert_eq!(peer.conn.recall(2), Recall::Aborted);
    let ended = statuses(&mut peer);
    assert_eq!(ended, [(2, Status::ABORT_REQUESTED), (1, Status::FAILED_FUSED)]);
    let bytes = capsule(&peer, COMPARE, FIRST, 3, true);
    peer.send(&bytes);
    assert_eq!(peer.conn.recall(3), Recall::Aborted);
    let bytes = capsule(&peer, COMPARE, SECOND, 4, true);
    peer.send(&bytes);
    let ended = statuses(&mut peer);
    assert_eq!(ended, [(3, Status::ABORT_REQUESTED), (4, Status::FAILED_FUSED)]);
    peer.expect_alive();
}

#[test]
fn what_can_be_recalled() {
    let mut peer = Peer::established(0);
    assert_eq!(peer.conn.recall(1), Recall::Gone);
    let ttag = peer.begin_r2t(1, 20_000);
    assert_eq!(peer.conn.recall(1), Recall::Later, "the host is sending its data");
    let data = peer.h2c(1, ttag, 0, true, &[1; 20_000]);
    peer.send(&data);
    peer.expect_status(1, Status::ABORT_REQUESTED);
    let flush = peer.capsule(FLUSH, 2, 0x5a, 0, &[]);
    peer.send(&flush);
    assert_eq!(peer.conn.recall(2), Recall::Aborted);
    peer.expect_status(2, Status::ABORT_REQUESTED);
    peer.send(&flush);
    let (id, _) = peer.conn.next_command().unwrap();
    assert_eq!(peer.conn.recall(2), Recall::Executing(id));
    peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), 0);
    assert_eq!(peer.conn.recall(2), Recall::Gone);
    peer.expect_status(2, Status::SUCCESS);
    // Three large buffers are taken, and the fourth is for others: the read waits, and its buffer
    // is not needed any more.
    for cid in 3..7 {
        let read = peer.capsule(READ, cid, 0x5a, 32_768, &[]);
        peer.send(&read);
    }
    assert!(peer.conn.needs_buffers());
    assert_eq!(peer.pool.free_bytes(32_768), 128 * 1024);
    assert_eq!(peer.conn.recall(6), Recall::Aborted);
    assert!(!peer.conn.needs_buffers());
    let ended = statuses(&mut peer);
    assert_eq!(ended, [(6, Status::ABORT_REQUESTED)]);
}

/// A pair that is too large for any namespace needs no buffers to be told so.
#[test]
fn large_pairs_are_refused_when_they_come() {
    let mut peer = Peer::established(0);
    let free = peer.pool.free_counts();
    for (cid, opcode, fuse) in [(1, COMPARE, FIRST), (2, WRITE, SECOND)] {
        let mut sqe = peer.capsule(opcode, cid, 0x5a, 4097, &[]);
        sqe[8 + 1] = fuse;
        peer.send(&sqe);
    }
    assert_eq!(peer.pool.free_counts(), free);
    let expected = [1, 2].map(|cid| (cid, Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr()));
    assert_eq!(statuses(&mut peer), expected);
    peer.expect_alive();
}

const GIVEN_UP: [(u16, Status); 2] = [(1, Status::FAILED_FUSED), (2, Status::COMMAND_INTERRUPTED)];

fn send_pair(peer: &mut Peer, opcodes: [u8; 2], in_capsule: [bool; 2]) {
    let first = capsule(peer, opcodes[0], FIRST, 1, in_capsule[0]);
    peer.send(&first);
    let second = capsule(peer, opcodes[1], SECOND, 2, in_capsule[1]);
    peer.send(&second);
}

/// Buffers that one half keeps while it waits for the other's would be kept for ever, if there were
/// as many such pairs as buffers.
#[test]
fn a_pair_is_given_up_rather_than_waits_with_a_buffer() {
    // Two large buffers are left to data that come in capsules.
    for (in_capsule, counts) in
        [([true, true], [1, 0, 0, 0]), ([true, false], [1, 2, 0, 0]), ([false, true], [1, 2, 0, 0])]
    {
        let mut peer = Peer::established(0);
        peer.pool = BufPool::on_heap(counts);
        send_pair(&mut peer, [COMPARE, WRITE], in_capsule);
        assert_eq!(statuses(&mut peer), GIVEN_UP, "{in_capsule:?}");
        assert!(!peer.conn.needs_buffers());
        assert_eq!((peer.conn.held_bytes(), peer.pool.free_counts()), (0, counts));
        let other = capsule(&peer, WRITE, 0x40, 3, true);
        peer.send(&other);
        assert_eq!(next_cids(&mut peer), [3], "the stream goes on behind it");
    }
}

#[test]
fn a_pair_that_waits_gets_both_buffers_or_none() {
    let mut peer = Peer::established(0);
    peer.pool = BufPool::on_heap([0, 2, 0, 0]);
    let taken = [peer.pool.get(1).unwrap(), peer.pool.get(1).unwrap()];
    // Only the fabric's rules are looked at here: what reads needs no data of the host.
    let mut reads = [1, 2].map(|cid| peer.capsule(READ, cid, 0x5a, 512, &[]));
    for (bytes, fuse) in reads.iter_mut().zip([FIRST, SECOND]) {
        bytes[8 + 1] = fuse;
        peer.send(bytes);
    }
    let [one, other] = taken;
    drop(one);
    let pool = peer.pool;
    assert!(!peer.conn.retry_buffers(&pool));
    assert_eq!((pool.free_counts(), pool.returns()), ([0, 1, 0, 0], 1), "nothing was tried");
    drop(other);
    assert!(peer.conn.retry_buffers(&pool));
    assert_eq!(next_cids(&mut peer), [1, 2]);

    // For the second the reserve is in the way when the first has got its buffer.
    let mut peer = Peer::established(0);
    peer.pool = BufPool::on_heap([0, 3, 0, 0]);
    let (pool, taken) = (peer.pool, peer.pool.get(1));
    send_pair(&mut peer, [COMPARE, WRITE], [false, false]);
    assert!(peer.conn.needs_buffers());
    drop(taken);
    assert!(peer.conn.retry_buffers(&pool) && !peer.conn.needs_buffers());
    let bytes = peer.drain();
    let r2t = bytes.chunks(24).find(|pdu| pdu[0] == 9).unwrap();
    let r2t = R2t::read_from_prefix(r2t).unwrap().0;
    assert_eq!(r2t.cccid.get(), 1);
    let data = peer.h2c(1, r2t.ttag.get(), 0, true, &[8; 512]);
    peer.send(&data);
    assert_eq!(statuses(&mut peer), GIVEN_UP[..1], "the second's came before");
    assert_eq!(pool.free_counts(), [0, 3, 0, 0]);
    peer.expect_alive();
}

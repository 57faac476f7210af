//! What a connection takes of what all share, and for itself.

use super::*;
use crate::limits::IO_QUEUE_DEPTH_MAX;
use crate::target::tcp::CONNECTION_MEMORY_BYTES_MAX;

fn read_large(peer: &mut Peer, cids: std::ops::Range<u16>) {
    for cid in cids {
        let read = peer.capsule(READ, cid, 0x5a, 131_072, &[]);
        peer.send(&read);
    }
}

#[test]
fn a_connection_leaves_the_others_as_much_as_it_has() {
    let mut peers: Vec<Peer> = (0..3).map(|_| Peer::established(0)).collect();
    let pool = BufPool::on_heap([0, 0, 8, 0]);
    for peer in &mut peers {
        peer.pool = pool;
        read_large(peer, 0..6);
    }
    // Of 8 buffers the first holds 4; of the 4 left the second 2; of the 2 left the third 1.
    let held: Vec<usize> = peers.iter().map(|peer| peer.conn.held_bytes() >> 17).collect();
    assert_eq!(held, [4, 2, 1]);
    assert!(peers.iter().all(|peer| peer.conn.needs_buffers()));
    // Nobody came back, so nobody need look; then one goes.
    assert_eq!(pool.returns(), 0);
    drop(peers.remove(0));
    assert_eq!(pool.returns(), 4);
    assert!(peers[1].conn.retry_buffers(&pool) && peers[0].conn.retry_buffers(&pool));
    let held: Vec<usize> = peers.iter().map(|peer| peer.conn.held_bytes() >> 17).collect();
    assert_eq!(held, [3, 3]);
}

#[test]
fn small_commands_never_look_at_what_is_free() {
    let mut peer = Peer::established(0);
    peer.pool = BufPool::on_heap([8, 0, 0, 0]);
    for cid in 0..8 {
        let read = peer.capsule(READ, cid, 0x5a, 4096, &[]);
        peer.send(&read);
    }
    assert_eq!((peer.pool.free_counts(), peer.conn.held_bytes()), ([0; 4], 32_768));
    while let Some((id, _)) = peer.conn.next_command() {
        peer.conn.complete(id, Cqe::new(0, Status::SUCCESS, 0), 4096);
    }
    peer.drain();
    assert_eq!((peer.pool.free_counts(), peer.conn.held_bytes()), ([8, 0, 0, 0], 0));
}

#[test]
fn a_connection_of_the_largest_depth_takes_no_more_than_is_promised() {
    let mut peer = Peer::new();
    peer.send(&ic_req(0));
    let before = peer.conn.memory_bytes();
    peer.conn.set_queue_depth(u16::try_from(IO_QUEUE_DEPTH_MAX).unwrap());
    let after = peer.conn.memory_bytes();
    assert!(before < after && after <= CONNECTION_MEMORY_BYTES_MAX, "{before} {after}");
}

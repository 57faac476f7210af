//! What a secure channel takes of memory, OpenSSL's own included: no more than the connection's
//! share of it that `mdof::secure::tls` promises, which the engine counts with.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mdof::secure::Psk;
use mdof::secure::psk::{Party, TlsPsk};
use mdof::secure::tls::{FindPsk, TLS_BYTES_MAX, TlsChannel, TlsState};

/// Bytes that OpenSSL has, by the allocator's own sizes.
static OF_OPENSSL: AtomicUsize = AtomicUsize::new(0);

type Malloc = extern "C" fn(usize, *const c_char, c_int) -> *mut c_void;
type Realloc = extern "C" fn(*mut c_void, usize, *const c_char, c_int) -> *mut c_void;
type Free = extern "C" fn(*mut c_void, *const c_char, c_int);

// SAFETY: as in <openssl/crypto.h> and <malloc.h>.
unsafe extern "C" {
    fn CRYPTO_set_mem_functions(malloc: Malloc, realloc: Realloc, free: Free) -> c_int;
    fn malloc_usable_size(memory: *mut c_void) -> usize;
}

fn count(memory: *mut c_void) {
    // SAFETY: null, or memory of this allocator.
    OF_OPENSSL.fetch_add(unsafe { malloc_usable_size(memory) }, Ordering::Relaxed);
}

fn uncount(memory: *mut c_void) {
    // SAFETY: null, or memory of this allocator.
    OF_OPENSSL.fetch_sub(unsafe { malloc_usable_size(memory) }, Ordering::Relaxed);
}

extern "C" fn counted_malloc(size: usize, _file: *const c_char, _line: c_int) -> *mut c_void {
    // SAFETY: any size may be asked for.
    let memory = unsafe { libc::malloc(size) };
    count(memory);
    memory
}

extern "C" fn counted_realloc(
    old: *mut c_void,
    size: usize,
    _file: *const c_char,
    _line: c_int,
) -> *mut c_void {
    uncount(old);
    // SAFETY: OpenSSL gives back what it got from the functions here.
    let memory = unsafe { libc::realloc(old, size) };
    count(memory);
    memory
}

extern "C" fn counted_free(memory: *mut c_void, _file: *const c_char, _line: c_int) {
    uncount(memory);
    // SAFETY: as above.
    unsafe { libc::free(memory) };
}

const KEY: &str = "NVMeTLSkey-1:02:BRAbJjE8R1JdaHN+iZSfqrXAy9bh7PcCDRgjLjlET1plcHuGkZynsr3I097p9P8K\
                   bTPm6w==:";
const CHANNELS: usize = 16;
const RECORD_BYTES: usize = 16 * 1024;

struct Known(Psk);

impl FindPsk for Known {
    fn find_psk(&self, identity: &str) -> Option<TlsPsk> {
        self.0.find(identity)
    }
}

fn carry(from: &mut TlsChannel, to: &mut TlsChannel) {
    let mut bytes = Vec::new();
    from.take_outgoing(&mut bytes);
    to.feed(&bytes);
}

fn open() -> (TlsChannel, TlsChannel) {
    let psk = Psk::parse(KEY).unwrap();
    let of = Party { hostnqn: "nqn.host", subnqn: "nqn.subsystem" };
    let [key, _] = psk.tls_keys(of);
    let mut client = TlsChannel::client(key).unwrap();
    let mut server = TlsChannel::server_to_hand_over(Arc::new(Known(psk))).unwrap();
    for _ in 0..4 {
        client.read(&mut []).unwrap();
        carry(&mut client, &mut server);
        server.read(&mut []).unwrap();
        carry(&mut server, &mut client);
    }
    assert_eq!((client.state(), server.state()), (TlsState::Open, TlsState::Open));
    (client, server)
}

/// Memory of OpenSSL and of what the channels keep for their peers, now.
fn bytes_of(channels: &[(TlsChannel, TlsChannel)]) -> usize {
    let waiting = |channel: &TlsChannel| channel.outgoing().len();
    let kept: usize = channels.iter().map(|(a, b)| waiting(a) + waiting(b)).sum();
    // Vectors that grow are doubled.
    OF_OPENSSL.load(Ordering::Relaxed) + 2 * kept
}

#[test]
fn a_channel_takes_no_more_than_is_promised() {
    // SAFETY: nothing has asked OpenSSL for memory yet, and the functions do what theirs do.
    let is_set = unsafe { CRYPTO_set_mem_functions(counted_malloc, counted_realloc, counted_free) };
    assert_eq!(is_set, 1, "OpenSSL had memory before");
    // What the library keeps for all channels.
    drop(open());
    let before = OF_OPENSSL.load(Ordering::Relaxed);
    let mut channels: Vec<_> = (0..CHANNELS).map(|_| open()).collect();
    let idle = bytes_of(&channels) - before;
    let data = [0x5a; RECORD_BYTES];
    for (client, server) in &mut channels {
        // Two records that have not left, and of the peer's a part that can't be read yet.
        for _ in 0..2 {
            assert_eq!(server.write(&data).unwrap(), RECORD_BYTES);
        }
        client.write(&data).unwrap();
        let (part, _) = client.outgoing().split_at(RECORD_BYTES);
        server.feed(part);
        assert_eq!(server.read(&mut [0; 64]).unwrap(), 0);
    }
    let busy = bytes_of(&channels) - before;
    let sides = 2 * CHANNELS;
    println!("a channel takes {} bytes idle, {} busy", idle / sides, busy / sides);
    // Beside what was received and is not read: one read of the socket, doubled.
    assert!(busy / sides + 2 * RECORD_BYTES <= TLS_BYTES_MAX);
    assert!(idle / sides > 1024, "OpenSSL's memory was not counted");
}

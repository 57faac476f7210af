//! Both sides over two buffers.

use super::*;
use crate::secure::psk::{Party, Psk};

const KEY: &str = "NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:";

struct Known(Psk);

impl FindPsk for Known {
    fn find_psk(&self, identity: &str) -> Option<TlsPsk> {
        self.0.find(identity)
    }
}

const OF: Party<'_> = Party { hostnqn: "nqn.host", subnqn: "nqn.subsystem" };

fn server() -> TlsChannel {
    TlsChannel::server(Arc::new(Known(Psk::parse(KEY).unwrap()))).unwrap()
}

/// Carries bytes until neither side has any, at most so many at a time.
fn carry(a: &mut TlsChannel, b: &mut TlsChannel, step: usize) -> Vec<TlsError> {
    let mut errors = Vec::new();
    // A read begins the client's part.
    for _ in 0..10_000 {
        let mut idle = true;
        for turn in 0..2 {
            let (from, to) = if turn == 0 { (&mut *a, &mut *b) } else { (&mut *b, &mut *a) };
            if from.state() == TlsState::Handshake
                && let Err(error) = from.read(&mut [])
            {
                errors.push(error);
            }
            let len = from.outgoing().len().min(step);
            to.feed(&from.outgoing()[..len]);
            from.sent(len);
            idle &= len == 0;
        }
        if idle {
            return errors;
        }
    }
    panic!("the handshake does not end");
}

#[test]
fn data_flow_both_ways_for_both_identities() {
    let psk = Psk::parse(KEY).unwrap();
    for key in psk.tls_keys(OF) {
        for step in [1, 100, 65536] {
            let mut client = TlsChannel::client(key.clone()).unwrap();
            let mut server = server();
            assert_eq!(carry(&mut client, &mut server, step), []);
            assert_eq!((client.state(), server.state()), (TlsState::Open, TlsState::Open));
            assert_eq!(server.identity().as_deref(), Some(key.identity.as_str()));
            let data: Vec<u8> = (0..50_000u32).map(|n| n.to_le_bytes()[0]).collect();
            let mut written = 0;
            while written < data.len() {
                written += client.write(&data[written..]).unwrap();
            }
            carry(&mut client, &mut server, step.max(100));
            let mut got = vec![0; data.len()];
            let mut read = 0;
            while read < got.len() {
                let more = server.read(&mut got[read..]).unwrap();
                assert_ne!(more, 0, "the rest is missing");
                read += more;
            }
            assert_eq!(got, data);
            assert_eq!(server.read(&mut got).unwrap(), 0);
            assert_eq!(server.write(b"back").unwrap(), 4);
            carry(&mut client, &mut server, 65536);
            assert_eq!(client.read(&mut got).unwrap(), 4);
            assert_eq!(&got[..4], b"back");
        }
    }
}

#[test]
fn a_wrong_key_and_an_unknown_one_are_refused() {
    let psk = Psk::parse(KEY).unwrap();
    let [key, _] = psk.tls_keys(OF);
    let wrong = TlsPsk { key: crate::secure::Secret::new(vec![7; 32]), ..key.clone() };
    let mut client = TlsChannel::client(wrong).unwrap();
    let mut own = server();
    let errors = carry(&mut client, &mut own, 65536);
    assert!(matches!(errors[0], TlsError::Failed(_)), "{errors:?}");
    assert_eq!(own.state(), TlsState::Ended);
    let unknown = TlsPsk { identity: "NVMe0R01 nqn.x nqn.y z".to_owned(), ..key };
    let mut client = TlsChannel::client(unknown).unwrap();
    let mut own = server();
    assert_eq!(carry(&mut client, &mut own, 65536)[0], TlsError::NoKey);
    assert_eq!((own.identity(), own.state()), (None, TlsState::Ended));
}

#[test]
fn bytes_that_are_no_tls_end_the_channel() {
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 128], &[0x16, 3, 1, 0xff, 0xff], &[0xff; 64]]
    {
        let mut own = server();
        own.feed(bytes);
        let result = own.read(&mut [0; 16]);
        if result != Ok(0) {
            assert_eq!(own.state(), TlsState::Ended);
            assert_eq!(own.read(&mut [0; 16]), Err(TlsError::Closed));
        }
        // Nothing came through, whatever it was.
        assert!(result.map_or(true, |len| len == 0));
    }
}

#[test]
fn a_changed_byte_of_the_stream_ends_the_channel() {
    let psk = Psk::parse(KEY).unwrap();
    let [key, _] = psk.tls_keys(OF);
    let mut client = TlsChannel::client(key).unwrap();
    let mut own = server();
    carry(&mut client, &mut own, 65536);
    client.write(b"what is to come").unwrap();
    let mut bytes = client.outgoing().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    own.feed(&bytes);
    assert!(own.read(&mut [0; 64]).is_err());
    assert_eq!(own.state(), TlsState::Ended);
}

#[test]
fn identities_are_cut_from_their_extension() {
    let identities = |bytes: &[u8]| -> Vec<Vec<u8>> {
        super::external::offered_identities(bytes).map(<[u8]>::to_vec).collect()
    };
    let two = [0, 17, 0, 3, b'a', b'b', b'c', 0, 0, 0, 0, 0, 2, b'd', b'e', 9, 9, 9, 9, 0, 33];
    assert_eq!(identities(&two), [b"abc".to_vec(), b"de".to_vec()]);
    for at in 0..two.len() {
        identities(&two[..at]);
    }
    assert_eq!(identities(&two[..20]).len(), 2);
    assert_eq!(identities(&[0, 200, 0, 3]), Vec::<Vec<u8>>::new());
    let many: Vec<u8> = [0, 70].into_iter().chain([0, 1, b'x', 0, 0, 0, 0].repeat(10)).collect();
    assert_eq!(identities(&many).len(), 4);
}

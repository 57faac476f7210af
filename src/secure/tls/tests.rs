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

const LONG_KEY: &str = "NVMeTLSkey-1:02:BRAbJjE8R1JdaHN+iZSfqrXAy9bh7PcCDRgjLjlET1plcHuGkZynsr3I\
                        097p9P8KbTPm6w==:";

/// Both sides just before the client's last word of the handshake, and this.
fn nearly_open(key: &str) -> (TlsChannel, TlsChannel, Vec<u8>) {
    let psk = Psk::parse(key).unwrap();
    let [key, _] = psk.tls_keys(OF);
    let mut client = TlsChannel::client(key).unwrap();
    let mut server = TlsChannel::server_to_hand_over(Arc::new(Known(psk))).unwrap();
    client.read(&mut []).unwrap();
    let mut bytes = Vec::new();
    client.take_outgoing(&mut bytes);
    server.feed(&bytes);
    server.read(&mut []).unwrap();
    bytes.clear();
    server.take_outgoing(&mut bytes);
    client.feed(&bytes);
    client.read(&mut []).unwrap();
    assert_eq!((client.state(), server.state()), (TlsState::Open, TlsState::Handshake));
    assert!(!server.can_hand_over());
    bytes.clear();
    client.take_outgoing(&mut bytes);
    (client, server, bytes)
}

/// Feeds no more at a time than is wanted, as its driver does.
fn feed_in_steps(server: &mut TlsChannel, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let wanted = server.wanted_bytes().expect("the handshake is not over");
        let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
        bytes = rest;
        server.feed(part);
        assert_eq!(server.read(&mut [0; 64]), Ok(0));
    }
}

/// What encrypts a record, and the nonce of the one with this number.
fn cipher(keys: &traffic::RecordKeys, number: u8) -> (openssl::symm::Cipher, Vec<u8>) {
    use openssl::symm::Cipher;
    let is_short = keys.key.bytes().len() == 16;
    let mut nonce = keys.iv.bytes().to_vec();
    nonce[11] ^= number;
    (if is_short { Cipher::aes_128_gcm() } else { Cipher::aes_256_gcm() }, nonce)
}

/// The first record of a stream in the clear, with its type as the last byte, and what follows it.
fn unseal<'a>(keys: &traffic::RecordKeys, number: u8, stream: &'a [u8]) -> (Vec<u8>, &'a [u8]) {
    let (head, rest) = stream.split_at(5);
    let (body, rest) = rest.split_at(usize::from(head[3]) << 8 | usize::from(head[4]));
    let (text, tag) = body.split_at(body.len() - 16);
    let (cipher, nonce) = cipher(keys, number);
    let key = keys.key.bytes();
    (openssl::symm::decrypt_aead(cipher, key, Some(&nonce), head, text, tag).unwrap(), rest)
}

/// A record of this text, whose last byte is its type.
fn seal(keys: &traffic::RecordKeys, number: u8, text: &[u8]) -> Vec<u8> {
    let head = [23, 3, 3, 0, u8::try_from(text.len() + 16).unwrap()];
    let (cipher, nonce) = cipher(keys, number);
    let (key, mut tag) = (keys.key.bytes(), [0; 16]);
    let sealed =
        openssl::symm::encrypt_aead(cipher, key, Some(&nonce), &head, text, &mut tag).unwrap();
    [&head[..], &sealed, &tag].concat()
}

#[test]
fn whoever_takes_over_goes_on_where_the_handshake_ended() {
    for key in [KEY, LONG_KEY] {
        let (mut client, mut server, last) = nearly_open(key);
        feed_in_steps(&mut server, &last);
        assert_eq!((server.state(), server.wanted_bytes()), (TlsState::Open, None));
        assert!(server.outgoing().is_empty() && server.can_hand_over());
        let mut traffic = server.hand_over().unwrap();
        assert!(!server.can_hand_over() && server.hand_over().is_none());
        let mut sent = Vec::new();
        for (number, text) in [(0, b"first"), (1, b"other")] {
            assert_eq!(client.write(text), Ok(5));
            sent.clear();
            client.take_outgoing(&mut sent);
            let (found, rest) = unseal(&traffic.receive.keys(), number, &sent);
            assert_eq!((&found[..], rest.len()), (&[&text[..], &[23]].concat()[..], 0));
            client.feed(&seal(&traffic.send.keys(), number, b"answer\x17"));
            let mut got = [0; 16];
            assert_eq!((client.read(&mut got), &got[..6]), (Ok(6), &b"answer"[..]));
        }
        // The client changes its key and wants the other to be changed.
        assert!(client.update_key(true));
        client.write(b"third").unwrap();
        sent.clear();
        client.take_outgoing(&mut sent);
        let (found, rest) = unseal(&traffic.receive.keys(), 2, &sent);
        assert_eq!(found, [24, 0, 0, 1, 1, 22]);
        traffic.receive = traffic.receive.next();
        assert_eq!(unseal(&traffic.receive.keys(), 0, rest).0, b"third\x17");
        client.feed(&seal(&traffic.send.keys(), 2, &[24, 0, 0, 1, 0, 22]));
        traffic.send = traffic.send.next();
        client.feed(&seal(&traffic.send.keys(), 0, b"answer\x17"));
        assert_eq!(client.read(&mut [0; 16]), Ok(6));
    }
}

#[test]
fn a_channel_that_is_used_is_not_handed_over() {
    // Data behind the last word of the handshake, not fed as it should be.
    let (mut client, mut server, mut last) = nearly_open(KEY);
    client.write(b"early").unwrap();
    client.take_outgoing(&mut last);
    server.feed(&last);
    assert_eq!(server.read(&mut []), Ok(0));
    assert_eq!((server.state(), server.can_hand_over()), (TlsState::Open, false));
    assert_eq!(server.read(&mut [0; 64]), Ok(5));
    // Half a record there.
    let (mut client, mut server, mut last) = nearly_open(KEY);
    client.write(b"early").unwrap();
    client.take_outgoing(&mut last);
    server.feed(&last[..last.len() - 1]);
    assert_eq!((server.read(&mut []), server.can_hand_over()), (Ok(0), false));
    // Data after it, in either direction.
    for is_received in [true, false] {
        let (_client, mut server, last) = nearly_open(KEY);
        feed_in_steps(&mut server, &last);
        assert!(server.can_hand_over());
        if is_received {
            server.feed(&[23]);
        } else {
            assert_eq!(server.write(b"data"), Ok(4));
        }
        assert!(!server.can_hand_over(), "{is_received}");
    }
    // Nobody has asked for it.
    let psk = Psk::parse(KEY).unwrap();
    let [key, _] = psk.tls_keys(OF);
    let (mut client, mut server) = (TlsChannel::client(key).unwrap(), self::server());
    assert_eq!(carry(&mut client, &mut server, 65536), []);
    assert_eq!((server.state(), server.wanted_bytes()), (TlsState::Open, None));
    assert!(!server.can_hand_over());
}

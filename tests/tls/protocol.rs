//! TLS 1.3 over real connections: data in both directions, who is refused, and peers that speak no
//! TLS, or too little.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mdof::initiator::{Client, ClientError, ClientOptions, HostAuth};
use mdof::secure::psk::{Party, TlsPsk};
use mdof::secure::tls::{TlsChannel, TlsState};
use mdof::secure::{ChapKey, Psk, Secret};
use mdof::target::subsystem::{HostKeys, NamedKey};
use mdof::wire::nvme::Status;

use crate::rig::{BLOCK, HOST, Host, LIMIT, NQN, Rig, free_address};

/// With SHA-256, and with SHA-384.
const KEYS: [&str; 2] = [
    "NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:",
    "NVMeTLSkey-1:02:BRAbJjE8R1JdaHN+iZSfqrXAy9bh7PcCDRgjLjlET1plcHuGkZynsr3I097p9P8KbTPm6w==:",
];

/// A target that has one address of each kind, and a host with this key.
fn rig(key: &str) -> (Rig, SocketAddr) {
    let mut rig = Rig::plain();
    rig.table.allow_any_host(NQN, false).unwrap();
    rig.table.add_host(NQN, HOST).unwrap();
    let psk = Some(NamedKey { name: "psk".to_owned(), key: Psk::parse(key).unwrap() });
    rig.table.set_keys(NQN, HOST, HostKeys { psk, ..HostKeys::default() }).unwrap();
    let secure = free_address();
    rig.table.add_secure_listener(NQN, secure).unwrap();
    rig.publish();
    rig.engine.listen(secure).unwrap();
    (rig, secure)
}

fn tls_key(key: &str, version: usize) -> TlsPsk {
    let of = Party { hostnqn: HOST, subnqn: NQN };
    let [newer, older] = Psk::parse(key).unwrap().tls_keys(of);
    if version == 1 { newer } else { older }
}

fn options(rig: &Rig, addr: SocketAddr, tls: Option<TlsPsk>) -> ClientOptions {
    ClientOptions { addr, tls, ..rig.options(HOST) }
}

pub(crate) fn try_connect(options: ClientOptions, rig: &Rig) -> Result<Host, ClientError> {
    Ok(Host { client: Client::connect(options, rig.pool)?, pool: rig.pool })
}

pub(crate) fn works(host: &mut Host) {
    host.client.request_queues(1).unwrap();
    let mut queue = host.queue(1);
    // In the capsule, by R2T, and more than fits into one record.
    for (lba, blocks) in [(0, 8), (100, 64), (1000, 256)] {
        let data: Vec<u8> =
            (0..blocks * BLOCK).map(|at| (at / 7 + blocks).to_le_bytes()[0]).collect();
        assert_eq!(queue.write(lba, &data), Status::SUCCESS);
        assert_eq!(queue.read(lba, u32::try_from(blocks).unwrap()), data);
    }
}

#[test]
fn data_flow_under_both_suites_and_identities_with_and_without_digests() {
    for key in KEYS {
        let (rig, secure) = rig(key);
        for version in [0, 1] {
            let mut own = options(&rig, secure, Some(tls_key(key, version)));
            own.header_digest = version == 1;
            own.data_digest = version == 1;
            let mut host = try_connect(own, &rig).unwrap();
            works(&mut host);
            host.client.disconnect().unwrap();
        }
        rig.stop();
    }
}

#[test]
fn authentication_goes_on_under_tls() {
    let (mut rig, secure) = rig(KEYS[0]);
    let chap = ChapKey::new(None, vec![5; 32]).unwrap();
    let named = NamedKey { name: "chap".to_owned(), key: chap.clone() };
    let psk = Some(NamedKey { name: "psk".to_owned(), key: Psk::parse(KEYS[0]).unwrap() });
    let keys = HostKeys { dhchap: Some(named), psk, ..HostKeys::default() };
    rig.table.set_keys(NQN, HOST, keys).unwrap();
    rig.publish();
    let mut own = options(&rig, secure, Some(tls_key(KEYS[0], 1)));
    assert!(matches!(try_connect(own.clone(), &rig), Err(ClientError::NoKey(_))));
    own.auth = Some(HostAuth::new(chap));
    works(&mut try_connect(own, &rig).unwrap());
    rig.stop();
}

#[test]
fn who_has_not_the_key_is_refused() {
    let (mut rig, secure) = rig(KEYS[0]);
    let good = tls_key(KEYS[0], 1);
    let refused = |own: ClientOptions, rig: &Rig| match try_connect(own, rig) {
        Err(error) => error,
        Ok(_) => panic!("it is connected"),
    };
    // Another key under the right name, and a name that nobody has.
    let wrong = TlsPsk { key: Secret::new(vec![1; 32]), ..good.clone() };
    let error = refused(options(&rig, secure, Some(wrong)), &rig);
    assert!(matches!(error, ClientError::Tls { .. } | ClientError::Closed { .. }), "{error}");
    let stranger = Party { hostnqn: "nqn.2026-01.io.mdof:stranger", subnqn: NQN };
    let [unknown, _] = Psk::parse(KEYS[0]).unwrap().tls_keys(stranger);
    let error = refused(options(&rig, secure, Some(unknown)), &rig);
    assert!(matches!(error, ClientError::Tls { .. } | ClientError::Closed { .. }), "{error}");
    // Without TLS where it is due, and with TLS where it is not.
    let error = refused(options(&rig, secure, None), &rig);
    assert!(!matches!(error, ClientError::TimedOut { .. }), "{error}");
    let error = refused(options(&rig, rig.address, Some(good.clone())), &rig);
    assert!(!matches!(error, ClientError::TimedOut { .. }), "{error}");
    // A host that has a key comes under TLS only.
    let is_invalid = |error: ClientError| match error {
        ClientError::Status { status, .. } => {
            assert!(status.is_same_code(Status::CONNECT_INVALID_HOST), "{status:?}");
        }
        other => panic!("{other}"),
    };
    is_invalid(refused(options(&rig, rig.address, None), &rig));
    // Whoever has proven to be one host does not come as another.
    let other = "nqn.2026-01.io.mdof:another";
    rig.table.add_host(NQN, other).unwrap();
    rig.publish();
    let own = ClientOptions { host_nqn: other.to_owned(), ..options(&rig, secure, Some(good)) };
    is_invalid(refused(own, &rig));
    // Others need no TLS at the other address.
    let plain = ClientOptions { host_nqn: other.to_owned(), ..options(&rig, rig.address, None) };
    works(&mut try_connect(plain, &rig).unwrap());
    rig.stop();
}

/// Whether the target ends a connection within the test's patience.
pub(crate) fn ends(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut buf = [0; 4096];
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        match stream.read(&mut buf) {
            Ok(0) | Err(_) => return true,
            Ok(_) => {}
        }
    }
    false
}

#[test]
fn hostile_bytes_cost_their_own_connection_only() {
    let (rig, secure) = rig(KEYS[0]);
    let mut host = try_connect(options(&rig, secure, Some(tls_key(KEYS[0], 1))), &rig).unwrap();
    let mut noise: Vec<u8> = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    noise.extend((0..600u16).map(|n| (n * 31).to_le_bytes()[0]));
    let inputs = [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 128], &[0xff; 100_000], &noise];
    for input in inputs {
        let mut stream = TcpStream::connect(secure).unwrap();
        // It may be gone before all of it has left.
        let _ = stream.write_all(input);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert!(ends(stream));
    }
    // Half a handshake, and a handshake one byte at a time.
    let mut half = TcpStream::connect(secure).unwrap();
    half.write_all(&noise[..9]).unwrap();
    works(&mut host);
    drop(half);
    rig.stop();
}

/// A host by hand: what it sends and receives is not looked at.
struct RawHost {
    stream: TcpStream,
    channel: TlsChannel,
}

impl RawHost {
    fn open(address: SocketAddr, key: TlsPsk) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut own = Self { stream, channel: TlsChannel::client(key).unwrap() };
        own.channel.read(&mut []).unwrap();
        while own.channel.state() == TlsState::Handshake {
            own.flush();
            own.take();
            own.channel.read(&mut []).unwrap();
        }
        own.flush();
        own
    }

    fn flush(&mut self) {
        let mut bytes = Vec::new();
        self.channel.take_outgoing(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    fn take(&mut self) {
        let mut bytes = [0; 4096];
        let len = self.stream.read(&mut bytes).unwrap();
        assert_ne!(len, 0, "the target has closed the connection");
        self.channel.feed(&bytes[..len]);
    }

    fn write(&mut self, bytes: &[u8]) {
        assert_eq!(self.channel.write(bytes), Ok(bytes.len()));
        self.flush();
    }

    fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let more = self.channel.read(&mut bytes[done..]).unwrap();
            done += more;
            if more == 0 {
                self.take();
            }
        }
        bytes
    }
}

/// Whether the kernel's TLS, if it has any, can change keys: Linux 6.14 and newer.
fn kernel_changes_keys() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|word| word.trim().parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(14))
}

#[test]
fn a_host_may_change_its_key_and_ask_for_another() {
    for key in KEYS {
        let (mut rig, secure) = rig(key);
        rig.table.set_kernel_tls(kernel_changes_keys());
        rig.publish();
        let mut host = RawHost::open(secure, tls_key(key, 1));
        assert!(host.channel.update_key(true));
        let mut icreq = [0; 128];
        (icreq[2], icreq[4]) = (128, 128);
        host.write(&icreq);
        // ICResp.
        assert_eq!(host.read(128)[..3], [1, 0, 128]);
        // Once more, and what is no PDU: C2HTermReq says so.
        assert!(host.channel.update_key(false));
        host.write(&[0xff; 24]);
        assert_eq!(host.read(24)[..3], [3, 0, 24]);
        rig.stop();
    }
}

#[test]
fn a_changed_record_ends_its_own_connection() {
    let (rig, secure) = rig(KEYS[0]);
    let mut other = try_connect(options(&rig, secure, Some(tls_key(KEYS[0], 1))), &rig).unwrap();
    let mut host = RawHost::open(secure, tls_key(KEYS[0], 1));
    assert_eq!(host.channel.write(&[0; 128]), Ok(128));
    let mut bytes = Vec::new();
    host.channel.take_outgoing(&mut bytes);
    *bytes.last_mut().unwrap() ^= 1;
    host.stream.write_all(&bytes).unwrap();
    assert!(ends(host.stream));
    works(&mut other);
    rig.stop();
}

#[test]
fn data_right_behind_the_handshake_are_not_lost() {
    let (rig, secure) = rig(KEYS[0]);
    let mut host = TlsChannel::client(tls_key(KEYS[0], 1)).unwrap();
    let mut stream = TcpStream::connect(secure).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut bytes = Vec::new();
    host.read(&mut []).unwrap();
    while host.state() == TlsState::Handshake {
        bytes.clear();
        host.take_outgoing(&mut bytes);
        stream.write_all(&bytes).unwrap();
        let mut answer = [0; 4096];
        let len = stream.read(&mut answer).unwrap();
        host.feed(&answer[..len]);
        host.read(&mut []).unwrap();
    }
    // The last word of the handshake, ICReq and half of a record more leave together.
    let mut icreq = [0; 128];
    (icreq[2], icreq[4]) = (128, 128);
    assert_eq!(host.write(&icreq), Ok(128));
    assert_eq!(host.write(&[0xff; 24]), Ok(24));
    bytes.clear();
    host.take_outgoing(&mut bytes);
    let (most, rest) = bytes.split_at(bytes.len() - 20);
    stream.write_all(most).unwrap();
    let mut raw = RawHost { stream, channel: host };
    assert_eq!(raw.read(128)[..3], [1, 0, 128]);
    raw.stream.write_all(rest).unwrap();
    assert_eq!(raw.read(24)[..3], [3, 0, 24]);
    rig.stop();
}

/// An independent client.
#[test]
fn openssls_own_client_shakes_hands() {
    let (rig, secure) = rig(KEYS[0]);
    let key = tls_key(KEYS[0], 1);
    let hex: String = key.key.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let client = |psk: &str| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"]);
        command.args(["-connect", &secure.to_string(), "-psk", psk]);
        command.args(["-psk_identity", &key.identity]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn()
    };
    let Ok(mut child) = client(&hex) else {
        eprintln!("left out: no openssl program here");
        return rig.stop();
    };
    // It ends when it has been told enough.
    std::thread::sleep(Duration::from_millis(500));
    drop(child.stdin.take());
    let text = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("TLS_AES_128_GCM_SHA256") && text.contains("Reused, TLSv1.3"), "{text}");
    let output = client(&"11".repeat(32)).unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("Reused, TLSv1.3"), "{said}");
    rig.stop();
}

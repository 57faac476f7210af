//! Peers that break the protocol, ask for what is not there, or stop reading: each gets the error
//! that the specification names, and a well-behaved host beside them notices nothing.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "support/mdof.rs"]
#[allow(dead_code, unreachable_pub, reason = "several tests share it and use parts of it")]
mod mdof_process;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mdof::initiator::{Client, ClientError, ClientOptions, Data, QueuePair};
use mdof::reactor::buf::BufPool;
use mdof::wire::nvme::{Sqe, Status};
use mdof::wire::tcp::crc32c;
use mdof_process::{Mdof, TestDir, free_port};
use zerocopy::FromZeros;
use zerocopy::little_endian::U32;

const NQN: &str = "nqn.2026-01.io.mdof:hostile";
const HOST_NQN: &str = "nqn.2026-01.io.mdof:host";
const LIMIT: Duration = Duration::from_secs(30);
const BLOCKS: u64 = 32 * 2048;

// Values of the NVMe/TCP transport specification, section 3.6.2.9 (FES of C2HTermReq).
const FES_INVALID_HEADER: u16 = 1;
const FES_SEQUENCE_ERROR: u16 = 2;
const FES_HEADER_DIGEST: u16 = 3;

struct Fixture {
    mdof: Option<Mdof>,
    address: SocketAddr,
    pool: BufPool,
    /// The host beside, which must notice nothing.
    _client: Client,
    queue: QueuePair,
    _dir: TestDir,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let dir = TestDir::new(name);
        let port = free_port();
        let config = dir.config(&format!(
            "[[bdev]]\nname = \"m0\"\nkind = \"malloc\"\nsize_mib = 32\n\
             [[subsystem]]\nnqn = \"{NQN}\"\nallow_any_host = true\n\
             namespaces = [{{ bdev = \"m0\", nsid = 1 }}]\nlisten = [\"127.0.0.1:{port}\"]\n"
        ));
        let mdof = Mdof::start(&dir, &config, &[]);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let pool = BufPool::on_heap([64, 8, 8, 0]);
        let (client, queue) = connect(address, pool);
        Self { mdof: Some(mdof), address, pool, _client: client, queue, _dir: dir }
    }

    /// The host beside writes and reads back.
    fn others_work(&mut self) {
        for lba in 0..32 {
            let mut buf = self.pool.get(512).unwrap();
            buf.as_mut_slice().fill(u8::try_from(lba).unwrap());
            self.queue.submit_write(1, lba, 1, buf, 0);
            let written = self.queue.wait("a write", LIMIT).unwrap();
            assert!(written.status().is_success());
            self.queue.submit_read(1, lba, 1, self.pool.get(512).unwrap(), 0);
            let read = self.queue.wait("a read", LIMIT).unwrap();
            let wanted = [u8::try_from(lba).unwrap(); 512];
            assert_eq!(read.buf.unwrap().as_slice(), wanted);
        }
    }

    fn stop(mut self) {
        self.others_work();
        let mdof = self.mdof.take().unwrap();
        mdof.signal("TERM");
        let (text, code) = mdof.wait();
        assert_eq!(code, Some(0), "{text}");
    }

    fn raw(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// A connection after ICReq and ICResp.
    fn initialised(&self, digests: u8) -> TcpStream {
        let mut stream = self.raw();
        stream.write_all(&icreq(digests)).unwrap();
        let mut response = [0; 128];
        stream.read_exact(&mut response).unwrap();
        assert_eq!(response[0], 1, "ICResp");
        assert_eq!(response[11], digests, "digests as asked for");
        stream
    }
}

fn connect(address: SocketAddr, pool: BufPool) -> (Client, QueuePair) {
    let mut options = ClientOptions::new(address, NQN, HOST_NQN);
    options.limit = LIMIT;
    let mut client = Client::connect(options, pool).unwrap();
    client.request_queues(1).unwrap();
    let queue = client.open_io_queue(1, 32).unwrap();
    (client, queue)
}

fn icreq(digests: u8) -> [u8; 128] {
    let mut pdu = [0; 128];
    pdu[2] = 128;
    pdu[4] = 128;
    pdu[11] = digests;
    pdu
}

/// A command capsule without data, its header digest appended if there is one.
fn capsule(sqe: &[u8; 64]) -> Vec<u8> {
    let mut pdu = vec![4, 0, 72, 0, 72, 0, 0, 0];
    pdu.extend(sqe);
    pdu
}

/// What the target says before it closes: FES of its C2HTermReq, `None` if it just closes.
fn end_of(mut stream: TcpStream) -> Option<u16> {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    assert!(
        !matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        "the target keeps the connection"
    );
    let at = bytes.iter().position(|&byte| byte == 3)?;
    Some(u16::from_le_bytes([bytes[at + 8], bytes[at + 9]]))
}

#[test]
fn broken_pdus_end_their_own_connection() {
    let mut fixture = Fixture::new("pdus");
    // Garbage from the first byte.
    let mut stream = fixture.raw();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: target\r\n\r\n").unwrap();
    assert_eq!(end_of(stream), Some(FES_INVALID_HEADER));
    // A capsule before ICReq.
    let mut stream = fixture.raw();
    stream.write_all(&capsule(&[0; 64])).unwrap();
    assert_eq!(end_of(stream), Some(FES_SEQUENCE_ERROR));
    // A second ICReq.
    let mut stream = fixture.initialised(0);
    stream.write_all(&icreq(0)).unwrap();
    assert_eq!(end_of(stream), Some(FES_SEQUENCE_ERROR));
    // A capsule that claims to be 2 GiB long.
    let mut stream = fixture.initialised(0);
    let mut oversized = capsule(&[0; 64]);
    oversized[4..8].copy_from_slice(&0x8000_0000u32.to_le_bytes());
    oversized[3] = 72;
    stream.write_all(&oversized).unwrap();
    assert_eq!(end_of(stream), Some(FES_INVALID_HEADER));
    // A header digest that is wrong.
    let mut stream = fixture.initialised(1);
    let mut digested = capsule(&[0; 64]);
    digested[1] = 1;
    digested[4] = 76;
    let digest = crc32c(&digested) ^ 1;
    digested.extend(digest.to_le_bytes());
    stream.write_all(&digested).unwrap();
    assert_eq!(end_of(stream), Some(FES_HEADER_DIGEST));
    // Half a PDU, then nothing: the host closes.
    let mut stream = fixture.initialised(0);
    stream.write_all(&capsule(&[0; 64])[..40]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(end_of(stream), None);
    fixture.others_work();
    fixture.stop();
}

#[test]
fn commands_that_cannot_be_get_their_status() {
    let mut fixture = Fixture::new("commands");
    let (mut client, mut queue) = connect(fixture.address, fixture.pool);
    let mut sqe = Sqe::new_zeroed();
    sqe.flags = 0x40;
    sqe.nsid = U32::new(1);
    for opcode in [0x7e, 0xff, 0x1d] {
        sqe.opcode = opcode;
        for queue in [&mut queue, client.admin()] {
            // Bits 1:0 of the opcode say in which direction data go; none come here.
            let done = queue.execute("an unknown opcode", sqe, Data::None, LIMIT).unwrap();
            let status = done.status();
            assert_eq!((status.sct(), status.sc()), (0, 1), "{opcode:#x}: {status:?}");
        }
    }
    let out_of_range = Status::LBA_OUT_OF_RANGE.sc();
    for lba in [BLOCKS, BLOCKS - 7, u64::MAX, u64::MAX - 7] {
        queue.submit_read(1, lba, 8, fixture.pool.get(4096).unwrap(), 0);
        let read = queue.wait("a read", LIMIT).unwrap();
        assert_eq!((read.status().sct(), read.status().sc()), (0, out_of_range), "read at {lba}");
        queue.submit_write(1, lba, 8, fixture.pool.get(4096).unwrap(), 0);
        let write = queue.wait("a write", LIMIT).unwrap();
        assert_eq!((write.status().sct(), write.status().sc()), (0, out_of_range), "at {lba}");
    }
    for nsid in [0, 2, u32::MAX] {
        queue.submit_read(nsid, 0, 1, fixture.pool.get(512).unwrap(), 0);
        let status = queue.wait("a read", LIMIT).unwrap().status();
        assert_eq!(status.sc(), Status::INVALID_NAMESPACE.sc(), "namespace {nsid}");
    }
    // An NQN that nobody has.
    let options = ClientOptions::new(fixture.address, "nqn.2026-01.io.mdof:nobody", HOST_NQN);
    match Client::connect(options, fixture.pool) {
        Err(ClientError::Status { status, .. }) => {
            assert_eq!((status.sct(), status.sc()), (1, Status::CONNECT_INVALID_PARAMETERS.sc()));
        }
        other => panic!("{other:?}"),
    }
    fixture.others_work();
    fixture.stop();
}

#[test]
fn a_peer_that_stops_reading_is_ended_and_delays_nobody() {
    let mut fixture = Fixture::new("stuck");
    let (_client, stuck) = connect(fixture.address, fixture.pool);
    let sockets = fixture.mdof.as_ref().unwrap().sockets();
    let mut stream = stuck.stream().try_clone().unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut commands = Vec::new();
    for cid in 0..16u8 {
        let mut sqe = [0u8; 64];
        // Read, PSDT 01b, namespace 1, 256 blocks from 0, transport data block of 128 KiB.
        (sqe[0], sqe[1], sqe[2], sqe[4]) = (2, 0x40, cid, 1);
        sqe[32..36].copy_from_slice(&(128u32 << 10).to_le_bytes());
        (sqe[39], sqe[48]) = (0x5a, 255);
        commands.extend(capsule(&sqe));
    }
    // Nothing is ever read here. Commands are sent until the target takes no more.
    let since = Instant::now();
    let mut at = 0;
    while fixture.mdof.as_ref().unwrap().sockets() == sockets {
        match stream.write(&commands[at..]) {
            Ok(written) => at = (at + written) % commands.len(),
            Err(error) => assert!(!matches!(error.kind(), std::io::ErrorKind::Interrupted)),
        }
        fixture.others_work();
        assert!(since.elapsed() < LIMIT, "the stuck connection is never ended");
    }
    drop(stream);
    fixture.stop();
}

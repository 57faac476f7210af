//! The client over real sockets, against the target's connection behind a small controller.

#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mdof::initiator::{Client, ClientError, ClientOptions};
use mdof::reactor::buf::BufPool;
use mdof::target::tcp::{Connection, ConnectionConfig, RequestId};
use mdof::wire::nvme::{Cqe, Sqe, Status};
use mdof::wire::tcp::TransmitVec;
use zerocopy::IntoBytes;

const BLOCK_BYTES: usize = 512;
const BLOCKS: usize = 4096;

/// Answers what a client asks while it connects, and reads and writes a disk in memory.
fn serve(mut stream: TcpStream, disk: &mut [u8]) {
    let pool = BufPool::on_heap([16, 8, 8, 0]);
    let mut conn = Connection::new(ConnectionConfig::default());
    let mut out = TransmitVec::new();
    let mut staging = vec![0; 65_536];
    let mut enabled = false;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    loop {
        while let Some((id, sqe)) = conn.next_command() {
            execute(&mut conn, id, &sqe, disk, &mut enabled);
        }
        while conn.poll_transmit(&mut out) > 0 {
            let mut sent = 0;
            for segment in out.segments() {
                // SAFETY: the connection keeps what it offers in place until `transmitted`.
                let bytes = unsafe { std::slice::from_raw_parts(segment.ptr, segment.len) };
                stream.write_all(bytes).unwrap();
                sent += bytes.len();
            }
            conn.transmitted(sent);
        }
        if conn.needs_buffers() && conn.retry_buffers(&pool) {
            continue;
        }
        if conn.is_closing() {
            stream.shutdown(Shutdown::Write).unwrap();
            while stream.read(&mut staging).is_ok_and(|n| n > 0) {}
            return;
        }
        let n = match stream.read(&mut staging) {
            Ok(0) => return,
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("read: {error}"),
        };
        let mut at = 0;
        while at < n {
            at += conn.handle_bytes(&staging[at..n], &pool);
            while let Some((id, sqe)) = conn.next_command() {
                execute(&mut conn, id, &sqe, disk, &mut enabled);
            }
            conn.retry_buffers(&pool);
        }
    }
}

fn execute(conn: &mut Connection, id: RequestId, sqe: &Sqe, disk: &mut [u8], enabled: &mut bool) {
    let bytes = sqe.as_bytes();
    let mut result = 0;
    let mut data_bytes = 0;
    let mut status = Status::SUCCESS;
    let at = usize::from(bytes[40]) * BLOCK_BYTES + usize::from(bytes[41]) * 256 * BLOCK_BYTES;
    match (sqe.opcode, bytes[4]) {
        (0x7f, 1) => {
            let data = conn.request_buf(id).unwrap().as_slice();
            assert_eq!(data.len(), 1024);
            if &data[256..264] == b"nqn.test" {
                result = 0x1234;
                conn.set_queue_depth(u16::from_le_bytes([bytes[44], bytes[45]]) + 1);
            } else {
                status = Status::CONNECT_INVALID_PARAMETERS.dnr();
            }
        }
        (0x7f, 0) => *enabled = bytes[48] & 1 != 0,
        (0x7f, 4) => result = u64::from(*enabled && bytes[44] == 0x1c),
        (0x06, _) => {
            let is_controller = bytes[40] == 1;
            let data = conn.request_data_mut(id).unwrap();
            data.fill(0);
            if is_controller {
                data[77] = 5;
                data[1792..1796].copy_from_slice(&((8192u32 + 64) / 16).to_le_bytes());
                data[516] = 1;
            } else {
                data[..8].copy_from_slice(&4096u64.to_le_bytes());
                data[130] = 9;
            }
            data_bytes = 4096;
        }
        (0x09, _) => result = 0x0001_0001,
        (0x01, _) => {
            let data = conn.request_buf(id).unwrap().as_slice();
            disk[at..at + data.len()].copy_from_slice(data);
        }
        (0x02, _) => {
            let data = conn.request_data_mut(id).unwrap();
            data.copy_from_slice(&disk[at..at + data.len()]);
            data_bytes = sqe.sgl_length.get();
        }
        other => panic!("unexpected command {other:?}"),
    }
    conn.complete(id, Cqe::new(0, status, result), data_bytes);
}

/// Serves `connections` one after another's start, each on its thread, each with a disk.
fn listen(connections: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for _ in 0..connections {
            let (stream, _) = listener.accept().unwrap();
            std::thread::spawn(move || serve(stream, &mut vec![0; BLOCKS * BLOCK_BYTES]));
        }
    });
    addr
}

#[test]
fn connects_identifies_and_moves_data_at_depth() {
    for digests in [false, true] {
        let pool = BufPool::on_heap([64, 16, 16, 0]);
        let mut options = ClientOptions::new(listen(2), "nqn.test", "nqn.host");
        (options.header_digest, options.data_digest) = (digests, digests);
        let mut client = Client::connect(options, pool).unwrap();
        assert_eq!(client.info().cntlid, 0x1234);
        assert_eq!(client.info().mdts_bytes, 128 * 1024);
        assert_eq!(client.info().in_capsule_data_bytes, 8192);
        assert_eq!(client.request_queues(8).unwrap(), 2);
        let namespace = client.identify_namespace(1).unwrap();
        assert_eq!((namespace.blocks, namespace.block_size_bytes), (4096, 512));
        let mut queue = client.open_io_queue(1, 16).unwrap();
        assert_eq!(queue.connection().digests(), (digests, digests));
        for write in [true, false] {
            let mut submitted = 0u8;
            let mut done = 0;
            let end = Instant::now() + Duration::from_secs(20);
            while done < 60 {
                while submitted < 60 && queue.can_submit() {
                    // 1 to 64 blocks: in the capsule, and by R2T.
                    let blocks = u16::from(submitted) % 64 + 1;
                    let mut buf = pool.get(usize::from(blocks) * BLOCK_BYTES).unwrap();
                    let lba = u64::from(submitted) * 64;
                    if write {
                        buf.as_mut_slice().fill(submitted + 1);
                        queue.submit_write(1, lba, blocks, buf, submitted.into());
                    } else {
                        buf.as_mut_slice().fill(0);
                        queue.submit_read(1, lba, blocks, buf, submitted.into());
                    }
                    submitted += 1;
                }
                queue.poll().unwrap();
                while let Some(completion) = queue.next_completion() {
                    assert!(completion.status().is_success());
                    let fill = u8::try_from(completion.tag).unwrap() + 1;
                    assert!(completion.buf.unwrap().as_slice().iter().all(|byte| *byte == fill));
                    done += 1;
                }
                assert!(Instant::now() < end, "no progress");
            }
        }
        client.disconnect().unwrap();
    }
}

#[test]
fn refusals_and_terminations_are_told() {
    let pool = BufPool::on_heap([8, 2, 2, 0]);
    let options = ClientOptions::new(listen(1), "nqn.unknown", "nqn.host");
    let error = Client::connect(options, pool).unwrap_err();
    assert!(matches!(error, ClientError::Status { what: "Fabrics Connect", .. }), "{error}");

    let mut client =
        Client::connect(ClientOptions::new(listen(1), "nqn.test", "nqn.host"), pool).unwrap();
    client.admin().stream().write_all(&[0xff; 8]).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    let error = loop {
        match client.admin().poll() {
            Ok(_) => assert!(Instant::now() < end, "no C2HTermReq"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::Closed { fes: Some((1, 0)), .. }), "{error}");
    assert!(error.to_string().contains("fatal error status 0x1"), "{error}");
}

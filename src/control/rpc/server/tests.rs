//! Real sockets, one thread: clients write, the server takes turns, clients read.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::control::rpc::RpcError;
use crate::control::rpc::framing::REQUEST_BYTES_MAX;
use crate::control::rpc::socket::SocketLock;
use crate::control::test_dir::TestDir;

struct Methods;

impl Dispatch for Methods {
    fn call(&mut self, method: &str, params: Option<Value>) -> Result<Value, RpcError> {
        match method {
            "large" => Ok(Value::String("x".repeat(4 << 20))),
            _ => Ok(params.unwrap_or(Value::Bool(true))),
        }
    }
}

struct Bench {
    server: Server,
    dir: TestDir,
    wake: (UnixStream, UnixStream),
}

impl Bench {
    fn new() -> Self {
        let dir = TestDir::new("rpc");
        let socket = SocketLock::acquire(&dir.path().join("s")).unwrap().bind().unwrap();
        Self { server: Server::new(socket), dir, wake: UnixStream::pair().unwrap() }
    }

    fn connect(&mut self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("s")).unwrap();
        stream.set_nonblocking(true).unwrap();
        self.turn();
        stream
    }

    fn turn(&mut self) {
        let wait = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        self.server.turn(self.wake.0.as_fd(), Some(wait), &mut Methods).unwrap();
    }

    /// Turns until `stream` has `count` JSON values or its end; true at its end.
    fn answers(&mut self, stream: &mut UnixStream, count: usize) -> (Vec<Value>, bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut received = Vec::new();
        let mut piece = [0; 65536];
        loop {
            self.turn();
            let ended = match stream.read(&mut piece) {
                Ok(0) => true,
                Ok(length) => {
                    received.extend_from_slice(&piece[..length]);
                    false
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Err(_) => true,
            };
            // Every answer ends so; large ones are not parsed again with each piece.
            if !ended && received.last() != Some(&b'}') {
                assert!(Instant::now() < deadline, "no answer");
                continue;
            }
            let values: Vec<Value> = serde_json::Deserializer::from_slice(&received)
                .into_iter()
                .map_while(Result::ok)
                .collect();
            if ended || values.len() >= count {
                return (values, ended);
            }
            assert!(Instant::now() < deadline, "{} answers of {count}", values.len());
        }
    }
}

#[test]
fn pieces_and_bursts() {
    let mut bench = Bench::new();
    let mut client = bench.connect();
    client.write_all(b"{\"id\":1,\"method\"").unwrap();
    bench.turn();
    client.write_all(b":\"m\"}{\"id\":2,\"method\":\"m\"} {\"id\":3,\"method\":\"m\"}").unwrap();
    let (values, ended) = bench.answers(&mut client, 3);
    assert_eq!(values.iter().map(|v| v["id"].clone()).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(!ended);
}

#[test]
fn half_closed_client_gets_its_answers() {
    let mut bench = Bench::new();
    let mut client = bench.connect();
    client.write_all(b"{\"id\":1,\"method\":\"m\"}{\"id\":2,\"method\":\"large\"}").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(bench.answers(&mut client, 2).0.len(), 2);
    assert!(bench.answers(&mut client, 1).1);
    bench.turn();
    assert_eq!(bench.server.connections(), 0);
}

#[test]
fn broken_stream_gets_one_error_and_the_end() {
    for text in ["hello", "{\"id\":1,}", "{}}"] {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        client.write_all(text.as_bytes()).unwrap();
        let (values, ended) = bench.answers(&mut client, usize::MAX);
        assert_eq!(values.last().unwrap()["error"]["code"], -32700, "{text}");
        assert!(ended);
    }
}

#[test]
fn json_that_never_ends_costs_its_own_connection() {
    let mut bench = Bench::new();
    let mut endless = bench.connect();
    let mut other = bench.connect();
    let mut written = 0;
    while written <= REQUEST_BYTES_MAX {
        match endless.write(&[b'['; 4096]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => bench.turn(),
            Err(_) => break,
        }
    }
    other.write_all(b"{\"id\":7,\"method\":\"m\"}").unwrap();
    assert_eq!(bench.answers(&mut other, 1).0[0]["id"], 7);
    let (values, _) = bench.answers(&mut endless, usize::MAX);
    assert_eq!(values[0]["error"]["code"], -32700);
    assert_eq!(bench.server.connections(), 1);
}

#[test]
fn client_that_does_not_read_blocks_nobody() {
    let mut bench = Bench::new();
    let mut stuck = bench.connect();
    for _ in 0..4 {
        stuck.write_all(b"{\"id\":1,\"method\":\"large\"}").unwrap();
    }
    let mut other = bench.connect();
    for _ in 0..10 {
        bench.turn();
    }
    other.write_all(b"{\"id\":7,\"method\":\"m\"}").unwrap();
    assert_eq!(bench.answers(&mut other, 1).0[0]["id"], 7);
    let kept: usize = bench.server.connections.iter().map(|c| c.reply.len()).sum();
    assert!(kept < 5 << 20, "only one of four replies is kept: {kept} bytes");
    assert_eq!(bench.answers(&mut stuck, 4).0.len(), 4);
}

#[test]
fn the_65th_client_is_told() {
    let mut bench = Bench::new();
    let clients: Vec<UnixStream> = (0..CONNECTIONS_MAX).map(|_| bench.connect()).collect();
    let mut late = bench.connect();
    let (values, ended) = bench.answers(&mut late, usize::MAX);
    assert_eq!(values[0]["error"]["message"], json!("64 clients are connected already"));
    assert!(ended);
    drop(clients);
    bench.turn();
    bench.turn();
    let mut next = bench.connect();
    next.write_all(b"{\"id\":1,\"method\":\"m\"}").unwrap();
    assert_eq!(bench.answers(&mut next, 1).0[0]["result"], true);
}

#[test]
fn wake_is_reported() {
    let mut bench = Bench::new();
    bench.wake.1.write_all(b"x").unwrap();
    assert!(bench.server.turn(bench.wake.0.as_fd(), None, &mut Methods).unwrap());
}

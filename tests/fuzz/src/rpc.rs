//! The JSON-RPC socket: framing and messages. The first byte says into which pieces the stream is
//! cut.

use mdof::control::rpc::framing::{Frame, Framer};
use mdof::control::rpc::message::{Dispatch, handle};
use mdof::control::rpc::{METHOD_NOT_FOUND, RpcError};
use serde_json::Value;

use super::Input;

struct Echo;

impl Dispatch for Echo {
    fn call(&mut self, method: &str, params: Option<Value>) -> Result<Value, RpcError> {
        match method {
            "echo" => Ok(params.unwrap_or(Value::Null)),
            _ => Err(RpcError::new(METHOD_NOT_FOUND, "Method not found")),
        }
    }
}

/// The frames of a stream that arrives in pieces of this size, and whether it broke.
fn frames(stream: &[u8], piece_bytes: usize) -> (Vec<Vec<u8>>, bool) {
    let mut framer = Framer::default();
    let mut frames = Vec::new();
    for piece in stream.chunks(piece_bytes) {
        framer.push(&piece[..piece.len().min(framer.room())]);
        loop {
            match framer.next_frame() {
                Frame::Complete(frame) => frames.push(frame),
                Frame::Incomplete => break,
                Frame::Broken(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

/// Pieces do not matter, and every answer is JSON.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let piece_bytes = usize::from(input.u8()) + 1;
    let stream = input.take(1 << 16);
    let found = frames(stream, piece_bytes);
    assert_eq!(found, frames(stream, stream.len().max(1)), "pieces of {piece_bytes} bytes");
    for frame in &found.0 {
        let reply = handle(frame, &mut Echo);
        if let Some(text) = reply.text {
            let reply: Value = serde_json::from_slice(&text).expect("a reply is JSON");
            assert!(reply.is_object() || reply.is_array());
        }
    }
}

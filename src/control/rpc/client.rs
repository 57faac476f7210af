//! The raw client behind `mdof rpc`: one call, one answer.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::message::REPLY_BYTES_MAX;
use super::{INTERNAL_ERROR, RpcError};

/// How long a call may take: stopping a busy array is the slowest.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error("cannot reach {socket}: {reason}; is mdof running, and is --socket its RPC socket?")]
    Unreachable {
        /// The socket.
        socket: String,
        /// What the system said.
        reason: String,
    },
    /// The connection ended or the answer is no answer.
    #[error("the RPC connection failed: {0}")]
    Broken(String),
    /// The target said no.
    #[error("{0}")]
    Refused(RpcError),
}

/// Calls `method` and waits for its result.
pub fn call(socket: &Path, method: &str, params: Option<&Value>) -> Result<Value, ClientError> {
    let unreachable = |error: std::io::Error| ClientError::Unreachable {
        socket: socket.display().to_string(),
        reason: error.to_string(),
    };
    let broken = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock => ClientError::Broken("no answer within 60 s".to_owned()),
        _ => ClientError::Broken(error.to_string()),
    };
    let mut stream = UnixStream::connect(socket).map_err(unreachable)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(broken)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(broken)?;
    let mut request = json!({ "jsonrpc": "2.0", "id": 1, "method": method });
    if let Some(params) = params {
        request["params"] = params.clone();
    }
    stream.write_all(request.to_string().as_bytes()).map_err(broken)?;

    let mut received = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut piece).map_err(broken)?;
        if count == 0 {
            return Err(ClientError::Broken("the target closed it before answering".to_owned()));
        }
        received.extend_from_slice(&piece[..count]);
        match serde_json::from_slice::<Value>(&received) {
            Ok(answer) => return result(&answer),
            Err(error) if error.is_eof() && received.len() <= REPLY_BYTES_MAX => {}
            Err(error) => return Err(ClientError::Broken(format!("bad answer: {error}"))),
        }
    }
}

fn result(answer: &Value) -> Result<Value, ClientError> {
    if let Some(error) = answer.get("error") {
        let code = error["code"].as_i64().and_then(|code| i32::try_from(code).ok());
        let message = error["message"].as_str().unwrap_or("(no message)");
        let error = RpcError::new(code.unwrap_or(INTERNAL_ERROR), message);
        return Err(ClientError::Refused(error));
    }
    answer
        .get("result")
        .cloned()
        .ok_or_else(|| ClientError::Broken(format!("bad answer: {answer}")))
}

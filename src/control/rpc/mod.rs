//! JSON-RPC 2.0 over a Unix stream socket, as SPDK frames it: JSON values back to back.

pub mod client;
pub mod framing;
pub mod message;
pub mod server;
pub mod socket;

/// Standard error code: the text is not JSON.
pub const PARSE_ERROR: i32 = -32700;
/// Standard error code: the JSON is no request.
pub const INVALID_REQUEST: i32 = -32600;
/// Standard error code: no such method.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// Standard error code: the parameters are not those of the method.
pub const INVALID_PARAMS: i32 = -32602;
/// Standard error code: the method failed for a reason of its own.
pub const INTERNAL_ERROR: i32 = -32603;

/// What an unsuccessful call answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct RpcError {
    /// A JSON-RPC code, or a negative errno.
    pub code: i32,
    /// One sentence for the operator.
    pub message: String,
}

impl RpcError {
    /// An error of `code`.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The parameters are not those of the method.
    pub fn params(message: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, message)
    }

    /// The method failed for a reason of its own.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(INTERNAL_ERROR, message)
    }

    /// A negative errno, as SPDK answers when the system or an object's state is against it.
    pub fn errno(errno: rustix::io::Errno, message: impl Into<String>) -> Self {
        Self::new(-errno.raw_os_error(), message)
    }
}

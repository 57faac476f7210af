//! One NVMe/TCP connection of the target: bytes in, commands out, completions in, segments out.
//!
//! ```text
//!  driver ── handle_bytes ──▶ conn_recv ──▶ conn_request ──▶ next_command ──▶ controller
//!         ── handle_direct ─▶                    │ ▲
//!         ◀─ poll_transmit ── conn_send ◀────────┘ └──────── complete ◀─────── controller
//! ```
//!
//! - `conn`: the connection, its configuration, its life from ICReq to the end.
//! - `conn_recv`: cuts the byte stream into PDUs and puts payload where it belongs.
//! - `conn_request`: from a capsule to a command that can execute: data pointer, buffer, R2T.
//! - `conn_send`: from a completion to PDUs, and what the driver needs to send them.
//! - `conn_fused`: pairs the commands of fused operations, and takes commands back that have not
//!   begun to execute.
//! - `request`: one command's states.
//!
//! Everything is allocated when the connection is made and once more when Fabrics Connect names
//! the queue's depth. A peer that breaks the protocol costs its own connection only.

mod conn;
mod conn_fused;
mod conn_recv;
mod conn_request;
mod conn_send;
mod request;
#[cfg(test)]
mod tests;

pub use conn::{C2hSuccess, CONNECTION_MEMORY_BYTES_MAX, Connection, ConnectionConfig, Phase};
pub use conn_recv::RxState;
pub use request::{Recall, RequestId, RequestState};

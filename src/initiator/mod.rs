//! The NVMe/TCP host side, for measuring and for tests that need a peer.
//!
//! - `conn`: one queue's connection without I/O: commands in, segments out, bytes in, completions
//!   out. `conn_recv` reads the PDUs of the controller, `conn_send` builds ours.
//! - `queue_pair`: such a connection over `std::net::TcpStream`, polled.
//! - `auth`: how a queue proves itself to the controller, and the controller to us.
//! - `client`: brings a controller up and opens its I/O queues, with those of `command`.

pub mod auth;
pub mod client;
mod command;
mod conn;
mod conn_recv;
mod conn_send;
mod queue_pair;

pub use auth::{HostAuth, HostAuthError};
pub use client::{Client, ClientOptions, ControllerInfo, NamespaceInfo};
pub use conn::{Data, HOST_QUEUE_DEPTH_MAX, HostCompletion, HostConfig, HostConnection, HostPhase};
pub use queue_pair::{ClientError, QueuePair};

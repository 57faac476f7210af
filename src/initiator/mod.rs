//! The NVMe/TCP host side, for measuring and for tests that need a peer.
//!
//! - `conn`: one queue's connection without I/O: commands in, segments out, bytes in, completions
//!   out. `conn_recv` reads the PDUs of the controller, `conn_send` builds ours.
//! - `client`: connections over `std::net::TcpStream`, polled; brings a controller up and opens its
//!   I/O queues. `fabrics` holds the commands it needs for that.

pub mod client;
mod conn;
mod conn_recv;
mod conn_send;
mod fabrics;

pub use client::{Client, ClientError, ClientOptions, ControllerInfo, NamespaceInfo, QueuePair};
pub use conn::{Data, HOST_QUEUE_DEPTH_MAX, HostCompletion, HostConfig, HostConnection, HostPhase};

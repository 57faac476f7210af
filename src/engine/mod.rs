//! One core's worth of product: ties the stations of a core to its reactor, and gives the control
//! plane a handle on all cores.
//!
//! - `shard`: what a core runs; takes events from the reactor and carries work between stations.
//! - `channels`: the core's table of bdevs and arrays.
//! - `arrays`: carries an array's mail between its channels and its owner.
//! - `listen`: accepts connections and hands them out to the cores.
//! - `socket`: receives and sends; with `kernel_tls` the only file that sees a connection's
//!   descriptor.
//! - `queue`: commands of a connection meet their controller and their bdev.
//! - `connect`: Fabrics Connect across cores, and what ends with a connection.
//! - `auth`: Authentication Send and Receive; `auth_worker`: the thread that does their
//!   mathematics.
//! - `concat`: keys for TLS that are made of authentications.
//! - `duplicates`: hosts that connect where they have a controller already.
//! - `controller_list`: Identify's lists of the controllers of all cores.
//! - `abort`: the Abort command looks for its command.
//! - `failures`: failed I/O commands reach their controller's error log.
//! - `gate`, `gate_home`: what keeps I/O commands of all cores from a bdev, and who decides.
//! - `report`: what a core tells of its connections and controllers.
//! - `reserve`, `saver`: reservation commands and the files that keep reservations.
//! - `steps`: commands that take several requests to a bdev.
//! - `tls`: connections under OpenSSL's TLS; `kernel_tls`: what becomes of them after the handshake
//!   where the kernel has TLS.
//! - `message`: what cores and the control plane tell each other.
//! - `control_port`: the control plane's requests on a core.
//! - `handle`: the control plane's side of it; `endings`: its part that waits for devices.

mod abort;
mod arrays;
mod auth;
mod auth_worker;
mod channels;
mod concat;
mod connect;
mod control_port;
mod controller_list;
mod duplicates;
mod endings;
mod failures;
mod gate;
mod gate_home;
pub mod handle;
mod kernel_tls;
mod listen;
mod message;
mod patience;
mod queue;
mod report;
mod reserve;
mod saver;
mod shard;
mod socket;
mod steps;
mod tls;
pub mod workload;

pub use endings::IoFault;
pub use handle::{EngineConfig, EngineError, EngineHandle};
pub use report::{ControllerReport, CoreReport, HostCounts, QueueReport, QueueState};

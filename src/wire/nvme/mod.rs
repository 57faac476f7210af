//! NVMe command set structures that travel in capsules.

pub mod command;
pub mod status;

pub use command::{Cqe, Sqe};
pub use status::Status;

//! NVMe command set structures that travel in capsules.
//!
//! "Base" is the NVM Express Base Specification 2.1, "NVM" the NVM Command Set Specification 1.1.

pub mod command;
pub mod feature;
pub mod identify;
pub mod log_page;
pub mod nvm;
pub mod opcode;
pub mod register;
pub mod reservation;
pub mod status;

pub use command::{Cqe, Sqe};
pub use status::Status;

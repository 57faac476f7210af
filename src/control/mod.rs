//! Beside the data path: configuration, JSON-RPC and the order of start and stop.
//!
//! One thread, the control thread, owns everything here. It may allocate and block; it reaches
//! the reactors only through [`crate::engine::handle::EngineHandle`].

pub mod assemble;
mod auth_names;
pub mod carried;
pub mod cli;
pub mod config;
pub mod cores;
pub mod create;
pub mod examine;
pub mod kept;
pub mod keyring;
pub mod level;
mod log;
pub mod member_file;
mod methods;
pub mod names;
pub mod policy;
pub mod rpc;
pub mod run;
pub mod signals;
pub mod startup;
pub mod state_dir;
pub mod target;
#[cfg(test)]
mod test_dir;
mod units;

//! The NVMe/TCP target: connections, controllers, subsystems. No I/O here: `engine` drives it.

pub mod auth;
pub mod controller;
pub mod reservation;
pub mod subsystem;
pub mod tcp;

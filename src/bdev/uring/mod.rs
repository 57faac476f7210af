//! A file or block device through io_uring, with direct I/O where the backing store takes it.

mod channel;
mod open;

pub use channel::UringChannel;
pub use open::{UringDevice, UringOptions};

#[cfg(test)]
mod tests;

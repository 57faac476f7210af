//! How a sleeping endpoint of the mesh is woken: an eventfd.

use std::io;
#[cfg(test)]
use std::os::fd::{AsFd, BorrowedFd};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// What a wake-up writes: an eventfd counts in numbers of the host's byte order.
#[allow(clippy::host_endian_bytes)]
pub(super) const WAKE: [u8; 8] = 1u64.to_ne_bytes();

/// One endpoint's eventfd. It carries no data, so it orders nothing.
#[derive(Debug)]
pub(super) struct Wake(OwnedFd);

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC)?))
    }

    /// Makes the descriptor readable.
    pub(super) fn wake(&self) {
        let written = rustix::io::write(&self.0, &WAKE);
        assert!(written.is_ok(), "an eventfd refused a write: {written:?}");
    }

    /// Waits until the descriptor is readable and resets it, or until the time is over.
    pub(super) fn wait(&self, timeout: Duration) {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let time = Timespec::try_from(timeout).ok();
        if poll(&mut fds, time.as_ref()).is_ok_and(|ready| ready > 0) {
            let mut count = [0u8; 8];
            let result = rustix::io::read(&self.0, &mut count);
            assert!(result.is_ok(), "an eventfd refused a read: {result:?}");
        }
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

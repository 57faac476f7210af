//! The socket file: one live owner, no stale leftovers.
//!
//! As SPDK does it, the owner holds a lock on `SOCKET.lock` for as long as it lives. Whoever gets
//! the lock knows that a socket file found beside it is a dead process's and removes it.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Longest path of a Unix socket in bytes (`sun_path` without its terminator).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why there is no socket to serve on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A live process serves it.
    #[error(
        "the RPC socket {0} belongs to a running mdof or SPDK; stop that one, or choose another \
         path with --rpc-socket"
    )]
    InUse(PathBuf),
    /// Something else has the name.
    #[error("{0} exists and is no socket; choose another path with --rpc-socket")]
    NotASocket(PathBuf),
    /// Unix sockets have short names.
    #[error("the RPC socket path {0} is longer than 107 bytes; choose another with --rpc-socket")]
    TooLong(PathBuf),
    /// The system refused.
    #[error("cannot make the RPC socket {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The right to serve a path: held before anything is touched, bound when there is something to
/// serve.
#[derive(Debug)]
pub struct SocketLock {
    path: PathBuf,
    _lock: File,
}

impl SocketLock {
    /// Claims `path`, or says who has it.
    pub fn acquire(path: &Path) -> Result<Self, SocketError> {
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        let io = |source| SocketError::Io { path: path.to_owned(), source };
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(lock_path)
            .map_err(io)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(SocketError::InUse(path.to_owned())),
            Err(errno) => return Err(io(errno.into())),
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Listens. Only our own user may connect: whoever can, can delete arrays.
    pub fn bind(self) -> Result<BoundSocket, SocketError> {
        let io = |source| SocketError::Io { path: self.path.clone(), source };
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) if found.file_type().is_socket() => {
                std::fs::remove_file(&self.path).map_err(io)?;
            }
            Ok(_) => return Err(SocketError::NotASocket(self.path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        let listener = UnixListener::bind(&self.path).map_err(io)?;
        std::fs::set_permissions(&self.path, Permissions::from_mode(0o600)).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        Ok(BoundSocket { listener, lock: self })
    }
}

/// A listening socket; its file goes when this goes.
#[derive(Debug)]
pub struct BoundSocket {
    pub(super) listener: UnixListener,
    lock: SocketLock,
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // The lock file stays: removing it would let two owners lock two files of one name.
        let _ = std::fs::remove_file(&self.lock.path);
    }
}

const _: () = assert!(SOCKET_PATH_BYTES_MAX == 107, "the message above names the number");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::test_dir::TestDir;

    #[test]
    fn second_owner_is_refused_and_stale_socket_replaced() {
        let dir = TestDir::new("socket");
        let path = dir.path().join("s.sock");
        // A dead process's socket: bound, never removed.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let bound = SocketLock::acquire(&path).unwrap().bind().unwrap();
        assert!(matches!(SocketLock::acquire(&path), Err(SocketError::InUse(_))));
        drop(bound);
        assert!(!path.exists());
        SocketLock::acquire(&path).unwrap();
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = TestDir::new("socket-file");
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let error = SocketLock::acquire(&path).unwrap().bind().unwrap_err();
        assert!(matches!(error, SocketError::NotASocket(_)));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
        let long = dir.path().join("x".repeat(200));
        assert!(matches!(SocketLock::acquire(&long), Err(SocketError::TooLong(_))));
    }
}

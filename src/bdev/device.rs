//! A bdev as all cores share it: its geometry, and what a channel needs to serve it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::channel::Channel;
use super::delay::{DelayChannel, DelayDevice};
use super::error::{ErrorChannel, ErrorDevice};
use super::malloc::{MallocChannel, MallocDevice};
use super::null::{NullChannel, NullDevice};
use super::uring::{UringChannel, UringDevice};
use super::{BdevId, Geometry};
use crate::reactor::CoreIo;

/// Why a bdev could not be made. Each text is a whole sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The block size is neither 512 nor 4096.
    #[error(
        "bdev {name}: a block size of {block_size_bytes} bytes is not possible; use 512 or 4096"
    )]
    BlockSize {
        /// The bdev.
        name: String,
        /// What was asked for.
        block_size_bytes: u32,
    },
    /// No blocks, or more than fit the address space.
    #[error("bdev {name}: a size of {blocks} blocks is not possible")]
    Size {
        /// The bdev.
        name: String,
        /// What was asked for.
        blocks: u64,
    },
    /// Memory for a malloc bdev is not to be had.
    #[error("bdev {name}: {size_bytes} bytes of memory could not be mapped: {source}")]
    Memory {
        /// The bdev.
        name: String,
        /// What was asked for.
        size_bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no such file.
    #[error("bdev {name}: {path} does not exist; create it first (truncate -s SIZE {path})")]
    NotFound {
        /// The bdev.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// A directory, socket, character device and so on.
    #[error("bdev {name}: {path} is a {kind}; a uring bdev needs a regular file or a block device")]
    WrongKind {
        /// The bdev.
        name: String,
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// No permission.
    #[error(
        "bdev {name}: {path} may not be opened for reading and writing ({source}); mdof needs \
         both permissions"
    )]
    Permission {
        /// The bdev.
        name: String,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Somebody else uses it.
    #[error(
        "bdev {name}: {path} is in use (mounted, a member of a running kernel array, or open in \
         another mdof); two writers would destroy its content, so it was not opened"
    )]
    InUse {
        /// The bdev.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// Empty file or device.
    #[error("bdev {name}: {path} has a size of zero; give it a size (truncate -s SIZE {path})")]
    Empty {
        /// The bdev.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// The size is not a whole number of blocks.
    #[error(
        "bdev {name}: the size of {path}, {size_bytes} bytes, is not a multiple of the block size \
         of {block_size_bytes} bytes"
    )]
    Partial {
        /// The bdev.
        name: String,
        /// The file.
        path: PathBuf,
        /// Size found.
        size_bytes: u64,
        /// Block size.
        block_size_bytes: u32,
    },
    /// The backing store cannot address units as small as the block size.
    #[error(
        "bdev {name}: {path} takes direct I/O in units of {needed_bytes} bytes only, so blocks of \
         {block_size_bytes} bytes could not be written safely; create the bdev with block_size \
         {needed_bytes}"
    )]
    Alignment {
        /// The bdev.
        name: String,
        /// The file.
        path: PathBuf,
        /// Block size asked for.
        block_size_bytes: u32,
        /// Smallest unit that works.
        needed_bytes: u32,
    },
    /// Any other refusal of the kernel.
    #[error("bdev {name}: {what} of {path} failed: {source}")]
    Os {
        /// The bdev.
        name: String,
        /// The file.
        path: PathBuf,
        /// The step that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A bdev of one of the kinds that execute requests themselves or pass them to one base bdev.
/// Clones share the bdev.
#[derive(Debug, Clone)]
pub enum Device {
    /// Memory.
    Malloc(Arc<MallocDevice>),
    /// Nothing: writes vanish, reads return zeroes.
    Null(Arc<NullDevice>),
    /// A file or block device through io_uring.
    Uring(Arc<UringDevice>),
    /// Fails requests to its base on demand.
    Error(Arc<ErrorDevice>),
    /// Delays requests to its base.
    Delay(Arc<DelayDevice>),
}

impl Device {
    /// Fixed properties.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        match self {
            Self::Malloc(device) => device.geometry(),
            Self::Null(device) => device.geometry(),
            Self::Uring(device) => device.geometry(),
            Self::Error(device) => device.geometry(),
            Self::Delay(device) => device.geometry(),
        }
    }

    /// The bdev below a filter.
    #[must_use]
    pub fn base(&self) -> Option<BdevId> {
        match self {
            Self::Malloc(_) | Self::Null(_) | Self::Uring(_) => None,
            Self::Error(device) => Some(device.base()),
            Self::Delay(device) => Some(device.base()),
        }
    }

    /// A channel for the calling core. `id` is the bdev's place in the core's table: ring
    /// completions, timers and filter completions come back under it.
    pub fn open_channel(&self, id: BdevId, _core: &CoreIo) -> io::Result<Channel> {
        Ok(match self {
            Self::Malloc(device) => Channel::Malloc(MallocChannel::new(device.clone(), id)),
            Self::Null(device) => Channel::Null(NullChannel::new(device.clone())),
            Self::Uring(device) => Channel::Uring(UringChannel::new(device.clone(), id)?),
            Self::Error(device) => Channel::Error(ErrorChannel::new(device.clone(), id)),
            Self::Delay(device) => Channel::Delay(DelayChannel::new(device.clone(), id)),
        })
    }
}

/// Checks what a new bdev without a backing file is asked to be.
pub(super) fn check_shape(
    name: &str,
    block_size_bytes: u32,
    blocks: u64,
) -> Result<u64, DeviceError> {
    if !matches!(block_size_bytes, 512 | 4096) {
        return Err(DeviceError::BlockSize { name: name.to_owned(), block_size_bytes });
    }
    match blocks.checked_mul(u64::from(block_size_bytes)) {
        Some(size_bytes) if blocks > 0 && i64::try_from(size_bytes).is_ok() => Ok(size_bytes),
        _ => Err(DeviceError::Size { name: name.to_owned(), blocks }),
    }
}

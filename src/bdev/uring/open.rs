//! Opening the backing store: what it is, how large, in which units, and for us alone.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, Stat, StatxFlags,
};
use uuid::Uuid;

use crate::bdev::{DeviceError, Geometry};
use crate::limits::PAGE_SIZE_BYTES;
use crate::reactor::dma::Mapping;

/// The largest logical block that mdof offers to hosts.
const BLOCK_SIZE_BYTES_MAX: u32 = 4096;

/// A lock that is held may go in a moment: udev locks a block device while it looks at it, and a
/// target that is ending needs time to close. Longer than that, and somebody else is at work.
const LOCK_TRIES: u32 = 10;
const LOCK_RETRY: Duration = Duration::from_millis(30);

/// What the operator asks for.
#[derive(Debug, Clone)]
pub struct UringOptions {
    /// Name of the bdev.
    pub name: String,
    /// Regular file or block device.
    pub path: PathBuf,
    /// Logical block size; `None` takes what the backing store has.
    pub block_size_bytes: Option<u32>,
    /// Identity.
    pub uuid: Uuid,
}

/// The shared part: one descriptor for all cores.
#[derive(Debug)]
pub struct UringDevice {
    geometry: Geometry,
    store: Arc<Store>,
}

/// The backing store. It stays open, by the same descriptor, when its size changes: requests under
/// way name it.
#[derive(Debug)]
struct Store {
    path: PathBuf,
    /// Keeps the lock, too: it goes with the descriptor.
    file: OwnedFd,
    direct: bool,
    /// Addresses of buffers must be multiples of this.
    memory_align_bytes: usize,
}

/// Units of direct I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DirectUnits {
    memory_bytes: u32,
    offset_bytes: u32,
}

impl UringDevice {
    /// Opens the backing store for exclusive use.
    pub fn open(options: UringOptions) -> Result<Arc<Self>, DeviceError> {
        let opener = Opener { name: &options.name, path: &options.path };
        let stat = opener.stat()?;
        let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        let (file, mut direct) = opener.open(is_block)?;
        opener.lock(&file)?;
        let size_bytes = opener.size_bytes(&file)?;
        let logical_bytes = if is_block { opener.logical_block_size(&file)? } else { 512 };
        let mut units = DirectUnits { memory_bytes: 1, offset_bytes: logical_bytes };
        if direct {
            match opener.direct_units(&file, logical_bytes) {
                Some(found) if is_block || found.offset_bytes <= BLOCK_SIZE_BYTES_MAX => {
                    units = found;
                }
                _ => direct = false,
            }
        }
        if !direct {
            tracing::warn!(
                "bdev {}: {} takes no direct I/O in blocks of 4096 bytes; it is used through the \
                 page cache, and flush and FUA wait for the data to reach it",
                options.name,
                options.path.display()
            );
        }
        let least_bytes = units.offset_bytes.max(logical_bytes);
        let block_size_bytes = opener.block_size(options.block_size_bytes, least_bytes)?;
        let blocks = opener.blocks(size_bytes, block_size_bytes)?;
        let queue = if is_block { queue_folder(&stat) } else { None };
        let geometry = Geometry {
            name: options.name,
            product_name: "URING bdev",
            uuid: options.uuid,
            block_size_bytes,
            blocks,
            optimal_io_blocks: 0,
            io_boundary_blocks: 0,
            write_unit_blocks: 0,
            unmap_unit_blocks: 0,
            volatile_write_cache: !queue.as_deref().is_some_and(writes_through),
            unmap: queue.as_deref().is_none_or(discards),
            cheap_zeroes: match &queue {
                Some(queue) => zeroes_by_itself(queue),
                None => !is_block && punches_holes(&file, size_bytes),
            },
        };
        let memory_align_bytes = units.memory_bytes as usize;
        let store = Arc::new(Store { path: options.path, file, direct, memory_align_bytes });
        Ok(Arc::new(Self { geometry, store }))
    }

    /// The same bdev with the size that the store has now, for [`crate::bdev::Channel::resize`].
    ///
    /// # Errors
    /// If the size can't be found out, or is not one of whole blocks.
    pub fn rescanned(&self) -> Result<Arc<Self>, DeviceError> {
        let opener = Opener { name: &self.geometry.name, path: &self.store.path };
        let size_bytes = opener.size_bytes(&self.store.file)?;
        let block_size_bytes = self.geometry.block_size_bytes;
        let blocks = opener.blocks(size_bytes, block_size_bytes)?;
        let geometry = Geometry { blocks, ..self.geometry.clone() };
        Ok(Arc::new(Self { geometry, store: self.store.clone() }))
    }

    /// The bdev's fixed properties.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The backing store's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.store.path
    }

    /// Whether I/O goes past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.store.direct
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.store.file.as_raw_fd()
    }

    pub(super) fn memory_align_bytes(&self) -> usize {
        self.store.memory_align_bytes
    }
}

/// Names for error texts, and the steps of opening.
struct Opener<'a> {
    name: &'a str,
    path: &'a Path,
}

impl Opener<'_> {
    fn own(&self) -> (String, PathBuf) {
        (self.name.to_owned(), self.path.to_owned())
    }

    fn failed(&self, what: &'static str, errno: rustix::io::Errno) -> DeviceError {
        use rustix::io::Errno;
        let (name, path) = self.own();
        let source = io::Error::from(errno);
        match errno {
            Errno::NOENT | Errno::NOTDIR => DeviceError::NotFound { name, path },
            Errno::ACCESS | Errno::PERM | Errno::ROFS => {
                DeviceError::Permission { name, path, source }
            }
            Errno::BUSY | Errno::TXTBSY => DeviceError::InUse { name, path },
            _ => DeviceError::Os { name, path, what, source },
        }
    }

    fn stat(&self) -> Result<Stat, DeviceError> {
        let stat = rustix::fs::stat(self.path).map_err(|errno| self.failed("stat", errno))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::BlockDevice => return Ok(stat),
            FileType::Directory => "directory",
            FileType::CharacterDevice => "character device",
            FileType::Fifo => "pipe",
            FileType::Socket => "socket",
            _ => "file of an unknown kind",
        };
        let (name, path) = self.own();
        Err(DeviceError::WrongKind { name, path, kind })
    }

    /// Opens with direct I/O, without it where the file system refuses the flag. Says which.
    fn open(&self, is_block: bool) -> Result<(OwnedFd, bool), DeviceError> {
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
        if is_block {
            // On a block device without O_CREAT: refuse if mounted or claimed by the kernel.
            flags |= OFlags::EXCL;
        }
        match rustix::fs::open(self.path, flags | OFlags::DIRECT, Mode::empty()) {
            Ok(file) => return Ok((file, true)),
            Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(self.failed("open", errno)),
        }
        let file = rustix::fs::open(self.path, flags, Mode::empty());
        Ok((file.map_err(|errno| self.failed("open", errno))?, false))
    }

    /// Two targets on one member would destroy it. O_EXCL keeps out the kernel's own users of a
    /// block device and this other targets, of files as well.
    fn lock(&self, file: &OwnedFd) -> Result<(), DeviceError> {
        let mut tries = LOCK_TRIES;
        loop {
            tries -= 1;
            match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::WOULDBLOCK) if tries == 0 => {
                    let (name, path) = self.own();
                    return Err(DeviceError::InUse { name, path });
                }
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_RETRY),
                Err(errno) => return Err(self.failed("lock", errno)),
            }
        }
    }

    fn size_bytes(&self, file: &OwnedFd) -> Result<u64, DeviceError> {
        let end = rustix::fs::seek(file, rustix::fs::SeekFrom::End(0));
        match end.map_err(|errno| self.failed("seek to the end", errno))? {
            0 => {
                let (name, path) = self.own();
                Err(DeviceError::Empty { name, path })
            }
            size_bytes => Ok(size_bytes),
        }
    }

    fn blocks(&self, size_bytes: u64, block_size_bytes: u32) -> Result<u64, DeviceError> {
        if size_bytes.is_multiple_of(u64::from(block_size_bytes)) {
            return Ok(size_bytes / u64::from(block_size_bytes));
        }
        let (name, path) = self.own();
        Err(DeviceError::Partial { name, path, size_bytes, block_size_bytes })
    }

    fn logical_block_size(&self, file: &OwnedFd) -> Result<u32, DeviceError> {
        rustix::fs::ioctl_blksszget(file).map_err(|errno| self.failed("BLKSSZGET", errno))
    }

    /// Units in which the store takes direct I/O; `None` if it takes none. Kernels before 6.1
    /// (and some file systems) do not tell: then a read of the smallest unit shows it.
    fn direct_units(&self, file: &OwnedFd, logical_bytes: u32) -> Option<DirectUnits> {
        let told = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
        if let Some(told) = told {
            let has = StatxFlags::from_bits_retain(told.stx_mask).contains(StatxFlags::DIOALIGN);
            if has && told.stx_dio_offset_align == 0 {
                return None;
            }
            if has {
                return Some(DirectUnits {
                    memory_bytes: told.stx_dio_mem_align.max(1),
                    offset_bytes: told.stx_dio_offset_align,
                });
            }
        }
        let page = u32::try_from(PAGE_SIZE_BYTES).ok()?;
        [logical_bytes, page]
            .into_iter()
            .find(|&unit| probe(file, unit))
            .map(|unit| DirectUnits { memory_bytes: unit, offset_bytes: unit })
    }

    fn block_size(&self, asked: Option<u32>, least_bytes: u32) -> Result<u32, DeviceError> {
        let block_size_bytes = asked.unwrap_or(if least_bytes <= 512 { 512 } else { 4096 });
        let (name, path) = self.own();
        if !matches!(block_size_bytes, 512 | 4096) {
            return Err(DeviceError::BlockSize { name, block_size_bytes });
        }
        if !block_size_bytes.is_multiple_of(least_bytes) {
            let needed_bytes = least_bytes;
            return Err(DeviceError::Alignment { name, path, block_size_bytes, needed_bytes });
        }
        Ok(block_size_bytes)
    }
}

/// Whether a direct read of the second unit succeeds, with memory aligned no better than it. The
/// read need not find data.
fn probe(file: &OwnedFd, unit_bytes: u32) -> bool {
    let unit = unit_bytes as usize;
    let Ok(memory) = Mapping::new(4 * PAGE_SIZE_BYTES) else { return false };
    let Ok(offset) = i64::try_from(unit) else { return false };
    // SAFETY: the range lies inside the mapping, which outlives the call.
    let result = unsafe {
        libc::pread(file.as_raw_fd(), memory.as_ptr().wrapping_add(unit).cast(), unit, offset)
    };
    result >= 0
}

/// The folder of a block device's queue attributes; a partition's are its disk's.
fn queue_folder(stat: &Stat) -> Option<PathBuf> {
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    ["queue", "../queue"].into_iter().map(|name| device.join(name)).find(|queue| queue.is_dir())
}

/// Whether a file's system can free ranges: then it need not write zeroes. Asked for a range behind
/// the end, where nothing can be freed.
fn punches_holes(file: &OwnedFd, size_bytes: u64) -> bool {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, mode, size_bytes, PAGE_SIZE_BYTES as u64).is_ok()
}

fn zeroes_by_itself(queue: &Path) -> bool {
    is_above_zero(&queue.join("write_zeroes_max_bytes"))
}

fn writes_through(queue: &Path) -> bool {
    std::fs::read_to_string(queue.join("write_cache"))
        .is_ok_and(|value| value.trim() == "write through")
}

fn discards(queue: &Path) -> bool {
    is_above_zero(&queue.join("discard_max_bytes"))
}

fn is_above_zero(attribute: &Path) -> bool {
    let value = std::fs::read_to_string(attribute);
    value.is_ok_and(|value| value.trim().parse().is_ok_and(|number: u64| number > 0))
}

//! Memory for I/O buffers: hugepages when the system has free ones, ordinary pages when not.

use std::ptr::NonNull;
use std::sync::OnceLock;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use crate::limits::{IO_SIZE_BYTES_MAX, PAGE_SIZE_BYTES};

use super::buf::{BufPool, CLASS_SIZES_BYTES, arena_size_bytes};

const HUGEPAGE_SIZE_BYTES: usize = 2 * 1024 * 1024;

/// What lies under memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Reserved 2 MiB hugepages.
    Hugepages,
    /// Ordinary pages. Transparent hugepages are not asked for: what is idle then costs only the
    /// pages it has touched.
    Pages,
}

fn map(size_bytes: usize, flags: MapFlags) -> rustix::io::Result<NonNull<u8>> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice replaces nothing.
    let address = unsafe { mmap_anonymous(std::ptr::null_mut(), size_bytes, access, flags) }?;
    Ok(NonNull::new(address.cast()).expect("mmap without MAP_FIXED never returns null"))
}

/// An arena of I/O buffers for the calling core, `counts` of each class. It lives as long as the
/// process.
pub fn arena(counts: [usize; CLASS_SIZES_BYTES.len()]) -> std::io::Result<(BufPool, Backing)> {
    let size = arena_size_bytes(counts).next_multiple_of(HUGEPAGE_SIZE_BYTES);
    let huge = map(size, MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB);
    let (base, backing) = match huge {
        Ok(base) => (base, Backing::Hugepages),
        Err(_) => (map(size, MapFlags::PRIVATE)?, Backing::Pages),
    };
    // SAFETY: the mapping is `size` bytes, zeroed, readable and writable, known to nobody else
    // and never unmapped.
    let memory = unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), size) };
    Ok((BufPool::new(memory, counts), backing))
}

/// Asks for transparent hugepages under memory that nobody has written to yet. Where the system
/// has none, ordinary pages serve as well.
pub fn prefer_hugepages(start: *const u8, len_bytes: usize) {
    let skip = start.align_offset(PAGE_SIZE_BYTES);
    let Some(len) = len_bytes.checked_sub(skip).filter(|&len| len >= HUGEPAGE_SIZE_BYTES) else {
        return;
    };
    let page = start.wrapping_add(skip).cast_mut().cast();
    // SAFETY: this advice changes how a range is backed and never what it holds; for a range that
    // is not mapped it is refused.
    let _ = unsafe { madvise(page, len, Advice::LinuxHugepage) };
}

/// Says once for the whole target what backs its arenas.
pub fn log_backing(cores: usize, arena_bytes: usize, backing: Backing) {
    let mib = arena_bytes.div_ceil(1024 * 1024);
    match backing {
        Backing::Hugepages => tracing::info!("I/O buffers: {cores} x {mib} MiB in hugepages"),
        Backing::Pages => tracing::info!(
            "I/O buffers: {cores} x {mib} MiB in ordinary pages, as no hugepages are free; for \
             hugepages reserve them first (sysctl vm.nr_hugepages={})",
            cores * arena_bytes.div_ceil(HUGEPAGE_SIZE_BYTES)
        ),
    }
}

/// Anonymous zeroed memory of its own, unmapped when dropped. Pages cost nothing until written.
///
/// It hands out a raw pointer only: several threads may copy in and out at once, so no reference
/// to the bytes may exist.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: the mapping belongs to the value, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: only a raw pointer is handed out; whoever copies through it keeps its own rules.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `len_bytes` zeroes.
    pub fn new(len_bytes: usize) -> std::io::Result<Self> {
        let base = map(len_bytes, MapFlags::PRIVATE | MapFlags::NORESERVE)?;
        Ok(Self { base, len_bytes })
    }

    /// `len_bytes` zeroes at least: in reserved hugepages, all of which are taken now, if the
    /// memory would fill one and enough of them are free, or else in ordinary pages.
    pub fn in_hugepages_if_free(len_bytes: usize) -> std::io::Result<(Self, Backing)> {
        if len_bytes >= HUGEPAGE_SIZE_BYTES {
            let len_bytes = len_bytes.next_multiple_of(HUGEPAGE_SIZE_BYTES);
            if let Ok(base) =
                map(len_bytes, MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB)
            {
                let mapping = Self { base, len_bytes };
                // What a control group forbids to take is told by a signal at the first access,
                // and by an error here.
                let all = Advice::LinuxPopulateWrite;
                // SAFETY: the range was mapped above; its zeroes stay what they are.
                if unsafe { madvise(base.as_ptr().cast(), len_bytes, all) }.is_ok() {
                    return Ok((mapping, Backing::Hugepages));
                }
            }
        }
        Ok((Self::new(len_bytes)?, Backing::Pages))
    }

    /// First byte; page aligned.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Size in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}

/// Bytes of [`zeroes`]: a request's, at most.
pub const ZEROES_BYTES: usize = IO_SIZE_BYTES_MAX;

/// [`ZEROES_BYTES`] zeroes to write or send from, one set for the process. Never written, so that
/// they cost no memory: the same page of zeroes lies under all of them.
///
/// # Errors
/// If the system has no room for them in the process's addresses.
pub fn zeroes() -> std::io::Result<&'static [u8]> {
    static ZEROES: OnceLock<Mapping> = OnceLock::new();
    let mapping = match ZEROES.get() {
        Some(mapping) => mapping,
        None => {
            let mapping = Mapping::new(ZEROES_BYTES)?;
            ZEROES.get_or_init(|| mapping)
        }
    };
    // SAFETY: the mapping has this length, stays for ever, and is written by nobody.
    Ok(unsafe { std::slice::from_raw_parts(mapping.as_ptr(), ZEROES_BYTES) })
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and with the value the last pointer user is gone.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len_bytes) };
        debug_assert!(result.is_ok(), "a mapping of ours could not be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags of the mapping that holds the address, from the kernel's own listing.
    fn mapping_flags(address: usize) -> String {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            if let Some((range, _)) = line.split_once(' ')
                && let Some((start, end)) = range.split_once('-')
                && let (Ok(start), Ok(end)) =
                    (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
            {
                inside = (start..end).contains(&address);
            } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                return flags.to_owned();
            }
        }
        panic!("the address is mapped");
    }

    #[test]
    fn large_memory_is_advised_and_small_left_alone() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            println!("left out: this kernel has no transparent hugepages");
            return;
        }
        let memory: Vec<u8> = Vec::with_capacity(8 << 20);
        let middle = memory.as_ptr().addr() + (4 << 20);
        assert!(!mapping_flags(middle).contains(" hg"));
        prefer_hugepages(memory.as_ptr(), 1 << 20);
        assert!(!mapping_flags(middle).contains(" hg"));
        prefer_hugepages(memory.as_ptr(), memory.capacity());
        assert!(mapping_flags(middle).contains(" hg"));
    }

    #[test]
    fn arena_serves_buffers() {
        let (pool, _backing) = arena([4, 1, 1, 0]).unwrap();
        assert_eq!(pool.free_counts(), [4, 1, 1, 0]);
        let mut buf = pool.get(4096).unwrap();
        assert_eq!(buf.as_slice(), [0u8; 4096]);
        buf.as_mut_slice().fill(7);
        assert!(buf.as_ptr().addr().is_multiple_of(4096));
        let (base, len) = pool.region();
        assert!(base.as_ptr().addr().is_multiple_of(4096));
        assert!(len.is_multiple_of(HUGEPAGE_SIZE_BYTES));
    }
}

//! Counts allocations: those of each thread and those of the process. A global allocator belongs
//! to a binary, so whoever wants it takes this file up by its path.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static OF_PROCESS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static OF_THREAD: Cell<u64> = const { Cell::new(0) };
}

/// Whether the process's first thread counts: it does if it is the test's. Else it is the
/// harness's, which allocates when it says that a test has been running for over 60 seconds.
static FIRST_COUNTS: AtomicBool = AtomicBool::new(true);

fn is_first() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came. What is not defined here comes
// down to these two.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: the trait's, which the caller keeps.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if FIRST_COUNTS.load(Ordering::Relaxed) || !is_first() {
            OF_PROCESS.fetch_add(1, Ordering::Relaxed);
        }
        // A thread that ends allocates after its counter is gone.
        let _ = OF_THREAD.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the rules of this very function.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: the trait's, which the caller keeps.
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the memory came from `System`, by `alloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread while it does `act`.
pub fn of_thread(act: impl FnOnce()) -> u64 {
    let before = OF_THREAD.get();
    act();
    OF_THREAD.get() - before
}

/// Allocations of all threads but the harness's while this one does `act`.
pub fn of_process(act: impl FnOnce()) -> u64 {
    FIRST_COUNTS.store(is_first(), Ordering::Relaxed);
    let before = OF_PROCESS.load(Ordering::Relaxed);
    act();
    OF_PROCESS.load(Ordering::Relaxed) - before
}

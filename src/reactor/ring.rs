//! A core's io_uring: entries in, completions out, none ever lost.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{Builder, IoUring, squeue};

use super::buf::BufPool;

/// Submission entries of a core's ring. More in one turn only means one more submit.
pub const SQ_ENTRIES: u32 = 1024;

/// Completion entries: several times the submissions, as requests stay in flight over turns.
pub const CQ_ENTRIES: u32 = 4 * SQ_ENTRIES;

/// Bytes the kernel takes as one registered buffer at most.
const FIXED_BUFFER_BYTES_MAX: usize = 1 << 30;

/// Completions and timers of the reactor itself.
pub const KIND_REACTOR: u8 = 0;
/// Completions and timers of bdev channels: `object` = the bdev.
pub const KIND_BDEV: u8 = 1;
/// The first kind that the engine may use as it likes.
pub const KIND_FREE: u8 = 2;

const _: () = assert!(CQ_ENTRIES.is_power_of_two());

/// Whom a ring completion belongs to, packed into the 64 bits that the kernel returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserData {
    /// The station, one of the `KIND_` values.
    pub kind: u8,
    /// The station's own business.
    pub extra: u8,
    /// Object of the station (connection, bdev).
    pub object: u16,
    /// Operation within the object: index and generation.
    pub op: u32,
}

impl UserData {
    /// As one number.
    #[must_use]
    pub fn pack(self) -> u64 {
        u64::from(self.kind) << 56
            | u64::from(self.extra) << 48
            | u64::from(self.object) << 32
            | u64::from(self.op)
    }

    /// From one number.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // each shift leaves the field it wants lowest
    pub fn unpack(raw: u64) -> Self {
        Self {
            kind: (raw >> 56) as u8,
            extra: (raw >> 48) as u8,
            object: (raw >> 32) as u16,
            op: raw as u32,
        }
    }
}

/// One completion of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingDone {
    /// Whose it is.
    pub data: UserData,
    /// Result: bytes or zero, or a negative errno.
    pub res: i32,
    /// Flags of the completion (`io_uring::cqueue::more` and so on).
    pub flags: u32,
}

/// Why a core has no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// `kernel.io_uring_disabled` forbids it.
    #[error(
        "io_uring is switched off on this system (kernel.io_uring_disabled = {0}); mdof needs it: \
         run `sysctl kernel.io_uring_disabled=0`, or run mdof as root when the value is 1"
    )]
    Disabled(String),
    /// The kernel refuses although the sysctl permits it.
    #[error(
        "the kernel refused io_uring_setup with EPERM although kernel.io_uring_disabled permits \
         it: a seccomp filter (container runtime) blocks io_uring; allow io_uring_setup, \
         io_uring_enter and io_uring_register for mdof"
    )]
    Filtered,
    /// The kernel was built without io_uring or is too old.
    #[error("this kernel has no io_uring (ENOSYS); mdof needs Linux 5.11 or later with io_uring")]
    Missing,
    /// The kernel's io_uring lacks something mdof cannot do without.
    #[error("this kernel's io_uring is too old (no {0}); mdof needs Linux 5.11 or later")]
    TooOld(&'static str),
    /// Any other refusal.
    #[error("io_uring could not be set up: {0}")]
    Setup(io::Error),
}

/// A core's io_uring. It must be made and used on the thread that runs the core.
pub struct Ring {
    uring: IoUring,
    /// Completions taken out of the kernel's queue to make room while a push was under way.
    stash: VecDeque<RingDone>,
    /// Registered regions: start address and length, index = the kernel's buffer index.
    fixed: Vec<(usize, usize)>,
    /// Entries pushed since start.
    pushed: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring(pushed {}, fixed regions {})", self.pushed, self.fixed.len())
    }
}

fn builder(sq_entries: u32) -> Builder {
    let mut builder = IoUring::builder();
    builder.setup_clamp().setup_cqsize(sq_entries * (CQ_ENTRIES / SQ_ENTRIES)).dontfork();
    builder
}

/// Sets of flags, best first: completions run on the owner's enters only (6.1), without
/// interrupts of the owner (5.19), plain.
fn flag_sets(sq_entries: u32) -> [Builder; 3] {
    let mut deferred = builder(sq_entries);
    deferred.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    let mut cooperative = builder(sq_entries);
    cooperative.setup_coop_taskrun().setup_taskrun_flag();
    [deferred, cooperative, builder(sq_entries)]
}

/// A ring with the first set of flags that this kernel takes.
fn build(sq_entries: u32) -> io::Result<IoUring> {
    let mut refused = io::Error::from_raw_os_error(libc::EINVAL);
    for flags in flag_sets(sq_entries) {
        match flags.build(sq_entries) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = error,
            other => return other,
        }
    }
    Err(refused)
}

fn setup_error(error: io::Error) -> RingError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => RingError::Missing,
        Some(libc::EPERM) => {
            let value = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
            match value.as_deref().map(str::trim) {
                Ok(value) if value != "0" => RingError::Disabled(value.to_owned()),
                _ => RingError::Filtered,
            }
        }
        _ => RingError::Setup(error),
    }
}

impl Ring {
    /// A ring with `sq_entries` submission entries, for the calling thread.
    pub fn new(sq_entries: u32) -> Result<Self, RingError> {
        Self::from_kernel(build(sq_entries).map_err(setup_error)?)
    }

    fn from_kernel(uring: IoUring) -> Result<Self, RingError> {
        let params = uring.params();
        if !params.is_feature_nodrop() {
            return Err(RingError::TooOld("IORING_FEAT_NODROP"));
        }
        if !params.is_feature_ext_arg() {
            return Err(RingError::TooOld("IORING_FEAT_EXT_ARG"));
        }
        let stash = VecDeque::with_capacity(2 * CQ_ENTRIES as usize);
        Ok(Self { uring, stash, fixed: Vec::new(), pushed: 0 })
    }

    /// Registers the pool's memory, which pins it, so that requests on its buffers need no page
    /// lookups. A refusal costs speed only.
    pub fn register_arena(&mut self, pool: &BufPool) -> io::Result<()> {
        let (base, len_bytes) = pool.region();
        let mut regions = Vec::new();
        for start in (0..len_bytes).step_by(FIXED_BUFFER_BYTES_MAX) {
            let len = FIXED_BUFFER_BYTES_MAX.min(len_bytes - start);
            let iov_base = base.as_ptr().wrapping_add(start).cast();
            regions.push(libc::iovec { iov_base, iov_len: len });
        }
        // SAFETY: an arena is mapped as long as the process lives.
        unsafe { self.uring.submitter().register_buffers(&regions) }?;
        self.fixed = regions.iter().map(|r| (r.iov_base.addr(), r.iov_len)).collect();
        Ok(())
    }

    /// The index under which the kernel knows a registered region that holds the whole range.
    #[must_use]
    pub fn fixed_index(&self, ptr: *const u8, len_bytes: usize) -> Option<u16> {
        let start = ptr.addr();
        let found = self
            .fixed
            .iter()
            .position(|&(base, len)| start >= base && start + len_bytes <= base + len)?;
        u16::try_from(found).ok()
    }

    /// Queues an entry for the next submit; submits first when the queue is full.
    ///
    /// # Safety
    /// Everything the entry points to must stay valid, and descriptors open, until its (last)
    /// completion has been reaped.
    pub unsafe fn push(&mut self, entry: squeue::Entry, data: UserData) {
        let entry = entry.user_data(data.pack());
        self.pushed += 1;
        loop {
            // SAFETY: the caller answers for what the entry points to.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.submit();
        }
    }

    /// Hands queued entries to the kernel and lets it post completions that are ready. Costs no
    /// system call when there is neither; says whether there was something.
    pub fn submit(&mut self) -> bool {
        let mut entered = false;
        loop {
            let queue = self.uring.submission();
            if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                return entered;
            }
            drop(queue);
            match self.uring.submit() {
                Ok(_) => return true,
                Err(error) => self.after_refused_enter(&error),
            }
            entered = true;
        }
    }

    /// Hands queued entries to the kernel and sleeps until a completion is there, or the time is
    /// over. `None` sleeps for as long as it takes.
    pub fn submit_and_wait(&mut self, timeout: Option<Duration>) {
        if !self.stash.is_empty() {
            self.submit();
            return;
        }
        let result = match timeout {
            None => self.uring.submit_and_wait(1),
            Some(timeout) => {
                let time = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match result {
            Ok(_) => {}
            // The caller looks at the clock and at everything else anyway.
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {}
            Err(error) => self.after_refused_enter(&error),
        }
    }

    /// An enter that took nothing: a signal, or the kernel wants completions reaped first.
    fn after_refused_enter(&mut self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EBUSY | libc::EAGAIN | libc::ENOMEM) => {
                let before = self.stash.len();
                let Self { uring, stash, .. } = self;
                stash.extend(uring.completion().map(|cqe| done(&cqe)));
                if stash.len() == before {
                    // Nothing to reap: the kernel is short of memory for a moment.
                    std::thread::yield_now();
                }
            }
            _ => panic!("io_uring_enter failed, the core cannot go on: {error}"),
        }
    }

    /// Takes out the next completion.
    pub fn next_done(&mut self) -> Option<RingDone> {
        if let Some(done) = self.stash.pop_front() {
            return Some(done);
        }
        self.uring.completion().next().map(|cqe| done(&cqe))
    }

    /// Calls `f` with each completion that is there.
    pub fn reap(&mut self, mut f: impl FnMut(UserData, i32, u32)) {
        for done in self.stash.drain(..) {
            f(done.data, done.res, done.flags);
        }
        for cqe in self.uring.completion() {
            let done = done(&cqe);
            f(done.data, done.res, done.flags);
        }
    }

    /// Moves up to `max` completions that are there to `into`.
    pub fn reap_into(&mut self, into: &mut Vec<RingDone>, max: usize) {
        let stashed = self.stash.len().min(max);
        into.extend(self.stash.drain(..stashed));
        into.extend(self.uring.completion().take(max - stashed).map(|cqe| done(&cqe)));
    }

    /// Entries pushed since start.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// The kernel's ring, for operations that need more than entries (provided buffers).
    pub fn submitter(&self) -> io_uring::Submitter<'_> {
        self.uring.submitter()
    }
}

fn done(cqe: &io_uring::cqueue::Entry) -> RingDone {
    RingDone { data: UserData::unpack(cqe.user_data()), res: cqe.result(), flags: cqe.flags() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(op: u32) -> UserData {
        UserData { kind: 0xab, extra: 0xcd, object: 0x1234, op }
    }

    fn nop(ring: &mut Ring, op: u32) {
        // SAFETY: a no-op points to nothing.
        unsafe { ring.push(io_uring::opcode::Nop::new().build(), data(op)) };
    }

    #[test]
    fn user_data_survives_packing() {
        let all = data(0xdead_beef);
        assert_eq!(all.pack(), 0xabcd_1234_dead_beef);
        assert_eq!(UserData::unpack(all.pack()), all);
    }

    #[test]
    fn pushing_far_more_than_the_queues_hold_loses_nothing() {
        for flags in flag_sets(8) {
            // A kernel that lacks a set is what the other sets are for.
            let Ok(uring) = flags.build(8) else { continue };
            overfill(Ring::from_kernel(uring).unwrap());
        }
    }

    fn overfill(mut ring: Ring) {
        for op in 0..1000 {
            nop(&mut ring, op);
        }
        let mut seen = vec![false; 1000];
        while seen.contains(&false) {
            ring.submit_and_wait(Some(Duration::from_secs(5)));
            let mut count = 0;
            ring.reap(|data, res, _| {
                assert_eq!(res, 0);
                assert!(!std::mem::replace(&mut seen[data.op as usize], true), "twice");
                count += 1;
            });
            assert!(count > 0, "completions were lost");
        }
        assert_eq!(ring.pushed(), 1000);
    }

    #[test]
    fn a_submit_says_whether_it_had_something_for_the_kernel() {
        let mut ring = Ring::new(8).unwrap();
        assert!(!ring.submit());
        nop(&mut ring, 1);
        assert!(ring.submit());
        assert!(!ring.submit(), "nothing is left");
        assert!(ring.next_done().is_some());
    }

    #[test]
    fn waiting_ends_at_the_timeout() {
        let mut ring = Ring::new(8).unwrap();
        ring.submit_and_wait(Some(Duration::from_millis(1)));
        assert_eq!(ring.next_done(), None);
    }

    #[test]
    fn fixed_index_covers_whole_ranges_only() {
        let mut ring = Ring::new(8).unwrap();
        let pool = BufPool::on_heap([4, 0, 0, 0]);
        ring.register_arena(&pool).unwrap();
        let (base, len) = pool.region();
        let base = base.as_ptr();
        assert_eq!(ring.fixed_index(base, len), Some(0));
        assert_eq!(ring.fixed_index(base, len + 1), None);
        assert_eq!(ring.fixed_index(base.wrapping_sub(1), 2), None);
    }
}

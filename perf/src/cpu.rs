//! Threads and their CPUs.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::job::PerfError;

/// Pins the calling thread.
pub(crate) fn pin(cpu: usize) -> Result<(), PerfError> {
    let refused = |why: &dyn std::fmt::Display| {
        PerfError(format!("the load could not be pinned to CPU {cpu}: {why}"))
    };
    if cpu >= CpuSet::MAX_CPU {
        return Err(refused(&"there is no such CPU"));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|error| refused(&error))
}

/// The CPUs this process may use, ascending.
pub(crate) fn usable() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return vec![0] };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// CPU time of the calling thread.
pub(crate) fn thread_time_ns() -> u64 {
    time_ns(ClockId::ThreadCPUTime)
}

/// CPU time of all threads of this program, those among them that the kernel makes for its
/// io_urings.
pub(crate) fn process_time_ns() -> u64 {
    time_ns(ClockId::ProcessCPUTime)
}

fn time_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_exists_is_taken_and_another_refused() {
        let usable = usable();
        let cpu = usable[0];
        std::thread::spawn(move || pin(cpu).unwrap()).join().unwrap();
        assert!(pin(CpuSet::MAX_CPU).unwrap_err().to_string().contains("no such CPU"));
    }
}

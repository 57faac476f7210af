//! Which CPUs this process may use.

use rustix::thread::{CpuSet, sched_getaffinity};

/// CPU numbers in the process's affinity mask, ascending.
#[must_use]
pub fn usable() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return vec![0] };
    (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}

/// The cores of `cores = "auto"`: the last usable one, which the least interrupts and the fewest
/// other programs use by custom.
#[must_use]
pub fn auto() -> Vec<usize> {
    usable().last().map_or_else(|| vec![0], |&core| vec![core])
}

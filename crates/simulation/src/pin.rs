//! Pins a run to a core.

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Lets this process run on one core: core `index` of those that it may use, modulo their number, or the current one. One
/// thread of a run is active at a time; on two cores each switch would wait for the other core, and a run takes twice as
/// long. Does nothing if the system does not allow it.
pub fn pin_to_core(index: Option<usize>) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    let core = match index {
        Some(index) => cores.get(index % cores.len().max(1)).copied(),
        None => Some(sched_getcpu()),
    };
    let Some(core) = core else { return };
    let mut one = CpuSet::new();
    one.set(core);
    // A run on all cores is slower, and otherwise the same.
    let _ = sched_setaffinity(None, &one);
}

//! Pins lanes to cores.

/// Pins the calling thread, lane `index` of `lanes`, to its own core, so that the data of its sessions stays
/// in the caches of that core. Does nothing if there are fewer cores than lanes or the system does not allow
/// it.
#[cfg(target_os = "linux")]
pub(crate) fn pin(index: usize, lanes: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let Ok(allowed) = sched_getaffinity(None) else { return };
    if (allowed.count() as usize) < lanes {
        return;
    }
    let core = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).nth(index);
    let Some(core) = core else { return };
    let mut core_set = CpuSet::new();
    core_set.set(core);
    if let Err(error) = sched_setaffinity(None, &core_set) {
        tracing::debug!(%error, core, "cannot pin the lane to a core");
    }
}

/// Does nothing: other systems have no such call.
#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_: usize, _: usize) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::thread::sched_getaffinity;

    use super::*;

    #[test]
    fn pin_gives_each_lane_its_own_core_and_does_nothing_with_more_lanes_than_cores() {
        let cores = || sched_getaffinity(None).unwrap().count();
        let all = cores();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pin(0, 1 + all as usize);
                assert_eq!(cores(), all);
                pin(0, all as usize);
                assert_eq!(cores(), 1);
            });
        });
        assert_eq!(cores(), all, "only the calling thread is pinned");
    }
}

//! The clock that measures leases.
//!
//! The monotonic clock stops while the machine is suspended, so a leader could trust a lease that has expired
//! for all other nodes. Linux has a clock that includes suspension (`CLOCK_BOOTTIME`). It also stops when a
//! hypervisor pauses the machine without notice.

use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time since the machine was booted, including suspension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootTime(Duration);

#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
/// Excludes suspension: no portable clock includes it.
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

impl BootTime {
    pub(crate) fn now() -> BootTime {
        let now = clock_gettime(CLOCK);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        BootTime(Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default()))
    }

    pub(crate) fn checked_sub(self, before: Duration) -> Option<BootTime> {
        self.0.checked_sub(before).map(BootTime)
    }

    /// Waits for this moment. May return late, because a timer excludes suspension.
    pub(crate) async fn reached(self) {
        while let Some(left) = self.0.checked_sub(BootTime::now().0).filter(|left| !left.is_zero())
        {
            tokio::time::sleep(left).await;
        }
    }
}

impl Add<Duration> for BootTime {
    type Output = BootTime;

    fn add(self, after: Duration) -> BootTime {
        BootTime(self.0.saturating_add(after))
    }
}

impl Sub for BootTime {
    type Output = Duration;

    fn sub(self, earlier: BootTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reached_does_not_return_early() {
        let then = BootTime::now() + Duration::from_millis(5);
        then.reached().await;
        assert!(BootTime::now() >= then);
        assert!(then.checked_sub(Duration::from_millis(5)).is_some_and(|before| before < then));
    }

    /// A clock that includes suspension is never behind the monotonic clock of the kernel.
    #[cfg(target_os = "linux")]
    #[test]
    fn boot_time_includes_suspension() {
        let monotonic = clock_gettime(ClockId::Monotonic);
        let monotonic = Duration::new(monotonic.tv_sec as u64, monotonic.tv_nsec as u32);
        assert!(BootTime::now().0 >= monotonic);
        assert_eq!(CLOCK, ClockId::Boottime);
    }
}

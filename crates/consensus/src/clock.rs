//! The clock that leases are judged by.
//!
//! The monotonic clock stands still while the machine is suspended. A leader that was suspended
//! would trust a lease that has ended for everybody else. Linux has a clock that counts that time
//! (`CLOCK_BOOTTIME`). A hypervisor that stops a machine without telling it stops this clock too.

use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment: the time since the machine was booted, suspensions included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootTime(Duration);

#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
/// Counts no suspension: there is none that does everywhere.
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

    /// Waits for this moment. A timer does not count suspensions, so it may end late.
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

    /// The kernel has two clocks: one that counts suspensions is at least as far as the other.
    #[cfg(target_os = "linux")]
    #[test]
    fn boot_time_includes_suspension() {
        let monotonic = clock_gettime(ClockId::Monotonic);
        let monotonic = Duration::new(monotonic.tv_sec as u64, monotonic.tv_nsec as u32);
        assert!(BootTime::now().0 >= monotonic);
        assert_eq!(CLOCK, ClockId::Boottime);
    }
}

//! The clocks of a host.

use std::time::Duration;

use super::WorldTime;

/// What a clock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockKind {
    /// The date. Can be set.
    Realtime,
    /// The time since the host was started, without suspension.
    Monotonic,
    /// The time since the host was started, with suspension.
    Boottime,
}

/// The date at which a simulation starts: 1 November 2026.
const START_DATE: Duration = Duration::from_secs(1_793_491_200);

/// What the monotonic clock shows at the start. A clock at zero would hide defects of subtractions.
const START_UPTIME: u64 = 1_000_000_000_000;

/// The clocks of one host, as they differ from the time of the world.
#[derive(Clone, Debug)]
pub(super) struct HostClock {
    /// The time of the world at which the rate or a suspension changed last, and the monotonic time then.
    set_at: WorldTime,
    monotonic: u64,
    /// How much faster than the world the clock is, in parts per million.
    drift_ppm: i64,
    /// Total time of suspension.
    suspended: u64,
    suspended_since: Option<WorldTime>,
    /// The offset of the date, in nanoseconds.
    date_offset: i64,
}

impl HostClock {
    pub(super) fn new(now: WorldTime) -> HostClock {
        HostClock {
            set_at: now,
            monotonic: START_UPTIME,
            drift_ppm: 0,
            suspended: 0,
            suspended_since: None,
            date_offset: i64::try_from(now).unwrap_or_default(),
        }
    }

    pub(super) fn read(&self, kind: ClockKind, now: WorldTime) -> Duration {
        let monotonic = self.monotonic(now);
        let asleep = self.suspended_since.map_or(0, |since| now - since);
        let boottime = monotonic + self.suspended + asleep;
        match kind {
            ClockKind::Monotonic => Duration::from_nanos(monotonic),
            ClockKind::Boottime => Duration::from_nanos(boottime),
            ClockKind::Realtime => {
                let date = START_DATE + Duration::from_nanos(boottime - START_UPTIME);
                let offset = Duration::from_nanos(self.date_offset.unsigned_abs());
                if self.date_offset < 0 { date - offset } else { date + offset }
            }
        }
    }

    pub(super) fn monotonic(&self, now: WorldTime) -> u64 {
        if self.suspended_since.is_some() {
            return self.monotonic;
        }
        let elapsed = now - self.set_at;
        let drift = elapsed as i128 * i128::from(self.drift_ppm) / 1_000_000;
        (self.monotonic as i128 + elapsed as i128 + drift) as u64
    }

    /// The time of the world at which the monotonic clock shows `deadline`, as it runs now. Never early.
    pub(super) fn world_time_of(&self, deadline: u64, now: WorldTime) -> WorldTime {
        let left = deadline.saturating_sub(self.monotonic(now));
        let rate = 1_000_000 + i128::from(self.drift_ppm);
        now + ((left as i128 * 1_000_000 + rate - 1) / rate) as u64
    }

    /// Changes the rate.
    pub(super) fn set_drift(&mut self, drift_ppm: i64, now: WorldTime) {
        self.monotonic = self.monotonic(now);
        self.set_at = now;
        self.drift_ppm = drift_ppm;
    }

    /// Moves the date.
    pub(super) fn step_date(&mut self, by: i64) {
        self.date_offset += by;
    }

    pub(super) fn suspend(&mut self, now: WorldTime) {
        self.set_drift(self.drift_ppm, now);
        self.suspended_since = Some(now);
    }

    pub(super) fn resume(&mut self, now: WorldTime) {
        if let Some(since) = self.suspended_since.take() {
            self.suspended += now - since;
            self.set_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn date(clock: &HostClock, now: WorldTime) -> i64 {
        let shown = clock.read(ClockKind::Realtime, now).as_secs() as i64;
        shown - START_DATE.as_secs() as i64
    }

    #[test]
    fn date_that_was_set_before_the_start_goes_on() {
        let mut clock = HostClock::new(0);
        clock.step_date(-7_200 * SECOND as i64);
        assert_eq!(date(&clock, 10 * SECOND), 10 - 7_200);
        assert_eq!(date(&clock, 11 * SECOND), 11 - 7_200);
        clock.step_date(2 * 7_200 * SECOND as i64);
        assert_eq!(date(&clock, 11 * SECOND), 11 + 7_200);
    }

    #[test]
    fn monotonic_clock_excludes_suspension_and_boot_time_includes_it() {
        let mut clock = HostClock::new(0);
        let read = |clock: &HostClock, kind| clock.read(kind, 30 * SECOND).as_nanos() as u64;
        clock.suspend(10 * SECOND);
        assert_eq!(read(&clock, ClockKind::Monotonic), START_UPTIME + 10 * SECOND);
        assert_eq!(read(&clock, ClockKind::Boottime), START_UPTIME + 30 * SECOND);
        clock.resume(25 * SECOND);
        assert_eq!(read(&clock, ClockKind::Monotonic), START_UPTIME + 15 * SECOND);
        assert_eq!(read(&clock, ClockKind::Boottime), START_UPTIME + 30 * SECOND);
    }

    #[test]
    fn deadline_of_a_drifting_clock_is_never_early() {
        for drift_ppm in [-500, -1, 0, 1, 500] {
            let mut clock = HostClock::new(0);
            clock.set_drift(drift_ppm, 3 * SECOND);
            let deadline = clock.monotonic(3 * SECOND) + 7 * SECOND + 1;
            let at = clock.world_time_of(deadline, 3 * SECOND);
            assert!(clock.monotonic(at) >= deadline, "{drift_ppm}");
            assert!(clock.monotonic(at - 2) < deadline, "{drift_ppm}");
        }
    }
}

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

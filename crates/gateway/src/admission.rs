//! Whether the lanes admit new sessions. Readiness and a gauge report it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use pushonce_telemetry::Gauge;

use crate::metrics::{self, Shortage};
use crate::pressure::Pressure;

/// How long a shortage of connections or descriptors counts after it was last seen. On a full node sessions
/// begin and end all the time, and readiness must not change with each of them.
const SHORTAGE_HOLD: Duration = Duration::from_secs(5);

/// The shortages of all lanes because of which they reject new sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admission(Arc<[LaneShortages]>);

/// The shortages of one lane: one bit for each [`Shortage`].
#[derive(Debug, Default)]
struct LaneShortages(AtomicU8);

/// The handle with which one lane updates its state in [`Admission`].
pub(crate) struct LaneAdmission {
    admission: Admission,
    lane: usize,
    pressure: Gauge,
}

/// When a lane was last short of connections and descriptors.
#[derive(Debug, Default)]
pub(crate) struct RecentShortages([Cell<Option<Instant>>; Shortage::ALL.len()]);

impl LaneShortages {
    fn has(&self, shortage: Shortage) -> bool {
        self.0.load(Ordering::Relaxed) & bit(shortage) != 0
    }
}

fn bit(shortage: Shortage) -> u8 {
    1 << shortage as u8
}

impl Admission {
    pub(crate) fn new(lanes: usize) -> Admission {
        Admission((0..lanes).map(|_| LaneShortages::default()).collect())
    }

    /// Number of lanes that reject new sessions, for any reason.
    pub fn rejecting_lanes(&self) -> usize {
        self.0.iter().filter(|lane| lane.0.load(Ordering::Relaxed) != 0).count()
    }

    /// Why lanes reject new sessions, and what to change: one text for each shortage.
    pub fn reasons(&self) -> Vec<&'static str> {
        let is_short = |shortage: &Shortage| self.0.iter().any(|lane| lane.has(*shortage));
        Shortage::ALL.into_iter().filter(is_short).map(Shortage::text).collect()
    }

    /// Number of lanes that reject new sessions because of the memory of the process or their own backlog.
    pub fn overloaded_lanes(&self) -> usize {
        self.0.iter().filter(|lane| lane.has(Shortage::Load)).count()
    }

    /// Whether a subscriber that belongs to no lane, for example over gRPC, may start; counts a rejection. It
    /// is rejected only while every lane is overloaded: then the memory of the process or the whole machine
    /// is at its limit.
    pub fn admit_subscriber(&self) -> bool {
        let admitted = self.overloaded_lanes() < self.lane_count();
        if !admitted {
            metrics::SESSIONS_REJECTED.register_counter(&["grpc"]).increment(1);
        }
        admitted
    }

    /// Number of lanes.
    pub fn lane_count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn for_lane(&self, lane: usize) -> LaneAdmission {
        let pressure = metrics::PRESSURE.register_gauge(&[&lane.to_string()]);
        pressure.set(0);
        LaneAdmission { admission: self.clone(), lane, pressure }
    }
}

impl LaneAdmission {
    /// Publishes the pressure level and the recent shortages of the lane.
    pub(crate) fn update(&self, pressure: Pressure, recent: &RecentShortages, now: Instant) {
        let mut bits = recent.active_bits(now);
        if pressure >= Pressure::Reject {
            bits |= bit(Shortage::Load);
        }
        let level = if bits == 0 { pressure } else { pressure.max(Pressure::Reject) };
        // 0: normal, 1: fewer messages under `latest`, 2: no new sessions, 3: sessions are closed.
        self.pressure.set(level as u8);
        if let Some(lane) = self.admission.0.get(self.lane) {
            lane.0.store(bits, Ordering::Relaxed);
        }
    }
}

impl RecentShortages {
    /// Records that the lane has this shortage now.
    pub(crate) fn record(&self, shortage: Shortage, now: Instant) {
        self.0[shortage as usize].set(Some(now));
    }

    /// The bits of the shortages that still count, without [`Shortage::Load`]: the load has its own
    /// hysteresis.
    fn active_bits(&self, now: Instant) -> u8 {
        let is_active = |shortage: &Shortage| {
            let last_seen = self.0[*shortage as usize].get();
            last_seen.is_some_and(|at| now.saturating_duration_since(at) < SHORTAGE_HOLD)
        };
        let shortages = [Shortage::Connections, Shortage::Descriptors].into_iter();
        shortages.filter(is_active).map(bit).sum()
    }
}

#[cfg(test)]
mod tests {
    use Pressure::{Normal, Reject, Shed, Throttle};

    use super::*;

    #[test]
    fn lane_rejects_new_sessions_from_pressure_level_reject() {
        let admission = Admission::new(2);
        let lane = admission.for_lane(1);
        let (recent, now) = (RecentShortages::default(), Instant::now());
        let mut rejecting = |pressure| {
            lane.update(pressure, &recent, now);
            admission.rejecting_lanes()
        };
        assert_eq!([Normal, Throttle, Reject, Shed, Throttle].map(&mut rejecting), [0, 0, 1, 1, 0]);
        assert_eq!(admission.lane_count(), 2);
    }

    #[test]
    fn subscriber_without_a_lane_is_rejected_only_when_every_lane_is_overloaded() {
        let admission = Admission::new(2);
        let (recent, now) = (RecentShortages::default(), Instant::now());
        let overloaded = [0, 1].map(|lane| {
            admission.for_lane(lane).update(Reject, &recent, now);
            (admission.overloaded_lanes() == admission.lane_count(), !admission.admit_subscriber())
        });
        assert_eq!(overloaded, [(false, false), (true, true)]);
    }

    #[test]
    fn shortage_of_connections_or_descriptors_is_reported_until_its_hold_time_ends() {
        for (shortage, expected) in
            [(Shortage::Connections, "connections"), (Shortage::Descriptors, "open files")]
        {
            let admission = Admission::new(1);
            let lane = admission.for_lane(0);
            let (recent, start) = (RecentShortages::default(), Instant::now());
            let rejecting = |after: Duration| {
                lane.update(Normal, &recent, start + after);
                (admission.rejecting_lanes(), admission.reasons().concat())
            };
            assert_eq!(rejecting(Duration::ZERO), (0, String::new()));
            recent.record(shortage, start);
            let (lanes, reasons) = rejecting(SHORTAGE_HOLD - Duration::from_millis(1));
            assert!(lanes == 1 && reasons.contains(expected), "{lanes}: {reasons}");
            assert!(admission.overloaded_lanes() == 0, "a full node must not count as overloaded");
            recent.record(shortage, start + SHORTAGE_HOLD / 2);
            assert_eq!(rejecting(SHORTAGE_HOLD).0, 1);
            assert_eq!(rejecting(SHORTAGE_HOLD * 2), (0, String::new()));
        }
    }
}

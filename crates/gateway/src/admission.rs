//! Whether the lanes admit new sessions, for readiness and for a gauge.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use metrics::{Gauge, counter, gauge};

use crate::metrics::Shortage;
use crate::pressure::Pressure;

/// A shortage of connections or descriptors counts for so long after it was last seen. At a full node
/// sessions come and go, and readiness must not change with each of them.
const SEEN_FOR: Duration = Duration::from_secs(5);

/// What every lane does about its load, and what it is short of. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admission(Arc<[LaneShortages]>);

/// What a lane is short of: one bit for each [`Shortage`].
#[derive(Debug, Default)]
struct LaneShortages(AtomicU8);

/// The end of one lane.
pub(crate) struct LaneAdmission {
    admission: Admission,
    lane: usize,
    pressure: Gauge,
}

/// When a lane was last short of connections and descriptors.
#[derive(Debug, Default)]
pub(crate) struct ShortagesSeen([Cell<Option<Instant>>; Shortage::ALL.len()]);

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

    /// How many lanes reject new sessions, for whatever reason.
    pub fn rejecting(&self) -> usize {
        self.0.iter().filter(|lane| lane.0.load(Ordering::Relaxed) != 0).count()
    }

    /// Why they do, and what to change: a sentence for each thing that is short.
    pub fn reasons(&self) -> Vec<&'static str> {
        let is_short = |shortage: &Shortage| self.0.iter().any(|lane| lane.has(*shortage));
        Shortage::ALL.into_iter().filter(is_short).map(Shortage::text).collect()
    }

    /// How many reject them for the memory of the process or their own backlog.
    pub fn overloaded(&self) -> usize {
        self.0.iter().filter(|lane| lane.has(Shortage::Load)).count()
    }

    /// Whether a subscriber that belongs to no lane may begin, as over gRPC: not while every lane is
    /// overloaded, for then it is the memory of the process, or the whole machine.
    ///
    /// # Errors
    /// What is short, and what to change.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.overloaded() < self.lanes() {
            return Ok(());
        }
        counter!("pushonce_gateway_sessions_refused_total", "transport" => "grpc").increment(1);
        Err(Shortage::Load.text())
    }

    /// How many lanes there are.
    pub fn lanes(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn lane(&self, lane: usize) -> LaneAdmission {
        let pressure = gauge!("pushonce_gateway_pressure", "lane" => lane.to_string());
        pressure.set(0);
        LaneAdmission { admission: self.clone(), lane, pressure }
    }
}

impl LaneAdmission {
    /// The lane does this about its load from now on, and has seen these shortages.
    pub(crate) fn set(&self, pressure: Pressure, seen: &ShortagesSeen, now: Instant) {
        let mut short = seen.lasting(now);
        if pressure >= Pressure::Close {
            short |= bit(Shortage::Load);
        }
        let measure = if short == 0 { pressure } else { pressure.max(Pressure::Close) };
        // 0: nothing, 1: fewer messages under `latest`, 2: no new sessions, 3: sessions are closed.
        self.pressure.set(measure as u8);
        if let Some(lane) = self.admission.0.get(self.lane) {
            lane.0.store(short, Ordering::Relaxed);
        }
    }
}

impl ShortagesSeen {
    /// The lane is short of this now.
    pub(crate) fn see(&self, shortage: Shortage, now: Instant) {
        self.0[shortage as usize].set(Some(now));
    }

    /// Those that still count. [`Shortage::Load`] is left out: its measure has a slack of its own.
    fn lasting(&self, now: Instant) -> u8 {
        let lasts = |shortage: &Shortage| {
            let seen = self.0[*shortage as usize].get();
            seen.is_some_and(|at| now.saturating_duration_since(at) < SEEN_FOR)
        };
        let shortages = [Shortage::Connections, Shortage::Descriptors].into_iter();
        shortages.filter(lasts).map(bit).sum()
    }
}

#[cfg(test)]
mod tests {
    use Pressure::{Close, Easy, Shed, Widen};

    use super::*;

    #[test]
    fn lane_rejects_new_sessions_from_the_measure_that_says_so() {
        let admission = Admission::new(2);
        let lane = admission.lane(1);
        let (seen, now) = (ShortagesSeen::default(), Instant::now());
        let mut rejecting = |pressure| {
            lane.set(pressure, &seen, now);
            admission.rejecting()
        };
        assert_eq!([Easy, Widen, Close, Shed, Widen].map(&mut rejecting), [0, 0, 1, 1, 0]);
        assert_eq!(admission.lanes(), 2);
    }

    #[test]
    fn node_is_overloaded_and_refuses_other_subscribers_when_every_lane_is() {
        let admission = Admission::new(2);
        let (seen, now) = (ShortagesSeen::default(), Instant::now());
        let overloaded = [0, 1].map(|lane| {
            admission.lane(lane).set(Close, &seen, now);
            (admission.overloaded() == admission.lanes(), admission.check().is_err())
        });
        assert_eq!(overloaded, [(false, false), (true, true)]);
    }

    #[test]
    fn shortage_of_connections_or_descriptors_is_told_until_it_was_not_seen_for_a_while() {
        for (shortage, says) in
            [(Shortage::Connections, "connections"), (Shortage::Descriptors, "open files")]
        {
            let admission = Admission::new(1);
            let lane = admission.lane(0);
            let (seen, start) = (ShortagesSeen::default(), Instant::now());
            let rejecting = |after: Duration| {
                lane.set(Easy, &seen, start + after);
                (admission.rejecting(), admission.reasons().concat())
            };
            assert_eq!(rejecting(Duration::ZERO), (0, String::new()));
            seen.see(shortage, start);
            let (lanes, why) = rejecting(SEEN_FOR - Duration::from_millis(1));
            assert!(lanes == 1 && why.contains(says), "{lanes}: {why}");
            assert!(admission.overloaded() == 0, "sessions that are open are served as before");
            seen.see(shortage, start + SEEN_FOR / 2);
            assert_eq!(rejecting(SEEN_FOR).0, 1);
            assert_eq!(rejecting(SEEN_FOR * 2), (0, String::new()));
        }
    }
}

//! Whether the lanes admit new sessions, for readiness and for a gauge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::{Gauge, gauge};

use crate::pressure::Pressure;

/// What every lane does about its load. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admission(Arc<[AtomicBool]>);

/// The end of one lane.
pub(crate) struct LaneAdmission {
    admission: Admission,
    lane: usize,
    pressure: Gauge,
}

impl Admission {
    pub(crate) fn new(lanes: usize) -> Admission {
        Admission((0..lanes).map(|_| AtomicBool::new(true)).collect())
    }

    /// How many lanes reject new sessions, because memory or the backlog of the lane is near its
    /// bound.
    pub fn rejecting(&self) -> usize {
        self.0.iter().filter(|admits| !admits.load(Ordering::Relaxed)).count()
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
    /// The lane does this about its load from now on.
    pub(crate) fn set(&self, pressure: Pressure) {
        // 0: nothing, 1: fewer messages under `latest`, 2: no new sessions, 3: sessions are closed.
        self.pressure.set(pressure as u8);
        if let Some(admits) = self.admission.0.get(self.lane) {
            admits.store(pressure < Pressure::Close, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lane_rejects_new_sessions_from_the_measure_that_says_so() {
        let admission = Admission::new(2);
        let lane = admission.lane(1);
        let mut rejecting = |pressure| {
            lane.set(pressure);
            admission.rejecting()
        };
        use Pressure::{Close, Easy, Shed, Widen};
        assert_eq!([Easy, Widen, Close, Shed, Widen].map(&mut rejecting), [0, 0, 1, 1, 0]);
        assert_eq!(admission.lanes(), 2);
    }
}

//! The load during a fault.

use std::collections::HashSet;

use crate::history::{HistoryEvent, HistoryRecord, RunPhase};

/// The publishes during the fault, compared with those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadStats {
    /// The number of times the fault was active.
    pub rounds: usize,
    /// The total time it was active, in seconds.
    pub seconds: f64,
    /// Publishes that began while it was active, without retries.
    pub invoked: usize,
    /// Acknowledged publishes of the whole run.
    pub acknowledged: usize,
    /// Messages delivered to subscribers in the whole run.
    pub delivered: usize,
    /// The rate of new publishes while the fault was active, divided by the rate before it.
    pub rate_ratio: f64,
}

impl LoadStats {
    /// Computes the statistics of a history.
    pub fn from_records(records: &[HistoryRecord]) -> LoadStats {
        let mut stats = LoadStats::default();
        let (mut invoked_before, mut warm_up) = (0, None);
        let (mut active_since, mut first_fault) = (None, None);
        let mut invoked = HashSet::new();
        for HistoryRecord { time_us: at, event, .. } in records {
            match event {
                HistoryEvent::Phase { phase: RunPhase::WarmUp } => warm_up = Some(*at),
                HistoryEvent::Phase { phase: RunPhase::Faults } => first_fault = Some(*at),
                HistoryEvent::FaultActive { .. } => {
                    stats.rounds += 1;
                    active_since = Some(*at);
                }
                HistoryEvent::FaultHealed { .. } => {
                    if let Some(started) = active_since.take() {
                        stats.seconds += (at - started) as f64 / 1e6;
                    }
                }
                HistoryEvent::Publish { payload, .. } if invoked.insert(*payload) => {
                    stats.invoked += usize::from(active_since.is_some());
                    invoked_before += usize::from(warm_up.is_some() && first_fault.is_none());
                }
                HistoryEvent::Acknowledged { .. } => stats.acknowledged += 1,
                HistoryEvent::Delivered { .. } => stats.delivered += 1,
                _ => {}
            }
        }
        let usual_rate = match (warm_up, first_fault) {
            (Some(from), Some(to)) => invoked_before as f64 / ((to - from) as f64 / 1e6),
            _ => 0.0,
        };
        if usual_rate > 0.0 && stats.seconds > 0.0 {
            stats.rate_ratio = stats.invoked as f64 / stats.seconds / usual_rate;
        }
        stats
    }
}

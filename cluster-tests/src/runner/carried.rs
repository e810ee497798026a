//! The load that a fault really met.

use std::collections::HashSet;

use crate::history::{Event, Phase, Record};

/// How much was published while the fault was there, beside how much before it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Carried {
    /// How often the fault was there.
    pub rounds: usize,
    /// For how long altogether, in seconds.
    pub seconds: f64,
    /// Publishes that were begun meanwhile. A retry is none.
    pub attempted: usize,
    /// Of all publishes of the run: how many were acknowledged.
    pub acknowledged: usize,
    /// Messages that came to subscribers, in the whole run.
    pub delivered: usize,
    /// Begun a second while the fault was there, of those begun a second before it.
    pub share: f64,
}

impl Carried {
    /// Counts.
    pub fn of(records: &[Record]) -> Carried {
        let mut carried = Carried::default();
        let (mut before, mut warm_up) = (0, None);
        let (mut since, mut first_fault) = (None, None);
        let mut begun = HashSet::new();
        for Record { at, event, .. } in records {
            match event {
                Event::Phase { phase: Phase::WarmUp } => warm_up = Some(*at),
                Event::Phase { phase: Phase::Faults } => first_fault = Some(*at),
                Event::FaultConfirmed { .. } => {
                    carried.rounds += 1;
                    since = Some(*at);
                }
                Event::FaultEnds { .. } => {
                    if let Some(since) = since.take() {
                        carried.seconds += (at - since) as f64 / 1e6;
                    }
                }
                Event::Publish { payload, .. } if begun.insert(*payload) => {
                    carried.attempted += usize::from(since.is_some());
                    before += usize::from(warm_up.is_some() && first_fault.is_none());
                }
                Event::Placed { .. } => carried.acknowledged += 1,
                Event::Delivered { .. } => carried.delivered += 1,
                _ => {}
            }
        }
        let usual = match (warm_up, first_fault) {
            (Some(from), Some(to)) => before as f64 / ((to - from) as f64 / 1e6),
            _ => 0.0,
        };
        if usual > 0.0 && carried.seconds > 0.0 {
            carried.share = carried.attempted as f64 / carried.seconds / usual;
        }
        carried
    }
}

//! The verdict on a run: what the checker of the fault matrix says, and whether the cluster recovered.

use pushonce_cluster_tests::checker::{CheckEvidence, check_all};
use pushonce_cluster_tests::history::HistoryEvent;
use serde::{Deserialize, Serialize};

use crate::run::{GUARANTEES, RunRecord};

/// The name of the invariant that a cluster which does not recover violates.
pub const RECOVERY: &str = "recovery";

/// What a run has shown. One line of JSON on the standard output of its process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// The violated invariants, each with the first violation in words.
    pub violations: Vec<(String, String)>,
    /// The invariants for which there was evidence.
    pub checked: Vec<String>,
    /// The kinds of actions that took place.
    pub actions: Vec<String>,
    /// The coverage marks that were reached.
    pub marks: Vec<String>,
    /// A hash of everything that happened.
    pub trace: u64,
    /// Acknowledged publishes, and messages that subscribers received.
    pub acknowledged: usize,
    /// Messages that subscribers received.
    pub delivered: usize,
    /// The simulated time in milliseconds.
    pub simulated_ms: u64,
    /// The time that the run took, in milliseconds.
    pub elapsed_ms: u64,
}

impl Verdict {
    /// Judges a run.
    pub fn of(seed: u64, record: &RunRecord) -> Verdict {
        let mut verdict = Verdict { seed, trace: record.trace, ..Verdict::default() };
        verdict.simulated_ms = u64::try_from(record.simulated.as_millis()).unwrap_or(u64::MAX);
        if let Some(reason) = &record.stuck {
            verdict.violations.push((RECOVERY.to_owned(), reason.clone()));
        }
        for (invariant, result) in check_all(&record.history, &GUARANTEES) {
            match result {
                Ok(CheckEvidence::Checked(_)) => verdict.checked.push(invariant.id.to_owned()),
                Ok(CheckEvidence::Inconclusive(_)) => {}
                Err(violation) => {
                    verdict
                        .violations
                        .push((invariant.id.to_owned(), violation.report(&record.history)));
                }
            }
        }
        for event in record.history.iter().map(|record| &record.event) {
            match event {
                HistoryEvent::Acknowledged { .. } => verdict.acknowledged += 1,
                HistoryEvent::Delivered { .. } => verdict.delivered += 1,
                _ => {}
            }
        }
        verdict
    }

    /// Whether no invariant is violated.
    pub fn is_pass(&self) -> bool {
        self.violations.is_empty()
    }

    /// The names of the violated invariants.
    pub fn violated(&self) -> Vec<&str> {
        self.violations.iter().map(|(id, _)| &**id).collect()
    }
}

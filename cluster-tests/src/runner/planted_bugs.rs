//! The proof, proved: with each planted bug switched on, its row must fail by its property.
//!
//! Needs a binary that was built with the feature `planted-bugs`; without it every row passes, and
//! so every bug counts as missed.

use super::{Options, RunReport};
use crate::checker::Guarantees;
use crate::wait::secs;

/// A bug, and where it shows.
#[derive(Clone, Copy, Debug)]
pub struct PlantedBug {
    /// What the binary calls it.
    pub name: &'static str,
    /// The row in which it must be caught.
    pub scenario: &'static str,
    /// The properties of which at least one must be broken.
    pub violates: &'static [&'static str],
}

/// Every planted bug.
pub const PLANTED_BUGS: &[PlantedBug] = &[
    PlantedBug { name: "acknowledge-before-fsync", scenario: "kill-all", violates: &["I1", "I4"] },
    PlantedBug { name: "no-epoch-check", scenario: "no-fault", violates: &["I12"] },
    PlantedBug { name: "off-by-one-resume", scenario: "no-fault", violates: &["I12"] },
    PlantedBug { name: "gap-not-signalled", scenario: "no-fault", violates: &["I12"] },
    PlantedBug { name: "dedupe-not-replicated", scenario: "kill-owner", violates: &["I7", "I8"] },
    PlantedBug {
        name: "old-settings-win",
        scenario: "history-raised-and-restarted",
        violates: &["I1", "I4"],
    },
    PlantedBug { name: "owners-wall-clock", scenario: "clocks-ahead", violates: &["I1", "I4"] },
    PlantedBug {
        name: "serve-creates-cluster",
        scenario: "wiped-founder",
        violates: &["I1", "I3", "I4", "I8", "I9", "I12"],
    },
];

impl PlantedBug {
    /// What a report of a run with the bug says: caught by these properties, or missed.
    pub fn check(&self, report: &RunReport) -> Result<Vec<&'static str>, String> {
        let violated = report.results.iter().filter(|(_, judgement)| judgement.is_err());
        let violated: Vec<_> = violated.map(|(property, _)| property.id).collect();
        if violated.iter().any(|id| self.violates.contains(id)) {
            Ok(violated)
        } else {
            let PlantedBug { name: bug, scenario: row, violates: breaks } = self;
            Err(format!("{bug} was not caught by {breaks:?} in {row}, only {violated:?} failed"))
        }
    }

    /// The options of a run with the bug.
    pub fn run_options(&self, options: &Options) -> Options {
        let dir = options.dir.join(self.name);
        // What a bug keeps from ever being level is not waited for.
        let promises = Guarantees { caught_up_within: secs(10), ..options.promises };
        Options { planted_bug: Some(self.name), dir, promises, ..options.clone() }
    }
}

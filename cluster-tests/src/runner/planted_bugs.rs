//! Tests the checker: a run with a planted bug must violate the invariant that the bug breaks.
//!
//! Needs a binary that was built with the feature `fail-points`; any other rejects the variable that
//! activates one, and no node starts.

use pushonce_core::FailPoint;

use super::{Options, RunReport};
use crate::checker::Guarantees;
use crate::wait::secs;

/// A bug, and where it shows.
#[derive(Clone, Copy, Debug)]
pub struct PlantedBug {
    /// The fail point that activates it.
    pub fail_point: FailPoint,
    /// The row in which it must be caught.
    pub scenario: &'static str,
    /// The properties of which at least one must be broken.
    pub violates: &'static [&'static str],
}

/// Every planted bug.
pub const PLANTED_BUGS: &[PlantedBug] = &[
    PlantedBug {
        fail_point: FailPoint::AcknowledgeBeforeFsync,
        scenario: "kill-all",
        violates: &["I1", "I4"],
    },
    PlantedBug { fail_point: FailPoint::EpochUnchecked, scenario: "no-fault", violates: &["I12"] },
    PlantedBug {
        fail_point: FailPoint::ResumeSkipsMessage,
        scenario: "no-fault",
        violates: &["I12"],
    },
    PlantedBug { fail_point: FailPoint::StartGapHidden, scenario: "no-fault", violates: &["I12"] },
    PlantedBug {
        fail_point: FailPoint::DedupeNotReplicated,
        scenario: "kill-owner",
        violates: &["I7", "I8"],
    },
    PlantedBug {
        fail_point: FailPoint::OutdatedSettingsApplied,
        scenario: "history-raised-and-restarted",
        violates: &["I1", "I4"],
    },
    PlantedBug {
        fail_point: FailPoint::OwnerWallClock,
        scenario: "clocks-ahead",
        violates: &["I1", "I4"],
    },
    PlantedBug {
        fail_point: FailPoint::ServeCreatesCluster,
        scenario: "wiped-founder",
        violates: &["I1", "I3", "I4", "I8", "I9", "I12"],
    },
];

/// The bugs that campaigns of simulations catch, and nothing else: `scripts/simulate planted`.
pub const SIMULATED: &[FailPoint] = &[FailPoint::FullDiskLeads, FailPoint::RemovedReplicaCounted];

impl PlantedBug {
    /// What a report of a run with the bug says: caught by these properties, or missed.
    pub fn check(&self, report: &RunReport) -> Result<Vec<&'static str>, String> {
        let violated = report.results.iter().filter(|(_, result)| result.is_err());
        let violated: Vec<_> = violated.map(|(invariant, _)| invariant.id).collect();
        if violated.iter().any(|id| self.violates.contains(id)) {
            Ok(violated)
        } else {
            let PlantedBug { fail_point, scenario, violates } = self;
            let name = fail_point.name();
            Err(format!(
                "{name} was not caught by {violates:?} in {scenario}, only {violated:?} failed"
            ))
        }
    }

    /// The options of a run with the bug.
    pub fn run_options(&self, options: &Options) -> Options {
        let dir = options.dir.join(self.fail_point.name());
        // A bug may keep a subscriber from ever catching up: the run does not wait for it.
        let guarantees = Guarantees { caught_up_within: secs(10), ..options.guarantees };
        Options { fail_point: Some(self.fail_point), dir, guarantees, ..options.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of `scripts/planted`: the package whose tests catch a bug, and its fail point.
    fn fail_points_of_packages() -> Vec<FailPoint> {
        let script = include_str!("../../../scripts/planted");
        let lines = script.lines().skip_while(|line| !line.ends_with("<<'BUGS'")).skip(1);
        let names = lines.take_while(|&line| line != "BUGS").map(|line| line.split(' ').nth(1));
        names.map(|name| name.expect("a name").parse().expect("a known name")).collect()
    }

    #[test]
    fn every_fail_point_is_caught_by_a_package_a_row_or_a_campaign() {
        let by_packages = fail_points_of_packages();
        let is_caught = |point: &FailPoint| {
            by_packages.contains(point)
                || SIMULATED.contains(point)
                || PLANTED_BUGS.iter().any(|bug| bug.fail_point == *point)
        };
        let missing: Vec<_> = FailPoint::ALL.iter().filter(|point| !is_caught(point)).collect();
        assert!(missing.is_empty(), "no test is said to catch {missing:?}");
    }

    #[test]
    fn every_row_of_a_planted_bug_exists() {
        for bug in PLANTED_BUGS {
            assert!(super::super::scenario(bug.scenario).is_some(), "{}", bug.scenario);
        }
    }
}

//! The report of a run.

use std::fmt;
use std::path::PathBuf;

use super::LoadStats;
use super::run::Options;
use crate::checker::{CheckEvidence, CheckResult, Guarantees, INVARIANTS, Invariant, check_all};
use crate::faults::FaultScenario;
use crate::history::HistoryRecord;

/// The verdict of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunVerdict {
    /// The fault took place under load, and no invariant was violated.
    Pass,
    /// An invariant was violated, or the cluster did not recover.
    Fail(String),
    /// The run is inconclusive, for this reason.
    Unknown(String),
}

/// A run with its verdict.
pub struct RunReport {
    /// The scenario.
    pub scenario: &'static FaultScenario,
    /// The verdict.
    pub verdict: RunVerdict,
    /// The result of each invariant.
    pub results: Vec<(&'static Invariant, CheckResult)>,
    /// The load during the fault.
    pub load: LoadStats,
    /// The directory of the history and the logs.
    pub dir: PathBuf,
    /// The command that repeats the run.
    pub repeat_command: String,
    /// The violations, with the surrounding records.
    pub violations_text: String,
}

/// The minimum rate of publishes during the fault, as a share of the usual rate.
const RATE_RATIO_MIN: f64 = 0.5;

impl RunReport {
    /// Evaluates a history. `aborted` is the reason why the run did not complete, if it did not.
    pub fn evaluate(
        scenario: &'static FaultScenario,
        options: &Options,
        records: &[HistoryRecord],
        aborted: Option<String>,
        dir: PathBuf,
    ) -> RunReport {
        let results = check_all(records, &options.guarantees);
        let load = LoadStats::from_records(records);
        let mut violations_text =
            aborted.iter().map(|reason| format!("{reason}\n")).collect::<String>();
        for (invariant, result) in &results {
            if let Err(violation) = result {
                violations_text +=
                    &format!("{} {}: {}", invariant.id, invariant.title, violation.report(records));
            }
        }
        let first_violation = results.iter().find_map(|(invariant, result)| {
            let violation = result.as_ref().err()?;
            Some(format!("{} {}: {}", invariant.id, invariant.title, violation.message))
        });
        // A cluster that never started, for instance on a busy machine, proves nothing.
        let verdict = match (first_violation, aborted) {
            (Some(reason), _) => RunVerdict::Fail(reason),
            (None, aborted) if load.rounds == 0 => {
                RunVerdict::Unknown(aborted.unwrap_or_else(|| never_active_reason(records)))
            }
            (None, Some(reason)) => RunVerdict::Fail(reason),
            (None, None) if load.rate_ratio < RATE_RATIO_MIN => RunVerdict::Unknown(format!(
                "only {:.0} % of the usual load was attempted during the fault",
                load.rate_ratio * 100.0
            )),
            (None, None) => RunVerdict::Pass,
        };
        let repeat_command = super::repeat_command(scenario, options);
        RunReport { scenario, verdict, results, load, dir, repeat_command, violations_text }
    }

    /// The report of a run that could not start.
    pub fn skipped(
        scenario: &'static FaultScenario,
        options: &Options,
        reason: String,
    ) -> RunReport {
        let inconclusive = || Ok(CheckEvidence::Inconclusive("the fault cannot take place here"));
        RunReport {
            scenario,
            verdict: RunVerdict::Unknown(reason),
            results: INVARIANTS.iter().map(|invariant| (invariant, inconclusive())).collect(),
            load: LoadStats::default(),
            dir: PathBuf::new(),
            repeat_command: super::repeat_command(scenario, options),
            violations_text: String::new(),
        }
    }
}

/// The reason why the fault never took place.
fn never_active_reason(records: &[HistoryRecord]) -> String {
    use crate::history::HistoryEvent::{FaultIndeterminate, FaultNotActive};
    let reason = records.iter().rev().find_map(|record| match &record.event {
        FaultNotActive { reason, .. } | FaultIndeterminate { reason, .. } => Some(reason),
        _ => None,
    });
    let reason = reason.map_or("it was never injected", |reason| reason);
    format!("the fault never took place: {reason}")
}

/// Checks a recorded history again.
pub fn recheck(records: &[HistoryRecord], guarantees: &Guarantees) -> (bool, String) {
    let mut text = String::new();
    let mut passed = true;
    for (invariant, result) in check_all(records, guarantees) {
        let line = match result {
            Ok(evidence) => format!("{evidence}\n"),
            Err(violation) => {
                passed = false;
                format!("FAIL {}", violation.report(records))
            }
        };
        text += &format!("{:<4} {:<38} {line}", invariant.id, invariant.title);
    }
    (passed, text)
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadStats { rounds, seconds, invoked, acknowledged, delivered, rate_ratio } = self.load;
        writeln!(f, "== {}: {}", self.scenario.name, self.scenario.description)?;
        writeln!(
            f,
            "   {rounds} rounds, {seconds:.1} s; {invoked} publishes during the fault ({:.0} % of \
             the usual rate); {acknowledged} acknowledged and {delivered} delivered in the run",
            rate_ratio * 100.0
        )?;
        let marks: Vec<_> = self
            .results
            .iter()
            .map(|(invariant, result)| format!("{} {}", invariant.id, result_mark(result)))
            .collect();
        writeln!(f, "   {}", marks.join("  "))?;
        match &self.verdict {
            RunVerdict::Pass => writeln!(f, "   pass"),
            RunVerdict::Unknown(reason) => writeln!(f, "   UNKNOWN: {reason}"),
            RunVerdict::Fail(reason) => {
                writeln!(f, "   FAIL: {reason}\n{}", self.violations_text)?;
                writeln!(f, "   history and logs: {}", self.dir.display())?;
                writeln!(f, "   repeat: {}", self.repeat_command)
            }
        }
    }
}

/// The symbol of a result in the table.
pub(super) fn result_mark(result: &CheckResult) -> &'static str {
    match result {
        Ok(CheckEvidence::Checked(_)) => "✓",
        Ok(CheckEvidence::Inconclusive(_)) => "?",
        Err(_) => "✗",
    }
}

//! What a run came to.

use std::fmt;
use std::path::PathBuf;

use super::LoadStats;
use super::run::Options;
use crate::checker::{CheckEvidence, CheckResult, Guarantees, INVARIANTS, Invariant, check_all};
use crate::faults::FaultScenario;
use crate::history::HistoryRecord;

/// Pass, fail, or nobody can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunVerdict {
    /// The fault took place under load, and no promise was broken.
    Pass,
    /// A promise was broken, or the cluster did not come back.
    Fail(String),
    /// The run proves nothing, and why.
    Unknown(String),
}

/// A run, judged.
pub struct RunReport {
    /// Which row.
    pub scenario: &'static FaultScenario,
    /// All in one word.
    pub verdict: RunVerdict,
    /// By property.
    pub results: Vec<(&'static Invariant, CheckResult)>,
    /// The load that the fault met.
    pub load: LoadStats,
    /// Where the history and the logs are.
    pub dir: PathBuf,
    /// How to do it again.
    pub repeat_command: String,
    /// The violations, with the records around them.
    pub violations_text: String,
}

/// Of the usual load, so much must have been tried while the fault was there.
const RATE_RATIO_MIN: f64 = 0.5;

impl RunReport {
    /// Judges a history. `broken` says why the run did not come to its end, if it did not.
    pub fn evaluate(
        scenario: &'static FaultScenario,
        options: &Options,
        records: &[HistoryRecord],
        aborted: Option<String>,
        dir: PathBuf,
    ) -> RunReport {
        let results = check_all(records, &options.promises);
        let load = LoadStats::from_records(records);
        let mut violations_text =
            aborted.iter().map(|reason| format!("{reason}\n")).collect::<String>();
        for (property, judgement) in &results {
            if let Err(violation) = judgement {
                violations_text +=
                    &format!("{} {}: {}", property.id, property.title, violation.report(records));
            }
        }
        let first_violation = results.iter().find_map(|(property, judgement)| {
            let violation = judgement.as_ref().err()?;
            Some(format!("{} {}: {}", property.id, property.title, violation.message))
        });
        // A cluster that never got going, on a machine that is too busy for instance, proves nothing.
        let verdict = match (first_violation, aborted) {
            (Some(reason), _) => RunVerdict::Fail(reason),
            (None, broken) if load.rounds == 0 => {
                RunVerdict::Unknown(broken.unwrap_or_else(|| never_active_reason(records)))
            }
            (None, Some(reason)) => RunVerdict::Fail(reason),
            (None, None) if load.rate_ratio < RATE_RATIO_MIN => RunVerdict::Unknown(format!(
                "only {:.0} % of the usual load was tried while the fault was there",
                load.rate_ratio * 100.0
            )),
            (None, None) => RunVerdict::Pass,
        };
        let repeat_command = super::repeat_command(scenario, options);
        RunReport { scenario, verdict, results, load, dir, repeat_command, violations_text }
    }

    /// A run that could not even begin.
    pub fn skipped(
        scenario: &'static FaultScenario,
        options: &Options,
        reason: String,
    ) -> RunReport {
        let inconclusive = || Ok(CheckEvidence::Inconclusive("the fault cannot take place here"));
        RunReport {
            scenario,
            verdict: RunVerdict::Unknown(reason),
            results: INVARIANTS.iter().map(|property| (property, inconclusive())).collect(),
            load: LoadStats::default(),
            dir: PathBuf::new(),
            repeat_command: super::repeat_command(scenario, options),
            violations_text: String::new(),
        }
    }
}

/// Why the fault never took place.
fn never_active_reason(records: &[HistoryRecord]) -> String {
    use crate::history::HistoryEvent::{FaultIndeterminate, FaultNotActive};
    let reason = records.iter().rev().find_map(|record| match &record.event {
        FaultNotActive { reason, .. } | FaultIndeterminate { reason, .. } => Some(reason),
        _ => None,
    });
    let reason = reason.map_or("nobody tried", |reason| reason);
    format!("the fault never took place: {reason}")
}

/// Judges a file again.
pub fn recheck(records: &[HistoryRecord], promises: &Guarantees) -> (bool, String) {
    let mut text = String::new();
    let mut passed = true;
    for (property, judgement) in check_all(records, promises) {
        let line = match judgement {
            Ok(evidence) => format!("{evidence}\n"),
            Err(violation) => {
                passed = false;
                format!("FAIL {}", violation.report(records))
            }
        };
        text += &format!("{:<4} {:<30} {line}", property.id, property.title);
    }
    (passed, text)
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadStats {
            rounds,
            seconds,
            invoked: attempted,
            acknowledged,
            delivered,
            rate_ratio: share,
        } = self.load;
        writeln!(f, "== {}: {}", self.scenario.name, self.scenario.description)?;
        writeln!(
            f,
            "   {rounds} times, {seconds:.1} s; {attempted} publishes begun meanwhile ({:.0} % of \
             the usual rate); {acknowledged} acknowledged and {delivered} delivered in the run",
            share * 100.0
        )?;
        let marks: Vec<_> = self
            .results
            .iter()
            .map(|(property, judgement)| format!("{} {}", property.id, result_mark(judgement)))
            .collect();
        writeln!(f, "   {}", marks.join("  "))?;
        match &self.verdict {
            RunVerdict::Pass => writeln!(f, "   pass"),
            RunVerdict::Unknown(reason) => writeln!(f, "   UNKNOWN: {reason}"),
            RunVerdict::Fail(reason) => {
                writeln!(f, "   FAIL: {reason}\n{}", self.violations_text)?;
                writeln!(f, "   history and logs: {}", self.dir.display())?;
                writeln!(f, "   again: {}", self.repeat_command)
            }
        }
    }
}

/// A judgement as one character.
pub(super) fn result_mark(judgement: &CheckResult) -> &'static str {
    match judgement {
        Ok(CheckEvidence::Checked(_)) => "✓",
        Ok(CheckEvidence::Inconclusive(_)) => "?",
        Err(_) => "✗",
    }
}

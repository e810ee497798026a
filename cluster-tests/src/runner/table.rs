//! Renders the results as Markdown tables: faults × invariants, and the load of each fault.

use std::fmt::Write;

use super::report::result_mark;
use super::{LoadStats, RunReport, RunVerdict};
use crate::checker::INVARIANTS;

/// The tables of all reports.
pub fn render_table(reports: &[RunReport]) -> String {
    let mut text = String::from("| fault | verdict |");
    INVARIANTS.iter().for_each(|invariant| text += &format!(" {} |", invariant.id));
    text += "\n|---|---|";
    INVARIANTS.iter().for_each(|_| text += "---|");
    text += "\n";
    for report in reports {
        let verdict = match &report.verdict {
            RunVerdict::Pass => "pass",
            RunVerdict::Fail(_) => "**FAIL**",
            RunVerdict::Unknown(_) => "unknown",
        };
        let marks: Vec<_> = report.results.iter().map(|(_, result)| result_mark(result)).collect();
        let _ = writeln!(text, "| {} | {verdict} | {} |", report.scenario.name, marks.join(" | "));
    }
    text += "\n| fault | description | rounds | seconds | publishes during the fault | of the usual rate | \
             acknowledged in the run | delivered in the run |\n|---|---|---|---|---|---|---|---|\n";
    for RunReport { scenario, load, .. } in reports {
        let LoadStats { rounds, seconds, invoked, acknowledged, delivered, rate_ratio } = load;
        let _ = writeln!(
            text,
            "| {} | {} | {rounds} | {seconds:.1} | {invoked} | {:.0} % | {acknowledged} | \
             {delivered} |",
            scenario.name,
            scenario.description,
            rate_ratio * 100.0
        );
    }
    for RunReport { scenario, verdict, .. } in reports {
        match verdict {
            RunVerdict::Pass => {}
            RunVerdict::Fail(reason) => {
                let _ = writeln!(text, "\n**{} fails**: {reason}", scenario.name);
            }
            RunVerdict::Unknown(reason) => {
                let _ = writeln!(text, "\n{} is unknown: {reason}", scenario.name);
            }
        }
    }
    text
}

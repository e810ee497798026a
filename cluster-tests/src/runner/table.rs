//! Faults × invariants, as Markdown.

use std::fmt::Write;

use super::report::mark;
use super::{Carried, Report, Verdict};
use crate::checker::PROPERTIES;

/// The table, with the load that each fault really carried.
pub fn table(reports: &[Report]) -> String {
    let mut text = String::from("| fault | verdict |");
    PROPERTIES.iter().for_each(|property| text += &format!(" {} |", property.id));
    text += "\n|---|---|";
    PROPERTIES.iter().for_each(|_| text += "---|");
    text += "\n";
    for report in reports {
        let verdict = match &report.verdict {
            Verdict::Pass => "pass",
            Verdict::Fail(_) => "**FAIL**",
            Verdict::Unknown(_) => "unknown",
        };
        let marks: Vec<_> = report.judged.iter().map(|(_, judged)| mark(judged)).collect();
        let _ = writeln!(text, "| {} | {verdict} | {} |", report.row.name, marks.join(" | "));
    }
    text += "\n| fault | what it does | times | seconds | publishes begun meanwhile | of the usual \
             rate | acknowledged in the run | delivered in the run |\n|---|---|---|---|---|---|---|---|\n";
    for Report { row, carried, .. } in reports {
        let Carried { rounds, seconds, attempted, acknowledged, delivered, share } = carried;
        let _ = writeln!(
            text,
            "| {} | {} | {rounds} | {seconds:.1} | {attempted} | {:.0} % | {acknowledged} | \
             {delivered} |",
            row.name,
            row.story,
            share * 100.0
        );
    }
    for Report { row, verdict, .. } in reports {
        match verdict {
            Verdict::Pass => {}
            Verdict::Fail(why) => drop(writeln!(text, "\n**{} fails**: {why}", row.name)),
            Verdict::Unknown(why) => drop(writeln!(text, "\n{} is unknown: {why}", row.name)),
        }
    }
    text
}

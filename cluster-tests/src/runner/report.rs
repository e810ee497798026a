//! What a run came to.

use std::fmt;
use std::path::PathBuf;

use super::Carried;
use super::run::Options;
use crate::checker::{Evidence, Judgement, PROPERTIES, Promises, Property, judge};
use crate::faults::Row;
use crate::history::Record;

/// Pass, fail, or nobody can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The fault took place under load, and no promise was broken.
    Pass,
    /// A promise was broken, or the cluster did not come back.
    Fail(String),
    /// The run proves nothing, and why.
    Unknown(String),
}

/// A run, judged.
pub struct Report {
    /// Which row.
    pub row: &'static Row,
    /// All in one word.
    pub verdict: Verdict,
    /// By property.
    pub judged: Vec<(&'static Property, Judgement)>,
    /// The load that the fault met.
    pub carried: Carried,
    /// Where the history and the logs are.
    pub dir: PathBuf,
    /// How to do it again.
    pub again: String,
    /// The violations, with the records around them.
    pub told: String,
}

/// Of the usual load, so much must have been tried while the fault was there.
const SHARE_MIN: f64 = 0.5;

impl Report {
    /// Judges a history. `broken` says why the run did not come to its end, if it did not.
    pub fn of(
        row: &'static Row,
        options: &Options,
        records: &[Record],
        broken: Option<String>,
        dir: PathBuf,
    ) -> Report {
        let judged = judge(records, &options.promises);
        let carried = Carried::of(records);
        let mut told = broken.iter().map(|why| format!("{why}\n")).collect::<String>();
        for (property, judgement) in &judged {
            if let Err(violation) = judgement {
                told += &format!("{} {}: {}", property.id, property.title, violation.told(records));
            }
        }
        let failed = judged.iter().find_map(|(property, judgement)| {
            let violation = judgement.as_ref().err()?;
            Some(format!("{} {}: {}", property.id, property.title, violation.what))
        });
        // A cluster that never got going, on a machine that is too busy for instance, proves nothing.
        let verdict = match (failed, broken) {
            (Some(why), _) => Verdict::Fail(why),
            (None, broken) if carried.rounds == 0 => {
                Verdict::Unknown(broken.unwrap_or_else(|| never(records)))
            }
            (None, Some(why)) => Verdict::Fail(why),
            (None, None) if carried.share < SHARE_MIN => Verdict::Unknown(format!(
                "only {:.0} % of the usual load was tried while the fault was there",
                carried.share * 100.0
            )),
            (None, None) => Verdict::Pass,
        };
        let again = super::command(row, options);
        Report { row, verdict, judged, carried, dir, again, told }
    }

    /// A run that could not even begin.
    pub fn left_out(row: &'static Row, options: &Options, why: String) -> Report {
        let lacking = || Ok(Evidence::Lacking("the fault cannot take place here"));
        Report {
            row,
            verdict: Verdict::Unknown(why),
            judged: PROPERTIES.iter().map(|property| (property, lacking())).collect(),
            carried: Carried::default(),
            dir: PathBuf::new(),
            again: super::command(row, options),
            told: String::new(),
        }
    }
}

/// Why the fault never took place.
fn never(records: &[Record]) -> String {
    use crate::history::Event::{FaultIndeterminate, FaultSkipped};
    let why = records.iter().rev().find_map(|record| match &record.event {
        FaultSkipped { why, .. } | FaultIndeterminate { why, .. } => Some(why),
        _ => None,
    });
    let why = why.map_or("nobody tried", |why| why);
    format!("the fault never took place: {why}")
}

/// Judges a file again.
pub fn again(records: &[Record], promises: &Promises) -> (bool, String) {
    let mut text = String::new();
    let mut good = true;
    for (property, judgement) in judge(records, promises) {
        let line = match judgement {
            Ok(evidence) => format!("{evidence}\n"),
            Err(violation) => {
                good = false;
                format!("FAIL {}", violation.told(records))
            }
        };
        text += &format!("{:<4} {:<30} {line}", property.id, property.title);
    }
    (good, text)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Carried { rounds, seconds, attempted, acknowledged, delivered, share } = self.carried;
        writeln!(f, "== {}: {}", self.row.name, self.row.story)?;
        writeln!(
            f,
            "   {rounds} times, {seconds:.1} s; {attempted} publishes begun meanwhile ({:.0} % of \
             the usual rate); {acknowledged} acknowledged and {delivered} delivered in the run",
            share * 100.0
        )?;
        let marks: Vec<_> = self
            .judged
            .iter()
            .map(|(property, judgement)| format!("{} {}", property.id, mark(judgement)))
            .collect();
        writeln!(f, "   {}", marks.join("  "))?;
        match &self.verdict {
            Verdict::Pass => writeln!(f, "   pass"),
            Verdict::Unknown(why) => writeln!(f, "   UNKNOWN: {why}"),
            Verdict::Fail(why) => {
                writeln!(f, "   FAIL: {why}\n{}", self.told)?;
                writeln!(f, "   history and logs: {}", self.dir.display())?;
                writeln!(f, "   again: {}", self.again)
            }
        }
    }
}

/// A judgement as one character.
pub(super) fn mark(judgement: &Judgement) -> &'static str {
    match judgement {
        Ok(Evidence::Looked(_)) => "✓",
        Ok(Evidence::Lacking(_)) => "?",
        Err(_) => "✗",
    }
}

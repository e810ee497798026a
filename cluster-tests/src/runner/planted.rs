//! The proof, proved: with each planted bug switched on, its row must fail by its property.
//!
//! Needs a binary that was built with the feature `planted-bugs`; without it every row passes, and
//! so every bug counts as missed.

use super::{Options, Report};
use crate::checker::Promises;
use crate::wait::secs;

/// A bug, and where it shows.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// What the binary calls it.
    pub bug: &'static str,
    /// The row in which it must be caught.
    pub row: &'static str,
    /// The properties of which at least one must be broken.
    pub breaks: &'static [&'static str],
}

/// Every planted bug.
pub const PLANTED: &[Planted] = &[
    Planted { bug: "acknowledge-before-fsync", row: "kill-all", breaks: &["I1", "I4"] },
    Planted { bug: "no-epoch-check", row: "none", breaks: &["I12"] },
    Planted { bug: "off-by-one-resume", row: "none", breaks: &["I12"] },
    Planted { bug: "gap-not-signalled", row: "none", breaks: &["I12"] },
    Planted { bug: "dedupe-not-replicated", row: "kill-owner", breaks: &["I7", "I8"] },
    Planted {
        bug: "old-settings-win",
        row: "settings-raised-and-restarted",
        breaks: &["I1", "I4"],
    },
    Planted { bug: "owners-wall-clock", row: "clocks-ahead", breaks: &["I1", "I4"] },
    Planted {
        bug: "serve-creates-cluster",
        row: "wiped-founder",
        breaks: &["I1", "I3", "I4", "I8", "I9", "I12"],
    },
];

impl Planted {
    /// What a report of a run with the bug says: caught by these properties, or missed.
    pub fn judge(&self, report: &Report) -> Result<Vec<&'static str>, String> {
        let broken = report.judged.iter().filter(|(_, judgement)| judgement.is_err());
        let broken: Vec<_> = broken.map(|(property, _)| property.id).collect();
        if broken.iter().any(|id| self.breaks.contains(id)) {
            Ok(broken)
        } else {
            let Planted { bug, row, breaks } = self;
            Err(format!("{bug} was not caught by {breaks:?} in {row}, only {broken:?} failed"))
        }
    }

    /// The options of a run with the bug.
    pub fn options(&self, options: &Options) -> Options {
        let dir = options.dir.join(self.bug);
        // What a bug keeps from ever being level is not waited for.
        let promises = Promises { level: secs(10), ..options.promises };
        Options { planted: Some(self.bug), dir, promises, ..options.clone() }
    }
}

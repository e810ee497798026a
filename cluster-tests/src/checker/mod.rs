//! Whether a history is what was promised: one property a file, each a pure function of the history.
//!
//! The properties are the invariants I1 to I15 and I19 to I22 that the project states in public. A
//! verdict is pass, fail with the first violation, or unknown: what the property is about never took
//! place, and that is no pass.
//!
//! A history is what clients see. Some invariants speak of what they cannot see, and something else
//! stands for it here:
//!
//! - I1, I4 (kept by replicas): the log as every node gives it over every transport in the end. What
//!   is older than the stated history may be gone; a log that is shorter than the history and lacks
//!   the message is a loss.
//! - I10 (one owner an epoch): which node ordered a message is not in its acknowledgement. Two owners
//!   that both acknowledged would have given one position to two payloads, or have gone on in an
//!   epoch after a later one was seen; that is looked for.
//! - I11 (a deposed owner is mute): judged by what is acknowledged and delivered through a node after
//!   it was paused or cut off, against the log.
//! - I13 (no seam): judged at the beginning of each subscription, where I5 has nothing to compare.
//! - I14 (bookmark): heartbeats come every 25 s; a short run may see none, and is unknown then. That
//!   a subscriber is told of a node that is cut off needs a fault that cuts one off.
//! - I20 (nothing leaks): panics by the nodes' logs, descriptors by `/proc` before the load and after
//!   its clients are gone. Memory is bounded and does not come back (histories stay), so only a
//!   growth past a bound counts.
//! - I21 (damage is noticed): that nothing wrong is served and nothing acknowledged is gone after a
//!   node's files were damaged; whether a checksum or luck saved it is not visible.
//! - I22 (overload is said): needs a run with the flood.

mod acknowledged_is_durable;
mod damage_is_detected;
mod delivered_is_durable;
mod deposed_owner_is_silent;
mod gaps_are_signalled;
mod health_is_accurate;
mod heartbeat_positions;
mod history_index;
mod idempotent_keys;
mod logs_agree;
mod monotonic_positions;
mod no_duplicates;
mod no_leaks_or_panics;
mod no_phantoms;
mod one_owner_per_epoch;
mod overload_is_signalled;
mod progress;
mod real_time_order;
mod resume_or_error;
mod start_position;

#[cfg(test)]
mod tests;

use std::fmt::{self, Write};
use std::time::Duration;

use crate::history::HistoryRecord;

pub use history_index::{FaultPeriod, HistoryIndex, PublishRecord, RecordedOutcome, TopicHistory};

/// A numbered promise, and how a history is held against it.
pub struct Invariant {
    /// `I1` and so on.
    pub id: &'static str,
    /// What is promised, in a few words.
    pub title: &'static str,
    check: fn(&HistoryIndex<'_>, &Guarantees) -> CheckResult,
}

/// The numbers in the promises.
#[derive(Clone, Copy, Debug)]
pub struct Guarantees {
    /// Messages that a topic's history has at least, unless it had fewer.
    pub history_min: usize,
    /// T1: a node that cannot commit, apply or deliver says so.
    pub unready_within: Duration,
    /// T2: publishes are accepted again.
    pub accepted_within: Duration,
    /// T3: every subscriber is level again.
    pub caught_up_within: Duration,
}

/// What a property says of a history: how much it looked at, or what is wrong.
pub type CheckResult = Result<CheckEvidence, InvariantViolation>;

/// What a property that holds has looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckEvidence {
    /// So many things that could have been wrong.
    Checked(usize),
    /// Nothing that could have been wrong; what is lacking.
    Inconclusive(&'static str),
}

/// What is wrong, and the records that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvariantViolation {
    /// In words.
    pub message: String,
    /// Indices of records, the decisive one last.
    pub records: Vec<usize>,
}

/// Every property, in the order of its number.
pub const INVARIANTS: &[Invariant] = &[
    Invariant { id: "I1", title: "acknowledged is kept", check: acknowledged_is_durable::check },
    Invariant { id: "I2", title: "no phantoms", check: no_phantoms::check },
    Invariant { id: "I3", title: "one log", check: logs_agree::check },
    Invariant { id: "I4", title: "delivered is kept", check: delivered_is_durable::check },
    Invariant { id: "I5", title: "no hole without a word", check: gaps_are_signalled::check },
    Invariant { id: "I6", title: "never backwards", check: monotonic_positions::check },
    Invariant { id: "I7", title: "never twice", check: no_duplicates::check },
    Invariant { id: "I8", title: "same key, same answer", check: idempotent_keys::check },
    Invariant { id: "I9", title: "real time and FIFO", check: real_time_order::check },
    Invariant { id: "I10", title: "one owner per epoch", check: one_owner_per_epoch::check },
    Invariant { id: "I11", title: "zombie is mute", check: deposed_owner_is_silent::check },
    Invariant { id: "I12", title: "resume or say so", check: resume_or_error::check },
    Invariant { id: "I13", title: "no seam", check: start_position::check },
    Invariant { id: "I14", title: "bookmark", check: heartbeat_positions::check },
    Invariant { id: "I15", title: "progress", check: progress::check },
    Invariant { id: "I19", title: "health is true", check: health_is_accurate::check },
    Invariant {
        id: "I20",
        title: "nothing leaks, nothing panics",
        check: no_leaks_or_panics::check,
    },
    Invariant { id: "I21", title: "damage is noticed", check: damage_is_detected::check },
    Invariant { id: "I22", title: "overload is said", check: overload_is_signalled::check },
];

/// What every property says of a history, in the order of [`INVARIANTS`].
pub fn check_all(
    records: &[HistoryRecord],
    promises: &Guarantees,
) -> Vec<(&'static Invariant, CheckResult)> {
    let history = HistoryIndex::from_records(records);
    INVARIANTS.iter().map(|property| (property, (property.check)(&history, promises))).collect()
}

impl Guarantees {
    /// As they are published.
    pub const PUBLISHED: Guarantees = Guarantees {
        history_min: 1_000,
        unready_within: Duration::from_secs(5),
        accepted_within: Duration::from_secs(10),
        caught_up_within: Duration::from_secs(30),
    };

    /// For a machine that has other things to do: the times say that something happens at all.
    pub const RELAXED: Guarantees = Guarantees {
        unready_within: Duration::from_secs(20),
        accepted_within: Duration::from_secs(40),
        caught_up_within: Duration::from_secs(90),
        ..Guarantees::PUBLISHED
    };
}

impl CheckEvidence {
    /// So many things, or what is lacking when there were none.
    fn from_count(checked: usize, reason: &'static str) -> CheckEvidence {
        if checked == 0 {
            CheckEvidence::Inconclusive(reason)
        } else {
            CheckEvidence::Checked(checked)
        }
    }
}

impl InvariantViolation {
    fn new(
        message: impl Into<String>,
        records: impl IntoIterator<Item = usize>,
    ) -> InvariantViolation {
        InvariantViolation { message: message.into(), records: records.into_iter().collect() }
    }

    /// What is wrong, the records that show it, and those around the decisive one that are about the
    /// same topic or no topic at all.
    pub fn report(&self, records: &[HistoryRecord]) -> String {
        let mut text = format!("{}\n", self.message);
        let Some(&last) = self.records.last() else { return text };
        let topic = topic_of(&records[last]);
        let is_related =
            |record: &&HistoryRecord| topic_of(record).is_none_or(|name| Some(name) == topic);
        let before = records[..last].iter().rev().filter(is_related).take(CONTEXT_RECORDS);
        let mut before: Vec<_> = before.collect();
        before.reverse();
        let after = records[last + 1..].iter().filter(is_related).take(CONTEXT_RECORDS);
        for &index in &self.records {
            let _ = writeln!(text, "  * {}", records[index]);
        }
        let _ = writeln!(text, "  around the last of them:");
        for record in before.into_iter().chain([&records[last]]).chain(after) {
            let _ = writeln!(text, "    {record}");
        }
        text
    }
}

/// Records that are shown on each side of a violation.
const CONTEXT_RECORDS: usize = 8;

fn topic_of(record: &HistoryRecord) -> Option<&str> {
    use crate::history::HistoryEvent::{
        Acknowledged, Delivered, Gap, Heartbeat, Log, Publish, Rejected, ResourceSample, Stale,
        Subscribe, SubscribeRejected, Subscribed, Unknown, UnsignalledGap, Unsubscribed,
    };
    match &record.event {
        Publish { topic, .. }
        | Subscribe { topic, .. }
        | Subscribed { topic, .. }
        | SubscribeRejected { topic, .. }
        | Delivered { topic, .. }
        | Gap { topic, .. }
        | UnsignalledGap { topic, .. }
        | Unsubscribed { topic }
        | Heartbeat { topic, .. }
        | Stale { topic, .. }
        | Log { topic, .. } => Some(topic),
        // Of a topic, but it does not say which; too many to show them all.
        Acknowledged { .. } | Rejected { .. } | Unknown { .. } | ResourceSample { .. } => Some(""),
        _ => None,
    }
}

impl fmt::Display for CheckEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckEvidence::Checked(n) => write!(f, "pass ({n})"),
            CheckEvidence::Inconclusive(reason) => write!(f, "unknown: {reason}"),
        }
    }
}

//! Checks a history against the published invariants: one invariant per file, each a pure function of the
//! history.
//!
//! The invariants are I1 to I15 and I19 to I22. The result is evidence, the first violation, or inconclusive:
//! the subject of the invariant did not occur, which is not a pass.
//!
//! A history contains what clients observe. Some invariants concern state that clients cannot see; they are
//! checked as follows:
//!
//! - I1, I4 (kept by replicas): against the log that every node returns over every transport at the end.
//!   Messages older than the guaranteed history may be gone; a log that is shorter than the history and lacks
//!   the message is a loss.
//! - I10 (one owner per epoch): an acknowledgement does not name the node that ordered the message. Two
//!   owners that both acknowledged would have given one position to two payloads, or would have continued in
//!   an epoch after a later one was seen. Both are checked.
//! - I11 (deposed owner is silent): by comparing the acknowledgements and deliveries of a node that was
//!   paused, partitioned or restarted with the log.
//! - I13 (subscription starts where requested): at the start of each subscription, where I5 has nothing to
//!   compare.
//! - I14 (heartbeat positions and stale notices): heartbeats are sent every 4 s in a run. Stale notices need
//!   a fault that disconnects a node.
//! - I20 (no leaks, no panics): panics from the nodes' logs; descriptors from `/proc`, before the load and
//!   after its clients are gone. Memory is bounded and is not returned, because histories stay, so only
//!   growth beyond a bound counts.
//! - I21 (damage is detected): that no wrong message is served and no acknowledged message is lost after a
//!   node's files were damaged. Whether a checksum or chance prevented it is not visible.
//! - I22 (overload is signalled): under the flood, and in the bursts of the load.

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

/// A published invariant, with the function that checks it.
pub struct Invariant {
    /// The number, such as `I1`.
    pub id: &'static str,
    /// The invariant in a few words.
    pub title: &'static str,
    check: fn(&HistoryIndex<'_>, &Guarantees) -> CheckResult,
}

/// The numeric limits of the guarantees.
#[derive(Clone, Copy, Debug)]
pub struct Guarantees {
    /// The minimum number of messages in a topic's history, if the topic had that many.
    pub history_min: usize,
    /// T1: the time within which a node that cannot commit, apply or deliver reports it.
    pub unready_within: Duration,
    /// T2: the time within which publishes are accepted again.
    pub accepted_within: Duration,
    /// T3: the time within which every subscriber has caught up.
    pub caught_up_within: Duration,
}

/// The result of a check: the evidence that the invariant holds, or the first violation.
pub type CheckResult = Result<CheckEvidence, InvariantViolation>;

/// The evidence that an invariant holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckEvidence {
    /// The number of facts that could have violated the invariant.
    Checked(usize),
    /// No recorded fact could have violated the invariant, for this reason.
    Inconclusive(&'static str),
}

/// A violation, with the records that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvariantViolation {
    /// The description.
    pub message: String,
    /// The indices of the records, with the decisive one last.
    pub records: Vec<usize>,
}

/// All invariants, ordered by number.
pub const INVARIANTS: &[Invariant] = &[
    Invariant { id: "I1", title: "acknowledged is durable", check: acknowledged_is_durable::check },
    Invariant { id: "I2", title: "no phantoms", check: no_phantoms::check },
    Invariant { id: "I3", title: "logs agree", check: logs_agree::check },
    Invariant { id: "I4", title: "delivered is durable", check: delivered_is_durable::check },
    Invariant { id: "I5", title: "gaps are signalled", check: gaps_are_signalled::check },
    Invariant { id: "I6", title: "positions never go back", check: monotonic_positions::check },
    Invariant { id: "I7", title: "no duplicates", check: no_duplicates::check },
    Invariant { id: "I8", title: "idempotent keys", check: idempotent_keys::check },
    Invariant { id: "I9", title: "real-time and stream order", check: real_time_order::check },
    Invariant { id: "I10", title: "one owner per epoch", check: one_owner_per_epoch::check },
    Invariant {
        id: "I11",
        title: "deposed owner is silent",
        check: deposed_owner_is_silent::check,
    },
    Invariant { id: "I12", title: "resume or error", check: resume_or_error::check },
    Invariant {
        id: "I13",
        title: "subscription starts where requested",
        check: start_position::check,
    },
    Invariant {
        id: "I14",
        title: "heartbeat positions and stale notices",
        check: heartbeat_positions::check,
    },
    Invariant { id: "I15", title: "progress after faults", check: progress::check },
    Invariant { id: "I19", title: "health is accurate", check: health_is_accurate::check },
    Invariant { id: "I20", title: "no leaks, no panics", check: no_leaks_or_panics::check },
    Invariant { id: "I21", title: "damage is detected", check: damage_is_detected::check },
    Invariant { id: "I22", title: "overload is signalled", check: overload_is_signalled::check },
];

/// Checks every invariant, in the order of [`INVARIANTS`].
pub fn check_all(
    records: &[HistoryRecord],
    guarantees: &Guarantees,
) -> Vec<(&'static Invariant, CheckResult)> {
    let history = HistoryIndex::from_records(records);
    INVARIANTS
        .iter()
        .map(|invariant| (invariant, (invariant.check)(&history, guarantees)))
        .collect()
}

impl Guarantees {
    /// The published limits.
    pub const PUBLISHED: Guarantees = Guarantees {
        history_min: 1_000,
        unready_within: Duration::from_secs(5),
        accepted_within: Duration::from_secs(10),
        caught_up_within: Duration::from_secs(30),
    };

    /// Limits for a busy machine: they only check that the events happen at all.
    pub const RELAXED: Guarantees = Guarantees {
        unready_within: Duration::from_secs(20),
        accepted_within: Duration::from_secs(40),
        caught_up_within: Duration::from_secs(90),
        ..Guarantees::PUBLISHED
    };
}

impl CheckEvidence {
    /// `Checked`, or `Inconclusive` with the reason if nothing was checked.
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

    /// The description, the records that show the violation, and the records around the decisive one that
    /// concern the same topic or no topic.
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
        let _ = writeln!(text, "  records around the last one:");
        for record in before.into_iter().chain([&records[last]]).chain(after) {
            let _ = writeln!(text, "    {record}");
        }
        text
    }
}

/// Number of records shown on each side of the decisive record.
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
        // Events of a topic that do not name it; there are too many to show them all.
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

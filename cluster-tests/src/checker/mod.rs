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

mod acked_is_kept;
mod bookmark;
mod damage_is_noticed;
mod delivered_is_kept;
mod health_is_true;
mod never_backwards;
mod never_twice;
mod no_hole_without_a_word;
mod no_phantoms;
mod no_seam;
mod nothing_leaks;
mod one_log;
mod one_owner_per_epoch;
mod overload_is_said;
mod progress;
mod real_time_order;
mod resume_or_say_so;
mod run;
mod same_key_same_answer;
mod zombie_is_mute;

#[cfg(test)]
mod checker_test;

use std::fmt::{self, Write};
use std::time::Duration;

use crate::history::Record;

pub use run::{Installed, Outcome, Publish, Run, Topic};

/// A numbered promise, and how a history is held against it.
pub struct Property {
    /// `I1` and so on.
    pub id: &'static str,
    /// What is promised, in a few words.
    pub title: &'static str,
    check: fn(&Run<'_>, &Promises) -> Judgement,
}

/// The numbers in the promises.
#[derive(Clone, Copy, Debug)]
pub struct Promises {
    /// Messages that a topic's history has at least, unless it had fewer.
    pub history: usize,
    /// T1: a node that cannot commit, apply or deliver says so.
    pub unready: Duration,
    /// T2: publishes are accepted again.
    pub accepted: Duration,
    /// T3: every subscriber is level again.
    pub level: Duration,
}

/// What a property says of a history: how much it looked at, or what is wrong.
pub type Judgement = Result<Evidence, Violation>;

/// What a property that holds has looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// So many things that could have been wrong.
    Looked(usize),
    /// Nothing that could have been wrong; what is lacking.
    Lacking(&'static str),
}

/// What is wrong, and the records that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In words.
    pub what: String,
    /// Indices of records, the decisive one last.
    pub records: Vec<usize>,
}

/// Every property, in the order of its number.
pub const PROPERTIES: &[Property] = &[
    Property { id: "I1", title: "acknowledged is kept", check: acked_is_kept::check },
    Property { id: "I2", title: "no phantoms", check: no_phantoms::check },
    Property { id: "I3", title: "one log", check: one_log::check },
    Property { id: "I4", title: "delivered is kept", check: delivered_is_kept::check },
    Property { id: "I5", title: "no hole without a word", check: no_hole_without_a_word::check },
    Property { id: "I6", title: "never backwards", check: never_backwards::check },
    Property { id: "I7", title: "never twice", check: never_twice::check },
    Property { id: "I8", title: "same key, same answer", check: same_key_same_answer::check },
    Property { id: "I9", title: "real time and FIFO", check: real_time_order::check },
    Property { id: "I10", title: "one owner per epoch", check: one_owner_per_epoch::check },
    Property { id: "I11", title: "zombie is mute", check: zombie_is_mute::check },
    Property { id: "I12", title: "resume or say so", check: resume_or_say_so::check },
    Property { id: "I13", title: "no seam", check: no_seam::check },
    Property { id: "I14", title: "bookmark", check: bookmark::check },
    Property { id: "I15", title: "progress", check: progress::check },
    Property { id: "I19", title: "health is true", check: health_is_true::check },
    Property { id: "I20", title: "nothing leaks, nothing panics", check: nothing_leaks::check },
    Property { id: "I21", title: "damage is noticed", check: damage_is_noticed::check },
    Property { id: "I22", title: "overload is said", check: overload_is_said::check },
];

/// What every property says of a history, in the order of [`PROPERTIES`].
pub fn judge(records: &[Record], promises: &Promises) -> Vec<(&'static Property, Judgement)> {
    let run = Run::of(records);
    PROPERTIES.iter().map(|property| (property, (property.check)(&run, promises))).collect()
}

impl Promises {
    /// As they are published.
    pub const STATED: Promises = Promises {
        history: 1_000,
        unready: Duration::from_secs(5),
        accepted: Duration::from_secs(10),
        level: Duration::from_secs(30),
    };

    /// For a machine that has other things to do: the times say that something happens at all.
    pub const PATIENT: Promises = Promises {
        unready: Duration::from_secs(20),
        accepted: Duration::from_secs(40),
        level: Duration::from_secs(90),
        ..Promises::STATED
    };
}

impl Evidence {
    /// So many things, or what is lacking when there were none.
    fn of(looked: usize, lacking: &'static str) -> Evidence {
        if looked == 0 { Evidence::Lacking(lacking) } else { Evidence::Looked(looked) }
    }
}

impl Violation {
    fn new(what: impl Into<String>, records: impl IntoIterator<Item = usize>) -> Violation {
        Violation { what: what.into(), records: records.into_iter().collect() }
    }

    /// What is wrong, the records that show it, and those around the decisive one that are about the
    /// same topic or no topic at all.
    pub fn told(&self, records: &[Record]) -> String {
        let mut text = format!("{}\n", self.what);
        let Some(&last) = self.records.last() else { return text };
        let topic = topic_of(&records[last]);
        let near = |record: &&Record| topic_of(record).is_none_or(|name| Some(name) == topic);
        let before = records[..last].iter().rev().filter(near).take(AROUND);
        let mut before: Vec<_> = before.collect();
        before.reverse();
        let after = records[last + 1..].iter().filter(near).take(AROUND);
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
const AROUND: usize = 8;

fn topic_of(record: &Record) -> Option<&str> {
    use crate::history::Event::{
        Delivered, Gap, Heartbeat, Hole, Left, Log, Placed, Publish, Refused, Sample, Stale,
        Subscribe, SubscribeRefused, Subscribed, Unknown,
    };
    match &record.event {
        Publish { topic, .. }
        | Subscribe { topic, .. }
        | Subscribed { topic, .. }
        | SubscribeRefused { topic, .. }
        | Delivered { topic, .. }
        | Gap { topic, .. }
        | Hole { topic, .. }
        | Left { topic }
        | Heartbeat { topic, .. }
        | Stale { topic, .. }
        | Log { topic, .. } => Some(topic),
        // Of a topic, but it does not say which; too many to show them all.
        Placed { .. } | Refused { .. } | Unknown { .. } | Sample { .. } => Some(""),
        _ => None,
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Evidence::Looked(n) => write!(f, "pass ({n})"),
            Evidence::Lacking(what) => write!(f, "unknown: {what}"),
        }
    }
}

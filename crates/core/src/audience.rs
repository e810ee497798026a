//! How many watch a topic.

use std::ops::Add;

/// Who watches a topic, as one node speaks for them: its own sessions and those of the nodes that
/// get the topic from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriberCount {
    /// How many sessions there are.
    pub sessions: u64,
    /// Whether one of them asked to be told how many there are in the whole cluster.
    pub wants_audience: bool,
}

impl Add for SubscriberCount {
    type Output = SubscriberCount;

    fn add(self, other: SubscriberCount) -> SubscriberCount {
        SubscriberCount {
            sessions: self.sessions.saturating_add(other.sessions),
            wants_audience: self.wants_audience || other.wants_audience,
        }
    }
}

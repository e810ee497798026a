//! The number of subscribers of a topic.

use std::ops::Add;

/// Subscribers of a topic as one node counts them: its own sessions and those of the nodes that receive the
/// topic from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriberCount {
    /// Number of sessions.
    pub sessions: u64,
    /// Whether at least one session asked for the cluster-wide number of subscribers.
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

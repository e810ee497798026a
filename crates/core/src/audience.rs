//! How many watch a topic.

use std::ops::Add;

/// Who watches a topic, as one node speaks for them: its own sessions and those of the nodes that
/// get the topic from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watching {
    /// How many sessions there are.
    pub sessions: u64,
    /// Whether one of them asked to be told how many there are in the whole cluster.
    pub asks: bool,
}

impl Add for Watching {
    type Output = Watching;

    fn add(self, other: Watching) -> Watching {
        Watching {
            sessions: self.sessions.saturating_add(other.sessions),
            asks: self.asks || other.asks,
        }
    }
}

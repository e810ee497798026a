//! Removals of topics and of their messages by operators.

use serde::{Deserialize, Serialize};

/// A removal. In both cases positions of removed messages are never assigned again, and readers that
/// have not received all of them get a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TopicRemoval {
    /// The messages. The topic stays, with a new epoch.
    Purge,
    /// The topic with its messages. The next publish creates it again, with a new epoch.
    Delete,
}

impl TopicRemoval {
    /// The name of the command.
    pub fn as_str(self) -> &'static str {
        match self {
            TopicRemoval::Purge => "purge",
            TopicRemoval::Delete => "delete",
        }
    }
}

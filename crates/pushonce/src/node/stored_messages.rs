//! The stored messages that a change of a namespace would drop.

use std::collections::BTreeSet;
use std::fmt;

use pushonce_core::{FailPoint, ShardId, Topic};
use pushonce_proto::cluster::{TopicInfo, TopicList};

/// The stored messages of the topics of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StoredMessages {
    topic_count: u64,
    message_count: u64,
    /// Shards whose owner did not answer.
    unknown_shards: BTreeSet<ShardId>,
    /// Whether there may be more topics than were counted.
    pub(super) is_truncated: bool,
}

/// A namespace may not become memory-only without `--force`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{namespace} would move from its replicas' disks to its owners' memory, and {stored}: repeat with \
     --force, or choose a new name"
)]
pub(super) struct ForceRequired {
    namespace: String,
    stored: StoredMessages,
}

impl StoredMessages {
    /// Counts the messages of those topics of `list` that `is_counted` selects.
    pub(super) fn add(&mut self, list: &TopicList, is_counted: impl Fn(&Topic) -> bool) {
        self.unknown_shards.extend(&list.unknown_shards);
        let has_counted_messages =
            |info: &&TopicInfo| info.history_count > 0 && is_counted(&info.topic);
        for info in list.topics.iter().filter(has_counted_messages) {
            self.topic_count += 1;
            self.message_count += info.history_count;
        }
    }

    /// Checks that the namespace may become memory-only.
    ///
    /// # Errors
    /// [`ForceRequired`] when it has stored messages, or may have some.
    pub(super) fn check_droppable(self, namespace: &str) -> Result<(), ForceRequired> {
        let is_empty =
            self.topic_count == 0 && self.unknown_shards.is_empty() && !self.is_truncated;
        if is_empty || FailPoint::StoredMessagesUncounted.is_active() {
            return Ok(());
        }
        Err(ForceRequired { namespace: namespace.to_owned(), stored: self })
    }
}

impl fmt::Display for StoredMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StoredMessages { topic_count, message_count, unknown_shards, is_truncated } = self;
        let at_least = if *is_truncated { "at least " } else { "" };
        write!(
            f,
            "{at_least}{message_count} stored messages of {topic_count} topics would be dropped"
        )?;
        if !unknown_shards.is_empty() {
            let shards: Vec<_> = unknown_shards.iter().map(ToString::to_string).collect();
            write!(f, "; the owners of {} did not answer", shards.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(stored: StoredMessages) -> String {
        stored.check_droppable("chat").expect_err("rejected").to_string()
    }

    #[test]
    fn namespace_without_stored_messages_may_become_memory_only() {
        assert_eq!(StoredMessages::default().check_droppable("chat"), Ok(()));
    }

    #[test]
    fn change_that_drops_stored_messages_names_them_and_the_unreachable_shards() {
        let stored =
            StoredMessages { topic_count: 2, message_count: 40, ..StoredMessages::default() };
        let text = rejection(stored);
        assert!(
            text.contains("40 stored messages of 2 topics") && text.contains("--force"),
            "{text}"
        );
        let unknown =
            StoredMessages { unknown_shards: [ShardId(3)].into(), ..StoredMessages::default() };
        assert!(rejection(unknown).contains("owners of s3"));
        let truncated = StoredMessages { is_truncated: true, ..StoredMessages::default() };
        assert!(rejection(truncated).contains("at least 0"));
    }
}

//! The newest messages of a topic, for downstreams that resume or start late.

use std::collections::VecDeque;
use std::sync::Arc;

use pushonce_core::{Message, Position};

/// Consecutive messages of one epoch, oldest first; bounded in count and bytes.
#[derive(Debug)]
pub(crate) struct RecentMessages {
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
}

impl RecentMessages {
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> RecentMessages {
        RecentMessages { messages: VecDeque::new(), bytes: 0, count_max, bytes_max }
    }

    /// Adds the next message and evicts the oldest messages over the bounds.
    pub(crate) fn push(&mut self, message: Arc<Message>) {
        self.bytes += message.payload.len();
        self.messages.push_back(message);
        while self.messages.len() > self.count_max || self.bytes > self.bytes_max {
            let Some(oldest) = self.messages.pop_front() else { break };
            self.bytes -= oldest.payload.len();
        }
    }

    /// Drops all messages, because the next one does not follow them.
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }

    /// All messages after `position`, if none of them was evicted; empty when `position` is the newest.
    /// `None` for a newer position, which the owner may or may not have assigned, and for [`Position::ZERO`],
    /// because only the owner knows whether the topic had an earlier epoch.
    pub(crate) fn after(&self, position: Position) -> Option<Vec<Arc<Message>>> {
        if position == Position::ZERO {
            return None;
        }
        let first = self.messages.front()?.position;
        if first.follows(position) {
            return Some(self.messages.iter().cloned().collect());
        }
        let last = self.messages.back()?.position;
        if !(first..=last).contains(&position) {
            return None;
        }
        let skip = usize::try_from(position.offset.0 - first.offset.0).ok()? + 1;
        Some(self.messages.iter().skip(skip).cloned().collect())
    }

    /// The newest `count` messages, if that many are kept.
    pub(crate) fn last(&self, count: usize) -> Option<Vec<Arc<Message>>> {
        let skip = self.messages.len().checked_sub(count)?;
        Some(self.messages.iter().skip(skip).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::message;

    fn recent(
        range: std::ops::RangeInclusive<u64>,
        count_max: usize,
        bytes_max: usize,
    ) -> RecentMessages {
        let mut recent = RecentMessages::new(count_max, bytes_max);
        range.for_each(|offset| recent.push(message(4, offset)));
        recent
    }

    fn offsets(messages: Option<Vec<Arc<Message>>>) -> Option<Vec<u64>> {
        messages.map(|messages| messages.iter().map(|m| m.position.offset.0).collect())
    }

    #[test]
    fn messages_after_a_position_are_returned_only_when_all_are_kept() {
        let recent = recent(1..=6, 3, 1_000);
        let after = |offset| offsets(recent.after(Position::new(4, offset)));
        assert_eq!(after(2), None);
        assert_eq!(after(3), Some(vec![4, 5, 6]));
        assert_eq!(after(5), Some(vec![6]));
        assert_eq!(after(6), Some(vec![]));
        assert_eq!(after(7), None, "not received yet, or forged");
        assert_eq!(offsets(recent.after(Position::new(3, 4))), None);
    }

    #[test]
    fn byte_bound_evicts_the_oldest_message() {
        let bytes = message(4, 1).payload.len();
        let recent = recent(1..=5, 100, 2 * bytes);
        assert_eq!(offsets(recent.last(2)), Some(vec![4, 5]));
        assert_eq!(offsets(recent.last(3)), None);
    }

    #[test]
    fn messages_after_zero_are_not_answered_from_memory() {
        assert_eq!(offsets(recent(1..=2, 9, 1_000).after(Position::ZERO)), None);
        assert_eq!(offsets(recent(1..=2, 9, 1_000).after(Position::new(4, 0))), Some(vec![1, 2]));
    }
}

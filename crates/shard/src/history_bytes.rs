//! The payload bytes of the histories of many topics, as a running sum: a node holds up to two million topics.

use crate::topic::TopicState;

/// The payload bytes of the histories of some topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HistoryBytes(u64);

impl HistoryBytes {
    /// The sum over all of these topics.
    pub(crate) fn sum<'a>(topics: impl IntoIterator<Item = &'a TopicState>) -> HistoryBytes {
        HistoryBytes(topics.into_iter().map(TopicState::bytes).sum())
    }

    /// Makes a change of one of the topics and keeps the sum true.
    pub(crate) fn track<T>(
        &mut self,
        log: &mut TopicState,
        change: impl FnOnce(&mut TopicState) -> T,
    ) -> T {
        let before = log.bytes();
        let result = change(log);
        self.0 = (self.0 + log.bytes()).saturating_sub(before);
        result
    }

    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

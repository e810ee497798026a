//! One topic: the order of its messages and its bounded history.
//!
//! The limits are the shard's settings, not the topic's. Every call receives them, so that they apply to a
//! topic that has had no message since they changed.

use std::collections::VecDeque;
use std::sync::Arc;

use pushonce_core::{
    CoverageMark, Epoch, FailPoint, FetchError, Gap, GapReason, History, HistoryPage, HistoryRange,
    Message, Offset, Position, Timestamp, Topic,
};
use serde::{Deserialize, Serialize};

use crate::EntryItem;

/// The stats of a topic on a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicStats {
    /// The name.
    pub topic: Topic,
    /// The newest position.
    pub head: Position,
    /// The number of messages in the history.
    pub count: usize,
    /// The payload bytes of these messages.
    pub bytes: u64,
}

/// One instance of a topic. Its messages have contiguous offsets, and the newest, if there is one, is the
/// head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicState {
    head: Position,
    /// Whether the topic may have existed before; readers of then do not know where that instance ended.
    is_recreated: bool,
    messages: VecDeque<Arc<Message>>,
    bytes: u64,
    /// The time of the newest entry with a message for the topic.
    last_used: Timestamp,
}

impl TopicState {
    /// A new topic. Its epoch is the index of the entry that created it, or of the one that ended the instance before, so
    /// that no two instances of a topic share an epoch. `is_recreated` states whether it may have existed before.
    pub(crate) fn new(epoch: u64, is_recreated: bool) -> TopicState {
        TopicState {
            head: Position { epoch: Epoch(epoch), offset: Offset(0) },
            is_recreated,
            messages: VecDeque::new(),
            bytes: 0,
            last_used: Timestamp(0),
        }
    }

    /// Places a message at the next offset and trims the history to its limits, including the message
    /// itself if it alone exceeds them.
    pub(crate) fn append(
        &mut self,
        time: Timestamp,
        item: EntryItem,
        history: &History,
    ) -> Arc<Message> {
        let EntryItem { topic: _, content_type, key, publish_id: _, payload } = item;
        self.head = self.head.next();
        self.last_used = time;
        self.bytes += payload.len() as u64;
        let message = Message { position: self.head, time, content_type, key, payload };
        let message = Arc::new(message);
        self.messages.push_back(message.clone());
        self.trim(time, history);
        message
    }

    /// The payload bytes of the history, including messages that are hidden and not dropped yet.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Drops the oldest messages above a limit. `now` and the times of the messages are log time: an age is
    /// the log time that has passed since.
    pub(crate) fn trim(&mut self, now: Timestamp, history: &History) {
        for oldest in self.messages.drain(..self.expired_count(now, history)) {
            self.bytes = self.bytes.saturating_sub(oldest.payload.len() as u64);
        }
    }

    /// The number of the oldest messages that are above a limit. They are hidden from readers until an
    /// entry that visits the topic drops them.
    fn expired_count(&self, now: Timestamp, history: &History) -> usize {
        let (mut count, mut bytes) = (self.messages.len(), self.bytes);
        let is_expired = |oldest: &&Arc<Message>| {
            let expired = count > history.count_max as usize
                || bytes > u64::from(history.bytes_max)
                || now.0.saturating_sub(oldest.time.0) > history.age_max_ms;
            count -= 1;
            bytes = bytes.saturating_sub(oldest.payload.len() as u64);
            expired
        };
        self.messages.iter().take_while(is_expired).count()
    }

    /// Whether the oldest message is above a limit.
    pub(crate) fn has_expired(&self, now: Timestamp, history: &History) -> bool {
        self.expired_count(now, history) > 0
    }

    /// Drops all messages and continues at `epoch`, which is later than any of the topic.
    pub(crate) fn purge(&mut self, epoch: Epoch) {
        self.head = Position { epoch, offset: Offset(0) };
        self.is_recreated = true;
        self.messages.clear();
        self.bytes = 0;
    }

    /// Moves the messages to an instance that begins at `epoch`.
    pub(crate) fn restart_at_epoch(&mut self, epoch: Epoch) {
        self.head.epoch = epoch;
        self.is_recreated = true;
        for message in &mut self.messages {
            let mut moved = Message::clone(message);
            moved.position.epoch = epoch;
            *message = Arc::new(moved);
        }
    }

    /// Whether there are no messages, including messages that are hidden and not dropped yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether the topic has no messages and has been unused for longer than its namespace allows.
    pub(crate) fn is_unused(&self, now: Timestamp, history: &History) -> bool {
        self.messages.is_empty() && now.0.saturating_sub(self.last_used.0) > history.expire_after_ms
    }

    /// Reads the history, within the limits at `now`.
    ///
    /// `After` reports what is missing between the requested position and the oldest message left. `Last`
    /// and `All` request what is retained, so they never report a gap.
    pub(crate) fn fetch_history(
        &self,
        range: HistoryRange,
        now: Timestamp,
        history: &History,
    ) -> Result<HistoryPage, FetchError> {
        let expired = self.expired_count(now, history);
        match range {
            HistoryRange::After(reached) => self.page_after(reached, expired),
            HistoryRange::Last(n) => {
                let skipped = self.messages.len().saturating_sub(n as usize);
                Ok(self.page_from(skipped.max(expired), None))
            }
            HistoryRange::All => Ok(self.page_from(expired, None)),
        }
    }

    /// The page of a topic that has not assigned a position yet. It has no messages, so no limit applies.
    pub(crate) fn empty_page(index: u64, range: HistoryRange) -> Result<HistoryPage, FetchError> {
        TopicState::new(index, true).fetch_history(range, Timestamp(0), &History::default())
    }

    fn page_after(&self, reached: Position, expired: usize) -> Result<HistoryPage, FetchError> {
        let Position { epoch, offset } = reached;
        let before_any_epoch = epoch == Epoch(0) && reached != Position::ZERO;
        if reached > self.head || before_any_epoch {
            CoverageMark::FuturePosition.reach();
            return Err(FetchError::FuturePosition { requested: reached, head: self.head });
        }
        // A forged offset of an earlier epoch may have any value, up to the maximum.
        let next = Offset(offset.0.saturating_add(1));
        let first = self.first_visible_offset(expired);
        let is_recreated = self.is_recreated && !FailPoint::EarlierEpochHidden.is_active();
        if epoch != self.head.epoch && (is_recreated || reached != Position::ZERO) {
            CoverageMark::GapEpoch.reach();
            let gap = self.gap(Position { epoch, offset: next }, first, GapReason::Epoch);
            return Ok(self.page_from(expired, Some(gap)));
        }
        let gap = (next < first).then(|| {
            CoverageMark::GapExpired.reach();
            self.gap(self.position_at(next), first, GapReason::Expired)
        });
        let skipped = usize::try_from(next.0.saturating_sub(first.0)).unwrap_or(usize::MAX);
        Ok(self.page_from(expired.saturating_add(skipped), gap))
    }

    fn page_from(&self, skipped: usize, gap: Option<Gap>) -> HistoryPage {
        let messages = self.messages.iter().skip(skipped).cloned().collect();
        HistoryPage { messages, head: self.head, gap }
    }

    /// The gap from `from` to the message before `first`, the oldest visible one. If nothing of the current
    /// epoch is missing, the gap ends at the position before the first message of the epoch, so that this
    /// message follows it.
    fn gap(&self, from: Position, first: Offset, reason: GapReason) -> Gap {
        let last = Offset(first.0.saturating_sub(1));
        Gap { from, to: self.position_at(last), reason }
    }

    /// The offset of the oldest visible message, or of the next one when none is visible.
    fn first_visible_offset(&self, expired: usize) -> Offset {
        self.messages.get(expired).map_or(self.head.offset.next(), |oldest| oldest.position.offset)
    }

    fn position_at(&self, offset: Offset) -> Position {
        Position { epoch: self.head.epoch, offset }
    }

    /// Whether the invariants of the type hold, and the next offset does not overflow.
    pub(crate) fn is_consistent(&self) -> bool {
        let Position { epoch, offset: Offset(head) } = self.head;
        let expected_offsets = (0..).map(|back| head.checked_sub(back).filter(|place| *place > 0));
        let is_expected = |(message, expected): (&Arc<Message>, Option<u64>)| {
            message.position.epoch == epoch && Some(message.position.offset.0) == expected
        };
        head < u64::MAX
            && self.messages.iter().rev().zip(expected_offsets).all(is_expected)
            && self.bytes == self.messages.iter().map(|m| m.payload.len() as u64).sum::<u64>()
    }

    /// The stats that a reader would see at `now`.
    pub(crate) fn stats(&self, topic: &Topic, now: Timestamp, history: &History) -> TopicStats {
        let expired = self.expired_count(now, history);
        let expired_bytes: u64 =
            self.messages.iter().take(expired).map(|message| message.payload.len() as u64).sum();
        TopicStats {
            topic: topic.clone(),
            head: self.head,
            count: self.messages.len() - expired,
            bytes: self.bytes.saturating_sub(expired_bytes),
        }
    }
}

#[cfg(test)]
mod topic_test;

//! Truncation of history to the limits of a topic's namespace, as this node knows them.
//!
//! A ring keeps messages for slow subscribers, within its own bounds, which are independent of what a
//! namespace allows. So everything that is read as history is truncated here: messages in the ring for a
//! resume, `last`, `start` or a snapshot, and pages from upstream, whose owner may not know the newest
//! settings yet. Live subscribers are not affected: a message is delivered once, however short the history.

use std::sync::Arc;

use pushonce_core::{
    FailPoint, Gap, GapReason, History, HistoryPage, HistoryRange, Message, Timestamp,
};

use crate::ring::position_before;

/// The limits of a topic's history, and the time by which ages are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// The limits, from this node's view.
    pub history: History,
    /// The newest log time of the topic's shard that this node knows. It is never ahead of the owner's, so
    /// no message is hidden that the owner would show.
    pub log_time: Timestamp,
}

impl Retention {
    /// Number of messages that are visible, of messages given newest first.
    pub(crate) fn count_visible<'a>(
        &self,
        newest_first: impl Iterator<Item = &'a Arc<Message>>,
    ) -> usize {
        if FailPoint::RetentionIgnored.is_active() {
            return newest_first.count();
        }
        let History { count_max, bytes_max, age_max_ms, .. } = self.history;
        let (mut now, mut bytes) = (self.log_time, 0_u64);
        let is_visible = |message: &&Arc<Message>| {
            // The log time is at least that of the newest message, when no newer one is known.
            now = now.max(message.time);
            bytes += message.payload.len() as u64;
            bytes <= u64::from(bytes_max) && now.0 - message.time.0 <= age_max_ms
        };
        let count_max = usize::try_from(count_max).unwrap_or(usize::MAX);
        newest_first.take(count_max).take_while(is_visible).count()
    }

    /// Removes the messages that are not visible from a page. In a reply to [`HistoryRange::After`] they
    /// are reported as a gap.
    pub(crate) fn truncate_page(&self, mut page: HistoryPage, range: HistoryRange) -> HistoryPage {
        let visible = self.count_visible(page.messages.iter().rev());
        let hidden = page.messages.len() - visible;
        let Some(first_hidden) = page.messages.drain(..hidden).next() else { return page };
        if matches!(range, HistoryRange::After(_)) {
            let to =
                page.messages.first().map_or(page.head, |first| position_before(first.position));
            let from = page.gap.map_or(first_hidden.position, |gap| gap.from);
            let reason = page.gap.map_or(GapReason::Expired, |gap| gap.reason);
            page.gap = Some(Gap { from, to, reason });
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pushonce_core::{Position, test_util};

    use super::*;

    fn message(offset: u64, time: u64, bytes: usize) -> Arc<Message> {
        let payload = vec![b'x'; bytes].into();
        Arc::new(Message { time: Timestamp(time), payload, ..test_util::message(7, offset) })
    }

    fn page(messages: Vec<Arc<Message>>) -> HistoryPage {
        let head = messages.last().map_or(Position::new(7, 0), |last| last.position);
        HistoryPage { messages, head, gap: None }
    }

    fn retention(count_max: u32, bytes_max: u32, age_max_ms: u64, log_time: u64) -> Retention {
        let history = History { count_max, bytes_max, age_max_ms, ..History::default() };
        Retention { history, log_time: Timestamp(log_time) }
    }

    fn offsets(page: &HistoryPage) -> Vec<u64> {
        page.messages.iter().map(|message| message.position.offset.0).collect()
    }

    #[test]
    fn each_retention_bound_hides_the_oldest_messages() {
        let messages = || page((1..=5).map(|n| message(n, n * 100, 10)).collect());
        let visible_offsets =
            |retention: Retention| offsets(&retention.truncate_page(messages(), HistoryRange::All));
        assert_eq!(visible_offsets(retention(9, 900, 9_000, 500)), [1, 2, 3, 4, 5]);
        assert_eq!(visible_offsets(retention(2, 900, 9_000, 500)), [4, 5]);
        assert_eq!(visible_offsets(retention(9, 29, 9_000, 500)), [4, 5]);
        assert_eq!(visible_offsets(retention(9, 900, 200, 500)), [3, 4, 5]);
        assert_eq!(visible_offsets(retention(9, 900, 200, 650)), [5]);
        assert_eq!(visible_offsets(retention(0, 900, 9_000, 500)), [0; 0], "no history");
    }

    #[test]
    fn unknown_log_time_falls_back_to_the_time_of_the_newest_message() {
        let messages = page(vec![message(1, 100, 1), message(2, 900, 1)]);
        assert_eq!(
            offsets(&retention(9, 9, 800, 0).truncate_page(messages.clone(), HistoryRange::All)),
            [1, 2]
        );
        assert_eq!(
            offsets(&retention(9, 9, 799, 0).truncate_page(messages, HistoryRange::All)),
            [2]
        );
    }

    #[test]
    fn messages_hidden_from_a_resume_are_reported_as_a_gap() {
        let messages = || page((4..=6).map(|n| message(n, 100, 1)).collect());
        let range = HistoryRange::After(Position::new(7, 3));
        let truncated = retention(1, 9, 900, 100).truncate_page(messages(), range);
        let gap = |from: (u64, u64), to, reason| {
            Some(Gap { from: Position::new(from.0, from.1), to: Position::new(7, to), reason })
        };
        assert_eq!(
            (offsets(&truncated), truncated.gap),
            (vec![6], gap((7, 4), 5, GapReason::Expired))
        );
        let with_gap = HistoryPage { gap: gap((2, 9), 3, GapReason::Epoch), ..messages() };
        let truncated = retention(0, 9, 900, 100)
            .truncate_page(with_gap, HistoryRange::After(Position::new(2, 8)));
        assert_eq!(
            (offsets(&truncated), truncated.gap),
            (vec![], gap((2, 9), 6, GapReason::Epoch))
        );
    }

    proptest! {
        /// The visible messages are those of an owner that drops the oldest while any limit is exceeded.
        #[test]
        fn edge_shows_the_same_history_as_the_owner_keeps(
            sizes in proptest::collection::vec((0..30usize, 0..50u64), 0..20),
            count in 0..12u32, bytes in 0..200u32, age in 0..200u64, since in 0..100u64,
        ) {
            let mut time = 0;
            let messages = sizes.iter().zip(1..).map(|(&(bytes, elapsed), offset)| {
                time += elapsed;
                message(offset, time, bytes)
            });
            let messages: Vec<_> = messages.collect();
            let now = time + since;
            let mut kept = &messages[..];
            while let Some(oldest) = kept.first()
                && (kept.len() > count as usize
                    || kept.iter().map(|m| m.payload.len()).sum::<usize>() > bytes as usize
                    || now - oldest.time.0 > age)
            {
                kept = &kept[1..];
            }
            let retention = retention(count, bytes, age, now);
            prop_assert_eq!(&retention.truncate_page(page(messages.clone()), HistoryRange::All).messages[..], kept);
        }
    }
}

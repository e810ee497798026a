//! The subscribers of the bench, and what they have received.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pushonce_core::Gap;
use pushonce_instruments::{LatencyHistogram, MessageStamp, RunClock};
use tokio::sync::Notify;

/// Number of separate counters, so that subscribers that read at the same time rarely wait for each other.
/// Each holds a histogram of 150 KiB.
const STATS_SHARDS: usize = 16;

/// State shared by all subscribers and the publisher.
pub(super) struct DeliveryTracker {
    pub(super) clock: RunClock,
    /// Number of subscribers of each topic.
    subscribers_by_topic: Vec<AtomicU32>,
    subscribed: AtomicU64,
    /// Number of sessions that failed or ended.
    ended: AtomicU64,
    delivered: AtomicU64,
    /// Number of deliveries when everything that was published has arrived.
    expected: AtomicU64,
    all_delivered: Notify,
    stats: [Mutex<FanoutDeliveryStats>; STATS_SHARDS],
    first_failure: Mutex<Option<String>>,
}

/// What subscribers received.
#[derive(Clone, Default)]
pub(super) struct FanoutDeliveryStats {
    /// Gaps that the server reported.
    pub(super) gaps: u64,
    /// Messages in the reported gaps.
    pub(super) messages_in_gaps: u64,
    /// Messages that were skipped without a gap.
    pub(super) missing_unreported: u64,
    /// Messages that arrived again or out of order.
    pub(super) duplicates: u64,
    /// Latency from the due time of a message until a subscriber has read it.
    pub(super) latency: LatencyHistogram,
}

/// The position of one subscriber in its topic.
pub(super) struct SubscriberCursor {
    stats_shard: usize,
    next_sequence: u64,
}

/// The messages of one read from a socket.
pub(super) struct ReadBatch<'a> {
    tracker: &'a DeliveryTracker,
    cursor: &'a mut SubscriberCursor,
    stats: MutexGuard<'a, FanoutDeliveryStats>,
    read_at: Instant,
    delivered: u64,
}

impl DeliveryTracker {
    pub(super) fn new(topics: usize) -> DeliveryTracker {
        DeliveryTracker {
            clock: RunClock::new(rand::random()),
            subscribers_by_topic: (0..topics).map(|_| AtomicU32::new(0)).collect(),
            subscribed: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            all_delivered: Notify::new(),
            stats: Default::default(),
            first_failure: Mutex::default(),
        }
    }

    /// Records that a subscriber of the topic with index `topic_index` is live.
    pub(super) fn on_subscribed(&self, topic_index: usize) -> SubscriberCursor {
        self.subscribers_by_topic[topic_index].fetch_add(1, Ordering::Relaxed);
        let number = self.subscribed.fetch_add(1, Ordering::Relaxed);
        SubscriberCursor { stats_shard: number as usize % STATS_SHARDS, next_sequence: 0 }
    }

    /// Records that a session ended or could not be opened.
    pub(super) fn on_session_ended(&self, reason: &str) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        lock(&self.first_failure).get_or_insert_with(|| reason.to_owned());
    }

    /// Records that a message is published: every subscriber of the topic will read it.
    pub(super) fn expect_deliveries(&self, topic_index: usize) {
        let listeners = self.subscribers_by_topic[topic_index].load(Ordering::Relaxed);
        self.expected.fetch_add(listeners.into(), Ordering::AcqRel);
    }

    /// Records that the message was rejected: no subscriber will read it.
    pub(super) fn cancel_expected(&self, topic_index: usize) {
        let listeners = self.subscribers_by_topic[topic_index].load(Ordering::Relaxed);
        self.expected.fetch_sub(listeners.into(), Ordering::AcqRel);
    }

    /// Waits until everything that was published has arrived.
    pub(super) async fn wait_until_all_delivered(&self) {
        while self.delivered() < self.expected() {
            self.all_delivered.notified().await;
        }
    }

    /// Starts to count what a subscriber has just read.
    pub(super) fn begin_read<'a>(&'a self, cursor: &'a mut SubscriberCursor) -> ReadBatch<'a> {
        let stats = lock(&self.stats[cursor.stats_shard]);
        ReadBatch { tracker: self, cursor, stats, read_at: Instant::now(), delivered: 0 }
    }

    pub(super) fn subscribed(&self) -> u64 {
        self.subscribed.load(Ordering::Relaxed)
    }

    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Acquire)
    }

    pub(super) fn expected(&self) -> u64 {
        self.expected.load(Ordering::Acquire)
    }

    /// The error of the first session that ended.
    pub(super) fn first_failure(&self) -> Option<String> {
        lock(&self.first_failure).clone()
    }

    /// The sum of the statistics of all subscribers.
    pub(super) fn total_stats(&self) -> FanoutDeliveryStats {
        let mut sum = FanoutDeliveryStats::default();
        for shard in &self.stats {
            let stats = lock(shard);
            sum.gaps += stats.gaps;
            sum.messages_in_gaps += stats.messages_in_gaps;
            sum.missing_unreported += stats.missing_unreported;
            sum.duplicates += stats.duplicates;
            sum.latency.add(&stats.latency);
        }
        sum
    }
}

impl ReadBatch<'_> {
    pub(super) fn on_message(&mut self, stamp: MessageStamp) {
        let SubscriberCursor { next_sequence, .. } = self.cursor;
        if stamp.sequence < *next_sequence {
            self.stats.duplicates += 1;
            return;
        }
        self.stats.missing_unreported += stamp.sequence - *next_sequence;
        *next_sequence = stamp.sequence + 1;
        self.delivered += 1;
        self.stats.latency.record(self.read_at.saturating_duration_since(stamp.due_at));
    }

    /// Records a reported gap, whose messages do not count as missing.
    pub(super) fn on_gap(&mut self, gap: &Gap) {
        let missing = gap.to.offset.0.saturating_sub(gap.from.offset.0) + 1;
        self.stats.gaps += 1;
        self.stats.messages_in_gaps += missing;
        self.cursor.next_sequence += missing;
    }
}

impl Drop for ReadBatch<'_> {
    fn drop(&mut self) {
        if self.delivered == 0 {
            return;
        }
        let before = self.tracker.delivered.fetch_add(self.delivered, Ordering::AcqRel);
        let expected = self.tracker.expected();
        if (before..before + self.delivered).contains(&expected.saturating_sub(1)) {
            self.tracker.all_delivered.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use pushonce_core::{GapReason, Position};

    use super::*;

    fn stamp(sequence: u64) -> MessageStamp {
        MessageStamp { sequence, due_at: Instant::now() }
    }

    #[test]
    fn missing_and_duplicate_messages_are_counted_and_reported_gaps_are_not_missing() {
        let tracker = DeliveryTracker::new(1);
        let mut cursor = tracker.on_subscribed(0);
        let mut batch = tracker.begin_read(&mut cursor);
        [0, 1, 1, 4].into_iter().for_each(|sequence| batch.on_message(stamp(sequence)));
        let (from, to) = (Position::new(1, 6), Position::new(1, 8));
        batch.on_gap(&Gap { from, to, reason: GapReason::Slow });
        batch.on_message(stamp(8));
        drop(batch);
        let stats = tracker.total_stats();
        assert_eq!((stats.missing_unreported, stats.duplicates), (2, 1));
        assert_eq!((stats.gaps, stats.messages_in_gaps), (1, 3));
        assert_eq!(tracker.delivered(), 4);
    }

    #[tokio::test]
    async fn all_is_delivered_when_each_subscriber_has_read_each_message() {
        let tracker = DeliveryTracker::new(2);
        let mut cursors =
            [tracker.on_subscribed(0), tracker.on_subscribed(0), tracker.on_subscribed(1)];
        tracker.expect_deliveries(0);
        assert_eq!(tracker.expected(), 2);
        for cursor in &mut cursors[..2] {
            assert!(tracker.delivered() < tracker.expected());
            tracker.begin_read(cursor).on_message(stamp(0));
        }
        tracker.wait_until_all_delivered().await;
        tracker.expect_deliveries(1);
        tracker.cancel_expected(1);
        tracker.wait_until_all_delivered().await;
    }
}

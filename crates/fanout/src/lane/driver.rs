//! The loop that brings frames to a lane's sessions.

use std::collections::VecDeque;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Lane;
use super::dispatcher::Dispatcher;
use super::subscription_table::{LaneSubscription, LaneTopic, SubscriptionTable};
use crate::metrics::FanoutMetrics;
use crate::topic_buffer::TopicBuffer;

/// How many offers are made before the runtime may do something else. An offer is mostly a write of
/// some 4 µs: sockets wait at most a millisecond to be read. More would make them wait; fewer would
/// poll the sockets more often than there is news. What is gathered for a session counts by the topic.
const OFFERS_PER_TURN: usize = 256;

/// How many of a turn's offers go to those who catch up, so that they cannot starve the walks.
const READY_OFFERS_PER_TURN: usize = OFFERS_PER_TURN / 2;

/// Runs a lane. One a lane, on the lane's thread.
pub struct LaneDriver {
    lane: Lane,
    /// Topics that were told since the last turn; empty between turns.
    newly_dirty: VecDeque<usize>,
    /// Topics to walk, in the order in which they were told, and since when. At most one entry a topic
    /// but for stale ones of topics that left, whose walk finds nothing due.
    walk_queue: VecDeque<(usize, Instant)>,
    walk: Option<Walk>,
    dispatcher: Dispatcher,
}

/// A walk over the subscribers of a topic, as far as it got.
struct Walk {
    topic_index: usize,
    /// What the topic was when the walk began: its index may be another's by now.
    buffer: Arc<TopicBuffer>,
    version: u64,
    next_index: usize,
    /// Since when its news waits.
    waiting_since: Instant,
}

impl LaneDriver {
    pub(super) fn new(lane: Lane) -> LaneDriver {
        let (newly_dirty, walk_queue) = (VecDeque::new(), VecDeque::new());
        let dispatcher = Dispatcher::new(Rc::clone(&lane.shared));
        LaneDriver { lane, newly_dirty, walk_queue, walk: None, dispatcher }
    }

    /// Offers frames until `shutdown`. Sessions stay open then: closing them is their owner's.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if self.run_turn() {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = self.lane.shared.dirty_topics.wait() => {}
                () = self.wait_for_resume() => {}
            }
        }
    }

    /// Waits until a subscription has rested, if any rests.
    async fn wait_for_resume(&self) {
        let resume_at = self.lane.table().next_resume_at();
        match resume_at {
            Some(until) => sleep_until(until).await,
            None => pending().await,
        }
    }

    /// Makes as many offers as a turn may. Says whether more is due.
    fn run_turn(&mut self) -> bool {
        let lane = self.lane.clone();
        let now = Instant::now();
        lane.shared.dirty_topics.drain_into(&mut self.newly_dirty);
        let mut table = lane.table();
        for topic_index in self.newly_dirty.drain(..) {
            table.set_dirty(topic_index, true);
            self.walk_queue.push_back((topic_index, now));
        }
        table.resume_due(now);
        let topic_count = self.walk_queue.len() + usize::from(self.walk.is_some());
        self.dispatcher.begin_turn(topic_count + table.ready.len() > 1);
        let mut offers = self.dispatch_ready(&mut table);
        while offers < OFFERS_PER_TURN && self.ensure_walk(&table) {
            offers += self.advance_walk(&mut table, OFFERS_PER_TURN - offers);
        }
        self.dispatcher.end_turn(&mut table);
        self.record_lag(now);
        self.metrics().turn_seconds.record(now.elapsed());
        self.walk.is_some() || !self.walk_queue.is_empty() || !table.ready.is_empty()
    }

    fn metrics(&self) -> &FanoutMetrics {
        &self.lane.shared.hub.shared.registry.metrics
    }

    /// How long what waits has waited by now.
    fn record_lag(&self, now: Instant) {
        let walked = self.walk.as_ref().map(|walk| walk.waiting_since);
        let oldest = walked
            .into_iter()
            .chain(self.walk_queue.front().map(|(_, waiting_since)| *waiting_since))
            .min();
        let lag_max = &self.lane.shared.lag_max;
        lag_max.set(
            lag_max.get().max(oldest.map_or(Duration::ZERO, |waiting_since| now - waiting_since)),
        );
    }

    /// Serves those that go on by themselves, each at most once a turn. Returns how many.
    fn dispatch_ready(&mut self, table: &mut SubscriptionTable) -> usize {
        let (ready_count, mut offers) = (table.ready.len(), 0);
        for _ in 0..ready_count {
            if offers >= READY_OFFERS_PER_TURN {
                break;
            }
            // One that has gone counts, or many of them would make a turn long.
            let next = table.next_ready();
            offers += next.map_or(1, |(topic_index, subscription_index)| {
                self.dispatcher.dispatch(table, topic_index, subscription_index)
            });
        }
        offers
    }

    /// Makes sure that there is a walk. Says no when no topic is due.
    fn ensure_walk(&mut self, table: &SubscriptionTable) -> bool {
        while self.walk.is_none() {
            let Some((topic_index, waiting_since)) = self.walk_queue.pop_front() else {
                return false;
            };
            let Some(lane_topic) = table.topics.get(topic_index) else { continue };
            let buffer = Arc::clone(lane_topic.registration.buffer());
            let version = buffer.state().version();
            self.walk = Some(Walk { topic_index, buffer, version, next_index: 0, waiting_since });
            self.dispatcher.begin_topic(topic_index);
        }
        true
    }

    /// Goes on with the walk for at most so many offers. Returns how many were made.
    fn advance_walk(&mut self, table: &mut SubscriptionTable, offers_max: usize) -> usize {
        let Some(mut walk) = self.walk.take() else { return 0 };
        let mut offers = 0;
        while offers < offers_max {
            let Some(subscription_index) = walk.next_subscription(table) else {
                self.finish_walk(table, &walk);
                // A walk without offers counts as one, as above.
                return offers.max(1);
            };
            offers += self.dispatcher.dispatch(table, walk.topic_index, subscription_index);
        }
        self.walk = Some(walk);
        offers
    }

    fn finish_walk(&mut self, table: &mut SubscriptionTable, walk: &Walk) {
        let now = Instant::now();
        self.metrics().delivery_seconds.record(now - walk.waiting_since);
        if walk.must_repeat(table) {
            self.walk_queue.push_back((walk.topic_index, now));
        } else {
            // A topic that has taken its index meanwhile is walked over all the same.
            table.set_dirty(walk.topic_index, false);
        }
    }
}

impl Walk {
    fn lane_topic<'a>(&self, table: &'a SubscriptionTable) -> Option<&'a LaneTopic> {
        table
            .topics
            .get(self.topic_index)
            .filter(|lane_topic| Arc::ptr_eq(lane_topic.registration.buffer(), &self.buffer))
    }

    /// The next subscription that may be offered something. None: the walk is over.
    fn next_subscription(&mut self, table: &SubscriptionTable) -> Option<usize> {
        let lane_topic = self.lane_topic(table)?;
        let index = (self.next_index..lane_topic.subscriptions.capacity()).find(|&entry| {
            lane_topic.subscriptions.get(entry).is_some_and(LaneSubscription::is_deliverable)
        })?;
        self.next_index = index + 1;
        Some(index)
    }

    /// Ends the walk. Says whether something came while it went on, so that it must be made again.
    fn must_repeat(&self, table: &SubscriptionTable) -> bool {
        self.lane_topic(table)
            .is_some_and(|lane_topic| !lane_topic.registration.try_rearm(self.version))
    }
}

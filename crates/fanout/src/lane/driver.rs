//! The loop that delivers frames to the sessions of a lane.

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
use crate::topic_buffer::{MessageArrival, TopicBuffer};

/// Maximum number of offers in a turn, before the driver yields to the runtime. An offer is usually a write
/// of some 4 µs, so sockets wait at most a millisecond to be read. A higher value would make them wait
/// longer; a lower one would poll the sockets more often than there is news. A deferred batch counts as an
/// offer.
const OFFERS_PER_TURN: usize = 256;

/// Maximum number of a turn's offers to subscriptions that catch up, so that these cannot starve the walks.
const READY_OFFERS_PER_TURN: usize = OFFERS_PER_TURN / 2;

/// Runs a lane. Exactly one per lane, on the lane's thread.
pub struct LaneDriver {
    lane: Lane,
    /// Topics that changed since the last turn; empty between turns.
    newly_dirty: VecDeque<usize>,
    /// Topics to walk, in the order of their changes, with the time of the change. At most one entry per
    /// topic, except for entries of removed topics, whose walk finds nothing to deliver.
    walk_queue: VecDeque<(usize, Instant)>,
    walk: Option<Walk>,
    /// The messages whose walk ended in this turn; empty between turns.
    delivered: Vec<MessageArrival>,
    dispatcher: Dispatcher,
}

/// A walk over the subscribers of a topic, and its progress.
struct Walk {
    topic_index: usize,
    /// The topic when the walk began: by now its index may belong to another topic.
    buffer: Arc<TopicBuffer>,
    version: u64,
    next_index: usize,
    /// When the lane was notified of the change that the walk delivers.
    waiting_since: Instant,
    /// The oldest messages that the walk delivers; `None` if it delivers only other changes.
    arrival: Option<MessageArrival>,
}

impl LaneDriver {
    pub(super) fn new(lane: Lane) -> LaneDriver {
        let (newly_dirty, walk_queue) = (VecDeque::new(), VecDeque::new());
        let dispatcher = Dispatcher::new(Rc::clone(&lane.shared));
        LaneDriver { lane, newly_dirty, walk_queue, walk: None, delivered: Vec::new(), dispatcher }
    }

    /// Offers frames until `shutdown`. Sessions stay open: their owner closes them.
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

    /// Waits until the pause of a subscription ends; never returns if none is paused.
    async fn wait_for_resume(&self) {
        let resume_at = self.lane.table().next_resume_at();
        match resume_at {
            Some(until) => sleep_until(until).await,
            None => pending().await,
        }
    }

    /// Runs one turn. Returns whether more work is due.
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
        let ended_at = Instant::now();
        self.metrics().turn_seconds.record(ended_at - now);
        for arrival in self.delivered.drain(..) {
            self.lane.shared.hub.shared.registry.metrics.record_delivery(arrival, ended_at);
        }
        self.walk.is_some() || !self.walk_queue.is_empty() || !table.ready.is_empty()
    }

    fn metrics(&self) -> &FanoutMetrics {
        &self.lane.shared.hub.shared.registry.metrics
    }

    /// Records how long the oldest undelivered change has waited.
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

    /// Dispatches the ready subscriptions, each at most once a turn. Returns the number of offers.
    fn dispatch_ready(&mut self, table: &mut SubscriptionTable) -> usize {
        let (ready_count, mut offers) = (table.ready.len(), 0);
        for _ in 0..ready_count {
            if offers >= READY_OFFERS_PER_TURN {
                break;
            }
            // A removed subscription counts as an offer, or many of them would make a long turn.
            let next = table.next_ready();
            offers += next.map_or(1, |(topic_index, subscription_index)| {
                self.dispatcher.dispatch(table, topic_index, subscription_index)
            });
        }
        offers
    }

    /// Starts a walk if there is none. Returns whether there is one.
    fn ensure_walk(&mut self, table: &SubscriptionTable) -> bool {
        while self.walk.is_none() {
            let Some((topic_index, waiting_since)) = self.walk_queue.pop_front() else {
                return false;
            };
            let Some(lane_topic) = table.topics.get(topic_index) else { continue };
            let buffer = Arc::clone(lane_topic.registration.buffer());
            let (version, arrival) = lane_topic.registration.begin_walk();
            self.walk =
                Some(Walk { topic_index, buffer, version, next_index: 0, waiting_since, arrival });
            self.dispatcher.begin_topic(topic_index);
        }
        true
    }

    /// Continues the walk for at most `offers_max` offers. Returns the number of offers.
    fn advance_walk(&mut self, table: &mut SubscriptionTable, offers_max: usize) -> usize {
        let Some(mut walk) = self.walk.take() else { return 0 };
        let mut offers = 0;
        while offers < offers_max {
            let Some(subscription_index) = walk.next_subscription(table) else {
                self.finish_walk(table, &walk);
                // A walk without offers counts as one, for the same reason as above.
                return offers.max(1);
            };
            offers += self.dispatcher.dispatch(table, walk.topic_index, subscription_index);
        }
        self.walk = Some(walk);
        offers
    }

    fn finish_walk(&mut self, table: &mut SubscriptionTable, walk: &Walk) {
        self.delivered.extend(walk.arrival);
        if walk.must_repeat(table) {
            self.walk_queue.push_back((walk.topic_index, Instant::now()));
        } else {
            // If another topic has the index by now, its walk is in the queue nevertheless.
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

    /// The next subscription that can be offered frames; `None` when the walk is complete.
    fn next_subscription(&mut self, table: &SubscriptionTable) -> Option<usize> {
        let lane_topic = self.lane_topic(table)?;
        let index = (self.next_index..lane_topic.subscriptions.index_bound()).find(|&entry| {
            lane_topic.subscriptions.get(entry).is_some_and(LaneSubscription::is_deliverable)
        })?;
        self.next_index = index + 1;
        Some(index)
    }

    /// Completes the walk. Returns whether the topic changed meanwhile, so that it must be walked again.
    fn must_repeat(&self, table: &SubscriptionTable) -> bool {
        self.lane_topic(table)
            .is_some_and(|lane_topic| !lane_topic.registration.try_rearm(self.version))
    }
}

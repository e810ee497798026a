//! What goes out in one turn: to each session by one offer, however many of its topics have news.
//!
//! Where several topics have news in a turn, a session that has several subscriptions is gathered for:
//! all of its portions, as handles of frames that the rings hold, wait until the turn ends and are
//! offered together then. A cursor moves behind what was taken and no further, so that a session whose
//! socket is full still stores nothing. Everybody else is offered a portion as it is found.

use std::rc::Rc;

use tokio::time::Instant;

use super::LaneShared;
use super::batch::TurnBatchCache;
use super::subscription_batch::{DeliveryProgress, SubscriptionBatch};
use super::subscription_table::{LaneSession, SessionKey, SubscriptionTable};
use crate::{FrameRun, OfferOutcome, SinkClosed};

pub(super) struct Dispatcher {
    lane: Rc<LaneShared>,
    batch_cache: TurnBatchCache,
    /// More than one topic may have news in this turn.
    has_several_topics: bool,
    /// In the order in which they were found. As many as a turn has offers at most, and a session's
    /// topics once more; none between turns.
    pending: Vec<PendingDelivery>,
    /// The rest of the topics of the session that is gathered for; empty otherwise.
    other_topics: Vec<(usize, usize)>,
    /// Messages that were taken in this turn.
    delivered_count: usize,
}

/// A portion and whose it is.
struct PendingDelivery {
    key: SessionKey,
    /// The topic's index, and the subscription's there.
    topic_index: usize,
    subscription_index: usize,
    token: u32,
    batch: SubscriptionBatch,
}

/// What became of a portion.
enum DispatchOutcome {
    /// It waits for the end of the turn, with the token of its subscription.
    Deferred(u32, SubscriptionBatch),
    Completed(DeliveryProgress),
    /// The session is over.
    SessionClosed,
}

impl Dispatcher {
    pub(super) fn new(lane: Rc<LaneShared>) -> Dispatcher {
        let (batch_cache, pending, other_topics) = Default::default();
        Dispatcher {
            lane,
            batch_cache,
            has_several_topics: false,
            pending,
            other_topics,
            delivered_count: 0,
        }
    }

    /// Begins a turn, in which `has_several_topics` topics may have news or one.
    pub(super) fn begin_turn(&mut self, has_several_topics: bool) {
        self.has_several_topics = has_several_topics;
    }

    /// Begins a walk over a topic.
    pub(super) fn begin_topic(&mut self, topic_index: usize) {
        self.batch_cache.for_topic(topic_index).clear();
    }

    /// Offers a subscription what is due to it; or gathers that, and whatever else is due to its
    /// session. Says how many topics' worth of offers that was.
    pub(super) fn dispatch(
        &mut self,
        table: &mut SubscriptionTable,
        topic_index: usize,
        subscription_index: usize,
    ) -> usize {
        let pending_before = self.pending.len();
        self.dispatch_one(table, topic_index, subscription_index);
        if let Some(PendingDelivery { key, .. }) = self.pending.get(pending_before) {
            let mut other_topics = std::mem::take(&mut self.other_topics);
            table.collect_dirty(*key, &mut other_topics);
            for (other_topic, other_subscription) in
                other_topics.drain(..).filter(|(other, _)| *other != topic_index)
            {
                self.dispatch_one(table, other_topic, other_subscription);
            }
            self.other_topics = other_topics;
        }
        (self.pending.len() - pending_before).max(1)
    }

    fn dispatch_one(
        &mut self,
        table: &mut SubscriptionTable,
        topic_index: usize,
        subscription_index: usize,
    ) {
        let Dispatcher { lane, batch_cache, has_several_topics, .. } = self;
        let (hub, latest_min_interval) = (&lane.hub.shared, lane.latest_min_interval.get());
        let outcome = table.with_subscription(
            topic_index,
            subscription_index,
            |subscription, session, buffer| {
                if subscription.is_pending {
                    subscription.needs_recheck = true;
                    return DispatchOutcome::Completed(DeliveryProgress::default());
                }
                if !subscription.is_deliverable() {
                    return DispatchOutcome::Completed(DeliveryProgress::default());
                }
                let batch = SubscriptionBatch::for_subscription(
                    subscription,
                    session,
                    buffer,
                    batch_cache.for_topic(topic_index),
                    hub,
                );
                let (token, count) = (subscription.token, batch.len());
                subscription.is_pending =
                    *has_several_topics && session.has_several_subscriptions() && count > 0;
                if subscription.is_pending {
                    return DispatchOutcome::Deferred(token, batch);
                }
                match offer(session, &batch.runs(token)) {
                    Ok(OfferOutcome { accepted, is_blocked: blocked }) => {
                        let blocked = blocked || accepted < count;
                        let metrics = &hub.registry.metrics;
                        DispatchOutcome::Completed(batch.apply_accepted(
                            subscription,
                            accepted,
                            blocked,
                            latest_min_interval,
                            metrics,
                        ))
                    }
                    Err(SinkClosed) => DispatchOutcome::SessionClosed,
                }
            },
        );
        match outcome {
            Some((key, DispatchOutcome::Deferred(token, batch))) => {
                self.pending.push(PendingDelivery {
                    key,
                    topic_index,
                    subscription_index,
                    token,
                    batch,
                });
            }
            Some((key, DispatchOutcome::Completed(progress))) => {
                self.record_progress(table, key, topic_index, progress)
            }
            Some((key, DispatchOutcome::SessionClosed)) => table.close_session(key),
            None => {}
        }
    }

    /// Ends a turn: what was gathered goes out.
    pub(super) fn end_turn(&mut self, table: &mut SubscriptionTable) {
        self.batch_cache.clear();
        let mut pending = std::mem::take(&mut self.pending);
        // Of one session they stay in their order.
        pending.sort_by_key(|delivery| delivery.key);
        for deliveries in pending.chunk_by(|a, b| a.key == b.key) {
            self.flush_session(table, deliveries);
        }
        pending.clear();
        self.pending = pending;
        let delivered_count = std::mem::take(&mut self.delivered_count) as u64;
        self.lane.hub.shared.registry.metrics.deliveries.increment(delivered_count);
    }

    /// Offers a session its parcels: all at once, and those behind one that is blocked each by itself,
    /// for they may have a way of their own.
    fn flush_session(&mut self, table: &mut SubscriptionTable, deliveries: &[PendingDelivery]) {
        let (mut remaining, mut count) = (deliveries, deliveries.len());
        while let Some(first) = remaining.first() {
            let runs: Vec<_> = remaining[..count].iter().flat_map(PendingDelivery::runs).collect();
            match table.session(first.key).map(|session| offer(session, &runs)) {
                Some(Ok(result)) => {
                    let handled = self.apply_accepted(table, &remaining[..count], result);
                    remaining = &remaining[handled..];
                    count = 1;
                }
                Some(Err(SinkClosed)) => return table.close_session(first.key),
                None => return,
            }
        }
    }

    /// Moves subscriptions behind what was taken, up to one that is blocked. Says how many that were.
    fn apply_accepted(
        &mut self,
        table: &mut SubscriptionTable,
        deliveries: &[PendingDelivery],
        result: OfferOutcome,
    ) -> usize {
        let mut remaining = result.accepted;
        for (index, delivery) in deliveries.iter().enumerate() {
            let accepted = remaining.min(delivery.batch.len());
            remaining -= accepted;
            let blocked = accepted < delivery.batch.len() || (remaining == 0 && result.is_blocked);
            self.apply_accepted_one(table, delivery, accepted, blocked);
            if blocked {
                return index + 1;
            }
        }
        deliveries.len()
    }

    fn apply_accepted_one(
        &mut self,
        table: &mut SubscriptionTable,
        delivery: &PendingDelivery,
        accepted: usize,
        blocked: bool,
    ) {
        let PendingDelivery { topic_index, subscription_index, batch, .. } = delivery;
        let (latest_min_interval, metrics) =
            (self.lane.latest_min_interval.get(), &self.lane.hub.shared.registry.metrics);
        let outcome = table.with_subscription(
            *topic_index,
            *subscription_index,
            |subscription, _, buffer| {
                subscription.is_pending = false;
                let mut progress = batch.apply_accepted(
                    subscription,
                    accepted,
                    blocked,
                    latest_min_interval,
                    metrics,
                );
                // Nobody else would look again.
                progress.has_more |=
                    std::mem::take(&mut subscription.needs_recheck) && batch.is_outdated(buffer);
                progress
            },
        );
        if let Some((key, progress)) = outcome {
            self.record_progress(table, key, *topic_index, progress);
        }
    }

    fn record_progress(
        &mut self,
        table: &mut SubscriptionTable,
        key: SessionKey,
        topic_index: usize,
        progress: DeliveryProgress,
    ) {
        let DeliveryProgress { message_count, has_more, pause_for } = progress;
        self.delivered_count += message_count;
        if let Some(pause) = pause_for {
            table.pause(key, topic_index, Instant::now() + pause);
        }
        if has_more {
            table.enqueue_ready(key, topic_index);
        }
    }
}

impl PendingDelivery {
    fn runs(&self) -> [FrameRun<'_>; 4] {
        self.batch.runs(self.token)
    }
}

/// One offer, unless it is of nothing. An outlet that the gateway holds borrowed takes nothing, as if it
/// were blocked.
fn offer(session: &LaneSession, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
    if runs.iter().all(|run| run.frames.is_empty()) {
        return Ok(OfferOutcome { accepted: 0, is_blocked: false });
    }
    match session.sink.try_borrow_mut() {
        Ok(mut sink) => sink.offer(runs),
        Err(_) => Ok(OfferOutcome { accepted: 0, is_blocked: true }),
    }
}

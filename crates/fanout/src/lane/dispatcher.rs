//! Delivery of frames in one turn: one offer per session, whatever the number of its topics with news.
//!
//! Where several topics have news in a turn, the batches of a session with several subscriptions are
//! deferred, as handles of frames in the rings, and offered together at the end of the turn. A cursor moves
//! behind accepted frames only, so a session with a full socket stores nothing. All other sessions are
//! offered each batch immediately.

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
    /// Whether more than one topic may have news in this turn.
    has_several_topics: bool,
    /// Deferred batches in the order of their discovery. At most the number of offers in a turn plus the
    /// topics of one session; empty between turns.
    pending: Vec<PendingDelivery>,
    /// Buffer for the other topics of a session with deferred batches; empty between calls.
    other_topics: Vec<(usize, usize)>,
    /// Number of messages accepted in this turn.
    delivered_count: usize,
}

/// A deferred batch and its subscription.
struct PendingDelivery {
    key: SessionKey,
    /// Index of the topic in the lane.
    topic_index: usize,
    subscription_index: usize,
    token: u32,
    batch: SubscriptionBatch,
}

/// The result of dispatching a batch.
enum DispatchOutcome {
    /// The batch is deferred to the end of the turn; with the token of its subscription.
    Deferred(u32, SubscriptionBatch),
    Completed(DeliveryProgress),
    /// The session is closed.
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

    /// Begins a turn. `has_several_topics`: whether more than one topic may have news.
    pub(super) fn begin_turn(&mut self, has_several_topics: bool) {
        self.has_several_topics = has_several_topics;
    }

    /// Begins a walk over the subscribers of a topic.
    pub(super) fn begin_topic(&mut self, topic_index: usize) {
        self.batch_cache.for_topic(topic_index).clear();
    }

    /// Offers a subscription its pending frames; or defers them, with the pending frames of the other
    /// subscriptions of its session. Returns the number of offers that this counts as.
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

    /// Ends a turn: offers the deferred batches.
    pub(super) fn end_turn(&mut self, table: &mut SubscriptionTable) {
        self.batch_cache.clear();
        let mut pending = std::mem::take(&mut self.pending);
        // The sort is stable, so the batches of one session stay in order.
        pending.sort_by_key(|delivery| delivery.key);
        for deliveries in pending.chunk_by(|a, b| a.key == b.key) {
            self.flush_session(table, deliveries);
        }
        pending.clear();
        self.pending = pending;
        let delivered_count = std::mem::take(&mut self.delivered_count) as u64;
        self.lane.hub.shared.registry.metrics.deliveries.increment(delivered_count);
    }

    /// Offers a session its deferred batches: all in one offer. Batches behind a blocked one are offered
    /// one by one, because they may have a stream of their own.
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

    /// Moves subscriptions behind the accepted frames, up to the first that is blocked. Returns the number
    /// of processed deliveries.
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
                // No other walk would look at the subscription again.
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

/// Makes one offer, unless it is empty. A sink that the gateway has borrowed counts as blocked.
fn offer(session: &LaneSession, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
    if runs.iter().all(|run| run.frames.is_empty()) {
        return Ok(OfferOutcome { accepted: 0, is_blocked: false });
    }
    match session.sink.try_borrow_mut() {
        Ok(mut sink) => sink.offer(runs),
        Err(_) => Ok(OfferOutcome { accepted: 0, is_blocked: true }),
    }
}

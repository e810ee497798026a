//! What one subscription is offered, and how far it moves by what of it was taken.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::batch::{FrameBatch, TopicBatchCache};
use super::subscription_table::{LaneSession, LaneSubscription};
use crate::FrameRun;
use crate::hub::HubShared;
use crate::metrics::FanoutMetrics;
use crate::topic_buffer::TopicBuffer;

/// Which of its parts is the batch.
const BATCH_INDEX: usize = 1;

/// Nothing is moved until frames of it are taken.
pub(super) struct SubscriptionBatch {
    batch: Rc<FrameBatch>,
    /// Boxed because hardly any portion has some.
    control: Option<Box<ControlFrames>>,
}

/// Frames that are of no message.
struct ControlFrames {
    /// Before the batch: the gap that was found when the subscription began.
    gap: Option<Bytes>,
    /// Behind it: how the topic stands, for one who is level then and does not know.
    health: Option<Bytes>,
    /// The last: how many watch, for one who is level then, asked, and does not know.
    audience: Option<Bytes>,
}

/// What follows for a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeliveryProgress {
    /// There may be more for it, and nothing stands in the way.
    pub(super) has_more: bool,
    /// It was brought on, and rests for so long.
    pub(super) pause_for: Option<Duration>,
    /// How many messages it took.
    pub(super) message_count: usize,
}

impl SubscriptionBatch {
    /// What is due to a subscription.
    pub(super) fn for_subscription(
        subscription: &LaneSubscription,
        session: &LaneSession,
        buffer: &TopicBuffer,
        batches: &mut TopicBatchCache,
        hub: &HubShared,
    ) -> SubscriptionBatch {
        let shape = subscription.shape(session.wire);
        let batch = Rc::clone(batches.get_or_encode(shape, subscription.cursor, buffer, hub));
        let mut subscription_batch = SubscriptionBatch { batch, control: None };
        let SubscriptionBatch { batch, .. } = &subscription_batch;
        let audience = subscription.reported_audience.and(batch.audience.as_ref());
        let audience = audience.filter(|audience| {
            subscription.reported_audience != Some(audience.sessions) && !batch.has_more
        });
        let is_health_current = subscription.reported_health == batch.health || batch.has_more;
        if subscription.initial_gap.is_some() || audience.is_some() || !is_health_current {
            let (wire, topic, encoder) = (session.wire, &buffer.topic, &*hub.encoder);
            let reached = batch.cursors_after.last().copied().unwrap_or(subscription.cursor);
            let control = ControlFrames {
                gap: subscription
                    .initial_gap
                    .as_ref()
                    .map(|gap| encoder.encode_gap(wire, topic, gap)),
                health: (!is_health_current)
                    .then(|| encoder.encode_health(wire, topic, batch.health, reached)),
                audience: audience.map(|audience| audience.frame(wire, topic, encoder)),
            };
            subscription_batch.control = Some(Box::new(control));
        }
        subscription_batch
    }

    /// Whether something came since it was made.
    pub(super) fn is_outdated(&self, buffer: &TopicBuffer) -> bool {
        self.batch.is_outdated(buffer)
    }

    /// How many frames.
    pub(super) fn len(&self) -> usize {
        self.frame_groups().iter().map(|frames| frames.len()).sum()
    }

    pub(super) fn runs(&self, token: u32) -> [FrameRun<'_>; 4] {
        let mut runs =
            self.frame_groups().map(|frames| FrameRun { token, frames, concatenated: None });
        runs[BATCH_INDEX].concatenated = self.batch.concatenated.get();
        runs
    }

    fn frame_groups(&self) -> [&[Bytes]; 4] {
        let Some(ControlFrames { gap, health, audience }) = self.control.as_deref() else {
            return [&[], &self.batch.frames, &[], &[]];
        };
        [gap.as_slice(), &self.batch.frames, health.as_slice(), audience.as_slice()]
    }

    /// Moves the subscription behind so many frames, which were taken; with the rest it may be blocked.
    /// `latest_min_interval`: how long those who take the newest alone rest at least.
    pub(super) fn apply_accepted(
        &self,
        subscription: &mut LaneSubscription,
        accepted: usize,
        blocked: bool,
        latest_min_interval: Duration,
        metrics: &FanoutMetrics,
    ) -> DeliveryProgress {
        let mut remaining = accepted;
        let [gap, batch, health, audience] = self.frame_groups().map(|frames| {
            let accepted = frames.len().min(remaining);
            remaining -= accepted;
            accepted
        });
        if gap > 0
            && let Some(gap) = subscription.initial_gap.take()
        {
            metrics.record_gap(gap.reason);
        }
        let message_count = self.advance_cursor(subscription, batch, metrics);
        if health > 0 {
            subscription.reported_health = self.batch.health;
        }
        if audience > 0 {
            subscription.reported_audience = self.batch.audience.as_ref().map(|sum| sum.sessions);
        }
        subscription.is_blocked = blocked;
        let has_more = self.batch.has_more && !blocked;
        if !has_more {
            subscription.retention_guard = None;
        }
        let pause_for = subscription.pause_after_message(latest_min_interval).filter(|_| batch > 0);
        DeliveryProgress { has_more, pause_for, message_count }
    }

    /// Moves the cursor behind so many frames of the batch. Says how many of these were messages.
    fn advance_cursor(
        &self,
        subscription: &mut LaneSubscription,
        accepted: usize,
        metrics: &FanoutMetrics,
    ) -> usize {
        let batch = &*self.batch;
        let Some(cursor) = accepted.checked_sub(1).and_then(|last| batch.cursors_after.get(last))
        else {
            return 0;
        };
        if let Some(reason) = batch.gap_reason {
            metrics.record_gap(reason);
        }
        let message_count = accepted - usize::from(batch.gap_reason.is_some());
        subscription.cursor = *cursor;
        subscription.has_delta_base = message_count > 0;
        message_count
    }
}

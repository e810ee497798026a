//! The frames offered to one subscription, and its progress by the accepted ones.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::batch::{FrameBatch, TopicBatchCache};
use super::subscription_table::{LaneSession, LaneSubscription};
use crate::FrameRun;
use crate::hub::HubShared;
use crate::metrics::FanoutMetrics;
use crate::topic_buffer::TopicBuffer;

/// Index of the batch among the frame groups.
const BATCH_INDEX: usize = 1;

/// A subscription's pending frames. Has no effect until frames of it are accepted.
pub(super) struct SubscriptionBatch {
    batch: Rc<FrameBatch>,
    /// Boxed because few subscriptions have control frames pending.
    control: Option<Box<ControlFrames>>,
}

/// Frames other than messages.
struct ControlFrames {
    /// First: the gap found when the subscription started.
    gap: Option<Bytes>,
    /// After the batch: the health of the topic, for a subscription that is up to date by then and was not
    /// notified of it.
    health: Option<Bytes>,
    /// Last: the cluster-wide number of subscribers, for a subscription that is up to date by then,
    /// requested it and was not notified of it.
    audience: Option<Bytes>,
}

/// The effect of accepted frames on a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeliveryProgress {
    /// More frames may be pending, and the subscription is not blocked.
    pub(super) has_more: bool,
    /// The subscription received a message and pauses for this long.
    pub(super) pause_for: Option<Duration>,
    /// Number of accepted messages.
    pub(super) message_count: usize,
}

impl SubscriptionBatch {
    /// The pending frames of a subscription.
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
        let reported = subscription.reported_audience.as_deref();
        let audience = reported.zip(batch.audience.as_ref());
        let audience = audience
            .filter(|(reported, audience)| **reported != audience.sessions && !batch.has_more);
        let audience = audience.map(|(_, audience)| audience);
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

    /// Whether the topic changed since the batch was encoded.
    pub(super) fn is_outdated(&self, buffer: &TopicBuffer) -> bool {
        self.batch.is_outdated(buffer)
    }

    /// Number of frames.
    pub(super) fn len(&self) -> usize {
        self.frame_groups().iter().map(|frames| frames.len()).sum()
    }

    pub(super) fn runs(&self, token: u32) -> [FrameRun<'_>; 4] {
        let mut runs = self.frame_groups().map(|frames| FrameRun {
            token,
            frames,
            concatenated: None,
            cursors: &[],
        });
        runs[BATCH_INDEX].concatenated = self.batch.concatenated.get();
        runs[BATCH_INDEX].cursors = &self.batch.cursors_after;
        runs
    }

    fn frame_groups(&self) -> [&[Bytes]; 4] {
        let Some(ControlFrames { gap, health, audience }) = self.control.as_deref() else {
            return [&[], &self.batch.frames, &[], &[]];
        };
        [gap.as_slice(), &self.batch.frames, health.as_slice(), audience.as_slice()]
    }

    /// Moves the subscription behind `accepted` frames. `blocked`: whether it must not be offered more.
    /// `latest_min_interval`: the minimum pause of `latest` subscriptions.
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
        if audience > 0
            && let Some(reported) = subscription.reported_audience.as_deref_mut()
            && let Some(audience) = &self.batch.audience
        {
            *reported = audience.sessions;
        }
        subscription.is_blocked = blocked;
        let has_more = self.batch.has_more && !blocked;
        if !has_more {
            subscription.retention_guard = None;
        }
        let pause_for = subscription.pause_after_message(latest_min_interval).filter(|_| batch > 0);
        DeliveryProgress { has_more, pause_for, message_count }
    }

    /// Moves the cursor behind `accepted` frames of the batch. Returns how many of these were messages.
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

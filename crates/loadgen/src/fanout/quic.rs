//! A QUIC subscriber that uses the SDK.

use anyhow::anyhow;
use pushonce_client::{Subscriber, SubscriberEvent, Transport};
use pushonce_core::StartFrom;

use super::SubscriberSpec;
use super::audience::{DeliveryTracker, SubscriberCursor};
use crate::Access;

/// Subscribes, and reads until the session ends; returns the reason. A second session would start with a gap
/// of its own, so the subscriber does not reconnect.
pub(super) async fn run_subscriber(
    spec: &SubscriberSpec,
    access: &Access,
    tracker: &DeliveryTracker,
) -> anyhow::Error {
    let builder = Subscriber::builder(vec![spec.server.clone()]).transport(Transport::Quic);
    let mut builder = builder.trust(access.trust.clone());
    if let Some(token) = &access.token {
        builder = builder.token(token.clone());
    }
    let mut subscriber = match builder.topic(spec.topic.clone(), StartFrom::Now).connect() {
        Ok(subscriber) => subscriber,
        Err(error) => return error.into(),
    };
    let mut cursor: Option<SubscriberCursor> = None;
    loop {
        let Some(event) = subscriber.next().await else { return anyhow!("the session ended") };
        match (event, &mut cursor) {
            (SubscriberEvent::Subscribed { .. }, None) => {
                cursor = Some(tracker.on_subscribed(spec.topic_index))
            }
            (SubscriberEvent::Message { message, .. }, Some(cursor)) => {
                if let Some(stamp) = tracker.clock.find_stamp(&message.payload) {
                    tracker.begin_read(cursor).on_message(stamp);
                }
            }
            (SubscriberEvent::Gap { gap, .. }, Some(cursor)) => {
                tracker.begin_read(cursor).on_gap(&gap)
            }
            (SubscriberEvent::Rejected { message, .. }, _) => return anyhow!("refused: {message}"),
            (SubscriberEvent::Disconnected { reason, .. }, _) => return anyhow!(reason),
            _ => {}
        }
    }
}

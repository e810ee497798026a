//! Metrics of the SDK through the facade `metrics`, with the feature of that name. The names are those of
//! OpenTelemetry's conventions for messaging; an exporter for Prometheus writes `_` for `.`.

use std::time::Duration;

use pushonce_core::Acknowledgement;
use pushonce_proto::publisher::PublishFailure;

use crate::session::Transport;
use crate::subscriber::SubscriberEvent;

#[cfg(feature = "metrics")]
mod names {
    /// Counter of publishes, by `outcome`: `acknowledged`, `rejected` or `unknown`.
    pub(super) const SENT: &str = "messaging.client.sent.messages";
    /// Histogram of the time from a publish to its outcome, in seconds.
    pub(super) const DURATION: &str = "messaging.client.operation.duration";
    /// Counter of messages that a subscriber received.
    pub(super) const CONSUMED: &str = "messaging.client.consumed.messages";
    /// Counter of gaps that a subscriber received, by `reason`.
    pub(super) const GAPS: &str = "pushonce.client.gaps";
    /// Counter of sessions that were opened, by `transport`.
    pub(super) const SESSIONS: &str = "pushonce.client.sessions";
}

#[cfg(feature = "metrics")]
pub(crate) fn record_publish(
    duration: Duration,
    outcome: &Result<Acknowledgement, PublishFailure>,
) {
    let outcome = match outcome {
        Ok(_) => "acknowledged",
        Err(PublishFailure::Rejected { .. }) => "rejected",
        Err(PublishFailure::Unknown(_)) => "unknown",
    };
    metrics::counter!(names::SENT, "outcome" => outcome).increment(1);
    metrics::histogram!(names::DURATION).record(duration.as_secs_f64());
}

#[cfg(feature = "metrics")]
pub(crate) fn record_event(event: &SubscriberEvent) {
    match event {
        SubscriberEvent::Message { .. } => metrics::counter!(names::CONSUMED).increment(1),
        SubscriberEvent::Gap { gap, .. } => {
            metrics::counter!(names::GAPS, "reason" => gap.reason.as_str()).increment(1);
        }
        _ => {}
    }
}

#[cfg(feature = "metrics")]
pub(crate) fn record_session(transport: Transport) {
    metrics::counter!(names::SESSIONS, "transport" => transport.as_str()).increment(1);
}

#[cfg(not(feature = "metrics"))]
pub(crate) fn record_publish(_: Duration, _: &Result<Acknowledgement, PublishFailure>) {}

#[cfg(not(feature = "metrics"))]
pub(crate) fn record_event(_: &SubscriberEvent) {}

#[cfg(not(feature = "metrics"))]
pub(crate) fn record_session(_: Transport) {}

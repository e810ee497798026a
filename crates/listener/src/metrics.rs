//! Metrics of TCP ports.

use pushonce_telemetry::{Metric, Unit};

/// Every metric of this crate.
pub const METRICS: &[Metric] = &[
    ACCEPT_ERRORS,
    REJECTED_CONNECTIONS,
    PARTIAL_BYTES,
    PARTIAL_EVICTED,
    NAMESPACE_PUBLISHES_REJECTED,
    SUBSCRIBES_REJECTED,
    NEW_TOPICS_REJECTED,
];

pub(crate) const ACCEPT_ERRORS: Metric = Metric::counter(
    "pushonce_listener_accept_errors_total",
    "Calls of accept that failed for want of descriptors or memory, by listener.",
)
.with_labels(&["listener"]);

pub(crate) const REJECTED_CONNECTIONS: Metric = Metric::counter(
    "pushonce_listener_connections_rejected_total",
    "gRPC and peer connections that were closed at once, by listener and reason: descriptors (those for them are \
     in use) or address (the client address has its maximum of connections, or opens them too fast).",
)
.with_labels(&["listener", "reason"]);

pub(crate) const NAMESPACE_PUBLISHES_REJECTED: Metric = Metric::counter(
    "pushonce_listener_namespace_publishes_rejected_total",
    "Publishes over all doors for clients and back ends that were rejected because their caller exceeded the \
     publish rate of the namespace.",
);

pub(crate) const SUBSCRIBES_REJECTED: Metric = Metric::counter(
    "pushonce_listener_subscribes_rejected_total",
    "Subscriptions over WebSocket, QUIC and gRPC that were rejected because their caller exceeded its rate.",
);

pub(crate) const NEW_TOPICS_REJECTED: Metric = Metric::counter(
    "pushonce_listener_new_topics_rejected_total",
    "Publishes over all doors for clients and back ends that were rejected because their caller created topics \
     too fast.",
);

pub(crate) const PARTIAL_BYTES: Metric = Metric::gauge(
    "pushonce_listener_partial_message_bytes",
    "Bytes of requests and messages that are only half received, over all doors. Messages below 8 KiB are not \
     counted.",
)
.with_unit(Unit::Bytes);

pub(crate) const PARTIAL_EVICTED: Metric = Metric::counter(
    "pushonce_listener_partial_messages_evicted_total",
    "Requests and messages that ended half received, because all of them together exceeded the receive budget \
     and their sender held the most.",
);

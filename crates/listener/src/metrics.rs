//! Metrics of TCP ports.

use pushonce_telemetry::Metric;

/// Every metric of this crate.
pub const METRICS: &[Metric] = &[ACCEPT_ERRORS, REJECTED_CONNECTIONS];

pub(crate) const ACCEPT_ERRORS: Metric = Metric::counter(
    "pushonce_listener_accept_errors_total",
    "Calls of accept that failed for want of descriptors or memory, by listener.",
)
.with_labels(&["listener"]);

pub(crate) const REJECTED_CONNECTIONS: Metric = Metric::counter(
    "pushonce_listener_connections_rejected_total",
    "Connections that were closed at once because the descriptors for them are in use, by listener.",
)
.with_labels(&["listener"]);

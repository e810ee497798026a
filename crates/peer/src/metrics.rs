//! Metrics of the connections between nodes.

use pushonce_telemetry::{Metric, Unit};

/// Every metric of this crate.
pub const METRICS: &[Metric] = &[REJECTED_HANDSHAKES, CERTIFICATE_EXPIRY, RELOAD_ERRORS];

pub(crate) const REJECTED_HANDSHAKES: Metric = Metric::counter(
    "pushonce_peer_handshakes_rejected_total",
    "Connections to the peer port that were closed before their first call, by reason: plaintext (the caller \
     does not speak TLS), unexpected_tls (it does, and this node does not), certificate (it names no node of \
     this cluster), tls (any other failure, such as another authority or an expired certificate), timeout, \
     or evicted (too many at once: the oldest gives way).",
)
.with_labels(&["reason"]);

pub(crate) const CERTIFICATE_EXPIRY: Metric = Metric::gauge(
    "pushonce_peer_certificate_expiry_timestamp_seconds",
    "When the certificate of this node for connections to other nodes expires, in seconds since the Unix \
     epoch. Absent without mutual TLS.",
)
.with_unit(Unit::Seconds);

pub(crate) const RELOAD_ERRORS: Metric = Metric::counter(
    "pushonce_peer_certificate_reload_errors_total",
    "Readings of changed certificate files that failed: the files that were read before stay in use.",
);

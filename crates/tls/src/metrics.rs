//! Metrics of certificates and handshakes.

use pushonce_telemetry::{Metric, Unit};

/// Every metric of this crate.
pub const METRICS: &[Metric] = &[EXPIRY, RELOADS, RELOAD_FAILURES, HANDSHAKE_FAILURES];

const FILES: &[&str] = &["files"];

pub(crate) const EXPIRY: Metric = Metric::gauge(
    "pushonce_tls_certificate_expiry_timestamp_seconds",
    "When the certificate in use expires, in seconds since the Unix epoch, by files: the setting that names \
     them.",
)
.with_labels(FILES)
.with_unit(Unit::Seconds);

pub(crate) const RELOADS: Metric = Metric::counter(
    "pushonce_tls_reloads_total",
    "Changed certificates that were taken into use, by files: the setting that names them.",
)
.with_labels(FILES);

pub(crate) const RELOAD_FAILURES: Metric = Metric::counter(
    "pushonce_tls_reload_failures_total",
    "Attempts to read certificates that failed, every 30 seconds while they are bad, by files: the setting that \
     names them. The previous ones stay in use.",
)
.with_labels(FILES);

pub(crate) const HANDSHAKE_FAILURES: Metric = Metric::counter(
    "pushonce_tls_handshake_failures_total",
    "TCP connections whose TLS handshake failed, by listener and reason: error (of either side), timeout, or \
     evicted (too many at once).",
)
.with_labels(&["listener", "reason"]);

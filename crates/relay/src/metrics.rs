//! Metrics of the links between nodes.

use pushonce_telemetry::{Metric, Unit};

/// Every metric of this crate.
pub const METRICS: &[Metric] = &[
    LINKS,
    LINK_RESETS,
    ROUND_TRIP,
    SENT_MESSAGES,
    SENT_BYTES,
    INVALID_FRAMES,
    REJECTED_FRAMES,
    INBOX_OVERFLOWS,
    VERSION_CONFLICTS,
];

pub(crate) const LINKS: Metric =
    Metric::gauge("pushonce_relay_links", "Established links to other nodes.");

pub(crate) const LINK_RESETS: Metric = Metric::counter(
    "pushonce_relay_link_resets_total",
    "Links that this node reset, by reason: overflow of the send queue, replaced by a new link, \
     removed peer, or protocol error.",
)
.with_labels(&["reason"]);

/// A round trip takes some 0.2 ms between two machines of a rack, 1 ms between zones and up to 300 ms between
/// continents; a link that is silent for 3 s is closed.
const ROUND_TRIP_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 1.0, 3.0];

/// Labelled with regions and not with nodes: a thousand nodes would be a million series, and `cluster status`
/// shows the round trip to each.
pub(crate) const ROUND_TRIP: Metric = Metric::histogram(
    "pushonce_relay_round_trip_seconds",
    ROUND_TRIP_BUCKETS,
    "Round trip of a link, measured with each heartbeat, about once a second, by region of this node and of \
     the peer. Includes the wait in the send queues of both nodes, as for messages; excludes the time for \
     which the peer held the heartbeat.",
)
.with_labels(&["from_region", "to_region"])
.with_unit(Unit::Seconds);

const TRAFFIC_LABELS: &[&str] = &["from_region", "to_region", "kind"];

pub(crate) const SENT_MESSAGES: Metric = Metric::counter(
    "pushonce_relay_sent_messages_total",
    "Copies of messages sent to other nodes, by region of sender and receiver, and by kind: deliver, \
     publish or fetch.",
)
.with_labels(TRAFFIC_LABELS);

pub(crate) const SENT_BYTES: Metric = Metric::counter(
    "pushonce_relay_sent_bytes_total",
    "Payload bytes of the copies of messages sent to other nodes, by the same labels.",
)
.with_labels(TRAFFIC_LABELS)
.with_unit(Unit::Bytes);

pub(crate) const INVALID_FRAMES: Metric = Metric::counter(
    "pushonce_relay_invalid_frames_total",
    "Frames of peers that could not be decoded and were skipped.",
);

pub(crate) const REJECTED_FRAMES: Metric = Metric::counter(
    "pushonce_relay_rejected_frames_total",
    "Announcements of peers that were not believed, by kind: claim (a shard was claimed by a node that may not claim \
     it, or with an absurd term), false_claim (a node claimed a shard that this node leads), or position (a position, \
     number or count beyond every possible one).",
)
.with_labels(&["kind"]);

pub(crate) const INBOX_OVERFLOWS: Metric = Metric::counter(
    "pushonce_relay_inbox_overflows_total",
    "Times that committed messages arrived faster than the relay read them, so that the relay fetched \
     them from history.",
);

pub(crate) const VERSION_CONFLICTS: Metric = Metric::counter(
    "pushonce_relay_version_conflicts_total",
    "Links that were rejected because the versions of the two nodes do not overlap.",
);

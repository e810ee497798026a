//! Metrics of the Raft groups, the log and the disk under it.

use pushonce_telemetry::{Metric, Unit};

/// Every metric of this crate.
pub const METRICS: &[Metric] = &[
    FSYNC,
    DISK_FREE,
    DISK_USED,
    LOG_BYTES,
    DAMAGED_REPLICAS,
    HALTED_REPLICAS,
    ROLLED_BACK,
    ROLLED_BACK_PEERS,
    FORGED_CLAIMS,
    REJECTED_REQUESTS,
];

/// An fsync takes 0.1 ms on a fast disk and some 10 ms on a slow one; above 1 s leases are at risk.
const FSYNC_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0];

pub(crate) const FSYNC: Metric = Metric::histogram(
    "pushonce_consensus_fsync_seconds",
    FSYNC_BUCKETS,
    "Time to write one batch of log changes of all groups and to sync it to disk.",
)
.with_unit(Unit::Seconds);

pub(crate) const DISK_FREE: Metric = Metric::gauge(
    "pushonce_disk_free_bytes",
    "Free space of the file system that holds the data directory.",
)
.with_unit(Unit::Bytes);

pub(crate) const DISK_USED: Metric = Metric::gauge(
    "pushonce_disk_used_bytes",
    "Space of the same file system that is used, by any program, or reserved for the superuser.",
)
.with_unit(Unit::Bytes);

pub(crate) const LOG_BYTES: Metric = Metric::gauge(
    "pushonce_consensus_log_bytes",
    "Size of the file that holds the logs of all groups of this node, including the space of deleted entries \
     that is not reused yet.",
)
.with_unit(Unit::Bytes);

pub(crate) const DAMAGED_REPLICAS: Metric = Metric::counter(
    "pushonce_consensus_damaged_replicas_total",
    "Replicas whose log was damaged at start. They recover from the other voters.",
);

pub(crate) const HALTED_REPLICAS: Metric = Metric::counter(
    "pushonce_consensus_halted_replicas_total",
    "Replicas that halted at a record that this build cannot read.",
);

pub(crate) const ROLLED_BACK: Metric = Metric::gauge(
    "pushonce_consensus_rolled_back",
    "1 when the log of this node was restored to an earlier state and the node takes no part in any group.",
);

pub(crate) const ROLLED_BACK_PEERS: Metric = Metric::counter(
    "pushonce_consensus_rolled_back_peers_total",
    "Peers that were rejected because their log was restored to an earlier state.",
);

pub(crate) const FORGED_CLAIMS: Metric = Metric::counter(
    "pushonce_consensus_forged_claims_total",
    "Times that another node named a number of commits of this node's log that this node never signed: that node \
     runs an earlier build, or lies. Such a number is ignored.",
);

pub(crate) const REJECTED_REQUESTS: Metric = Metric::counter(
    "pushonce_consensus_rejected_requests_total",
    "Requests and replies of other nodes that were rejected before they had an effect, by what was not acceptable: \
     sender, term, position, membership, or malformed. A replica that its group has removed causes some of \
     `sender` until its node stops it; all others come from a defective or hostile node.",
)
.with_labels(&["reason"]);

//! Metrics of the node as a whole, the table of all metrics of the binary, and the recorder.

use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use pushonce_telemetry::{Metric, MetricKind, Unit};

/// Every metric that is declared in this crate.
const METRICS: &[Metric] = &[
    BUILD_INFO,
    CLUSTER_PROBLEMS,
    CLUSTER_VERSION,
    TOPICS,
    HISTORY_BYTES,
    REPLICA_LAG,
    SNAPSHOT_TRANSFERS,
    HALTED_REPLICAS,
    LOG_LINES_DROPPED,
    DATA_WRITE_ERRORS,
    PEER_CALLS_REJECTED,
    LED_GROUPS,
    TERM_MAX,
    OPEN_DESCRIPTORS,
];

pub(crate) const BUILD_INFO: Metric = Metric::gauge(
    "pushonce_build_info",
    "Always 1. The labels are the version of the binary and the newest cluster version that it supports.",
)
.with_labels(&["version", "cluster_version"]);

pub(crate) const CLUSTER_PROBLEMS: Metric = Metric::gauge(
    "pushonce_cluster_problems",
    "Problems of the cluster as this node observes it, by kind, in the unit of the kind: shards, members \
     or 1.",
)
.with_labels(&["kind"]);

pub(crate) const CLUSTER_VERSION: Metric =
    Metric::gauge("pushonce_cluster_version", "The cluster version that is agreed on.");

pub(crate) const TOPICS: Metric =
    Metric::gauge("pushonce_topics", "Topics that the replicas of this node hold.");

pub(crate) const HISTORY_BYTES: Metric = Metric::gauge(
    "pushonce_history_bytes",
    "Payload bytes of the messages in the histories of these topics. They are in the memory of the process.",
)
.with_unit(Unit::Bytes);

pub(crate) const REPLICA_LAG: Metric = Metric::gauge(
    "pushonce_replica_lag_entries",
    "Log entries that the furthest replica is behind its leader, by side: own (replicas of this node) or \
     followers (replicas that this node leads).",
)
.with_labels(&["side"]);

pub(crate) const SNAPSHOT_TRANSFERS: Metric = Metric::gauge(
    "pushonce_snapshot_transfers",
    "Snapshots that this node is sending to other replicas.",
);

pub(crate) const HALTED_REPLICAS: Metric = Metric::gauge(
    "pushonce_halted_replicas",
    "Replicas of this node that have halted at a record that this build cannot read.",
);

pub(crate) const PEER_CALLS_REJECTED: Metric = Metric::counter(
    "pushonce_peer_calls_rejected_total",
    "Calls of nodes without a link that were rejected because there were too many, by call: join or identify.",
)
.with_labels(&["call"]);

pub(crate) const LOG_LINES_DROPPED: Metric = Metric::counter(
    "pushonce_log_lines_dropped_total",
    "Log lines that were dropped, by reason: full (the output is stuck or too slow) or failed (the system \
     refused the write).",
)
.with_labels(&["reason"]);

pub(crate) const DATA_WRITE_ERRORS: Metric = Metric::counter(
    "pushonce_data_write_errors_total",
    "Failed writes of files without which the node continues to run, by file: peers, times.json \
     or identity.json.",
)
.with_labels(&["file"]);

pub(crate) const LED_GROUPS: Metric =
    Metric::gauge("pushonce_led_groups", "Shard groups that this node leads.");

pub(crate) const TERM_MAX: Metric = Metric::gauge(
    "pushonce_raft_term_max",
    "The highest Raft term of the shard groups on this node. It grows with every election.",
);

pub(crate) const OPEN_DESCRIPTORS: Metric = Metric::gauge(
    "pushonce_open_descriptors",
    "Open file descriptors of the process. Absent where the system does not count them: before Linux 6.2.",
);

/// Every metric of the binary, by name.
pub fn all() -> Vec<Metric> {
    let crates = [
        METRICS,
        pushonce_auth::METRICS,
        pushonce_consensus::METRICS,
        pushonce_fanout::METRICS,
        pushonce_gateway::METRICS,
        pushonce_listener::METRICS,
        pushonce_peer::METRICS,
        pushonce_publish::METRICS,
        pushonce_relay::METRICS,
        pushonce_shard::METRICS,
        pushonce_tls::METRICS,
    ];
    let mut all = crates.concat();
    all.sort_by_key(|metric| metric.name);
    all
}

/// The content of `METRICS.md`.
pub fn reference() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         `GET /metrics` on the HTTP port, in the Prometheus text format. Generated from the code: do not \
         edit; run `scripts/fix`.\nA series with labels appears with its first event. A unit of `–` is a \
         number of things.\n\n\
         | name | type | unit | labels | meaning |\n|---|---|---|---|---|\n",
    );
    for Metric { name, kind, unit, labels, help } in all() {
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram { .. } => "histogram",
        };
        let unit = if unit == Unit::Count { "–" } else { unit.as_str() };
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        page += &format!("| `{name}` | {kind} | {unit} | {} | {help} |\n", labels.join(", "));
    }
    page
}

/// The recorder keeps each observation of a histogram until it is counted, 8 bytes and more. A scrape
/// counts them, but a node that is not scraped would grow without bound.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Counts the observations of histograms at an interval. Never returns.
pub(crate) async fn run_upkeep(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        handle.run_upkeep();
    }
}

/// Installs the recorder of this process, with the buckets and the help text of every metric. Once a
/// process, before the first handle is taken.
///
/// # Errors
/// When there is a recorder already.
pub fn install_recorder() -> anyhow::Result<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new();
    for metric in all() {
        if let MetricKind::Histogram { buckets } = metric.kind {
            let name = Matcher::Full(metric.name.to_owned());
            builder = builder.set_buckets_for_metric(name, buckets)?;
        }
    }
    let handle = builder.install_recorder().context("cannot install the metrics recorder")?;
    all().iter().for_each(Metric::describe);
    let supported = pushonce_core::VersionRange::supported();
    BUILD_INFO.register_gauge(&[env!("CARGO_PKG_VERSION"), &supported.max.0.to_string()]).set(1.0);
    Ok(handle)
}

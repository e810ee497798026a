//! `GET /console/data/cluster`: the members, the shards, and what is wrong or moving.

use std::collections::BTreeMap;

use pushonce_core::ShardId;
use pushonce_proto::cluster::ShardMoveProgress;
use pushonce_publish::ClusterStatusProvider;
use serde::Serialize;

use super::ConsoleData;
use crate::node::overview::ClusterJson;

#[derive(Serialize)]
pub(super) struct ConsoleClusterJson {
    #[serde(flatten)]
    cluster: ClusterJson,
    /// Number of replicas that a shard should have.
    replicas: u8,
    /// The most severe first; empty for a healthy cluster.
    problems: Vec<ProblemJson>,
    /// Shards that do not have their replicas yet, or have one that lags.
    moves: Vec<MoveJson>,
    /// Round trip of the link to each node, in microseconds.
    round_trips_us: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct ProblemJson {
    severity: &'static str,
    kind: &'static str,
    text: String,
}

#[derive(Serialize)]
struct MoveJson {
    shard: u16,
    text: String,
    node: Option<String>,
    /// Of a replica that catches up: the last entry that it holds, and the last entry of the log. Else 0.
    matched: u64,
    last: u64,
}

pub(super) async fn cluster(data: &ConsoleData) -> ConsoleClusterJson {
    let overview = &data.overview;
    let progress = overview.shard_progress().await;
    let problems = overview.problems(&progress);
    let round_trips = overview.round_trips.borrow().clone();
    let view = overview.view.borrow().clone();
    ConsoleClusterJson {
        cluster: overview.cluster(&[]),
        replicas: view.replicas,
        problems: problems
            .into_iter()
            .map(|problem| ProblemJson {
                severity: problem.severity().as_str(),
                kind: problem.kind(),
                text: problem.to_string(),
            })
            .collect(),
        moves: progress.into_iter().map(to_json).collect(),
        round_trips_us: round_trips
            .into_iter()
            .map(|(node, time)| {
                (node.to_string(), u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
            })
            .collect(),
    }
}

fn to_json((shard, progress): (ShardId, ShardMoveProgress)) -> MoveJson {
    MoveJson {
        shard: shard.0,
        text: progress.text,
        node: progress.node.map(|node| node.to_string()),
        matched: progress.matched_index,
        last: progress.last_index,
    }
}

//! The state of the cluster as this node knows it, and whether the node can do its work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_consensus::GroupStatus;
use pushonce_control::health::{self, ClusterProblem};
use pushonce_control::leave;
use pushonce_core::{
    ClusterId, ClusterView, NodeId, ShardId, ShardOwners, Topic, UnavailableReason,
};
use pushonce_peer::PeerTransport;
use pushonce_proto::cluster::ShardMoveProgress;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::health::{BlockedServices, HealthIssue};
use super::health_check::{HealthStatus, STOPPING_REASON};
use super::replica_supervisor::LocalReplicas;
use super::shard_progress;

/// The newest state, shared by the pages and services of the node. Cheap to clone.
#[derive(Clone)]
pub(super) struct NodeOverview {
    /// This node.
    pub(super) me: NodeId,
    /// Calls the other nodes.
    pub(super) transport: PeerTransport,
    /// The newest committed view.
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    /// The owners of shards, as they claim it themselves.
    pub(super) owners: watch::Receiver<Arc<ShardOwners>>,
    /// The nodes that this node has a link to, and this node.
    pub(super) reachable_nodes: watch::Receiver<BTreeSet<NodeId>>,
    /// The newest round trip of each of these links.
    pub(super) round_trips: watch::Receiver<BTreeMap<NodeId, Duration>>,
    /// The status of the control group on this node.
    pub(super) control_status: watch::Receiver<GroupStatus>,
    /// The result of the last health check.
    pub(super) health: watch::Receiver<HealthStatus>,
    /// The replicas on this node.
    pub(super) hosted: LocalReplicas,
    /// Another cluster to which this node's address belongs, if there is one.
    pub(super) conflicting_cluster: watch::Receiver<Option<ClusterId>>,
    /// Cancelled when the node begins to stop.
    pub(super) stopping: CancellationToken,
}

/// The JSON of `GET /cluster`.
#[derive(Serialize)]
pub(super) struct ClusterJson {
    node: String,
    cluster: String,
    version: u64,
    cluster_version: u16,
    leader: Option<String>,
    members: Vec<MemberJson>,
    shards: Vec<ShardJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    topics: Vec<TopicJson>,
}

#[derive(Serialize)]
struct MemberJson {
    id: String,
    name: String,
    region: String,
    zone: String,
    roles: String,
    state: &'static str,
    reachable: bool,
    release: String,
    versions: String,
    http: String,
    https: Option<String>,
    grpc: String,
}

#[derive(Serialize)]
struct ShardJson {
    shard: u16,
    owner: Option<String>,
    replicas: Vec<String>,
}

#[derive(Serialize)]
struct TopicJson {
    topic: String,
    shard: u16,
    owner: Option<String>,
}

impl NodeOverview {
    /// The state of the cluster, with the shard and owner of each of `topics`.
    pub(super) fn cluster(&self, topics: &[Topic]) -> ClusterJson {
        let view = self.view.borrow().clone();
        let owners = self.owners.borrow().clone();
        let reachable = self.reachable_nodes.borrow().clone();
        let owner_id = |shard: ShardId| owners.owner_of(shard).map(|id| id.to_string());
        let to_member_json = |m: &pushonce_core::Member| MemberJson {
            id: m.id.to_string(),
            name: m.name.clone(),
            region: m.region.clone(),
            zone: m.zone.clone(),
            roles: m.roles.to_string(),
            state: m.state.as_str(),
            reachable: m.id == self.me || reachable.contains(&m.id),
            release: m.build.release.clone(),
            versions: m.build.supported.to_string(),
            http: m.addresses.http.clone(),
            https: Some(m.addresses.https.clone()).filter(|address| !address.is_empty()),
            grpc: m.addresses.grpc.clone(),
        };
        let to_shard_json = |shard: ShardId| ShardJson {
            shard: shard.0,
            owner: owner_id(shard),
            replicas: view.placement.replicas_of(shard).iter().map(NodeId::to_string).collect(),
        };
        let to_topic_json = |topic: &Topic| {
            let shard = view.shard_of(topic)?;
            Some(TopicJson { topic: topic.to_string(), shard: shard.0, owner: owner_id(shard) })
        };
        ClusterJson {
            node: self.me.to_string(),
            cluster: view.cluster.to_string(),
            version: view.version,
            cluster_version: view.cluster_version.0,
            leader: self.control_status.borrow().leader.map(|id| id.to_string()),
            members: view.members.values().map(to_member_json).collect(),
            shards: view.shards.ids().map(to_shard_json).collect(),
            topics: topics.iter().filter_map(to_topic_json).collect(),
        }
    }

    /// Passes what this node sees of the cluster to `f`.
    pub(super) fn with_cluster_snapshot<T>(
        &self,
        f: impl FnOnce(&leave::ClusterObservation<'_>) -> T,
    ) -> T {
        let (view, owners) = (self.view.borrow().clone(), self.owners.borrow().clone());
        let reachable = self.reachable_nodes.borrow().clone();
        let control: Vec<NodeId> = self.control_status.borrow().voters.iter().copied().collect();
        f(&leave::ClusterObservation {
            view: &view,
            owners: &owners,
            control: &control,
            reachable: &reachable,
        })
    }

    /// The problems of the cluster as this node sees them, the worst first. `progress` is what the owners
    /// report about their shards.
    pub(super) fn problems(
        &self,
        progress: &BTreeMap<ShardId, ShardMoveProgress>,
    ) -> Vec<ClusterProblem> {
        let leader = self.control_status.borrow().leader;
        let lagging = shard_progress::lagging_replicas(progress);
        self.with_cluster_snapshot(|seen| health::find_problems(seen, leader, &lagging))
    }

    /// Why the node cannot do its work; empty when it can.
    pub(super) fn issues(&self) -> Vec<HealthIssue> {
        if self.stopping.is_cancelled() {
            return vec![HealthIssue::blocking_all(STOPPING_REASON)];
        }
        self.health.borrow().issues(Instant::now())
    }

    /// The issue of a node whose address belongs to another cluster, if there is one.
    pub(super) fn address_conflict_issue(&self) -> Option<HealthIssue> {
        let other = (*self.conflicting_cluster.borrow())?;
        let own = self.view.borrow().cluster;
        Some(HealthIssue {
            text: UnavailableReason::AddressConflict { own, other }.to_string(),
            blocks: BlockedServices::PUBLISH,
        })
    }
}

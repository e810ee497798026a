//! What this node knows of the cluster, and whether it can do its work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use pushonce_consensus::Status;
use pushonce_control::condition::{self, Problem};
use pushonce_control::leave;
use pushonce_core::{ClusterId, ClusterView, NodeId, Owners, ShardId, Topic};
use pushonce_proto::cluster::Progress;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::conflict;
use super::health::{Blocks, Reason};
use super::host::Hosted;
use super::moves;
use super::watch::{Health, STOPPING};

/// The newest of everything, for those who ask. Cheap to clone.
#[derive(Clone)]
pub(super) struct Overview {
    /// This node.
    pub(super) me: NodeId,
    /// The control group's word.
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    /// The owners' own words.
    pub(super) owners: watch::Receiver<Arc<Owners>>,
    /// Who has a link to this node.
    pub(super) reachable: watch::Receiver<BTreeSet<NodeId>>,
    /// The control group as it looks from here.
    pub(super) control: watch::Receiver<Status>,
    /// What this node thinks of itself.
    pub(super) health: watch::Receiver<Health>,
    /// The shards of this node.
    pub(super) hosted: Hosted,
    /// Another cluster to which this node's address belongs.
    pub(super) conflict: watch::Receiver<Option<ClusterId>>,
    /// Cancelled when the node begins to stop.
    pub(super) stopping: CancellationToken,
}

/// The cluster, for the pages of the node: `GET /cluster`.
#[derive(Serialize)]
pub(super) struct Cluster {
    node: String,
    cluster: String,
    version: u64,
    cluster_version: u16,
    leader: Option<String>,
    members: Vec<Member>,
    shards: Vec<Shard>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    topics: Vec<TopicPlace>,
}

#[derive(Serialize)]
struct Member {
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
    grpc: String,
}

#[derive(Serialize)]
struct Shard {
    shard: u16,
    owner: Option<String>,
    replicas: Vec<String>,
}

#[derive(Serialize)]
struct TopicPlace {
    topic: String,
    shard: u16,
    owner: Option<String>,
}

impl Overview {
    /// Everything, and where `topics` fall to.
    pub(super) fn cluster(&self, topics: &[Topic]) -> Cluster {
        let view = self.view.borrow().clone();
        let owners = self.owners.borrow().clone();
        let reachable = self.reachable.borrow().clone();
        let owner = |shard: ShardId| owners.of(shard).map(|id| id.to_string());
        let member = |m: &pushonce_core::Member| Member {
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
            grpc: m.addresses.grpc.clone(),
        };
        let shard = |shard: ShardId| Shard {
            shard: shard.0,
            owner: owner(shard),
            replicas: view.placement.of(shard).iter().map(NodeId::to_string).collect(),
        };
        let place = |topic: &Topic| {
            let shard = view.shard_of(topic)?;
            Some(TopicPlace { topic: topic.to_string(), shard: shard.0, owner: owner(shard) })
        };
        Cluster {
            node: self.me.to_string(),
            cluster: view.cluster.to_string(),
            version: view.version,
            cluster_version: view.cluster_version.0,
            leader: self.control.borrow().leader.map(|id| id.to_string()),
            members: view.members.values().map(member).collect(),
            shards: view.shards.ids().map(shard).collect(),
            topics: topics.iter().filter_map(place).collect(),
        }
    }

    /// Shows `look` what this node sees of the cluster.
    pub(super) fn seen<T>(&self, look: impl FnOnce(&leave::Seen<'_>) -> T) -> T {
        let (view, owners) = (self.view.borrow().clone(), self.owners.borrow().clone());
        let reachable = self.reachable.borrow().clone();
        let control: Vec<NodeId> = self.control.borrow().voters.iter().copied().collect();
        look(&leave::Seen {
            view: &view,
            owners: &owners,
            control: &control,
            reachable: &reachable,
        })
    }

    /// What is wrong with the cluster as this node sees it, the worst first. `progress` is what the owners
    /// say of their shards.
    pub(super) fn problems(&self, progress: &BTreeMap<ShardId, Progress>) -> Vec<Problem> {
        let leader = self.control.borrow().leader;
        let lagging = moves::lagging(progress);
        self.seen(|seen| condition::problems(seen, leader, &lagging))
    }

    /// Why the node cannot do its work; empty when it can.
    pub(super) fn obstacles(&self) -> Vec<Reason> {
        if self.stopping.is_cancelled() {
            return vec![Reason::of_all(STOPPING)];
        }
        self.health.borrow().obstacles(Instant::now())
    }

    /// Why this node's address is not its own, if that is so.
    pub(super) fn foreign_address(&self) -> Option<Reason> {
        let theirs = (*self.conflict.borrow())?;
        let ours = self.view.borrow().cluster;
        Some(Reason { text: conflict::text(ours, theirs), blocks: Blocks::PUBLISH })
    }
}

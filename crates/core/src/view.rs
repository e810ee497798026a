//! The cluster as every node knows it: the committed state of the control group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    ClusterId, ClusterTimes, ClusterVersion, HashRing, JoinTokenId, JoinTokenStatus, Namespaces,
    NodeId, Placement, Revocations, ShardCount, ShardId, Spread, TicketKeys, Topic, VersionRange,
};

/// A version of the cluster's state. Nodes that hold the same version hold the same view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster.
    pub cluster: ClusterId,
    /// The control group's log index that committed this view.
    pub version: u64,
    /// Number of shards; never changes.
    pub shards: ShardCount,
    /// Intended number of replicas of a shard; a cluster with fewer nodes has fewer.
    pub replicas: u8,
    /// The largest failure that the replicas are spread to survive.
    pub spread: Spread,
    /// Every node that has joined and was not removed.
    pub members: BTreeMap<NodeId, Member>,
    /// The id of the next node to join without a certificate: every lower one has been assigned, except the
    /// unused ones.
    pub next_id: NodeId,
    /// The lower ids that were never assigned, because the certificates of other nodes named higher ones.
    pub unused_ids: BTreeSet<NodeId>,
    /// The join tokens that were not dropped yet.
    pub join_tokens: BTreeMap<JoinTokenId, JoinTokenStatus>,
    /// The nodes that hold each shard.
    pub placement: Placement,
    /// The settings of the namespaces.
    pub namespaces: Namespaces,
    /// The tokens that are no longer accepted. Shared, because there may be thousands.
    pub revocations: Arc<Revocations>,
    /// The consensus times.
    pub times: ClusterTimes,
    /// The version in which nodes encode shared data.
    pub cluster_version: ClusterVersion,
    /// The keys of TLS session tickets; `None` before a node with TLS led the control group.
    pub ticket_keys: Option<TicketKeys>,
}

/// A node as the control group knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Assigned when the node joins, never reused.
    pub id: NodeId,
    /// The operator's name for the node, unique in the cluster.
    pub name: String,
    /// The addresses at which to reach the node.
    pub addresses: Addresses,
    /// Region; empty when not labelled.
    pub region: String,
    /// Zone within the region; empty when not labelled.
    pub zone: String,
    /// The roles of the node.
    pub roles: Roles,
    /// Weight of the node when shards are distributed.
    pub weight: u32,
    /// The membership state of the node.
    pub state: MemberState,
    /// The release of its build and the cluster versions it supports, as last announced.
    pub build: BuildInfo,
}

/// The build that a member runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInfo {
    /// The release, such as `0.1.0`, for display only.
    pub release: String,
    /// The cluster versions that the build supports.
    pub supported: VersionRange,
}

/// The addresses at which others dial a node, `host:port` each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// gRPC between nodes.
    pub peer: String,
    /// gRPC for publishers and operators.
    pub grpc: String,
    /// HTTP and WebSocket without TLS.
    pub http: String,
    /// HTTP and WebSocket with TLS; empty for a node without a certificate for clients.
    pub https: String,
    /// QUIC.
    pub quic: String,
}

/// The roles of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// Holds shards, and may vote in the control group.
    pub core: bool,
    /// Accepts client connections.
    pub edge: bool,
}

/// The membership state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Has an id but no shards yet.
    Joining,
    /// Holds its share of the shards.
    Active,
    /// Transfers its shards to other nodes.
    Draining,
}

impl ClusterView {
    /// The view before the first commit of the control group: a cluster without members, which sends no
    /// requests.
    pub fn unknown(cluster: ClusterId) -> ClusterView {
        ClusterView {
            cluster,
            version: 0,
            shards: ShardCount::DEFAULT,
            replicas: 0,
            spread: Spread::default(),
            members: BTreeMap::new(),
            next_id: NodeId(0),
            unused_ids: BTreeSet::new(),
            join_tokens: BTreeMap::new(),
            placement: Placement::default(),
            namespaces: Namespaces::default(),
            revocations: Arc::default(),
            times: ClusterTimes::default(),
            cluster_version: ClusterVersion::default(),
            ticket_keys: None,
        }
    }

    /// Whether the control group committed this view. Every view but [`ClusterView::unknown`] is committed.
    pub fn is_known(&self) -> bool {
        self.version > 0
    }

    /// The shard of a topic; `None` while the number of shards is unknown.
    pub fn shard_of(&self, topic: &Topic) -> Option<ShardId> {
        self.is_known().then(|| topic.shard(self.shards))
    }

    /// The member `id`, if there is one.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Whether a node was a member and was removed: its id is never reused. An id that was not assigned yet
    /// does not count as removed: the node may have joined after this view was committed.
    pub fn was_removed(&self, id: NodeId) -> bool {
        id < self.next_id && !self.members.contains_key(&id) && !self.unused_ids.contains(&id)
    }

    /// The members whose build does not support `version`, ordered by id.
    pub fn members_not_supporting(&self, version: ClusterVersion) -> Vec<NodeId> {
        let lacks = |m: &&Member| !m.build.supported.contains(version);
        self.members.values().filter(lacks).map(|m| m.id).collect()
    }

    /// The version to which the cluster may be raised: the next one if the build of any member supports it,
    /// else the present one.
    pub fn next_version(&self) -> ClusterVersion {
        let next = self.cluster_version.next();
        let is_supported = self.members.values().any(|m| m.build.supported.contains(next));
        if is_supported { next } else { self.cluster_version }
    }

    /// The region of a member; empty for a node without label and for an unknown node.
    pub fn region_of(&self, id: NodeId) -> &str {
        self.member(id).map_or("", |m| m.region.as_str())
    }

    /// The nodes on which shards may be placed: active members with the core role.
    pub fn placement_candidates(&self) -> BTreeMap<NodeId, &Member> {
        let holds = |m: &&Member| m.state == MemberState::Active && m.roles.core;
        self.members.values().filter(holds).map(|m| (m.id, m)).collect()
    }

    /// The order of a region's nodes as head for each shard. Call it once per view: it builds the ring of
    /// the region and walks it for every shard.
    pub fn region_heads(&self, region: &str) -> RegionHeads {
        let active = |m: &&Member| m.state == MemberState::Active && m.region == region;
        let weights = self.members.values().filter(active).map(|m| (m.id, 1)).collect();
        let ring = HashRing::new(&weights);
        RegionHeads(self.shards.ids().map(|shard| ring.preference_list(shard)).collect())
    }
}

/// For each shard, the nodes of one region in the order in which they are its head. The first reachable one
/// is the head.
#[derive(Clone, Debug, Default)]
pub struct RegionHeads(Vec<Vec<NodeId>>);

impl RegionHeads {
    /// The order for a shard; empty for a shard that the view does not have.
    pub fn candidates(&self, shard: ShardId) -> &[NodeId] {
        self.0.get(usize::from(shard.0)).map_or(&[], Vec::as_slice)
    }
}

impl Default for Roles {
    fn default() -> Roles {
        Roles { core: true, edge: true }
    }
}

/// Text that is not a list of the roles `core` and `edge`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("roles must be `core`, `edge` or `core,edge`, not {0:?}")]
pub struct InvalidRoles(String);

impl FromStr for Roles {
    type Err = InvalidRoles;

    fn from_str(text: &str) -> Result<Roles, InvalidRoles> {
        let mut roles = Roles { core: false, edge: false };
        for word in text.split(',').map(str::trim) {
            match word {
                "core" => roles.core = true,
                "edge" => roles.edge = true,
                _ => return Err(InvalidRoles(text.to_owned())),
            }
        }
        Ok(roles)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.core, self.edge) {
            (true, true) => "core,edge",
            (true, false) => "core",
            (false, true) => "edge",
            (false, false) => "none",
        })
    }
}

impl MemberState {
    /// The name on screens and in protobuf.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberState::Joining => "joining",
            MemberState::Active => "active",
            MemberState::Draining => "draining",
        }
    }
}

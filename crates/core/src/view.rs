//! What every node knows of the cluster: the control group's committed state, as a value.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{
    ClusterId, ClusterTimes, ClusterVersion, HashRing, Namespaces, NodeId, Placement, ShardCount,
    ShardId, Spread, Topic, VersionRange,
};

/// A version of the cluster. Nodes that hold the same version hold the same view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The control group's log index that made this view.
    pub version: u64,
    /// How many shards, for ever.
    pub shards: ShardCount,
    /// How many replicas a shard should have; fewer nodes give fewer.
    pub replicas: u8,
    /// What the replicas should survive.
    pub spread: Spread,
    /// Every node that has ever joined and was not removed.
    pub members: BTreeMap<NodeId, Member>,
    /// The id of the next node to join: every lower one has been given out.
    pub next_id: NodeId,
    /// Who holds which shard.
    pub placement: Placement,
    /// The settings of the namespaces.
    pub namespaces: Namespaces,
    /// The times of consensus.
    pub times: ClusterTimes,
    /// In which version nodes write what they share.
    pub cluster_version: ClusterVersion,
}

/// A node, as the control group knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Given out at the join, never used twice.
    pub id: NodeId,
    /// The operator's name for it, unique in the cluster.
    pub name: String,
    /// Where to reach it.
    pub addresses: Addresses,
    /// Empty when not labelled.
    pub region: String,
    /// Within the region; empty when not labelled.
    pub zone: String,
    /// What it does.
    pub roles: Roles,
    /// Its share of the shards, beside the others' weights.
    pub weight: u32,
    /// Where it stands.
    pub state: MemberState,
    /// What its build supports, and the build's own version: as it announced them last.
    pub build: BuildInfo,
}

/// What a member runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInfo {
    /// The release, such as `0.1.0`: for people.
    pub release: String,
    /// The cluster versions that it supports.
    pub supported: VersionRange,
}

/// Where others dial a node: `host:port` each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// gRPC between nodes.
    pub peer: String,
    /// gRPC for publishers and operators.
    pub grpc: String,
    /// HTTP and WebSocket.
    pub http: String,
    /// QUIC.
    pub quic: String,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// Holds shards, and may vote in the control group.
    pub core: bool,
    /// Holds client connections.
    pub edge: bool,
}

/// Where a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Has an id, holds nothing yet.
    Joining,
    /// Takes its share.
    Active,
    /// Gives its share away.
    Draining,
}

impl ClusterView {
    /// Before the control group has spoken: a cluster without members, which asks nobody anything.
    pub fn unknown(cluster: ClusterId) -> ClusterView {
        ClusterView {
            cluster,
            version: 0,
            shards: ShardCount::DEFAULT,
            replicas: 0,
            spread: Spread::default(),
            members: BTreeMap::new(),
            next_id: NodeId(0),
            placement: Placement::default(),
            namespaces: Namespaces::default(),
            times: ClusterTimes::default(),
            cluster_version: ClusterVersion::default(),
        }
    }

    /// Whether the control group has committed it. Every view but [`ClusterView::unknown`] is.
    pub fn is_known(&self) -> bool {
        self.version > 0
    }

    /// The shard of a topic; `NoFault` while the number of shards is not known.
    pub fn shard_of(&self, topic: &Topic) -> Option<ShardId> {
        self.is_known().then(|| topic.shard(self.shards))
    }

    /// The member `id`.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Whether a node was a member and was removed: its id is never used again. A stranger is not
    /// gone: it may have joined after this view was made.
    pub fn was_removed(&self, id: NodeId) -> bool {
        id < self.next_id && !self.members.contains_key(&id)
    }

    /// The members whose build does not support `version`, in the order of their ids.
    pub fn members_not_supporting(&self, version: ClusterVersion) -> Vec<NodeId> {
        let lacks = |m: &&Member| !m.build.supported.contains(version);
        self.members.values().filter(lacks).map(|m| m.id).collect()
    }

    /// The version that the cluster may be raised to: the next one if the build of any member supports
    /// that, else the present one.
    pub fn next_version(&self) -> ClusterVersion {
        let next = self.cluster_version.next();
        let is_supported = self.members.values().any(|m| m.build.supported.contains(next));
        if is_supported { next } else { self.cluster_version }
    }

    /// The region of a member; empty for a node without label and for a stranger.
    pub fn region_of(&self, id: NodeId) -> &str {
        self.member(id).map_or("", |m| m.region.as_str())
    }

    /// The nodes that shards may be placed on: active, with the core role.
    pub fn placement_candidates(&self) -> BTreeMap<NodeId, &Member> {
        let holds = |m: &&Member| m.state == MemberState::Active && m.roles.core;
        self.members.values().filter(holds).map(|m| (m.id, m)).collect()
    }

    /// The orders in which the nodes of a region would head it. To be asked for once per view: it
    /// builds the ring of the region and walks it for every shard.
    pub fn region_heads(&self, region: &str) -> RegionHeads {
        let active = |m: &&Member| m.state == MemberState::Active && m.region == region;
        let weights = self.members.values().filter(active).map(|m| (m.id, 1)).collect();
        let ring = HashRing::new(&weights);
        RegionHeads(self.shards.ids().map(|shard| ring.preference_list(shard)).collect())
    }
}

/// For each shard, the nodes of one region in the order in which they would head it. The first that
/// lives is the region's head.
#[derive(Clone, Debug, Default)]
pub struct RegionHeads(Vec<Vec<NodeId>>);

impl RegionHeads {
    /// The order for a shard; empty for one that the view does not have.
    pub fn candidates(&self, shard: ShardId) -> &[NodeId] {
        self.0.get(usize::from(shard.0)).map_or(&[], Vec::as_slice)
    }
}

impl Default for Roles {
    fn default() -> Roles {
        Roles { core: true, edge: true }
    }
}

/// Neither `core` nor `edge`, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("roles are core, edge, or core,edge, not {0:?}")]
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
    /// As it stands on a screen and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberState::Joining => "joining",
            MemberState::Active => "active",
            MemberState::Draining => "draining",
        }
    }
}

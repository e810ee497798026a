//! The gRPC contract of operators as domain types: the state of the cluster, its shards and its topics.

mod namespace;
mod revocation;
mod topic;

use std::collections::BTreeSet;
use std::time::Duration;

use pushonce_core::{
    Addresses, BuildInfo, ClusterId, ClusterTimes, ClusterVersion, Member, MemberState, NodeId,
    OwnershipClaim, ShardId, Term, Topic, VersionRange,
};

pub use topic::{
    RemovedMessages, TopicInfo, TopicList, TopicQuery, decode_removal, removal_request,
};

use crate::InvalidField;
use crate::field::{decode_topic, decode_version};
use crate::pb::cluster::v1 as pb;

/// The cluster as one node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The id of the cluster.
    pub cluster: ClusterId,
    /// The node that reports this status.
    pub node: NodeId,
    /// The version of the reporting node's view of the cluster.
    pub version: u64,
    /// The version of the placement in that view.
    pub placement_version: u64,
    /// The configured number of replicas per shard.
    pub replicas: u8,
    /// The state of the control group.
    pub control: ControlGroupStatus,
    /// Every member, ordered by id.
    pub members: Vec<MemberStatus>,
    /// Every shard, ordered by id.
    pub shards: Vec<ShardStatus>,
    /// Another cluster whose members connect to the reporting node's address as one of their members.
    pub conflicting_cluster: Option<ClusterId>,
    /// The timeouts of consensus.
    pub times: ClusterTimes,
    /// The problems of the cluster, the most severe first.
    pub problems: Vec<ReportedProblem>,
    /// The version in which nodes write shared data.
    pub cluster_version: ClusterVersion,
}

/// A problem of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedProblem {
    /// `degraded` or `unavailable`.
    pub severity: String,
    /// The kind of problem, as a word that a program can compare.
    pub kind: String,
    /// A description for people.
    pub text: String,
}

/// The control group as one node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlGroupStatus {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: Term,
    /// The voters of the group.
    pub voters: Vec<NodeId>,
    /// The learners of the group.
    pub learners: Vec<NodeId>,
    /// The index of the last entry that the reporting node has applied.
    pub applied: u64,
}

/// A member and the link to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The member itself.
    pub member: Member,
    /// Whether the reporting node has a link to the member, or is the member.
    pub reachable: bool,
    /// The newest round trip of that link, to the microsecond.
    pub round_trip: Option<Duration>,
}

/// The state of a shard: its current and its intended replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// The id of the shard.
    pub id: ShardId,
    /// The leader of the shard's group.
    pub owner: Option<NodeId>,
    /// The term of that leader.
    pub term: Term,
    /// The voters of the shard's group.
    pub voters: Vec<NodeId>,
    /// The learners of the shard's group: replicas that catch up.
    pub learners: Vec<NodeId>,
    /// The intended replicas of the shard, the preferred owner first.
    pub wanted: Vec<NodeId>,
    /// Whether the group is known to differ from `wanted`.
    pub moving: bool,
    /// What the owner does to reach `wanted` or waits for, if it reported that.
    pub progress: Option<ShardMoveProgress>,
}

/// The step that the owner of a shard takes to reach the intended replicas, or that it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMoveProgress {
    /// A description for people.
    pub text: String,
    /// The node that the step is about.
    pub node: Option<NodeId>,
    /// The index of the last log entry that `node` holds while it catches up; otherwise 0.
    pub matched_index: u64,
    /// The index of the last entry of the log while `node` catches up; otherwise 0.
    pub last_index: u64,
    /// Whether the node can be reached but its replica does not respond.
    pub unresponsive: bool,
}

/// The shard and the owner of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLocation {
    /// The topic.
    pub topic: Topic,
    /// The shard of the topic.
    pub shard: ShardId,
    /// The current owner of the shard.
    pub owner: Option<NodeId>,
    /// The intended replicas of the shard, the preferred owner first.
    pub wanted: Vec<NodeId>,
}

impl ShardStatus {
    /// Combines the committed placement of a shard with the claim of its owner.
    pub fn from_claim(
        id: ShardId,
        wanted: &[NodeId],
        claim: Option<&OwnershipClaim>,
    ) -> ShardStatus {
        let wanted = wanted.to_vec();
        let Some(claim) = claim else {
            let (voters, learners) = (Vec::new(), Vec::new());
            return ShardStatus {
                id,
                owner: None,
                term: Term(0),
                voters,
                learners,
                wanted,
                moving: false,
                progress: None,
            };
        };
        let to_set = |nodes: &[NodeId]| nodes.iter().copied().collect::<BTreeSet<_>>();
        let settled = claim.learners.is_empty()
            && to_set(&claim.voters) == to_set(&wanted)
            && wanted.first() == Some(&claim.owner);
        ShardStatus {
            id,
            owner: Some(claim.owner),
            term: claim.term,
            voters: claim.voters.clone(),
            learners: claim.learners.clone(),
            wanted,
            moving: !settled,
            progress: None,
        }
    }
}

// === to the wire ===

impl From<ClusterStatus> for pb::StatusResponse {
    fn from(status: ClusterStatus) -> pb::StatusResponse {
        pb::StatusResponse {
            cluster_id: status.cluster.to_string(),
            node_id: status.node.0,
            version: status.version,
            placement_version: status.placement_version,
            replicas: u32::from(status.replicas),
            control_leader: encode_node(status.control.leader),
            control_term: status.control.term.0,
            control_voters: encode_nodes(status.control.voters),
            control_learners: encode_nodes(status.control.learners),
            control_applied: status.control.applied,
            members: status.members.into_iter().map(pb::Member::from).collect(),
            shards: status.shards.into_iter().map(pb::Shard::from).collect(),
            conflicting_cluster_id: status
                .conflicting_cluster
                .map(|id| id.to_string())
                .unwrap_or_default(),
            problems: status.problems.into_iter().map(pb::Problem::from).collect(),
            times: Some(status.times.into()),
            cluster_version: status.cluster_version.0.into(),
        }
    }
}

impl From<ReportedProblem> for pb::Problem {
    fn from(ReportedProblem { severity, kind, text }: ReportedProblem) -> pb::Problem {
        pb::Problem { severity, kind, text }
    }
}

impl From<pb::Problem> for ReportedProblem {
    fn from(pb::Problem { severity, kind, text }: pb::Problem) -> ReportedProblem {
        ReportedProblem { severity, kind, text }
    }
}

impl From<MemberStatus> for pb::Member {
    fn from(MemberStatus { member, reachable, round_trip }: MemberStatus) -> pb::Member {
        pb::Member {
            id: member.id.0,
            name: member.name,
            region: member.region,
            zone: member.zone,
            roles: member.roles.to_string(),
            weight: member.weight,
            state: member.state.as_str().to_owned(),
            reachable,
            peer_address: member.addresses.peer,
            grpc_address: member.addresses.grpc,
            http_address: member.addresses.http,
            https_address: member.addresses.https,
            quic_address: member.addresses.quic,
            release: member.build.release,
            version_min: member.build.supported.min.0.into(),
            version_max: member.build.supported.max.0.into(),
            round_trip_us: round_trip
                .map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        }
    }
}

impl From<ShardStatus> for pb::Shard {
    fn from(shard: ShardStatus) -> pb::Shard {
        let no_progress = ShardMoveProgress {
            text: String::new(),
            node: None,
            matched_index: 0,
            last_index: 0,
            unresponsive: false,
        };
        let progress = shard.progress.unwrap_or(no_progress);
        pb::Shard {
            id: u32::from(shard.id.0),
            owner: encode_node(shard.owner),
            term: shard.term.0,
            voters: encode_nodes(shard.voters),
            learners: encode_nodes(shard.learners),
            wanted: encode_nodes(shard.wanted),
            moving: shard.moving,
            progress: progress.text,
            progress_node: encode_node(progress.node),
            progress_has: progress.matched_index,
            progress_of: progress.last_index,
            progress_silent: progress.unresponsive,
        }
    }
}

impl From<TopicLocation> for pb::ExplainResponse {
    fn from(location: TopicLocation) -> pb::ExplainResponse {
        pb::ExplainResponse {
            topic: location.topic.into(),
            shard: u32::from(location.shard.0),
            owner: encode_node(location.owner),
            wanted: encode_nodes(location.wanted),
        }
    }
}

// === from the wire ===

impl TryFrom<pb::StatusResponse> for ClusterStatus {
    type Error = InvalidField;

    fn try_from(status: pb::StatusResponse) -> Result<ClusterStatus, InvalidField> {
        let cluster = status.cluster_id.parse();
        Ok(ClusterStatus {
            cluster: cluster
                .map_err(|error| InvalidField::new("cluster_id", format!("is invalid: {error}")))?,
            node: NodeId(status.node_id),
            version: status.version,
            placement_version: status.placement_version,
            replicas: u8::try_from(status.replicas)
                .map_err(|_| InvalidField::new("replicas", "is greater than 255"))?,
            control: ControlGroupStatus {
                leader: decode_node(status.control_leader),
                term: Term(status.control_term),
                voters: decode_nodes(status.control_voters),
                learners: decode_nodes(status.control_learners),
                applied: status.control_applied,
            },
            members: status
                .members
                .into_iter()
                .map(MemberStatus::try_from)
                .collect::<Result<_, _>>()?,
            shards: status
                .shards
                .into_iter()
                .map(ShardStatus::try_from)
                .collect::<Result<_, _>>()?,
            conflicting_cluster: match status.conflicting_cluster_id.as_str() {
                "" => None,
                id => Some(id.parse().map_err(|error| {
                    InvalidField::new("conflicting_cluster_id", format!("is invalid: {error}"))
                })?),
            },
            problems: status.problems.into_iter().map(ReportedProblem::from).collect(),
            times: status.times.ok_or_else(|| InvalidField::missing("times"))?.try_into()?,
            cluster_version: decode_version("cluster_version", status.cluster_version)?,
        })
    }
}

impl TryFrom<pb::Member> for MemberStatus {
    type Error = InvalidField;

    fn try_from(member: pb::Member) -> Result<MemberStatus, InvalidField> {
        let roles = member.roles.parse();
        Ok(MemberStatus {
            member: Member {
                id: NodeId(member.id),
                name: member.name,
                addresses: Addresses {
                    peer: member.peer_address,
                    grpc: member.grpc_address,
                    http: member.http_address,
                    https: member.https_address,
                    quic: member.quic_address,
                },
                region: member.region,
                zone: member.zone,
                roles: roles.map_err(|error| {
                    InvalidField::new("members.roles", format!("is invalid: {error}"))
                })?,
                weight: member.weight,
                state: decode_state(&member.state)?,
                build: BuildInfo {
                    release: member.release,
                    supported: VersionRange {
                        min: decode_version("members.version_min", member.version_min)?,
                        max: decode_version("members.version_max", member.version_max)?,
                    },
                },
            },
            reachable: member.reachable,
            round_trip: member.round_trip_us.map(Duration::from_micros),
        })
    }
}

impl TryFrom<pb::Shard> for ShardStatus {
    type Error = InvalidField;

    fn try_from(shard: pb::Shard) -> Result<ShardStatus, InvalidField> {
        Ok(ShardStatus {
            id: decode_shard_id("shards.id", shard.id)?,
            owner: decode_node(shard.owner),
            term: Term(shard.term),
            voters: decode_nodes(shard.voters),
            learners: decode_nodes(shard.learners),
            wanted: decode_nodes(shard.wanted),
            moving: shard.moving,
            progress: (!shard.progress.is_empty()).then_some(ShardMoveProgress {
                text: shard.progress,
                node: decode_node(shard.progress_node),
                matched_index: shard.progress_has,
                last_index: shard.progress_of,
                unresponsive: shard.progress_silent,
            }),
        })
    }
}

impl TryFrom<pb::ExplainResponse> for TopicLocation {
    type Error = InvalidField;

    fn try_from(location: pb::ExplainResponse) -> Result<TopicLocation, InvalidField> {
        Ok(TopicLocation {
            topic: decode_topic("topic", &location.topic)?,
            shard: decode_shard_id("shard", location.shard)?,
            owner: decode_node(location.owner),
            wanted: decode_nodes(location.wanted),
        })
    }
}

fn decode_state(name: &str) -> Result<MemberState, InvalidField> {
    [MemberState::Joining, MemberState::Active, MemberState::Draining]
        .into_iter()
        .find(|state| state.as_str() == name)
        .ok_or_else(|| {
            InvalidField::new("members.state", format!("is invalid: unknown state {name:?}"))
        })
}

fn decode_shard_id(field: &'static str, number: u32) -> Result<ShardId, InvalidField> {
    let shard = u16::try_from(number);
    shard.map(ShardId).map_err(|_| InvalidField::new(field, format!("is not a shard: {number}")))
}

/// Decodes a node id; zero means none.
fn decode_node(number: u64) -> Option<NodeId> {
    (number != 0).then_some(NodeId(number))
}

fn encode_node(node: Option<NodeId>) -> u64 {
    node.map_or(0, |node| node.0)
}

fn decode_nodes(numbers: Vec<u64>) -> Vec<NodeId> {
    numbers.into_iter().map(NodeId).collect()
}

fn encode_nodes(nodes: Vec<NodeId>) -> Vec<u64> {
    nodes.into_iter().map(|node| node.0).collect()
}

#[cfg(test)]
mod tests {
    use pushonce_core::{Roles, test_util};

    use super::*;

    fn claim(voters: &[u64]) -> OwnershipClaim {
        let voters = voters.iter().copied().map(NodeId).collect();
        OwnershipClaim { membership_index: 9, voters, ..test_util::claim(3, 1, 5) }
    }

    #[test]
    fn shard_is_moving_until_its_group_matches_the_placement() {
        let wanted = [NodeId(1), NodeId(2)];
        let moving = |claim: &OwnershipClaim| {
            ShardStatus::from_claim(ShardId(3), &wanted, Some(claim)).moving
        };
        assert!(moving(&claim(&[1])));
        assert!(moving(&OwnershipClaim { learners: vec![NodeId(3)], ..claim(&[1, 2]) }));
        assert!(moving(&OwnershipClaim { owner: NodeId(2), ..claim(&[1, 2]) }));
        assert!(!moving(&claim(&[2, 1])));
    }

    #[test]
    fn status_round_trips() {
        let member = Member {
            id: NodeId(1),
            name: "a".to_owned(),
            addresses: Addresses {
                grpc: "h:7090".to_owned(),
                https: "h:7443".to_owned(),
                ..Addresses::default()
            },
            region: "eu-west".to_owned(),
            zone: "a".to_owned(),
            roles: Roles { core: true, edge: false },
            weight: 1,
            state: MemberState::Draining,
            build: BuildInfo { release: "0.1.0".to_owned(), supported: VersionRange::supported() },
        };
        let status = ClusterStatus {
            cluster: ClusterId(0xabc),
            node: NodeId(1),
            version: 7,
            placement_version: 6,
            replicas: 3,
            control: ControlGroupStatus {
                leader: Some(NodeId(1)),
                voters: vec![NodeId(1)],
                ..ControlGroupStatus::default()
            },
            members: vec![MemberStatus {
                member,
                reachable: true,
                round_trip: Some(Duration::from_micros(417)),
            }],
            shards: vec![
                ShardStatus::from_claim(ShardId(3), &[NodeId(1)], Some(&claim(&[1]))),
                ShardStatus {
                    progress: Some(ShardMoveProgress {
                        text: "n2 catches up: 3 of 7".to_owned(),
                        node: Some(NodeId(2)),
                        matched_index: 3,
                        last_index: 7,
                        unresponsive: true,
                    }),
                    ..ShardStatus::from_claim(ShardId(4), &[NodeId(1)], None)
                },
            ],
            conflicting_cluster: Some(ClusterId(0xdef)),
            problems: vec![ReportedProblem {
                severity: "degraded".to_owned(),
                kind: "too_few_copies".to_owned(),
                text: "s3 has fewer than 3 live replicas".to_owned(),
            }],
            times: ClusterTimes::default(),
            cluster_version: ClusterVersion::FIRST,
        };
        assert_eq!(ClusterStatus::try_from(pb::StatusResponse::from(status.clone())), Ok(status));
    }

    #[test]
    fn topic_location_round_trips() {
        let location = TopicLocation {
            topic: Topic::new("chat/7").expect("valid"),
            shard: ShardId(3),
            owner: None,
            wanted: vec![NodeId(2)],
        };
        assert_eq!(
            TopicLocation::try_from(pb::ExplainResponse::from(location.clone())),
            Ok(location)
        );
    }
}

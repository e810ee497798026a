//! What an operator sees of the cluster, as domain.

mod namespace;
mod topic;

use std::collections::BTreeSet;

use pushonce_core::{
    Addresses, Build, Claim, ClusterId, ClusterTimes, ClusterVersion, Member, MemberState, NodeId,
    ShardId, Term, Topic, VersionRange,
};

pub use topic::{TopicInfo, TopicList};

use crate::InvalidField;
use crate::field::{topic, version};
use crate::pb::cluster::v1 as pb;

/// The cluster as one node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The node that says so.
    pub node: NodeId,
    /// The version of its view.
    pub version: u64,
    /// The version of the placement in it.
    pub placement_version: u64,
    /// How many replicas a shard should have.
    pub replicas: u8,
    /// The control group.
    pub control: Control,
    /// Every member, by id.
    pub members: Vec<Seen>,
    /// Every shard, by id.
    pub shards: Vec<Shard>,
    /// Another cluster whose members dial the answering node's address as one of theirs.
    pub conflict: Option<ClusterId>,
    /// The times of consensus.
    pub times: ClusterTimes,
    /// What is wrong, the worst first.
    pub problems: Vec<Problem>,
    /// In which version nodes write what they share.
    pub cluster_version: ClusterVersion,
}

/// Something that is wrong with the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `degraded` or `unavailable`.
    pub severity: String,
    /// A word for machines.
    pub kind: String,
    /// For people.
    pub text: String,
}

/// The control group as one node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Who leads it.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: Term,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Who follows.
    pub learners: Vec<NodeId>,
    /// The last entry that this node has applied.
    pub applied: u64,
}

/// A member, and whether it can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The member.
    pub member: Member,
    /// Whether the node that says so has a link to it, or is it.
    pub reachable: bool,
}

/// A shard: who holds it, and who should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which.
    pub id: ShardId,
    /// Who leads its group.
    pub owner: Option<NodeId>,
    /// Under which term.
    pub term: Term,
    /// Who votes in its group.
    pub voters: Vec<NodeId>,
    /// Who is being brought up.
    pub learners: Vec<NodeId>,
    /// Who should hold it, the preferred owner first.
    pub wanted: Vec<NodeId>,
    /// Whether the group is known to differ from that.
    pub moving: bool,
    /// What its owner does about that or waits for, if it said.
    pub progress: Option<Progress>,
}

/// What the owner of a shard does on the way to the wanted replicas, or waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// For people.
    pub text: String,
    /// The node that it is about.
    pub node: Option<NodeId>,
    /// Of a node that catches up: the last entry of the log that it holds; else 0.
    pub has: u64,
    /// And the last there is; else 0.
    pub of: u64,
    /// Whether the node can be reached and its replica answers nothing.
    pub silent: bool,
}

/// Where a topic falls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Which topic.
    pub topic: Topic,
    /// Its shard.
    pub shard: ShardId,
    /// Who owns that now.
    pub owner: Option<NodeId>,
    /// Who should hold it, the preferred owner first.
    pub wanted: Vec<NodeId>,
}

impl Shard {
    /// What the committed table wants for a shard, beside what its owner claims.
    pub fn of(id: ShardId, wanted: &[NodeId], claim: Option<&Claim>) -> Shard {
        let wanted = wanted.to_vec();
        let Some(claim) = claim else {
            let (voters, learners) = (Vec::new(), Vec::new());
            return Shard {
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
        let set = |nodes: &[NodeId]| nodes.iter().copied().collect::<BTreeSet<_>>();
        let settled = claim.learners.is_empty()
            && set(&claim.voters) == set(&wanted)
            && wanted.first() == Some(&claim.owner);
        Shard {
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

impl From<Status> for pb::StatusResponse {
    fn from(status: Status) -> pb::StatusResponse {
        pb::StatusResponse {
            cluster_id: status.cluster.to_string(),
            node_id: status.node.0,
            version: status.version,
            placement_version: status.placement_version,
            replicas: u32::from(status.replicas),
            control_leader: number(status.control.leader),
            control_term: status.control.term.0,
            control_voters: numbers(status.control.voters),
            control_learners: numbers(status.control.learners),
            control_applied: status.control.applied,
            members: status.members.into_iter().map(pb::Member::from).collect(),
            shards: status.shards.into_iter().map(pb::Shard::from).collect(),
            conflicting_cluster_id: status.conflict.map(|it| it.to_string()).unwrap_or_default(),
            problems: status.problems.into_iter().map(pb::Problem::from).collect(),
            times: Some(status.times.into()),
            cluster_version: status.cluster_version.0.into(),
        }
    }
}

impl From<Problem> for pb::Problem {
    fn from(Problem { severity, kind, text }: Problem) -> pb::Problem {
        pb::Problem { severity, kind, text }
    }
}

impl From<pb::Problem> for Problem {
    fn from(pb::Problem { severity, kind, text }: pb::Problem) -> Problem {
        Problem { severity, kind, text }
    }
}

impl From<Seen> for pb::Member {
    fn from(Seen { member, reachable }: Seen) -> pb::Member {
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
            quic_address: member.addresses.quic,
            release: member.build.release,
            version_min: member.build.supported.min.0.into(),
            version_max: member.build.supported.max.0.into(),
        }
    }
}

impl From<Shard> for pb::Shard {
    fn from(shard: Shard) -> pb::Shard {
        let nothing = Progress { text: String::new(), node: None, has: 0, of: 0, silent: false };
        let progress = shard.progress.unwrap_or(nothing);
        pb::Shard {
            id: u32::from(shard.id.0),
            owner: number(shard.owner),
            term: shard.term.0,
            voters: numbers(shard.voters),
            learners: numbers(shard.learners),
            wanted: numbers(shard.wanted),
            moving: shard.moving,
            progress: progress.text,
            progress_node: number(progress.node),
            progress_has: progress.has,
            progress_of: progress.of,
            progress_silent: progress.silent,
        }
    }
}

impl From<Explained> for pb::ExplainResponse {
    fn from(explained: Explained) -> pb::ExplainResponse {
        pb::ExplainResponse {
            topic: explained.topic.into(),
            shard: u32::from(explained.shard.0),
            owner: number(explained.owner),
            wanted: numbers(explained.wanted),
        }
    }
}

// === from the wire ===

impl TryFrom<pb::StatusResponse> for Status {
    type Error = InvalidField;

    fn try_from(status: pb::StatusResponse) -> Result<Status, InvalidField> {
        let cluster = status.cluster_id.parse();
        Ok(Status {
            cluster: cluster
                .map_err(|why| InvalidField::new("cluster_id", format!("is wrong: {why}")))?,
            node: NodeId(status.node_id),
            version: status.version,
            placement_version: status.placement_version,
            replicas: u8::try_from(status.replicas)
                .map_err(|_| InvalidField::new("replicas", "is over 255"))?,
            control: Control {
                leader: node(status.control_leader),
                term: Term(status.control_term),
                voters: nodes(status.control_voters),
                learners: nodes(status.control_learners),
                applied: status.control_applied,
            },
            members: status.members.into_iter().map(Seen::try_from).collect::<Result<_, _>>()?,
            shards: status.shards.into_iter().map(Shard::try_from).collect::<Result<_, _>>()?,
            conflict: match status.conflicting_cluster_id.as_str() {
                "" => None,
                id => Some(id.parse().map_err(|why| {
                    InvalidField::new("conflicting_cluster_id", format!("is wrong: {why}"))
                })?),
            },
            problems: status.problems.into_iter().map(Problem::from).collect(),
            times: status.times.ok_or_else(|| InvalidField::missing("times"))?.try_into()?,
            cluster_version: version("cluster_version", status.cluster_version)?,
        })
    }
}

impl TryFrom<pb::Member> for Seen {
    type Error = InvalidField;

    fn try_from(member: pb::Member) -> Result<Seen, InvalidField> {
        let roles = member.roles.parse();
        Ok(Seen {
            member: Member {
                id: NodeId(member.id),
                name: member.name,
                addresses: Addresses {
                    peer: member.peer_address,
                    grpc: member.grpc_address,
                    http: member.http_address,
                    quic: member.quic_address,
                },
                region: member.region,
                zone: member.zone,
                roles: roles.map_err(|why| {
                    InvalidField::new("members.roles", format!("is wrong: {why}"))
                })?,
                weight: member.weight,
                state: state(&member.state)?,
                build: Build {
                    release: member.release,
                    supported: VersionRange {
                        min: version("members.version_min", member.version_min)?,
                        max: version("members.version_max", member.version_max)?,
                    },
                },
            },
            reachable: member.reachable,
        })
    }
}

impl TryFrom<pb::Shard> for Shard {
    type Error = InvalidField;

    fn try_from(shard: pb::Shard) -> Result<Shard, InvalidField> {
        Ok(Shard {
            id: shard_id("shards.id", shard.id)?,
            owner: node(shard.owner),
            term: Term(shard.term),
            voters: nodes(shard.voters),
            learners: nodes(shard.learners),
            wanted: nodes(shard.wanted),
            moving: shard.moving,
            progress: (!shard.progress.is_empty()).then_some(Progress {
                text: shard.progress,
                node: node(shard.progress_node),
                has: shard.progress_has,
                of: shard.progress_of,
                silent: shard.progress_silent,
            }),
        })
    }
}

impl TryFrom<pb::ExplainResponse> for Explained {
    type Error = InvalidField;

    fn try_from(explained: pb::ExplainResponse) -> Result<Explained, InvalidField> {
        Ok(Explained {
            topic: topic("topic", &explained.topic)?,
            shard: shard_id("shard", explained.shard)?,
            owner: node(explained.owner),
            wanted: nodes(explained.wanted),
        })
    }
}

fn state(word: &str) -> Result<MemberState, InvalidField> {
    [MemberState::Joining, MemberState::Active, MemberState::Draining]
        .into_iter()
        .find(|state| state.as_str() == word)
        .ok_or_else(|| {
            InvalidField::new("members.state", format!("is wrong: no state is {word:?}"))
        })
}

fn shard_id(field: &'static str, number: u32) -> Result<ShardId, InvalidField> {
    let shard = u16::try_from(number);
    shard.map(ShardId).map_err(|_| InvalidField::new(field, format!("is no shard: {number}")))
}

/// Zero is nobody.
fn node(number: u64) -> Option<NodeId> {
    (number != 0).then_some(NodeId(number))
}

fn number(node: Option<NodeId>) -> u64 {
    node.map_or(0, |node| node.0)
}

fn nodes(numbers: Vec<u64>) -> Vec<NodeId> {
    numbers.into_iter().map(NodeId).collect()
}

fn numbers(nodes: Vec<NodeId>) -> Vec<u64> {
    nodes.into_iter().map(|node| node.0).collect()
}

#[cfg(test)]
mod tests {
    use pushonce_core::Roles;

    use super::*;

    fn claim(voters: &[u64]) -> Claim {
        Claim {
            shard: ShardId(3),
            owner: NodeId(1),
            term: Term(5),
            membership: 9,
            voters: voters.iter().copied().map(NodeId).collect(),
            learners: vec![],
        }
    }

    #[test]
    fn a_shard_moves_until_its_group_is_what_the_table_wants() {
        let wanted = [NodeId(1), NodeId(2)];
        let moving = |claim: &Claim| Shard::of(ShardId(3), &wanted, Some(claim)).moving;
        assert!(moving(&claim(&[1])));
        assert!(moving(&Claim { learners: vec![NodeId(3)], ..claim(&[1, 2]) }));
        assert!(moving(&Claim { owner: NodeId(2), ..claim(&[1, 2]) }));
        assert!(!moving(&claim(&[2, 1])));
    }

    #[test]
    fn a_status_reads_back_as_it_was_written() {
        let member = Member {
            id: NodeId(1),
            name: "a".to_owned(),
            addresses: Addresses { grpc: "h:7090".to_owned(), ..Addresses::default() },
            region: "eu-west".to_owned(),
            zone: "a".to_owned(),
            roles: Roles { core: true, edge: false },
            weight: 1,
            state: MemberState::Draining,
            build: Build { release: "0.1.0".to_owned(), supported: VersionRange::SUPPORTED },
        };
        let status = Status {
            cluster: ClusterId(0xabc),
            node: NodeId(1),
            version: 7,
            placement_version: 6,
            replicas: 3,
            control: Control {
                leader: Some(NodeId(1)),
                voters: vec![NodeId(1)],
                ..Control::default()
            },
            members: vec![Seen { member, reachable: true }],
            shards: vec![
                Shard::of(ShardId(3), &[NodeId(1)], Some(&claim(&[1]))),
                Shard {
                    progress: Some(Progress {
                        text: "n2 catches up: 3 of 7".to_owned(),
                        node: Some(NodeId(2)),
                        has: 3,
                        of: 7,
                        silent: true,
                    }),
                    ..Shard::of(ShardId(4), &[NodeId(1)], None)
                },
            ],
            conflict: Some(ClusterId(0xdef)),
            problems: vec![Problem {
                severity: "degraded".to_owned(),
                kind: "too_few_copies".to_owned(),
                text: "s3 has fewer than 3 living copies".to_owned(),
            }],
            times: ClusterTimes::default(),
            cluster_version: ClusterVersion::FIRST,
        };
        assert_eq!(Status::try_from(pb::StatusResponse::from(status.clone())), Ok(status));
    }

    #[test]
    fn where_a_topic_falls_reads_back_as_it_was_written() {
        let explained = Explained {
            topic: Topic::new("chat/7").expect("valid"),
            shard: ShardId(3),
            owner: None,
            wanted: vec![NodeId(2)],
        };
        assert_eq!(
            Explained::try_from(pb::ExplainResponse::from(explained.clone())),
            Ok(explained)
        );
    }
}

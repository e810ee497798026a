//! Fixtures shared by the tests of the engine.

use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::{
    Addresses, BuildInfo, ClusterId, ClusterVersion, ClusterView, ContentType, Member, MemberState,
    Message, Namespaces, NodeId, OwnershipClaim, Placement, Position, Roles, ShardCount, ShardId,
    Spread, Term, Timestamp, Topic,
};

/// The message at a position. Its payload is a function of the position, as in a real topic.
pub(crate) fn message(epoch: u64, offset: u64) -> Arc<Message> {
    Arc::new(Message {
        position: Position::new(epoch, offset),
        time: Timestamp(offset),
        content_type: ContentType::Text,
        key: None,
        payload: Bytes::from(format!("payload {epoch:06}:{offset:06}")),
    })
}

/// A valid topic.
pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).expect("valid")
}

/// A view of nodes 1, 2, 3, … in the given regions.
pub(crate) fn view(regions: &[&str]) -> ClusterView {
    let member = |(index, region): (usize, &&str)| {
        let id = NodeId(index as u64 + 1);
        let member = Member {
            id,
            name: id.to_string(),
            addresses: Addresses::default(),
            region: (*region).to_owned(),
            zone: String::new(),
            roles: Roles::default(),
            weight: 1,
            state: MemberState::Active,
            build: BuildInfo::default(),
        };
        (id, member)
    };
    ClusterView {
        cluster: ClusterId(1),
        version: 1,
        shards: ShardCount::new(SHARDS).expect("valid"),
        replicas: 3,
        spread: Spread::Zones,
        members: regions.iter().enumerate().map(member).collect(),
        next_id: NodeId(regions.len() as u64 + 1),
        placement: Placement::default(),
        namespaces: Namespaces::default(),
        times: Default::default(),
        cluster_version: ClusterVersion::FIRST,
    }
}

/// Two shards, so that the topics of a test share shards and each shard's ring is cheap to build.
const SHARDS: u16 = 2;

/// The claim of `owner` under `term`.
pub(crate) fn claim(shard: ShardId, owner: NodeId, term: u64) -> OwnershipClaim {
    let (voters, learners) = (vec![owner], vec![]);
    OwnershipClaim { shard, owner, term: Term(term), membership_index: 1, voters, learners }
}

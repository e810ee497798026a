//! Builders of valid values for tests.
//!
//! Each builder takes what most tests care about. A test overrides the rest with struct update syntax:
//! `Message { time: Timestamp(5), ..message(1, 7) }`. Builders panic on an invalid argument.

use bytes::Bytes;

use crate::{
    Acknowledgement, Addresses, BuildInfo, ClusterId, ClusterVersion, ClusterView, ContentType,
    Durability, Member, MemberState, Message, NodeId, OwnershipClaim, Position, Publish, Roles,
    ShardId, ShardOwners, Term, Timestamp, Topic,
};

/// The topic of this name.
pub fn topic(name: &str) -> Topic {
    Topic::new(name).expect("a valid topic")
}

/// A text message at a position: without a key and a payload, at time 0.
pub fn message(epoch: u64, offset: u64) -> Message {
    Message {
        position: Position::new(epoch, offset),
        time: Timestamp(0),
        content_type: ContentType::Text,
        key: None,
        payload: Bytes::new(),
    }
}

/// A text publish without a key and a publish id.
pub fn publish(topic: &str, payload: impl Into<Bytes>) -> Publish {
    Publish::new(self::topic(topic), ContentType::Text, payload)
}

/// The acknowledgement of a replicated message at a position, at time 0.
pub fn acknowledgement(epoch: u64, offset: u64) -> Acknowledgement {
    let position = Position::new(epoch, offset);
    Acknowledgement { position, time: Timestamp(0), durability: Durability::default() }
}

/// The claim of an owner that is the only voter of its shard.
pub fn claim(shard: u16, owner: u64, term: u64) -> OwnershipClaim {
    OwnershipClaim {
        shard: ShardId(shard),
        owner: NodeId(owner),
        term: Term(term),
        membership_index: 1,
        voters: vec![NodeId(owner)],
        learners: Vec::new(),
    }
}

/// The owners according to these claims.
pub fn owners(claims: impl IntoIterator<Item = OwnershipClaim>) -> ShardOwners {
    let mut owners = ShardOwners::default();
    for claim in claims {
        owners.apply_claim(claim);
    }
    owners
}

/// An active member of weight 1 with every role, in no region and no zone, without addresses.
pub fn member(id: u64) -> Member {
    let id = NodeId(id);
    Member {
        id,
        name: id.to_string(),
        addresses: Addresses::default(),
        region: String::new(),
        zone: String::new(),
        roles: Roles::default(),
        weight: 1,
        state: MemberState::Active,
        build: BuildInfo::default(),
    }
}

/// Version 1 of the view of cluster 1: these members, three replicas of the default number of shards, and no
/// placement.
pub fn view(members: impl IntoIterator<Item = Member>) -> ClusterView {
    ClusterView {
        version: 1,
        replicas: 3,
        members: members.into_iter().map(|member| (member.id, member)).collect(),
        cluster_version: ClusterVersion::FIRST,
        ticket_keys: None,
        ..ClusterView::unknown(ClusterId(1))
    }
}

/// The [`view`] of the members 1, 2, 3 … in these regions.
pub fn view_in_regions(regions: &[&str]) -> ClusterView {
    let member = |(id, region): (u64, &&str)| Member { region: (*region).to_owned(), ..member(id) };
    view((1..).zip(regions).map(member))
}

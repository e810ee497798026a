//! The words of Pushonce, and the pure decisions every node must take alike.
//!
//! *What is it?* The types that travel between the engines ([`Topic`], [`Position`], [`Message`]),
//! the [`HashRing`] that proposes who owns a shard, the [`ClusterView`] the control group publishes, the
//! [`ShardOwners`] table that says who leads each shard now, and [`select_upstream`], the one function that
//! decides where a node gets a topic from.
//!
//! *What does it promise?* Every function is a function of its arguments: two nodes that hold the
//! same view decide the same. A value that exists is valid: a [`Topic`] was checked when it was made.
//!
//! *What of versions?* [`ClusterVersion`] says in which encoding nodes write, [`VersionRange::SUPPORTED`] in
//! which clusters this build takes part, [`VersionRange::READABLE`] what it reads from disk,
//! [`VersionOffer::negotiate`] whether two nodes can read each other, and [`versioned`] how a value carries its
//! version.
//!
//! *What does it refuse?* Clocks, sockets, randomness, async, and every crate that has them.
//!
//! *How does data move?* It does not: values come in, values go out.
//!
//! *What must a caller not do?* Build identifiers out of bare integers in the middle of an engine;
//! they are read off a wire or a disk, or given out by the control group.

mod audience;
mod delivery;
mod error;
mod fail_point;
mod host_port;
mod ids;
mod message;
mod namespace;
mod ownership;
mod placement;
mod position;
mod publish_id;
mod resume;
mod ring;
mod route;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;
mod times;
mod topic;
mod version;
pub mod versioned;
mod view;

pub use audience::SubscriberCount;
pub use delivery::{Delivery, InvalidDelivery, SubscribeOptions};
pub use error::{PublishError, PublishRejection};
pub use fail_point::{FailPoint, UnknownFailPoint};
pub use host_port::{HostPort, InvalidHostPort};
pub use ids::{ClusterId, NodeId, ShardCount, ShardId, Term};
pub use message::{
    Acknowledgement, ContentType, InvalidPublish, Message, MessageKey, Publish, Timestamp,
};
pub use namespace::{
    DeliveryNotAllowed, Durability, History, InvalidNamespace, Namespace, NamespaceChange,
    Namespaces,
};
pub use ownership::{OwnershipClaim, ShardOwners};
pub use placement::{Placement, Spread};
pub use position::{Epoch, InvalidPosition, Offset, Position};
pub use publish_id::{InvalidPublishId, ProducerId, ProducerSequence, PublishId};
pub use resume::{FetchError, Gap, GapReason, HistoryPage, HistoryRange, StartFrom, TopicEvent};
pub use ring::HashRing;
pub use route::{UpstreamRoute, select_upstream};
pub use times::{ClusterTimes, ConsensusTimes};
pub use topic::{InvalidTopic, Topic};
pub use version::{
    AgreedVersion, ClusterVersion, InvalidVersionOffer, UnsupportedVersion, VersionConflict,
    VersionOffer, VersionRange,
};
pub use view::{Addresses, BuildInfo, ClusterView, Member, MemberState, RegionHeads, Roles};

//! Shared types of Pushonce and the pure decisions that every node must make alike.
//!
//! # Overview
//!
//! The types that travel between the engines ([`Topic`], [`Position`], [`Message`]), the [`HashRing`] that
//! proposes the owner of each shard, the [`ClusterView`] that the control group publishes, the
//! [`ShardOwners`] table of current shard leaders, and [`select_upstream`], the one function that decides
//! from which node a node receives a topic.
//!
//! [`ClusterVersion`] is the encoding in which nodes write. [`VersionRange::supported`] is the range of
//! cluster versions in which this build takes part, [`VersionRange::readable`] the range that it reads from
//! disk. [`VersionOffer::negotiate`] decides whether two nodes can read each other, and [`versioned`]
//! encodes a value with its version.
//!
//! # Guarantees
//!
//! - The result of every function depends on its arguments only: two nodes that hold the same view decide
//!   the same.
//! - A value that exists is valid: [`Topic::new`] rejects an invalid name.
//!
//! # Non-goals
//!
//! Clocks, sockets, randomness and async, and every crate that has them.
//!
//! # Data flow
//!
//! None: functions map values to values and keep no state.
//!
//! # Caller contract
//!
//! - An engine never builds identifiers from bare integers. They are decoded from a connection or a disk,
//!   or assigned by the control group.
//!
//! # Example
//!
//! ```
//! use pushonce_core::{Position, ShardCount, Topic};
//!
//! let topic = Topic::new("chat/7")?;
//! assert_eq!(topic.namespace(), "chat");
//! assert!(topic.shard(ShardCount::DEFAULT).0 < ShardCount::DEFAULT.get());
//!
//! let position: Position = "12:4051".parse()?;
//! assert!(position.next().follows(position));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access_token;
mod audience;
mod backoff;
mod caller_key;
mod commit_age;
mod coverage_mark;
mod delivery;
mod error;
mod fail_point;
#[cfg(test)]
mod fuzz;
mod host_port;
mod ids;
mod join_token;
mod message;
mod namespace;
mod overload;
mod ownership;
mod placement;
mod position;
mod publish_id;
mod rate_limit;
mod resume;
mod revocation;
mod ring;
mod route;
mod spiffe_id;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;
mod ticket_keys;
mod times;
mod topic;
mod topic_removal;
mod unavailable;
pub mod unicode;
mod version;
pub mod versioned;
mod view;

pub use access_token::AccessToken;
pub use audience::SubscriberCount;
pub use backoff::Backoff;
pub use caller_key::{CallerKey, ClientAddress, SubjectHash};
pub use commit_age::CommitAge;
pub use coverage_mark::CoverageMark;
pub use delivery::{Delivery, InvalidDelivery, SubscribeOptions};
pub use error::{PublishError, PublishRejection};
pub use fail_point::{FailPoint, UnknownFailPoint};
pub use host_port::{HostPort, InvalidHostPort};
pub use ids::{ClusterId, NodeId, ShardCount, ShardId, Term};
pub use join_token::{JoinTokenHash, JoinTokenId, JoinTokenStatus};
pub use message::{
    Acknowledgement, ContentType, InvalidPublish, Message, MessageKey, Publish, Timestamp,
};
pub use namespace::{
    DeliveryNotAllowed, Durability, History, InvalidNamespace, Namespace, NamespaceAccess,
    NamespaceChange, Namespaces,
};
pub use overload::{
    DiskFull, NamespaceRateExceeded, NewTopicRateExceeded, OverloadReason, SubscribeRateExceeded,
    TopicLimit,
};
pub use ownership::{OwnershipClaim, ShardOwners};
pub use placement::{Placement, Spread};
pub use position::{Epoch, InvalidPosition, Offset, Position};
pub use publish_id::{InvalidPublishId, ProducerId, ProducerSequence, PublishId};
pub use rate_limit::{Gcra, RateLimit};
pub use resume::{
    FetchError, Gap, GapReason, HistoryPage, HistoryRange, StartFrom, SubscribeAck, TopicEvent,
};
pub use revocation::{InvalidRevocation, Revocations, RevokedTokens, TokenFacts};
pub use ring::HashRing;
pub use route::{UpstreamRoute, select_upstream};
pub use spiffe_id::{InvalidSpiffeId, SpiffeId};
pub use ticket_keys::{TicketKey, TicketKeys};
pub use times::{ClusterTimes, ConsensusTimes};
pub use topic::{InvalidTopic, Topic};
pub use topic_removal::TopicRemoval;
pub use unavailable::UnavailableReason;
#[cfg(feature = "next-version")]
pub use version::set_newest_version;
pub use version::{
    AgreedVersion, ClusterVersion, InvalidVersionOffer, UnsupportedVersion, VersionConflict,
    VersionOffer, VersionRange,
};
pub use view::{Addresses, BuildInfo, ClusterView, Member, MemberState, RegionHeads, Roles};

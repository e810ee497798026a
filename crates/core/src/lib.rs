//! The words of Pushonce, and the pure decisions every node must take alike.
//!
//! *What is it?* The types that travel between the engines ([`Topic`], [`Position`], [`Message`]),
//! the [`Ring`] that proposes who owns a shard, the [`ClusterView`] the control group publishes, the
//! [`Owners`] table that says who leads each shard now, and [`upstream`], the one function that
//! decides where a node gets a topic from.
//!
//! *What does it promise?* Every function is a function of its arguments: two nodes that hold the
//! same view decide the same. A value that exists is valid: a [`Topic`] was checked when it was made.
//!
//! *What of versions?* [`ClusterVersion`] says in which encoding nodes write, [`VersionRange::SUPPORTED`] in
//! which clusters this build takes part, [`VersionRange::READABLE`] what it reads from disk,
//! [`VersionOffer::check`] whether two nodes can read each other, and [`versioned`] how a value carries its
//! version.
//!
//! *What does it refuse?* Clocks, sockets, randomness, async, and every crate that has them.
//!
//! *How does data move?* It does not: values come in, values go out.
//!
//! *What must a caller not do?* Build identifiers out of bare integers in the middle of an engine;
//! they are read off a wire or a disk, or given out by the control group.

mod audience;
mod claim;
mod delivery;
mod error;
mod host_port;
mod ids;
mod message;
mod namespace;
mod placement;
mod position;
mod resume;
mod ring;
mod route;
mod stamp;
mod times;
mod topic;
mod version;
pub mod versioned;
mod view;

pub use audience::Watching;
pub use claim::{Claim, Owners};
pub use delivery::{Delivery, InvalidDelivery, Options};
pub use error::{PublishError, Refusal};
pub use host_port::{HostPort, InvalidHostPort};
pub use ids::{ClusterId, NodeId, ShardCount, ShardId, Term};
pub use message::{ContentType, InvalidPublish, Key, Message, Placed, Publish, Timestamp};
pub use namespace::{
    Durability, History, InvalidNamespace, Namespace, NamespaceChange, Namespaces, TooFast,
};
pub use placement::{Placement, Spread};
pub use position::{Epoch, InvalidPosition, Offset, Position};
pub use resume::{FetchError, From, Gap, GapReason, Item, Page, Want};
pub use ring::Ring;
pub use route::{Upstream, upstream};
pub use stamp::{InvalidStamp, ProducerId, Sequence, Stamp};
pub use times::{ClusterTimes, ConsensusTimes};
pub use topic::{InvalidTopic, Topic};
pub use version::{
    AgreedVersion, ClusterVersion, InvalidOffer, UnsupportedVersion, VersionConflict, VersionOffer,
    VersionRange,
};
pub use view::{Addresses, Build, ClusterView, Heads, Member, MemberState, Roles};

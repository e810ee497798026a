//! The ports of the publish path to the rest of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use pushonce_core::{
    Acknowledgement, ClusterId, ClusterVersion, ClusterView, ConsensusTimes, FetchError,
    JoinTokenId, Namespace, NamespaceChange, NodeId, Publish, PublishError, RevokedTokens, ShardId,
    ShardOwners, StartFrom, SubscribeAck, SubscribeOptions, Timestamp, Topic, TopicEvent,
    TopicRemoval,
};
use pushonce_proto::cluster::{
    ControlGroupStatus, RemovedMessages, ReportedProblem, ShardMoveProgress, TopicInfo, TopicList,
    TopicQuery,
};

/// The shards of this node.
pub trait LocalPublisher: Send + Sync + 'static {
    /// Sends a validated message to the shard of its topic. The first poll, at the latest, enqueues it
    /// behind the messages sent before. The future has its own deadline.
    ///
    /// # Errors
    /// [`PublishRejection::NotOwner`](pushonce_core::PublishRejection::NotOwner) when this node does not
    /// lead the shard, does not hold it, or does not know the number of shards.
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>>;
}

/// The other nodes.
pub trait PeerPublisher: Send + Sync + 'static {
    /// Sends a validated message to the shard's owner over the link. The first poll, at the latest,
    /// enqueues it behind the messages sent before. The future has its own deadline.
    ///
    /// # Errors
    /// The error of the owner; rejected when the message was never sent; unknown when the link broke, or
    /// the shard got another owner, while the message was in flight.
    fn publish(
        &self,
        owner: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>>;
}

/// Subscriptions of back ends, to the same events that the edge delivers to its clients.
pub trait SubscriptionSource: Send + Sync + 'static {
    /// Opens a subscription at `from`; the stream ends only with the node. Only `delivery` and
    /// `report_conflated` of the options are used.
    ///
    /// # Errors
    /// [`SubscriptionSourceError`] when the requested history is unavailable, or this node accepts no new
    /// subscribers.
    fn subscribe(
        &self,
        topic: Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> BoxFuture<
        'static,
        Result<(SubscribeAck, BoxStream<'static, TopicEvent>), SubscriptionSourceError>,
    >;
}

/// Why a subscription was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionSourceError {
    /// The requested history is unavailable.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The node lacks memory, or time to deliver.
    #[error(
        "this node accepts no new subscribers: memory or the delivery backlog is near its limit; raise \
         --memory-max or add a node; try another node, or retry after a pause"
    )]
    Overloaded,
}

/// The cluster as this node knows it.
pub trait ClusterStatusProvider: Send + Sync + 'static {
    /// The present state.
    fn snapshot(&self) -> ClusterSnapshot;

    /// The progress of the shards that move, from their owners, as far as these reply within a second.
    fn shard_progress(&self) -> BoxFuture<'static, BTreeMap<ShardId, ShardMoveProgress>>;

    /// The problems of the cluster, the worst first. `progress` is the result of
    /// [`ClusterStatusProvider::shard_progress`].
    fn problems(&self, progress: &BTreeMap<ShardId, ShardMoveProgress>) -> Vec<ReportedProblem>;
}

/// The topics of the whole cluster, from their owners.
pub trait TopicDirectory: Send + Sync + 'static {
    /// Describes a topic, also one that never had a message. The future has its own deadline.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] when the topic's owner is unavailable.
    fn describe(&self, topic: Topic) -> BoxFuture<'static, Result<TopicInfo, FetchError>>;

    /// Lists one page of topics, of at most [`TOPICS_MAX`](crate::TOPICS_MAX). The list names the shards
    /// whose topics are unknown.
    fn list(&self, query: TopicQuery) -> BoxFuture<'static, TopicList>;

    /// Purges or deletes a topic. Idempotent. The future has its own deadline.
    ///
    /// # Errors
    /// [`AdminError::Unavailable`] when the topic's owner is unavailable, or the outcome is unknown.
    fn remove(
        &self,
        topic: Topic,
        removal: TopicRemoval,
    ) -> BoxFuture<'static, Result<RemovedMessages, AdminError>>;
}

/// The state of the cluster that operators see.
#[derive(Clone, Debug)]
pub struct ClusterSnapshot {
    /// The node that replies.
    pub node_id: NodeId,
    /// Members and committed placement.
    pub view: Arc<ClusterView>,
    /// The leader of each shard.
    pub owners: Arc<ShardOwners>,
    /// This node and the nodes that it has a link to.
    pub reachable: BTreeSet<NodeId>,
    /// The newest round trip of each of these links that was measured.
    pub round_trips: BTreeMap<NodeId, Duration>,
    /// The group that commits the view.
    pub control_group: ControlGroupStatus,
    /// Another cluster whose members dial this node's address as one of theirs.
    pub conflicting_cluster: Option<ClusterId>,
}

/// Changes of the cluster, which any node forwards to the leader of the control group. All are idempotent.
pub trait ClusterAdmin: Send + Sync + 'static {
    /// Drains a member: it transfers what it holds. With `force` also when fewer copies than configured
    /// remain.
    fn drain(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), AdminError>>;

    /// Stops the drain of a member, which takes its share again.
    fn undrain(&self, node: NodeId) -> BoxFuture<'static, Result<(), AdminError>>;

    /// Removes a member permanently; with `force` also one that holds shards that others need.
    fn remove(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), AdminError>>;

    /// Raises the version of the cluster by one, if every member supports the next one. Returns the
    /// version.
    fn finalize_upgrade(&self) -> BoxFuture<'static, Result<ClusterVersion, AdminError>>;

    /// Changes the settings of a namespace, or the default for namespaces without settings when `name` is
    /// `None`; without a `change`, resets them to the default. Returns the new settings. Without `force`, a
    /// change that would delete stored messages is rejected with their number.
    fn set_namespace(
        &self,
        name: Option<String>,
        change: Option<NamespaceChange>,
        force: bool,
    ) -> BoxFuture<'static, Result<Namespace, AdminError>>;

    /// Revokes tokens at the time `at`, and keeps the revocation until `kept_until`.
    fn revoke(
        &self,
        tokens: RevokedTokens,
        at: Timestamp,
        kept_until: Timestamp,
    ) -> BoxFuture<'static, Result<(), AdminError>>;

    /// Changes the consensus times of all nodes.
    fn set_consensus_times(
        &self,
        times: ConsensusTimes,
    ) -> BoxFuture<'static, Result<(), AdminError>>;

    /// Makes a join token. Not idempotent: each call makes another one.
    fn create_join_token(
        &self,
        validity: Duration,
    ) -> BoxFuture<'static, Result<NewJoinToken, AdminError>>;

    /// Drops a join token.
    fn revoke_join_token(&self, id: JoinTokenId) -> BoxFuture<'static, Result<(), AdminError>>;
}

/// A new join token. No `Debug`: its text is a secret.
pub struct NewJoinToken {
    /// The token.
    pub text: String,
    /// Its id.
    pub id: JoinTokenId,
    /// When it expires.
    pub expires: Timestamp,
}

/// Why a change of the cluster failed. The text of the cause says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The request is invalid in any state of the cluster.
    #[error(transparent)]
    Invalid(AdminErrorCause),
    /// The cluster is not in the required state.
    #[error(transparent)]
    FailedPrecondition(AdminErrorCause),
    /// The outcome is unknown at present; a retry is safe.
    #[error(transparent)]
    Unavailable(AdminErrorCause),
}

/// The error of the part of the node that rejected a change, which this crate does not know.
pub type AdminErrorCause = Box<dyn std::error::Error + Send + Sync>;

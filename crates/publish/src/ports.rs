//! What the way in needs from the rest of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use pushonce_core::{
    Acknowledgement, ClusterId, ClusterVersion, ClusterView, ConsensusTimes, FetchError, Namespace,
    NamespaceChange, NodeId, Position, Publish, PublishError, ShardId, ShardOwners, StartFrom,
    SubscribeOptions, Topic, TopicEvent,
};
use pushonce_proto::cluster::{
    ControlGroupStatus, ReportedProblem, ShardMoveProgress, TopicInfo, TopicList,
};

/// The shards that live on this node.
pub trait LocalPublisher: Send + Sync + 'static {
    /// Hands a checked message to the shard of its topic. The first poll, at the latest, puts it in line
    /// behind those handed over before. The future has a deadline of its own.
    ///
    /// # Errors
    /// Refused as not the owner when this node does not lead the shard, does not hold it at all, or does
    /// not know how many shards there are.
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>>;
}

/// The other nodes.
pub trait PeerPublisher: Send + Sync + 'static {
    /// Hands a checked message to the shard's owner over the link. The first poll, at the latest,
    /// puts it in line behind those handed over before. The future has a deadline of its own.
    ///
    /// # Errors
    /// As the owner answers; refused when it never went out; unknown when the link broke, or the
    /// shard got another owner, while it was on its way.
    fn publish(
        &self,
        owner: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>>;
}

impl PeerPublisher for pushonce_relay::Handle {
    fn publish(
        &self,
        owner: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        pushonce_relay::Handle::publish(self, owner, publish)
    }
}

/// Topics as back ends read them: the same stream that the edge shows to its clients.
pub trait SubscriptionSource: Send + Sync + 'static {
    /// Begins at `from`; the stream ends only when the node does. Of the options only the delivery
    /// counts, and whether to be told what it passes over.
    ///
    /// # Errors
    /// When the past that was asked for cannot be had, or this node takes no new subscribers in.
    fn subscribe(
        &self,
        topic: Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> BoxFuture<
        'static,
        Result<(SubscriptionStart, BoxStream<'static, TopicEvent>), SubscriptionSourceError>,
    >;
}

/// How a subscription began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionStart {
    /// The newest position of the topic at that moment; [`Position::ZERO`] when it had no message.
    pub position: Position,
    /// Whether everything that was asked for follows without a gap.
    pub recovered: bool,
}

/// Why a subscription did not begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionSourceError {
    /// The past that was asked for cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What the node is short of, and what an operator can change.
    #[error("this node takes no new subscribers in: {0}; try another node, or retry after a pause")]
    Overloaded(&'static str),
}

/// The cluster, as this node knows it.
pub trait ClusterStatusProvider: Send + Sync + 'static {
    /// As it is now.
    fn snapshot(&self) -> ClusterSnapshot;

    /// What the owners of the shards that move do or wait for, as far as they answer within a second.
    fn shard_progress(&self) -> BoxFuture<'static, BTreeMap<ShardId, ShardMoveProgress>>;

    /// What is wrong with the cluster, the worst first, of which some is in the owners' `shard_progress`.
    fn problems(&self, progress: &BTreeMap<ShardId, ShardMoveProgress>) -> Vec<ReportedProblem>;
}

/// The topics of the whole cluster, as their owners know them.
pub trait TopicDirectory: Send + Sync + 'static {
    /// What there is of one, also when it never had a message. The future has a deadline of its own.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] when its owner cannot be asked now.
    fn describe(&self, topic: Topic) -> BoxFuture<'static, Result<TopicInfo, FetchError>>;

    /// Those whose names begin with `prefix`, after `after`: at most `count_max`, and
    /// [`TOPICS_MAX`](crate::TOPICS_MAX). Says of which shards nothing is known.
    fn list(
        &self,
        prefix: String,
        after: Option<Topic>,
        count_max: usize,
    ) -> BoxFuture<'static, TopicList>;
}

/// What operators are shown.
#[derive(Clone, Debug)]
pub struct ClusterSnapshot {
    /// The node that answers.
    pub node_id: NodeId,
    /// Members and committed placement.
    pub view: Arc<ClusterView>,
    /// Who leads each shard.
    pub owners: Arc<ShardOwners>,
    /// The nodes there is a link to, and this node.
    pub reachable: BTreeSet<NodeId>,
    /// The group that commits the view.
    pub control_group: ControlGroupStatus,
    /// Another cluster whose members dial this node's address as one of theirs.
    pub conflicting_cluster: Option<ClusterId>,
}

/// Changes of the cluster, which any node brings to the control leader. Each may be said twice: the
/// second time changes nothing.
pub trait ClusterAdmin: Send + Sync + 'static {
    /// Lets a member give away what it holds; with `force` also when the others hold fewer copies than
    /// configured then.
    fn drain(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), AdminError>>;

    /// Lets a member that gives away what it holds take its share again.
    fn undrain(&self, node: NodeId) -> BoxFuture<'static, Result<(), AdminError>>;

    /// Takes a member out for ever; with `force` also one that others cannot do without now.
    fn remove(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), AdminError>>;

    /// Raises the version of the cluster by one, if every member supports the next; says which it has
    /// then.
    fn finalize_upgrade(&self) -> BoxFuture<'static, Result<ClusterVersion, AdminError>>;

    /// Changes the settings of a namespace, or of every name that has none of its own (`NoFault`);
    /// without a change, back to the default. Says what it has now. Without `force`, a change that would
    /// drop stored messages is refused with their number.
    fn set_namespace(
        &self,
        name: Option<String>,
        change: Option<NamespaceChange>,
        force: bool,
    ) -> BoxFuture<'static, Result<Namespace, AdminError>>;

    /// Changes the times of consensus of all nodes.
    fn set_consensus_times(
        &self,
        times: ConsensusTimes,
    ) -> BoxFuture<'static, Result<(), AdminError>>;
}

/// Why the cluster did not change as asked. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Nobody may ask for that.
    #[error("{0}")]
    Invalid(String),
    /// The cluster is not in the state for it.
    #[error("{0}")]
    FailedPrecondition(String),
    /// Nobody can say now; asking again is safe.
    #[error("{0}")]
    Unavailable(String),
}

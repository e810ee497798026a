//! The adapters between the engines: each engine defines a small trait for what it needs, and this module
//! implements it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream, LocalBoxStream};
use pushonce_consensus::ConsensusSettings;
use pushonce_control::health::ClusterProblem;
use pushonce_control::{CommandError, ControlHandle, leave};
use pushonce_core::{
    Acknowledgement, ClusterId, ClusterVersion, ClusterView, ConsensusTimes, FetchError, Gap,
    History, HistoryPage, HistoryRange, Message, Namespace, NamespaceChange, NodeId, Position,
    Publish, PublishError, PublishRejection, ShardId, StartFrom, SubscribeOptions, SubscriberCount,
    Timestamp, Topic, TopicEvent,
};
use pushonce_fanout::{Hub, Retention};
use pushonce_gateway::Admission;
use pushonce_proto::cluster::{self, ShardMoveProgress};
use pushonce_publish::{
    AdminError, ClusterSnapshot, Router, SubscriptionSourceError, SubscriptionStart,
};
use pushonce_shard::Handle;
use tokio::sync::watch;

use super::address_conflict;
use super::cluster_topics::ClusterTopics;
use super::current_view::CurrentView;
use super::overview::NodeOverview;
use super::replica_supervisor::LocalReplicas;
use super::shard_progress;

/// The shards of this node, as the destination of local publishes and of links.
#[derive(Clone)]
pub(super) struct LocalShards {
    pub(super) hosted: LocalReplicas,
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    pub(super) address_guard: AddressGuard,
}

/// Rejects publishes while this node's address belongs to another cluster.
#[derive(Clone)]
pub(super) struct AddressGuard {
    pub(super) own_cluster: ClusterId,
    /// The other cluster, if there is one.
    pub(super) conflict: watch::Receiver<Option<ClusterId>>,
}

/// Publishes to the owners on other nodes.
pub(super) struct RemoteOwners {
    pub(super) relay: pushonce_relay::Handle,
    pub(super) address_guard: AddressGuard,
}

impl AddressGuard {
    fn rejection(&self) -> Option<PublishRejection> {
        let other_cluster = (*self.conflict.borrow())?;
        Some(PublishRejection::Unavailable(address_conflict::conflict_message(
            self.own_cluster,
            other_cluster,
        )))
    }
}

impl pushonce_publish::PeerPublisher for RemoteOwners {
    fn publish(
        &self,
        owner: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        match self.address_guard.rejection() {
            Some(rejection) => future::ready(Err(rejection.into())).boxed(),
            None => pushonce_publish::PeerPublisher::publish(&self.relay, owner, publish),
        }
    }
}

impl LocalShards {
    /// The replica of a topic's shard, if it is here and the view is known.
    fn replica_for_topic(&self, topic: &Topic) -> Option<Handle> {
        let shard = self.view.borrow().shard_of(topic)?;
        self.hosted.get(shard)
    }
}

impl pushonce_publish::LocalPublisher for LocalShards {
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        if let Some(rejection) = self.address_guard.rejection() {
            return future::ready(Err(rejection.into())).boxed();
        }
        let handle = self.replica_for_topic(&publish.topic);
        Box::pin(async move {
            let not_owner = PublishRejection::NotOwner { owner: None };
            handle.ok_or(not_owner)?.publish(publish).await
        })
    }
}

impl pushonce_relay::ShardSource for LocalShards {
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        let mut publish_future = pushonce_publish::LocalPublisher::publish(self, publish);
        // The first poll takes the place in the shard's queue, and publishes of a link must keep their
        // order: so the future is polled here, in the order of the calls.
        match (&mut publish_future).now_or_never() {
            Some(outcome) => future::ready(outcome).boxed(),
            None => publish_future,
        }
    }

    fn read_history(&self, topic: &Topic, want: HistoryRange) -> Result<HistoryPage, FetchError> {
        let Some(handle) = self.replica_for_topic(topic) else {
            return Err(FetchError::Unavailable(format!(
                "this node has no replica of the shard of {topic}"
            )));
        };
        handle.fetch_history(topic, want)
    }

    fn log_times(&self) -> Vec<(ShardId, Timestamp)> {
        let replicas = self.hosted.all().into_iter();
        replicas.filter_map(|handle| Some((handle.id(), handle.log_time()?))).collect()
    }
}

/// Delivers to the hub of this node. The relay is created before the hub, so the hub is set later.
#[derive(Clone, Default)]
pub(super) struct EdgeSink {
    hub: Arc<OnceLock<Hub>>,
    log_times: LogTimes,
}

/// The known time of each shard's log. Clones share the map.
#[derive(Clone, Default)]
pub(super) struct LogTimes(Arc<RwLock<BTreeMap<ShardId, Timestamp>>>);

impl LogTimes {
    fn for_shard(&self, shard: ShardId) -> Timestamp {
        let times = self.0.read().unwrap_or_else(PoisonError::into_inner);
        times.get(&shard).copied().unwrap_or_default()
    }

    fn set(&self, shard: ShardId, time: Timestamp) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(shard, time);
    }
}

impl EdgeSink {
    /// Sets the hub; from then on messages are delivered to it.
    pub(super) fn set_hub(&self, hub: Hub) {
        // Called once, at the start of the node.
        let _ = self.hub.set(hub);
    }

    /// The log times, for the retention of the hub's topics.
    pub(super) fn log_times(&self) -> LogTimes {
        self.log_times.clone()
    }
}

impl pushonce_relay::TopicSink for EdgeSink {
    fn on_live(&self, topic: &Topic, head: Position) {
        if let Some(hub) = self.hub.get() {
            hub.mark_live_at(topic, head);
        }
    }

    fn deliver(&self, topic: &Topic, messages: Vec<Arc<Message>>) {
        if let Some(hub) = self.hub.get() {
            hub.deliver(topic, &messages);
        }
    }

    fn on_gap(&self, topic: &Topic, gap: Gap) {
        if let Some(hub) = self.hub.get() {
            hub.record_gap(topic, gap);
        }
    }

    fn on_stale(&self, topic: &Topic) {
        if let Some(hub) = self.hub.get() {
            hub.mark_stale(topic);
        }
    }

    fn on_fresh(&self, topic: &Topic) {
        if let Some(hub) = self.hub.get() {
            hub.mark_live(topic);
        }
    }

    fn on_audience(&self, topic: &Topic, sessions: u64) {
        if let Some(hub) = self.hub.get() {
            hub.set_audience(topic, sessions);
        }
    }

    fn take_changed_counts(&self, topics_max: usize) -> Vec<(Topic, SubscriberCount)> {
        self.hub.get().map_or_else(Vec::new, |hub| hub.take_changed_counts(topics_max))
    }

    fn on_log_time(&self, shard: ShardId, time: Timestamp) {
        self.log_times.set(shard, time);
    }
}

/// The source of the hub's topics.
pub(super) struct RelayUpstream {
    pub(super) relay: pushonce_relay::Handle,
    pub(super) current: watch::Receiver<CurrentView>,
    pub(super) log_times: LogTimes,
}

/// The limits that a node applies before it knows the current ones: those on its disk may be narrower, and
/// would hide messages that the owner shows.
const UNBOUNDED_HISTORY: History = History {
    count_max: u32::MAX,
    bytes_max: u32::MAX,
    age_max_ms: u64::MAX,
    expire_after_ms: u64::MAX,
};

impl pushonce_fanout::Upstream for RelayUpstream {
    fn watch(&self, topic: &Topic, after: Option<Position>) {
        self.relay.watch(topic, after);
    }

    fn unwatch(&self, topic: &Topic) {
        self.relay.unwatch(topic);
    }

    fn fetch(
        &self,
        topic: Topic,
        want: HistoryRange,
    ) -> BoxFuture<'static, Result<HistoryPage, FetchError>> {
        self.relay.fetch(topic, want)
    }

    fn retention(&self, topic: &Topic) -> Retention {
        let view = self.current.borrow();
        let Some(view) = &*view else {
            return Retention { history: UNBOUNDED_HISTORY, log_time: Timestamp(0) };
        };
        let log_time = self.log_times.for_shard(topic.shard(view.shards));
        Retention { history: view.namespaces.for_topic(topic).history, log_time }
    }
}

/// Publishes the messages of client sessions.
pub(super) struct ClientPublisher(pub(super) Router);

impl pushonce_gateway::Publisher for ClientPublisher {
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        let router = self.0.clone();
        Box::pin(async move { router.publish(publish).await })
    }

    fn publish_ordered(
        &self,
        input: LocalBoxStream<'static, Publish>,
    ) -> LocalBoxStream<'static, Result<Acknowledgement, PublishError>> {
        self.0.publish_ordered(input.map(Ok)).boxed_local()
    }
}

/// The subscriptions of gRPC clients, which take memory like those of other subscribers.
pub(super) struct HubFeed {
    pub(super) hub: Hub,
    pub(super) admission: Admission,
}

impl pushonce_publish::SubscriptionSource for HubFeed {
    fn subscribe(
        &self,
        topic: Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> BoxFuture<
        'static,
        Result<(SubscriptionStart, BoxStream<'static, TopicEvent>), SubscriptionSourceError>,
    > {
        let (hub, admission) = (self.hub.clone(), self.admission.check_subscriber());
        Box::pin(async move {
            admission.map_err(SubscriptionSourceError::Overloaded)?;
            let reader = hub.open_reader(topic, from, options).await?;
            let at = reader.ack();
            let subscribed = SubscriptionStart { position: at.position, recovered: at.recovered };
            let items = stream::unfold(reader, async |mut reader| {
                let item = reader.next().await;
                Some((item, reader))
            });
            Ok((subscribed, Box::pin(items) as BoxStream<'static, TopicEvent>))
        })
    }
}

impl pushonce_publish::ClusterStatusProvider for NodeOverview {
    fn snapshot(&self) -> ClusterSnapshot {
        let control = self.control_status.borrow().clone();
        // Each borrow in a statement of its own: a borrow in the expression below would last until its end.
        let view = self.view.borrow().clone();
        let owners = self.owners.borrow().clone();
        let reachable = self.reachable_nodes.borrow().clone();
        let conflict = *self.conflicting_cluster.borrow();
        ClusterSnapshot {
            node_id: self.me,
            view,
            owners,
            reachable,
            conflicting_cluster: conflict,
            control_group: cluster::ControlGroupStatus {
                leader: control.leader,
                term: control.term,
                voters: control.voters.into_iter().collect(),
                learners: control.learners.into_iter().collect(),
                applied: control.applied_index,
            },
        }
    }

    fn shard_progress(&self) -> BoxFuture<'static, BTreeMap<ShardId, ShardMoveProgress>> {
        let (transport, owners) = (self.transport.clone(), self.owners.borrow().clone());
        let reachable = self.reachable_nodes.borrow().clone();
        let local = shard_progress::local_progress(self.hosted.progress());
        Box::pin(async move {
            shard_progress::gather_from_owners(&transport, &owners, &reachable, local).await
        })
    }

    fn problems(
        &self,
        progress: &BTreeMap<ShardId, ShardMoveProgress>,
    ) -> Vec<cluster::ReportedProblem> {
        let problem = |problem: ClusterProblem| cluster::ReportedProblem {
            severity: problem.severity().as_str().to_owned(),
            kind: problem.kind().to_owned(),
            text: problem.to_string(),
        };
        NodeOverview::problems(self, progress).into_iter().map(problem).collect()
    }
}

/// The changes that operators request: checked with this node's view, executed by the control group.
pub(super) struct ClusterOperations {
    pub(super) control: ControlHandle,
    pub(super) overview: NodeOverview,
    /// Counts the messages that a change of a namespace would drop.
    pub(super) topics: ClusterTopics,
}

impl pushonce_publish::ClusterAdmin for ClusterOperations {
    fn drain(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), AdminError>> {
        let allowed =
            self.overview.with_cluster_snapshot(|seen| leave::check_drain(seen, node, force));
        let control = self.control.clone();
        Box::pin(async move {
            allowed.map_err(|objection| AdminError::FailedPrecondition(objection.to_string()))?;
            control.drain(node, force).await.map_err(operation_error)
        })
    }

    fn undrain(&self, node: NodeId) -> BoxFuture<'static, Result<(), AdminError>> {
        let control = self.control.clone();
        Box::pin(async move { control.undrain(node).await.map_err(operation_error) })
    }

    fn remove(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), AdminError>> {
        let allowed =
            self.overview.with_cluster_snapshot(|seen| leave::check_remove(seen, node, force));
        let control = self.control.clone();
        Box::pin(async move {
            allowed.map_err(|objection| AdminError::FailedPrecondition(objection.to_string()))?;
            control.remove(node).await.map_err(operation_error)
        })
    }

    fn finalize_upgrade(&self) -> BoxFuture<'static, Result<ClusterVersion, AdminError>> {
        let control = self.control.clone();
        Box::pin(async move { control.finalize().await.map_err(operation_error) })
    }

    fn set_namespace(
        &self,
        name: Option<String>,
        change: Option<NamespaceChange>,
        force: bool,
    ) -> BoxFuture<'static, Result<Namespace, AdminError>> {
        let (control, topics) = (self.control.clone(), self.topics.clone());
        Box::pin(async move {
            let rejected_namespace = match control.set_namespace(name.clone(), change, force).await
            {
                Err(CommandError::Rejected(
                    pushonce_control::CommandRejection::WouldLoseStoredMessages(rejected_name),
                )) => rejected_name,
                outcome => return outcome.map_err(operation_error),
            };
            let stored = topics.count_stored(&rejected_namespace).await;
            if let Some(reason) = stored.force_required(&rejected_namespace) {
                return Err(AdminError::FailedPrecondition(reason));
            }
            control.set_namespace(name, change, true).await.map_err(operation_error)
        })
    }

    fn set_consensus_times(
        &self,
        times: ConsensusTimes,
    ) -> BoxFuture<'static, Result<(), AdminError>> {
        let control = self.control.clone();
        Box::pin(async move {
            let valid = ConsensusSettings::lan().with_times(times).validate();
            valid.map_err(|error| AdminError::Invalid(error.to_string()))?;
            control.set_times(times).await.map_err(operation_error)
        })
    }
}

fn operation_error(error: CommandError) -> AdminError {
    use pushonce_control::CommandRejection;
    let text = error.to_string();
    match error {
        CommandError::Rejected(CommandRejection::Namespace(_)) => AdminError::Invalid(text),
        _ if error.is_retryable() => AdminError::Unavailable(text),
        _ => AdminError::FailedPrecondition(text),
    }
}

//! The adapters between the engines: each engine defines a small trait for what it needs, and this module
//! implements it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream, LocalBoxStream};
use pushonce_ca::JoinToken;
use pushonce_consensus::ConsensusSettings;
use pushonce_control::health::ClusterProblem;
use pushonce_control::{CommandError, CommandRejection, ControlHandle, MoveToMemory, leave};
use pushonce_core::{
    Acknowledgement, ClusterId, ClusterVersion, ClusterView, CommitAge, ConsensusTimes, FetchError,
    Gap, History, HistoryPage, HistoryRange, InvalidRevocation, JoinTokenId, Message, Namespace,
    NamespaceChange, NodeId, Position, Publish, PublishError, PublishRejection, RevokedTokens,
    ShardId, StartFrom, SubscribeAck, SubscribeOptions, SubscriberCount, Timestamp, Topic,
    TopicEvent, UnavailableReason,
};
use pushonce_fanout::{Hub, Retention};
use pushonce_gateway::Admission;
use pushonce_peer::Credentials;
use pushonce_proto::cluster::{self, ShardMoveProgress};
use pushonce_publish::{
    AdminError, ClusterSnapshot, NewJoinToken, Router, SubscriptionSourceError,
};
use pushonce_shard::Handle;
use tokio::sync::watch;

use super::cluster_topics::ClusterTopics;
use super::current_view::CurrentView;
use super::membership::unix_time;
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
    fn check(&self) -> Result<(), UnavailableReason> {
        match *self.conflict.borrow() {
            Some(other) => Err(UnavailableReason::AddressConflict { own: self.own_cluster, other }),
            None => Ok(()),
        }
    }
}

impl pushonce_publish::PeerPublisher for RemoteOwners {
    fn publish(
        &self,
        owner: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        match self.address_guard.check() {
            Ok(()) => self.relay.publish(owner, publish),
            Err(conflict) => future::ready(Err(conflict.into())).boxed(),
        }
    }
}

impl LocalShards {
    /// The replica of a topic's shard, if it is here and the view is known.
    fn replica_for_topic(&self, topic: &Topic) -> Result<Handle, UnavailableReason> {
        let shard = self.view.borrow().shard_of(topic).ok_or(UnavailableReason::NoView)?;
        self.hosted.get(shard).ok_or(UnavailableReason::NoReplica(shard))
    }
}

impl pushonce_publish::LocalPublisher for LocalShards {
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        if let Err(conflict) = self.address_guard.check() {
            return future::ready(Err(conflict.into())).boxed();
        }
        let handle = self.replica_for_topic(&publish.topic);
        Box::pin(async move {
            // The router then asks the owner that it learns of, or waits for one.
            let not_owner = |_| PublishRejection::NotOwner { owner: None };
            handle.map_err(not_owner)?.publish(publish).await
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
        self.replica_for_topic(topic)?.fetch_history(topic, want)
    }

    fn log_times(&self) -> Vec<(ShardId, Timestamp)> {
        let replicas = self.hosted.all().into_iter();
        replicas.filter_map(|handle| Some((handle.id(), handle.log_time()?))).collect()
    }
}

/// Delivers to the hub of this node.
pub(super) struct HubSink {
    pub(super) hub: Hub,
    pub(super) log_times: LogTimes,
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

impl pushonce_relay::TopicSink for HubSink {
    fn on_live(&self, topic: &Topic, head: Position) {
        self.hub.mark_live_at(topic, head);
    }

    fn deliver(&self, topic: &Topic, messages: Vec<Arc<Message>>, age: Option<CommitAge>) {
        self.hub.deliver(topic, &messages, age);
    }

    fn on_gap(&self, topic: &Topic, gap: Gap) {
        self.hub.record_gap(topic, gap);
    }

    fn on_stale(&self, topic: &Topic) {
        self.hub.mark_stale(topic);
    }

    fn on_fresh(&self, topic: &Topic) {
        self.hub.mark_live(topic);
    }

    fn on_audience(&self, topic: &Topic, sessions: u64) {
        self.hub.set_audience(topic, sessions);
    }

    fn take_changed_counts(&self, topics_max: usize) -> Vec<(Topic, SubscriberCount)> {
        self.hub.take_changed_counts(topics_max)
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

impl pushonce_gateway::PublishRouter for ClientPublisher {
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
        Result<(SubscribeAck, BoxStream<'static, TopicEvent>), SubscriptionSourceError>,
    > {
        let (hub, admitted) = (self.hub.clone(), self.admission.admit_subscriber());
        Box::pin(async move {
            if !admitted {
                return Err(SubscriptionSourceError::Overloaded);
            }
            let reader = hub.open_reader(topic, from, options).await?;
            let ack = reader.ack();
            let items = stream::unfold(reader, async |mut reader| {
                let item = reader.next().await;
                Some((item, reader))
            });
            Ok((ack, Box::pin(items) as BoxStream<'static, TopicEvent>))
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
        let round_trips = self.round_trips.borrow().clone();
        let conflict = *self.conflicting_cluster.borrow();
        ClusterSnapshot {
            node_id: self.me,
            view,
            owners,
            reachable,
            round_trips,
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
    /// Join tokens name the authority behind them.
    pub(super) credentials: Credentials,
}

/// A join token needs an authority that the joining node can recognise.
#[derive(Debug, thiserror::Error)]
#[error(
    "the nodes do not authenticate each other, so a node joins without a token; for mutual TLS see \
     `pushonce ca`"
)]
struct NoAuthority;

impl pushonce_publish::ClusterAdmin for ClusterOperations {
    fn drain(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), AdminError>> {
        let allowed =
            self.overview.with_cluster_snapshot(|seen| leave::check_drain(seen, node, force));
        let control = self.control.clone();
        Box::pin(async move {
            allowed.map_err(|rejection| AdminError::FailedPrecondition(rejection.into()))?;
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
            allowed.map_err(|rejection| AdminError::FailedPrecondition(rejection.into()))?;
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
            let first_try = if force { MoveToMemory::DropStored } else { MoveToMemory::Reject };
            let rejected_namespace =
                match control.set_namespace(name.clone(), change, first_try).await {
                    Err(CommandError::Rejected(CommandRejection::WouldLoseStoredMessages(
                        rejected_name,
                    ))) => rejected_name,
                    outcome => return outcome.map_err(operation_error),
                };
            let stored = topics.count_stored(&rejected_namespace).await;
            stored
                .check_droppable(&rejected_namespace)
                .map_err(|error| AdminError::FailedPrecondition(error.into()))?;
            // A message that was stored since then stays: its shard keeps the namespace on disk.
            let change = control.set_namespace(name, change, MoveToMemory::KeepStored);
            change.await.map_err(operation_error)
        })
    }

    fn revoke(
        &self,
        tokens: RevokedTokens,
        at: Timestamp,
        kept_until: Timestamp,
    ) -> BoxFuture<'static, Result<(), AdminError>> {
        let control = self.control.clone();
        Box::pin(
            async move { control.revoke(tokens, at, kept_until).await.map_err(operation_error) },
        )
    }

    fn set_consensus_times(
        &self,
        times: ConsensusTimes,
    ) -> BoxFuture<'static, Result<(), AdminError>> {
        let control = self.control.clone();
        Box::pin(async move {
            let valid = ConsensusSettings::lan().with_times(times).validate();
            valid.map_err(|error| AdminError::Invalid(error.into()))?;
            control.set_times(times).await.map_err(operation_error)
        })
    }

    fn create_join_token(
        &self,
        validity: Duration,
    ) -> BoxFuture<'static, Result<NewJoinToken, AdminError>> {
        let (control, credentials) = (self.control.clone(), self.credentials.clone());
        Box::pin(async move {
            let Credentials::MutualTls(tls) = credentials else {
                return Err(AdminError::FailedPrecondition(NoAuthority.into()));
            };
            let token = JoinToken::new(tls.node().cluster, tls.issuer(), rand::random());
            let (hash, now) = (JoinToken::hash(token.secret()), unix_time(SystemTime::now()));
            let validity_ms = u64::try_from(validity.as_millis()).unwrap_or(u64::MAX);
            let expires = Timestamp(now.0.saturating_add(validity_ms));
            control.add_join_token(hash, now, expires).await.map_err(operation_error)?;
            tracing::info!(target: "audit", id = %hash.id(), "made a join token");
            Ok(NewJoinToken { text: token.expose(), id: hash.id(), expires })
        })
    }

    fn revoke_join_token(&self, id: JoinTokenId) -> BoxFuture<'static, Result<(), AdminError>> {
        let control = self.control.clone();
        Box::pin(async move {
            control.revoke_join_token(id).await.map_err(operation_error)?;
            tracing::info!(target: "audit", %id, "revoked a join token");
            Ok(())
        })
    }
}

fn operation_error(error: CommandError) -> AdminError {
    match &error {
        CommandError::Rejected(
            CommandRejection::Namespace(_)
            | CommandRejection::NamespaceDiffersInCase { .. }
            | CommandRejection::InvalidTokenValidity { .. }
            | CommandRejection::Revocation(InvalidRevocation::Name { .. }),
        ) => AdminError::Invalid(error.into()),
        _ if error.is_retryable() => AdminError::Unavailable(error.into()),
        _ => AdminError::FailedPrecondition(error.into()),
    }
}

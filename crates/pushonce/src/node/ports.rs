//! The ports between the engines: each is a small trait of the crate that needs it, and here is
//! what it is plugged into.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream, LocalBoxStream};
use pushonce_consensus::Settings;
use pushonce_control::condition::Problem;
use pushonce_control::{AskError, Control, leave};
use pushonce_core::{
    ClusterId, ClusterVersion, ClusterView, ConsensusTimes, FetchError, From, Gap, History, Item,
    Message, Namespace, NamespaceChange, NodeId, Options, Page, Placed, Position, Publish,
    PublishError, Refusal, ShardId, Timestamp, Topic, Want, Watching,
};
use pushonce_fanout::{Hub, Retention};
use pushonce_gateway::Admission;
use pushonce_proto::cluster::{self, Progress};
use pushonce_publish::{OperationError, Router, Snapshot, SubscribeError, Subscribed};
use pushonce_shard::Handle;
use tokio::sync::watch;

use super::conflict;
use super::current::Current;
use super::host::Hosted;
use super::moves;
use super::overview::Overview;
use super::topics::Topics;

/// The shards of this node, for the way in and for the links.
#[derive(Clone)]
pub(super) struct LocalShards {
    pub(super) hosted: Hosted,
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    pub(super) address: Address,
}

/// Whose address this node has. While it is another cluster's, nothing is accepted here.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) ours: ClusterId,
    /// The other cluster, if there is one.
    pub(super) conflict: watch::Receiver<Option<ClusterId>>,
}

/// The way to the owners on other nodes.
pub(super) struct Peers {
    pub(super) relay: pushonce_relay::Handle,
    pub(super) address: Address,
}

impl Address {
    fn refused(&self) -> Option<Refusal> {
        let theirs = (*self.conflict.borrow())?;
        Some(Refusal::Unavailable(conflict::text(self.ours, theirs)))
    }
}

impl pushonce_publish::Peers for Peers {
    fn publish(
        &self,
        owner: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Placed, PublishError>> {
        match self.address.refused() {
            Some(refused) => future::ready(Err(refused.into())).boxed(),
            None => pushonce_publish::Peers::publish(&self.relay, owner, publish),
        }
    }
}

impl LocalShards {
    /// The replica of a topic's shard, if it is here and this node knows how many shards there are.
    fn shard_of(&self, topic: &Topic) -> Option<Handle> {
        let shard = self.view.borrow().shard_of(topic)?;
        self.hosted.get(shard)
    }
}

impl pushonce_publish::Shards for LocalShards {
    fn publish(&self, publish: Publish) -> BoxFuture<'static, Result<Placed, PublishError>> {
        if let Some(refused) = self.address.refused() {
            return future::ready(Err(refused.into())).boxed();
        }
        let handle = self.shard_of(&publish.topic);
        Box::pin(async move {
            let not_here = Refusal::NotOwner { owner: None };
            handle.ok_or(not_here)?.publish(publish).await
        })
    }
}

impl pushonce_relay::Source for LocalShards {
    fn publish(&self, publish: Publish) -> BoxFuture<'static, Result<Placed, PublishError>> {
        let mut publishing = pushonce_publish::Shards::publish(self, publish);
        // The first poll takes the place in the shard's queue, and a link's publishes keep their
        // order: so it is polled here, in the order of the calls.
        match (&mut publishing).now_or_never() {
            Some(refused) => future::ready(refused).boxed(),
            None => publishing,
        }
    }

    fn page(&self, topic: &Topic, want: Want) -> Result<Page, FetchError> {
        let Some(handle) = self.shard_of(topic) else {
            return Err(FetchError::Unavailable(format!("the shard of {topic} is not here")));
        };
        handle.page(topic, want)
    }

    fn log_times(&self) -> Vec<(ShardId, Timestamp)> {
        let replicas = self.hosted.all().into_iter();
        replicas.filter_map(|handle| Some((handle.id(), handle.log_time()?))).collect()
    }
}

/// The edge of this node. The relay is made before the hub that it delivers to.
#[derive(Clone, Default)]
pub(super) struct Edge {
    hub: Arc<OnceLock<Hub>>,
    log_times: LogTimes,
}

/// By shard: how far its log is, as far as this node has heard. Clones share it.
#[derive(Clone, Default)]
pub(super) struct LogTimes(Arc<RwLock<BTreeMap<ShardId, Timestamp>>>);

impl LogTimes {
    fn of(&self, shard: ShardId) -> Timestamp {
        let times = self.0.read().unwrap_or_else(PoisonError::into_inner);
        times.get(&shard).copied().unwrap_or_default()
    }

    fn set(&self, shard: ShardId, time: Timestamp) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(shard, time);
    }
}

impl Edge {
    /// From here on messages have somewhere to go.
    pub(super) fn open(&self, hub: Hub) {
        // Set once, at the start of the node.
        let _ = self.hub.set(hub);
    }

    /// What the hub is told of its topics beside their messages.
    pub(super) fn log_times(&self) -> LogTimes {
        self.log_times.clone()
    }
}

impl pushonce_relay::Sink for Edge {
    fn live(&self, topic: &Topic, head: Position) {
        if let Some(hub) = self.hub.get() {
            hub.live(topic, head);
        }
    }

    fn deliver(&self, topic: &Topic, messages: Vec<Arc<Message>>) {
        if let Some(hub) = self.hub.get() {
            hub.deliver(topic, &messages);
        }
    }

    fn lost(&self, topic: &Topic, gap: Gap) {
        if let Some(hub) = self.hub.get() {
            hub.lost(topic, gap);
        }
    }

    fn stale(&self, topic: &Topic) {
        if let Some(hub) = self.hub.get() {
            hub.stale(topic);
        }
    }

    fn fresh(&self, topic: &Topic) {
        if let Some(hub) = self.hub.get() {
            hub.fresh(topic);
        }
    }

    fn audience(&self, topic: &Topic, sessions: u64) {
        if let Some(hub) = self.hub.get() {
            hub.audience(topic, sessions);
        }
    }

    fn watching(&self, topics_max: usize) -> Vec<(Topic, Watching)> {
        self.hub.get().map_or_else(Vec::new, |hub| hub.watching(topics_max))
    }

    fn log_time(&self, shard: ShardId, time: Timestamp) {
        self.log_times.set(shard, time);
    }
}

/// Where the hub gets its topics from.
pub(super) struct Upstream {
    pub(super) relay: pushonce_relay::Handle,
    pub(super) current: watch::Receiver<Current>,
    pub(super) log_times: LogTimes,
}

/// What a node shows that does not know the bounds of today: those that its disk has may be narrower, and
/// would hide what the owner shows.
const UNBOUNDED: History = History {
    count_max: u32::MAX,
    bytes_max: u32::MAX,
    age_max_ms: u64::MAX,
    expire_after_ms: u64::MAX,
};

impl pushonce_fanout::Upstream for Upstream {
    fn watch(&self, topic: &Topic, after: Option<Position>) {
        self.relay.watch(topic, after);
    }

    fn unwatch(&self, topic: &Topic) {
        self.relay.unwatch(topic);
    }

    fn fetch(&self, topic: Topic, want: Want) -> BoxFuture<'static, Result<Page, FetchError>> {
        self.relay.fetch(topic, want)
    }

    fn retention(&self, topic: &Topic) -> Retention {
        let view = self.current.borrow();
        let Some(view) = &*view else {
            return Retention { history: UNBOUNDED, log_time: Timestamp(0) };
        };
        let log_time = self.log_times.of(topic.shard(view.shards));
        Retention { history: view.namespaces.of(topic).history, log_time }
    }
}

/// The way in for clients' own publishes.
pub(super) struct ClientPublisher(pub(super) Router);

impl pushonce_gateway::Publisher for ClientPublisher {
    fn publish(&self, publish: Publish) -> BoxFuture<'static, Result<Placed, PublishError>> {
        let router = self.0.clone();
        Box::pin(async move { router.publish(publish).await })
    }

    fn ordered(
        &self,
        input: LocalBoxStream<'static, Publish>,
    ) -> LocalBoxStream<'static, Result<Placed, PublishError>> {
        self.0.ordered(input.map(Ok)).boxed_local()
    }
}

/// Topics for back ends, which take memory as other subscribers do.
pub(super) struct Feed {
    pub(super) hub: Hub,
    pub(super) admission: Admission,
}

impl pushonce_publish::Feed for Feed {
    fn subscribe(
        &self,
        topic: Topic,
        from: From,
        options: Options,
    ) -> BoxFuture<'static, Result<(Subscribed, BoxStream<'static, Item>), SubscribeError>> {
        let (hub, admitted) = (self.hub.clone(), self.admission.check());
        Box::pin(async move {
            admitted.map_err(SubscribeError::Overloaded)?;
            let reader = hub.reader(topic, from, options).await?;
            let at = reader.subscribed();
            let subscribed = Subscribed { position: at.position, recovered: at.recovered };
            let items = stream::unfold(reader, async |mut reader| {
                let item = reader.next().await;
                Some((item, reader))
            });
            Ok((subscribed, Box::pin(items) as BoxStream<'static, Item>))
        })
    }
}

impl pushonce_publish::Overview for Overview {
    fn snapshot(&self) -> Snapshot {
        let control = self.control.borrow().clone();
        // Each in a statement of its own: a borrow in the expression below would last until its end.
        let view = self.view.borrow().clone();
        let owners = self.owners.borrow().clone();
        let reachable = self.reachable.borrow().clone();
        let conflict = *self.conflict.borrow();
        Snapshot {
            me: self.me,
            view,
            owners,
            reachable,
            conflict,
            control: cluster::Control {
                leader: control.leader,
                term: control.term,
                voters: control.voters.into_iter().collect(),
                learners: control.learners.into_iter().collect(),
                applied: control.applied,
            },
        }
    }

    fn progress(&self) -> BoxFuture<'static, BTreeMap<ShardId, Progress>> {
        let (view, owners) = (self.view.borrow().clone(), self.owners.borrow().clone());
        let reachable = self.reachable.borrow().clone();
        let local = moves::local(self.hosted.progress());
        Box::pin(async move { moves::gather(&view, &owners, &reachable, local).await })
    }

    fn problems(&self, progress: &BTreeMap<ShardId, Progress>) -> Vec<cluster::Problem> {
        let problem = |problem: Problem| cluster::Problem {
            severity: problem.severity().as_str().to_owned(),
            kind: problem.kind().to_owned(),
            text: problem.to_string(),
        };
        Overview::problems(self, progress).into_iter().map(problem).collect()
    }
}

/// What operators change, at the control group; what may not be changed now, this node sees.
pub(super) struct Operations {
    pub(super) control: Control,
    pub(super) overview: Overview,
    /// Counts what a change of a namespace would drop.
    pub(super) topics: Topics,
}

impl pushonce_publish::Operations for Operations {
    fn drain(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), OperationError>> {
        let may = self.overview.seen(|seen| leave::may_drain(seen, node, force));
        let control = self.control.clone();
        Box::pin(async move {
            may.map_err(|why| OperationError::Refused(why.to_string()))?;
            control.drain(node, force).await.map_err(not_done)
        })
    }

    fn undrain(&self, node: NodeId) -> BoxFuture<'static, Result<(), OperationError>> {
        let control = self.control.clone();
        Box::pin(async move { control.undrain(node).await.map_err(not_done) })
    }

    fn remove(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), OperationError>> {
        let may = self.overview.seen(|seen| leave::may_remove(seen, node, force));
        let control = self.control.clone();
        Box::pin(async move {
            may.map_err(|why| OperationError::Refused(why.to_string()))?;
            control.remove(node).await.map_err(not_done)
        })
    }

    fn finalize(&self) -> BoxFuture<'static, Result<ClusterVersion, OperationError>> {
        let control = self.control.clone();
        Box::pin(async move { control.finalize().await.map_err(not_done) })
    }

    fn set_namespace(
        &self,
        name: Option<String>,
        change: Option<NamespaceChange>,
        force: bool,
    ) -> BoxFuture<'static, Result<Namespace, OperationError>> {
        let (control, topics) = (self.control.clone(), self.topics.clone());
        Box::pin(async move {
            let refused = match control.set_namespace(name.clone(), change, force).await {
                Err(AskError::Refused(pushonce_control::Refusal::DropsStored(name))) => name,
                told => return told.map_err(not_done),
            };
            let stored = topics.stored(&refused).await;
            if let Some(why) = stored.obstacle(&refused) {
                return Err(OperationError::Refused(why));
            }
            control.set_namespace(name, change, true).await.map_err(not_done)
        })
    }

    fn set_times(&self, times: ConsensusTimes) -> BoxFuture<'static, Result<(), OperationError>> {
        let control = self.control.clone();
        Box::pin(async move {
            let fitting = Settings::lan().with_times(times).check();
            fitting.map_err(|why| OperationError::Invalid(why.to_string()))?;
            control.set_times(times).await.map_err(not_done)
        })
    }
}

fn not_done(why: AskError) -> OperationError {
    use pushonce_control::Refusal;
    let text = why.to_string();
    match why {
        AskError::Refused(Refusal::Namespace(_)) => OperationError::Invalid(text),
        _ if why.retryable() => OperationError::Unavailable(text),
        _ => OperationError::Refused(text),
    }
}

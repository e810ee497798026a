//! Runs the engine: passes events to it and performs its effects.
//!
//! The relay task runs the driver. A thread that has staged committed messages runs it as well when it is
//! idle: then the messages reach this node's edge without waking another thread.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_core::{
    Acknowledgement, ClusterView, FetchError, HistoryPage, NodeId, OverloadReason, Publish,
    PublishError, ShardId, ShardOwners,
};
use pushonce_proto::peer::PeerFrame;
use pushonce_telemetry::LogLimiter;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::{COUNT_TOPICS_PER_TICK, Engine, EngineEffect, EngineEvent};
use crate::inbox::{CommittedMessages, LocalEvents, RelayRequest};
use crate::link::{self, LinkEvent, LinkEventKind, PeerLink};
use crate::metrics;
use crate::region_traffic::RegionTraffic;
use crate::send_queue::{QueueLoad, SendQueue};
use crate::suspension::SuspensionDetector;
use crate::{Clocks, Config, ShardSource, TopicSink};

/// The engine with the resources on which its effects act.
pub(crate) struct EngineDriver {
    config: Arc<Config>,
    engine: Engine,
    view: Arc<ClusterView>,
    source: Arc<dyn ShardSource>,
    sink: Arc<dyn TopicSink>,
    clocks: Arc<dyn Clocks>,
    suspension: SuspensionDetector,
    owners: watch::Sender<Arc<ShardOwners>>,
    reachable: watch::Sender<BTreeSet<NodeId>>,
    stopping: watch::Sender<BTreeSet<NodeId>>,
    stale_shards: watch::Sender<BTreeSet<ShardId>>,
    round_trips: watch::Sender<BTreeMap<NodeId, Duration>>,
    links: BTreeMap<NodeId, ActiveLink>,
    link_limiters: BTreeMap<NodeId, LinkLogLimiters>,
    overflow_limiter: LogLimiter,
    last_link_id: u64,
    link_event_sender: mpsc::Sender<LinkEvent>,
    pending_publishes: HashMap<u64, oneshot::Sender<Result<Acknowledgement, PublishError>>>,
    pending_fetches: HashMap<u64, oneshot::Sender<Result<HistoryPage, FetchError>>>,
    last_request_id: u64,
    /// Peer publishes submitted to the shards that the relay task has not collected yet.
    peer_publishes: Vec<BoxFuture<'static, PeerPublishResult>>,
    /// Number of peer publishes without an outcome.
    peer_publishes_in_flight: usize,
}

/// A link that is up.
struct ActiveLink {
    link_id: u64,
    send_queue: Arc<SendQueue>,
    traffic: RegionTraffic,
    closed: CancellationToken,
    congested: bool,
    /// Whether the peer announced that it is being stopped.
    stopping: bool,
}

/// The outcome of a peer's publish. It belongs to one link, because another link may use the same id.
pub(crate) struct PeerPublishResult {
    from: NodeId,
    link_id: u64,
    id: u64,
    outcome: Result<Acknowledgement, PublishError>,
}

/// Peers that are remembered for their log lines. A caller may name any node.
const LINK_LIMITERS_MAX: usize = 1_024;

/// A link that fails again and again logs each of its events once in a while. Outlives the link.
#[derive(Default)]
struct LinkLogLimiters {
    up: LogLimiter,
    down: LogLimiter,
    reset: LogLimiter,
}

/// The arguments of [`EngineDriver::new`].
pub(crate) struct EngineDriverParts {
    pub(crate) config: Arc<Config>,
    pub(crate) view: Arc<ClusterView>,
    pub(crate) source: Arc<dyn ShardSource>,
    pub(crate) sink: Arc<dyn TopicSink>,
    pub(crate) clocks: Arc<dyn Clocks>,
    pub(crate) owners: watch::Sender<Arc<ShardOwners>>,
    pub(crate) reachable: watch::Sender<BTreeSet<NodeId>>,
    pub(crate) stopping: watch::Sender<BTreeSet<NodeId>>,
    pub(crate) stale_shards: watch::Sender<BTreeSet<ShardId>>,
    pub(crate) round_trips: watch::Sender<BTreeMap<NodeId, Duration>>,
    /// Where the readers of links send their events.
    pub(crate) link_event_sender: mpsc::Sender<LinkEvent>,
}

impl EngineDriver {
    pub(crate) fn new(parts: EngineDriverParts) -> EngineDriver {
        let EngineDriverParts { config, view, source, sink, clocks, owners, .. } = parts;
        let EngineDriverParts { reachable, stopping, stale_shards, round_trips, .. } = parts;
        let EngineDriverParts { link_event_sender, .. } = parts;
        let engine = Engine::new(config.as_ref().clone(), view.clone(), Instant::now().into_std());
        let suspension = SuspensionDetector::new(clocks.elapsed(), now());
        EngineDriver {
            config,
            engine,
            view,
            source,
            sink,
            clocks,
            suspension,
            owners,
            reachable,
            stopping,
            stale_shards,
            round_trips,
            links: BTreeMap::new(),
            link_limiters: BTreeMap::new(),
            overflow_limiter: LogLimiter::new(),
            last_link_id: 0,
            link_event_sender,
            pending_publishes: HashMap::new(),
            pending_fetches: HashMap::new(),
            last_request_id: 0,
            peer_publishes: Vec::new(),
            peer_publishes_in_flight: 0,
        }
    }

    pub(crate) fn tick(&mut self) {
        let is_relieved =
            |link: &ActiveLink| link.congested && link.send_queue.load() == QueueLoad::Light;
        let relieved_events =
            self.links.iter_mut().filter(|(_, link)| is_relieved(link)).map(|(&node, link)| {
                link.congested = false;
                EngineEvent::Congested(node, false)
            });
        for event in relieved_events.collect::<Vec<_>>() {
            self.handle(event);
        }
        let counts = self.sink.take_changed_counts(COUNT_TOPICS_PER_TICK);
        if !counts.is_empty() {
            self.handle(EngineEvent::SubscriberCounts(counts));
        }
        if let Some(suspended) = self.suspension.detect(self.clocks.elapsed(), now()) {
            self.handle(EngineEvent::Suspended(suspended));
        }
        let (clock, log_times) = (self.clocks.local_time(), self.source.log_times());
        self.handle(EngineEvent::Times { clock, log_times });
        self.handle(EngineEvent::Tick);
        let stale_shards = self.engine.stale_shards_here(Instant::now().into_std());
        self.stale_shards.send_if_modified(|known| {
            let changed = *known != stale_shards;
            *known = stale_shards;
            changed
        });
    }

    /// Passes an event to the engine and performs all effects that result from it.
    fn handle(&mut self, event: EngineEvent) {
        let now = Instant::now().into_std();
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in self.engine.handle(event, now) {
                match self.perform(effect) {
                    // Pages that were already read, also for other topics, must not be added to a full link.
                    Some(event @ EngineEvent::Congested(..)) => events.push_front(event),
                    event => events.extend(event),
                }
            }
        }
    }

    fn perform(&mut self, effect: EngineEffect) -> Option<EngineEvent> {
        let EngineDriver { source, sink, clocks, owners, .. } = self;
        match effect {
            EngineEffect::Send(to, frame) => return self.send(to, frame),
            EngineEffect::Live(topic, head) => sink.on_live(&topic, head),
            EngineEffect::Deliver(topic, messages, age) => sink.deliver(&topic, messages, age),
            EngineEffect::Gap(topic, gap) => sink.on_gap(&topic, gap),
            EngineEffect::Stale(topic) => sink.on_stale(&topic),
            EngineEffect::Fresh(topic) => sink.on_fresh(&topic),
            EngineEffect::Audience(topic, sessions) => sink.on_audience(&topic, sessions),
            EngineEffect::PeerClock(node, time) => clocks.on_peer_time(node, time),
            EngineEffect::RoundTrip(node, time) => self.record_round_trip(node, time),
            EngineEffect::PeerStopping(node) => self.on_peer_stopping(node),
            EngineEffect::LogTime(shard, time) => sink.on_log_time(shard, time),
            EngineEffect::Read { purpose, topic, range } => {
                let result = source.read_history(&topic, range);
                return Some(EngineEvent::Read { purpose, topic, result });
            }
            EngineEffect::SubmitPublish { from, id, publish } => {
                self.submit_peer_publish(from, id, publish)
            }
            EngineEffect::Published { id, outcome } => {
                send_reply(self.pending_publishes.remove(&id), outcome)
            }
            EngineEffect::Fetched { id, result } => {
                send_reply(self.pending_fetches.remove(&id), result)
            }
            EngineEffect::OwnersChanged(known) => drop(owners.send_replace(Arc::new(known))),
            EngineEffect::Rejected(node, kind) => report_rejected(node, kind),
            EngineEffect::ResetLink(node) => return self.reset_link(node, "protocol_error"),
        }
        None
    }

    fn send(&mut self, to: NodeId, frame: PeerFrame) -> Option<EngineEvent> {
        let link = self.links.get_mut(&to)?;
        link.traffic.record(&frame);
        match link.send_queue.push(frame) {
            Ok(QueueLoad::Heavy) if !link.congested => {
                link.congested = true;
                Some(EngineEvent::Congested(to, true))
            }
            Ok(_) => None,
            Err(_overflow) => self.reset_link(to, "overflow"),
        }
    }

    /// Resets a link. The peer reconnects and asks again from its position.
    fn reset_link(&mut self, node: NodeId, reason: &'static str) -> Option<EngineEvent> {
        let link = self.links.remove(&node)?;
        if let Some(suppressed) = self.link_limiters(node).reset.allow(now()) {
            tracing::warn!(peer = %node, reason, suppressed, "link reset");
        }
        metrics::LINK_RESETS.register_counter(&[reason]).increment(1);
        link.send_queue.close();
        link.closed.cancel();
        self.notify_links_changed();
        Some(EngineEvent::LinkDown(node))
    }

    fn link_limiters(&mut self, node: NodeId) -> &LinkLogLimiters {
        if self.link_limiters.len() >= LINK_LIMITERS_MAX {
            self.link_limiters.clear();
        }
        self.link_limiters.entry(node).or_default()
    }

    fn notify_links_changed(&self) {
        let nodes = self.links.keys().copied().chain([self.config.me]).collect();
        self.reachable.send_replace(nodes);
        // A new link to the same node is measured anew.
        self.round_trips.send_modify(|known| known.retain(|node, _| self.links.contains_key(node)));
        self.notify_stopping_changed();
        metrics::LINKS.register_gauge(&[]).set(self.links.len() as f64);
    }

    fn record_round_trip(&self, node: NodeId, time: Duration) {
        if let Some(link) = self.links.get(&node) {
            link.traffic.record_round_trip(time);
            self.round_trips.send_modify(|known| {
                known.insert(node, time);
            });
        }
    }

    fn on_peer_stopping(&mut self, node: NodeId) {
        if let Some(link) = self.links.get_mut(&node) {
            link.stopping = true;
            self.notify_stopping_changed();
        }
    }

    fn notify_stopping_changed(&self) {
        let stopping = self.links.iter().filter(|(_, link)| link.stopping);
        let stopping: BTreeSet<_> = stopping.map(|(&node, _)| node).collect();
        self.stopping.send_if_modified(|known| {
            let changed = *known != stopping;
            *known = stopping;
            changed
        });
    }

    /// Registers a link. The caller must run the returned future, which reads the link.
    pub(crate) fn on_link_up(&mut self, link: PeerLink) -> impl Future<Output = ()> + Send + use<> {
        let node = link.node;
        if self.links.contains_key(&node)
            && let Some(event) = self.reset_link(node, "replaced")
        {
            self.handle(event);
        }
        self.last_link_id += 1;
        let link_id = self.last_link_id;
        let traffic = RegionTraffic::new(&self.view, self.config.me, node);
        let (send_queue, closed) = (link.send_queue.clone(), link.closed.clone());
        self.links.insert(
            node,
            ActiveLink { link_id, send_queue, traffic, closed, congested: false, stopping: false },
        );
        let reader = link::run_reader(
            link_id,
            link,
            self.link_event_sender.clone(),
            self.config.silence_timeout,
        );
        if let Some(suppressed) = self.link_limiters(node).up.allow(now()) {
            tracing::info!(peer = %node, suppressed, "link up");
        }
        self.notify_links_changed();
        self.handle(EngineEvent::LinkUp(node));
        reader
    }

    pub(crate) fn on_link_event(&mut self, LinkEvent { node, link_id, kind }: LinkEvent) {
        if self.links.get(&node).is_none_or(|link| link.link_id != link_id) {
            return;
        }
        match kind {
            LinkEventKind::Frames(frames) => {
                frames.into_iter().for_each(|frame| self.handle(EngineEvent::Frame(node, frame)));
            }
            LinkEventKind::Down(reason) => {
                if let Some(suppressed) = self.link_limiters(node).down.allow(now()) {
                    tracing::info!(peer = %node, reason, suppressed, "link down");
                }
                self.links.remove(&node).inspect(|link| link.send_queue.close());
                self.notify_links_changed();
                self.handle(EngineEvent::LinkDown(node));
            }
        }
    }

    /// Submits a peer's publish to the shard. The call takes the place in the shard's queue, so the order of
    /// the link is kept regardless of when the outcomes arrive.
    fn submit_peer_publish(&mut self, from: NodeId, id: u64, publish: Publish) {
        let Some(link_id) = self.links.get(&from).map(|link| link.link_id) else { return };
        let outcome = if self.peer_publishes_in_flight < self.config.pending_max {
            self.source.publish(publish)
        } else {
            async { Err(OverloadReason::PublishesFromPeers.into()) }.boxed()
        };
        let finished = outcome.map(move |outcome| PeerPublishResult { from, link_id, id, outcome });
        self.peer_publishes_in_flight += 1;
        self.peer_publishes.push(finished.boxed());
    }

    /// Returns the peer publishes submitted to the shards since the last call.
    pub(crate) fn take_peer_publishes(&mut self) -> Vec<BoxFuture<'static, PeerPublishResult>> {
        std::mem::take(&mut self.peer_publishes)
    }

    /// Sends the outcome of a peer's publish if the link that carried it is still up.
    pub(crate) fn on_peer_publish_done(
        &mut self,
        PeerPublishResult { from, link_id, id, outcome }: PeerPublishResult,
    ) {
        self.peer_publishes_in_flight -= 1;
        let is_same_link = self.links.get(&from).is_some_and(|link| link.link_id == link_id);
        if is_same_link && let Some(event) = self.send(from, PeerFrame::Published { id, outcome }) {
            self.handle(event);
        }
    }

    /// Handles the events that the node queued in the inbox.
    pub(crate) fn on_local_events(&mut self, events: LocalEvents) {
        for (shard, claim) in events.claims {
            self.handle(claim.map_or(EngineEvent::ClaimRevoked(shard), EngineEvent::Claim));
        }
        for (shard, leader) in events.leaders {
            self.handle(EngineEvent::LeaderObserved(shard, leader));
        }
        if events.committed_dropped {
            if let Some(suppressed) = self.overflow_limiter.allow(now()) {
                tracing::warn!(
                    suppressed,
                    "relay inbox overflowed, fetching committed messages from history"
                );
            }
            metrics::INBOX_OVERFLOWS.register_counter(&[]).increment(1);
            self.handle(EngineEvent::CommittedDropped);
        }
        self.on_committed(events.committed);
        if !events.removed.is_empty() {
            self.handle(EngineEvent::Removed(events.removed));
        }
        for (topic, request) in events.watches {
            self.handle(match request {
                Some(after) => EngineEvent::Watch { topic, after },
                None => EngineEvent::Unwatch { topic },
            });
        }
        events.requests.into_iter().for_each(|request| self.start_request(request));
        if events.stopping {
            self.handle(EngineEvent::Stopping);
        }
    }

    pub(crate) fn on_committed(&mut self, committed: CommittedMessages) {
        if let CommittedMessages { messages, since: Some(since), .. } = committed {
            self.handle(EngineEvent::Committed { messages, since });
        }
    }

    fn start_request(&mut self, request: RelayRequest) {
        self.last_request_id += 1;
        let id = self.last_request_id;
        let event = match request {
            RelayRequest::Publish { owner, publish, reply } => {
                self.pending_publishes.insert(id, reply);
                EngineEvent::Publish { id, owner, publish }
            }
            RelayRequest::Fetch { topic, range, reply } => {
                self.pending_fetches.insert(id, reply);
                EngineEvent::Fetch { id, topic, range }
            }
            RelayRequest::Audience { topics, reply } => {
                let counts = topics.iter().map(|topic| self.engine.audience(topic)).collect();
                return send_reply(Some(reply), counts);
            }
        };
        self.handle(event);
    }

    pub(crate) fn on_view(&mut self, view: Arc<ClusterView>) {
        self.view = view.clone();
        for (&node, link) in &mut self.links {
            link.traffic = RegionTraffic::new(&view, self.config.me, node);
        }
        let removed = self.links.keys().copied().filter(|&node| view.was_removed(node));
        for node in removed.collect::<Vec<_>>() {
            if let Some(event) = self.reset_link(node, "removed") {
                self.handle(event);
            }
        }
        self.handle(EngineEvent::View(view));
    }

    /// Closes every link when the relay stops.
    pub(crate) fn close(&mut self) {
        for link in self.links.values() {
            link.send_queue.close();
            link.closed.cancel();
        }
    }
}

/// The time for the limiters of log lines.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Counts what a peer sent and no correct node sends.
fn report_rejected(node: NodeId, kind: &'static str) {
    static LIMITER: LogLimiter = LogLimiter::new();
    metrics::REJECTED_FRAMES.register_counter(&[kind]).increment(1);
    if let Some(suppressed) = LIMITER.allow(now()) {
        tracing::warn!(peer = %node, kind, suppressed, "rejected what a peer announced");
    }
}

fn send_reply<T>(reply: Option<oneshot::Sender<T>>, value: T) {
    if let Some(reply) = reply {
        // The caller may have stopped waiting.
        let _gone = reply.send(value);
    }
}

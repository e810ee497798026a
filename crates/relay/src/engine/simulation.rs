//! A simulated cluster of engines in one thread: links are queues, shards are one shared log that only the
//! owner reads, and time advances on request.

mod simulation_test;
mod sink_checker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_core::test_util::{claim, topic};
use pushonce_core::{
    Acknowledgement, ClusterView, CommitAge, ContentType, FetchError, Gap, GapReason, HistoryPage,
    HistoryRange, Message, NodeId, Position, Publish, PublishError, PublishRejection, ShardId,
    SubscriberCount, Term, Timestamp, Topic, UnavailableReason,
};
use pushonce_proto::peer::PeerFrame;

use super::testing::{message, view};
use super::{Engine, EngineEffect, EngineEvent};
use crate::Config;
use sink_checker::SinkChecker;

/// The log of a topic: its epoch, its head and the newest messages.
#[derive(Default)]
struct SimulatedLog {
    epoch: u64,
    head: u64,
    history: VecDeque<Arc<Message>>,
}

/// Fewer messages than a test may publish while a link is down, so that gaps occur.
const HISTORY_MAX: usize = 6;

pub(super) struct RelaySimulation {
    view: Arc<ClusterView>,
    start: Instant,
    now: Instant,
    engines: BTreeMap<NodeId, Engine>,
    logs: BTreeMap<Topic, SimulatedLog>,
    /// The actual leader of each shard, and its term.
    leaders: BTreeMap<ShardId, (NodeId, u64)>,
    /// The shards whose leader has no lease: nothing is committed or read.
    without_lease: BTreeSet<ShardId>,
    /// When a node last could have received everything of a shard.
    last_complete: BTreeMap<(NodeId, ShardId), Instant>,
    /// Frames in flight by direction. A pair without an entry has no link.
    wires: BTreeMap<(NodeId, NodeId), VecDeque<PeerFrame>>,
    sinks: BTreeMap<(NodeId, Topic), SinkChecker>,
    /// The session counts of each sink.
    sessions: BTreeMap<(NodeId, Topic), SubscriberCount>,
    /// The sinks whose counts were not passed to the engine yet.
    unreported: BTreeSet<(NodeId, Topic)>,
    last_publish: u64,
    fetch_results: BTreeMap<u64, Result<HistoryPage, FetchError>>,
    outcomes: BTreeMap<u64, Option<Result<Acknowledgement, PublishError>>>,
    last_epoch: u64,
    /// Copies of messages delivered between regions.
    cross_region_copies: usize,
    /// The age of the last delivery to the sink of each node.
    pub(super) ages: BTreeMap<NodeId, Option<CommitAge>>,
}

/// The time that a committed message waits for its relay.
const INBOX_WAIT: Duration = Duration::from_millis(3);

impl SimulatedLog {
    fn head(&self) -> Position {
        Position::new(self.epoch, self.head)
    }

    fn commit(&mut self) -> Arc<Message> {
        self.head += 1;
        let message = message(self.epoch, self.head);
        self.history.push_back(message.clone());
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        message
    }

    fn read_history(&self, range: HistoryRange) -> Result<HistoryPage, FetchError> {
        let head = self.head();
        let history = || self.history.iter().cloned();
        let oldest = self.history.front().map_or(head.next(), |message| message.position);
        let (messages, gap): (Vec<_>, _) = match range {
            HistoryRange::All => (history().collect(), None),
            HistoryRange::Last(n) => {
                let skip = self.history.len().saturating_sub(n as usize);
                (history().skip(skip).collect(), None)
            }
            HistoryRange::After(asked) if asked > head => {
                return Err(FetchError::FuturePosition { requested: asked, head });
            }
            HistoryRange::After(asked) => {
                let messages = history().filter(|message| message.position > asked).collect();
                let to = Position::new(oldest.epoch.0, oldest.offset.0 - 1);
                let reason = match asked.epoch == head.epoch || asked == Position::ZERO {
                    true => GapReason::Expired,
                    false => GapReason::Epoch,
                };
                let from = match reason {
                    GapReason::Expired => Position::new(self.epoch, asked.offset.0 + 1),
                    _ => asked.next(),
                };
                (messages, (to > asked && to >= from).then_some(Gap { from, to, reason }))
            }
        };
        Ok(HistoryPage { messages, head, gap })
    }
}

impl RelaySimulation {
    /// Nodes 1, 2, 3, … in these regions, all linked; node 1 leads every shard.
    pub(super) fn new(regions: &[&str]) -> RelaySimulation {
        let view = Arc::new(view(regions));
        let now = Instant::now();
        let engine = |&id: &NodeId| {
            // Small enough that recent messages are evicted and catching up takes several parts.
            let config = Config { ring_count_max: 3, link_bytes_max: 800, ..Config::new(id) };
            (id, Engine::new(config, view.clone(), now))
        };
        let mut simulation = RelaySimulation {
            engines: view.members.keys().map(engine).collect(),
            start: now,
            now,
            logs: BTreeMap::new(),
            leaders: BTreeMap::new(),
            without_lease: BTreeSet::new(),
            last_complete: BTreeMap::new(),
            wires: BTreeMap::new(),
            sinks: BTreeMap::new(),
            sessions: BTreeMap::new(),
            unreported: BTreeSet::new(),
            last_publish: 0,
            fetch_results: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            last_epoch: 0,
            cross_region_copies: 0,
            ages: BTreeMap::new(),
            view,
        };
        simulation.link_all();
        for shard in simulation.view.shards.ids() {
            simulation.set_leader(shard, NodeId(1));
        }
        simulation
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.engines.keys().copied().collect()
    }

    fn shard_of(&self, topic: &Topic) -> ShardId {
        topic.shard(self.view.shards)
    }

    pub(super) fn owner(&self, topic: &Topic) -> NodeId {
        self.leaders[&self.shard_of(topic)].0
    }

    /// Moves the leadership of a shard to `node` and notifies its engine.
    pub(super) fn set_leader(&mut self, shard: ShardId, node: NodeId) {
        let term = self.leaders.get(&shard).map_or(1, |(_, term)| term + 1);
        // A lease ends before the next one begins.
        self.revoke_lease(shard);
        self.leaders.insert(shard, (node, term));
        self.grant_lease(shard);
    }

    /// Ends the lease of a shard's leader and notifies its engine.
    pub(super) fn revoke_lease(&mut self, shard: ShardId) {
        let leader = self.leaders.get(&shard).map(|(node, _)| *node);
        if let Some(leader) = leader.filter(|_| self.without_lease.insert(shard)) {
            // The lease ran until now.
            self.last_complete.insert((leader, shard), self.now);
            self.handle(leader, EngineEvent::ClaimRevoked(shard));
        }
    }

    /// Grants the leader of a shard a lease again and notifies its engine.
    pub(super) fn grant_lease(&mut self, shard: ShardId) {
        self.without_lease.remove(&shard);
        let (node, term) = self.leaders[&shard];
        self.handle(node, EngineEvent::Claim(claim(shard.0, node.0, term)));
        let leader = Some((node, Term(term)));
        for node in self.nodes() {
            self.handle(node, EngineEvent::LeaderObserved(shard, leader));
        }
    }

    /// Drops a topic. The next message creates it again in a new epoch.
    pub(super) fn drop_topic(&mut self, topic: &Topic) {
        self.logs.remove(topic);
    }

    /// Commits a message at the actual owner if it has a lease. `handed_over`: whether its relay receives it.
    pub(super) fn commit(&mut self, topic: &Topic, handed_over: bool) {
        if self.without_lease.contains(&self.shard_of(topic)) {
            return;
        }
        self.last_epoch += 1;
        let new = SimulatedLog { epoch: self.last_epoch, ..SimulatedLog::default() };
        let message = self.logs.entry(topic.clone()).or_insert(new).commit();
        if handed_over {
            let (messages, since) = (vec![(topic.clone(), message)], self.now - INBOX_WAIT);
            self.handle(self.owner(topic), EngineEvent::Committed { messages, since });
        }
    }

    /// Publishes from a caller on `node` through the owner that `node` knows.
    pub(super) fn publish(&mut self, node: NodeId, topic: &Topic) {
        let shard = self.shard_of(topic);
        let Some(owner) = self.engines[&node].routes.owners().owner_of(shard) else { return };
        self.last_publish += 1;
        let id = self.last_publish;
        self.outcomes.insert(id, None);
        let payload = bytes::Bytes::from_static(b"x");
        let (topic, content_type) = (topic.clone(), ContentType::Binary);
        let publish = Publish { topic, content_type, key: None, publish_id: None, payload };
        self.handle(node, EngineEvent::Publish { id, owner, publish });
    }

    /// The answer to a fetch of a caller on `node` when all frames arrive.
    pub(super) fn fetch(
        &mut self,
        node: NodeId,
        topic: &Topic,
        range: HistoryRange,
    ) -> Option<Result<HistoryPage, FetchError>> {
        let id = 1;
        self.handle(node, EngineEvent::Fetch { id, topic: topic.clone(), range });
        while self.deliver_next_frame(0) {}
        self.fetch_results.remove(&id)
    }

    /// Watches `topic` at the sink of `node`, from its last position or from now on.
    pub(super) fn watch(&mut self, node: NodeId, topic: &Topic, resume: bool) {
        let sink = self.sinks.entry((node, topic.clone())).or_default();
        let after = sink.watch(resume);
        self.handle(node, EngineEvent::Watch { topic: topic.clone(), after });
    }

    pub(super) fn unwatch(&mut self, node: NodeId, topic: &Topic) {
        if let Some(sink) = self.sinks.get_mut(&(node, topic.clone())) {
            sink.unwatch();
            self.sessions.remove(&(node, topic.clone()));
            self.unreported.insert((node, topic.clone()));
            self.handle(node, EngineEvent::Unwatch { topic: topic.clone() });
        }
    }

    /// Sets the session count of `topic` on `node`, if its sink watches the topic.
    pub(super) fn set_subscribers(&mut self, node: NodeId, topic: &Topic, count: SubscriberCount) {
        let key = (node, topic.clone());
        if self
            .sinks
            .get_mut(&key)
            .is_some_and(|sink| sink.set_wants_audience(count.wants_audience))
        {
            self.sessions.insert(key.clone(), count);
            self.unreported.insert(key);
        }
    }

    pub(super) fn link(&mut self, a: NodeId, b: NodeId) {
        if a != b && !self.wires.contains_key(&(a, b)) {
            self.wires.insert((a, b), VecDeque::new());
            self.wires.insert((b, a), VecDeque::new());
            self.handle(a, EngineEvent::LinkUp(b));
            self.handle(b, EngineEvent::LinkUp(a));
        }
    }

    pub(super) fn link_all(&mut self) {
        for a in self.nodes() {
            for b in self.nodes() {
                self.link(a, b);
            }
        }
    }

    /// Breaks a link. Frames in flight are lost.
    pub(super) fn unlink(&mut self, a: NodeId, b: NodeId) {
        if self.wires.remove(&(a, b)).is_some() {
            self.wires.remove(&(b, a));
            self.handle(a, EngineEvent::LinkDown(b));
            self.handle(b, EngineEvent::LinkDown(a));
        }
    }

    /// Sets whether the link from `a` to `b` is congested.
    pub(super) fn set_congested(&mut self, a: NodeId, b: NodeId, congested: bool) {
        if self.wires.contains_key(&(a, b)) {
            self.handle(a, EngineEvent::Congested(b, congested));
        }
    }

    /// Delivers the next frame of the `pick`th wire that has any.
    pub(super) fn deliver_next_frame(&mut self, pick: usize) -> bool {
        let busy: Vec<_> =
            self.wires.iter().filter(|(_, wire)| !wire.is_empty()).map(|(&ends, _)| ends).collect();
        let Some(&(from, to)) = busy.get(pick % busy.len().max(1)) else { return false };
        let frame = self.wires.get_mut(&(from, to)).and_then(VecDeque::pop_front);
        self.handle(to, EngineEvent::Frame(from, frame.expect("busy")));
        true
    }

    /// Delivers the frames that are in flight now, and none that are sent meanwhile.
    pub(super) fn deliver_frames_in_flight(&mut self) {
        for (from, to) in self.wires.keys().copied().collect::<Vec<_>>() {
            let frames = self.wires.get_mut(&(from, to)).map(std::mem::take).unwrap_or_default();
            for frame in frames {
                self.handle(to, EngineEvent::Frame(from, frame));
            }
        }
    }

    /// Drops the first delivery of the `pick`th wire, a fault that real links do not have.
    pub(super) fn drop_delivery(&mut self, pick: usize) {
        let wires = self.wires.len().max(1);
        let Some(wire) = self.wires.values_mut().nth(pick % wires) else { return };
        let is_delivery =
            |frame: &PeerFrame| matches!(frame, PeerFrame::Deliver { .. } | PeerFrame::Lost { .. });
        if let Some(at) = wire.iter().position(is_delivery) {
            wire.remove(at);
        }
    }

    /// Duplicates a count on the `pick`th wire, a fault that real links do not have.
    pub(super) fn duplicate_count(&mut self, pick: usize) {
        let wires = self.wires.len().max(1);
        let Some(wire) = self.wires.values_mut().nth(pick % wires) else { return };
        let is_count = |frame: &PeerFrame| {
            matches!(frame, PeerFrame::SubscriberCounts { .. } | PeerFrame::Audience { .. })
        };
        if let Some(at) = wire.iter().position(is_count) {
            wire.insert(at, wire[at].clone());
        }
    }

    /// Advances time. A sink that could not receive everything for too long must have been marked stale.
    pub(super) fn advance(&mut self, time: Duration) {
        let leases = self.leaders.iter().filter(|(shard, _)| !self.without_lease.contains(shard));
        self.last_complete.extend(leases.map(|(&shard, &(node, _))| ((node, shard), self.now)));
        self.now += time;
        for (node, topic) in std::mem::take(&mut self.unreported) {
            self.sink(node, topic.clone()).clear_unwanted_audience();
            let count = self.sessions.get(&(node, topic.clone())).copied().unwrap_or_default();
            self.handle(node, EngineEvent::SubscriberCounts(vec![(topic, count)]));
        }
        for node in self.nodes() {
            let clock = Timestamp((self.now - self.start).as_millis() as u64);
            let leases = self.leaders.iter().filter(|(_, (leader, _))| *leader == node);
            let leases = leases.filter(|(shard, _)| !self.without_lease.contains(shard));
            let log_times = leases.map(|(&shard, _)| (shard, clock)).collect();
            self.handle(node, EngineEvent::Times { clock, log_times });
            self.handle(node, EngineEvent::Tick);
        }
        for ((node, topic), sink) in &self.sinks {
            let last_complete = self.last_complete.get(&(*node, self.shard_of(topic)));
            let is_overdue =
                last_complete.is_some_and(|&at| self.now - at >= Duration::from_secs(3));
            sink.check_staleness(*node, topic, is_overdue);
        }
    }

    /// Ends all faults and lets enough time pass.
    pub(super) fn heal_and_settle(&mut self) {
        self.link_all();
        for (a, b) in self.wires.keys().copied().collect::<Vec<_>>() {
            self.set_congested(a, b, false);
        }
        for shard in self.without_lease.clone() {
            self.grant_lease(shard);
        }
        for _ in 0..40 {
            self.advance(Duration::from_millis(250));
            while self.deliver_next_frame(0) {}
        }
    }

    /// The nodes whose sinks were notified that a topic is stale.
    pub(super) fn stale_nodes(&self, topic: &Topic) -> BTreeSet<NodeId> {
        let sinks =
            self.sinks.iter().filter(|((_, sink_topic), o)| sink_topic == topic && o.is_stale());
        sinks.map(|((node, _), _)| *node).collect()
    }

    /// Checks that all sinks are in sync and all publishes answered after settling.
    pub(super) fn check_in_sync(&self) {
        for ((node, topic), sink) in &self.sinks {
            sink.check_in_sync(*node, topic, self.logs.get(topic).map(SimulatedLog::head));
        }
        assert!(self.outcomes.values().all(Option::is_some), "a publish has no outcome");
    }

    /// The number of sessions of a topic in the cluster.
    pub(super) fn audience(&self, topic: &Topic) -> u64 {
        let counts = self.sessions.iter().filter(|((_, watched), _)| watched == topic);
        counts.map(|(_, count)| count.sessions).sum()
    }

    /// The audience that the sink of `node` last received.
    pub(super) fn audience_received(&self, node: NodeId, topic: &Topic) -> Option<u64> {
        self.sinks[&(node, topic.clone())].audience()
    }

    /// Frames with counts that were sent and have not arrived.
    pub(super) fn count_frames_in_flight(&self) -> usize {
        let is_count = |frame: &&PeerFrame| {
            matches!(frame, PeerFrame::SubscriberCounts { .. } | PeerFrame::Audience { .. })
        };
        self.wires.values().flatten().filter(is_count).count()
    }

    /// Checks all sums of sessions after settling.
    pub(super) fn check_audience(&self) {
        for topic in topics() {
            let audience = self.audience(&topic);
            let known = self.engines[&self.owner(&topic)].audience(&topic);
            assert_eq!(known, Some(audience), "the owner's sum of {topic}");
            for ((node, watched), count) in &self.sessions {
                if *watched == topic && count.wants_audience {
                    let received = self.sinks[&(*node, topic.clone())].audience();
                    assert_eq!(received, Some(audience), "the audience of {topic} on {node}");
                }
            }
        }
    }

    /// The nodes whose sinks have everything of a topic.
    pub(super) fn in_sync_nodes(&self, topic: &Topic) -> BTreeSet<NodeId> {
        let head = self.logs[topic].head();
        let sinks = self.sinks.iter().filter(|((_, sink_topic), _)| sink_topic == topic);
        sinks.filter(|(_, o)| o.is_at(head)).map(|((node, _), _)| *node).collect()
    }

    /// Whether a publish was acknowledged.
    pub(super) fn is_acknowledged(&self, id: u64) -> bool {
        matches!(self.outcomes.get(&id), Some(Some(Ok(_))))
    }

    /// Whether a publish ended as unknown.
    pub(super) fn is_unknown(&self, id: u64) -> bool {
        matches!(self.outcomes.get(&id), Some(Some(Err(PublishError::Unknown { .. }))))
    }

    /// Copies of messages that crossed between regions during `act` and the delivery of all frames.
    pub(super) fn count_cross_region_copies(
        &mut self,
        act: impl FnOnce(&mut RelaySimulation),
    ) -> usize {
        let before = self.cross_region_copies;
        act(self);
        while self.deliver_next_frame(0) {}
        self.cross_region_copies - before
    }

    fn handle(&mut self, node: NodeId, event: EngineEvent) {
        if matches!(event, EngineEvent::Frame(..) | EngineEvent::Claim(_)) {
            let shards = self.view.shards.ids();
            self.last_complete.extend(shards.map(|shard| ((node, shard), self.now)));
        }
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let engine = self.engines.get_mut(&node).expect("a node");
            let effects = engine.handle(event, self.now);
            assert!(
                engine.replications.is_consistent(),
                "an unsettled topic is missing from the ticks of {node}"
            );
            for effect in effects {
                events.extend(self.perform(node, effect));
            }
        }
    }

    fn perform(&mut self, node: NodeId, effect: EngineEffect) -> Option<EngineEvent> {
        match effect {
            EngineEffect::Send(to, frame) => self.send(node, to, frame),
            EngineEffect::Live(topic, head) => self.sink(node, topic).on_live(head),
            EngineEffect::Deliver(topic, messages, age) => {
                self.ages.insert(node, age);
                self.sink(node, topic).deliver(&messages);
            }
            EngineEffect::Gap(topic, gap) => {
                let oldest = self.logs.get(&topic).and_then(|log| log.history.front());
                let oldest = oldest.map(|message| message.position);
                self.sink(node, topic).on_gap(gap, oldest);
            }
            EngineEffect::Stale(topic) => self.sink(node, topic).on_stale(),
            EngineEffect::Fresh(topic) => self.sink(node, topic).on_fresh(),
            EngineEffect::Audience(topic, sessions) => {
                let now = self.now;
                self.sink(node, topic).on_audience(sessions, now);
            }
            EngineEffect::Read { purpose, topic, range } => {
                let can_read = self.owner(&topic) == node
                    && !self.without_lease.contains(&self.shard_of(&topic));
                let result = match can_read {
                    true => self
                        .logs
                        .get(&topic)
                        .unwrap_or(&SimulatedLog::default())
                        .read_history(range),
                    false => Err(UnavailableReason::NotOwner { owner: None }.into()),
                };
                return Some(EngineEvent::Read { purpose, topic, result });
            }
            EngineEffect::SubmitPublish { from, id, publish } => {
                let outcome = match self.owner(&publish.topic) {
                    _ if self.without_lease.contains(&self.shard_of(&publish.topic)) => {
                        Err(UnavailableReason::NoMajority.into())
                    }
                    owner if owner == node => {
                        self.commit(&publish.topic, true);
                        let position = self.logs[&publish.topic].head();
                        Ok(Acknowledgement {
                            position,
                            time: Default::default(),
                            durability: Default::default(),
                        })
                    }
                    owner => Err(PublishRejection::NotOwner { owner: Some(owner) }.into()),
                };
                self.send(node, from, PeerFrame::Published { id, outcome });
            }
            EngineEffect::Published { id, outcome } => {
                let before = self.outcomes.insert(id, Some(outcome));
                assert_eq!(before, Some(None), "publish {id} was answered twice");
            }
            EngineEffect::ResetLink(peer) => panic!("{node} reset its link to {peer}"),
            EngineEffect::Fetched { id, result } => drop(self.fetch_results.insert(id, result)),
            EngineEffect::OwnersChanged(_)
            | EngineEffect::PeerClock(..)
            | EngineEffect::LogTime(..)
            | EngineEffect::RoundTrip(..)
            | EngineEffect::PeerStopping(_) => {}
            EngineEffect::Rejected(node, kind) => panic!("rejected a {kind} of {node}"),
        }
        None
    }

    fn send(&mut self, from: NodeId, to: NodeId, frame: PeerFrame) {
        if let Some(wire) = self.wires.get_mut(&(from, to)) {
            if let PeerFrame::Deliver { messages, .. } = &frame
                && self.view.region_of(from) != self.view.region_of(to)
            {
                self.cross_region_copies += messages.len();
            }
            wire.push_back(frame);
        }
    }

    fn sink(&mut self, node: NodeId, topic: Topic) -> &mut SinkChecker {
        self.sinks.get_mut(&(node, topic)).expect("the sink watched the topic")
    }
}

/// The topics of a test.
pub(super) fn topics() -> Vec<Topic> {
    ["a", "b", "c"].map(topic).into()
}

//! A whole cluster of engines in one thread: links are queues, shards are one log that everybody
//! could read and only its owner does, time moves when told to.

mod observer;
mod world_test;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_core::{
    ClusterView, ContentType, FetchError, Gap, GapReason, Message, NodeId, Page, Placed, Position,
    Publish, PublishError, Refusal, ShardId, Timestamp, Topic, Want, Watching,
};
use pushonce_proto::peer::Frame;

use super::testing::{claim, message, topic, view};
use super::{Effect, Engine, Event};
use crate::Config;
use observer::Observer;

/// What exists of a topic: history is the tail of its current life.
#[derive(Default)]
struct Log {
    epoch: u64,
    head: u64,
    history: VecDeque<Arc<Message>>,
}

/// Shorter than what a test may publish while a link is down, so that gaps do occur.
const HISTORY: usize = 6;

pub(super) struct World {
    view: Arc<ClusterView>,
    began: Instant,
    now: Instant,
    engines: BTreeMap<NodeId, Engine>,
    logs: BTreeMap<Topic, Log>,
    /// Who really leads, and the term.
    leads: BTreeMap<ShardId, (NodeId, u64)>,
    /// The shards whose leader has no lease: nothing is committed and nothing read.
    doubted: BTreeSet<ShardId>,
    /// When a node last could have heard of everything in a shard.
    heard: BTreeMap<(NodeId, ShardId), Instant>,
    /// Frames under way, by direction; a pair that is not here has no link.
    wires: BTreeMap<(NodeId, NodeId), VecDeque<Frame>>,
    observers: BTreeMap<(NodeId, Topic), Observer>,
    /// How many sessions there are at each sink.
    sessions: BTreeMap<(NodeId, Topic), Watching>,
    /// Those of which the engine has not been told.
    uncounted: BTreeSet<(NodeId, Topic)>,
    last_publish: u64,
    answers: BTreeMap<u64, Result<Page, FetchError>>,
    outcomes: BTreeMap<u64, Option<Result<Placed, PublishError>>>,
    epochs: u64,
    /// Copies of messages delivered from region to region.
    crossed: usize,
}

impl Log {
    fn head(&self) -> Position {
        Position::new(self.epoch, self.head)
    }

    fn commit(&mut self) -> Arc<Message> {
        self.head += 1;
        let message = message(self.epoch, self.head);
        self.history.push_back(message.clone());
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        message
    }

    fn page(&self, want: Want) -> Result<Page, FetchError> {
        let head = self.head();
        let history = || self.history.iter().cloned();
        let oldest = self.history.front().map_or(head.next(), |message| message.position);
        let (messages, gap): (Vec<_>, _) = match want {
            Want::All => (history().collect(), None),
            Want::Last(n) => {
                let skip = self.history.len().saturating_sub(n as usize);
                (history().skip(skip).collect(), None)
            }
            Want::After(asked) if asked > head => return Err(FetchError::Future { asked, head }),
            Want::After(asked) => {
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
        Ok(Page { messages, head, gap })
    }
}

impl World {
    /// Nodes 1, 2, 3 … in these regions, all linked; node 1 leads every shard.
    pub(super) fn new(regions: &[&str]) -> World {
        let view = Arc::new(view(regions));
        let now = Instant::now();
        let engine = |&id: &NodeId| {
            // Small enough that rings forget, and that catching up takes several parts.
            let config =
                Config { ring_count_max: 3, link_bytes_max: 800, ..Config::new(id, view.cluster) };
            (id, Engine::new(config, view.clone(), now))
        };
        let mut world = World {
            engines: view.members.keys().map(engine).collect(),
            began: now,
            now,
            logs: BTreeMap::new(),
            leads: BTreeMap::new(),
            doubted: BTreeSet::new(),
            heard: BTreeMap::new(),
            wires: BTreeMap::new(),
            observers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            uncounted: BTreeSet::new(),
            last_publish: 0,
            answers: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            epochs: 0,
            crossed: 0,
            view,
        };
        world.link_all();
        for shard in world.view.shards.ids() {
            world.lead(shard, NodeId(1));
        }
        world
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.engines.keys().copied().collect()
    }

    fn shard(&self, topic: &Topic) -> ShardId {
        topic.shard(self.view.shards)
    }

    pub(super) fn owner(&self, topic: &Topic) -> NodeId {
        self.leads[&self.shard(topic)].0
    }

    /// Another node leads the shard from now on, and says so to its own engine.
    pub(super) fn lead(&mut self, shard: ShardId, node: NodeId) {
        let term = self.leads.get(&shard).map_or(1, |(_, term)| term + 1);
        // A lease ends before another begins.
        self.doubt(shard);
        self.leads.insert(shard, (node, term));
        self.regain(shard);
    }

    /// The leader of a shard has no lease any more, and its engine hears so.
    pub(super) fn doubt(&mut self, shard: ShardId) {
        let leader = self.leads.get(&shard).map(|(node, _)| *node);
        if let Some(leader) = leader.filter(|_| self.doubted.insert(shard)) {
            // Its lease ran until now.
            self.heard.insert((leader, shard), self.now);
            self.event(leader, Event::Disclaim(shard));
        }
    }

    /// It has one again, and its engine says so.
    pub(super) fn regain(&mut self, shard: ShardId) {
        self.doubted.remove(&shard);
        let (node, term) = self.leads[&shard];
        self.event(node, Event::Claim(claim(shard, node, term)));
    }

    /// The topic is dropped; the next message makes it again, in a new life.
    pub(super) fn drop_topic(&mut self, topic: &Topic) {
        self.logs.remove(topic);
    }

    /// Commits at the real owner, if it can; `told` whether its relay hears of it.
    pub(super) fn commit(&mut self, topic: &Topic, told: bool) {
        if self.doubted.contains(&self.shard(topic)) {
            return;
        }
        self.epochs += 1;
        let new = Log { epoch: self.epochs, ..Log::default() };
        let message = self.logs.entry(topic.clone()).or_insert(new).commit();
        if told {
            self.event(self.owner(topic), Event::Committed(vec![(topic.clone(), message)]));
        }
    }

    /// A caller on `node` publishes at whom it takes for the owner.
    pub(super) fn publish(&mut self, node: NodeId, topic: &Topic) {
        let shard = self.shard(topic);
        let Some(to) = self.engines[&node].routes.owners().of(shard) else { return };
        self.last_publish += 1;
        let id = self.last_publish;
        self.outcomes.insert(id, None);
        let payload = bytes::Bytes::from_static(b"x");
        let (topic, content_type) = (topic.clone(), ContentType::Binary);
        let publish = Publish { topic, content_type, key: None, stamp: None, payload };
        self.event(node, Event::Publish { id, to, publish });
    }

    /// What a caller on `node` is answered when everything arrives.
    pub(super) fn ask(
        &mut self,
        node: NodeId,
        topic: &Topic,
        want: Want,
    ) -> Option<Result<Page, FetchError>> {
        let id = 1;
        self.event(node, Event::Fetch { id, topic: topic.clone(), want });
        while self.carry(0) {}
        self.answers.remove(&id)
    }

    /// The sink of `node` wants `topic`, from where it was or from now on.
    pub(super) fn watch(&mut self, node: NodeId, topic: &Topic, resume: bool) {
        let observer = self.observers.entry((node, topic.clone())).or_default();
        let after = observer.watch(resume);
        self.event(node, Event::Watch { topic: topic.clone(), after });
    }

    pub(super) fn unwatch(&mut self, node: NodeId, topic: &Topic) {
        if let Some(observer) = self.observers.get_mut(&(node, topic.clone())) {
            observer.unwatch();
            self.sessions.remove(&(node, topic.clone()));
            self.uncounted.insert((node, topic.clone()));
            self.event(node, Event::Unwatch { topic: topic.clone() });
        }
    }

    /// So many sessions of `node` watch `topic` from now on, if its sink does.
    pub(super) fn seat(&mut self, node: NodeId, topic: &Topic, watching: Watching) {
        let key = (node, topic.clone());
        if self.observers.get_mut(&key).is_some_and(|observer| observer.seat(watching.asks)) {
            self.sessions.insert(key.clone(), watching);
            self.uncounted.insert(key);
        }
    }

    pub(super) fn link(&mut self, a: NodeId, b: NodeId) {
        if a != b && !self.wires.contains_key(&(a, b)) {
            self.wires.insert((a, b), VecDeque::new());
            self.wires.insert((b, a), VecDeque::new());
            self.event(a, Event::LinkUp(b));
            self.event(b, Event::LinkUp(a));
        }
    }

    pub(super) fn link_all(&mut self) {
        for a in self.nodes() {
            for b in self.nodes() {
                self.link(a, b);
            }
        }
    }

    /// What is under way is lost.
    pub(super) fn cut(&mut self, a: NodeId, b: NodeId) {
        if self.wires.remove(&(a, b)).is_some() {
            self.wires.remove(&(b, a));
            self.event(a, Event::LinkDown(b));
            self.event(b, Event::LinkDown(a));
        }
    }

    /// Much waits for the link from `a` to `b`, or not any more.
    pub(super) fn congest(&mut self, a: NodeId, b: NodeId, congested: bool) {
        if self.wires.contains_key(&(a, b)) {
            self.event(a, Event::Congested(b, congested));
        }
    }

    /// Brings the next frame of the `pick`th busy wire to its end.
    pub(super) fn carry(&mut self, pick: usize) -> bool {
        let busy: Vec<_> =
            self.wires.iter().filter(|(_, wire)| !wire.is_empty()).map(|(&ends, _)| ends).collect();
        let Some(&(from, to)) = busy.get(pick % busy.len().max(1)) else { return false };
        let frame = self.wires.get_mut(&(from, to)).and_then(VecDeque::pop_front);
        self.event(to, Event::Frame(from, frame.expect("busy")));
        true
    }

    /// A fault that links do not have: the first delivery of the `pick`th wire never arrives.
    pub(super) fn swallow(&mut self, pick: usize) {
        let wires = self.wires.len().max(1);
        let Some(wire) = self.wires.values_mut().nth(pick % wires) else { return };
        let is = |frame: &Frame| matches!(frame, Frame::Deliver { .. } | Frame::Lost { .. });
        if let Some(at) = wire.iter().position(is) {
            wire.remove(at);
        }
    }

    /// Links have no such fault either: a count arrives twice.
    pub(super) fn repeat(&mut self, pick: usize) {
        let wires = self.wires.len().max(1);
        let Some(wire) = self.wires.values_mut().nth(pick % wires) else { return };
        let is = |frame: &Frame| matches!(frame, Frame::Watching { .. } | Frame::Audience { .. });
        if let Some(at) = wire.iter().position(is) {
            wire.insert(at, wire[at].clone());
        }
    }

    /// Time passes. Whoever could not have heard of everything for too long must have been told.
    pub(super) fn pass(&mut self, time: Duration) {
        let leases = self.leads.iter().filter(|(shard, _)| !self.doubted.contains(shard));
        self.heard.extend(leases.map(|(&shard, &(node, _))| ((node, shard), self.now)));
        self.now += time;
        for (node, topic) in std::mem::take(&mut self.uncounted) {
            self.observer(node, topic.clone()).report();
            let watching = self.sessions.get(&(node, topic.clone())).copied().unwrap_or_default();
            self.event(node, Event::Watching(vec![(topic, watching)]));
        }
        for node in self.nodes() {
            let clock = Timestamp((self.now - self.began).as_millis() as u64);
            self.event(node, Event::Times { clock, logs: Vec::new() });
            self.event(node, Event::Tick);
        }
        for ((node, topic), observer) in &self.observers {
            let heard = self.heard.get(&(*node, self.shard(topic)));
            let long_ago = heard.is_some_and(|&at| self.now - at >= Duration::from_secs(3));
            observer.check_told(*node, topic, long_ago);
        }
    }

    /// All faults end, and enough time passes.
    pub(super) fn settle(&mut self) {
        self.link_all();
        for (a, b) in self.wires.keys().copied().collect::<Vec<_>>() {
            self.congest(a, b, false);
        }
        for shard in self.doubted.clone() {
            self.regain(shard);
        }
        for _ in 0..40 {
            self.pass(Duration::from_millis(250));
            while self.carry(0) {}
        }
    }

    /// The nodes whose sinks were told that a topic is stale.
    pub(super) fn stale(&self, topic: &Topic) -> BTreeSet<NodeId> {
        let observers = self.observers.iter().filter(|((_, of), o)| of == topic && o.is_stale());
        observers.map(|((node, _), _)| *node).collect()
    }

    /// What is wrong after everything was settled.
    pub(super) fn check_level(&self) {
        for ((node, topic), observer) in &self.observers {
            observer.check_level(*node, topic, self.logs.get(topic).map(Log::head));
        }
        assert!(self.outcomes.values().all(Option::is_some), "a publish was never answered");
    }

    /// How many watch a topic in all.
    pub(super) fn audience(&self, topic: &Topic) -> u64 {
        let of = self.sessions.iter().filter(|((_, watched), _)| watched == topic);
        of.map(|(_, watching)| watching.sessions).sum()
    }

    /// How many the sink of `node` was told that there are.
    pub(super) fn told(&self, node: NodeId, topic: &Topic) -> Option<u64> {
        self.observers[&(node, topic.clone())].audience()
    }

    /// Frames with counts that were sent and have not arrived.
    pub(super) fn counts_under_way(&self) -> usize {
        let is = |frame: &&Frame| matches!(frame, Frame::Watching { .. } | Frame::Audience { .. });
        self.wires.values().flatten().filter(is).count()
    }

    /// What is wrong with the sums after everything was settled.
    pub(super) fn check_counted(&self) {
        for topic in topics() {
            let audience = self.audience(&topic);
            let known = self.engines[&self.owner(&topic)].audience(&topic);
            assert_eq!(known, Some(audience), "the owner's sum of {topic}");
            for ((node, watched), watching) in &self.sessions {
                if *watched == topic && watching.asks {
                    let told = self.observers[&(*node, topic.clone())].audience();
                    assert_eq!(told, Some(audience), "what {node} was told of {topic}");
                }
            }
        }
    }

    /// The nodes whose sinks have everything of a topic.
    pub(super) fn level(&self, topic: &Topic) -> BTreeSet<NodeId> {
        let head = self.logs[topic].head();
        let observers = self.observers.iter().filter(|((_, of), _)| of == topic);
        observers.filter(|(_, o)| o.has(head)).map(|((node, _), _)| *node).collect()
    }

    /// Whether a publish was acknowledged.
    pub(super) fn acknowledged(&self, id: u64) -> bool {
        matches!(self.outcomes.get(&id), Some(Some(Ok(_))))
    }

    /// Whether a publish ended as unknown.
    pub(super) fn unknown(&self, id: u64) -> bool {
        matches!(self.outcomes.get(&id), Some(Some(Err(PublishError::Unknown { .. }))))
    }

    /// Copies of messages that crossed between regions while `act` was done and everything arrived.
    pub(super) fn crossings(&mut self, act: impl FnOnce(&mut World)) -> usize {
        let before = self.crossed;
        act(self);
        while self.carry(0) {}
        self.crossed - before
    }

    fn event(&mut self, node: NodeId, event: Event) {
        if matches!(event, Event::Frame(..) | Event::Claim(_)) {
            let shards = self.view.shards.ids();
            self.heard.extend(shards.map(|shard| ((node, shard), self.now)));
        }
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let engine = self.engines.get_mut(&node).expect("a node");
            let effects = engine.on(event, self.now);
            assert!(engine.flows.is_complete(), "a topic is left out of the ticks of {node}");
            for effect in effects {
                events.extend(self.perform(node, effect));
            }
        }
    }

    fn perform(&mut self, node: NodeId, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Send(to, frame) => self.send(node, to, frame),
            Effect::Live(topic, head) => self.observer(node, topic).live(head),
            Effect::Deliver(topic, messages) => self.observer(node, topic).deliver(&messages),
            Effect::Lost(topic, gap) => {
                let oldest = self.logs.get(&topic).and_then(|log| log.history.front());
                let oldest = oldest.map(|message| message.position);
                self.observer(node, topic).lost(gap, oldest);
            }
            Effect::Stale(topic) => self.observer(node, topic).stale(),
            Effect::Fresh(topic) => self.observer(node, topic).fresh(),
            Effect::Audience(topic, sessions) => {
                let now = self.now;
                self.observer(node, topic).counted(sessions, now);
            }
            Effect::Read { purpose, topic, want } => {
                let reads =
                    self.owner(&topic) == node && !self.doubted.contains(&self.shard(&topic));
                let result = match reads {
                    true => self.logs.get(&topic).unwrap_or(&Log::default()).page(want),
                    false => Err(FetchError::Unavailable("not the owner".to_owned())),
                };
                return Some(Event::Read { purpose, topic, result });
            }
            Effect::Take { from, id, publish } => {
                let outcome = match self.owner(&publish.topic) {
                    _ if self.doubted.contains(&self.shard(&publish.topic)) => {
                        Err(Refusal::Unavailable("no quorum".to_owned()).into())
                    }
                    owner if owner == node => {
                        self.commit(&publish.topic, true);
                        let position = self.logs[&publish.topic].head();
                        Ok(Placed {
                            position,
                            time: Default::default(),
                            durability: Default::default(),
                        })
                    }
                    owner => Err(Refusal::NotOwner { owner: Some(owner) }.into()),
                };
                self.send(node, from, Frame::Published { id, outcome });
            }
            Effect::Published { id, outcome } => {
                let before = self.outcomes.insert(id, Some(outcome));
                assert_eq!(before, Some(None), "publish {id} was answered twice");
            }
            Effect::Reset(peer) => panic!("{node} reset its link to {peer}"),
            Effect::Fetched { id, result } => drop(self.answers.insert(id, result)),
            Effect::Owners(_) | Effect::Clock(..) | Effect::LogTime(..) | Effect::Stopping(_) => {}
        }
        None
    }

    fn send(&mut self, from: NodeId, to: NodeId, frame: Frame) {
        if let Some(wire) = self.wires.get_mut(&(from, to)) {
            if let Frame::Deliver { messages, .. } = &frame
                && self.view.region(from) != self.view.region(to)
            {
                self.crossed += messages.len();
            }
            wire.push_back(frame);
        }
    }

    fn observer(&mut self, node: NodeId, topic: Topic) -> &mut Observer {
        self.observers.get_mut(&(node, topic)).expect("nobody watched")
    }
}

/// The topics of a test.
pub(super) fn topics() -> Vec<Topic> {
    ["a", "b", "c"].map(topic).into()
}

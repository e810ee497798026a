//! A turn of the relay: what the engine is told, and what is done with its words.
//!
//! The relay's task takes it, and so may whoever has just placed a message while nobody has it: then
//! the message comes to this node's edge without another thread, and without waking one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_core::{
    ClusterView, FetchError, Message, NodeId, Owners, Page, Placed, Publish, PublishError, Refusal,
    Topic,
};
use pushonce_proto::peer::Frame;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::crossing::Crossing;
use crate::engine::{COUNTED_PER_TICK, Effect, Engine, Event};
use crate::inbox::{Call, Waiting};
use crate::link::{self, Heard, Link, What};
use crate::outbox::{Load, Outbox};
use crate::{Clocks, Config, Sink, Source};

/// The engine, and what it acts on.
pub(crate) struct Turn {
    config: Arc<Config>,
    engine: Engine,
    view: Arc<ClusterView>,
    source: Arc<dyn Source>,
    sink: Arc<dyn Sink>,
    clocks: Arc<dyn Clocks>,
    owners: watch::Sender<Arc<Owners>>,
    reachable: watch::Sender<BTreeSet<NodeId>>,
    stopping: watch::Sender<BTreeSet<NodeId>>,
    links: BTreeMap<NodeId, Up>,
    last_link: u64,
    heard: mpsc::Sender<Heard>,
    publishing: HashMap<u64, oneshot::Sender<Result<Placed, PublishError>>>,
    fetching: HashMap<u64, oneshot::Sender<Result<Page, FetchError>>>,
    last_call: u64,
    /// Publishes of peers that the shards have taken, until the relay's task waits for them.
    taken: Vec<BoxFuture<'static, Taken>>,
    /// How many publishes of peers have no answer.
    under_way: usize,
}

/// A link that is up.
struct Up {
    number: u64,
    outbox: Arc<Outbox>,
    crossing: Crossing,
    life: CancellationToken,
    congested: bool,
    /// The peer is being stopped.
    stopping: bool,
}

/// A publish of a peer has ended. The answer belongs to one link: another may use the same id.
pub(crate) struct Taken {
    from: NodeId,
    link: u64,
    id: u64,
    outcome: Result<Placed, PublishError>,
}

/// What a turn is made of.
pub(crate) struct Parts {
    pub(crate) config: Arc<Config>,
    pub(crate) view: Arc<ClusterView>,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) clocks: Arc<dyn Clocks>,
    pub(crate) owners: watch::Sender<Arc<Owners>>,
    pub(crate) reachable: watch::Sender<BTreeSet<NodeId>>,
    pub(crate) stopping: watch::Sender<BTreeSet<NodeId>>,
    /// Where the readers of links put what they hear.
    pub(crate) heard: mpsc::Sender<Heard>,
}

impl Turn {
    pub(crate) fn new(parts: Parts) -> Turn {
        let Parts { config, view, source, sink, clocks, owners, .. } = parts;
        let Parts { reachable, stopping, heard, .. } = parts;
        let engine = Engine::new(config.as_ref().clone(), view.clone(), Instant::now().into_std());
        Turn {
            config,
            engine,
            view,
            source,
            sink,
            clocks,
            owners,
            reachable,
            stopping,
            links: BTreeMap::new(),
            last_link: 0,
            heard,
            publishing: HashMap::new(),
            fetching: HashMap::new(),
            last_call: 0,
            taken: Vec::new(),
            under_way: 0,
        }
    }

    pub(crate) fn tick(&mut self) {
        let relieved = |up: &Up| up.congested && up.outbox.load() == Load::Light;
        let relieved = self.links.iter_mut().filter(|(_, up)| relieved(up)).map(|(&node, up)| {
            up.congested = false;
            Event::Congested(node, false)
        });
        for event in relieved.collect::<Vec<_>>() {
            self.on(event);
        }
        let counts = self.sink.watching(COUNTED_PER_TICK);
        if !counts.is_empty() {
            self.on(Event::Watching(counts));
        }
        let (clock, logs) = (self.clocks.local(), self.source.log_times());
        self.on(Event::Times { clock, logs });
        self.on(Event::Tick);
    }

    /// Brings the engine an event, and does what comes of it, to the end.
    fn on(&mut self, event: Event) {
        let now = Instant::now().into_std();
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in self.engine.on(event, now) {
                match self.perform(effect) {
                    // What is read already, for others as well, must not be sent on top.
                    Some(event @ Event::Congested(..)) => events.push_front(event),
                    event => events.extend(event),
                }
            }
        }
    }

    fn perform(&mut self, effect: Effect) -> Option<Event> {
        let Turn { source, sink, clocks, owners, .. } = self;
        match effect {
            Effect::Send(to, frame) => return self.send(to, frame),
            Effect::Live(topic, head) => sink.live(&topic, head),
            Effect::Deliver(topic, messages) => sink.deliver(&topic, messages),
            Effect::Lost(topic, gap) => sink.lost(&topic, gap),
            Effect::Stale(topic) => sink.stale(&topic),
            Effect::Fresh(topic) => sink.fresh(&topic),
            Effect::Audience(topic, sessions) => sink.audience(&topic, sessions),
            Effect::Clock(node, time) => clocks.on_reading(node, time),
            Effect::Stopping(node) => self.peer_stops(node),
            Effect::LogTime(shard, time) => sink.log_time(shard, time),
            Effect::Read { purpose, topic, want } => {
                let result = source.page(&topic, want);
                return Some(Event::Read { purpose, topic, result });
            }
            Effect::Take { from, id, publish } => self.take(from, id, publish),
            Effect::Published { id, outcome } => tell(self.publishing.remove(&id), outcome),
            Effect::Fetched { id, result } => tell(self.fetching.remove(&id), result),
            Effect::Owners(known) => drop(owners.send_replace(Arc::new(known))),
            Effect::Reset(node) => return self.drop_link(node, "confused"),
        }
        None
    }

    fn send(&mut self, to: NodeId, frame: Frame) -> Option<Event> {
        let up = self.links.get_mut(&to)?;
        up.crossing.count(&frame);
        match up.outbox.push(frame) {
            Ok(Load::Heavy) if !up.congested => {
                up.congested = true;
                Some(Event::Congested(to, true))
            }
            Ok(_) => None,
            Err(_overflow) => self.drop_link(to, "overflow"),
        }
    }

    /// Resets a link: the peer comes back, and asks again from where it stands.
    fn drop_link(&mut self, node: NodeId, reason: &'static str) -> Option<Event> {
        let up = self.links.remove(&node)?;
        tracing::warn!(%node, reason, "link reset");
        metrics::counter!("pushonce_relay_link_resets_total", "reason" => reason).increment(1);
        up.outbox.close();
        up.life.cancel();
        self.links_changed();
        Some(Event::LinkDown(node))
    }

    fn links_changed(&self) {
        let nodes = self.links.keys().copied().chain([self.config.me]).collect();
        self.reachable.send_replace(nodes);
        self.stopping_changed();
        metrics::gauge!("pushonce_relay_links_up").set(self.links.len() as f64);
    }

    fn peer_stops(&mut self, node: NodeId) {
        if let Some(up) = self.links.get_mut(&node) {
            up.stopping = true;
            self.stopping_changed();
        }
    }

    fn stopping_changed(&self) {
        let stopping = self.links.iter().filter(|(_, up)| up.stopping);
        let stopping: BTreeSet<_> = stopping.map(|(&node, _)| node).collect();
        self.stopping.send_if_modified(|known| {
            let changed = *known != stopping;
            *known = stopping;
            changed
        });
    }

    /// Takes up a link. What is given back reads it, and must run.
    pub(crate) fn link_up(&mut self, mut link: Link) -> impl Future<Output = ()> + Send + use<> {
        let node = link.node;
        if self.links.contains_key(&node)
            && let Some(event) = self.drop_link(node, "replaced")
        {
            self.on(event);
        }
        self.last_link += 1;
        let number = self.last_link;
        let early = std::mem::take(&mut link.early);
        let crossing = Crossing::new(&self.view, self.config.me, node);
        let (outbox, life) = (link.outbox.clone(), link.life.clone());
        self.links
            .insert(node, Up { number, outbox, crossing, life, congested: false, stopping: false });
        let reading = link::read(number, link, self.heard.clone(), self.config.silence);
        tracing::info!(%node, "link up");
        self.links_changed();
        self.on(Event::LinkUp(node));
        early.into_iter().for_each(|frame| self.on(Event::Frame(node, frame)));
        reading
    }

    pub(crate) fn heard(&mut self, Heard { node, link, what }: Heard) {
        if self.links.get(&node).is_none_or(|up| up.number != link) {
            return;
        }
        match what {
            What::Frames(frames) => {
                frames.into_iter().for_each(|frame| self.on(Event::Frame(node, frame)));
            }
            What::Down(why) => {
                tracing::info!(%node, why, "link down");
                self.links.remove(&node).inspect(|up| up.outbox.close());
                self.links_changed();
                self.on(Event::LinkDown(node));
            }
        }
    }

    /// Hands a peer's publish to the shard. The call takes its place in the shard's queue, so the
    /// order of a link is kept, whenever the answers come.
    fn take(&mut self, from: NodeId, id: u64, publish: Publish) {
        let Some(link) = self.links.get(&from).map(|up| up.number) else { return };
        let outcome = if self.under_way < self.config.pending_max {
            self.source.publish(publish)
        } else {
            let full = Refusal::Overloaded("too many publishes of other nodes wait".to_owned());
            async move { Err(full.into()) }.boxed()
        };
        let taken = outcome.map(move |outcome| Taken { from, link, id, outcome });
        self.under_way += 1;
        self.taken.push(taken.boxed());
    }

    /// The publishes of peers that were handed to the shards since this was asked last.
    pub(crate) fn taken(&mut self) -> Vec<BoxFuture<'static, Taken>> {
        std::mem::take(&mut self.taken)
    }

    /// One of them has ended.
    pub(crate) fn answer(&mut self, Taken { from, link, id, outcome }: Taken) {
        self.under_way -= 1;
        let same = self.links.get(&from).is_some_and(|up| up.number == link);
        if same && let Some(event) = self.send(from, Frame::Published { id, outcome }) {
            self.on(event);
        }
    }

    /// Hears what the node has said.
    pub(crate) fn said(&mut self, said: Waiting) {
        for (shard, claim) in said.claims {
            self.on(claim.map_or(Event::Disclaim(shard), Event::Claim));
        }
        if said.lapsed {
            tracing::warn!("committed messages came faster than the relay took them");
            metrics::counter!("pushonce_relay_lapses_total").increment(1);
            self.on(Event::Lapsed);
        }
        self.committed(said.committed);
        for (topic, word) in said.watches {
            self.on(match word {
                Some(after) => Event::Watch { topic, after },
                None => Event::Unwatch { topic },
            });
        }
        said.calls.into_iter().for_each(|call| self.call(call));
        if said.stopping {
            self.on(Event::Stopping);
        }
    }

    pub(crate) fn committed(&mut self, messages: Vec<(Topic, Arc<Message>)>) {
        if !messages.is_empty() {
            self.on(Event::Committed(messages));
        }
    }

    fn call(&mut self, call: Call) {
        self.last_call += 1;
        let id = self.last_call;
        let event = match call {
            Call::Publish { to, publish, answer } => {
                self.publishing.insert(id, answer);
                Event::Publish { id, to, publish }
            }
            Call::Fetch { topic, want, answer } => {
                self.fetching.insert(id, answer);
                Event::Fetch { id, topic, want }
            }
            Call::Count { topics, answer } => {
                let counts = topics.iter().map(|topic| self.engine.audience(topic)).collect();
                return tell(Some(answer), counts);
            }
        };
        self.on(event);
    }

    pub(crate) fn view_changed(&mut self, view: Arc<ClusterView>) {
        self.view = view.clone();
        for (&node, up) in &mut self.links {
            up.crossing = Crossing::new(&view, self.config.me, node);
        }
        let gone = self.links.keys().copied().filter(|&node| view.is_gone(node));
        for node in gone.collect::<Vec<_>>() {
            if let Some(event) = self.drop_link(node, "gone") {
                self.on(event);
            }
        }
        self.on(Event::View(view));
    }

    /// Ends every link: the relay goes.
    pub(crate) fn close(&mut self) {
        for up in self.links.values() {
            up.outbox.close();
            up.life.cancel();
        }
    }
}

fn tell<T>(answer: Option<oneshot::Sender<T>>, what: T) {
    if let Some(answer) = answer {
        // A caller that does not wait any more needs no answer.
        let _gone = answer.send(what);
    }
}

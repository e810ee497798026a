//! The loop around the engine: brings it what happened, and does what it says.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use pushonce_core::{FetchError, NodeId, Page, Placed, Publish, PublishError, Refusal};
use pushonce_proto::peer::Frame;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::Relay;
use crate::crossing::Crossing;
use crate::dial;
use crate::engine::{COUNTED_PER_TICK, Effect, Engine, Event};
use crate::inbox::{Call, Waiting};
use crate::link::{self, Heard, Link, What};
use crate::outbox::{Load, Outbox};

/// A relay that runs.
pub(crate) struct Running {
    relay: Relay,
    engine: Engine,
    links: BTreeMap<NodeId, Up>,
    last_link: u64,
    heard: mpsc::Sender<Heard>,
    hearing: mpsc::Receiver<Heard>,
    dialled: BTreeMap<NodeId, Dialled>,
    /// Readers and diallers.
    tasks: JoinSet<()>,
    publishing: HashMap<u64, oneshot::Sender<Result<Placed, PublishError>>>,
    fetching: HashMap<u64, oneshot::Sender<Result<Page, FetchError>>>,
    last_call: u64,
    /// Publishes of peers that the shards have taken.
    taken: FuturesUnordered<BoxFuture<'static, Taken>>,
}

/// A link that is up.
struct Up {
    number: u64,
    outbox: Arc<Outbox>,
    crossing: Crossing,
    life: CancellationToken,
    congested: bool,
}

/// A peer that this node keeps a link to.
struct Dialled {
    address: String,
    task: AbortHandle,
}

/// A publish of a peer has ended. The answer belongs to one link: another may use the same id.
struct Taken {
    from: NodeId,
    link: u64,
    id: u64,
    outcome: Result<Placed, PublishError>,
}

/// Batches heard and not looked at yet, over all links. Over it readers wait, and their peers.
const HEARD_MAX: usize = 256;

impl Running {
    pub(crate) fn new(mut relay: Relay) -> Running {
        let view = relay.view.borrow_and_update().clone();
        let config = relay.config.as_ref().clone();
        let (heard, hearing) = mpsc::channel(HEARD_MAX);
        Running {
            engine: Engine::new(config, view, Instant::now().into_std()),
            relay,
            links: BTreeMap::new(),
            last_link: 0,
            heard,
            hearing,
            dialled: BTreeMap::new(),
            tasks: JoinSet::new(),
            publishing: HashMap::new(),
            fetching: HashMap::new(),
            last_call: 0,
            taken: FuturesUnordered::new(),
        }
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = interval(self.relay.config.retry_after);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut viewed = true;
        self.dial_members();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                said = self.relay.inbox.0.take() => self.said(said),
                Some(link) = self.relay.greeted.recv() => self.link_up(link),
                Some(heard) = self.hearing.recv() => self.heard(heard),
                Some(taken) = self.taken.next() => self.answer(taken),
                changed = self.relay.view.changed(), if viewed => {
                    viewed = changed.is_ok();
                    self.view_changed();
                }
                _ = tick.tick() => self.tick(),
                Some(_) = self.tasks.join_next() => {}
            }
        }
        for up in self.links.values() {
            up.outbox.close();
            up.life.cancel();
        }
        self.tasks.shutdown().await;
    }

    fn tick(&mut self) {
        let relieved = |up: &Up| up.congested && up.outbox.load() == Load::Light;
        let relieved = self.links.iter_mut().filter(|(_, up)| relieved(up)).map(|(&node, up)| {
            up.congested = false;
            Event::Congested(node, false)
        });
        for event in relieved.collect::<Vec<_>>() {
            self.on(event);
        }
        let counts = self.relay.sink.watching(COUNTED_PER_TICK);
        if !counts.is_empty() {
            self.on(Event::Watching(counts));
        }
        self.on(Event::Tick);
        self.relay.inbox.0.round();
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
        let Relay { source, sink, owners, .. } = &self.relay;
        match effect {
            Effect::Send(to, frame) => return self.send(to, frame),
            Effect::Live(topic, head) => sink.live(&topic, head),
            Effect::Deliver(topic, messages) => sink.deliver(&topic, messages),
            Effect::Lost(topic, gap) => sink.lost(&topic, gap),
            Effect::Stale(topic) => sink.stale(&topic),
            Effect::Fresh(topic) => sink.fresh(&topic),
            Effect::Audience(topic, sessions) => sink.audience(&topic, sessions),
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
        let nodes = self.links.keys().copied().chain([self.relay.config.me]).collect();
        self.relay.reachable.send_replace(nodes);
        metrics::gauge!("pushonce_relay_links_up").set(self.links.len() as f64);
    }

    fn link_up(&mut self, mut link: Link) {
        let node = link.node;
        if self.links.contains_key(&node)
            && let Some(event) = self.drop_link(node, "replaced")
        {
            self.on(event);
        }
        self.last_link += 1;
        let number = self.last_link;
        let early = std::mem::take(&mut link.early);
        let crossing = Crossing::new(&self.relay.view.borrow(), self.relay.config.me, node);
        let (outbox, life) = (link.outbox.clone(), link.life.clone());
        self.links.insert(node, Up { number, outbox, crossing, life, congested: false });
        let silence = self.relay.config.silence;
        self.tasks.spawn(link::read(number, link, self.heard.clone(), silence));
        tracing::info!(%node, "link up");
        self.links_changed();
        self.on(Event::LinkUp(node));
        early.into_iter().for_each(|frame| self.on(Event::Frame(node, frame)));
    }

    fn heard(&mut self, Heard { node, link, what }: Heard) {
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
        let outcome = if self.taken.len() < self.relay.config.pending_max {
            self.relay.source.publish(publish)
        } else {
            let full = Refusal::Overloaded("too many publishes of other nodes wait".to_owned());
            async move { Err(full.into()) }.boxed()
        };
        let taken = outcome.map(move |outcome| Taken { from, link, id, outcome });
        self.taken.push(taken.boxed());
    }

    fn answer(&mut self, Taken { from, link, id, outcome }: Taken) {
        let same = self.links.get(&from).is_some_and(|up| up.number == link);
        if same && let Some(event) = self.send(from, Frame::Published { id, outcome }) {
            self.on(event);
        }
    }

    fn said(&mut self, said: Waiting) {
        for (shard, claim) in said.claims {
            self.on(claim.map_or(Event::Disclaim(shard), Event::Claim));
        }
        if said.lapsed {
            tracing::warn!("committed messages came faster than the relay took them");
            metrics::counter!("pushonce_relay_lapses_total").increment(1);
            self.on(Event::Lapsed);
        }
        if !said.committed.is_empty() {
            self.on(Event::Committed(said.committed));
        }
        for (topic, word) in said.watches {
            self.on(match word {
                Some(after) => Event::Watch { topic, after },
                None => Event::Unwatch { topic },
            });
        }
        said.calls.into_iter().for_each(|call| self.call(call));
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

    fn view_changed(&mut self) {
        let view = self.relay.view.borrow_and_update().clone();
        let me = self.relay.config.me;
        for (&node, up) in &mut self.links {
            up.crossing = Crossing::new(&view, me, node);
        }
        let gone = self.links.keys().copied().filter(|&node| view.is_gone(node));
        for node in gone.collect::<Vec<_>>() {
            if let Some(event) = self.drop_link(node, "gone") {
                self.on(event);
            }
        }
        self.on(Event::View(view));
        self.dial_members();
    }

    /// Keeps a link to each member with a higher id, at the address it has now.
    fn dial_members(&mut self) {
        let view = self.relay.view.borrow().clone();
        let me = self.relay.config.me;
        let wanted = |node| {
            let member = view.member(node).filter(|member| member.id > me);
            member.map(|member| member.addresses.peer.as_str()).filter(|peer| !peer.is_empty())
        };
        self.dialled.retain(|&node, dialled| {
            let stays = wanted(node) == Some(dialled.address.as_str());
            if !stays {
                dialled.task.abort();
            }
            stays
        });
        for &node in view.members.keys() {
            let Some(address) = wanted(node) else { continue };
            if !self.dialled.contains_key(&node) {
                let (config, links) = (self.relay.config.clone(), self.relay.links.clone());
                let keep = dial::keep(config, node, address.to_owned(), links);
                let task = self.tasks.spawn(keep);
                self.dialled.insert(node, Dialled { address: address.to_owned(), task });
            }
        }
    }
}

fn tell<T>(answer: Option<oneshot::Sender<T>>, what: T) {
    if let Some(answer) = answer {
        // A caller that does not wait any more needs no answer.
        let _gone = answer.send(what);
    }
}

//! What a relay decides, without clock, socket or task: events in, effects out.

mod audience;
mod continuity;
mod effect;
mod fetches;
mod flow;
mod flows;
mod gossip;
mod interest;
mod links;
mod publishes;
mod recent;
mod routes;
#[cfg(test)]
pub(crate) mod testing;
mod times;
mod trust;
mod upstream;
#[cfg(test)]
mod world;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use pushonce_core::{
    Claim, ClusterView, FetchError, Message, NodeId, Page, Position, Publish, ShardId, Timestamp,
    Topic, Want, Watching,
};
use pushonce_proto::peer::Frame;

use crate::Config;
use audience::Audience;
pub(crate) use audience::COUNTED_PER_TICK;
use effect::Purpose;
pub(crate) use effect::{Effect, FRAME_BYTES};
use fetches::{Asker, Fetches};
use flow::{Flow, Origin, Stage};
use flows::Flows;
use links::Links;
use publishes::Publishes;
use routes::Routes;
use times::Times;
use trust::Trust;

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The control group committed something.
    View(Arc<ClusterView>),
    /// A link is up, its greetings exchanged.
    LinkUp(NodeId),
    /// It is not any more.
    LinkDown(NodeId),
    /// Much waits for a link, or not any more: catching up over it pauses meanwhile.
    Congested(NodeId, bool),
    /// A peer says something.
    Frame(NodeId, Frame),
    /// This node's own shards committed, in this order.
    Committed(Vec<(Topic, Arc<Message>)>),
    /// Some of what they committed was dropped on the way here.
    Lapsed,
    /// This node leads a shard.
    Claim(Claim),
    /// This node does not lead a shard, or its lead is in doubt.
    Disclaim(ShardId),
    /// The sink wants a topic.
    Watch { topic: Topic, after: Option<Position> },
    /// The sink wants it no more.
    Unwatch { topic: Topic },
    /// How many sessions the sink has, of topics where that changed.
    Watching(Vec<(Topic, Watching)>),
    /// A caller publishes at an owner elsewhere.
    Publish { id: u64, to: NodeId, publish: Publish },
    /// A caller asks for the past.
    Fetch { id: u64, topic: Topic, want: Want },
    /// The answer to `Effect::Read`.
    Read { purpose: Purpose, topic: Topic, result: Result<Page, FetchError> },
    /// What this node's clock shows, and the log times of the shards that this node owns.
    Times { clock: Timestamp, logs: Vec<(ShardId, Timestamp)> },
    /// This node is being stopped.
    Stopping,
    /// Time passed; said several times a second.
    Tick,
}

/// The state of a relay.
#[derive(Debug)]
pub(crate) struct Engine {
    config: Config,
    routes: Routes,
    links: Links,
    flows: Flows,
    /// Topics that went on since the last heartbeat.
    changed: HashSet<Topic>,
    publishes: Publishes,
    fetches: Fetches,
    trust: Trust,
    times: Times,
    audience: Audience,
    last_ticket: u64,
    /// Up to where the last beat compared topics with their history.
    audited: Audited,
    heartbeat_due: Instant,
    /// This node is being stopped.
    stopping: bool,
    effects: Vec<Effect>,
}

/// Up to where topics were compared with their history: shard by shard, in the order of their names.
#[derive(Debug)]
struct Audited {
    shard: ShardId,
    after: Option<Topic>,
}

impl Audited {
    fn up_to(shard: ShardId) -> Audited {
        Audited { shard, after: None }
    }
}

/// Topics of one shard that a beat compares: some milliseconds. 150,000 topics are gone round in two and a
/// half minutes, a few in as many beats as there are shards.
const AUDITED_PER_BEAT: usize = 1_024;

impl Engine {
    pub(crate) fn new(config: Config, view: Arc<ClusterView>, now: Instant) -> Engine {
        let mut times = Times::default();
        times.resize(view.shards.get());
        Engine {
            times,
            trust: Trust::new(view.shards.get(), now),
            audience: Audience::new(now),
            routes: Routes::new(config.me, view),
            config,
            links: Links::default(),
            flows: Flows::default(),
            changed: HashSet::new(),
            publishes: Publishes::default(),
            fetches: Fetches::default(),
            last_ticket: 0,
            audited: Audited::up_to(ShardId(0)),
            heartbeat_due: now,
            stopping: false,
            effects: Vec::new(),
        }
    }

    /// Takes what happened, and says what is to be done about it.
    pub(crate) fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::View(view) => self.see(view, now),
            Event::LinkUp(node) => self.link_up(node, now),
            Event::LinkDown(node) => self.link_down(node, now),
            Event::Congested(node, congested) => self.congested(node, congested),
            Event::Frame(from, frame) => self.frame(from, frame, now),
            Event::Committed(messages) => self.committed(messages, now),
            Event::Lapsed => self.read_again(None, now),
            Event::Claim(claim) => self.claim(claim, now),
            Event::Disclaim(shard) => self.trust.lead(shard, false),
            Event::Watch { topic, after } => self.watch(&topic, after, now),
            Event::Unwatch { topic } => self.unwatch(&topic, now),
            Event::Watching(counts) => self.watching_here(counts),
            Event::Publish { id, to, publish } => self.publish(id, to, publish, now),
            Event::Fetch { id, topic, want } => self.fetch(Asker::Caller(id), topic, want, now),
            Event::Read { purpose, topic, result } => match purpose {
                Purpose::Follow => self.read(&topic, result, now),
                Purpose::Fetch(id) => self.answered(id, result, now),
                Purpose::Audit => {
                    let head = result.map_or(Position::ZERO, |page| page.head);
                    self.audited(&topic, head, now);
                }
            },
            Event::Times { clock, logs } => self.on_times(clock, logs, now),
            Event::Stopping => self.announce_stop(),
            Event::Tick => self.tick(now),
        }
        std::mem::take(&mut self.effects)
    }

    fn frame(&mut self, from: NodeId, frame: Frame, now: Instant) {
        if !self.links.is_up(from) {
            return;
        }
        match frame {
            // The link checked it before it was up.
            Frame::Hello { .. } => {}
            Frame::Claim(claim) => self.hear(claim, from, now),
            Frame::Publish { id, publish } => self.effects.push(Effect::Take { from, id, publish }),
            Frame::Published { id, outcome } => self.published(from, id, outcome),
            Frame::Interest { number, topic, after } => {
                self.interest(from, number, topic, after, now);
            }
            Frame::Withdraw { number } => self.withdraw(from, number, now),
            Frame::Interested { number, head } => self.interested(from, number, head, now),
            Frame::Deliver { number, messages } => self.delivered(from, number, messages, now),
            Frame::Lost { number, gap } => self.told_lost(from, number, gap, now),
            Frame::Fetch { id, topic, want } => self.fetch_for(from, id, topic, want, now),
            Frame::Fetched { id, part } => self.fetched(from, id, part, now),
            Frame::Heartbeat { heads, doubts, clock, log_times } => {
                // A peer of a version that sends no clock is one whose clock is not known.
                if clock > Timestamp(0) {
                    self.effects.push(Effect::Clock(from, clock));
                }
                self.on_log_times(log_times);
                self.vouched(from, &doubts, now);
                self.heartbeat(from, heads, now);
            }
            Frame::Watching { counts } => self.watching(from, counts),
            Frame::Audience { counts } => self.audience_heard(from, counts),
            Frame::Stopping => self.effects.push(Effect::Stopping(from)),
        }
    }

    fn see(&mut self, view: Arc<ClusterView>, now: Instant) {
        self.trust.resize(view.shards.get(), now);
        self.times.resize(view.shards.get());
        self.routes.see(view);
        self.reroute(None, now);
    }

    fn link_up(&mut self, node: NodeId, now: Instant) {
        self.links.up(node);
        // All that is known, not only what is this node's: the peer may have no link to the owner.
        let claims = self.routes.owners().claims().cloned();
        self.effects.extend(claims.map(|claim| Effect::Send(node, Frame::Claim(claim))));
        // An owner that has just started waits for the clocks of the others.
        let heartbeat = self.heartbeat_for(node, Vec::new(), now);
        self.effects.extend(heartbeat.map(|frame| Effect::Send(node, frame)));
        if self.stopping {
            self.effects.push(Effect::Send(node, Frame::Stopping));
        }
        self.reroute(None, now);
    }

    fn announce_stop(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            let frames = self.links.nodes().map(|node| Effect::Send(node, Frame::Stopping));
            self.effects.extend(frames);
        }
    }

    fn link_down(&mut self, node: NodeId, now: Instant) {
        if self.links.down(node) {
            self.outlets_lose_link(node, now);
            self.publishes_lose_link(node);
            self.fetches_lose_link(node, now);
            for topic in self.topics(|flow| flow.comes_over(node)) {
                self.leave(&topic);
            }
            self.reroute(None, now);
        }
    }

    fn congested(&mut self, node: NodeId, congested: bool) {
        if let Some(link) = self.links.get_mut(node) {
            link.congested = congested;
        }
    }

    /// This node leads a shard. When that is no news, its lead was in doubt, and something may have
    /// been committed meanwhile that nobody handed over.
    fn claim(&mut self, claim: Claim, now: Instant) {
        let shard = claim.shard;
        self.trust.lead(shard, true);
        self.hear(claim, self.config.me, now);
        self.read_again(Some(shard), now);
    }

    /// An owner says so, maybe by way of another node. News go on to everyone who may not have
    /// heard: a node without a link to the owner depends on it.
    fn hear(&mut self, claim: Claim, from: NodeId, now: Instant) {
        let before = self.routes.owners().of(claim.shard);
        if !self.routes.hear(claim.clone()) {
            return;
        }
        if claim.owner == self.config.me && before != Some(claim.owner) {
            self.audience.settle(claim.shard, now + self.config.count_settle);
        }
        let me = self.config.me;
        let linked = self.links.nodes();
        let told = if from == me { linked.collect() } else { gossip::told(me, linked) };
        let others = told.into_iter().filter(|&node| node != from && node != claim.owner);
        let tell = others.map(|node| Effect::Send(node, Frame::Claim(claim.clone())));
        self.effects.extend(tell);
        self.effects.push(Effect::Owners(self.routes.owners().clone()));
        self.publishes_lose_owner(claim.shard, claim.owner, now);
        self.reroute(Some(claim.shard), now);
    }

    fn tick(&mut self, now: Instant) {
        let looked = self.flows.restless();
        self.withdraw_idle(&looked, now);
        if self.routes.forgive(now) {
            self.reroute(None, now);
        }
        let due = |flow: &Flow| matches!(flow.stage, Stage::Refused { until } if until <= now);
        for topic in &looked {
            if self.flows.get(topic).is_some_and(due) {
                self.follow(topic, now);
            }
        }
        self.serve_waiting(&looked, now);
        self.publishes_expire(now);
        self.fetches_retry(now);
        if self.heartbeat_due <= now {
            self.heartbeat_due = now + self.config.heartbeat;
            self.beat(now);
        }
        self.judge(&looked, now);
        self.flows.settle(&looked);
        self.count(now);
    }

    /// Says on every link where its topics stand, and compares the quiet topics of this node's own
    /// with their history: what was never handed over would be missed by everyone.
    fn beat(&mut self, now: Instant) {
        let changed = std::mem::take(&mut self.changed);
        let mut heads: HashMap<NodeId, Vec<(u32, Position)>> =
            self.links.nodes().map(|node| (node, Vec::new())).collect();
        for flow in changed.iter().filter_map(|topic| self.flows.get(topic)) {
            let Some(reached) = flow.reached else { continue };
            for (to, outlet) in flow.outlets.iter().filter(|(_, outlet)| outlet.is_level()) {
                if let Some(heads) = heads.get_mut(to) {
                    heads.push((outlet.number, reached));
                }
            }
        }
        for (to, heads) in heads {
            let heartbeat = self.heartbeat_for(to, heads, now);
            self.effects.extend(heartbeat.map(|frame| Effect::Send(to, frame)));
        }
        self.audit(&changed);
    }

    /// Compares the next quiet topics of this node's own with their history. The audit is the last net:
    /// all topics at once would hold up deliveries.
    fn audit(&mut self, changed: &HashSet<Topic>) {
        let Audited { shard, after } = &self.audited;
        let shard = ShardId(shard.0 % self.routes.view().shards.get());
        let topics = self.flows.of_shard(shard, after.as_ref()).take(AUDITED_PER_BEAT);
        let topics: Vec<Topic> = topics.cloned().collect();
        self.audited = match topics.last().filter(|_| topics.len() == AUDITED_PER_BEAT) {
            Some(last) => Audited { shard, after: Some(last.clone()) },
            None => Audited::up_to(ShardId(shard.0 + 1)),
        };
        let here = |flow: &Flow| flow.stage == Stage::Live(Origin::Here);
        for topic in topics {
            if !changed.contains(&topic) && self.flows.get(&topic).is_some_and(here) {
                let (purpose, want) = (Purpose::Audit, Want::Last(0));
                self.effects.push(Effect::Read { purpose, topic, want });
            }
        }
    }

    /// A number that was never used before.
    fn ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    /// The shard of a topic.
    fn shard(&self, topic: &Topic) -> ShardId {
        topic.shard(self.routes.view().shards)
    }
}

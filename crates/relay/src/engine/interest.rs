//! The ways out: who wants which topic, and bringing them to where the topic stands.

use std::time::Instant;

use pushonce_core::{NodeId, Position, Topic, Upstream, Want};
use pushonce_proto::peer::Frame;

use super::Engine;
use super::effect::{Effect, Out};
use super::fetches::Asker;
use super::flow::{Flow, Outlet, Stage, Standing};
use super::recent::Recent;

impl Engine {
    /// The sink wants a topic. Its link is the one of this node to itself.
    pub(super) fn watch(&mut self, topic: &Topic, after: Option<Position>, now: Instant) {
        self.attach(topic, self.config.me, Outlet::new(0, after), after, now);
    }

    /// The sink wants it no more.
    pub(super) fn unwatch(&mut self, topic: &Topic, now: Instant) {
        self.detach(topic, self.config.me, now);
    }

    /// A peer wants a topic.
    pub(super) fn interest(
        &mut self,
        from: NodeId,
        number: u32,
        topic: Topic,
        after: Option<Position>,
        now: Instant,
    ) {
        let shard = self.shard(&topic);
        let serves = self.routes.serves(from, shard);
        let Some(link) = self.links.get_mut(from) else { return };
        if link.heard.contains_key(&number) {
            // Two topics under one number: nothing said on this link can be trusted any more.
            return self.effects.push(Effect::Reset(from));
        }
        let room = link.heard.len() < self.config.interests_max;
        link.heard.insert(number, topic.clone());
        self.attach(&topic, from, Outlet::new(number, after), after, now);
        if !(serves && room) {
            self.turn_away(&topic, from, now);
        }
    }

    /// A peer wants it no more.
    pub(super) fn withdraw(&mut self, from: NodeId, number: u32, now: Instant) {
        let Some(link) = self.links.get_mut(from) else { return };
        if let Some(topic) = link.heard.remove(&number) {
            self.detach(&topic, from, now);
        }
    }

    /// Adds an outlet, in place of the one it had.
    fn attach(
        &mut self,
        topic: &Topic,
        to: NodeId,
        outlet: Outlet,
        after: Option<Position>,
        now: Instant,
    ) {
        self.detach(topic, to, now);
        let shard = self.shard(topic);
        // At the owner a topic begins at its head, and each outlet reads for itself what it misses;
        // elsewhere the first outlet's question is asked upstream as it is.
        let local = self.routes.of(shard) == Upstream::Local;
        let recent = Recent::new(self.config.ring_count_max, self.config.ring_bytes_max);
        let new = || Flow::new(shard, after.filter(|_| !local), recent);
        let flow = self.flows.get_or_insert(topic, new);
        flow.idle_since = None;
        flow.outlets.insert(to, outlet);
        self.audience.touch(topic);
        if flow.stage == Stage::Unrouted {
            self.follow(topic, now);
        } else {
            self.serve(topic, to, now);
        }
    }

    fn detach(&mut self, topic: &Topic, to: NodeId, now: Instant) {
        let Some(flow) = self.flows.get_mut(topic) else { return };
        let Some(outlet) = flow.outlets.remove(&to) else { return };
        self.audience.touch(topic);
        if flow.outlets.is_empty() {
            flow.idle_since = Some(now);
        }
        if let Some(link) = self.links.get_mut(to) {
            link.heard.remove(&outlet.number);
        }
    }

    /// Begins an outlet; reads first what it misses and is not at hand. Over a link that is full
    /// enough it waits.
    pub(super) fn serve(&mut self, topic: &Topic, to: NodeId, now: Instant) {
        if self.links.is_congested(to) {
            return;
        }
        let ticket = self.ticket();
        let Some(flow) = self.flows.get_mut(topic) else { return };
        let mut out = Out { me: self.config.me, topic, effects: &mut self.effects };
        self.changed.insert(topic.clone());
        if let Some(after) = flow.serve(to, &mut out) {
            if let Some(outlet) = flow.outlets.get_mut(&to) {
                outlet.standing = Standing::Reading { after, ticket };
            }
            let asker = Asker::Outlet { to, ticket };
            self.fetch(asker, topic.clone(), Want::After(after), now);
        }
    }

    /// Tells a peer that this node is not (any more) where it gets the topic from.
    fn turn_away(&mut self, topic: &Topic, to: NodeId, now: Instant) {
        let number = self.flows.get(topic).and_then(|flow| flow.outlets.get(&to)).map(|o| o.number);
        if let Some(number) = number {
            self.detach(topic, to, now);
            self.effects.push(Effect::Send(to, Frame::Interested { number, head: None }));
        }
    }

    /// Turns away all peers.
    pub(super) fn turn_away_all(&mut self, topic: &Topic, now: Instant) {
        self.turn_away_where(topic, |_, _| true, now);
    }

    /// Turns away the peers that this node does not serve (any more).
    pub(super) fn turn_away_strangers(&mut self, topic: &Topic, now: Instant) {
        let shard = self.shard(topic);
        self.turn_away_where(topic, |engine, peer| !engine.routes.serves(peer, shard), now);
    }

    fn turn_away_where(
        &mut self,
        topic: &Topic,
        stranger: impl Fn(&Engine, NodeId) -> bool,
        now: Instant,
    ) {
        let Some(flow) = self.flows.get(topic) else { return };
        let peers = flow.outlets.keys().copied().filter(|&to| to != self.config.me);
        let strangers: Vec<NodeId> = peers.filter(|&peer| stranger(self, peer)).collect();
        for peer in strangers {
            self.turn_away(topic, peer, now);
        }
    }

    /// A link broke: its outlets are gone, and what it brought comes from elsewhere, or later.
    pub(super) fn outlets_lose_link(&mut self, node: NodeId, now: Instant) {
        let touches = |flow: &Flow| flow.outlets.contains_key(&node);
        for topic in self.topics(touches) {
            self.detach(&topic, node, now);
        }
    }

    /// Forgets the topics that nobody wanted for a while.
    pub(super) fn withdraw_idle(&mut self, looked: &[Topic], now: Instant) {
        let grace = self.config.withdraw_after;
        let over = |flow: &Flow| flow.idle_since.is_some_and(|since| since + grace <= now);
        for topic in looked {
            if self.flows.get(topic).is_some_and(over) {
                self.leave(topic);
                self.flows.remove(topic);
            }
        }
    }

    /// Tries those again who wait although the topic flows: what they missed could not be read, or
    /// not be sent.
    pub(super) fn serve_waiting(&mut self, looked: &[Topic], now: Instant) {
        let live = |flow: &&Flow| matches!(flow.stage, Stage::Live(_));
        for topic in looked {
            let waiting = self.flows.get(topic).filter(live).map_or_else(Vec::new, Flow::waiting);
            waiting.into_iter().for_each(|to| self.serve(topic, to, now));
        }
    }
}

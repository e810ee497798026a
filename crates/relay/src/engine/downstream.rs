//! The downstreams of topics: registration, removal, and catching up.

use std::time::Instant;

use pushonce_core::{HistoryRange, NodeId, Position, Topic, UpstreamRoute};
use pushonce_proto::peer::PeerFrame;

use super::Engine;
use super::effect::{EngineEffect, TopicSender};
use super::fetches::FetchRequester;
use super::recent_messages::RecentMessages;
use super::topic_replication::{Downstream, DownstreamProgress, TopicReplication, UpstreamState};

impl Engine {
    /// Handles a watch of the sink, which is the downstream of this node itself.
    pub(super) fn on_watch(&mut self, topic: &Topic, after: Option<Position>, now: Instant) {
        self.add_downstream(topic, self.config.me, Downstream::new(0, after), after, now);
    }

    /// Handles the end of a watch of the sink.
    pub(super) fn on_unwatch(&mut self, topic: &Topic, now: Instant) {
        self.remove_downstream(topic, self.config.me, now);
    }

    /// Handles a peer's interest in a topic.
    pub(super) fn on_interest(
        &mut self,
        from: NodeId,
        number: u32,
        topic: Topic,
        after: Option<Position>,
        now: Instant,
    ) {
        let shard = self.shard_of(&topic);
        let may_serve = self.routes.may_serve(from, shard);
        let Some(link) = self.links.get_mut(from) else { return };
        if link.peer_interests.contains_key(&number) {
            // Two topics with one number: frames on this link are no longer unambiguous.
            return self.effects.push(EngineEffect::ResetLink(from));
        }
        let has_room = link.peer_interests.len() < self.config.interests_max;
        if !(may_serve && has_room) {
            // An earlier interest in the same topic ends as well: the peer has replaced it.
            self.remove_downstream(&topic, from, now);
            let rejected = PeerFrame::Interested { number, head: None };
            return self.effects.push(EngineEffect::Send(from, rejected));
        }
        link.peer_interests.insert(number, topic.clone());
        self.add_downstream(&topic, from, Downstream::new(number, after), after, now);
    }

    /// Handles the end of a peer's interest.
    pub(super) fn on_withdraw(&mut self, from: NodeId, number: u32, now: Instant) {
        let Some(link) = self.links.get_mut(from) else { return };
        if let Some(topic) = link.peer_interests.remove(&number) {
            self.remove_downstream(&topic, from, now);
        }
    }

    /// Adds a downstream, in place of a previous one of the same node.
    fn add_downstream(
        &mut self,
        topic: &Topic,
        to: NodeId,
        downstream: Downstream,
        after: Option<Position>,
        now: Instant,
    ) {
        self.remove_downstream(topic, to, now);
        let shard = self.shard_of(topic);
        // At the owner a topic begins at its head, and each downstream reads for itself what it misses. On
        // other nodes the request of the first downstream is sent upstream unchanged.
        let is_local = self.routes.upstream_for(shard) == UpstreamRoute::Local;
        let recent = RecentMessages::new(self.config.ring_count_max, self.config.ring_bytes_max);
        let new = || TopicReplication::new(shard, after.filter(|_| !is_local), recent);
        let replication = self.replications.get_or_insert(topic, new);
        replication.idle_since = None;
        replication.downstreams.insert(to, downstream);
        self.audience.mark_changed(topic);
        if replication.upstream_state == UpstreamState::Unrouted {
            self.follow(topic, now);
        } else {
            self.start_downstream(topic, to, now);
        }
    }

    fn remove_downstream(&mut self, topic: &Topic, to: NodeId, now: Instant) {
        let Some(replication) = self.replications.get_mut(topic) else { return };
        let Some(downstream) = replication.downstreams.remove(&to) else { return };
        self.audience.mark_changed(topic);
        if replication.downstreams.is_empty() {
            replication.idle_since = Some(now);
        }
        if let Some(link) = self.links.get_mut(to) {
            link.peer_interests.remove(&downstream.number);
        }
    }

    /// Starts a downstream, after a read of what it misses and what is not in memory. On a congested link
    /// it waits.
    pub(super) fn start_downstream(&mut self, topic: &Topic, to: NodeId, now: Instant) {
        if self.links.is_congested(to) {
            return;
        }
        let read_id = self.next_id();
        let Some(replication) = self.replications.get_mut(topic) else { return };
        let mut out = TopicSender { me: self.config.me, topic, effects: &mut self.effects };
        self.changed_topics.insert(topic.clone());
        if let Some(after) = replication.start_downstream(to, &mut out) {
            if let Some(downstream) = replication.downstreams.get_mut(&to) {
                downstream.progress = DownstreamProgress::Reading { after, read_id };
            }
            let requester = FetchRequester::Downstream { to, read_id };
            self.fetch(requester, topic.clone(), HistoryRange::After(after), now);
        }
    }

    /// Notifies a peer that this node is not, or no longer, its upstream for the topic.
    fn reject_peer(&mut self, topic: &Topic, to: NodeId, now: Instant) {
        let number = self
            .replications
            .get(topic)
            .and_then(|replication| replication.downstreams.get(&to))
            .map(|o| o.number);
        if let Some(number) = number {
            self.remove_downstream(topic, to, now);
            self.effects.push(EngineEffect::Send(to, PeerFrame::Interested { number, head: None }));
        }
    }

    /// Rejects all peers that follow the topic here.
    pub(super) fn reject_all_peers(&mut self, topic: &Topic, now: Instant) {
        self.reject_peers_where(topic, |_, _| true, now);
    }

    /// Rejects the peers that this node does not, or no longer, serve.
    pub(super) fn reject_unserved_peers(&mut self, topic: &Topic, now: Instant) {
        let shard = self.shard_of(topic);
        self.reject_peers_where(topic, |engine, peer| !engine.routes.may_serve(peer, shard), now);
    }

    fn reject_peers_where(
        &mut self,
        topic: &Topic,
        predicate: impl Fn(&Engine, NodeId) -> bool,
        now: Instant,
    ) {
        let Some(replication) = self.replications.get(topic) else { return };
        let peers = replication.downstreams.keys().copied().filter(|&to| to != self.config.me);
        let rejected: Vec<NodeId> = peers.filter(|&peer| predicate(self, peer)).collect();
        for peer in rejected {
            self.reject_peer(topic, peer, now);
        }
    }

    /// Removes the downstreams of a broken link.
    pub(super) fn downstreams_on_link_lost(&mut self, node: NodeId, now: Instant) {
        let has_downstream =
            |replication: &TopicReplication| replication.downstreams.contains_key(&node);
        for topic in self.topics_where(has_downstream) {
            self.remove_downstream(&topic, node, now);
        }
    }

    /// Removes the topics that have had no downstream for `withdraw_after`.
    pub(super) fn remove_idle_topics(&mut self, tick_topics: &[Topic], now: Instant) {
        let grace = self.config.withdraw_after;
        let is_expired = |replication: &TopicReplication| {
            replication.idle_since.is_some_and(|since| since + grace <= now)
        };
        for topic in tick_topics {
            if self.replications.get(topic).is_some_and(is_expired) {
                self.unfollow(topic);
                self.replications.remove(topic);
            }
        }
    }

    /// Retries the downstreams that wait although the topic is live, because what they missed could not be
    /// read or sent.
    pub(super) fn start_waiting_downstreams(&mut self, tick_topics: &[Topic], now: Instant) {
        let is_live = |replication: &&TopicReplication| {
            matches!(replication.upstream_state, UpstreamState::Live(_))
        };
        for topic in tick_topics {
            let waiting = self
                .replications
                .get(topic)
                .filter(is_live)
                .map_or_else(Vec::new, TopicReplication::waiting_downstreams);
            waiting.into_iter().for_each(|to| self.start_downstream(topic, to, now));
        }
    }
}

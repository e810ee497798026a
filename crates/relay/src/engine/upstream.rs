//! The upstream side of topics: requests, replies and retries.
//!
//! Failover, resume and the repair of holes use a single mechanism: ask the current upstream for everything
//! after the position that was reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_core::{
    CommitAge, CoverageMark, FetchError, Gap, HistoryPage, HistoryRange, Message, NodeId, Position,
    ShardId, Topic, UpstreamRoute,
};
use pushonce_proto::peer::PeerFrame;

use super::Engine;
use super::audience::TopicAudience;
use super::continuity::{PageReplay, adjoins};
use super::effect::{EngineEffect, ReadPurpose, TopicSender};
use super::topic_replication::{TopicReplication, UpstreamSource, UpstreamState};

impl Engine {
    /// Asks the current upstream for everything after the position that was reached.
    pub(super) fn follow(&mut self, topic: &Topic, now: Instant) {
        self.unfollow(topic);
        let Some(replication) = self.replications.get_mut(topic) else { return };
        replication.requested_at = Some(now);
        match self.routes.upstream_for(replication.shard) {
            UpstreamRoute::Local => {
                replication.upstream_state = UpstreamState::Requested(UpstreamSource::Local);
                let range = replication.reached.map_or(HistoryRange::Last(0), HistoryRange::After);
                let (purpose, topic) = (ReadPurpose::Follow, topic.clone());
                self.effects.push(EngineEffect::Read { purpose, topic, range });
            }
            UpstreamRoute::Node(node) if self.links.is_up(node) => {
                let after = replication.reached;
                let Some(number) = self.links.add_interest(node, topic) else {
                    return self.effects.push(EngineEffect::ResetLink(node));
                };
                replication.upstream_state =
                    UpstreamState::Requested(UpstreamSource::Node { node, number });
                let interest = PeerFrame::Interest { number, topic: topic.clone(), after };
                self.effects.push(EngineEffect::Send(node, interest));
            }
            // The peers that follow the topic here may have a path that this node does not have.
            UpstreamRoute::Node(_) => self.reject_all_peers(topic, now),
            UpstreamRoute::Unknown => {}
        }
    }

    /// Withdraws the interest from the previous upstream.
    pub(super) fn unfollow(&mut self, topic: &Topic) {
        let Some(replication) = self.replications.get_mut(topic) else { return };
        if let UpstreamState::Requested(source) | UpstreamState::Live(source) =
            replication.upstream_state
            && let UpstreamSource::Node { node, number } = source
            && self.links.remove_interest(node, number)
        {
            self.effects.push(EngineEffect::Send(node, PeerFrame::Withdraw { number }));
        }
        replication.upstream_state = UpstreamState::Unrouted;
        replication.audience = TopicAudience::default();
        self.audience.mark_changed(topic);
    }

    /// Repairs a hole: asks again from the position that was reached and delivers nothing before the reply. A
    /// source that repeats the same hole at once is asked again after a delay.
    fn repair(&mut self, topic: &Topic, now: Instant) {
        CoverageMark::UpstreamRepaired.reach();
        let retry_after = self.config.retry_after;
        let Some(replication) = self.replications.get(topic) else { return };
        match replication
            .requested_at
            .map(|requested_at| requested_at + retry_after)
            .filter(|&until| until > now)
        {
            None => self.follow(topic, now),
            Some(until) => {
                self.unfollow(topic);
                self.back_off(topic, until);
            }
        }
    }

    fn back_off(&mut self, topic: &Topic, until: Instant) {
        if let Some(replication) = self.replications.get_mut(topic) {
            replication.upstream_state = UpstreamState::Backoff { until };
        }
    }

    /// Handles a peer's reply to an interest: the position where it begins, or a rejection.
    pub(super) fn on_interested(
        &mut self,
        from: NodeId,
        number: u32,
        head: Option<Position>,
        now: Instant,
    ) {
        let Some(topic) = self.links.own_interest(from, number).cloned() else { return };
        if let Some(head) = head {
            self.confirm_owner(from, self.shard_of(&topic), now);
            return self.go_live(&topic, head, now);
        }
        self.links.remove_interest(from, number);
        let Some(replication) = self.replications.get(&topic) else { return };
        let shard = replication.shard;
        self.back_off(&topic, now + self.config.retry_after);
        if self.routes.avoid(shard, from, now + self.config.retry_after * AVOID_RETRY_PERIODS) {
            self.reroute(Some(shard), now);
        }
    }

    fn go_live(&mut self, topic: &Topic, head: Position, now: Instant) {
        let Some(replication) = self.replications.get_mut(topic) else { return };
        replication.go_live(
            head,
            &mut TopicSender { me: self.config.me, topic, effects: &mut self.effects },
        );
        self.audience.mark_changed(topic);
        for to in replication.waiting_downstreams() {
            self.start_downstream(topic, to, now);
        }
    }

    /// Handles a delivery from a peer.
    pub(super) fn on_deliver(
        &mut self,
        from: NodeId,
        number: u32,
        messages: Vec<Arc<Message>>,
        age: Option<Duration>,
        now: Instant,
    ) {
        let Some(topic) = self.links.own_interest(from, number).cloned() else { return };
        let age = age.and_then(|age| self.age_on_arrival(from, age));
        self.forward(&topic, messages, age, now);
    }

    /// Forwards messages of one topic from the current upstream. `age` is `None` if they were read from
    /// history.
    fn forward(
        &mut self,
        topic: &Topic,
        messages: Vec<Arc<Message>>,
        age: Option<CommitAge>,
        now: Instant,
    ) {
        let Some(replication) = self.replications.get_mut_no_tick(topic) else { return };
        if !matches!(replication.upstream_state, UpstreamState::Live(_)) {
            return self.repair(topic, now);
        }
        let mut out = TopicSender { me: self.config.me, topic, effects: &mut self.effects };
        let has_hole = replication.forward(messages, age, &mut out);
        self.changed_topics.insert(topic.clone());
        if has_hole {
            self.repair(topic, now);
        }
    }

    /// Handles a gap reported by a peer.
    pub(super) fn on_gap(&mut self, from: NodeId, number: u32, gap: Gap, now: Instant) {
        let Some(topic) = self.links.own_interest(from, number).cloned() else { return };
        let Some(replication) = self.replications.get(&topic) else { return };
        match replication.reached {
            Some(reached) if gap.to <= reached => {}
            Some(reached) if adjoins(&gap, reached) => self.apply_gap(&topic, gap),
            _ => self.repair(&topic, now),
        }
    }

    fn apply_gap(&mut self, topic: &Topic, gap: Gap) {
        let Some(replication) = self.replications.get_mut_no_tick(topic) else { return };
        replication.apply_gap(
            gap,
            &mut TopicSender { me: self.config.me, topic, effects: &mut self.effects },
        );
        self.changed_topics.insert(topic.clone());
    }

    /// Handles the heads in a peer's heartbeat. Frames arrive in order, so a topic that is behind its head
    /// misses something, and without this check the hole could remain for long.
    pub(super) fn on_heartbeat(&mut self, from: NodeId, heads: Vec<(u32, Position)>, now: Instant) {
        for (number, head) in heads {
            let Some(topic) = self.links.own_interest(from, number).cloned() else { continue };
            let is_behind = |replication: &TopicReplication| {
                replication.reached.is_some_and(|reached| reached < head)
            };
            if self.replications.get(&topic).is_some_and(is_behind) {
                self.repair(&topic, now);
            }
        }
    }

    /// Handles the commits of this node's own shards. A message that arrives before the topic's history was
    /// read is in the history; one of a topic that another node owns now arrives from there.
    pub(super) fn on_committed(
        &mut self,
        messages: Vec<(Topic, Arc<Message>)>,
        since: Instant,
        now: Instant,
    ) {
        let age = CommitAge { elapsed: now.saturating_duration_since(since), is_local: true };
        let mut batches: BTreeMap<Topic, Vec<Arc<Message>>> = BTreeMap::new();
        let is_local = |replication: &TopicReplication| {
            replication.upstream_state == UpstreamState::Live(UpstreamSource::Local)
        };
        for (topic, message) in messages {
            if self.replications.get(&topic).is_some_and(is_local) {
                batches.entry(topic).or_default().push(message);
            }
        }
        for (topic, batch) in batches {
            self.forward(&topic, batch, Some(age), now);
        }
    }

    /// Handles the history that was read to follow a topic of this node's own.
    pub(super) fn on_history_read(
        &mut self,
        topic: &Topic,
        result: Result<HistoryPage, FetchError>,
        now: Instant,
    ) {
        let Some(replication) = self.replications.get(topic) else { return };
        if replication.upstream_state != UpstreamState::Requested(UpstreamSource::Local) {
            return;
        }
        let page = match result {
            Ok(page) => page,
            Err(FetchError::FuturePosition { head, .. }) => {
                empty_page(replication.reached.unwrap_or(head))
            }
            Err(FetchError::Unavailable(_)) => {
                return self.back_off(topic, now + self.config.retry_after);
            }
        };
        let after = replication.reached.unwrap_or(page.head);
        self.go_live(topic, after, now);
        let replay = PageReplay::from_page(after, page);
        if let Some(gap) = replay.gap {
            self.apply_gap(topic, gap);
        }
        if !replay.messages.is_empty() {
            self.forward(topic, replay.messages, None, now);
        }
    }

    /// Compares the head of a topic's history with the position that was forwarded.
    pub(super) fn on_audit_result(&mut self, topic: &Topic, head: Position, now: Instant) {
        let is_behind = |replication: &TopicReplication| {
            replication.upstream_state == UpstreamState::Live(UpstreamSource::Local)
                && replication.reached.is_some_and(|reached| reached < head)
        };
        if self.replications.get(topic).is_some_and(is_behind) {
            self.repair(topic, now);
        }
    }

    /// Reads topics of this node's own again that were purged or deleted: every subscriber gets the gap that history
    /// reports.
    pub(super) fn on_removed(&mut self, topics: &BTreeSet<Topic>, now: Instant) {
        for topic in topics {
            let live = UpstreamState::Live(UpstreamSource::Local);
            if self.replications.get(topic).is_some_and(|it| it.upstream_state == live) {
                self.follow(topic, now);
            }
        }
    }

    /// Reads the topics of this node's own again from the position that was reached: of `shard`, or of all
    /// shards.
    pub(super) fn refollow_local(&mut self, shard: Option<ShardId>, now: Instant) {
        let is_local = |replication: &TopicReplication| {
            replication.upstream_state == UpstreamState::Live(UpstreamSource::Local)
                && shard.is_none_or(|shard| shard == replication.shard)
        };
        for topic in self.topics_where(is_local) {
            self.follow(&topic, now);
        }
    }

    /// Selects the upstream of one shard, or of all, again and moves the affected topics to it.
    pub(super) fn reroute(&mut self, only: Option<ShardId>, now: Instant) {
        self.routes.recompute(only, |node| self.links.is_up(node));
        let me = self.config.me;
        // Only the affected topics are sorted: a link change affects few of 150,000 quiet topics.
        let is_due = |replication: &TopicReplication| {
            only.is_none_or(|only| only == replication.shard)
                && (replication.has_peer_downstreams(me)
                    || !replication.matches_route(self.routes.upstream_for(replication.shard)))
        };
        for topic in self.topics_where(is_due) {
            self.reject_unserved_peers(&topic, now);
            let Some(replication) = self.replications.get(&topic) else { continue };
            if !replication.matches_route(self.routes.upstream_for(replication.shard)) {
                self.follow(&topic, now);
            }
        }
        self.retry_fetches(now);
    }

    /// The topics whose replication matches `predicate`, in a deterministic order. Visits all topics: for
    /// rare events.
    pub(super) fn topics_where(&self, predicate: impl Fn(&TopicReplication) -> bool) -> Vec<Topic> {
        let mut topics: Vec<Topic> = self
            .replications
            .iter()
            .filter(|(_, replication)| predicate(replication))
            .map(|(topic, _)| topic.clone())
            .collect();
        topics.sort_unstable();
        topics
    }
}

/// The page that replaces an answer which does not know the position `reached`: the answering node has
/// nothing newer, and the next messages are of another epoch.
pub(super) fn empty_page(reached: Position) -> HistoryPage {
    HistoryPage { messages: Vec::new(), head: reached, gap: None }
}

/// Number of retry periods for which a head without a path to the owner is avoided: long enough that catching
/// up with another head pays off, short enough that messages enter the region twice only briefly.
const AVOID_RETRY_PERIODS: u32 = 5;

//! The decisions of a relay as a pure state machine: events in, effects out; no clock, socket or task.

mod audience;
mod claims;
mod continuity;
mod downstream;
mod effect;
mod fetches;
mod freshness;
#[cfg(test)]
mod fuzz;
mod links;
mod ownership;
mod publishes;
mod recent_messages;
mod replication_table;
mod round_trip;
mod routes;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod testing;
mod time_tracker;
mod topic_replication;
mod upstream;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_core::{
    ClusterView, FetchError, HistoryPage, HistoryRange, Message, NodeId, OwnershipClaim, Position,
    Publish, ShardId, SubscriberCount, Term, Timestamp, Topic,
};
use pushonce_proto::peer::PeerFrame;

use crate::Config;
use audience::AudienceCounter;
pub(crate) use audience::COUNT_TOPICS_PER_TICK;
use claims::ClaimTable;
use effect::ReadPurpose;
pub(crate) use effect::{EngineEffect, FRAME_BYTES_MAX};
use fetches::{FetchRequester, PendingFetches};
use freshness::Freshness;
use links::LinkTable;
use ownership::ClaimDisputes;
use publishes::PendingPublishes;
use replication_table::ReplicationTable;
use routes::RoutingTable;
use time_tracker::TimeTracker;
use topic_replication::{TopicReplication, UpstreamSource, UpstreamState};

/// An event that the engine handles.
#[derive(Debug)]
pub(crate) enum EngineEvent {
    /// The control group committed a new cluster view.
    View(Arc<ClusterView>),
    /// A link is up; its hellos were exchanged.
    LinkUp(NodeId),
    /// The link to a node went down.
    LinkDown(NodeId),
    /// The load of a link became heavy (`true`) or light. While it is heavy, catching up over it pauses.
    Congested(NodeId, bool),
    /// A frame arrived from a peer.
    Frame(NodeId, PeerFrame),
    /// This node's own shards committed these messages, in this order; the oldest at `since`.
    Committed { messages: Vec<(Topic, Arc<Message>)>, since: Instant },
    /// Operators purged or deleted these topics of this node's own shards.
    Removed(BTreeSet<Topic>),
    /// Some committed messages were dropped before they reached the engine.
    CommittedDropped,
    /// This node leads a shard.
    Claim(OwnershipClaim),
    /// This node does not lead a shard, or its leadership is in doubt.
    ClaimRevoked(ShardId),
    /// The replica of this node is a voter of a shard and follows this leader; `None`: it follows none, or is no
    /// voter.
    LeaderObserved(ShardId, Option<(NodeId, Term)>),
    /// The sink subscribes to a topic.
    Watch { topic: Topic, after: Option<Position> },
    /// The sink unsubscribes from a topic.
    Unwatch { topic: Topic },
    /// The session counts of the sink, for topics whose count changed.
    SubscriberCounts(Vec<(Topic, SubscriberCount)>),
    /// A caller publishes through an owner on another node.
    Publish { id: u64, owner: NodeId, publish: Publish },
    /// A caller requests history.
    Fetch { id: u64, topic: Topic, range: HistoryRange },
    /// The result of [`EngineEffect::Read`].
    Read { purpose: ReadPurpose, topic: Topic, result: Result<HistoryPage, FetchError> },
    /// The time of this node's clock, and the log times of the shards that this node leads with a lease now.
    Times { clock: Timestamp, log_times: Vec<(ShardId, Timestamp)> },
    /// The machine was suspended for this time, which no [`Instant`] counts.
    Suspended(Duration),
    /// This node is being stopped.
    Stopping,
    /// Time passed; sent several times a second.
    Tick,
}

/// The state of a relay.
#[derive(Debug)]
pub(crate) struct Engine {
    config: Config,
    routes: RoutingTable,
    claims: ClaimTable,
    disputes: ClaimDisputes,
    links: LinkTable,
    replications: ReplicationTable,
    /// Topics that advanced since the last heartbeat.
    changed_topics: HashSet<Topic>,
    publishes: PendingPublishes,
    fetches: PendingFetches,
    freshness: Freshness,
    times: TimeTracker,
    audience: AudienceCounter,
    last_id: u64,
    /// Position of the audit: topics up to here were compared with their history.
    audit_cursor: AuditCursor,
    heartbeat_due: Instant,
    /// This node is being stopped.
    stopping: bool,
    effects: Vec<EngineEffect>,
}

/// Position of the audit, which goes shard by shard in the order of topic names.
#[derive(Debug)]
struct AuditCursor {
    shard: ShardId,
    after: Option<Topic>,
}

impl AuditCursor {
    fn start_of(shard: ShardId) -> AuditCursor {
        AuditCursor { shard, after: None }
    }
}

/// Maximum topics of one shard that a heartbeat audits; they take some milliseconds. An audit of 150,000
/// topics takes two and a half minutes, one of a few topics as many heartbeats as there are shards.
const AUDIT_TOPICS_PER_HEARTBEAT: usize = 1_024;

impl Engine {
    pub(crate) fn new(config: Config, view: Arc<ClusterView>, now: Instant) -> Engine {
        let mut times = TimeTracker::default();
        times.resize(view.shards.get());
        Engine {
            times,
            freshness: Freshness::new(view.shards.get(), now),
            audience: AudienceCounter::new(now),
            routes: RoutingTable::new(config.me, view),
            claims: ClaimTable::default(),
            disputes: ClaimDisputes::new(now),
            config,
            links: LinkTable::default(),
            replications: ReplicationTable::default(),
            changed_topics: HashSet::new(),
            publishes: PendingPublishes::default(),
            fetches: PendingFetches::default(),
            last_id: 0,
            audit_cursor: AuditCursor::start_of(ShardId(0)),
            heartbeat_due: now,
            stopping: false,
            effects: Vec::new(),
        }
    }

    /// Handles an event and returns the effects to perform, in order.
    pub(crate) fn handle(&mut self, event: EngineEvent, now: Instant) -> Vec<EngineEffect> {
        match event {
            EngineEvent::View(view) => self.apply_view(view, now),
            EngineEvent::LinkUp(node) => self.on_link_up(node, now),
            EngineEvent::LinkDown(node) => self.on_link_down(node, now),
            EngineEvent::Congested(node, congested) => self.set_congested(node, congested),
            EngineEvent::Frame(from, frame) => self.on_frame(from, frame, now),
            EngineEvent::Committed { messages, since } => self.on_committed(messages, since, now),
            EngineEvent::Removed(topics) => self.on_removed(&topics, now),
            EngineEvent::CommittedDropped => self.refollow_local(None, now),
            EngineEvent::Claim(claim) => self.on_local_claim(claim, now),
            EngineEvent::ClaimRevoked(shard) => self.on_claim_revoked(shard, now),
            EngineEvent::LeaderObserved(shard, leader) => {
                self.on_leader_observed(shard, leader, now);
            }
            EngineEvent::Watch { topic, after } => self.on_watch(&topic, after, now),
            EngineEvent::Unwatch { topic } => self.on_unwatch(&topic, now),
            EngineEvent::SubscriberCounts(counts) => self.on_local_counts(counts),
            EngineEvent::Publish { id, owner, publish } => self.publish(id, owner, publish, now),
            EngineEvent::Fetch { id, topic, range } => {
                self.fetch(FetchRequester::Caller(id), topic, range, now)
            }
            EngineEvent::Read { purpose, topic, result } => match purpose {
                ReadPurpose::Follow => self.on_history_read(&topic, result, now),
                ReadPurpose::Fetch(id) => self.on_fetch_result(id, result, now),
                ReadPurpose::Audit => {
                    let head = result.map_or(Position::ZERO, |page| page.head);
                    self.on_audit_result(&topic, head, now);
                }
            },
            EngineEvent::Times { clock, log_times } => self.on_times(clock, log_times, now),
            EngineEvent::Stopping => self.announce_stop(),
            EngineEvent::Suspended(time) => self.freshness.on_suspended(time),
            EngineEvent::Tick => self.on_tick(now),
        }
        std::mem::take(&mut self.effects)
    }

    fn on_frame(&mut self, from: NodeId, frame: PeerFrame, now: Instant) {
        if !self.links.is_up(from) {
            return;
        }
        match frame {
            PeerFrame::Claim(claim) => self.on_claim(claim, from, now),
            PeerFrame::ClaimRefuted { shard, owner, term } => {
                self.on_claim_refuted(from, shard, owner, term, now);
            }
            PeerFrame::Publish { id, publish } => {
                self.effects.push(EngineEffect::SubmitPublish { from, id, publish })
            }
            PeerFrame::Published { id, outcome } => self.on_published(from, id, outcome),
            PeerFrame::Interest { number, topic, after } => {
                self.on_interest(from, number, topic, after, now);
            }
            PeerFrame::Withdraw { number } => self.on_withdraw(from, number, now),
            PeerFrame::Interested { number, head } => self.on_interested(from, number, head, now),
            PeerFrame::Deliver { number, messages, age } => {
                self.on_deliver(from, number, messages, age, now);
            }
            PeerFrame::Lost { number, gap } => self.on_gap(from, number, gap, now),
            PeerFrame::Fetch { id, topic, range } => self.on_fetch(from, id, topic, range, now),
            PeerFrame::Fetched { id, part } => self.on_fetched(from, id, part, now),
            PeerFrame::Heartbeat { heads, stale_shards, clock, log_times, timing } => {
                self.on_heartbeat_timing(from, timing, now);
                // A peer of a version without clocks in heartbeats sends 0.
                if clock > Timestamp(0) {
                    self.effects.push(EngineEffect::PeerClock(from, clock));
                }
                self.on_peer_log_times(from, log_times);
                self.on_stale_shards(from, &stale_shards, now);
                self.on_heartbeat(from, heads, now);
            }
            PeerFrame::SubscriberCounts { counts } => self.on_peer_counts(from, counts),
            PeerFrame::Audience { counts } => self.on_audience(from, counts),
            PeerFrame::Stopping => self.effects.push(EngineEffect::PeerStopping(from)),
        }
    }

    fn apply_view(&mut self, view: Arc<ClusterView>, now: Instant) {
        self.freshness.resize(view.shards.get(), now);
        self.times.resize(view.shards.get());
        self.routes.apply_view(view);
        self.reroute(None, now);
    }

    fn on_link_up(&mut self, node: NodeId, now: Instant) {
        self.links.insert(node, now);
        // Also those that this node vouches for: the peer may have no link to the owner.
        let claims = self.claims.announced_by(self.config.me).cloned();
        self.effects.extend(claims.map(|claim| EngineEffect::Send(node, PeerFrame::Claim(claim))));
        // A newly started owner waits for the clocks of its peers.
        let heartbeat = self.heartbeat_for(node, Vec::new(), now);
        self.effects.extend(heartbeat.map(|frame| EngineEffect::Send(node, frame)));
        if self.stopping {
            self.effects.push(EngineEffect::Send(node, PeerFrame::Stopping));
        }
        self.reroute(None, now);
    }

    fn announce_stop(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            let frames =
                self.links.nodes().map(|node| EngineEffect::Send(node, PeerFrame::Stopping));
            self.effects.extend(frames);
        }
    }

    fn on_link_down(&mut self, node: NodeId, now: Instant) {
        if self.links.remove(node) {
            self.downstreams_on_link_lost(node, now);
            self.publishes_on_link_lost(node);
            self.fetches_on_link_lost(node, now);
            for topic in self.topics_where(|replication| replication.uses_link(node)) {
                self.unfollow(&topic);
            }
            self.reroute(None, now);
        }
    }

    fn set_congested(&mut self, node: NodeId, congested: bool) {
        if let Some(link) = self.links.get_mut(node) {
            link.congested = congested;
        }
    }

    fn on_tick(&mut self, now: Instant) {
        let tick_topics = self.replications.topics_needing_tick();
        self.remove_idle_topics(&tick_topics, now);
        if self.routes.expire_avoided(now) {
            self.reroute(None, now);
        }
        let is_due = |replication: &TopicReplication| matches!(replication.upstream_state, UpstreamState::Backoff { until } if until <= now);
        for topic in &tick_topics {
            if self.replications.get(topic).is_some_and(is_due) {
                self.follow(topic, now);
            }
        }
        self.start_waiting_downstreams(&tick_topics, now);
        self.resolve_disputes(now);
        self.repeat_claims(now);
        self.expire_publishes(now);
        self.retry_fetches(now);
        if self.heartbeat_due <= now {
            self.heartbeat_due = now + self.config.heartbeat_interval;
            self.send_heartbeats(now);
        }
        self.evaluate_freshness(&tick_topics, now);
        self.replications.clear_settled(&tick_topics);
        self.report_counts(now);
    }

    /// Sends the heads of the changed topics on every link, and audits topics that this node owns: a message
    /// that was never handed over would be missed by every subscriber.
    fn send_heartbeats(&mut self, now: Instant) {
        let changed_topics = std::mem::take(&mut self.changed_topics);
        let mut heads: HashMap<NodeId, Vec<(u32, Position)>> =
            self.links.nodes().map(|node| (node, Vec::new())).collect();
        for replication in changed_topics.iter().filter_map(|topic| self.replications.get(topic)) {
            let Some(reached) = replication.reached else { continue };
            for (to, downstream) in
                replication.downstreams.iter().filter(|(_, downstream)| downstream.is_in_sync())
            {
                if let Some(heads) = heads.get_mut(to) {
                    heads.push((downstream.number, reached));
                }
            }
        }
        for (to, heads) in heads {
            let heartbeat = self.heartbeat_for(to, heads, now);
            self.effects.extend(heartbeat.map(|frame| EngineEffect::Send(to, frame)));
        }
        self.audit_next_topics(&changed_topics);
    }

    /// Audits the next owned topics that did not change. The audit is the last safety net, and auditing all
    /// topics at once would delay deliveries.
    fn audit_next_topics(&mut self, changed_topics: &HashSet<Topic>) {
        let AuditCursor { shard, after } = &self.audit_cursor;
        let shard = ShardId(shard.0 % self.routes.view().shards.get());
        let topics = self
            .replications
            .topics_in_shard(shard, after.as_ref())
            .take(AUDIT_TOPICS_PER_HEARTBEAT);
        let topics: Vec<Topic> = topics.cloned().collect();
        self.audit_cursor =
            match topics.last().filter(|_| topics.len() == AUDIT_TOPICS_PER_HEARTBEAT) {
                Some(last) => AuditCursor { shard, after: Some(last.clone()) },
                None => AuditCursor::start_of(ShardId(shard.0 + 1)),
            };
        let is_local = |replication: &TopicReplication| {
            replication.upstream_state == UpstreamState::Live(UpstreamSource::Local)
        };
        for topic in topics {
            if !changed_topics.contains(&topic)
                && self.replications.get(&topic).is_some_and(is_local)
            {
                let (purpose, range) = (ReadPurpose::Audit, HistoryRange::Last(0));
                self.effects.push(EngineEffect::Read { purpose, topic, range });
            }
        }
    }

    /// The shards of which this node cannot confirm that it has every message, for longer than a failover takes.
    pub(crate) fn stale_shards_here(&self, now: Instant) -> BTreeSet<ShardId> {
        let shards = self.routes.view().shards.ids();
        let is_stale = |shard: &ShardId| self.freshness.age(*shard, now) >= self.config.stale_after;
        shards.filter(is_stale).collect()
    }

    /// Returns an id that was not used before.
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The shard of a topic.
    fn shard_of(&self, topic: &Topic) -> ShardId {
        topic.shard(self.routes.view().shards)
    }
}

//! What a relay decides, without clock, socket or task: events in, effects out.

mod audience;
mod continuity;
mod downstream;
mod effect;
mod fetches;
mod freshness;
mod gossip;
mod links;
mod publishes;
mod recent_messages;
mod replication_table;
mod routes;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod testing;
mod time_tracker;
mod topic_replication;
mod upstream;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use pushonce_core::{
    ClusterView, FetchError, HistoryPage, HistoryRange, Message, NodeId, OwnershipClaim, Position,
    Publish, ShardId, SubscriberCount, Timestamp, Topic,
};
use pushonce_proto::peer::PeerFrame;

use crate::Config;
use audience::AudienceCounter;
pub(crate) use audience::COUNT_TOPICS_PER_TICK;
use effect::ReadPurpose;
pub(crate) use effect::{EngineEffect, FRAME_BYTES_MAX};
use fetches::{FetchRequester, PendingFetches};
use freshness::Freshness;
use links::LinkTable;
use publishes::PendingPublishes;
use replication_table::ReplicationTable;
use routes::RoutingTable;
use time_tracker::TimeTracker;
use topic_replication::{TopicReplication, UpstreamSource, UpstreamState};

/// What happened.
#[derive(Debug)]
pub(crate) enum EngineEvent {
    /// The control group committed something.
    View(Arc<ClusterView>),
    /// A link is up, its greetings exchanged.
    LinkUp(NodeId),
    /// It is not any more.
    LinkDown(NodeId),
    /// Much waits for a link, or not any more: catching up over it pauses meanwhile.
    Congested(NodeId, bool),
    /// A peer says something.
    Frame(NodeId, PeerFrame),
    /// This node's own shards committed, in this order.
    Committed(Vec<(Topic, Arc<Message>)>),
    /// Some of what they committed was dropped on the way here.
    CommittedDropped,
    /// This node leads a shard.
    Claim(OwnershipClaim),
    /// This node does not lead a shard, or its lead is in doubt.
    ClaimRevoked(ShardId),
    /// The sink wants a topic.
    Watch { topic: Topic, after: Option<Position> },
    /// The sink wants it no more.
    Unwatch { topic: Topic },
    /// How many sessions the sink has, of topics where that changed.
    SubscriberCounts(Vec<(Topic, SubscriberCount)>),
    /// A caller publishes at an owner elsewhere.
    Publish { id: u64, owner: NodeId, publish: Publish },
    /// A caller asks for the past.
    Fetch { id: u64, topic: Topic, range: HistoryRange },
    /// The answer to `EngineEffect::StreamRead`.
    Read { purpose: ReadPurpose, topic: Topic, result: Result<HistoryPage, FetchError> },
    /// What this node's clock shows, and the log times of the shards that this node owns.
    Times { clock: Timestamp, log_times: Vec<(ShardId, Timestamp)> },
    /// This node is being stopped.
    Stopping,
    /// Time passed; said several times a second.
    Tick,
}

/// The state of a relay.
#[derive(Debug)]
pub(crate) struct Engine {
    config: Config,
    routes: RoutingTable,
    links: LinkTable,
    replications: ReplicationTable,
    /// Topics that went on since the last heartbeat.
    changed_topics: HashSet<Topic>,
    publishes: PendingPublishes,
    fetches: PendingFetches,
    freshness: Freshness,
    times: TimeTracker,
    audience: AudienceCounter,
    last_id: u64,
    /// Up to where the last beat compared topics with their history.
    audit_cursor: AuditCursor,
    heartbeat_due: Instant,
    /// This node is being stopped.
    stopping: bool,
    effects: Vec<EngineEffect>,
}

/// Up to where topics were compared with their history: shard by shard, in the order of their names.
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

/// Topics of one shard that a beat compares: some milliseconds. 150,000 topics are gone round in two and a
/// half minutes, a few in as many beats as there are shards.
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

    /// Takes what happened, and says what is to be done about it.
    pub(crate) fn handle(&mut self, event: EngineEvent, now: Instant) -> Vec<EngineEffect> {
        match event {
            EngineEvent::View(view) => self.apply_view(view, now),
            EngineEvent::LinkUp(node) => self.on_link_up(node, now),
            EngineEvent::LinkDown(node) => self.on_link_down(node, now),
            EngineEvent::Congested(node, congested) => self.set_congested(node, congested),
            EngineEvent::Frame(from, frame) => self.on_frame(from, frame, now),
            EngineEvent::Committed(messages) => self.on_committed(messages, now),
            EngineEvent::CommittedDropped => self.refollow_local(None, now),
            EngineEvent::Claim(claim) => self.on_local_claim(claim, now),
            EngineEvent::ClaimRevoked(shard) => self.freshness.set_leased(shard, false),
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
            EngineEvent::Tick => self.on_tick(now),
        }
        std::mem::take(&mut self.effects)
    }

    fn on_frame(&mut self, from: NodeId, frame: PeerFrame, now: Instant) {
        if !self.links.is_up(from) {
            return;
        }
        match frame {
            // The link checked it before it was up.
            PeerFrame::Hello { .. } => {}
            PeerFrame::Claim(claim) => self.on_claim(claim, from, now),
            PeerFrame::Publish { id, publish } => {
                self.effects.push(EngineEffect::SubmitPublish { from, id, publish })
            }
            PeerFrame::Published { id, outcome } => self.on_published(from, id, outcome),
            PeerFrame::Interest { number, topic, after } => {
                self.on_interest(from, number, topic, after, now);
            }
            PeerFrame::Withdraw { number } => self.on_withdraw(from, number, now),
            PeerFrame::Interested { number, head } => self.on_interested(from, number, head, now),
            PeerFrame::Deliver { number, messages } => self.on_deliver(from, number, messages, now),
            PeerFrame::Lost { number, gap } => self.on_gap(from, number, gap, now),
            PeerFrame::Fetch { id, topic, range } => self.on_fetch(from, id, topic, range, now),
            PeerFrame::Fetched { id, part } => self.on_fetched(from, id, part, now),
            PeerFrame::Heartbeat { heads, stale_shards, clock, log_times } => {
                // A peer of a version that sends no clock is one whose clock is not known.
                if clock > Timestamp(0) {
                    self.effects.push(EngineEffect::PeerClock(from, clock));
                }
                self.on_log_times(log_times);
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
        self.links.insert(node);
        // All that is known, not only what is this node's: the peer may have no link to the owner.
        let claims = self.routes.owners().claims().cloned();
        self.effects.extend(claims.map(|claim| EngineEffect::Send(node, PeerFrame::Claim(claim))));
        // An owner that has just started waits for the clocks of the others.
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

    /// This node leads a shard. When that is no news, its lead was in doubt, and something may have
    /// been committed meanwhile that nobody handed over.
    fn on_local_claim(&mut self, claim: OwnershipClaim, now: Instant) {
        let shard = claim.shard;
        self.freshness.set_leased(shard, true);
        self.on_claim(claim, self.config.me, now);
        self.refollow_local(Some(shard), now);
    }

    /// An owner says so, maybe by way of another node. News go on to everyone who may not have
    /// heard: a node without a link to the owner depends on it.
    fn on_claim(&mut self, claim: OwnershipClaim, from: NodeId, now: Instant) {
        let previous_owner = self.routes.owners().owner_of(claim.shard);
        if !self.routes.apply_claim(claim.clone()) {
            return;
        }
        if claim.owner == self.config.me && previous_owner != Some(claim.owner) {
            self.audience.start_settling(claim.shard, now + self.config.count_settle_delay);
        }
        let me = self.config.me;
        let linked = self.links.nodes();
        let targets =
            if from == me { linked.collect() } else { gossip::gossip_targets(me, linked) };
        let others = targets.into_iter().filter(|&node| node != from && node != claim.owner);
        let sends = others.map(|node| EngineEffect::Send(node, PeerFrame::Claim(claim.clone())));
        self.effects.extend(sends);
        self.effects.push(EngineEffect::OwnersChanged(self.routes.owners().clone()));
        self.publishes_on_owner_changed(claim.shard, claim.owner, now);
        self.reroute(Some(claim.shard), now);
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

    /// Says on every link where its topics stand, and compares the quiet topics of this node's own
    /// with their history: what was never handed over would be missed by everyone.
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

    /// Compares the next quiet topics of this node's own with their history. The audit is the last net:
    /// all topics at once would hold up deliveries.
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

    /// A number that was never used before.
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The shard of a topic.
    fn shard_of(&self, topic: &Topic) -> ShardId {
        topic.shard(self.routes.view().shards)
    }
}

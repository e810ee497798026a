//! Counts the sessions of each topic in the whole cluster.
//!
//! Counts travel towards the owner, the total travels back. Each node sends to the upstream of a topic the
//! number of its own sessions plus those of its downstreams, so the owner's sum covers the cluster. The total
//! is sent to the nodes that requested it. A count is stored in the downstream that sent it and disappears
//! with the interest, the link or the route. A new count replaces the previous one, so none is added twice.
//!
//! Single joins and leaves cause no frame: once per interval the changed topics are reported. A round takes
//! as many ticks as its topics need, and the next round begins when it is complete.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use pushonce_core::{NodeId, ShardId, SubscriberCount, Topic, UpstreamRoute};
use pushonce_proto::peer::PeerFrame;

use super::Engine;
use super::effect::EngineEffect;
use super::topic_replication::{Downstream, TopicReplication, UpstreamSource, UpstreamState};

/// Maximum topics that one tick reports, and so the maximum in one frame: some milliseconds and some hundred
/// KiB. At five ticks a second, 100,000 topics that change at once are reported within three seconds.
pub(crate) const COUNT_TOPICS_PER_TICK: usize = 8_192;

/// The state of counting that does not belong to a single topic's replication.
#[derive(Debug)]
pub(super) struct AudienceCounter {
    /// The counts of the sink. Kept apart from its downstreams, because the sink reports counts and watches
    /// topics in no particular order.
    local_counts: HashMap<Topic, SubscriberCount>,
    /// Topics to report in the next round.
    changed_topics: HashSet<Topic>,
    /// Topics left to report in this round.
    round_topics: Vec<Topic>,
    round_due: Instant,
    /// Shards that this node has led for so short a time that counts of other nodes may be missing, with the
    /// end of that period. A partial sum would look like a sudden loss of subscribers.
    settling: BTreeMap<ShardId, Instant>,
}

/// The counts of one topic, valid while its upstream stays the same.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TopicAudience {
    /// The count that this node last sent to the upstream.
    reported: SubscriberCount,
    /// The total of the cluster as received from the upstream.
    cluster_total: Option<u64>,
}

/// The counts that a tick sends, by receiver and number of the interest.
#[derive(Default)]
struct CountFrames {
    to_upstreams: BTreeMap<NodeId, Vec<(u32, SubscriberCount)>>,
    to_downstreams: BTreeMap<NodeId, Vec<(u32, u64)>>,
}

impl AudienceCounter {
    pub(super) fn new(now: Instant) -> AudienceCounter {
        AudienceCounter {
            local_counts: HashMap::new(),
            changed_topics: HashSet::new(),
            round_topics: Vec::new(),
            round_due: now,
            settling: BTreeMap::new(),
        }
    }

    /// Schedules the topic for the next round.
    pub(super) fn mark_changed(&mut self, topic: &Topic) {
        if !self.changed_topics.contains(topic) {
            self.changed_topics.insert(topic.clone());
        }
    }

    /// Starts the settling period of a shard that this node leads from now on.
    pub(super) fn start_settling(&mut self, shard: ShardId, until: Instant) {
        self.settling.insert(shard, until);
    }

    fn local_count(&self, topic: &Topic) -> SubscriberCount {
        self.local_counts.get(topic).copied().unwrap_or_default()
    }

    /// Takes the topics to report in this tick, in a deterministic order.
    fn next_batch(&mut self) -> Vec<Topic> {
        let split_at = self.round_topics.len().saturating_sub(COUNT_TOPICS_PER_TICK);
        self.round_topics.split_off(split_at)
    }
}

impl TopicReplication {
    /// The subscribers reached through this node, including its own, `local`.
    fn subscriber_count(&self, local: SubscriberCount) -> SubscriberCount {
        self.downstreams.values().fold(local, |sum, downstream| sum + downstream.subscribers)
    }
}

impl Downstream {
    /// Forgets the total sent to a downstream that does not request it, so that it is sent again on request.
    fn clear_total_unless(&mut self, is_requested: bool) {
        self.total_sent = self.total_sent.filter(|_| is_requested);
    }
}

impl Engine {
    /// Handles the session counts of the sink, for topics whose count changed.
    pub(super) fn on_local_counts(&mut self, counts: Vec<(Topic, SubscriberCount)>) {
        for (topic, count) in counts {
            self.audience.mark_changed(&topic);
            let replication = self.replications.get_mut_no_tick(&topic);
            if let Some(sink) =
                replication.and_then(|replication| replication.downstreams.get_mut(&self.config.me))
            {
                sink.clear_total_unless(count.wants_audience);
            }
            if count == SubscriberCount::default() {
                self.audience.local_counts.remove(&topic);
            } else {
                self.audience.local_counts.insert(topic, count);
            }
        }
    }

    /// Handles the counts reported by a peer.
    pub(super) fn on_peer_counts(&mut self, from: NodeId, counts: Vec<(u32, SubscriberCount)>) {
        let Engine { links, replications, audience, .. } = self;
        for (number, count) in counts {
            let Some(topic) = links.peer_interest(from, number) else { continue };
            let downstream = replications
                .get_mut_no_tick(topic)
                .and_then(|replication| replication.downstreams.get_mut(&from));
            if let Some(downstream) = downstream.filter(|downstream| downstream.number == number) {
                downstream.subscribers = count;
                downstream.clear_total_unless(count.wants_audience);
                audience.mark_changed(topic);
            }
        }
    }

    /// Handles the cluster totals reported by the upstream.
    pub(super) fn on_audience(&mut self, from: NodeId, counts: Vec<(u32, u64)>) {
        let Engine { links, replications, audience, .. } = self;
        for (number, sessions) in counts {
            let Some(topic) = links.own_interest(from, number) else { continue };
            let Some(replication) = replications.get_mut_no_tick(topic) else { continue };
            replication.audience.cluster_total = Some(sessions);
            audience.mark_changed(topic);
        }
    }

    /// The number of sessions of a topic in the whole cluster, if this node has owned it long enough to know.
    pub(crate) fn audience(&self, topic: &Topic) -> Option<u64> {
        let shard = self.shard_of(topic);
        let is_owner = self.routes.upstream_for(shard) == UpstreamRoute::Local;
        if !is_owner || self.audience.settling.contains_key(&shard) {
            return None;
        }
        let local = self.audience.local_count(topic);
        Some(
            self.replications
                .get(topic)
                .map_or(local, |replication| replication.subscriber_count(local))
                .sessions,
        )
    }

    /// Continues the round or starts the next one.
    pub(super) fn report_counts(&mut self, now: Instant) {
        self.finish_settling(now);
        let audience = &mut self.audience;
        if audience.round_topics.is_empty() && audience.round_due <= now {
            audience.round_due = now + self.config.count_interval;
            audience.round_topics =
                std::mem::take(&mut audience.changed_topics).into_iter().collect();
            audience.round_topics.sort_unstable();
        }
        let mut frames = CountFrames::default();
        for topic in self.audience.next_batch() {
            self.report_topic_count(&topic, &mut frames);
        }
        let to_upstreams = frames
            .to_upstreams
            .into_iter()
            .map(|(to, counts)| (to, PeerFrame::SubscriberCounts { counts }));
        let to_downstreams = frames
            .to_downstreams
            .into_iter()
            .map(|(to, counts)| (to, PeerFrame::Audience { counts }));
        self.effects.extend(
            to_upstreams.chain(to_downstreams).map(|(to, frame)| EngineEffect::Send(to, frame)),
        );
    }

    /// Ends the settling period of shards whose counts are complete, and schedules their topics.
    fn finish_settling(&mut self, now: Instant) {
        let settled = self.audience.settling.iter().filter(|(_, until)| **until <= now);
        for shard in settled.map(|(&shard, _)| shard).collect::<Vec<_>>() {
            self.audience.settling.remove(&shard);
            for topic in self.topics_where(|replication| replication.shard == shard) {
                self.audience.mark_changed(&topic);
            }
        }
    }

    /// Sends the changed count and total of one topic. A congested link receives them in a later round.
    fn report_topic_count(&mut self, topic: &Topic, frames: &mut CountFrames) {
        let owned_total = self.audience(topic);
        let Engine { replications, links, audience, config, effects, .. } = self;
        let Some(replication) = replications.get_mut_no_tick(topic) else { return };
        let local = audience.local_count(topic);
        let count = replication.subscriber_count(local);
        let mut deferred = false;
        let total = match replication.upstream_state {
            UpstreamState::Live(UpstreamSource::Local) => owned_total,
            UpstreamState::Requested(UpstreamSource::Node { node, number })
            | UpstreamState::Live(UpstreamSource::Node { node, number }) => {
                if links.is_congested(node) {
                    deferred = true;
                } else if replication.audience.reported != count {
                    replication.audience.reported = count;
                    frames.to_upstreams.entry(node).or_default().push((number, count));
                }
                replication.audience.cluster_total
            }
            _ => None,
        };
        for (&to, downstream) in &mut replication.downstreams {
            let is_requested = if to == config.me {
                local.wants_audience
            } else {
                downstream.subscribers.wants_audience
            };
            if !is_requested {
                continue;
            }
            if links.is_congested(to) {
                deferred = true;
            } else if let Some(total) = total.filter(|_| downstream.total_sent != total) {
                downstream.total_sent = Some(total);
                if to == config.me {
                    effects.push(EngineEffect::Audience(topic.clone(), total));
                } else {
                    frames.to_downstreams.entry(to).or_default().push((downstream.number, total));
                }
            }
        }
        if deferred {
            audience.mark_changed(topic);
        }
    }
}

//! How many watch a topic, in the whole cluster.
//!
//! Counts climb, the sum comes down. Each node says to the upstream of a topic how many sessions it
//! speaks for: its own, and those of the nodes that get the topic from it. So the owner's sum is that of
//! the cluster, and goes back to those who asked. A count lives in the outlet it was said on, so it goes
//! with the interest, the link and the route; and it replaces the one before, so none is added twice.
//!
//! Nothing is said when somebody comes or goes: once in a while each topic that changed is looked at,
//! and no other. A round takes as many ticks as it has topics for, and the next begins when it is over.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use pushonce_core::{NodeId, ShardId, SubscriberCount, Topic, UpstreamRoute};
use pushonce_proto::peer::PeerFrame;

use super::Engine;
use super::effect::EngineEffect;
use super::topic_replication::{Downstream, TopicReplication, UpstreamSource, UpstreamState};

/// Topics that one tick looks at, and so the most that one frame names: some milliseconds, and some
/// hundred KiB. At five ticks a second all of 100,000 topics that change at once are told in three.
pub(crate) const COUNT_TOPICS_PER_TICK: usize = 8_192;

/// What is counted, beside what stands in the flows.
#[derive(Debug)]
pub(super) struct AudienceCounter {
    /// The sink's own. Apart from its outlets: the sink says how many it has, and that it wants a topic,
    /// in no order.
    local_counts: HashMap<Topic, SubscriberCount>,
    /// To be looked at in the next round.
    changed_topics: HashSet<Topic>,
    /// Still to be looked at in this one.
    round_topics: Vec<Topic>,
    round_due: Instant,
    /// The shards that this node has led for so short a time that others may not have said their counts
    /// yet, and until when: half a sum would be taken for an exodus.
    settling: BTreeMap<ShardId, Instant>,
}

/// Of one topic, as long as it comes from where it comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TopicAudience {
    /// What upstream knows of those whom this node speaks for.
    reported: SubscriberCount,
    /// What upstream says of the whole cluster.
    cluster_total: Option<u64>,
}

/// What a tick says, by the node it is said to and the number of the interest.
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

    /// Something about the topic is to be said anew.
    pub(super) fn mark_changed(&mut self, topic: &Topic) {
        if !self.changed_topics.contains(topic) {
            self.changed_topics.insert(topic.clone());
        }
    }

    /// This node leads the shard from now on.
    pub(super) fn start_settling(&mut self, shard: ShardId, until: Instant) {
        self.settling.insert(shard, until);
    }

    fn local_count(&self, topic: &Topic) -> SubscriberCount {
        self.local_counts.get(topic).copied().unwrap_or_default()
    }

    /// The topics to look at now, in an order that does not change from run to run.
    fn next_batch(&mut self) -> Vec<Topic> {
        let split_at = self.round_topics.len().saturating_sub(COUNT_TOPICS_PER_TICK);
        self.round_topics.split_off(split_at)
    }
}

impl TopicReplication {
    /// Who watches by way of this node, `here` its own.
    fn subscriber_count(&self, local: SubscriberCount) -> SubscriberCount {
        self.downstreams.values().fold(local, |sum, downstream| sum + downstream.subscribers)
    }
}

impl Downstream {
    /// Who does not ask any more keeps no sum, and is told it anew when he asks again.
    fn clear_total_unless(&mut self, is_requested: bool) {
        self.total_sent = self.total_sent.filter(|_| is_requested);
    }
}

impl Engine {
    /// The sink says how many sessions it has, of topics where that changed.
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

    /// A peer says how many it speaks for.
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

    /// Upstream says how many there are in the whole cluster.
    pub(super) fn on_audience(&mut self, from: NodeId, counts: Vec<(u32, u64)>) {
        let Engine { links, replications, audience, .. } = self;
        for (number, sessions) in counts {
            let Some(topic) = links.own_interest(from, number) else { continue };
            let Some(replication) = replications.get_mut_no_tick(topic) else { continue };
            replication.audience.cluster_total = Some(sessions);
            audience.mark_changed(topic);
        }
    }

    /// How many watch a topic in the whole cluster, if this node owns it, and has for long enough to
    /// know.
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

    /// Time passed: goes on with the round, or begins the next.
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

    /// The shards of which everybody can have said his counts by now: those who ask are told.
    fn finish_settling(&mut self, now: Instant) {
        let settled = self.audience.settling.iter().filter(|(_, until)| **until <= now);
        for shard in settled.map(|(&shard, _)| shard).collect::<Vec<_>>() {
            self.audience.settling.remove(&shard);
            for topic in self.topics_where(|replication| replication.shard == shard) {
                self.audience.mark_changed(&topic);
            }
        }
    }

    /// Says what is news of one topic, up and down. What a full link has no room for has time.
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

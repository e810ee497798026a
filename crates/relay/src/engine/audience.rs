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

use pushonce_core::{NodeId, ShardId, Topic, Upstream, Watching};
use pushonce_proto::peer::Frame;

use super::Engine;
use super::effect::Effect;
use super::flow::{Flow, Origin, Outlet, Stage};

/// Topics that one tick looks at, and so the most that one frame names: some milliseconds, and some
/// hundred KiB. At five ticks a second all of 100,000 topics that change at once are told in three.
pub(crate) const COUNTED_PER_TICK: usize = 8_192;

/// What is counted, beside what stands in the flows.
#[derive(Debug)]
pub(super) struct Audience {
    /// The sink's own. Apart from its outlets: the sink says how many it has, and that it wants a topic,
    /// in no order.
    here: HashMap<Topic, Watching>,
    /// To be looked at in the next round.
    changed: HashSet<Topic>,
    /// Still to be looked at in this one.
    round: Vec<Topic>,
    round_due: Instant,
    /// The shards that this node has led for so short a time that others may not have said their counts
    /// yet, and until when: half a sum would be taken for an exodus.
    settling: BTreeMap<ShardId, Instant>,
}

/// Of one topic, as long as it comes from where it comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// What upstream knows of those whom this node speaks for.
    said: Watching,
    /// What upstream says of the whole cluster.
    heard: Option<u64>,
}

/// What a tick says, by the node it is said to and the number of the interest.
#[derive(Default)]
struct Words {
    up: BTreeMap<NodeId, Vec<(u32, Watching)>>,
    down: BTreeMap<NodeId, Vec<(u32, u64)>>,
}

impl Audience {
    pub(super) fn new(now: Instant) -> Audience {
        Audience {
            here: HashMap::new(),
            changed: HashSet::new(),
            round: Vec::new(),
            round_due: now,
            settling: BTreeMap::new(),
        }
    }

    /// Something about the topic is to be said anew.
    pub(super) fn touch(&mut self, topic: &Topic) {
        if !self.changed.contains(topic) {
            self.changed.insert(topic.clone());
        }
    }

    /// This node leads the shard from now on.
    pub(super) fn settle(&mut self, shard: ShardId, until: Instant) {
        self.settling.insert(shard, until);
    }

    fn here(&self, topic: &Topic) -> Watching {
        self.here.get(topic).copied().unwrap_or_default()
    }

    /// The topics to look at now, in an order that does not change from run to run.
    fn part(&mut self) -> Vec<Topic> {
        let rest = self.round.len().saturating_sub(COUNTED_PER_TICK);
        self.round.split_off(rest)
    }
}

impl Flow {
    /// Who watches by way of this node, `here` its own.
    fn watching(&self, here: Watching) -> Watching {
        self.outlets.values().fold(here, |sum, outlet| sum + outlet.watching)
    }
}

impl Outlet {
    /// Who does not ask any more keeps no sum, and is told it anew when he asks again.
    fn forget_unless(&mut self, asks: bool) {
        self.told = self.told.filter(|_| asks);
    }
}

impl Engine {
    /// The sink says how many sessions it has, of topics where that changed.
    pub(super) fn watching_here(&mut self, counts: Vec<(Topic, Watching)>) {
        for (topic, watching) in counts {
            self.audience.touch(&topic);
            let flow = self.flows.get_at_rest(&topic);
            if let Some(sink) = flow.and_then(|flow| flow.outlets.get_mut(&self.config.me)) {
                sink.forget_unless(watching.asks);
            }
            if watching == Watching::default() {
                self.audience.here.remove(&topic);
            } else {
                self.audience.here.insert(topic, watching);
            }
        }
    }

    /// A peer says how many it speaks for.
    pub(super) fn watching(&mut self, from: NodeId, counts: Vec<(u32, Watching)>) {
        let Engine { links, flows, audience, .. } = self;
        for (number, watching) in counts {
            let Some(topic) = links.heard(from, number) else { continue };
            let outlet = flows.get_at_rest(topic).and_then(|flow| flow.outlets.get_mut(&from));
            if let Some(outlet) = outlet.filter(|outlet| outlet.number == number) {
                outlet.watching = watching;
                outlet.forget_unless(watching.asks);
                audience.touch(topic);
            }
        }
    }

    /// Upstream says how many there are in the whole cluster.
    pub(super) fn audience_heard(&mut self, from: NodeId, counts: Vec<(u32, u64)>) {
        let Engine { links, flows, audience, .. } = self;
        for (number, sessions) in counts {
            let Some(topic) = links.asked(from, number) else { continue };
            let Some(flow) = flows.get_at_rest(topic) else { continue };
            flow.tally.heard = Some(sessions);
            audience.touch(topic);
        }
    }

    /// How many watch a topic in the whole cluster, if this node owns it, and has for long enough to
    /// know.
    pub(crate) fn audience(&self, topic: &Topic) -> Option<u64> {
        let shard = self.shard(topic);
        let owned = self.routes.of(shard) == Upstream::Local;
        if !owned || self.audience.settling.contains_key(&shard) {
            return None;
        }
        let here = self.audience.here(topic);
        Some(self.flows.get(topic).map_or(here, |flow| flow.watching(here)).sessions)
    }

    /// Time passed: goes on with the round, or begins the next.
    pub(super) fn count(&mut self, now: Instant) {
        self.settled(now);
        let audience = &mut self.audience;
        if audience.round.is_empty() && audience.round_due <= now {
            audience.round_due = now + self.config.count_every;
            audience.round = std::mem::take(&mut audience.changed).into_iter().collect();
            audience.round.sort_unstable();
        }
        let mut words = Words::default();
        for topic in self.audience.part() {
            self.count_topic(&topic, &mut words);
        }
        let up = words.up.into_iter().map(|(to, counts)| (to, Frame::Watching { counts }));
        let down = words.down.into_iter().map(|(to, counts)| (to, Frame::Audience { counts }));
        self.effects.extend(up.chain(down).map(|(to, frame)| Effect::Send(to, frame)));
    }

    /// The shards of which everybody can have said his counts by now: those who ask are told.
    fn settled(&mut self, now: Instant) {
        let over = self.audience.settling.iter().filter(|(_, until)| **until <= now);
        for shard in over.map(|(&shard, _)| shard).collect::<Vec<_>>() {
            self.audience.settling.remove(&shard);
            for topic in self.topics(|flow| flow.shard == shard) {
                self.audience.touch(&topic);
            }
        }
    }

    /// Says what is news of one topic, up and down. What a full link has no room for has time.
    fn count_topic(&mut self, topic: &Topic, words: &mut Words) {
        let owned = self.audience(topic);
        let Engine { flows, links, audience, config, effects, .. } = self;
        let Some(flow) = flows.get_at_rest(topic) else { return };
        let here = audience.here(topic);
        let watching = flow.watching(here);
        let mut put_off = false;
        let sum = match flow.stage {
            Stage::Live(Origin::Here) => owned,
            Stage::Asked(Origin::Node { node, number })
            | Stage::Live(Origin::Node { node, number }) => {
                if links.is_congested(node) {
                    put_off = true;
                } else if flow.tally.said != watching {
                    flow.tally.said = watching;
                    words.up.entry(node).or_default().push((number, watching));
                }
                flow.tally.heard
            }
            _ => None,
        };
        for (&to, outlet) in &mut flow.outlets {
            let asks = if to == config.me { here.asks } else { outlet.watching.asks };
            if !asks {
                continue;
            }
            if links.is_congested(to) {
                put_off = true;
            } else if let Some(sum) = sum.filter(|_| outlet.told != sum) {
                outlet.told = Some(sum);
                if to == config.me {
                    effects.push(Effect::Audience(topic.clone(), sum));
                } else {
                    words.down.entry(to).or_default().push((outlet.number, sum));
                }
            }
        }
        if put_off {
            audience.touch(topic);
        }
    }
}

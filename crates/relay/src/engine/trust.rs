//! How long ago a shard's topics were last known to be whole here.
//!
//! A node that is cut off shows what it has, and then nothing: to its clients that looks like a quiet
//! topic. So every node keeps, shard by shard, the last moment at which it could have heard of
//! everything: an owner while its lease runs, any other when its upstream last said so. When that is
//! too long ago, the sink is told that its topics are stale, and when it is over, that they are fresh.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pushonce_core::{NodeId, ShardId, Topic, Upstream};

use super::Engine;
use super::effect::Effect;

/// By shard.
#[derive(Debug)]
pub(crate) struct Trust {
    /// Those that this node leads with a lease.
    leads: BTreeSet<ShardId>,
    whole: Vec<Instant>,
    /// What the last look found.
    grades: Vec<Option<Grade>>,
}

/// What the age of a shard says of its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    /// Young enough for topics that are stale to be fresh again.
    Fresh,
    /// Topics stay what they are.
    Between,
    /// So old that topics are stale.
    Stale,
}

impl Trust {
    pub(crate) fn new(shards: u16, now: Instant) -> Trust {
        let shards = usize::from(shards);
        Trust { leads: BTreeSet::new(), whole: vec![now; shards], grades: vec![None; shards] }
    }

    /// The shards of a view are counted anew.
    pub(crate) fn resize(&mut self, shards: u16, now: Instant) {
        self.whole.resize(usize::from(shards), now);
        // Topics may be of another shard now: all of them are looked at.
        self.grades = vec![None; usize::from(shards)];
    }

    /// The shards whose topics have to be looked at, since their age says something else than it did at
    /// the last look.
    fn turned(
        &mut self,
        now: Instant,
        fresh_below: Duration,
        stale_after: Duration,
    ) -> Vec<ShardId> {
        let mut turned = Vec::new();
        for (shard, (&whole, known)) in (0..).zip(self.whole.iter().zip(&mut self.grades)) {
            let age = now.saturating_duration_since(whole);
            let grade = if age >= stale_after {
                Grade::Stale
            } else if age >= fresh_below {
                Grade::Between
            } else {
                Grade::Fresh
            };
            if known.replace(grade) != Some(grade) && grade != Grade::Between {
                turned.push(ShardId(shard));
            }
        }
        turned
    }

    /// Whether this node leads the shard, with a lease.
    pub(crate) fn lead(&mut self, shard: ShardId, leads: bool) {
        if leads {
            self.leads.insert(shard);
        } else {
            self.leads.remove(&shard);
        }
    }

    /// The shard was whole here at that moment. An earlier one than is known is no news.
    pub(crate) fn confirm(&mut self, shard: ShardId, at: Instant) {
        if let Some(whole) = self.whole.get_mut(usize::from(shard.0)) {
            *whole = at.max(*whole);
        }
    }

    /// How long ago the shard was last whole here.
    pub(crate) fn age(&self, shard: ShardId, now: Instant) -> Duration {
        let whole = self.whole.get(usize::from(shard.0));
        whole.map_or(Duration::ZERO, |&whole| now.saturating_duration_since(whole))
    }
}

impl Engine {
    /// A node that this node gets shards from says which of them it cannot vouch for, and since when.
    pub(super) fn vouched(&mut self, from: NodeId, doubts: &[(ShardId, Duration)], now: Instant) {
        for shard in self.routes.view().shards.ids() {
            if self.routes.of(shard) != Upstream::Node(from) {
                continue;
            }
            let age = doubts.iter().find(|(doubted, _)| *doubted == shard).map(|(_, age)| *age);
            if let Some(whole) = now.checked_sub(age.unwrap_or_default()) {
                self.trust.confirm(shard, whole);
            }
        }
    }

    /// An owner that answers has a lease at that moment; the head of a region need not have word of
    /// one.
    pub(super) fn answered_by(&mut self, from: NodeId, shard: ShardId, now: Instant) {
        if self.routes.owners().of(shard) == Some(from) {
            self.trust.confirm(shard, now);
        }
    }

    /// What `to` may get from this node, and this node cannot vouch for.
    pub(super) fn doubts(&self, to: NodeId, now: Instant) -> Vec<(ShardId, Duration)> {
        let shards = self.routes.view().shards.ids();
        let served = shards.filter(|&shard| self.routes.serves(to, shard));
        let aged = served.map(|shard| (shard, self.trust.age(shard, now)));
        aged.filter(|&(_, age)| age * 2 > self.config.heartbeat).collect()
    }

    /// Tells the sink of the topics whose standing has changed. Looks at those of `looked`, and at all of a
    /// shard when its age has passed a threshold; that of every other is as it was.
    pub(super) fn judge(&mut self, looked: &[Topic], now: Instant) {
        for &shard in &self.trust.leads.clone() {
            if self.routes.of(shard) == Upstream::Local {
                self.trust.confirm(shard, now);
            }
        }
        let Engine { flows, trust, config, .. } = self;
        // Some way below, or one late heartbeat after another would be told in turns.
        let fresh_below = config.stale_after - config.heartbeat / 2;
        let turned = trust.turned(now, fresh_below, config.stale_after);
        let of_shards = turned.iter().flat_map(|&shard| flows.of_shard(shard, None));
        let topics: BTreeSet<Topic> = of_shards.chain(looked).cloned().collect();
        let (mut changed, mut stuck) = (Vec::new(), Vec::new());
        for topic in topics {
            let Some(flow) = flows.get_at_rest(&topic) else { continue };
            let (whole, lapsed) = (trust.age(flow.shard, now), flow.lapsed_for(now));
            if lapsed >= config.stale_after && whole < fresh_below {
                stuck.push(topic.clone());
            }
            let Some(stale) = flow.sink_is_stale(config.me) else { continue };
            let age = whole.max(lapsed);
            let now_stale = if *stale { age >= fresh_below } else { age >= config.stale_after };
            if *stale != now_stale {
                *stale = now_stale;
                changed.push((topic.clone(), now_stale));
            }
        }
        self.effects.extend(changed.into_iter().map(|(topic, stale)| match stale {
            true => Effect::Stale(topic),
            false => Effect::Fresh(topic),
        }));
        // The shard is whole and this topic of it does not flow: those who get it here find another way.
        stuck.iter().for_each(|topic| self.turn_away_all(topic, now));
    }
}

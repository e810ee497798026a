//! How long ago a shard's topics were last known to be whole here.
//!
//! A node that is cut off shows what it has, and then nothing: to its clients that looks like a quiet
//! topic. So every node keeps, shard by shard, the last moment at which it could have heard of
//! everything: an owner while its lease runs, any other when its upstream last said so. When that is
//! too long ago, the sink is told that its topics are stale, and when it is over, that they are fresh.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pushonce_core::{NodeId, ShardId, Topic, UpstreamRoute};

use super::Engine;
use super::effect::EngineEffect;

/// By shard.
#[derive(Debug)]
pub(crate) struct Freshness {
    /// Those that this node leads with a lease.
    leased: BTreeSet<ShardId>,
    confirmed_at: Vec<Instant>,
    /// What the last look found.
    levels: Vec<Option<FreshnessLevel>>,
}

/// What the age of a shard says of its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FreshnessLevel {
    /// Young enough for topics that are stale to be fresh again.
    Fresh,
    /// Topics stay what they are.
    Hysteresis,
    /// So old that topics are stale.
    Stale,
}

impl Freshness {
    pub(crate) fn new(shards: u16, now: Instant) -> Freshness {
        let shards = usize::from(shards);
        Freshness {
            leased: BTreeSet::new(),
            confirmed_at: vec![now; shards],
            levels: vec![None; shards],
        }
    }

    /// The shards of a view are counted anew.
    pub(crate) fn resize(&mut self, shards: u16, now: Instant) {
        self.confirmed_at.resize(usize::from(shards), now);
        // Topics may be of another shard now: all of them are looked at.
        self.levels = vec![None; usize::from(shards)];
    }

    /// The shards whose topics have to be looked at, since their age says something else than it did at
    /// the last look.
    fn update_levels(
        &mut self,
        now: Instant,
        fresh_below: Duration,
        stale_after: Duration,
    ) -> Vec<ShardId> {
        let mut changed = Vec::new();
        for (shard, (&confirmed_at, previous)) in
            (0..).zip(self.confirmed_at.iter().zip(&mut self.levels))
        {
            let age = now.saturating_duration_since(confirmed_at);
            let level = if age >= stale_after {
                FreshnessLevel::Stale
            } else if age >= fresh_below {
                FreshnessLevel::Hysteresis
            } else {
                FreshnessLevel::Fresh
            };
            if previous.replace(level) != Some(level) && level != FreshnessLevel::Hysteresis {
                changed.push(ShardId(shard));
            }
        }
        changed
    }

    /// Whether this node leads the shard, with a lease.
    pub(crate) fn set_leased(&mut self, shard: ShardId, is_leased: bool) {
        if is_leased {
            self.leased.insert(shard);
        } else {
            self.leased.remove(&shard);
        }
    }

    /// The shard was whole here at that moment. An earlier one than is known is no news.
    pub(crate) fn confirm(&mut self, shard: ShardId, at: Instant) {
        if let Some(confirmed_at) = self.confirmed_at.get_mut(usize::from(shard.0)) {
            *confirmed_at = at.max(*confirmed_at);
        }
    }

    /// How long ago the shard was last whole here.
    pub(crate) fn age(&self, shard: ShardId, now: Instant) -> Duration {
        let confirmed_at = self.confirmed_at.get(usize::from(shard.0));
        confirmed_at
            .map_or(Duration::ZERO, |&confirmed_at| now.saturating_duration_since(confirmed_at))
    }
}

impl Engine {
    /// A node that this node gets shards from says which of them it cannot vouch for, and since when.
    pub(super) fn on_stale_shards(
        &mut self,
        from: NodeId,
        stale_shards: &[(ShardId, Duration)],
        now: Instant,
    ) {
        for shard in self.routes.view().shards.ids() {
            if self.routes.upstream_for(shard) != UpstreamRoute::Node(from) {
                continue;
            }
            let age = stale_shards.iter().find(|(stale, _)| *stale == shard).map(|(_, age)| *age);
            if let Some(confirmed_at) = now.checked_sub(age.unwrap_or_default()) {
                self.freshness.confirm(shard, confirmed_at);
            }
        }
    }

    /// An owner that answers has a lease at that moment; the head of a region need not have word of
    /// one.
    pub(super) fn confirm_owner(&mut self, from: NodeId, shard: ShardId, now: Instant) {
        if self.routes.owners().owner_of(shard) == Some(from) {
            self.freshness.confirm(shard, now);
        }
    }

    /// What `to` may get from this node, and this node cannot vouch for.
    pub(super) fn stale_shards(&self, to: NodeId, now: Instant) -> Vec<(ShardId, Duration)> {
        let shards = self.routes.view().shards.ids();
        let served = shards.filter(|&shard| self.routes.may_serve(to, shard));
        let aged = served.map(|shard| (shard, self.freshness.age(shard, now)));
        aged.filter(|&(_, age)| age * 2 > self.config.heartbeat_interval).collect()
    }

    /// Tells the sink of the topics whose standing has changed. Looks at those of `looked`, and at all of a
    /// shard when its age has passed a threshold; that of every other is as it was.
    pub(super) fn evaluate_freshness(&mut self, tick_topics: &[Topic], now: Instant) {
        for &shard in &self.freshness.leased.clone() {
            if self.routes.upstream_for(shard) == UpstreamRoute::Local {
                self.freshness.confirm(shard, now);
            }
        }
        let Engine { replications, freshness, config, .. } = self;
        // Some way below, or one late heartbeat after another would be told in turns.
        let fresh_below = config.stale_after - config.heartbeat_interval / 2;
        let changed_shards = freshness.update_levels(now, fresh_below, config.stale_after);
        let of_shards =
            changed_shards.iter().flat_map(|&shard| replications.topics_in_shard(shard, None));
        let topics: BTreeSet<Topic> = of_shards.chain(tick_topics).cloned().collect();
        let (mut changed, mut stuck) = (Vec::new(), Vec::new());
        for topic in topics {
            let Some(replication) = replications.get_mut_no_tick(&topic) else { continue };
            let (shard_age, not_live_for) =
                (freshness.age(replication.shard, now), replication.not_live_for(now));
            if not_live_for >= config.stale_after && shard_age < fresh_below {
                stuck.push(topic.clone());
            }
            let Some(stale) = replication.sink_stale_flag(config.me) else { continue };
            let age = shard_age.max(not_live_for);
            let is_stale = if *stale { age >= fresh_below } else { age >= config.stale_after };
            if *stale != is_stale {
                *stale = is_stale;
                changed.push((topic.clone(), is_stale));
            }
        }
        self.effects.extend(changed.into_iter().map(|(topic, stale)| match stale {
            true => EngineEffect::Stale(topic),
            false => EngineEffect::Fresh(topic),
        }));
        // The shard is whole and this topic of it does not flow: those who get it here find another way.
        stuck.iter().for_each(|topic| self.reject_all_peers(topic, now));
    }
}

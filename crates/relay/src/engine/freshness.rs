//! Tracks when the topics of each shard were last known to be complete on this node.
//!
//! A node that is cut off delivers what it has and then nothing, which looks like a quiet topic to its
//! clients. So every node records, for each shard, the last moment at which it could have received
//! everything: an owner while it has a lease, any other node when its upstream last confirmed it. When that
//! moment is too long ago, the sink is notified that its topics are stale, and later that they are fresh
//! again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pushonce_core::{CoverageMark, NodeId, ShardId, Topic, UpstreamRoute};

use super::Engine;
use super::effect::EngineEffect;

/// The freshness of each shard.
#[derive(Debug)]
pub(crate) struct Freshness {
    /// The shards of which this node has announced that it leads them.
    leased: BTreeSet<ShardId>,
    /// The shards that this node led with a lease at the last reading. A lease can expire some time before its end is
    /// announced, as when the machine was suspended.
    led: BTreeSet<ShardId>,
    confirmed_at: Vec<Instant>,
    /// The level of each shard at the last evaluation.
    levels: Vec<Option<FreshnessLevel>>,
}

/// The level that follows from the age of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FreshnessLevel {
    /// The age is so low that stale topics become fresh again.
    Fresh,
    /// The age is between the two others: topics keep their state.
    Hysteresis,
    /// The age is so high that fresh topics become stale.
    Stale,
}

impl Freshness {
    pub(crate) fn new(shards: u16, now: Instant) -> Freshness {
        let shards = usize::from(shards);
        Freshness {
            leased: BTreeSet::new(),
            led: BTreeSet::new(),
            confirmed_at: vec![now; shards],
            levels: vec![None; shards],
        }
    }

    /// Adapts to the number of shards of a new view.
    pub(crate) fn resize(&mut self, shards: u16, now: Instant) {
        self.confirmed_at.resize(usize::from(shards), now);
        // Topics may belong to other shards now, so all of them are evaluated.
        self.levels = vec![None; usize::from(shards)];
    }

    /// The shards whose level changed since the last evaluation, and whose topics must therefore be
    /// evaluated.
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

    /// Sets the shards that this node leads with a lease now.
    pub(crate) fn set_led(&mut self, led: BTreeSet<ShardId>) {
        self.led = led;
    }

    /// The machine was suspended for `time`: every shard was last known to be complete earlier by that time.
    pub(crate) fn on_suspended(&mut self, time: Duration) {
        for confirmed_at in &mut self.confirmed_at {
            *confirmed_at = confirmed_at.checked_sub(time).unwrap_or(*confirmed_at);
        }
    }

    /// Sets whether this node has announced that it leads the shard.
    pub(crate) fn set_leased(&mut self, shard: ShardId, is_leased: bool) {
        if is_leased {
            self.leased.insert(shard);
        } else {
            self.leased.remove(&shard);
        }
    }

    /// Whether this node has announced that it leads the shard.
    pub(super) fn is_leased(&self, shard: ShardId) -> bool {
        self.leased.contains(&shard)
    }

    /// Records that the shard was complete here at `at`. An earlier moment than the known one has no effect.
    pub(crate) fn confirm(&mut self, shard: ShardId, at: Instant) {
        if let Some(confirmed_at) = self.confirmed_at.get_mut(usize::from(shard.0)) {
            *confirmed_at = at.max(*confirmed_at);
        }
    }

    /// The time since the shard was last known to be complete here.
    pub(crate) fn age(&self, shard: ShardId, now: Instant) -> Duration {
        let confirmed_at = self.confirmed_at.get(usize::from(shard.0));
        confirmed_at
            .map_or(Duration::ZERO, |&confirmed_at| now.saturating_duration_since(confirmed_at))
    }
}

impl Engine {
    /// Handles the shards that a peer, as upstream of this node, could not confirm, with their age.
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

    /// Confirms the shard when the owner itself answers, because it then has a lease. The answer of a region
    /// head does not prove one.
    pub(super) fn confirm_owner(&mut self, from: NodeId, shard: ShardId, now: Instant) {
        if self.routes.owners().owner_of(shard) == Some(from) {
            self.freshness.confirm(shard, now);
        }
    }

    /// The shards that `to` may get from this node and that this node cannot confirm, with their age.
    pub(super) fn stale_shards(&self, to: NodeId, now: Instant) -> Vec<(ShardId, Duration)> {
        let shards = self.routes.view().shards.ids();
        let served = shards.filter(|&shard| self.routes.may_serve(to, shard));
        let aged = served.map(|shard| (shard, self.freshness.age(shard, now)));
        aged.filter(|&(_, age)| age * 2 > self.config.heartbeat_interval).collect()
    }

    /// Notifies the sink of topics that became stale or fresh. Evaluates `tick_topics`, and all topics of a
    /// shard whose age crossed a threshold; all other topics are unchanged.
    pub(super) fn evaluate_freshness(&mut self, tick_topics: &[Topic], now: Instant) {
        for &shard in &self.freshness.led.clone() {
            if self.routes.upstream_for(shard) == UpstreamRoute::Local {
                self.freshness.confirm(shard, now);
            }
        }
        let Engine { replications, freshness, config, .. } = self;
        // Below `stale_after` by a margin, or a series of late heartbeats would cause alternating
        // notifications.
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
                if is_stale {
                    CoverageMark::TopicStale.reach();
                }
                changed.push((topic.clone(), is_stale));
            }
        }
        self.effects.extend(changed.into_iter().map(|(topic, stale)| match stale {
            true => EngineEffect::Stale(topic),
            false => EngineEffect::Fresh(topic),
        }));
        // The shard is complete but this topic is not live: its peers must find another upstream.
        stuck.iter().for_each(|topic| self.reject_all_peers(topic, now));
    }
}

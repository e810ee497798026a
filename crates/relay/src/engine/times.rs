//! The clocks and the log times that heartbeats carry.
//!
//! Every node sends what its clock shows, so that owners can stamp their logs with what a majority of
//! clocks have reached. The newest log time of each shard goes the way of its messages: from the owner to
//! the nodes that get topics from it, and from the head of a region to its region. An edge measures the
//! age of messages with it, so its own clock never decides what it shows.

use std::time::Instant;

use pushonce_core::{NodeId, Position, ShardId, Timestamp};
use pushonce_proto::peer::Frame;

use super::Engine;
use super::effect::{Effect, heartbeats};

/// What this node knows of time.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// What this node's clock showed, and when.
    clock: Option<(Timestamp, Instant)>,
    /// By shard: the newest log time known here.
    logs: Vec<Timestamp>,
}

impl Times {
    pub(crate) fn resize(&mut self, shards: u16) {
        self.logs.resize(usize::from(shards), Timestamp::default());
    }

    fn clock(&self, now: Instant) -> Option<Timestamp> {
        let (shown, at) = self.clock?;
        let passed = now.saturating_duration_since(at).as_millis();
        Some(Timestamp(shown.0.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))))
    }

    /// Log time does not go back. Says whether it advanced.
    fn advance(&mut self, shard: ShardId, time: Timestamp) -> bool {
        let known = self.logs.get_mut(usize::from(shard.0)).filter(|known| **known < time);
        known.map(|known| *known = time).is_some()
    }
}

impl Engine {
    /// This node's clock, and the logs of the shards that it owns.
    pub(super) fn on_times(
        &mut self,
        clock: Timestamp,
        logs: Vec<(ShardId, Timestamp)>,
        now: Instant,
    ) {
        self.times.clock = Some((clock, now));
        self.on_log_times(logs);
    }

    /// The log times of shards, from this node or from a peer.
    pub(super) fn on_log_times(&mut self, logs: Vec<(ShardId, Timestamp)>) {
        for (shard, time) in logs {
            if self.times.advance(shard, time) {
                self.effects.push(Effect::LogTime(shard, time));
            }
        }
    }

    /// The frames of a heartbeat for a peer. None before this node's clock was read for the first time.
    pub(super) fn heartbeat_for(
        &self,
        to: NodeId,
        heads: Vec<(u32, Position)>,
        now: Instant,
    ) -> impl Iterator<Item = Frame> + use<> {
        let known = |shard: &ShardId| self.times.logs.get(usize::from(shard.0)).copied();
        let served = self.routes.view().shards.ids().filter(|shard| self.routes.serves(to, *shard));
        let log_times = served
            .filter_map(|shard| Some((shard, known(&shard).filter(|time| time.0 > 0)?)))
            .collect();
        let doubts = self.doubts(to, now);
        let clock = self.times.clock(now);
        let frames = clock.map(|clock| heartbeats(heads, doubts, clock, log_times));
        frames.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::testing::{claim, view};
    use super::super::{Event, NodeId};
    use super::*;
    use crate::Config;

    const SHARD: ShardId = ShardId(0);

    fn engine(me: u64, now: Instant) -> Engine {
        let view = Arc::new(view(&["a", "a"]));
        let mut engine = Engine::new(Config::new(NodeId(me), view.cluster), view, now);
        engine.on(Event::LinkUp(NodeId(3 - me)), now);
        engine
    }

    fn heartbeats(effects: Vec<Effect>) -> Vec<Frame> {
        let is = |effect| match effect {
            Effect::Send(_, frame @ Frame::Heartbeat { .. }) => Some(frame),
            _ => None,
        };
        effects.into_iter().filter_map(is).collect()
    }

    #[test]
    fn heartbeats_carry_the_clock_and_the_log_times_of_what_the_peer_gets_here() {
        let start = Instant::now();
        let (mut owner, mut edge) = (engine(1, start), engine(2, start));
        owner.on(Event::Claim(claim(SHARD, NodeId(1), 1)), start);
        edge.on(Event::Frame(NodeId(1), Frame::Claim(claim(SHARD, NodeId(1), 1))), start);
        let logs = vec![(SHARD, Timestamp(500))];
        owner.on(Event::Times { clock: Timestamp(9_000), logs }, start);
        let sent = heartbeats(owner.on(Event::Tick, start + Duration::from_millis(40)));
        let [Frame::Heartbeat { clock, log_times, .. }] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!((*clock, &log_times[..]), (Timestamp(9_040), &[(SHARD, Timestamp(500))][..]));

        let received = |edge: &mut Engine| {
            let effects = edge.on(Event::Frame(NodeId(1), sent[0].clone()), start);
            let is = |effect: &Effect| match effect {
                Effect::Clock(node, time) => Some((node.0, time.0)),
                Effect::LogTime(shard, time) => Some((u64::from(shard.0), time.0)),
                _ => None,
            };
            effects.iter().filter_map(is).collect::<Vec<_>>()
        };
        assert_eq!(received(&mut edge), [(1, 9_040), (0, 500)]);
        assert_eq!(received(&mut edge), [(1, 9_040)], "a log time that is known is no news");
        edge.on(Event::Times { clock: Timestamp(1), logs: vec![] }, start);
        let back = heartbeats(edge.on(Event::Tick, start + Duration::from_secs(1)));
        let [Frame::Heartbeat { log_times, .. }] = &back[..] else { panic!("{back:?}") };
        assert!(log_times.is_empty(), "the owner does not get its own topics from an edge");
    }

    #[test]
    fn a_new_link_hears_of_the_clock_at_once() {
        let start = Instant::now();
        let mut engine = engine(1, start);
        engine.on(Event::LinkDown(NodeId(2)), start);
        engine.on(Event::Times { clock: Timestamp(9_000), logs: vec![] }, start);
        assert_eq!(heartbeats(engine.on(Event::LinkUp(NodeId(2)), start)).len(), 1);
    }
}

//! The clocks and log times that heartbeats carry.
//!
//! Every node sends the time of its clock, so that owners can stamp their logs with a time that a majority of
//! the clocks has reached. The newest log time of each shard follows the path of its messages: from the owner
//! to the nodes that get topics from it, and from a region head to its region. An edge measures the age of
//! messages against it, so that its own clock does not affect which messages it delivers.

use std::time::Instant;

use pushonce_core::{NodeId, Position, ShardId, Timestamp, UpstreamRoute};
use pushonce_proto::peer::PeerFrame;

use super::Engine;
use super::effect::{EngineEffect, heartbeat_frames};

/// The clock and log times known to this node.
#[derive(Debug, Default)]
pub(crate) struct TimeTracker {
    /// The last reading of this node's clock, and when it was taken.
    local_clock: Option<(Timestamp, Instant)>,
    /// By shard: the newest log time known here.
    log_times: Vec<Timestamp>,
}

impl TimeTracker {
    pub(crate) fn resize(&mut self, shards: u16) {
        self.log_times.resize(usize::from(shards), Timestamp::default());
    }

    fn local_time(&self, now: Instant) -> Option<Timestamp> {
        let (shown, at) = self.local_clock?;
        let passed = now.saturating_duration_since(at).as_millis();
        Some(Timestamp(shown.0.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))))
    }

    /// Updates the log time of a shard, which never goes back. Returns whether it advanced.
    fn advance(&mut self, shard: ShardId, time: Timestamp) -> bool {
        let known = self.log_times.get_mut(usize::from(shard.0)).filter(|known| **known < time);
        known.map(|known| *known = time).is_some()
    }
}

impl Engine {
    /// Handles a reading of this node's clock and of the log times of its shards.
    pub(super) fn on_times(
        &mut self,
        clock: Timestamp,
        log_times: Vec<(ShardId, Timestamp)>,
        now: Instant,
    ) {
        self.times.local_clock = Some((clock, now));
        self.freshness.set_led(log_times.iter().map(|&(shard, _)| shard).collect());
        self.on_log_times(log_times);
    }

    /// Handles log times from a peer: those of the shards that this node gets from it.
    pub(super) fn on_peer_log_times(
        &mut self,
        from: NodeId,
        mut log_times: Vec<(ShardId, Timestamp)>,
    ) {
        let upstream = UpstreamRoute::Node(from);
        log_times.retain(|&(shard, _)| self.routes.upstream_for(shard) == upstream);
        self.on_log_times(log_times);
    }

    /// Handles log times.
    fn on_log_times(&mut self, log_times: Vec<(ShardId, Timestamp)>) {
        for (shard, time) in log_times {
            if self.times.advance(shard, time) {
                self.effects.push(EngineEffect::LogTime(shard, time));
            }
        }
    }

    /// The heartbeat frames for a peer; none before the first reading of this node's clock.
    pub(super) fn heartbeat_for(
        &mut self,
        to: NodeId,
        heads: Vec<(u32, Position)>,
        now: Instant,
    ) -> impl Iterator<Item = PeerFrame> + use<> {
        let known = |shard: &ShardId| self.times.log_times.get(usize::from(shard.0)).copied();
        let served =
            self.routes.view().shards.ids().filter(|shard| self.routes.may_serve(to, *shard));
        let log_times = served
            .filter_map(|shard| Some((shard, known(&shard).filter(|time| time.0 > 0)?)))
            .collect();
        let stale_shards = self.stale_shards(to, now);
        let clock = self.times.local_time(now);
        let frames = clock.map(|clock| {
            let timing = self.next_heartbeat_timing(to, now);
            heartbeat_frames(heads, stale_shards, clock, log_times, timing)
        });
        frames.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use pushonce_core::test_util::claim;

    use super::super::testing::view;
    use super::super::{EngineEvent, NodeId};
    use super::*;
    use crate::Config;

    const SHARD: ShardId = ShardId(0);

    fn engine(me: u64, now: Instant) -> Engine {
        let view = Arc::new(view(&["a", "a"]));
        let mut engine = Engine::new(Config::new(NodeId(me)), view, now);
        engine.handle(EngineEvent::LinkUp(NodeId(3 - me)), now);
        engine
    }

    fn heartbeats(effects: Vec<EngineEffect>) -> Vec<PeerFrame> {
        let heartbeat = |effect| match effect {
            EngineEffect::Send(_, frame @ PeerFrame::Heartbeat { .. }) => Some(frame),
            _ => None,
        };
        effects.into_iter().filter_map(heartbeat).collect()
    }

    #[test]
    fn heartbeat_carries_the_clock_and_the_log_times_of_shards_served_to_the_peer() {
        let start = Instant::now();
        let (mut owner, mut edge) = (engine(1, start), engine(2, start));
        owner.handle(EngineEvent::Claim(claim(SHARD.0, 1, 1)), start);
        edge.handle(EngineEvent::Frame(NodeId(1), PeerFrame::Claim(claim(SHARD.0, 1, 1))), start);
        let log_times = vec![(SHARD, Timestamp(500))];
        owner.handle(EngineEvent::Times { clock: Timestamp(9_000), log_times }, start);
        let sent = heartbeats(owner.handle(EngineEvent::Tick, start + Duration::from_millis(40)));
        let [PeerFrame::Heartbeat { clock, log_times, .. }] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!((*clock, &log_times[..]), (Timestamp(9_040), &[(SHARD, Timestamp(500))][..]));

        let received = |edge: &mut Engine| {
            let effects = edge.handle(EngineEvent::Frame(NodeId(1), sent[0].clone()), start);
            let time_effect = |effect: &EngineEffect| match effect {
                EngineEffect::PeerClock(node, time) => Some((node.0, time.0)),
                EngineEffect::LogTime(shard, time) => Some((u64::from(shard.0), time.0)),
                _ => None,
            };
            effects.iter().filter_map(time_effect).collect::<Vec<_>>()
        };
        assert_eq!(received(&mut edge), [(1, 9_040), (0, 500)]);
        assert_eq!(received(&mut edge), [(1, 9_040)], "a known log time has no effect");
        edge.handle(EngineEvent::Times { clock: Timestamp(1), log_times: vec![] }, start);
        let back = heartbeats(edge.handle(EngineEvent::Tick, start + Duration::from_secs(1)));
        let [PeerFrame::Heartbeat { log_times, .. }] = &back[..] else { panic!("{back:?}") };
        assert!(log_times.is_empty(), "an edge does not serve the owner");
    }

    #[test]
    fn owner_that_was_suspended_does_not_confirm_its_shard() {
        let start = Instant::now();
        let mut owner = engine(1, start);
        owner.handle(EngineEvent::Claim(claim(SHARD.0, 1, 1)), start);
        let mut tick = |led: bool, suspended: Duration, at: Instant| {
            owner.handle(EngineEvent::Suspended(suspended), at);
            let log_times = if led { vec![(SHARD, Timestamp(500))] } else { vec![] };
            owner.handle(EngineEvent::Times { clock: Timestamp(9_000), log_times }, at);
            heartbeats(owner.handle(EngineEvent::Tick, at))
        };
        // The age that the owner reports for its shard, if it does not confirm it.
        let stale_for = |sent: Vec<PeerFrame>| {
            let [PeerFrame::Heartbeat { stale_shards, .. }] = &sent[..] else { panic!("{sent:?}") };
            stale_shards.iter().find(|(shard, _)| *shard == SHARD).map(|&(_, age)| age)
        };
        let (second, suspended) = (Duration::from_secs(1), Duration::from_secs(4));
        assert_eq!(stale_for(tick(true, Duration::ZERO, start)), None);
        // The end of the lease is not announced yet.
        let woken = start + second;
        assert_eq!(stale_for(tick(false, suspended, woken)), Some(suspended + second));
        let again = tick(false, Duration::ZERO, woken + second);
        assert_eq!(stale_for(again), Some(suspended + 2 * second));
        // It has a lease again.
        tick(true, Duration::ZERO, woken + 2 * second - Duration::from_millis(200));
        assert_eq!(stale_for(tick(true, Duration::ZERO, woken + 2 * second)), None);
    }

    #[test]
    fn new_link_is_sent_the_clock_at_once() {
        let start = Instant::now();
        let mut engine = engine(1, start);
        engine.handle(EngineEvent::LinkDown(NodeId(2)), start);
        engine.handle(EngineEvent::Times { clock: Timestamp(9_000), log_times: vec![] }, start);
        assert_eq!(heartbeats(engine.handle(EngineEvent::LinkUp(NodeId(2)), start)).len(), 1);
    }
}

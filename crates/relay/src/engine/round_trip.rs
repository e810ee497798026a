//! Measures the round trip of a link from the heartbeats that both sides send anyway.
//!
//! A heartbeat carries the time at which it was made, and the peer returns that time in its own next
//! heartbeat, together with how long it held it. Each side computes differences of its own clock only, so
//! the clocks need not agree. RTCP measures in the same way (RFC 3550, section 6.4.1). No frame is added,
//! and a peer that does not echo is just not measured.

use std::time::{Duration, Instant};

use pushonce_core::{CommitAge, NodeId};
use pushonce_proto::peer::{HeartbeatEcho, HeartbeatTiming};

use super::Engine;
use super::effect::EngineEffect;

/// The round trip of one link while it is up.
#[derive(Debug)]
pub(crate) struct RoundTripMeter {
    /// The origin of the times that this node sends.
    origin: Instant,
    /// The peer's newest time, and when it arrived; `None` once it was echoed.
    to_echo: Option<(Duration, Instant)>,
    /// The newest result.
    pub(super) latest: Option<Duration>,
}

impl RoundTripMeter {
    pub(crate) fn new(now: Instant) -> RoundTripMeter {
        RoundTripMeter { origin: now, to_echo: None, latest: None }
    }

    /// The times for the next heartbeat to the peer.
    fn next_timing(&mut self, now: Instant) -> HeartbeatTiming {
        let echo = self.to_echo.take().map(|(sent, arrived_at)| HeartbeatEcho {
            sent,
            held: now.saturating_duration_since(arrived_at),
        });
        HeartbeatTiming { sent: Some(now.saturating_duration_since(self.origin)), echo }
    }

    /// Handles the times in a heartbeat of the peer. Returns the round trip if the heartbeat answers one. An
    /// answer that could not be true, because it is earlier than its question, is ignored.
    fn on_timing(&mut self, timing: HeartbeatTiming, now: Instant) -> Option<Duration> {
        if let Some(sent) = timing.sent {
            self.to_echo = Some((sent, now));
        }
        let HeartbeatEcho { sent, held } = timing.echo?;
        let elapsed = now.saturating_duration_since(self.origin).checked_sub(sent)?;
        let round_trip = elapsed.checked_sub(held)?;
        self.latest = Some(round_trip);
        Some(round_trip)
    }
}

impl Engine {
    /// The times for the next heartbeat to a peer.
    pub(super) fn next_heartbeat_timing(&mut self, to: NodeId, now: Instant) -> HeartbeatTiming {
        let link = self.links.get_mut(to);
        link.map_or_else(HeartbeatTiming::default, |link| link.round_trip.next_timing(now))
    }

    /// The age of messages that have just arrived from a peer and had this age when they were sent. The way
    /// is taken as half of the newest round trip; `None` before the first was measured.
    pub(super) fn age_on_arrival(&self, from: NodeId, age: Duration) -> Option<CommitAge> {
        let one_way = self.links.round_trip(from)? / 2;
        Some(CommitAge { elapsed: age.saturating_add(one_way), is_local: false })
    }

    /// Handles the times in a peer's heartbeat.
    pub(super) fn on_heartbeat_timing(
        &mut self,
        from: NodeId,
        timing: HeartbeatTiming,
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(from) else { return };
        let round_trip = link.round_trip.on_timing(timing, now);
        self.effects.extend(round_trip.map(|time| EngineEffect::RoundTrip(from, time)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn round_trip_excludes_the_time_for_which_the_peer_held_the_heartbeat() {
        let start = Instant::now();
        // The peer's link came up earlier, so its times have another origin.
        let mut here = RoundTripMeter::new(start);
        let mut peer = RoundTripMeter::new(start - 700 * MS);
        let question = here.next_timing(start + 10 * MS);
        assert_eq!(question.echo, None);
        assert_eq!(peer.on_timing(question, start + 13 * MS), None);
        let answer = peer.next_timing(start + 600 * MS);
        assert_eq!(here.on_timing(answer, start + 604 * MS), Some(7 * MS));
        let back = here.next_timing(start + 1_010 * MS);
        assert_eq!(peer.on_timing(back, start + 1_013 * MS), Some(7 * MS));
    }

    #[test]
    fn heartbeat_is_echoed_once_and_a_peer_without_times_is_not_measured() {
        let start = Instant::now();
        let mut meter = RoundTripMeter::new(start);
        let sent = Some(5 * MS);
        assert_eq!(meter.on_timing(HeartbeatTiming { sent, echo: None }, start), None);
        assert!(meter.next_timing(start).echo.is_some());
        assert_eq!(meter.next_timing(start).echo, None);
        assert_eq!(meter.on_timing(HeartbeatTiming::default(), start + MS), None);
        assert_eq!(meter.next_timing(start + MS).echo, None);
    }

    #[test]
    fn echo_of_the_future_is_ignored() {
        let start = Instant::now();
        let mut meter = RoundTripMeter::new(start);
        let echo =
            |sent, held| HeartbeatTiming { sent: None, echo: Some(HeartbeatEcho { sent, held }) };
        assert_eq!(meter.on_timing(echo(9 * MS, Duration::ZERO), start + 8 * MS), None);
        assert_eq!(meter.on_timing(echo(MS, 8 * MS), start + 8 * MS), None);
        assert_eq!(meter.on_timing(echo(MS, Duration::MAX), start + 8 * MS), None);
        assert_eq!(meter.on_timing(echo(MS, 5 * MS), start + 8 * MS), Some(2 * MS));
    }
}

//! How many frames may be under way to a client that wants the newest messages only.
//!
//! Bytes that were handed to the kernel cannot be taken back, and a client that reads slowly finds them
//! in its own receive buffer, hundreds of messages old. No socket option of the server bounds that
//! buffer, and an acknowledgement of TCP says nothing about it. A pong does: it comes when the client
//! has read everything before the ping. So the frames since the last one that a pong confirmed are
//! bounded, and the bound follows the time that a pong takes: it doubles while pongs come at once, and
//! halves while they are late.
//!
//! Pure; the time comes in.

use std::time::{Duration, Instant};

use pushonce_core::FailPoint;

/// Frames under way at first. A client with a round trip of 100 ms has a bound of a hundred after half
/// a second.
const FRAMES_INITIAL: u64 = 8;

/// Bounds of the bound.
const FRAMES_MIN: u64 = 2;
const FRAMES_MAX: u64 = 4_096;

/// A pong that takes no longer than this beyond the fastest one doubles the bound.
const FAST_PONG_MAX: Duration = Duration::from_millis(100);

/// A pong that takes longer than this beyond the fastest one halves it. Twice this time is what a
/// message may be behind, for half of the bound is under way when the ping is sent.
const LATE_PONG_MIN: Duration = Duration::from_millis(400);

/// A round trip is taken to be no longer than this: what is beyond it is the client's slowness.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(250);

/// The window of one session.
#[derive(Debug)]
pub(super) struct InFlightWindow {
    limit: u64,
    /// Frames since the beginning.
    sent: u64,
    /// Of these, those that the client has read for certain.
    confirmed: u64,
    probe: Option<PingProbe>,
    pong_delay_min: Duration,
}

/// A ping without its pong.
#[derive(Clone, Copy, Debug)]
struct PingProbe {
    /// Frames that were sent before it.
    frames_before: u64,
    sent_at: Instant,
}

impl InFlightWindow {
    pub(super) fn new() -> InFlightWindow {
        let pong_delay_min = ROUND_TRIP_MAX;
        InFlightWindow { limit: FRAMES_INITIAL, sent: 0, confirmed: 0, probe: None, pong_delay_min }
    }

    /// How many frames may be sent now.
    pub(super) fn available(&self) -> usize {
        if FailPoint::WindowUnbounded.is_active() {
            return usize::MAX;
        }
        let in_flight = self.sent - self.confirmed;
        usize::try_from(self.limit.saturating_sub(in_flight)).unwrap_or(usize::MAX)
    }

    /// Frames were sent. Some: a ping with this payload is to follow them.
    pub(super) fn on_sent(&mut self, frames: usize, now: Instant) -> Option<[u8; 8]> {
        self.sent += frames as u64;
        self.start_probe_if_due(now)
    }

    /// The payload of the ping that has no pong yet.
    pub(super) fn outstanding_ping(&self) -> Option<[u8; 8]> {
        self.probe.map(|probe| probe.frames_before.to_be_bytes())
    }

    /// A pong came. Some: a ping with this payload is to follow.
    pub(super) fn on_pong(&mut self, payload: &[u8], now: Instant) -> Option<[u8; 8]> {
        let probe = self.probe.filter(|probe| probe.frames_before.to_be_bytes() == payload)?;
        self.probe = None;
        self.confirmed = probe.frames_before;
        let delay = now.saturating_duration_since(probe.sent_at);
        self.pong_delay_min = self.pong_delay_min.min(delay);
        if delay <= self.pong_delay_min + FAST_PONG_MAX {
            self.limit = (self.limit * 2).min(FRAMES_MAX);
        } else if delay > self.pong_delay_min + LATE_PONG_MIN {
            self.limit = (self.limit / 2).max(FRAMES_MIN);
        }
        self.start_probe_if_due(now)
    }

    fn start_probe_if_due(&mut self, now: Instant) -> Option<[u8; 8]> {
        let is_due = (self.sent - self.confirmed) * 2 >= self.limit;
        if self.probe.is_some() || !is_due {
            return None;
        }
        self.probe = Some(PingProbe { frames_before: self.sent, sent_at: now });
        self.outstanding_ping()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// What is under way to a client: frames by the time they were sent, and pings.
    enum InFlightItem {
        Frame(Duration),
        Ping([u8; 8]),
    }

    struct SlowReadStats {
        /// The oldest that any frame was when it was read.
        lag: Duration,
        read: u32,
    }

    /// Ten seconds of a topic with 600 messages a second, read by a client that takes `pause` for
    /// each, over a network with this round trip and without any bound of its own.
    fn simulate_reader(pause: Duration, round_trip: Duration) -> SlowReadStats {
        let start = Instant::now();
        let mut window = InFlightWindow::new();
        let mut network: VecDeque<(Duration, InFlightItem)> = VecDeque::new();
        let mut pongs: VecDeque<(Duration, [u8; 8])> = VecDeque::new();
        let (mut free_at, mut lag, mut read) = (Duration::ZERO, Duration::ZERO, 0);
        for tick in 0..10_000 {
            let now = Duration::from_millis(tick);
            while pongs.front().is_some_and(|(at, _)| *at <= now) {
                let (_, payload) = pongs.pop_front().unwrap();
                if let Some(ping) = window.on_pong(&payload, start + now) {
                    network.push_back((now + round_trip / 2, InFlightItem::Ping(ping)));
                }
            }
            if tick * 600 / 1_000 != (tick + 1) * 600 / 1_000 && window.available() > 0 {
                network.push_back((now + round_trip / 2, InFlightItem::Frame(now)));
                if let Some(ping) = window.on_sent(1, start + now) {
                    network.push_back((now + round_trip / 2, InFlightItem::Ping(ping)));
                }
            }
            while free_at <= now && network.front().is_some_and(|(at, _)| *at <= now) {
                match network.pop_front().unwrap().1 {
                    InFlightItem::Ping(payload) => pongs.push_back((now + round_trip / 2, payload)),
                    InFlightItem::Frame(sent) => {
                        (lag, read) = (lag.max(now - sent), read + 1);
                        free_at = now + pause;
                    }
                }
            }
        }
        SlowReadStats { lag, read }
    }

    #[test]
    fn slow_reader_is_never_a_second_behind_and_reads_all_it_can() {
        for reads_a_second in [5, 10, 20, 50, 100] {
            for round_trip in [0, 20, 100].map(Duration::from_millis) {
                let pause = Duration::from_secs(1) / reads_a_second;
                let SlowReadStats { lag, read } = simulate_reader(pause, round_trip);
                let case = format!("{reads_a_second} a second, {round_trip:?}: {lag:?}, {read}");
                // The first frames of a very slow reader are sent before its slowness is known.
                let first = pause * u32::try_from(FRAMES_INITIAL).unwrap();
                assert!(lag < first.max(Duration::from_secs(1)) + round_trip, "{case}");
                assert!(read >= reads_a_second * 8, "{case}");
            }
        }
    }

    #[test]
    fn fast_reader_gets_every_message() {
        for round_trip in [1, 50, 150].map(Duration::from_millis) {
            let SlowReadStats { lag, read } = simulate_reader(Duration::ZERO, round_trip);
            assert!(lag <= round_trip, "{round_trip:?}: {lag:?}");
            assert!(read > 5_000, "{round_trip:?}: {read} of 6000");
        }
    }

    #[test]
    fn unsolicited_pong_confirms_nothing() {
        let mut window = InFlightWindow::new();
        let now = Instant::now();
        let ping = window.on_sent(window.available(), now).unwrap();
        assert_eq!(window.available(), 0);
        window.on_pong(b"", now);
        window.on_pong(&[1; 8], now);
        assert_eq!(window.available(), 0);
        assert_eq!(window.outstanding_ping(), Some(ping));
        window.on_pong(&ping, now);
        assert_eq!(window.available(), 16);
    }
}

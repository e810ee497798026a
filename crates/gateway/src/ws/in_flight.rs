//! Limits the frames in flight to a client of `latest` or `rate`.
//!
//! Bytes that were written to the kernel cannot be replaced, and a slow client finds them in its own receive
//! buffer, hundreds of messages old. No socket option of the server limits that buffer, and a TCP
//! acknowledgement does not tell whether the client has read it. A pong does: it is sent after the client has
//! read everything before the ping. The number of frames since the last confirmed one is therefore limited,
//! and the limit follows the pong delay: it doubles while pongs are fast and halves while they are late.
//!
//! Pure: the time is a parameter.

use std::time::{Duration, Instant};

use pushonce_core::FailPoint;

/// The initial limit. With a round trip of 100 ms it reaches a hundred frames after half a second.
const FRAMES_INITIAL: u64 = 8;

/// Minimum of the limit.
const FRAMES_MIN: u64 = 2;
/// Maximum of the limit.
const FRAMES_MAX: u64 = 4_096;

/// A pong that takes at most this much longer than the fastest one doubles the limit.
const FAST_PONG_MAX: Duration = Duration::from_millis(100);

/// A pong that takes more than this longer than the fastest one halves the limit. A message can lag by twice
/// this time, because half of the limit is in flight when the ping is sent.
const LATE_PONG_MIN: Duration = Duration::from_millis(400);

/// The longest assumed round trip. A longer delay is attributed to a slow client.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(250);

/// The window of one session.
#[derive(Debug)]
pub(crate) struct InFlightWindow {
    limit: u64,
    /// Frames sent in total.
    sent: u64,
    /// Frames that the client has certainly read.
    confirmed: u64,
    probe: Option<PingProbe>,
    pong_delay_min: Duration,
}

/// An outstanding ping.
#[derive(Clone, Copy, Debug)]
struct PingProbe {
    /// Frames that were sent before it.
    frames_before: u64,
    sent_at: Instant,
}

impl InFlightWindow {
    pub(crate) fn new() -> InFlightWindow {
        let pong_delay_min = ROUND_TRIP_MAX;
        InFlightWindow { limit: FRAMES_INITIAL, sent: 0, confirmed: 0, probe: None, pong_delay_min }
    }

    /// Number of frames that may be sent now.
    pub(crate) fn available(&self) -> usize {
        if FailPoint::WindowUnbounded.is_active() {
            return usize::MAX;
        }
        let in_flight = self.sent - self.confirmed;
        usize::try_from(self.limit.saturating_sub(in_flight)).unwrap_or(usize::MAX)
    }

    /// Records sent frames. Returns the payload of a ping that must follow them, if one is due.
    pub(crate) fn on_sent(&mut self, frames: usize, now: Instant) -> Option<[u8; 8]> {
        self.sent += frames as u64;
        self.start_probe_if_due(now)
    }

    /// The payload of the outstanding ping.
    pub(crate) fn outstanding_ping(&self) -> Option<[u8; 8]> {
        self.probe.map(|probe| probe.frames_before.to_be_bytes())
    }

    /// Handles a pong. Returns the payload of the next ping, if one is due.
    pub(crate) fn on_pong(&mut self, payload: &[u8], now: Instant) -> Option<[u8; 8]> {
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

    /// A frame in flight, with the time at which it was sent, or a ping.
    enum InFlightItem {
        Frame(Duration),
        Ping([u8; 8]),
    }

    struct SlowReadStats {
        /// The maximum age of a frame when it was read.
        lag: Duration,
        read: u32,
    }

    /// Simulates ten seconds of a topic with 600 messages a second, read by a client that needs `pause` for
    /// each, over a network with this round trip and unlimited buffers.
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
                // The first frames to a very slow reader are sent before the window can detect it.
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

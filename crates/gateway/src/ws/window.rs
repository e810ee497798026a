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

/// Frames under way at first. A client with a round trip of 100 ms has a bound of a hundred after half
/// a second.
const INITIAL: u64 = 8;

/// Bounds of the bound.
const MIN: u64 = 2;
const MAX: u64 = 4_096;

/// A pong that takes no longer than this beyond the fastest one doubles the bound.
const FAST: Duration = Duration::from_millis(100);

/// A pong that takes longer than this beyond the fastest one halves it. Twice this time is what a
/// message may be behind, for half of the bound is under way when the ping is sent.
const LATE: Duration = Duration::from_millis(400);

/// A round trip is taken to be no longer than this: what is beyond it is the client's slowness.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(250);

/// The window of one session.
#[derive(Debug)]
pub(super) struct Window {
    limit: u64,
    /// Frames since the beginning.
    sent: u64,
    /// Of these, those that the client has read for certain.
    confirmed: u64,
    probe: Option<Probe>,
    fastest: Duration,
}

/// A ping without its pong.
#[derive(Clone, Copy, Debug)]
struct Probe {
    /// Frames that were sent before it.
    after: u64,
    at: Instant,
}

impl Window {
    pub(super) fn new() -> Window {
        let fastest = ROUND_TRIP_MAX;
        Window { limit: INITIAL, sent: 0, confirmed: 0, probe: None, fastest }
    }

    /// How many frames may be sent now.
    pub(super) fn room(&self) -> usize {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::ignores_window() {
            return usize::MAX;
        }
        let under_way = self.sent - self.confirmed;
        usize::try_from(self.limit.saturating_sub(under_way)).unwrap_or(usize::MAX)
    }

    /// Frames were sent. Some: a ping with this payload is to follow them.
    pub(super) fn on_sent(&mut self, frames: usize, now: Instant) -> Option<[u8; 8]> {
        self.sent += frames as u64;
        self.next_probe(now)
    }

    /// The payload of the ping that has no pong yet.
    pub(super) fn outstanding(&self) -> Option<[u8; 8]> {
        self.probe.map(|probe| probe.after.to_be_bytes())
    }

    /// A pong came. Some: a ping with this payload is to follow.
    pub(super) fn on_pong(&mut self, payload: &[u8], now: Instant) -> Option<[u8; 8]> {
        let probe = self.probe.filter(|probe| probe.after.to_be_bytes() == payload)?;
        self.probe = None;
        self.confirmed = probe.after;
        let took = now.saturating_duration_since(probe.at);
        self.fastest = self.fastest.min(took);
        if took <= self.fastest + FAST {
            self.limit = (self.limit * 2).min(MAX);
        } else if took > self.fastest + LATE {
            self.limit = (self.limit / 2).max(MIN);
        }
        self.next_probe(now)
    }

    fn next_probe(&mut self, now: Instant) -> Option<[u8; 8]> {
        let due = (self.sent - self.confirmed) * 2 >= self.limit;
        if self.probe.is_some() || !due {
            return None;
        }
        self.probe = Some(Probe { after: self.sent, at: now });
        self.outstanding()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// What is under way to a client: frames by the time they were sent, and pings.
    enum Item {
        Frame(Duration),
        Ping([u8; 8]),
    }

    struct Outcome {
        /// The oldest that any frame was when it was read.
        lag: Duration,
        read: u32,
    }

    /// Ten seconds of a topic with 600 messages a second, read by a client that takes `pause` for
    /// each, over a network with this round trip and without any bound of its own.
    fn read_slowly(pause: Duration, round_trip: Duration) -> Outcome {
        let start = Instant::now();
        let mut window = Window::new();
        let mut network: VecDeque<(Duration, Item)> = VecDeque::new();
        let mut pongs: VecDeque<(Duration, [u8; 8])> = VecDeque::new();
        let (mut free_at, mut lag, mut read) = (Duration::ZERO, Duration::ZERO, 0);
        for tick in 0..10_000 {
            let now = Duration::from_millis(tick);
            while pongs.front().is_some_and(|(at, _)| *at <= now) {
                let (_, payload) = pongs.pop_front().unwrap();
                if let Some(ping) = window.on_pong(&payload, start + now) {
                    network.push_back((now + round_trip / 2, Item::Ping(ping)));
                }
            }
            if tick * 600 / 1_000 != (tick + 1) * 600 / 1_000 && window.room() > 0 {
                network.push_back((now + round_trip / 2, Item::Frame(now)));
                if let Some(ping) = window.on_sent(1, start + now) {
                    network.push_back((now + round_trip / 2, Item::Ping(ping)));
                }
            }
            while free_at <= now && network.front().is_some_and(|(at, _)| *at <= now) {
                match network.pop_front().unwrap().1 {
                    Item::Ping(payload) => pongs.push_back((now + round_trip / 2, payload)),
                    Item::Frame(sent) => {
                        (lag, read) = (lag.max(now - sent), read + 1);
                        free_at = now + pause;
                    }
                }
            }
        }
        Outcome { lag, read }
    }

    #[test]
    fn slow_reader_is_never_a_second_behind_and_reads_all_it_can() {
        for reads_a_second in [5, 10, 20, 50, 100] {
            for round_trip in [0, 20, 100].map(Duration::from_millis) {
                let pause = Duration::from_secs(1) / reads_a_second;
                let Outcome { lag, read } = read_slowly(pause, round_trip);
                let what = format!("{reads_a_second} a second, {round_trip:?}: {lag:?}, {read}");
                // The first frames of a very slow reader are sent before its slowness is known.
                let first = pause * u32::try_from(INITIAL).unwrap();
                assert!(lag < first.max(Duration::from_secs(1)) + round_trip, "{what}");
                assert!(read >= reads_a_second * 8, "{what}");
            }
        }
    }

    #[test]
    fn fast_reader_gets_every_message() {
        for round_trip in [1, 50, 150].map(Duration::from_millis) {
            let Outcome { lag, read } = read_slowly(Duration::ZERO, round_trip);
            assert!(lag <= round_trip, "{round_trip:?}: {lag:?}");
            assert!(read > 5_000, "{round_trip:?}: {read} of 6000");
        }
    }

    #[test]
    fn pong_that_was_not_asked_for_confirms_nothing() {
        let mut window = Window::new();
        let now = Instant::now();
        let ping = window.on_sent(window.room(), now).unwrap();
        assert_eq!(window.room(), 0);
        window.on_pong(b"", now);
        window.on_pong(&[1; 8], now);
        assert_eq!(window.room(), 0);
        assert_eq!(window.outstanding(), Some(ping));
        window.on_pong(&ping, now);
        assert_eq!(window.room(), 16);
    }
}

//! What is published when, and what became of it.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use pushonce::instruments::{Clock, Latency, Stamp};

use crate::crowd::{Crowd, News, Seat};

/// When the next message goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pacing {
    /// When fewer than so many are not yet read by everybody.
    Closed(usize),
    /// By the clock, so many a second. A message counts from the moment it was due.
    Open(f64),
    /// Never.
    Silent,
}

/// Messages by number, over all topics in turn, and who has not read them.
pub(crate) struct Load {
    clock: Clock,
    payload_bytes: usize,
    pacing: Pacing,
    begun: Instant,
    /// Messages of this pacing, and of the whole run.
    paced: u64,
    pub(crate) sent: u64,
    /// Readers of each topic.
    readers: Vec<u32>,
    /// How many have not read a message, from the oldest that somebody has not read.
    waiting: VecDeque<u32>,
    oldest: u64,
    /// Messages that somebody has not read.
    unread: usize,
    pub(crate) seen: Seen,
}

/// What readers saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) delivered: u64,
    /// Passed over, whether the server said so or not.
    pub(crate) missed: u64,
    /// What the server said it left out.
    pub(crate) told: u64,
    /// Again, or late.
    pub(crate) repeated: u64,
    pub(crate) latency: Latency,
}

impl Load {
    pub(crate) fn new(run: u32, payload_bytes: usize, topics: usize) -> Load {
        Load {
            clock: Clock::new(run),
            payload_bytes,
            pacing: Pacing::Silent,
            begun: Instant::now(),
            paced: 0,
            sent: 0,
            readers: vec![0; topics],
            waiting: VecDeque::new(),
            oldest: 0,
            unread: 0,
            seen: Seen::default(),
        }
    }

    /// One more reader, who counts from now on.
    pub(crate) fn joined(&mut self, topic: usize) {
        self.readers[topic] += 1;
    }

    pub(crate) fn pace(&mut self, pacing: Pacing) {
        (self.pacing, self.begun, self.paced) = (pacing, Instant::now(), 0);
    }

    /// Publishes what is due, in turn over the topics; says how long there is nothing to publish.
    pub(crate) fn publish(&mut self, crowd: &mut Crowd, publishers: Range<usize>) -> Duration {
        let now = Instant::now();
        loop {
            let due = match self.pacing {
                Pacing::Closed(in_flight) if self.unread < in_flight => now,
                Pacing::Open(rate) => {
                    self.begun + Duration::from_secs_f64(self.paced as f64 / rate)
                }
                Pacing::Closed(_) | Pacing::Silent => return IDLE,
            };
            if due > now {
                return (due - now).min(IDLE);
            }
            self.paced += 1;
            self.send(crowd, publishers.clone(), due);
        }
    }

    /// Publishes one message now, whatever the pacing.
    pub(crate) fn send(&mut self, crowd: &mut Crowd, publishers: Range<usize>, meant: Instant) {
        let topic = (self.sent % self.readers.len() as u64) as usize;
        let stamp = Stamp { sequence: self.sent, meant };
        let payload = self.clock.payload(stamp, self.payload_bytes);
        crowd.publish(publishers.start + topic % publishers.len(), topic, &payload);
        let readers = self.readers[topic];
        self.waiting.push_back(readers);
        self.unread += usize::from(readers > 0);
        self.sent += 1;
    }

    /// A seat got a message, or was told that it does not.
    pub(crate) fn hear(&mut self, seat: &mut Seat, news: &News<'_>, at: Instant) {
        match news {
            News::Message(frame) => {
                if let Some(stamp) = self.clock.find(frame) {
                    self.message(seat, stamp, at);
                }
            }
            News::Told(count) => self.seen.told += count,
            News::Ready | News::Gone(_) => {}
        }
    }

    fn message(&mut self, seat: &mut Seat, stamp: Stamp, at: Instant) {
        let topics = self.readers.len() as u64;
        let nth = ((stamp.sequence % topics) as usize).checked_sub(seat.topics.start);
        let Some(next) = nth.and_then(|nth| seat.next.get_mut(nth)) else { return };
        if stamp.sequence < *next {
            self.seen.repeated += 1;
            return;
        }
        while *next < stamp.sequence {
            self.seen.missed += 1;
            self.read(*next);
            *next += topics;
        }
        *next += topics;
        self.seen.delivered += 1;
        self.seen.latency.record(at.saturating_duration_since(stamp.meant));
        self.read(stamp.sequence);
    }

    /// One reader fewer waits for a message.
    fn read(&mut self, sequence: u64) {
        let Some(nth) = sequence.checked_sub(self.oldest) else { return };
        let Some(waiting @ 1..) = self.waiting.get_mut(nth as usize) else { return };
        *waiting -= 1;
        if *waiting == 0 {
            self.unread -= 1;
        }
        while self.waiting.front() == Some(&0) {
            self.waiting.pop_front();
            self.oldest += 1;
        }
    }

    /// Everybody has read everything.
    pub(crate) fn all_read(&self) -> bool {
        self.unread == 0
    }

    /// Deliveries that somebody still waits for.
    pub(crate) fn missing(&self) -> u64 {
        self.waiting.iter().map(|&readers| u64::from(readers)).sum()
    }
}

/// How long a turn may wait at most.
const IDLE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Role, Wire};

    fn crowd(topics: usize) -> Crowd {
        let mut crowd =
            Crowd::new(Wire::Nats, "127.0.0.1:1".parse().unwrap(), topics, false).unwrap();
        crowd.seats.push(Seat::new(0, Role::Publisher, 0..1));
        crowd
    }

    fn hear(load: &mut Load, seat: &mut Seat, sequence: u64) {
        let payload = load.clock.payload(Stamp { sequence, meant: Instant::now() }, 64);
        load.hear(seat, &News::Message(&payload), Instant::now());
    }

    #[test]
    fn the_next_goes_when_everybody_has_read_the_last() {
        let (mut crowd, mut load) = (crowd(1), Load::new(1, 64, 1));
        let mut readers = [1, 2].map(|nth| Seat::new(nth, Role::Subscriber, 0..1));
        readers.iter().for_each(|_| load.joined(0));
        load.pace(Pacing::Closed(1));
        load.publish(&mut crowd, 0..1);
        assert_eq!(load.sent, 1);
        hear(&mut load, &mut readers[0], 0);
        load.publish(&mut crowd, 0..1);
        assert_eq!(load.sent, 1, "the second reader has not read it");
        hear(&mut load, &mut readers[1], 0);
        load.publish(&mut crowd, 0..1);
        assert_eq!((load.sent, load.seen.delivered), (2, 2));
    }

    #[test]
    fn what_was_passed_over_counts_as_missed_and_is_waited_for_no_longer() {
        let (mut crowd, mut load) = (crowd(2), Load::new(1, 64, 2));
        let mut reader = Seat::new(1, Role::Subscriber, 1..2);
        load.joined(1);
        (0..6).for_each(|_| load.send(&mut crowd, 0..1, Instant::now()));
        hear(&mut load, &mut reader, 5);
        assert!(load.all_read() && load.missing() == 0);
        assert_eq!((load.seen.missed, load.seen.delivered), (2, 1));
        hear(&mut load, &mut reader, 3);
        assert_eq!(load.seen.repeated, 1);
    }

    #[test]
    fn by_the_clock_a_message_goes_whether_or_not_the_last_was_read() {
        let (mut crowd, mut load) = (crowd(1), Load::new(1, 64, 1));
        load.joined(0);
        load.pace(Pacing::Open(1e6));
        std::thread::sleep(Duration::from_millis(1));
        load.publish(&mut crowd, 0..1);
        assert!(load.sent >= 1_000);
    }
}

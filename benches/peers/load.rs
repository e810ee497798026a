//! Schedules publishes and tracks their deliveries.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use pushonce_instruments::{LatencyHistogram, MessageStamp, RunClock};

use crate::client_pool::{BenchClient, ClientEvent, ClientPool};

/// Determines when the next message is published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LoadPacing {
    /// When fewer than this many messages are unread by some reader.
    Closed(usize),
    /// At this rate per second. The latency of a message counts from its scheduled time.
    Open(f64),
    /// Never.
    Silent,
}

/// Publishes messages to all topics in turn, and tracks the readers that have not read them.
pub(crate) struct BenchLoad {
    clock: RunClock,
    payload_bytes: usize,
    pacing: LoadPacing,
    started: Instant,
    /// Messages published with the current pacing, and in the whole run.
    sent_in_pacing: u64,
    pub(crate) sent: u64,
    /// The number of readers per topic.
    readers: Vec<u32>,
    /// The number of missing readers per message, starting with the oldest unread message.
    unread_by_message: VecDeque<u32>,
    oldest_unread: u64,
    /// The number of messages that some reader has not read.
    unread_messages: usize,
    pub(crate) stats: DeliveryStats,
}

/// The deliveries of all readers.
#[derive(Default)]
pub(crate) struct DeliveryStats {
    pub(crate) delivered: u64,
    /// Messages that a reader never received, whether the server reported them or not.
    pub(crate) missed: u64,
    /// The missed messages that the server reported as skipped.
    pub(crate) skipped: u64,
    /// Duplicate or late messages.
    pub(crate) repeated: u64,
    pub(crate) latency: LatencyHistogram,
}

impl BenchLoad {
    pub(crate) fn new(run: u32, payload_bytes: usize, topics: usize) -> BenchLoad {
        BenchLoad {
            clock: RunClock::new(run),
            payload_bytes,
            pacing: LoadPacing::Silent,
            started: Instant::now(),
            sent_in_pacing: 0,
            sent: 0,
            readers: vec![0; topics],
            unread_by_message: VecDeque::new(),
            oldest_unread: 0,
            unread_messages: 0,
            stats: DeliveryStats::default(),
        }
    }

    /// Adds a reader. Only messages published from now on count for it.
    pub(crate) fn add_reader(&mut self, topic: usize) {
        self.readers[topic] += 1;
    }

    pub(crate) fn set_pacing(&mut self, pacing: LoadPacing) {
        (self.pacing, self.started, self.sent_in_pacing) = (pacing, Instant::now(), 0);
    }

    /// Publishes the messages that are due; returns the time until the next one.
    pub(crate) fn publish_due(
        &mut self,
        clients: &mut ClientPool,
        publishers: Range<usize>,
    ) -> Duration {
        let now = Instant::now();
        loop {
            let due = match self.pacing {
                LoadPacing::Closed(in_flight) if self.unread_messages < in_flight => now,
                LoadPacing::Open(rate) => {
                    self.started + Duration::from_secs_f64(self.sent_in_pacing as f64 / rate)
                }
                LoadPacing::Closed(_) | LoadPacing::Silent => return IDLE_WAIT_MAX,
            };
            if due > now {
                return (due - now).min(IDLE_WAIT_MAX);
            }
            self.sent_in_pacing += 1;
            self.publish_one(clients, publishers.clone(), due);
        }
    }

    /// Publishes one message now, independent of the pacing.
    pub(crate) fn publish_one(
        &mut self,
        clients: &mut ClientPool,
        publishers: Range<usize>,
        due: Instant,
    ) {
        let topic = (self.sent % self.readers.len() as u64) as usize;
        let stamp = MessageStamp { sequence: self.sent, due_at: due };
        let payload = self.clock.payload(stamp, self.payload_bytes);
        clients.publish(publishers.start + topic % publishers.len(), topic, &payload);
        let readers = self.readers[topic];
        self.unread_by_message.push_back(readers);
        self.unread_messages += usize::from(readers > 0);
        self.sent += 1;
    }

    /// Handles a received message or a notice about skipped messages.
    pub(crate) fn on_event(
        &mut self,
        client: &mut BenchClient,
        event: &ClientEvent<'_>,
        at: Instant,
    ) {
        match event {
            ClientEvent::Message(frame) => {
                if let Some(stamp) = self.clock.find_stamp(frame) {
                    self.on_message(client, stamp, at);
                }
            }
            ClientEvent::Skipped(count) => self.stats.skipped += count,
            ClientEvent::Ready | ClientEvent::Disconnected(_) => {}
        }
    }

    fn on_message(&mut self, client: &mut BenchClient, stamp: MessageStamp, at: Instant) {
        let topics = self.readers.len() as u64;
        let index = ((stamp.sequence % topics) as usize).checked_sub(client.topics.start);
        let Some(next_sequence) = index.and_then(|nth| client.next_sequences.get_mut(nth)) else {
            return;
        };
        if stamp.sequence < *next_sequence {
            self.stats.repeated += 1;
            return;
        }
        while *next_sequence < stamp.sequence {
            self.stats.missed += 1;
            self.mark_read(*next_sequence);
            *next_sequence += topics;
        }
        *next_sequence += topics;
        self.stats.delivered += 1;
        self.stats.latency.record(at.saturating_duration_since(stamp.due_at));
        self.mark_read(stamp.sequence);
    }

    /// Decrements the number of missing readers of a message.
    fn mark_read(&mut self, sequence: u64) {
        let Some(index) = sequence.checked_sub(self.oldest_unread) else { return };
        let Some(unread_by @ 1..) = self.unread_by_message.get_mut(index as usize) else { return };
        *unread_by -= 1;
        if *unread_by == 0 {
            self.unread_messages -= 1;
        }
        while self.unread_by_message.front() == Some(&0) {
            self.unread_by_message.pop_front();
            self.oldest_unread += 1;
        }
    }

    /// Whether every reader has read every message.
    pub(crate) fn is_all_read(&self) -> bool {
        self.unread_messages == 0
    }

    /// The number of outstanding deliveries.
    pub(crate) fn missing_deliveries(&self) -> u64 {
        self.unread_by_message.iter().map(|&readers| u64::from(readers)).sum()
    }
}

/// The maximum wait of one turn.
const IDLE_WAIT_MAX: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Role, ServerProtocol};

    fn client_pool(topics: usize) -> ClientPool {
        let mut clients = ClientPool::new(
            ServerProtocol::Nats,
            "127.0.0.1:1".parse().unwrap(),
            false,
            topics,
            false,
        )
        .unwrap();
        clients.clients.push(BenchClient::new(0, Role::Publisher, 0..1));
        clients
    }

    fn receive(load: &mut BenchLoad, client: &mut BenchClient, sequence: u64) {
        let payload = load.clock.payload(MessageStamp { sequence, due_at: Instant::now() }, 64);
        load.on_event(client, &ClientEvent::Message(&payload), Instant::now());
    }

    #[test]
    fn closed_loop_publishes_when_every_reader_has_read_the_last_message() {
        let (mut clients, mut load) = (client_pool(1), BenchLoad::new(1, 64, 1));
        let mut readers = [1, 2].map(|nth| BenchClient::new(nth, Role::Subscriber, 0..1));
        readers.iter().for_each(|_| load.add_reader(0));
        load.set_pacing(LoadPacing::Closed(1));
        load.publish_due(&mut clients, 0..1);
        assert_eq!(load.sent, 1);
        receive(&mut load, &mut readers[0], 0);
        load.publish_due(&mut clients, 0..1);
        assert_eq!(load.sent, 1, "the second reader has not read it");
        receive(&mut load, &mut readers[1], 0);
        load.publish_due(&mut clients, 0..1);
        assert_eq!((load.sent, load.stats.delivered), (2, 2));
    }

    #[test]
    fn skipped_messages_count_as_missed_and_are_not_awaited() {
        let (mut clients, mut load) = (client_pool(2), BenchLoad::new(1, 64, 2));
        let mut reader = BenchClient::new(1, Role::Subscriber, 1..2);
        load.add_reader(1);
        (0..6).for_each(|_| load.publish_one(&mut clients, 0..1, Instant::now()));
        receive(&mut load, &mut reader, 5);
        assert!(load.is_all_read() && load.missing_deliveries() == 0);
        assert_eq!((load.stats.missed, load.stats.delivered), (2, 1));
        receive(&mut load, &mut reader, 3);
        assert_eq!(load.stats.repeated, 1);
    }

    #[test]
    fn open_loop_publishes_on_schedule_regardless_of_readers() {
        let (mut clients, mut load) = (client_pool(1), BenchLoad::new(1, 64, 1));
        load.add_reader(0);
        load.set_pacing(LoadPacing::Open(1e6));
        std::thread::sleep(Duration::from_millis(1));
        load.publish_due(&mut clients, 0..1);
        assert!(load.sent >= 1_000);
    }
}

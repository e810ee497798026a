//! The unacknowledged messages of a stream: what to send next, the meaning of each reply, and what to send
//! again after a failure. Pure.
//!
//! The messages of a topic are sent in order, many at a time, each with its number. When one of them was
//! not stored, or its outcome is unknown, the topic is *paused*: nothing of it is sent until all its
//! messages in flight have a reply and a delay has passed. Then all its unacknowledged messages are sent
//! again, in order, with the same numbers. Messages that were already stored are acknowledged again with
//! the same position. Nothing is overtaken, because a shard accepts only the next number.
//!
//! When a number is lost permanently (its message was rejected, or expired), or the shard no longer knows
//! the producer, the topic *restarts* its sequence in a higher epoch from 1. A message that may have been
//! stored in the old epoch is not included; its outcome is unknown.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use pushonce_core::{
    Acknowledgement, Backoff, ProducerId, ProducerSequence, Publish, PublishId, Topic,
};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::publisher::PublishFailure;
use rand::Rng;
use tokio::time::Instant;
use tonic::Code;

use crate::publisher::Publisher;

/// Maximum number of unacknowledged payload bytes.
const BYTES_MAX: usize = 16 << 20;

/// A topic without a publish for this long restarts its sequence: half of the minimum time for which a
/// shard keeps a producer.
const TOPIC_IDLE_MAX: Duration = Duration::from_secs(150);

/// Maximum number of topics to track; above it, topics without unacknowledged messages are removed.
const TOPICS_MAX: usize = 65_536;

/// The unacknowledged messages of a stream. `W` is the waiter of a message.
pub(crate) struct PublishWindow<W> {
    producer: ProducerId,
    /// How long after it was pushed a message expires.
    deadline: Duration,
    /// The highest epoch so far. No two topic windows have the same, so a topic window may be removed.
    epoch: u32,
    /// Entries from the oldest unsettled one; the index of the first is `first_index`.
    entries: VecDeque<StreamEntry<W>>,
    first_index: u64,
    bytes: usize,
    topics: HashMap<Topic, TopicWindow>,
    /// Entries to send, by index, with the generation of their topic window.
    ready: VecDeque<(u64, u64)>,
    /// Messages sent on this connection without a reply, oldest first.
    in_flight: VecDeque<InFlightMessage>,
    /// When the pauses of topics end.
    timers: BinaryHeap<Reverse<(Instant, Topic)>>,
}

struct StreamEntry<W> {
    publish: Publish,
    deadline: Instant,
    number: u64,
    state: StreamEntryState,
    /// Why the message may have been stored without an acknowledgement.
    unknown_reason: Option<String>,
    /// The last retryable rejection.
    last_rejection: Option<PublishFailure>,
    waiter: Option<W>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamEntryState {
    Queued,
    InFlight,
    Settled,
}

/// The sequence of one topic.
struct TopicWindow {
    epoch: u32,
    next_number: u64,
    /// The unsettled entries, in order.
    unsettled: VecDeque<u64>,
    in_flight: usize,
    paused: Option<TopicPause>,
    /// Incremented to invalidate the topic's entries in `ready`.
    generation: u64,
    retry_backoff: Backoff,
    last_used_at: Instant,
}

#[derive(Clone, Copy)]
struct TopicPause {
    until: Instant,
    restart: Option<SequenceRestart>,
}

/// A restart of the topic's sequence, once none of its messages is in flight.
#[derive(Clone, Copy, Default)]
struct SequenceRestart {
    /// This entry was certainly not stored, so no later one was.
    unplaced: Option<u64>,
}

struct InFlightMessage {
    index: u64,
    topic: Topic,
    /// Whether all earlier messages of its topic were acknowledged when it was sent.
    is_first_unacknowledged: bool,
}

/// A waiter and the outcome of its message.
pub(crate) type StreamOutcome<W> = (W, Result<Acknowledgement, PublishFailure>);

impl<W> PublishWindow<W> {
    pub(crate) fn new(producer: ProducerId, deadline: Duration) -> PublishWindow<W> {
        PublishWindow {
            producer,
            deadline,
            epoch: 0,
            entries: VecDeque::new(),
            first_index: 0,
            bytes: 0,
            topics: HashMap::new(),
            ready: VecDeque::new(),
            in_flight: VecDeque::new(),
            timers: BinaryHeap::new(),
        }
    }

    /// Whether one more message can be pushed.
    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < ProducerSequence::IN_FLIGHT_MAX && self.bytes < BYTES_MAX
    }

    /// The index of the next message.
    pub(crate) fn end_index(&self) -> u64 {
        self.first_index + self.entries.len() as u64
    }

    /// Every message before this index has its outcome.
    pub(crate) fn settled_before(&self) -> u64 {
        self.first_index
    }

    /// Appends a message.
    pub(crate) fn push(&mut self, publish: Publish, waiter: W, now: Instant) {
        if self.topics.len() >= TOPICS_MAX {
            self.topics.retain(|_, topic_window| !topic_window.unsettled.is_empty());
        }
        let index = self.end_index();
        let topic_window = self.topics.entry(publish.topic.clone()).or_insert_with(|| {
            self.epoch = self.epoch.saturating_add(1);
            TopicWindow::new(self.epoch, now)
        });
        if topic_window.unsettled.is_empty()
            && now.duration_since(topic_window.last_used_at) > TOPIC_IDLE_MAX
        {
            self.epoch = self.epoch.saturating_add(1);
            (topic_window.epoch, topic_window.next_number) = (self.epoch, 1);
        }
        let number = topic_window.next_number;
        topic_window.next_number += 1;
        topic_window.last_used_at = now;
        topic_window.unsettled.push_back(index);
        if topic_window.paused.is_none() {
            self.ready.push_back((index, topic_window.generation));
        }
        self.bytes += publish.payload.len();
        self.entries.push_back(StreamEntry {
            publish,
            deadline: now + self.deadline,
            number,
            state: StreamEntryState::Queued,
            unknown_reason: None,
            last_rejection: None,
            waiter: Some(waiter),
        });
    }

    /// The next message to send.
    pub(crate) fn next_to_send(&mut self) -> Option<Publish> {
        while let Some((index, generation)) = self.ready.pop_front() {
            let Some(entry) = entry_at(&mut self.entries, self.first_index, index) else {
                continue;
            };
            let Some(topic_window) = self.topics.get_mut(&entry.publish.topic) else { continue };
            if entry.state != StreamEntryState::Queued || topic_window.generation != generation {
                continue;
            }
            entry.state = StreamEntryState::InFlight;
            topic_window.in_flight += 1;
            let topic = entry.publish.topic.clone();
            let is_first_unacknowledged = topic_window.unsettled.front() == Some(&index);
            self.in_flight.push_back(InFlightMessage { index, topic, is_first_unacknowledged });
            let (producer, epoch, number) = (self.producer, topic_window.epoch, entry.number);
            let publish_id =
                Some(PublishId::Sequence(ProducerSequence { producer, epoch, number }));
            return Some(Publish { publish_id, ..entry.publish.clone() });
        }
        None
    }

    /// Whether [`PublishWindow::next_to_send`] may return a message.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether a reply is expected.
    pub(crate) fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Handles the reply to the oldest message in flight. Returns whether there was one.
    pub(crate) fn on_reply(
        &mut self,
        reply: Result<Acknowledgement, PublishFailure>,
        now: Instant,
        rng: &mut impl Rng,
        out: &mut Vec<StreamOutcome<W>>,
    ) -> bool {
        let Some(InFlightMessage { index, topic, is_first_unacknowledged }) =
            self.in_flight.pop_front()
        else {
            return false;
        };
        if let Some(topic_window) = self.topics.get_mut(&topic) {
            topic_window.in_flight -= 1;
        }
        let sent = entry_at(&mut self.entries, self.first_index, index);
        match sent.filter(|entry| entry.state == StreamEntryState::InFlight) {
            // Already expired.
            None => {}
            Some(entry) => {
                entry.state = StreamEntryState::Queued;
                self.apply_reply(index, &topic, is_first_unacknowledged, reply, now, rng, out);
            }
        }
        self.resume_topic(&topic, now, out);
        true
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one reply")]
    fn apply_reply(
        &mut self,
        index: u64,
        topic: &Topic,
        is_first_unacknowledged: bool,
        reply: Result<Acknowledgement, PublishFailure>,
        now: Instant,
        rng: &mut impl Rng,
        out: &mut Vec<StreamOutcome<W>>,
    ) {
        let Some(entry) = entry_at(&mut self.entries, self.first_index, index) else { return };
        let unplaced = entry.unknown_reason.is_none().then_some(index);
        match reply {
            Ok(acknowledgement) => {
                self.settle(index, Ok(acknowledgement), out);
                if let Some(topic_window) = self.topics.get_mut(topic) {
                    topic_window.retry_backoff.reset();
                }
            }
            Err(PublishFailure::Unknown(reason)) => {
                entry.unknown_reason = Some(reason);
                self.pause_topic(topic, None, now, rng);
            }
            Err(rejection @ PublishFailure::Rejected { retry: false, .. }) => {
                let unknown = entry.unknown_reason.take().map(PublishFailure::Unknown);
                self.settle(index, Err(unknown.unwrap_or(rejection)), out);
                self.pause_topic(topic, Some(SequenceRestart { unplaced }), now, rng);
            }
            Err(rejection) => {
                let is_sequence_lost = is_first_unacknowledged && is_out_of_sequence(&rejection);
                entry.last_rejection = Some(rejection);
                self.pause_topic(
                    topic,
                    is_sequence_lost.then_some(SequenceRestart { unplaced }),
                    now,
                    rng,
                );
            }
        }
    }

    /// Handles a lost connection: messages in flight may have been stored.
    pub(crate) fn on_connection_lost(
        &mut self,
        reason: &str,
        now: Instant,
        out: &mut Vec<StreamOutcome<W>>,
    ) {
        for InFlightMessage { index, .. } in self.in_flight.drain(..) {
            let sent = entry_at(&mut self.entries, self.first_index, index);
            if let Some(entry) = sent.filter(|entry| entry.state == StreamEntryState::InFlight) {
                entry.state = StreamEntryState::Queued;
                entry.unknown_reason.get_or_insert_with(|| reason.to_owned());
            }
        }
        let mut paused = Vec::new();
        for (topic, topic_window) in &mut self.topics {
            topic_window.in_flight = 0;
            paused.extend(topic_window.paused.is_some().then(|| topic.clone()));
        }
        paused.iter().for_each(|topic| self.resume_topic(topic, now, out));
        self.ready.clear();
        for (offset, entry) in self.entries.iter().enumerate() {
            let topic_window = self.topics.get(&entry.publish.topic);
            let topic_window = topic_window.filter(|topic_window| topic_window.paused.is_none());
            if let Some(topic_window) =
                topic_window.filter(|_| entry.state == StreamEntryState::Queued)
            {
                self.ready.push_back((self.first_index + offset as u64, topic_window.generation));
            }
        }
    }

    /// When to call [`PublishWindow::on_timer`] if no reply arrives before.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let oldest = self.entries.front().map(|entry| entry.deadline);
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        [oldest, timer].into_iter().flatten().min()
    }

    /// Expires messages past their deadline, and resumes topics whose pause has ended.
    pub(crate) fn on_timer(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        out: &mut Vec<StreamOutcome<W>>,
    ) {
        while let Some(oldest) = self.entries.front().filter(|entry| entry.deadline <= now) {
            let (index, topic) = (self.first_index, oldest.publish.topic.clone());
            self.expire(index, &topic, now, rng, out);
        }
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((_, topic))) = self.timers.pop() {
                self.resume_topic(&topic, now, out);
            }
        }
    }

    fn expire(
        &mut self,
        index: u64,
        topic: &Topic,
        now: Instant,
        rng: &mut impl Rng,
        out: &mut Vec<StreamOutcome<W>>,
    ) {
        let Some(entry) = entry_at(&mut self.entries, self.first_index, index) else { return };
        if entry.state == StreamEntryState::InFlight {
            entry.unknown_reason.get_or_insert_with(|| "no reply in time".to_owned());
        }
        let unplaced = entry.unknown_reason.is_none().then_some(index);
        let failure = match (entry.unknown_reason.take(), entry.last_rejection.take()) {
            (Some(reason), _) => PublishFailure::Unknown(reason),
            (None, Some(rejection)) => rejection,
            (None, None) => never_sent(),
        };
        self.settle(index, Err(failure), out);
        self.pause_topic(topic, Some(SequenceRestart { unplaced }), now, rng);
        self.resume_topic(topic, now, out);
    }

    /// Stops sending messages of a topic for a while.
    fn pause_topic(
        &mut self,
        topic: &Topic,
        restart: Option<SequenceRestart>,
        now: Instant,
        rng: &mut impl Rng,
    ) {
        let Some(topic_window) = self.topics.get_mut(topic) else { return };
        if topic_window.paused.is_none() {
            let until = now + topic_window.retry_backoff.next_delay(rng.random());
            topic_window.generation += 1;
            topic_window.paused = Some(TopicPause { until, restart: None });
            self.timers.push(Reverse((until, topic.clone())));
        }
        if let (Some(pause), Some(restart)) = (&mut topic_window.paused, restart) {
            let previous = pause.restart.unwrap_or_default().unplaced;
            let unplaced = [previous, restart.unplaced].into_iter().flatten().min();
            pause.restart = Some(SequenceRestart { unplaced });
        }
    }

    /// Resumes a paused topic if none of its messages is in flight and its pause has ended.
    fn resume_topic(&mut self, topic: &Topic, now: Instant, out: &mut Vec<StreamOutcome<W>>) {
        let Some(topic_window) =
            self.topics.get_mut(topic).filter(|topic_window| topic_window.in_flight == 0)
        else {
            return;
        };
        let Some(pause) = &mut topic_window.paused else { return };
        if let Some(restart) = pause.restart.take() {
            self.restart_sequence(topic, restart, out);
        }
        let Some(topic_window) = self.topics.get_mut(topic) else { return };
        if topic_window.paused.is_some_and(|pause| pause.until <= now) {
            topic_window.paused = None;
            topic_window.generation += 1;
            self.ready.extend(
                topic_window.unsettled.iter().map(|&index| (index, topic_window.generation)),
            );
        }
    }

    fn restart_sequence(
        &mut self,
        topic: &Topic,
        restart: SequenceRestart,
        out: &mut Vec<StreamOutcome<W>>,
    ) {
        let Some(topic_window) = self.topics.get(topic) else { return };
        for index in topic_window.unsettled.clone() {
            let Some(entry) = entry_at(&mut self.entries, self.first_index, index) else {
                continue;
            };
            let is_unplaced = restart.unplaced.is_some_and(|unplaced| index >= unplaced);
            if let Some(reason) = entry.unknown_reason.take().filter(|_| !is_unplaced) {
                self.settle(index, Err(PublishFailure::Unknown(reason)), out);
            }
        }
        let Some(topic_window) = self.topics.get_mut(topic) else { return };
        self.epoch = self.epoch.saturating_add(1);
        topic_window.epoch = self.epoch;
        topic_window.next_number = 1;
        for &index in &topic_window.unsettled {
            if let Some(entry) = entry_at(&mut self.entries, self.first_index, index) {
                entry.number = topic_window.next_number;
                topic_window.next_number += 1;
            }
        }
    }

    fn settle(
        &mut self,
        index: u64,
        outcome: Result<Acknowledgement, PublishFailure>,
        out: &mut Vec<StreamOutcome<W>>,
    ) {
        let Some(entry) = entry_at(&mut self.entries, self.first_index, index) else { return };
        entry.state = StreamEntryState::Settled;
        out.extend(entry.waiter.take().map(|waiter| (waiter, outcome)));
        if let Some(topic_window) = self.topics.get_mut(&entry.publish.topic)
            && let Ok(index_in_topic) = topic_window.unsettled.binary_search(&index)
        {
            topic_window.unsettled.remove(index_in_topic);
        }
        while self.entries.front().is_some_and(|oldest| oldest.state == StreamEntryState::Settled) {
            let oldest = self.entries.pop_front();
            self.first_index += 1;
            self.bytes -= oldest.map_or(0, |oldest| oldest.publish.payload.len());
        }
    }
}

impl TopicWindow {
    fn new(epoch: u32, now: Instant) -> TopicWindow {
        TopicWindow {
            epoch,
            next_number: 1,
            unsettled: VecDeque::new(),
            in_flight: 0,
            paused: None,
            generation: 0,
            retry_backoff: Publisher::RETRY_BACKOFF,
            last_used_at: now,
        }
    }
}

fn entry_at<W>(
    entries: &mut VecDeque<StreamEntry<W>>,
    first_index: u64,
    index: u64,
) -> Option<&mut StreamEntry<W>> {
    entries.get_mut(usize::try_from(index.checked_sub(first_index)?).ok()?)
}

fn is_out_of_sequence(failure: &PublishFailure) -> bool {
    matches!(failure, PublishFailure::Rejected { code: Code::Aborted, .. })
}

fn never_sent() -> PublishFailure {
    let message = "no server accepted the message in time".to_owned();
    let (code, reason) = (Code::Unavailable, ErrorCode::Unavailable);
    PublishFailure::Rejected { code, reason, message, retry: true }
}

#[cfg(test)]
mod window_test;

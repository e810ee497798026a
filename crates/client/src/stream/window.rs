//! What a stream has sent and has no answer for: which message goes next, what an answer means, and
//! what is left after a break. Pure.
//!
//! Messages of a topic go out in their order, many at a time, each with its number. When one of them
//! was not placed, or nobody knows, the topic is *held*: nothing of it goes out until all that is
//! under way of it has come back and a pause is over; then all of it that is unacknowledged goes
//! again, in order, under the same numbers. What was placed is answered with its place a second time;
//! nothing overtakes, because a shard takes only the next number.
//!
//! When a number is lost for good (its message was refused, or waited too long) or the shard does not
//! know the producer any more, the topic begins *anew*: under a higher epoch, from 1. A message that
//! may have its place under the old epoch does not come along, its outcome is unknown.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use pushonce_core::{Acknowledgement, ProducerId, ProducerSequence, Publish, PublishId, Topic};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::publisher::PublishFailure;
use rand::Rng;
use tokio::time::Instant;
use tonic::Code;

/// What may be unacknowledged, in payload bytes.
const BYTES_MAX: usize = 16 << 20;

/// A topic that was not published to for this long begins anew: half of the time for which a shard
/// keeps a producer at least.
const TOPIC_IDLE_MAX: Duration = Duration::from_secs(150);

/// So many topics are followed; then those with nothing under way begin anew.
const TOPICS_MAX: usize = 65_536;

/// The bounds of the pause before a topic goes again: short, because a shard that moves is back in
/// a second or two, and somebody waits.
const RETRY_PAUSE_INITIAL: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);

/// The unacknowledged messages of a stream. `W` is who waits for a message.
pub(crate) struct PublishWindow<W> {
    producer: ProducerId,
    /// How long after it was pushed a message's outcome is told, whatever it is.
    deadline: Duration,
    /// The highest epoch so far. No two courses have the same, so a course may be forgotten.
    epoch: u32,
    /// From the oldest that is not settled; the number of the first is `first`.
    entries: VecDeque<StreamEntry<W>>,
    first_index: u64,
    bytes: usize,
    topics: HashMap<Topic, TopicWindow>,
    /// What may go out, by index, with the turn of its course.
    ready: VecDeque<(u64, u64)>,
    /// What went out on this connection and has no answer, oldest first.
    in_flight: VecDeque<InFlightMessage>,
    /// When held topics may go again.
    timers: BinaryHeap<Reverse<(Instant, Topic)>>,
}

struct StreamEntry<W> {
    publish: Publish,
    deadline: Instant,
    number: u64,
    state: StreamEntryState,
    /// Why it may have its place, though nobody said so.
    unknown_reason: Option<String>,
    /// What the last that refused it said.
    last_rejection: Option<PublishFailure>,
    waiter: Option<W>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamEntryState {
    Queued,
    InFlight,
    Settled,
}

/// The way of one topic.
struct TopicWindow {
    epoch: u32,
    next_number: u64,
    /// The entries that are not settled, in order.
    unsettled: VecDeque<u64>,
    in_flight: usize,
    paused: Option<TopicPause>,
    /// Rises when what is ready of it is not any more.
    generation: u64,
    failures: u32,
    last_used_at: Instant,
}

#[derive(Clone, Copy)]
struct TopicPause {
    until: Instant,
    restart: Option<SequenceRestart>,
}

/// The topic begins anew once nothing is under way.
#[derive(Clone, Copy, Default)]
struct SequenceRestart {
    /// This entry certainly has no place, so none behind it has.
    unplaced: Option<u64>,
}

struct InFlightMessage {
    index: u64,
    topic: Topic,
    /// Whether all before it in its topic was acknowledged when it went out.
    is_first_unacknowledged: bool,
}

/// Who waited, and for what.
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

    /// Whether one more may come.
    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < ProducerSequence::IN_FLIGHT_MAX && self.bytes < BYTES_MAX
    }

    /// Takes a message in, behind all before it.
    pub(crate) fn push(&mut self, publish: Publish, waiter: W, now: Instant) {
        if self.topics.len() >= TOPICS_MAX {
            self.topics.retain(|_, topic_window| !topic_window.unsettled.is_empty());
        }
        let index = self.first_index + self.entries.len() as u64;
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

    /// Whether [`PublishWindow::next`] may have one.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether an answer is waited for.
    pub(crate) fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The answer to the oldest that is under way. Says whether anything was.
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
            // Its outcome was told already.
            None => {}
            Some(entry) => {
                entry.state = StreamEntryState::Queued;
                self.apply_reply(index, &topic, is_first_unacknowledged, reply, now, rng, out);
            }
        }
        self.resume_topic(&topic, now, out);
        true
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one answer")]
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
                    topic_window.failures = 0;
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

    /// The connection broke: what was under way may have its place.
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

    /// When [`PublishWindow::on_timer`] has something to do though no answer came.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let oldest = self.entries.front().map(|entry| entry.deadline);
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        [oldest, timer].into_iter().flatten().min()
    }

    /// Ends what has waited too long, and lets go what was held long enough.
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
            entry.unknown_reason.get_or_insert_with(|| "no answer came in time".to_owned());
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

    /// Nothing more of a topic goes out for now.
    fn pause_topic(
        &mut self,
        topic: &Topic,
        restart: Option<SequenceRestart>,
        now: Instant,
        rng: &mut impl Rng,
    ) {
        let Some(topic_window) = self.topics.get_mut(topic) else { return };
        if topic_window.paused.is_none() {
            let pause_max = RETRY_PAUSE_INITIAL
                .saturating_mul(1 << topic_window.failures.min(8))
                .min(RETRY_PAUSE_MAX);
            let until = now + pause_max.mul_f64(rng.random());
            topic_window.failures += 1;
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

    /// Lets a held topic go again, if nothing of it is under way and its pause is over.
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
            failures: 0,
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
    let message = "no server took it in time".to_owned();
    let (code, reason) = (Code::Unavailable, ErrorCode::Unavailable);
    PublishFailure::Rejected { code, reason, message, retry: true }
}

#[cfg(test)]
mod window_test;

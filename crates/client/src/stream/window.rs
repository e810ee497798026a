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

use pushonce_core::{Placed, ProducerId, Publish, Sequence, Stamp, Topic};
use pushonce_proto::publisher::Failure;
use rand::Rng;
use tokio::time::Instant;
use tonic::Code;

/// What may be unacknowledged, in payload bytes.
const BYTES_MAX: usize = 16 << 20;

/// A topic that was not published to for this long begins anew: half of the time for which a shard
/// keeps a producer at least.
const REST: Duration = Duration::from_secs(150);

/// So many topics are followed; then those with nothing under way begin anew.
const TOPICS_MAX: usize = 65_536;

/// The bounds of the pause before a topic goes again: short, because a shard that moves is back in
/// a second or two, and somebody waits.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LAST: Duration = Duration::from_millis(500);

/// The unacknowledged messages of a stream. `W` is who waits for a message.
pub(crate) struct Window<W> {
    producer: ProducerId,
    /// How long after it was pushed a message's outcome is told, whatever it is.
    deadline: Duration,
    /// The highest epoch so far. No two courses have the same, so a course may be forgotten.
    epoch: u32,
    /// From the oldest that is not settled; the number of the first is `first`.
    entries: VecDeque<Entry<W>>,
    first: u64,
    bytes: usize,
    courses: HashMap<Topic, Course>,
    /// What may go out, by index, with the turn of its course.
    ready: VecDeque<(u64, u64)>,
    /// What went out on this connection and has no answer, oldest first.
    sent: VecDeque<Attempt>,
    /// When held topics may go again.
    alarms: BinaryHeap<Reverse<(Instant, Topic)>>,
}

struct Entry<W> {
    publish: Publish,
    until: Instant,
    number: u64,
    state: State,
    /// Why it may have its place, though nobody said so.
    doubt: Option<String>,
    /// What the last that refused it said.
    refused: Option<Failure>,
    waiter: Option<W>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Sent,
    Settled,
}

/// The way of one topic.
struct Course {
    epoch: u32,
    next: u64,
    /// The entries that are not settled, in order.
    open: VecDeque<u64>,
    under_way: usize,
    held: Option<Hold>,
    /// Rises when what is ready of it is not any more.
    turn: u64,
    failures: u32,
    used: Instant,
}

#[derive(Clone, Copy)]
struct Hold {
    until: Instant,
    anew: Option<Anew>,
}

/// The topic begins anew once nothing is under way.
#[derive(Clone, Copy, Default)]
struct Anew {
    /// This entry certainly has no place, so none behind it has.
    unplaced: Option<u64>,
}

struct Attempt {
    index: u64,
    topic: Topic,
    /// Whether all before it in its topic was acknowledged when it went out.
    heads: bool,
}

/// Who waited, and for what.
pub(crate) type Outcome<W> = (W, Result<Placed, Failure>);

impl<W> Window<W> {
    pub(crate) fn new(producer: ProducerId, deadline: Duration) -> Window<W> {
        Window {
            producer,
            deadline,
            epoch: 0,
            entries: VecDeque::new(),
            first: 0,
            bytes: 0,
            courses: HashMap::new(),
            ready: VecDeque::new(),
            sent: VecDeque::new(),
            alarms: BinaryHeap::new(),
        }
    }

    /// Whether one more may come.
    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < Sequence::WINDOW && self.bytes < BYTES_MAX
    }

    /// Takes a message in, behind all before it.
    pub(crate) fn push(&mut self, publish: Publish, waiter: W, now: Instant) {
        if self.courses.len() >= TOPICS_MAX {
            self.courses.retain(|_, course| !course.open.is_empty());
        }
        let index = self.first + self.entries.len() as u64;
        let course = self.courses.entry(publish.topic.clone()).or_insert_with(|| {
            self.epoch = self.epoch.saturating_add(1);
            Course::new(self.epoch, now)
        });
        if course.open.is_empty() && now.duration_since(course.used) > REST {
            self.epoch = self.epoch.saturating_add(1);
            (course.epoch, course.next) = (self.epoch, 1);
        }
        let number = course.next;
        course.next += 1;
        course.used = now;
        course.open.push_back(index);
        if course.held.is_none() {
            self.ready.push_back((index, course.turn));
        }
        self.bytes += publish.payload.len();
        self.entries.push_back(Entry {
            publish,
            until: now + self.deadline,
            number,
            state: State::Waiting,
            doubt: None,
            refused: None,
            waiter: Some(waiter),
        });
    }

    /// The next message to send.
    pub(crate) fn next(&mut self) -> Option<Publish> {
        while let Some((index, turn)) = self.ready.pop_front() {
            let Some(entry) = entry(&mut self.entries, self.first, index) else { continue };
            let Some(course) = self.courses.get_mut(&entry.publish.topic) else { continue };
            if entry.state != State::Waiting || course.turn != turn {
                continue;
            }
            entry.state = State::Sent;
            course.under_way += 1;
            let topic = entry.publish.topic.clone();
            let heads = course.open.front() == Some(&index);
            self.sent.push_back(Attempt { index, topic, heads });
            let (producer, epoch, number) = (self.producer, course.epoch, entry.number);
            let stamp = Some(Stamp::Sequence(Sequence { producer, epoch, number }));
            return Some(Publish { stamp, ..entry.publish.clone() });
        }
        None
    }

    /// Whether [`Window::next`] may have one.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether an answer is waited for.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.sent.is_empty()
    }

    /// The answer to the oldest that is under way. Says whether anything was.
    pub(crate) fn answer(
        &mut self,
        answer: Result<Placed, Failure>,
        now: Instant,
        rng: &mut impl Rng,
        out: &mut Vec<Outcome<W>>,
    ) -> bool {
        let Some(Attempt { index, topic, heads }) = self.sent.pop_front() else { return false };
        if let Some(course) = self.courses.get_mut(&topic) {
            course.under_way -= 1;
        }
        let sent = entry(&mut self.entries, self.first, index);
        match sent.filter(|entry| entry.state == State::Sent) {
            // Its outcome was told already.
            None => {}
            Some(entry) => {
                entry.state = State::Waiting;
                self.answered(index, &topic, heads, answer, now, rng, out);
            }
        }
        self.go_on(&topic, now, out);
        true
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one answer")]
    fn answered(
        &mut self,
        index: u64,
        topic: &Topic,
        heads: bool,
        answer: Result<Placed, Failure>,
        now: Instant,
        rng: &mut impl Rng,
        out: &mut Vec<Outcome<W>>,
    ) {
        let Some(entry) = entry(&mut self.entries, self.first, index) else { return };
        let unplaced = entry.doubt.is_none().then_some(index);
        match answer {
            Ok(placed) => {
                self.settle(index, Ok(placed), out);
                if let Some(course) = self.courses.get_mut(topic) {
                    course.failures = 0;
                }
            }
            Err(Failure::Unknown(why)) => {
                entry.doubt = Some(why);
                self.hold(topic, None, now, rng);
            }
            Err(refused @ Failure::Refused { retry: false, .. }) => {
                let doubt = entry.doubt.take().map(Failure::Unknown);
                self.settle(index, Err(doubt.unwrap_or(refused)), out);
                self.hold(topic, Some(Anew { unplaced }), now, rng);
            }
            Err(refused) => {
                let lost = heads && is_out_of_sequence(&refused);
                entry.refused = Some(refused);
                self.hold(topic, lost.then_some(Anew { unplaced }), now, rng);
            }
        }
    }

    /// The connection broke: what was under way may have its place.
    pub(crate) fn broke(&mut self, why: &str, now: Instant, out: &mut Vec<Outcome<W>>) {
        for Attempt { index, .. } in self.sent.drain(..) {
            let sent = entry(&mut self.entries, self.first, index);
            if let Some(entry) = sent.filter(|entry| entry.state == State::Sent) {
                entry.state = State::Waiting;
                entry.doubt.get_or_insert_with(|| why.to_owned());
            }
        }
        let mut held = Vec::new();
        for (topic, course) in &mut self.courses {
            course.under_way = 0;
            held.extend(course.held.is_some().then(|| topic.clone()));
        }
        held.iter().for_each(|topic| self.go_on(topic, now, out));
        self.ready.clear();
        for (place, entry) in self.entries.iter().enumerate() {
            let course = self.courses.get(&entry.publish.topic);
            let course = course.filter(|course| course.held.is_none());
            if let Some(course) = course.filter(|_| entry.state == State::Waiting) {
                self.ready.push_back((self.first + place as u64, course.turn));
            }
        }
    }

    /// When [`Window::wake`] has something to do though no answer came.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let oldest = self.entries.front().map(|entry| entry.until);
        let alarm = self.alarms.peek().map(|Reverse((at, _))| *at);
        [oldest, alarm].into_iter().flatten().min()
    }

    /// Ends what has waited too long, and lets go what was held long enough.
    pub(crate) fn wake(&mut self, now: Instant, rng: &mut impl Rng, out: &mut Vec<Outcome<W>>) {
        while let Some(oldest) = self.entries.front().filter(|entry| entry.until <= now) {
            let (index, topic) = (self.first, oldest.publish.topic.clone());
            self.expire(index, &topic, now, rng, out);
        }
        while self.alarms.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((_, topic))) = self.alarms.pop() {
                self.go_on(&topic, now, out);
            }
        }
    }

    fn expire(
        &mut self,
        index: u64,
        topic: &Topic,
        now: Instant,
        rng: &mut impl Rng,
        out: &mut Vec<Outcome<W>>,
    ) {
        let Some(entry) = entry(&mut self.entries, self.first, index) else { return };
        if entry.state == State::Sent {
            entry.doubt.get_or_insert_with(|| "no answer came in time".to_owned());
        }
        let unplaced = entry.doubt.is_none().then_some(index);
        let failure = match (entry.doubt.take(), entry.refused.take()) {
            (Some(why), _) => Failure::Unknown(why),
            (None, Some(refused)) => refused,
            (None, None) => not_sent(),
        };
        self.settle(index, Err(failure), out);
        self.hold(topic, Some(Anew { unplaced }), now, rng);
        self.go_on(topic, now, out);
    }

    /// Nothing more of a topic goes out for now.
    fn hold(&mut self, topic: &Topic, anew: Option<Anew>, now: Instant, rng: &mut impl Rng) {
        let Some(course) = self.courses.get_mut(topic) else { return };
        if course.held.is_none() {
            let bound = PAUSE_FIRST.saturating_mul(1 << course.failures.min(8)).min(PAUSE_LAST);
            let until = now + bound.mul_f64(rng.random());
            course.failures += 1;
            course.turn += 1;
            course.held = Some(Hold { until, anew: None });
            self.alarms.push(Reverse((until, topic.clone())));
        }
        if let (Some(hold), Some(anew)) = (&mut course.held, anew) {
            let before = hold.anew.unwrap_or_default().unplaced;
            let unplaced = [before, anew.unplaced].into_iter().flatten().min();
            hold.anew = Some(Anew { unplaced });
        }
    }

    /// Lets a held topic go again, if nothing of it is under way and its pause is over.
    fn go_on(&mut self, topic: &Topic, now: Instant, out: &mut Vec<Outcome<W>>) {
        let Some(course) = self.courses.get_mut(topic).filter(|course| course.under_way == 0)
        else {
            return;
        };
        let Some(hold) = &mut course.held else { return };
        if let Some(anew) = hold.anew.take() {
            self.begin_anew(topic, anew, out);
        }
        let Some(course) = self.courses.get_mut(topic) else { return };
        if course.held.is_some_and(|hold| hold.until <= now) {
            course.held = None;
            course.turn += 1;
            self.ready.extend(course.open.iter().map(|&index| (index, course.turn)));
        }
    }

    fn begin_anew(&mut self, topic: &Topic, anew: Anew, out: &mut Vec<Outcome<W>>) {
        let Some(course) = self.courses.get(topic) else { return };
        for index in course.open.clone() {
            let Some(entry) = entry(&mut self.entries, self.first, index) else { continue };
            let certain = anew.unplaced.is_some_and(|unplaced| index >= unplaced);
            if let Some(why) = entry.doubt.take().filter(|_| !certain) {
                self.settle(index, Err(Failure::Unknown(why)), out);
            }
        }
        let Some(course) = self.courses.get_mut(topic) else { return };
        self.epoch = self.epoch.saturating_add(1);
        course.epoch = self.epoch;
        course.next = 1;
        for &index in &course.open {
            if let Some(entry) = entry(&mut self.entries, self.first, index) {
                entry.number = course.next;
                course.next += 1;
            }
        }
    }

    fn settle(&mut self, index: u64, outcome: Result<Placed, Failure>, out: &mut Vec<Outcome<W>>) {
        let Some(entry) = entry(&mut self.entries, self.first, index) else { return };
        entry.state = State::Settled;
        out.extend(entry.waiter.take().map(|waiter| (waiter, outcome)));
        if let Some(course) = self.courses.get_mut(&entry.publish.topic)
            && let Ok(place) = course.open.binary_search(&index)
        {
            course.open.remove(place);
        }
        while self.entries.front().is_some_and(|oldest| oldest.state == State::Settled) {
            let oldest = self.entries.pop_front();
            self.first += 1;
            self.bytes -= oldest.map_or(0, |oldest| oldest.publish.payload.len());
        }
    }
}

impl Course {
    fn new(epoch: u32, now: Instant) -> Course {
        Course {
            epoch,
            next: 1,
            open: VecDeque::new(),
            under_way: 0,
            held: None,
            turn: 0,
            failures: 0,
            used: now,
        }
    }
}

fn entry<W>(entries: &mut VecDeque<Entry<W>>, first: u64, index: u64) -> Option<&mut Entry<W>> {
    entries.get_mut(usize::try_from(index.checked_sub(first)?).ok()?)
}

fn is_out_of_sequence(refused: &Failure) -> bool {
    matches!(refused, Failure::Refused { code: Code::Aborted, .. })
}

fn not_sent() -> Failure {
    let message = "no server took it in time".to_owned();
    Failure::Refused { code: Code::Unavailable, message, retry: true }
}

#[cfg(test)]
mod window_test;

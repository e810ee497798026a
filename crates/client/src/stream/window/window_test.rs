//! A stream in a world that loses, delays, refuses, breaks and forgets.

use bytes::Bytes;
use proptest::prelude::*;
use pushonce_core::{ContentType, Position, PublishError, Refusal, Timestamp};
use pushonce_proto::pb::publisher::v1 as pb;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const DEADLINE: Duration = Duration::from_secs(2);

const TOPICS: [&str; 3] = ["a", "b", "b/c"];

/// What the owner of a topic knows: the rules of the contract, in a dozen lines.
#[derive(Default)]
struct Owner {
    /// The messages of the topic.
    log: Vec<u64>,
    /// Epoch and places of the producer; `None` when it is not known (any more).
    known: Option<(u32, Vec<u64>)>,
}

impl Owner {
    fn apply(&mut self, publish: &Publish) -> Result<Placed, Failure> {
        let Some(Stamp::Sequence(asked)) = publish.stamp else { panic!("not numbered") };
        let (epoch, places) = self.known.clone().unwrap_or_default();
        let known = self.known.is_some();
        if known && asked.epoch == epoch && asked.number <= places.len() as u64 {
            return Ok(placed(places[asked.number as usize - 1]));
        }
        let next = known && asked.epoch == epoch && asked.number == places.len() as u64 + 1;
        let first = (!known || asked.epoch > epoch) && asked.number == 1;
        if !next && !first {
            return Err(failure(Refusal::OutOfSequence { asked, expected: None }.into()));
        }
        self.log.push(id(publish));
        let mut places = if first { vec![] } else { places };
        places.push(self.log.len() as u64);
        self.known = Some((asked.epoch, places));
        Ok(placed(self.log.len() as u64))
    }
}

/// What a server does with the next request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Apply,
    Busy,
    RefuseForGood,
    /// It is applied, and the answer says that nobody knows.
    UnknownApplied,
    /// It may be applied later.
    UnknownLate,
    UnknownLost,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(usize),
    Send(usize),
    Serve(Fate),
    Answer(usize),
    /// The connection breaks. So many requests were applied all the same, and so many will be.
    Break {
        applied: usize,
        late: usize,
    },
    Late(usize),
    Forget(usize),
    Tick(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        8 => Just(Fate::Apply),
        1 => Just(Fate::Busy),
        1 => Just(Fate::RefuseForGood),
        1 => Just(Fate::UnknownApplied),
        1 => Just(Fate::UnknownLate),
        1 => Just(Fate::UnknownLost),
    ];
    prop_oneof![
        6 => (0..TOPICS.len()).prop_map(Step::Push),
        5 => (1..6usize).prop_map(Step::Send),
        10 => fate.prop_map(Step::Serve),
        5 => (1..6usize).prop_map(Step::Answer),
        1 => (0..4usize, 0..4usize).prop_map(|(applied, late)| Step::Break { applied, late }),
        1 => (0..4usize).prop_map(Step::Late),
        1 => (0..TOPICS.len()).prop_map(Step::Forget),
        3 => (1..600u64).prop_map(Step::Tick),
    ]
}

struct World {
    window: Window<u64>,
    owners: HashMap<Topic, Owner>,
    wire: VecDeque<Publish>,
    answers: VecDeque<Result<Placed, Failure>>,
    late: Vec<Publish>,
    pushed: HashMap<u64, Topic>,
    outcomes: HashMap<u64, Result<Placed, Failure>>,
    out: Vec<Outcome<u64>>,
    now: Instant,
    rng: StdRng,
}

impl World {
    fn new() -> World {
        World {
            window: Window::new(ProducerId(7), DEADLINE),
            owners: HashMap::new(),
            wire: VecDeque::new(),
            answers: VecDeque::new(),
            late: vec![],
            pushed: HashMap::new(),
            outcomes: HashMap::new(),
            out: vec![],
            now: Instant::now(),
            rng: StdRng::seed_from_u64(7),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push(nth) => self.push(nth),
            Step::Send(n) => self.wire.extend((0..n).map_while(|_| self.window.next())),
            Step::Serve(fate) => self.serve(fate),
            Step::Answer(n) => (0..n).for_each(|_| self.answer()),
            Step::Break { applied, late } => self.break_off(applied, late),
            Step::Late(nth) if nth < self.late.len() => {
                let publish = self.late.remove(nth);
                let _nobody_asks = self.apply(&publish);
            }
            Step::Late(_) => {}
            Step::Forget(nth) => self.forget(nth),
            Step::Tick(ms) => {
                self.now += Duration::from_millis(ms);
                self.window.wake(self.now, &mut self.rng, &mut self.out);
            }
        }
        for (id, outcome) in self.out.drain(..) {
            assert!(self.outcomes.insert(id, outcome).is_none(), "{id} was answered twice");
        }
    }

    fn push(&mut self, nth: usize) {
        let (id, publish) = (self.pushed.len() as u64, message(nth, self.pushed.len() as u64));
        self.pushed.insert(id, publish.topic.clone());
        self.window.push(publish, id, self.now);
    }

    fn apply(&mut self, publish: &Publish) -> Result<Placed, Failure> {
        self.owners.entry(publish.topic.clone()).or_default().apply(publish)
    }

    fn serve(&mut self, fate: Fate) {
        let Some(publish) = self.wire.pop_front() else { return };
        let unknown = || failure(PublishError::unknown("lost"));
        let answer = match fate {
            Fate::Apply => self.apply(&publish),
            Fate::Busy => Err(failure(Refusal::Overloaded("full".to_owned()).into())),
            Fate::RefuseForGood => Err(failure(pushonce_core::InvalidPublish::NotText.into())),
            Fate::UnknownApplied => self.apply(&publish).and(Err(unknown())),
            Fate::UnknownLate => {
                self.late.push(publish);
                Err(unknown())
            }
            Fate::UnknownLost => Err(unknown()),
        };
        self.answers.push_back(answer);
    }

    fn answer(&mut self) {
        if let Some(answer) = self.answers.pop_front() {
            assert!(self.window.answer(answer, self.now, &mut self.rng, &mut self.out));
        }
    }

    fn break_off(&mut self, applied: usize, late: usize) {
        let wire: Vec<_> = self.wire.drain(..).collect();
        let (now, later) = wire.split_at(applied.min(wire.len()));
        now.iter().for_each(|publish| drop(self.apply(publish)));
        self.late.extend(later.iter().take(late).cloned());
        self.answers.clear();
        self.window.broke("it broke", self.now, &mut self.out);
    }

    /// A shard forgets a producer long after its last message: nothing of it is on its way then.
    fn forget(&mut self, nth: usize) {
        let topic = topic(nth);
        let course = self.window.courses.get(&topic);
        let rests = course.is_none_or(|course| course.open.is_empty() && course.under_way == 0);
        if rests && !self.late.iter().any(|publish| publish.topic == topic) {
            self.owners.entry(topic).or_default().known = None;
        }
    }

    /// All faults end. Whatever is late arrives at last.
    fn heal(&mut self) {
        (0..TOPICS.len()).for_each(|nth| self.step(Step::Push(nth)));
        while !self.window.entries.is_empty() {
            self.step(Step::Send(usize::MAX));
            while !self.wire.is_empty() {
                self.step(Step::Serve(Fate::Apply));
            }
            self.step(Step::Answer(self.answers.len()));
            self.step(Step::Tick(50));
        }
        while !self.late.is_empty() {
            self.step(Step::Late(0));
        }
    }

    fn stands(&self, id: u64) -> Vec<u64> {
        let owner = &self.owners.get(&self.pushed[&id]);
        let log = owner.iter().flat_map(|owner| owner.log.iter().zip(1..));
        log.filter(|(one, _)| **one == id).map(|(_, offset)| offset).collect()
    }
}

fn topic(nth: usize) -> Topic {
    Topic::new(TOPICS[nth]).unwrap()
}

fn message(nth: usize, id: u64) -> Publish {
    let payload = Bytes::copy_from_slice(&id.to_be_bytes());
    Publish {
        topic: topic(nth),
        content_type: ContentType::Binary,
        key: None,
        stamp: None,
        payload,
    }
}

fn id(publish: &Publish) -> u64 {
    u64::from_be_bytes(publish.payload[..].try_into().unwrap())
}

fn placed(offset: u64) -> Placed {
    Placed {
        position: Position::new(1, offset),
        time: Timestamp(0),
        durability: Default::default(),
    }
}

fn failure(error: PublishError) -> Failure {
    pb::PublishFailure::from(&error).into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_acknowledged_stands_once_in_order_where_it_was_said(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new();
        steps.iter().for_each(|&step| world.step(step));
        world.heal();
        for id in 0..world.pushed.len() as u64 {
            let stands = world.stands(id);
            match &world.outcomes[&id] {
                Ok(placed) => prop_assert_eq!(&stands[..], [placed.position.offset.0], "{}", id),
                Err(Failure::Unknown(_)) => prop_assert!(stands.len() <= 1, "{id}: {stands:?}"),
                Err(refused) => prop_assert!(stands.is_empty(), "{id}: {stands:?}, {refused}"),
            }
        }
        for (topic, owner) in &world.owners {
            prop_assert!(owner.log.is_sorted(), "{topic}: {:?}", owner.log);
        }
    }

    /// Nothing is refused and nobody forgets: then all arrives, whatever breaks.
    #[test]
    fn a_stream_over_connections_that_break_loses_nothing(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Serve(Fate::RefuseForGood | Fate::Busy) | Step::Forget(_) => {}
                // Short of any deadline, over all steps.
                Step::Tick(ms) => world.step(Step::Tick(ms / 600)),
                step => world.step(step),
            }
        }
        world.heal();
        let failed = world.outcomes.iter().find(|(_, outcome)| outcome.is_err());
        prop_assert_eq!(failed, None);
    }
}

/// A world whose three messages to one topic are on the wire.
fn three() -> World {
    let mut world = World::new();
    (0..3).for_each(|_| world.step(Step::Push(0)));
    world.step(Step::Send(3));
    world
}

fn numbers(world: &World) -> Vec<(u32, u64)> {
    let sequence = |publish: &Publish| match publish.stamp {
        Some(Stamp::Sequence(sequence)) => (sequence.epoch, sequence.number),
        _ => panic!("not numbered"),
    };
    world.wire.iter().map(sequence).collect()
}

#[test]
fn messages_are_numbered_by_topic_from_one() {
    let mut world = three();
    world.step(Step::Push(1));
    world.step(Step::Send(9));
    assert_eq!(numbers(&world), [(1, 1), (1, 2), (1, 3), (2, 1)]);
}

#[test]
fn after_a_break_what_is_unacknowledged_goes_again_under_the_same_numbers() {
    let mut world = three();
    world.step(Step::Serve(Fate::Apply));
    world.step(Step::Answer(1));
    world.step(Step::Break { applied: 1, late: 0 });
    world.step(Step::Send(9));
    assert_eq!(numbers(&world), [(1, 2), (1, 3)]);
}

#[test]
fn a_topic_is_held_until_all_of_it_is_back_and_others_go_on() {
    let mut world = three();
    world.step(Step::Serve(Fate::Busy));
    world.step(Step::Answer(1));
    world.step(Step::Push(1));
    world.step(Step::Tick(600));
    world.step(Step::Send(9));
    assert_eq!(numbers(&world), [(1, 2), (1, 3), (2, 1)], "only the other topic went out");
    (0..3).for_each(|_| world.step(Step::Serve(Fate::Apply)));
    world.step(Step::Answer(3));
    world.step(Step::Send(9));
    assert_eq!(numbers(&world), [(1, 1), (1, 2), (1, 3)]);
}

#[test]
fn behind_a_message_that_is_refused_for_good_the_topic_begins_anew() {
    let mut world = three();
    world.step(Step::Serve(Fate::RefuseForGood));
    (0..2).for_each(|_| world.step(Step::Serve(Fate::Apply)));
    world.step(Step::Answer(3));
    world.step(Step::Tick(600));
    world.step(Step::Send(9));
    assert_eq!(numbers(&world), [(2, 1), (2, 2)]);
    assert!(matches!(world.outcomes[&0], Err(Failure::Refused { retry: false, .. })));
}

#[test]
fn a_topic_whose_producer_was_forgotten_begins_anew() {
    let mut world = three();
    (0..3).for_each(|_| world.step(Step::Serve(Fate::Apply)));
    world.step(Step::Answer(3));
    world.step(Step::Forget(0));
    world.heal();
    assert!(world.outcomes.values().all(Result::is_ok), "{:?}", world.outcomes);
    assert_eq!(world.stands(3), [4]);
}

#[test]
fn a_topic_that_rested_begins_anew() {
    let mut world = three();
    (0..3).for_each(|_| world.step(Step::Serve(Fate::Apply)));
    world.step(Step::Answer(3));
    world.step(Step::Tick(REST.as_millis() as u64 + 1));
    world.step(Step::Push(0));
    world.step(Step::Send(1));
    assert_eq!(numbers(&world), [(2, 1)]);
}

#[test]
fn what_waits_too_long_is_refused_if_it_never_went_and_unknown_if_it_did() {
    let mut world = three();
    world.step(Step::Push(1));
    world.step(Step::Tick(2_001));
    assert!(matches!(world.outcomes[&0], Err(Failure::Unknown(_))));
    assert!(matches!(world.outcomes[&3], Err(Failure::Refused { retry: true, .. })));
}

#[test]
fn no_more_is_taken_than_the_window_has_room_for() {
    let mut world = World::new();
    while world.window.has_room() {
        world.push(0);
    }
    assert_eq!(world.pushed.len(), Sequence::WINDOW);
    world.step(Step::Send(2));
    (0..2).for_each(|_| world.step(Step::Serve(Fate::Apply)));
    world.step(Step::Answer(1));
    assert!(world.window.has_room());
}

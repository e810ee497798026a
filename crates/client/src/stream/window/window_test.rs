//! A simulation of a stream whose messages are lost, delayed and rejected, whose connections break, and
//! whose producer is forgotten.

use proptest::prelude::*;
use pushonce_core::{OverloadReason, PublishError, PublishRejection, test_util};
use pushonce_proto::pb::publisher::v1 as pb;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const DEADLINE: Duration = Duration::from_secs(2);

const TOPICS: [&str; 3] = ["a", "b", "b/c"];

/// A minimal model of the owner of a topic, with the rules of the protocol.
#[derive(Default)]
struct OwnerModel {
    /// The messages of the topic.
    log: Vec<u64>,
    /// Epoch and offsets of the producer; `None` when it is unknown.
    producer: Option<(u32, Vec<u64>)>,
}

impl OwnerModel {
    fn on_publish(&mut self, publish: &Publish) -> Result<Acknowledgement, PublishFailure> {
        let Some(PublishId::Sequence(sequence)) = publish.publish_id else { panic!("no sequence") };
        let (epoch, offsets) = self.producer.clone().unwrap_or_default();
        let is_known = self.producer.is_some();
        if is_known && sequence.epoch == epoch && sequence.number <= offsets.len() as u64 {
            return Ok(acknowledgement(offsets[sequence.number as usize - 1]));
        }
        let is_next =
            is_known && sequence.epoch == epoch && sequence.number == offsets.len() as u64 + 1;
        let is_first = (!is_known || sequence.epoch > epoch) && sequence.number == 1;
        if !is_next && !is_first {
            return Err(failure(
                PublishRejection::OutOfSequence { received: sequence, expected: None }.into(),
            ));
        }
        self.log.push(id(publish));
        let mut offsets = if is_first { vec![] } else { offsets };
        offsets.push(self.log.len() as u64);
        self.producer = Some((sequence.epoch, offsets));
        Ok(acknowledgement(self.log.len() as u64))
    }
}

/// The effect of a server on the next request.
#[derive(Clone, Copy, Debug)]
enum RequestOutcome {
    Applied,
    Overloaded,
    RejectedPermanently,
    /// The message is stored, and the reply is unknown.
    UnknownApplied,
    /// The message may be stored later.
    UnknownDelayed,
    UnknownLost,
}

#[derive(Clone, Copy, Debug)]
enum WindowStep {
    Push(usize),
    Send(usize),
    Serve(RequestOutcome),
    Reply(usize),
    /// The connection breaks. This many requests were applied nevertheless, and this many are applied
    /// later.
    Disconnect {
        applied: usize,
        delayed: usize,
    },
    DeliverDelayed(usize),
    ForgetProducer(usize),
    AdvanceMs(u64),
}

fn step() -> impl Strategy<Value = WindowStep> {
    let outcome = prop_oneof![
        8 => Just(RequestOutcome::Applied),
        1 => Just(RequestOutcome::Overloaded),
        1 => Just(RequestOutcome::RejectedPermanently),
        1 => Just(RequestOutcome::UnknownApplied),
        1 => Just(RequestOutcome::UnknownDelayed),
        1 => Just(RequestOutcome::UnknownLost),
    ];
    prop_oneof![
        6 => (0..TOPICS.len()).prop_map(WindowStep::Push),
        5 => (1..6usize).prop_map(WindowStep::Send),
        10 => outcome.prop_map(WindowStep::Serve),
        5 => (1..6usize).prop_map(WindowStep::Reply),
        1 => (0..4usize, 0..4usize).prop_map(|(applied, delayed)| WindowStep::Disconnect { applied, delayed }),
        1 => (0..4usize).prop_map(WindowStep::DeliverDelayed),
        1 => (0..TOPICS.len()).prop_map(WindowStep::ForgetProducer),
        3 => (1..600u64).prop_map(WindowStep::AdvanceMs),
    ]
}

struct WindowSimulation {
    window: PublishWindow<u64>,
    owners: HashMap<Topic, OwnerModel>,
    requests: VecDeque<Publish>,
    replies: VecDeque<Result<Acknowledgement, PublishFailure>>,
    delayed: Vec<Publish>,
    pushed: HashMap<u64, Topic>,
    outcomes: HashMap<u64, Result<Acknowledgement, PublishFailure>>,
    out: Vec<StreamOutcome<u64>>,
    now: Instant,
    rng: StdRng,
}

impl WindowSimulation {
    fn new() -> WindowSimulation {
        WindowSimulation {
            window: PublishWindow::new(ProducerId(7), DEADLINE),
            owners: HashMap::new(),
            requests: VecDeque::new(),
            replies: VecDeque::new(),
            delayed: vec![],
            pushed: HashMap::new(),
            outcomes: HashMap::new(),
            out: vec![],
            now: Instant::now(),
            rng: StdRng::seed_from_u64(7),
        }
    }

    fn step(&mut self, step: WindowStep) {
        match step {
            WindowStep::Push(topic_index) => self.push(topic_index),
            WindowStep::Send(n) => {
                self.requests.extend((0..n).map_while(|_| self.window.next_to_send()))
            }
            WindowStep::Serve(outcome) => self.serve(outcome),
            WindowStep::Reply(n) => (0..n).for_each(|_| self.deliver_reply()),
            WindowStep::Disconnect { applied, delayed } => self.disconnect(applied, delayed),
            WindowStep::DeliverDelayed(nth) if nth < self.delayed.len() => {
                let publish = self.delayed.remove(nth);
                let _reply = self.apply(&publish);
            }
            WindowStep::DeliverDelayed(_) => {}
            WindowStep::ForgetProducer(nth) => self.forget_producer(nth),
            WindowStep::AdvanceMs(ms) => {
                self.now += Duration::from_millis(ms);
                self.window.on_timer(self.now, &mut self.rng, &mut self.out);
            }
        }
        for (id, outcome) in self.out.drain(..) {
            assert!(self.outcomes.insert(id, outcome).is_none(), "{id} has two outcomes");
        }
    }

    fn push(&mut self, nth: usize) {
        let (id, publish) = (self.pushed.len() as u64, message(nth, self.pushed.len() as u64));
        self.pushed.insert(id, publish.topic.clone());
        self.window.push(publish, id, self.now);
    }

    fn apply(&mut self, publish: &Publish) -> Result<Acknowledgement, PublishFailure> {
        self.owners.entry(publish.topic.clone()).or_default().on_publish(publish)
    }

    fn serve(&mut self, outcome: RequestOutcome) {
        let Some(publish) = self.requests.pop_front() else { return };
        let unknown = || failure(PublishError::unknown("lost"));
        let reply = match outcome {
            RequestOutcome::Applied => self.apply(&publish),
            RequestOutcome::Overloaded => Err(failure(OverloadReason::Producers.into())),
            RequestOutcome::RejectedPermanently => {
                Err(failure(pushonce_core::InvalidPublish::NotUtf8.into()))
            }
            RequestOutcome::UnknownApplied => self.apply(&publish).and(Err(unknown())),
            RequestOutcome::UnknownDelayed => {
                self.delayed.push(publish);
                Err(unknown())
            }
            RequestOutcome::UnknownLost => Err(unknown()),
        };
        self.replies.push_back(reply);
    }

    fn deliver_reply(&mut self) {
        if let Some(reply) = self.replies.pop_front() {
            assert!(self.window.on_reply(reply, self.now, &mut self.rng, &mut self.out));
        }
    }

    fn disconnect(&mut self, applied: usize, delayed: usize) {
        let requests: Vec<_> = self.requests.drain(..).collect();
        let (now, later) = requests.split_at(applied.min(requests.len()));
        now.iter().for_each(|publish| drop(self.apply(publish)));
        self.delayed.extend(later.iter().take(delayed).cloned());
        self.replies.clear();
        self.window.on_connection_lost("the connection broke", self.now, &mut self.out);
    }

    /// A shard forgets a producer long after its last message, when none is in flight.
    fn forget_producer(&mut self, nth: usize) {
        let topic = test_util::topic(TOPICS[nth]);
        let topic_window = self.window.topics.get(&topic);
        let is_idle = topic_window.is_none_or(|topic_window| {
            topic_window.unsettled.is_empty() && topic_window.in_flight == 0
        });
        if is_idle && !self.delayed.iter().any(|publish| publish.topic == topic) {
            self.owners.entry(topic).or_default().producer = None;
        }
    }

    /// Ends all faults; delayed messages arrive at last.
    fn finish_without_faults(&mut self) {
        (0..TOPICS.len()).for_each(|nth| self.step(WindowStep::Push(nth)));
        while !self.window.entries.is_empty() {
            self.step(WindowStep::Send(usize::MAX));
            while !self.requests.is_empty() {
                self.step(WindowStep::Serve(RequestOutcome::Applied));
            }
            self.step(WindowStep::Reply(self.replies.len()));
            self.step(WindowStep::AdvanceMs(50));
        }
        while !self.delayed.is_empty() {
            self.step(WindowStep::DeliverDelayed(0));
        }
    }

    fn log_positions(&self, id: u64) -> Vec<u64> {
        let owner = &self.owners.get(&self.pushed[&id]);
        let log = owner.iter().flat_map(|owner| owner.log.iter().zip(1..));
        log.filter(|(one, _)| **one == id).map(|(_, offset)| offset).collect()
    }
}

fn message(nth: usize, id: u64) -> Publish {
    test_util::publish(TOPICS[nth], id.to_be_bytes().to_vec())
}

fn id(publish: &Publish) -> u64 {
    u64::from_be_bytes(publish.payload[..].try_into().unwrap())
}

fn acknowledgement(offset: u64) -> Acknowledgement {
    test_util::acknowledgement(1, offset)
}

fn failure(error: PublishError) -> PublishFailure {
    pb::PublishFailure::from(&error).into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn acknowledged_messages_are_in_the_log_once_in_order_at_their_position(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut simulation = WindowSimulation::new();
        steps.iter().for_each(|&step| simulation.step(step));
        simulation.finish_without_faults();
        for id in 0..simulation.pushed.len() as u64 {
            let positions = simulation.log_positions(id);
            match &simulation.outcomes[&id] {
                Ok(acknowledgement) => prop_assert_eq!(&positions[..], [acknowledgement.position.offset.0], "{}", id),
                Err(PublishFailure::Unknown(_)) => prop_assert!(positions.len() <= 1, "{id}: {positions:?}"),
                Err(rejection) => prop_assert!(positions.is_empty(), "{id}: {positions:?}, {rejection}"),
            }
        }
        for (topic, owner) in &simulation.owners {
            prop_assert!(owner.log.is_sorted(), "{topic}: {:?}", owner.log);
        }
    }

    /// Without rejections and forgotten producers every message is stored, whatever connections break.
    #[test]
    fn stream_over_failing_connections_loses_no_message(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut simulation = WindowSimulation::new();
        for step in steps {
            match step {
                WindowStep::Serve(RequestOutcome::RejectedPermanently | RequestOutcome::Overloaded) | WindowStep::ForgetProducer(_) => {}
                // Stays below any deadline, over all steps.
                WindowStep::AdvanceMs(ms) => simulation.step(WindowStep::AdvanceMs(ms / 600)),
                step => simulation.step(step),
            }
        }
        simulation.finish_without_faults();
        let failed = simulation.outcomes.iter().find(|(_, outcome)| outcome.is_err());
        prop_assert_eq!(failed, None);
    }
}

/// A simulation with three messages to one topic in flight.
fn simulation_with_three_in_flight() -> WindowSimulation {
    let mut simulation = WindowSimulation::new();
    (0..3).for_each(|_| simulation.step(WindowStep::Push(0)));
    simulation.step(WindowStep::Send(3));
    simulation
}

fn sent_numbers(simulation: &WindowSimulation) -> Vec<(u32, u64)> {
    let sequence = |publish: &Publish| match publish.publish_id {
        Some(PublishId::Sequence(sequence)) => (sequence.epoch, sequence.number),
        _ => panic!("no sequence"),
    };
    simulation.requests.iter().map(sequence).collect()
}

#[test]
fn messages_are_numbered_by_topic_from_one() {
    let mut simulation = simulation_with_three_in_flight();
    simulation.step(WindowStep::Push(1));
    simulation.step(WindowStep::Send(9));
    assert_eq!(sent_numbers(&simulation), [(1, 1), (1, 2), (1, 3), (2, 1)]);
}

#[test]
fn unacknowledged_messages_are_resent_with_the_same_numbers_after_a_disconnect() {
    let mut simulation = simulation_with_three_in_flight();
    simulation.step(WindowStep::Serve(RequestOutcome::Applied));
    simulation.step(WindowStep::Reply(1));
    simulation.step(WindowStep::Disconnect { applied: 1, delayed: 0 });
    simulation.step(WindowStep::Send(9));
    assert_eq!(sent_numbers(&simulation), [(1, 2), (1, 3)]);
}

#[test]
fn topic_is_paused_until_all_its_replies_arrive_while_others_continue() {
    let mut simulation = simulation_with_three_in_flight();
    simulation.step(WindowStep::Serve(RequestOutcome::Overloaded));
    simulation.step(WindowStep::Reply(1));
    simulation.step(WindowStep::Push(1));
    simulation.step(WindowStep::AdvanceMs(600));
    simulation.step(WindowStep::Send(9));
    assert_eq!(
        sent_numbers(&simulation),
        [(1, 2), (1, 3), (2, 1)],
        "only the other topic was sent"
    );
    (0..3).for_each(|_| simulation.step(WindowStep::Serve(RequestOutcome::Applied)));
    simulation.step(WindowStep::Reply(3));
    simulation.step(WindowStep::Send(9));
    assert_eq!(sent_numbers(&simulation), [(1, 1), (1, 2), (1, 3)]);
}

#[test]
fn topic_restarts_its_sequence_after_a_permanent_rejection() {
    let mut simulation = simulation_with_three_in_flight();
    simulation.step(WindowStep::Serve(RequestOutcome::RejectedPermanently));
    (0..2).for_each(|_| simulation.step(WindowStep::Serve(RequestOutcome::Applied)));
    simulation.step(WindowStep::Reply(3));
    simulation.step(WindowStep::AdvanceMs(600));
    simulation.step(WindowStep::Send(9));
    assert_eq!(sent_numbers(&simulation), [(2, 1), (2, 2)]);
    assert!(matches!(simulation.outcomes[&0], Err(PublishFailure::Rejected { retry: false, .. })));
}

#[test]
fn topic_restarts_its_sequence_when_its_producer_was_forgotten() {
    let mut simulation = simulation_with_three_in_flight();
    (0..3).for_each(|_| simulation.step(WindowStep::Serve(RequestOutcome::Applied)));
    simulation.step(WindowStep::Reply(3));
    simulation.step(WindowStep::ForgetProducer(0));
    simulation.finish_without_faults();
    assert!(simulation.outcomes.values().all(Result::is_ok), "{:?}", simulation.outcomes);
    assert_eq!(simulation.log_positions(3), [4]);
}

#[test]
fn topic_restarts_its_sequence_after_being_idle() {
    let mut simulation = simulation_with_three_in_flight();
    (0..3).for_each(|_| simulation.step(WindowStep::Serve(RequestOutcome::Applied)));
    simulation.step(WindowStep::Reply(3));
    simulation.step(WindowStep::AdvanceMs(TOPIC_IDLE_MAX.as_millis() as u64 + 1));
    simulation.step(WindowStep::Push(0));
    simulation.step(WindowStep::Send(1));
    assert_eq!(sent_numbers(&simulation), [(2, 1)]);
}

#[test]
fn expired_message_is_rejected_if_never_sent_and_unknown_if_sent() {
    let mut simulation = simulation_with_three_in_flight();
    simulation.step(WindowStep::Push(1));
    simulation.step(WindowStep::AdvanceMs(2_001));
    assert!(matches!(simulation.outcomes[&0], Err(PublishFailure::Unknown(_))));
    assert!(matches!(simulation.outcomes[&3], Err(PublishFailure::Rejected { retry: true, .. })));
}

#[test]
fn window_has_no_room_at_its_message_limit() {
    let mut simulation = WindowSimulation::new();
    while simulation.window.has_room() {
        simulation.push(0);
    }
    assert_eq!(simulation.pushed.len(), ProducerSequence::IN_FLIGHT_MAX);
    simulation.step(WindowStep::Send(2));
    (0..2).for_each(|_| simulation.step(WindowStep::Serve(RequestOutcome::Applied)));
    simulation.step(WindowStep::Reply(1));
    assert!(simulation.window.has_room());
}

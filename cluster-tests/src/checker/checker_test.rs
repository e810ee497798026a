//! The checker, checked: good histories pass, and each damage to one is caught by the property that
//! stands for it.

use proptest::prelude::*;
use pushonce_core::{Durability, Epoch, Position};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::history::{Begin, Effect, Entry, Event, Name, Phase};

/// Plays a cluster that keeps every promise, and writes down what its clients see.
struct Play {
    rng: StdRng,
    now: u64,
    ops: u64,
    records: Vec<Record>,
    log: Vec<Entry>,
    epoch: u64,
    /// Of each subscriber: what it has reached.
    viewers: Vec<Option<Position>>,
    owner: usize,
    /// What the next message to every subscriber stands behind, when the epoch has changed.
    gap: bool,
}

const TOPIC: &str = "game/1";
const NODES: usize = 3;
const REPLICATED: Durability = Durability::Replicated;

fn name(text: impl AsRef<str>) -> Name {
    text.as_ref().into()
}

impl Play {
    /// A run of `steps` steps.
    fn good(seed: u64, steps: usize) -> Vec<Record> {
        let mut play = Play {
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            ops: 0,
            records: Vec::new(),
            log: Vec::new(),
            epoch: 5,
            viewers: vec![None; 4],
            owner: 0,
            gap: false,
        };
        play.phase(Phase::WarmUp);
        for node in 0..NODES {
            play.write("prober", Event::Sample { node, rss_kib: 50_000, descriptors: 60 });
        }
        for viewer in 0..play.viewers.len() {
            play.subscribe(viewer);
        }
        for keyed in [true, false, true] {
            play.publish_one(true, keyed);
        }
        play.key_again();
        play.phase(Phase::Faults);
        play.fault();
        for viewer in 0..2 {
            play.publish(true);
            play.end(viewer);
            play.publish(true);
            play.subscribe(viewer);
        }
        for _ in 0..steps {
            play.step();
        }
        play.publish(true);
        play.publish(true);
        play.phase(Phase::Drain);
        for viewer in 0..play.viewers.len() {
            play.catch_up(viewer);
        }
        play.read();
        play.records
    }

    fn write(&mut self, process: &str, event: Event) {
        self.now += self.rng.random_range(1..2_000);
        self.records.push(Record { at: self.now, process: name(process), event });
    }

    fn phase(&mut self, phase: Phase) {
        self.write("runner", Event::Phase { phase });
    }

    fn step(&mut self) {
        let viewer = self.rng.random_range(0..self.viewers.len());
        match self.rng.random_range(0..12) {
            0..4 => self.publish(true),
            4 => self.publish(false),
            5..9 => self.catch_up(viewer),
            9 => {
                self.end(viewer);
                self.subscribe(viewer);
            }
            10 => self.key_again(),
            _ => self.fault(),
        }
    }

    fn publish(&mut self, known: bool) {
        let keyed = self.rng.random();
        self.publish_one(known, keyed);
    }

    fn publish_one(&mut self, known: bool, keyed: bool) {
        self.ops += 1;
        let (op, payload) = (self.ops, 1_000 + self.ops);
        let key = keyed.then(|| name(format!("k{op}")));
        let sequence = key.is_none().then_some(op);
        let publisher = if key.is_some() { "unary" } else { "stream" };
        let (topic, node) = (name(TOPIC), Some(self.rng.random_range(0..NODES)));
        let of_key = key.clone();
        self.write(publisher, Event::Publish { op, topic, payload, key: of_key, sequence, node });
        if !known && self.rng.random_bool(0.3) {
            return self.write(publisher, Event::Refused { op, why: name("full") });
        }
        if known || self.rng.random() {
            let offset = self.log.last().map_or(1, |last| last.position.offset.0 + 1);
            let position = Position::new(self.epoch, offset);
            self.log.push(Entry { position, payload, key });
        }
        let event = match self.log.last() {
            Some(last) if known => {
                Event::Placed { op, position: last.position, durability: REPLICATED }
            }
            _ => Event::Unknown { op, why: name("the owner died") },
        };
        self.write(publisher, event);
    }

    /// A retry of what was acknowledged.
    fn key_again(&mut self) {
        let placed: Vec<_> = self.log.iter().filter(|entry| entry.key.is_some()).cloned().collect();
        let Some(Entry { position, payload, key }) = placed.choose(&mut self.rng).cloned() else {
            return;
        };
        self.ops += 1;
        let (op, node) = (self.ops, None);
        let topic = name(TOPIC);
        self.write("unary", Event::Publish { op, topic, payload, key, sequence: None, node });
        self.write("unary", Event::Placed { op, position, durability: REPLICATED });
    }

    fn end(&mut self, viewer: usize) {
        self.write(&format!("viewer{viewer}"), Event::Ended { why: name("the node died") });
    }

    fn subscribe(&mut self, viewer: usize) {
        let who = format!("viewer{viewer}");
        let from = self.viewers[viewer].map_or(Begin::Start, Begin::After);
        let (topic, transport) = (name(TOPIC), name("ws"));
        let node = Some(viewer % NODES);
        self.write(&who, Event::Subscribe { topic, node, transport, from });
        let position = self.log.last().map_or(Position::ZERO, |last| last.position);
        self.write(&who, Event::Subscribed { topic: name(TOPIC), position, recovered: true });
        self.catch_up(viewer);
    }

    fn catch_up(&mut self, viewer: usize) {
        let who = format!("viewer{viewer}");
        let reached = self.viewers[viewer];
        let rest: Vec<_> =
            self.log.iter().filter(|entry| Some(entry.position) > reached).cloned().collect();
        for Entry { position, payload, key } in rest {
            let topic = name(TOPIC);
            // One in some is forgotten before it is shown, as a slow reader sees it.
            let event = if self.gap && reached.is_some() && self.rng.random_bool(0.2) {
                Event::Gap { topic, from: position, to: position, reason: name("slow") }
            } else {
                Event::Delivered { topic, position, payload, key }
            };
            self.write(&who, event);
            self.viewers[viewer] = Some(position);
        }
        if let Some(position) = self.viewers[viewer] {
            self.write(&who, Event::Heartbeat { topic: name(TOPIC), position });
        }
        self.gap = true;
    }

    /// The owner sleeps, another takes over, and a publish is accepted.
    fn fault(&mut self) {
        let fault = name("pause owner");
        let owner = self.owner;
        let effect = Effect {
            nodes: vec![owner],
            majority: true,
            deposed: vec![owner],
            damaged: vec![owner],
            flood: true,
            unready: vec![(owner + 1) % NODES],
        };
        self.write("nemesis", Event::FaultBegins { fault: fault.clone(), effect });
        self.write("nemesis", Event::FaultConfirmed { fault: fault.clone() });
        self.owner = (owner + 1) % NODES;
        let because = name("the control group has no leader");
        self.write("prober", Event::Health { node: self.owner, ready: false, because });
        self.publish(true);
        self.stale(true);
        self.now += 6_000_000;
        self.write("nemesis", Event::FaultEnds { fault });
        self.stale(false);
        self.publish(true);
        self.write("prober", Event::Health { node: self.owner, ready: true, because: name("") });
        // The sleeper is heard again.
        self.catch_up(owner);
    }

    /// The viewers at the node that cannot deliver are told.
    fn stale(&mut self, stale: bool) {
        let there = (0..self.viewers.len()).filter(|viewer| viewer % NODES == self.owner);
        for viewer in there.collect::<Vec<_>>() {
            let topic = name(TOPIC);
            self.write(&format!("viewer{viewer}"), Event::Stale { topic, stale });
        }
    }

    fn read(&mut self) {
        self.phase(Phase::Reading);
        for node in 0..NODES {
            let (topic, transport, log) = (name(TOPIC), name("http"), self.log.clone());
            self.write("reader", Event::Log { topic, node, transport, log });
            self.write("prober", Event::Sample { node, rss_kib: 60_000, descriptors: 62 });
            self.write("reader", Event::Panics { node, count: 0 });
        }
    }
}

/// As stated, and a flood that costs nothing: the play has no rates.
fn failed(records: &[Record]) -> Vec<&'static str> {
    let judged = judge(records, &Promises::STATED);
    judged.iter().filter(|(_, judgement)| judgement.is_err()).map(|(p, _)| p.id).collect()
}

fn good() -> impl Strategy<Value = Vec<Record>> {
    (any::<u64>(), 0usize..60).prop_map(|(seed, steps)| Play::good(seed, steps))
}

/// The indices of the records that a damage can be done to.
fn which(records: &[Record], fits: impl Fn(&Event) -> bool) -> Vec<usize> {
    (0..records.len()).filter(|&index| fits(&records[index].event)).collect()
}

fn delivered(event: &Event) -> bool {
    matches!(event, Event::Delivered { .. })
}

/// Deliveries of one viewer with another of the same viewer directly before.
fn second_of_two(records: &[Record]) -> Vec<usize> {
    let pair = |index: &usize| {
        let (one, two) = (&records[*index], &records[index - 1]);
        one.process == two.process && delivered(&two.event)
    };
    which(records, delivered).into_iter().filter(|&index| index > 0).filter(pair).collect()
}

/// Deliveries between two others of the same viewer, in one row.
fn middle_of_three(records: &[Record]) -> Vec<usize> {
    let seconds = second_of_two(records);
    seconds.iter().copied().filter(|&index| seconds.contains(&(index + 1))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_good_history_passes_every_property(records in good()) {
        let failures: Vec<_> = judge(&records, &Promises::STATED)
            .into_iter()
            // The play has no clock to speak of rates.
            .filter(|(property, _)| property.id != "I22")
            .filter_map(|(property, judgement)| match judgement {
                Ok(Evidence::Looked(_)) => None,
                Ok(Evidence::Lacking(what)) => Some(format!("{}: {what}", property.id)),
                Err(violation) => Some(format!("{}: {}", property.id, violation.told(&records))),
            })
            .collect();
        prop_assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    #[test]
    fn a_history_reads_back_what_it_wrote(records in good()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        crate::history::file::write(&path, &records).unwrap();
        prop_assert_eq!(crate::history::file::read(&path).unwrap(), records);
    }

    #[test]
    fn a_dropped_delivery_is_a_hole(mut records in good(), pick: prop::sample::Index) {
        let found = middle_of_three(&records);
        prop_assume!(!found.is_empty());
        records.remove(*pick.get(&found));
        prop_assert!(failed(&records).contains(&"I5"));
    }

    #[test]
    fn two_swapped_deliveries_go_backwards(mut records in good(), pick: prop::sample::Index) {
        let found = second_of_two(&records);
        prop_assume!(!found.is_empty());
        let index = *pick.get(&found);
        let before = records[index - 1].event.clone();
        records[index - 1].event = std::mem::replace(&mut records[index].event, before);
        prop_assert!(failed(&records).contains(&"I6"));
    }

    #[test]
    fn a_repeated_delivery_comes_twice(mut records in good(), pick: prop::sample::Index) {
        let found = which(&records, delivered);
        prop_assume!(!found.is_empty());
        let index = *pick.get(&found);
        records.insert(index + 1, records[index].clone());
        prop_assert!(failed(&records).contains(&"I7"));
    }

    #[test]
    fn another_epoch_of_a_delivery_is_not_in_the_log(
        mut records in good(),
        pick: prop::sample::Index,
    ) {
        let found = which(&records, delivered);
        prop_assume!(!found.is_empty());
        let index = *pick.get(&found);
        let Event::Delivered { position, .. } = &mut records[index].event else { unreachable!() };
        position.epoch = Epoch(position.epoch.0 + 1);
        prop_assert!(failed(&records).contains(&"I4"));
    }

    #[test]
    fn an_acknowledgement_in_a_sealed_epoch_is_a_second_owner(
        mut records in good(),
        pick: prop::sample::Index,
    ) {
        let found = which(&records, |event| matches!(event, Event::Publish { sequence: Some(_), .. }));
        let found: Vec<_> = found
            .into_iter()
            .filter(|index| matches!(records.get(index + 1).map(|r| &r.event),
                Some(Event::Placed { .. })))
            .collect();
        prop_assume!(!found.is_empty());
        let index = *pick.get(&found);
        let Event::Placed { position, .. } = records[index + 1].event else { unreachable!() };
        let later = Position::new(position.epoch.0 + 1, 1);
        let event = Event::Delivered { topic: name(TOPIC), position: later, payload: 1, key: None };
        let at = records[index].at;
        records.insert(index, Record { at, process: name("another"), event });
        prop_assert!(failed(&records).contains(&"I10"));
    }

    #[test]
    fn another_payload_is_another_log(mut records in good(), pick: prop::sample::Index) {
        let found = which(&records, delivered);
        prop_assume!(!found.is_empty());
        let index = *pick.get(&found);
        let Event::Delivered { payload, .. } = &mut records[index].event else { unreachable!() };
        *payload ^= 1 << 40;
        let failed = failed(&records);
        prop_assert!(failed.contains(&"I3") && failed.contains(&"I2"), "{failed:?}");
    }

    #[test]
    fn an_acknowledgement_of_what_is_not_in_the_log_is_a_loss(
        mut records in good(),
        pick: prop::sample::Index,
    ) {
        let found = which(&records, |event| matches!(event, Event::Placed { .. }));
        let index = *pick.get(&found);
        let Event::Placed { position, .. } = records[index].event else { unreachable!() };
        for record in &mut records {
            if let Event::Log { log, .. } = &mut record.event {
                log.retain(|entry| entry.position != position);
            }
        }
        prop_assert!(failed(&records).contains(&"I1"));
    }

    #[test]
    fn a_message_that_nobody_sent_is_a_phantom(mut records in good(), pick: prop::sample::Index) {
        let found = which(&records, |event| matches!(event, Event::Log { .. }));
        let index = *pick.get(&found);
        let Event::Log { log, .. } = &mut records[index].event else { unreachable!() };
        let position = log.last().map_or(Position::new(5, 1), |last| last.position.next());
        log.push(Entry { position, payload: 7, key: None });
        let failed = failed(&records);
        prop_assert!(failed.contains(&"I2") && failed.contains(&"I3"), "{failed:?}");
    }

    #[test]
    fn what_was_refused_and_is_there_is_a_phantom(mut records in good(), pick: prop::sample::Index) {
        let found = which(&records, |event| matches!(event, Event::Placed { .. }));
        let index = *pick.get(&found);
        let Event::Placed { op, .. } = records[index].event else { unreachable!() };
        // A key that was sent twice was placed by the other attempt.
        let first = which(&records, |event| matches!(event, Event::Publish { op: o, .. } if *o == op));
        let Event::Publish { payload: sent, .. } = records[first[0]].event else { unreachable!() };
        let attempts = which(&records, |event| {
            matches!(event, Event::Publish { payload, .. } if *payload == sent)
        });
        prop_assume!(attempts.len() == 1);
        records[index].event = Event::Refused { op, why: name("no") };
        prop_assert!(failed(&records).contains(&"I2"));
    }

    #[test]
    fn a_gap_without_its_word_is_a_hole(mut records in good(), pick: prop::sample::Index) {
        let found = which(&records, |event| matches!(event, Event::Gap { .. }));
        let within: Vec<_> = found
            .into_iter()
            .filter(|&index| {
                let same = |other: usize| {
                    records[other].process == records[index].process
                        && delivered(&records[other].event)
                };
                same(index - 1) && records.get(index + 1).is_some() && same(index + 1)
            })
            .collect();
        prop_assume!(!within.is_empty());
        records.remove(*pick.get(&within));
        prop_assert!(failed(&records).contains(&"I5"));
    }

    #[test]
    fn one_position_for_two_publishes_is_a_second_owner(
        mut records in good(),
        pick: prop::sample::Index,
    ) {
        let found = which(&records, |event| matches!(event, Event::Placed { .. }));
        prop_assume!(found.len() > 1);
        let place = pick.index(found.len() - 1);
        let Event::Placed { position, .. } = records[found[place]].event else { unreachable!() };
        let Event::Placed { position: other, .. } = &mut records[found[place + 1]].event else {
            unreachable!()
        };
        prop_assume!(*other != position);
        *other = position;
        prop_assert!(failed(&records).contains(&"I10"));
    }

    #[test]
    fn a_key_at_two_positions_has_two_answers(mut records in good(), pick: prop::sample::Index) {
        let places: Vec<_> = records
            .iter()
            .filter_map(|record| match record.event {
                Event::Placed { position, .. } => Some(position),
                _ => None,
            })
            .collect();
        let Some((payload, key)) = records.iter().find_map(|record| match &record.event {
            Event::Log { log, .. } => {
                let keyed = log.iter().filter(|e| e.key.is_some() && places.contains(&e.position));
                let keyed: Vec<_> = keyed.collect();
                (!keyed.is_empty()).then(|| pick.get(&keyed)).map(|e| (e.payload, e.key.clone()))
            }
            _ => None,
        }) else {
            return Err(TestCaseError::reject("no key"));
        };
        let mut twice = Position::ZERO;
        for record in &mut records {
            if let Event::Log { log, .. } = &mut record.event {
                twice = log.last().map_or(twice, |last| last.position.next());
                log.push(Entry { position: twice, payload, key: key.clone() });
            }
        }
        prop_assert!(failed(&records).contains(&"I7"));
        let (op, topic) = (1 << 40, name(TOPIC));
        let at = records.last().map_or(0, |last| last.at);
        for event in [
            Event::Publish { op, topic, payload, key, sequence: None, node: None },
            Event::Placed { op, position: twice, durability: REPLICATED },
        ] {
            records.push(Record { at, process: name("unary"), event });
        }
        prop_assert!(failed(&records).contains(&"I8"));
    }

    #[test]
    fn an_earlier_publish_behind_a_later_one_breaks_real_time(
        mut records in good(),
        pick: prop::sample::Index,
    ) {
        // The log and all deliveries tell the same wrong story: only the clock knows better.
        // Of those that were sent once: what is sent again may have been begun much earlier.
        let sent = |payload| {
            let again = |e: &Event| matches!(e, Event::Publish { payload: p, .. } if *p == payload);
            which(&records, again).len()
        };
        let mut places: Vec<_> = records
            .windows(2)
            .filter_map(|pair| match (&pair[0].event, &pair[1].event) {
                (Event::Publish { op, payload, .. }, Event::Placed { op: placed, position, .. })
                    if op == placed && sent(*payload) == 1 => Some(*position),
                _ => None,
            })
            .collect();
        places.sort_unstable();
        places.dedup();
        prop_assume!(places.len() > 1);
        let place = pick.index(places.len() - 1);
        let (one, two) = (places[place], places[place + 1]);
        let swap = |position: &mut Position| {
            *position = if *position == one { two } else if *position == two { one } else { return };
        };
        for record in &mut records {
            if let Event::Placed { position, .. } = &mut record.event {
                swap(position);
            }
        }
        prop_assert!(failed(&records).contains(&"I9"));
    }

    #[test]
    fn a_resume_that_skips_one_is_caught(mut records in good(), pick: prop::sample::Index) {
        let found = which(&records, |event| {
            matches!(event, Event::Subscribe { from: Begin::After(_), .. })
        });
        // Directly behind the answer come two messages.
        let shown = |index: &usize| {
            let who = &records[*index].process;
            let next = records.get(index + 2..index + 4).unwrap_or_default();
            next.len() == 2 && next.iter().all(|r| r.process == *who && delivered(&r.event))
        };
        let found: Vec<_> = found.into_iter().filter(shown).collect();
        prop_assume!(!found.is_empty());
        records.remove(*pick.get(&found) + 2);
        prop_assert!(failed(&records).contains(&"I12"));
    }

    #[test]
    fn a_beginning_that_skips_one_is_a_seam(mut records in good(), pick: prop::sample::Index) {
        let found = which(&records, |event| matches!(event, Event::Subscribe { from: Begin::Start, .. }));
        let index = *pick.get(&found);
        let who = records[index].process.clone();
        let first = (index..records.len())
            .find(|&at| records[at].process == who && delivered(&records[at].event));
        let first = first.expect("every viewer sees something");
        let second = (first + 1..records.len())
            .find(|&at| records[at].process == who && !matches!(records[at].event, Event::Heartbeat { .. }));
        prop_assume!(second.is_some_and(|at| delivered(&records[at].event)));
        records.remove(first);
        prop_assert!(failed(&records).contains(&"I13"));
    }

    #[test]
    fn a_bookmark_ahead_of_the_messages_is_caught(
        mut records in good(),
        pick: prop::sample::Index,
    ) {
        let found = which(&records, |event| matches!(event, Event::Heartbeat { .. }));
        prop_assume!(!found.is_empty());
        let index = *pick.get(&found);
        let Event::Heartbeat { position, .. } = &mut records[index].event else { unreachable!() };
        *position = position.next();
        prop_assert!(failed(&records).contains(&"I14"));
    }

    #[test]
    fn a_sleeper_that_speaks_of_what_is_not_there_is_a_zombie(mut records in good()) {
        let woke = which(&records, |event| matches!(event, Event::FaultEnds { .. }))[0];
        let (op, topic) = (1 << 40, name(TOPIC));
        let node = Some(0);
        let position = Position::new(5, 1 << 30);
        let publish = Event::Publish { op, topic, payload: 3, key: None, sequence: None, node };
        let at = records[woke].at;
        for event in [Event::Placed { op, position, durability: REPLICATED }, publish] {
            records.insert(woke + 1, Record { at, process: name("late"), event });
        }
        prop_assert!(failed(&records).contains(&"I11"));
    }

    #[test]
    fn silence_about_health_damage_panics_and_leaks_is_caught(
        mut records in good(),
        what in 0usize..6,
    ) {
        let expected = match what {
            0 => {
                records.retain(|record| !matches!(record.event, Event::Health { ready: false, .. }));
                "I19"
            }
            1 => {
                for record in &mut records {
                    if let Event::Panics { count, .. } = &mut record.event {
                        *count = 1;
                    }
                }
                "I20"
            }
            2 => {
                for record in records.iter_mut().rev() {
                    if let Event::Sample { descriptors, .. } = &mut record.event {
                        *descriptors += 100;
                        break;
                    }
                }
                "I20"
            }
            3 => {
                for record in &mut records {
                    if let Event::Log { node: 0, log, .. } = &mut record.event {
                        log.pop();
                    }
                }
                "I21"
            }
            4 => {
                let said = name("it ends, and says nothing of a file");
                let ended = Event::Noticed { node: 0, said };
                records.push(Record { event: ended, ..records.last().unwrap().clone() });
                "I21"
            }
            _ => {
                for record in &mut records {
                    if let Event::Placed { op, .. } = record.event {
                        record.event = Event::Unknown { op, why: name("no answer") };
                    }
                }
                "I15"
            }
        };
        prop_assert!(failed(&records).contains(&expected));
    }

    #[test]
    fn a_node_that_does_not_answer_in_the_end_need_not_be_ready(mut records in good()) {
        let last = records.last().unwrap().clone();
        let unready = Event::Health { node: 7, ready: false, because: name("it is overloaded") };
        records.push(Record { event: unready, ..last.clone() });
        prop_assert!(failed(&records).contains(&"I19"));
        records.push(Record { event: Event::Silent { node: 7 }, ..last });
        prop_assert!(!failed(&records).contains(&"I19"));
    }
}

/// An acknowledgement at 5:1, and a log that begins at `first`.
fn acknowledged_and_gone(durability: Durability, first: Position) -> Vec<Record> {
    let events = [
        Event::Publish {
            op: 1,
            topic: name(TOPIC),
            payload: 7,
            key: None,
            sequence: None,
            node: Some(0),
        },
        Event::Placed { op: 1, position: Position::new(5, 1), durability },
        Event::Log {
            topic: name(TOPIC),
            node: 0,
            transport: name("http"),
            log: vec![Entry { position: first, payload: 8, key: None }],
        },
    ];
    let record = |(at, event)| Record { at, process: name("unary"), event };
    (1..).zip(events).map(record).collect()
}

#[test]
fn only_a_message_in_memory_may_go_and_only_with_its_whole_epoch() {
    let lost =
        |durability, first| failed(&acknowledged_and_gone(durability, first)).contains(&"I1");
    let (same, next) = (Position::new(5, 2), Position::new(6, 1));
    assert!(!lost(Durability::Memory, next));
    assert!(lost(Durability::Memory, same));
    assert!(lost(Durability::Replicated, next));
}

/// A client resumes after 5:9 and is refused, before or after 5:9 was delivered.
fn refused_as_future(shown: Position) -> Vec<&'static str> {
    let topic = || name(TOPIC);
    let deliver = |position| Event::Delivered { topic: topic(), position, payload: 7, key: None };
    let events = [
        ("viewer", deliver(Position::new(5, 1))),
        ("viewer", deliver(shown)),
        (
            "forger",
            Event::Subscribe {
                topic: topic(),
                node: Some(0),
                transport: name("ws"),
                from: Begin::After(Position::new(5, 9)),
            },
        ),
        ("forger", Event::SubscribeRefused { topic: topic(), code: name("future_position") }),
        ("viewer", deliver(Position::new(6, 1))),
    ];
    let record = |(at, (process, event))| Record { at, process: name(process), event };
    failed(&(1..).zip(events).map(record).collect::<Vec<_>>())
}

#[test]
fn a_refused_position_is_held_against_what_was_given_out_before() {
    assert!(refused_as_future(Position::new(5, 9)).contains(&"I12"));
    assert!(!refused_as_future(Position::new(5, 8)).contains(&"I12"));
}

/// Whether two logs of one topic, from the first to the last offset, are the same to the checker; a history
/// has two messages at least.
fn agree(first: std::ops::RangeInclusive<u64>, second: std::ops::RangeInclusive<u64>) -> bool {
    let log = |(at, offsets): (u64, std::ops::RangeInclusive<u64>)| {
        let entry =
            |offset| Entry { position: Position::new(5, offset), payload: offset, key: None };
        let log = offsets.map(entry).collect();
        let event = Event::Log { topic: name(TOPIC), node: 0, transport: name("http"), log };
        Record { at, process: name("runner"), event }
    };
    let records: Vec<_> = (1..).zip([first, second]).map(log).collect();
    let promises = Promises { history: 2, ..Promises::STATED };
    one_log::check(&Run::of(&records), &promises).is_ok()
}

#[test]
fn a_longer_page_of_a_full_history_agrees_with_a_shorter_one() {
    assert!(agree(1..=9, 8..=9) && agree(8..=9, 1..=9));
    assert!(!agree(1..=9, 9..=9), "one message is no full history");
    assert!(!agree(1..=9, 7..=8), "the last is missing");
    assert!(agree(9..=9, 9..=9));
}

/// A viewer of node 0, which is killed at 10 s; from 20 s on the node is cut off for longer than it may
/// take to say so.
fn cut_off_after_a_kill(heard_between: bool) -> Vec<&'static str> {
    let node = 0;
    let effect = Effect { unready: vec![node], ..Effect::on(vec![node]) };
    let fault = |event: fn(Name) -> Event| event(name("soak"));
    let begins = |effect| Event::FaultBegins { fault: name("soak"), effect };
    let confirmed = || fault(|fault| Event::FaultConfirmed { fault });
    let ends = || fault(|fault| Event::FaultEnds { fault });
    let delivered = |offset| Event::Delivered {
        topic: name(TOPIC),
        position: Position::new(5, offset),
        payload: offset,
        key: None,
    };
    let subscribe = Event::Subscribe {
        topic: name(TOPIC),
        node: Some(node),
        transport: name("quic"),
        from: Begin::Start,
    };
    let subscribed =
        Event::Subscribed { topic: name(TOPIC), position: Position::ZERO, recovered: true };
    let mut events = vec![
        (1, "viewer", subscribe),
        (2, "viewer", subscribed),
        (3, "viewer", delivered(1)),
        (10, "nemesis", begins(Effect::restart(vec![node]))),
        (12, "nemesis", ends()),
        (20, "nemesis", begins(effect)),
        (21, "nemesis", confirmed()),
        (60, "nemesis", ends()),
    ];
    if heard_between {
        events.insert(5, (15, "viewer", delivered(2)));
    }
    let record = |(at, process, event): (u64, _, _)| Record {
        at: at * 1_000_000,
        process: name(process),
        event,
    };
    failed(&events.into_iter().map(record).collect::<Vec<_>>())
}

#[test]
fn a_connection_to_a_process_that_was_killed_is_told_nothing() {
    assert!(cut_off_after_a_kill(true).contains(&"I14"));
    assert!(!cut_off_after_a_kill(false).contains(&"I14"));
}

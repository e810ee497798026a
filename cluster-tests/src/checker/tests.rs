//! Tests of the checker: valid histories pass, and each modification is caught by the invariant that it
//! violates.

use proptest::prelude::*;
use pushonce_core::{Durability, Epoch, Position};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::history::{
    FaultEffect, HistoryEvent, LoggedMessage, RunPhase, SharedStr, SubscribeStart,
};

/// Simulates a cluster that satisfies every invariant, and records what its clients observe.
struct SimulatedRun {
    rng: StdRng,
    now: u64,
    ops: u64,
    records: Vec<HistoryRecord>,
    log: Vec<LoggedMessage>,
    epoch: u64,
    /// Per subscriber: the newest position it has received.
    reached: Vec<Option<Position>>,
    owner: usize,
    /// Whether a subscriber may receive a gap instead of a message.
    may_gap: bool,
}

const TOPIC: &str = "game/1";
const NODES: usize = 3;
const REPLICATED: Durability = Durability::Replicated;

fn name(text: impl AsRef<str>) -> SharedStr {
    text.as_ref().into()
}

impl SimulatedRun {
    /// Generates a run of `steps` steps.
    fn generate(seed: u64, steps: usize) -> Vec<HistoryRecord> {
        let mut run = SimulatedRun {
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            ops: 0,
            records: Vec::new(),
            log: Vec::new(),
            epoch: 5,
            reached: vec![None; 4],
            owner: 0,
            may_gap: false,
        };
        run.begin_phase(RunPhase::WarmUp);
        for node in 0..NODES {
            run.record(
                "prober",
                HistoryEvent::ResourceSample { node, rss_kib: 50_000, descriptors: 60 },
            );
        }
        for viewer in 0..run.reached.len() {
            run.subscribe(viewer);
        }
        for keyed in [true, false, true] {
            run.publish(true, keyed);
        }
        run.retry_keyed_publish();
        run.begin_phase(RunPhase::Faults);
        run.pause_owner();
        for viewer in 0..2 {
            run.publish_random(true);
            run.end_session(viewer);
            run.publish_random(true);
            run.subscribe(viewer);
        }
        for _ in 0..steps {
            run.step();
        }
        run.publish_random(true);
        run.publish_random(true);
        run.begin_phase(RunPhase::Drain);
        for viewer in 0..run.reached.len() {
            run.catch_up(viewer);
        }
        run.read_logs();
        run.records
    }

    fn record(&mut self, process: &str, event: HistoryEvent) {
        self.now += self.rng.random_range(1..2_000);
        self.records.push(HistoryRecord { time_us: self.now, process: name(process), event });
    }

    fn begin_phase(&mut self, phase: RunPhase) {
        self.record("runner", HistoryEvent::Phase { phase });
    }

    fn step(&mut self) {
        let viewer = self.rng.random_range(0..self.reached.len());
        match self.rng.random_range(0..12) {
            0..4 => self.publish_random(true),
            4 => self.publish_random(false),
            5..9 => self.catch_up(viewer),
            9 => {
                self.end_session(viewer);
                self.subscribe(viewer);
            }
            10 => self.retry_keyed_publish(),
            _ => self.pause_owner(),
        }
    }

    fn publish_random(&mut self, acknowledged: bool) {
        let keyed = self.rng.random();
        self.publish(acknowledged, keyed);
    }

    fn publish(&mut self, acknowledged: bool, keyed: bool) {
        self.ops += 1;
        let (op, payload) = (self.ops, 1_000 + self.ops);
        let key = keyed.then(|| name(format!("k{op}")));
        let sequence = key.is_none().then_some(op);
        let publisher = if key.is_some() { "unary" } else { "stream" };
        let (topic, node) = (name(TOPIC), Some(self.rng.random_range(0..NODES)));
        let event_key = key.clone();
        self.record(
            publisher,
            HistoryEvent::Publish { op, topic, payload, key: event_key, sequence, node },
        );
        if !acknowledged && self.rng.random_bool(0.3) {
            return self.record(publisher, HistoryEvent::Rejected { op, reason: name("full") });
        }
        if acknowledged || self.rng.random() {
            let offset = self.log.last().map_or(1, |last| last.position.offset.0 + 1);
            let position = Position::new(self.epoch, offset);
            self.log.push(LoggedMessage { position, payload, key });
        }
        let event = match self.log.last() {
            Some(last) if acknowledged => {
                HistoryEvent::Acknowledged { op, position: last.position, durability: REPLICATED }
            }
            _ => HistoryEvent::Unknown { op, reason: name("the owner died") },
        };
        self.record(publisher, event);
    }

    /// Retries an acknowledged publish with its key.
    fn retry_keyed_publish(&mut self) {
        let keyed: Vec<_> = self.log.iter().filter(|entry| entry.key.is_some()).cloned().collect();
        let Some(LoggedMessage { position, payload, key }) = keyed.choose(&mut self.rng).cloned()
        else {
            return;
        };
        self.ops += 1;
        let (op, node) = (self.ops, None);
        let topic = name(TOPIC);
        self.record(
            "unary",
            HistoryEvent::Publish { op, topic, payload, key, sequence: None, node },
        );
        self.record("unary", HistoryEvent::Acknowledged { op, position, durability: REPLICATED });
    }

    fn end_session(&mut self, viewer: usize) {
        self.record(
            &format!("viewer{viewer}"),
            HistoryEvent::SessionEnded { reason: name("the node died") },
        );
    }

    fn subscribe(&mut self, viewer: usize) {
        let process = format!("viewer{viewer}");
        let from = self.reached[viewer].map_or(SubscribeStart::Start, SubscribeStart::After);
        let (topic, transport) = (name(TOPIC), name("ws"));
        let node = Some(viewer % NODES);
        self.record(&process, HistoryEvent::Subscribe { topic, node, transport, from });
        let position = self.log.last().map_or(Position::ZERO, |last| last.position);
        self.record(
            &process,
            HistoryEvent::Subscribed { topic: name(TOPIC), position, recovered: true },
        );
        self.catch_up(viewer);
    }

    fn catch_up(&mut self, viewer: usize) {
        let process = format!("viewer{viewer}");
        let reached = self.reached[viewer];
        let pending: Vec<_> =
            self.log.iter().filter(|entry| Some(entry.position) > reached).cloned().collect();
        for LoggedMessage { position, payload, key } in pending {
            let topic = name(TOPIC);
            // Some messages are replaced by a gap, as a slow subscriber sees it.
            let event = if self.may_gap && reached.is_some() && self.rng.random_bool(0.2) {
                HistoryEvent::Gap { topic, from: position, to: position, reason: name("slow") }
            } else {
                HistoryEvent::Delivered { topic, position, payload, key }
            };
            self.record(&process, event);
            self.reached[viewer] = Some(position);
        }
        if let Some(position) = self.reached[viewer] {
            self.record(&process, HistoryEvent::Heartbeat { topic: name(TOPIC), position });
        }
        self.may_gap = true;
    }

    /// Pauses the owner; another node takes over and accepts a publish.
    fn pause_owner(&mut self) {
        let fault = name("pause owner");
        let owner = self.owner;
        let effect = FaultEffect {
            nodes: vec![owner],
            has_majority: true,
            deposed: vec![owner],
            damaged: vec![owner],
            flood: true,
            unready: vec![(owner + 1) % NODES],
        };
        self.record("nemesis", HistoryEvent::FaultInjected { fault: fault.clone(), effect });
        self.record("nemesis", HistoryEvent::FaultActive { fault: fault.clone() });
        self.owner = (owner + 1) % NODES;
        let because = name("the control group has no leader");
        self.record(
            "prober",
            HistoryEvent::Health { node: self.owner, ready: false, reason: because },
        );
        self.publish_random(true);
        self.set_stale(true);
        self.now += 6_000_000;
        self.record("nemesis", HistoryEvent::FaultHealed { fault });
        self.set_stale(false);
        self.publish_random(true);
        self.record(
            "prober",
            HistoryEvent::Health { node: self.owner, ready: true, reason: name("") },
        );
        // The resumed node delivers again.
        self.catch_up(owner);
    }

    /// Sends stale notices to the subscribers at the node that cannot deliver.
    fn set_stale(&mut self, stale: bool) {
        let affected = (0..self.reached.len()).filter(|viewer| viewer % NODES == self.owner);
        for viewer in affected.collect::<Vec<_>>() {
            let topic = name(TOPIC);
            self.record(&format!("viewer{viewer}"), HistoryEvent::Stale { topic, stale });
        }
    }

    fn read_logs(&mut self) {
        self.begin_phase(RunPhase::ReadLogs);
        for node in 0..NODES {
            let (topic, transport, log) = (name(TOPIC), name("http"), self.log.clone());
            self.record("reader", HistoryEvent::Log { topic, node, transport, log });
            self.record(
                "prober",
                HistoryEvent::ResourceSample { node, rss_kib: 60_000, descriptors: 62 },
            );
            self.record("reader", HistoryEvent::Panics { node, count: 0 });
        }
    }
}

/// The violated invariants under the published limits.
fn violated_invariants(records: &[HistoryRecord]) -> Vec<&'static str> {
    let results = check_all(records, &Guarantees::PUBLISHED);
    results.iter().filter(|(_, judgement)| judgement.is_err()).map(|(p, _)| p.id).collect()
}

fn valid_history() -> impl Strategy<Value = Vec<HistoryRecord>> {
    (any::<u64>(), 0usize..60).prop_map(|(seed, steps)| SimulatedRun::generate(seed, steps))
}

/// The indices of the records that match.
fn indices_of(records: &[HistoryRecord], matches: impl Fn(&HistoryEvent) -> bool) -> Vec<usize> {
    (0..records.len()).filter(|&index| matches(&records[index].event)).collect()
}

fn is_delivery(event: &HistoryEvent) -> bool {
    matches!(event, HistoryEvent::Delivered { .. })
}

/// Deliveries to a subscriber that directly follow another delivery to it.
fn second_of_two(records: &[HistoryRecord]) -> Vec<usize> {
    let pair = |index: &usize| {
        let (one, two) = (&records[*index], &records[index - 1]);
        one.process == two.process && is_delivery(&two.event)
    };
    indices_of(records, is_delivery).into_iter().filter(|&index| index > 0).filter(pair).collect()
}

/// Deliveries directly between two others to the same subscriber.
fn middle_of_three(records: &[HistoryRecord]) -> Vec<usize> {
    let seconds = second_of_two(records);
    seconds.iter().copied().filter(|&index| seconds.contains(&(index + 1))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn valid_history_satisfies_every_invariant(records in valid_history()) {
        let failures: Vec<_> = check_all(&records, &Guarantees::PUBLISHED)
            .into_iter()
            // The simulation has no rates of publishes.
            .filter(|(property, _)| property.id != "I22")
            .filter_map(|(property, judgement)| match judgement {
                Ok(CheckEvidence::Checked(_)) => None,
                Ok(CheckEvidence::Inconclusive(what)) => Some(format!("{}: {what}", property.id)),
                Err(violation) => Some(format!("{}: {}", property.id, violation.report(&records))),
            })
            .collect();
        prop_assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    #[test]
    fn history_file_round_trips(records in valid_history()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        crate::history::file::write(&path, &records).unwrap();
        prop_assert_eq!(crate::history::file::read(&path).unwrap(), records);
    }

    #[test]
    fn dropped_delivery_violates_i5(mut records in valid_history(), pick: prop::sample::Index) {
        let found = middle_of_three(&records);
        prop_assume!(!found.is_empty());
        records.remove(*pick.get(&found));
        prop_assert!(violated_invariants(&records).contains(&"I5"));
    }

    #[test]
    fn swapped_deliveries_violate_i6(mut records in valid_history(), pick: prop::sample::Index) {
        let found = second_of_two(&records);
        prop_assume!(!found.is_empty());
        let index = *pick.get(&found);
        let before = records[index - 1].event.clone();
        records[index - 1].event = std::mem::replace(&mut records[index].event, before);
        prop_assert!(violated_invariants(&records).contains(&"I6"));
    }

    #[test]
    fn repeated_delivery_violates_i7(mut records in valid_history(), pick: prop::sample::Index) {
        let found = indices_of(&records, is_delivery);
        prop_assume!(!found.is_empty());
        let index = *pick.get(&found);
        records.insert(index + 1, records[index].clone());
        prop_assert!(violated_invariants(&records).contains(&"I7"));
    }

    #[test]
    fn delivery_with_a_wrong_epoch_violates_i4(
        mut records in valid_history(),
        pick: prop::sample::Index,
    ) {
        let found = indices_of(&records, is_delivery);
        prop_assume!(!found.is_empty());
        let index = *pick.get(&found);
        let HistoryEvent::Delivered { position, .. } = &mut records[index].event else { unreachable!() };
        position.epoch = Epoch(position.epoch.0 + 1);
        prop_assert!(violated_invariants(&records).contains(&"I4"));
    }

    #[test]
    fn acknowledgement_in_a_past_epoch_violates_i10(
        mut records in valid_history(),
        pick: prop::sample::Index,
    ) {
        let found = indices_of(&records, |event| matches!(event, HistoryEvent::Publish { sequence: Some(_), .. }));
        let found: Vec<_> = found
            .into_iter()
            .filter(|index| matches!(records.get(index + 1).map(|r| &r.event),
                Some(HistoryEvent::Acknowledged { .. })))
            .collect();
        prop_assume!(!found.is_empty());
        let index = *pick.get(&found);
        let HistoryEvent::Acknowledged { position, .. } = records[index + 1].event else { unreachable!() };
        let later = Position::new(position.epoch.0 + 1, 1);
        let event = HistoryEvent::Delivered { topic: name(TOPIC), position: later, payload: 1, key: None };
        let time_us = records[index].time_us;
        records.insert(index, HistoryRecord { time_us, process: name("another"), event });
        prop_assert!(violated_invariants(&records).contains(&"I10"));
    }

    #[test]
    fn delivery_with_a_wrong_payload_violates_i2_and_i3(mut records in valid_history(), pick: prop::sample::Index) {
        let found = indices_of(&records, is_delivery);
        prop_assume!(!found.is_empty());
        let index = *pick.get(&found);
        let HistoryEvent::Delivered { payload, .. } = &mut records[index].event else { unreachable!() };
        *payload ^= 1 << 40;
        let failed = violated_invariants(&records);
        prop_assert!(failed.contains(&"I3") && failed.contains(&"I2"), "{failed:?}");
    }

    #[test]
    fn acknowledged_message_missing_from_the_log_violates_i1(
        mut records in valid_history(),
        pick: prop::sample::Index,
    ) {
        let found = indices_of(&records, |event| matches!(event, HistoryEvent::Acknowledged { .. }));
        let index = *pick.get(&found);
        let HistoryEvent::Acknowledged { position, .. } = records[index].event else { unreachable!() };
        for record in &mut records {
            if let HistoryEvent::Log { log, .. } = &mut record.event {
                log.retain(|entry| entry.position != position);
            }
        }
        prop_assert!(violated_invariants(&records).contains(&"I1"));
    }

    #[test]
    fn unpublished_message_in_a_log_violates_i2_and_i3(mut records in valid_history(), pick: prop::sample::Index) {
        let found = indices_of(&records, |event| matches!(event, HistoryEvent::Log { .. }));
        let index = *pick.get(&found);
        let HistoryEvent::Log { log, .. } = &mut records[index].event else { unreachable!() };
        let position = log.last().map_or(Position::new(5, 1), |last| last.position.next());
        log.push(LoggedMessage { position, payload: 7, key: None });
        let failed = violated_invariants(&records);
        prop_assert!(failed.contains(&"I2") && failed.contains(&"I3"), "{failed:?}");
    }

    #[test]
    fn rejected_message_in_the_log_violates_i2(mut records in valid_history(), pick: prop::sample::Index) {
        let found = indices_of(&records, |event| matches!(event, HistoryEvent::Acknowledged { .. }));
        let index = *pick.get(&found);
        let HistoryEvent::Acknowledged { op, .. } = records[index].event else { unreachable!() };
        // A key that was sent twice may have been published by the other attempt.
        let first = indices_of(&records, |event| matches!(event, HistoryEvent::Publish { op: o, .. } if *o == op));
        let HistoryEvent::Publish { payload: sent, .. } = records[first[0]].event else { unreachable!() };
        let attempts = indices_of(&records, |event| {
            matches!(event, HistoryEvent::Publish { payload, .. } if *payload == sent)
        });
        prop_assume!(attempts.len() == 1);
        records[index].event = HistoryEvent::Rejected { op, reason: name("no") };
        prop_assert!(violated_invariants(&records).contains(&"I2"));
    }

    #[test]
    fn missing_gap_notice_violates_i5(mut records in valid_history(), pick: prop::sample::Index) {
        let found = indices_of(&records, |event| matches!(event, HistoryEvent::Gap { .. }));
        let within: Vec<_> = found
            .into_iter()
            .filter(|&index| {
                let same = |other: usize| {
                    records[other].process == records[index].process
                        && is_delivery(&records[other].event)
                };
                same(index - 1) && records.get(index + 1).is_some() && same(index + 1)
            })
            .collect();
        prop_assume!(!within.is_empty());
        records.remove(*pick.get(&within));
        prop_assert!(violated_invariants(&records).contains(&"I5"));
    }

    #[test]
    fn position_acknowledged_twice_violates_i10(
        mut records in valid_history(),
        pick: prop::sample::Index,
    ) {
        let found = indices_of(&records, |event| matches!(event, HistoryEvent::Acknowledged { .. }));
        prop_assume!(found.len() > 1);
        let place = pick.index(found.len() - 1);
        let HistoryEvent::Acknowledged { position, .. } = records[found[place]].event else { unreachable!() };
        let HistoryEvent::Acknowledged { position: other, .. } = &mut records[found[place + 1]].event else {
            unreachable!()
        };
        prop_assume!(*other != position);
        *other = position;
        prop_assert!(violated_invariants(&records).contains(&"I10"));
    }

    #[test]
    fn key_at_two_positions_violates_i7_and_i8(mut records in valid_history(), pick: prop::sample::Index) {
        let places: Vec<_> = records
            .iter()
            .filter_map(|record| match record.event {
                HistoryEvent::Acknowledged { position, .. } => Some(position),
                _ => None,
            })
            .collect();
        let Some((payload, key)) = records.iter().find_map(|record| match &record.event {
            HistoryEvent::Log { log, .. } => {
                let keyed = log.iter().filter(|e| e.key.is_some() && places.contains(&e.position));
                let keyed: Vec<_> = keyed.collect();
                (!keyed.is_empty()).then(|| pick.get(&keyed)).map(|e| (e.payload, e.key.clone()))
            }
            _ => None,
        }) else {
            return Err(TestCaseError::reject("no key"));
        };
        let mut second_position = Position::ZERO;
        for record in &mut records {
            if let HistoryEvent::Log { log, .. } = &mut record.event {
                second_position = log.last().map_or(second_position, |last| last.position.next());
                log.push(LoggedMessage { position: second_position, payload, key: key.clone() });
            }
        }
        prop_assert!(violated_invariants(&records).contains(&"I7"));
        let (op, topic) = (1 << 40, name(TOPIC));
        let time_us = records.last().map_or(0, |last| last.time_us);
        for event in [
            HistoryEvent::Publish { op, topic, payload, key, sequence: None, node: None },
            HistoryEvent::Acknowledged { op, position: second_position, durability: REPLICATED },
        ] {
            records.push(HistoryRecord { time_us, process: name("unary"), event });
        }
        prop_assert!(violated_invariants(&records).contains(&"I8"));
    }

    #[test]
    fn publish_order_against_real_time_violates_i9(
        mut records in valid_history(),
        pick: prop::sample::Index,
    ) {
        // The log and all deliveries agree on the wrong order; only the times contradict it. Publishes with
        // several attempts are left out, because the first attempt may have begun much earlier.
        let attempts = |payload| {
            let has_payload = |e: &HistoryEvent| matches!(e, HistoryEvent::Publish { payload: p, .. } if *p == payload);
            indices_of(&records, has_payload).len()
        };
        let mut places: Vec<_> = records
            .windows(2)
            .filter_map(|pair| match (&pair[0].event, &pair[1].event) {
                (HistoryEvent::Publish { op, payload, .. }, HistoryEvent::Acknowledged { op: placed, position, .. })
                    if op == placed && attempts(*payload) == 1 => Some(*position),
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
            if let HistoryEvent::Acknowledged { position, .. } = &mut record.event {
                swap(position);
            }
        }
        prop_assert!(violated_invariants(&records).contains(&"I9"));
    }

    #[test]
    fn resume_that_skips_a_message_violates_i12(mut records in valid_history(), pick: prop::sample::Index) {
        let found = indices_of(&records, |event| {
            matches!(event, HistoryEvent::Subscribe { from: SubscribeStart::After(_), .. })
        });
        // Two messages directly follow the reply.
        let is_followed_by_two_messages = |index: &usize| {
            let process = &records[*index].process;
            let next = records.get(index + 2..index + 4).unwrap_or_default();
            next.len() == 2 && next.iter().all(|r| r.process == *process && is_delivery(&r.event))
        };
        let found: Vec<_> = found.into_iter().filter(is_followed_by_two_messages).collect();
        prop_assume!(!found.is_empty());
        records.remove(*pick.get(&found) + 2);
        prop_assert!(violated_invariants(&records).contains(&"I12"));
    }

    #[test]
    fn start_that_skips_a_message_violates_i13(mut records in valid_history(), pick: prop::sample::Index) {
        let found = indices_of(&records, |event| matches!(event, HistoryEvent::Subscribe { from: SubscribeStart::Start, .. }));
        let index = *pick.get(&found);
        let process = records[index].process.clone();
        let first = (index..records.len())
            .find(|&at| records[at].process == process && is_delivery(&records[at].event));
        let first = first.expect("every subscriber receives a message");
        let second = (first + 1..records.len())
            .find(|&at| records[at].process == process && !matches!(records[at].event, HistoryEvent::Heartbeat { .. }));
        prop_assume!(second.is_some_and(|at| is_delivery(&records[at].event)));
        records.remove(first);
        prop_assert!(violated_invariants(&records).contains(&"I13"));
    }

    #[test]
    fn heartbeat_ahead_of_the_messages_violates_i14(
        mut records in valid_history(),
        pick: prop::sample::Index,
    ) {
        let found = indices_of(&records, |event| matches!(event, HistoryEvent::Heartbeat { .. }));
        prop_assume!(!found.is_empty());
        let index = *pick.get(&found);
        let HistoryEvent::Heartbeat { position, .. } = &mut records[index].event else { unreachable!() };
        *position = position.next();
        prop_assert!(violated_invariants(&records).contains(&"I14"));
    }

    #[test]
    fn acknowledgement_by_a_deposed_owner_violates_i11(mut records in valid_history()) {
        let fault_end = indices_of(&records, |event| matches!(event, HistoryEvent::FaultHealed { .. }))[0];
        let (op, topic) = (1 << 40, name(TOPIC));
        let node = Some(0);
        let position = Position::new(5, 1 << 30);
        let publish = HistoryEvent::Publish { op, topic, payload: 3, key: None, sequence: None, node };
        let time_us = records[fault_end].time_us;
        for event in [HistoryEvent::Acknowledged { op, position, durability: REPLICATED }, publish] {
            records.insert(fault_end + 1, HistoryRecord { time_us, process: name("late"), event });
        }
        prop_assert!(violated_invariants(&records).contains(&"I11"));
    }

    #[test]
    fn unreported_health_damage_panics_and_leaks_are_violations(
        mut records in valid_history(),
        case in 0usize..6,
    ) {
        let expected = match case {
            0 => {
                records.retain(|record| !matches!(record.event, HistoryEvent::Health { ready: false, .. }));
                "I19"
            }
            1 => {
                for record in &mut records {
                    if let HistoryEvent::Panics { count, .. } = &mut record.event {
                        *count = 1;
                    }
                }
                "I20"
            }
            2 => {
                for record in records.iter_mut().rev() {
                    if let HistoryEvent::ResourceSample { descriptors, .. } = &mut record.event {
                        *descriptors += 100;
                        break;
                    }
                }
                "I20"
            }
            3 => {
                for record in &mut records {
                    if let HistoryEvent::Log { node: 0, log, .. } = &mut record.event {
                        log.pop();
                    }
                }
                "I21"
            }
            4 => {
                let last_log_line = name("the node exits without naming a file");
                let damaged_exit = HistoryEvent::DamagedNodeExited { node: 0, last_log_line };
                records.push(HistoryRecord { event: damaged_exit, ..records.last().unwrap().clone() });
                "I21"
            }
            _ => {
                for record in &mut records {
                    if let HistoryEvent::Acknowledged { op, .. } = record.event {
                        record.event = HistoryEvent::Unknown { op, reason: name("no answer") };
                    }
                }
                "I15"
            }
        };
        prop_assert!(violated_invariants(&records).contains(&expected));
    }

    #[test]
    fn unreachable_node_need_not_be_ready_at_the_end(mut records in valid_history()) {
        let last = records.last().unwrap().clone();
        let unready = HistoryEvent::Health { node: 7, ready: false, reason: name("it is overloaded") };
        records.push(HistoryRecord { event: unready, ..last.clone() });
        prop_assert!(violated_invariants(&records).contains(&"I19"));
        records.push(HistoryRecord { event: HistoryEvent::Unreachable { node: 7 }, ..last });
        prop_assert!(!violated_invariants(&records).contains(&"I19"));
    }
}

/// A message acknowledged at 5:1, and a log that begins at `first`.
fn acknowledged_and_missing(durability: Durability, first: Position) -> Vec<HistoryRecord> {
    let events = [
        HistoryEvent::Publish {
            op: 1,
            topic: name(TOPIC),
            payload: 7,
            key: None,
            sequence: None,
            node: Some(0),
        },
        HistoryEvent::Acknowledged { op: 1, position: Position::new(5, 1), durability },
        HistoryEvent::Log {
            topic: name(TOPIC),
            node: 0,
            transport: name("http"),
            log: vec![LoggedMessage { position: first, payload: 8, key: None }],
        },
    ];
    let record = |(at, event)| HistoryRecord { time_us: at, process: name("unary"), event };
    (1..).zip(events).map(record).collect()
}

#[test]
fn only_memory_messages_may_be_lost_and_only_with_their_whole_epoch() {
    let violates_i1 = |durability, first| {
        violated_invariants(&acknowledged_and_missing(durability, first)).contains(&"I1")
    };
    let (same, next) = (Position::new(5, 2), Position::new(6, 1));
    assert!(!violates_i1(Durability::Memory, next));
    assert!(violates_i1(Durability::Memory, same));
    assert!(violates_i1(Durability::Replicated, next));
}

/// A client that resumes after 5:9 is rejected. `delivered` was delivered before.
fn rejected_as_future_position(delivered: Position) -> Vec<&'static str> {
    let topic = || name(TOPIC);
    let deliver =
        |position| HistoryEvent::Delivered { topic: topic(), position, payload: 7, key: None };
    let events = [
        ("viewer", deliver(Position::new(5, 1))),
        ("viewer", deliver(delivered)),
        (
            "forger",
            HistoryEvent::Subscribe {
                topic: topic(),
                node: Some(0),
                transport: name("ws"),
                from: SubscribeStart::After(Position::new(5, 9)),
            },
        ),
        (
            "forger",
            HistoryEvent::SubscribeRejected { topic: topic(), code: name("future_position") },
        ),
        ("viewer", deliver(Position::new(6, 1))),
    ];
    let record =
        |(at, (process, event))| HistoryRecord { time_us: at, process: name(process), event };
    violated_invariants(&(1..).zip(events).map(record).collect::<Vec<_>>())
}

#[test]
fn rejected_position_is_compared_with_positions_seen_before() {
    assert!(rejected_as_future_position(Position::new(5, 9)).contains(&"I12"));
    assert!(!rejected_as_future_position(Position::new(5, 8)).contains(&"I12"));
}

/// Whether the checker accepts two logs of one topic with these offsets; the guaranteed history is two
/// messages.
fn logs_agree(first: std::ops::RangeInclusive<u64>, second: std::ops::RangeInclusive<u64>) -> bool {
    let log = |(at, offsets): (u64, std::ops::RangeInclusive<u64>)| {
        let entry = |offset| LoggedMessage {
            position: Position::new(5, offset),
            payload: offset,
            key: None,
        };
        let log = offsets.map(entry).collect();
        let event = HistoryEvent::Log { topic: name(TOPIC), node: 0, transport: name("http"), log };
        HistoryRecord { time_us: at, process: name("runner"), event }
    };
    let records: Vec<_> = (1..).zip([first, second]).map(log).collect();
    let promises = Guarantees { history_min: 2, ..Guarantees::PUBLISHED };
    logs_agree::check(&HistoryIndex::from_records(&records), &promises).is_ok()
}

#[test]
fn logs_of_different_length_agree_when_the_history_is_full() {
    assert!(logs_agree(1..=9, 8..=9) && logs_agree(8..=9, 1..=9));
    assert!(!logs_agree(1..=9, 9..=9), "one message is less than the guaranteed history");
    assert!(!logs_agree(1..=9, 7..=8), "the last message is missing");
    assert!(logs_agree(9..=9, 9..=9));
}

/// A subscriber of node 0, which is killed at 10 s. From 20 s on, the node is disconnected for longer than
/// the time limit of the stale notice.
fn cut_off_after_kill(received_between: bool) -> Vec<&'static str> {
    let node = 0;
    let effect = FaultEffect { unready: vec![node], ..FaultEffect::on_nodes(vec![node]) };
    let fault = |event: fn(SharedStr) -> HistoryEvent| event(name("soak"));
    let begins = |effect| HistoryEvent::FaultInjected { fault: name("soak"), effect };
    let confirmed = || fault(|fault| HistoryEvent::FaultActive { fault });
    let ends = || fault(|fault| HistoryEvent::FaultHealed { fault });
    let delivered = |offset| HistoryEvent::Delivered {
        topic: name(TOPIC),
        position: Position::new(5, offset),
        payload: offset,
        key: None,
    };
    let subscribe = HistoryEvent::Subscribe {
        topic: name(TOPIC),
        node: Some(node),
        transport: name("quic"),
        from: SubscribeStart::Start,
    };
    let subscribed =
        HistoryEvent::Subscribed { topic: name(TOPIC), position: Position::ZERO, recovered: true };
    let mut events = vec![
        (1, "viewer", subscribe),
        (2, "viewer", subscribed),
        (3, "viewer", delivered(1)),
        (10, "nemesis", begins(FaultEffect::restart(vec![node]))),
        (12, "nemesis", ends()),
        (20, "nemesis", begins(effect)),
        (21, "nemesis", confirmed()),
        (60, "nemesis", ends()),
    ];
    if received_between {
        events.insert(5, (15, "viewer", delivered(2)));
    }
    let record = |(at, process, event): (u64, _, _)| HistoryRecord {
        time_us: at * 1_000_000,
        process: name(process),
        event,
    };
    violated_invariants(&events.into_iter().map(record).collect::<Vec<_>>())
}

#[test]
fn killed_process_owes_no_stale_notice() {
    assert!(cut_off_after_kill(true).contains(&"I14"));
    assert!(!cut_off_after_kill(false).contains(&"I14"));
}

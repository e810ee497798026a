//! One modification of a valid history violates the invariant that forbids it.

use proptest::prelude::*;
use pushonce_core::Epoch;

use super::simulated_run::{REPLICATED, SimulatedRun, TOPIC, name};
use super::*;

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
            .filter(|(invariant, _)| invariant.id != "I22")
            .filter_map(|(invariant, result)| match result {
                Ok(CheckEvidence::Checked(_)) => None,
                Ok(CheckEvidence::Inconclusive(what)) => Some(format!("{}: {what}", invariant.id)),
                Err(violation) => Some(format!("{}: {}", invariant.id, violation.report(&records))),
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

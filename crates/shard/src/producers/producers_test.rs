use pushonce_core::Timestamp;
use pushonce_core::test_util::{acknowledgement, publish, topic};

use super::*;
use crate::EntryItem;
use crate::log_clock::{DEDUPE_WINDOW_MS, LogClock};

const P: ProducerId = ProducerId(7);

fn sequence(epoch: u32, number: u64) -> ProducerSequence {
    ProducerSequence { producer: P, epoch, number }
}

fn fingerprint(payload: &'static str) -> MessageFingerprint {
    MessageFingerprint::for_item(&EntryItem::new(publish("a", payload)))
}

fn ack(offset: u64) -> Acknowledgement {
    Acknowledgement { time: Timestamp(5), ..acknowledgement(1, offset) }
}

/// A time, in minutes.
fn minute(minute: u64) -> LogTime {
    let mut clock = LogClock::default();
    (0..=minute).map(|minute| clock.advance_to(Timestamp(minute * 60_000))).last().unwrap()
}

fn lookup(
    producers: &ProducerTable,
    name: &str,
    sequence: ProducerSequence,
) -> Option<Result<Acknowledgement, ItemRejection>> {
    producers.lookup(&topic(name), sequence, fingerprint("pay"))
}

fn publish_next(
    producers: &mut ProducerTable,
    name: &str,
    sequence: ProducerSequence,
    now: LogTime,
) {
    assert_eq!(lookup(producers, name, sequence), None);
    let ack = ack(sequence.number);
    producers.record(&topic(name), sequence, fingerprint("pay"), ack, now);
}

fn out_of_sequence(
    received: ProducerSequence,
    expected: Option<ProducerSequence>,
) -> Option<Result<Acknowledgement, ItemRejection>> {
    Some(Err(ItemRejection::OutOfSequence { received, expected }))
}

#[test]
fn unknown_producer_must_start_at_one() {
    let producers = ProducerTable::default();
    assert_eq!(lookup(&producers, "a", sequence(3, 1)), None);
    assert_eq!(lookup(&producers, "a", sequence(3, 2)), out_of_sequence(sequence(3, 2), None));
}

#[test]
fn only_the_next_number_is_accepted_and_a_repeat_gets_the_first_ack() {
    let mut producers = ProducerTable::default();
    for number in 1..=3 {
        publish_next(&mut producers, "a", sequence(0, number), minute(0));
    }
    for number in 1..=3 {
        assert_eq!(lookup(&producers, "a", sequence(0, number)), Some(Ok(ack(number))));
    }
    assert_eq!(lookup(&producers, "a", sequence(0, 4)), None);
    assert_eq!(
        lookup(&producers, "a", sequence(0, 5)),
        out_of_sequence(sequence(0, 5), Some(sequence(0, 4)))
    );
    assert_eq!(lookup(&producers, "b", sequence(0, 1)), None, "each topic has its own sequence");
}

#[test]
fn number_reused_with_another_payload_is_rejected() {
    let mut producers = ProducerTable::default();
    publish_next(&mut producers, "a", sequence(0, 1), minute(0));
    let other = producers.lookup(&topic("a"), sequence(0, 1), fingerprint("other"));
    assert_eq!(other, Some(Err(ItemRejection::SequenceReused)));
}

#[test]
fn higher_epoch_starts_at_one_and_fences_the_lower() {
    let mut producers = ProducerTable::default();
    publish_next(&mut producers, "a", sequence(0, 1), minute(0));
    assert_eq!(
        lookup(&producers, "a", sequence(2, 2)),
        out_of_sequence(sequence(2, 2), Some(sequence(0, 2)))
    );
    publish_next(&mut producers, "a", sequence(2, 1), minute(0));
    for number in 1..=3 {
        let lower = sequence(1, number);
        assert_eq!(lookup(&producers, "a", lower), out_of_sequence(lower, Some(sequence(2, 2))));
    }
    assert_eq!(
        lookup(&producers, "a", sequence(0, 1)),
        out_of_sequence(sequence(0, 1), Some(sequence(2, 2)))
    );
    assert_eq!(lookup(&producers, "a", sequence(2, 1)), Some(Ok(ack(1))));
}

#[test]
fn number_older_than_the_retained_records_is_reported_as_forgotten() {
    let mut producers = ProducerTable::default();
    for number in 1..=RECORDS_PER_PRODUCER_MAX as u64 + 2 {
        publish_next(&mut producers, "a", sequence(0, number), minute(0));
    }
    assert_eq!(
        lookup(&producers, "a", sequence(0, 2)),
        Some(Err(ItemRejection::PositionForgotten))
    );
    assert_eq!(lookup(&producers, "a", sequence(0, 3)), Some(Ok(ack(3))));
    assert_eq!(producers.records.len(), RECORDS_PER_PRODUCER_MAX);
}

#[test]
fn window_spread_over_many_topics_is_retained() {
    let mut producers = ProducerTable::default();
    let names: Vec<_> = (0..50).map(|nth| format!("t/{nth}")).collect();
    for nth in 0..2 * RECORDS_PER_PRODUCER_MAX {
        let number = (nth / names.len()) as u64 + 1;
        publish_next(&mut producers, &names[nth % names.len()], sequence(0, number), minute(0));
    }
    for nth in RECORDS_PER_PRODUCER_MAX..2 * RECORDS_PER_PRODUCER_MAX {
        let number = (nth / names.len()) as u64 + 1;
        let again = lookup(&producers, &names[nth % names.len()], sequence(0, number));
        assert_eq!(again, Some(Ok(ack(number))));
    }
}

#[test]
fn full_table_evicts_records_of_the_producer_with_the_most() {
    let mut producers = ProducerTable::default();
    let sequence_of = |producer: u128, number| ProducerSequence {
        producer: ProducerId(producer),
        ..sequence(0, number)
    };
    publish_next(&mut producers, "quiet", sequence_of(99, 1), minute(0));
    for producer in 0..9 {
        for number in 1..=RECORDS_PER_PRODUCER_MAX as u64 {
            publish_next(&mut producers, "busy", sequence_of(producer, number), minute(0));
        }
    }
    assert_eq!(producers.records.len(), RECORDS_MAX);
    assert_eq!(lookup(&producers, "quiet", sequence_of(99, 1)), Some(Ok(ack(1))));
    let last = RECORDS_PER_PRODUCER_MAX as u64;
    assert!(
        (0..9).all(|producer| lookup(&producers, "busy", sequence_of(producer, last))
            == Some(Ok(ack(last))))
    );
}

#[test]
fn many_small_producers_of_a_stranger_never_evict_a_busy_producer_of_another_topic() {
    for (own, strange) in [("home/score", "away/spam"), ("home/score", "home/spam")] {
        let mut producers = ProducerTable::default();
        for number in 1..=RECORDS_PER_PRODUCER_MAX as u64 {
            publish_next(&mut producers, own, sequence(0, number), minute(0));
        }
        let stranger = |nth: usize, number| ProducerSequence {
            producer: ProducerId(1_000 + nth as u128),
            ..sequence(0, number)
        };
        // As many producers as its topic can have, and more records than the table holds.
        let mut count = 0;
        while lookup(&producers, strange, stranger(count, 1)).is_none() {
            publish_next(&mut producers, strange, stranger(count, 1), minute(0));
            count += 1;
        }
        for number in 2..=6 {
            for nth in 0..count {
                publish_next(&mut producers, strange, stranger(nth, number), minute(0));
            }
        }
        assert!(6 * count > RECORDS_MAX, "{count} producers");
        assert_eq!(producers.records.len(), RECORDS_MAX);
        for number in 1..=RECORDS_PER_PRODUCER_MAX as u64 {
            let again = lookup(&producers, own, sequence(0, number));
            assert_eq!(again, Some(Ok(ack(number))), "{own} beside {strange}");
        }
        assert_eq!(producers.clone().rebuild_indexes(), Some(producers));
    }
}

#[test]
fn idle_topic_is_expired_and_a_used_one_is_not() {
    let mut producers = ProducerTable::default();
    publish_next(&mut producers, "rests", sequence(0, 1), minute(0));
    publish_next(&mut producers, "used", sequence(0, 1), minute(0));
    publish_next(&mut producers, "used", sequence(0, 2), minute(5));
    producers.expire_idle(minute(5));
    assert_eq!(lookup(&producers, "rests", sequence(0, 1)), Some(Ok(ack(1))), "expired too early");
    producers.expire_idle(minute(6));
    assert_eq!(lookup(&producers, "rests", sequence(0, 2)), out_of_sequence(sequence(0, 2), None));
    assert_eq!(lookup(&producers, "used", sequence(0, 2)), Some(Ok(ack(2))));
    producers.expire_idle(minute(11));
    assert_eq!(
        (producers.producers.len(), producers.idle_queue.len(), producers.records.len()),
        (0, 0, 0)
    );
    const { assert!(DEDUPE_WINDOW_MS < 6 * 60_000) };
}

#[test]
fn new_producer_is_rejected_when_the_table_is_full_and_none_is_evicted() {
    let mut producers = ProducerTable::default();
    let sequence_of = |producer: usize, number| ProducerSequence {
        producer: ProducerId(producer as u128),
        ..sequence(0, number)
    };
    // One topic has a third of the table.
    let count = TRACKED_BYTES_MAX / tracked_bytes(&topic("a"), Default::default()) / 3;
    for nth in 0..count {
        publish_next(&mut producers, "a", sequence_of(nth, 1), minute(0));
    }
    let full = Some(Err(ItemRejection::TooManyProducers));
    assert_eq!(lookup(&producers, "a", sequence_of(count, 1)), full);
    assert_eq!(lookup(&producers, "b", sequence_of(0, 1)), None, "another namespace has room");
    assert_eq!(lookup(&producers, "a/1", sequence_of(count, 1)), None, "another topic has room");
    // Its first message may be in the owner's memory: starting over would place it twice.
    assert_eq!(lookup(&producers, "a", sequence_of(count, 2)), full);
    for nth in 0..count {
        assert_eq!(
            lookup(&producers, "a", sequence_of(nth, 1)),
            Some(Ok(ack(1))),
            "the repeat of producer {nth}"
        );
    }
    publish_next(&mut producers, "a", sequence_of(3, 2), minute(5));
    producers.expire_idle(minute(6));
    assert_eq!(producers.producers.len(), count - IDLE_CHECKS_PER_ENTRY + 1);
    publish_next(&mut producers, "a", sequence_of(count, 1), minute(6));
    assert_eq!(lookup(&producers, "a", sequence_of(3, 3)), None, "a used producer was expired");
    assert_eq!(producers.clone().rebuild_indexes(), Some(producers));
}

#[test]
fn inconsistent_table_is_not_restored() {
    let mut good = ProducerTable::default();
    publish_next(&mut good, "a", sequence(0, 1), minute(0));
    publish_next(&mut good, "b", sequence(0, 1), minute(0));
    assert_eq!(good.clone().rebuild_indexes(), Some(good.clone()));
    let broken: [fn(&mut ProducerTable); 4] = [
        |producers| drop(producers.idle_queue.pop_front()),
        |producers| producers.idle_queue[0].topic = topic("b"),
        |producers| producers.idle_queue[0].topic = topic("c"),
        |producers| drop(producers.producers.insert(ProducerId(9), ProducerState::default())),
    ];
    for corrupt in broken {
        let mut producers = good.clone();
        corrupt(&mut producers);
        assert_eq!(producers.rebuild_indexes(), None);
    }
}

use pushonce_core::{ContentType, Position, Timestamp};

use super::*;
use crate::Item;
use crate::passing::{Passing, WINDOW_MS};

const P: ProducerId = ProducerId(7);

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn at(epoch: u32, number: u64) -> Sequence {
    Sequence { producer: P, epoch, number }
}

fn fingerprint(payload: &'static str) -> Fingerprint {
    let (key, stamp) = (None, None);
    let (content_type, payload) = (ContentType::Text, payload.into());
    Fingerprint::of(&Item { topic: topic("a"), content_type, key, stamp, payload })
}

fn placed(offset: u64) -> Placed {
    Placed {
        position: Position::new(1, offset),
        time: Timestamp(5),
        durability: Default::default(),
    }
}

/// A time, in minutes.
fn minute(minute: u64) -> Moment {
    let mut passing = Passing::default();
    (0..=minute).map(|minute| passing.at(Timestamp(minute * 60_000))).last().unwrap()
}

fn look(producers: &Producers, name: &str, sequence: Sequence) -> Option<Result<Placed, Rejected>> {
    producers.look(&topic(name), sequence, fingerprint("pay"))
}

fn take(producers: &mut Producers, name: &str, sequence: Sequence, now: Moment) {
    assert_eq!(look(producers, name, sequence), None);
    let at = placed(sequence.number);
    producers.remember(&topic(name), sequence, fingerprint("pay"), at, now);
}

fn out_of_sequence(
    asked: Sequence,
    expected: Option<Sequence>,
) -> Option<Result<Placed, Rejected>> {
    Some(Err(Rejected::OutOfSequence { asked, expected }))
}

#[test]
fn an_unknown_producer_begins_with_its_first() {
    let producers = Producers::default();
    assert_eq!(look(&producers, "a", at(3, 1)), None);
    assert_eq!(look(&producers, "a", at(3, 2)), out_of_sequence(at(3, 2), None));
}

#[test]
fn only_the_next_is_taken_and_a_repeat_gets_the_first_answer() {
    let mut producers = Producers::default();
    for number in 1..=3 {
        take(&mut producers, "a", at(0, number), minute(0));
    }
    for number in 1..=3 {
        assert_eq!(look(&producers, "a", at(0, number)), Some(Ok(placed(number))));
    }
    assert_eq!(look(&producers, "a", at(0, 4)), None);
    assert_eq!(look(&producers, "a", at(0, 5)), out_of_sequence(at(0, 5), Some(at(0, 4))));
    assert_eq!(look(&producers, "b", at(0, 1)), None, "each topic has numbers of its own");
}

#[test]
fn another_payload_of_a_number_is_refused() {
    let mut producers = Producers::default();
    take(&mut producers, "a", at(0, 1), minute(0));
    let other = producers.look(&topic("a"), at(0, 1), fingerprint("other"));
    assert_eq!(other, Some(Err(Rejected::SequenceReused)));
}

#[test]
fn a_higher_epoch_begins_with_one_and_ends_the_lower() {
    let mut producers = Producers::default();
    take(&mut producers, "a", at(0, 1), minute(0));
    assert_eq!(look(&producers, "a", at(2, 2)), out_of_sequence(at(2, 2), Some(at(0, 2))));
    take(&mut producers, "a", at(2, 1), minute(0));
    for number in 1..=3 {
        let lower = at(1, number);
        assert_eq!(look(&producers, "a", lower), out_of_sequence(lower, Some(at(2, 2))));
    }
    assert_eq!(look(&producers, "a", at(0, 1)), out_of_sequence(at(0, 1), Some(at(2, 2))));
    assert_eq!(look(&producers, "a", at(2, 1)), Some(Ok(placed(1))));
}

#[test]
fn what_is_older_than_the_places_that_are_kept_is_known_but_not_where() {
    let mut producers = Producers::default();
    for number in 1..=PLACES_OF_ONE as u64 + 2 {
        take(&mut producers, "a", at(0, number), minute(0));
    }
    assert_eq!(look(&producers, "a", at(0, 2)), Some(Err(Rejected::Forgotten)));
    assert_eq!(look(&producers, "a", at(0, 3)), Some(Ok(placed(3))));
    assert_eq!(producers.turns, PLACES_OF_ONE);
}

#[test]
fn a_window_of_messages_to_many_topics_is_remembered_whole() {
    let mut producers = Producers::default();
    let names: Vec<_> = (0..50).map(|nth| format!("t/{nth}")).collect();
    for nth in 0..2 * PLACES_OF_ONE {
        let number = (nth / names.len()) as u64 + 1;
        take(&mut producers, &names[nth % names.len()], at(0, number), minute(0));
    }
    for nth in PLACES_OF_ONE..2 * PLACES_OF_ONE {
        let number = (nth / names.len()) as u64 + 1;
        let again = look(&producers, &names[nth % names.len()], at(0, number));
        assert_eq!(again, Some(Ok(placed(number))));
    }
}

#[test]
fn a_shard_full_of_places_takes_from_who_has_most() {
    let mut producers = Producers::default();
    let of = |producer: u128, number| Sequence { producer: ProducerId(producer), ..at(0, number) };
    take(&mut producers, "quiet", of(99, 1), minute(0));
    for producer in 0..9 {
        for number in 1..=PLACES_OF_ONE as u64 {
            take(&mut producers, "busy", of(producer, number), minute(0));
        }
    }
    assert_eq!(producers.turns, PLACES_MAX);
    assert_eq!(look(&producers, "quiet", of(99, 1)), Some(Ok(placed(1))));
    let last = PLACES_OF_ONE as u64;
    assert!((0..9).all(|one| look(&producers, "busy", of(one, last)) == Some(Ok(placed(last)))));
}

#[test]
fn a_topic_that_rests_is_forgotten_and_one_in_use_is_not() {
    let mut producers = Producers::default();
    take(&mut producers, "rests", at(0, 1), minute(0));
    take(&mut producers, "used", at(0, 1), minute(0));
    take(&mut producers, "used", at(0, 2), minute(5));
    producers.forget(minute(5));
    assert_eq!(look(&producers, "rests", at(0, 1)), Some(Ok(placed(1))), "not yet");
    producers.forget(minute(6));
    assert_eq!(look(&producers, "rests", at(0, 2)), out_of_sequence(at(0, 2), None));
    assert_eq!(look(&producers, "used", at(0, 2)), Some(Ok(placed(2))));
    producers.forget(minute(11));
    assert_eq!((producers.known.len(), producers.resting.len(), producers.turns), (0, 0, 0));
    const { assert!(WINDOW_MS < 6 * 60_000) };
}

#[test]
fn a_new_producer_is_refused_when_the_table_is_full_and_nobody_is_evicted() {
    let mut producers = Producers::default();
    let of = |producer: usize, number| Sequence {
        producer: ProducerId(producer as u128),
        ..at(0, number)
    };
    let count = FOLLOWED_BYTES_MAX / followed_bytes(&topic("a"), Default::default());
    for nth in 0..count {
        take(&mut producers, "a", of(nth, 1), minute(0));
    }
    let full = Some(Err(Rejected::TooManyProducers));
    assert_eq!(look(&producers, "a", of(count, 1)), full);
    assert_eq!(look(&producers, "b", of(0, 1)), full, "a new topic of a known producer");
    // Its first message may stand in the owner's memory: to begin anew would place it twice.
    assert_eq!(look(&producers, "a", of(count, 2)), full);
    for nth in 0..count {
        assert_eq!(look(&producers, "a", of(nth, 1)), Some(Ok(placed(1))), "a repeat of {nth}");
    }
    take(&mut producers, "a", of(3, 2), minute(5));
    producers.forget(minute(6));
    assert_eq!(producers.known.len(), count - LOOKED_AT_PER_ENTRY + 1);
    take(&mut producers, "a", of(count, 1), minute(6));
    assert_eq!(look(&producers, "a", of(3, 3)), None, "it was used since");
    assert_eq!(producers.clone().restored(), Some(producers));
}

#[test]
fn a_table_whose_parts_do_not_fit_is_not_restored() {
    let mut good = Producers::default();
    take(&mut good, "a", at(0, 1), minute(0));
    take(&mut good, "b", at(0, 1), minute(0));
    assert_eq!(good.clone().restored(), Some(good.clone()));
    let broken: [fn(&mut Producers); 4] = [
        |producers| drop(producers.resting.pop_front()),
        |producers| producers.resting[0].topic = topic("b"),
        |producers| producers.resting[0].topic = topic("c"),
        |producers| drop(producers.known.insert(ProducerId(9), Producer::default())),
    ];
    for breaks in broken {
        let mut producers = good.clone();
        breaks(&mut producers);
        assert_eq!(producers.restored(), None);
    }
}

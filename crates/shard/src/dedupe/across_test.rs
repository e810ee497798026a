//! Repeats across a change of durability: what was placed in the owner's memory is sent again to the log,
//! and the other way round.

use bytes::Bytes;
use pushonce_core::{ContentType, Durability, Key, Position, ProducerId, Stamp};

use super::*;

const NOW: Timestamp = Timestamp(1_000);

fn item(key: Option<&str>, number: Option<u64>, payload: &'static str) -> Item {
    let sequence = number.map(|number| Sequence { producer: ProducerId(7), epoch: 1, number });
    Item {
        topic: Topic::new("chat/7").unwrap(),
        content_type: ContentType::Text,
        key: key.map(|key| Key::new(key).unwrap()),
        stamp: sequence.map(Stamp::Sequence),
        payload: Bytes::from_static(payload.as_bytes()),
    }
}

fn placed(durability: Durability, offset: u64) -> Placed {
    Placed { position: Position::new(3, offset), time: NOW, durability }
}

/// Takes an item into a table that decides alone.
fn take(table: &mut Dedupe, item: &Item, at: Placed) {
    let Look::New(Some(marks)) = table.look(item) else { panic!("{item:?} is not new") };
    table.remember(marks, &item.topic, at);
}

/// What the owner's memory answers, with the log beside it; `None` for a new message, which it takes.
fn to_memory(
    memory: &mut Dedupe,
    log: &Dedupe,
    item: &Item,
    offset: u64,
) -> Option<Result<Placed, Rejected>> {
    match memory.look_beside(log, item) {
        Look::Settled(outcome) => Some(outcome),
        Look::New(marks) => {
            memory.remember(marks.unwrap(), &item.topic, placed(Durability::Memory, offset));
            None
        }
    }
}

/// The same of the log, with the owner's memory before it.
fn to_log(
    log: &mut Dedupe,
    memory: &Dedupe,
    item: &Item,
    offset: u64,
) -> Option<Result<Placed, Rejected>> {
    match memory.look_ahead_of(log, item) {
        InMemory::Settled(outcome) => return Some(outcome),
        InMemory::Continues(last) => log.continue_after(&item.topic, last),
        InMemory::Unknown => {}
    }
    match log.look(item) {
        Look::Settled(outcome) => Some(outcome),
        Look::New(marks) => {
            log.remember(marks.unwrap(), &item.topic, placed(Durability::Replicated, offset));
            None
        }
    }
}

#[test]
fn key_that_the_log_knows_is_not_placed_in_memory() {
    let (mut log, mut memory) = (Dedupe::default(), Dedupe::default());
    let first = placed(Durability::Replicated, 1);
    take(&mut log, &item(Some("k"), None, "goal"), first);
    assert_eq!(to_memory(&mut memory, &log, &item(Some("k"), None, "goal"), 9), Some(Ok(first)));
    let other = to_memory(&mut memory, &log, &item(Some("k"), None, "foul"), 9);
    assert_eq!(other, Some(Err(Rejected::KeyReused)));
    assert_eq!(to_memory(&mut memory, &log, &item(Some("l"), None, "goal"), 9), None);
}

#[test]
fn key_that_the_memory_knows_is_not_placed_in_the_log() {
    let (mut log, mut memory) = (Dedupe::default(), Dedupe::default());
    let first = placed(Durability::Memory, 1);
    take(&mut memory, &item(Some("k"), None, "goal"), first);
    assert_eq!(to_log(&mut log, &memory, &item(Some("k"), None, "goal"), 9), Some(Ok(first)));
    let other = to_log(&mut log, &memory, &item(Some("k"), None, "foul"), 9);
    assert_eq!(other, Some(Err(Rejected::KeyReused)));
    assert_eq!(to_log(&mut log, &memory, &item(Some("l"), None, "goal"), 9), None);
}

#[test]
fn stream_goes_on_across_changes_and_each_number_is_placed_once() {
    let (mut log, mut memory) = (Dedupe::default(), Dedupe::default());
    let at = |number| item(None, Some(number), "goal");
    // Replicated, in memory, replicated, in memory: three messages each, and after each change the two
    // before it again.
    for number in 1..=12_u64 {
        let in_memory = (number - 1) / 3 % 2 == 1;
        let repeats = if number % 3 == 1 { number.saturating_sub(2).max(1)..number } else { 0..0 };
        for repeat in repeats {
            let was = if in_memory { Durability::Replicated } else { Durability::Memory };
            let answer = match in_memory {
                true => to_memory(&mut memory, &log, &at(repeat), 99),
                false => to_log(&mut log, &memory, &at(repeat), 99),
            };
            assert_eq!(answer, Some(Ok(placed(was, repeat))), "{repeat} before {number}");
        }
        let answer = match in_memory {
            true => to_memory(&mut memory, &log, &at(number), number),
            false => to_log(&mut log, &memory, &at(number), number),
        };
        assert_eq!(answer, None, "{number}");
    }
    for number in [1, 4, 7, 10] {
        let answer = to_memory(&mut memory, &log, &at(number), 99);
        let known = matches!(answer, Some(Ok(_) | Err(Rejected::Forgotten)));
        assert!(known, "{number} again: {answer:?}");
    }
    let skips = to_log(&mut log, &memory, &at(14), 99);
    assert!(matches!(skips, Some(Err(Rejected::OutOfSequence { .. }))), "{skips:?}");
}

#[test]
fn number_that_another_message_has_is_refused_on_either_side() {
    let (mut log, mut memory) = (Dedupe::default(), Dedupe::default());
    take(&mut log, &item(None, Some(1), "goal"), placed(Durability::Replicated, 1));
    let other = to_memory(&mut memory, &log, &item(None, Some(1), "foul"), 9);
    assert_eq!(other, Some(Err(Rejected::SequenceReused)));
    assert_eq!(to_memory(&mut memory, &log, &item(None, Some(2), "goal"), 2), None);
    let other = to_log(&mut log, &memory, &item(None, Some(2), "foul"), 9);
    assert_eq!(other, Some(Err(Rejected::SequenceReused)));
}

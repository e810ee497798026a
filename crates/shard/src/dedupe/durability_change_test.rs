//! Repeats across a change of durability: a message placed in the owner's memory is sent again to the log,
//! and the other way round.

use pushonce_core::test_util::{acknowledgement, publish};
use pushonce_core::{Durability, MessageKey, ProducerId, PublishId};

use super::*;

const NOW: Timestamp = Timestamp(1_000);

fn item(key: Option<&str>, number: Option<u64>, payload: &'static str) -> EntryItem {
    let sequence =
        number.map(|number| ProducerSequence { producer: ProducerId(7), epoch: 1, number });
    EntryItem {
        key: key.map(|key| MessageKey::new(key).unwrap()),
        publish_id: sequence.map(PublishId::Sequence),
        ..EntryItem::new(publish("chat/7", payload))
    }
}

fn ack(durability: Durability, offset: u64) -> Acknowledgement {
    Acknowledgement { time: NOW, durability, ..acknowledgement(3, offset) }
}

/// Records a new item in a table that is used alone.
fn insert_new(table: &mut Dedupe, item: &EntryItem, ack: Acknowledgement) {
    let DedupeResult::New(Some(identity)) = table.lookup(item) else {
        panic!("{item:?} is not new")
    };
    table.record(identity, &item.topic, ack);
}

/// The outcome of a publish to the owner's memory with the given log; `None` for a new message, which is
/// recorded.
fn publish_to_memory(
    memory: &mut Dedupe,
    log: &Dedupe,
    item: &EntryItem,
    offset: u64,
) -> Option<Result<Acknowledgement, ItemRejection>> {
    match memory.lookup_with_log(log, item) {
        DedupeResult::Settled(outcome) => Some(outcome),
        DedupeResult::New(identity) => {
            memory.record(identity.unwrap(), &item.topic, ack(Durability::Memory, offset));
            None
        }
    }
}

/// The outcome of a publish to the log after the owner's memory was checked; `None` for a new message,
/// which is recorded.
fn publish_to_log(
    log: &mut Dedupe,
    memory: &Dedupe,
    item: &EntryItem,
    offset: u64,
) -> Option<Result<Acknowledgement, ItemRejection>> {
    match memory.lookup_before_log(log, item) {
        MemoryLookup::Settled(outcome) => return Some(outcome),
        MemoryLookup::Continues(last) => log.advance_producer_to(&item.topic, last),
        MemoryLookup::Unknown => {}
    }
    match log.lookup(item) {
        DedupeResult::Settled(outcome) => Some(outcome),
        DedupeResult::New(identity) => {
            log.record(identity.unwrap(), &item.topic, ack(Durability::Replicated, offset));
            None
        }
    }
}

#[test]
fn key_placed_in_the_log_is_deduplicated_in_memory() {
    let (mut log, mut memory) = (Dedupe::default(), Dedupe::default());
    let first = ack(Durability::Replicated, 1);
    insert_new(&mut log, &item(Some("k"), None, "goal"), first);
    assert_eq!(
        publish_to_memory(&mut memory, &log, &item(Some("k"), None, "goal"), 9),
        Some(Ok(first))
    );
    let other = publish_to_memory(&mut memory, &log, &item(Some("k"), None, "foul"), 9);
    assert_eq!(other, Some(Err(ItemRejection::KeyReused)));
    assert_eq!(publish_to_memory(&mut memory, &log, &item(Some("l"), None, "goal"), 9), None);
}

#[test]
fn key_placed_in_memory_is_deduplicated_in_the_log() {
    let (mut log, mut memory) = (Dedupe::default(), Dedupe::default());
    let first = ack(Durability::Memory, 1);
    insert_new(&mut memory, &item(Some("k"), None, "goal"), first);
    assert_eq!(
        publish_to_log(&mut log, &memory, &item(Some("k"), None, "goal"), 9),
        Some(Ok(first))
    );
    let other = publish_to_log(&mut log, &memory, &item(Some("k"), None, "foul"), 9);
    assert_eq!(other, Some(Err(ItemRejection::KeyReused)));
    assert_eq!(publish_to_log(&mut log, &memory, &item(Some("l"), None, "goal"), 9), None);
}

#[test]
fn producer_sequence_continues_across_durability_changes_without_duplicates() {
    let (mut log, mut memory) = (Dedupe::default(), Dedupe::default());
    let at = |number| item(None, Some(number), "goal");
    // Replicated and in memory alternate, three messages each. After each change the two messages before it
    // are repeated.
    for number in 1..=12_u64 {
        let in_memory = (number - 1) / 3 % 2 == 1;
        let repeats = if number % 3 == 1 { number.saturating_sub(2).max(1)..number } else { 0..0 };
        for repeat in repeats {
            let first_durability =
                if in_memory { Durability::Replicated } else { Durability::Memory };
            let answer = match in_memory {
                true => publish_to_memory(&mut memory, &log, &at(repeat), 99),
                false => publish_to_log(&mut log, &memory, &at(repeat), 99),
            };
            assert_eq!(answer, Some(Ok(ack(first_durability, repeat))), "{repeat} before {number}");
        }
        let answer = match in_memory {
            true => publish_to_memory(&mut memory, &log, &at(number), number),
            false => publish_to_log(&mut log, &memory, &at(number), number),
        };
        assert_eq!(answer, None, "{number}");
    }
    for number in [1, 4, 7, 10] {
        let answer = publish_to_memory(&mut memory, &log, &at(number), 99);
        let known = matches!(answer, Some(Ok(_) | Err(ItemRejection::PositionForgotten)));
        assert!(known, "repeat of {number}: {answer:?}");
    }
    let skipped = publish_to_log(&mut log, &memory, &at(14), 99);
    assert!(matches!(skipped, Some(Err(ItemRejection::OutOfSequence { .. }))), "{skipped:?}");
}

#[test]
fn number_of_another_message_is_rejected_in_the_log_and_in_memory() {
    let (mut log, mut memory) = (Dedupe::default(), Dedupe::default());
    insert_new(&mut log, &item(None, Some(1), "goal"), ack(Durability::Replicated, 1));
    let other = publish_to_memory(&mut memory, &log, &item(None, Some(1), "foul"), 9);
    assert_eq!(other, Some(Err(ItemRejection::SequenceReused)));
    assert_eq!(publish_to_memory(&mut memory, &log, &item(None, Some(2), "goal"), 2), None);
    let other = publish_to_log(&mut log, &memory, &item(None, Some(2), "foul"), 9);
    assert_eq!(other, Some(Err(ItemRejection::SequenceReused)));
}

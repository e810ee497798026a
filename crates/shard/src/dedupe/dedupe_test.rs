//! Property tests that compare the state with a naive model that never forgets anything.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use pushonce_core::{ContentType, History, MessageKey, Position, ProducerId, PublishId};

use super::*;
use crate::log_clock::{DEDUPE_WINDOW_MS, LogTime};
use crate::{EntryBatch, ShardState};

#[derive(Clone, Debug)]
enum PublishIdKind {
    Key(u8),
    Nonce(u8),
    Number {
        producer: u8,
        epoch: u32,
        number: u64,
        key: Option<u8>,
    },
    /// The sequence that is accepted next, if the producer is known; its first otherwise.
    Next {
        producer: u8,
    },
    None,
}

#[derive(Clone, Debug)]
struct DedupeStep {
    time: u64,
    messages: Vec<(u8, u8, PublishIdKind)>,
}

fn steps() -> impl Strategy<Value = Vec<DedupeStep>> {
    let mark = prop_oneof![
        2 => (0..4u8).prop_map(PublishIdKind::Key),
        1 => (0..3u8).prop_map(PublishIdKind::Nonce),
        4 => (0..2u8).prop_map(|producer| PublishIdKind::Next { producer }),
        4 => (0..2u8, 0..3u32, 1..5u64, proptest::option::weighted(0.2, 0..4u8)).prop_map(
            |(producer, epoch, number, key)| PublishIdKind::Number { producer, epoch, number, key }
        ),
        1 => Just(PublishIdKind::None),
    ];
    // Mostly small steps, some as long as the window, some back, of a proposer that is behind.
    let passed = prop_oneof![4 => 0..70_000i64, 1 => 0..1_000_000i64, 1 => -90_000..0i64];
    let message = (0..2u8, prop_oneof![5 => Just(0u8), 1 => Just(1u8)], mark);
    let steps = vec((passed, vec(message, 1..6)), 1..40);
    steps.prop_map(|steps| {
        let mut reached = 0u64;
        let step = |(passed, messages)| {
            let time = reached.saturating_add_signed(passed);
            reached = reached.max(time);
            DedupeStep { time, messages }
        };
        steps.into_iter().map(step).collect()
    })
}

/// The messages that were placed, in order.
#[derive(Default)]
struct NaiveDedupe {
    clock: LogClock,
    keyed: Vec<((Topic, DedupeKey), MessageFingerprint, Acknowledgement, LogTime)>,
    sequences: BTreeMap<(ProducerId, Topic), NaiveSequence>,
}

struct NaiveSequence {
    epoch: u32,
    acks: Vec<(MessageFingerprint, Acknowledgement)>,
    last_used: LogTime,
}

impl NaiveDedupe {
    /// The expected outcome; `None` for a new message. `is_known` states whether the table still knows the
    /// producer, which it may forget after it was idle for the window.
    fn expected(
        &self,
        item: &EntryItem,
        is_known: bool,
    ) -> Option<Result<Acknowledgement, ItemRejection>> {
        let fingerprint = MessageFingerprint::for_item(item);
        if let Some(asked) = item.sequence() {
            let producer_topic = (asked.producer, item.topic.clone());
            let sequence = self.sequences.get(&producer_topic).filter(|_| is_known);
            let next = sequence.map(|n| ProducerSequence {
                producer: asked.producer,
                epoch: n.epoch,
                number: n.acks.len() as u64 + 1,
            });
            let same = sequence.filter(|n| n.epoch == asked.epoch);
            let first = same.and_then(|n| n.acks.get(asked.number as usize - 1));
            let begins = sequence.is_none_or(|n| asked.epoch > n.epoch) && asked.number == 1;
            match first {
                Some((was, placed)) if *was == fingerprint => return Some(Ok(*placed)),
                Some(_) => return Some(Err(ItemRejection::SequenceReused)),
                None if begins || next == Some(asked) => {}
                None => {
                    return Some(Err(ItemRejection::OutOfSequence {
                        received: asked,
                        expected: next,
                    }));
                }
            }
        }
        let topic_key = DedupeKey::for_item(item).map(|name| (item.topic.clone(), name));
        let now = self.clock.now();
        let is_live =
            |known: &&((Topic, DedupeKey), MessageFingerprint, Acknowledgement, LogTime)| {
                Some(&known.0) == topic_key.as_ref()
                    && !known.3.is_outside_window(now, DEDUPE_WINDOW_MS)
            };
        let (_, was, placed, _) = self.keyed.iter().rev().find(is_live)?;
        Some(if *was == fingerprint { Ok(*placed) } else { Err(ItemRejection::KeyReused) })
    }

    fn forget_producer(&mut self, item: &EntryItem) {
        if let Some(asked) = item.sequence() {
            self.sequences.remove(&(asked.producer, item.topic.clone()));
        }
    }

    fn record(&mut self, item: &EntryItem, ack: Acknowledgement, is_new: bool) {
        let (fingerprint, now) = (MessageFingerprint::for_item(item), self.clock.now());
        if let Some(name) = DedupeKey::for_item(item).filter(|_| is_new) {
            self.keyed.push(((item.topic.clone(), name), fingerprint, ack, now));
        }
        if let Some(asked) = item.sequence() {
            let producer_topic = (asked.producer, item.topic.clone());
            let fresh = || NaiveSequence { epoch: asked.epoch, acks: vec![], last_used: now };
            let sequence = self.sequences.entry(producer_topic).or_insert_with(fresh);
            if asked.epoch > sequence.epoch {
                *sequence = fresh();
            }
            if asked.number as usize == sequence.acks.len() + 1 {
                sequence.acks.push((fingerprint, ack));
                sequence.last_used = now;
            }
        }
    }
}

fn item(topic: u8, payload: u8, mark: &PublishIdKind, naive: &NaiveDedupe) -> EntryItem {
    let topic = Topic::new(["a", "b/c"][usize::from(topic)]).unwrap();
    let key = |nth: u8| Some(MessageKey::new(&format!("k{nth}")).unwrap());
    let sequence = |producer: u8, epoch, number| {
        Some(PublishId::Sequence(ProducerSequence {
            producer: ProducerId(producer.into()),
            epoch,
            number,
        }))
    };
    let (key, publish_id) = match *mark {
        PublishIdKind::Key(nth) => (key(nth), None),
        PublishIdKind::Nonce(nonce) => (None, Some(PublishId::Nonce(nonce.into()))),
        PublishIdKind::Number { producer, epoch, number, key: named } => {
            (named.and_then(key), sequence(producer, epoch, number))
        }
        PublishIdKind::Next { producer } => {
            let producer_topic = (ProducerId(producer.into()), topic.clone());
            let numbered = naive.sequences.get(&producer_topic);
            let next = numbered.map_or((0, 1), |n| (n.epoch, n.acks.len() as u64 + 1));
            (None, sequence(producer, next.0, next.1))
        }
        PublishIdKind::None => (None, None),
    };
    let content_type = ContentType::Binary;
    EntryItem { topic, content_type, key, publish_id, payload: vec![payload].into() }
}

/// A shard that never drops unused topics. Otherwise the large time steps would drop them between the
/// messages.
fn state() -> ShardState {
    ShardState::with_history(History { expire_after_ms: u64::MAX, ..History::default() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// One message per entry, so that each outcome is known before the next message is generated. The next
    /// property covers entries of several messages.
    #[test]
    fn every_message_is_placed_once_or_deduplicated_like_the_naive_model(steps in steps()) {
        let (mut state, mut naive) = (state(), NaiveDedupe::default());
        let (mut index, mut log_time) = (0, 0);
        for DedupeStep { time, messages } in steps {
            log_time = log_time.max(time);
            for (topic, payload, mark) in messages {
                naive.clock.advance_to(Timestamp(log_time));
                let item = item(topic, payload, &mark, &naive);
                index += 1;
                let batch = EntryBatch::new(Timestamp(time), vec![item.clone()]);
                let applied = state.apply(index, batch);
                let outcome = applied.outcomes[0];
                let settled = |known| naive.expected(&item, known);
                let is_new = !applied.messages.is_empty();
                let reported = (!is_new).then_some(outcome);
                // The table may have forgotten an idle producer, or not yet.
                let is_idle = item.sequence().is_some_and(|asked| {
                    let numbered = naive.sequences.get(&(asked.producer, item.topic.clone()));
                    numbered.is_some_and(|n| n.last_used.is_outside_window(naive.clock.now(), DEDUPE_WINDOW_MS))
                });
                prop_assert!(
                    reported == settled(true) || is_idle && reported == settled(false),
                    "{item:?}: the outcome is {outcome:?}, the model has {:?}", settled(true),
                );
                if reported != settled(true) {
                    naive.forget_producer(&item);
                } else if is_idle && reported.is_some() && reported == settled(false) {
                    // This outcome does not show whether the table still knows the producer.
                    return Ok(());
                }
                if is_new {
                    let placed = applied.messages[0].1.position;
                    prop_assert_eq!(outcome.map(|placed| placed.position), Ok(placed));
                }
                if let Ok(placed) = outcome {
                    naive.record(&item, placed, is_new);
                }
            }
            let restored = ShardState::restore(&state.snapshot());
            prop_assert_eq!(restored.as_ref(), Ok(&state));
            state = restored.unwrap();
        }
    }

    #[test]
    fn batched_items_get_the_same_outcomes_as_single_item_entries(steps in steps()) {
        let (mut together, mut apart) = (state(), state());
        for (nth, DedupeStep { time, messages }) in steps.into_iter().enumerate() {
            let (index, time) = (nth as u64 + 1, Timestamp(time));
            let naive = NaiveDedupe::default();
            let items: Vec<_> =
                messages.iter().map(|(topic, payload, mark)| item(*topic, *payload, mark, &naive)).collect();
            let one_by_one: Vec<_> = items
                .iter()
                .flat_map(|item| apart.apply(index, EntryBatch::new(time, vec![item.clone()])).outcomes)
                .collect();
            prop_assert_eq!(together.apply(index, EntryBatch::new(time, items)).outcomes, one_by_one);
        }
    }
}

fn keyed(key: &str, payload: &'static str, sequence: Option<ProducerSequence>) -> EntryItem {
    EntryItem {
        topic: Topic::new("a").unwrap(),
        content_type: ContentType::Text,
        key: Some(MessageKey::new(key).unwrap()),
        publish_id: sequence.map(PublishId::Sequence),
        payload: payload.into(),
    }
}

#[test]
fn duplicate_key_in_one_entry_is_placed_once() {
    let items = vec![keyed("k", "x", None), keyed("k", "x", None), keyed("k", "y", None)];
    let applied = state().apply(3, EntryBatch::new(Timestamp(5), items));
    let first = Acknowledgement {
        position: Position::new(3, 1),
        time: Timestamp(5),
        durability: Default::default(),
    };
    assert_eq!(applied.outcomes, [Ok(first), Ok(first), Err(ItemRejection::KeyReused)]);
    assert_eq!(applied.messages.len(), 1, "delivered more than once");
}

#[test]
fn producer_sequence_continues_after_a_message_deduplicated_by_key() {
    let mut state = state();
    let numbered = |number| Some(ProducerSequence { producer: ProducerId(1), epoch: 0, number });
    let items = vec![
        keyed("k", "x", None),
        keyed("k", "x", numbered(1)),
        keyed("m", "y", numbered(2)),
        keyed("k", "x", numbered(1)),
        keyed("k", "z", numbered(3)),
        keyed("l", "z", numbered(3)),
    ];
    let applied = state.apply(3, EntryBatch::new(Timestamp(5), items));
    let at = |offset| {
        Ok(Acknowledgement {
            position: Position::new(3, offset),
            time: Timestamp(5),
            durability: Default::default(),
        })
    };
    let rejection = Err(ItemRejection::KeyReused);
    assert_eq!(applied.outcomes, [at(1), at(1), at(2), at(1), rejection, at(3)]);
}

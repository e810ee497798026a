//! The whole state against a list of everything that ever happened.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use pushonce_core::{ContentType, History, Key, Position, ProducerId, Stamp};

use super::*;
use crate::passing::{Moment, WINDOW_MS};
use crate::{Batch, State};

#[derive(Clone, Debug)]
enum Mark {
    Key(u8),
    Nonce(u8),
    Number {
        producer: u8,
        epoch: u32,
        number: u64,
        key: Option<u8>,
    },
    /// The next that would be taken, if the producer is known; its first otherwise.
    Next {
        producer: u8,
    },
    None,
}

#[derive(Clone, Debug)]
struct Step {
    time: u64,
    messages: Vec<(u8, u8, Mark)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mark = prop_oneof![
        2 => (0..4u8).prop_map(Mark::Key),
        1 => (0..3u8).prop_map(Mark::Nonce),
        4 => (0..2u8).prop_map(|producer| Mark::Next { producer }),
        4 => (0..2u8, 0..3u32, 1..5u64, proptest::option::weighted(0.2, 0..4u8)).prop_map(
            |(producer, epoch, number, key)| Mark::Number { producer, epoch, number, key }
        ),
        1 => Just(Mark::None),
    ];
    // Mostly small steps, some of a window, some of a proposer that is behind.
    let passed = prop_oneof![4 => 0..70_000i64, 1 => 0..1_000_000i64, 1 => -90_000..0i64];
    let message = (0..2u8, prop_oneof![5 => Just(0u8), 1 => Just(1u8)], mark);
    let steps = vec((passed, vec(message, 1..6)), 1..40);
    steps.prop_map(|steps| {
        let mut reached = 0u64;
        let step = |(passed, messages)| {
            let time = reached.saturating_add_signed(passed);
            reached = reached.max(time);
            Step { time, messages }
        };
        steps.into_iter().map(step).collect()
    })
}

/// What was placed, in order.
#[derive(Default)]
struct Naive {
    passing: Passing,
    named: Vec<((Topic, Name), Fingerprint, Placed, Moment)>,
    numbered: BTreeMap<(ProducerId, Topic), Numbered>,
}

struct Numbered {
    epoch: u32,
    answers: Vec<(Fingerprint, Placed)>,
    used: Moment,
}

impl Naive {
    /// What the table must say; `None` for a new place. `known` says whether the producer is still
    /// known to the table, which may forget it when it has rested for the window.
    fn expected(&self, item: &Item, known: bool) -> Option<Result<Placed, Rejected>> {
        let fingerprint = Fingerprint::of(item);
        if let Some(asked) = item.sequence() {
            let pair = (asked.producer, item.topic.clone());
            let numbered = self.numbered.get(&pair).filter(|_| known);
            let next = numbered.map(|n| Sequence {
                producer: asked.producer,
                epoch: n.epoch,
                number: n.answers.len() as u64 + 1,
            });
            let same = numbered.filter(|n| n.epoch == asked.epoch);
            let first = same.and_then(|n| n.answers.get(asked.number as usize - 1));
            let begins = numbered.is_none_or(|n| asked.epoch > n.epoch) && asked.number == 1;
            match first {
                Some((was, placed)) if *was == fingerprint => return Some(Ok(*placed)),
                Some(_) => return Some(Err(Rejected::SequenceReused)),
                None if begins || next == Some(asked) => {}
                None => return Some(Err(Rejected::OutOfSequence { asked, expected: next })),
            }
        }
        let named = Name::of(item).map(|name| (item.topic.clone(), name));
        let now = self.passing.now();
        let live = |known: &&((Topic, Name), Fingerprint, Placed, Moment)| {
            Some(&known.0) == named.as_ref() && !known.3.is_past(now, WINDOW_MS)
        };
        let (_, was, placed, _) = self.named.iter().rev().find(live)?;
        Some(if *was == fingerprint { Ok(*placed) } else { Err(Rejected::KeyReused) })
    }

    fn forgotten(&mut self, item: &Item) {
        if let Some(asked) = item.sequence() {
            self.numbered.remove(&(asked.producer, item.topic.clone()));
        }
    }

    fn happened(&mut self, item: &Item, placed: Placed, is_new: bool) {
        let (fingerprint, now) = (Fingerprint::of(item), self.passing.now());
        if let Some(name) = Name::of(item).filter(|_| is_new) {
            self.named.push(((item.topic.clone(), name), fingerprint, placed, now));
        }
        if let Some(asked) = item.sequence() {
            let pair = (asked.producer, item.topic.clone());
            let fresh = || Numbered { epoch: asked.epoch, answers: vec![], used: now };
            let numbered = self.numbered.entry(pair).or_insert_with(fresh);
            if asked.epoch > numbered.epoch {
                *numbered = fresh();
            }
            if asked.number as usize == numbered.answers.len() + 1 {
                numbered.answers.push((fingerprint, placed));
                numbered.used = now;
            }
        }
    }
}

fn item(topic: u8, payload: u8, mark: &Mark, naive: &Naive) -> Item {
    let topic = Topic::new(["a", "b/c"][usize::from(topic)]).unwrap();
    let key = |nth: u8| Some(Key::new(&format!("k{nth}")).unwrap());
    let sequence = |producer: u8, epoch, number| {
        Some(Stamp::Sequence(Sequence { producer: ProducerId(producer.into()), epoch, number }))
    };
    let (key, stamp) = match *mark {
        Mark::Key(nth) => (key(nth), None),
        Mark::Nonce(nonce) => (None, Some(Stamp::Nonce(nonce.into()))),
        Mark::Number { producer, epoch, number, key: named } => {
            (named.and_then(key), sequence(producer, epoch, number))
        }
        Mark::Next { producer } => {
            let pair = (ProducerId(producer.into()), topic.clone());
            let numbered = naive.numbered.get(&pair);
            let next = numbered.map_or((0, 1), |n| (n.epoch, n.answers.len() as u64 + 1));
            (None, sequence(producer, next.0, next.1))
        }
        Mark::None => (None, None),
    };
    let content_type = ContentType::Binary;
    Item { topic, content_type, key, stamp, payload: vec![payload].into() }
}

/// A shard that keeps unused topics, or the wild clock would drop them between the messages.
fn state() -> State {
    State::under(History { expire_after_ms: u64::MAX, ..History::default() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// One message a batch, so that each outcome is known before the next is made up; batches are
    /// the next property's.
    #[test]
    fn every_message_is_placed_once_or_answered_as_a_naive_list_says(steps in steps()) {
        let (mut state, mut naive) = (state(), Naive::default());
        let (mut index, mut log_time) = (0, 0);
        for Step { time, messages } in steps {
            log_time = log_time.max(time);
            for (topic, payload, mark) in messages {
                naive.passing.at(Timestamp(log_time));
                let item = item(topic, payload, &mark, &naive);
                index += 1;
                let batch = Batch::new(Timestamp(time), vec![item.clone()]);
                let applied = state.apply(index, batch);
                let outcome = applied.outcomes[0];
                let settled = |known| naive.expected(&item, known);
                let is_new = !applied.messages.is_empty();
                let said = (!is_new).then_some(outcome);
                // The table may have forgotten such a producer, or not yet.
                let rested = item.sequence().is_some_and(|asked| {
                    let numbered = naive.numbered.get(&(asked.producer, item.topic.clone()));
                    numbered.is_some_and(|n| n.used.is_past(naive.passing.now(), WINDOW_MS))
                });
                prop_assert!(
                    said == settled(true) || rested && said == settled(false),
                    "{item:?}: {outcome:?}, not {:?}", settled(true),
                );
                if said != settled(true) {
                    naive.forgotten(&item);
                } else if rested && said.is_some() && said == settled(false) {
                    // Whether the table still knows the producer cannot be told from this answer.
                    return Ok(());
                }
                if is_new {
                    let placed = applied.messages[0].1.position;
                    prop_assert_eq!(outcome.map(|placed| placed.position), Ok(placed));
                }
                if let Ok(placed) = outcome {
                    naive.happened(&item, placed, is_new);
                }
            }
            let restored = State::restore(&state.snapshot());
            prop_assert_eq!(restored.as_ref(), Ok(&state));
            state = restored.unwrap();
        }
    }

    #[test]
    fn what_is_applied_together_is_applied_as_one_after_the_other(steps in steps()) {
        let (mut together, mut apart) = (state(), state());
        for (nth, Step { time, messages }) in steps.into_iter().enumerate() {
            let (index, time) = (nth as u64 + 1, Timestamp(time));
            let naive = Naive::default();
            let items: Vec<_> =
                messages.iter().map(|(topic, payload, mark)| item(*topic, *payload, mark, &naive)).collect();
            let one_by_one: Vec<_> = items
                .iter()
                .flat_map(|item| apart.apply(index, Batch::new(time, vec![item.clone()])).outcomes)
                .collect();
            prop_assert_eq!(together.apply(index, Batch::new(time, items)).outcomes, one_by_one);
        }
    }
}

fn keyed(key: &str, payload: &'static str, stamp: Option<Sequence>) -> Item {
    Item {
        topic: Topic::new("a").unwrap(),
        content_type: ContentType::Text,
        key: Some(Key::new(key).unwrap()),
        stamp: stamp.map(Stamp::Sequence),
        payload: payload.into(),
    }
}

#[test]
fn a_key_twice_in_one_entry_is_placed_once() {
    let items = vec![keyed("k", "x", None), keyed("k", "x", None), keyed("k", "y", None)];
    let applied = state().apply(3, Batch::new(Timestamp(5), items));
    let first = Placed {
        position: Position::new(3, 1),
        time: Timestamp(5),
        durability: Default::default(),
    };
    assert_eq!(applied.outcomes, [Ok(first), Ok(first), Err(Rejected::KeyReused)]);
    assert_eq!(applied.messages.len(), 1, "delivered once");
}

#[test]
fn a_stream_goes_on_behind_a_message_that_its_key_shows_to_be_there() {
    let mut state = state();
    let numbered = |number| Some(Sequence { producer: ProducerId(1), epoch: 0, number });
    let items = vec![
        keyed("k", "x", None),
        keyed("k", "x", numbered(1)),
        keyed("m", "y", numbered(2)),
        keyed("k", "x", numbered(1)),
        keyed("k", "z", numbered(3)),
        keyed("l", "z", numbered(3)),
    ];
    let applied = state.apply(3, Batch::new(Timestamp(5), items));
    let at = |offset| {
        Ok(Placed {
            position: Position::new(3, offset),
            time: Timestamp(5),
            durability: Default::default(),
        })
    };
    let refused = Err(Rejected::KeyReused);
    assert_eq!(applied.outcomes, [at(1), at(1), at(2), at(1), refused, at(3)]);
}

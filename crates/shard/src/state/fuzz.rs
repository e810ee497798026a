//! Entries and snapshots of any content, as a disk or a voter could hand them over: what is accepted is applied
//! without a panic, and alike on every replica.

use pushonce_core::test_util::publish;
use pushonce_core::{
    ContentType, History, MessageKey, Namespace, Namespaces, ProducerId, ProducerSequence,
    PublishId, ShardCount,
};
use pushonce_fuzz::Input;

use super::*;

const ID: ShardId = ShardId(0);

/// Settings of a cluster of one shard, with the namespace `live` in the owner's memory.
fn settings(revision: u64) -> ShardSettings {
    let history = History { count_max: 3, bytes_max: 100, age_max_ms: 50, expire_after_ms: 90 };
    let default = Namespace { history, ..Namespace::default() };
    let memory = Namespace { durability: Durability::Memory, ..default.clone() };
    let named = [("live".to_owned(), memory)].into();
    let namespaces = Namespaces { revision, default, named, ..Namespaces::default() };
    ShardSettings { shards: ShardCount::new(1).unwrap(), namespaces }
}

fn item(topic: &str, publish_id: Option<PublishId>) -> EntryItem {
    EntryItem {
        key: Some(MessageKey::new("k1").unwrap()),
        publish_id,
        content_type: ContentType::Other("image/png".into()),
        ..EntryItem::new(publish(topic, "goal"))
    }
}

fn batches() -> Vec<EntryBatch> {
    let sequence = |number| ProducerSequence { producer: ProducerId(7), epoch: 1, number };
    let publishes = vec![
        item("chat/7", None),
        item("chat/7", Some(PublishId::Nonce(5))),
        item("a", Some(PublishId::Sequence(sequence(1)))),
        item("a", Some(PublishId::Sequence(sequence(2)))),
    ];
    let topic = publishes[2].topic.clone();
    vec![
        EntryBatch::with_settings(Timestamp(1_000), settings(1)),
        EntryBatch::new(Timestamp(1_010), publishes),
        EntryBatch {
            continued_sequences: vec![(topic, sequence(9))],
            ..EntryBatch::new(Timestamp(1_020), vec![item("live/1", None)])
        },
        EntryBatch::removing(
            Timestamp(1_050),
            Topic::new("live/1").expect("valid"),
            TopicRemoval::Delete,
            false,
        ),
        EntryBatch::with_settings(Timestamp(1_100), settings(2)),
        EntryBatch::new(Timestamp(1_200), vec![]),
    ]
}

/// Each entry after its length, two bytes, big endian.
fn log(batches: &[EntryBatch]) -> Vec<u8> {
    let entries = batches.iter().map(|batch| batch.encode(VersionRange::supported().max));
    entries.flat_map(|entry| [&(entry.len() as u16).to_be_bytes(), &entry[..]].concat()).collect()
}

/// Applies the entries of `input` that can be decoded, from `index` on, and returns the next index.
fn apply_log(state: &mut ShardState, mut index: u64, mut input: Input<'_>) -> u64 {
    loop {
        let len = input.u16();
        let entry = input.bytes(usize::from(len));
        if entry.is_empty() {
            return index;
        }
        let Ok((version, batch)) = EntryBatch::decode(entry) else { continue };
        assert_eq!(EntryBatch::decode(&batch.encode(version)), Ok((version, batch.clone())));
        for item in &batch.items {
            // Both reach headers and frames of clients.
            assert!(ContentType::parse(item.content_type.as_str()).is_ok());
            assert!(item.key.as_ref().is_none_or(|key| MessageKey::new(key.as_str()).is_ok()));
        }
        let count = batch.items.len();
        state.raise_version(version);
        let outcome = state.apply(index, batch);
        assert_eq!(outcome.outcomes.len(), count);
        assert!(outcome.messages.len() <= count);
        index += 1;
    }
}

/// The state is restored from its own snapshot, and every topic can be read.
fn assert_consistent(state: &ShardState) {
    assert_eq!(ShardState::restore(&state.snapshot()).as_ref(), Ok(state));
    let now = state.time();
    for stats in state.list_topics("", None, now) {
        for range in [HistoryRange::All, HistoryRange::Last(2)] {
            let page = state.fetch_history(&stats.topic, range, now).expect("a known topic");
            let positions: Vec<_> = page.messages.iter().map(|message| message.position).collect();
            assert!(
                positions.is_sorted() && positions.last().is_none_or(|last| *last <= page.head)
            );
        }
    }
}

#[test]
fn accepted_entries_give_the_same_state_on_every_replica() {
    let batches = batches();
    let seeds = vec![log(&batches), log(&batches[..2]), log(&[&batches[..], &batches].concat())];
    pushonce_fuzz::check!("entries", seeds, |input| {
        let (mut whole, mut restored) = (ShardState::new(ID), ShardState::new(ID));
        let middle = input.len() / 2;
        apply_log(&mut whole, 1, Input::new(input));
        assert_consistent(&whole);
        // Another replica continues from a snapshot of itself.
        let (first, second) = input.split_at(middle);
        let next = apply_log(&mut restored, 1, Input::new(first));
        let mut again = ShardState::restore(&restored.snapshot()).expect("its own snapshot");
        apply_log(&mut restored, next, Input::new(second));
        apply_log(&mut again, next, Input::new(second));
        assert_eq!(again.snapshot(), restored.snapshot());
    });
}

#[test]
fn accepted_snapshot_is_a_state_that_continues() {
    let mut state = ShardState::new(ID);
    apply_log(&mut state, 1, Input::new(&log(&batches())));
    let snapshot = state.snapshot();
    pushonce_fuzz::check!("snapshots", vec![snapshot.to_vec()], |input| {
        let Ok(mut state) = ShardState::restore(input) else { return };
        assert_consistent(&state);
        apply_log(&mut state, 1_000, Input::new(&log(&batches())));
        assert_consistent(&state);
    });
}

//! The cost of a log entry on each replica: decoding it, applying it, and reading the history.
//!
//! 10,000 topics, 128 bytes per message, 16 messages of history per topic, all full: the state neither grows
//! nor warms up during the measurement.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pushonce_core::{
    ContentType, History, HistoryRange, Namespace, Namespaces, Publish, ShardCount, ShardId,
    Timestamp, Topic, VersionRange,
};
use pushonce_shard::{EntryBatch, EntryItem, ShardSettings, ShardState};

const TOPICS: usize = 10_000;
const HISTORY: History = History {
    count_max: 16,
    bytes_max: 1 << 20,
    age_max_ms: 3_600_000,
    expire_after_ms: 3_600_000,
};
const TIME: Timestamp = Timestamp(1_790_000_000_000);

fn topics() -> Vec<Topic> {
    (0..TOPICS).map(|n| Topic::new(&format!("worldcup/2026/match/{n}")).unwrap()).collect()
}

/// Consecutive messages of a batch belong to distant topics, as with many publishers.
fn batch(topics: &[Topic], nth: usize, messages: usize) -> EntryBatch {
    let item = |place: usize| {
        let topic = topics[(nth * messages + place) * 7_919 % TOPICS].clone();
        let payload = Bytes::from(vec![b'x'; 128]);
        let publish = Publish {
            topic,
            content_type: ContentType::Text,
            key: None,
            publish_id: None,
            payload,
        };
        EntryItem::new(publish)
    };
    EntryBatch::new(TIME, (0..messages).map(item).collect())
}

fn full_state(topics: &[Topic]) -> ShardState {
    let default = Namespace { history: HISTORY, ..Namespace::default() };
    let namespaces = Namespaces { revision: 1, default, ..Namespaces::default() };
    let settings = ShardSettings { shards: ShardCount::new(1).unwrap(), namespaces };
    let mut state = ShardState::new(ShardId(0));
    state.apply(0, EntryBatch::with_settings(TIME, settings));
    for round in 0..u64::from(HISTORY.count_max) {
        state.apply(round + 1, batch(topics, 0, TOPICS));
    }
    state
}

fn apply(c: &mut Criterion) {
    let topics = topics();
    let mut state = full_state(&topics);
    let mut group = c.benchmark_group("apply");
    for messages in [1, 64, 512] {
        group.throughput(Throughput::Elements(messages as u64));
        let mut nth = 0;
        group.bench_function(BenchmarkId::new("state", messages), |b| {
            b.iter_batched(
                || {
                    nth += 1;
                    batch(&topics, nth, messages)
                },
                |batch| state.apply(1_000, batch),
                BatchSize::SmallInput,
            );
        });
        let batch = batch(&topics, 0, messages);
        group.bench_function(BenchmarkId::new("encode entry", messages), |b| {
            b.iter(|| black_box(&batch).encode(VersionRange::supported().max));
        });
        let entry = batch.encode(VersionRange::supported().max);
        group.bench_function(BenchmarkId::new("decode entry", messages), |b| {
            b.iter(|| EntryBatch::decode(black_box(&entry)).unwrap());
        });
    }
    group.finish();
}

fn page(c: &mut Criterion) {
    let topics = topics();
    let state = full_state(&topics);
    let topic = &topics[4_711];
    let head = state.topic_stats(topic, TIME).unwrap().head;
    for (name, want) in [
        ("page/nothing new", HistoryRange::After(head)),
        ("page/last 1", HistoryRange::Last(1)),
        ("page/all 16", HistoryRange::All),
    ] {
        c.bench_function(name, |b| {
            b.iter(|| state.fetch_history(black_box(topic), want, TIME).unwrap())
        });
    }
}

/// Snapshots. Capturing blocks the entries of the shard, because the state is locked; encoding does not.
fn snapshot(c: &mut Criterion) {
    let state = full_state(&topics());
    let bytes = state.snapshot();
    let mut group = c.benchmark_group("snapshot");
    group.sample_size(10).throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("capture, 160,000 messages", |b| {
        b.iter_with_large_drop(|| black_box(&state).clone());
    });
    group.bench_function("encode, 160,000 messages", |b| b.iter(|| state.snapshot()));
    group.bench_function("restore, 160,000 messages", |b| {
        b.iter_with_large_drop(|| ShardState::restore(black_box(&bytes)).unwrap());
    });
    group.finish();
}

fn short_run() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = short_run(); targets = apply, page, snapshot }
criterion_main!(benches);

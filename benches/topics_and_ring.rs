//! The cost of routing a message: its topic is validated and hashed, and its owner is looked up.

#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use pushonce_core::{
    ClusterView, HashRing, Member, NodeId, Position, ShardCount, ShardId, Topic, test_util,
};

const TOPIC_NAME: &str = "worldcup/2026/match/57";

fn topic(c: &mut Criterion) {
    c.bench_function("topic/parse", |b| b.iter(|| Topic::new(black_box(TOPIC_NAME))));
    let accented = "fußball/köln/spielstand";
    c.bench_function("topic/parse beyond ASCII", |b| b.iter(|| Topic::new(black_box(accented))));
    let topic = Topic::new(TOPIC_NAME).unwrap();
    c.bench_function("topic/shard", |b| b.iter(|| black_box(&topic).shard(ShardCount::DEFAULT)));
    c.bench_function("position/parse", |b| b.iter(|| black_box("12:4051").parse::<Position>()));
}

fn ring(c: &mut Criterion) {
    for nodes in [3, 32] {
        let weights: BTreeMap<_, _> = (1..=nodes).map(|id| (NodeId(id), 1)).collect();
        let ring = HashRing::new(&weights);
        c.bench_function(&format!("ring/build, {nodes} nodes"), |b| {
            b.iter(|| HashRing::new(black_box(&weights)));
        });
        c.bench_function(&format!("ring/owner, {nodes} nodes"), |b| {
            b.iter(|| ring.owner(black_box(ShardId(7))));
        });
        c.bench_function(&format!("ring/walk, {nodes} nodes"), |b| {
            b.iter(|| ring.preference_list(black_box(ShardId(7))));
        });
    }
}

/// The cost of a membership change in each relay: the region heads of all shards.
fn heads(c: &mut Criterion) {
    let member = |id| Member { region: "eu".to_owned(), ..test_util::member(id) };
    let shards = ShardCount::new(256).unwrap();
    let view = ClusterView { shards, ..test_util::view((1..=1_000).map(member)) };
    c.bench_function("view/heads, 1000 nodes, 256 shards", |b| {
        b.iter(|| black_box(&view).region_heads(black_box("eu")));
    });
}

criterion_group!(benches, topic, ring, heads);
criterion_main!(benches);

//! One of three nodes restarts with records on its disk that cannot be read.
//!
//! Expected: damaged data is never served; an entry or a snapshot is restored from the other replicas without
//! affecting them; until then the replica does not vote; a damaged vote, or damaged data that no other
//! replica has, prevents the start; and nothing is deleted unless a leader can restore it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "not every test uses all of it")]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pushonce_consensus::{
    ConsensusEngine, ConsensusSettings, EngineOpenError, PeerAddresses, PeerTransport, StartError,
};
use pushonce_core::NodeId;
use redb::{Database, ReadableTable, TableDefinition};
use support::*;
use tempfile::TempDir;

const ENTRIES: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("entries");
const VALUES: TableDefinition<(u32, u8), &[u8]> = TableDefinition::new("values");
const PIECES: TableDefinition<(u32, u64, u32), &[u8]> = TableDefinition::new("pieces");
const VOTE: (u32, u8) = (1, 0);
const MANIFEST: (u32, u8) = (1, 3);

/// Flips a bit in the middle of every record of a table that `filter` selects. Returns their number.
fn flip_bits<K: redb::Key + 'static>(
    dir: &TempDir,
    table: TableDefinition<K, &'static [u8]>,
    filter: impl for<'a> Fn(K::SelfType<'a>) -> bool,
) -> usize {
    let database = Database::open(dir.path().join("raft.redb")).unwrap();
    let write = database.begin_write().unwrap();
    let mut flipped = 0;
    {
        let mut records = write.open_table(table).unwrap();
        let found: Vec<_> = records
            .iter()
            .unwrap()
            .map(|record| record.unwrap())
            .filter(|(key, _)| filter(key.value()))
            .map(|(key, value)| {
                (K::as_bytes(&key.value()).as_ref().to_vec(), value.value().to_vec())
            })
            .collect();
        for (key, mut value) in found {
            let middle = value.len() / 2;
            value[middle] ^= 4;
            records.insert(K::from_bytes(&key), value.as_slice()).unwrap();
            flipped += 1;
        }
    }
    write.commit().unwrap();
    flipped
}

async fn publish(node: &RaftTestNode, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        node.group.propose(entry(n, 5_000)).await.unwrap();
    }
}

/// Three nodes that each have a snapshot and a log after it, with the numbers up to 100.
async fn start_three() -> (Vec<RaftTestNode>, PeerAddresses, ConsensusSettings) {
    start_three_with(fast_settings()).await
}

async fn start_three_with(
    settings: ConsensusSettings,
) -> (Vec<RaftTestNode>, PeerAddresses, ConsensusSettings) {
    let settings = ConsensusSettings { log_bytes_max: 150_000, log_bytes_kept: 20_000, ..settings };
    let (nodes, addresses) = start_cluster(3, &settings).await;
    publish(&nodes[0], 1..=100).await;
    let all = nodes[0].group.status().borrow().applied_index;
    for node in &nodes {
        node.wait_applied(all).await;
    }
    (nodes, addresses, settings)
}

/// Waits until a node has applied everything that the leader has.
async fn wait_recovered(node: &RaftTestNode, leader: &RaftTestNode) {
    node.wait_status("recovered", |status| !status.recovering).await;
    // It holds everything; its applied state may be a moment behind.
    let caught_up = async {
        while node.applied_numbers() != leader.applied_numbers() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), caught_up)
        .await
        .expect("the node has everything that the leader has");
}

/// Kills the last node, damages its disk and restarts it. Expects it to restore its data while the leader
/// stays the same.
async fn assert_repaired(damage: impl Fn(&TempDir) -> usize) {
    let (mut nodes, addresses, settings) =
        start_three_with(with_long_elections(fast_settings())).await;
    let term = nodes[0].group.leader_term().unwrap();
    let dir = nodes.pop().unwrap().kill().await;
    assert!(damage(&dir) > 0, "there was nothing to damage");
    publish(&nodes[0], 101..=105).await;

    let back = RaftTestNode::start_in(dir, 3, &addresses, settings.clone()).await;
    assert!(back.group.status().borrow().recovering, "the damage was not detected");
    publish(&nodes[0], 106..=110).await;
    wait_recovered(&back, &nodes[0]).await;
    assert_eq!(nodes[0].group.leader_term(), Some(term), "the leader changed");
    back.wait_seen(1..=110).await;

    // It is a full member: with it there is a majority, and it can be restarted.
    nodes.pop().unwrap().kill().await;
    publish(&nodes[0], 111..=112).await;
    let dir = back.kill().await;
    let back = RaftTestNode::start_in(dir, 3, &addresses, settings).await;
    assert!(!back.group.status().borrow().recovering, "the recovery mark was not removed");
    wait_recovered(&back, &nodes[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_with_damaged_entry_is_repaired_by_others() {
    assert_repaired(|dir| flip_bits(dir, ENTRIES, |(group, index)| group == 1 && index % 2 == 0))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_with_damaged_snapshot_piece_is_repaired_by_others() {
    assert_repaired(|dir| flip_bits(dir, PIECES, |(group, ..)| group == 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_with_damaged_snapshot_manifest_is_repaired_by_others() {
    assert_repaired(|dir| flip_bits(dir, VALUES, |key| key == MANIFEST)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_replica_does_not_vote_until_repaired_even_after_restarts() {
    let (mut nodes, addresses, settings) = start_three().await;
    let mut dirs = Vec::new();
    for node in nodes.drain(..) {
        dirs.push(node.kill().await);
    }
    let [one, two, three] = <[Arc<TempDir>; 3]>::try_from(dirs).unwrap();
    assert!(flip_bits(&three, ENTRIES, |(group, _)| group == 1) > 0);

    let whole = RaftTestNode::start_in(two, 2, &addresses, settings.clone()).await;
    let mut damaged = RaftTestNode::start_in(three, 3, &addresses, settings.clone()).await;
    for _ in 0..2 {
        let mut status = whole.group.status();
        let elected = status.wait_for(|status| status.is_leader);
        let wait_max = 4 * settings.election_max;
        assert!(
            tokio::time::timeout(wait_max, elected).await.is_err(),
            "the damaged replica has voted"
        );
        assert!(damaged.group.leader_term().is_none());
        let dir = damaged.kill().await;
        damaged = RaftTestNode::start_in(dir, 3, &addresses, settings.clone()).await;
        assert!(damaged.group.status().borrow().recovering, "the recovery mark was lost");
    }
    let first = RaftTestNode::start_in(one, 1, &addresses, settings).await;
    let nodes = [first, whole];
    wait_recovered(&damaged, wait_leader(&nodes).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_with_damaged_vote_does_not_start_and_deletes_nothing() {
    let (mut nodes, addresses, settings) = start_three().await;
    let dir = nodes.pop().unwrap().kill().await;
    let flip_vote = |dir: &TempDir| assert_eq!(flip_bits(dir, VALUES, |key| key == VOTE), 1);
    flip_vote(&dir);
    assert_start_rejected(dir.path(), 3, &addresses, settings.clone()).await;
    flip_vote(&dir);
    let back = RaftTestNode::start_in(dir, 3, &addresses, settings).await;
    assert!(!back.group.status().borrow().recovering);
    wait_recovered(&back, &nodes[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_node_with_damaged_entry_does_not_start_and_deletes_nothing() {
    let (mut nodes, addresses) = start_cluster(1, &fast_settings()).await;
    publish(&nodes[0], 1..=10).await;
    let dir = nodes.pop().unwrap().kill().await;
    let flip_entry =
        |dir: &TempDir| assert_eq!(flip_bits(dir, ENTRIES, |(_, index)| index == 5), 1);
    flip_entry(&dir);
    assert_start_rejected(dir.path(), 1, &addresses, fast_settings()).await;
    flip_entry(&dir);
    let back = RaftTestNode::start_in(dir, 1, &addresses, fast_settings()).await;
    back.wait_status("leads", |status| status.is_leader).await;
    assert_eq!(number(&back.group.propose(support::entry(1, 8)).await.unwrap()), 56);
}

async fn assert_start_rejected(
    dir: &Path,
    me: u64,
    addresses: &PeerAddresses,
    settings: ConsensusSettings,
) {
    let transport = PeerTransport::new(CLUSTER, NodeId(me), addresses.clone(), &settings.times());
    let engine = ConsensusEngine::open(dir, settings, transport).await.unwrap();
    let started = engine.start(GROUP, SumMachine::default()).await;
    let error = started.map(|_| ()).unwrap_err();
    assert!(matches!(error, StartError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("nothing was deleted"), "{error}");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncated_store_does_not_open_and_is_left_unchanged() {
    let (mut nodes, _) = start_cluster(1, &fast_settings()).await;
    publish(&nodes[0], 1..=100).await;
    let dir = nodes.pop().unwrap().kill().await;
    let path = dir.path().join("raft.redb");
    let whole = std::fs::read(&path).unwrap();
    for keep in [0, 100, 4_096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..keep]).unwrap();
        let opened = open_alone(dir.path(), CLUSTER, 1).await;
        assert!(
            matches!(opened, Err(EngineOpenError::Damaged { .. } | EngineOpenError::Io { .. })),
            "cut off at {keep} of {}: {:?}",
            whole.len(),
            opened.err()
        );
        assert!(std::fs::read(&path).unwrap() == whole[..keep], "the file was changed");
    }
}

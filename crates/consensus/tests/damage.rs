//! One of three nodes comes back with records on its disk that cannot be read.
//!
//! Claims: what is damaged is never served; an entry or a snapshot is got from the others, who never
//! notice; until then the replica elects nobody, whatever happens; a vote, or what nobody else has,
//! stops the node; and nothing is deleted unless a leader is there to bring it again.

#![allow(clippy::unwrap_used, reason = "a test says no more than that it failed")]

#[allow(dead_code, reason = "not every story needs all of it")]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pushonce_consensus::{AddressBook, Engine, OpenError, Settings, StartError};
use pushonce_core::NodeId;
use redb::{Database, ReadableTable, TableDefinition};
use support::*;
use tempfile::TempDir;

const ENTRIES: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("entries");
const VALUES: TableDefinition<(u32, u8), &[u8]> = TableDefinition::new("values");
const PIECES: TableDefinition<(u32, u64, u32), &[u8]> = TableDefinition::new("pieces");
const VOTE: (u32, u8) = (1, 0);
const MANIFEST: (u32, u8) = (1, 3);

/// Flips a bit in the middle of every record of a table that `which` names; how many there were.
fn flip<K: redb::Key + 'static>(
    dir: &TempDir,
    table: TableDefinition<K, &'static [u8]>,
    which: impl for<'a> Fn(K::SelfType<'a>) -> bool,
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
            .filter(|(key, _)| which(key.value()))
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

async fn publish(node: &Node, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        node.group.propose(entry(n, 5_000)).await.unwrap();
    }
}

/// Three nodes that each have a snapshot and a log behind it, and the numbers up to 100.
async fn three() -> (Vec<Node>, AddressBook, Settings) {
    three_with(quick()).await
}

async fn three_with(settings: Settings) -> (Vec<Node>, AddressBook, Settings) {
    let settings = Settings { log_bytes_max: 150_000, log_bytes_kept: 20_000, ..settings };
    let (nodes, book) = cluster(3, &settings).await;
    publish(&nodes[0], 1..=100).await;
    let all = nodes[0].group.status().borrow().applied;
    for node in &nodes {
        node.applied(all).await;
    }
    (nodes, book, settings)
}

/// Waits until a node has all that the leader has.
async fn recovered(node: &Node, leader: &Node) {
    node.until("recovered", |status| !status.recovering).await;
    // What the leader has it has; its status may be a moment behind.
    let level = async {
        while node.seen() != leader.seen() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), level).await.expect("it has all the leader has");
}

/// The last node is killed, its disk damaged, and it is started again: it gets what it lost, and the
/// others go on under the same leader.
async fn is_repaired(damage: impl Fn(&TempDir) -> usize) {
    let (mut nodes, book, settings) = three_with(patient(quick())).await;
    let term = nodes[0].group.leads().unwrap();
    let dir = nodes.pop().unwrap().kill().await;
    assert!(damage(&dir) > 0, "there was nothing to damage");
    publish(&nodes[0], 101..=105).await;

    let back = Node::start_in(dir, 3, &book, settings.clone()).await;
    assert!(back.group.status().borrow().recovering, "the damage was not noticed");
    publish(&nodes[0], 106..=110).await;
    recovered(&back, &nodes[0]).await;
    assert_eq!(nodes[0].group.leads(), Some(term), "the others noticed");
    back.sees(1..=110).await;

    // It is as good as any other: with it there is a majority, and it can be started again.
    nodes.pop().unwrap().kill().await;
    publish(&nodes[0], 111..=112).await;
    let dir = back.kill().await;
    let back = Node::start_in(dir, 3, &book, settings).await;
    assert!(!back.group.status().borrow().recovering, "the mark has stayed");
    recovered(&back, &nodes[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_damaged_entry_is_repaired_by_the_others() {
    is_repaired(|dir| flip(dir, ENTRIES, |(group, index)| group == 1 && index % 2 == 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_damaged_piece_of_a_snapshot_is_repaired_by_the_others() {
    is_repaired(|dir| flip(dir, PIECES, |(group, ..)| group == 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_damaged_manifest_of_its_snapshot_is_repaired_by_the_others() {
    is_repaired(|dir| flip(dir, VALUES, |key| key == MANIFEST)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_elects_nobody_before_it_has_all_again_though_it_is_restarted() {
    let (mut nodes, book, settings) = three().await;
    let mut dirs = Vec::new();
    for node in nodes.drain(..) {
        dirs.push(node.kill().await);
    }
    let [one, two, three] = <[Arc<TempDir>; 3]>::try_from(dirs).unwrap();
    assert!(flip(&three, ENTRIES, |(group, _)| group == 1) > 0);

    let whole = Node::start_in(two, 2, &book, settings.clone()).await;
    let mut damaged = Node::start_in(three, 3, &book, settings.clone()).await;
    for _ in 0..2 {
        let mut status = whole.group.status();
        let elected = status.wait_for(|status| status.leads);
        let patience = 4 * settings.election_max;
        assert!(tokio::time::timeout(patience, elected).await.is_err(), "it has voted");
        assert!(damaged.group.leads().is_none());
        let dir = damaged.kill().await;
        damaged = Node::start_in(dir, 3, &book, settings.clone()).await;
        assert!(damaged.group.status().borrow().recovering, "the mark was lost");
    }
    let first = Node::start_in(one, 1, &book, settings).await;
    let nodes = [first, whole];
    recovered(&damaged, leader(&nodes).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_damaged_vote_does_not_start_and_deletes_nothing() {
    let (mut nodes, book, settings) = three().await;
    let dir = nodes.pop().unwrap().kill().await;
    let vote = |dir: &TempDir| assert_eq!(flip(dir, VALUES, |key| key == VOTE), 1);
    vote(&dir);
    refused(dir.path(), 3, &book, settings.clone()).await;
    vote(&dir);
    let back = Node::start_in(dir, 3, &book, settings).await;
    assert!(!back.group.status().borrow().recovering);
    recovered(&back, &nodes[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_with_a_damaged_entry_does_not_start_and_deletes_nothing() {
    let (mut nodes, book) = cluster(1, &quick()).await;
    publish(&nodes[0], 1..=10).await;
    let dir = nodes.pop().unwrap().kill().await;
    let entry = |dir: &TempDir| assert_eq!(flip(dir, ENTRIES, |(_, index)| index == 5), 1);
    entry(&dir);
    refused(dir.path(), 1, &book, quick()).await;
    entry(&dir);
    let back = Node::start_in(dir, 1, &book, quick()).await;
    back.until("leads", |status| status.leads).await;
    assert_eq!(number(&back.group.propose(support::entry(1, 8)).await.unwrap()), 56);
}

async fn refused(dir: &Path, me: u64, book: &AddressBook, settings: Settings) {
    let engine = Engine::open(dir, CLUSTER, NodeId(me), settings, book.clone()).await.unwrap();
    let started = engine.start(GROUP, Sum::default()).await;
    let why = started.map(|_| ()).unwrap_err();
    assert!(matches!(why, StartError::Damaged { .. }), "{why}");
    assert!(why.to_string().contains("nothing was deleted"), "{why}");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_cut_off_does_not_open_and_is_left_as_it_is() {
    let (mut nodes, book) = cluster(1, &quick()).await;
    publish(&nodes[0], 1..=100).await;
    let dir = nodes.pop().unwrap().kill().await;
    let path = dir.path().join("raft.redb");
    let whole = std::fs::read(&path).unwrap();
    for keep in [0, 100, 4_096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..keep]).unwrap();
        let opened = Engine::open(dir.path(), CLUSTER, NodeId(1), quick(), book.clone()).await;
        assert!(
            matches!(opened, Err(OpenError::Damaged { .. } | OpenError::Io { .. })),
            "cut off at {keep} of {}: {:?}",
            whole.len(),
            opened.err()
        );
        assert!(std::fs::read(&path).unwrap() == whole[..keep], "the file was changed");
    }
}

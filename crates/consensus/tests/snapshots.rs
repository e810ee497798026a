//! Snapshots on their way to a replica, over connections that are slow or break.
//!
//! Claims: a transfer has no deadline as long as it makes progress; it resumes at the piece it had
//! reached, on the next connection; publishes do not make it begin anew; several groups transfer at
//! once; and meanwhile heartbeats on the same link pass.

#![allow(clippy::unwrap_used, reason = "a test says no more than that it failed")]

#[allow(dead_code, reason = "not every story needs all of it")]
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pushonce_consensus::{AddressBook, At, Capture, Group, GroupId, Machine, Settings};
use pushonce_core::NodeId;
use pushonce_core::versioned::Unreadable;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Keeps the first byte of each entry and as much state as it is told to.
#[derive(Clone, Default)]
struct Ballast(Arc<std::sync::Mutex<Vec<u8>>>);

impl Machine for Ballast {
    fn apply(&mut self, _at: At, entry: &Bytes) -> Result<Bytes, Unreadable> {
        self.0.lock().unwrap().extend_from_slice(entry);
        Ok(Bytes::new())
    }

    fn check(_: &Bytes) -> Result<(), Unreadable> {
        Ok(())
    }

    fn snapshot(&self) -> Capture {
        Bytes::from(self.0.lock().unwrap().clone()).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Unreadable> {
        *self.0.lock().unwrap() = snapshot.to_vec();
        Ok(())
    }
}

/// Connections to a node that carry so many bytes a second, and so many in all, before they break.
struct Proxy {
    address: String,
    /// Bytes carried to the node, over all connections.
    carried: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    async fn to(address: String, rate: u64, break_after: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxied = listener.local_addr().unwrap().to_string();
        let (carried, connections) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (total, count) = (Arc::clone(&carried), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            let mut carrying = tokio::task::JoinSet::new();
            while let Ok((from, _)) = listener.accept().await {
                let Ok(to) = TcpStream::connect(&address).await else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                carrying.spawn(carry(from, to, rate, break_after, Arc::clone(&total)));
            }
        });
        Proxy { address: proxied, carried, connections, task }
    }

    fn carried(&self) -> u64 {
        self.carried.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(from: TcpStream, to: TcpStream, rate: u64, most: u64, total: Arc<AtomicU64>) {
    from.set_nodelay(true).unwrap();
    to.set_nodelay(true).unwrap();
    let (mut from_read, mut from_write) = from.into_split();
    let (mut to_read, mut to_write) = to.into_split();
    let there = async {
        let mut buffer = vec![0; 16 << 10];
        let (begun, mut here) = (Instant::now(), 0);
        while let Ok(count @ 1..) = from_read.read(&mut buffer).await {
            if to_write.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            here += count as u64;
            total.fetch_add(count as u64, Ordering::SeqCst);
            if here > most {
                return;
            }
            let due = Duration::from_secs_f64(here as f64 / rate as f64);
            tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        }
    };
    tokio::select! {
        () = there => {}
        _ = tokio::io::copy(&mut to_read, &mut from_write) => {}
    }
}

/// A node with a group of `mebibytes` of state in a snapshot, of which the log is purged.
async fn filled(node: &Node, id: u32, mebibytes: usize) -> (Group, Ballast) {
    let state = Ballast::default();
    let group = node.engine.start(GroupId(id), state.clone()).await.unwrap();
    group.initialize().await.unwrap();
    group.status().wait_for(|status| status.leads).await.unwrap();
    for n in 0..mebibytes * 4 {
        group.propose(vec![n as u8; 256 << 10].into()).await.unwrap();
    }
    (group, state)
}

fn settings() -> Settings {
    Settings {
        log_bytes_max: 300 << 10,
        log_bytes_kept: 0,
        snapshot_timeout: Duration::from_secs(2),
        ..quick()
    }
}

/// Node 1, and node 2 behind a proxy.
async fn pair(rate: u64, break_after: u64) -> (Node, Node, Proxy) {
    pair_with(settings(), rate, break_after).await
}

async fn pair_with(settings: Settings, rate: u64, break_after: u64) -> (Node, Node, Proxy) {
    let book = AddressBook::default();
    let one = Node::start(1, &book, settings.clone()).await;
    let two = Node::start(2, &book, settings).await;
    let proxy = Proxy::to(book.get(two.id).unwrap(), rate, break_after).await;
    book.set(two.id, proxy.address.clone());
    (one, two, proxy)
}

async fn is_level(group: &Group, patience: Duration) {
    let mut status = group.status();
    let level = status.wait_for(|status| {
        status.matched.get(&NodeId(2)).is_some_and(|matched| *matched >= status.last_log)
    });
    let level = tokio::time::timeout(patience, level).await.is_ok();
    assert!(level, "not level: {:?}", group.status().borrow());
}

const ENOUGH: u64 = u64::MAX;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_resumes_at_the_piece_it_had_reached_when_the_connection_broke() {
    let (one, two, proxy) = pair(64 << 20, 3 << 20).await;
    let (group, state) = filled(&one, 7, 10).await;
    let copy = Ballast::default();
    let _replica = two.engine.start(GroupId(7), copy.clone()).await.unwrap();
    group.add_learner(two.id).await.unwrap();
    is_level(&group, Duration::from_secs(20)).await;
    assert!(proxy.connections.load(Ordering::SeqCst) > 3, "the connection never broke");
    // 10 MiB, and for each connection the pieces that were on their way when it broke.
    let carried = proxy.carried();
    assert!(carried < 16 << 20, "{carried} bytes for 10 MiB of state: it began anew");
    assert!(*copy.0.lock().unwrap() == *state.0.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_transfer_is_completed_beside_publishes_however_long_it_takes() {
    let (one, two, proxy) = pair(2 << 20, ENOUGH).await;
    let (group, state) = filled(&one, 7, 8).await;
    let copy = Ballast::default();
    let replica = two.engine.start(GroupId(7), copy.clone()).await.unwrap();
    group.add_learner(two.id).await.unwrap();

    // 4 s at least, of which each pause may be 2 s. Publishes go on: enough for four snapshots.
    let begun = Instant::now();
    let mut seen = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        group.propose(vec![7; 16 << 10].into()).await.unwrap();
        let sending = group.status().borrow().sending.get(&two.id).copied();
        seen = seen.max(sending.map_or(0, |progress| progress.sent));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(seen > 2, "the status does not show the transfer");
    let lag = group.status().borrow().lag_of(two.id);
    assert!(lag > Some(10), "the lag is not shown: {lag:?}");
    is_level(&group, Duration::from_secs(20)).await;
    assert!(proxy.carried() < 20 << 20, "{} bytes: it began anew", proxy.carried());
    let all = group.status().borrow().last_log;
    replica.status().wait_for(|status| status.applied >= all).await.unwrap();
    assert_eq!(replica.status().borrow().lag(), 0);
    assert!(*copy.0.lock().unwrap() == *state.0.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_groups_transfer_at_once_and_the_lease_of_another_holds_meanwhile() {
    const GROUPS: std::ops::Range<u32> = 10..16;
    // 18 MiB at 6 MiB/s take 3 s: twice as long as a lease lasts without a heartbeat.
    let (one, two, _proxy) = pair_with(patient(settings()), 6 << 20, ENOUGH).await;
    // The group of which both vote: its leader needs the other's answers all the time.
    one.group.initialize().await.unwrap();
    one.until("leads", |status| status.leads).await;
    one.group.add_learner(two.id).await.unwrap();
    level(&one, 2).await;
    one.group.change_voters(ids(&[1, 2])).await.unwrap();
    let term = one.group.leads();

    let mut groups = Vec::new();
    for id in GROUPS {
        groups.push(filled(&one, id, 3).await.0);
    }
    for group in &groups {
        two.engine.start(group.id(), Ballast::default()).await.unwrap();
        group.add_learner(two.id).await.unwrap();
    }
    let begun = Instant::now();
    let mut at_once = BTreeSet::new();
    let is_done = |group: &Group| {
        let status = group.status();
        let status = status.borrow();
        status.matched.get(&two.id).is_some_and(|matched| *matched >= status.last_log)
    };
    while !groups.iter().all(is_done) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the transfers do not end");
        let sending = |group: &Group| {
            let status = group.status().borrow().sending.clone();
            status.get(&two.id).is_some_and(|it| it.sent > 0 && it.sent < it.pieces)
        };
        at_once.insert(groups.iter().filter(|group| sending(group)).count());
        assert!(one.group.leads().is_some(), "the lease was lost beside the transfers");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(at_once.iter().any(|count| *count >= 3), "one after another: {at_once:?}");
    assert_eq!(one.group.leads(), term, "the transfers cost an election");
}

//! Snapshot transfers over connections that are slow or break.
//!
//! Expected: a transfer has no deadline while it makes progress; it resumes at its last piece on the next
//! connection; publishes do not restart it; several groups transfer at the same time; and a transfer delays
//! neither votes nor entries, even when it is stuck.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "not every test uses all of it")]
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pushonce_consensus::{
    ConsensusSettings, EntryId, GroupId, PeerAddresses, RaftGroup, StateMachine, StateSnapshot,
};
use pushonce_core::NodeId;
use pushonce_core::versioned::VersionedDecodeError;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Stores the whole entries, so that the state is as large as the test needs.
#[derive(Clone, Default)]
struct LargeStateMachine(Arc<std::sync::Mutex<Vec<u8>>>);

impl StateMachine for LargeStateMachine {
    fn apply(&mut self, _at: EntryId, entry: &Bytes) -> Result<Bytes, VersionedDecodeError> {
        self.0.lock().unwrap().extend_from_slice(entry);
        Ok(Bytes::new())
    }

    fn check_entry(_: &Bytes) -> Result<(), VersionedDecodeError> {
        Ok(())
    }

    fn check_snapshot(_: GroupId, _: &[u8]) -> Result<(), VersionedDecodeError> {
        Ok(())
    }

    fn snapshot(&self) -> StateSnapshot {
        Bytes::from(self.0.lock().unwrap().clone()).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), VersionedDecodeError> {
        *self.0.lock().unwrap() = snapshot.to_vec();
        Ok(())
    }
}

/// What a proxy does with a connection that has carried its number of bytes.
#[derive(Clone)]
enum AtLimit {
    Break,
    /// Carries no more until the value is true. The first connection, which is that of consensus, has no
    /// limit: besides small requests it may carry entries that are not in the snapshot.
    Stall(watch::Receiver<bool>),
}

/// A proxy in front of a node that limits the rate and the bytes of each connection.
struct ThrottlingProxy {
    address: String,
    /// Bytes forwarded to the node over all connections.
    carried: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    /// Connections that reached their limit.
    limited: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl ThrottlingProxy {
    async fn start(
        address: String,
        rate: u64,
        bytes_max: u64,
        at_limit: AtLimit,
    ) -> ThrottlingProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxied = listener.local_addr().unwrap().to_string();
        let (carried, connections) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let limited = Arc::<AtomicU64>::default();
        let (total, count) = (Arc::clone(&carried), Arc::clone(&connections));
        let connection =
            ProxiedConnection { rate, bytes_max, at_limit, total, limited: Arc::clone(&limited) };
        let task = tokio::spawn(async move {
            let mut carrying = tokio::task::JoinSet::new();
            while let Ok((from, _)) = listener.accept().await {
                let Ok(to) = TcpStream::connect(&address).await else { continue };
                let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
                let mut connection = connection.clone();
                if is_first && matches!(connection.at_limit, AtLimit::Stall(_)) {
                    connection.bytes_max = u64::MAX;
                }
                carrying.spawn(connection.forward(from, to));
            }
        });
        ThrottlingProxy { address: proxied, carried, connections, limited, task }
    }

    fn carried(&self) -> u64 {
        self.carried.load(Ordering::SeqCst)
    }
}

impl Drop for ThrottlingProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct ProxiedConnection {
    rate: u64,
    bytes_max: u64,
    at_limit: AtLimit,
    total: Arc<AtomicU64>,
    limited: Arc<AtomicU64>,
}

impl ProxiedConnection {
    async fn forward(self, from: TcpStream, to: TcpStream) {
        from.set_nodelay(true).unwrap();
        to.set_nodelay(true).unwrap();
        let (from_read, mut from_write) = from.into_split();
        let (mut to_read, to_write) = to.into_split();
        tokio::select! {
            () = self.forward_requests(from_read, to_write) => {}
            _ = tokio::io::copy(&mut to_read, &mut from_write) => {}
        }
    }

    async fn forward_requests(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 16 << 10];
        let (started, mut sent) = (Instant::now(), 0);
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            sent += count as u64;
            self.total.fetch_add(count as u64, Ordering::SeqCst);
            if sent > self.bytes_max {
                self.limited.fetch_add(1, Ordering::SeqCst);
                let AtLimit::Stall(released) = &mut self.at_limit else { return };
                released.wait_for(|released| *released).await.unwrap();
            }
            let due = Duration::from_secs_f64(sent as f64 / self.rate as f64);
            tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
        }
    }
}

/// Starts a group with `mebibytes` of state in a snapshot, and a purged log.
async fn group_with_state(
    node: &RaftTestNode,
    id: u32,
    mebibytes: usize,
) -> (RaftGroup, LargeStateMachine) {
    let state = LargeStateMachine::default();
    let group = node.engine.start(GroupId(id), state.clone()).await.unwrap();
    group.initialize().await.unwrap();
    group.status().wait_for(|status| status.is_leader).await.unwrap();
    for n in 0..mebibytes * 4 {
        group.propose(vec![n as u8; 256 << 10].into()).await.unwrap();
    }
    (group, state)
}

fn settings() -> ConsensusSettings {
    ConsensusSettings {
        log_bytes_max: 300 << 10,
        log_bytes_kept: 0,
        snapshot_timeout: Duration::from_secs(2),
        ..fast_settings()
    }
}

/// Node 1, and node 2 behind a proxy.
async fn start_pair(rate: u64, break_after: u64) -> (RaftTestNode, RaftTestNode, ThrottlingProxy) {
    start_pair_with(settings(), rate, break_after, AtLimit::Break).await
}

async fn start_pair_with(
    settings: ConsensusSettings,
    rate: u64,
    bytes_max: u64,
    at_limit: AtLimit,
) -> (RaftTestNode, RaftTestNode, ThrottlingProxy) {
    let addresses = PeerAddresses::default();
    let one = RaftTestNode::start(1, &addresses, settings.clone()).await;
    let two = RaftTestNode::start(2, &addresses, settings).await;
    let address = addresses.get(two.id).unwrap();
    let proxy = ThrottlingProxy::start(address, rate, bytes_max, at_limit).await;
    addresses.set(two.id, proxy.address.clone());
    (one, two, proxy)
}

/// Makes both nodes voters of one group: its leader needs the other's responses all the time.
async fn vote_together(leader: &RaftTestNode, other: &RaftTestNode) {
    leader.group.initialize().await.unwrap();
    leader.wait_status("leads", |status| status.is_leader).await;
    leader.group.add_learner(other.id).await.unwrap();
    wait_caught_up(leader, other.id.0).await;
    leader.group.change_voters([leader.id, other.id].into()).await.unwrap();
}

async fn wait_peer_caught_up(group: &RaftGroup, wait_max: Duration) {
    let mut status = group.status();
    let caught_up = status.wait_for(|status| {
        status.matched.get(&NodeId(2)).is_some_and(|matched| *matched >= status.last_log_index)
    });
    let caught_up = tokio::time::timeout(wait_max, caught_up).await.is_ok();
    assert!(caught_up, "not caught up: {:?}", group.status().borrow());
}

const UNLIMITED: u64 = u64::MAX;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfer_resumes_at_last_piece_after_connection_breaks() {
    let (one, two, proxy) = start_pair(64 << 20, 3 << 20).await;
    let (group, state) = group_with_state(&one, 7, 10).await;
    let copy = LargeStateMachine::default();
    let _replica = two.engine.start(GroupId(7), copy.clone()).await.unwrap();
    group.add_learner(two.id).await.unwrap();
    wait_peer_caught_up(&group, Duration::from_secs(20)).await;
    assert!(proxy.connections.load(Ordering::SeqCst) > 3, "the connection never broke");
    // 10 MiB, and for each connection the pieces in flight when it broke.
    let carried = proxy.carried();
    assert!(carried < 16 << 20, "{carried} bytes for 10 MiB of state: the transfer was restarted");
    assert!(*copy.0.lock().unwrap() == *state.0.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_transfer_completes_during_publishes() {
    let (one, two, proxy) = start_pair(2 << 20, UNLIMITED).await;
    let (group, state) = group_with_state(&one, 7, 8).await;
    let copy = LargeStateMachine::default();
    let replica = two.engine.start(GroupId(7), copy.clone()).await.unwrap();
    group.add_learner(two.id).await.unwrap();

    // The transfer takes at least 4 s, and a pause may take 2 s. The publishes are enough for four snapshots.
    let started = Instant::now();
    let mut seen = 0;
    while started.elapsed() < Duration::from_secs(3) {
        group.propose(vec![7; 16 << 10].into()).await.unwrap();
        let sending = group.status().borrow().snapshot_transfers.get(&two.id).copied();
        seen = seen.max(sending.map_or(0, |progress| progress.pieces_sent));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(seen > 2, "the status does not show the transfer");
    let lag = group.status().borrow().follower_lag(two.id);
    assert!(lag > Some(10), "the lag is not shown: {lag:?}");
    wait_peer_caught_up(&group, Duration::from_secs(20)).await;
    assert!(proxy.carried() < 20 << 20, "{} bytes: the transfer was restarted", proxy.carried());
    let all = group.status().borrow().last_log_index;
    replica.status().wait_for(|status| status.applied_index >= all).await.unwrap();
    assert_eq!(replica.status().borrow().lag(), 0);
    assert!(*copy.0.lock().unwrap() == *state.0.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_transfers_do_not_cost_another_group_its_lease() {
    const GROUPS: std::ops::Range<u32> = 10..16;
    // 18 MiB at 6 MiB/s take 3 s, as long as a lease: without heartbeats the lease would be lost.
    let (one, two, _proxy) =
        start_pair_with(with_long_elections(settings()), 6 << 20, UNLIMITED, AtLimit::Break).await;
    vote_together(&one, &two).await;
    let term = one.group.leader_term();

    let mut groups = Vec::new();
    for id in GROUPS {
        groups.push(group_with_state(&one, id, 3).await.0);
    }
    for group in &groups {
        two.engine.start(group.id(), LargeStateMachine::default()).await.unwrap();
        group.add_learner(two.id).await.unwrap();
    }
    let started = Instant::now();
    let mut at_once = BTreeSet::new();
    let is_done = |group: &RaftGroup| {
        let status = group.status();
        let status = status.borrow();
        status.matched.get(&two.id).is_some_and(|matched| *matched >= status.last_log_index)
    };
    while !groups.iter().all(is_done) {
        assert!(started.elapsed() < Duration::from_secs(30), "the transfers did not complete");
        let sending = |group: &RaftGroup| {
            let status = group.status().borrow().snapshot_transfers.clone();
            status
                .get(&two.id)
                .is_some_and(|it| it.pieces_sent > 0 && it.pieces_sent < it.pieces_total)
        };
        at_once.insert(groups.iter().filter(|group| sending(group)).count());
        assert!(one.group.leader_term().is_some(), "the lease was lost during the transfers");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        at_once.iter().any(|count| *count >= 3),
        "the transfers were not concurrent: {at_once:?}"
    );
    assert_eq!(one.group.leader_term(), term, "the transfers caused an election");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn votes_and_entries_pass_a_snapshot_that_is_stuck() {
    // Less than a piece.
    const STALL_AFTER: u64 = 128 << 10;
    let (release, released) = watch::channel(false);
    // A lease that a busy machine does not lose.
    let settings = with_long_elections(settings());
    let (one, two, proxy) =
        start_pair_with(settings, UNLIMITED, STALL_AFTER, AtLimit::Stall(released)).await;
    vote_together(&one, &two).await;
    let (group, state) = group_with_state(&one, 7, 3).await;
    let copy = LargeStateMachine::default();
    let _replica = two.engine.start(GroupId(7), copy.clone()).await.unwrap();
    group.add_learner(two.id).await.unwrap();
    let started = Instant::now();
    while proxy.limited.load(Ordering::SeqCst) == 0 {
        assert!(started.elapsed() < Duration::from_secs(20), "no snapshot was sent");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // The first piece does not arrive from here on. Entries need an acknowledgement of node 2, and both
    // transfers of leadership a vote.
    for n in 0..20 {
        one.group.propose(entry(n, 8)).await.unwrap();
    }
    one.group.transfer_leadership(two.id).await.unwrap();
    two.wait_status("leads", |status| status.is_leader).await;
    two.group.propose(entry(20, 8)).await.unwrap();
    two.group.transfer_leadership(one.id).await.unwrap();
    one.wait_status("leads", |status| status.is_leader).await;
    one.group.propose(entry(21, 8)).await.unwrap();
    let transfer = group.status().borrow().snapshot_transfers.get(&two.id).copied();
    assert!(transfer.is_some_and(|it| it.pieces_sent == 0), "it was not stuck: {transfer:?}");

    release.send_replace(true);
    wait_peer_caught_up(&group, Duration::from_secs(20)).await;
    assert!(*copy.0.lock().unwrap() == *state.0.lock().unwrap());
}

//! Nodes in one process that host one shard, each with a log on disk and a peer port on loopback.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pushonce_consensus::{
    ConsensusEngine, ConsensusSettings, DiskProbe, DiskSpace, GroupStatus, HostHooks,
    PeerAddresses, PeerTransport,
};
use pushonce_core::{
    ClusterId, History, Message, MessageKey, Namespace, Namespaces, NodeId, OwnershipClaim,
    Publish, ShardCount, ShardId, Term, Timestamp, Topic, test_util,
};
use pushonce_shard::{
    ClusterClock, CommitListener, Handle, NodeTopics, ShardOptions, ShardSettings,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

/// The only shard of its cluster: every topic belongs to it.
pub(crate) const SHARD: ShardId = ShardId(0);

/// A test fails when no node becomes the owner within this time.
const ELECTION_WAIT_MAX: Duration = Duration::from_secs(60);

/// The settings of the cluster, as the nodes of a test receive them.
pub(crate) type SettingsReceiver = watch::Receiver<Option<Arc<ShardSettings>>>;

/// A listener that records every delivered message, in order.
#[derive(Default)]
pub(crate) struct RecordingListener(Mutex<Vec<(Topic, Arc<Message>)>>);

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) engine: ConsensusEngine,
    pub(crate) shard: Handle,
    pub(crate) delivered: Arc<RecordingListener>,
    pub(crate) shutdown: CancellationToken,
    running: JoinHandle<()>,
    server: JoinHandle<()>,
}

impl CommitListener for RecordingListener {
    fn on_committed(&self, shard: ShardId, messages: Vec<(Topic, Arc<Message>)>) {
        assert_eq!(shard, SHARD);
        self.0.lock().unwrap().extend(messages);
    }

    fn on_placed_in_memory(&self, shard: ShardId, topic: Topic, message: Arc<Message>) {
        self.on_committed(shard, vec![(topic, message)]);
    }

    fn on_removed(&self, shard: ShardId, _: Vec<Topic>) {
        assert_eq!(shard, SHARD);
    }

    fn flush_placed(&self) {}
}

impl RecordingListener {
    pub(crate) fn all(&self) -> Vec<(Topic, Arc<Message>)> {
        self.0.lock().unwrap().clone()
    }
}

/// Makes the nodes the voters of the shard's group. The first one creates it and becomes the owner.
pub(crate) async fn form_group(nodes: &[Node]) {
    let group = nodes[0].shard.group();
    group.initialize().await.unwrap();
    nodes[0].claim_after(Term(0)).await;
    for Node { id, .. } in &nodes[1..] {
        group.add_learner(*id).await.unwrap();
        let is_caught_up = |status: &GroupStatus| status.matched.contains_key(id);
        group.status().wait_for(is_caught_up).await.unwrap();
    }
    group.change_voters(nodes.iter().map(|node| node.id).collect()).await.unwrap();
}

impl Node {
    /// Starts a node with unlimited history and a clock that stands still.
    pub(crate) async fn start(
        id: u64,
        dir: &TempDir,
        addresses: &PeerAddresses,
        times: ConsensusSettings,
    ) -> Node {
        let known = watch::channel(settings(unlimited_history())).1;
        let clock = Arc::new(|| Timestamp(1_790_000_000_000));
        Node::start_with(id, dir, addresses, times, known, clock).await
    }

    pub(crate) async fn start_with(
        id: u64,
        dir: &TempDir,
        addresses: &PeerAddresses,
        times: ConsensusSettings,
        known: SettingsReceiver,
        clock: Arc<dyn ClusterClock>,
    ) -> Node {
        Node::start_with_probe(
            Arc::new(DiskSpace::for_dir),
            id,
            dir,
            addresses,
            times,
            known,
            clock,
        )
        .await
    }

    /// As [`Node::start`], on a disk whose free space `disk_probe` reports.
    pub(crate) async fn start_with_disk(
        id: u64,
        dir: &TempDir,
        addresses: &PeerAddresses,
        times: ConsensusSettings,
        disk_probe: DiskProbe,
    ) -> Node {
        let known = watch::channel(settings(unlimited_history())).1;
        let clock = Arc::new(|| Timestamp(1_790_000_000_000));
        Node::start_with_probe(disk_probe, id, dir, addresses, times, known, clock).await
    }

    async fn start_with_probe(
        disk_probe: DiskProbe,
        id: u64,
        dir: &TempDir,
        addresses: &PeerAddresses,
        times: ConsensusSettings,
        known: SettingsReceiver,
        clock: Arc<dyn ClusterClock>,
    ) -> Node {
        let id = NodeId(id);
        ConsensusEngine::create(dir.path(), ClusterId(9), id).await.unwrap();
        let hooks =
            HostHooks { disk_space: disk_probe, on_fatal: Arc::new(|why: &str| panic!("{why}")) };
        let transport = PeerTransport::new(ClusterId(9), id, addresses.clone(), &times.times());
        let engine = ConsensusEngine::open_with_hooks(dir.path(), times, transport, hooks);
        let engine = engine.await.unwrap();
        let server = serve(&engine, id, addresses).await;
        let delivered = Arc::new(RecordingListener::default());
        let shard = ShardOptions {
            id: SHARD,
            me: id,
            permits: Arc::new(Semaphore::new(8)),
            settings: known,
            commit_listener: delivered.clone(),
            clock,
            topics: Arc::new(NodeTopics::new(0)),
        };
        let (shard, runner) = shard.open(&engine).await.unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(runner.run(shutdown.clone()));
        Node { id, engine, shard, delivered, shutdown, running, server }
    }

    /// Waits until this node claims the shard in a later term than `term`, and returns that term.
    pub(crate) async fn claim_after(&self, term: Term) -> Term {
        let mut claims = self.shard.claim();
        let newer =
            |claim: &Option<OwnershipClaim>| claim.as_ref().is_some_and(|claim| claim.term > term);
        let claimed = tokio::time::timeout(ELECTION_WAIT_MAX, claims.wait_for(newer)).await;
        let claim = claimed.expect("no node became the owner").unwrap().clone().unwrap();
        assert_eq!((claim.shard, claim.owner), (SHARD, self.id));
        assert!(claim.voters.contains(&self.id));
        claim.term
    }

    /// The last index of the log, after it has not changed for longer than the status may lag behind.
    pub(crate) async fn log_end(&self) -> u64 {
        let last_log = || self.shard.group().status().borrow().last_log_index;
        loop {
            let before = last_log();
            tokio::time::sleep(Duration::from_millis(100)).await;
            if last_log() == before {
                return before;
            }
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
        assert!(self.shard.claim().borrow().is_none(), "a stopped node claims the shard");
        self.server.abort();
        self.engine.stop().await;
    }
}

async fn serve(engine: &ConsensusEngine, id: NodeId, addresses: &PeerAddresses) -> JoinHandle<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    addresses.set(id, listener.local_addr().unwrap().to_string());
    let incoming = TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(engine.service());
    tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() })
}

fn unlimited_history() -> Namespaces {
    let history = History {
        count_max: u32::MAX,
        bytes_max: u32::MAX,
        age_max_ms: u64::MAX,
        ..History::default()
    };
    let default = Namespace { history, ..Namespace::default() };
    Namespaces { revision: 1, default, ..Namespaces::default() }
}

/// The settings of a cluster of one shard with these namespaces.
pub(crate) fn settings(namespaces: Namespaces) -> Option<Arc<ShardSettings>> {
    let shards = ShardCount::new(1).unwrap();
    Some(Arc::new(ShardSettings { shards, namespaces }))
}

pub(crate) fn dir() -> TempDir {
    TempDir::new().unwrap()
}

/// A publish with a key, which can be repeated.
pub(crate) fn keyed(topic: Topic, key: &str, payload: &str) -> Publish {
    Publish { key: Some(MessageKey::new(key).unwrap()), ..publish(topic, payload.to_owned()) }
}

pub(crate) fn publish(topic: Topic, payload: String) -> Publish {
    test_util::publish(topic.as_str(), payload)
}

//! Nodes in one process that communicate over loopback gRPC.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pushonce_consensus::{
    ConsensusEngine, ConsensusSettings, DiskSpace, EngineOpenError, EntryId, GroupId, GroupStatus,
    HostHooks, PeerAddresses, PeerTransport, RaftGroup, StateMachine, StateSnapshot,
};
use pushonce_core::versioned::VersionedDecodeError;
use pushonce_core::{ClusterId, NodeId};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

pub(crate) const CLUSTER: ClusterId = ClusterId(0xc0ffee);
pub(crate) const GROUP: GroupId = GroupId(1);

/// Sums the numbers in the first eight bytes of its entries, records each, and responds with the sum.
#[derive(Clone, Default)]
pub(crate) struct SumMachine(pub Arc<Mutex<Vec<u64>>>);

impl StateMachine for SumMachine {
    fn apply(&mut self, _at: EntryId, entry: &Bytes) -> Result<Bytes, VersionedDecodeError> {
        let mut seen = self.0.lock().unwrap();
        seen.push(number(entry));
        Ok(Bytes::copy_from_slice(&seen.iter().sum::<u64>().to_be_bytes()))
    }

    fn check_entry(_entry: &Bytes) -> Result<(), VersionedDecodeError> {
        Ok(())
    }

    fn snapshot(&self) -> StateSnapshot {
        let bytes: Bytes = self.0.lock().unwrap().iter().flat_map(|n| n.to_be_bytes()).collect();
        bytes.into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), VersionedDecodeError> {
        *self.0.lock().unwrap() = snapshot.chunks_exact(8).map(number).collect();
        Ok(())
    }
}

pub(crate) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

/// An entry that adds `n`, padded to `size` bytes.
pub(crate) fn entry(n: u64, size: usize) -> Bytes {
    let mut entry = n.to_be_bytes().to_vec();
    entry.resize(size.max(8), 0);
    entry.into()
}

pub(crate) fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

pub(crate) struct RaftTestNode {
    pub(crate) id: NodeId,
    pub(crate) engine: ConsensusEngine,
    pub(crate) group: RaftGroup,
    pub(crate) sum: SumMachine,
    pub(crate) dir: Arc<TempDir>,
    server: JoinHandle<()>,
    stopping: CancellationToken,
}

pub(crate) fn fast_settings() -> ConsensusSettings {
    ConsensusSettings { proposal_deadline: Duration::from_secs(2), ..ConsensusSettings::lan() }
}

/// For tests in which the leader must stay: one slow fsync is enough to lose the lease of [`fast_settings`].
/// 800 ms.
#[allow(dead_code, reason = "not every test uses it")]
pub(crate) fn with_long_elections(settings: ConsensusSettings) -> ConsensusSettings {
    ConsensusSettings {
        election_min: Duration::from_millis(1_500),
        election_max: Duration::from_millis(3_000),
        ..settings
    }
}

impl RaftTestNode {
    pub(crate) async fn start(
        id: u64,
        addresses: &PeerAddresses,
        settings: ConsensusSettings,
    ) -> RaftTestNode {
        RaftTestNode::start_in(Arc::new(TempDir::new().unwrap()), id, addresses, settings).await
    }

    pub(crate) async fn start_in(
        dir: Arc<TempDir>,
        id: u64,
        addresses: &PeerAddresses,
        settings: ConsensusSettings,
    ) -> RaftTestNode {
        let on_fatal = |reason: &str| panic!("the disk failed: {reason}");
        let hooks =
            HostHooks { disk_space: Arc::new(DiskSpace::for_dir), on_fatal: Arc::new(on_fatal) };
        RaftTestNode::start_with_hooks(hooks, dir, id, addresses, settings).await
    }

    pub(crate) async fn start_with_hooks(
        hooks: HostHooks,
        dir: Arc<TempDir>,
        id: u64,
        addresses: &PeerAddresses,
        settings: ConsensusSettings,
    ) -> RaftTestNode {
        let id = NodeId(id);
        ConsensusEngine::create(dir.path(), CLUSTER, id).await.unwrap();
        let transport = PeerTransport::new(CLUSTER, id, addresses.clone(), &settings.times());
        let peer_server = transport.server();
        let engine =
            ConsensusEngine::open_with_hooks(dir.path(), settings, transport, hooks).await.unwrap();
        let (address, server, stopping) = serve(peer_server, &engine).await;
        addresses.set(id, address.to_string());
        let sum = SumMachine::default();
        let group = engine.start(GROUP, sum.clone()).await.unwrap();
        RaftTestNode { id, engine, group, sum, dir, server, stopping }
    }

    /// Stops the node so that it looks like a kill to its peers: its sockets close. Returns its directory.
    pub(crate) async fn kill(self) -> Arc<TempDir> {
        self.server.abort();
        self.stopping.cancel();
        self.engine.stop().await;
        self.dir
    }

    pub(crate) async fn wait_status(
        &self,
        description: &str,
        reached: impl FnMut(&GroupStatus) -> bool,
    ) -> GroupStatus {
        let mut status = self.group.status();
        match timeout(Duration::from_secs(8), status.wait_for(reached)).await {
            Ok(Ok(status)) => status.clone(),
            _ => panic!(
                "{}: not reached: {description}: {:?}",
                self.id,
                self.group.status().borrow()
            ),
        }
    }

    pub(crate) async fn wait_applied(&self, index: u64) {
        self.wait_status("applied", |status| status.applied_index >= index).await;
    }

    /// Waits until this node has applied exactly these numbers. Its status, and that of the leader, may be
    /// older.
    pub(crate) async fn wait_seen(&self, numbers: impl IntoIterator<Item = u64>) {
        let numbers: Vec<_> = numbers.into_iter().collect();
        let seen = async {
            while self.applied_numbers() != numbers {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = timeout(Duration::from_secs(8), seen).await.is_ok();
        assert!(in_time, "{} has applied {:?}, not {numbers:?}", self.id, self.applied_numbers());
    }

    pub(crate) fn applied_numbers(&self) -> Vec<u64> {
        self.sum.0.lock().unwrap().clone()
    }
}

/// Opens the store of a node that has no peers.
#[allow(dead_code, reason = "not every test uses it")]
pub(crate) async fn open_alone(
    dir: &Path,
    cluster: ClusterId,
    me: u64,
) -> Result<ConsensusEngine, EngineOpenError> {
    let (settings, addresses) = (ConsensusSettings::lan(), PeerAddresses::default());
    let transport = PeerTransport::new(cluster, NodeId(me), addresses, &settings.times());
    ConsensusEngine::open(dir, settings, transport).await
}

async fn serve(
    mut server: pushonce_peer::PeerServer,
    engine: &ConsensusEngine,
) -> (SocketAddr, JoinHandle<()>, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stopping = CancellationToken::new();
    let stopped = stopping.clone().cancelled_owned();
    let service = engine.service();
    let server = tokio::spawn(async move {
        server
            .add_service(service)
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                stopped,
            )
            .await
            .unwrap();
    });
    (address, server, stopping)
}

/// Nodes 1 to `n`, all voters of one group that node 1 leads.
pub(crate) async fn start_cluster(
    n: u64,
    settings: &ConsensusSettings,
) -> (Vec<RaftTestNode>, PeerAddresses) {
    let addresses = PeerAddresses::default();
    let mut nodes = Vec::new();
    for id in 1..=n {
        nodes.push(RaftTestNode::start(id, &addresses, settings.clone()).await);
    }
    form_group(&nodes).await;
    (nodes, addresses)
}

/// Makes all nodes voters of one group that the first node leads.
pub(crate) async fn form_group(nodes: &[RaftTestNode]) {
    let first = &nodes[0];
    first.group.initialize().await.unwrap();
    first.wait_status("leads", |status| status.is_leader).await;
    for node in &nodes[1..] {
        first.group.add_learner(node.id).await.unwrap();
        wait_caught_up(first, node.id.0).await;
    }
    first.group.change_voters(nodes.iter().map(|node| node.id).collect()).await.unwrap();
}

/// Waits until a replica holds the whole log of the leader.
pub(crate) async fn wait_caught_up(leader: &RaftTestNode, id: u64) {
    leader
        .wait_status("caught up", |status| {
            status.matched.get(&NodeId(id)).is_some_and(|matched| *matched >= status.last_log_index)
        })
        .await;
}

/// Waits until one of the nodes leads, and returns it.
pub(crate) async fn wait_leader(nodes: &[RaftTestNode]) -> &RaftTestNode {
    let wait = nodes.iter().map(|node| {
        Box::pin(async move {
            node.group.status().wait_for(|status| status.is_leader).await.unwrap();
            node
        })
    });
    timeout(Duration::from_secs(8), futures::future::select_all(wait)).await.unwrap().0
}

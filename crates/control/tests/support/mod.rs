//! Nodes in one process with real engines, connected by gRPC over loopback.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pushonce_consensus::{
    ConsensusEngine, ConsensusSettings, EntryId, GroupStatus, PeerAddresses, PeerTransport,
    ProposeError, RaftGroup, StateMachine, StateSnapshot,
};
use pushonce_control::reconcile::PeerWatches;
use pushonce_control::{
    BootstrapCommand, ControlHandle, Incarnation, JoinCommand, JoinCredential, ProcessRun, Profile,
};
use pushonce_core::versioned::VersionedDecodeError;
use pushonce_core::{
    Addresses, BuildInfo, ClusterId, ClusterView, Namespaces, NodeId, Roles, ShardCount, Spread,
    VersionRange,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

pub(crate) const CLUSTER: ClusterId = ClusterId(0xfeed);
const TIMEOUT: Duration = Duration::from_secs(20);

/// The state that all nodes of a test share.
pub(crate) struct ControlTestCluster {
    addresses: PeerAddresses,
    reachable: watch::Sender<BTreeSet<NodeId>>,
    stopping: watch::Sender<BTreeSet<NodeId>>,
}

pub(crate) struct ControlNode {
    pub(crate) id: NodeId,
    pub(crate) engine: ConsensusEngine,
    pub(crate) control: ControlHandle,
    running: JoinSet<()>,
    shutdown: CancellationToken,
    dir: TempDir,
}

impl ControlTestCluster {
    pub(crate) fn new() -> ControlTestCluster {
        ControlTestCluster {
            addresses: PeerAddresses::default(),
            reachable: watch::Sender::default(),
            stopping: watch::Sender::default(),
        }
    }

    pub(crate) fn reachable(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.reachable.subscribe()
    }

    pub(crate) async fn bootstrap(&self) -> ControlNode {
        let (listener, profile) = listen("n1").await;
        let node = self.start(NodeId(1), listener, TempDir::new().unwrap()).await;
        let command = BootstrapCommand {
            cluster: CLUSTER,
            incarnation: Incarnation(1),
            run: ProcessRun::default(),
            profile,
            shards: ShardCount::DEFAULT,
            replicas: 3,
            spread: Spread::Zones,
            namespaces: Namespaces::default(),
            times: Default::default(),
            log: None,
            cluster_version: VersionRange::supported().min,
        };
        node.control.bootstrap(command.clone()).await.unwrap();
        node.control.bootstrap(command).await.unwrap();
        node
    }

    /// Starts a new node that joins through a member.
    pub(crate) async fn join(&self, through: &ControlNode, name: &str) -> ControlNode {
        let (listener, profile) = listen(name).await;
        let joined = through.control.join(join_command(name, profile)).await.unwrap();
        assert_eq!(joined.cluster, CLUSTER);
        self.start(joined.node, listener, TempDir::new().unwrap()).await
    }

    async fn start(&self, id: NodeId, listener: TcpListener, dir: TempDir) -> ControlNode {
        self.addresses.set(id, listener.local_addr().unwrap().to_string());
        ConsensusEngine::create(dir.path(), CLUSTER, id).await.unwrap();
        let settings = ConsensusSettings::lan();
        let transport = PeerTransport::new(CLUSTER, id, self.addresses.clone(), &settings.times());
        let engine = ConsensusEngine::open(dir.path(), settings, transport).await.unwrap();
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        let server = tonic::transport::Server::builder()
            .add_service(engine.service())
            .serve_with_incoming(TcpListenerStream::new(listener));
        running.spawn(async move { server.await.unwrap() });
        let (control, runner) = ControlHandle::open(&engine, id).await.unwrap();
        running.spawn(runner.run(self.reachable(), shutdown.clone()));
        self.reachable.send_if_modified(|nodes| nodes.insert(id));
        ControlNode { id, engine, control, running, shutdown, dir }
    }

    /// Stops a node without notice, as a kill appears to the others. Returns its disk.
    pub(crate) async fn kill(&self, mut node: ControlNode) -> TempDir {
        self.reachable.send_if_modified(|nodes| nodes.remove(&node.id));
        node.shutdown.cancel();
        node.running.shutdown().await;
        node.engine.stop().await;
        node.dir
    }

    /// Restarts a node on its disk, at another address.
    pub(crate) async fn restart(&self, id: NodeId, dir: TempDir) -> ControlNode {
        let (listener, _) = listen("again").await;
        self.start(id, listener, dir).await
    }
}

impl ControlNode {
    pub(crate) async fn view(&self, reached: impl Fn(&ClusterView) -> bool) -> Arc<ClusterView> {
        let mut view = self.control.view();
        let view_reached = view.wait_for(|view| view.as_ref().is_some_and(|view| reached(view)));
        match timeout(TIMEOUT, view_reached).await {
            Ok(Ok(view)) => view.clone().unwrap(),
            _ => panic!("{} timed out at the view {:?}", self.id, self.control.view().borrow()),
        }
    }
}

pub(crate) async fn wait_for(
    mut status: watch::Receiver<GroupStatus>,
    reached: impl FnMut(&GroupStatus) -> bool,
) -> GroupStatus {
    if let Ok(Ok(status)) = timeout(TIMEOUT, status.wait_for(reached)).await {
        return status.clone();
    }
    panic!("timed out at the status {:?}", status.borrow())
}

/// A join command; equal names have the same data directory.
pub(crate) fn join_command(name: &str, profile: Profile) -> JoinCommand {
    let incarnation = name.bytes().fold(0, |sum, byte| sum * 256 + u128::from(byte));
    let (incarnation, run) = (Incarnation(incarnation), ProcessRun::default());
    let credential = JoinCredential::None;
    JoinCommand {
        incarnation,
        run,
        cluster: None,
        node: None,
        profile,
        times: None,
        log: None,
        credential,
    }
}

pub(crate) fn profile(name: &str, peer: &str) -> Profile {
    Profile {
        name: name.to_owned(),
        addresses: Addresses { peer: peer.to_owned(), ..Addresses::default() },
        region: String::new(),
        zone: String::new(),
        roles: Roles::default(),
        weight: 1,
        build: BuildInfo { release: "0.1.0".to_owned(), supported: VersionRange::supported() },
    }
}

async fn listen(name: &str) -> (TcpListener, Profile) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, profile(name, &address))
}

pub(crate) fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// A state machine that counts its entries.
#[derive(Clone, Default)]
pub(crate) struct CountingMachine(pub(crate) Arc<AtomicU64>);

impl StateMachine for CountingMachine {
    fn apply(&mut self, _at: EntryId, _entry: &Bytes) -> Result<Bytes, VersionedDecodeError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Bytes::new())
    }

    fn check_entry(_entry: &Bytes) -> Result<(), VersionedDecodeError> {
        Ok(())
    }

    fn check_snapshot(
        _: pushonce_consensus::GroupId,
        _: &[u8],
    ) -> Result<(), VersionedDecodeError> {
        Ok(())
    }

    fn snapshot(&self) -> StateSnapshot {
        Bytes::copy_from_slice(&self.0.load(Ordering::SeqCst).to_be_bytes()).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), VersionedDecodeError> {
        let count = snapshot
            .try_into()
            .map_err(|_| VersionedDecodeError::Corrupt("not eight bytes".to_owned()))?;
        self.0.store(u64::from_be_bytes(count), Ordering::SeqCst);
        Ok(())
    }
}

/// The outcomes of the proposals of a load, without rejected ones.
#[derive(Default, Debug)]
pub(crate) struct ProposeOutcomes {
    pub(crate) done: u64,
    pub(crate) unknown: u64,
}

/// Proposes one entry after another at the current leader until `stop`.
pub(crate) async fn propose_until_stopped(
    group: RaftGroup,
    stop: CancellationToken,
) -> ProposeOutcomes {
    let mut outcomes = ProposeOutcomes::default();
    while !stop.is_cancelled() {
        match group.propose_at_leader(Bytes::from_static(b"entry")).await {
            Ok(_) => outcomes.done += 1,
            Err(ProposeError::Unknown(_)) => outcomes.unknown += 1,
            Err(ProposeError::Rejected { .. }) => tokio::task::yield_now().await,
        }
    }
    outcomes
}

/// Makes a node keep one group at the desired replicas.
pub(crate) fn reconcile_group(
    node: &mut ControlNode,
    group: &RaftGroup,
    cluster: &ControlTestCluster,
    desired: &watch::Sender<Vec<NodeId>>,
    move_permits: &Arc<tokio::sync::Semaphore>,
) {
    node.running.spawn(pushonce_control::reconcile::run(
        group.clone(),
        node.id,
        desired.subscribe(),
        PeerWatches { reachable: cluster.reachable(), stopping: cluster.stopping.subscribe() },
        Arc::clone(move_permits),
        watch::Sender::default(),
        node.shutdown.clone(),
    ));
}

//! Nodes of one process with real engines, that speak over loopback gRPC.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pushonce_consensus::{
    AddressBook, At, Capture, Engine, Group, Machine, ProposeError, Settings, Status,
};
use pushonce_control::reconcile::Peers;
use pushonce_control::{Control, Founding, Incarnation, Joining, Profile, Run};
use pushonce_core::versioned::Unreadable;
use pushonce_core::{
    Addresses, Build, ClusterId, ClusterView, Namespaces, NodeId, Roles, ShardCount, Spread,
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
const PATIENCE: Duration = Duration::from_secs(20);

/// What all nodes of a test share.
pub(crate) struct World {
    book: AddressBook,
    reachable: watch::Sender<BTreeSet<NodeId>>,
    stopping: watch::Sender<BTreeSet<NodeId>>,
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) engine: Engine,
    pub(crate) control: Control,
    running: JoinSet<()>,
    shutdown: CancellationToken,
    dir: TempDir,
}

impl World {
    pub(crate) fn new() -> World {
        World {
            book: AddressBook::default(),
            reachable: watch::Sender::default(),
            stopping: watch::Sender::default(),
        }
    }

    pub(crate) fn reachable(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.reachable.subscribe()
    }

    pub(crate) async fn found(&self) -> Node {
        let (listener, profile) = listen("n1").await;
        let node = self.start(NodeId(1), listener, TempDir::new().unwrap()).await;
        let founding = Founding {
            cluster: CLUSTER,
            incarnation: Incarnation(1),
            run: Run::default(),
            profile,
            shards: ShardCount::DEFAULT,
            replicas: 3,
            spread: Spread::Zones,
            namespaces: Namespaces::default(),
            times: Default::default(),
            log: None,
            cluster_version: VersionRange::SUPPORTED.min,
        };
        node.control.found(founding.clone()).await.unwrap();
        node.control.found(founding).await.unwrap();
        node
    }

    /// A new node that knows one of the cluster.
    pub(crate) async fn join(&self, through: &Node, name: &str) -> Node {
        let (listener, profile) = listen(name).await;
        let joined = through.control.join(joining(name, profile)).await.unwrap();
        assert_eq!(joined.cluster, CLUSTER);
        self.start(joined.node, listener, TempDir::new().unwrap()).await
    }

    async fn start(&self, id: NodeId, listener: TcpListener, dir: TempDir) -> Node {
        self.book.set(id, listener.local_addr().unwrap().to_string());
        Engine::create(dir.path(), CLUSTER, id).await.unwrap();
        let engine = Engine::open(dir.path(), CLUSTER, id, Settings::lan(), self.book.clone())
            .await
            .unwrap();
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        let server = tonic::transport::Server::builder()
            .add_service(engine.service())
            .serve_with_incoming(TcpListenerStream::new(listener));
        running.spawn(async move { server.await.unwrap() });
        let (control, runner) = Control::open(&engine, id).await.unwrap();
        running.spawn(runner.run(self.reachable(), shutdown.clone()));
        self.reachable.send_if_modified(|nodes| nodes.insert(id));
        Node { id, engine, control, running, shutdown, dir }
    }

    /// Ends a node as a kill looks to the others. Gives back its disk.
    pub(crate) async fn kill(&self, mut node: Node) -> TempDir {
        self.reachable.send_if_modified(|nodes| nodes.remove(&node.id));
        node.shutdown.cancel();
        node.running.shutdown().await;
        node.engine.stop().await;
        node.dir
    }

    /// A node on the disk it had, at another address.
    pub(crate) async fn again(&self, id: NodeId, dir: TempDir) -> Node {
        let (listener, _) = listen("again").await;
        self.start(id, listener, dir).await
    }
}

impl Node {
    pub(crate) async fn view(&self, reached: impl Fn(&ClusterView) -> bool) -> Arc<ClusterView> {
        let mut view = self.control.view();
        let wanted = view.wait_for(|view| view.as_ref().is_some_and(|view| reached(view)));
        match timeout(PATIENCE, wanted).await {
            Ok(Ok(view)) => view.clone().unwrap(),
            _ => panic!("{}: never reached: {:?}", self.id, self.control.view().borrow()),
        }
    }
}

pub(crate) async fn until(
    mut status: watch::Receiver<Status>,
    reached: impl FnMut(&Status) -> bool,
) -> Status {
    if let Ok(Ok(status)) = timeout(PATIENCE, status.wait_for(reached)).await {
        return status.clone();
    }
    panic!("never reached: {:?}", status.borrow())
}

/// The same name has the same directory.
pub(crate) fn joining(name: &str, profile: Profile) -> Joining {
    let incarnation = name.bytes().fold(0, |sum, byte| sum * 256 + u128::from(byte));
    let (incarnation, run) = (Incarnation(incarnation), Run::default());
    Joining { incarnation, run, cluster: None, node: None, profile, times: None, log: None }
}

pub(crate) fn profile(name: &str, peer: &str) -> Profile {
    Profile {
        name: name.to_owned(),
        addresses: Addresses { peer: peer.to_owned(), ..Addresses::default() },
        region: String::new(),
        zone: String::new(),
        roles: Roles::default(),
        weight: 1,
        build: Build { release: "0.1.0".to_owned(), supported: VersionRange::SUPPORTED },
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

/// A shard that counts its entries.
#[derive(Clone, Default)]
pub(crate) struct Count(pub(crate) Arc<AtomicU64>);

impl Machine for Count {
    fn apply(&mut self, _at: At, _entry: &Bytes) -> Result<Bytes, Unreadable> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Bytes::new())
    }

    fn check(_entry: &Bytes) -> Result<(), Unreadable> {
        Ok(())
    }

    fn snapshot(&self) -> Capture {
        Bytes::copy_from_slice(&self.0.load(Ordering::SeqCst).to_be_bytes()).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Unreadable> {
        let count =
            snapshot.try_into().map_err(|_| Unreadable::Damaged("not eight bytes".to_owned()))?;
        self.0.store(u64::from_be_bytes(count), Ordering::SeqCst);
        Ok(())
    }
}

/// How the proposals of a load ended that were not refused.
#[derive(Default, Debug)]
pub(crate) struct Outcomes {
    pub(crate) done: u64,
    pub(crate) unknown: u64,
}

/// Proposes one entry after the other, wherever the leader is, until it is stopped.
pub(crate) async fn propose(group: Group, stop: CancellationToken) -> Outcomes {
    let mut outcomes = Outcomes::default();
    while !stop.is_cancelled() {
        match group.propose_at_leader(Bytes::from_static(b"entry")).await {
            Ok(_) => outcomes.done += 1,
            Err(ProposeError::Unknown(_)) => outcomes.unknown += 1,
            Err(ProposeError::Refused { .. }) => tokio::task::yield_now().await,
        }
    }
    outcomes
}

/// Lets a node keep one group at the wanted replicas.
pub(crate) fn keep(
    node: &mut Node,
    group: &Group,
    world: &World,
    wanted: &watch::Sender<Vec<NodeId>>,
    moves: &Arc<tokio::sync::Semaphore>,
) {
    node.running.spawn(pushonce_control::reconcile::run(
        group.clone(),
        node.id,
        wanted.subscribe(),
        Peers { reachable: world.reachable(), stopping: world.stopping.subscribe() },
        Arc::clone(moves),
        watch::Sender::default(),
        node.shutdown.clone(),
    ));
}

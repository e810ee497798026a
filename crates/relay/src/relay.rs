//! A relay before it runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use pushonce_core::{ClusterView, NodeId, Owners};
use pushonce_proto::pb::peer::v1::relay_server::RelayServer;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::conflicts::Conflicts;
use crate::dial::DECODE_BYTES_MAX;
use crate::door::Service;
use crate::inbox::Inbox;
use crate::link::Link;
use crate::run::Running;
use crate::{Clocks, Config, Handle, Sink, Source};

/// To be run. Handles may be used before it runs; what they say waits.
pub struct Relay {
    pub(crate) config: Arc<Config>,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) clocks: Arc<dyn Clocks>,
    pub(crate) inbox: Listening,
    pub(crate) owners: watch::Sender<Arc<Owners>>,
    pub(crate) reachable: watch::Sender<BTreeSet<NodeId>>,
    pub(crate) stopping: watch::Sender<BTreeSet<NodeId>>,
    pub(crate) links: mpsc::Sender<Link>,
    pub(crate) greeted: mpsc::Receiver<Link>,
    pub(crate) conflicts: Conflicts,
}

/// Whoever asks when nobody listens any more gets an answer at once.
pub(crate) struct Listening(pub(crate) Arc<Inbox>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Links that were greeted and not taken up yet; a node has one for each peer.
const GREETED_MAX: usize = 64;

impl Relay {
    /// A relay and the handle to it. `view` is the cluster as this node knows it, which names this
    /// node and the peer addresses of the others.
    pub fn new(
        config: Config,
        view: watch::Receiver<Arc<ClusterView>>,
        source: Arc<dyn Source>,
        sink: Arc<dyn Sink>,
        clocks: Arc<dyn Clocks>,
    ) -> (Relay, Handle) {
        let inbox = Arc::new(Inbox::new(config.committed_bytes_max, config.pending_max));
        let (owners, owners_seen) = watch::channel(Arc::new(Owners::default()));
        let (reachable, reachable_seen) = watch::channel(BTreeSet::from([config.me]));
        let (stopping, stopping_seen) = watch::channel(BTreeSet::new());
        let (links, greeted) = mpsc::channel(GREETED_MAX);
        let conflicts = Conflicts::default();
        let handle = Handle {
            inbox: inbox.clone(),
            owners: owners_seen,
            reachable: reachable_seen,
            stopping: stopping_seen,
            conflicts: conflicts.watch(),
        };
        let config = Arc::new(config);
        let inbox = Listening(inbox);
        let relay = Relay {
            config,
            view,
            source,
            sink,
            clocks,
            inbox,
            owners,
            reachable,
            stopping,
            links,
            greeted,
            conflicts,
        };
        (relay, handle)
    }

    /// The service that nodes with lower ids come in by; to be mounted on the peer port, best of all
    /// on a [`server`](crate::server).
    pub fn service(&self) -> RelayServer<Service> {
        let config = self.config.clone();
        let (view, links) = (self.view.clone(), self.links.clone());
        let service = Service { config, view, links, conflicts: self.conflicts.clone() };
        RelayServer::new(service).max_decoding_message_size(DECODE_BYTES_MAX)
    }

    /// Runs until `shutdown`: dials, follows, delivers. At the end all links are closed, and whoever
    /// still waits is answered: publishes are unknown, fetches unavailable.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // Before the first view nobody can say which shard a topic or a claim belongs to. Links that
        // were greeted wait in their queue, and what they say in theirs.
        let viewed = async { self.view.wait_for(|view| view.version > 0).await.is_ok() };
        if shutdown.run_until_cancelled(viewed).await == Some(true) {
            Running::new(self).run(shutdown).await;
        }
    }
}

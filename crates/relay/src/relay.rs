//! [`Relay`]: a relay that is set up and not running yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{ClusterView, NodeId, ShardId, ShardOwners};
use pushonce_peer::PeerTransport;
use pushonce_proto::pb::peer::v1::relay_service_server::RelayServiceServer;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::dial::DECODE_BYTES_MAX;
use crate::inbox::Inbox;
use crate::link::PeerLink;
use crate::service::RelayService;
use crate::task::RelayTask;
use crate::version_conflicts::VersionConflicts;
use crate::{Clocks, Config, Handle, ShardSource, TopicSink};

/// A relay that is set up and not running yet. Its handles may be used before [`Relay::run`].
pub struct Relay {
    pub(crate) config: Arc<Config>,
    pub(crate) transport: PeerTransport,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) source: Arc<dyn ShardSource>,
    pub(crate) clocks: Arc<dyn Clocks>,
    pub(crate) inbox: InboxGuard,
    pub(crate) owners: watch::Sender<Arc<ShardOwners>>,
    pub(crate) reachable: watch::Sender<BTreeSet<NodeId>>,
    pub(crate) stopping: watch::Sender<BTreeSet<NodeId>>,
    pub(crate) stale_shards: watch::Sender<BTreeSet<ShardId>>,
    pub(crate) round_trips: watch::Sender<BTreeMap<NodeId, Duration>>,
    pub(crate) link_sender: mpsc::Sender<PeerLink>,
    pub(crate) link_receiver: mpsc::Receiver<PeerLink>,
    pub(crate) conflicts: VersionConflicts,
}

/// Closes the inbox when the relay is dropped, so that later requests fail at once instead of waiting.
pub(crate) struct InboxGuard(pub(crate) Arc<Inbox>);

impl Drop for InboxGuard {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Accepted links that the relay task has not taken over yet. A node has one link for each peer.
const PENDING_LINKS_MAX: usize = 64;

impl Relay {
    /// Creates a relay and its handle. `view` is the cluster as this node knows it; it contains this node.
    /// `transport` is that of this node and knows the addresses of the others.
    pub fn new(
        config: Config,
        transport: PeerTransport,
        view: watch::Receiver<Arc<ClusterView>>,
        source: Arc<dyn ShardSource>,
        clocks: Arc<dyn Clocks>,
    ) -> (Relay, Handle) {
        let inbox = Arc::new(Inbox::new(config.committed_bytes_max, config.pending_max));
        let (owners, owners_receiver) = watch::channel(Arc::new(ShardOwners::default()));
        let (reachable, reachable_receiver) = watch::channel(BTreeSet::from([config.me]));
        let (stopping, stopping_receiver) = watch::channel(BTreeSet::new());
        let (stale_shards, stale_shards_receiver) = watch::channel(BTreeSet::new());
        let (round_trips, round_trips_receiver) = watch::channel(BTreeMap::new());
        let (link_sender, link_receiver) = mpsc::channel(PENDING_LINKS_MAX);
        let conflicts = VersionConflicts::default();
        let handle = Handle {
            inbox: inbox.clone(),
            owners: owners_receiver,
            reachable: reachable_receiver,
            stopping: stopping_receiver,
            stale_shards: stale_shards_receiver,
            round_trips: round_trips_receiver,
            conflicts: conflicts.subscribe(),
        };
        let config = Arc::new(config);
        let inbox = InboxGuard(inbox);
        let relay = Relay {
            config,
            transport,
            view,
            source,
            clocks,
            inbox,
            owners,
            reachable,
            stopping,
            stale_shards,
            round_trips,
            link_sender,
            link_receiver,
            conflicts,
        };
        (relay, handle)
    }

    /// The gRPC service that accepts links from nodes with lower ids. Serve it on
    /// [`PeerTransport::server`], on the peer port.
    pub fn service(&self) -> RelayServiceServer<RelayService> {
        let config = self.config.clone();
        let (view, link_sender) = (self.view.clone(), self.link_sender.clone());
        let (transport, conflicts) = (self.transport.clone(), self.conflicts.clone());
        let service = RelayService { config, transport, view, link_sender, conflicts };
        RelayServiceServer::new(service).max_decoding_message_size(DECODE_BYTES_MAX)
    }

    /// Runs until `shutdown`: dials peers and replicates topics to `sink`. At the end all links are closed and
    /// every waiting caller receives an answer: publishes end as unknown, fetches as unavailable.
    ///
    /// The sink usually needs a [`Handle`] of this relay, so it is not known before now. Nothing is delivered
    /// earlier.
    pub async fn run(mut self, sink: Arc<dyn TopicSink>, shutdown: CancellationToken) {
        // Before the first view the shard of a topic or claim is not known. Links that were accepted wait in
        // their queue, and local events in the inbox.
        let has_view = async { self.view.wait_for(|view| view.version > 0).await.is_ok() };
        if shutdown.run_until_cancelled(has_view).await == Some(true) {
            RelayTask::new(self, sink).run(shutdown).await;
        }
    }
}

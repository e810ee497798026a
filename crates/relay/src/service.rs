//! The server side of links: accepts the links of nodes with lower ids.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use pushonce_core::{ClusterView, NodeId};
use pushonce_peer::{AcceptedPeer, GreetingError, PeerTransport};
use pushonce_proto::pb::peer::v1 as pb;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::Config;
use crate::link::PeerLink;
use crate::send_queue::SendQueue;
use crate::version_conflicts::VersionConflicts;

/// The gRPC service `pushonce.peer.v1.RelayService`.
#[derive(Clone)]
pub struct RelayService {
    pub(crate) config: Arc<Config>,
    pub(crate) transport: PeerTransport,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) link_sender: mpsc::Sender<PeerLink>,
    pub(crate) conflicts: VersionConflicts,
}

impl RelayService {
    /// Checks whether the caller may open a link.
    fn accept<T>(&self, request: &Request<T>) -> Result<AcceptedPeer, Status> {
        let peer = self.transport.accept(request).map_err(|error| {
            self.record_conflict(&error);
            self.transport.reject(&error)
        })?;
        self.check_member(peer.node)?;
        let me = self.config.me;
        if peer.node >= me {
            let node = peer.node;
            return Err(Status::failed_precondition(format!(
                "a link is opened by the lower node id: {me} dials {node}"
            )));
        }
        Ok(peer)
    }

    /// Rejects a caller that is no member. A caller has a lower id than this node, so it joined earlier, and every
    /// view of this node names it.
    fn check_member(&self, caller: NodeId) -> Result<(), Status> {
        let view = self.view.borrow();
        if !view.is_known() || view.member(caller).is_some() || caller >= view.next_id {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("{caller} is not a member of the cluster")))
    }

    /// Records a version conflict, only for members: any client can claim any id.
    fn record_conflict(&self, error: &GreetingError) {
        if let &GreetingError::Version { node, conflict } = error
            && self.view.borrow().member(node).is_some()
        {
            self.conflicts.record(node, conflict);
        }
    }
}

#[tonic::async_trait]
impl pb::relay_service_server::RelayService for RelayService {
    type LinkStream = BoxStream<'static, Result<pb::LinkFrames, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<pb::LinkFrames>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let peer = self.accept(&request)?;
        self.conflicts.clear(peer.node);
        let agreed_version = self.transport.agreed_version().clone();
        let send_queue = SendQueue::new(self.config.link_bytes_max, agreed_version);
        send_queue.set_peer_version(peer.version);
        let stream = send_queue.clone().into_stream().map(Ok).boxed();
        let (inbound, closed) = (request.into_inner(), CancellationToken::new());
        let link = PeerLink { node: peer.node, send_queue, inbound, closed };
        let shutting_down = |_| Status::unavailable("this node is shutting down");
        self.link_sender.send(link).await.map_err(shutting_down)?;
        Ok(self.transport.respond(peer, stream))
    }
}

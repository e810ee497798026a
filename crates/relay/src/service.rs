//! The server side of links: accepts the links of nodes with lower ids.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use pushonce_core::{ClusterVersion, ClusterView, NodeId};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::peer::PeerFrame;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::Config;
use crate::link::{
    self, HandshakeError, PeerLink, VERSIONS_METADATA_KEY, check_hello, check_version,
    decode_frames,
};
use crate::send_queue::SendQueue;
use crate::version_conflicts::VersionConflicts;

/// The gRPC service `pushonce.peer.v1.RelayService`.
#[derive(Clone)]
pub struct RelayService {
    pub(crate) config: Arc<Config>,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) link_sender: mpsc::Sender<PeerLink>,
    pub(crate) conflicts: VersionConflicts,
}

impl RelayService {
    /// Checks whether the peer may open a link.
    fn admit(&self, hello: &PeerFrame) -> Result<(NodeId, ClusterVersion), HandshakeError> {
        let me = self.config.me;
        let (node, version) =
            check_hello(self.config.cluster, me, self.config.agreed_version.offer(), hello)?;
        if node >= me {
            Err(HandshakeError::WrongDirection { me, node })
        } else if self.view.borrow().was_removed(node) {
            Err(HandshakeError::RemovedNode { node })
        } else {
            // A node that this node does not know yet may have just joined.
            Ok((node, version))
        }
    }

    /// The status of a rejection. For a version conflict it carries this node's versions, because the peer
    /// may be the side to change. The conflict is recorded only for members: any client can claim any id.
    fn rejection_status(&self, error: HandshakeError) -> Status {
        let HandshakeError::Version { node, conflict } = error else { return Status::from(error) };
        if self.view.borrow().member(node).is_some() {
            self.conflicts.record(node, conflict);
        }
        let mut status = Status::from(error);
        if let Ok(offer) = self.config.agreed_version.offer().to_string().parse() {
            status.metadata_mut().insert(VERSIONS_METADATA_KEY, offer);
        }
        status
    }
}

#[tonic::async_trait]
impl pb::relay_service_server::RelayService for RelayService {
    type LinkStream = BoxStream<'static, Result<pb::LinkFrames, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<pb::LinkFrames>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let mut inbound = request.into_inner();
        let first = timeout(self.config.connect_timeout, inbound.message());
        let first = first
            .await
            .map_err(|_| Status::deadline_exceeded("no hello within the connect timeout"))??;
        let first = first.ok_or(HandshakeError::MissingHello)?;
        let unsupported = check_version(&first).err();
        let mut early_frames = decode_frames(NodeId(0), first).into_iter();
        let hello = early_frames.next().ok_or(HandshakeError::MissingHello)?;
        let (node, version) = self.admit(&hello).map_err(|error| self.rejection_status(error))?;
        if let Some(error) = unsupported {
            return Err(Status::failed_precondition(error.to_string()));
        }
        self.conflicts.clear(node);
        let send_queue =
            SendQueue::new(self.config.link_bytes_max, self.config.agreed_version.clone());
        send_queue.set_peer_version(version);
        // The first frame of an empty queue always fits.
        let _fits = send_queue.push(link::hello_frame(&self.config, node));
        let stream = send_queue.clone().into_stream().map(Ok).boxed();
        let closed = CancellationToken::new();
        let link =
            PeerLink { node, send_queue, inbound, early_frames: early_frames.collect(), closed };
        let shutting_down = |_| Status::unavailable("this node is shutting down");
        self.link_sender.send(link).await.map_err(shutting_down)?;
        Ok(Response::new(stream))
    }
}

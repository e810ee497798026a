//! The server's end of links: nodes with lower ids come in here.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use pushonce_core::{ClusterView, NodeId};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::peer::Frame;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::Config;
use crate::link::{Link, Misdialled, frames_of, greeted};
use crate::outbox::Outbox;

/// The gRPC service `pushonce.peer.v1.Relay`.
#[derive(Clone)]
pub struct Service {
    pub(crate) config: Arc<Config>,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) links: mpsc::Sender<Link>,
}

impl Service {
    /// Whether the peer may come in.
    fn admit(&self, hello: &Frame) -> Result<NodeId, Misdialled> {
        let me = self.config.me;
        let node = greeted(self.config.cluster, me, hello)?;
        if node >= me {
            Err(Misdialled::WrongWay { me, node })
        } else if self.view.borrow().is_gone(node) {
            Err(Misdialled::Gone { node })
        } else {
            // A node that this node has not heard of yet may have just joined.
            Ok(node)
        }
    }
}

#[tonic::async_trait]
impl pb::relay_server::Relay for Service {
    type LinkStream = BoxStream<'static, Result<pb::LinkFrames, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<pb::LinkFrames>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let mut inbound = request.into_inner();
        let first = timeout(self.config.connect_timeout, inbound.message());
        let first = first.await.map_err(|_| Status::deadline_exceeded("no hello in time"))??;
        let mut early = frames_of(NodeId(0), first.ok_or(Misdialled::NoHello)?).into_iter();
        let hello = early.next().ok_or(Misdialled::NoHello)?;
        let node = self.admit(&hello)?;
        let outbox = Outbox::new(self.config.link_bytes_max);
        let Config { cluster, me, .. } = *self.config;
        // The first frame of an empty queue always fits.
        let _fits = outbox.push(Frame::Hello { cluster, node: me, to: Some(node) });
        let stream = outbox.clone().stream().map(Ok).boxed();
        let life = CancellationToken::new();
        let link = Link { node, outbox, inbound, early: early.collect(), life };
        let ended = |_| Status::unavailable("this node is going down");
        self.links.send(link).await.map_err(ended)?;
        Ok(Response::new(stream))
    }
}

//! The server's end of links: nodes with lower ids come in here.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use pushonce_core::{ClusterVersion, ClusterView, NodeId};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::peer::Frame;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::Config;
use crate::conflicts::Conflicts;
use crate::link::{self, Link, Misdialled, VERSIONS, frames_of, greeted, supported};
use crate::outbox::Outbox;

/// The gRPC service `pushonce.peer.v1.Relay`.
#[derive(Clone)]
pub struct Service {
    pub(crate) config: Arc<Config>,
    pub(crate) view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) links: mpsc::Sender<Link>,
    pub(crate) conflicts: Conflicts,
}

impl Service {
    /// Whether the peer may come in.
    fn admit(&self, hello: &Frame) -> Result<(NodeId, ClusterVersion), Misdialled> {
        let me = self.config.me;
        let (node, version) = greeted(self.config.cluster, me, self.config.agreed.offer(), hello)?;
        if node >= me {
            Err(Misdialled::WrongWay { me, node })
        } else if self.view.borrow().is_gone(node) {
            Err(Misdialled::Gone { node })
        } else {
            // A node that this node has not heard of yet may have just joined.
            Ok((node, version))
        }
    }

    /// A refusal for the version says which versions this node has: the peer may be the one to change. It
    /// is noted of members alone: anybody may name any node.
    fn refuse(&self, why: Misdialled) -> Status {
        let Misdialled::Version { node, conflict } = why else { return Status::from(why) };
        if self.view.borrow().member(node).is_some() {
            self.conflicts.note(node, conflict);
        }
        let mut status = Status::from(why);
        if let Ok(offer) = self.config.agreed.offer().to_string().parse() {
            status.metadata_mut().insert(VERSIONS, offer);
        }
        status
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
        let first = first.ok_or(Misdialled::NoHello)?;
        let unsupported = supported(&first).err();
        let mut early = frames_of(NodeId(0), first).into_iter();
        let hello = early.next().ok_or(Misdialled::NoHello)?;
        let (node, version) = self.admit(&hello).map_err(|why| self.refuse(why))?;
        if let Some(why) = unsupported {
            return Err(Status::failed_precondition(why.to_string()));
        }
        self.conflicts.clear(node);
        let outbox = Outbox::new(self.config.link_bytes_max, self.config.agreed.clone());
        outbox.greeted(version);
        // The first frame of an empty queue always fits.
        let _fits = outbox.push(link::hello(&self.config, node));
        let stream = outbox.clone().stream().map(Ok).boxed();
        let life = CancellationToken::new();
        let link = Link { node, outbox, inbound, early: early.collect(), life };
        let ended = |_| Status::unavailable("this node is going down");
        self.links.send(link).await.map_err(ended)?;
        Ok(Response::new(stream))
    }
}

//! A node that serves one gRPC service over loopback.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pushonce_core::{ClusterVersion, NodeId};
use pushonce_peer::{ChannelKind, DialError, PeerChannel, PeerTransport};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::topics_service_client::TopicsServiceClient;
use pushonce_proto::pb::peer::v1::topics_service_server::{TopicsService, TopicsServiceServer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Answers each accepted caller with no topics, and records the callers.
#[derive(Clone)]
struct RecordingService {
    transport: PeerTransport,
    callers: Arc<Mutex<Vec<NodeId>>>,
}

#[tonic::async_trait]
impl TopicsService for RecordingService {
    async fn topic(
        &self,
        _: Request<pb::TopicRequest>,
    ) -> Result<Response<pb::TopicResponse>, Status> {
        Err(Status::unimplemented("not part of the test"))
    }

    async fn remove_topic(
        &self,
        _: Request<pb::RemoveTopicRequest>,
    ) -> Result<Response<pb::RemoveTopicResponse>, Status> {
        Err(Status::unimplemented("not part of the test"))
    }

    async fn topics(
        &self,
        request: Request<pb::TopicsRequest>,
    ) -> Result<Response<pb::TopicsResponse>, Status> {
        let accepted = self.transport.accept(&request);
        let peer = accepted.map_err(|error| self.transport.reject(&error))?;
        self.callers.lock().expect("no panic").push(peer.node);
        Ok(self.transport.respond(peer, pb::TopicsResponse::default()))
    }
}

pub(crate) struct ServingNode {
    pub(crate) address: String,
    /// The callers that were accepted.
    pub(crate) callers: Arc<Mutex<Vec<NodeId>>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl ServingNode {
    /// Serves at `address`, or at a free port of it.
    pub(crate) async fn start(transport: PeerTransport, address: &str) -> ServingNode {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let callers = Arc::default();
        let mut server = transport.server();
        let incoming = transport.incoming(TcpListenerStream::new(listener));
        let service = RecordingService { transport, callers: Arc::clone(&callers) };
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move { drop(stopped.await) };
        let serving = server
            .add_service(TopicsServiceServer::new(service))
            .serve_with_incoming_shutdown(incoming, stopped);
        let task = tokio::spawn(async move { serving.await.expect("the server runs") });
        ServingNode { address, callers, stop, task }
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("the server runs");
        self.task.await.expect("no panic");
    }
}

pub(crate) async fn call(
    from: &PeerTransport,
    to: u64,
    channel: PeerChannel,
) -> Result<ClusterVersion, DialError> {
    let mut client = TopicsServiceClient::new(channel);
    let call = client.topics(pb::TopicsRequest::default());
    from.check_response(NodeId(to), TIMEOUT, call).await.map(|(version, _)| version)
}

/// Dials node `to` once and calls it.
pub(crate) async fn dial_and_call(
    from: &PeerTransport,
    to: u64,
) -> Result<ClusterVersion, DialError> {
    let channel = from.dialer(NodeId(to), ChannelKind::Consensus).connect().await?;
    call(from, to, channel).await
}

//! The gRPC service of consensus: reads the streams of peers and passes their requests to the groups.
//!
//! Requests of one group reach openraft in the order of their arrival; responses are sent as they complete.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::Instant;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use pushonce_core::NodeId;
use pushonce_peer::{AcceptedPeer, GreetingError, PeerTransport};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_telemetry::LogLimiter;
use tokio::sync::mpsc;
use tokio::task::unconstrained;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::log_proof::WritesProof;
use super::peer_streams::PeerCalls;
use super::requests::{handle_decoded, handle_request, reject};
use super::rollback::{LogHandshake, RollbackDetector};
use super::snapshot_receiver;
use crate::{GroupId, RaftGroup};

/// Maximum requests of one peer processed at once. When it is reached, the stream is not read and HTTP/2 flow
/// control makes the peer wait.
const REQUESTS_IN_FLIGHT_MAX: usize = 1024;

/// Maximum frames of responses that wait for the socket.
const RESPONSE_FRAMES_MAX: usize = 16;

/// The groups that run on this node. Clones share the table.
#[derive(Clone, Default)]
pub(crate) struct GroupRegistry(Arc<RwLock<HashMap<GroupId, RaftGroup>>>);

/// The gRPC service that answers the consensus requests of peers. Clones share its state.
#[derive(Clone)]
pub struct RaftService {
    pub(crate) transport: PeerTransport,
    pub(crate) rollback_detector: RollbackDetector,
    pub(crate) groups: GroupRegistry,
    pub(crate) peer_calls: PeerCalls,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

type ResponseFuture = Pin<Box<dyn Future<Output = pb::RaftResponse> + Send>>;

impl GroupRegistry {
    pub(crate) fn get(&self, group: GroupId) -> Option<RaftGroup> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    pub(crate) fn insert(&self, group: RaftGroup) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(group.id(), group);
    }

    /// Removes a group, unless another one was started under its id since.
    pub(crate) fn remove(&self, group: &RaftGroup) {
        let mut groups = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if groups.get(&group.id()).is_some_and(|listed| Arc::ptr_eq(&listed.0, &group.0)) {
            groups.remove(&group.id());
        }
    }

    pub(crate) fn all(&self) -> Vec<RaftGroup> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[tonic::async_trait]
impl pb::raft_service_server::RaftService for RaftService {
    type ExchangeStream = ReceiverStream<Result<pb::ExchangeResponse, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (peer, handshake) = self.accept(&request)?;
        let from = peer.node;
        let (response_sender, stream) = mpsc::channel(RESPONSE_FRAMES_MAX);
        let service = self.clone();
        let peer_stream = self.peer_calls.open_stream(from);
        self.tasks.spawn(async move {
            // Without `unconstrained`, an exhausted task budget would make a first poll return early, and the
            // order of requests would be lost.
            let serving = unconstrained(service.serve(
                from,
                handshake,
                request.into_inner(),
                response_sender,
            ));
            tokio::select! {
                () = service.shutdown.cancelled() => {}
                () = service.transport.addresses().wait_removed(from) => {
                    tracing::info!(peer = %from, "closed the consensus link of a removed peer");
                }
                () = service.rollback_detector.fence().closed() => {}
                () = peer_stream.replaced() => {
                    tracing::debug!(peer = %from, "the peer opened another consensus link");
                }
                () = serving => {}
            }
        });
        Ok(self.respond(peer, ReceiverStream::new(stream)))
    }

    async fn transfer(
        &self,
        request: Request<pb::TransferRequest>,
    ) -> Result<Response<pb::TransferResponse>, Status> {
        let (peer, _) = self.accept(&request)?;
        let from = peer.node;
        let too_many = || Status::resource_exhausted("too many snapshot steps of this node");
        let _permit = self.peer_calls.begin_transfer_step(from).ok_or_else(too_many)?;
        let pb::TransferRequest { group, body, data } = request.into_inner();
        let group = self.group(group).map_err(Status::aborted)?;
        let work = handle_decoded(group.id(), from, body, move |step| {
            snapshot_receiver::on_request(group, from, step, data)
        });
        let work = self.tasks.track_future(self.shutdown.run_until_cancelled(work));
        let stopped = || Status::unavailable("this node is shutting down");
        let body = work.await.ok_or_else(stopped)?.map_err(Status::aborted)?;
        Ok(self.respond(peer, pb::TransferResponse { body }))
    }
}

impl RaftService {
    /// Checks the greeting and the log handshake of a caller, before its requests are processed.
    fn accept<T>(&self, request: &Request<T>) -> Result<(AcceptedPeer, LogHandshake), Status> {
        let peer = self.transport.accept(request).map_err(|error| {
            if let GreetingError::Version { node, conflict } = error {
                static LIMITER: LogLimiter = LogLimiter::new();
                if let Some(suppressed) = LIMITER.allow(Instant::now()) {
                    tracing::warn!(peer = %node, error = %conflict, suppressed, "rejected a consensus link");
                }
            }
            self.transport.reject(&error)
        })?;
        let handshake = self.rollback_detector.check_caller(peer.node, request.metadata())?;
        Ok((peer, handshake))
    }

    fn respond<T>(&self, peer: AcceptedPeer, body: T) -> Response<T> {
        let mut response = self.transport.respond(peer, body);
        self.rollback_detector.insert_handshake(peer.node, response.metadata_mut());
        response
    }

    fn group(&self, id: u32) -> Result<RaftGroup, String> {
        let missing = || format!("group {} is not on {}", GroupId(id), self.transport.me());
        self.groups.get(GroupId(id)).ok_or_else(missing)
    }

    async fn serve(
        &self,
        from: NodeId,
        handshake: LogHandshake,
        mut requests: Streaming<pb::ExchangeRequest>,
        response_sender: mpsc::Sender<Result<pb::ExchangeResponse, Status>>,
    ) {
        let mut in_flight = FuturesUnordered::<ResponseFuture>::new();
        loop {
            let mut responses = Vec::new();
            tokio::select! {
                Some(response) = in_flight.next() => {
                    responses.push(response);
                    while let Some(Some(response)) = in_flight.next().now_or_never() {
                        responses.push(response);
                    }
                }
                frame = requests.message(), if in_flight.len() < REQUESTS_IN_FLIGHT_MAX => {
                    let Ok(Some(frame)) = frame else { return };
                    let proof = WritesProof::from_bytes(&frame.writes_proof);
                    self.rollback_detector.record_writes(from, handshake, frame.writes, proof);
                    for request in frame.requests {
                        let mut work = self.start_request(from, request);
                        // The first poll passes it to openraft: it happens here, in order.
                        match futures::poll!(&mut work) {
                            Poll::Ready(response) => responses.push(response),
                            Poll::Pending => in_flight.push(work),
                        }
                    }
                }
            }
            if !responses.is_empty()
                && response_sender.send(Ok(self.response_frame(responses))).await.is_err()
            {
                return;
            }
        }
    }

    /// A frame of responses. Acknowledged writes are durable already, so the counter includes them.
    fn response_frame(&self, responses: Vec<pb::RaftResponse>) -> pb::ExchangeResponse {
        let writes = self.rollback_detector.writes();
        let writes_proof = self.rollback_detector.proof_bytes(writes);
        pb::ExchangeResponse { responses, writes, writes_proof }
    }

    fn start_request(&self, from: NodeId, request: pb::RaftRequest) -> ResponseFuture {
        let id = request.id;
        let work = match self.group(request.group) {
            Ok(group) => handle_request(group, from, request),
            Err(reason) => reject(reason),
        };
        Box::pin(work.map(move |result| {
            use pb::raft_response::Result::{Body, Error};
            let result = result.map_or_else(Error, Body);
            pb::RaftResponse { id, result: Some(result) }
        }))
    }
}

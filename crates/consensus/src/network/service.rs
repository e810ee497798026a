//! The gRPC service of consensus: passes the requests of peers to their groups.
//!
//! Requests of one group reach openraft in the order of their arrival; responses are sent as they complete.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use pushonce_core::{FailPoint, NodeId};
use pushonce_peer::{AcceptedPeer, GreetingError, PeerTransport};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_telemetry::LogLimiter;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::unconstrained;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::rollback::{LogHandshake, RollbackDetector};
use super::snapshot_receiver;
use super::wire::{self, Kind, ProposalOutcome};
use crate::types::{LogEntry, LogId, TypeConfig, Vote};
use crate::{GroupId, ProposeError, RaftGroup};

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
        let pb::TransferRequest { group, body, data } = request.into_inner();
        let group = self.group(group).map_err(Status::aborted)?;
        let work =
            handle_decoded(body, move |step| snapshot_receiver::on_request(group, step, data));
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
                    self.rollback_detector.record_writes(from, handshake, frame.writes);
                    for request in frame.requests {
                        let mut work = self.start_request(request);
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
        pb::ExchangeResponse { responses, writes: self.rollback_detector.writes() }
    }

    fn start_request(&self, request: pb::RaftRequest) -> ResponseFuture {
        let id = request.id;
        let work = match self.group(request.group) {
            Ok(group) => handle_request(group, request),
            Err(reason) => reject(reason),
        };
        Box::pin(work.map(move |result| {
            use pb::raft_response::Result::{Body, Error};
            let result = result.map_or_else(Error, Body);
            pb::RaftResponse { id, result: Some(result) }
        }))
    }
}

type ReplyFuture = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

fn reject(reason: String) -> ReplyFuture {
    Box::pin(std::future::ready(Err(reason)))
}

fn handle_request(group: RaftGroup, request: pb::RaftRequest) -> ReplyFuture {
    let body = request.body.clone();
    match request.kind() {
        Kind::Append => {
            handle_decoded(body, move |(append, last): wire::AppendMessage| async move {
                group.check_append(&append)?;
                group.on_leader_contact(&append.vote);
                group.on_leader_log(&append.vote, last).await?;
                let response = group.raft().append_entries(append).await;
                // Before the leader learns that this replica is caught up, and counts on its vote.
                group.try_finish_recovery().await;
                response.map_err(|error| error.to_string())
            })
        }
        Kind::Vote => handle_decoded(body, move |vote: VoteRequest<TypeConfig>| async move {
            group.check_vote_allowed(&vote)?;
            group.raft().vote(vote).await.map_err(|error| error.to_string())
        }),
        Kind::PreVote => handle_decoded(body, move |vote: VoteRequest<TypeConfig>| async move {
            group.check_vote_allowed(&vote)?;
            group.raft().pre_vote(vote).await.map_err(|error| error.to_string())
        }),
        Kind::TransferLeader => {
            handle_decoded(body, move |transfer: TransferLeaderRequest<TypeConfig>| async move {
                group.check_recovered()?;
                group
                    .raft()
                    .handle_transfer_leader(transfer)
                    .await
                    .map_err(|error| error.to_string())
            })
        }
        Kind::Propose => handle_decoded(body, move |entry: Bytes| propose_forwarded(group, entry)),
        Kind::Unspecified => reject("unknown kind of request".to_owned()),
    }
}

impl RaftGroup {
    /// Rejects publishes while there is no space for them. Accepts everything else: appends without entries,
    /// elections, essential entries, the control group, through which an operator repairs a cluster, and
    /// entries of earlier terms. Until a majority holds these, a new leader has committed nothing and cannot
    /// serve reads; their size is bounded by what earlier leaders accepted.
    fn check_append(&self, append: &AppendEntriesRequest<TypeConfig>) -> Result<(), String> {
        let term = append.vote.leader_id.term;
        let is_new = |entry: &LogEntry| {
            entry.log_id.leader_id.term == term
                || FailPoint::FullDiskRejectsEarlierTerms.is_active()
        };
        let is_published = |entry: &LogEntry| {
            matches!(&entry.payload, EntryPayload::Normal(data) if !data.essential) && is_new(entry)
        };
        if self.id() == GroupId::CONTROL || !append.entries.iter().any(is_published) {
            return Ok(());
        }
        self.0.disk_reserve.append_error().map_or(Ok(()), |full| Err(full.to_string()))
    }

    /// Rejects the request while this replica has not restored everything that it had acknowledged.
    fn check_recovered(&self) -> Result<(), String> {
        match self.recovering() {
            Some(_) => {
                Err("this replica recovers from damage and has not restored all entries yet"
                    .to_owned())
            }
            None => Ok(()),
        }
    }

    /// Records contact with the leader. A deposed leader does not count.
    pub(super) fn on_leader_contact(&self, vote: &Vote) {
        if self.0.log.vote().is_none_or(|known| known <= *vote) {
            self.0.vote_hold.on_leader_contact();
        }
    }

    /// Records how far the leader's log extends, and passes it to a recovering replica before it processes
    /// any other request of the leader.
    pub(super) async fn on_leader_log(
        &self,
        vote: &Vote,
        last: Option<LogId>,
    ) -> Result<(), String> {
        if self.0.log.vote().is_some_and(|known| known > *vote) {
            // A deposed leader; openraft rejects its request.
            return Ok(());
        }
        self.0.leader_last_log_index.store(last.map_or(0, |last| last.index), Ordering::Relaxed);
        let Some(recovery) = self.recovering() else { return Ok(()) };
        recovery.on_leader_log(last).await.map_err(|error| error.to_string())?;
        self.0.status_dirty.notify_one();
        Ok(())
    }

    /// Rejects the request while a lease may run: of the leader that this replica follows or followed before
    /// its restart, or its own. A leader that transfers its leadership states itself that its lease is over.
    fn check_vote_allowed(&self, request: &VoteRequest<TypeConfig>) -> Result<(), String> {
        self.check_recovered()?;
        if request.leadership_transfer {
            return Ok(());
        }
        if self.restart_hold_until().is_some() {
            return Err(
                "this replica restarted a moment ago and may still be in another leader's lease"
                    .to_owned(),
            );
        }
        if self.0.vote_hold.is_active() || self.lease().is_some() {
            return Err("the lease of a leader may still run".to_owned());
        }
        Ok(())
    }
}

/// Decodes, processes and encodes in the version of the request, which its sender can read.
fn handle_decoded<T, A, F>(body: Bytes, work: impl FnOnce(T) -> F + Send + 'static) -> ReplyFuture
where
    T: DeserializeOwned + Send + 'static,
    A: Serialize + Send,
    F: Future<Output = Result<A, String>> + Send,
{
    Box::pin(async move {
        let (version, request) = wire::decode(&body).map_err(|error| error.to_string())?;
        let response = work(request).await?;
        Ok(wire::encode(version, &response))
    })
}

/// Proposes an entry that another node forwarded, if this build can read it: once committed, an entry that
/// cannot be read halts every replica.
async fn propose_forwarded(group: RaftGroup, entry: Bytes) -> Result<ProposalOutcome, String> {
    (group.0.check_entry)(&entry).map_err(|error| format!("the entry cannot be read: {error}"))?;
    Ok(match group.propose(entry).await {
        Ok(response) => ProposalOutcome::Applied(response),
        Err(ProposeError::Rejected { leader }) => {
            ProposalOutcome::Rejected(leader.map(|node| node.0))
        }
        Err(ProposeError::Unknown(reason)) => ProposalOutcome::Unknown(reason),
    })
}

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
use pushonce_core::{AgreedVersion, ClusterId, FailPoint, NodeId};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_telemetry::LogLimiter;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::unconstrained;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::handshake::{insert_offer, negotiate_version};
use super::rollback::{LogHandshake, RollbackDetector};
use super::snapshot_receiver;
use super::wire::{
    self, CLUSTER_HEADER, FROM_HEADER, KNOWN_WRITES_HEADER, Kind, LOG_HEADER, ProposalOutcome,
    TO_HEADER, parse_metadata,
};
use crate::types::{LogEntry, LogId, TypeConfig, Vote};
use crate::{GroupId, PeerAddresses, ProposeError, RaftGroup};

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
    pub(crate) cluster: ClusterId,
    pub(crate) me: NodeId,
    pub(crate) agreed_version: AgreedVersion,
    pub(crate) peer_addresses: PeerAddresses,
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
        self.check_target(&request, CLUSTER_HEADER, &self.cluster.to_string())?;
        self.check_target(&request, TO_HEADER, &self.me.to_string())?;
        let from = self.identify_peer(&request)?;
        let ours = self.agreed_version.offer();
        negotiate_version(ours, request.metadata()).map_err(|error| {
            static LIMITER: LogLimiter = LogLimiter::new();
            if let Some(suppressed) = LIMITER.allow(Instant::now()) {
                tracing::warn!(peer = %from, %error, suppressed, "rejected a consensus link");
            }
            Status::failed_precondition(error.to_string())
        })?;
        let handshake = self.check_handshake(from, &request)?;
        let (own_handshake, known_writes) =
            (self.rollback_detector.handshake(), self.rollback_detector.known_writes(from));
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
                () = service.peer_addresses.wait_removed(from) => {
                    tracing::info!(peer = %from, "closed the consensus link of a removed peer");
                }
                () = service.rollback_detector.fence().closed() => {}
                () = serving => {}
            }
        });
        let mut response = Response::new(ReceiverStream::new(stream));
        insert_offer(response.metadata_mut(), ours);
        insert_metadata(response.metadata_mut(), LOG_HEADER, own_handshake);
        if let Some(known_writes) = known_writes {
            insert_metadata(response.metadata_mut(), KNOWN_WRITES_HEADER, known_writes);
        }
        Ok(response)
    }
}

fn insert_metadata(metadata: &mut MetadataMap, key: &'static str, value: impl std::fmt::Display) {
    // Numbers and colons are always a valid header value.
    if let Ok(value) = value.to_string().parse() {
        metadata.insert(key, value);
    }
}

impl RaftService {
    /// Rejects a removed node: it may have missed or lost votes. A node that is not known yet is accepted,
    /// because it may have a newer view than this one.
    fn identify_peer<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let header = request.metadata().get(FROM_HEADER).and_then(|value| value.to_str().ok());
        let from = header.and_then(|header| header.strip_prefix('n')?.parse().ok()).map(NodeId);
        let from =
            from.ok_or_else(|| Status::invalid_argument(format!("{FROM_HEADER} names no node")))?;
        if self.peer_addresses.subscribe().borrow().is_removed(from) {
            return Err(Status::failed_precondition(format!(
                "{from} was removed from the cluster, and ids are not reused: \
                 join as a new node, with an empty directory"
            )));
        }
        Ok(from)
    }

    /// Compares both logs with what each node knows of the other's, before the peer's requests are processed.
    /// See [`rollback`](super::rollback).
    fn check_handshake<T>(
        &self,
        from: NodeId,
        request: &Request<T>,
    ) -> Result<LogHandshake, Status> {
        let metadata = request.metadata();
        let rejected = |reason: String| Status::failed_precondition(reason);
        let result =
            self.rollback_detector.check_own_log(parse_metadata(metadata, KNOWN_WRITES_HEADER));
        result.map_err(|error| rejected(error.to_string()))?;
        if let Some(reason) = self.rollback_detector.fence().reason() {
            return Err(rejected(reason));
        }
        let handshake: Option<LogHandshake> = parse_metadata(metadata, LOG_HEADER);
        let handshake = handshake
            .ok_or_else(|| Status::invalid_argument(format!("{LOG_HEADER} is missing")))?;
        self.rollback_detector.check_peer(from, handshake).map_err(|error| {
            let mut status = rejected(error.to_string());
            if let Some(known_writes) = self.rollback_detector.known_writes(from) {
                insert_metadata(status.metadata_mut(), KNOWN_WRITES_HEADER, known_writes);
            }
            status
        })?;
        Ok(handshake)
    }

    /// Rejects a peer that addresses another cluster or node: an address may have been reassigned.
    fn check_target<T>(
        &self,
        request: &Request<T>,
        key: &str,
        expected: &str,
    ) -> Result<(), Status> {
        let actual = request.metadata().get(key).and_then(|value| value.to_str().ok());
        if actual == Some(expected) {
            return Ok(());
        }
        let actual = actual.unwrap_or("nothing");
        Err(Status::failed_precondition(format!("{key} is {actual}, this is {expected}")))
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
        let work = match self.groups.get(GroupId(request.group)) {
            Some(group) => handle_request(group, request),
            None => reject(format!("group {} is not on {}", GroupId(request.group), self.me)),
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
        Kind::Snapshot => {
            let data = request.data;
            handle_decoded(body, move |request| snapshot_receiver::on_request(group, request, data))
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

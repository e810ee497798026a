//! openraft's network traits for one group and one peer, on the shared link.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes};
use pushonce_core::{FailPoint, NodeId, Term};
use pushonce_peer::DialError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use tokio::time::Instant;

use super::dial::RaftLinks;
use super::link::{LinkError, PendingRequest, RaftLink};
use super::request_check::RequestRejection;
use super::requests::report_rejection;
use super::snapshot_channel::SnapshotChannel;
use super::wire::{self, Kind, SnapshotReply, SnapshotRequest, SnapshotStep};
use crate::clock::BootTime;
use crate::lease::FollowerAcks;
use crate::log::RaftLog;
use crate::snapshot::{SnapshotTransfers, StoredSnapshot};
use crate::term_guard::{TermGuard, TermSource};
use crate::types::{LogId, RaftSnapshot, TypeConfig, Vote};
use crate::vote_hold::VoteHold;
use crate::{ConsensusSettings, GroupId};

/// Maximum appends of a group in flight to one peer.
const APPENDS_IN_FLIGHT_MAX: usize = 64;

/// Appends with entries wait for the peer's disk behind those of all other groups. The peer may answer none
/// of them for this multiple of the timeout of a request without entries.
const APPEND_IDLE_FACTOR: u32 = 4;

/// One append may take this multiple of that timeout: 16 s with the LAN settings.
const APPEND_TOTAL_FACTOR: u32 = 64;

/// Creates the peer clients of one group.
pub(crate) struct PeerClientFactory {
    pub(crate) me: NodeId,
    pub(crate) group: GroupId,
    pub(crate) log: RaftLog,
    pub(crate) follower_acks: FollowerAcks,
    pub(crate) transfers: SnapshotTransfers,
    pub(crate) vote_hold: VoteHold,
    pub(crate) term_guard: Arc<TermGuard>,
    pub(crate) links: RaftLinks,
    pub(crate) settings: Arc<ConsensusSettings>,
}

/// The client of one group for one peer.
pub(crate) struct PeerClient {
    me: NodeId,
    group: GroupId,
    peer: NodeId,
    log: RaftLog,
    follower_acks: FollowerAcks,
    transfers: SnapshotTransfers,
    vote_hold: VoteHold,
    term_guard: Arc<TermGuard>,
    link: Arc<RaftLink>,
    snapshot_channel: Arc<SnapshotChannel>,
    rpc_timeout: Duration,
    link_timeout: Duration,
    snapshot_timeout: Duration,
}

type PeerRpcError = RPCError<TypeConfig>;

impl RaftNetworkFactory<TypeConfig> for PeerClientFactory {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, _node: &()) -> PeerClient {
        let peer = NodeId(target);
        PeerClient {
            me: self.me,
            group: self.group,
            peer,
            log: self.log.clone(),
            follower_acks: self.follower_acks.clone(),
            transfers: self.transfers.clone(),
            vote_hold: self.vote_hold.clone(),
            term_guard: Arc::clone(&self.term_guard),
            link: self.links.for_peer(peer),
            snapshot_channel: self.links.snapshot_channel(peer),
            rpc_timeout: self.settings.rpc_timeout,
            link_timeout: self.settings.link_timeout(),
            snapshot_timeout: self.settings.snapshot_timeout,
        }
    }
}

impl PeerClient {
    fn send<T: Serialize>(&self, kind: Kind, message: &T) -> Result<PendingRequest, PeerRpcError> {
        let body = wire::encode(self.link.version(), message);
        self.link.request(self.group, kind, body).map_err(|error| self.to_rpc_error(kind, error))
    }

    async fn call<T: Serialize, A: DeserializeOwned>(
        &self,
        kind: Kind,
        message: &T,
    ) -> Result<A, PeerRpcError> {
        self.wait_for_link().await;
        let pending = self.send(kind, message)?;
        let response = pending.response_within(self.rpc_timeout).await;
        decode_response(&response.map_err(|error| self.to_rpc_error(kind, error))?)
    }

    /// Waits for the link. openraft asks for a vote once, and a node that only followed has dialled no peer
    /// yet.
    async fn wait_for_link(&self) {
        if FailPoint::VoteWithoutLink.is_active() {
            return;
        }
        self.link.wait_until_up(self.link_timeout).await;
    }

    fn to_rpc_error(&self, kind: Kind, error: LinkError) -> PeerRpcError {
        match error {
            // An immediate retry would fail again: openraft backs off on the first kind.
            LinkError::Down(_) | LinkError::Broken(_) | LinkError::Rejected { .. } => {
                Unreachable::new(&error).into()
            }
            LinkError::Full(_) => NetworkError::new(&error).into(),
            LinkError::TimedOut { timeout, .. } => self.timeout_error(rpc_type(kind), timeout),
        }
    }

    fn to_snapshot_error(&self, error: DialError) -> PeerRpcError {
        match error {
            DialError::TimedOut(timeout) => self.timeout_error(RPCTypes::InstallSnapshot, timeout),
            error => Unreachable::new(&error).into(),
        }
    }

    fn timeout_error(&self, action: RPCTypes, timeout: Duration) -> PeerRpcError {
        Timeout { action, id: self.me.0, target: self.peer.0, timeout }.into()
    }

    /// Rejects a vote request while the lease of the last known leader may still run. The candidate's own
    /// vote elects no leader: a leader without other voters has no lease to respect.
    fn check_vote_hold(&self, request: &VoteRequest<TypeConfig>) -> Result<(), PeerRpcError> {
        if self.vote_hold.is_active() && !request.leadership_transfer {
            let reason = "the lease of the last known leader may still run";
            return Err(NetworkError::from_string(reason).into());
        }
        Ok(())
    }

    /// Checks the vote in a reply before openraft adopts it.
    fn check_reply_vote(&self, vote: &Vote) -> Result<(), PeerRpcError> {
        let known = self.log.vote().map_or(0, |known| known.leader_id.term);
        let now = std::time::Instant::now();
        let checked = self.term_guard.check(known, vote.leader_id.term, TermSource::Replica, now);
        checked.map_err(|error| self.reject_reply(&error.into()))
    }

    /// Checks a reply to an append. Replicas here store all entries of an append or none, and openraft trusts
    /// any position that a partial success reports.
    fn check_append_reply(
        &self,
        response: &AppendEntriesResponse<TypeConfig>,
    ) -> Result<(), PeerRpcError> {
        match response {
            AppendEntriesResponse::HigherVote(vote) => self.check_reply_vote(vote),
            AppendEntriesResponse::PartialSuccess(_) => {
                let partial = RequestRejection::Position("a partial success".to_owned());
                Err(self.reject_reply(&partial))
            }
            AppendEntriesResponse::Success | AppendEntriesResponse::Conflict => Ok(()),
        }
    }

    fn reject_reply(&self, rejection: &RequestRejection) -> PeerRpcError {
        report_rejection(self.group, self.peer, rejection);
        // An immediate retry would fail again.
        Unreachable::new(rejection).into()
    }

    /// Queues an append when there is room for its entries, and returns the future of its response.
    async fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> impl Future<Output = Result<StreamAppendResult<TypeConfig>, PeerRpcError>> + Send + use<'_>
    {
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        let has_entries = !request.entries.is_empty();
        let term = Term(request.vote.leader_id.term);
        let message: wire::AppendMessage = (request, self.log.last_log_id());
        let body = wire::encode(self.link.version(), &message);
        let permit = match has_entries {
            true => self.link.reserve_entry_bytes(body.len()).await,
            false => None,
        };
        // After the wait, because the lease is measured from here.
        let sent_at = BootTime::now();
        let queued = self.link.request_with_permit(permit, self.group, Kind::Append, body);
        let pending = queued.map_err(|error| self.to_rpc_error(Kind::Append, error));
        async move {
            let response = match has_entries {
                true => {
                    let timeout = self.rpc_timeout;
                    pending?
                        .response_while_progressing(
                            timeout * APPEND_IDLE_FACTOR,
                            timeout * APPEND_TOTAL_FACTOR,
                        )
                        .await
                }
                false => pending?.response_within(self.rpc_timeout).await,
            };
            let response = response.map_err(|error| self.to_rpc_error(Kind::Append, error))?;
            let response: AppendEntriesResponse<TypeConfig> = decode_response(&response)?;
            self.check_append_reply(&response)?;
            // Regardless of its entries: a peer that knows no higher vote follows this leader.
            if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                self.follower_acks.record_ack(term, self.peer, sent_at);
            }
            append_result(response, previous, last)
        }
    }

    /// Sends the pieces that the follower lacks. Each step has a deadline, the transfer has none.
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: &RaftSnapshot,
    ) -> Result<SnapshotResponse<TypeConfig>, PeerRpcError> {
        let stored = &snapshot.snapshot;
        let transfer = self.transfers.begin(self.peer, stored.generation(), stored.piece_count());
        let mut sent = None;
        let mut step = SnapshotStep::Offer;
        loop {
            let held = match self.send_snapshot_step(vote, snapshot, step).await? {
                SnapshotReply::Finished(response) => {
                    self.check_reply_vote(&response.vote)?;
                    transfer.complete();
                    return Ok(response);
                }
                SnapshotReply::Holds(held) => held,
            };
            if sent.is_some_and(|before| held <= before) {
                return Err(NetworkError::from_string("the follower did not keep a piece").into());
            }
            sent = matches!(step, SnapshotStep::Piece(_)).then_some(held);
            transfer.record_progress(held, Instant::now());
            step = match held < stored.piece_count() {
                true => SnapshotStep::Piece(held),
                false => SnapshotStep::Install,
            };
        }
    }

    async fn send_snapshot_step(
        &self,
        vote: Vote,
        snapshot: &RaftSnapshot,
        step: SnapshotStep,
    ) -> Result<SnapshotReply, PeerRpcError> {
        let stored = &snapshot.snapshot;
        // Held until the response, so that the groups that send to this peer alternate.
        let (_permit, data) = match step {
            SnapshotStep::Piece(number) => {
                let permit = self.snapshot_channel.acquire_piece_permit().await;
                (permit, stored.read_piece(number).await.map_err(|error| piece_read_error(&error))?)
            }
            SnapshotStep::Offer | SnapshotStep::Install => (None, Bytes::new()),
        };
        let request = SnapshotRequest {
            vote,
            meta: snapshot.meta.clone(),
            generation: stored.generation(),
            piece_count: stored.piece_count(),
            leader_last_log_id: self.log.last_log_id(),
            step,
        };
        let body = wire::encode(self.link.version(), &request);
        let channel = &self.snapshot_channel;
        let response = channel.send_step(self.group, body, data, self.snapshot_timeout).await;
        decode_response(&response.map_err(|error| self.to_snapshot_error(error))?)
    }
}

impl NetStreamAppend<TypeConfig> for PeerClient {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, PeerRpcError>>, PeerRpcError>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let peer: &'s PeerClient = self;
        let responses =
            input.then(move |request| peer.append(request)).buffered(APPENDS_IN_FLIGHT_MAX);
        Box::pin(async move { Ok(responses.boxed()) })
    }
}

impl NetVote<TypeConfig> for PeerClient {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, PeerRpcError> {
        self.check_vote_hold(&request)?;
        let response: VoteResponse<TypeConfig> = self.call(Kind::Vote, &request).await?;
        self.check_reply_vote(&response.vote).map(|()| response)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, PeerRpcError> {
        self.check_vote_hold(&request)?;
        let response: VoteResponse<TypeConfig> = self.call(Kind::PreVote, &request).await?;
        self.check_reply_vote(&response.vote).map(|()| response)
    }
}

impl NetSnapshot<TypeConfig> for PeerClient {
    type SnapshotData = StoredSnapshot;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, &snapshot) => Ok(sent?),
        }
    }
}

impl NetTransferLeader<TypeConfig> for PeerClient {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, PeerRpcError> {
        self.call(Kind::TransferLeader, &request).await
    }
}

impl NetBackoff<TypeConfig> for PeerClient {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

fn rpc_type(kind: Kind) -> RPCTypes {
    match kind {
        Kind::Vote | Kind::PreVote => RPCTypes::Vote,
        Kind::TransferLeader => RPCTypes::TransferLeader,
        Kind::Append | Kind::Propose | Kind::Unspecified => RPCTypes::AppendEntries,
    }
}

/// Converts a failed read of a piece. An immediate retry would fail again.
fn piece_read_error(error: &io::Error) -> PeerRpcError {
    Unreachable::new(error).into()
}

/// Decodes a response. An error makes openraft repeat the request.
fn decode_response<A: DeserializeOwned>(response: &[u8]) -> Result<A, PeerRpcError> {
    match wire::decode(response) {
        Ok((_, response)) => Ok(response),
        Err(error) => Err(NetworkError::new(&error).into()),
    }
}

fn append_result(
    response: AppendEntriesResponse<TypeConfig>,
    previous: Option<LogId>,
    last: Option<LogId>,
) -> Result<StreamAppendResult<TypeConfig>, PeerRpcError> {
    // Nothing conflicts with an empty log; openraft would panic on such a response.
    if response.is_conflict() && previous.is_none() {
        return Err(
            NetworkError::from_string("the peer reported a conflict with an empty log").into()
        );
    }
    Ok(response.into_stream_result(previous, last))
}

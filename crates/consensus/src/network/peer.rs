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
use pushonce_core::{NodeId, Term};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dial::Links;
use super::link::{Link, LinkError, Pending};
use super::wire::{self, Chunk, Kind};
use crate::clock::BootTime;
use crate::hold::Hold;
use crate::lease::Followers;
use crate::log::Log;
use crate::snapshot::Image;
use crate::types::{LogId, Snapshot, Types, Vote};
use crate::{GroupId, Settings};

/// How many appends of a group may be on their way to one peer.
const PIPELINE: usize = 64;

/// Appends with entries wait for the peer's disk behind those of all other groups: they may take
/// this many times as long as a request that only asks.
const APPEND_PATIENCE: u32 = 4;

/// Makes the peers of one group.
pub(crate) struct Dialer {
    pub(crate) me: NodeId,
    pub(crate) group: GroupId,
    pub(crate) log: Log,
    pub(crate) followers: Followers,
    pub(crate) hold: Hold,
    pub(crate) links: Links,
    pub(crate) settings: Arc<Settings>,
}

/// One peer of one group.
pub(crate) struct Peer {
    me: NodeId,
    group: GroupId,
    to: NodeId,
    log: Log,
    followers: Followers,
    hold: Hold,
    link: Arc<Link>,
    rpc_timeout: Duration,
    snapshot_timeout: Duration,
}

type Failed = RPCError<Types>;

impl RaftNetworkFactory<Types> for Dialer {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &()) -> Peer {
        let to = NodeId(target);
        Peer {
            me: self.me,
            group: self.group,
            to,
            log: self.log.clone(),
            followers: self.followers.clone(),
            hold: self.hold.clone(),
            link: self.links.to(to),
            rpc_timeout: self.settings.rpc_timeout,
            snapshot_timeout: self.settings.snapshot_timeout,
        }
    }
}

impl Peer {
    fn send<T: Serialize>(&self, kind: Kind, message: &T, data: Bytes) -> Result<Pending, Failed> {
        let body = wire::encode(self.link.version(), message);
        self.link.request(self.group, kind, body, data).map_err(|error| self.failed(kind, error))
    }

    async fn ask<T: Serialize, A: DeserializeOwned>(
        &self,
        kind: Kind,
        message: &T,
    ) -> Result<A, Failed> {
        let pending = self.send(kind, message, Bytes::new())?;
        let answer = pending.within(self.rpc_timeout).await;
        read(&answer.map_err(|error| self.failed(kind, error))?)
    }

    fn failed(&self, kind: Kind, error: LinkError) -> Failed {
        match error {
            // Asked again at once it would fail again: openraft backs off from the first of these.
            LinkError::Down(_) | LinkError::Broken(_) | LinkError::Refused { .. } => {
                Unreachable::new(&error).into()
            }
            LinkError::Full(_) => NetworkError::new(&error).into(),
            LinkError::Late { ttl, .. } => {
                Timeout { action: action(kind), id: self.me.0, target: self.to.0, timeout: ttl }
                    .into()
            }
        }
    }

    /// Asks for no vote while the lease of the leader that was heard last may run. The candidate's own
    /// vote elects nobody: a leader without other voters has no lease to respect.
    fn may_ask(&self, request: &VoteRequest<Types>) -> Result<(), Failed> {
        if self.hold.is_on() && !request.leadership_transfer {
            let why = "the lease of the leader that was heard last may still run";
            return Err(NetworkError::from_string(why).into());
        }
        Ok(())
    }

    /// Queues an append now, and gives the future of its answer.
    fn append(
        &self,
        request: AppendEntriesRequest<Types>,
    ) -> impl Future<Output = Result<StreamAppendResult<Types>, Failed>> + Send + use<'_> {
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        let patience = if request.entries.is_empty() { 1 } else { APPEND_PATIENCE };
        let term = Term(request.vote.leader_id.term);
        let message: wire::Append = (request, self.log.last());
        let asked = BootTime::now();
        let pending = self.send(Kind::Append, &message, Bytes::new());
        async move {
            let answer = pending?.within(self.rpc_timeout * patience).await;
            let answer = answer.map_err(|error| self.failed(Kind::Append, error))?;
            let answer: AppendEntriesResponse<Types> = read(&answer)?;
            // Whatever it says of the entries: who knows of no higher vote follows.
            if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                self.followers.answered(term, self.to, asked);
            }
            result_of(answer, previous, last)
        }
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: &Snapshot,
    ) -> Result<SnapshotResponse<Types>, Failed> {
        let pieces = snapshot.snapshot.pieces();
        let mut number = 0;
        loop {
            let piece = match pieces {
                0 => Bytes::new(),
                _ => snapshot.snapshot.piece(number).await.map_err(|e| unreadable(&e))?,
            };
            let (meta, last) = (snapshot.meta.clone(), self.log.last());
            let chunk = Chunk { vote, meta, number, pieces, last };
            // One at a time, so that heartbeats never wait behind more than one.
            let pending = self.send(Kind::Snapshot, &chunk, piece)?;
            let answer = pending.within(self.snapshot_timeout).await;
            let answer = answer.map_err(|error| self.failed(Kind::Snapshot, error))?;
            number += 1;
            if number >= pieces {
                return read(&answer);
            }
        }
    }
}

impl NetStreamAppend<Types> for Peer {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, Failed>>, Failed>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let peer: &'s Peer = self;
        let answers = input.map(move |request| peer.append(request)).buffered(PIPELINE);
        Box::pin(async move { Ok(answers.boxed()) })
    }
}

impl NetVote<Types> for Peer {
    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, Failed> {
        self.may_ask(&request)?;
        self.ask(Kind::Vote, &request).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, Failed> {
        self.may_ask(&request)?;
        self.ask(Kind::PreVote, &request).await
    }
}

impl NetSnapshot<Types> for Peer {
    type SnapshotData = Image;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sending =
            tokio::time::timeout(self.snapshot_timeout, self.send_snapshot(vote, &snapshot));
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = sending => match sent {
                Ok(sent) => Ok(sent?),
                Err(_) => {
                    let late = LinkError::Late { to: self.to, ttl: self.snapshot_timeout };
                    Err(self.failed(Kind::Snapshot, late).into())
                }
            },
        }
    }
}

impl NetTransferLeader<Types> for Peer {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, Failed> {
        self.ask(Kind::TransferLeader, &request).await
    }
}

impl NetBackoff<Types> for Peer {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

fn action(kind: Kind) -> RPCTypes {
    match kind {
        Kind::Vote | Kind::PreVote => RPCTypes::Vote,
        Kind::Snapshot => RPCTypes::InstallSnapshot,
        Kind::TransferLeader => RPCTypes::TransferLeader,
        Kind::Append | Kind::Propose | Kind::Unspecified => RPCTypes::AppendEntries,
    }
}

/// Asked again at once it would fail again.
fn unreadable(error: &io::Error) -> Failed {
    Unreachable::new(error).into()
}

/// Reads an answer. One that cannot be read is asked for again.
fn read<A: DeserializeOwned>(answer: &[u8]) -> Result<A, Failed> {
    match wire::decode(answer) {
        Ok((_, answer)) => Ok(answer),
        Err(error) => Err(NetworkError::new(&error).into()),
    }
}

fn result_of(
    answer: AppendEntriesResponse<Types>,
    previous: Option<LogId>,
    last: Option<LogId>,
) -> Result<StreamAppendResult<Types>, Failed> {
    // Nothing conflicts with an empty beginning; openraft would panic on a peer that says so.
    if answer.is_conflict() && previous.is_none() {
        return Err(NetworkError::from_string("a conflict with nothing").into());
    }
    Ok(answer.into_stream_result(previous, last))
}

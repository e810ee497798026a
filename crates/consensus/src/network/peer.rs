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

use tokio::time::Instant;

use super::dial::Links;
use super::link::{Link, LinkError, Pending};
use super::wire::{self, Kind, SnapshotAnswer, SnapshotRequest, SnapshotStep};
use crate::clock::BootTime;
use crate::hold::Hold;
use crate::lease::Followers;
use crate::log::Log;
use crate::snapshot::{Image, Transfers};
use crate::types::{LogId, Snapshot, Types, Vote};
use crate::{GroupId, Settings};

/// How many appends of a group may be on their way to one peer.
const PIPELINE: usize = 64;

/// Appends with entries wait for the peer's disk behind those of all other groups: the peer may answer
/// none of them for this many times as long as a request that only asks may take.
const APPEND_IDLE: u32 = 4;

/// One of them may take this many times as long: 16 s on a local network.
const APPEND_MOST: u32 = 64;

/// Makes the peers of one group.
pub(crate) struct Dialer {
    pub(crate) me: NodeId,
    pub(crate) group: GroupId,
    pub(crate) log: Log,
    pub(crate) followers: Followers,
    pub(crate) transfers: Transfers,
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
    transfers: Transfers,
    hold: Hold,
    link: Arc<Link>,
    rpc_timeout: Duration,
    link_timeout: Duration,
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
            transfers: self.transfers.clone(),
            hold: self.hold.clone(),
            link: self.links.to(to),
            rpc_timeout: self.settings.rpc_timeout,
            link_timeout: self.settings.link_timeout(),
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
        self.wait_for_link().await;
        let pending = self.send(kind, message, Bytes::new())?;
        let answer = pending.within(self.rpc_timeout).await;
        read(&answer.map_err(|error| self.failed(kind, error))?)
    }

    /// openraft asks for a vote once, and a node that has only followed so far has dialled nobody yet.
    async fn wait_for_link(&self) {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::waits_for_no_link() {
            return;
        }
        self.link.wait_up(self.link_timeout).await;
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

    /// Queues an append as soon as there is room for its entries, and gives the future of its answer.
    async fn append(
        &self,
        request: AppendEntriesRequest<Types>,
    ) -> impl Future<Output = Result<StreamAppendResult<Types>, Failed>> + Send + use<'_> {
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        let carries = !request.entries.is_empty();
        let term = Term(request.vote.leader_id.term);
        let message: wire::Append = (request, self.log.last());
        let body = wire::encode(self.link.version(), &message);
        let room = match carries {
            true => self.link.room_for_entries(body.len()).await,
            false => None,
        };
        // After the wait: the lease counts from here.
        let asked = BootTime::now();
        let asking = self.link.request_in(room, self.group, Kind::Append, body, Bytes::new());
        let pending = asking.map_err(|error| self.failed(Kind::Append, error));
        async move {
            let answer = match carries {
                true => {
                    let timeout = self.rpc_timeout;
                    pending?.while_answering(timeout * APPEND_IDLE, timeout * APPEND_MOST).await
                }
                false => pending?.within(self.rpc_timeout).await,
            };
            let answer = answer.map_err(|error| self.failed(Kind::Append, error))?;
            let answer: AppendEntriesResponse<Types> = read(&answer)?;
            // Whatever it says of the entries: who knows of no higher vote follows.
            if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                self.followers.answered(term, self.to, asked);
            }
            result_of(answer, previous, last)
        }
    }

    /// Sends the pieces that the follower lacks, however long that takes: each single step has a
    /// deadline, the transfer has none.
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: &Snapshot,
    ) -> Result<SnapshotResponse<Types>, Failed> {
        let image = &snapshot.snapshot;
        let progress = self.transfers.begin(self.to, image.generation(), image.pieces());
        let mut sent = None;
        let mut step = SnapshotStep::Offer;
        loop {
            let held = match self.snapshot_step(vote, snapshot, step).await? {
                SnapshotAnswer::Ended(response) => {
                    progress.complete();
                    return Ok(response);
                }
                SnapshotAnswer::Holds(held) => held,
            };
            if sent.is_some_and(|before| held <= before) {
                return Err(NetworkError::from_string("the follower did not keep a piece").into());
            }
            sent = matches!(step, SnapshotStep::Piece(_)).then_some(held);
            progress.reached(held, Instant::now());
            step = match held < image.pieces() {
                true => SnapshotStep::Piece(held),
                false => SnapshotStep::Install,
            };
        }
    }

    async fn snapshot_step(
        &self,
        vote: Vote,
        snapshot: &Snapshot,
        step: SnapshotStep,
    ) -> Result<SnapshotAnswer, Failed> {
        let image = &snapshot.snapshot;
        // Held until the answer, so that the groups that send to this peer take turns.
        let (_turn, data) = match step {
            SnapshotStep::Piece(number) => {
                let turn = self.link.piece_turn().await;
                (turn, image.piece(number).await.map_err(|error| unreadable(&error))?)
            }
            SnapshotStep::Offer | SnapshotStep::Install => (None, Bytes::new()),
        };
        let request = SnapshotRequest {
            vote,
            meta: snapshot.meta.clone(),
            generation: image.generation(),
            pieces: image.pieces(),
            last: self.log.last(),
            step,
        };
        let pending = self.send(Kind::Snapshot, &request, data)?;
        let answer = pending.within(self.snapshot_timeout).await;
        let answer = answer.map_err(|error| self.failed(Kind::Snapshot, error))?;
        read(&answer)
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
        let answers = input.then(move |request| peer.append(request)).buffered(PIPELINE);
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
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, &snapshot) => Ok(sent?),
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

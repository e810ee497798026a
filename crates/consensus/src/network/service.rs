//! The answering side: takes the requests of a peer and hands each to its group.
//!
//! Requests of one group reach openraft in the order they arrived; answers go back as they come.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use pushonce_core::{AgreedVersion, ClusterId, NodeId};
use pushonce_proto::pb::peer::v1 as pb;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::unconstrained;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::greeting::{agree, offer};
use super::marks::{Greeting, Marks};
use super::receive;
use super::wire::{self, CLUSTER, FROM, HEARD, Kind, LOG, Proposed, TO, said};
use crate::types::{Entry, LogId, Types, Vote};
use crate::{AddressBook, Group, GroupId, ProposeError};

/// How many requests of one peer are worked on at once. When full, the stream is not read on, and
/// HTTP/2 makes the peer wait.
const WORKING_MAX: usize = 1024;

/// How many frames of answers wait for the socket.
const ANSWERS_MAX: usize = 16;

/// The groups that run on this node. Clones share the table.
#[derive(Clone, Default)]
pub(crate) struct Groups(Arc<RwLock<HashMap<GroupId, Group>>>);

/// Answers the consensus requests of peers. Clones share everything.
#[derive(Clone)]
pub struct Service {
    pub(crate) cluster: ClusterId,
    pub(crate) me: NodeId,
    pub(crate) agreed: AgreedVersion,
    pub(crate) book: AddressBook,
    pub(crate) marks: Marks,
    pub(crate) groups: Groups,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

type Work = Pin<Box<dyn Future<Output = pb::RaftResponse> + Send>>;

impl Groups {
    pub(crate) fn get(&self, group: GroupId) -> Option<Group> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    pub(crate) fn insert(&self, group: Group) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(group.id(), group);
    }

    /// Takes a group off the table, but not one that was started under its id since.
    pub(crate) fn remove(&self, group: &Group) {
        let mut groups = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if groups.get(&group.id()).is_some_and(|listed| Arc::ptr_eq(&listed.0, &group.0)) {
            groups.remove(&group.id());
        }
    }

    pub(crate) fn all(&self) -> Vec<Group> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[tonic::async_trait]
impl pb::raft_server::Raft for Service {
    type ExchangeStream = ReceiverStream<Result<pb::RaftResponses, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::RaftRequests>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        self.meant(&request, CLUSTER, &self.cluster.to_string())?;
        self.meant(&request, TO, &self.me.to_string())?;
        let from = self.admit(&request)?;
        let ours = self.agreed.offer();
        agree(ours, request.metadata()).map_err(|error| {
            tracing::warn!(peer = %from, %error, "refused a consensus link");
            Status::failed_precondition(error.to_string())
        })?;
        let greeting = self.greeted(from, &request)?;
        let (own, heard) = (self.marks.greeting(), self.marks.heard(from));
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let service = self.clone();
        self.tasks.spawn(async move {
            // A budget that runs out would make a first poll return early, and order would be lost.
            let serving =
                unconstrained(service.serve(from, greeting, request.into_inner(), answers));
            tokio::select! {
                () = service.shutdown.cancelled() => {}
                () = service.book.until_gone(from) => {
                    tracing::info!(peer = %from, "it was removed, and is listened to no more");
                }
                () = service.marks.fence().closed() => {}
                () = serving => {}
            }
        });
        let mut response = Response::new(ReceiverStream::new(stream));
        offer(response.metadata_mut(), ours);
        put(response.metadata_mut(), LOG, own);
        if let Some(heard) = heard {
            put(response.metadata_mut(), HEARD, heard);
        }
        Ok(response)
    }
}

fn put(metadata: &mut MetadataMap, key: &'static str, value: impl std::fmt::Display) {
    // Numbers and colons are a header's value.
    if let Ok(value) = value.to_string().parse() {
        metadata.insert(key, value);
    }
}

impl Service {
    /// Refuses a node that is gone: it may have forgotten, or never heard, what it voted for. A node
    /// that was not heard of yet may know more than this one.
    fn admit<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let said = request.metadata().get(FROM).and_then(|value| value.to_str().ok());
        let from = said.and_then(|said| said.strip_prefix('n')?.parse().ok()).map(NodeId);
        let from = from.ok_or_else(|| Status::invalid_argument(format!("{FROM} names no node")))?;
        if self.book.watch().borrow().is_gone(from) {
            return Err(Status::failed_precondition(format!(
                "{from} is not in the cluster any more, and an id is never used again: \
                 join as a new node, with an empty directory"
            )));
        }
        Ok(from)
    }

    /// Compares both logs with what each node knows of the other's, before anything the peer sends is
    /// looked at. See [`marks`](super::marks).
    fn greeted<T>(&self, from: NodeId, request: &Request<T>) -> Result<Greeting, Status> {
        let metadata = request.metadata();
        let refused = |why: String| Status::failed_precondition(why);
        let own = self.marks.check_own(said(metadata, HEARD));
        own.map_err(|why| refused(why.to_string()))?;
        if let Some(reason) = self.marks.fence().reason() {
            return Err(refused(reason));
        }
        let greeting: Option<Greeting> = said(metadata, LOG);
        let greeting =
            greeting.ok_or_else(|| Status::invalid_argument(format!("{LOG} is missing")))?;
        self.marks.check_peer(from, greeting).map_err(|why| {
            let mut status = refused(why.to_string());
            if let Some(heard) = self.marks.heard(from) {
                put(status.metadata_mut(), HEARD, heard);
            }
            status
        })?;
        Ok(greeting)
    }

    /// Refuses a peer that means another cluster or node: an address may have changed hands.
    fn meant<T>(&self, request: &Request<T>, key: &str, mine: &str) -> Result<(), Status> {
        let meant = request.metadata().get(key).and_then(|value| value.to_str().ok());
        if meant == Some(mine) {
            return Ok(());
        }
        let meant = meant.unwrap_or("nothing");
        Err(Status::failed_precondition(format!("{key} is {meant}, this is {mine}")))
    }

    async fn serve(
        &self,
        from: NodeId,
        greeting: Greeting,
        mut requests: Streaming<pb::RaftRequests>,
        answers: mpsc::Sender<Result<pb::RaftResponses, Status>>,
    ) {
        let mut working = FuturesUnordered::<Work>::new();
        loop {
            let mut responses = Vec::new();
            tokio::select! {
                Some(response) = working.next() => {
                    responses.push(response);
                    while let Some(Some(response)) = working.next().now_or_never() {
                        responses.push(response);
                    }
                }
                frame = requests.message(), if working.len() < WORKING_MAX => {
                    let Ok(Some(frame)) = frame else { return };
                    self.marks.note(from, greeting, frame.writes);
                    for request in frame.requests {
                        let mut work = self.begin(request);
                        // The first poll hands it to openraft: here and now, in order.
                        match futures::poll!(&mut work) {
                            Poll::Ready(response) => responses.push(response),
                            Poll::Pending => working.push(work),
                        }
                    }
                }
            }
            if !responses.is_empty() && answers.send(Ok(self.frame(responses))).await.is_err() {
                return;
            }
        }
    }

    /// What is acknowledged is durable already, so the count that goes with it includes it.
    fn frame(&self, responses: Vec<pb::RaftResponse>) -> pb::RaftResponses {
        pb::RaftResponses { responses, writes: self.marks.writes() }
    }

    fn begin(&self, request: pb::RaftRequest) -> Work {
        let id = request.id;
        let work = match self.groups.get(GroupId(request.group)) {
            Some(group) => work_on(group, request),
            None => refuse(format!("group {} is not on {}", GroupId(request.group), self.me)),
        };
        Box::pin(work.map(move |result| {
            use pb::raft_response::Result::{Body, Error};
            let result = result.map_or_else(Error, Body);
            pb::RaftResponse { id, result: Some(result) }
        }))
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

fn refuse(why: String) -> Answer {
    Box::pin(std::future::ready(Err(why)))
}

fn work_on(group: Group, request: pb::RaftRequest) -> Answer {
    let body = request.body.clone();
    match request.kind() {
        Kind::Append => with(body, move |(append, last): wire::Append| async move {
            group.may_append(&append)?;
            group.hear(&append.vote);
            group.meet(&append.vote, last).await?;
            let answer = group.raft().append_entries(append).await;
            // Before the leader hears that this replica is level, and counts on its vote.
            group.recover().await;
            answer.map_err(|error| error.to_string())
        }),
        Kind::Vote => with(body, move |vote: VoteRequest<Types>| async move {
            group.may_vote(&vote)?;
            group.raft().vote(vote).await.map_err(|error| error.to_string())
        }),
        Kind::PreVote => with(body, move |vote: VoteRequest<Types>| async move {
            group.may_vote(&vote)?;
            group.raft().pre_vote(vote).await.map_err(|error| error.to_string())
        }),
        Kind::TransferLeader => {
            with(body, move |transfer: TransferLeaderRequest<Types>| async move {
                group.has_all()?;
                group
                    .raft()
                    .handle_transfer_leader(transfer)
                    .await
                    .map_err(|error| error.to_string())
            })
        }
        Kind::Snapshot => {
            let data = request.data;
            with(body, move |request| receive::on_request(group, request, data))
        }
        Kind::Propose => with(body, move |entry: Bytes| propose(group, entry)),
        Kind::Unspecified => refuse("a kind of request this version does not know".to_owned()),
    }
}

impl Group {
    /// Refuses what is published while there is no room for it. Everything else goes through: what
    /// carries nothing, elections, what is essential, the control group, by which a cluster gets out of
    /// trouble, and what was published under earlier leaders. Until a majority holds that, the new leader has committed
    /// nothing, and cannot answer for the past; it is bounded by what they had taken in before.
    fn may_append(&self, append: &AppendEntriesRequest<Types>) -> Result<(), String> {
        let term = append.vote.leader_id.term;
        let is_new = |entry: &Entry| entry.log_id.leader_id.term == term;
        #[cfg(feature = "planted-bugs")]
        let is_new = |entry: &Entry| is_new(entry) || crate::planted::refuses_the_past();
        let is_published = |entry: &Entry| {
            matches!(&entry.payload, EntryPayload::Normal(data) if !data.essential) && is_new(entry)
        };
        if self.id() == GroupId::CONTROL || !append.entries.iter().any(is_published) {
            return Ok(());
        }
        self.0.space.closed().map_or(Ok(()), |full| Err(full.to_string()))
    }

    /// Refuses while something is lost that this replica had acknowledged.
    fn has_all(&self) -> Result<(), String> {
        match self.recovering() {
            Some(_) => Err("recovers from damage, and has not got everything back".to_owned()),
            None => Ok(()),
        }
    }

    /// Notes that the leader lives. One that was deposed does not count.
    pub(super) fn hear(&self, vote: &Vote) {
        if self.0.log.vote().is_none_or(|known| known <= *vote) {
            self.0.hold.heard();
        }
    }

    /// Notes how far the leader's log goes. Tells a replica that recovers of its leader, before it
    /// hears of anything else from there.
    pub(super) async fn meet(&self, vote: &Vote, last: Option<LogId>) -> Result<(), String> {
        if self.0.log.vote().is_some_and(|known| known > *vote) {
            // It leads no more, and openraft says so.
            return Ok(());
        }
        self.0.leader_log.store(last.map_or(0, |last| last.index), Ordering::Relaxed);
        let Some(recovery) = self.recovering() else { return Ok(()) };
        recovery.meet(last).await.map_err(|error| error.to_string())?;
        self.0.nudge.notify_one();
        Ok(())
    }

    /// Refuses while the lease of a leader may run: of the one that this replica follows, or followed
    /// before it restarted, or its own. A leader that hands over says itself that its lease is over.
    fn may_vote(&self, request: &VoteRequest<Types>) -> Result<(), String> {
        self.has_all()?;
        if request.leadership_transfer {
            return Ok(());
        }
        if self.silent_until().is_some() {
            return Err("restarted a moment ago, and may be bound to another leader".to_owned());
        }
        if self.0.hold.is_on() || self.lease().is_some() {
            return Err("the lease of a leader may still run".to_owned());
        }
        Ok(())
    }
}

/// Decodes, works and encodes in the version that the request has: whoever wrote it reads it.
fn with<T, A, F>(body: Bytes, work: impl FnOnce(T) -> F + Send + 'static) -> Answer
where
    T: DeserializeOwned + Send + 'static,
    A: Serialize + Send,
    F: Future<Output = Result<A, String>> + Send,
{
    Box::pin(async move {
        let (version, request) = wire::decode(&body).map_err(|error| error.to_string())?;
        let answer = work(request).await?;
        Ok(wire::encode(version, &answer))
    })
}

/// Proposes what another node forwards, if this build can read it: once committed, an entry that cannot
/// be read halts every replica.
async fn propose(group: Group, entry: Bytes) -> Result<Proposed, String> {
    (group.0.check)(&entry).map_err(|why| format!("the entry cannot be read: {why}"))?;
    Ok(match group.propose(entry).await {
        Ok(answer) => Proposed::Applied(answer),
        Err(ProposeError::Refused { leader }) => Proposed::Refused(leader.map(|node| node.0)),
        Err(ProposeError::Unknown(why)) => Proposed::Unknown(why),
    })
}

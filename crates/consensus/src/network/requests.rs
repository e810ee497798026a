//! Handles the requests of peers: each is decoded, checked, and passed to its group.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use pushonce_core::{CoverageMark, FailPoint, NodeId, Term};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_telemetry::LogLimiter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::request_check::{self, RequestRejection, SenderFacts};
use super::wire::{self, Kind, ProposalOutcome};
use crate::group::RaftGroupInner;
use crate::metrics;
use crate::term_guard::TermSource;
use crate::types::{LogEntry, LogId, TypeConfig, Vote};
use crate::{GroupId, ProposeError, RaftGroup};

/// Maximum size of an entry that another node forwards: commands of the control group, of a few KiB at most.
const FORWARDED_BYTES_MAX: usize = 64 << 10;

/// The reason why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// Only a defective peer sends the request, or a replica that does not know of its removal.
    #[error(transparent)]
    Rejected(#[from] RequestRejection),
    /// The replica cannot process the request now.
    #[error("{0}")]
    Failed(String),
}

impl From<String> for RequestError {
    fn from(reason: String) -> RequestError {
        RequestError::Failed(reason)
    }
}

pub(super) type ReplyFuture = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

pub(super) fn reject(reason: String) -> ReplyFuture {
    Box::pin(std::future::ready(Err(reason)))
}

/// Handles a request that `from` sent to a group.
pub(super) fn handle_request(
    group: RaftGroup,
    from: NodeId,
    request: pb::RaftRequest,
) -> ReplyFuture {
    let (id, body) = (group.id(), request.body.clone());
    match request.kind() {
        Kind::Append => {
            handle_decoded(id, from, body, move |(append, last): wire::AppendMessage| async move {
                group.check_leader(from, &append.vote, last)?;
                group.check_append(&append)?;
                group.on_leader_contact(&append.vote);
                group.on_leader_log(&append.vote, last).await?;
                let response = group.raft().append_entries(append).await;
                // Before the leader learns that this replica is caught up, and counts on its vote.
                group.try_finish_recovery().await;
                response.map_err(|error| error.to_string().into())
            })
        }
        Kind::Vote => {
            handle_decoded(id, from, body, move |mut vote: VoteRequest<TypeConfig>| async move {
                group.check_candidate(from, &vote)?;
                vote.leadership_transfer =
                    vote.leadership_transfer && group.is_transfer_announced(from, &vote).await;
                group.check_vote_allowed(&vote)?;
                group.raft().vote(vote).await.map_err(|error| error.to_string().into())
            })
        }
        Kind::PreVote => {
            handle_decoded(id, from, body, move |mut vote: VoteRequest<TypeConfig>| async move {
                group.check_candidate(from, &vote)?;
                vote.leadership_transfer = false;
                group.check_vote_allowed(&vote)?;
                group.raft().pre_vote(vote).await.map_err(|error| error.to_string().into())
            })
        }
        Kind::TransferLeader => handle_decoded(
            id,
            from,
            body,
            move |transfer: TransferLeaderRequest<TypeConfig>| async move {
                group.check_transfer(from, &transfer)?;
                group.check_recovered()?;
                let term = Term(transfer.from_leader().leader_id.term);
                group.0.announced_transfers.announce(term, NodeId(*transfer.to_node_id()));
                group
                    .raft()
                    .handle_transfer_leader(transfer)
                    .await
                    .map_err(|error| error.to_string().into())
            },
        ),
        Kind::Propose => handle_decoded(id, from, body, move |entry: Bytes| async move {
            propose_forwarded(group, entry).await
        }),
        Kind::Unspecified => reject("unknown kind of request".to_owned()),
    }
}

impl RaftGroup {
    /// Checks that `from` may lead this group under `vote`. `last` is the last entry that it claims to hold.
    pub(super) fn check_leader(
        &self,
        from: NodeId,
        vote: &Vote,
        last: Option<LogId>,
    ) -> Result<(), RequestRejection> {
        let facts = self.sender_facts(from);
        request_check::check_leader_vote(from, vote)?;
        request_check::check_may_lead(&facts, vote, last)?;
        request_check::check_position(last, vote, facts.last)?;
        self.check_term(vote, TermSource::Leader)
    }

    fn check_candidate(
        &self,
        from: NodeId,
        request: &VoteRequest<TypeConfig>,
    ) -> Result<(), RequestRejection> {
        let facts = self.sender_facts(from);
        request_check::check_candidate_vote(from, &request.vote)?;
        // A replica without a membership is no voter.
        if !facts.is_initialized && !FailPoint::SenderUnchecked.is_active() {
            return Err(RequestRejection::NotAVoter(from));
        }
        request_check::check_may_lead(&facts, &request.vote, request.last_log_id)?;
        request_check::check_position(request.last_log_id, &request.vote, facts.last)?;
        self.check_term(&request.vote, TermSource::Replica)
    }

    /// Only the leader that this replica follows transfers its leadership.
    fn check_transfer(
        &self,
        from: NodeId,
        request: &TransferLeaderRequest<TypeConfig>,
    ) -> Result<(), RequestRejection> {
        let vote = request.from_leader();
        request_check::check_leader_vote(from, vote)?;
        let follows = self.0.log.vote().is_some_and(|known| known.leader_id == vote.leader_id);
        if !follows && !FailPoint::SenderUnchecked.is_active() {
            return Err(RequestRejection::WrongVote(from));
        }
        let last = request.last_log_id().copied();
        request_check::check_position(last, vote, self.0.log.last_log_id())
    }

    fn check_term(&self, vote: &Vote, source: TermSource) -> Result<(), RequestRejection> {
        let known = self.0.log.vote().map_or(0, |known| known.leader_id.term);
        let checked = self.0.term_guard.check(known, vote.leader_id.term, source, Instant::now());
        checked.map_err(RequestRejection::from)
    }

    fn sender_facts(&self, sender: NodeId) -> SenderFacts {
        let metrics_watch = self.raft().metrics();
        let metrics = metrics_watch.borrow_watched();
        let stored = &metrics.membership_config;
        let mut configurations = stored.membership().get_joint_config().iter();
        SenderFacts {
            sender,
            is_voter: configurations.any(|voters| voters.contains(&sender.0)),
            is_initialized: stored.log_id().is_some(),
            standing: self.0.cluster_nodes.standing(sender),
            vote: self.0.log.vote(),
            last: self.0.log.last_log_id(),
        }
    }

    /// Whether the leader has announced the leadership transfer for which the candidate asks. If not, the
    /// request counts as one of an ordinary election.
    async fn is_transfer_announced(
        &self,
        candidate: NodeId,
        request: &VoteRequest<TypeConfig>,
    ) -> bool {
        // The candidate waits for the answer for the whole timeout.
        let wait_max = self.0.settings.rpc_timeout / 2;
        let term = Term(request.vote.leader_id.term);
        let is_announced = self.0.announced_transfers.is_announced(candidate, term, wait_max).await;
        if is_announced {
            CoverageMark::TransferAnnounced.reach();
        }
        static LIMITER: LogLimiter = LogLimiter::new();
        if !is_announced && let Some(suppressed) = LIMITER.allow(Instant::now()) {
            tracing::info!(group = %self.id(), %candidate, %term, suppressed,
                "no leader has announced a transfer, the vote request counts as an ordinary one");
        }
        is_announced
    }

    /// Checks the entries, and rejects publishes while there is no space for them. Accepts everything else:
    /// appends without entries, elections, essential entries, the control group, through which an operator
    /// repairs a cluster, and entries of earlier terms. Until a majority holds these, a new leader has
    /// committed nothing and cannot serve reads; their size is bounded by what earlier leaders accepted.
    fn check_append(&self, append: &AppendEntriesRequest<TypeConfig>) -> Result<(), RequestError> {
        let RaftGroupInner { log, check_entry, disk_reserve, .. } = &*self.0;
        let own_id = |index| log.log_id_at(index);
        request_check::check_position(append.leader_commit, &append.vote, None)?;
        request_check::check_entries(append, log.committed(), own_id, *check_entry)?;
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
        disk_reserve.append_error().map_or(Ok(()), |full| {
            CoverageMark::AppendRejectedForSpace.reach();
            Err(full.to_string().into())
        })
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
            CoverageMark::VoteHeld.reach();
            return Err("the lease of a leader may still run".to_owned());
        }
        Ok(())
    }
}

/// Decodes, processes and encodes in the version of the request, which its sender can read.
pub(super) fn handle_decoded<T, A, F>(
    group: GroupId,
    from: NodeId,
    body: Bytes,
    work: impl FnOnce(T) -> F + Send + 'static,
) -> ReplyFuture
where
    T: DeserializeOwned + Send + 'static,
    A: Serialize + Send,
    F: Future<Output = Result<A, RequestError>> + Send,
{
    Box::pin(async move {
        let handled = async {
            let (version, request) = wire::decode(&body)
                .map_err(|error| RequestRejection::Malformed(error.to_string()))?;
            let response = work(request).await?;
            Ok(wire::encode(version, &response))
        };
        handled.await.map_err(|error: RequestError| {
            if let RequestError::Rejected(rejection) = &error {
                report_rejection(group, from, rejection);
            }
            error.to_string()
        })
    })
}

/// Counts a request or reply that was rejected.
pub(super) fn report_rejection(group: GroupId, from: NodeId, rejection: &RequestRejection) {
    static LIMITER: LogLimiter = LogLimiter::new();
    metrics::REJECTED_REQUESTS.register_counter(&[rejection.label()]).increment(1);
    if let Some(suppressed) = LIMITER.allow(Instant::now()) {
        tracing::warn!(%group, peer = %from, %rejection, suppressed,
            "rejected a consensus request, which a removed replica or a defective node has sent");
    }
}

/// Proposes an entry that another node forwarded, if this build can read it: once committed, an entry that
/// cannot be read halts every replica. Only the control group has entries that other nodes make.
async fn propose_forwarded(
    group: RaftGroup,
    entry: Bytes,
) -> Result<ProposalOutcome, RequestError> {
    if entry.len() > FORWARDED_BYTES_MAX {
        let reason = format!("a forwarded entry has {} bytes", entry.len());
        return Err(RequestRejection::Malformed(reason).into());
    }
    (group.0.check_entry)(&entry).map_err(|error| format!("the entry cannot be read: {error}"))?;
    Ok(match group.answer_or_propose(entry).await {
        Ok(response) => ProposalOutcome::Applied(response),
        Err(ProposeError::Rejected { leader }) => {
            ProposalOutcome::Rejected(leader.map(|node| node.0))
        }
        Err(ProposeError::Unknown(reason)) => ProposalOutcome::Unknown(reason),
    })
}

//! A replica of one group on this node.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use openraft::{Raft, RaftMetrics};
use pushonce_core::versioned::VersionedDecodeError;
use pushonce_core::{DiskFull, NodeId, ShardId, Term};
use pushonce_telemetry::LogLimiter;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adapter::{HaltReason, StateMachineAdapter};
use crate::clock::BootTime;
use crate::cluster_nodes::ClusterNodes;
use crate::disk_reserve::DiskReserve;
use crate::leader_transfer::TransferAnnouncements;
use crate::lease::{FollowerAcks, Lease};
use crate::log::RaftLog;
use crate::network::{
    FRAME_BYTES_MAX, Fence, GroupRegistry, IncomingSnapshot, Kind, LinkError, ProposalOutcome,
    RaftLinks, wire,
};
use crate::recovery::ReplicaRecovery;
use crate::snapshot::{SnapshotStore, SnapshotTransfers};
use crate::term_guard::TermGuard;
use crate::types::{ProposalData, TypeConfig};
use crate::vote_hold::{LeaseTimes, VoteHold};
use crate::{ConsensusSettings, GroupStatus};

/// The id of a group: 0 is the control group, shard s is s + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// Checks that this build can read an entry.
pub(crate) type CheckEntryFn = fn(&Bytes) -> Result<(), VersionedDecodeError>;

/// Checks that this build can read a snapshot of a group.
pub(crate) type CheckSnapshotFn = fn(GroupId, &[u8]) -> Result<(), VersionedDecodeError>;

/// Answers an entry from the state of the leader, if it would change nothing.
pub(crate) type AnswerFn = Box<dyn Fn(&Bytes) -> Option<Bytes> + Send + Sync>;

/// Maximum size of an entry, in bytes. An entry is sent in one frame: a larger one would break every link.
/// Shards limit theirs to 1 MiB, and the settings of all namespaces are smaller.
pub const ENTRY_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(ENTRY_BYTES_MAX * 2 < FRAME_BYTES_MAX);

/// The reason why a proposal has no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The entry was not proposed: this node does not lead, or may not at the moment. Ask the leader.
    #[error("not proposed: {}", match leader { Some(node) => format!("{node} leads"), None => "no leader is known".to_owned() })]
    Rejected {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The entry may have been committed, or may be later. The message says why the outcome is unknown.
    #[error("the outcome of the proposal is unknown: {0}")]
    Unknown(String),
}

/// The reason why a group was not initialised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the group was not initialised: {0}")]
pub struct InitializeError(pub String);

/// A replica of a group on this node. Clones share it.
#[derive(Clone)]
pub struct RaftGroup(pub(crate) Arc<RaftGroupInner>);

pub(crate) struct RaftGroupInner {
    pub(crate) id: GroupId,
    pub(crate) me: NodeId,
    pub(crate) raft: Raft<TypeConfig, StateMachineAdapter>,
    pub(crate) log: RaftLog,
    /// The acknowledgements of followers while this node leads.
    pub(crate) follower_acks: FollowerAcks,
    /// The duration of the lease and of the vote hold.
    pub(crate) lease_times: LeaseTimes,
    /// The contact of this replica with its leader.
    pub(crate) vote_hold: VoteHold,
    /// Whether this node may take part in groups.
    pub(crate) fence: Fence,
    pub(crate) snapshot_store: Arc<SnapshotStore>,
    /// The reason why this replica halted, if it did.
    pub(crate) halt_reason: HaltReason,
    /// [`StateMachine::check_entry`](crate::StateMachine::check_entry) of the machine.
    pub(crate) check_entry: CheckEntryFn,
    /// [`StateMachine::check_snapshot`](crate::StateMachine::check_snapshot) of the machine.
    pub(crate) check_snapshot: CheckSnapshotFn,
    /// See [`RaftGroup::answer_without_entry`].
    pub(crate) answer: OnceLock<AnswerFn>,
    /// The recovery of this replica if it had lost data when it was started; otherwise `None`.
    pub(crate) recovery: Option<ReplicaRecovery>,
    /// The snapshot that is being received. There is one at most, because only a leader sends one.
    pub(crate) incoming_snapshot: Arc<tokio::sync::Mutex<Option<IncomingSnapshot>>>,
    /// The snapshots that this node sends while it leads.
    pub(crate) transfers: SnapshotTransfers,
    pub(crate) links: RaftLinks,
    pub(crate) disk_reserve: DiskReserve,
    pub(crate) settings: Arc<ConsensusSettings>,
    pub(crate) groups: GroupRegistry,
    pub(crate) status: watch::Sender<GroupStatus>,
    /// Notified when an action of this node may have changed the status.
    pub(crate) status_dirty: Notify,
    /// Held during a change of the members or the leader.
    pub(crate) change_lock: tokio::sync::Mutex<()>,
    /// The last term in which this node began to transfer its leadership; 0 for none. Another node may lead
    /// from then on, regardless of the lease.
    pub(crate) transferred_term: AtomicU64,
    /// The transfers of other leaders, and of this one.
    pub(crate) announced_transfers: TransferAnnouncements,
    /// Bounds the terms that peers send. Shared with the clients of the peers.
    pub(crate) term_guard: Arc<TermGuard>,
    /// The nodes that may lead groups.
    pub(crate) cluster_nodes: ClusterNodes,
    /// The index of the last entry that the leader reported to hold.
    pub(crate) leader_last_log_index: AtomicU64,
    /// When this replica started, if it may be in the lease of a leader from before.
    pub(crate) restart_hold_since: Option<BootTime>,
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl GroupId {
    /// The group of members, placement and namespaces.
    pub const CONTROL: GroupId = GroupId(0);

    /// The group of a shard.
    pub fn shard(shard: ShardId) -> GroupId {
        GroupId(u32::from(shard.0) + 1)
    }

    /// The shard of this group; `None` for the control group.
    pub fn as_shard(self) -> Option<ShardId> {
        self.0.checked_sub(1).and_then(|shard| u16::try_from(shard).ok()).map(ShardId)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.checked_sub(1) {
            None => f.write_str("control"),
            Some(shard) => write!(f, "s{shard}"),
        }
    }
}

impl RaftGroup {
    /// The id of the group.
    pub fn id(&self) -> GroupId {
        self.0.id
    }

    /// Makes this node the only voter. `Ok` when the group is initialised already.
    ///
    /// Only one node may ever do this for a group; all others are added by its leader.
    pub async fn initialize(&self) -> Result<(), InitializeError> {
        use openraft::errors::InitializeError::NotAllowed;
        let members = std::collections::BTreeMap::from([(self.0.me.0, ())]);
        match self.raft().initialize(members).await {
            Ok(()) | Err(RaftError::APIError(NotAllowed(_))) => Ok(()),
            Err(error) => Err(InitializeError(error.to_string())),
        }
    }

    /// Proposes an entry on this node and waits until it is applied here; returns the response of the
    /// machine.
    ///
    /// Waits up to [`ConsensusSettings::proposal_deadline`]. An entry above [`ENTRY_BYTES_MAX`] is rejected.
    pub async fn propose(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        self.propose_data(ProposalData { bytes: entry, essential: false }).await
    }

    /// Like [`RaftGroup::propose`], for an entry without published data that the group needs to be readable
    /// or to shrink: replicas whose disk has no space for publishes accept it. It must be small.
    pub async fn propose_essential(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        self.propose_data(ProposalData { bytes: entry, essential: true }).await
    }

    async fn propose_data(&self, data: ProposalData) -> Result<Bytes, ProposeError> {
        if data.bytes.len() > ENTRY_BYTES_MAX {
            let bytes = data.bytes.len();
            static LIMITER: LogLimiter = LogLimiter::new();
            if let Some(suppressed) = LIMITER.allow(Instant::now()) {
                tracing::error!(group = %self.id(), bytes, suppressed, "rejected an entry that is too large");
            }
            return Err(ProposeError::Rejected { leader: None });
        }
        // The only voter of a group would otherwise continue to commit.
        if self.0.fence.is_closed() {
            return Err(ProposeError::Rejected { leader: None });
        }
        // openraft has no deadline: without a quorum it would wait forever.
        let deadline = self.0.settings.proposal_deadline;
        match timeout(deadline, self.raft().client_write(data)).await {
            Ok(Ok(written)) => Ok(written.data.0),
            Ok(Err(error)) => Err(self.to_propose_error(error)),
            Err(_) => Err(ProposeError::Unknown(format!("no commit within {deadline:?}"))),
        }
    }

    /// Like [`RaftGroup::propose`], but on the known leader. Does not wait for a leader and does not follow a
    /// second hint: the caller decides whether to retry.
    pub async fn propose_at_leader(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        let leader = self.0.status.borrow().leader;
        match leader {
            None => Err(ProposeError::Rejected { leader: None }),
            Some(leader) if leader == self.0.me => self.answer_or_propose(entry).await,
            Some(leader) => self.forward_to(leader, entry).await,
        }
    }

    /// Sets what answers the entries of [`RaftGroup::propose_at_leader`], of any node, while this node leads: an
    /// entry with an answer is not proposed, so that repeats do not fill the log. The first call counts.
    ///
    /// `answer` must return only what [`StateMachine::apply`](crate::StateMachine::apply) would, from a state that
    /// has every entry that was answered before.
    pub fn answer_without_entry(
        &self,
        answer: impl Fn(&Bytes) -> Option<Bytes> + Send + Sync + 'static,
    ) {
        let _ = self.0.answer.set(Box::new(answer));
    }

    pub(crate) async fn answer_or_propose(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        match self.0.answer.get().and_then(|answer| answer(&entry)) {
            Some(answer) => Ok(answer),
            None => self.propose(entry).await,
        }
    }

    /// The status of the group, updated at most 50 times a second.
    pub fn status(&self) -> watch::Receiver<GroupStatus> {
        self.0.status.subscribe()
    }

    /// Checks that this node's disk has space for publishes. Elections and membership changes need so little
    /// that they do not depend on it.
    ///
    /// # Errors
    /// [`DiskFull`] while the free space is below the reserve.
    pub fn check_disk_space(&self) -> Result<(), DiskFull> {
        self.0.disk_reserve.publish_error().map_or(Ok(()), Err)
    }

    /// The term in which this node leads now, with an unexpired lease.
    ///
    /// Exact at the moment of the call: no other node can have led in between. Two nodes never get the same
    /// term.
    pub fn leader_term(&self) -> Option<Term> {
        self.lease().map(|lease| lease.term)
    }

    /// Stops this replica; its data stays. The outcome of pending proposals becomes unknown.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    pub(crate) fn raft(&self) -> &Raft<TypeConfig, StateMachineAdapter> {
        &self.0.raft
    }

    /// The recovery, while this replica has not restored everything that it had lost.
    pub(crate) fn recovering(&self) -> Option<&ReplicaRecovery> {
        self.0.recovery.as_ref().filter(|recovery| recovery.is_active())
    }

    /// Until when this replica neither votes nor asks for votes after its start. The hold may become longer
    /// meanwhile, and with it the lease of the leader from before.
    pub(crate) fn restart_hold_until(&self) -> Option<BootTime> {
        let until = self.0.restart_hold_since.map(|since| since + self.0.lease_times.hold());
        until.filter(|until| BootTime::now() < *until)
    }

    /// The unexpired lease of this node as the leader.
    pub(crate) fn lease(&self) -> Option<Lease> {
        let metrics_watch = self.raft().metrics();
        let metrics = metrics_watch.borrow_watched();
        self.lease_from_metrics(&metrics)
    }

    /// Like [`RaftGroup::lease`], for the given metrics.
    pub(crate) fn lease_from_metrics(&self, metrics: &RaftMetrics<TypeConfig>) -> Option<Lease> {
        let RaftGroupInner { me, follower_acks, lease_times, .. } = &*self.0;
        let term = Term(metrics.current_term);
        let is_leading = metrics.state.is_leader()
            && metrics.running_state.is_ok()
            && metrics.vote.committed
            // A removed leader stays leader for a moment and then transfers its leadership by itself.
            && metrics.membership_config.voter_ids().any(|voter| voter == me.0)
            && !self.0.stopping.is_cancelled()
            && !self.0.fence.is_closed()
            && self.0.transferred_term.load(Ordering::SeqCst) != term.0;
        if !is_leading {
            return None;
        }
        let configs = metrics.membership_config.membership().get_joint_config();
        let now = BootTime::now();
        // Followers hold longer: they count from the arrival of the request.
        let expires_at = follower_acks.lease_start(term, *me, now, configs)? + lease_times.lease();
        (expires_at > now).then_some(Lease { term, expires_at })
    }

    async fn forward_to(&self, leader: NodeId, entry: Bytes) -> Result<Bytes, ProposeError> {
        let link = self.0.links.for_peer(leader);
        // The first forwarded entry may be the one that dials the link.
        link.wait_until_up(self.0.settings.link_timeout()).await;
        let pending = link
            .request(self.id(), Kind::Propose, wire::encode(link.version(), &entry))
            .map_err(|_| ProposeError::Rejected { leader: Some(leader) })?;
        let mut status = self.status();
        let unknown = |reason: &str| Err(ProposeError::Unknown(reason.to_owned()));
        // A leader that hangs keeps its link; a new leader is known first.
        tokio::select! {
            response = pending.response_within(self.0.settings.proposal_deadline) => match response {
                Ok(body) => decode_outcome(&body),
                Err(LinkError::Rejected { .. }) => Err(ProposeError::Rejected { leader: None }),
                Err(error) => unknown(&error.to_string()),
            },
            _ = status.wait_for(|status| status.leader != Some(leader)) => {
                unknown("the leader changed during the request")
            }
            () = self.0.stopping.cancelled() => unknown("the replica was stopped"),
        }
    }

    fn to_propose_error(
        &self,
        error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
    ) -> ProposeError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                ProposeError::Rejected { leader: self.other_leader(&to) }
            }
            error => ProposeError::Unknown(error.to_string()),
        }
    }

    /// The leader, if it is another node. A leader without a lease names itself, which does not help.
    pub(crate) fn other_leader(&self, to: &ForwardToLeader<TypeConfig>) -> Option<NodeId> {
        to.leader_id.map(NodeId).filter(|leader| *leader != self.0.me)
    }
}

fn decode_outcome(body: &[u8]) -> Result<Bytes, ProposeError> {
    match wire::decode(body).map(|(_, outcome)| outcome) {
        Ok(ProposalOutcome::Applied(response)) => Ok(response),
        Ok(ProposalOutcome::Rejected(leader)) => {
            Err(ProposeError::Rejected { leader: leader.map(NodeId) })
        }
        Ok(ProposalOutcome::Unknown(reason)) => Err(ProposeError::Unknown(reason)),
        Err(error) => Err(ProposeError::Unknown(error.to_string())),
    }
}

//! One group on this node.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use openraft::{Raft, RaftMetrics};
use pushonce_core::versioned::Unreadable;
use pushonce_core::{NodeId, ShardId, Term};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adapter::{Adapter, Halted};
use crate::clock::BootTime;
use crate::hold::{Hold, LeaseTimes};
use crate::lease::{Followers, Lease};
use crate::log::Log;
use crate::network::{
    FRAME_BYTES_MAX, Fence, Groups, Incoming, Kind, LinkError, Links, Proposed, wire,
};
use crate::recovery::Recovery;
use crate::snapshot::{Shelf, Transfers};
use crate::space::Space;
use crate::types::{Data, Types};
use crate::{DiskFull, Settings, Status};

/// A group of the node: 0 is control, shard s is s + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// Whether this build can read an entry.
pub(crate) type Check = fn(&Bytes) -> Result<(), Unreadable>;

/// The largest entry, in bytes. It travels in one frame: larger ones would break every link.
pub const ENTRY_BYTES_MAX: usize = 16 << 20;

const _: () = assert!(ENTRY_BYTES_MAX * 2 < FRAME_BYTES_MAX);

/// Why a proposal has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing happened: this node does not lead, or may not now. Ask the leader.
    #[error("not proposed: {}", match leader { Some(node) => format!("{node} leads"), None => "no leader is known".to_owned() })]
    Refused {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// It may have happened, or may still. Says why nobody knows.
    #[error("the outcome of the proposal is unknown: {0}")]
    Unknown(String),
}

/// Why a group was not initialised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the group was not initialised: {0}")]
pub struct InitializeError(pub String);

/// A replica of a group on this node. Clones share it.
#[derive(Clone)]
pub struct Group(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) id: GroupId,
    pub(crate) me: NodeId,
    pub(crate) raft: Raft<Types, Adapter>,
    pub(crate) log: Log,
    /// Who follows this node, while it leads.
    pub(crate) followers: Followers,
    /// How long a lease lasts.
    pub(crate) times: LeaseTimes,
    /// The leader that this replica follows.
    pub(crate) hold: Hold,
    /// Whether this node may take part at all.
    pub(crate) fence: Fence,
    pub(crate) shelf: Arc<Shelf>,
    /// Why this replica has halted, if it has.
    pub(crate) halted: Halted,
    /// [`Machine::check`](crate::Machine::check) of the machine.
    pub(crate) check: Check,
    /// What this replica had lost when it was started; `None` for nothing.
    pub(crate) recovery: Option<Recovery>,
    /// The snapshot that is arriving, if one is. There is one at most: only a leader sends any.
    pub(crate) incoming: Arc<tokio::sync::Mutex<Option<Incoming>>>,
    /// The snapshots that this node sends, while it leads.
    pub(crate) transfers: Transfers,
    pub(crate) links: Links,
    pub(crate) space: Space,
    pub(crate) settings: Arc<Settings>,
    pub(crate) groups: Groups,
    pub(crate) status: watch::Sender<Status>,
    /// The status may have changed by what was done here.
    pub(crate) nudge: Notify,
    /// One change of the members or the leader at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// The last term under which this node began to hand over its leadership; 0 for none. Another
    /// may lead from then on, whatever the lease says.
    pub(crate) handed_over: AtomicU64,
    /// The index of the last entry that the leader said it holds.
    pub(crate) leader_log: AtomicU64,
    /// When this replica started, if it may be bound to a leader that it heard before.
    pub(crate) bound_since: Option<BootTime>,
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

    /// The shard whose group this is; `None` for the control group.
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

impl Group {
    /// Which group this is.
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

    /// Proposes an entry here and waits until it is applied here; what the machine answered.
    ///
    /// Waits as long as [`Settings::proposal_deadline`]. An entry above [`ENTRY_BYTES_MAX`] is
    /// refused.
    pub async fn propose(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        self.propose_data(Data { bytes: entry, essential: false }).await
    }

    /// As [`Group::propose`], for an entry that carries nothing that was published and without which
    /// the group cannot be read, or does not get smaller: replicas whose disk has no room for
    /// publishes accept it. It is to be small.
    pub async fn propose_essential(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        self.propose_data(Data { bytes: entry, essential: true }).await
    }

    async fn propose_data(&self, data: Data) -> Result<Bytes, ProposeError> {
        if data.bytes.len() > ENTRY_BYTES_MAX {
            let bytes = data.bytes.len();
            tracing::error!(group = %self.id(), bytes, "an entry is too large");
            return Err(ProposeError::Refused { leader: None });
        }
        // The only voter of a group would continue to commit.
        if self.0.fence.is_closed() {
            return Err(ProposeError::Refused { leader: None });
        }
        // openraft has no deadline of its own: without a quorum it would wait for ever.
        let deadline = self.0.settings.proposal_deadline;
        match timeout(deadline, self.raft().client_write(data)).await {
            Ok(Ok(written)) => Ok(written.data.0),
            Ok(Err(error)) => Err(self.not_proposed(error)),
            Err(_) => Err(ProposeError::Unknown(format!("no commit within {deadline:?}"))),
        }
    }

    /// As [`Group::propose`], but on whichever node leads, as far as this one knows. Does not wait
    /// for a leader, and follows no second hint: the caller decides whether to try again.
    pub async fn propose_at_leader(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        let leader = self.0.status.borrow().leader;
        match leader {
            None => Err(ProposeError::Refused { leader: None }),
            Some(leader) if leader == self.0.me => self.propose(entry).await,
            Some(leader) => self.forward(leader, entry).await,
        }
    }

    /// The group as it looks from here, with every change; at most 50 a second.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    /// Whether there is room on this node's disk for what its users publish. Elections and changes of
    /// members need so little that they have no need to ask.
    ///
    /// # Errors
    /// [`DiskFull`] while there is less than the reserve.
    pub fn room(&self) -> Result<(), DiskFull> {
        self.0.space.refused().map_or(Ok(()), Err)
    }

    /// The term under which this node leads now, with an unexpired lease.
    ///
    /// Exact at the moment of the call: no other node can have led in between. Two nodes never get
    /// the same term.
    pub fn leads(&self) -> Option<Term> {
        self.lease().map(|lease| lease.term)
    }

    /// Stops this replica; its data stays. Proposals that wait become unknown.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    pub(crate) fn raft(&self) -> &Raft<Types, Adapter> {
        &self.0.raft
    }

    /// The recovery, while this replica has not got back all that it had lost.
    pub(crate) fn recovering(&self) -> Option<&Recovery> {
        self.0.recovery.as_ref().filter(|recovery| recovery.is_on())
    }

    /// Until when this replica neither votes nor asks for votes after its start: the hold may become longer
    /// meanwhile, and with it the lease of the leader that it heard before.
    pub(crate) fn silent_until(&self) -> Option<BootTime> {
        let until = self.0.bound_since.map(|since| since + self.0.times.hold());
        until.filter(|until| BootTime::now() < *until)
    }

    /// The unexpired lease of this node as the leader.
    pub(crate) fn lease(&self) -> Option<Lease> {
        let watching = self.raft().metrics();
        let metrics = watching.borrow_watched();
        self.lease_of(&metrics)
    }

    /// As [`Group::lease`], at the moment of these metrics.
    pub(crate) fn lease_of(&self, metrics: &RaftMetrics<Types>) -> Option<Lease> {
        let Inner { me, followers, times, .. } = &*self.0;
        let term = Term(metrics.current_term);
        let leads = metrics.state.is_leader()
            && metrics.running_state.is_ok()
            && metrics.vote.committed
            // A leader that was removed stays for a moment, and then hands over by itself.
            && metrics.membership_config.voter_ids().any(|voter| voter == me.0)
            && !self.0.stopping.is_cancelled()
            && !self.0.fence.is_closed()
            && self.0.handed_over.load(Ordering::SeqCst) != term.0;
        if !leads {
            return None;
        }
        let configs = metrics.membership_config.membership().get_joint_config();
        let now = BootTime::now();
        // Followers count from later: from when the request came.
        let until = followers.since(term, *me, now, configs)? + times.lease();
        (until > now).then_some(Lease { term, until })
    }

    async fn forward(&self, leader: NodeId, entry: Bytes) -> Result<Bytes, ProposeError> {
        let link = self.0.links.to(leader);
        // The first to be forwarded may be what brings the link up.
        link.wait_up(self.0.settings.link_timeout()).await;
        let pending = link
            .request(self.id(), Kind::Propose, wire::encode(link.version(), &entry), Bytes::new())
            .map_err(|_| ProposeError::Refused { leader: Some(leader) })?;
        let mut status = self.status();
        let unknown = |why: &str| Err(ProposeError::Unknown(why.to_owned()));
        // A leader that hangs keeps its link; that another leads is the first to be known.
        tokio::select! {
            answer = pending.within(self.0.settings.proposal_deadline) => match answer {
                Ok(body) => proposed(&body),
                Err(LinkError::Refused { .. }) => Err(ProposeError::Refused { leader: None }),
                Err(error) => unknown(&error.to_string()),
            },
            _ = status.wait_for(|status| status.leader != Some(leader)) => {
                unknown("the leader changed while it was asked")
            }
            () = self.0.stopping.cancelled() => unknown("the replica was stopped"),
        }
    }

    fn not_proposed(&self, error: RaftError<Types, ClientWriteError<Types>>) -> ProposeError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                ProposeError::Refused { leader: self.other_leader(&to) }
            }
            error => ProposeError::Unknown(error.to_string()),
        }
    }

    /// Who else leads. A leader without a lease names itself, which helps nobody.
    pub(crate) fn other_leader(&self, to: &ForwardToLeader<Types>) -> Option<NodeId> {
        to.leader_id.map(NodeId).filter(|leader| *leader != self.0.me)
    }
}

fn proposed(body: &[u8]) -> Result<Bytes, ProposeError> {
    match wire::decode(body).map(|(_, proposed)| proposed) {
        Ok(Proposed::Applied(answer)) => Ok(answer),
        Ok(Proposed::Refused(leader)) => Err(ProposeError::Refused { leader: leader.map(NodeId) }),
        Ok(Proposed::Unknown(why)) => Err(ProposeError::Unknown(why)),
        Err(error) => Err(ProposeError::Unknown(error.to_string())),
    }
}

//! The handle of the control group: sends commands and observes the cluster.

use std::sync::Arc;
use std::time::Duration;

use pushonce_consensus::{
    ConsensusEngine, GroupId, GroupStatus, InitializeError, ProposeError, RaftGroup, StartError,
};
use pushonce_core::{
    AgreedVersion, ClusterVersion, ClusterView, ConsensusTimes, JoinTokenHash, JoinTokenId,
    Namespace, NamespaceChange, NodeId, RevokedTokens, Timestamp,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::repeated_join::answer_repeated_joins;
use crate::replica::{ControlReplica, SharedClusterView};
use crate::state::FIRST_NODE;
use crate::{
    BootstrapCommand, CommandRejection, CommandReply, ControlCommand, ControlRunner, JoinCommand,
    JoinReply, MoveToMemory,
};

/// This node's handle of the control group. Clones share it.
#[derive(Clone)]
pub struct ControlHandle {
    pub(crate) me: NodeId,
    pub(crate) group: RaftGroup,
    /// The version in which entries are written.
    pub(crate) agreed_version: AgreedVersion,
    pub(crate) view: watch::Receiver<SharedClusterView>,
}

/// Why a command had no effect, or an unknown one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The cluster rejected the command. Retrying it does not help, unless the cluster does not exist yet.
    #[error(transparent)]
    Rejected(#[from] CommandRejection),
    /// The command had no effect: no leader of the control group accepted it.
    #[error("the control group is unavailable ({}): retry after a pause", match .leader {
        Some(node) => format!("{node} leads"),
        None => "no leader is known".to_owned(),
    })]
    NoLeader {
        /// The leader, if one is known.
        leader: Option<NodeId>,
    },
    /// The command had no effect: this node is stopping.
    #[error("this node is stopping")]
    Stopping,
    /// The command may have been applied. Repeating it is safe.
    #[error("the outcome is unknown ({0}): repeat the command")]
    Unknown(String),
}

/// Why a cluster was not created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// The node is not `n1`, the first node of every cluster.
    #[error("{0} cannot create a cluster: the first node is {FIRST_NODE}")]
    NotFirstNode(NodeId),
    /// The group could not be initialised.
    #[error(transparent)]
    Initialize(#[from] InitializeError),
    /// The group was initialised, but did not apply the bootstrap command.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// How long a command without an outcome is retried: longer than an election takes (2 s), so that a join
/// during a failover succeeds; short enough that an operator can wait for it.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two attempts; an election takes about ten of them.
const RETRY_DELAY: Duration = Duration::from_millis(150);

impl ControlHandle {
    /// Starts the control group's replica on this node, from its data or empty. An empty replica waits
    /// until it is bootstrapped here, or reached by the leader of the cluster that the node joined.
    ///
    /// The cluster does not change before the [`ControlRunner`] runs.
    ///
    /// # Errors
    /// [`StartError`] when the replica already runs, or its data cannot be read.
    pub async fn open(
        engine: &ConsensusEngine,
        me: NodeId,
    ) -> Result<(ControlHandle, ControlRunner), StartError> {
        let (replica, view) = ControlReplica::new();
        let state = replica.applied_state();
        let group = engine.start(GroupId::CONTROL, replica).await?;
        answer_repeated_joins(&group, state);
        let agreed_version = engine.agreed_version();
        let control = ControlHandle { me, group, agreed_version, view };
        Ok((control.clone(), ControlRunner::new(control)))
    }

    /// Creates the cluster: this node is `n1`, the only voter, active, and holds every shard. Idempotent.
    /// The first view exists when it returns.
    ///
    /// The first node then starts and initialises the group of every shard, records on its disk that the
    /// bootstrap is complete, and only then runs its [`ControlRunner`]. Only the runner commits a second
    /// placement, so no shard can have moved before, and none is initialised twice.
    ///
    /// # Errors
    /// [`BootstrapError`] when this node is not `n1`, the group belongs to another cluster, or the command
    /// failed.
    pub async fn bootstrap(&self, command: BootstrapCommand) -> Result<(), BootstrapError> {
        if self.me != FIRST_NODE {
            return Err(BootstrapError::NotFirstNode(self.me));
        }
        self.group.initialize().await?;
        self.submit(ControlCommand::Bootstrap(command)).await?;
        self.wait_for_first_view().await?;
        Ok(())
    }

    /// The newest view applied here; `None` before the first one. Changes only with its version.
    ///
    /// A view without this node means that it was removed.
    pub fn view(&self) -> watch::Receiver<Option<Arc<ClusterView>>> {
        self.view.clone()
    }

    /// The Raft group, for leadership transfers.
    pub fn group(&self) -> &RaftGroup {
        &self.group
    }

    /// The status of the group as this node sees it.
    pub fn status(&self) -> watch::Receiver<GroupStatus> {
        self.group.status()
    }

    /// Admits a node. Can be called on any node, which forwards the command to the leader. The same
    /// incarnation gets the same id, and its profile is replaced.
    ///
    /// Retries for five seconds while no leader answers, plus at most the engine's proposal deadline.
    ///
    /// # Errors
    /// [`CommandError`] when the node is rejected, or the outcome is unknown.
    pub async fn join(&self, joining: JoinCommand) -> Result<JoinReply, CommandError> {
        joining.profile.validate().map_err(CommandRejection::Profile)?;
        match self.submit(ControlCommand::Join(joining)).await? {
            CommandReply::Joined(joined) => Ok(joined),
            _ => Err(CommandError::Unknown("the leader answered something else".to_owned())),
        }
    }

    /// Announces the process and the profile of this node to the cluster. Waits for the first view, as long
    /// as that takes. Returns the index of the control group's log at which the announcement was committed:
    /// see [`ControlHandle::wait_applied`].
    ///
    /// The leader may be unable to reach a node whose *peer* address changed, which then has no current
    /// view. Such a node must join again through another node.
    ///
    /// # Errors
    /// As [`ControlHandle::join`].
    pub async fn announce(&self, joining: JoinCommand) -> Result<u64, CommandError> {
        let view = self.wait_for_first_view().await?;
        let (cluster, node) = (Some(view.cluster), Some(self.me));
        let joined = self.join(JoinCommand { cluster, node, ..joining }).await?;
        Ok(joined.index)
    }

    /// Waits until this node has applied the control group's log up to `index`, and returns the view, which
    /// includes everything that was committed before that entry. `None` when the replica of this node fails
    /// or halts first.
    pub async fn wait_applied(&self, index: u64) -> Option<Arc<ClusterView>> {
        let mut status = self.status();
        let is_done = |now: &GroupStatus| {
            now.applied_index >= index || now.failure.is_some() || now.halt_reason.is_some()
        };
        let is_reached = status.wait_for(is_done).await.ok()?.applied_index >= index;
        self.view.borrow().clone().filter(|_| is_reached)
    }

    /// Drains a member: its shards, leaderships and vote in this group move to others. It stays a member
    /// and serves its clients. Idempotent.
    ///
    /// # Errors
    /// Rejected without `force` when fewer other members may hold shards than each shard should have copies.
    pub async fn drain(&self, node: NodeId, force: bool) -> Result<(), CommandError> {
        self.submit(ControlCommand::Drain { node, force }).await.map(drop)
    }

    /// Returns a draining member to active. Idempotent.
    ///
    /// # Errors
    /// [`CommandError`] when the node is not a member, or the outcome is unknown.
    pub async fn undrain(&self, node: NodeId) -> Result<(), CommandError> {
        self.submit(ControlCommand::Undrain(node)).await.map(drop)
    }

    /// Removes a node permanently: its id and directory are never accepted again, and its shards move to
    /// the others. Idempotent.
    ///
    /// # Errors
    /// Rejected for the last node that can hold shards, and for a node that is not a member.
    pub async fn remove(&self, node: NodeId) -> Result<(), CommandError> {
        self.submit(ControlCommand::Remove(node)).await.map(drop)
    }

    /// Raises the cluster version by one if the builds of all members support the next one. If no member
    /// supports a newer version, the version stays. Returns the resulting version. The version cannot be
    /// lowered: a node whose build does not support it is rejected from then on.
    ///
    /// Can be called on any node, as [`ControlHandle::join`].
    ///
    /// # Errors
    /// Rejected when some members do not support the next version.
    pub async fn finalize(&self) -> Result<ClusterVersion, CommandError> {
        let to = self.wait_for_first_view().await?.next_version();
        match self.submit(ControlCommand::Finalize { to }).await? {
            CommandReply::Version(version) => Ok(version),
            _ => Err(CommandError::Unknown("the leader answered something else".to_owned())),
        }
    }

    /// Changes the settings of a namespace, or the default settings (`None`). Without a `change`, the
    /// namespace returns to the default. Returns the resulting settings, which every shard applies as soon
    /// as its owner has the view. A replicated namespace moves to memory only if `move_to_memory` permits it.
    ///
    /// Can be called on any node, as [`ControlHandle::join`].
    ///
    /// # Errors
    /// Rejected for invalid settings, too many namespaces, or stored messages that would be lost.
    pub async fn set_namespace(
        &self,
        name: Option<String>,
        change: Option<NamespaceChange>,
        move_to_memory: MoveToMemory,
    ) -> Result<Namespace, CommandError> {
        match self.submit(ControlCommand::SetNamespace { name, change, move_to_memory }).await? {
            CommandReply::Namespace(settings) => Ok(settings),
            _ => Err(CommandError::Unknown("the leader answered something else".to_owned())),
        }
    }

    /// Revokes tokens, at the time `at`, and keeps the revocation until `kept_until`. Every node refuses the
    /// tokens as soon as it has the view. Idempotent.
    ///
    /// Can be called on any node, as [`ControlHandle::join`].
    ///
    /// # Errors
    /// Rejected for a name of invalid length, and when the maximum number of revocations is kept.
    pub async fn revoke(
        &self,
        tokens: RevokedTokens,
        at: Timestamp,
        kept_until: Timestamp,
    ) -> Result<(), CommandError> {
        self.submit(ControlCommand::Revoke { tokens, at, kept_until }).await.map(drop)
    }

    /// Adds a join token, valid from `now` until `expires`. Idempotent.
    ///
    /// # Errors
    /// Rejected when the validity is too long, or when there are too many tokens.
    pub async fn add_join_token(
        &self,
        hash: JoinTokenHash,
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<(), CommandError> {
        self.submit(ControlCommand::AddJoinToken { hash, now, expires }).await.map(drop)
    }

    /// Drops a join token. Idempotent.
    ///
    /// # Errors
    /// [`CommandError`] when the outcome is unknown.
    pub async fn revoke_join_token(&self, id: JoinTokenId) -> Result<(), CommandError> {
        self.submit(ControlCommand::RevokeJoinToken(id)).await.map(drop)
    }

    /// Changes the consensus times of all nodes. Returns when the first step is committed; the change
    /// completes after every member has acknowledged it. Idempotent; setting the current times cancels a
    /// change in progress.
    ///
    /// # Errors
    /// Rejected while another change is in progress.
    pub async fn set_times(&self, times: ConsensusTimes) -> Result<(), CommandError> {
        self.submit(ControlCommand::SetTimes(times)).await.map(drop)
    }

    /// Acknowledges that this node has the times of a version on disk and in force.
    ///
    /// # Errors
    /// [`CommandError`] when this node is not a member, or the outcome is unknown.
    pub async fn ack_times(&self, version: u64) -> Result<(), CommandError> {
        self.submit(ControlCommand::AckTimes { node: self.me, version }).await.map(drop)
    }

    /// Proposes on this node only: a leader's decision is void after it has lost leadership.
    pub(crate) async fn propose_locally(
        &self,
        command: ControlCommand,
    ) -> Result<(), CommandError> {
        match self.group.propose(command.encode(self.agreed_version.get())).await {
            Ok(answer) => decode_reply(&answer).map(drop),
            Err(error) => Err(error.into()),
        }
    }

    async fn wait_for_first_view(&self) -> Result<Arc<ClusterView>, CommandError> {
        let mut view = self.view.clone();
        let seen = view.wait_for(Option::is_some).await.map(|seen| seen.clone());
        seen.ok().flatten().ok_or(CommandError::Stopping)
    }

    /// Sends a command to the leader and repeats it while it has no outcome, which is safe because commands
    /// are idempotent. If any attempt had an unknown outcome, the final error is [`CommandError::Unknown`].
    async fn submit(&self, command: ControlCommand) -> Result<CommandReply, CommandError> {
        let entry = command.encode(self.agreed_version.get());
        let deadline = Instant::now() + SUBMIT_TIMEOUT;
        let mut unknown = None;
        loop {
            let error = match self.group.propose_at_leader(entry.clone()).await {
                Ok(answer) => return decode_reply(&answer),
                Err(error) => CommandError::from(error),
            };
            if matches!(error, CommandError::Unknown(_)) {
                unknown = Some(error.clone());
            }
            if Instant::now() >= deadline {
                return Err(unknown.unwrap_or(error));
            }
            sleep(RETRY_DELAY).await;
        }
    }
}

impl CommandError {
    /// Whether the same command may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            CommandError::Rejected(rejection) => *rejection == CommandRejection::NotBootstrapped,
            CommandError::NoLeader { .. } | CommandError::Stopping | CommandError::Unknown(_) => {
                true
            }
        }
    }
}

impl From<ProposeError> for CommandError {
    fn from(error: ProposeError) -> CommandError {
        match error {
            ProposeError::Rejected { leader } => CommandError::NoLeader { leader },
            ProposeError::Unknown(reason) => CommandError::Unknown(reason),
        }
    }
}

fn decode_reply(reply: &[u8]) -> Result<CommandReply, CommandError> {
    match CommandReply::decode(reply) {
        Ok(CommandReply::Rejected(rejection)) => Err(CommandError::Rejected(rejection)),
        Ok(answer) => Ok(answer),
        // The command was applied, but its result is unknown.
        Err(error) => {
            Err(CommandError::Unknown(format!("cannot decode the leader's reply: {error}")))
        }
    }
}

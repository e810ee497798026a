//! The handle: ask the cluster to change, and see it change.

use std::sync::Arc;
use std::time::Duration;

use pushonce_consensus::{
    ConsensusEngine, GroupId, GroupStatus, InitializeError, ProposeError, RaftGroup, StartError,
};
use pushonce_core::{
    AgreedVersion, ClusterVersion, ClusterView, ConsensusTimes, Namespace, NamespaceChange, NodeId,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::replica::{ControlReplica, SharedClusterView};
use crate::state::FIRST_NODE;
use crate::{
    BootstrapCommand, CommandRejection, CommandReply, ControlCommand, ControlRunner, JoinCommand,
    JoinReply,
};

/// This node's part of the control group. Clones share it.
#[derive(Clone)]
pub struct ControlHandle {
    pub(crate) me: NodeId,
    pub(crate) group: RaftGroup,
    /// In which version entries are written.
    pub(crate) agreed_version: AgreedVersion,
    pub(crate) view: watch::Receiver<SharedClusterView>,
}

/// Why the cluster did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The cluster said no, and will again.
    #[error(transparent)]
    Rejected(#[from] CommandRejection),
    /// Nothing happened: the control group has no leader that this node can reach.
    #[error("the control group cannot be asked ({0}): retry after a pause")]
    Unavailable(String),
    /// It may have happened. Asking again is safe.
    #[error("the outcome is unknown ({0}): ask again")]
    Unknown(String),
}

/// Why a cluster was not founded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// Every cluster begins with n1.
    #[error("{0} cannot found a cluster: the founder is {FIRST_NODE}")]
    NotFirstNode(NodeId),
    /// The group could not begin.
    #[error(transparent)]
    Initialize(#[from] InitializeError),
    /// The group began, and did not take the founding.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// How long a command without an answer is tried again: longer than an election takes (2 s), so
/// that a join in the moment of a failover succeeds; short enough for somebody who waits for it.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries. An election takes ten of them.
const RETRY_DELAY: Duration = Duration::from_millis(150);

impl ControlHandle {
    /// Starts the control group's replica on this node, as it was left, or empty on a new one: then
    /// it waits to be founded here, or to be reached by the leader of the cluster it joined.
    ///
    /// Nothing moves before the [`ControlRunner`] runs.
    pub async fn open(
        engine: &ConsensusEngine,
        me: NodeId,
    ) -> Result<(ControlHandle, ControlRunner), StartError> {
        let (replica, view) = ControlReplica::new();
        let group = engine.start(GroupId::CONTROL, replica).await?;
        let agreed_version = engine.agreed_version();
        let control = ControlHandle { me, group, agreed_version, view };
        Ok((control.clone(), ControlRunner::new(control)))
    }

    /// Makes the cluster: this node is `n1`, the only voter, active, and holds every shard. Saying it
    /// again changes nothing. When it returns, the first view is there.
    ///
    /// The founder then starts and initialises every shard's group, notes on its disk that it has
    /// founded, and only after that runs its [`ControlRunner`]: nobody else commits a second table, so until
    /// then no shard can have moved, and none is ever initialised twice.
    pub async fn bootstrap(&self, command: BootstrapCommand) -> Result<(), BootstrapError> {
        if self.me != FIRST_NODE {
            return Err(BootstrapError::NotFirstNode(self.me));
        }
        self.group.initialize().await?;
        self.submit(ControlCommand::Bootstrap(command)).await?;
        self.wait_for_first_view().await?;
        Ok(())
    }

    /// The newest view applied here; `NoFault` until the first one is. Changes only with its version.
    ///
    /// A view without this node means that it was removed.
    pub fn view(&self) -> watch::Receiver<Option<Arc<ClusterView>>> {
        self.view.clone()
    }

    /// The Raft group underneath, for whoever hands its lead over.
    pub fn group(&self) -> &RaftGroup {
        &self.group
    }

    /// The group as this node sees it.
    pub fn status(&self) -> watch::Receiver<GroupStatus> {
        self.group.status()
    }

    /// Lets a node in. Any node takes this and brings it to the leader. The same incarnation gets
    /// the same id, and what it says of itself now replaces what it said before.
    ///
    /// Tries for five seconds while no leader answers, and longer only by the engine's own deadline of
    /// a proposal.
    pub async fn join(&self, joining: JoinCommand) -> Result<JoinReply, CommandError> {
        joining.profile.validate().map_err(CommandRejection::Profile)?;
        match self.submit(ControlCommand::Join(joining)).await? {
            CommandReply::Joined(joined) => Ok(joined),
            _ => Err(CommandError::Unknown("the leader answered something else".to_owned())),
        }
    }

    /// Tells the cluster that this process runs, and what it says of itself now. Waits for the first
    /// view, for as long as that takes. Returns the index of the control group's log at which the
    /// cluster took it: see [`ControlHandle::wait_applied`].
    ///
    /// A node whose *peer* address changed may not be reachable for the leader, and so may not know
    /// it: such a node joins again, through another node.
    pub async fn announce(&self, joining: JoinCommand) -> Result<u64, CommandError> {
        let view = self.wait_for_first_view().await?;
        let (cluster, node) = (Some(view.cluster), Some(self.me));
        let joined = self.join(JoinCommand { cluster, node, ..joining }).await?;
        Ok(joined.index)
    }

    /// Waits until this node has applied the control group's log up to `index`. The view has then
    /// everything that was committed before that entry. `NoFault` when the replica of this node fails or halts first.
    pub async fn wait_applied(&self, index: u64) -> Option<Arc<ClusterView>> {
        let mut status = self.status();
        let is_done = |now: &GroupStatus| {
            now.applied_index >= index || now.failure.is_some() || now.halt_reason.is_some()
        };
        let is_reached = status.wait_for(is_done).await.ok()?.applied_index >= index;
        self.view.borrow().clone().filter(|_| is_reached)
    }

    /// Lets a member give its share away: shards, leaderships, and its vote in this group. It stays a
    /// member, and serves its clients. Refused without `force` when fewer of the others may hold shards than
    /// each shard should have copies. Saying it again changes nothing.
    pub async fn drain(&self, node: NodeId, force: bool) -> Result<(), CommandError> {
        self.submit(ControlCommand::Drain { node, force }).await.map(drop)
    }

    /// Lets a member that gives its share away take it back. Saying it again changes nothing.
    pub async fn undrain(&self, node: NodeId) -> Result<(), CommandError> {
        self.submit(ControlCommand::Undrain(node)).await.map(drop)
    }

    /// Declares a node lost for good: its id and directory never come back, its shards move to the
    /// others. Saying it again changes nothing.
    pub async fn remove(&self, node: NodeId) -> Result<(), CommandError> {
        self.submit(ControlCommand::Remove(node)).await.map(drop)
    }

    /// Raises the version of the cluster by one, if the build of every member supports the next one; a
    /// cluster whose members all know no newer one keeps its version. Says which version the cluster has
    /// then. There is no way back: a node whose build does not support the version is refused from then
    /// on.
    ///
    /// Any node takes this and brings it to the leader, as [`ControlHandle::join`].
    pub async fn finalize(&self) -> Result<ClusterVersion, CommandError> {
        let to = self.wait_for_first_view().await?.next_version();
        match self.submit(ControlCommand::Finalize { to }).await? {
            CommandReply::Version(version) => Ok(version),
            _ => Err(CommandError::Unknown("the leader answered something else".to_owned())),
        }
    }

    /// Changes the settings of a namespace, or of every name that has none (`NoFault`); without a change,
    /// back to the default. Says what it has now; every shard acts on it as soon as its owner sees the
    /// view. A replicated namespace goes into memory only with `allow_data_loss`.
    ///
    /// Any node takes this and brings it to the leader, as [`ControlHandle::join`].
    pub async fn set_namespace(
        &self,
        name: Option<String>,
        change: Option<NamespaceChange>,
        drops_stored: bool,
    ) -> Result<Namespace, CommandError> {
        match self
            .submit(ControlCommand::SetNamespace { name, change, allow_data_loss: drops_stored })
            .await?
        {
            CommandReply::Namespace(settings) => Ok(settings),
            _ => Err(CommandError::Unknown("the leader answered something else".to_owned())),
        }
    }

    /// Changes the times of consensus of all nodes. Returns when that is decided: the change ends when
    /// every member has acknowledged its first step. Saying it again changes nothing; the times in
    /// force take a change that is under way back.
    pub async fn set_times(&self, times: ConsensusTimes) -> Result<(), CommandError> {
        self.submit(ControlCommand::SetTimes(times)).await.map(drop)
    }

    /// Tells the cluster that this node has the times of a version on disk and in force.
    pub async fn ack_times(&self, version: u64) -> Result<(), CommandError> {
        self.submit(ControlCommand::AckTimes { node: self.me, version }).await.map(drop)
    }

    /// Proposes here or not at all: what a leader decided is void when it leads no more.
    pub(crate) async fn propose_locally(
        &self,
        command: ControlCommand,
    ) -> Result<(), CommandError> {
        match self.group.propose(command.encode(self.agreed_version.get())).await {
            Ok(answer) => decode_reply(&answer).map(drop),
            Err(ProposeError::Unknown(reason)) => Err(CommandError::Unknown(reason)),
            Err(error) => Err(CommandError::Unavailable(error.to_string())),
        }
    }

    async fn wait_for_first_view(&self) -> Result<Arc<ClusterView>, CommandError> {
        let mut view = self.view.clone();
        let seen = view.wait_for(Option::is_some).await.map(|seen| seen.clone());
        seen.ok().flatten().ok_or_else(|| CommandError::Unavailable("this node stops".to_owned()))
    }

    /// Commands may be said twice, so one that has no answer is simply said again. If it may have
    /// happened once, then that is what is said in the end.
    async fn submit(&self, command: ControlCommand) -> Result<CommandReply, CommandError> {
        let entry = command.encode(self.agreed_version.get());
        let deadline = Instant::now() + SUBMIT_TIMEOUT;
        let mut unknown = None;
        loop {
            let reason = match self.group.propose_at_leader(entry.clone()).await {
                Ok(answer) => return decode_reply(&answer),
                Err(ProposeError::Unknown(reason)) => unknown.insert(reason).clone(),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(
                    unknown.map_or(CommandError::Unavailable(reason), CommandError::Unknown)
                );
            }
            sleep(RETRY_DELAY).await;
        }
    }
}

impl CommandError {
    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            CommandError::Rejected(refusal) => *refusal == CommandRejection::NotBootstrapped,
            CommandError::Unavailable(_) | CommandError::Unknown(_) => true,
        }
    }
}

fn decode_reply(reply: &[u8]) -> Result<CommandReply, CommandError> {
    match CommandReply::decode(reply) {
        Ok(CommandReply::Rejected(refusal)) => Err(CommandError::Rejected(refusal)),
        Ok(answer) => Ok(answer),
        // It was applied, whatever it came to.
        Err(error) => {
            Err(CommandError::Unknown(format!("the leader's answer cannot be read: {error}")))
        }
    }
}

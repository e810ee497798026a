//! What may be asked of the control group, and what it answers. Entries of the log are these, in
//! postcard behind the cluster version.

use bytes::Bytes;
use pushonce_consensus::LogMark;
use pushonce_core::versioned::{self, VersionedDecodeError};
use pushonce_core::{
    ClusterId, ClusterTimes, ClusterVersion, ConsensusTimes, InvalidNamespace, Namespace,
    NamespaceChange, Namespaces, NodeId, ShardCount, Spread, UnsupportedVersion, VersionRange,
};
use serde::{Deserialize, Serialize};

use crate::{Incarnation, InvalidProfile, ProcessRun, Profile};

/// A change of the cluster. Each may be said twice: the second time changes nothing, so that a
/// proposal of unknown outcome can be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlCommand {
    /// Makes the cluster.
    Bootstrap(BootstrapCommand),
    /// Lets a node in, or takes what a member now says of itself.
    Join(JoinCommand),
    /// A joining member is level and takes its share from now on.
    Activate(NodeId),
    /// Replaces the table of shards, if nobody else did in between.
    SetPlacement {
        /// The version this table will have: one above the present.
        version: u64,
        /// By shard, the preferred owner first.
        replicas: Vec<Vec<NodeId>>,
    },
    /// A member is gone for good.
    Remove(NodeId),
    /// Changes the settings of a namespace.
    SetNamespace {
        /// Which; `NoFault` for those of every name that has none of its own.
        name: Option<String>,
        /// What of them, beginning with the default's for a name that has none; `NoFault` for back to the
        /// default.
        change: Option<NamespaceChange>,
        /// Whether a replicated namespace may go into the owners' memory: stored messages of its
        /// topics are dropped then.
        allow_data_loss: bool,
    },
    /// A member gives its share away.
    Drain {
        /// The member.
        node: NodeId,
        /// Also when fewer of the others may hold shards than each shard should have copies.
        force: bool,
    },
    /// A member that gives its share away takes it back.
    Undrain(NodeId),
    /// Changes the times of consensus of all nodes, in two steps.
    SetTimes(ConsensusTimes),
    /// A member has the times of a version on disk and in force.
    AckTimes {
        /// The member.
        node: NodeId,
        /// See [`ClusterTimes::version`].
        version: u64,
    },
    /// Raises the version of the cluster to `to`, one above the present, if every member supports it.
    Finalize {
        /// The version the cluster will have.
        to: ClusterVersion,
    },
}

/// A new cluster of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootstrapCommand {
    /// Drawn at random.
    pub cluster: ClusterId,
    /// Of the founder's data directory.
    pub incarnation: Incarnation,
    /// Of the founder's process.
    pub run: ProcessRun,
    /// The founder.
    pub profile: Profile,
    /// For ever.
    pub shards: ShardCount,
    /// How many replicas a shard should have: 1 or more.
    pub replicas: u8,
    /// What the replicas should survive.
    pub spread: Spread,
    /// The settings of the namespaces.
    pub namespaces: Namespaces,
    /// The version that the cluster begins with.
    pub cluster_version: ClusterVersion,
    /// The times of consensus.
    pub times: ConsensusTimes,
    /// Of the founder's log.
    pub log: Option<LogMark>,
}

/// A node that wants in, for the first time or again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinCommand {
    /// Of its data directory.
    pub incarnation: Incarnation,
    /// Of its process.
    pub run: ProcessRun,
    /// The cluster its data directory belongs to, if it does already.
    pub cluster: Option<ClusterId>,
    /// The id its data directory has, if it does already.
    pub node: Option<NodeId>,
    /// What it says of itself.
    pub profile: Profile,
    /// The times of consensus that it was started with; `NoFault` for those of the cluster.
    pub times: Option<ConsensusTimes>,
    /// Of the log in its data directory; `NoFault` when there is none yet.
    pub log: Option<LogMark>,
}

/// A node is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReply {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Under which id, for as long as the data directory lives.
    pub node: NodeId,
    /// The index of the control group's log at which that was committed. A view that was applied up to
    /// it has everything that was committed before the node asked.
    pub index: u64,
    /// The times of consensus that it has to use from its start.
    pub times: ClusterTimes,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandReply {
    /// It holds now, or held already.
    Done,
    /// To [`ControlCommand::Join`].
    Joined(JoinReply),
    /// Nothing changed.
    Rejected(CommandRejection),
    /// To [`ControlCommand::SetNamespace`]: what the namespace has now.
    Namespace(Namespace),
    /// To [`ControlCommand::Finalize`]: the version that the cluster has now.
    Version(ClusterVersion),
}

/// Why nothing changed. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CommandRejection {
    /// There is no cluster to ask yet.
    #[error("the cluster is not founded yet: retry when its first node is up")]
    NotBootstrapped,
    /// There is a cluster already.
    #[error(
        "this group belongs to cluster {0} already: use an empty data directory to found another"
    )]
    AlreadyBootstrapped(ClusterId),
    /// Settings no cluster can have.
    #[error("a shard needs at least one replica: --replicas 1 or more")]
    NoReplicas,
    /// The directory is another cluster's.
    #[error(
        "the data directory belongs to cluster {directory_cluster}, this is cluster {cluster}: \
         join that one, or use an empty data directory"
    )]
    OtherCluster {
        /// That of the directory.
        directory_cluster: ClusterId,
        /// That which was asked.
        cluster: ClusterId,
    },
    /// The node was removed.
    #[error("{0} was removed from the cluster: use an empty data directory, it will get a new id")]
    Removed(NodeId),
    /// The id and the directory do not belong together: a copied, restored or wiped directory.
    #[error(
        "the data directory says that it is {0}, but that is another directory: \
         use the one {0} was made with, or an empty one"
    )]
    NodeIdMismatch(NodeId),
    /// The directory is an old copy, or another process runs on a newer one.
    #[error(
        "the data directory is not what {node} has now: it counts {run} starts, and the cluster has \
         heard of start {known} by another process. Start {node} from the directory it ran on last; \
         if that is lost, remove {node} and let a new node join with an empty directory"
    )]
    StaleDirectory {
        /// Who the directory is.
        node: NodeId,
        /// How often it was started, as it says.
        run: u64,
        /// How often it was, as the cluster knows.
        known: u64,
    },
    /// The node was in use, and its log is gone: it would vote again, and lose what it acknowledged.
    #[error(
        "the log of {node} is not the one it had: its votes and what it acknowledged are lost. \
         Put the log back (`raft.redb`); if it is lost, run `pushonce cluster remove {node}` and start \
         a new node with an empty data directory"
    )]
    LogLost {
        /// The node.
        node: NodeId,
    },
    /// The log is an old copy.
    #[error(
        "the log of {node} is an old copy: it was written {writes} times, and the cluster knows of \
         {known}. Start {node} with the log it had last; if that is lost, run \
         `pushonce cluster remove {node}` and start a new node with an empty data directory"
    )]
    LogRolledBack {
        /// The node.
        node: NodeId,
        /// How often it was written, as the log says.
        writes: u64,
        /// How often it was, as the cluster knows.
        known: u64,
    },
    /// The node was started with other times of consensus than the others.
    #[error(
        "the node was started with the consensus times {node_times}, the cluster has {cluster}: start it \
         without these flags, or change the cluster's with `pushonce cluster set-times`"
    )]
    TimesMismatch {
        /// Those of the node.
        node_times: ConsensusTimes,
        /// Those of the cluster.
        cluster: ConsensusTimes,
    },
    /// One change of the times at a time.
    #[error(
        "the consensus times are being changed to {to}, and wait for {}: bring these nodes back or \
         remove them; to take the change back, set the times that are in force",
        listed(missing)
    )]
    TimesChanging {
        /// To which times.
        to: ConsensusTimes,
        /// The members that have not acknowledged the change.
        missing: Vec<NodeId>,
    },
    /// The name is in use.
    #[error(
        "{holder} has the name {name:?}: choose another --name, start {holder} again with the data \
         directory it had, or, if that is lost, remove {holder} first"
    )]
    NameTaken {
        /// Which name.
        name: String,
        /// Who has it.
        holder: NodeId,
    },
    /// There are as many as there may be.
    #[error("the cluster has {max} members: remove those that are lost for good")]
    TooManyMembers {
        /// The most members.
        max: u32,
    },
    /// The node describes itself in a way the cluster cannot take.
    #[error(transparent)]
    Profile(InvalidProfile),
    /// Nobody of that id is in.
    #[error("{0} is not a member: `pushonce cluster status` lists them")]
    NotAMember(NodeId),
    /// It would leave the shards to nobody.
    #[error("{0} is the last node that holds shards: let another one join and become active first")]
    LastShardHolder(NodeId),
    /// Two members were drained at once, each with enough others left.
    #[error(
        "without {node} only {left} nodes may hold shards, and each shard should have {wanted} copies: \
         let another node join first, or drain it with --force"
    )]
    TooFewCopies {
        /// The member.
        node: NodeId,
        /// How many members could hold copies then.
        left: u32,
        /// How many copies a shard should have.
        wanted: u32,
    },
    /// Another table was committed in between, or the members changed under it.
    #[error("the table does not follow the present one: propose again from the newest view")]
    StalePlacement,
    /// Settings no namespace can have.
    #[error(transparent)]
    Namespace(InvalidNamespace),
    /// The messages that its topics store could not be reached any more.
    #[error(
        "the namespace {0} is replicated, and in the owners' memory its stored messages would be \
         dropped: say so with --force, or choose a new name"
    )]
    WouldLoseStoredMessages(String),
    /// There are as many as there may be.
    #[error("{max} namespaces have settings of their own: unset one that does not need them")]
    TooManyNamespaces {
        /// The most.
        max: u32,
    },
    /// The node's build does not support the version of the cluster.
    #[error("{0}")]
    Unsupported(UnsupportedVersion),
    /// The node announced no version.
    #[error(
        "the node names no cluster version, the cluster has version {cluster}: \
         run a build on it that supports {cluster}"
    )]
    NoVersionAnnounced {
        /// The version of the cluster.
        cluster: ClusterVersion,
    },
    /// Some members cannot follow yet.
    #[error(
        "cluster version {to} is not supported by the builds of {}: \
         run a build that supports it on them, or remove those that are lost for good",
        listed(members)
    )]
    NotSupportedByAll {
        /// The version that was asked for.
        to: ClusterVersion,
        /// The members whose builds do not support it.
        members: Vec<NodeId>,
    },
    /// The version of a cluster is raised by one at a time, and never goes down.
    #[error(
        "the cluster has version {cluster} and cannot be raised to {to}: \
         the version is raised by one at a time and never goes down"
    )]
    NotNextVersion {
        /// The version that was asked for.
        to: ClusterVersion,
        /// The version of the cluster.
        cluster: ClusterVersion,
    },
}

impl CommandRejection {
    /// Whether what the control group has committed about the data directory itself makes its node no
    /// member, whatever else is changed.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            CommandRejection::Removed(_)
                | CommandRejection::StaleDirectory { .. }
                | CommandRejection::NodeIdMismatch(_)
                | CommandRejection::LogLost { .. }
                | CommandRejection::LogRolledBack { .. }
        )
    }
}

fn listed(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

impl ControlCommand {
    /// As an entry of the log, written in a version.
    pub(crate) fn encode(&self, version: ClusterVersion) -> Bytes {
        versioned::encode(version, self).into()
    }

    /// Reads an entry, and says which version it has.
    pub(crate) fn decode(
        entry: &[u8],
    ) -> Result<(ClusterVersion, ControlCommand), VersionedDecodeError> {
        ControlCommand::decode_within(VersionRange::READABLE, entry)
    }

    /// As [`ControlCommand::decode`], by a build that reads `readable`.
    pub(crate) fn decode_within(
        readable: VersionRange,
        entry: &[u8],
    ) -> Result<(ClusterVersion, ControlCommand), VersionedDecodeError> {
        versioned::decode_in_range(readable, entry)
    }
}

impl CommandReply {
    /// In the version of the entry that it answers: whoever wrote that can read it.
    pub(crate) fn encode(&self, version: ClusterVersion) -> Bytes {
        versioned::encode(version, self).into()
    }

    pub(crate) fn decode(answer: &[u8]) -> Result<CommandReply, VersionedDecodeError> {
        versioned::decode(answer).map(|(_, answer)| answer)
    }
}

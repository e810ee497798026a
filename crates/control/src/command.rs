//! The commands of the control group and their replies, encoded in postcard after the cluster version.

use bytes::Bytes;
use pushonce_consensus::LogMark;
use pushonce_core::versioned::{self, VersionedDecodeError};
use pushonce_core::{
    ClusterId, ClusterTimes, ClusterVersion, ConsensusTimes, InvalidNamespace, InvalidRevocation,
    JoinTokenHash, JoinTokenId, Namespace, NamespaceChange, Namespaces, NodeId, RevokedTokens,
    ShardCount, Spread, TicketKey, Timestamp, UnsupportedVersion, VersionRange,
};
use serde::{Deserialize, Serialize};

use crate::{Incarnation, InvalidProfile, ProcessRun, Profile};

/// A change of the cluster. Every command is idempotent, so a proposal with an unknown outcome can be
/// repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlCommand {
    /// Creates the cluster.
    Bootstrap(BootstrapCommand),
    /// Admits a node, or updates the profile of a member.
    Join(JoinCommand),
    /// Activates a joining member that has caught up: it may hold shards from now on.
    Activate(NodeId),
    /// Replaces the placement, unless another one was committed meanwhile.
    SetPlacement {
        /// The version of the new placement: one above the current.
        version: u64,
        /// The replicas by shard, the preferred owner first.
        replicas: Vec<Vec<NodeId>>,
    },
    /// Removes a member permanently.
    Remove(NodeId),
    /// Changes the settings of a namespace.
    SetNamespace {
        /// The namespace; `None` for the default settings.
        name: Option<String>,
        /// The settings to change, starting from the default for a namespace without its own; `None`
        /// returns the namespace to the default.
        change: Option<NamespaceChange>,
        /// Whether a replicated namespace may move to the owners' memory.
        move_to_memory: MoveToMemory,
    },
    /// Starts to move the shards, leaderships and vote of a member to the others.
    Drain {
        /// The member.
        node: NodeId,
        /// Whether to drain although fewer other members may hold shards than each shard should have copies.
        force: bool,
    },
    /// Returns a draining member to active.
    Undrain(NodeId),
    /// Changes the consensus times of all nodes, in two steps.
    SetTimes(ConsensusTimes),
    /// Acknowledges that a member has the times of a version on disk and in force.
    AckTimes {
        /// The member.
        node: NodeId,
        /// See [`ClusterTimes::version`].
        version: u64,
    },
    /// No longer accepts tokens, before they expire.
    Revoke {
        /// The tokens.
        tokens: RevokedTokens,
        /// The time of the revocation by the clock of the node that received it.
        at: Timestamp,
        /// Until when the revocation is kept: the last of the tokens must have expired by then.
        kept_until: Timestamp,
    },
    /// Raises the cluster version to `to`, one above the current, if every member supports it.
    Finalize {
        /// The new cluster version.
        to: ClusterVersion,
    },
    /// Drops a member that joined and never became active. Without effect for any other.
    ExpireJoining(NodeId),
    /// Replaces the key of TLS session tickets, unless it was replaced less than
    /// [`TicketKeys::ROTATION_INTERVAL`](pushonce_core::TicketKeys::ROTATION_INTERVAL) ago.
    RotateTicketKeys {
        /// The new key.
        key: TicketKey,
        /// When it was generated.
        at: Timestamp,
    },
    /// Adds a join token.
    AddJoinToken {
        /// The hash of its secret.
        hash: JoinTokenHash,
        /// The time at which it was made.
        now: Timestamp,
        /// The time at which it expires: at most 30 days later.
        expires: Timestamp,
    },
    /// Drops a join token.
    RevokeJoinToken(JoinTokenId),
}

/// A new cluster of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootstrapCommand {
    /// The cluster id, drawn at random.
    pub cluster: ClusterId,
    /// The data directory of the first node.
    pub incarnation: Incarnation,
    /// The process of the first node.
    pub run: ProcessRun,
    /// The profile of the first node.
    pub profile: Profile,
    /// The number of shards, which never changes.
    pub shards: ShardCount,
    /// The number of replicas that a shard should have: 1 or more.
    pub replicas: u8,
    /// The failure that the replicas of a shard should survive.
    pub spread: Spread,
    /// The settings of the namespaces.
    pub namespaces: Namespaces,
    /// The initial cluster version.
    pub cluster_version: ClusterVersion,
    /// The consensus times.
    pub times: ConsensusTimes,
    /// The mark of the first node's log.
    pub log: Option<LogMark>,
}

/// A request of a node to join, for the first time or again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinCommand {
    /// The data directory of the node.
    pub incarnation: Incarnation,
    /// The process of the node.
    pub run: ProcessRun,
    /// The cluster that the data directory belongs to, if any.
    pub cluster: Option<ClusterId>,
    /// The node id in the data directory, if any.
    pub node: Option<NodeId>,
    /// The profile of the node.
    pub profile: Profile,
    /// The consensus times that the node was started with; `None` to use those of the cluster.
    pub times: Option<ConsensusTimes>,
    /// The mark of the log in the data directory; `None` when there is no log yet.
    pub log: Option<LogMark>,
    /// How the node proved that it may join, as checked by the node that received its request.
    pub credential: JoinCredential,
}

/// How a node proved that it may join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinCredential {
    /// Not at all: the nodes do not authenticate each other, or the node is a member already.
    #[default]
    None,
    /// By the certificate of a node. A new node gets its id.
    Certificate(NodeId),
    /// By a join token, which is used up in the same entry.
    Token {
        /// The hash of its secret.
        hash: JoinTokenHash,
        /// The time at which the request was received.
        now: Timestamp,
    },
}

/// The reply to a successful join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReply {
    /// The cluster.
    pub cluster: ClusterId,
    /// The id of the node, for the lifetime of its data directory.
    pub node: NodeId,
    /// The index of the control group's log at which the join was committed. A view applied up to this
    /// index includes everything that was committed before the join.
    pub index: u64,
    /// The consensus times that the node has to use from its start.
    pub times: ClusterTimes,
}

/// Whether a replicated namespace may move to the owners' memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveToMemory {
    /// No. The command is rejected, so that the caller can count the stored messages first.
    Reject,
    /// Yes. A shard with stored messages keeps the namespace on disk until they have expired.
    KeepStored,
    /// Yes. The stored messages are dropped.
    DropStored,
}

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandReply {
    /// The change is in effect, or was before.
    Done,
    /// The reply to [`ControlCommand::Join`].
    Joined(JoinReply),
    /// The command was rejected and changed nothing.
    Rejected(CommandRejection),
    /// The reply to [`ControlCommand::SetNamespace`]: the resulting settings.
    Namespace(Namespace),
    /// The reply to [`ControlCommand::Finalize`]: the resulting cluster version.
    Version(ClusterVersion),
}

/// Why a command was rejected. The text states what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CommandRejection {
    /// The cluster does not exist yet.
    #[error("the cluster does not exist yet: retry after its first node has started")]
    NotBootstrapped,
    /// The cluster exists already.
    #[error(
        "this group already belongs to cluster {0}: use an empty data directory to create another"
    )]
    AlreadyBootstrapped(ClusterId),
    /// The number of replicas is zero.
    #[error("a shard needs at least one replica: --replicas 1 or more")]
    NoReplicas,
    /// The data directory belongs to another cluster.
    #[error(
        "the data directory belongs to cluster {directory_cluster}, but this is cluster {cluster}: \
         join {directory_cluster}, or use an empty data directory"
    )]
    OtherCluster {
        /// The cluster of the directory.
        directory_cluster: ClusterId,
        /// The cluster that the node asked to join.
        cluster: ClusterId,
    },
    /// The node was removed.
    #[error("{0} was removed from the cluster: use an empty data directory to join with a new id")]
    Removed(NodeId),
    /// The node id does not belong to the data directory, which was copied, restored or wiped.
    #[error(
        "the data directory claims to be {0}, but {0} has another data directory: \
         use the original directory of {0}, or an empty one"
    )]
    NodeIdMismatch(NodeId),
    /// The data directory is an old copy, or another process runs on a newer one.
    #[error(
        "the data directory of {node} is an old copy: it counts {run} starts, but the cluster has seen \
         start {known} by another process. Start {node} with the directory it ran on last; if that is \
         lost, remove {node} and join a new node with an empty directory"
    )]
    StaleDirectory {
        /// The node of the directory.
        node: NodeId,
        /// The number of starts in the directory.
        run: u64,
        /// The number of starts that the cluster has seen.
        known: u64,
    },
    /// The member's log is missing. Without it the node would vote again and lose entries it acknowledged.
    #[error(
        "the log of {node} is not the one it had: its votes and acknowledged entries are lost. \
         Restore the log (`raft.redb`); if it is lost, run `pushonce cluster remove {node}` and start \
         a new node with an empty data directory"
    )]
    LogLost {
        /// The node.
        node: NodeId,
    },
    /// The log is an old copy.
    #[error(
        "the log of {node} is an old copy: it counts {writes} writes, but the cluster has seen \
         {known}. Start {node} with its last log; if that is lost, run \
         `pushonce cluster remove {node}` and start a new node with an empty data directory"
    )]
    LogRolledBack {
        /// The node.
        node: NodeId,
        /// The number of writes in the log.
        writes: u64,
        /// The number of writes that the cluster has seen.
        known: u64,
    },
    /// The node was started with other consensus times than the cluster's.
    #[error(
        "the node was started with the consensus times {node_times}, the cluster has {cluster}: start it \
         without these flags, or change the times of the cluster with `pushonce cluster set-times`"
    )]
    TimesMismatch {
        /// The times of the node.
        node_times: ConsensusTimes,
        /// The times of the cluster.
        cluster: ConsensusTimes,
    },
    /// Another change of the consensus times is in progress.
    #[error(
        "the change of the consensus times to {to} still waits for {}: start these nodes or remove \
         them; to cancel the change, set the current times",
        listed(missing)
    )]
    TimesChanging {
        /// The times of the change in progress.
        to: ConsensusTimes,
        /// The members that have not acknowledged the change.
        missing: Vec<NodeId>,
    },
    /// Another member has the name.
    #[error(
        "{holder} already has the name {name:?}: choose another --name, start {holder} with its own \
         data directory, or, if that is lost, remove {holder} first"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The member that has it.
        holder: NodeId,
    },
    /// The name looks like the id of another node.
    #[error(
        "the name {name:?} looks like the id of {other}, and this node is {node}: choose another --name"
    )]
    NameLooksLikeId {
        /// The name.
        name: String,
        /// The node that wants it.
        node: NodeId,
        /// The id that it looks like.
        other: NodeId,
    },
    /// Another namespace has this name except for the case of letters.
    #[error(
        "namespace {name:?} differs from {other:?} in the case of letters only: choose another name, or \
         unset {other:?} first"
    )]
    NamespaceDiffersInCase {
        /// The name.
        name: String,
        /// The name of the existing namespace.
        other: String,
    },
    /// The cluster has its maximum number of members.
    #[error("the cluster has its maximum of {max} members: remove those that are permanently lost")]
    TooManyMembers {
        /// The maximum number of members.
        max: u32,
    },
    /// Too many members have joined and are not active yet.
    #[error(
        "{max} members are still joining: retry when they are active, or remove those that are lost; one that \
         stays unreachable for ten minutes is dropped"
    )]
    TooManyJoining {
        /// The maximum number of joining members.
        max: u32,
    },
    /// The node joined, was not reachable for a long time, and was dropped before it became active.
    #[error(
        "{0} joined and was not reachable for ten minutes, so it was dropped before it became active, and its id \
         is not used again: empty the data directory, and join with a new join token (`pushonce cluster token`) or \
         a certificate of another id (`pushonce ca issue`)"
    )]
    JoinExpired(NodeId),
    /// The profile of the node is invalid.
    #[error(transparent)]
    Profile(InvalidProfile),
    /// No member has this id.
    #[error("{0} is not a member: `pushonce cluster status` lists them")]
    NotAMember(NodeId),
    /// No other member could hold shards.
    #[error(
        "{0} is the last node that can hold shards: join another one first and wait until it is active"
    )]
    LastShardHolder(NodeId),
    /// Two members were drained at the same time, and each drain alone would have left enough others.
    #[error(
        "without {node} only {left} nodes may hold shards, and each shard should have {wanted} copies: \
         join another node first, or drain it with --force"
    )]
    TooFewCopies {
        /// The member.
        node: NodeId,
        /// The number of members that could hold copies without it.
        left: u32,
        /// The number of copies that a shard should have.
        wanted: u32,
    },
    /// The certificate names an id that was assigned before.
    #[error(
        "{node} is or was the id of another data directory, and ids are not reused, also if that node was dropped \
         before it became active: use the directory of {node}, or make a certificate with a new id, as in \
         `pushonce ca issue --node {next}`", next = .next.0
    )]
    IdTaken {
        /// The id in the certificate.
        node: NodeId,
        /// An id that was never used.
        next: NodeId,
    },
    /// The certificate names an id that is too far above the ids in use.
    #[error(
        "the certificate names {node}, but the next ids are those up to {max}: number the nodes from 1 \
         without large gaps"
    )]
    IdTooHigh {
        /// The id in the certificate.
        node: NodeId,
        /// The highest id that is accepted.
        max: NodeId,
    },
    /// The certificate is that of another member.
    #[error(
        "the data directory belongs to {node}, and the certificate to {certificate}: use the certificate of \
         {node}"
    )]
    CertificateMismatch {
        /// The node of the directory.
        node: NodeId,
        /// The node of the certificate.
        certificate: NodeId,
    },
    /// The directory belongs to a member, which did not join with this token.
    #[error(
        "the data directory belongs to {0}, which needs no join token: use the certificate of {0}"
    )]
    AlreadyMember(NodeId),
    /// No token has this secret.
    #[error(
        "the join token is unknown, revoked or expired: make another one with `pushonce cluster token`"
    )]
    UnknownJoinToken,
    /// The token is expired.
    #[error("the join token has expired: make another one with `pushonce cluster token`")]
    JoinTokenExpired,
    /// Another node joined with the token.
    #[error(
        "{0} joined with this token, which can be used once: make another one with `pushonce cluster token`"
    )]
    JoinTokenUsed(NodeId),
    /// The cluster has its maximum number of join tokens.
    #[error(
        "the cluster has its maximum of {max} join tokens: revoke some with \
         `pushonce cluster token --revoke`, or wait until they expire"
    )]
    TooManyJoinTokens {
        /// The maximum number of tokens.
        max: u32,
    },
    /// The token expires at once or too late.
    #[error("a join token is valid for at most {} days, and not less than a second", max_ms / 86_400_000)]
    InvalidTokenValidity {
        /// The maximum validity, in milliseconds.
        max_ms: u64,
    },
    /// Another placement was committed meanwhile, or the members changed.
    #[error(
        "the placement is not the next version of the current one: propose again from the newest view"
    )]
    StalePlacement,
    /// The settings of the namespace are invalid.
    #[error(transparent)]
    Namespace(InvalidNamespace),
    /// The change would drop the stored messages of the namespace.
    #[error(
        "moving the replicated namespace {0} to the owners' memory would drop its stored messages: \
         confirm with --force, or choose a new name"
    )]
    WouldLoseStoredMessages(String),
    /// The maximum number of namespaces have settings of their own.
    #[error(
        "the maximum of {max} namespaces have their own settings: unset one that does not need them"
    )]
    TooManyNamespaces {
        /// The maximum number.
        max: u32,
    },
    /// The tokens cannot be revoked.
    #[error(transparent)]
    Revocation(InvalidRevocation),
    /// The build of the node does not support the cluster version.
    #[error("{0}")]
    Unsupported(UnsupportedVersion),
    /// The node announced no supported version.
    #[error(
        "the node announces no cluster version, the cluster has version {cluster}: \
         run a build that supports {cluster} on it"
    )]
    NoVersionAnnounced {
        /// The version of the cluster.
        cluster: ClusterVersion,
    },
    /// Some members do not support the requested version.
    #[error(
        "the builds of {} do not support cluster version {to}: \
         run a build that supports it on them, or remove those that are permanently lost",
        listed(members)
    )]
    NotSupportedByAll {
        /// The requested version.
        to: ClusterVersion,
        /// The members whose builds do not support it.
        members: Vec<NodeId>,
    },
    /// The requested version is not the next one.
    #[error(
        "the cluster has version {cluster} and cannot be raised to {to}: \
         the version is raised by one at a time and never goes down"
    )]
    NotNextVersion {
        /// The requested version.
        to: ClusterVersion,
        /// The cluster version.
        cluster: ClusterVersion,
    },
}

impl CommandRejection {
    /// Whether the data directory itself excludes its node from the cluster, whatever else changes.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            CommandRejection::Removed(_)
                | CommandRejection::JoinExpired(_)
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
    /// Encodes the command as an entry of the log, in a version.
    pub(crate) fn encode(&self, version: ClusterVersion) -> Bytes {
        versioned::encode(version, self).into()
    }

    /// Decodes an entry and its version.
    pub(crate) fn decode(
        entry: &[u8],
    ) -> Result<(ClusterVersion, ControlCommand), VersionedDecodeError> {
        ControlCommand::decode_within(VersionRange::readable(), entry)
    }

    /// As [`ControlCommand::decode`], for a build that reads `readable`.
    pub(crate) fn decode_within(
        readable: VersionRange,
        entry: &[u8],
    ) -> Result<(ClusterVersion, ControlCommand), VersionedDecodeError> {
        versioned::decode_in_range(readable, entry)
    }
}

impl CommandReply {
    /// Encodes the reply in the version of the entry that it answers, which the proposer can read.
    pub(crate) fn encode(&self, version: ClusterVersion) -> Bytes {
        versioned::encode(version, self).into()
    }

    pub(crate) fn decode(answer: &[u8]) -> Result<CommandReply, VersionedDecodeError> {
        versioned::decode(answer).map(|(_, answer)| answer)
    }
}

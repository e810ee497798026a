//! Fail points: defects that a test switches on to prove that other tests find them.
//!
//! A fail point is compiled in only with the feature `fail-points`. Every other build sees a constant
//! `false` and drops the branch.

use std::str::FromStr;

macro_rules! fail_points {
    ($($(#[$documentation:meta])+ $variant:ident = $name:literal,)+) => {
        /// A defect that the tests must find. In a build with the feature `fail-points`, the environment
        /// variable [`FailPoint::VARIABLE`] activates one for the life of the process.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FailPoint {
            $($(#[$documentation])+ $variant,)+
        }

        impl FailPoint {
            /// Every fail point.
            pub const ALL: &[FailPoint] = &[$(FailPoint::$variant,)+];

            /// The value of [`FailPoint::VARIABLE`] that activates this fail point.
            pub const fn name(self) -> &'static str {
                match self {
                    $(FailPoint::$variant => $name,)+
                }
            }
        }
    };
}

fail_points! {
    // Fanout.
    /// A subscriber that resumes misses the next message.
    ResumeSkipsMessage = "resume-skips-message",
    /// A gap at the start of a subscription is not reported.
    StartGapHidden = "start-gap-hidden",
    /// A position of an earlier epoch counts as one of the current epoch.
    EpochUnchecked = "epoch-unchecked",
    /// A reader gets every message in the ring, whatever retention its namespace has.
    RetentionIgnored = "retention-ignored",

    // Shard.
    /// Only the owner remembers publish ids.
    DedupeNotReplicated = "dedupe-not-replicated",
    /// A shard accepts messages of topics that belong to another shard.
    WrongShardAccepted = "wrong-shard-accepted",
    /// The durability of a message is decided before its log entry is applied, not by the entry.
    DurabilityDecidedEarly = "durability-decided-early",
    /// A shard tracks any number of producers.
    ProducersUnbounded = "producers-unbounded",
    /// A namespace and a node may have any number of topics.
    TopicsUnbounded = "topics-unbounded",
    /// A subscriber that resumes from 0:0 receives no gap although the topic had an earlier epoch.
    EarlierEpochHidden = "earlier-epoch-hidden",
    /// The log and the owner's memory do not share the publish ids that they remember.
    DedupeSplitByDurability = "dedupe-split-by-durability",
    /// A namespace that moves into memory without force drops its stored messages.
    StoredMessagesDropped = "stored-messages-dropped",
    /// A restarted node uses outdated settings, and the settings of any owner replace those of a shard.
    OutdatedSettingsApplied = "outdated-settings-applied",

    // Consensus.
    /// The store acknowledges writes that are still in memory.
    AcknowledgeBeforeFsync = "acknowledge-before-fsync",
    /// A log whose parts contradict each other is opened.
    InconsistentLogAccepted = "inconsistent-log-accepted",
    /// A log that was restored to an earlier state takes part.
    RollbackUndetected = "rollback-undetected",
    /// The commit mark of the control group is written some time after it is acted on.
    CommitMarkVolatile = "commit-mark-volatile",
    /// An entry that cannot be read counts as applied.
    UnreadableEntrySkipped = "unreadable-entry-skipped",
    /// Peers exchange frames whatever versions they offer.
    HandshakeUnchecked = "handshake-unchecked",
    /// A replica votes while the leader of its last append may still have its lease.
    VoteHoldSkipped = "vote-hold-skipped",
    /// A recovered group continues in the terms and indexes of its last copy.
    RecoveryReusesTerms = "recovery-reuses-terms",
    /// An offer of a snapshot drops the pieces that were received before.
    SnapshotTransferRestarts = "snapshot-transfer-restarts",
    /// A candidate requests votes before its links are up.
    VoteWithoutLink = "vote-without-link",
    /// A leader transfers leadership by what its successor wrote before it restarted.
    SuccessorUnprobed = "successor-unprobed",
    /// A removed replica is destroyed although a newer membership names it again.
    ReaddedReplicaDestroyed = "readded-replica-destroyed",
    /// A replica that was destroyed and comes back votes as if it were new.
    RemovedReplicaVotes = "removed-replica-votes",
    /// A replica without disk space also rejects the entries of earlier leaders.
    FullDiskRejectsEarlierTerms = "full-disk-rejects-earlier-terms",
    /// Any node speaks for any other and leads any group.
    SenderUnchecked = "sender-unchecked",
    /// A replica adopts any term.
    TermJumpUnchecked = "term-jump-unchecked",
    /// A transfer of leadership needs no announcement by the leader.
    TransferUnannounced = "transfer-unannounced",
    /// Entries of a leader are stored unread.
    ReceivedEntryUnchecked = "received-entry-unchecked",
    /// A received snapshot replaces the state before it is decoded.
    ReceivedSnapshotUnchecked = "received-snapshot-unchecked",

    // Control.
    /// Leadership is transferred to a node that is stopping.
    StoppingNodeLeads = "stopping-node-leads",
    /// A shard without a majority is not reported as a problem.
    LostMajorityHidden = "lost-majority-hidden",
    /// A member rejoins under its id without the log in which it voted.
    DeletedLogAccepted = "deleted-log-accepted",
    /// A node may have other consensus times than its cluster.
    ConsensusTimesUnchecked = "consensus-times-unchecked",
    /// A member is drained or removed whatever copies remain, as with `--force`.
    LeaveAlwaysForced = "leave-always-forced",
    /// The cluster version is raised although a member does not support it.
    VersionSupportUnchecked = "version-support-unchecked",
    /// An unresponsive replica on a reachable node is not reported.
    UnresponsiveReplicaHidden = "unresponsive-replica-hidden",

    // Relay.
    /// A heartbeat is one frame, however many topics it names.
    HeartbeatUnsplit = "heartbeat-unsplit",
    /// A node at 0:0 counts as up to date with a topic without messages, which may have had some.
    ZeroPositionLevel = "zero-position-level",
    /// Claims are believed from any link, with any term.
    ClaimUnchecked = "claim-unchecked",
    /// Frames may have any position, number and count.
    FrameUnchecked = "frame-unchecked",

    // Gateway and listener.
    /// However many frames are in flight to a client, one more is sent.
    WindowUnbounded = "window-unbounded",
    /// A connection is closed with unread bytes, which resets it.
    LingerSkipped = "linger-skipped",
    /// Clients may use every file descriptor.
    DescriptorReserveIgnored = "descriptor-reserve-ignored",

    // Client.
    /// A newer message does not replace an older one that the caller has not read.
    OldMessagesQueued = "old-messages-queued",
    /// A fatal answer of one server ends a subscriber that has other servers.
    WrongServerEndsSubscriber = "wrong-server-ends-subscriber",

    // Node.
    /// A node without an identity and without `--join` creates a cluster.
    ServeCreatesCluster = "serve-creates-cluster",
    /// A rejection by any node at a peer's address counts as one of the cluster.
    ForeignRejectionCounts = "foreign-rejection-counts",
    /// A member contacts only the addresses of its view.
    JoinAddressesIgnored = "join-addresses-ignored",
    /// The writer of the log ends with the first failed write.
    LogWriterEndsOnError = "log-writer-ends-on-error",
    /// Nodes without a link call as often as they like.
    CallsUnlimited = "calls-unlimited",
    /// A node is ready although one of its groups has no leader.
    ReadyWithoutLeader = "ready-without-leader",
    /// A node without disk space keeps the shards that it leads.
    FullDiskLeads = "full-disk-leads",
    /// A replica that its group has removed counts for the readiness of its node.
    RemovedReplicaCounted = "removed-replica-counted",
    /// A shard that lost its majority makes every node unready.
    LostShardBlocksReadiness = "lost-shard-blocks-readiness",
    /// A node continues although members of another cluster dial its address.
    AddressConflictIgnored = "address-conflict-ignored",
    /// A namespace moves into memory without a count of its stored messages.
    StoredMessagesUncounted = "stored-messages-uncounted",
    /// A node that lost its consensus times uses the defaults.
    LostTimesDefaulted = "lost-times-defaulted",
    /// A variable that no setting reads is accepted.
    UnknownVariableAccepted = "unknown-variable-accepted",
    /// Each survivor recovers every shard of which it has a copy.
    RecoveryIgnoresOthers = "recovery-ignores-others",
    /// Logs are stamped with the owner's wall clock.
    OwnerWallClock = "owner-wall-clock",
}

/// A name that no fail point has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no fail point has this name")]
pub struct UnknownFailPoint;

impl FromStr for FailPoint {
    type Err = UnknownFailPoint;

    fn from_str(name: &str) -> Result<FailPoint, UnknownFailPoint> {
        let known = FailPoint::ALL.iter().find(|point| point.name() == name);
        known.copied().ok_or(UnknownFailPoint)
    }
}

impl FailPoint {
    /// The environment variable that names the active fail point. Empty counts as not set.
    pub const VARIABLE: &str = "PUSHONCE_FAIL_POINT";

    /// Whether this build has fail points.
    pub const COMPILED_IN: bool = cfg!(feature = "fail-points");

    /// Whether the defect is to happen. Constant `false` in a build without the feature `fail-points`.
    ///
    /// # Panics
    /// In a build with the feature, if [`FailPoint::VARIABLE`] names no fail point: a test with a misspelt
    /// name would prove nothing.
    #[inline(always)]
    pub fn is_active(self) -> bool {
        #[cfg(feature = "fail-points")]
        return active() == Some(self);
        #[cfg(not(feature = "fail-points"))]
        false
    }
}

#[cfg(feature = "fail-points")]
fn active() -> Option<FailPoint> {
    static ACTIVE: std::sync::OnceLock<Option<FailPoint>> = std::sync::OnceLock::new();
    let read = || {
        let name = std::env::var_os(FailPoint::VARIABLE).filter(|name| !name.is_empty())?;
        match name.to_str().map(FailPoint::from_str) {
            Some(Ok(point)) => Some(point),
            _ => panic!("{} = {name:?}: {UnknownFailPoint}", FailPoint::VARIABLE),
        }
    };
    *ACTIVE.get_or_init(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fail_point_is_found_by_its_name() {
        for &point in FailPoint::ALL {
            assert_eq!(point.name().parse(), Ok(point));
        }
        assert_eq!("no-such-point".parse::<FailPoint>(), Err(UnknownFailPoint));
    }
}

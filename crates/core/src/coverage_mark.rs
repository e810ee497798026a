//! Coverage marks: states that a simulation must have visited.
//!
//! A mark is compiled in with debug assertions or with the feature `coverage-marks`. Every other build drops it.

macro_rules! coverage_marks {
    ($($(#[$documentation:meta])+ $variant:ident = $name:literal,)+) => {
        /// A state that is rarely reached, and where a defect would lose messages or stop a cluster.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum CoverageMark {
            $($(#[$documentation])+ $variant,)+
        }

        impl CoverageMark {
            /// Every mark.
            pub const ALL: &[CoverageMark] = &[$(CoverageMark::$variant,)+];

            /// The name in reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(CoverageMark::$variant => $name,)+
                }
            }
        }
    };
}

coverage_marks! {
    // Publish.
    /// A publish arrives before the node knows a current view, and waits for it.
    PublishWaitsForView = "publish-waits-for-view",
    /// A rejected publish is sent to another owner.
    PublishFollowsOwner = "publish-follows-owner",
    /// A publish expires because no owner accepted it.
    PublishExpires = "publish-expires",

    // Shard.
    /// An owner knows older settings than its shard has.
    OlderSettingsArrive = "older-settings-arrive",
    /// A namespace moves between the log and the owner's memory.
    DurabilityChanges = "durability-changes",
    /// A namespace that moves to memory stays on disk, because of a message that was stored meanwhile.
    NamespaceKeptOnDisk = "namespace-kept-on-disk",
    /// A repeated publish gets its first acknowledgement.
    PublishRepeated = "publish-repeated",
    /// A publish to memory waits behind entries of the log.
    MemoryBehindLog = "memory-behind-log",
    /// The outcome of a proposal is unknown.
    ProposalUnknown = "proposal-unknown",
    /// A reader gets a gap because messages have expired.
    GapExpired = "gap-expired",
    /// A reader gets a gap because the topic has a new epoch.
    GapEpoch = "gap-epoch",
    /// A resume is rejected: its position was never assigned.
    FuturePosition = "future-position",
    /// An owner waits because its clock is behind that of the log.
    OwnerClockBehind = "owner-clock-behind",

    // Consensus.
    /// A leader rejects a publish because its lease has expired.
    LeaseExpired = "lease-expired",
    /// A vote is rejected while the last known leader may have its lease.
    VoteHeld = "vote-held",
    /// A vote is granted within the lease, because the leader announced its successor.
    TransferAnnounced = "transfer-announced",
    /// A transfer of leadership is rejected: the successor does not answer.
    TransferRejected = "transfer-rejected",
    /// A snapshot transfer continues at a piece that was received before.
    SnapshotResumes = "snapshot-resumes",
    /// A snapshot is installed.
    SnapshotInstalled = "snapshot-installed",
    /// A damaged replica recovers from the others.
    DamagedReplicaRecovers = "damaged-replica-recovers",
    /// A replica that left comes back, and recovers before it votes.
    RemovedReplicaReturns = "removed-replica-returns",
    /// A log that was rolled back closes the fence of its node.
    RollbackDetected = "rollback-detected",
    /// A write waits for space on the disk.
    WriteWaitsForSpace = "write-waits-for-space",
    /// A replica without disk space rejects entries.
    AppendRejectedForSpace = "append-rejected-for-space",
    /// The disk failed, and the node stops.
    DiskFailed = "disk-failed",

    // Control.
    /// A drain or a removal is rejected: too few copies would remain.
    LeaveRejected = "leave-rejected",
    /// New consensus times take effect in a node.
    TimesChanged = "times-changed",
    /// A member is removed from the cluster.
    MemberRemoved = "member-removed",

    // Relay.
    /// A node refutes a claim, because it has its lease.
    ClaimRefuted = "claim-refuted",
    /// A claim is rejected.
    ClaimRejected = "claim-rejected",
    /// A topic is read again after a missing message or a changed upstream.
    UpstreamRepaired = "upstream-repaired",
    /// The outcome of a forwarded publish is unknown, because the link broke.
    ForwardedPublishUnknown = "forwarded-publish-unknown",
    /// A topic becomes stale.
    TopicStale = "topic-stale",

    // Fan-out.
    /// A subscription starts from history that the node had to fetch.
    HistoryFetched = "history-fetched",

    // Node.
    /// A running node learns that it was removed.
    MembershipRevoked = "membership-revoked",
    /// A node that starts again is confirmed by its cluster.
    MembershipConfirmed = "membership-confirmed",
    /// Shards start with an older view, because no current one came.
    ShardsStartWithoutView = "shards-start-without-view",
    /// A node that stops has handed over all leaderships.
    LeadershipHandedOver = "leadership-handed-over",
}

impl CoverageMark {
    /// Notes that the state was reached. Does nothing where marks are not compiled in.
    #[inline(always)]
    pub fn reach(self) {
        #[cfg(any(debug_assertions, feature = "coverage-marks"))]
        REACHED[self as usize].store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// The marks that this process has reached; `None` where marks are not compiled in.
    pub fn reached() -> Option<Vec<CoverageMark>> {
        #[cfg(any(debug_assertions, feature = "coverage-marks"))]
        return Some(
            CoverageMark::ALL
                .iter()
                .copied()
                .filter(|&mark| REACHED[mark as usize].load(std::sync::atomic::Ordering::Relaxed))
                .collect(),
        );
        #[cfg(not(any(debug_assertions, feature = "coverage-marks")))]
        None
    }
}

#[cfg(any(debug_assertions, feature = "coverage-marks"))]
static REACHED: [std::sync::atomic::AtomicBool; CoverageMark::ALL.len()] =
    [const { std::sync::atomic::AtomicBool::new(false) }; CoverageMark::ALL.len()];

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn only_reached_marks_are_reported() {
        let reported = || CoverageMark::reached().expect("compiled in");
        assert!(!reported().contains(&CoverageMark::GapEpoch));
        CoverageMark::GapEpoch.reach();
        assert!(reported().contains(&CoverageMark::GapEpoch));
    }
}

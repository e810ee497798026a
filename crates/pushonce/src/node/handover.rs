//! A node that stops first transfers the leadership of its groups, so that publishers do not wait for an
//! election. A node without disk space transfers that of its shards: it would reject all publishes to them, and a
//! majority with space can accept them. It does not know the disks of others, so it transfers a shard once in ten
//! minutes at most: where all disks are full, owners would change without end, and each change loses the messages of
//! `memory` namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream;
use pushonce_consensus::{ConsensusEngine, GroupId, MembershipError, RaftGroup};
use pushonce_control::ControlHandle;
use pushonce_control::reconcile::{self, NodeAvailability};
use pushonce_core::{ClusterView, CoverageMark, FailPoint, NodeId};
use pushonce_telemetry::LogLimiter;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::replica_supervisor::LocalReplicas;

/// Maximum number of concurrent transfers: each costs an election.
const CONCURRENT_MAX: usize = 8;

/// Pause between two rounds. An election may have made this node the leader of a group again.
const ROUND_INTERVAL: Duration = Duration::from_millis(100);

/// Pause between two rounds of a node without disk space.
const FULL_DISK_INTERVAL: Duration = Duration::from_secs(1);

/// Pause between two transfers of one shard by a node without disk space.
const FULL_DISK_PAUSE: Duration = Duration::from_secs(600);

/// How long a stopping node waits for other nodes to take over its groups. A transfer takes a few
/// milliseconds; a successor that lags needs longer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Failed transfers: the group and the node that did not take it over.
type FailedTransfers = BTreeSet<(GroupId, NodeId)>;

/// Transfers the leadership of every group that this node leads while it stops, and of every shard while its disk
/// has no space.
pub(super) struct LeadershipHandover {
    pub(super) me: NodeId,
    pub(super) engine: ConsensusEngine,
    pub(super) control: ControlHandle,
    pub(super) hosted: LocalReplicas,
    /// Determines which node should lead next.
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    pub(super) relay: pushonce_relay::Handle,
    /// Receives whether this node leads no group that another node could lead.
    pub(super) done_sender: watch::Sender<bool>,
}

impl LeadershipHandover {
    /// Starts when `stopping` is cancelled, and keeps transferring groups until `shutdown` is cancelled.
    pub(super) async fn run(self, stopping: CancellationToken, shutdown: CancellationToken) {
        let work = async {
            tokio::select! {
                () = stopping.cancelled() => {}
                never = self.leave_full_disk() => match never {},
            }
            self.relay.announce_stop();
            let mut failed = FailedTransfers::new();
            loop {
                let led_groups = self.led_groups();
                if led_groups.is_empty() {
                    CoverageMark::LeadershipHandedOver.reach();
                }
                self.done_sender.send_replace(led_groups.is_empty());
                let transfers =
                    stream::iter(led_groups).map(|group| self.transfer_leadership(group, &failed));
                let failures: Vec<_> = transfers.buffer_unordered(CONCURRENT_MAX).collect().await;
                failed.extend(failures.into_iter().flatten());
                tokio::time::sleep(ROUND_INTERVAL).await;
            }
        };
        let work_ended: Option<()> = shutdown.run_until_cancelled(work).await;
        debug_assert!(work_ended.is_none(), "the loop does not end");
    }

    /// Transfers the shards that this node leads while its disk has no space. The control group stays: it accepts
    /// commands without space, and an operator repairs the cluster through it.
    async fn leave_full_disk(&self) -> Infallible {
        let mut transferred: BTreeMap<GroupId, Instant> = BTreeMap::new();
        loop {
            tokio::time::sleep(FULL_DISK_INTERVAL).await;
            if self.engine.check_disk_space().is_ok() || FailPoint::FullDiskLeads.is_active() {
                continue;
            }
            let now = Instant::now();
            transferred.retain(|_, at| now.saturating_duration_since(*at) < FULL_DISK_PAUSE);
            let is_due = |id: GroupId| id != GroupId::CONTROL && !transferred.contains_key(&id);
            let shards: Vec<_> =
                self.led_groups().into_iter().filter(|group| is_due(group.id())).collect();
            let no_failures = FailedTransfers::new();
            let transfers = stream::iter(shards).map(async |group| {
                let id = group.id();
                self.transfer_leadership(group.clone(), &no_failures).await;
                group.leader_term().is_none().then_some(id)
            });
            // One that failed is tried again in the next round.
            let ended: Vec<_> = transfers.buffer_unordered(CONCURRENT_MAX).collect().await;
            transferred.extend(ended.into_iter().flatten().map(|id| (id, Instant::now())));
        }
    }

    /// The groups that this node leads and that have other members.
    fn led_groups(&self) -> Vec<RaftGroup> {
        let shards = self.hosted.all().into_iter().map(|handle| handle.group().clone());
        let all = shards.chain([self.control.group().clone()]);
        all.filter(|group| {
            let status = group.status();
            let status = status.borrow();
            let has_other_voters = status.voters.iter().any(|&voter| voter != self.me);
            has_other_voters && group.leader_term().is_some()
        })
        .collect()
    }

    /// Transfers a group. On failure returns the group and the node that did not take it over.
    async fn transfer_leadership(
        &self,
        group: RaftGroup,
        failed: &FailedTransfers,
    ) -> Option<(GroupId, NodeId)> {
        let id = group.id();
        let to = self.successor(&group, failed)?;
        match group.transfer_leadership(to).await {
            Ok(()) => {
                tracing::info!(group = %id, %to, "leadership transferred");
                None
            }
            Err(error) => {
                /// Of all groups: a busy one is tried again with every round.
                static LIMITER: LogLimiter = LogLimiter::new();
                if let Some(suppressed) = LIMITER.allow(Instant::now()) {
                    tracing::warn!(group = %id, %to, %error, suppressed,
                        "cannot transfer leadership, retrying");
                }
                (error != MembershipError::Busy).then_some((id, to))
            }
        }
    }

    fn successor(&self, group: &RaftGroup, failed: &FailedTransfers) -> Option<NodeId> {
        let (id, status) = (group.id(), group.status().borrow().clone());
        let view = self.view.borrow().clone();
        let preferred = id.as_shard().map_or(&[][..], |shard| view.placement.replicas_of(shard));
        let nodes = NodeAvailability {
            reachable: self.relay.reachable().borrow().clone(),
            stopping: self.relay.stopping().borrow().clone(),
            ..NodeAvailability::default()
        };
        let failed = failed.iter().filter(|(group, _)| *group == id).map(|&(_, node)| node);
        reconcile::successor(&status, self.me, &nodes, preferred, &failed.collect())
    }
}

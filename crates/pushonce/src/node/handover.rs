//! A node that stops hands the lead of its groups to others first, so that publishers do not wait for
//! an election.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream;
use pushonce_consensus::{GroupId, MembershipError, RaftGroup};
use pushonce_control::ControlHandle;
use pushonce_control::reconcile::{self, NodeAvailability};
use pushonce_core::{ClusterView, NodeId};
use pushonce_telemetry::LogLimiter;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::replica_supervisor::LocalReplicas;

/// Groups that are handed over at once: each costs an election.
const CONCURRENT_MAX: usize = 8;

/// Between two rounds. An election may have given a group back.
const ROUND_INTERVAL: Duration = Duration::from_millis(100);

/// How long a node that stops waits for its groups to be taken over. A transfer takes some
/// milliseconds; a successor that is not level needs longer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Which nodes did not take which groups over when they were asked to.
type FailedTransfers = BTreeSet<(GroupId, NodeId)>;

/// Hands over whatever this node leads while it stops.
pub(super) struct LeadershipHandover {
    pub(super) me: NodeId,
    pub(super) control: ControlHandle,
    pub(super) hosted: LocalReplicas,
    /// Says who should lead next.
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    pub(super) relay: pushonce_relay::Handle,
    /// Whether nothing is left that another node could lead.
    pub(super) done_sender: watch::Sender<bool>,
}

impl LeadershipHandover {
    /// Begins with `stopping`, and keeps the groups away until `shutdown`.
    pub(super) async fn run(self, stopping: CancellationToken, shutdown: CancellationToken) {
        let work = async {
            stopping.cancelled().await;
            self.relay.announce_stop();
            let mut failed = FailedTransfers::new();
            loop {
                let led_groups = self.led_groups();
                self.done_sender.send_replace(led_groups.is_empty());
                let transfers =
                    stream::iter(led_groups).map(|group| self.transfer_leadership(group, &failed));
                let failures: Vec<_> = transfers.buffer_unordered(CONCURRENT_MAX).collect().await;
                failed.extend(failures.into_iter().flatten());
                tokio::time::sleep(ROUND_INTERVAL).await;
            }
        };
        let work_ended: Option<()> = shutdown.run_until_cancelled(work).await;
        debug_assert!(work_ended.is_none(), "the rounds do not end by themselves");
    }

    /// The groups that this node leads and does not make up alone.
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

    /// Says to which node it could not hand the group over.
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

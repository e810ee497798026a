//! A node that stops hands the lead of its groups to others first, so that publishers do not wait for
//! an election.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use pushonce_consensus::{ChangeError, Group, GroupId};
use pushonce_control::Control;
use pushonce_control::reconcile::{self, Nodes};
use pushonce_core::{ClusterView, NodeId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::host::Hosted;

/// Groups that are handed over at once: each costs an election.
const AT_ONCE: usize = 8;

/// Between two rounds. An election may have given a group back.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a node that stops waits for its groups to be taken over. A transfer takes some
/// milliseconds; a successor that is not level needs longer.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// Which nodes did not take which groups over when they were asked to.
type Failed = BTreeSet<(GroupId, NodeId)>;

/// Hands over whatever this node leads while it stops.
pub(super) struct HandOver {
    pub(super) me: NodeId,
    pub(super) control: Control,
    pub(super) hosted: Hosted,
    /// Says who should lead next.
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    pub(super) relay: pushonce_relay::Handle,
    /// Whether nothing is left that another node could lead.
    pub(super) done: watch::Sender<bool>,
}

impl HandOver {
    /// Begins with `stopping`, and keeps the groups away until `shutdown`.
    pub(super) async fn run(self, stopping: CancellationToken, shutdown: CancellationToken) {
        let work = async {
            stopping.cancelled().await;
            self.relay.announce_stop();
            let mut failed = Failed::new();
            loop {
                let led = self.led();
                self.done.send_replace(led.is_empty());
                let round = stream::iter(led).map(|group| self.hand_over(group, &failed));
                let round: Vec<_> = round.buffer_unordered(AT_ONCE).collect().await;
                failed.extend(round.into_iter().flatten());
                tokio::time::sleep(PAUSE).await;
            }
        };
        let ended: Option<()> = shutdown.run_until_cancelled(work).await;
        debug_assert!(ended.is_none(), "the rounds do not end by themselves");
    }

    /// The groups that this node leads and does not make up alone.
    fn led(&self) -> Vec<Group> {
        let shards = self.hosted.all().into_iter().map(|handle| handle.group().clone());
        let all = shards.chain([self.control.group().clone()]);
        all.filter(|group| {
            let status = group.status();
            let status = status.borrow();
            let others = status.voters.iter().any(|&voter| voter != self.me);
            others && group.leads().is_some()
        })
        .collect()
    }

    /// Says to which node it could not hand the group over.
    async fn hand_over(&self, group: Group, failed: &Failed) -> Option<(GroupId, NodeId)> {
        let id = group.id();
        let to = self.successor(&group, failed)?;
        match group.transfer(to).await {
            Ok(()) => {
                tracing::info!(group = %id, %to, "handed over");
                None
            }
            Err(error) => {
                tracing::warn!(group = %id, %to, %error, "not handed over, retrying");
                (error != ChangeError::Busy).then_some((id, to))
            }
        }
    }

    fn successor(&self, group: &Group, failed: &Failed) -> Option<NodeId> {
        let (id, status) = (group.id(), group.status().borrow().clone());
        let view = self.view.borrow().clone();
        let preferred = id.as_shard().map_or(&[][..], |shard| view.placement.of(shard));
        let nodes = Nodes {
            reachable: self.relay.reachable().borrow().clone(),
            stopping: self.relay.stopping().borrow().clone(),
            ..Nodes::default()
        };
        let failed = failed.iter().filter(|(group, _)| *group == id).map(|&(_, node)| node);
        reconcile::successor(&status, self.me, &nodes, preferred, &failed.collect())
    }
}

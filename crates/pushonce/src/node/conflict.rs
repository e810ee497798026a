//! Two clusters at one address: detected by the calls of the other one's members.
//!
//! A node that was initialized by mistake in the place of a member of an older cluster looks healthy to
//! itself. The members of the older cluster still dial its address and name their cluster. While more of
//! them call than this node has links to members of its own cluster, the address belongs to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pushonce_core::{ClusterId, NodeId};
use tokio::sync::watch;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

/// A caller that was not heard for this long does not count. Members call every few seconds while they
/// miss one of their own.
const CALLER_AGE_MAX: Duration = Duration::from_secs(20);

/// Between two evaluations.
const EVERY: Duration = Duration::from_millis(500);

/// Callers that are remembered. More do not change the decision for any cluster that could exist here.
const CALLERS_MAX: usize = 1_024;

/// Members of other clusters that called this node for one of their own members.
#[derive(Debug, Default)]
pub(super) struct ForeignCallers(Mutex<BTreeMap<(ClusterId, NodeId), Instant>>);

impl ForeignCallers {
    /// A member of another cluster called, expecting a member of its cluster here.
    pub(super) fn on_call(&self, cluster: ClusterId, node: NodeId, now: Instant) {
        let mut callers = self.callers();
        callers.retain(|_, &mut at| now.saturating_duration_since(at) < CALLER_AGE_MAX);
        if callers.len() < CALLERS_MAX || callers.contains_key(&(cluster, node)) {
            callers.insert((cluster, node), now);
        }
    }

    /// The other cluster to which this node's address belongs, if it does. `links` is the number of
    /// other members of this node's own cluster that it has a link to: one stray caller must not stop a
    /// node of a healthy cluster.
    pub(super) fn conflict(&self, links: usize, now: Instant) -> Option<ClusterId> {
        #[cfg(feature = "planted-bugs")]
        if super::planted::ignores_foreign_callers() {
            return None;
        }
        let mut counts: BTreeMap<ClusterId, usize> = BTreeMap::new();
        for (&(cluster, _), &at) in self.callers().iter() {
            if now.saturating_duration_since(at) < CALLER_AGE_MAX {
                *counts.entry(cluster).or_default() += 1;
            }
        }
        let (cluster, count) = counts.into_iter().max_by_key(|&(_, count)| count)?;
        (count > links).then_some(cluster)
    }

    fn callers(&self) -> MutexGuard<'_, BTreeMap<(ClusterId, NodeId), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Evaluates the calls until `shutdown`.
pub(super) async fn run(
    ours: ClusterId,
    callers: Arc<ForeignCallers>,
    reachable: watch::Receiver<BTreeSet<NodeId>>,
    conflict: watch::Sender<Option<ClusterId>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut ticks = interval(EVERY);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        // This node is in the set.
        let links = reachable.borrow().len().saturating_sub(1);
        let found = callers.conflict(links, Instant::now());
        let changed = conflict.send_if_modified(|known| std::mem::replace(known, found) != found);
        match found {
            Some(theirs) if changed => tracing::error!(%ours, %theirs, "{}", text(ours, theirs)),
            None if changed => {
                tracing::info!(%ours, "no other cluster dials this address any more")
            }
            _ => {}
        }
    }
}

/// What an operator is told about a conflict.
pub(super) fn text(ours: ClusterId, theirs: ClusterId) -> String {
    format!(
        "members of cluster {theirs} dial this node's address as one of theirs, and this node belongs to \
         cluster {ours}: it accepts no publishes. If {theirs} is the right cluster, stop this node and \
         start it with its old data directory, or with an empty one and --join; otherwise remove the \
         stale member there"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: ClusterId = ClusterId(9);

    #[test]
    fn a_lone_node_that_another_clusters_member_dials_is_in_conflict_until_the_calls_end() {
        let (callers, start) = (ForeignCallers::default(), Instant::now());
        assert_eq!(callers.conflict(0, start), None);
        callers.on_call(THEIRS, NodeId(2), start);
        assert_eq!(callers.conflict(0, start), Some(THEIRS));
        assert_eq!(callers.conflict(0, start + CALLER_AGE_MAX), None);
    }

    #[test]
    fn one_stray_caller_does_not_stop_a_node_of_a_healthy_cluster() {
        let (callers, start) = (ForeignCallers::default(), Instant::now());
        for _ in 0..10 {
            callers.on_call(THEIRS, NodeId(2), start);
        }
        assert_eq!(callers.conflict(2, start), None, "two links against one caller");
        callers.on_call(THEIRS, NodeId(3), start);
        callers.on_call(THEIRS, NodeId(4), start);
        assert_eq!(callers.conflict(2, start), Some(THEIRS), "two links against three callers");
        callers.on_call(ClusterId(10), NodeId(5), start);
        assert_eq!(callers.conflict(3, start), None, "callers of different clusters do not add up");
    }

    #[test]
    fn callers_are_bounded() {
        let (callers, start) = (ForeignCallers::default(), Instant::now());
        for node in 0..2 * CALLERS_MAX as u64 {
            callers.on_call(THEIRS, NodeId(node), start);
        }
        assert_eq!(callers.callers().len(), CALLERS_MAX);
        callers.on_call(THEIRS, NodeId(0), start + CALLER_AGE_MAX);
        assert_eq!(callers.callers().len(), 1, "old ones make room");
    }
}

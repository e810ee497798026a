//! Detection of two clusters at one address, by the calls of the other cluster's members.
//!
//! A node that was initialized by mistake in the place of a member of an older cluster looks healthy to
//! itself. The members of the older cluster still dial its address and name their cluster. While more of
//! them call than this node has links to members of its own cluster, the address belongs to them.
//!
//! A call is not authenticated on a port without TLS. Members are therefore counted by the hosts that they call
//! from: one host that invents members counts once, and cannot stop a node that has a link.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pushonce_core::{ClusterId, FailPoint, NodeId, UnavailableReason};
use tokio::sync::watch;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

/// Time after which a caller no longer counts. Members call every few seconds while one of their own is
/// missing.
const CALLER_AGE_MAX: Duration = Duration::from_secs(20);

/// Time between two evaluations.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum number of remembered callers. More would not change the decision for any realistic cluster.
const CALLERS_MAX: usize = 1_024;

/// Members of other clusters that called this node for one of their own members.
#[derive(Debug, Default)]
pub(super) struct ForeignCallers(Mutex<BTreeMap<(ClusterId, NodeId), Call>>);

/// The last call of a member.
#[derive(Clone, Copy, Debug)]
struct Call {
    at: Instant,
    /// `None` when it is not known.
    host: Option<IpAddr>,
}

impl ForeignCallers {
    /// Records the call of a member of another cluster that expects a member of its cluster here.
    pub(super) fn on_call(
        &self,
        cluster: ClusterId,
        node: NodeId,
        host: Option<IpAddr>,
        now: Instant,
    ) {
        let mut callers = self.lock_callers();
        callers.retain(|_, call| now.saturating_duration_since(call.at) < CALLER_AGE_MAX);
        if callers.len() < CALLERS_MAX || callers.contains_key(&(cluster, node)) {
            callers.insert((cluster, node), Call { at: now, host });
        }
    }

    /// Returns the other cluster to which this node's address belongs, if there is one. `links` is the number
    /// of other members of this node's own cluster that it has a link to: one stray caller must not stop a
    /// node of a healthy cluster.
    pub(super) fn conflicting_cluster(&self, links: usize, now: Instant) -> Option<ClusterId> {
        if FailPoint::AddressConflictIgnored.is_active() {
            return None;
        }
        let mut hosts: BTreeMap<ClusterId, BTreeSet<Option<IpAddr>>> = BTreeMap::new();
        for (&(cluster, _), call) in self.lock_callers().iter() {
            if now.saturating_duration_since(call.at) < CALLER_AGE_MAX {
                hosts.entry(cluster).or_default().insert(call.host);
            }
        }
        let (cluster, hosts) = hosts.into_iter().max_by_key(|(_, hosts)| hosts.len())?;
        (hosts.len() > links).then_some(cluster)
    }

    fn lock_callers(&self) -> MutexGuard<'_, BTreeMap<(ClusterId, NodeId), Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Evaluates the calls until `shutdown` is cancelled.
pub(super) async fn run(
    own_cluster: ClusterId,
    callers: Arc<ForeignCallers>,
    reachable: watch::Receiver<BTreeSet<NodeId>>,
    conflict_sender: watch::Sender<Option<ClusterId>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut ticks = interval(CHECK_INTERVAL);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        // The set contains this node.
        let links = reachable.borrow().len().saturating_sub(1);
        let conflicting = callers.conflicting_cluster(links, Instant::now());
        let changed = conflict_sender
            .send_if_modified(|known| std::mem::replace(known, conflicting) != conflicting);
        match conflicting {
            Some(other_cluster) if changed => {
                let (own, other) = (own_cluster, other_cluster);
                let details = UnavailableReason::AddressConflict { own, other };
                tracing::error!(%own_cluster, %other_cluster, %details, "address conflict between two clusters")
            }
            None if changed => {
                tracing::info!(%own_cluster, "address conflict ended")
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: ClusterId = ClusterId(9);

    fn host(number: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, number]))
    }

    #[test]
    fn isolated_node_called_by_members_of_another_cluster_is_in_conflict_until_the_calls_stop() {
        let (callers, start) = (ForeignCallers::default(), Instant::now());
        assert_eq!(callers.conflicting_cluster(0, start), None);
        callers.on_call(THEIRS, NodeId(2), host(2), start);
        assert_eq!(callers.conflicting_cluster(0, start), Some(THEIRS));
        assert_eq!(callers.conflicting_cluster(0, start + CALLER_AGE_MAX), None);
    }

    #[test]
    fn single_foreign_caller_does_not_stop_a_node_with_more_links() {
        let (callers, start) = (ForeignCallers::default(), Instant::now());
        for _ in 0..10 {
            callers.on_call(THEIRS, NodeId(2), host(2), start);
        }
        assert_eq!(callers.conflicting_cluster(2, start), None, "two links against one caller");
        callers.on_call(THEIRS, NodeId(3), host(3), start);
        callers.on_call(THEIRS, NodeId(4), host(4), start);
        assert_eq!(
            callers.conflicting_cluster(2, start),
            Some(THEIRS),
            "two links against three callers"
        );
        callers.on_call(ClusterId(10), NodeId(5), host(5), start);
        assert_eq!(
            callers.conflicting_cluster(3, start),
            None,
            "callers of different clusters do not add up"
        );
    }

    #[test]
    fn one_host_that_invents_members_does_not_stop_a_node_with_a_link() {
        let (callers, start) = (ForeignCallers::default(), Instant::now());
        for node in 2..100 {
            callers.on_call(THEIRS, NodeId(node), host(1), start);
        }
        assert_eq!(callers.conflicting_cluster(1, start), None);
        callers.on_call(THEIRS, NodeId(100), host(2), start);
        assert_eq!(callers.conflicting_cluster(1, start), Some(THEIRS), "two hosts against a link");
    }

    #[test]
    fn foreign_callers_are_bounded() {
        let (callers, start) = (ForeignCallers::default(), Instant::now());
        for node in 0..2 * CALLERS_MAX as u64 {
            callers.on_call(THEIRS, NodeId(node), None, start);
        }
        assert_eq!(callers.lock_callers().len(), CALLERS_MAX);
        callers.on_call(THEIRS, NodeId(0), None, start + CALLER_AGE_MAX);
        assert_eq!(callers.lock_callers().len(), 1, "expired callers are removed");
    }
}

//! The next task of the leader of the control group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pushonce_consensus::GroupStatus;
use pushonce_core::{ClusterView, MemberState, NodeId, Placement};

use crate::reconcile::{self, DesiredReplicas, NodeAvailability, ReconcileStep};
use crate::voters::select_voters;

/// A task of the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LeaderTask {
    /// A joining member has caught up and becomes active.
    Activate(NodeId),
    /// A joining member has not been reachable for a long time and is dropped.
    ExpireJoining(NodeId),
    /// The membership of the control group changes.
    ChangeGroup(ReconcileStep),
    /// The placement of the ring differs from the committed one.
    SetPlacement { version: u64, replicas: Vec<Vec<NodeId>> },
}

/// The placement that the ring proposes, computed once for each view. The leader checks it at every change
/// of a link or of its own status, and the ring of 1,000 nodes has 128,000 points.
#[derive(Debug, Default)]
pub(crate) struct PlacementCache {
    view_version: Option<u64>,
    replicas: Vec<Vec<NodeId>>,
}

/// How long a joining member may be unreachable before it is dropped. A node that has joined is linked within
/// seconds; an operator who prepares a network needs minutes.
pub(crate) const JOINING_TIMEOUT: Duration = Duration::from_secs(600);

/// Since when the leader has seen each joining member without a link.
#[derive(Debug, Default)]
pub(crate) struct JoiningTracker(BTreeMap<NodeId, Instant>);

impl JoiningTracker {
    /// Follows the view and the links. Returns a member that has been joining and unreachable for
    /// [`JOINING_TIMEOUT`].
    pub(crate) fn find_expired(
        &mut self,
        view: &ClusterView,
        reachable: &BTreeSet<NodeId>,
        now: Instant,
    ) -> Option<NodeId> {
        let is_absent = |node: &NodeId| {
            let state = view.member(*node).map(|member| member.state);
            state == Some(MemberState::Joining) && !reachable.contains(node)
        };
        self.0.retain(|node, _| is_absent(node));
        for &node in view.members.keys().filter(|node| is_absent(node)) {
            self.0.entry(node).or_insert(now);
        }
        let is_expired = |since: &Instant| now.saturating_duration_since(*since) >= JOINING_TIMEOUT;
        self.0.iter().find(|(_, since)| is_expired(since)).map(|(&node, _)| node)
    }

    /// Whether a member may expire by the passing of time alone.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.0.is_empty()
    }
}

/// The next task of `me` as the leader, if any. Members are activated before the placement changes, so that
/// one placement includes as many of them as possible.
pub(crate) fn next_task(
    me: NodeId,
    view: &ClusterView,
    status: &GroupStatus,
    reachable: &BTreeSet<NodeId>,
    expired: Option<NodeId>,
    cache: &mut PlacementCache,
) -> Option<LeaderTask> {
    if !status.is_leader {
        return None;
    }
    // Removed nodes count as unreachable, also while their links are still up.
    let is_member = |node: &&NodeId| view.members.contains_key(node);
    // The current leader is the preferred one, so backoff and stopping nodes need not be tracked.
    let nodes = || NodeAvailability {
        reachable: reachable.iter().filter(is_member).copied().collect(),
        ..NodeAvailability::default()
    };
    let group_step =
        || reconcile::plan(status, me, &desired_replicas(me, view, status, reachable), &nodes());
    activate_task(view, status)
        .or(expired.map(LeaderTask::ExpireJoining))
        .or_else(|| group_step().map(LeaderTask::ChangeGroup))
        .or_else(|| placement_task(view, cache))
}

/// Every member is at least a learner, so that every node has the view.
fn desired_replicas(
    me: NodeId,
    view: &ClusterView,
    status: &GroupStatus,
    reachable: &BTreeSet<NodeId>,
) -> DesiredReplicas {
    DesiredReplicas {
        voters: select_voters(view, &status.voters, me, reachable),
        learners: view.members.keys().copied().collect(),
    }
}

fn activate_task(view: &ClusterView, status: &GroupStatus) -> Option<LeaderTask> {
    let joining = view.members.values().filter(|m| m.state == MemberState::Joining);
    joining
        .map(|m| m.id)
        .find(|&node| reconcile::is_caught_up(status, node))
        .map(LeaderTask::Activate)
}

fn placement_task(view: &ClusterView, cache: &mut PlacementCache) -> Option<LeaderTask> {
    if cache.view_version != Some(view.version) {
        *cache =
            PlacementCache { view_version: Some(view.version), replicas: Placement::compute(view) };
    }
    let replicas = &cache.replicas;
    let differs = *replicas != view.placement.replicas && replicas.iter().all(|r| !r.is_empty());
    differs.then(|| LeaderTask::SetPlacement {
        version: view.placement.version + 1,
        replicas: replicas.clone(),
    })
}

#[cfg(test)]
mod tests {
    use pushonce_core::Term;

    use super::*;
    use crate::state::state_test::view_with_labels;

    fn leading(voters: &[u64], learners: &[u64]) -> GroupStatus {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        GroupStatus {
            leader: Some(NodeId(1)),
            term: Term(1),
            is_leader: true,
            initialized: true,
            voters: ids(voters),
            learners: ids(learners),
            last_log_index: 50,
            matched: voters.iter().chain(learners).map(|&n| (NodeId(n), 50)).collect(),
            ..GroupStatus::default()
        }
    }

    fn due_task(view: &ClusterView, status: &GroupStatus) -> Option<LeaderTask> {
        let reachable = view.members.keys().copied().collect();
        next_task(NodeId(1), view, status, &reachable, None, &mut PlacementCache::default())
    }

    fn joining(view: &mut ClusterView, node: u64) {
        view.members.get_mut(&NodeId(node)).unwrap().state = MemberState::Joining;
    }

    #[test]
    fn placement_is_proposed_again_when_the_view_version_changes() {
        let mut view = view_with_labels(&[("", ""); 3]);
        let mut cache = PlacementCache::default();
        let first = placement_task(&view, &mut cache);
        assert!(matches!(first, Some(LeaderTask::SetPlacement { .. })));
        assert_eq!(placement_task(&view, &mut cache), first);
        view.members.remove(&NodeId(3));
        assert_eq!(placement_task(&view, &mut cache), first, "the version has not changed");
        view.version += 1;
        assert_ne!(placement_task(&view, &mut cache), first);
    }

    #[test]
    fn follower_has_no_task() {
        let mut status = leading(&[1], &[]);
        status.is_leader = false;
        assert_eq!(due_task(&view_with_labels(&[("", ""); 2]), &status), None);
    }

    #[test]
    fn new_member_is_added_before_it_has_a_link_and_activated_when_caught_up() {
        let mut view = view_with_labels(&[("", ""); 2]);
        joining(&mut view, 2);
        let alone = BTreeSet::from([NodeId(1)]);
        let added = next_task(
            NodeId(1),
            &view,
            &leading(&[1], &[]),
            &alone,
            None,
            &mut PlacementCache::default(),
        );
        assert_eq!(added, Some(LeaderTask::ChangeGroup(ReconcileStep::AddLearner(NodeId(2)))));

        let mut status = leading(&[1], &[2]);
        status.matched.insert(NodeId(2), 0);
        assert_ne!(due_task(&view, &status), Some(LeaderTask::Activate(NodeId(2))));
        status.matched.insert(NodeId(2), 50);
        assert_eq!(due_task(&view, &status), Some(LeaderTask::Activate(NodeId(2))));
    }

    #[test]
    fn three_active_members_vote_before_the_placement_is_proposed() {
        let view = view_with_labels(&[("", ""); 3]);
        let promoted = due_task(&view, &leading(&[1], &[2, 3]));
        assert!(matches!(
            promoted,
            Some(LeaderTask::ChangeGroup(ReconcileStep::Promote { node: NodeId(2), .. }))
        ));
        let placed = due_task(&view, &leading(&[1, 2, 3], &[]));
        let Some(LeaderTask::SetPlacement { version, replicas }) = placed else {
            panic!("{placed:?}")
        };
        assert_eq!(version, view.placement.version + 1);
        assert_eq!(replicas, Placement::compute(&view));
    }

    #[test]
    fn nothing_is_due_when_the_cluster_matches_the_desired_state() {
        let mut view = view_with_labels(&[("", ""); 3]);
        view.placement.replicas = Placement::compute(&view);
        assert_eq!(due_task(&view, &leading(&[1, 2, 3], &[])), None);
    }

    /// The two remaining members need one vote. If the live one left first, the group would have no
    /// majority, because the removed one cannot be reached.
    #[test]
    fn removed_voter_leaves_before_a_living_one_while_its_link_is_up() {
        for gone in [2, 3] {
            let mut view = view_with_labels(&[("", ""); 3]);
            view.members.remove(&NodeId(gone));
            let linked = [1, 2, 3].map(NodeId).into();
            let status = leading(&[1, 2, 3], &[]);
            let task =
                next_task(NodeId(1), &view, &status, &linked, None, &mut PlacementCache::default());
            let Some(LeaderTask::ChangeGroup(ReconcileStep::RemoveVoter { node, .. })) = task
            else {
                panic!("{task:?}")
            };
            assert_eq!(node, NodeId(gone));
        }
    }

    #[test]
    fn removed_voter_loses_its_vote_and_removed_learner_is_dropped() {
        let mut view = view_with_labels(&[("", ""); 4]);
        view.placement.replicas = Placement::compute(&view);
        view.members.remove(&NodeId(4));
        let dropped = due_task(&view, &leading(&[1, 2, 3], &[4]));
        assert_eq!(dropped, Some(LeaderTask::ChangeGroup(ReconcileStep::RemoveLearner(NodeId(4)))));
        let first = due_task(&view, &leading(&[1, 2, 4], &[3]));
        assert!(matches!(
            first,
            Some(LeaderTask::ChangeGroup(ReconcileStep::Promote { node: NodeId(3), .. }))
        ));
        let replaced = due_task(&view, &leading(&[1, 2, 3, 4], &[]));
        assert!(matches!(
            replaced,
            Some(LeaderTask::ChangeGroup(ReconcileStep::RemoveVoter { node: NodeId(4), .. }))
        ));
    }

    #[test]
    fn joining_member_without_a_link_expires_after_ten_minutes() {
        let mut view = view_with_labels(&[("", ""); 3]);
        joining(&mut view, 2);
        let (mut tracker, start) = (JoiningTracker::default(), Instant::now());
        let (alone, linked) = (BTreeSet::from([NodeId(1)]), [1, 2].map(NodeId).into());
        assert_eq!(tracker.find_expired(&view, &alone, start), None);
        assert!(tracker.is_waiting());
        let almost = start + JOINING_TIMEOUT - Duration::from_secs(1);
        assert_eq!(tracker.find_expired(&view, &alone, almost), None);
        assert_eq!(tracker.find_expired(&view, &linked, almost), None);
        assert!(!tracker.is_waiting(), "a linked member does not wait");
        assert_eq!(
            tracker.find_expired(&view, &alone, start + JOINING_TIMEOUT),
            None,
            "starts anew"
        );
        let expired = tracker.find_expired(&view, &alone, start + 2 * JOINING_TIMEOUT);
        assert_eq!(expired, Some(NodeId(2)), "an active member without a link stays");
        let status = leading(&[1, 3], &[2]);
        let status = GroupStatus { matched: [(NodeId(2), 0)].into(), ..status };
        let mut cache = PlacementCache::default();
        let task = next_task(NodeId(1), &view, &status, &alone, expired, &mut cache);
        assert_eq!(task, Some(LeaderTask::ExpireJoining(NodeId(2))));
    }

    #[test]
    fn placement_without_holders_is_never_proposed() {
        let mut view = view_with_labels(&[("", ""); 1]);
        joining(&mut view, 1);
        assert_eq!(placement_task(&view, &mut PlacementCache::default()), None);
    }
}

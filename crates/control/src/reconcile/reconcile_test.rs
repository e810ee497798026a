use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LAST_LOG: u64 = 100;

fn ids<C: FromIterator<NodeId>>(ids: &[u64]) -> C {
    ids.iter().copied().map(NodeId).collect()
}

/// Nodes with links and without any backoff.
fn reachable_nodes(to: &[u64]) -> NodeAvailability {
    NodeAvailability { reachable: ids(to), ..NodeAvailability::default() }
}

/// A group as its leader sees it, to which steps can be applied.
#[derive(Clone, Debug)]
struct GroupModel {
    leader: NodeId,
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    caught_up: BTreeSet<NodeId>,
    alive: BTreeSet<NodeId>,
    in_backoff: BTreeSet<NodeId>,
    stopping: BTreeSet<NodeId>,
}

impl GroupModel {
    fn new(leader: u64, voters: &[u64], learners: &[u64]) -> GroupModel {
        GroupModel {
            leader: NodeId(leader),
            voters: ids(voters),
            learners: ids(learners),
            caught_up: ids(voters),
            alive: (1..=9).map(NodeId).collect(),
            in_backoff: BTreeSet::new(),
            stopping: BTreeSet::new(),
        }
    }

    fn with_dead(mut self, dead: &[u64]) -> GroupModel {
        self.alive.retain(|node| !dead.contains(&node.0));
        self
    }

    fn with_caught_up(mut self, caught_up: &[u64]) -> GroupModel {
        self.caught_up = ids(caught_up);
        self
    }

    fn has_quorum(&self) -> bool {
        self.voters.intersection(&self.alive).count() > self.voters.len() / 2
    }

    fn status(&self) -> GroupStatus {
        let matched = |&node: &NodeId| {
            let last = if self.caught_up.contains(&node) { LAST_LOG } else { 1 };
            (node, last)
        };
        GroupStatus {
            leader: Some(self.leader),
            is_leader: self.has_quorum(),
            initialized: true,
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            last_log_index: LAST_LOG,
            matched: self.voters.iter().chain(&self.learners).map(matched).collect(),
            ..GroupStatus::default()
        }
    }

    fn plan(&self, desired: &DesiredReplicas) -> Option<ReconcileStep> {
        plan(&self.status(), self.leader, desired, &self.nodes())
    }

    fn nodes(&self) -> NodeAvailability {
        NodeAvailability {
            reachable: self.alive.clone(),
            in_backoff: self.in_backoff.clone(),
            stopping: self.stopping.clone(),
        }
    }

    fn progress(&self, desired: &DesiredReplicas) -> Option<ReconcileProgress> {
        progress::current_progress(&self.status(), self.leader, desired, &self.nodes())
    }

    fn next_step(&self, desired: &[u64]) -> Option<ReconcileStep> {
        self.plan(&DesiredReplicas::from(ids::<Vec<_>>(desired).as_slice()))
    }

    /// Performs a step as the engine would, and checks the invariants of each step.
    fn perform(&mut self, step: ReconcileStep, desired: &DesiredReplicas) {
        match step {
            ReconcileStep::AddLearner(node) => {
                assert!(!self.voters.contains(&node) && self.learners.insert(node));
            }
            ReconcileStep::RemoveLearner(node) => {
                assert!(self.learners.remove(&node));
                assert!(!desired.voters.contains(&node) && !desired.learners.contains(&node));
                self.caught_up.remove(&node);
            }
            ReconcileStep::Promote { node, voters } => {
                assert!(self.learners.remove(&node), "{node} votes without having been a learner");
                assert!(self.alive.contains(&node) && self.caught_up.contains(&node));
                assert!(desired.voters.contains(&node));
                assert_eq!(voters.difference(&self.voters).collect::<Vec<_>>(), [&node]);
                assert!(self.voters.is_subset(&voters));
                self.voters = voters;
            }
            ReconcileStep::RemoveVoter { node, voters } => {
                assert_ne!(node, self.leader, "a leader was removed before a transfer");
                assert!(!desired.voters.contains(&node));
                assert_eq!(self.voters.difference(&voters).collect::<Vec<_>>(), [&node]);
                assert!(voters.is_subset(&self.voters));
                self.voters = voters;
                self.caught_up.remove(&node);
            }
            ReconcileStep::TransferLeadership(node) => {
                assert!(self.voters.contains(&node) && self.alive.contains(&node));
                assert!(self.caught_up.contains(&node) && node != self.leader);
                assert!(!self.in_backoff.contains(&node));
                self.leader = node;
            }
            ReconcileStep::FinishJointChange { .. } => panic!("the model has no joint changes"),
        }
        assert!(self.has_quorum(), "the live voters lost their majority: {self:?}");
        assert!(self.voters.contains(&self.leader));
    }

    /// Asserts that an idle group is in its desired state or reports what it waits for.
    fn assert_wait_is_explained(&self, desired: &DesiredReplicas) {
        let voters = desired.voters.iter().copied().collect();
        let done = self.voters == voters && desired.voters.first() == Some(&self.leader);
        assert_eq!(self.progress(desired).is_none(), done || !self.has_quorum(), "{self:?}");
    }

    /// Performs steps until nothing is left to do; live replicas catch up whenever the group waits.
    fn reconcile(&mut self, desired: &DesiredReplicas) {
        for _ in 0..100 {
            if let Some(step) = self.plan(desired) {
                self.perform(step, desired);
                continue;
            }
            let members = self.voters.union(&self.learners);
            let caught_up: BTreeSet<_> =
                members.copied().filter(|node| self.alive.contains(node)).collect();
            if caught_up.is_subset(&self.caught_up) {
                self.assert_wait_is_explained(desired);
                return;
            }
            self.caught_up.extend(caught_up);
        }
        panic!("the group does not converge: {self:?}");
    }
}

fn promote_step(node: u64, voters: &[u64]) -> Option<ReconcileStep> {
    Some(ReconcileStep::Promote { node: NodeId(node), voters: ids(voters) })
}

fn remove_voter_step(node: u64, voters: &[u64]) -> Option<ReconcileStep> {
    Some(ReconcileStep::RemoveVoter { node: NodeId(node), voters: ids(voters) })
}

#[test]
fn stopping_leader_hands_over_to_a_caught_up_responsive_voter() {
    let next = |model: &GroupModel, preferred: &[u64]| {
        let preferred: Vec<_> = ids(preferred);
        let (status, nodes) = (model.status(), model.nodes());
        successor(&status, model.leader, &nodes, &preferred, &ids(&[])).map(|node| node.0)
    };
    let model = GroupModel::new(1, &[1, 2, 3], &[4]);
    assert_eq!(next(&model, &[1, 3, 2]), Some(3));
    assert_eq!(next(&model, &[4]), Some(2), "a learner cannot lead");
    assert_eq!(next(&model.clone().with_dead(&[2]), &[2]), Some(3));
    assert_eq!(next(&model.clone().with_dead(&[2]).with_caught_up(&[1, 2]), &[]), None);
    assert_eq!(next(&GroupModel::new(1, &[1], &[]), &[]), None, "there is no other voter");
    let stopping = GroupModel { stopping: ids(&[2]), ..model.clone() };
    assert_eq!(next(&stopping, &[2]), Some(3), "n2 is stopping too");
    let silent = GroupStatus { unresponsive: ids(&[2, 3]), ..model.status() };
    assert_eq!(successor(&silent, NodeId(1), &model.nodes(), &[], &ids(&[])), None);
    let joint = GroupStatus { is_joint: true, ..model.status() };
    assert_eq!(successor(&joint, NodeId(1), &model.nodes(), &[], &ids(&[])), None);
}

#[test]
fn node_that_failed_to_take_over_is_retried_when_there_is_no_other() {
    let model = GroupModel::new(1, &[1, 2, 3], &[]);
    let next = |model: &GroupModel, failed: &[u64]| {
        let (status, nodes) = (model.status(), model.nodes());
        successor(&status, NodeId(1), &nodes, &ids::<Vec<_>>(&[3]), &ids(failed))
    };
    assert_eq!(next(&model, &[3]), Some(NodeId(2)));
    assert_eq!(next(&model, &[2, 3]), Some(NodeId(3)));
    assert_eq!(next(&model.with_dead(&[2]), &[3]), Some(NodeId(3)));
}

#[test]
fn follower_plans_no_step() {
    let mut status = GroupModel::new(1, &[1], &[]).status();
    status.is_leader = false;
    let desired = DesiredReplicas::from(ids::<Vec<_>>(&[1, 2]).as_slice());
    assert_eq!(plan(&status, NodeId(1), &desired, &reachable_nodes(&[1, 2])), None);
}

#[test]
fn empty_desired_list_plans_no_step() {
    assert_eq!(GroupModel::new(1, &[1, 2], &[3]).next_step(&[]), None);
}

#[test]
fn new_replica_follows_then_votes_when_it_is_caught_up() {
    assert_eq!(
        GroupModel::new(1, &[1], &[]).next_step(&[1, 2]),
        Some(ReconcileStep::AddLearner(NodeId(2)))
    );
    assert_eq!(GroupModel::new(1, &[1], &[2]).next_step(&[1, 2]), None);
    assert_eq!(
        GroupModel::new(1, &[1], &[2]).with_caught_up(&[1, 2]).next_step(&[1, 2]),
        promote_step(2, &[1, 2])
    );
}

#[test]
fn follower_without_known_progress_is_not_caught_up_in_a_short_log() {
    let mut status = GroupModel::new(1, &[1], &[2]).status();
    status.last_log_index = 3;
    status.matched = BTreeMap::from([(NodeId(1), 3)]);
    assert!(!is_caught_up(&status, NodeId(2)));
    status.matched.insert(NodeId(2), 0);
    assert!(!is_caught_up(&status, NodeId(2)));
    status.matched.insert(NodeId(2), 3);
    assert!(is_caught_up(&status, NodeId(2)));
}

#[test]
fn unreachable_new_replica_is_neither_added_nor_promoted() {
    assert_eq!(GroupModel::new(1, &[1], &[]).with_dead(&[2]).next_step(&[1, 2]), None);
    assert_eq!(
        GroupModel::new(1, &[1], &[2]).with_caught_up(&[1, 2]).with_dead(&[2]).next_step(&[1, 2]),
        None
    );
}

#[test]
fn unreachable_voter_keeps_its_vote_while_it_is_desired() {
    assert_eq!(GroupModel::new(1, &[1, 2, 3], &[]).with_dead(&[3]).next_step(&[1, 2, 3]), None);
}

#[test]
fn replacement_is_added_before_the_old_voter_is_removed() {
    let mut group = GroupModel::new(1, &[1, 2, 3], &[4]).with_caught_up(&[1, 2, 3, 4]);
    let desired = [1, 2, 4];
    assert_eq!(group.next_step(&desired), promote_step(4, &[1, 2, 3, 4]));
    group = GroupModel::new(1, &[1, 2, 3, 4], &[]);
    assert_eq!(group.next_step(&desired), remove_voter_step(3, &[1, 2, 4]));
}

#[test]
fn unreachable_undesired_voter_is_removed_at_once_if_that_lowers_the_quorum() {
    let three = GroupModel::new(1, &[1, 2, 3], &[4]).with_dead(&[3]);
    assert_eq!(three.next_step(&[1, 2, 4]), None, "it may come back before another is lost");
    let caught_up = three.with_caught_up(&[1, 2, 4]);
    assert_eq!(caught_up.next_step(&[1, 2, 4]), promote_step(4, &[1, 2, 3, 4]));
    let four = GroupModel::new(1, &[1, 2, 3, 4], &[]).with_dead(&[3]);
    assert_eq!(four.next_step(&[1, 2, 4, 5]), remove_voter_step(3, &[1, 2, 4]));
    let mut five = GroupModel::new(1, &[1, 2, 3, 4, 5], &[]).with_dead(&[2, 4]);
    assert_eq!(five.next_step(&[1, 3, 5, 6, 7]), remove_voter_step(2, &[1, 3, 4, 5]));
    five.voters = ids(&[1, 3, 4, 5]);
    assert_eq!(five.next_step(&[1, 3, 5, 6, 7]), remove_voter_step(4, &[1, 3, 5]));
}

#[test]
fn unreachable_undesired_voter_is_not_removed_if_one_copy_would_remain() {
    let mut two = GroupModel::new(1, &[1, 2], &[4]).with_dead(&[2]).status();
    // The link is down but Raft's own connection is not: the group still has its quorum.
    two.is_leader = true;
    let desired = DesiredReplicas::from(ids::<Vec<_>>(&[1, 4]).as_slice());
    assert_eq!(plan(&two, NodeId(1), &desired, &reachable_nodes(&[1, 4])), None);
}

/// The link is still up: a link takes seconds to detect that its peer is suspended.
#[test]
fn unresponsive_undesired_voter_is_removed_before_a_responsive_one() {
    for (unresponsive, responsive) in [(2, 3), (3, 2)] {
        let mut status = GroupModel::new(1, &[1, 2, 3], &[]).status();
        status.unresponsive = ids(&[unresponsive]);
        let desired = DesiredReplicas::from(ids::<Vec<_>>(&[1]).as_slice());
        let step = plan(&status, NodeId(1), &desired, &reachable_nodes(&[1, 2, 3]));
        assert_eq!(step, remove_voter_step(unresponsive, &[1, responsive]));
        let desired = DesiredReplicas::from(ids::<Vec<_>>(&[1, unresponsive]).as_slice());
        assert_eq!(plan(&status, NodeId(1), &desired, &reachable_nodes(&[1, 2, 3])), None);
    }
}

#[test]
fn voter_is_not_removed_when_the_others_would_lose_their_majority() {
    let group = GroupModel::new(1, &[1, 2, 3, 4], &[]).with_dead(&[2]);
    assert_eq!(group.next_step(&[1, 2, 3]), remove_voter_step(4, &[1, 2, 3]));
    let mut status = GroupModel::new(1, &[1, 2, 3, 4], &[]).with_dead(&[2, 3]).status();
    status.is_leader = true;
    let desired = DesiredReplicas::from(ids::<Vec<_>>(&[1, 2, 3]).as_slice());
    assert_eq!(plan(&status, NodeId(1), &desired, &reachable_nodes(&[1, 4])), None);
}

#[test]
fn preferred_owner_leads_when_no_other_step_is_left() {
    let transfer = Some(ReconcileStep::TransferLeadership(NodeId(2)));
    assert_eq!(GroupModel::new(1, &[1, 2, 3], &[]).next_step(&[2, 1, 3]), transfer);
    assert_eq!(GroupModel::new(1, &[1, 2], &[3]).next_step(&[2, 1, 3]), None, "n3 is catching up");
    assert_eq!(GroupModel::new(1, &[1, 2], &[]).with_dead(&[3]).next_step(&[2, 1, 3]), transfer);
}

#[test]
fn leadership_never_moves_to_an_unreachable_or_lagging_voter() {
    assert_eq!(GroupModel::new(1, &[1, 2, 3], &[]).with_dead(&[2]).next_step(&[2, 1, 3]), None);
    assert_eq!(
        GroupModel::new(1, &[1, 2, 3], &[]).with_caught_up(&[1, 3]).next_step(&[2, 1, 3]),
        None
    );
}

#[test]
fn node_in_backoff_is_not_handed_the_leadership() {
    let mut group = GroupModel::new(1, &[1, 2, 3], &[]);
    group.in_backoff = ids(&[2]);
    assert_eq!(group.next_step(&[2, 1, 3]), None);
    assert_eq!(
        group.next_step(&[2, 3]),
        Some(ReconcileStep::TransferLeadership(NodeId(3))),
        "an undesired leader chooses another voter"
    );
}

#[test]
fn preferred_leader_that_is_stopping_is_not_handed_the_lead() {
    let mut group = GroupModel::new(1, &[1, 2, 3], &[]);
    group.stopping = ids(&[2]);
    assert_eq!(group.next_step(&[2, 1, 3]), None);
    let desired = DesiredReplicas::from(ids::<Vec<_>>(&[2, 1, 3]).as_slice());
    let progress = group.progress(&desired).map(|progress| progress.to_string());
    assert_eq!(
        progress.as_deref(),
        Some("waiting to transfer leadership to n2, which is stopping")
    );
    group.stopping.clear();
    assert_eq!(group.next_step(&[2, 1, 3]), Some(ReconcileStep::TransferLeadership(NodeId(2))));
}

/// The link shows that the node is up, but its replica does not count as a copy.
#[test]
fn unresponsive_replica_on_a_reachable_node_is_reported() {
    let group = GroupModel::new(1, &[1, 2, 3], &[]);
    let status = GroupStatus { unresponsive: ids(&[3]), ..group.status() };
    let desired = DesiredReplicas::from(ids::<Vec<_>>(&[1, 2, 3]).as_slice());
    let reported =
        |nodes: &NodeAvailability| progress::current_progress(&status, NodeId(1), &desired, nodes);
    assert_eq!(reported(&group.nodes()), Some(ReconcileProgress::Unresponsive(NodeId(3))));
    let dead = NodeAvailability { reachable: ids(&[1, 2]), ..NodeAvailability::default() };
    assert_eq!(reported(&dead), None, "an unreachable member is reported as a member");
}

#[test]
fn waiting_group_reports_what_it_waits_for() {
    let progress_text = |group: &GroupModel, desired: &[u64]| {
        let progress = group.progress(&DesiredReplicas::from(ids::<Vec<_>>(desired).as_slice()));
        progress.map(|progress| progress.to_string())
    };
    let progress_text_or_empty =
        |group: &GroupModel, desired: &[u64]| progress_text(group, desired).unwrap_or_default();
    assert_eq!(progress_text(&GroupModel::new(1, &[1, 2, 3], &[]), &[1, 2, 3]), None);
    assert_eq!(
        progress_text_or_empty(&GroupModel::new(1, &[1], &[]), &[1, 2]),
        "adding n2 as a learner"
    );
    let lagging = GroupModel::new(1, &[1], &[4]);
    assert_eq!(progress_text_or_empty(&lagging, &[1, 4]), "n4 is catching up: 1 of 100 entries");
    let dead = "waiting for n2, which cannot be reached";
    assert_eq!(
        progress_text_or_empty(&GroupModel::new(1, &[1], &[]).with_dead(&[2]), &[1, 2]),
        dead
    );
    assert_eq!(
        progress_text_or_empty(&GroupModel::new(1, &[1, 2, 3], &[]).with_dead(&[2]), &[2, 1, 3]),
        dead
    );
    let mut in_backoff = GroupModel::new(1, &[1, 2, 3], &[]);
    assert_eq!(progress_text_or_empty(&in_backoff, &[2, 1, 3]), "transferring leadership to n2");
    in_backoff.in_backoff = ids(&[2]);
    assert_eq!(
        progress_text_or_empty(&in_backoff, &[2, 1, 3]),
        "waiting to transfer leadership to n2, which lost it a moment ago"
    );
}

#[test]
fn undesired_leader_hands_over_when_all_desired_voters_vote() {
    assert_eq!(GroupModel::new(1, &[1, 2, 3], &[4]).next_step(&[2, 3, 4]), None);
    let complete = GroupModel::new(1, &[1, 2, 3, 4], &[]);
    assert_eq!(complete.next_step(&[2, 3, 4]), Some(ReconcileStep::TransferLeadership(NodeId(2))));
    let first_is_dead = GroupModel::new(1, &[1, 2, 3, 4], &[]).with_dead(&[2]);
    assert_eq!(
        first_is_dead.next_step(&[2, 3, 4]),
        Some(ReconcileStep::TransferLeadership(NodeId(3)))
    );
    assert_eq!(
        GroupModel::new(2, &[1, 2, 3, 4], &[]).next_step(&[2, 3, 4]),
        remove_voter_step(1, &[2, 3, 4])
    );
}

#[test]
fn joint_change_is_finished_before_another_step() {
    let mut status = GroupModel::new(1, &[1, 2, 3], &[]).status();
    status.is_joint = true;
    let desired = DesiredReplicas::from(ids::<Vec<_>>(&[1, 2]).as_slice());
    let finish = Some(ReconcileStep::FinishJointChange { voters: ids(&[1, 2, 3]) });
    assert_eq!(plan(&status, NodeId(1), &desired, &reachable_nodes(&[1, 2, 3])), finish);
}

#[test]
fn desired_learners_follow_and_a_former_voter_may_stay_as_one() {
    let desired = DesiredReplicas { voters: ids(&[1]), learners: ids(&[1, 2, 3]) };
    let mut group = GroupModel::new(1, &[1, 2], &[9]).with_dead(&[3]);
    group.reconcile(&desired);
    assert_eq!((group.voters, group.learners), (ids(&[1]), ids(&[2, 3])));
}

fn nodes(most: usize) -> impl Strategy<Value = Vec<NodeId>> {
    prop::collection::btree_set((1..=9u64).prop_map(NodeId), 1..=most)
        .prop_map(|nodes| nodes.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

prop_compose! {
    /// A group with a majority, in any state.
    fn any_group()(
        voters in nodes(5),
        learners in prop::collection::btree_set((1..=9u64).prop_map(NodeId), 0..4),
        caught_up in prop::collection::btree_set((1..=9u64).prop_map(NodeId), 0..9),
        dead in prop::collection::btree_set((1..=9u64).prop_map(NodeId), 0..4),
    ) -> GroupModel {
        let leader = voters[0];
        let voters: BTreeSet<_> = voters.into_iter().collect();
        let learners = &learners - &voters;
        let (alive, in_backoff) = (ids(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), BTreeSet::new());
        let stopping = BTreeSet::new();
        let mut group = GroupModel { leader, voters, learners, caught_up, alive, in_backoff, stopping };
        group.caught_up.insert(leader);
        for node in dead {
            group.alive.remove(&node);
            if !group.has_quorum() || node == group.leader {
                group.alive.insert(node);
            }
        }
        group
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn group_reaches_the_desired_replicas_from_any_state(
        mut group in any_group(),
        voters in nodes(5),
        learners in prop::collection::btree_set((1..=9u64).prop_map(NodeId), 0..9),
    ) {
        let wanted = DesiredReplicas { voters, learners };
        group.reconcile(&wanted);
        // After the faults end, the group must heal.
        group.alive = (1..=9).map(NodeId).collect();
        group.reconcile(&wanted);
        prop_assert_eq!(&group.voters, &wanted.voters.iter().copied().collect::<BTreeSet<_>>());
        prop_assert_eq!(&group.learners, &(&wanted.learners - &group.voters));
        prop_assert_eq!(group.leader, wanted.voters[0]);
    }

    #[test]
    fn every_step_is_safe_while_nodes_fail_and_the_desired_replicas_change(
        mut group in any_group(),
        turns in prop::collection::vec((nodes(3), 1..=9u64, 1..=9u64), 1..40),
    ) {
        let mut wanted = DesiredReplicas::from(turns[0].0.as_slice());
        for (turn, (desired, flips, catches_up)) in turns.into_iter().enumerate() {
            if turn % 7 == 6 {
                wanted = DesiredReplicas::from(desired.as_slice());
            }
            let (flips, catches_up) = (NodeId(flips), NodeId(catches_up));
            if !group.alive.remove(&flips) || !group.has_quorum() || flips == group.leader {
                group.alive.insert(flips);
            }
            group.caught_up.insert(catches_up);
            if let Some(step) = group.plan(&wanted) {
                group.perform(step, &wanted);
            }
        }
    }
}

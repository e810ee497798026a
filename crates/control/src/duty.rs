//! What the leader of the control group has to do next.

use std::collections::BTreeSet;

use pushonce_consensus::Status;
use pushonce_core::{ClusterView, MemberState, NodeId, Placement};

use crate::reconcile::{self, Nodes, Step, Wanted};
use crate::voters;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// A joining member is level: it may take its share.
    Activate(NodeId),
    /// The group itself has to change.
    Change(Step),
    /// The ring wants another table.
    Place { version: u64, replicas: Vec<Vec<NodeId>> },
}

/// The placement that the ring proposes, computed once for each view: the leader looks at every change of a
/// link or of its own status, and the ring of 1,000 nodes has 128,000 points.
#[derive(Debug, Default)]
pub(crate) struct Proposal {
    view_version: Option<u64>,
    replicas: Vec<Vec<NodeId>>,
}

/// The next duty of `me` as the leader, if there is one. Members come before the table, so that a
/// table is made for as many of them as possible.
pub(crate) fn next(
    me: NodeId,
    view: &ClusterView,
    status: &Status,
    reachable: &BTreeSet<NodeId>,
    proposal: &mut Proposal,
) -> Option<Duty> {
    if !status.leads {
        return None;
    }
    // Who is removed is not listened to any more, also while its links have not heard of it.
    let lives = |node: &&NodeId| view.members.contains_key(node);
    // The lead of this group goes only to who stays: nobody is preferred, so nobody is doubted.
    let nodes = || Nodes {
        reachable: reachable.iter().filter(lives).copied().collect(),
        ..Nodes::default()
    };
    let change = || reconcile::plan(status, me, &wanted(me, view, status, reachable), &nodes());
    activate(view, status).or_else(|| change().map(Duty::Change)).or_else(|| place(view, proposal))
}

/// Every member at least follows, so that every node has the view.
fn wanted(me: NodeId, view: &ClusterView, status: &Status, reachable: &BTreeSet<NodeId>) -> Wanted {
    Wanted {
        voters: voters(view, &status.voters, me, reachable),
        learners: view.members.keys().copied().collect(),
    }
}

fn activate(view: &ClusterView, status: &Status) -> Option<Duty> {
    let joining = view.members.values().filter(|m| m.state == MemberState::Joining);
    joining.map(|m| m.id).find(|&node| reconcile::level(status, node)).map(Duty::Activate)
}

fn place(view: &ClusterView, proposal: &mut Proposal) -> Option<Duty> {
    if proposal.view_version != Some(view.version) {
        *proposal =
            Proposal { view_version: Some(view.version), replicas: Placement::propose(view) };
    }
    let replicas = &proposal.replicas;
    let differs = *replicas != view.placement.replicas && replicas.iter().all(|r| !r.is_empty());
    differs.then(|| Duty::Place { version: view.placement.version + 1, replicas: replicas.clone() })
}

#[cfg(test)]
mod tests {
    use pushonce_core::Term;

    use super::*;
    use crate::state::state_test::view_of;

    fn leading(voters: &[u64], learners: &[u64]) -> Status {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        Status {
            leader: Some(NodeId(1)),
            term: Term(1),
            leads: true,
            initialized: true,
            voters: ids(voters),
            learners: ids(learners),
            last_log: 50,
            matched: voters.iter().chain(learners).map(|&n| (NodeId(n), 50)).collect(),
            ..Status::default()
        }
    }

    fn due(view: &ClusterView, status: &Status) -> Option<Duty> {
        let reachable = view.members.keys().copied().collect();
        next(NodeId(1), view, status, &reachable, &mut Proposal::default())
    }

    fn joining(view: &mut ClusterView, node: u64) {
        view.members.get_mut(&NodeId(node)).unwrap().state = MemberState::Joining;
    }

    #[test]
    fn the_placement_is_proposed_again_when_the_view_has_changed() {
        let mut view = view_of(&[("", ""); 3]);
        let mut proposal = Proposal::default();
        let first = place(&view, &mut proposal);
        assert!(matches!(first, Some(Duty::Place { .. })));
        assert_eq!(place(&view, &mut proposal), first);
        view.members.remove(&NodeId(3));
        assert_eq!(place(&view, &mut proposal), first, "the same version is the same view");
        view.version += 1;
        assert_ne!(place(&view, &mut proposal), first);
    }

    #[test]
    fn a_follower_has_no_duty() {
        let mut status = leading(&[1], &[]);
        status.leads = false;
        assert_eq!(due(&view_of(&[("", ""); 2]), &status), None);
    }

    #[test]
    fn a_newcomer_is_added_though_no_link_reaches_it_yet_and_activated_when_level() {
        let mut view = view_of(&[("", ""); 2]);
        joining(&mut view, 2);
        let alone = BTreeSet::from([NodeId(1)]);
        let added = next(NodeId(1), &view, &leading(&[1], &[]), &alone, &mut Proposal::default());
        assert_eq!(added, Some(Duty::Change(Step::AddLearner(NodeId(2)))));

        let mut status = leading(&[1], &[2]);
        status.matched.insert(NodeId(2), 0);
        assert_ne!(due(&view, &status), Some(Duty::Activate(NodeId(2))));
        status.matched.insert(NodeId(2), 50);
        assert_eq!(due(&view, &status), Some(Duty::Activate(NodeId(2))));
    }

    #[test]
    fn three_active_members_all_vote_and_then_the_table_follows() {
        let view = view_of(&[("", ""); 3]);
        let promoted = due(&view, &leading(&[1], &[2, 3]));
        assert!(matches!(promoted, Some(Duty::Change(Step::Promote { node: NodeId(2), .. }))));
        let placed = due(&view, &leading(&[1, 2, 3], &[]));
        let Some(Duty::Place { version, replicas }) = placed else { panic!("{placed:?}") };
        assert_eq!(version, view.placement.version + 1);
        assert_eq!(replicas, Placement::propose(&view));
    }

    #[test]
    fn when_all_is_as_it_should_be_nothing_is_due() {
        let mut view = view_of(&[("", ""); 3]);
        view.placement.replicas = Placement::propose(&view);
        assert_eq!(due(&view, &leading(&[1, 2, 3], &[])), None);
    }

    /// Two that are left need one vote: were the living one to go first, the other could not be heard,
    /// and nobody could decide anything any more.
    #[test]
    fn who_is_removed_leaves_before_who_lives_though_its_link_is_still_up() {
        for gone in [2, 3] {
            let mut view = view_of(&[("", ""); 3]);
            view.members.remove(&NodeId(gone));
            let linked = [1, 2, 3].map(NodeId).into();
            let status = leading(&[1, 2, 3], &[]);
            let due = next(NodeId(1), &view, &status, &linked, &mut Proposal::default());
            let Some(Duty::Change(Step::Retire { node, .. })) = due else { panic!("{due:?}") };
            assert_eq!(node, NodeId(gone));
        }
    }

    #[test]
    fn a_removed_member_loses_its_vote_and_a_removed_learner_its_place() {
        let mut view = view_of(&[("", ""); 4]);
        view.placement.replicas = Placement::propose(&view);
        view.members.remove(&NodeId(4));
        let dropped = due(&view, &leading(&[1, 2, 3], &[4]));
        assert_eq!(dropped, Some(Duty::Change(Step::RemoveLearner(NodeId(4)))));
        let replaced = due(&view, &leading(&[1, 2, 4], &[3]));
        assert!(matches!(replaced, Some(Duty::Change(Step::Retire { node: NodeId(4), .. }))));
    }

    #[test]
    fn a_table_for_nobody_is_never_proposed() {
        let mut view = view_of(&[("", ""); 1]);
        joining(&mut view, 1);
        assert_eq!(place(&view, &mut Proposal::default()), None);
    }
}

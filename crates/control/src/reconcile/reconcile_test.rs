use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LAST_LOG: u64 = 100;

fn ids<C: FromIterator<NodeId>>(ids: &[u64]) -> C {
    ids.iter().copied().map(NodeId).collect()
}

/// Links to these, and no doubt.
fn links(to: &[u64]) -> Nodes {
    Nodes { reachable: ids(to), ..Nodes::default() }
}

/// A group as its leader sees it, on which steps can be done.
#[derive(Clone, Debug)]
struct Model {
    leader: NodeId,
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    level: BTreeSet<NodeId>,
    living: BTreeSet<NodeId>,
    doubted: BTreeSet<NodeId>,
    stopping: BTreeSet<NodeId>,
}

impl Model {
    fn of(leader: u64, voters: &[u64], learners: &[u64]) -> Model {
        Model {
            leader: NodeId(leader),
            voters: ids(voters),
            learners: ids(learners),
            level: ids(voters),
            living: (1..=9).map(NodeId).collect(),
            doubted: BTreeSet::new(),
            stopping: BTreeSet::new(),
        }
    }

    fn dead(mut self, dead: &[u64]) -> Model {
        self.living.retain(|node| !dead.contains(&node.0));
        self
    }

    fn level(mut self, level: &[u64]) -> Model {
        self.level = ids(level);
        self
    }

    fn has_quorum(&self) -> bool {
        self.voters.intersection(&self.living).count() > self.voters.len() / 2
    }

    fn status(&self) -> Status {
        let matched = |&node: &NodeId| {
            let last = if self.level.contains(&node) { LAST_LOG } else { 1 };
            (node, last)
        };
        Status {
            leader: Some(self.leader),
            leads: self.has_quorum(),
            initialized: true,
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            last_log: LAST_LOG,
            matched: self.voters.iter().chain(&self.learners).map(matched).collect(),
            ..Status::default()
        }
    }

    fn plan(&self, wanted: &Wanted) -> Option<Step> {
        plan(&self.status(), self.leader, wanted, &self.nodes())
    }

    fn nodes(&self) -> Nodes {
        Nodes {
            reachable: self.living.clone(),
            doubted: self.doubted.clone(),
            stopping: self.stopping.clone(),
        }
    }

    fn progress(&self, wanted: &Wanted) -> Option<Progress> {
        progress::progress(&self.status(), self.leader, wanted, &self.nodes())
    }

    fn next(&self, wanted: &[u64]) -> Option<Step> {
        self.plan(&Wanted::from(ids::<Vec<_>>(wanted).as_slice()))
    }

    /// Does a step as the engine would, and holds what must hold of each.
    fn perform(&mut self, step: Step, wanted: &Wanted) {
        match step {
            Step::AddLearner(node) => {
                assert!(!self.voters.contains(&node) && self.learners.insert(node));
            }
            Step::RemoveLearner(node) => {
                assert!(self.learners.remove(&node));
                assert!(!wanted.voters.contains(&node) && !wanted.learners.contains(&node));
                self.level.remove(&node);
            }
            Step::Promote { node, voters } => {
                assert!(self.learners.remove(&node), "{node} followed before it votes");
                assert!(self.living.contains(&node) && self.level.contains(&node));
                assert!(wanted.voters.contains(&node));
                assert_eq!(voters.difference(&self.voters).collect::<Vec<_>>(), [&node]);
                assert!(self.voters.is_subset(&voters));
                self.voters = voters;
            }
            Step::Retire { node, voters } => {
                assert_ne!(node, self.leader, "a leader hands over first");
                assert!(!wanted.voters.contains(&node));
                assert_eq!(self.voters.difference(&voters).collect::<Vec<_>>(), [&node]);
                assert!(voters.is_subset(&self.voters));
                self.voters = voters;
                self.level.remove(&node);
            }
            Step::Transfer(node) => {
                assert!(self.voters.contains(&node) && self.living.contains(&node));
                assert!(self.level.contains(&node) && node != self.leader);
                assert!(!self.doubted.contains(&node));
                self.leader = node;
            }
            Step::Settle { .. } => panic!("nothing is half done here"),
        }
        assert!(self.has_quorum(), "the living cannot decide any more: {self:?}");
        assert!(self.voters.contains(&self.leader));
    }

    /// At rest it is what it should be, or says what it waits for.
    fn is_explained(&self, wanted: &Wanted) {
        let voters = wanted.voters.iter().copied().collect();
        let done = self.voters == voters && wanted.voters.first() == Some(&self.leader);
        assert_eq!(self.progress(wanted).is_none(), done || !self.has_quorum(), "{self:?}");
    }

    /// Steps until nothing is left to do; living followers become level whenever it waits.
    fn settle(&mut self, wanted: &Wanted) {
        for _ in 0..100 {
            if let Some(step) = self.plan(wanted) {
                self.perform(step, wanted);
                continue;
            }
            let members = self.voters.union(&self.learners);
            let level: BTreeSet<_> =
                members.copied().filter(|node| self.living.contains(node)).collect();
            if level.is_subset(&self.level) {
                self.is_explained(wanted);
                return;
            }
            self.level.extend(level);
        }
        panic!("it never comes to rest: {self:?}");
    }
}

fn promote(node: u64, voters: &[u64]) -> Option<Step> {
    Some(Step::Promote { node: NodeId(node), voters: ids(voters) })
}

fn retire(node: u64, voters: &[u64]) -> Option<Step> {
    Some(Step::Retire { node: NodeId(node), voters: ids(voters) })
}

#[test]
fn node_that_stops_hands_over_to_a_level_voter_that_answers() {
    let next = |model: &Model, preferred: &[u64]| {
        let preferred: Vec<_> = ids(preferred);
        let (status, nodes) = (model.status(), model.nodes());
        successor(&status, model.leader, &nodes, &preferred, &ids(&[])).map(|node| node.0)
    };
    let model = Model::of(1, &[1, 2, 3], &[4]);
    assert_eq!(next(&model, &[1, 3, 2]), Some(3));
    assert_eq!(next(&model, &[4]), Some(2), "a learner cannot lead");
    assert_eq!(next(&model.clone().dead(&[2]), &[2]), Some(3));
    assert_eq!(next(&model.clone().dead(&[2]).level(&[1, 2]), &[]), None);
    assert_eq!(next(&Model::of(1, &[1], &[]), &[]), None, "it is alone");
    let stopping = Model { stopping: ids(&[2]), ..model.clone() };
    assert_eq!(next(&stopping, &[2]), Some(3), "it is stopping too");
    let silent = Status { silent: ids(&[2, 3]), ..model.status() };
    assert_eq!(successor(&silent, NodeId(1), &model.nodes(), &[], &ids(&[])), None);
    let joint = Status { joint: true, ..model.status() };
    assert_eq!(successor(&joint, NodeId(1), &model.nodes(), &[], &ids(&[])), None);
}

#[test]
fn node_that_failed_to_take_over_is_asked_again_when_there_is_no_other() {
    let model = Model::of(1, &[1, 2, 3], &[]);
    let next = |model: &Model, failed: &[u64]| {
        let (status, nodes) = (model.status(), model.nodes());
        successor(&status, NodeId(1), &nodes, &ids::<Vec<_>>(&[3]), &ids(failed))
    };
    assert_eq!(next(&model, &[3]), Some(NodeId(2)));
    assert_eq!(next(&model, &[2, 3]), Some(NodeId(3)));
    assert_eq!(next(&model.dead(&[2]), &[3]), Some(NodeId(3)));
}

#[test]
fn who_does_not_lead_does_nothing() {
    let mut status = Model::of(1, &[1], &[]).status();
    status.leads = false;
    let wanted = Wanted::from(ids::<Vec<_>>(&[1, 2]).as_slice());
    assert_eq!(plan(&status, NodeId(1), &wanted, &links(&[1, 2])), None);
}

#[test]
fn an_empty_list_is_no_wish() {
    assert_eq!(Model::of(1, &[1, 2], &[3]).next(&[]), None);
}

#[test]
fn a_newcomer_follows_then_votes_when_it_is_level() {
    assert_eq!(Model::of(1, &[1], &[]).next(&[1, 2]), Some(Step::AddLearner(NodeId(2))));
    assert_eq!(Model::of(1, &[1], &[2]).next(&[1, 2]), None);
    assert_eq!(Model::of(1, &[1], &[2]).level(&[1, 2]).next(&[1, 2]), promote(2, &[1, 2]));
}

#[test]
fn a_follower_nothing_is_known_of_is_not_level_in_a_short_log() {
    let mut status = Model::of(1, &[1], &[2]).status();
    status.last_log = 3;
    status.matched = BTreeMap::from([(NodeId(1), 3)]);
    assert!(!level(&status, NodeId(2)));
    status.matched.insert(NodeId(2), 0);
    assert!(!level(&status, NodeId(2)));
    status.matched.insert(NodeId(2), 3);
    assert!(level(&status, NodeId(2)));
}

#[test]
fn a_dead_newcomer_is_neither_added_nor_promoted() {
    assert_eq!(Model::of(1, &[1], &[]).dead(&[2]).next(&[1, 2]), None);
    assert_eq!(Model::of(1, &[1], &[2]).level(&[1, 2]).dead(&[2]).next(&[1, 2]), None);
}

#[test]
fn a_silent_voter_keeps_its_vote_while_it_is_wanted() {
    assert_eq!(Model::of(1, &[1, 2, 3], &[]).dead(&[3]).next(&[1, 2, 3]), None);
}

#[test]
fn a_swap_adds_before_it_removes() {
    let mut group = Model::of(1, &[1, 2, 3], &[4]).level(&[1, 2, 3, 4]);
    let wanted = [1, 2, 4];
    assert_eq!(group.next(&wanted), promote(4, &[1, 2, 3, 4]));
    group = Model::of(1, &[1, 2, 3, 4], &[]);
    assert_eq!(group.next(&wanted), retire(3, &[1, 2, 4]));
}

#[test]
fn a_dead_voter_that_is_not_wanted_leaves_at_once_unless_one_copy_would_be_left() {
    let three = Model::of(1, &[1, 2, 3], &[4]).dead(&[3]);
    assert_eq!(three.next(&[1, 2, 4]), retire(3, &[1, 2]));
    let mut two = Model::of(1, &[1, 2], &[4]).dead(&[2]).status();
    // The link is down, Raft's own is not: the group still has its quorum.
    two.leads = true;
    let wanted = Wanted::from(ids::<Vec<_>>(&[1, 4]).as_slice());
    assert_eq!(plan(&two, NodeId(1), &wanted, &links(&[1, 4])), None);
}

/// Its link is still up, for that takes seconds to tell that its other end sleeps.
#[test]
fn of_two_that_should_go_the_one_that_sleeps_goes_first_and_the_other_stays_while_it_is_needed() {
    for (sleeps, lives) in [(2, 3), (3, 2)] {
        let mut status = Model::of(1, &[1, 2, 3], &[]).status();
        status.silent = ids(&[sleeps]);
        let wanted = Wanted::from(ids::<Vec<_>>(&[1]).as_slice());
        let step = plan(&status, NodeId(1), &wanted, &links(&[1, 2, 3]));
        assert_eq!(step, retire(sleeps, &[1, lives]));
        let wanted = Wanted::from(ids::<Vec<_>>(&[1, sleeps]).as_slice());
        assert_eq!(plan(&status, NodeId(1), &wanted, &links(&[1, 2, 3])), None);
    }
}

#[test]
fn a_living_voter_does_not_leave_when_the_others_could_not_decide_without_it() {
    let group = Model::of(1, &[1, 2, 3, 4], &[]).dead(&[2]);
    assert_eq!(group.next(&[1, 2, 3]), retire(4, &[1, 2, 3]));
    let mut status = Model::of(1, &[1, 2, 3, 4], &[]).dead(&[2, 3]).status();
    status.leads = true;
    let wanted = Wanted::from(ids::<Vec<_>>(&[1, 2, 3]).as_slice());
    assert_eq!(plan(&status, NodeId(1), &wanted, &links(&[1, 4])), None);
}

#[test]
fn the_preferred_owner_leads_when_everything_else_is_done() {
    let transfer = Some(Step::Transfer(NodeId(2)));
    assert_eq!(Model::of(1, &[1, 2, 3], &[]).next(&[2, 1, 3]), transfer);
    assert_eq!(Model::of(1, &[1, 2], &[3]).next(&[2, 1, 3]), None, "n3 is catching up");
    assert_eq!(Model::of(1, &[1, 2], &[]).dead(&[3]).next(&[2, 1, 3]), transfer);
}

#[test]
fn leadership_never_goes_to_a_voter_that_is_dead_or_behind() {
    assert_eq!(Model::of(1, &[1, 2, 3], &[]).dead(&[2]).next(&[2, 1, 3]), None);
    assert_eq!(Model::of(1, &[1, 2, 3], &[]).level(&[1, 3]).next(&[2, 1, 3]), None);
}

#[test]
fn who_lost_the_lead_a_moment_ago_is_not_handed_it_again() {
    let mut group = Model::of(1, &[1, 2, 3], &[]);
    group.doubted = ids(&[2]);
    assert_eq!(group.next(&[2, 1, 3]), None);
    assert_eq!(group.next(&[2, 3]), Some(Step::Transfer(NodeId(3))), "who has to go asks another");
}

#[test]
fn preferred_leader_that_is_stopping_is_not_handed_the_lead() {
    let mut group = Model::of(1, &[1, 2, 3], &[]);
    group.stopping = ids(&[2]);
    assert_eq!(group.next(&[2, 1, 3]), None);
    let wanted = Wanted::from(ids::<Vec<_>>(&[2, 1, 3]).as_slice());
    let progress = group.progress(&wanted).map(|progress| progress.to_string());
    assert_eq!(progress.as_deref(), Some("n2 will lead again; it is stopping"));
    group.stopping.clear();
    assert_eq!(group.next(&[2, 1, 3]), Some(Step::Transfer(NodeId(2))));
}

/// Its link says that its node lives, and it counts as a copy for nobody.
#[test]
fn replica_that_answers_nothing_on_a_node_that_lives_is_told() {
    let group = Model::of(1, &[1, 2, 3], &[]);
    let status = Status { silent: ids(&[3]), ..group.status() };
    let wanted = Wanted::from(ids::<Vec<_>>(&[1, 2, 3]).as_slice());
    let told = |nodes: &Nodes| progress::progress(&status, NodeId(1), &wanted, nodes);
    assert_eq!(told(&group.nodes()), Some(Progress::Silent(NodeId(3))));
    let dead = Nodes { reachable: ids(&[1, 2]), ..Nodes::default() };
    assert_eq!(told(&dead), None, "that a member cannot be reached is told of the member");
}

#[test]
fn a_group_that_waits_says_for_what() {
    let says = |group: &Model, wanted: &[u64]| {
        let progress = group.progress(&Wanted::from(ids::<Vec<_>>(wanted).as_slice()));
        progress.map(|progress| progress.to_string())
    };
    let says_of = |group: &Model, wanted: &[u64]| says(group, wanted).unwrap_or_default();
    assert_eq!(says(&Model::of(1, &[1, 2, 3], &[]), &[1, 2, 3]), None);
    assert_eq!(says_of(&Model::of(1, &[1], &[]), &[1, 2]), "n2 begins to follow");
    let behind = Model::of(1, &[1], &[4]);
    assert_eq!(says_of(&behind, &[1, 4]), "n4 catches up: 1 of 100");
    let dead = "waits for n2, which cannot be reached";
    assert_eq!(says_of(&Model::of(1, &[1], &[]).dead(&[2]), &[1, 2]), dead);
    assert_eq!(says_of(&Model::of(1, &[1, 2, 3], &[]).dead(&[2]), &[2, 1, 3]), dead);
    let mut doubted = Model::of(1, &[1, 2, 3], &[]);
    assert_eq!(says_of(&doubted, &[2, 1, 3]), "n2 is to lead");
    doubted.doubted = ids(&[2]);
    assert_eq!(says_of(&doubted, &[2, 1, 3]), "n2 will lead; it lost the lead just now");
}

#[test]
fn a_leader_that_has_to_go_hands_over_when_its_successors_are_complete() {
    assert_eq!(Model::of(1, &[1, 2, 3], &[4]).next(&[2, 3, 4]), None);
    let complete = Model::of(1, &[1, 2, 3, 4], &[]);
    assert_eq!(complete.next(&[2, 3, 4]), Some(Step::Transfer(NodeId(2))));
    let first_is_dead = Model::of(1, &[1, 2, 3, 4], &[]).dead(&[2]);
    assert_eq!(first_is_dead.next(&[2, 3, 4]), Some(Step::Transfer(NodeId(3))));
    assert_eq!(Model::of(2, &[1, 2, 3, 4], &[]).next(&[2, 3, 4]), retire(1, &[2, 3, 4]));
}

#[test]
fn a_change_left_half_done_is_ended_before_another_begins() {
    let mut status = Model::of(1, &[1, 2, 3], &[]).status();
    status.joint = true;
    let wanted = Wanted::from(ids::<Vec<_>>(&[1, 2]).as_slice());
    let settle = Some(Step::Settle { voters: ids(&[1, 2, 3]) });
    assert_eq!(plan(&status, NodeId(1), &wanted, &links(&[1, 2, 3])), settle);
}

#[test]
fn who_should_follow_follows_and_a_former_voter_may_stay_as_one() {
    let wanted = Wanted { voters: ids(&[1]), learners: ids(&[1, 2, 3]) };
    let mut group = Model::of(1, &[1, 2], &[9]).dead(&[3]);
    group.settle(&wanted);
    assert_eq!((group.voters, group.learners), (ids(&[1]), ids(&[2, 3])));
}

fn nodes(most: usize) -> impl Strategy<Value = Vec<NodeId>> {
    prop::collection::btree_set((1..=9u64).prop_map(NodeId), 1..=most)
        .prop_map(|nodes| nodes.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

prop_compose! {
    /// A group that can decide, in any state.
    fn any_group()(
        voters in nodes(5),
        learners in prop::collection::btree_set((1..=9u64).prop_map(NodeId), 0..4),
        level in prop::collection::btree_set((1..=9u64).prop_map(NodeId), 0..9),
        dead in prop::collection::btree_set((1..=9u64).prop_map(NodeId), 0..4),
    ) -> Model {
        let leader = voters[0];
        let voters: BTreeSet<_> = voters.into_iter().collect();
        let learners = &learners - &voters;
        let (living, doubted) = (ids(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), BTreeSet::new());
        let stopping = BTreeSet::new();
        let mut group = Model { leader, voters, learners, level, living, doubted, stopping };
        group.level.insert(leader);
        for node in dead {
            group.living.remove(&node);
            if !group.has_quorum() || node == group.leader {
                group.living.insert(node);
            }
        }
        group
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn from_any_start_the_group_gets_what_it_should_have(
        mut group in any_group(),
        voters in nodes(5),
        learners in prop::collection::btree_set((1..=9u64).prop_map(NodeId), 0..9),
    ) {
        let wanted = Wanted { voters, learners };
        group.settle(&wanted);
        // The faults end, and then it has to heal.
        group.living = (1..=9).map(NodeId).collect();
        group.settle(&wanted);
        prop_assert_eq!(&group.voters, &wanted.voters.iter().copied().collect::<BTreeSet<_>>());
        prop_assert_eq!(&group.learners, &(&wanted.learners - &group.voters));
        prop_assert_eq!(group.leader, wanted.voters[0]);
    }

    #[test]
    fn while_nodes_die_and_return_and_the_wish_changes_every_step_is_safe(
        mut group in any_group(),
        turns in prop::collection::vec((nodes(3), 1..=9u64, 1..=9u64), 1..40),
    ) {
        let mut wanted = Wanted::from(turns[0].0.as_slice());
        for (turn, (wish, flips, becomes_level)) in turns.into_iter().enumerate() {
            if turn % 7 == 6 {
                wanted = Wanted::from(wish.as_slice());
            }
            let (flips, becomes_level) = (NodeId(flips), NodeId(becomes_level));
            if !group.living.remove(&flips) || !group.has_quorum() || flips == group.leader {
                group.living.insert(flips);
            }
            group.level.insert(becomes_level);
            if let Some(step) = group.plan(&wanted) {
                group.perform(step, &wanted);
            }
        }
    }
}

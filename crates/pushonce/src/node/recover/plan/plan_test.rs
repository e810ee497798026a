use super::super::lost::resolve;
use super::super::survey::Member;
use super::*;

/// Of a node: its replica of the control group, and those of shards.
type Has<'a> = (u64, Replica, &'a [(u16, Replica)]);

fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn replica(voters: &[u64], last_term: u64, last: u64) -> Replica {
    let stored = usize::try_from(last).unwrap();
    Replica {
        voters: vec![ids(voters)],
        term: last_term,
        last_term,
        last,
        topics: 1,
        messages: stored,
        ..Replica::default()
    }
}

/// Five members.
fn surveys(of: &[Has<'_>], shard_count: u16) -> BTreeMap<NodeId, Survey> {
    let member =
        |id: u64| (NodeId(id), Member { name: format!("node-{id}"), core: true, active: true });
    let survey = |(node, control, has): &Has<'_>| {
        let survey = Survey {
            cluster: "c0".to_owned(),
            node: NodeId(*node),
            members: (1..=5).map(member).collect(),
            shard_count,
            recoveries: 0,
            control: control.clone(),
            shards: has.iter().cloned().collect(),
            unreadable: BTreeMap::new(),
        };
        (NodeId(*node), survey)
    };
    of.iter().map(survey).collect()
}

const ALL: &[u64] = &[1, 2, 3, 4, 5];

#[test]
fn the_survivor_with_the_newest_entry_begins_a_group_anew_and_all_say_the_same() {
    let surveys = surveys(
        &[
            (
                1,
                replica(ALL, 7, 90),
                &[(0, replica(&[1, 2, 3], 4, 10)), (1, replica(&[1, 2, 3], 4, 10))],
            ),
            (
                4,
                replica(ALL, 7, 91),
                &[(0, replica(&[4, 2, 3], 4, 12)), (1, replica(&[4, 2, 3], 3, 99))],
            ),
        ],
        3,
    );
    let lost = ids(&[2, 3, 5]);
    let first = decide(&surveys, NodeId(1), &lost).unwrap();
    let fourth = decide(&surveys, NodeId(4), &lost).unwrap();
    assert_eq!((first.control, fourth.control), (Some(NodeId(4)), Some(NodeId(4))));
    assert_eq!(first.digest, fourth.digest);
    let recovered =
        |last| Fate::Recovered { last, topics: 1, messages: last as usize, incomplete: false };
    let (here, there) = (Fate::Elsewhere { node: NodeId(1) }, Fate::Elsewhere { node: NodeId(4) });
    // A later entry, a later term, and a shard of which nobody has anything.
    assert_eq!(first.shards, BTreeMap::from([(0, there.clone()), (1, recovered(10)), (2, there)]));
    assert_eq!(fourth.shards, BTreeMap::from([(0, recovered(12)), (1, here), (2, Fate::Empty)]));
}

#[test]
fn a_shard_with_a_majority_by_its_newest_replica_goes_on_by_itself() {
    let surveys = surveys(
        &[
            (1, replica(ALL, 7, 90), &[(0, replica(&[1, 2, 3], 4, 10))]),
            (4, replica(ALL, 7, 90), &[(0, replica(&[1, 2, 4], 4, 11))]),
        ],
        1,
    );
    let plan = decide(&surveys, NodeId(1), &ids(&[2, 3, 5])).unwrap();
    assert_eq!(plan.shards, BTreeMap::from([(0, Fate::GoesOn)]));
    assert_eq!(plan.control, Some(NodeId(1)), "of equal ones the lowest");
}

#[test]
fn a_replica_that_only_followed_is_better_than_nothing() {
    let surveys = surveys(
        &[
            (1, replica(ALL, 7, 90), &[]),
            (4, replica(ALL, 7, 9), &[(0, replica(&[2, 3, 5], 4, 6))]),
        ],
        1,
    );
    let plan = decide(&surveys, NodeId(1), &ids(&[2, 3, 5])).unwrap();
    assert_eq!(plan.shards, BTreeMap::from([(0, Fate::Elsewhere { node: NodeId(4) })]));
}

#[test]
fn there_is_no_plan_without_every_survivor() {
    let alone = surveys(&[(1, replica(ALL, 7, 90), &[])], 1);
    let lost = ids(&[2, 3, 5]);
    let refused = decide(&alone, NodeId(1), &lost).unwrap_err();
    assert_eq!(refused, NoPlan::Unsurveyed(ids(&[4])));
    assert!(refused.to_string().starts_with("n4 is not in --lost"), "{refused}");
    let mut edge = alone;
    edge.get_mut(&NodeId(1)).unwrap().members.get_mut(&NodeId(4)).unwrap().core = false;
    assert!(decide(&edge, NodeId(1), &lost).is_ok(), "an edge has nothing to say");
}

#[test]
fn a_recovery_that_is_not_needed_or_makes_no_sense_is_refused() {
    let shard = [(0, replica(&[1, 2, 4], 4, 10))];
    let full = [(1, replica(ALL, 7, 90), &shard[..]), (4, replica(ALL, 7, 90), &shard)];
    let mut surveys = surveys(&full, 1);
    let decided = |surveys: &_, lost: &[u64]| decide(surveys, NodeId(1), &ids(lost)).unwrap_err();
    assert_eq!(decided(&surveys, &[2, 3, 4]), NoPlan::Survives(NodeId(4)));
    for survey in surveys.values_mut() {
        survey.control.voters = vec![ids(&[1, 4, 5])];
    }
    assert_eq!(decided(&surveys, &[2, 3, 5]), NoPlan::HasMajority);
    for survey in surveys.values_mut() {
        survey.control.voters = vec![ids(ALL)];
        survey.members.values_mut().for_each(|member| member.active = false);
    }
    assert_eq!(decided(&surveys, &[2, 3, 5]), NoPlan::NoHolder);
}

#[test]
fn a_voter_that_was_removed_before_counts_as_lost() {
    // n1 and n2 were removed by force, and the shard and the control group still name them.
    let mut surveys =
        surveys(&[(3, replica(&[1, 2, 3], 7, 90), &[(0, replica(&[1, 2, 3], 4, 10))])], 1);
    let survey = surveys.get_mut(&NodeId(3)).unwrap();
    survey.members.retain(|node, _| node.0 > 2);
    let plan = decide(&surveys, NodeId(3), &ids(&[4, 5])).unwrap();
    assert_eq!(plan.control, Some(NodeId(3)));
    assert!(matches!(plan.shards[&0], Fate::Recovered { last: 10, .. }), "{plan:?}");
}

#[test]
fn an_incomplete_replica_does_not_vote() {
    let damaged = Replica { incomplete: true, ..replica(&[1, 2, 4], 4, 9) };
    let surveys = surveys(
        &[
            (1, replica(ALL, 7, 90), &[(0, replica(&[1, 2, 4], 4, 10))]),
            (4, replica(ALL, 7, 90), &[(0, damaged)]),
        ],
        1,
    );
    let plan = decide(&surveys, NodeId(4), &ids(&[2, 3, 5])).unwrap();
    assert_eq!(plan.shards, BTreeMap::from([(0, Fate::Elsewhere { node: NodeId(1) })]));
}

#[test]
fn a_shard_without_a_surviving_replica_begins_empty_where_the_control_group_does() {
    let surveys = surveys(&[(1, replica(ALL, 7, 90), &[]), (2, replica(ALL, 7, 91), &[])], 1);
    let lost = ids(&[3, 4, 5]);
    let plan = |me| decide(&surveys, NodeId(me), &lost).unwrap();
    assert_eq!(plan(1).shards, BTreeMap::from([(0, Fate::Elsewhere { node: NodeId(2) })]));
    assert_eq!(plan(2).shards, BTreeMap::from([(0, Fate::Empty)]));
}

#[test]
fn while_voters_change_both_configurations_need_their_majority() {
    let joint = |old: &[u64], new: &[u64]| Replica {
        voters: vec![ids(old), ids(new)],
        ..replica(&[], 4, 10)
    };
    let shards = [(0, joint(&[1, 2, 4], &[1, 4, 5])), (1, joint(&[1, 2, 4], &[1, 2, 3]))];
    let control = || replica(ALL, 7, 90);
    let surveys = surveys(&[(1, control(), &shards), (4, control(), &shards)], 2);
    let plan = decide(&surveys, NodeId(4), &ids(&[2, 3, 5])).unwrap();
    let here = Fate::Elsewhere { node: NodeId(1) };
    assert_eq!(plan.shards, BTreeMap::from([(0, Fate::GoesOn), (1, here)]));
}

#[test]
fn only_shards_are_begun_anew_while_the_control_group_has_its_majority() {
    let has = [(0, replica(&[1, 4, 5], 4, 10)), (1, replica(&[1, 2, 4], 4, 10))];
    let control = || replica(&[1, 2, 3], 7, 90);
    let mut surveys = surveys(&[(1, control(), &has), (2, control(), &[]), (3, control(), &[])], 2);
    let lost = ids(&[4, 5]);
    let plan = decide(&surveys, NodeId(1), &lost).unwrap();
    assert_eq!(plan.control, None);
    assert!(plan.shards.values().all(|fate| matches!(fate, Fate::Recovered { .. })), "{plan:?}");
    surveys.remove(&NodeId(3));
    let refused = decide(&surveys, NodeId(1), &lost).unwrap_err();
    assert_eq!(refused, NoPlan::Unsurveyed(ids(&[3])), "all must stop, and say what they have");
}

#[test]
fn a_survivor_that_was_started_before_its_run_can_still_be_recovered() {
    // n4 has begun the control group and shard 0 anew; n1 has not yet begun shard 1.
    let (anew, now) = (1 << 33, 1 << 41);
    let mut surveys = surveys(
        &[
            (1, replica(ALL, 7, 90), &[(1, replica(&[1, 2, 3], 4, 10))]),
            (4, replica(&[4], anew, now), &[(0, replica(&[4], anew, now))]),
        ],
        2,
    );
    let left = &mut surveys.get_mut(&NodeId(4)).unwrap().members;
    left.retain(|node, _| [1, 4].contains(&node.0));
    let names = ["n2", "node-3", "n5"].map(str::to_owned);
    let lost = resolve(&surveys, &names).unwrap();
    let plan = decide(&surveys, NodeId(1), &lost).unwrap();
    assert_eq!(plan.control, None);
    assert_eq!(plan.shards[&0], Fate::GoesOn);
    assert!(matches!(plan.shards[&1], Fate::Recovered { last: 10, .. }), "{plan:?}");
}

#[test]
fn a_replica_that_cannot_be_read_counts_as_none_and_is_named() {
    let has = [(0, replica(&[1, 2, 4], 4, 10))];
    let mut surveys = surveys(&[(1, replica(ALL, 7, 90), &has), (4, replica(ALL, 7, 90), &[])], 1);
    surveys.get_mut(&NodeId(4)).unwrap().unreadable.insert(0, "torn".to_owned());
    let plan = decide(&surveys, NodeId(1), &ids(&[2, 3, 5])).unwrap();
    assert!(matches!(plan.shards[&0], Fate::Recovered { .. }), "{plan:?}");
    let torn = Unreadable { shard: 0, node: NodeId(4), why: "torn".to_owned() };
    assert_eq!(plan.unreadable, [torn]);
}

#[test]
fn the_newest_survey_says_who_is_lost_and_who_is_a_member() {
    let mut surveys = surveys(&[(1, replica(ALL, 7, 90), &[]), (4, replica(ALL, 7, 91), &[])], 1);
    // Of n1 the view lags: n6 joined with the name that n5 had, after n5 was removed.
    let newest = &mut surveys.get_mut(&NodeId(4)).unwrap().members;
    let moved = newest.remove(&NodeId(5)).unwrap();
    newest.insert(NodeId(6), moved);
    let resolved = |name: &str| resolve(&surveys, &[name.to_owned()]);
    assert_eq!(resolved("node-5"), Ok(ids(&[6])));
    assert_eq!(resolved("n5"), Ok(ids(&[5])), "another survey knows it");
    let unknown = resolved("n9").unwrap_err().to_string();
    assert!(unknown.contains("n6 (node-5)"), "{unknown}");

    surveys.get_mut(&NodeId(4)).unwrap().members.remove(&NodeId(1));
    let refused = decide(&surveys, NodeId(1), &ids(&[2, 3, 6])).unwrap_err();
    assert_eq!(refused, NoPlan::NoMember { node: NodeId(1), by: NodeId(4) });
}

#[test]
fn another_survey_or_another_lost_node_makes_another_digest() {
    let mut surveys = surveys(&[(1, replica(ALL, 7, 90), &[]), (4, replica(ALL, 7, 90), &[])], 1);
    let plan = |surveys: &_, lost: &[u64]| decide(surveys, NodeId(1), &ids(lost)).unwrap().digest;
    let digest = plan(&surveys, &[2, 3, 5]);
    assert_eq!(digest.len(), 8);
    assert_ne!(plan(&surveys, &[2, 3, 5, 6]), digest);
    surveys.get_mut(&NodeId(4)).unwrap().control.last = 91;
    assert_ne!(plan(&surveys, &[2, 3, 5]), digest);
}

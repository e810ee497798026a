use super::super::lost_nodes::resolve;
use super::super::survey::SurveyMember;
use super::*;

/// A surveyed node: its id, its replica of the control group, and its replicas of shards.
type SurveyedNode<'a> = (u64, SurveyReplica, &'a [(u16, SurveyReplica)]);

fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn replica(voters: &[u64], last_term: u64, last: u64) -> SurveyReplica {
    let stored = usize::try_from(last).unwrap();
    SurveyReplica {
        voters: vec![ids(voters)],
        term: last_term,
        last_term,
        last_index: last,
        topic_count: 1,
        message_count: stored,
        ..SurveyReplica::default()
    }
}

/// The surveys of some nodes of a cluster with five members.
fn surveys(nodes: &[SurveyedNode<'_>], shard_count: u16) -> BTreeMap<NodeId, Survey> {
    let member = |id: u64| {
        (
            NodeId(id),
            SurveyMember { name: format!("node-{id}"), has_core_role: true, is_active: true },
        )
    };
    let survey = |(node, control, shard_replicas): &SurveyedNode<'_>| {
        let survey = Survey {
            cluster: "c0".to_owned(),
            node: NodeId(*node),
            members: (1..=5).map(member).collect(),
            shard_count,
            recoveries: 0,
            control: control.clone(),
            shards: shard_replicas.iter().cloned().collect(),
            unreadable: BTreeMap::new(),
        };
        (NodeId(*node), survey)
    };
    nodes.iter().map(survey).collect()
}

const ALL: &[u64] = &[1, 2, 3, 4, 5];

#[test]
fn survivor_with_the_newest_entry_recovers_the_group_and_all_plans_agree() {
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
    let first_plan = make_plan(&surveys, NodeId(1), &lost).unwrap();
    let fourth_plan = make_plan(&surveys, NodeId(4), &lost).unwrap();
    assert_eq!((first_plan.control, fourth_plan.control), (Some(NodeId(4)), Some(NodeId(4))));
    assert_eq!(first_plan.digest, fourth_plan.digest);
    let recovered = |last| ShardRecovery::Recovered {
        last_index: last,
        topics: 1,
        messages: last as usize,
        is_incomplete: false,
    };
    let (on_node_1, on_node_4) = (
        ShardRecovery::RecoveredElsewhere { node: NodeId(1) },
        ShardRecovery::RecoveredElsewhere { node: NodeId(4) },
    );
    // A later entry, a later term, and a shard without any surviving replica.
    assert_eq!(
        first_plan.shards,
        BTreeMap::from([(0, on_node_4.clone()), (1, recovered(10)), (2, on_node_4)])
    );
    assert_eq!(
        fourth_plan.shards,
        BTreeMap::from([(0, recovered(12)), (1, on_node_1), (2, ShardRecovery::Empty)])
    );
}

#[test]
fn shard_with_a_majority_by_its_newest_replica_is_left_alone() {
    let surveys = surveys(
        &[
            (1, replica(ALL, 7, 90), &[(0, replica(&[1, 2, 3], 4, 10))]),
            (4, replica(ALL, 7, 90), &[(0, replica(&[1, 2, 4], 4, 11))]),
        ],
        1,
    );
    let plan = make_plan(&surveys, NodeId(1), &ids(&[2, 3, 5])).unwrap();
    assert_eq!(plan.shards, BTreeMap::from([(0, ShardRecovery::HasMajority)]));
    assert_eq!(plan.control, Some(NodeId(1)), "of equal replicas the lowest node id");
}

#[test]
fn replica_of_a_learner_is_recovered_when_no_voter_survives() {
    let surveys = surveys(
        &[
            (1, replica(ALL, 7, 90), &[]),
            (4, replica(ALL, 7, 9), &[(0, replica(&[2, 3, 5], 4, 6))]),
        ],
        1,
    );
    let plan = make_plan(&surveys, NodeId(1), &ids(&[2, 3, 5])).unwrap();
    assert_eq!(
        plan.shards,
        BTreeMap::from([(0, ShardRecovery::RecoveredElsewhere { node: NodeId(4) })])
    );
}

#[test]
fn plan_requires_the_survey_of_every_survivor() {
    let alone = surveys(&[(1, replica(ALL, 7, 90), &[])], 1);
    let lost = ids(&[2, 3, 5]);
    let error = make_plan(&alone, NodeId(1), &lost).unwrap_err();
    assert_eq!(error, PlanError::MissingSurveys(ids(&[4])));
    assert!(error.to_string().starts_with("n4 is not in --lost"), "{error}");
    let mut edge = alone;
    edge.get_mut(&NodeId(1)).unwrap().members.get_mut(&NodeId(4)).unwrap().has_core_role = false;
    assert!(
        make_plan(&edge, NodeId(1), &lost).is_ok(),
        "a node without the core role needs no survey"
    );
}

#[test]
fn unneeded_or_impossible_recovery_is_rejected() {
    let shard = [(0, replica(&[1, 2, 4], 4, 10))];
    let full = [(1, replica(ALL, 7, 90), &shard[..]), (4, replica(ALL, 7, 90), &shard)];
    let mut surveys = surveys(&full, 1);
    let plan_error =
        |surveys: &_, lost: &[u64]| make_plan(surveys, NodeId(1), &ids(lost)).unwrap_err();
    assert_eq!(plan_error(&surveys, &[2, 3, 4]), PlanError::LostNodeSurvives(NodeId(4)));
    for survey in surveys.values_mut() {
        survey.control.voters = vec![ids(&[1, 4, 5])];
    }
    assert_eq!(plan_error(&surveys, &[2, 3, 5]), PlanError::NothingToRecover);
    for survey in surveys.values_mut() {
        survey.control.voters = vec![ids(ALL)];
        survey.members.values_mut().for_each(|member| member.is_active = false);
    }
    assert_eq!(plan_error(&surveys, &[2, 3, 5]), PlanError::NoEligibleSurvivor);
}

#[test]
fn voter_removed_before_the_recovery_counts_as_lost() {
    // n1 and n2 were removed by force; the shard and the control group still name them.
    let mut surveys =
        surveys(&[(3, replica(&[1, 2, 3], 7, 90), &[(0, replica(&[1, 2, 3], 4, 10))])], 1);
    let survey = surveys.get_mut(&NodeId(3)).unwrap();
    survey.members.retain(|node, _| node.0 > 2);
    let plan = make_plan(&surveys, NodeId(3), &ids(&[4, 5])).unwrap();
    assert_eq!(plan.control, Some(NodeId(3)));
    assert!(matches!(plan.shards[&0], ShardRecovery::Recovered { last_index: 10, .. }), "{plan:?}");
}

#[test]
fn incomplete_replica_does_not_count_towards_the_majority() {
    let damaged = SurveyReplica { is_incomplete: true, ..replica(&[1, 2, 4], 4, 9) };
    let surveys = surveys(
        &[
            (1, replica(ALL, 7, 90), &[(0, replica(&[1, 2, 4], 4, 10))]),
            (4, replica(ALL, 7, 90), &[(0, damaged)]),
        ],
        1,
    );
    let plan = make_plan(&surveys, NodeId(4), &ids(&[2, 3, 5])).unwrap();
    assert_eq!(
        plan.shards,
        BTreeMap::from([(0, ShardRecovery::RecoveredElsewhere { node: NodeId(1) })])
    );
}

#[test]
fn shard_without_a_surviving_replica_is_recreated_empty_on_the_node_that_recovers_the_control_group()
 {
    let surveys = surveys(&[(1, replica(ALL, 7, 90), &[]), (2, replica(ALL, 7, 91), &[])], 1);
    let lost = ids(&[3, 4, 5]);
    let plan = |me| make_plan(&surveys, NodeId(me), &lost).unwrap();
    assert_eq!(
        plan(1).shards,
        BTreeMap::from([(0, ShardRecovery::RecoveredElsewhere { node: NodeId(2) })])
    );
    assert_eq!(plan(2).shards, BTreeMap::from([(0, ShardRecovery::Empty)]));
}

#[test]
fn joint_configuration_needs_a_majority_of_both_voter_sets() {
    let joint = |old: &[u64], new: &[u64]| SurveyReplica {
        voters: vec![ids(old), ids(new)],
        ..replica(&[], 4, 10)
    };
    let shards = [(0, joint(&[1, 2, 4], &[1, 4, 5])), (1, joint(&[1, 2, 4], &[1, 2, 3]))];
    let control = || replica(ALL, 7, 90);
    let surveys = surveys(&[(1, control(), &shards), (4, control(), &shards)], 2);
    let plan = make_plan(&surveys, NodeId(4), &ids(&[2, 3, 5])).unwrap();
    let on_node_1 = ShardRecovery::RecoveredElsewhere { node: NodeId(1) };
    assert_eq!(plan.shards, BTreeMap::from([(0, ShardRecovery::HasMajority), (1, on_node_1)]));
}

#[test]
fn only_shards_are_recovered_while_the_control_group_has_its_majority() {
    let shard_replicas = [(0, replica(&[1, 4, 5], 4, 10)), (1, replica(&[1, 2, 4], 4, 10))];
    let control = || replica(&[1, 2, 3], 7, 90);
    let mut surveys =
        surveys(&[(1, control(), &shard_replicas), (2, control(), &[]), (3, control(), &[])], 2);
    let lost = ids(&[4, 5]);
    let plan = make_plan(&surveys, NodeId(1), &lost).unwrap();
    assert_eq!(plan.control, None);
    assert!(
        plan.shards.values().all(|fate| matches!(fate, ShardRecovery::Recovered { .. })),
        "{plan:?}"
    );
    surveys.remove(&NodeId(3));
    let error = make_plan(&surveys, NodeId(1), &lost).unwrap_err();
    assert_eq!(error, PlanError::MissingSurveys(ids(&[3])), "all must stop and be surveyed");
}

#[test]
fn survivor_started_before_all_were_recovered_can_still_be_recovered() {
    // n4 has recreated the control group and shard 0; n1 has not yet recreated shard 1.
    let (new_term, new_index) = (1 << 33, 1 << 41);
    let mut surveys = surveys(
        &[
            (1, replica(ALL, 7, 90), &[(1, replica(&[1, 2, 3], 4, 10))]),
            (4, replica(&[4], new_term, new_index), &[(0, replica(&[4], new_term, new_index))]),
        ],
        2,
    );
    let members = &mut surveys.get_mut(&NodeId(4)).unwrap().members;
    members.retain(|node, _| [1, 4].contains(&node.0));
    let names = ["n2", "node-3", "n5"].map(str::to_owned);
    let lost = resolve(&surveys, &names).unwrap();
    let plan = make_plan(&surveys, NodeId(1), &lost).unwrap();
    assert_eq!(plan.control, None);
    assert_eq!(plan.shards[&0], ShardRecovery::HasMajority);
    assert!(matches!(plan.shards[&1], ShardRecovery::Recovered { last_index: 10, .. }), "{plan:?}");
}

#[test]
fn unreadable_replica_counts_as_missing_and_is_listed() {
    let shard_replicas = [(0, replica(&[1, 2, 4], 4, 10))];
    let mut surveys =
        surveys(&[(1, replica(ALL, 7, 90), &shard_replicas), (4, replica(ALL, 7, 90), &[])], 1);
    surveys.get_mut(&NodeId(4)).unwrap().unreadable.insert(0, "torn".to_owned());
    let plan = make_plan(&surveys, NodeId(1), &ids(&[2, 3, 5])).unwrap();
    assert!(matches!(plan.shards[&0], ShardRecovery::Recovered { .. }), "{plan:?}");
    let torn = UnreadableReplica { shard: 0, node: NodeId(4), reason: "torn".to_owned() };
    assert_eq!(plan.unreadable, [torn]);
}

#[test]
fn newest_survey_determines_lost_nodes_and_members() {
    let mut surveys = surveys(&[(1, replica(ALL, 7, 90), &[]), (4, replica(ALL, 7, 91), &[])], 1);
    // The view of n1 lags: n6 joined with the name that n5 had, after n5 was removed.
    let newest = &mut surveys.get_mut(&NodeId(4)).unwrap().members;
    let moved = newest.remove(&NodeId(5)).unwrap();
    newest.insert(NodeId(6), moved);
    let resolved = |name: &str| resolve(&surveys, &[name.to_owned()]);
    assert_eq!(resolved("node-5"), Ok(ids(&[6])));
    assert_eq!(resolved("n5"), Ok(ids(&[5])), "another survey contains it");
    let unknown = resolved("n9").unwrap_err().to_string();
    assert!(unknown.contains("n6 (node-5)"), "{unknown}");

    surveys.get_mut(&NodeId(4)).unwrap().members.remove(&NodeId(1));
    let error = make_plan(&surveys, NodeId(1), &ids(&[2, 3, 6])).unwrap_err();
    assert_eq!(error, PlanError::NotAMember { node: NodeId(1), surveyed_by: NodeId(4) });
}

#[test]
fn digest_changes_with_the_surveys_and_the_lost_nodes() {
    let mut surveys = surveys(&[(1, replica(ALL, 7, 90), &[]), (4, replica(ALL, 7, 90), &[])], 1);
    let plan_digest =
        |surveys: &_, lost: &[u64]| make_plan(surveys, NodeId(1), &ids(lost)).unwrap().digest;
    let digest = plan_digest(&surveys, &[2, 3, 5]);
    assert_eq!(digest.len(), 8);
    assert_ne!(plan_digest(&surveys, &[2, 3, 5, 6]), digest);
    surveys.get_mut(&NodeId(4)).unwrap().control.last_index = 91;
    assert_ne!(plan_digest(&surveys, &[2, 3, 5]), digest);
}

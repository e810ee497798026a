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
        voters: ids(voters),
        last_term,
        last,
        topics: 1,
        messages: stored,
        ..Replica::default()
    }
}

/// Five members, and shards that the table gives to the first three.
fn surveys(of: &[Has<'_>], shards: usize) -> BTreeMap<NodeId, Survey> {
    let member =
        |id: u64| (NodeId(id), Member { name: format!("node-{id}"), core: true, active: true });
    let survey = |(node, control, has): &Has<'_>| {
        let survey = Survey {
            cluster: "c0".to_owned(),
            node: NodeId(*node),
            members: (1..=5).map(member).collect(),
            table: vec![vec![NodeId(1), NodeId(2), NodeId(3)]; shards],
            control: control.clone(),
            shards: has.iter().cloned().collect(),
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
    assert_eq!((first.control, fourth.control), (NodeId(4), NodeId(4)));
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
    assert_eq!(plan.control, NodeId(1), "of equal ones the lowest");
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
    let full = [(1, replica(ALL, 7, 90), &[][..]), (4, replica(ALL, 7, 90), &[])];
    let mut surveys = surveys(&full, 1);
    let decided = |surveys: &_, lost: &[u64]| decide(surveys, NodeId(1), &ids(lost)).unwrap_err();
    assert_eq!(decided(&surveys, &[2, 3, 4]), NoPlan::Survives(NodeId(4)));
    for survey in surveys.values_mut() {
        survey.control.voters = ids(&[1, 4, 5]);
    }
    assert_eq!(decided(&surveys, &[2, 3, 5]), NoPlan::HasMajority);
    for survey in surveys.values_mut() {
        survey.control.voters = ids(ALL);
        survey.members.values_mut().for_each(|member| member.active = false);
    }
    assert_eq!(decided(&surveys, &[2, 3, 5]), NoPlan::NoHolder);
}

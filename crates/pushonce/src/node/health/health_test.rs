use pushonce_core::{ClusterVersion, VersionRange};

use super::*;

const ME: NodeId = NodeId(1);
const OTHER_NODE: NodeId = NodeId(2);
const SHARD: ShardId = ShardId(3);

/// A node that leads one shard and follows another node's control group, without any fault.
fn healthy_facts() -> HealthFacts {
    let leading_group =
        GroupSummary { leader: Some(ME), leads: true, last_log: 9, applied: 9, lag: Some(0) };
    HealthFacts {
        me: ME,
        member_state: Some(MemberState::Active),
        control_group: GroupSummary {
            leader: Some(OTHER_NODE),
            leads: false,
            last_log: 4,
            applied: 4,
            lag: Some(0),
        },
        is_current: true,
        restored: [SHARD].into(),
        is_opening: false,
        replicas: [(SHARD, leading_group)].into(),
        owners: [(SHARD, Some(ME)), (ShardId(4), Some(OTHER_NODE))].into(),
        voters: [(SHARD, vec![ME, OTHER_NODE]), (ShardId(4), vec![ME, OTHER_NODE])].into(),
        reachable: [ME, OTHER_NODE].into(),
        stale: BTreeSet::new(),
        disk_problem: None,
        rolled_back: None,
        halted: BTreeMap::new(),
        version_conflicts: BTreeMap::new(),
        loop_counts: [(WatchedLoop::Lane(0), 1), (WatchedLoop::Relay, 1)].into(),
    }
}

/// The issues that are reported after `time` with these facts, which do not change meanwhile.
fn issues_after(facts: &HealthFacts, time: Duration) -> String {
    let (start, mut monitor) = (Instant::now(), HealthMonitor::default());
    let mut current = healthy_facts();
    monitor.evaluate(&current, start);
    for quarter in 1..=time.as_millis() / 250 {
        let now = start + Duration::from_millis(250) * u32::try_from(quarter).unwrap();
        current = facts.clone();
        // Loops progress, unless the facts say that one is stalled.
        for (part, count) in &mut current.loop_counts {
            *count =
                if facts.loop_counts[part] == 0 { 1 } else { u64::try_from(quarter).unwrap() + 1 };
        }
        monitor.evaluate(&current, now);
    }
    issue_texts(monitor.evaluate(&current, start + time)).join("\n")
}

fn issue_texts(reasons: Vec<HealthIssue>) -> Vec<String> {
    reasons.into_iter().map(|reason| reason.text).collect()
}

const FIVE_SECONDS: Duration = Duration::from_secs(5);

#[test]
fn healthy_node_is_and_stays_ready() {
    assert_eq!(issues_after(&healthy_facts(), Duration::from_secs(30)), "");
}

#[test]
fn fault_shorter_than_an_election_is_not_reported() {
    let mut facts = healthy_facts();
    facts.control_group.leader = None;
    facts.replicas.get_mut(&SHARD).unwrap().leads = false;
    facts.owners.insert(SHARD, None);
    assert_eq!(issues_after(&facts, Duration::from_millis(1_750)), "");
}

#[test]
fn every_fault_is_reported_within_five_seconds() {
    type FactsFault = fn(&mut HealthFacts);
    let cases: [(FactsFault, &str); 10] = [
        (|facts| facts.control_group.leader = None, "the control group has no leader"),
        (
            |facts| facts.control_group.leader = Some(NodeId(7)),
            "the control group is led by n7, which is unreachable",
        ),
        (
            |facts| facts.replicas.get_mut(&SHARD).unwrap().leads = false,
            "s3: cannot commit: the shard is led by this node, but a majority",
        ),
        (
            |facts| facts.replicas.get_mut(&SHARD).unwrap().leader = None,
            "s3: cannot commit: the shard has no leader",
        ),
        (|facts| _ = facts.owners.insert(ShardId(4), None), "s4: no owner is known"),
        (
            |facts| _ = facts.owners.insert(ShardId(4), Some(NodeId(7))),
            "s4: cannot deliver: the owner n7 is unreachable",
        ),
        (
            |facts| _ = facts.stale.insert(ShardId(4)),
            "s4: cannot deliver: the owner does not confirm",
        ),
        (|facts| facts.replicas.get_mut(&SHARD).unwrap().last_log = 10, "s3: cannot apply"),
        (
            |facts| _ = facts.loop_counts.insert(WatchedLoop::Lane(0), 0),
            "lane-0, which serves clients",
        ),
        (|facts| _ = facts.loop_counts.insert(WatchedLoop::Relay, 0), "the relay between nodes"),
    ];
    for (break_facts, expected) in cases {
        let mut facts = healthy_facts();
        break_facts(&mut facts);
        let reported = issues_after(&facts, FIVE_SECONDS);
        assert!(reported.contains(expected), "{expected:?} is not in {reported:?}");
        assert_eq!(reported.lines().count(), 1, "{reported}");
    }
}

#[test]
fn disk_problem_is_reported_at_once_and_blocks_publishing() {
    let full = HealthFacts { disk_problem: Some("the disk is full".to_owned()), ..healthy_facts() };
    let issues = HealthMonitor::default().evaluate(&full, Instant::now());
    assert_eq!(
        issues,
        [HealthIssue { text: "the disk is full".to_owned(), blocks: BlockedServices::PUBLISH }]
    );
}

#[test]
fn build_that_cannot_read_its_cluster_is_not_ready_and_names_the_version_to_run() {
    let (cluster, own_range) = (ClusterVersion(2), VersionRange::single(ClusterVersion(1)));
    let older = VersionConflict::ThisNodeIsOlder { cluster, local_supported: own_range };
    let nodes = [NodeId(7), NodeId(8)];
    let conflicts = nodes.map(|node| (node, older)).into();
    let facts = HealthFacts { version_conflicts: conflicts, ..healthy_facts() };
    let reported = issue_texts(HealthMonitor::default().evaluate(&facts, Instant::now()));
    assert_eq!(reported.len(), 1, "both peers give the same reason: {reported:?}");
    assert!(reported[0].contains("run a build that supports 2 on this node"), "{reported:?}");

    let peer_is_older = VersionConflict::PeerIsOlder { cluster, peer_supported: own_range };
    let unnamed = VersionConflict::NoPeerVersion { local_supported: own_range };
    let conflicts = [(NodeId(7), peer_is_older), (NodeId(8), unnamed)].into();
    let facts = HealthFacts { version_conflicts: conflicts, ..healthy_facts() };
    let reported = issue_texts(HealthMonitor::default().evaluate(&facts, Instant::now()));
    assert!(reported.is_empty(), "an old peer does not make this node unready: {reported:?}");

    let halted = [(None, "entry 3".to_owned()), (Some(SHARD), "entry 9".to_owned())].into();
    let facts = HealthFacts { halted, ..healthy_facts() };
    let reported = issue_texts(HealthMonitor::default().evaluate(&facts, Instant::now()));
    assert_eq!(reported, ["s3 has halted: entry 9", "the control group has halted: entry 3"]);
}

#[test]
fn node_that_is_not_an_active_member_is_unready_at_once() {
    for (state, expected) in [(None, "not a member"), (Some(MemberState::Joining), "joining")] {
        let issues = HealthMonitor::default()
            .evaluate(&HealthFacts { member_state: state, ..healthy_facts() }, Instant::now());
        assert!(issues[0].text.contains(expected), "{issues:?}");
    }
}

#[test]
fn shards_with_the_same_fault_are_reported_in_one_line() {
    let mut facts = healthy_facts();
    facts.owners.extend([(ShardId(5), None), (ShardId(6), None)]);
    assert_eq!(issues_after(&facts, FIVE_SECONDS), "s5, s6: no owner is known");
}

#[test]
fn replica_that_lags_but_progresses_is_not_stalled() {
    let (start, mut monitor) = (Instant::now(), HealthMonitor::default());
    for quarter in 0..40_u32 {
        let mut facts = healthy_facts();
        let replica = facts.replicas.get_mut(&SHARD).unwrap();
        // Always behind, but progressing.
        (replica.applied, replica.last_log) = (u64::from(quarter), u64::from(quarter) + 90);
        facts.loop_counts.values_mut().for_each(|count| *count = u64::from(quarter));
        let issues = monitor.evaluate(&facts, start + Duration::from_millis(250) * quarter);
        assert_eq!(issues, []);
    }
}

#[test]
fn starting_node_is_not_ready_before_it_knows_every_leader() {
    type FactsFault = fn(&mut HealthFacts);
    let cases: [FactsFault; 4] = [
        |facts| facts.control_group.leader = None,
        |facts| facts.replicas.get_mut(&SHARD).unwrap().leader = None,
        |facts| facts.replicas.get_mut(&SHARD).unwrap().leads = false,
        |facts| _ = facts.owners.insert(SHARD, None),
    ];
    for break_facts in cases {
        let (start, mut monitor) = (Instant::now(), HealthMonitor::default());
        let mut facts = healthy_facts();
        break_facts(&mut facts);
        let issues = monitor.evaluate(&facts, start);
        assert!(issues.iter().any(|reason| reason.blocks.publish), "{issues:?}");
        assert_eq!(monitor.evaluate(&healthy_facts(), start), []);
        let issues = monitor.evaluate(&facts, start);
        assert_eq!(issues, [], "a node that was ready tolerates a short fault");
    }
}

#[test]
fn each_issue_blocks_only_the_services_it_affects() {
    type FactsFault = fn(&mut HealthFacts);
    let cases: [(FactsFault, BlockedServices); 6] = [
        (|facts| facts.control_group.leader = None, BlockedServices::default()),
        (|facts| facts.disk_problem = Some("full".to_owned()), BlockedServices::PUBLISH),
        (|facts| facts.replicas.get_mut(&SHARD).unwrap().leader = None, BlockedServices::PUBLISH),
        (|facts| facts.replicas.get_mut(&SHARD).unwrap().leads = false, BlockedServices::ALL),
        (|facts| _ = facts.owners.insert(SHARD, None), BlockedServices::ALL),
        (|facts| facts.member_state = None, BlockedServices::ALL),
    ];
    for (break_facts, blocks) in cases {
        let (start, mut monitor) = (Instant::now(), HealthMonitor::default());
        monitor.evaluate(&healthy_facts(), start);
        let mut facts = healthy_facts();
        break_facts(&mut facts);
        monitor.evaluate(&facts, start);
        // The replicas of these facts do not progress, which is fine while no entry waits.
        let issues = monitor.evaluate(&facts, start + Duration::from_millis(2_500));
        assert_eq!(
            issues.iter().map(|reason| reason.blocks).collect::<Vec<_>>(),
            [blocks],
            "{issues:?}"
        );
    }
}

#[test]
fn restarted_node_is_unready_until_its_replica_has_caught_up_once_or_the_time_limit_passes() {
    let (start, mut monitor) = (Instant::now(), HealthMonitor::default());
    let mut evaluate_with_lag = |lag: Option<u64>, second: u64| {
        let mut facts = healthy_facts();
        let leads = lag == Some(0);
        let leader = Some(if leads { ME } else { OTHER_NODE });
        let replica = GroupSummary { leader, leads, last_log: 9, applied: 9, lag };
        facts.replicas.insert(SHARD, replica);
        facts.loop_counts.values_mut().for_each(|count| *count = second);
        issue_texts(monitor.evaluate(&facts, start + Duration::from_secs(second))).join("\n")
    };
    assert!(
        evaluate_with_lag(None, 1).starts_with("s3: the replica has not caught up"),
        "no contact with the leader"
    );
    assert!(evaluate_with_lag(Some(5_000), 200).starts_with("s3: the replica has not caught up"));
    assert_eq!(evaluate_with_lag(Some(60), 201), "");
    assert_eq!(
        evaluate_with_lag(Some(5_000), 202),
        "",
        "it has caught up once, so its clients can stay"
    );

    let (start, mut monitor) = (Instant::now(), HealthMonitor::default());
    let mut lagging_facts = healthy_facts();
    lagging_facts.replicas.get_mut(&SHARD).unwrap().lag = Some(5_000);
    assert_ne!(monitor.evaluate(&lagging_facts, start), []);
    lagging_facts.loop_counts.values_mut().for_each(|count| *count += 1);
    assert_eq!(
        monitor.evaluate(&lagging_facts, start + CATCHING_UP_MAX),
        [],
        "a lagging replica must not block the node forever"
    );
}

#[test]
fn replica_added_to_a_running_node_does_not_make_it_unready() {
    let mut facts = healthy_facts();
    facts.replicas.insert(ShardId(4), GroupSummary { lag: None, ..facts.replicas[&SHARD] });
    assert_eq!(issues_after(&facts, FIVE_SECONDS), "");
}

#[test]
fn node_is_unready_while_a_stored_replica_is_not_started() {
    let facts = HealthFacts { is_opening: true, replicas: BTreeMap::new(), ..healthy_facts() };
    let mut monitor = HealthMonitor::default();
    let now = Instant::now();
    let issues = issue_texts(monitor.evaluate(&facts, now));
    assert!(issues.len() == 1 && issues[0].contains("s3"), "{issues:?}");
    // The replica was moved away meanwhile, or this build cannot read it.
    let after_opening = HealthFacts { is_opening: false, ..facts };
    assert!(monitor.evaluate(&after_opening, now).is_empty());
}

#[test]
fn node_without_a_current_view_is_unready_for_publishers() {
    let facts = HealthFacts { is_current: false, ..healthy_facts() };
    let issues = HealthMonitor::default().evaluate(&facts, Instant::now());
    assert_eq!(
        issues.iter().map(|reason| reason.blocks).collect::<Vec<_>>(),
        [BlockedServices::PUBLISH]
    );
}

/// Of ten shards, two have their majority on two dead nodes: the other nodes serve the rest.
#[test]
fn shards_that_lost_their_majority_leave_other_nodes_ready() {
    let mut facts = healthy_facts();
    facts.loop_counts.clear();
    let dead = [NodeId(7), NodeId(8)];
    for shard in (10..20).map(ShardId) {
        let is_dead = shard.0 < 12;
        let copies =
            if is_dead { vec![ME, dead[0], dead[1]] } else { vec![ME, OTHER_NODE, dead[0]] };
        facts.voters.insert(shard, copies);
        facts.owners.insert(shard, Some(if is_dead { dead[0] } else { OTHER_NODE }));
        if is_dead {
            facts.replicas.insert(shard, GroupSummary { last_log: 5, ..GroupSummary::default() });
            facts.restored.insert(shard);
        }
    }
    let issues_after_five_seconds = |facts: &HealthFacts| {
        let (start, mut monitor) = (Instant::now(), HealthMonitor::default());
        monitor.evaluate(facts, start);
        monitor.evaluate(facts, start + FIVE_SECONDS)
    };
    let issues = issues_after_five_seconds(&facts);
    assert_eq!(issues.len(), 1, "{issues:?}");
    assert!(
        issues[0].text.starts_with("s10, s11: no reachable nodes have a majority"),
        "{issues:?}"
    );
    assert!(!issues[0].blocks.any());
    // With most shards affected, this node is the one that is isolated.
    for copies in facts.voters.values_mut() {
        *copies = vec![ME, dead[0], dead[1]];
    }
    assert!(issues_after_five_seconds(&facts).iter().any(|reason| reason.blocks.any()));
}

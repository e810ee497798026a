use pushonce_core::{ClusterVersion, VersionRange};

use super::*;

const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const SHARD: ShardId = ShardId(3);

/// A node that leads one shard and follows another's control group, and lacks nothing.
fn well() -> Facts {
    let leading = Standing { leader: Some(ME), leads: true, last_log: 9, applied: 9, lag: Some(0) };
    Facts {
        me: ME,
        state: Some(MemberState::Active),
        control: Standing {
            leader: Some(OTHER),
            leads: false,
            last_log: 4,
            applied: 4,
            lag: Some(0),
        },
        is_current: true,
        restored: [SHARD].into(),
        is_opening: false,
        replicas: [(SHARD, leading)].into(),
        owners: [(SHARD, Some(ME)), (ShardId(4), Some(OTHER))].into(),
        copies: [(SHARD, vec![ME, OTHER]), (ShardId(4), vec![ME, OTHER])].into(),
        reachable: [ME, OTHER].into(),
        disk: None,
        rolled_back: None,
        halted: BTreeMap::new(),
        conflicts: BTreeMap::new(),
        rounds: [(Part::Lane(0), 1), (Part::Relay, 1)].into(),
    }
}

/// What is told of these facts, which do not change for so long.
fn after(facts: &Facts, time: Duration) -> String {
    let (start, mut watchman) = (Instant::now(), Watchman::default());
    let mut moving = well();
    watchman.look(&moving, start);
    for quarter in 1..=time.as_millis() / 250 {
        let now = start + Duration::from_millis(250) * u32::try_from(quarter).unwrap();
        moving = facts.clone();
        // What goes round goes on, unless it is what the facts are about.
        for (part, count) in &mut moving.rounds {
            *count = if facts.rounds[part] == 0 { 1 } else { u64::try_from(quarter).unwrap() + 1 };
        }
        watchman.look(&moving, now);
    }
    texts(watchman.look(&moving, start + time)).join("\n")
}

fn texts(reasons: Vec<Reason>) -> Vec<String> {
    reasons.into_iter().map(|reason| reason.text).collect()
}

const FIVE: Duration = Duration::from_secs(5);

#[test]
fn a_node_that_lacks_nothing_is_ready_and_stays_so() {
    assert_eq!(after(&well(), Duration::from_secs(30)), "");
}

#[test]
fn what_is_over_within_an_election_is_not_told() {
    let mut facts = well();
    facts.control.leader = None;
    facts.replicas.get_mut(&SHARD).unwrap().leads = false;
    facts.owners.insert(SHARD, None);
    assert_eq!(after(&facts, Duration::from_millis(1_750)), "");
}

#[test]
fn within_five_seconds_it_is_said_what_is_wrong() {
    type Change = fn(&mut Facts);
    let cases: [(Change, &str); 9] = [
        (|facts| facts.control.leader = None, "the control group has no leader"),
        (
            |facts| facts.control.leader = Some(NodeId(7)),
            "the control group is led by n7, of which nothing is heard",
        ),
        (
            |facts| facts.replicas.get_mut(&SHARD).unwrap().leads = false,
            "s3: cannot commit, for the shard is led by this node, and a majority",
        ),
        (
            |facts| facts.replicas.get_mut(&SHARD).unwrap().leader = None,
            "s3: cannot commit, for the shard has no leader",
        ),
        (|facts| _ = facts.owners.insert(ShardId(4), None), "s4: no owner is known"),
        (
            |facts| _ = facts.owners.insert(ShardId(4), Some(NodeId(7))),
            "s4: cannot deliver, for nothing is heard of the owner, n7",
        ),
        (|facts| facts.replicas.get_mut(&SHARD).unwrap().last_log = 10, "s3: cannot apply"),
        (|facts| _ = facts.rounds.insert(Part::Lane(0), 0), "lane-0, which serves clients"),
        (|facts| _ = facts.rounds.insert(Part::Relay, 0), "what delivers between nodes"),
    ];
    for (spoil, words) in cases {
        let mut facts = well();
        spoil(&mut facts);
        let told = after(&facts, FIVE);
        assert!(told.contains(words), "{words:?} is not in {told:?}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn a_full_disk_is_told_in_its_own_words() {
    let full = Facts { disk: Some("the disk is full".to_owned()), ..well() };
    let told = Watchman::default().look(&full, Instant::now());
    assert_eq!(told, [Reason { text: "the disk is full".to_owned(), blocks: Blocks::PUBLISH }]);
}

#[test]
fn a_build_that_cannot_read_its_cluster_is_not_ready_and_says_what_to_run() {
    let (cluster, ours) = (ClusterVersion(2), VersionRange::only(ClusterVersion(1)));
    let older = VersionConflict::ThisNodeIsOlder { cluster, ours };
    let nodes = [NodeId(7), NodeId(8)];
    let conflicts = nodes.map(|node| (node, older)).into();
    let facts = Facts { conflicts, ..well() };
    let told = texts(Watchman::default().look(&facts, Instant::now()));
    assert_eq!(told.len(), 1, "two peers say the same: {told:?}");
    assert!(told[0].contains("run a build that supports 2 on this node"), "{told:?}");

    let theirs = VersionConflict::PeerIsOlder { cluster, theirs: ours };
    let unnamed = VersionConflict::Unnamed { ours };
    let conflicts = [(NodeId(7), theirs), (NodeId(8), unnamed)].into();
    let facts = Facts { conflicts, ..well() };
    let told = texts(Watchman::default().look(&facts, Instant::now()));
    assert!(told.is_empty(), "an old peer does not make this node unready: {told:?}");

    let halted = [(None, "entry 3".to_owned()), (Some(SHARD), "entry 9".to_owned())].into();
    let facts = Facts { halted, ..well() };
    let told = texts(Watchman::default().look(&facts, Instant::now()));
    assert_eq!(told, ["s3 has halted: entry 9", "the control group has halted: entry 3"]);
}

#[test]
fn a_node_that_is_no_member_is_not_ready_at_once() {
    for (state, words) in [(None, "not been taken in"), (Some(MemberState::Joining), "joining")] {
        let told = Watchman::default().look(&Facts { state, ..well() }, Instant::now());
        assert!(told[0].text.contains(words), "{told:?}");
    }
}

#[test]
fn shards_that_lack_the_same_are_told_in_one_line() {
    let mut facts = well();
    facts.owners.extend([(ShardId(5), None), (ShardId(6), None)]);
    assert_eq!(after(&facts, FIVE), "s5, s6: no owner is known");
}

#[test]
fn what_is_busy_is_not_what_stands_still() {
    let (start, mut watchman) = (Instant::now(), Watchman::default());
    for quarter in 0..40_u32 {
        let mut facts = well();
        let replica = facts.replicas.get_mut(&SHARD).unwrap();
        // Always behind, and going on.
        (replica.applied, replica.last_log) = (u64::from(quarter), u64::from(quarter) + 90);
        facts.rounds.values_mut().for_each(|count| *count = u64::from(quarter));
        let told = watchman.look(&facts, start + Duration::from_millis(250) * quarter);
        assert_eq!(told, []);
    }
}

#[test]
fn node_that_was_never_ready_is_not_ready_before_it_knows_every_leader() {
    type Change = fn(&mut Facts);
    let cases: [Change; 4] = [
        |facts| facts.control.leader = None,
        |facts| facts.replicas.get_mut(&SHARD).unwrap().leader = None,
        |facts| facts.replicas.get_mut(&SHARD).unwrap().leads = false,
        |facts| _ = facts.owners.insert(SHARD, None),
    ];
    for spoil in cases {
        let (start, mut watchman) = (Instant::now(), Watchman::default());
        let mut facts = well();
        spoil(&mut facts);
        let told = watchman.look(&facts, start);
        assert!(told.iter().any(|reason| reason.blocks.publish), "{told:?}");
        assert_eq!(watchman.look(&well(), start), []);
        let told = watchman.look(&facts, start);
        assert_eq!(told, [], "a node that was ready bears it for a moment");
    }
}

#[test]
fn each_reason_blocks_what_it_is_about() {
    type Change = fn(&mut Facts);
    let cases: [(Change, Blocks); 6] = [
        (|facts| facts.control.leader = None, Blocks::default()),
        (|facts| facts.disk = Some("full".to_owned()), Blocks::PUBLISH),
        (|facts| facts.replicas.get_mut(&SHARD).unwrap().leader = None, Blocks::PUBLISH),
        (|facts| facts.replicas.get_mut(&SHARD).unwrap().leads = false, Blocks::ALL),
        (|facts| _ = facts.owners.insert(SHARD, None), Blocks::ALL),
        (|facts| facts.state = None, Blocks::ALL),
    ];
    for (spoil, blocks) in cases {
        let (start, mut watchman) = (Instant::now(), Watchman::default());
        watchman.look(&well(), start);
        let mut facts = well();
        spoil(&mut facts);
        watchman.look(&facts, start);
        // The replicas of these facts go nowhere, which is no reason while nothing waits.
        let told = watchman.look(&facts, start + Duration::from_millis(2_500));
        assert_eq!(
            told.iter().map(|reason| reason.blocks).collect::<Vec<_>>(),
            [blocks],
            "{told:?}"
        );
    }
}

#[test]
fn started_node_is_not_ready_until_its_replica_was_level_once_and_not_for_longer_than_the_bound() {
    let (start, mut watchman) = (Instant::now(), Watchman::default());
    let mut look = |lag: Option<u64>, second: u64| {
        let mut facts = well();
        let leads = lag == Some(0);
        let leader = Some(if leads { ME } else { OTHER });
        let replica = Standing { leader, leads, last_log: 9, applied: 9, lag };
        facts.replicas.insert(SHARD, replica);
        facts.rounds.values_mut().for_each(|count| *count = second);
        texts(watchman.look(&facts, start + Duration::from_secs(second))).join("\n")
    };
    assert!(look(None, 1).starts_with("s3: the replica has not caught up"), "no leader was heard");
    assert!(look(Some(5_000), 200).starts_with("s3: the replica has not caught up"));
    assert_eq!(look(Some(60), 201), "");
    assert_eq!(look(Some(5_000), 202), "", "it has been level, and its clients can stay");

    let (start, mut watchman) = (Instant::now(), Watchman::default());
    let mut lags = well();
    lags.replicas.get_mut(&SHARD).unwrap().lag = Some(5_000);
    assert_ne!(watchman.look(&lags, start), []);
    lags.rounds.values_mut().for_each(|count| *count += 1);
    assert_eq!(watchman.look(&lags, start + CATCHING_UP_MAX), [], "out of service for ever");
}

#[test]
fn replica_that_came_later_is_no_reason_for_a_running_node() {
    let mut facts = well();
    facts.replicas.insert(ShardId(4), Standing { lag: None, ..facts.replicas[&SHARD] });
    assert_eq!(after(&facts, FIVE), "");
}

#[test]
fn replica_that_was_not_started_yet_keeps_the_node_from_being_ready() {
    let facts = Facts { is_opening: true, replicas: BTreeMap::new(), ..well() };
    let mut watchman = Watchman::default();
    let now = Instant::now();
    let told = texts(watchman.look(&facts, now));
    assert!(told.len() == 1 && told[0].contains("s3"), "{told:?}");
    // It was moved away meanwhile, or this build cannot read it.
    let opened = Facts { is_opening: false, ..facts };
    assert!(watchman.look(&opened, now).is_empty());
}

#[test]
fn node_without_a_current_view_is_not_ready_for_publishers() {
    let facts = Facts { is_current: false, ..well() };
    let told = Watchman::default().look(&facts, Instant::now());
    assert_eq!(told.iter().map(|reason| reason.blocks).collect::<Vec<_>>(), [Blocks::PUBLISH]);
}

/// Of ten shards two have their majority on two nodes that died: the other nodes serve the rest.
#[test]
fn shards_whose_copies_died_keep_no_other_node_from_its_work() {
    let mut facts = well();
    facts.rounds.clear();
    let dead = [NodeId(7), NodeId(8)];
    for shard in (10..20).map(ShardId) {
        let is_dead = shard.0 < 12;
        let copies = if is_dead { vec![ME, dead[0], dead[1]] } else { vec![ME, OTHER, dead[0]] };
        facts.copies.insert(shard, copies);
        facts.owners.insert(shard, Some(if is_dead { dead[0] } else { OTHER }));
        if is_dead {
            facts.replicas.insert(shard, Standing { last_log: 5, ..Standing::default() });
            facts.restored.insert(shard);
        }
    }
    let blocks = |facts: &Facts| {
        let (start, mut watchman) = (Instant::now(), Watchman::default());
        watchman.look(facts, start);
        watchman.look(facts, start + FIVE)
    };
    let told = blocks(&facts);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].text.starts_with("s10, s11: no node that can be reached has a majority"),
        "{told:?}"
    );
    assert!(!told[0].blocks.any());
    // Most of the shards: then it is this node that is cut off.
    for copies in facts.copies.values_mut() {
        *copies = vec![ME, dead[0], dead[1]];
    }
    assert!(blocks(&facts).iter().any(|reason| reason.blocks.any()));
}

//! Set-up: four nodes in one or two regions. Faults: links break, owners move, topics begin new
//! lives, commits are not handed over, deliveries vanish. Claim: every sink sees each topic in
//! order, nothing twice, no hole without a gap, no gap without need; and when the faults end,
//! everyone is level, every publish has its outcome, and every sum of sessions is the true one.

use std::time::Duration;

use proptest::prelude::*;
use pushonce_core::{FetchError, NodeId, Offset, Page, ShardId, Want, Watching};

use super::{World, topics};

#[derive(Clone, Debug)]
enum Step {
    Commit { topic: usize, told: bool },
    Publish { node: usize, topic: usize },
    Drop { topic: usize },
    Lead { shard: u16, node: usize },
    Doubt { shard: u16 },
    Regain { shard: u16 },
    Cut { a: usize, b: usize },
    Link { a: usize, b: usize },
    Congest { a: usize, b: usize, congested: bool },
    Watch { node: usize, topic: usize, resume: bool },
    Unwatch { node: usize, topic: usize },
    Seat { node: usize, topic: usize, watching: Watching },
    Carry { picks: Vec<usize> },
    Swallow { pick: usize },
    Repeat { pick: usize },
    Pass { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let (node, topic) = (0..4usize, 0..3usize);
    prop_oneof![
        6 => (topic.clone(), prop::bool::weighted(0.9))
            .prop_map(|(topic, told)| Step::Commit { topic, told }),
        3 => (node.clone(), topic.clone()).prop_map(|(node, topic)| Step::Publish { node, topic }),
        1 => topic.clone().prop_map(|topic| Step::Drop { topic }),
        2 => (0..2u16, node.clone()).prop_map(|(shard, node)| Step::Lead { shard, node }),
        1 => (0..2u16).prop_map(|shard| Step::Doubt { shard }),
        1 => (0..2u16).prop_map(|shard| Step::Regain { shard }),
        2 => (node.clone(), node.clone()).prop_map(|(a, b)| Step::Cut { a, b }),
        2 => (node.clone(), node.clone()).prop_map(|(a, b)| Step::Link { a, b }),
        2 => (node.clone(), node.clone(), any::<bool>())
            .prop_map(|(a, b, congested)| Step::Congest { a, b, congested }),
        4 => (node.clone(), topic.clone(), any::<bool>())
            .prop_map(|(node, topic, resume)| Step::Watch { node, topic, resume }),
        1 => (node.clone(), topic.clone()).prop_map(|(node, topic)| Step::Unwatch { node, topic }),
        4 => (node, topic, 0..9u64, any::<bool>()).prop_map(|(node, topic, sessions, asks)| {
            let watching = Watching { sessions, asks: asks && sessions > 0 };
            Step::Seat { node, topic, watching }
        }),
        12 => prop::collection::vec(0..12usize, 1..12).prop_map(|picks| Step::Carry { picks }),
        1 => (0..12usize).prop_map(|pick| Step::Swallow { pick }),
        1 => (0..12usize).prop_map(|pick| Step::Repeat { pick }),
        3 => (1..1_500u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

fn take(world: &mut World, step: Step) {
    let nodes = world.nodes();
    let topics = topics();
    match step {
        Step::Commit { topic, told } => world.commit(&topics[topic], told),
        Step::Publish { node, topic } => world.publish(nodes[node], &topics[topic]),
        Step::Drop { topic } => world.drop_topic(&topics[topic]),
        Step::Lead { shard, node } => world.lead(ShardId(shard), nodes[node]),
        Step::Doubt { shard } => world.doubt(ShardId(shard)),
        Step::Regain { shard } => world.regain(ShardId(shard)),
        Step::Cut { a, b } => world.cut(nodes[a], nodes[b]),
        Step::Link { a, b } => world.link(nodes[a], nodes[b]),
        Step::Congest { a, b, congested } => world.congest(nodes[a], nodes[b], congested),
        Step::Watch { node, topic, resume } => world.watch(nodes[node], &topics[topic], resume),
        Step::Unwatch { node, topic } => world.unwatch(nodes[node], &topics[topic]),
        Step::Seat { node, topic, watching } => world.seat(nodes[node], &topics[topic], watching),
        Step::Carry { picks } => picks.into_iter().for_each(|pick| {
            world.carry(pick);
        }),
        Step::Swallow { pick } => world.swallow(pick),
        Step::Repeat { pick } => world.repeat(pick),
        Step::Pass { ms } => world.pass(Duration::from_millis(ms)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sinks_see_one_log_whatever_breaks(
        two_regions in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let regions = if two_regions { ["eu", "eu", "us", "us"] } else { [""; 4] };
        let mut world = World::new(&regions);
        for step in steps {
            take(&mut world, step);
        }
        world.settle();
        world.check_level();
        world.check_counted();
    }
}

fn two_regions_all_watching() -> (World, pushonce_core::Topic) {
    let mut world = World::new(&["eu", "eu", "us", "us"]);
    let topic = topics().remove(0);
    for node in world.nodes() {
        world.watch(node, &topic, false);
    }
    world.settle();
    (world, topic)
}

#[test]
fn one_message_crosses_into_a_region_once() {
    let (mut world, topic) = two_regions_all_watching();
    assert_eq!(world.crossings(|world| world.commit(&topic, true)), 1);
    world.check_level();
}

#[test]
fn when_the_head_of_a_region_is_cut_off_the_others_find_another_way() {
    let (mut world, topic) = two_regions_all_watching();
    let owner = world.owner(&topic);
    for head in [3, 4].map(NodeId) {
        world.cut(head, owner);
        world.pass(Duration::from_millis(250));
        world.crossings(|world| world.commit(&topic, true));
        let level = world.level(&topic);
        assert!(
            level.contains(&NodeId(7 - head.0)),
            "the other node of the region has the message"
        );
        world.settle();
        world.check_level();
        let again = world.crossings(|world| world.commit(&topic, true));
        assert_eq!(again, 1, "once more a message crosses once");
    }
}

#[test]
fn a_region_without_watchers_is_not_crossed_into() {
    let mut world = World::new(&["eu", "eu", "us", "us"]);
    let topic = topics().remove(0);
    world.watch(NodeId(2), &topic, false);
    world.settle();
    assert_eq!(world.crossings(|world| world.commit(&topic, true)), 0);
    world.check_level();
}

#[test]
fn a_topic_that_nobody_wants_any_more_is_withdrawn_after_a_grace() {
    let (mut world, topic) = two_regions_all_watching();
    for node in [3, 4].map(NodeId) {
        world.unwatch(node, &topic);
    }
    while world.carry(0) {}
    assert_eq!(world.crossings(|world| world.commit(&topic, true)), 1, "still within it");
    world.settle();
    world.settle();
    assert_eq!(world.crossings(|world| world.commit(&topic, true)), 0);
}

#[test]
fn a_message_whose_relay_was_skipped_is_found_by_the_audit() {
    let (mut world, topic) = two_regions_all_watching();
    world.commit(&topic, false);
    world.settle();
    world.check_level();
}

#[test]
fn a_delivery_that_vanished_is_noticed_by_the_heartbeat() {
    let mut world = World::new(&["", ""]);
    let topic = topics().remove(0);
    world.watch(NodeId(2), &topic, false);
    world.settle();
    world.commit(&topic, true);
    (0..2).for_each(|pick| world.swallow(pick));
    world.settle();
    world.check_level();
}

#[test]
fn a_publish_is_unknown_when_the_link_breaks_or_the_owner_changes_or_nobody_answers() {
    let topic = topics().remove(0);
    let faults: [fn(&mut World); 3] = [
        |world| world.cut(NodeId(1), NodeId(2)),
        |world| {
            world.lead(topics().remove(0).shard(world.view.shards), NodeId(2));
            world.pass(Duration::from_millis(400));
        },
        |world| world.pass(Duration::from_secs(4)),
    ];
    for fault in faults {
        let mut world = World::new(&["", ""]);
        world.settle();
        world.publish(NodeId(2), &topic);
        fault(&mut world);
        assert!(world.unknown(1), "the outcome is {:?}", world.outcomes);
    }
}

#[test]
fn owner_that_handed_its_shard_over_still_answers_what_it_committed() {
    let topic = topics().remove(0);
    let mut world = World::new(&["", ""]);
    world.settle();
    world.publish(NodeId(2), &topic);
    // The owner takes it, and its answer is under way when the shard moves.
    assert!(world.carry(0));
    world.lead(topic.shard(world.view.shards), NodeId(2));
    world.pass(Duration::from_millis(100));
    while world.carry(0) {}
    assert!(world.acknowledged(1), "the outcome is {:?}", world.outcomes);
}

#[test]
fn quiet_topics_are_looked_at_by_no_tick() {
    let (mut world, topic) = two_regions_all_watching();
    let restless = |world: &World| {
        world.engines.values().map(|engine| engine.flows.restless().len()).sum::<usize>()
    };
    world.settle();
    assert_eq!(restless(&world), 0);
    world.commit(&topic, true);
    while world.carry(0) {}
    assert_eq!(restless(&world), 0, "a message does not disturb a topic");
    world.unwatch(NodeId(3), &topic);
    assert_ne!(restless(&world), 0, "it may have to be withdrawn");
    world.settle();
    assert_eq!(restless(&world), 0);
}

#[test]
fn a_viewer_who_comes_back_gets_exactly_the_rest() {
    let mut world = World::new(&["", ""]);
    let topic = topics().remove(0);
    world.watch(NodeId(2), &topic, false);
    world.settle();
    world.commit(&topic, true);
    world.settle();
    world.unwatch(NodeId(2), &topic);
    // Longer than the grace, so that the topic is forgotten.
    world.settle();
    (0..3).for_each(|_| world.commit(&topic, true));
    world.watch(NodeId(2), &topic, true);
    world.settle();
    world.check_level();
    assert_eq!(world.logs[&topic].head().offset, Offset(4));
}

/// Everything that is sent arrives, for so long.
fn go_on(world: &mut World, time: Duration) {
    for _ in 0..time.as_millis() / 250 {
        world.pass(Duration::from_millis(250));
        while world.carry(0) {}
    }
}

#[test]
fn who_is_cut_off_is_told_within_five_seconds_and_told_when_it_is_over() {
    let (mut world, topic) = two_regions_all_watching();
    for other in [1, 2, 4].map(NodeId) {
        world.cut(NodeId(3), other);
    }
    go_on(&mut world, Duration::from_secs(5));
    assert_eq!(world.stale(&topic), [NodeId(3)].into());
    world.settle();
    world.check_level();
}

#[test]
fn when_the_owner_has_no_lease_all_are_told_within_five_seconds_also_behind_a_head() {
    let (mut world, topic) = two_regions_all_watching();
    let shard = topic.shard(world.view.shards);
    world.doubt(shard);
    go_on(&mut world, Duration::from_secs(5));
    assert_eq!(world.stale(&topic), world.nodes().into_iter().collect());
    world.regain(shard);
    go_on(&mut world, Duration::from_secs(3));
    assert!(world.stale(&topic).is_empty(), "{:?}", world.stale(&topic));
    world.check_level();
}

#[test]
fn an_owner_that_is_silent_on_a_link_that_is_up_is_noticed_and_quiet_topics_are_not_stale() {
    let (mut world, topic) = two_regions_all_watching();
    go_on(&mut world, Duration::from_secs(20));
    assert!(world.stale(&topic).is_empty(), "nothing was published, and everybody is level");
    // Nothing is carried: links are up, and frozen.
    for _ in 0..5 {
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(world.stale(&topic).len(), 3, "all but the owner's own");
}

#[test]
fn a_failover_of_two_seconds_makes_nothing_stale() {
    let (mut world, topic) = two_regions_all_watching();
    let shard = topic.shard(world.view.shards);
    go_on(&mut world, Duration::from_secs(1));
    world.doubt(shard);
    go_on(&mut world, Duration::from_secs(2));
    world.lead(shard, NodeId(2));
    go_on(&mut world, Duration::from_secs(3));
    assert!(world.stale(&topic).is_empty(), "{:?}", world.stale(&topic));
}

#[test]
fn the_head_of_a_region_does_not_judge_a_position_that_it_has_not_seen() {
    let (mut world, topic) = two_regions_all_watching();
    world.commit(&topic, true);
    world.settle();
    // Acknowledged, and not handed on yet.
    world.commit(&topic, false);
    let acknowledged = world.logs[&topic].head();
    let head = world.view.heads("us").of(topic.shard(world.view.shards))[0];
    let edge = NodeId(7 - head.0);
    let answer = world.ask(edge, &topic, Want::After(acknowledged));
    let page = Page { messages: vec![], head: acknowledged, gap: None };
    assert_eq!(answer, Some(Ok(page)));
    let forged = acknowledged.next();
    let answer = world.ask(edge, &topic, Want::After(forged));
    assert_eq!(answer, Some(Err(FetchError::Future { asked: forged, head: acknowledged })));
}

/// Four nodes in two regions, with 1, 10, 100 and 1,000 sessions; one on each of two nodes asks.
fn two_regions_all_counted() -> (World, pushonce_core::Topic) {
    let (mut world, topic) = two_regions_all_watching();
    for (node, sessions) in world.nodes().into_iter().zip([1, 10, 100, 1_000]) {
        world.seat(node, &topic, Watching { sessions, asks: node.0 % 2 == 0 });
    }
    world.settle();
    (world, topic)
}

#[test]
fn the_owner_knows_how_many_watch_in_all_regions_and_who_asked_is_told() {
    let (mut world, topic) = two_regions_all_counted();
    assert_eq!(world.audience(&topic), 1_111);
    world.check_counted();
    world.seat(NodeId(4), &topic, Watching { sessions: 5, asks: true });
    go_on(&mut world, Duration::from_secs(6));
    world.check_counted();
}

#[test]
fn nothing_is_said_while_nobody_comes_or_goes() {
    let (mut world, topic) = two_regions_all_counted();
    let mut said = 0;
    for _ in 0..40 {
        world.pass(Duration::from_millis(250));
        said += world.counts_under_way();
        while world.carry(0) {}
    }
    assert_eq!(said, 0);
    // One more session says one word a hop, whatever comes and goes meanwhile.
    for sessions in 2..50 {
        world.seat(NodeId(3), &topic, Watching { sessions, asks: false });
    }
    world.pass(Duration::from_millis(250));
    assert!(world.counts_under_way() <= 1);
}

#[test]
fn who_is_cut_off_is_not_counted_any_more() {
    let (mut world, topic) = two_regions_all_counted();
    for other in [1, 2, 3].map(NodeId) {
        world.cut(NodeId(4), other);
    }
    go_on(&mut world, Duration::from_secs(6));
    let owner = world.owner(&topic);
    assert_eq!(world.engines[&owner].audience(&topic), Some(111));
    world.settle();
    world.check_counted();
}

#[test]
fn a_new_owner_says_no_sum_before_it_has_heard_everybody() {
    let (mut world, topic) = two_regions_all_counted();
    let before = world.told(NodeId(2), &topic);
    world.lead(topic.shard(world.view.shards), NodeId(2));
    for _ in 0..40 {
        go_on(&mut world, Duration::from_millis(250));
        let known = world.engines[&NodeId(2)].audience(&topic);
        assert!(known.is_none() || known == Some(1_111), "{known:?} is no sum of all");
        assert_eq!(world.told(NodeId(2), &topic), before);
    }
    world.check_counted();
}

#[test]
fn who_asks_again_is_told_again() {
    let (mut world, topic) = two_regions_all_counted();
    let asks = |asks| Watching { sessions: 1_000, asks };
    for pause in [0, 250, 2_000] {
        world.seat(NodeId(4), &topic, asks(false));
        go_on(&mut world, Duration::from_millis(pause));
        world.seat(NodeId(4), &topic, asks(true));
        go_on(&mut world, Duration::from_secs(6));
        world.check_counted();
    }
}

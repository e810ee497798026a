//! Set-up: four nodes in one or two regions. Faults: links break, owners move, topics are dropped and created
//! again, commits are not handed over, deliveries are lost. Expected: every sink receives each topic in
//! order, without duplicates, without a hole that no gap reports and without an unnecessary gap. After the
//! faults end, every sink is in sync, every publish has an outcome, and every sum of sessions is correct.

use std::time::Duration;

use proptest::prelude::*;
use pushonce_core::{
    FetchError, HistoryPage, HistoryRange, NodeId, Offset, ShardId, SubscriberCount,
};

use super::{RelaySimulation, topics};

#[derive(Clone, Debug)]
enum SimulationStep {
    Commit { topic: usize, handed_over: bool },
    Publish { node: usize, topic: usize },
    DropTopic { topic: usize },
    SetLeader { shard: u16, node: usize },
    RevokeLease { shard: u16 },
    GrantLease { shard: u16 },
    Unlink { a: usize, b: usize },
    Link { a: usize, b: usize },
    SetCongested { a: usize, b: usize, congested: bool },
    Watch { node: usize, topic: usize, resume: bool },
    Unwatch { node: usize, topic: usize },
    SetSubscribers { node: usize, topic: usize, count: SubscriberCount },
    DeliverFrames { picks: Vec<usize> },
    DropDelivery { pick: usize },
    DuplicateCount { pick: usize },
    Advance { ms: u64 },
}

fn step() -> impl Strategy<Value = SimulationStep> {
    let (node, topic) = (0..4usize, 0..3usize);
    prop_oneof![
        6 => (topic.clone(), prop::bool::weighted(0.9))
            .prop_map(|(topic, handed_over)| SimulationStep::Commit { topic, handed_over }),
        3 => (node.clone(), topic.clone()).prop_map(|(node, topic)| SimulationStep::Publish { node, topic }),
        1 => topic.clone().prop_map(|topic| SimulationStep::DropTopic { topic }),
        2 => (0..2u16, node.clone()).prop_map(|(shard, node)| SimulationStep::SetLeader { shard, node }),
        1 => (0..2u16).prop_map(|shard| SimulationStep::RevokeLease { shard }),
        1 => (0..2u16).prop_map(|shard| SimulationStep::GrantLease { shard }),
        2 => (node.clone(), node.clone()).prop_map(|(a, b)| SimulationStep::Unlink { a, b }),
        2 => (node.clone(), node.clone()).prop_map(|(a, b)| SimulationStep::Link { a, b }),
        2 => (node.clone(), node.clone(), any::<bool>())
            .prop_map(|(a, b, congested)| SimulationStep::SetCongested { a, b, congested }),
        4 => (node.clone(), topic.clone(), any::<bool>())
            .prop_map(|(node, topic, resume)| SimulationStep::Watch { node, topic, resume }),
        1 => (node.clone(), topic.clone()).prop_map(|(node, topic)| SimulationStep::Unwatch { node, topic }),
        4 => (node, topic, 0..9u64, any::<bool>()).prop_map(|(node, topic, sessions, wants)| {
            let count = SubscriberCount { sessions, wants_audience: wants && sessions > 0 };
            SimulationStep::SetSubscribers { node, topic, count }
        }),
        12 => prop::collection::vec(0..12usize, 1..12).prop_map(|picks| SimulationStep::DeliverFrames { picks }),
        1 => (0..12usize).prop_map(|pick| SimulationStep::DropDelivery { pick }),
        1 => (0..12usize).prop_map(|pick| SimulationStep::DuplicateCount { pick }),
        3 => (1..1_500u64).prop_map(|ms| SimulationStep::Advance { ms }),
    ]
}

fn apply_step(simulation: &mut RelaySimulation, step: SimulationStep) {
    let nodes = simulation.nodes();
    let topics = topics();
    match step {
        SimulationStep::Commit { topic, handed_over } => {
            simulation.commit(&topics[topic], handed_over)
        }
        SimulationStep::Publish { node, topic } => simulation.publish(nodes[node], &topics[topic]),
        SimulationStep::DropTopic { topic } => simulation.drop_topic(&topics[topic]),
        SimulationStep::SetLeader { shard, node } => {
            simulation.set_leader(ShardId(shard), nodes[node])
        }
        SimulationStep::RevokeLease { shard } => simulation.revoke_lease(ShardId(shard)),
        SimulationStep::GrantLease { shard } => simulation.grant_lease(ShardId(shard)),
        SimulationStep::Unlink { a, b } => simulation.unlink(nodes[a], nodes[b]),
        SimulationStep::Link { a, b } => simulation.link(nodes[a], nodes[b]),
        SimulationStep::SetCongested { a, b, congested } => {
            simulation.set_congested(nodes[a], nodes[b], congested)
        }
        SimulationStep::Watch { node, topic, resume } => {
            simulation.watch(nodes[node], &topics[topic], resume)
        }
        SimulationStep::Unwatch { node, topic } => simulation.unwatch(nodes[node], &topics[topic]),
        SimulationStep::SetSubscribers { node, topic, count } => {
            simulation.set_subscribers(nodes[node], &topics[topic], count)
        }
        SimulationStep::DeliverFrames { picks } => picks.into_iter().for_each(|pick| {
            simulation.deliver_next_frame(pick);
        }),
        SimulationStep::DropDelivery { pick } => simulation.drop_delivery(pick),
        SimulationStep::DuplicateCount { pick } => simulation.duplicate_count(pick),
        SimulationStep::Advance { ms } => simulation.advance(Duration::from_millis(ms)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sinks_receive_one_log_in_order_under_random_faults(
        two_regions in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let regions = if two_regions { ["eu", "eu", "us", "us"] } else { [""; 4] };
        let mut simulation = RelaySimulation::new(&regions);
        for step in steps {
            apply_step(&mut simulation, step);
        }
        simulation.heal_and_settle();
        simulation.check_in_sync();
        simulation.check_audience();
    }
}

fn two_regions_all_watching() -> (RelaySimulation, pushonce_core::Topic) {
    let mut simulation = RelaySimulation::new(&["eu", "eu", "us", "us"]);
    let topic = topics().remove(0);
    for node in simulation.nodes() {
        simulation.watch(node, &topic, false);
    }
    simulation.heal_and_settle();
    (simulation, topic)
}

#[test]
fn message_is_sent_into_another_region_once() {
    let (mut simulation, topic) = two_regions_all_watching();
    assert_eq!(
        simulation.count_cross_region_copies(|simulation| simulation.commit(&topic, true)),
        1
    );
    simulation.check_in_sync();
}

#[test]
fn region_uses_another_path_when_its_head_is_partitioned_from_the_owner() {
    let (mut simulation, topic) = two_regions_all_watching();
    let owner = simulation.owner(&topic);
    for head in [3, 4].map(NodeId) {
        simulation.unlink(head, owner);
        simulation.advance(Duration::from_millis(250));
        simulation.count_cross_region_copies(|simulation| simulation.commit(&topic, true));
        let in_sync = simulation.in_sync_nodes(&topic);
        assert!(
            in_sync.contains(&NodeId(7 - head.0)),
            "the other node of the region has the message"
        );
        simulation.heal_and_settle();
        simulation.check_in_sync();
        let again =
            simulation.count_cross_region_copies(|simulation| simulation.commit(&topic, true));
        assert_eq!(again, 1, "a message crosses once again");
    }
}

#[test]
fn message_is_not_sent_into_a_region_without_watchers() {
    let mut simulation = RelaySimulation::new(&["eu", "eu", "us", "us"]);
    let topic = topics().remove(0);
    simulation.watch(NodeId(2), &topic, false);
    simulation.heal_and_settle();
    assert_eq!(
        simulation.count_cross_region_copies(|simulation| simulation.commit(&topic, true)),
        0
    );
    simulation.check_in_sync();
}

#[test]
fn topic_without_watchers_is_withdrawn_after_a_delay() {
    let (mut simulation, topic) = two_regions_all_watching();
    for node in [3, 4].map(NodeId) {
        simulation.unwatch(node, &topic);
    }
    while simulation.deliver_next_frame(0) {}
    assert_eq!(
        simulation.count_cross_region_copies(|simulation| simulation.commit(&topic, true)),
        1,
        "the topic is still followed during the delay"
    );
    simulation.heal_and_settle();
    simulation.heal_and_settle();
    assert_eq!(
        simulation.count_cross_region_copies(|simulation| simulation.commit(&topic, true)),
        0
    );
}

#[test]
fn message_that_was_never_handed_over_is_found_by_the_audit() {
    let (mut simulation, topic) = two_regions_all_watching();
    simulation.commit(&topic, false);
    simulation.heal_and_settle();
    simulation.check_in_sync();
}

#[test]
fn age_of_a_delivery_adds_the_waits_on_each_node_and_half_of_each_round_trip() {
    let one_way = Duration::from_millis(4);
    let mut simulation = RelaySimulation::new(&["a", "b", "b"]);
    let topic = topics().remove(0);
    (1..=3).for_each(|node| simulation.watch(NodeId(node), &topic, false));
    simulation.commit(&topic, true);
    simulation.heal_and_settle();
    let age = |simulation: &RelaySimulation, node| simulation.ages.get(&NodeId(node)).copied();
    for remote in [2, 3] {
        assert_eq!(age(&simulation, remote).flatten(), None, "history has no age");
    }
    let deliver_hops = |simulation: &mut RelaySimulation, hops| {
        for _ in 0..hops {
            simulation.advance(one_way);
            simulation.deliver_frames_in_flight();
        }
    };
    for _ in 0..3 {
        simulation.advance(Duration::from_secs(1));
        deliver_hops(&mut simulation, 1);
    }
    simulation.commit(&topic, true);
    deliver_hops(&mut simulation, 2);
    let ages = simulation.ages.values().map(|age| age.expect("measured"));
    let millis = ages.clone().map(|age| age.elapsed.as_millis());
    // Node 1 owns the topic; one of the other two is the region head, from which the last one receives it.
    let mut sorted: Vec<_> = millis.collect();
    sorted.sort_unstable();
    assert_eq!(sorted, [3, 7, 11]);
    assert_eq!(ages.map(|age| age.is_local).collect::<Vec<_>>(), [true, false, false]);
}

#[test]
fn lost_delivery_is_detected_by_the_heartbeat() {
    let mut simulation = RelaySimulation::new(&["", ""]);
    let topic = topics().remove(0);
    simulation.watch(NodeId(2), &topic, false);
    simulation.heal_and_settle();
    simulation.commit(&topic, true);
    (0..2).for_each(|pick| simulation.drop_delivery(pick));
    simulation.heal_and_settle();
    simulation.check_in_sync();
}

#[test]
fn publish_ends_as_unknown_on_link_loss_owner_change_or_timeout() {
    let topic = topics().remove(0);
    let faults: [fn(&mut RelaySimulation); 3] = [
        |simulation| simulation.unlink(NodeId(1), NodeId(2)),
        |simulation| {
            simulation.set_leader(topics().remove(0).shard(simulation.view.shards), NodeId(2));
            simulation.advance(Duration::from_millis(400));
        },
        |simulation| simulation.advance(Duration::from_secs(4)),
    ];
    for fault in faults {
        let mut simulation = RelaySimulation::new(&["", ""]);
        simulation.heal_and_settle();
        simulation.publish(NodeId(2), &topic);
        fault(&mut simulation);
        assert!(simulation.is_unknown(1), "the outcome is {:?}", simulation.outcomes);
    }
}

#[test]
fn former_owner_still_answers_publishes_it_committed() {
    let topic = topics().remove(0);
    let mut simulation = RelaySimulation::new(&["", ""]);
    simulation.heal_and_settle();
    simulation.publish(NodeId(2), &topic);
    // The owner commits it, and its answer is in flight when the shard moves.
    assert!(simulation.deliver_next_frame(0));
    simulation.set_leader(topic.shard(simulation.view.shards), NodeId(2));
    simulation.advance(Duration::from_millis(100));
    while simulation.deliver_next_frame(0) {}
    assert!(simulation.is_acknowledged(1), "the outcome is {:?}", simulation.outcomes);
}

#[test]
fn settled_topics_are_skipped_by_ticks() {
    let (mut simulation, topic) = two_regions_all_watching();
    let count_needing_tick = |simulation: &RelaySimulation| {
        simulation
            .engines
            .values()
            .map(|engine| engine.replications.topics_needing_tick().len())
            .sum::<usize>()
    };
    simulation.heal_and_settle();
    assert_eq!(count_needing_tick(&simulation), 0);
    simulation.commit(&topic, true);
    while simulation.deliver_next_frame(0) {}
    assert_eq!(count_needing_tick(&simulation), 0, "a message does not unsettle a topic");
    simulation.unwatch(NodeId(3), &topic);
    assert_ne!(count_needing_tick(&simulation), 0, "the topic may have to be withdrawn");
    simulation.heal_and_settle();
    assert_eq!(count_needing_tick(&simulation), 0);
}

#[test]
fn returning_sink_receives_exactly_the_missed_messages() {
    let mut simulation = RelaySimulation::new(&["", ""]);
    let topic = topics().remove(0);
    simulation.watch(NodeId(2), &topic, false);
    simulation.heal_and_settle();
    simulation.commit(&topic, true);
    simulation.heal_and_settle();
    simulation.unwatch(NodeId(2), &topic);
    // Longer than the withdrawal delay, so that the topic is removed.
    simulation.heal_and_settle();
    (0..3).for_each(|_| simulation.commit(&topic, true));
    simulation.watch(NodeId(2), &topic, true);
    simulation.heal_and_settle();
    simulation.check_in_sync();
    assert_eq!(simulation.logs[&topic].head().offset, Offset(4));
}

/// Delivers every frame for the given time.
fn run_for(simulation: &mut RelaySimulation, time: Duration) {
    for _ in 0..time.as_millis() / 250 {
        simulation.advance(Duration::from_millis(250));
        while simulation.deliver_next_frame(0) {}
    }
}

#[test]
fn sink_of_a_partitioned_node_is_stale_within_five_seconds_and_fresh_after_healing() {
    let (mut simulation, topic) = two_regions_all_watching();
    for other in [1, 2, 4].map(NodeId) {
        simulation.unlink(NodeId(3), other);
    }
    run_for(&mut simulation, Duration::from_secs(5));
    assert_eq!(simulation.stale_nodes(&topic), [NodeId(3)].into());
    simulation.heal_and_settle();
    simulation.check_in_sync();
}

#[test]
fn all_sinks_are_stale_within_five_seconds_when_the_owner_has_no_lease() {
    let (mut simulation, topic) = two_regions_all_watching();
    let shard = topic.shard(simulation.view.shards);
    simulation.revoke_lease(shard);
    run_for(&mut simulation, Duration::from_secs(5));
    assert_eq!(simulation.stale_nodes(&topic), simulation.nodes().into_iter().collect());
    simulation.grant_lease(shard);
    run_for(&mut simulation, Duration::from_secs(3));
    assert!(simulation.stale_nodes(&topic).is_empty(), "{:?}", simulation.stale_nodes(&topic));
    simulation.check_in_sync();
}

#[test]
fn sinks_become_stale_on_silent_links_but_not_on_quiet_topics() {
    let (mut simulation, topic) = two_regions_all_watching();
    run_for(&mut simulation, Duration::from_secs(20));
    assert!(simulation.stale_nodes(&topic).is_empty(), "a quiet topic is not stale");
    // The links are up but carry nothing.
    for _ in 0..5 {
        simulation.advance(Duration::from_secs(1));
    }
    assert_eq!(simulation.stale_nodes(&topic).len(), 3, "all sinks but the owner's");
}

#[test]
fn failover_of_two_seconds_marks_no_sink_stale() {
    let (mut simulation, topic) = two_regions_all_watching();
    let shard = topic.shard(simulation.view.shards);
    run_for(&mut simulation, Duration::from_secs(1));
    simulation.revoke_lease(shard);
    run_for(&mut simulation, Duration::from_secs(2));
    simulation.set_leader(shard, NodeId(2));
    run_for(&mut simulation, Duration::from_secs(3));
    assert!(simulation.stale_nodes(&topic).is_empty(), "{:?}", simulation.stale_nodes(&topic));
}

#[test]
fn region_head_does_not_reject_a_position_it_has_not_seen() {
    let (mut simulation, topic) = two_regions_all_watching();
    simulation.commit(&topic, true);
    simulation.heal_and_settle();
    // Acknowledged, and not yet handed over to the relay.
    simulation.commit(&topic, false);
    let acknowledged = simulation.logs[&topic].head();
    let head =
        simulation.view.region_heads("us").candidates(topic.shard(simulation.view.shards))[0];
    let edge = NodeId(7 - head.0);
    let result = simulation.fetch(edge, &topic, HistoryRange::After(acknowledged));
    let page = HistoryPage { messages: vec![], head: acknowledged, gap: None };
    assert_eq!(result, Some(Ok(page)));
    let forged = acknowledged.next();
    let result = simulation.fetch(edge, &topic, HistoryRange::After(forged));
    assert_eq!(
        result,
        Some(Err(FetchError::FuturePosition { requested: forged, head: acknowledged }))
    );
}

/// Four nodes in two regions, with 1, 10, 100 and 1,000 sessions; a session on two of the nodes requests the
/// audience.
fn two_regions_with_subscriber_counts() -> (RelaySimulation, pushonce_core::Topic) {
    let (mut simulation, topic) = two_regions_all_watching();
    for (node, sessions) in simulation.nodes().into_iter().zip([1, 10, 100, 1_000]) {
        simulation.set_subscribers(
            node,
            &topic,
            SubscriberCount { sessions, wants_audience: node.0 % 2 == 0 },
        );
    }
    simulation.heal_and_settle();
    (simulation, topic)
}

#[test]
fn owner_sums_subscribers_of_all_regions_and_reports_to_requesting_nodes() {
    let (mut simulation, topic) = two_regions_with_subscriber_counts();
    assert_eq!(simulation.audience(&topic), 1_111);
    simulation.check_audience();
    simulation.set_subscribers(
        NodeId(4),
        &topic,
        SubscriberCount { sessions: 5, wants_audience: true },
    );
    run_for(&mut simulation, Duration::from_secs(6));
    simulation.check_audience();
}

#[test]
fn no_counts_are_sent_while_subscribers_do_not_change() {
    let (mut simulation, topic) = two_regions_with_subscriber_counts();
    let mut frames_sent = 0;
    for _ in 0..40 {
        simulation.advance(Duration::from_millis(250));
        frames_sent += simulation.count_frames_in_flight();
        while simulation.deliver_next_frame(0) {}
    }
    assert_eq!(frames_sent, 0);
    // Many changes cause one frame a hop.
    for sessions in 2..50 {
        simulation.set_subscribers(
            NodeId(3),
            &topic,
            SubscriberCount { sessions, wants_audience: false },
        );
    }
    simulation.advance(Duration::from_millis(250));
    assert!(simulation.count_frames_in_flight() <= 1);
}

#[test]
fn sessions_of_a_partitioned_node_are_not_counted() {
    let (mut simulation, topic) = two_regions_with_subscriber_counts();
    for other in [1, 2, 3].map(NodeId) {
        simulation.unlink(NodeId(4), other);
    }
    run_for(&mut simulation, Duration::from_secs(6));
    let owner = simulation.owner(&topic);
    assert_eq!(simulation.engines[&owner].audience(&topic), Some(111));
    simulation.heal_and_settle();
    simulation.check_audience();
}

#[test]
fn new_owner_reports_no_total_before_every_node_has_reported() {
    let (mut simulation, topic) = two_regions_with_subscriber_counts();
    let before = simulation.audience_received(NodeId(2), &topic);
    simulation.set_leader(topic.shard(simulation.view.shards), NodeId(2));
    for _ in 0..40 {
        run_for(&mut simulation, Duration::from_millis(250));
        let known = simulation.engines[&NodeId(2)].audience(&topic);
        assert!(known.is_none() || known == Some(1_111), "{known:?} is a partial sum");
        assert_eq!(simulation.audience_received(NodeId(2), &topic), before);
    }
    simulation.check_audience();
}

#[test]
fn audience_is_reported_again_when_requested_again() {
    let (mut simulation, topic) = two_regions_with_subscriber_counts();
    let count_with = |wants_audience| SubscriberCount { sessions: 1_000, wants_audience };
    for pause in [0, 250, 2_000] {
        simulation.set_subscribers(NodeId(4), &topic, count_with(false));
        run_for(&mut simulation, Duration::from_millis(pause));
        simulation.set_subscribers(NodeId(4), &topic, count_with(true));
        run_for(&mut simulation, Duration::from_secs(6));
        simulation.check_audience();
    }
}

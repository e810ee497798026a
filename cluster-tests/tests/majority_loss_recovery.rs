//! Set-up: three nodes, a topic with history and a subscriber; clusters of five nodes.
//! Fault: a majority, or two nodes of five, are lost for good.
//! Claim: `pushonce cluster recover` on the last of three nodes, which must not run, prints what may be lost
//! and changes nothing without `--yes`. Afterwards publishing and delivery resume, no position is used twice,
//! and every subscriber receives a gap `epoch`; the lost nodes are refused, and a new node joins. Two
//! survivors of five recover only with the surveys of both, and exactly one of them recovers each shard, with
//! the surviving messages. Three survivors of five recover only the shards that lost their majority, and then
//! remove the lost nodes as usual.

use std::collections::BTreeMap;

use pushonce_client::{SubscriberEvent, Transport};
use pushonce_cluster_tests::{
    EXIT_REMOVED, ProcessCluster, ReceivedMessage, cli, secs, wait_until,
};
use pushonce_core::{GapReason, ShardCount, StartFrom, Topic};
use serde_json::Value;
use tokio::sync::Mutex;

const TOPIC: &str = "match/1";

/// Runs one test at a time: thirteen nodes at once are too many for two cores.
static CLUSTER_LOCK: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn recover_restores_service_after_a_lost_majority() {
    let _lock = CLUSTER_LOCK.lock().await;
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let before = cluster.publish_numbers(0, TOPIC, 0..5).await;
    let mut viewer = cluster.subscriber(2, Transport::Ws, TOPIC, StartFrom::Start);
    assert_eq!(viewer.next_messages(5, secs(10)).await, before);
    cluster.kill(0);
    cluster.kill(1);

    recover_third_node(&cluster, &["--yes"]).await.expect_failure(&["already open"]);
    cluster.kill(2);
    recover_third_node(&cluster, &["--lost", "node-2"]).await.expect_failure(&["is a survivor"]);
    let plan = recover_third_node(&cluster, &[]).await.expect_success();
    assert!(
        plan.contains("nothing was changed") && plan.contains("recovered as of entry"),
        "{plan}"
    );
    let output = recover_third_node(&cluster, &["--yes"]).await.expect_success();
    assert!(output.contains("done; start this node again"), "{output}");
    assert!(cluster.node(2).data_dir().join("recoveries.jsonl").exists());

    cluster.restart(2);
    cluster.wait_settled(1).await;
    let after = cluster.publish_numbers(2, TOPIC, 5..8).await;
    let gap = viewer.next_gap(secs(30)).await;
    assert_eq!(gap.reason, GapReason::Epoch, "{gap}");
    let last_before = before.last().expect("five messages").0;
    assert!(gap.to.epoch > last_before.epoch, "{gap}");
    let mut late_viewer = cluster.subscriber(2, Transport::Ws, TOPIC, StartFrom::Start);
    for viewer in [&mut viewer, &mut late_viewer] {
        let received = messages_up_to(viewer, after.last().expect("three messages")).await;
        let (kept, new) = received.split_at(received.len() - after.len());
        assert_eq!(new, after);
        assert!(kept.iter().all(|(position, _)| position.epoch > last_before.epoch));
        // The survivor may have lagged: it has a prefix of the messages.
        assert!(kept.iter().zip(&before).all(|((_, kept), (_, sent))| kept == sent), "{kept:?}");
    }

    for lost in [0, 1] {
        cluster.restart(lost);
        assert_eq!(cluster.wait_exit(lost).await.code(), Some(EXIT_REMOVED));
        assert!(cluster.node(lost).log_text().contains("was removed from the cluster"));
    }
    cluster.join("");
    cluster.wait_settled(2).await;
    cluster.publish_numbers(3, TOPIC, 8..10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_survivors_recover_with_both_surveys() {
    let _lock = CLUSTER_LOCK.lock().await;
    let mut cluster = ProcessCluster::with_nodes(5).start().await;
    let topics = publish_to_all(&cluster).await;
    let survivors = [3, 4];
    for node in 0..5 {
        cluster.kill(node);
    }
    let lost = ["--lost", "node-0,node-1,node-2"];
    recover_on(&cluster, 3, &lost).await.expect_failure(&["not in --lost", "--surveys"]);
    let files = write_surveys(&cluster, &survivors, &lost).await;
    let files_joined = files.join(",");
    let flags = [&lost[..], &["--surveys", &files_joined]].concat();
    let flags_yes = [&lost[..], &["--yes", "--surveys"]].concat();
    recover_on(&cluster, 3, &[&flags_yes[..], &[&files[1]]].concat())
        .await
        .expect_failure(&["the same"]);
    let (fates, controls) = recover_all(&cluster, &survivors, &flags).await;
    assert!(controls.iter().all(Value::is_u64), "{controls:?}");
    // The survey is outdated now.
    recover_on(&cluster, 3, &[&flags[..], &["--yes"]].concat())
        .await
        .expect_failure(&["has run since"]);

    for node in survivors {
        cluster.restart(node);
    }
    cluster.wait_settled(2).await;
    assert_survived_messages(&cluster, &topics, &fates, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recover_restores_shards_without_a_majority_and_keeps_the_control_group() {
    let _lock = CLUSTER_LOCK.lock().await;
    let mut cluster = ProcessCluster::with_nodes(5).start().await;
    let topics = publish_to_all(&cluster).await;
    let survivors = [2, 3, 4];
    for node in 0..5 {
        cluster.kill(node);
    }
    let lost = ["--lost", "node-0,node-1"];
    let files_joined = write_surveys(&cluster, &survivors, &lost).await.join(",");
    let flags = [&lost[..], &["--surveys", &files_joined]].concat();
    let plan = recover_on(&cluster, 2, &flags).await.expect_success();
    assert!(plan.contains("continues when the survivors run again"), "{plan}");
    let (fates, controls) = recover_all(&cluster, &survivors, &flags).await;
    assert!(controls.iter().all(Value::is_null), "{controls:?}");
    assert!(fates.values().any(|fate| fate == "recovered"), "{fates:?}");

    for node in survivors {
        cluster.restart(node);
    }
    for lost in [0, 1] {
        let node = format!("n{}", cluster.node_id(3, lost).await);
        let server = format!("http://{}", cluster.ports(3).grpc);
        let args = ["cluster", "remove", &node, "--server", &server];
        wait_until("the node is removed", secs(30), async || {
            let output = cli::pushonce(args, "").await;
            if output.status.success() { Ok(()) } else { Err(output.stderr) }
        })
        .await;
    }
    cluster.wait_settled(3).await;
    assert_survived_messages(&cluster, &topics, &fates, 24).await;
}

/// Publishes one message on each of 32 topics, and waits until every replica has it.
async fn publish_to_all(cluster: &ProcessCluster) -> Vec<String> {
    let topics: Vec<_> = (0..32).map(|n| format!("match/{n}")).collect();
    for topic in &topics {
        cluster.publish_numbers(3, topic, 0..1).await;
    }
    // Two of three replicas acknowledge. The third, which may be the survivor, receives the message within a
    // few heartbeats.
    tokio::time::sleep(secs(3)).await;
    topics
}

async fn write_surveys(
    cluster: &ProcessCluster,
    survivors: &[usize],
    lost: &[&str],
) -> Vec<String> {
    let mut files = Vec::new();
    for &node in survivors {
        let survey =
            recover_on(cluster, node, &[lost, &["--json"]].concat()).await.expect_success();
        let file = cluster.dir().join(format!("survey-{node}.json"));
        std::fs::write(&file, survey).expect("write the survey");
        files.push(file.to_string_lossy().into_owned());
    }
    files
}

/// The fate of each shard, and the entry from which each survivor recovers the control group. All survivors
/// have the same plan, and exactly one of them recovers each shard that does not continue by itself.
async fn recover_all(
    cluster: &ProcessCluster,
    survivors: &[usize],
    flags: &[&str],
) -> (BTreeMap<u16, String>, Vec<Value>) {
    let mut plans = Vec::new();
    for &node in survivors {
        let output = recover_on(cluster, node, &[flags, &["--yes", "--json"]].concat())
            .await
            .expect_success();
        let output: Value = serde_json::from_str(&output).expect("JSON");
        plans.push(output["plan"].clone());
    }
    assert!(plans.iter().all(|plan| plan["digest"] == plans[0]["digest"]), "{plans:?}");
    let mut fates: BTreeMap<u16, String> = BTreeMap::new();
    for (shard, fate) in
        plans.iter().flat_map(|plan| plan["shards"].as_object().expect("an object"))
    {
        let (shard, fate) =
            (shard.parse().expect("a shard id"), fate["fate"].as_str().expect("a fate"));
        let before = fates.get(&shard).map_or("recovered_elsewhere", String::as_str);
        match (before, fate) {
            (_, "recovered_elsewhere") => {}
            ("recovered_elsewhere", _) | ("has_majority", "has_majority") => {
                fates.insert(shard, fate.to_owned());
            }
            _ => panic!("s{shard} is {before} on one survivor and {fate} on another: {plans:?}"),
        }
    }
    let shards = plans[0]["shards"].as_object().expect("an object").len();
    assert_eq!(fates.len(), shards, "no survivor recovers some shards: {plans:?}");
    (fates, plans.iter().map(|plan| plan["control"].clone()).collect())
}

/// Checks that every topic accepts a message, and that topics of shards that survived still have the old one.
async fn assert_survived_messages(
    cluster: &ProcessCluster,
    topics: &[String],
    fates: &BTreeMap<u16, String>,
    kept_min: usize,
) {
    let shards = u16::try_from(fates.len()).ok().and_then(ShardCount::new);
    let shards = shards.expect("a valid shard count");
    let mut kept = 0;
    for name in topics {
        let new = cluster.publish_numbers(4, name, 1..2).await;
        let topic: Topic = name.parse().expect("a valid topic");
        let fate = &fates[&topic.shard(shards).0];
        let mut viewer = cluster.subscriber(4, Transport::Ws, name, StartFrom::Start);
        let received = messages_up_to(&mut viewer, &new[0]).await;
        let texts: Vec<_> = received.iter().map(|(_, text)| text.as_str()).collect();
        let expected = if fate == "empty" { &["1"][..] } else { &["0", "1"] };
        assert_eq!(texts, expected, "{name}, whose shard is {fate}");
        kept += usize::from(fate != "empty");
    }
    assert!(kept >= kept_min, "only {kept} topics survived: {fates:?}");
}

async fn recover_third_node(cluster: &ProcessCluster, extra_flags: &[&str]) -> cli::CommandOutput {
    let lost: &[_] =
        if extra_flags.contains(&"--lost") { &[] } else { &["--lost", "node-0,node-1"] };
    recover_on(cluster, 2, &[lost, extra_flags].concat()).await
}

async fn recover_on(
    cluster: &ProcessCluster,
    node: usize,
    extra_flags: &[&str],
) -> cli::CommandOutput {
    let data = cluster.node(node).data_dir().to_string_lossy().into_owned();
    let args = [&["cluster", "recover", "--data", &data], extra_flags].concat();
    cli::pushonce(args, "").await
}

async fn messages_up_to(
    viewer: &mut pushonce_cluster_tests::TestSubscriber,
    last: &ReceivedMessage,
) -> Vec<ReceivedMessage> {
    let mut received: Vec<ReceivedMessage> = Vec::new();
    while received.last() != Some(last) {
        if let SubscriberEvent::Message { message, .. } = viewer.next_event(secs(20)).await {
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            received.push((message.position, text));
        }
    }
    received
}

//! Set-up: three nodes, a topic with history and a subscriber.
//! Fault: two of them are lost for good.
//! Claim: `pushonce cluster recover` on the third, which must not run, says what may be lost and changes
//! nothing without --yes; after it publishes and subscribers go on, no position is given out twice, and
//! every subscriber is told of a gap `epoch`; the lost nodes are refused, and a new one joins. Two survivors of
//! five do so only with the surveys of both, and each shard is begun anew by exactly one of them, with the
//! messages that survived. Three survivors of five begin anew only the shards that lost their majority, and
//! then remove the lost nodes as usual.

use std::collections::BTreeMap;

use pushonce_client::{Event, Transport};
use pushonce_cluster_tests::{Cluster, EXPELLED, Seen, secs, tool, until};
use pushonce_core::{From, GapReason, ShardCount, Topic};
use serde_json::Value;
use tokio::sync::Mutex;

const TOPIC: &str = "match/1";

/// Thirteen nodes at once are too many for two cores.
static ONE_CLUSTER: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_on_without_its_lost_majority() {
    let _alone = ONE_CLUSTER.lock().await;
    let mut cluster = Cluster::of(3).start().await;
    let before = cluster.publish(0, TOPIC, 0..5).await;
    let mut viewer = cluster.viewer(2, Transport::Ws, TOPIC, From::Start);
    assert_eq!(viewer.messages(5, secs(10)).await, before);
    cluster.kill(0);
    cluster.kill(1);

    recover(&cluster, &["--yes"]).await.failed(&["already open"]);
    cluster.kill(2);
    recover(&cluster, &["--lost", "node-2"]).await.failed(&["is a survivor"]);
    let plan = recover(&cluster, &[]).await.ok();
    assert!(
        plan.contains("nothing was changed") && plan.contains("recovered as of entry"),
        "{plan}"
    );
    let done = recover(&cluster, &["--yes"]).await.ok();
    assert!(done.contains("done; start this node again"), "{done}");
    assert!(cluster.node(2).data().join("recoveries.jsonl").exists());

    cluster.restart(2);
    cluster.settled(1).await;
    let after = cluster.publish(2, TOPIC, 5..8).await;
    let gap = viewer.gap(secs(30)).await;
    assert_eq!(gap.reason, GapReason::Epoch, "{gap}");
    let old = before.last().expect("there are five").0;
    assert!(gap.to.epoch > old.epoch, "{gap}");
    let mut late = cluster.viewer(2, Transport::Ws, TOPIC, From::Start);
    for viewer in [&mut viewer, &mut late] {
        let seen = up_to(viewer, after.last().expect("there are three")).await;
        let (kept, new) = seen.split_at(seen.len() - after.len());
        assert_eq!(new, after);
        assert!(kept.iter().all(|(position, _)| position.epoch > old.epoch));
        // The survivor may have lagged: what it has is a prefix.
        assert!(kept.iter().zip(&before).all(|((_, kept), (_, sent))| kept == sent), "{kept:?}");
    }

    for lost in [0, 1] {
        cluster.restart(lost);
        assert_eq!(cluster.ended(lost).await.code(), Some(EXPELLED));
        assert!(cluster.node(lost).log().contains("was removed from the cluster"));
    }
    cluster.join("");
    cluster.settled(2).await;
    cluster.publish(3, TOPIC, 8..10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_survivors_recover_by_the_surveys_of_both() {
    let _alone = ONE_CLUSTER.lock().await;
    let mut cluster = Cluster::of(5).start().await;
    let topics = published(&cluster).await;
    let survivors = [3, 4];
    for node in 0..5 {
        cluster.kill(node);
    }
    let lost = ["--lost", "node-0,node-1,node-2"];
    recover_on(&cluster, 3, &lost).await.failed(&["not in --lost", "--surveys"]);
    let files = surveys(&cluster, &survivors, &lost).await;
    let joined = files.join(",");
    let all = [&lost[..], &["--surveys", &joined]].concat();
    let more = [&lost[..], &["--yes", "--surveys"]].concat();
    recover_on(&cluster, 3, &[&more[..], &[&files[1]]].concat()).await.failed(&["the same"]);
    let (fates, controls) = recover_all(&cluster, &survivors, &all).await;
    assert!(controls.iter().all(Value::is_u64), "{controls:?}");
    // Its survey is out of date now.
    recover_on(&cluster, 3, &[&all[..], &["--yes"]].concat()).await.failed(&["has run since"]);

    for node in survivors {
        cluster.restart(node);
    }
    cluster.settled(2).await;
    goes_on_with_what_survived(&cluster, &topics, &fates, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_lost_their_majority_are_recovered_while_the_control_group_has_its_own() {
    let _alone = ONE_CLUSTER.lock().await;
    let mut cluster = Cluster::of(5).start().await;
    let topics = published(&cluster).await;
    let survivors = [2, 3, 4];
    for node in 0..5 {
        cluster.kill(node);
    }
    let lost = ["--lost", "node-0,node-1"];
    let joined = surveys(&cluster, &survivors, &lost).await.join(",");
    let all = [&lost[..], &["--surveys", &joined]].concat();
    let plan = recover_on(&cluster, 2, &all).await.ok();
    assert!(plan.contains("goes on by itself when the survivors run again"), "{plan}");
    let (fates, controls) = recover_all(&cluster, &survivors, &all).await;
    assert!(controls.iter().all(Value::is_null), "{controls:?}");
    assert!(fates.values().any(|fate| fate == "recovered"), "{fates:?}");

    for node in survivors {
        cluster.restart(node);
    }
    for lost in [0, 1] {
        let node = format!("n{}", cluster.id_of(3, lost).await);
        let server = format!("http://{}", cluster.ports(3).grpc);
        let args = ["cluster", "remove", &node, "--server", &server];
        until("it is removed", secs(30), async || {
            let done = tool::pushonce(args, "").await;
            if done.status.success() { Ok(()) } else { Err(done.err) }
        })
        .await;
    }
    cluster.settled(3).await;
    goes_on_with_what_survived(&cluster, &topics, &fates, 24).await;
}

/// Topics with one message each, which every replica has.
async fn published(cluster: &Cluster) -> Vec<String> {
    let topics: Vec<_> = (0..32).map(|n| format!("match/{n}")).collect();
    for topic in &topics {
        cluster.publish(3, topic, 0..1).await;
    }
    // Two replicas of three acknowledge. The third may be the one that survives: it gets the message, too,
    // within some heartbeats.
    tokio::time::sleep(secs(3)).await;
    topics
}

async fn surveys(cluster: &Cluster, survivors: &[usize], lost: &[&str]) -> Vec<String> {
    let mut files = Vec::new();
    for &node in survivors {
        let survey = recover_on(cluster, node, &[lost, &["--json"]].concat()).await.ok();
        let file = cluster.home().join(format!("survey-{node}.json"));
        std::fs::write(&file, survey).expect("it is written");
        files.push(file.to_string_lossy().into_owned());
    }
    files
}

/// What becomes of each shard, and where each survivor says that the control group is begun anew. All have
/// the same plan, and each shard that does not go on is begun anew by exactly one of them.
async fn recover_all(
    cluster: &Cluster,
    survivors: &[usize],
    all: &[&str],
) -> (BTreeMap<u16, String>, Vec<Value>) {
    let mut plans = Vec::new();
    for &node in survivors {
        let printed = recover_on(cluster, node, &[all, &["--yes", "--json"]].concat()).await.ok();
        let printed: Value = serde_json::from_str(&printed).expect("JSON");
        plans.push(printed["plan"].clone());
    }
    assert!(plans.iter().all(|plan| plan["digest"] == plans[0]["digest"]), "{plans:?}");
    let mut fates: BTreeMap<u16, String> = BTreeMap::new();
    for (shard, own) in plans.iter().flat_map(|plan| plan["shards"].as_object().expect("a map")) {
        let (shard, own) = (shard.parse().expect("an id"), own["fate"].as_str().expect("a fate"));
        let before = fates.get(&shard).map_or("elsewhere", String::as_str);
        match (before, own) {
            (_, "elsewhere") => {}
            ("elsewhere", _) | ("goes_on", "goes_on") => {
                fates.insert(shard, own.to_owned());
            }
            _ => panic!("s{shard} is {before} on one survivor, and {own} on another: {plans:?}"),
        }
    }
    let shards = plans[0]["shards"].as_object().expect("a map").len();
    assert_eq!(fates.len(), shards, "some shards are recovered nowhere: {plans:?}");
    (fates, plans.iter().map(|plan| plan["control"].clone()).collect())
}

/// Every topic accepts a message, and those of shards of which something survived have the old one.
async fn goes_on_with_what_survived(
    cluster: &Cluster,
    topics: &[String],
    fates: &BTreeMap<u16, String>,
    kept_min: usize,
) {
    let shards = u16::try_from(fates.len()).ok().and_then(ShardCount::new);
    let shards = shards.expect("a number of shards");
    let mut kept = 0;
    for name in topics {
        let new = cluster.publish(4, name, 1..2).await;
        let topic: Topic = name.parse().expect("a topic");
        let fate = &fates[&topic.shard(shards).0];
        let mut viewer = cluster.viewer(4, Transport::Ws, name, From::Start);
        let seen = up_to(&mut viewer, &new[0]).await;
        let texts: Vec<_> = seen.iter().map(|(_, text)| text.as_str()).collect();
        let expected = if fate == "empty" { &["1"][..] } else { &["0", "1"] };
        assert_eq!(texts, expected, "{name}, whose shard is {fate}");
        kept += usize::from(fate != "empty");
    }
    assert!(kept >= kept_min, "only {kept} topics survived: {fates:?}");
}

async fn recover(cluster: &Cluster, more: &[&str]) -> tool::Done {
    let lost: &[_] = if more.contains(&"--lost") { &[] } else { &["--lost", "node-0,node-1"] };
    recover_on(cluster, 2, &[lost, more].concat()).await
}

async fn recover_on(cluster: &Cluster, node: usize, more: &[&str]) -> tool::Done {
    let data = cluster.node(node).data().to_string_lossy().into_owned();
    let args = [&["cluster", "recover", "--data", &data], more].concat();
    tool::pushonce(args, "").await
}

async fn up_to(viewer: &mut pushonce_cluster_tests::Viewer, last: &Seen) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    while seen.last() != Some(last) {
        if let Event::Message { message, .. } = viewer.next(secs(20)).await {
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            seen.push((message.position, text));
        }
    }
    seen
}

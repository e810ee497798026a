//! Set-up: three nodes, a topic with history and a subscriber.
//! Fault: two of them are lost for good.
//! Claim: `pushonce cluster recover` on the third, which must not run, says what may be lost and changes
//! nothing without --yes; after it publishes and subscribers go on, no position is given out twice, and
//! every subscriber is told of a gap `epoch`; the lost nodes are refused, and a new one joins. Two survivors of
//! five do so only with the surveys of both, and each shard is begun anew by exactly one of them.

use pushonce_client::{Event, Transport};
use pushonce_cluster_tests::{Cluster, EXPELLED, Seen, secs, tool};
use pushonce_core::{From, GapReason};

const TOPIC: &str = "match/1";

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_on_without_its_lost_majority() {
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
    let mut cluster = Cluster::of(5).start().await;
    let topics: Vec<_> = (0..32).map(|n| format!("match/{n}")).collect();
    for topic in &topics {
        cluster.publish(3, topic, 0..1).await;
    }
    let survivors = [3, 4];
    for node in 0..5 {
        cluster.kill(node);
    }
    let lost = ["--lost", "node-0,node-1,node-2"];
    recover_on(&cluster, 3, &lost).await.failed(&["not in --lost", "--surveys"]);
    let mut files = Vec::new();
    for node in survivors {
        let survey = recover_on(&cluster, node, &[&lost[..], &["--json"]].concat()).await.ok();
        let file = cluster.home().join(format!("survey-{node}.json"));
        std::fs::write(&file, survey).expect("it is written");
        files.push(file.to_string_lossy().into_owned());
    }
    let surveys = files.join(",");
    let more = [&lost[..], &["--yes", "--surveys"]].concat();
    recover_on(&cluster, 3, &[&more[..], &[&files[1]]].concat()).await.failed(&["the same"]);
    for node in survivors {
        recover_on(&cluster, node, &[&more[..], &[&surveys]].concat()).await.ok();
    }
    // What it says there is no more what is here.
    recover_on(&cluster, 3, &[&more[..], &[&surveys]].concat()).await.failed(&["has run since"]);

    for node in survivors {
        cluster.restart(node);
    }
    cluster.settled(2).await;
    for topic in &topics {
        cluster.publish(4, topic, 1..2).await;
    }
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

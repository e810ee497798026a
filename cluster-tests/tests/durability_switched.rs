//! Set-up: a node, sixteen topics of one namespace, a publisher for each that never pauses.
//! Fault: the namespace goes into memory and back into the log, again and again, under load.
//! Claim: every message that was acknowledged as replicated is readable until the namespace goes into
//! memory by force; without force that is refused with the number of topics and messages.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pushonce_cluster_tests::{Cluster, secs, text, tool::pushonce, until, web};
use pushonce_core::{Durability, Position};
use tokio::task::JoinSet;

const TOPICS: usize = 16;

/// Messages of each topic that are acknowledged as replicated after each switch.
const ACKNOWLEDGED: usize = 15;

/// What was acknowledged last, by topic.
type Acknowledged = Arc<Mutex<Vec<Vec<(Position, Durability)>>>>;

#[tokio::test(flavor = "multi_thread")]
async fn replicated_messages_survive_every_switch_of_the_durability_but_a_forced_one() {
    let cluster = Cluster::of(1).start().await;
    // Nothing is stored yet, so nothing needs force.
    set(&cluster, &["memory"]).await.ok();
    let acknowledged = Acknowledged::new(Mutex::new(vec![Vec::new(); TOPICS]));
    let mut publishers = JoinSet::new();
    for nth in 0..TOPICS {
        let (publisher, acknowledged) = (cluster.publisher(0), acknowledged.clone());
        publishers.spawn(async move {
            loop {
                if let Ok(placed) = publisher.publish(text(&topic(nth), "x")).await {
                    let mut all = acknowledged.lock().expect("whole");
                    all[nth].push((placed.position, placed.durability));
                }
                // So that no topic gets more than its history keeps.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    for round in 0..3 {
        come(&acknowledged, Durability::Memory).await;
        // What the forced switch dropped is not asked for.
        take(&acknowledged, Durability::Memory);
        set(&cluster, &["replicated"]).await.ok();
        come(&acknowledged, Durability::Replicated).await;
        let stored = take(&acknowledged, Durability::Replicated);
        for (nth, stored) in stored.iter().enumerate() {
            let log = read(&cluster, &topic(nth)).await;
            let lost = stored.iter().find(|position| !log.contains(position));
            assert_eq!(lost, None, "round {round}: {} has only {log:?}", topic(nth));
        }
        let refused = set(&cluster, &["memory"]).await;
        refused.failed(&["stored messages of 16 topics", "--force"]);
        set(&cluster, &["memory", "--force"]).await.ok();
    }
    publishers.shutdown().await;
}

fn topic(nth: usize) -> String {
    format!("chat/{nth}")
}

async fn set(cluster: &Cluster, args: &[&str]) -> pushonce_cluster_tests::tool::Done {
    let server = format!("http://{}", cluster.node(0).ports.grpc);
    let command = ["namespace", "set", "chat", "--server", &server, "--durability"];
    pushonce([&command[..], args].concat(), "").await
}

/// Waits until each topic had some acknowledgements of this kind in a row.
async fn come(acknowledged: &Acknowledged, durability: Durability) {
    until("acknowledgements of the new durability", secs(60), async || {
        let all = acknowledged.lock().expect("whole");
        let newest = |all: &[(Position, Durability)]| {
            all.iter().rev().take_while(|(_, known)| *known == durability).count()
        };
        match all.iter().map(|all| newest(all)).min() {
            Some(count) if count >= ACKNOWLEDGED => Ok(()),
            count => Err(format!("{count:?}")),
        }
    })
    .await;
}

/// The positions acknowledged with this durability so far; forgets all of it.
fn take(acknowledged: &Acknowledged, durability: Durability) -> Vec<Vec<Position>> {
    let mut all = acknowledged.lock().expect("whole");
    let of_kind = |all: &mut Vec<(Position, Durability)>| {
        let kind = all.drain(..).filter(|(_, known)| *known == durability);
        kind.map(|(position, _)| position).collect()
    };
    all.iter_mut().map(of_kind).collect()
}

async fn read(cluster: &Cluster, topic: &str) -> Vec<Position> {
    let http = cluster.node(0).ports.http;
    until(&format!("{topic} is read"), secs(30), async || {
        let answer = web::get(http, &format!("/topics/{topic}?last=1000"), &[]).await?;
        if answer.status != 200 {
            return Err(answer.body);
        }
        let frames = answer.json().as_array().cloned().ok_or("no messages")?;
        let position =
            |frame: &serde_json::Value| frame["message"]["position"].as_str()?.parse().ok();
        frames.iter().map(position).collect::<Option<_>>().ok_or("no position".to_owned())
    })
    .await
}

//! Set-up: one node, sixteen topics of one namespace, and a publisher per topic that never pauses.
//! Fault: the namespace is switched to memory and back to replicated, repeatedly, under load.
//! Claim: every message acknowledged as replicated is readable until the namespace is switched to memory with
//! `--force`; without `--force` that is refused, with the numbers of topics and messages, or drops nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pushonce_cluster_tests::{
    ProcessCluster, cli::pushonce, http_client, secs, text_message, wait_until,
};
use pushonce_core::{Durability, Position};
use tokio::task::JoinSet;

const TOPICS: usize = 16;

/// Messages per topic that are acknowledged with the new durability after each switch.
const ACKNOWLEDGED_MIN: usize = 15;

/// The positions and durabilities acknowledged so far, per topic.
type AcknowledgedPositions = Arc<Mutex<Vec<Vec<(Position, Durability)>>>>;

#[tokio::test(flavor = "multi_thread")]
async fn replicated_messages_survive_every_durability_switch_but_a_forced_one() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    // No message is stored yet, so `--force` is not needed.
    set_durability(&cluster, &["memory"]).await.expect_success();
    let acknowledged = AcknowledgedPositions::new(Mutex::new(vec![Vec::new(); TOPICS]));
    let mut publishers = JoinSet::new();
    for index in 0..TOPICS {
        let (publisher, acknowledged) = (cluster.publisher(0), acknowledged.clone());
        publishers.spawn(async move {
            loop {
                if let Ok(acknowledgement) =
                    publisher.publish(text_message(&topic(index), "x")).await
                {
                    let mut all = acknowledged.lock().expect("no publisher panics");
                    all[index].push((acknowledgement.position, acknowledgement.durability));
                }
                // Keeps each topic below the limit of its history.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    for round in 0..3 {
        wait_acknowledged(&acknowledged, Durability::Memory).await;
        // Messages that the forced switch dropped are not checked.
        take_positions(&acknowledged, Durability::Memory);
        set_durability(&cluster, &["replicated"]).await.expect_success();
        // The first messages are being stored: this is refused, or the shards that store one stay on disk.
        set_durability(&cluster, &["memory"]).await;
        set_durability(&cluster, &["replicated"]).await.expect_success();
        wait_acknowledged(&acknowledged, Durability::Replicated).await;
        let stored = take_positions(&acknowledged, Durability::Replicated);
        for (nth, stored) in stored.iter().enumerate() {
            let what = format!("round {round}: {} has every replicated message", topic(nth));
            // A read shows a new epoch once the node has read it again from the log.
            wait_until(&what, secs(10), async || {
                let log = read_positions(&cluster, &topic(nth)).await?;
                match stored.iter().find(|position| !log.contains(position)) {
                    Some(lost) => Err(format!("{lost:?} is not in {log:?}")),
                    None => Ok(()),
                }
            })
            .await;
        }
        let output = set_durability(&cluster, &["memory"]).await;
        output.expect_failure(&["stored messages of 16 topics", "--force"]);
        set_durability(&cluster, &["memory", "--force"]).await.expect_success();
    }
    publishers.shutdown().await;
}

fn topic(index: usize) -> String {
    format!("chat/{index}")
}

async fn set_durability(
    cluster: &ProcessCluster,
    args: &[&str],
) -> pushonce_cluster_tests::cli::CommandOutput {
    let server = format!("http://{}", cluster.node(0).ports.grpc);
    let command = ["namespace", "set", "chat", "--server", &server, "--durability"];
    pushonce([&command[..], args].concat(), "").await
}

/// Waits until the newest acknowledgements of each topic have this durability.
async fn wait_acknowledged(acknowledged: &AcknowledgedPositions, durability: Durability) {
    wait_until("acknowledgements of the new durability", secs(60), async || {
        let all = acknowledged.lock().expect("no publisher panics");
        let newest = |all: &[(Position, Durability)]| {
            all.iter()
                .rev()
                .take_while(|(_, acknowledged_durability)| *acknowledged_durability == durability)
                .count()
        };
        match all.iter().map(|all| newest(all)).min() {
            Some(count) if count >= ACKNOWLEDGED_MIN => Ok(()),
            count => Err(format!("{count:?}")),
        }
    })
    .await;
}

/// Removes all recorded positions; returns those acknowledged with this durability.
fn take_positions(
    acknowledged: &AcknowledgedPositions,
    durability: Durability,
) -> Vec<Vec<Position>> {
    let mut all = acknowledged.lock().expect("no publisher panics");
    let take_matching = |all: &mut Vec<(Position, Durability)>| {
        let matching = all
            .drain(..)
            .filter(|(_, acknowledged_durability)| *acknowledged_durability == durability);
        matching.map(|(position, _)| position).collect()
    };
    all.iter_mut().map(take_matching).collect()
}

async fn read_positions(cluster: &ProcessCluster, topic: &str) -> Result<Vec<Position>, String> {
    let http = cluster.node(0).ports.http;
    let answer = http_client::get(http, &format!("/topics/{topic}?last=1000"), &[]).await?;
    if answer.status != 200 {
        return Err(answer.body);
    }
    let frames = answer.json().as_array().cloned().ok_or("no messages")?;
    let position = |frame: &serde_json::Value| frame["message"]["position"].as_str()?.parse().ok();
    frames.iter().map(position).collect::<Option<_>>().ok_or("no position".to_owned())
}

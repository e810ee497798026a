//! Set-up: one node with 64 shards; publishers that retry continuously, even before the node starts.
//! Fault: `kill -9` and an immediate restart, twice.
//! Claim: every message that is acknowledged, from the first moment of the first start and of each restart,
//! is readable: no node guesses the shard of a topic.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pushonce_cluster_tests::{
    Loopback, NodeEnvironment, Ports, ProcessCluster, http_client, secs, wait_until,
};
use tokio::task::JoinSet;

/// Enough topics for most of the shards.
const TOPICS: usize = 48;

/// The minimum number of acknowledged messages after each start.
const ACKNOWLEDGED_MIN: usize = 100;

/// The interval between two publishes of one publisher.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);

/// Topics and positions of acknowledged messages.
type AcknowledgedMessages = Arc<Mutex<Vec<(String, String)>>>;

#[tokio::test(flavor = "multi_thread")]
async fn messages_acknowledged_during_startup_are_readable() {
    let environment = Arc::new(Loopback::new());
    let http = Ports::for_ip(environment.address(0)).http;
    let acknowledged = AcknowledgedMessages::default();
    let mut publishers = JoinSet::new();
    for nth in 0..8 {
        publishers.spawn(publish_continuously(http, nth, acknowledged.clone()));
    }
    let cluster =
        ProcessCluster::with_nodes(1).flags(&["--shards", "64"]).in_environment(environment);
    let mut cluster = cluster.start().await;
    wait_more_acknowledged(&acknowledged).await;
    for _ in 0..2 {
        cluster.kill(0);
        cluster.restart(0);
        wait_more_acknowledged(&acknowledged).await;
    }
    publishers.shutdown().await;
    let acknowledged = acknowledged.lock().expect("no publisher panics").clone();
    for nth in 0..TOPICS {
        let topic = format!("start/{nth}");
        let log = read_positions(http, &topic).await;
        let mut of_topic = acknowledged.iter().filter(|(name, _)| *name == topic);
        let lost = of_topic.find(|(_, position)| !log.contains(position));
        assert_eq!(lost, None, "an acknowledged message is not in the log {log:?}");
    }
}

async fn publish_continuously(http: SocketAddr, first: usize, acknowledged: AcknowledgedMessages) {
    for nth in (0..TOPICS).cycle().skip(first * 6) {
        let topic = format!("start/{nth}");
        // If the node is down, or the topic has no owner yet, the next topic is tried.
        let answer = http_client::post(http, &format!("/topics/{topic}"), b"x").await;
        if let Ok(answer) = answer
            && answer.status == 200
            && let Some(position) = answer.json()["position"].as_str()
        {
            acknowledged.lock().expect("no publisher panics").push((topic, position.to_owned()));
        }
        // Keeps each topic below the limit of its history.
        tokio::time::sleep(PUBLISH_INTERVAL).await;
    }
}

async fn wait_more_acknowledged(acknowledged: &AcknowledgedMessages) {
    let count = || acknowledged.lock().expect("no publisher panics").len();
    let target = count() + ACKNOWLEDGED_MIN;
    wait_until("messages are acknowledged", secs(60), async || {
        let now = count();
        if now < target { Err(format!("{now} of {target}")) } else { Ok(()) }
    })
    .await;
}

async fn read_positions(http: SocketAddr, topic: &str) -> Vec<String> {
    wait_until(&format!("{topic} is read"), secs(30), async || {
        let answer = http_client::get(http, &format!("/topics/{topic}?last=1000"), &[]).await?;
        if answer.status != 200 {
            return Err(answer.body);
        }
        let messages = answer.json().as_array().cloned().ok_or("no messages")?;
        let position =
            |frame: &serde_json::Value| frame["message"]["position"].as_str().map(str::to_owned);
        messages.iter().map(position).collect::<Option<_>>().ok_or("no position".to_owned())
    })
    .await
}

//! Set-up: one node with 64 shards; publishers that ask all the time, also before there is a node.
//! Fault: `kill -9`, and a start in the same moment, twice.
//! Claim: every message that was acknowledged, from the first moment of the first start and of each
//! later one, is readable: no node guesses which shard a topic belongs to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pushonce_cluster_tests::{Cluster, Ground, Loopback, Ports, secs, until, web};
use tokio::task::JoinSet;

/// Enough to meet most of the shards.
const TOPICS: usize = 48;

/// Acknowledged messages that each start must have.
const ACKNOWLEDGED: usize = 100;

/// Between two publishes of one publisher.
const PACE: Duration = Duration::from_millis(20);

/// Topics and positions.
type Acknowledged = Arc<Mutex<Vec<(String, String)>>>;

#[tokio::test(flavor = "multi_thread")]
async fn every_message_acknowledged_from_the_first_moment_of_a_start_is_readable() {
    let ground = Arc::new(Loopback::new());
    let http = Ports::at(ground.address(0)).http;
    let acknowledged = Acknowledged::default();
    let mut publishers = JoinSet::new();
    for nth in 0..8 {
        publishers.spawn(publish(http, nth, acknowledged.clone()));
    }
    let cluster = Cluster::of(1).flags(&["--shards", "64"]).on(ground);
    let mut cluster = cluster.start().await;
    more(&acknowledged).await;
    for _ in 0..2 {
        cluster.kill(0);
        cluster.restart(0);
        more(&acknowledged).await;
    }
    publishers.shutdown().await;
    let acknowledged = acknowledged.lock().expect("whole").clone();
    for nth in 0..TOPICS {
        let topic = format!("start/{nth}");
        let log = read(http, &topic).await;
        let mut mine = acknowledged.iter().filter(|(name, _)| *name == topic);
        let lost = mine.find(|(_, position)| !log.contains(position));
        assert_eq!(lost, None, "it was acknowledged, and the log is {log:?}");
    }
}

async fn publish(http: SocketAddr, first: usize, acknowledged: Acknowledged) {
    for nth in (0..TOPICS).cycle().skip(first * 6) {
        let topic = format!("start/{nth}");
        // A node that is not there, or has no owner for it yet, is asked again with the next topic.
        let answer = web::post(http, &format!("/topics/{topic}"), b"x").await;
        if let Ok(answer) = answer.as_ref().map(web::Answer::json)
            && let Some(position) = answer["position"].as_str()
        {
            acknowledged.lock().expect("whole").push((topic, position.to_owned()));
        }
        // So that no topic gets more than its history keeps.
        tokio::time::sleep(PACE).await;
    }
}

async fn more(acknowledged: &Acknowledged) {
    let count = || acknowledged.lock().expect("whole").len();
    let wanted = count() + ACKNOWLEDGED;
    until("messages are acknowledged", secs(60), async || {
        let now = count();
        if now < wanted { Err(format!("{now} of {wanted}")) } else { Ok(()) }
    })
    .await;
}

async fn read(http: SocketAddr, topic: &str) -> Vec<String> {
    until(&format!("{topic} is read"), secs(30), async || {
        let answer = web::get(http, &format!("/topics/{topic}?last=1000"), &[]).await?;
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
